"""Frames on the wire, however the bytes arrive and whatever else is sent."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from SAM2PropagateLib.worker.wire import (
    MAGIC,
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    PREFIX,
    Message,
    MessageReader,
    WireError,
    encode,
    write_message,
)

PROFILE = settings(max_examples=60, deadline=None, database=None)
HEADERS = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=20), max_size=4
)


class Trickle:
    """A stream that gives and takes only some bytes at a time."""

    def __init__(self, data: bytes = b"", sizes: list[int] | None = None) -> None:
        self.data = data
        self.position = 0
        self.sizes = sizes or [1]
        self.calls = 0

    def _next(self) -> int:
        self.calls += 1
        return self.sizes[self.calls % len(self.sizes)]

    def readinto(self, buffer: Any) -> int:
        count = min(self._next(), len(buffer), len(self.data) - self.position)
        buffer[:count] = self.data[self.position : self.position + count]
        self.position += count
        return count

    def write(self, data: Any) -> int:
        count = min(self._next(), len(data))
        self.data += bytes(data[:count])
        return count

    def flush(self) -> None: ...


def frame(header: Any, payload: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return PREFIX.pack(MAGIC, len(text), len(payload)) + text + payload


@PROFILE
@given(
    st.lists(st.tuples(HEADERS, st.binary(max_size=300)), max_size=5),
    st.lists(st.integers(1, 50), min_size=1, max_size=5),
)
def test_messages_survive_any_partial_reads_and_writes(
    messages: list[tuple[dict[str, Any], bytes]], sizes: list[int]
) -> None:
    stream = Trickle(sizes=sizes)
    for header, payload in messages:
        write_message(stream, Message(header, payload))
    reader = MessageReader(Trickle(stream.data, sizes))
    received = []
    while (message := reader.read()) is not None:
        received.append((message.header, bytes(message.payload)))
    assert received == messages


def test_a_large_payload_arrives_whole() -> None:
    payload = bytes(range(256)) * (5 << 12)
    stream = Trickle(sizes=[1 << 16, 70_001])
    write_message(stream, Message({"type": "x"}, payload))
    message = MessageReader(Trickle(stream.data, [1 << 16, 13])).read()
    assert message is not None and bytes(message.payload) == payload


def test_the_payload_of_a_numpy_view_is_sent_as_bytes() -> None:
    np = pytest.importorskip("numpy")
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    assert b"".join(encode(Message({"a": 1}, array.data))).endswith(array.tobytes())


@PROFILE
@given(st.data())
def test_a_cut_stream_is_told_as_cut(data: st.DataObject) -> None:
    whole = frame({"type": "frame", "request": 1}, b"12345678")
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(WireError, match="cut") as caught:
        MessageReader(Trickle(whole[:cut], [7])).read()
    assert caught.value.code == "protocol_broken"
    assert caught.value.is_cut


def test_the_end_between_two_messages_is_no_error() -> None:
    reader = MessageReader(io.BytesIO(frame({"a": 1})))
    assert reader.read() is not None
    assert reader.read() is None


@PROFILE
@given(st.binary(min_size=PREFIX.size, max_size=200).filter(lambda data: not data.startswith(MAGIC)))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError, match="other than the protocol"):
        MessageReader(io.BytesIO(data)).read()


@pytest.mark.parametrize(
    ("header_length", "payload_length", "word"),
    [
        (0, 0, "header"),
        (MAX_HEADER_BYTES + 1, 0, "header"),
        (2**32 - 1, 0, "header"),
        (2, MAX_PAYLOAD_BYTES + 1, "payload"),
        (2, 2**64 - 1, "payload"),
    ],
)
def test_impossible_lengths_are_refused(header_length: int, payload_length: int, word: str) -> None:
    data = PREFIX.pack(MAGIC, header_length, payload_length) + b"{}"
    with pytest.raises(WireError, match=word):
        MessageReader(io.BytesIO(data)).read()


def test_a_length_that_lies_takes_no_main_memory() -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    data = PREFIX.pack(MAGIC, 2, 20 << 30) + b"{}" + b"x" * 1000
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="1000 of"):
            MessageReader(io.BytesIO(data)).read()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", [b"not json", b"[1, 2]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_a_header_that_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(WireError):
        MessageReader(io.BytesIO(PREFIX.pack(MAGIC, len(text), 0) + text)).read()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_json_cannot_carry_is_refused_by_the_sender(value: Any) -> None:
    with pytest.raises(WireError, match="JSON"):
        encode(Message({"value": value}))


def test_a_stream_that_does_not_block_is_refused() -> None:
    class Empty:
        def readinto(self, buffer: Any) -> int | None:
            return None

    with pytest.raises(WireError, match="blocking"):
        MessageReader(Empty()).read()


# --- noise before the first message


@PROFILE
@given(st.text(max_size=60).filter(lambda text: "S2P1" not in text), st.integers(1, 9))
def test_a_banner_before_the_first_message_goes_to_the_log(banner: str, size: int) -> None:
    noise: list[str] = []
    data = banner.encode() + frame({"a": 1}, b"xy") + frame({"b": 2})
    reader = MessageReader(Trickle(data, [size]), noise)
    first, second = reader.read(), reader.read()
    assert first is not None and first.header == {"a": 1} and bytes(first.payload) == b"xy"
    assert second is not None and second.header == {"b": 2}
    assert noise == banner.encode().decode("utf-8", "replace").splitlines()


def test_foreign_bytes_after_the_first_message_are_refused() -> None:
    reader = MessageReader(io.BytesIO(frame({"a": 1}) + b"a line that somebody printed\n"), [])
    assert reader.read() is not None
    with pytest.raises(WireError, match="a line that some"):
        reader.read()


def test_nothing_but_other_text_is_kept_for_the_log() -> None:
    noise: list[str] = []
    assert MessageReader(io.BytesIO(b"bash: python3: command not found\n"), noise).read() is None
    assert noise == ["bash: python3: command not found"]


def test_endless_other_text_is_refused() -> None:
    with pytest.raises(WireError, match="no protocol message"):
        MessageReader(io.BytesIO(b"y\n" * (1 << 20)), []).read()


def test_the_error_survives_a_copy() -> None:
    import copy

    error = copy.copy(WireError("Cut.", is_cut=True))
    assert (error.sentence, error.code, error.is_cut) == ("Cut.", "protocol_broken", True)
