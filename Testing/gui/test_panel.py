"""The panel's wiring: buttons and their reasons, choices both ways, messages, commits through the editor.

How widgets behave is not asserted here: they are stand-ins.
"""

# ruff: noqa: N815

from __future__ import annotations

import gc
import importlib.util
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import vtk

from Testing.gui.conftest import MODULE_FILE

TOOLS = ("positive", "negative", "box", "absent", "lock", "range")


class Effect:
    """An effect of the Segment Editor, as far as commits use one."""

    def __init__(self, editor: Any) -> None:
        self.editor = editor
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(slicer.mrmlScene)
        editor._standin_effects = {"Paint": self}

    def referenceGeometryImage(self) -> Any:  # noqa: N802
        # The editor may have got other settings since.
        self.logic.SetSegmentEditorNode(self.editor.mrmlSegmentEditorNode())
        self.logic.UpdateReferenceGeometryImage()
        return self.logic.GetReferenceGeometryImage()

    def maskLabelmap(self) -> Any:  # noqa: N802
        return self.logic.GetMaskLabelmap() if self.logic.UpdateMaskLabelmap() else None

    def sourceVolumeImageData(self) -> Any:  # noqa: N802
        return self.logic.GetAlignedSourceVolume() if self.logic.UpdateAlignedSourceVolume() else None

    def modifySegmentByLabelmap(self, node: Any, segment: str, labelmap: Any, mode: int) -> None:  # noqa: N802
        assert self.editor.mrmlSegmentEditorNode().GetSelectedSegmentID() == segment
        kinds = (self.logic.ModificationModeAdd, self.logic.ModificationModeRemove)
        kind = next(one for one in kinds if int(one) == mode)
        self.logic.ModifySegmentByLabelmap(node, segment, labelmap, kind, labelmap.GetExtent(), True, False)


class ScriptedDialogs:
    """A user who answers as the test says."""

    def __init__(self, answer: bool = True) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.logs: list[str] = []
        self.path = ""

    def agree(self, text: str, title: str) -> bool:
        self.asked.append(text)
        return self.answer

    def showLog(self, text: str, log: str) -> None:  # noqa: N802
        self.logs.append(log)

    def copyText(self, text: str) -> None:  # noqa: N802
        self.copied = text

    def chooseWeights(self) -> str:  # noqa: N802
        return self.path


class Desk:
    """The open module, and a session that answers by itself."""

    def __init__(self, module: Any) -> None:
        from Headless.fake_session import AnsweringSession

        self.module, self.ui, self.widget = module, module.ui, module.widget
        self.logic, self.controller = self.widget.logic, self.widget.logic.controller
        self.session = AnsweringSession()
        self.logic.makeSession = lambda: self.session
        self.dialogs = ScriptedDialogs()
        self.widget.panel.messages.dialogs = self.dialogs
        self.parameters = self.logic.getParameterNode()

    def load(self) -> None:
        """A volume, a segmentation made in the panel, and effects in the editor."""
        from Headless.boot import boot
        from Testing.scene.geometries import addCase

        self.volume = addCase(boot(), "plain")
        self.ui.volumeSelector.setCurrentNode(self.volume)
        self.segmentation = self.ui.segmentationSelector.addNode()
        Effect(self.ui.segmentEditor)

    def click(self, frame: int = 8, tool: str = "positive") -> None:
        workspace = self.controller.workspace
        self.controller.point(tool, workspace.geometry.ras_of_pixel(12, 15, frame, 2), (0, 0, 1))
        self.settle()

    def settle(self, until: Callable[[], bool] | None = None) -> None:
        """Lets Qt's timers run until nothing is awaited."""
        from PySide6 import QtCore

        until = until or (lambda: not self.controller.isWaiting)
        end = time.monotonic() + 60
        while not until() and time.monotonic() < end:
            QtCore.QCoreApplication.processEvents()
            time.sleep(0.002)
        assert until()

    def voxels(self) -> int:
        from SAM2PropagateLib.scene.segments import SegmentReader

        reader = SegmentReader(
            self.segmentation, self.controller.segmentID, self.controller.workspace.geometry
        )
        return int(reader.array().sum())


@pytest.fixture
def desk(module: Any) -> Iterator[Desk]:
    return Desk(module)


def test_what_is_not_possible_says_why(desk: Desk) -> None:
    ui = desk.ui
    for name in TOOLS:
        button = getattr(ui, f"{name}ToolButton")
        assert not button.enabled and button.toolTip == "Choose a volume first."
    for name in ("propagate", "apply", "discard", "undo", "clearPrompts", "nextDoubtful"):
        button = getattr(ui, f"{name}Button")
        assert not button.enabled and button.toolTip.endswith("."), name


def test_a_new_segmentation_has_a_segment_and_the_tools_can_be_pressed(desk: Desk) -> None:
    desk.load()
    assert desk.segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert desk.controller.segmentID == desk.parameters.segmentID != ""
    assert desk.ui.segmentsTable.selectedSegmentIDs() == (desk.controller.segmentID,)
    for name in TOOLS:
        button = getattr(desk.ui, f"{name}ToolButton")
        assert button.enabled and "(" in button.toolTip
    assert not desk.ui.propagateButton.enabled and "Click on the structure" in desk.ui.propagateButton.toolTip


def test_one_tool_is_on_at_a_time(desk: Desk) -> None:
    desk.load()
    desk.ui.positiveToolButton.click()
    assert desk.controller.tool == "positive"
    desk.ui.boxToolButton.click()
    assert desk.controller.tool == "box"
    assert [name for name in TOOLS if getattr(desk.ui, f"{name}ToolButton").checked] == ["box"]
    desk.ui.boxToolButton.click()
    assert desk.controller.tool is None and not desk.ui.boxToolButton.checked


def test_a_tool_and_an_effect_take_the_mouse_from_each_other(desk: Desk) -> None:
    desk.load()
    desk.ui.positiveToolButton.click()
    desk.ui.segmentEditor.setActiveEffectByName("Paint")
    assert desk.controller.tool is None
    desk.ui.negativeToolButton.click()
    assert desk.controller.tool == "negative"
    assert not desk.ui.segmentEditor.mrmlSegmentEditorNode().GetActiveEffectName()


def test_all_slices_can_be_computed_anew(desk: Desk) -> None:
    desk.load()
    assert not desk.widget.panel.run.anew.enabled and desk.widget.panel.run.anew.toolTip.endswith(".")
    desk.click()
    desk.widget.panel.run.anew.trigger()
    assert not desk.widget.panel.run.anew.enabled
    desk.settle()
    assert desk.session.asked[-1][1][2]["anew"]
    desk.ui.propagateButton.click()
    desk.settle()
    assert not desk.session.asked[-1][1][2]["anew"]


