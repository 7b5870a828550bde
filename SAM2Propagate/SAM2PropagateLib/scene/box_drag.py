"""Draws a box with one drag of the mouse, in any slice view.

Slicer's own place mode needs two clicks for a region of interest, and takes a drag for one click.
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

# Pixels; a shorter drag is a mistake.
_SHORTEST = 4


class BoxDrag:
    """The tool for boxes: while it is on, a drag with the left button in one of its views draws a box.

    A drag with a modifier key is left to Slicer, and one that begins on a prompt drags that prompt. The right
    button and Escape take a drag back.

    The box lies on the frame under the mouse, along the volume axis nearest to the view's normal, and grows
    as the mouse moves. After one box the tool is off again. A `PromptWatcher` notices the end of the drag.

    Args:
        markups: gets the boxes.
        onEnd: called when the tool goes off: with the new ROI node, or None without a box (after `stop`, a
            drag that is too short, or one outside the volume).
        isDown: tells whether the left button is down, as far as that is known.
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
        """Adds a slice view in which boxes can be drawn; see `ViewDrag.addView`."""
        self._mouse.addView(interactor, sliceNode)

    @property
    def isOn(self) -> bool:
        """Whether the next drag draws a box."""
        return self._mouse.isOn

    def start(self, segmentID: str) -> None:
        """Switches the tool on for one box for this segment."""
        self.stop()
        self._segmentID = segmentID
        self._mouse.start()

    def stop(self) -> None:
        """Switches the tool off; a box that is being drawn is dropped."""
        if self.isOn:
            self._end(None)

    def cancel(self) -> bool:
        """Drops the box that is being drawn, and stays on; returns whether there was one."""
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
        """Shows the box from the start of the drag to `end`; False if there is no box."""
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
        except InputError:  # outside the volume, or smaller than a pixel
            return False
        with self._markups.unwatched():  # watchers hear of the box when it is finished
            if self._roiNode is None:
                self._roiNode = self._markups.beginBox(self._segmentID, axis)
            setBox(self._roiNode, geometry, axis, frame, pixels)
        return True
