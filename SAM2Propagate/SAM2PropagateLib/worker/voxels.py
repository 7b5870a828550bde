"""A volume's voxels on their way to a worker: in a shared file, or compressed to another machine."""

from __future__ import annotations

import threading
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.texts import tr as _
from SAM2PropagateLib.worker.shared import SharedArray, SharedFolder
from SAM2PropagateLib.worker.wire import Payload

# Images are noisy: higher levels take several times as long and save little.
_COMPRESSION_LEVEL = 1

Source = dict[str, str]


class Voxels:
    """The voxels of one or several open volumes.

    Args:
        array: (K, J, I); not copied, so it must not change while it is in use.
        folder: where its shared file goes; None: it travels as a payload.
    """

    def __init__(self, array: NDArray[Any], folder: SharedFolder | None) -> None:
        self.array = array
        self.users = 0
        self._folder = folder
        self._shared: SharedArray | None = None
        self._is_released = False
        self._guard = threading.Lock()

    def source(self) -> tuple[Source, Payload]:
        """The `source` field of an `open_volume` request and its payload; copies or compresses them first.

        Takes its time: meant for another thread than the caller's. A shared file is made only once.

        Raises:
            SAM2PropagateError: disk_full, shared_folder, volume_closed (`release` was called).
        """
        if self._folder is None:
            return {"kind": "payload", "codec": "zlib"}, compress(self.array)
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
    """The voxels in C order, compressed slab by slab."""
    compressor = zlib.compressobj(_COMPRESSION_LEVEL)
    pieces = [compressor.compress(np.ascontiguousarray(slab).data) for slab in array]
    return b"".join([*pieces, compressor.flush()])


def decompress(data: Payload, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The array that `compress` was given.

    Raises:
        SAM2PropagateError: volume_data (damaged, or not of that size; no more than that is ever unpacked).
    """
    kind = np.dtype(dtype)
    expected = kind.itemsize
    for length in shape:
        expected *= length
    unpacker = zlib.decompressobj()
    try:
        # One byte more than needed tells too much from enough.
        raw = unpacker.decompress(data, expected + 1)
    except zlib.error as error:
        raise _damaged(str(error)) from error
    if len(raw) != expected or not unpacker.eof:
        raise _damaged(
            _("{got} bytes where {expected} were announced").format(got=len(raw), expected=expected)
        )
    return np.frombuffer(raw, dtype=kind).reshape(shape)


def _damaged(reason: str) -> SAM2PropagateError:
    return SAM2PropagateError(
        "volume_data", _("The volume arrived damaged ({reason}).").format(reason=reason), _("Send it again.")
    )
