"""Resolves prompts in RAS to keyframes and pixels of one volume along one axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import AXIS_NAMES, VolumeGeometry, check_axis, ras_words
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, PixelBox, ResolvedSegment
from SAM2PropagateLib.prompts.place import click_at
from SAM2PropagateLib.prompts.strokes import (
    FrameStroke,
    curve_crossings,
    curve_on_frame,
    flat_axes,
    is_across,
    lasso_parts,
    outline_pixels,
    scribble_parts,
)
from SAM2PropagateLib.prompts.values import (
    Box,
    Click,
    Curve,
    Lasso,
    MaskPrompt,
    PromptSet,
    Scribble,
    SegmentPrompts,
    Stroke,
)
from SAM2PropagateLib.texts import Text, Words
from SAM2PropagateLib.texts import text as _

# Voxels; corners at most this far apart lie on one frame.
_FLAT = 0.5
# Pixels; two clicks nearer than this are at the same place.
_SAME_PLACE = 0.5
# Voxels; a mask's pixels may be this far from the volume's: more than rounding, less than ambiguity.
_GRID_TOLERANCE = 0.25
# A share; slice spacings this close count as equal.
_SAME_SPACING = 0.01


def choose_axis(
    prompts: PromptSet, geometry: VolumeGeometry, view_normal: npt.ArrayLike | None = None
) -> int:
    """Return the propagation axis: the first of these that applies.

    1. the prompts' own `axis`;
    2. the axis whose frames are most nearly parallel to the view that was clicked in (`view_normal`, RAS);
    3. the axis along which the corners of the boxes, and the grids of the masks, lie on one frame;
    4. the axis along which the first lasso lies on one frame, or else the first scribble that does;
    5. the axis with the largest slice spacing; among equals (within 1 %) the one nearest to superior.

    Raises:
        InputError: `mixed_axes` (boxes or masks that lie flat along different axes), `box_not_flat`,
            `empty_box`, `mask_geometry`, `bad_normal`.
    """
    if prompts.axis is not None:
        return check_axis(prompts.axis)
    if view_normal is not None:
        return geometry.axis_nearest(view_normal)
    flat: dict[int, tuple[Box | MaskPrompt, str]] = {}
    for segment in prompts.segments:
        for box in segment.boxes:
            flat.setdefault(_flat_axis(box, geometry), (box, segment.segment))
        for mask in segment.masks:
            flat.setdefault(_mask_axis(mask, geometry), (mask, segment.segment))
    if len(flat) > 1:
        raise _mixed_axes(flat, geometry)
    if flat:
        return next(iter(flat))
    shown = _axis_of_strokes(prompts, geometry)
    if shown is not None:
        return shown
    spacings = [geometry.slice_spacing(axis) for axis in range(3)]
    candidates = [axis for axis in range(3) if spacings[axis] >= max(spacings) * (1 - _SAME_SPACING)]
    return max(candidates, key=lambda axis: (round(abs(float(geometry.frame_normal(axis)[2])), 9), axis))


def resolve(
    segment: SegmentPrompts, geometry: VolumeGeometry, axis: int, *, need_positive: bool = True
) -> ResolvedSegment:
    """Put one segment's prompts on frames and pixels, and refuse contradictions.

    A locked frame with a mask keeps exactly that mask, without its clicks and boxes. A locked frame without a
    mask contributes nothing. An all-False mask is an absent mark. Clicks and scribbles correct a mask on
    their frame. A lasso on one frame is a mask, too; several add up. Scribbles and lassos across frames count
    on a few of them, see `strokes`. A curve is a click on each frame that it crosses, except on frames that
    are locked, absent or outside the range.

    Args:
        segment: the prompts.
        geometry: of the volume.
        axis: propagation axis.
        need_positive: refuse prompts that cannot be run: without a positive keyframe, or with a frame that
            has only negative clicks.

    Raises:
        InputError: `outside_volume`, `outside_range`, `empty_box`, `box_not_flat`, `mask_geometry`,
            `empty_lasso`, `lasso_across`, `flat_curve`, `contradiction`, and if `need_positive`:
            `no_prompts`, `only_negative_clicks`.
    """
    axis = check_axis(axis)
    frames = _Frames(segment, geometry, axis)
    for mark in segment.locks:
        frames.locked.add(frames.frame_of(mark.ras, _("The lock")))
    for mark in segment.absent:
        frames.absent.add(frames.frame_of(mark.ras, _("The absent mark")))
    first, last = frames.range()
    for mask in segment.masks:
        frames.put_mask(mask)
    for click in segment.clicks:
        frames.put_click(click)
    for box in segment.boxes:
        frames.put_box(box)
    for scribble in segment.scribbles:
        frames.put_scribble(scribble)
    for lasso in segment.lassos:
        frames.put_lasso(lasso)
    for curve in segment.curves:
        frames.put_curve(curve, first, last)
    keyframes = frames.keyframes(first, last, need_positive)
    positive = sorted(frame for frame, prompts in keyframes.items() if prompts.is_positive)
    if need_positive and not positive:
        raise InputError(
            "no_prompts",
            _("No prompt shows where segment “{segment}” is.").format(segment=segment.segment),
            _("Click on the structure, draw a box around it or paint it on one slice."),
        )
    if positive:
        absent = [frame for frame, prompts in keyframes.items() if prompts.absent]
        first = max((frame for frame in absent if frame < positive[0]), default=first)
        last = min((frame for frame in absent if frame > positive[-1]), default=last)
    touched = {frame: prompts for frame, prompts in keyframes.items() if first <= frame <= last}
    is_ranged = segment.range is not None
    return ResolvedSegment(segment.segment, touched, frozenset(frames.locked), first, last, is_ranged)


class _Frames:
    """Collects one segment's prompts per frame."""

    def __init__(self, segment: SegmentPrompts, geometry: VolumeGeometry, axis: int) -> None:
        self.segment, self.geometry, self.axis = segment, geometry, axis
        self.clicks: dict[int, list[tuple[float, float, bool]]] = {}
        self.boxes: dict[int, PixelBox] = {}
        self.masks: dict[int, npt.NDArray[np.bool_]] = {}
        self.strokes: dict[int, list[FrameStroke]] = {}
        self.lassos: dict[int, list[tuple[npt.NDArray[np.bool_], bool]]] = {}
        self.crossed: set[int] = set()
        self.absent: set[int] = set()
        self.locked: set[int] = set()

    def frame_of(self, ras: Any, what: Words) -> int:
        """Return the frame of a point, which may lie beside the slice; `what` names it if there is none."""
        return self.geometry.frame_of(ras, self.axis, what=what, in_plane=False)

    def words(self, frame: int) -> Text:
        """Return the words for a slice."""
        return self.geometry.slice_words(frame, self.axis)

    def where(self, frame: int) -> Text:
        """Return the words for a place in an error: slice and segment."""
        return _("on {slice} for segment “{segment}”").format(
            slice=self.words(frame), segment=self.segment.segment
        )

    def range(self) -> tuple[int, int]:
        """Return the first and the last frame of the segment's range, or of the volume."""
        if self.segment.range is None:
            return 0, self.geometry.frame_count(self.axis) - 1
        ends = [
            self.frame_of(end, _("The range's end"))
            for end in (self.segment.range.first, self.segment.range.last)
        ]
        return min(ends), max(ends)

    def put_click(self, click: Click) -> None:
        """Add a click; refuse one of the other sign at the same place."""
        what = _("The positive click") if click.positive else _("The negative click")
        frame = self.geometry.frame_of(click.ras, self.axis, what=what)
        self._click(click, frame, *self.geometry.pixel_of(click.ras, self.axis))

    def _click(self, click: Click, frame: int, x: float, y: float) -> None:
        for other_x, other_y, positive in self.clicks.get(frame, ()):
            if positive != click.positive and math.hypot(x - other_x, y - other_y) <= _SAME_PLACE:
                raise _contradiction(
                    _("A positive and a negative click lie at the same place {point} {where}.").format(
                        point=ras_words(click.ras), where=self.where(frame)
                    ),
                    _("Remove one of them."),
                )
        self.clicks.setdefault(frame, []).append((x, y, click.positive))

    def put_box(self, box: Box) -> None:
        """Add a box. Refuse it if its frame has a different one."""
        frame, pixels = place_box(box, self.geometry, self.axis, self.segment.segment)
        known = self.boxes.setdefault(frame, pixels)
        if max(abs(a - b) for a, b in zip(known, pixels, strict=True)) > 0.01:
            raise _contradiction(
                _("There are two different boxes {where}.").format(where=self.where(frame)),
                _("A segment can have one box per slice. Remove one, and refine the other with clicks."),
            )

    def put_mask(self, mask: MaskPrompt) -> None:
        """Add a mask. Refuse it if its frame has a different one."""
        frame, pixels = place_mask(mask, self.geometry, self.axis, self.segment.segment)
        if frame in self.masks and not np.array_equal(self.masks[frame], pixels):
            raise _contradiction(
                _("There are two different masks {where}.").format(where=self.where(frame)),
                _("A segment can have one mask per slice. Remove one."),
            )
        self.masks[frame] = pixels

    def put_scribble(self, scribble: Scribble) -> None:
        """Add a scribble to each frame that it passes."""
        parts = scribble_parts(scribble, self.geometry, self.axis, self.segment.segment)
        for frame, strokes in parts.items():
            self.strokes.setdefault(frame, []).extend(strokes)

    def put_lasso(self, lasso: Lasso) -> None:
        """Add a lasso: what it outlines on its frame, or what it says on each frame that it crosses."""
        name = self.segment.segment
        if is_across(lasso, self.geometry, self.axis):
            for frame, (strokes, beyond) in lasso_parts(lasso, self.geometry, self.axis, name).items():
                self.crossed.add(frame)
                self.strokes.setdefault(frame, []).extend(strokes)
                self.strokes[frame] += [FrameStroke((pixel,), False) for pixel in beyond]
            return
        frame, pixels = outline_pixels(lasso, self.geometry, self.axis, name)
        self.lassos.setdefault(frame, []).append((pixels, lasso.exact))

    def put_curve(self, curve: Curve, first: int, last: int) -> None:
        """Add the clicks of a curve where it crosses frames of the range that are not locked or absent."""
        geometry, axis, name = self.geometry, self.axis, self.segment.segment
        silent = self.locked | self.absent

        def speaks(frame: int) -> bool:
            return first <= frame <= last and frame not in silent

        if not is_across(curve, geometry, axis):
            for frame, strokes in curve_on_frame(curve, geometry, axis, name).items():
                if speaks(frame):
                    self.strokes.setdefault(frame, []).extend(strokes)
            return
        for frame, places in curve_crossings(curve, geometry, axis, name).items():
            for x, y in places if speaks(frame) else ():
                self._click(click_at(x, y, frame, geometry, axis, True, curve.id), frame, x, y)

    def keyframes(self, first: int, last: int, need_positive: bool) -> dict[int, FramePrompts]:
        """Return the prompts of each frame in the range; refuse those that contradict each other."""
        keyframes = {}
        said = (self.clicks, self.boxes, self.masks, self.strokes, self.lassos, self.absent)
        for frame in sorted(set().union(*said)):
            mask = self.masks.get(frame)
            filled = mask is not None and bool(mask.any())
            if frame in self.locked:
                self._check_lock(frame, mask, filled)
            else:
                self._check_absent(frame, mask, filled)
                if not first <= frame <= last:
                    self._check_range(frame, first, last)
            if not first <= frame <= last:
                continue
            if frame in self.absent or (mask is not None and not filled):
                keyframes[frame] = FramePrompts(absent=True)
            elif frame in self.locked:
                keyframes[frame] = FramePrompts(mask=mask)
            else:
                prompts = self._prompts(frame, mask)
                if need_positive and not prompts.is_positive:
                    raise InputError(
                        "only_negative_clicks",
                        (
                            _("There are only negative scribbles {where}.")
                            if frame in self.strokes and frame not in self.clicks
                            else _("There are only negative clicks {where}.")
                        ).format(where=self.where(frame)),
                        _(
                            "Add a positive click, a box or a mask there, or mark the structure as absent "
                            "there."
                        ),
                    )
                keyframes[frame] = prompts
        return keyframes

    def _prompts(self, frame: int, mask: npt.NDArray[np.bool_] | None) -> FramePrompts:
        lassos = self.lassos.get(frame, [])
        if mask is not None and lassos:
            raise _contradiction(
                _("There is both a mask and a lasso {where}.").format(where=self.where(frame)),
                _("A segment can have one mask per slice. Remove one of them."),
            )
        exact = [pixels for pixels, is_exact in lassos if is_exact]
        if exact:
            mask = np.logical_or.reduce(exact)
            mask.setflags(write=False)
        return FramePrompts(
            tuple(self.clicks.get(frame, ())),
            self.boxes.get(frame),
            mask,
            strokes=tuple(self.strokes.get(frame, ())),
            outlines=tuple(pixels for pixels, is_exact in lassos if not is_exact),
        )

    def _named(self, frame: int) -> dict[str, Any]:
        """Return the values for a sentence about this frame of the segment."""
        count = self.geometry.frame_count(self.axis)
        return {"number": frame + 1, "count": count, "segment": self.segment.segment}

    def _said(self, frame: int, filled: bool) -> Words:
        """Return words for the first prompt that shows the structure on this frame; "" if there is none."""
        if any(positive for _, _, positive in self.clicks.get(frame, ())):
            return _("a positive click")
        if frame in self.boxes:
            return _("a box")
        if frame in self.lassos or frame in self.crossed:
            return _("a lasso")
        if any(stroke.positive for stroke in self.strokes.get(frame, ())):
            return _("a positive scribble")
        return _("a mask") if filled else ""

    def _check_lock(self, frame: int, mask: npt.NDArray[np.bool_] | None, filled: bool) -> None:
        if frame in self.absent and filled:
            raise _contradiction(
                _(
                    "Slice {number} of {count} is locked with a mask of segment “{segment}”, and marked as "
                    "absent."
                ).format(**self._named(frame)),
                _("Unlock that slice or remove the absent mark."),
            )
        kinds = (
            (self.clicks, _("a click")),
            (self.boxes, _("a box")),
            (self.lassos, _("a lasso")),
            (self.crossed, _("a lasso")),
            (self.strokes, _("a scribble")),
        )
        what = next((words for frames, words in kinds if frame in frames), "")
        if mask is None and frame not in self.absent and what:
            raise _contradiction(
                _("Slice {number} of {count} is locked, but segment “{segment}” has {what} on it.").format(
                    what=what, **self._named(frame)
                ),
                _("Unlock that slice to change it, or remove the prompt."),
            )

    def _check_absent(self, frame: int, mask: npt.NDArray[np.bool_] | None, filled: bool) -> None:
        said = self._said(frame, filled)
        if frame in self.absent and said:
            raise _contradiction(
                _(
                    "Slice {number} of {count} is marked as absent, but segment “{segment}” has {what} on it."
                ).format(what=said, **self._named(frame)),
                _("Remove the absent mark or the other prompt."),
            )
        if mask is not None and not filled and said:
            raise _contradiction(
                _("Slice {number} of {count} has an empty mask of segment “{segment}”, and {what}.").format(
                    what=said, **self._named(frame)
                ),
                _("Remove the empty mask or the other prompt."),
            )

    def _check_range(self, frame: int, first: int, last: int) -> None:
        if frame in self.absent:
            return
        kinds = (
            (self.clicks, _("A click")),
            (self.boxes, _("A box")),
            (self.lassos, _("A lasso")),
            (self.crossed, _("A lasso")),
            (self.strokes, _("A scribble")),
        )
        what = next((words for frames, words in kinds if frame in frames), _("A mask"))
        raise InputError(
            "outside_range",
            _(
                "{what} of segment “{segment}” lies on slice {number} of {count}, outside the range from "
                "slice {first} to slice {last}."
            ).format(what=what, first=first + 1, last=last + 1, **self._named(frame)),
            _("Widen the range or remove the prompt."),
        )


