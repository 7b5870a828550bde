"""Every kind of bad input, from the command line to the exit status: one sentence, nothing written.

The codes of the sentences are those of the parts; here it counts that the user sees them, that no traceback
and no result line appears, and that bad input ends with 2 and a failure with 1.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from Testing.cli.dicom_files import CORONAL, some_voxels, write_series, write_slice
from Testing.cli.fake_session import FakeJobSession
from Testing.cli.running import ras_of, run, words, write_volume

ODD = Path(__file__).resolve().parents[3] / "shared" / "data" / "odd"

POINT = ("--point-ras", *words(ras_of(7, 9, 3)))
NEGATIVE = ("--negative-ras", *words(ras_of(7, 9, 3)))


@dataclass(frozen=True)
class BadInput:
    """One kind of bad input.

    Args:
        name: of the test.
        says: what the sentence must contain.
        volume: makes the volume in a folder; None: a good one.
        arguments: after the volume; a function of the folder where they name files.
        code: exit status.
        session: makes the fake session if the worker is to be reached.
        out: name of the output; in the test's folder unless absolute.
    """

    name: str
    says: str
    volume: Callable[[Path], Path] | None = None
    arguments: tuple[object, ...] | Callable[[Path], tuple[object, ...]] = POINT
    code: int = 2
    session: Callable[[], FakeJobSession] | None = None
    out: str = "out.seg.nrrd"
    patches: dict[str, Any] = field(default_factory=dict)


def file_of(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def image_of(name: str, array: np.ndarray, is_vector: bool = False) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=is_vector), str(folder / name))
        return folder / name

    return make


def over_time(folder: Path) -> Path:
    frame = sitk.GetImageFromArray(some_voxels())
    sitk.WriteImage(sitk.JoinSeries([frame, frame]), str(folder / "time.nii.gz"))
    return folder / "time.nii.gz"


def truncated(folder: Path) -> Path:
    path = write_volume(folder / "cut.nii.gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))
    return path


def series(folder: Path, **options: Any) -> Path:
    write_series(folder / "series", some_voxels(), **options)
    return folder / "series"


def missing_slice(folder: Path) -> Path:
    paths = write_series(folder / "series", some_voxels())
    paths[2].unlink()
    return folder / "series"


def mixed_orientations(folder: Path) -> Path:
    write_series(folder / "series", some_voxels(3))
    write_series(folder / "series", some_voxels(3), orientation=CORONAL, prefix="c")
    return folder / "series"


def two_series(folder: Path) -> Path:
    write_series(folder / "series", some_voxels())
    write_series(folder / "series", some_voxels(), prefix="t", series="1.2.826.2")
    return folder / "series"


def two_acquisitions(folder: Path) -> Path:
    for number, start in ((1, 30.0), (2, 31.0)):
        write_series(
            folder / "series",
            some_voxels(),
            origin=(-10.0, 20.0, start),
            prefix=f"a{number}",
            tags={"0020|0012": str(number)},
        )
    return folder / "series"


def own_series(folder: Path) -> Path:
    (folder / "series").mkdir()
    for number, pixels in enumerate(some_voxels()):
        write_slice(
            folder / "series" / f"{number}.dcm",
            pixels,
            position=(-10, 20, 3 * number),
            series=f"1.2.826.3.{number}",
        )
    return folder / "series"


def prompts_file(content: str) -> Callable[[Path], tuple[object, ...]]:
    def make(folder: Path) -> tuple[object, ...]:
        (folder / "prompts.json").write_text(content, encoding="utf-8")
        return "--prompts", folder / "prompts.json"

    return make


def failing(kind: str, error: SAM2PropagateError) -> Callable[[], FakeJobSession]:
    return lambda: FakeJobSession(errors={kind: error})


TOO_LARGE = SAM2PropagateError(
    "model_does_not_fit", "The model does not fit in the memory of this GPU.", "Choose a smaller one."
)
NO_CUDA = InputError("device_unavailable", "The device “cuda” is not available here.", "Choose cpu.")

CASES = [
    # Files
    BadInput("missing file", "There is no file", volume=lambda folder: folder / "none.nrrd"),
    BadInput("empty file", "is empty", volume=file_of("empty.nrrd", b"")),
    BadInput("unreadable file", "not an image file", volume=file_of("text.nrrd", b"just a text")),
    BadInput("truncated file", "damaged or cut short", volume=truncated),
    BadInput("folder without images", "no DICOM image", volume=lambda folder: folder),
    # Contents
    BadInput("4D", "4 dimensions", volume=over_time),
    BadInput("RGB", "3 values per voxel", volume=image_of("c.nrrd", np.zeros((4, 5, 6, 3), np.uint8), True)),
    BadInput(
        "vectors", "5 values per voxel", volume=image_of("v.mha", np.zeros((4, 5, 6, 5), np.float32), True)
    ),
    BadInput("one slice", "single slice", volume=image_of("s.nrrd", some_voxels(1))),
    BadInput("2D", "single image of 10 x 12 pixels", volume=image_of("p.nrrd", some_voxels(1)[0])),
    BadInput("constant", "same value (7)", volume=image_of("c.nrrd", np.full((4, 5, 6), 7, np.int16))),
    BadInput("all NaN", "only NaN", volume=image_of("n.nrrd", np.full((4, 5, 6), np.nan, np.float32))),
    # DICOM
    BadInput("missing slice", "A slice is missing", volume=missing_slice),
    BadInput("mixed orientations", "2 different orientations", volume=mixed_orientations),
    BadInput("uneven", "not evenly spaced", volume=lambda f: series(f, distances=[0, 1, 3, 4, 6, 6.5])),
    BadInput("gantry tilt", "gantry tilt", volume=lambda f: series(f, shift_per_mm=(0, 0.3, 0))),
    BadInput("several series", "--series", volume=two_series),
    BadInput("two acquisitions", "--part and its number: 1 (acquisition 1, ", volume=two_acquisitions),
    BadInput("no such part", "no part 3", volume=two_acquisitions, arguments=("--part", 3, *POINT)),
    BadInput("own series UIDs", "--series all", volume=own_series),
    BadInput("a part of an NRRD file", "not a DICOM file", arguments=("--part", 1, *POINT)),
    BadInput("one DICOM file", "single slice of a DICOM", volume=lambda folder: series(folder) / "s00.dcm"),
    # Prompts
    BadInput("no prompts", "no prompts", arguments=()),
    BadInput("a segment without prompts", "No prompt shows where", arguments=("--segment", "liver")),
    BadInput("outside the volume", "outside the volume", arguments=("--point-ras", 500, 0, 0)),
    BadInput("outside the range", "outside the range", arguments=(*POINT, "--range", 5, 7)),
    BadInput("a range outside the volume", "0 to 7", arguments=(*POINT, "--range", 2, 8)),
    BadInput("only negative points", "only negative clicks", arguments=NEGATIVE),
    BadInput("a box of no area", "no area", arguments=("--box-ras", *POINT[1:], *POINT[1:])),
    BadInput(
        "a box on no slice",
        "does not lie on one slice",
        arguments=("--box-ras", *words(ras_of(2, 2, 2)), *words(ras_of(9, 9, 5))),
    ),
    BadInput("contradicting points", "at the same place", arguments=(*POINT, *NEGATIVE)),
    BadInput(
        "absent and present",
        "marked as absent",
        arguments=(*POINT, "--absent-ras", *words(ras_of(0, 0, 3))),
    ),
    BadInput("no prompts file", "There is no file", arguments=("--prompts", "none.json")),
    BadInput("prompts that are no JSON", "not valid JSON", arguments=prompts_file("{")),
    BadInput("prompts of another kind", "prompts", arguments=prompts_file('{"format": "something else"}')),
    # Options, model and device
    BadInput("no such preset", "no window preset", arguments=(*POINT, "--window", "spleen")),
    BadInput("a window of no width", "cannot be used", arguments=(*POINT, "--window", 0, 40)),
    BadInput("unknown model", "no model “huge”", arguments=(*POINT, "--model", "huge")),
    BadInput("weights of a long name", "File name too long", arguments=(*POINT, "--model", "m" * 300)),
    BadInput("weights of nobody", "no weights file", arguments=(*POINT, "--model", "~nobody-so-called/m.pt")),
    BadInput("missing weights", "no weights file", arguments=(*POINT, "--model", "my/own.pt")),
    BadInput("a model that is not there yet", "models --download big", arguments=(*POINT, "--model", "big")),
    BadInput("unknown device", "no device “tpu”", arguments=(*POINT, "--device", "tpu")),
    BadInput(
        "a device that is not there",
        "not available here",
        arguments=(*POINT, "--device", "cuda"),
        session=failing("load_model", NO_CUDA),
    ),
    BadInput(
        "a model too large for GPU memory",
        "does not fit in the memory",
        session=failing("load_model", TOO_LARGE),
        code=1,
    ),
    # Output
    BadInput("not a segmentation file", "not the name of a segmentation", out="out.nii.gz"),
    BadInput("an output of a long name", "Choose a shorter name", out="s" * 300 + ".seg.nrrd"),
    BadInput("a volume of a long name", "File name too long", volume=lambda f: f / ("v" * 300 + ".nrrd")),
    BadInput("no such folder", "does not exist", out="no such folder/out.seg.nrrd"),
    BadInput("the output is a folder", "is a folder", out="folder.seg.nrrd"),
    BadInput("the output is there", "exists already", out="there.seg.nrrd"),
    BadInput(
        "the report names the volume",
        "named twice",
        arguments=lambda folder: (*POINT, "--report", folder / "volume.nrrd", "--overwrite"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])
def test_bad_input_ends_with_one_sentence(
    tmp_path: Path, case: BadInput, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.seg.nrrd").mkdir()
    (tmp_path / "there.seg.nrrd").write_bytes(b"hours of editing")
    work = tmp_path / "work"
    work.mkdir()
    volume = case.volume(work) if case.volume is not None else write_volume(work / "volume.nrrd")
    arguments = case.arguments(work) if callable(case.arguments) else case.arguments
    before = contents(tmp_path)
    session = None if case.session is None else case.session()
    outcome = run(
        tmp_path / "elsewhere",
        *("segment", volume, *arguments, "--out", tmp_path / case.out),
        session=session,
    )
    assert outcome.code == case.code, outcome.err
    assert case.says in outcome.error_line
    assert_one_sentence_and_a_hint(outcome.error_line)
    assert outcome.out == "" and "Traceback" not in outcome.err + capfd.readouterr().err
    assert contents(tmp_path) == before
    if session is not None:
        assert session.close_timeouts == [0.0]


def contents(folder: Path) -> dict[Path, bytes | None]:
    """Every file and folder but the models', with its bytes."""
    found = sorted(path for path in folder.rglob("*") if "elsewhere" not in path.parts)
    return {path: path.read_bytes() if path.is_file() else None for path in found}


