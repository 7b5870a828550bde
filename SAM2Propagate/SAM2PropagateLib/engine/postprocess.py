"""Holes and specks: removed the same way on every device, on the native frame, on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from SAM2PropagateLib.engine import imaging
from SAM2PropagateLib.frames.view import FrameView

# Holes and specks up to this many pixels of the model's logit grid are noise (sam2's own limit).
_NOISE_AREA = 8


def native_mask(logits: torch.Tensor, view: FrameView) -> np.ndarray:
    """bool (rows, columns): logits (4h, 4w) on the native frame, without holes and specks."""
    mask = imaging.logits_to_native(logits, view) > 0
    x0, y0, x1, y1 = view.crop
    pixels = (x1 - x0) * (y1 - y0) / (logits.shape[-1] * logits.shape[-2])
    return clean(mask, _NOISE_AREA * pixels)


def clean(mask: np.ndarray, area: float) -> np.ndarray:
    """A mask without specks and holes of at most `area` pixels.

    The largest part always stays, however small it is: a small structure is not a speck.

    Args:
        mask: bool, (rows, columns).
        area: pixels; 0 leaves the mask as it is.

    Returns:
        bool, (rows, columns); the same array when there was nothing to do.
    """
    if area <= 0 or not mask.any():
        return mask
    parts, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(parts.ravel())[1:]
        keep = sizes > area
        keep[sizes.argmax()] = True
        mask = np.concatenate(([False], keep))[parts]
    # Holes: background parts that do not touch the frame's border.
    holes, count = ndimage.label(np.pad(~mask, 1, constant_values=True))
    if count > 1:
        sizes = np.bincount(holes.ravel())
        small = sizes <= area
        small[[0, holes[0, 0]]] = False
        mask = mask | small[holes][1:-1, 1:-1]
    return mask
