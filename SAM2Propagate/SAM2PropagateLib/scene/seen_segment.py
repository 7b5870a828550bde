"""Holds the contents of a segment at its last comparison, with hashes of its frames.

A hash is of the frame's pixels. If the segment has its own grid, a hash of its own voxels follows after a
point, and counts as long as the segment stays on that grid.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from SAM2PropagateLib.frames.geometry import AXIS_NAMES, FloatArray, VolumeGeometry
from SAM2PropagateLib.prompts.place import mask_at
from SAM2PropagateLib.prompts.values import MaskPrompt
from SAM2PropagateLib.scene.lattice import EMPTY, Extent, Lattice, intersection, union
from SAM2PropagateLib.scene.own_grid import (
    FrameSums,
    OwnVoxels,
    changedVoxels,
    ownVoxels,
    sameGrid,
)
from SAM2PropagateLib.scene.segments import BoolArray, SegmentReader, volumeLattice
from SAM2PropagateLib.scene.slabs import Filled, finished, runs, slabs

EDIT = "edit"
"""The kind of the masks that the user edited; see `maskId`."""

_numbers = itertools.count()

Hashes = dict[int, str]
# Hashes along i, j and k.
AllHashes = tuple[Hashes, Hashes, Hashes]


def maskId(kind: str, frame: int, axis: int) -> str:
    """Returns the ID of a mask that the module keeps: always the same for the same slice."""
    return f"{kind}-{AXIS_NAMES[axis]}{frame}"


@dataclass(frozen=True)
class EditedFrame:
    """A frame that the user edited.

    Attributes:
        segmentID: the segment.
        frame: index along the propagation axis.
        prompt: the segment's present mask on it, as a prompt; all False if the user erased everything. A
            later edit of the frame has the same ID, so that it replaces this one.
    """

    segmentID: str
    frame: int
    prompt: MaskPrompt


@dataclass(frozen=True)
class Snapshot:
    """The contents of a segment at one moment.

    Attributes:
        voxels: bool (K, J, I) of the box; do not change them. box: its place on the volume's grid.
        number: changes with the contents.
        own: its voxels on its own grid; None: its grid is the volume's, or unknown.
    """

    box: Extent
    voxels: BoolArray
    geometry: VolumeGeometry
    number: int
    own: OwnVoxels | None = None

    @classmethod
    def ofFrame(cls, mask: BoolArray, frame: int, axis: int, geometry: VolumeGeometry) -> Snapshot:
        """Returns a snapshot of a single frame, from a mask that `frame` returned."""
        box = list(volumeLattice(geometry).extent)
        box[2 * axis] = box[2 * axis + 1] = frame
        voxels = np.moveaxis(mask[np.newaxis], 0, 2 - axis)
        return cls((box[0], box[1], box[2], box[3], box[4], box[5]), voxels, geometry, next(_numbers))

    def frame(self, frame: int, axis: int) -> BoolArray:
        """Returns the mask of one frame, (rows, columns)."""
        mask = np.zeros(self.geometry.frame_shape(axis), dtype=bool)
        first, last = self.box[2 * axis : 2 * axis + 2]
        if first <= frame <= last:
            part = np.moveaxis(self.voxels, 2 - axis, 0)[frame - first]
            row, column = (self.box[2 * other] for other in (2, 1, 0) if other != axis)
            mask[row : row + part.shape[0], column : column + part.shape[1]] = part
        return mask

    def changedPixels(self, before: Snapshot, frame: int, axis: int) -> BoolArray:
        """Returns the pixels of a frame, (rows, columns), with a voxel that differs from an earlier
        snapshot."""
        changed = self.frame(frame, axis) != before.frame(frame, axis)
        if self.own is not None and before.own is not None:
            changed |= self.own.changedPixels(before.own, frame, axis, self.geometry)
        return changed


class SeenSegment:
    """The contents of a segment at the last comparison, cropped to its voxels, and the hashes of its frames.

    Args:
        segmentID: the segment. geometry: of the volume.
    """

    def __init__(self, segmentID: str, geometry: VolumeGeometry) -> None:
        self._segmentID = segmentID
        self._geometry = geometry
        self._volume = volumeLattice(geometry)
        self.stamp: object = None
        self._box: Extent = EMPTY
        self._voxels: BoolArray = np.zeros((0, 0, 0), bool)
        self._number = next(_numbers)
        self._hashes: AllHashes = ({}, {}, {})
        # The frames along each axis that have to be hashed again.
        self._stale: tuple[set[int], set[int], set[int]] = (set(), set(), set())
        self._edited: dict[tuple[int, int], tuple[str | None, EditedFrame]] = {}
        self._own: OwnVoxels | None = None
        self._sums = FrameSums(geometry)

    def copy(self) -> SeenSegment:
        """Returns an independent copy."""
        other = SeenSegment(self._segmentID, self._geometry)
        other.stamp, other._box, other._voxels, other._number = (
            self.stamp,
            self._box,
            self._voxels,
            self._number,
        )
        i, j, k = self._hashes
        other._hashes = dict(i), dict(j), dict(k)
        a, b, c = self._stale
        other._stale = set(a), set(b), set(c)
        other._edited, other._own, other._sums = dict(self._edited), self._own, self._sums.copy()
        return other

    @property
    def number(self) -> int:
        """A number that changes whenever the contents are found changed."""
        return self._number

    @property
    def size(self) -> int:
        """The size of its voxels, in bytes."""
        return self._voxels.nbytes + (0 if self._own is None else self._own.voxels.nbytes)

    @property
    def allHashes(self) -> AllHashes:
        """A copy of the hashes along all three axes."""
        return dict(self.hashes(0)), dict(self.hashes(1)), dict(self.hashes(2))

    @property
    def grid(self) -> FloatArray | None:
        """The matrix from the indices of the segment's own grid to the volume's, (4, 4); None if it is the
        same."""
        if self._own is None or self._own.lattice.isEmpty:
            return None
        return self._own.lattice.indexMatrix(self._volume)

    @property
    def snapshot(self) -> Snapshot:
        """The contents; `update` replaces them, and does not change this snapshot."""
        return Snapshot(self._box, self._voxels, self._geometry, self._number, self._own)

    def isOn(self, geometry: VolumeGeometry) -> bool:
        """Tells whether it was compared on this grid."""
        return self._geometry == geometry

    def update(self, reader: SegmentReader) -> None:
        """Takes the present contents of the segment."""
        finished(self.updating(reader))

    def updating(self, reader: SegmentReader) -> Generator[None, None, None]:
        """Does what `update` does, slab by slab; valid only at the end."""
        self.stamp = reader.stamp
        yield from self._updatingOwn(ownVoxels(reader, self._geometry))
        box, voxels = yield from _cropped(reader, self._geometry)
        both = union(box, self._box)
        if both == EMPTY:
            return
        around = self._volume.within(both)
        changed = Filled(around.shape)
        for part, slab in slabs(around):
            if box == self._box:
                # Several times as fast as comparing bools.
                differs = voxels[part].view(np.uint8) ^ self._voxels[part].view(np.uint8)
            else:
                differs = np.zeros(slab.shape, np.uint8)
                for one, where in ((self._voxels, self._box), (voxels, box)):
                    if (common := intersection(where, slab.extent)) != EMPTY:
                        differs[_part(common, slab.extent)] ^= one[_part(common, where)].view(np.uint8)
            changed.add(part, differs.view(bool))
            yield
        filled = changed.planes
        if not len(filled[0]):
            return
        for axis, frames in enumerate(filled):
            self._stale[axis].update((frames + both[2 * axis]).tolist())
        self._box, self._voxels, self._number = box, voxels, next(_numbers)

    def _updatingOwn(self, own: OwnVoxels | None) -> Generator[None, None, None]:
        before = self._own
        if own is None and before is None:
            return
        if before is not None and own is not None and sameGrid(before.lattice, own.lattice, self._volume):
            changed = changedVoxels(before, own)
            if not changed.voxels.any():
                return
            yield from self._sums.changing(changed)
        else:
            self._sums = FrameSums(self._geometry)
            if own is not None:
                yield from self._sums.changing(own)
        self._own, self._number = own, next(_numbers)

    def hashes(self, axis: int) -> Hashes:
        """Returns a hash of every frame with voxels along an axis; do not change it."""
        hashes = self._pixelHashes(axis)
        own = self._sums.texts(axis)
        if not own:
            return hashes
        return {
            frame: f"{hashes.get(frame, '')}.{own[frame]}" if frame in own else hashes[frame]
            for frame in sorted(hashes.keys() | own.keys())
        }

    def _pixelHashes(self, axis: int) -> Hashes:
        finished(self.hashing(axis))
        return self._hashes[axis]

    def hashing(self, axis: int) -> Generator[None, None, None]:
        """Hashes the changed frames along an axis, a few at a time."""
        hashes, stale = self._hashes[axis], self._stale[axis]
        first, last = self._box[2 * axis : 2 * axis + 2]
        within = sorted(frame for frame in stale if first <= frame <= last)
        for frame in stale:
            hashes.pop(frame, None)
        if within:
            row, column = (self._box[2 * other] for other in (2, 1, 0) if other != axis)
            chosen = [one - first for one in within]
            frames = (yield from _turned(self._voxels, chosen)) if axis == 0 else None
            for part in runs(len(within), self._voxels.size // self._voxels.shape[2 - axis]):
                masks = _framesOf(self._voxels, axis, chosen[part]) if frames is None else frames[part]
                new = _hashed(masks, row, column)
                hashes.update((frame, text) for frame, text in zip(within[part], new, strict=True) if text)
                yield
        stale.clear()

    def edited(self, frame: int, axis: int) -> EditedFrame:
        """Returns a frame as an edit; the same object as long as the frame does not change."""
        text = self.hashes(axis).get(frame)
        known = self._edited.get((axis, frame))
        if known is None or known[0] != text:
            name = maskId(EDIT, frame, axis)
            own = self._own
            if own is None or own.lattice.isEmpty:
                mask = self.snapshot.frame(frame, axis)
            else:
                mask = own.frameMask(frame, axis, self._geometry)
            prompt = mask_at(mask, frame, self._geometry, axis, name)
            known = self._edited[axis, frame] = (text, EditedFrame(self._segmentID, frame, prompt))
        return known[1]


def _cropped(
    reader: SegmentReader, geometry: VolumeGeometry
) -> Generator[None, None, tuple[Extent, BoolArray]]:
    """Returns the smallest box with all voxels of a segment on the volume's grid, and the voxels in it."""
    around: Lattice = volumeLattice(geometry).within(reader.box)
    voxels, filled = np.empty(around.shape, bool), Filled(around.shape)
    for part, slab in slabs(around):
        voxels[part] = reader.onLattice(slab)
        filled.add(part, voxels[part])
        yield
    tight = filled.box
    if tight is None:
        return EMPTY, np.zeros((0, 0, 0), bool)
    (k, j, i), (i0, j0, k0) = tight, reader.box[::2]
    box = (i0 + i.start, i0 + i.stop - 1, j0 + j.start, j0 + j.stop - 1, k0 + k.start, k0 + k.stop - 1)
    # A copy if much is cropped off, as a view would keep the whole box in main memory.
    cropped = voxels[k, j, i]
    return box, cropped if cropped.size * 2 > voxels.size else cropped.copy()


