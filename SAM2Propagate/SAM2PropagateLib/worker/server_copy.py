"""Copies this library's worker and a model to a server, below the user's home there, and checks both by hash.

Each version has its own folder (`remote.copy_folder`), so files of other versions are never overwritten.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from SAM2PropagateLib.amounts import megabytes
from SAM2PropagateLib.errors import Cancelled, SAM2PropagateError
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.models.verify import ChecksumMemory
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker import receiver
from SAM2PropagateLib.worker.library_files import worker_files
from SAM2PropagateLib.worker.remote import MODELS_FOLDER, Remote, copy_folder, no_ssh, why_ended
from SAM2PropagateLib.worker.server_check import hidden_window

_PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class CopiedFile:
    """A file that goes to a server.

    Attributes:
        there: its path on the server, below "~/". content: its bytes, or the local file.
        size: in bytes. sha256: in hexadecimal.
    """

    there: str
    content: bytes | Path
    size: int
    sha256: str

    def pieces(self) -> Iterator[bytes]:
        """Yield its bytes, piece by piece. Raises OSError."""
        if isinstance(self.content, bytes):
            yield self.content
            return
        with self.content.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece


def own_model_there(path: Path, checksums: ChecksumMemory) -> str:
    """Return the path on a server for a weights file of the user's own; different files have different paths.

    Raises:
        OSError: the file cannot be read.
    """
    return f"{MODELS_FOLDER}/own/{checksums.sha256(path)[:16]}/{path.name}"


def model_there(model: str, store: ModelStore) -> str:
    """Return the model for a worker on a server: a name, or the path of the copied file there.

    Args:
        model: a name of the store's, or the path of a weights file here.
    """
    if any(entry.name == model for entry in store.models):
        return model
    try:
        path, entry = store.resolve(model)
        return entry.name if entry is not None else own_model_there(path, store.checksums)
    except (SAM2PropagateError, OSError):
        # The server will report by this name that it is missing.
        return f"{MODELS_FOLDER}/own/{Path(model).name}"


def files_to_copy(model: str, store: ModelStore) -> list[CopiedFile]:
    """Return the files to copy: the library's and the model's.

    Args:
        model: a name of the store's, or the path of a weights file here.

    Raises:
        InputError, SAM2PropagateError: see `ModelStore.resolve`. OSError: a file cannot be read.
    """
    path, entry = store.resolve(model)
    there = f"{MODELS_FOLDER}/{entry.file_name}" if entry else own_model_there(path, store.checksums)
    files = [
        CopiedFile(f"{copy_folder()}/{name}", content, len(content), hashlib.sha256(content).hexdigest())
        for name, content in worker_files().items()
    ]
    return [*files, CopiedFile(there, path, path.stat().st_size, store.checksums.sha256(path))]


def copy_to_server(
    remote: Remote,
    files: Sequence[CopiedFile],
    env: Mapping[str, str],
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> int:
    """Send missing files, and compare the SHA-256 of all files.

    Args:
        remote: the server; its `folder` does not matter. env: for ssh.
        progress: called with the bytes so far and in all.
        cancelled: called between two pieces; once True, the server deletes what it got.

    Returns:
        How many bytes were sent.

    Raises:
        Cancelled. SAM2PropagateError: the files could not be copied.
    """
    code = base64.b64encode(Path(receiver.__file__).read_bytes()).decode("ascii")
    start = f"exec(__import__('base64').b64decode('{code}').decode('utf-8'))"
    argv = Remote(remote.host, remote.python).command(("-c", start), {"PYTHONUNBUFFERED": "1"})
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                argv,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                **hidden_window(),
            )
        except FileNotFoundError as error:
            raise no_ssh() from error
        sending = _Sending(process, remote.host, files, progress, cancelled)
        with process:
            try:
                return sending.send()
            except (OSError, EOFError) as error:
                process.kill()
                process.wait()
                raise _broken(remote, process.returncode, _printed(log), sending.has_answered) from error
            except BaseException:
                process.kill()
                raise


class _Sending:
    """Talks with the receiver on the server."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        host: str,
        files: Sequence[CopiedFile],
        progress: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._out: IO[bytes] = process.stdin
        self._in: IO[bytes] = process.stdout
        self._host = host
        self._files = files
        self._progress = progress
        self._cancelled = cancelled
        self.has_answered = False

    def send(self) -> int:
        """Send the files that the server lacks; return their bytes. Raises as `copy_to_server`."""
        announced = [[one.there.removeprefix("~/"), one.size, one.sha256] for one in self._files]
        self._out.write(json.dumps(announced).encode("utf-8") + b"\n")
        self._out.flush()
        lacking = [self._files[number] for number in self._answer()["lacking"]]
        total, done = sum(one.size for one in lacking), 0
        for file in lacking:
            for piece in file.pieces():
                if self._cancelled():
                    raise Cancelled()
                self._out.write(piece)
                done += len(piece)
                self._progress(done, total)
        self._out.flush()
        if self._answer()["checked"] != [one.sha256 for one in self._files]:
            raise SAM2PropagateError(
                "copy_damaged",
                _("The copy on {host} differs from what was sent: the checksums do not match.").format(
                    host=self._host
                ),
                _("Try again."),
            )
        return total

    def _answer(self) -> dict[str, Any]:
        """Return the receiver's next line; raise the error that it reports, or EOFError if it has ended."""
        for line in self._in:
            text = line.decode("utf-8", "replace")
            if not text.startswith(receiver.MARK):
                continue
            self.has_answered = True
            answer: dict[str, Any] = json.loads(text[len(receiver.MARK) :])
            if answer.get("error") == "disk_full":
                raise SAM2PropagateError(
                    "disk_full",
                    _("{host} has no room for it: {needed} MB are needed, {free} MB are free.").format(
                        host=self._host,
                        needed=megabytes(answer["needed"], up=True),
                        free=megabytes(answer["free"]),
                    ),
                    _("Free some space in your home folder there."),
                )
            if "error" in answer:
                raise SAM2PropagateError(
                    "copy_failed",
                    _("The files cannot be written on {host} ({reason}).").format(
                        host=self._host, reason=answer.get("reason", answer["error"])
                    ),
                    _("Check the folder ~/.sam2propagate in your home there, and its disk."),
                )
            return answer
        raise EOFError("the receiver has ended")


def _printed(log: IO[bytes]) -> list[str]:
    log.seek(0)
    return [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]


def _broken(remote: Remote, exit_code: int, log: Sequence[str], has_answered: bool) -> SAM2PropagateError:
    if not has_answered:
        return why_ended(remote, exit_code, log, False)
    return SAM2PropagateError(
        "copy_failed",
        _("Copying to {host} was interrupted ({reason}).").format(
            host=remote.host, reason=next(reversed(log), _("no reason was given"))
        ),
        _("Try again: files that the server already has are not sent again."),
    )
