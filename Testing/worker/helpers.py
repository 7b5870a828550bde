"""What the tests of the worker share: a small volume, prompts, scripted workers, and what is left of them."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.values import Click, PromptSet, Ras, SegmentPrompts
from SAM2PropagateLib.worker.client import Deadlines
from SAM2PropagateLib.worker.command import LIBRARY_FOLDER, WorkerCommand, worker_command
from SAM2PropagateLib.worker.messages import LoadModel
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.shared import SharedFolder
from SAM2PropagateLib.worker.transport import PopenTransport
from Testing.worker.fake_worker import SCRIPT_VARIABLE
from Testing.worker.forked import REAL, SCRIPTED, forks

ROOT = LIBRARY_FOLDER.parent
MODEL = LoadModel(name="fake")
WINDOW = Window(200.0, 100.0)
FRAMES, ROWS, COLUMNS = 12, 40, 50
GEOMETRY = VolumeGeometry((COLUMNS, ROWS, FRAMES), np.diag([-1.0, -1.0, 2.5, 1.0]))


def volume_array() -> NDArray[np.int16]:
    """(12, 40, 50) int16 without two equal slices."""
    rng = np.random.default_rng(3)
    return rng.integers(0, 200, (FRAMES, ROWS, COLUMNS)).astype(np.int16)


def stack(array: NDArray[Any] | None = None, window: Window = WINDOW) -> FrameStack:
    return FrameStack(volume_array() if array is None else array, GEOMETRY, 2, window)


def ras(x: float, y: float, frame: int) -> Ras:
    """World coordinates of a pixel of frame `frame` along k."""
    point = GEOMETRY.ras_of_pixel(x, y, frame, 2)
    return float(point[0]), float(point[1]), float(point[2])


def prompts(*segments: str, frame: int = 5) -> PromptSet:
    """One positive click for each segment, on one frame."""
    names = segments or ("liver",)
    clicks = [Click(f"c-{name}", ras(10 + number, 12, frame)) for number, name in enumerate(names)]
    return PromptSet(
        tuple(SegmentPrompts(name, clicks=(click,)) for name, click in zip(names, clicks, strict=True))
    )


def fake_command(script: Mapping[str, Any] | None = None, **variables: str) -> WorkerCommand:
    """The command that starts the scripted worker in a real process."""
    return command_of(
        "Testing.worker.fake_worker", **{SCRIPT_VARIABLE: json.dumps(script or {}), **variables}
    )


def command_of(module: str, **variables: str) -> WorkerCommand:
    """The command that starts a worker of the tests, with these variables in its environment."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIBRARY_FOLDER), str(ROOT)]), **variables}
    return replace(worker_command(sys.executable, module=module, base_env=env), cwd=ROOT)


class Workers:
    """Starts one scripted worker after the other (the last script is used again and again) and knows them.

    Args:
        popen: starts a worker, as `subprocess.Popen`; None: a fork.
    """

    def __init__(self, *scripts: Mapping[str, Any], popen: Callable[..., Any] | None = None) -> None:
        self.scripts = list(scripts) or [{}]
        self._popen = popen or forks(SCRIPTED)
        self.started: list[PopenTransport] = []

    def __call__(self) -> PopenTransport:
        script = self.scripts[min(len(self.started), len(self.scripts) - 1)]
        self.started.append(PopenTransport(fake_command(script), popen=self._popen))
        return self.started[-1]

    @property
    def pids(self) -> list[int]:
        return [transport.pid for transport in self.started]


def open_session(
    *scripts: Mapping[str, Any],
    tmp_path: Path,
    deadlines: Deadlines | None = None,
    is_remote: bool = False,
    folder: SharedFolder | None = None,
    clock: Callable[[], float] = time.monotonic,
    popen: Callable[..., Any] | None = None,
) -> tuple[WorkerSession, Workers]:
    """A session of scripted workers that shares its files in `tmp_path`; no model, no volume yet."""
    workers = Workers(*scripts, popen=popen)
    session = WorkerSession(
        workers,
        deadlines=deadlines,
        is_remote=is_remote,
        folder=folder or SharedFolder([tmp_path]),
        clock=clock,
    )
    return session, workers


def forked_session(command: WorkerCommand | None = None, **options: Any) -> WorkerSession:
    """A session of the worker that ships, or of this one, forked."""
    command = command or worker_command(sys.executable)
    return WorkerSession(lambda: PopenTransport(command, popen=forks(REAL)), **options)


def small_session(*_: object) -> WorkerSession:
    """A session of the worker with a small input, forked; takes the place of `WorkerSession`, too."""
    return forked_session(command_of("Testing.worker.small_worker"))


def ready_session(
    *scripts: Mapping[str, Any], tmp_path: Path, **options: Any
) -> tuple[WorkerSession, Workers]:
    """`open_session` with the model chosen and the volume "ct" open (or failed to)."""
    session, workers = open_session(*scripts, tmp_path=tmp_path, **options)
    session.load_model(MODEL)
    session.open_volume("ct", volume_array(), GEOMETRY, axis=2, window=WINDOW)
    return session, workers


def own_threads() -> list[str]:
    """The names of the living threads of clients and servers."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sam2propagate")]


def children(log: list[str]) -> list[int]:
    """The processes that a scripted worker said it had started."""
    return [int(line.split()[1]) for line in log if line.startswith("child ")]


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        # ProcessLookupError: it has ended between the opening and the reading.
        if Path("/proc").is_dir():
            return False
    else:
        return state != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def soon(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether the condition becomes true; waits that long only for what never does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def hold_interpreter(seconds: float) -> None:
    """Waits without giving the interpreter's lock away, as Slicer's main thread does between two timers."""
    # A function called through PyDLL keeps the lock.
    if sys.platform == "win32":
        ctypes.PyDLL("kernel32").Sleep(int(seconds * 1000))
    else:
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))
