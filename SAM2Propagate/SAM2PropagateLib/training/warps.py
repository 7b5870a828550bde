"""Looks made of one slice: any structure that the image half sees on it, bent from frame to frame.

Labeled volumes show few kinds of structures. The image half outlines many more, on any slice, and a slice
that is pulled about smoothly gives as many frames as wanted, on which the outline is known: the structure
drifts, bends, grows, shrinks and ends, and everything around it moves with it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from SAM2PropagateLib.engine import crops, imaging
from SAM2PropagateLib.engine.family import ModelSteps
from SAM2PropagateLib.evaluation.metrics import BoolArray
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.training.looks import Look, StockFrames, draw_axis, draw_tone, draw_turn, draw_window

# Outlines structures at points, float32 (n, 2) x y, of an image, float32 (1, 3, size, size): bool masks
# (size, size), the clear ones only.
Propose = Callable[[torch.Tensor, np.ndarray], "list[BoolArray]"]

_FRAMES = 20
# An outline that the image half itself doubts is not worth following.
_LEAST_IOU = 0.6
_LEAST_SHARE, _MOST_SHARE = 0.006, 0.3  # of the image that the structure covers
_POINTS, _ATTEMPTS = 16, 4


def proposer(steps: ModelSteps) -> Propose:
    """Return what a model's image half outlines at points."""

    def propose(image: torch.Tensor, points: np.ndarray) -> list[BoolArray]:
        features = steps.encode(image.to(steps.device))[0]
        positive = torch.ones(1, dtype=torch.int32, device=steps.device)
        found = []
        for point in torch.from_numpy(points).float().to(steps.device):
            decoded = steps.decode_prompts(features, point[None], positive)
            if float(decoded.iou) >= _LEAST_IOU:
                logits = decoded.logits[None]
                full = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
                found.append(_part_at(full[0, 0].cpu().numpy() > 0, point.round().int().tolist()))
        return found

    return propose


def _part_at(mask: BoolArray, point: list[int]) -> BoolArray:
    """Return the part of a mask that a point, x y, lies on; nothing, if it lies beside all."""
    parts, _ = ndimage.label(mask)
    at_point = parts[point[1], point[0]]
    return np.asarray(ndimage.binary_fill_holes((parts == at_point) & (at_point > 0)))


def draw_warped_look(
    volume: FrameStack,
    size: int,
    stock: StockFrames,
    propose: Propose,
    rng: np.random.Generator,
    style: str = crops.STRETCHED,
) -> Look | None:
    """Return a look at something on one slice of a volume; None if nothing was found there.

    Args:
        volume: the volume; what is labeled in it does not matter.
        size: side of the model's input.
        stock: encodes the frames.
        propose: outlines structures.
        rng: decides everything.
        style: how a frame that is not square becomes the model's input; see `engine.crops`.
    """
    window = draw_window(volume.window, rng)
    frames = FrameStack(volume.array, volume.geometry, draw_axis(volume, rng), window)
    tone = draw_tone(rng)
    for _ in range(_ATTEMPTS):
        image, mask = _scene(frames, size, propose, rng, style)
        if mask is not None:
            return _bent(image, mask, size, stock, tone, rng)
    return None


def _scene(
    frames: FrameStack, size: int, propose: Propose, rng: np.random.Generator, style: str
) -> tuple[torch.Tensor, BoolArray | None]:
    """Return a part of a slice, gray values in [0, 255] (1, 1, size, size), and what is outlined somewhere on
    it."""
    rows, columns = frames.geometry.frame_shape(frames.axis)
    native = frames.frame(int(rng.integers(frames.count)))
    # The crop of a box of this side; it shows `crops.CONTEXT` times as much.
    side = float(np.exp(rng.uniform(np.log(0.06), np.log(0.4)))) * max(rows, columns)
    x, y = float(rng.uniform(0, columns - 1)), float(rng.uniform(0, rows - 1))
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    crop = crops.close_crop(frames, size, box, style)
    shown = imaging.to_model_input([native], crop, torch.device("cpu"))
    gray = imaging.to_gray(shown)
    if float(gray.std()) < 8:  # air
        return gray, None
    inner = (crop.to_model(np.array([[0, 0], [columns - 1, rows - 1]])) - 0.5).clip(0, size - 1)
    points = rng.uniform(inner[0], inner[1], (_POINTS, 2))
    masks = [mask for mask in propose(shown, points) if _is_fit(mask)]
    return gray, masks[int(rng.integers(len(masks)))] if masks else None


def _is_fit(mask: BoolArray) -> bool:
    at_rim = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
    return bool(_LEAST_SHARE <= mask.mean() <= _MOST_SHARE and not at_rim)


