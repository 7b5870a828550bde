"""Checks whether parallel DICOM slices lie on one even grid, and makes its geometry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.dicom_file import ImageHeader
from SAM2PropagateLib.files.dicom_pixels import AGAIN
from SAM2PropagateLib.frames.geometry import VolumeGeometry

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Images nearer than this are at one position.
SAME_MM = 0.01
# Positions are often rounded, for example to a tenth of a millimeter. These deviations from an even grid are
# harmless: a tenth of a step, or a tenth of a millimeter if that is at most a fifth of a step.
_EVEN, _EVEN_THIN, _ROUNDED_MM = 0.1, 0.2, 0.1
# With at least this many slices, distances that alternate by this factor are not chance.
_COMBS, _IN_TURN = 8, 1.3
_REGULAR = (
    "Load it in 3D Slicer's DICOM module, which puts a regularizing transform on such a volume; harden that "
    "transform (Data module) and save the volume as NRRD."
)
_NOT_ONE = " If the slices on one side of the gap belong to another volume, move them elsewhere."
# Slicer regularizes only series of single slices.
_SINGLE_FIRST = "Export it as a series of single slices first. "


def along(images: Sequence[ImageHeader]) -> np.ndarray:
    """Return positions (mm) along the normal of the first slice, one per image."""
    normal = images[0].normal
    return np.array([np.dot(np.array(image.position), normal) for image in images])


def places(images: Sequence[ImageHeader]) -> list[list[ImageHeader]]:
    """Return the images by position, in order."""
    found: list[list[ImageHeader]] = []
    positions = along(images)
    last = -np.inf
    for number in np.argsort(positions, kind="stable"):
        if positions[number] - last > SAME_MM:
            found.append([])
            last = positions[number]
        found[-1].append(images[number])
    return found


def even_step(images: Sequence[ImageHeader]) -> float:
    """Return the distance (mm) of neighboring slices; the slices are in the order of their positions.

    Raises:
        InputError: `missing_slice`, `uneven_spacing`, `shifted_slices`, `gantry_tilt`.
    """
    positions = along(images)
    gaps = np.diff(positions)
    usual = float(np.median(gaps))
    wide = np.flatnonzero(gaps > 1.5 * usual)
    if len(wide) and len(wide) <= max(1, len(gaps) // 4):
        raise _missing(images, gaps, usual, wide)
    step = float(positions[-1] - positions[0]) / (len(images) - 1)
    even = positions[0] + step * np.arange(len(images))
    tolerance = max(_EVEN * step, min(_EVEN_THIN * step, _ROUNDED_MM), SAME_MM)
    if np.abs(positions - even).max() > tolerance:
        distances = f"their distances are {gaps.min():.2f} to {gaps.max():.2f} mm"
        shift, rest = sorted((float(np.median(gaps[::2])), float(np.median(gaps[1::2]))))
        halves = len(images) >= _COMBS and rest > _IN_TURN * shift
        if halves and is_even(images[::2]) and is_even(images[1::2]):
            raise InputError(
                "uneven_spacing",
                f"The slices are not evenly spaced: {distances} in turn, as if two stacks were mixed.",
                "Give one of the two alone, in a folder of its own.",
            )
        raise InputError(
            "uneven_spacing", f"The slices are not evenly spaced: {distances}.", _regular(images[0])
        )
    _check_sideways(images, positions)
    return step


def _regular(image: ImageHeader) -> str:
    return _REGULAR if image.frames == 1 else _SINGLE_FIRST + _REGULAR


def _check_sideways(images: Sequence[ImageHeader], positions: np.ndarray) -> None:
    """Refuse slices that are shifted against each other within their planes."""
    assert images[0].pixel_spacing is not None
    most = max(0.5 * min(images[0].pixel_spacing), 0.1)
    shifts = np.array([image.position for image in images]) - np.array(images[0].position)
    shifts = shifts - np.outer(shifts @ images[0].normal, images[0].normal)
    # A tilt adds up from the first to the last slice.
    share = (positions - positions[0]) / (positions[-1] - positions[0])
    beside = np.linalg.norm(shifts - np.outer(share, shifts[-1]), axis=1)
    if beside.max() > most:
        number = int(np.argmax(beside))
        raise InputError(
            "shifted_slices",
            f"The slices are shifted sideways against each other, {images[number].name} by "
            f"{beside[number]:.1f} mm.",
            _regular(images[0]),
        )
    length = float(np.linalg.norm(shifts[-1]))
    if length > most:
        angle = np.degrees(np.arctan2(length, positions[-1] - positions[0]))
        raise InputError(
            "gantry_tilt",
            f"The slices are shifted against each other by {length:.1f} mm in all (a gantry tilt of "
            f"{angle:.1f} degrees).",
            _regular(images[0]),
        )


def is_even(images: Sequence[ImageHeader]) -> bool:
    """Tell whether the images, in any order, are at least two slices on one even grid."""
    held = places(images)
    if len(held) < 2 or len(held) < len(images):
        return False
    try:
        even_step([place[0] for place in held])
    except InputError:
        return False
    return True


def stack_geometry(first: ImageHeader, step: float, count: int) -> VolumeGeometry:
    """Return the grid of `count` slices that follow `first` at `step` mm."""
    assert first.orientation is not None and first.position is not None and first.pixel_spacing is not None
    matrix = np.eye(4)
    matrix[:3, 0] = np.array(first.orientation[:3]) * first.pixel_spacing[1]
    matrix[:3, 1] = np.array(first.orientation[3:]) * first.pixel_spacing[0]
    matrix[:3, 2] = first.normal * step
    matrix[:3, 3] = first.position
    return VolumeGeometry((first.columns, first.rows, count), LPS_TO_RAS @ matrix)


def _missing(images: Sequence[ImageHeader], gaps: np.ndarray, usual: float, wide: np.ndarray) -> InputError:
    lacking = [max(1, round(float(gaps[gap]) / usual) - 1) for gap in wide]
    where = []
    for gap, count in zip(wide[:4], lacking, strict=False):
        below, above = images[gap], images[gap + 1]
        expected = np.array(below.position) + usual * below.normal
        r, a, s = (LPS_TO_RAS[:3, :3] @ expected).tolist()
        place = f"at RAS {r:.1f}, {a:.1f}, {s:.1f} mm" + (f" ({count} slices)" if count > 1 else "")
        where.append(f"between {below.name} and {above.name} {place}")
    if len(wide) > 4:
        where.append(f"and at {len(wide) - 4} more {'place' if len(wide) == 5 else 'places'}")
    total = sum(lacking)
    what = "A slice is" if total == 1 else f"{total} slices are"
    # With two gaps or more, slices of another volume are unlikely.
    is_choice = len(wide) == 1 and all(image.frames == 1 for image in images)
    hint = AGAIN + (_NOT_ONE if is_choice else "")
    return InputError("missing_slice", f"{what} missing from the series: {'; '.join(where)}.", hint)
