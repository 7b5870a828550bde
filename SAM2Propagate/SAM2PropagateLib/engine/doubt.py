"""Estimates how little a propagated mask should be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

# How often the end of a segment is wrong on the first frame without it, and the factor from frame to frame;
# measured as in `doubt_of`.
_LOST, _FADES = 0.62, 0.82


@dataclass(frozen=True)
class Evidence:
    """The evidence for and against a mask.

    Attributes:
        iou: the model's estimate of the mask's IoU, 0 to 1.
        object_score: logit that the segment is on the frame.
        agreement: mean Dice of the mask and the two sides' masks, weighted as they are blended, or of the
            model's mask and its closed form before an absent mark; 1 for a single side.
        sharpness: share of the mask's pixels whose logit is clearly away from 0, 0 to 1.
        is_cut: whether the mask reaches an edge of the crop that is not the frame's edge.
        lost: frames without a trace of the segment in a row, this one included; 0 where there is a mask.
        is_gap: whether both sides have lost it, between two keyframes that show it.
    """

    iou: float
    object_score: float
    agreement: float = 1.0
    sharpness: float = 1.0
    is_cut: bool = False
    lost: int = 0
    is_gap: bool = False

    @staticmethod
    def read(
        figures: np.ndarray, *, is_cut: bool = False, lost: int = 0, is_between: bool = False
    ) -> Evidence:
        """Return the evidence of a propagated frame.

        Args:
            figures: what `figures_of` returned, read back.
            is_between: whether keyframes on both sides show the segment. See `Evidence` for the others.
        """
        iou, score, agreement, area, unsure, ended = figures.tolist()
        sharpness = area / (area + unsure) if area + unsure else 1.0
        lost = 0 if area else max(lost, round(ended))
        return Evidence(iou, score, agreement, sharpness, is_cut, lost, is_between and lost > 0)


def figures_of(
    logits: torch.Tensor,
    iou: torch.Tensor,
    score: torch.Tensor,
    agreement: torch.Tensor | None = None,
    ended: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the figures of a frame for `Evidence.read`, on the device: float32 (6,).

    Args:
        logits: (4h, 4w). The others are single numbers; see `Evidence`.
        ended: over how many frames the segment has been ended by an elder front; None: by none.
    """
    area, unsure = (logits > 0).sum(), (logits.abs() < 1).sum()
    agreed = torch.ones_like(iou) if agreement is None else agreement
    over = torch.zeros_like(iou) if ended is None else ended
    return torch.stack([part.float() for part in (iou, score, agreed, area, unsure, over)])


def overlap(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return Dice of the masks of two logits of the same shape, 0 to 1, on the device; 1 where both are
    empty."""
    first, second = one > 0, other > 0
    total = first.sum() + second.sum()
    return torch.where(total > 0, 2 * (first & second).sum() / total, 1.0)


def doubt_of(evidence: Evidence) -> float:
    """Return doubt in [0, 1]: 0 sure, 1 not to be trusted.

    Roughly the chance that the mask's Dice is below 0.8. On 14 structures that nothing was learned from or
    chosen on, with motion, it was below on 2 of 58 masks with a doubt under 0.3, on 5 % of those from 0.3 to
    0.4, 22 % from 0.4 to 0.5, 42 % from 0.5 to 0.6 and 76 % of those above 0.8. Of empty masks it says too
    little: 19 of 109 with a doubt under 0.1 missed the structure, and 32 of 120 with one from 0.1 to 0.4
    (Testing/benchmarks/results/2026-11-30-accuracy-int8.md; 2026-11-30-doubt.md has what else was tried).
    """
    # Hardly any structure is in two pieces.
    if evidence.is_cut or evidence.is_gap:
        return 1.0
    presence = 1 / (1 + math.exp(-max(-30.0, min(30.0, evidence.object_score))))
    undecided = 1 - abs(2 * presence - 1)
    trust = max(0.0, min(1.0, evidence.iou)) if presence > 0.5 else 1.0
    trust *= evidence.agreement * evidence.sharpness
    end = _LOST * _FADES ** (evidence.lost - 1) if evidence.lost else 0.0
    return max(end, 0.0, min(1.0, 1 - trust * (1 - undecided)))
