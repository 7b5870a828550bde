"""One volume of a cohort with all its segments: read, segmented and written where it is computed."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from SAM2PropagateLib import __version__
from SAM2PropagateLib.cohort.prompt_sources import PromptSource, file_stamp, joined
from SAM2PropagateLib.cohort.record import OutputFiles, SegmentRow, VolumeRecord, read_record, write_record
from SAM2PropagateLib.cohort.thumbnails import chosen_frames, strip
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.files.atomic import check_output
from SAM2PropagateLib.files.segmentation import Segment, palette_color, write_segmentation
from SAM2PropagateLib.files.volume import read_volume
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.models.memory import is_out_of_memory
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.segment_job import (
    FrameScore,
    JobOptions,
    JobResult,
    JobSession,
    SegmentResult,
    choose_window,
    resolve_prompts,
    run_segment_job,
)
from SAM2PropagateLib.segment_report import report, segment_values, write_report
from SAM2PropagateLib.worker.messages import FrameEvent, LoadModel
from SAM2PropagateLib.worker.session import Crop

# The model's process is at fault, not the volume: another try may do.
_DEATHS = (
    "worker_died",
    "worker_not_responding",
    "worker_not_started",
    "worker_stopped",
    "worker_not_running",
)
_WORST_SHARE = 10


class ModelDied(Exception):  # noqa: N818 - what became of a process
    """The process with the model ended in the middle of a volume; its text says why."""


class KeptSession(JobSession, Protocol):
    """A session that is kept for many volumes and closed at the end."""

    def close(self, timeout: float | None = None) -> None:
        """See `WorkerSession`."""


@dataclass(frozen=True)
class Manner:
    """How every volume of a cohort is segmented.

    Attributes:
        model: what is loaded. model_stamp: changes with the model's file.
        axis: 0, 1, 2 or None: as `choose_axis` says.
        window: (width, level), a preset's name, or None; see `choose_window`.
        crop, run: see `JobOptions`.
    """

    model: LoadModel
    axis: int | None = None
    window: str | tuple[float, float] | None = None
    crop: Crop = "auto"
    run: RunOptions = field(default_factory=RunOptions)
    model_stamp: str = ""


@dataclass(frozen=True)
class VolumeJob:
    """One volume that is to be segmented.

    Attributes:
        key: see `Entry.key`. volume: the file or folder. series, part: as for `read_volume`.
        window: its own, in the place of that of the manner.
        sources: of its prompts.
        out: where its files go. overwrite: a segmentation that is there may be replaced.
        manner: how.
    """

    key: str
    volume: Path
    out: OutputFiles
    manner: Manner
    sources: tuple[PromptSource, ...]
    series: str | None = None
    part: str | None = None
    window: str | tuple[float, float] | None = None
    overwrite: bool = False

    def fingerprint(self) -> str:
        """Changes with everything that the segmentation depends on and that shows without reading it."""
        manner = asdict(self.manner)
        parts = [
            str(self.volume),
            file_stamp(self.volume),
            self.series,
            self.part,
            self.window,
            [source.fingerprint() for source in self.sources],
            {**manner, "model": {**manner["model"], "device": "", "cache_megabytes": None}},
        ]
        return hashlib.sha256(json.dumps(parts, default=str).encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class VolumeOutcome:
    """What became of a volume: its record, or why there is none.

    Attributes:
        slices: how many were computed. seconds: it took.
        record: without pictures, which stay in its file.
        error: as `SAM2PropagateError.to_dict`.
    """

    name: str
    slices: int = 0
    seconds: float = 0.0
    record: VolumeRecord | None = None
    error: SAM2PropagateError | None = None


def finished_record(job: VolumeJob, fingerprint: str) -> VolumeRecord | None:
    """Return the record of a volume that is finished already, made from the same; else None."""
    record = read_record(job.out.record)
    is_same = record is not None and (record.key, record.fingerprint) == (job.key, fingerprint)
    return record if is_same and job.out.segmentation.is_file() else None


def segment_volume(
    job: VolumeJob,
    fingerprint: str,
    session: JobSession,
    on_slices: Callable[[int], None] = lambda count: None,
) -> VolumeOutcome:
    """Segment a volume and write its files, the segmentation last: where that is, all is.

    Args:
        job: what and how.
        fingerprint: of the job, for its record.
        session: with the model, or to load it into.
        on_slices: told of slices as they come.

    Returns:
        What became of it; everything that is wrong with this volume alone is in there.

    Raises:
        ModelDied: the model's process ended; the volume may be tried again.
    """
    started = time.monotonic()
    # A worker that died after its work was done has left nothing to do.
    if (finished := finished_record(job, fingerprint)) is not None:
        return _done(finished)
    try:
        record = _segmented(job, fingerprint, session, started, on_slices)
    except SAM2PropagateError as error:
        if error.code in _DEATHS:
            raise ModelDied(str(error)) from error
        return VolumeOutcome(job.out.name, seconds=time.monotonic() - started, error=error)
    except Exception as error:
        told = _unexpected(error)
        return VolumeOutcome(job.out.name, seconds=time.monotonic() - started, error=told)
    return _done(record)


def _done(record: VolumeRecord) -> VolumeOutcome:
    rows = tuple(replace(row, picture=b"") for row in record.rows)
    return VolumeOutcome(record.name, record.slices, record.seconds, replace(record, rows=rows))


def _unexpected(error: Exception) -> SAM2PropagateError:
    if is_out_of_memory(error):
        return SAM2PropagateError(
            "out_of_memory",
            "This volume needs more memory than the computer has free.",
            "Give fewer --workers, or segment it alone.",
        )
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return SAM2PropagateError(
        "unexpected", f"It failed unexpectedly ({reason}).", "Try it alone with segment."
    )


def _segmented(
    job: VolumeJob,
    fingerprint: str,
    session: JobSession,
    started: float,
    on_slices: Callable[[int], None],
) -> VolumeRecord:
    out, manner = job.out, job.manner
    _check_outputs(job)
    volume = read_volume(job.volume, job.series, job.part)
    seconds = {"read": time.monotonic() - started}
    window = choose_window(volume, job.window if job.window is not None else manner.window)
    prompts = joined(job.sources, volume.geometry, manner.axis)
    axis, _ = resolve_prompts(prompts, volume.geometry)
    prompts = prompts.with_axis(axis)

    def count(_: FrameEvent) -> None:
        on_slices(1)

    result = run_segment_job(
        volume.array,
        volume.geometry,
        prompts,
        JobOptions(manner.model, window.window, manner.crop, manner.run),
        session,
        on_frame=count,
    )
    if result.error is not None:
        raise result.error
    values = report(volume, prompts, result, window=window, output=out.segmentation, seconds=seconds)
    stack = FrameStack(volume.array, volume.geometry, axis, window.window)
    record = VolumeRecord(
        job.key,
        out.name,
        fingerprint,
        str(job.volume),
        round(time.monotonic() - started, 3),
        sum(len(segment.scores) for segment in result.segments),
        f"{window.window.width:g} {window.window.level:g} ({window.reason})",
        str(result.model.get("model", "")),
        tuple(volume.notes),
        tuple(_row(segment, number, stack) for number, segment in enumerate(result.segments)),
    )
    write_report(out.report, values, overwrite=True)
    write_record(out.record, record)
    _write(job, volume.geometry, result)
    return record


def _check_outputs(job: VolumeJob) -> None:
    """A segmentation may hold hours of editing; report and record are this run's own."""
    try:
        check_output(job.out.segmentation, job.overwrite)
    except InputError as error:
        if error.code != "output_exists":
            raise
        hint = "Move it elsewhere, or add --overwrite to replace it."
        raise InputError(error.code, f"{error.sentence} It was made from something else.", hint) from error


