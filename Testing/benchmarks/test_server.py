"""The benchmark of a worker on a server: the slow line, and a small run of all three ways."""

from __future__ import annotations

import threading
import time
from argparse import ArgumentParser

import numpy as np
import pytest

from Testing.benchmarks import server
from Testing.benchmarks.slow_line import OneWay
from Testing.worker.sshd import why_no_sshd


def test_a_slow_line_loses_nothing_and_is_never_faster_than_it_is_said_to_be() -> None:
    pieces = [bytes([number]) * 1000 for number in range(20)]
    sent, came = iter([*pieces, b""]), []
    started = time.monotonic()
    line = OneWay(lambda: next(sent), came.append, delay=0.05, rate=200_000.0)
    line.run()
    assert came == [*pieces, b""]
    # 20000 bytes take a tenth of a second, and the last of them as long as the line.
    assert time.monotonic() - started >= 0.15


def test_a_sender_has_to_wait_for_a_slow_line() -> None:
    taken = 0
    gate = threading.Event()

    def read() -> bytes:
        nonlocal taken
        taken += 1
        return b"x" * 1000 if taken < 200 else b""

    def write(piece: bytes) -> None:
        gate.wait()

    line = OneWay(read, write, delay=0.0, rate=1e9)
    thread = threading.Thread(target=line.run, daemon=True)
    thread.start()
    time.sleep(0.3)
    assert taken < 40
    gate.set()
    thread.join(60)
    assert taken == 200


def test_the_volume_is_of_the_wanted_size_and_noisy() -> None:
    volume = server.noisy_ct((6, 30, 40))
    assert volume.shape == (6, 30, 40) and volume.dtype == np.int16 and len(np.unique(volume)) > 500


def test_a_small_run_measures_all_ways() -> None:
    if reason := why_no_sshd():
        pytest.skip(reason)
    parser = ArgumentParser()
    server.add_arguments(parser)
    small = ["--columns", "40", "--rows", "30", "--frames", "8", "--previews", "3", "--clicks", "0"]
    report = server.run(parser.parse_args(small))
    assert report is not None
    here, there, slowly = report.figures["ways"].values()
    assert here["masks"] == there["masks"] == slowly["masks"] == 8
    assert 0 < there["sent"] == slowly["sent"] < 40 * 30 * 8 * 2 and here["sent"] < 1000
    # A click goes there and its mask comes back.
    assert min(slowly["previews"]) >= 0.02
    assert "click to preview" in report.texts[-1]
