"""Messages on the wire: one JSON header and an optional binary payload, both length-prefixed.

A message is the magic ``S2P1``, the header's length (uint32) and the payload's length (uint64), both little
endian, then the header as UTF-8 JSON, then the payload. Nothing else is sent, and nothing is unpickled.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.packed_masks import Payload
from SAM2PropagateLib.texts import Words
from SAM2PropagateLib.texts import text as _

MAGIC = b"S2P1"
PREFIX = struct.Struct("<4sIQ")
MAX_HEADER_BYTES = 64 << 20
MAX_PAYLOAD_BYTES = 32 << 30
MAX_NOISE_BYTES = 1 << 16

_FIRST_READ_BYTES = 1 << 20


class WireError(SAM2PropagateError):
    """The other end did not follow the protocol: foreign bytes, a cut message, an impossible length.

    Attributes:
        is_cut: the stream ended within a message, for example because the other end died.
    """

    def __init__(self, sentence: Words, is_cut: bool = False) -> None:
        super().__init__("protocol_broken", sentence, _("Start the worker again; its log says more."))
        self.is_cut = is_cut

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.said, self.is_cut)


class Readable(Protocol):
    """A binary stream; `readinto` may fill less than it was given and returns 0 at the end."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill a buffer; return how many bytes came."""


class Writable(Protocol):
    """A binary stream; `write` may take less than it was given."""

    def write(self, data: Any, /) -> int | None:
        """Write bytes; return how many were taken."""

    def flush(self) -> None:
        """Send what is buffered."""


@dataclass(frozen=True)
class Message:
    """One message: `header` is JSON-able, `payload` are raw bytes (may be empty)."""

    header: Mapping[str, Any]
    payload: Payload = field(default=b"", repr=False)


def encode(message: Message) -> list[Payload]:
    """Return the message as pieces to write one after the other; the payload is not copied.

    Raises:
        WireError: the header is not JSON-able (NaN and infinity included), or a part is too long.
    """
    try:
        header = json.dumps(message.header, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise WireError(
            _("A message could not be written as JSON ({reason}).").format(reason=error)
        ) from error
    payload = memoryview(message.payload).cast("B") if len(message.payload) else memoryview(b"")
    _check_lengths(len(header), payload.nbytes)
    pieces: list[Payload] = [PREFIX.pack(MAGIC, len(header), payload.nbytes) + header]
    if payload.nbytes:
        pieces.append(payload)
    return pieces


def write_message(stream: Writable, message: Message) -> None:
    """Write one message and flush; block until the stream has taken all of it.

    Raises:
        WireError: see `encode`. OSError: the other end is gone.
    """
    for piece in encode(message):
        _write_all(stream, piece)
    stream.flush()


class MessageReader:
    """Reads messages from a binary stream, however the bytes arrive.

    Args:
        stream: only `readinto` is used.
        noise: if given, bytes before the very first message are not an error but added to it line by line
            (a login banner of a remote host, a line that a launcher prints); at most `MAX_NOISE_BYTES`.
    """

    def __init__(self, stream: Readable, noise: list[str] | None = None) -> None:
        self._stream = stream
        self._noise = noise
        self._in_step = noise is None

    def read(self) -> Message | None:
        """Return the next message; None at the end of the stream.

        Raises:
            WireError: foreign bytes, a cut message, an impossible length, a header that is not a JSON object.
        """
        prefix = self._prefix()
        if prefix is None:
            return None
        magic, header_length, payload_length = PREFIX.unpack(prefix)
        if magic != MAGIC:
            shown = bytes(prefix).decode("ascii", "replace")
            raise WireError(
                _("Something other than the protocol was received (it starts with {start}).").format(
                    start=repr(shown)
                )
            )
        _check_lengths(header_length, payload_length)
        header = _parse_header(self._exactly(header_length))
        payload = self._exactly(payload_length, is_header=False) if payload_length else b""
        return Message(header, payload)

    def _prefix(self) -> bytearray | None:
        prefix = bytearray(PREFIX.size)
        got = self._fill(memoryview(prefix))
        if got == 0:
            return None
        if not self._in_step:
            return self._skip_noise(prefix[:got])
        if got < PREFIX.size:
            raise WireError(
                _("A message was cut {got} bytes after its beginning.").format(got=got), is_cut=True
            )
        return prefix

    def _skip_noise(self, received: bytearray) -> bytearray | None:
        """Return the first message's prefix, after any text printed before it; None if the stream ends
        first."""
        noise = self._noise
        assert noise is not None
        while (start := received.find(MAGIC, max(0, len(received) - PREFIX.size))) < 0:
            if len(received) > MAX_NOISE_BYTES:
                raise WireError(_("The worker printed other text and no protocol message."))
            # Byte by byte, so that nothing beyond the first message's prefix is read.
            if self._more(received, 1) == 0:
                noise.extend(_lines(received))
                return None
        missing = start + PREFIX.size - len(received)
        if self._more(received, missing) < missing:
            noise.extend(_lines(received))
            return None
        noise.extend(_lines(received[:start]))
        self._in_step = True
        return received[start:]

    def _more(self, received: bytearray, count: int) -> int:
        piece = bytearray(count)
        got = self._fill(memoryview(piece))
        received += piece[:got]
        return got

    def _exactly(self, length: int, is_header: bool = True) -> bytearray:
        # In growing steps, as a wrong length must not allocate gigabytes.
        data = bytearray(min(length, _FIRST_READ_BYTES))
        got = self._fill(memoryview(data))
        while got == len(data) < length:
            data += bytes(min(length - got, max(got, _FIRST_READ_BYTES)))
            got += self._fill(memoryview(data)[got:])
        if got < length:
            if is_header:
                sentence = _("A message was cut: {got} of {length} bytes of its header arrived.")
            else:
                sentence = _("A message was cut: {got} of {length} bytes of its payload arrived.")
            raise WireError(sentence.format(got=got, length=length), is_cut=True)
        return data

    def _fill(self, view: memoryview) -> int:
        """Fill the view; return how many bytes came before the end of the stream."""
        filled = 0
        while filled < len(view):
            got = self._stream.readinto(view[filled:])
            if got is None:
                raise WireError(_("This reader needs a blocking stream."))
            if got == 0:
                break
            filled += got
        return filled


def _lines(data: bytearray) -> list[str]:
    return data.decode("utf-8", "replace").splitlines()


def _parse_header(data: bytearray) -> dict[str, Any]:
    try:
        header = json.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise WireError(_("A message's header is not JSON ({reason}).").format(reason=error)) from error
    if not isinstance(header, dict):
        raise WireError(
            _("A message's header is a JSON {kind}, not an object.").format(kind=type(header).__name__)
        )
    return header


def _check_lengths(header: int, payload: int) -> None:
    if header == 0 or header > MAX_HEADER_BYTES:
        raise WireError(
            _("A message's header is {header} bytes long; 1 to {most} are allowed.").format(
                header=header, most=MAX_HEADER_BYTES
            )
        )
    if payload > MAX_PAYLOAD_BYTES:
        raise WireError(
            _("A message's payload is {payload} bytes long; {most} are the limit.").format(
                payload=payload, most=MAX_PAYLOAD_BYTES
            )
        )


def _write_all(stream: Writable, data: Payload) -> None:
    view = memoryview(data)
    while view.nbytes:
        taken = stream.write(view)
        if taken is None:
            raise WireError(_("This writer needs a blocking stream."))
        view = view[taken:]
