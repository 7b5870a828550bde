"""The flow tests that ship for running inside Slicer, with the real worker and the bundled model.

In the longer one the worker is forked, in the other one it is started as it is for users.
"""

from __future__ import annotations

import pytest

import SAM2PropagateFlowTest
from Headless.desk import HeadlessDesk
from Testing.worker.helpers import forked_session


class TestFlow(SAM2PropagateFlowTest.SAM2PropagateFlowTest):
    @pytest.fixture(autouse=True)
    def _desk(self, headless, request):
        """The fixture fails the test if VTK or MRML reported an error meanwhile."""
        is_long = request.node.name == "test_fromTheFirstClickToTheNextDay"
        self.makeDesk = lambda: HeadlessDesk(headless, makeSession=forked_session if is_long else None)
