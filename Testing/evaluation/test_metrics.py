"""Dice, surface Dice and the two baselines, on shapes whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from SAM2PropagateLib.evaluation.metrics import (
    adjacent_slice_dice,
    copy_max_slice_dice,
    dice,
    frames_first,
    surface_dice,
)

PROFILE = settings(max_examples=60, deadline=None, database=None)
MASKS = arrays.arrays(bool, (4, 5, 6))


def cuboid(k: tuple[int, int], j: tuple[int, int], i: tuple[int, int], side: int = 20) -> np.ndarray:
    """(side, side, side) with a filled box."""
    mask = np.zeros((side, side, side), bool)
    mask[k[0] : k[1], j[0] : j[1], i[0] : i[1]] = True
    return mask


def test_dice_of_known_overlaps() -> None:
    one = np.array([[1, 1, 0, 0]], bool)
    assert dice(one, one) == 1.0
    assert dice(one, ~one) == 0.0
    assert dice(one, [[1, 0, 0, 0]]) == pytest.approx(2 / 3)
    assert dice(np.zeros(4), np.zeros(4)) == 1.0
    assert dice(np.zeros((1, 4)), one) == 0.0
    with pytest.raises(ValueError, match="cannot be compared"):
        dice(np.zeros(4), np.zeros(5))


@PROFILE
@given(MASKS, MASKS)
def test_dice_is_what_it_says(a: np.ndarray, b: np.ndarray) -> None:
    both = sum(bool(x) and bool(y) for x, y in zip(a.flat, b.flat, strict=True))
    total = int(a.sum()) + int(b.sum())
    assert dice(a, b) == dice(b, a) == pytest.approx(2 * both / total if total else 1.0)


def test_equal_surfaces_agree_wholly_and_distant_ones_not_at_all() -> None:
    one = cuboid((4, 10), (4, 10), (4, 10))
    assert surface_dice(one, one, (1, 1, 1), 0.0) == 1.0
    assert surface_dice(one, cuboid((14, 18), (14, 18), (14, 18)), (1, 1, 1), 2.0) == 0.0
    assert surface_dice(np.zeros_like(one), np.zeros_like(one), (1, 1, 1)) == 1.0
    assert surface_dice(one, np.zeros_like(one), (1, 1, 1)) == 0.0


def test_a_box_one_longer_differs_at_its_end_alone() -> None:
    """Two boxes of 6 x 6 that differ by three slices at one end; tolerance below that."""
    one, other = cuboid((4, 10), (4, 10), (4, 10)), cuboid((4, 13), (4, 10), (4, 10))
    # Of the shorter one's end face, 16 faces are more than one face away from its rim, where the longer one's
    # sides pass by. Of the longer one, the sides are within reach of that rim for one slice of three.
    off_one, off_other = 16, 2 * 24 + 36
    total = 6 * 36 + 2 * 36 + 4 * 54
    expected = 1 - (off_one + off_other) / total
    assert surface_dice(one, other, (1, 1, 1), 1.5) == pytest.approx(expected)
    assert surface_dice(one, other, (1, 1, 1), 3.0) == 1.0


def test_the_spacing_decides_what_is_near() -> None:
    """Two plates that cover the volume's cross-section, one voxel thick and two voxels apart along k."""
    one, other = cuboid((5, 6), (0, 20), (0, 20)), cuboid((7, 8), (0, 20), (0, 20))
    assert surface_dice(one, other, (1, 1, 1), 2.0) == 1.0
    rim_area = 2 * 4 * 20 * 3.0 * 1
    faces_area = 2 * 2 * 400
    # With 3 mm slices the plates are 6 mm apart, but the upper face of the lower one is 3 mm away.
    value = surface_dice(one, other, (1, 1, 3), 3.0)
    assert value == pytest.approx(faces_area / 2 / (faces_area + rim_area))
    assert surface_dice(one, other, (1, 1, 3), 6.0) == 1.0


@PROFILE
@given(MASKS, MASKS, st.floats(0, 3))
def test_surface_dice_is_a_symmetric_share(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    value = surface_dice(a, b, (0.7, 1.0, 2.5), tolerance)
    assert 0 <= value <= 1
    assert value == pytest.approx(surface_dice(b, a, (0.7, 1.0, 2.5), tolerance))
    assert surface_dice(a, a, (0.7, 1.0, 2.5), tolerance) == 1.0


@PROFILE
@given(MASKS, MASKS, st.floats(0, 3))
def test_surface_dice_against_all_pairs(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    """The same share by comparing every face with every other."""
    spacing = (0.5, 1.0, 2.0)
    if not a.any() or not b.any():
        return
    near = total = 0.0
    faces_a, faces_b = _faces(a, spacing), _faces(b, spacing)
    for ones, others in ((faces_a, faces_b), (faces_b, faces_a)):
        for place, area in ones:
            total += area
            near += area * (min(math.dist(place, other) for other, _ in others) <= tolerance + 1e-6)
    assert surface_dice(a, b, spacing, tolerance) == pytest.approx(near / total)


def _faces(mask: np.ndarray, spacing: tuple[float, float, float]) -> list[tuple[tuple[float, ...], float]]:
    k_mm, j_mm, i_mm = spacing[::-1]
    found: list[tuple[tuple[float, ...], float]] = []
    for place in np.argwhere(mask):
        for axis in range(3):
            for side in (-1, 1):
                neighbor = place.copy()
                neighbor[axis] += side
                inside = all(0 <= n < size for n, size in zip(neighbor, mask.shape, strict=True))
                if inside and mask[tuple(neighbor)]:
                    continue
                center = [float(n) for n in place]
                center[axis] += side / 2
                where = (center[0] * k_mm, center[1] * j_mm, center[2] * i_mm)
                found.append((where, (j_mm * i_mm, k_mm * i_mm, k_mm * j_mm)[axis]))
    return found


def test_surface_dice_refuses_what_it_cannot_use() -> None:
    one = cuboid((1, 3), (1, 3), (1, 3))
    with pytest.raises(ValueError, match="3D"):
        surface_dice(one[0], one[0], (1, 1, 1))
    with pytest.raises(ValueError, match="spacing"):
        surface_dice(one, one, (1, 0, 1))
    with pytest.raises(ValueError, match="tolerance"):
        surface_dice(one, one, (1, 1, 1), float("nan"))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_baselines_of_a_staircase(axis: int) -> None:
    """Slices with 2, 4 and 3 pixels, each within the largest."""
    slices = np.zeros((5, 2, 4), bool)
    slices[1, 0, :2] = slices[2, 0, :4] = slices[3, 0, :3] = True
    mask = np.moveaxis(slices, 0, 2 - axis)
    assert np.array_equal(frames_first(mask, axis), slices)
    assert adjacent_slice_dice(mask, axis) == pytest.approx((4 / 6 + 6 / 7) / 2)
    assert copy_max_slice_dice(mask, axis) == pytest.approx(2 * 9 / (12 + 9))


def test_baselines_of_a_single_slice() -> None:
    mask = np.zeros((3, 4, 4), bool)
    mask[1, 1, 1] = True
    assert adjacent_slice_dice(mask, 2) == copy_max_slice_dice(mask, 2) == 1.0
