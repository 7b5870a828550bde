"""Observes MRML nodes, and removes all observers together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Observers:
    """Observers that belong together; `clear` removes them all."""

    def __init__(self) -> None:
        self._tags: list[tuple[Any, int]] = []

    def __len__(self) -> int:
        return len(self._tags)

    def add(self, caller: Any, event: Any, callback: Callable[[], None]) -> None:
        """Calls back without arguments on every event."""
        self._tags.append((caller, caller.AddObserver(event, lambda *_: callback())))

    def clear(self) -> None:
        """Removes all of them."""
        tags, self._tags = self._tags, []
        for caller, tag in tags:
            caller.RemoveObserver(tag)
