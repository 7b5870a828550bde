"""DICOM files for the tests, written with pydicom: classic slices and enhanced multi-frame files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
NM = "1.2.840.10008.5.1.4.1.1.20"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SERIES = "1.2.826.7"
Edit = Callable[[Dataset, int], None]


def ball(planes: int = 12, side: int = 40, radius: float = 12.0, step: float = 3.0) -> np.ndarray:
    """(K, J, I) int16, 100 with a ball of 600 in the middle; pixels of 1 mm, slices `step` mm apart."""
    k, j, i = np.indices((planes, side, side), float)
    middle = (planes - 1) / 2 * step, (side - 1) / 2, (side - 1) / 2
    inside = (k * step - middle[0]) ** 2 + (j - middle[1]) ** 2 + (i - middle[2]) ** 2 <= radius**2
    # No two slices alike, so that one out of place is seen.
    return (np.where(inside, 600, 100) + np.arange(planes)[:, None, None]).astype(np.int16)


def along_z(count: int, step: float = 3.0, start: float = -20.0) -> list[tuple[float, float, float]]:
    """Positions (LPS) of axial slices."""
    return [(-10.0, 20.0, start + step * number) for number in range(count)]


def file_of(pixels: np.ndarray, storage: str, modality: str, series: str = SERIES) -> Dataset:
    """A data set with pixels, (rows, columns) or (frames, rows, columns), that says no place."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = storage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.1", series
    dataset.Modality, dataset.SeriesDescription = modality, "test"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    return dataset


def save(dataset: Dataset, path: Path, preamble: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if preamble:
        dcmwrite(path, dataset, enforce_file_format=True)
    else:
        del dataset.file_meta
        dcmwrite(path, dataset, implicit_vr=False, little_endian=True)
    return path


def write_classic(
    folder: Path,
    array: np.ndarray,
    positions: Sequence[Sequence[float]],
    *,
    edit: Edit | None = None,
    storage: str = CT,
    modality: str = "CT",
    orientation: Sequence[float] = AXIAL,
    prefix: str = "a",
    preamble: bool = True,
) -> list[Path]:
    """A classic series; `edit` changes each slice's data set before it is written."""
    paths = []
    for number, (pixels, position) in enumerate(zip(array, positions, strict=True)):
        dataset = file_of(pixels, storage, modality)
        dataset.ImagePositionPatient = [f"{value:.6g}" for value in position]
        dataset.ImageOrientationPatient = list(orientation)
        dataset.PixelSpacing, dataset.InstanceNumber = [1, 1], number + 1
        if edit is not None:
            edit(dataset, number)
        paths.append(save(dataset, folder / f"{prefix}{number:03d}.dcm", preamble))
    return paths


def item(**fields: object) -> Dataset:
    """A data set with these fields."""
    dataset = Dataset()
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)
    return dataset


def enhanced(
    array: np.ndarray,
    positions: Sequence[Sequence[float]],
    *,
    edit: Edit | None = None,
    storage: str = ENHANCED_MR,
    modality: str = "MR",
    orientation: Sequence[float] = AXIAL,
) -> Dataset:
    """An enhanced multi-frame file; `edit` changes each frame's functional groups."""
    dataset = file_of(array, storage, modality)
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=list(orientation))],
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=3)],
        PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")],
    )
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number, position in enumerate(positions):
        group = item(
            PlanePositionSequence=[item(ImagePositionPatient=[float(value) for value in position])],
            FrameContentSequence=[item(StackID="1")],
        )
        if edit is not None:
            edit(group, number)
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    return dataset
