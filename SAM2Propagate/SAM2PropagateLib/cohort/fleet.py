"""Shares work out over workers with Dask: on this computer, on an existing scheduler, or on SLURM.

A worker does one piece of work at a time; its threads are for the model.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from SAM2PropagateLib.cohort.needs import LocalPlan
from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.files.unreadable import path_failure
from SAM2PropagateLib.models.memory import is_out_of_memory
from SAM2PropagateLib.numerals import whole_number
from SAM2PropagateLib.worker.command import LIBRARY_FOLDER

TRIES_AGAIN = 3
"""How often work is tried again after the worker that did it has died."""

TOPIC = "sam2propagate"
_HOST = "127.0.0.1"
_TICK_SECONDS = 0.1
# Seconds between two checks for lost workers, which are replaced.
_KEEP_SECONDS = 5.0
# After so many seconds without a worker, the user is told where to look.
_IDLE_SECONDS = 60.0
# The defaults of a job on a cluster.
_JOB_CORES, _JOB_MB = 4, 8192
# SLURM checks a job sooner than this, or is not asked.
_SLURM_SECONDS = 60.0

Item = TypeVar("Item")


@dataclass(frozen=True)
class Sharing:
    """The choice of who computes: this computer, unless a scheduler or SLURM is named.

    Attributes:
        workers: how many; None: as many as this computer can feed, or 1 job of SLURM.
        scheduler: the address of a Dask scheduler, such as tls://host:8786.
        slurm: a partition, then options of sbatch.
    """

    workers: int | None = None
    scheduler: str = ""
    slurm: str = ""


class LostWork(Exception):  # noqa: N818 - what became of the work, not of this program
    """Work that was given up because its workers died one after the other."""


def unexpected(error: Exception, what: str, with_less: str, hint: str = "") -> SAM2PropagateError:
    """Return the error for work that failed for a reason that was not foreseen.

    Args:
        what: the work, such as "volume". with_less: how it needs less memory. hint: for other failures.
    """
    if is_out_of_memory(error):
        return SAM2PropagateError(
            "out_of_memory", f"This {what} needs more memory than the computer has free.", with_less
        )
    failure = path_failure(error)
    if failure is not None:
        return failure
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return SAM2PropagateError("unexpected", f"It failed unexpectedly ({reason}).", hint)


def results(
    fleet: Fleet, function: Callable[[Item], Any], items: Sequence[Item], should_cancel: Callable[[], bool]
) -> Iterator[tuple[int, Any]]:
    """Return all results of `Fleet.each`, in the order of the items; the first failure ends the work.

    Raises:
        Cancelled: `should_cancel` returned True.
        SAM2PropagateError: one that the function returned or raised; `worker_lost`.
    """
    for number, answer in fleet.each(function, items, should_cancel):
        if isinstance(answer, LostWork):
            raise SAM2PropagateError(
                "worker_lost",
                f"A worker died, and again in {TRIES_AGAIN} more tries.",
                "It may need more memory than there is: give fewer --workers.",
            )
        if isinstance(answer, BaseException):
            raise answer
        yield number, answer


class Fleet(Protocol):
    """Shares work out."""

    def each(
        self, function: Callable[[Item], Any], items: Sequence[Item], should_cancel: Callable[[], bool]
    ) -> Iterator[tuple[int, Any]]:
        """Call a function with every item on some worker; yield the item's number and the result, or the
        exception, as they come.

        Raises:
            Cancelled: `should_cancel` returned True.
            SAM2PropagateError: `scheduler_lost`.
        """


class DaskFleet:
    """Workers behind a Dask scheduler.

    Args:
        client: a `distributed.Client`.
        keep: replaces lost workers.
        on_news: called with messages of workers during their work.
        on_idle: called once, if there has been no worker for a while.
    """

    def __init__(
        self,
        client: Any,
        keep: Callable[[], None] = lambda: None,
        on_news: Callable[[Any], None] | None = None,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._keep = keep
        self._on_idle = on_idle
        self._had_one_at: float | None = time.monotonic()
        self._count = 0
        self._kept_at = -float("inf")
        if on_news is not None:
            client.subscribe_topic(TOPIC, lambda event: on_news(event[1]))

    def each(
        self, function: Callable[[Item], Any], items: Sequence[Item], should_cancel: Callable[[], bool]
    ) -> Iterator[tuple[int, Any]]:
        """See `Fleet.each`."""
        left = deque(range(len(items)))
        pending: dict[Any, int] = {}
        try:
            while left or pending:
                if should_cancel():
                    raise Cancelled()
                # Only as many items as workers, so that a worker that dies loses only its own.
                while left and len(pending) < max(1, self._workers()):
                    number = left.popleft()
                    future = self._client.submit(function, items[number], pure=False, retries=TRIES_AGAIN)
                    pending[future] = number
                done = [future for future in pending if future.done()]
                for future in done:
                    yield pending.pop(future), self._result(future)
                    future.release()
                if not done:
                    time.sleep(_TICK_SECONDS)
        finally:
            if pending:
                with contextlib.suppress(Exception):
                    self._client.cancel(list(pending), force=True)

    def _workers(self) -> int:
        now = time.monotonic()
        if now - self._kept_at >= (_KEEP_SECONDS if self._count else _TICK_SECONDS):
            self._kept_at = now
            self._keep()
            self._count = len(self._client.nthreads())
            if self._count:
                self._had_one_at = now
            elif self._had_one_at is not None and now - self._had_one_at > _IDLE_SECONDS:
                self._had_one_at = None
                self._on_idle()
        return self._count

    def _result(self, future: Any) -> Any:
        from distributed.scheduler import KilledWorker

        if future.status not in ("finished", "error"):
            raise SAM2PropagateError(
                "scheduler_lost",
                "The connection to the Dask scheduler was lost.",
                "Start again with --resume; what is finished stays.",
            )
        try:
            return future.result()
        except KilledWorker as error:
            return LostWork(str(error))
        except Exception as error:
            return error


@contextlib.contextmanager
def open_fleet(
    sharing: Sharing,
    local: Callable[[], LocalPlan],
    folder: Path,
    tell: Callable[[str], None],
    on_news: Callable[[Any], None] | None = None,
) -> Iterator[DaskFleet]:
    """Open the workers of `sharing` for the duration of the context.

    Args:
        local: returns what this computer has room for; called only for workers on this computer.
        folder: for keys and logs of a cluster's jobs; all computers must see it.
        tell: called with sentences for the user.
        on_news: called with what `tell_news` sends.

    Raises:
        SAM2PropagateError: `not_installed`, `scheduler_unreachable`, `slurm_failed`.
        InputError: `bad_slurm`.
    """
    dask, distributed = _dask()
    settings = {
        "distributed.scheduler.allowed-failures": TRIES_AGAIN,
        # Dask's HTTP pages on scheduler and workers are not needed.
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.comm.timeouts.connect": "60s",
        # A worker's nanny restarts it, which may take a while on a busy computer. After this time it is
        # replaced.
        "distributed.deploy.lost-worker-timeout": "60s" if sharing.slurm else "300s",
        "distributed.admin.large-graph-warning-threshold": "1GB",
    }
    with dask.config.set(settings), contextlib.ExitStack() as stack:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        keep: Callable[[], None] = lambda: None  # noqa: E731
        where = "Wait, or look whether the computer is busy with something else."
        if sharing.scheduler:
            client = _connect(distributed, sharing.scheduler)
            where = "Start workers for this scheduler, with this package in their environment."
        elif sharing.slurm:
            keys = stack.enter_context(_folder_for_keys(folder))
            cluster, keep = _slurm(sharing, folder, keys, tell)
            stack.callback(_forget_keys, cluster)
            where = f"See squeue; the logs of the jobs are in “{folder}”."
            stack.callback(_quietly, cluster.close)
            client = distributed.Client(cluster)
        else:
            plan = local()
            if plan.note:
                tell(plan.note)
            cluster = _local(distributed, plan)
            stack.callback(_quietly, cluster.close)
            keep = lambda: cluster.scale(plan.workers)  # noqa: E731
            client = distributed.Client(cluster)
        stack.callback(_quietly, client.close)
        yield DaskFleet(client, keep, on_news, lambda: tell(f"There is no worker yet. {where}"))


def tell_news(news: Any) -> None:
    """Send news from a worker to the `on_news` of `open_fleet`."""
    from distributed import get_worker

    get_worker().log_event(TOPIC, news)


def this_worker() -> tuple[str, int]:
    """Return the name of the present worker, and the number of threads for its model."""
    from distributed import get_worker

    worker = get_worker()
    return str(worker.name), int(worker.state.nthreads)


def _dask() -> tuple[Any, Any]:
    try:
        import cryptography  # noqa: F401
        import dask
        import distributed
    except ImportError as error:
        raise SAM2PropagateError(
            "not_installed",
            f"The Python package “{error.name}”, which shares work out, is missing.",
            "Install it with: pip install 'sam2propagate[cohort]', or in a checkout with run.py.",
        ) from error
    return dask, distributed


def _local(distributed: Any, plan: LocalPlan) -> Any:
    """Return workers on this computer. Their connections stay on it, and no other user's program can make
    one."""
    cluster = distributed.LocalCluster(
        n_workers=0,
        threads_per_worker=plan.threads,
        processes=True,
        host=_HOST,
        protocol="tls://",
        security=distributed.Security.temporary(),
        dashboard_address=f"{_HOST}:0",
        worker_dashboard_address=f"{_HOST}:0",
        # Dask's pages have no keys. It adds them where Bokeh is installed.
        scheduler_kwargs={"dashboard": False},
        # Dask does not see the main memory of the model's own process.
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    )
    cluster.new_spec["options"]["dashboard"] = False
    cluster.scale(plan.workers)
    return cluster


def _connect(distributed: Any, address: str) -> Any:
    try:
        return distributed.Client(address, timeout="20s")
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise SAM2PropagateError(
            "scheduler_unreachable",
            f"The Dask scheduler at “{address}” cannot be reached ({reason}).",
            "Check the address, such as tcp://host:8786, and whether it runs.",
        ) from error


def _slurm(
    sharing: Sharing, folder: Path, keys: Path, tell: Callable[[str], None]
) -> tuple[Any, Callable[[], None]]:
    from dask_jobqueue import SLURMCluster
    from distributed import Security

    given = slurm_options(sharing.slurm)
    jobs = sharing.workers or 1
    try:
        cluster = SLURMCluster(
            queue=given.partition,
            cores=given.cores,
            memory=f"{given.memory_mb}MiB",
            walltime=given.time,
            processes=1,
            # The Python part of the job's command line.
            python=shlex.quote(sys.executable),
            job_name="sam2propagate",
            job_script_prologue=[f"export PYTHONPATH={shlex.quote(str(LIBRARY_FOLDER))}:$PYTHONPATH"],
            job_extra_directives=[
                f'-o "{folder}/%j.log"',
                f'-e "{folder}/%j.log"',
                *given.others,
            ],
            log_directory=None,
            # Keys for this run, which only this user can read, so that other users' programs are refused.
            security=Security.temporary(),
            shared_temp_directory=str(keys),
            # Without Dask's pages, which have no keys.
            scheduler_options={"dashboard_address": ":0", "dashboard": False},
            worker_extra_args=["--no-dashboard"],
            silence_logs="critical",
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise _slurm_failed(str(error)) from error
    try:
        _check_job(cluster.job_script())
        cluster.scale(jobs=jobs)
    except SAM2PropagateError:
        _forget_keys(cluster)
        _quietly(cluster.close)
        raise
    tell(f"Asked SLURM for {jobs} {'job' if jobs == 1 else 'jobs'} in partition {given.partition}.")
    return cluster, lambda: cluster.scale(jobs=jobs)


def _check_job(script: str) -> None:
    """Have SLURM check a job without starting it. A job that it refuses later is only asked for again.

    Raises:
        SAM2PropagateError: `slurm_failed`.
    """
    with tempfile.TemporaryDirectory(prefix="sam2propagate-") as folder:
        file = Path(folder) / "job.sh"
        file.write_text(script, encoding="utf-8")
        try:
            done = subprocess.run(
                ["sbatch", "--test-only", str(file)],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                timeout=_SLURM_SECONDS,
            )
        except FileNotFoundError:
            raise SAM2PropagateError(
                "slurm_failed",
                "There is no program sbatch on this computer.",
                "Start the command where you start jobs of SLURM, such as a cluster's login node.",
            ) from None
        except subprocess.TimeoutExpired:
            # A controller that is slow to answer may take the jobs later.
            return
    if done.returncode:
        raise _slurm_failed(done.stderr or done.stdout)


def _slurm_failed(text: str) -> SAM2PropagateError:
    reason = " ".join(text.split()).removeprefix("sbatch: error: ").rstrip(".")
    return SAM2PropagateError(
        "slurm_failed",
        f"SLURM does not take the jobs ({reason or 'it said nothing'}).",
        "Try the same partition and options with sbatch.",
    )


def _forget_keys(cluster: Any) -> None:
    """Delete the key files of a run now, as they would outlive their folder."""
    for name in ("_job_ca_file", "_job_key", "_job_cert"):
        _quietly(getattr(cluster, name).close)


@contextlib.contextmanager
def _folder_for_keys(folder: Path) -> Iterator[Path]:
    """Give a folder for a run's keys: its own, or one in the user's home if its path has spaces, which a
    job's command line cannot have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if shlex.quote(str(folder)) == str(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="sam2propagate-", dir=Path.home()) as made:
        yield Path(made)


