"""`evaluate`: measures a model on segmented volumes, with one prompt by a simulated user."""

from __future__ import annotations

import argparse
import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SAM2PropagateLib.cli.experiment import (
    PROTOCOL,
    ExperimentCommand,
    add_experiment,
    experiment_command,
    experiment_words,
)
from SAM2PropagateLib.cli.finetune import add_sequence
from SAM2PropagateLib.cli.models import chosen_model
from SAM2PropagateLib.cli.options import (
    ALL_AXES,
    Computing,
    add_axes,
    add_computing,
    add_debug,
    add_sharing,
    bad_arguments,
    computing_of,
    given_sharing,
    gpus_for,
    open_workers,
)
from SAM2PropagateLib.cli.progress import ProgressPrinter
from SAM2PropagateLib.cohort.fleet import Sharing, results
from SAM2PropagateLib.errors import Cancelled, SAM2PropagateError
from SAM2PropagateLib.evaluation.protocol import EvaluationOptions, Scores, evaluate
from SAM2PropagateLib.evaluation.simulated_user import CORRECTIONS, FIRST_PROMPTS
from SAM2PropagateLib.files.atomic import atomic_output, check_output
from SAM2PropagateLib.frames.window import FittedWindow
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.texts import plural
from SAM2PropagateLib.worker.messages import ProgressEvent

if TYPE_CHECKING:
    from SAM2PropagateLib.training.case import Case

_STAGE = "Evaluating"
_CORRECTION_COUNT = 3
_USER = "user"
_HEADINGS = ("TARGET", "PREVIEW", "VOLUME", "ENDS GIVEN", "NSD 2 MM", "+1", "+3", "SLICES/S")
_EPILOG = """\
The prompt lies on the slice where the reference is largest. PREVIEW: Dice on that slice. VOLUME: Dice of the
whole structure, nothing said of its ends. ENDS GIVEN: the same with its first and last slice given. NSD:
surface Dice at 2 mm. +1, +3: Dice after so many corrections, each on the slice that is worst.
Structures of many separate parts, which one prompt cannot mean, are left out of the mean.

With --protocol shen2024, prompts on the middle or largest slice of every structure and what came out of each
kind of them: docs/paper.md.
"""


@dataclass(frozen=True)
class EvaluateCommand(Computing):
    """The options of `evaluate`."""

    cases: Path
    sequence: str
    model: str
    run: RunOptions
    prompt: str
    correction: str
    out: Path
    overwrite: bool
    debug: bool
    sharing: Sharing | None = None


@dataclass(frozen=True)
class EvaluatedTarget:
    """The scores of one structure; `counts`: whether it is part of the mean; `window`: the model's."""

    target: str
    counts: bool
    scores: Scores
    window: FittedWindow


