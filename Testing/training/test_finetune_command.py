"""`finetune` and `evaluate` on the command line, and `segment` with what came out."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from SAM2PropagateLib.cli import finetune as finetune_command
from SAM2PropagateLib.cli.evaluate import EvaluateCommand
from SAM2PropagateLib.cli.main import main, parse_arguments
from SAM2PropagateLib.cohort import on_worker
from SAM2PropagateLib.cohort.fleet import Sharing
from SAM2PropagateLib.engine.build import build_model, model_config
from SAM2PropagateLib.engine.weights import read_state
from SAM2PropagateLib.files.segmentation import read_segmentation
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.training import recipe
from SAM2PropagateLib.training.finetune import FinetuneResult, can_resume, work_folder
from SAM2PropagateLib.training.parts import HEADS, MEMORY, PROMPTS, part_of
from Testing.cohort.cases import SerialFleet, forked_workers
from Testing.training.samples import ShortClips, loaded, write_case
from Testing.worker.forked import REAL, forks
from Testing.worker.helpers import forked_session

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("outlines")
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's own recipe, with fewer frames in a clip."""
    monkeypatch.setattr(recipe, "Recipe", ShortClips)


def cli(tmp_path: Path, *words: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    store = ModelStore(cache=tmp_path / "cache", resources=tmp_path / "resources")
    given = [str(word) for word in words]
    code = main(given, session_factory=forked_session, store=store, stdout=out, stderr=err)
    return code, out.getvalue(), err.getvalue()


def test_an_official_checkpoint_goes_through_the_commands(tmp_path: Path) -> None:
    # It is large: few slices.
    cases = tmp_path / "cases"
    for number in range(3):
        write_case(cases, f"p{number}", seed=number, slices=4, radius=1.4)
    torch.manual_seed(0)
    official = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": build_model(model_config("sam2.1_hiera_t.yaml", 64)).state_dict()}, official)
    new, small = tmp_path / "mine.safetensors", ("--input-size", 64, "--device", "cpu")
    words = ("finetune", "--cases", cases, "--from", official, "--out", new, "--epochs", 1, *small)
    code, out, err = cli(tmp_path, *words)
    assert code == 0, err
    assert f"Wrote {new} after 2 steps" in out and "prompted slice" in out
    assert "Reading 2 cases of 2 patients to learn from and 1 case of 1 patient to measure on" in err
    assert "Training on 2 structures of 2 cases" in err and "After 2 steps" in err
    assert re.search(r"Training: step 1, 50% done, \d+\.\d min, loss \d+\.\d{3}", err)
    assert loaded(new).input_size == 64  # its configuration comes along
    table = tmp_path / "table.json"
    code, out, err = cli(tmp_path, "evaluate", "--cases", cases, "--model", official, "--out", table, *small)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["TARGET", "PREVIEW", "VOLUME"] and lines[4].startswith("MEAN OF 3")
    written = json.loads(table.read_text(encoding="utf-8"))
    assert len(written["targets"]) == 3 and written["input_size"] == 64
    for target in written["targets"]:
        assert 0 <= target["volume"] <= 1 and len(target["scores"]["after"]) == 3
    mean = np.mean([target["preview"] for target in written["targets"]])
    assert written["mean"]["preview"] == pytest.approx(mean)
    # With the real worker: the file needs no --config.
    found = tmp_path / "found.seg.nrrd"
    code, out, err = cli(
        tmp_path,
        *("segment", cases / "p0" / "image.nii.gz", "--model", new, "--device", "cpu", "--range", 1, 3),
        *("--point-ras", -20, -16, 4, "--out", found),
    )
    assert code == 0, err
    assert read_segmentation(found).geometry.shape_ijk == (48, 40, 4)


def test_workers_evaluate_as_this_process_does(cases: Path, model: Path, tmp_path: Path) -> None:
    given = ("evaluate", "--cases", cases, "--model", model, "--device", "cpu", "--out")
    code, _, err = cli(tmp_path, *given, tmp_path / "here.json")
    assert code == 0, err
    with forked_workers():
        code, _, err = cli(tmp_path, *given, tmp_path / "there.json", "--workers", 1)
    assert code == 0, err
    assert "3 of 3 cases" in err
    here, there = (
        json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("here.json", "there.json")
    )
    for document in (here, there):
        for target in document["targets"]:
            target["slices_per_second"] = 0
            target["scores"] |= {"seconds": 0, "correction_seconds": 0}
        document["mean"]["slices_per_second"] = 0
    assert here == there


def test_workers_encode_before_the_training(
    cases: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stand-in for the workers; that their looks are the same is seen in `test_finetune`."""
    asked: list[Sharing] = []

    def workers(sharing: Sharing, *_: object) -> AbstractContextManager[SerialFleet]:
        asked.append(sharing)
        return nullcontext(SerialFleet())

    monkeypatch.setattr(finetune_command, "open_workers", workers)
    monkeypatch.setattr(on_worker, "begin_computing", lambda device, gpus: device)
    new = tmp_path / "mine.safetensors"
    given = ("finetune", "--cases", cases, "--from", model, "--epochs", 1, "--batch", 8, "--device", "cpu")
    code, _, err = cli(tmp_path, *given, "--out", new, "--workers", 2)
    assert code == 0 and new.is_file(), err
    assert asked == [Sharing(workers=2)]
    done, total = re.findall(r"Encoding: (\d+) of (\d+)", err)[-1]
    assert done == total != "0"
    assert err.index("Encoding: ") < err.index("Training: step")


def test_cases_to_measure_on_and_further_parts(cases: Path, model: Path, tmp_path: Path) -> None:
    write_case(tmp_path / "val", "q7", seed=5)
    new = tmp_path / "mine.safetensors"
    code, _, err = cli(
        tmp_path,
        *("finetune", "--cases", cases, "--val", tmp_path / "val", "--from", model, "--out", new),
        *("--epochs", 1, "--batch", 4, "--unfreeze", "prompts", "--device", "cpu", "--overwrite"),
    )
    assert code == 0, err
    assert "Reading 3 cases of 3 patients to learn from and 1 case of 1 patient to measure on" in err
    report = json.loads(new.with_suffix(".json").read_text(encoding="utf-8"))
    assert [case[0] for case in report["trained_on"]] == ["p0", "p1", "p2"]
    assert [case[0] for case in report["measured_on"]] == ["q7"]
    assert report["recipe"]["batch"] == 4 and report["steps"] == 6
    before, after = read_state(model)[0], read_state(new)[0]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    # That prompts learn at all is seen in `test_finetune`: the file holds what did best, maybe the start.
    assert {part_of(name) for name in moved} <= {MEMORY, HEADS, PROMPTS}
    assert bool(moved) == (report["kept"]["step"] > 0)


# --- as a process of its own


def start(tmp_path: Path, *words: object) -> Any:
    paths = os.pathsep.join([str(ROOT / "SAM2Propagate"), str(ROOT)])
    return forks(REAL)(
        [sys.executable, "-m", "Testing.training.outlining_cli", str(tmp_path / "cache"), *map(str, words)],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(process: Any, text: str) -> None:
    """Read stderr up to a line with `text`."""
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended without saying {text!r}")


@posix_only
def test_a_process_that_is_stopped_and_killed_goes_on_to_the_same_weights(
    cases: Path, model: Path, tmp_path: Path
) -> None:
    given = ("finetune", "--cases", cases, "--from", model, "--epochs", 1, "--batch", 4, "--device", "cpu")
    whole, new = tmp_path / "whole.safetensors", tmp_path / "new.safetensors"
    started = time.monotonic()
    code, _, err = cli(tmp_path, *given, "--out", whole)
    assert code == 0, err
    seconds = time.monotonic() - started
    words = (*given, "--out", new)
    with start(tmp_path, *words) as process:
        wait_for(process, "Training on")
        time.sleep(random.uniform(0, 0.8 * seconds))
        process.kill()
    if can_resume(new) or not new.exists():
        with start(tmp_path, *words, *(["--resume"] if can_resume(new) else [])) as process:
            wait_for(process, "Training on")
            time.sleep(random.uniform(0, 0.2 * seconds))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=120)
        if can_resume(new):  # otherwise it was done before the signal came
            assert process.returncode == 130 and "The training was stopped. Add --resume" in err, err
            assert "Traceback" not in err
    if can_resume(new) or not new.exists():
        code, _, err = cli(tmp_path, *words, *(["--resume"] if can_resume(new) else []))
        assert code == 0, err
    assert not work_folder(new).exists()
    wanted, found = read_state(whole)[0], read_state(new)[0]
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    reports = [json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) for path in (whole, new)]
    assert reports[0]["losses"] == reports[1]["losses"] and len(reports[1]["losses"]) == 4
    assert [score["volume"] for score in reports[0]["scores"]] == [s["volume"] for s in reports[1]["scores"]]


def test_wrong_options_on_the_command_line_are_refused(cases: Path, model: Path, tmp_path: Path) -> None:
    given = ("finetune", "--cases", cases, "--from", model)
    for words, sentence in (
        ((*given, "--out", tmp_path / "a.pt"), "is not the name of a weights file"),
        ((*given, "--out", tmp_path / "a.safetensors", "--epochs", "0"), "“0” is not a whole number from 1"),
        ((*given, "--out", tmp_path / "a.safetensors", "--minutes", "-3"), "number of minutes"),
        ((*given, "--out", tmp_path / "a.safetensors", "--device", "tpu"), "no device"),
        (("evaluate", "--cases", tmp_path / "none", "--out", tmp_path / "t.json"), "There is no folder"),
        (("evaluate", "--cases", cases, "--model", "nobody", "--out", tmp_path / "t.json"), "nobody"),
    ):
        code, out, err = cli(tmp_path, *words)
        assert code == 2 and not out and sentence in err, err


def test_a_training_that_did_not_help_says_so(
    cases: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(result: FinetuneResult) -> list[str]:
        monkeypatch.setattr("SAM2PropagateLib.training.finetune.finetune", lambda *_: result)
        code, out, err = cli(tmp_path, "finetune", "--cases", cases, "--from", model, "--out", result.out)
        assert code == 0, err
        return out.splitlines()

    start = {"step": 0, "preview": 0.9, "volume": 0.7, "in_range": 0.8}
    later = {**start, "step": 5, "volume": 0.75}
    result = FinetuneResult(Path("n.safetensors"), Path("n.png"), Path("n.json"), start, start, 9, 60.0)
    assert "holds those" in told(result)[1] and "volume 0.700 -> 0.700" in told(result)[2]
    assert not any("holds those" in line for line in told(replace(result, best=later)))


def test_the_default_file_of_an_evaluation_has_the_model_s_name() -> None:
    for model, name in (
        ("sam2.1_hiera_tiny", "evaluation_sam2.1_hiera_tiny.json"),
        ("sam2.1_hiera_small", "evaluation_sam2.1_hiera_small.json"),
        ("x/My.model.v2.safetensors", "evaluation_My.model.v2.json"),
        ("sam2.1_hiera_tiny.pt", "evaluation_sam2.1_hiera_tiny.json"),
    ):
        command = parse_arguments(["evaluate", "--cases", "c", "--model", model])
        assert isinstance(command, EvaluateCommand) and command.out == Path(name)
