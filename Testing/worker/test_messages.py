"""Requests and events: both ways, and whatever is wrong with them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from SAM2PropagateLib import texts
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.packed_masks import pack, pack_edge
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.worker.messages import (
    EVENTS,
    REQUESTS,
    Alive,
    Cancel,
    CloseVolume,
    DoneEvent,
    ErrorEvent,
    Event,
    FrameEvent,
    Hello,
    LoadModel,
    LogEvent,
    OpenVolume,
    Preview,
    ProgressEvent,
    Propagate,
    ReadyEvent,
    Request,
    SetWindow,
    Shutdown,
    parse_event,
    parse_request,
)
from SAM2PropagateLib.worker.wire import Message, MessageReader, WireError, write_message

MASK = np.eye(7, 9, dtype=bool)
EDGE = pack_edge(np.where(MASK, np.int8(9), np.int8(-20)))

REQUEST_EXAMPLES: list[Request] = [
    Hello(),
    LoadModel(name="tiny"),
    LoadModel(name="tiny", precision="int8"),
    LoadModel(path="/x.pt", config="c.yaml", device="cuda:1", input_size=512, cache_megabytes=1.5),
    LoadModel(path="/x.pt", config={"base": "b.yaml", "overrides": {"model.image_size": 256}}),
    OpenVolume("ct", {"shape": [1]}, "<i2", (3, 4, 5), {"kind": "shared", "path": "/p"}, (400.0, 40.0), 2),
    OpenVolume("ct", {}, "|b1", (3, 4, 5), {}, (1, 0), 0, (1.5, 2.0, 3.0, 4.0)),
    OpenVolume("ct", {}, ">f8", (3, 4, 5), {}, (1, 0), 1, None),
    SetWindow("ct", (80.0, -40.0)),
    Preview("ct", {"format": "x"}, "liver", 7),
    Propagate("ct", {}, ("liver", "spleen"), RunOptions("forward", 5, True)),
    Propagate("ct", {}, ()),
    Alive(),
    Cancel(3),
    CloseVolume("ct"),
    Shutdown(),
]
EVENT_EXAMPLES: list[Event] = [
    ReadyEvent(0, 1, 4711, "3.11.1", "Linux"),
    ProgressEvent(1, "Loading", 3, 10),
    ProgressEvent(1, "", 3, 10, 12.5, 0.5),
    FrameEvent(2, "ct", "liver", 4, "propagated", 0.9, -3.5, 0.1, pack(MASK)),
    FrameEvent(2, "ct", "liver", 4, "propagated", 0.9, -3.5, 0.1, pack(MASK), EDGE),
    FrameEvent(2, "ct", "liver", 4, "absent", None, None, None, pack(np.zeros((7, 9), bool))),
    FrameEvent(2, "ct", "liver", 4, "preview", 1.0, 9.0, 0.0, pack(MASK), EDGE, "Kept as drawn."),
    FrameEvent(2, "ct", "liver", 4, "propagated", 0.1, -2.0, 0.6, pack(~MASK & False), withheld=pack(MASK)),
    DoneEvent(3, {"frames": 12}),
    DoneEvent(3),
    LogEvent(None, "warning", "Careful."),
]


def over_the_wire(message: Message) -> Message:
    stream = io.BytesIO()
    write_message(stream, message)
    stream.seek(0)
    received = MessageReader(stream).read()
    assert received is not None
    return received


def test_every_kind_has_an_example() -> None:
    assert {type(example) for example in REQUEST_EXAMPLES} == set(REQUESTS.values())
    assert {type(example) for example in EVENT_EXAMPLES} | {ErrorEvent} == set(EVENTS.values())


@pytest.mark.parametrize("request_", REQUEST_EXAMPLES, ids=lambda value: value.type)
def test_requests_survive_the_wire(request_: Request) -> None:
    received = parse_request(over_the_wire(Message(request_.header(17), b"payload")))
    assert (received.id, received.request, bytes(received.payload)) == (17, request_, b"payload")


@pytest.mark.parametrize("event", EVENT_EXAMPLES, ids=lambda value: value.type)
def test_events_survive_the_wire(event: Event) -> None:
    assert parse_event(over_the_wire(event.message())) == event


def test_a_frame_brings_its_mask() -> None:
    event = parse_event(over_the_wire(EVENT_EXAMPLES[3].message()))
    assert isinstance(event, FrameEvent) and np.array_equal(event.mask, MASK)


def test_a_note_is_translated_where_it_arrives() -> None:
    template = "The model sees {count} edges."
    note = texts.Text(template, "engine/keyframes.py").format(count=2)
    message = over_the_wire(
        FrameEvent(2, "ct", "a", 4, "preview", 1.0, 9.0, 0.0, pack(MASK), None, note).message()
    )
    assert str(parse_event(message).note) == "The model sees 2 edges."  # type: ignore[attr-defined]
    texts.set_translator(lambda text, file: "Zwei Kanten: {count}." if text == template else text)
    try:
        assert str(parse_event(message).note) == "Zwei Kanten: 2."  # type: ignore[attr-defined]
    finally:
        texts.set_translator(None)


def test_a_frame_of_an_older_worker_has_no_note() -> None:
    message = over_the_wire(EVENT_EXAMPLES[3].message())
    assert "note" not in message.header, "an older client must read it"
    assert parse_event(message).note == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize("note", [[], {}, {"text": "Words."}, {"template": 5}, 3])
def test_bad_notes_are_refused(note: Any) -> None:
    message = EVENT_EXAMPLES[3].message()
    with pytest.raises(WireError):
        parse_event(Message({**message.header, "note": note}, message.payload))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_arrives_as_none(value: float) -> None:
    event = FrameEvent(2, "ct", "liver", 4, "preview", value, value, value, pack(MASK))
    received = parse_event(over_the_wire(event.message()))
    assert isinstance(received, FrameEvent)
    assert received.predicted_iou is None and received.object_score is None and received.doubt is None


@pytest.mark.parametrize("kind", [SAM2PropagateError, InputError])
def test_errors_survive_the_wire(kind: type[SAM2PropagateError]) -> None:
    event = parse_event(over_the_wire(ErrorEvent(5, kind("some_code", "A sentence.", "A hint.")).message()))
    assert isinstance(event, ErrorEvent) and type(event.error) is kind
    assert (event.error.code, event.error.sentence, event.error.hint) == (
        "some_code",
        "A sentence.",
        "A hint.",
    )


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"type": None, "id": 1},
        {"type": ["hello"], "id": 1},
        {"type": "dance", "id": 1},
        {"type": "shutdown"},
        {"type": "shutdown", "id": -1},
        {"type": "shutdown", "id": "1"},
        {"type": "shutdown", "id": True},
        {"type": "shutdown", "id": 1, "extra": 0},
        {"type": "hello", "id": 1, "protocol": "1"},
        {"type": "load_model", "id": 1},
        {"type": "load_model", "id": 1, "name": "a", "path": "b"},
        {"type": "load_model", "id": 1, "name": ""},
        {"type": "load_model", "id": 1, "name": "a", "input_size": -1},
        {"type": "load_model", "id": 1, "name": "a", "config": 3},
        {"type": "set_window", "id": 1, "volume": "v", "window": [1]},
        {"type": "set_window", "id": 1, "volume": "v", "window": [1, "2"]},
        {"type": "set_window", "id": 1, "window": [1, 2]},
        {"type": "preview", "id": 1, "volume": "v", "prompts": [], "segment": "s", "frame": 0},
        {"type": "preview", "id": 1, "volume": "v", "prompts": {}, "segment": "s", "frame": 1.5},
        {"type": "propagate", "id": 1, "volume": "v", "prompts": {}, "segments": "s"},
        {
            "type": "propagate",
            "id": 1,
            "volume": "v",
            "prompts": {},
            "segments": [],
            "options": {"direction": "up"},
        },
        {
            "type": "propagate",
            "id": 1,
            "volume": "v",
            "prompts": {},
            "segments": [],
            "options": {"everything": 1},
        },
        {
            "type": "propagate",
            "id": 1,
            "volume": "v",
            "prompts": {},
            "segments": [],
            "options": {"anew": None},
        },
        {"type": "cancel", "id": 1, "run": None},
    ],
)
def test_bad_requests_are_refused(header: dict[str, Any]) -> None:
    with pytest.raises(SAM2PropagateError) as caught:
        parse_request(Message(header))
    assert caught.value.code == "bad_message"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", "O"),
        ("dtype", "<c8"),
        ("dtype", "i2, i2"),
        ("dtype", "U5"),
        ("dtype", "nonsense"),
        ("dtype", 3),
        ("shape", [3, 4]),
        ("shape", [3, 4, -5]),
        ("shape", [3, 4, 5.0]),
        ("window", [float("nan"), 1]),
        ("axis", -1),
        ("crop", "manual"),
        ("crop", [1, 2, 3]),
        ("source", "shared"),
    ],
)
def test_bad_volumes_are_refused(field: str, value: Any) -> None:
    header = OpenVolume("ct", {}, "<i2", (3, 4, 5), {}, (400.0, 40.0), 2).header(1)
    parse_request(Message(header))
    with pytest.raises(SAM2PropagateError, match=field):
        parse_request(Message({**header, field: value}))


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"type": "dance", "request": 1},
        {"type": "done", "request": "1"},
        {"type": "done", "request": 1, "result": []},
        {"type": "done", "request": 1, "surprise": 1},
        {"type": "progress", "request": 1, "done": -1},
        {"type": "log", "request": None, "level": "loud", "text": ""},
        {"type": "error", "request": 1},
        {"type": "error", "request": 1, "error": {"code": "x"}},
        {"type": "frame", "request": 1},
        {"type": "ready", "request": 0, "protocol": 1},
    ],
)
def test_bad_events_are_refused(header: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        parse_event(Message(header))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "guess"),
        ("frame", -1),
        ("doubt", "high"),
        ("box", [0, 0, 99, 9]),
        ("segment", ""),
        ("shape", [1 << 40, 1 << 40]),
        ("withheld", "a mask"),
        ("withheld", {"shape": [7, 9], "box": [0, 0, 7, 9]}),
        ("withheld", {"shape": [7, 9], "box": [0, 0, 7, 9], "bits": "bm8="}),
        ("withheld", pack(np.ones((8, 9), bool)).values()),
    ],
)
def test_bad_frames_are_refused(field: str, value: Any) -> None:
    message = EVENT_EXAMPLES[3].message()
    with pytest.raises(WireError):
        parse_event(Message({**message.header, field: value}, message.payload))


@pytest.mark.parametrize("reach", [0, -1])
def test_a_reach_of_no_slices_is_refused_before_it_is_sent(reach: int) -> None:
    with pytest.raises(SAM2PropagateError) as refused:
        Propagate(volume="v", prompts={}, segments=("a",), options=RunOptions(reach=reach))
    assert refused.value.code == "bad_reach"
