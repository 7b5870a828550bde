"""Describes voxel grids that lie differently in the patient, and resamples labels from one to another.

A segmentation's labelmap need not lie on the volume's grid: it may cover a smaller box, be flipped or
permuted, have another spacing or another direction. Where every voxel center of one grid falls onto a voxel
center of the other, labels are carried over exactly; elsewhere the nearest voxel counts.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.frames.geometry import FloatArray

Extent = tuple[int, int, int, int, int, int]
EMPTY: Extent = (0, -1, 0, -1, 0, -1)
# Voxels; positions this close to an integer count as exact, and axes this close to aligned as aligned.
# Matrices in image headers have about 7 digits.
_TOLERANCE = 1e-3
_BIAS = 1e-4


@dataclass(frozen=True, eq=False)
class Lattice:
    """A box of voxels in the patient.

    Attributes:
        ijkToWorld: (4, 4), voxel index to world RAS in mm.
        extent: first and last index along i, j, k (inclusive); last < first where it is empty.
    """

    ijkToWorld: FloatArray
    extent: Extent

    @property
    def isEmpty(self) -> bool:
        """Whether the box holds no voxel."""
        return any(self.extent[2 * axis] > self.extent[2 * axis + 1] for axis in range(3))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, J, I) of an array over the box."""
        i, j, k = (max(0, self.extent[2 * axis + 1] - self.extent[2 * axis] + 1) for axis in range(3))
        return k, j, i

    def within(self, extent: Extent) -> Lattice:
        """Returns the same grid with another box."""
        return Lattice(self.ijkToWorld, extent)

    def indexMatrix(self, other: Lattice) -> FloatArray:
        """Returns the matrix from this grid's indices to the other's, (4, 4); entries close to integers are
        rounded. Read-only.
        """
        reach = max(1, *(abs(value) for value in self.extent))
        own, others = (np.asarray(one.ijkToWorld, np.float64).tobytes() for one in (self, other))
        return _indexMatrix(own, others, reach)

    def boxIn(self, other: Lattice, margin: int = 0) -> Extent:
        """Returns the smallest box of the other grid that holds this one, widened by `margin` and cut to the
        other's extent."""
        if self.isEmpty or other.isEmpty:
            return EMPTY
        matrix = self.indexMatrix(other)
        edges = [(self.extent[2 * a] - 0.5, self.extent[2 * a + 1] + 0.5) for a in range(3)]
        corners = np.array([[i, j, k, 1.0] for i in edges[0] for j in edges[1] for k in edges[2]])
        points = (corners @ matrix.T)[:, :3]
        low = np.floor(points.min(axis=0) + 0.5 + _TOLERANCE).astype(int) - margin
        high = np.ceil(points.max(axis=0) - 0.5 - _TOLERANCE).astype(int) + margin
        return intersection((low[0], high[0], low[1], high[1], low[2], high[2]), other.extent)

    def refined(self, factors: tuple[int, int, int]) -> Lattice:
        """Returns the same box with voxels that are finer by these factors along i, j and k."""
        split = np.diag([*(1.0 / factor for factor in factors), 1.0])
        split[:3, 3] = [0.5 / factor - 0.5 for factor in factors]
        e = self.extent
        edges = [(e[2 * n] * factors[n], (e[2 * n + 1] + 1) * factors[n] - 1) for n in range(3)]
        return Lattice(self.ijkToWorld @ split, _extent([edge for pair in edges for edge in pair]))

    def hasVoxelsOf(self, other: Lattice) -> bool:
        """Tells whether both grids have the same voxel centers; the axes may be permuted, flipped and
        shifted."""
        matrix = self.indexMatrix(other)
        whole = np.rint(matrix)
        return bool(
            np.allclose(matrix, whole, rtol=0, atol=_TOLERANCE)
            and np.abs(whole[:3, :3]).sum() == 3
            and abs(np.linalg.det(whole[:3, :3])) == 1
        )

    def isCoarserThan(self, other: Lattice) -> bool:
        """Tells whether its voxels are longer along an axis, or larger where the axes are turned."""
        matrix = self.indexMatrix(other)
        steps = np.linalg.norm(matrix[:3, :3], axis=0)
        isAligned = np.allclose(np.abs(matrix[:3, :3]).max(axis=0), steps, rtol=1e-3)
        return bool(steps.max() > 1.01 if isAligned else abs(np.linalg.det(matrix[:3, :3])) > 1.05)

    def isFinerThan(self, other: Lattice) -> bool:
        """Tells whether its voxels are shorter along an axis, or smaller where the axes are turned."""
        return other.isCoarserThan(self)

    def stepsIn(self, other: Lattice) -> tuple[float, float, float]:
        """Returns how many voxels of the other grid one step along i, j and k is long."""
        i, j, k = np.linalg.norm(self.indexMatrix(other)[:3, :3], axis=0)
        return float(i), float(j), float(k)


