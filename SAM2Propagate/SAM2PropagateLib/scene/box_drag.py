"""Drawing a box with one drag of the mouse, in whichever slice view the user starts.

Slicer's own place mode wants two clicks for a region of interest, and takes a drag for one click.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.prompts.place import box_around
from SAM2PropagateLib.prompts.resolve import place_box
from SAM2PropagateLib.scene.markups import PromptMarkups, removeNode
from SAM2PropagateLib.scene.prompt_nodes import setBox
from SAM2PropagateLib.scene.view_drag import Drag, ViewDrag, Xy, hasModifier, planeNormal, viewMatrix

# Pixels; a shorter drag is a slip of the hand.
_SHORTEST = 4


class BoxDrag:
    """While it is on, dragging with the left button in one of its views draws a box for a segment.

    A drag with a modifier key stays Slicer's, and one that begins on a prompt drags that prompt. The right
    button and Escape take a drag back.

    The box lies on the frame under the mouse, along the volume axis nearest to the view's normal, and grows
    as the mouse moves. After one box the tool is off again. The end of the drag reaches a `PromptWatcher`
    like any other.

    Args:
        markups: where boxes go.
        onEnd: called when the tool goes off: with the new ROI node, or None when there is no box (`stop`, a
            slip of the hand, or a drag outside the volume).
        isDown: whether the left button is down, as far as that can be told.
    """

    def __init__(
        self,
        markups: PromptMarkups,
        onEnd: Callable[[Any], None] | None = None,
        isDown: Callable[[], bool] = lambda: True,
    ) -> None:
        self._markups = markups
        self._onEnd = onEnd
        self._segmentID = ""
        self._mouse = ViewDrag(self._begin, isDown)

    def addView(self, interactor: Any, sliceNode: Any) -> None:
        """Makes a slice view one of those in which boxes can be drawn; see `ViewDrag.addView`."""
        self._mouse.addView(interactor, sliceNode)

    @property
    def isOn(self) -> bool:
        """Whether the next drag draws a box."""
        return self._mouse.isOn

    def start(self, segmentID: str) -> None:
        """Lets the user draw one box for this segment."""
        self.stop()
        self._segmentID = segmentID
        self._mouse.start()

    def stop(self) -> None:
        """Switches the tool off; a box that is being drawn is dropped."""
        if self.isOn:
            self._end(None)

    def cancel(self) -> bool:
        """Drops the box that is being drawn, and goes on; whether there was one."""
        return self._mouse.cancel()

    def _end(self, roiNode: Any) -> None:
        self._mouse.stop()
        if self._onEnd is not None:
            self._onEnd(roiNode)

    def _begin(self, interactor: Any, sliceNode: Any, xy: Xy) -> Drag | None:
        if hasModifier(interactor) or self._markups.isUnderMouse():
            return None
        return _DraggedBox(self._markups, self._segmentID, sliceNode, xy, self._end)


class _DraggedBox:
    """A box that is being drawn."""

    def __init__(
        self,
        markups: PromptMarkups,
        segmentID: str,
        sliceNode: Any,
        start: Xy,
        onEnd: Callable[[Any], None],
    ) -> None:
        self._markups = markups
        self._segmentID = segmentID
        self._sliceNode = sliceNode
        self._start = start
        self._onEnd = onEnd
        self._roiNode: Any = None

    def move(self, xy: Xy) -> None:
        self._draw(xy)

    def end(self, xy: Xy) -> None:
        if not self._draw(xy):
            self.cancel()
            self._onEnd(None)
            return
        self._onEnd(self._roiNode)
        self._roiNode.InvokeEvent(self._roiNode.PointEndInteractionEvent)

    def cancel(self) -> None:
        if self._roiNode is not None:
            with self._markups.unwatched():
                removeNode(self._roiNode)

    def _draw(self, end: Xy) -> bool:
        """Shows the box from the start of the drag to `end`; False when there is none to show."""
        start = self._start
        if min(abs(end[0] - start[0]), abs(end[1] - start[1])) < _SHORTEST:
            return False
        toRas = viewMatrix(self._sliceNode)
        corners = [toRas @ (x, y, 0.0, 1.0) for x in (start[0], end[0]) for y in (start[1], end[1])]
        geometry = self._markups.geometry
        axis = self._markups.worldGeometry.axis_nearest(planeNormal(toRas))
        try:
            box = box_around(self._markups.fromWorld(np.array(corners)[:, :3]), geometry, axis)
            frame, pixels = place_box(box, geometry, axis)
        except InputError:  # beside the volume, or less than a pixel of it
            return False
        with self._markups.unwatched():  # the box is told of when it is finished
            if self._roiNode is None:
                self._roiNode = self._markups.beginBox(self._segmentID, axis)
            setBox(self._roiNode, geometry, axis, frame, pixels)
        return True
