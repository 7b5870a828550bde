"""What an experiment is to do, and the work for one case and one model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from SAM2PropagateLib.cohort.prompt_sources import file_stamp
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.evaluation.one_slice import KINDS, MIDDLE
from SAM2PropagateLib.training.case import Case

STATE_FOLDER = ".shen2024"
TOGETHER, EACH = "together", "each"
STRUCTURES = (TOGETHER, EACH)
# The axis of the authors' program: the third of the file.
_AXIS = 2


@dataclass(frozen=True)
class ModelUse:
    """A model and how it computes.

    Attributes:
        title: for the user. path: of its weights.
        identity: changes with the weights or the configuration, not with where they lie.
        family, config, input_size, precision: as for `engine.families.load_model`. device: as the user said.
        motion: carry masks along the image's motion, too.
    """

    title: str
    path: Path
    identity: str
    family: str | None = None
    config: str | None = None
    input_size: int | None = None
    precision: str = "auto"
    motion: bool = True
    device: str = "auto"


@dataclass(frozen=True)
class ExperimentOptions:
    """How every case is evaluated.

    Attributes:
        kinds: of prompts, of `one_slice.KINDS`. where: the prompted slice, of `one_slice.SLICES`.
        tolerance: mm, of the surface Dice.
        structures: all labels as one structure (`TOGETHER`), or each by itself (`EACH`).
    """

    kinds: tuple[str, ...] = KINDS
    where: str = MIDDLE
    tolerance: float = 2.0
    structures: str = TOGETHER


@dataclass(frozen=True)
class DataSet:
    """The cases of one folder.

    Attributes:
        name: to tell it from others; "" where it is the only one.
        cases: to evaluate. refused: names of others, and why they cannot be.
    """

    name: str
    cases: tuple[Case, ...]
    refused: tuple[tuple[str, SAM2PropagateError], ...] = ()


@dataclass(frozen=True)
class ExperimentPlan:
    """What to do.

    Attributes:
        sets: of cases, with different names.
        models: in their order, with different titles.
        options: how.
        out: the folder for everything.
        resume: leave alone what an earlier run finished. overwrite: replace what is there.
    """

    sets: tuple[DataSet, ...]
    models: tuple[ModelUse, ...]
    options: ExperimentOptions
    out: Path
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class ExperimentWork:
    """One case for one model, for a worker.

    Attributes:
        dataset: the name of its data set.
        record: the file that keeps what is finished. fingerprint: of all that it depends on but the prompts.
        gpus: how many there are on this computer for workers that are numbered; 0: the model says the device.
    """

    dataset: str
    case: Case
    model: ModelUse
    options: ExperimentOptions
    record: Path
    fingerprint: str
    gpus: int = 0


def works_of(plan: ExperimentPlan, gpus: int = 0) -> list[ExperimentWork]:
    """Return the work, all cases of a model after each other, so that a worker seldom loads another one."""
    cases = [(one.name, _as_elsewhere(case)) for one in plan.sets for case in one.cases]
    stamps = [(file_stamp(case.image), file_stamp(case.label)) for _, case in cases]
    return [
        ExperimentWork(
            name,
            case,
            model,
            plan.options,
            plan.out / STATE_FOLDER / f"{_digest([model.identity, case.name, str(case.image)])[:24]}.json",
            _fingerprint(case, stamp, model, plan.options),
            gpus,
        )
        for model in plan.models
        for (name, case), stamp in zip(cases, stamps, strict=True)
    ]


def _as_elsewhere(case: Case) -> Case:
    """Return a case with absolute paths, along the axis of the experiment."""
    axis = _AXIS if case.axis is None else case.axis
    return replace(case, image=case.image.absolute(), label=case.label.absolute(), axis=axis)


def _fingerprint(case: Case, stamps: Sequence[str], model: ModelUse, options: ExperimentOptions) -> str:
    """Return what changes with everything that the scores depend on and that shows without reading it."""
    # Its identity says what the model is; how it is called, where it lies and computes does not matter.
    used = {**asdict(model), **dict.fromkeys(("title", "path", "config", "device"), "")}
    how = {**asdict(options), "kinds": ""}
    described = [str(case.image), str(case.label), case.axis, case.channel, case.modality, case.wanted]
    names = [sorted(case.names.items()), sorted(case.regions.items())]
    return _digest([*described, *names, *stamps, used, how])


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode("utf-8", "surrogateescape")).hexdigest()
