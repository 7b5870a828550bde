"""Downloads a model into the user's cache folder. It can be cancelled and resumed, and checks the file's
hash."""

from __future__ import annotations

import contextlib
import errno
import http.client
import importlib
import logging
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from SAM2PropagateLib.amounts import megabytes
from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.file_lock import try_lock
from SAM2PropagateLib.models.registry import ModelEntry
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.models.verify import sha256_of
from SAM2PropagateLib.numerals import whole_number
from SAM2PropagateLib.texts import text as _

log = logging.getLogger(__name__)

ReportBytes = Callable[[int, int | None], None]

_CHUNK = 1 << 18
_LARGEST = 4 << 30  # no model is larger; a server that sends more is not sending a model
_SPARE = 16 << 20  # left free on the disk
_REPORT_EVERY = 0.1  # seconds


class _InterruptedError(Exception):
    """The connection ended early; the next attempt continues from what has arrived."""


class _WrongFileError(Exception):
    """The downloaded file is not the model."""


def download(
    entry: ModelEntry,
    store: ModelStore,
    *,
    progress: ReportBytes = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
    timeout: float = 30.0,
    attempts: int = 3,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Download a model's file, if it is not there yet.

    The data goes into an unfinished file, which is checked against the published checksum and then renamed.
    An interrupted or cancelled download leaves the unfinished file, and the next one continues it. A wrong
    file is deleted.

    Args:
        entry: the model.
        store: has the cache folder.
        progress: called with bytes so far and all bytes (None if the server does not say), at most ten times
            a second, in the caller's thread.
        cancelled: called between two pieces; True ends the download.
        timeout: seconds to wait for the server to connect and to send each next piece.
        attempts: how often to continue after an interruption before giving up.
        pause: waits so many seconds between two attempts.

    Returns:
        The verified file.

    Raises:
        Cancelled: `cancelled` returned True.
        InputError: `model_bundled`: it comes with the extension.
        SAM2PropagateError: `download_failed` (no connection, or the server refuses), `download_interrupted`,
            `download_wrong_file` (the checksum differs; deleted), `download_running` (by another process),
            `disk_full`, `cache_not_writable`.
    """
    if entry.url is None:
        raise InputError(
            "model_bundled", _("The model “{name}” comes with the extension.").format(name=entry.name)
        )
    target = store.path_of(entry)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(target.with_name(target.name + ".lock"), entry):
            if target.is_file():
                try:
                    return store.verified(entry)
                except SAM2PropagateError:
                    target.unlink()
            return _Download(entry, store, progress, cancelled, timeout).run(max(1, attempts), pause)
    except OSError as error:
        raise _storage_error(error, target.parent) from error


class _Download:
    """One download, from the first request to the verified file."""

    def __init__(
        self,
        entry: ModelEntry,
        store: ModelStore,
        progress: ReportBytes,
        cancelled: Callable[[], bool],
        timeout: float,
    ) -> None:
        assert entry.url is not None
        self._entry = entry
        self._url = entry.url
        self._store = store
        self._target = store.path_of(entry)
        self._part = store.unfinished_path_of(entry)
        self._progress = progress
        self._cancelled = cancelled
        self._timeout = timeout

    def run(self, attempts: int, pause: Callable[[float], None]) -> Path:
        """Download, again after interruptions, and return the verified file. Raises as `download`."""
        started_over = False
        left = attempts
        while True:
            resumed = self._there() > 0
            try:
                self._transfer()
                self._compare()
                break
            except _InterruptedError as error:
                left -= 1
                if left == 0:
                    raise SAM2PropagateError(
                        "download_interrupted",
                        _("The download of “{name}” was interrupted ({reason}).").format(
                            name=self._entry.name, reason=error
                        ),
                        _("Start it again: it continues from where it stopped."),
                    ) from error
                log.info("download of %s interrupted (%s), going on", self._entry.name, error)
                pause(1.0)
            except _WrongFileError as error:
                self._part.unlink(missing_ok=True)
                # An earlier, perhaps crashed, download may have left a bad part: try once more from the
                # start.
                if resumed and not started_over:
                    started_over = True
                    continue
                raise SAM2PropagateError(
                    "download_wrong_file",
                    _(
                        "{url} sent a file that is not the published model “{name}” ({reason}). It was "
                        "deleted."
                    ).format(url=self._url, name=self._entry.name, reason=error),
                    _("Try again later, or on another network: a proxy may have changed the file."),
                ) from error
        self._part.replace(self._target)
        return self._store.verified(self._entry)

    def _there(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _check(self) -> None:
        if self._cancelled():
            raise Cancelled(
                "cancelled", _("The download of “{name}” was cancelled.").format(name=self._entry.name)
            )

    def _compare(self) -> None:
        if sha256_of(self._part, self._check) != self._entry.sha256:
            raise _WrongFileError(_("its checksum differs"))

    def _transfer(self) -> None:
        self._check()
        there = self._there()
        if self._entry.bytes is not None and there >= self._entry.bytes:
            return  # complete, or too long: the checksum tells
        try:
            response = self._request(there)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and there:
                return  # nothing is left to send; the checksum decides whether the file is complete
            raise SAM2PropagateError(
                "download_failed",
                _("The model “{name}” cannot be downloaded: {url} answers {code} ({reason}).").format(
                    name=self._entry.name, url=self._url, code=error.code, reason=error.reason
                ),
                _("Try again later."),
            ) from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if there:
                raise _InterruptedError(_reason(error)) from error
            raise SAM2PropagateError(
                "download_failed",
                _("The model “{name}” cannot be downloaded: no connection to {url} ({reason}).").format(
                    name=self._entry.name, url=self._url, reason=_reason(error)
                ),
                _("Check the network, or choose a model that is on this computer."),
            ) from error
        with response:
            there, total = _start_and_total(response, there)
            self._make_room(there, total)
            with self._part.open("r+b" if self._part.is_file() else "wb") as file:
                file.truncate(there)
                file.seek(there)
                self._receive(response, file, there, total)

    def _request(self, there: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": "SAM2Propagate", "Accept-Encoding": "identity"}
        if there:
            headers["Range"] = f"bytes={there}-"
        request = urllib.request.Request(self._url, headers=headers)
        context = _certificates() if self._url.startswith("https:") else None
        response: http.client.HTTPResponse = urllib.request.urlopen(
            request, timeout=self._timeout, context=context
        )
        return response

    def _make_room(self, there: int, total: int | None) -> None:
        needed = (total or self._entry.bytes or 0) - there
        free = shutil.disk_usage(self._target.parent).free
        if needed + _SPARE > free:
            words = _("{needed} MB needed, {free} MB free")
            raise OSError(errno.ENOSPC, words.format(needed=megabytes(needed, up=True), free=megabytes(free)))

    def _receive(
        self, response: http.client.HTTPResponse, file: IO[bytes], there: int, total: int | None
    ) -> None:
        limit = self._entry.bytes or _LARGEST
        reported = -_REPORT_EVERY
        while True:
            self._check()
            now = time.monotonic()
            if now - reported >= _REPORT_EVERY:
                reported = now
                self._progress(there, total)
            try:
                piece = response.read(_CHUNK)
            except (http.client.HTTPException, OSError) as error:  # of the socket: no file is touched here
                raise _InterruptedError(_reason(error)) from error
            if not piece:
                break
            there += len(piece)
            if there > limit:
                raise _WrongFileError(_("it is too long"))
            file.write(piece)
        file.flush()
        if total is not None and there < total:
            raise _InterruptedError(_("{there} of {total} bytes arrived").format(there=there, total=total))
        self._progress(there, total)


def _start_and_total(response: http.client.HTTPResponse, asked: int) -> tuple[int, int | None]:
    """Return where in the file this answer starts, and how long the file is."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if match is None or int(match[1]) > asked:
            raise _WrongFileError(_("the server sent a different part than requested"))
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, None if length is None else whole_number(length)


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split())[:160] or type(error).__name__


