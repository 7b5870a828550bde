"""`segment` from the files to the files, with a fake session in place of the worker."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.files.segmentation import read_segmentation
from SAM2PropagateLib.files.volume import read_volume
from SAM2PropagateLib.prompts.document import dumps
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import Click, PromptSet, SegmentPrompts
from SAM2PropagateLib.segment_report import is_report, write_report
from SAM2PropagateLib.worker.session import Run
from Testing.cli.dicom_files import write_series
from Testing.cli.fake_session import RADIUS, FakeJobSession
from Testing.cli.running import SHAPE, Outcome, ras_of, run, words, write_volume


def run_prompts(tmp_path: Path, volume: Path, prompts: dict[str, Any], out: Path) -> Outcome:
    """Segment a volume again from a report's prompts."""
    file = tmp_path / "p.json"
    file.write_text(json.dumps(prompts), encoding="utf-8")
    return run(tmp_path, "segment", volume, "--prompts", file, "--out", out, session=FakeJobSession())


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return write_volume(tmp_path / "a volume ä.nrrd")


def disc_at(i: float, j: float, planes: range) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    rows, columns = np.indices(SHAPE[1:])
    mask[planes.start : planes.stop] = (columns - i) ** 2 + (rows - j) ** 2 <= RADIUS**2
    return mask


def test_points_become_masks_on_the_right_voxels(tmp_path: Path, volume: Path) -> None:
    out, session = tmp_path / "new ö.seg.nrrd", FakeJobSession()
    outcome = run(
        tmp_path,
        *("segment", volume, "--segment", "liver", "--point-ras", *words(ras_of(7, 9, 3))),
        *("--segment", "spleen", "--point-ras", *words(ras_of(20, 5, 3)), "--range", 2, 5),
        *("--out", out),
        session=session,
    )
    assert outcome.code == 0, outcome.err
    read = read_segmentation(out)
    assert [segment.name for segment in read.segments] == ["liver", "spleen"]
    assert np.array_equal(read.segments[0].mask, disc_at(7, 9, range(8)))
    assert np.array_equal(read.segments[1].mask, disc_at(20, 5, range(2, 6)))
    assert np.array_equal(read.geometry.ijk_to_ras, read_volume(volume).geometry.ijk_to_ras)
    # Nothing but the result line on stdout, and all shared things given back.
    ml = disc_at(7, 9, range(8)).sum() * 6.0 / 1000
    assert outcome.out.count("\n") == 1 and f"Wrote {out}: liver: {ml:.1f} ml on 8 slices" in outcome.out
    shown = session.opened["window"]
    assert (
        f". Window {shown.width:g}, level {shown.level:g} (0.5th to 99.5th percentile, because" in outcome.out
    )
    assert "Propagating" in outcome.err
    assert session.closed_volumes == ["volume"] and session.close_timeouts == [None]


def test_a_name_that_no_file_can_hold_is_refused_before_the_work(tmp_path: Path, volume: Path) -> None:
    outcome = run(
        tmp_path,
        *("segment", volume, "--segment", "n\udcff", "--point-ras", *words(ras_of(7, 9, 3))),
        *("--out", tmp_path / "s.seg.nrrd"),
    )
    assert outcome.code == 2 and r"The name 'n\udcff' of a segment is not text" in outcome.error_line


def test_a_report_can_name_a_path_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_report(path, {"format": "sam2propagate-report", "output": "o\udcff.seg.nrrd"}, False)
    path.read_text(encoding="utf-8")
    assert json.loads(path.read_bytes())["output"] == "o\udcff.seg.nrrd" and is_report(path)


