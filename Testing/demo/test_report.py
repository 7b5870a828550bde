"""The report and the words on the sheet say what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from Demo import case
from Demo.desk import Propagation, ShownPreview
from Demo.measure import Doubtful, NextClick
from Demo.report import closing_lines, rank_correlation, report, sheet
from Demo.story import AppliedRun, CorrectedSlice, Prompted, Story
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.packed_masks import pack
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.worker.calls import Run
from SAM2PropagateLib.worker.messages import DoneEvent, FrameEvent

ONE, OTHER = (one.name for one in case.STRUCTURES)
SHAPE = (30, 8, 8)
PICTURE = np.zeros((52, 60, 3), np.uint8)


def ran(frames, seconds, encoded):
    """A finished run over (segment, frame, doubt) with empty masks."""
    run = Run("ct", (ONE, OTHER))
    for segment, frame, doubt in frames:
        kind = "keyframe" if doubt is None else "propagated"
        mask = pack(np.zeros(SHAPE[1:], bool))
        run.take(FrameEvent(1, "ct", segment, frame, kind, 0.9, 2.0, doubt, mask))
    stretches = [[ONE, frames[0][1], frames[-1][1]]]
    result = {
        "frames_written": len(frames),
        "frames_computed": len(frames) - 1,
        "frames_encoded": encoded,
        "seconds": seconds,
        "stretches": stretches,
    }
    run.take(DoneEvent(1, result))
    return Propagation(run, {ONE: seconds / 2, OTHER: seconds})


@pytest.fixture
def story():
    truth = np.zeros(SHAPE, bool)
    truth[5:15, 2:6, 2:6] = True
    reference = {ONE: truth, OTHER: truth}
    poor = truth.copy()
    poor[9:12] = False
    first = ran(
        [(ONE, 7, None)] + [(name, f, 1 - f / 20) for name in (ONE, OTHER) for f in range(8, 18)], 4.0, 20
    )
    second = ran([(ONE, 9, None), (ONE, 10, 0.1), (ONE, 11, 0.2)], 0.5, 0)
    prompted = {
        name: Prompted(ShownPreview(7, truth[7], 0.1, 0.25), (5, 14), 0.93, PICTURE) for name in (ONE, OTHER)
    }
    correction = CorrectedSlice(
        Doubtful(ONE, 9, 0.97, 2), (NextClick(3.0, 4.0, True),), 1, True, False, 0.41, 0.92, PICTURE
    )
    model = {"model": "tiny", "device": "cpu", "dtype": "float32", "input_size": 256}
    return Story(
        model,
        reference,
        prompted,
        AppliedRun(first, {ONE: poor, OTHER: truth}, {ONE: 0.7, OTHER: 0.95}),
        correction,
        AppliedRun(second, reference, {ONE: 0.88, OTHER: 0.95}),
        PICTURE,
    )


@pytest.fixture
def desk():
    geometry = VolumeGeometry(SHAPE[::-1], np.diag([2.0, 2.0, 3.0, 1.0]))
    volume = SimpleNamespace(geometry=geometry, window=Window(400, 40))
    return SimpleNamespace(volume=volume, prompts=PromptSet(axis=2))


FILES = {"report": Path("out") / "report.json", "picture": Path("out") / "demo.png"}


def test_the_report_holds_what_was_measured(story, desk):
    values = json.loads(json.dumps(report(story, desk, 12.34, FILES), allow_nan=False))
    one = values["structures"][0]
    assert (one["name"], one["dice"], one["dice_before_correction"]) == (ONE, 0.88, 0.7)
    assert (one["slices"], one["seconds"], one["slices_per_second"]) == (11, 2.0, 5.5)
    assert (one["device"], one["model"]) == ("cpu", "tiny")
    assert one["range_slices"] == [6, 15] and one["prompt_slice"] == 8
    assert values["first_run"]["slices_written"] == 21 and values["first_run"]["slices_per_second"] == 5.25
    second = values["second_run"]
    assert (second["slices_computed"], second["slices_encoded"]) == (2, 0)
    # 21 slices of the first run, of which the second one wrote three again.
    assert second["slices_not_computed_again"] == 18
    correction = values["correction"]
    assert (correction["slice"], correction["clicks_taken_back"]) == (10, 1)
    # Of slices 11 and 12, which were lost in the first run and are whole after the second.
    assert correction["dice_of_other_slices_computed_again_before"] == 0.0
    assert correction["dice_of_other_slices_computed_again_after"] == 1.0
    assert correction["place_in_list_of_doubtful_slices"] == 2
    listed = values["doubt"]["most_doubtful"]
    assert [entry["doubt"] for entry in listed] == sorted((e["doubt"] for e in listed), reverse=True)
    lost = [e["dice"] for e in listed if e["structure"] == ONE and e["slice"] in (10, 11, 12)]
    assert lost == [0.0, 0.0, 0.0]
    assert values["files"] == {"report": "report.json", "picture": "demo.png"}


def test_the_sheet_names_structures_slices_and_figures(story, desk):
    drawn = sheet(story, desk, [], PICTURE)
    assert [ONE in drawn.steps[0].title, OTHER in drawn.steps[1].title] == [True, True]
    assert (
        "slice 10" in drawn.steps[2].text and "0.97" in drawn.steps[2].text and "0.41" in drawn.steps[2].text
    )
    assert drawn.steps[3].title == "Corrected with 1 click"
    assert "2 slices computed again, 0 encoded again" in drawn.steps[3].text
    first = drawn.table.rows[1]
    assert first[0] == ONE and first[1].endswith("+ 1 click") and first[-2:] == ["0.700", "0.880"]
    assert first[2] == "11 (6 to 15)" and first[3] == "2.0 s, 5.5 slices/s"
    assert "18 left as they were" in drawn.notes[0]


def test_a_slice_that_was_painted_is_called_that(story, desk):
    painted = replace(story, correction=replace(story.correction, clicks=(), painted=True))
    drawn = sheet(painted, desk, [], PICTURE)
    assert drawn.steps[3].title == "Corrected with the brush"
    assert drawn.table.rows[1][1].endswith("+ the brush")
    assert report(painted, desk, 1.0, FILES)["correction"]["painted"] is True


def test_the_end_says_what_was_measured_and_written(story):
    text = "\n".join(closing_lines(story, FILES, 61.0))
    assert "Dice 0.700 after the first run, 0.880 after the correction; 11 slices in 2.0 s, 5.5/s" in text
    assert "2 slices computed again, 0 encoded again, 0.5 s" in text
    assert "61 s" in text and all(str(path) in text for path in FILES.values())


def test_rank_correlation():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 25, 90]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3, 4], [9, 7, 5, -3]) == pytest.approx(-1.0)
    # With ties, as textbooks compute it.
    assert rank_correlation([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.9486832980505138)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0.0