def _write(job: VolumeJob, geometry: VolumeGeometry, result: JobResult) -> None:
    segments = [
        Segment(segment.name, palette_color(number), segment.mask)
        for number, segment in enumerate(result.segments)
    ]
    write_segmentation(
        job.out.segmentation,
        segments,
        geometry,
        overwrite=job.overwrite,
        comment=f"Written by SAM2Propagate {__version__}",
    )


def _row(segment: SegmentResult, number: int, stack: FrameStack) -> SegmentRow:
    values = segment_values(segment, stack.geometry, stack.axis)
    mask = np.moveaxis(segment.mask, 2 - stack.axis, 0)
    shown = chosen_frames(mask, segment.scores)
    return SegmentRow(
        segment.name,
        float(values["ml"]),
        int(values["voxels"]),
        int(values["slices"]),
        values["first_slice"],
        values["last_slice"],
        worst_doubt(segment.scores),
        len(segment.doubtful),
        shown,
        strip(stack, mask, shown, palette_color(number)),
    )


def worst_doubt(scores: tuple[FrameScore, ...]) -> float | None:
    """Return the mean doubt of the worst tenth of the slices, at least one; None where the model gave
    none."""
    doubts = sorted((score.doubt for score in scores if score.doubt is not None), reverse=True)
    if not doubts:
        return None
    count = math.ceil(len(doubts) / _WORST_SHARE)
    return round(sum(doubts[:count]) / count, 4)
