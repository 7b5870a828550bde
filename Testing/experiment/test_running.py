"""A run of the experiment: one bad case is a row, nothing is done twice, and every figure is written."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from filelock import FileLock

from SAM2PropagateLib.cli.main import main
from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.experiment import running
from SAM2PropagateLib.experiment.plan import EACH, STATE_FOLDER
from SAM2PropagateLib.experiment.running import BINS_NAME, CSV_NAME, PLOT_NAME, TABLE_NAME
from SAM2PropagateLib.experiment.table import Bin
from SAM2PropagateLib.models.store import ModelStore
from Testing.experiment.bright import ExperimentRun, as_image, ball, bright_models, image_of
from Testing.experiment.layouts import write_decathlon

LABEL = ball().astype(np.uint8) + 1 * ball(radius=1.5)  # 2 inside 1


@pytest.fixture(autouse=True)
def models() -> Iterator[list[str]]:
    """Every model finds what is bright."""
    with bright_models() as opened:
        yield opened


@pytest.fixture(autouse=True, scope="module")
def picture_is_drawn_once() -> Iterator[None]:
    """It takes longer than the rest of a run; `test_table` draws others."""
    draw, drawn = running.draw_plot, []

    def draw_once(bins: Sequence[Bin], path: Path, where: str) -> None:
        if not drawn:
            draw(bins, path, where)
            drawn.append(path.read_bytes())
        path.write_bytes(drawn[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "draw_plot", draw_once)
        yield


def write_task(folder: Path, *names: str, label: np.ndarray = LABEL) -> Path:
    cases = {name: (image_of(ball()), as_image(label)) for name in names}
    return write_decathlon(folder / "Task03_Liver", ("CT",), {1: "liver", 2: "cancer"}, cases)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / CSV_NAME).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_all_labels_are_one_structure_as_in_the_paper(tmp_path: Path) -> None:
    task = write_task(tmp_path, "liver_0", "liver_1")
    run = ExperimentRun()
    result = run(task, tmp_path / "out")
    assert (result.total, result.failed, run.total, run.already) == (2, 0, 2, 0)
    found = rows(tmp_path / "out")
    assert [(row["case"], row["prompt"]) for row in found] == [
        (case, prompt)
        for case in ("liver_0", "liver_1")
        for prompt in ("1 click", "3 clicks", "5 clicks", "box", "mask")
    ]
    assert {row["structure"] for row in found} == {"all labels"}
    for row in found:
        # What is bright is the structure. The ball's third slice of seven is its middle one.
        assert (row["state"], row["dice"], row["dice_in_ends"], row["nsd"]) == (
            "done",
            "1.0000",
            "1.0000",
            "1.0000",
        )
        assert (row["slice"], row["first_slice"], row["last_slice"]) == ("5", "2", "8")
        assert (row["goes_on"], row["fades"], row["held"]) == ("no", "no", "1.0000")
        assert row["too_much"] == ("" if row["prompt"] == "mask" else "no")
        # Nothing is wrong after the first click.
        assert row["clicks"] == ("1" if "click" in row["prompt"] else "0")
    assert result.table[0] == "tiny" and result.table[1].split()[:2] == ["STRUCTURE", "PROMPT"]
    assert len(result.table) == 7 and "all labels" in result.table[2]
    assert result.table[2].split()[-3:] == ["0/2", "0/2", "0/2"] and result.table[6].split()[-3] == "-"
    assert (tmp_path / "out" / TABLE_NAME).read_text(encoding="utf-8").splitlines() == list(result.table)
    assert (tmp_path / "out" / PLOT_NAME).read_bytes().startswith(b"\x89PNG")


def test_each_label_by_itself_has_a_mean(tmp_path: Path) -> None:
    task = write_task(tmp_path, "liver_0")
    result = ExperimentRun()(task, tmp_path / "out", structures=EACH, kinds=("box", "mask"))
    found = rows(tmp_path / "out")
    assert [(row["structure"], row["prompt"]) for row in found] == [
        *(("liver", "box"), ("liver", "mask"), ("cancer", "box"), ("cancer", "mask"))
    ]
    # The cancer is a part of what is bright.
    liver, cancer = float(found[0]["dice"]), float(found[2]["dice"])
    assert liver > 0.9 > cancer and found[2]["too_much"] == found[2]["goes_on"] == "yes"
    mean = next(line for line in result.table if line.startswith("MEAN"))
    assert mean.split()[1:4] == ["box", "2", f"{(liver + cancer) / 2:.3f}"]


def test_labels_with_one_name_have_a_row_each(tmp_path: Path) -> None:
    cases = {"liver_0": (image_of(ball()), as_image(LABEL))}
    task = write_decathlon(tmp_path / "Task03_Liver", ("CT",), {1: "liver", 2: "liver"}, cases)
    ExperimentRun()(task, tmp_path / "out", structures=EACH, kinds=("box",))
    assert [row["structure"] for row in rows(tmp_path / "out")] == ["liver", "liver (2)"]


def test_a_structure_that_a_case_does_not_have_is_told(tmp_path: Path) -> None:
    task = write_task(tmp_path, "liver_0", label=ball().astype(np.uint8))
    ExperimentRun()(task, tmp_path / "out", structures=EACH, kinds=("box",))
    found = rows(tmp_path / "out")
    assert [(row["structure"], row["state"]) for row in found] == [
        ("liver", "done"),
        ("cancer", "not in this case"),
    ]
    assert found[1]["message"] == "The label has no voxel of “cancer”."


def test_what_is_wrong_with_a_case_stays_with_it(tmp_path: Path) -> None:
    task = write_task(tmp_path, "a", "no_label", "empty", "moved", "fraction", "other", "z")
    labels = task / "labelsTr"
    (labels / "no_label.nii.gz").unlink()
    sitk.WriteImage(as_image(0 * LABEL), str(labels / "empty.nii.gz"))
    sitk.WriteImage(as_image(LABEL[:-1]), str(labels / "moved.nii.gz"))
    sitk.WriteImage(as_image(LABEL * 0.3), str(labels / "fraction.nii.gz"))
    sitk.WriteImage(as_image(LABEL + 5 * (LABEL == 2)), str(labels / "other.nii.gz"))
    (task / "imagesTr" / "z.nii.gz").unlink()
    run = ExperimentRun()
    result = run(task, tmp_path / "out", kinds=("box",))
    found = {row["case"]: row for row in rows(tmp_path / "out")}
    assert {case: row["state"] for case, row in found.items()} == {
        **dict.fromkeys(("a", "other"), "done"),
        **dict.fromkeys(("no_label", "empty", "moved", "fraction", "z"), "failed"),
    }
    assert (result.total, result.failed) == (7, 5)
    for case, words in {
        "no_label": "There is no file",
        "empty": "is empty: label its structures first",
        "moved": "does not lie on the voxels of its image",
        "fraction": "is not a label volume",
        "z": "There is no image",
    }.items():
        assert words in found[case]["message"] and found[case]["message"].endswith("."), case
    # A label that dataset.json does not have: the case counts, without it, and that is told.
    assert "also holds 7, which no description names" in found["other"]["message"]
    assert float(found["other"]["dice"]) > 0.9


def test_an_unexpected_fault_stays_with_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from SAM2PropagateLib.experiment import work

    real = work.evaluate_prompt

    def broken(target, *arguments):  # type: ignore[no-untyped-def]
        if target.target.case == "a":
            raise ZeroDivisionError("by zero")
        return real(target, *arguments)

    monkeypatch.setattr(work, "evaluate_prompt", broken)
    ExperimentRun()(write_task(tmp_path, "a", "b"), tmp_path / "out", kinds=("box",))
    first, second = rows(tmp_path / "out")
    assert (first["state"], second["state"]) == ("failed", "done")
    assert first["message"] == "It failed unexpectedly (ZeroDivisionError: by zero)."


def test_a_path_that_the_system_refuses_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SAM2PropagateLib.experiment import work

    def closed(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/closed/label.nii.gz")

    monkeypatch.setattr(work, "LoadedCase", closed)
    ExperimentRun()(write_task(tmp_path, "a"), tmp_path / "out", kinds=("box",))
    (row,) = rows(tmp_path / "out")
    assert row["message"].startswith("“/closed/label.nii.gz” cannot be used: Permission denied.")


def test_models_take_turns_and_each_is_loaded_once(tmp_path: Path, models: list[str]) -> None:
    task = write_task(tmp_path, "a", "b")
    result = ExperimentRun()(task, tmp_path / "out", models=("tiny", "large"), kinds=("box",))
    assert [(row["model"], row["case"]) for row in rows(tmp_path / "out")] == [
        *(("tiny", "a"), ("tiny", "b"), ("large", "a"), ("large", "b"))
    ]
    assert models == ["tiny", "tiny", "large", "large"]
    assert result.table[0] == "tiny" and "large" in result.table
    with (tmp_path / "out" / BINS_NAME).open(encoding="utf-8-sig") as file:
        bins = list(csv.DictReader(file))
    assert {row["model"] for row in bins} == {"tiny", "large"}
    assert (bins[0]["from_mm"], bins[0]["to_mm"], bins[0]["dice"], bins[0]["runs"]) == (
        "0",
        "0",
        "1.0000",
        "2",
    )


def test_several_data_sets_have_rows_of_their_own(tmp_path: Path) -> None:
    one, two = write_task(tmp_path / "x", "a"), tmp_path / "Task09_Spleen"
    shutil.copytree(write_task(tmp_path / "y", "a"), two)
    (two / "labelsTr" / "a.nii.gz").unlink()
    sitk.WriteImage(as_image(ball().astype(np.uint8)), str(two / "labelsTr" / "a.nii.gz"))
    result = ExperimentRun()((one, two), tmp_path / "out", kinds=("box",), structures=EACH)
    found = [(row["dataset"], row["case"], row["structure"]) for row in rows(tmp_path / "out")]
    assert found == [
        *(("Task03_Liver", "a", "liver"), ("Task03_Liver", "a", "cancer")),
        *(("Task09_Spleen", "a", "liver"), ("Task09_Spleen", "a", "cancer")),
    ]
    titles = [line.partition("  ")[0] for line in result.table[2:]]
    assert titles == ["Task03_Liver: liver", "Task03_Liver: cancer", "Task09_Spleen: liver", "MEAN"]
    assert result.table[-1].split()[2] == "3"


def test_nothing_is_done_twice(tmp_path: Path) -> None:
    task = write_task(tmp_path, "a", "b")
    stopped = ExperimentRun(stop_after=3)
    with pytest.raises(Cancelled):
        stopped(task, tmp_path / "out", kinds=("1", "box"))
    assert stopped.told == ["a: all labels, 1 click", "a: all labels, box", "b: all labels, 1 click"]
    half = rows(tmp_path / "out")
    assert [row["state"] for row in half] == ["done", "done", "not done yet"]
    again = ExperimentRun()
    again(task, tmp_path / "out", kinds=("1", "box"), resume=True)
    assert again.already == 1 and again.told == ["b: all labels, box"]
    assert rows(tmp_path / "out")[:2] == half[:2]
    assert [row["state"] for row in rows(tmp_path / "out")] == ["done"] * 4
    # More kinds of prompts: only those are done.
    more = ExperimentRun()
    more(task, tmp_path / "out", kinds=("1", "box", "mask"), resume=True)
    assert more.told == ["a: all labels, mask", "b: all labels, mask"]
    # Fewer: nothing is done, and the tables hold those alone.
    fewer = ExperimentRun()
    fewer(task, tmp_path / "out", kinds=("box",), resume=True)
    assert not fewer.is_opened and {row["prompt"] for row in rows(tmp_path / "out")} == {"box"}


def test_a_run_stops_between_two_slices(tmp_path: Path) -> None:
    task = write_task(tmp_path, "a")
    stopped = ExperimentRun(stop_at=13)
    with pytest.raises(Cancelled):
        stopped(task, tmp_path / "out", kinds=("box", "mask"))
    # Ten slices of the box, three of the mask.
    assert stopped.slices == 13 and stopped.told == ["a: all labels, box", "a: all labels, mask"]
    again = ExperimentRun()
    again(task, tmp_path / "out", kinds=("box", "mask"), resume=True)
    assert again.told == ["a: all labels, mask"] and again.slices == 10


@pytest.mark.parametrize("change", [{"where": "largest"}, {"tolerance": 1.0}, {"structures": EACH}])
def test_what_was_made_in_another_way_is_made_again(tmp_path: Path, change: dict[str, object]) -> None:
    task = write_task(tmp_path, "a")
    ExperimentRun()(task, tmp_path / "out", kinds=("box",))
    again = ExperimentRun()
    again(task, tmp_path / "out", kinds=("box",), resume=True, **change)  # type: ignore[arg-type]
    assert again.already == 0 and again.told


def test_a_model_is_known_by_its_weights(tmp_path: Path, models: list[str]) -> None:
    task = write_task(tmp_path, "a")
    here, there = tmp_path / "here" / "one.safetensors", tmp_path / "there" / "two.safetensors"
    for file in (here, there):
        file.parent.mkdir()
        file.write_bytes(b"weights")
    os.utime(there, (1, 1))

    def evaluate(model: Path, *more: str) -> str:
        words = ["evaluate", "--protocol", "shen2024", "--cases", str(task), "--prompt", "box", *more]
        stderr = io.StringIO()
        words += ["--model", str(model), "--out", str(tmp_path / "out")]
        store = ModelStore(cache=tmp_path / "cache")
        assert main(words, store=store, stdout=io.StringIO(), stderr=stderr) == 0, stderr.getvalue()
        return stderr.getvalue()

    evaluate(here)
    assert len(models) == 1
    # The same model at another place and under another name: everything is finished.
    assert "1 of 1 cases are finished already." in evaluate(there, "--resume") and len(models) == 1
    assert [row["model"] for row in rows(tmp_path / "out")] == [str(there)]
    # Another model at the same place.
    there.write_bytes(b"other weights")
    assert "finished already" not in evaluate(there, "--resume") and len(models) == 2


def test_a_case_that_has_changed_is_done_again(tmp_path: Path) -> None:
    task = write_task(tmp_path, "a", "b")
    ExperimentRun()(task, tmp_path / "out", kinds=("box",))
    sitk.WriteImage(as_image(ball(radius=2).astype(np.uint8)), str(task / "labelsTr" / "b.nii.gz"))
    again = ExperimentRun()
    again(task, tmp_path / "out", kinds=("box",), resume=True)
    assert again.told == ["b: all labels, box"]
    assert float(rows(tmp_path / "out")[1]["dice"]) < 0.9


def test_results_are_not_replaced_unasked(tmp_path: Path) -> None:
    task = write_task(tmp_path, "a")
    ExperimentRun()(task, tmp_path / "out", kinds=("box",))
    with pytest.raises(InputError) as error:
        ExperimentRun()(task, tmp_path / "out", kinds=("box",))
    assert error.value.code == "experiment_exists" and "--resume" in error.value.hint
    again = ExperimentRun()
    again(task, tmp_path / "out", kinds=("box",), overwrite=True)
    assert again.told == ["a: all labels, box"]


def test_without_workers_nothing_is_written(tmp_path: Path) -> None:
    task = write_task(tmp_path, "a")
    with pytest.raises(SAM2PropagateError, match="cannot be reached"):
        ExperimentRun(no_workers=SAM2PropagateError("x", "It cannot be reached."))(task, tmp_path / "out")
    assert [one.name for one in (tmp_path / "out").iterdir()] == [STATE_FOLDER]
    assert ExperimentRun()(task, tmp_path / "out", kinds=("box",)).failed == 0


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("name", [CSV_NAME, BINS_NAME, PLOT_NAME, TABLE_NAME])
def test_files_of_the_user_are_not_replaced(tmp_path: Path, name: str, how: dict[str, bool]) -> None:
    task = write_task(tmp_path, "a")
    (tmp_path / name).write_text("mine", encoding="utf-8")
    run = ExperimentRun()
    with pytest.raises(InputError) as raised:
        run(task, tmp_path, kinds=("box",), **how)
    assert raised.value.code == "output_exists" and name in raised.value.sentence
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine" and not run.is_opened


def test_a_case_that_is_listed_twice_counts_once(tmp_path: Path) -> None:
    task = write_task(tmp_path, "a", "b")
    description = json.loads((task / "dataset.json").read_text(encoding="utf-8"))
    description["training"].append(description["training"][0])
    (task / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    assert ExperimentRun()(task, tmp_path / "out", kinds=("box",)).total == 2


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / STATE_FOLDER).mkdir(parents=True)
    with FileLock(out / STATE_FOLDER / "lock"), pytest.raises(InputError) as error:
        ExperimentRun()(write_task(tmp_path, "a"), out)
    assert error.value.code == "experiment_running"


def test_what_a_killed_run_had_begun_is_tidied(tmp_path: Path) -> None:
    task = write_task(tmp_path, "a")
    out = tmp_path / "out"
    (out / STATE_FOLDER).mkdir(parents=True)
    left = [out / STATE_FOLDER / ".x.json-1.part", out / f".{CSV_NAME}-1.part"]
    other = out / ".mine-1.part"
    for path in (*left, other):
        path.touch()
    ExperimentRun()(task, out, kinds=("box",))
    assert not any(path.exists() for path in left) and other.exists()


def test_a_record_that_cannot_be_read_is_made_again(tmp_path: Path) -> None:
    task = write_task(tmp_path, "a")
    ExperimentRun()(task, tmp_path / "out", kinds=("box",))
    (record,) = (tmp_path / "out" / STATE_FOLDER).glob("*.json")
    record.write_text(record.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    again = ExperimentRun()
    again(task, tmp_path / "out", kinds=("box",), resume=True)
    assert again.told == ["a: all labels, box"]


def test_scattered_structures_are_apart(tmp_path: Path) -> None:
    scattered = np.zeros(LABEL.shape, np.uint8)
    scattered[2:9:2, 1::6, 1::5] = 1
    scattered[3, 1:5, 1:5] = 1
    task = write_task(tmp_path, "a")
    sitk.WriteImage(as_image(scattered), str(task / "labelsTr" / "a.nii.gz"))
    result = ExperimentRun()(task, tmp_path / "out", kinds=("box",), structures=EACH)
    assert "liver (apart)" in result.table[2] and not any("MEAN" in line for line in result.table)
    assert rows(tmp_path / "out")[0]["counts"] == "no"
    # Nothing that counts, so there is nothing to draw.
    assert not (tmp_path / "out" / PLOT_NAME).exists()
