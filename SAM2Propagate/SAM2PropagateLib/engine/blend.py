"""Where two keyframes meet: one mask out of the forward and the backward one."""

from __future__ import annotations

import torch

from SAM2PropagateLib.engine.front import Tracked
from SAM2PropagateLib.engine.shape import Shape, between

# Beyond this a logit says nothing more: without a limit one sure side would always outvote the other.
_LIMIT = 8.0

# Logits per pixel that the keyframes' shapes count at most.
_SHAPE_WEIGHT = 2.0


def confidence(tracked: Tracked) -> torch.Tensor:
    """Return how far one side may be trusted, in (0, 1]: its predicted IoU."""
    return tracked.iou.clamp(min=0.05)


def disagreement(left: Tracked, right: Tracked) -> torch.Tensor:
    """Return how much of what either side found only one of them found, 0 to 1."""
    one, other = left.logits > 0, right.logits > 0
    either = (one | other).sum()
    return torch.where(either > 0, 1 - (one & other).sum() / either, 0.0)


def blended(
    left: Tracked | None,
    right: Tracked | None,
    from_left: int,
    from_right: int,
    shapes: tuple[Shape, Shape] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the logits of a frame from one or both sides.

    Where the sides disagree, the shape on the way between those on the keyframes decides with them: the more,
    the less they agree, up to half.

    Args:
        left: the side that came forward, `from_left` frames from its keyframe; or None.
        right: the side that came backward, `from_right` frames from its keyframe; or None.
        shapes: on the left and the right keyframe; None: unknown.

    Returns:
        Logits (float32, 4h x 4w), predicted IoU and object score, each weighted by nearness and confidence.
        Nothing of it is read back from the device.
    """
    if left is None or right is None:
        only = left if left is not None else right
        assert only is not None
        return only.logits.float(), only.iou, only.object_score
    weight_left = confidence(left) * from_right
    weight_right = confidence(right) * from_left
    share = weight_left / (weight_left + weight_right)
    logits = share * left.logits.float().clamp(-_LIMIT, _LIMIT)
    logits = logits + (1 - share) * right.logits.float().clamp(-_LIMIT, _LIMIT)
    if shapes is not None:
        way = from_left / (from_left + from_right)
        # Beside a keyframe its own side sees more than any shape on the way to another one.
        far = min(1.0, 8 * way * (1 - way))
        trust = _SHAPE_WEIGHT * far * (2 * disagreement(left, right)).clamp(max=1.0)
        logits = logits + trust * between(*shapes, way)
    iou = share * left.iou + (1 - share) * right.iou
    score = share * left.object_score + (1 - share) * right.object_score
    return logits, iou, score
