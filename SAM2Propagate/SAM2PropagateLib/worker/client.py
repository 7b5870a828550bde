"""The asynchronous client of one worker: it sends requests, and `poll` collects events; nothing waits.

A worker that dies, breaks the protocol or misses a deadline is ended with all its children, and each open
request gets an `error` event. `start` then starts a new worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.texts import Words
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker.library_files import own_version
from SAM2PropagateLib.worker.messages import (
    DEVICE_LOST,
    PROTOCOL_VERSION,
    Cancel,
    DoneEvent,
    ErrorEvent,
    Event,
    Hello,
    LogEvent,
    ReadyEvent,
    Request,
    Shutdown,
    parse_event,
)
from SAM2PropagateLib.worker.transport import Transport
from SAM2PropagateLib.worker.wire import Message, Payload, WireError

Prepare = Callable[[], tuple[Request, Payload]]

# After a gap this long between two polls (a blocked interface, a sleeping computer) the worker gets some time
# to answer before its silence counts.
_POLL_GAP_SECONDS = 5.0
_GRACE_SECONDS = 1.0
_WAIT_STEP_SECONDS = 0.25


@dataclass(frozen=True)
class Deadlines:
    """Seconds after which a worker counts as hung.

    `start` and `cancel` count from the request, or from the worker's start if that is later. The others count
    the worker's silence: every message, and every part of an upload that it takes, resets them.
    """

    start: float = 120.0
    load_model: float = 300.0
    open_volume: float = 120.0
    set_window: float = 120.0
    preview: float = 300.0
    propagate: float = 300.0
    # Long, as nobody waits for it: a run counts as cancelled at once. It must not end a slow worker, and with
    # it the next run.
    cancel: float = 60.0
    close_volume: float = 120.0
    shutdown: float = 5.0

    def of(self, request: Request) -> float:
        """Return the deadline for this kind of request."""
        seconds: float = getattr(self, "start" if isinstance(request, Hello) else request.type)
        return seconds


@dataclass
class _OpenRequest:
    """A request without an answer yet."""

    request: Request
    sent_at: float
    deadline: float | None


@dataclass
class _Worker:
    """The state of the present worker."""

    transport: Transport
    ready_at: float | None = None
    heard_at: float = 0.0
    taken_at: float = 0.0
    activity: int = 0
    leaving: SAM2PropagateError | None = None
    open: dict[int, _OpenRequest] = field(default_factory=dict)


class WorkerClient:
    """Talks to one worker at a time.

    Args:
        transport_factory: makes the connection to a new worker, without starting it.
        deadlines: when a worker counts as hung. clock: returns seconds; must never go back.
    """

    def __init__(
        self,
        transport_factory: Callable[[], Transport],
        *,
        deadlines: Deadlines | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport_factory = transport_factory
        self._deadlines = deadlines or Deadlines()
        self._clock = clock
        self._worker: _Worker | None = None
        self._retired: list[Transport] = []
        self._events: list[Event] = []
        self._next_id = 1
        self._polled_at = clock()
        self._log: list[str] = []
        self._why_ended = _not_running()

    @property
    def is_alive(self) -> bool:
        """Whether requests can be sent: a worker was started and is not known to have ended."""
        worker = self._worker
        return worker is not None and worker.transport.is_open and worker.leaving is None

    @property
    def open_requests(self) -> list[int]:
        """The ids of the requests without an answer, oldest first."""
        return [] if self._worker is None else list(self._worker.open)

    @property
    def log(self) -> list[str]:
        """The last lines that the present worker printed, or the previous one if there is none."""
        return self._log if self._worker is None else self._worker.transport.log

    def start(self) -> None:
        """Start a worker, in place of a dead one.

        Raises:
            SAM2PropagateError: worker_not_started.
        """
        if self._worker is not None:
            if self.is_alive:
                return
            self._collect()
            self._check_death()
            if self._worker is not None:
                # The worker has announced its end, or its pipe has just closed.
                self._end_worker(self._worker.leaving or _death(self._worker))
        transport = self._transport_factory()
        transport.start()
        self._worker = _Worker(transport, heard_at=self._clock())
        self.request(Hello())

    def request(
        self,
        request: Request,
        payload: Payload = b"",
        *,
        prepare: Prepare | None = None,
        has_deadline: bool = True,
    ) -> int:
        """Send a request; return its id, which is also in its events.

        If the last worker has ended, the request gets the reason of that as its error.

        Args:
            request: what to send; with `prepare`, only its kind counts.
            payload: raw bytes that go with it.
            prepare: makes the request and its payload in another thread, where it may take long.
            has_deadline: False if the answer may take any time.
        """
        request_id = self._next_id
        self._next_id += 1
        worker = self._worker
        if worker is None:
            self._events.append(ErrorEvent(request_id, self._why_ended, tuple(self._log)))
            return request_id
        deadline = self._deadlines.of(request) if has_deadline else None
        worker.open[request_id] = _OpenRequest(request, self._clock(), deadline)
        if prepare is None:
            worker.transport.send(request_id, Message(request.header(request_id), payload))
        else:
            worker.transport.send(request_id, lambda: _prepared(prepare, request_id))
        return request_id

    def poll(self) -> list[Event]:
        """Return all events since the last call, in order, without waiting; check the deadlines, too."""
        self._collect()
        if not self._check_death():
            self._check_deadlines()
        self._polled_at = self._clock()
        self._retired = [transport for transport in self._retired if not transport.is_closed]
        events, self._events = self._events, []
        return events

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for events; for callers without an event loop.

        Return False early if the next `poll` has to check a deadline.
        """
        if self._events or self._worker is None:
            return bool(self._events)
        return self._worker.transport.wait(min(timeout, _WAIT_STEP_SECONDS))

    def kill(self, reason: SAM2PropagateError | None = None) -> None:
        """End the worker with all its children at once; open requests get `reason` as their error."""
        if self._worker is not None:
            self._collect()
            self._end_worker(reason or SAM2PropagateError("worker_stopped", _("The worker was stopped.")))

    def close(self, timeout: float | None = None) -> None:
        """End the worker and all threads. The worker may end by itself for `timeout` seconds (None: the
        shutdown deadline).

        Open requests get an error, which one more `poll` collects.
        """
        patience = self._deadlines.shutdown if timeout is None else timeout
        worker = self._worker
        if worker is not None:
            self._collect()
            worker.transport.send(self._next_id, Message(Shutdown().header(self._next_id)))
            self._next_id += 1
            worker.transport.close(patience)
            self._collect()
            self._why_ended = SAM2PropagateError("worker_stopped", _("The worker was stopped."))
            self._fail_all(self._why_ended)
            self._log = worker.transport.log
            self._worker = None
        for transport in self._retired:
            transport.close(0.0)
        self._retired.clear()

    # --- events

    def _collect(self) -> None:
        """Collect what has arrived, for `poll`."""
        worker = self._worker
        if worker is None:
            return
        for message in worker.transport.receive():
            try:
                event = parse_event(message)
            except WireError as error:
                self._end_worker(error)
                return
            worker.heard_at = self._clock()
            if isinstance(event, ReadyEvent) and not self._accept(worker, event):
                return
            if event.request is not None and not isinstance(event, LogEvent):
                if event.request not in worker.open:
                    continue
                if isinstance(event, ErrorEvent) and isinstance(worker.open[event.request].request, Hello):
                    # It speaks another protocol, and will answer nothing.
                    self._end_worker(event.error)
                    return
                if isinstance(event, ErrorEvent) and event.error.code == DEVICE_LOST:
                    worker.leaving = event.error
                if isinstance(event, DoneEvent | ErrorEvent | ReadyEvent):
                    del worker.open[event.request]
            self._events.append(event)

    def _accept(self, worker: _Worker, ready: ReadyEvent) -> bool:
        """Tell whether the worker speaks our protocol; end it if not."""
        worker.ready_at = self._clock()
        host = worker.transport.host
        if ready.protocol != PROTOCOL_VERSION:
            error = SAM2PropagateError(
                "protocol_mismatch",
                _("The worker speaks version {version} of the protocol, this program version {own}.").format(
                    version=ready.protocol, own=PROTOCOL_VERSION
                ),
                _("Install the same version of SAM2 Propagate on both sides."),
            )
        elif host is not None and ready.library != own_version():
            error = SAM2PropagateError(
                "version_mismatch",
                _("{host} has SAM2 Propagate {version}, this computer {own}.").format(
                    host=host, version=ready.library or _("of an older version"), own=own_version()
                ),
                _("Set up the server again, so that both have the same."),
            )
        else:
            return True
        self._end_worker(error)
        return False

    # --- the worker's end

    def _check_death(self) -> bool:
        """Tell whether the worker has ended; if so, its open requests fail."""
        worker = self._worker
        if worker is None:
            return True
        failure = worker.transport.failure
        if failure is not None:
            self._end_worker(failure)
        elif worker.transport.has_ended:
            self._end_worker(_death(worker))
        return self._worker is None

    def _check_deadlines(self) -> None:
        worker = self._worker
        if worker is None:
            return
        now = self._clock()
        if worker.transport.activity != worker.activity:
            worker.activity = worker.transport.activity
            worker.heard_at = worker.taken_at = now
        if now - self._polled_at > _POLL_GAP_SECONDS:
            for waiting in worker.open.values():
                if waiting.deadline is not None:
                    waiting.sent_at = max(waiting.sent_at, now - waiting.deadline + _GRACE_SECONDS)
            return
        for request_id, waiting in worker.open.items():
            if waiting.deadline is not None and now - _counted_from(worker, waiting) > waiting.deadline:
                error = _no_answer(waiting)
                del worker.open[request_id]
                self._events.append(ErrorEvent(request_id, error, tuple(worker.transport.log)))
                self._end_worker(error)
                return

    def _end_worker(self, error: SAM2PropagateError) -> None:
        """Kill the worker and give each open request the error."""
        worker = self._worker
        if worker is None:
            return
        worker.transport.kill()
        self._log = worker.transport.log
        self._why_ended = error
        self._fail_all(error)
        self._retired.append(worker.transport)
        self._worker = None

    def _fail_all(self, error: SAM2PropagateError) -> None:
        worker = self._worker
        if worker is None:
            return
        log = tuple(worker.transport.log)
        self._events += [ErrorEvent(request_id, error, log) for request_id in worker.open]
        worker.open.clear()


