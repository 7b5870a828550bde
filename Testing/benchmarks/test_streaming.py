"""The streaming benchmark on few small slices: a real worker process, a real scene."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.worker.command import WorkerCommand
from SAM2PropagateLib.worker.messages import LoadModel
from Testing.benchmarks import streaming
from Testing.worker.fake_worker import SCRIPT_VARIABLE


def test_the_masks_are_those_of_a_liver() -> None:
    masks = streaming.liver_masks((20, 60, 70))
    assert masks.shape == (20, 60, 70) and masks.any(axis=(1, 2)).all()
    areas = masks.sum(axis=(1, 2))
    assert 0.05 < areas.max() / (60 * 70) < 0.5 and areas.max() > 2 * areas.min()


def test_every_mask_is_measured_and_arrives_in_the_layer() -> None:
    """`stream` itself compares the layer with what was sent."""
    held, written = streaming.stream((24, 40, 50), 0.002, None)
    assert written == len(held.frames) == len(held.unpack) == len(held.write) == len(held.processor) == 24
    assert 1 <= len(held.ticks) <= 24 and not held.drawing
    # What a tick took is shared out among its masks, no more and no less.
    assert sum(held.frames) == pytest.approx(sum(held.ticks))
    assert all(whole >= part for whole, part in zip(held.frames, held.write, strict=True))


def test_the_lock_may_be_kept_between_two_ticks() -> None:
    held, written = streaming.stream((24, 40, 50), 0.002, None, is_locked=True)
    assert written == len(held.frames) == 24 and len(held.late) == 1


def test_every_cancel_is_timed() -> None:
    command = streaming.scripted_command(0.01)
    seconds = streaming.cancel_seconds(command, LoadModel(name="scripted"), 3)
    assert len(seconds) == 3 and min(seconds) > 0


def test_a_worker_that_dies_gives_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    command = streaming.scripted_command

    def failing(interval: float) -> WorkerCommand:
        good = command(interval)
        script = json.dumps({"trouble": {"propagate": ["exit", 5]}})
        return WorkerCommand(good.argv, {**good.env, SCRIPT_VARIABLE: script}, good.cwd)

    monkeypatch.setattr(streaming, "scripted_command", failing)
    with pytest.raises(SAM2PropagateError):
        streaming.stream((24, 40, 50), 0.0, None)


def test_a_layer_that_holds_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from SAM2PropagateLib.scene.preview import PreviewLayer

    write = PreviewLayer.write

    def shifted(
        self: PreviewLayer, segment: str, frame: int, mask: np.ndarray, *, refresh: bool = True
    ) -> None:
        write(self, segment, frame, np.roll(mask, 1, axis=0) if frame == 7 else mask, refresh=refresh)

    monkeypatch.setattr(PreviewLayer, "write", shifted)
    with pytest.raises(SAM2PropagateError, match="1 masks"):
        streaming.stream((24, 40, 50), 0.0, None)
