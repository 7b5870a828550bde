"""The worker killed at random points of the work, many times: nothing is lost, nothing is left over."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from Headless.scenes import addSegmentation, addVolume, fillSegment
from SAM2PropagateLib.app.events import Choices
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.shared import SharedFolder
from SAM2PropagateLib.worker.transport import PopenTransport
from Testing.app.cases import HeadlessCase
from Testing.worker.forked import REAL, forks
from Testing.worker.held_worker import held_command
from Testing.worker.helpers import Workers, is_running, own_threads, soon
from Testing.worker.test_real_worker import sample

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

    case = HeadlessCase(headless)
    case.controller.close()
    case.makeSession = session
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
        end, last = time.monotonic() + 3.0, time.monotonic() + 120.0
        # On a busy machine a worker may need seconds to start.
        while time.monotonic() < end or (len(workers.started) <= 2 and time.monotonic() < last):
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
    check_that_nothing_was_lost(case, said, painted)
    check_that_nothing_is_left(case, workers.pids, tmp_path)


def check_that_nothing_was_lost(case, said, painted, seconds=20.0):
    """All clicks and the painted segment are there, and the work goes on now that nobody kills the worker."""
    assert {code for code in case.codes if code} <= KILLED | {"not_possible"}
    assert len(case.workspace.prompts.segment("A").clicks) == said
    count = case.geometry.frame_count(2)
    if painted is not None:
        np.testing.assert_array_equal(np.stack([case.segment(frame, "B") for frame in range(count)]), painted)
    assert case.controller.wait(seconds)
    assert case.controller.propagate() and case.controller.wait(seconds)
    assert case.ends[-1].state == "done"
    shown = [case.shown(frame) for frame in range(count)]
    assert case.workspace.previewFrames("A") == set(range(count)) and any(mask.any() for mask in shown)
    assert case.controller.apply() is not None
    for frame in range(count):
        np.testing.assert_array_equal(case.segment(frame), shown[frame])


def check_that_nothing_is_left(case, pids, folder):
    """No process, no thread, no file."""
    case.controller.close()
    assert soon(lambda: not any(is_running(pid) for pid in pids)), "orphans"
    assert soon(lambda: own_threads() == [])
    assert [path for path in Path(folder).rglob("*") if path.is_file()] == []


class CtCase(HeadlessCase):
    """Some slices of the shipped CT with the left kidney, and sessions with the real worker."""

    def __init__(self, headless, folder):
        self.headless = headless
        self.started = []
        self._folder = folder / "shared"
        self._folder.mkdir()
        self.go = folder / "go"
        """A run waits after two masks until this file exists."""
        array, geometry, self.kidney = sample()
        self.volumeNode = addVolume(headless, array, geometry.ijk_to_ras)
        self.segmentationNode = addSegmentation(headless, self.volumeNode, {"A": (0, 1, 0), "B": (1, 0, 0)})
        self.start(Choices(applyAutomatically=False, device="cpu"))

    def makeSession(self):  # noqa: N802
        def transport():
            # The first one is killed while it starts, and starts as it does for users.
            popen = forks(REAL) if self.started else subprocess.Popen
            self.started.append(PopenTransport(held_command(2, self.go, is_small=True), popen=popen))
            return self.started[-1]

        self.sessions.append(WorkerSession(transport, folder=SharedFolder([self._folder])))
        return self.sessions[-1]

    def click(self, frame, chance):
        """A click on a voxel of the kidney; no answer is waited for."""
        rows, columns = np.nonzero(self.kidney[frame])
        n = chance.randrange(len(rows))
        assert self.controller.point("positive", self.ras(columns[n], rows[n], frame), (0, 0, 1)), self.texts

    def until(self, condition, seconds=60.0):
        def polled():
            self.controller.poll()
            return condition()

        return soon(polled, seconds)


@pytest.mark.skipif(os.name == "nt", reason="kills with a signal")
def test_the_real_worker_may_be_killed_at_any_time(headless, tmp_path):
    """With the bundled model: once while it starts or loads, then while it previews, then amid a run."""
    chance = random.Random(5)
    case = CtCase(headless, tmp_path)
    painted = np.zeros(case.kidney.shape, bool)
    painted[2, 3:9, 3:9] = True
    fillSegment(case.segmentationNode, "B", case.volumeNode, painted)
    said = 0
    kept = {}
    for moment in ("starting", "previewing", "running"):
        for frame in chance.sample(range(len(case.kidney)), 2):
            case.click(frame, chance)
            said += 1
        if moment == "starting":
            end = time.monotonic() + chance.uniform(0.1, 0.8)
            case.until(lambda end=end: time.monotonic() > end)
        elif moment == "previewing":
            assert case.until(lambda: len(case.arrived) >= 1)
            case.click(chance.randrange(len(case.kidney)), chance)
            said += 1
        else:
            assert case.controller.wait(60)
            case.arrived.clear()
            assert case.controller.propagate() and case.until(lambda: len(case.arrived) >= 2)
            kept = {one.frame: case.shown(one.frame) for one in case.arrived}
        os.kill(case.started[-1].pid, signal.SIGKILL)
        assert case.controller.wait(60)
    case.go.touch()
    assert len(case.started) == 3 and case.ends[-1].state == "failed" and len(kept) >= 2
    for frame, mask in kept.items():
        np.testing.assert_array_equal(case.shown(frame), mask, "a finished slice was lost")
    check_that_nothing_was_lost(case, said, painted, 60.0)
    check_that_nothing_is_left(case, [one.pid for one in case.started], tmp_path / "shared")


def test_a_worker_that_hangs_is_ended_and_the_next_click_works(headless, tmp_path):
    from SAM2PropagateLib.worker.client import Deadlines

    workers = Workers({"steps": STEPS, "trouble": {"preview": ["hang", 0]}}, {"steps": STEPS})
    case = HeadlessCase(headless)
    case.controller.close()
    case.makeSession = lambda: WorkerSession(
        workers, folder=SharedFolder([tmp_path]), deadlines=Deadlines(preview=0.5)
    )
    case.start()
    case.controller.point("positive", case.ras(12, 15, 8), (0, 0, 1))
    assert case.controller.wait(60)
    assert case.codes == ["worker_not_responding"] and "the worker restarts" in case.texts[0]
    case.click(14, 15, 9)
    assert case.controller.wait(60)
    assert case.workspace.previewFrames("A") == {8, 9}
    pids = workers.pids
    case.controller.close()
    assert soon(lambda: not any(is_running(pid) for pid in pids))
