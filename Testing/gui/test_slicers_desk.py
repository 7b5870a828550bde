"""The desk of the tests inside Slicer, on stand-ins that have no member which the real widgets lack.

It shows that the desk is wired as Slicer's headers say; that the tests pass inside Slicer, it cannot show.
"""

# ruff: noqa: N802

from __future__ import annotations

import time
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slicer
import vtk

import SAM2PropagateFlowTest
import SAM2PropagateStrokeTest
import SAM2PropagateViewTest
from Headless.slice_view import SliceView
from SAM2PropagateTesting.cases import SceneCase
from SAM2PropagateTesting.desks import SlicerDesk
from Testing.gui.conftest import MODULE_FILE
from Testing.worker.helpers import small_session

VIEW_TESTS = {
    SAM2PropagateViewTest.SAM2PropagatePromptViewTest: (
        "test_aClickLandsOnTheVoxelThatIsDrawnUnderIt_oblique_Axial",
        "test_clicksAndBoxesAreDrawnOnTheirOwnSliceOnly_plain",
        "test_slipsAndDragsBesideTheVolumeMakeNoBox",
    ),
    SAM2PropagateViewTest.SAM2PropagateToolViewTest: (
        "test_aBoxInAViewAcrossTheSlicesIsRefused",
        "test_aRangeIsTwoClicksOnTwoSlices_oblique",
        "test_aSceneIsSavedClearedLoadedAndPromptedAgain_oblique",
    ),
    SAM2PropagateViewTest.SAM2PropagateMaskViewTest: ("test_eachWrittenFrameAsksTheViewToRedraw",),
    SAM2PropagateStrokeTest.SAM2PropagateStrokeViewTest: (
        "test_aLassoIsDrawnAndClosesByItself_oblique",
        "test_aStrokeIsMovedAsAWholeByItsLine_scribble_Axial",
    ),
}


class Real:
    """An object of one of Slicer's widget classes with some of its members; others raise AttributeError."""

    def __init__(self, kind: str, **members: Any) -> None:
        from Headless.qt_standins import _recorded

        for name in members:
            known = any(
                _recorded(kind, one, name) is not None for one in ("properties", "methods", "signals")
            )
            assert known, f"the real {kind} has no member {name!r}"
        self.__dict__.update(members)


# The sizes that views get some turns of events after the layout was set.
SIZES = ((318, 327), (500, 240), (260, 380))
_TURNS = 4


