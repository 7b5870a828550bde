"""What an answer is measured by: its mask, the quality it claims, whether it says that anything is there."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from SAM2PropagateLib.training.recipe import LossWeights
from SAM2PropagateLib.training.rollout import Answer


def is_present(target: torch.Tensor) -> torch.Tensor:
    """Tell whether each target (batch, 4h, 4w) shows the structure: bool (batch,)."""
    return target.flatten(1).max(dim=1).values >= 0.5


def answer_loss(
    answer: Answer, target: torch.Tensor, counts: torch.Tensor, weights: LossWeights
) -> torch.Tensor:
    """Return the mean loss of a batch of answers.

    Args:
        target: float32 (batch, 4h, 4w), the share of each logit's pixel that the structure covers.
        counts: (batch,) what each clip counts on this frame; 0: not at all.
    """
    present = is_present(target).float()
    wanted = target[:, None].expand_as(answer.masks)
    cross = F.binary_cross_entropy_with_logits(answer.masks, wanted, reduction="none").mean(dim=(2, 3))
    found = torch.sigmoid(answer.masks)
    common = (found * wanted).sum(dim=(2, 3))
    # The constant keeps an empty frame, and a structure of a few pixels, from ruling the batch.
    dice = 1 - (2 * common + 4) / (found.sum(dim=(2, 3)) + wanted.sum(dim=(2, 3)) + 4)
    mask_loss = weights.mask * cross + weights.dice * dice * present[:, None]
    rows = torch.arange(len(target), device=target.device)
    # The candidate that the model would show, and the one that is best: otherwise a good candidate could
    # stay unchosen, or a chosen one stay bad.
    of_masks = (mask_loss[rows, answer.chosen] + mask_loss.min(dim=1).values) / 2

    hard, truth = answer.masks > 0, wanted >= 0.5
    union = (hard | truth).sum(dim=(2, 3)).float()
    iou = (hard & truth).sum(dim=(2, 3)).float() / union.clamp(min=1)
    of_ious = (answer.ious - iou.detach()).abs().mean(dim=1) * present
    of_presence = F.binary_cross_entropy_with_logits(
        answer.score[:, 0],
        present,
        reduction="none",
        pos_weight=torch.tensor(weights.missed, device=target.device),
    )
    total = of_masks + weights.iou * of_ious + weights.present * of_presence
    return (total * counts).sum() / counts.sum().clamp(min=1)
