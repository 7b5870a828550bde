"""Reads a DICOM series as one volume, or refuses it with a reason. Nothing is guessed or filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.dicom_file import ImageHeader
from SAM2PropagateLib.files.dicom_headers import Series
from SAM2PropagateLib.files.dicom_parts import Part, by_geometry, doubles_error, separate, several
from SAM2PropagateLib.files.dicom_pixels import PixelReader
from SAM2PropagateLib.files.dicom_stack import SAME_MM, even_step, places, stack_geometry
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.numerals import whole_number

ALL_PARTS = "all"
_ORIGINAL = "Give the original CT or MR series, not captured or derived pictures."


@dataclass(frozen=True, eq=False)
class DicomVolume:
    """A series read as one volume.

    Args:
        array: (K, J, I), rescaled (Hounsfield units for CT).
        geometry: IJK to RAS; K runs along the slice normal.
        first: the header of the first slice along K.
        window: median width and level of the slices' own windows, or None.
        notes: what was left out or could not be checked, for the user.
    """

    array: np.ndarray
    geometry: VolumeGeometry
    first: ImageHeader
    window: tuple[float, float] | None
    notes: tuple[str, ...]


def read_series(series: Series, part: str | None = None) -> DicomVolume:
    """Read a series whose slices lie on one even grid, from single files or multi-frame ones.

    Args:
        series: its images.
        part: the number of one of several stacks, from 1 as in the list of the refusal; "all" reads them
            together.

    Raises:
        InputError: `multi_component`, `too_few_slices`, `dicom_no_positions`, `dicom_no_spacing`,
            `mixed_orientations`, `mixed_sizes`, `several_images_per_position`, `several_acquisitions`,
            `part_unknown`, `missing_slice`, `uneven_spacing`, `shifted_slices`, `gantry_tilt`,
            `file_damaged`, `unknown_encoding`.
    """
    images, notes = _usable(series)
    pixels = PixelReader()
    pieces, copies = [], 0
    for piece in by_geometry(images):
        kept, left_out = _without_copies(piece.images, pixels)
        copies += left_out
        pieces.append(replace(piece, images=kept))
    if copies:
        notes.append(f"{copies} {'copy' if copies == 1 else 'copies'} of slices left out.")
    chosen = _chosen(pieces, series, part)
    held = places(chosen.images)
    if len(held) < 2:
        raise _too_few(series, len(chosen.images))
    if len(held) < len(chosen.images):
        raise doubles_error(chosen.images)
    if chosen.labels:
        notes.append(f"Part {part} is read: {chosen.describe()}.")
    slices = [place[0] for place in held]
    step = even_step(slices)
    return DicomVolume(
        array=pixels.read_all(slices),
        geometry=stack_geometry(slices[0], step, len(slices)),
        first=slices[0],
        window=_median_window(slices),
        notes=tuple(notes),
    )


def _chosen(pieces: Sequence[Part], series: Series, wanted: str | None) -> Part:
    """Return the stack to read; see `read_series`."""
    if len(pieces) == 1 and len(places(pieces[0].images)) == 1:
        raise _too_few(series, len(pieces[0].images))
    if wanted == ALL_PARTS:
        if len(pieces) > 1:
            raise several(pieces, series.title)
        return pieces[0]
    parts = [part for piece in pieces for part in separate(piece)]
    if wanted is None:
        if len(parts) > 1:
            raise several(parts, series.title)
        return parts[0]
    number = whole_number(wanted) or 0
    if not 1 <= number <= len(parts):
        listed = "; ".join(f"{number} ({part.describe()})" for number, part in enumerate(parts[:12], start=1))
        more = f"; and {len(parts) - 12} more" if len(parts) > 12 else ""
        what = f"{len(parts)} parts: {listed}{more}" if len(parts) > 1 else "one part only"
        raise InputError(
            "part_unknown",
            f"There is no part {wanted} of {series.title}, which has {what}.",
            "Give one of these numbers with --part." if len(parts) > 1 else "Leave out --part.",
        )
    return parts[number - 1]


def _too_few(series: Series, images: int) -> InputError:
    held = "one slice only" if images == 1 else f"{images} images, all of one slice"
    return InputError(
        "too_few_slices",
        f"{series.title[:1].upper()}{series.title[1:]} has {held}.",
        "At least 2 slices at different positions are needed to propagate.",
    )


def _usable(series: Series) -> tuple[list[ImageHeader], list[str]]:
    """Return the images that can form stacks, without localizers and captures if others remain; and notes."""
    images = list(series.images)
    notes = []
    kept = [image for image in images if not image.is_localizer]
    if kept and len(kept) < len(images):
        count = len(images) - len(kept)
        notes.append(f"{count} localizer {'image' if count == 1 else 'images'} left out.")
        images = kept
    kept = [image for image in images if not image.is_capture or image.position is not None]
    if kept and len(kept) < len(images):
        count = len(images) - len(kept)
        what = "picture that a program saved" if count == 1 else "pictures that programs saved"
        notes.append(f"{count} {what}, without a place in the patient, left out.")
        images = kept
    for image in images:
        _check_image(image)
    return images, notes


def _check_image(image: ImageHeader) -> None:
    if image.components != 1:
        raise InputError(
            "multi_component",
            f"“{image.path}” is a color image ({image.components} values per pixel).",
            "Give a gray-scale CT or MR series.",
        )
    is_captured = image.frames > 1 and image.is_capture
    if is_captured or image.orientation is None or image.position is None or not _is_plane(image.orientation):
        raise _without_place(image)
    if image.pixel_spacing is None:
        raise InputError(
            "dicom_no_spacing",
            f"“{image.path}” does not say how large its pixels are.",
            _ORIGINAL,
        )


def _without_place(image: ImageHeader) -> InputError:
    if image.frames > 1 and image.is_capture:
        return InputError(
            "dicom_no_positions",
            f"“{image.path}” is a secondary capture of {image.frames} frames: pictures that a program saved, "
            "without a scanner's reliable positions.",
            _ORIGINAL,
        )
    if image.frames > 1 and image.frame <= 1:
        return InputError(
            "dicom_no_positions",
            f"“{image.path}” ({image.storage_name}) holds {image.frames} frames but does not say where each "
            "of them lies.",
            "Give a series of single slices, or an enhanced CT or MR file.",
        )
    what = f"Frame {image.frame + 1} of “{image.path}”" if image.frames > 1 else f"“{image.path}”"
    return InputError(
        "dicom_no_positions",
        f"{what} does not say where {'it' if image.frames > 1 else 'its slice'} lies in the patient.",
        _ORIGINAL
        if image.frames > 1
        else f"{_ORIGINAL} Move the file elsewhere if it is none of its slices.",
    )


def _is_plane(orientation: Sequence[float]) -> bool:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    return bool(np.allclose(lengths, 1, atol=1e-2) and abs(row @ column) < 1e-2)


def _without_copies(
    images: Sequence[ImageHeader], pixels: PixelReader
) -> tuple[tuple[ImageHeader, ...], int]:
    """Return parallel images without the copies of one at the same position, and how many those are.

    If the first position with several images has no copy, the series has none: comparing all images of a long
    time series would mean reading all of it. It also has none if images still differ at other positions, as
    empty slices of two echoes are equal but not copies.
    """
    held = [place for place in places(images) if len(place) > 1]
    left_out: set[int] = set()
    kept: set[int] = set()
    for place in held:
        values = [pixels.read(image) for image in place]
        copies = {
            id(place[number])
            for number in range(1, len(place))
            if any(
                np.allclose(np.array(place[number].position), np.array(place[other].position), atol=SAME_MM)
                and np.array_equal(values[number], values[other])
                for other in range(number)
            )
        }
        kept.add(len(place) - len(copies))
        if not copies or len(kept) > 1:
            return tuple(images), 0
        left_out |= copies
    return tuple(image for image in images if id(image) not in left_out), len(left_out)


def _median_window(images: Sequence[ImageHeader]) -> tuple[float, float] | None:
    """Return one window for the whole series, as MR scanners write a different one into every slice."""
    windows = [image.window for image in images if image.window is not None]
    if len(windows) < len(images):
        return None
    width, level = np.median(np.array(windows), axis=0)
    return float(width), float(level)