def test_an_effect_works_on_what_the_preview_shows(desk: Desk) -> None:
    desk.load()
    desk.click()
    assert desk.voxels() == 0 and desk.controller.workspace.hasPreview
    shown = int(desk.controller.workspace.maskNow(desk.controller.segmentID, 8).sum())
    desk.ui.segmentEditor.setActiveEffectByName("Erase")
    desk.settle(lambda: not desk.controller.workspace.hasPreview)
    assert desk.voxels() == shown > 0
    assert "Use Undo to revert" in desk.ui.messageLabel.text


def test_an_effect_that_is_on_works_on_what_a_run_leaves(desk: Desk) -> None:
    desk.load()
    desk.click()
    desk.ui.applyAutomaticallyCheckBox.setChecked(False)
    desk.ui.segmentEditor.setActiveEffectByName("Erase")
    desk.settle(lambda: not desk.controller.workspace.hasPreview)
    before = desk.voxels()
    desk.ui.propagateButton.click()
    desk.settle(lambda: not desk.controller.isRunning)
    desk.settle(lambda: not desk.controller.workspace.hasPreview)
    assert desk.voxels() > before


def test_choices_are_kept_in_the_parameter_node_both_ways(desk: Desk) -> None:
    ui, parameters = desk.ui, desk.parameters
    ui.directionComboBox.setCurrentIndex(1)
    ui.deviceComboBox.setCurrentIndex(3)
    ui.limitReachCheckBox.setChecked(True)
    ui.reachSpinBox.setValue(7)
    ui.allSegmentsCheckBox.setChecked(True)
    ui.applyAutomaticallyCheckBox.setChecked(False)
    assert desk.controller.choices.motion
    ui.motionCheckBox.setChecked(False)
    assert not desk.controller.choices.run.all_axes
    ui.allAxesCheckBox.setChecked(True)
    choices = desk.controller.choices
    assert choices.run.all_axes
    assert (choices.run.direction, choices.device, choices.run.reach) == ("forward", "cpu", 7)
    assert choices.allSegments and not choices.applyAutomatically and not choices.motion
    parameters.direction = "backward"
    parameters.limitReach = parameters.allAxes = False
    assert not ui.allAxesCheckBox.checked and not desk.controller.choices.run.all_axes
    parameters.model = "sam2.1_hiera_small"
    assert ui.directionComboBox.itemData(ui.directionComboBox.currentIndex) == "backward"
    assert ui.modelComboBox.itemData(ui.modelComboBox.currentIndex) == "sam2.1_hiera_small"
    assert desk.controller.choices.run.reach is None and not ui.reachSpinBox.enabled
    assert "not on this computer yet" in ui.modelStatusLabel.text
    assert ui.downloadModelButton.enabled and not ui.removeModelButton.enabled
    desk.load()
    assert "Download it" in ui.positiveToolButton.toolTip


def test_a_run_from_click_to_undo_through_the_segment_editor(desk: Desk) -> None:
    desk.load()
    desk.click()
    assert desk.ui.propagateButton.enabled and desk.ui.undoButton.enabled
    desk.ui.propagateButton.click()
    assert desk.ui.runStack.currentWidget() is desk.ui.runningPage and desk.ui.cancelButton.enabled
    desk.settle()
    assert desk.ui.runStack.currentWidget() is desk.ui.idlePage
    assert desk.ui.resultLabel.text.startswith("18 slices")
    assert desk.voxels() > 18
    # Undo beside the effects takes the run back, as the one of the panel does.
    undo, redo = editors_buttons(desk)
    assert undo.enabled and undo.toolTip == desk.ui.undoButton.toolTip == "Undo propagate (18 slices)"
    assert not redo.enabled and redo.toolTip == "There is nothing to redo."
    undo.click()
    desk.settle()
    assert desk.voxels() == 0
    assert undo.toolTip == "Undo click" and redo.toolTip == "Redo propagate (18 slices)"
    redo.click()
    desk.settle()
    assert desk.voxels() > 18
    desk.ui.undoButton.click()
    desk.settle()
    desk.ui.undoButton.click()
    desk.settle()
    assert desk.controller.workspace.prompts.is_empty
    assert desk.ui.redoButton.toolTip == redo.toolTip == "Redo click"


def editors_buttons(desk: Desk) -> list[Any]:
    """Undo and Redo in the embedded Segment Editor; those that it brings along are not seen."""

    def found(name: str) -> Any:
        (button,) = slicer.util.findChildren(desk.ui.segmentEditor, name=name)
        return button

    assert [found(name).isHidden() for name in ("UndoButton", "RedoButton")] == [True, True]
    return [found("moduleUndoButton"), found("moduleRedoButton")]


def test_edits_are_undone_with_the_name_of_the_effect_one_by_one(desk: Desk) -> None:
    from Headless.scenes import fillSegment

    desk.load()
    node = desk.ui.segmentEditor.mrmlSegmentEditorNode()
    shape = desk.controller.workspace.geometry.shape_ijk[::-1]
    counts = [desk.voxels()]
    for number, effect in enumerate(("Paint", "Paint", "Erase")):
        node.SetActiveEffectName(effect)
        # The panel has a moment before the first stroke.
        desk.settle(lambda: desk.controller.workspace.states.isKept)
        whole = np.zeros(shape, bool)
        whole[5, 5:10, 5 : 10 + (3 if number == 1 else 0)] = True
        fillSegment(desk.segmentation, desk.controller.segmentID, desk.volume, whole)
        desk.settle(lambda: not desk.controller.workspace.states.isChanged)
        counts.append(desk.voxels())
    names = []
    while desk.controller.canUndo:
        names.append(desk.ui.undoButton.toolTip)
        assert desk.controller.undo()
        counts.append(desk.voxels())
    assert names == ["Undo erase", "Undo paint", "Undo paint"]
    assert counts[3:] == counts[3::-1] and counts[0] == 0 and counts[2] > counts[1] > 0


def test_cancel_apply_and_discard(desk: Desk) -> None:
    from SAM2PropagateLib.app.events import Progress

    desk.load()
    desk.ui.applyAutomaticallyCheckBox.setChecked(False)
    desk.click()
    desk.session.framesPerPoll = 1
    desk.ui.propagateButton.click()
    desk.settle(lambda: len(desk.controller.workspace.previewFrames(desk.controller.segmentID)) > 3)
    text = "4 of 18 slices, 8.5/s, 2 s left"
    desk.controller.progress.emit(Progress(4, 18, 8.5, 2.0, text))
    bar = desk.ui.progressBar
    assert (bar.format, bar.value, bar.maximum) == (text, 4, 18)
    desk.ui.cancelButton.click()
    desk.settle()
    assert desk.ui.resultLabel.text.startswith("Cancelled: ") and desk.voxels() == 0
    assert desk.ui.applyButton.enabled and not desk.ui.applyButton.isHidden()
    desk.ui.applyButton.click()
    # It goes on in turns; meanwhile nothing is written.
    assert desk.voxels() == 0 and desk.ui.resultLabel.text == "Applying"
    assert not desk.ui.applyButton.enabled and not desk.ui.discardButton.enabled
    assert desk.ui.applyButton.toolTip == "The preview is being applied."
    desk.settle()
    kept = desk.voxels()
    assert kept > 0 and not desk.ui.applyButton.enabled
    assert desk.ui.applyButton.isHidden() and desk.ui.discardButton.isHidden()
    desk.click(3)
    desk.ui.discardButton.click()
    assert not desk.controller.workspace.hasPreview and desk.voxels() == kept


