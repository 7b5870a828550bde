"""What a worker process says arrives in the language of the client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from SAM2PropagateLib import texts
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.worker.calls import Call
from SAM2PropagateLib.worker.command import LIBRARY_FOLDER
from SAM2PropagateLib.worker.messages import ErrorEvent, LoadModel, ProgressEvent, parse_event
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.shared import SharedFolder
from SAM2PropagateLib.worker.wire import Message, WireError
from Testing.worker.helpers import forked_session, ready_session

LIBRARY = LIBRARY_FOLDER / "SAM2PropagateLib"
WORDS = {
    (
        "prompts/resolve.py",
        "No prompt shows where segment “{segment}” is.",
    ): "Wo „{segment}“ ist, sagt nichts.",
    # Two that do not fit.
    ("worker/server.py", "Segment “{segment}” has no prompt on slice {number}."): "„{segmento}“",
    ("worker/server.py", "Click on the structure there, or draw a box around it."): "{Klick}",
    ("worker/engine_adapter.py", "Starting PyTorch"): "PyTorch startet",
    ("engine/device.py", "There is no device called “{name}”."): "„{name}“ ist kein Gerät.",
    ("engine/device.py", "Choose one of: auto, {names}."): "Zur Wahl: auto, {names}.",
    ("engine/build.py", "The model “{label}” does not fit into the memory of {device} ({why})."): (
        "„{label}“ passt nicht auf {device}: {why}."
    ),
    ("engine/build.py", "it needs about {needed:.1f} GB, and {free:.1f} GB are free"): (
        "{free:.0f} GB frei, {needed:.0f} GB nötig"
    ),
}


@pytest.fixture
def german() -> Iterator[None]:
    """Some texts in German, each in the context of its file, as in Slicer."""
    table = {(str(LIBRARY / file), english): word for (file, english), word in WORDS.items()}
    texts.set_translator(lambda text, file: table.get((file, text), text))
    yield
    texts.set_translator(None)


def error_of(session: WorkerSession, call: Call) -> SAM2PropagateError:
    assert session.wait(call, 60.0) and call.error is not None, session.log
    return call.error


def said_of_a_run_and_a_preview(tmp_path: Path) -> list[tuple[str, str]]:
    """Sentence and hint of two errors of a scripted worker, in a process of its own."""
    session, _ = ready_session(tmp_path=tmp_path)
    with session:
        run = error_of(session, session.propagate("ct", PromptSet(), ("{liver}",)))
        preview = error_of(session, session.preview("ct", PromptSet(), "liver", 3))
    assert type(run) is type(preview) is InputError and run.code == preview.code == "no_prompts"
    return [(error.sentence, error.hint) for error in (run, preview)]


def test_errors_are_translated_at_the_client_alone(german: None, tmp_path: Path) -> None:
    run_hint = "Click on the structure, draw a box around it or paint it on one slice."
    preview = ("Segment “liver” has no prompt on slice 4.", "{Klick}")
    # A translation with other placeholders is not used; where nothing is filled in, there are none.
    german_run = ("Wo „{liver}“ ist, sagt nichts.", run_hint)
    assert said_of_a_run_and_a_preview(tmp_path) == [german_run, preview]
    texts.set_translator(None)
    assert said_of_a_run_and_a_preview(tmp_path) == [
        ("No prompt shows where segment “{liver}” is.", run_hint),
        (
            "Segment “liver” has no prompt on slice 4.",
            "Click on the structure there, or draw a box around it.",
        ),
    ]


def test_the_real_worker_is_translated_too(german: None, tmp_path: Path) -> None:
    """Its progress and an error of the engine."""
    heard: list[str] = []
    with forked_session(folder=SharedFolder([tmp_path])) as session:
        call = session.load_model(LoadModel(name="sam2propagate_tiny", device="abacus"))

        def hear(update: Any) -> None:
            heard.extend([str(update.event.text)] if isinstance(update.event, ProgressEvent) else [])

        assert session.wait(call, 120.0, hear), session.log
    assert heard == ["Checking the model's file", "PyTorch startet", "Loading the model"]
    assert isinstance(call.error, InputError) and call.error.code == "unknown_device"
    assert call.error.sentence == "„abacus“ ist kein Gerät."
    assert call.error.hint.startswith("Zur Wahl: auto, ") and call.error.hint.endswith("cpu.")


def error_event(**words: Any) -> SAM2PropagateError:
    values = {"code": "code", "sentence": "Plain.", "hint": "Hint.", "kind": "failure", **words}
    event = parse_event(Message({"type": "error", "request": 1, "error": values}))
    assert isinstance(event, ErrorEvent)
    return event.error


BROKEN: list[Any] = [
    None,
    [1],
    {"template": "Starting {x.__class__}", "file": "worker/engine_adapter.py", "values": {"x": 1}},
    {"template": "Starting PyTorch", "file": "../worker/engine_adapter.py", "values": {}},
    {"template": "Starting PyTorch", "file": "worker/engine_adapter.py"},
]


@pytest.mark.parametrize("words", BROKEN)
def test_broken_words_are_a_broken_protocol(german: None, words: Any) -> None:
    for name in ("sentence", "hint"):
        with pytest.raises(WireError, match="does not say what is wrong"):
            error_event(**{name: words})
    with pytest.raises(WireError, match="text"):
        parse_event(Message({"type": "progress", "request": 1, "text": words}))


def test_texts_within_texts_and_numbers_arrive(german: None) -> None:
    why = "it needs about {needed:.1f} GB, and {free:.1f} GB are free"
    sentence = {
        "template": "The model “{label}” does not fit into the memory of {device} ({why}).",
        "file": "engine/build.py",
        "values": {
            "label": "{tiny}",
            "device": "cpu",
            "why": {"template": why, "file": "engine/build.py", "values": {"needed": 3.2, "free": 1}},
        },
    }
    error = error_event(sentence=sentence)
    assert error.sentence == "„{tiny}“ passt nicht auf cpu: 1 GB frei, 3 GB nötig."
    assert error.hint == "Hint."


def test_plain_words_are_shown_as_they_are(german: None) -> None:
    assert str(error_event()) == "Plain. Hint."
    old = error_event(parts={"sentence": {"template": "Starting PyTorch"}})
    assert str(old) == "Plain. Hint.", "how a worker of protocol 5 said it"
