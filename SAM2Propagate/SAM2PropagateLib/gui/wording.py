"""Progress and counts in words."""

from __future__ import annotations

from SAM2PropagateLib.texts import tr as _
from SAM2PropagateLib.worker.messages import ProgressEvent


def runText(event: ProgressEvent) -> str:
    """`Slice 12 of 90 · 8.5 slices/s · 9 s left`, as far as it is known."""
    parts = [_("{done} of {total} slices").format(done=event.done, total=event.total)]
    if event.frames_per_second:
        parts.append(_("{speed:.1f} slices/s").format(speed=event.frames_per_second))
    if event.seconds_left is not None:
        parts.append(_("{time} left").format(time=duration(event.seconds_left)))
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """`9 s` or `2:05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return _("{seconds} s").format(seconds=whole)
    return _("{minutes}:{seconds:02d} min").format(minutes=whole // 60, seconds=whole % 60)


def size(count: int | None) -> str:
    """`149 MB`; `?` where it is not known before the download."""
    return _("size not published") if count is None else _("{mb:.0f} MB").format(mb=count / 2**20)
