"""`cohort`: segment many volumes, listed in a manifest, shared out over workers (`docs/cohort.md`)."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from SAM2PropagateLib.cli.models import ChosenModel, chosen_model, model_request
from SAM2PropagateLib.cli.options import (
    DEFAULT_SEGMENT,
    HowToSegment,
    SegmentArguments,
    add_debug,
    add_how,
    add_sharing,
    gpus_for,
    how_of,
    open_workers,
    parse_said,
    parse_window,
    prompts_from_arguments,
    sharing_of,
)
from SAM2PropagateLib.cli.progress import ProgressPrinter
from SAM2PropagateLib.cohort.fleet import Sharing
from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.prompts.values import PromptSet

if TYPE_CHECKING:
    from SAM2PropagateLib.cohort.job import Manner, VolumeOutcome
    from SAM2PropagateLib.cohort.on_worker import MakeSession
    from SAM2PropagateLib.cohort.running import Result

_EPILOG = """\
The manifest is a CSV file with the columns volume, segment and prompts, a row for each segment of each
volume; paths in it are relative to its folder. Prompts are options of segment (--point-ras, --box-ras, ...),
a JSON file, or a scene of 3D Slicer (.mrb) with prompts of SAM2 Propagate. docs/cohort.md has examples.

examples:
  cohort list.csv --out results
  cohort list.csv --out results --resume
  cohort list.csv --out results --slurm "gpu --gres=gpu:1 --mem=16G --time=4:00:00" --workers 16

exit status: 0 all volumes are done; 1 some failed; 2 bad input; 130 interrupted.
"""


@dataclass(frozen=True)
class CohortCommand(HowToSegment):
    """The options of `cohort`."""

    manifest: Path
    out: Path
    sharing: Sharing
    resume: bool
    overwrite: bool
    debug: bool


@dataclass(frozen=True)
class SaidPrompts:
    """A source of prompts: words of the command line.

    Attributes:
        segments: as given.
        axis: propagation axis 0, 1, 2 or None; indices of ranges count along it.
    """

    segments: tuple[SegmentArguments, ...]
    axis: int | None

    def read(self, geometry: VolumeGeometry) -> PromptSet:
        """Return the prompts for a volume. Raises as `prompts_from_arguments`."""
        return prompts_from_arguments(self.segments, geometry, self.axis)

    def fingerprint(self) -> str:
        """Return a text that changes with the prompts."""
        return repr((self.segments, self.axis))


def add_cohort(commands: Any, **shape: Any) -> None:
    """Add the command to the parsers made by `add_subparsers`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "cohort", help="segment many volumes, listed in a manifest", epilog=_EPILOG, **shape
    )
    parser.add_argument(
        "manifest", type=Path, metavar="MANIFEST", help="CSV or JSON: volume, segment, prompts"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the folder for all results"
    )
    add_sharing(parser, "one per GPU, else as many as fit")
    add_how(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--resume", action="store_true", help="go on with an earlier run; what is finished stays as it is"
    )
    output.add_argument(
        "--overwrite", action="store_true", help="replace segmentations that are there already"
    )
    add_debug(output)


def cohort_command(namespace: argparse.Namespace) -> CohortCommand:
    """Return the command of parsed arguments.

    Raises:
        InputError: `bad_arguments`, `bad_window`, `bad_slurm`.
    """
    return CohortCommand(
        manifest=namespace.manifest,
        out=namespace.out,
        sharing=sharing_of(namespace),
        **how_of(namespace),
        resume=namespace.resume,
        overwrite=namespace.overwrite,
        debug=namespace.debug,
    )


def say_prompts(axis: int | None) -> Callable[[Sequence[tuple[str, Sequence[str]]]], SaidPrompts]:
    """Return a function that makes prompts from words in rows of a manifest; see
    `cohort.manifest.SayPrompts`."""

    def say(rows: Sequence[tuple[str, Sequence[str]]]) -> SaidPrompts:
        words: list[str] = []
        for segment, own in rows:
            if "--segment" in own or any(word.startswith("--segment=") for word in own):
                raise InputError(
                    "bad_arguments",
                    "--segment is not for the column “prompts”.",
                    "Put the name into the column “segment”.",
                )
            words += ["--segment", segment or DEFAULT_SEGMENT, *own]
        return SaidPrompts(parse_said(words), axis)

    return say


