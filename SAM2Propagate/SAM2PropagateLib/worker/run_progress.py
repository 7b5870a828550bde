"""Reports a run's progress to the client."""

from __future__ import annotations

import time
from typing import Any

from SAM2PropagateLib.worker.inbox import Outlet
from SAM2PropagateLib.worker.messages import ProgressEvent

_INTERVAL_SECONDS = 0.1


class RunProgress:
    """Sends progress events of a run, at most every tenth of a second; they also show that the worker lives.

    Args:
        total: frames that the run is expected to finish.
    """

    def __init__(self, total: int, request_id: int, outlet: Outlet) -> None:
        self._total = total
        self._request_id = request_id
        self._outlet = outlet
        self._done = 0.0
        self._sent: set[tuple[str, int]] = set()
        self._started = time.perf_counter()
        self._said = self._started
        self.send()

    def sent(self, segment: str, frame: int) -> None:
        """Note a mask that was sent; it may be a draft, and come again."""
        self._sent.add((segment, frame))

    def reached(self, done: float) -> None:
        """Note how many of the frames are done; one that waits for the other direction may count in part."""
        self._done = done
        if time.perf_counter() - self._said >= _INTERVAL_SECONDS:
            self.send()

    def figures(self) -> dict[str, Any]:
        """Return the figures that are sent when the run ends."""
        return {"frames_written": len(self._sent), "seconds": time.perf_counter() - self._started}

    def send(self, is_last: bool = False) -> None:
        """Send the progress now."""
        self._said = time.perf_counter()
        seconds = self._said - self._started
        done = len(self._sent) if is_last else int(self._done)
        total = done if is_last else max(self._total, done)
        rate = done / seconds if done and seconds > 0 else None
        left = None if rate is None else (total - done) / rate
        self._outlet.send(ProgressEvent(self._request_id, "", done, total, rate, left))
