"""Finds the slices that the user edited since the last run.

Every commit stores a hash of each frame of a segment in the scene, along all three axes. A frame whose hash
differs later was edited by the user, and its mask becomes a keyframe of the next run, whatever the axis. The
scene holds no copy of a mask. Main memory holds one of each segment that was compared, so that the next
comparison hashes only what has changed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frames.geometry import FloatArray, VolumeGeometry
from SAM2PropagateLib.scene.own_grid import (
    isNear,
)
from SAM2PropagateLib.scene.seen_segment import AllHashes, EditedFrame, Hashes, SeenSegment, Snapshot
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateLib.scene.segments import segmentIDs as _segmentIDs
from SAM2PropagateLib.scene.slabs import finished
from SAM2PropagateLib.scene.state import SceneState
from SAM2PropagateLib.scene.transforms import between
from SAM2PropagateLib.scene.volume import ownGeometry
from SAM2PropagateLib.texts import tr as _

_STATE_NAME = "edits"
_VERSION = 2
_AXES = (0, 1, 2)
# Enough to recognize that a few runs were undone.
_MOST_SNAPSHOTS = 6
# For former contents of segments, which Undo and Redo may bring back.
_MOST_FILED_BYTES = 1 << 28


@dataclass(frozen=True)
class SegmentHashes:
    """The contents of segments before a run along `axis`: hashes per segment ID, axis and frame, and per
    segment ID its own grid as in `_SegmentRecord`.
    """

    axis: int
    hashes: Mapping[str, AllHashes]
    grids: Mapping[str, FloatArray | None]


@dataclass(frozen=True, eq=False)
class _SegmentRecord:
    """The record of a segment.

    Attributes:
        snapshots: its hashes after the last commits. grid: (4, 4) from the indices of its own grid to the
            volume's; None: it was the volume's.
    """

    snapshots: list[AllHashes]
    grid: FloatArray | None

    def on(self, grid: FloatArray | None) -> list[AllHashes]:
        """Returns the hashes, without those that cannot be compared because the segment's grid was
        another."""
        if grid is not None and self.grid is not None and isNear(grid, self.grid):
            return self.snapshots
        return [_ofPixels(one) for one in self.snapshots]


_UNKNOWN = _SegmentRecord([], None)


@dataclass(frozen=True, eq=False)
class Foreseen:
    """The contents that a segment will have."""

    segmentID: str
    seen: SeenSegment


class EditTracker:
    """Tells the user's edits of a segmentation from what runs wrote.

    Its record is saved with the scene.

    Args:
        segmentationNode: the user's vtkMRMLSegmentationNode.
        volumeNode: the volume that the runs are on.
    """

    def __init__(self, segmentationNode: Any, volumeNode: Any) -> None:
        self._segmentationNode = segmentationNode
        self._volumeNode = volumeNode
        self._state = SceneState(segmentationNode)
        self._seen: dict[str, SeenSegment] = {}
        # Former contents of segments, by ID and hash, the latest last.
        self._filed: dict[tuple[str, bytes, bytes], SeenSegment] = {}
        self._parsed: tuple[str, VolumeGeometry, dict[str, _SegmentRecord]] | None = None

    def look(self, segmentIDs: Iterable[str], axis: int) -> SegmentHashes:
        """Returns the contents before a commit: of the run's segments, and of all that are recorded.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        return finished(self.looking(segmentIDs, axis))

    def looking(self, segmentIDs: Iterable[str], axis: int) -> Generator[None, None, SegmentHashes]:
        """Does what `look` does, slab by slab; the result is only valid if no segment has changed
        meanwhile."""
        geometry = ownGeometry(self._volumeNode)
        record = self._load(geometry) or {}
        present = set(_segmentIDs(self._segmentationNode))
        self._seen = {name: one for name, one in self._seen.items() if name in present}
        names = list(dict.fromkeys([*segmentIDs, *(name for name in record if name in present)]))
        seen = {}
        for name in names:
            seen[name] = yield from self._looking(name, geometry)
        hashes = {name: one.allHashes for name, one in seen.items()}
        return SegmentHashes(axis, hashes, {name: one.grid for name, one in seen.items()})

    def comparing(self, segmentID: str) -> Generator[None, None, None]:
        """Compares a segment slab by slab. `edited` may then trust its stamp.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        yield from self._looking(segmentID, ownGeometry(self._volumeNode))

    def foresee(self, segmentID: str, image: Any, label: int) -> Generator[None, None, Foreseen]:
        """Hashes the contents that a segment will have, slab by slab.

        Args:
            image: its future labelmap, a vtkOrientedImageData. label: the segment's label in it.
        """
        geometry = ownGeometry(self._volumeNode)
        seen = self._seen.get(segmentID)
        seen = seen.copy() if seen is not None and seen.isOn(geometry) else SeenSegment(segmentID, geometry)
        space = between(self._segmentationNode, self._volumeNode)
        yield from seen.updating(SegmentReader.ofLabelmap(image, label, space, geometry))
        for axis in _AXES:
            yield from seen.hashing(axis)
        return Foreseen(segmentID, seen)

    @property
    def current(self) -> frozenset[str]:
        """The segments that were not marked as modified since they were compared."""
        geometry, present = ownGeometry(self._volumeNode), set(_segmentIDs(self._segmentationNode))
        return frozenset(
            name
            for name, seen in self._seen.items()
            if name in present and seen.isOn(geometry) and seen.stamp == self._reader(name, geometry).stamp
        )

    def expect(self, foreseen: Iterable[Foreseen], others: Collection[str]) -> None:
        """Takes foreseen contents as those that the segments have now; nobody has touched them since.

        Args:
            others: segments that have not changed since they were compared, even if they were marked as
                modified together with these.
        """
        geometry = ownGeometry(self._volumeNode)
        seen = {one.segmentID: one.seen for one in foreseen}
        for name, one in {**{name: self._seen[name] for name in others}, **seen}.items():
            one.stamp = self._reader(name, geometry).stamp
            self._seen[name] = one

    def file(self, segmentID: str, voxels: bytes) -> None:
        """Files the present contents of a segment, which was compared, for `recall`.

        Args:
            voxels: a hash of its voxels.
        """
        seen, geometry = self._seen.get(segmentID), ownGeometry(self._volumeNode)
        reader = self._reader(segmentID, geometry)
        if seen is None or not seen.isOn(geometry) or seen.stamp != reader.stamp:
            return
        key = (segmentID, voxels, reader.lattice.ijkToWorld.tobytes())
        self._filed.pop(key, None)
        self._filed[key] = seen.copy()
        while sum(one.size for one in self._filed.values()) > _MOST_FILED_BYTES:
            del self._filed[next(iter(self._filed))]

    def recall(self, segmentID: str, voxels: bytes) -> bool:
        """Takes filed contents as those that a segment has now, instead of comparing; False if none were
        filed under this hash.
        """
        geometry = ownGeometry(self._volumeNode)
        reader = self._reader(segmentID, geometry)
        known = self._filed.get((segmentID, voxels, reader.lattice.ijkToWorld.tobytes()))
        if known is None or not known.isOn(geometry):
            return False
        seen = self._seen[segmentID] = known.copy()
        seen.stamp = reader.stamp
        return True

    def remember(
        self, before: SegmentHashes, frames: Mapping[str, Iterable[int]], trustsStamps: bool = False
    ) -> None:
        """Records what a commit wrote; an edit that it did not touch stays an edit.

        Args:
            before: what `look` returned before the commit.
            frames: per segment of the run its frames; the user's edits on them are part of the run.
            trustsStamps: take segments that were not marked as modified as unchanged.
        """
        geometry = ownGeometry(self._volumeNode)
        record = self._load(geometry) or {}
        for name, old in before.hashes.items():
            seen = self._look(name, geometry, trustsStamps)
            now, grid = seen.allHashes, seen.grid
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

    def edited(self, segmentID: str, axis: int, trustsStamp: bool = False) -> tuple[EditedFrame, ...]:
        """Returns the frames that the user edited since the last run, in order.

        Before the first run these are all frames with voxels of the segment. Undoing a run is not an edit. An
        edit is found along every axis, on each frame that it crosses. After a run on a volume with another
        grid, edits are unknown and none is reported.

        Args:
            trustsStamp: take a segment that was not marked as modified as unchanged.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        geometry = ownGeometry(self._volumeNode)
        record = self._load(geometry)
        if record is None:
            return ()
        seen = self._look(segmentID, geometry, trustsStamp)
        snapshots = record.get(segmentID, _UNKNOWN).on(seen.grid)
        known = _nearest([one[axis] for one in snapshots], seen.hashes(axis))
        return tuple(seen.edited(frame, axis) for frame in _different(known, seen.hashes(axis)))

    def forget(self, segmentID: str) -> None:
        """Forgets a segment's record: all its frames then count as edited by the user."""
        record = self._read()
        if segmentID in record.get("segments", {}):
            del record["segments"][segmentID]
            self._state.set(_STATE_NAME, json.dumps(record, separators=(",", ":")))

    @property
    def record(self) -> str:
        """The whole record, for `restore`."""
        return self._state.get(_STATE_NAME) or ""

    def restore(self, record: str) -> None:
        """Brings back a record, with the segments that it is of."""
        if record != self.record:
            self._state.set(_STATE_NAME, record)

    def hasSeenVoxels(self, segmentID: str) -> bool:
        """Tells whether a segment, which may have been removed, had voxels when it was last compared."""
        seen = self._seen.get(segmentID)
        return seen is not None and any(seen.hashes(0))

    def snapshot(self, segmentID: str) -> Snapshot:
        """Returns the present contents of a segment; they share main memory with those kept here.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        return self._look(segmentID, ownGeometry(self._volumeNode), trustsStamp=True).snapshot

    def hashes(self, segmentID: str, axis: int) -> Hashes:
        """Returns a hash of every frame on which the segment has voxels now.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        # This is called right after a comparison, so there is hardly anything to hash.
        seen = self._look(segmentID, ownGeometry(self._volumeNode), trustsStamp=True)
        return dict(seen.hashes(axis))

    def _reader(self, segmentID: str, geometry: VolumeGeometry) -> SegmentReader:
        return SegmentReader(self._segmentationNode, segmentID, geometry, self._volumeNode)

    def _looking(self, segmentID: str, geometry: VolumeGeometry) -> Generator[None, None, SeenSegment]:
        """Compares a segment slab by slab, with all its hashes; returns its present contents."""
        known, reader = self._seen.get(segmentID), self._reader(segmentID, geometry)
        number = None if known is None else known.number
        # A copy, as other code may compare the segment between two slabs.
        seen = (
            known.copy() if known is not None and known.isOn(geometry) else SeenSegment(segmentID, geometry)
        )
        yield from seen.updating(reader)
        for axis in _AXES:
            yield from seen.hashing(axis)
        if self._seen.get(segmentID) is known and (known is None or known.number == number):
            self._seen[segmentID] = seen
        return seen

    def _look(self, segmentID: str, geometry: VolumeGeometry, trustsStamp: bool = False) -> SeenSegment:
        """Returns the segment's present contents; a trusted stamp saves the comparison."""
        reader = self._reader(segmentID, geometry)
        seen = self._seen.get(segmentID)
        if seen is None or not seen.isOn(geometry):
            self._seen = {name: one for name, one in self._seen.items() if one.isOn(geometry)}
            seen = self._seen[segmentID] = SeenSegment(segmentID, geometry)
        if not (trustsStamp and seen.stamp == reader.stamp):
            seen.update(reader)
        return seen

    def _load(self, geometry: VolumeGeometry) -> dict[str, _SegmentRecord] | None:
        """Returns the record per segment; None if it is of another grid."""
        text = self._state.get(_STATE_NAME) or ""
        if self._parsed is not None and self._parsed[:2] == (text, geometry):
            return dict(self._parsed[2])
        record = self._read()
        if not record:
            return {}
        # The first version had frames along one axis only, which is not enough.
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
        # Parsing takes longer than comparing a segment that has hardly changed.
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


