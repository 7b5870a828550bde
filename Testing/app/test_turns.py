"""Work in turns: how long a turn is, and that applying changes the segments in one of them, whatever comes
in between.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import slicer

from Headless.fake_session import disc
from SAM2PropagateLib.app import rules, shared
from SAM2PropagateLib.app.applying import PACKED_AT_ONCE
from SAM2PropagateLib.app.events import Choices
from SAM2PropagateLib.app.shown_preview import WorkspacePreview
from SAM2PropagateLib.app.turns import Turns
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.scene import segment_copies, slabs
from SAM2PropagateLib.scene.commit import SegmentCommitter
from SAM2PropagateLib.scene.segments import SegmentReader
from Testing.app.cases import HeadlessCase

SHAPE = (36, 40)
KEEP = Choices(applyAutomatically=False)
STROKE = disc(30, 25, SHAPE, 2)


class CountedCopies:
    """Copies representations, and counts."""

    def __init__(self) -> None:
        self.count = 0
        self._copying = segment_copies.copying

    def __call__(self, data: Any) -> Any:
        self.count += 1
        return self._copying(data)


class Clock:
    """Goes on by so much whenever it is looked at."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def state(case: Any) -> tuple[Any, ...]:
    """All that the user sees, in the order of the segments: what is new has another ID every time."""
    workspace = case.workspace
    segmentation = case.segmentationNode.GetSegmentation()
    return tuple(
        (
            segmentation.GetSegment(one).GetName(),
            len(workspace.prompts.segment(one).clicks),
            [mask.mask.tobytes() for mask in workspace.prompts.segment(one).masks],
            [case.segment(n, one).tobytes() for n in range(18)],
            {frame: case.shown(frame, one).tobytes() for frame in workspace.previewFrames(one)},
            case.controller.strip(one).frames,
        )
        for one in workspace.segmentIDs
    )


# --- the turns themselves


def counting(done: list[Any], pauses: list[bool], last: Any = None) -> Any:
    for number, pause in enumerate(pauses):
        done.append(number)
        yield pause
    done.append("end")
    return last


def test_a_turn_ends_when_its_time_is_over_and_the_next_goes_on():
    clock, done = Clock(), []
    turns = Turns(clock)
    turns.start = lambda: done.append("start")
    turns.begin(counting(done, [False] * 7))
    assert done == ["start"] and turns.isOn and turns.isWorking
    # The clock is looked at at the beginning, and then after every pause.
    clock.step = 1.0
    turns.go(3.0)
    assert done == ["start", 0, 1, 2]
    turns.go(2.0)
    assert done == ["start", 0, 1, 2, 3, 4]
    turns.go(100.0)
    assert done[-2:] == [6, "end"] and not turns.isOn


def test_a_turn_does_something_however_little_time_there_is():
    clock, done = Clock(9.0), []
    turns = Turns(clock)
    turns.begin(counting(done, [False] * 3))
    for _ in range(3):
        turns.go(0.0)
    assert done == [0, 1, 2]


def test_what_takes_long_has_a_turn_of_its_own_and_so_has_what_comes_last():
    done: list[Any] = []
    turns = Turns(Clock())
    turns.begin(counting(done, [False, True, False], lambda: done.append((turns.isWorking, "last"))))
    turns.go(1.0)
    assert done == [0, 1]
    turns.go(1.0)
    assert done == [0, 1, 2, "end"] and turns.isOn and not turns.isWorking
    turns.go(1.0)
    assert done[-1] == (False, "last") and not turns.isOn


def test_work_is_finished_at_once_before_other_work_begins():
    done: list[Any] = []
    turns = Turns(Clock())
    turns.begin(counting(done, [True] * 3, lambda: done.append("last")))
    turns.begin(counting(done, [True]))
    assert done == [0, 1, 2, "end", "last"]
    turns.drop()
    assert done == [0, 1, 2, "end", "last"] and not turns.isOn


def test_work_cannot_finish_itself_and_a_failure_ends_it():
    turns = Turns(Clock())

    def work() -> Any:
        turns.finish()
        turns.drop()
        yield False
        raise ValueError("broken")

    turns.begin(work())
    with pytest.raises(ValueError, match="broken"):
        turns.go(1.0)
    assert not turns.isOn


