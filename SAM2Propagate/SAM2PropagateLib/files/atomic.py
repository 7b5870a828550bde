"""Writes files whole or not at all: under a temporary name beside the target, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from SAM2PropagateLib.errors import InputError, SAM2PropagateError

PART_SUFFIX = ".part"
"""The ending of temporary files' names, which a killed process leaves behind."""

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def part_prefix(name: str) -> str:
    """Return the beginning of the name of a temporary file for a file of this name."""
    return f".{name[:40]}-"


def write_failure(path: Path, error: OSError) -> SAM2PropagateError:
    """Return the error for the user if `path` could not be written: `disk_full` or `output_unwritable`."""
    if error.errno in _FULL:
        return SAM2PropagateError(
            "disk_full",
            f"The disk is full: “{path}” could not be written.",
            "Free some space or choose another folder; a file that was there before is unchanged.",
        )
    reason = os.strerror(error.errno) if error.errno else str(error)
    return InputError(
        "output_unwritable",
        f"“{path}” cannot be written: {reason}.",
        "Choose a shorter name."
        if error.errno == errno.ENAMETOOLONG
        else "Choose a folder in which you may write.",
    )


def check_output(path: Path, overwrite: bool) -> Path:
    """Check before the work whether `path` can be written.

    Args:
        path: the file to write.
        overwrite: whether an existing file may be replaced.

    Returns:
        The file behind `path`, links followed.

    Raises:
        InputError: `output_is_folder`, `output_folder_missing`, `output_exists`, `output_unwritable`.
        SAM2PropagateError: `disk_full`.
    """
    target = Path(os.path.realpath(path))
    try:
        if not target.parent.is_dir():
            raise InputError(
                "output_folder_missing",
                f"The folder “{target.parent}” does not exist.",
                "Create it first or choose another.",
            )
        # Only this fails for a name that is too long.
        with contextlib.suppress(FileNotFoundError):
            target.stat()
        if target.is_dir():
            raise InputError("output_is_folder", f"“{path}” is a folder.", "Name the file to write.")
        if target.exists() and not overwrite:
            raise InputError(
                "output_exists", f"“{path}” exists already.", "Choose another name, or add --overwrite."
            )
        with _temporary(target) as (file, _):
            file.write(b"\0" * 4096)
            _sync(file)
    except OSError as error:
        raise write_failure(path, error) from error
    return target


@contextlib.contextmanager
def atomic_output(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """Open `path` for writing so that it appears complete or not at all.

    The body writes into a temporary file in the same folder. If the body ends well, that file is synced to
    the disk and renamed; if it raises, it is deleted, and what was at `path` before stays as it was.

    Raises:
        InputError: as `check_output`.
        SAM2PropagateError: `disk_full`.
    """
    target = check_output(path, overwrite)
    try:
        with _temporary(target) as (file, temporary):
            yield file
            _sync(file)
            file.close()
            temporary.chmod(_mode(target))
            if target.exists() and not overwrite:
                raise InputError(
                    "output_exists",
                    f"“{path}” was created by someone else meanwhile.",
                    "Choose another name, or add --overwrite.",
                )
            temporary.replace(target)
            _sync_folder(target.parent)
    except OSError as error:
        raise write_failure(path, error) from error


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a new file beside `target`, and give its path; delete it at the end unless it was renamed."""
    prefix = part_prefix(target.name)
    descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=PART_SUFFIX, dir=target.parent)
    file = os.fdopen(descriptor, "wb")
    try:
        yield file, Path(name)
    finally:
        # Closing flushes, which fails again on a full disk; the first error is reported.
        with contextlib.suppress(OSError):
            file.close()
        Path(name).unlink(missing_ok=True)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Sync the renaming to the disk; Windows neither needs nor allows it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mode(target: Path) -> int:
    """Return the permissions of the file that is replaced, or those of a new file by the user's umask."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
