"""Cases with reference labels: found, read, and refused when something does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation.targets import Target, find_targets, load_target

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(
    not (DATA / "manifest.json").is_file(), reason="the labeled volumes of ../shared/data are not here"
)


def write_case(folder: Path, label: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 2)) -> Path:
    """image.nii.gz and label.nii.gz in a new folder; the label's shape is the image's."""
    folder.mkdir(parents=True)
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(100, 20, label.shape).astype(np.float32))
    mask = sitk.GetImageFromArray(label.astype(np.uint8))
    for one, name in ((image, "image"), (mask, "label")):
        one.SetSpacing(spacing)
        sitk.WriteImage(one, str(folder / f"{name}.nii.gz"))
    return folder


def label_array() -> np.ndarray:
    label = np.zeros((6, 8, 9), np.uint8)
    label[1:4, 2:5, 3:7] = 1
    label[3:5, 5:7, 3:5] = 2
    return label


def manifest(folder: Path, **pair: object) -> None:
    values = {
        "name": "one",
        "labels": {"1": "liver", "2": "spleen"},
        "modality": "MR T1",
        "propagation_axis_ijk": 1,
        "labels_present": {"1": {"adjacent_slice_dice": 0.5, "copy_max_slice_dice": 0.25}},
        "recommended_targets": [1, "1+2"],
        **pair,
    }
    (folder / "manifest.json").write_text(json.dumps({"pairs": [values]}), encoding="utf-8")


def test_a_manifest_names_targets_and_their_baselines(tmp_path: Path) -> None:
    write_case(tmp_path / "one", label_array())
    manifest(tmp_path)
    single, union = find_targets(tmp_path)
    assert (single.case, single.name, single.values) == ("one", "liver", (1,))
    assert (single.axis, single.modality, single.title) == (1, "MR", "one: liver")
    assert single.baselines == {"adjacent_slice_dice": 0.5, "copy_max_slice_dice": 0.25}
    assert (union.name, union.values, union.baselines) == ("liver + spleen", (1, 2), {})
    assert single.is_there
    loaded = load_target(union)
    assert loaded.axis == 1 and loaded.frames.count == 8
    assert np.array_equal(loaded.mask, label_array() != 0)
    assert not loaded.mask.flags.writeable
    assert np.array_equal(load_target(single).mask, label_array() == 1)


def test_a_missing_case_is_listed_but_not_there(tmp_path: Path) -> None:
    manifest(tmp_path)
    assert [target.is_there for target in find_targets(tmp_path)] == [False, False]


def test_plain_folders_are_cases(tmp_path: Path) -> None:
    write_case(tmp_path / "b", label_array())
    write_case(tmp_path / "a", label_array(), spacing=(3, 1, 1))
    (tmp_path / "notes").mkdir()
    first, second = find_targets(tmp_path)
    assert (first.case, second.case) == ("a", "b")
    loaded = load_target(first)
    assert loaded.axis == 0, "the largest spacing is along i"
    assert np.array_equal(loaded.mask, label_array() != 0)
    assert load_target(second).axis == 2


@pytest.mark.parametrize(
    ("content", "code"),
    [("{", "manifest_unreadable"), ("[]", "manifest_unreadable"), ('{"pairs": [{}]}', "manifest_unreadable")],
)
def test_a_broken_manifest_is_refused(tmp_path: Path, content: str, code: str) -> None:
    (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        find_targets(tmp_path)
    assert caught.value.code == code


def test_folders_without_cases_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError) as caught:
            find_targets(folder)
        assert caught.value.code == "no_cases"


def test_a_label_on_another_grid_or_without_the_structure_is_refused(tmp_path: Path) -> None:
    case = write_case(tmp_path / "one", label_array())
    target = Target("one", "liver", case / "image.nii.gz", case / "label.nii.gz", (1,))
    with pytest.raises(InputError) as caught:
        load_target(Target("one", "heart", target.image, target.label, (9,)))
    assert caught.value.code == "label_empty"
    moved = sitk.ReadImage(str(target.label))
    moved.SetOrigin((0, 0, 5))
    sitk.WriteImage(moved, str(target.label))
    with pytest.raises(InputError) as caught:
        load_target(target)
    assert caught.value.code == "label_mismatch"


def test_many_parts_are_scattered(tmp_path: Path) -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[::4, ::4, ::8] = 1
    case = write_case(tmp_path / "one", label)
    loaded = load_target(Target("one", "lesions", case / "image.nii.gz", case / "label.nii.gz"))
    assert loaded.parts == 75 and loaded.is_scattered
    other = write_case(tmp_path / "two", label_array())
    whole = load_target(Target("two", "liver", other / "image.nii.gz", other / "label.nii.gz"))
    assert whole.parts == 1 and not whole.is_scattered


@needs_data
def test_the_manifest_s_baselines_are_reproduced() -> None:
    """On the small volumes; the definition is then the manifest's own."""
    compared = 0
    for target in find_targets(DATA):
        if target.case in ("sts_041_mr_t1", "totalseg_ct_sm", "sct_t1_cord", "tptbox_ct_spine"):
            loaded = load_target(target)
            assert not loaded.is_scattered
            for name, value in target.baselines.items():
                assert loaded.baselines[name] == pytest.approx(value, abs=0.0006), (target.title, name)
                compared += 1
    assert compared == 14


@needs_data
def test_every_target_of_the_data_is_listed() -> None:
    targets = find_targets(DATA)
    assert len(targets) == 15 and all(target.is_there for target in targets)
    assert [target.values for target in targets if target.case == "msd_hippocampus_001"] == [(1, 2)]


def test_evaluation_imports_neither_torch_nor_slicer() -> None:
    code = (
        "import sys, SAM2PropagateLib.evaluation.protocol\n"
        "print([name for name in ('torch', 'sam2', 'slicer', 'vtk', 'qt') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "SAM2Propagate",
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert answer.stdout.strip() == "[]"
