"""Converts frames to model input and mask logits back to frames. Pixels are resampled only here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from SAM2PropagateLib.engine.transfer import uploaded
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.packed_masks import EDGE_REACH, EDGE_STEPS

# Mean and deviation that SAM 2's image encoder was trained with (ImageNet's).
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def whole_pixels(crop: FrameCrop) -> FrameCrop:
    """Move a crop to the nearest pixel edges, so that cutting it out needs no interpolation."""
    x0, y0, x1, y1 = (float(np.round(edge + 0.5) - 0.5) for edge in crop.box)
    return replace(crop, box=(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))


def _cut(stack: torch.Tensor, crop: FrameCrop) -> torch.Tensor:
    """Return the crop's pixels of (..., rows, columns), with zeros where it leaves the frame."""
    rows, columns = crop.frame_shape
    x0, y0, x1, y1 = (round(edge + 0.5) for edge in crop.box)
    inner = stack[..., max(y0, 0) : max(min(y1, rows), 0), max(x0, 0) : max(min(x1, columns), 0)]
    return F.pad(inner, (max(-x0, 0), max(x1 - columns, 0), max(-y0, 0), max(y1 - rows, 0)))


def to_model_input(frames: Sequence[np.ndarray], crop: FrameCrop, device: torch.device) -> torch.Tensor:
    """Return native frames as the image encoder's input.

    Args:
        frames: uint8 arrays of shape (rows, columns), windowed.
        crop: the part of the frame that the model sees, on whole pixels, and its size.
        device: for the result and the resampling.

    Returns:
        float32 tensor (frames, 3, size, size), normalized with ImageNet's mean and deviation.
        Pixels outside the frame are black (0 before normalizing).
    """
    stack = uploaded(torch.from_numpy(np.stack(frames)), device)[:, None]
    seen = F.interpolate(
        _cut(stack, crop).float(),
        size=(crop.size, crop.size),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    return _normalized(seen)


def _normalized(gray: torch.Tensor) -> torch.Tensor:
    # With plain numbers, as a tensor would first have to be copied to the device.
    channels = [(gray / 255.0 - mean) / deviation for mean, deviation in zip(_MEAN, _DEVIATION, strict=True)]
    return torch.cat(channels, dim=1)


def from_gray(gray: np.ndarray) -> torch.Tensor:
    """Return a picture of the model's size, (size, size) in [0, 255], as its input, (1, 3, size, size)."""
    return _normalized(torch.from_numpy(np.asarray(gray, np.float32))[None, None])


def to_gray(images: torch.Tensor) -> torch.Tensor:
    """Return the gray values in [0, 255], (frames, 1, size, size), of the encoder's input."""
    return (images[:, :1] * _DEVIATION[0] + _MEAN[0]) * 255.0


def mask_to_model(mask: np.ndarray, crop: FrameCrop, device: torch.device) -> torch.Tensor:
    """Return a native mask as the model sees it.

    Args:
        mask: bool, (rows, columns).

    Returns:
        float32 tensor (1, 1, size, size) in [0, 1]: the share of each model pixel that the mask covers.
    """
    stack = uploaded(torch.from_numpy(np.ascontiguousarray(mask, dtype=np.uint8)), device)[None, None]
    return F.interpolate(
        _cut(stack, crop).float(),
        size=(crop.size, crop.size),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )


def shown_part(crop: FrameCrop) -> tuple[slice, slice]:
    """Return the rows and columns of the native frame that a crop shows."""
    rows, columns = crop.frame_shape
    x0, y0, x1, y1 = (round(edge + 0.5) for edge in crop.box)
    top, left = min(max(y0, 0), rows), min(max(x0, 0), columns)
    return slice(top, max(min(y1, rows), top)), slice(left, max(min(x1, columns), left))


def resized(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Return (n, side, side) from (n, rows, columns), by bilinear interpolation."""
    if maps.shape[-1] == side:
        return maps
    return F.interpolate(maps[None], size=(side, side), mode="bilinear", align_corners=False)[0]


def edge_steps(logits: torch.Tensor, crop: FrameCrop) -> np.ndarray:
    """Return how the edge of a mask runs between native pixels.

    Args:
        logits: float tensor (height, width) over the crop's square.

    Returns:
        int8 (rows, columns) of the native frame: the distance of each pixel's center to the edge, in steps of
        `packed_masks.EDGE_STEPS` to a pixel, above 0 inside; at most `EDGE_REACH` pixels, 0 beyond the crop.
    """
    native = logits_to_native(logits, crop)
    padded = F.pad(native[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    right = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    # To first order the distance is the value divided by its gradient.
    distance = native / torch.sqrt(down * down + right * right).clamp(min=1e-6)
    limit = EDGE_REACH * EDGE_STEPS
    steps = (distance * EDGE_STEPS).round().clamp(-limit, limit)
    # Rounding must not move a center to the other side of the edge.
    steps = torch.where(native > 0, steps.clamp(min=1), steps.clamp(max=-1))
    whole = np.zeros(crop.frame_shape, np.int8)
    whole[shown_part(crop)] = steps.to(torch.int8).cpu().numpy()
    return whole


def logits_to_native(logits: torch.Tensor, crop: FrameCrop) -> torch.Tensor:
    """Return low-resolution mask logits as logits of native pixels, on the same device.

    Args:
        logits: float tensor (height, width) over the crop's square.

    Returns:
        float32 tensor: the pixels of `shown_part`.
    """
    x0, y0, x1, y1 = (round(edge + 0.5) for edge in crop.box)
    rows, columns = shown_part(crop)
    native = F.interpolate(
        logits.float()[None, None],
        size=(y1 - y0, x1 - x0),
        mode="bilinear",
        align_corners=False,
        # A crop is usually much larger than the logits' grid; antialiasing only matters for tiny frames.
        antialias=(y1 - y0) < logits.shape[-2],
    )[0, 0]
    return native[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