@pytest.mark.parametrize(
    "failure", [SAM2PropagateError("disk_full", "The disk is full.", "Free some space."), ValueError("nan")]
)
def test_a_report_that_fails_leaves_the_segmentation_and_says_so(
    tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def failing(*_: object) -> None:
        raise failure

    monkeypatch.setattr("SAM2PropagateLib.cli.segment.write_report", failing)
    out = tmp_path / "s.seg.nrrd"
    outcome = run(
        tmp_path,
        *("segment", volume, "--point-ras", *words(ras_of(7, 9, 3))),
        *("--out", out, "--report", tmp_path / "r.json"),
        session=FakeJobSession(),
    )
    assert outcome.code == 1 and str(failure).split(".")[0] in outcome.error_line
    assert f"The segmentation is written: “{out}”. Its report is not." in outcome.err
    assert read_segmentation(out).segments[0].mask.any()


@pytest.mark.parametrize(("axis", "numpy_axis"), [("i", 2), ("j", 1), ("k", 0)])
def test_masks_lie_along_the_chosen_axis(tmp_path: Path, volume: Path, axis: str, numpy_axis: int) -> None:
    out, session = tmp_path / "s.seg.nrrd", FakeJobSession()
    index = (7, 9, 3)["ijk".index(axis)]
    outcome = run(
        tmp_path,
        *("segment", volume, "--point-ras", *words(ras_of(7, 9, 3)), "--axis", axis),
        *("--range", index - 1, index + 2, "--out", out),
        session=session,
    )
    assert outcome.code == 0, outcome.err
    assert session.opened["axis"] == "ijk".index(axis)
    (segment,) = read_segmentation(out).segments
    assert segment.name == "Segment_1" and segment.mask[3, 9, 7]
    others = tuple(other for other in range(3) if other != numpy_axis)
    assert np.flatnonzero(segment.mask.any(axis=others)).tolist() == list(range(index - 1, index + 3))


def test_a_box_and_an_absent_mark(tmp_path: Path, volume: Path) -> None:
    out, session = tmp_path / "s.seg.nrrd", FakeJobSession()
    outcome = run(
        tmp_path,
        *("segment", volume, "--box-ras", *words(ras_of(4, 6, 2)), *words(ras_of(12, 11, 2))),
        *("--absent-ras", *words(ras_of(0, 0, 5)), "--out", out),
        session=session,
    )
    assert outcome.code == 0, outcome.err
    (segment,) = read_segmentation(out).segments
    expected = np.zeros(SHAPE, bool)
    expected[0:5, 6:12, 4:13] = True
    assert np.array_equal(segment.mask, expected)


def test_a_scribble_and_a_lasso_become_masks_on_the_right_voxels(tmp_path: Path, volume: Path) -> None:
    out, report, session = tmp_path / "s.seg.nrrd", tmp_path / "r.json", FakeJobSession(note="Kept as drawn.")
    corners = [ras_of(i, j, 3) for i, j in ((3.5, 5.5), (12.5, 5.5), (12.5, 11.5), (3.5, 11.5))]
    outcome = run(
        tmp_path,
        *(
            "segment",
            volume,
            "--segment",
            "a",
            "--scribble-ras",
            *words(ras_of(7, 9, 3)),
            *words(ras_of(9, 9, 3)),
        ),
        *("--segment", "b", "--exact-lasso-ras", *(word for corner in corners for word in words(corner))),
        *("--axis", "k", "--out", out, "--report", report),
        session=session,
    )
    assert outcome.code == 0, outcome.err
    a, b = read_segmentation(out).segments
    assert np.array_equal(a.mask, disc_at(7, 9, range(8)))
    expected = np.zeros(SHAPE, bool)
    expected[:, 6:12, 4:13] = True
    assert np.array_equal(b.mask, expected)
    assert "Note: b, slice 4 of 8: Kept as drawn." in outcome.err
    values = json.loads(report.read_text(encoding="utf-8"))
    assert values["segments"][1]["notes"] == [{"slice": 3, "note": "Kept as drawn."}]
    assert values["prompts"]["version"] == 2 and values["prompts"]["segments"][1]["lassos"][0]["exact"]
    # The report's prompts give the same segmentation.
    again = tmp_path / "again.seg.nrrd"
    outcome = run_prompts(tmp_path, volume, values["prompts"], again)
    assert outcome.code == 0 and "Note: b" not in outcome.err
    assert np.array_equal(read_segmentation(again).segments[1].mask, expected)


def test_a_curve_is_clicks_on_the_slices_that_it_crosses(tmp_path: Path, volume: Path) -> None:
    out, report, session = tmp_path / "s.seg.nrrd", tmp_path / "r.json", FakeJobSession()
    outcome = run(
        tmp_path,
        *("segment", volume, "--curve-ras", *words(ras_of(7, 9, 2)), *words(ras_of(9, 9, 4))),
        *("--axis", "k", "--out", out, "--report", report),
        session=session,
    )
    assert outcome.code == 0, outcome.err
    (said,) = session.asked["prompts"].segments
    keyframes = resolve(said, session.opened["stack"].geometry, 2).keyframes
    assert {frame: np.round(one.clicks, 3).tolist() for frame, one in keyframes.items()} == {
        2: [[7, 9, 1]],
        3: [[8, 9, 1]],
        4: [[9, 9, 1]],
    }
    values = json.loads(report.read_text(encoding="utf-8"))
    assert values["prompts"]["version"] == 3 and len(values["prompts"]["segments"][0]["curves"]) == 1
    # The report's prompts give the same segmentation.
    again = tmp_path / "again.seg.nrrd"
    outcome = run_prompts(tmp_path, volume, values["prompts"], again)
    assert outcome.code == 0, outcome.err
    masks = [read_segmentation(file).segments[0].mask for file in (out, again)]
    assert masks[0].any() and np.array_equal(*masks)


def test_overlapping_segments_are_both_kept(tmp_path: Path, volume: Path) -> None:
    out = tmp_path / "s.seg.nrrd"
    outcome = run(
        tmp_path,
        *("segment", volume, "--segment", "a", "--point-ras", *words(ras_of(7, 9, 3))),
        *("--segment", "b", "--point-ras", *words(ras_of(8, 9, 3)), "--out", out),
        session=FakeJobSession(),
    )
    assert outcome.code == 0
    a, b = read_segmentation(out).segments
    assert np.array_equal(a.mask, disc_at(7, 9, range(8))) and np.array_equal(b.mask, disc_at(8, 9, range(8)))


def test_prompts_from_a_file_are_the_same_prompts(tmp_path: Path, volume: Path) -> None:
    prompts = PromptSet((SegmentPrompts("liver", (Click("c", ras_of(7, 9, 3)),)),))
    (tmp_path / "p.json").write_text(dumps(prompts), encoding="utf-8")
    session = FakeJobSession()
    outcome = run(
        tmp_path,
        *(
            "segment",
            volume,
            "--prompts",
            tmp_path / "p.json",
            "--axis",
            "k",
            "--out",
            tmp_path / "s.seg.nrrd",
        ),
        session=session,
    )
    assert outcome.code == 0, outcome.err
    assert session.asked["prompts"] == prompts.with_axis(2)


def test_options_reach_the_worker(tmp_path: Path, volume: Path) -> None:
    session = FakeJobSession()
    own = tmp_path / "own.pt"
    own.write_bytes(b"weights")
    outcome = run(
        tmp_path,
        *("segment", volume, "--point-ras", *words(ras_of(7, 9, 3)), "--out", tmp_path / "s.seg.nrrd"),
        *("--model", own, "--config", "my.yaml", "--device", "cpu", "--input-size", 512, "--motion", "off"),
        *("--precision", "float32"),
        *("--axes", "all"),
        *("--crop", "none", "--direction", "forward", "--reach", 2, "--window", 150, -20),
        session=session,
    )
    assert outcome.code == 0, outcome.err
    (model,) = session.loaded
    assert (model.name, model.path, model.config) == (None, str(own), "my.yaml")
    assert (model.device, model.input_size, model.encode_ahead) == ("cpu", 512, False)
    assert not model.motion
    assert model.precision == "float32"
    assert session.opened["crop"] is None
    assert (session.opened["window"].width, session.opened["window"].level) == (150.0, -20.0)
    assert (session.asked["direction"], session.asked["reach"]) == ("forward", 2)
    assert session.asked["all_axes"] is True


def test_the_bundled_model_is_the_default(tmp_path: Path, volume: Path) -> None:
    session = FakeJobSession()
    run(
        tmp_path,
        *("segment", volume, "--point-ras", *words(ras_of(7, 9, 3)), "--out", tmp_path / "s.seg.nrrd"),
        session=session,
    )
    assert (session.loaded[0].name, session.loaded[0].path) == ("sam2propagate_tiny", None)


def test_a_dicom_folder_with_its_own_window(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 300, (5, 16, 16)).astype(np.int16)
    folder = tmp_path / "series"
    tags = {"0028|1050": "60", "0028|1051": "350"}
    write_series(folder, voxels, origin=(0.0, 0.0, 0.0), tags=tags)
    session = FakeJobSession()
    outcome = run(
        tmp_path,
        *("segment", folder, "--point-ras", -5, -6, 5, "--out", tmp_path / "s.seg.nrrd"),
        *("--report", tmp_path / "r.json"),
        session=session,
    )
    assert outcome.code == 0, outcome.err
    assert (session.opened["window"].width, session.opened["window"].level) == (350.0, 60.0)
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["volume"]["modality"] == "CT" and report["window"]["source"] == "file"
    assert report["window"]["reason"] in outcome.out and "in the DICOM files" in outcome.out


def test_a_part_of_a_dicom_series_is_segmented(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 300, (5, 16, 16)).astype(np.int16)
    for number, start in ((1, 0.0), (2, 1.0)):
        tags, origin = {"0020|0012": str(number)}, (0.0, 0.0, start)
        write_series(tmp_path / "series", voxels, origin=origin, prefix=f"a{number}", tags=tags)
    outcome = run(
        tmp_path,
        *("segment", tmp_path / "series", "--part", 2, "--point-ras", -5, -6, 6, "--out"),
        *(tmp_path / "s.seg.nrrd", "--report", tmp_path / "r.json"),
        session=FakeJobSession(),
    )
    assert outcome.code == 0, outcome.err
    told = "Part 2 is read: acquisition 2, 5 slices, S 1.0 to 11.0 mm."
    assert f"Note: {told}" in outcome.err
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["volume"]["notes"] == [told] and report["volume"]["shape_ijk"] == [16, 16, 5]
    assert report["volume"]["spacing_mm"] == pytest.approx([0.7, 0.8, 2.5])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["lung"], "Window 1500, level -600 (lung, as given with --window)."),
        ([12.5, 3], "Window 12.5, level 3 (as given with --window)."),
        ([], "(0.5th to 99.5th percentile, because the values do not look like CT with air)."),
    ],
)
def test_the_result_line_says_which_window_was_used_and_why(
    tmp_path: Path, volume: Path, given: list[object], told: str
) -> None:
    outcome = run(
        tmp_path,
        *("segment", volume, "--point-ras", *words(ras_of(7, 9, 3)), "--out", tmp_path / "s.seg.nrrd"),
        *(["--window", *given] if given else []),
        session=FakeJobSession(),
    )
    assert outcome.code == 0 and told in outcome.out and outcome.out.count("\n") == 1


