"""Compares two grids in the same place: whether one is a part of the other, and how their axes are
ordered."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.frames.geometry import VolumeGeometry

# Voxels along each axis by which two grids may differ anywhere and still be the same: far more than the
# rounding of headers, far less than what moves an outline.
_GRID_TOLERANCE = 0.1


def grid_offset(part: VolumeGeometry, whole: VolumeGeometry) -> tuple[int, int, int] | None:
    """Return where the first voxel of `part` lies in `whole`, (i, j, k); None if their grids are different.

    The grids are the same if every corner of the part lies on a voxel of the whole's grid, within a tenth of
    a voxel along each axis; a part may also reach beyond the whole. Their axes must run in the same order;
    see `reordered`.
    """
    ends = [(0, size - 1) for size in part.shape_ijk]
    corners = np.array(list(itertools.product(*ends)), dtype=float)
    there = whole.ijk_of_ras(part.ras_of_ijk(corners))
    start = np.rint(there[0])
    if np.abs(there - (start + corners)).max() > _GRID_TOLERANCE:
        return None
    return int(start[0]), int(start[1]), int(start[2])


def reordered(
    array: npt.NDArray[Any], geometry: VolumeGeometry, like: VolumeGeometry
) -> tuple[npt.NDArray[Any], VolumeGeometry]:
    """Return the same voxels in the same place, in the order of another grid, with axes swapped and flipped.

    Args:
        array: (K, J, I), or (K, J, I, n) with n values per voxel.
        geometry: of the array.
        like: each of its axes gets the array's axis that is closest in direction.

    Returns:
        A view of the array, and its geometry. Nothing is resampled, so grids that are turned by other than
        right angles stay different.
    """
    # Column n: axis n of the array, in the axes of `like`, each of unit length.
    toward = like.ras_to_ijk_matrix[:3, :3] @ geometry.ijk_to_ras[:3, :3]
    lengths = np.linalg.norm(like.ijk_to_ras[:3, :3], axis=0)
    toward = toward * lengths[:, np.newaxis] / np.linalg.norm(geometry.ijk_to_ras[:3, :3], axis=0)
    order = max(
        itertools.permutations(range(3)), key=lambda axes: sum(abs(toward[n, axes[n]]) for n in range(3))
    )
    # numpy's axis of IJK axis n is 2 - n.
    turned = array.transpose(*(2 - order[2 - n] for n in range(3)), *range(3, array.ndim))
    matrix = geometry.ijk_to_ras[:, [*order, 3]].copy()
    for axis in range(3):
        if toward[axis, order[axis]] < 0:
            turned = np.flip(turned, 2 - axis)
            matrix[:3, 3] += matrix[:3, axis] * (turned.shape[2 - axis] - 1)
            matrix[:3, axis] *= -1
    shape = turned.shape
    return turned, VolumeGeometry((shape[2], shape[1], shape[0]), matrix)
