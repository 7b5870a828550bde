"""Runs a cohort: shares out the unfinished volumes, and writes table and page."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from SAM2PropagateLib.cohort.fleet import TRIES_AGAIN, Fleet, LostWork
from SAM2PropagateLib.cohort.folder import check_own, clear_parts, held
from SAM2PropagateLib.cohort.job import Manner, ModelDied, VolumeJob, VolumeOutcome, finished_record
from SAM2PropagateLib.cohort.manifest import Entry, output_names
from SAM2PropagateLib.cohort.on_worker import MakeSession, VolumeWork, local_session, work_on
from SAM2PropagateLib.cohort.page import PAGE_START, write_page
from SAM2PropagateLib.cohort.record import STATE_FOLDER, OutputFiles, VolumeRecord, read_record, read_records
from SAM2PropagateLib.cohort.table import TABLE_START, Line, lines_of, write_table
from SAM2PropagateLib.errors import InputError, SAM2PropagateError

TABLE_NAME, PAGE_NAME = "cohort.csv", "cohort.html"

ReadWindow = Callable[[str], str | tuple[float, float] | None]


@dataclass(frozen=True)
class CohortPlan:
    """The plan of a run.

    Attributes:
        entries: of the manifest. title: of the page.
        out: the folder for all outputs.
        manner: the settings for all volumes.
        read_window: parses a manifest's text for a window, or raises InputError.
        resume: keep what an earlier run finished. overwrite: replace existing outputs.
    """

    entries: tuple[Entry, ...]
    title: str
    out: Path
    manner: Manner
    read_window: ReadWindow
    resume: bool = False
    overwrite: bool = False


class CohortListener(Protocol):
    """Gets the progress of a run."""

    def begun(self, total: int, finished: int) -> None:
        """Take the number of volumes, and of those that are finished already, at the beginning."""

    def finished(self, outcome: VolumeOutcome) -> None:
        """Take a volume that is done or has failed."""


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        volumes: their number. done, failed: numbers of these. table, page: the written files.
    """

    volumes: int
    done: int
    failed: int
    table: Path
    page: Path


def run_cohort(
    plan: CohortPlan,
    open_workers: Callable[[], contextlib.AbstractContextManager[Fleet]],
    listener: CohortListener,
    should_cancel: Callable[[], bool],
    *,
    gpus: Callable[[], int] = lambda: 0,
    make_session: MakeSession = local_session,
    work: Callable[[VolumeWork], VolumeOutcome] = work_on,
) -> Result:
    """Segment all volumes that are not finished yet, then write the table and the page.

    Args:
        open_workers: opens the workers; not called if nothing is left to do.
        gpus, make_session: see `VolumeWork`.
        work: segments one volume, on a worker.

    Raises:
        InputError: `cohort_exists`, `cohort_running`, `output_exists`, `output_unwritable`.
        Cancelled: `should_cancel` returned True; table and page have the finished volumes.
        SAM2PropagateError: the workers cannot be opened; `disk_full`.
    """
    with held(plan.out, STATE_FOLDER, "cohort_running"):
        _prepare(plan)
        volumes = _Volumes(plan)
        listener.begun(len(plan.entries), volumes.done)
        for outcome in volumes.refused():
            listener.finished(outcome)
        todo = volumes.todo(make_session, gpus)
        # Without workers nothing is begun, and nothing written.
        is_begun = not todo
        try:
            if todo:
                with open_workers() as fleet:
                    is_begun = True
                    for number, answer in fleet.each(work, todo, should_cancel):
                        outcome = _outcome(todo[number].job, answer)
                        volumes.settle(outcome)
                        listener.finished(outcome)
        finally:
            if is_begun:
                lines = volumes.lines()
                write_table(plan.out / TABLE_NAME, plan.out, lines)
                write_page(plan.out / PAGE_NAME, plan.title, lines, _pictures(plan.out))
    return Result(
        len(plan.entries), volumes.done, volumes.failed, plan.out / TABLE_NAME, plan.out / PAGE_NAME
    )


