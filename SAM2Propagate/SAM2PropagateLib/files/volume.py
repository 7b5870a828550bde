"""Reads a volume from a file or a DICOM folder: voxels, place in the patient, modality and window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.dicom_file import OtherObject, read_headers
from SAM2PropagateLib.files.dicom_headers import ALL_SERIES, Series, choose_series, scan_folder
from SAM2PropagateLib.files.dicom_series import read_series
from SAM2PropagateLib.files.image import ImageInfo, check_file, image_info, no_such_channel, read_image
from SAM2PropagateLib.files.unreadable import unreadable
from SAM2PropagateLib.frames.checks import check_volume
from SAM2PropagateLib.frames.geometry import VolumeGeometry

_DICOMDIR = "Media Storage Directory"
_SUFFIXES = (".nii.gz", ".nrrd", ".nhdr", ".nii", ".mha", ".mhd", ".hdr", ".img", ".dcm", ".gipl", ".vtk")


_OTHER_SUFFIXES = tuple(suffix for suffix in _SUFFIXES if suffix != ".dcm")


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume as read from disk.

    Args:
        array: (K, J, I), the file's own dtype, read-only.
        geometry: IJK to RAS.
        name: for the user; from the file or folder name.
        modality: DICOM's word (`CT`, `MR`, ...) if the file has it, else None.
        window: (width, level) of the file's own display window, or None.
        header: fields of the source; for DICOM only needed ones, without patient data.
        notes: what was left out or could not be checked, one sentence each, for the user.
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


def read_volume(
    path: Path | str,
    series: str | None = None,
    part: str | None = None,
    *,
    channel: int | None = None,
) -> Volume:
    """Read a volume: NRRD, NIfTI, MetaImage, a DICOM series folder or a multi-frame DICOM file.

    Args:
        path: a file, or a folder with DICOM files, there or in its subfolders.
        series: the SeriesInstanceUID to read from a folder that holds several; "all" reads them as one.
        part: the number of one of several stacks (acquisitions, time points, echoes) in a DICOM series, from
            1 as in the list of the refusal; "all" reads them together.
        channel: the number of one of several volumes in a file that is not DICOM, from 0; None: it must have
            one.

    Raises:
        InputError: one sentence on what is wrong. Files: `file_missing`, `file_unreadable`, `file_empty`,
            `file_damaged`, `unknown_format`, `skewed_geometry`. Contents: `not_3d`, `multi_component`,
            `too_few_slices`, `all_nan`, `constant_volume`, `is_segmentation`, and the others of
            `check_volume`. DICOM: `no_dicom`, `no_image`, `several_series`, `series_unknown`,
            `single_dicom_slice`, and those of `read_series`. `series_without_folder` if `series` is given
            with a file, `part_without_dicom` if `part` is given with a file that is not DICOM;
            `no_such_channel`.
    """
    path = Path(path)
    if _is_folder(path):
        if channel:
            raise no_such_channel(path, channel, 1)
        volume = _from_folder(path, series, part)
    else:
        if series is not None:
            raise InputError(
                "series_without_folder",
                f"“{path}” is not a folder, so it holds no series to choose.",
                "Leave out --series.",
            )
        check_file(path)
        found = _from_dicom_file(path, part)
        if found is not None and channel:
            raise no_such_channel(path, channel, 1)
        volume = found or _from_image_file(path, part, channel)
    check_volume(volume.array, volume.geometry)
    volume.array.setflags(write=False)
    return volume


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise unreadable(path, error) from error


def read_only_volume(path: Path | str, channel: int | None = None) -> Volume:
    """Read a volume for a command that has no options to choose a series or a part of it.

    Args:
        path, channel: as for `read_volume`.

    Raises:
        InputError: as `read_volume`, but with other hints.
    """
    try:
        return read_volume(path, channel=channel)
    except InputError as error:
        if "--series" not in error.hint and "--part" not in error.hint:
            raise
        hint = "Give a folder with the files of one of them alone, or one of them as an NRRD file."
        raise InputError(error.code, error.sentence, hint) from error


def volume_name(path: Path) -> str:
    """Return the file or folder name without the endings of image files."""
    name = path.resolve().name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _from_folder(folder: Path, uid: str | None, part: str | None) -> Volume:
    scan = scan_folder(folder)
    series = choose_series(scan.series, uid, folder)
    notes = []
    if uid is None and len(scan.series) > 1:
        left = len(scan.series) - 1
        notes.append(
            f"The series {series.describe()} is the only one that can be a volume; {left} other left out."
        )
    if uid == ALL_SERIES and len(scan.series) > 1:
        notes.append(f"{len(scan.series)} series are read as one.")
    return _from_series(series, folder, [*notes, *scan.notes()], part)


def _from_series(series: Series, source: Path, notes: list[str], part: str | None) -> Volume:
    read = read_series(series, part)
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


def _from_dicom_file(path: Path, part: str | None) -> Volume | None:
    """Return the volume in a multi-frame DICOM file; None if the file is not DICOM."""
    headers = read_headers(path)
    if headers is None:
        return None
    if isinstance(headers, OtherObject):
        if not headers.kind and path.name.lower().endswith(_OTHER_SUFFIXES):
            # The voxel file of an Analyze or NIfTI pair may look like a DICOM file without preamble.
            return None
        raise _no_image(headers)
    first = headers[0]
    if len(headers) == 1 and first.position is not None:
        raise InputError(
            "single_dicom_slice",
            f"“{path}” is a single slice of a DICOM series.",
            f"Give the folder that holds the series: “{path.parent}”.",
        )
    return _from_series(Series(first.series, headers), path, [], part)


def _no_image(other: OtherObject) -> InputError:
    path = other.path
    if not other.kind:
        return InputError(
            "file_damaged",
            f"“{path}” is a DICOM file that is damaged or cut short.",
            "Export or copy it again.",
        )
    if other.kind == _DICOMDIR:
        hint = f"Give the folder with the files that it lists: “{path.parent}”."
    else:
        hint = "Give the CT or MR series itself: the folder of its files, or a multi-frame file."
    code = "is_segmentation" if other.is_segmentation else "no_image"
    return InputError(code, f"“{path}” is not an image but another DICOM object ({other.kind}).", hint)


def _from_image_file(path: Path, part: str | None, channel: int | None) -> Volume:
    if part is not None:
        raise InputError(
            "part_without_dicom",
            f"“{path}” is not a DICOM file, so it holds no parts to choose.",
            "Leave out --part.",
        )
    if sitk.ImageFileReader.GetImageIOFromFileName(str(path)) == "GDCMImageIO":
        # As an ordinary image, its voxels would silently count as 1 mm wide.
        raise InputError(
            "file_damaged",
            f"“{path}” seems to be a DICOM file, but the beginning of it is missing.",
            "Export or copy it again.",
        )
    info = image_info(path)
    if channel is None:
        _check_kind(info)
    image = read_image(path, channel)
    if image.geometry is None:
        raise _not_3d(info)
    return Volume(
        array=image.array,
        geometry=image.geometry,
        name=volume_name(path),
        modality=_modality(info.header),
        window=None,
        source=path,
        header=info.header,
        notes=image.notes,
    )


def _check_kind(info: ImageInfo) -> None:
    """Refuse from the header what is not a scalar volume, before gigabytes of voxels are read."""
    if "Segment0_ID" in info.header:
        raise InputError(
            "is_segmentation",
            f"“{info.path}” is a segmentation, not an image.",
            "Give the CT or MR volume itself.",
        )
    if info.components != 1:
        kind = "complex numbers" if info.complex else f"{info.components} values per voxel"
        raise InputError(
            "multi_component",
            f"“{info.path}” has {kind}, as color, vector and time series files do.",
            "Give a volume with one gray value per voxel.",
        )
    if len(info.size) < 3:
        raise InputError(
            "too_few_slices",
            f"“{info.path}” is a single image of {' x '.join(map(str, info.size))} pixels.",
            "Propagation needs a volume with at least 2 slices.",
        )
    if any(size != 1 for size in info.size[3:]):
        raise _not_3d(info)


def _not_3d(info: ImageInfo) -> InputError:
    return InputError(
        "not_3d",
        f"“{info.path}” has {len(info.size)} dimensions ({' x '.join(map(str, info.size))}) instead of 3.",
        "Give one of its volumes as a file of its own, for instance in Python with SimpleITK: "
        f"SimpleITK.WriteImage(SimpleITK.ReadImage(FILE)[:, :, :{', 0' * (len(info.size) - 3)}], NEW).",
    )


def _modality(header: Mapping[str, str]) -> str | None:
    """Return the modality of a file that is not DICOM, if it has one (MetaImage files do, and NRRD files
    may)."""
    for key in ("0008|0060", "modality", "Modality"):
        value = header.get(key, "").strip().upper().removeprefix("MET_MOD_")
        if value and value not in ("UNKNOWN", "OTHER"):
            return value
    return None
