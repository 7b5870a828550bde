"""Whatever becomes of the worker: no finished frame is lost, the next request works, nothing is left over."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.worker.calls import Call, Run
from SAM2PropagateLib.worker.client import Deadlines
from SAM2PropagateLib.worker.messages import LogEvent
from SAM2PropagateLib.worker.process_tree import descendants
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.shared import SharedFolder, shared_files
from SAM2PropagateLib.worker.transport import PopenTransport
from Testing.worker.fake_engine import fake_mask
from Testing.worker.helpers import (
    FRAMES,
    GEOMETRY,
    MODEL,
    ROOT,
    WINDOW,
    Workers,
    children,
    fake_command,
    is_running,
    own_threads,
    prompts,
    ready_session,
    soon,
    stack,
    volume_array,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes with POSIX signals")

SAID = prompts("liver", "spleen")
ALL = {(segment, frame) for segment in ("liver", "spleen") for frame in range(FRAMES)}
STEPS = {"load": 0.03, "open": 0.02, "preview": 0.02, "frame": 0.004}
HEALTHY: dict[str, Any] = {}

Start = Callable[..., tuple[WorkerSession, Workers]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Sessions that are checked at the end: no thread, no process and no file may be left of them."""
    made: list[tuple[WorkerSession, Workers]] = []

    def make(*scripts: Any, **options: Any) -> tuple[WorkerSession, Workers]:
        made.append(ready_session(*scripts, tmp_path=tmp_path, **options))
        return made[-1]

    yield make
    for session, workers in made:
        session.close(5.0)
        pids = [*workers.pids, *(pid for transport in workers.started for pid in children(transport.log))]
        assert soon(lambda pids=pids: not any(map(is_running, pids))), pids  # type: ignore[misc]
    assert own_threads() == []
    assert list(tmp_path.glob("sam2propagate-*")) == []


def finished(session: WorkerSession, call: Call, state: str) -> None:
    assert session.wait(call, 30.0), session.log
    assert call.state == state, (call, call.error, session.log[-3:])


def check_masks(run: Run) -> None:
    """Every frame that arrived is what the engine makes of these prompts."""
    for (segment, frame), mask in run.masks.items():
        keyframes = resolve(SAID.segment(segment), GEOMETRY, 2).keyframes
        mark = "".join(keyframes[key].fingerprint for key in sorted(keyframes))
        assert np.array_equal(mask, fake_mask(stack().frame(frame), segment, mark))


def check_that_all_works(session: WorkerSession) -> None:
    """A preview and a whole run, as if nothing had happened."""
    preview = session.preview("ct", SAID, "liver", 5)
    run = session.propagate("ct", SAID, options=RunOptions(everything=True))
    finished(session, run, "done")
    assert preview.state == "done" and preview.mask is not None and preview.mask.any()
    assert set(run.masks) == ALL
    check_masks(run)


# --- killed at random


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_points_nothing_is_lost_and_nothing_is_left(
    seed: int, start: Start, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    script = {"steps": STEPS, "children": ["group", "session"]}
    # Also killed while it starts: as it does for users.
    session, workers = start(script, popen=subprocess.Popen)
    states: list[str] = []
    kept = 0
    for _ in range(8):
        preview = session.preview("ct", SAID, "liver", 5)
        run = session.propagate("ct", SAID, options=RunOptions(everything=True))
        # Half the time while it starts and loads, half the time in the middle of the run.
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0.0, 0.45))
            session.poll()
        else:
            wanted = rng.randrange(len(ALL))
            assert soon(lambda run=run, wanted=wanted: _polled(session, run) >= wanted, 30)  # type: ignore[misc]
        before = set(run.frames)
        os.kill(workers.pids[-1], signal.SIGKILL)
        assert session.wait(run, 30.0), session.log
        # It may have said all that there was to say just before.
        assert run.state == "failed" or (run.state == "done" and set(run.frames) == ALL), (run, run.error)
        # After a finished run nobody waits for an answer: the next request must not meet the dying worker.
        assert soon(lambda: not session.is_running)
        states.append(run.state)
        assert before <= set(run.frames), "a finished frame was lost"
        kept += len(run.frames)
        check_masks(run)
        assert preview.is_finished
        if run.state == "failed":
            assert run.error is not None and run.error.code in ("worker_died", "worker_not_started")
            assert run.error.hint and "Traceback" not in str(run.error)
        assert len(shared_files([tmp_path])) <= 1
    assert "failed" in states and kept > 0
    check_that_all_works(session)
    assert len(shared_files([tmp_path])) == 1
    assert 2 <= len(workers.started) == session.starts


