"""How deep pixels lie in a mask, and where it is deepest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

BoolArray = npt.NDArray[np.bool_]


def depth_inside(mask: BoolArray) -> npt.NDArray[np.float64]:
    """Return distance of each pixel of a (rows, columns) mask to the nearest one outside it, in pixels; 0
    outside.

    Beyond the border of the frame all pixels are outside.
    """
    depth: npt.NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return depth


def innermost_point(mask: BoolArray) -> tuple[float, float]:
    """Return the deepest pixel (x, y) of a (rows, columns) mask that is not empty; the first in rows of
    several."""
    depth = depth_inside(mask)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column), float(row)


def pixel_at(shape: tuple[int, ...], x: float, y: float) -> tuple[int, int]:
    """Return the row and column of the pixel that a point lies on; of the nearest one if it lies outside."""
    return min(max(round(y), 0), shape[0] - 1), min(max(round(x), 0), shape[1] - 1)
