"""Makes masks of native frames, without holes and specks; on the CPU, so that all devices give the same."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from SAM2PropagateLib.engine import imaging
from SAM2PropagateLib.engine.transfer import Readback
from SAM2PropagateLib.frames.crop import FrameCrop

# Holes and specks up to this many pixels of the model's logit grid are noise (sam2's own limit).
_NOISE_AREA = 8


def shown_mask(logits: torch.Tensor, crop: FrameCrop) -> torch.Tensor:
    """Return mask logits (4h, 4w) as a mask, on the same device: bool, the native pixels that the crop
    shows."""
    return imaging.logits_to_native(logits, crop) > 0


def read_mask(logits: torch.Tensor, crop: FrameCrop) -> np.ndarray:
    """Wait for the device, and return the mask of logits (4h, 4w): bool (rows, columns) of the native
    frame."""
    (shown,) = Readback([shown_mask(logits.float(), crop)]).arrays()
    return native_mask(shown, crop, logits.shape[-1])


def native_mask(shown: np.ndarray, crop: FrameCrop, grid: int) -> np.ndarray:
    """Return a mask of the native pixels that a crop shows, on the whole frame, without holes and specks.

    Args:
        shown: bool, as `shown_mask` gives it.
        grid: side of the square of logits that it comes from.

    Returns:
        bool (rows, columns).
    """
    x0, y0, x1, y1 = crop.box
    mask = np.zeros(crop.frame_shape, bool)
    mask[imaging.shown_part(crop)] = clean(shown, _NOISE_AREA * (x1 - x0) * (y1 - y0) / grid**2)
    return mask


def clean(mask: np.ndarray, area: float) -> np.ndarray:
    """Return a mask without specks and holes of at most `area` pixels.

    The largest part always stays, as a small structure is not a speck.

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
