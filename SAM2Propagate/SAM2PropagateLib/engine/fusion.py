"""Fuses the model's mask of a frame with the mask of the frame before, carried along the image's motion.

The model knows what the structure looks like and where its edge is; the motion knows where the previous mask
has moved. The model's estimate of its mask's IoU decides how much it counts: it is low where the model has
lost a structure that the motion still holds. Near the edge of both together, the appearance of the pixels
counts, too. Last, the mask's edge is drawn to the edges of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from SAM2PropagateLib.engine.appearance import Appearance, gray_of, near_edge
from SAM2PropagateLib.engine.family import Decoded
from SAM2PropagateLib.engine.imaging import resized
from SAM2PropagateLib.engine.motion import SIDE, Flow
from SAM2PropagateLib.engine.transfer import uploaded

# With the first predicted IoU the model does not count, with the second it has its largest share. These and
# the other constants were chosen on the training volumes, but for the rule that a lost model does not count.
_LOST, _SURE = 0.2, 0.8
_MOST = 0.6

# Logits are limited to this, as otherwise one sure frame would outvote all later ones.
_LIMIT = 6.0

# The object score of a segment that must be there, but that the model does not find.
_BARELY = 0.01

# Carried masks are sharpened by this factor on each frame, as each resampling blurs them a little.
_CRISPER = 1.15

# Masks are smoothed over so many pixels of the pictures in each direction. Where the variance of the gray
# values there is well above the second constant, the picture has an edge, and nothing is smoothed across it.
_OVER, _EDGE = 4, 3e-3

# How thick a mask has to be, in pixels of the pictures, as the radius of a disc: up to the first it is not
# smoothed, up to the second it gets back all that smoothing takes away, from the third on nothing.
_THIN, _SMALL, _LARGE = 5.0, 12.0, 24.0


@dataclass(frozen=True, eq=False)
class Carried:
    """What is carried along the motion, on the device.

    Attributes:
        mask: float32 (side, side), limited logits on the last frame.
        appearance: of the structure on the keyframe.
    """

    mask: torch.Tensor
    appearance: Appearance

    @staticmethod
    def of(decoded: Decoded, maps: Sequence[torch.Tensor]) -> Carried:
        """Return what is carried from a keyframe.

        Args:
            decoded: its mask, a batch of one.
            maps: of the frame, see `appearance.pixel_maps`.
        """
        side = max(SIDE, decoded.logits.shape[-1])
        mask = resized(decoded.logits.float(), side)[0].clamp(-_LIMIT, _LIMIT)
        return Carried(mask, Appearance.learned(maps, mask, decoded.iou[0].float()))


def fused(
    decoded: Decoded,
    before: Sequence[Carried],
    flows: Sequence[Flow],
    maps: Sequence[Sequence[torch.Tensor]],
) -> tuple[Decoded, list[Carried]]:
    """Return the model's answers for a batch of frames, fused with the masks that the motion carries there.

    Args:
        decoded: as the model tracked it, before absent segments lose their masks.
        before: what each entry carries from the frame before.
        flows: each entry's motion from the frame before.
        maps: of each entry's frame, see `appearance.pixel_maps`.

    Returns:
        The answers with fused logits (n, 4h, 4w), and what each entry carries to the next frame.
    """
    masks = torch.stack([one.mask for one in before])
    evidence = torch.stack([one.appearance.evidence(known) for one, known in zip(before, maps, strict=True)])
    side, grid = masks.shape[-1], decoded.logits.shape[-1]
    moved = _moved(masks, uploaded(torch.from_numpy(np.stack(flows)), masks.device).float())
    trust = ((decoded.iou - _LOST) / (_SURE - _LOST)).clamp(0, 1)
    share = (_MOST * trust)[:, None, None]
    found = resized(decoded.logits, side).clamp(-_LIMIT, _LIMIT)
    both = share * found + (1 - share) * moved
    both = both + near_edge(both) * resized(evidence, side)
    both = _along_edges(both.clamp(-_LIMIT, _LIMIT), torch.stack([gray_of(known) for known in maps]))
    crisp = (both * _CRISPER).clamp(-_LIMIT, _LIMIT)
    carried = [replace(one, mask=mask) for one, mask in zip(before, crisp, strict=True)]
    return replace(decoded, logits=_averaged(both, grid)), carried


def held(decoded: Decoded, holds: Sequence[bool]) -> Decoded:
    """Return the answers with segments present that are known to be there, even with a negative object score.

    Such a score becomes barely positive, so that the doubt is high.
    """
    if not any(holds):
        return decoded
    known = uploaded(torch.tensor(holds), decoded.object_score.device)
    score = torch.where(known, decoded.object_score.clamp(min=_BARELY), decoded.object_score)
    return replace(decoded, object_score=score)


def _along_edges(masks: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Return masks smoothed along the edges of their pictures, but not across them.

    Smoothing alone would let what is thin shrink from frame to frame. So what it takes away there is smoothed
    as well and added again (Tukey's "twicing"), and what is thinnest is left as it is.

    Args:
        masks: logits (n, side, side).
        pictures: float32 (n, SIDE, SIDE), see `appearance.gray_of`.
    """
    gray = resized(pictures, masks.shape[-1])
    mean, square = _means(torch.stack([gray, gray * gray]))
    variance = (square - mean * mean).clamp(min=0)
    smoothed = _guided(masks, gray, mean, variance)
    thickness = _thickness(masks > 0) * (SIDE / masks.shape[-1])
    given_back = ((_LARGE - thickness) / (_LARGE - _SMALL)).clamp(0, 1)
    smoothed = smoothed + given_back * _guided(masks - smoothed, gray, mean, variance)
    return torch.lerp(masks, smoothed, ((thickness - _THIN) / (_SMALL - _THIN)).clamp(0, 1))


