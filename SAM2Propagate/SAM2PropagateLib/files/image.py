"""One image file through SimpleITK, with the damage found that its readers let pass."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import VolumeGeometry

_CHUNK = 1 << 20
_EXPORT = "Export or copy the file again."


@dataclass(frozen=True)
class ImageInfo:
    """What a file says of itself before its voxels are read.

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
    """

    array: np.ndarray
    geometry: VolumeGeometry | None
    header: Mapping[str, str]


def check_file(path: Path) -> None:
    """Raises InputError `file_missing`, `file_unreadable` or `file_empty` unless `path` can be read."""
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except FileNotFoundError:
        raise InputError("file_missing", f"There is no file '{path}'.", "Check the path.") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(
            "file_unreadable", f"'{path}' cannot be read: {reason}.", "Check the path and its permissions."
        ) from error
    if not first:
        raise InputError("file_empty", f"The file '{path}' is empty.", _EXPORT)


def image_info(path: Path) -> ImageInfo:
    """The size and the header of an image file, without its voxels.

    Raises:
        InputError: as `check_file`; `unknown_format`; `file_damaged`; `skewed_geometry`.
    """
    check_file(path)
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _reading_failure(path, error) from error
    return ImageInfo(
        path=path,
        size=tuple(int(size) for size in reader.GetSize()),
        components=int(reader.GetNumberOfComponents()),
        complex="complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()).lower(),
        header={key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()},
    )


def read_image(path: Path, channel: int | None = None) -> FileImage:
    """Read a whole image file.

    Args:
        path: the file.
        channel: which volume of a file that holds several, from 0; None: all that it holds.

    Raises:
        InputError: as `image_info`; also `file_damaged` where the reader itself would fill in zeros or pass
            on wrong voxels: a truncated NIfTI file, a wrong checksum in a compressed file. `no_such_channel`.
    """
    info = image_info(path)
    reader = _reader(path)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _reading_failure(path, error) from error
    _check_integrity(info, sitk.GetArrayViewFromImage(image))
    image = _without_single_axes(image)
    if channel is not None:
        image = _channel_of(path, image, channel)
    geometry = itk_geometry(image) if image.GetDimension() == 3 else None
    return FileImage(sitk.GetArrayFromImage(image), geometry, info.header)


def no_such_channel(path: Path, channel: int, count: int) -> InputError:
    """`no_such_channel`: a file holds `count` volumes, and not one of this number."""
    volumes = "one volume" if count == 1 else f"{count} volumes"
    return InputError(
        "no_such_channel",
        f"'{path}' holds {volumes}, so there is no number {channel}.",
        "Leave out --sequence." if count == 1 else f"Give a number from 0 to {count - 1}.",
    )


def _without_single_axes(image: sitk.Image) -> sitk.Image:
    """Without axes of size 1 beyond the third."""
    for axis in range(image.GetDimension() - 1, 2, -1):
        if image.GetSize()[axis] == 1:
            where: list[slice | int] = [slice(None)] * image.GetDimension()
            where[axis] = 0
            image = image[tuple(where)]
    return image


def _channel_of(path: Path, image: sitk.Image, channel: int) -> sitk.Image:
    """One volume of several: along a fourth axis, or of several values per voxel."""
    components = image.GetNumberOfComponentsPerPixel()
    count = image.GetSize()[3] if image.GetDimension() == 4 else components
    if channel >= count or (image.GetDimension() == 4 and components > 1):
        raise no_such_channel(path, channel, count)
    if image.GetDimension() == 4:
        return image[:, :, :, channel]
    return sitk.VectorIndexSelectionCast(image, channel) if components > 1 else image


def itk_geometry(image: sitk.Image) -> VolumeGeometry:
    """The grid of a three-dimensional SimpleITK image (LPS) as IJK to RAS."""
    size = image.GetSize()
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return VolumeGeometry((size[0], size[1], size[2]), np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    return reader


def _reading_failure(path: Path, error: RuntimeError) -> InputError:
    text = str(error)
    if _is_gzip(path) and not _gzip_length(path):
        return _damaged(path)
    if "Unable to determine ImageIO" in text:
        return InputError(
            "unknown_format",
            f"'{path}' is not an image file that can be read.",
            "Give an NRRD, NIfTI or MetaImage file, or the folder of a DICOM series.",
        )
    if "orthonormal" in text:
        return InputError(
            "skewed_geometry",
            f"The axes of '{path}' are not at right angles to each other.",
            "Resample it to a regular grid, for instance with Slicer's Crop Volume, and save that.",
        )
    if path.suffix.lower() in (".mhd", ".nhdr"):
        return InputError(
            "file_damaged",
            f"'{path}', or the file with the voxels that it names, is missing, damaged or cut short.",
            _EXPORT,
        )
    return _damaged(path)


def _damaged(path: Path) -> InputError:
    return InputError("file_damaged", f"'{path}' is damaged or cut short.", _EXPORT)


def _check_integrity(info: ImageInfo, array: np.ndarray) -> None:
    """Raises InputError (`file_damaged`) if the file holds fewer voxels than `array`, or wrong ones.

    ITK's NIfTI reader fills a truncated file with zeros, and its NRRD and MetaImage readers ignore the
    checksum of compressed voxels.
    """
    path, expected = info.path, array.nbytes
    offset: int | None
    if "vox_offset" in info.header and "bitpix" in info.header:
        # A NIfTI file may store small numbers that reading rescales to larger ones.
        start = int(float(info.header["vox_offset"]))
        expected = array.size * int(info.header["bitpix"]) // 8
        if _is_gzip(path):
            offset, stored, expected = 0, "gzip", start + expected
        else:
            offset, stored = start if info.header.get("nifti_type") == "1" else None, "raw"
    else:
        offset, stored = _voxels_of(path)
    if offset is None:
        return
    if stored == "raw":
        length = path.stat().st_size - offset
    elif stored == "gzip":
        length = _gzip_length(path, offset)
    else:
        length = _zlib_length(path, offset)
    if length < expected:
        raise _damaged(path)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _gzip_length(path: Path, offset: int = 0) -> int:
    """How many bytes the gzip stream at `offset` holds; 0 if it ends early or a checksum is wrong."""
    with path.open("rb") as file:
        file.seek(offset)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return sum(len(part) for part in iter(lambda: stream.read(_CHUNK), b""))
        except (OSError, EOFError, zlib.error):
            return 0


def _zlib_length(path: Path, offset: int) -> int:
    """As `_gzip_length`, for a zlib stream."""
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


def _voxels_of(path: Path) -> tuple[int | None, str]:
    """Where the compressed voxels of an NRRD or MetaImage file begin, and how; None if it has none inside."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"NRRD":
        fields, offset = _text_header(path, b"")
        if {"data file", "datafile", "byte skip", "line skip"} & fields.keys():
            return None, ""
        return (offset, "gzip") if fields.get("encoding") in ("gzip", "gz") else (None, "")
    if path.suffix.lower() == ".mha":
        fields, offset = _text_header(path, b"elementdatafile")
        return (offset, "zlib") if fields.get("compresseddata", "").lower() == "true" else (None, "")
    return None, ""


def _text_header(path: Path, last: bytes) -> tuple[dict[str, str], int]:
    """The fields of a text header, keys in lower case, up to an empty line or the line with key `last`."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for line in iter(file.readline, b""):
            text = line.strip()
            key, _, value = text.partition(b"=" if last else b":")
            fields[key.strip().decode("latin-1").lower()] = value.strip().decode("latin-1").lower()
            if not text or (last and key.strip().lower() == last):
                break
        return fields, file.tell()