def _numbered(hashes: Mapping[str, str]) -> Hashes:
    return {int(frame): text for frame, text in hashes.items()}


def _joined(base: Hashes, state: Hashes, settled: set[int]) -> Hashes:
    """Returns hashes with the settled frames from `state` and all others from `base`."""
    return {
        **{frame: text for frame, text in base.items() if frame not in settled},
        **{frame: text for frame, text in state.items() if frame in settled},
    }


def _settled(
    snapshots: list[AllHashes], old: AllHashes, now: AllHashes, axis: int, run: set[int]
) -> tuple[set[int], set[int], set[int]]:
    """Returns the frames along each axis that have no edit of the user any more after a run.

    Args:
        old, now: the segment's hashes before and after. axis, run: the run's axis, and its frames.
    """
    edited = [set(_different(_nearest([one[n] for one in snapshots], old[n]), old[n])) for n in _AXES]
    # Other segments change, too, if the run may overwrite them.
    along = set(_different(old[axis], now[axis])) | run
    everything = [old[n].keys() | now[n].keys() | edited[n] for n in _AXES]
    # Frames along another axis are settled once no edit is left that they may cross.
    isLeft = bool(edited[axis] - along)
    i, j, k = (along if n == axis else everything[n] - edited[n] if isLeft else everything[n] for n in _AXES)
    return i, j, k


