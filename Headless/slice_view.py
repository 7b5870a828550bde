"""A slice view of 3D Slicer, offscreen: its displayable managers, its mouse handling, its pixels."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from Headless.boot import HeadlessSlicer

APT_PACKAGES = ("libegl1", "libgl1-mesa-dri")
_OSMESA = ("libOSMesa.so", "libOSMesa.so.8", "libOSMesa.so.6")
_DISPLAYABLE_MANAGERS = (
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager2D",
)
Xy = tuple[float, float]


class RenderingError(RuntimeError):
    """This machine cannot render offscreen; the message says what to install."""


class SliceView:
    """One slice view, as the user of Slicer sees and operates it.

    View coordinates (`xy`) are pixels from the lower left corner, as VTK counts them.

    Args:
        headless: what `boot()` returned.
        name: layout name; "Red", "Yellow" and "Green" are the three of the default layout.
        orientation: "Axial", "Sagittal" or "Coronal".
        size: width and height in pixels.

    Raises:
        RenderingError: no OpenGL on this machine.
    """

    def __init__(
        self,
        headless: HeadlessSlicer,
        name: str = "Red",
        orientation: str = "Axial",
        size: tuple[int, int] = (500, 400),
    ) -> None:
        self._headless = headless
        self._orientation = orientation
        self._window = _windowClass()()
        self._renderer = vtk.vtkRenderer()
        self._overlay = vtk.vtkRenderer()
        self._buildWindow(size)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.Initialize()
        self._window.Render()

        # First of all actors: what is blended onto the image must be drawn after it.
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(self._actor)
        self._managers = slicer.vtkMRMLDisplayableManagerGroup()
        self._managers.SetRenderer(self._renderer)
        self._managers.Initialize(_managerFactory(headless), self._renderer)
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(headless.appLogic)
        self.logic.SetMRMLScene(headless.scene)
        headless.appLogic.GetSliceLogics().AddItem(self.logic)
        self.node = self._sliceNode(name)
        self.node.SetMappedInLayout(1)
        self._managers.SetMRMLDisplayableNode(self.node)
        self.setOrientation(orientation)

        self._interactor.SetInteractorStyle(
            vtk.vtkInteractorStyleUser()
        )  # the default style would eat the clicks
        self._style = slicer.vtkMRMLSliceViewInteractorStyle()
        self._style.SetSliceLogic(self.logic)
        self._style.SetDisplayableManagers(self._managers)
        self._style.SetInteractor(self._interactor)
        self.logic.ResizeSliceNode(*size)

    def _buildWindow(self, size: tuple[int, int]) -> None:
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.SetAlphaBitPlanes(1)
        self._window.SetNumberOfLayers(2)
        self._window.SetSize(*size)
        self._overlay.SetLayer(1)
        for renderer in (self._renderer, self._overlay):
            renderer.GetActiveCamera().ParallelProjectionOn()
            self._window.AddRenderer(renderer)

    def _sliceNode(self, name: str) -> Any:
        # A view of this name that was closed left its node in the scene; a second one would not be in it.
        former = self._headless.scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        if former is None:
            return self.logic.AddSliceNode(name)
        self.logic.SetSliceNode(former)
        former.SetFieldOfView(250.0, 250.0, 1.0)
        return former

    def resize(self, size: tuple[int, int]) -> None:
        """Gives the view another size in pixels, as a layout does."""
        self._window.SetSize(*size)
        self.logic.ResizeSliceNode(*size)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = self._window.GetSize()
        return width, height

    @property
    def interactor(self) -> Any:
        """The view's vtkRenderWindowInteractor."""
        return self._interactor

    # What is shown

    def show(self, volumeNode: Any) -> None:
        """Shows a volume in the background, fitted to the view, on one of its slices."""
        self.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volumeNode.GetID())
        self.fit()

    def fit(self) -> None:
        """Fits the field of view to the volume and snaps the offset to a slice of it."""
        self.logic.FitSliceToAll()
        self.logic.SnapSliceOffsetToIJK()

    def setOrientation(self, orientation: str) -> None:
        """Turns the view to a named orientation of the patient."""
        self.node.SetOrientation(orientation)

    def jumpTo(self, ras: Any) -> None:
        """Moves the view's plane through a world point, keeping its orientation."""
        self.node.JumpSliceByOffsetting(*(float(value) for value in ras))

    # Coordinates

    def rasToXy(self, ras: Any) -> Xy:
        """Returns the view position of a world point (projected onto the plane)."""
        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node.GetXYToRAS(), inverse)
        x, y = inverse.MultiplyPoint([*(float(value) for value in ras), 1.0])[:2]
        return x, y

    def xyToRas(self, xy: Xy) -> np.ndarray:
        """Returns the world point under a view position, after rounding to the whole pixels that a mouse
        reports."""
        x, y = _wholePixel(xy)
        return np.array(self.node.GetXYToRAS().MultiplyPoint([x, y, 0.0, 1.0])[:3])

    # What the user does

    def event(self, name: str, xy: Xy, *, ctrl: bool = False, shift: bool = False, key: str = "") -> None:
        """Sends one VTK interactor event, e.g. "LeftButtonPressEvent" or "MouseWheelForwardEvent"."""
        x, y = _wholePixel(xy)
        self._interactor.SetEventInformation(x, y, int(ctrl), int(shift), key[:1] or "\0", 0, key)
        getattr(self._interactor, name)()

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

    def startPlacing(self, markupsNode: Any, persistent: bool = False) -> None:
        """Puts the mouse into place mode for a markups node, as the place button of Slicer does."""
        selection = self._headless.appLogic.GetSelectionNode()
        selection.SetReferenceActivePlaceNodeClassName(markupsNode.GetClassName())
        selection.SetActivePlaceNodeID(markupsNode.GetID())
        interaction = self._headless.appLogic.GetInteractionNode()
        interaction.SetPlaceModePersistence(int(persistent))
        interaction.SetCurrentInteractionMode(interaction.Place)

    def stopPlacing(self) -> None:
        """Puts the mouse back into its normal mode."""
        interaction = self._headless.appLogic.GetInteractionNode()
        interaction.SetCurrentInteractionMode(interaction.ViewTransform)

    # Pixels

    def render(self) -> None:
        """Draws the view."""
        connection = self.logic.GetImageDataConnection()
        self._mapper.SetInputConnection(connection)
        self._actor.SetVisibility(connection is not None)
        self._interactor.Render()

    def onRedrawRequest(self, callback: Callable[[], None]) -> None:
        """Calls back whenever something in the scene asks for the view to be drawn again."""
        self._managers.AddObserver("UpdateEvent", lambda *_: callback())

    def screenshot(self) -> np.ndarray:
        """Returns the view's pixels now: (height, width, 3) uint8 RGB, top row first."""
        self.render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.SetInputBufferTypeToRGB()
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()

    def pixel(self, image: np.ndarray, xy: Xy) -> np.ndarray:
        """Returns the RGB value of a screenshot at a view position."""
        x, y = _wholePixel(xy)
        return image[image.shape[0] - 1 - y, x]

    def savePng(self, file: Path | str) -> None:
        """Writes the view's pixels to a PNG file."""
        writePng(self.screenshot(), file)

    def close(self) -> None:
        """Takes the view out of the application and frees its render window."""
        self.stopPlacing()
        # A scene saved with a free orientation would complain on loading.
        self.setOrientation(self._orientation)
        self.node.SetMappedInLayout(0)
        self._headless.appLogic.GetSliceLogics().RemoveItem(self.logic)
        self._managers.SetMRMLDisplayableNode(None)
        self._style.SetInteractor(None)
        self.logic.SetMRMLScene(None)
        self._window.Finalize()


