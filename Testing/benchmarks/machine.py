"""What the figures were measured on: the computer, the versions, the state of the source."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from SAM2PropagateLib.cohort.needs import usable_cores

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "sam2", "numpy", "scipy", "SimpleITK", "slicer-core")
# Idle threads of torch that spin instead of sleeping slow every other busy process down, and are slowed down
# themselves, up to 40 times as measured. Both sides of every comparison run with the same setting.
WAIT_POLICY = "OMP_WAIT_POLICY"
# By these, torch and the libraries in it can be kept from instructions that the processor has.
_INSTRUCTION_LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "FBGEMM_ENABLE_INSTRUCTIONS",
)


def child_environment(**changes: str) -> dict[str, str]:
    """Return the environment for a measured process: the library on its path, threads that wait without
    spinning (unless the caller's environment says otherwise), no progress bars."""
    paths = os.pathsep.join([str(ROOT / "SAM2Propagate"), str(ROOT)])
    return {
        **os.environ,
        WAIT_POLICY: os.environ.get(WAIT_POLICY, "PASSIVE"),
        "PYTHONPATH": paths,
        "TQDM_DISABLE": "1",
        **changes,
    }


def describe_machine() -> dict[str, Any]:
    """Processor, cores, main memory, system, versions, thread settings and the load at this moment."""
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "wait_policy": os.environ.get(WAIT_POLICY, ""),
        "limits": {name: os.environ[name] for name in _INSTRUCTION_LIMITS if name in os.environ},
        "load": load(),
    }


def load() -> float | None:
    """Return how many processes wanted a core during the last minute, where the system reports it."""
    try:
        return round(os.getloadavg()[0], 1)
    except (AttributeError, OSError):
        return None


def describe_source() -> dict[str, Any]:
    """Return the commit, and whether files have changed since; empty outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "SAM2Propagate", "Testing")
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": commit, "changed_files": len(changed.splitlines())}


def now() -> str:
    """Date and time in UTC, to the minute."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def processor() -> str:
    """Return the processor's name as the system gives it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        answer = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, encoding="utf-8", check=False
        )
        if answer.stdout.strip():
            return answer.stdout.strip()
    return platform.processor() or platform.machine()


def peak_memory(pid: int | None = None) -> int | None:
    """Bytes of main memory that a process has held at most so far; None where the system does not tell.

    Args:
        pid: of a living process; None is this one. Another one's is known on Linux only.
    """
    if sys.platform == "linux":
        # The figure of getrusage would start at what the parent held when it forked.
        name = "self" if pid is None else str(pid)
        try:
            status = Path(f"/proc/{name}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(lines[0].split()[1]) * 1024 if lines else None
    if pid is not None:
        return None
    if sys.platform == "win32":
        return _windows_peak()
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


class _ProcessMemory(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of the Windows API."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        ("peak", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 7),
    )


def _windows_peak() -> int | None:
    counters = _ProcessMemory()
    counters.size = ctypes.sizeof(counters)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009  (absent elsewhere, also for the type checker)
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    answered = kernel.K32GetProcessMemoryInfo(
        ctypes.c_void_p(kernel.GetCurrentProcess()), ctypes.byref(counters), counters.size
    )
    return int(counters.peak) if answered else None


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _git(*arguments: str) -> str:
    answer = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, encoding="utf-8", check=True, timeout=30
    )
    return answer.stdout.strip()
