"""The command as a process that is killed, and with real workers of Dask."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from SAM2PropagateLib.cli.main import main
from SAM2PropagateLib.experiment.plan import STATE_FOLDER
from SAM2PropagateLib.experiment.running import CSV_NAME
from SAM2PropagateLib.models.store import ModelStore
from Testing.cohort.cases import forked_workers
from Testing.experiment.bright import as_image, ball, image_of
from Testing.experiment.layouts import write_decathlon
from Testing.training.samples import write_model
from Testing.worker.forked import REAL, forks

ROOT = Path(__file__).resolve().parents[2]
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases of few slices."""
    mask = ball(radius=4)[3:7]
    cases = {f"case_{n}": (image_of(mask), as_image(mask.astype(np.uint8))) for n in range(3)}
    return write_decathlon(tmp_path_factory.mktemp("task"), ("CT",), {1: "liver"}, cases)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one with random weights."""
    return write_model(tmp_path_factory.mktemp("model") / "small.safetensors")


def given(task: Path, model: Path, out: Path) -> list[str]:
    words = ("evaluate", "--protocol", "shen2024", "--cases", task, "--model", model, "--out", out)
    return [*map(str, words), "--device", "cpu", "--precision", "float32"]


def rows(out: Path) -> list[dict[str, str]]:
    with (out / CSV_NAME).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def wait_until(is_true: Callable[[], object], what: str) -> None:
    """Wait for as long as a very busy machine may need."""
    end = time.monotonic() + 240
    while not is_true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def finished(out: Path) -> dict[tuple[str, str], float]:
    """The seconds of each case and kind of prompt in the records."""
    found = {}
    for path in sorted((out / STATE_FOLDER).glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            found[path.name, row["kind"]] = row["scores"]["seconds"]
    return found


@posix_only
def test_a_killed_run_goes_on_and_does_nothing_twice(task: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "SAM2Propagate"), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "SAM2PropagateLib.cli", *given(task, model, out)]
    start = functools.partial(
        forks(REAL), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    with start(command) as process:
        # In the middle of the second case.
        wait_until(lambda: len(finished(out)) >= 7 or process.poll() is not None, "the second case")
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    before = finished(out)
    assert 7 <= len(before) < 15 and not (out / CSV_NAME).exists()
    with start([*command, "--resume"]) as process:
        told, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    after = finished(out)
    assert len(after) == 15 and {key: after[key] for key in before} == before
    assert "1 of 3 cases are finished already." in err
    assert "STRUCTURE" in told and [row["state"] for row in rows(out)] == ["done"] * 15
    assert not list(out.rglob("*.part"))


def test_workers_of_dask_evaluate_as_this_process_does(task: Path, model: Path, tmp_path: Path) -> None:
    store = ModelStore(cache=tmp_path / "cache")
    told = []
    for out, more in ((tmp_path / "here", []), (tmp_path / "there", ["--workers", "1"])):
        stdout, stderr = io.StringIO(), io.StringIO()
        words = [*given(task, model, out), "--prompt", "1", "box", *more]
        with forked_workers():
            assert main(words, store=store, stdout=stdout, stderr=stderr) == 0, stderr.getvalue()
        told.append(stdout.getvalue().replace(str(out), "OUT"))
    assert told[0] == told[1]
    here, there = ([{**row, "seconds": ""} for row in rows(tmp_path / name)] for name in ("here", "there"))
    assert here == there and len(here) == 6
    # Another model in the same folder: only that one is evaluated.
    stdout, stderr = io.StringIO(), io.StringIO()
    other = write_model(tmp_path / "other.safetensors", seed=1)
    words = [*given(task, model, tmp_path / "here"), "--model", str(other), "--prompt", "box", "--resume"]
    assert main(words, store=store, stdout=stdout, stderr=stderr) == 0, stderr.getvalue()
    assert "3 of 6 cases are finished already." in stderr.getvalue()
    scores = {
        name: [row["dice"] for row in rows(tmp_path / "here") if row["model"] == str(name)]
        for name in (model, other)
    }
    assert [len(found) for found in scores.values()] == [3, 3] and scores[model] != scores[other]


def test_a_bad_case_makes_the_command_fail_after_the_table(task: Path, model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "task"
    shutil.copytree(task, broken)
    (broken / "labelsTr" / "case_1.nii.gz").unlink()
    (broken / "imagesTr" / "case_2.nii.gz").write_bytes(b"nothing")
    stdout, stderr = io.StringIO(), io.StringIO()
    words = [*given(broken, model, tmp_path / "out"), "--prompt", "mask"]
    assert main(words, store=ModelStore(cache=tmp_path / "cache"), stdout=stdout, stderr=stderr) == 1
    assert "liver" in stdout.getvalue() and stdout.getvalue().splitlines()[-1].startswith("Wrote ")
    assert "Error: 2 of 3 cases failed; " in stderr.getvalue() and "--resume" in stderr.getvalue()
    assert "Failed: case_1: The case “case_1” has no label." in stderr.getvalue()