def test_views_are_held_while_work_goes_on_and_drawn_one_after_the_other():
    done: list[Any] = []
    turns = Turns(Clock())

    def hold() -> list[Any]:
        done.append("hold")
        return [lambda name=name: done.append(name) for name in ("red", "green")]

    turns.holdViews = hold

    def begun() -> Any:
        yield True
        return (yield from turns.undrawn(counting(done, [True, True], lambda: done.append("last"))))

    seen: list[list[Any]] = []
    turns.begin(begun())
    while turns.isOn:
        turns.go(9.0)
        seen.append(done[:])
        done.clear()
    assert seen == [[], ["hold", 0], [1], ["end"], ["red"], ["green"], [], ["last"]]
    # Whatever happens, they are drawn again.
    turns.begin(begun())
    turns.finish()
    assert done == ["hold", 0, 1, "end", "red", "green", "last"]
    for end in (1, 2):
        turns.begin(begun())
        for _ in range(2 * end):
            turns.go(9.0)
        done.clear()
        turns.drop()
        assert done == ["red", "green"]

    def fails() -> Any:
        yield True
        raise ValueError("broken")

    turns.begin(turns.undrawn(fails()))
    turns.go(9.0)
    done.clear()
    with pytest.raises(ValueError, match="broken"):
        turns.go(9.0)
    assert done == ["red", "green"]


# --- applying


class Watch:
    """What is seen of the segments after every turn, and how often they were written in it."""

    def __init__(self, case: Any) -> None:
        self.case = case
        self.writes: list[int] = []
        self.seen: list[bytes] = []
        self.tags = []
        segmentation = case.segmentationNode.GetSegmentation()
        self.count = 0
        segmentation.AddObserver(segmentation.RepresentationModified, self._written)

    def _written(self, *_: Any) -> None:
        self.count += 1

    def look(self) -> bytes:
        case = self.case
        readers = (SegmentReader(case.segmentationNode, one, case.geometry) for one in "AB")
        return b"".join(reader.array().tobytes() for reader in readers)

    def turn(self) -> None:
        """One turn of the event loop."""
        self.count = 0
        self.case.controller.poll()
        self.writes.append(self.count)
        self.seen.append(self.look())


def ready(headless: Any, clock: Any = None, choices: Choices = KEEP, **options: Any) -> HeadlessCase:
    """A run of two segments is in the preview, over slices that the segments have masks on already."""
    # Every pause ends a turn.
    with mock.patch.object(shared, "Turns", lambda: Turns(clock or Clock(1.0))):
        case = HeadlessCase(headless, choices=choices, **options)
    case.paint(8, disc(12, 12, SHAPE, 9))
    case.click(20, 18, 9)
    case.controller.select(case.volumeNode, case.segmentationNode, "B")
    case.click(8, 8, 4)
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    if choices is KEEP:
        case.run(segmentIDs=["A", "B"])
    return case


def waited(case: HeadlessCase) -> None:
    """Until nothing is left to be done."""
    for _ in range(5000):
        case.controller.poll()
        if not case.controller.isWaiting:
            return
    raise AssertionError("applying does not end")


@pytest.fixture
def small_slabs(monkeypatch: Any) -> int:
    """So that a small volume is worked on in many pieces; voxels in each."""
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 3000)
    return 3000


@pytest.mark.usefixtures("small_slabs")
def test_the_segments_change_in_one_turn_and_are_as_if_applied_at_once(headless):
    once = ready(headless)
    assert once.controller.apply() is not None
    expected = state(once), once.controller.undoText, once.texts
    once.controller.close()

    case = ready(headless)
    before = Watch(case).look()
    watch = Watch(case)
    assert case.controller.startApplying() and case.controller.isApplying and case.ticker.isOn
    while case.controller.isWaiting:
        watch.turn()
    assert len(watch.seen) > 20
    assert [one for one in watch.writes if one] == [2]
    after = watch.look()
    assert before != after
    assert set(watch.seen) == {before, after}
    assert watch.seen == sorted(watch.seen, key=lambda one: one == after)
    assert (state(case), case.controller.undoText, case.texts) == expected
    assert not case.controller.isApplying and not case.ticker.isOn
    case.controller.close()


