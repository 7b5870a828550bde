"""The worker process, asked directly: a real process, the scripted engine, no session in between."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.packed_masks import pack
from SAM2PropagateLib.prompts.document import to_document
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import Click, FrameMark, FrameRange, PromptSet
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.worker.messages import (
    PROTOCOL_VERSION,
    Cancel,
    CloseVolume,
    DoneEvent,
    ErrorEvent,
    Event,
    FrameEvent,
    Hello,
    LoadModel,
    LogEvent,
    OpenVolume,
    Preview,
    ProgressEvent,
    Propagate,
    ReadyEvent,
    Request,
    SetWindow,
    Shutdown,
    parse_event,
)
from SAM2PropagateLib.worker.server import EXIT_ABANDONED, WorkerServer
from SAM2PropagateLib.worker.transport import PopenTransport
from SAM2PropagateLib.worker.voxels import CODEC, compress
from SAM2PropagateLib.worker.wire import Message
from Testing.worker.fake_engine import FakeEngine, fake_mask
from Testing.worker.forked import SCRIPTED, forks
from Testing.worker.helpers import (
    FRAMES,
    GEOMETRY,
    WINDOW,
    fake_command,
    is_running,
    own_threads,
    prompts,
    ras,
    soon,
    stack,
    volume_array,
)

LOAD = LoadModel(name="fake", encode_ahead=False)


class Direct:
    """A worker and the plain messages to and from it."""

    def __init__(self, script: Mapping[str, Any] | None = None, **variables: str) -> None:
        self.transport = PopenTransport(fake_command(script, **variables), popen=forks(SCRIPTED))
        self.transport.start()
        self.events: list[Event] = []
        self._next = 0

    def send(self, request: Request, payload: bytes = b"") -> int:
        self._next += 1
        self.transport.send(self._next, Message(request.header(self._next), payload))
        return self._next

    def send_raw(self, header: Mapping[str, Any]) -> None:
        self.transport.send(0, Message(header))

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            self.events += [parse_event(message) for message in self.transport.receive()]
            assert not (self.transport.has_ended and not condition()), self.transport.log
            assert time.monotonic() < end, (self.events[-3:], self.transport.log[-5:])
            if not condition():
                self.transport.wait(0.05)

    def of(self, request_id: int | None) -> list[Event]:
        return [event for event in self.events if event.request == request_id]

    def answer(self, request_id: int) -> DoneEvent | ErrorEvent:
        """The last event of a request, waited for."""

        def found() -> list[DoneEvent | ErrorEvent]:
            return [event for event in self.of(request_id) if isinstance(event, DoneEvent | ErrorEvent)]

        self.until(lambda: bool(found()))
        assert len(found()) == 1
        return found()[0]

    def ask(self, request: Request, payload: bytes = b"") -> DoneEvent | ErrorEvent:
        return self.answer(self.send(request, payload))

    def frames(self, request_id: int) -> list[FrameEvent]:
        return [event for event in self.of(request_id) if isinstance(event, FrameEvent)]

    def get_ready(self) -> None:
        """Greeted, a model loaded, the volume "ct" open."""
        self.send(Hello())
        assert isinstance(self.ask(LOAD), DoneEvent)
        assert isinstance(self.ask(*opening()), DoneEvent)


def opening(name: str = "ct", array: Any = None, **changes: Any) -> tuple[OpenVolume, bytes]:
    """A volume as a payload."""
    array = volume_array() if array is None else array
    request = OpenVolume(
        name,
        GEOMETRY.to_dict(),
        array.dtype.str,
        array.shape,
        {"kind": "payload", "codec": CODEC},
        (WINDOW.width, WINDOW.level),
        2,
    )
    return replace(request, **changes), compress(array)


def preview(frame: int = 5, said: PromptSet | None = None, volume: str = "ct") -> Preview:
    return Preview(volume, to_document(said or prompts("liver", frame=frame)), "liver", frame)


def run(*segments: str, said: PromptSet | None = None, **options: Any) -> Propagate:
    names = segments or ("liver",)
    return Propagate("ct", to_document(said or prompts(*names)), names, RunOptions(**options))


def expected(frame: int, said: PromptSet, segment: str = "liver", window: Window = WINDOW) -> Any:
    resolved = resolve(said.segment(segment), GEOMETRY, 2)
    mark = "".join(resolved.keyframes[key].fingerprint for key in sorted(resolved.keyframes))
    return fake_mask(stack(window=window).frame(frame), segment, mark)


@pytest.fixture
def start() -> Iterator[Callable[..., Direct]]:
    started: list[Direct] = []

    def make(script: Mapping[str, Any] | None = None, is_ready: bool = True, **variables: str) -> Direct:
        started.append(Direct(script, **variables))
        if is_ready:
            started[-1].get_ready()
        return started[-1]

    yield make
    for one in started:
        one.transport.close(0.0)


Start = Callable[..., Direct]


# --- the start


def test_the_server_answers_hello_with_its_version(start: Start) -> None:
    worker = start(is_ready=False)
    request_id = worker.send(Hello())
    worker.until(lambda: bool(worker.of(request_id)))
    ready = worker.events[0]
    assert isinstance(ready, ReadyEvent)
    assert ready.protocol == PROTOCOL_VERSION and is_running(ready.pid) and ready.python.count(".") == 2


def test_another_version_and_no_hello_are_refused_clearly(start: Start) -> None:
    worker = start(is_ready=False)
    for request in (LOAD, Hello(protocol=99), LOAD):
        answer = worker.ask(request)
        assert isinstance(answer, ErrorEvent) and answer.error.code == "protocol_mismatch"
        assert "same version" in answer.error.hint
    assert "99" in str(worker.events[1].error)  # type: ignore[attr-defined]
    worker.send(Hello())
    assert isinstance(worker.ask(LOAD), DoneEvent)


def test_bad_messages_are_answered_and_do_no_harm(start: Start) -> None:
    worker = start()
    worker.send_raw({"type": "dance", "id": 900})
    worker.send_raw({"type": "preview", "id": 901, "volume": 3})
    worker.send_raw({"no": "sense"})
    assert isinstance(worker.ask(preview()), DoneEvent)
    told = {event.request: event.error.code for event in worker.events if isinstance(event, ErrorEvent)}
    assert told == {900: "bad_message", 901: "bad_message", None: "bad_message"}


# --- volumes and models


def test_a_preview_shows_the_right_frame_through_the_window(start: Start) -> None:
    worker = start()
    request_id = worker.send(preview(frame=7))
    assert worker.answer(request_id).request == request_id
    (frame,) = worker.frames(request_id)
    said = prompts("liver", frame=7)
    assert (frame.volume, frame.segment, frame.frame, frame.kind) == ("ct", "liver", 7, "preview")
    assert np.array_equal(frame.mask, expected(7, said))
    assert frame.predicted_iou == pytest.approx(0.9) and frame.object_score is None
    narrow = Window(60.0, 80.0)
    assert isinstance(worker.ask(SetWindow("ct", (60.0, 80.0))), DoneEvent)
    second = worker.send(preview(frame=7))
    worker.answer(second)
    assert np.array_equal(worker.frames(second)[0].mask, expected(7, said, window=narrow))
    assert not np.array_equal(worker.frames(second)[0].mask, frame.mask)


def test_edges_travel_only_when_they_are_asked_for(start: Start) -> None:
    worker = start()
    for edges in (False, True):
        for request in (replace(preview(frame=7), edges=edges), run(edges=edges, everything=True)):
            request_id = worker.send(request)
            worker.answer(request_id)
            for frame in worker.frames(request_id):
                assert (frame.edge is not None) == edges
                if frame.edge is not None:
                    distances, is_known = frame.edge.unpack()
                    np.testing.assert_array_equal(distances > 0, frame.mask)
                    assert is_known.all()


def test_a_mask_that_was_withheld_travels_with_its_empty_frame(start: Start) -> None:
    worker = start({"withheld": {"2": True, "3": False}})
    request_id = worker.send(run())
    worker.answer(request_id)
    frames = {frame.frame: frame for frame in worker.frames(request_id)}
    assert {number for number, frame in frames.items() if frame.withheld is not None} == {2}
    assert frames[2].mask.sum() == frames[3].mask.sum() == 0
    assert frames[2].withheld is not None and frames[2].withheld.unpack().any()


def test_a_volume_may_come_before_the_model(start: Start) -> None:
    worker = start(is_ready=False)
    worker.send(Hello())
    assert worker.ask(*opening()) == DoneEvent(2, {"frames": FRAMES})
    answer = worker.ask(preview())
    assert isinstance(answer, ErrorEvent) and answer.error.code == "no_model"
    assert worker.ask(LOAD).result["device"] == "cpu"  # type: ignore[union-attr]
    assert isinstance(worker.ask(preview()), DoneEvent)


def test_several_axes_share_one_volume(start: Start) -> None:
    worker = start()
    other, _ = opening("ct-i", source={"kind": "volume", "volume": "ct"}, axis=0)
    assert worker.ask(other).result == {"frames": GEOMETRY.shape_ijk[0]}  # type: ignore[union-attr]
    assert isinstance(worker.ask(CloseVolume("ct")), DoneEvent)
    said = PromptSet().add("liver", Click("c", ras(10, 12, 5)))
    request_id = worker.send(preview(frame=10, said=said, volume="ct-i"))
    assert isinstance(worker.answer(request_id), DoneEvent)
    assert worker.frames(request_id)[0].mask.shape == (FRAMES, GEOMETRY.shape_ijk[1])


def test_volumes_that_differ_cannot_share(start: Start) -> None:
    worker = start()
    for changes in ({"shape": (3, 4, 5)}, {"dtype": "<f4"}):
        other, _ = opening("x", **{"source": {"kind": "volume", "volume": "ct"}, **changes})
        answer = worker.ask(other)
        assert isinstance(answer, ErrorEvent) and answer.error.code == "volume_data"


def test_a_volume_that_cannot_be_opened_leaves_the_former_one(start: Start) -> None:
    worker = start()
    cases: list[tuple[OpenVolume, bytes, str]] = [
        (*opening(array=np.zeros((12, 40, 50), np.int16)), "constant_volume"),
        (opening()[0], b"nonsense", "volume_data"),
        (*opening(window=(0.0, 5.0)), "bad_window"),
        (*opening(axis=3), "bad_axis"),
        (*opening(geometry={"shape_ijk": [1, 2, 3]}), ""),
        (*opening(source={"kind": "shared", "path": "/no/such/file"}), "volume_data"),
        (*opening(source={"kind": "http", "url": "http://x"}), "bad_message"),
        (*opening(source={"kind": "payload", "codec": "pickle"}), "bad_message"),
    ]
    for request, payload, code in cases:
        answer = worker.ask(request, payload)
        assert isinstance(answer, ErrorEvent), request
        assert answer.error.code == code or not code, answer.error
        assert answer.error.code != "internal" and "Traceback" not in str(answer.error)
    assert isinstance(worker.ask(preview()), DoneEvent)


def test_unknown_volumes_are_told(start: Start) -> None:
    worker = start()
    for request in (preview(volume="mr"), CloseVolume("mr"), SetWindow("mr", (1, 2))):
        answer = worker.ask(request)
        assert (
            isinstance(answer, ErrorEvent)
            and answer.error.code == "unknown_volume"
            and "mr" in str(answer.error)
        )


def test_another_model_takes_over_the_open_volumes(start: Start) -> None:
    worker = start()
    assert isinstance(worker.ask(LoadModel(name="other", encode_ahead=False)), DoneEvent)
    assert isinstance(worker.ask(preview()), DoneEvent)


# --- previews and runs


def test_a_run_brings_each_frame_once_and_then_its_summary(start: Start) -> None:
    worker = start()
    said = prompts("liver", "spleen")
    request_id = worker.send(run("liver", "spleen", said=said))
    answer = worker.answer(request_id)
    assert isinstance(answer, DoneEvent) and not answer.cancelled
    assert answer.result["frames_written"] == 2 * FRAMES and answer.result["seconds"] >= 0
    frames = worker.frames(request_id)
    assert sorted((f.segment, f.frame) for f in frames) == [
        (segment, frame) for segment in ("liver", "spleen") for frame in range(FRAMES)
    ]
    for frame in frames:
        assert np.array_equal(frame.mask, expected(frame.frame, said, frame.segment))
    progress = [event for event in worker.of(request_id) if isinstance(event, ProgressEvent)]
    assert progress[0].done == 0 and progress[0].total == 2 * FRAMES and progress[0].frames_per_second is None
    assert progress[-1].done == progress[-1].total == 2 * FRAMES and progress[-1].seconds_left == 0
    assert (progress[-1].frames_per_second or 0) > 0
    assert worker.of(request_id)[-1] is answer


def test_a_run_again_computes_what_changed(start: Start) -> None:
    worker = start()
    options: list[dict[str, bool]] = [{}, {}, {"everything": True}, {"anew": True}]
    runs = [worker.send(run(**given)) for given in options]
    worker.answer(runs[-1])
    assert [len(worker.frames(one)) for one in runs] == [FRAMES, 0, FRAMES, FRAMES]


def test_reach_range_and_locks_arrive(start: Start) -> None:
    worker = start()
    request_id = worker.send(run(reach=2))
    worker.answer(request_id)
    assert sorted(f.frame for f in worker.frames(request_id)) == [3, 4, 5, 6, 7]
    said = prompts("liver")
    said = said.add("liver", FrameRange(ras(1, 1, 2), ras(1, 1, 8)))
    said = said.with_segment(replace(said.segment("liver"), locks=(FrameMark("l", ras(1, 1, 4)),)))
    request_id = worker.send(run(said=said, everything=True))
    worker.answer(request_id)
    assert sorted(f.frame for f in worker.frames(request_id)) == [2, 3, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (preview(said=PromptSet()), "no_prompts"),
        (Preview("ct", to_document(prompts("liver", frame=3)), "liver", 5), "no_prompts"),
        (
            preview(said=PromptSet().add("liver", Click("c", ras(10, 12, 5), positive=False))),
            "only_negative_clicks",
        ),
        (preview(said=PromptSet().add("liver", Click("c", (1e6, 0.0, 0.0)))), "outside_volume"),
        (Preview("ct", {"format": "other"}, "liver", 5), "bad_document"),
        (Propagate("ct", to_document(prompts()), ()), "no_prompts"),
        (Propagate("ct", to_document(PromptSet()), ("liver",)), "no_prompts"),
    ],
)
def test_bad_prompts_are_refused_with_a_sentence(start: Start, request_: Request, code: str) -> None:
    worker = start()
    answer = worker.ask(request_)
    assert isinstance(answer, ErrorEvent) and isinstance(answer.error, InputError)
    assert answer.error.code == code and answer.error.sentence.endswith(".")


def test_a_preview_is_served_between_two_steps_of_a_run(start: Start, tmp_path: Path) -> None:
    worker = start({"hold": {"after": 2, "until": str(tmp_path / "go")}})
    run_id = worker.send(run())
    worker.until(lambda: len(worker.frames(run_id)) >= 2)
    preview_id = worker.send(preview(frame=9))
    bad_id = worker.send(preview(volume="mr"))
    worker.answer(bad_id)
    (tmp_path / "go").touch()
    worker.answer(run_id)
    order = [(type(event), event.request) for event in worker.events]
    assert order.index((DoneEvent, preview_id)) < order.index((DoneEvent, run_id))
    assert order.index((ErrorEvent, bad_id)) < order.index((DoneEvent, run_id))
    assert np.array_equal(worker.frames(preview_id)[0].mask, expected(9, prompts("liver", frame=9)))
    assert len(worker.frames(run_id)) == FRAMES


def test_another_axis_can_be_opened_and_previewed_during_a_run(start: Start, tmp_path: Path) -> None:
    worker = start({"hold": {"after": 1, "until": str(tmp_path / "go")}})
    run_id = worker.send(run())
    worker.until(lambda: bool(worker.frames(run_id)))
    other, _ = opening("ct-i", source={"kind": "volume", "volume": "ct"}, axis=0)
    opened = worker.send(other)
    said = PromptSet().add("liver", Click("c", ras(10, 12, 5)))
    shown = worker.send(preview(frame=10, said=said, volume="ct-i"))
    worker.answer(shown)
    (tmp_path / "go").touch()
    worker.answer(run_id)
    order = [(type(event), event.request) for event in worker.events]
    assert (
        order.index((DoneEvent, opened)) < order.index((DoneEvent, shown)) < order.index((DoneEvent, run_id))
    )


def test_nothing_overtakes_what_must_wait_for_the_run(start: Start, tmp_path: Path) -> None:
    worker = start({"hold": {"after": 1, "until": str(tmp_path / "go")}})
    run_id = worker.send(run())
    worker.until(lambda: bool(worker.frames(run_id)))
    window_id = worker.send(SetWindow("ct", (60.0, 80.0)))
    preview_id = worker.send(preview(frame=7))
    (tmp_path / "go").touch()
    worker.answer(preview_id)
    order = [(type(event), event.request) for event in worker.events]
    assert order.index((DoneEvent, run_id)) < order.index((DoneEvent, window_id))
    shown = worker.frames(preview_id)[0].mask
    assert np.array_equal(shown, expected(7, prompts("liver", frame=7), window=Window(60.0, 80.0)))
    assert all(np.array_equal(f.mask, expected(f.frame, prompts())) for f in worker.frames(run_id))


# --- cancelling


def test_cancel_ends_a_run_between_two_frames_and_the_frames_stay_finished(start: Start) -> None:
    worker = start({"hold": {"after": 3}})
    run_id = worker.send(run())
    worker.until(lambda: len(worker.frames(run_id)) >= 3)
    cancel_id = worker.send(Cancel(run_id))
    answer, said = worker.answer(run_id), worker.answer(cancel_id)
    assert isinstance(answer, DoneEvent) and answer.cancelled and said.result == {"known": True}  # type: ignore[union-attr]
    count = len(worker.frames(run_id))
    assert 3 <= count < FRAMES and answer.result["frames_written"] == count
    order = [(type(event), event.request) for event in worker.events]
    assert order.index((DoneEvent, run_id)) < order.index((DoneEvent, cancel_id))
    rest = worker.send(run())
    worker.answer(rest)
    assert len(worker.frames(rest)) == FRAMES - count


def test_what_waits_is_cancelled_at_once(start: Start) -> None:
    worker = start({"steps": {"preview": 0.6}})
    first, second, third = (worker.send(preview(frame=n)) for n in (3, 4, 5))
    cancel_id = worker.send(Cancel(second))
    assert worker.answer(second).cancelled  # type: ignore[union-attr]
    assert worker.answer(cancel_id).result == {"known": True}  # type: ignore[union-attr]
    assert not any(isinstance(event, DoneEvent) for event in worker.of(first))
    assert not worker.answer(third).cancelled and not worker.answer(first).cancelled  # type: ignore[union-attr]
    assert worker.frames(second) == [] and len(worker.frames(third)) == 1


def test_cancelling_what_is_not_there_is_answered(start: Start) -> None:
    worker = start()
    done = worker.send(preview())
    # One after the other: when the second is answered, the first is not only answered but put away.
    worker.answer(worker.send(preview()))
    for target in (done, 12345):
        assert worker.ask(Cancel(target)).result == {"known": False}  # type: ignore[union-attr]


def test_loading_is_cancelled_at_its_next_progress(start: Start) -> None:
    worker = start({"steps": {"load": 2.0}}, is_ready=False)
    worker.send(Hello())
    load_id = worker.send(LOAD)
    worker.until(lambda: bool(worker.of(load_id)))
    worker.send(Cancel(load_id))
    assert worker.answer(load_id).cancelled  # type: ignore[union-attr]
    worker.ask(*opening())
    answer = worker.ask(preview())
    assert isinstance(answer, ErrorEvent) and answer.error.code == "no_model"


# --- idle


def test_idle_the_frames_around_a_preview_are_prepared_until_asked(start: Start) -> None:
    worker = start({"steps": {"ahead": 0.4}}, is_ready=False)
    worker.send(Hello())
    worker.send(LoadModel(name="fake"))
    worker.ask(*opening())
    worker.ask(preview())
    counts: list[float] = []

    def has_begun() -> bool:
        second = worker.send(preview())
        worker.answer(second)
        counts.append(worker.frames(second)[0].doubt or 0.0)
        return counts[-1] >= 1

    assert soon(has_begun) and counts[-1] < FRAMES
    assert soon(lambda: _prepared(worker) == FRAMES)


def _prepared(worker: Direct) -> float:
    # The scripted engine tells by the doubt how many frames it has prepared.
    request_id = worker.send(preview())
    worker.answer(request_id)
    time.sleep(0.3)
    return worker.frames(request_id)[0].doubt or 0.0


def test_no_frames_are_prepared_unless_asked_for(start: Start) -> None:
    worker = start()
    worker.ask(preview())
    time.sleep(0.1)
    assert _prepared(worker) == 0


def test_an_error_while_idle_is_only_logged(start: Start) -> None:
    worker = start({"trouble": {"ahead": ["value", 0]}}, is_ready=False)
    worker.send(Hello())
    worker.send(LoadModel(name="fake"))
    worker.ask(*opening())
    worker.ask(preview())
    worker.until(lambda: any(isinstance(event, LogEvent) for event in worker.events))
    assert isinstance(worker.ask(preview()), DoneEvent)


# --- the end


def test_shutdown_ends_it_even_during_a_run(start: Start) -> None:
    worker = start({"hold": {"after": 1}})
    run_id = worker.send(run())
    worker.until(lambda: bool(worker.frames(run_id)))
    shutdown = worker.send(Shutdown())
    worker.until(lambda: worker.transport.has_ended)
    worker.events += [parse_event(message) for message in worker.transport.receive()]
    assert worker.transport.exit_code == 0
    assert worker.answer(shutdown) == DoneEvent(shutdown)
    assert worker.answer(run_id).cancelled  # type: ignore[union-attr]


@pytest.mark.parametrize("banner", ["Welcome to gpu1!\nLast login: today", "S2P is not a frame"])
def test_a_banner_before_the_protocol_goes_to_the_log(start: Start, banner: str) -> None:
    worker = start(SAM2PROPAGATE_BANNER=banner)
    assert isinstance(worker.ask(preview()), DoneEvent)
    assert banner.splitlines()[0] in worker.transport.log


def test_no_port_is_open_and_the_pipe_is_not_inherited(start: Start) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("looks into /proc, which this system lacks")
    worker = start({"children": ["group"]})
    links = _descriptors(worker.transport.pid)
    assert links and not any(link.startswith("socket:") for link in links)
    # The log comes through a thread of its own.
    assert soon(lambda: any(line.startswith("child") for line in worker.transport.log))
    child = next(line for line in worker.transport.log if line.startswith("child"))
    # That of the log is for the worker's children, too.
    log = str(Path(f"/proc/{worker.transport.pid}/fd/2").readlink())
    ours = {one for one in links & _descriptors(os.getpid()) if one.startswith("pipe:")} - {log}
    assert len(ours) == 2 and not ours & _descriptors(int(child.split()[1]))


def _descriptors(pid: int) -> set[str]:
    """What the process has open; what is closed meanwhile is left out."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(entry.readlink()))
    return found


def test_masks_need_few_bytes() -> None:
    mask = np.zeros((512, 512), bool)
    mask[200:300, 180:320] = True
    assert len(pack(mask).bits) < 2000


class _Silent:
    """A client that neither says anything nor closes its end, until `says`."""

    def __init__(self) -> None:
        self.says = threading.Event()

    def readinto(self, _buffer: Any, /) -> int:
        self.says.wait()
        return 0


def test_a_server_that_hears_nothing_from_a_client_elsewhere_ends() -> None:
    silent = _Silent()
    server = WorkerServer(FakeEngine({}, io.BytesIO()), silent, io.BytesIO(), silence_seconds=0.05)
    try:
        assert server.serve() == EXIT_ABANDONED
    finally:
        silent.says.set()
    assert soon(lambda: own_threads() == [])
