"""Learns on a keyframe how a structure's pixels differ from those around it, and tells them on other frames.

Each keyframe has a classifier of its own, with a weight for each channel of the model's finer features and of
the gray picture. The idea is from "Learning Fast and Robust Target Models for Video Object Segmentation"
(Robinson et al., 2020), which learns a small network while it tracks. Here the classifier is linear, and it
learns from the keyframe alone, in one step: least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from SAM2PropagateLib.engine.family import EncodedFrame
from SAM2PropagateLib.engine.imaging import resized
from SAM2PropagateLib.engine.motion import SIDE, Picture
from SAM2PropagateLib.engine.shape import depth_inside
from SAM2PropagateLib.engine.transfer import uploaded

# The constants below were chosen on the training volumes.

# It learns from pixels outside the mask up to this many radii from it. The radius is that of a circle with
# the mask's area, and at least this many pixels.
_AROUND, _LEAST_RADIUS = 0.5, 3.0
# Keeps the weights small, as a share of the channels' mean power.
_RIDGE = 1e-2
# A pixel counts less where the keyframe's mask is unsure of it: its logit, as a share of this.
_SURE = 6.0
# From a keyframe with the first predicted IoU nothing is learned, from one with the second all.
_POOR, _GOOD = 0.6, 0.8
# What its answer, about -1 to 1, is worth in logits, and at most. Evidence for the structure counts less than
# evidence against it: what lies next to a structure often looks like it.
_GAIN, _LIMIT, _FOR = 5.4, 3.6, 0.5
# How far from a mask's edge it counts, in pixels of the pictures. Farther away, other structures may look the
# same.
_REACH = 3

# Gray values are smoothed with these standard deviations, in pixels. With all but the first, their spread is
# measured, too.
_SMOOTHED = (1.0, 2.0, 4.0)
# Soft bins of the smoothed gray values, which are about -2 to 2.
_BINS, _BIN_WIDTH = 9, 0.35


@dataclass(frozen=True, eq=False)
class Appearance:
    """What tells a structure from its surroundings, on the model's device.

    Attributes:
        weights: float32 (channels,), of all maps of a frame, one after the other.
    """

    weights: torch.Tensor

    @staticmethod
    def learned(maps: Sequence[torch.Tensor], logits: torch.Tensor, iou: torch.Tensor) -> Appearance:
        """Learn from a keyframe. From an empty mask, or one that fills its grid, nothing is learned.

        Args:
            maps: of the frame, see `pixel_maps`.
            logits: float32 (side, side), the keyframe's mask.
            iou: float32 (), its predicted IoU.
        """
        pixels = torch.cat([resized(one, SIDE) for one in maps]).flatten(1)
        logits = resized(logits[None], SIDE)[0]
        mask = logits > 0
        worth = (_worth(mask) * (logits.abs() / _SURE).clamp(max=1)).flatten()
        weighted = pixels * worth
        power = weighted @ pixels.T
        # With the last term there is a solution even if nothing is worth anything.
        ridge = _RIDGE * power.diagonal().mean() + 1e-6
        power = power + ridge * torch.eye(len(power), device=power.device)
        wanted = weighted @ torch.where(mask, 1.0, -1.0).flatten()
        trust = ((iou - _POOR) / (_GOOD - _POOR)).clamp(0, 1)
        return Appearance(_solved(power, wanted) * trust)

    def evidence(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return logits that pixels of a frame belong to the structure, float32 (SIDE, SIDE).

        Args:
            maps: of the frame, see `pixel_maps`.
        """
        parts = self.weights.split([len(one) for one in maps])
        # Weighted before it is enlarged, which gives the same and is faster.
        found = [
            resized(torch.tensordot(part, one, 1)[None], SIDE) for part, one in zip(parts, maps, strict=True)
        ]
        evidence = (torch.cat(found).sum(0) * _GAIN).clamp(-_LIMIT, _LIMIT)
        return torch.where(evidence > 0, evidence * _FOR, evidence)


def pixel_maps(picture: Picture, features: EncodedFrame, device: torch.device) -> list[torch.Tensor]:
    """Return what is known of a frame's pixels, as maps (channels, side, side) in float32 on the device.

    Args:
        picture: of the frame.
        features: of the frame, on the device.
    """
    gray = uploaded(torch.from_numpy(picture), device).float() / 64 - 2
    both = torch.stack([gray, gray * gray])[:, None]
    smoothed = _smoothed(both)
    means, squares = smoothed[0], smoothed[1, 1:]
    spread = (squares - means[1:].square()).clamp(min=0).sqrt()
    centers = torch.linspace(-2, 2, _BINS, device=gray.device)[:, None, None]
    bins = torch.exp(-0.5 * ((means[0] - centers) / _BIN_WIDTH).square())
    known = torch.cat([gray[None], means, spread, bins, torch.ones_like(gray)[None]])
    return [known, *(one.float() for one in features.maps)]


def gray_of(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the gray picture among a frame's `pixel_maps`, float32 (SIDE, SIDE), about -2 to 2."""
    return maps[0][0]


def near_edge(masks: torch.Tensor) -> torch.Tensor:
    """Return which pixels are near the edge of their mask, float32 (n, side, side), 1 or 0.

    Args:
        masks: logits (n, side, side).
    """
    reach = max(1, round(_REACH * masks.shape[-1] / SIDE))
    inside = (masks > 0).float()[:, None]
    grown, grown_outside = (
        F.max_pool2d(part, 2 * reach + 1, stride=1, padding=reach) for part in (inside, 1 - inside)
    )
    return (grown * grown_outside)[:, 0]


def _worth(mask: torch.Tensor) -> torch.Tensor:
    """Return how much each pixel counts in learning: the structure as much as what is around it."""
    area = mask.sum()
    radius = (area / torch.pi).sqrt().clamp(min=_LEAST_RADIUS)
    around = ~mask & (depth_inside(~mask) < _AROUND * radius)
    is_usable = (area > 0) & ~mask.all()
    parts = [part / part.sum().clamp(min=1) for part in (mask.float(), around.float())]
    return (parts[0] + parts[1]) * is_usable


def _solved(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve a small system without waiting for the device, which checking for errors would do."""
    if matrix.device.type == "mps":
        # Not all versions of torch can do it there.
        return _solved(matrix.cpu(), right.cpu()).to(matrix.device)
    return torch.linalg.solve_ex(matrix, right)[0]


def _smoothed(pictures: torch.Tensor) -> torch.Tensor:
    """Return pictures (n, 1, side, side) smoothed with each Gaussian, (n, scales, side, side); edges are
    continued outward."""
    reach = round(3 * max(_SMOOTHED))
    places = torch.arange(-reach, reach + 1, device=pictures.device)
    kernels = torch.stack([torch.exp(-0.5 * (places / sigma).square()) for sigma in _SMOOTHED])
    kernels = (kernels / kernels.sum(dim=1, keepdim=True))[:, None]
    padded = F.pad(pictures, (reach,) * 4, mode="replicate")
    down = F.conv2d(padded, kernels[..., None])
    return F.conv2d(down, kernels[:, :, None], groups=len(_SMOOTHED))
