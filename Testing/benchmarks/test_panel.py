"""The panel's streaming benchmark on few small slices: module, worker process and scene are real."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.scene.preview import PreviewLayer
from SAM2PropagateLib.worker.command import WorkerCommand
from Testing.benchmarks import panel, streaming
from Testing.worker.fake_worker import SCRIPT_VARIABLE

SHAPE = (24, 40, 50)


def test_every_mask_is_measured_and_the_report_has_all_figures() -> None:
    """`stream` itself compares the preview layer with what was sent."""
    frames, rows, columns = SHAPE
    report = panel.run(argparse.Namespace(frames=frames, rows=rows, columns=columns, interval=2.0))
    assert report is not None
    figures = report.figures["milliseconds"]
    assert len(figures["frames"]) == frames and 1 <= len(figures["turns"]) <= frames
    # What a turn took is shared out among its masks, no more and no less.
    assert sum(figures["frames"]) == pytest.approx(sum(figures["turns"]))
    assert len(figures["end"]) == 1
    # On a busy machine all masks may arrive in a row, without a turn between them.
    assert min(value for values in figures.values() for value in values) >= 0
    assert report.figures["of_allowed"] == report.figures["percentile_99"] / panel.WANTED_MS
    assert all(word in "".join(report.texts) for word in ("mean", "median", "99 %", "largest"))


def test_a_worker_that_dies_gives_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    command = streaming.scripted_command

    def failing(interval: float) -> WorkerCommand:
        good = command(interval)
        script = json.dumps({"trouble": {"propagate": ["exit", 5]}})
        return WorkerCommand(good.argv, {**good.env, SCRIPT_VARIABLE: script}, good.cwd)

    monkeypatch.setattr(streaming, "scripted_command", failing)
    with pytest.raises(SAM2PropagateError) as failed:
        panel.stream(SHAPE, 0.0)
    assert failed.value.code == "bench_failed"


def test_a_layer_that_holds_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    write = PreviewLayer.write

    def shifted(self: PreviewLayer, segment: str, frame: int, mask: np.ndarray, **options: Any) -> None:
        write(self, segment, frame, np.roll(mask, 1, axis=0) if frame == 7 else mask, **options)

    monkeypatch.setattr(PreviewLayer, "write", shifted)
    with pytest.raises(SAM2PropagateError, match="1 masks"):
        panel.stream(SHAPE, 0.0)


def test_a_volume_that_is_none_is_refused() -> None:
    with pytest.raises(InputError):
        panel.run(argparse.Namespace(frames=1, rows=40, columns=50, interval=2.0))
