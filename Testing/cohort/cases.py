"""A cohort of small volumes, run in this process or by real workers, with sessions that draw discs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SAM2PropagateLib.cli.cohort import read_window, say_prompts
from SAM2PropagateLib.cohort.fleet import Fleet
from SAM2PropagateLib.cohort.job import Manner, VolumeOutcome, segment_volume
from SAM2PropagateLib.cohort.manifest import read_manifest
from SAM2PropagateLib.cohort.on_worker import VolumeWork
from SAM2PropagateLib.cohort.running import CohortPlan, Result, run_cohort
from SAM2PropagateLib.worker.messages import LoadModel
from SAM2PropagateLib.worker.session import Call
from Testing.cli.fake_session import FakeJobSession
from Testing.cli.running import ras_of, words, write_volume
from Testing.worker.forked import REAL

INSIDE = "--point-ras " + " ".join(words(ras_of(7, 9, 3)))
"""A point in the volumes of `write_volumes`, as a manifest has it."""


def write_volumes(folder: Path, *names: str) -> None:
    """Small volumes of these names."""
    for name in names:
        write_volume(folder / name)


def write_manifest(folder: Path, *rows: str) -> Path:
    """A manifest of rows with volume, segment and prompts; {inside} is a point within."""
    text = "volume,segment,prompts\n" + "".join(row.replace("{inside}", INSIDE) + "\n" for row in rows)
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


class SerialFleet:
    """Does everything here and now, one after the other."""

    def each(
        self, function: Callable[[Any], Any], items: Sequence[Any], should_cancel: Callable[[], bool]
    ) -> Iterator[tuple[int, Any]]:
        from SAM2PropagateLib.errors import Cancelled

        for number, item in enumerate(items):
            if should_cancel():
                raise Cancelled()
            try:
                answer = function(item)
            except Exception as error:
                answer = error
            yield number, answer


@dataclass
class CohortRun:
    """A run of a cohort in this process; what it did and was told.

    Attributes:
        session: that all volumes share. should_cancel: asked before each volume.
        computed: the names of the volumes that were worked on. outcomes: as they came.
        no_workers: why there are none.
    """

    session: FakeJobSession = field(default_factory=FakeJobSession)
    should_cancel: Callable[[], bool] = lambda: False
    computed: list[str] = field(default_factory=list)
    outcomes: list[VolumeOutcome] = field(default_factory=list)
    is_opened: bool = False
    no_workers: Exception | None = None

    def begun(self, total: int, finished: int) -> None:
        self.total, self.already = total, finished

    def finished(self, outcome: VolumeOutcome) -> None:
        self.outcomes.append(outcome)

    def __call__(
        self,
        manifest: Path,
        out: Path,
        *,
        model: str | LoadModel = "tiny",
        identity: str = "",
        take: Callable[[VolumeWork], object] = lambda work: None,
        **options: Any,
    ) -> Result:
        request = LoadModel(name=model) if isinstance(model, str) else model
        manner = Manner(request, identity or f"weights of {request.name}", **options.pop("manner", {}))
        entries = read_manifest(manifest, say_prompts(manner.axis))
        plan = CohortPlan(entries, manifest.stem, out, manner, read_window, **options)

        @contextlib.contextmanager
        def fleet() -> Iterator[Fleet]:
            self.is_opened = True
            if self.no_workers is not None:
                raise self.no_workers
            yield SerialFleet()

        def work(item: VolumeWork) -> VolumeOutcome:
            self.computed.append(item.job.out.name)
            take(item)
            return segment_volume(item.job, item.fingerprint, self.session)

        return run_cohort(plan, fleet, self, self.should_cancel, work=work)


# --- for real workers: how they start, and functions that they import


@contextlib.contextmanager
def forked_workers(**variables: str) -> Iterator[None]:
    """Have Dask fork its workers from a process that has imported what they need (Linux), with these
    variables in their environment."""
    import dask
    from distributed.utils import get_mp_context

    forks = sys.platform.startswith("linux")
    settings = {"distributed.worker.multiprocessing-method": "forkserver" if forks else "spawn"}
    settings |= {f"distributed.nanny.environ.{name}": value for name, value in variables.items()}
    with dask.config.set(settings):
        context = get_mp_context()
        if forks:
            # In place of Dask's own list, which it gives when it is asked for the first time.
            context.set_forkserver_preload(["distributed", *REAL])
        yield


class SlowSession(FakeJobSession):
    """Notes in a file that a volume is propagated; where the file `stuck` is there, the second one hangs.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        note(folder, f"session {os.getpid()}")

    def propagate(self, name: str, *arguments: Any, **options: Any) -> Any:
        note(self._folder, f"volume {os.getpid()}")
        begun = sum(one.startswith("volume") for one in notes(self._folder))
        if (self._folder / "stuck").exists() and begun > 1:
            self.seconds_per_frame = 600.0
        return super().propagate(name, *arguments, **options)


def note(folder: Path, text: str) -> None:
    """Add a line to the notes of all processes."""
    with (folder / "notes.txt").open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def notes(folder: Path) -> list[str]:
    """All notes."""
    path = folder / "notes.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def slow_session(threads: int) -> SlowSession:
    """For workers that find the folder in their environment."""
    return SlowSession(Path(os.environ["COHORT_TEST_FOLDER"]))


def die(item: tuple[str, int]) -> str:
    """Kill the process that this runs in, so many times for this name; then the name."""
    name, times = item
    folder = Path(os.environ["COHORT_TEST_FOLDER"])
    note(folder, name)
    if notes(folder).count(name) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    return name


def fail(item: tuple[str, int]) -> str:
    """Raise, so many times for this name; then the name."""
    name, times = item
    folder = Path(os.environ["COHORT_TEST_FOLDER"])
    note(folder, name)
    if notes(folder).count(name) <= times:
        raise OSError(f"{name} is out of order")
    return name


__all__ = ["Call", "CohortRun", "SerialFleet", "die", "fail", "forked_workers", "notes", "slow_session"]
