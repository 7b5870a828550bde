"""Handles drags with the left button in the slice views, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from SAM2PropagateLib.frames.geometry import FloatArray

# Above the priority of Slicer's interactor styles, which change window and level, and of the module's clicks.
_PRIORITY = 10.0
_ESCAPE = "ESCAPE"
# Events that would change the slice during a drag.
_SCROLLING = ("MouseWheelForwardEvent", "MouseWheelBackwardEvent")

Xy = tuple[int, int]


class Drag(Protocol):
    """A drag from the press to the release of the left button; places are in pixels of the view."""

    def move(self, xy: Xy) -> None:
        """Handles a move of the mouse to a place."""

    def end(self, xy: Xy) -> None:
        """Handles the release of the button at a place."""

    def cancel(self) -> None:
        """Takes everything back."""


class ViewDrag:
    """Lets presses in its views begin drags while it is on; others do not get the events of a drag.

    The right button and Escape take a drag back. So does anything that changes the slice under the mouse, or
    a missed release, for example because another program or dialog took the mouse.

    Args:
        begin: returns the drag that a press begins, from interactor, vtkMRMLSliceNode and place; None leaves
            the press to others.
        isDown: tells whether the left button is down, as far as that is known.
    """

    def __init__(
        self,
        begin: Callable[[Any, Any, Xy], Drag | None],
        isDown: Callable[[], bool] = lambda: True,
    ) -> None:
        self._begin = begin
        self._isDown = isDown
        self._views: list[tuple[Any, Any]] = []
        self._tags: list[tuple[Any, int]] = []
        self._drag: Drag | None = None
        self._interactor: Any = None
        self._sliceNode: Any = None
        self._toRas: FloatArray = np.eye(4)
        self._isRightOurs = False

    def addView(self, interactor: Any, sliceNode: Any) -> None:
        """Adds a slice view in which drags can begin; call it before `start`.

        Args:
            interactor: its vtkRenderWindowInteractor; in Slicer `sliceWidget.sliceView().interactor()`.
            sliceNode: its vtkMRMLSliceNode.
        """
        self._views.append((interactor, sliceNode))

    @property
    def isOn(self) -> bool:
        """Whether presses can begin drags."""
        return bool(self._tags)

    @property
    def isDragging(self) -> bool:
        """Whether a drag is under way."""
        return self._drag is not None

    def start(self) -> None:
        """Starts observing the views."""
        if self.isOn:
            return
        for interactor, _ in self._views:
            # A second press that follows fast comes as a double click.
            for event in ("LeftButtonPressEvent", "LeftButtonDoubleClickEvent"):
                self._observe(interactor, event, self._press)
            self._observe(interactor, "MouseMoveEvent", self._move)
            self._observe(interactor, "LeftButtonReleaseEvent", self._release)
            self._observe(interactor, "RightButtonPressEvent", self._pressRight)
            self._observe(interactor, "RightButtonReleaseEvent", self._releaseRight)
            self._observe(interactor, "KeyPressEvent", self._key)
            for event in _SCROLLING:
                self._observe(interactor, event, lambda _interactor: self.isDragging)

    def stop(self) -> None:
        """Stops observing the views, and takes back a drag that is under way."""
        self.cancel()
        for interactor, tag in self._tags:
            interactor.RemoveObserver(tag)
        self._tags.clear()
        self._isRightOurs = False

    def cancel(self) -> bool:
        """Takes back the drag that is under way; returns whether there was one."""
        drag, self._drag = self._drag, None
        self._interactor = self._sliceNode = None
        if drag is not None:
            drag.cancel()
        return drag is not None

    def _observe(self, interactor: Any, event: str, handle: Callable[[Any], bool]) -> None:
        def observer(caller: Any, _event: str) -> None:
            command = caller.GetCommand(tag)
            if handle(caller):
                command.AbortFlagOn()  # nobody else gets the event

        tag = interactor.AddObserver(event, observer, _PRIORITY)
        self._tags.append((interactor, tag))

    def _press(self, interactor: Any) -> bool:
        self.cancel()  # its release was missed
        sliceNode = next(node for view, node in self._views if view is interactor)
        drag = self._begin(interactor, sliceNode, interactor.GetEventPosition())
        if drag is None:
            return False
        self._drag, self._interactor, self._sliceNode = drag, interactor, sliceNode
        self._toRas = viewMatrix(sliceNode)
        return True

    def _move(self, interactor: Any) -> bool:
        if self._drag is None or interactor is not self._interactor:
            return False
        if not self._isDown() or self._isElsewhere():
            self.cancel()
            return False
        self._drag.move(interactor.GetEventPosition())
        return True

    def _release(self, interactor: Any) -> bool:
        if self._drag is None or interactor is not self._interactor:
            return False
        if self._isElsewhere():
            self.cancel()
            return True
        drag, self._drag = self._drag, None
        self._interactor = self._sliceNode = None
        drag.end(interactor.GetEventPosition())
        return True

    def _isElsewhere(self) -> bool:
        """Tells whether the view has changed since the drag began."""
        return not np.allclose(viewMatrix(self._sliceNode), self._toRas, rtol=0, atol=1e-6)

    def _pressRight(self, _interactor: Any) -> bool:
        self._isRightOurs = self.cancel()
        return self._isRightOurs

    def _releaseRight(self, _interactor: Any) -> bool:
        # Slicer would open its menu at the release.
        isOurs, self._isRightOurs = self._isRightOurs, False
        return isOurs

    def _key(self, interactor: Any) -> bool:
        if str(interactor.GetKeySym() or "").upper() == _ESCAPE:
            self.cancel()
        return False  # others get Escape, too, which switches the tool off


def hasModifier(interactor: Any) -> bool:
    """Tells whether Shift, Ctrl or Alt is held, which leave the mouse to Slicer."""
    return bool(interactor.GetControlKey() or interactor.GetShiftKey() or interactor.GetAltKey())


def viewMatrix(sliceNode: Any) -> FloatArray:
    """Returns the matrix from pixels of a slice view to the world in mm, (4, 4)."""
    return np.array(sliceNode.GetXYToRAS().GetData(), dtype=np.float64).reshape(4, 4)


def planeNormal(toRas: FloatArray) -> FloatArray:
    """Returns the normal of a view's plane, (3,), from its `viewMatrix`."""
    return np.cross(toRas[:3, 0], toRas[:3, 1])
