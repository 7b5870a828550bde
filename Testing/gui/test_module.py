"""The module opens, shows what there is, follows the scene, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import slicer
import slicer.util
import vtk

from Testing.gui.conftest import MODULE_FILE, ROOT
from Testing.worker.helpers import small_session

SAMPLE = ROOT / "Resources" / "Sample" / "abdomen_ct.nii.gz"


def load_sample() -> Any:
    return slicer.util.loadVolume(str(SAMPLE))


def test_it_opens_and_says_what_there_is(module: Any) -> None:
    assert module.parent.title == "SAM2 Propagate"
    assert module.parent.categories == ["Segmentation"]
    assert module.ui.volumeSelector.toolTip == "Choose the CT or MR volume to segment."
    assert "SAM2Propagate tiny" in module.ui.modelComboBox.currentText
    assert module.ui.modelStatusLabel.text.startswith("on this computer")
    assert "starts with the first prompt" in module.ui.workerStatusLabel.text


def test_it_says_what_a_volume_is(module: Any) -> None:
    module.ui.volumeSelector.setCurrentNode(load_sample())
    assert module.ui.volumeSelector.toolTip == "122 × 101 × 112 voxels of 3 × 3 × 3 mm."


def test_it_says_why_a_volume_cannot_be_segmented(module: Any) -> None:
    image = vtk.vtkImageData()
    image.SetDimensions(4, 5, 6)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Photo")
    node.SetAndObserveImageData(image)
    module.ui.volumeSelector.setCurrentNode(node)
    for text in (module.ui.volumeStatusLabel.text, module.ui.volumeSelector.toolTip):
        assert "Photo" in text and "3 values per voxel" in text
    assert not module.ui.volumeStatusLabel.isHidden()


def test_widgets_and_parameter_node_follow_each_other(module: Any) -> None:
    node = load_sample()
    parameters = module.widget.logic.getParameterNode()
    module.ui.volumeSelector.setCurrentNode(node)
    assert parameters.inputVolume.GetID() == node.GetID()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Result")
    parameters.segmentation = segmentation
    assert module.ui.segmentationSelector.currentNodeID == segmentation.GetID()
    slicer.mrmlScene.RemoveNode(segmentation)
    assert parameters.segmentation is None
    assert module.ui.segmentationSelector.currentNode() is None


def test_a_new_segmentation_can_be_made_in_the_panel(module: Any) -> None:
    made = module.ui.segmentationSelector.addNode()
    assert made.GetClassName() == "vtkMRMLSegmentationNode"
    assert module.widget.logic.getParameterNode().segmentation.GetID() == made.GetID()


def test_the_volume_in_the_views_is_taken_and_not_just_the_first(stand_ins: Any) -> None:
    from Headless.slicer_modules import ModuleInSlicer

    load_sample().SetName("first")
    shown = load_sample()
    stand_ins.appLogic.GetSelectionNode().SetActiveVolumeID(shown.GetID())
    module = ModuleInSlicer(MODULE_FILE).open()
    assert module.ui.volumeSelector.currentNodeID == shown.GetID()
    module.close()


def test_label_maps_are_not_offered(module: Any) -> None:
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    assert module.ui.volumeSelector.nodeCount() == 0


def test_closing_the_scene_starts_afresh(module: Any, stand_ins: Any) -> None:
    module.ui.volumeSelector.setCurrentNode(load_sample())
    stand_ins.scene.Clear(False)
    assert module.ui.volumeSelector.currentNode() is None
    assert module.ui.volumeSelector.toolTip.startswith("Choose")
    assert stand_ins.scene.GetNumberOfNodesByClass("vtkMRMLScriptedModuleNode") == 1


def test_closing_the_scene_from_another_module_waits(module: Any, stand_ins: Any) -> None:
    module.ui.volumeSelector.setCurrentNode(load_sample())
    module.exit()
    stand_ins.scene.Clear(False)
    assert module.ui.volumeSelector.toolTip.startswith("122")
    module.enter()
    assert module.ui.volumeSelector.toolTip.startswith("Choose")


def test_it_does_not_follow_while_another_module_is_in_view(module: Any) -> None:
    parameters = module.widget.logic.getParameterNode()
    module.exit()
    parameters.inputVolume = load_sample()
    assert module.ui.volumeSelector.toolTip.startswith("Choose")
    module.enter()
    assert module.ui.volumeSelector.toolTip.startswith("122")


def test_opening_changes_no_node_of_the_user(stand_ins: Any) -> None:
    from Headless.slicer_modules import ModuleInSlicer

    load_sample()
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "theirs")
    scene = stand_ins.scene
    # These nodes of an earlier session are ours, and stay in the scene when that is cleared.
    scene.RemoveNode(scene.GetFirstNodeByClass("vtkMRMLScriptedModuleNode"))
    scene.RemoveNode(scene.GetSingletonNode("SAM2Propagate", "vtkMRMLSegmentEditorNode"))
    before = {
        scene.GetNthNode(i).GetID(): scene.GetNthNode(i).GetMTime() for i in range(scene.GetNumberOfNodes())
    }
    ModuleInSlicer(MODULE_FILE).open().close()
    changed = [name for name, time in before.items() if scene.GetNodeByID(name).GetMTime() != time]
    assert changed == []


def test_every_observer_is_gone_after_closing(stand_ins: Any) -> None:
    from Headless.slicer_modules import ModuleInSlicer

    scene = stand_ins.scene
    events = (scene.StartCloseEvent, scene.EndCloseEvent)
    before = [scene.HasObserver(event) for event in events]
    module = ModuleInSlicer(MODULE_FILE).open()
    widget, parameters = module.widget, module.widget.logic.getParameterNode().parameterNode
    module.exit()
    module.enter()
    module.close()
    assert widget.Observations == []
    assert [scene.HasObserver(event) for event in events] == before
    assert not parameters.HasObserver(vtk.vtkCommand.ModifiedEvent)


def test_entering_again_and_again_adds_no_observer(module: Any) -> None:
    import gc

    kind = type(module.widget.logic.getParameterNode())
    counts = []
    for _ in range(3):
        module.exit()
        module.enter()
        gc.collect()
        counts.append(sum(type(one) is kind for one in gc.get_objects()))
    assert counts == [1, 1, 1]


def test_reload_imports_the_library_again(module: Any) -> None:
    node = load_sample()
    module.ui.volumeSelector.setCurrentNode(node)
    old_widget, old_library = module.widget, sys.modules["SAM2PropagateLib.scene.volume"]
    before = {name: module for name, module in sys.modules.items() if name.startswith("SAM2PropagateLib")}
    try:
        module.widget.onReload()
        assert module.widget is not old_widget
        assert sys.modules["SAM2PropagateLib.scene.volume"] is not old_library
        assert old_widget.Observations == []
        assert module.ui.volumeSelector.currentNodeID == node.GetID()
        assert module.ui.volumeSelector.toolTip.startswith("122")
    finally:
        # Other tests hold classes of the library as it was.
        sys.modules.update(before)


def test_the_logic_works_without_a_panel(stand_ins: Any) -> None:
    from Headless.slicer_modules import ModuleInSlicer

    module = ModuleInSlicer(MODULE_FILE)
    logic = module.python.SAM2PropagateLogic()
    volume = logic.readVolume(load_sample())
    assert volume.array.shape == (112, 101, 122)
    session = logic.workerSession()
    assert session is logic.workerSession()
    assert not session.is_running and session.starts == 0
    logic.close()
    module.close()


def test_missing_packages_are_named(stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from Headless.slicer_modules import ModuleInSlicer

    module = ModuleInSlicer(MODULE_FILE)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name in ("torch", "sam2") else real(name),
    )
    logic = module.python.SAM2PropagateLogic()
    assert logic.missingPackages() == ["torch", "sam2"]
    assert "torch, sam2" in logic.workerText()
    module.close()


def test_the_sample_is_registered_with_its_checksum(stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    import types
    import urllib.request

    from Headless.slicer_modules import ModuleInSlicer

    registered: list[dict[str, Any]] = []
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **source: registered.append(source))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    module = ModuleInSlicer(MODULE_FILE)
    slicer.app.startupCompleted.emit()
    (source,) = registered
    with urllib.request.urlopen(source["uris"]) as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    assert source["checksums"] == f"SHA256:{digest}"
    module.close()


def test_the_self_tests_pass_without_slicer(stand_ins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util
    import unittest

    from Headless.slicer_modules import ModuleInSlicer

    # The Data Probe has its parameters in the scene, too, and keeps them when it is closed.
    probe = slicer.vtkMRMLScriptedModuleNode()
    probe.SetSingletonTag("DataProbe")
    probe.SetModuleName("DataProbe")
    probe = slicer.mrmlScene.AddNode(probe)
    module = ModuleInSlicer(MODULE_FILE)
    path = ROOT / "SAM2Propagate" / "Testing" / "Python" / "SAM2PropagateSceneTest.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    scene_test = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scene_test)
    loader, suite = unittest.TestLoader(), unittest.TestSuite()
    suite.addTests(loader.loadTestsFromTestCase(module.python.SAM2PropagateTest))
    suite.addTests(loader.loadTestsFromTestCase(scene_test.SAM2PropagateSceneTest))
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun == 8 and result.skipped == []
    assert [text for _, text in result.failures + result.errors] == []
    # And as the button "Test" in Slicer runs it, with a small input.
    monkeypatch.setattr(module.python, "WorkerSession", small_session)
    module.python.SAM2PropagateTest().runTest()
    module.close()
    slicer.mrmlScene.RemoveNode(probe)


@pytest.mark.parametrize("segment_id", ['GTV "boost" <5mm', "Segment_1", "tab\there"])
def test_the_scene_loads_and_keeps_the_choice_whatever_a_segments_id_is(
    module: Any, stand_ins: Any, tmp_path: Any, segment_id: str
) -> None:
    module.ui.volumeSelector.setCurrentNode(load_sample())
    segmentation = module.ui.segmentationSelector.addNode()
    segmentation.GetSegmentation().AddEmptySegment(segment_id, segment_id)
    module.ui.segmentsTable.setSelectedSegmentIDs([segment_id])
    assert module.widget.logic.controller.segmentID == segment_id
    stand_ins.saveScene(tmp_path / "scene.mrb")
    stand_ins.clear()
    stand_ins.loadScene(tmp_path / "scene.mrb")
    assert module.widget.logic.controller.segmentID == segment_id
    # Slicer itself complains of a tab in the ID of a segment.
    stand_ins.messages.clear()


def show(volume: Any) -> None:
    """As the application does with a volume that was loaded."""
    slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(volume.GetID())


def test_a_volume_that_is_loaded_while_the_module_is_open_is_taken(module: Any) -> None:
    slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(None)
    assert module.ui.volumeSelector.currentNode() is None
    hidden, first, second = load_sample(), load_sample(), load_sample()
    assert module.ui.volumeSelector.currentNode() is None, "it is not in the views"
    show(first)
    assert module.ui.volumeSelector.currentNodeID == first.GetID()
    assert module.widget.logic.getParameterNode().inputVolume is first
    show(second)
    assert module.ui.volumeSelector.currentNodeID == first.GetID(), "the choice stays"
    # Who chooses none gets none.
    module.ui.volumeSelector.setCurrentNode(None)
    slicer.app.applicationLogic().GetSelectionNode().Modified()
    assert module.ui.volumeSelector.currentNode() is None
    show(hidden)
    assert module.ui.volumeSelector.currentNodeID == hidden.GetID()


def test_a_volume_that_comes_with_many_nodes_is_taken_after_them(module: Any) -> None:
    scene = slicer.mrmlScene
    slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(None)
    scene.StartState(scene.BatchProcessState)
    show(load_sample())
    assert module.ui.volumeSelector.currentNode() is None
    scene.EndState(scene.BatchProcessState)
    assert module.ui.volumeSelector.currentNode() is not None


def test_no_volume_is_taken_while_another_module_is_in_view(module: Any) -> None:
    slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(None)
    module.exit()
    show(load_sample())
    assert module.widget.logic.getParameterNode().inputVolume is None
    module.enter()
    assert module.ui.volumeSelector.currentNode() is not None


def keys(module: Any) -> dict[str, bool]:
    """The main window's keys that are the module's, and which of them are on."""
    import qt

    found = module.panel.findChildren(qt.QShortcut)
    return {one.key.toString(): bool(one.enabled) for one in found}


def press(module: Any, key: str) -> None:
    """Presses one of the module's keys, which must be on."""
    import qt

    (shortcut,) = (one for one in module.panel.findChildren(qt.QShortcut) if one.key.toString() == key)
    assert shortcut.enabled
    shortcut.activated.emit()