def place_box(box: Box, geometry: VolumeGeometry, axis: int, segment: str = "") -> tuple[int, PixelBox]:
    """Return the frame of a box and its rectangle (x0, y0, x1, y1) in native pixels.

    A box that extends beyond the image is cut at the image's edge; its center must be inside.

    Raises:
        InputError: `box_not_flat`, `outside_volume`, `empty_box`.
    """
    what = _box_words(box, segment)
    corners = geometry.ijk_of_ras([box.corner_a, box.corner_b])
    if abs(corners[0, axis] - corners[1, axis]) > _FLAT + 1e-6:
        raise _not_flat(what, corners, geometry, axis)
    center = geometry.ras_of_ijk(corners.mean(axis=0))
    words = _("The center of the box of segment “{segment}”") if segment else _("The center of the box")
    frame = geometry.frame_of(center, axis, what=words.format(segment=segment))
    (xa, ya), (xb, yb) = (geometry.pixel_of(corner, axis) for corner in (box.corner_a, box.corner_b))
    rows, columns = geometry.frame_shape(axis)
    x0, x1 = (min(max(x, -0.5), columns - 0.5) for x in sorted((xa, xb)))
    y0, y1 = (min(max(y, -0.5), rows - 0.5) for y in sorted((ya, yb)))
    if x1 - x0 < _FLAT or y1 - y0 < _FLAT:
        raise InputError(
            "empty_box",
            _("{what} has no area on {slice}: it is {width:.1f} x {height:.1f} pixels.").format(
                what=what, slice=geometry.slice_words(frame, axis), width=x1 - x0, height=y1 - y0
            ),
            _("Draw it from one corner of the structure to the opposite one."),
        )
    return frame, (x0, y0, x1, y1)