def test_the_timer_runs_only_while_an_answer_is_awaited(desk: Desk) -> None:
    desk.load()
    timer = desk.logic.ticker
    assert not timer.isOn
    desk.controller.point("positive", desk.controller.workspace.geometry.ras_of_pixel(9, 9, 4, 2))
    assert timer.isOn
    desk.settle()
    desk.settle(lambda: not timer.isOn)


def test_messages_with_their_log_one_click_away(desk: Desk) -> None:
    from SAM2PropagateLib.errors import SAM2PropagateError

    desk.load()
    assert desk.ui.messageFrame.isHidden()
    desk.controller.point("positive", (9999, 0, 0))
    assert not desk.ui.messageFrame.isHidden() and "outside" in desk.ui.messageLabel.text
    assert desk.ui.logButton.isHidden()
    desk.ui.dismissButton.click()
    assert desk.ui.messageFrame.isHidden()
    desk.session.dies = SAM2PropagateError("worker_died", "The worker ended unexpectedly.", "Try again.")
    desk.click()
    assert "ended unexpectedly" in desk.ui.messageLabel.text
    desk.ui.logButton.click()
    assert desk.dialogs.logs == ["last words"]


def test_errors_look_like_errors_and_the_last_one_can_be_shown_again(desk: Desk) -> None:
    from SAM2PropagateLib.app.events import UserMessage

    panel, ui = desk.widget.panel, desk.ui
    assert not ui.errorButton.enabled and ui.errorButton.toolTip == "No error has happened."
    looks = {}
    for level in ("info", "warning", "error"):
        panel.say(UserMessage(level, f"{level}.", log=("last words",) if level == "error" else ()))
        image = ui.messageIcon.pixmap.toImage()
        looks[level] = {image.pixel(x, y) for x in range(image.width()) for y in range(image.height())}
        assert ui.messageLabel.text == f"{level}." and not ui.messageFrame.isHidden()
    assert ui.messageIcon.toolTip == "Error"
    assert looks["info"] != looks["warning"] != looks["error"] != looks["info"]
    assert ui.logButton.text == "Log …" and not ui.logButton.isHidden()
    # A hint comes after it, and takes nothing away.
    panel.say(UserMessage("info", "hint."))
    assert ui.logButton.text == "Last error …" and not ui.logButton.isHidden()
    ui.logButton.click()
    ui.dismissButton.click()
    ui.errorButton.click()
    assert desk.dialogs.logs == ["last words"] * 2
    # The log of another message is its own.
    panel.say(UserMessage("warning", "warning.", log=("its own",)))
    ui.logButton.click()
    assert desk.dialogs.logs[-1] == "its own"
    panel.say(UserMessage("error", "another."))
    ui.errorButton.click()
    assert desk.dialogs.logs[-1] == "" and ui.logButton.isHidden()
    slicer.mrmlScene.Clear(False)
    assert not ui.errorButton.enabled and ui.logButton.isHidden()


