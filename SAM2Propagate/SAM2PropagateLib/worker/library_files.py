"""Lists the library's files that a worker needs, with a mark that tells copies of them apart."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from SAM2PropagateLib import __version__

PACKAGES = ("engine", "frames", "models", "prompts", "worker")

_LIBRARY = Path(__file__).resolve().parents[1]


def worker_files(library: Path = _LIBRARY) -> dict[str, bytes]:
    """Return the files that a worker needs, by their paths below the folder that holds the library.

    Line ends are LF, whatever the system that keeps them.

    Raises:
        OSError: one of them cannot be read.
    """
    paths = [*library.glob("*.py"), *(path for name in PACKAGES for path in (library / name).rglob("*.py"))]
    found = {path.relative_to(library.parent).as_posix(): path for path in paths}
    return {name: found[name].read_bytes().replace(b"\r\n", b"\n") for name in sorted(found)}


def mark_of(files: Iterable[tuple[str, bytes]]) -> str:
    """Return a short hash of the files: twelve hexadecimal digits."""
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


@functools.cache
def own_version() -> str:
    """Return this library's version and the mark of its worker's files, as "0.1.0+1a2b3c4d5e6f".

    Raises:
        OSError: a file of the library cannot be read.
    """
    return f"{__version__}+{mark_of(worker_files().items())}"
