"""Dice against distance, and the picture of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from SAM2PropagateLib.evaluation.failures import SliceFailures
from SAM2PropagateLib.evaluation.one_slice import PromptScores
from SAM2PropagateLib.experiment.plan import ExperimentOptions
from SAM2PropagateLib.experiment.plot import draw_plot, short_names
from SAM2PropagateLib.experiment.record import CaseRecord, PromptRow, read_record, write_record
from SAM2PropagateLib.experiment.table import Bin, CaseLine, bins_of, terminal_table

FAILURES = SliceFailures(0.9, 0.2, 1, 3.0, 9, 0.9)


def row(
    *by_distance: tuple[float, float], structure: str = "liver", kind: str = "box", counts: bool = True
) -> PromptRow:
    """A row with these distances and Dices."""
    scores = PromptScores(5, 1, 9, 0, 0.8, 0.85, 0.7, 0.6, FAILURES, by_distance, 20, 4.0)
    return PromptRow(structure, counts, kind, scores)


def line(*rows: PromptRow, model: str = "tiny") -> CaseLine:
    """A case with these rows."""
    return CaseLine(model, "", "case", None, CaseRecord("print", rows=rows))


def test_a_record_of_a_path_that_is_no_utf8_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = CaseRecord("print", notes=("“/p\udcff/a.nii” is strange.",))
    write_record(tmp_path / "a.json", one)
    assert read_record(tmp_path / "a.json") == one


def test_each_run_counts_once_in_each_bin() -> None:
    one = row((-4, 0.2), (-2, 0.4), (0, 1.0), (2, 0.6), (4, 0.8))
    # Of another structure, twice as far apart; its last slice reaches so far that the bins are 2 mm wide.
    two = row((0, 0.8), (3.5, 0.1), (33.0, 0.3))
    assert bins_of([line(one), line(two)], ("box",)) == [
        Bin("tiny", "box", 0, 0, 0, pytest.approx(0.9), 2),
        Bin("tiny", "box", 0, 2, 2, pytest.approx(0.5), 1),
        Bin("tiny", "box", 2, 4, pytest.approx((4 + 3.5) / 2), pytest.approx((0.5 + 0.1) / 2), 2),
        Bin("tiny", "box", 32, 34, 33, pytest.approx(0.3), 1),
    ]


def test_models_and_kinds_keep_apart_and_what_does_not_count_is_left_out() -> None:
    lines = [
        line(row((0, 0.5)), row((0, 0.7), kind="mask"), row((0, 0.1), counts=False)),
        line(row((0, 0.9)), model="large"),
        CaseLine("large", "", "other"),
    ]
    found = [(one.model, one.kind, one.dice) for one in bins_of(lines, ("box", "mask"))]
    assert found == [("tiny", "box", 0.5), ("tiny", "mask", 0.7), ("large", "box", 0.9)]
    assert bins_of([], ("box",)) == []


def test_the_table_has_means_and_shares_of_what_can_be_judged() -> None:
    worse = dataclasses.replace(FAILURES, on_slice=0.5, excess=0.8, beyond=4, room=9)
    scores = dataclasses.replace(row().scores, dice=0.4, failures=worse)
    lines = [line(row()), line(PromptRow("liver", True, "box", scores)), line(row(structure="spleen"))]
    table = terminal_table([*lines, CaseLine("large", "", "x")], ExperimentOptions(("box",), tolerance=1.5))
    assert table[1].split("  ")[-1] == "FADES" and "NSD 1.5 MM" in table[1]
    assert table[2].split()[:4] == ["liver", "box", "2", "0.600"]
    assert table[2].split()[-3:] == ["1/2", "1/2", "0/1"]
    assert table[3].split()[:4] == ["spleen", "box", "1", "0.800"]
    assert table[4].split()[:4] == ["MEAN", "box", "3", "0.667"]
    assert table[5:] == ["", "large", "Nothing is finished."]


@pytest.mark.parametrize(("models", "rows"), [(1, 1), (3, 1), (5, 2)])
def test_the_picture_has_a_panel_for_each_model(models: int, rows: int, tmp_path: Path) -> None:
    bins = [
        Bin(f"model {number}", kind, mm, mm, mm, 0.9 - mm / 20, 3)
        for number in range(models)
        for kind in ("1", "3", "5", "box", "mask")
        for mm in (0.0, 5.0, 10.0)
    ]
    draw_plot(bins, tmp_path / "plot.png", "middle")
    picture = cv2.imread(str(tmp_path / "plot.png"))
    assert picture.shape[:2] == (round(3.6 * 110) * rows, round((2 + 4.5 * min(models, 3)) * 110))
    # The five colors of the lines are in it.
    for red, green, blue in ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189)):
        assert (picture == (blue, green, red)).all(axis=2).any()


def test_long_paths_of_models_leave_the_titles_apart(tmp_path: Path) -> None:
    models = [
        "/home/somebody/trained on the hospital's own data/model.safetensors",
        f"/b/{'long' * 20}.safetensors",
    ]
    draw_plot([Bin(model, "box", 0.0, 5.0, 2.0, 0.9, 1) for model in models], tmp_path / "plot.png", "middle")
    picture = cv2.imread(str(tmp_path / "plot.png"))
    titles = (picture[:35] < 128).any(axis=(0, 2))
    # Between the two panels, and between the second one and the legend, nothing is written.
    assert longest_gap(titles[500:700]) > 20 and longest_gap(titles[1050:1150]) > 10


def longest_gap(is_dark: np.ndarray) -> int:
    """The length of the longest run of False."""
    return max(len(run) for run in "".join("x" if dark else " " for dark in is_dark).split("x"))


def test_a_model_is_named_by_as_much_of_its_path_as_tells_it_apart() -> None:
    assert short_names(["tiny", "/a/b/model.safetensors"]) == {
        "tiny": "tiny",
        "/a/b/model.safetensors": "model.safetensors",
    }
    one, two = str(Path("/x/one/model.pt")), str(Path("/x/two/model.pt"))
    assert short_names([one, two]) == {one: str(Path("one/model.pt")), two: str(Path("two/model.pt"))}
    long = f"/x/{'y' * 60}.pt"
    assert len(short_names([long])[long]) == 40 and short_names([long])[long].endswith("yy.pt")
