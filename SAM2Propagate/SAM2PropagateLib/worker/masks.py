"""A frame's mask as its bounding box and packed bits: a few KB that unpack in some microseconds."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from SAM2PropagateLib.texts import tr as _
from SAM2PropagateLib.worker.wire import Payload, WireError

MAX_SIDE = 1 << 16


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
        return self.box[2] == 0

    def unpack(self) -> NDArray[np.bool_]:
        """The whole mask, (rows, cols) bool, newly made."""
        mask = np.zeros(self.shape, dtype=bool)
        if not self.is_empty:
            row, column, rows, columns = self.box
            mask[row : row + rows, column : column + columns] = self.unpack_box()
        return mask

    def unpack_box(self) -> NDArray[np.bool_]:
        """The box's pixels alone, (box rows, box cols) bool."""
        _, _, rows, columns = self.box
        bits = np.unpackbits(np.frombuffer(self.bits, dtype=np.uint8), count=rows * columns)
        return bits.reshape(rows, columns).view(bool)


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


def bits_of(box: Any) -> int:
    """How many bytes the bits of a mask's box fill.

    Raises:
        WireError: it is no box.
    """
    if not _counts(box, 4):
        raise WireError(_("A mask's shape or box is not a list of whole numbers."))
    return (int(box[2]) * int(box[3]) + 7) // 8


def packed_mask(shape: Any, box: Any, bits: Payload) -> PackedMask:
    """A `PackedMask` from what came over the wire.

    Raises:
        WireError: shape, box and bits do not belong together.
    """
    if not _counts(shape, 2) or not _counts(box, 4):
        raise WireError(_("A mask's shape or box is not a list of whole numbers."))
    row, column, rows, columns = box
    fits = row + rows <= shape[0] and column + columns <= shape[1] and max(shape) <= MAX_SIDE
    if not fits or (rows == 0) != (columns == 0):
        raise WireError(
            _("A mask's box {box} does not lie in its frame of {shape} pixels.").format(
                box=list(box), shape=list(shape)
            )
        )
    if len(bits) != bits_of(box):
        raise WireError(
            _("A mask of {rows} x {columns} pixels came with {count} bytes.").format(
                rows=rows, columns=columns, count=len(bits)
            )
        )
    return PackedMask((shape[0], shape[1]), (row, column, rows, columns), bits)


EDGE_STEPS = 32
"""Steps per pixel in which distances to a mask's edge travel."""

EDGE_REACH = 2
"""Pixels; further from the edge its distance says nothing more."""


@dataclass(frozen=True)
class PackedEdge:
    """How a mask's edge runs between the pixels: the distances of the pixels next to it, inside above 0.

    Attributes:
        shape: (rows, cols) of the whole frame.
        box: (first row, first column, rows, cols) of the part that holds every pixel with a distance.
        data: int8 of the box's pixels row after row, in steps, zlib-compressed; 0: far from the edge.
    """

    shape: tuple[int, int]
    box: tuple[int, int, int, int]
    data: Payload

    def unpack(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The distances in pixels, (rows, cols), and which pixels have one."""
        row, column, rows, columns = self.box
        steps = np.frombuffer(zlib.decompress(self.data), np.int8).reshape(rows, columns)
        distances = np.zeros(self.shape, np.float32)
        distances[row : row + rows, column : column + columns] = steps / np.float32(EDGE_STEPS)
        return distances, distances != 0


def pack_edge(steps: NDArray[np.int8]) -> PackedEdge | None:
    """Pack distances to a mask's edge in steps, (rows, cols); None if no pixel is near it."""
    # Wider first: -128 has no positive in int8.
    told = np.where(np.abs(steps.astype(np.int16)) < EDGE_STEPS * EDGE_REACH, steps, 0).astype(np.int8)
    shape = (int(steps.shape[0]), int(steps.shape[1]))
    rows, columns = np.flatnonzero(told.any(axis=1)), np.flatnonzero(told.any(axis=0))
    if rows.size == 0:
        return None
    inside = told[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    box = (int(rows[0]), int(columns[0]), int(inside.shape[0]), int(inside.shape[1]))
    return PackedEdge(shape, box, zlib.compress(inside.tobytes(), 1))


def packed_edge(shape: Any, box: Any, data: Payload) -> PackedEdge:
    """A `PackedEdge` from what came over the wire.

    Raises:
        WireError: shape, box and data do not belong together.
    """
    if not _counts(shape, 2) or not _counts(box, 4):
        raise WireError(_("A mask's shape or box is not a list of whole numbers."))
    row, column, rows, columns = box
    unpacker = zlib.decompressobj()
    try:
        # One byte more than needed tells too much from enough.
        count = len(unpacker.decompress(data, rows * columns + 1))
    except zlib.error:
        count = -1
    fits = row + rows <= shape[0] and column + columns <= shape[1] and max(shape) <= MAX_SIDE
    if not fits or not unpacker.eof or count != rows * columns:
        raise WireError(_("The edge of a mask arrived damaged."))
    return PackedEdge((shape[0], shape[1]), (row, column, rows, columns), data)


def _counts(values: Any, length: int) -> bool:
    if not isinstance(values, list | tuple) or len(values) != length:
        return False
    return all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
