"""The order of what can be undone, with moments that are mere values."""

from __future__ import annotations

import random

import pytest

from SAM2PropagateLib.app.history import History


class Desk:
    """A value that changes, and a history of it."""

    def __init__(self, most: int = 200) -> None:
        self.value = 0
        self.gone: set[int] = set()
        self.history: History[int] = History(lambda value: value not in self.gone, most)

    def make(self, value: int) -> None:
        self.history.add(f"{self.value} to {value}", self.value)
        self.value = value

    def swap(self, value: int) -> int:
        there, self.value = self.value, value
        return there

    def undo(self) -> bool:
        return self.history.undo(self.swap)

    def redo(self) -> bool:
        return self.history.redo(self.swap)


def test_hundreds_of_steps_are_undone_and_redone_as_a_list_of_values_says():
    chance, desk, values, at = random.Random(7), Desk(10_000), [0], 0
    for number in range(1, 600):
        if chance.random() < 0.4:
            desk.make(number)
            values, at = [*values[: at + 1], number], at + 1
        elif chance.random() < 0.6:
            assert desk.undo() == (at > 0)
            at = max(at - 1, 0)
        else:
            assert desk.redo() == (at + 1 < len(values))
            at = min(at + 1, len(values) - 1)
        assert desk.value == values[at]
        last, following = desk.history.last, desk.history.next
        assert (last and last.name) == (f"{values[at - 1]} to {values[at]}" if at else None)
        after = f"{values[at]} to {values[at + 1]}" if at + 1 < len(values) else None
        assert (following and following.name) == after


def test_a_step_that_cannot_be_taken_is_never_offered_nor_those_beyond_it():
    desk = Desk()
    for value in range(1, 6):
        desk.make(value)
    desk.gone = {2}
    assert desk.undo() and desk.undo() and desk.value == 3
    assert desk.history.last is None and not desk.undo() and desk.value == 3
    desk.gone = {5}
    assert desk.redo() and desk.value == 4
    assert desk.history.next is None and not desk.redo()


def test_what_raises_is_not_undone():
    desk = Desk()
    desk.make(1)

    def fails(_value: int) -> int:
        raise OSError

    with pytest.raises(OSError):
        desk.history.undo(fails)
    assert desk.history.last is not None and desk.undo() and desk.value == 0


def test_only_so_many_steps_are_kept():
    desk = Desk(3)
    for value in range(1, 10):
        desk.make(value)
    while desk.undo():
        pass
    assert desk.value == 6


def test_only_moments_that_came_since_are_changed_wherever_they_lie():
    desk = Desk()
    for value in (1, 2, 3):
        desk.make(value)
    since = desk.history.count
    assert desk.undo()
    desk.history.map(lambda value: value + 10, since)
    assert desk.redo() and desk.value == 13
    since = desk.history.count
    desk.make(4)
    desk.history.map(lambda value: value + 100, since)
    assert desk.undo() and desk.value == 113
    assert desk.undo() and desk.undo() and desk.value == 1


def test_more_can_be_said_of_the_last_step_alone():
    desk = Desk()
    desk.make(1)
    first = desk.history.last
    assert first is not None
    desk.history.replace(first, "all of it", -1)
    assert desk.history.last is not None and desk.history.last.name == "all of it"
    with pytest.raises(ValueError):
        desk.history.replace(first, "again", 0)
    assert desk.undo() and desk.value == -1
    desk.history.map(lambda value: value + 10)
    assert desk.redo() and desk.value == 11
    desk.history.clear()
    assert desk.history.last is None and desk.history.next is None
