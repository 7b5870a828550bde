"""Receives files from `server_copy` and writes them below the home. It runs on the server as a single file.

The Python there may be any: only the standard library, and no syntax newer than 3.6. It reports which of the
announced files are missing, receives them, and puts them into place when all have the right SHA-256.
"""

import hashlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MARK = "SAM2PROPAGATE-COPY "

_FOLDER = ".sam2propagate"
_STALE_SECONDS = 3600


def say(**values: Any) -> None:
    """Write one line of JSON to the other end."""
    sys.stdout.write(MARK + json.dumps(values) + "\n")
    sys.stdout.flush()


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal; "" if it is not there."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                digest.update(piece)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def receive(stream: Any, home: Path) -> None:
    """Take what is announced on the stream's first line, `[[path below the home, bytes, sha256], ...]`."""
    base = home / _FOLDER
    files = json.loads(stream.readline().decode("utf-8"))
    for name, _, _ in files:
        parts = name.split("/")
        if parts[0] != _FOLDER or any(part in ("", ".", "..") for part in parts):
            raise ValueError("no file of ours: " + name)
    lacking = [number for number, one in enumerate(files) if sha256_of(home / one[0]) != one[2]]
    base.mkdir(mode=0o700, exist_ok=True)
    _remove_stale(base)
    needed, free = sum(files[number][1] for number in lacking), shutil.disk_usage(str(base)).free
    if needed > free:
        say(error="disk_full", needed=needed, free=free)
        return
    say(lacking=lacking)
    folder = Path(tempfile.mkdtemp(prefix="unfinished-", dir=str(base)))
    try:
        for number in lacking:
            _take(stream, folder / str(number), *files[number])
        for number in lacking:
            path = home / files[number][0]
            path.parent.mkdir(parents=True, exist_ok=True)
            (folder / str(number)).replace(path)
    finally:
        shutil.rmtree(str(folder), ignore_errors=True)
    say(checked=[sha256_of(home / one[0]) for one in files])


def _remove_stale(base: Path) -> None:
    """Remove leftovers of a receiver that was killed."""
    for path in base.glob("unfinished-*"):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(str(path), ignore_errors=True)


def _take(stream: Any, path: Path, name: str, size: int, sha256: str) -> None:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while size:
            piece = stream.read(min(size, 1 << 20))
            if not piece:
                raise EOFError("the connection ended in " + name)
            digest.update(piece)
            file.write(piece)
            size -= len(piece)
    if digest.hexdigest() != sha256:
        raise ValueError("arrived damaged: " + name)


def main() -> None:
    """Receive on stdin, answer on stdout."""
    try:
        receive(sys.stdin.buffer, Path.home())
    except OSError as error:
        say(error="cannot_write", reason=f"{error.strerror}: {error.filename}")
    except (EOFError, ValueError) as error:
        say(error="damaged", reason=str(error))


if __name__ == "__main__":
    main()