def _different(known: Hashes, now: Hashes) -> list[int]:
    # Most frames are equal, and are left out at once.
    frames = {frame for frame, _text in known.items() ^ now.items()}
    return sorted(frame for frame in frames if not _same(known.get(frame), now.get(frame)))


def _same(one: str | None, other: str | None) -> bool:
    """Tells whether two hashes show no difference; None: of an empty frame."""
    if one == other or one is None or other is None:
        return one == other
    (pixels, _, own), (otherPixels, _, otherOwn) = one.partition("."), other.partition(".")
    return pixels == otherPixels and not (own and otherOwn)


def _ofPixels(hashes: AllHashes) -> AllHashes:
    """Returns the hashes without those of the segment's own voxels."""
    i, j, k = (
        {frame: pixels for frame, text in one.items() if (pixels := text.partition(".")[0])} for one in hashes
    )
    return i, j, k


def _nearest(snapshots: list[Hashes], now: Hashes) -> Hashes:
    """Returns the state that the user's edits started from: the last one, unless runs were undone since."""
    if not snapshots:
        return {}
    undone = next((one for one in reversed(snapshots) if not _different(one, now)), None)
    if undone is not None:
        return undone
    last = snapshots[-1]
    most = len(_different(last, now))
    nearest = min(reversed(snapshots), key=lambda one: len(_different(one, now)))
    # An undone run differs from the last state on most of its frames, an edit on a few.
    return nearest if most > 1 and len(_different(nearest, now)) * 2 < most else last
