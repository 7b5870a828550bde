"""Reads one image file through SimpleITK, and finds damage that its readers ignore."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.nifti_header import (
    around_the_middle,
    at_right_angles,
    farthest,
    read_nifti_header,
    read_pixdim,
)
from SAM2PropagateLib.files.unreadable import (
    EXPORT,
    damaged,
    missing_voxels,
    no_voxel_size,
    not_a_file,
    odd_header,
    other_encoding,
    unknown_format,
    unreadable,
)
from SAM2PropagateLib.files.voxel_files import (
    header_of_pair,
    metaimage_header,
    metaimage_voxels,
    nrrd_header,
    nrrd_sizes,
    other_files,
    pattern_numbers,
    voxels_of_pair,
)
from SAM2PropagateLib.frames.geometry import VolumeGeometry

_T = TypeVar("_T")
_CHUNK = 1 << 20
_NIFTI = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz")
_GIPL_HEADER = 256  # bytes
_PERMISSIVE = "ITK_NIFTI_SFORM_PERMISSIVE"
# In voxels, anywhere in a grid: two places in a header that are closer are the same one,
_SAME = 0.1
# axes that are put right may move a voxel so far,
_MOST_MOVED = 0.5
# and so little is nothing but the rounding of numbers in the header.
_ROUNDING = 0.002


@dataclass(frozen=True)
class ImageInfo:
    """The header of a file, before its voxels are read.

    Args:
        path: the file.
        size: numbers of voxels, fastest axis first (I, J, K, ...).
        components: values per voxel; 1 for a scalar image.
        complex: whether the values are complex numbers.
        header: the file's fields as text.
    """

    path: Path
    size: tuple[int, ...]
    components: int
    complex: bool
    header: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class FileImage:
    """The voxels of a file.

    Args:
        array: slowest axis first, (K, J, I) for a volume; the components come last where there are several.
        geometry: IJK to RAS; None unless the image has three axes (or a fourth of size 1, which is dropped).
        header: the file's fields as text.
        notes: what was corrected or chosen, one sentence each, for the user.
    """

    array: np.ndarray
    geometry: VolumeGeometry | None
    header: Mapping[str, str]
    notes: tuple[str, ...] = ()


def check_file(path: Path) -> None:
    """Raise InputError `file_missing`, `file_unreadable` or `file_empty` unless `path` can be read."""
    shown = str(path).encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")
    if shown != str(path):
        # ITK would end the process.
        raise InputError(
            "file_unreadable",
            f"“{shown}” cannot be read: its path is not text in UTF-8.",
            "Rename the file or its folder.",
        )
    try:
        if is_special(path):
            raise not_a_file(path)
        with path.open("rb") as file:
            first = file.read(1)
    except FileNotFoundError:
        raise InputError("file_missing", f"There is no file “{path}”.", "Check the path.") from None
    except OSError as error:
        raise unreadable(path, error) from error
    if not first:
        raise InputError("file_empty", f"The file “{path}” is empty.", EXPORT)


def is_special(path: Path) -> bool:
    """Tell whether a path is neither a file nor a folder, but a pipe, a socket or a device. Raises
    OSError."""
    mode = path.stat().st_mode
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def image_info(path: Path) -> ImageInfo:
    """Return the size and the header of an image file, without its voxels.

    Raises:
        InputError: as `check_file`; `unknown_format`; `unknown_name`; `unknown_encoding`; `file_damaged`.
    """
    check_file(path)
    _check_pattern(path)
    for other in other_files(path):
        # ITK tells of one that is not there.
        with contextlib.suppress(OSError, ValueError):
            if is_special(other):
                raise not_a_file(other)
    reader = _reader(path)
    _attempt(path, reader.ReadImageInformation)
    return ImageInfo(
        path=path,
        size=tuple(int(size) for size in reader.GetSize()),
        components=int(reader.GetNumberOfComponents()),
        complex="complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()).lower(),
        header={key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()},
    )


def _check_pattern(path: Path) -> None:
    """Refuse a MetaImage header whose files are numbered without a step, on which ITK ends the process."""
    if path.suffix.lower() not in (".mha", ".mhd"):
        return
    fields, _ = metaimage_header(path)
    if "%" in fields.get("elementdatafile", "") and not pattern_numbers(fields):
        raise InputError(
            "file_damaged",
            f"“{path}” does not number the files with its voxels by a step from 1.",
            "Write the first number, the last one and the step after their pattern: slice%d.raw 1 40 1.",
        )


def read_image(path: Path, channel: int | None = None) -> FileImage:
    """Read a whole image file.

    Args:
        path: the file.
        channel: the number of one of several volumes in the file, from 0; None: all.

    Raises:
        InputError: as `image_info`; also `file_damaged` where the reader itself would fill in zeros or pass
            on wrong voxels: a truncated NIfTI file, a wrong checksum in a compressed file. `no_such_channel`;
            `no_voxel_size`; `skewed_geometry`.
    """
    info = image_info(path)
    reader = _reader(path)
    image = _attempt(path, reader.Execute)
    _check_integrity(info, sitk.GetArrayViewFromImage(image))
    image = _without_single_axes(image)
    if channel is not None:
        image = _channel_of(path, image, channel)
    geometry: VolumeGeometry | None = None
    notes: tuple[str, ...] = ()
    if image.GetDimension() == 3:
        geometry, notes = _placed(path, itk_geometry(image))
    return FileImage(sitk.GetArrayFromImage(image), geometry, info.header, notes)


def no_such_channel(path: Path, channel: int, count: int) -> InputError:
    """Return `no_such_channel`: a file has `count` volumes, and none with this number."""
    volumes = "one volume" if count == 1 else f"{count} volumes"
    return InputError(
        "no_such_channel",
        f"“{path}” holds {volumes}, so there is no number {channel}.",
        "Leave out --sequence." if count == 1 else f"Give a number from 0 to {count - 1}.",
    )


def _without_single_axes(image: sitk.Image) -> sitk.Image:
    """Return a copy without axes of size 1 beyond the third."""
    for axis in range(image.GetDimension() - 1, 2, -1):
        if image.GetSize()[axis] == 1:
            where: list[slice | int] = [slice(None)] * image.GetDimension()
            where[axis] = 0
            image = image[tuple(where)]
    return image


def _channel_of(path: Path, image: sitk.Image, channel: int) -> sitk.Image:
    """Return one volume of several: along a fourth axis, or of several values per voxel."""
    components = image.GetNumberOfComponentsPerPixel()
    count = image.GetSize()[3] if image.GetDimension() == 4 else components
    if channel >= count or (image.GetDimension() == 4 and components > 1):
        raise no_such_channel(path, channel, count)
    if image.GetDimension() == 4:
        return image[:, :, :, channel]
    return sitk.VectorIndexSelectionCast(image, channel) if components > 1 else image


def itk_geometry(image: sitk.Image) -> VolumeGeometry:
    """Return the grid of a three-dimensional SimpleITK image (LPS) as IJK to RAS."""
    size = image.GetSize()
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return VolumeGeometry((size[0], size[1], size[2]), np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    return reader


def _attempt(path: Path, read: Callable[[], _T]) -> _T:
    """Return what ITK reads, without its warnings, which `_placed` replaces. Raises InputError."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.GlobalWarningDisplayOff()
    try:
        return read()
    except RuntimeError as error:
        if "orthonormal" not in str(error):
            raise _reading_failure(path, error) from error
        with _skewed_axes(), _failures_told(path):
            return read()
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