@dataclass(frozen=True)
class SlurmOptions:
    """The value of `--slurm`.

    Attributes:
        partition: of the cluster. cores, memory_mb: of each job. time: its limit in SLURM's form; None: the
            partition's own.
        others: all other options, in sbatch's form.
    """

    partition: str
    cores: int = _JOB_CORES
    memory_mb: int = _JOB_MB
    time: str | None = None
    others: tuple[str, ...] = ()


def slurm_options(text: str) -> SlurmOptions:
    """Parse the words after `--slurm`.

    Raises:
        InputError: `bad_slurm`.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _bad_slurm(f"“{text}” cannot be read ({error}).") from error
    if not words or words[0].startswith("-"):
        raise _bad_slurm("It names no partition.")
    known = {"-c": "cores", "--cpus-per-task": "cores", "--mem": "memory", "-t": "time", "--time": "time"}
    found: dict[str, str] = {}
    others = []
    rest = deque(words[1:])
    while rest:
        word = rest.popleft()
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            raise _bad_slurm(f"“{word}” is no option.")
        if not equals and rest and not rest[0].startswith("-"):
            value = rest.popleft()
            word = f"{name} {value}"
        if name in known:
            found[known[name]] = value
        else:
            others.append(word)
    return SlurmOptions(
        words[0],
        _count(found.get("cores", str(_JOB_CORES))),
        _megabytes(found.get("memory", f"{_JOB_MB}M")),
        found.get("time"),
        tuple(others),
    )


def _count(text: str) -> int:
    number = whole_number(text)
    if not number:
        raise _bad_slurm(f"“{text}” is no number of cores.")
    return number


def _megabytes(text: str) -> int:
    """Parse SLURM's amounts of main memory: megabytes, or a number with K, M, G or T."""
    factors = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
    unit = text[-1:].upper()
    digits, factor = (text[:-1], factors[unit]) if unit in factors else (text, 1)
    number = whole_number(digits)
    if number is None or number * factor < 1:
        raise _bad_slurm(f"“{text}” is no amount of memory.")
    return int(number * factor)


def _bad_slurm(sentence: str) -> InputError:
    return InputError(
        "bad_slurm",
        f"The value of --slurm is wrong: {sentence}",
        'Give a partition and then options of sbatch, such as --slurm "gpu --gres=gpu:1 --mem=16G".',
    )


def _quietly(close: Callable[..., Any]) -> None:
    """Close something that may be closed already."""
    with contextlib.suppress(Exception):
        close()