@functools.lru_cache(maxsize=256)
def _indexMatrix(own: bytes, other: bytes, reach: int) -> FloatArray:
    # Cached, as few grids are compared again and again, several times for every slice.
    mine, others = (np.frombuffer(matrix).reshape(4, 4) for matrix in (own, other))
    matrix = np.linalg.solve(others, mine)
    whole = np.rint(matrix)
    close = np.abs(matrix - whole) * np.array([reach, reach, reach, 1.0]) < _TOLERANCE
    rounded = np.where(close, whole, matrix)
    rounded.setflags(write=False)
    return rounded


def intersection(a: Any, b: Any) -> Extent:
    """Returns the box common to two boxes of one grid."""
    values: list[int] = []
    for axis in range(3):
        low, high = max(a[2 * axis], b[2 * axis]), min(a[2 * axis + 1], b[2 * axis + 1])
        values += [int(low), int(high)]
    return EMPTY if any(values[2 * axis] > values[2 * axis + 1] for axis in range(3)) else _extent(values)


def union(a: Extent, b: Extent) -> Extent:
    """Returns the smallest box that holds two boxes of one grid; empty boxes do not count."""
    if any(a[2 * axis] > a[2 * axis + 1] for axis in range(3)):
        return b
    if any(b[2 * axis] > b[2 * axis + 1] for axis in range(3)):
        return a
    return _extent([min(a[n], b[n]) if n % 2 == 0 else max(a[n], b[n]) for n in range(6)])


def resample(
    labels: npt.NDArray[np.uint8], source: Lattice, target: Lattice, *, isLower: bool = False
) -> npt.NDArray[np.uint8]:
    """Returns labels of one grid on another: the nearest voxel's, 0 outside.

    Args:
        labels: (K, J, I) over `source`.
        source: the grid of `labels`.
        target: the wanted grid.
        isLower: halfway between two voxels of the source, take the one that is lower along the target's axes;
            False: the one with the higher index.

    Returns:
        (K, J, I) uint8 over `target`; a view of `labels` if possible.
    """
    if source.isEmpty or target.isEmpty:
        return np.zeros(target.shape, dtype=np.uint8)
    matrix = target.indexMatrix(source)
    axes = alignedAxes(matrix, target)
    # Rounding must not decide which voxel is the nearest.
    half = np.full(3, 0.5 + _BIAS)
    if isLower:
        linear = matrix[:3, :3]
        along = linear[np.arange(3), np.abs(linear).argmax(axis=1)]
        half = np.where(along > 0, 0.5 - _BIAS, half)
    return (
        _resampleAligned(labels, source, target, matrix, axes, half)
        if axes
        else _resampleOblique(labels, source, target, matrix, half)
    )


def alignedAxes(matrix: FloatArray, target: Lattice) -> tuple[int, int, int] | None:
    """Returns per target axis the source axis that is parallel to it; None if the grids are turned against
    each other.
    """
    linear = np.abs(matrix[:3, :3])
    axes = [int(linear[:, axis].argmax()) for axis in range(3)]
    if sorted(axes) != [0, 1, 2]:
        return None
    reach = np.array([max(abs(target.extent[2 * a]), abs(target.extent[2 * a + 1]), 1) for a in range(3)])
    rest = linear * reach
    for axis in range(3):
        rest[axes[axis], axis] = 0.0
    return (axes[0], axes[1], axes[2]) if float(rest.max()) < _TOLERANCE else None


