"""A run along all three axes: what the other two change, and what they leave alone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from SAM2PropagateLib.engine.axes import AxesSession
from SAM2PropagateLib.engine.family import Recall
from SAM2PropagateLib.engine.features import FeatureStore
from SAM2PropagateLib.engine.opinions import Opinion, Region, fused
from SAM2PropagateLib.engine.results import FrameMask, RunSummary
from SAM2PropagateLib.engine.session import EngineSession, SessionSettings
from SAM2PropagateLib.engine.steps import Decoded, FrameFeatures
from SAM2PropagateLib.errors import Cancelled
from SAM2PropagateLib.frame_kinds import PROPAGATED
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack, native_frame
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunOptions, RunRequest
from Testing.engine.fake_steps import SIZE, FakeSteps

FRAMES = 64
KEYFRAME = 30
BOX = FramePrompts(box=(15.5, 15.5, 47.5, 47.5))


class Halved(FakeSteps):
    """Loses the right half of a segment on every frame but the keyframe, and knows that it does badly."""

    def decoded(self, features: FrameFeatures, level: torch.Tensor, iou: float) -> Decoded:
        found = FakeSteps.decoded(features, level, iou)
        if iou > 0.8:
            return found
        logits = found.logits.clone()
        logits[..., logits.shape[-1] // 2 :] = -5.0
        return replace(found, logits=logits, iou=torch.tensor([0.2]))


def cube() -> np.ndarray:
    """uint8 (64, 64, 64): a bright cube on black, on the model's grid along every axis."""
    volume = np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    volume[16:48, 16:48, 16:48] = 200
    return volume


class Desk:
    """A session over the cube along k, with the sessions that it opens."""

    def __init__(
        self,
        first: FakeSteps | None = None,
        others: FakeSteps | None = None,
        volume: np.ndarray | None = None,
    ) -> None:
        self.volume = cube() if volume is None else volume
        self.opened: list[int] = []
        self._steps = (first or FakeSteps(), others or FakeSteps())
        count, rows, columns = self.volume.shape
        geometry = VolumeGeometry((columns, rows, count), np.eye(4))
        self.frames = FrameStack(self.volume, geometry, 2, Window(255, 127.5))
        self.session = AxesSession(self.frames, self._open)
        self.masks: dict[int, list[FrameMask]] = {}
        self.done: list[float] = []

    def _open(self, frames: FrameStack) -> EngineSession:
        self.opened.append(frames.axis)
        shape = rows, columns = frames.native_shape
        spacing = frames.geometry.frame_spacing(frames.axis)
        crop = FrameCrop(shape, spacing, (-0.5, -0.5, columns - 0.5, rows - 0.5), SIZE)
        return EngineSession(
            self._steps[frames.axis != 2],  # type: ignore[arg-type]
            frames,
            crop,
            lambda encode: FeatureStore(encode, torch.device("cpu"), 1 << 30),
            SessionSettings(max_batch=8),
        )

    def run(
        self,
        keyframes: dict[int, FramePrompts] | None = None,
        locked: tuple[int, ...] = (),
        stop_at: float = np.inf,
        **options: bool,
    ) -> RunSummary:
        """Runs; `stop_at`: cancelled when so much is done."""
        self.masks, self.done = {}, []
        segment = ResolvedSegment("cube", keyframes or {KEYFRAME: BOX}, frozenset(locked), 0, FRAMES - 1)
        request = RunRequest((segment,), RunOptions(**{"all_axes": True, **options}))
        self.expected = self.session.expected_frames(request)

        def between(done: float) -> None:
            self.done.append(done)
            if done >= stop_at:
                raise Cancelled

        return self.session.propagate(
            request, lambda mask: self.masks.setdefault(mask.frame, []).append(mask), between
        )

    def last(self, frame: int) -> np.ndarray:
        return self.masks[frame][-1].mask

    def truth(self, frame: int) -> np.ndarray:
        return self.volume[frame] == 200


def is_same(mask: np.ndarray, expected: np.ndarray) -> bool:
    """Equal but for the edge, which the model's coarser grid rounds off."""
    return int((mask ^ expected).sum()) <= 0.03 * expected.sum()


def is_half(mask: np.ndarray, expected: np.ndarray) -> bool:
    """The left half of it, likewise."""
    return not mask[:, 34:].any() and 0.45 < mask.sum() / expected.sum() < 0.55


