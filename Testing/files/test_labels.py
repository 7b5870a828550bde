"""Labels and segmentations come onto their image's voxels, whatever order their own are in."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from scipy.spatial.transform import Rotation

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.image import itk_geometry
from SAM2PropagateLib.files.labels import is_segmentation, read_labels, read_segments
from SAM2PropagateLib.files.segmentation import Segment, write_segmentation
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.grids import grid_offset, reordered

SHAPE = (5, 6, 7)  # (K, J, I): no two alike
ORDERS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "IS"))
    for letters in itertools.product(*axes)
]
OBLIQUE = Rotation.from_euler("xyz", [12, -7, 3], degrees=True).as_matrix()


def labels() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:4, 2:5, 3:6] = 1
    array[1, 2, 3] = 2
    array[4, 0, 6] = 3
    return array


def image_of(array: np.ndarray, direction: np.ndarray = OBLIQUE) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((5, -6, 70.25))
    image.SetDirection(direction.ravel().tolist())
    return image


GRID = itk_geometry(image_of(labels()))


def write(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(image, str(path))
    return path


def refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as error:
        read_labels(path, GRID)
    assert error.value.hint
    return error.value


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_the_voxels_is_put_right(order: str, tmp_path: Path) -> None:
    turned = sitk.DICOMOrient(image_of(labels()), order)
    path = write(turned, tmp_path / "label.nii.gz")
    read = read_labels(path, GRID)
    assert np.array_equal(read.array, labels()) and read.values == (1, 2, 3) and read.notes == ()
    assert read.array.flags.c_contiguous
    array, geometry = reordered(sitk.GetArrayFromImage(turned), itk_geometry(turned), GRID)
    assert np.array_equal(array, labels()) and np.allclose(geometry.ijk_to_ras, GRID.ijk_to_ras, atol=1e-9)


def test_each_voxel_keeps_its_place() -> None:
    turned = sitk.DICOMOrient(image_of(labels()), "SLA")
    own = itk_geometry(turned)
    array, geometry = reordered(sitk.GetArrayFromImage(turned), own, GRID)
    for value in (2, 3):
        (at,) = np.argwhere(array == value)
        (before,) = np.argwhere(sitk.GetArrayFromImage(turned) == value)
        assert np.allclose(geometry.ras_of_ijk(at[::-1]), own.ras_of_ijk(before[::-1]))


@pytest.mark.parametrize("degrees", [1.0, 44.0, 46.0, 90.5])
def test_other_turns_stay_different(degrees: float, tmp_path: Path) -> None:
    turn = OBLIQUE @ Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    assert refusal(write(image_of(labels(), turn), tmp_path / "l.nrrd")).code == "label_mismatch"


def test_a_flip_in_another_place_stays_different(tmp_path: Path) -> None:
    flipped = sitk.DICOMOrient(image_of(labels()), "RAS")
    flipped.SetOrigin([value + 1.0 for value in flipped.GetOrigin()])
    assert refusal(write(flipped, tmp_path / "l.nrrd")).code == "label_mismatch"
    assert refusal(write(image_of(labels()[:4]), tmp_path / "m.nrrd")).code == "label_mismatch"


def test_values_per_voxel_are_carried_along() -> None:
    turned = sitk.DICOMOrient(image_of(labels()), "PIR")
    pair = np.stack([sitk.GetArrayFromImage(turned)] * 2, axis=-1)
    array, geometry = reordered(pair, itk_geometry(turned), GRID)
    assert array.shape == (*SHAPE, 2) and np.array_equal(array[..., 1], labels())
    assert grid_offset(geometry, GRID) == (0, 0, 0)


@pytest.mark.parametrize("order", ["LPS", "RAS", "PIR", "SLA"])
def test_segmentations_in_another_order_and_cropped(order: str, tmp_path: Path) -> None:
    part = labels()[1:4, 2:5, 3:6]
    cropped = image_of(labels())[3:6, 2:5, 1:4]
    first, second = (sitk.DICOMOrient(cropped == value, order) for value in (1, 2))
    segments = [
        Segment(name, (1, 0, 0), sitk.GetArrayFromImage(image) > 0)
        for name, image in (("one", first), ("two", second))
    ]
    path = tmp_path / "s.seg.nrrd"
    write_segmentation(path, segments, itk_geometry(first))
    one, two = read_segments(path, GRID)
    assert (one.name, two.name) == ("one", "two") and part.any()
    assert np.array_equal(one.mask, labels() == 1) and np.array_equal(two.mask, labels() == 2)


def test_a_segmentation_that_reaches_beyond_the_image_is_refused(tmp_path: Path) -> None:
    shift = np.eye(4)
    shift[:3, 3] = (1, 0, 0)
    path = tmp_path / "s.seg.nrrd"
    beyond = VolumeGeometry(SHAPE[::-1], GRID.ijk_to_ras @ shift)
    write_segmentation(path, [Segment("a", (1, 0, 0), labels() > 0)], beyond)
    with pytest.raises(InputError) as error:
        read_segments(path, GRID)
    assert error.value.code == "label_mismatch"


def test_a_segmentation_is_known_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "s.seg.nrrd"
    write_segmentation(path, [Segment("a", (1, 0, 0), labels() > 0)], GRID)
    other = path.rename(tmp_path / "label.nrrd")
    assert is_segmentation(other)
    assert not is_segmentation(write(image_of(labels()), tmp_path / "plain.nrrd"))


# --- what labels hold


@pytest.mark.parametrize(
    "array",
    [
        labels().astype(np.float32),
        labels().astype(np.float64) * 1.0000001,
        labels().astype(np.float32) - 1e-5,
        labels().astype(np.int64),
        labels().astype(np.uint32),
    ],
    ids=["floats", "rounded up", "rounded down", "int64", "uint32"],
)
def test_whole_numbers_in_any_type(array: np.ndarray, tmp_path: Path) -> None:
    read = read_labels(write(image_of(array), tmp_path / "l.nrrd"), GRID)
    assert read.array.dtype.kind in "iu" and np.array_equal(read.array, labels()) and read.values == (1, 2, 3)


def test_values_below_zero_are_outside_and_told(tmp_path: Path) -> None:
    for dtype in (np.int16, np.float32):
        array = labels().astype(dtype)
        array[0] = -1
        read = read_labels(write(image_of(array), tmp_path / "l.nrrd"), GRID)
        assert read.values == (1, 2, 3) and np.array_equal(read.array, np.where(array < 0, 0, array))
        assert len(read.notes) == 1 and "-1 in 42 voxels" in read.notes[0]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (labels() * np.float32(0.8), "fractions such as 1.6"),
        (np.where(labels() > 0, np.nan, 0.0), "not finite"),
        (np.arange(5 * 20 * 20).reshape(5, 20, 20).astype(np.int32), "2000 different values"),
        (labels() * np.float64(1e12), "as large as 3e+12"),
    ],
    ids=["fractions", "nan", "an image", "huge"],
)
def test_what_is_no_label_is_refused_with_the_reason(array: np.ndarray, words: str, tmp_path: Path) -> None:
    image = image_of(array)
    path = write(image, tmp_path / "l.nrrd")
    with pytest.raises(InputError, match=words.replace("+", r"\+")) as error:
        read_labels(path, itk_geometry(image))
    assert error.value.code == "label_not_whole" and error.value.hint


def test_a_scale_factor_is_named(tmp_path: Path) -> None:
    path = write(image_of(labels()), tmp_path / "l.nii")
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32(1 / 255).tobytes()  # scl_slope
    path.write_bytes(content)
    assert "scl_slope" in refusal(path).sentence
    # As many programs write it: 255 times 1/255.
    content[352:] = bytes(255 if voxel == 1 else 0 for voxel in content[352:])
    path.write_bytes(content)
    assert np.array_equal(read_labels(path, GRID).array, labels() == 1)


def test_several_values_per_voxel_and_several_volumes_are_refused(tmp_path: Path) -> None:
    plain = image_of(labels())
    color = write(sitk.Compose(plain, plain, plain), tmp_path / "color.nii.gz")
    error = refusal(color)
    assert error.code == "label_not_scalar" and "3 values per voxel" in error.sentence
    several = write(sitk.JoinSeries([plain, plain]), tmp_path / "several.nii.gz")
    error = refusal(several)
    assert error.code == "label_not_scalar" and "2 volumes" in error.sentence
    single = write(sitk.JoinSeries([plain]), tmp_path / "single.nii.gz")
    assert np.array_equal(read_labels(single, GRID).array, labels())
