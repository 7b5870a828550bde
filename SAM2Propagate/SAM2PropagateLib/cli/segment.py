"""`segment`: reads a volume, segments it through a worker, and writes; wrong input is refused first."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from SAM2PropagateLib import __version__
from SAM2PropagateLib.cli.models import chosen_model, model_of, model_request
from SAM2PropagateLib.cli.options import (
    HowToSegment,
    SegmentArguments,
    add_debug,
    add_how,
    add_what,
    bad_arguments,
    check_device,
    how_of,
    prompts_from_arguments,
    prompts_from_file,
    segments_of,
)
from SAM2PropagateLib.cli.progress import ProgressPrinter
from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.files.atomic import check_output
from SAM2PropagateLib.files.segmentation import (
    Segment,
    check_segmentation_name,
    palette_color,
    write_segmentation,
)
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.numerals import whole_number
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
from SAM2PropagateLib.worker.remote import Remote

if TYPE_CHECKING:
    from SAM2PropagateLib.files.volume import Volume

_EPILOG = """\
Points are world coordinates in millimeters, RAS, as 3D Slicer shows them. --segment starts a segment; the
prompts after it belong to it. Prompts before the first --segment belong to "Segment_1". All prompts can be
given several times.

examples:
  segment ct.nii.gz --segment liver --point-ras -80 10 45 --out liver.seg.nrrd
  segment ct.nii.gz --segment liver --box-ras -140 -40 45 20 90 45 --absent-ras 0 0 160 \\
                    --segment spleen --point-ras 95 -20 60 --out organs.seg.nrrd --report organs.json
  segment ct.nii.gz --segment aorta --scribble-ras 3 20 45 8 14 45 11 5 45 --out aorta.seg.nrrd
  segment ct.nii.gz --segment liver --point-ras -80 10 45 --out liver.seg.nrrd --host me@gpu1
  segment DICOM_FOLDER --prompts prompts.json --out tumor.seg.nrrd --window 350 40

exit status: 0 the file is written; 1 failure; 2 bad input; 130 interrupted.
"""


@dataclass(frozen=True)
class SegmentCommand(HowToSegment):
    """The options of `segment`. Exactly one of `segments` and `prompts_file` is given."""

    volume: Path
    out: Path
    segments: tuple[SegmentArguments, ...]
    prompts_file: Path | None
    series: str | None
    part: str | None
    report: Path | None
    overwrite: bool
    keep_partial: bool
    debug: bool
    remote: Remote | None = None


def add_segment(commands: Any, **shape: Any) -> None:
    """Add the command `segment` to the parser's commands."""
    parser = commands.add_parser("segment", help="segment structures in a volume", epilog=_EPILOG, **shape)
    parser.add_argument(
        "volume", type=Path, metavar="VOLUME", help="NRRD, NIfTI, MHA or the folder of a DICOM series"
    )
    parser.add_argument(
        "--series",
        metavar="UID|all",
        help="the series to read from a folder that holds several; all reads them as one",
    )
    parser.add_argument(
        "--part",
        type=_part,
        metavar="N|all",
        help="which acquisition, time point or echo of a DICOM series that holds several, by the number in "
        "the error message; all reads them together",
    )
    what = add_what(parser)
    what.add_argument(
        "--prompts", type=Path, metavar="FILE", help="prompts from a JSON file or a scene (.mrb) instead"
    )
    add_how(parser)
    where = parser.add_argument_group("where the model runs (docs/server.md)")
    where.add_argument("--host", metavar="HOST", help="on a server, as ssh takes it: gpu1, me@gpu1")
    where.add_argument(
        "--remote-python",
        metavar="PYTHON",
        help="the Python there (default: ~/.sam2propagate/env/bin/python if it is there, else python3)",
    )
    where.add_argument(
        "--remote-folder",
        metavar="FOLDER",
        help="the folder there that holds SAM2PropagateLib (default: the copy that Slicer's panel made, if "
        "there is one, else the package that is installed in that Python)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, required=True, metavar="FILE.seg.nrrd", help="the segmentation")
    output.add_argument("--report", type=Path, metavar="FILE.json", help="what was done and measured")
    output.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    output.add_argument(
        "--keep-partial",
        action="store_true",
        help="also write what was finished when the run is interrupted or fails (the exit status tells)",
    )
    add_debug(output)


def segment_command(namespace: argparse.Namespace) -> SegmentCommand:
    """Return the command of parsed arguments.

    Raises:
        InputError: `bad_arguments`, `no_prompts`, `unknown_device`, `bad_window`.
    """
    said = getattr(namespace, "said", None) or []
    if namespace.prompts is not None and said:
        raise bad_arguments(
            "Prompts are given both in a file and one by one.",
            "Give either --prompts or --segment, --point-ras and so on.",
        )
    segments = segments_of(said)
    if namespace.prompts is None and not segments:
        raise InputError(
            "no_prompts",
            "There are no prompts.",
            "Give at least one --point-ras, --scribble-ras, --box-ras or --lasso-ras, or --prompts.",
        )
    check_device(namespace.device)
    return SegmentCommand(
        volume=namespace.volume,
        out=namespace.out,
        segments=segments,
        prompts_file=namespace.prompts,
        series=namespace.series,
        part=namespace.part,
        **how_of(namespace),
        report=namespace.report,
        overwrite=namespace.overwrite,
        keep_partial=namespace.keep_partial,
        debug=namespace.debug,
        remote=_remote(namespace),
    )


def _remote(namespace: argparse.Namespace) -> Remote | None:
    if namespace.host is not None:
        return Remote(namespace.host, namespace.remote_python, namespace.remote_folder)
    if namespace.remote_python is not None or namespace.remote_folder is not None:
        raise bad_arguments("--remote-python and --remote-folder are about a server.", "Name it with --host.")
    return None


def _part(text: str) -> str:
    if text != "all" and not whole_number(text):
        raise argparse.ArgumentTypeError(f"“{text}” is neither a number from 1 nor all")
    return text


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
    # Late, as pydicom is slow to import.
    from SAM2PropagateLib.files.volume import read_volume

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
        try:
            values = report(volume, prompts, result, window=window, output=command.out, seconds=seconds)
            write_report(command.report, values, command.overwrite)
        except Exception:
            progress.note(f"The segmentation is written: “{command.out}”. Its report is not.")
            raise
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
