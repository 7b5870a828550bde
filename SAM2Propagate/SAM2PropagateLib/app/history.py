"""The undo history: named steps in one order, each with what it takes to undo or redo it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

M = TypeVar("M")


@dataclass(frozen=True)
class Step(Generic[M]):
    """One step of the history.

    Attributes:
        name: for the user. moment: brings back the state on the other side of the step.
        number: greater than that of every earlier step.
    """

    name: str
    moment: M
    number: int


class History(Generic[M]):
    """The steps that were made, and those that were undone, in order.

    Args:
        isThere: tells whether a moment can still be brought back; a step where it cannot is forgotten, with
            all beyond it.
        most: how many steps are kept.

    Attributes:
        clearings: how often all steps were forgotten.
    """

    def __init__(self, isThere: Callable[[M], bool], most: int = 200) -> None:
        self._isThere = isThere
        self._most = most
        self._past: list[Step[M]] = []
        self._future: list[Step[M]] = []
        self._count = 0
        self.clearings = 0

    @property
    def count(self) -> int:
        """How many steps have been made so far; the greatest number of a step."""
        return self._count

    def add(self, name: str, moment: M) -> Step[M]:
        """Adds a step; undone steps are forgotten."""
        step = self._step(name, moment)
        self._past = [*self._past[1 - self._most :], step] if self._most > 1 else [step]
        self._future.clear()
        return step

    def replace(self, step: Step[M], name: str, moment: M) -> Step[M]:
        """Replaces the last step by one that covers more.

        Raises:
            ValueError: it is not the last step.
        """
        if not self._past or self._past[-1] is not step:
            raise ValueError("only the last step can be extended")
        self._past[-1] = replace(step, name=name, moment=moment)
        return self._past[-1]

    @property
    def last(self) -> Step[M] | None:
        """The step that Undo takes back; None if there is none."""
        self._forget(self._past)
        return self._past[-1] if self._past else None

    @property
    def next(self) -> Step[M] | None:
        """The step that Redo brings back; None if there is none."""
        self._forget(self._future)
        return self._future[-1] if self._future else None

    def undo(self, swap: Callable[[M], M]) -> bool:
        """Takes the last step back; False if there is none.

        Args:
            swap: brings back a moment, and returns the one before. If it raises, nothing was undone.
        """
        return self._go(self.last, self._past, self._future, swap)

    def redo(self, swap: Callable[[M], M]) -> bool:
        """Brings back the last undone step; False if there is none. See `undo`."""
        return self._go(self.next, self._future, self._past, swap)

    def map(self, change: Callable[[M], M], since: int = 0) -> None:
        """Changes the moments of all steps that were made after `count` was `since`, for example because
        nodes were moved.
        """
        for steps in (self._past, self._future):
            steps[:] = [
                replace(step, moment=change(step.moment)) if step.number > since else step for step in steps
            ]

    def clear(self) -> None:
        """Forgets all steps."""
        self.clearings += 1
        self._past.clear()
        self._future.clear()

    def _go(
        self,
        step: Step[M] | None,
        source: list[Step[M]],
        target: list[Step[M]],
        swap: Callable[[M], M],
    ) -> bool:
        if step is None:
            return False
        there = swap(step.moment)
        source.pop()
        target.append(self._step(step.name, there))
        return True

    def _step(self, name: str, moment: M) -> Step[M]:
        self._count += 1
        return Step(name, moment, self._count)

    def _forget(self, steps: list[Step[M]]) -> None:
        gone = [n for n, step in enumerate(steps) if not self._isThere(step.moment)]
        if gone:
            del steps[: gone[-1] + 1]
