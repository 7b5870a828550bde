"""The crop: the part of a native frame that the model sees, and the conversion of points.

Native coordinates are pixels (x = column, y = row) with centers at integers: pixel p covers [p-0.5, p+0.5].
Model coordinates run from 0 (the left or upper edge of what the model sees) to `size`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.texts import Words
from SAM2PropagateLib.texts import text as _


@dataclass(frozen=True)
class FrameCrop:
    """A rectangle of a frame, stretched to the model's square input.

    Args:
        frame_shape: (rows, columns) of the native frame.
        frame_spacing: (row mm, column mm) of the native frame.
        box: (x0, y0, x1, y1), the rectangle's edges in native pixel coordinates; it may reach outside the
            frame, where the model sees 0.
        size: side of the model's input in pixels.

    Raises:
        InputError: `bad_view` when a number is not finite or a side is not above zero.
    """

    frame_shape: tuple[int, int]
    frame_spacing: tuple[float, float]
    box: tuple[float, float, float, float]
    size: int

    def __post_init__(self) -> None:
        shape = tuple(int(length) for length in self.frame_shape)
        spacing = tuple(float(step) for step in self.frame_spacing)
        box = tuple(float(edge) for edge in self.box)
        if len(shape) != 2 or min(shape) < 1 or len(spacing) != 2 or int(self.size) < 1:
            raise _bad_crop(
                _("A frame of {shape} pixels cannot be given to the model.").format(shape=self.frame_shape)
            )
        if not all(math.isfinite(step) and step > 0 for step in spacing):
            raise _bad_crop(
                _("A pixel spacing of {spacing} mm cannot be used.").format(spacing=self.frame_spacing)
            )
        if len(box) != 4 or not all(map(math.isfinite, box)) or box[2] <= box[0] or box[3] <= box[1]:
            raise _bad_crop(_("The region {region} has no area.").format(region=self.box))
        object.__setattr__(self, "frame_shape", shape)
        object.__setattr__(self, "frame_spacing", spacing)
        object.__setattr__(self, "box", box)
        object.__setattr__(self, "size", int(self.size))

    @property
    def scale(self) -> tuple[float, float]:
        """Model pixels per native column and per native row."""
        x0, y0, x1, y1 = self.box
        return self.size / (x1 - x0), self.size / (y1 - y0)

    def to_model(self, xy: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return model coordinates of native points; (..., 2) -> (..., 2)."""
        return (np.asarray(xy, dtype=np.float64) - self.box[:2]) * self.scale

    def sees(self, x: float, y: float) -> bool:
        """Tell whether a native point lies in the crop."""
        x0, y0, x1, y1 = self.box
        return x0 <= x <= x1 and y0 <= y <= y1

    @classmethod
    def whole(cls, frame_shape: tuple[int, int], frame_spacing: tuple[float, float], size: int) -> FrameCrop:
        """Return a crop of the whole frame, centered in a square in mm: isotropic, with the shorter side
        padded."""
        rows, columns = frame_shape
        row_mm, column_mm = frame_spacing
        side = max(rows * row_mm, columns * column_mm)
        return cls(
            frame_shape,
            frame_spacing,
            _square(((columns - 1) / 2, (rows - 1) / 2), side, frame_spacing),
            size,
        )

    @classmethod
    def around(
        cls,
        box_native: tuple[float, float, float, float],
        frame_shape: tuple[int, int],
        frame_spacing: tuple[float, float],
        size: int,
        context: float = 2.0,
        minimum: float | None = None,
    ) -> FrameCrop:
        """Return a crop around a region, square in mm, for a small structure in a large frame.

        Its side is `context` times the region's longer side in mm, at least `minimum` of the finer native
        pixels and at most the side of `whole`. It is centered on the region, then moved so that it shows as
        little as possible from outside the frame; the whole region stays in it.

        Args:
            box_native: (x0, y0, x1, y1), any two opposite corners in native pixels; it is cut at the frame.
            frame_shape: (rows, columns).
            frame_spacing: (row mm, column mm).
            size: side of the model's input.
            context: at least 1.
            minimum: least side in native pixels; None is size / 4, as more than 4 times magnification shows
                only blur.

        Raises:
            InputError: `bad_view`.
        """
        if len(box_native) != 4 or not all(math.isfinite(value) for value in box_native):
            raise _bad_crop(_("The region {region} is not made of finite numbers.").format(region=box_native))
        if not (math.isfinite(context) and context >= 1):
            raise _bad_crop(
                _("A context of {context} cannot be used; give 1 or more.").format(context=context)
            )
        least = size / 4 if minimum is None else float(minimum)
        if not (math.isfinite(least) and least >= 0):
            raise _bad_crop(
                _("A smallest region of {minimum} pixels cannot be used.").format(minimum=minimum)
            )
        rows, columns = frame_shape
        row_mm, column_mm = frame_spacing
        x0, x1 = (min(max(x, -0.5), columns - 0.5) for x in sorted((box_native[0], box_native[2])))
        y0, y1 = (min(max(y, -0.5), rows - 0.5) for y in sorted((box_native[1], box_native[3])))
        side = context * max((x1 - x0) * column_mm, (y1 - y0) * row_mm)
        side = max(side, least * min(row_mm, column_mm))
        side = min(side, max(rows * row_mm, columns * column_mm))
        center = (
            _inside((x0 + x1) / 2, side / column_mm, columns),
            _inside((y0 + y1) / 2, side / row_mm, rows),
        )
        return cls(frame_shape, frame_spacing, _square(center, side, frame_spacing), size)


def _square(
    center: tuple[float, float], side: float, spacing: tuple[float, float]
) -> tuple[float, float, float, float]:
    x, y = center
    half_x, half_y = side / spacing[1] / 2, side / spacing[0] / 2
    return x - half_x, y - half_y, x + half_x, y + half_y


def _inside(center: float, length: float, count: int) -> float:
    """Return the center of `length` pixels, moved so that they lie in 0..count; the middle if they are
    more."""
    if length >= count:
        return (count - 1) / 2
    return min(max(center, length / 2 - 0.5), count - 0.5 - length / 2)


def _bad_crop(sentence: Words) -> InputError:
    return InputError("bad_view", sentence, _("Choose another region of the slice."))
