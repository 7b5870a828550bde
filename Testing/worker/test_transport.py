"""The transport holds nobody up and leaves nothing behind."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.worker.command import WorkerCommand
from SAM2PropagateLib.worker.remote import Remote, why_ended
from SAM2PropagateLib.worker.transport import LOG_LINES, PopenTransport
from SAM2PropagateLib.worker.wire import Message
from Testing.worker.helpers import hold_interpreter, is_running, own_threads, soon

FRAME = """
import json, struct, sys
def say(header, payload=b""):
    text = json.dumps(header).encode()
    sys.stdout.buffer.write(struct.pack("<4sIQ", b"S2P1", len(text), len(payload)) + text + payload)
    sys.stdout.buffer.flush()
"""

Start = Callable[..., PopenTransport]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[PopenTransport] = []

    def make(code: str, log_file: Path | None = None) -> PopenTransport:
        argv = (sys.executable, "-u", "-S", "-c", FRAME + code)
        made.append(PopenTransport(WorkerCommand(argv, dict(os.environ), log_file=log_file)))
        made[-1].start()
        return made[-1]

    yield make
    for transport in made:
        transport.close(0.0)
        assert transport.is_closed
    assert own_threads() == []


def collected(transport: PopenTransport) -> list[Message]:
    messages: list[Message] = []

    def take() -> bool:
        messages.extend(transport.receive())
        return transport.has_ended or transport.failure is not None

    assert soon(take)
    return messages


def test_messages_arrive_in_order_with_their_payloads(start: Start) -> None:
    transport = start("for n in range(200): say({'n': n}, bytes([n]) * n)")
    messages = collected(transport)
    assert [message.header["n"] for message in messages] == list(range(200))
    assert all(bytes(m.payload) == bytes([n]) * n for n, m in enumerate(messages))
    assert transport.exit_code == 0 and transport.failure is None


def test_messages_arrive_though_the_main_thread_keeps_the_interpreters_lock(start: Start) -> None:
    """As inside Slicer: the reading thread gets its turn in a poll only, and takes what waits then."""
    transport = start(
        "import time\n"
        "for n in range(300): say({'at': time.time()}, b'x' * 3000); time.sleep(0.001)\n"
        "time.sleep(600)"
    )
    polls: list[float] = []
    waited: list[int] = []
    while len(waited) < 300 and len(polls) < 2000:
        hold_interpreter(0.02)
        polls.append(time.time())
        for message in transport.receive():
            # How many polls it was overlooked by.
            waited.append(sum(poll > message.header["at"] for poll in polls[:-1]))
    assert len(waited) == 300
    assert sorted(waited)[270] <= 3


def test_a_worker_that_reads_nothing_holds_nobody_up(start: Start) -> None:
    transport = start("import time; time.sleep(600)")
    block = bytes(4 << 20)
    started = time.thread_time()
    for number in range(50):
        transport.send(number, Message({"n": number}, block))
    # The worker sleeps far longer than a test may take: whoever waited for it would not come here.
    assert time.thread_time() - started < 0.5
    assert soon(lambda: transport.activity > 0)
    transport.kill()
    assert soon(lambda: transport.has_ended) and transport.exit_code == -9


def test_a_worker_that_floods_its_log_holds_nobody_up(start: Start) -> None:
    transport = start("sys.stderr.write('x' * 99 + '\\n' + 'y\\r' * 500_000); say({'done': 1})")
    assert collected(transport)[0].header == {"done": 1}
    assert len(transport.log) <= LOG_LINES and transport.log[-1] == "y"


def test_the_log_is_kept_in_a_file_too(start: Start, tmp_path: Path) -> None:
    log_file = tmp_path / "worker.log"
    log_file.write_text("before\n", encoding="utf-8")
    transport = start("sys.stderr.write('one\\ntwo\\rthree'); sys.stderr.flush()", log_file)
    assert soon(lambda: transport.has_ended)
    assert transport.log == ["one", "two", "three"]
    assert log_file.read_bytes() == b"before\none\ntwo\rthree"


def test_a_log_file_that_cannot_be_written_is_no_reason_to_stop(start: Start, tmp_path: Path) -> None:
    transport = start("sys.stderr.write('one\\n'); say({'a': 1})", tmp_path / "none" / "worker.log")
    assert collected(transport)[0].header == {"a": 1}
    assert "cannot be written" in transport.log[0] and transport.log[1] == "one"


def test_foreign_output_breaks_the_connection_and_ends_the_worker(start: Start) -> None:
    transport = start("say({'a': 1}); print('Epoch 1/10 and more text'); import time; time.sleep(600)")
    assert collected(transport)[0].header == {"a": 1}
    assert soon(lambda: transport.has_ended)
    assert transport.failure is not None and "Epoch 1/10" in str(transport.failure)
    assert transport.exit_code == -9 and not is_running(transport.pid)


@pytest.mark.parametrize("cut", [2, 12, 20])
def test_a_cut_message_is_the_death_of_the_worker_no_fault(start: Start, cut: int) -> None:
    text = "b'S2P1' + (40).to_bytes(4, 'little') + bytes(8) + b'{\"type\": '"
    transport = start(f"sys.stdout.buffer.write(({text})[:{cut}]); sys.stdout.buffer.flush(); sys.exit(3)")
    assert soon(lambda: transport.has_ended)
    assert transport.failure is None and transport.exit_code == 3


def test_what_cannot_be_prepared_comes_back_as_an_error(start: Start) -> None:
    transport = start("import time; time.sleep(600)")

    def fail() -> Message:
        raise SAM2PropagateError("disk_full", "There is no room.")

    def crash() -> Message:
        raise ZeroDivisionError("oops")

    transport.send(7, fail)
    transport.send(8, crash)
    transport.send(9, Message({"value": float("nan")}))
    messages: list[Message] = []

    def take() -> bool:
        messages.extend(transport.receive())
        return len(messages) == 3

    assert soon(take)
    assert [(m.header["request"], m.header["error"]["code"]) for m in messages] == [
        (7, "disk_full"),
        (8, "internal"),
        (9, "protocol_broken"),
    ]


def test_waiting_ends_with_the_first_message_and_with_the_end(start: Start) -> None:
    transport = start("sys.stdin.buffer.read(1); say({'a': 1})")
    assert not transport.wait(0.01)
    transport.send(1, Message({}))
    assert transport.wait(10.0) and len(transport.receive()) == 1
    assert transport.wait(10.0) and transport.receive() == [] and soon(lambda: transport.has_ended)


def test_closing_twice_and_before_the_start_is_fine(start: Start) -> None:
    PopenTransport(WorkerCommand(("none",), {})).close(0.0)
    transport = start("import time; time.sleep(600)")
    transport.close(0.0)
    transport.close(0.0)
    transport.kill()
    assert transport.is_closed


def test_an_end_of_input_lets_a_worker_end_by_itself(start: Start) -> None:
    transport = start("sys.stdin.read(); sys.exit(4)")
    transport.close(10.0)
    assert transport.exit_code == 4


def test_a_worker_on_a_server_hears_that_its_client_is_there() -> None:
    """Also while nothing is asked; one on this computer needs no such thing."""
    code = "words = sys.stdin.buffer.read(3 * 39).count(b'alive')\nsay({'heard': words})\n"
    command = WorkerCommand(
        (sys.executable, "-u", "-S", "-c", FRAME + code), dict(os.environ), None, Remote("x")
    )
    transport = PopenTransport(command, alive_seconds=0.01)
    transport.start()
    assert [message.header for message in collected(transport)] == [{"heard": 3}]
    assert transport.activity == 0
    transport.close(0.0)
    assert own_threads() == []


def test_why_ssh_has_ended_is_told_from_its_words_and_its_code() -> None:
    for code, words, answered, expected in (
        (255, "ssh: Could not resolve hostname x: Name or service not known", False, "unknown_host"),
        (255, "x: Permission denied (publickey).", False, "login_refused"),
        (255, "kex_exchange_identification: Connection closed by remote host", False, "host_unreachable"),
        (255, "Timeout, server x not responding.", True, "connection_lost"),
        (255, "client_loop: send disconnect: Broken pipe", True, "connection_lost"),
        (255, "2026-01-01 10:00:00,1 INFO x: Connection reset by a worker's own words", True, "worker_died"),
        (-9, "", True, "connection_lost"),
        (96, "", False, "no_remote_python"),
        (97, "", False, "no_remote_folder"),
        (98, "Python 3.8, 3.10 or newer is needed", False, "old_remote_python"),
        (1, "python3: No module named SAM2PropagateLib", False, "no_remote_library"),
        (1, "ModuleNotFoundError: No module named 'numpy'", False, "not_installed"),
        (70, "", True, "worker_died"),
        (3, "something else", False, "worker_not_started"),
    ):
        error = why_ended(Remote("x"), code, [words], answered)
        assert error.code == expected and error.hint, (words, error)
