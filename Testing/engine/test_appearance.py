"""What is learned of a structure's appearance on a keyframe, and what it says of other frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SAM2PropagateLib.engine.appearance import Appearance, near_edge, pixel_maps
from SAM2PropagateLib.engine.motion import SIDE
from SAM2PropagateLib.engine.steps import FrameFeatures

CPU = torch.device("cpu")


def disc(x: float, y: float, radius: float, side: int = SIDE) -> np.ndarray:
    """bool (side, side); places and radius in pixels of `SIDE`."""
    rows, columns = np.mgrid[0:side, 0:side] * (SIDE / side)
    return np.hypot(columns - x, rows - y) < radius


def frame(gray: np.ndarray, fine: np.ndarray | None = None) -> list[torch.Tensor]:
    """The maps of a frame with these gray values, and this as its fine feature; the other is blank."""
    shown = np.zeros((SIDE, SIDE)) if fine is None else fine
    feature = torch.from_numpy(shown[::2, ::2].astype(np.float32))[None]
    blank = torch.zeros(1, SIDE // 4, SIDE // 4)
    return pixel_maps(gray.astype(np.uint8), FrameFeatures(feature, blank, blank), CPU)


def logits(mask: np.ndarray) -> torch.Tensor:
    return torch.where(torch.from_numpy(mask), 6.0, -6.0)


def agreement(evidence: torch.Tensor, mask: np.ndarray) -> float:
    found = evidence.numpy() > 0
    return float(2 * (found & mask).sum() / (found.sum() + mask.sum()))


def learned_from(maps: list[torch.Tensor], mask_logits: torch.Tensor, iou: float = 1.0) -> Appearance:
    return Appearance.learned(maps, mask_logits, torch.tensor(iou))


KEY, LATER = disc(90, 90, 30), disc(100, 84, 22)


@pytest.mark.parametrize(("inside", "outside"), [(170, 120), (60, 130)])
def test_a_structure_is_known_by_its_gray_value(inside: int, outside: int) -> None:
    noise = np.random.default_rng(1).normal(0, 10, (2, SIDE, SIDE))
    shown = [np.where(mask, inside, outside) + noise[n] for n, mask in enumerate((KEY, LATER))]
    learned = learned_from(frame(shown[0]), logits(KEY))
    assert agreement(learned.evidence(frame(shown[1])), LATER) > 0.9


def test_a_structure_is_known_by_a_feature_where_all_is_gray() -> None:
    gray = np.full((SIDE, SIDE), 128)
    learned = learned_from(frame(gray, np.where(KEY, 0.3, -0.1)), logits(KEY))
    evidence = learned.evidence(frame(gray, np.where(LATER, 0.3, -0.1)))
    assert agreement(evidence, LATER) > 0.9
    assert evidence.shape == (SIDE, SIDE)


def test_a_structure_is_known_by_its_texture() -> None:
    noise = np.random.default_rng(2).normal(0, 1, (2, SIDE, SIDE))
    shown = [120 + noise[n] * np.where(mask, 40, 4) for n, mask in enumerate((KEY, LATER))]
    learned = learned_from(frame(shown[0]), logits(KEY))
    assert agreement(learned.evidence(frame(shown[1])), LATER) > 0.85


def test_what_looks_like_its_surroundings_gets_little_evidence() -> None:
    noise = np.random.default_rng(3).normal(120, 20, (2, SIDE, SIDE))
    alike = learned_from(frame(noise[0]), logits(KEY)).evidence(frame(noise[1]))
    bright = np.where(KEY, 200, 60)
    clear = learned_from(frame(bright), logits(KEY)).evidence(frame(bright))
    assert alike.abs().mean() < 0.3 * clear.abs().mean()


def test_what_is_far_away_is_not_learned_from() -> None:
    # Most of the picture far from the structure looks like the structure.
    noise = np.random.default_rng(6).normal(0, 20, (SIDE, SIDE))
    far = ~disc(90, 90, 60)
    maps = frame(np.where(KEY, 140, 100) + noise)
    with_far = frame(np.where(KEY | far, 140, 100) + noise)
    evidence = [learned_from(one, logits(KEY)).evidence(maps)[50:130, 50:130] for one in (maps, with_far)]
    torch.testing.assert_close(*evidence, atol=0.05, rtol=0)


def test_a_small_structure_counts_as_much_as_a_large_one() -> None:
    small = disc(90, 90, 3)
    learned = learned_from(frame(np.where(small, 200, 60)), logits(small))
    assert agreement(learned.evidence(frame(np.where(LATER, 200, 60))), LATER) > 0.95


def test_the_less_sure_the_keyframe_the_less_is_learned() -> None:
    maps = frame(np.where(KEY, 200, 60))
    sure, less, hardly = (learned_from(maps, logits(KEY), iou).evidence(maps) for iou in (0.9, 0.7, 0.4))
    assert less.abs().mean() < 0.8 * sure.abs().mean()
    assert agreement(less, KEY) > 0.95
    assert not hardly.any()


def test_pixels_that_the_keyframe_is_unsure_of_count_less() -> None:
    # A part of the mask looks like what is around it, and the mask is not sure of that part.
    part = disc(105, 90, 10)
    noise = np.random.default_rng(5).normal(0, 15, (SIDE, SIDE))
    maps = frame(np.where(KEY & ~part, 140, 120) + noise)
    unsure = torch.where(torch.from_numpy(part), 0.3, logits(KEY))
    around = disc(90, 90, 42) & ~KEY
    against = [learned_from(maps, one).evidence(maps)[around].mean() for one in (unsure, logits(KEY))]
    assert against[0] < against[1]


@pytest.mark.parametrize("mask", [np.zeros((SIDE, SIDE), bool), np.ones((SIDE, SIDE), bool)])
def test_from_nothing_and_from_everything_nothing_is_learned(mask: np.ndarray) -> None:
    maps = frame(np.where(KEY, 200, 60))
    assert not learned_from(maps, logits(mask)).evidence(maps).any()


def test_evidence_is_limited() -> None:
    learned = learned_from(frame(np.where(KEY, 130, 126)), logits(KEY))
    assert learned.evidence(frame(np.where(LATER, 255, 0))).abs().max() < 4


@pytest.mark.parametrize("side", [SIDE, 256])
def test_the_edge_is_as_wide_on_every_grid(side: int) -> None:
    mask = disc(90, 90, 40, side)
    near = near_edge(logits(mask)[None])[0].numpy() > 0
    assert near.shape == mask.shape
    width = near[round(90 * side / SIDE)].sum() / 2 * SIDE / side
    assert width == pytest.approx(6, abs=1)
    assert not near_edge(torch.full((1, side, side), -6.0)).any()
    assert not near_edge(torch.full((1, side, side), 6.0)).any()
