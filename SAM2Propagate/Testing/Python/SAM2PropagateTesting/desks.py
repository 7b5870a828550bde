"""Where tests work: inside Slicer, or at a desk like it that a test without Slicer brings along."""

from __future__ import annotations

import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SAM2PropagateTesting.views import View

# Seconds that a requested drawing may take to begin.
_REDRAW_SECONDS = 0.3


class Desk(Protocol):
    """What differs with and without Slicer's window. Made for one test, closed after it."""

    def openView(self, name: str = "Red", orientation: str = "Axial", size: tuple[int, int] = ...) -> View:
        """A slice view by its name in the layout; Slicer's layout decides the size itself."""

    def openModule(self) -> Any:
        """The module's logic, or what has its `controller`, `close` and `missingPackages`."""

    def until(self, controller: Any, condition: Callable[[], bool], seconds: float) -> bool:
        """Lets time pass until something is so; False if that took too long."""

    def samplePath(self) -> Path:
        """The CT that ships with the extension; its labels are beside it."""

    def close(self) -> None:
        """Leaves the views as they were."""


class SlicerSurface:
    """A slice view of Slicer's layout.

    Args:
        widget: its qMRMLSliceWidget.
    """

    def __init__(self, widget: Any) -> None:
        self._widget = widget

    @property
    def node(self) -> Any:
        return self._widget.mrmlSliceNode()

    @property
    def logic(self) -> Any:
        return self._widget.sliceLogic()

    @property
    def interactor(self) -> Any:
        return self._widget.sliceView().interactor()

    def screenshot(self) -> np.ndarray:
        # What the scene asked for in the meantime, such as a new image, arrives with the events.
        slicer.app.processEvents()
        view = self._widget.sliceView()
        view.forceRender()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(view.renderWindow())
        grab.SetInputBufferTypeToRGB()
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()

    def redrawRequests(self, action: Callable[[], object]) -> int:
        self.screenshot()
        self._letDraw()
        drawn: list[int] = []
        window = self._widget.sliceView().renderWindow()
        tag = window.AddObserver("EndEvent", lambda *_: drawn.append(1))
        try:
            action()
            self._letDraw()
        finally:
            window.RemoveObserver(tag)
        return len(drawn)

    @staticmethod
    def _letDraw() -> None:
        end = time.monotonic() + _REDRAW_SECONDS
        while time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.01)


class SlicerDesk:
    """The desk inside Slicer."""

    def __init__(self) -> None:
        self._opened: list[tuple[View, Any]] = []
        self._layoutBefore: int | None = None
        self._annotationsBefore = False

    def openView(self, name: str = "Red", orientation: str = "Axial", size: tuple[int, int] = (0, 0)) -> View:
        layout = slicer.app.layoutManager()
        if layout is None:
            raise unittest.SkipTest("slice views need Slicer's main window")
        if self._layoutBefore is None:
            self._layoutBefore = layout.layout
            layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
            # The texts in the corners of the views would be taken for pixels of the image.
            self._annotationsBefore = _showAnnotations(False)
            slicer.app.processEvents()
        view = View(SlicerSurface(layout.sliceWidget(name)))
        before = vtk.vtkMatrix4x4()
        before.DeepCopy(view.node.GetSliceToRAS())
        self._opened.append((view, before))
        view.setOrientation(orientation)
        return view

    def openModule(self) -> Any:
        import SAM2Propagate

        return SAM2Propagate.SAM2PropagateLogic()

    def until(self, controller: Any, condition: Callable[[], bool], seconds: float) -> bool:
        # The module's own timer takes what the worker sends; only a test may pump events.
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            slicer.app.processEvents()
            time.sleep(0.002)
        return True

    def samplePath(self) -> Path:
        import SAM2Propagate

        path = SAM2Propagate.samplePath()
        if path is None:
            raise unittest.SkipTest("the extension was installed without its CT")
        return path

    def close(self) -> None:
        for view, before in reversed(self._opened):
            view.stopPlacing()
            view.node.GetSliceToRAS().DeepCopy(before)
            view.node.UpdateMatrices()
        if self._layoutBefore is not None:
            _showAnnotations(self._annotationsBefore)
            slicer.app.layoutManager().setLayout(self._layoutBefore)
        self._opened.clear()


def _showAnnotations(areShown: bool) -> bool:
    """Switches the texts of the Data Probe in the views on or off; whether they were on."""
    probe = getattr(slicer.modules, "DataProbeInstance", None)
    if probe is None or probe.infoWidget is None:
        return False
    annotations = probe.infoWidget.sliceAnnotations
    before = bool(annotations.sliceViewAnnotationsEnabled)
    annotations.sliceViewAnnotationsEnabled = areShown
    annotations.updateSliceViewFromGUI()
    return before


class DeskTest(unittest.TestCase):
    """A test at a desk, beginning with an empty scene. Without Slicer, `makeDesk` makes another desk."""

    makeDesk: Callable[[], Desk] = SlicerDesk

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()
        self.desk = self.makeDesk()
        self.addCleanup(slicer.mrmlScene.Clear)
        self.addCleanup(self.desk.close)