@contextlib.contextmanager
def _failures_told(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _reading_failure(path, error) from error


@contextlib.contextmanager
def _skewed_axes() -> Iterator[None]:
    """Let ITK read a NIfTI file with axes that are not at right angles, which `_placed` handles."""
    before = os.environ.get(_PERMISSIVE)
    os.environ[_PERMISSIVE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PERMISSIVE]
        else:
            os.environ[_PERMISSIVE] = before


def _placed(path: Path, geometry: VolumeGeometry) -> tuple[VolumeGeometry, tuple[str, ...]]:
    """Return the grid to use, given ITK's, and notes.

    Raises:
        InputError: `no_voxel_size`, `skewed_geometry`.
    """
    if not _is_nifti(path):
        return geometry, _unsaid_size(path, geometry)
    header_file = header_of_pair(path)
    _check_voxel_size(path, header_file)
    header = read_nifti_header(header_file)
    if header is None:
        return geometry, ()
    forms = [("qform", header.qform), ("sform", header.sform)]
    given = [(name, form, *farthest(geometry, form)) for name, form in forms if form is not None]
    if not given:
        return geometry, ()
    if len(given) == 1 or min(apart for *_, apart in given) > _SAME:
        # ITK's grid is none of the header's places: it has taken its size from elsewhere, or turned its axes.
        name, form, *_ = given[-1]
        form, notes = _resized(path, geometry, name, form)
        geometry, others = _put_right(path, geometry, form)
        return geometry, (*notes, *others)
    taken = min(given, key=lambda one: one[3])
    other = max(given, key=lambda one: one[3])
    if other[3] <= _SAME:
        return geometry, ()
    return geometry, (
        f"The header of “{path}” holds two places, which are up to {other[2]:.3g} mm apart; its {taken[0]} "
        f"counts, not its {other[0]}.",
    )


def _unsaid_size(path: Path, geometry: VolumeGeometry) -> tuple[str, ...]:
    """Return a note if a file does not say the size of its voxels, for which ITK and Slicer take 1 mm.

    Raises:
        InputError: `no_voxel_size`: an NRRD file says a part of it.
    """
    if path.suffix.lower() in (".tif", ".tiff"):
        return (
            f"“{path}” is a TIFF file, which does not say how far apart its slices are: 1 mm is taken, and "
            f"{_by(geometry.spacing[:2])} mm for its pixels.",
        )
    count = nrrd_sizes(path)
    if count == 0:
        return (f"“{path}” does not say how large its voxels are: 1 mm is taken.",)
    if count is not None and count < 3:
        raise no_voxel_size(f"The header of “{path}” gives its voxels a size along {count} of 3 axes.")
    return ()


def _check_voxel_size(path: Path, header_file: Path) -> None:
    """Refuse an Analyze or NIfTI file without a size of its voxels, for which ITK takes 1 mm. Raises
    InputError (`no_voxel_size`)."""
    sizes = read_pixdim(header_file)
    if all(np.isfinite(size) and size != 0 for size in sizes):
        return
    raise no_voxel_size(
        f"The header of “{path}” does not give the size of its voxels ({_by(sizes)} mm as pixdim)."
    )


def _resized(
    path: Path, geometry: VolumeGeometry, name: str, form: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a place of the header with the size of voxels that ITK and so Slicer take (pixdim), and a note
    if that moves voxels."""
    sizes = np.linalg.norm(form[:3, :3], axis=0)
    if not np.isfinite(form).all() or (sizes <= 0).any():
        return form, ()
    scale = geometry.spacing / sizes
    if (np.abs(scale - 1) * np.array(geometry.shape_ijk) <= _SAME).all():
        return form, ()
    resized = form.copy()
    resized[:3, :3] *= scale
    return resized, (
        f"The header of “{path}” gives its voxels two sizes; the {_by(geometry.spacing)} mm of its pixdim "
        f"count, as in 3D Slicer, not the {_by(sizes)} mm of its {name}.",
    )


def _by(sizes: Iterable[float]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def _put_right(
    path: Path, geometry: VolumeGeometry, form: np.ndarray
) -> tuple[VolumeGeometry, tuple[str, ...]]:
    axes = at_right_angles(form)
    if axes is None:
        return geometry, ()
    regular = VolumeGeometry(geometry.shape_ijk, around_the_middle(axes, form, geometry.shape_ijk))
    millimeters, voxels = farthest(regular, form)
    if voxels > _MOST_MOVED:
        raise InputError(
            "skewed_geometry",
            f"The axes of “{path}” are not at right angles to each other: putting them right would move "
            f"voxels by up to {millimeters:.3g} mm.",
            "Resample it to a regular grid, for instance in Python with nibabel and scipy: "
            "import nibabel.processing; "
            "nibabel.processing.resample_to_output(nibabel.load(FILE)).to_filename(NEW).",
        )
    if voxels <= _ROUNDING:
        return geometry, ()
    return regular, (
        f"The axes of “{path}” are not quite at right angles to each other; they were put right, which moves "
        f"no voxel by more than {millimeters:.2g} mm.",
    )


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(_NIFTI)


def _reading_failure(path: Path, error: RuntimeError) -> InputError:
    text = str(error)
    if _is_gzip(path) and not _gzip_length(path):
        return damaged(path)
    found = missing_voxels(path) or other_encoding(path)
    if found is not None:
        return found
    if "Unable to determine ImageIO" in text:
        return unknown_format(path)
    return odd_header(path, text) or _damaged(path)


def _damaged(path: Path) -> InputError:
    """Return `file_damaged` for a file, or for one of several that belong together."""
    if path.suffix.lower() not in (".mhd", ".nhdr", ".hdr", ".img"):
        return damaged(path)
    return InputError(
        "file_damaged", f"“{path}”, or the file that belongs to it, is damaged or cut short.", EXPORT
    )


@dataclass(frozen=True)
class _Stored:
    """Voxels in a file: where they begin, and their packing: `raw`, `gzip` or `zlib`."""

    path: Path
    offset: int
    packing: str

    @property
    def length(self) -> int:
        """How many bytes they have when they are unpacked; 0 if they are damaged."""
        if self.packing == "raw":
            return self.path.stat().st_size - self.offset
        unpacked = _gzip_length if self.packing == "gzip" else _zlib_length
        return unpacked(self.path, self.offset)


def _check_integrity(info: ImageInfo, array: np.ndarray) -> None:
    """Raise InputError (`file_damaged`) if a file holds fewer voxels than `array`, or wrong ones.

    ITK's readers of NIfTI, GIPL and VTK files fill up what is missing in a truncated file, and its NRRD and
    MetaImage readers ignore the checksum of compressed voxels.
    """
    path, expected = info.path, array.nbytes
    # SimpleITK copies these fields into files of other formats that are made from a NIfTI file.
    if _is_nifti(path) and "vox_offset" in info.header and "bitpix" in info.header:
        # A NIfTI file may store smaller types that reading rescales to larger ones.
        start = int(float(info.header["vox_offset"]))
        expected = array.size * int(info.header["bitpix"]) // 8
        file = path if info.header.get("nifti_type") == "1" else voxels_of_pair(path)
        if _is_gzip(file):
            parts, expected = [_Stored(file, 0, "gzip")], start + expected
        else:
            parts = [_Stored(file, start, "raw")]
    elif path.suffix.lower() in (".mha", ".mhd"):
        parts = _metaimage_voxels(path)
    elif path.name.lower().endswith((".gipl", ".gipl.gz")):
        parts = [_Stored(path, 0, "gzip" if _is_gzip(path) else "raw")]
        expected += _GIPL_HEADER
    elif path.suffix.lower() == ".vtk":
        parts = _vtk_voxels(path)
    else:
        parts = _nrrd_voxels(path)
    lengths = [part.length for part in parts]
    if parts and (0 in lengths or sum(lengths) < expected):
        raise _damaged(path)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _gzip_length(path: Path, offset: int = 0) -> int:
    """Return how many bytes the gzip stream at `offset` holds; 0 if it ends early or a checksum is wrong."""
    with path.open("rb") as file:
        file.seek(offset)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return sum(len(part) for part in iter(lambda: stream.read(_CHUNK), b""))
        except (OSError, EOFError, zlib.error):
            return 0


def _zlib_length(path: Path, offset: int) -> int:
    """Do what `_gzip_length` does for a zlib stream."""
    with path.open("rb") as file:
        file.seek(offset)
        try:
            return sum(len(part) for part in _inflate(iter(lambda: file.read(_CHUNK), b"")))
        except (EOFError, zlib.error):
            return 0


def _inflate(parts: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj()
    for part in parts:
        yield inflater.decompress(part)
    yield inflater.flush()
    if not inflater.eof:
        raise EOFError("the compressed voxels end early")


def _nrrd_voxels(path: Path) -> list[_Stored]:
    """Return the compressed voxels inside an NRRD file; none for other files.

    ITK itself checks voxels in a file of their own, and those after a skip.
    """
    with path.open("rb") as file:
        if file.read(4) != b"NRRD":
            return []
    fields, offset = nrrd_header(path)
    if {"data file", "datafile", "byte skip", "line skip"} & fields.keys():
        return []
    is_packed = fields.get("encoding", "").lower() in ("gzip", "gz")
    return [_Stored(path, offset, "gzip")] if is_packed else []


def _vtk_voxels(path: Path) -> list[_Stored]:
    """Return the voxels of a binary VTK file; none for one that holds them as text."""
    with path.open("rb") as file:
        for line in iter(file.readline, b""):
            if line.startswith(b"ASCII"):
                return []
            if line.startswith(b"LOOKUP_TABLE"):
                return [_Stored(path, file.tell(), "raw")]
    return []


def _metaimage_voxels(path: Path) -> list[_Stored]:
    """Return the compressed voxels of a MetaImage file, or of the files that it names; none if they are not
    compressed."""
    fields, offset = metaimage_header(path)
    is_packed = fields.get("compresseddata", "").lower()[:1] in ("t", "1")
    if not is_packed or fields.get("headersize", "0") != "0":
        return []
    others = metaimage_voxels(path)
    if not others:
        return [_Stored(path, offset, "zlib")]
    return [_Stored(other, 0, "zlib") for other in others if other.is_file()]
