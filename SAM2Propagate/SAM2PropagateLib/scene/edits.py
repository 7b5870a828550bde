"""Which slices the user edited since the last run.

After every commit a hash of each frame of a segment, along all three axes, is remembered in the scene; a
frame whose hash differs later was painted or erased by the user, and its mask becomes a keyframe of the next
run, whatever its axis. The scene holds no copy of a mask; in memory there is one of each segment that was
looked at, so that looking again hashes only what has changed since.

A hash is that of the pixels of the frame. Where the segment has a grid of its own, that of its own voxels
follows after a point; it counts as long as the segment stays on that grid.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frames.geometry import FloatArray, VolumeGeometry
from SAM2PropagateLib.prompts.place import mask_at
from SAM2PropagateLib.prompts.values import MaskPrompt
from SAM2PropagateLib.scene.lattice import EMPTY, Extent, union
from SAM2PropagateLib.scene.own_grid import (
    FrameSums,
    OwnVoxels,
    changedVoxels,
    isNear,
    ownVoxels,
    sameGrid,
)
from SAM2PropagateLib.scene.segments import BoolArray, SegmentReader, volumeLattice
from SAM2PropagateLib.scene.segments import segmentIDs as _segmentIDs
from SAM2PropagateLib.scene.state import SceneState
from SAM2PropagateLib.scene.volume import ownGeometry
from SAM2PropagateLib.texts import tr as _

_STATE_NAME = "edits"
_VERSION = 2
_AXES = (0, 1, 2)
# Enough to recognize that a few runs were undone.
_MOST_SNAPSHOTS = 6

_numbers = itertools.count()

Hashes = dict[int, str]
Indices = npt.NDArray[np.intp]
# Along i, j and k.
AllHashes = tuple[Hashes, Hashes, Hashes]


@dataclass(frozen=True)
class EditedFrame:
    """A frame that the user edited.

    Attributes:
        segmentID: the segment.
        frame: index along the propagation axis.
        prompt: the segment's present mask on it, as a prompt; all False where the user erased everything. Its
            id is the same whenever this frame is edited, so that it can replace the former one.
    """

    segmentID: str
    frame: int
    prompt: MaskPrompt


@dataclass(frozen=True)
class SegmentHashes:
    """What segments held at one moment before a run along `axis`: hashes per segment ID, axis and frame, and
    per segment ID its own grid as in `_SegmentRecord`.
    """

    axis: int
    hashes: Mapping[str, AllHashes]
    grids: Mapping[str, FloatArray | None]


@dataclass(frozen=True)
class Snapshot:
    """What a segment held at one moment.

    Attributes:
        voxels: bool (K, J, I) of the box; not to be changed. box: where they lie on the volume's grid.
        number: changes whenever the segment holds something else.
        own: its voxels on a grid of its own; None: its grid is the volume's, or that is not known.
    """

    box: Extent
    voxels: BoolArray
    geometry: VolumeGeometry
    number: int
    own: OwnVoxels | None = None

    @classmethod
    def ofFrame(cls, mask: BoolArray, frame: int, axis: int, geometry: VolumeGeometry) -> Snapshot:
        """One of which only this frame is known, from what `frame` gave."""
        box = list(volumeLattice(geometry).extent)
        box[2 * axis] = box[2 * axis + 1] = frame
        voxels = np.moveaxis(mask[np.newaxis], 0, 2 - axis)
        return cls((box[0], box[1], box[2], box[3], box[4], box[5]), voxels, geometry, next(_numbers))

    def frame(self, frame: int, axis: int) -> BoolArray:
        """The mask of one frame, (rows, columns)."""
        mask = np.zeros(self.geometry.frame_shape(axis), dtype=bool)
        first, last = self.box[2 * axis : 2 * axis + 2]
        if first <= frame <= last:
            part = np.moveaxis(self.voxels, 2 - axis, 0)[frame - first]
            row, column = (self.box[2 * other] for other in (2, 1, 0) if other != axis)
            mask[row : row + part.shape[0], column : column + part.shape[1]] = part
        return mask

    def changedPixels(self, before: Snapshot, frame: int, axis: int) -> BoolArray:
        """The pixels of a frame, (rows, columns), in which it differs from an earlier state in any voxel."""
        changed = self.frame(frame, axis) != before.frame(frame, axis)
        if self.own is not None and before.own is not None:
            changed |= self.own.changedPixels(before.own, frame, axis, self.geometry)
        return changed


@dataclass(frozen=True, eq=False)
class _SegmentRecord:
    """What is remembered of a segment.

    Attributes:
        snapshots: its hashes after the last commits. grid: (4, 4) from the indices of its own grid to the
            volume's; None: it was the volume's.
    """

    snapshots: list[AllHashes]
    grid: FloatArray | None

    def on(self, grid: FloatArray | None) -> list[AllHashes]:
        """The hashes as far as they can be compared with those of the segment on this grid."""
        if grid is not None and self.grid is not None and isNear(grid, self.grid):
            return self.snapshots
        return [_ofPixels(one) for one in self.snapshots]


_UNKNOWN = _SegmentRecord([], None)


class EditTracker:
    """Tells the user's edits of a segmentation from what runs wrote.

    What it remembers is saved with the scene.

    Args:
        segmentationNode: the user's vtkMRMLSegmentationNode.
        volumeNode: the volume on whose frames the runs are.
    """

    def __init__(self, segmentationNode: Any, volumeNode: Any) -> None:
        self._segmentationNode = segmentationNode
        self._volumeNode = volumeNode
        self._state = SceneState(segmentationNode)
        self._seen: dict[str, _Seen] = {}
        self._parsed: tuple[str, VolumeGeometry, dict[str, _SegmentRecord]] | None = None

    def look(self, segmentIDs: Iterable[str], axis: int) -> SegmentHashes:
        """The segments as they are before a commit: those of the run, and all that were remembered before.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        geometry = ownGeometry(self._volumeNode)
        record = self._load(geometry) or {}
        present = set(_segmentIDs(self._segmentationNode))
        self._seen = {name: one for name, one in self._seen.items() if name in present}
        names = list(dict.fromkeys([*segmentIDs, *(name for name in record if name in present)]))
        hashes = {name: self._allHashes(name, geometry) for name in names}
        return SegmentHashes(axis, hashes, {name: self._seen[name].grid for name in names})

    def remember(self, before: SegmentHashes, frames: Mapping[str, Iterable[int]]) -> None:
        """Takes what a commit did for known; an edit that it did not touch stays an edit.

        Args:
            before: what `look` gave before the commit.
            frames: per segment of the run its frames; the user's edits on them went into the run.
        """
        geometry = ownGeometry(self._volumeNode)
        record = self._load(geometry) or {}
        for name, old in before.hashes.items():
            now, grid = self._allHashes(name, geometry), self._seen[name].grid
            snapshots = record.get(name, _UNKNOWN).on(grid)
            oldGrid = before.grids[name]
            if oldGrid is not None and (grid is None or not isNear(oldGrid, grid)):
                old = _ofPixels(old)
            settled = _settled(snapshots, old, now, before.axis, set(frames.get(name, ())))
            bases = [_nearest([one[axis] for one in snapshots], old[axis]) for axis in _AXES]
            for state in (old, now):
                i, j, k = (_joined(bases[axis], state[axis], settled[axis]) for axis in _AXES)
                known = (i, j, k)
                snapshots = [*(one for one in snapshots if one != known), known]
            record[name] = _SegmentRecord(snapshots[-_MOST_SNAPSHOTS:], grid)
        self._save(record, geometry)

    def edited(self, segmentID: str, axis: int) -> tuple[EditedFrame, ...]:
        """The frames that the user edited since the last run, in order.

        Before the first run that is every frame on which the segment has voxels. Undoing a run is not an
        edit. An edit is found along every axis, on each frame that it crosses. After a run on a volume of
        another grid nothing can be told, and nothing is reported.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        geometry = ownGeometry(self._volumeNode)
        record = self._load(geometry)
        if record is None:
            return ()
        seen = self._look(segmentID, geometry)
        snapshots = record.get(segmentID, _UNKNOWN).on(seen.grid)
        known = _nearest([one[axis] for one in snapshots], seen.hashes(axis))
        return tuple(seen.edited(frame, axis) for frame in _different(known, seen.hashes(axis)))

    def forget(self, segmentID: str) -> None:
        """Forgets a segment: all its frames count as edited by the user."""
        record = self._read()
        if segmentID in record.get("segments", {}):
            del record["segments"][segmentID]
            self._state.set(_STATE_NAME, json.dumps(record, separators=(",", ":")))

    @property
    def record(self) -> str:
        """All that is remembered, for `restore`."""
        return self._state.get(_STATE_NAME) or ""

    def restore(self, record: str) -> None:
        """Remembers what was remembered when the segments were as they are now again, and nothing else."""
        if record != self.record:
            self._state.set(_STATE_NAME, record)

    def hasSeenVoxels(self, segmentID: str) -> bool:
        """Whether the segment, which may be gone, had voxels when it was looked at last."""
        seen = self._seen.get(segmentID)
        return seen is not None and any(seen.hashes(0))

    def snapshot(self, segmentID: str) -> Snapshot:
        """What the segment holds now; shares its memory with what is kept here to find edits.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        return self._look(segmentID, ownGeometry(self._volumeNode), trustsStamp=True).snapshot

    def hashes(self, segmentID: str, axis: int) -> Hashes:
        """A hash of every frame on which the segment has voxels now.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        # Asked for right after an edit or a commit was looked at: the segment has hardly changed since.
        seen = self._look(segmentID, ownGeometry(self._volumeNode), trustsStamp=True)
        return dict(seen.hashes(axis))

    def _allHashes(self, segmentID: str, geometry: VolumeGeometry) -> AllHashes:
        seen = self._look(segmentID, geometry)
        return dict(seen.hashes(0)), dict(seen.hashes(1)), dict(seen.hashes(2))

    def _look(self, segmentID: str, geometry: VolumeGeometry, trustsStamp: bool = False) -> _Seen:
        """The segment as it is now; a stamp that is trusted tells that the labelmap is still the same."""
        reader = SegmentReader(self._segmentationNode, segmentID, geometry, self._volumeNode)
        seen = self._seen.get(segmentID)
        if seen is None or not seen.isOn(geometry):
            self._seen = {name: one for name, one in self._seen.items() if one.isOn(geometry)}
            seen = self._seen[segmentID] = _Seen(segmentID, geometry)
        if not (trustsStamp and seen.stamp == reader.stamp):
            seen.update(reader)
        return seen

    def _load(self, geometry: VolumeGeometry) -> dict[str, _SegmentRecord] | None:
        """What is remembered per segment; None when they are of another grid than this."""
        text = self._state.get(_STATE_NAME) or ""
        if self._parsed is not None and self._parsed[:2] == (text, geometry):
            return dict(self._parsed[2])
        record = self._read()
        if not record:
            return {}
        # The first version knew frames along one axis only: from it nothing can be told.
        if record["version"] != _VERSION or record["shape"] != list(geometry.shape_ijk):
            return None
        grids = record.get("grids", {})
        segments = {
            segmentID: _SegmentRecord(
                [(_numbered(i), _numbered(j), _numbered(k)) for i, j, k in snapshots],
                np.array(grids[segmentID], dtype=np.float64) if segmentID in grids else None,
            )
            for segmentID, snapshots in record["segments"].items()
        }
        # Reading it takes longer than looking at a segment that has hardly changed.
        self._parsed = (text, geometry, segments)
        return dict(segments)

    def _read(self) -> dict[str, Any]:
        text = self._state.get(_STATE_NAME)
        if not text:
            return {}
        try:
            record = json.loads(text)
            known = record["version"] in (1, _VERSION) and {"shape", "segments"} <= set(record)
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise SAM2PropagateError(
                "bad_edit_record",
                _("The record of edited slices of “{segmentation}” cannot be read.").format(
                    segmentation=self._segmentationNode.GetName()
                ),
                _("Update SAM2 Propagate if the scene was saved by a newer version."),
            )
        return dict(record)

    def _save(self, record: dict[str, _SegmentRecord], geometry: VolumeGeometry) -> None:
        document = {
            "version": _VERSION,
            "shape": list(geometry.shape_ijk),
            "segments": {name: one.snapshots for name, one in record.items()},
            "grids": {name: one.grid.tolist() for name, one in record.items() if one.grid is not None},
        }
        self._state.set(_STATE_NAME, json.dumps(document, separators=(",", ":")))


class _Seen:
    """What a segment held when it was last looked at, cropped to its voxels, and the hashes of its frames.

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
        # The frames along each axis that changed since they were hashed.
        self._stale: tuple[set[int], set[int], set[int]] = (set(), set(), set())
        self._edited: dict[tuple[int, int], tuple[str | None, EditedFrame]] = {}
        self._own: OwnVoxels | None = None
        self._sums = FrameSums(geometry)

    @property
    def grid(self) -> FloatArray | None:
        """(4, 4) from the indices of the segment's own grid to the volume's; None if that is the volume's."""
        if self._own is None or self._own.lattice.isEmpty:
            return None
        return self._own.lattice.indexMatrix(self._volume)

    @property
    def snapshot(self) -> Snapshot:
        """What it held; `update` puts other voxels in the place of these and leaves these alone."""
        return Snapshot(self._box, self._voxels, self._geometry, self._number, self._own)

    def isOn(self, geometry: VolumeGeometry) -> bool:
        """Whether it was looked at on this grid."""
        return self._geometry == geometry

    def update(self, reader: SegmentReader) -> None:
        """Takes the segment as it is now."""
        self.stamp = reader.stamp
        self._updateOwn(ownVoxels(reader, self._geometry))
        box, voxels = _cropped(reader, self._geometry)
        both = union(box, self._box)
        if both == EMPTY:
            return
        if box == self._box:
            # As bytes: several times as fast as comparing truth values.
            changed = (voxels.view(np.uint8) ^ self._voxels.view(np.uint8)).view(bool)
        else:
            changed = _pasted(self._voxels, self._box, both)
            changed[_part(box, both)] ^= voxels
        filled = _filled(changed)
        if not len(filled[0]):
            return
        for axis, frames in enumerate(filled):
            self._stale[axis].update((frames + both[2 * axis]).tolist())
        self._box, self._voxels, self._number = box, voxels, next(_numbers)

    def _updateOwn(self, own: OwnVoxels | None) -> None:
        before = self._own
        if own is None and before is None:
            return
        if before is not None and own is not None and sameGrid(before.lattice, own.lattice, self._volume):
            changed = changedVoxels(before, own)
            if not changed.voxels.any():
                return
            self._sums.change(changed)
        else:
            self._sums = FrameSums(self._geometry)
            if own is not None:
                self._sums.change(own)
        self._own, self._number = own, next(_numbers)

    def hashes(self, axis: int) -> Hashes:
        """A hash of every frame along an axis that has voxels; not to be changed."""
        hashes = self._pixelHashes(axis)
        own = self._sums.texts(axis)
        if not own:
            return hashes
        return {
            frame: f"{hashes.get(frame, '')}.{own[frame]}" if frame in own else hashes[frame]
            for frame in sorted(hashes.keys() | own.keys())
        }

    def _pixelHashes(self, axis: int) -> Hashes:
        hashes, stale = self._hashes[axis], self._stale[axis]
        first, last = self._box[2 * axis : 2 * axis + 2]
        within = sorted(frame for frame in stale if first <= frame <= last)
        for frame in stale:
            hashes.pop(frame, None)
        if within:
            chosen = _framesOf(self._voxels, axis, [one - first for one in within])
            row, column = (self._box[2 * other] for other in (2, 1, 0) if other != axis)
            new = _hashed(chosen, row, column)
            hashes.update((frame, text) for frame, text in zip(within, new, strict=True) if text)
        stale.clear()
        return hashes

    def edited(self, frame: int, axis: int) -> EditedFrame:
        """A frame as an edit; the same object again as long as the frame is the same."""
        text = self.hashes(axis).get(frame)
        known = self._edited.get((axis, frame))
        if known is None or known[0] != text:
            name = f"edit-{'ijk'[axis]}{frame}"
            own = self._own
            if own is None or own.lattice.isEmpty:
                mask = self.snapshot.frame(frame, axis)
            else:
                mask = own.frameMask(frame, axis, self._geometry)
            prompt = mask_at(mask, frame, self._geometry, axis, name)
            known = self._edited[axis, frame] = (text, EditedFrame(self._segmentID, frame, prompt))
        return known[1]


