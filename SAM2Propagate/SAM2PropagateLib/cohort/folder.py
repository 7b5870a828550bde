"""Holds the output folder of a run for one run at a time, and tidies it after a kill."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.atomic import PART_SUFFIX, part_prefix, write_failure

LOCK_NAME = "lock"
"""The name of the file that holds a folder; it may stay behind."""


@contextlib.contextmanager
def held(out: Path, state: str, code: str) -> Iterator[None]:
    """Make the folder if needed, and lock it for this run; a crash releases it.

    Args:
        state: name of the subfolder with what a run needs to continue; "" for the folder itself.
        code: of the error if another run has the folder.

    Raises:
        InputError: `code`, `output_unwritable`. SAM2PropagateError: `disk_full`.
    """
    try:
        (out / state).mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / state / LOCK_NAME)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            code, f"Another run works in “{out}”.", "Wait for it, or choose another folder."
        ) from None
    except OSError as error:
        raise write_failure(out, error) from error
    try:
        yield
    finally:
        lock.release()


def check_own(path: Path, start: str, what: str) -> None:
    """See to it that a file that a run writes again and again is not somebody else's.

    Args:
        path: of the file. start: the text that a file of a run begins with. what: it then is.

    Raises:
        InputError: `output_exists`.
    """
    wanted = start.encode()
    try:
        with path.open("rb") as file:
            found = file.read(len(wanted))
    except FileNotFoundError:
        return
    except OSError:
        found = b""
    if found != wanted:
        raise InputError(
            "output_exists",
            f"“{path}” is no {what}, or was changed since it was written.",
            "Move it elsewhere, or choose another folder.",
        )


def clear_parts(out: Path, state: Path, names: Iterable[str]) -> None:
    """Remove unfinished files of a run that was killed, and nothing else.

    Args:
        names: of the files that the run writes to `out`; the folder `state` is its own.
    """
    starts = {part_prefix(name) for name in names}
    for folder in (out, state):
        for left in folder.glob(f".*{PART_SUFFIX}"):
            if folder != out or left.name[: left.name.rfind("-") + 1] in starts:
                left.unlink(missing_ok=True)
