"""Shares volumes with a worker on the same computer: one file each in a private folder, which the worker
maps.

The folder is in main memory if possible (`/dev/shm` on Linux, while it has room), else in the folder for
temporary files. Only its creator writes and deletes. The system releases a lock file with the process, so
that the next process can tell, and remove, what a killed one left.
"""

from __future__ import annotations

import errno
import gc
import logging
import mmap
import os
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from SAM2PropagateLib.amounts import megabytes
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.file_lock import try_lock
from SAM2PropagateLib.texts import text as _

_log = logging.getLogger(__name__)

_PREFIX = "sam2propagate-"
_LOCK_NAME = "owner.lock"
_SUFFIX = ".volume"
# Seconds; a younger folder without a lock file is still being made.
_UNLOCKED_AGE_SECONDS = 3600.0
_SPARE_BYTES = 16 << 20
# Bytes per write: large, as the thread waits for the interpreter's lock after each piece.
PIECE_BYTES = 32 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)


def base_folders() -> list[Path]:
    """Return where shared files may lie, the preferred place first."""
    bases = []
    memory = Path("/dev/shm")
    if sys.platform.startswith("linux") and memory.is_dir() and os.access(memory, os.W_OK | os.X_OK):
        bases.append(memory)
    bases.append(Path(tempfile.gettempdir()))
    return bases


class SharedArray:
    """An array's bytes in a file that a worker can map. Made by `SharedFolder.write`.

    Attributes:
        path: the file. dtype: as NumPy's `dtype.str`. shape: of the array, C order. nbytes: its size.
    """

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self.path = path
        self.dtype = dtype
        self.shape = shape
        self.nbytes = path.stat().st_size

    def unlink(self) -> bool:
        """Delete the file; False if it could not be deleted yet (on Windows: while a worker maps it)."""
        try:
            self.path.unlink(missing_ok=True)
        except PermissionError:
            return False
        return True


class SharedFolder:
    """The private folder of this process, made with the first file and deleted by `close`. It is thread-safe.

    Args:
        bases: where it may lie, in order of preference; `base_folders()` if None.
        writer: writes a part of an array to the end of a file; `write_part` if None.
    """

    def __init__(
        self,
        bases: Sequence[Path] | None = None,
        writer: Callable[[Any, NDArray[Any]], None] | None = None,
    ) -> None:
        self._writer = writer or write_part
        self._bases = list(base_folders() if bases is None else bases)
        self._folders: dict[Path, _OwnedFolder] = {}
        self._pending: list[SharedArray] = []
        self._counter = 0
        self._guard = threading.Lock()

    def write(self, array: NDArray[Any]) -> SharedArray:
        """Copy an array into a new file.

        Raises:
            SAM2PropagateError: disk_full, shared_folder (it cannot be made or written).
        """
        self.sweep()
        last: OSError | None = None
        for base in self._bases:
            is_last = base == self._bases[-1]
            try:
                if not is_last and shutil.disk_usage(base).free < array.nbytes * 1.1 + _SPARE_BYTES:
                    continue
                return self._write_in(base, array)
            except OSError as error:
                last = error
        if last is not None and last.errno in _NO_ROOM:
            raise SAM2PropagateError(
                "disk_full",
                _(
                    "{folder} has no room for the volume ({megabytes} MB) that the worker is to read there."
                ).format(megabytes=megabytes(array.nbytes, up=True), folder=self._bases[-1]),
                _("Free some space there, or set TMPDIR to a folder with more room."),
            ) from last
        raise SAM2PropagateError(
            "shared_folder",
            _("The volume could not be written for the worker in {folder} ({reason}).").format(
                folder=self._bases[-1], reason=last
            ),
            _("Make the folder for temporary files writable, or set TMPDIR to another one."),
        ) from last

    def release(self, shared: SharedArray) -> None:
        """Delete a file that is not needed any more; if the system refuses, later calls try again."""
        if not shared.unlink():
            with self._guard:
                self._pending.append(shared)

    def sweep(self) -> None:
        """Try again to delete files that could not be deleted."""
        with self._guard:
            self._pending = [shared for shared in self._pending if not shared.unlink()]

    def close(self) -> None:
        """Delete the folder and all that is in it."""
        self.sweep()
        for folder in self._folders.values():
            folder.close()
        self._folders.clear()

    def _write_in(self, base: Path, array: NDArray[Any]) -> SharedArray:
        with self._guard:
            if not self._folders:
                remove_stale(self._bases)
            folder = self._folders.get(base)
            if folder is None:
                folder = self._folders[base] = _OwnedFolder(base)
            self._counter += 1
            path = folder.path / f"{self._counter}{_SUFFIX}"
        try:
            # With a mapping, a full file system would kill the process; writing raises an error.
            with path.open("xb", buffering=0) as file:
                for part in _pieces(array):
                    self._writer(file, np.ascontiguousarray(part))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return SharedArray(path, array.dtype.str, array.shape)


