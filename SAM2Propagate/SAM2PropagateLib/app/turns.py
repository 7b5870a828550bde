"""Work that would hold the window, done in short turns between which it is free.

Python's threads do not run while Slicer's event loop is idle, so it is turns: a generator pauses where
nothing is half done, and goes on when `Controller.poll` is called next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

Last = Callable[[], None]
# A pause that is True ends the turn, whatever time is left, as what comes next takes long. What is returned
# is called in a turn of its own, when the work is over.
Work = Generator[bool, None, Last | None]


class Turns:
    """At most one piece of work.

    Args:
        clock: seconds.

    Attributes:
        start: called when turns are wanted. clock: as given.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.start: Callable[[], None] = lambda: None
        self.clock = clock
        self._work: Work | None = None
        self._last: Last | None = None
        self._isInside = False

    @property
    def isOn(self) -> bool:
        """Whether turns are wanted."""
        return self._work is not None or self._last is not None

    @property
    def isWorking(self) -> bool:
        """Whether there is work left."""
        return self._work is not None

    def begin(self, work: Work) -> None:
        """There is work; what was begun before is finished first."""
        self.finish()
        self._work = work
        self.start()

    def later(self, last: Last) -> None:
        """Calls this in a turn of its own; what was begun before is finished first."""
        self.finish()
        self._last = last
        self.start()

    def go(self, seconds: float) -> None:
        """Works for about so many seconds: a pause ends the turn once they are over."""
        end = self.clock() + seconds
        while self._next() is False and self.clock() < end:
            pass

    def finish(self) -> None:
        """Does all that is left, at once; nothing from within the work itself."""
        while self._next() is not None:
            pass

    def drop(self) -> None:
        """Leaves what is left of the work undone."""
        if self._isInside:
            return
        if self._work is not None:
            self._work.close()
            self._work = None
        self._next()

    def _next(self) -> bool | None:
        """Works up to the next pause, and tells which that is; None if nothing is left."""
        if self._isInside:
            return None
        if self._work is None:
            last, self._last = self._last, None
            if last is not None:
                last()
            return None
        self._isInside = True
        try:
            return next(self._work)
        except StopIteration as end:
            self._work, self._last = None, end.value
            return True
        except BaseException:
            self._work = None
            raise
        finally:
            self._isInside = False
