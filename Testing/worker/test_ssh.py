"""The worker behind a real ssh server: what works, every way in which it breaks, and that nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.worker import session as session_module
from SAM2PropagateLib.worker.calls import Update
from SAM2PropagateLib.worker.command import LIBRARY_FOLDER, WorkerCommand, worker_command
from SAM2PropagateLib.worker.library_files import worker_files
from SAM2PropagateLib.worker.messages import LoadModel, ProgressEvent
from SAM2PropagateLib.worker.process_tree import descendants
from SAM2PropagateLib.worker.remote import Remote
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.transport import PopenTransport
from Testing.worker.fake_worker import SCRIPT_VARIABLE
from Testing.worker.helpers import (
    GEOMETRY,
    MODEL,
    ROOT,
    WINDOW,
    is_running,
    own_threads,
    prompts,
    ready_session,
    soon,
    volume_array,
)
from Testing.worker.sshd import HOST, Sshd

SAID = prompts("liver", "spleen")


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    server = Sshd(tmp_path / "sshd")
    # The library with the scripted worker, as the server has it.
    folder = server.home / "library"
    folder.mkdir()
    for name, target in (("SAM2PropagateLib", LIBRARY_FOLDER), ("Testing", ROOT)):
        (folder / name).symlink_to(target / name)
    yield server
    server.stop()


@pytest.fixture
def transports(monkeypatch: pytest.MonkeyPatch) -> list[PopenTransport]:
    """Those that sessions make, in order."""
    made: list[PopenTransport] = []

    def make(command: WorkerCommand) -> PopenTransport:
        made.append(PopenTransport(command))
        return made[-1]

    monkeypatch.setattr(session_module, "PopenTransport", make)
    return made


def command(sshd: Sshd, script: dict[str, Any] | None = None, **changes: Any) -> WorkerCommand:
    """Starts the scripted worker on the server."""
    there = {"python": sys.executable, "folder": "library", "module": "Testing.worker.fake_worker", **changes}
    env = {**sshd.env, SCRIPT_VARIABLE: json.dumps(script or {}), **there.pop("env", {})}
    remote = Remote(there.pop("host", HOST), there.pop("python"), there.pop("folder"))
    return worker_command(remote=remote, base_env=env, **there)


def ready(session: WorkerSession) -> WorkerSession:
    session.load_model(MODEL)
    session.open_volume("ct", volume_array(), GEOMETRY, axis=2, window=WINDOW)
    return session


def failure(session: WorkerSession) -> Any:
    """What a preview fails with."""
    preview = session.preview("ct", SAID, "liver", 5)
    assert session.wait(preview, 60), session.log
    assert preview.state == "failed", session.log
    return preview.error


def check_that_all_works(session: WorkerSession, tmp_path: Path) -> None:
    """The same masks as from a worker on this computer."""
    run = session.propagate("ct", SAID, options=RunOptions(everything=True))
    assert session.wait(run, 60) and run.state == "done", (run.error, session.log)
    local, _ = ready_session(tmp_path=tmp_path)
    with local:
        same = local.propagate("ct", SAID, options=RunOptions(everything=True))
        assert local.wait(same, 60) and set(same.masks) == set(run.masks) != set()
        for key, mask in same.masks.items():
            assert np.array_equal(run.masks[key], mask)


def check_that_nothing_is_left(sshd: Sshd) -> None:
    assert soon(lambda: not sshd.processes, 30), [
        Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8") for pid in sshd.processes
    ]
    left = [path for path in sshd.home.rglob("*") if "library" not in path.parts]
    assert left == [] and own_threads() == []


def test_a_worker_on_a_server_gives_the_same_masks_and_leaves_no_process(sshd: Sshd, tmp_path: Path) -> None:
    with ready(WorkerSession(command(sshd))) as session:
        preview = session.preview("ct", SAID, "liver", 5)
        assert session.wait(preview, 60) and preview.state == "done", (preview.error, session.log)
        assert session.remote is not None and session.remote.host == HOST
        assert session.device == "cpu"
        check_that_all_works(session, tmp_path)
        assert len(sshd.workers) == 1
    check_that_nothing_is_left(sshd)


def test_a_large_volume_is_sent_once_with_progress(sshd: Sshd, transports: list[PopenTransport]) -> None:
    array = np.random.default_rng(1).integers(-1000, 1000, (40, 200, 300)).astype(np.int16)
    geometry = VolumeGeometry((300, 200, 40), np.eye(4))
    told: list[ProgressEvent] = []
    with WorkerSession(command(sshd)) as session:
        session.load_model(MODEL)
        opened = session.open_volume("k", array, geometry, axis=2, window=WINDOW)

        def note(update: Update) -> None:
            if update.call is opened and isinstance(update.event, ProgressEvent):
                told.append(update.event)

        assert session.wait(
            opened,
            60,
            note,
        )
        assert opened.state == "done", opened.error
        done = [event.done for event in told]
        assert done == sorted(done) and done[-1] == told[-1].total > 1 << 20
        assert HOST in str(told[-1].text)
        (transport,) = transports
        before = transport.activity
        other = session.open_volume("i", array, geometry, axis=0, window=WINDOW, voxels_of="k")
        assert session.wait(other, 60) and other.state == "done"
        assert transport.activity - before < 10_000
    check_that_nothing_is_left(sshd)


# --- what is wrong before anything works


def test_each_failed_login_is_told_in_a_sentence_of_its_own(sshd: Sshd, tmp_path: Path) -> None:
    sshd.make_key("stranger")
    sshd.make_key("locked", "a passphrase")
    with (sshd.folder / "authorized").open("ab") as file:
        file.write((sshd.folder / "locked.pub").read_bytes())
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        cases: list[tuple[str, str, dict[str, Any]]] = [
            ("unknown_host", "no computer named", {"host": "there-is-none.invalid"}),
            ("host_unreachable", "Connection refused", {"port": closed.getsockname()[1]}),
            ("login_refused", "ssh-copy-id", {"key": "stranger"}),
            ("login_refused", "ssh-add", {"key": "locked"}),
        ]
        for code, words, way in cases:
            sshd.configure(**way)
            with ready(WorkerSession(command(sshd))) as session:
                error = failure(session)
                assert error.code == code and words in str(error), error
                assert HOST in str(error) and error.hint
    sshd.configure()
    own = (sshd.folder / "host.pub").read_text(encoding="utf-8")
    for code, key in (
        ("host_key_unknown", ""),
        ("host_key_changed", (sshd.folder / "stranger.pub").read_text(encoding="utf-8")),
    ):
        sshd.know(key)
        with ready(WorkerSession(command(sshd))) as session:
            assert failure(session).code == code
            # Mended, the next request connects, without anything being asked again.
            sshd.know(own)
            check_that_all_works(session, tmp_path)
    check_that_nothing_is_left(sshd)


def test_a_computer_without_ssh_is_told_so(sshd: Sshd, tmp_path: Path) -> None:
    session = WorkerSession(command(sshd, env={"PATH": str(tmp_path)}))
    with session, pytest.raises(Exception) as caught:
        ready(session)
    assert caught.value.code == "no_ssh"  # type: ignore[attr-defined]


def _python(folder: Path, *packages: str) -> Path:
    """A Python that has these packages of ours alone."""
    there = folder / "packages"
    there.mkdir()
    for entry in Path(np.__file__).parents[1].iterdir():
        if entry.name.split(".")[0] in packages:
            (there / entry.name).symlink_to(entry)
    path = folder / "python-with-little"
    path.write_text(
        f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{there}" exec {sys.executable} -S "$@"\n', encoding="utf-8"
    )
    path.chmod(0o755)
    return path


def test_each_thing_missing_on_the_server_is_told_in_a_sentence_of_its_own(
    sshd: Sshd, tmp_path: Path
) -> None:
    (sshd.home / "empty").mkdir()
    little = _python(tmp_path, "numpy")
    real = {"module": "SAM2PropagateLib.worker"}
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("no_remote_python", "no-such-python", {"python": "no-such-python"}),
        ("no_remote_python", "/no/such/python", {"python": "/no/such/python"}),
        ("no_remote_folder", "no/such/folder", {"folder": "no/such/folder"}),
        ("no_remote_library", "not installed", {"folder": "empty", "python": str(little), **real}),
        ("not_installed", "numpy", {"python": str(_python(sshd.home / "empty")), **real}),
        ("not_installed", "torch", {"python": str(little), **real}),
    ]
    for code, words, way in cases:
        with WorkerSession(command(sshd, **way)) as session:
            session.load_model(LoadModel(name="sam2propagate_tiny"))
            session.open_volume("ct", volume_array(), GEOMETRY, axis=2, window=WINDOW)
            error = failure(session)
            assert error.code == code and words in error.sentence, (error, session.log)
            assert HOST in error.sentence and error.hint and "Traceback" not in str(error)
    shutil.rmtree(sshd.home / "empty")
    # The model was found, and its checksum is remembered.
    shutil.rmtree(sshd.home / ".cache")
    check_that_nothing_is_left(sshd)


@pytest.mark.parametrize(
    ("file", "old", "new", "code"),
    [
        ("__init__.py", '__version__ = "', '__version__ = "9', "version_mismatch"),
        ("engine/keyframes.py", "\n", "\n\n", "version_mismatch"),
        ("worker/messages.py", "PROTOCOL_VERSION = ", "PROTOCOL_VERSION = 9", "protocol_mismatch"),
    ],
)
def test_another_version_there_is_told_and_not_used(
    file: str, old: str, new: str, code: str, sshd: Sshd
) -> None:
    for name, content in worker_files().items():
        path = sshd.home / "copy-of-the-library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    changed = sshd.home / "copy-of-the-library" / "SAM2PropagateLib" / file
    text = changed.read_text(encoding="utf-8")
    assert old in text
    changed.write_text(text.replace(old, new, 1), encoding="utf-8")
    way = {"folder": "copy-of-the-library", "module": "SAM2PropagateLib.worker"}
    with ready(WorkerSession(command(sshd, **way))) as session:
        error = failure(session)
        assert error.code == code and "same" in error.hint, (error, session.log)
    # As it was, it is the same.
    changed.write_text(text, encoding="utf-8")
    with ready(WorkerSession(command(sshd, **way))) as session:
        assert failure(session).code == "unknown_model"
    shutil.rmtree(sshd.home / "copy-of-the-library")
    check_that_nothing_is_left(sshd)


def test_a_model_that_is_not_there_is_named(sshd: Sshd) -> None:
    with WorkerSession(command(sshd, module="SAM2PropagateLib.worker")) as session:
        session.load_model(LoadModel(name="sam2.1_hiera_tiny"))
        session.open_volume("ct", volume_array(), GEOMETRY, axis=2, window=WINDOW)
        error = failure(session)
        assert isinstance(error, InputError) and error.code == "model_not_there", error
        assert HOST in error.sentence and "sam2.1_hiera_tiny" in error.sentence


# --- what breaks in the middle


def held(tmp_path: Path, **more: Any) -> dict[str, Any]:
    """A script whose run waits after three frames until the file `go` exists."""
    return {"hold": {"after": 3, "until": str(tmp_path / "go")}, "children": ["group", "session"], **more}


@pytest.mark.parametrize("what", ["ssh", "session", "worker"])
def test_a_broken_run_keeps_its_masks_and_leaves_no_process_on_the_server(
    what: str, sshd: Sshd, transports: list[PopenTransport], tmp_path: Path
) -> None:
    # One that is killed cannot end what it has started; the real one starts nothing.
    script = held(tmp_path, **({"children": []} if what == "worker" else {}))
    with ready(WorkerSession(command(sshd, script))) as session:
        run = session.propagate("ct", SAID)
        assert soon(lambda: session.poll() is not None and len(run.frames) >= 3, 60), session.log
        before = dict(run.frames)
        there = sshd.processes
        (worker,) = sshd.workers
        assert len(descendants(worker)) == len(script["children"])
        (transport,) = transports
        os.kill({"ssh": transport.pid, "session": there[0], "worker": worker}[what], signal.SIGKILL)
        assert session.wait(run, 60) and run.state == "failed"
        assert run.error is not None and HOST in run.error.sentence, (run.error, session.log)
        assert run.error.code == ("worker_died" if what == "worker" else "connection_lost"), run.error
        assert "finished slices are kept" in run.error.hint
        (tmp_path / "go").touch()
        for key, frame in before.items():
            assert run.frames[key] is frame
        assert soon(lambda: not any(map(is_running, there)), 30)
        check_that_all_works(session, tmp_path)
    check_that_nothing_is_left(sshd)


def test_a_worker_ends_when_its_client_sleeps_and_the_next_request_connects_again(
    sshd: Sshd, transports: list[PopenTransport], tmp_path: Path
) -> None:
    asleep = command(sshd, held(tmp_path), env={"SAM2PROPAGATE_SILENCE": "2"})
    with ready(WorkerSession(asleep)) as session:
        run = session.propagate("ct", SAID)
        assert soon(lambda: session.poll() is not None and len(run.frames) >= 3, 60), session.log
        there = sshd.processes
        assert sshd.workers
        # ssh that sleeps is what a network that is gone looks like from the server: nothing comes, no end.
        ssh = transports[-1].pid
        os.kill(ssh, signal.SIGSTOP)
        assert soon(lambda: not sshd.workers, 60)
        os.kill(ssh, signal.SIGCONT)
        assert session.wait(run, 60) and len(run.frames) == 3
        assert run.state == "failed", run
        assert run.error is not None and run.error.code == "connection_lost", run.error
        assert "finished slices are kept" in run.error.hint
        (tmp_path / "go").touch()
        assert soon(lambda: not any(map(is_running, there)), 30)
        assert soon(lambda: session.poll() is not None and not session.is_running, 30)
        check_that_all_works(session, tmp_path)
    check_that_nothing_is_left(sshd)


CLIENT = """
import json, sys, time
from Testing.worker.helpers import prompts, volume_array, GEOMETRY, MODEL, WINDOW
from SAM2PropagateLib.worker import session as session_module
from SAM2PropagateLib.worker.calls import Update
from SAM2PropagateLib.worker.command import WorkerCommand
from SAM2PropagateLib.worker.remote import Remote
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.transport import PopenTransport
argv, env = json.load(sys.stdin)
session = WorkerSession(WorkerCommand(tuple(argv), env, None, Remote("x")))
session.load_model(MODEL)
session.open_volume("ct", volume_array(), GEOMETRY, axis=2, window=WINDOW)
run = session.propagate("ct", prompts("liver", "spleen"))
while len(run.frames) < 2:
    session.poll()
    time.sleep(0.01)
print("running", flush=True)
while True:
    session.poll()
    time.sleep(0.01)
"""


@pytest.mark.parametrize("trouble", [{}, {"propagate": ["hang", 3]}])
def test_no_process_is_left_on_the_server_when_the_client_is_killed(
    trouble: dict[str, Any], sshd: Sshd, tmp_path: Path
) -> None:
    made = command(sshd, held(tmp_path, trouble=trouble))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIBRARY_FOLDER), str(ROOT)])}
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as client:
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write(json.dumps([made.argv, dict(made.env)]))
        client.stdin.close()
        try:
            assert client.stdout.readline().strip() == "running"
            assert len(sshd.workers) == 1
        finally:
            client.kill()
    check_that_nothing_is_left(sshd)