UNDO = {"Ctrl+Z": False, "Ctrl+Y": False, "Ctrl+Shift+Z": False}


def test_escape_and_delete_are_taken_only_while_they_have_something_to_do(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SAM2PropagateLib.app.situation import Situation
    from SAM2PropagateLib.scene.markups import PromptMarkups
    from Testing.gui.test_panel import Desk, Layout

    Desk(module).load()
    layout, is_under_mouse = Layout(), [False]
    monkeypatch.setitem(slicer.app.__dict__, "_standin_layout", layout)
    monkeypatch.setattr(PromptMarkups, "isUnderMouse", lambda self: is_under_mouse[0])
    module.exit()
    module.enter()

    def move_mouse(is_on_prompt: bool) -> None:
        is_under_mouse[0] = is_on_prompt
        layout.interactors[0].InvokeEvent("MouseMoveEvent")

    assert keys(module) == {"Esc": False, "Del": False, **UNDO}
    controller = module.widget.logic.controller
    monkeypatch.setattr(Situation, "refuses", lambda self, action: False)
    controller.chooseTool("box")
    assert keys(module) == {"Esc": True, "Del": False, **UNDO}
    press(module, "Esc")
    assert controller.tool is None and keys(module) == {"Esc": False, "Del": False, **UNDO}
    move_mouse(True)
    assert keys(module) == {"Esc": False, "Del": True, **UNDO}
    move_mouse(False)
    assert keys(module) == {"Esc": False, "Del": False, **UNDO}
    controller.chooseTool("box")
    module.exit()
    assert controller.tool is None
    assert not any(keys(module).values())
    module.enter()
    module.enter()
    on = keys(module)
    assert on == {"Esc": False, "Del": False, **UNDO}


def test_the_keys_of_undo_and_redo_are_on_while_there_is_something_to_undo(module: Any) -> None:
    import qt

    def press(key: str) -> None:
        (found,) = [one for one in module.panel.findChildren(qt.QShortcut) if one.key.toString() == key]
        assert found.enabled
        found.activated.emit()
        assert controller.wait(60)

    show(load_sample())
    controller = module.widget.logic.controller
    module.ui.segmentationSelector.addNode()
    first = controller.workspace.segmentIDs
    controller.addSegment()
    assert keys(module) == {"Esc": False, "Del": False, **UNDO, "Ctrl+Z": True}
    press("Ctrl+Z")
    assert controller.workspace.segmentIDs == first
    redo = {"Ctrl+Y": True, "Ctrl+Shift+Z": True}
    assert keys(module) == {"Esc": False, "Del": False, **UNDO, **redo}
    for key in redo:
        press(key)
        assert len(controller.workspace.segmentIDs) == len(first) + 1
        press("Ctrl+Z")
        assert controller.workspace.segmentIDs == first
    module.exit()
    assert not any(keys(module).values())
    module.enter()
    assert keys(module) == {"Esc": False, "Del": False, **UNDO, **redo}