def test_devices_that_this_computer_cannot_have_are_disabled_and_say_why(
    stand_ins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qt

    from Headless.slicer_modules import ModuleInSlicer
    from SAM2PropagateLib.gui import devices

    def listed(box: Any) -> dict[str, tuple[bool, str]]:
        return {
            box.itemData(n): (
                box.model().item(n).isEnabled(),
                box.itemData(n, qt.Qt.ItemDataRole.ToolTipRole) or "",
            )
            for n in range(box.count)
        }

    for system, machine, driver, off in (
        ("linux", "x86_64", True, {"mps"}),
        ("win32", "AMD64", False, {"mps"}),
        ("darwin", "arm64", False, {"cuda"}),
        ("darwin", "x86_64", False, {"cuda", "mps"}),
    ):
        monkeypatch.setattr(devices.sys, "platform", system)
        monkeypatch.setattr(devices.platform, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(devices, "hasDriver", lambda driver=driver: driver)
        made = {one.name: one for one in devices.devices()}
        assert {name for name, one in made.items() if one.whyNot} == off
        assert bool(made["cuda"].help) == (system != "darwin" and not driver)
    monkeypatch.undo()
    monkeypatch.setattr(devices.sys, "platform", "linux")
    monkeypatch.setattr(devices, "hasDriver", lambda: False)
    module = ModuleInSlicer(MODULE_FILE)
    desk = Desk(module.open())
    box = desk.ui.deviceComboBox
    found = listed(box)
    assert found["mps"] == (False, "Only Macs with Apple silicon have this.")
    assert found["cuda"] == (True, "No NVIDIA driver was found on this computer.")
    assert found["auto"] == found["cpu"] == (True, "")
    assert box.toolTip == "Choose what the model runs on."
    # As a scene from another computer has it.
    desk.parameters.device = "mps"
    assert box.itemData(box.currentIndex) == "mps" == desk.controller.choices.device
    assert box.toolTip.endswith("Only Macs with Apple silicon have this.")
    module.close()


def test_what_is_gray_in_the_panel_says_why(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    ui = desk.ui
    assert not ui.reachSpinBox.enabled and "At most" in ui.reachSpinBox.toolTip
    ui.limitReachCheckBox.setChecked(True)
    assert ui.reachSpinBox.enabled and ui.reachSpinBox.toolTip == "Slices from every keyframe."
    installer = desk.logic.installer
    monkeypatch.setattr(type(installer), "isRunning", True)
    installer.progress.emit("Installing …")
    assert not ui.installButton.enabled and ui.installButton.toolTip == "The installation is running."
    desk.widget.panel.refresh()
    assert not ui.installButton.enabled and ui.installButton.toolTip == "The installation is running."


def test_segments_are_added_chosen_and_removed_in_place(desk: Desk) -> None:
    desk.load()
    first = desk.controller.segmentID
    desk.ui.addSegmentButton.click()
    second = desk.controller.segmentID
    assert second not in ("", first)
    assert desk.ui.segmentEditor.currentSegmentID() == second
    desk.ui.segmentsTable.setSelectedSegmentIDs([first])
    assert desk.controller.segmentID == first
    desk.ui.segmentsTable.setSelectedSegmentIDs([second])
    assert desk.controller.segmentID == second == desk.ui.segmentEditor.currentSegmentID()
    desk.click()
    desk.ui.removeSegmentButton.click()
    assert desk.controller.segmentID == first
    # Undo and Redo choose what was chosen.
    desk.ui.addSegmentButton.click()
    third = desk.controller.segmentID
    for button, chosen in (
        (desk.ui.undoButton, first), (desk.ui.undoButton, second), (desk.ui.redoButton, first),
        (desk.ui.redoButton, third), (desk.ui.undoButton, first),
    ):  # fmt: skip
        button.click()
        desk.settle()
        assert desk.controller.segmentID == chosen == desk.ui.segmentsTable.selectedSegmentIDs()[0]
        assert desk.parameters.segmentID == chosen
    # Its prompts are there for Undo, and not seen.
    [node] = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
    assert not node.GetDisplayNode().GetVisibility()
    # In another module.
    desk.segmentation.GetSegmentation().RemoveSegment(first)
    assert desk.controller.segmentID == "" and not desk.ui.removeSegmentButton.enabled
    desk.segmentation.GetSegmentation().AddEmptySegment("other", "other")
    assert desk.controller.segmentID == "other" and desk.ui.removeSegmentButton.enabled


def test_a_segment_that_cannot_be_removed_stays_chosen(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAM2PropagateLib.errors import SAM2PropagateError

    desk.load()
    desk.ui.addSegmentButton.click()
    second = desk.controller.segmentID

    def fail(segmentID: str) -> None:  # noqa: N803
        raise SAM2PropagateError("broken", f"The segment {segmentID} cannot be removed.")

    monkeypatch.setattr(desk.controller.workspace.committer, "removeSegment", fail)
    desk.ui.removeSegmentButton.click()
    assert desk.controller.segmentID == second == desk.ui.segmentsTable.selectedSegmentIDs()[0]


def test_the_editor_choosing_a_segment_by_itself_changes_no_choice(desk: Desk) -> None:
    desk.load()
    editor = desk.ui.segmentEditor
    desk.ui.addSegmentButton.click()
    second = desk.controller.segmentID
    # It selects the first segment of a segmentation that it gets.
    editor.mrmlSegmentEditorNode().SetAndObserveSegmentationNode(None)
    editor.mrmlSegmentEditorNode().SetAndObserveSegmentationNode(desk.segmentation)
    assert desk.controller.segmentID == second == desk.parameters.segmentID == editor.currentSegmentID()
    desk.module.exit()
    desk.module.enter()
    assert desk.controller.segmentID == second == desk.parameters.segmentID == editor.currentSegmentID()


def test_the_chosen_segment_is_there_when_the_module_is_opened_again(stand_ins: Any) -> None:
    from Headless.slicer_modules import ModuleInSlicer

    desk = Desk(ModuleInSlicer(MODULE_FILE).open())
    desk.load()
    desk.ui.addSegmentButton.click()
    second = desk.controller.segmentID
    desk.module.close()
    # The new editor begins with the first segment.
    desk = Desk(ModuleInSlicer(MODULE_FILE).open())
    assert desk.controller.segmentID == second == desk.parameters.segmentID
    assert desk.ui.segmentEditor.currentSegmentID() == second
    desk.module.close()


def test_the_chosen_segment_comes_back_with_the_scene(desk: Desk, stand_ins: Any, tmp_path: Any) -> None:
    desk.load()
    desk.ui.addSegmentButton.click()
    second = desk.controller.segmentID
    stand_ins.saveScene(tmp_path / "scene.mrb")
    for is_open in (True, False):
        slicer.mrmlScene.Clear(False)
        if not is_open:
            desk.module.exit()
        stand_ins.loadScene(tmp_path / "scene.mrb")
        if not is_open:
            desk.module.enter()
        assert desk.logic.getParameterNode().segmentID == second == desk.controller.segmentID
        assert desk.ui.segmentEditor.currentSegmentID() == second
        assert desk.ui.segmentsTable.selectedSegmentIDs() == (second,)


def test_a_reload_leaves_the_old_editor_without_a_hand_in_the_new_one(desk: Desk) -> None:
    desk.load()
    desk.ui.addSegmentButton.click()
    second = desk.controller.segmentID
    old = desk.ui.segmentEditor
    import sys

    before = {name: module for name, module in sys.modules.items() if name.startswith("SAM2PropagateLib")}
    try:
        desk.widget.onReload()
        assert old.mrmlSegmentEditorNode() is None
        assert desk.module.widget.logic.controller.segmentID == second
    finally:
        sys.modules.update(before)


def test_the_embedded_editor_shows_what_corrects_a_slice_and_no_second_list(desk: Desk) -> None:
    editor = desk.ui.segmentEditor
    assert editor.effectNameOrder() == ("Paint", "Erase", "Scissors", "Islands", "Smoothing")
    assert not editor.unorderedEffectsVisible
    assert editor._standin_frame.isHidden() and not desk.ui.segmentsTable.isHidden()


def test_the_views_keep_what_they_show_until_the_user_chooses_a_volume_here(
    stand_ins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from Headless.boot import boot
    from Headless.scenes import addSegmentation
    from Headless.slicer_modules import ModuleInSlicer
    from Testing.scene.geometries import addCase

    shown, other = addCase(boot(), "plain"), addCase(boot(), "plain")
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "theirs")
    logics = []
    # Slice nodes outlive the clearing of a scene: these are nobody else's, and can be saved and loaded.
    for name in ("Theirs1", "Theirs2"):
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLScene(slicer.mrmlScene)
        logic.AddSliceNode(name).SetOrientation("Axial")
        logics.append(logic)
    red, empty = (logic.GetSliceCompositeNode() for logic in logics)
    red.SetBackgroundVolumeID(shown.GetID())
    red.SetForegroundVolumeID(labels.GetID())
    red.SetLabelVolumeID(labels.GetID())
    empty.SetBackgroundVolumeID(None)
    module = ModuleInSlicer(MODULE_FILE).open()
    try:
        module.ui.segmentationSelector.setCurrentNode(addSegmentation(boot(), other, {"A": (0, 1, 0)}))
        module.ui.volumeSelector.setCurrentNode(other)
        assert module.widget.logic.controller.workspace is not None
        assert red.GetBackgroundVolumeID() == shown.GetID() and empty.GetBackgroundVolumeID() is None
        assert red.GetForegroundVolumeID() == red.GetLabelVolumeID() == labels.GetID()
        # As while a scene is loaded: the editor sees its segmentation at the end of it.
        loaded = addSegmentation(boot(), other, {"B": (0, 0, 1)})
        slicer.mrmlScene.StartState(slicer.vtkMRMLScene.BatchProcessState)
        module.widget.logic.getParameterNode().segmentation = loaded
        slicer.mrmlScene.EndState(slicer.vtkMRMLScene.BatchProcessState)
        assert module.ui.segmentEditor._standin_segmentation is loaded
        assert red.GetForegroundVolumeID() == red.GetLabelVolumeID() == labels.GetID()
        # With the mouse, in the panel.
        layout = Layout()
        layout.logics = logics
        slicer.app.__dict__["_standin_layout"] = layout
        module.ui.volumeSelector.nodeActivated.emit(other)
        assert red.GetBackgroundVolumeID() == other.GetID() == empty.GetBackgroundVolumeID()
        assert red.GetForegroundVolumeID() == red.GetLabelVolumeID() == labels.GetID()
    finally:
        slicer.app.__dict__.pop("_standin_layout", None)
        module.close()
        for logic in logics:
            logic.SetMRMLScene(None)


def test_a_reach_of_no_slices_cannot_be_chosen(desk: Desk) -> None:
    ui, parameters = desk.ui, desk.parameters
    ui.limitReachCheckBox.setChecked(True)
    for wrong, right in ((0, 1), (-5, 1), (2**31 - 1, 9999)):
        ui.reachSpinBox.setValue(wrong)
        assert ui.reachSpinBox.value == right == parameters.reach == desk.controller.choices.run.reach
        with pytest.raises(ValueError):
            parameters.reach = wrong
    # What an older scene may hold.
    parameters.parameterNode.SetParameter("reach", "-3")
    assert desk.controller.choices.run.reach == 1


def test_a_commit_leaves_the_chosen_segment_chosen(desk: Desk) -> None:
    desk.load()
    first = desk.controller.segmentID
    desk.click()
    desk.ui.addSegmentButton.click()
    second = desk.controller.segmentID
    desk.controller.point("positive", desk.controller.workspace.geometry.ras_of_pixel(30, 25, 8, 2))
    desk.ui.allSegmentsCheckBox.setChecked(True)
    desk.settle()
    desk.ui.propagateButton.click()
    desk.settle()
    assert desk.controller.segmentID == second == desk.ui.segmentEditor.currentSegmentID()
    assert first != second and desk.voxels() > 18


def test_a_neighbor_stays_whole_unless_the_user_says_otherwise(desk: Desk) -> None:
    desk.load()
    first = desk.controller.segmentID
    desk.click()
    desk.ui.propagateButton.click()
    desk.settle()
    whole = desk.voxels()
    desk.ui.addSegmentButton.click()
    desk.click()
    desk.ui.propagateButton.click()
    desk.settle()
    assert desk.voxels() == whole
    desk.ui.segmentsTable.setSelectedSegmentIDs([first])
    assert desk.voxels() == whole
    # The same with "Overwrite all" in the embedded Segment Editor: the second run takes the voxels.
    desk.controller.undo()
    node = desk.ui.segmentEditor.mrmlSegmentEditorNode()
    node.SetOverwriteMode(node.OverwriteAllSegments)
    desk.ui.addSegmentButton.click()
    desk.click()
    desk.ui.propagateButton.click()
    desk.settle()
    desk.ui.segmentsTable.setSelectedSegmentIDs([first])
    assert desk.voxels() == 0


def test_a_neighbor_stays_whole_when_a_script_drives_the_logic_of_a_panel_out_of_view(
    stand_ins: Any,
) -> None:
    """Closing the scene has brought Slicer's own default back into the editor's settings."""
    from Headless.fake_session import AnsweringSession
    from Headless.scenes import addSegmentation, fillSegment
    from Headless.slicer_modules import ModuleInSlicer
    from SAM2PropagateLib.scene.segments import SegmentReader
    from Testing.scene.geometries import addCase

    module = ModuleInSlicer(MODULE_FILE).open()
    module.exit()
    slicer.mrmlScene.Clear(False)
    settings = slicer.mrmlScene.GetSingletonNode("SAM2Propagate", "vtkMRMLSegmentEditorNode")
    assert settings.GetOverwriteMode() == 0
    logic = module.widget.logic
    logic.makeSession = AnsweringSession
    volume = addCase(stand_ins, "plain")
    segmentation = addSegmentation(stand_ins, volume, {"A": (0, 1, 0), "B": (1, 0, 0)})
    neighbor = np.zeros((18, 36, 40), bool)
    neighbor[4:12, 12:20, 10:14] = True
    fillSegment(segmentation, "B", volume, neighbor)
    logic.controller.select(volume, segmentation, "A")
    geometry = logic.controller.workspace.geometry
    Effect(module.ui.segmentEditor)
    texts: list[str] = []
    logic.controller.message.connect(lambda message: texts.append(message.text))
    assert logic.preview("A", geometry.ras_of_pixel(12, 15, 8, 2)) and logic.controller.wait(60)
    assert logic.propagate("A") and logic.controller.wait(60)
    assert SegmentReader(segmentation, "A", geometry).array()[neighbor].any(), texts
    np.testing.assert_array_equal(SegmentReader(segmentation, "B", geometry).array(), neighbor)
    module.close()


@pytest.mark.parametrize("broken", ["segment", "area", "range"])
def test_masking_that_fails_is_told_as_such_and_nothing_is_written(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    desk.load()
    desk.click()
    node = desk.ui.segmentEditor.mrmlSegmentEditorNode()
    modes = slicer.vtkMRMLSegmentationNode
    if broken == "segment":
        node.SetMaskMode(modes.EditAllowedInsideSingleSegment)
        node.SetMaskSegmentID("gone")
    elif broken == "area":
        node.SetMaskMode(modes.EditAllowedOutsideAllSegments)
        monkeypatch.setattr(Effect, "maskLabelmap", lambda self: None)
    else:
        node.SetSourceVolumeIntensityMask(True)
        monkeypatch.setattr(Effect, "sourceVolumeImageData", lambda self: None)
    desk.ui.applyButton.click()
    desk.settle()
    wanted = {
        "segment": "only in a segment that this segmentation does not have",
        "area": "“Editable area” of the Segment Editor could not be computed",
        "range": "“Editable intensity range” of the Segment Editor could not be applied",
    }
    assert wanted[broken] in desk.ui.messageLabel.text and "Nothing was written" in desk.ui.messageLabel.text
    assert desk.voxels() == 0 and desk.controller.workspace.hasPreview
    # Without the obstacle the same preview is written.
    monkeypatch.undo()
    node.SetMaskMode(modes.EditAllowedEverywhere)
    node.SetSourceVolumeIntensityMask(False)
    desk.ui.applyButton.click()
    desk.settle()
    assert desk.voxels() > 0


def test_masking_that_works_is_applied(desk: Desk) -> None:
    desk.load()
    desk.click()
    node = desk.ui.segmentEditor.mrmlSegmentEditorNode()
    node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideAllSegments)
    desk.ui.applyButton.click()
    desk.settle()
    assert desk.voxels() == 0


# Slicer's Qt 5 has no other name for it.
@pytest.mark.filterwarnings("ignore:Function. 'QMouseEvent.pos:DeprecationWarning")
def test_hovering_over_the_strip_says_what_is_known_of_that_slice(desk: Desk) -> None:
    import qt

    desk.load()
    desk.click()
    desk.ui.propagateButton.click()
    desk.settle()
    strip = desk.widget.panel.run.strip
    strip.resize(180, 56)  # ten pixels for each of the 18 slices
    texts = {}
    for frame in (0, 8, 17):
        at = qt.QPointF(10 * frame + 4, 20)
        move, button = qt.QEvent.Type.MouseMove, qt.Qt.MouseButton.NoButton
        none = qt.Qt.KeyboardModifier.NoModifier
        qt.QApplication.sendEvent(strip, qt.QMouseEvent(move, at, at, button, button, none))
        texts[frame], _, legend = strip.toolTip.replace("<br>", "\n").partition("<hr>")
        assert "notched: preview" in legend
    facts = {frame: desk.controller.strip().frames[frame] for frame in texts}
    assert texts[8].splitlines()[:2] == ["Slice 9 of 18", "keyframe with prompts"]
    for frame in (0, 17):
        doubt, estimate = facts[frame].doubt, facts[frame].facts.predictedIou
        assert texts[frame].splitlines() == [
            f"Slice {frame + 1} of 18",
            "propagated",
            f"Doubt {doubt:.0%} · model's own estimate of overlap {estimate:.0%}",
        ]
    assert len({facts[frame].doubt for frame in texts}) > 1, "else any slice's number would do"
    at = qt.QPointF(500, 20)
    qt.QApplication.sendEvent(strip, qt.QMouseEvent(move, at, at, button, button, none))
    assert "Slice" not in strip.toolTip and "absent" in strip.toolTip


def test_a_strip_of_more_slices_than_pixels_shows_every_mark(desk: Desk) -> None:
    import qt

    from SAM2PropagateLib.app.strip import FrameFacts, strip
    from SAM2PropagateLib.gui import strip_widget

    drawn = desk.widget.panel.run.strip
    facts = {n: FrameFacts("propagated", 0.9 if n == 333 else 0.1) for n in range(800)}
    marks = {"keyframes": 401, "edited": 402, "absent": 555, "locked": 799}
    one = strip(800, facts, **{name: frozenset({frame}) for name, frame in marks.items()})
    drawn.setStrip(one, 401)
    image = drawn.grab().toImage()
    width, height = image.width(), image.height()
    assert 100 < width < 500
    assert strip_widget.COLORS["propagated"] == qt.QColor(image.pixel(width // 5, height - 1)).name()
    for frame in marks.values():
        first, end = one.place(frame, width)
        seen = {qt.QColor(image.pixel(x, y)).name() for x in range(first, end) for y in range(height)}
        assert strip_widget.COLORS[one.frames[frame].drawnAs] in seen, frame
    peak = one.middle(333, width)
    seen = {qt.QColor(image.pixel(x, y)).name() for x in (peak - 1, peak) for y in range(10)}
    assert strip_widget.DOUBT in seen


def test_the_line_of_the_slice_in_view_follows_the_wheel_at_little_cost(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PySide6 import QtCore

    desk = Desk(module)
    layout = Layout()
    layout.node.SetMappedInLayout(1)
    event = vtk.vtkCommand.ModifiedEvent
    before = layout.node.HasObserver(event)
    slicer.app.__dict__["_standin_layout"] = layout
    try:
        module.exit()
        module.enter()
        desk.load()
        layout.node.SetOrientation("Axial")
        workspace, strip = desk.controller.workspace, desk.widget.panel.run.strip
        assert "slice in view" in strip.toolTip

        def scroll(frame: int) -> None:
            layout.node.JumpSliceByOffsetting(*workspace.geometry.ras_of_ijk((12, 15, frame)))

        made: list[int] = []
        shown: list[int | None] = []
        move = type(strip).setShownFrame
        make = type(desk.controller).strip
        monkeypatch.setattr(
            type(desk.controller), "strip", lambda self, *_: (made.append(1), make(self, *_))[1]
        )
        monkeypatch.setattr(
            type(strip), "setShownFrame", lambda self, frame: (shown.append(frame), move(self, frame))
        )
        for frame in (4, 5, 6):
            scroll(frame)
        assert shown == []
        QtCore.QCoreApplication.processEvents()
        assert shown == [6] == [strip.shownFrame], "once for all steps"
        scroll(11)
        QtCore.QCoreApplication.processEvents()
        assert strip.shownFrame == 11 and made == [], "the strip itself is not made again"
        module.exit()
        assert layout.node.HasObserver(event) == before
        scroll(3)
        QtCore.QCoreApplication.processEvents()
        assert strip.shownFrame == 11
        monkeypatch.undo()
        module.enter()
        assert strip.shownFrame == 3
    finally:
        module.exit()
        slicer.app.__dict__.pop("_standin_layout")


def test_moving_the_line_draws_only_where_it_was_and_is(desk: Desk) -> None:
    import qt
    from PySide6 import QtCore

    from SAM2PropagateLib.app.strip import strip

    drawn = desk.widget.panel.run.strip
    drawn.resize(400, 56)
    drawn.setStrip(strip(100, {}, keyframes=frozenset({50})), 10)
    drawn.show()
    qt.QCoreApplication.processEvents()
    painted: list[Any] = []

    class Painting(QtCore.QObject):
        def eventFilter(self, _widget: Any, event: Any) -> bool:  # noqa: N802
            if event.type() == QtCore.QEvent.Type.Paint:
                painted.append(event.rect())
            return False

    watching = Painting()
    drawn.installEventFilter(watching)
    whole = drawn.grab().toImage()
    painted.clear()
    for frame in (11, 12, 12):
        drawn.setShownFrame(frame)
    qt.QCoreApplication.processEvents()
    assert len(painted) <= 1 and all(one.width() < 20 for one in painted)
    moved = drawn.grab().toImage()
    assert moved != whole and painted
    drawn.setShownFrame(10)
    assert drawn.grab().toImage() == whole


def test_missing_packages_are_offered_and_nothing_is_done_without_consent(
    stand_ins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from Headless.slicer_modules import ModuleInSlicer

    module = ModuleInSlicer(MODULE_FILE)
    real = importlib.util.find_spec
    lacking = {"torch", "sam2"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in lacking else real(name))
    desk = Desk(module.open())
    started: list[str] = []
    monkeypatch.setattr(desk.logic.installer, "start", lambda: started.append("start"))
    assert not desk.ui.bannerFrame.isHidden() and "torch, sam2" in desk.ui.bannerLabel.text
    desk.load()
    assert "Install the missing packages first" in desk.ui.positiveToolButton.toolTip
    desk.dialogs.answer = False
    desk.ui.installButton.click()
    assert started == [] and "3 GB" in desk.dialogs.asked[0]
    desk.dialogs.answer = True
    desk.ui.installButton.click()
    assert started == ["start"]
    lacking.clear()
    desk.widget.panel.refresh()
    assert desk.ui.bannerFrame.isHidden() and desk.ui.positiveToolButton.enabled
    module.close()


def test_what_pip_says_is_shown_while_it_works_and_is_in_the_log(desk: Desk) -> None:
    from SAM2PropagateLib.gui.install import InstallEnd

    installer = desk.logic.installer
    installer.progress.emit("Installing small packages … (step 1 of 2)")
    installer.logged.emit("Collecting " + 200 * "x")
    shown = desk.ui.installProgressLabel.text.splitlines()
    assert shown[0].startswith("Installing small packages") and shown[1].startswith("Collecting x")
    assert len(shown[1]) == 80 and shown[1].endswith("…")
    installer.finished.emit(InstallEnd(False, "It failed.", ("Collecting", "ERROR: no")))
    assert desk.ui.installProgressLabel.text == ""
    desk.ui.logButton.click()
    assert desk.dialogs.logs == ["Collecting\nERROR: no"]


def test_models_are_downloaded_after_consent_and_own_files_opened(desk: Desk, tmp_path: Any) -> None:
    from SAM2PropagateLib.errors import Cancelled

    def fetch(entry: Any, store: Any, *, progress: Any, cancelled: Callable[[], bool]) -> None:
        progress(50 << 20, 100 << 20)
        while not cancelled():
            time.sleep(0.002)
        raise Cancelled()

    desk.logic.modelList.fetch = fetch
    desk.parameters.model = "sam2.1_hiera_small"
    desk.dialogs.answer = False
    desk.ui.downloadModelButton.click()
    assert not desk.logic.modelList.isDownloading and "Apache-2.0" in desk.dialogs.asked[0]
    desk.dialogs.answer = True
    desk.ui.downloadModelButton.click()
    desk.settle(lambda: "50 MB / 100 MB" in desk.ui.downloadLabel.text)
    assert desk.ui.downloadModelButton.text == "Cancel download"
    desk.ui.downloadModelButton.click()
    desk.settle(lambda: not desk.logic.modelList.isDownloading)
    assert "cancelled" in desk.ui.messageLabel.text
    desk.dialogs.path = str(tmp_path / "mine.pt")
    desk.ui.openModelButton.click()
    assert desk.controller.choices.model == desk.dialogs.path
    assert desk.ui.modelComboBox.currentText == "mine.pt"
    assert "There is no weights file" in desk.ui.modelStatusLabel.text
    (tmp_path / "mine.pt").write_bytes(b"weights")
    desk.widget.panel.refresh()
    assert "There is no weights file" not in desk.ui.modelStatusLabel.text


def newInteractors() -> list[Any]:  # noqa: N802
    """Two, that nobody listens to."""
    made = [vtk.vtkGenericRenderWindowInteractor() for _ in range(2)]
    for one in made:
        one.SetInteractorStyle(None)
    return made


class Layout:
    """A layout manager with one slice view and one 3D view."""

    threeDViewCount = 1

    def __init__(self) -> None:
        self.interactors = newInteractors()
        self.node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
        self.slots: list[Any] = []
        self.logics: list[Any] = []
        self.connections = 0
        self.drawn = self.paused = 0
        self.isGone = False

    def mrmlSliceLogics(self) -> Any:  # noqa: N802
        made = vtk.vtkCollection()
        for one in self.logics:
            made.AddItem(one)
        return made

    def connect(self, signal: str, slot: Any) -> None:
        self.connections += 1
        self.slots.append((signal, slot))

    def disconnect(self, signal: str, slot: Any) -> None:
        self.slots = [one for one in self.slots if one != (signal, slot)]

    def sliceViewNames(self) -> tuple[str, ...]:  # noqa: N802
        return ("Red",)

    def sliceWidget(self, name: str) -> Any:  # noqa: N802
        return self

    threeDWidget = sliceWidget

    def sliceView(self) -> Any:  # noqa: N802
        import types

        def draw() -> None:
            self.drawn += 1

        view = types.SimpleNamespace(interactor=lambda: self.interactors[0], scheduleRender=draw)
        view.pauseRender, view.resumeRender = self.pause, self.resume
        return view

    def threeDView(self) -> Any:  # noqa: N802
        import types

        view = types.SimpleNamespace(interactor=lambda: self.interactors[1])
        view.pauseRender, view.resumeRender = self.pause, self.resume
        return view

    def pause(self) -> None:
        self.paused += 1

    def resume(self) -> None:
        if self.isGone:
            raise ValueError("Trying to call 'resumeRender' on a destroyed qMRMLSliceView object")
        self.paused -= 1

    def mrmlSliceNode(self) -> Any:  # noqa: N802
        return self.node

    def observed(self) -> list[bool]:
        return [
            any(one.HasObserver(event) for event in ("LeftButtonPressEvent", "KeyPressEvent"))
            for one in self.interactors
        ]


def test_views_are_listened_to_only_while_the_module_is_open(module: Any) -> None:
    desk = Desk(module)
    module.exit()
    layout = Layout()
    before = layout.observed()
    slicer.app.__dict__["_standin_layout"] = layout
    try:
        module.enter()
        assert layout.observed() == [True, True] != before
        assert len(layout.slots) == 1
        desk.load()
        desk.ui.positiveToolButton.click()
        module.exit()
        assert layout.observed() == before and layout.slots == []
        assert desk.controller.tool is None and not desk.ui.segmentEditor._standin_observes
        module.enter()
        # The layout changes: the new views are taken in place of the old ones.
        (slot,) = [slot for _, slot in layout.slots]
        old = layout.interactors
        layout.interactors = newInteractors()
        slot(3)
        assert layout.observed() == [True, True]
        # Not taken out and put in again by its own slot.
        assert layout.slots == [("layoutChanged(int)", slot)] and layout.connections == 2
        assert not any(one.HasObserver("KeyPressEvent") for one in old)
        module.exit()
    finally:
        slicer.app.__dict__.pop("_standin_layout")


def test_views_are_paused_while_masks_are_written_and_taken_back(module: Any) -> None:
    desk = Desk(module)
    layout = Layout()
    slicer.app.__dict__["_standin_layout"] = layout
    try:
        desk.load()
        desk.ui.applyAutomaticallyCheckBox.checked = False
        desk.click()
        seen = []
        desk.segmentation.GetSegmentation().AddObserver(
            slicer.vtkSegmentation.RepresentationModified, lambda *_: seen.append(layout.paused)
        )
        for start in (desk.controller.startApplying, desk.controller.startUndo, desk.controller.startRedo):
            assert start()
            assert layout.paused == 0
            desk.settle()
            # A slice view and a 3D view.
            assert seen == [2] and layout.paused == 0
            seen.clear()
        # A view that goes meanwhile is no trouble.
        assert desk.controller.startUndo()
        desk.settle(lambda: layout.paused == 2)
        layout.isGone = True
        desk.settle()
        assert seen == [2] and desk.controller.canRedo
    finally:
        slicer.app.__dict__.pop("_standin_layout")


def test_closing_the_scene_during_a_run_and_working_on(desk: Desk) -> None:
    desk.load()
    desk.click()
    desk.ui.propagateButton.click()
    slicer.mrmlScene.Clear(False)
    assert not desk.controller.isRunning and desk.ui.runStack.currentWidget() is desk.ui.idlePage
    assert desk.ui.volumeSelector.currentNode() is None and not desk.ui.positiveToolButton.enabled
    desk.parameters = desk.logic.getParameterNode()
    desk.load()
    desk.click()
    desk.ui.propagateButton.click()
    desk.settle()
    assert desk.voxels() > 18


def test_closing_the_panel_during_a_run_leaves_nothing(stand_ins: Any) -> None:
    from Headless.slicer_modules import ModuleInSlicer

    module = ModuleInSlicer(MODULE_FILE).open()
    desk = Desk(module)
    desk.load()
    desk.click()
    desk.ui.propagateButton.click()
    timer = desk.logic.ticker
    module.close()
    assert desk.session.isClosed and not timer.isOn
    assert desk.widget.Observations == []
    scene = stand_ins.scene
    kinds = [scene.GetNthNode(n).GetName() for n in range(scene.GetNumberOfNodes())]
    assert "SAM2 Propagate preview" not in kinds


def test_a_closed_panel_keeps_nothing_in_main_memory(stand_ins: Any) -> None:
    from Headless.slicer_modules import ModuleInSlicer

    module = ModuleInSlicer(MODULE_FILE).open()
    kept = [weakref.ref(one) for one in (module.widget.panel, module.widget.logic.controller)]
    module.close()
    del module
    gc.collect()
    assert [one() for one in kept] == [None, None]


# Slicer's Qt 5 has no other name for it.
@pytest.mark.filterwarnings("ignore:Function. 'QMouseEvent.pos:DeprecationWarning")
def test_the_strip_says_what_is_known_and_jumps(desk: Desk) -> None:
    import qt

    desk.load()
    desk.click()
    desk.ui.propagateButton.click()
    desk.settle()
    strip = desk.widget.panel.run.strip
    assert len(strip.strip) == 18 and strip.strip.frames[8].drawnAs == "keyframe"
    jumped: list[int] = []
    desk.controller.jump = jumped.append  # type: ignore[method-assign]
    strip.resize(180, 56)  # ten pixels for each of the 18 slices
    at, left = qt.QPointF(54, 20), qt.Qt.MouseButton.LeftButton
    press, none = qt.QEvent.Type.MouseButtonPress, qt.Qt.KeyboardModifier.NoModifier
    qt.QApplication.sendEvent(strip, qt.QMouseEvent(press, at, at, left, left, none))
    assert jumped == [5]
    assert desk.ui.nextDoubtfulButton.enabled


def test_the_preview_is_as_opaque_as_chosen(desk: Desk) -> None:
    desk.load()
    desk.ui.opacitySlider.setValue(0.8)
    desk.click()
    assert desk.controller.workspace.shown.node.GetDisplayNode().GetOpacity2DFill() == pytest.approx(0.8)
    desk.parameters.previewOpacity = 0.2
    assert desk.controller.workspace.shown.node.GetDisplayNode().GetOpacity2DFill() == pytest.approx(0.2)
    assert desk.ui.opacitySlider.value == pytest.approx(0.2)


def test_a_script_needs_no_panel(stand_ins: Any) -> None:
    from Headless.fake_session import AnsweringSession
    from Headless.scenes import addSegmentation, fillSegment
    from Headless.slicer_modules import ModuleInSlicer
    from SAM2PropagateLib.scene.segments import SegmentReader
    from Testing.scene.geometries import addCase

    module = ModuleInSlicer(MODULE_FILE)
    logic = module.python.SAM2PropagateLogic()
    logic.makeSession = AnsweringSession
    volume = addCase(stand_ins, "plain")
    segmentation = addSegmentation(stand_ins, volume, {"A": (0, 1, 0), "B": (1, 0, 0)})
    neighbor = np.zeros((18, 36, 40), bool)
    neighbor[4:12, 12:20, 10:14] = True
    fillSegment(segmentation, "B", volume, neighbor)
    logic.controller.select(volume, segmentation, "A")
    ends: list[Any] = []
    logic.controller.finished.connect(ends.append)
    geometry = logic.controller.workspace.geometry
    assert logic.preview("A", geometry.ras_of_pixel(12, 15, 8, 2))
    assert logic.controller.wait(60) and logic.propagate("A") and logic.controller.wait(60)
    assert ends[0].state == "done" and ends[0].applied
    assert np.asarray(logic.controller.workspace.maskNow("A", 3)).any()
    assert SegmentReader(segmentation, "A", geometry).array()[neighbor].any()
    np.testing.assert_array_equal(SegmentReader(segmentation, "B", geometry).array(), neighbor)
    logic.close()
    module.close()


def test_the_next_day_the_panel_shows_everything_again(desk: Desk, stand_ins: Any, tmp_path: Any) -> None:
    desk.load()
    desk.click()
    desk.ui.directionComboBox.setCurrentIndex(2)
    desk.ui.directionComboBox.setCurrentIndex(0)
    desk.ui.limitReachCheckBox.setChecked(True)
    desk.ui.reachSpinBox.setValue(5)
    desk.ui.propagateButton.click()
    desk.settle()
    voxels, segment = desk.voxels(), desk.controller.segmentID
    looks = [one.drawnAs for one in desk.controller.strip().frames]
    stand_ins.saveScene(tmp_path / "scene.mrb")
    slicer.mrmlScene.Clear(False)
    assert desk.controller.workspace is None
    stand_ins.loadScene(tmp_path / "scene.mrb")
    assert desk.controller.workspace is not None and desk.controller.segmentID == segment
    desk.segmentation = desk.controller.segmentationNode
    assert desk.ui.volumeSelector.currentNode() is desk.controller.volumeNode
    assert desk.ui.reachSpinBox.value == 5 and desk.controller.choices.run.reach == 5
    assert desk.voxels() == voxels
    assert [one.drawnAs for one in desk.controller.strip().frames] == looks
    assert len(desk.widget.panel.run.strip.strip) == 18
    Effect(desk.ui.segmentEditor)
    desk.click(12)
    desk.ui.propagateButton.click()
    desk.settle()
    assert desk.voxels() > voxels
