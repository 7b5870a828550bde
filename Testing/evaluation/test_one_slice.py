"""Prompts on one slice: where they lie, and what is made of what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from SAM2PropagateLib.engine.results import FrameMask, RunSummary
from SAM2PropagateLib.evaluation.metrics import BoolArray
from SAM2PropagateLib.evaluation.one_slice import (
    KINDS,
    LARGEST,
    MIDDLE,
    Placed,
    evaluate_prompt,
    placed_clicks,
    prompted_frame,
)
from SAM2PropagateLib.evaluation.targets import LoadedTarget, Target
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts
from SAM2PropagateLib.run_options import RunRequest

SHAPE = (12, 24, 26)


def block(**slices: int) -> BoolArray:
    """(12, 24, 26): k3=7 fills 7 rows of slice 3."""
    mask = np.zeros(SHAPE, bool)
    for name, rows in slices.items():
        mask[int(name[1:]), 2 : 2 + rows, 3:12] = True
    return mask


# --- which slice


def test_the_middle_slice_lies_between_the_ends_and_has_the_structure() -> None:
    assert prompted_frame(block(k2=3, k3=3, k4=3, k5=9, k6=3), 2, MIDDLE) == 4
    assert prompted_frame(block(k2=3, k3=3, k4=3, k5=9), 2, MIDDLE) == 3, "the lower of two"
    assert prompted_frame(block(k2=3, k3=3, k7=3, k10=3), 2, MIDDLE) == 7, "the nearest one that has it"
    assert prompted_frame(block(k2=3, k10=3), 2, MIDDLE) == 2, "the lower of two that are as near"


def test_the_largest_slice_is_the_first_of_equal_ones() -> None:
    assert prompted_frame(block(k2=3, k3=8, k4=8, k9=2), 2, LARGEST) == 3


# --- where clicks lie


def clicks(reference: BoolArray, *previews: BoolArray) -> tuple[tuple[Placed, ...], list[int]]:
    """The clicks where the previews come in this order, and of how many clicks each was asked."""
    asked: list[int] = []

    def preview(placed: Sequence[Placed]) -> BoolArray:
        asked.append(len(placed))
        return previews[len(asked) - 1]

    return placed_clicks(reference, len(previews) + 1, preview), asked


REFERENCE = np.zeros((24, 26), bool)
REFERENCE[4:13, 4:13] = True


def test_the_first_click_lies_deepest_and_needs_no_preview() -> None:
    assert clicks(REFERENCE) == (((8.0, 8.0, True),), [])


def test_further_clicks_lie_deepest_in_the_deepest_error() -> None:
    half = REFERENCE.copy()
    half[:, 8:] = False  # 5 columns are missing
    more = REFERENCE.copy()
    more[15:22, 15:22] = True  # 7 rows and columns are too much
    placed, asked = clicks(REFERENCE, half, more)
    assert placed == ((8.0, 8.0, True), (10.0, 6.0, True), (18.0, 18.0, False)) and asked == [1, 2]


def test_missing_comes_first_where_both_are_alike() -> None:
    both = REFERENCE.copy()
    both[4:9, 4:9] = False
    both[15:20, 15:20] = True
    assert clicks(REFERENCE, both)[0][1] == (6.0, 6.0, True)


def test_there_are_no_more_clicks_where_no_error_is_deep() -> None:
    thin = REFERENCE.copy()
    thin[:, 4:6] = False
    placed, asked = clicks(REFERENCE, thin, thin, thin, thin)
    assert len(placed) == 1 and asked == [1]
    line = np.zeros((9, 9), bool)
    line[4, 2:7] = True
    assert clicks(line)[0] == ((2.0, 4.0, True),), "the first one is always made"


# --- what comes out


class CopyingSession:
    """Answers a box and a mask with their pixels, clicks with a square around the first one; carries the
    prompted slice's mask over the slices from `first` to `last`."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.said: list[FramePrompts] = []

    def _mask(self, said: FramePrompts) -> BoolArray:
        if said.mask is not None:
            return said.mask
        mask = np.zeros(SHAPE[1:], bool)
        if said.box is not None:
            x0, y0, x1, y1 = (round(edge + 0.5) for edge in said.box)
            mask[y0:y1, x0:x1] = True
        elif said.clicks:
            x, y, _ = said.clicks[0]
            mask[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2] = True
        return mask

    def preview(self, frame: int, prompts: FramePrompts, segment: str = "") -> FrameMask:
        return FrameMask(segment, frame, self._mask(prompts), 0.9, 5.0, 0.1, "preview")

    def propagate(self, run: RunRequest, on_frame: Callable[[FrameMask], None]) -> RunSummary:
        (said,) = run.segments[0].keyframes.values()
        self.said.append(said)
        for one in range(self.first, self.last + 1):
            on_frame(FrameMask("target", one, self._mask(said), 0.9, 5.0, 0.1, "propagated"))
        count = self.last - self.first + 1
        return RunSummary(count, count, 0, 0.0, ())


