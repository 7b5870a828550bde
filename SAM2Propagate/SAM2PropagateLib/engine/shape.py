"""Interpolates shapes between keyframes, independently of the model.

Masks are compared as signed distances to their edge in pixels of the logit grid, inside above 0. Blending
those of two slices is shape-based interpolation (Raya and Udupa, "Shape-based interpolation of
multidimensional objects", 1990); here both are first moved onto their common path.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import ndimage

# Signed distances are limited to this many pixels.
_LIMIT = 8.0

# How steeply a structure closes before a frame on which it is absent: most structures have blunt ends.
_CLOSING = 4


def depth_inside(mask: torch.Tensor) -> torch.Tensor:
    """Return the distance of each pixel of a mask, bool (rows, columns), to the nearest one outside it, as
    float32; 0 outside.

    It is exact, and on the mask's device. A mask that fills the grid is as deep as the grid is large.
    """
    if mask.device.type == "cpu" and not mask.all():
        # SciPy is ten times as fast on a CPU.
        return torch.from_numpy(ndimage.distance_transform_edt(mask.numpy())).float()
    return depth_by_search(mask)


def depth_by_search(mask: torch.Tensor) -> torch.Tensor:
    """Compute `depth_inside` from each pixel's row and then its column, in a few large operations."""
    rows, columns = mask.shape
    far = float(rows + columns)
    down, across = (torch.arange(count, device=mask.device) for count in (rows, columns))
    # First along each row: the squared distance to the nearest column outside.
    outside = torch.where(mask, far, 0.0)
    steps = (across[:, None] - across).abs().float()
    in_row = (outside[:, None, :] + steps).amin(dim=-1).square()
    # Then over the rows.
    return (in_row + (down[:, None, None] - down[:, None]).square()).amin(dim=1).sqrt().clamp(max=far)


def signed_distance(mask: torch.Tensor) -> torch.Tensor:
    """Return the distance of each pixel of a mask, bool (rows, columns), to its edge; inside above 0, outside
    below."""
    return depth_inside(mask) - depth_inside(~mask) - torch.where(mask, 0.5, -0.5)


@dataclass(frozen=True, eq=False)
class Shape:
    """A mask, on its device.

    Attributes:
        distance: float32 (rows, columns), its signed distances.
        center: float32 (2,), row and column; meaningless for an empty mask.
        is_there: float32 (), 1, or 0 for an empty mask.
    """

    distance: torch.Tensor
    center: torch.Tensor
    is_there: torch.Tensor

    @staticmethod
    def of(logits: torch.Tensor) -> Shape:
        """Return the shape of mask logits (rows, columns)."""
        mask = logits > 0
        area = mask.sum()
        places = [torch.arange(count, device=mask.device) for count in mask.shape]
        sums = [(mask.sum(dim=1 - axis) * place).sum() for axis, place in enumerate(places)]
        center = torch.stack(sums) / area.clamp(min=1)
        return Shape(signed_distance(mask), center, (area > 0).float())

    def moved(self, center: torch.Tensor) -> torch.Tensor:
        """Return the signed distances, moved to another center."""
        moved = self.distance
        for axis, shift in enumerate(center - self.center):
            last = moved.shape[axis] - 1
            where = (torch.arange(last + 1, device=moved.device) - shift).clamp(0, last)
            before = where.floor().long()
            share = where - before
            share = share if axis else share[:, None]
            after = moved.index_select(axis, (before + 1).clamp(max=last))
            moved = (1 - share) * moved.index_select(axis, before) + share * after
        return moved


def between(left: Shape, right: Shape, share: float) -> torch.Tensor:
    """Return signed distances of a shape between two others: float32 (rows, columns).

    All 0 if one of the two is empty.

    Args:
        share: 0 is the left shape, 1 the right one.
    """
    center = (1 - share) * left.center + share * right.center
    distance = (1 - share) * left.moved(center) + share * right.moved(center)
    return distance.clamp(-_LIMIT, _LIMIT) * left.is_there * right.is_there


def depth(logits: torch.Tensor) -> torch.Tensor:
    """Return a mask's greatest depth in pixels, float32 (); 0 for an empty one."""
    return depth_inside(logits > 0).max()


def closed(logits: torch.Tensor, too_deep: torch.Tensor, share: float) -> torch.Tensor:
    """Return a mask before an absent mark, reduced so that it closes toward the mark.

    Args:
        logits: float32 (rows, columns).
        too_deep: float32 (), the mask's depth next to the absent mark.
        share: how much of the way to the mark is done, 0 to 1.
    """
    # Half a pixel less, as in `signed_distance`.
    stays = depth_inside(logits > 0) - 0.5 > too_deep * share**_CLOSING
    return torch.where(stays, logits, -logits.abs())
