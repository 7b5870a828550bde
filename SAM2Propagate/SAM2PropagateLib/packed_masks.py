"""Packs masks of frames: a box and its bits, a few KB that unpack in microseconds.

Masks are sent and kept only in this form. On the wire the bits are raw; in scenes and documents they are a
text, compressed and in base64. Data from there is checked before it is unpacked, and nothing larger than
`MAX_PIXELS` is ever unpacked.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.texts import Words
from SAM2PropagateLib.texts import text as _

Payload = bytes | bytearray | memoryview

MAX_PIXELS = 1 << 28
"""No slice is larger, so that a small message or scene cannot ask for all main memory."""


class MaskError(SAM2PropagateError, ValueError):
    """A packed mask is damaged.

    Attributes:
        reason: what is wrong, as the end of a sentence.
    """

    def __init__(self, reason: Words) -> None:
        sentence = _("A mask is damaged: {reason}.").format(reason=reason)
        super().__init__("damaged_mask", sentence, _("Compute or save it again."))
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason,)


@dataclass(frozen=True)
class PackedMask:
    """A bool mask of one frame.

    Attributes:
        shape: (rows, cols) of the whole frame.
        box: (first row, first column, rows, cols) of the part that holds every True pixel; rows and cols are
            0 for an empty mask.
        bits: the box's pixels row after row, eight to a byte, the first pixel in the highest bit.
    """

    shape: tuple[int, int]
    box: tuple[int, int, int, int]
    bits: Payload

    @property
    def is_empty(self) -> bool:
        """Whether no pixel is set."""
        return self.box[2] == 0

    def unpack(self) -> NDArray[np.bool_]:
        """Return the whole mask, (rows, cols) bool, newly made."""
        mask = np.zeros(self.shape, dtype=bool)
        if not self.is_empty:
            row, column, rows, columns = self.box
            mask[row : row + rows, column : column + columns] = self.unpack_box()
        return mask

    def unpack_box(self) -> NDArray[np.bool_]:
        """Return the box's pixels alone, (box rows, box cols) bool."""
        _, _, rows, columns = self.box
        bits = np.unpackbits(np.frombuffer(self.bits, dtype=np.uint8), count=rows * columns)
        return bits.reshape(rows, columns).view(bool)

    def text(self) -> str:
        """Return the bits as a text for `mask_of_text`."""
        return text_of(zlib.compress(bytes(self.bits)))

    def values(self) -> dict[str, Any]:
        """Return it as values that JSON can hold, for `mask_of_values`."""
        return {"shape": self.shape, "box": self.box, "bits": self.text()}


