"""What a run writes, what it leaves alone, and what it computes again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SAM2PropagateLib.engine.family import Decoded, Recall
from SAM2PropagateLib.engine.features import FeatureStore
from SAM2PropagateLib.engine.results import FrameMask, RunSummary
from SAM2PropagateLib.engine.session import EngineSession
from SAM2PropagateLib.engine.steps import FrameFeatures
from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunOptions, RunRequest
from Testing.engine.fake_steps import FakeSteps, blocks, frames_of, session

BRIGHT_BOX = FramePrompts(box=(7.5, 7.5, 23.5, 23.5))
GRAY_CLICK = FramePrompts(clicks=((40.0, 44.0, True),))


def segment(
    keyframes: dict[int, FramePrompts], name: str = "bright", locked: tuple[int, ...] = (), last: int = 19
) -> ResolvedSegment:
    return ResolvedSegment(name, keyframes, frozenset(locked), 0, last)


def run(
    opened: EngineSession, *segments: ResolvedSegment, **options: object
) -> tuple[dict[tuple[str, int], FrameMask], RunSummary]:
    masks: dict[tuple[str, int], FrameMask] = {}
    times: Counter[tuple[str, int]] = Counter()

    def on_frame(mask: FrameMask) -> None:
        masks[mask.segment, mask.frame] = mask
        times[mask.segment, mask.frame] += 1
        assert times[mask.segment, mask.frame] <= 2, "each frame is written once, after one draft at most"

    request = RunRequest(segments, RunOptions(**options))  # type: ignore[arg-type]
    expected = opened.expected_frames(request)
    summary = opened.propagate(request, on_frame)
    assert summary.frames_written == len(masks) == expected
    return masks, summary


def same(mask: np.ndarray, expected: np.ndarray, share: float = 0.02) -> bool:
    """Equal but for the corners, or a share of the pixels, which the model's coarser grid rounds off."""
    return int((mask ^ expected).sum()) <= max(4, expected.sum() * share)


def overlap(mask: np.ndarray, expected: np.ndarray) -> float:
    """Their IoU."""
    return int((mask & expected).sum()) / int((mask | expected).sum())


def bright(volume: np.ndarray, frame: int) -> np.ndarray:
    return volume[frame] == 200


def test_a_box_is_carried_to_both_ends() -> None:
    volume = blocks()
    masks, summary = run(session(volume), segment({8: BRIGHT_BOX}))
    assert sorted(frame for _, frame in masks) == list(range(20))
    assert all(same(mask.mask, bright(volume, mask.frame)) for mask in masks.values())
    assert masks["bright", 8].kind == "keyframe"
    assert masks["bright", 3].kind == "propagated"
    assert summary.frames_computed == 19
    assert summary.frames_encoded == 20
    assert summary.stretches == (("bright", 0, 7), ("bright", 9, 19))


@pytest.mark.parametrize(
    ("direction", "frames"), [("forward", range(8, 20)), ("backward", range(0, 9)), ("both", range(20))]
)
def test_direction(direction: str, frames: range) -> None:
    masks, _ = run(session(blocks()), segment({8: BRIGHT_BOX}), direction=direction)
    assert sorted(frame for _, frame in masks) == list(frames)


def test_reach_leaves_far_frames_alone() -> None:
    masks, _ = run(session(blocks()), segment({8: BRIGHT_BOX}), reach=3)
    assert sorted(frame for _, frame in masks) == list(range(5, 12))
    far_apart = segment({2: BRIGHT_BOX, 17: BRIGHT_BOX})
    masks, _ = run(session(blocks()), far_apart, reach=4)
    assert sorted(frame for _, frame in masks) == [*range(0, 7), *range(13, 20)]


def test_unknown_direction_and_reach_are_refused() -> None:
    with pytest.raises(InputError, match="sideways"):
        RunRequest((segment({8: BRIGHT_BOX}),), RunOptions(direction="sideways"))
    with pytest.raises(InputError, match="reach"):
        RunRequest((segment({8: BRIGHT_BOX}),), RunOptions(reach=0))


def test_a_second_run_without_changes_writes_nothing() -> None:
    opened = session(blocks())
    run(opened, segment({8: BRIGHT_BOX}))
    masks, summary = run(opened, segment({8: BRIGHT_BOX}))
    assert not masks
    assert summary.frames_computed == summary.frames_encoded == 0
    masks, summary = run(opened, segment({8: BRIGHT_BOX}), everything=True)
    assert len(masks) == 20
    assert summary.frames_encoded == summary.frames_computed == 0


def test_a_correction_computes_only_the_stretches_beside_it_and_encodes_nothing() -> None:
    volume = blocks()
    opened = session(volume)
    run(opened, segment({2: BRIGHT_BOX, 10: BRIGHT_BOX, 18: BRIGHT_BOX}))
    corrected = bright(volume, 14).copy()
    corrected[30:34, 30:34] = True
    masks, summary = run(
        opened,
        segment({2: BRIGHT_BOX, 10: BRIGHT_BOX, 14: FramePrompts(mask=corrected), 18: BRIGHT_BOX}),
    )
    assert sorted(frame for _, frame in masks) == list(range(11, 18))
    assert summary.frames_encoded == 0
    # Forward from 10 and backward from 18 are known already; only what leaves the correction is new.
    assert summary.frames_computed == 3 + 3


def test_taking_a_correction_back_needs_no_computing() -> None:
    volume = blocks()
    opened = session(volume)
    first, _ = run(opened, segment({4: BRIGHT_BOX}))
    edited = np.zeros_like(bright(volume, 9))
    edited[40:44, 40:44] = True
    run(opened, segment({4: BRIGHT_BOX, 9: FramePrompts(mask=edited)}))
    again, summary = run(opened, segment({4: BRIGHT_BOX}))
    assert summary.frames_computed == 0
    assert sorted(frame for _, frame in again) == list(range(5, 20))
    assert all(np.array_equal(mask.mask, first[key].mask) for key, mask in again.items())


