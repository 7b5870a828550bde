"""Computes the SHA-256 of files, once as long as a file does not change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

_CHUNK = 1 << 20


def sha256_of(path: Path, check: Callable[[], None] = lambda: None) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Args:
        path: the file.
        check: called between two pieces of 1 MiB; what it raises ends the work.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            check()
            digest.update(piece)
    return digest.hexdigest()


def config_identity(config: str | None) -> str:
    """Return what changes with what a configuration says, wherever its file lies.

    Args:
        config: a name, JSON, or a file; None: as the weights file says.

    Raises:
        OSError: the file cannot be read.
    """
    return sha256_of(Path(config)) if config is not None and is_config_file(config) else config or ""


def is_config_file(config: str) -> bool:
    """Tell whether a configuration is a file of the user's, not a name or JSON."""
    # JSON may be longer than the system lets a path be.
    return config.endswith((".yaml", ".yml")) and Path(config).is_file()


class ChecksumMemory:
    """Remembers the checksums of unchanged files, so that a large file is not read at each start.

    A file counts as unchanged while its size, its time of change (to the nanosecond), its status change time
    and its number in the file system are the same. One JSON file holds the checksums; if it cannot be written
    or read, they are computed each time.
    """

    def __init__(self, memory_file: Path) -> None:
        self._memory_file = memory_file

    def sha256(self, path: Path, check: Callable[[], None] = lambda: None) -> str:
        """Return the SHA-256 of the present file, in hexadecimal.

        Raises:
            OSError: the file cannot be read.
        """
        key = str(path.resolve())
        before = _identity(path)
        known = self._read().get(key)
        if (
            isinstance(known, dict)
            and known.get("identity") == before
            and isinstance(known.get("sha256"), str)
        ):
            return str(known["sha256"])
        value = sha256_of(path, check)
        if _identity(path) == before:  # else it was being written while it was read
            self._remember(key, {"identity": before, "sha256": value})
        return value

    def forget(self, path: Path) -> None:
        """Drop what is remembered of a file."""
        self._remember(str(path.resolve()), None)

    def _read(self) -> dict[str, object]:
        try:
            content = json.loads(self._memory_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _remember(self, key: str, value: dict[str, object] | None) -> None:
        content = self._read()
        content.pop(key, None)
        if value is not None:
            content[key] = value
        unfinished = self._memory_file.with_name(f"{self._memory_file.name}.{os.getpid()}.part")
        try:
            self._memory_file.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
            unfinished.replace(self._memory_file)
        except OSError as error:
            log.info("checksums are not remembered: %s", error)
            with contextlib.suppress(OSError):
                unfinished.unlink()


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