def _thickness(masks: torch.Tensor) -> torch.Tensor:
    """Return twice the area of masks, bool (n, side, side), by the length of their edges: float32 (n, 1, 1).

    Of a disc that is the radius, of a long band the width, and of many parts that of each.
    """
    down, right = ((masks.diff(dim=axis) != 0).sum(dim=(1, 2), keepdim=True) for axis in (1, 2))
    # Steps between pixels make an edge of any direction longer by 4 / pi on the mean.
    return 2 * masks.sum(dim=(1, 2), keepdim=True) / ((down + right) * (torch.pi / 4)).clamp(min=1)


def _guided(
    maps: torch.Tensor, gray: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor
) -> torch.Tensor:
    """Return maps (n, side, side) smoothed where the gray values have no edges.

    This is the guided filter of "Guided Image Filtering" (He et al., 2010): around each pixel, a map is
    written as a linear function of the gray value, by least squares.

    Args:
        maps: float32 (n, side, side).
        gray: the gray values, likewise. mean, variance: of them, around each pixel.
    """
    maps_mean, product = _means(torch.stack([maps, gray * maps]))
    slope = (product - mean * maps_mean) / (variance + _EDGE)
    slope, offset = _means(torch.stack([slope, maps_mean - slope * mean]))
    # Where the picture is the same all around, it says nothing.
    return torch.lerp(maps, slope * gray + offset, variance / (variance + _EDGE))


def _means(maps: torch.Tensor) -> torch.Tensor:
    """Return the means of (k, n, side, side) over a square around each pixel; edges are continued outward."""
    reach = max(1, round(_OVER * maps.shape[-1] / SIDE))
    padded = F.pad(maps, (reach,) * 4, mode="replicate")
    rows = F.avg_pool2d(padded, (1, 2 * reach + 1), stride=1)
    return F.avg_pool2d(rows, (2 * reach + 1, 1), stride=1)


def _averaged(logits: torch.Tensor, side: int) -> torch.Tensor:
    """Return (n, side, side) from a grid that is as fine or finer; each value is the mean of those it
    covers."""
    times, rest = divmod(logits.shape[-1], side)
    if not rest:
        return F.avg_pool2d(logits[:, None], times)[:, 0]
    # Adaptive pooling would do this, but not on Apple's GPUs.
    return F.interpolate(
        logits[:, None], size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )[:, 0]


def _moved(masks: torch.Tensor, flows: torch.Tensor) -> torch.Tensor:
    """Return masks (n, side, side) moved by the flows (n, SIDE, SIDE, 2); edges are continued outward."""
    side = masks.shape[-1]
    flows = flows.movedim(-1, 1)
    if side != SIDE:
        flows = F.interpolate(flows, size=(side, side), mode="bilinear", align_corners=False) * (side / SIDE)
    places = torch.arange(side, device=masks.device, dtype=torch.float32)
    x, y = places + flows[:, 0], places[:, None] + flows[:, 1]
    # Clamped here, as Apple's GPUs lack grid_sample's padding mode "border".
    where = (torch.stack([x, y], dim=-1) * (2 / (side - 1)) - 1).clamp(-1, 1)
    return F.grid_sample(masks[:, None], where, align_corners=True)[:, 0]
