"""Single image files: read right, or refused with the sentence that fits."""

from __future__ import annotations

import errno
import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.volume import read_volume

FORMATS = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd")
TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
# A turn about two axes: rows are the directions' components, as SimpleITK wants them.
TURNED = (0.8, -0.48, 0.36, 0.6, 0.64, -0.48, 0.0, 0.6, 0.8)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0)


def voxels(dtype: str = "int16") -> np.ndarray:
    return (np.arange(4 * 5 * 6).reshape(4, 5, 6) * 7 % 113).astype(dtype)


def write(
    path: Path, array: np.ndarray, direction: tuple[float, ...] = TURNED, compress: bool = False
) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((-11.0, 22.0, 33.0))
    image.SetDirection(direction)
    sitk.WriteImage(image, str(path), compress)
    return path


def refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("direction", [TURNED, FLIPPED])
@pytest.mark.parametrize("suffix", FORMATS)
def test_voxels_and_geometry_of_each_format(
    tmp_path: Path, suffix: str, direction: tuple[float, ...]
) -> None:
    folder = tmp_path / "a folder with spaces äöü 肝"
    folder.mkdir()
    volume = read_volume(write(folder / f"CT çà{suffix}", voxels(), direction))
    assert np.array_equal(volume.array, voxels()) and not volume.array.flags.writeable
    assert volume.name == "CT çà" and volume.window is None
    image = sitk.ReadImage(str(volume.source))
    for ijk in [(0, 0, 0), (5, 4, 3), (2, 1, 3)]:
        lps = np.array(image.TransformIndexToPhysicalPoint(ijk))
        assert np.allclose(volume.geometry.ras_of_ijk(ijk), lps * (-1, -1, 1), atol=1e-4)


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_of_voxels_is_kept(tmp_path: Path, dtype: str) -> None:
    array = read_volume(write(tmp_path / "v.nrrd", voxels(dtype))).array
    assert array.dtype == dtype and np.array_equal(array, voxels(dtype))


def test_an_nrrd_in_ras_space_lies_where_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "ras.nrrd"
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 6 5 4\n"
        "space directions: (0,2,0) (0,0,3) (4,0,0)\nkinds: domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (10,20,30)\n\n"
    )
    path.write_bytes(header.encode() + voxels("<i2").tobytes())
    matrix = read_volume(path).geometry.ijk_to_ras
    assert np.allclose(matrix, [[0, 0, 4, 10], [2, 0, 0, 20], [0, 3, 0, 30], [0, 0, 0, 1]])


def test_a_fourth_dimension_of_one_is_dropped(tmp_path: Path) -> None:
    image = sitk.JoinSeries([sitk.GetImageFromArray(voxels())])
    for name in ("v.nii.gz", "v.mha"):
        sitk.WriteImage(image, str(tmp_path / name))
        assert np.array_equal(read_volume(tmp_path / name).array, voxels())


