"""Clips: frames in the order in which they are tracked, with the prompt on the first one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage

from SAM2PropagateLib.evaluation.simulated_user import box_around
from SAM2PropagateLib.mask_depth import innermost_point
from SAM2PropagateLib.training.features import FrameStock
from SAM2PropagateLib.training.looks import Look
from SAM2PropagateLib.training.recipe import Recipe

BOX, CLICK, CLICKS, MASK = "box", "click", "clicks", "mask"


@dataclass(frozen=True)
class ClipPlan:
    """What the clips of one batch have in common.

    Attributes:
        prompt: kind of the keyframe's prompt.
        warm: frames tracked after the keyframe without learning from them, to get far from it.
        length: frames learned from, the keyframe not counted.
        slots: spatial memories in use, the keyframe's included.
        pointers: object pointers in use.
    """

    prompt: str
    warm: int
    length: int
    slots: int
    pointers: int


@dataclass(frozen=True)
class Clip:
    """Frames (warm + length + 1, keyframe first), their masks bool (n, size, size) and what each counts."""

    frames: FrameStock
    masks: torch.Tensor
    weights: list[float]


def draw_plan(recipe: Recipe, rng: np.random.Generator, slots: int, pointers: int) -> ClipPlan:
    """Return the common traits of a batch of clips; `slots` and `pointers` are what the model can use."""
    prompt = str(rng.choice([BOX, CLICK, CLICKS, MASK], p=[0.5, 0.1, 0.15, 0.25]))
    warm = int(rng.choice(recipe.warm))
    fewer = rng.random() < 0.15
    return ClipPlan(
        prompt,
        warm,
        recipe.length,
        int(rng.integers(2, slots + 1)) if fewer and slots > 2 else slots,
        int(rng.integers(3, pointers + 1)) if fewer and pointers > 3 else pointers,
    )


def draw_clip(look: Look, plan: ClipPlan, others: list[Look], rng: np.random.Generator) -> Clip:
    """Return a clip from a look: a keyframe somewhere in the structure, then one way, often past its end.

    Args:
        others: looks at other structures, for frames that do not show this one.
    """
    filled = np.flatnonzero(look.areas)
    large = filled[look.areas[filled] >= max(12, 0.2 * look.areas.max())]
    step = int(rng.choice([1, 2, 3], p=[0.75, 0.2, 0.05]))
    total = plan.warm + plan.length
    direction = 1 if rng.random() < 0.5 else -1
    end = int(filled[-1] if direction > 0 else filled[0])
    roll = rng.random()
    if roll < 0.3:
        keyframe = int(look.areas.argmax())
    elif roll < 0.5:
        # So that the structure's end falls among the frames learned from.
        before_end = plan.warm + int(rng.integers(0, plan.length))
        keyframe = int(large[np.abs(large - (end - direction * step * before_end)).argmin()])
    else:
        # As often on its way to a larger slice: otherwise what is learned is that masks shrink.
        keyframe = int(rng.choice(large))
    path = [keyframe + direction * step * (n + 1) for n in range(total)]
    count = len(look.areas)
    weights = [1.0] * (total + 1)
    for n, frame in enumerate(path):
        if not 0 <= frame < count:
            # The volume, or what was encoded of it, ends here: the last frame again, not learned from.
            path[n] = path[n - 1] if n else keyframe
            weights[n + 1] = 0.0
    frames, masks = look.frames.pick([keyframe, *path]), look.masks[[keyframe, *path]]
    if others and rng.random() < 0.12:
        frames, masks = _with_stranger(frames, masks, weights, others, plan, rng)
    return Clip(frames, masks, weights)


def _with_stranger(
    frames: FrameStock,
    masks: torch.Tensor,
    weights: list[float],
    others: list[Look],
    plan: ClipPlan,
    rng: np.random.Generator,
) -> tuple[FrameStock, torch.Tensor]:
    """Return one frame replaced by a frame of another volume, on which the structure cannot be."""
    other = others[int(rng.integers(len(others)))]
    where = 1 + plan.warm + int(rng.integers(plan.length))
    stranger = other.frames.pick([int(rng.integers(len(other.areas)))])
    pieces = [frames.pick(list(range(where))), stranger, frames.pick(list(range(where + 1, len(masks))))]
    masks = masks.clone()
    masks[where] = False
    weights[where] = 1.0
    return FrameStock.join(pieces), masks


# --- prompts on the model's input


@dataclass(frozen=True)
class ClipPrompt:
    """Either points (n, 2) from the first pixel's center with labels (n,), or a mask, bool (size, size)."""

    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    mask: np.ndarray | None = None


def draw_prompt(kind: str, mask: np.ndarray, rng: np.random.Generator) -> ClipPrompt:
    """Return what a user might say of a structure: never quite the reference.

    Args:
        mask: bool (size, size), not empty.
    """
    if kind == MASK:
        return ClipPrompt(mask=_imperfect(mask, rng) if rng.random() < 0.6 else mask)
    if kind == BOX:
        x0, y0, x1, y1 = box_around(mask)
        if rng.random() < 0.6:
            width, height = x1 - x0, y1 - y0
            limit = len(mask) - 0.5
            moved = rng.normal(0, 0.04, 4) * [width, height, width, height] + rng.normal(0, 1, 4)
            x0, y0 = (float(np.clip(v, -0.5, limit - 1)) for v in (x0 + moved[0], y0 + moved[1]))
            x1 = float(np.clip(x1 + moved[2], x0 + 1, limit))
            y1 = float(np.clip(y1 + moved[3], y0 + 1, limit))
        return ClipPrompt(np.array([[x0, y0], [x1, y1]]), np.array([2, 3]))
    inside = np.argwhere(mask)[:, ::-1]
    points = [np.array(innermost_point(mask)) if rng.random() < 0.6 else inside[rng.integers(len(inside))]]
    labels = [1]
    if kind == CLICKS:
        ring = np.argwhere(ndimage.binary_dilation(mask, iterations=12) & ~mask)[:, ::-1]
        for _ in range(2):
            outside = len(ring) and rng.random() < 0.4
            source = ring if outside else inside
            points.append(source[rng.integers(len(source))])
            labels.append(0 if outside else 1)
    return ClipPrompt(np.array(points, float), np.array(labels))


def _imperfect(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a mask as somebody in a hurry would paint it: a little larger, smaller or wavy."""
    side = np.sqrt(mask.sum())
    distance = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    waves = ndimage.gaussian_filter(rng.normal(0, 1, mask.shape), max(2.0, side / 8))
    waves /= max(float(waves.std()), 1e-6)
    painted = distance + waves * 0.04 * side + rng.normal(0, 0.04) * side > 0
    return painted if painted.any() else mask
