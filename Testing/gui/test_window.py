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

SAMPLE = ROOT / "Resources" / "Sample" / "abdomen_ct.nii.gz"


def load_sample() -> Any:
    return slicer.util.loadVolume(str(SAMPLE))


def test_it_opens_and_says_what_there_is(window: Any) -> None:
    assert window.parent.title == "SAM2 Propagate"
    assert window.parent.categories == ["Segmentation"]
    assert window.ui.volumeSelector.toolTip == "Choose the CT or MR volume to segment."
    assert "SAM2Propagate tiny" in window.ui.modelComboBox.currentText
    assert window.ui.modelStatusLabel.text.startswith("on this computer")
    assert "starts with the first prompt" in window.ui.workerStatusLabel.text


def test_it_says_what_a_volume_is(window: Any) -> None:
    window.ui.volumeSelector.setCurrentNode(load_sample())
    assert window.ui.volumeSelector.toolTip == "122 × 101 × 112 voxels of 3 × 3 × 3 mm."


def test_it_says_why_a_volume_cannot_be_segmented(window: Any) -> None:
    image = vtk.vtkImageData()
    image.SetDimensions(4, 5, 6)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Photo")
    node.SetAndObserveImageData(image)
    window.ui.volumeSelector.setCurrentNode(node)
    for text in (window.ui.volumeStatusLabel.text, window.ui.volumeSelector.toolTip):
        assert "Photo" in text and "3 values per voxel" in text
    assert not window.ui.volumeStatusLabel.isHidden()


def test_widgets_and_parameter_node_follow_each_other(window: Any) -> None:
    node = load_sample()
    parameters = window.widget.logic.getParameterNode()
    window.ui.volumeSelector.setCurrentNode(node)
    assert parameters.inputVolume.GetID() == node.GetID()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Result")
    parameters.segmentation = segmentation
    assert window.ui.segmentationSelector.currentNodeID == segmentation.GetID()
    slicer.mrmlScene.RemoveNode(segmentation)
    assert parameters.segmentation is None
    assert window.ui.segmentationSelector.currentNode() is None


def test_a_new_segmentation_can_be_made_in_the_panel(window: Any) -> None:
    made = window.ui.segmentationSelector.addNode()
    assert made.GetClassName() == "vtkMRMLSegmentationNode"
    assert window.widget.logic.getParameterNode().segmentation.GetID() == made.GetID()


def test_the_volume_in_the_views_is_taken_and_not_just_the_first(window_modules: Any) -> None:
    from Headless.slicer_modules import ModuleWindow

    load_sample().SetName("first")
    shown = load_sample()
    window_modules.appLogic.GetSelectionNode().SetActiveVolumeID(shown.GetID())
    window = ModuleWindow(MODULE_FILE).open()
    assert window.ui.volumeSelector.currentNodeID == shown.GetID()
    window.close()


def test_label_maps_are_not_offered(window: Any) -> None:
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    assert window.ui.volumeSelector.nodeCount() == 0


def test_closing_the_scene_starts_afresh(window: Any, window_modules: Any) -> None:
    window.ui.volumeSelector.setCurrentNode(load_sample())
    window_modules.scene.Clear(False)
    assert window.ui.volumeSelector.currentNode() is None
    assert window.ui.volumeSelector.toolTip.startswith("Choose")
    assert window_modules.scene.GetNumberOfNodesByClass("vtkMRMLScriptedModuleNode") == 1


def test_closing_the_scene_from_another_module_waits(window: Any, window_modules: Any) -> None:
    window.ui.volumeSelector.setCurrentNode(load_sample())
    window.exit()
    window_modules.scene.Clear(False)
    assert window.ui.volumeSelector.toolTip.startswith("122")
    window.enter()
    assert window.ui.volumeSelector.toolTip.startswith("Choose")


def test_it_does_not_follow_while_another_module_is_in_view(window: Any) -> None:
    parameters = window.widget.logic.getParameterNode()
    window.exit()
    parameters.inputVolume = load_sample()
    assert window.ui.volumeSelector.toolTip.startswith("Choose")
    window.enter()
    assert window.ui.volumeSelector.toolTip.startswith("122")


def test_opening_changes_no_node_of_the_user(window_modules: Any) -> None:
    from Headless.slicer_modules import ModuleWindow

    load_sample()
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "theirs")
    scene = window_modules.scene
    # These nodes of an earlier window are ours, and stay in the scene when that is cleared.
    scene.RemoveNode(scene.GetFirstNodeByClass("vtkMRMLScriptedModuleNode"))
    scene.RemoveNode(scene.GetSingletonNode("SAM2Propagate", "vtkMRMLSegmentEditorNode"))
    before = {
        scene.GetNthNode(i).GetID(): scene.GetNthNode(i).GetMTime() for i in range(scene.GetNumberOfNodes())
    }
    ModuleWindow(MODULE_FILE).open().close()
    changed = [name for name, time in before.items() if scene.GetNodeByID(name).GetMTime() != time]
    assert changed == []