def _prepared(prepare: Prepare, request_id: int) -> Message:
    request, payload = prepare()
    return Message(request.header(request_id), payload)


def _counted_from(worker: _Worker, waiting: _OpenRequest) -> float:
    if isinstance(waiting.request, Hello):
        return waiting.sent_at
    if worker.ready_at is None:
        # It cannot answer yet; the deadline of the start applies.
        return float("inf")
    if isinstance(waiting.request, Cancel | Shutdown):
        # It is not sent while a large volume before it is still being sent.
        return max(waiting.sent_at, worker.ready_at, worker.taken_at)
    return max(waiting.sent_at, worker.heard_at)


def _not_running() -> SAM2PropagateError:
    return SAM2PropagateError("worker_not_running", _("The worker is not running."), _("Try again."))


def _no_answer(waiting: _OpenRequest) -> SAM2PropagateError:
    if isinstance(waiting.request, Hello):
        sentence = _("The worker did not start within {seconds:g} seconds.")
    else:
        sentence = _("The worker did not answer within {seconds:g} seconds and was ended.")
    return SAM2PropagateError(
        "worker_not_responding",
        sentence.format(seconds=waiting.deadline),
        _("Try again: the worker restarts, and your prompts and finished slices are kept."),
    )


def _death(worker: _Worker) -> SAM2PropagateError:
    if (reason := worker.transport.end_reason) is not None:
        return reason
    code = worker.transport.exit_code
    last = next(reversed(worker.transport.log), "")
    how: Words = ""
    if code:
        words = _(" (signal {number})") if code < 0 else _(" (exit code {number})")
        how = words.format(number=abs(code))
    if worker.ready_at is None:
        if last:
            sentence = _("The worker ended before it was ready{how}: {last}")
        else:
            sentence = _("The worker ended before it was ready{how}.")
        return SAM2PropagateError(
            "worker_not_started",
            sentence.format(how=how, last=last),
            _("Check that its Python has what SAM2 Propagate needs; the log tells more."),
        )
    again = _("Try again: the worker restarts, and your prompts and finished slices are kept.")
    return SAM2PropagateError(
        "worker_died",
        _("The worker ended unexpectedly{how}.").format(how=how),
        _("A lack of memory often causes this. {again}").format(again=again) if code == -9 else again,
    )
