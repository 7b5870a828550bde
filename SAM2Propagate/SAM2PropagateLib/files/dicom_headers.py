"""Finds the DICOM images in a folder, grouped into series."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.dicom_file import ImageHeader, OtherObject, read_headers
from SAM2PropagateLib.files.unreadable import unreadable

# Chooses the images of all series together.
ALL_SERIES = "all"
_LISTED = 12
_ENDINGS = (".dcm", ".ima", ".dicom")


@dataclass(frozen=True)
class Series:
    """The images of one DICOM series, in the order of their file names and frames."""

    uid: str
    images: tuple[ImageHeader, ...]

    @property
    def title(self) -> str:
        """The series, for a sentence."""
        return "all series together" if self.uid == ALL_SERIES else f"the series {self.uid}".rstrip()

    @property
    def has_places(self) -> bool:
        """Whether any of its images has a place."""
        return any(image.position is not None for image in self.images)

    def describe(self) -> str:
        """Return one short line for a list of choices."""
        first = self.images[0]
        slices = len(self.images)
        what = " ".join(part for part in (first.modality, f"“{first.description}”") if part.strip("“”"))
        return f"{self.uid} ({what}, {slices} {'slice' if slices == 1 else 'slices'})".replace("(, ", "(")


@dataclass(frozen=True)
class FolderScan:
    """The image series of a folder, and its other files.

    Args:
        series: in the order of the file names.
        others: the DICOM files that are no images or cannot be read.
        closed: subfolders that may not be read, and links to files that are not there.
    """

    series: tuple[Series, ...]
    others: tuple[OtherObject, ...] = ()
    closed: tuple[Path, ...] = ()

    def notes(self) -> list[str]:
        """Return a sentence on each kind of files that are left out."""
        notes = []
        damaged = [f"“{other.path.name}”" for other in self.others if not other.kind]
        if damaged:
            notes.append(f"DICOM files that are damaged were left out: {_first(damaged)}.")
        objects = [f"“{other.path.name}” ({other.kind})" for other in self.others if other.kind]
        if objects:
            notes.append(f"DICOM files that are not images were left out: {_first(objects)}.")
        if self.closed:
            names = [f"“{path}”" for path in self.closed]
            notes.append(f"Files and folders that cannot be read were left out: {_first(names)}.")
        return notes


def scan_folder(folder: Path) -> FolderScan:
    """Find the image series in a folder and its subfolders.

    Raises:
        InputError: `file_unreadable` for a folder or file that cannot be read; `no_dicom` without an image.
    """
    grouped: dict[str, list[ImageHeader]] = {}
    others: list[OtherObject] = []
    paths, closed = _files(folder)
    for path in paths:
        # A DICOMDIR is only a list of files.
        found = None if path.name.upper() == "DICOMDIR" else read_headers(path)
        if found is None and path.suffix.lower() in _ENDINGS and not path.name.startswith("."):
            # An empty file, or a message in the place of a slice: a failed copy or download.
            found = OtherObject(path)
        if isinstance(found, OtherObject):
            others.append(found)
        elif found is not None:
            grouped.setdefault(found[0].series, []).extend(found)
    series = tuple(Series(uid, tuple(images)) for uid, images in grouped.items())
    scan = FolderScan(series, tuple(others), tuple(closed))
    if not series:
        notes = "; ".join(note.removesuffix(".") for note in scan.notes())
        raise InputError(
            "no_dicom",
            f"There is no DICOM image in the folder “{folder}”{f' ({notes})' if notes else ''}.",
            "Give the folder that holds the files of a series, or an NRRD, NIfTI or MetaImage file.",
        )
    return scan


def choose_series(series: Sequence[Series], uid: str | None, folder: Path) -> Series:
    """Return the series with this UID, all series as one for "all", or the only series with at least two
    placed slices.

    Raises:
        InputError: `series_unknown`, `several_series`.
    """
    if uid == ALL_SERIES:
        return Series(ALL_SERIES, tuple(image for one in series for image in one.images))
    listed = "; ".join(one.describe() for one in series[:_LISTED])
    if len(series) > _LISTED:
        listed += f"; and {len(series) - _LISTED} more"
    if uid is not None:
        for one in series:
            if one.uid == uid:
                return one
        raise InputError(
            "series_unknown",
            f"The folder “{folder}” holds no series {uid}, but: {listed}.",
            "Give one of these.",
        )
    volumes = [one for one in series if len(one.images) > 1]
    # Captures without places cannot be a volume, so they do not count as a choice.
    volumes = [one for one in volumes if one.has_places] or volumes
    if not volumes and len(series) > 1:
        raise InputError(
            "several_series",
            f"Each of the {len(series)} DICOM images in the folder “{folder}” has a series UID of its own.",
            "If they are the slices of one volume, give --series all, which reads all series as one.",
        )
    if len(volumes) > 1:
        raise InputError(
            "several_series",
            f"The folder “{folder}” holds {len(series)} DICOM series: {listed}.",
            "Choose one with --series and its UID, or put its files into a folder of their own.",
        )
    return volumes[0] if volumes else series[0]


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return all files in a folder and its subfolders, and the subfolders and links that cannot be read."""
    closed: list[Path] = []

    def note(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise unreadable(folder, error) from error
        closed.append(Path(error.filename))

    found = [Path(root) / name for root, _, names in os.walk(folder, onerror=note) for name in names]
    # A broken link may stand for a slice that was not copied.
    files = []
    for path in found:
        try:
            mode = path.stat().st_mode
        except OSError:
            # A broken link may stand for a slice that was not copied.
            closed.append(path)
        else:
            if stat.S_ISREG(mode):
                files.append(path)
    return sorted(files), closed


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
