"""BraTS 2020 and the Decathlon are read as they are downloaded; what is wrong with a case stays with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.training.case import FLAIR_ELSE_FIRST, Case
from SAM2PropagateLib.training.cases import find_cases
from SAM2PropagateLib.training.loaded_case import LoadedCase
from Testing.experiment.bright import as_image, ball, image_of
from Testing.experiment.layouts import BRATS_SEQUENCES, write_brats, write_decathlon

LABEL = ball().astype(np.uint8) + 1 * ball(radius=1.5)  # 2 inside 1
FOUR = {name: image_of(ball(), 100 + 10 * number) for number, name in enumerate(BRATS_SEQUENCES)}


def found(folder: Path, sequence: str = FLAIR_ELSE_FIRST) -> tuple[list[Case], dict[str, InputError]]:
    refused: dict[str, InputError] = {}
    cases = find_cases(folder, sequence, refused.__setitem__)
    return list(cases), refused


def brightest(case: Case) -> int:
    return int(LoadedCase(case).frames.array.max())


def write_training(folder: Path, *names: str) -> None:
    for name in names:
        write_brats(folder, name, FOUR, as_image(LABEL))


def test_brats_2020(tmp_path: Path) -> None:
    write_training(tmp_path, "BraTS20_Training_001", "BraTS20_Training_355")
    # As it is in the download: the label of case 355 has a name of its own.
    odd = tmp_path / "BraTS20_Training_355"
    (odd / "BraTS20_Training_355_seg.nii.gz").rename(odd / "W39_1998.09.19_Segm.nii.gz")
    cases, refused = found(tmp_path)
    assert [case.name for case in cases] == ["BraTS20_Training_001", "BraTS20_Training_355"] and not refused
    for case in cases:
        assert (case.sequence, case.modality, brightest(case)) == ("flair", "MR", 100)
        assert LoadedCase(case).names == ["necrotic and non-enhancing core", "edema"]
    cases, _ = found(tmp_path, "t1ce")
    assert [brightest(case) for case in cases] == [120, 120]


def test_cases_for_validation_have_no_label(tmp_path: Path) -> None:
    write_training(tmp_path, "BraTS20_Training_001")
    write_brats(tmp_path, "BraTS20_Validation_001", FOUR, None)
    cases, refused = found(tmp_path)
    assert [case.name for case in cases] == ["BraTS20_Training_001"]
    error = refused["BraTS20_Validation_001"]
    assert error.code == "case_without_label" and "BraTS20_Validation_001_seg" in error.hint
    with pytest.raises(InputError, match="has no label"):
        find_cases(tmp_path, "flair")
    # Alone they are told, too, and not taken for an empty folder.
    write_brats(tmp_path / "alone", "BraTS20_Validation_002", FOUR, None)
    assert found(tmp_path / "alone")[1].keys() == {"BraTS20_Validation_002"}


def test_a_missing_sequence_stays_with_its_case(tmp_path: Path) -> None:
    write_training(tmp_path, "BraTS20_Training_001", "BraTS20_Training_002")
    (tmp_path / "BraTS20_Training_002" / "BraTS20_Training_002_flair.nii.gz").unlink()
    cases, refused = found(tmp_path, "flair")
    assert [case.name for case in cases] == ["BraTS20_Training_001"]
    assert refused["BraTS20_Training_002"].code == "sequence_unknown"
    assert "t1, t1ce, t2" in refused["BraTS20_Training_002"].sentence


def write_task(folder: Path, *names: str) -> Path:
    labels = {1: "edema", 2: "tumor"}
    volumes = [image_of(ball(), 100 + 10 * number) for number in range(4)]
    image = sitk.JoinSeries(volumes)
    return write_decathlon(
        folder / "Task01_BrainTumour",
        ("T1w", "FLAIR", "t1gd", "T2w"),
        labels,
        {name: (image, as_image(LABEL)) for name in names},
    )


def test_the_decathlon_s_brain(tmp_path: Path) -> None:
    task = write_task(tmp_path, "BRATS_001", "BRATS_002")
    cases, refused = found(task)
    assert [case.name for case in cases] == ["BRATS_001", "BRATS_002"] and not refused
    assert {(case.sequence, case.channel, brightest(case)) for case in cases} == {("FLAIR", 1, 110)}
    for sequence, value in (("t2w", 130), ("0", 100)):
        assert [brightest(case) for case in found(task, sequence)[0]] == [value, value]


def test_without_flair_it_is_the_first_channel(tmp_path: Path) -> None:
    task = write_task(tmp_path, "a")
    description = json.loads((task / "dataset.json").read_text(encoding="utf-8"))
    description["modality"] = {"0": "T2", "1": "ADC", "2": "x", "3": "y"}
    (task / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    (case,), _ = found(task)
    assert (case.sequence, case.channel) == ("T2", 0)
    description["modality"] = {"0": "MRI"}
    (task / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    (case,), _ = found(task)
    assert case.sequence == ""
    with pytest.raises(InputError, match="instead of 3") as error:
        LoadedCase(case)
    assert "--sequence" in error.value.hint


def test_an_image_that_is_not_there_stays_with_its_case(tmp_path: Path) -> None:
    task = write_task(tmp_path, "a", "b", "c")
    (task / "imagesTr" / "b.nii.gz").unlink()
    cases, refused = found(task)
    assert [case.name for case in cases] == ["a", "c"]
    assert refused["b"].code == "image_missing" and "b.nii.gz" in refused["b"].sentence


def test_folders_without_a_description(tmp_path: Path) -> None:
    task = write_task(tmp_path, "a", "b", "c")
    (task / "dataset.json").unlink()
    (task / "imagesTr" / "b.nii.gz").unlink()
    (task / "labelsTr" / "c.nii.gz").unlink()
    cases, refused = found(task)
    assert [case.name for case in cases] == ["a"]
    assert {name: error.code for name, error in refused.items()} == {
        "b": "label_without_image",
        "c": "case_without_label",
    }
    with pytest.raises(InputError) as error:
        find_cases(task)
    assert error.value.code == "label_without_image", "elsewhere the first one ends it"


def test_files_side_by_side(tmp_path: Path) -> None:
    for name in ("a", "b", "a_label", "c_seg"):
        sitk.WriteImage(as_image(LABEL), str(tmp_path / f"{name}.nii.gz"))
    cases, refused = found(tmp_path)
    assert [case.name for case in cases] == ["a"]
    assert (refused["b"].code, refused["c"].code) == ("case_without_label", "label_without_image")