def assert_one_sentence_and_a_hint(line: str) -> None:
    assert line[0].isupper() or line[0] == "“", line
    assert line.endswith("."), line
    # Stops inside file names, numbers and UIDs do not end a sentence.
    assert len(re.findall(r"[.!?](?= [A-Z])", line)) <= 2, line


needs_odd = pytest.mark.skipif(not ODD.is_dir(), reason=f"the odd DICOM series are not there: {ODD}")


@needs_odd
def test_a_real_series_with_a_missing_slice(tmp_path: Path) -> None:
    outcome = run(
        tmp_path,
        *("segment", ODD / "dicom_mr_missing_slice18of19", "--point-ras", 0, 0, 0),
        *("--out", tmp_path / "out.seg.nrrd"),
    )
    assert outcome.code == 2
    assert "between “1-07.dcm” and “1-05.dcm” at RAS 45.6, 100.3, 20.0 mm" in outcome.error_line


@needs_odd
def test_a_real_oblique_series_is_segmented_in_place(tmp_path: Path) -> None:
    session = FakeJobSession()
    folder = ODD / "dicom_mr_t2_tra_oblique19"
    outcome = run(
        tmp_path,
        *("segment", folder, "--point-ras", -38.3, -13.4, -30.1, "--out", tmp_path / "out.seg.nrrd"),
        session=session,
    )
    assert outcome.code == 0, outcome.err
    written = sitk.ReadImage(str(tmp_path / "out.seg.nrrd"))
    original = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    assert written.GetSize() == original.GetSize() and session.opened["axis"] == 2
    for corner in ((0, 0, 0), (383, 383, 18)):
        ours = written.TransformIndexToPhysicalPoint(corner)
        assert np.allclose(ours, original.TransformIndexToPhysicalPoint(corner), atol=0.02)
    index = written.TransformPhysicalPointToIndex((38.3, 13.4, -30.1))
    assert written[index] == 1


