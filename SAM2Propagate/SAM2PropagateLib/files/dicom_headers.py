"""The DICOM images in a folder: what each says of itself, grouped into series. No patient data is kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.errors import InputError

_SERIES_UID = "0020|000e"
_LISTED = 12
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Enhanced and legacy converted enhanced CT, MR and PET image storage.
_ENHANCED = frozenset(_STORAGE + end for end in ("2.1", "2.2", "4.1", "4.4", "128.1", "130"))


@dataclass(frozen=True)
class ImageHeader:
    """What one DICOM image file says of itself.

    Lengths are millimetres in DICOM's patient coordinates (LPS). `orientation` is the direction of a row and
    of a column (six numbers), `position` that of the first pixel's centre; both None where the file has none.
    """

    path: Path
    series: str
    instance: str
    storage: str
    modality: str
    description: str
    kind: str
    rows: int
    columns: int
    frames: int
    components: int
    pixel_spacing: tuple[float, float]
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    window: tuple[float, float] | None

    @property
    def is_enhanced(self) -> bool:
        """Whether this is an enhanced CT, MR or PET file: several frames with the place of each."""
        return self.storage in _ENHANCED

    @property
    def is_localizer(self) -> bool:
        """Whether the file calls itself a localizer (a scout image)."""
        return "LOCALIZER" in self.kind.upper().split("\\")

    @property
    def normal(self) -> np.ndarray:
        """The unit vector perpendicular to the slice (LPS); needs `orientation`."""
        assert self.orientation is not None
        return np.cross(self.orientation[:3], self.orientation[3:])


@dataclass(frozen=True)
class Series:
    """The images of one DICOM series, in the order of their file names."""

    uid: str
    images: tuple[ImageHeader, ...]

    def describe(self) -> str:
        """One short line for a list of choices."""
        first = self.images[0]
        slices = sum(image.frames for image in self.images)
        what = " ".join(part for part in (first.modality, f"'{first.description}'") if part.strip("'"))
        return f"{self.uid} ({what}, {slices} {'slice' if slices == 1 else 'slices'})".replace("(, ", "(")


def is_dicom_file(path: Path) -> bool:
    """Whether the file has DICOM's preamble; files without one are not recognised here."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def dicom_reader(path: Path) -> sitk.ImageFileReader:
    """A reader of this one file, as DICOM whatever its name."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader


def read_header(path: Path) -> ImageHeader | None:
    """The header of a DICOM image; None for a file that is not one (a directory, a report, a picture)."""
    reader = dicom_reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    has = set(reader.GetMetaDataKeys())

    def text(key: str) -> str:
        return reader.GetMetaData(key).strip().strip("\0") if key in has else ""

    size = reader.GetSize()
    if not text("0028|0010") or not text(_SERIES_UID):
        return None
    return ImageHeader(
        path=path,
        series=text(_SERIES_UID),
        instance=text("0008|0018"),
        storage=text("0008|0016"),
        modality=text("0008|0060"),
        description=text("0008|103e"),
        kind=text("0008|0008"),
        rows=int(size[1]),
        columns=int(size[0]),
        frames=int(size[2]) if len(size) > 2 else 1,
        components=int(reader.GetNumberOfComponents()),
        pixel_spacing=(float(reader.GetSpacing()[1]), float(reader.GetSpacing()[0])),
        orientation=_numbers(text("0020|0037"), 6),
        position=_numbers(text("0020|0032"), 3),
        window=_window(text("0028|1051"), text("0028|1050")),
    )


@dataclass(frozen=True)
class FolderScan:
    """The image series of a folder, and the DICOM files in it that are no images or cannot be read."""

    series: tuple[Series, ...]
    others: tuple[Path, ...]


def scan_folder(folder: Path) -> FolderScan:
    """The image series in a folder; its subfolders are searched only if it holds no image itself.

    Raises:
        InputError: `file_unreadable` for a folder or file that cannot be read; `no_dicom` without an image.
    """
    for deep in (False, True):
        grouped: dict[str, list[ImageHeader]] = {}
        others = []
        for path in _files(folder, deep):
            # A DICOMDIR lists files and is none of them; GDCM would take long to find that out.
            if path.name.upper() == "DICOMDIR" or not _may_be_dicom(path):
                continue
            header = read_header(path)
            if header is None:
                others.append(path)
            else:
                grouped.setdefault(header.series, []).append(header)
        if grouped:
            series = tuple(Series(uid, tuple(images)) for uid, images in grouped.items())
            return FolderScan(series, tuple(others))
    raise InputError(
        "no_dicom",
        f"There is no DICOM image in the folder '{folder}'.",
        "Give the folder that holds the files of a series, or an NRRD, NIfTI or MetaImage file.",
    )


def choose_series(series: tuple[Series, ...], uid: str | None, folder: Path) -> Series:
    """The series with this UID, or the only one that has at least two slices.

    Raises:
        InputError: `series_unknown`, `several_series`.
    """
    listed = "; ".join(one.describe() for one in series[:_LISTED])
    if len(series) > _LISTED:
        listed += f"; and {len(series) - _LISTED} more"
    if uid is not None:
        for one in series:
            if one.uid == uid:
                return one
        raise InputError(
            "series_unknown",
            f"The folder '{folder}' holds no series {uid}, but: {listed}.",
            "Give one of these.",
        )
    volumes = [one for one in series if sum(image.frames for image in one.images) > 1] or list(series)
    if len(volumes) > 1:
        raise InputError(
            "several_series",
            f"The folder '{folder}' holds {len(series)} DICOM series: {listed}.",
            "Choose one with --series and its UID.",
        )
    return volumes[0]


def _files(folder: Path, deep: bool) -> list[Path]:
    try:
        if deep:
            found = [Path(root) / name for root, _, names in os.walk(folder) for name in names]
        else:
            found = [path for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted(found)


def _may_be_dicom(path: Path) -> bool:
    """Leaves out pictures, archives and texts by their first bytes; old DICOM files have no preamble."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        # Leaving it out could leave a hole in the series.
        raise _unreadable(path, error) from error
    if start[128:] == b"DICM":
        return True
    # Without preamble a data set begins with a tag of group 0002 or 0008, in either byte order.
    return start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def _unreadable(path: Path, error: OSError) -> InputError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return InputError(
        "file_unreadable", f"'{path}' cannot be read: {reason}.", "Check the path and its permissions."
    )


def _numbers(text: str, count: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return None
    return values if len(values) == count and bool(np.all(np.isfinite(values))) else None


def _window(width: str, center: str) -> tuple[float, float] | None:
    """The first window (width, level) of the file's, if it has a usable one."""
    values = _numbers(width.split("\\")[0], 1), _numbers(center.split("\\")[0], 1)
    if values[0] is None or values[1] is None or values[0][0] <= 0:
        return None
    return values[0][0], values[1][0]