def test_every_observer_is_gone_after_closing(window_modules: Any) -> None:
    from Headless.slicer_modules import ModuleWindow

    scene = window_modules.scene
    events = (scene.StartCloseEvent, scene.EndCloseEvent)
    before = [scene.HasObserver(event) for event in events]
    window = ModuleWindow(MODULE_FILE).open()
    widget, parameters = window.widget, window.widget.logic.getParameterNode().parameterNode
    window.exit()
    window.enter()
    window.close()
    assert widget.Observations == []
    assert [scene.HasObserver(event) for event in events] == before
    assert not parameters.HasObserver(vtk.vtkCommand.ModifiedEvent)


def test_entering_again_and_again_adds_no_observer(window: Any) -> None:
    import gc

    kind = type(window.widget.logic.getParameterNode())
    counts = []
    for _ in range(3):
        window.exit()
        window.enter()
        gc.collect()
        counts.append(sum(type(one) is kind for one in gc.get_objects()))
    assert counts == [1, 1, 1]


def test_reload_takes_the_library_anew(window: Any) -> None:
    node = load_sample()
    window.ui.volumeSelector.setCurrentNode(node)
    old_widget, old_library = window.widget, sys.modules["SAM2PropagateLib.scene.volume"]
    before = {name: module for name, module in sys.modules.items() if name.startswith("SAM2PropagateLib")}
    try:
        window.widget.onReload()
        assert window.widget is not old_widget
        assert sys.modules["SAM2PropagateLib.scene.volume"] is not old_library
        assert old_widget.Observations == []
        assert window.ui.volumeSelector.currentNodeID == node.GetID()
        assert window.ui.volumeSelector.toolTip.startswith("122")
    finally:
        # Other tests hold classes of the library as it was.
        sys.modules.update(before)


def test_the_logic_works_without_a_window(window_modules: Any) -> None:
    from Headless.slicer_modules import ModuleWindow

    module = ModuleWindow(MODULE_FILE)
    logic = module.python.SAM2PropagateLogic()
    volume = logic.readVolume(load_sample())
    assert volume.array.shape == (112, 101, 122)
    session = logic.workerSession()
    assert session is logic.workerSession()
    assert not session.is_running and session.starts == 0
    logic.close()
    module.close()


