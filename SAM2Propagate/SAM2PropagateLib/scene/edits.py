"""Which slices the user edited since the last run.

After every commit a hash of each frame of a segment, along all three axes, is remembered in the scene; a
frame whose hash differs later was painted or erased by the user, and its mask becomes a keyframe of the next
run, whatever its axis. No copy of a mask is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.prompts.place import mask_at
from SAM2PropagateLib.prompts.values import MaskPrompt
from SAM2PropagateLib.scene.lattice import EMPTY
from SAM2PropagateLib.scene.segments import BoolArray, SegmentReader, volumeLattice
from SAM2PropagateLib.scene.segments import segmentIDs as _segmentIDs
from SAM2PropagateLib.scene.state import SceneState
from SAM2PropagateLib.scene.volume import volumeGeometry
from SAM2PropagateLib.worker.masks import pack

_STATE_NAME = "edits"
_VERSION = 2
_AXES = (0, 1, 2)
# Enough to recognize that a few runs were undone.
_MOST_SNAPSHOTS = 6

Hashes = dict[int, str]
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
class Look:
    """What segments held at one moment before a run along `axis`: hashes per segment ID, axis and frame."""

    axis: int
    hashes: Mapping[str, AllHashes]


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

    def look(self, segmentIDs: Iterable[str], axis: int) -> Look:
        """The segments as they are before a commit: those of the run, and all that were remembered before.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        geometry = volumeGeometry(self._volumeNode)
        record = self._load(geometry) or {}
        present = set(_segmentIDs(self._segmentationNode))
        names = list(dict.fromkeys([*segmentIDs, *(name for name in record if name in present)]))
        return Look(axis, {name: self._allHashes(name, geometry) for name in names})

    def remember(self, before: Look, frames: Mapping[str, Iterable[int]]) -> None:
        """Takes what a commit did for known; an edit that it did not touch stays an edit.

        Args:
            before: what `look` gave before the commit.
            frames: per segment of the run its frames; the user's edits on them went into the run.
        """
        geometry = volumeGeometry(self._volumeNode)
        record = self._load(geometry) or {}
        for name, old in before.hashes.items():
            now = self._allHashes(name, geometry)
            snapshots = record.get(name, [])
            settled = _settled(snapshots, old, now, before.axis, set(frames.get(name, ())))
            bases = [_nearest([one[axis] for one in snapshots], old[axis]) for axis in _AXES]
            for state in (old, now):
                i, j, k = (_joined(bases[axis], state[axis], settled[axis]) for axis in _AXES)
                known = (i, j, k)
                snapshots = [*(one for one in snapshots if one != known), known]
            record[name] = snapshots[-_MOST_SNAPSHOTS:]
        self._save(record, geometry)

    def edited(self, segmentID: str, axis: int) -> tuple[EditedFrame, ...]:
        """The frames that the user edited since the last run, in order.

        Before the first run that is every frame on which the segment has voxels. Undoing a run is not an
        edit. An edit is found along every axis, on each frame that it crosses. After a run on a volume of
        another grid nothing can be told, and nothing is reported.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        geometry = volumeGeometry(self._volumeNode)
        record = self._load(geometry)
        if record is None:
            return ()
        now = self.hashes(segmentID, axis)
        known = _nearest([one[axis] for one in record.get(segmentID, [])], now)
        reader = SegmentReader(self._segmentationNode, segmentID, geometry)
        return tuple(
            EditedFrame(
                segmentID,
                frame,
                mask_at(reader.frame(frame, axis), frame, geometry, axis, f"edit-{'ijk'[axis]}{frame}"),
            )
            for frame in _different(known, now)
        )

    def forget(self, segmentID: str) -> None:
        """Forgets a segment: all its frames count as edited by the user."""
        record = self._read()
        if segmentID in record.get("segments", {}):
            del record["segments"][segmentID]
            self._state.set(_STATE_NAME, json.dumps(record, separators=(",", ":")))

    def hashes(self, segmentID: str, axis: int) -> Hashes:
        """A hash of every frame on which the segment has voxels now.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        return _Frames(self._segmentationNode, segmentID, volumeGeometry(self._volumeNode)).hashes(axis)

    def _allHashes(self, segmentID: str, geometry: VolumeGeometry) -> AllHashes:
        frames = _Frames(self._segmentationNode, segmentID, geometry)
        return frames.hashes(0), frames.hashes(1), frames.hashes(2)

    def _load(self, geometry: VolumeGeometry) -> dict[str, list[AllHashes]] | None:
        """The snapshots per segment; None when they are of another grid than this."""
        record = self._read()
        if not record:
            return {}
        # The first version knew frames along one axis only: from it nothing can be told.
        if record["version"] != _VERSION or record["shape"] != list(geometry.shape_ijk):
            return None
        return {
            segmentID: [(_numbered(i), _numbered(j), _numbered(k)) for i, j, k in snapshots]
            for segmentID, snapshots in record["segments"].items()
        }

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
                f"What is known of edited slices of “{self._segmentationNode.GetName()}” is not readable.",
                "Update SAM2Propagate if the scene was saved by a newer version.",
            )
        return dict(record)

    def _save(self, record: dict[str, list[AllHashes]], geometry: VolumeGeometry) -> None:
        document = {"version": _VERSION, "shape": list(geometry.shape_ijk), "segments": record}
        self._state.set(_STATE_NAME, json.dumps(document, separators=(",", ":")))


class _Frames:
    """A segment's voxels, read once for frames along all axes."""

    def __init__(self, segmentationNode: Any, segmentID: str, geometry: VolumeGeometry) -> None:
        reader = SegmentReader(segmentationNode, segmentID, geometry)
        self._first = reader.box[::2]
        isEmpty = reader.box == EMPTY
        shape = (0, 0, 0)
        self._voxels = (
            np.zeros(shape, bool) if isEmpty else reader.onLattice(volumeLattice(geometry).within(reader.box))
        )

    def hashes(self, axis: int) -> Hashes:
        """A hash of every frame along an axis that has voxels."""
        frames = np.moveaxis(self._voxels, 2 - axis, 0)
        rowAxis, columnAxis = (other for other in (2, 1, 0) if other != axis)
        row, column = self._first[rowAxis], self._first[columnAxis]
        filled = np.flatnonzero(frames.any(axis=(1, 2)))
        return {self._first[axis] + int(one): _hash(frames[one], row, column) for one in filled}


def _hash(mask: BoolArray, row: int, column: int) -> str:
    """Of a mask whose first pixel is at this row and column of its frame; empty margins do not count."""
    packed = pack(np.ascontiguousarray(mask))
    row, column, rows, columns = row + packed.box[0], column + packed.box[1], *packed.box[2:]
    place = np.array([row, column, rows, columns], dtype="<i8").tobytes()
    return hashlib.blake2b(place + bytes(packed.bits), digest_size=8).hexdigest()


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
    return sorted(frame for frame in known.keys() | now.keys() if known.get(frame) != now.get(frame))


def _nearest(snapshots: list[Hashes], now: Hashes) -> Hashes:
    """The state from which the user started editing: the last one, unless runs were undone since."""
    if not snapshots:
        return {}
    last = snapshots[-1]
    most = len(_different(last, now))
    nearest = min(reversed(snapshots), key=lambda one: len(_different(one, now)))
    # A run undone differs from the last state on most of its frames, an edit on a few.
    return nearest if most > 1 and len(_different(nearest, now)) * 2 < most else last