def test_notes_on_the_volume_are_told(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 300, (5, 16, 16)).astype(np.int16)
    paths = write_series(tmp_path / "series", voxels, origin=(0.0, 0.0, 0.0))
    (tmp_path / "series" / "copy.dcm").write_bytes(paths[0].read_bytes())
    outcome = run(
        tmp_path,
        *("segment", tmp_path / "series", "--point-ras", -5, -6, 5, "--out", tmp_path / "s.seg.nrrd"),
        session=FakeJobSession(),
    )
    assert outcome.code == 0 and "Note: 1 copy of slices left out." in outcome.err


def test_the_report_says_what_was_done(tmp_path: Path, volume: Path) -> None:
    out, path = tmp_path / "s.seg.nrrd", tmp_path / "r.json"
    outcome = run(
        tmp_path,
        *("segment", volume, "--segment", "Milz ß", "--point-ras", *words(ras_of(7, 9, 3))),
        *("--out", out, "--report", path),
        session=FakeJobSession(),
    )
    assert outcome.code == 0, outcome.err
    report = json.loads(path.read_text(encoding="utf-8"))
    assert (report["format"], report["version"], report["complete"]) == ("sam2propagate-report", 1, True)
    assert report["program"]["version"] and report["output"] == str(out)
    assert report["model"] == {"model": "fake", "device": "cpu", "dtype": "float32", "input_size": 64}
    assert report["run"] == {
        "slices_written": 8,
        "slices_computed": 7,
        "slices_encoded": 8,
        "seconds": 0.5,
        "slices_per_second": 16.0,
    }
    assert report["axis"] == "k" and report["volume"]["shape_ijk"] == [30, 20, 8]
    assert set(report["seconds"]) == {"read", "load_model", "open_volume", "propagate", "write"}
    (segment,) = report["segments"]
    voxels = int(disc_at(7, 9, range(8)).sum())
    assert (segment["name"], segment["voxels"]) == ("Milz ß", voxels)
    assert segment["ml"] == pytest.approx(voxels * 0.006, abs=1e-4)
    assert (segment["slices"], segment["first_slice"], segment["last_slice"]) == (8, 0, 7)
    assert segment["keyframes"] == [3]
    # The fake doubts frame n by n / 10; the worst comes first.
    assert [one["slice"] for one in segment["doubtful"]] == [7, 6, 5]
    assert segment["doubtful"][0]["doubt"] == 0.7
    assert report["prompts"]["segments"][0]["clicks"][0]["ras"] == list(ras_of(7, 9, 3))