def test_missing_packages_are_named(window_modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from Headless.slicer_modules import ModuleWindow

    module = ModuleWindow(MODULE_FILE)
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


def test_the_sample_is_registered_with_its_checksum(
    window_modules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib
    import types
    import urllib.request

    from Headless.slicer_modules import ModuleWindow

    registered: list[dict[str, Any]] = []
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **source: registered.append(source))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    module = ModuleWindow(MODULE_FILE)
    slicer.app.startupCompleted.emit()
    (source,) = registered
    with urllib.request.urlopen(source["uris"]) as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    assert source["checksums"] == f"SHA256:{digest}"
    module.close()


def test_the_self_tests_pass_without_slicer(window_modules: Any) -> None:
    import importlib.util
    import unittest

    from Headless.slicer_modules import ModuleWindow

    # The Data Probe has its parameters in the scene, too, and keeps them when it is closed.
    probe = slicer.vtkMRMLScriptedModuleNode()
    probe.SetSingletonTag("DataProbe")
    probe.SetModuleName("DataProbe")
    probe = slicer.mrmlScene.AddNode(probe)
    module = ModuleWindow(MODULE_FILE)
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
    # And as the button "Test" in Slicer runs it.
    module.python.SAM2PropagateTest().runTest()
    module.close()
    slicer.mrmlScene.RemoveNode(probe)


@pytest.mark.parametrize("segment_id", ['GTV "boost" <5mm', "Segment_1", "tab\there"])
def test_the_scene_loads_and_keeps_the_choice_whatever_a_segments_id_is(
    window: Any, window_modules: Any, tmp_path: Any, segment_id: str
) -> None:
    window.ui.volumeSelector.setCurrentNode(load_sample())
    segmentation = window.ui.segmentationSelector.addNode()
    segmentation.GetSegmentation().AddEmptySegment(segment_id, segment_id)
    window.ui.segmentsTable.setSelectedSegmentIDs([segment_id])
    assert window.widget.logic.controller.segmentID == segment_id
    window_modules.saveScene(tmp_path / "scene.mrb")
    window_modules.clear()
    window_modules.loadScene(tmp_path / "scene.mrb")
    assert window.widget.logic.controller.segmentID == segment_id
    # Slicer itself complains of a tab in the ID of a segment.
    window_modules.messages.clear()


def show(volume: Any) -> None:
    """As the application does with a volume that was loaded."""
    slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(volume.GetID())


def test_a_volume_that_is_loaded_while_the_module_is_open_is_taken(window: Any) -> None:
    slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(None)
    assert window.ui.volumeSelector.currentNode() is None
    hidden, first, second = load_sample(), load_sample(), load_sample()
    assert window.ui.volumeSelector.currentNode() is None, "it is not in the views"
    show(first)
    assert window.ui.volumeSelector.currentNodeID == first.GetID()
    assert window.widget.logic.getParameterNode().inputVolume is first
    show(second)
    assert window.ui.volumeSelector.currentNodeID == first.GetID(), "the choice stays"
    # Who chooses none gets none.
    window.ui.volumeSelector.setCurrentNode(None)
    slicer.app.applicationLogic().GetSelectionNode().Modified()
    assert window.ui.volumeSelector.currentNode() is None
    show(hidden)
    assert window.ui.volumeSelector.currentNodeID == hidden.GetID()


def test_a_volume_that_comes_with_many_nodes_is_taken_after_them(window: Any) -> None:
    scene = slicer.mrmlScene
    slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(None)
    scene.StartState(scene.BatchProcessState)
    show(load_sample())
    assert window.ui.volumeSelector.currentNode() is None
    scene.EndState(scene.BatchProcessState)
    assert window.ui.volumeSelector.currentNode() is not None


def test_no_volume_is_taken_while_another_module_is_in_view(window: Any) -> None:
    slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(None)
    window.exit()
    show(load_sample())
    assert window.widget.logic.getParameterNode().inputVolume is None
    window.enter()
    assert window.ui.volumeSelector.currentNode() is not None


def keys(window: Any) -> dict[str, bool]:
    """The window's keys that are the module's, and which of them are on."""
    import qt

    found = window.panel.findChildren(qt.QShortcut)
    return {one.key.toString(): bool(one.enabled) for one in found}


def press(window: Any, key: str) -> None:
    """Presses one of the module's keys, which must be on."""
    import qt

    (shortcut,) = (one for one in window.panel.findChildren(qt.QShortcut) if one.key.toString() == key)
    assert shortcut.enabled
    shortcut.activated.emit()


UNDO = {"Ctrl+Z": False, "Ctrl+Y": False, "Ctrl+Shift+Z": False}


def test_escape_and_delete_are_taken_only_while_they_have_something_to_do(window: Any) -> None:
    assert keys(window) == {"Esc": False, "Del": False, **UNDO}
    controller = window.widget.logic.controller
    controller._pointing._situation.refuses = lambda action: False
    controller.chooseTool("box")
    assert keys(window) == {"Esc": True, "Del": False, **UNDO}
    press(window, "Esc")
    assert controller.tool is None and keys(window) == {"Esc": False, "Del": False, **UNDO}
    window.widget.views._tellHover(True)
    assert keys(window) == {"Esc": False, "Del": True, **UNDO}
    window.widget.views._tellHover(False)
    assert keys(window) == {"Esc": False, "Del": False, **UNDO}
    controller.chooseTool("box")
    window.exit()
    assert controller.tool is None
    assert not any(keys(window).values())
    window.enter()
    window.enter()
    on = keys(window)
    assert on == {"Esc": False, "Del": False, **UNDO}


def test_the_keys_of_undo_and_redo_are_on_while_there_is_something_to_undo(window: Any) -> None:
    import qt

    def press(key: str) -> None:
        (found,) = [one for one in window.panel.findChildren(qt.QShortcut) if one.key.toString() == key]
        assert found.enabled
        found.activated.emit()
        assert controller.wait(5)

    show(load_sample())
    controller = window.widget.logic.controller
    window.ui.segmentationSelector.addNode()
    first = controller.workspace.segmentIDs
    controller.addSegment()
    assert keys(window) == {"Esc": False, "Del": False, **UNDO, "Ctrl+Z": True}
    press("Ctrl+Z")
    assert controller.workspace.segmentIDs == first
    redo = {"Ctrl+Y": True, "Ctrl+Shift+Z": True}
    assert keys(window) == {"Esc": False, "Del": False, **UNDO, **redo}
    for key in redo:
        press(key)
        assert len(controller.workspace.segmentIDs) == len(first) + 1
        press("Ctrl+Z")
        assert controller.workspace.segmentIDs == first
    window.exit()
    assert not any(keys(window).values())
    window.enter()
    assert keys(window) == {"Esc": False, "Del": False, **UNDO, **redo}