def _cropped(reader: SegmentReader, geometry: VolumeGeometry) -> tuple[Extent, BoolArray]:
    """A segment's voxels on the volume's grid, and the smallest box that holds them all."""
    if reader.box == EMPTY:
        return EMPTY, np.zeros((0, 0, 0), bool)
    voxels = reader.onLattice(volumeLattice(geometry).within(reader.box))
    filled = _filled(voxels)
    if not len(filled[0]):
        return EMPTY, np.zeros((0, 0, 0), bool)
    i, j, k = (slice(int(one[0]), int(one[-1]) + 1) for one in filled)
    i0, j0, k0 = reader.box[::2]
    box = (i0 + i.start, i0 + i.stop - 1, j0 + j.start, j0 + j.stop - 1, k0 + k.start, k0 + k.stop - 1)
    # A copy where there is much to leave out: a view would keep the whole box.
    cropped = voxels[k, j, i]
    return box, cropped if cropped.size * 2 > voxels.size else cropped.copy()


def _filled(voxels: BoolArray) -> tuple[Indices, Indices, Indices]:
    """The frames along i, j and k that hold anything of a (K, J, I) array."""
    k = np.flatnonzero(np.any(voxels, axis=(1, 2)))
    if not len(k):
        return k, k, k
    plane = np.any(voxels[k[0] : k[-1] + 1], axis=0)
    return np.flatnonzero(np.any(plane, axis=0)), np.flatnonzero(np.any(plane, axis=1)), k