def test_the_modality_that_a_header_tells_is_known(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mha", voxels())
    text = path.read_bytes()
    path.write_bytes(text.replace(b"NDims = 3\n", b"NDims = 3\nModality = MET_MOD_CT\n", 1))
    assert read_volume(path).modality == "CT"
    assert read_volume(write(tmp_path / "w.nrrd", voxels())).modality is None


def test_missing_and_empty_files_and_other_kinds(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.nrrd").code == "file_missing"
    (tmp_path / "empty.nrrd").touch()
    assert refusal(tmp_path / "empty.nrrd").code == "file_empty"
    for name in ("text.nrrd", "text.nii.gz", "text.mha", "text.dcm"):
        (tmp_path / name).write_text("no image\n", encoding="utf-8")
        assert refusal(tmp_path / name).code in ("unknown_format", "file_damaged")


@pytest.mark.parametrize(("name", "shown"), [("v\udcff.nrrd", "v\\udcff.nrrd"), ("v\0.nrrd", "v\\0.nrrd")])
def test_a_path_that_is_no_utf8_is_refused_before_itk_sees_it(tmp_path: Path, name: str, shown: str) -> None:
    error = refusal(tmp_path / name)
    assert error.code == "file_unreadable" and shown in error.sentence and "UTF-8" in error.sentence
    str(error).encode("utf-8")


def test_a_path_that_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(tmp_path / ("v" * 300 + ".nrrd"))
    assert error.code == "file_unreadable" and "cannot be read: File name too long" in error.sentence
    path = write(tmp_path / "v.nrrd", voxels())

    def refused(path: Path, **_: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    # As in a folder without the right to search it.
    monkeypatch.setattr(Path, "is_dir", refused)
    error = refusal(path)
    assert error.code == "file_unreadable" and "Permission denied" in error.sentence


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_a_pipe_or_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "v.nrrd")
    header = write(tmp_path / "w.mhd", voxels())
    (tmp_path / "w.raw").unlink()
    os.mkfifo(tmp_path / "w.raw")
    for given, pipe in ((tmp_path / "v.nrrd", "v.nrrd"), (header, "w.raw"), (Path("/dev/zero"), "zero")):
        error = refusal(given)
        assert error.code == "file_unreadable" and f"{pipe}” is not a file" in error.sentence


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read every file"
)
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "v.nrrd", voxels())
    path.chmod(0)
    assert refusal(path).code == "file_unreadable"


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha", ".gipl", ".gipl.gz", ".vtk"])
def test_a_truncated_file_is_damaged_and_never_filled_with_zeros(
    tmp_path: Path, suffix: str, compress: bool
) -> None:
    path = write(tmp_path / f"v{suffix}", voxels(), compress=compress)
    content = path.read_bytes()
    assert np.array_equal(read_volume(path).array, voxels())
    for lost in (3, 12, 30):
        path.write_bytes(content[:-lost])
        assert refusal(path).code == "file_damaged"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_nifti_file_with_a_scale_is_read_and_its_truncation_found(tmp_path: Path, suffix: str) -> None:
    plain = write(tmp_path / "plain.nii", voxels())
    content = bytearray(plain.read_bytes())
    content[112:120] = struct.pack("<ff", 0.5, -3.0)
    path = tmp_path / f"v{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    assert np.array_equal(read_volume(path).array, voxels() * 0.5 - 3)
    path.write_bytes(gzip.compress(content[:-9]) if suffix.endswith("gz") else content[:-9])
    assert refusal(path).code == "file_damaged"


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha"])
def test_a_changed_byte_in_compressed_voxels_is_found(tmp_path: Path, suffix: str) -> None:
    array = np.random.default_rng(0).integers(0, 1000, (9, 20, 20)).astype(np.int16)
    path = write(tmp_path / f"v{suffix}", array, compress=True)
    content = bytearray(path.read_bytes())
    content[-200] ^= 0x10
    path.write_bytes(content)
    assert refusal(path).code == "file_damaged"


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, (9, 20, 20)).astype(np.int16)


def check_that_damage_is_found(path: Path, damaged: Path) -> None:
    """Read an image of `noise`, then damage a file of it in two ways."""
    assert np.array_equal(read_volume(path).array, noise())
    whole = damaged.read_bytes()
    changed = bytearray(whole)
    changed[-200] ^= 0x10
    for content in (bytes(changed), whole[:-10]):
        damaged.write_bytes(content)
        assert refusal(path).code == "file_damaged"


@pytest.mark.parametrize(("suffix", "other"), [(".mhd", ".zraw"), (".nhdr", ".raw.gz")])
def test_damage_in_a_compressed_file_of_voxels_is_found(tmp_path: Path, suffix: str, other: str) -> None:
    path = write(tmp_path / f"v{suffix}", noise(), compress=True)
    check_that_damage_is_found(path, tmp_path / f"v{other}")


@pytest.mark.parametrize("named", ["LIST", "s%d.zraw 0 8 1"])
def test_damage_in_one_of_many_compressed_files_is_found(tmp_path: Path, named: str) -> None:
    path = write(tmp_path / "v.mhd", noise(), compress=True)
    lines = [
        line for line in path.read_text("utf-8").splitlines() if not line.startswith("CompressedDataSize")
    ]
    names = [f"s{number}.zraw" for number in range(9)]
    lines[-1] = f"ElementDataFile = {named}"
    path.write_text("\n".join(lines + (names if named == "LIST" else [])) + "\n", "utf-8")
    for name, plane in zip(names, noise(), strict=True):
        (tmp_path / name).write_bytes(zlib.compress(plane.tobytes()))
    check_that_damage_is_found(path, tmp_path / names[4])


@pytest.mark.parametrize("numbers", ["7 9", "7 9 0", "9 7 -1"])
def test_numbers_of_files_without_a_step_do_not_end_the_process(tmp_path: Path, numbers: str) -> None:
    path = write(tmp_path / "v.mhd", voxels())
    path.write_text(path.read_text("utf-8").replace("= v.raw", f"= s%d.raw {numbers}"), "utf-8")
    for number in (7, 8, 9):
        (tmp_path / f"s{number}.raw").write_bytes(voxels()[0].tobytes())
    assert refusal(path).code == "file_damaged"


def test_damage_behind_the_header_of_an_mhd_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mha", noise(), compress=True).rename(tmp_path / "v.mhd")
    check_that_damage_is_found(path, path)


