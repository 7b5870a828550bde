"""A slice view under the hands and eyes of a user, in Slicer's main window or offscreen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import slicer
import vtk

Xy = tuple[float, float]
# How a plane with its normal along R, A or S is looked at: what is to the right, and what is up.
_PLANES = (((0, -1, 0), (0, 0, 1)), ((-1, 0, 0), (0, 0, 1)), ((-1, 0, 0), (0, 1, 0)))
_DELETE = "Delete"
# How much more than the volume a view shows.
_ROOM = 1.15


class Surface(Protocol):
    """One slice view, as far as it differs with and without Slicer's main window."""

    @property
    def node(self) -> Any:
        """Its vtkMRMLSliceNode."""

    @property
    def logic(self) -> Any:
        """Its vtkMRMLSliceLogic."""

    @property
    def interactor(self) -> Any:
        """Its vtkRenderWindowInteractor."""

    def settle(self) -> None:
        """Waits until it has the size that the layout gives it."""

    def screenshot(self) -> np.ndarray:
        """Returns its pixels, drawn now: (height, width, 3) uint8 RGB, top row first."""

    def redrawRequests(self, action: Callable[[], object]) -> int:
        """Returns how often the action asked for a redraw of it, or drew it."""


class View:
    """What a user does in a slice view, and sees. Places (`xy`) are pixels from the lower left corner."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        self.settle = surface.settle
        self.screenshot = surface.screenshot
        self.redrawRequests = surface.redrawRequests

    @property
    def node(self) -> Any:
        return self._surface.node

    @property
    def interactor(self) -> Any:
        return self._surface.interactor

    # --- what is shown

    def show(self, volumeNode: Any) -> None:
        """Shows a volume in the background, fitted to the view, on one of its slices."""
        self._surface.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volumeNode.GetID())
        self.fit()

    def fit(self) -> None:
        """Fits the field of view to the volume and snaps the offset to a slice of it."""
        self._surface.logic.FitSliceToAll()
        # With room around the volume, whatever the view's shape is.
        field = self.node.GetFieldOfView()
        self.node.SetFieldOfView(field[0] * _ROOM, field[1] * _ROOM, field[2])
        self._surface.logic.SnapSliceOffsetToIJK()

    def setOrientation(self, orientation: str) -> None:
        """Turns the view to "Axial", "Sagittal", "Coronal", or "oblique": axial, tilted by 20 degrees."""
        if orientation != "oblique":
            self.node.SetOrientation(orientation)
            return
        self.node.SetOrientation("Axial")
        matrix = np.array(self.node.GetSliceToRAS().GetData()).reshape(4, 4)
        angle = np.deg2rad(20)
        normal = matrix[:3, 2] * np.cos(angle) + matrix[:3, 1] * np.sin(angle)
        self.node.SetSliceToRASByNTP(*normal, *matrix[:3, 0], *matrix[:3, 3], 0)

    def alignToAxes(self, ijkToRas: np.ndarray, axis: int) -> None:
        """Turns the view to the slices of a volume along its own axis (0=i, 1=j, 2=k), and fits it."""
        turnToAxes(self.node, ijkToRas, axis)
        self.fit()

    def jumpTo(self, ras: Any) -> None:
        """Moves the view's plane through a world point, keeping its orientation."""
        self.node.JumpSliceByOffsetting(*(float(value) for value in ras))

    # --- places

    def at(self, across: float, up: float) -> Xy:
        """Returns a place by its fractions of the view's width and height."""
        width, height = self.node.GetDimensions()[:2]
        return round(across * width), round(up * height)

    def pixels(self, millimeters: float) -> float:
        """Returns a length in the view."""
        return millimeters * float(self.node.GetDimensions()[0] / self.node.GetFieldOfView()[0])

    def around(self, xy: Xy, across: float, up: float) -> tuple[Xy, Xy]:
        """Opposite corners of a box around a place, so many millimeters to each side of it."""
        x, y = self.pixels(across), self.pixels(up)
        return (xy[0] - x, xy[1] - y), (xy[0] + x, xy[1] + y)

    def rasToXy(self, ras: Any) -> Xy:
        """Returns the place of a world point (projected onto the plane)."""
        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node.GetXYToRAS(), inverse)
        x, y = inverse.MultiplyPoint([*(float(value) for value in ras), 1.0])[:2]
        return x, y

    # --- what the user does

    def event(
        self, name: str, xy: Xy, *, ctrl: bool = False, shift: bool = False, code: str = "", key: str = ""
    ) -> None:
        """Sends one VTK event, e.g. "LeftButtonPressEvent", to the view's interactor."""
        x, y = _wholePixel(xy)
        self.interactor.SetEventInformation(x, y, int(ctrl), int(shift), code or "\0", 0, key)
        self.interactor.SetAltKey(0)
        self.interactor.InvokeEvent(name)

    def move(self, xy: Xy, **modifiers: Any) -> None:
        """Moves the mouse there."""
        self.event("MouseMoveEvent", xy, **modifiers)

    def click(self, xy: Xy, **modifiers: Any) -> None:
        """Clicks with the left button."""
        self.move(xy, **modifiers)
        self.event("LeftButtonPressEvent", xy, **modifiers)
        self.event("LeftButtonReleaseEvent", xy, **modifiers)

    def drag(self, start: Xy, end: Xy, steps: int = 8, **modifiers: Any) -> None:
        """Drags with the left button held, in `steps` mouse moves."""
        self.move(start, **modifiers)
        self.event("LeftButtonPressEvent", start, **modifiers)
        for step in range(1, steps + 1):
            part = step / steps
            self.move(
                (start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part), **modifiers
            )
        self.event("LeftButtonReleaseEvent", end, **modifiers)

    def wheel(self, xy: Xy, steps: int) -> None:
        """Scrolls by `steps` slices; negative scrolls back."""
        name = "MouseWheelForwardEvent" if steps > 0 else "MouseWheelBackwardEvent"
        for _ in range(abs(steps)):
            self.event(name, xy)

    def key(self, key: str, xy: Xy, **modifiers: Any) -> None:
        """Presses a key with the mouse there, and lets it go."""
        self.move(xy)
        self.tap(key, xy, **modifiers)

    def tap(self, key: str, xy: Xy, **modifiers: Any) -> None:
        """Presses a key, wherever the mouse is, and lets it go."""
        code = chr(127) if key == _DELETE else key if len(key) == 1 else ""
        for event in ("KeyPressEvent", "KeyReleaseEvent"):
            self.event(event, xy, key=key, code=code, **modifiers)

    def startPlacing(self, markupsNode: Any) -> None:
        """Puts the mouse into Slicer's own place mode for a markups node."""
        logic = slicer.app.applicationLogic()
        selection, interaction = logic.GetSelectionNode(), logic.GetInteractionNode()
        selection.SetReferenceActivePlaceNodeClassName(markupsNode.GetClassName())
        selection.SetActivePlaceNodeID(markupsNode.GetID())
        interaction.SetPlaceModePersistence(0)
        interaction.SetCurrentInteractionMode(interaction.Place)

    def stopPlacing(self) -> None:
        """Puts the mouse back into its normal mode."""
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)

    def startWindowing(self) -> None:
        """Puts the mouse into the mode in which dragging changes window and level."""
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        interaction.SetCurrentInteractionMode(interaction.AdjustWindowLevel)

    # --- what the user sees

    def pixel(self, image: np.ndarray, xy: Xy) -> np.ndarray:
        """Returns the RGB value of a screenshot at a place."""
        x, y = _wholePixel(xy)
        return image[image.shape[0] - 1 - y, x]


def turnToAxes(sliceNode: Any, ijkToRas: np.ndarray, axis: int) -> None:
    """Turns a view to the slices of a volume along its own axis (0=i, 1=j, 2=k).

    The picture is turned and flipped to look as much as possible as the nearest anatomical plane does.

    Args:
        ijkToRas: the volume's 4x4 IJK to world RAS matrix.
        axis: the view's normal.
    """
    a, b = (ijkToRas[:3, n] / np.linalg.norm(ijkToRas[:3, n]) for n in range(3) if n != axis)
    normal = np.cross(a, b) / np.linalg.norm(np.cross(a, b))
    rightwards, upwards = _PLANES[int(np.abs(normal).argmax())]
    across = max((a, b, -a, -b), key=lambda direction: float(direction @ rightwards))
    if np.cross(normal, across) @ upwards < 0:
        normal = -normal
    sliceNode.SetSliceToRASByNTP(*normal, *across, *ijkToRas[:3, 3], 0)


def _wholePixel(xy: Xy) -> tuple[int, int]:
    return round(float(xy[0])), round(float(xy[1]))
