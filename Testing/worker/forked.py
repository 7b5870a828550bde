"""Starts workers of the tests by forking a process that has imported all they need (Linux).

Python, NumPy and PyTorch take up to four seconds of a core to start, a fork takes none. A forked worker leads
a session of its own, has its own pipes, environment and folder, and ends with an exit code or by a signal.
Only what Linux tells of it differs: its parent is not the client, and its command line and first environment
are those of the process that was forked. Tests of these, and of how a worker starts, use the plain command.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from SAM2PropagateLib.worker.command import LIBRARY_FOLDER

SCRIPTED = ("SAM2PropagateLib.worker.server", "Testing.worker.fake_engine")
"""What a scripted worker imports."""
REAL = (
    *SCRIPTED,
    "SAM2PropagateLib.worker.engine_adapter",
    "SAM2PropagateLib.engine.engine",
    "SAM2PropagateLib.engine.families",
    "sam2.modeling.sam2_base",
    "sam2.modeling.backbones.image_encoder",
    "sam2.modeling.backbones.hieradet",
    "sam2.modeling.memory_attention",
    "sam2.modeling.memory_encoder",
)
"""What a worker with the real engine imports. No thread is running afterwards that a fork would lose."""

_NUMBER = struct.Struct("i")
_LARGEST = 1 << 20


def forks(modules: Sequence[str]) -> Callable[..., Any]:
    """Return what starts a worker as `subprocess.Popen` does, by forking a process with these modules."""
    return functools.partial(_Forked, modules) if sys.platform.startswith("linux") else subprocess.Popen


class _Forked:
    """A forked worker, to the extent of `subprocess.Popen` that `ProcessTree` uses."""

    def __init__(
        self, modules: Sequence[str], argv: Sequence[str], env: Mapping[str, str], cwd: str | None, **_: Any
    ) -> None:
        (stdin, to), (out, stdout), (err, stderr), (self._told, told) = (os.pipe() for _ in range(4))
        given = [stdin, stdout, stderr, told]
        order = {"argv": list(argv), "env": dict(env), "cwd": cwd}
        try:
            _process, orders = _server(tuple(modules))
            socket.send_fds(orders, [json.dumps(order).encode()], given)
        finally:
            for end in given:
                os.close(end)
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(end, mode, buffering=0) for end, mode in ((to, "wb"), (out, "rb"), (err, "rb"))
        )
        self.returncode: int | None = None
        self._guard = threading.Lock()
        self.pid = self._number()

    def _number(self) -> int:
        (number,) = _NUMBER.unpack(os.read(self._told, _NUMBER.size))
        return int(number)

    def poll(self) -> int | None:
        with self._guard:
            if self.returncode is None and select.select([self._told], [], [], 0)[0]:
                self.returncode = self._number()
                os.close(self._told)
        return self.returncode

    def wait(self) -> int:
        if self.poll() is None:
            select.select([self._told], [], [])
        returncode = self.poll()
        assert returncode is not None
        return returncode


@functools.cache
def _server(modules: tuple[str, ...]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process that is forked, once, and where it gets its orders. It ends with this one."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    root = LIBRARY_FOLDER.parent
    paths = [str(LIBRARY_FOLDER), str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(its.fileno()), *modules],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            cwd=root,
            pass_fds=[its.fileno()],
        )
    return process, ours


# --- in the forked process


def _serve(orders: socket.socket) -> None:
    # Nobody waits for those who keep the workers.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        order, given, _, _ = socket.recv_fds(orders, _LARGEST, 4)
        if not order:
            return
        if os.fork() == 0:
            with contextlib.suppress(OSError):
                _keep(json.loads(order), *given)
            os._exit(0)
        for end in given:
            os.close(end)


def _keep(order: Mapping[str, Any], stdin: int, stdout: int, stderr: int, told: int) -> None:
    """Fork the worker, and tell its id and how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    worker = os.fork()
    if worker == 0:
        os.setsid()
        for number, end in enumerate((stdin, stdout, stderr)):
            os.dup2(end, number)
        # Only now may it be killed with its session.
        os.write(told, _NUMBER.pack(os.getpid()))
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        _work(order["argv"], order["env"], order["cwd"])
    for end in (stdin, stdout, stderr):
        os.close(end)
    _, status = os.waitpid(worker, 0)
    os.write(told, _NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _work(argv: Sequence[str], env: Mapping[str, str], cwd: str | None) -> None:
    """Do what `python -m MODULE` does, and end the process."""
    _python, option, module, *arguments = argv
    code = 1
    try:
        assert option == "-m", argv
        os.chdir(cwd or ".")
        os.environ.clear()
        os.environ.update(env)
        sys.stdout, sys.stderr = (
            os.fdopen(number, "w", encoding="utf-8", buffering=1, closefd=False) for number in (1, 2)
        )
        faulthandler.enable()
        sys.argv = [module, *arguments]
        sys.path[:0] = [str(Path.cwd()), *env.get("PYTHONPATH", "").split(os.pathsep)]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    for _name in sys.argv[2:]:
        importlib.import_module(_name)
    # A worker that looks for garbage must not copy all that is shared.
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