def test_existing_files_stay_unless_told_otherwise(tmp_path: Path, volume: Path) -> None:
    out, path = tmp_path / "s.seg.nrrd", tmp_path / "r.json"
    arguments = ["segment", volume, "--point-ras", *words(ras_of(7, 9, 3)), "--out", out, "--report", path]
    path.write_text("mine", encoding="utf-8")
    outcome = run(tmp_path, *arguments)
    assert outcome.code == 2 and "exists already" in outcome.error_line
    assert path.read_text(encoding="utf-8") == "mine" and not out.exists()
    assert run(tmp_path, *arguments, "--overwrite", session=FakeJobSession()).code == 0
    assert json.loads(path.read_text(encoding="utf-8"))["complete"]
    before = out.read_bytes()
    assert run(tmp_path, *arguments).code == 2 and out.read_bytes() == before


@pytest.mark.parametrize("keep", [False, True])
def test_a_cancelled_run(tmp_path: Path, volume: Path, keep: bool) -> None:
    out, path = tmp_path / "s.seg.nrrd", tmp_path / "r.json"

    def press_ctrl_c(call: object) -> None:
        if len(getattr(call, "frames", ())) == 4:
            signal.raise_signal(signal.SIGINT)

    session = FakeJobSession(on_wait=press_ctrl_c)
    outcome = run(
        tmp_path,
        *("segment", volume, "--point-ras", *words(ras_of(7, 9, 3)), "--out", out, "--report", path),
        *(["--keep-partial"] if keep else []),
        session=session,
    )
    assert outcome.code == 130 and outcome.out == ""
    assert [call.kind for call in session.cancelled] == ["propagate"]
    assert session.closed_volumes == ["volume"] and len(session.close_timeouts) == 1
    if not keep:
        assert "nothing was written" in outcome.err
        assert not out.exists() and not path.exists()
        return
    (segment,) = read_segmentation(out).segments
    assert np.array_equal(segment.mask, disc_at(7, 9, range(5)))
    assert "what was finished is in" in outcome.err
    report = json.loads(path.read_text(encoding="utf-8"))
    assert (report["complete"], report["cancelled"]) == (False, True)
    assert report["segments"][0]["computed_slices"] == 5


