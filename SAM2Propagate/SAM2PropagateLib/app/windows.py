"""In which window and level each segment was carried, as the worker keeps it."""

from __future__ import annotations

from collections.abc import Sequence

from SAM2PropagateLib.frames.window import Window


class CarriedWindows:
    """The windows of a workspace's segments, each that of its last run `anew`, or of its first one.

    Attributes:
        told: the window last reported to the user as not that of some segments.
    """

    def __init__(self) -> None:
        self.told: Window | None = None
        self._windows: dict[str, Window] = {}
        self._worker: object = None

    def forget(self, segmentID: str) -> None:
        """A segment is gone."""
        self._windows.pop(segmentID, None)

    def carry(self, segmentIDs: Sequence[str], window: Window, worker: object, anew: bool) -> tuple[str, ...]:
        """Notes that segments are carried again while the volume is shown in a window.

        Args:
            worker: identifies worker, model and axis; a change discards the recorded windows.
            anew: all of their slices, in this window.

        Returns:
            Those that are carried on in the window that they were carried in before, and not in this one.
        """
        if worker != self._worker:
            self._worker, self._windows = worker, {}
        for segmentID in segmentIDs:
            if anew or segmentID not in self._windows:
                self._windows[segmentID] = window
        return tuple(one for one in segmentIDs if self._windows[one] != window)