def run_cohort_command(
    command: CohortCommand,
    store: ModelStore,
    progress: ProgressPrinter,
    should_cancel: Callable[[], bool],
    make_session: MakeSession | None = None,
) -> list[str]:
    """Segment the volumes of the manifest; return the line of the result.

    Args:
        make_session: makes the session in each worker; None: one with the worker of this project.

    Raises:
        InputError, SAM2PropagateError: as `read_manifest`, `run_cohort`, `chosen_model`; `some_failed`.
        Cancelled: finished volumes stay, and are in the table and the page.
    """
    # Imported late, as other commands do not need it.
    from SAM2PropagateLib.cohort.manifest import read_manifest
    from SAM2PropagateLib.cohort.on_worker import local_session
    from SAM2PropagateLib.cohort.running import CohortPlan, run_cohort

    entries = read_manifest(command.manifest, say_prompts(command.axis))
    chosen = chosen_model(store, command.model, command.config)
    manner = _manner(command, chosen)
    bar = _Bar(progress)
    gpus = functools.cache(lambda: gpus_for(command.sharing, command.device))
    plan = CohortPlan(
        entries,
        f"Cohort {command.manifest.stem}",
        command.out.absolute(),
        manner,
        read_window,
        command.resume,
        command.overwrite,
    )
    try:
        result = run_cohort(
            plan,
            lambda: open_workers(
                command.sharing,
                lambda: chosen.memory_mb,
                gpus,
                plan.out / ".cohort" / "slurm",
                bar.note,
                bar.add_slices,
            ),
            bar,
            should_cancel,
            gpus=gpus,
            make_session=make_session or local_session,
        )
    except (Cancelled, KeyboardInterrupt):
        raise Cancelled(
            sentence="The run was stopped.", hint="Add --resume to continue it; what is finished stays."
        ) from None
    finally:
        bar.close()
    return _told(result)


def read_window(text: str) -> str | tuple[float, float] | None:
    """Parse a manifest's text for a window.

    Raises:
        InputError: `bad_window`, `unknown_preset`.
    """
    window = parse_window(text)
    if isinstance(window, str):
        Window.preset(window)
    return window


def _manner(command: CohortCommand, chosen: ChosenModel) -> Manner:
    from SAM2PropagateLib.cohort.job import Manner

    if isinstance(command.window, str):
        Window.preset(command.window)
    return Manner(
        model_request(command, chosen),
        chosen.identity,
        command.axis,
        command.window,
        command.crop,
        command.run,
    )


def _told(result: Result) -> list[str]:
    if result.failed:
        raise SAM2PropagateError(
            "some_failed",
            f"{result.failed} of {result.volumes} volumes failed; “{result.table}” says why.",
            "Correct what is wrong, then add --resume: it tries those again and leaves the others alone.",
        )
    return [f"Wrote {result.page}: {result.done} of {result.volumes} volumes are done."]


class _Bar:
    """Shows the progress of the run: volumes, slices per second, time left, failures."""

    def __init__(self, progress: ProgressPrinter) -> None:
        self._progress = progress
        self._bar: Any = None
        self._slices = 0
        self._failed = 0

    def begun(self, total: int, finished: int) -> None:
        """See `CohortListener.begun`."""
        if finished:
            self._progress.note(f"{finished} of {total} volumes are finished already.")
        stream = self._progress.stream
        self._bar = tqdm(
            total=total,
            initial=finished,
            unit=" volumes",
            file=stream,
            dynamic_ncols=True,
            smoothing=0.0,
            mininterval=0.2 if stream.isatty() else 20.0,
            bar_format="{n_fmt} of {total_fmt} volumes |{bar:20}| {remaining} left{postfix}",
        )

    def finished(self, outcome: VolumeOutcome) -> None:
        """See `CohortListener.finished`."""
        assert self._bar is not None
        if outcome.error is not None:
            self._failed += 1
            self._bar.write(f"Failed: {outcome.name}: {outcome.error}", file=self._progress.stream)
        self._bar.update(1)
        self._show()

    def note(self, text: str) -> None:
        """Print a sentence for the user above the bar."""
        if self._bar is None:
            self._progress.note(f"Note: {text}")
        else:
            self._bar.write(f"Note: {text}", file=self._progress.stream)

    def add_slices(self, count: int) -> None:
        """Count new slices of a worker."""
        self._slices += count
        self._show()

    def close(self) -> None:
        """End the line of the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self) -> None:
        bar = self._bar
        if bar is None:
            return
        elapsed = bar.format_dict["elapsed"] or 0.0
        rate = self._slices / elapsed if elapsed else 0.0
        failed = f", {self._failed} failed" if self._failed else ""
        bar.set_postfix_str(f"{rate:.1f} slices/s{failed}", refresh=False)
