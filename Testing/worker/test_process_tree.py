"""A process is ended with all that it has started."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.worker import process_tree
from SAM2PropagateLib.worker.process_tree import TREE_VARIABLE, ProcessTree, descendants
from Testing.worker.helpers import is_running, soon

pytestmark = pytest.mark.skipif(os.name != "posix", reason="looks at processes as POSIX shows them")

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
# Starts a sleeper in the same group, one in a session of its own, and says their numbers.
PARENT = f"""
import subprocess, sys, time
for own in (False, True):
    print(subprocess.Popen({SLEEP!r}, start_new_session=own).pid, flush=True)
print("ready", flush=True)
{{after}}
"""
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-S', '-c', sys.argv[1]]))"


@pytest.fixture
def trees() -> Iterator[list[ProcessTree]]:
    made: list[ProcessTree] = []
    yield made
    for tree in made:
        tree.kill()
        tree.finish(1.0)
        for stream in (tree.stdin, tree.stdout, tree.stderr):
            stream.close()


def start(trees: list[ProcessTree], *argv: str) -> ProcessTree:
    trees.append(ProcessTree(argv, os.environ))
    return trees[-1]


def lines(tree: ProcessTree, count: int) -> list[str]:
    return [b"".join(iter(lambda: tree.stdout.read(1), b"\n")).decode() for _ in range(count)]


@pytest.mark.parametrize("through_launcher", [False, True])
def test_killing_reaches_children_of_children(trees: list[ProcessTree], through_launcher: bool) -> None:
    parent = PARENT.format(after="time.sleep(600)")
    argv = ["-c", LAUNCHER, parent] if through_launcher else ["-c", parent]
    tree = start(trees, sys.executable, "-S", *argv)
    pids = [int(line) for line in lines(tree, 3)[:2]]
    assert all(map(is_running, pids))
    found = descendants(tree.pid)
    assert set(pids) <= set(found) and len(found) == 2 + through_launcher
    tree.kill()
    assert soon(lambda: not any(map(is_running, [tree.pid, *pids, *found])))
    assert tree.finish(5.0) == -9


@pytest.mark.parametrize("after", ["sys.exit(7)", "import os; os.abort()"])
def test_what_an_ended_process_left_is_ended(trees: list[ProcessTree], after: str) -> None:
    tree = start(trees, sys.executable, "-S", "-c", PARENT.format(after=after))
    pids = [int(line) for line in lines(tree, 3)[:2]]
    assert tree.finish(10.0) == (7 if "exit" in after else -6)
    if sys.platform == "linux":
        assert soon(lambda: not any(map(is_running, pids)))
    else:
        assert soon(lambda: not is_running(pids[0]))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows environments")
def test_what_was_just_becoming_another_program_is_ended(
    trees: list[ProcessTree], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = start(trees, sys.executable, "-S", "-c", PARENT.format(after="sys.exit(7)"))
    own = int(lines(tree, 3)[1])
    really, looks = process_tree.read_environment, []

    def environment(pid: int) -> bytes:
        # As Linux shows it for a moment when a program is started.
        looks.extend([pid] * (pid == own))
        return b"" if pid == own and len(looks) < 3 else really(pid)

    monkeypatch.setattr(process_tree, "read_environment", environment)
    assert tree.finish(10.0) == 7
    assert soon(lambda: not is_running(own)) and len(looks) >= 3


def test_a_process_that_does_not_end_is_killed_after_its_patience(trees: list[ProcessTree]) -> None:
    tree = start(trees, *SLEEP)
    assert tree.exit_code is None
    assert tree.finish(0.2) == -9
    assert tree.exit_code == -9


def test_the_exit_code_of_a_process_that_ended_long_ago_is_kept(trees: list[ProcessTree]) -> None:
    tree = start(trees, sys.executable, "-S", "-c", "raise SystemExit(5)")
    assert soon(lambda: not is_running(tree.pid))
    tree.kill()
    assert tree.finish(1.0) == 5
    # Killing what is gone, and may be somebody else's number by now, does nothing.
    tree.kill()
    assert tree.finish(1.0) == 5


def test_others_are_left_alone(trees: list[ProcessTree]) -> None:
    first, second = start(trees, *SLEEP), start(trees, *SLEEP)
    first.kill()
    first.finish(1.0)
    assert is_running(second.pid)


def test_the_child_leads_a_group_of_its_own_and_has_a_token(trees: list[ProcessTree]) -> None:
    text = f"import os; print(os.getpgrp() == os.getpid(), os.environ['{TREE_VARIABLE}'])"
    tree = start(trees, sys.executable, "-S", "-c", text)
    is_leader, token = lines(tree, 1)[0].split()
    assert is_leader == "True" and len(token) == 32
    assert TREE_VARIABLE not in os.environ


@pytest.mark.parametrize("argv", [["/no/such/python"], [str(Path(__file__).parent)]])
def test_a_command_that_cannot_be_started_is_told(argv: list[str]) -> None:
    with pytest.raises(SAM2PropagateError, match="could not be started") as caught:
        ProcessTree(argv, {})
    assert caught.value.code == "worker_not_started" and argv[0] in str(caught.value)


def test_a_process_that_ends_while_it_is_looked_at_is_not_running(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(_path: Path, **_options: str) -> str:
        raise ProcessLookupError(errno.ESRCH, "No such process")

    monkeypatch.setattr(Path, "read_text", read_text)
    assert not is_running(os.getpid())
    # The library's own looks at /proc leave such a process out.
    assert process_tree.read_parents() == {} or not Path("/proc").is_dir()
    assert process_tree.started_at(os.getpid()) == 0
