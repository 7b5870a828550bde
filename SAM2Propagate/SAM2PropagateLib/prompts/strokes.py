"""Divides strokes among frames: the parts of a scribble, the inside of a lasso, the crossings of a curve."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import FloatArray, VolumeGeometry, check_axis, ras_words
from SAM2PropagateLib.prompts.values import MOST_POINTS, Curve, Lasso, Ras, Scribble, Stroke
from SAM2PropagateLib.texts import Text, Words
from SAM2PropagateLib.texts import text as _

BoolArray = npt.NDArray[np.bool_]
Pixel = tuple[float, float]
Chord = tuple[FloatArray, FloatArray]

MOST_KEYFRAMES = 3
"""A stroke across frames counts on at most this many of those that it crosses."""

MOST_CROSSED = 9
"""A curve counts on at most this many of those that it crosses; masks are carried to those between them."""

TOLERANCE = 0.25
"""Voxels; no point that is left out of a stroke lies farther from the rest of it."""

# Voxels; a stroke that spreads at most this far along the axis lies on one frame.
_FLAT = 0.5 + 1e-6
# Decimals of a place between frames; more are rounding.
_DIGITS = 4
# Degrees; a lasso whose plane is tilted less than this against the frames is projected onto one of them.
_TILT = 15.0
# The share that is left out of a chord at both ends, as a lasso is drawn around the structure, not on its
# edge.
_CHORD_MARGIN = 0.25
# Pixels from the ends of a chord to the negative clicks beyond them.
_BEYOND = 2.0
# Pixels; crossings of one frame that are nearer than this to each other are one.
_APART = 1.0


@dataclass(frozen=True)
class FrameStroke:
    """The part of a scribble on one frame.

    Args:
        points: corners (x, y) in native pixels, in order; a single one is a click.
        positive: whether it lies in the structure.
    """

    points: tuple[Pixel, ...]
    positive: bool = True


def sampled(stroke: FrameStroke) -> FloatArray:
    """Return points (n, 2), in pixels, along a stroke: evenly spaced by at most one pixel, with both ends."""
    corners = np.asarray(stroke.points, dtype=np.float64)
    lengths = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))))
    # An odd number, so that one of them is the middle.
    count = 2 * int(np.ceil(lengths[-1] / 2)) + 1
    at = np.linspace(0, lengths[-1], count)
    return np.column_stack([np.interp(at, lengths, corners[:, n]) for n in range(2)])


def frames_of(stroke: Stroke, geometry: VolumeGeometry, axis: int) -> tuple[int, ...]:
    """Return the frames that a stroke makes keyframes, ascending; none if it lies outside the volume.

    These are its own frame, or `MOST_KEYFRAMES` of those that it crosses (`MOST_CROSSED` for a curve), evenly
    spread. The ends of a scribble or a curve are among them.
    """
    if isinstance(stroke, Curve):
        if is_across(stroke, geometry, axis):
            return tuple(_crossings(stroke.line, geometry, check_axis(axis)))
        return tuple(_parts(stroke.line, geometry, check_axis(axis)))
    if isinstance(stroke, Scribble):
        return tuple(_parts(stroke.points, geometry, check_axis(axis)))
    if not is_across(stroke, geometry, axis):
        frame = _flat_frame(stroke.points, geometry, axis)
        return () if frame is None else (frame,)
    return tuple(_chords(stroke.points, geometry, check_axis(axis)))


def is_across(stroke: Stroke, geometry: VolumeGeometry, axis: int) -> bool:
    """Tell whether a stroke lies across the frames of an axis, not on one of them.

    A lasso in a view that is slightly tilted against the frames lies on the frame of its middle, like a box.
    """
    if float(np.ptp(geometry.ijk_of_ras(stroke.points)[:, check_axis(axis)])) <= _FLAT:
        return False
    if isinstance(stroke, Scribble | Curve):
        return True
    places = np.asarray(stroke.points)
    normal = np.linalg.svd(places - places.mean(axis=0), full_matrices=True)[2][2]
    return abs(float(normal @ geometry.frame_normal(axis))) < np.cos(np.radians(_TILT))


def flat_axes(stroke: Stroke, geometry: VolumeGeometry) -> tuple[int, ...]:
    """Return the axes along which a stroke lies on one frame; two for a straight scribble along a row."""
    return tuple(axis for axis in range(3) if not is_across(stroke, geometry, axis))


def scribble_parts(
    scribble: Scribble, geometry: VolumeGeometry, axis: int, segment: str = ""
) -> dict[int, tuple[FrameStroke, ...]]:
    """Return the parts of a scribble on each of its frames, ascending, without parts beyond the image.

    Raises:
        InputError: `outside_volume`: no part of it lies in the volume.
    """
    parts = _parts(scribble.points, geometry, check_axis(axis))
    if not parts:
        what = _("The scribble of segment “{segment}”") if segment else _("The scribble")
        raise _outside(what.format(segment=segment), scribble.points)
    return {
        frame: tuple(FrameStroke(points, scribble.positive) for points in pieces)
        for frame, pieces in parts.items()
    }


def curve_crossings(
    curve: Curve, geometry: VolumeGeometry, axis: int, segment: str = ""
) -> dict[int, tuple[Pixel, ...]]:
    """Return where a curve across frames crosses the frames that it counts on, ascending.

    Returns:
        frame -> the places (x, y) in native pixels, at least one, without those beyond the image.

    Raises:
        InputError: `outside_volume`: it crosses no frame within the image.
    """
    found = _crossings(curve.line, geometry, check_axis(axis))
    if not found:
        raise _outside(_curve_words(segment), curve.points)
    return found


def curve_on_frame(
    curve: Curve, geometry: VolumeGeometry, axis: int, segment: str = ""
) -> dict[int, tuple[FrameStroke, ...]]:
    """Return the parts of a curve that lies on one frame: it counts like a scribble.

    Raises:
        InputError: `flat_curve` for a closed one, `outside_volume`.
    """
    if curve.closed:
        raise InputError(
            "flat_curve",
            _("{what} is closed and lies on one of the {slices}.").format(
                what=_curve_words(segment), slices=_slices(geometry, axis)
            ),
            _("Draw a lasso there, or a curve from slice to slice."),
        )
    parts = _parts(curve.line, geometry, check_axis(axis))
    if not parts:
        raise _outside(_curve_words(segment), curve.points)
    return {frame: tuple(FrameStroke(points) for points in pieces) for frame, pieces in parts.items()}


def lasso_parts(
    lasso: Lasso, geometry: VolumeGeometry, axis: int, segment: str = ""
) -> dict[int, tuple[tuple[FrameStroke, ...], tuple[Pixel, ...]]]:
    """Return what a lasso across frames means on each of its frames, ascending.

    Returns:
        frame -> the inner part of each chord that the frame cuts out of the lasso, as positive strokes, and
        the pixels (x, y) just beyond the chords' ends, where the structure is not.

    Raises:
        InputError: `lasso_across` for one to be kept exactly as drawn, `outside_volume`.
    """
    if lasso.exact:
        raise InputError(
            "lasso_across",
            _("{what} was drawn across the {slices}, so it cannot be kept exactly as drawn.").format(
                what=_lasso_words(segment), slices=_slices(geometry, axis)
            ),
            _("Draw it in the {plane} view, or do not ask for it to be kept exactly.").format(
                plane=geometry.plane_name(axis)
            ),
        )
    found = {}
    for frame, chords in _chords(lasso.points, geometry, check_axis(axis)).items():
        strokes, beyond = [], []
        for start, end in chords:
            length = float(np.hypot(*(end - start)))
            inner = [start + share * (end - start) for share in (_CHORD_MARGIN, 1 - _CHORD_MARGIN)]
            strokes.append(FrameStroke(tuple(_pixel(point) for point in inner)))
            step = (end - start) / length * _BEYOND
            beyond += [start - step, end + step]
        outer = [_pixel(point) for point in beyond if not _is_in_any(point, chords)]
        found[frame] = tuple(strokes), tuple(p for p in outer if _is_in_image(p, geometry, axis))
    if not found:
        raise _outside(_lasso_words(segment), lasso.points)
    return found


def outline_pixels(
    lasso: Lasso, geometry: VolumeGeometry, axis: int, segment: str = ""
) -> tuple[int, BoolArray]:
    """Return the frame of a lasso that lies on one, and its inside on the native frame.

    Every pixel whose center the line encloses belongs to it, also where the line crosses itself (nonzero
    rule). Parts beyond the image are cut off.

    Returns:
        The frame and (rows, columns) bool, read-only, with at least one True pixel.

    Raises:
        InputError: `outside_volume`, `empty_lasso`. ValueError: it lies across the frames.
    """
    axis = check_axis(axis)
    if is_across(lasso, geometry, axis):
        raise ValueError("a lasso across the frames has no outline on one of them")
    frame = _flat_frame(lasso.points, geometry, axis)
    if frame is None:
        raise _outside(_lasso_words(segment), lasso.points)
    pixels = filled(_in_plane(geometry.ijk_of_ras(lasso.points), axis), geometry.frame_shape(axis))
    if not pixels.any():
        raise InputError(
            "empty_lasso",
            _("{what} encloses no pixel of {slice}.").format(
                what=_lasso_words(segment), slice=geometry.slice_words(frame, axis)
            ),
            _("Draw it around the structure, within the image."),
        )
    pixels.setflags(write=False)
    return frame, pixels


def filled(corners: npt.ArrayLike, shape: tuple[int, int]) -> BoolArray:
    """Return the pixels whose centers a closed line encloses, by the nonzero rule.

    Args:
        corners: (n, 2) float, x and y in pixels; the last is joined to the first.
        shape: (rows, columns).

    Returns:
        bool (rows, columns). A center on the line belongs to it on the left and upper side only.
    """
    points = np.asarray(corners, dtype=np.float64)
    rows, columns = shape
    turns = np.zeros((rows, columns + 1), dtype=np.int32)
    for (xa, ya), (xb, yb) in zip(points, np.roll(points, -1, axis=0), strict=True):
        sign, (x0, y0, x1, y1) = (1, (xa, ya, xb, yb)) if ya < yb else (-1, (xb, yb, xa, ya))
        first, last = max(int(np.ceil(y0)), 0), min(int(np.ceil(y1)), rows)
        if first >= last:
            continue
        crossed = np.arange(first, last)
        x = x0 + (crossed - y0) / (y1 - y0) * (x1 - x0)
        turns[crossed, np.clip(np.ceil(x), 0, columns).astype(int)] += sign
    inside: BoolArray = turns.cumsum(axis=1)[:, :columns] != 0
    return inside


def thinned(points: list[Ras], geometry: VolumeGeometry) -> tuple[Ras, ...]:
    """Return a stroke with as few points as its shape allows (Douglas-Peucker).

    Points that are left out lie at most `TOLERANCE` voxels from the rest; this is doubled until there are at
    most `MOST_POINTS`.
    """
    places = geometry.ijk_of_ras(points)
    tolerance = TOLERANCE
    while True:
        kept = _corners(places, tolerance)
        if len(kept) <= MOST_POINTS:
            return tuple(points[index] for index in kept)
        tolerance *= 2


def _corners(places: FloatArray, tolerance: float) -> list[int]:
    """Return the indices of the points (n, dimensions) to keep, with the first and the last."""
    kept = {0, len(places) - 1}
    todo = [(0, len(places) - 1)]
    while todo:
        first, last = todo.pop()
        if last - first < 2:
            continue
        base = places[last] - places[first]
        inner = places[first + 1 : last] - places[first]
        length = float(base @ base)
        # The distance to the piece, not to its infinite line, so that a stroke that turns back keeps its tip.
        along = np.clip(inner @ base / length, 0, 1) if length else np.zeros(len(inner))
        distance = np.linalg.norm(inner - along[:, None] * base, axis=1)
        farthest = int(distance.argmax())
        if distance[farthest] > tolerance:
            middle = first + 1 + farthest
            kept.add(middle)
            todo += [(first, middle), (middle, last)]
    return sorted(kept)


def _placed(points: tuple[Ras, ...], geometry: VolumeGeometry, axis: int) -> FloatArray:
    """Return the (n, 3) indices of a line's points, moved onto a frame if only rounding separates them.

    Otherwise a line that lies on a frame could cross it because of rounding in a transform.
    """
    ijk = geometry.ijk_of_ras(points)
    ijk[:, axis] = ijk[:, axis].round(_DIGITS)
    return ijk


@lru_cache(maxsize=256)
def _parts(
    points: tuple[Ras, ...], geometry: VolumeGeometry, axis: int
) -> dict[int, list[tuple[Pixel, ...]]]:
    """Return the pieces of a scribble on the frames that it counts on, ascending."""
    ijk = geometry.ijk_of_ras(points)
    low, high = np.full(3, -0.5), np.asarray(geometry.shape_ijk) - 0.5
    if float(np.ptp(ijk[:, axis])) <= _FLAT:
        frame = _flat_frame(points, geometry, axis)
        if frame is None:
            return {}
        ijk[:, axis] = frame
        pieces = _clipped(ijk, low, high)
        return {frame: [_pixels(piece, axis) for piece in pieces]} if pieces else {}
    crossed = {}
    for frame in _frames_between(ijk[:, axis], geometry, axis):
        slab_low, slab_high = low.copy(), high.copy()
        slab_low[axis], slab_high[axis] = frame - 0.5, frame + 0.5
        pieces = [piece for piece in _clipped(ijk, slab_low, slab_high) if len(piece) > 1]
        if pieces:
            crossed[frame] = [_pixels(piece, axis) for piece in pieces]
    return {frame: crossed[frame] for frame in _spread(list(crossed))}


@lru_cache(maxsize=256)
def _crossings(line: tuple[Ras, ...], geometry: VolumeGeometry, axis: int) -> dict[int, tuple[Pixel, ...]]:
    """Return where a line crosses the frames that it counts on, within the image, ascending. On the frames of
    its ends these are the ends, which may lie off the middle of their frames."""
    ijk = _placed(line, geometry, axis)
    here, there = ijk[:-1], ijk[1:]
    found = {}
    for frame in _frames_between(ijk[:, axis], geometry, axis):
        crosses = (here[:, axis] < frame) != (there[:, axis] < frame)
        a, b = here[crosses], there[crosses]
        share = (frame - a[:, axis]) / (b[:, axis] - a[:, axis])
        places = a + share[:, None] * (b - a)
        if not len(places):
            places = ijk[[np.abs(ijk[:, axis] - frame).argmin()]]
        pixels: list[Pixel] = []
        for pixel in map(_pixel, _in_plane(places, axis)):
            is_new = all(np.hypot(pixel[0] - x, pixel[1] - y) > _APART for x, y in pixels)
            if is_new and _is_in_image(pixel, geometry, axis):
                pixels.append(pixel)
        if pixels:
            found[frame] = tuple(pixels)
    return {frame: found[frame] for frame in _spread(list(found), MOST_CROSSED)}


@lru_cache(maxsize=256)
def _chords(points: tuple[Ras, ...], geometry: VolumeGeometry, axis: int) -> dict[int, list[Chord]]:
    """Return the chords (start, end), each (2,) in pixels, that frames cut out of a lasso across them,
    ascending."""
    ijk = _placed(points, geometry, axis)
    found = {}
    for frame in _frames_between(ijk[:, axis], geometry, axis):
        chords = [
            (start, end)
            for start, end in _cut(ijk, axis, frame)
            if _is_in_image(_pixel((start + end) / 2), geometry, axis)
        ]
        if chords:
            found[frame] = chords
    longest = max((_length(chords) for chords in found.values()), default=0.0)
    wide = [frame for frame, chords in found.items() if _length(chords) >= longest / 2]
    return {frame: found[frame] for frame in _spread(wide)}


def _cut(ijk: FloatArray, axis: int, frame: int) -> list[Chord]:
    """Return the pieces of a frame's line through a closed line's plane that lie inside it (nonzero rule)."""
    here, there = ijk, np.roll(ijk, -1, axis=0)
    before, after = here[:, axis] < frame, there[:, axis] < frame
    crosses = before != after
    if not crosses.any():
        return []
    a, b = here[crosses], there[crosses]
    share = (frame - a[:, axis]) / (b[:, axis] - a[:, axis])
    places = _in_plane(a + share[:, None] * (b - a), axis)
    signs = np.where(before[crosses], 1, -1)
    spread = places - places.mean(axis=0)
    direction = np.linalg.svd(spread, full_matrices=False)[2][0]
    order = np.argsort(spread @ direction, kind="stable")
    turns = np.cumsum(signs[order])
    chords: list[Chord] = []
    for start, end, inside in zip(order[:-1], order[1:], turns[:-1], strict=True):
        if inside and np.hypot(*(places[end] - places[start])) > 0:
            if chords and np.array_equal(chords[-1][1], places[start]):
                chords[-1] = (chords[-1][0], places[end])
            else:
                chords.append((places[start], places[end]))
    return chords


def _clipped(ijk: FloatArray, low: FloatArray, high: FloatArray) -> list[FloatArray]:
    """Return the pieces of an open line (n, 3) that lie in a box, each (m, 3); a piece that only touches it
    is a single point."""
    if len(ijk) == 1:
        return [ijk] if bool((ijk >= low).all() and (ijk <= high).all()) else []
    pieces: list[list[FloatArray]] = []
    is_open = False
    for start, end in pairwise(ijk):
        inside = _inside(start, end - start, low, high)
        if inside is None:
            is_open = False
            continue
        first, last = (start + share * (end - start) for share in inside)
        if not is_open or inside[0] > 0:
            pieces.append([first])
        if inside[1] > inside[0]:
            pieces[-1].append(last)
        is_open = inside[1] == 1.0
    return [np.asarray(piece) for piece in pieces]


def _inside(
    start: FloatArray, step: FloatArray, low: FloatArray, high: FloatArray
) -> tuple[float, float] | None:
    """Return between which shares of its length a straight piece lies in a box (Liang-Barsky); None:
    nowhere."""
    first, last = 0.0, 1.0
    for axis in range(3):
        if step[axis] == 0:
            if not low[axis] <= start[axis] <= high[axis]:
                return None
            continue
        ends = sorted(((low[axis] - start[axis]) / step[axis], (high[axis] - start[axis]) / step[axis]))
        first, last = max(first, float(ends[0])), min(last, float(ends[1]))
    return (first, last) if first <= last else None


def _spread(frames: list[int], most: int = MOST_KEYFRAMES) -> list[int]:
    """Return at most `most` of these frames, evenly spread, with the first and the last."""
    if len(frames) <= most:
        return frames
    return [frames[round(n * (len(frames) - 1) / (most - 1))] for n in range(most)]


def _flat_frame(points: tuple[Ras, ...], geometry: VolumeGeometry, axis: int) -> int | None:
    """Return the frame of a stroke that lies on one; None outside the volume."""
    position = float(geometry.ijk_of_ras(points)[:, axis].mean())
    if not -0.5 - 1e-3 <= position <= geometry.frame_count(axis) - 0.5 + 1e-3:
        return None
    return geometry.nearest_frame(position, axis)


def _frames_between(positions: FloatArray, geometry: VolumeGeometry, axis: int) -> range:
    last = geometry.frame_count(axis) - 1
    ends = float(positions.min()), float(positions.max())
    if ends[1] < -0.5 or ends[0] > last + 0.5:
        return range(0)
    return range(geometry.nearest_frame(ends[0], axis), geometry.nearest_frame(ends[1], axis) + 1)


def _in_plane(ijk: FloatArray, axis: int) -> FloatArray:
    """Return x and y of IJK points (n, 3) on the frames of an axis, (n, 2)."""
    return ijk[:, [other for other in range(3) if other != axis]]


def _pixels(ijk: FloatArray, axis: int) -> tuple[Pixel, ...]:
    return tuple(_pixel(point) for point in _in_plane(ijk, axis))


def _pixel(point: FloatArray) -> Pixel:
    return float(point[0]), float(point[1])


def _length(chords: list[Chord]) -> float:
    return sum(float(np.hypot(*(end - start))) for start, end in chords)


def _is_in_any(point: FloatArray, chords: list[Chord]) -> bool:
    """Tell whether a point on the chords' line lies in one of them."""
    return any(float((point - start) @ (point - end)) <= 0 for start, end in chords)


def _is_in_image(pixel: Pixel, geometry: VolumeGeometry, axis: int) -> bool:
    rows, columns = geometry.frame_shape(axis)
    return -0.5 <= pixel[0] <= columns - 0.5 and -0.5 <= pixel[1] <= rows - 0.5


def _slices(geometry: VolumeGeometry, axis: int) -> Text:
    return _("{plane} slices").format(plane=geometry.plane_name(axis))


def _lasso_words(segment: str) -> Text:
    return _("The lasso of segment “{segment}”").format(segment=segment) if segment else _("The lasso")


def _curve_words(segment: str) -> Text:
    return _("The curve of segment “{segment}”").format(segment=segment) if segment else _("The curve")


def _outside(what: Words, points: tuple[Ras, ...]) -> InputError:
    return InputError(
        "outside_volume",
        _("{what} that begins at {point} lies outside the volume.").format(
            what=what, point=ras_words(points[0])
        ),
        _("Draw it within the image."),
    )
