"""`evaluate --protocol shen2024`: repeats a published experiment on its data sets."""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from SAM2PropagateLib.cli.models import chosen_model
from SAM2PropagateLib.cli.options import (
    Computing,
    bad_arguments,
    computing_of,
    given_sharing,
    gpus_for,
    open_workers,
)
from SAM2PropagateLib.cli.progress import ProgressPrinter
from SAM2PropagateLib.cohort.fleet import Fleet, Sharing
from SAM2PropagateLib.errors import Cancelled, SAM2PropagateError
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.numerals import decimal_number
from SAM2PropagateLib.texts import plural
from SAM2PropagateLib.worker.messages import ProgressEvent

if TYPE_CHECKING:
    from SAM2PropagateLib.experiment.plan import DataSet, ExperimentPlan, ExperimentWork, ModelUse
    from SAM2PropagateLib.experiment.running import ExperimentResult, Work
    from SAM2PropagateLib.experiment.work import CaseOutcome

PROTOCOL = "shen2024"
_STAGE = "Evaluating"
# Copied from `evaluation.one_slice` and `experiment.plan`, which are imported late.
KINDS = ("1", "3", "5", "box", "mask")
SLICES = ("middle", "largest")
STRUCTURES = ("together", "each")
_TOLERANCE = 2.0


class PartlyDone(SAM2PropagateError):  # noqa: N818 - what became of a run
    """Some cases failed; `lines` has the results of the others."""

    def __init__(self, code: str, sentence: str, hint: str = "", lines: tuple[str, ...] = ()) -> None:
        super().__init__(code, sentence, hint)
        self.lines = lines


