"""The worker's ends of the pipe: it sends events from any thread, and reads requests in one of its own.

So cancelling works while the main thread computes: the reading thread answers for waiting requests, and sets
the flag of the one under way.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from SAM2PropagateLib.errors import Cancelled, SAM2PropagateError
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker.messages import (
    Alive,
    Cancel,
    DoneEvent,
    ErrorEvent,
    Event,
    Received,
    Shutdown,
    parse_request,
)
from SAM2PropagateLib.worker.wire import MessageReader, WireError, Writable, write_message

_log = logging.getLogger(__name__)


class Outlet:
    """Sends events one after the other. A client that is gone is not an error; see `is_broken`.

    Args:
        stream: to the client.
    """

    def __init__(self, stream: Writable) -> None:
        self._stream = stream
        self._guard = threading.Lock()
        self.is_broken = False

    def send(self, event: Event) -> None:
        """Send one event; blocks while the pipe is full."""
        with self._guard:
            if self.is_broken:
                return
            try:
                write_message(self._stream, event.message())
            except (OSError, ValueError):
                self.is_broken = True

    def close(self) -> None:
        """Stop sending."""
        with self._guard:
            self.is_broken = True


class Inbox:
    """Reads requests in a thread of its own.

    Args:
        reader: of the client's messages. outlet: for answers by the reading thread.
    """

    def __init__(self, reader: MessageReader, outlet: Outlet) -> None:
        self._reader = reader
        self._outlet = outlet
        self._changed = threading.Condition()
        self._waiting: deque[Received] = deque()
        self._active: list[int] = []
        self._cancelled: dict[int, list[int]] = {}
        self._has_ended = False
        self.was_shut_down = False

    @property
    def has_ended(self) -> bool:
        """Whether the client is gone or has asked for the end, so that work under way is pointless."""
        return self._has_ended or self.was_shut_down or self._outlet.is_broken

    @property
    def has_waiting(self) -> bool:
        """Whether a request is waiting, or the end has come."""
        return bool(self._waiting) or self.has_ended

    def read(self) -> None:
        """Read until the client closes its end; call it in a thread."""
        try:
            while (message := self._reader.read()) is not None:
                try:
                    received = parse_request(message)
                except SAM2PropagateError as error:
                    request_id = message.header.get("id")
                    self._outlet.send(ErrorEvent(request_id if isinstance(request_id, int) else None, error))
                    continue
                if isinstance(received.request, Cancel):
                    self._cancel(received.id, received.request.run)
                elif isinstance(received.request, Shutdown):
                    self._shut_down(received.id)
                elif not isinstance(received.request, Alive):
                    with self._changed:
                        self._waiting.append(received)
                        self._changed.notify_all()
        except WireError as error:
            _log.error("%s", error)
            self._outlet.send(ErrorEvent(None, error))
        except OSError as error:
            _log.error("The client's messages cannot be read: %s", error)
        except MemoryError:
            _log.error("A message is too large for the memory that is free.")
            self._outlet.send(
                ErrorEvent(
                    None,
                    SAM2PropagateError(
                        "out_of_memory",
                        _("The worker has too little memory to receive the volume."),
                        _("Close other programs there, or crop the volume."),
                    ),
                )
            )
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Treat the client as gone: end work under way, and take no more requests."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def take(self) -> Received | None:
        """Wait for the next request and return it; None when the client is gone. Call `finish` after it."""
        with self._changed:
            self._changed.wait_for(lambda: self.has_waiting)
            return self._activate() if self._waiting and not self.has_ended else None

    def take_if(self, allowed: Callable[[Received], bool]) -> Received | None:
        """Return the next request if there is one and it is allowed, else None; later requests never overtake
        it. Call `finish` after it."""
        with self._changed:
            return self._activate() if self._waiting and allowed(self._waiting[0]) else None

    def finish(self, request_id: int) -> None:
        """Answer the cancels of a request, after its own answer was sent."""
        with self._changed:
            self._active.remove(request_id)
            cancels = self._cancelled.pop(request_id, [])
        for cancel in cancels:
            self._outlet.send(DoneEvent(cancel, {"known": True}))

    def check(self, request_id: int) -> None:
        """Raise `Cancelled` if this request was cancelled or the client is gone."""
        if request_id in self._cancelled or self.has_ended:
            raise Cancelled()

    def _activate(self) -> Received:
        # Under the lock that guards the queue, so that a cancel always finds it either waiting or under way.
        received = self._waiting.popleft()
        self._active.append(received.id)
        return received

    def _shut_down(self, request_id: int) -> None:
        self._outlet.send(DoneEvent(request_id))
        with self._changed:
            self.was_shut_down = True
            self._changed.notify_all()

    def _cancel(self, cancel: int, target: int) -> None:
        with self._changed:
            waiting = next((one for one in self._waiting if one.id == target), None)
            if waiting is not None:
                self._waiting.remove(waiting)
            elif target in self._active:
                self._cancelled.setdefault(target, []).append(cancel)
                return
        if waiting is not None:
            self._outlet.send(DoneEvent(target, {"cancelled": True}))
        self._outlet.send(DoneEvent(cancel, {"known": waiting is not None}))