def _polled(session: WorkerSession, run: Run) -> int:
    session.poll()
    return len(run.frames) if not run.is_finished else len(ALL)


def test_killed_while_idle_the_next_request_just_works(start: Start) -> None:
    session, workers = start()
    for expected in (1, 2, 3):
        check_that_all_works(session)
        assert len(workers.started) == expected
        os.kill(workers.pids[-1], signal.SIGKILL)
        assert soon(lambda: not session.is_running)
        assert session.poll() == []


def test_a_launcher_that_is_killed_takes_its_worker_along(tmp_path: Path) -> None:
    # PythonSlicer is such a launcher: a process that starts Python and passes its streams on.
    command = fake_command({"children": ["group"]})
    launcher = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    command = replace(command, argv=(sys.executable, "-S", "-c", launcher, *command.argv))
    launched: list[PopenTransport] = []

    def factory() -> PopenTransport:
        launched.append(PopenTransport(command))
        return launched[-1]

    with WorkerSession(factory, folder=SharedFolder([tmp_path])) as session:
        session.load_model(MODEL)
        session.open_volume("ct", volume_array(), GEOMETRY, axis=2, window=WINDOW)
        check_that_all_works(session)
        pids = [launched[0].pid, *descendants(launched[0].pid)]
        assert len(pids) == 3
        session.stop_worker()
        assert soon(lambda: not any(map(is_running, pids)) and not session.is_running)
        check_that_all_works(session)
        # The worker behind the launcher dies: the launcher ends with it, and the session is told.
        run = session.propagate("ct", SAID, options=RunOptions(everything=True))
        os.kill(descendants(launched[1].pid)[0], signal.SIGKILL)
        assert session.wait(run, 30) and run.state in ("failed", "done")
        assert soon(lambda: not session.is_running)
        check_that_all_works(session)
    assert own_threads() == []


# --- all the other ways to die


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("kill", "load"),
        ("kill", "open"),
        ("kill", "preview"),
        ("kill", "propagate"),
        ("segfault", "load"),
        ("segfault", "propagate"),
        ("exit", "open"),
        ("half_frame", "propagate"),
        ("garbage", "load"),
        ("garbage", "propagate"),
    ],
)
def test_it_dies_in_every_way_in_every_place(kind: str, where: str, start: Start) -> None:
    troubled = {
        "trouble": {where: [kind, 7 if where == "propagate" else 0]},
        "children": ["group", "session"],
    }
    session, workers = start(troubled, HEALTHY)
    preview = session.preview("ct", SAID, "liver", 5)
    run = session.propagate("ct", SAID)
    finished(session, run, "failed")
    code = "protocol_broken" if kind == "garbage" else "worker_died"
    assert run.error is not None and run.error.code == code
    assert preview.state == ("done" if where == "propagate" else "failed")
    assert len(run.masks) == (7 if where == "propagate" else 0)
    check_masks(run)
    if kind == "segfault":
        assert any("Segmentation fault" in line for line in run.log)
    check_that_all_works(session)
    assert len(workers.started) == 2