@dataclass(frozen=True)
class ExperimentCommand(Computing):
    """The options of `evaluate --protocol shen2024`."""

    folders: tuple[Path, ...]
    sequence: str
    models: tuple[str, ...]
    kinds: tuple[str, ...]
    where: str
    tolerance: float
    structures: str
    out: Path
    resume: bool
    overwrite: bool
    debug: bool
    sharing: Sharing | None = None


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Add the options that only this protocol has. They have no defaults, as it matters whether they were
    given."""
    group = parser.add_argument_group(f"with --protocol {PROTOCOL} (docs/paper.md)")
    group.add_argument(
        "--slice",
        choices=SLICES,
        help="the slice to prompt: the structure's middle or largest one (default: middle)",
    )
    group.add_argument(
        "--structures",
        choices=STRUCTURES,
        help="all labels as one structure, or each by itself (default: together)",
    )
    group.add_argument(
        "--tolerance", type=_millimeters, metavar="MM", help="tolerance of the surface Dice, NSD (default: 2)"
    )
    group.add_argument(
        "--resume", action="store_true", help="go on with an earlier run; what is finished stays as it is"
    )


def experiment_words(namespace: argparse.Namespace) -> list[str]:
    """Return the options of this protocol that were given."""
    given = {
        "--slice": namespace.slice,
        "--structures": namespace.structures,
        "--tolerance": namespace.tolerance,
    }
    return [name for name, value in given.items() if value is not None] + ["--resume"] * namespace.resume


def experiment_command(namespace: argparse.Namespace) -> ExperimentCommand:
    """Return the command of parsed arguments.

    Raises:
        InputError: `bad_arguments`, `bad_slurm`.
    """
    kinds = tuple(namespace.prompt or KINDS)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise bad_arguments(
            f"--prompt {unknown[0]} is no prompt of --protocol {PROTOCOL}.",
            "Give one or more of 1, 3, 5 (so many clicks), box and mask.",
        )
    models = tuple(dict.fromkeys(namespace.model or (DEFAULT_MODEL,)))
    if namespace.config is not None and len(models) > 1:
        raise bad_arguments("--config is for one model.", "Evaluate the models one after the other.")
    return ExperimentCommand(
        folders=tuple(dict.fromkeys(namespace.cases)),
        # By default the experiment's own choice; see `training.case`.
        sequence=namespace.sequence,
        models=models,
        **computing_of(namespace),
        kinds=tuple(kind for kind in KINDS if kind in kinds),
        where=namespace.slice or SLICES[0],
        tolerance=_TOLERANCE if namespace.tolerance is None else namespace.tolerance,
        structures=namespace.structures or STRUCTURES[0],
        out=namespace.out or Path(PROTOCOL),
        resume=namespace.resume,
        overwrite=namespace.overwrite,
        debug=namespace.debug,
        sharing=given_sharing(namespace),
    )


def run_experiment_command(
    command: ExperimentCommand,
    store: ModelStore,
    progress: ProgressPrinter,
    should_cancel: Callable[[], bool],
) -> list[str]:
    """Run the experiment; return the table's lines, and the written files.

    Raises:
        InputError, SAM2PropagateError: as `find_cases`, `chosen_model` and `run_experiment`.
        PartlyDone: some cases failed.
        Cancelled: finished cases stay, and are in the tables.
    """
    # Imported late, as other commands do not need it.
    from SAM2PropagateLib.experiment.running import HereFleet, run_experiment
    from SAM2PropagateLib.experiment.work import do_case, do_case_on_worker

    plan, memory_mb = _plan(command, store)
    sharing = command.sharing
    gpus: Callable[[], int] = lambda: 0  # noqa: E731
    work: Work = do_case_on_worker
    open_fleet: Callable[[], AbstractContextManager[Fleet]]
    if sharing is None:

        def check() -> None:
            if should_cancel():
                raise Cancelled()

        def tell(title: str) -> None:
            check()
            progress(_STAGE, ProgressEvent(None, title))

        work = functools.partial(do_case, tell=tell, between=check)
        here: Fleet = HereFleet()
        open_fleet = lambda: contextlib.nullcontext(here)  # noqa: E731
    else:
        gpus = functools.cache(lambda: gpus_for(sharing, command.device))
        open_fleet = functools.partial(
            open_workers,
            sharing,
            lambda: memory_mb,
            gpus,
            plan.out / ".workers",
            lambda text: progress.note(f"Note: {text}"),
        )
    listener = _CaseListener(progress, counts=sharing is not None)
    for one in plan.sets:
        for name, error in one.refused:
            progress.note(f"Failed: {name}: {error}")
    try:
        result = run_experiment(plan, open_fleet, listener, should_cancel, gpus=gpus, work=work)
    except (Cancelled, KeyboardInterrupt):
        raise Cancelled(
            sentence="The run was stopped.", hint="Add --resume to continue it; what is finished stays."
        ) from None
    return _told(plan, result)


def _plan(command: ExperimentCommand, store: ModelStore) -> tuple[ExperimentPlan, int]:
    """Return the plan, and the main memory of the largest model."""
    from SAM2PropagateLib.experiment.plan import ExperimentOptions, ExperimentPlan
    from SAM2PropagateLib.training.case import FLAIR_ELSE_FIRST

    names = _names(command.folders)
    sets = [
        _data_set(folder, name, command.sequence or FLAIR_ELSE_FIRST)
        for folder, name in zip(command.folders, names, strict=True)
    ]
    models, memory = [], 0
    for name in command.models:
        model, needed = _model(name, command, store)
        models.append(model)
        memory = max(memory, needed)
    options = ExperimentOptions(command.kinds, command.where, command.tolerance, command.structures)
    plan = ExperimentPlan(
        tuple(sets),
        tuple(models),
        options,
        command.out.absolute(),
        command.resume,
        command.overwrite,
    )
    return plan, memory


def _data_set(folder: Path, name: str, sequence: str) -> DataSet:
    from SAM2PropagateLib.experiment.plan import DataSet
    from SAM2PropagateLib.training.cases import find_cases

    refused: list[tuple[str, SAM2PropagateError]] = []
    cases = find_cases(folder, sequence, lambda case, error: refused.append((case, error)))
    return DataSet(name, cases, tuple(refused))


def _names(folders: Sequence[Path]) -> list[str]:
    """Return names for data sets: their folders' names, with folders above if two are the same; "" for a
    single one."""
    if len(folders) == 1:
        return [""]
    parts = [folder.absolute().parts for folder in folders]
    count = next(
        (n for n in range(1, max(map(len, parts))) if len({one[-n:] for one in parts}) == len(parts)), None
    )
    return ["/".join(one if count is None else one[-count:]) for one in parts]


def _model(name: str, command: ExperimentCommand, store: ModelStore) -> tuple[ModelUse, int]:
    from SAM2PropagateLib.experiment.plan import ModelUse

    chosen = chosen_model(store, name, command.config)
    model = ModelUse(
        name,
        chosen.path,
        chosen.identity,
        chosen.family,
        chosen.config,
        command.input_size,
        command.precision,
        command.motion,
        command.device,
    )
    return model, chosen.memory_mb


def _told(plan: ExperimentPlan, result: ExperimentResult) -> list[str]:
    lines = [
        *result.table,
        *_images(plan),
        f"Wrote {', '.join(str(file) for file in result.files)}",
    ]
    if result.failed:
        raise PartlyDone(
            "some_failed",
            f"{result.failed} of {result.total} cases failed; “{result.files[0]}” says why.",
            "Correct what is wrong, then add --resume: it tries those again and leaves the others alone.",
            tuple(lines),
        )
    return lines


def _images(plan: ExperimentPlan) -> Iterator[str]:
    """Yield sentences on the image that was used of cases with several."""
    cases = [case for one in plan.sets for case in one.cases if case.sequence]
    for sequence, count in Counter(case.sequence for case in cases).items():
        yield f"Image of {count} of {len(cases)} cases with several: {sequence}."


class _CaseListener:
    """Shows the progress of the run."""

    def __init__(self, progress: ProgressPrinter, counts: bool) -> None:
        self._progress = progress
        self._counts = counts
        self._done = 0
        self._total = 0

    def begun(self, total: int, finished: int) -> None:
        """See `ExperimentListener.begun`."""
        self._total, self._done = total, finished
        if finished:
            self._progress.note(f"{finished} of {total} cases are finished already.")
        elif self._counts:
            self._progress(_STAGE, ProgressEvent(None, f"{total} {plural(total, 'case', 'cases')}"))

    def finished(self, work: ExperimentWork, outcome: CaseOutcome) -> None:
        """See `ExperimentListener.finished`."""
        self._done += 1
        if outcome.error is not None:
            self._progress.note(f"Failed: {work.case.name}: {outcome.error}")
        for note in outcome.record.notes:
            self._progress.note(f"Note on “{work.case.name}”: {note}")
        if self._counts:
            self._progress(_STAGE, ProgressEvent(None, done=self._done, total=self._total))


def _millimeters(text: str) -> float:
    value = decimal_number(text)
    if value is None or value < 0:
        raise argparse.ArgumentTypeError(f"“{text}” is not a distance in mm")
    return value
