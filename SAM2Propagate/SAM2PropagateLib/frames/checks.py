"""Refuses volumes that cannot be segmented, before any work begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import AXIS_NAMES, VolumeGeometry, check_axis
from SAM2PropagateLib.frames.stack import check_array
from SAM2PropagateLib.frames.window import blocks, finite_range
from SAM2PropagateLib.texts import text as _


def check_volume(array: npt.NDArray[Any], geometry: VolumeGeometry, axis: int | None = None) -> None:
    """Refuse a volume that cannot be segmented.

    Args:
        array: (K, J, I).
        geometry: of the same shape (`VolumeGeometry` has refused a degenerate one).
        axis: the propagation axis, if it is chosen; the sentence on missing slices names it first.

    Raises:
        InputError: `not_3d`, `bad_dtype`, `empty`, `shape_mismatch`, `too_few_slices` (fewer than 2 voxels
            along an axis), `all_nan` (no finite value), `constant_volume` (one finite value everywhere).
    """
    array = np.asanyarray(array)
    check_array(array, geometry)
    order = [0, 1, 2] if axis is None else sorted(range(3), key=lambda other: other != check_axis(axis))
    for candidate in order:
        if geometry.frame_count(candidate) < 2:
            raise InputError(
                "too_few_slices",
                _(
                    "The volume has a single slice along its {axis} axis; propagation needs at least 2 "
                    "slices."
                ).format(axis=AXIS_NAMES[candidate]),
                _("Choose a 3D volume, not a single image."),
            )
    if not _has_contrast(array):
        smallest, largest = finite_range(array)
        if smallest == largest:
            raise InputError(
                "constant_volume",
                _(
                    "All voxels of the volume have the same value ({smallest:g}): there is nothing to "
                    "segment."
                ).format(smallest=smallest),
                _("Choose another volume, or check how it was made."),
            )


def _has_contrast(array: npt.NDArray[Any]) -> bool:
    """Tell whether there are two different finite values, without looking further than needed."""
    first: Any = None
    for block in blocks(array):
        finite = block[np.isfinite(block)] if array.dtype.kind == "f" else block
        if not finite.size:
            continue
        if first is None:
            first = finite.flat[0]
        if bool((finite != first).any()):
            return True
    return False
