"""Blends the forward and the backward mask of a frame between two keyframes."""

from __future__ import annotations

import torch

from SAM2PropagateLib.engine.doubt import overlap
from SAM2PropagateLib.engine.front import Tracked
from SAM2PropagateLib.engine.shape import Shape, between

# Logits are limited to this, as otherwise one sure side would always outvote the other.
_LIMIT = 8.0

# The most that the keyframes' shapes count, in logits per pixel.
_SHAPE_WEIGHT = 2.0


def confidence(tracked: Tracked) -> torch.Tensor:
    """Return how much one side is trusted, in (0, 1]: its predicted IoU."""
    return tracked.iou.clamp(min=0.05)


def disagreement(left: Tracked, right: Tracked) -> torch.Tensor:
    """Return the share of both sides' pixels that only one side found, 0 to 1."""
    one, other = left.logits > 0, right.logits > 0
    either = (one | other).sum()
    return torch.where(either > 0, 1 - (one & other).sum() / either, 0.0)


def blended(
    left: Tracked | None,
    right: Tracked | None,
    from_left: int,
    from_right: int,
    shapes: tuple[Shape, Shape] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return the logits of a frame from one or both sides.

    Where the sides disagree, a shape between those of the keyframes counts, too: up to half, and more the
    less they agree.

    Args:
        left: the side that came forward, `from_left` frames from its keyframe; or None.
        right: the side that came backward, `from_right` frames from its keyframe; or None.
        shapes: on the left and the right keyframe; None: unknown.

    Returns:
        Logits (float32, 4h x 4w), predicted IoU and object score, each weighted by nearness and confidence,
        and how well the result agrees with both sides, weighted likewise: mean Dice, or None for a single
        side. All on the device.
    """
    if left is None or right is None:
        only = left if left is not None else right
        assert only is not None
        return only.logits.float(), only.iou, only.object_score, None
    weight_left = confidence(left) * from_right
    weight_right = confidence(right) * from_left
    share = weight_left / (weight_left + weight_right)
    logits = share * left.logits.float().clamp(-_LIMIT, _LIMIT)
    logits = logits + (1 - share) * right.logits.float().clamp(-_LIMIT, _LIMIT)
    if shapes is not None:
        way = from_left / (from_left + from_right)
        # Next to a keyframe its own side knows more than a shape between two keyframes.
        far = min(1.0, 8 * way * (1 - way))
        trust = _SHAPE_WEIGHT * far * (2 * disagreement(left, right)).clamp(max=1.0)
        logits = logits + trust * between(*shapes, way)
    iou = share * left.iou + (1 - share) * right.iou
    score = share * left.object_score + (1 - share) * right.object_score
    # A side that has lost the segment says little against one that has not.
    agreement = share * overlap(logits, left.logits) + (1 - share) * overlap(logits, right.logits)
    return logits, iou, score, agreement
