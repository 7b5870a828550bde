"""How a worker is started: which Python, on which machine, with which environment."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.texts import tr as _

WORKER_MODULE = "SAM2PropagateLib.worker"
LIBRARY_FOLDER = Path(__file__).resolve().parents[2]
"""The folder that holds SAM2PropagateLib."""

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:%\[\]-]*")


@dataclass(frozen=True)
class WorkerCommand:
    """A command that starts a worker.

    Attributes:
        argv: the command. env: its whole environment. cwd: its folder; None: the present one.
        is_remote: the worker runs on another machine and cannot map files of this one.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path | None = None
    is_remote: bool = False


def worker_command(
    python: str | None = None,
    host: str | None = None,
    *,
    slicer_home: str | Path | None = None,
    remote_folder: str | None = None,
    base_env: Mapping[str, str] | None = None,
    module: str = WORKER_MODULE,
) -> WorkerCommand:
    """The command for a worker on this machine, or on another one through ssh.

    Args:
        python: the Python to run it with; None: here the one that `find_python` finds, there `python3`.
        host: as ssh takes it ("gpu1", "me@gpu1"); None: this machine. ssh must log in without asking.
        slicer_home: `slicer.app.slicerHome`, when called inside Slicer.
        remote_folder: the folder on `host` that holds SAM2PropagateLib; None: it is installed there.
        base_env: the environment to start from, inside Slicer `slicer.util.startupEnvironment()`;
            None: that of this process.
        module: what to run as `python -m MODULE`.

    Raises:
        InputError: bad_host. SAM2PropagateError: no_python.
    """
    env = dict(os.environ if base_env is None else base_env)
    if host is not None:
        argv = _ssh(host, python or "python3", remote_folder, module)
        return WorkerCommand(argv, env, None, is_remote=True)
    paths = [str(LIBRARY_FOLDER), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    env.update(_PYTHON_SETTINGS)
    executable = python or find_python(slicer_home)
    # Run from the library's own folder: `-m` also looks in the present one, which may hold anything.
    return WorkerCommand((executable, "-m", module), env, LIBRARY_FOLDER)


def find_python(slicer_home: str | Path | None = None) -> str:
    """The Python that can run a worker: Slicer's if this is Slicer, else the one that runs this.

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
    # Inside Slicer sys.executable can be Slicer itself: starting that would open a second one.
    if own is not None and own.stem.lower().startswith("python"):
        return str(own)
    raise SAM2PropagateError(
        "no_python",
        _("No Python was found that could run the worker."),
        _("Name the executable PythonSlicer of your Slicer, or any Python with torch and sam2."),
    )


# OpenMP threads that wait actively slow torch down twentyfold when others keep the cores busy too.
OPENMP_SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE"}

# Unbuffered, so that the log is complete when it dies; a crash in compiled code names its place there.
_PYTHON_SETTINGS = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONIOENCODING": "utf-8",
    "PYTHONFAULTHANDLER": "1",
    **OPENMP_SETTINGS,
}


def _ssh(host: str, python: str, folder: str | None, module: str) -> tuple[str, ...]:
    if not _HOST.fullmatch(host):
        raise InputError(
            "bad_host",
            _('"{host}" is no host that ssh could reach.').format(host=host),
            _('Give a name such as "gpu1" or "me@gpu1".'),
        )
    settings = dict(_PYTHON_SETTINGS) if folder is None else {**_PYTHON_SETTINGS, "PYTHONPATH": folder}
    words = ["exec", "env", *(f"{name}={value}" for name, value in settings.items()), python, "-m", module]
    remote = " ".join(map(shlex.quote, words))
    if folder is not None:
        remote = f"cd {shlex.quote(folder)} && {remote}"
    options = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=4")
    # -T: no terminal, which would change bytes on their way; -x and -a: nothing else is forwarded.
    return ("ssh", "-T", "-x", "-a", *(word for option in options for word in ("-o", option)), host, remote)