@pytest.mark.parametrize(
    ("kind", "where", "code"),
    [
        ("memory", "load", "out_of_memory"),
        ("cuda_memory", "open", "out_of_memory"),
        ("torch_memory", "preview", "out_of_memory"),
        ("cuda_memory", "propagate", "out_of_memory"),
        ("value", "load", "internal"),
        ("value", "propagate", "internal"),
        ("input", "open", "bad_input_size"),
        ("input", "propagate", "bad_input_size"),
    ],
)
def test_an_error_is_an_event_and_no_death(kind: str, where: str, code: str, start: Start) -> None:
    session, workers = start({"trouble": {where: [kind, 3 if where == "propagate" else 0]}})
    run_or_preview: Call = (
        session.propagate("ct", SAID) if where == "propagate" else session.preview("ct", SAID, "liver", 5)
    )
    finished(session, run_or_preview, "failed")
    error = run_or_preview.error
    assert error is not None and error.code == code and error.hint
    assert "Traceback" not in str(error) and "secret detail" not in str(error)
    if kind == "value":
        assert soon(lambda: any("secret detail" in line for line in session.log))
        assert soon(lambda: any("Traceback" in line for line in session.log))
    if code == "out_of_memory":
        assert soon(lambda: any("released memory" in line for line in session.log))
    if where == "propagate":
        assert isinstance(run_or_preview, Run) and len(run_or_preview.masks) == 3
        finished(session, session.preview("ct", SAID, "liver", 5), "done")
    assert session.is_running and len(workers.started) == 1


def test_a_lost_gpu_ends_the_worker_and_the_next_request_starts_another(start: Start) -> None:
    session, workers = start({"trouble": {"propagate": ["cuda", 5]}}, HEALTHY)
    run = session.propagate("ct", SAID)
    finished(session, run, "failed")
    assert run.error is not None and run.error.code == "device_lost" and len(run.masks) == 5
    assert not session.is_running
    assert soon(lambda: workers.started[0].exit_code == 70)
    check_that_all_works(session)
    assert len(workers.started) == 2


def test_a_lost_gpu_in_a_preview_during_a_run_ends_both(start: Start) -> None:
    session, workers = start({"hold": {"after": 2}, "trouble": {"preview": ["cuda", 0]}}, HEALTHY)
    run = session.propagate("ct", SAID)
    assert soon(lambda: _polled(session, run) >= 2, 30)
    preview = session.preview("ct", SAID, "liver", 5)
    finished(session, run, "failed")
    assert preview.state == "failed" and preview.error is not None and preview.error.code == "device_lost"
    assert run.error is not None and run.error.code == "device_lost" and len(run.masks) >= 2
    check_that_all_works(session)
    assert len(workers.started) == 2


# --- what is printed


def test_whatever_is_printed_stays_out_of_the_protocol(start: Start) -> None:
    session, _ = start({"chatter": True})
    check_that_all_works(session)
    for text in (
        "Python prints at frame",
        "C prints at frame",
        "the descriptor is written to",
        "a child prints",
    ):
        assert soon(lambda text=text: any(text in line for line in session.log)), text  # type: ignore[misc]


# --- hanging


def test_a_run_that_ignores_cancel_is_killed_at_the_deadline_and_its_frames_stay(start: Start) -> None:
    # It goes on to send frames: only the cancel's own deadline can end it.
    script = {
        # All frames would take far longer than the deadline.
        "steps": {"frame": 0.4},
        "trouble": {"propagate": ["deaf", 0]},
        "children": ["group", "session"],
    }
    session, workers = start(script, HEALTHY, deadlines=Deadlines(cancel=0.7))
    run = session.propagate("ct", SAID)
    assert soon(lambda: _polled(session, run) >= 3, 30)
    at_cancel = len(run.frames)
    started = time.monotonic()
    session.cancel(run)
    finished(session, run, "cancelled")
    assert time.monotonic() - started > 0.6
    assert run.error is not None and run.error.code == "worker_not_responding"
    assert at_cancel < len(run.frames) < len(ALL)
    check_masks(run)
    assert soon(lambda: len(children(workers.started[0].log)) == 2)
    pids = [workers.pids[0], *children(workers.started[0].log)]
    assert soon(lambda: not any(map(is_running, pids)))
    check_that_all_works(session)
    assert len(workers.started) == 2


class Exchangeable:
    """Deadlines that can be exchanged for others."""

    def __init__(self, present: Deadlines) -> None:
        self.present = present

    def __getattr__(self, name: str) -> Any:
        return getattr(self.present, name)