def _part(box: Extent, of: Extent) -> tuple[slice, slice, slice]:
    """Returns where a box lies in an array over a larger one; empty for an empty box."""
    if box == EMPTY:
        return (slice(0, 0),) * 3
    i, j, k = (slice(box[2 * n] - of[2 * n], box[2 * n + 1] - of[2 * n] + 1) for n in range(3))
    return k, j, i


def _framesOf(voxels: BoolArray, axis: int, chosen: list[int]) -> BoolArray:
    """Returns frames along j or k of a (K, J, I) array: (n, rows, columns), C order."""
    frames = np.moveaxis(voxels, 2 - axis, 0)
    isRun = chosen[-1] - chosen[0] + 1 == len(chosen)
    return np.ascontiguousarray(frames[chosen[0] : chosen[-1] + 1] if isRun else frames[chosen])


def _turned(voxels: BoolArray, chosen: list[int]) -> Generator[None, None, BoolArray]:
    """Returns frames along i of a (K, J, I) array: (n, rows, columns), C order."""
    isWhole = len(chosen) == voxels.shape[2]
    # Plane by plane fits into the processor's cache, and is four times as fast.
    frames = np.empty((len(chosen), *voxels.shape[:2]), dtype=bool)
    for part in runs(len(voxels), voxels[0].size):
        for k in range(part.start, part.stop):
            frames[:, k] = voxels[k].T if isWhole else voxels[k][:, chosen].T
        yield
    return frames


def _hashed(masks: BoolArray, row: int, column: int) -> list[str]:
    """Returns a hash of each of (n, rows, columns) masks, without their empty margins; "" for an empty mask.

    Args:
        row, column: of the masks' first pixel in their frames.
    """
    rows, columns = np.any(masks, axis=2), np.any(masks, axis=1)
    texts = []
    for mask, inRow, inColumn in zip(masks, rows, columns, strict=True):
        r, c = np.flatnonzero(inRow), np.flatnonzero(inColumn)
        if not len(r):
            texts.append("")
            continue
        inside = mask[r[0] : r[-1] + 1, c[0] : c[-1] + 1]
        place = np.array([row + r[0], column + c[0], *inside.shape], dtype="<i8").tobytes()
        texts.append(hashlib.blake2b(place + np.packbits(inside).tobytes(), digest_size=8).hexdigest())
    return texts