class Layout:
    """Slicer's layout of three slice views, which are drawn when events are processed.

    They get their final sizes late, and the name of what they show stands in their corner.
    """

    def __init__(self, headless: Any) -> None:
        self._waiting: set[str] = set()
        self._turns = 0
        self.texts: dict[str, Any] = {}
        self.views: dict[str, SliceView] = {}
        widgets: dict[str, Real] = {}
        for name, plane in (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal")):
            view = SliceView(headless, name, plane, (390, 370))
            view.onRedrawRequest(lambda name=name: self._waiting.add(name))
            self.views[name] = view
            text = self.texts[name] = vtk.vtkCornerAnnotation()
            text.SetText(0, f"B: {name} shows something with a long name")
            view.interactor.GetRenderWindow().GetRenderers().GetFirstRenderer().AddViewProp(text)
            widgets[name] = self._widget(view, text)
        self.layouts: list[int] = []
        self.manager = Real(
            "qSlicerLayoutManager",
            layout=2,
            setLayout=self.layouts.append,
            sliceWidget=widgets.__getitem__,
            sliceViewNames=lambda: tuple(widgets),
            threeDViewCount=0,
        )

    @staticmethod
    def _widget(view: SliceView, text: Any) -> Real:
        drawn = Real(
            "qMRMLSliceView",
            interactor=lambda: view.interactor,
            renderWindow=view.interactor.GetRenderWindow,
            forceRender=view.render,
            scheduleRender=view.render,
            # It is drawn when it is asked to be; in between it is not.
            pauseRender=lambda: 1,
            resumeRender=view.render,
            cornerAnnotation=lambda: text,
        )
        return Real(
            "qMRMLSliceWidget",
            mrmlSliceNode=lambda: view.node,
            sliceLogic=lambda: view.logic,
            sliceView=lambda: drawn,
        )

    def normals(self) -> list[list[float]]:
        """Where the views look."""
        matrices = [view.node.GetSliceToRAS() for view in self.views.values()]
        return [[matrix.GetElement(row, 2) for row in range(3)] for matrix in matrices]

    def processEvents(self, *_: Any) -> None:
        from PySide6 import QtCore

        QtCore.QCoreApplication.processEvents()
        self._turns += 1
        if self._turns == _TURNS:
            for view, size in zip(self.views.values(), SIZES, strict=True):
                view.resize(size)
        waiting, self._waiting = self._waiting, set()
        for name in waiting:
            self.views[name].render()


@pytest.fixture
def layout(stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    one = Layout(stand_ins)
    slicer.app.__dict__["_standin_layout"] = one.manager
    monkeypatch.setattr(type(slicer.app), "processEvents", lambda self, *_: one.processEvents())
    yield one
    slicer.app.__dict__.pop("_standin_layout")
    for view in one.views.values():
        view.close()


@pytest.fixture
def annotations(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The texts in the corners of Slicer's views."""
    shown: list[bool] = []
    one = types.SimpleNamespace(sliceViewAnnotationsEnabled=1)
    one.updateSliceViewFromGUI = lambda: shown.append(bool(one.sliceViewAnnotationsEnabled))
    one.shown = shown
    probe = types.SimpleNamespace(infoWidget=types.SimpleNamespace(sliceAnnotations=one))
    monkeypatch.setattr(slicer.modules, "DataProbeInstance", probe, raising=False)
    return one


def run(test: unittest.TestCase) -> None:
    result = unittest.TestResult()
    test.run(result)
    assert [text for _, text in result.failures + result.errors + result.skipped] == []
    assert result.testsRun == 1


def test_a_view_is_used_once_it_has_its_size(layout: Layout, annotations: Any) -> None:
    desk = SlicerDesk()
    node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    node.SetLinkedControl(True)
    try:
        for name, size in zip(layout.views, SIZES, strict=True):
            view = desk.openView(name)
            assert tuple(view.node.GetDimensions()[:2]) == size == view.screenshot().shape[1::-1]
            assert layout.texts[name].GetText(0) in (None, "")
        assert not node.GetLinkedControl()
    finally:
        desk.close()
    assert node.GetLinkedControl()
    node.SetLinkedControl(False)


def test_a_busy_machine_fails_no_wait(
    layout: Layout, annotations: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten seconds go by between any two looks at the clock."""
    seconds = iter(range(0, 10**6, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    desk = SlicerDesk()
    try:
        view = desk.openView("Red")
        assert tuple(view.node.GetDimensions()[:2]) == SIZES[0]
        assert view.redrawRequests(view.node.Modified) >= 1
    finally:
        desk.close()
    case = SceneCase()
    try:
        assert case.click(20, 18, 9)
        case.run()
        assert len(case.arrived) > 10
    finally:
        case.controller.close()


@pytest.mark.parametrize(("case", "name"), [(case, name) for case in VIEW_TESTS for name in VIEW_TESTS[case]])
def test_a_view_test_at_slicers_desk(layout: Layout, annotations: Any, case: Any, name: str) -> None:
    before = [
        view.node.GetSliceToRAS().GetElement(row, 2) for view in layout.views.values() for row in range(3)
    ]
    run(case(name))
    after = [
        view.node.GetSliceToRAS().GetElement(row, 2) for view in layout.views.values() for row in range(3)
    ]
    assert after == before, "the views are left as they were"
    assert layout.layouts == [slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView, 2]
    assert annotations.shown == [True], "Slicer's own way of hiding them leaves them there"
    assert [view.size for view in layout.views.values()] == list(SIZES)


def test_without_a_main_window_the_view_tests_say_why_they_are_skipped(stand_ins: Any) -> None:
    assert slicer.app.layoutManager() is None
    with pytest.raises(unittest.SkipTest, match="main window"):
        SlicerDesk().openView()


def test_the_cancel_test_at_slicers_desk(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the module's own logic: its timer takes what the real worker sends, which has a small input."""
    from Headless.slicer_modules import ModuleInSlicer

    module = ModuleInSlicer(MODULE_FILE)
    monkeypatch.setattr(module.python, "WorkerSession", small_session)
    try:
        name = "test_cancelEndsTheRunAndTheNextOneGoesOnFromThere"
        run(SAM2PropagateFlowTest.SAM2PropagateFlowTest(name))
    finally:
        module.close()


def test_every_test_class_of_the_folder_is_run_without_slicer() -> None:
    """The classes that CTest finds in the files are those that pytest runs, subclassed."""
    from Testing.flow import test_flow
    from Testing.views import test_slicers_view_tests

    run_here = {
        base
        for module in (test_flow, test_slicers_view_tests)
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, unittest.TestCase)
        for base in one.__mro__
    }
    for module in (SAM2PropagateFlowTest, SAM2PropagateStrokeTest, SAM2PropagateViewTest):
        for suite in unittest.TestLoader().loadTestsFromModule(module):
            assert {type(test) for test in suite} <= run_here
    folder = Path(SAM2PropagateViewTest.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} == {
        "SAM2PropagateSceneTest",
        "SAM2PropagateViewTest",
        "SAM2PropagateStrokeTest",
        "SAM2PropagateFlowTest",
    }