def place_mask(
    mask: MaskPrompt, geometry: VolumeGeometry, axis: int, segment: str = ""
) -> tuple[int, npt.NDArray[np.bool_]]:
    """Return the frame of a mask and its pixels on the native frame: (rows, columns) bool, read-only.

    The mask's grid may be a part of the frame's, flipped or transposed, but its pixels must be the frame's:
    nothing is resampled.

    Raises:
        InputError: `mask_geometry`, `outside_volume`.
    """
    what = _mask_words(segment)
    flat = _mask_axis(mask, geometry)
    if flat != axis:
        raise InputError(
            "mask_geometry",
            _("{what} lies on {slices}, but propagation runs along {others}.").format(
                what=what, slices=_frames_words(flat, geometry), others=_frames_words(axis, geometry)
            ),
            _("Propagate along axis {axis}, or remove the mask.").format(axis=AXIS_NAMES[flat]),
        )
    corner = _("The corner of a mask of segment “{segment}”") if segment else _("The corner of a mask")
    frame = geometry.frame_of(mask.origin, axis, what=corner.format(segment=segment), in_plane=False)
    start = np.rint(geometry.ijk_of_ras(mask.origin)).astype(int)
    column_step, row_step = _mask_steps(mask, geometry)
    rows, columns = np.nonzero(mask.mask)
    ijk = start + rows[:, None] * row_step + columns[:, None] * column_step
    x_axis, y_axis = (other for other in range(3) if other != axis)
    pixels = np.zeros(geometry.frame_shape(axis), dtype=bool)
    x, y = ijk[:, x_axis], ijk[:, y_axis]
    if x.size and (min(x.min(), y.min()) < 0 or x.max() >= pixels.shape[1] or y.max() >= pixels.shape[0]):
        raise InputError(
            "outside_volume",
            _("{what} on {slice} extends beyond the image.").format(
                what=what, slice=geometry.slice_words(frame, axis)
            ),
            _("It may belong to another volume: remove it, or choose its volume."),
        )
    pixels[y, x] = True
    pixels.setflags(write=False)
    return frame, pixels


