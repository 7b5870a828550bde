"""Data sets as their publishers lay them out are read as they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.training.cases import find_cases
from SAM2PropagateLib.training.loaded_case import LoadedCase
from Testing.training.samples import SHAPE, ball, write_image

IMAGE = np.random.default_rng(0).integers(0, 90, SHAPE).astype(np.int16)
LABEL = ball().astype(np.uint8) + ball(radius=1)  # 2 inside 1


def refusal(folder: Path, sequence: str = "") -> InputError:
    with pytest.raises(InputError) as error:
        for case in find_cases(folder, sequence):
            LoadedCase(case)
    assert error.value.hint
    return error.value


def write_nnunet(
    folder: Path, description: dict[str, Any] | None, *names: str, channels: int = 1, ending: str = ".nii.gz"
) -> Path:
    for name in names:
        for channel in range(channels):
            write_image(IMAGE + 100 * channel, folder / "imagesTr" / f"{name}_{channel:04d}{ending}")
        write_image(LABEL, folder / "labelsTr" / f"{name}{ending}")
    if description is not None:
        (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def write_four(path: Path) -> Path:
    """Four volumes in one file; the voxels of each lie 100 above those of the one before."""
    volumes = [sitk.GetImageFromArray(IMAGE + 100 * n) for n in range(4)]
    for volume in volumes:
        volume.SetSpacing((1, 1, 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.JoinSeries(volumes), str(path))
    return path


def first_voxels(case: LoadedCase) -> int:
    return int((case.frames.array - IMAGE).min())


# --- nnU-Net and the Medical Segmentation Decathlon


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_nnunet_2(tmp_path: Path, ending: str) -> None:
    labels = {"background": 0, "liver": 1, "tumor": 2}
    description = {"labels": labels, "channel_names": {"0": "CT"}, "file_ending": ending, "numTraining": 2}
    write_nnunet(tmp_path, description, "liver_001", "liver_002", ending=ending)
    (tmp_path / "imagesTr" / f"._liver_001_0000{ending}").write_bytes(b"\0\5\x16\7")
    (tmp_path / "labelsTr" / f"._liver_001{ending}").write_bytes(b"\0\5\x16\7")
    first, second = find_cases(tmp_path)
    assert (first.name, first.patient, first.modality) == ("liver_001", "liver_001", "CT")
    assert second.patient == "liver_002"
    case = LoadedCase(first)
    assert case.names == ["liver", "tumor"]
    assert np.array_equal(case.structure(1).mask, LABEL == 2)


def test_nnunet_2_with_regions_and_an_ignore_label(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    write_nnunet(tmp_path, {"labels": labels, "channel_names": {"0": "T1"}, "file_ending": ".nii.gz"}, "a_1")
    label = LABEL.copy()
    label[0, :3] = 3
    write_image(label, tmp_path / "labelsTr" / "a_1.nii.gz")
    case = LoadedCase(find_cases(tmp_path)[0])
    assert case.names == ["whole", "core"] and case.notes == [] and case.case.modality == "MR"
    assert np.array_equal(case.structure(0).mask, (label == 1) | (label == 2))
    assert np.array_equal(case.structure(1).mask, label == 2)


def test_a_value_that_is_not_described_is_told(tmp_path: Path) -> None:
    write_nnunet(tmp_path, {"labels": {"0": "background", "1": "liver"}, "modality": {"0": "CT"}}, "a_1")
    case = LoadedCase(find_cases(tmp_path)[0])
    assert case.names == ["liver"]
    assert len(case.notes) == 1 and "also holds 2" in case.notes[0]


def test_nnunet_1_lists_files_without_their_channels(tmp_path: Path) -> None:
    training = [{"image": f"./imagesTr/p_{n}.nii.gz", "label": f"./labelsTr/p_{n}.nii.gz"} for n in (1, 2)]
    description = {
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "prostate", "2": "lesion"},
        "training": training,
    }
    write_nnunet(tmp_path, description, "p_1", "p_2", channels=2)
    assert refusal(tmp_path).code == "sequence_unclear"
    for sequence, offset in (("T2", 0), ("adc", 100), ("1", 100)):
        cases = find_cases(tmp_path, sequence)
        assert [case.name for case in cases] == ["p_1", "p_2"]
        assert first_voxels(LoadedCase(cases[0])) == offset
    assert LoadedCase(cases[0]).names == ["prostate", "lesion"]
    error = refusal(tmp_path, "T1")
    assert error.code == "sequence_unknown" and "T2, ADC" in error.sentence


def test_the_decathlon_with_several_sequences_in_one_file(tmp_path: Path) -> None:
    write_four(tmp_path / "imagesTr" / "BRATS_0001.nii.gz")
    write_image(LABEL, tmp_path / "labelsTr" / "BRATS_0001.nii.gz")
    description: dict[str, Any] = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "tumor"},
        "training": [{"image": "./imagesTr/BRATS_0001.nii.gz", "label": "./labelsTr/BRATS_0001.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    error = refusal(tmp_path)
    assert error.code == "sequence_unclear" and "FLAIR, T1w, t1gd, T2w" in error.sentence
    assert "--sequence" in error.hint
    for sequence, offset in (("FLAIR", 0), ("T1GD", 200), ("3", 300)):
        case = LoadedCase(find_cases(tmp_path, sequence)[0])
        assert first_voxels(case) == offset and case.frames.geometry.shape_ijk == SHAPE[::-1]
        assert case.names == ["edema", "tumor"] and np.array_equal(case.structure(1).mask, LABEL == 2)
    # Nobody tells what the volumes are: they have numbers.
    (tmp_path / "dataset.json").unlink()
    assert "--sequence" in refusal(tmp_path).hint
    assert first_voxels(LoadedCase(find_cases(tmp_path, "2")[0])) == 200
    assert refusal(tmp_path, "4").code == "no_such_channel"
    assert refusal(tmp_path, "flair").code == "sequence_unknown"


def test_one_volume_of_several_can_be_chosen_in_a_subfolder_too(tmp_path: Path) -> None:
    write_four(tmp_path / "c1" / "image.nii.gz")
    write_image(LABEL, tmp_path / "c1" / "label.nii.gz")
    assert refusal(tmp_path).code == "sequence_unclear"
    assert first_voxels(LoadedCase(find_cases(tmp_path, "1")[0])) == 100


def test_nnunet_without_a_description(tmp_path: Path) -> None:
    write_nnunet(tmp_path, None, "case_1", "case_2")
    cases = find_cases(tmp_path)
    assert [case.name for case in cases] == ["case_1", "case_2"] and LoadedCase(cases[0]).names == ["1", "2"]


@pytest.mark.parametrize("channels", [["CT"], "CT", {"0": "CT"}])
def test_channels_as_people_write_them(tmp_path: Path, channels: object) -> None:
    description = {"labels": {"background": 0, "a": 1, "b": 2}, "channel_names": channels}
    write_nnunet(tmp_path, {**description, "file_ending": ".nii.gz"}, "a_1")
    assert [case.modality for case in find_cases(tmp_path)] == ["CT"]


def test_nnunet_with_files_elsewhere(tmp_path: Path) -> None:
    write_image(IMAGE, tmp_path / "other" / "x.nii.gz")
    write_image(LABEL, tmp_path / "other" / "y.nii.gz")
    entry = {"images": ["../other/x.nii.gz"], "label": "../other/y.nii.gz"}
    description = {"labels": {"background": 0, "a": 1, "b": 2}, "channel_names": {"0": "MRI"}}
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset.json").write_text(
        json.dumps({**description, "dataset": {"p1": entry}}), encoding="utf-8"
    )
    (case,) = find_cases(tmp_path / "set")
    assert case.name == "p1" and LoadedCase(case).names == ["a", "b"]


def test_data_sets_with_something_missing_are_refused(tmp_path: Path) -> None:
    labels = {"background": 0, "liver": 1, "tumor": 2}
    folder = write_nnunet(tmp_path, {"labels": labels, "channel_names": {"0": "CT"}}, "a_1", "a_2")
    (folder / "labelsTr" / "a_1.nii.gz").rename(folder / "a_1.nii.gz")
    assert refusal(folder).code == "case_without_label" and "“a_1”" in refusal(folder).sentence
    (folder / "a_1.nii.gz").rename(folder / "labelsTr" / "a_1.nii.gz")
    (folder / "imagesTr" / "a_2_0000.nii.gz").unlink()
    assert refusal(folder).code == "label_without_image" and "a_2.nii.gz" in refusal(folder).sentence
    training = [{"image": "./imagesTr/a_2.nii.gz", "label": "./labelsTr/a_2.nii.gz"}]
    (folder / "dataset.json").write_text(
        json.dumps({"labels": labels, "training": training}), encoding="utf-8"
    )
    assert refusal(folder).code == "image_missing"
    (folder / "dataset.json").write_text('{"labels": 3}', encoding="utf-8")
    assert refusal(folder).code == "manifest_unreadable"
    error = refusal(folder.parent / folder.name / "labelsTr")
    assert error.code == "case_without_label"


def test_a_data_set_of_pictures_is_refused(tmp_path: Path) -> None:
    write_nnunet(tmp_path, {"labels": {"background": 0, "a": 1}, "file_ending": ".png"}, "a_1")
    error = refusal(tmp_path)
    assert error.code == "unknown_format" and ".png" in error.sentence


def test_a_description_beside_other_cases_is_no_data_set(tmp_path: Path) -> None:
    write_image(IMAGE, tmp_path / "c1" / "image.nii.gz")
    write_image(LABEL, tmp_path / "c1" / "label.nii.gz")
    (tmp_path / "dataset.json").write_text('{"name": "mine", "license": "CC"}', encoding="utf-8")
    assert [case.name for case in find_cases(tmp_path)] == ["c1"]
    (tmp_path / "dataset.json").write_text("not JSON", encoding="utf-8")
    assert refusal(tmp_path).code == "manifest_unreadable"


def test_images_without_their_folder_of_labels_are_refused(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path, {"labels": {"background": 0, "a": 1}}, "a_1")
    (folder / "labelsTr").rename(folder / "elsewhere")
    error = refusal(folder)
    assert error.code == "case_without_label" and "labelsTr" in error.hint


def test_the_folder_above_names_the_data_sets_in_it(tmp_path: Path) -> None:
    write_nnunet(tmp_path / "Dataset001_Liver", None, "a_1")
    write_image(IMAGE, tmp_path / "HGG" / "p1" / "p1_t1.nii.gz")
    error = refusal(tmp_path)
    assert error.code == "no_cases" and "“Dataset001_Liver”, “HGG”" in error.hint


# --- TotalSegmentator


@pytest.mark.parametrize(("image", "modality"), [("ct", "CT"), ("mri", "MR")])
def test_totalsegmentator(tmp_path: Path, image: str, modality: str) -> None:
    other = ball(at=(5, 30, 40), radius=2)
    for name, mask in (("liver", ball()), ("rib_left_1", other), ("spleen", np.zeros(SHAPE))):
        write_image(mask.astype(np.uint8), tmp_path / "s0001" / "segmentations" / f"{name}.nii.gz")
    write_image(IMAGE, tmp_path / "s0001" / f"{image}.nii.gz")
    (tmp_path / "meta.csv").write_text("image_id;age\n", encoding="utf-8")
    (found,) = find_cases(tmp_path)
    assert (found.name, found.patient, found.modality) == ("s0001", "s0001", modality)
    case = LoadedCase(found)
    assert case.names == ["liver", "rib_left_1"] and case.usable() == [0, 1]
    assert np.array_equal(case.structure(0).mask, ball())
    assert np.array_equal(case.structure(1).mask, other)


def test_masks_that_overlap_stay_whole(tmp_path: Path) -> None:
    inner = ball(radius=1.5)
    for name, mask in (("body", ball()), ("core", inner)):
        write_image(mask.astype(np.uint8), tmp_path / "s1" / "segmentations" / f"{name}.nii.gz")
    write_image(IMAGE, tmp_path / "s1" / "ct.nii.gz")
    case = LoadedCase(find_cases(tmp_path)[0])
    before = case.fingerprint()
    assert np.array_equal(case.structure(0).mask, ball()) and np.array_equal(case.structure(1).mask, inner)
    assert case.usable() == [0, 1]
    inner[5, 18, 22] = False
    write_image(inner.astype(np.uint8), tmp_path / "s1" / "segmentations" / "core.nii.gz")
    assert LoadedCase(find_cases(tmp_path)[0]).fingerprint() != before
    write_image(LABEL, tmp_path / "s1" / "segmentations" / "all.nii.gz")
    error = refusal(tmp_path)
    assert error.code == "label_not_whole" and "all.nii.gz" in error.sentence and "1, 2" in error.sentence


def test_a_case_in_place_of_its_folder_is_told(tmp_path: Path) -> None:
    write_image(IMAGE, tmp_path / "s1" / "ct.nii.gz")
    write_image(ball().astype(np.uint8), tmp_path / "s1" / "segmentations" / "body.nii.gz")
    write_image(IMAGE, tmp_path / "c2" / "image.nii.gz")
    write_image(LABEL, tmp_path / "c2" / "label.nii.gz")
    for name in ("s1", "c2"):
        error = refusal(tmp_path / name)
        assert error.code == "no_cases" and "is a case itself" in error.sentence
        assert f"“{tmp_path}”" in error.hint
    assert [case.name for case in find_cases(tmp_path)] == ["c2", "s1"]


# --- BraTS


@pytest.mark.parametrize(
    ("case", "separator", "sequences", "label"),
    [
        ("Brats18_2013_2_1", "_", ("flair", "t1", "t1ce", "t2"), "Brats18_2013_2_1_seg"),
        ("BraTS20_Training_355", "_", ("flair", "t1", "t1ce", "t2"), "W39_1998.09.19_Segm"),
        ("BraTS2021_00000", "_", ("flair", "t1", "t1ce", "t2"), "BraTS2021_00000_seg"),
        ("BraTS-GLI-00000-000", "-", ("t1c", "t1n", "t2f", "t2w"), "BraTS-GLI-00000-000-seg"),
        ("UCSF-PDGM-0004", "_", ("FLAIR", "T1", "T1c"), "UCSF-PDGM-0004_tumor_segmentation"),
        ("p 1", "_", ("T1", "T2"), "p 1_mask"),
    ],
)
def test_brats(tmp_path: Path, case: str, separator: str, sequences: tuple[str, ...], label: str) -> None:
    for number, sequence in enumerate(sequences):
        write_image(IMAGE + 100 * number, tmp_path / case / f"{case}{separator}{sequence}.nii.gz")
    write_image(LABEL, tmp_path / case / f"{label}.nii.gz")
    (tmp_path / "name_mapping.csv").write_text("x", encoding="utf-8")
    error = refusal(tmp_path)
    assert error.code == "sequence_unclear" and f": {', '.join(sequences)}." in error.sentence
    for number, sequence in enumerate(sequences):
        for wanted in (sequence, sequence.upper(), str(number)):
            (found,) = find_cases(tmp_path, wanted)
            assert found.name == case and first_voxels(LoadedCase(found)) == 100 * number
    # The values of the label are named where the data set is known by its sequences.
    is_known = sequences == ("flair", "t1", "t1ce", "t2")
    names = ["necrotic and non-enhancing core", "edema"] if is_known else ["1", "2"]
    assert LoadedCase(found).names == names
    assert refusal(tmp_path, "adc").code == "sequence_unknown"
    # A case with one sequence beside them: leaving the option out would not help.
    write_image(IMAGE, tmp_path / "other_2" / f"other_2{separator}{sequences[0]}.nii.gz")
    write_image(LABEL, tmp_path / "other_2" / f"other_2{separator}seg.nii.gz")
    error = refusal(tmp_path, sequences[1])
    assert error.code == "sequence_unknown" and "“other_2”" in error.sentence
    assert "move this case elsewhere" in error.hint


def test_files_that_do_not_begin_with_the_cases_name(tmp_path: Path) -> None:
    for number, sequence in enumerate(("t1", "t2")):
        write_image(IMAGE + 100 * number, tmp_path / "x" / f"scan_7_{sequence}.nii.gz")
    write_image(LABEL, tmp_path / "x" / "scan_7_seg.nii.gz")
    assert ": t1, t2." in refusal(tmp_path).sentence
    assert first_voxels(LoadedCase(find_cases(tmp_path, "t2")[0])) == 100


def test_one_image_and_one_label_by_their_names(tmp_path: Path) -> None:
    write_image(IMAGE, tmp_path / "p1" / "p1_ct.nii.gz")
    write_image(LABEL, tmp_path / "p1" / "p1_seg.nii.gz")
    (tmp_path / "__MACOSX" / "p1").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "image.nii.gz").write_bytes(b"\0\5\x16\7")
    (case,) = find_cases(tmp_path)
    assert case.image.name == "p1_ct.nii.gz" and LoadedCase(case).names == ["1", "2"]
