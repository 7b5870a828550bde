"""Hand edits and an open preview: neither may take away what the other shows."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

from Headless.fake_session import disc
from SAM2PropagateLib.app.events import Choices, Editing
from SAM2PropagateLib.app.strip import EDITED
from SAM2PropagateLib.scene.prompt_nodes import promptNodes
from SAM2PropagateLib.scene.segment_writer import LogicSegmentWriter
from Testing.app.cases import HeadlessCase

SHAPE = (36, 40)
KEEP = Choices(applyAutomatically=False)
STROKE = disc(30, 25, SHAPE, 2)


@pytest.fixture
def case(headless):
    one = HeadlessCase(headless, choices=KEEP)
    yield one
    one.controller.close()


def cancelled(case: HeadlessCase) -> int:
    """A run that was cancelled: its slices are in the preview only. One of them, not the clicked one."""
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    case.controller.poll()
    case.controller.cancel()
    case.controller.wait(60)
    return min(case.workspace.previewFrames("A") - {8})


@pytest.mark.parametrize("then", ["look", "apply", "propagate", "click"])
def test_what_is_painted_on_a_preview_is_added_to_it(case, then):
    frame = cancelled(case)
    before = case.shown(frame)
    assert before.any() and not case.segment(frame).any()
    case.paint(frame, STROKE)
    if then == "look":
        case.controller.lookForEdits()
    elif then == "apply":
        case.controller.apply()
    elif then == "propagate":
        case.run()
        case.controller.apply()
    else:
        case.click(12, 28, frame)
    wanted = before | STROKE
    np.testing.assert_array_equal(case.segment(frame), wanted)
    mask = next(one for one in case.workspace.prompts.segment("A").masks if one.mask.any())
    if then != "click":
        assert case.controller.strip().frames[frame].drawnAs == EDITED
        np.testing.assert_array_equal(case.shown(frame), wanted)
        np.testing.assert_array_equal(mask.mask, wanted)
    else:
        # The click corrects both together.
        np.testing.assert_array_equal(mask.mask, wanted)


def test_what_is_erased_under_a_preview_stays_erased(case):
    case.click(12, 15, 8)
    case.run()
    case.controller.apply()
    case.click(16, 15, 8)
    case.run()
    frame = min(case.workspace.previewFrames("A") - {8})
    hole = disc(12, 15, SHAPE, 1)
    shown = case.shown(frame)
    case.paint(frame, case.segment(frame) & ~hole, add=False)
    case.controller.lookForEdits()
    case.controller.apply()
    np.testing.assert_array_equal(case.segment(frame), shown & ~hole)


def test_what_is_painted_during_a_run_survives_its_end(headless):
    case = HeadlessCase(headless)
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    case.paint(17, STROKE)
    assert case.controller.wait(60)
    assert case.ends[-1].applied
    assert case.segment(17)[STROKE].all() and case.segment(17)[15, 12]
    assert case.frames() == list(range(18))
    case.controller.close()


def test_a_run_that_another_editor_undoes_under_a_preview_is_no_edit(case):
    # As the Segment Editor module keeps one of its own.
    other = slicer.vtkSegmentationHistory()
    other.SetSegmentation(case.segmentationNode.GetSegmentation())
    case.click(12, 15, 8)
    case.run()
    other.SaveState()
    case.controller.apply()
    case.click(25, 15, 4)
    shown = case.shown(4)
    assert other.RestorePreviousState() and case.frames() == []
    assert case.controller.undoText == "Undo edit"
    case.controller.apply()
    np.testing.assert_array_equal(case.segment(4), shown)
    assert not [one for one in case.workspace.prompts.segment("A").masks if one.id.startswith("edit")]


def test_a_commit_of_another_segment_is_no_edit(headless):
    everything = slicer.vtkMRMLSegmentEditorNode.OverwriteAllSegments
    case = HeadlessCase(
        headless,
        choices=KEEP,
        editing=Editing(lambda *nodes: LogicSegmentWriter(*nodes, overwriteMode=everything)),
    )
    case.paint(9, disc(12, 15, SHAPE, 3))
    case.click(14, 15, 9)
    shown, said = case.shown(9), case.workspace.prompts.segment("A")
    case.controller.select(case.volumeNode, case.segmentationNode, "B")
    case.click(15, 15, 9)
    case.controller.editBegins()
    assert not case.segment(9)[15, 12], "the other segment took these voxels"
    case.controller.lookForEdits()
    np.testing.assert_array_equal(case.shown(9), shown)
    assert 9 in case.workspace.previewFrames("A")
    assert case.workspace.prompts.segment("A") == said
    case.controller.close()


def test_taking_up_an_editor_tool_applies_what_is_seen(case):
    frame = cancelled(case)
    shown = {one: case.shown(one) for one in case.workspace.previewFrames("A")}
    case.controller.editBegins()
    assert case.codes == ["applied_for_edit"] and not case.workspace.hasPreview
    for one, mask in shown.items():
        np.testing.assert_array_equal(case.segment(one), mask)
    # Erasing acts on it now.
    case.paint(frame, case.segment(frame) & ~disc(12, 15, SHAPE, 1), add=False)
    case.controller.lookForEdits()
    assert case.controller.strip().frames[frame].drawnAs == EDITED
    # The stroke, and then what was applied: it is in the preview again.
    assert case.controller.undo() and case.controller.undo() and case.frames() == []
    assert case.workspace.previewFrames("A") == shown.keys()
    for one, mask in shown.items():
        np.testing.assert_array_equal(case.shown(one), mask)


def test_taking_up_a_tool_without_a_preview_says_nothing(case):
    case.controller.editBegins()
    case.controller.select(case.volumeNode, None)
    case.controller.editBegins()
    assert case.codes == []


def test_a_slice_that_is_locked_while_it_is_a_preview_gets_into_the_segment(case):
    case.click(12, 15, 8)
    accepted = case.shown(8)
    case.click(12, 15, 8, "lock")
    np.testing.assert_array_equal(case.segment(8), accepted)
    assert 8 not in case.workspace.previewFrames("A")
    case.run()
    case.controller.apply()
    assert case.frames() == list(range(18))
    np.testing.assert_array_equal(case.segment(8), accepted)


def test_newer_prompts_of_a_run_that_was_applied_are_told_of(headless):
    case = HeadlessCase(headless)
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    case.controller.point("positive", case.ras(30, 30, 15), (0, 0, 1))
    case.session.nextPollServesPreviews()
    case.controller.wait(60)
    assert case.ends[-1].applied and 15 not in case.frames()
    assert case.codes == ["newer_prompts"] and 15 in case.workspace.previewFrames("A")
    case.controller.apply()
    assert 15 in case.frames()
    case.controller.close()


def test_an_edit_that_is_taken_back_leaves_the_slice_propagated(case):
    case.click(12, 15, 8)
    case.run()
    case.controller.apply()
    before, look = case.segment(3), case.controller.strip().frames[3].drawnAs
    case.paint(3, STROKE)
    case.controller.lookForEdits()
    assert case.controller.strip().frames[3].drawnAs == EDITED
    case.paint(3, before, add=False)
    case.controller.lookForEdits()
    assert case.controller.strip().frames[3].drawnAs == look
    assert case.controller.strip().frames[3].doubt is not None


def test_a_preview_that_arrives_over_a_stroke_keeps_it(case):
    case.controller.point("positive", case.ras(12, 15, 8), (0, 0, 1))
    case.paint(8, STROKE)
    case.controller.lookForEdits()
    assert case.controller.wait(60)
    # At once: the user sees their stroke, whatever they do next.
    np.testing.assert_array_equal(case.shown(8), disc(12, 15, SHAPE) | STROKE)
    np.testing.assert_array_equal(case.segment(8), disc(12, 15, SHAPE) | STROKE)
    assert case.controller.strip().frames[8].drawnAs == EDITED


@pytest.mark.parametrize("end", ["done", "cancelled"])
def test_what_is_painted_during_a_run_is_seen_at_its_end(case, end):
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    case.paint(2, STROKE)
    case.paint(17, STROKE)
    if end == "done":
        assert case.controller.wait(60)
        np.testing.assert_array_equal(case.shown(17), disc(12, 15, SHAPE) | STROKE)
    else:
        case.controller.poll()
        case.controller.cancel()
        np.testing.assert_array_equal(case.shown(17), STROKE)
    assert case.ends[-1].state == end
    np.testing.assert_array_equal(case.shown(2), disc(12, 15, SHAPE) | STROKE)
    assert 3 in case.workspace.previewFrames("A")


@pytest.mark.parametrize("how", ["undone and redone", "unlocked", "locked and unlocked"])
def test_what_was_painted_is_not_previewed_over(headless, how):
    case = HeadlessCase(headless)
    case.click(12, 15, 8)
    case.click(20, 15, 8)
    case.run()
    if how == "unlocked":
        case.click(1, 1, 8, "lock")
    case.paint(8, STROKE)
    case.controller.lookForEdits()
    painted = case.segment(8)
    if how == "undone and redone":
        assert case.controller.undo() and not np.array_equal(case.segment(8), painted)
        assert case.controller.redo()
    elif how == "unlocked":
        case.click(1, 1, 8, "lock")
    else:
        case.click(1, 1, 8, "lock")
        case.click(1, 1, 8, "lock")
    case.controller.wait(60)
    case.controller.apply()
    np.testing.assert_array_equal(case.segment(8), painted)
    case.run()
    np.testing.assert_array_equal(case.segment(8), painted)
    case.controller.close()


@pytest.mark.parametrize("what", ["undo", "clear"])
def test_what_was_painted_on_the_preview_goes_with_its_own_step(case, what):
    case.click(12, 15, 8)
    case.click(20, 15, 8)
    shown = case.shown(8)
    case.paint(8, STROKE)
    if what == "undo":
        case.controller.undo()
    else:
        case.controller.clearPrompts()
    case.controller.wait(60)
    case.controller.lookForEdits()
    if what == "clear":
        np.testing.assert_array_equal(case.segment(8), shown | STROKE)
        assert not case.workspace.hasPreview
    else:
        # The stroke is the last step, with the preview that it was brought together with.
        assert len(case.workspace.prompts.segment("A").clicks) == 2 and not case.segment(8).any()
        np.testing.assert_array_equal(case.shown(8), shown)
        assert case.controller.redo()
        np.testing.assert_array_equal(case.segment(8), shown | STROKE)


@pytest.mark.parametrize("meanwhile", ["nothing", "another stroke", "another look", "a tool", "a lock"])
def test_a_stroke_ahead_of_the_run_survives_commits_on_its_way(headless, meanwhile):
    case = HeadlessCase(headless)
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    case.controller.poll()
    assert 2 in case.workspace.previewFrames("A") and 17 not in case.workspace.previewFrames("A")
    case.paint(17, STROKE)
    if meanwhile in ("another look", "a tool", "a lock"):
        case.controller.lookForEdits()
    if meanwhile in ("another stroke", "another look"):
        case.paint(2, STROKE)
        case.controller.lookForEdits()
    elif meanwhile == "a tool":
        case.controller.editBegins()
    elif meanwhile == "a lock":
        case.controller.point("lock", case.ras(1, 1, 2), (0, 0, 1))
    assert case.controller.wait(60) and case.ends[-1].applied
    np.testing.assert_array_equal(case.segment(17), disc(12, 15, SHAPE) | STROKE)
    case.controller.close()


@pytest.mark.parametrize("how", ["apply", "editBegins"])
def test_undoing_the_commit_of_one_slice_is_no_edit(case, how):
    case.click(12, 15, 8)
    getattr(case.controller, how)()
    assert case.controller.undo() and case.frames() == [] and case.workspace.previewFrames("A") == {8}
    assert case.controller.strip().frames[8].drawnAs != EDITED
    case.run()
    assert not case.workspace.prompts.segment("A").masks and 9 in case.workspace.previewFrames("A")


def test_a_click_after_a_commit_and_the_commit_are_undone_in_their_order(case):
    case.click(12, 15, 8)
    first = case.shown(8)
    case.controller.apply()
    case.click(16, 15, 8)
    shown = case.shown(8)
    assert case.controller.undo() and not case.workspace.hasPreview
    np.testing.assert_array_equal(case.segment(8), first)
    assert case.controller.undo() and case.frames() == []
    np.testing.assert_array_equal(case.shown(8), first)
    assert case.controller.redo() and case.controller.redo() and case.controller.wait(60)
    case.controller.lookForEdits()
    np.testing.assert_array_equal(case.segment(8), first)
    np.testing.assert_array_equal(case.shown(8), shown)


def test_a_preview_asked_for_before_a_commit_is_newer_than_it(case):
    case.click(12, 15, 8)
    case.controller.point("negative", case.ras(14, 15, 8), (0, 0, 1))
    case.controller.editBegins()
    assert case.controller.wait(60)
    shown = case.shown(8)
    case.paint(8, STROKE)
    case.controller.lookForEdits()
    np.testing.assert_array_equal(case.segment(8), shown | STROKE)


def test_what_was_under_old_previews_is_let_go_of(case):
    for frame in range(10):
        case.click(12, 15, frame)
        case.controller.apply()
    assert case.workspace.underlay.segmentIDs == set()


def test_a_lock_that_is_dragged_onto_a_painted_preview_keeps_the_stroke(case):
    case.click(12, 15, 8)
    case.click(1, 1, 2, "lock")
    case.paint(8, STROKE)
    (node,) = promptNodes(case.segmentationNode, "A", "lock")
    node.SetNthControlPointPositionWorld(0, *(float(value) for value in case.ras(1, 1, 8)))
    node.InvokeEvent(node.PointEndInteractionEvent)
    np.testing.assert_array_equal(case.segment(8), disc(12, 15, SHAPE) | STROKE)


def test_a_click_that_is_dragged_after_painting_is_neither_put_back_nor_takes_the_stroke_along(case):
    case.click(12, 15, 8)
    shown = case.shown(8)
    case.paint(8, STROKE)
    case.drag_first_click(16, 15, 8)
    assert case.controller.wait(60)
    np.testing.assert_array_equal(case.segment(8), shown | STROKE)
    np.testing.assert_allclose(case.workspace.prompts.segment("A").clicks[0].ras, case.ras(16, 15, 8))
    # In their order: first the drag is taken back, then the stroke.
    assert case.controller.undoText == "Undo move prompt" and case.controller.undo()
    np.testing.assert_allclose(case.workspace.prompts.segment("A").clicks[0].ras, case.ras(12, 15, 8))
    np.testing.assert_array_equal(case.segment(8), shown | STROKE)
    assert case.controller.undo() and not case.segment(8).any()
    np.testing.assert_array_equal(case.shown(8), shown)
    assert case.controller.redo() and case.controller.redo() and case.controller.wait(60)
    np.testing.assert_array_equal(case.segment(8), shown | STROKE)
    np.testing.assert_allclose(case.workspace.prompts.segment("A").clicks[0].ras, case.ras(16, 15, 8))


def test_a_click_that_comes_back_to_a_painted_slice_corrects_it(case):
    case.click(12, 15, 8)
    painted = case.shown(8) | STROKE
    case.paint(8, STROKE)
    case.drag_first_click(16, 15, 11)
    case.settle()
    case.drag_first_click(20, 15, 8)
    case.settle()
    np.testing.assert_array_equal(case.segment(8), painted)
    np.testing.assert_array_equal(case.shown(8), painted | disc(20, 15, SHAPE))
    assert 11 not in case.workspace.previewFrames("A")
    assert case.controller.undo()
    np.testing.assert_array_equal(case.shown(8), painted)
    case.settle()
    np.testing.assert_array_equal(case.shown(11), disc(16, 15, SHAPE))


def test_a_click_that_is_dragged_to_another_slice_after_painting_counts_there(case):
    case.click(12, 15, 8)
    shown = case.shown(8)
    case.paint(8, STROKE)
    case.drag_first_click(16, 15, 11)
    assert case.controller.wait(60)
    np.testing.assert_array_equal(case.segment(8), shown | STROKE)
    assert 11 in case.workspace.previewFrames("A")
    np.testing.assert_array_equal(case.shown(11), disc(16, 15, SHAPE))
    # In their order: first the drag is taken back, then the stroke.
    assert case.controller.undoText == "Undo move prompt" and case.controller.undo()
    assert 11 not in case.workspace.previewFrames("A")
    np.testing.assert_array_equal(case.segment(8), shown | STROKE)
    assert case.controller.undo() and not case.segment(8).any()
    np.testing.assert_array_equal(case.shown(8), shown)


def test_a_stroke_during_undo_in_turns_is_what_it_takes_back_and_comes_again(case):
    case.click(12, 15, 8)
    case.controller.apply()
    case.click(16, 15, 8)
    shown = case.shown(8)
    case.controller.addSegment()
    assert case.controller.startUndo()
    case.paint(8, case.segment(8) | STROKE)
    assert case.controller.wait(60)
    assert not case.segment(8)[STROKE].any() and len(case.workspace.segmentIDs) == 3
    np.testing.assert_array_equal(case.shown(8), shown)
    assert case.controller.redo()
    case.controller.lookForEdits()
    np.testing.assert_array_equal(case.segment(8), shown | STROKE)


def test_a_volume_that_became_unusable_is_told_and_raises_nothing(case):
    case.click(12, 15, 8)
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    case.volumeNode.SetAndObserveTransformNodeID(bent.GetID())
    case.controller.conditions()
    case.controller.lookForEdits()
    case.controller.editBegins()
    case.controller.apply()
    case.controller.undo()
    case.volumeNode.SetAndObserveTransformNodeID(None)
    np.testing.assert_array_equal(case.shown(8), disc(12, 15, SHAPE))


@pytest.mark.parametrize("chosen", [KEEP, Choices()])
def test_a_run_that_is_cancelled_after_the_volume_became_unusable_is_finished(headless, chosen):
    case = HeadlessCase(headless, choices=chosen)
    assert case.controller.point("positive", case.ras(12, 15, 8), (0, 0, 1))
    assert case.controller.propagate() and case.workspace.shown.node is None
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    case.volumeNode.SetAndObserveTransformNodeID(bent.GetID())
    case.controller.cancel()
    assert [end.state for end in case.ends] == ["cancelled"] and not case.controller.isRunning
    case.controller.close()


@pytest.mark.parametrize("polls", [0, 3])
def test_a_run_that_ends_after_the_volume_became_unusable_is_finished(headless, polls):
    case = HeadlessCase(headless)
    # A box keeps no axis: that is asked of the volume.
    assert case.controller.addBox(case.ras(10, 10, 8), case.ras(20, 20, 8))
    assert case.controller.propagate()
    for _ in range(polls):
        case.controller.poll()
    assert case.workspace.hasPreview == (polls > 0)
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    case.volumeNode.SetAndObserveTransformNodeID(bent.GetID())
    case.settle()
    assert [(end.state, end.applied) for end in case.ends] == [("done", False)]
    assert case.messages and not case.controller.isRunning
    case.controller.close()
