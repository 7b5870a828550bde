"""A run of a cohort: faults stay with their volume, nothing is done twice, and nobody's work is replaced."""

from __future__ import annotations

import csv
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from SAM2PropagateLib.cohort import on_worker
from SAM2PropagateLib.cohort.on_worker import VolumeWork
from SAM2PropagateLib.cohort.running import PAGE_NAME, TABLE_NAME
from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.files.segmentation import read_segmentation
from SAM2PropagateLib.worker.messages import LoadModel
from Testing.cli.fake_session import FakeJobSession
from Testing.cohort.cases import CohortRun, write_manifest, write_volumes


def table(out: Path) -> list[dict[str, str]]:
    with (out / TABLE_NAME).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def stamps(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.seg.nrrd")}


def test_every_volume_gets_a_segmentation_and_a_report(tmp_path: Path) -> None:
    write_volumes(tmp_path, "a.nrrd", "b.nrrd")
    manifest = write_manifest(
        tmp_path, "a.nrrd,liver,{inside}", "a.nrrd,spleen,{inside}", "b.nrrd,x,{inside}"
    )
    run = CohortRun()
    result = run(manifest, tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert (result.volumes, result.done, result.failed) == (2, 2, 0)
    liver, spleen = read_segmentation(out / "a.seg.nrrd").segments
    assert (liver.name, spleen.name) == ("liver", "spleen") and liver.mask.any()
    report = json.loads((out / "a.json").read_text(encoding="utf-8"))
    assert report["complete"] and [one["name"] for one in report["segments"]] == ["liver", "spleen"]
    assert report["output"] == str(out / "a.seg.nrrd")
    rows = table(out)
    assert {(row["name"], row["segment"], row["state"]) for row in rows} == {
        ("a", "liver", "done"),
        ("a", "spleen", "done"),
        ("b", "x", "done"),
    }
    (row,) = (row for row in rows if row["segment"] == "x")
    voxels = int(np.count_nonzero(read_segmentation(out / "b.seg.nrrd").segments[0].mask))
    assert int(row["voxels"]) == voxels and float(row["ml"]) == pytest.approx(voxels * 0.006)
    assert (row["slices"], row["first_slice"], row["last_slice"]) == ("8", "0", "7")
    # The worst of eight slices, and none of 0.5 or more but those from 5 on.
    assert (row["doubt"], row["doubtful_slices"]) == ("0.7", "3")


def test_a_volume_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    write_volumes(tmp_path, "good.nrrd", "wrong.nrrd")
    (tmp_path / "broken.nrrd").write_bytes(b"NRRD0004\nnothing")
    manifest = write_manifest(
        tmp_path,
        "gone.nrrd,a,{inside}",
        "broken.nrrd,a,{inside}",
        "wrong.nrrd,a,--point-ras 500 500 500",
        "wrong2.nrrd,a,--point-ras 5",
        "good.nrrd,a,{inside}",
    )
    run = CohortRun()
    result = run(manifest, tmp_path / "out")
    assert (result.done, result.failed) == (1, 4)
    told = {row["name"]: row["message"] for row in table(tmp_path / "out") if row["state"] == "failed"}
    assert "There is no file" in told["gone"] and "broken.nrrd" in told["broken"]
    assert "outside" in told["wrong"] or "volume" in told["wrong"]
    assert told["wrong2"].startswith("Row 5: Argument --point-ras: expected 3 arguments")
    assert all(outcome.error is None or outcome.error.hint for outcome in run.outcomes)
    assert sorted(stamps(tmp_path / "out")) == ["good.seg.nrrd"]


def test_a_path_that_the_system_refuses_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SAM2PropagateLib.cohort import job

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/closed/model.pt")

    monkeypatch.setattr(job, "run_segment_job", closed)
    write_volumes(tmp_path, "a.nrrd")
    CohortRun()(write_manifest(tmp_path, "a.nrrd,x,{inside}"), tmp_path / "out")
    (row,) = table(tmp_path / "out")
    assert row["message"].startswith("“/closed/model.pt” cannot be used: Permission denied.")


def test_resume_skips_finished_volumes_and_repeats_failed_ones(tmp_path: Path) -> None:
    write_volumes(tmp_path, "a.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}", "b.nrrd,x,{inside}")
    out = tmp_path / "out"
    first = CohortRun()
    assert first(manifest, out).failed == 1 and first.computed == ["a", "b"]
    before = stamps(out)
    write_volumes(tmp_path, "b.nrrd")
    second = CohortRun()
    assert second(manifest, out, resume=True).failed == 0
    assert second.computed == ["b"] and (second.total, second.already) == (2, 1)
    assert stamps(out)["a.seg.nrrd"] == before["a.seg.nrrd"]
    assert {row["state"] for row in table(out)} == {"done"} and len(table(out)) == 2
    third = CohortRun()
    assert third(manifest, out, resume=True).done == 2
    # Not even workers were asked for.
    assert third.computed == [] and not third.is_opened


def test_a_folder_with_a_cohort_is_not_written_into_by_accident(tmp_path: Path) -> None:
    write_volumes(tmp_path, "a.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}")
    CohortRun()(manifest, tmp_path / "out")
    with pytest.raises(InputError, match="holds a cohort already") as raised:
        CohortRun()(manifest, tmp_path / "out")
    assert raised.value.code == "cohort_exists" and "--resume" in raised.value.hint
    again = CohortRun()
    again(manifest, tmp_path / "out", overwrite=True)
    assert again.computed == ["a"]


def test_without_workers_nothing_is_written(tmp_path: Path) -> None:
    write_volumes(tmp_path, "a.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}")
    out = tmp_path / "out"
    with pytest.raises(SAM2PropagateError, match="cannot be reached"):
        CohortRun(no_workers=SAM2PropagateError("x", "It cannot be reached."))(manifest, out)
    assert [one.name for one in out.iterdir()] == [".cohort"]
    # With the right address it is a first run, not one to resume.
    assert CohortRun()(manifest, out).done == 1


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("name", [TABLE_NAME, PAGE_NAME])
def test_files_of_the_user_are_not_replaced_by_table_and_page(
    tmp_path: Path, name: str, how: dict[str, Any]
) -> None:
    write_volumes(tmp_path, "a.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}")
    # The list itself may be called so.
    (tmp_path / name).write_bytes(manifest.read_bytes())
    run = CohortRun()
    with pytest.raises(InputError) as raised:
        run(manifest, tmp_path, **how)
    assert raised.value.code == "output_exists" and name in raised.value.sentence
    assert (tmp_path / name).read_bytes() == manifest.read_bytes() and not run.is_opened


def test_a_file_beside_a_volume_is_not_replaced_by_its_report(tmp_path: Path) -> None:
    write_volumes(tmp_path, "a.nrrd", "b.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}", "b.nrrd,x,{inside}")
    # Prompts, or what other programs note of a scan, under the scan's name.
    (tmp_path / "a.json").write_text('{"EchoTime": 0.1}', encoding="utf-8")
    result = CohortRun()(manifest, tmp_path)
    assert (result.done, result.failed) == (1, 1)
    assert "is no report of a segmentation" in table(tmp_path)[0]["message"]
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{"EchoTime": 0.1}'
    assert not (tmp_path / "a.seg.nrrd").exists()
    again = CohortRun()
    assert again(manifest, tmp_path, resume=True, overwrite=True).failed == 1 and again.computed == ["a"]
    (tmp_path / "a.json").unlink()
    assert CohortRun()(manifest, tmp_path, resume=True).done == 2
    # Reports of runs are replaced.
    assert CohortRun()(manifest, tmp_path, overwrite=True).done == 2


def test_a_segmentation_of_another_run_is_not_replaced(tmp_path: Path) -> None:
    write_volumes(tmp_path, "a.nrrd")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.seg.nrrd").write_bytes(b"hours of editing")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}")
    assert CohortRun()(manifest, out).failed == 1
    assert (out / "a.seg.nrrd").read_bytes() == b"hours of editing"
    assert "exists already" in table(out)[0]["message"]
    # The same for one that it made, once its prompts are others.
    (out / "a.seg.nrrd").unlink()
    assert CohortRun()(manifest, out, resume=True).done == 1
    made = (out / "a.seg.nrrd").read_bytes()
    changed = write_manifest(tmp_path, "a.nrrd,y,{inside}")
    assert CohortRun()(changed, out, resume=True).failed == 1
    assert (out / "a.seg.nrrd").read_bytes() == made
    assert CohortRun()(changed, out, resume=True, overwrite=True).done == 1
    assert [one.name for one in read_segmentation(out / "a.seg.nrrd").segments] == ["y"]


@pytest.mark.parametrize("change", ["model", "volume", "manner", "gone"])
def test_a_result_of_other_inputs_is_computed_again(tmp_path: Path, change: str) -> None:
    write_volumes(tmp_path, "a.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}")
    out = tmp_path / "out"
    CohortRun()(manifest, out)
    if change == "volume":
        os.utime(tmp_path / "a.nrrd", (1, 1))
    elif change == "gone":
        (out / "a.seg.nrrd").unlink()
    options = {"model": {"model": "other"}, "manner": {"manner": {"window": "lung"}}}.get(change, {})
    run = CohortRun()
    run(manifest, out, resume=True, overwrite=True, **options)
    assert run.computed == ["a"]


def test_a_model_is_known_by_its_weights(tmp_path: Path) -> None:
    write_volumes(tmp_path, "a.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}")
    out = tmp_path / "out"
    here = LoadModel(path="/here/a.pt", config="/here/a.yaml", device="cpu")
    there = LoadModel(path="/there/b.pt", config="/there/b.yaml", device="cuda", cache_megabytes=9.0)
    CohortRun()(manifest, out, model=here, identity="weights")
    moved = CohortRun()
    assert moved(manifest, out, model=there, identity="weights", resume=True).done == 1
    assert not moved.is_opened
    replaced = CohortRun()
    replaced(manifest, out, model=there, identity="other weights", resume=True, overwrite=True)
    assert replaced.computed == ["a"]
    # How it computes is not what it is.
    finer = CohortRun()
    finer(
        manifest,
        out,
        model=replace(there, precision="float32"),
        identity="other weights",
        resume=True,
        overwrite=True,
    )
    assert finer.computed == ["a"]


def test_a_worker_takes_up_a_model_that_was_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_worker, "this_worker", lambda: ("0", 1))
    write_volumes(tmp_path, "a.nrrd", "b.nrrd", "c.nrrd")
    manifest = write_manifest(tmp_path, *(f"{name}.nrrd,x,{{inside}}" for name in "abc"))
    made: list[FakeJobSession] = []

    def make(threads: int) -> FakeJobSession:
        made.append(FakeJobSession())
        return made[-1]

    works: list[VolumeWork] = []
    CohortRun()(manifest, tmp_path / "out", take=works.append)
    assert len(works) == 3
    for work, identity in zip(works, ("old", "old", "new"), strict=True):
        manner = replace(work.job.manner, model_identity=identity)
        same = replace(work, make_session=make, job=replace(work.job, manner=manner))
        assert on_worker.work_on(same).error is None
    # The file has the same path, but holds another model; the former one is given up.
    assert len(made) == 2 and made[0].close_timeouts == [0.0] and not made[1].close_timeouts


