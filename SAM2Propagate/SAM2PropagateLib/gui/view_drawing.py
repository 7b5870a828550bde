"""Draws the slice views that arriving masks change, and not too often."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np

from SAM2PropagateLib.frames.geometry import VolumeGeometry

# Seconds between two drawings of a view: 20 per second look smooth.
_INTERVAL = 0.05

View = tuple[Any, Callable[[], None]]


class ViewDrawing:
    """Draws the slice views that show arriving frames, each at most 20 times a second.

    Args:
        views: returns the slice views of the layout: each one's vtkMRMLSliceNode, and a function that
            schedules its drawing.
        later: schedules a call of `flush` after so many seconds.
        clock: returns seconds.
    """

    def __init__(
        self,
        views: Callable[[], Iterable[View]],
        later: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._views = views
        self._later = later
        self._clock = clock
        self._drawn: dict[str, float] = {}
        self._waiting: dict[str, Callable[[], None]] = {}

    def draw(self, geometry: VolumeGeometry, axis: int, frames: Collection[int]) -> None:
        """Draws the views that show one of these frames, now or when they may be drawn again."""
        for node, draw in self._views():
            if node.GetID() not in self._waiting and showsAny(node, geometry, axis, frames):
                self._waiting[node.GetID()] = draw
        self.flush()

    def flush(self) -> None:
        """Draws the views that have waited long enough."""
        now = self._clock()
        for name in list(self._waiting):
            if now - self._drawn.get(name, -_INTERVAL) >= _INTERVAL:
                self._drawn[name] = now
                self._waiting.pop(name)()
        if self._waiting:
            self._later(min(self._drawn[name] for name in self._waiting) + _INTERVAL - now)


def showsAny(sliceNode: Any, geometry: VolumeGeometry, axis: int, frames: Collection[int]) -> bool:
    """Tells whether a slice view shows a part of one of these frames."""
    width, height = sliceNode.GetDimensions()[:2]
    toRas = np.array(sliceNode.GetXYToRAS().GetData(), dtype=np.float64).reshape(4, 4)
    corners = [toRas @ (x, y, 0.0, 1.0) for x in (0, width) for y in (0, height)]
    along = geometry.ijk_of_ras(np.array(corners)[:, :3])[:, axis]
    first, last = along.min() - 0.5, along.max() + 0.5
    return any(first <= frame <= last for frame in frames)
