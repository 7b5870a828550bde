"""Writes the table of a cohort: a line for each segment of each volume, the most doubtful first."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from SAM2PropagateLib.cohort.record import OutputFiles, SegmentRow, VolumeRecord
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.files.atomic import atomic_output

DONE, FAILED, WAITING = "done", "failed", "not done yet"

_COLUMNS = (
    "volume",
    "name",
    "segment",
    "state",
    "ml",
    "voxels",
    "slices",
    "first_slice",
    "last_slice",
    "doubt",
    "doubtful_slices",
    "seconds",
    "window",
    "model",
    "segmentation",
    "report",
    "message",
)


TABLE_START = "\ufeff" + ",".join(_COLUMNS[:4])


@dataclass(frozen=True)
class Line:
    """A line of the table: a segment of a finished volume, or a volume that is not finished.

    Attributes:
        volume: its file or folder. name: of its outputs; "" if it has none.
        state: `DONE`, `FAILED` or `WAITING`.
        record, row: of a finished volume. number: of the row in the record.
        message: why it failed; notes of a finished volume.
    """

    volume: str
    name: str
    state: str
    record: VolumeRecord | None = None
    row: SegmentRow | None = None
    number: int = 0
    message: str = ""


def lines_of(
    volumes: Iterable[tuple[str, str, VolumeRecord | None, SAM2PropagateError | None]],
) -> list[Line]:
    """Return the lines of volumes: failures first, then empty segments, then by doubt.

    Args:
        volumes: for each its path, the name of its outputs, and its record, its error or neither.
    """
    lines: list[Line] = []
    for volume, name, record, error in volumes:
        if record is not None:
            notes = " ".join(record.notes)
            lines += [
                # Without the pictures, which would take much main memory.
                Line(volume, name, DONE, replace(record, rows=()), replace(row, picture=b""), number, notes)
                for number, row in enumerate(record.rows)
            ]
        elif error is not None:
            lines.append(Line(volume, name, FAILED, message=str(error)))
        else:
            lines.append(Line(volume, name, WAITING))
    return sorted(lines, key=_place)


def write_table(path: Path, folder: Path, lines: Sequence[Line]) -> None:
    """Write the table as CSV, whole or not at all, in UTF-8 with the mark that Excel needs.

    Args:
        folder: of the outputs.

    Raises:
        InputError, SAM2PropagateError: as `atomic_output`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for line in lines:
        writer.writerow(_cells(line, OutputFiles(folder, line.name)))
    with atomic_output(path, True) as file:
        file.write(text.getvalue().encode("utf-8-sig", "surrogateescape"))


def _place(line: Line) -> tuple[int, float, str, int]:
    if line.row is None:
        return (0 if line.state == FAILED else 3), 0.0, line.volume, 0
    if line.row.voxels == 0:
        return 1, 0.0, line.volume, line.number
    return 2, -(line.row.doubt or 0.0), line.volume, line.number


def _cells(line: Line, files: OutputFiles) -> list[object]:
    row, record = line.row, line.record
    if row is None or record is None:
        return [line.volume, line.name, "", line.state, *[""] * (len(_COLUMNS) - 5), line.message]
    return [
        line.volume,
        line.name,
        row.segment,
        line.state,
        row.ml,
        row.voxels,
        row.slices,
        "" if row.first_slice is None else row.first_slice,
        "" if row.last_slice is None else row.last_slice,
        "" if row.doubt is None else row.doubt,
        row.doubtful,
        record.seconds,
        record.window,
        record.model,
        files.segmentation,
        files.report,
        line.message,
    ]
