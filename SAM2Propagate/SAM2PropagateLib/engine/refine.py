"""Applies a click to an existing mask, so that only what it aims at changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from SAM2PropagateLib.mask_depth import depth_inside, pixel_at

ClickAt = tuple[float, float, bool]
Point = tuple[float, float]

# A positive click lies about in the middle of the missing part. So it adds nothing that is deeper outside the
# mask than this many times its own depth and a pixel, or farther away than this many times that depth and two
# pixels. Chosen on the training volumes.
_DEEPER, _FARTHER = 1.5, 4.0

# A negative click does not remove a whole part that is larger than this share of the mask.
_LARGEST_PART = 0.6

# Clicks are rounded to this fraction of a pixel: saving a scene moves them by less than a millionth, which
# must not decide for pixels that are equally near to two points.
_PER_PIXEL = 16

# How many points stand for what a negative click leaves in such a part, and in how many other parts one does.
_POINTS = 3
_MOST_PARTS = 5


@dataclass(frozen=True, eq=False)
class Aim:
    """What a click on a mask may change.

    Attributes:
        within: bool (rows, columns), the pixels that it may change, with its own.
        stays: (x, y) in native pixels: points of the mask that a negative click leaves, deep inside its
            larger parts and away from the click.
    """

    within: np.ndarray
    stays: tuple[Point, ...] = ()


def aim_of(mask: np.ndarray, clicks: Sequence[ClickAt]) -> Aim:
    """Return what the last of the clicks on a mask may change.

    It changes no pixel that is nearer to an earlier click of the other sign. A positive click adds no pixel
    much deeper outside the mask, or far away. A negative one removes no pixel that is nearer to a point that
    stays.

    Args:
        mask: bool (rows, columns), before the last click.
        clicks: in the order of their making, in native pixels.
    """
    placed = [(_rounded(x), _rounded(y), positive) for x, y, positive in clicks]
    x, y, positive = placed[-1]
    here = pixel_at(mask.shape, x, y)
    within = ~mask if positive else mask.copy()
    if not within[here] or not mask.any():
        return Aim(within)
    away = _distance(mask.shape, (x, y))
    for px, py, sign in placed[:-1]:
        if sign != positive:
            within &= away < _distance(mask.shape, (px, py))
    stays: list[Point] = []
    if positive:
        depth = ndimage.distance_transform_edt(~mask)
        within &= (depth <= _DEEPER * depth[here] + 1) & (away <= _FARTHER * depth[here] + 2)
    else:
        depth = depth_inside(mask)
        stays = _deep_points(mask, depth, here, away)
        for point in stays:
            # The border is that between two balls that just fit into the mask.
            lead = depth[here] - depth[pixel_at(mask.shape, *point)]
            within &= away < _distance(mask.shape, point) + lead
    within[here] = True
    return Aim(within, tuple(stays))


def refined(mask: np.ndarray, proposal: np.ndarray, click: ClickAt, aim: Aim | None = None) -> np.ndarray:
    """Return the mask with the part of the model's proposal that a click asks for.

    A positive click adds the connected piece of the proposal that it lies on. A negative click removes the
    connected piece of the mask that the proposal drops there. Everything else stays, above all hand-drawn
    detail.

    Args:
        mask: bool (rows, columns), the present mask.
        proposal: bool (rows, columns), the model's mask from the old mask and the clicks.
        click: (x, y, positive) in native pixels.
        aim: what the click may change; None: anything.

    Returns:
        bool (rows, columns); the same array if the proposal has nothing for this click.
    """
    return _changed(mask, proposal if click[2] else ~proposal, click, aim)


def toggled(mask: np.ndarray, thing: np.ndarray, click: ClickAt, aim: Aim | None = None) -> np.ndarray:
    """Return the mask with, or without, the thing at a click; for the arguments see `refined`.

    Args:
        thing: bool (rows, columns), the model's mask for the click alone.

    Returns:
        bool (rows, columns); the same array if the mask is already right at the click, or if a negative click
        without an aim would remove most of the mask.
    """
    changed = _changed(mask, thing, click, aim)
    takes_most = (mask & ~changed).sum() > _LARGEST_PART * mask.sum()
    return mask if aim is None and takes_most else changed


def _changed(mask: np.ndarray, change: np.ndarray, click: ClickAt, aim: Aim | None) -> np.ndarray:
    """Return the mask with the connected piece of a change that the click lies on."""
    x, y, positive = click
    change = change & (~mask if positive else mask)
    if aim is not None:
        change = change & aim.within
    here = pixel_at(mask.shape, x, y)
    if not change[here]:
        return mask
    pieces, _ = ndimage.label(change)
    piece = pieces == pieces[here]
    return mask | piece if positive else mask & ~piece


def _deep_points(mask: np.ndarray, depth: np.ndarray, here: tuple[int, int], away: np.ndarray) -> list[Point]:
    """Return points in the mask's larger parts, deep inside and away from the pixel `here`. Skip the part
    that holds it, unless that is most of the mask: the click may remove the whole part."""
    parts, count = ndimage.label(mask)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    score = np.minimum(depth, away / 2)
    points: list[Point] = []
    for part in np.argsort(-sizes, kind="stable")[:_MOST_PARTS] + 1:
        is_most = sizes[part - 1] > _LARGEST_PART * sizes.sum()
        if is_most or part != parts[here]:
            points += _best(np.where(parts == part, score, 0), _POINTS if is_most else 1)
    return points


def _best(score: np.ndarray, count: int) -> list[Point]:
    """Return the pixels of highest score that are not close together."""
    points: list[Point] = []
    for _ in range(count):
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        if score[row, column] < 1:
            break
        points.append((float(column), float(row)))
        score = np.minimum(score, _distance(score.shape, points[-1]) / 2)
    return points


def _distance(shape: tuple[int, ...], point: Point) -> np.ndarray:
    """Return how far each pixel's center is from a point, (rows, columns), in pixels."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(columns - point[0], rows - point[1])


def _rounded(place: float) -> float:
    return round(place * _PER_PIXEL) / _PER_PIXEL