def test_a_mask_keyframe_is_honored_exactly() -> None:
    volume = blocks()
    generator = np.random.default_rng(1)
    drawn = generator.random(volume.shape[1:]) > 0.7
    masks, _ = run(session(volume), segment({8: FramePrompts(mask=drawn)}))
    assert np.array_equal(masks["bright", 8].mask, drawn)
    assert masks["bright", 8].doubt == 0


def test_a_locked_frame_is_never_written_but_passed_through() -> None:
    masks, _ = run(session(blocks()), segment({8: BRIGHT_BOX}, locked=(8, 11)))
    assert sorted(frame for _, frame in masks) == [*range(0, 8), 9, 10, *range(12, 20)]


def test_absent_marks_stop_the_run_and_empty_what_an_earlier_one_wrote_beyond() -> None:
    opened = session(blocks())
    run(opened, segment({8: BRIGHT_BOX}))
    masks, _ = run(opened, segment({8: BRIGHT_BOX, 12: FramePrompts(absent=True)}, last=12))
    assert sorted(frame for _, frame in masks) == list(range(9, 20))
    assert all(masks["bright", frame].mask.any() for frame in range(9, 12))
    assert all(not masks["bright", frame].mask.any() for frame in range(12, 20))
    assert masks["bright", 15].kind == "absent"
    # Without the mark everything comes back.
    masks, _ = run(opened, segment({8: BRIGHT_BOX}))
    assert sorted(frame for _, frame in masks) == list(range(9, 20))
    assert all(mask.mask.any() for mask in masks.values())


def test_absent_marks_empty_what_another_session_wrote_beyond() -> None:
    earlier = {"bright": (2, *range(8, 20)), "dark": (15,)}
    marked = segment({8: BRIGHT_BOX, 12: FramePrompts(absent=True)}, locked=(17,), last=12)
    opened = session(blocks())
    masks, _ = run(opened, marked, filled=earlier)
    assert sorted(frame for _, frame in masks) == [*range(0, 17), 18, 19]
    for frame in (13, 14, 15, 16, 18, 19):
        assert not masks["bright", frame].mask.any() and masks["bright", frame].kind == "absent"
    # Once is enough.
    again, _ = run(opened, marked, filled=earlier)
    assert not again


def test_an_absent_mark_between_keyframes_interrupts_the_segment() -> None:
    keyframes = {4: BRIGHT_BOX, 10: FramePrompts(absent=True), 16: BRIGHT_BOX}
    masks, _ = run(session(blocks()), segment(keyframes))
    assert [frame for frame in range(20) if not masks["bright", frame].mask.any()] == [10]


def test_a_segment_that_has_ended_is_not_searched_to_the_end_of_the_volume() -> None:
    volume = blocks(frames=40)
    volume[12:, 8:24, 8:24] = 0
    steps = FakeSteps()
    masks, summary = run(session(volume, steps=steps), segment({8: BRIGHT_BOX}, last=39))
    assert sorted(frame for _, frame in masks) == list(range(40))
    assert all(masks["bright", frame].mask.any() == (frame < 12) for frame in range(40))
    assert summary.frames_computed == 8 + 3 + 6
    assert summary.frames_encoded == 8 + 1 + 3 + 6


def test_between_two_keyframes_a_gap_is_searched_all_along() -> None:
    volume = blocks(frames=30)
    volume[10:20, 8:24, 8:24] = 0
    masks, _ = run(session(volume), segment({5: BRIGHT_BOX, 25: BRIGHT_BOX}, last=29))
    assert [f for f in range(30) if not masks["bright", f].mask.any()] == list(range(10, 20))


def test_two_keyframes_meet_in_one_blended_mask() -> None:
    # Two keyframes say different things: near each, its own word counts.
    volume = blocks()
    volume[:, 26:30, 8:24] = 60
    wide = np.zeros((64, 64), bool)
    wide[8:24, 8:24] = True
    keyframes = {0: FramePrompts(mask=wide), 19: GRAY_CLICK}
    masks, _ = run(session(volume), segment(keyframes))
    gray = volume[0] == 120
    assert overlap(masks["bright", 1].mask, wide) > 0.95 > 0.1 > overlap(masks["bright", 1].mask, gray)
    assert overlap(masks["bright", 18].mask, gray) > 0.95 > 0.1 > overlap(masks["bright", 18].mask, wide)
    assert masks["bright", 9].doubt > masks["bright", 19].doubt


def test_where_the_sides_disagree_the_shapes_on_the_keyframes_decide() -> None:
    # The structure is gray half way, which the forward side takes for its end and the backward side never
    # sees: what is known of both keyframes fills in.
    volume = blocks()
    volume[8:12, 8:24, 8:24] = 60
    painted = bright(volume, 0)
    keyframes = {0: FramePrompts(mask=painted), 19: FramePrompts(mask=painted)}
    empty, _ = run(session(volume), segment({0: FramePrompts(mask=painted)}))
    assert not any(empty["bright", frame].mask.any() for frame in range(8, 12))
    one_sided = blocks()
    one_sided[8:, 8:24, 8:24] = 60
    masks, _ = run(session(one_sided), segment(keyframes))
    assert overlap(masks["bright", 4].mask, painted) > 0.9
    # Where both say that it is not there, it is not.
    masks, _ = run(session(volume), segment(keyframes))
    assert not any(masks["bright", frame].mask.any() for frame in range(8, 12))


