"""Testing a server and setting it up, through a real ssh server: what is there, what is copied."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from SAM2PropagateLib.errors import Cancelled, SAM2PropagateError
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.worker.command import LIBRARY_FOLDER, worker_command
from SAM2PropagateLib.worker.library_files import own_version
from SAM2PropagateLib.worker.messages import LoadModel
from SAM2PropagateLib.worker.remote import Remote
from SAM2PropagateLib.worker.server_check import ServerReport, check_server, report
from SAM2PropagateLib.worker.server_copy import CopiedFile, copy_to_server, files_to_copy
from SAM2PropagateLib.worker.session import WorkerSession
from Testing.worker.helpers import GEOMETRY, own_threads, prompts, soon, volume_array
from Testing.worker.sshd import HOST, Sshd


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path / "sshd")
    yield server
    server.stop()


def remote(**changes: Any) -> Remote:
    return Remote(HOST, **{"python": sys.executable, **changes})


def python_with_a_light_torch(sshd: Sshd) -> str:
    """A Python on the server that imports a stand-in for PyTorch, as the real one takes four seconds of a
    core."""
    packages = sshd.folder / "packages"
    packages.mkdir()
    (packages / "torch.py").write_text(
        "import types\n__version__ = '2.6.0'\ncuda = types.SimpleNamespace(is_available=lambda: False)\n"
        "backends = types.SimpleNamespace(mps=None)\n",
        encoding="utf-8",
    )
    path = sshd.bin / "python-with-a-light-torch"
    text = f'#!/bin/sh\nPYTHONPATH="{packages}:$PYTHONPATH" exec {sys.executable} "$@"\n'
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def words(found: ServerReport) -> str:
    return "\n".join(f"{one.state}: {one.text} {one.hint}" for one in found.findings)


def file_of(content: bytes, there: str = "~/.sam2propagate/x/file") -> CopiedFile:
    return CopiedFile(there, content, len(content), hashlib.sha256(content).hexdigest())


# --- what is there


def test_a_server_without_the_library_is_told_so_and_then_set_up(sshd: Sshd, tmp_path: Path) -> None:
    found = check_server(remote(), DEFAULT_MODEL, sshd.env)
    assert not found.works, words(found)
    assert "good: Logged in on" in words(found) and f"Python {sys.version.split()[0]}" in words(found)
    assert "good: PyTorch" in words(found) and "good: SAM 2 and all packages" in words(found)
    assert f"bad: SAM2 Propagate {own_version()} is not there." in words(found)

    told: list[tuple[int, int]] = []
    files = files_to_copy(DEFAULT_MODEL, ModelStore())
    sent = copy_to_server(remote(), files, sshd.env, lambda *step: told.append(step))
    assert sent == told[-1][0] == told[-1][1] == sum(one.size for one in files) > 38_000_000
    there = sorted(path.name for path in (sshd.home / ".sam2propagate").iterdir())
    assert there == [f"library-{own_version()}", "models"]

    found = check_server(remote(), DEFAULT_MODEL, sshd.env)
    assert found.works, words(found)
    assert f"good: SAM2 Propagate {own_version()}, as here." in words(found)
    assert "good: The chosen model." in words(found)
    assert "GPU" in words(found)
    # What is there is not sent again.
    assert copy_to_server(remote(), files, sshd.env) == 0
    # A worker finds the copies by itself.
    with WorkerSession(worker_command(remote=remote(), base_env=sshd.env)) as session:
        session.load_model(LoadModel(name=DEFAULT_MODEL, input_size=256, device="cpu"))
        session.open_volume("ct", volume_array(), GEOMETRY, axis=2, window=Window(200.0, 100.0))
        preview = session.preview("ct", prompts("liver"), "liver", 5)
        assert session.wait(preview, 120) and preview.state == "done", (preview.error, session.log)
        (worker,) = sshd.workers
        assert ".sam2propagate/library-" in str(Path(f"/proc/{worker}/cwd").readlink())
    assert soon(lambda: not sshd.processes, 30) and own_threads() == []


def test_another_version_and_a_missing_model_are_told(sshd: Sshd) -> None:
    there = remote(python=python_with_a_light_torch(sshd))
    files = [one for one in files_to_copy(DEFAULT_MODEL, ModelStore()) if one.there.endswith(".py")]
    copy_to_server(there, files, sshd.env)
    found = check_server(there, DEFAULT_MODEL, sshd.env)
    assert not found.works and "bad: The chosen model is not there." in words(found)
    folder = sshd.home / ".sam2propagate" / f"library-{own_version()}"
    with (folder / "SAM2PropagateLib" / "errors.py").open("a", encoding="utf-8") as file:
        file.write("\n")
    found = check_server(there, DEFAULT_MODEL, sshd.env)
    assert not found.works and f"is there, {own_version()} here" in words(found)
    # Copied again, it is right again: only the changed file goes.
    changed = next(one for one in files if one.there.endswith("SAM2PropagateLib/errors.py"))
    assert copy_to_server(there, files, sshd.env) == changed.size
    assert f"{own_version()}, as here" in words(check_server(there, DEFAULT_MODEL, sshd.env))


def test_of_a_server_that_cannot_be_reached_only_that_is_reported(sshd: Sshd, tmp_path: Path) -> None:
    for changes, env, text in (
        ({"python": "no-such-python"}, sshd.env, "There is no Python “no-such-python”"),
        ({}, {**sshd.env, "PATH": str(tmp_path)}, "ssh was not found"),
    ):
        found = check_server(remote(**changes), DEFAULT_MODEL, env)
        assert len(found.findings) == 1 and not found.works and text in words(found)
    sshd.configure(port=1)
    found = check_server(remote(), DEFAULT_MODEL, sshd.env)
    assert len(found.findings) == 1 and "Connection refused" in words(found) and found.findings[0].hint


def test_everything_a_probe_can_report_is_put_into_words() -> None:
    full = {
        "computer": "gpu1", "python": "3.11.2", "executable": "/p", "missing": [], "torch": "2.6.0+cu124",
        "devices": [{"name": "NVIDIA X", "total": 80 << 30, "free": 70 << 30}], "library": own_version(),
        "has_model": True,
    }  # fmt: skip
    found = report(Remote("gpu1"), full)
    assert found.works and all(one.state == "good" for one in found.findings)
    assert "NVIDIA X, 80 GB of memory, 70 GB free" in words(found)
    for changes, works, text in (
        ({"devices": []}, True, "slow: PyTorch finds no GPU"),
        ({"python": "3.9.1"}, False, "bad: Python 3.9.1"),
        ({"torch": "2.4.1"}, False, "bad: PyTorch 2.4.1"),
        ({"torch_error": "OSError: libcudart"}, False, "cannot be started (OSError: libcudart)"),
        ({"missing": ["sam2", "cv2"]}, False, "missing: sam2, cv2"),
        ({"library": "0.0.1"}, False, "SAM2 Propagate 0.0.1 is there"),
        ({"has_model": False}, False, "model is not there"),
    ):
        found = report(Remote("gpu1"), {**full, **changes})
        assert found.works is works and text in words(found), words(found)
        assert all(one.hint for one in found.findings if one.state != "good")


# --- what goes wrong while copying


def left(sshd: Sshd) -> list[str]:
    """The files below the home on the server."""
    return sorted(str(path.relative_to(sshd.home)) for path in sshd.home.rglob("*") if path.is_file())


def test_a_copy_that_is_cancelled_or_cut_leaves_nothing(sshd: Sshd) -> None:
    file = file_of(os.urandom(8 << 20))
    with pytest.raises(Cancelled):
        copy_to_server(remote(), [file, file_of(b"x")], sshd.env, cancelled=lambda: True)
    assert soon(lambda: not sshd.processes and left(sshd) == [], 30)

    class Cut(CopiedFile):
        def pieces(self) -> Iterator[bytes]:
            yield self.content[: 1 << 20]  # type: ignore[index]
            os.kill(sshd.processes[0], signal.SIGKILL)
            yield self.content[1 << 20 :]  # type: ignore[index]

    with pytest.raises(SAM2PropagateError) as caught:
        copy_to_server(remote(), [Cut(file.there, file.content, file.size, file.sha256)], sshd.env)
    assert caught.value.code == "copy_failed" and HOST in caught.value.sentence and caught.value.hint
    assert soon(lambda: not sshd.processes and left(sshd) == [], 30)


def test_a_file_that_arrives_damaged_is_refused(sshd: Sshd) -> None:
    wrong = CopiedFile("~/.sam2propagate/x/file", b"other", 5, hashlib.sha256(b"right").hexdigest())
    with pytest.raises(SAM2PropagateError, match="damaged") as caught:
        copy_to_server(remote(), [wrong], sshd.env)
    assert caught.value.code == "copy_failed" and left(sshd) == []
    for there in ("~/elsewhere/file", "~/.sam2propagate/../file", "/etc/file"):
        with pytest.raises(SAM2PropagateError, match="no file of ours"):
            copy_to_server(remote(), [file_of(b"x", there)], sshd.env)
    assert left(sshd) == []


def test_a_folder_that_cannot_be_written_is_told(sshd: Sshd) -> None:
    (sshd.home / ".sam2propagate").write_text("in the way", encoding="utf-8")
    with pytest.raises(SAM2PropagateError, match="cannot be written") as caught:
        copy_to_server(remote(), [file_of(b"x")], sshd.env)
    assert caught.value.code == "copy_failed" and caught.value.hint


def test_a_full_disk_is_told_before_anything_is_sent(sshd: Sshd) -> None:
    if not shutil.which("mount") or os.getuid() != 0:
        pytest.skip("a small file system is mounted by the superuser alone")
    folder = sshd.home / ".sam2propagate"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("no small file system can be mounted here")
    try:
        with pytest.raises(SAM2PropagateError, match="has no room") as caught:
            copy_to_server(remote(), [file_of(os.urandom(2 << 20))], sshd.env)
        assert caught.value.code == "disk_full" and caught.value.hint
        assert left(sshd) == []
        assert copy_to_server(remote(), [file_of(b"small")], sshd.env) == 5
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_scripts_for_a_server_need_neither_new_syntax_nor_the_library() -> None:
    for name in ("probe", "receiver"):
        text = (LIBRARY_FOLDER / "SAM2PropagateLib" / "worker" / f"{name}.py").read_text(encoding="utf-8")
        compile(text, name, "exec", dont_inherit=True)
        assert "from __future__" not in text and "match " not in text and ":=" not in text
        assert "import SAM2PropagateLib" not in text.split("def ")[0]
