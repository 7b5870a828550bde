"""Progress and counts in words."""

from __future__ import annotations

from SAM2PropagateLib.gui.events import RunEnd
from SAM2PropagateLib.texts import plural
from SAM2PropagateLib.texts import tr as _
from SAM2PropagateLib.worker.messages import ProgressEvent


def runText(event: ProgressEvent) -> str:
    """`Slice 12 of 90 · 8.5 slices/s · 9 s left`, as far as it is known."""
    counts = plural(event.total, _("{done} of {total} slice"), _("{done} of {total} slices"))
    parts = [counts.format(done=event.done, total=event.total)]
    if event.frames_per_second:
        parts.append(_("{speed:.1f} slices/s").format(speed=event.frames_per_second))
    if event.seconds_left is not None:
        parts.append(_("{time} left").format(time=duration(event.seconds_left)))
    return " · ".join(parts)


def endText(end: RunEnd) -> str:
    """What became of a run."""
    count = end.frames
    if end.state == "cancelled":
        text = plural(
            count,
            _("Cancelled: {count} slice is in the preview."),
            _("Cancelled: {count} slices are in the preview."),
        )
    elif end.state == "failed":
        text = plural(
            count,
            _("Not finished: {count} slice is in the preview."),
            _("Not finished: {count} slices are in the preview."),
        )
    elif end.applied:
        text = plural(
            count,
            _("{count} slice was computed and written into the segment."),
            _("{count} slices were computed and written into the segment."),
        )
    else:
        text = plural(count, _("{count} slice was computed."), _("{count} slices were computed."))
    return text.format(count=count)


def duration(seconds: float) -> str:
    """`9 s` or `2:05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return _("{seconds} s").format(seconds=whole)
    return _("{minutes}:{seconds:02d} min").format(minutes=whole // 60, seconds=whole % 60)


def size(count: int | None) -> str:
    """`149 MB`; `?` where it is not known before the download."""
    return _("size not published") if count is None else _("{mb:.0f} MB").format(mb=count / 2**20)