def _certificates() -> ssl.SSLContext:
    """Return the system's certificates, and certifi's if it is installed, as some Pythons have none."""
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError):
        certifi: Any = importlib.import_module("certifi")
        context.load_verify_locations(certifi.where())
    return context


def _storage_error(error: OSError, folder: Path) -> SAM2PropagateError:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return SAM2PropagateError(
            "disk_full",
            _("The disk of “{folder}” has too little space for the model ({reason}).").format(
                folder=folder, reason=error.strerror or error
            ),
            _("Free some space, or choose another folder with the environment variable SAM2PROPAGATE_CACHE."),
        )
    return SAM2PropagateError(
        "cache_not_writable",
        _("The folder for models “{folder}” cannot be written to ({reason}).").format(
            folder=folder, reason=error.strerror or error
        ),
        _("Choose another folder with the environment variable SAM2PROPAGATE_CACHE."),
    )


@contextlib.contextmanager
def _only_one(lock_file: Path, entry: ModelEntry) -> Iterator[None]:
    """Hold a lock for one model, which the system releases when this process ends."""
    with lock_file.open("a+b") as file:
        # On a network file system without locks, two downloads at once are possible.
        if not try_lock(file, without_locks=True):
            raise SAM2PropagateError(
                "download_running",
                _("The model “{name}” is being downloaded by another program.").format(name=entry.name),
                _("Wait until it has finished."),
            )
        yield
    # The lock file stays, as another process may just have opened it.