def test_before_an_absent_mark_a_structure_closes() -> None:
    volume = blocks()
    keyframes = {4: BRIGHT_BOX, 16: FramePrompts(absent=True)}
    opened = session(volume)
    masks, _ = run(opened, segment(keyframes))
    areas = [int(masks["bright", frame].mask.sum()) for frame in range(4, 17)]
    assert areas[0] == areas[3] and areas[-1] == 0
    assert areas == sorted(areas, reverse=True) and areas[-2] < 0.5 * areas[0] < areas[7]
    assert same(masks["bright", 0].mask, bright(volume, 0))  # the other side is as it was
    # The same stretch without the mark, given as a range, does not close.
    masks, _ = run(opened, segment({4: BRIGHT_BOX}, last=15))
    assert same(masks["bright", 15].mask, bright(volume, 15))


WAITING = {
    "until the segment's end is known": {2: BRIGHT_BOX, 18: FramePrompts(absent=True)},
    "for the other side": {2: BRIGHT_BOX, 18: BRIGHT_BOX},
}


@pytest.mark.parametrize("keyframes", WAITING.values(), ids=WAITING.keys())
def test_a_frame_that_has_to_wait_is_shown_as_a_draft_which_cancel_leaves(
    keyframes: dict[int, FramePrompts],
) -> None:
    volume = blocks()
    request = RunRequest((segment(keyframes),))
    opened = session(volume)
    expected, both = opened.expected_frames(request), len(keyframes) == 2 and not keyframes[18].absent
    shown: list[FrameMask] = []
    reached: list[float] = []

    def between(done: float) -> None:
        reached.append(done)
        if len({mask.frame for mask in shown}) >= 12:
            raise Cancelled

    with pytest.raises(Cancelled):
        opened.propagate(request, shown.append, between)
    drafts = [mask for mask in shown if 2 < mask.frame < 18]
    frames = [mask.frame for mask in drafts]
    assert len(frames) == len(set(frames)) >= 6 and min(frames) == 3 and (max(frames) == 17) == both
    assert all(same(mask.mask, bright(volume, mask.frame)) for mask in drafts)
    # They came one by one, and the progress went on with them: those with one side of two count by half.
    assert reached == sorted(reached) and len(set(reached[-4:])) == 4 and reached[-1] < expected
    final = len(shown) - len(drafts)
    assert reached[-1] == final + len(drafts) / (2 if both else 1)

    rest, summary = run(opened, segment(keyframes))
    assert set(frames) <= {frame for _, frame in rest} and not {2, 18} & {frame for _, frame in rest}
    assert all(mask.doubt >= 0.5 for mask in drafts)
    reached.clear()
    session(volume).propagate(request, lambda mask: None, reached.append)
    assert reached == sorted(reached) and expected - 2 <= reached[-1] <= expected
    whole, straight = run(session(volume), segment(keyframes))
    assert all(np.array_equal(mask.mask, whole[key].mask) for key, mask in rest.items())
    assert summary.frames_computed < straight.frames_computed
    # What has a mask keeps it until there is a better one.
    shown.clear()
    changed = {**keyframes, 2: FramePrompts(box=(7.0, 7.0, 24.0, 24.0))}
    opened.propagate(RunRequest((segment(changed),)), shown.append)
    assert len(shown) == len({mask.frame for mask in shown})


def test_drafts_beyond_an_absent_mark_are_emptied() -> None:
    opened = session(blocks())
    shown: list[int] = []

    def between(done: float) -> None:
        if len(shown) > 10:
            raise Cancelled

    far = {0: BRIGHT_BOX, 18: FramePrompts(absent=True)}
    with pytest.raises(Cancelled):
        opened.propagate(RunRequest((segment(far),)), lambda mask: shown.append(mask.frame), between)
    masks, _ = run(opened, segment({0: BRIGHT_BOX, 5: FramePrompts(absent=True)}))
    assert max(shown) > 5
    for frame in range(6, max(frame for frame in shown if frame < 18) + 1):
        assert not masks["bright", frame].mask.any() and masks["bright", frame].kind == "absent"


def test_what_was_emptied_is_emptied_again_when_everything_is_written() -> None:
    # As after a cancelled run, of which nothing that came too late was taken.
    opened = session(blocks())
    run(opened, segment({8: BRIGHT_BOX}))
    marked = segment({8: BRIGHT_BOX, 12: FramePrompts(absent=True)})
    run(opened, marked)
    again, _ = run(opened, marked)
    assert not again
    again, _ = run(opened, marked, everything=True)
    assert all(again["bright", frame].kind == "absent" for frame in range(12, 20))
    # Without the mark it is found again.
    masks, _ = run(opened, segment({8: BRIGHT_BOX}))
    assert all(masks["bright", frame].mask.any() for frame in range(12, 20))


def test_a_mask_that_was_cut_before_an_absent_mark_is_doubtful() -> None:
    masks, _ = run(session(blocks()), segment({4: BRIGHT_BOX, 16: FramePrompts(absent=True)}))
    assert masks["bright", 15].doubt > 0.5 > masks["bright", 6].doubt


def test_several_segments_share_one_pass() -> None:
    volume = blocks()
    steps = FakeSteps()
    masks, summary = run(
        session(volume, steps=steps), segment({8: BRIGHT_BOX}), segment({8: GRAY_CLICK}, "gray")
    )
    assert len(masks) == 40
    assert same(masks["gray", 3].mask, volume[3] == 120)
    assert summary.frames_encoded == 20
    # Two segments in two directions: four frames at a time.
    assert max(steps.tracked_batches) == 4


def test_memories_are_the_keyframe_and_the_newest_frames() -> None:
    steps = FakeSteps()
    run(session(blocks(), steps=steps), segment({0: BRIGHT_BOX}))
    last = steps.recalls[-1]
    assert sorted(slot for slot, _ in last.spatial) == [0, 1, 2, 3, 4, 5, 6]
    assert [distance for distance, _ in last.pointers] == [19, *range(1, 16)]
    assert steps.recalls[0].shape == (1, 1)