def target(mask: BoolArray, step: float = 3.0) -> LoadedTarget:
    geometry = VolumeGeometry(SHAPE[::-1], np.diag([1.0, 1.0, step, 1.0]))
    frames = FrameStack(np.zeros(SHAPE, np.int16), geometry, 2, Window(100, 50))
    return LoadedTarget(Target("case", "block", Path("image"), Path("label")), frames, mask)


def test_a_mask_that_is_copied_too_far() -> None:
    mask = block(k3=8, k4=8, k5=8, k6=8, k7=4)
    scores = evaluate_prompt(target(mask), CopyingSession(3, 10), "mask", MIDDLE, 2.0)
    assert (scores.frame, scores.first, scores.last, scores.clicks, scores.slices) == (5, 3, 7, 0, 8)
    # 36 rows of the reference; 40 on its slices, 64 on all.
    assert scores.dice == pytest.approx(2 * 36 / (36 + 64))
    assert scores.dice_within == pytest.approx(2 * 36 / (36 + 40))
    assert (scores.failures.beyond, scores.failures.beyond_mm, scores.failures.goes_on) == (3, 9.0, True)
    assert scores.by_distance == (
        (-6.0, 1),
        (-3.0, 1),
        (0.0, 1),
        (3.0, 1),
        (6.0, pytest.approx(2 / 3, abs=1e-6)),
    )


def test_the_surface_is_compared_in_mm_and_in_voxels() -> None:
    # One slice too much at one end, 3 mm away: beyond 2 mm, within one voxel.
    scores = evaluate_prompt(target(block(k3=8, k4=8, k5=8)), CopyingSession(3, 6), "mask", MIDDLE, 2.0)
    assert scores.surface_voxel == 1 and scores.surface < 0.9
    wide = evaluate_prompt(target(block(k3=8, k4=8, k5=8)), CopyingSession(3, 6), "mask", MIDDLE, 3.0)
    assert wide.surface == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_lies_on_the_prompted_slice_of_a_turned_volume(kind: str) -> None:
    mask = np.moveaxis(block(k2=9, k3=9, k4=9, k5=9), 0, 2).copy()  # along i
    geometry = VolumeGeometry(mask.shape[::-1], np.eye(4))
    frames = FrameStack(np.zeros(mask.shape, np.int16), geometry, 0, Window(100, 50))
    session = CopyingSession(2, 5)
    loaded = LoadedTarget(Target("case", "block", Path("image"), Path("label")), frames, mask)
    scores = evaluate_prompt(loaded, session, kind)
    (said,) = session.said
    assert scores.frame == 3
    if kind == "mask":
        assert scores.dice == 1 and said.mask is not None
    elif kind == "box":
        assert scores.dice == 1 and said.box == pytest.approx((2.5, 1.5, 11.5, 10.5))
    else:
        # The square around the first click stays as it is, so every further click finds an error.
        assert len(said.clicks) == scores.clicks == int(kind)
        assert said.clicks[0][:2] == pytest.approx((7, 6))
