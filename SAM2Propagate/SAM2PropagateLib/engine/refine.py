"""Clicks on a mask that is already there: each changes what it was aimed at, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def refined(
    mask: np.ndarray, proposal: np.ndarray, clicks: Sequence[tuple[float, float, bool]]
) -> np.ndarray:
    """The mask with those parts of the model's proposal that the clicks ask for.

    A positive click adds the connected piece of the proposal that it lies on, a negative click removes
    the connected piece of the mask that the proposal drops there. Everything else, hand-drawn detail
    above all, stays as it is.

    Args:
        mask: bool (rows, columns), what was there.
        proposal: bool (rows, columns), the model's mask from the old mask and all clicks.
        clicks: (x, y, positive) in native pixels.

    Returns:
        bool (rows, columns).
    """
    result = mask.copy()
    added, _ = ndimage.label(proposal & ~mask)
    removed, _ = ndimage.label(mask & ~proposal)
    for x, y, positive in clicks:
        column = int(np.clip(round(x), 0, mask.shape[1] - 1))
        row = int(np.clip(round(y), 0, mask.shape[0] - 1))
        parts = added if positive else removed
        if parts[row, column]:
            result[parts == parts[row, column]] = positive
    return result
