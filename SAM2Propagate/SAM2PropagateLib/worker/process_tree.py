"""Starts a child process that can be ended with everything it has started.

On POSIX the child leads a session of its own, so that one signal reaches its whole process group. Descendants
that left the group are found through their parents and, on Linux, by a token in their environment, which they
keep when their parent has died. On Windows the child is put into a job object, which ends all its processes
when it is terminated or this process dies; `taskkill /T` is used if no job can be made. `PythonSlicer` needs
this: it is a launcher, and the Python that works is its child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.texts import text as _

TREE_VARIABLE = "SAM2PROPAGATE_TREE"
"""The environment variable with the tree's token. It also tells the child that its process group holds only
the tree."""

# The longest time to search for leftover processes. On a busy machine, a process may need seconds to become
# another program.
_MARK_SECONDS = 10.0


class _TreeJob(Protocol):
    """What Windows keeps a tree of processes in."""

    def terminate(self) -> None: ...

    def close(self) -> None: ...


class ProcessTree:
    """A started process with pipes on stdin, stdout and stderr.

    Args:
        argv: the command. env: its whole environment. cwd: its folder; None: the present one.
        popen: starts it, as `subprocess.Popen`.

    Raises:
        SAM2PropagateError: worker_not_started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path | None = None,
        popen: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        self._guard = threading.Lock()
        self._is_finished = False
        self._token = uuid.uuid4().hex
        try:
            self._process = popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**env, TREE_VARIABLE: self._token},
                cwd=None if cwd is None else str(cwd),
                bufsize=0,
                **_start_options(),
            )
        except (OSError, ValueError) as error:
            raise SAM2PropagateError(
                "worker_not_started",
                _("The worker could not be started: {program} ({reason}).").format(
                    program=argv[0], reason=getattr(error, "strerror", None) or error
                ),
                _("Check that this program is there and may be started."),
            ) from error
        self._job = _hold_tree(self._process)

    @property
    def pid(self) -> int:
        """The id of the process that was started (in Slicer: of the launcher)."""
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        """The process's input."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """The process's output."""
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stderr(self) -> IO[bytes]:
        """The process's error output."""
        assert self._process.stderr is not None
        return self._process.stderr

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs or has not been reaped; negative: ended by that signal."""
        return self._process.returncode

    def kill(self) -> None:
        """End the process and all its descendants; does not wait for them."""
        with self._guard:
            if self._is_finished:
                return
            if self._job is not None:
                self._job.terminate()
            _kill_all(self._process)

    def finish(self, patience: float) -> int:
        """Wait for the process to end by itself, kill it after `patience` seconds, and end its descendants.

        Returns:
            The exit code, negative if a signal ended it.
        """
        if not self._ended_within(patience):
            self.kill()
        with self._guard:
            if self._is_finished:
                return self._process.returncode
            # Its descendants first: until it is reaped, the system does not reuse its id.
            _kill_group(self._process)
        # Outside the lock, as this may take a moment and `kill` must not wait.
        _kill_marked(self._token, self._process.pid)
        with self._guard:
            if not self._is_finished:
                if self._job is not None:
                    self._job.terminate()
                    self._job.close()
                self._process.wait()
                self._is_finished = True
        return self._process.returncode

    def _ended_within(self, patience: float) -> bool:
        deadline = time.monotonic() + patience
        pause = 0.001
        while not _has_ended(self._process):
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        return True


def descendants(pid: int) -> list[int]:
    """Return the ids of all living descendants of `pid`, parents before their children. POSIX only."""
    parents = read_parents()
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    return found[1:]


def end_descendants() -> None:
    """End all descendants of this process. On Windows the job does that."""
    if os.name == "posix":
        _kill_each(descendants(os.getpid()))


def lead_own_tree() -> None:
    """Make this process the root of its own tree, if no `ProcessTree` has started it. POSIX only."""
    if os.name == "posix" and TREE_VARIABLE not in os.environ:
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)
        os.environ[TREE_VARIABLE] = uuid.uuid4().hex


def end_own_tree() -> None:
    """End the whole tree that this process was started in, launchers and itself included.

    Do nothing if no `ProcessTree` has started it, as its process group may then hold others.
    """
    if TREE_VARIABLE in os.environ:
        _kill_own_group()


def read_parents() -> dict[int, int]:
    """Return the parent of every living process."""
    proc = Path("/proc")
    if sys.platform.startswith("linux") and proc.is_dir():
        parents = {}
        for entry in proc.iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    state, parent = _stat(entry)[:2]
                    if state != "Z":
                        parents[int(entry.name)] = int(parent)
        return parents
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        listing = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, encoding="utf-8", timeout=5, check=True
        ).stdout
        pairs = [line.split() for line in listing.splitlines()]
        return {int(pair[0]): int(pair[1]) for pair in pairs if len(pair) == 2}
    return {}


def _stat(process: Path) -> list[str]:
    """Return what Linux says of a process after its name. The name may hold blanks, parentheses and bytes
    that are no text."""
    return (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _marked(entry: bytes, root: int) -> tuple[list[int], bool]:
    """Return the living processes with this entry in their environment, as far as the system shows it
    (Linux).

    Returns:
        Their ids, and whether there may be more: a process that is just becoming another program, and is no
        older than `root`, does not show its environment yet.
    """
    found: list[int] = []
    is_unsure = False
    if sys.platform.startswith("linux"):
        oldest = started_at(root)
        for folder in Path("/proc").glob("[0-9]*"):
            number = int(folder.name)
            with contextlib.suppress(OSError):
                environment = read_environment(number)
                if entry in environment.split(b"\0"):
                    found.append(number)
                # Kernel threads and processes that have ended have no program.
                elif not environment and (folder / "exe").readlink():
                    is_unsure = is_unsure or started_at(number) >= oldest
    return found, is_unsure


def read_environment(pid: int) -> bytes:
    """Return the environment that a process of Linux was started with. Raises OSError."""
    return Path(f"/proc/{pid}/environ").read_bytes()


def started_at(pid: int) -> int:
    """Return when a process was started, in ticks since the system's start."""
    try:
        return int(_stat(Path(f"/proc/{pid}"))[19])
    except (OSError, ValueError, IndexError):
        return 0


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    def _start_options() -> dict[str, Any]:
        # Without a console window, and without the Ctrl+C of this process's console.
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}

    def _has_ended(process: subprocess.Popen[bytes]) -> bool:
        return process.poll() is not None

    def _kill_all(process: subprocess.Popen[bytes]) -> None:
        # Without waiting, as it must not block the caller, and the job has usually done the work.
        with contextlib.suppress(OSError):
            subprocess.Popen(
                ["taskkill", "/F", "/T", "/PID", str(process.pid)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                creationflags=subprocess.CREATE_NO_WINDOW,
            )

    def _kill_group(process: subprocess.Popen[bytes]) -> None:
        """Do nothing: Windows has the job instead of a process group."""

    def _kill_own_group() -> None:
        """Do nothing: the job ends with this process's parent."""

    def _kill_marked(token: str, root: int) -> None:
        """Do nothing: no process can leave a job."""

    def _kill_each(pids: Iterable[int]) -> None:
        """Do nothing: the job ends them."""

    class _BasicLimits(ctypes.Structure):
        _fields_ = (
            ("PerProcessUserTimeLimit", ctypes.c_int64),
            ("PerJobUserTimeLimit", ctypes.c_int64),
            ("LimitFlags", wintypes.DWORD),
            ("MinimumWorkingSetSize", ctypes.c_size_t),
            ("MaximumWorkingSetSize", ctypes.c_size_t),
            ("ActiveProcessLimit", wintypes.DWORD),
            ("Affinity", ctypes.c_size_t),
            ("PriorityClass", wintypes.DWORD),
            ("SchedulingClass", wintypes.DWORD),
        )

    class _ExtendedLimits(ctypes.Structure):
        _fields_ = (
            ("BasicLimitInformation", _BasicLimits),
            ("IoInfo", ctypes.c_uint64 * 6),
            ("ProcessMemoryLimit", ctypes.c_size_t),
            ("JobMemoryLimit", ctypes.c_size_t),
            ("PeakProcessMemoryUsed", ctypes.c_size_t),
            ("PeakJobMemoryUsed", ctypes.c_size_t),
        )

    class _WindowsJob:
        """A job object that ends its processes when its last handle is closed."""

        _EXTENDED_LIMITS = 9
        _KILL_ON_CLOSE = 0x2000

        def __init__(self, kernel: Any, handle: int) -> None:
            self._kernel = kernel
            self._handle = handle

        @classmethod
        def holding(cls, process: subprocess.Popen[bytes]) -> _WindowsJob | None:
            """Return a job with the process in it; None if the system does not allow one."""
            kernel = ctypes.WinDLL("kernel32", use_last_error=True)
            kernel.CreateJobObjectW.argtypes = (ctypes.c_void_p, wintypes.LPCWSTR)
            kernel.CreateJobObjectW.restype = wintypes.HANDLE
            kernel.SetInformationJobObject.argtypes = (
                wintypes.HANDLE,
                ctypes.c_int,
                ctypes.c_void_p,
                wintypes.DWORD,
            )
            kernel.AssignProcessToJobObject.argtypes = (wintypes.HANDLE, wintypes.HANDLE)
            kernel.TerminateJobObject.argtypes = (wintypes.HANDLE, wintypes.UINT)
            kernel.CloseHandle.argtypes = (wintypes.HANDLE,)
            handle = kernel.CreateJobObjectW(None, None)
            if not handle:
                return None
            limits = _ExtendedLimits()
            limits.BasicLimitInformation.LimitFlags = cls._KILL_ON_CLOSE
            size = ctypes.sizeof(limits)
            right = kernel.SetInformationJobObject(handle, cls._EXTENDED_LIMITS, ctypes.byref(limits), size)
            if right and kernel.AssignProcessToJobObject(handle, int(process._handle)):  # type: ignore[attr-defined]
                return cls(kernel, handle)
            kernel.CloseHandle(handle)
            return None

        def terminate(self) -> None:
            self._kernel.TerminateJobObject(self._handle, 1)

        def close(self) -> None:
            self._kernel.CloseHandle(self._handle)

    def _hold_tree(process: subprocess.Popen[bytes]) -> _TreeJob | None:
        return _WindowsJob.holding(process)

else:

    def _start_options() -> dict[str, Any]:
        return {"start_new_session": True}

    def _has_ended(process: subprocess.Popen[bytes]) -> bool:
        """Tell whether the process has ended, without reaping it if the system allows that."""
        if process.returncode is not None:
            return True
        if hasattr(os, "waitid"):
            try:
                options = os.WEXITED | os.WNOHANG | os.WNOWAIT
                return os.waitid(os.P_PID, process.pid, options) is not None
            except ChildProcessError:
                pass
        return process.poll() is not None

    def _kill_all(process: subprocess.Popen[bytes]) -> None:
        others = descendants(process.pid)
        _kill_group(process)
        _kill_each(others)

    def _kill_own_group() -> None:
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def _kill_marked(token: str, root: int) -> None:
        deadline = time.monotonic() + _MARK_SECONDS
        while time.monotonic() < deadline:
            found, is_unsure = _marked(f"{TREE_VARIABLE}={token}".encode(), root)
            _kill_each(found)
            # A process may have started another before it was killed: search again.
            if not (found or is_unsure):
                return
            time.sleep(0.002)

    def _kill_each(pids: Iterable[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _kill_group(process: subprocess.Popen[bytes]) -> None:
        # macOS answers EPERM for a group whose members have all ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    def _hold_tree(process: subprocess.Popen[bytes]) -> _TreeJob | None:
        """Return None: POSIX has process groups instead of jobs."""
        return None