def test_a_stopped_run_leaves_a_table_and_can_be_resumed(tmp_path: Path) -> None:
    write_volumes(tmp_path, "a.nrrd", "b.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}", "b.nrrd,x,{inside}")
    out = tmp_path / "out"
    run = CohortRun()
    run.should_cancel = lambda: bool(run.computed)
    with pytest.raises(Cancelled):
        run(manifest, out)
    assert [(row["name"], row["state"]) for row in table(out)] == [("a", "done"), ("b", "not done yet")]
    assert "1 not done yet" in (out / PAGE_NAME).read_text(encoding="utf-8")
    # A run that was killed leaves files that it had begun; a user's file stays.
    left = [out / ".b.seg.nrrd-abc_12.part", out / ".cohort.csv-x.part", out / ".cohort" / ".b.json-y.part"]
    for path in (*left, out / ".mine-1.part"):
        path.write_bytes(b"")
    assert CohortRun()(manifest, out, resume=True).done == 2
    assert not any(path.exists() for path in left) and (out / ".mine-1.part").exists()


def test_two_runs_cannot_work_in_one_folder(tmp_path: Path) -> None:
    write_volumes(tmp_path, "a.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}")
    (tmp_path / "out" / ".cohort").mkdir(parents=True)
    with FileLock(tmp_path / "out" / ".cohort" / "lock"), pytest.raises(InputError) as raised:
        CohortRun()(manifest, tmp_path / "out")
    assert raised.value.code == "cohort_running"
    assert CohortRun()(manifest, tmp_path / "out").done == 1


