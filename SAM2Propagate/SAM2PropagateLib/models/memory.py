"""Finds out how much main memory is free, and recognizes errors from a lack of memory.

It uses only the standard library.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from pathlib import Path

# From torch for a GPU, for Apple's, for main memory on Windows and on Linux, then from CUDA's libraries, C++,
# OpenCV and ITK.
_SIGNS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "alloc_failed",
    "bad_alloc",
    "insufficient memory",
    "failed to allocate memory",
)
# Torch's class moves between modules. Errors of the other classes are recognized by their message.
_ITS_NAME = "OutOfMemoryError"
_TOLD_BY_WORDS = {("builtins", "RuntimeError"), ("cv2", "error")}


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that main or GPU memory has run out."""
    kinds = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or any(name == _ITS_NAME for _, name in kinds):
        return True
    text = str(error).lower()
    return not kinds.isdisjoint(_TOLD_BY_WORDS) and any(sign in text for sign in _SIGNS)


def available_host_memory() -> int | None:
    """Return how many bytes of main memory a new process could use now; None if unknown.

    Linux: the kernel's available main memory, or less if a container's limit is lower.
    Windows: free physical memory.
    macOS: three quarters of all main memory, as that system compresses and swaps that of other processes and
    has no figure for this.
    """
    try:
        if sys.platform.startswith("linux"):
            return linux_memory()
        if sys.platform == "win32":
            return _windows()
        if sys.platform == "darwin":
            total = _macos_total()
            return None if total is None else total * 3 // 4
    except (OSError, ValueError, AttributeError):
        return None
    return None


def linux_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that Linux can give to a new process within a container's limit; None if unknown."""
    found = [
        value
        for value in (_meminfo_available(proc / "meminfo"), _cgroup_available(cgroup))
        if value is not None
    ]
    return min(found) if found else None


def _meminfo_available(path: Path) -> int | None:
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_available(root: Path) -> int | None:
    """Return the main memory that a container's limit leaves; page cache that can go counts as free."""
    for limit_name, used_name, cache_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit_file = root / limit_name
        if not limit_file.is_file():
            continue
        limit_text = limit_file.read_text(encoding="ascii").strip()
        if limit_text == "max":
            return None
        limit = int(limit_text)
        if limit >= 1 << 60:  # version 1 of cgroups writes "no limit" like this
            return None
        used = int((root / used_name).read_text(encoding="ascii"))
        droppable = 0
        for line in (limit_file.parent / "memory.stat").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == cache_name:
                droppable = int(value)
        return max(0, limit - used + droppable)
    return None


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total_physical", ctypes.c_uint64),
        ("available_physical", ctypes.c_uint64),
        ("total_page_file", ctypes.c_uint64),
        ("available_page_file", ctypes.c_uint64),
        ("total_virtual", ctypes.c_uint64),
        ("available_virtual", ctypes.c_uint64),
        ("available_extended", ctypes.c_uint64),
    )


def _windows() -> int | None:
    status = _MemoryStatus()
    status.length = ctypes.sizeof(_MemoryStatus)
    windll = getattr(ctypes, "windll")  # noqa: B009  (absent elsewhere, also for the type checker)
    if not windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return int(status.available_physical)


def _macos_total() -> int | None:
    libc = ctypes.CDLL(ctypes.util.find_library("c") or "libc.dylib")
    value = ctypes.c_uint64()
    size = ctypes.c_size_t(ctypes.sizeof(value))
    if libc.sysctlbyname(b"hw.memsize", ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)):
        return None
    return int(value.value)
