"""Tightens a lasso to the edge that the model sees, near the line that was drawn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from SAM2PropagateLib.mask_depth import depth_inside

BoolArray = npt.NDArray[np.bool_]

# How far the edge may move outwards and inwards, as shares of the radius of a circle of the same area. More
# inwards, as a lasso is drawn around the structure.
REACH_OUT, REACH_IN = 0.05, 0.5
# Below this Dice with the drawn shape, the model's answer is something else.
LEAST_AGREEMENT = 0.5


def tightened(drawn: BoolArray, answer: BoolArray) -> BoolArray | None:
    """Return the model's mask, limited to pixels near the line that was drawn.

    Args:
        drawn: bool (rows, columns), the inside of the lasso, not empty.
        answer: bool (rows, columns), the model's mask for it.

    Returns:
        bool (rows, columns); None if the answer differs too much from the lasso.
    """
    radius = float(np.sqrt(drawn.sum() / np.pi))
    near = answer & (ndimage.distance_transform_edt(~drawn) <= REACH_OUT * radius)
    if 2 * (near & drawn).sum() < LEAST_AGREEMENT * (near.sum() + drawn.sum()):
        return None
    held: BoolArray = near | (depth_inside(drawn) > REACH_IN * radius)
    return held