def _resampleAligned(
    labels: npt.NDArray[np.uint8],
    source: Lattice,
    target: Lattice,
    matrix: FloatArray,
    axes: tuple[int, int, int],
    half: FloatArray,
) -> npt.NDArray[np.uint8]:
    # Target axis t is parallel to source axis axes[t], so one index list per axis is enough.
    picked: list[npt.NDArray[np.intp]] = [np.zeros(0, dtype=np.intp)] * 3
    filled: list[slice] = []
    for axis in range(3):
        along = axes[axis]
        index = np.arange(target.extent[2 * axis], target.extent[2 * axis + 1] + 1)
        position = np.floor(matrix[along, axis] * index + matrix[along, 3] + half[along]).astype(np.intp)
        inside = (position >= source.extent[2 * along]) & (position <= source.extent[2 * along + 1])
        if not inside.any():
            return np.zeros(target.shape, dtype=np.uint8)
        first, last = int(inside.argmax()), len(inside) - int(inside[::-1].argmax())
        filled.append(slice(first, last))
        picked[along] = position[first:last] - source.extent[2 * along]
    i, j, k = (_asSlice(one) for one in picked)
    # A slice gives a view, many times as fast as picking voxels by index.
    isView = i is not None and j is not None and k is not None
    chosen = labels[k, j, i] if isView else labels[np.ix_(picked[2], picked[1], picked[0])]
    # `chosen` has the source's axis order (k, j, i); numpy axis 2 - along becomes numpy axis 2 - axis.
    chosen = chosen.transpose([2 - axes[2 - n] for n in range(3)])
    if chosen.shape == target.shape and chosen.flags.c_contiguous:
        return chosen
    out = np.zeros(target.shape, dtype=np.uint8)
    out[filled[2], filled[1], filled[0]] = chosen
    return out


def _asSlice(indices: npt.NDArray[np.intp]) -> slice | None:
    """Returns consecutive indices, ascending or descending, as a slice; else None."""
    first, last = int(indices[0]), int(indices[-1])
    step = 1 if last >= first else -1
    if len(indices) != abs(last - first) + 1 or (np.diff(indices) != step).any():
        return None
    return slice(first, None if last + step < 0 else last + step, step)


def _resampleOblique(
    labels: npt.NDArray[np.uint8], source: Lattice, target: Lattice, matrix: FloatArray, half: FloatArray
) -> npt.NDArray[np.uint8]:
    out = np.zeros(target.shape, dtype=np.uint8)
    i = np.arange(target.extent[0], target.extent[1] + 1, dtype=np.float64)
    j = np.arange(target.extent[2], target.extent[3] + 1, dtype=np.float64)
    low, high = np.array(source.extent[0::2]), np.array(source.extent[1::2])
    # One slice of the target at a time keeps the coordinates small.
    for row, k in enumerate(range(target.extent[4], target.extent[5] + 1)):
        positions = [
            np.floor(
                matrix[axis, 0] * i[None, :]
                + (matrix[axis, 1] * j[:, None] + matrix[axis, 2] * k + matrix[axis, 3] + half[axis])
            ).astype(np.intp)
            for axis in range(3)
        ]
        inside = np.ones(positions[0].shape, dtype=bool)
        for axis in range(3):
            inside &= (positions[axis] >= low[axis]) & (positions[axis] <= high[axis])
        if inside.any():
            a, b, c = (positions[axis][inside] - low[axis] for axis in range(3))
            out[row][inside] = labels[c, b, a]
    return out


def _extent(values: list[int]) -> Extent:
    a, b, c, d, e, f = (int(value) for value in values)
    return a, b, c, d, e, f
