"""Puts sizes and times into words. A MB has 2**20 bytes, wherever one is shown."""

from __future__ import annotations

from SAM2PropagateLib.texts import Text
from SAM2PropagateLib.texts import text as _

MEGABYTE = 1 << 20


def megabytes(count: int, *, up: bool = False) -> int:
    """Return whole MB of so many bytes, rounded down, or up for what is needed."""
    return -(-count // MEGABYTE) if up else count // MEGABYTE


def size_words(count: int) -> Text:
    """Return a size in bytes, as `149 MB`."""
    return _("{mb:.0f} MB").format(mb=count / MEGABYTE)


def duration_words(seconds: float) -> Text:
    """Return a time, as `9 s` or `2:05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return _("{seconds} s").format(seconds=whole)
    return _("{minutes}:{seconds:02d} min").format(minutes=whole // 60, seconds=whole % 60)
