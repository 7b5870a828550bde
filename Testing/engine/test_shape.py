"""Shapes between keyframes, and shapes that close."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SAM2PropagateLib.engine.blend import blended, disagreement
from SAM2PropagateLib.engine.front import Tracked
from SAM2PropagateLib.engine.shape import (
    Shape,
    between,
    closed,
    depth,
    depth_by_search,
    depth_inside,
    signed_distance,
)


def disc(radius: float, row: float = 32, column: float = 32, size: int = 64) -> torch.Tensor:
    """Logits of a disc."""
    y, x = np.indices((size, size))
    return torch.from_numpy(6.0 * np.sign(radius - np.hypot(y - row, x - column)) + 0.1).float()


def tracked(logits: torch.Tensor, score: float) -> Tracked:
    return Tracked(logits, torch.tensor(0.9), torch.tensor(score))


def radius_of(mask: np.ndarray) -> float:
    return float(np.sqrt(mask.sum() / np.pi))


def test_the_sign_changes_at_the_edge() -> None:
    mask = disc(10) > 0
    distance = signed_distance(mask)
    assert torch.equal(distance > 0, mask)
    assert abs(distance[32, 32] - 10) < 1 and abs(distance[32, 52] + 10) < 1


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_a_gpu_measures_the_same_depth(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = (disc(10, size=48) > 0)[:, 6:] | (torch.rand((48, 42), generator=generator) < share)
    assert not mask.all() or share == 1
    torch.testing.assert_close(depth_by_search(mask), depth_inside(mask))


def test_an_empty_shape_leads_nowhere() -> None:
    empty, full = Shape.of(torch.full((8, 8), -1.0)), Shape.of(disc(3, 4, 4, 8))
    assert not between(empty, full, 0.5).any() and not between(full, empty, 0.5).any()
    assert between(full, full, 0.5).any()


def test_half_way_lies_half_way_in_place_and_size() -> None:
    mask = (between(Shape.of(disc(6, 20, 20)), Shape.of(disc(12, 40, 30)), 0.5) > 0).numpy()
    assert abs(radius_of(mask) - 9) < 0.7
    np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), [30, 25], atol=0.5)
    ends = [(between(Shape.of(disc(6)), Shape.of(disc(12)), share) > 0).numpy() for share in (0, 1)]
    assert [round(radius_of(end)) for end in ends] == [6, 12]


def test_sides_that_agree_need_no_shape() -> None:
    agreed = tracked(disc(8), 5.0)
    shapes = (Shape.of(disc(3)), Shape.of(disc(3)))
    assert disagreement(agreed, agreed) == 0
    logits, _, _, _ = blended(agreed, agreed, 3, 3, shapes)
    assert torch.equal(logits > 0, agreed.logits > 0)
    lost = tracked(torch.full((64, 64), -1024.0), -5.0)
    assert disagreement(agreed, lost) == 1 and disagreement(lost, lost) == 0
    with_shapes, _, _, _ = blended(agreed, lost, 3, 3, (Shape.of(disc(8)), Shape.of(disc(8))))
    without, _, _, _ = blended(agreed, lost, 3, 3)
    assert abs(radius_of((with_shapes > 0).numpy()) - 8) < 0.7
    assert not (without > 0).any()


def test_a_shape_closes_toward_its_end() -> None:
    logits = disc(10)
    assert depth(torch.full((8, 8), -1.0)) == 0
    deep = depth(logits)
    radii = [radius_of((closed(logits, deep, share) > 0).numpy()) for share in (0.0, 0.5, 0.9, 1.0)]
    assert radii[0] > 9.5 and radii[1] > 8.5 and 1 < radii[2] < 6 and radii[3] < 1
    assert torch.equal(closed(logits, torch.tensor(0.0), 0.9), logits)
