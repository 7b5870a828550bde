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

# Turns of events are counted, not seconds: a busy machine makes each of them slow.
# Turns in which a requested drawing begins, with a hundredth of a second between them.
_REDRAW_TURNS = 30
# Turns that a view may take to get its size, and how often in a row it must have the same one.
_SETTLE_TURNS, _CALM = 2000, 8


class Desk(Protocol):
    """What differs with and without Slicer's main window. Made for one test, closed after it."""

    def openView(self, name: str = "Red", orientation: str = "Axial", size: tuple[int, int] = ...) -> View:
        """Returns a slice view by its name in the layout; Slicer's layout decides the size itself."""

    def openModule(self) -> Any:
        """Returns the module's logic, or what has its `controller`, `close` and `missingPackages`."""

    def until(self, controller: Any, condition: Callable[[], bool], seconds: float) -> bool:
        """Lets time pass until something is so; False if that took too long."""

    def samplePath(self) -> Path:
        """Returns the CT that ships with the extension; its labels are beside it."""

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

    def settle(self) -> None:
        """Waits until the view has the size that the layout gives it, which takes several turns of events."""
        window, before, calm = self._widget.sliceView().renderWindow(), (), 0
        for _ in range(_SETTLE_TURNS):
            slicer.app.processEvents()
            size = (*window.GetSize(), *self.node.GetDimensions()[:2])
            calm = calm + 1 if size == before and size[:2] == size[2:] else 0
            if calm == _CALM:
                return
            before = size
            time.sleep(0.005)
        raise AssertionError(f"the view has {before[:2]} pixels, and its node {before[2:]}")

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
        for _ in range(_REDRAW_TURNS):
            slicer.app.processEvents()
            time.sleep(0.01)


class SlicerDesk:
    """The desk inside Slicer."""

    def __init__(self) -> None:
        self._opened: list[tuple[View, Any]] = []
        self._layoutBefore: int | None = None
        self._annotationsBefore = False
        self._linked: list[Any] = []

    def openView(self, name: str = "Red", orientation: str = "Axial", size: tuple[int, int] = (0, 0)) -> View:
        layout = slicer.app.layoutManager()
        if layout is None:
            raise unittest.SkipTest("slice views need Slicer's main window")
        if self._layoutBefore is None:
            self._layoutBefore = layout.layout
            layout.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
            # The texts in the corners of the views would be taken for pixels of the image.
            self._annotationsBefore = _showAnnotations(False)
            # What a test does in one view is for that view alone.
            links = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
            self._linked = [node for node in links if node.GetLinkedControl()]
            for node in self._linked:
                node.SetLinkedControl(False)
        surface = SlicerSurface(layout.sliceWidget(name))
        surface.settle()
        layout.sliceWidget(name).sliceView().cornerAnnotation().ClearAllTexts()
        view = View(surface)
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
            for node in self._linked:
                node.SetLinkedControl(True)
            slicer.app.layoutManager().setLayout(self._layoutBefore)
        self._opened.clear()


def _showAnnotations(areShown: bool) -> bool:
    """Switches the texts of the Data Probe in the views on or off; whether they were on. Those that are drawn
    already stay.
    """
    probe = getattr(slicer.modules, "DataProbeInstance", None)
    if probe is None or probe.infoWidget is None:
        return False
    annotations = probe.infoWidget.sliceAnnotations
    before = bool(annotations.sliceViewAnnotationsEnabled)
    annotations.sliceViewAnnotationsEnabled = areShown
    if areShown:
        # Asked to hide them, it would stop following the views for good.
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
