"""The speed benchmark: its scenario, its ratios, and that both sides get the same work."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from SAM2PropagateLib.engine import imaging
from SAM2PropagateLib.engine.postprocess import clean
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.evaluation.metrics import dice
from Testing.benchmarks import speed, speed_child
from Testing.benchmarks.scenario import sample_scenario
from Testing.engine.models import SHALLOW_TRUNK

TINY = "configs/sam2.1/sam2.1_hiera_t.yaml"
OFFICIAL = speed.Side("official", "float32", "sam2")
OURS = speed.Side("ours", "float32", "ours")


def test_the_scenario_is_of_the_sample() -> None:
    scenario = sample_scenario(9)
    assert scenario.frames.count == 9 and (scenario.start, scenario.correction) == (4, 6)
    assert len(scenario.masks) == 3
    for number, mask in enumerate(scenario.masks):
        assert mask.shape == (9, *scenario.frames.native_shape)
        assert mask.any(axis=(1, 2)).all(), "on every slice, so that a tracker has something to follow"
        x0, y0, x1, y1 = scenario.box(number)
        assert mask[4, int(y0 + 0.5) : int(y1 + 0.5), int(x0 + 0.5) : int(x1 + 0.5)].sum() == mask[4].sum()
    assert all(scenario.masks[0][4, int(y), int(x)] for x, y in scenario.clicks(4))
    for count in (4, 113):
        with pytest.raises(InputError):
            sample_scenario(count)


def figures(seconds: float, masks: int, **more: Any) -> dict[str, Any]:
    run = {"seconds": seconds, "processor_seconds": 2 * seconds, "masks": masks, "computed": masks}
    return {
        "first": run,
        "again": {**run, "masks": masks // 2},
        "three": {**run, "masks": 3 * masks},
        "click_cold_seconds": [0.2, 0.1, 0.3],
        "click_warm_seconds": [0.02] * 3,
        "peak_bytes": 100 << 20,
        "dtype": "float32",
        "load": 0.5,
        **more,
    }


def test_ratios_say_how_many_times_better_the_engine_is() -> None:
    limited = {"seconds": 4.0, "masks": 20}
    measured = {
        OFFICIAL: [figures(10.0, 40, again_limited=limited), figures(20.0, 40, again_limited=limited)],
        OURS: [figures(5.0, 40, peak_bytes=50 << 20), figures(5.0, 40, peak_bytes=50 << 20)],
    }
    [row] = speed.ratios_of([OFFICIAL, OURS], measured).values()
    first = row["first propagation, slices/s"]
    assert (first.median, first.low, first.high) == (3.0, 2.0, 4.0)
    assert row["until all is right again, s"].median == 3.0
    # sam2's side of this row is its shortest way.
    assert row["the same, as little as possible, s"].median == pytest.approx(4.0 / 5.0)
    assert row["memory, MiB"].median == 2.0
    assert row["first propagation, processor s"].median == 3.0
    assert row["click, cold, s"].median == 1.0
    assert "first, encoded ahead, slices/s" not in row, "nobody measured it"
    text = speed.ratio_table([OFFICIAL, OURS], measured)
    assert "| first propagation, slices/s" in text and "3.00 (2.00 to 4.00)" in text
    verdict = speed.verdict({"ours": row})
    assert "first propagation: 3.00 times, 1.5 reached" in verdict
    assert "re-propagation: 3.00 times, 4 missed" in verdict


def test_the_agreement_leaves_out_slices_without_any_mask() -> None:
    one = np.zeros((3, 4, 4), bool)
    one[0, :2] = True
    other = one.copy()
    other[1, 0] = True
    found = speed.mask_agreement({"first": one}, {"first": other})
    assert found == {"dice": 0.5, "filled": 2.0}


def test_cases_by_device_and_by_name() -> None:
    on_cpu = speed.speed_cases("sam2propagate_tiny", "cpu")
    assert [case.name for case in on_cpu] == ["bundled-384", "tiny-512", "tiny-1024"]
    on_gpu = speed.speed_cases("sam2propagate_tiny", "cuda")
    assert [case.name for case in on_gpu][1:] == ["tiny-1024", "small-1024", "base_plus-1024", "large-1024"]
    letters = [case.config.removesuffix(".yaml").rpartition("_")[2] for case in on_gpu[1:]]
    assert letters == ["t", "s", "b+", "l"]


class Rounds:
    """Plays the measured processes: each takes ten seconds of a clock that only they move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: str = "") -> None:
        self.now = 0.0
        self.order: list[str] = []
        self.failing = failing
        monkeypatch.setattr(speed.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(speed, "run_child", self.child)

    def child(
        self,
        case: speed.SpeedCase,
        side: speed.Side,
        device: str,
        threads: int,
        folder: Path,
        left: float | None,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        if case.name == self.failing:
            raise SAM2PropagateError("bench_failed", "It does not fit.", "See above.")
        if left is not None and left < 10:
            raise subprocess.TimeoutExpired("child", left)
        self.now += 10
        self.order.append(case.name)
        return figures(1.0, 4), {"first": np.ones((1, 2, 2), bool)}


def measured(*names: str) -> list[speed.Measured]:
    sides = (OFFICIAL, OURS)
    cases = [speed.SpeedCase(name, name, "", TINY, 128, 5, 3) for name in names]
    return [speed.Measured(case, "cuda", {side: [] for side in sides}) for case in cases]


def test_models_take_turns_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    played, cases = Rounds(monkeypatch), measured("a", "b")
    # Rounds of 20 seconds: the fourth would end after 80.
    speed.measure(cases, 0, speed.Clock(75 / 60))
    assert played.order == ["a", "a", "b", "b", "a", "a"]
    assert [one.rounds for one in cases] == [2, 1]
    assert {one.problem for one in cases} == {"the time was over"}
    unlimited = measured("a", "b")
    speed.measure(unlimited, 0, speed.Clock(None))
    assert [(one.rounds, one.problem) for one in unlimited] == [(3, ""), (3, "")]


def test_a_first_round_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    played, (case,) = Rounds(monkeypatch), measured("a")
    speed.measure([case], 0, speed.Clock(15 / 60))
    assert (case.rounds, case.problem) == (0, "the time was over")
    assert all(not values for values in case.sides.values()) and played.now == 10


def test_a_model_that_cannot_be_measured_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Rounds(monkeypatch, failing="a")
    cases = measured("a", "b")
    speed.measure(cases, 0, speed.Clock(None))
    assert [(one.rounds, one.problem) for one in cases] == [(0, "It does not fit"), (3, "")]
    for one in cases:
        for values in one.sides.values():
            for value in values:
                value["device"] = "a card"
                for run in ("first", "again"):
                    value[run]["encoded"] = 0
    report = speed.BenchmarkReport("speed", "Speed", {})
    for one in cases:
        speed.describe(one, report)
    assert "0 of 3 rounds: It does not fit." in report.markdown()
    assert [entry["name"] for entry in report.figures["cases"]] == ["b"]
    assert report.figures["cases"][0]["rounds"] == 3


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any, Any]:
    """Both sides over five slices at 128 px with the same random weights in a shallow trunk, and the
    scenario."""
    scenario = sample_scenario(5)
    narrow = json.dumps({"base": TINY, "overrides": SHALLOW_TRUNK})
    spec = speed_child.Spec("official", "float32", weights="", config=narrow, input_size=128, frames=5)
    device = torch.device("cpu")
    official = speed_child.Official(spec, scenario, device)
    ours = speed_child.Ours(replace(spec, side="ours"), scenario, device)
    return official, ours, scenario


def cleaned(mask: np.ndarray) -> np.ndarray:
    """Without holes and specks of up to 8 pixels of the model's masks, of which those from random weights are
    full; the engine leaves them out."""
    return clean(mask, 8 * mask.size / (128 // 4) ** 2)


def volume(answers: Any, scenario: Any) -> np.ndarray:
    return speed_child.mask_volume(answers, scenario)


def test_both_sides_see_the_same_and_answer_the_same(both: tuple[Any, Any, Any]) -> None:
    official, ours, scenario = both
    official.reset()
    ours.reset()
    place = scenario.clicks(scenario.start)[0]
    one, other = official.add_click(scenario.start, place), ours.add_click(scenario.start, place)
    assert one.shape == other.shape == scenario.frames.native_shape
    assert one.any() and dice(cleaned(one), other) > 0.99
    official.reset()
    ours.reset()
    theirs, mine = list(official.first(1)), list(ours.first(1))
    assert {frame for _, frame, _ in theirs} == {frame for _, frame, _ in mine} == set(range(5))
    assert ours.summary.frames_computed == 4, "the object is on every slice: nothing is left out"
    assert volume(theirs, scenario).any()
    expected = np.stack([cleaned(mask) for mask in volume(theirs, scenario)])
    assert dice(expected, volume(mine, scenario)) > 0.99


def test_the_models_get_the_same_points_and_masks(both: tuple[Any, Any, Any]) -> None:
    """To a thousandth of a model pixel; masks above would hide a shift."""
    official, ours, scenario = both
    official.reset()
    ours.reset()
    crop = ours.session.crop_of("0")
    assert crop == official.crop
    place = scenario.clicks(scenario.start)[0]
    official.add_click(scenario.start, place)
    points = official.state["point_inputs_per_obj"][0][scenario.start]["point_coords"]
    # What `EngineSession` hands to its model for a click.
    assert points[0, 0].tolist() == pytest.approx(list(crop.to_model(place) - 0.5), abs=1e-3)
    list(official.again(everything=False))
    masks = official.state["mask_inputs_per_obj"][0][scenario.correction]
    wanted = imaging.mask_to_model(scenario.masks[0][scenario.correction], crop, torch.device("cpu"))
    assert torch.equal(masks, (wanted >= 0.5).float())


def test_after_a_correction_both_write_what_changed(both: tuple[Any, Any, Any]) -> None:
    official, ours, scenario = both
    official.reset()
    ours.reset()
    for side in (official, ours):
        list(side.first(1))
    assert {frame for _, frame, _ in official.again(everything=True)} == set(range(5))
    written = {frame for _, frame, _ in ours.again(everything=True)}
    assert written == set(range(scenario.start + 1, 5))
    assert ours.summary.frames_encoded == 0
    official.reset()
    list(official.first(1))
    limited = {frame for _, frame, _ in official.again(everything=False)}
    assert limited == set(range(scenario.start, 5))


def test_three_segments_are_three(both: tuple[Any, Any, Any]) -> None:
    for side in both[:2]:
        side.reset()
        assert {(number, frame) for number, frame, _ in side.first(3)} == {
            (number, frame) for number in range(3) for frame in range(5)
        }
