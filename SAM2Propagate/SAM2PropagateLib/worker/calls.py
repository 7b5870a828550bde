"""Calls to a worker and their state: requests, previews and runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.worker.messages import DoneEvent, ErrorEvent, Event, FrameEvent, ProgressEvent


class Call:
    """A request to the worker and its state; the session's `poll` keeps it up to date.

    Attributes:
        kind: of the request: "load_model", "open_volume", "set_window", "preview", "propagate",
            "close_volume". volume: its volume's name, if it has one.
        state: "waiting", "done", "failed" or "cancelled".
        error: why it failed; also set if a cancel had to end the worker.
        result: of the worker's `done`. progress: the latest.
        log: the worker's last lines, if it died.
        is_cancel_requested: whether it is to end early.
        request: the id that it was sent with. needs: the calls that must succeed first.
        is_replay: whether it repeats an earlier call for a new worker.
        frame_shape: (rows, cols) of the masks that answer it; None: any.
    """

    def __init__(self, kind: str, volume: str | None = None, is_replay: bool = False) -> None:
        self.kind = kind
        self.volume = volume
        self.is_replay = is_replay
        self.state = "waiting"
        self.error: SAM2PropagateError | None = None
        self.result: Mapping[str, Any] = {}
        self.progress: ProgressEvent | None = None
        self.log: tuple[str, ...] = ()
        self.is_cancel_requested = False
        self.request: int | None = None
        self.needs: tuple[Call, ...] = ()
        self.frame_shape: tuple[int, int] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether its last event has come."""
        return self.state != "waiting"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind} {self.state}>"

    def raise_error(self) -> None:
        """Raise the error if the call has failed."""
        if self.state == "failed" and self.error is not None:
            raise self.error

    def take(self, event: Event) -> None:
        """Update the state with one of its events."""
        if isinstance(event, ProgressEvent):
            self.progress = event
        elif isinstance(event, DoneEvent):
            self.result = event.result
            self.state = "cancelled" if event.cancelled else "done"
        elif isinstance(event, ErrorEvent):
            cause = next((need.error for need in self.needs if need.state == "failed"), None)
            self.error = cause or event.error
            self.log = event.log
            self.state = "cancelled" if self.is_cancel_requested else "failed"


class PreviewCall(Call):
    """A preview; `frame` is its mask once that has arrived."""

    def __init__(self, volume: str, segment: str) -> None:
        super().__init__("preview", volume)
        self.segment = segment
        self.frame: FrameEvent | None = None

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """The mask, (rows, cols) bool of the native frame; None until it has arrived."""
        return None if self.frame is None else self.frame.mask

    def take(self, event: Event) -> None:
        """Update the state with one of its events; keep the mask."""
        super().take(event)
        if isinstance(event, FrameEvent):
            self.frame = event


class Run(Call):
    """A propagation; its frames stay even if the worker ends.

    Attributes:
        frames: (segment, frame) -> the frame's event, in order of arrival.
    """

    def __init__(self, volume: str, segments: tuple[str, ...]) -> None:
        super().__init__("propagate", volume)
        self.segments = segments
        self.frames: dict[tuple[str, int], FrameEvent] = {}

    @property
    def masks(self) -> Mapping[tuple[str, int], NDArray[np.bool_]]:
        """The masks by (segment, frame), each (rows, cols) bool, unpacked when it is read."""
        return _Masks(self.frames)

    def take(self, event: Event) -> None:
        """Update the state with one of its events; keep its masks."""
        super().take(event)
        if isinstance(event, FrameEvent):
            self.frames[event.segment, event.frame] = event


class _Masks(Mapping[tuple[str, int], NDArray[np.bool_]]):
    def __init__(self, frames: Mapping[tuple[str, int], FrameEvent]) -> None:
        self._frames = frames

    def __getitem__(self, key: tuple[str, int]) -> NDArray[np.bool_]:
        return self._frames[key].mask

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)


@dataclass(frozen=True)
class Update:
    """An event of a call; `call` is None for events of the worker as a whole, such as `log`."""

    call: Call | None
    event: Event
