"""Brings a volume's voxels to a worker: in a shared file, or compressed to another computer."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from SAM2PropagateLib.amounts import megabytes
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.models.memory import available_host_memory
from SAM2PropagateLib.texts import Words
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker.shared import SharedArray, SharedFolder
from SAM2PropagateLib.worker.wire import Payload

CODEC = "planes"
"""Each slice as differences from voxel to voxel, split into its low and high bytes, then zlib: two thirds of
what zlib alone takes for CT and MR, in less than half the time."""

# In noise only zeros repeat: searching for other sequences takes twice the time and gains nothing.
_LEVEL, _STRATEGY = 1, zlib.Z_RLE
# No zlib stream unpacks to more than this times its length.
_MOST_GAIN = 1032
_READ_BYTES = 1 << 20

Source = dict[str, str]


class Voxels:
    """The voxels of one or several open volumes.

    Args:
        array: (K, J, I); it is not copied, so it must not change while in use.
        folder: for the shared file; None: the voxels are sent as a payload.
    """

    def __init__(self, array: NDArray[Any], folder: SharedFolder | None) -> None:
        self.array = array
        self.users = 0
        self._folder = folder
        self._shared: SharedArray | None = None
        self._is_released = False
        self._guard = threading.Lock()

    def source(self) -> tuple[Source, Payload]:
        """Copy or compress the voxels; return the `source` field of an `open_volume` request, and its
        payload.

        This takes time, so call it in another thread. A shared file is made only once.

        Raises:
            SAM2PropagateError: disk_full, shared_folder, volume_closed (`release` was called).
        """
        if self._folder is None:
            return {"kind": "payload", "codec": CODEC}, compress(self.array)
        with self._guard:
            if self._is_released:
                raise SAM2PropagateError("volume_closed", _("The volume was closed before it was opened."))
            if self._shared is None:
                self._shared = self._folder.write(self.array)
            return {"kind": "shared", "path": str(self._shared.path)}, b""

    def release(self) -> None:
        """Delete the shared file, if there is one; it is never made again."""
        with self._guard:
            self._is_released = True
            if self._shared is not None and self._folder is not None:
                self._folder.release(self._shared)
                self._shared = None


def compress(array: NDArray[Any]) -> bytes:
    """Return the voxels of an array, slice by slice (along its first axis), as `CODEC` says."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, _STRATEGY)
    pieces = [compressor.compress(_to_planes(part)) for part in array]
    return b"".join([*pieces, compressor.flush()])


def decompress(
    data: Payload,
    dtype: str,
    shape: tuple[int, ...],
    available: Callable[[], int | None] = available_host_memory,
) -> NDArray[Any]:
    """Return the array that `compress` was given.

    Args:
        data: from the wire. dtype, shape: as announced; they are checked against the data.
        available: returns the free main memory in bytes; None: unknown.

    Raises:
        SAM2PropagateError: volume_data (damaged, or not of that size; no more than that is ever unpacked),
            out_of_memory (there is no room for a volume of that size).
    """
    kind = np.dtype(dtype)
    expected = kind.itemsize
    for length in shape:
        expected *= int(length)
    # Before any allocation, as a wrong shape must not fill main memory.
    if expected <= 0 or expected > _MOST_GAIN * (len(data) + 1):
        raise _damaged(
            _("{expected} bytes were announced, which {got} bytes cannot hold").format(
                expected=expected, got=len(data)
            )
        )
    free = available()
    if free is not None and expected > free:
        raise SAM2PropagateError(
            "out_of_memory",
            _("The volume needs {needed} MB of main memory, and {free} MB are free.").format(
                needed=megabytes(expected, up=True), free=megabytes(free)
            ),
            _("Close other programs there, or crop the volume."),
        )
    array = np.empty(shape, kind)
    parts = _unpacked(data, expected // shape[0])
    try:
        for index in range(shape[0]):
            array[index] = _from_planes(next(parts), kind, shape[1:])
        if next(parts, None) is not None:
            raise _damaged(_("more than the announced {expected} bytes came").format(expected=expected))
    except StopIteration:
        raise _damaged(_("less than the announced {expected} bytes came").format(expected=expected)) from None
    except zlib.error as error:
        raise _damaged(str(error)) from error
    return array


def _unpacked(data: Payload, length: int) -> Iterator[bytes]:
    """Yield what is packed in `data`, in pieces of `length` bytes; the last one may be shorter.

    The last one is not given out unless it is whole or something follows. Raises zlib.error if the stream is
    damaged or ends early.
    """
    unpacker = zlib.decompressobj()
    view = memoryview(data)
    piece = bytearray()
    for start in range(0, len(view), _READ_BYTES):
        if unpacker.eof:
            raise zlib.error("other data follow the stream")
        rest: Payload = view[start : start + _READ_BYTES]
        # Once more after a whole piece, as output may be pending without more input.
        while not unpacker.eof:
            piece += unpacker.decompress(rest, length - len(piece))
            rest = unpacker.unconsumed_tail
            if len(piece) == length:
                yield bytes(piece)
                piece.clear()
            elif not len(rest):
                break
    if not unpacker.eof:
        raise zlib.error("the stream ends early")
    if unpacker.unused_data:
        raise zlib.error("other data follow the stream")
    if piece:
        yield bytes(piece)


def _to_planes(part: NDArray[Any]) -> bytes:
    """Return one slice: the lowest bytes of all its voxels, then the next higher ones, and so on."""
    values = part.astype(part.dtype.newbyteorder("<"), copy=False)
    width = values.dtype.itemsize
    if part.dtype.kind in "iu":
        values = _folded(np.ascontiguousarray(values).view(f"<u{width}"))
    raw = np.frombuffer(values.tobytes(), np.uint8)
    return np.ascontiguousarray(raw.reshape(-1, width).T).tobytes()


def _from_planes(raw: bytes, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if len(raw) != kind.itemsize * int(np.prod(shape, dtype=object)):
        raise _damaged(_("a slice is incomplete"))
    mixed = np.ascontiguousarray(np.frombuffer(raw, np.uint8).reshape(kind.itemsize, -1).T)
    if kind.kind not in "iu":
        return mixed.view(kind.newbyteorder("<")).reshape(shape)
    values = _unfolded(mixed.view(f"<u{kind.itemsize}").reshape(shape))
    return values.view(kind.newbyteorder("<"))


def _folded(values: NDArray[Any]) -> NDArray[Any]:
    """Return differences along the last axis of unsigned values; small ones of either sign as small
    numbers."""
    differences = values.copy()
    differences[..., 1:] -= values[..., :-1]
    bits = values.dtype.itemsize * 8 - 1
    return (differences << 1) ^ (0 - (differences >> bits))


def _unfolded(folded: NDArray[Any]) -> NDArray[Any]:
    differences = (folded >> 1) ^ (0 - (folded & 1))
    return np.cumsum(differences, axis=-1, dtype=folded.dtype)


def _damaged(reason: Words) -> SAM2PropagateError:
    return SAM2PropagateError(
        "volume_data", _("The volume arrived damaged ({reason}).").format(reason=reason), _("Send it again.")
    )
