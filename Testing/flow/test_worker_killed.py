"""The worker killed at random points of the work, many times: nothing is lost, nothing is left over."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from SAM2PropagateLib.gui.events import Choices
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.shared import SharedFolder
from Testing.gui.cases import Case
from Testing.headless.scenes import fillSegment
from Testing.worker.helpers import Workers, is_running, own_threads, soon

STEPS = {"load": 0.01, "open": 0.005, "preview": 0.02, "frame": 0.01}
KILLED = {"worker_died", "worker_not_started", "worker_not_responding"}


@pytest.mark.skipif(os.name == "nt", reason="kills with a signal")
@pytest.mark.parametrize("seed", range(4))
def test_the_worker_may_be_killed_at_any_time(headless, tmp_path, seed):
    """Real worker processes with an engine that needs no model: what is tested is this side of the pipe."""
    chance = random.Random(seed)
    workers = Workers({"steps": STEPS})
    sessions = []

    def session():
        sessions.append(WorkerSession(workers, folder=SharedFolder([tmp_path])))
        return sessions[-1]

    case = Case(headless)
    case.controller.close()
    case._session = session
    case.start(Choices(applyAutomatically=False))
    stop = threading.Event()

    def killer():
        while not stop.wait(chance.uniform(0.1, 1.2)):
            # AssertionError: the newest one is not started yet; ProcessLookupError: it has just ended.
            with contextlib.suppress(AssertionError, ProcessLookupError, IndexError):
                pid = workers.started[-1].pid
                if is_running(pid):
                    os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=killer)
    thread.start()
    said, painted = 0, None
    try:
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            frame = chance.randrange(18)
            # No answer is waited for.
            place = case.ras(chance.uniform(8, 30), 15, frame)
            said += case.controller.point("positive", place, (0, 0, 1))
            if chance.random() < 0.4:
                case.controller.propagate()
            if painted is None and said == 3:
                painted = np.zeros((18, 36, 40), bool)
                painted[4, 3:9, 3:9] = True
                fillSegment(case.segmentationNode, "B", case.volumeNode, painted)
            for _ in range(chance.randrange(40)):
                case.controller.poll()
                time.sleep(0.003)
    finally:
        stop.set()
        thread.join()
    assert len(workers.started) > 2, "the worker was hardly killed"
    assert {code for code in case.codes if code} <= KILLED | {"not_possible"}
    assert len(case.workspace.prompts.segment("A").clicks) == said
    if painted is not None:
        np.testing.assert_array_equal(np.stack([case.segment(frame, "B") for frame in range(18)]), painted)
    # Now that nobody kills it, the work goes on.
    assert case.controller.wait(20)
    assert case.controller.propagate() and case.controller.wait(20)
    assert case.ends[-1].state == "done"
    shown = [case.shown(frame) for frame in range(18)]
    assert case.workspace.previewFrames("A") == set(range(18)) and any(mask.any() for mask in shown)
    assert case.controller.apply() is not None
    for frame in range(18):
        np.testing.assert_array_equal(case.segment(frame), shown[frame])
    pids = workers.pids
    case.controller.close()
    assert soon(lambda: not any(is_running(pid) for pid in pids)), "orphans"
    assert soon(lambda: own_threads() == [])
    assert [path for path in Path(tmp_path).rglob("*") if path.is_file()] == []


def test_a_worker_that_hangs_is_ended_and_the_next_click_works(headless, tmp_path):
    from SAM2PropagateLib.worker.client import Deadlines

    workers = Workers({"steps": STEPS, "trouble": {"preview": ["hang", 0]}}, {"steps": STEPS})
    case = Case(headless)
    case.controller.close()
    case._session = lambda: WorkerSession(
        workers, folder=SharedFolder([tmp_path]), deadlines=Deadlines(preview=0.5)
    )
    case.start()
    case.controller.point("positive", case.ras(12, 15, 8), (0, 0, 1))
    assert case.controller.wait(20)
    assert case.codes == ["worker_not_responding"] and "starts anew" in case.texts[0]
    case.click(14, 15, 9)
    assert case.controller.wait(20)
    assert case.workspace.previewFrames("A") == {8, 9}
    pids = workers.pids
    case.controller.close()
    assert soon(lambda: not any(is_running(pid) for pid in pids))
