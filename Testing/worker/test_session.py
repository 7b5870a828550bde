"""The session over real worker processes with the scripted engine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.worker.calls import Call, Run
from SAM2PropagateLib.worker.client import Deadlines
from SAM2PropagateLib.worker.command import LIBRARY_FOLDER, WorkerCommand, worker_command
from SAM2PropagateLib.worker.messages import DoneEvent, FrameEvent, LoadModel
from SAM2PropagateLib.worker.remote import Remote
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.shared import SharedFolder, shared_files
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
    open_session,
    own_threads,
    prompts,
    ready_session,
    soon,
    stack,
    volume_array,
)

Start = Callable[..., tuple[WorkerSession, Workers]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    sessions: list[WorkerSession] = []

    def make(*scripts: Any, ready: bool = True, **options: Any) -> tuple[WorkerSession, Workers]:
        session, workers = (ready_session if ready else open_session)(*scripts, tmp_path=tmp_path, **options)
        sessions.append(session)
        return session, workers

    yield make
    for session in sessions:
        session.close(5.0)
    assert own_threads() == []
    assert list(tmp_path.glob("sam2propagate-*")) == []


def finished(session: WorkerSession, call: Call, state: str = "done") -> Call:
    assert session.wait(call, 30.0), session.log
    assert call.state == state, (call, call.error, session.log[-3:])
    return call


def check_masks(run: Run, said: PromptSet | None = None, window: Window = WINDOW) -> None:
    """Every frame of the run is what the engine makes of these prompts."""
    from SAM2PropagateLib.prompts.resolve import resolve

    said = said or prompts()
    for (segment, frame), mask in run.masks.items():
        resolved = resolve(said.segment(segment), GEOMETRY, 2)
        mark = "".join(resolved.keyframes[key].fingerprint for key in sorted(resolved.keyframes))
        assert np.array_equal(mask, fake_mask(stack(window=window).frame(frame), segment, mark))


def test_nothing_is_started_before_it_is_needed(start: Start, tmp_path: Path) -> None:
    session, workers = start(ready=False)
    assert not session.is_running and not session.is_waiting and workers.started == []
    assert session.poll() == [] and own_threads() == [] and list(tmp_path.iterdir()) == []


def test_a_preview_and_a_run(start: Start) -> None:
    session, workers = start()
    preview = session.preview("ct", prompts(), "liver", 5)
    run = session.propagate("ct", prompts())
    assert session.is_waiting and preview.mask is None
    finished(session, run)
    assert preview.state == "done" and preview.mask is not None and preview.mask.shape == (40, 50)
    assert sorted(run.masks) == [("liver", frame) for frame in range(FRAMES)]
    check_masks(run)
    assert (
        run.result["frames_computed"] == FRAMES and run.progress is not None and run.progress.done == FRAMES
    )
    assert not session.is_waiting and len(workers.started) == 1
    with pytest.raises(KeyError):
        run.masks["liver", 99]


def test_updates_come_in_order_and_name_their_calls(start: Start) -> None:
    session, _ = start()
    run = session.propagate("ct", prompts())
    updates: list[Any] = []
    assert session.wait(run, 30.0, updates.append)
    mine = [update.event for update in updates if update.call is run]
    frames = [event.frame for event in mine if isinstance(event, FrameEvent)]
    assert frames == [frame for _, frame in run.frames] and frames[0] == 5
    assert isinstance(mine[-1], DoneEvent)
    kinds = [update.call.kind for update in updates if update.call and isinstance(update.event, DoneEvent)]
    assert kinds == ["load_model", "open_volume", "propagate"]


def test_polling_alone_is_enough(start: Start) -> None:
    session, _ = start({"steps": {"frame": 0.01}})
    run = session.propagate("ct", prompts())
    held: list[float] = []

    def polled() -> bool:
        started = time.perf_counter()
        session.poll()
        held.append(time.perf_counter() - started)
        return run.is_finished

    # The median: on a busy machine any single poll may be held up.
    assert soon(polled) and run.state == "done" and np.median(held) < 0.5


def test_the_window_is_remembered(start: Start) -> None:
    session, workers = start()
    finished(session, session.propagate("ct", prompts()))
    narrow = Window(60.0, 80.0)
    finished(session, session.set_window("ct", narrow))
    run = session.propagate("ct", prompts())
    finished(session, run)
    assert len(run.masks) == FRAMES
    check_masks(run, window=narrow)
    session.stop_worker()
    again = session.propagate("ct", prompts())
    finished(session, again)
    check_masks(again, window=narrow)
    assert len(workers.started) == 2
    session.stop_worker()
    session.poll()
    assert session.set_window("ct", WINDOW).state == "done"
    third = session.propagate("ct", prompts())
    finished(session, third)
    check_masks(third)


def test_volumes_along_other_axes_share_the_voxels(start: Start, tmp_path: Path) -> None:
    session, _ = start()
    array = volume_array()
    other = session.open_volume("ct-i", array, GEOMETRY, axis=0, window=WINDOW, voxels_of="ct")
    finished(session, other)
    assert other.result == {"frames": 50} and len(shared_files([tmp_path])) == 1
    finished(session, session.close_volume("ct"))
    assert len(shared_files([tmp_path])) == 1
    # A new worker gets them although the volume that brought them is closed.
    session.stop_worker()
    preview = session.preview("ct-i", prompts(), "liver", 10)
    finished(session, preview)
    assert preview.mask is not None and preview.mask.shape == (12, 40)
    finished(session, session.close_volume("ct-i"))
    assert shared_files([tmp_path]) == []


def test_both_volumes_return_with_one_copy_after_a_restart(start: Start, tmp_path: Path) -> None:
    session, _ = start()
    session.open_volume("ct-i", volume_array(), GEOMETRY, axis=0, window=WINDOW, voxels_of="ct")
    session.stop_worker()
    for name, frame in (("ct-i", 10), ("ct", 5)):
        finished(session, session.preview(name, prompts(), "liver", frame))
    assert len(shared_files([tmp_path])) == 1


def test_a_replaced_volume_gives_its_file_back(start: Start, tmp_path: Path) -> None:
    session, _ = start()
    array = volume_array()[::-1].copy()
    finished(session, session.open_volume("ct", array, GEOMETRY, axis=2, window=WINDOW))
    assert len(shared_files([tmp_path])) == 1
    preview = session.preview("ct", prompts(), "liver", 5)
    finished(session, preview)
    fingerprint = _fingerprint()
    assert preview.mask is not None
    assert np.array_equal(preview.mask, fake_mask(stack(array).frame(5), "liver", fingerprint))


def _fingerprint() -> str:
    from SAM2PropagateLib.prompts.resolve import resolve

    return resolve(prompts().segment("liver"), GEOMETRY, 2).keyframes[5].fingerprint


def test_another_model_is_loaded_once(start: Start) -> None:
    session, workers = start()
    first = session.load_model(MODEL)
    finished(session, first)
    assert session.load_model(MODEL) is first
    other = session.load_model(LoadModel(name="other"))
    finished(session, other)
    assert other is not first and other.result["model"] == "other"
    assert session.model == LoadModel(name="other")
    session.stop_worker()
    preview = session.preview("ct", prompts(), "liver", 5)
    models: list[str] = []

    def note(update: Any) -> None:
        if update.call.kind == "load_model" and isinstance(update.event, DoneEvent):
            assert update.call.is_replay
            models.append(update.event.result["model"])

    assert session.wait(preview, 30.0, note)
    assert models == ["other"] and len(workers.started) == 2


def test_a_relative_path_is_taken_from_here(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session, _ = start(ready=False)
    monkeypatch.chdir(tmp_path)
    finished(session, session.load_model(LoadModel(path="weights.pt")))
    assert session.model is not None and session.model.path == str(tmp_path / "weights.pt")


def test_a_newer_preview_replaces_those_that_wait(start: Start) -> None:
    session, _ = start({"steps": {"preview": 0.2}})
    calls = [session.preview("ct", prompts(), "liver", 5) for _ in range(6)]
    other = session.preview("ct", prompts("spleen"), "spleen", 5)
    kept = session.preview("ct", prompts("spleen"), "spleen", 5, replaces=False)
    finished(session, kept)
    assert calls[-1].state == other.state == "done"
    assert sum(call.state == "cancelled" for call in calls[:-1]) >= 4
    assert all(call.is_finished for call in calls)


def test_cancelling_keeps_the_finished_frames(start: Start) -> None:
    session, workers = start({"hold": {"after": 3}})
    run = session.propagate("ct", prompts())
    assert soon(lambda: bool(session.poll()) and len(run.frames) >= 2, 30)
    session.cancel()
    session.cancel(run)
    finished(session, run, "cancelled")
    assert run.error is None and 2 <= len(run.masks) < FRAMES
    check_masks(run)
    rest = session.propagate("ct", prompts())
    finished(session, rest)
    assert set(rest.masks) | set(run.masks) == {("liver", frame) for frame in range(FRAMES)}
    assert not set(rest.masks) & set(run.masks) and len(workers.started) == 1
    session.cancel(rest)
    assert rest.state == "done" and soon(lambda: not session.poll() and not session.is_waiting)


def test_a_mask_of_another_size_than_the_frames_ends_the_worker_and_not_the_work(start: Start) -> None:
    session, workers = start({"trouble": {"propagate": ["other_size", 2]}}, {})
    run = session.propagate("ct", prompts())
    finished(session, run, "failed")
    assert run.error is not None and run.error.code == "protocol_broken"
    assert "(9000, 9000)" in run.error.sentence and len(run.frames) == 2
    check_masks(run)
    rest = session.propagate("ct", prompts())
    finished(session, rest)
    assert len(rest.frames) == FRAMES and len(workers.started) == 2


def test_a_preview_during_a_run_does_not_wait_for_its_end(start: Start, tmp_path: Path) -> None:
    session, _ = start({"hold": {"after": 2, "until": str(tmp_path / "go")}})
    run = session.propagate("ct", prompts())
    assert soon(lambda: bool(session.poll()) and len(run.frames) >= 2, 30)
    preview = session.preview("ct", prompts(), "liver", 5)
    finished(session, preview)
    assert not run.is_finished
    (tmp_path / "go").touch()
    finished(session, run)
    assert len(run.masks) == FRAMES


def test_bad_prompts_fail_the_call_with_the_users_error(start: Start) -> None:
    session, _ = start()
    run = session.propagate("ct", PromptSet(), ("liver",))
    finished(session, run, "failed")
    with pytest.raises(InputError) as caught:
        run.raise_error()
    assert caught.value.code == "no_prompts"
    finished(session, session.propagate("ct", prompts()))


def test_a_model_that_cannot_be_loaded_is_the_error_of_what_needed_it(start: Start) -> None:
    session, _ = start({"trouble": {"load": ["input", 0]}})
    preview = session.preview("ct", prompts(), "liver", 5)
    finished(session, preview, "failed")
    assert preview.error is not None and preview.error.code == "bad_input_size"
    # Each request tries again: the cause may be gone.
    again = session.preview("ct", prompts(), "liver", 5)
    finished(session, again, "failed")
    assert again.error is not None and again.error.code == "bad_input_size"


def test_a_volume_that_cannot_be_opened_is_the_error_of_what_needed_it(start: Start, tmp_path: Path) -> None:
    session, _ = start(ready=False)
    session.load_model(MODEL)
    session.open_volume("flat", np.zeros((12, 40, 50), np.int16), GEOMETRY, axis=2, window=WINDOW)
    run = session.propagate("flat", prompts())
    finished(session, run, "failed")
    assert run.error is not None and run.error.code == "constant_volume"
    finished(session, session.close_volume("flat"))
    assert shared_files([tmp_path]) == []


def test_what_is_plainly_wrong_is_refused_at_once(start: Start) -> None:
    session, workers = start(ready=False)
    with pytest.raises(SAM2PropagateError) as caught:
        session.preview("ct", prompts(), "liver", 5)
    assert caught.value.code == "unknown_volume"
    with pytest.raises(InputError):
        session.open_volume("ct", np.zeros((3, 4)), GEOMETRY, axis=2, window=WINDOW)
    with pytest.raises(InputError):
        session.open_volume("ct", np.zeros((3, 4, 5), complex), GEOMETRY, axis=2, window=WINDOW)
    with pytest.raises(SAM2PropagateError):
        session.open_volume("x", volume_array(), GEOMETRY, axis=2, window=WINDOW, voxels_of="none")
    assert workers.started == [] and session.volumes == ()
    session.open_volume("ct", volume_array(), GEOMETRY, axis=2, window=WINDOW)
    with pytest.raises(SAM2PropagateError) as caught:
        session.preview("ct", prompts(), "liver", 5)
    assert caught.value.code == "no_model"


def test_a_full_disk_fails_the_call_not_the_session(start: Start, tmp_path: Path) -> None:
    class Disk(SharedFolder):
        is_full = True

        def write(self, array: Any) -> Any:
            if self.is_full:
                raise SAM2PropagateError("disk_full", "There is no room.", "Free some.")
            return super().write(array)

    disk = Disk([tmp_path])
    session, _ = start(ready=False, folder=disk)
    session.load_model(MODEL)
    session.open_volume("ct", volume_array(), GEOMETRY, axis=2, window=WINDOW)
    run = session.propagate("ct", prompts())
    finished(session, run, "failed")
    assert run.error is not None and run.error.code == "disk_full"
    disk.is_full = False
    finished(session, session.propagate("ct", prompts()))


def test_a_worker_that_cannot_be_started_is_told_at_once(tmp_path: Path) -> None:
    session = WorkerSession(
        WorkerCommand(("/no/such/python", "-m", "x"), {}), folder=SharedFolder([tmp_path])
    )
    with pytest.raises(SAM2PropagateError) as caught:
        session.load_model(MODEL)
    assert caught.value.code == "worker_not_started"
    session.close()


def test_a_python_without_the_library_is_told(tmp_path: Path) -> None:
    command = WorkerCommand((sys.executable, "-S", "-m", "SAM2PropagateLib.worker"), {}, tmp_path)
    with WorkerSession(command, folder=SharedFolder([tmp_path])) as session:
        call = session.load_model(MODEL)
        finished(session, call, "failed")
        assert call.error is not None and call.error.code == "worker_not_started"
        assert "SAM2PropagateLib" in call.error.sentence
    assert own_threads() == []


def test_the_log_says_what_the_worker_printed(tmp_path: Path) -> None:
    log_file = tmp_path / "worker.log"
    command = replace(fake_command({"children": ["group"]}), log_file=log_file)
    with WorkerSession(command, folder=SharedFolder([tmp_path])) as session:
        finished(session, session.load_model(MODEL))
        assert soon(lambda: any(line.startswith("child") for line in session.log))
    assert "child" in log_file.read_text(encoding="utf-8")


# --- payloads instead of shared memory, as on another machine


def test_without_shared_memory_everything_works_the_same(start: Start, tmp_path: Path) -> None:
    session, workers = start(is_remote=True)
    run = session.propagate("ct", prompts())
    finished(session, run)
    check_masks(run)
    assert len(run.masks) == FRAMES and list(tmp_path.iterdir()) == []
    session.stop_worker()
    again = session.propagate("ct", prompts())
    finished(session, again)
    check_masks(again)
    assert len(workers.started) == 2


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for ssh is a POSIX shell script")
def test_through_ssh_a_worker_elsewhere_does_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stand-in for ssh that greets, then runs the command in an empty environment as the remote shell would.
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    lines = (
        "#!/bin/sh",
        "for last; do :; done",
        'echo "Welcome to gpu1"',
        'exec env -i PATH=/usr/bin:/bin sh -c "$last"',
    )
    ssh.write_text("\n".join(lines), encoding="utf-8")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "library"
    folder.mkdir()
    for name, target in (
        ("SAM2PropagateLib", LIBRARY_FOLDER / "SAM2PropagateLib"),
        ("Testing", ROOT / "Testing"),
    ):
        (folder / name).symlink_to(target)
    command = worker_command(
        remote=Remote("me@gpu1", sys.executable, str(folder)), module="Testing.worker.fake_worker"
    )
    shared = tmp_path / "shared"
    shared.mkdir()
    with WorkerSession(command, folder=SharedFolder([shared])) as session:
        session.load_model(MODEL)
        session.open_volume("ct", volume_array(), GEOMETRY, axis=2, window=WINDOW)
        run = session.propagate("ct", prompts())
        finished(session, run)
        check_masks(run)
        assert "Welcome to gpu1" in session.log and list(shared.iterdir()) == []
    assert own_threads() == []


# --- the end


def test_closing_ends_the_worker_its_threads_and_files(start: Start, tmp_path: Path) -> None:
    session, workers = start({"children": ["group", "session"]}, deadlines=Deadlines(shutdown=60.0))
    finished(session, session.preview("ct", prompts(), "liver", 5))
    # The log comes through a pipe and a thread of its own.
    assert soon(lambda: len(children(session.log)) == 2)
    pids = [*workers.pids, *children(session.log)]
    assert len(own_threads()) == 3
    session.close()
    assert own_threads() == []
    assert soon(lambda: not any(map(is_running, pids)))
    assert shared_files([tmp_path]) == [] and workers.started[0].exit_code == 0


def test_closing_during_a_run_fails_it_and_keeps_its_frames(start: Start) -> None:
    session, workers = start({"hold": {"after": 1}}, deadlines=Deadlines(shutdown=60.0))
    run = session.propagate("ct", prompts())
    assert soon(lambda: bool(session.poll()) and len(run.frames) >= 1)
    session.close()
    session.poll()
    assert run.state in ("failed", "cancelled") and len(run.masks) >= 1
    assert workers.started[0].exit_code == 0
    session.close()


def test_a_worker_that_will_not_end_is_killed_on_closing(start: Start) -> None:
    session, workers = start({"trouble": {"preview": ["hang", 0]}}, deadlines=Deadlines(shutdown=0.3))
    preview = session.preview("ct", prompts(), "liver", 5)
    time.sleep(0.5)
    session.close()
    assert own_threads() == [] and not is_running(workers.pids[0])
    session.poll()
    assert preview.state == "failed"


# --- what it costs the caller


def test_a_frame_costs_the_caller_little(tmp_path: Path) -> None:
    rows = columns = 512
    frames = 300
    rng = np.random.default_rng(0)
    array = np.zeros((frames, rows, columns), np.uint8)
    array[:, 100:400, 120:420] = rng.integers(150, 200, (frames, 300, 300), np.uint8)
    geometry = VolumeGeometry((columns, rows, frames), np.diag([-1.0, -1.0, 1.0, 1.0]))
    from SAM2PropagateLib.prompts.values import Click

    point = geometry.ras_of_pixel(200, 200, 150, 2)
    said = PromptSet().add("liver", Click("c", (float(point[0]), float(point[1]), float(point[2]))))
    preview_layer = np.zeros(array.shape, np.uint8)
    with WorkerSession(Workers(), folder=SharedFolder([tmp_path])) as session:
        session.load_model(MODEL)
        # Time of this thread: what other processes take does not count.
        started = time.thread_time()
        opened = session.open_volume("ct", array, geometry, axis=2, window=Window(256, 128))
        held_by_opening = 1000 * (time.thread_time() - started)
        finished(session, opened)
        run = session.propagate("ct", said)
        held: list[float] = []
        while not run.is_finished:
            started = time.thread_time()
            updates = session.poll()
            polled = time.thread_time() - started
            new = [update.event for update in updates if isinstance(update.event, FrameEvent)]
            for event in new:
                started = time.thread_time()
                preview_layer[event.frame] = event.mask
                held.append(1000 * (time.thread_time() - started + polled / len(new)))
            time.sleep(0.005)
    assert run.state == "done" and len(held) == frames
    median, worst = float(np.median(held)), float(np.percentile(held, 99))
    print(
        f"\nheld by opening {held_by_opening:.1f} ms; per frame 512 x 512: median {median:.3f} ms, ", end=""
    )
    print(f"99th percentile {worst:.3f} ms")
    assert median < 5.0 and held_by_opening < 100
