"""The view tests that ship for running inside Slicer, in offscreen slice views."""

from __future__ import annotations

import zlib

import pytest

import SAM2PropagateStrokeTest
import SAM2PropagateViewTest
from Headless.desk import HeadlessDesk

# Of views in Slicer's main window: nobody knows which one a test gets.
SIZES = ((420, 400), (318, 327), (640, 300), (230, 420))


class _Headless:
    @pytest.fixture(autouse=True)
    def _desk(self, headless, request):
        """The fixture fails the test if VTK or MRML reported an error meanwhile."""
        size = SIZES[zlib.crc32(request.node.name.encode()) % len(SIZES)]
        self.makeDesk = lambda: HeadlessDesk(headless, size)


class TestPrompts(_Headless, SAM2PropagateViewTest.SAM2PropagatePromptViewTest):
    pass


class TestTools(_Headless, SAM2PropagateViewTest.SAM2PropagateToolViewTest):
    pass


class TestMasks(_Headless, SAM2PropagateViewTest.SAM2PropagateMaskViewTest):
    pass


class TestStrokes(_Headless, SAM2PropagateStrokeTest.SAM2PropagateStrokeViewTest):
    pass
