"""Gives a volume as frames along one of its axes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import VolumeGeometry, check_axis
from SAM2PropagateLib.frames.window import Window, check_dtype
from SAM2PropagateLib.texts import plural
from SAM2PropagateLib.texts import text as _


@dataclass(frozen=True, eq=False)
class FrameStack:
    """Frames of a volume, converted to 8 bit one at a time; nothing is copied or kept.

    Args:
        array: (K, J, I), bool, integer or real floating; may be memory-mapped.
        geometry: of the same shape.
        axis: propagation axis, 0 = i, 1 = j, 2 = k.
        window: one for the whole volume.

    Raises:
        InputError: `not_3d`, `bad_dtype`, `shape_mismatch`, `bad_axis`.
    """

    array: npt.NDArray[Any]
    geometry: VolumeGeometry
    axis: int
    window: Window

    def __post_init__(self) -> None:
        check_array(self.array, self.geometry)
        object.__setattr__(self, "axis", check_axis(self.axis))

    @property
    def count(self) -> int:
        """Number of frames."""
        return self.geometry.frame_count(self.axis)

    @property
    def native_shape(self) -> tuple[int, int]:
        """(rows, columns) of every frame."""
        return self.geometry.frame_shape(self.axis)

    def native(self, index: int) -> npt.NDArray[Any]:
        """Return frame `index` with the volume's own values: a (rows, columns) view. Raises IndexError."""
        if not 0 <= index < self.count:
            raise IndexError(f"frame {index} of {self.count}")
        return native_frame(self.array, index, self.axis)

    def frame(self, index: int) -> npt.NDArray[np.uint8]:
        """Return frame `index` in the window: (rows, columns) uint8, C order. Raises IndexError."""
        return self.window.apply(self.native(index))

    def with_window(self, window: Window) -> FrameStack:
        """Return the same frames in another window."""
        return replace(self, window=window)


def native_frame(array: npt.NDArray[Any], index: int, axis: int) -> npt.NDArray[Any]:
    """Return the (rows, columns) view of frame `index` along `axis` of a (K, J, I) array.

    Writing to it writes to the volume, so this also puts a mask into a label volume.
    """
    selection: list[int | slice] = [slice(None)] * 3
    selection[2 - axis] = index
    return array[tuple(selection)]


def check_array(array: npt.NDArray[Any], geometry: VolumeGeometry) -> None:
    """Raise InputError `not_3d`, `bad_dtype`, `empty` or `shape_mismatch`; look at no voxel."""
    if array.ndim != 3:
        raise InputError(
            "not_3d",
            plural(
                array.ndim,
                _("The volume has {count} dimension instead of 3."),
                _("The volume has {count} dimensions instead of 3."),
            ).format(count=array.ndim),
            _("Choose a 3D volume with one value per voxel; split time series and color images first."),
        )
    check_dtype(array.dtype)
    if not array.size:
        raise InputError(
            "empty",
            _("The volume is empty: its size is {size} voxels.").format(
                size=" x ".join(map(str, array.shape[::-1]))
            ),
            _("Choose a volume with image data."),
        )
    if array.shape[::-1] != geometry.shape_ijk:
        raise InputError(
            "shape_mismatch",
            _("The volume has {size} voxels, but its geometry describes {other}.").format(
                size=" x ".join(map(str, array.shape[::-1])), other=" x ".join(map(str, geometry.shape_ijk))
            ),
            _("Load the volume again."),
        )
