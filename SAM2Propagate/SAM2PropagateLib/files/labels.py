"""Reads label volumes and segmentations onto the voxels of their image, in any voxel order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.image import FileImage, read_image
from SAM2PropagateLib.files.segmentation import SUFFIX, Segment, holds_segments, read_segmentation
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.grids import grid_offset, reordered

# Rounding errors of whole numbers that are stored as floats or with a scale factor are less than this.
_ROUNDING = 1e-3
# More values than this are an image, not a label.
_MOST_VALUES = 1000


@dataclass(frozen=True, eq=False)
class Labels:
    """The values of a label volume.

    Attributes:
        array: (K, J, I) of the image, an integer dtype; 0 is outside, no value is below 0.
        values: of the array, without 0, ascending.
        notes: what was changed, one sentence each, for the user.
    """

    array: npt.NDArray[Any]
    values: tuple[int, ...]
    notes: tuple[str, ...] = ()


def is_segmentation(path: Path) -> bool:
    """Tell whether a file is a segmentation from Slicer, by its name or, for other NRRD files, its header."""
    name = path.name.lower()
    return name.endswith(SUFFIX) or (name.endswith((".nrrd", ".nhdr")) and holds_segments(path))


def read_labels(path: Path, image: VolumeGeometry) -> Labels:
    """Read a label volume: one whole number per voxel, on the voxels of `image` in any order.

    Raises:
        InputError: as `read_image`; `label_not_scalar`: several volumes or several values per voxel;
            `label_mismatch`: it lies on another grid; `label_not_whole`: it is no label.
    """
    label = read_image(path)
    _check_kind(path, label)
    array, geometry = reordered(label.array, _geometry(label), image)
    if geometry.shape_ijk != image.shape_ijk or grid_offset(geometry, image) != (0, 0, 0):
        raise _mismatch(path)
    array = _whole(path, array, label.header)
    present = np.unique(array)
    if len(present) > _MOST_VALUES:
        raise _not_whole(
            path, f"{len(present)} different values, as an image has", "Give the label, not the image."
        )
    notes = list(label.notes)
    negative = [int(value) for value in present if value < 0]
    if negative:
        shown = ", ".join(str(value) for value in negative[:5]) + (", ..." if len(negative) > 5 else "")
        count = int(np.count_nonzero(array < 0))
        notes.append(f"“{path}” holds the value {shown} in {count} voxels, which counts as outside.")
        array = np.where(array < 0, np.zeros((), array.dtype), array)
    values = tuple(int(value) for value in present if value > 0)
    return Labels(np.ascontiguousarray(array), values, tuple(notes))


def read_segments(path: Path, image: VolumeGeometry) -> tuple[Segment, ...]:
    """Read a segmentation from Slicer onto the voxels of `image`; it may cover only a part of them.

    Raises:
        InputError: as `read_segmentation`; `label_mismatch`: it lies on another grid or reaches beyond it.
    """
    segmentation = read_segmentation(path)
    shape = tuple(reversed(image.shape_ijk))
    found = []
    for segment in segmentation.segments:
        mask, geometry = reordered(segment.mask, segmentation.geometry, image)
        offset = grid_offset(geometry, image)
        placed = None if offset is None else _placed(mask, offset, shape)
        if placed is None:
            raise _mismatch(path)
        found.append(Segment(segment.name, segment.color, placed, segment.id, segment.tags))
    return tuple(found)


def _geometry(label: FileImage) -> VolumeGeometry:
    assert label.geometry is not None
    return label.geometry


def _check_kind(path: Path, label: FileImage) -> None:
    array = label.array
    if label.geometry is None and array.ndim == 4:
        raise InputError(
            "label_not_scalar",
            f"“{path}” holds {array.shape[0]} volumes instead of one.",
            "Save one label volume, with one number per structure.",
        )
    if label.geometry is None:
        size = " x ".join(str(edge) for edge in reversed(array.shape))
        raise InputError(
            "label_not_scalar",
            f"“{path}” is not a volume ({size}).",
            "Give a label volume of three dimensions.",
        )
    if array.ndim > 3:
        raise InputError(
            "label_not_scalar",
            f"“{path}” has {array.shape[3]} values per voxel, as color images have, instead of one.",
            "Save a label volume, with one number per structure.",
        )


def _whole(path: Path, array: npt.NDArray[Any], header: Mapping[str, str]) -> npt.NDArray[Any]:
    """Return the values as integers. Raises InputError (`label_not_whole`)."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind != "f":
        raise _not_whole(path, f"values of the type {array.dtype}", "Save whole numbers.")
    finite = np.isfinite(array)
    if not bool(finite.all()):
        raise _not_whole(path, "values that are not finite (NaN or infinity)", "Write 0 there.")
    rounded = np.rint(array)
    wrong = np.abs(array - rounded) > _ROUNDING
    if bool(wrong.any()):
        example = float(array[tuple(np.argwhere(wrong)[0])])
        slope = header.get("scl_slope", "")
        if slope and float(slope) not in (0.0, 1.0):
            raise _not_whole(
                path,
                f"fractions such as {example:.4g}, because its header multiplies the stored numbers by "
                f"{float(slope):.4g} (scl_slope)",
                "Save it without a scale factor: with a scl_slope of 1.",
            )
        raise _not_whole(
            path,
            f"fractions such as {example:.4g}, as probabilities and smoothed or resampled labels have",
            "Threshold a probability map at 0.5; resample a label with nearest-neighbor interpolation.",
        )
    if rounded.size and float(np.abs(rounded).max()) >= 2**31:
        raise _not_whole(
            path, f"values as large as {float(np.abs(rounded).max()):.4g}", "Number them from 1."
        )
    return rounded.astype(np.int32)


def _not_whole(path: Path, what: str, hint: str) -> InputError:
    return InputError("label_not_whole", f"“{path}” is not a label volume: it holds {what}.", hint)


def _mismatch(path: Path) -> InputError:
    return InputError(
        "label_mismatch",
        f"The label “{path}” does not lie on the voxels of its image.",
        "Resample it to the image's grid with nearest-neighbor interpolation, for instance with Slicer's "
        "module Resample Scalar/Vector/DWI Volume.",
    )


def _placed(
    mask: npt.NDArray[np.bool_], offset: tuple[int, int, int], shape: tuple[int, ...]
) -> npt.NDArray[np.bool_] | None:
    """Return a mask (K, J, I) of a part of the volume on the whole volume; None if it extends beyond."""
    starts = offset[::-1]
    if mask.shape == shape and not any(starts):
        return mask
    inside = all(s >= 0 and s + n <= whole for s, n, whole in zip(starts, mask.shape, shape, strict=True))
    if not inside:
        return None
    whole = np.zeros(shape, bool)
    whole[tuple(slice(s, s + n) for s, n in zip(starts, mask.shape, strict=True))] = mask
    return whole
