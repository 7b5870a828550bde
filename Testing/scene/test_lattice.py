"""Labels carried between grids: exactly where the grids agree, by the nearest voxel elsewhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from SAM2PropagateLib.scene.lattice import EMPTY, Lattice, intersection, resample, union
from Testing.scene.geometries import rotation


def _reference(labels, source, target):
    """The slow, obvious way, voxel by voxel."""
    out = np.zeros(target.shape, np.uint8)
    e, f = target.extent, source.extent
    matrix = np.linalg.inv(source.ijkToWorld) @ target.ijkToWorld
    for k, j, i in itertools.product(range(e[4], e[5] + 1), range(e[2], e[3] + 1), range(e[0], e[1] + 1)):
        x, y, z = np.floor(np.round((matrix @ [i, j, k, 1])[:3], 6) + 0.5).astype(int)
        if f[0] <= x <= f[1] and f[2] <= y <= f[3] and f[4] <= z <= f[5]:
            out[k - e[4], j - e[2], i - e[0]] = labels[z - f[4], y - f[2], x - f[0]]
    return out


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    shift=st.tuples(*[st.integers(-4, 4)] * 3),
    scale=st.sampled_from((1.0, 0.5, 2.0, 1.3)),
    seed=st.integers(0, 99),
)
def test_aligned_grids_agree_with_the_obvious_way(order, signs, shift, scale, seed):
    rng = np.random.default_rng(seed)
    base = rotation(20, 0) @ rotation(10, 2) @ np.diag([1.5, 0.7, 2.0, 1.0])
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for axis in range(3):
        turn[order[axis], axis] = signs[axis] * scale
    turn[:3, 3] = shift
    source = Lattice(base, (-2, 5, 1, 7, 0, 4))
    target = Lattice(base @ turn, (-3, 4, -2, 6, -1, 5))
    labels = rng.integers(0, 3, source.shape).astype(np.uint8)
    np.testing.assert_array_equal(resample(labels, source, target), _reference(labels, source, target))


def test_turned_grids_agree_with_the_obvious_way():
    source = Lattice(rotation(30, 2) @ np.diag([1, 1.2, 2, 1.0]), (0, 9, 0, 8, 0, 5))
    target = Lattice(rotation(-10, 0), (-4, 9, -3, 12, -2, 11))
    labels = np.random.default_rng(1).integers(0, 3, source.shape).astype(np.uint8)
    out = resample(labels, source, target)
    assert out.any()
    np.testing.assert_array_equal(out, _reference(labels, source, target))


def test_there_and_back_is_exact_on_permuted_grids():
    base = rotation(40, 1)
    turn = np.array([[0, 0, -1, 11], [1, 0, 0, -3], [0, -1, 0, 8], [0, 0, 0, 1.0]])
    source = Lattice(base, (0, 9, 0, 8, 0, 5))
    everywhere = Lattice(base @ turn, (-50, 50, -50, 50, -50, 50))
    target = everywhere.within(source.boxIn(everywhere))
    labels = np.random.default_rng(2).integers(0, 200, source.shape).astype(np.uint8)
    moved = resample(labels, source, target)
    assert moved.size == labels.size
    np.testing.assert_array_equal(resample(moved, target, source), labels)


def test_rounding_in_image_headers_does_no_harm():
    source = Lattice(np.diag([0.7421875, 0.7421875, 1.25, 1.0]), (0, 511, 0, 3, 0, 3))
    rounded = source.ijkToWorld.copy()
    rounded[:3, :3] *= 1 + 4e-7
    rounded[0, 3] = 1e-5
    labels = np.random.default_rng(3).integers(0, 2, source.shape).astype(np.uint8)
    np.testing.assert_array_equal(resample(labels, source, Lattice(rounded, source.extent)), labels)


@pytest.mark.parametrize("a", [EMPTY, (0, 3, 0, 3, 0, 3)])
def test_empty_boxes_count_for_nothing(a):
    assert union(a, EMPTY) == a
    assert intersection(a, EMPTY) == EMPTY
    assert (
        resample(np.zeros((0, 0, 0), np.uint8), Lattice(np.eye(4), EMPTY), Lattice(np.eye(4), a)).sum() == 0
    )
