"""Turns scribbles into clicks for the model, and tightens lassos to the edge that it sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from SAM2PropagateLib.engine.refine import ClickAt
from SAM2PropagateLib.mask_depth import depth_inside, pixel_at
from SAM2PropagateLib.prompts.strokes import FrameStroke, sampled

# How often points are added that the present mask gets wrong; see the recorded runs.
ROUNDS = 2
# How many points of a negative scribble become clicks on a mask.
CARVINGS = 3
# A negative scribble must leave at least this share of the mask.
_LEAST_LEFT = 0.1
# Pixels; points nearer than this count as one.
_SAME_PLACE = 1.5
# How far a lasso's edge may move outwards and inwards, as shares of the radius of a circle of the same area.
# More inwards, as it is drawn around the structure.
REACH_OUT, REACH_IN = 0.05, 0.5
# Below this Dice with the drawn shape, the model's answer is something else.
LEAST_AGREEMENT = 0.5

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


def first_clicks(strokes: Sequence[FrameStroke]) -> list[ClickAt]:
    """Return the ends and the middle (by length) of each stroke."""
    clicks: list[ClickAt] = []
    for stroke in strokes:
        points = sampled(stroke)
        for index in (len(points) // 2, 0, len(points) - 1):
            _add(clicks, points[index], stroke.positive)
    return clicks


def corrections(strokes: Sequence[FrameStroke], mask_now: Callable[[], BoolArray]) -> Iterator[ClickAt]:
    """Yield the points of strokes that a mask gets wrong, one after the other.

    For a positive stroke these are first its middle and ends, whose surroundings look like the structure.
    Then, and for a negative stroke from the start, they are the points farthest from the mask's border.

    Args:
        mask_now: returns the mask after the earlier points.
    """
    told: list[ClickAt] = []
    for click in first_clicks([stroke for stroke in strokes if stroke.positive]):
        mask = mask_now()
        if not mask[_pixel(mask, click)]:
            told.append(click)
            yield click
    for _round in range(sum(1 if stroke.positive else CARVINGS for stroke in strokes)):
        worst = worst_click(strokes, mask_now(), told)
        if worst is None:
            return
        told.append(worst)
        yield worst


def wrong_clicks(strokes: Sequence[FrameStroke], mask: BoolArray, known: Sequence[ClickAt]) -> list[ClickAt]:
    """Find for each stroke the point that a mask gets wrong and that lies farthest from the mask's border.

    Args:
        mask: bool (rows, columns), the present mask.
        known: earlier clicks; points next to them are left out.
    """
    clicks: list[ClickAt] = []
    depth = signed_depth(mask)
    for stroke in strokes:
        found = _worst(stroke, depth, (*known, *clicks))
        if found is not None:
            clicks.append(found)
    return clicks


def worst_click(strokes: Sequence[FrameStroke], mask: BoolArray, known: Sequence[ClickAt]) -> ClickAt | None:
    """Find, of all strokes, the point that a mask gets wrong and that lies farthest from its border."""
    depth = signed_depth(mask)
    clicks = [_worst(stroke, depth, known) for stroke in strokes]
    found = [click for click in clicks if click is not None]
    return max(found, key=lambda click: abs(_at(depth, click)), default=None)


def is_left(changed: BoolArray, mask: BoolArray, positives: Sequence[ClickAt]) -> bool:
    """Tell whether a negative scribble removed only a part and left the structure.

    Args:
        changed, mask: bool (rows, columns), with the scribble and without.
        positives: the positive clicks; those in `mask` must stay in it.
    """
    kept = all(changed[_pixel(changed, click)] for click in positives if mask[_pixel(mask, click)])
    return bool(kept and changed.any() and changed.sum() >= _LEAST_LEFT * mask.sum())


def is_followed(strokes: Sequence[FrameStroke], mask: BoolArray) -> bool:
    """Tell whether a mask contains at least half of every positive stroke, and at most half of every negative
    one."""
    return all(
        np.mean([mask[_pixel(mask, (x, y, True))] == stroke.positive for x, y in sampled(stroke)]) >= 0.5
        for stroke in strokes
    )


def signed_depth(mask: BoolArray) -> npt.NDArray[np.float64]:
    """Return the distance of each pixel to the border of a mask, in pixels, inside above 0."""
    if not mask.any():
        return np.full(mask.shape, -np.inf)
    depth: npt.NDArray[np.float64] = depth_inside(mask) - ndimage.distance_transform_edt(~mask)
    return depth


def _worst(stroke: FrameStroke, depth: FloatArray, known: Sequence[ClickAt]) -> ClickAt | None:
    best, how_wrong = None, 0.0
    for x, y in sampled(stroke):
        click = (float(x), float(y), stroke.positive)
        wrong = -_at(depth, click) if stroke.positive else _at(depth, click)
        if wrong > how_wrong and not _is_known(click, known):
            best, how_wrong = click, wrong
    return best


def _add(clicks: list[ClickAt], point: FloatArray, positive: bool) -> None:
    click = (float(point[0]), float(point[1]), positive)
    if not _is_known(click, clicks):
        clicks.append(click)


def _is_known(click: ClickAt, known: Sequence[ClickAt]) -> bool:
    return any(np.hypot(click[0] - x, click[1] - y) < _SAME_PLACE for x, y, _ in known)


def _at(values: FloatArray, click: ClickAt) -> float:
    return float(values[_pixel(values, click)])


def _pixel(values: npt.NDArray[np.generic], click: ClickAt) -> tuple[int, int]:
    return pixel_at(values.shape, click[0], click[1])


def tightened(drawn: BoolArray, answer: BoolArray) -> BoolArray | None:
    """Return the model's mask, limited to pixels near the line that was drawn.

    Args:
        drawn: bool (rows, columns), the inside of the lasso, not empty.
        answer: bool (rows, columns), the model's mask for it.

    Returns:
        bool (rows, columns); None if the answer differs too much from the lasso.
    """
    radius = float(np.sqrt(drawn.sum() / np.pi))
    near = answer & (ndimage.distance_transform_edt(~drawn) <= REACH_OUT * radius)
    if 2 * (near & drawn).sum() < LEAST_AGREEMENT * (near.sum() + drawn.sum()):
        return None
    held: BoolArray = near | (depth_inside(drawn) > REACH_IN * radius)
    return held
