"""Does long work in short turns, between which Slicer responds.

Python's threads do not run while Slicer's event loop is idle, so the work is a generator: it pauses where
nothing is half done, and continues at the next call of `Controller.poll`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Last = Callable[[], None]
# A pause that yields True ends the turn even if time is left, as the next piece takes long. The function that
# is returned is called in a turn of its own, after the work.
Work = Generator[bool, None, Last | None]
HoldViews = Callable[[], list[Callable[[], None]]]


def pausing(work: Generator[None, None, T]) -> Generator[bool, None, T]:
    """Does pausing work as a part of work in turns; returns its result."""
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
        start: called when turns are needed. clock: as given.
        holdViews: stops the drawing of all views; returns for each view a function that draws it again.
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
        """Whether turns are needed."""
        return self._work is not None or self._last is not None

    @property
    def isWorking(self) -> bool:
        """Whether long work is left that the user should see."""
        return self._work is not None and self._isShown

    def begin(self, work: Work, isShown: bool = True) -> None:
        """Begins work; earlier work is finished first.

        Args:
            isShown: whether the user sees that it is under way.
        """
        self.finish()
        self._work, self._isShown = work, isShown
        self.start()

    def hide(self) -> None:
        """Stops showing the user that work is under way."""
        self._isShown = False

    def undrawn(self, work: Work) -> Work:
        """Does work while no view is drawn, and at the end draws each in a turn of its own. Else views would
        be drawn repeatedly within a turn.
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
        """Calls a function in a turn of its own; earlier work is finished first."""
        self.finish()
        self._last = last
        self.start()

    def go(self, seconds: float) -> None:
        """Works for about so many seconds, up to the first pause after them."""
        end = self.clock() + seconds
        while self._next() is False and self.clock() < end:
            pass

    def finish(self) -> None:
        """Does all that is left at once. A call from within the work does nothing."""
        while self._next() is not None:
            pass

    def drop(self) -> None:
        """Drops what is left of the work."""
        if self._isInside:
            return
        if self._work is not None:
            self._work.close()
            self._work = None
        self._next()

    def _next(self) -> bool | None:
        """Works up to the next pause, and returns what it yields; None if nothing is left."""
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
