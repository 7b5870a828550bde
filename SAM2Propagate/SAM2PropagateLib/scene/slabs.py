"""Divides large boxes of voxels into slabs, so that work on them can pause in between."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.scene.lattice import Lattice

BoolArray = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]
T = TypeVar("T")

# Voxels between two pauses; one pass over them takes a millisecond or two.
SLAB_VOXELS = 1 << 20


def finished(work: Generator[None, None, T]) -> T:
    """Does pausing work without a pause, and returns its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def runs(count: int, size: int) -> Iterator[slice]:
    """Yields slices that divide `count` things of `size` voxels each into parts of about `SLAB_VOXELS`
    voxels, with at least one thing in each."""
    step = max(1, SLAB_VOXELS // max(size, 1))
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))


def slabs(box: Lattice) -> Iterator[tuple[slice, Lattice]]:
    """Yields a box in slabs along k: each one's slice in a (K, J, I) array over the box, and its lattice."""
    _, rows, columns = box.shape
    e = box.extent
    for part in runs(0 if box.isEmpty else box.shape[0], rows * columns):
        yield part, box.within((*e[:4], e[4] + part.start, e[4] + part.stop - 1))


class Filled:
    """Finds the planes of a (K, J, I) array that hold anything, slab by slab.

    Args:
        shape: of the array.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._planes = np.zeros(shape[0], dtype=bool)
        self._shadow = np.zeros(shape[1:], dtype=bool)

    def add(self, part: slice, voxels: BoolArray) -> None:
        """Adds a slab: (K', J, I) bool, at these planes along k."""
        found = np.any(voxels, axis=(1, 2))
        self._planes[part] = found
        if found.any():
            np.logical_or(self._shadow, np.any(voxels, axis=0), out=self._shadow)

    @property
    def planes(self) -> tuple[Indices, Indices, Indices]:
        """The planes along i, j and k that hold anything."""
        i, j = (np.flatnonzero(np.any(self._shadow, axis=axis)) for axis in (0, 1))
        return i, j, np.flatnonzero(self._planes)

    @property
    def box(self) -> tuple[slice, slice, slice] | None:
        """The smallest slices along k, j and i that hold everything; None if there is nothing."""
        i, j, k = self.planes
        if not len(k):
            return None
        z, y, x = (slice(int(one[0]), int(one[-1]) + 1) for one in (k, j, i))
        return z, y, x
