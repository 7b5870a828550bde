"""How little a propagated mask should be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against a mask.

    Attributes:
        iou: the model's own guess of the mask's IoU, 0 to 1.
        object_score: logit that the segment is on the frame.
        agreement: Dice of the masks that came from the two sides, or of what the model found and what was
            left of it before an absent mark; 1 where only one side came.
        sharpness: share of the mask's pixels whose logit is clearly away from 0, 0 to 1.
        is_cut: the mask reaches the edge of what the model sees, while the frame goes on beyond it.
    """

    iou: float
    object_score: float
    agreement: float = 1.0
    sharpness: float = 1.0
    is_cut: bool = False

    @staticmethod
    def of(
        logits: torch.Tensor, iou: float, score: float, agreement: float = 1.0, *, is_cut: bool = False
    ) -> Evidence:
        """The evidence of a propagated frame; logits are (4h, 4w)."""
        area = float((logits > 0).sum())
        unsure = float((logits.abs() < 1).sum())
        return Evidence(iou, score, agreement, area / (area + unsure) if area + unsure else 1.0, is_cut)


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Dice of the masks of two logits of the same shape, 0 to 1; 1 where both are empty."""
    first, second = one > 0, other > 0
    total = float(first.sum() + second.sum())
    return 2 * float((first & second).sum()) / total if total else 1.0


def doubt_of(evidence: Evidence) -> float:
    """Doubt in [0, 1]: 0 sure, 1 not to be trusted.

    Roughly the chance that the mask's Dice is below 0.8. Measured once, with the first bundled model on 623
    frames of labelled training volumes, it was below on none with a doubt under 0.3, on a third of those
    around 0.45 and on 85 % of those above 0.8.
    """
    if evidence.is_cut:
        return 1.0
    presence = 1 / (1 + math.exp(-max(-30.0, min(30.0, evidence.object_score))))
    undecided = 1 - abs(2 * presence - 1)
    trust = max(0.0, min(1.0, evidence.iou)) if presence > 0.5 else 1.0
    trust *= evidence.agreement * evidence.sharpness
    return max(0.0, min(1.0, 1 - trust * (1 - undecided)))
