"""Puts progress and counts into words."""

from __future__ import annotations

from SAM2PropagateLib.amounts import duration_words, size_words
from SAM2PropagateLib.app.strip import SliceStrip
from SAM2PropagateLib.texts import plural
from SAM2PropagateLib.texts import tr as _
from SAM2PropagateLib.worker.messages import ProgressEvent


def runText(event: ProgressEvent) -> str:
    """Returns a run's progress, as `12 of 90 slices, 8.5/s, 9 s left`, as far as it is known."""
    counts = plural(event.total, _("{done} of {total} slice"), _("{done} of {total} slices"))
    parts = [counts.format(done=event.done, total=event.total)]
    if event.frames_per_second:
        parts.append(_("{speed:.1f}/s").format(speed=event.frames_per_second))
    if event.seconds_left is not None:
        parts.append(_("{time} left").format(time=duration_words(event.seconds_left)))
    return ", ".join(parts)


def uploadText(event: ProgressEvent) -> str:
    """Returns a transfer's progress, as `Sending the volume to gpu1: 12 MB of 80 MB, 9 s left`."""
    counts = _("{what}: {done} of {total}").format(
        what=event.text, done=size(event.done), total=size(event.total)
    )
    if event.seconds_left is None:
        return counts
    return ", ".join((counts, _("{time} left").format(time=duration_words(event.seconds_left))))


def resultText(strip: SliceStrip, state: str = "done") -> str:
    """Returns a run's result, as `112 slices, 3 doubtful`; "" for nothing.

    Args:
        state: how the last run ended, as in `RunEnd`.
    """
    count, waiting, doubts = strip.found, strip.waiting, strip.doubts
    if not count:
        return ""
    if waiting == count:
        text = plural(waiting, _("{count} slice in the preview"), _("{count} slices in the preview"))
        parts = [text.format(count=waiting)]
    else:
        parts = [plural(count, _("{count} slice"), _("{count} slices")).format(count=count)]
        parts += [_("{count} in the preview").format(count=waiting)] if waiting else []
    if doubts:
        parts.append(_("{count} doubtful").format(count=doubts))
    elif count > 1:
        parts.append(_("none doubtful"))
    text = ", ".join(parts)
    if state == "cancelled":
        return _("Cancelled: {text}").format(text=text)
    return _("Not finished: {text}").format(text=text) if state == "failed" else text


def size(count: int | None) -> str:
    """Returns a size, as `149 MB`; None: it is not known before the download."""
    return _("size not published") if count is None else str(size_words(count))