def test_ctrl_c_before_the_run_writes_nothing(tmp_path: Path, volume: Path) -> None:
    session = FakeJobSession(on_wait=lambda call: signal.raise_signal(signal.SIGINT))
    session.errors = {}
    unfinished = session.load_model
    session.load_model = lambda model: _waiting(unfinished(model))  # type: ignore[method-assign]
    outcome = run(
        tmp_path,
        *("segment", volume, "--point-ras", *words(ras_of(7, 9, 3)), "--out", tmp_path / "s.seg.nrrd"),
        *("--keep-partial",),
        session=session,
    )
    assert outcome.code == 130 and "nothing was written" in outcome.err
    assert session.close_timeouts == [0.0] and not (tmp_path / "s.seg.nrrd").exists()


def test_a_run_without_a_finished_slice_replaces_nothing(tmp_path: Path, volume: Path) -> None:
    out = tmp_path / "s.seg.nrrd"
    arguments = ("segment", volume, "--point-ras", *words(ras_of(7, 9, 3)), "--out", out)
    assert run(tmp_path, *arguments, session=FakeJobSession()).code == 0
    before = out.read_bytes()

    def cancel_at_once(call: object) -> None:
        if isinstance(call, Run) and not call.is_cancel_requested:
            signal.raise_signal(signal.SIGINT)
            session.cancel(call)

    session = FakeJobSession(on_wait=cancel_at_once)
    outcome = run(tmp_path, *arguments, "--overwrite", "--keep-partial", session=session)
    assert outcome.code == 130 and "nothing was written" in outcome.err
    assert [call.kind for call in session.cancelled] == ["propagate"]
    assert out.read_bytes() == before