@pytest.mark.parametrize("given", [".hdr", ".img"])
def test_a_cut_short_file_of_a_nifti_pair_is_found(tmp_path: Path, given: str) -> None:
    write(tmp_path / "v.hdr", noise())
    voxel_file = tmp_path / "v.img"
    assert np.array_equal(read_volume(tmp_path / f"v{given}").array, noise())
    voxel_file.write_bytes(voxel_file.read_bytes()[:-30])
    assert refusal(tmp_path / f"v{given}").code == "file_damaged"


def test_damage_in_the_compressed_file_of_a_nifti_pair_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "v.hdr", noise())
    packed = tmp_path / "v.img.gz"
    packed.write_bytes(gzip.compress((tmp_path / "v.img").read_bytes()))
    (tmp_path / "v.img").unlink()
    check_that_damage_is_found(path, packed)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_what_simpleitk_makes_of_a_nifti_file_is_read(tmp_path: Path, suffix: str, compress: bool) -> None:
    # Large enough for the compressed voxels to be shorter than the others.
    array = np.tile(voxels(), (5, 5, 5))
    start = write(tmp_path / "v.nii.gz", array)
    made = tmp_path / f"v{suffix}"
    # With the fields of the NIfTI header, which SimpleITK copies.
    sitk.WriteImage(sitk.ReadImage(str(start)), str(made), compress)
    np.testing.assert_array_equal(read_volume(made).array, array)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_a_header_without_its_voxel_file(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"v{suffix}", voxels())
    for other in tmp_path.iterdir():
        if other != path:
            other.unlink()
    error = refusal(path)
    assert error.code == "file_damaged" and "file with the voxels" in error.sentence


def test_volumes_over_time_are_refused(tmp_path: Path) -> None:
    image = sitk.JoinSeries([sitk.GetImageFromArray(voxels()), sitk.GetImageFromArray(voxels() + 1)])
    for name in ("v.nii.gz", "v.mha", "v.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
        error = refusal(tmp_path / name)
        assert error.code in ("not_3d", "multi_component") and "one" in error.hint
        if error.code == "not_3d":
            assert "6 x 5 x 4 x 2" in error.sentence


@pytest.mark.parametrize("components", [2, 3, 4])
@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha"])
def test_color_and_vectors_are_refused(tmp_path: Path, suffix: str, components: int) -> None:
    array = np.zeros((4, 5, 6, components), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / f"v{suffix}"))
    error = refusal(tmp_path / f"v{suffix}")
    assert error.code == "multi_component" and f"{components} values per voxel" in error.sentence


def test_an_nrrd_with_a_vector_axis_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vector.nrrd"
    header = (
        "NRRD0004\ntype: float\ndimension: 4\nspace: left-posterior-superior\nsizes: 3 6 5 4\n"
        "space directions: none (1,0,0) (0,1,0) (0,0,1)\nkinds: vector domain domain domain\n"
        "endian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
    )
    path.write_bytes(header.encode() + np.zeros(360, "<f4").tobytes())
    assert refusal(path).code == "multi_component"


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(voxels().astype(np.complex64)), str(tmp_path / "c.mha"))
    assert refusal(tmp_path / "c.mha").code == "multi_component"


def test_a_single_slice_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(voxels()[0]), str(tmp_path / "flat.nrrd"))
    sitk.WriteImage(sitk.GetImageFromArray(voxels()[:1]), str(tmp_path / "thin.nii.gz"))
    assert refusal(tmp_path / "flat.nrrd").code == "too_few_slices"
    assert refusal(tmp_path / "thin.nii.gz").code == "too_few_slices"


def test_volumes_with_nothing_to_see_are_refused(tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "c.nrrd", np.full((4, 5, 6), 7, np.int16))).code == "constant_volume"
    assert refusal(write(tmp_path / "n.nrrd", np.full((4, 5, 6), np.nan, np.float32))).code == "all_nan"


def test_some_nan_is_no_reason_to_refuse(tmp_path: Path) -> None:
    array = voxels("float32")
    array[0] = np.nan
    array[1, 0, 0] = np.inf
    assert np.array_equal(read_volume(write(tmp_path / "v.nrrd", array)).array, array, equal_nan=True)


def test_a_segmentation_is_no_volume(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(voxels("uint8"))
    image.SetMetaData("Segment0_ID", "Segment_1")
    sitk.WriteImage(image, str(tmp_path / "s.seg.nrrd"))
    assert refusal(tmp_path / "s.seg.nrrd").code == "is_segmentation"


def test_a_series_cannot_be_chosen_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_volume(write(tmp_path / "v.nrrd", voxels()), series="1.2")
    assert caught.value.code == "series_without_folder"