def test_without_the_option_no_other_axis_is_asked() -> None:
    desk = Desk(Halved())
    desk.run(all_axes=False)
    assert desk.opened == [2]
    assert sorted(desk.masks) == list(range(FRAMES)) and all(len(one) == 1 for one in desk.masks.values())
    assert is_half(desk.last(25), desk.truth(25))


def test_the_other_axes_bring_back_what_the_first_one_lost() -> None:
    desk = Desk(Halved())
    summary = desk.run()
    assert sorted(desk.opened) == [0, 1, 2]
    for frame in (*range(18, KEYFRAME), *range(KEYFRAME + 1, 46)):
        first, then = desk.masks[frame]
        assert is_half(first.mask, desk.truth(frame)) and is_same(then.mask, desk.truth(frame)), frame
        assert then.kind == PROPAGATED and then.doubt > first.doubt
    assert summary.frames_written == desk.expected == FRAMES
    # The other two as far as the segment goes, and a little further.
    assert 20 < summary.frames_computed - (FRAMES - 1) < 2 * FRAMES


def test_where_the_axes_agree_hardly_anything_changes() -> None:
    desk = Desk()
    desk.run()
    assert sorted(desk.masks) == list(range(FRAMES))
    for frame in range(18, 46):
        first, then = desk.masks[frame][0], desk.masks[frame][-1]
        assert is_same(then.mask, first.mask) and 0 <= then.doubt - first.doubt < 0.05
    # Far from the structure nothing is asked.
    assert all(len(desk.masks[frame]) == 1 for frame in (0, 5, 58, 63))


def test_the_doubt_rises_where_they_disagree_and_the_surer_one_wins() -> None:
    desk = Desk(others=Halved())
    desk.run()
    for frame in range(18, 46):
        if frame != KEYFRAME:
            assert np.array_equal(desk.masks[frame][0].mask, desk.last(frame))
    doubts = {frame: [one.doubt for one in found] for frame, found in desk.masks.items() if len(found) > 1}
    assert len(doubts) > 20 and all(after > before for before, after in doubts.values())


def test_what_the_user_said_of_a_slice_stays() -> None:
    painted = np.zeros((SIZE, SIZE), bool)
    painted[20:24, 20:24] = True
    desk = Desk(Halved())
    desk.run({KEYFRAME: BOX, 24: FramePrompts(mask=painted), 40: FramePrompts(absent=True)}, locked=(27,))
    assert [len(desk.masks[frame]) for frame in (KEYFRAME, 24, 40)] == [1, 1, 1]
    assert np.array_equal(desk.last(24), painted) and not desk.last(40).any()
    assert 27 not in desk.masks and max(desk.masks) == 40
    assert len(desk.masks[22]) == 2


@pytest.mark.parametrize("share", [0.4, 0.8])
def test_a_run_that_is_ended_keeps_the_first_axis_and_is_made_up_for(share: float) -> None:
    desk = Desk(Halved())
    with pytest.raises(Cancelled):
        desk.run(stop_at=share * FRAMES)
    assert sorted(desk.masks) == list(range(FRAMES))
    assert is_half(desk.last(25), desk.truth(25))
    desk.run(all_axes=False)
    assert not desk.masks
    desk.run()
    # All but the keyframe: the first axis does not say them again.
    assert desk.expected == FRAMES - 1
    assert len(desk.masks[25]) == 1 and is_same(desk.last(25), desk.truth(25))
    desk.run()
    assert desk.expected == 0 and not desk.masks


def test_a_correction_changes_only_what_is_beside_it() -> None:
    desk = Desk(Halved())
    desk.run()
    desk.run({KEYFRAME: BOX, 36: FramePrompts(mask=desk.truth(36))})
    assert sorted(desk.masks) == list(range(KEYFRAME + 1, FRAMES))
    assert is_same(desk.last(40), desk.truth(40))


def test_the_progress_goes_over_all_three_passes() -> None:
    desk = Desk(Halved())
    desk.run()
    assert all(before <= after + 1e-6 for before, after in pairwise(desk.done))
    thirds = np.histogram(desk.done, bins=3, range=(0, FRAMES))[0]
    assert (thirds > 10).all() and desk.done[-1] == pytest.approx(FRAMES, abs=1)