def _waiting(call: object) -> object:
    call.state = "waiting"  # type: ignore[attr-defined]
    return call


@pytest.mark.parametrize("keep", [False, True])
def test_a_worker_that_dies_on_the_way(tmp_path: Path, volume: Path, keep: bool) -> None:
    died = SAM2PropagateError("worker_died", "The worker ended unexpectedly.", "Try again.")
    session = FakeJobSession(errors={"propagate": died}, frames_before_error=3)
    out = tmp_path / "s.seg.nrrd"
    outcome = run(
        tmp_path,
        *("segment", volume, "--point-ras", *words(ras_of(7, 9, 3)), "--out", out),
        *(["--keep-partial"] if keep else []),
        session=session,
    )
    assert outcome.code == 1 and outcome.error_line == "The worker ended unexpectedly. Try again."
    assert outcome.out == "" and out.exists() == keep
    if keep:
        assert read_segmentation(out).segments[0].mask.sum() == disc_at(7, 9, range(3)).sum()


def test_debug_tells_the_details_and_only_then(tmp_path: Path, volume: Path) -> None:
    def outcome(*more: str) -> str:
        session = FakeJobSession(errors={"load_model": SAM2PropagateError("x", "It failed.")})
        arguments = [
            "segment",
            volume,
            "--point-ras",
            *words(ras_of(7, 9, 3)),
            "--out",
            tmp_path / "s.seg.nrrd",
        ]
        result = run(tmp_path, *arguments, *more, session=session)
        assert result.code == 1 and result.error_line == "It failed."
        return result.err

    assert "the worker's last words" not in outcome() and "Traceback" not in outcome()
    assert "the worker's last words" in outcome("--debug") and "Traceback" in outcome("--debug")


def test_an_unexpected_failure_is_one_sentence_too(tmp_path: Path, volume: Path) -> None:
    def break_down(call: object) -> None:
        raise RuntimeError("something\nodd")

    outcome = run(
        tmp_path,
        *("segment", volume, "--point-ras", *words(ras_of(7, 9, 3)), "--out", tmp_path / "s.seg.nrrd"),
        session=FakeJobSession(on_wait=break_down),
    )
    assert outcome.code == 1
    assert outcome.error_line == "It failed unexpectedly (RuntimeError: something odd); --debug shows where."
