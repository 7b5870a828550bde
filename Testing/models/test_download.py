"""Downloads from a server on this computer that behaves, stops half way, ignores ranges, or lies."""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.models import download as download_module
from SAM2PropagateLib.models.download import download
from SAM2PropagateLib.models.registry import ModelEntry, find_model
from SAM2PropagateLib.models.store import ModelStore

CONTENT = bytes(range(256)) * 8000  # 2 MB: several pieces


@dataclass
class Behavior:
    """How the server answers, and what it was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    stop_after: list[int] = field(
        default_factory=list
    )  # bytes sent before the connection is cut, per request
    status: int = 200
    lengths: bool = True
    stall: float = 0.0
    silent: threading.Event | None = None  # after the first piece nothing comes until this is set
    asked: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        how: Behavior = self.server.behavior  # type: ignore[attr-defined]
        wanted = self.headers.get("Range")
        how.asked.append(wanted)
        if how.status != 200:
            self.send_error(how.status)
            return
        start = 0
        if wanted and how.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(how.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(how.content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(how.content) - 1}/{len(how.content)}")
        else:
            self.send_response(200)
        body = how.content[start:]
        if how.lengths:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if how.stop_after:
            body = body[: how.stop_after.pop(0)]
        for offset in range(0, len(body), 1 << 18):
            self.wfile.write(body[offset : offset + (1 << 18)])
            if how.stall:
                self.wfile.flush()
                time.sleep(how.stall)
            if how.silent is not None:
                self.wfile.flush()
                how.silent.wait(120)


@pytest.fixture
def behavior() -> Behavior:
    return Behavior()


@pytest.fixture
def server(behavior: Behavior, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.behavior = behavior  # type: ignore[attr-defined]
    httpd.handle_error = lambda *args: None  # type: ignore[method-assign]  # clients that hang up are expected
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}/model.pt"
    httpd.shutdown()
    httpd.server_close()
    thread.join(5)


@pytest.fixture
def entry(server: str) -> ModelEntry:
    return replace(
        find_model("sam2.1_hiera_small"), url=server, sha256=hashlib.sha256(CONTENT).hexdigest(), bytes=None
    )


@pytest.fixture
def store(tmp_path: Path, entry: ModelEntry) -> ModelStore:
    return ModelStore(tmp_path / "cache", tmp_path / "resources", (entry,))


def fetch(entry: ModelEntry, store: ModelStore, **options: Any) -> Path:
    return download(entry, store, **{"timeout": 5.0, "pause": lambda seconds: None, **options})


def leave_half(entry: ModelEntry, store: ModelStore, content: bytes) -> Path:
    part = store.unfinished_path_of(entry)
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


def test_a_download_arrives_verified_and_reports_progress(entry: ModelEntry, store: ModelStore) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(entry, store, progress=lambda done, total: seen.append((done, total)))
    assert path == store.path_of(entry) and path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not store.unfinished_path_of(entry).exists()
    assert store.resolve(entry.name) == (path, entry)


def test_what_is_there_is_not_asked_for_again(
    entry: ModelEntry, store: ModelStore, behavior: Behavior
) -> None:
    fetch(entry, store)
    fetch(entry, store)
    assert len(behavior.asked) == 1


def test_a_changed_file_is_replaced(entry: ModelEntry, store: ModelStore) -> None:
    fetch(entry, store).write_bytes(b"changed")
    assert fetch(entry, store).read_bytes() == CONTENT


def test_an_interrupted_download_goes_on_where_it_stopped(
    entry: ModelEntry, store: ModelStore, behavior: Behavior
) -> None:
    behavior.stop_after = [700_000, 500_000]
    pauses: list[float] = []
    path = fetch(entry, store, pause=pauses.append)
    assert path.read_bytes() == CONTENT
    assert behavior.asked == [None, "bytes=700000-", "bytes=1200000-"]
    assert pauses == [1.0, 1.0]


def test_too_many_interruptions_are_an_error_that_keeps_what_arrived(
    entry: ModelEntry, store: ModelStore, behavior: Behavior
) -> None:
    behavior.stop_after = [300_000]
    with pytest.raises(SAM2PropagateError) as caught:
        fetch(entry, store, attempts=1)
    assert caught.value.code == "download_interrupted"
    assert not store.path_of(entry).exists()
    assert store.unfinished_path_of(entry).stat().st_size == 300_000
    assert fetch(entry, store).read_bytes() == CONTENT
    assert behavior.asked == [None, "bytes=300000-"]


def test_a_server_that_ignores_ranges_sends_everything_again(
    entry: ModelEntry, store: ModelStore, behavior: Behavior
) -> None:
    behavior.ranges = False
    leave_half(entry, store, CONTENT[:1000])
    assert fetch(entry, store).read_bytes() == CONTENT
    assert behavior.asked == ["bytes=1000-"]


def test_a_server_that_gives_no_length(entry: ModelEntry, store: ModelStore, behavior: Behavior) -> None:
    behavior.lengths = False
    seen: list[tuple[int, int | None]] = []
    fetch(entry, store, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(CONTENT), None)


def test_all_bytes_there_but_not_renamed(entry: ModelEntry, store: ModelStore, behavior: Behavior) -> None:
    leave_half(entry, store, CONTENT)
    assert fetch(entry, store).read_bytes() == CONTENT
    assert behavior.asked == [f"bytes={len(CONTENT)}-"]  # answered with 416


def test_too_much_there_starts_over(entry: ModelEntry, store: ModelStore, behavior: Behavior) -> None:
    leave_half(entry, store, CONTENT + b"more")
    assert fetch(entry, store).read_bytes() == CONTENT
    assert behavior.asked == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_rotten_beginning_starts_over(entry: ModelEntry, store: ModelStore, behavior: Behavior) -> None:
    leave_half(entry, store, b"\0" * 5000)
    assert fetch(entry, store).read_bytes() == CONTENT
    assert behavior.asked == ["bytes=5000-", None]


@pytest.mark.parametrize(
    "sent", [CONTENT[:-1] + b"X", CONTENT + b"X", CONTENT[:-1], b"<html>log in to this network</html>"]
)
def test_a_wrong_file_is_deleted_and_refused(
    entry: ModelEntry, store: ModelStore, behavior: Behavior, sent: bytes
) -> None:
    behavior.content = sent
    for known in (entry, replace(entry, bytes=len(CONTENT))):
        with pytest.raises(SAM2PropagateError) as caught:
            fetch(known, store)
        assert caught.value.code == "download_wrong_file"
        assert entry.name in caught.value.sentence
        assert not store.path_of(entry).exists() and not store.unfinished_path_of(entry).exists()


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_server_that_refuses(entry: ModelEntry, store: ModelStore, behavior: Behavior, status: int) -> None:
    behavior.status = status
    with pytest.raises(SAM2PropagateError) as caught:
        fetch(entry, store)
    assert caught.value.code == "download_failed" and str(status) in caught.value.sentence


def test_no_connection(entry: ModelEntry, store: ModelStore) -> None:
    with pytest.raises(SAM2PropagateError) as caught:
        fetch(replace(entry, url="http://127.0.0.1:9/model.pt"), store)
    assert caught.value.code == "download_failed" and "no connection" in caught.value.sentence


def test_a_server_that_falls_silent(entry: ModelEntry, store: ModelStore, behavior: Behavior) -> None:
    behavior.silent = threading.Event()
    with pytest.raises(SAM2PropagateError) as caught:
        fetch(entry, store, timeout=0.3, attempts=1)
    assert caught.value.code == "download_interrupted"
    # It was given up while the server was silent, not when it went on.
    assert len(behavior.asked) == 1 and not behavior.silent.is_set()
    behavior.silent.set()


def test_cancel_keeps_what_arrived(entry: ModelEntry, store: ModelStore, behavior: Behavior) -> None:
    behavior.stall = 0.02
    stop = threading.Event()

    def progress(done: int, total: int | None) -> None:
        if done:
            stop.set()

    with pytest.raises(Cancelled):
        fetch(entry, store, progress=progress, cancelled=stop.is_set)
    kept = store.unfinished_path_of(entry).stat().st_size
    assert 0 < kept < len(CONTENT) and not store.path_of(entry).exists()
    behavior.stall = 0.0
    assert fetch(entry, store).read_bytes() == CONTENT
    assert behavior.asked[1] == f"bytes={kept}-"


def test_a_disk_without_room_is_found_before_the_transfer(
    entry: ModelEntry, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(SAM2PropagateError) as caught:
        fetch(entry, store)
    assert caught.value.code == "disk_full"
    assert not store.unfinished_path_of(entry).exists()


def test_a_disk_that_fills_up_during_the_transfer(
    entry: ModelEntry, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.open

    class Full:
        """A file on a disk that takes 300 000 bytes."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: Any) -> None:
            self._file.close()

        def write(self, piece: bytes) -> int:
            if self._file.tell() + len(piece) > 300_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self._file.write(piece))

    def opened(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        file = original(self, mode, *rest, **more)
        return Full(file) if self.suffix == ".part" and "b" in mode and mode != "rb" else file

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(SAM2PropagateError) as caught:
        fetch(entry, store)
    assert caught.value.code == "disk_full"
    assert not store.path_of(entry).exists()


def test_a_cache_folder_that_cannot_be_made(entry: ModelEntry, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    with pytest.raises(SAM2PropagateError) as caught:
        fetch(entry, ModelStore(blocked, tmp_path, (entry,)))
    assert caught.value.code == "cache_not_writable" and "SAM2PROPAGATE_CACHE" in caught.value.hint


def test_two_downloads_of_one_model_do_not_meet(
    entry: ModelEntry, store: ModelStore, behavior: Behavior
) -> None:
    behavior.stall = 0.05
    started = threading.Event()
    first: list[Path] = []

    def run() -> None:
        first.append(fetch(entry, store, progress=lambda done, total: started.set()))

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(5)
    with pytest.raises(SAM2PropagateError) as caught:
        fetch(entry, store)
    assert caught.value.code == "download_running"
    thread.join(10)
    assert first and first[0].read_bytes() == CONTENT
    assert fetch(entry, store) == first[0]  # the lock is free again


def test_the_bundled_model_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        download(find_model("sam2propagate_tiny"), ModelStore(tmp_path))
    assert caught.value.code == "model_bundled"