def _pasted(voxels: BoolArray, box: Extent, into: Extent) -> BoolArray:
    """A box of voxels in a larger one."""
    i, j, k = (int(into[2 * axis + 1] - into[2 * axis] + 1) for axis in range(3))
    whole = np.zeros((k, j, i), dtype=bool)
    whole[_part(box, into)] = voxels
    return whole


def _part(box: Extent, of: Extent) -> tuple[slice, slice, slice]:
    """Where a box lies in an array over a larger one; empty for an empty box."""
    if box == EMPTY:
        return (slice(0, 0),) * 3
    i, j, k = (slice(box[2 * n] - of[2 * n], box[2 * n + 1] - of[2 * n] + 1) for n in range(3))
    return k, j, i


def _framesOf(voxels: BoolArray, axis: int, chosen: list[int]) -> BoolArray:
    """These frames along an axis of a (K, J, I) array: (n, rows, columns), C order."""
    isWhole = len(chosen) == voxels.shape[2 - axis]
    if axis:
        frames = np.moveaxis(voxels, 2 - axis, 0)
        return np.ascontiguousarray(frames if isWhole else frames[chosen])
    # Plane by plane, each within the processor's cache: in one go it takes four times as long.
    frames = np.empty((len(chosen), *voxels.shape[:2]), dtype=bool)
    for k, plane in enumerate(voxels):
        frames[:, k] = plane.T if isWhole else plane[:, chosen].T
    return frames


