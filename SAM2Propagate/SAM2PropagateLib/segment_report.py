"""The report of a segmentation as JSON (`docs/cli.md`), and its one line for the user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SAM2PropagateLib import __version__
from SAM2PropagateLib.files.atomic import atomic_output
from SAM2PropagateLib.frame_kinds import ABSENT, DOUBTFUL, KEYFRAME
from SAM2PropagateLib.frames.geometry import AXIS_NAMES, VolumeGeometry
from SAM2PropagateLib.frames.window import FittedWindow
from SAM2PropagateLib.prompts.document import to_document
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.segment_job import FrameScore, JobResult, SegmentResult

if TYPE_CHECKING:
    from SAM2PropagateLib.files.volume import Volume

FORMAT = "sam2propagate-report"
VERSION = 1


def report(
    volume: Volume,
    prompts: PromptSet,
    result: JobResult,
    *,
    window: FittedWindow,
    output: Path,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Return the report of a segmentation as JSON-able values.

    Args:
        volume: the segmented volume.
        prompts: the prompts that were used.
        result: of the job.
        window: the model's window, and the reason for it.
        output: the segmentation's file.
        seconds: times measured outside the job, such as `read` and `write`.
    """
    run = _run(result)
    return {
        "format": FORMAT,
        "version": VERSION,
        "program": {"name": "SAM2Propagate", "version": __version__},
        "complete": result.is_complete,
        "cancelled": result.cancelled,
        "error": None if result.error is None else result.error.to_dict(),
        "output": str(output),
        "volume": {
            "source": str(volume.source),
            "name": volume.name,
            "modality": volume.modality,
            "shape_ijk": list(volume.geometry.shape_ijk),
            "spacing_mm": [round(edge, 6) for edge in volume.geometry.spacing],
            "notes": list(volume.notes),
        },
        "axis": AXIS_NAMES[result.axis],
        "window": {
            "width": window.window.width,
            "level": window.window.level,
            "source": window.source,
            "reason": str(window.reason),
        },
        "model": {key: result.model.get(key) for key in ("model", "device", "dtype", "input_size")},
        "run": run,
        "seconds": {key: round(value, 3) for key, value in {**seconds, **result.seconds}.items()},
        "segments": [segment_values(segment, volume.geometry, result.axis) for segment in result.segments],
        "prompts": to_document(prompts.with_axis(result.axis)),
    }


def write_report(path: Path, values: Mapping[str, Any], overwrite: bool) -> None:
    """Write the report whole or not at all. Raises as `atomic_output`."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_output(path, overwrite) as file:
        # A path may hold what UTF-8 cannot; the replacements are JSON's own.
        file.write(text.encode("utf-8", "backslashreplace"))


def is_report(path: Path) -> bool:
    """Tell whether a file is a report that `write_report` wrote."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("format") == FORMAT


def summary_line(result: JobResult, geometry: VolumeGeometry, output: Path, window: FittedWindow) -> str:
    """Return one line: what was written, per segment its volume, slices and doubtful slices, and the
    window."""
    parts = []
    for segment in result.segments:
        values = segment_values(segment, geometry, result.axis)
        slices = "slice" if values["slices"] == 1 else "slices"
        text = f"{segment.name}: {values['ml']:.1f} ml on {values['slices']} {slices}"
        if values["doubtful"]:
            text += f", {len(values['doubtful'])} doubtful"
        parts.append(text)
    unfinished = "" if result.is_complete else " (unfinished)"
    seen = f"Window {window.window.width:g}, level {window.window.level:g} ({window.reason})."
    return " ".join(f"Wrote {output}{unfinished}: {'; '.join(parts)}. {seen}".splitlines())


def _run(result: JobResult) -> dict[str, Any]:
    summary = result.summary
    seconds = summary.get("seconds") or result.seconds.get("propagate")
    written = summary.get("frames_written")
    if written is None:
        written = sum(len(segment.scores) for segment in result.segments)
    return {
        "slices_written": written,
        "slices_computed": summary.get("frames_computed"),
        "slices_encoded": summary.get("frames_encoded"),
        "seconds": None if seconds is None else round(float(seconds), 3),
        "slices_per_second": round(written / float(seconds), 3) if seconds else None,
    }


def segment_values(segment: SegmentResult, geometry: VolumeGeometry, axis: int) -> dict[str, Any]:
    """Return a segment's entry in the report: its size, slices and doubts, as values that JSON can hold."""
    voxels = int(np.count_nonzero(segment.mask))
    voxel_ml = abs(float(np.linalg.det(geometry.ijk_to_ras[:3, :3]))) / 1000.0
    others = tuple(other for other in range(3) if other != 2 - axis)
    slices = np.flatnonzero(segment.mask.any(axis=others))
    return {
        "name": segment.name,
        "voxels": voxels,
        "ml": round(voxels * voxel_ml, 4),
        "slices": len(slices),
        "first_slice": int(slices[0]) if len(slices) else None,
        "last_slice": int(slices[-1]) if len(slices) else None,
        "computed_slices": len(segment.scores),
        "keyframes": [score.frame for score in segment.scores if score.kind in (KEYFRAME, ABSENT)],
        "doubt_threshold": DOUBTFUL,
        "doubtful": [_score(score) for score in segment.doubtful],
        "notes": [{"slice": score.frame, "note": score.note} for score in segment.noted],
    }


def _score(score: FrameScore) -> dict[str, Any]:
    return {
        "slice": score.frame,
        "doubt": _rounded(score.doubt),
        "predicted_iou": _rounded(score.predicted_iou),
        "object_score": _rounded(score.object_score),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