@pytest.mark.parametrize("everything", [False, True])
def test_cancel_keeps_what_is_finished_and_the_next_run_goes_on_there(everything: bool) -> None:
    opened = session(blocks())
    masks: list[int] = []
    calls = 0

    def between(done: float) -> None:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise Cancelled

    with pytest.raises(Cancelled):
        opened.propagate(RunRequest((segment({0: BRIGHT_BOX}),)), lambda m: masks.append(m.frame), between)
    assert masks == [0, 1, 2, 3, 4]
    rest, summary = run(opened, segment({0: BRIGHT_BOX}), everything=everything)
    assert sorted(frame for _, frame in rest) == list(range(0 if everything else 5, 20))
    assert summary.frames_computed == 15


def test_a_preview_is_the_frames_mask_and_is_not_computed_again_by_the_run() -> None:
    volume = blocks()
    opened = session(volume)
    preview = opened.preview(8, BRIGHT_BOX, "bright")
    assert preview.kind == "preview"
    assert same(preview.mask, bright(volume, 8))
    _, summary = run(opened, segment({8: BRIGHT_BOX}))
    assert summary.frames_encoded == 19


def test_previews_between_two_steps_do_not_disturb_a_run() -> None:
    volume = blocks()
    opened = session(volume)
    masks: dict[int, FrameMask] = {}

    def between(done: float) -> None:
        assert opened.preview(3, GRAY_CLICK, "other").mask.any()
        assert opened.preview(5, GRAY_CLICK, "bright").mask.any()

    opened.propagate(
        RunRequest((segment({8: BRIGHT_BOX}),)), lambda m: masks.__setitem__(m.frame, m), between
    )
    assert all(same(masks[frame].mask, bright(volume, frame)) for frame in range(20))


def test_encoding_ahead_spares_the_run_the_encoder() -> None:
    opened = session(blocks())
    assert opened.encode_ahead(range(20), lambda: False) == 20
    _, summary = run(opened, segment({8: BRIGHT_BOX}))
    assert summary.frames_encoded == 0
    assert opened.encode_ahead(range(20), lambda: False) == 0
    assert session(blocks()).encode_ahead(range(20), lambda: True) == 0


def test_what_was_carried_keeps_its_window_until_a_run_anew() -> None:
    volume = blocks()
    opened = session(volume)
    run(opened, segment({8: BRIGHT_BOX}))
    opened.set_frames(frames_of(volume, Window(300, 150)))
    masks, summary = run(opened, segment({8: BRIGHT_BOX}))
    assert not masks and summary.frames_encoded == 0
    # A correction computes what lies around it, as in the window of before.
    masks, summary = run(opened, segment({8: BRIGHT_BOX, 12: FramePrompts(mask=bright(volume, 12))}))
    assert sorted(frame for _, frame in masks) == list(range(9, 20)) and summary.frames_encoded == 0
    # So does writing all of it again.
    masks, summary = run(opened, segment({8: BRIGHT_BOX}), everything=True)
    assert len(masks) == 20 and summary.frames_encoded == 0
    masks, summary = run(opened, segment({8: BRIGHT_BOX}), anew=True)
    assert len(masks) == summary.frames_encoded == 20
    assert not run(opened, segment({8: BRIGHT_BOX}))[0]


def test_frames_of_a_window_that_nothing_uses_make_room_for_those_of_the_present_one() -> None:
    volume = blocks()
    probe = session(volume)
    probe.encode_ahead(range(20), lambda: False)
    size = probe.features.nbytes
    opened = session(volume, store=lambda encode: FeatureStore(encode, torch.device("cpu"), size))
    assert opened.encode_ahead(range(20), lambda: False) == 20
    opened.set_frames(frames_of(volume, Window(300, 150)))
    opened.preview(8, GRAY_CLICK, "gray")
    assert opened.encode_ahead(range(20), lambda: False) == 19
    # A carried segment keeps its window until a run `anew`.
    run(opened, segment({8: GRAY_CLICK}, "gray"))
    opened.set_frames(frames_of(volume, Window(400, 200)))
    assert opened.features.nbytes == size
    assert run(opened, segment({8: GRAY_CLICK}, "gray"), everything=True)[1].frames_encoded == 0
    run(opened, segment({8: GRAY_CLICK}, "gray", last=9), anew=True)
    assert opened.features.nbytes == size // 2


def test_what_was_not_carried_yet_is_seen_through_the_present_window() -> None:
    opened = session(blocks())
    run(opened, segment({8: BRIGHT_BOX}))
    opened.preview(8, GRAY_CLICK, "gray")
    encoded = opened.features.encoded_frames
    opened.set_frames(frames_of(blocks(), Window(300, 150)))
    opened.preview(8, GRAY_CLICK, "gray")
    assert opened.features.encoded_frames == encoded + 1
    opened.encode_ahead(range(20), lambda: False)
    _, summary = run(opened, segment({8: GRAY_CLICK}, "gray"))
    assert summary.frames_encoded == 0
    # The first one is still in its own.
    assert not run(opened, segment({8: BRIGHT_BOX}))[0]


def test_clicks_on_a_mask_change_what_they_aim_at_and_nothing_else() -> None:
    volume = blocks()
    opened = session(volume)
    drawn = np.zeros((64, 64), bool)
    drawn[8:24, 8:16] = True  # half of the bright block
    drawn[60, 60] = True  # a detail drawn by hand
    added = opened.preview(8, FramePrompts(mask=drawn, clicks=((20.0, 16.0, True),)), "bright").mask
    assert added[60, 60]
    assert same(added, bright(volume, 8) | drawn)


class DropsAll(FakeSteps):
    """Takes a negative click for the end of the whole mask, unless it is told what stays."""

    def decode_prompts(
        self,
        features: FrameFeatures,
        points: torch.Tensor,
        labels: torch.Tensor,
        mask_logits: torch.Tensor | None = None,
    ) -> Decoded:
        decoded = super().decode_prompts(features, points, labels, mask_logits)
        if mask_logits is None or (labels != 0).any():
            return decoded
        return replace(decoded, logits=torch.full_like(decoded.logits, -5.0))


