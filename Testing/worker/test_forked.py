"""A forked worker is to its client what a started one is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from SAM2PropagateLib.worker.process_tree import ProcessTree
from Testing.worker.forked import SCRIPTED, forks
from Testing.worker.helpers import is_running, soon

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="workers are forked on Linux only"
)

TELL = """
import json, os, sys
print("said to nobody", file=sys.stderr)
here = {"argv": sys.argv[1:], "folder": os.getcwd(), "name": __name__}
here.update(word=os.environ.get("WORD"), path="PATH" in os.environ)
here.update(pid=os.getpid(), group=os.getpgrp(), session=os.getsid(0))
here.update(open=sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1])
print(json.dumps(here))
print(sys.stdin.readline().upper(), flush=True)
"""
Start = Callable[..., ProcessTree]


@pytest.fixture(params=["started", "forked"])
def start(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start a module of this text with these arguments, in both ways."""
    popen = subprocess.Popen if request.param == "started" else forks(SCRIPTED)

    def run(text: str, *arguments: str, **variables: str) -> ProcessTree:
        (tmp_path / "told.py").write_text(text, encoding="utf-8")
        argv = (sys.executable, "-m", "told", *arguments)
        env = {"PYTHONPATH": str(tmp_path), **variables}
        return ProcessTree(argv, env, tmp_path, popen)

    return run


def test_it_has_its_own_pipes_arguments_environment_folder_and_session(start: Start, tmp_path: Path) -> None:
    tree = start(TELL, "--remote", "x", WORD="grün")
    tree.stdin.write(b"louder\n")
    said = tree.stdout.read().decode().splitlines()
    here: dict[str, Any] = json.loads(said[0])
    assert here == {
        "argv": ["--remote", "x"],
        "folder": str(tmp_path),
        "word": "grün",
        "path": False,
        "name": "__main__",
        "open": [0, 1, 2],
        **dict.fromkeys(("pid", "group", "session"), tree.pid),
    }
    assert said[1] == "LOUDER" and tree.stderr.read() == b"said to nobody\n"
    assert tree.finish(60.0) == 0


@pytest.mark.parametrize(
    ("text", "code"),
    [("import os; os._exit(7)", 7), ("raise SystemExit(3)", 3), ("raise SystemExit('no')", 1), ("1 / 0", 1)],
)
def test_its_exit_code_is_known(start: Start, text: str, code: int) -> None:
    tree = start(text)
    assert tree.finish(60.0) == code == tree.exit_code
    assert ("ZeroDivisionError" in tree.stderr.read().decode()) == (text == "1 / 0")


def test_it_is_killed_with_what_it_has_started(start: Start) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    tree = start(f"print('here', flush=True)\n{child}")
    assert tree.stdout.readline() == b"here\n" and tree.exit_code is None
    tree.kill()
    assert tree.finish(60.0) == -signal.SIGKILL
    # What it had started would hold the pipe open.
    assert tree.stdout.read() == b"" and soon(lambda: not is_running(tree.pid))


def test_a_signal_ends_it_and_is_known(start: Start) -> None:
    tree = start("import sys; sys.stdin.read()")
    os.kill(tree.pid, signal.SIGTERM)
    assert tree.finish(60.0) == -signal.SIGTERM


@pytest.mark.parametrize("popen", [subprocess.Popen, forks(SCRIPTED)], ids=["started", "forked"])
def test_its_text_is_read_and_a_signal_is_sent_to_it(popen: Callable[..., Any], tmp_path: Path) -> None:
    text = "import sys, time; print('größer', file=sys.stderr, flush=True); print('here'); "
    (tmp_path / "told.py").write_text(text + "time.sleep(float(sys.argv[1]))", encoding="utf-8")

    def begin(seconds: str) -> Any:
        env = {"PYTHONPATH": str(tmp_path), "PYTHONIOENCODING": "utf-8"}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return popen([sys.executable, "-m", "told", seconds], env=env, encoding="utf-8", **pipes)

    with begin("0") as process:
        assert process.communicate(timeout=60) == ("here\n", "größer\n")
    assert process.returncode == 0
    with begin("600") as process:
        assert process.stderr.readline() == "größer\n"
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    with begin("600") as process:
        assert process.stderr.readline() == "größer\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL


def forked(folder: Path, text: str, modules: tuple[str, ...] = SCRIPTED) -> Any:
    """Fork a worker of this text, without a tree around it."""
    (folder / "told.py").write_text(text, encoding="utf-8")
    return forks(modules)(
        (sys.executable, "-m", "told"), env={"PYTHONPATH": str(folder)}, cwd=str(folder), bufsize=0
    )


def test_its_id_is_its_own_until_it_is_waited_for(tmp_path: Path) -> None:
    worker = forked(tmp_path, "raise SystemExit(3)")
    assert soon(lambda: worker.poll() is not None) and worker.poll() == 3
    # A zombie: what has ended, and whose id no other process gets.
    stat = Path(f"/proc/{worker.pid}/stat")
    assert stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    assert not is_running(worker.pid)
    assert worker.wait() == worker.wait() == worker.poll() == 3
    assert soon(lambda: not stat.exists())


def test_it_is_reaped_when_nobody_asks_for_it_any_more(tmp_path: Path) -> None:
    worker = forked(tmp_path, "pass")
    stat = Path(f"/proc/{worker.pid}/stat")
    for pipe in (worker.stdin, worker.stdout, worker.stderr):
        pipe.close()
    del worker
    assert soon(lambda: not stat.exists())


def test_several_may_wait_for_it_while_others_look(tmp_path: Path) -> None:
    worker = forked(tmp_path, "import sys; sys.stdin.read()")
    answers: list[int | None] = []

    def look() -> int | None:
        assert soon(lambda: worker.poll() is not None)
        return worker.poll()

    # Daemons, as one that waits forever must not hold up the tests.
    for ask in (worker.wait, worker.wait, look, look):
        Thread(target=lambda ask=ask: answers.append(ask()), daemon=True).start()
    worker.stdin.close()
    assert soon(lambda: answers == [0] * 4)


def test_a_server_that_has_ended_is_replaced(tmp_path: Path) -> None:
    modules = ("json",)
    first = forked(tmp_path, "import os; print(os.getppid(), flush=True)", modules)
    keeper = int(first.stdout.read())
    server = int(Path(f"/proc/{keeper}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    assert first.wait() == 0
    os.kill(server, signal.SIGKILL)
    assert soon(lambda: not is_running(server))
    assert forked(tmp_path, "raise SystemExit(4)", modules).wait() == 4


def test_a_server_that_cannot_start_says_so_and_leaves_nothing_open(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    opened = []
    for _ in range(3):
        with pytest.raises(OSError, match="the process that forks workers has ended"):
            forked(tmp_path, "pass", ("no_such_module",))
        opened.append(len(list(Path("/proc/self/fd").iterdir())))
    assert "No module named 'no_such_module'" in capfd.readouterr().err
    assert opened == opened[:1] * 3


def test_what_it_changes_is_not_there_in_the_next_one(start: Start) -> None:
    text = "import numpy; print(hasattr(numpy, 'mine'), flush=True); numpy.mine = 1"
    for _ in range(2):
        tree = start(text)
        assert tree.stdout.read().split() == [b"False"] and tree.finish(60.0) == 0