class MappedArray:
    """A shared file in the worker, mapped as a read-only array.

    Raises:
        SAM2PropagateError: volume_data (no such file, or its size is not that of dtype and shape).
    """

    def __init__(self, path: str | Path, dtype: str, shape: Sequence[int]) -> None:
        kind = np.dtype(dtype)
        expected = kind.itemsize * int(np.prod([int(n) for n in shape], dtype=object))
        try:
            with Path(path).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != expected or size == 0:
                    raise SAM2PropagateError(
                        "volume_data",
                        _("The shared volume has {size} bytes where {expected} were announced.").format(
                            size=size, expected=expected
                        ),
                    )
                self._map: mmap.mmap | None = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise SAM2PropagateError(
                "volume_data",
                _("The shared volume {path} could not be read ({reason}).").format(
                    path=path, reason=error.strerror or error
                ),
            ) from error
        self._array: NDArray[Any] | None = np.frombuffer(self._map, dtype=kind).reshape(tuple(shape))

    @property
    def array(self) -> NDArray[Any]:
        """The voxels, read-only."""
        if self._array is None:
            raise ValueError("the shared volume is closed")
        return self._array

    def close(self) -> None:
        """Unmap the file, or let the last view of the array do that."""
        self._array = None
        if self._map is None:
            return
        try:
            self._map.close()
        except BufferError:
            gc.collect()
            try:
                self._map.close()
            except BufferError:
                _log.warning("A shared volume is still in use; it is unmapped later.")
        self._map = None


def shared_files(bases: Iterable[Path] | None = None) -> list[Path]:
    """Return every shared file of this user, of whichever process."""
    return [file for folder in _own_folders(bases) for file in sorted(folder.glob(f"*{_SUFFIX}"))]


def shared_folders(bases: Iterable[Path] | None = None) -> list[Path]:
    """Return every private folder of this user, of whichever process."""
    return _own_folders(bases)


def remove_stale(bases: Iterable[Path] | None = None) -> int:
    """Delete the folders of processes that have ended; return how many."""
    return sum(_remove_if_stale(folder) for folder in _own_folders(bases))


class _OwnedFolder:
    """A folder readable by this user alone, and its lock, held as long as the process lives."""

    def __init__(self, base: Path) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{_user()}-", dir=base))
            try:
                self._lock: IO[bytes] = (self.path / _LOCK_NAME).open("xb")
                # Another process may take the new folder for a stale one right now, and delete it: make
                # another.
                if try_lock(self._lock) and self.path.is_dir():
                    return
                self._lock.close()
            except FileNotFoundError:
                continue
            except BaseException:
                shutil.rmtree(self.path, ignore_errors=True)
                raise

    def close(self) -> None:
        """Delete the folder with its files, and give up its lock."""
        for file in self.path.glob(f"*{_SUFFIX}"):
            _unlink_patiently(file)
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _own_folders(bases: Iterable[Path] | None) -> list[Path]:
    found = []
    for base in base_folders() if bases is None else bases:
        try:
            entries = sorted(base.glob(f"{_PREFIX}{_user()}-*"))
        except OSError:
            continue
        found += [entry for entry in entries if _is_own_folder(entry)]
    return found


def _is_own_folder(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    is_ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return stat.S_ISDIR(status.st_mode) and is_ours


def _remove_if_stale(folder: Path) -> bool:
    try:
        lock = (folder / _LOCK_NAME).open("r+b")
    except FileNotFoundError:
        try:
            if time.time() - folder.lstat().st_mtime < _UNLOCKED_AGE_SECONDS:
                return False
        except OSError:
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()
    except OSError:
        return False
    with lock:
        if not try_lock(lock):
            return False
        for file in folder.glob(f"*{_SUFFIX}"):
            file.unlink(missing_ok=True)
        if os.name != "nt":
            shutil.rmtree(folder, ignore_errors=True)
    # On Windows an open lock file cannot be deleted.
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _unlink_patiently(file: Path) -> None:
    # On Windows a file stays undeletable for a moment after the process that mapped it has ended.
    for attempt in range(10):
        try:
            file.unlink(missing_ok=True)
            return
        except PermissionError:
            if os.name != "nt" or attempt == 9:
                _log.warning("The shared file %s could not be deleted; the next start deletes it.", file)
                return
            time.sleep(0.05)


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the array in parts of some slices each; whole, where its bytes can be written as they lie."""
    if array.ndim < 2 or not len(array) or array.flags.c_contiguous:
        yield array
        return
    count = max(1, PIECE_BYTES * len(array) // max(array.nbytes, 1))
    for first in range(0, len(array), count):
        yield array[first : first + count]


def write_part(file: Any, part: NDArray[Any]) -> None:
    """Write a part of an array, in C order, to the end of a file that is not buffered. Raises OSError."""
    view = memoryview(part.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    while view.nbytes:
        view = view[file.write(view) :]