def _axis_of_strokes(prompts: PromptSet, geometry: VolumeGeometry) -> int | None:
    """Return the axis along which the first lasso, or else the first scribble, lies on one frame; None if
    there is none."""
    strokes: list[Stroke] = [lasso for segment in prompts.segments for lasso in segment.lassos]
    strokes += [scribble for segment in prompts.segments for scribble in segment.scribbles]
    for stroke in strokes:
        axes = flat_axes(stroke, geometry)
        if len(axes) == 1:
            return axes[0]
    return None


def _flat_axis(box: Box, geometry: VolumeGeometry) -> int:
    """Return the axis along which both corners of a box lie on the same frame."""
    corners = geometry.ijk_of_ras([box.corner_a, box.corner_b])
    flat = [axis for axis in range(3) if abs(corners[0, axis] - corners[1, axis]) <= _FLAT + 1e-6]
    if len(flat) == 1:
        return flat[0]
    if flat:
        raise InputError(
            "empty_box",
            _("{what} has no area: its two corners lie on one line of voxels.").format(what=_box_words(box)),
            _("Draw it from one corner of the structure to the opposite one."),
        )
    raise _not_flat(_box_words(box), corners, geometry, None)


def _not_flat(
    what: Words, corners: npt.NDArray[np.float64], geometry: VolumeGeometry, axis: int | None
) -> InputError:
    flat = [other for other in range(3) if abs(corners[0, other] - corners[1, other]) <= _FLAT + 1e-6]
    if axis is None:
        return InputError(
            "box_not_flat",
            _("{what} does not lie on one slice along any axis of the volume.").format(what=what),
            _turn_view(),
        )
    ends = sorted(geometry.nearest_frame(float(corner[axis]), axis) + 1 for corner in corners)
    sentence = _(
        "{what} does not lie on one of the {slices}: it reaches from slice {first} to slice {last} of "
        "{count}."
    ).format(
        what=what,
        slices=_frames_words(axis, geometry),
        first=ends[0],
        last=ends[1],
        count=geometry.frame_count(axis),
    )
    if flat:
        hint = _(
            "It lies on one of the {slices}: propagate along axis {axis}, or give two corners on the same "
            "slice."
        ).format(slices=_frames_words(flat[0], geometry), axis=AXIS_NAMES[flat[0]])
    else:
        hint = _turn_view()
    return InputError("box_not_flat", sentence, hint)


