"""Drawing a box with one drag of the mouse, in whichever slice view the user starts.

Slicer's own place mode wants two clicks for a region of interest, and takes a drag for one click.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import FloatArray
from SAM2PropagateLib.prompts.place import box_around
from SAM2PropagateLib.prompts.resolve import place_box
from SAM2PropagateLib.scene.markups import PromptMarkups, removeNode
from SAM2PropagateLib.scene.prompt_nodes import setBox

# Above the priority of Slicer's interactor styles, which would otherwise change window and level.
_PRIORITY = 10.0
# Pixels; a shorter drag is a slip of the hand.
_SHORTEST = 4

Xy = tuple[int, int]


@dataclass
class _Drag:
    interactor: Any
    sliceNode: Any
    start: Xy
    roiNode: Any = None


class BoxDrag:
    """While it is on, dragging with the left button in one of its views draws a box for a segment.

    A drag with a modifier key stays Slicer's, and one that begins on a prompt drags that prompt.

    The box lies on the frame under the mouse, along the volume axis nearest to the view's normal, and grows
    as the mouse moves. After one box the tool is off again. The end of the drag reaches a `PromptWatcher`
    like any other.

    Args:
        markups: where boxes go.
        onEnd: called when the tool goes off: with the new ROI node, or None when there is no box (`stop`, a
            slip of the hand, or a drag outside the volume).
    """

    def __init__(self, markups: PromptMarkups, onEnd: Callable[[Any], None] | None = None) -> None:
        self._markups = markups
        self._onEnd = onEnd
        self._views: list[tuple[Any, Any]] = []
        self._tags: list[tuple[Any, int]] = []
        self._segmentID = ""
        self._drag: _Drag | None = None

    def addView(self, interactor: Any, sliceNode: Any) -> None:
        """Makes a slice view one of those in which boxes can be drawn.

        Args:
            interactor: its vtkRenderWindowInteractor; in Slicer `sliceWidget.sliceView().interactor()`.
            sliceNode: its vtkMRMLSliceNode.
        """
        self._views.append((interactor, sliceNode))

    @property
    def isOn(self) -> bool:
        """Whether the next drag draws a box."""
        return bool(self._tags)

    def start(self, segmentID: str) -> None:
        """Lets the user draw one box for this segment."""
        self.stop()
        self._segmentID = segmentID
        for interactor, _ in self._views:
            # A second press that follows fast comes as a double click.
            for event in ("LeftButtonPressEvent", "LeftButtonDoubleClickEvent"):
                self._observe(interactor, event, self._press)
            self._observe(interactor, "MouseMoveEvent", self._move)
            self._observe(interactor, "LeftButtonReleaseEvent", self._release)

    def stop(self) -> None:
        """Switches the tool off; a box that is being drawn is dropped."""
        if self.isOn:
            drag, self._drag = self._drag, None
            self._drop(drag)
            self._end(None)

    def _observe(self, interactor: Any, event: str, handle: Callable[[Any], bool]) -> None:
        def observer(caller: Any, _event: str) -> None:
            command = caller.GetCommand(tag)
            if handle(caller):
                command.AbortFlagOn()  # nobody else gets the event

        tag = interactor.AddObserver(event, observer, _PRIORITY)
        self._tags.append((interactor, tag))

    def _end(self, roiNode: Any) -> None:
        for interactor, tag in self._tags:
            interactor.RemoveObserver(tag)
        self._tags.clear()
        if self._onEnd is not None:
            self._onEnd(roiNode)

    def _press(self, interactor: Any) -> bool:
        if hasModifier(interactor) or self._markups.isUnderMouse():
            return False
        sliceNode = next(node for view, node in self._views if view is interactor)
        self._drag = _Drag(interactor, sliceNode, interactor.GetEventPosition())
        return True

    def _move(self, interactor: Any) -> bool:
        if self._drag is None or self._drag.interactor is not interactor:
            return False
        self._draw(self._drag, interactor.GetEventPosition())
        return True

    def _release(self, interactor: Any) -> bool:
        if self._drag is None or self._drag.interactor is not interactor:
            return False
        drag, self._drag = self._drag, None
        drawn = self._draw(drag, interactor.GetEventPosition())
        if not drawn:
            self._drop(drag)
        self._end(drag.roiNode if drawn else None)
        if drawn:
            drag.roiNode.InvokeEvent(drag.roiNode.PointEndInteractionEvent)
        return True

    def _drop(self, drag: _Drag | None) -> None:
        if drag is not None and drag.roiNode is not None:
            with self._markups.unwatched():
                removeNode(drag.roiNode)

    def _draw(self, drag: _Drag, end: Xy) -> bool:
        """Shows the box from the start of the drag to `end`; False when there is none to show."""
        if min(abs(end[0] - drag.start[0]), abs(end[1] - drag.start[1])) < _SHORTEST:
            return False
        toRas = np.array(drag.sliceNode.GetXYToRAS().GetData()).reshape(4, 4)
        corners = [toRas @ (x, y, 0.0, 1.0) for x in (drag.start[0], end[0]) for y in (drag.start[1], end[1])]
        geometry = self._markups.geometry
        axis = self._markups.worldGeometry.axis_nearest(_normal(toRas))
        try:
            box = box_around(self._markups.fromWorld(np.array(corners)[:, :3]), geometry, axis)
            frame, pixels = place_box(box, geometry, axis)
        except InputError:  # beside the volume, or less than a pixel of it
            return False
        with self._markups.unwatched():  # the box is told of when it is finished
            if drag.roiNode is None:
                drag.roiNode = self._markups.beginBox(self._segmentID, axis)
            setBox(drag.roiNode, geometry, axis, frame, pixels)
        return True


def hasModifier(interactor: Any) -> bool:
    """Whether a key is held with which the mouse is Slicer's: Shift, Ctrl or Alt."""
    return bool(interactor.GetControlKey() or interactor.GetShiftKey() or interactor.GetAltKey())


def _normal(toRas: FloatArray) -> FloatArray:
    return np.cross(toRas[:3, 0], toRas[:3, 1])
