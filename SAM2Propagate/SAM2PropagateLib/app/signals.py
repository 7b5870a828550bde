"""Minimal signals, without Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Signal(Generic[T]):
    """Calls connected functions, in the order in which they were connected."""

    def __init__(self) -> None:
        self._slots: list[Callable[[T], None]] = []

    def connect(self, slot: Callable[[T], None]) -> None:
        """Calls `slot` with every value from now on; only once per value, even if it is connected twice."""
        if slot not in self._slots:
            self._slots.append(slot)

    def disconnect(self, slot: Callable[[T], None]) -> None:
        """Stops calling `slot`; does nothing if it is not connected."""
        if slot in self._slots:
            self._slots.remove(slot)

    def emit(self, value: T) -> None:
        """Calls all connected functions."""
        for slot in list(self._slots):
            slot(value)

    def clear(self) -> None:
        """Disconnects all functions."""
        self._slots.clear()
