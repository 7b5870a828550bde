"""The run of an experiment: what is left to do is shared out, what is finished goes into tables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from SAM2PropagateLib.cohort.fleet import TRIES_AGAIN, Fleet, LostWork
from SAM2PropagateLib.cohort.folder import check_own, clear_parts, held
from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.experiment.plan import STATE_FOLDER, ExperimentPlan, ExperimentWork, works_of
from SAM2PropagateLib.experiment.plot import draw_plot
from SAM2PropagateLib.experiment.record import CaseRecord
from SAM2PropagateLib.experiment.table import (
    LINES_START,
    CaseLine,
    bins_of,
    terminal_table,
    write_bins,
    write_lines,
)
from SAM2PropagateLib.experiment.work import CaseOutcome, do_case_on_worker, finished_record
from SAM2PropagateLib.files.atomic import atomic_output

CSV_NAME, BINS_NAME, PLOT_NAME, TABLE_NAME = "shen2024.csv", "distance.csv", "distance.png", "table.txt"

Item = TypeVar("Item")
Work = Callable[[ExperimentWork], CaseOutcome]


class ExperimentListener(Protocol):
    """Is told how a run goes."""

    def begun(self, total: int, finished: int) -> None:
        """Take the number of pairs of a case and a model, and of those that are finished already."""

    def finished(self, work: ExperimentWork, outcome: CaseOutcome) -> None:
        """Take a pair that is done or has failed."""


@dataclass(frozen=True)
class ExperimentResult:
    """How a run ended.

    Attributes:
        table: its lines. total: pairs of a case and a model, refused ones included. failed: of these.
        files: that were written, the one with every figure first.
    """

    table: tuple[str, ...]
    total: int
    failed: int
    files: tuple[Path, ...]


class HereFleet:
    """Does the work in this process, one piece after the other."""

    def each(
        self, function: Callable[[Item], Any], items: Sequence[Item], should_cancel: Callable[[], bool]
    ) -> Iterator[tuple[int, Any]]:
        """See `Fleet.each`."""
        for number, item in enumerate(items):
            if should_cancel():
                raise Cancelled()
            yield number, function(item)


def run_experiment(
    plan: ExperimentPlan,
    open_workers: Callable[[], contextlib.AbstractContextManager[Fleet]],
    listener: ExperimentListener,
    should_cancel: Callable[[], bool],
    *,
    gpus: Callable[[], int] = lambda: 0,
    work: Work = do_case_on_worker,
) -> ExperimentResult:
    """Evaluate all that is not finished yet, then write the tables and the plot.

    Args:
        open_workers: opens what shares the work out; not asked for where nothing is left to do.
        gpus: see `ExperimentWork`.
        work: does one case, on a worker.

    Raises:
        InputError: `experiment_exists`, `experiment_running`, `output_exists`, `output_unwritable`.
        Cancelled: `should_cancel` said so; the tables hold what is finished.
        SAM2PropagateError: the workers cannot be had; `disk_full`.
    """
    with held(plan.out, STATE_FOLDER, "experiment_running"):
        _prepare(plan)
        works = works_of(plan, gpus())
        outcomes: dict[int, CaseOutcome] = {}
        for number, one in enumerate(works):
            if (record := finished_record(one)) is not None:
                outcomes[number] = CaseOutcome(record)
        listener.begun(len(works), len(outcomes))
        todo = [number for number in range(len(works)) if number not in outcomes]
        # Without workers nothing is begun, and nothing written.
        is_begun = not todo
        try:
            if todo:
                with open_workers() as fleet:
                    is_begun = True
                    for place, answer in fleet.each(work, [works[n] for n in todo], should_cancel):
                        number = todo[place]
                        outcomes[number] = _outcome(works[number], answer)
                        listener.finished(works[number], outcomes[number])
        finally:
            if is_begun:
                result = _written(plan, [(one, outcomes.get(number)) for number, one in enumerate(works)])
    return result


def _outcome(work: ExperimentWork, answer: CaseOutcome | BaseException) -> CaseOutcome:
    """Return what became of a case, also where whoever did it could not say."""
    if isinstance(answer, CaseOutcome):
        return answer
    if isinstance(answer, LostWork):
        error = SAM2PropagateError(
            "worker_lost",
            f"Its worker died, and again in {TRIES_AGAIN} more tries.",
            "It may need more memory than there is: give fewer --workers.",
        )
    else:
        reason = " ".join(f"{type(answer).__name__}: {answer}".split())
        error = SAM2PropagateError("unexpected", f"It failed unexpectedly ({reason}).")
    return CaseOutcome(CaseRecord(work.fingerprint), error)


def _written(
    plan: ExperimentPlan, done: Sequence[tuple[ExperimentWork, CaseOutcome | None]]
) -> ExperimentResult:
    lines = [
        CaseLine(model.title, one.name, name, error=error)
        for model in plan.models
        for one in plan.sets
        for name, error in one.refused
    ]
    for work, outcome in done:
        record, error = (None, None) if outcome is None else (outcome.record, outcome.error)
        lines.append(CaseLine(work.model.title, work.dataset, work.case.name, work.case, record, error))
    options = plan.options
    table = terminal_table(lines, options)
    bins = bins_of(lines, options.kinds)
    csv_file, bins_file, plot_file, table_file = (
        plan.out / name for name in (CSV_NAME, BINS_NAME, PLOT_NAME, TABLE_NAME)
    )
    write_lines(csv_file, lines, options)
    write_bins(bins_file, bins)
    with atomic_output(table_file, True) as file:
        file.write(("\n".join(table) + "\n").encode("utf-8", "backslashreplace"))
    files = [csv_file, bins_file, table_file]
    if bins:
        draw_plot(bins, plot_file, options.where)
        files.append(plot_file)
    else:
        plot_file.unlink(missing_ok=True)
    failed = sum(line.error is not None for line in lines)
    return ExperimentResult(tuple(table), len(lines), failed, tuple(files))


def _check_own(out: Path) -> None:
    """Raise InputError `output_exists` where a file of a name that a run writes is no run's."""
    check_own(out / CSV_NAME, LINES_START, "table of an experiment")
    others = [name for name in (BINS_NAME, PLOT_NAME, TABLE_NAME) if (out / name).exists()]
    if others and not (out / CSV_NAME).exists():
        raise InputError(
            "output_exists",
            f"“{out / others[0]}” exists already, and belongs to no experiment.",
            "Move it elsewhere, or choose another folder.",
        )


def _prepare(plan: ExperimentPlan) -> None:
    """Refuse a folder with files of another run or of somebody else, and clear what may be replaced."""
    _check_own(plan.out)
    state = plan.out / STATE_FOLDER
    records = list(state.glob("*.json"))
    if not plan.resume and not plan.overwrite and (records or (plan.out / CSV_NAME).exists()):
        raise InputError(
            "experiment_exists",
            f"“{plan.out}” holds results already.",
            "Add --resume to continue it, --overwrite to do all of it again, or choose another folder.",
        )
    if not plan.resume:
        for record in records:
            record.unlink()
    clear_parts(plan.out, state, (CSV_NAME, BINS_NAME, PLOT_NAME, TABLE_NAME))