def writePng(image: np.ndarray, file: Path | str) -> None:
    """Writes (height, width, 3) uint8 pixels, top row first, to a PNG file."""
    from vtk.util.numpy_support import numpy_to_vtk

    height, width, _ = image.shape
    data = vtk.vtkImageData()
    data.SetDimensions(width, height, 1)
    data.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(image[::-1]).reshape(-1, 3), deep=True))
    writer = vtk.vtkPNGWriter()
    writer.SetInputData(data)
    writer.SetFileName(str(file))
    writer.Write()


def _wholePixel(xy: Xy) -> tuple[int, int]:
    return round(float(xy[0])), round(float(xy[1]))


def _managerFactory(headless: HeadlessSlicer) -> Any:
    factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
    factory.SetMRMLApplicationLogic(headless.appLogic)
    for name in _DISPLAYABLE_MANAGERS:
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
    return factory


@functools.cache
def _windowClass() -> Any:
    """Returns the class of render windows that draw offscreen here; VTK makes several to find out."""
    window = vtk.vtkRenderWindow()
    # VTK's last resort, which crashes the process when its library is missing.
    if window.GetClassName() == "vtkOSOpenGLRenderWindow" and not _loads(*_OSMESA):
        raise RenderingError(_advice("neither EGL nor OSMesa was found"))
    window.SetOffScreenRendering(1)
    window.Render()
    if not (window.SupportsOpenGL() and "version string" in window.ReportCapabilities()):
        raise RenderingError(_advice(f"{window.GetClassName()} has no OpenGL 3.2"))
    window.Finalize()
    return type(window)


def _advice(reason: str) -> str:
    return (
        f"This machine cannot render offscreen: {reason}. On Debian and Ubuntu: "
        f"apt-get install {' '.join(APT_PACKAGES)}"
    )


def _loads(*libraries: str) -> bool:
    for library in libraries:
        with contextlib.suppress(OSError):
            ctypes.CDLL(library)
            return True
    return False