def test_an_empty_segment_has_nothing_to_ask_about() -> None:
    desk = Desk(volume=np.zeros((FRAMES, SIZE, SIZE), np.uint8))
    desk.run({KEYFRAME: FramePrompts(mask=np.zeros((SIZE, SIZE), bool) | False)})
    assert desk.opened == [2]


def test_the_other_axes_see_through_the_segments_own_window() -> None:
    desk = Desk(Halved())
    desk.run(all_axes=False)
    frames = desk.frames
    # In this window the cube is as black as the rest.
    desk.session.set_frames(frames.with_window(Window(10, 250)))
    desk.run()
    assert is_same(desk.last(25), desk.truth(25))


# --- opinions


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("other", range(3))
def test_an_opinion_lies_on_the_frames_of_the_first_axis(axis: int, other: int) -> None:
    if axis == other:
        return
    volume = np.random.default_rng(1).random((7, 6, 5)) > 0.5
    geometry = VolumeGeometry((5, 6, 7), np.eye(4))
    region = Region((1, 2, 3), (5, 6, 7))
    opinion = Opinion(other, region, geometry)
    asked = region.frames(other)[1:]
    for frame in asked:
        opinion.take(frame, native_frame(volume, frame, other), frame / 10)
    for frame in region.frames(axis):
        mask, trust = opinion.on(frame, axis)
        known = np.broadcast_to(trust > 0, mask.shape)
        inside = native_frame(volume, frame, axis)[region.part(axis)]
        assert np.array_equal(mask[known], inside[known])
        assert known.sum() == mask.size * len(asked) / len(region.frames(other))
        assert np.allclose(np.unique(trust)[1:], sorted(1 - one / 10 for one in asked))


def test_stretched_pixels_count_less() -> None:
    region = Region((0, 0, 0), (4, 4, 4))

    def trust_of(spacing: float) -> float:
        geometry = VolumeGeometry((4, 4, 4), np.diag([1, 1, spacing, 1]))
        opinion = Opinion(0, region, geometry)
        opinion.take(2, np.ones((4, 4), bool), 0.0)
        return float(opinion.on(1, 2)[1].max())

    assert trust_of(1) == 1.0 and trust_of(5) < 0.5 * trust_of(1)


def test_votes_are_weighed_by_doubt() -> None:
    own = np.zeros((2, 2), bool)
    there = np.ones((2, 2), bool)
    sure, unsure, unasked = (np.full((2, 1), value, np.float32) for value in (0.9, 0.1, 0.0))
    assert fused(own, 0.9, [(there, sure)])[0].all()
    assert not fused(own, 0.1, [(there, unsure), (there, unsure)])[0].any()
    mask, doubt = fused(own, 0.9, [(there, unasked)])
    assert not mask.any() and doubt == pytest.approx(0.9)


def test_no_copy_of_the_volume_is_made() -> None:
    volume = np.zeros((FRAMES, 4 * SIZE, 4 * SIZE), np.uint8)
    volume[16:48, 64:192, 64:192] = 200
    box = FramePrompts(box=(63.5, 63.5, 191.5, 191.5))
    desk = Desk(volume=volume)
    desk.frames.frame(0)
    tracemalloc.start()
    desk.run({KEYFRAME: box})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The masks and what comes with them are kept by this test itself.
    kept = sum(one.mask.nbytes for found in desk.masks.values() for one in found)
    assert peak - kept < volume.size, "less than a byte per voxel"


class Short(FakeSteps):
    """Takes a segment for absent from the ninth frame after the keyframe."""

    def track(self, features: Sequence[FrameFeatures], recalls: Sequence[Recall]) -> Decoded:
        found = super().track(features, recalls)
        scores = [9.0 if recall.pointers[0][0] < 9 else -9.0 for recall in recalls]
        return replace(found, object_score=torch.tensor(scores))


def test_a_mask_is_withheld_only_where_the_other_axes_find_nothing_either() -> None:
    desk = Desk(first=Short())
    desk.run(all_axes=False)
    alone = {frame for frame, answers in desk.masks.items() if answers[-1].withheld is not None}
    assert alone == {*range(16, 22), *range(39, 45)}
    desk = Desk(first=Short())
    desk.run()
    filled_in = {frame for frame in alone if desk.last(frame).any()}
    assert filled_in and filled_in != alone
    for frame in alone:
        withheld = desk.masks[frame][-1].withheld
        assert (withheld is None) == (frame in filled_in)
        assert withheld is None or (withheld() ^ desk.truth(frame)).sum() <= 4