def test_a_turn_works_on_few_frames_and_few_voxels(headless, small_slabs, monkeypatch):
    worked: list[int] = []
    add, prepare = slabs.Filled.add, WorkspacePreview.prepareKept

    def count_slab(self: Any, part: slice, voxels: Any) -> None:
        worked.append(voxels.size)
        add(self, part, voxels)

    monkeypatch.setattr(slabs.Filled, "add", count_slab)
    packed: list[int] = []

    def count_packed(self: Any, enough: Any) -> bool:
        count = [0]

        def counted() -> bool:
            count[0] += 1
            return bool(enough())

        left = prepare(self, counted)
        packed.append(count[0])
        return left

    monkeypatch.setattr(WorkspacePreview, "prepareKept", count_packed)
    # Every pause ends the turn.
    case = ready(headless, Clock(1.0))
    worked.clear()
    packed.clear()
    assert case.controller.startApplying()
    slabs_per_turn, is_written = [], False
    while case.controller.isApplying and not is_written:
        worked.clear()
        packed.clear()
        case.controller.poll()
        is_written = not case.workspace.hasPreview
        if not is_written:
            slabs_per_turn.append(len(worked))
            assert sum(packed) <= PACKED_AT_ONCE
            # One slab, of two parts at most: what a segment gains and what it loses.
            assert all(size <= max(small_slabs, SHAPE[0] * SHAPE[1]) for size in worked)
            assert len(worked) <= 2
    assert is_written and sum(slabs_per_turn) > 20
    # All was worked out before: the turn that writes looks through no voxels.
    assert worked == []
    case.controller.close()


BETWEEN = {
    "undo": lambda case: case.controller.undo(),
    "click": lambda case: case.click(12, 20, 3),
    "add segment": lambda case: case.controller.addSegment(),
    "clear prompts": lambda case: case.controller.clearPrompts(),
    "propagate": lambda case: case.run(),
    "apply": lambda case: case.controller.apply(),
    "take up a tool": lambda case: case.controller.editBegins(),
    "select nothing": lambda case: case.controller.select(None, None),
    "close": lambda case: case.controller.close(),
}


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("turns", [1, 30])
@pytest.mark.parametrize("action", BETWEEN)
def test_what_is_done_meanwhile_comes_after_it(headless, action, turns):
    """As if it had been applied at once, and then done."""
    results = []
    for in_turns in (False, True):
        case = ready(headless)
        if in_turns:
            assert case.controller.startApplying()
            for _ in range(turns):
                case.controller.poll()
            assert case.controller.isApplying
        else:
            assert case.controller.apply() is not None
        BETWEEN[action](case)
        assert not case.controller.isApplying
        case.controller.wait(60)
        if case.controller.workspace is None:
            case.controller.select(case.volumeNode, case.segmentationNode, "A")
        results.append((state(case), case.controller.undoText, case.controller.redoText))
        case.controller.close()
        headless.scene.RemoveNode(case.segmentationNode)
        headless.scene.RemoveNode(case.volumeNode)
    assert results[0] == results[1]


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("turns", [5, 40])
def test_a_stroke_meanwhile_is_neither_lost_nor_alone(headless, turns):
    case = ready(headless)
    assert case.controller.startApplying()
    for _ in range(turns):
        case.controller.poll()
    case.paint(9, STROKE)
    case.controller.noteEdits()
    waited(case)
    case.controller.lookForEdits()
    assert case.workspace.previewFrames("A") == frozenset()
    found = case.segment(9)
    # What the run found is there, and the stroke on it.
    assert found[STROKE].all() and found[18, 20]
    assert case.controller.canUndo
    while case.controller.undo():
        pass
    assert not case.segment(9).any()
    case.controller.close()


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("turns", [5, 40])
def test_a_preview_that_changes_meanwhile_is_what_is_written(headless, turns):
    case = ready(headless)
    assert case.controller.startApplying()
    for _ in range(turns):
        case.controller.poll()
    case.workspace.preview.write("A", 9, STROKE)
    waited(case)
    np.testing.assert_array_equal(case.segment(9), STROKE)
    case.controller.close()


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("turns", [5, 40])
def test_a_segment_that_goes_meanwhile_is_gone_and_the_other_one_applied(headless, turns):
    case = ready(headless)
    assert case.controller.startApplying()
    for _ in range(turns):
        case.controller.poll()
    case.segmentationNode.GetSegmentation().RemoveSegment("A")
    waited(case)
    assert case.workspace.segmentIDs == ("B",)
    assert case.frames("B") and not case.workspace.hasPreview
    assert case.codes == []
    assert case.controller.undo()
    case.controller.close()


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("turns", [5, 40])
@pytest.mark.parametrize("gone", ["scene", "volume", "segmentation"])
def test_a_scene_that_goes_meanwhile_takes_it_along(headless, gone, turns):
    case = ready(headless)
    assert case.controller.startApplying()
    for _ in range(turns):
        case.controller.poll()
    if gone == "scene":
        headless.clear()
    else:
        headless.scene.RemoveNode(case.volumeNode if gone == "volume" else case.segmentationNode)
    assert not case.controller.isApplying and case.controller.workspace is None
    waited(case)
    assert not case.ticker.isOn
    case.controller.close()


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("action", ["apply", "undo", "redo"])
def test_a_scene_that_is_saved_meanwhile_has_the_preview_or_the_masks_never_both_or_none(headless, action):
    case = ready(headless)
    frames = case.workspace.previewFrames("A")
    if action != "apply":
        assert case.controller.apply() is not None
    if action == "redo":
        assert case.controller.undo()
    start = {
        "apply": case.controller.startApplying,
        "undo": case.controller.startUndo,
        "redo": case.controller.startRedo,
    }[action]
    assert start()
    number = 0
    while case.controller.isWaiting:
        case.controller.poll()
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        kept = [one for one in nodes if "preview" in list(one.GetParameterNames())]
        is_written = 4 in case.frames("B")
        assert bool(kept) is not is_written
        number += 1
    assert number > 5 and (set(case.frames()) >= frames - {9}) is (action != "undo")
    case.controller.close()


