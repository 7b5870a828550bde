"""The whole work, driven from a script: clicks, previews, runs, corrections, applying, undo."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from Headless.fake_session import AnsweringSession, disc
from SAM2PropagateLib.app.events import Choices
from SAM2PropagateLib.app.kept_facts import factsAsList, factsOfList
from SAM2PropagateLib.app.strip import FrameFacts, Withheld
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.packed_masks import pack
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.worker.messages import FrameEvent
from Testing.app.cases import HeadlessCase
from Testing.scene.geometries import GEOMETRIES

SHAPE = (36, 40)
KEEP = Choices(applyAutomatically=False)


def test_nothing_is_started_before_the_first_prompt(case):
    assert case.sessions == [] and not case.ticker.isOn


def test_a_click_shows_the_mask_of_its_slice(case):
    assert case.click(12, 15, 8)
    np.testing.assert_array_equal(case.shown(8), disc(12, 15, SHAPE))
    assert not case.segment(8).any(), "a preview must not touch the segment"
    assert [(one.frame, one.kind) for one in case.arrived] == [(8, "preview")]
    assert not case.ticker.isOn and case.ticker.starts == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_first_click_decides_the_axis_by_its_view(headless, geometry, axis):
    case = HeadlessCase(headless, geometry)
    assert case.click(9, 7, 6, axis=axis)
    assert case.workspace.axis == axis
    np.testing.assert_array_equal(case.shown(6), disc(9, 7, case.geometry.frame_shape(axis)))
    # The next one, in another view, is a prompt on the slice of the same axis that it lies on.
    other = (axis + 1) % 3
    ijk = case.geometry.ijk_of_ras(case.ras(5, 8, 9, other))
    assert case.click(5, 8, 9, axis=other)
    assert case.workspace.axis == axis
    assert round(ijk[axis]) in case.workspace.previewFrames("A")
    case.controller.close()


def test_a_second_click_refines_and_a_negative_one_takes_away(case):
    case.click(12, 15, 8)
    case.click(16, 15, 8)
    np.testing.assert_array_equal(case.shown(8), disc(12, 15, SHAPE) | disc(16, 15, SHAPE))
    case.click(19, 15, 8, "negative")
    assert not case.shown(8)[15, 19] and case.shown(8)[15, 12]


def test_a_negative_click_alone_is_explained(case):
    assert case.click(12, 15, 8, "negative")
    assert case.codes == ["only_negative_clicks"] and "Slice 9" in case.texts[0]
    assert case.sessions == []


def test_a_click_of_the_other_sign_at_the_same_place_takes_its_place(case):
    case.click(12, 15, 8)
    case.click(12.2, 15.1, 8, "negative")
    (click,) = case.workspace.prompts.segment("A").clicks
    assert not click.positive
    assert not case.shown(8).any()


def test_clicks_outside_the_image_are_refused_and_change_nothing(case):
    assert not case.controller.point("positive", case.ras(60, 15, 8), (0, 0, 1))
    assert not case.controller.point("positive", case.ras(10, 15, 40), (0, 0, 1))
    assert case.codes == ["outside_volume"] * 2
    assert case.workspace.prompts.is_empty and case.sessions == []
    assert not case.controller.canUndo


def test_a_run_fills_the_volume_and_is_applied_as_one_undo_step(case):
    case.click(12, 15, 8)
    case.run()
    assert case.frames() == list(range(18))
    assert not case.workspace.hasPreview
    (end,) = case.ends
    assert (end.state, end.frames, end.applied) == ("done", 18, True)
    assert case.controller.undo() and case.frames() == []
    assert case.controller.redo() and case.frames() == list(range(18))


def test_progress_is_told_in_words(case):
    from SAM2PropagateLib.app.wording import runText
    from SAM2PropagateLib.worker.messages import ProgressEvent

    text = runText(ProgressEvent(1, "", 12, 90, 8.53, 125.0))
    assert text == "12 of 90 slices, 8.5/s, 2:05 min left"
    case.click(12, 15, 8)
    assert [one.text for one in case.progress] == ["Loading the model: weights", ""]


def test_direction_and_reach(headless):
    case = HeadlessCase(headless, choices=Choices(run=RunOptions(reach=3)))
    case.click(12, 15, 8)
    case.run(direction="forward")
    assert case.frames() == list(range(5, 12))  # the fake knows no direction
    assert case.session.asked[-1][1][2] == {
        "direction": "forward",
        "reach": 3,
        "everything": False,
        "anew": False,
        "edges": False,
        "all_axes": False,
        "filled": {"A": (8,)},
    }
    case.controller.close()


@dataclass(frozen=True)
class WithTaste(RunOptions):
    """As if a field had been added."""

    taste: str = "plain"


def test_a_new_option_of_runs_is_chosen_or_given_and_reaches_the_session(headless):
    case = HeadlessCase(headless, choices=Choices(run=WithTaste(taste="mint")))
    case.click(12, 15, 8)
    case.run()
    case.run(taste="lemon", everything=True)
    told = [details[2]["taste"] for kind, details in case.session.asked if kind == "propagate"]
    assert told == ["mint", "lemon"]
    with pytest.raises(TypeError, match="color"):
        case.controller.propagate(color="red")
    case.controller.close()


def test_a_reach_of_no_slices_is_refused(case):
    case.click(12, 15, 8)
    assert not case.controller.propagate(reach=0)
    assert "at least 1 slice" in case.texts[-1]


def test_only_what_is_chosen_is_run_or_all_with_prompts(case):
    case.click(12, 15, 8)
    case.controller.select(case.volumeNode, case.segmentationNode, "B")
    case.click(25, 20, 8)
    case.run()
    assert case.frames("A") == [] and case.frames("B")
    case.controller.choices = Choices(allSegments=True)
    case.run()
    assert case.frames("A") == list(range(18))


def test_finished_work_in_other_segments_is_left_alone(case):
    case.paint(9, disc(20, 20, SHAPE), "B")
    case.controller.choices = Choices(allSegments=True)
    case.click(12, 15, 8)
    case.run()
    assert case.frames("A") == list(range(18)) and case.frames("B") == [9]


def test_a_preview_is_kept_until_it_is_applied_or_dropped(headless):
    case = HeadlessCase(headless, choices=KEEP)
    case.click(12, 15, 8)
    case.run()
    assert case.frames() == [] and len(case.workspace.previewFrames("A")) == 18
    assert case.controller.apply().added > 0
    assert case.frames() == list(range(18)) and not case.workspace.hasPreview
    case.click(20, 20, 3)
    case.controller.discard()
    assert not case.workspace.hasPreview and case.frames() == list(range(18))
    case.controller.close()


def test_after_discard_and_after_undo_a_run_computes_all_again(headless):
    case = HeadlessCase(headless, choices=KEEP)
    case.click(12, 15, 8)
    case.run()
    case.controller.discard()
    case.run()
    assert len(case.workspace.previewFrames("A")) == 18
    case.controller.apply()
    case.controller.undo()
    assert case.frames() == []
    case.run()
    assert len(case.workspace.previewFrames("A")) == 18
    case.controller.close()


def test_an_unchanged_run_computes_nothing(case):
    case.click(12, 15, 8)
    case.run()
    arrived = len(case.arrived)
    case.run()
    assert len(case.arrived) == arrived


def test_cancel_keeps_the_finished_slices_in_the_preview(case):
    case.click(12, 15, 8)
    assert case.controller.propagate()
    case.controller.poll()
    case.controller.poll()
    finished = case.workspace.previewFrames("A")
    case.controller.cancel()
    case.controller.wait(60)
    assert case.ends[-1].state == "cancelled" and not case.ends[-1].applied
    # On a busy machine some that had come were not looked at yet.
    assert finished and finished <= case.workspace.previewFrames("A") < set(range(18))
    assert case.frames() == []
    case.run()
    assert case.frames() == list(range(18))


def test_a_click_on_a_propagated_slice_refines_the_mask_that_is_there(case):
    case.click(12, 15, 8)
    case.run()
    case.click(14, 15, 3, "negative")
    expected = disc(12, 15, SHAPE) & ~disc(14, 15, SHAPE)
    np.testing.assert_array_equal(case.shown(3), expected)
    (mask,) = case.workspace.prompts.segment("A").masks
    np.testing.assert_array_equal(mask.mask, disc(12, 15, SHAPE))
    # A second click corrects the same mask, and does not start from its own result.
    case.click(12, 12, 3)
    assert len(case.workspace.prompts.segment("A").masks) == 1
    case.run()
    np.testing.assert_array_equal(case.segment(3), case.shown(3))
    np.testing.assert_array_equal(case.segment(8), disc(12, 15, SHAPE))


@pytest.fixture(params=[KEEP, None], ids=["in the preview", "applied"])
def withholding(headless, request):
    """After a run that drew a mask on slices 3 and 4, but left them empty."""
    case = HeadlessCase(headless, choices=request.param)
    case.click(12, 15, 8)
    case.session.withholds = (3, 4)
    case.run()
    assert not case.shown(3).any() and not case.shown(4).any() and case.shown(5).any()
    yield case
    case.controller.close()


def test_a_click_on_a_slice_that_a_run_left_empty_brings_back_what_it_had_drawn_there(withholding):
    case = withholding
    case.click(13, 16, 3)
    (mask,) = case.workspace.prompts.segment("A").masks
    np.testing.assert_array_equal(mask.mask, disc(12, 15, SHAPE))
    np.testing.assert_array_equal(case.shown(3), disc(12, 15, SHAPE) | disc(13, 16, SHAPE))
    # Both are one step.
    assert case.controller.undo()
    case.settle()
    assert case.workspace.prompts.segment("A").masks == () and not case.shown(3).any()
    assert case.controller.redo()
    case.settle()
    assert len(case.workspace.prompts.segment("A").masks) == 1 and case.shown(3).any()
    case.run()
    np.testing.assert_array_equal(case.shown(3), disc(12, 15, SHAPE) | disc(13, 16, SHAPE))


@pytest.mark.parametrize("ends", [(11, 13), (1, 30)])
def test_a_scribble_brings_it_back_as_well(withholding, ends):
    case = withholding
    assert case.controller.addScribble([case.ras(x, 15, 3) for x in ends])
    case.settle()
    (mask,) = case.workspace.prompts.segment("A").masks
    np.testing.assert_array_equal(mask.mask, disc(12, 15, SHAPE))


@pytest.mark.parametrize(
    ("x", "tool"), [(32, "positive"), (12, "negative")], ids=["far from it", "against it"]
)
def test_other_clicks_on_such_a_slice_bring_nothing_back(withholding, x, tool):
    case = withholding
    assert case.click(x, 15, 3, tool)
    assert case.workspace.prompts.segment("A").masks == ()
    assert len(case.workspace.prompts.segment("A").clicks) == 2
    assert case.shown(3).any() == (tool == "positive") and not case.shown(3)[15, 12]


def test_what_a_run_had_drawn_on_empty_slices_is_kept_in_the_scene(withholding):
    case = withholding
    case.controller.close()
    case.start()
    assert not case.shown(3).any()
    case.click(13, 16, 3)
    (mask,) = case.workspace.prompts.segment("A").masks
    np.testing.assert_array_equal(mask.mask, disc(12, 15, SHAPE))


@pytest.mark.parametrize("clears", [False, True])
def test_a_misplaced_click_does_not_lose_what_was_withheld(withholding, clears):
    case = withholding
    case.click(32, 15, 3)
    if clears:
        case.controller.clearPrompts(3)
    else:
        node = case.workspace.markups.clickNode("A")
        node.RemoveNthControlPoint(node.GetNumberOfControlPoints() - 1)
    case.settle()
    assert not case.shown(3).any()
    assert "Left empty" in case.controller.strip().text(3)
    # Nor does going back and forth, or coming back another day.
    for _ in range(2):
        assert case.controller.undo()
        case.settle()
    for _ in range(2):
        assert case.controller.redo()
        case.settle()
    case.controller.close()
    case.start()
    case.click(13, 16, 3)
    (mask,) = case.workspace.prompts.segment("A").masks
    np.testing.assert_array_equal(mask.mask, disc(12, 15, SHAPE))
    np.testing.assert_array_equal(case.shown(3), disc(12, 15, SHAPE) | disc(13, 16, SHAPE))


def test_a_click_that_is_taken_back_before_its_answer_loses_nothing_either(withholding):
    case = withholding
    assert case.controller.point("positive", case.ras(32, 15, 3), case.geometry.frame_normal(2))
    case.controller.clearPrompts(3)
    case.settle()
    assert not case.shown(3).any()
    case.click(13, 16, 3)
    assert len(case.workspace.prompts.segment("A").masks) == 1


def test_negative_clicks_on_such_a_slice_stay_beside_a_later_positive_one(withholding):
    case = withholding
    assert case.click(15, 15, 3, "negative") and case.click(11, 15, 3)
    assert case.workspace.prompts.segment("A").masks == ()
    _, (_, _, said) = case.session.asked[-1]
    assert [positive for _, _, positive in said.clicks] == [False, True]
    across = [case.ras(12, 15, frame) for frame in range(2, 6)]
    assert case.controller.addScribble(across, False)


def test_what_was_withheld_at_another_place_is_not_brought_back(withholding):
    case = withholding
    case.controller.apply()
    case.settle()
    place = case.volumeNode.GetOrigin()
    case.volumeNode.SetOrigin(place[0] + 7, place[1], place[2])
    case.click(13, 16, 3)
    assert case.shown(3).any() and case.workspace.prompts.segment("A").masks == ()
    assert case.controller.undo()
    case.volumeNode.SetOrigin(*place)
    case.click(13, 16, 3)
    assert len(case.workspace.prompts.segment("A").masks) == 1


@pytest.mark.parametrize(
    "damaged", ["?", {}, {"bits": "?"}, {"place": [1, 2]}, {"place": ["x"] * 16}, {"shape": [9, 9]}]
)
def test_a_withheld_mask_that_cannot_be_read_loses_nothing_else(damaged):
    whole = FrameFacts("propagated", 0.6, 0.3, -4.0, Withheld(pack(disc(12, 15, SHAPE)), (1.0,) * 16))
    values = json.loads(json.dumps(factsAsList(whole)))
    assert factsOfList(values) == whole
    values[4] = {**values[4], **damaged} if isinstance(damaged, dict) and damaged else damaged
    assert factsOfList(values) == replace(whole, withheld=None)


def test_what_a_later_run_says_of_an_empty_slice_counts(withholding):
    case = withholding
    case.session.withholds = (3,)
    case.click(20, 15, 8)
    case.run()
    assert case.shown(4).any() and not case.shown(3).any()
    case.click(13, 16, 3)
    (mask,) = case.workspace.prompts.segment("A").masks
    np.testing.assert_array_equal(mask.mask, disc(12, 15, SHAPE) | disc(20, 15, SHAPE))


def test_clicks_come_to_the_worker_in_the_order_in_which_they_were_made(case):
    signs = ("positive", "negative", "positive", "negative")
    for number, sign in enumerate(signs):
        case.click(8 + 7 * number, 15, 8, sign)
    _, (_, _, said) = case.session.asked[-1]
    assert [positive for _, _, positive in said.clicks] == [sign == "positive" for sign in signs]
    case.run()
    keyframe = case.session.asked[-1][1][1].keyframes[8]
    assert [round(x) for x, _, _ in keyframe.clicks] == [8, 15, 22, 29]


def test_taking_back_the_correction_takes_its_mask_back_too(case):
    case.click(12, 15, 8)
    case.run()
    case.click(14, 15, 3, "negative")
    assert case.controller.undo()
    assert case.workspace.prompts.segment("A").masks == ()
    np.testing.assert_array_equal(case.shown(3), disc(12, 15, SHAPE))
    assert case.controller.redo()
    case.controller.wait(60)
    assert len(case.workspace.prompts.segment("A").masks) == 1
    assert not case.shown(3)[15, 14]


def test_a_slice_edited_by_hand_becomes_a_keyframe_and_its_old_clicks_history(case):
    case.click(12, 15, 8)
    case.run()
    painted = disc(30, 25, SHAPE)
    case.paint(8, painted, add=False)  # away from the click
    case.controller.lookForEdits()
    assert case.controller.strip().frames[8].drawnAs == "edited"
    case.run()
    np.testing.assert_array_equal(case.segment(8), painted)
    keyframe = case.session.asked[-1][1][1].keyframes[8]
    assert keyframe.clicks == () and keyframe.mask is not None
    # It stays one, and a new click on it corrects what was painted.
    case.run(everything=True)
    np.testing.assert_array_equal(case.segment(8), painted)
    case.click(30, 20, 8)
    np.testing.assert_array_equal(case.shown(8), painted | disc(30, 20, SHAPE))
    case.run()
    np.testing.assert_array_equal(case.segment(8), painted | disc(30, 20, SHAPE))


def test_a_slice_edited_again_is_taken_as_it_is_now(case):
    case.click(12, 15, 8)
    case.run()
    case.paint(8, disc(30, 25, SHAPE), add=False)
    case.click(30, 20, 8)
    case.run()
    case.paint(8, disc(5, 5, SHAPE), add=False)
    case.run()
    np.testing.assert_array_equal(case.segment(8), disc(5, 5, SHAPE))
    case.click(9, 5, 8)
    np.testing.assert_array_equal(case.shown(8), disc(5, 5, SHAPE) | disc(9, 5, SHAPE))


def test_painting_one_slice_is_enough_to_start(case):
    case.paint(9, disc(20, 20, SHAPE))
    case.controller.lookForEdits()
    assert case.controller.whyNot("propagate") == ""
    case.run()
    assert case.frames() == list(range(18))
    np.testing.assert_array_equal(case.segment(2), disc(20, 20, SHAPE))


def test_a_slice_erased_by_hand_stays_empty(case):
    case.click(12, 15, 8)
    case.run()
    case.paint(16, np.zeros(SHAPE, bool), add=False)
    case.run(everything=True)
    assert 16 not in case.frames() and 15 in case.frames()


def test_a_locked_slice_keeps_its_mask_and_refuses_prompts(case):
    case.click(12, 15, 8)
    case.run()
    case.paint(5, disc(30, 25, SHAPE), add=False)
    case.click(1, 1, 5, "lock")
    before = case.segment(5)
    assert not case.click(12, 15, 5)
    assert "locked" in case.texts[-1] and "Slice 6" in case.texts[-1]
    case.click(20, 10, 10)
    case.run(everything=True)
    np.testing.assert_array_equal(case.segment(5), before)
    np.testing.assert_array_equal(case.session.asked[-1][1][1].keyframes[5].mask, before)
    assert case.controller.strip().frames[5].drawnAs == "locked"
    case.click(1, 1, 5, "lock")
    assert case.click(12, 15, 5)


def test_an_absent_mark_ends_the_run_and_is_taken_away_by_a_second_click(case):
    case.click(12, 15, 8)
    case.click(3, 3, 12, "absent")
    case.run()
    assert case.frames() == list(range(12))
    assert case.controller.strip().frames[12].drawnAs == "absent"
    case.click(3, 3, 12, "absent")
    assert case.workspace.prompts.segment("A").absent == ()


def test_an_absent_mark_takes_the_prompts_of_its_slice_away(case):
    case.click(12, 15, 8)
    case.click(12, 15, 11)
    case.click(3, 3, 11, "absent")
    assert len(case.workspace.prompts.segment("A").clicks) == 1
    assert not case.shown(11).any()
    assert not case.click(12, 15, 11)
    assert "absent" in case.texts[-1]


def test_a_locked_slice_cannot_be_marked_as_absent(case):
    case.click(12, 15, 8)
    case.click(1, 1, 5, "lock")
    before = case.workspace.prompts
    assert not case.click(3, 3, 5, "absent")
    assert case.texts[-1].startswith("Slice 6 is locked") and case.workspace.prompts == before


def test_an_absent_mark_takes_no_stroke_away_that_crosses_other_slices_too(case):
    case.click(12, 15, 8)
    across = [case.ras(12, 15, frame) for frame in range(5, 12)]
    assert case.controller.addScribble(across)
    before = case.workspace.prompts
    assert not case.click(3, 3, 11, "absent")
    assert "crosses slice 12" in case.texts[-1] and case.workspace.prompts == before
    # One that lies on the slice goes with the mark, as its clicks do.
    assert case.controller.addScribble([case.ras(x, 15, 14) for x in range(8, 14)])
    assert case.click(3, 3, 14, "absent")
    assert len(case.workspace.prompts.segment("A").scribbles) == 1


def test_what_is_said_of_a_stroke_is_over_once_the_user_goes_on(case):
    case.click(12, 15, 8)
    said, over = [], []
    case.controller.message.connect(said.append)
    case.controller.wentOn.connect(over.append)
    case.session.note = "The model sees a different edge than your lasso."
    case.controller.addLasso([case.ras(x, y, 9) for x, y in ((8, 10), (20, 10), (20, 20), (8, 20))])
    case.controller.wait()
    assert [(one.code, one.isForNow) for one in said] == [("stroke_kept", True)]
    over.clear()
    assert case.controller.undo() and over


def test_a_range_is_two_clicks(case):
    case.click(12, 15, 8)
    case.controller.chooseTool("range")
    assert case.click(1, 1, 13, "range")
    assert case.workspace.prompts.segment("A").range is None and case.codes[-1] == "range"
    assert case.click(1, 1, 4, "range")
    assert case.controller.tool is None
    case.run()
    assert case.frames() == list(range(4, 14))
    strip = case.controller.strip()
    assert [one.frame for one in strip.frames if one.isInRange] == list(range(4, 14))


def test_a_box_replaces_the_mask_of_its_slice_and_there_is_one(case):
    case.click(12, 15, 8)
    case.run()
    assert case.controller.addBox(case.ras(20, 20, 3), case.ras(26, 28, 3))
    case.controller.wait(60)
    assert case.shown(3)[24, 23] and not case.shown(3)[15, 12]
    assert case.controller.addBox(case.ras(2, 2, 3), case.ras(6, 8, 3))
    case.controller.wait(60)
    assert len(case.workspace.prompts.segment("A").boxes) == 1
    assert case.shown(3)[5, 4] and not case.shown(3)[24, 23]


def test_clicks_during_a_run_are_not_overwritten_by_it(case):
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    assert case.controller.isRunning
    case.controller.point("positive", case.ras(30, 30, 15), (0, 0, 1))
    case.session.nextPollServesPreviews()
    case.controller.wait(60)
    np.testing.assert_array_equal(case.shown(15), disc(30, 30, SHAPE))
    assert case.workspace.previewFrames("A") == {15} and not case.segment(15).any()
    case.run()
    np.testing.assert_array_equal(case.segment(15), disc(30, 30, SHAPE))


def test_previews_of_different_slices_do_not_push_each_other_out(case):
    for frame in (3, 6, 9):
        case.controller.point("positive", case.ras(12, 15, frame), (0, 0, 1))
    case.controller.wait(60)
    assert case.workspace.previewFrames("A") == {3, 6, 9}


def test_the_death_of_the_worker_is_told_once_and_loses_nothing(case):
    case.click(12, 15, 8)
    case.run()
    case.controller.point("positive", case.ras(20, 20, 3), (0, 0, 1))
    case.controller.point("positive", case.ras(20, 20, 4), (0, 0, 1))
    case.controller.propagate()
    case.session.dies = SAM2PropagateError("worker_died", "The worker ended unexpectedly.", "Try again.")
    case.controller.wait(60)
    assert case.codes == ["worker_died"] and case.messages[0].log == ("last words",)
    assert case.ends[-1].state == "failed"
    assert len(case.workspace.prompts.segment("A").clicks) == 3
    assert case.frames() == list(range(18))
    # The next click starts a new worker, and the lost previews come with it.
    case.click(25, 25, 12)
    assert case.session.starts == 2
    assert case.workspace.previewFrames("A") == {3, 4, 12}


def test_what_runs_wrote_before_the_worker_died_stays(case):
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    case.controller.poll()
    kept = case.workspace.previewFrames("A")
    case.session.dies = SAM2PropagateError("out_of_memory", "Too little memory.", "Choose a smaller model.")
    case.controller.wait(60)
    # What had arrived and was left for the next poll comes too.
    assert kept and case.workspace.previewFrames("A") >= kept
    assert not case.controller.isRunning


def test_the_window_of_the_view_is_the_window_of_the_model(case):
    case.click(12, 15, 8)
    case.volumeNode.GetDisplayNode().SetAutoWindowLevel(False)
    case.volumeNode.GetDisplayNode().SetWindowLevel(111, 55)
    case.click(12, 15, 9)
    windows = [details for kind, details in case.session.asked if kind == "set_window"]
    assert [(window.width, window.level) for window in windows] == [(111, 55)]
    case.controller.propagate()
    case.controller.poll()
    case.volumeNode.GetDisplayNode().SetWindowLevel(99, 44)
    case.controller.point("positive", case.ras(5, 5, 2), (0, 0, 1))
    assert case.session.kinds().count("set_window") == 1, "not while a run goes on"
    case.controller.wait(60)


def test_a_changed_image_is_opened_again(case):
    import slicer.util

    case.click(12, 15, 8)
    slicer.util.updateVolumeFromArray(
        case.volumeNode, np.random.default_rng(0).integers(0, 9, (18, 36, 40)).astype(np.int16)
    )
    case.click(12, 15, 9)
    assert case.session.kinds().count("open_volume") == 2


def test_an_edit_made_before_the_axis_was_changed_is_kept_by_a_run_along_the_new_one(case):
    case.click(12, 15, 8)
    case.run()
    painted = disc(30, 25, SHAPE)
    changed = painted ^ case.segment(8)
    case.paint(8, painted, add=False)
    case.workspace.setAxis(0)
    case.controller.lookForEdits()
    columns = np.flatnonzero(changed.any(axis=0))
    edited = [one.frame for one in case.controller.strip().frames if one.isEdited]
    assert edited == columns.tolist()
    case.run(everything=True)
    np.testing.assert_array_equal(case.segment(8)[:, columns], painted[:, columns])


class Drafts(AnsweringSession):
    """Sends a draft of every slice of a run before its mask, as the engine does where a slice has to wait."""

    def propagate(self, name, prompts, segments, options):
        run = super().propagate(name, prompts, segments, options)
        events = self._calls[-1][1]
        frames = [one for one in events if isinstance(one, FrameEvent) and one.kind == "propagated"]
        empty = pack(np.zeros(SHAPE, bool))
        events[:0] = [replace(one, doubt=0.9, packed=empty) for one in frames]
        return run


@pytest.fixture
def drafting(case):
    case.controller.close()
    case.makeSession = lambda: case.sessions.append(Drafts(2)) or case.sessions[-1]
    case.start(KEEP)
    return case


def test_a_draft_is_shown_and_gives_way_to_the_mask(drafting):
    case = drafting
    case.click(12, 15, 8)
    assert case.controller.propagate()
    case.controller.poll()
    (first, *_) = [one.frame for one in case.arrived if one.kind == "propagated"]
    assert not case.shown(first).any() and case.controller.strip().frames[first].doubt == 0.9
    assert case.controller.wait(60)
    assert (case.ends[-1].state, case.ends[-1].frames) == ("done", 18), "each slice counts once"
    assert [one.frame for one in case.arrived].count(first) == 2
    for frame in range(18):
        np.testing.assert_array_equal(case.shown(frame), disc(12, 15, SHAPE))
    strip = case.controller.strip()
    assert all(one.isPreview and one.doubt != 0.9 for one in strip.frames)
    case.controller.apply()
    assert case.frames() == list(range(18)) and not case.workspace.hasPreview
    assert case.controller.undo()
    assert case.frames() == []


def test_a_click_or_a_lock_between_draft_and_mask_has_the_last_word(drafting):
    case = drafting
    case.click(12, 15, 8)
    assert case.controller.propagate()
    while not any(one.frame == 17 for one in case.arrived):
        case.controller.poll()
    case.session.nextPollServesPreviews()
    assert case.controller.point("positive", case.ras(20, 20, 15), (0, 0, 1))
    assert case.controller.point("lock", case.ras(20, 20, 16), (0, 0, 1))
    locked = case.shown(16)
    assert case.controller.wait(60)
    assert case.shown(15)[20, 20], "the run's own mask of this slice is out of date"
    np.testing.assert_array_equal(case.shown(16), locked)


class Stubborn(AnsweringSession):
    """Goes on with a run that was cancelled, as a worker does that is in the middle of a slice."""

    def cancel(self, call):
        self.asked.append(("cancel", call))


def test_a_cancelled_run_is_over_at_once_and_what_it_still_sends_is_dropped(case):
    case.controller.close()
    case.makeSession = lambda: case.sessions.append(Stubborn(4)) or case.sessions[-1]
    case.start()
    case.click(12, 15, 8)
    assert case.controller.propagate()
    case.controller.poll()
    case.controller.cancel()
    assert [end.state for end in case.ends] == ["cancelled"] and not case.controller.isRunning
    assert case.controller.isWaiting and case.controller.whyNot("propagate") == ""
    finished = case.workspace.previewFrames("A")
    assert 0 < len(finished) < 18
    case.controller.cancel()
    case.controller.poll()
    case.controller.poll()
    assert case.workspace.previewFrames("A") == finished and len(case.ends) == 1
    # The next one is asked for while the worker is still at the first.
    assert case.controller.propagate() and case.controller.wait(60)
    assert [end.state for end in case.ends] == ["cancelled", "done"] and case.ends[1].applied
    assert case.frames() == list(range(18)) and [code for code in case.codes if code] == []


def show(case, width, level):
    display = case.volumeNode.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevel(width, level)


def test_a_changed_window_is_told_of_once_where_it_does_not_count(case):
    show(case, 400, 40)
    case.click(12, 15, 8)
    case.run()
    case.run()
    assert case.codes == []
    show(case, 1500, 300)
    case.run()
    case.run()
    assert case.codes == ["older_window"] and "Recompute all slices" in case.texts[0]
    # Everything anew is in the present one, and so is what follows.
    case.run(everything=True)
    case.run(anew=True)
    assert case.session.asked[-1][1][2] == {
        "direction": "both",
        "reach": None,
        "everything": True,
        "anew": True,
        "edges": False,
        "all_axes": False,
        "filled": {"A": tuple(range(case.geometry.shape_ijk[2]))},
    }
    case.run()
    assert case.codes == ["older_window"]
    # A segment that is new is seen as the volume is shown.
    show(case, 300, 30)
    case.controller.select(case.volumeNode, case.segmentationNode, "B")
    case.click(25, 20, 8)
    case.run()
    assert case.codes == ["older_window"]
