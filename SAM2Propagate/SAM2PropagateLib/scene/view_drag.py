"""Drags with the left button in the slice views: begun, followed, ended or taken back, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from SAM2PropagateLib.frames.geometry import FloatArray

# Above the priority of Slicer's interactor styles, which would otherwise change window and level, and of the
# module's clicks.
_PRIORITY = 10.0
_ESCAPE = "ESCAPE"
# Events that would scroll the slice away under the mouse while something is drawn on it.
_SCROLLING = ("MouseWheelForwardEvent", "MouseWheelBackwardEvent")

Xy = tuple[int, int]


class Drag(Protocol):
    """What happens between the press and the release of the left button, at places in pixels of the view."""

    def move(self, xy: Xy) -> None:
        """The mouse is here now."""

    def end(self, xy: Xy) -> None:
        """The button was released here."""

    def cancel(self) -> None:
        """Takes everything back."""


class ViewDrag:
    """While it is on, presses in its views may begin a drag; nobody else gets the events of that.

    The right button and Escape take it back, and so does whatever moves the slice under the mouse, or a
    release that nobody saw, as when another program or dialog took the mouse.

    Args:
        begin: what a press begins: of interactor, vtkMRMLSliceNode and place; None: the press is not ours.
        isDown: whether the left button is down, as far as that can be told.
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
        """Makes a slice view one of those in which drags begin; before `start`.

        Args:
            interactor: its vtkRenderWindowInteractor; in Slicer `sliceWidget.sliceView().interactor()`.
            sliceNode: its vtkMRMLSliceNode.
        """
        self._views.append((interactor, sliceNode))

    @property
    def isOn(self) -> bool:
        """Whether presses are listened to."""
        return bool(self._tags)

    @property
    def isDragging(self) -> bool:
        """Whether a drag is under way."""
        return self._drag is not None

    def start(self) -> None:
        """Begins to listen."""
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
        """Listens no longer; a drag that is under way is taken back."""
        self.cancel()
        for interactor, tag in self._tags:
            interactor.RemoveObserver(tag)
        self._tags.clear()
        self._isRightOurs = False

    def cancel(self) -> bool:
        """Takes back the drag that is under way; whether there was one."""
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
        """Tells whether the view shows something else than where the drag began."""
        return not np.allclose(viewMatrix(self._sliceNode), self._toRas, rtol=0, atol=1e-6)

    def _pressRight(self, _interactor: Any) -> bool:
        self._isRightOurs = self.cancel()
        return self._isRightOurs

    def _releaseRight(self, _interactor: Any) -> bool:
        # Slicer opens its menu at the release.
        isOurs, self._isRightOurs = self._isRightOurs, False
        return isOurs

    def _key(self, interactor: Any) -> bool:
        if str(interactor.GetKeySym() or "").upper() == _ESCAPE:
            self.cancel()
        return False  # it puts the tool away, too


def hasModifier(interactor: Any) -> bool:
    """Tells whether a key is held with which the mouse is Slicer's: Shift, Ctrl or Alt."""
    return bool(interactor.GetControlKey() or interactor.GetShiftKey() or interactor.GetAltKey())


def viewMatrix(sliceNode: Any) -> FloatArray:
    """(4, 4) from pixels of a slice view to the world, mm."""
    return np.array(sliceNode.GetXYToRAS().GetData(), dtype=np.float64).reshape(4, 4)


def planeNormal(toRas: FloatArray) -> FloatArray:
    """(3,) normal of a view's plane, from its `viewMatrix`."""
    return np.cross(toRas[:3, 0], toRas[:3, 1])