def pack(mask: NDArray[Any]) -> PackedMask:
    """Pack a 2D mask, (rows, cols) bool.

    Raises:
        ValueError: not 2D or not bool.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask must be 2D bool, not {mask.ndim}D {mask.dtype}")
    shape = (int(mask.shape[0]), int(mask.shape[1]))
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return PackedMask(shape, (0, 0, 0, 0), b"")
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    row, column = int(rows[0]), int(columns[0])
    inside = mask[row : int(rows[-1]) + 1, column : int(columns[-1]) + 1]
    box = (row, column, int(inside.shape[0]), int(inside.shape[1]))
    return PackedMask(shape, box, np.packbits(inside).tobytes())


def pack_whole(mask: NDArray[Any]) -> PackedMask:
    """Pack a 2D mask, (rows, cols) bool, with a box that is the whole frame."""
    rows, columns = (int(length) for length in mask.shape)
    bits = np.packbits(np.ascontiguousarray(mask, dtype=bool).reshape(-1)).tobytes()
    return PackedMask((rows, columns), (0, 0, rows, columns), bits)


def mask_of_values(values: Any) -> PackedMask:
    """Return the mask that `PackedMask.values` gave.

    Raises:
        MaskError: it gave no such thing.
    """
    try:
        shape, box, text = values["shape"], values["box"], values["bits"]
    except (KeyError, TypeError) as error:
        raise MaskError(_("it has no shape, box or bits")) from error
    return mask_of_text(shape, box, text)


def bits_of(box: Any) -> int:
    """Return how many bytes the bits of a mask's box fill.

    Raises:
        MaskError: it is no box.
    """
    if not _counts(box, 4):
        raise MaskError(_("its shape or box is not a list of whole numbers"))
    return (int(box[2]) * int(box[3]) + 7) // 8


def packed_mask(shape: Any, box: Any, bits: Payload) -> PackedMask:
    """Check data from outside and return it as a `PackedMask`.

    Raises:
        MaskError: shape, box and bits do not belong together, or the frame is too large.
    """
    shape, box = _checked_place(shape, box)
    if len(bits) != bits_of(box):
        raise _unfilled(box)
    return PackedMask(shape, box, bits)


def mask_of_text(shape: Any, box: Any, text: Any) -> PackedMask:
    """Return a mask whose bits are a text from `PackedMask.text`.

    Raises:
        MaskError: as `packed_mask`, or the text is not from `PackedMask.text`.
    """
    shape, box = _checked_place(shape, box)
    bits = _inflated(bytes_of(text), bits_of(box))
    if bits is None:
        raise _unfilled(box)
    return PackedMask(shape, box, bits)


def text_of(data: Payload) -> str:
    """Return bytes as ASCII text."""
    return base64.b64encode(bytes(data)).decode("ascii")


def bytes_of(text: Any) -> bytes:
    """Return the bytes that `text_of` was given. Raises MaskError."""
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (AttributeError, UnicodeEncodeError, binascii.Error) as error:
        raise _not_unpacked(error) from error


def _inflated(data: Payload, count: int) -> bytes | None:
    """Return exactly `count` decompressed bytes; None if there are more or fewer. Raises MaskError."""
    unpacker = zlib.decompressobj()
    try:
        # One byte more shows whether there is too much, without unpacking everything.
        inflated = unpacker.decompress(data, count + 1)
    except zlib.error as error:
        raise _not_unpacked(error) from error
    return inflated if len(inflated) == count and unpacker.eof and not unpacker.unused_data else None


def _checked_place(shape: Any, box: Any) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    if not _counts(shape, 2) or not _counts(box, 4):
        raise MaskError(_("its shape or box is not a list of whole numbers"))
    if shape[0] * shape[1] > MAX_PIXELS:
        raise MaskError(
            _("its frame of {rows} x {columns} pixels is too large").format(rows=shape[0], columns=shape[1])
        )
    row, column, rows, columns = box
    if row + rows > shape[0] or column + columns > shape[1] or (rows == 0) != (columns == 0):
        raise MaskError(
            _("its box {box} does not lie in its frame of {shape} pixels").format(
                box=list(box), shape=list(shape)
            )
        )
    return (shape[0], shape[1]), (row, column, rows, columns)


def _unfilled(box: tuple[int, int, int, int]) -> MaskError:
    return MaskError(
        _("its bits do not fill {rows} rows of {columns} pixels").format(rows=box[2], columns=box[3])
    )


def _not_unpacked(error: Exception) -> MaskError:
    return MaskError(_("its bits cannot be unpacked ({reason})").format(reason=error))


EDGE_STEPS = 32
"""Distances to a mask's edge are packed in this many steps per pixel."""

EDGE_REACH = 2
"""Pixels; larger distances from the edge are not packed."""


@dataclass(frozen=True)
class PackedEdge:
    """How a mask's edge runs between the pixels: the distances of pixels near it, inside above 0.

    Attributes:
        shape: (rows, cols) of the whole frame.
        box: (first row, first column, rows, cols) of the part that holds every pixel with a distance.
        data: int8 of the box's pixels row after row, in steps, zlib-compressed; 0: far from the edge.
    """

    shape: tuple[int, int]
    box: tuple[int, int, int, int]
    data: Payload

    def unpack(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the distances in pixels, (rows, cols), and which pixels have one."""
        row, column, rows, columns = self.box
        steps = np.frombuffer(zlib.decompress(self.data), np.int8).reshape(rows, columns)
        distances = np.zeros(self.shape, np.float32)
        distances[row : row + rows, column : column + columns] = steps / np.float32(EDGE_STEPS)
        return distances, distances != 0


def pack_edge(steps: NDArray[np.int8]) -> PackedEdge | None:
    """Pack distances to a mask's edge in steps, (rows, cols); None if no pixel is near it."""
    # In a wider type, as int8 has no +128.
    told = np.where(np.abs(steps.astype(np.int16)) < EDGE_STEPS * EDGE_REACH, steps, 0).astype(np.int8)
    shape = (int(steps.shape[0]), int(steps.shape[1]))
    rows, columns = np.flatnonzero(told.any(axis=1)), np.flatnonzero(told.any(axis=0))
    if rows.size == 0:
        return None
    inside = told[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    box = (int(rows[0]), int(columns[0]), int(inside.shape[0]), int(inside.shape[1]))
    return PackedEdge(shape, box, zlib.compress(inside.tobytes(), 1))


def packed_edge(shape: Any, box: Any, data: Payload) -> PackedEdge:
    """Check data from outside and return it as a `PackedEdge`.

    Raises:
        MaskError: shape, box and data do not belong together, or the frame is too large.
    """
    shape, box = _checked_place(shape, box)
    if _inflated(data, box[2] * box[3]) is None:
        raise _unfilled(box)
    return PackedEdge(shape, box, data)


def _counts(values: Any, length: int) -> bool:
    if not isinstance(values, list | tuple) or len(values) != length:
        return False
    return all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
