"""Keeps the record of each finished volume in a file, so that a run can be continued."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from SAM2PropagateLib.files.atomic import atomic_output
from SAM2PropagateLib.files.segmentation import SUFFIX

STATE_FOLDER = ".cohort"
_FORMAT, _VERSION = "sam2propagate-cohort-record", 1


@dataclass(frozen=True)
class SegmentRow:
    """One segment of a volume, for the table.

    Attributes:
        segment: its name.
        ml, voxels, slices: its size. first_slice, last_slice: indices from 0; None: it is empty.
        doubt: mean doubt of the worst tenth of its slices, from 0 to 1; None if there are no doubts.
        doubtful: number of slices with a doubt of at least `frame_kinds.DOUBTFUL`.
        shown: the slices in its picture. picture: a JPEG; see `thumbnails.strip`.
    """

    segment: str
    ml: float
    voxels: int
    slices: int
    first_slice: int | None
    last_slice: int | None
    doubt: float | None
    doubtful: int
    shown: tuple[int, ...] = ()
    picture: bytes = b""


@dataclass(frozen=True)
class VolumeRecord:
    """A finished volume.

    Attributes:
        key: of the volume, `Entry.key`. name: of its outputs. fingerprint: of everything it was made from.
        volume: the file or folder. seconds: duration. slices: number of computed slices.
        window: the model's, in words. notes: for the user.
        rows: of its segments.
        replaces: the `file_identity` of the segmentation that was there before; it is not this record's.
    """

    key: str
    name: str
    fingerprint: str
    volume: str
    seconds: float
    slices: int
    window: str
    model: str
    notes: tuple[str, ...]
    rows: tuple[SegmentRow, ...]
    replaces: str = ""


@dataclass(frozen=True)
class OutputFiles:
    """The paths of a volume's files in the folder of a cohort."""

    folder: Path
    name: str

    @property
    def segmentation(self) -> Path:
        """The segmentation."""
        return self.folder / (self.name + SUFFIX)

    @property
    def report(self) -> Path:
        """The report."""
        return self.folder / (self.name + ".json")

    @property
    def record(self) -> Path:
        """The volume's `VolumeRecord`."""
        return self.folder / STATE_FOLDER / (self.name + ".json")


def file_identity(path: Path) -> str:
    """Return what tells a file from every other one that may lie in its place; "" where there is none."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_ino} {status.st_mtime_ns} {status.st_size}"


def write_record(path: Path, record: VolumeRecord) -> None:
    """Write a record whole or not at all. Raises as `atomic_output`."""
    values = asdict(record)
    for row in values["rows"]:
        row["picture"] = base64.b64encode(row["picture"]).decode("ascii")
    text = json.dumps({"format": _FORMAT, "version": _VERSION, **values}, ensure_ascii=False)
    with atomic_output(path, True) as file:
        # A path may hold what UTF-8 cannot; the replacements are JSON's own.
        file.write(text.encode("utf-8", "backslashreplace"))


def read_record(path: Path) -> VolumeRecord | None:
    """Return the record in a file; None if there is none, or one that this version cannot read."""
    try:
        values = json.loads(path.read_bytes())
        if values.pop("format") != _FORMAT or values.pop("version") != _VERSION:
            return None
        rows = tuple(_row(row) for row in values.pop("rows"))
        return VolumeRecord(**{**values, "notes": tuple(values["notes"])}, rows=rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_records(folder: Path) -> dict[str, VolumeRecord]:
    """Return the records in the folder of a cohort, by the name of the outputs."""
    found = (read_record(path) for path in sorted((folder / STATE_FOLDER).glob("*.json")))
    return {record.name: record for record in found if record is not None}


def _row(values: Mapping[str, Any]) -> SegmentRow:
    picture = base64.b64decode(values["picture"])
    return SegmentRow(**{**values, "shown": tuple(values["shown"]), "picture": picture})
