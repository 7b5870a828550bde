"""A volume from a file or a DICOM folder: its voxels, its place in the patient, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.dicom_headers import (
    FolderScan,
    ImageHeader,
    Series,
    choose_series,
    is_dicom_file,
    read_header,
    scan_folder,
)
from SAM2PropagateLib.files.dicom_series import read_series
from SAM2PropagateLib.files.image import ImageInfo, check_file, image_info, read_image
from SAM2PropagateLib.frames.checks import check_volume
from SAM2PropagateLib.frames.geometry import VolumeGeometry

_SUFFIXES = (".nii.gz", ".nrrd", ".nhdr", ".nii", ".mha", ".mhd", ".hdr", ".img", ".dcm", ".gipl", ".vtk")


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume as read from disk.

    Args:
        array: (K, J, I), the file's own dtype, read-only.
        geometry: IJK to RAS.
        name: for the user; from the file or folder name.
        modality: DICOM's word (`CT`, `MR`, ...) where the file tells, else None.
        window: (width, level) of the file's own display window, or None.
        header: fields of the source; for DICOM only what is needed and nothing of the patient.
        notes: what was left out or taken on trust, one sentence each, for the user.
        source: the path that was read.
    """

    array: np.ndarray
    geometry: VolumeGeometry
    name: str
    modality: str | None
    window: tuple[float, float] | None
    source: Path
    header: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_volume(path: Path | str, series: str | None = None) -> Volume:
    """Read a volume: NRRD, NIfTI, MetaImage, a DICOM series folder or a multi-frame DICOM file.

    Args:
        path: a file, or a folder with DICOM files (its subfolders are searched if it holds none itself).
        series: the SeriesInstanceUID to read from a folder that holds several.

    Raises:
        InputError: one sentence on what is wrong. Files: `file_missing`, `file_unreadable`, `file_empty`,
            `file_damaged`, `unknown_format`, `skewed_geometry`. Contents: `not_3d`, `multi_component`,
            `too_few_slices`, `all_nan`, `constant_volume`, `is_segmentation`, and the others of
            `check_volume`. DICOM: `no_dicom`, `several_series`, `series_unknown`, `single_dicom_slice`, and
            those of `read_series`. `series_without_folder` if `series` is given with a file.
    """
    path = Path(path)
    if path.is_dir():
        volume = _from_folder(path, series)
    else:
        if series is not None:
            raise InputError(
                "series_without_folder",
                f"'{path}' is no folder, so it holds no series to choose.",
                "Leave out --series.",
            )
        check_file(path)
        volume = _from_dicom_file(path) if is_dicom_file(path) else _from_image_file(path)
    check_volume(volume.array, volume.geometry)
    volume.array.setflags(write=False)
    return volume


def volume_name(path: Path) -> str:
    """The file or folder name without the endings of image files."""
    name = path.resolve().name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _from_folder(folder: Path, uid: str | None) -> Volume:
    scan: FolderScan = scan_folder(folder)
    series = choose_series(scan.series, uid, folder)
    notes = []
    if uid is None and len(scan.series) > 1:
        left = len(scan.series) - 1
        notes.append(
            f"The series {series.describe()} is the only one with several slices; {left} other left out."
        )
    if scan.others:
        names = ", ".join(f"'{other.name}'" for other in scan.others[:3])
        more = ", ..." if len(scan.others) > 3 else ""
        notes.append(f"DICOM files that are no images or are damaged were left out: {names}{more}.")
    return _from_series(series, folder, notes)


def _from_series(series: Series, source: Path, notes: list[str]) -> Volume:
    read = read_series(series)
    first = read.first
    return Volume(
        array=read.array,
        geometry=read.geometry,
        name=volume_name(source),
        modality=first.modality or None,
        window=read.window,
        source=source,
        header={"series": series.uid, "modality": first.modality, "description": first.description},
        notes=(*notes, *read.notes),
    )


def _from_dicom_file(path: Path) -> Volume:
    header: ImageHeader | None = read_header(path)
    if header is None:
        raise InputError(
            "file_damaged",
            f"'{path}' is a DICOM file without a readable image: another kind of object, or cut short.",
            "Give the folder of a CT or MR series.",
        )
    if header.frames == 1:
        raise InputError(
            "single_dicom_slice",
            f"'{path}' is a single slice of a DICOM series.",
            f"Give the folder that holds the series: '{path.parent}'.",
        )
    return _from_series(Series(header.series, (header,)), path, [])


def _from_image_file(path: Path) -> Volume:
    info = image_info(path)
    _check_kind(info)
    image = read_image(path)
    array = image.array
    geometry = image.geometry
    if geometry is None:
        raise _not_3d(info)
    return Volume(
        array=array,
        geometry=geometry,
        name=volume_name(path),
        modality=_modality(info.header),
        window=None,
        source=path,
        header=info.header,
    )


def _check_kind(info: ImageInfo) -> None:
    """Refuse from the header alone what is no scalar volume, before many gigabytes of it are read."""
    if "Segment0_ID" in info.header:
        raise InputError(
            "is_segmentation",
            f"'{info.path}' is a segmentation, not an image.",
            "Give the CT or MR volume itself.",
        )
    if info.components != 1:
        kind = "complex numbers" if info.complex else f"{info.components} values per voxel"
        raise InputError(
            "multi_component",
            f"'{info.path}' has {kind}, as color, vector and time series files do.",
            "Give a volume with one grey value per voxel.",
        )
    if len(info.size) < 3:
        raise InputError(
            "too_few_slices",
            f"'{info.path}' is a single image of {' x '.join(map(str, info.size))} pixels.",
            "Propagation needs a volume with at least 2 slices.",
        )
    if any(size != 1 for size in info.size[3:]):
        raise _not_3d(info)


def _not_3d(info: ImageInfo) -> InputError:
    return InputError(
        "not_3d",
        f"'{info.path}' has {len(info.size)} dimensions ({' x '.join(map(str, info.size))}) instead of 3.",
        "Give one volume at a time, for instance one time point.",
    )


def _modality(header: Mapping[str, str]) -> str | None:
    """The modality where a file that is not DICOM tells it (MetaImage does, and NRRD files may)."""
    for key in ("0008|0060", "modality", "Modality"):
        value = header.get(key, "").strip().upper().removeprefix("MET_MOD_")
        if value and value not in ("UNKNOWN", "OTHER"):
            return value
    return None