def test_it_is_applied_once_it_is_written_whatever_is_left_to_be_drawn(headless):
    case = ready(headless)
    assert case.controller.startApplying()
    while case.workspace.hasPreview:
        assert case.controller.isApplying
        case.controller.poll()
    assert case.controller.isWaiting and not case.controller.isApplying
    assert case.controller.whyNot(rules.APPLY) == "There is no preview."
    waited(case)
    assert case.codes == []
    case.controller.close()


def test_why_it_cannot_be_applied_twice(headless):
    case = ready(headless)
    assert case.controller.startApplying()
    assert case.controller.whyNot(rules.APPLY) == "The preview is being applied."
    assert case.controller.whyNot(rules.DISCARD) == "The preview is being applied."
    assert not case.controller.startApplying()
    summary = case.controller.apply()
    assert summary is not None and summary.added > 0
    assert case.controller.whyNot(rules.APPLY) == "There is no preview."
    case.controller.close()


def test_a_failure_is_told_and_the_preview_stays(headless, monkeypatch):
    case = ready(headless)

    def fail(*_: Any) -> None:
        raise SAM2PropagateError("undo_failed", "It cannot be kept.", "Save the scene.")

    monkeypatch.setattr(SegmentCommitter, "carryOut", fail)
    before = Watch(case).look()
    assert case.controller.startApplying()
    waited(case)
    assert case.codes == ["undo_failed"] and case.workspace.hasPreview
    assert Watch(case).look() == before
    monkeypatch.undo()
    assert case.controller.apply() is not None
    case.controller.close()


# --- Undo and Redo


