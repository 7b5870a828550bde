"""Does the work of a worker, which keeps the model from volume to volume, in a process of its own."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from SAM2PropagateLib.cohort.fleet import tell_news, this_worker
from SAM2PropagateLib.cohort.job import KeptSession, VolumeJob, VolumeOutcome, segment_volume
from SAM2PropagateLib.numerals import whole_number
from SAM2PropagateLib.worker.command import OPENMP_SETTINGS, worker_command
from SAM2PropagateLib.worker.session import WorkerSession

_NEWS_SECONDS = 1.0

MakeSession = Callable[[int], KeptSession]


@dataclass(frozen=True)
class VolumeWork:
    """A volume for a worker.

    Attributes:
        job: the work. fingerprint: of the job.
        gpus: number of GPUs on the computer for numbered workers; 0: the job names the device.
        make_session: makes the session with the model, for a number of threads; a function of a module.
    """

    job: VolumeJob
    fingerprint: str
    gpus: int
    make_session: MakeSession


def begin_computing(device: str, gpus: int) -> str:
    """Prepare a worker that computes in its own process, before it imports torch; return its device.

    Args:
        device: the user's choice.
        gpus: number of GPUs on this computer for numbered workers; 0: `device` decides.
    """
    name, threads = this_worker()
    for variable, value in {**OPENMP_SETTINGS, "OMP_NUM_THREADS": str(threads)}.items():
        os.environ[variable] = value
    return _own_device(name, device, gpus)


def _own_device(worker: str, device: str, gpus: int) -> str:
    """Return a worker's device: numbered workers take the GPUs in turn; without GPUs, the user's choice."""
    number = whole_number(worker)
    return f"cuda:{number % gpus}" if gpus and number is not None else device


def local_session(threads: int) -> WorkerSession:
    """Return a session that will run its worker with this many threads."""
    return WorkerSession(worker_command(base_env={**os.environ, "OMP_NUM_THREADS": str(threads)}))


class _OwnSession:
    """The session of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._session: KeptSession | None = None
        self._model = ""

    def get(self, make: MakeSession, threads: int, model: str) -> KeptSession:
        """Return the session, and make it if there is none for this model.

        Args:
            model: its identity; another file may lie where one was that is loaded already.
        """
        if model != self._model:
            self.drop()
        if self._session is None:
            self._session, self._model = make(threads), model
            atexit.register(self.drop)
        return self._session

    def drop(self) -> None:
        """End the session; the next volume gets a new one."""
        session, self._session = self._session, None
        if session is not None:
            session.close(0.0)


_kept = _OwnSession()


def work_on(work: VolumeWork) -> VolumeOutcome:
    """Segment a volume on this worker. Raises as `segment_volume`."""
    name, threads = this_worker()
    job = work.job
    model = replace(job.manner.model, device=_own_device(name, job.manner.model.device, work.gpus))
    job = replace(job, manner=replace(job.manner, model=model))
    # A worker with several threads may get several volumes at once.
    with _kept.lock:
        session = _kept.get(work.make_session, threads, job.manner.model_identity)
        news = _News()
        try:
            return segment_volume(job, work.fingerprint, session, news.add)
        except Exception:
            _kept.drop()
            raise
        finally:
            news.send()


class _News:
    """Sends the number of new slices from time to time."""

    def __init__(self) -> None:
        self._count = 0
        self._sent_at = time.monotonic()

    def add(self, count: int) -> None:
        """Count new slices."""
        self._count += count
        if time.monotonic() - self._sent_at >= _NEWS_SECONDS:
            self.send()

    def send(self) -> None:
        """Send the number of slices that were not reported yet."""
        if self._count:
            tell_news(self._count)
        self._count, self._sent_at = 0, time.monotonic()
