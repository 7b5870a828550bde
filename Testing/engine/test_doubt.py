"""What doubt is made of: the model's estimates, the agreement of both sides, and where a segment was lost."""

from __future__ import annotations

import pytest
import torch

from SAM2PropagateLib.engine.blend import blended
from SAM2PropagateLib.engine.doubt import Evidence, doubt_of, figures_of
from SAM2PropagateLib.engine.front import Tracked
from SAM2PropagateLib.engine.results import FrameMask
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunOptions, RunRequest
from Testing.engine.fake_steps import blocks, session

BOX = FramePrompts(box=(7.5, 7.5, 23.5, 23.5))


def test_doubt_grows_with_every_reason() -> None:
    sure = doubt_of(Evidence(iou=0.95, object_score=8))
    assert 0 <= sure < 0.1
    assert doubt_of(Evidence(iou=0.5, object_score=8)) > sure
    assert doubt_of(Evidence(iou=0.95, object_score=0.1)) > sure
    assert doubt_of(Evidence(iou=0.95, object_score=8, agreement=0.4)) > sure
    assert doubt_of(Evidence(iou=0.95, object_score=8, sharpness=0.4)) > sure
    assert doubt_of(Evidence(iou=0.95, object_score=8, is_cut=True)) == 1
    # Surely absent is no reason for doubt, whatever the IoU of the empty mask.
    assert doubt_of(Evidence(iou=0.1, object_score=-9)) < 0.1


def test_where_a_segment_ends_is_doubtful_and_far_beyond_it_is_not() -> None:
    ends = [doubt_of(Evidence(iou=0.1, object_score=-9, lost=lost)) for lost in range(1, 30)]
    assert ends[0] > 0.6 and ends == sorted(ends, reverse=True) and ends[-1] < 0.02


def test_figures_tell_an_empty_mask_from_a_full_one() -> None:
    numbers = (torch.tensor(0.9), torch.tensor(9.0))
    empty, full, faint = (figures_of(torch.full((4, 4), value), *numbers).numpy() for value in (-9.0, 9, 0.5))
    assert Evidence.read(empty, lost=2).lost == 2 and Evidence.read(full, lost=2).lost == 0
    assert Evidence.read(empty, lost=2, is_between=True).is_gap
    assert not Evidence.read(empty, is_between=True).is_gap and not Evidence.read(empty, lost=2).is_gap
    assert not Evidence.read(full, lost=2, is_between=True).is_gap
    assert Evidence.read(full).sharpness == 1 and Evidence.read(faint).sharpness == 0.5
    assert Evidence.read(full).iou == pytest.approx(0.9) and Evidence.read(full).object_score == 9


def tracked(logits: torch.Tensor, iou: float) -> Tracked:
    return Tracked(logits, torch.tensor(iou), torch.tensor(5.0))


def test_a_far_side_that_lost_the_segment_hardly_counts_beside_a_keyframe() -> None:
    there = torch.full((16, 16), -5.0)
    there[4:12, 4:12] = 5.0
    gone = torch.full((16, 16), -5.0)
    *_, agreement = blended(tracked(there, 0.8), tracked(gone, 0.1), 1, 9)
    assert agreement is not None and agreement > 0.95
    # In the middle, between two sides that are as sure, nobody knows.
    *_, agreement = blended(tracked(there, 0.8), tracked(gone, 0.8), 5, 5)
    assert agreement is not None and agreement < 0.6
    *_, agreement = blended(tracked(there, 0.8), tracked(there, 0.3), 5, 5)
    assert agreement == 1
    *_, agreement = blended(tracked(there, 0.8), None, 1, 0)
    assert agreement is None


def test_an_empty_slice_between_two_keyframes_is_doubtful_and_one_beyond_them_less() -> None:
    volume = blocks()
    volume[8:12] = volume[17:] = 0
    masks: dict[int, FrameMask] = {}
    segment = ResolvedSegment("s", {4: BOX, 14: BOX}, frozenset(), 0, len(volume) - 1)
    request = RunRequest((segment,), RunOptions())
    session(volume).propagate(request, lambda mask: masks.update({mask.frame: mask}))
    empty = [frame for frame, mask in masks.items() if not mask.mask.any()]
    assert sorted(empty) == [8, 9, 10, 11, 17, 18, 19]
    assert [masks[frame].doubt for frame in range(8, 12)] == [1.0] * 4
    assert 0.1 < masks[19].doubt < masks[17].doubt < 0.9
