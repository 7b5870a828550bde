"""Runs a piece of work in a thread while the user works on.

The thread puts its messages into a queue, and `ThreadJob.poll` takes them out. So the thread never touches
Qt or the scene.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from SAM2PropagateLib.app.events import NoTicker, Ticker
from SAM2PropagateLib.errors import SAM2PropagateError

P = TypeVar("P")
E = TypeVar("E")


class ThreadJob(Generic[P, E]):
    """One piece of work at a time.

    Args:
        name: of the thread.
        ticker: started while `poll` has to be called.
    """

    def __init__(self, name: str, ticker: Ticker | None = None) -> None:
        self._name = name
        self._ticker = ticker or NoTicker()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        # (message, whether it is the last one), from the thread.
        self._messages: queue.SimpleQueue[tuple[Any, bool]] = queue.SimpleQueue()

    @property
    def isRunning(self) -> bool:
        """Whether work is under way, or its end waits for `poll`."""
        return self._thread is not None

    @property
    def isCancelled(self) -> bool:
        """Whether the work is to end early; the work itself asks for this."""
        return self._stop.is_set()

    def start(self, work: Callable[[], E], failed: Callable[[Exception], E]) -> bool:
        """Starts the work; False if other work is still running.

        Args:
            work: called in the thread; returns the end, for `onEnd`.
            failed: returns the end for an exception of the work.
        """
        if self._thread is not None:
            return False
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(work, failed), name=self._name, daemon=True)
        self._thread.start()
        self._ticker.start()
        return True

    def tell(self, progress: P) -> None:
        """Reports progress; the work calls this in its thread."""
        self._messages.put((progress, False))

    def cancel(self) -> None:
        """Asks the work to end early."""
        self._stop.set()

    def poll(self, onProgress: Callable[[P], None], onEnd: Callable[[E], None]) -> None:
        """Passes on the messages that have come, without waiting. The ticker calls it."""
        while True:
            try:
                message, isEnd = self._messages.get_nowait()
            except queue.Empty:
                return
            if not isEnd:
                onProgress(message)
                continue
            assert self._thread is not None
            self._thread.join()
            self._thread = None
            self._ticker.stop()
            onEnd(message)

    def close(self, timeout: float) -> None:
        """Asks the work to end early, and waits at most so many seconds for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None
        self._ticker.stop()

    def _run(self, work: Callable[[], E], failed: Callable[[Exception], E]) -> None:
        try:
            end = work()
        except Exception as error:  # a thread's exception would be lost
            end = failed(error)
        self._messages.put((end, True))


def reasonOf(error: Exception) -> str:
    """Returns why work has failed, for the user; with the exception's type if it was not expected."""
    return str(error) if isinstance(error, SAM2PropagateError) else f"{type(error).__name__}: {error}"