def _turn_view() -> Text:
    return _("Give two opposite corners on the same slice; turn the view to the volume's own plane first.")


def _mixed_axes(flat: Mapping[int, tuple[Box | MaskPrompt, str]], geometry: VolumeGeometry) -> InputError:
    """Return the error for prompts that lie flat along different axes.

    Args:
        flat: axis -> a prompt that lies flat along it, and its segment's name.
    """
    (axis_a, (first, segment_a)), (axis_b, (second, segment_b)) = list(flat.items())[:2]
    what_a = _box_words(first, segment_a) if isinstance(first, Box) else _mask_words(segment_a)
    if isinstance(second, Box):
        what_b = _("the box of segment “{segment}” with corners {a} and {b}").format(
            segment=segment_b, a=ras_words(second.corner_a), b=ras_words(second.corner_b)
        )
    else:
        what_b = _("a mask of segment “{segment}”").format(segment=segment_b)
    return InputError(
        "mixed_axes",
        _("{one} lies on {slices}, but {other} lies on {others}.").format(
            one=what_a,
            slices=_frames_words(axis_a, geometry),
            other=what_b,
            others=_frames_words(axis_b, geometry),
        ),
        _(
            "Propagation follows one axis: draw all boxes and masks in the same view, or choose the axis and "
            "remove the others."
        ),
    )