def _hashed(masks: BoolArray, row: int, column: int) -> list[str]:
    """Of each of (n, rows, columns) masks whose first pixels are at this row and column of their frames: a
    hash in which empty margins do not count, "" for an empty mask.
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


def _numbered(hashes: Mapping[str, str]) -> Hashes:
    return {int(frame): text for frame, text in hashes.items()}


def _joined(base: Hashes, state: Hashes, settled: set[int]) -> Hashes:
    """What is known where these frames are as in `state` and all others as they were known before."""
    return {
        **{frame: text for frame, text in base.items() if frame not in settled},
        **{frame: text for frame, text in state.items() if frame in settled},
    }


def _settled(
    snapshots: list[AllHashes], old: AllHashes, now: AllHashes, axis: int, run: set[int]
) -> tuple[set[int], set[int], set[int]]:
    """The frames along each axis on which nothing is the user's edit any more after a run.

    Args:
        old, now: what the segment held before and after. axis, run: the run's axis, and its frames.
    """
    edited = [set(_different(_nearest([one[n] for one in snapshots], old[n]), old[n])) for n in _AXES]
    # Other segments change too where the run was allowed to overwrite them.
    along = set(_different(old[axis], now[axis])) | run
    everything = [old[n].keys() | now[n].keys() | edited[n] for n in _AXES]
    # Frames across the run's are settled once no edit is left that they may cross.
    isLeft = bool(edited[axis] - along)
    i, j, k = (along if n == axis else everything[n] - edited[n] if isLeft else everything[n] for n in _AXES)
    return i, j, k


def _different(known: Hashes, now: Hashes) -> list[int]:
    return sorted(frame for frame in known.keys() | now.keys() if not _same(known.get(frame), now.get(frame)))


def _same(one: str | None, other: str | None) -> bool:
    """Whether two hashes tell of no difference; None: of an empty frame."""
    if one == other or one is None or other is None:
        return one == other
    (pixels, _, own), (otherPixels, _, otherOwn) = one.partition("."), other.partition(".")
    return pixels == otherPixels and not (own and otherOwn)


def _ofPixels(hashes: AllHashes) -> AllHashes:
    """The hashes without those of the segment's own voxels."""
    i, j, k = (
        {frame: pixels for frame, text in one.items() if (pixels := text.partition(".")[0])} for one in hashes
    )
    return i, j, k


def _nearest(snapshots: list[Hashes], now: Hashes) -> Hashes:
    """The state from which the user started editing: the last one, unless runs were undone since."""
    if not snapshots:
        return {}
    undone = next((one for one in reversed(snapshots) if not _different(one, now)), None)
    if undone is not None:
        return undone
    last = snapshots[-1]
    most = len(_different(last, now))
    nearest = min(reversed(snapshots), key=lambda one: len(_different(one, now)))
    # A run undone differs from the last state on most of its frames, an edit on a few.
    return nearest if most > 1 and len(_different(nearest, now)) * 2 < most else last
