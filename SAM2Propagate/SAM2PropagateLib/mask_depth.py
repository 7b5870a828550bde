"""Finds how deep pixels lie in a mask, its deepest pixel, and whether a point is at it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]


def depth_inside(mask: BoolArray) -> npt.NDArray[np.float64]:
    """Return the distance of each pixel of a (rows, columns) mask to the nearest pixel outside it; 0 outside.

    Pixels beyond the border of the frame are outside.
    """
    from scipy import ndimage  # late: it is slow to import, and few need it

    depth: npt.NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return depth


def innermost_point(mask: BoolArray) -> tuple[float, float]:
    """Return the deepest pixel (x, y) of a (rows, columns) mask that is not empty; the first of several."""
    depth = depth_inside(mask)
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column), float(row)


def is_meant(mask: BoolArray, x: float, y: float) -> bool:
    """Tell whether a point, in pixels, lies in a (rows, columns) mask or near it: no farther away than the
    radius of a disc of the mask's area."""
    rows, columns = np.nonzero(mask)
    radius = np.sqrt(len(rows) / np.pi)
    return bool(len(rows) and np.hypot(columns - x, rows - y).min() <= max(radius, 1))


def pixel_at(shape: tuple[int, ...], x: float, y: float) -> tuple[int, int]:
    """Return the row and column of a point's pixel; of the nearest one if the point lies outside."""
    return min(max(round(y), 0), shape[0] - 1), min(max(round(x), 0), shape[1] - 1)
