"""The view tests that ship for running inside Slicer, in offscreen slice views."""

from __future__ import annotations

import pytest

import SAM2PropagateViewTest
from Testing.headless.desk import HeadlessDesk


class _Headless:
    @pytest.fixture(autouse=True)
    def _desk(self, headless):
        """The fixture fails the test if VTK or MRML reported an error meanwhile."""
        self.makeDesk = lambda: HeadlessDesk(headless)


class TestPrompts(_Headless, SAM2PropagateViewTest.SAM2PropagatePromptViewTest):
    pass


class TestTools(_Headless, SAM2PropagateViewTest.SAM2PropagateToolViewTest):
    pass


class TestMasks(_Headless, SAM2PropagateViewTest.SAM2PropagateMaskViewTest):
    pass
