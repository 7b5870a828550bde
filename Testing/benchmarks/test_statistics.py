"""Spreads, ratios, percentiles, and the record of a run."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from Testing.benchmarks import machine
from Testing.benchmarks.report import BenchmarkReport, figure, table
from Testing.benchmarks.statistics import mean, paired_ratios, percentile, spread

PROFILE = settings(max_examples=80, deadline=None, database=None)
POSITIVE = st.floats(0.001, 1000)


def test_a_spread_is_median_and_extremes() -> None:
    one = spread([3.0, 1.0, 2.0, 10.0])
    assert (one.median, one.low, one.high, one.count) == (2.5, 1.0, 10.0, 4)
    assert one.text(1) == "2.5 (1.0 to 10.0)"
    assert spread([2.0]).text() == "2.00"
    assert spread([2.001, 2.002]).text() == "2.00"
    for values in ([], [1.0, math.nan], [math.inf]):
        with pytest.raises(ValueError, match="no spread"):
            spread(values)


def test_ratios_compare_neighbors_not_medians() -> None:
    """Rounds on a machine that is twice as slow in the second: each ratio is 2, as no ratio of medians is."""
    ratio = paired_ratios([20.0, 10.0, 6.0], [10.0, 5.0, 3.0])
    assert (ratio.median, ratio.low, ratio.high, ratio.count) == (2.0, 2.0, 2.0, 3)
    uneven = paired_ratios([4.0, 1.0, 9.0], [1.0, 2.0, 3.0])
    assert (uneven.median, uneven.low, uneven.high) == (3.0, 0.5, 4.0)
    for ours, theirs in (([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([], [])):
        with pytest.raises(ValueError, match="no"):
            paired_ratios(ours, theirs)


@PROFILE
@given(st.lists(POSITIVE, min_size=1, max_size=60), st.floats(0, 100))
def test_a_percentile_is_a_value_that_enough_do_not_exceed(values: list[float], share: float) -> None:
    limit = percentile(values, share)
    assert limit in values
    below = sum(value <= limit for value in values)
    assert below >= share / 100 * len(values) - 1e-9
    smaller = [value for value in values if value < limit]
    assert not smaller or sum(v <= max(smaller) for v in values) < share / 100 * len(values) + 1e-9


def test_percentiles_of_few_values() -> None:
    values = [float(n) for n in range(1, 301)]
    assert percentile(values, 99) == 297.0
    assert percentile(values, 50) == 150.0
    assert percentile(values, 100) == 300.0
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="percentile"):
        percentile([], 50)
    with pytest.raises(ValueError, match="percentile"):
        percentile([1.0], 101)


def test_the_mean_of_nothing_is_no_number() -> None:
    assert mean([1.0, 2.0]) == 1.5
    assert math.isnan(mean([]))


def test_a_table_aligns_its_figures() -> None:
    text = table(["target", "Dice"], [["liver", "0.912"], ["a longer name", figure(math.nan)]])
    assert text.splitlines() == [
        "| target        |  Dice |",
        "|---------------|------:|",
        "| liver         | 0.912 |",
        "| a longer name |     - |",
    ]
    assert figure(None) == "-" and figure(1.23456, 2) == "1.23"


def test_a_record_says_where_when_and_on_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = BenchmarkReport("accuracy", "Accuracy", {"prompt": "box"})
    report.say("A sentence.")
    report.figures["value"] = math.nan
    report.figures["values"] = (1.0, math.inf)
    readable, complete = report.write(tmp_path / "new")
    values = json.loads(complete.read_text(encoding="utf-8"))
    assert values["format"] == "sam2propagate-benchmark" and values["benchmark"] == "accuracy"
    assert values["figures"] == {"value": None, "values": [1.0, None]}
    assert values["machine"]["cores"] >= 1 and values["machine"]["packages"]["numpy"] == np.__version__
    text = readable.read_text(encoding="utf-8")
    assert text.startswith("# Accuracy\n") and "A sentence." in text and "prompt=box" in text
    assert values["date"][:10] in readable.name and values["date"] in text
    assert capsys.readouterr().out == "A sentence.\n\n"
    # A second one on the same day stands beside it.
    again, _ = report.write(tmp_path / "new")
    assert again != readable and readable.read_text(encoding="utf-8") == text
    assert len(list((tmp_path / "new").iterdir())) == 4


def test_the_source_is_named_by_its_commit() -> None:
    source = machine.describe_source()
    if not source:
        pytest.skip("this tree is no git repository")
    assert len(source["commit"]) == 40 and source["changed_files"] >= 0


def test_peak_main_memory_grows_with_what_was_held_and_does_not_shrink() -> None:
    before = machine.peak_memory()
    if before is None:
        pytest.skip("this system does not tell a process's peak main memory")
    block = np.ones(256 << 20, np.uint8)
    during = machine.peak_memory()
    size = block.nbytes
    del block
    after = machine.peak_memory()
    assert during is not None and after is not None
    # The kernel counts in batches per thread, so the figure may waver by a little.
    slack = 16 << 20
    assert after + slack >= during >= size and during + slack >= before
    if sys.platform == "linux":
        assert machine.peak_memory(os.getpid()) is not None
        assert machine.peak_memory(2**22 + 12345) is None


def test_measured_processes_wait_without_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert machine.child_environment()["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    environment = machine.child_environment(EXTRA="1")
    assert environment["OMP_WAIT_POLICY"] == "ACTIVE" and environment["EXTRA"] == "1"


def test_a_file_s_hash(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.write_bytes(b"abc")
    assert machine.file_hash(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
