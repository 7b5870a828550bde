"""Shapes between keyframes, and shapes that close."""

from __future__ import annotations

import numpy as np
import torch

from SAM2PropagateLib.engine.blend import blended, disagreement
from SAM2PropagateLib.engine.front import Tracked
from SAM2PropagateLib.engine.shape import Shape, between, closed, depth, signed_distance


def disc(radius: float, row: float = 32, column: float = 32, size: int = 64) -> torch.Tensor:
    """Logits of a disc."""
    y, x = np.indices((size, size))
    return torch.from_numpy(6.0 * np.sign(radius - np.hypot(y - row, x - column)) + 0.1).float()


def shape(logits: torch.Tensor) -> Shape:
    found = Shape.of(logits)
    assert found is not None
    return found


def radius_of(mask: np.ndarray) -> float:
    return float(np.sqrt(mask.sum() / np.pi))


def test_the_sign_changes_at_the_edge() -> None:
    mask = (disc(10) > 0).numpy()
    distance = signed_distance(mask)
    assert ((distance > 0) == mask).all()
    assert abs(distance[32, 32] - 10) < 1 and abs(distance[32, 52] + 10) < 1
    assert Shape.of(torch.full((8, 8), -1.0)) is None


def test_half_way_lies_half_way_in_place_and_size() -> None:
    mask = (between(shape(disc(6, 20, 20)), shape(disc(12, 40, 30)), 0.5) > 0).numpy()
    assert abs(radius_of(mask) - 9) < 0.7
    np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), [30, 25], atol=0.5)
    ends = [(between(shape(disc(6)), shape(disc(12)), share) > 0).numpy() for share in (0, 1)]
    assert [round(radius_of(end)) for end in ends] == [6, 12]


def test_sides_that_agree_need_no_shape() -> None:
    agreed = Tracked(disc(8), 0.9, 5.0)
    shapes = (shape(disc(3)), shape(disc(3)))
    assert disagreement(agreed, agreed) == 0
    logits, _, _ = blended(agreed, agreed, 3, 3, shapes)
    assert torch.equal(logits > 0, agreed.logits > 0)
    lost = Tracked(torch.full((64, 64), -1024.0), 0.9, -5.0)
    assert disagreement(agreed, lost) == 1 and disagreement(lost, lost) == 0
    with_shapes, _, _ = blended(agreed, lost, 3, 3, (shape(disc(8)), shape(disc(8))))
    without, _, _ = blended(agreed, lost, 3, 3)
    assert abs(radius_of((with_shapes > 0).numpy()) - 8) < 0.7
    assert not (without > 0).any()


def test_a_shape_closes_toward_its_end() -> None:
    logits = disc(10)
    assert depth(torch.full((8, 8), -1.0)) == 0
    deep = depth(logits)
    radii = [radius_of((closed(logits, deep, share) > 0).numpy()) for share in (0.0, 0.5, 0.9, 1.0)]
    assert radii[0] > 9.5 and radii[1] > 8.5 and 1 < radii[2] < 6 and radii[3] < 1
    assert torch.equal(closed(logits, 0.0, 0.9), logits)
