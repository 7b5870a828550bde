"""Compares segments on their own grid, where that is not the volume's: finer, shifted or turned.

The volume's grid does not sample every voxel of such a segment, so edits are looked for in its own voxels.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.frames.geometry import FloatArray, VolumeGeometry
from SAM2PropagateLib.scene.lattice import EMPTY, Extent, Lattice, alignedAxes, resample, union
from SAM2PropagateLib.scene.segments import (
    BoolArray,
    SegmentReader,
    frameMask,
    stepsPerVoxel,
    volumeLattice,
)
from SAM2PropagateLib.scene.slabs import finished

_AXES = (0, 1, 2)
# A voxel center halfway between two frames counts for the upper one; rounding must not decide.
_BIAS = 1e-4
# Offsets of half a voxel are common; rounding them must not depend on the last digit.
_UNCOMMON = 0.63
# Voxels of the volume; two descriptions of the same grid may differ by this much.
_SAME_GRID = 1e-2
_Points = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class OwnVoxels:
    """A segment on its own grid; do not change it.

    Attributes:
        voxels: bool (K, J, I) of a box with all True voxels. lattice: of this box; its index 0 is the grid's
            first voxel in the volume's corner, whatever box the labelmap has.
    """

    voxels: BoolArray
    lattice: Lattice

    def frameMask(self, frame: int, axis: int, geometry: VolumeGeometry) -> BoolArray:
        """Returns the segment's mask of a frame, (rows, columns) bool, with all layers that the frame covers;
        see `segments.frameMask`."""
        whole = volumeLattice(geometry)
        mask = np.zeros(geometry.frame_shape(axis), dtype=bool)
        box = list(self.lattice.boxIn(whole))
        if not box[2 * axis] <= frame <= box[2 * axis + 1]:
            return mask
        box[2 * axis] = box[2 * axis + 1] = frame
        part = whole.within((box[0], box[1], box[2], box[3], box[4], box[5]))
        x, y = (n for n in _AXES if n != axis)
        place = slice(box[2 * y], box[2 * y + 1] + 1), slice(box[2 * x], box[2 * x + 1] + 1)
        mask[place] = frameMask(self._sample, part, stepsPerVoxel(whole, self.lattice), axis, throughout=True)
        if not mask.any():
            # These voxels lie between the sampled ones.
            points = placesIn(np.argwhere(self.voxels), self.lattice, whole)
            rows, columns = points[points[:, axis] == frame][:, (y, x)].T
            mask[rows, columns] = True
        return mask

    def changedPixels(self, other: OwnVoxels, frame: int, axis: int, geometry: VolumeGeometry) -> BoolArray:
        """Returns the pixels of a frame with a voxel that differs from another state of the segment."""
        mask = np.zeros(geometry.frame_shape(axis), dtype=bool)
        x, y = (n for n in _AXES if n != axis)
        volume = volumeLattice(geometry)
        if not sameGrid(self.lattice, other.lattice, volume):
            return self.frameMask(frame, axis, geometry) != other.frameMask(frame, axis, geometry)
        box = list(volume.extent)
        box[2 * axis] = box[2 * axis + 1] = frame
        part = volume.within((box[0], box[1], box[2], box[3], box[4], box[5]))
        changed = changedVoxels(*(one._near(part) for one in (other, self)))
        points = placesIn(np.argwhere(changed.voxels), changed.lattice, volume)
        rows, columns = points[points[:, axis] == frame][:, (y, x)].T
        mask[rows, columns] = True
        return mask

    def _near(self, box: Lattice) -> OwnVoxels:
        """Returns the voxels that can lie in a box of another grid."""
        extent = box.boxIn(self.lattice, margin=1)
        return OwnVoxels(self.voxels[_part(extent, self.lattice.extent)], self.lattice.within(extent))

    def _sample(self, target: Lattice) -> BoolArray:
        return resample(self.voxels.view(np.uint8), self.lattice, target, isLower=True).view(bool)


class FrameSums:
    """A hash of a segment's own voxels for every frame along every axis.

    Every voxel has its own number. A frame's hash combines the numbers of its voxels by exclusive or, so that
    an update needs only the changed voxels.
    """

    def __init__(self, geometry: VolumeGeometry) -> None:
        self._volume = volumeLattice(geometry)
        self._sums = tuple(np.zeros(geometry.frame_count(axis), np.uint64) for axis in _AXES)

    def copy(self) -> FrameSums:
        """Returns an independent copy."""
        other = object.__new__(FrameSums)
        other._volume, other._sums = self._volume, tuple(one.copy() for one in self._sums)
        return other

    def change(self, changed: OwnVoxels) -> None:
        """Updates the hashes for changed voxels."""
        finished(self.changing(changed))

    def changing(self, changed: OwnVoxels) -> Generator[None, None, None]:
        """Does what `change` does, layer by layer; valid only at the end."""
        matrix = changed.lattice.indexMatrix(self._volume)
        axes = alignedAxes(matrix, changed.lattice)
        if axes is not None:
            yield from self._changingAligned(changed, matrix, axes)
            return
        e = changed.lattice.extent
        for layer, plane in enumerate(changed.voxels):
            where = np.argwhere(plane[np.newaxis]) + np.array([layer, 0, 0])
            if not len(where):
                continue
            frames, isInside = _places(where, changed.lattice, self._volume)
            number = _numbers(where[isInside] + (e[4], e[2], e[0]))
            for axis in _AXES:
                np.bitwise_xor.at(self._sums[axis], frames[isInside, axis], number)
            yield

    def _changingAligned(
        self, changed: OwnVoxels, matrix: FloatArray, axes: tuple[int, int, int]
    ) -> Generator[None, None, None]:
        """Does what `changing` does on an aligned grid, many times as fast: voxels with the same index along
        an axis lie in the same frame."""
        e, lines, inside, sums = changed.lattice.extent, [], [], []
        for own, axis in enumerate(axes):
            index = np.arange(e[2 * own], e[2 * own + 1] + 1)
            frame = np.floor(matrix[axis, own] * index + matrix[axis, 3] + 0.5 + _BIAS).astype(np.intp)
            lines.append(frame)
            inside.append((frame >= 0) & (frame < len(self._sums[axis])))
            sums.append(np.zeros(len(index), np.uint64))
        j, i = np.indices(changed.voxels.shape[1:])
        index = np.stack([np.zeros(j.size, np.intp), j.ravel() + e[2], i.ravel() + e[0]], axis=1)
        isInside = inside[1][:, None] & inside[0]
        for layer in np.flatnonzero(inside[2]):
            plane = changed.voxels[layer] & isInside
            if not plane.any():
                continue
            index[:, 0] = layer + e[4]
            numbers = np.where(plane, _numbers(index).reshape(plane.shape), np.uint64(0))
            rows = np.bitwise_xor.reduce(numbers, axis=1)
            sums[0] ^= np.bitwise_xor.reduce(numbers, axis=0)
            sums[1] ^= rows
            sums[2][layer] = np.bitwise_xor.reduce(rows)
            yield
        for own, axis in enumerate(axes):
            kept = inside[own]
            np.bitwise_xor.at(self._sums[axis], lines[own][kept], sums[own][kept])

    def texts(self, axis: int) -> dict[int, str]:
        """Returns the hash, as a text, of each frame with voxels."""
        sums = self._sums[axis]
        return {int(frame): f"{int(sums[frame]):016x}" for frame in np.flatnonzero(sums)}


def ownVoxels(reader: SegmentReader, geometry: VolumeGeometry) -> OwnVoxels | None:
    """Returns a segment's present voxels; None if its grid is the volume's."""
    volume, lattice = volumeLattice(geometry), reader.lattice
    if lattice.isEmpty:
        return OwnVoxels(np.zeros((0, 0, 0), bool), lattice)
    if lattice.hasVoxelsOf(volume):
        return None
    voxels = reader.ownVoxels()
    box = tightBox(voxels)
    if box is None:
        return OwnVoxels(np.zeros((0, 0, 0), bool), lattice.within(EMPTY))
    k, j, i = box
    first = lattice.extent[::2]
    corner = np.linalg.solve(lattice.indexMatrix(volume), (-0.5, -0.5, -0.5, 1.0))[:3]
    shift = np.floor(corner + _UNCOMMON).astype(int)
    move = np.eye(4)
    move[:3, 3] = shift
    low = [first[n] + (i, j, k)[n].start - int(shift[n]) for n in _AXES]
    high = [first[n] + (i, j, k)[n].stop - 1 - int(shift[n]) for n in _AXES]
    extent = (low[0], high[0], low[1], high[1], low[2], high[2])
    return OwnVoxels(np.ascontiguousarray(voxels[box]), Lattice(lattice.ijkToWorld @ move, extent))


def changedVoxels(before: OwnVoxels, now: OwnVoxels) -> OwnVoxels:
    """Returns the voxels that differ between two states on the same grid."""
    both = union(before.lattice.extent, now.lattice.extent)
    lattice = (now if not now.lattice.isEmpty else before).lattice.within(both)
    changed = np.zeros(lattice.shape, dtype=bool)
    for one in (before, now):
        changed[_part(one.lattice.extent, both)] ^= one.voxels
    return OwnVoxels(changed, lattice)


def sameGrid(one: Lattice, other: Lattice, volume: Lattice) -> bool:
    """Tells whether voxels of two grids with the same index are the same voxel."""
    if one.isEmpty or other.isEmpty:
        return True
    return isNear(one.indexMatrix(volume), other.indexMatrix(volume))


def isNear(one: FloatArray, other: FloatArray) -> bool:
    """Tells whether two index matrices into the volume describe the same grid."""
    return bool(np.allclose(one, other, rtol=0, atol=_SAME_GRID))


def placesIn(where: _Points, lattice: Lattice, volume: Lattice) -> _Points:
    """Returns the volume's voxels, (n, 3) of i, j, k, that contain voxels of another grid, without those
    outside.

    Args:
        where: (n, 3) of k, j, i in an array over the lattice.
    """
    places, isInside = _places(where, lattice, volume)
    return places[isInside]


def tightBox(voxels: BoolArray) -> tuple[slice, ...] | None:
    """Returns the smallest slices around all True voxels, per numpy axis; None if there are none."""
    line = np.asarray(voxels.any(axis=tuple(range(1, voxels.ndim))))
    if not line.any():
        return None
    first = slice(int(line.argmax()), len(line) - int(line[::-1].argmax()))
    if voxels.ndim == 1:
        return (first,)
    # Reduces the first axis, and then looks at the others in the smaller array.
    rest = tightBox(np.asarray(voxels[first].any(axis=0)))
    assert rest is not None
    return (first, *rest)


def _places(where: _Points, lattice: Lattice, volume: Lattice) -> tuple[_Points, BoolArray]:
    matrix = lattice.indexMatrix(volume)
    index = where[:, ::-1] + np.array(lattice.extent[::2])
    places = np.floor(index @ matrix[:3, :3].T + matrix[:3, 3] + 0.5 + _BIAS).astype(np.intp)
    low, high = np.array(volume.extent[::2]), np.array(volume.extent[1::2])
    return places, np.asarray(((places >= low) & (places <= high)).all(axis=1))


def _numbers(index: _Points) -> npt.NDArray[np.uint64]:
    """Returns a number (the finalizer of SplitMix64) for each k, j, i."""
    k, j, i = (index[:, n].astype(np.uint64) for n in range(3))
    number = i + (j << np.uint64(21)) + (k << np.uint64(42)) + np.uint64(0x9E3779B97F4A7C15)
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


def _part(box: Extent, of: Extent) -> tuple[slice, slice, slice]:
    """Returns where a box lies in an array over a larger one; empty for an empty box."""
    if box == EMPTY:
        return (slice(0, 0),) * 3
    i, j, k = (slice(box[2 * n] - of[2 * n], box[2 * n + 1] - of[2 * n] + 1) for n in _AXES)
    return k, j, i
