"""One case with one model: every structure, every kind of prompt; what is finished is kept at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from SAM2PropagateLib.cohort.fleet import unexpected
from SAM2PropagateLib.cohort.on_worker import begin_computing
from SAM2PropagateLib.errors import Cancelled, SAM2PropagateError
from SAM2PropagateLib.evaluation.one_slice import TITLES, evaluate_prompt
from SAM2PropagateLib.evaluation.protocol import EvaluatedSession
from SAM2PropagateLib.evaluation.targets import LoadedTarget
from SAM2PropagateLib.experiment.plan import TOGETHER, ExperimentWork, ModelUse
from SAM2PropagateLib.experiment.record import CaseRecord, PromptRow, read_record, write_record
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.training.loaded_case import LoadedCase, is_one_thing

ALL_LABELS = "all labels"


@dataclass(frozen=True)
class CaseOutcome:
    """What became of a case.

    Attributes:
        record: what is finished. error: why not all is; as `SAM2PropagateError.to_dict`.
    """

    record: CaseRecord
    error: SAM2PropagateError | None = None


Tell = Callable[[str], None]
"""Is told what is evaluated next; may raise `Cancelled`."""
Between = Callable[[], None]
"""Is called between two slices; may raise `Cancelled`."""


def finished_record(work: ExperimentWork) -> CaseRecord | None:
    """Return the record of a case that is finished already, made from the same; else None."""
    record = read_record(work.record)
    is_same = record is not None and record.fingerprint == work.fingerprint
    return record if is_same and record is not None and set(work.options.kinds) <= set(record.kinds) else None


def do_case(
    work: ExperimentWork, tell: Tell = lambda title: None, between: Between = lambda: None
) -> CaseOutcome:
    """Evaluate what is not finished of a case.

    Returns:
        What became of it; everything that is wrong with this case alone is in there.

    Raises:
        Cancelled: `tell` or `between` said so; what is finished is kept.
    """
    record = read_record(work.record)
    if record is None or record.fingerprint != work.fingerprint:
        record = CaseRecord(work.fingerprint)
    if set(work.options.kinds) <= set(record.kinds):
        return CaseOutcome(record)
    doing = _Doing(work, record)
    try:
        doing.run(tell, between)
    except Cancelled:
        raise
    except SAM2PropagateError as error:
        return CaseOutcome(doing.record, error)
    except Exception as error:
        told = unexpected(error, "case", "Give fewer --workers, or a smaller --input-size.")
        return CaseOutcome(doing.record, told)
    return CaseOutcome(doing.record)


def do_case_on_worker(work: ExperimentWork) -> CaseOutcome:
    """Evaluate what is not finished of a case on the worker that this runs on."""
    device = begin_computing(work.model.device, work.gpus)
    return do_case(replace(work, model=replace(work.model, device=device)))


class _Doing:
    """The evaluation of a case; `record` grows."""

    def __init__(self, work: ExperimentWork, record: CaseRecord) -> None:
        self._work = work
        self.record = record

    def run(self, tell: Tell, between: Between) -> None:
        """Evaluate what the record lacks; it is written after each row."""
        work, options = self._work, self._work.options
        one = LoadedCase(work.case)
        opened = opener(work.model)
        window = one.window.window
        self.record = replace(
            self.record,
            about=opened.about,
            window=f"{window.width:g} {window.level:g} ({one.window.reason})",
            absent=() if options.structures == TOGETHER else tuple(one.absent),
            notes=tuple(one.notes),
        )
        for target, counts in structures(one, options.structures):
            name = target.target.name
            for kind in options.kinds:
                if self.record.row_of(name, kind) is None:
                    tell(f"{target.target.title}, {TITLES[kind]}")
                    # A new session each: what it saw of other prompts would change what it sees now.
                    session = opened.open(target.frames)
                    scores = evaluate_prompt(target, session, kind, options.where, options.tolerance, between)
                    self.record = self.record.with_row(PromptRow(name, counts, kind, scores))
                    write_record(work.record, self.record)
        done = dict.fromkeys((*self.record.kinds, *options.kinds))
        self.record = replace(self.record, kinds=tuple(done))
        write_record(work.record, self.record)


def structures(one: LoadedCase, how: str) -> Iterator[tuple[LoadedTarget, bool]]:
    """Yield the structures of a case, and whether one prompt can mean each; all labels are one structure with
    `TOGETHER`."""
    described = max(len(one.names) + len(one.absent), len(set(one.case.names) - {0}))
    if how == TOGETHER and described > 1:
        targets = [one.structure(number) for number in range(len(one.names))]
        mask = targets[0].mask.copy()
        for other in targets[1:]:
            mask |= other.mask
        target = replace(targets[0].target, name=ALL_LABELS, values=())
        yield LoadedTarget(target, one.frames, mask), is_one_thing(mask)
        return
    usable = set(one.usable())
    for number in range(len(one.names)):
        yield one.structure(number), number in usable


@dataclass(frozen=True)
class Opener:
    """A loaded model: opens sessions with it. `about`: what it is, and how it computes."""

    about: dict[str, Any]
    open: Callable[[FrameStack], EvaluatedSession]


@functools.lru_cache(maxsize=1)
def opener(model: ModelUse) -> Opener:
    """Load a model; it stays in this process until another one is asked for. Raises as `load_model`."""
    # Late: they bring torch along.
    from SAM2PropagateLib.engine.engine import PropagationEngine
    from SAM2PropagateLib.engine.families import load_model

    loaded = load_model(
        model.path,
        model.family,
        config=model.config,
        device=model.device,
        input_size=model.input_size,
        precision=model.precision,
    )
    about = {**loaded.description, "motion": model.motion}
    engine = PropagationEngine(loaded, motion=model.motion)
    return Opener(about, lambda frames: engine.open(frames, "auto"))
