"""What the shapes on keyframes tell of the frames between them, whatever the model sees there.

Masks are compared as signed distances to their edge in pixels of the logit grid, inside above 0. Blending
those of two slices is shape-based interpolation (Raya and Udupa, "Shape-based interpolation of
multidimensional objects", 1990); here both are first moved onto their common path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

# Signed distances beyond this many pixels say nothing more.
_LIMIT = 8.0

# How steeply a structure closes before a frame on which it is absent: most structures have blunt ends.
_CLOSING = 4


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel of a mask, bool (rows, columns), to its edge: inside above 0, outside below."""
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    return np.asarray(inside - outside - np.where(mask, 0.5, -0.5))


@dataclass(frozen=True, eq=False)
class Shape:
    """A mask that is not empty: its signed distances, and its centre (row, column)."""

    distance: np.ndarray
    center: np.ndarray

    @staticmethod
    def of(logits: torch.Tensor) -> Shape | None:
        """The shape of mask logits (rows, columns); None where there is nothing."""
        mask = (logits > 0).cpu().numpy()
        if not mask.any():
            return None
        return Shape(signed_distance(mask), np.array(ndimage.center_of_mass(mask)))

    def moved(self, center: np.ndarray) -> np.ndarray:
        """The signed distances with the centre elsewhere."""
        moved = ndimage.shift(self.distance, center - self.center, order=1, mode="nearest")
        return np.asarray(moved)


def between(left: Shape, right: Shape, share: float) -> torch.Tensor:
    """Signed distances of the shape on the way from one to another: float32 (rows, columns).

    Args:
        share: how much of the way is done, 0 to 1.
    """
    center = (1 - share) * left.center + share * right.center
    distance = (1 - share) * left.moved(center) + share * right.moved(center)
    return torch.from_numpy(np.clip(distance, -_LIMIT, _LIMIT)).float()


def depth(logits: torch.Tensor) -> float:
    """How many pixels deep a mask is at its deepest; 0 for an empty one."""
    mask = (logits > 0).cpu().numpy()
    return float(ndimage.distance_transform_edt(mask).max()) if mask.any() else 0.0


def closed(logits: torch.Tensor, too_deep: float, share: float) -> torch.Tensor:
    """A mask before a frame on which its structure is absent, without what would still be there.

    Args:
        logits: float32 (rows, columns).
        too_deep: how deep the mask still is where it should have closed.
        share: how much of the way to there is done, 0 to 1.
    """
    mask = (logits > 0).cpu().numpy()
    lost = too_deep * share**_CLOSING
    if not lost or not mask.any():
        return logits
    stays = torch.from_numpy(signed_distance(mask) > lost).to(logits.device)
    return torch.where(stays, logits, -logits.abs())
