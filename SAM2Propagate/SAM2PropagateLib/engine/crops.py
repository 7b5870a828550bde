"""Chooses the crop: the model sees a small structure in a large slice closely."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from SAM2PropagateLib.engine.imaging import whole_pixels
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, PixelBox

# Ways to make the model's square input from a frame that is not square.
STRETCHED, ISOTROPIC = "stretched", "isotropic"
# Under this name the metadata of a weights file says which way its model was trained in.
STYLE_KEY = "view"

# The crop's side in multiples of the prompted region's longer side, as the structure may grow on other
# slices.
CONTEXT = 2.5

# A closer crop replaces the present one only if it shows the structure this many times larger.
_MUCH_CLOSER = 1.5

# Pixels; a shorter scribble shows no more of the structure's size than a click.
SHORTEST = 8.0


@dataclass(frozen=True)
class Sight:
    """How the model sees frames: which part of them, and through which window."""

    crop: FrameCrop
    window: Window


def style_of(metadata: Mapping[str, str]) -> str:
    """Return the way to make the square input of a model with this metadata: stretched, as for SAM 2, if it
    does not say."""
    return metadata.get(STYLE_KEY, STRETCHED)


def region_of(prompts: FramePrompts) -> PixelBox | None:
    """Return the part of a frame that prompts show the structure in, (x0, y0, x1, y1) in native pixels.

    None if they do not show how large it is (only clicks and scribbles).
    """
    corners: list[tuple[float, float]] = []
    if prompts.box is not None:
        corners += [prompts.box[:2], prompts.box[2:]]
    for mask in (prompts.mask, *prompts.outlines):
        if mask is not None and mask.any():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            corners += [(columns[0] - 0.5, rows[0] - 0.5), (columns[-1] + 0.5, rows[-1] + 0.5)]
    if not corners:
        return None
    corners += [(x, y) for x, y, _ in prompts.clicks]
    corners += [point for stroke in prompts.strokes for point in stroke.points]
    xs, ys = zip(*corners, strict=True)
    return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))


def along_strokes(prompts: FramePrompts) -> PixelBox | None:
    """Return the part of a frame around positive scribbles; None if none is long enough."""
    points = [point for stroke in prompts.strokes if stroke.positive for point in stroke.points]
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    region = (min(xs), min(ys), max(xs), max(ys))
    return region if max(region[2] - region[0], region[3] - region[1]) >= SHORTEST else None


def union(regions: Iterable[PixelBox]) -> PixelBox:
    """Return the smallest region around all of them."""
    x0, y0, x1, y1 = zip(*regions, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def whole_crop(frames: FrameStack, size: int, style: str = STRETCHED) -> FrameCrop:
    """Return the whole frame: stretched to the square, as SAM 2 was trained, or padded to isotropic
    pixels."""
    shape = frames.geometry.frame_shape(frames.axis)
    spacing = frames.geometry.frame_spacing(frames.axis)
    if style == ISOTROPIC:
        return whole_pixels(FrameCrop.whole(shape, spacing, size))
    return FrameCrop(shape, spacing, (-0.5, -0.5, shape[1] - 0.5, shape[0] - 0.5), size)


def close_crop(frames: FrameStack, size: int, region: PixelBox, style: str = STRETCHED) -> FrameCrop:
    """Return a crop of a region with `CONTEXT` around it, square in mm if the frame has room for that."""
    shape = frames.geometry.frame_shape(frames.axis)
    crop = FrameCrop.around(region, shape, frames.geometry.frame_spacing(frames.axis), size, CONTEXT)
    if style == STRETCHED:
        x0, y0, x1, y1 = crop.box
        inside = (max(x0, -0.5), max(y0, -0.5), min(x1, shape[1] - 0.5), min(y1, shape[0] - 0.5))
        crop = FrameCrop(shape, crop.frame_spacing, inside, size)
    return whole_pixels(crop)


def shows(crop: FrameCrop, region: PixelBox) -> bool:
    """Tell whether a crop holds a region."""
    x0, y0, x1, y1 = crop.box
    return x0 <= region[0] and y0 <= region[1] and x1 >= region[2] and y1 >= region[3]


def is_much_closer(crop: FrameCrop, than: FrameCrop) -> bool:
    """Tell whether a crop shows its part of the frame clearly larger than another crop would."""
    return min(crop.scale) > _MUCH_CLOSER * min(than.scale)


def serves(crop: FrameCrop, region: PixelBox, wanted: FrameCrop) -> bool:
    """Tell whether an existing crop can be used instead of the wanted one for a region."""
    return shows(crop, region) and shows(crop, wanted.box) and not is_much_closer(wanted, crop)


def is_cut(mask: np.ndarray, crop: FrameCrop) -> bool:
    """Tell whether a mask, bool (rows, columns), reaches an edge of the crop that is not the frame's own
    edge."""
    rows, columns = crop.frame_shape
    x0, y0, x1, y1 = (round(edge + 0.5) for edge in crop.box)
    return bool(
        (x0 > 0 and mask[:, x0].any())
        or (y0 > 0 and mask[y0].any())
        or (x1 < columns and mask[:, x1 - 1].any())
        or (y1 < rows and mask[y1 - 1].any())
    )
