"""Keeps the window and level in which each segment was carried, as the worker does."""

from __future__ import annotations

from collections.abc import Sequence

from SAM2PropagateLib.frames.window import Window


class CarriedWindows:
    """The windows of a workspace's segments: of a segment's last run with `anew`, or else of its first run.

    Attributes:
        told: the window for which the user last heard that some segments keep another one.
    """

    def __init__(self) -> None:
        self.told: Window | None = None
        self._windows: dict[str, Window] = {}
        self._worker: object = None

    def forget(self, segmentID: str) -> None:
        """Forgets a removed segment."""
        self._windows.pop(segmentID, None)

    def carry(self, segmentIDs: Sequence[str], window: Window, worker: object, anew: bool) -> tuple[str, ...]:
        """Notes a run of segments while the volume is shown in a window.

        Args:
            worker: identifies worker, model and axis; a change discards the recorded windows.
            anew: whether all slices are written again, in this window.

        Returns:
            The segments that keep an earlier window.
        """
        if worker != self._worker:
            self._worker, self._windows = worker, {}
        for segmentID in segmentIDs:
            if anew or segmentID not in self._windows:
                self._windows[segmentID] = window
        return tuple(one for one in segmentIDs if self._windows[one] != window)
