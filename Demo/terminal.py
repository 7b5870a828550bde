"""What the user of the terminal sees: numbered steps, and a bar while slices come in."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from SAM2PropagateLib.cli.progress import ProgressPrinter
from SAM2PropagateLib.worker.messages import ProgressEvent


class Terminal:
    """Tells what the demonstration does.

    Args:
        stream: usually stdout.
        clock: seconds, never going back.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._printer = ProgressPrinter(stream)
        self._clock = clock
        self._started = clock()
        self._step = 0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._started

    def step(self, title: str) -> None:
        """Begins the next step."""
        self._step += 1
        self._printer.note(f"{self._step:2d}  {title}")

    def say(self, text: str) -> None:
        """Prints a line about the present step."""
        self._printer.note(f"    {text}")

    def plain(self, text: str = "") -> None:
        """Prints a line that belongs to no step."""
        self._printer.note(text)

    def progress(self, stage: str, event: ProgressEvent | None) -> None:
        """Prints how far the worker is; see `ProgressPrinter`."""
        self._printer(stage, event)

    def close(self) -> None:
        """End the line that is being drawn."""
        self._printer.close()
