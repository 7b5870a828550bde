"""Reads the values of DICOM slices: decodes and rescales them."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name
from pydicom import __version_info__, dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, generate_uid

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.dicom_file import ImageHeader
from SAM2PropagateLib.files.unreadable import unreadable

try:
    from pydicom.pixels import apply_modality_lut
except ImportError:  # pydicom 2, which Slicer brings
    from pydicom.pixel_data_handlers import apply_modality_lut  # type: ignore[no-redef]

AGAIN = "Export the series again, completely."
# Implicit, explicit, deflated and big endian.
_NATIVE = frozenset("1.2.840.10008.1.2" + end for end in ("", ".1", ".1.99", ".2"))
# GDCM, in SimpleITK, decodes these: JPEG baseline, extended and lossless, JPEG-LS, JPEG 2000, RLE.
_DECODED = frozenset(
    "1.2.840.10008.1.2." + end
    for end in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "4.92", "4.93", "5")
)
_GRAY_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.3"
# Makes dcmwrite write preamble and file meta information.
_WHOLE_FILE: dict[str, Any] = (
    {"enforce_file_format": True} if int(__version_info__[0]) >= 3 else {"write_like_original": False}
)
_FLOATS = {"FloatPixelData": "f4", "DoubleFloatPixelData": "f8"}


class PixelReader:
    """Reads the values of single slices; it keeps decoded multi-frame files, to decode each only once."""

    def __init__(self) -> None:
        self._decoded: dict[Path, tuple[np.ndarray, Dataset | None]] = {}

    def read(self, image: ImageHeader) -> np.ndarray:
        """Return the values of one slice, (rows, columns): int16 or int32 if they are whole numbers, else
        float64.

        Raises:
            InputError: `file_damaged`, `file_unreadable`, `unknown_encoding`.
        """
        stored, lut = self._decoded.get(image.path) or _decode(image)
        if image.frames > 1:
            self._decoded[image.path] = stored, lut
        pixels = stored[image.frame]
        if lut is not None:
            return np.asarray(apply_modality_lut(pixels, lut))
        return _rescaled(pixels, image.slope, image.intercept)

    def read_all(self, images: Sequence[ImageHeader]) -> np.ndarray:
        """Return the values of slices of one size, (K, J, I), in a type that holds all of them.

        Raises:
            InputError: as `read`.
        """
        first = self.read(images[0])
        voxels = np.empty((len(images), *first.shape), first.dtype)
        voxels[0] = first
        for number, image in enumerate(images[1:], start=1):
            pixels = self.read(image)
            if pixels.dtype != voxels.dtype:
                voxels = voxels.astype(np.result_type(voxels, pixels), copy=False)
            voxels[number] = pixels
        return voxels


def _rescaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    if slope == 1 and intercept == 0:
        return stored
    if stored.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        ends = [int(end) * int(slope) + int(intercept) for end in (stored.min(), stored.max())]
        for dtype in (np.int16, np.int32):
            limits = np.iinfo(dtype)
            if limits.min <= min(ends) and max(ends) <= limits.max:
                return (stored.astype(np.int64) * int(slope) + int(intercept)).astype(dtype)
    return stored * np.float64(slope) + intercept


def _decode(image: ImageHeader) -> tuple[np.ndarray, Dataset | None]:
    """Return the stored values of a file, (frames, rows, columns), and its modality lookup table if it has
    one."""
    shape = image.frames, image.rows, image.columns
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dcmread(image.path, force=True)
            syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
            is_native = not syntax or syntax in _NATIVE
            values = _native(dataset) if is_native else _decompressed(image.path, dataset)
            values = values[: int(np.prod(shape))].reshape(shape)
            return values, dataset if dataset.get("ModalityLUTSequence") else None
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise unreadable(image.path, error) from error
    except Exception as error:
        # With damaged bytes pydicom, its decoders and GDCM may raise nearly any exception.
        raise InputError("file_damaged", f"“{image.path}” is damaged or cut short.", AGAIN) from error


def _native(dataset: FileDataset) -> np.ndarray:
    """Return the stored values of a file without compression, flat."""
    is_big = dataset.file_meta.get("TransferSyntaxUID") == ExplicitVRBigEndian or not _is_little(dataset)
    order: Literal["<", ">"] = ">" if is_big else "<"
    for keyword, kind in _FLOATS.items():
        if keyword in dataset:
            return np.frombuffer(dataset[keyword].value, order + kind).astype(kind)
    bits = int(dataset.BitsAllocated)
    if bits == 1:
        return np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    dtype = np.dtype(f"{'i' if dataset.PixelRepresentation else 'u'}{bits // 8}")
    words = dataset.PixelData
    if is_big and bits == 8 and dataset["PixelData"].VR == "OW":
        # Big endian files have the bytes in pairs.
        words = np.frombuffer(words, "<u2").byteswap().tobytes()
    values = np.frombuffer(words, dtype.newbyteorder(order)).astype(dtype, copy=False)
    stored = int(dataset.get("BitsStored") or bits)
    high = int(dataset.get("HighBit", stored - 1))
    if stored < bits:
        # Bits outside the stored ones may hold an overlay.
        values = (values << (bits - 1 - high)) >> (bits - stored)
    return values


def _is_little(dataset: FileDataset) -> bool:
    """Tell whether a file is in little endian byte order; for one without a transfer syntax pydicom has found
    out."""
    raw = dataset.get_item("BitsAllocated")
    return bool(getattr(raw, "is_little_endian", True))


def _decompressed(path: Path, dataset: FileDataset) -> np.ndarray:
    """Return the stored values of a compressed file, flat.

    GDCM decodes a copy without fields for rescaling, inverting or sorting the values.
    """
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if syntax not in _DECODED:
        raise InputError(
            "unknown_encoding",
            f"“{path}” is encoded in a way that cannot be read ({syntax.name}).",
            "Export it without compression (Explicit VR Little Endian).",
        )
    copy = Dataset()
    for keyword in (
        *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"),
        *("PixelRepresentation", "NumberOfFrames"),
    ):
        if keyword in dataset:
            setattr(copy, keyword, dataset[keyword].value)
    copy.PhotometricInterpretation = "MONOCHROME2"
    copy.SOPClassUID, copy.SOPInstanceUID = UID(_GRAY_MULTI_FRAME), generate_uid()
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = syntax
    copy.PixelData = dataset.PixelData
    copy["PixelData"].is_undefined_length = dataset["PixelData"].is_undefined_length
    if int(__version_info__[0]) < 3:
        copy.is_little_endian, copy.is_implicit_VR = True, False
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "frames.dcm"
        dcmwrite(copied, copy, **_WHOLE_FILE)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(copied))
        return sitk.GetArrayFromImage(reader.Execute()).ravel()
