"""Looks: one structure of one volume as the model will see it, drawn at random and encoded once.

The image half of the model stays as it is, so its features are the training data: a look is encoded once and
serves many clips. What varies between looks is what cannot be varied afterwards: contrast, crop, zoom,
orientation, slice thickness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from SAM2PropagateLib.engine import crops, imaging
from SAM2PropagateLib.evaluation.metrics import BoolArray, frames_first
from SAM2PropagateLib.evaluation.simulated_user import box_around
from SAM2PropagateLib.evaluation.targets import LoadedTarget
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.training.features import FrameStock

# Frames of one look at most: the whole of most structures with what lies beyond their ends.
MOST_FRAMES = 28
# Frames beyond either end of the structure that a look shows if the volume has them.
_BEYOND = 8
# A structure that nowhere covers this many pixels of the model's input cannot be learned from.
_LEAST_PIXELS = 24


@dataclass(frozen=True)
class Look:
    """A look, ready to be cut into clips.

    Attributes:
        frames: consecutive frames.
        masks: bool (frames, size, size), the structure on the model's input.
        areas: pixels of each mask.
        owner: number of the patient that it is of.
    """

    frames: FrameStock
    masks: torch.Tensor
    areas: np.ndarray
    owner: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes in main memory."""
        return self.frames.nbytes + self.masks.nbytes + self.areas.nbytes


# Makes what is kept of float32 images (n, 3, size, size).
StockFrames = Callable[[torch.Tensor], FrameStock]


def draw_look(
    target: LoadedTarget,
    size: int,
    stock: StockFrames,
    rng: np.random.Generator,
    style: str = crops.STRETCHED,
) -> Look | None:
    """Return a look at a structure, drawn at random; None if what was drawn shows too little of it.

    Args:
        target: the volume and the structure's mask.
        size: side of the model's input.
        stock: encodes the frames.
        rng: decides everything.
        style: how a frame that is not square becomes the model's input; see `engine.crops`.
    """
    axis = draw_axis(target.frames, rng)
    frames = FrameStack(target.frames.array, target.geometry, axis, draw_window(target.frames.window, rng))
    masks = frames_first(target.mask, axis)
    chosen, thickness = _frames(masks, rng)
    areas = masks.sum(axis=(1, 2))
    # The crop is chosen by the prompted slice: mostly one where the structure is large.
    filled = np.flatnonzero(areas)
    prompted = (
        int(areas.argmax()) if rng.random() < 0.5 else int(rng.choice(filled, p=areas[filled] / areas.sum()))
    )
    crop = _crop(frames, masks[prompted], size, style, rng)
    tone = draw_tone(rng)
    images, seen = [], []
    for frame in chosen:
        slab = range(frame, min(frame + thickness, len(masks)))
        image = np.mean([frames.frame(one) for one in slab], axis=0)
        images.append(imaging.to_model_input([tone(image)], crop, torch.device("cpu"))[0])
        share = torch.stack(
            [imaging.mask_to_model(masks[one], crop, torch.device("cpu"))[0, 0] for one in slab]
        )
        seen.append(share.mean(0) >= 0.5)
    turn = draw_turn(rng)
    found = turn(torch.stack(seen))
    shown = found.sum(dim=(1, 2)).numpy()
    if shown.max() < _LEAST_PIXELS:
        return None
    return Look(stock(turn(torch.stack(images))), found, shown)


def draw_axis(frames: FrameStack, rng: np.random.Generator) -> int:
    """Return mostly the volume's own propagation axis; any, where the voxels are nearly cubes."""
    spacing = frames.geometry.spacing
    is_cubic = max(spacing) < 2 * min(spacing)
    if is_cubic and rng.random() < 0.4 and min(frames.geometry.shape_ijk) >= 16:
        return int(rng.integers(3))
    return frames.axis


def draw_window(window: Window, rng: np.random.Generator) -> Window:
    """Return a window near this one, drawn at random."""
    width = window.width * float(np.exp(rng.normal(0, 0.2)))
    return Window(width, window.level + float(rng.normal(0, 0.08)) * window.width)


def _frames(masks: BoolArray, rng: np.random.Generator) -> tuple[list[int], int]:
    """Return which frames a look shows, and of how many slices each is made."""
    filled = np.flatnonzero(masks.any(axis=(1, 2)))
    length = int(filled[-1] - filled[0]) + 1
    thickness = 1
    if length >= 12 and rng.random() < 0.15:
        thickness = int(rng.integers(2, max(3, min(5, length // 5))))
    first = max(0, int(filled[0]) - _BEYOND * thickness)
    last = min(len(masks) - 1, int(filled[-1]) + _BEYOND * thickness)
    frames = list(range(first, last + 1, thickness))
    if len(frames) > MOST_FRAMES:
        # A part of a long structure: one of its ends two times out of three.
        spare = len(frames) - MOST_FRAMES
        start = int(rng.choice([0, spare, int(rng.integers(spare + 1))]))
        frames = frames[start : start + MOST_FRAMES]
    return frames, thickness


def _crop(frames: FrameStack, mask: BoolArray, size: int, style: str, rng: np.random.Generator) -> FrameCrop:
    """Draw a crop like the engine's, with other amounts of context; now and then the whole frame."""
    whole = crops.whole_crop(frames, size, style)
    x0, y0, x1, y1 = box_around(mask)
    grow_x, grow_y = (float(rng.uniform(-0.1, 0.5)) * side for side in (x1 - x0, y1 - y0))
    shift_x, shift_y = float(rng.uniform(-0.5, 0.5)) * grow_x, float(rng.uniform(-0.5, 0.5)) * grow_y
    region = (
        x0 - grow_x / 2 + shift_x,
        y0 - grow_y / 2 + shift_y,
        x1 + grow_x / 2 + shift_x,
        y1 + grow_y / 2 + shift_y,
    )
    close = crops.close_crop(frames, size, region, style)
    return whole if rng.random() < 0.25 else close


def draw_tone(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """Draw gamma and noise, and now and then an inversion."""
    gamma = float(np.exp(rng.normal(0, 0.25)))
    noise = float(rng.uniform(0, 10)) if rng.random() < 0.4 else 0.0
    invert = rng.random() < 0.08
    seeds = np.random.default_rng(int(rng.integers(2**31)))

    def apply(image: np.ndarray) -> np.ndarray:
        value = 255.0 * (image / 255.0) ** gamma
        if noise:
            value = value + seeds.normal(0, noise, image.shape)
        value = 255.0 - value if invert else value
        return np.clip(np.rint(value), 0, 255).astype(np.uint8)

    return apply


def draw_turn(rng: np.random.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """Draw mirroring and quarter turns."""
    dims = [dim for dim in (-1, -2) if rng.random() < 0.5]
    transpose = rng.random() < 0.5

    def apply(stack: torch.Tensor) -> torch.Tensor:
        stack = stack.flip(dims) if dims else stack
        return stack.transpose(-1, -2).contiguous() if transpose else stack.contiguous()

    return apply


def coarse_target(masks: torch.Tensor, side: int) -> torch.Tensor:
    """Return masks (n, size, size) as the share of each of side x side logit pixels that they cover,
    float32."""
    return F.adaptive_avg_pool2d(masks[:, None].float(), side)[:, 0]