def test_a_lone_negative_click_takes_what_it_is_on_and_no_more() -> None:
    volume = np.zeros((4, 64, 64), np.uint8)
    volume[:, 8:40, 8:40] = 200
    volume[:, 8:24, 40:56] = 120  # beside it, and not to belong to it
    opened = session(volume, steps=DropsAll())
    click = (48.0, 16.0, False)
    left = opened.preview(2, FramePrompts(mask=volume[2] > 100, clicks=(click,)), "bright").mask
    assert same(left, volume[2] == 200)


def test_a_later_click_does_not_undo_what_an_earlier_one_did() -> None:
    volume = blocks()
    opened = session(volume)
    drawn = np.zeros((64, 64), bool)
    drawn[8:24, 8:16] = True
    bright_half, gray = (20.0, 16.0, True), (40.0, 44.0, True)
    both = opened.preview(8, FramePrompts(mask=drawn, clicks=(bright_half, gray)), "bright").mask
    assert same(both, volume[8] > 100)
    without = (40.0, 44.0, False)
    back = opened.preview(8, FramePrompts(mask=volume[8] > 100, clicks=(without,)), "bright").mask
    assert same(back, bright(volume, 8))


def test_a_small_structure_is_looked_at_closely_and_the_crop_stays_during_corrections() -> None:
    volume = np.zeros((12, 256, 256), np.uint8)
    volume[:, 96:120, 96:120] = 200
    opened = session(volume, auto=True)
    keyframes = {4: FramePrompts(box=(95.5, 95.5, 119.5, 119.5))}
    masks, _ = run(opened, segment(keyframes, last=11))
    crop = opened.crop_of("bright")
    assert crop.box[2] - crop.box[0] <= 64
    assert same(masks["bright", 9].mask, volume[9] == 200, 0.2)
    _, summary = run(opened, segment({**keyframes, 8: FramePrompts(clicks=((100.0, 100.0, True),))}, last=11))
    assert opened.crop_of("bright") == crop
    assert summary.frames_encoded == 0


def test_a_click_alone_is_looked_at_twice_once_from_afar_and_once_closely() -> None:
    volume = np.zeros((6, 256, 256), np.uint8)
    volume[:, 96:128, 96:128] = 200
    opened = session(volume, auto=True)
    preview = opened.preview(2, FramePrompts(clicks=((110.0, 110.0, True),)), "bright")
    crop = opened.crop_of("bright")
    assert crop.box[2] - crop.box[0] < 128
    assert same(preview.mask, volume[2] == 200, 0.2)


def test_a_mask_that_meets_the_edge_of_the_crop_is_doubtful() -> None:
    volume = np.zeros((12, 256, 256), np.uint8)
    volume[:, 100:120, 100:120] = 200
    volume[8:, 100:120, 20:240] = 200
    opened = session(volume, auto=True)
    masks, _ = run(opened, segment({4: FramePrompts(box=(99.5, 99.5, 119.5, 119.5))}, last=11))
    assert masks["bright", 6].doubt < 0.5
    assert masks["bright", 9].doubt == 1.0


class Unmoved(FrameFeatures):
    """Features that stay on the CPU, where the fake computes, whether they count as main or GPU memory."""

    def to(self, device: torch.device | str) -> FrameFeatures:
        return self

    def to_host(self) -> FrameFeatures:
        return self


