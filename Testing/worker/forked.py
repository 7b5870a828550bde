"""Starts workers and commands of the tests by forking a process that has imported all they need (Linux).

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
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    "SAM2PropagateLib.cli.main",
    "SAM2PropagateLib.training.finetune",
)
"""What a worker with the real engine imports, and a command that computes. No thread is running afterwards
that a fork would lose."""

_NUMBER = struct.Struct("i")
_ENDED = "the process that forks workers has ended; its reason is on stderr"
_LARGEST = 1 << 20


def forks(modules: Sequence[str]) -> Callable[..., Any]:
    """Return what starts a worker as `subprocess.Popen` does, by forking a process with these modules."""
    return functools.partial(_Forked, modules) if sys.platform.startswith("linux") else subprocess.Popen


class _Forked:
    """A forked process, to the extent of `subprocess.Popen` that `ProcessTree` and the tests use.

    It always has pipes; they carry text if there is an `encoding`.
    """

    def __init__(
        self,
        modules: Sequence[str],
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | Path | None = None,
        encoding: str | None = None,
        **_: Any,
    ) -> None:
        (stdin, to), (out, stdout), (err, stderr), (told, tell) = (os.pipe() for _ in range(4))
        order = {"argv": list(argv), "env": dict(env), "cwd": str(cwd or ".")}
        try:
            _give(tuple(modules), json.dumps(order).encode(), [stdin, stdout, stderr, tell])
            self.pid = _read_number(told)
            # How it ended instead of its id: it could not even tell that.
            if self.pid <= 1:
                raise OSError(_ENDED)
        except BaseException:
            for end in (to, out, err, told):
                os.close(end)
            raise
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(end, mode, encoding=encoding) if encoding else os.fdopen(end, f"{mode}b", buffering=0)
            for end, mode in ((to, "w"), (out, "r"), (err, "r"))
        )
        self.returncode: int | None = None
        self._told = told
        # The worker is reaped, and its id free, when this end is closed.
        self._reap = weakref.finalize(self, os.close, told)
        self._guard = threading.Lock()

    def poll(self) -> int | None:
        # While another thread waits, it is that one that learns of the end.
        if self._guard.acquire(blocking=False):
            try:
                if self.returncode is None and select.select([self._told], [], [], 0)[0]:
                    self.returncode = _read_number(self._told)
            finally:
                self._guard.release()
        return self.returncode

    def wait(self) -> int:
        with self._guard:
            if self.returncode is None:
                self.returncode = _read_number(self._told)
            self._reap()
            return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        self.stdin.close()
        with ThreadPoolExecutor(2) as readers:
            reading = [readers.submit(pipe.read) for pipe in (self.stdout, self.stderr)]
            try:
                out, err = (one.result(timeout) for one in reading)
            except TimeoutError:
                self.kill()
                raise
        self.wait()
        return out, err

    def __enter__(self) -> _Forked:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self.stdin, self.stdout, self.stderr):
            pipe.close()
        self.wait()


def _read_number(told: int) -> int:
    """Wait for a number. Raises OSError if nobody is left to tell it."""
    read = os.read(told, _NUMBER.size)
    if len(read) < _NUMBER.size:
        raise OSError(_ENDED)
    (number,) = _NUMBER.unpack(read)
    return int(number)


_servers: dict[tuple[str, ...], tuple[subprocess.Popen[bytes], socket.socket]] = {}
_servers_guard = threading.Lock()


def _give(modules: tuple[str, ...], order: bytes, ends: Sequence[int]) -> None:
    """Give an order to the process with these modules, which is started if there is none, and close the
    ends that go with it. Raises OSError."""
    try:
        with _servers_guard:
            process, orders = _servers.get(modules) or (None, None)
            if process is not None and process.poll() is not None:
                orders.close()
                process = None
            if process is None:
                _servers[modules] = process, orders = _start_server(modules)
        try:
            socket.send_fds(orders, [order], ends)
        except ConnectionError as error:
            raise OSError(_ENDED) from error
    finally:
        for end in ends:
            os.close(end)


def _start_server(modules: tuple[str, ...]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process that is forked, and return it and where it gets its orders. It ends with this one."""
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
            code = 1
            try:
                # As long as it is open here, the client cannot see that the server has ended.
                orders.close()
                _keep(json.loads(order), *given)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        for end in given:
            os.close(end)


def _keep(order: Mapping[str, Any], stdin: int, stdout: int, stderr: int, told: int) -> None:
    """Fork the worker, tell its id and how it ended, and reap it when the client has closed its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    worker = os.fork()
    if worker == 0:
        os.setsid()
        for number, end in enumerate((stdin, stdout, stderr)):
            os.dup2(end, number)
        # Only now may it be killed with its session.
        os.write(told, _NUMBER.pack(os.getpid()))
        for entry in list(Path("/proc/self/fd").iterdir()):
            # The list has its own number, too, which is closed already.
            with contextlib.suppress(OSError):
                if int(entry.name) > 2:
                    os.close(int(entry.name))
        _work(order["argv"], order["env"], order["cwd"])
    for number in (stdin, stdout, stderr):
        os.close(number)
    # Not reaped yet, so that its id stays its own: the client may still send signals to its group.
    end = os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
    closed = select.poll()
    closed.register(told, 0)
    # Closed already: the client has ended.
    with contextlib.suppress(BrokenPipeError):
        os.write(told, _NUMBER.pack(code))
    closed.poll()
    os.waitpid(worker, 0)


def _work(argv: Sequence[str], env: Mapping[str, str], cwd: str) -> None:
    """Do what `python -m MODULE` does, and end the process."""
    _python, option, module, *arguments = argv
    code = 1
    try:
        assert option == "-m", argv
        os.chdir(cwd)
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
