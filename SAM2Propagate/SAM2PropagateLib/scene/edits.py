"""Which slices the user edited since the last run.

After every commit a hash of each frame of a segment is remembered in the scene; a frame whose hash differs
later was painted or erased by the user, and its mask becomes a keyframe of the next run. No copy of a mask is
kept.
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
from SAM2PropagateLib.scene.segments import BoolArray, SegmentReader
from SAM2PropagateLib.scene.segments import segmentIDs as _segmentIDs
from SAM2PropagateLib.scene.state import SceneState
from SAM2PropagateLib.scene.volume import volumeGeometry

_STATE_NAME = "edits"
_VERSION = 1
# Enough to recognize that a few runs were undone.
_MOST_SNAPSHOTS = 6

Hashes = dict[int, str]


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
    """What segments held at one moment: a hash per segment ID and frame."""

    axis: int
    hashes: Mapping[str, Hashes]


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
        record = self._load(geometry, axis) or {}
        present = set(_segmentIDs(self._segmentationNode))
        names = list(dict.fromkeys([*segmentIDs, *(name for name in record if name in present)]))
        return Look(axis, {name: self._hashes(name, geometry, axis) for name in names})

    def remember(self, before: Look, frames: Mapping[str, Iterable[int]]) -> None:
        """Takes what a commit did for known; an edit that it did not touch stays an edit.

        Args:
            before: what `look` gave before the commit.
            frames: per segment of the run its frames; the user's edits on them went into the run.
        """
        geometry, axis = volumeGeometry(self._volumeNode), before.axis
        record = self._load(geometry, axis) or {}
        for name, old in before.hashes.items():
            now = self._hashes(name, geometry, axis)
            # Other segments change too where the run was allowed to overwrite them.
            settled = set(_different(old, now)) | set(frames.get(name, ()))
            snapshots = record.get(name, [])
            base = _nearest(snapshots, old)
            for state in (old, now):
                known = {
                    **{f: h for f, h in base.items() if f not in settled},
                    **{f: h for f, h in state.items() if f in settled},
                }
                snapshots = [*(one for one in snapshots if one != known), known]
            record[name] = snapshots[-_MOST_SNAPSHOTS:]
        self._save(record, geometry, axis)

    def edited(self, segmentID: str, axis: int) -> tuple[EditedFrame, ...]:
        """The frames that the user edited since the last run, in order.

        Before the first run that is every frame on which the segment has voxels. Undoing a run is not an
        edit. After a run along another axis or on a volume of another grid nothing can be told, and nothing
        is reported.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        geometry = volumeGeometry(self._volumeNode)
        record = self._load(geometry, axis)
        if record is None:
            return ()
        now = self._hashes(segmentID, geometry, axis)
        known = _nearest(record.get(segmentID, []), now)
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

    def _hashes(self, segmentID: str, geometry: VolumeGeometry, axis: int) -> Hashes:
        reader = SegmentReader(self._segmentationNode, segmentID, geometry)
        hashes = {}
        for frame in reader.frames(axis):
            mask = reader.frame(frame, axis)
            if mask.any():
                hashes[frame] = _hash(mask)
        return hashes

    def _load(self, geometry: VolumeGeometry, axis: int) -> dict[str, list[Hashes]] | None:
        """The snapshots per segment; None when they are of other frames than these."""
        record = self._read()
        if not record:
            return {}
        if record["axis"] != axis or record["shape"] != list(geometry.shape_ijk):
            return None
        return {
            segmentID: [{int(frame): text for frame, text in one.items()} for one in snapshots]
            for segmentID, snapshots in record["segments"].items()
        }

    def _read(self) -> dict[str, Any]:
        text = self._state.get(_STATE_NAME)
        if not text:
            return {}
        try:
            record = json.loads(text)
            known = record["version"] == _VERSION and {"axis", "shape", "segments"} <= set(record)
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise SAM2PropagateError(
                "bad_edit_record",
                f"What is known of edited slices of “{self._segmentationNode.GetName()}” is not readable.",
                "Update SAM2Propagate if the scene was saved by a newer version.",
            )
        return dict(record)

    def _save(self, record: dict[str, list[Hashes]], geometry: VolumeGeometry, axis: int) -> None:
        document = {"version": _VERSION, "axis": axis, "shape": list(geometry.shape_ijk), "segments": record}
        self._state.set(_STATE_NAME, json.dumps(document, separators=(",", ":")))


def _hash(mask: BoolArray) -> str:
    return hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=8).hexdigest()


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
