"""Files that are not read: the reason is true, the advice works; and axes nearly at right angles."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.image import FileImage, read_image
from SAM2PropagateLib.files.unreadable import path_failure
from SAM2PropagateLib.files.volume import read_volume

SHAPE = (6, 20, 30)
ARRAY = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
MATRIX = np.array([[-0.8, 0, 0, 12], [0, 0.8, 0, -7], [0, 0, 3, 40], [0, 0, 0, 1]], float)
# Of a NIfTI-1 header.
PIXDIM, Q_CODE, S_CODE, Q_OFFSET, ROWS = 80, 252, 254, 268, 280


def write(path: Path) -> Path:
    image = sitk.GetImageFromArray(ARRAY)
    image.SetSpacing((0.8, 0.8, 3))
    image.SetOrigin((-12, 7, 40))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))
    return path


def nifti(path: Path, sform: np.ndarray | None, qform: bool = False) -> Path:
    """A NIfTI file with the places that are wanted; its qform is that of MATRIX."""
    content = bytearray(write(path).read_bytes())
    struct.pack_into("<hh", content, Q_CODE, int(qform), int(sform is not None))
    if sform is not None:
        struct.pack_into("<12f", content, ROWS, *sform[:3].ravel())
    path.write_bytes(content)
    return path


def skewed(by: float, *, where: tuple[int, int] = (0, 1)) -> np.ndarray:
    matrix = MATRIX.copy()
    matrix[where] += by
    return matrix


def refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as error:
        read_volume(path)
    assert error.value.hint
    return error.value


# --- names and encodings


def test_the_encoding_of_an_nrrd_file_is_named(tmp_path: Path) -> None:
    content = write(tmp_path / "a.nrrd").read_bytes()
    header, _, voxels = content.partition(b"\n\n")
    if b"encoding: gzip" in header:
        voxels = gzip.decompress(voxels)
    header = header.replace(b"encoding: gzip", b"encoding: raw")
    path = tmp_path / "b.nrrd"
    for name, packed in (("bzip2", bz2.compress(voxels)), ("bz2", bz2.compress(voxels)), ("zrl", voxels)):
        path.write_bytes(header.replace(b"encoding: raw", b"encoding: " + name.encode()) + b"\n\n" + packed)
        error = refusal(path)
        assert error.code == "unknown_encoding" and f"encoding {name}," in error.sentence
    # What can be read stays readable.
    for name, packed in (
        ("raw", voxels),
        ("GZIP", gzip.compress(voxels)),
        ("gz", gzip.compress(voxels)),
        ("hex", voxels.hex().encode()),
        ("ascii", " ".join(map(str, ARRAY.ravel())).encode()),
    ):
        path.write_bytes(header.replace(b"encoding: raw", b"encoding: " + name.encode()) + b"\n\n" + packed)
        assert np.array_equal(read_volume(path).array, ARRAY), name


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("order", "<>")
def test_nifti_2_is_named(tmp_path: Path, ending: str, order: str) -> None:
    content = struct.pack(order + "i", 540) + b"n+2\0\r\n\x1a\n" + bytes(2000)
    path = tmp_path / ("a" + ending)
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    error = refusal(path)
    assert "NIfTI-2" in error.sentence and "nibabel" in error.hint


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("a.nii.gz", "a.nii", "a.nii.gz"),
        ("a.nii.gz", "a", "a.nii.gz"),
        ("a.nii.gz", "a.gz", "a.nii.gz"),
        ("a.nii", "a", "a.nii"),
        ("a.nii", "a.dat", "a.dat.nii"),
        ("a.nrrd", "scan", "scan.nrrd"),
    ],
)
def test_a_file_that_needs_another_name_is_told_which(
    tmp_path: Path, name: str, given: str, wanted: str
) -> None:
    path = write(tmp_path / name).rename(tmp_path / given)
    error = refusal(path)
    assert error.code == "unknown_name" and error.hint == f"Rename it to “{wanted}”."
    assert np.array_equal(read_volume(path.rename(tmp_path / wanted)).array, ARRAY)


@pytest.mark.parametrize(
    ("pack", "name"), [(bz2.compress, "bzip2"), (lzma.compress, "xz"), (lambda data: b"PK\3\4" + data, "zip")]
)
def test_other_compression_is_named(tmp_path: Path, pack: object, name: str) -> None:
    assert callable(pack)
    for given in ("a.nii.bz2", "a.nii", "a"):
        path = tmp_path / given
        path.write_bytes(pack(write(tmp_path / "b.nii").read_bytes()))
        error = refusal(path)
        assert f"compressed with {name}" in error.sentence and "Unpack" in error.hint


def test_voxels_without_their_header_and_headers_without_their_voxels(tmp_path: Path) -> None:
    for header, voxels in (("a.mhd", "a.raw"), ("b.nhdr", "b.raw")):
        write(tmp_path / header)
        if not (tmp_path / voxels).exists():
            voxels = "b.raw.gz"
        error = refusal(tmp_path / voxels)
        if voxels.endswith(".raw"):
            assert f"“{tmp_path / header}”" in error.hint
        shutil.move(tmp_path / voxels, tmp_path / "elsewhere")
        error = refusal(tmp_path / header)
        assert error.code == "file_damaged" and f"“{tmp_path / voxels}”" in error.sentence
        assert "is not there" in error.sentence
        shutil.move(tmp_path / "elsewhere", tmp_path / voxels)
        assert np.array_equal(read_volume(tmp_path / header).array, ARRAY)
    write(tmp_path / "c.hdr")
    for half, other in ((".hdr", ".img"), (".img", ".hdr")):
        alone = tmp_path / half[1:]
        alone.mkdir()
        shutil.copy(tmp_path / f"c{half}", alone)
        assert f"“{alone / ('c' + other)}”" in refusal(alone / f"c{half}").sentence


def test_what_is_no_image_at_all_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear colleague, " * 50, encoding="utf-8")
    assert refusal(path).code == "unknown_format" and "not an image file" in refusal(path).sentence


def test_the_advice_for_several_volumes_works(tmp_path: Path) -> None:
    volume = sitk.ReadImage(str(write(tmp_path / "a.nii")))
    sitk.WriteImage(sitk.JoinSeries([volume, volume + 1]), str(tmp_path / "four.nii"))
    error = refusal(tmp_path / "four.nii")
    assert error.code == "not_3d" and "[:, :, :, 0]" in error.hint
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "four.nii"))[:, :, :, 0], str(tmp_path / "one.nii"))
    assert np.array_equal(read_volume(tmp_path / "one.nii").array, ARRAY)


NRRD_HEADER = "type: short\ndimension: {dimension}\nsizes: {sizes}\nendian: little\nencoding: raw\n{more}\n\n"
DIRECTIONS = "space directions: (1,0,0) (0,1,0) (0,0,2)"


def nrrd(path: Path, more: str, sizes: str = "30 20 6", **replaced: str) -> Path:
    """An NRRD file with a header by hand."""
    header = NRRD_HEADER.format(sizes=sizes, dimension=len(sizes.split()), more=more)
    for key, value in replaced.items():
        header = re.sub(rf"{key}: .*\n", value, header)
    path.write_bytes(b"NRRD0004\n" + header.encode() + ARRAY.tobytes())
    return path


@pytest.mark.parametrize(
    ("more", "sizes", "code", "said"),
    [
        (f"space: right-posterior-inferior\n{DIRECTIONS}", "30 20 6", "unknown_space", "right-posterior-inf"),
        (
            "space: left-posterior-superior-time\nspace directions: (1,0,0,0) (0,1,0,0) (0,0,2,0)",
            "30 20 6",
            "not_3d",
            "has 3 axes in the space left-posterior-superior-time",
        ),
        (
            f"space: LPS\n{DIRECTIONS} none\nkinds: domain domain domain time",
            "30 20 3 2",
            "not_3d",
            "has 4 axes in the space LPS",
        ),
        ("spacings: 1 1 0", "30 20 6", "no_voxel_size", "no size along an axis"),
        (
            "space: LPS\nspace directions: (1,0,0) (0,0,0) (0,0,2)",
            "30 20 6",
            "no_voxel_size",
            "no size along",
        ),
        ("spacings: 1 1 nan", "30 20 6", "no_voxel_size", "along 2 of 3 axes"),
        ("space: LPS\nspace directions: (1,0,0) (0,1,0) none", "30 20 6", "no_voxel_size", "along 2 of 3"),
        (f"space: LPS\n{DIRECTIONS}\nspace origin: (nan,2,3)", "30 20 6", "file_damaged", "The header of"),
    ],
)
def test_a_header_that_is_not_read_is_not_called_damaged_voxels(
    tmp_path: Path, more: str, sizes: str, code: str, said: str
) -> None:
    error = refusal(nrrd(tmp_path / "a.nrrd", more, sizes))
    assert error.code == code and said in error.sentence and "cut short" not in error.sentence


def test_a_type_of_voxels_that_is_not_read_is_named(tmp_path: Path) -> None:
    error = refusal(nrrd(tmp_path / "a.nrrd", f"space: LPS\n{DIRECTIONS}", type="type: half\n"))
    assert error.code == "unknown_type" and "have the type half" in error.sentence
    error = refusal(nrrd(tmp_path / "b.nrrd", f"space: LPS\n{DIRECTIONS}", endian=""))
    assert error.code == "file_damaged" and "require endian info" in error.sentence


def test_a_metaimage_without_a_size_of_voxels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mha")
    path.write_bytes(re.sub(rb"ElementSpacing = [^\n]*", b"ElementSpacing = 0.8 0.8 0", path.read_bytes()))
    assert refusal(path).code == "no_voxel_size"


def test_axes_that_do_not_span_a_volume(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mha")
    flat = b"TransformMatrix = 1 0 0 1 0 0 0 0 1"
    path.write_bytes(re.sub(rb"TransformMatrix = [^\n]*", flat, path.read_bytes()))
    error = refusal(path)
    assert error.code == "skewed_geometry" and "do not span a volume" in error.sentence


def test_a_distance_between_slices_that_no_header_gives_is_told(tmp_path: Path) -> None:
    image = read_image(write(tmp_path / "a.tif"))
    assert image.geometry is not None and image.geometry.spacing[2] == 1
    assert "how far apart its slices are: 1 mm is taken, and 0.8 x 0.8 mm for its pixels" in image.notes[0]
    (note,) = read_image(nrrd(tmp_path / "a.nrrd", "kinds: domain domain domain")).notes
    assert "does not say how large its voxels are: 1 mm is taken" in note
    assert read_image(nrrd(tmp_path / "b.nrrd", "spacings: 0.8 0.8 3")).notes == ()


def test_only_what_the_system_refuses_is_the_fault_of_a_path() -> None:
    error = path_failure(PermissionError(errno.EACCES, "Permission denied", "/closed/a"))
    assert error is not None and error.sentence == "“/closed/a” cannot be used: Permission denied."
    for other in (OSError(errno.EIO, "Input/output error", "/a"), OSError("no path"), ValueError("x")):
        assert path_failure(other) is None


# --- axes


def places(image: FileImage) -> np.ndarray:
    assert image.geometry is not None
    return image.geometry.ijk_to_ras


@pytest.mark.parametrize("by", [1e-3, 3e-3, 0.01])
@pytest.mark.parametrize("where", [(0, 1), (2, 0)])
def test_axes_nearly_at_right_angles_are_put_right_and_told(
    tmp_path: Path, by: float, where: tuple[int, int]
) -> None:
    given = skewed(by, where=where)
    image = read_image(nifti(tmp_path / "a.nii", given))
    assert np.array_equal(image.array, ARRAY) and len(image.notes) == 1 and "put right" in image.notes[0]
    matrix = places(image)
    axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert np.allclose(
        np.linalg.norm(matrix[:3, :3], axis=0), np.linalg.norm(given[:3, :3], axis=0), atol=1e-6
    )
    # The middle stays, and no voxel moves farther than is said.
    middle = np.array([(size - 1) / 2 for size in SHAPE[::-1]] + [1.0])
    assert np.allclose(matrix @ middle, given @ middle, atol=1e-4)
    k, j, i = (np.array([0, size - 1]) for size in SHAPE)
    corners = np.stack([*np.meshgrid(i, j, k), np.ones((2, 2, 2))]).reshape(4, -1)
    moved = np.linalg.norm((matrix @ corners - given @ corners)[:3], axis=0).max()
    told = float(image.notes[0].split("more than ")[1].split(" mm")[0])
    assert moved == pytest.approx(told, rel=0.06)
    assert read_volume(tmp_path / "a.nii").notes == image.notes


def test_compressed_and_in_other_units_too(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", skewed(3e-3) * [[1e-3], [1e-3], [1e-3], [1]])
    content = bytearray(path.read_bytes())
    content[123] = 1  # meters
    struct.pack_into("<3f", content, PIXDIM, 0.8e-3, 0.8e-3, 3e-3)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content))
    image = read_image(tmp_path / "b.nii.gz")
    assert "put right" in image.notes[0] and np.allclose(places(image), MATRIX, atol=0.05)


@pytest.mark.parametrize("by", [0.3, 1.0])
def test_axes_far_from_right_angles_are_refused(tmp_path: Path, by: float) -> None:
    error = refusal(nifti(tmp_path / "a.nii", skewed(by)))
    assert error.code == "skewed_geometry" and " mm." in error.sentence
    # The module has to be imported by itself.
    assert "import nibabel.processing; nibabel.processing.resample" in error.hint


def test_two_places_in_a_header_are_told(tmp_path: Path) -> None:
    moved = MATRIX.copy()
    moved[0, 3] += 100
    image = read_image(nifti(tmp_path / "a.nii", moved, qform=True))
    assert len(image.notes) == 1 and "100 mm apart" in image.notes[0]
    taken = "sform" if np.allclose(places(image), moved, atol=1e-3) else "qform"
    assert f"its {taken} counts" in image.notes[0]
    # A skewed sform beside a qform: ITK takes the qform.
    image = read_image(nifti(tmp_path / "b.nii", skewed(0.5), qform=True))
    assert (
        np.allclose(places(image), MATRIX, atol=1e-3) and "its qform counts, not its sform" in image.notes[0]
    )


def with_pixdim(path: Path, *sizes: float) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into("<3f", content, PIXDIM, *sizes)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("by", [0.0, 3e-3])
def test_the_pixdim_of_a_header_counts_as_in_slicer_and_is_told(tmp_path: Path, by: float) -> None:
    path = with_pixdim(nifti(tmp_path / "a.nii", skewed(by)), 1.6, 0.8, 6)
    image = read_image(path)
    assert image.geometry is not None
    assert np.allclose(image.geometry.spacing, (1.6, 0.8, 6), atol=1e-3)
    note = image.notes[0]
    assert "1.6 x 0.8 x 6 mm of its pixdim count" in note and "0.8 x 0.8 x 3 mm of its sform" in note
    assert len(image.notes) == (2 if by else 1)


def test_a_pixdim_that_differs_by_rounding_is_not_worth_a_word(tmp_path: Path) -> None:
    path = with_pixdim(nifti(tmp_path / "a.nii", MATRIX), 0.801, 0.8, 3.002)
    assert read_image(path).notes == ()


@pytest.mark.parametrize("sizes", [(0.8, 0.8, 0.0), (0.8, np.nan, 3.0), (np.inf, 0.8, 3.0)])
@pytest.mark.parametrize("sform", [MATRIX, None])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_without_a_size_of_voxels_is_refused_and_the_advice_works(
    tmp_path: Path, sizes: tuple[float, ...], sform: np.ndarray | None, ending: str
) -> None:
    path = with_pixdim(nifti(tmp_path / "a.nii", sform, qform=True), *sizes)
    if ending == ".nii.gz":
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    error = refusal(path)
    assert error.code == "no_voxel_size" and "size of its voxels" in error.sentence
    image = sitk.ReadImage(str(path))
    image.SetSpacing((0.8, 0.8, 3))
    sitk.WriteImage(image, str(tmp_path / "new.nii"))
    assert np.allclose(places(read_image(tmp_path / "new.nii")), MATRIX, atol=1e-5)


@pytest.mark.parametrize("given", [".hdr", ".img"])
def test_the_header_of_a_pair_must_give_a_size_of_voxels(tmp_path: Path, given: str) -> None:
    write(tmp_path / "a.hdr")
    with_pixdim(tmp_path / "a.hdr", 0.8, 0.8, 0)
    assert refusal(tmp_path / f"a{given}").code == "no_voxel_size"


def test_one_place_given_twice_is_not_worth_a_word(tmp_path: Path) -> None:
    for sform, qform in ((MATRIX, True), (MATRIX, False), (None, True), (None, False), (skewed(1e-5), False)):
        assert read_image(nifti(tmp_path / "a.nii", sform, qform)).notes == ()
    assert read_image(write(tmp_path / "a.nrrd")).notes == ()


def test_itks_settings_are_left_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import os

    monkeypatch.delenv("ITK_NIFTI_SFORM_PERMISSIVE", raising=False)
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    read_image(nifti(tmp_path / "a.nii", skewed(1e-3)))
    assert "ITK_NIFTI_SFORM_PERMISSIVE" not in os.environ
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == shown and "WARNING" not in capfd.readouterr().err
