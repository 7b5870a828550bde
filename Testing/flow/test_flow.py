"""The flow tests that ship for running inside Slicer, with the real worker and the bundled model.

Here the worker is forked, and has a small input.
"""

from __future__ import annotations

import pytest

import SAM2PropagateFlowTest
from Headless.desk import HeadlessDesk
from Testing.worker.helpers import small_session


class TestFlow(SAM2PropagateFlowTest.SAM2PropagateFlowTest):
    @pytest.fixture(autouse=True)
    def _desk(self, headless):
        """The fixture fails the test if VTK or MRML reported an error meanwhile."""
        self.makeDesk = lambda: HeadlessDesk(headless, makeSession=small_session)
