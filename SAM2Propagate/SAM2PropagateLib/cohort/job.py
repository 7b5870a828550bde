"""Reads, segments and writes one volume of a cohort, on the computer of its worker."""

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
from SAM2PropagateLib.cohort.fleet import unexpected
from SAM2PropagateLib.cohort.prompt_sources import PromptSource, file_stamp, joined
from SAM2PropagateLib.cohort.record import (
    OutputFiles,
    SegmentRow,
    VolumeRecord,
    file_identity,
    read_record,
    write_record,
)
from SAM2PropagateLib.cohort.thumbnails import chosen_frames, strip
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.files.atomic import check_output
from SAM2PropagateLib.files.segmentation import Segment, palette_color, write_segmentation
from SAM2PropagateLib.files.volume import read_volume
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
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
from SAM2PropagateLib.segment_report import is_report, report, segment_values, write_report
from SAM2PropagateLib.worker.messages import FrameEvent, LoadModel
from SAM2PropagateLib.worker.session import Crop

# The model's process failed, not the volume: another try may succeed.
_DEATHS = (
    "worker_died",
    "worker_not_responding",
    "worker_not_started",
    "worker_stopped",
    "worker_not_running",
)
_WORST_SHARE = 10


class ModelDied(Exception):  # noqa: N818 - what became of a process
    """The process with the model ended during a volume; the message says why."""


class KeptSession(JobSession, Protocol):
    """A session that is kept for many volumes and closed at the end."""

    def close(self, timeout: float | None = None) -> None:
        """See `WorkerSession`."""


@dataclass(frozen=True)
class Manner:
    """The settings for all volumes of a cohort.

    Attributes:
        model: to load. model_identity: changes with its weights or its configuration, not with their place.
        axis: 0, 1, 2 or None: by `choose_axis`.
        window: (width, level), a preset's name, or None; see `choose_window`.
        crop, run: see `JobOptions`.
    """

    model: LoadModel
    model_identity: str
    axis: int | None = None
    window: str | tuple[float, float] | None = None
    crop: Crop = "auto"
    run: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True)
class VolumeJob:
    """One volume to segment.

    Attributes:
        key: see `Entry.key`. volume: the file or folder. series, part: as for `read_volume`.
        window: its own, instead of the manner's.
        sources: of its prompts.
        out: paths of its files. overwrite: whether an existing segmentation may be replaced.
        manner: the settings.
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
        """Return a hash of everything that the segmentation depends on, as far as it is known without reading
        the volume."""
        manner = asdict(self.manner)
        # Its identity says what the model is; where it lies and computes does not matter.
        elsewhere = {"name": "", "path": "", "config": "", "device": "", "cache_megabytes": None}
        parts = [
            str(self.volume),
            file_stamp(self.volume),
            self.series,
            self.part,
            self.window,
            [source.fingerprint() for source in self.sources],
            {**manner, "model": {**manner["model"], **elsewhere}},
        ]
        return hashlib.sha256(json.dumps(parts, default=str).encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class VolumeOutcome:
    """The outcome for a volume: its record, or an error.

    Attributes:
        slices: number of computed slices. seconds: duration.
        record: without pictures, which are only in its file.
        error: why there is no record.
    """

    name: str
    slices: int = 0
    seconds: float = 0.0
    record: VolumeRecord | None = None
    error: SAM2PropagateError | None = None


def finished_record(job: VolumeJob, fingerprint: str) -> VolumeRecord | None:
    """Return the record of a volume that was finished earlier with the same fingerprint; else None."""
    record = read_record(job.out.record)
    if record is None or (record.key, record.fingerprint) != (job.key, fingerprint):
        return None
    # A run that was killed before it had replaced a segmentation has left its record beside the former one.
    return record if file_identity(job.out.segmentation) not in ("", record.replaces) else None


def segment_volume(
    job: VolumeJob,
    fingerprint: str,
    session: JobSession,
    on_slices: Callable[[int], None] = lambda count: None,
) -> VolumeOutcome:
    """Segment a volume and write its files, the segmentation last, so that it shows that all are there.

    Args:
        job: the volume and its settings.
        fingerprint: of the job, for its record.
        session: for the model, which may be loaded already.
        on_slices: called with the number of new slices.

    Returns:
        The outcome, with any error that concerns only this volume.

    Raises:
        ModelDied: the model's process ended; the volume may be tried again.
    """
    started = time.monotonic()
    # An earlier worker may have died after it finished the volume.
    if (finished := finished_record(job, fingerprint)) is not None:
        return _done(finished)
    try:
        record = _segmented(job, fingerprint, session, started, on_slices)
    except SAM2PropagateError as error:
        if error.code in _DEATHS:
            raise ModelDied(str(error)) from error
        return VolumeOutcome(job.out.name, seconds=time.monotonic() - started, error=error)
    except Exception as error:
        told = unexpected(
            error, "volume", "Give fewer --workers, or segment it alone.", "Try it alone with segment."
        )
        return VolumeOutcome(job.out.name, seconds=time.monotonic() - started, error=told)
    return _done(record)


def _done(record: VolumeRecord) -> VolumeOutcome:
    rows = tuple(replace(row, picture=b"") for row in record.rows)
    return VolumeOutcome(record.name, record.slices, record.seconds, replace(record, rows=rows))


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
        file_identity(out.segmentation),
    )
    write_report(out.report, values, overwrite=True)
    write_record(out.record, record)
    _write(job, volume.geometry, result)
    return record


def _check_outputs(job: VolumeJob) -> None:
    """Refuse to replace a segmentation, which may hold hours of editing, and a file that is no report; the
    record belongs to the run."""
    report_file = job.out.report
    if report_file.exists() and not is_report(report_file):
        raise InputError(
            "output_exists",
            f"“{report_file}” exists already, and is no report of a segmentation.",
            "Move it elsewhere, give its volume another name in the list, or choose another folder.",
        )
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
    """Return the mean doubt of the worst tenth of the slices, at least one; None if there are no doubts."""
    doubts = sorted((score.doubt for score in scores if score.doubt is not None), reverse=True)
    if not doubts:
        return None
    count = math.ceil(len(doubts) / _WORST_SHARE)
    return round(sum(doubts[:count]) / count, 4)
