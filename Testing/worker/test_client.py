"""The client against a transport that does what the test says, with the test's own clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.packed_masks import pack
from SAM2PropagateLib.worker.client import Deadlines, WorkerClient
from SAM2PropagateLib.worker.messages import (
    PROTOCOL_VERSION,
    Cancel,
    CloseVolume,
    DoneEvent,
    ErrorEvent,
    Event,
    FrameEvent,
    LoadModel,
    LogEvent,
    Preview,
    ProgressEvent,
    ReadyEvent,
    Request,
)
from SAM2PropagateLib.worker.transport import Outgoing
from SAM2PropagateLib.worker.wire import Message, WireError

PREVIEW = Preview("ct", {}, "liver", 3)
DEADLINES = Deadlines(start=60, load_model=50, preview=30, propagate=30, cancel=5)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeTransport:
    """Keeps what is sent; hands out what the test puts in."""

    fails_to_start: bool = False
    sent: list[Mapping[str, Any]] = field(default_factory=list)
    incoming: list[Message] = field(default_factory=list)
    is_dead: bool = False
    is_killed: bool = False
    is_closed: bool = False
    failure: SAM2PropagateError | None = None
    exit_code: int | None = None
    end_reason: SAM2PropagateError | None = None
    host: str | None = None
    activity: int = 0
    log: list[str] = field(default_factory=list)

    def start(self) -> None:
        if self.fails_to_start:
            raise SAM2PropagateError("worker_not_started", "No.")

    def send(self, request: int, outgoing: Outgoing) -> None:
        message = outgoing if isinstance(outgoing, Message) else outgoing()
        assert message.header["id"] == request
        self.sent.append(message.header)

    def receive(self) -> list[Message]:
        messages, self.incoming = self.incoming, []
        return messages

    def wait(self, timeout: float) -> bool:
        return bool(self.incoming) or self.has_ended

    def kill(self) -> None:
        self.is_killed = True

    def close(self, timeout: float) -> None:
        self.is_dead = self.is_closed = True

    @property
    def is_open(self) -> bool:
        return not self.is_dead and not self.is_killed and self.failure is None

    @property
    def has_ended(self) -> bool:
        return self.is_dead and not self.incoming

    def say(self, *events: Event) -> None:
        self.incoming += [event.message() for event in events]

    def be_ready(self, protocol: int = PROTOCOL_VERSION) -> None:
        self.say(ReadyEvent(self.sent[0]["id"], protocol, 1, "3.11", "Linux"))


class Setup:
    def __init__(self, *transports: FakeTransport) -> None:
        self.transports = list(transports) or [FakeTransport(), FakeTransport()]
        self.clock = Clock()
        self.made = 0
        self.client = WorkerClient(self._make, deadlines=DEADLINES, clock=self.clock)

    def _make(self) -> FakeTransport:
        self.made += 1
        return self.transports[self.made - 1]

    @property
    def transport(self) -> FakeTransport:
        return self.transports[self.made - 1]

    def started(self) -> FakeTransport:
        """Start a worker that is ready, with nothing to poll."""
        self.client.start()
        self.transport.be_ready()
        self.client.poll()
        return self.transport

    def poll_after(self, seconds: float, step: float = 1.0) -> list[Event]:
        """Polled every second as time goes by, as an interface does."""
        events = self.client.poll()
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(self.clock.now + step, end)
            events += self.client.poll()
        return events


@pytest.fixture
def setup() -> Setup:
    return Setup()


def codes(events: list[Event]) -> dict[int | None, str]:
    return {event.request: event.error.code for event in events if isinstance(event, ErrorEvent)}


def test_hello_comes_first_and_ids_are_new(setup: Setup) -> None:
    transport = setup.started()
    ids = [setup.client.request(PREVIEW) for _ in range(3)]
    assert transport.sent[0] == {
        "type": "hello",
        "id": 1,
        "protocol": PROTOCOL_VERSION,
        "client": "SAM2Propagate",
    }
    assert [header["id"] for header in transport.sent] == [1, *ids] and len({1, *ids}) == 4
    assert setup.client.open_requests == ids


def test_events_come_in_order_and_close_their_requests(setup: Setup) -> None:
    transport = setup.started()
    a, b = setup.client.request(PREVIEW), setup.client.request(PREVIEW)
    frame = FrameEvent(a, "ct", "liver", 3, "preview", 0.5, 1.0, 0.1, pack(np.eye(4, dtype=bool)))
    events = [
        frame,
        LogEvent(None, "warning", "Hm."),
        DoneEvent(a),
        ProgressEvent(b, "", 1, 2),
        ErrorEvent(b, SAM2PropagateError("bad", "Bad.")),
    ]
    transport.say(*events)
    received = setup.client.poll()
    assert [type(event) for event in received] == [type(event) for event in events]
    assert received[0] == frame and setup.client.open_requests == []
    assert setup.client.poll() == []


def test_events_of_unknown_requests_are_dropped(setup: Setup) -> None:
    transport = setup.started()
    transport.say(DoneEvent(99), ProgressEvent(98, "", 1, 2))
    assert setup.client.poll() == []


def test_a_prepared_request_is_made_by_the_transport(setup: Setup) -> None:
    transport = setup.started()
    calls: list[int] = []

    def prepare() -> tuple[Request, bytes]:
        calls.append(1)
        return Preview("ct", {"a": 1}, "liver", 9), b""

    request_id = setup.client.request(PREVIEW, prepare=prepare)
    assert (
        calls == [1] and transport.sent[-1]["prompts"] == {"a": 1} and transport.sent[-1]["id"] == request_id
    )


def test_without_a_worker_a_request_fails_at_the_next_poll(setup: Setup) -> None:
    request_id = setup.client.request(PREVIEW)
    assert setup.client.wait(0.0)
    assert codes(setup.client.poll()) == {request_id: "worker_not_running"}
    assert not setup.client.is_alive and not setup.client.wait(0.0)


def test_a_worker_that_cannot_be_started_is_told_at_once() -> None:
    setup = Setup(FakeTransport(fails_to_start=True))
    with pytest.raises(SAM2PropagateError, match="No"):
        setup.client.start()
    assert not setup.client.is_alive


# --- versions


def test_another_version_of_the_protocol_is_told_and_ends_the_worker(setup: Setup) -> None:
    setup.client.start()
    request_id = setup.client.request(PREVIEW)
    setup.transport.be_ready(protocol=PROTOCOL_VERSION + 1)
    events = setup.client.poll()
    assert codes(events) == {1: "protocol_mismatch", request_id: "protocol_mismatch"}
    error = next(event.error for event in events if isinstance(event, ErrorEvent))
    assert str(PROTOCOL_VERSION + 1) in error.sentence and "same version" in error.hint
    assert setup.transport.is_killed and not setup.client.is_alive


# --- death


def test_death_is_told_to_each_open_request_after_what_was_said_before(setup: Setup) -> None:
    transport = setup.started()
    a, b = setup.client.request(PREVIEW), setup.client.request(PREVIEW)
    transport.say(DoneEvent(a))
    transport.is_dead, transport.exit_code, transport.log = True, -9, ["one", "last words"]
    events = setup.client.poll()
    assert isinstance(events[0], DoneEvent) and codes(events) == {b: "worker_died"}
    dead = events[1]
    assert isinstance(dead, ErrorEvent) and dead.log == ("one", "last words")
    assert "signal 9" in dead.error.sentence and "memory" in dead.error.hint
    assert setup.client.poll() == [] and not setup.client.is_alive
    assert setup.client.log == ["one", "last words"]


def test_death_before_it_was_ready_says_its_last_words(setup: Setup) -> None:
    setup.client.start()
    request_id = setup.client.request(PREVIEW)
    transport = setup.transport
    transport.is_dead, transport.exit_code = True, 1
    transport.log = ["No module named SAM2PropagateLib"]
    events = setup.client.poll()
    assert codes(events)[request_id] == "worker_not_started"
    assert "No module named SAM2PropagateLib" in str(events[0].error)  # type: ignore[attr-defined]


def test_after_death_a_new_worker_can_be_started_and_old_ids_stay_old(setup: Setup) -> None:
    first = setup.started()
    a = setup.client.request(PREVIEW)
    first.is_dead = True
    setup.client.start()
    assert setup.made == 2
    b = setup.client.request(PREVIEW)
    events = setup.client.poll()
    assert codes(events) == {a: "worker_died"} and b > a
    setup.transport.be_ready()
    setup.transport.say(DoneEvent(a), DoneEvent(b))
    assert [event.request for event in setup.client.poll()][1:] == [b]


def test_starting_a_living_worker_again_does_nothing(setup: Setup) -> None:
    setup.started()
    setup.client.start()
    assert setup.made == 1


@pytest.mark.parametrize(
    "message",
    [
        Message({"type": "dance"}),
        Message({"type": "done", "request": 1, "result": 3}),
        Message({"no": "type"}),
    ],
)
def test_nonsense_from_the_worker_ends_it(setup: Setup, message: Message) -> None:
    transport = setup.started()
    request_id = setup.client.request(PREVIEW)
    transport.incoming.append(message)
    assert codes(setup.client.poll()) == {request_id: "protocol_broken"}
    assert transport.is_killed


def test_a_broken_connection_is_told(setup: Setup) -> None:
    transport = setup.started()
    request_id = setup.client.request(PREVIEW)
    transport.failure = WireError("Something else was received.")
    assert codes(setup.client.poll()) == {request_id: "protocol_broken"}
    assert transport.is_killed


def test_a_worker_that_announces_its_end_is_asked_nothing_more(setup: Setup) -> None:
    transport = setup.started()
    a, b = setup.client.request(PREVIEW), setup.client.request(PREVIEW)
    transport.say(ErrorEvent(a, SAM2PropagateError("device_lost", "Gone.")))
    assert codes(setup.client.poll()) == {a: "device_lost"} and not setup.client.is_alive
    setup.client.start()
    assert setup.made == 2 and transport.is_killed
    assert codes(setup.client.poll()) == {b: "device_lost"} and setup.client.is_alive


def test_a_request_to_a_worker_that_has_just_died_is_told_why(setup: Setup) -> None:
    setup.client.start()
    setup.transport.is_dead, setup.transport.exit_code, setup.transport.log = True, 255, ["No route."]
    setup.client.poll()
    request_id = setup.client.request(PREVIEW)
    [event] = setup.client.poll()
    assert isinstance(event, ErrorEvent) and event.request == request_id
    assert event.error.code == "worker_not_started" and "No route." in str(event.error)
    assert event.log == ("No route.",)


def test_killing_tells_the_reason(setup: Setup) -> None:
    transport = setup.started()
    request_id = setup.client.request(PREVIEW)
    setup.client.kill()
    assert transport.is_killed and codes(setup.client.poll()) == {request_id: "worker_stopped"}
    setup.client.kill()
    assert setup.client.poll() == []


def test_closing_sends_shutdown_and_fails_what_is_open(setup: Setup) -> None:
    transport = setup.started()
    request_id = setup.client.request(PREVIEW)
    setup.client.close()
    assert transport.sent[-1]["type"] == "shutdown" and transport.is_closed
    assert codes(setup.client.poll()) == {request_id: "worker_stopped"}
    setup.client.close()


# --- deadlines


def test_a_silent_worker_is_ended_at_the_deadline_and_not_before(setup: Setup) -> None:
    transport = setup.started()
    a, b = setup.client.request(PREVIEW), setup.client.request(LoadModel(name="m"))
    assert setup.poll_after(29.5) == [] and not transport.is_killed
    events = setup.poll_after(2)
    assert codes(events) == {a: "worker_not_responding", b: "worker_not_responding"}
    assert "30 seconds" in events[0].error.sentence  # type: ignore[attr-defined]
    assert transport.is_killed and not setup.client.is_alive


def test_every_sign_of_life_restarts_the_time(setup: Setup) -> None:
    transport = setup.started()
    a, b = setup.client.request(PREVIEW), setup.client.request(PREVIEW)
    for step in range(5):
        assert codes(setup.poll_after(25)) == {}
        transport.say(ProgressEvent(a, "", step, 9))
    transport.say(DoneEvent(a))
    assert codes(setup.poll_after(29)) == {}
    assert codes(setup.poll_after(2)) == {b: "worker_not_responding"}


def test_an_upload_that_goes_on_is_a_sign_of_life(setup: Setup) -> None:
    transport = setup.started()
    request_id = setup.client.request(PREVIEW)
    for _ in range(20):
        transport.activity += 1000
        assert setup.poll_after(20) == []
    assert codes(setup.poll_after(31)) == {request_id: "worker_not_responding"}


def test_a_cancel_has_a_deadline_of_its_own_however_much_is_said(setup: Setup) -> None:
    transport = setup.started()
    run = setup.client.request(PREVIEW)
    cancel = setup.client.request(Cancel(run))
    for step in range(4):
        transport.say(ProgressEvent(run, "", step, 9))
        assert codes(setup.poll_after(1)) == {}
    transport.say(ProgressEvent(run, "", 5, 9))
    events = setup.poll_after(2)
    assert codes(events) == {cancel: "worker_not_responding", run: "worker_not_responding"}


def test_a_cancel_that_may_take_its_time_ends_nobody(setup: Setup) -> None:
    setup.started()
    run = setup.client.request(PREVIEW)
    setup.client.request(Cancel(run), has_deadline=False)
    assert setup.poll_after(20) == []


def test_before_the_worker_is_up_only_the_start_counts(setup: Setup) -> None:
    setup.client.start()
    a, b = setup.client.request(PREVIEW), setup.client.request(Cancel(2))
    assert setup.poll_after(59) == []
    setup.transport.be_ready()
    assert codes(setup.poll_after(4.5)) == {}
    assert codes(setup.poll_after(1)) == {a: "worker_not_responding", b: "worker_not_responding"}


def test_a_worker_that_never_gets_ready_is_ended(setup: Setup) -> None:
    setup.client.start()
    request_id = setup.client.request(PREVIEW)
    assert setup.poll_after(59) == []
    events = setup.poll_after(2)
    assert codes(events) == {1: "worker_not_responding", request_id: "worker_not_responding"}
    assert "did not start within 60 seconds" in events[0].error.sentence  # type: ignore[attr-defined]


def test_an_idle_worker_has_no_deadline(setup: Setup) -> None:
    setup.started()
    assert setup.poll_after(10_000, step=4) == [] and setup.client.is_alive


def test_after_a_gap_without_polls_the_worker_gets_a_moment(setup: Setup) -> None:
    # A blocked interface or a computer that slept: what has arrived meanwhile must count first.
    transport = setup.started()
    a = setup.client.request(PREVIEW)
    cancel = setup.client.request(Cancel(a))
    setup.clock.now += 3600
    assert setup.client.poll() == [] and not transport.is_killed
    setup.clock.now += 0.5
    transport.say(DoneEvent(a, {"cancelled": True}), DoneEvent(cancel, {"known": True}))
    assert len(setup.client.poll()) == 2
    b = setup.client.request(CloseVolume("ct"))
    setup.clock.now += 3600
    assert setup.client.poll() == []
    assert codes(setup.poll_after(2)) == {b: "worker_not_responding"}


def test_an_answer_that_waits_counts_before_the_deadline(setup: Setup) -> None:
    transport = setup.started()
    request_id = setup.client.request(PREVIEW)
    setup.poll_after(29)
    transport.say(DoneEvent(request_id))
    setup.clock.now += 2
    assert [type(event) for event in setup.client.poll()] == [DoneEvent] and setup.client.is_alive