def test_a_full_disk_stops_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = write_volume(tmp_path / "v.nrrd")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    outcome = run(tmp_path, "segment", volume, *POINT, "--out", tmp_path / "out.seg.nrrd")
    assert outcome.code == 1 and "The disk is full" in outcome.error_line
    assert not (tmp_path / "out.seg.nrrd").exists() and not list(tmp_path.glob("*.part"))


def test_a_disk_that_fills_up_during_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = write_volume(tmp_path / "v.nrrd")
    old = tmp_path / "out.seg.nrrd"
    old.write_bytes(b"hours of editing")
    session = FakeJobSession()
    sync = os.fsync

    def full_later(descriptor: int) -> None:
        if session.closed_volumes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full_later)
    outcome = run(tmp_path, "segment", volume, *POINT, "--out", old, "--overwrite", session=session)
    assert outcome.code == 1 and outcome.out == ""
    assert "The disk is full" in outcome.error_line and "unchanged" in outcome.error_line
    assert old.read_bytes() == b"hours of editing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "out.seg.nrrd", "v.nrrd"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere"
)
def test_a_folder_in_which_one_may_not_write(tmp_path: Path) -> None:
    volume = write_volume(tmp_path / "v.nrrd")
    (tmp_path / "closed").mkdir(mode=0o500)
    outcome = run(tmp_path, "segment", volume, *POINT, "--out", tmp_path / "closed" / "out.seg.nrrd")
    assert outcome.code == 2 and "cannot be written" in outcome.error_line


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc, in which nobody may write")
def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    volume = write_volume(tmp_path / "v.nrrd")
    outcome = run(tmp_path, "segment", volume, *POINT, "--out", "/proc/out.seg.nrrd")
    assert outcome.code == 2 and "cannot be written" in outcome.error_line
