"""A DICOM series as one volume, or a sentence saying why it is none. Nothing is guessed or filled in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.dicom_headers import ImageHeader, Series, dicom_reader
from SAM2PropagateLib.files.image import itk_geometry
from SAM2PropagateLib.frames.geometry import VolumeGeometry

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Slices nearer than this are at one position.
_SAME_MM = 0.01
# Positions are often rounded; up to a tenth of a slice off an even grid is harmless.
_EVEN = 0.1
_AGAIN = "Export the series again, completely."
_REGULAR = "Load it in 3D Slicer, which regularizes such series (DICOM module), and save it as NRRD."


@dataclass(frozen=True, eq=False)
class DicomVolume:
    """A series read as one volume.

    Args:
        array: (K, J, I), rescaled as the series says (Hounsfield units for CT).
        geometry: IJK to RAS; K runs along the slice normal.
        first: the header of the first slice along K.
        window: median width and level of the slices' own windows, or None.
        notes: what was left out or taken on trust, for the user.
    """

    array: np.ndarray
    geometry: VolumeGeometry
    first: ImageHeader
    window: tuple[float, float] | None
    notes: tuple[str, ...]


def read_series(series: Series) -> DicomVolume:
    """Read a series whose slices lie on one even grid.

    Raises:
        InputError: `multi_component`, `too_few_slices`, `dicom_no_positions`, `mixed_orientations`,
            `mixed_sizes`, `several_images_per_position`, `missing_slice`, `uneven_spacing`, `gantry_tilt`,
            `file_damaged`.
    """
    if len(series.images) == 1 and series.images[0].frames > 1:
        return _read_multi_frame(series.images[0])
    images, notes = _one_stack(series)
    images, doubled = _without_copies(_sorted(images))
    if doubled:
        notes.append(f"{doubled} {'copy' if doubled == 1 else 'copies'} of slices left out.")
    if len(images) < 2:
        raise InputError(
            "too_few_slices",
            f"The series {series.uid} has one slice only.",
            "At least 2 slices are needed to propagate.",
        )
    step = _even_step(images)
    array = _read_slices(images)
    return DicomVolume(
        array=array,
        geometry=_geometry(images[0], step, len(images)),
        first=images[0],
        window=_median_window(images),
        notes=tuple(notes),
    )


def _read_multi_frame(image: ImageHeader) -> DicomVolume:
    _check_scalar(image)
    if not image.is_enhanced:
        raise InputError(
            "dicom_no_positions",
            f"'{image.path}' holds {image.frames} frames but does not say where they lie.",
            "Give a series of single slices, or an enhanced CT or MR file.",
        )
    voxels = execute(image)
    return DicomVolume(
        array=sitk.GetArrayFromImage(voxels),
        geometry=itk_geometry(voxels),
        first=image,
        window=image.window,
        notes=("The frames of this multi-frame DICOM file are taken as evenly spaced.",),
    )


def _one_stack(series: Series) -> tuple[list[ImageHeader], list[str]]:
    """The images that can form one stack, localizers left out where others remain; and notes on that."""
    images = list(series.images)
    notes = []
    kept = [image for image in images if not image.is_localizer]
    if kept and len(kept) < len(images):
        count = len(images) - len(kept)
        notes.append(f"{count} localizer {'image' if count == 1 else 'images'} left out.")
        images = kept
    for image in images:
        _check_scalar(image)
        if image.frames > 1:
            raise InputError(
                "mixed_sizes",
                f"The series {series.uid} mixes multi-frame files such as '{image.path.name}' with others.",
                "Give a folder with one of them only.",
            )
        if image.orientation is None or image.position is None or not _is_plane(image.orientation):
            raise InputError(
                "dicom_no_positions",
                f"'{image.path}' does not say where its slice lies in the patient.",
                "Give the original CT or MR series, not captured or derived pictures.",
            )
    _check_orientations(series, images)
    _check_sizes(series, images)
    return images, notes


def _check_scalar(image: ImageHeader) -> None:
    if image.components != 1:
        raise InputError(
            "multi_component",
            f"'{image.path}' is a color image ({image.components} values per pixel).",
            "Give a grey-scale CT or MR series.",
        )


def _is_plane(orientation: Sequence[float]) -> bool:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    return bool(np.allclose(lengths, 1, atol=1e-2) and abs(row @ column) < 1e-2)


def _check_orientations(series: Series, images: Sequence[ImageHeader]) -> None:
    found: list[tuple[np.ndarray, int]] = []
    for image in images:
        own = np.array(image.orientation)
        for number, (known, count) in enumerate(found):
            if np.allclose(own, known, atol=1e-3):
                found[number] = (known, count + 1)
                break
        else:
            found.append((own, 1))
    if len(found) > 1:
        counted = ", ".join(f"{count} {_plane(known)}" for known, count in found[:6])
        raise InputError(
            "mixed_orientations",
            f"The slices of the series {series.uid} lie in {len(found)} different orientations ({counted}).",
            "Give a series with parallel slices; one with several planes is no volume.",
        )


def _plane(orientation: np.ndarray) -> str:
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    return ("sagittal", "coronal", "axial")[int(np.argmax(normal))]


def _check_sizes(series: Series, images: Sequence[ImageHeader]) -> None:
    sizes = Counter(
        (image.columns, image.rows, *(round(edge, 3) for edge in image.pixel_spacing)) for image in images
    )
    if len(sizes) > 1:
        listed = "; ".join(
            f"{count} of {columns} x {rows} pixels of {height:g} x {width:g} mm"
            for (columns, rows, height, width), count in sizes.most_common(4)
        )
        raise InputError(
            "mixed_sizes",
            f"The slices of the series {series.uid} differ in size: {listed}.",
            "Give a series whose slices have one size.",
        )


def _along(images: Sequence[ImageHeader]) -> np.ndarray:
    """Positions (mm) along the slice normal, one per image."""
    normal = images[0].normal
    return np.array([np.dot(np.array(image.position), normal) for image in images])


def _sorted(images: Sequence[ImageHeader]) -> list[ImageHeader]:
    return [images[number] for number in np.argsort(_along(images), kind="stable")]


def _without_copies(images: Sequence[ImageHeader]) -> tuple[list[ImageHeader], int]:
    """Each position once: copies of one image are left out, different images at one position refused."""
    places: list[list[ImageHeader]] = []
    last = -np.inf
    for image, position in zip(images, _along(images), strict=True):
        if position - last > _SAME_MM:
            places.append([])
            last = position
        places[-1].append(image)
    for place in places:
        for other in place[1:]:
            if not _same_image(place[0], other):
                shared = sum(len(members) > 1 for members in places)
                raise InputError(
                    "several_images_per_position",
                    f"{shared} of {len(places)} slice positions hold more than one image, for instance "
                    f"'{place[0].path.name}' and '{other.path.name}'.",
                    "Give one echo, phase or time point at a time, in a folder of its own.",
                )
    return [place[0] for place in places], len(images) - len(places)


def _same_image(one: ImageHeader, other: ImageHeader) -> bool:
    pixels = [sitk.GetArrayFromImage(execute(image)) for image in (one, other)]
    return bool(np.array_equal(pixels[0], pixels[1]))


def _even_step(images: Sequence[ImageHeader]) -> float:
    """The distance (mm) of neighbouring slices; refuses a series with a gap, an uneven or a tilted one."""
    positions = _along(images)
    gaps = np.diff(positions)
    usual = float(np.median(gaps))
    wide = np.flatnonzero(gaps > 1.5 * usual)
    if len(wide) and len(wide) <= max(1, len(gaps) // 4):
        raise _missing(images, gaps, usual, wide)
    step = float(positions[-1] - positions[0]) / (len(images) - 1)
    even = positions[0] + step * np.arange(len(images))
    if np.abs(positions - even).max() > max(_EVEN * step, _SAME_MM):
        raise InputError(
            "uneven_spacing",
            f"The slices are not evenly spaced: their distances are {gaps.min():.2f} to {gaps.max():.2f} mm.",
            _REGULAR,
        )
    # Compared from the first to the last slice, where a tilt adds up.
    drift = np.array(images[-1].position) - np.array(images[0].position)
    drift = drift - images[0].normal * (drift @ images[0].normal)
    length = float(np.linalg.norm(drift))
    if length > max(0.5 * min(images[0].pixel_spacing), 0.1):
        angle = np.degrees(np.arctan2(length, positions[-1] - positions[0]))
        raise InputError(
            "gantry_tilt",
            f"The slices are shifted against each other by {length:.1f} mm in all (a gantry tilt of "
            f"{angle:.1f} degrees).",
            _REGULAR,
        )
    return step


def _missing(images: Sequence[ImageHeader], gaps: np.ndarray, usual: float, wide: np.ndarray) -> InputError:
    lacking = [max(1, round(float(gaps[gap]) / usual) - 1) for gap in wide]
    places = []
    for gap, count in zip(wide[:4], lacking, strict=False):
        below, above = images[gap], images[gap + 1]
        expected = np.array(below.position) + usual * below.normal
        r, a, s = (_LPS_TO_RAS[:3, :3] @ expected).tolist()
        where = f"at RAS {r:.1f}, {a:.1f}, {s:.1f} mm" + (f" ({count} slices)" if count > 1 else "")
        places.append(f"between '{below.path.name}' and '{above.path.name}' {where}")
    if len(wide) > 4:
        places.append(f"and at {len(wide) - 4} more places")
    total = sum(lacking)
    what = "A slice is" if total == 1 else f"{total} slices are"
    return InputError("missing_slice", f"{what} missing from the series: {'; '.join(places)}.", _AGAIN)


def _geometry(first: ImageHeader, step: float, count: int) -> VolumeGeometry:
    matrix = np.eye(4)
    assert first.orientation is not None and first.position is not None
    matrix[:3, 0] = np.array(first.orientation[:3]) * first.pixel_spacing[1]
    matrix[:3, 1] = np.array(first.orientation[3:]) * first.pixel_spacing[0]
    matrix[:3, 2] = first.normal / np.linalg.norm(first.normal) * step
    matrix[:3, 3] = first.position
    return VolumeGeometry((first.columns, first.rows, count), _LPS_TO_RAS @ matrix)


def _read_slices(images: Sequence[ImageHeader]) -> np.ndarray:
    """(K, J, I); the slices may differ in type where their rescaling differs (PET)."""
    voxels: np.ndarray | None = None
    for number, image in enumerate(images):
        pixels = sitk.GetArrayFromImage(execute(image))[0]
        if voxels is None:
            voxels = np.empty((len(images), *pixels.shape), pixels.dtype)
        elif pixels.dtype != voxels.dtype:
            voxels = voxels.astype(np.result_type(voxels, pixels), copy=False)
        voxels[number] = pixels
    assert voxels is not None
    return voxels


def execute(image: ImageHeader) -> sitk.Image:
    """The voxels of one file. Raises InputError (`file_damaged`) where they cannot be read."""
    try:
        return dicom_reader(image.path).Execute()
    except RuntimeError as error:
        raise InputError("file_damaged", f"'{image.path}' is damaged or cut short.", _AGAIN) from error


def _median_window(images: Sequence[ImageHeader]) -> tuple[float, float] | None:
    """One window for the whole series: MR scanners write another one into every slice."""
    windows = [image.window for image in images if image.window is not None]
    if len(windows) < len(images):
        return None
    width, level = np.median(np.array(windows), axis=0)
    return float(width), float(level)
