"""The accuracy benchmark over small cases, with an engine whose answers are known."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAM2PropagateLib.engine.plan import plan
from SAM2PropagateLib.engine.results import FrameMask, RunSummary
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts
from SAM2PropagateLib.run_options import RunRequest
from Testing.benchmarks import __main__ as command
from Testing.benchmarks import accuracy
from Testing.evaluation.test_targets import label_array, manifest, write_case


class ThresholdSession:
    """Finds every pixel that is white through the window; the cases below are drawn so. Along all axes it
    finds nothing beyond the prompted frame."""

    def __init__(self, frames: FrameStack) -> None:
        self._frames = frames

    def _mask(self, frame: int, said: FramePrompts | None = None) -> FrameMask:
        mask = self._frames.frame(frame) > 127
        return FrameMask("target", frame, said.mask if said and said.mask is not None else mask, 1, 5, 0, "x")

    def preview(self, frame: int, prompts: FramePrompts, segment: str = "") -> FrameMask:
        return self._mask(frame)

    def propagate(self, run: RunRequest, on_frame: Callable[[FrameMask], None]) -> RunSummary:
        [segment] = run.segments
        frames = set(segment.keyframes).union(*(stretch.frames for stretch in plan(segment)))
        for frame in frames:
            found = self._mask(frame, segment.keyframes.get(frame))
            if run.options.all_axes and frame not in segment.keyframes:
                found = replace(found, mask=np.zeros_like(found.mask))
            on_frame(found)
        return RunSummary(len(frames), 0, 0, 0.0, ())


class ThresholdEngine:
    def __init__(self) -> None:
        self.crops: list[object] = []

    def open_axes(self, frames: FrameStack, crop: object = None) -> ThresholdSession:
        self.crops.append(crop)
        return ThresholdSession(frames)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[ThresholdEngine]:
    """Engines made so far, instead of those with a model."""
    made: list[ThresholdEngine] = []

    def open_engine(model: str, arguments: argparse.Namespace, *, motion: bool) -> tuple[Any, dict[str, Any]]:
        made.append(ThresholdEngine())
        facts = {"name": model, "sha256": "0" * 64, "device": "none", "dtype": "bool", "input_size": 8}
        return made[-1], {**facts, "memories": 1, "motion": motion}

    monkeypatch.setattr(accuracy, "open_engine", open_engine)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    return made


def draw(folder: Path, label: np.ndarray, found: np.ndarray) -> None:
    """A case whose image is white exactly where the engine above is to find something."""
    import SimpleITK as sitk  # noqa: N813

    case = write_case(folder, label)
    image = sitk.GetImageFromArray(found.astype(np.float32) * 100)
    image.CopyInformation(sitk.ReadImage(str(case / "label.nii.gz")))
    sitk.WriteImage(image, str(case / "image.nii.gz"))


def run(*options: str, out: Path) -> tuple[int, dict[str, Any], str]:
    code = command.main(["accuracy", "--out", str(out), *options])
    records = sorted(out.glob("*.json"))
    values = json.loads(records[0].read_text(encoding="utf-8")) if records else {}
    text = records[0].with_suffix(".md").read_text(encoding="utf-8") if records else ""
    return code, values, text


def test_targets_are_scored_averaged_and_recorded(tmp_path: Path, engines: list[ThresholdEngine]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    label = (label_array() == 1).astype(np.uint8)
    draw(data / "exact", label, label)
    missing_slice = label.copy()
    missing_slice[1] = 0
    draw(data / "gap", label, missing_slice)
    code, values, text = run("--data", str(data), "--model", "a", "--model", "b", out=tmp_path / "out")
    assert code == 0 and len(engines) == 2
    assert engines[0].crops == ["auto", "auto"], "every target has a session of its own"
    models = values["figures"]["models"]
    assert [model["name"] for model in models] == ["a", "b"]
    exact, gap = models[0]["targets"]
    assert exact["scores"]["volume"] == exact["scores"]["preview"] == 1.0
    # 12 of 36 pixels are missing: 2 * 24 / (36 + 24); one correction paints them.
    assert gap["scores"]["volume"] == pytest.approx(0.8)
    assert gap["scores"]["after"] == [1.0, 1.0, 1.0]
    assert [one["kind"] for one in gap["scores"]["corrections"]] == ["mask"]
    assert models[0]["mean"]["volume"] == pytest.approx(0.9)
    assert models[0]["mean"]["targets"] == 2
    assert "| mean of 2" in text and "0.800" in text
    # One of three slices is the keyframe; a Dice of 0.8 is not below it.
    assert exact["scores"]["doubts"][0] == {"masks": 2, "bad": 0, "empty": 3, "missed": 0}
    assert gap["scores"]["doubts"][0] == exact["scores"]["doubts"][0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| 0.")]
    assert [[cell.strip() for cell in row] for row in (rows[0], rows[9])] == [
        ["0.0 to 0.1", "4", "0", "0.000", "6", "0", "0.000"],
        ["0.9 to 1.0", "0", "0", "none", "0", "0", "none"],
    ]


def test_scattered_and_missing_targets_do_not_count(tmp_path: Path, engines: list[ThresholdEngine]) -> None:
    data = tmp_path / "data"
    scattered = np.zeros((20, 20, 20), np.uint8)
    scattered[::4, ::4, ::8] = 1
    draw(data / "lesions", scattered, np.roll(scattered, 1, axis=2))
    label = (label_array() == 1).astype(np.uint8)
    draw(data / "one", label, label)
    manifest(data, recommended_targets=[1], propagation_axis_ijk=2)
    values = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    [first] = values["pairs"]
    values["pairs"] += [{**first, "name": "lesions"}, {**first, "name": "gone"}]
    (data / "manifest.json").write_text(json.dumps(values), encoding="utf-8")
    code, values, text = run("--data", str(data), "--corrections", "1", out=tmp_path / "out")
    assert code == 0
    [model] = values["figures"]["models"]
    assert model["mean"]["targets"] == 1 and model["mean"]["volume"] == 1.0
    assert [one["is_scattered"] for one in model["targets"]] == [False, True]
    assert model["missing"] == ["gone: liver"] and "Left out" in text and "Apart" in text


def test_only_the_named_cases(
    tmp_path: Path, engines: list[ThresholdEngine], capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    label = (label_array() == 1).astype(np.uint8)
    draw(data / "one", label, label)
    draw(data / "two", label, label)
    for name in ("--crop", "--view"):  # its name, and the one that it had before
        engines.clear()
        code, values, _ = run("--data", str(data), "--cases", "two", name, "whole", out=tmp_path / "out")
        assert code == 0 and engines[0].crops == [None]
    assert [one["target"] for one in values["figures"]["models"][0]["targets"]] == ["two: label"]
    code, _, _ = run("--data", str(data), "--cases", "three", out=tmp_path / "other")
    assert code == 2 and "three" in capsys.readouterr().err


def test_axes_take_turns(tmp_path: Path, engines: list[ThresholdEngine]) -> None:
    data = tmp_path / "data"
    label = (label_array() == 1).astype(np.uint8)
    draw(data / "one", label, label)
    code, values, text = run(
        "--data", str(data), "--corrections", "0", "--axes", "one", "all", out=tmp_path / "out"
    )
    one, every = values["figures"]["models"]
    assert code == 0 and values["options"]["axes"] == ["one", "all"]
    assert (one["axes"], every["axes"]) == ("one", "all")
    assert one["mean"]["volume"] == 1.0 > every["mean"]["volume"]
    assert "motion on, axes one." in text and "motion on, axes all." in text


def test_without_data_it_says_so_and_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, values, _ = run("--data", str(tmp_path / "nowhere"), out=tmp_path / "out")
    assert code == 0 and values == {}
    assert "skipped" in capsys.readouterr().out


def test_an_unknown_model_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path / "data" / "one", label_array())
    code, values, _ = run("--data", str(tmp_path / "data"), "--model", "nonesuch", out=tmp_path / "out")
    assert code == 2 and values == {} and "nonesuch" in capsys.readouterr().err