@pytest.mark.parametrize("where", ["load", "open", "preview", "propagate"])
def test_a_worker_that_hangs_is_killed_at_the_deadline(where: str, start: Start) -> None:
    script = {"trouble": {where: ["hang", 4 if where == "propagate" else 0]}}
    # Short for what hangs alone: on a busy machine the others may need longer to work.
    step = {"load": "load_model", "open": "open_volume"}.get(where, where)
    limits = Exchangeable(replace(Deadlines(), **{step: 2.0}))
    session, workers = start(script, HEALTHY, deadlines=limits)
    run: Call = (
        session.propagate("ct", SAID) if where == "propagate" else session.preview("ct", SAID, "liver", 5)
    )
    finished(session, run, "failed")
    assert run.error is not None and run.error.code == "worker_not_responding"
    assert not is_running(workers.pids[0]) or soon(lambda: not is_running(workers.pids[0]))
    if isinstance(run, Run):
        assert len(run.masks) == 4
    limits.present = Deadlines()
    check_that_all_works(session)


def test_a_stopped_worker_is_killed_at_the_deadline(start: Start) -> None:
    session, workers = start({"hold": {"after": 3}}, HEALTHY, deadlines=Deadlines(cancel=0.5))
    run = session.propagate("ct", SAID)
    assert soon(lambda: _polled(session, run) >= 2, 30)
    os.kill(workers.pids[0], signal.SIGSTOP)
    session.cancel(run)
    finished(session, run, "cancelled")
    assert len(run.frames) >= 2 and soon(lambda: not is_running(workers.pids[0]))
    check_that_all_works(session)


# --- the client dies

CLIENT = """
import subprocess, sys, time
from pathlib import Path
from Testing.worker.helpers import fake_command, Workers, prompts, ready_session
import json
session, workers = ready_session(json.loads(sys.argv[2]), tmp_path=Path(sys.argv[1]), popen=subprocess.Popen)
run = session.propagate("ct", prompts("liver", "spleen"))
while len(run.frames) < 2:
    session.poll()
    time.sleep(0.01)
print(workers.pids[0], flush=True)
while True:
    session.poll()
    time.sleep(0.01)
"""


@pytest.mark.parametrize("trouble", [{}, {"propagate": ["hang", 3]}])
def test_when_the_client_is_killed_its_worker_ends_and_leaves_nothing(
    trouble: dict[str, Any], tmp_path: Path
) -> None:
    script = {"hold": {"after": 3}, "children": ["group", "session"], "trouble": trouble}
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "SAM2Propagate"), str(ROOT)])}
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(tmp_path), json.dumps(script)],
        env=env,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert client.stdout is not None
        worker = int(client.stdout.readline())
        pids = [worker, *descendants(worker)]
        assert len(pids) == 3 and all(map(is_running, pids)) and len(shared_files([tmp_path])) == 1
        client.kill()
        client.wait()
        assert soon(lambda: not any(map(is_running, pids))), pids
        assert soon(lambda: list(tmp_path.iterdir()) == [])
    finally:
        client.kill()
        client.wait()
        if client.stdout is not None:
            client.stdout.close()


def test_a_closed_input_ends_the_worker(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    session, workers = start()
    check_that_all_works(session)
    (pid,) = workers.pids
    (transport,) = workers.started
    killed: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr(transport, "kill", lambda: killed.append(True))
        transport.close(60)
    assert not killed, "it ends by itself"
    assert soon(lambda: not is_running(pid))
    assert soon(lambda: not session.is_running)
    check_that_all_works(session)


# --- many times


def test_many_restarts_leave_no_descriptor_open(start: Start) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("counts descriptors in /proc, which this system lacks")
    session, workers = start({"trouble": {"preview": ["exit", 0]}}, popen=subprocess.Popen)

    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    counts = []
    for _ in range(6):
        finished(session, session.preview("ct", SAID, "liver", 5), "failed")
        assert soon(lambda: all(transport.is_closed for transport in workers.started))
        counts.append(count())
    assert counts[-1] <= counts[0] and len(workers.started) == 6


def test_warnings_of_the_worker_reach_the_client(start: Start) -> None:
    session, _ = start({"trouble": {"ahead": ["value", 0]}})
    texts: list[str] = []

    def note() -> bool:
        texts.extend(u.event.text for u in session.poll() if isinstance(u.event, LogEvent))
        return bool(texts)

    session.preview("ct", SAID, "liver", 5)
    assert soon(note, 20) and "prepared in advance" in texts[0]
