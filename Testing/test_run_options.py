"""What a run is to do: the values, and that a new one travels through parts that do not know it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.prompts.document import to_document
from SAM2PropagateLib.run_options import BACKWARD, RunOptions, RunRequest
from SAM2PropagateLib.segment_job import JobOptions, run_segment_job
from SAM2PropagateLib.worker import messages
from SAM2PropagateLib.worker.engine_port import Crop, ServedSession
from SAM2PropagateLib.worker.messages import Hello, LoadModel, OpenVolume, Propagate, Request
from SAM2PropagateLib.worker.server import WorkerServer
from SAM2PropagateLib.worker.voxels import CODEC, compress
from SAM2PropagateLib.worker.wire import Message, MessageReader, write_message
from Testing.cli.fake_session import FakeJobSession
from Testing.worker.fake_engine import FakeEngine, FakeEngineSession
from Testing.worker.helpers import GEOMETRY, WINDOW, prompts, volume_array


@dataclass(frozen=True)
class WithTaste(RunOptions):
    """As if a field had been added."""

    taste: str = "plain"
    is_sweet: bool = False


MINT = WithTaste(direction=BACKWARD, reach=3, taste="mint", is_sweet=True)


FULL = RunOptions(BACKWARD, 4, True, True, True, True, {"liver": (0, 7), "spleen": ()})


@pytest.mark.parametrize("options", [RunOptions(), FULL, MINT])
def test_options_come_back_from_the_wire_as_they_were(options: RunOptions) -> None:
    values = json.loads(json.dumps(options.to_wire()))
    assert type(options).from_wire(values) == options and hash(options) is not None


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"direction": "sideways"}, "unknown_direction"),
        ({"direction": ["both"]}, "unknown_direction"),
        ({"reach": 0}, "bad_reach"),
        ({"reach": -3}, "bad_reach"),
        ({"reach": 2.5}, "bad_reach"),
        ({"reach": True}, "bad_reach"),
        ({"reach": "2"}, "bad_reach"),
        ({"everything": 1}, "bad_run_option"),
        ({"anew": None}, "bad_run_option"),
        ({"edges": "yes"}, "bad_run_option"),
        ({"all_axes": "all"}, "bad_run_option"),
        ({"taste": "mint"}, "bad_run_option"),
        ({"filled": [3]}, "bad_run_option"),
        ({"filled": {"liver": 3}}, "bad_run_option"),
        ({"filled": {"liver": [-1]}}, "bad_run_option"),
        ({"filled": {"liver": [True]}}, "bad_run_option"),
        (["both"], "bad_run_option"),
    ],
)
def test_bad_options_get_a_sentence(values: Any, code: str) -> None:
    with pytest.raises(InputError) as refused:
        RunOptions.from_wire(values)
    assert refused.value.code == code and refused.value.sentence.endswith(".") and refused.value.hint


def test_the_checks_hold_for_a_field_that_is_added() -> None:
    with pytest.raises(InputError, match="is_sweet"):
        WithTaste(is_sweet=1)  # type: ignore[arg-type]


class NotingSession(FakeEngineSession):
    """Notes what it is asked for."""

    asked: tuple[RunRequest, ...] = ()

    def propagate(
        self, run: RunRequest, on_frame: Callable[[Any], None], between: Callable[[float], None]
    ) -> Mapping[str, Any]:
        type(self).asked += (run,)
        return {}


class NotingEngine(FakeEngine):
    """Opens `NotingSession`s."""

    def open(self, frames: FrameStack, crop: Crop) -> ServedSession:
        return NotingSession(self, frames, crop)


def piped() -> tuple[Any, Any]:
    """The ends of a pipe: what is written into the second comes out of the first."""
    read, write = os.pipe()
    return os.fdopen(read, "rb", buffering=0), os.fdopen(write, "wb", buffering=0)


def test_a_field_that_is_added_reaches_the_engine_over_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "RunOptions", WithTaste)
    monkeypatch.setattr(NotingSession, "asked", ())
    array = volume_array()
    opening = OpenVolume(
        "ct",
        GEOMETRY.to_dict(),
        array.dtype.str,
        array.shape,
        {"kind": "payload", "codec": CODEC},
        (WINDOW.width, WINDOW.level),
        2,
    )
    asked: list[tuple[Request, bytes]] = [
        (Hello(), b""),
        (LoadModel(name="fake", encode_ahead=False), b""),
        (opening, compress(array)),
        (Propagate("ct", to_document(prompts("liver")), ("liver",), MINT), b""),
    ]
    (inbound, client), (answers, outbound) = piped(), piped()
    with inbound, answers, outbound:
        server = threading.Thread(target=WorkerServer(NotingEngine({}), inbound, outbound).serve)
        server.start()
        with client:
            for number, (request, payload) in enumerate(asked):
                write_message(client, Message(request.header(number), payload))
            reader = MessageReader(answers)
            while (message := reader.read()) is not None and message.header["type"] != "error":
                if message.header["type"] == "done" and message.header["request"] == len(asked) - 1:
                    break
        server.join()
    assert message is not None and message.header["type"] == "done", message
    (run,) = NotingSession.asked
    assert run.options == MINT and run.segments[0].segment == "liver"


def test_a_field_that_is_added_goes_from_a_job_to_the_session() -> None:
    session = FakeJobSession()
    options = JobOptions(LoadModel(name="fake"), WINDOW, run=MINT)
    run_segment_job(volume_array(), GEOMETRY, prompts("liver"), options, session)
    assert (session.asked["taste"], session.asked["is_sweet"]) == ("mint", True)