class FullDevice(FakeSteps):
    """Runs out of GPU memory on more than `limit` frames at once."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def encode(self, images: torch.Tensor) -> list[FrameFeatures]:
        return [Unmoved(one.fine, one.middle, one.coarse) for one in super().encode(images)]

    def track(self, features: Sequence[FrameFeatures], recalls: Sequence[Recall]) -> Decoded:
        if len(features) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().track(features, recalls)


def test_too_little_gpu_memory_means_smaller_batches_and_the_same_masks() -> None:
    steps = FullDevice(limit=1)
    two = (segment({8: BRIGHT_BOX}), segment({8: GRAY_CLICK}, "gray"))
    masks, _ = run(session(blocks(), steps=steps), *two)
    expected, _ = run(session(blocks()), *two)
    assert masks.keys() == expected.keys()
    assert all(np.array_equal(mask.mask, expected[key].mask) for key, mask in masks.items())
    assert max(steps.tracked_batches) == 1


def test_when_not_even_one_frame_fits_the_user_is_told_and_the_session_lives() -> None:
    steps = FullDevice(limit=0)
    opened = session(blocks(), steps=steps)
    with pytest.raises(SAM2PropagateError) as caught:
        opened.propagate(RunRequest((segment({8: BRIGHT_BOX}),)), lambda mask: None)
    assert caught.value.code == "out_of_memory"
    steps.limit = 8
    masks, _ = run(opened, segment({8: BRIGHT_BOX}))
    # The keyframe was written before GPU memory ran out.
    assert len(masks) == 19


def test_a_gpu_that_stays_full_is_told_after_everything_went_to_the_host() -> None:
    steps = FullDevice(limit=0)
    opened = session(
        blocks(),
        steps=steps,
        store=lambda encode: FeatureStore(encode, torch.device("meta"), 1 << 30, 1 << 30),
    )
    with pytest.raises(SAM2PropagateError) as caught:
        opened.propagate(RunRequest((segment({8: BRIGHT_BOX}),)), lambda mask: None)
    assert caught.value.code == "out_of_memory"
    assert opened.features.nbytes > 0


def test_a_far_preview_of_the_running_segment_leaves_the_runs_crop_alone() -> None:
    volume = np.zeros((12, 256, 256), np.uint8)
    volume[:, 96:120, 96:120] = 200
    volume[:, 200:224, 200:224] = 120
    opened = session(volume, auto=True)
    masks: dict[int, FrameMask] = {}
    far = FramePrompts(box=(199.5, 199.5, 223.5, 223.5))

    def between(done: float) -> None:
        assert opened.preview(5, far, "bright").mask[212, 212]

    near = segment({4: FramePrompts(box=(95.5, 95.5, 119.5, 119.5))}, last=11)
    opened.propagate(RunRequest((near,)), lambda m: masks.__setitem__(m.frame, m), between)
    assert all(same(masks[frame].mask, volume[frame] == 200, 0.2) for frame in range(12))
    again, _ = run(opened, near)
    assert not again


def test_frames_between_two_absent_marks_are_emptied() -> None:
    opened = session(blocks())
    run(opened, segment({2: BRIGHT_BOX, 17: BRIGHT_BOX}))
    absent = FramePrompts(absent=True)
    masks, _ = run(opened, segment({2: BRIGHT_BOX, 8: absent, 12: absent, 17: BRIGHT_BOX}))
    assert all(not masks["bright", frame].mask.any() for frame in range(8, 13))
    assert all(masks["bright", frame].mask.any() for frame in (7, 13))


def test_what_lies_beyond_an_absent_mark_is_emptied_in_another_window_too() -> None:
    opened = session(blocks())
    run(opened, segment({8: BRIGHT_BOX}))
    opened.set_frames(frames_of(blocks(), Window(300, 150)))
    beyond = segment({8: BRIGHT_BOX, 12: FramePrompts(absent=True)}, last=12)
    masks, _ = run(opened, beyond, everything=True)
    assert sorted(frame for _, frame in masks) == list(range(20))
    assert all(not masks["bright", frame].mask.any() for frame in range(12, 20))


def test_where_a_segment_ends_is_doubtful_and_far_beyond_it_is_not() -> None:
    volume = blocks()
    volume[12:] = 0
    masks, _ = run(session(volume), segment({8: BRIGHT_BOX}))
    doubts = [masks["bright", frame].doubt for frame in range(11, 20)]
    assert not masks["bright", 12].mask.any() and doubts[0] < 0.3 < 0.5 < doubts[1]
    assert doubts[1:] == sorted(doubts[1:], reverse=True) and len(set(doubts[1:])) == len(doubts[1:])
    # An absent mark says that it does end there.
    marked = segment({8: BRIGHT_BOX, 12: FramePrompts(absent=True)}, last=12)
    masks, _ = run(session(volume), marked)
    assert masks["bright", 12].doubt == 0


class Fading(FakeSteps):
    """Takes what it finds for less and less sure to be there: for absent from 6 frames after the keyframe."""

    def track(self, features: Sequence[FrameFeatures], recalls: Sequence[Recall]) -> Decoded:
        found = super().track(features, recalls)
        scores = [9 - 1.5 * recall.pointers[0][0] for recall in recalls]
        return replace(found, object_score=torch.tensor(scores))


def test_what_is_drawn_on_a_frame_that_is_taken_for_empty_is_withheld() -> None:
    volume = blocks()
    masks, _ = run(session(volume, steps=Fading()), segment({4: BRIGHT_BOX}))
    for frame in range(20):
        one = masks["bright", frame]
        assert one.mask.any() == (frame < 10)
        # The front stops after six frames without a mask.
        assert (one.withheld is not None) == (10 <= frame < 16)
        if one.withheld is not None:
            assert same(one.withheld(), bright(volume, frame))
    gone = volume.copy()
    gone[10:] = 0
    masks, _ = run(session(gone, steps=Fading()), segment({4: BRIGHT_BOX}))
    withheld = masks["bright", 10].withheld
    assert withheld is not None and not withheld().any(), "nothing was drawn"


class Scripted(FakeSteps):
    """Gives what it finds an object score by its distance from the keyframe, the first for 1."""

    def __init__(self, *scores: float, runs_ahead: bool = False) -> None:
        super().__init__(runs_ahead=runs_ahead)
        self._by_distance = scores

    def track(self, features: Sequence[FrameFeatures], recalls: Sequence[Recall]) -> Decoded:
        found = super().track(features, recalls)
        scores = [self._by_distance[recall.pointers[0][0] - 1] for recall in recalls]
        return replace(found, object_score=torch.tensor(scores))


def corrected(mask: np.ndarray) -> FramePrompts:
    """A mask of a run with a click that confirms it."""
    return FramePrompts(mask=mask, clicks=((12.0, 12.0, True),))


def filled(masks: Mapping[tuple[str, int], FrameMask]) -> list[int]:
    """The frames with a mask, ascending."""
    return sorted(frame for (_, frame), one in masks.items() if one.mask.any())


def test_a_click_that_corrects_a_mask_does_not_carry_the_segment_beyond_its_end() -> None:
    volume = blocks(frames=30)
    mask = bright(volume, 8)
    click = corrected(mask)

    def end(keyframes: dict[int, FramePrompts]) -> int:
        masks, _ = run(session(volume, steps=Fading()), segment(keyframes, last=29))
        return filled(masks)[-1]

    # Alone, or painted, the keyframe is carried over the five frames on which the model finds it.
    assert end({4: BRIGHT_BOX, 8: FramePrompts(mask=mask)}) == end({8: click}) == 13
    # From frame 4 the segment is on frame 8, but not on 12, where the mean of both scores is 0.
    assert end({4: BRIGHT_BOX, 8: click}) == 11
    # From frame 1 it is not on frame 8 either, so what is known from there is wrong.
    assert end({1: BRIGHT_BOX, 8: click}) == 13
    # Keyframes between that are corrected masks as well change nothing.
    assert end({4: BRIGHT_BOX, 6: click, 8: click}) == 11


def test_a_frame_that_was_ended_is_as_doubtful_as_any_end_and_is_not_searched_far() -> None:
    volume = blocks(frames=40)
    keyframes = {4: BRIGHT_BOX, 8: corrected(bright(volume, 8))}
    masks, summary = run(session(volume, steps=Fading()), segment(keyframes, last=39))
    doubts = [masks["bright", frame].doubt for frame in range(12, 40)]
    assert doubts[0] > 0.5 > 0.01 > doubts[-1] and doubts == sorted(doubts, reverse=True)
    withheld = masks["bright", 12].withheld
    assert withheld is not None and same(withheld(), bright(volume, 12))
    # Before 4; between both, from 8; from 4, up to six frames without the segment; and from 8, which is ahead
    # of that.
    assert summary.frames_computed == 4 + 3 + 11 + 11
    assert all(masks["bright", frame].withheld is None for frame in range(20, 40))


def test_what_was_ended_does_not_begin_again() -> None:
    scores = (*[9.0] * 11, -12.0, -12.0, *[9.0] * 40)
    volume = blocks(frames=40)
    keyframes = {4: BRIGHT_BOX, 8: corrected(bright(volume, 8))}
    masks, _ = run(session(volume, steps=Scripted(*scores)), segment(keyframes, last=39))
    # From frame 4 nothing is there on frames 16 and 17 alone.
    assert filled(masks) == list(range(16))
    opened = session(volume, steps=Scripted(*scores))
    masks, _ = run(opened, segment({4: BRIGHT_BOX}, last=39))
    assert set(range(40)) - set(filled(masks)) == {16, 17}
    # After six frames it is not searched any more.
    again, summary = run(opened, segment(keyframes, last=39))
    assert filled(again) == [*range(5, 16)] and summary.frames_computed == 3 + (21 - 8)


ELDERS: dict[str, tuple[tuple[float, ...], int, int]] = {
    "ends it": (tuple(9 - 1.5 * n for n in range(1, 60)), 4, 8),
    "is wrong": (tuple(9 - 1.5 * n for n in range(1, 60)), 1, 8),
    "comes back": ((*[9.0] * 5, *[-4.0] * 11, *[9.0] * 15, *[-30.0] * 40), 1, 30),
    "ends it at once": ((*[9.0] * 30, *[-12.0] * 40), 1, 20),
    # Only a run between two keyframes knows that it would have ended it later.
    "gives up": ((*[9.0] * 30, *[-4.0] * 8, *[-30.0] * 40), 1, 20),
}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", ELDERS)
def test_an_elder_front_says_the_same_whenever_it_is_asked(name: str, backward: bool) -> None:
    scores, first, second = ELDERS[name]
    volume = blocks(frames=60)
    click = corrected(bright(volume, 8))
    first, second = (59 - first, 59 - second) if backward else (first, second)

    def keyframes(other: FramePrompts) -> ResolvedSegment:
        return segment(dict(sorted({first: BRIGHT_BOX, second: other}.items())), last=59)

    fresh, summary = run(session(volume, steps=Scripted(*scores)), keyframes(click))
    alone, _ = run(session(volume, steps=Scripted(*scores)), keyframes(FramePrompts(mask=bright(volume, 8))))
    assert (filled(fresh) != filled(alone)) == (name not in ("is wrong", "gives up"))
    outward = range(second - 1, -1, -1) if backward else range(second + 1, 60)
    there = [bool(fresh["bright", frame].mask.any()) for frame in outward]
    assert there == sorted(there, reverse=True), "there is one end"
    # One that is wrong is asked no more: 1 frame before it, 6 between, 7 up to the corrected one, 11 beyond.
    assert name != "is wrong" or summary.frames_computed == 1 + 6 + 7 + 11
    # After a run that knew less, after one with a painted mask instead, and ahead of what is read.
    last = 1 if backward else 58
    earlier = [{first: BRIGHT_BOX}, {first: BRIGHT_BOX, last: BRIGHT_BOX}]
    for before in (
        *(segment(dict(sorted(one.items())), last=59) for one in earlier),
        keyframes(BRIGHT_BOX),
        None,
    ):
        for runs_ahead in (False, True):
            opened = session(volume, steps=Scripted(*scores, runs_ahead=runs_ahead))
            known = {} if before is None else run(opened, before)[0]
            masks, again = run(opened, keyframes(click))
            assert filled({**known, **masks}) == filled(fresh)
            assert before is not None or again.frames_computed == summary.frames_computed
            doubts = [{**known, **masks}["bright", frame].doubt for frame in range(60)]
            assert doubts == [fresh["bright", frame].doubt for frame in range(60)]


@pytest.mark.parametrize("runs_ahead", [False, True])
@pytest.mark.parametrize("steps_done", range(0, 24, 3))
def test_a_run_with_an_elder_front_goes_on_where_it_was_cancelled(steps_done: int, runs_ahead: bool) -> None:
    volume = blocks(frames=30)
    keyframes = segment({4: BRIGHT_BOX, 8: corrected(bright(volume, 8))}, last=29)
    expected, _ = run(session(volume, steps=Fading()), keyframes)
    opened = session(volume, steps=Fading(runs_ahead=runs_ahead))
    masks: dict[int, FrameMask] = {}
    left = [steps_done]

    def stop(done: float) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Cancelled

    with pytest.raises(Cancelled):
        opened.propagate(RunRequest((keyframes,)), lambda one: masks.__setitem__(one.frame, one), stop)
    opened.propagate(RunRequest((keyframes,)), lambda one: masks.__setitem__(one.frame, one))
    assert sorted(masks) == list(range(30))
    assert [frame for frame, one in sorted(masks.items()) if one.mask.any()] == filled(expected)


def test_of_two_withheld_masks_the_nearer_keyframes_counts() -> None:
    volume = blocks()
    volume[10:, 8:24, 8:24] = 0
    volume[10:, 40:52, 8:20] = 60
    other = FramePrompts(box=(7.5, 39.5, 19.5, 51.5))
    scores = (9.0, *[-9.0] * 20)
    masks, _ = run(session(volume, steps=Scripted(*scores)), segment({4: BRIGHT_BOX, 15: other}))
    for frame, there in ((7, volume[4] == 200), (12, volume[15] == 60)):
        withheld = masks["bright", frame].withheld
        assert withheld is not None and same(withheld(), there)


def _spoken(kind: str, mask: np.ndarray) -> FramePrompts:
    return {
        "box": BRIGHT_BOX,
        "painted": FramePrompts(mask=mask),
        "corrected": corrected(mask),
        "absent": FramePrompts(absent=True),
    }[kind]


@given(
    st.lists(st.tuples(st.sampled_from([9.0, 4.0, -3.0, -9.0]), st.integers(1, 9)), min_size=1, max_size=8),
    st.dictionaries(
        st.integers(0, 39), st.sampled_from(["box", "painted", "corrected", "absent"]), min_size=1, max_size=4
    ),
    st.dictionaries(st.integers(0, 39), st.sampled_from(["box", "corrected"]), min_size=1, max_size=3),
    st.sampled_from(["both", "forward", "backward"]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_run_gives_the_same_whatever_was_run_before(
    spans: list[tuple[float, int]], kinds: dict[int, str], before: dict[int, str], direction: str, ahead: bool
) -> None:
    volume = blocks(frames=40)
    scores = [score for score, count in spans for _ in range(count)]
    scores += [scores[-1]] * 40
    mask = bright(volume, 0)

    def steps() -> Scripted:
        return Scripted(*scores, runs_ahead=ahead)

    def said(kinds: dict[int, str]) -> ResolvedSegment:
        return segment({frame: _spoken(kind, mask) for frame, kind in sorted(kinds.items())}, last=39)

    def course(opened: EngineSession, everything: bool = False) -> dict[int, tuple[bool, float, str, bool]]:
        masks: dict[int, FrameMask] = {}
        request = RunRequest((said(kinds),), RunOptions(direction=direction, everything=everything))
        opened.propagate(request, lambda one: masks.__setitem__(one.frame, one))
        return {
            frame: (bool(one.mask.any()), round(one.doubt, 6), one.kind, one.withheld is not None)
            for frame, one in masks.items()
        }

    if all(kind == "absent" for kind in kinds.values()):
        return
    fresh = course(session(volume, steps=steps()))
    opened = session(volume, steps=steps())
    run(opened, said({**kinds, **before}))
    later = course(opened, everything=True)
    assert {frame: one for frame, one in later.items() if frame in fresh} == fresh
    assert course(opened, everything=True) == later


AHEAD: dict[str, tuple[dict[int, FramePrompts], ...]] = {
    "both ends": ({8: BRIGHT_BOX},),
    "two keyframes": ({2: BRIGHT_BOX, 17: BRIGHT_BOX},),
    "an absent mark": ({2: BRIGHT_BOX, 17: FramePrompts(absent=True)},),
    "two segments": ({8: BRIGHT_BOX}, {3: GRAY_CLICK, 11: FramePrompts(absent=True)}),
}


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("name", AHEAD)
def test_running_ahead_of_what_is_read_changes_no_mask_and_computes_no_frame_more(
    name: str, ends: bool
) -> None:
    volume = blocks()
    if ends:
        volume[12:] = 0
    segments = [segment(keyframes, str(n)) for n, keyframes in enumerate(AHEAD[name])]
    expected, straight = run(session(volume), *segments)
    masks, summary = run(session(volume, steps=FakeSteps(runs_ahead=True)), *segments)
    assert summary.frames_computed == straight.frames_computed
    assert masks.keys() == expected.keys()
    for key, mask in masks.items():
        assert np.array_equal(mask.mask, expected[key].mask)
        assert (mask.doubt, mask.kind) == (expected[key].doubt, expected[key].kind)


def test_a_frame_is_read_while_the_next_one_is_computed() -> None:
    tracked = {}
    for runs_ahead in (False, True):
        steps = FakeSteps(runs_ahead=runs_ahead)
        opened = session(blocks(), steps=steps)
        counts: dict[int, int] = {}

        def on_frame(mask: FrameMask, steps: FakeSteps = steps, counts: dict[int, int] = counts) -> None:
            counts[mask.frame] = len(steps.tracked_batches)

        opened.propagate(RunRequest((segment({0: BRIGHT_BOX}),)), on_frame)
        tracked[runs_ahead] = [counts[frame] for frame in range(1, 20)]
    assert tracked[False] == list(range(1, 20))
    assert tracked[True] == [*range(2, 20), 19]


@pytest.mark.parametrize("steps_done", [3, 5, 6, 7, 8])
def test_a_run_that_is_cancelled_ahead_goes_on_with_what_it_found(steps_done: int) -> None:
    volume = blocks()
    volume[5:] = 0
    steps = FakeSteps(runs_ahead=True)
    opened = session(volume, steps=steps)
    wanted = segment({0: BRIGHT_BOX})

    def between(done: float) -> None:
        if len(steps.tracked_batches) >= steps_done:
            raise Cancelled

    written: dict[int, FrameMask] = {}
    with pytest.raises(Cancelled):
        opened.propagate(RunRequest((wanted,)), lambda mask: written.__setitem__(mask.frame, mask), between)
    rest, _ = run(opened, wanted)
    expected, straight = run(session(volume), wanted)
    assert len(steps.tracked_batches) == straight.frames_computed
    written.update({frame: mask for (_, frame), mask in rest.items()})
    assert sorted(written) == list(range(20))
    for frame, mask in written.items():
        assert np.array_equal(mask.mask, expected["bright", frame].mask)
        assert mask.doubt == expected["bright", frame].doubt
