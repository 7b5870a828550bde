"""Work that would hold the window, done in short turns between which it is free.

Python's threads do not run while Slicer's event loop is idle, so it is turns: a generator pauses where
nothing is half done, and goes on when `Controller.poll` is called next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Last = Callable[[], None]
# A pause that is True ends the turn, whatever time is left, as what comes next takes long. What is returned
# is called in a turn of its own, when the work is over.
Work = Generator[bool, None, Last | None]
HoldViews = Callable[[], list[Callable[[], None]]]


def pausing(work: Generator[None, None, T]) -> Generator[bool, None, T]:
    """Does work that pauses, as part of work that is done in turns; gives what it gives."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        yield False


class Turns:
    """At most one piece of work.

    Args:
        clock: seconds.

    Attributes:
        start: called when turns are wanted. clock: as given.
        holdViews: keeps all views from being drawn; gives for each what has it drawn again.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.start: Callable[[], None] = lambda: None
        self.holdViews: HoldViews = list
        self.clock = clock
        self._work: Work | None = None
        self._last: Last | None = None
        self._isShown = False
        self._isInside = False

    @property
    def isOn(self) -> bool:
        """Whether turns are wanted."""
        return self._work is not None or self._last is not None

    @property
    def isWorking(self) -> bool:
        """Whether long work is left, which the user is shown."""
        return self._work is not None and self._isShown

    def begin(self, work: Work, isShown: bool = True) -> None:
        """There is work; what was begun before is finished first.

        Args:
            isShown: it takes so long that the user is told of it.
        """
        self.finish()
        self._work, self._isShown = work, isShown
        self.start()

    def hide(self) -> None:
        """What is left of the work is of no interest to the user any more."""
        self._isShown = False

    def undrawn(self, work: Work) -> Work:
        """Does work while no view is drawn, and has each drawn in a turn of its own at the end: else views
        are drawn again and again within a turn.
        """
        waiting = self.holdViews()
        try:
            last = yield from work
            while waiting:
                yield True
                waiting.pop(0)()
            yield True
        finally:
            for draw in waiting:
                draw()
        return last

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