@pytest.mark.usefixtures("small_slabs")
def test_undo_and_redo_change_everything_in_one_turn(headless, monkeypatch):
    case = ready(headless)
    before = state(case)
    assert case.controller.apply() is not None
    after, told = state(case), []
    case.controller.changed.connect(lambda _none: told.append(state(case)))
    # What shows nothing is in no view.
    shown = case.workspace.shown.node.GetSegmentation().GetNumberOfSegments
    assert shown() == 0
    for start, first, last in (
        (case.controller.startUndo, after, before),
        (case.controller.startRedo, before, after),
    ):
        told.clear()
        assert start() and case.ticker.isOn and not case.controller.isApplying
        watch, seen = Watch(case), []
        # All copies are made before.
        monkeypatch.setattr(segment_copies, "copying", seen_copying := CountedCopies())
        while case.controller.isWaiting:
            watch.turn()
            seen.append(state(case))
            assert not seen_copying.count or seen[-1] == first
            seen_copying.count = 0
        assert len(seen) > 5 and seen[0] == first and told == [last]
        assert seen == sorted(seen, key=lambda one: one == last)
        assert [one for one in watch.writes if one] == [2]
        assert shown() == (2 if last is before else 0)
    monkeypatch.undo()
    # The next one comes after what the first has to show.
    told.clear()
    assert case.controller.startUndo() and case.controller.startRedo()
    assert told == [before] and state(case) == before
    waited(case)
    assert told == [before, after]
    case.controller.changed.clear()
    case.controller.close()


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("turns", [1, 8])
def test_a_stroke_while_undo_is_under_way_is_undone_first(headless, turns):
    """As it is when it comes before Undo."""
    case = ready(headless)
    assert case.controller.apply() is not None
    after = state(case)
    assert case.controller.startUndo()
    for _ in range(turns):
        case.controller.poll()
    case.paint(2, STROKE)
    waited(case)
    assert state(case) == after and case.controller.redoText == "Redo edit"
    case.controller.close()


# --- the end of a run


@pytest.mark.usefixtures("small_slabs")
@pytest.mark.parametrize("clicks", [False, True])
def test_a_run_that_is_applied_by_itself_ends_in_turns(headless, clicks):
    case = ready(headless, choices=Choices())
    watch = Watch(case)
    before = watch.look()
    assert case.controller.propagate(["A", "B"])
    while not case.controller.isApplying:
        watch.turn()
    assert case.controller.isRunning and case.ends == [] and set(watch.seen) == {before}
    for _ in range(5):
        watch.turn()
    assert set(watch.seen) == {before} and case.controller.isRunning
    if clicks:
        # It is over before anything else is done.
        case.click(20, 18, 2)
    else:
        while case.controller.isWaiting:
            watch.turn()
            # Who waits for its end finds all of it.
            assert case.controller.isRunning is (case.ends == [])
            assert case.controller.isRunning is (watch.seen[-1] == before)
        assert [one for one in watch.writes if one] == [2]
        assert set(watch.seen) == {before, watch.look()}
    assert [(one.state, one.applied) for one in case.ends] == [("done", True)]
    assert not case.controller.isRunning and 9 in case.frames()
    assert case.controller.undoText.startswith("Undo click" if clicks else "Undo propagate (")
    case.controller.close()


@pytest.mark.usefixtures("small_slabs")
def test_cancel_at_its_end_applies_what_is_finished(headless):
    case = ready(headless, choices=Choices())
    assert case.controller.propagate(["A", "B"])
    while not case.controller.isApplying:
        case.controller.poll()
    case.controller.cancel()
    assert [(one.state, one.applied) for one in case.ends] == [("done", True)]
    assert not case.controller.isApplying and not case.controller.isRunning
    case.controller.close()


@pytest.mark.usefixtures("small_slabs")
def test_apply_at_its_end_writes_newer_previews_too(headless):
    case = ready(headless, choices=Choices())
    assert case.controller.propagate(["A", "B"])
    case.controller.poll()
    assert case.controller.point("positive", case.ras(30, 30, 15), (0, 0, 1))
    case.session.nextPollServesPreviews()
    while not case.controller.isApplying:
        case.controller.poll()
    assert 15 in case.workspace.previewFrames("A")
    assert case.controller.apply() is not None
    assert not case.controller.isRunning and not case.workspace.hasPreview
    np.testing.assert_array_equal(case.segment(15), disc(30, 30, SHAPE))
    case.controller.close()