def test_a_volume_whose_workers_keep_dying_is_told_in_a_sentence(tmp_path: Path) -> None:
    write_volumes(tmp_path, "a.nrrd", "b.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}", "b.nrrd,x,{inside}")
    died = SAM2PropagateError("worker_died", "The worker has ended unexpectedly.")
    result = CohortRun(FakeJobSession(errors={"propagate": died}))(manifest, tmp_path / "out")
    assert result.failed == 2
    assert "died, and again in 3 more tries" in table(tmp_path / "out")[0]["message"]
    full = SAM2PropagateError("out_of_memory", "Not enough memory.", "Use less.")
    CohortRun(FakeJobSession(errors={"propagate": full}))(manifest, tmp_path / "out", resume=True)
    assert table(tmp_path / "out")[0]["message"] == "Not enough memory. Use less."


def test_an_unexpected_failure_costs_only_its_own_volume(tmp_path: Path) -> None:
    write_volumes(tmp_path, "a.nrrd", "b.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}", "b.nrrd,x,{inside}")
    run = CohortRun()

    def explode(_: object) -> None:
        run.session.on_wait = lambda call: None
        raise ZeroDivisionError("by nothing")

    run.session.on_wait = explode
    result = run(manifest, tmp_path / "out")
    assert (result.done, result.failed) == (1, 1)
    assert "failed unexpectedly (ZeroDivisionError: by nothing)" in table(tmp_path / "out")[0]["message"]


def test_the_segmentation_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volumes(tmp_path, "a.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}")
    out = tmp_path / "out"

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        assert (out / "a.json").is_file() and (out / ".cohort" / "a.json").is_file()
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("SAM2PropagateLib.cohort.job.write_segmentation", killed)
        CohortRun()(manifest, out)
    run = CohortRun()
    assert run(manifest, out, resume=True).done == 1 and run.computed == ["a"]


def test_a_run_killed_before_it_replaced_a_segmentation_does_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_volumes(tmp_path, "a.nrrd")
    manifest = write_manifest(tmp_path, "a.nrrd,x,{inside}")
    out = tmp_path / "out"
    CohortRun()(manifest, out)
    former = (out / "a.seg.nrrd").read_bytes()
    lung: dict[str, Any] = {"manner": {"window": "lung"}, "resume": True, "overwrite": True}

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("SAM2PropagateLib.cohort.job.write_segmentation", killed)
        CohortRun()(manifest, out, **lung)
    assert (out / "a.seg.nrrd").read_bytes() == former
    run = CohortRun()
    assert run(manifest, out, **lung).done == 1 and run.computed == ["a"]
    run = CohortRun()
    assert run(manifest, out, **lung).done == 1 and not run.is_opened