def _mask_axis(mask: MaskPrompt, geometry: VolumeGeometry) -> int:
    """Check that a mask's grid coincides with the frames of an axis, and return that axis."""
    column_step, row_step = _mask_steps(mask, geometry)
    return next(axis for axis in range(3) if not column_step[axis] and not row_step[axis])


def _mask_steps(
    mask: MaskPrompt, geometry: VolumeGeometry
) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    """Return a mask's steps per column and row in whole voxels (IJK, one entry +-1 each)."""
    rows, columns = mask.mask.shape
    matrix = geometry.ras_to_ijk_matrix[:3, :3]
    start = geometry.ijk_of_ras(mask.origin)
    steps = []
    error = float(np.abs(start - np.rint(start)).max())
    for vector, count in ((mask.column_step, columns), (mask.row_step, rows)):
        step = matrix @ np.asarray(vector)
        steps.append(np.rint(step).astype(int))
        error += float(np.abs(step - steps[-1]).max()) * max(count - 1, 1)
    unit = all(np.abs(step).sum() == 1 for step in steps)
    if not unit or (np.abs(steps[0]) == np.abs(steps[1])).all() or error > _GRID_TOLERANCE:
        raise InputError(
            "mask_geometry",
            _("The pixels of a mask at {point} do not match the pixels of this volume.").format(
                point=ras_words(mask.origin)
            ),
            _("Paint it again: it may belong to another volume, or the volume was moved or resampled."),
        )
    return steps[0], steps[1]


def _frames_words(axis: int, geometry: VolumeGeometry) -> Text:
    return _("{plane} slices (axis {axis})").format(plane=geometry.plane_name(axis), axis=AXIS_NAMES[axis])


def _box_words(box: Box, segment: str = "") -> Text:
    if segment:
        words = _("The box of segment “{segment}” with corners {a} and {b}")
    else:
        words = _("The box with corners {a} and {b}")
    return words.format(segment=segment, a=ras_words(box.corner_a), b=ras_words(box.corner_b))


def _mask_words(segment: str) -> Text:
    return _("A mask of segment “{segment}”").format(segment=segment) if segment else _("A mask")


def _contradiction(sentence: Words, hint: Words) -> InputError:
    return InputError("contradiction", sentence, hint)
