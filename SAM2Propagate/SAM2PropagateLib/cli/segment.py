"""`segment`: reads a volume, segments it through a worker, and writes; wrong input is refused first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from SAM2PropagateLib import __version__
from SAM2PropagateLib.cli.arguments import SegmentCommand
from SAM2PropagateLib.cli.how import chosen_model, model_of, model_request
from SAM2PropagateLib.cli.progress import ProgressPrinter
from SAM2PropagateLib.cli.prompts import prompts_from_arguments, prompts_from_file
from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.files.atomic import check_output
from SAM2PropagateLib.files.segmentation import (
    Segment,
    check_segmentation_name,
    palette_color,
    write_segmentation,
)
from SAM2PropagateLib.files.volume import Volume, read_volume
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.segment_job import (
    JobOptions,
    JobResult,
    JobSession,
    choose_window,
    resolve_prompts,
    run_segment_job,
)
from SAM2PropagateLib.segment_report import report, summary_line, write_report
from SAM2PropagateLib.worker.messages import LoadModel


class ClosableSession(JobSession, Protocol):
    """A session that the command line opens and closes."""

    @property
    def log(self) -> list[str]:
        """The worker's last lines."""

    def close(self, timeout: float | None = None) -> None:
        """See `WorkerSession`."""


SessionFactory = Callable[[], ClosableSession]


def run_segment(
    command: SegmentCommand,
    session_factory: SessionFactory,
    store: ModelStore,
    progress: ProgressPrinter,
    should_cancel: Callable[[], bool],
) -> str:
    """Run the command `segment`.

    Returns:
        The result line, after the segmentation (and the report) are written.

    Raises:
        Cancelled: `should_cancel` returned True; with --keep-partial the finished slices are written.
        InputError, SAM2PropagateError: as the parts raise them.
    """
    seconds: dict[str, float] = {}
    _check_outputs(command)
    if command.remote is None:
        model = model_request(command, chosen_model(store, command.model, command.config))
    else:
        model = _model_there(command, store)
    started = time.monotonic()
    progress("read")
    volume = read_volume(command.volume, command.series, command.part)
    seconds["read"] = time.monotonic() - started
    for note in volume.notes:
        progress.note(f"Note: {note}")
    window = choose_window(volume, command.window)
    prompts = _prompts(command, volume)
    # Checked here, so that wrong prompts do not wait for the worker and its model.
    axis, _ = resolve_prompts(prompts, volume.geometry)
    prompts = prompts.with_axis(axis)
    if should_cancel():
        raise _nothing_written()
    result = _work(
        command,
        volume,
        prompts,
        JobOptions(model, window.window, command.crop, command.run),
        session_factory,
        progress,
        should_cancel,
    )
    for segment in result.segments:
        for score in segment.noted:
            place = volume.geometry.slice_words(score.frame, axis)
            progress.note(f"Note: {segment.name}, {place}: {score.note}")
    if command.remote is not None and command.device == "auto" and result.model.get("device") == "cpu":
        progress.note(
            f"Note: PyTorch found no GPU on {command.remote.host}; it computed on that computer's processor."
        )
    if not result.is_complete and not command.keep_partial:
        raise result.error or _nothing_written()
    started = time.monotonic()
    progress("write")
    _write(command, volume, result)
    seconds["write"] = time.monotonic() - started
    if command.report is not None:
        values = report(
            volume,
            prompts,
            result,
            window=window,
            output=command.out,
            seconds=seconds,
        )
        write_report(command.report, values, command.overwrite)
    line = summary_line(result, volume.geometry, command.out, window)
    if not result.is_complete:
        progress.note(line)
        raise result.error or Cancelled("cancelled", f"Cancelled; what was finished is in “{command.out}”.")
    return line


def _check_outputs(command: SegmentCommand) -> None:
    check_segmentation_name(command.out)
    inputs = [path for path in (command.volume, command.prompts_file) if path is not None]
    outputs = [path for path in (command.out, command.report) if path is not None]
    for number, path in enumerate(outputs):
        if any(_same_file(path, other) for other in (*inputs, *outputs[:number])):
            raise InputError(
                "output_is_input", f"“{path}” is named twice.", "Give every file to write a name of its own."
            )
        check_output(path, command.overwrite)


def _same_file(one: Path, other: Path) -> bool:
    return os.path.normcase(os.path.realpath(one)) == os.path.normcase(os.path.realpath(other))


def _model_there(command: SegmentCommand, store: ModelStore) -> LoadModel:
    """Return the request to load the model on the server: by name, or by a path there."""
    by_name = any(entry.name == command.model for entry in store.models)
    return model_of(command, None if by_name else command.model, command.config)


def _prompts(command: SegmentCommand, volume: Volume) -> PromptSet:
    if command.prompts_file is not None:
        return prompts_from_file(command.prompts_file, volume.geometry, command.axis)
    return prompts_from_arguments(command.segments, volume.geometry, command.axis)


def _work(
    command: SegmentCommand,
    volume: Volume,
    prompts: PromptSet,
    options: JobOptions,
    session_factory: SessionFactory,
    progress: ProgressPrinter,
    should_cancel: Callable[[], bool],
) -> JobResult:
    session = session_factory()
    is_finished = False
    try:
        result = run_segment_job(
            volume.array,
            volume.geometry,
            prompts,
            options,
            session,
            on_progress=progress,
            should_cancel=should_cancel,
        )
        is_finished = True
        return result
    except Cancelled as error:
        raise _nothing_written() from error
    except SAM2PropagateError:
        if command.debug and session.log:
            progress.note("The worker's last lines:\n" + "\n".join(session.log))
        raise
    finally:
        session.close(None if is_finished else 0.0)


def _write(command: SegmentCommand, volume: Volume, result: JobResult) -> None:
    segments = [
        Segment(segment.name, palette_color(number), segment.mask)
        for number, segment in enumerate(result.segments)
    ]
    write_segmentation(
        command.out,
        segments,
        volume.geometry,
        overwrite=command.overwrite,
        comment=f"Written by SAM2Propagate {__version__}",
    )


def _nothing_written() -> Cancelled:
    return Cancelled("cancelled", "Cancelled; nothing was written.")
