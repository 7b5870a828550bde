"""Builds the command that starts a worker: which Python, on which computer, with which environment."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker.remote import REMOTE_OPTION, Remote

WORKER_MODULE = "SAM2PropagateLib.worker"
LIBRARY_FOLDER = Path(__file__).resolve().parents[2]
"""The folder that holds SAM2PropagateLib."""


@dataclass(frozen=True)
class WorkerCommand:
    """A command that starts a worker.

    Attributes:
        argv: the command. env: its whole environment. cwd: its folder; None: the present one.
        remote: the server that the worker runs on; None: this computer.
        log_file: the worker's output is appended to it, too.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path | None = None
    remote: Remote | None = None
    log_file: Path | None = None

    @property
    def is_remote(self) -> bool:
        """Whether the worker runs on another computer and cannot map files of this one."""
        return self.remote is not None


def worker_command(
    python: str | None = None,
    remote: Remote | None = None,
    *,
    slicer_home: str | Path | None = None,
    base_env: Mapping[str, str] | None = None,
    module: str = WORKER_MODULE,
) -> WorkerCommand:
    """Return the command for a worker on this computer, or on a server through ssh.

    Args:
        python: the Python on this computer to run it with; None: the one that `find_python` finds.
        remote: the server; None: this computer. ssh must log in without asking.
        slicer_home: `slicer.app.slicerHome`, when called inside Slicer.
        base_env: the environment to start from, inside Slicer `slicer.util.startupEnvironment()`;
            None: that of this process.
        module: what to run as `python -m MODULE`.

    Raises:
        SAM2PropagateError: no_python.
    """
    env = dict(os.environ if base_env is None else base_env)
    if remote is not None:
        argv = remote.command(("-m", module, REMOTE_OPTION), {**_PYTHON_SETTINGS, **_REMOTE_SETTINGS})
        return WorkerCommand(argv, env, None, remote)
    paths = [str(LIBRARY_FOLDER), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    env.update(_PYTHON_SETTINGS)
    executable = python or find_python(slicer_home)
    # Run in the library's folder: `-m` also searches the present folder, which may hold any modules.
    return WorkerCommand((executable, "-m", module), env, LIBRARY_FOLDER)


def find_python(slicer_home: str | Path | None = None) -> str:
    """Return the Python to run a worker with: Slicer's inside Slicer, else the present one.

    Raises:
        SAM2PropagateError: no_python.
    """
    suffix = ".exe" if os.name == "nt" else ""
    own = Path(sys.executable) if sys.executable else None
    folders = [] if slicer_home is None else [Path(slicer_home) / "bin"]
    if own is not None:
        folders += [own.parent, own.parent / "bin", own.parent.parent / "bin"]
    for folder in folders:
        candidate = folder / f"PythonSlicer{suffix}"
        if candidate.is_file():
            return str(candidate)
    if slicer_home is not None and (found := shutil.which("PythonSlicer")):
        return found
    # Inside Slicer, sys.executable can be Slicer itself, which would open a second time.
    if own is not None and own.stem.lower().startswith("python"):
        return str(own)
    raise SAM2PropagateError(
        "no_python",
        _("No Python that can run the worker was found."),
        _("Install Slicer again, or start the command line with a Python that has torch and sam2."),
    )


# OpenMP threads that wait actively make torch twenty times slower while other programs use the cores.
OPENMP_SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE"}

# Unbuffered, so that the log is complete when the worker dies; a crash in compiled code logs its place.
_PYTHON_SETTINGS = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONIOENCODING": "utf-8",
    "PYTHONFAULTHANDLER": "1",
    **OPENMP_SETTINGS,
}

# `-m` must not search the home folder, which may hold any modules (Python 3.11 and newer obey this).
_REMOTE_SETTINGS = {"PYTHONSAFEPATH": "1"}