class _Volumes:
    """The volumes of a manifest, and their outcomes."""

    def __init__(self, plan: CohortPlan) -> None:
        self._plan = plan
        records = read_records(plan.out)
        known = {record.key: record.name for record in records.values()}
        self._names = output_names(plan.entries, known)
        _clear(plan.out, self._names)
        self._records: dict[str, VolumeRecord] = {}
        self._errors: dict[str, SAM2PropagateError] = {}
        self._jobs: list[tuple[VolumeJob, str]] = []
        for entry, name in zip(plan.entries, self._names, strict=True):
            try:
                if entry.fault is not None:
                    raise entry.fault
                job = self._job(entry, name)
            except InputError as error:
                self._errors[name] = error
                continue
            fingerprint = job.fingerprint()
            record = finished_record(job, fingerprint)
            if record is not None:
                self._records[name] = record
            else:
                self._jobs.append((job, fingerprint))

    def _job(self, entry: Entry, name: str) -> VolumeJob:
        plan = self._plan
        return VolumeJob(
            entry.key,
            entry.volume,
            OutputFiles(plan.out, name),
            plan.manner,
            entry.sources,
            entry.series,
            entry.part,
            plan.read_window(entry.window) if entry.window else None,
            plan.overwrite,
        )

    @property
    def done(self) -> int:
        """The number of finished volumes."""
        return len(self._records)

    @property
    def failed(self) -> int:
        """The number of failed volumes."""
        return len(self._errors)

    def refused(self) -> Iterator[VolumeOutcome]:
        """Yield the outcomes of volumes with a fault in the manifest."""
        for name, error in self._errors.items():
            yield VolumeOutcome(name, error=error)

    def todo(self, make_session: MakeSession, gpus: Callable[[], int]) -> list[VolumeWork]:
        """Return the work that is left."""
        if not self._jobs:
            return []
        count = gpus()
        return [VolumeWork(job, fingerprint, count, make_session) for job, fingerprint in self._jobs]

    def settle(self, outcome: VolumeOutcome) -> None:
        """Note the outcome of a volume."""
        if outcome.record is not None:
            self._records[outcome.name] = outcome.record
        elif outcome.error is not None:
            self._errors[outcome.name] = outcome.error

    def lines(self) -> list[Line]:
        """Return the lines of the table."""
        pairs = zip(self._plan.entries, self._names, strict=True)
        return lines_of(
            (str(entry.volume), name, self._records.get(name), self._errors.get(name))
            for entry, name in pairs
        )


def _outcome(job: VolumeJob, answer: VolumeOutcome | BaseException) -> VolumeOutcome:
    """Return the outcome of a volume, also if its worker died or the work raised."""
    if isinstance(answer, VolumeOutcome):
        return answer
    if isinstance(answer, LostWork | ModelDied):
        error = SAM2PropagateError(
            "worker_lost",
            f"Its worker died, and again in {TRIES_AGAIN} more tries.",
            "It may need more memory than there is: give fewer --workers, or segment it alone.",
        )
    else:
        reason = " ".join(f"{type(answer).__name__}: {answer}".split())
        error = SAM2PropagateError("unexpected", f"It failed unexpectedly ({reason}).")
    return VolumeOutcome(job.out.name, error=error)


def _pictures(folder: Path) -> Callable[[Line], bytes]:
    """Return a function that reads the picture of a line from its record."""

    @functools.lru_cache(maxsize=64)
    def record(name: str) -> VolumeRecord | None:
        return read_record(OutputFiles(folder, name).record)

    def picture(line: Line) -> bytes:
        found = record(line.name)
        return found.rows[line.number].picture if found is not None and line.number < len(found.rows) else b""

    return picture


# --- the folder


def _prepare(plan: CohortPlan) -> None:
    """Refuse or clear a folder that holds results of another run, or files of somebody else."""
    check_own(plan.out / TABLE_NAME, TABLE_START, "table of a cohort")
    check_own(plan.out / PAGE_NAME, PAGE_START, "page of a cohort")
    state = plan.out / STATE_FOLDER
    records = list(state.glob("*.json"))
    if not plan.resume and not plan.overwrite and (records or (plan.out / TABLE_NAME).exists()):
        raise InputError(
            "cohort_exists",
            f"“{plan.out}” holds a cohort already.",
            "Add --resume to continue it, --overwrite to do all of it again, or choose another folder.",
        )
    if not plan.resume:
        for record in records:
            record.unlink()
    shutil.rmtree(state / "slurm", ignore_errors=True)


def _clear(out: Path, names: Sequence[str]) -> None:
    files = [OutputFiles(out, name) for name in names]
    begun = {one.segmentation.name for one in files} | {one.report.name for one in files}
    clear_parts(out, out / STATE_FOLDER, begun | {TABLE_NAME, PAGE_NAME})
