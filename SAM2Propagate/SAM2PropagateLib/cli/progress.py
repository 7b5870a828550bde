"""Prints progress on stderr: on a terminal one line that is redrawn, else a line from time to time."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TextIO

from SAM2PropagateLib.amounts import duration_words, megabytes
from SAM2PropagateLib.worker.messages import ProgressEvent

STAGES = {
    "read": "Reading the volume",
    "load_model": "Loading the model",
    "open_volume": "Handing over the volume",
    "propagate": "Propagating",
    "write": "Writing",
    "download": "Downloading",
}
# The unit of each stage's numbers, which are bytes for MB; other stages have a text instead.
_UNITS = {
    "propagate": "slices",
    "download": "MB",
    "open_volume": "MB",
    "Evaluating": "cases",
    "Encoding": "series of slices",
}
_BAR = 24
_LINE_SECONDS = 10.0
_DRAW_SECONDS = 0.1


class ProgressPrinter:
    """Prints progress on a stream.

    Args:
        stream: usually stderr. After a failure (a closed pipe) it is not written to again.
        is_terminal: whether to redraw one line; None: as the stream reports.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        stream: TextIO,
        is_terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty() if is_terminal is None else is_terminal
        self._clock = clock
        self._stage = ""
        self._has_counted = False
        self._shown_at = -float("inf")
        self._shown = ""
        self._width = 0
        self._is_broken = False

    @property
    def stream(self) -> TextIO:
        """The stream that it writes to."""
        return self._stream

    def __call__(self, stage: str, progress: ProgressEvent | None = None) -> None:
        """Show that a stage begins (without progress), or its progress."""
        if stage != self._stage:
            self._end_line()
            self._stage = stage
            self._has_counted = False
            self._shown_at = -float("inf")
        title = STAGES.get(stage, stage)
        if progress is None:
            self._show(title + " ...", force=True)
        elif progress.total and stage in _UNITS:
            # The first count shows that the work moves, the last one that it is done.
            is_end = not self._has_counted or progress.done >= progress.total
            self._has_counted = True
            if _UNITS[stage] == "MB":
                total = megabytes(progress.total, up=True)
                done = total if progress.done == progress.total else megabytes(progress.done)
                progress = replace(progress, done=done, total=total)
            self._show(self._counted(title, _UNITS[stage], progress), force=is_end)
        elif progress.text:
            self._show(f"{title}: {progress.text}", force=False)

    def note(self, text: str) -> None:
        """Print one line that stays."""
        self._end_line()
        self._write(text + "\n")

    def close(self) -> None:
        """End the line that is being drawn."""
        self._end_line()

    def _counted(self, title: str, unit: str, progress: ProgressEvent) -> str:
        parts = [f"{progress.done} of {progress.total} {unit}"]
        if progress.frames_per_second:
            parts.append(f"{progress.frames_per_second:.1f}/s")
        if progress.seconds_left is not None:
            parts.append(f"{duration_words(progress.seconds_left)} left")
        text = ", ".join(parts)
        if not self._is_terminal:
            return f"{title}: {text}"
        filled = min(_BAR, _BAR * progress.done // progress.total)
        return f"{title} [{'#' * filled}{'.' * (_BAR - filled)}] {text}"

    def _show(self, text: str, force: bool) -> None:
        now = self._clock()
        wait = _DRAW_SECONDS if self._is_terminal else _LINE_SECONDS
        if text == self._shown or (not force and now - self._shown_at < wait):
            return
        self._shown, self._shown_at = text, now
        if self._is_terminal:
            text = text[: max(20, shutil.get_terminal_size().columns - 1)]
            self._write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._write(text + "\n")

    def _end_line(self) -> None:
        if self._is_terminal and self._width:
            self._write("\r" + " " * self._width + "\r")
            self._width = 0
            self._shown = ""

    def _write(self, text: str) -> None:
        if self._is_broken:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # Whoever read the progress has closed the pipe. Work on without telling.
            self._is_broken = True
            with contextlib.suppress(OSError, ValueError):
                self._stream.close()
