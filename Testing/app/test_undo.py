"""One Undo and Redo for prompts, masks and the preview: order, names, and what each step brings back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from Headless.fake_session import disc
from SAM2PropagateLib import texts
from SAM2PropagateLib.app.events import Choices, Editing
from SAM2PropagateLib.app.prompt_changes import changeName
from SAM2PropagateLib.prompts.values import (
    Box,
    Click,
    Curve,
    FrameMark,
    FrameRange,
    Lasso,
    Scribble,
    SegmentPrompts,
)
from Testing.app.cases import HeadlessCase
from Testing.scene.test_transforms import warp

SHAPE = (36, 40)
STROKE = disc(30, 25, SHAPE, 2)
KEEP = Choices(applyAutomatically=False)


def state(case: Any) -> tuple[Any, ...]:
    """All that the user sees: prompts, segments, preview, strip."""
    workspace = case.workspace
    segmentation = case.segmentationNode.GetSegmentation()
    names = [segmentation.GetSegment(one).GetName() for one in workspace.segmentIDs]
    masks = {one: [case.segment(n, one).tobytes() for n in range(18)] for one in workspace.segmentIDs}
    preview = {
        (one, frame): case.shown(frame, one).tobytes()
        for one in workspace.segmentIDs
        for frame in workspace.previewFrames(one)
    }
    strips = {one: case.controller.strip(one).frames for one in workspace.segmentIDs}
    # Which axis the first prompt chose stays, until the next first prompt chooses again.
    return names, workspace.prompts.segments, masks, preview, strips


def painted(case: Any, frame: int, mask: np.ndarray, segment: str = "A") -> None:
    """A stroke, as the panel notices it: at once, and again when the user pauses."""
    case.paint(frame, mask, segment)
    case.controller.noteEdits()
    case.controller.lookForEdits()


def apply_by_hand(case: Any) -> None:
    assert case.controller.apply() is not None


def add_and_choose(case: Any) -> None:
    added = case.controller.addSegment()
    case.controller.select(case.volumeNode, case.segmentationNode, added)


def rename(case: Any, name: str) -> None:
    case.segmentationNode.GetSegmentation().GetSegment("A").SetName(name)
    case.controller.noteEdits()


DAY = (
    ("click", lambda case: case.click(12, 15, 8)),
    ("click", lambda case: case.click(16, 15, 8)),
    ("propagate (18 slices)", lambda case: case.run()),
    ("edit", lambda case: painted(case, 3, STROKE)),
    ("discard preview", lambda case: case.controller.discard()),
    ("propagate (18 slices)", lambda case: case.run()),
    ("apply (18 slices)", apply_by_hand),
    ("edit", lambda case: painted(case, 4, disc(34, 5, SHAPE, 2))),
    ("edit", lambda case: painted(case, 4, disc(5, 5, SHAPE, 2))),
    ("click", lambda case: case.click(14, 15, 4, "negative")),
    ("lock slice", lambda case: case.click(1, 1, 4, "lock")),
    ("absent mark", lambda case: case.click(1, 1, 15, "absent")),
    ("rename segment", lambda case: rename(case, "liver")),
    ("add segment", add_and_choose),
    ("click", lambda case: case.click(25, 20, 9)),
    ("propagate (18 slices)", lambda case: case.run()),
    ("remove segment", lambda case: case.controller.removeSegment()),
    ("clear prompts", lambda case: (case.controller.select(case.volumeNode, case.segmentationNode, "A"),
                                    case.controller.clearPrompts())),
)  # fmt: skip


def test_a_whole_day_is_undone_and_redone_step_by_step(headless):
    case = HeadlessCase(headless, choices=KEEP)
    states = [state(case)]
    for name, act in DAY:
        act(case)
        case.controller.wait(60)
        assert case.controller.undoText == f"Undo {name}", case.texts
        assert not case.controller.canRedo and case.controller.redoText == "There is nothing to redo."
        states.append(state(case))
    for _ in range(2):
        for (name, _act), before in zip(reversed(DAY), states[-2::-1], strict=True):
            assert case.controller.undoText == f"Undo {name}"
            assert case.controller.undo() and case.controller.wait(60)
            case.controller.lookForEdits()
            assert case.controller.redoText == f"Redo {name}"
            same(state(case), before, name)
        assert not case.controller.canUndo and not case.controller.undo()
        for (name, _act), after in zip(DAY, states[1:], strict=True):
            assert case.controller.redoText == f"Redo {name}"
            assert case.controller.redo() and case.controller.wait(60)
            case.controller.lookForEdits()
            same(state(case), after, name)
        assert not case.controller.canRedo and not case.controller.redo()
    case.controller.close()


def same(now: tuple[Any, ...], wanted: tuple[Any, ...], step: str) -> None:
    for what, one, other in zip(("names", "prompts", "masks", "preview", "strip"), now, wanted, strict=True):
        assert one == other, f"{what} after {step}"


def test_an_applied_run_goes_and_its_prompts_stay(case):
    case.click(12, 15, 8)
    before = state(case)
    case.run()
    assert case.ends[-1].applied and case.controller.undoText == "Undo propagate (18 slices)"
    assert case.controller.undo()
    assert state(case) == before and case.workspace.previewFrames("A") == {8}
    # The worker is not to believe that the segment still has it.
    case.run()
    assert case.frames() == list(range(18))


def test_a_new_step_ends_redo(case):
    case.click(12, 15, 8)
    case.click(20, 15, 5)
    assert case.controller.undo() and case.controller.canRedo
    case.click(22, 15, 6)
    assert not case.controller.canRedo and not case.controller.redo()
    assert len(case.workspace.prompts.segment("A").clicks) == 2


def test_during_a_run_only_prompts_are_undone(case):
    painted(case, 3, STROKE)
    case.click(12, 15, 8)
    assert case.controller.propagate()
    case.controller.poll()
    case.controller.point("positive", case.ras(14, 15, 5), (0, 0, 1))
    assert case.controller.undoText == "Undo click" and case.controller.undo()
    while case.controller.canUndo:
        assert case.controller.undo()
    assert case.controller.undoText.startswith("Wait until the propagation has finished")
    assert not case.controller.undo() and case.segment(3)[STROKE].all()
    assert case.controller.wait(60)
    assert case.ends[-1].state == "done" and case.segment(3)[STROKE].all()


def begun(case: Any, until: int) -> None:
    """A run from slice 8 that has found this slice."""
    case.session.framesPerPoll = 1
    assert case.controller.propagate()
    while ("A", until) not in {(one.segmentID, one.frame) for one in case.arrived if one.kind != "preview"}:
        case.controller.poll()


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize("clicks", [1, 2])
def test_a_click_on_a_slice_that_a_run_had_found_leads_back_to_no_mask_of_the_run(
    headless, clicks, automatic
):
    case = HeadlessCase(headless, choices=Choices(applyAutomatically=automatic))
    case.click(12, 15, 8)
    states = [state(case)]
    begun(case, 5)
    for x in range(20, 20 + clicks):
        assert case.controller.point("positive", case.ras(x, 15, 5), (0, 0, 1))
    assert case.controller.wait(60)
    case.controller.lookForEdits()
    after = state(case)
    names = ["Undo propagate (18 slices)", *["Undo click"] * clicks]
    for name in names:
        assert case.controller.undoText == name
        assert case.controller.undo() and case.controller.wait(60)
    same(state(case), states[0], "undo of run and clicks")
    while case.controller.canRedo:
        assert case.controller.redo() and case.controller.wait(60)
    case.controller.lookForEdits()
    same(state(case), after, "redo of clicks and run")
    case.controller.close()


def test_a_click_that_is_undone_during_the_run_leaves_its_slice_to_the_run(case):
    case.click(12, 15, 8)
    before = state(case)
    begun(case, 5)
    assert case.controller.point("positive", case.ras(20, 15, 5), (0, 0, 1))
    assert case.controller.undo() and case.controller.wait(60)
    assert case.ends[-1].applied and case.workspace.previewFrames("A") == set()
    assert case.frames() == list(range(18)) and "newer_prompts" not in case.codes
    assert case.controller.undoText == "Undo propagate (18 slices)" and case.controller.undo()
    same(state(case), before, "undo of the run")


def test_what_was_applied_during_a_run_leads_back_to_no_mask_of_the_run(case):
    case.click(12, 15, 8)
    before = state(case)
    begun(case, 5)
    case.controller.editBegins()
    assert case.controller.wait(60)
    while case.controller.canUndo and len(case.workspace.prompts.segment("A").clicks):
        same_click = state(case)
        assert case.controller.undo() and case.controller.wait(60)
    same(same_click, before, "undo of the run and of what was applied")


def test_a_stroke_that_changes_no_voxel_is_no_step(case):
    case.click(12, 15, 8)
    case.run()
    case.click(14, 15, 8)
    assert case.controller.undo() and case.controller.wait(60)
    texts = case.controller.undoText, case.controller.redoText
    before = state(case)
    painted(case, 8, np.zeros(SHAPE, bool))
    assert (case.controller.undoText, case.controller.redoText) == texts
    same(state(case), before, "a stroke on what is painted already")
    painted(case, 8, STROKE)
    assert case.controller.undoText == "Undo edit" and not case.controller.canRedo


def test_a_cancelled_run_is_a_step_with_what_it_found(case):
    case.click(12, 15, 8)
    before = state(case)
    case.session.framesPerPoll = 1
    assert case.controller.propagate()
    for _ in range(5):
        case.controller.poll()
    case.controller.cancel()
    after = state(case)
    count = case.ends[-1].frames
    assert count > 1 and case.controller.undoText == f"Undo propagate ({count} slices)"
    assert case.controller.undo()
    assert state(case) == before
    assert case.controller.redo()
    assert state(case) == after


def test_what_was_changed_elsewhere_is_a_step_in_its_order(case):
    case.click(12, 15, 8)
    case.paint(2, STROKE, "B")
    assert case.controller.undoText == "Undo edit"
    case.click(20, 15, 5)
    names = []
    while case.controller.canUndo:
        names.append(case.controller.undoText)
        assert case.controller.undo()
    assert names == ["Undo click", "Undo edit", "Undo click"] and case.frames("B") == []
    while case.controller.redo():
        pass
    assert case.frames("B") == [2]


def test_a_change_that_changes_nothing_is_no_step(case):
    segment = case.segmentationNode.GetSegmentation().GetSegment("A")
    segment.SetTag("note", "seen")
    case.controller.noteEdits()
    assert not case.controller.canUndo
    case.click(12, 15, 8)
    segment.SetTag("note", "again")
    assert case.controller.undoText == "Undo click" and case.controller.undo()
    assert case.workspace.prompts.is_empty


def test_only_states_that_are_kept_are_offered(case, monkeypatch):
    from SAM2PropagateLib.scene import undo_states

    monkeypatch.setattr(undo_states, "LEAST_STATES", 4)
    monkeypatch.setattr(undo_states, "MOST_BYTES", 0)
    case.click(12, 15, 8)
    for frame in range(6):
        case.paint(frame, STROKE)
        case.controller.noteEdits()
    count = 0
    while case.controller.canUndo:
        assert case.controller.undo()
        count += 1
    assert count == 3 and case.frames() == [0, 1, 2]
    # The click came before what cannot be undone.
    assert len(case.workspace.prompts.segment("A").clicks) == 1


def test_another_volume_scene_or_nothing_has_nothing_to_undo(case, headless, tmp_path):
    case.click(12, 15, 8)
    assert case.controller.canUndo
    case.controller.select(case.volumeNode, None)
    assert not case.controller.canUndo and not case.controller.undo() and not case.controller.redo()
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    case.click(12, 15, 5)
    headless.saveScene(tmp_path / "scene.mrb")
    headless.clear()
    assert not case.controller.canUndo and not case.controller.undo()
    headless.loadScene(tmp_path / "scene.mrb")
    case.controller.select(
        headless.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode"),
        headless.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode"),
        "A",
    )
    assert not case.controller.canUndo and not case.controller.undo() and not case.controller.redo()
    assert len(case.workspace.prompts.segment("A").clicks) == 2


def test_the_name_of_an_edit_is_the_tools(headless):
    case = HeadlessCase(headless, editing=Editing(editName=lambda: "paint"))
    painted(case, 3, STROKE)
    assert case.controller.undoText == "Undo paint"
    case.controller.close()


@pytest.mark.parametrize("how", ["undo", "redo"])
def test_names_are_translated(case, how):
    texts.set_translator(lambda text, file: f"<{text}>")
    try:
        case.click(12, 15, 8)
        if how == "redo":
            assert case.controller.undo()
        text = case.controller.undoText if how == "undo" else case.controller.redoText
        assert text == ("<Undo <click>>" if how == "undo" else "<Redo <click>>")
    finally:
        texts.set_translator(None)


def test_every_change_of_prompts_has_a_name():
    click, box = Click("c", (0, 0, 0)), Box("b", (0, 0, 0), (1, 1, 0))
    mark, none = FrameMark("m", (0, 0, 0)), SegmentPrompts("A")
    said = none.add(click).add(box)
    stroke = Scribble("s", ((0, 0, 0), (1, 1, 0)))
    drawn = Lasso("l", ((0, 0, 0), (1, 1, 0), (1, 0, 0)))
    for before, after, name in (
        (none, none.add(click), "click"),
        (none.add(click), said, "box"),
        (none, none.add(stroke), "scribble"),
        (none, none.add(drawn), "lasso"),
        (none, none.add(Curve("v", ((0, 0, 0), (1, 1, 9)))), "curve"),
        (said, none.add(box), "delete prompt"),
        (none.add(click), none.add(replace(click, ras=(2, 2, 0))), "move prompt"),
        (none, none.add(mark, "lock"), "lock slice"),
        (none.add(mark, "lock"), none, "unlock slice"),
        (said, none.add(mark, "absent"), "absent mark"),
        (none.add(mark, "absent"), none, "remove absent mark"),
        (none, none.with_range(FrameRange((0, 0, 0), (0, 0, 5))), "range"),
    ):
        assert changeName(before, after) == name


def redo_all(case: Any) -> None:
    while case.controller.redo():
        case.settle()


def undo_all(case: Any) -> None:
    while case.controller.undo():
        case.settle()


def and_back(case: Any) -> None:
    case.controller.undo()
    case.controller.redo()


def all_and_back(case: Any) -> None:
    undo_all(case)
    redo_all(case)


def clicked_and_back(case: Any) -> None:
    case.click(30, 30, 13)
    case.controller.undo()


def discarded_and_back(case: Any) -> None:
    case.controller.discard()
    case.controller.undo()


def deleted_and_back(case: Any) -> None:
    case.click(30, 30, 13)
    case.controller.clearPrompts(13)
    case.controller.undo()
    case.controller.undo()


def in_turns_and_back(case: Any) -> None:
    for start in (case.controller.startUndo, case.controller.startRedo):
        assert start()
        case.settle()


BACK = [and_back, all_and_back, clicked_and_back, deleted_and_back, in_turns_and_back]


@pytest.mark.parametrize(
    ("choices", "leads_back"),
    [
        *((Choices(), one) for one in BACK),
        *((KEEP, one) for one in [*BACK, discarded_and_back]),
    ],
)
def test_a_run_after_what_was_undone_and_redone_writes_only_what_has_changed(headless, choices, leads_back):
    case = HeadlessCase(headless, choices=choices)
    case.click(12, 15, 8)
    case.run()
    case.click(18, 16, 3)
    case.run()
    before = state(case)
    leads_back(case)
    assert state(case) == before
    case.run()
    assert case.ends[-1].frames == 0 and state(case)[:3] == before[:3]
    case.click(30, 30, 13)
    case.run()
    assert case.ends[-1].frames == 7  # 11 to 17, which are nearest to the click
    case.controller.close()


@pytest.mark.parametrize("clicks", [2, 12])
def test_undo_compares_with_all_that_the_worker_knew_of_at_once(headless, monkeypatch, clicks):
    case = HeadlessCase(headless, choices=KEEP)
    case.click(12, 15, 8)
    case.run()
    for n in range(clicks):
        case.click(10 + n, 10, 3)
    case.controller.discard()
    asked = []
    hashes = case.workspace.tracker.hashes
    monkeypatch.setattr(
        case.workspace.tracker, "hashes", lambda *what: (asked.append(what), hashes(*what))[1]
    )
    assert case.controller.undo()
    assert len(asked) < 6
    case.controller.close()


def test_undo_in_turns_compares_segments_in_turns(case, monkeypatch):
    case.click(12, 15, 8)
    case.run()
    before = state(case)
    case.click(18, 16, 3)
    case.run()
    case.workspace.handEdits.lookAgain()
    whole = []
    edited = case.workspace.tracker.edited
    monkeypatch.setattr(
        case.workspace.tracker,
        "edited",
        lambda name, axis, trusts=False, **named: (
            whole.append(name) if not (trusts or named.get("trustsStamp")) else None,
            edited(name, axis, trusts, **named),
        )[1],
    )
    assert case.controller.startUndo()
    case.settle()
    assert whole == []
    case.controller.undo()
    assert state(case) == before
    # And what was compared so is still what the worker knows of.
    case.controller.redo()
    case.controller.redo()
    case.run()
    assert case.ends[-1].frames == 0


def test_undo_in_turns_on_a_volume_that_is_bent_meanwhile_is_refused_in_a_sentence(case):
    case.click(12, 15, 8)
    case.run()
    case.workspace.handEdits.lookAgain()
    assert case.controller.startUndo()
    case.volumeNode.SetAndObserveTransformNodeID(warp(case.headless).GetID())
    case.settle()
    assert "nonlinear_transform" in case.codes and case.workspace.history.last is not None


@pytest.mark.parametrize("undoes", ["undo", "startUndo"])
def test_undo_under_a_bent_segmentation_says_why_not(case, undoes):
    case.click(12, 15, 8)
    case.run()
    case.click(14, 15, 7)
    case.segmentationNode.SetAndObserveTransformNodeID(warp(case.headless).GetID())
    case.settle()
    case.messages.clear()
    assert not getattr(case.controller, undoes)()
    case.settle()
    assert len(case.texts) == 1 and "non-linear" in case.texts[0]
    assert case.workspace.history.last.name == "click"


def applied_in_between(case: Any) -> None:
    apply_by_hand(case)
    case.controller.undo()
    case.controller.redo()


def test_applying_undone_and_redone_is_still_what_the_worker_wrote(headless):
    case = HeadlessCase(headless, choices=KEEP)
    case.click(12, 15, 8)
    case.run()
    applied_in_between(case)
    case.run()
    assert case.ends[-1].frames == 0
    case.controller.close()


def undone(case: Any) -> None:
    case.controller.undo()


def undone_and_painted(case: Any) -> None:
    case.controller.undo()
    painted(case, 5, STROKE)


def one_more_run_undone(case: Any) -> None:
    case.click(30, 30, 13)
    case.run()
    case.controller.undo()
    case.controller.undo()


def cancelled_undone_and_redone(case: Any) -> None:
    case.click(30, 30, 13)
    case.session.framesPerPoll = 2
    assert case.controller.propagate()
    case.controller.poll()
    case.controller.cancel()
    case.session.framesPerPoll = 18
    and_back(case)


def removed_and_back(case: Any) -> None:
    case.controller.undo()
    case.controller.removeSegment()
    case.controller.undo()


@pytest.mark.parametrize(
    "leads_elsewhere",
    [undone, undone_and_painted, one_more_run_undone, cancelled_undone_and_redone, removed_and_back],
)
def test_a_run_after_lost_masks_writes_all_of_them(case, leads_elsewhere):
    case.click(12, 15, 8)
    case.run()
    leads_elsewhere(case)
    case.run()
    assert case.ends[-1].frames == 18
    case.run(everything=True)
    after = state(case)
    assert after[2]["A"][17] != np.zeros(SHAPE, bool).tobytes()
    case.run(everything=True)
    assert state(case)[:3] == after[:3]


@pytest.mark.parametrize("then", ["propagate", "click"])
def test_a_stroke_before_the_masks_arrival_is_undone_step_by_step(headless, then):
    case = HeadlessCase(headless, choices=KEEP)
    stroke = disc(8, 6, SHAPE, 2)
    case.controller.point("positive", case.ras(20, 25, 7), (0, 0, 1))
    case.paint(7, stroke)
    case.controller.lookForEdits()
    if then == "propagate":
        assert case.controller.propagate(reach=2)
    else:
        case.controller.point("positive", case.ras(20, 25, 9), (0, 0, 1))
    case.settle()
    case.controller.lookForEdits()
    steps = 0
    while case.controller.canUndo:
        assert steps < 6, case.controller.undoText
        assert case.controller.undo(), case.texts
        case.settle()
        case.controller.lookForEdits()
        steps += 1
    assert not case.segment(7).any() and case.workspace.prompts.is_empty
    for _ in range(steps):
        assert case.controller.redo(), case.texts
        case.settle()
        case.controller.lookForEdits()
    assert not case.controller.canRedo
    assert (case.workspace.maskNow("A", 7) & stroke).sum() == stroke.sum()
    case.controller.close()


def test_a_refused_run_is_no_step_and_leaves_the_prompts_and_redo(headless):
    case = HeadlessCase(headless, choices=KEEP)
    case.paint(4, STROKE)
    case.controller.lookForEdits()
    case.click(12, 15, 12)
    for frame in (10, 16):
        case.click(5, 5, frame, "range")
    case.click(14, 15, 13)
    assert case.controller.undo()
    case.settle()
    before, undoes, redoes = state(case), case.controller.undoText, case.controller.redoText
    assert not case.controller.propagate()
    assert "range" in case.texts[-1]
    assert state(case) == before
    assert (case.controller.undoText, case.controller.redoText) == (undoes, redoes)
    assert case.controller.redo()
    case.controller.close()


@pytest.mark.parametrize("when", ["before applying", "while it is applied", "before the run's end"])
def test_a_stroke_that_was_not_looked_at_is_undone_and_redone(headless, when):
    case = HeadlessCase(headless, choices=KEEP)
    case.click(12, 15, 8)
    if when == "before the run's end":
        assert case.controller.propagate()
        case.paint(8, STROKE)
    elif when == "while it is applied":
        case.run()
        case.controller.startApplying()
        case.controller.poll()
        case.paint(8, STROKE)
    else:
        case.paint(8, STROKE)
        assert case.controller.apply()
    case.settle()
    after = state(case)
    assert case.controller.undo()
    case.controller.lookForEdits()
    assert case.controller.canRedo
    assert case.controller.redo()
    case.controller.lookForEdits()
    same(state(case), after, when)
    assert (case.workspace.maskNow("A", 8) & STROKE).sum() == STROKE.sum()
    case.controller.close()
