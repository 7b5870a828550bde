"""Makes prompts from frames and pixels: the inverse of `resolve.py`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import FloatArray, VolumeGeometry
from SAM2PropagateLib.prompts.strokes import thinned
from SAM2PropagateLib.prompts.values import (
    Box,
    Click,
    Curve,
    FrameMark,
    FrameRange,
    Lasso,
    MaskPrompt,
    Ras,
    Scribble,
    new_id,
    to_ras,
)
from SAM2PropagateLib.texts import text as _


def click_at(
    x: float,
    y: float,
    frame: int,
    geometry: VolumeGeometry,
    axis: int,
    positive: bool = True,
    prompt_id: str | None = None,
) -> Click:
    """Return a click on a pixel of a frame (native, continuous)."""
    return Click(prompt_id or new_id(), _ras(geometry.ras_of_pixel(x, y, frame, axis)), positive)


def box_at(
    pixels: tuple[float, float, float, float],
    frame: int,
    geometry: VolumeGeometry,
    axis: int,
    prompt_id: str | None = None,
) -> Box:
    """Return a box from its rectangle (x0, y0, x1, y1) in native pixels of a frame."""
    x0, y0, x1, y1 = pixels
    return Box(
        prompt_id or new_id(),
        _ras(geometry.ras_of_pixel(x0, y0, frame, axis)),
        _ras(geometry.ras_of_pixel(x1, y1, frame, axis)),
    )


def box_around(
    points: npt.ArrayLike, geometry: VolumeGeometry, axis: int, prompt_id: str | None = None
) -> Box:
    """Return the smallest box on one frame around points, for example around four corners from a view that is
    turned or tilted against the volume. Its frame is that of the points' center.

    Args:
        points: (n, 3) RAS, projected onto the frame along the volume's own axis.

    Raises:
        InputError: `outside_volume` if the center lies outside, `bad_point` without finite points.
    """
    places = np.asarray(points, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 3 or not len(places) or not np.isfinite(places).all():
        raise InputError("bad_point", _("The box has no corners."), _("Draw it again."))
    frame = geometry.frame_of(places.mean(axis=0), axis, what=_("The center of the box"))
    pixels = np.array([geometry.pixel_of(place, axis) for place in places])
    (x0, y0), (x1, y1) = pixels.min(axis=0), pixels.max(axis=0)
    return box_at((float(x0), float(y0), float(x1), float(y1)), frame, geometry, axis, prompt_id)


def scribble_along(
    points: npt.ArrayLike, geometry: VolumeGeometry, positive: bool = True, prompt_id: str | None = None
) -> Scribble:
    """Return a scribble along the mouse's path, without unnecessary points.

    Args:
        points: (n, 3) RAS, in order; see `strokes.thinned`.

    Raises:
        InputError: `bad_point`, `empty_scribble`.
    """
    return Scribble(prompt_id or new_id(), _thinned(points, geometry), positive)


def lasso_around(
    points: npt.ArrayLike, geometry: VolumeGeometry, exact: bool = False, prompt_id: str | None = None
) -> Lasso:
    """Return a lasso along the mouse's path, without unnecessary points.

    Args:
        points: (n, 3) RAS, in order; see `strokes.thinned`.
        exact: keep it as it was drawn.

    Raises:
        InputError: `bad_point`, `empty_lasso`.
    """
    return Lasso(prompt_id or new_id(), _thinned(points, geometry), exact)


def curve_through(
    points: npt.ArrayLike, geometry: VolumeGeometry, closed: bool = False, prompt_id: str | None = None
) -> Curve:
    """Return a curve along a line in space, without unnecessary points.

    Args:
        points: (n, 3) RAS, in order; see `strokes.thinned`.
        closed: the last point is joined to the first.

    Raises:
        InputError: `bad_point`, `short_curve`.
    """
    return Curve(prompt_id or new_id(), _thinned(points, geometry), closed)


def mask_at(
    mask: npt.ArrayLike, frame: int, geometry: VolumeGeometry, axis: int, prompt_id: str | None = None
) -> MaskPrompt:
    """Return a mask from the pixels of a whole native frame.

    Args:
        mask: (rows, columns) of the frame, of any type that converts to bool.

    Raises:
        InputError: `mask_geometry` if its shape is not the frame's.
    """
    pixels = np.asarray(mask).astype(bool)
    if pixels.shape != geometry.frame_shape(axis):
        raise InputError(
            "mask_geometry",
            _("A mask of {shape} pixels does not fit {slice}, which has {other}.").format(
                shape=pixels.shape, slice=geometry.slice_words(frame, axis), other=geometry.frame_shape(axis)
            ),
            _("Give the mask of the whole slice."),
        )
    column_step, row_step = geometry.pixel_steps(axis)
    origin = geometry.ras_of_pixel(0, 0, frame, axis)
    return MaskPrompt(prompt_id or new_id(), _ras(origin), _ras(column_step), _ras(row_step), pixels)


def mark_at(frame: int, geometry: VolumeGeometry, axis: int, prompt_id: str | None = None) -> FrameMark:
    """Return a mark in the middle of a frame."""
    return FrameMark(prompt_id or new_id(), _middle(frame, geometry, axis))


def range_at(first: int, last: int, geometry: VolumeGeometry, axis: int) -> FrameRange:
    """Return the range from frame `first` to frame `last`, both included."""
    return FrameRange(_middle(first, geometry, axis), _middle(last, geometry, axis))


def _thinned(points: npt.ArrayLike, geometry: VolumeGeometry) -> tuple[Ras, ...]:
    given = [to_ras(point, lambda: _("The point of a stroke at")) for point in np.asarray(points)]
    return thinned(given, geometry) if given else ()


def _middle(frame: int, geometry: VolumeGeometry, axis: int) -> Ras:
    rows, columns = geometry.frame_shape(axis)
    return _ras(geometry.ras_of_pixel((columns - 1) / 2, (rows - 1) / 2, frame, axis))


def _ras(point: FloatArray) -> Ras:
    return to_ras(point)
