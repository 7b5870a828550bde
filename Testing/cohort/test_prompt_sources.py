"""The stamp of a file changes with every file that is read together with it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.cohort.prompt_sources import FilePrompts, file_stamp
from SAM2PropagateLib.experiment.plan import DataSet, ExperimentOptions, ExperimentPlan, ModelUse, works_of
from SAM2PropagateLib.files.voxel_files import other_files
from SAM2PropagateLib.training.case import Case

SCENE = """<MRML version="Slicer">
<MarkupsFiducial id="m" name="clicks" references="storage:s;"></MarkupsFiducial>
<MarkupsFiducialStorage id="s" fileName="the%20clicks.mrk.json"></MarkupsFiducialStorage>
</MRML>
"""


def write_image(path: Path, compress: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16)), str(path), compress)
    return path


def change(path: Path) -> None:
    """Make a file look edited: its size stays, its time does not."""
    before = path.stat()
    os.utime(path, (before.st_atime, before.st_mtime + 10))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".hdr", ".img"])
def test_the_stamp_of_a_header_changes_with_its_voxels(tmp_path: Path, suffix: str, compress: bool) -> None:
    path = write_image(tmp_path / f"v{suffix}", compress)
    (other,) = (one for one in tmp_path.iterdir() if one != path)
    before = file_stamp(path)
    assert before and file_stamp(path) == before
    change(other)
    assert file_stamp(path) != before
    other.unlink()
    assert file_stamp(path) not in ("", before)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("v.mhd", "ElementDataFile = v.raw", "ElementDataFile = LIST\ns1.raw\ns2.raw\ns3.raw"),
        ("v.mhd", "ElementDataFile = v.raw", "ElementDataFile = s%d.raw"),
        ("v.mhd", "ElementDataFile = v.raw", "ElementDataFile = s%d.raw 1"),
        ("v.mhd", "ElementDataFile = v.raw", "ElementDataFile = s%d.raw 1 3 1"),
        ("v.nhdr", "data file: v.raw", "data file: LIST\ns1.raw\ns2.raw\ns3.raw"),
        ("v.nhdr", "data file: v.raw", "data file: s%d.raw 1 3 1"),
    ],
)
def test_the_stamp_of_a_header_changes_with_each_of_many_files(
    tmp_path: Path, name: str, old: str, new: str
) -> None:
    path = write_image(tmp_path / name)
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    for number in (1, 2, 3):
        (tmp_path / f"s{number}.raw").write_bytes(bytes(40))
    assert sitk.ReadImage(str(path)).GetSize() == (5, 4, 3)
    before = file_stamp(path)
    change(tmp_path / "s3.raw")
    assert file_stamp(path) != before


def test_the_numbers_of_a_pattern_may_start_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "v.mhd"
    path.write_text("DimSize = 5 4 3\nElementDataFile = s%02d.raw 7\n", encoding="utf-8")
    assert [file.name for file in other_files(path)] == ["s07.raw", "s08.raw", "s09.raw"]
    for numbers, last in (("7 9 1", 9), ("2 8 3", 8), ("2 8", 6), ("2 2000000000", 1333333334)):
        path.write_text(f"DimSize = 5 4 3\nElementDataFile = s%d.raw {numbers}\n", encoding="utf-8")
        assert len(other_files(path)) == 3 and other_files(path)[2].name == f"s{last}.raw"
    path.with_suffix(".nhdr").write_text("NRRD0004\ndata file: s%d.raw 1 2000000000 1\n", encoding="utf-8")
    assert len(other_files(path.with_suffix(".nhdr"))) == 100_000


def test_the_fingerprint_of_a_scene_changes_with_its_markups(tmp_path: Path) -> None:
    path, markup = tmp_path / "scene.mrml", tmp_path / "the clicks.mrk.json"
    path.write_text(SCENE, encoding="utf-8")
    markup.write_text("{}", encoding="utf-8")
    before = FilePrompts(path).fingerprint()
    change(markup)
    assert FilePrompts(path).fingerprint() != before


def test_the_stamp_of_what_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    for name in ("scene.mrml", "v.mhd", "v.nhdr"):
        assert file_stamp(tmp_path / name) == ""
        (tmp_path / name).write_text("no such file", encoding="utf-8")
        assert file_stamp(tmp_path / name)


def test_an_experiment_does_a_case_again_whose_voxels_have_changed(tmp_path: Path) -> None:
    image, label = write_image(tmp_path / "image.mhd"), write_image(tmp_path / "label.mhd")
    case = Case("a", "a", image, label)

    def fingerprint() -> str:
        model = ModelUse("m", tmp_path / "m", "identity")
        plan = ExperimentPlan((DataSet("", (case,)),), (model,), ExperimentOptions(), tmp_path)
        return works_of(plan)[0].fingerprint

    for name in ("image.raw", "label.raw"):
        before = fingerprint()
        change(tmp_path / name)
        assert fingerprint() != before
