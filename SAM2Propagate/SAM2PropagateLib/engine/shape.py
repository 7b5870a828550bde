"""What the shapes on keyframes tell of the frames between them, whatever the model sees there.

Masks are compared as signed distances to their edge in pixels of the logit grid, inside above 0. Blending
those of two slices is shape-based interpolation (Raya and Udupa, "Shape-based interpolation of
multidimensional objects", 1990); here both are first moved onto their common path.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import ndimage

# Signed distances beyond this many pixels say nothing more.
_LIMIT = 8.0

# How steeply a structure closes before a frame on which it is absent: most structures have blunt ends.
_CLOSING = 4


def depth_inside(mask: torch.Tensor) -> torch.Tensor:
    """Return distance of each pixel of a mask, bool (rows, columns), to the nearest one outside; 0 outside:
    float32.

    Exact, and on the mask's device. A mask that fills all has no outside: it is as deep as it is large.
    """
    if mask.device.type == "cpu" and not mask.all():
        # Ten times as fast there.
        return torch.from_numpy(ndimage.distance_transform_edt(mask.numpy())).float()
    return _depth_by_search(mask)


def _depth_by_search(mask: torch.Tensor) -> torch.Tensor:
    """Return the same by comparing each pixel with its row and then its column: a few large operations."""
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
    """Return distance of each pixel of a mask, bool (rows, columns), to its edge: inside above 0, outside
    below."""
    return depth_inside(mask) - depth_inside(~mask) - torch.where(mask, 0.5, -0.5)


@dataclass(frozen=True, eq=False)
class Shape:
    """A mask, on its device.

    Attributes:
        distance: float32 (rows, columns), its signed distances.
        center: float32 (2,), row and column; of an empty mask it means nothing.
        is_there: float32 (), 1, or 0 where the mask is empty.
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
        """Return the signed distances with the center elsewhere."""
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
    """Return signed distances of the shape on the way from one to another: float32 (rows, columns).

    All 0 where one of the two is empty: nothing leads from one to the other then.

    Args:
        share: how much of the way is done, 0 to 1.
    """
    center = (1 - share) * left.center + share * right.center
    distance = (1 - share) * left.moved(center) + share * right.moved(center)
    return distance.clamp(-_LIMIT, _LIMIT) * left.is_there * right.is_there


def depth(logits: torch.Tensor) -> torch.Tensor:
    """Return how many pixels deep a mask is at its deepest, float32 (); 0 for an empty one."""
    return depth_inside(logits > 0).max()


def closed(logits: torch.Tensor, too_deep: torch.Tensor, share: float) -> torch.Tensor:
    """Return a mask before a frame on which its structure is absent, without what would still be there.

    Args:
        logits: float32 (rows, columns).
        too_deep: float32 (), how deep the mask still is where it should have closed.
        share: how much of the way to there is done, 0 to 1.
    """
    # Half a pixel less, as in `signed_distance`.
    stays = depth_inside(logits > 0) - 0.5 > too_deep * share**_CLOSING
    return torch.where(stays, logits, -logits.abs())
