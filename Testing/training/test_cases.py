"""Which folders of cases are understood, which are refused, and that patients are kept apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.segmentation import Segment, write_segmentation
from SAM2PropagateLib.files.volume import read_volume
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.training.case import Case, patient_of
from SAM2PropagateLib.training.cases import check_apart, find_cases, split
from SAM2PropagateLib.training.loaded_case import LoadedCase
from Testing.cli.dicom_files import write_series
from Testing.training.samples import SHAPE, ball, write_case, write_image


def code_of(call: object, *arguments: object) -> str:
    assert callable(call)
    with pytest.raises(InputError) as error:
        call(*arguments)
    assert error.value.hint
    return error.value.code


def test_subfolders_and_files_side_by_side(tmp_path: Path) -> None:
    write_case(tmp_path, "p2_ct")
    volume = np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)
    write_image(volume, tmp_path / "p1.nrrd")
    label = ball().astype(np.uint8)
    label[ball(at=(5, 30, 40), radius=2)] = 7
    write_image(label, tmp_path / "p1_label.mha")
    first, second = find_cases(tmp_path)
    assert (first.name, second.name) == ("p1", "p2_ct") and second.patient == "p2"
    case = LoadedCase(first)
    assert case.names == ["1", "7"] and case.usable() == [0, 1]
    assert np.array_equal(case.structure(1).mask, label == 7)
    assert case.frames.axis == 2  # the largest spacing


def test_a_segmentation_of_slicer_that_was_cropped(tmp_path: Path) -> None:
    image = write_image(ball().astype(np.int16) * 50, tmp_path / "a1" / "image.nrrd")
    geometry = read_volume(image).geometry
    shift = np.eye(4)
    shift[:3, 3] = (10, 8, 1)
    part = np.s_[1:10, 8:30, 10:35]
    cropped = VolumeGeometry((25, 22, 9), geometry.ijk_to_ras @ shift)
    small = ball(at=(5, 20, 30), radius=2)
    write_segmentation(
        tmp_path / "a1" / "Segmentation.seg.nrrd",
        [Segment("ball", (1, 0, 0), ball()[part]), Segment("overlap", (0, 1, 0), small[part])],
        cropped,
    )
    case = LoadedCase(find_cases(tmp_path)[0])
    assert case.names == ["ball", "overlap"]
    assert np.array_equal(case.structure(0).mask, ball())
    assert np.array_equal(case.structure(1).mask, small)


def test_structures_with_one_name_are_told_apart(tmp_path: Path) -> None:
    image = write_image(ball().astype(np.int16) * 50, tmp_path / "a1" / "image.nrrd")
    other = ball(at=(5, 20, 30), radius=2)
    segments = [Segment("node", (1, 0, 0), mask) for mask in (ball(), other)]
    write_segmentation(tmp_path / "a1" / "label.seg.nrrd", segments, read_volume(image).geometry)
    case = LoadedCase(find_cases(tmp_path)[0])
    assert case.names == ["node", "node (2)"]
    assert np.array_equal(case.structure(1).mask, other)


def test_values_with_one_name_are_told_apart_whichever_are_there(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "a1")
    entry = {"name": "a1", "labels": {"1": "node", "2": "node", "3": "node"}}
    (tmp_path / "manifest.json").write_text(json.dumps({"cases": [entry]}), encoding="utf-8")
    write_image(3 * ball().astype(np.uint8), folder / "label.nii.gz")
    case = LoadedCase(find_cases(tmp_path)[0])
    assert (case.names, case.absent) == (["node (3)"], ["node", "node (2)"])


def test_a_manifest_tells_names_patients_and_targets(tmp_path: Path) -> None:
    write_case(tmp_path, "x")
    entry = {"name": "x", "labels": {"1": "liver", "2": "cyst"}, "patient": "Q", "modality": "CT contrast"}
    (tmp_path / "manifest.json").write_text(json.dumps({"cases": [entry]}), encoding="utf-8")
    (case,) = find_cases(tmp_path)
    assert case.patient == "Q" and case.modality == "CT"
    assert LoadedCase(case).names == ["liver"]  # the cyst is nowhere in the label
    (tmp_path / "manifest.json").write_text(
        json.dumps({"pairs": [{**entry, "recommended_targets": ["1+2"]}]}), encoding="utf-8"
    )
    assert LoadedCase(find_cases(tmp_path)[0]).names == ["liver + cyst"]
    (tmp_path / "manifest.json").write_text('{"cases": [{"labels": 3}]}', encoding="utf-8")
    assert code_of(find_cases, tmp_path) == "manifest_unreadable"


def test_bad_folders_and_cases_are_refused(tmp_path: Path) -> None:
    assert code_of(find_cases, tmp_path / "nowhere") == "no_cases"
    assert code_of(find_cases, tmp_path) == "no_cases"
    folder = write_case(tmp_path, "c1")
    label = folder / "label.nii.gz"

    def refused() -> str:
        return code_of(LoadedCase, find_cases(tmp_path)[0])

    write_image(ball().astype(np.uint8), label, spacing=(1, 1, 1.9))
    assert refused() == "label_mismatch"
    write_image(ball()[:8].astype(np.uint8), label)
    assert refused() == "label_mismatch"
    write_image(np.zeros(SHAPE, np.uint8), label)
    assert refused() == "case_without_label"
    write_image(np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32), label)
    assert refused() == "label_not_whole"
    label.unlink()
    assert code_of(find_cases, tmp_path) == "case_without_label"
    other = tmp_path / "flat"
    write_image(ball().astype(np.int16), other / "one.nii.gz")
    assert code_of(find_cases, other) == "case_without_label"


def refusal(folder: Path) -> InputError:
    with pytest.raises(InputError) as error:
        find_cases(folder)
    assert error.value.hint
    return error.value


def test_nothing_that_looks_like_a_case_is_left_out_silently(tmp_path: Path) -> None:
    array = ball().astype(np.uint8)

    def folder(name: str, *files: str) -> Path:
        for file in files:
            write_image(array, tmp_path / name / file)
        return tmp_path / name

    for name, files, code, told in (
        ("other", ("b/ct.nii.gz", "b/label.nii.gz"), "case_unclear", "“ct.nii.gz”"),
        ("two", ("b/image.nii.gz", "b/image.nrrd", "b/label.nrrd"), "case_unclear", "“image.nrrd”"),
        ("three", ("b/image.nii.gz", "b/label.nii", "b/label.mha"), "case_unclear", "“label.nii”"),
        ("alone", ("a1.nrrd", "a1_label.nrrd", "a2_label.nrrd"), "label_without_image", "“a2_label.nrrd”"),
        ("pair", ("a1.nrrd", "a1_label.nrrd", "a1_seg.nrrd"), "case_unclear", "“a1_seg.nrrd”"),
        ("twice", ("a1.nrrd", "a1.nii.gz", "a1_label.nrrd"), "case_unclear", "“a1.nii.gz”"),
        ("mixed", ("b/image.nrrd", "b/label.nrrd", "c/ct.mha"), "case_unclear", "“c”"),
    ):
        error = refusal(folder(name, *files))
        assert error.code == code and told in error.sentence, (name, error)
    beside = folder("beside", "b/image.nii.gz", "b/label.nii.gz")
    write_segmentation(
        beside / "b" / "mine.seg.nrrd",
        [Segment("ball", (1, 0, 0), ball())],
        read_volume(beside / "b" / "image.nii.gz").geometry,
    )
    assert "“mine.seg.nrrd”" in refusal(beside).sentence
    # What is no volume may lie there.
    good = folder("good", "b/image.nii.gz", "b/label.nii.gz", "a.nrrd", "a_mask.nrrd")
    (good / "notes").mkdir()
    (good / "notes" / "read.txt").write_text("x", encoding="utf-8")
    (good / "._a.nrrd").write_bytes(b"x")
    assert [case.name for case in find_cases(good)] == ["a", "b"]


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".hdr", ".gipl", ".vtk", ".tif", ".nhdr"])
def test_every_format_that_can_be_read_can_be_a_case(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    for stem, array in (("image", rng.integers(0, 90, SHAPE)), ("label", ball())):
        write_image(array.astype(np.uint8), tmp_path / "side" / f"a{'_label' * (stem == 'label')}{ending}")
        write_image(array.astype(np.uint8), tmp_path / "in" / "a" / (stem + ending))
    for folder in ("side", "in"):
        (case,) = find_cases(tmp_path / folder)
        assert LoadedCase(case).names == ["1"]


def test_a_dicom_series_can_be_the_image_of_a_case(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
    write_series(tmp_path / "a" / "image", array)
    geometry = read_volume(tmp_path / "a" / "image").geometry
    write_segmentation(tmp_path / "a" / "label.seg.nrrd", [Segment("ball", (1, 0, 0), ball())], geometry)
    case = LoadedCase(find_cases(tmp_path)[0])
    assert case.names == ["ball"] and np.array_equal(case.structure(0).mask, ball())


def test_the_fingerprint_follows_the_voxels(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "a")
    (case,) = find_cases(tmp_path)
    before = LoadedCase(case).fingerprint()
    assert LoadedCase(case).fingerprint() == before
    label = ball().astype(np.uint8)
    label[5, 18, 22] = 0
    write_image(label, folder / "label.nii.gz")
    assert LoadedCase(case).fingerprint() != before


def test_what_one_prompt_cannot_mean_is_not_usable(tmp_path: Path) -> None:
    folder = write_case(tmp_path, "c1")
    label = ball().astype(np.uint8)
    label[0, ::2, ::2] = 2  # many parts
    label[9, 0, :3] = 3  # a few voxels
    write_image(label, folder / "label.nii.gz")
    case = LoadedCase(find_cases(tmp_path)[0])
    assert case.names == ["1", "2", "3"] and case.usable() == [0]


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("sts_008_ct", "sts_008"),
        ("sts_008_mr_t1", "sts_008"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("BraTS20_Training_001_flair", "BraTS20_Training_001"),
        ("msd_task03_liver_12", "msd_task03_liver_12"),
        ("LIDC-IDRI-0001", "LIDC-IDRI-0001"),
        ("sub-01_ses-02_T1w", "sub-01"),
        ("p01_ct", "p01"),
        ("p01_2", "p01"),
        ("Patient12.2", "Patient12"),
        ("case12", "case12"),
        ("aorta7b", "aorta7"),
        ("TCGA-DK-A1A6", "TCGA-DK-A1"),
        # Names by date do not say who: all of a year are one, which is refused or told, and never mixed up.
        ("2024-01-05_x", "2024"),
        ("aorta", "aorta"),
    ],
)
def test_the_patient_in_a_name(name: str, patient: str) -> None:
    assert patient_of(name) == patient


def test_patients_stay_on_one_side(tmp_path: Path) -> None:
    names = [f"sts_{patient:03d}_{kind}" for patient in range(10) for kind in ("ct", "mr")]
    cases = [Case(name, patient_of(name), tmp_path, tmp_path) for name in names]
    train, validation = split(cases, 0.2, seed=3)
    assert len(train) == 16 and len(validation) == 4
    assert not {c.patient for c in train} & {c.patient for c in validation}
    assert split(list(reversed(cases)), 0.2, seed=3)[1] == tuple(reversed(validation))
    assert any(split(cases, 0.2, seed=seed)[1] != validation for seed in range(4, 8))
    check_apart(train, validation)
    assert code_of(check_apart, train, [*validation, train[0]]) == "patient_on_both_sides"
    with pytest.raises(InputError, match=r"manifest\.json") as error:
        split(cases[:2], 0.2, 3)
    assert error.value.code == "too_few_cases"
