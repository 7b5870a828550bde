"""How far a run is, for the client."""

from __future__ import annotations

import time
from typing import Any

from SAM2PropagateLib.worker.inbox import Outlet
from SAM2PropagateLib.worker.messages import ProgressEvent

_INTERVAL_SECONDS = 0.1


class RunProgress:
    """Counts a run's frames and says so, at most every tenth of a second."""

    def __init__(self, total: int, request_id: int, outlet: Outlet) -> None:
        self._total = total
        self._request_id = request_id
        self._outlet = outlet
        self._done = 0
        self._started = time.perf_counter()
        self._said = self._started
        self.send()

    def count(self) -> None:
        self._done += 1
        if time.perf_counter() - self._said >= _INTERVAL_SECONDS:
            self.send()

    def facts(self) -> dict[str, Any]:
        return {"frames_written": self._done, "seconds": time.perf_counter() - self._started}

    def send(self, is_last: bool = False) -> None:
        self._said = time.perf_counter()
        seconds = self._said - self._started
        total = self._done if is_last else max(self._total, self._done)
        rate = self._done / seconds if self._done and seconds > 0 else None
        left = None if rate is None else (total - self._done) / rate
        self._outlet.send(ProgressEvent(self._request_id, "", self._done, total, rate, left))
