"""What is printed while it works."""

from __future__ import annotations

import io

from SAM2PropagateLib.cli.progress import ProgressPrinter
from SAM2PropagateLib.worker.messages import ProgressEvent


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def at(done: int, total: int = 120) -> ProgressEvent:
    return ProgressEvent(None, "", done, total, 4.0, 100.0 - done)


def test_lines_for_a_log() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = ProgressPrinter(stream, is_terminal=False, clock=clock)
    progress("load_model")
    progress("load_model", ProgressEvent(None, "Reading the weights", 1, 3))
    progress("propagate")
    for done in range(1, 121):
        clock.now += 0.25
        progress("propagate", at(done))
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["Loading the model ...", "Propagating ..."]
    assert lines[2] == "Propagating: 1 of 120 slices, 4.0/s, 1:39 min left"
    assert lines[-1].startswith("Propagating: 120 of 120 slices")
    # 30 seconds: one line in ten, and the first and the last.
    assert len(lines) == 6 and "\r" not in stream.getvalue()


def test_a_progress_bar_is_erased_completely() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = ProgressPrinter(stream, is_terminal=True, clock=clock)
    progress("propagate")
    for done in (1, 60, 120):
        clock.now += 1
        progress("propagate", at(done))
    assert "[############............] 60 of 120 slices" in stream.getvalue()
    assert "[########################] 120 of 120 slices" in stream.getvalue()
    progress.note("Error: it failed.")
    progress.close()
    *_, cleared, last = stream.getvalue().split("\r")
    assert cleared.strip() == "" and last == "Error: it failed.\n"
    assert stream.getvalue().count("\n") == 1


def test_bytes_are_shown_in_the_mb_of_the_panel() -> None:
    stream = io.StringIO()
    progress = ProgressPrinter(stream, is_terminal=False)
    for stage in ("open_volume", "download"):
        progress(stage)
        for done in (3 << 20, (5 << 20) - 1):
            progress(stage, ProgressEvent(None, "", done, (5 << 20) - 1))
    assert [line.partition(": ")[2] for line in stream.getvalue().splitlines()] == [
        "",
        "3 of 5 MB",
        "5 of 5 MB",
    ] * 2


def test_nothing_more_is_written_to_a_broken_stream() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    progress = ProgressPrinter(Broken(), is_terminal=False)
    progress("propagate")
    progress("propagate", at(3))
    progress.note("Error: it failed.")
    progress.close()