def add_evaluate(commands: Any, **shape: Any) -> argparse.ArgumentParser:
    """Add the command to the parsers made by `add_subparsers`."""
    shape = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **shape}
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate", help="measure a model on segmented volumes", epilog=_EPILOG, **shape
    )
    parser.add_argument(
        "--cases",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        metavar="DIR",
        help=f"as for finetune; with --protocol {PROTOCOL} one or more",
    )
    parser.add_argument(
        "--protocol",
        choices=(_USER, PROTOCOL),
        default=_USER,
        help=f"a user with one prompt and corrections ({_USER}, the default), or a published experiment",
    )
    add_sequence(parser)
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME|FILE",
        help=f"the model (default: {DEFAULT_MODEL}); with --protocol {PROTOCOL} also several of them",
    )
    add_computing(parser)
    add_axes(parser)
    add_sharing(parser)
    parser.add_argument(
        "--prompt",
        nargs="+",
        action="extend",
        metavar="KIND",
        help=f"the first prompt: box (default) or click; with --protocol {PROTOCOL} one or more of 1, 3, 5 "
        "(so many clicks), box and mask (default: all)",
    )
    parser.add_argument("--correction", choices=CORRECTIONS, help="what a correction is (default: mask)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json|FOLDER",
        help="the table and every figure (default: evaluation_MODEL.json); with --protocol "
        f"{PROTOCOL} a folder (default: {PROTOCOL})",
    )
    add_experiment(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there already")
    add_debug(parser)
    return parser


def evaluate_command(namespace: argparse.Namespace) -> EvaluateCommand | ExperimentCommand:
    """Return the command of parsed arguments.

    Raises:
        InputError: `bad_arguments`, `bad_slurm`.
    """
    if namespace.protocol == PROTOCOL:
        if namespace.correction is not None:
            raise bad_arguments(f"--protocol {PROTOCOL} makes no corrections.", "Leave out --correction.")
        if namespace.axes == ALL_AXES:
            raise bad_arguments(f"--protocol {PROTOCOL} runs along one axis.", "Leave out --axes.")
        return experiment_command(namespace)
    if words := experiment_words(namespace):
        raise bad_arguments(
            f"{words[0]} belongs to --protocol {PROTOCOL}.", f"Add that, or leave out {words[0]}."
        )
    if len(namespace.cases) > 1:
        raise bad_arguments(
            "--cases names several folders.", f"Give one, or add --protocol {PROTOCOL}, which takes several."
        )
    models = namespace.model or [DEFAULT_MODEL]
    if len(models) > 1:
        raise bad_arguments(
            "--model is given several times.", f"Give one, or add --protocol {PROTOCOL}, which takes several."
        )
    prompts = namespace.prompt or [FIRST_PROMPTS[0]]
    if len(prompts) > 1 or prompts[0] not in FIRST_PROMPTS:
        raise bad_arguments(
            f"--prompt {' '.join(prompts)} is no first prompt of a user.",
            f"Give {' or '.join(FIRST_PROMPTS)}, or add --protocol {PROTOCOL}, which has others.",
        )
    out = namespace.out or Path(f"evaluation_{_short_name(models[0])}.json")
    return EvaluateCommand(
        cases=namespace.cases[0],
        sequence=namespace.sequence,
        model=models[0],
        **computing_of(namespace),
        run=RunOptions(all_axes=namespace.axes == ALL_AXES),
        prompt=prompts[0],
        correction=namespace.correction or CORRECTIONS[0],
        out=out,
        overwrite=namespace.overwrite,
        debug=namespace.debug,
        sharing=given_sharing(namespace),
    )


def _short_name(model: str) -> str:
    """Return a model's name, or its file's name without the ending; a name may contain dots."""
    name = Path(model).name
    ending = next((e for e in (".safetensors", ".pt", ".pth") if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


@dataclass(frozen=True)
class EvaluatedCase:
    """A case that was evaluated.

    Attributes:
        about: the model, device and precision. notes: on the case, for the user.
    """

    targets: tuple[EvaluatedTarget, ...]
    about: Mapping[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CaseWork:
    """A case for a worker: what `_Evaluator` needs, and the number of GPUs that the workers share."""

    case: Case
    how: EvaluationManner
    gpus: int


@dataclass(frozen=True)
class EvaluationManner:
    """The settings for all cases: the weights file, its family and configuration, and the command's options.

    Attributes:
        identity: see `ChosenModel`. family, config: None: taken from the file.
        options: of the evaluation, those of its runs included.
    """

    path: Path
    identity: str
    family: str | None
    config: str | None
    device: str
    input_size: int | None
    precision: str
    motion: bool
    options: EvaluationOptions


def run_evaluate(
    command: EvaluateCommand,
    store: ModelStore,
    progress: ProgressPrinter,
    should_cancel: Callable[[], bool],
) -> list[str]:
    """Measure the model; return the table's lines.

    Raises:
        InputError, SAM2PropagateError: as `find_cases`, `LoadedCase`, `load_model`, `check_output`,
            `open_workers` and `fleet.results`.
        Cancelled: nothing is written.
    """
    # Imported late, as it imports torch.
    from SAM2PropagateLib.training.cases import find_cases

    check_output(command.out, command.overwrite)
    cases = find_cases(command.cases, command.sequence)
    chosen = chosen_model(store, command.model, command.config)
    how = EvaluationManner(
        chosen.path,
        chosen.identity,
        chosen.family,
        chosen.config,
        command.device,
        command.input_size,
        command.precision,
        command.motion,
        EvaluationOptions(command.prompt, command.correction, _CORRECTION_COUNT, run=command.run),
    )
    done: dict[int, EvaluatedCase] = {}
    if command.sharing is None:
        evaluator = _Evaluator(how)
        for number, case in enumerate(cases):

            def tell(title: str, place: int = number + 1) -> None:
                if should_cancel():
                    raise Cancelled()
                progress(_STAGE, ProgressEvent(None, f"{title} (case {place} of {len(cases)})"))

            done[number] = evaluator(case, tell)
    else:
        gpus = gpus_for(command.sharing, command.device)
        workers = open_workers(
            command.sharing,
            lambda: chosen.memory_mb,
            lambda: gpus,
            command.out.with_name(command.out.name + ".workers").absolute(),
            lambda text: progress.note(f"Note: {text}"),
        )
        with workers as fleet:
            progress(_STAGE, ProgressEvent(None, f"{len(cases)} {plural(len(cases), 'case', 'cases')}"))
            works = [CaseWork(_absolute(case), how, gpus) for case in cases]
            for number, answer in results(fleet, evaluate_on_worker, works, should_cancel):
                done[number] = answer
                progress(_STAGE, ProgressEvent(None, done=len(done), total=len(cases)))
    for number, case in enumerate(cases):
        for note in done[number].notes:
            progress.note(f"Note on “{case.name}”: {note}")
    found = [target for number in range(len(cases)) for target in done[number].targets]
    with atomic_output(command.out, command.overwrite) as file:
        file.write(_document(found, command, dict(done[0].about)))
    return [*table(found), *_windows(found), f"Wrote {command.out}"]


def evaluate_on_worker(work: CaseWork) -> EvaluatedCase | SAM2PropagateError:
    """Evaluate a case on this worker; return errors instead of raising them."""
    from SAM2PropagateLib.cohort.on_worker import begin_computing

    device = begin_computing(work.how.device, work.gpus)
    try:
        return _evaluator(replace(work.how, device=device))(work.case)
    except SAM2PropagateError as error:
        return error


@functools.lru_cache(maxsize=1)
def _evaluator(how: EvaluationManner) -> _Evaluator:
    """Return this process's evaluator, with its model."""
    return _Evaluator(how)


class _Evaluator:
    """Evaluates cases with a model that it loads once."""

    def __init__(self, how: EvaluationManner) -> None:
        from SAM2PropagateLib.engine.engine import PropagationEngine
        from SAM2PropagateLib.engine.families import load_model

        loaded = load_model(
            how.path,
            how.family,
            config=how.config,
            device=how.device,
            input_size=how.input_size,
            precision=how.precision,
        )
        self._about = {
            **loaded.description,
            "motion": how.motion,
            "axes": ALL_AXES if how.options.run.all_axes else "one",
        }
        self._engine = PropagationEngine(loaded, motion=how.motion)
        self._options = how.options

    def __call__(self, case: Case, tell: Callable[[str], None] = lambda title: None) -> EvaluatedCase:
        """Return the scores of a case.

        Args:
            tell: called with the title of each structure before it is evaluated; may raise.
        """
        from SAM2PropagateLib.training.loaded_case import LoadedCase

        one = LoadedCase(case)
        usable = set(one.usable())
        found = []
        for structure in range(len(one.names)):
            target = one.structure(structure)
            tell(target.target.title)
            # A new session each time, as slices that are encoded already would make it faster.
            scores = evaluate(target, self._engine.open_axes(target.frames, "auto"), self._options)
            found.append(EvaluatedTarget(target.target.title, structure in usable, scores, one.window))
        return EvaluatedCase(tuple(found), self._about, tuple(one.notes))


def _absolute(case: Case) -> Case:
    """Return a case with absolute paths, for a process in another folder."""
    return replace(case, image=case.image.absolute(), label=case.label.absolute())


def _windows(found: Sequence[EvaluatedTarget]) -> list[str]:
    """Return the windows of the structures, and the reasons for them."""
    counts = Counter(str(one.window.reason) for one in found)
    return [f"Window of {count} of {len(found)} structures: {reason}." for reason, count in counts.items()]


def table(found: Sequence[EvaluatedTarget]) -> list[str]:
    """Return the table: a row per structure, the mean of those that count, and those that do not."""
    counted = [one for one in found if one.counts]
    apart = [one for one in found if not one.counts]
    rows = [_row(one.target, _figures(one.scores)) for one in counted]
    if counted:
        rows.append(_row(f"MEAN OF {len(counted)}", _means(counted)))
    rows += [_row(one.target + " (apart)", _figures(one.scores)) for one in apart]
    lines = [_HEADINGS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _figures(scores: Scores) -> tuple[float, ...]:
    after = scores.after
    return (
        scores.preview,
        scores.volume,
        scores.volume_in_range,
        scores.surface,
        after[0],
        after[-1],
        scores.slices_per_second,
    )


def _means(found: Sequence[EvaluatedTarget]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.mean([_figures(one.scores) for one in found], axis=0))


def _row(name: str, figures: Sequence[float]) -> tuple[str, ...]:
    *scores, speed = figures
    return (name, *(f"{score:.3f}" for score in scores), f"{speed:.1f}")


def _document(found: Sequence[EvaluatedTarget], command: EvaluateCommand, about: dict[str, Any]) -> bytes:
    names = ("preview", "volume", "ends_given", "surface_2mm", "after_1", "after_3", "slices_per_second")
    counted = [one for one in found if one.counts]
    content = {
        **about,
        "cases": str(command.cases),
        "sequence": command.sequence,
        "prompt": command.prompt,
        "correction": command.correction,
        "mean": dict(zip(names, _means(counted), strict=True)) if counted else {},
        "targets": [
            {
                "target": one.target,
                "counts": one.counts,
                "window": {**asdict(one.window.window), "reason": str(one.window.reason)},
                **dict(zip(names, _figures(one.scores), strict=True)),
                "scores": asdict(one.scores),
            }
            for one in found
        ],
    }
    return (json.dumps(content, indent=1) + "\n").encode()