def _bent(
    gray: torch.Tensor,
    mask: BoolArray,
    size: int,
    stock: StockFrames,
    tone: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
) -> Look:
    start = int(rng.integers(_FRAMES // 4, 3 * _FRAMES // 4))
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    distance = ndimage.gaussian_filter(outside - inside, 1.0)
    normal = np.stack(np.gradient(ndimage.gaussian_filter(distance, 2.0)))  # (2, size, size): y, x
    depth = max(1.0, float(-distance.min()))
    motion = _Motion(size, rng)
    sizes = {side: _Growth(depth, rng) for side in (-1, 1)}
    gain = np.cumsum(rng.normal(0, 0.01, _FRAMES))
    noise = float(rng.uniform(2, 8))
    with_it = gray[0, 0].numpy()
    without_it = _filled(with_it, mask)
    images, masks = [], []
    for n in range(_FRAMES):
        away = n - start
        eaten = sizes[1 if away >= 0 else -1].eaten(abs(away))
        where = motion.positions(away)  # (2, size, size): y, x of the starting slice
        here = _sampled(distance, where)
        pulled = _as_if_at(here, depth, eaten) - here
        where = where + np.stack([_sampled(part, where) for part in normal]) * pulled
        gone = eaten >= depth
        masks.append(np.zeros_like(mask) if gone else _sampled(mask.astype(np.float32), where) > 0.5)
        shown = _sampled(without_it if gone else with_it, where) * (1 + gain[n])
        shown = shown + ndimage.gaussian_filter(rng.normal(0, 2 * noise, shown.shape), 0.7)
        images.append(imaging.from_gray(tone(np.clip(shown, 0, 255))))
    turn = draw_turn(rng)
    found = turn(torch.from_numpy(np.stack(masks)))
    return Look(stock(turn(torch.cat(images))), found, found.sum(dim=(1, 2)).numpy())


def _filled(image: np.ndarray, mask: BoolArray) -> np.ndarray:
    """Return the picture without the structure: what lies around it continued into it."""
    grown = ndimage.binary_dilation(mask, iterations=2)
    y, x = ndimage.distance_transform_edt(grown, return_distances=False, return_indices=True)
    return np.where(grown, ndimage.gaussian_filter(image[y, x], 2.0), image)


def _as_if_at(distance: np.ndarray, depth: float, eaten: float) -> np.ndarray:
    """Return signed distances from the structure's edge (inside below 0) as those of the starting slice.

    The structure has lost `eaten` pixels all around (below 0: won), so that what was its edge lies at
    -eaten; what is inside is squeezed, what is around it is stretched as far as `reach`.
    """
    reach = depth + 16.0
    lost = min(eaten, depth)
    known = [-depth, -lost, reach] if lost < depth else [-depth, reach]
    meant = [-depth, 0.0, reach] if lost < depth else [0.0, reach]
    return np.where(distance < reach, np.interp(distance, known, meant), distance)


def _sampled(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(image, where, order=1, mode="nearest")


class _Motion:
    """Smooth movement of the whole picture: drift, turn, zoom, and two bends that come and go."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._middle = (size - 1) / 2
        self._grid = np.mgrid[:size, :size].astype(np.float32)
        speed = float(rng.uniform(0, 1))
        self._drift = rng.normal(0, 0.004 * size, 2) * speed
        self._turn = float(rng.normal(0, 0.012)) * speed
        self._zoom = float(rng.normal(0, 0.008)) * speed
        self._bends = [_bend(size, rng) for _ in range(2)]
        self._strength = rng.uniform(0.1, 0.5, 2) * (0.5 + speed)
        self._period = float(rng.uniform(16, 60))

    def positions(self, away: int) -> np.ndarray:
        """Return where the pixels of the frame so many frames away lie on the starting one, y x: (2, size,
        size)."""
        y, x = self._grid - self._middle
        angle, scale = self._turn * away, float(np.exp(self._zoom * away))
        turned = np.stack(
            [
                scale * (np.cos(angle) * y - np.sin(angle) * x),
                scale * (np.sin(angle) * y + np.cos(angle) * x),
            ]
        )
        moved = turned + self._middle + (self._drift * away)[:, None, None]
        steady = self._strength[0] * away * self._bends[0]
        swinging = self._strength[1] * self._period * np.sin(away / self._period) * self._bends[1]
        return np.asarray(moved + steady + swinging)


def _bend(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth field of shifts, (2, size, size), of one pixel on average."""
    coarse = rng.normal(0, 1, (2, size // 4, size // 4))
    sigma = float(rng.uniform(0.06, 0.15)) * size / 4
    smooth = np.stack([ndimage.gaussian_filter(part, sigma, mode="reflect") for part in coarse])
    fine = ndimage.zoom(smooth, (1, 4, 4), order=1)
    return np.asarray(fine / max(float(np.sqrt((fine**2).mean())), 1e-6))


class _Growth:
    """How the structure's edge moves on one side of the starting slice: as it likes, then to its end."""

    def __init__(self, depth: float, rng: np.random.Generator) -> None:
        self._depth = depth
        # Most end far beyond the frames of the look: a structure that always ends soon teaches that masks
        # shrink, and a long one would then fade away.
        self._length = float(np.exp(rng.uniform(np.log(5), np.log(5 * _FRAMES))))
        # Blunt ends are the rule in anatomy: most of a structure's width is lost on its last slices.
        self._power = float(rng.uniform(1.5, 5))
        self._swell = float(rng.uniform(-0.2, 0.35)) * depth if rng.random() < 0.5 else 0.0

    def eaten(self, away: int) -> float:
        """Return pixels that the structure has lost all around, so many frames away."""
        share = away / self._length
        return self._depth * share**self._power - self._swell * float(np.sin(np.pi * min(1.0, share)))
