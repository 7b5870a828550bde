"""What goes, takes along what was its own; new names show everywhere; the panel keeps its width."""

from __future__ import annotations

import ast
import sys
from typing import Any

import pytest
import slicer
import slicer.util
import vtk

from Testing.gui.conftest import ROOT
from Testing.gui.test_panel import Desk


@pytest.fixture
def desk(module: Any) -> Desk:
    made = Desk(module)
    made.load()
    return made


def names(kind: str) -> list[str]:
    return sorted(node.GetName() for node in slicer.util.getNodesByClass(kind))


def folders() -> list[str]:
    """The folders of prompts in the data tree."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    items = vtk.vtkIdList()
    tree.GetItemChildren(tree.GetSceneItemID(), items, True)
    ids = [items.GetId(index) for index in range(items.GetNumberOfIds())]
    return [tree.GetItemName(one) for one in ids if tree.HasItemAttribute(one, "SAM2Propagate.Folder")]


@pytest.mark.parametrize("isEntered", ["in view", "in another module"])
def test_prompts_and_their_folder_go_with_the_segmentation(desk: Desk, isEntered: str) -> None:  # noqa: N803
    theirs = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "theirs")
    desk.click()
    desk.click(4, "negative")
    assert len(names("vtkMRMLMarkupsFiducialNode")) == 3 and len(folders()) == 1
    if isEntered != "in view":
        desk.module.exit()
    slicer.mrmlScene.RemoveNode(desk.segmentation)
    assert slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode") == [theirs]
    assert folders() == []
    # What was kept of it is gone as well.
    kept = [name for name in names("vtkMRMLScriptedModuleNode") if "SAM2 Propagate" in name]
    assert kept == []


def test_nothing_is_promised_of_the_preview_of_a_segmentation_that_was_removed(desk: Desk) -> None:
    desk.click()
    slicer.mrmlScene.RemoveNode(desk.segmentation)
    assert "choose both again" not in desk.ui.messageLabel.text


def test_prompts_are_called_as_their_segment_is(desk: Desk, stand_ins: Any, tmp_path: Any) -> None:
    segment = desk.segmentation.GetSegmentation().GetSegment(desk.controller.segmentID)
    desk.click()
    desk.click(4, "negative")
    segment.SetName("liver")
    assert names("vtkMRMLMarkupsFiducialNode") == ["liver negative clicks", "liver positive clicks"]
    (positive,) = [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
        if "positive" in node.GetName()
    ]
    positive.SetName("mine")
    segment.SetName("spleen")
    assert names("vtkMRMLMarkupsFiducialNode") == ["mine", "spleen negative clicks"]
    stand_ins.saveScene(tmp_path / "scene.mrb")
    slicer.mrmlScene.Clear(False)
    stand_ins.loadScene(tmp_path / "scene.mrb")
    node = desk.controller.segmentationNode
    node.GetSegmentation().GetNthSegment(0).SetName("kidney")
    assert names("vtkMRMLMarkupsFiducialNode") == ["kidney negative clicks", "mine"]


def test_the_folder_of_prompts_follows_the_segmentations_name(desk: Desk) -> None:
    desk.click()
    (before,) = folders()
    desk.segmentation.SetName("Organs")
    desk.click(4, "negative")
    assert folders() == ["Organs prompts"] != [before]


def test_the_panel_keeps_its_width_when_an_effect_is_wider(desk: Desk) -> None:
    from PySide6 import QtCore

    panel, editor = desk.module.panel, desk.ui.segmentEditor
    desk.ui.editCollapsibleButton.collapsed = False
    panel.resize(390, 1200)
    panel.show()
    QtCore.QCoreApplication.processEvents()
    before, place, width = panel.minimumSizeHint().width(), desk.ui.editorScrollArea, panel.width
    # As the options of Paint are.
    editor.setMinimumSize(503, 321)
    editor.setActiveEffectByName("Paint")
    for _ in range(5):
        QtCore.QCoreApplication.processEvents()
    assert panel.minimumSizeHint().width() == before < 503
    assert panel.width == width < 503
    assert place.minimumHeight >= 321, "its options are not cut off"
    assert place.horizontalScrollBar().visible


def test_the_icons_follow_light_and_dark(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAM2PropagateLib.gui.application import Application

    def look() -> list[int]:
        image = desk.ui.rangeToolButton.icon.pixmap(20, 20).toImage()
        return [image.pixel(x, y) for x in range(image.width()) for y in range(image.height())]

    before = look()
    monkeypatch.setattr(Application, "isDark", True)
    slicer.app.paletteChanged.emit(slicer.app.palette())
    assert look() != before
    monkeypatch.setattr(Application, "isDark", False)
    slicer.app.paletteChanged.emit(slicer.app.palette())
    assert look() == before


def test_everything_that_the_worker_imports_is_looked_for() -> None:
    """Else the banner says that nothing is missing, and the worker fails."""
    from SAM2PropagateLib.gui.install import PACKAGES

    library = ROOT / "SAM2Propagate" / "SAM2PropagateLib"
    imported = set()
    for folder in ("engine", "worker", "frames", "prompts", "models"):
        for path in (library / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {name.name.split(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    imported.add(str(node.module).split(".")[0])
    # The first ones come with Slicer's Python, the last two with hydra.
    others = (
        imported
        - set(sys.stdlib_module_names)
        - {"SAM2PropagateLib", "numpy", "SimpleITK", "omegaconf", "yaml"}
    )
    assert {"torch", "sam2", "scipy"} <= others
    assert others <= {one.module for one in PACKAGES}


def test_what_is_being_drawn_is_taken_back_when_another_application_takes_the_mouse(desk: Desk) -> None:
    taken: list[bool] = []
    views = desk.module.widget.views
    views.cancelDrag = lambda: taken.append(True)
    state = type(slicer.app.applicationState())
    slicer.app.applicationStateChanged.emit(state.ApplicationActive)
    assert taken == []
    slicer.app.applicationStateChanged.emit(state.ApplicationInactive)
    assert taken == [True]


def test_the_scribbles_button_says_when_it_is_the_negative_one(desk: Desk) -> None:
    button, seen = desk.ui.scribbleToolButton, []
    for _ in range(4):
        seen.append((button.text, button.checked))
        button.click()
    assert seen == [("S", False), ("S", True), ("S −", True), ("S", False)]
