"""Decides which prompts are sent to the worker: corrections of masks, edited and locked slices.

A mask in the prompts is either a slice that the user edited (`EDITED`) or a propagated slice as it was when
the user clicked on it (`REFINED`); on an empty slice, that is the mask that was withheld there. Earlier
prompts on the slice are that mask's history and do not count any more; later ones correct it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.mask_depth import is_meant
from SAM2PropagateLib.prompts.place import click_at, mask_at
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.strokes import (
    FrameStroke,
    curve_crossings,
    curve_on_frame,
    frames_of,
    is_across,
    lasso_parts,
    sampled,
    scribble_parts,
)
from SAM2PropagateLib.prompts.values import (
    DRAWN,
    Box,
    Click,
    Curve,
    Lasso,
    MaskPrompt,
    Prompt,
    Scribble,
    SegmentPrompts,
    Stroke,
    to_ras,
)
from SAM2PropagateLib.scene.seen_segment import EDIT, maskId

BoolArray = npt.NDArray[np.bool_]
History = Mapping[str, frozenset[str]]

# The kinds of masks that the module keeps, for `maskId`.
EDITED, REFINED, LOCKED = EDIT, "base", "lock"


def isEdited(mask: MaskPrompt) -> bool:
    """Tells whether a mask was edited by the user."""
    return not mask.id.startswith(f"{REFINED}-")


def frameOf(prompt: Prompt, geometry: VolumeGeometry, axis: int) -> int | None:
    """Returns the frame on which a prompt lies, the middle one of a stroke's; None outside the volume."""
    if isinstance(prompt, Stroke):
        frames = frames_of(prompt, geometry, axis)
        return frames[len(frames) // 2] if frames else None
    if isinstance(prompt, Box):
        ras = np.add(prompt.corner_a, prompt.corner_b) / 2
    else:
        ras = np.asarray(prompt.origin if isinstance(prompt, MaskPrompt) else prompt.ras)
    try:
        return geometry.frame_of(ras, axis, in_plane=not isinstance(prompt, MaskPrompt))
    except InputError:
        return None


def framesOf(prompts: Iterable[Prompt], geometry: VolumeGeometry, axis: int) -> dict[str, int]:
    """Returns the frame of every prompt by the prompt's ID, without prompts outside the volume."""
    found = ((prompt.id, frameOf(prompt, geometry, axis)) for prompt in prompts)
    return {name: frame for name, frame in found if frame is not None}


def everyFrameOf(prompt: Prompt, geometry: VolumeGeometry, axis: int) -> frozenset[int]:
    """Returns the frames that a prompt says something about: several for a stroke across them, none outside
    the volume."""
    if isinstance(prompt, Stroke):
        return frozenset(frames_of(prompt, geometry, axis))
    frame = frameOf(prompt, geometry, axis)
    return frozenset() if frame is None else frozenset((frame,))


def everyFrame(prompts: Iterable[Prompt], geometry: VolumeGeometry, axis: int) -> frozenset[int]:
    """Returns the frames that any of these prompts says something about."""
    return frozenset().union(*(everyFrameOf(prompt, geometry, axis) for prompt in prompts))


def placed(said: SegmentPrompts) -> tuple[Prompt, ...]:
    """Returns the prompts that make keyframes: all but marks."""
    return (*drawn(said), *said.masks)


def drawn(said: SegmentPrompts) -> tuple[Prompt, ...]:
    """Returns the prompts that the user places in the views: all but masks and marks."""
    return tuple(said.of(*DRAWN))


def changedFrames(
    before: SegmentPrompts, after: SegmentPrompts, geometry: VolumeGeometry, axis: int
) -> set[int]:
    """Returns the frames on which a prompt was added, moved or removed."""
    old, new = ({prompt.id: prompt for prompt in one} for one in (before, after))
    went = [one for one in old.values() if new.get(one.id) != one]
    came = [one for one in new.values() if old.get(one.id) != one]
    return {
        frame
        for said, prompts in ((before, went), (after, came))
        for prompt in prompts
        for frame in spokenFramesOf(prompt, said, geometry, axis)
    }


def spokenFramesOf(
    prompt: Prompt, said: SegmentPrompts, geometry: VolumeGeometry, axis: int
) -> frozenset[int]:
    """Returns the frames that one of a segment's prompts says something about. A curve skips frames that are
    locked, absent or outside the range."""
    frames = everyFrameOf(prompt, geometry, axis)
    return frames - _passedBy(said, geometry, axis) if isinstance(prompt, Curve) else frames


def _passedBy(said: SegmentPrompts, geometry: VolumeGeometry, axis: int) -> frozenset[int]:
    """Returns the frames that the segment's curves skip."""
    marked = everyFrame((*said.absent, *said.locks), geometry, axis)
    if said.range is None:
        return marked
    ends = sorted(geometry.frame_coordinate(end, axis) for end in (said.range.first, said.range.last))
    first, last = (geometry.nearest_frame(end, axis) for end in ends)
    outside = (frame for frame in range(geometry.frame_count(axis)) if not first <= frame <= last)
    return marked | frozenset(outside)


def speaking(
    said: SegmentPrompts, history: History, geometry: VolumeGeometry, axis: int
) -> SegmentPrompts:  # fmt: skip
    """Returns the prompts that count: without those that are the history of a mask on their frame.

    A click replaces an older one of the other sign at its place. Of two boxes on a frame the newer one
    counts. Strokes across frames are cut into one piece per frame, and curves become clicks.
    """
    frames = framesOf(said, geometry, axis)
    masked = {frames[mask.id] for mask in said.masks if mask.id in frames}
    over = {
        (name, frames[mask.id])
        for mask in said.masks
        if mask.id in frames
        for name in history.get(mask.id, ())
    }
    clicks = [click for click in said.clicks if (click.id, frames.get(click.id)) not in over]
    newest = {frames[box.id]: box.id for box in said.boxes if box.id in frames}
    boxes = tuple(
        box
        for box in said.boxes
        if frames.get(box.id) not in masked and newest.get(frames.get(box.id, -1), box.id) == box.id
    )
    scribbles: list[Scribble] = []
    lassos: list[Lasso] = []
    for one in said.scribbles:
        for frame, parts in _scribbleOnFrames(one, geometry, axis).items():
            scribbles += [] if (one.id, frame) in over else parts
    for lasso in said.lassos:
        if lasso.exact or not is_across(lasso, geometry, axis):
            lassos += [] if frames.get(lasso.id) in masked else [lasso]
            continue
        for frame, (inside, beyond) in _lassoOnFrames(lasso, geometry, axis).items():
            if (lasso.id, frame) not in over:
                scribbles += inside
                clicks += beyond
    passed = _passedBy(said, geometry, axis) if said.curves else frozenset()
    for curve in said.curves:
        for frame, (strokes, crossed) in _curveOnFrames(curve, geometry, axis).items():
            if frame not in passed and (curve.id, frame) not in over:
                scribbles += strokes
                clicks += crossed
    return replace(
        said,
        clicks=tuple(clicks),
        boxes=boxes,
        scribbles=tuple(scribbles),
        lassos=tuple(lassos),
        curves=(),
    )


def isMeant(mask: BoolArray, said: SegmentPrompts, frame: int, geometry: VolumeGeometry, axis: int) -> bool:
    """Tells whether a positive click or scribble on a frame lies in a mask, (rows, columns), or near it.

    Args:
        said: the prompts to look at, without masks.
    """
    try:
        resolved = resolve(speaking(said, {}, geometry, axis), geometry, axis, need_positive=False)
    except InputError:  # the change is checked elsewhere
        return False
    here = resolved.keyframes.get(frame)
    if here is None:
        return False
    points = [(x, y) for x, y, positive in here.clicks if positive]
    points += [(x, y) for stroke in here.strokes if stroke.positive for x, y in sampled(stroke)]
    return any(is_meant(mask, x, y) for x, y in points)


def _scribbleOnFrames(
    scribble: Scribble, geometry: VolumeGeometry, axis: int
) -> dict[int, tuple[Scribble, ...]]:
    """Returns the pieces of a scribble on each of its frames; the scribble itself if there is only one."""
    if not is_across(scribble, geometry, axis):
        return dict.fromkeys(frames_of(scribble, geometry, axis), (scribble,))
    try:
        parts = scribble_parts(scribble, geometry, axis)
    except InputError:  # beside the volume
        return {}
    return {
        frame: tuple(
            _laid(f"{scribble.id}@{frame}.{number}", piece, frame, geometry, axis)
            for number, piece in enumerate(pieces)
        )
        for frame, pieces in parts.items()
    }


def _lassoOnFrames(
    lasso: Lasso, geometry: VolumeGeometry, axis: int
) -> dict[int, tuple[tuple[Scribble, ...], tuple[Click, ...]]]:
    """Returns what a lasso across frames means on each: strokes inside it, and clicks beyond it."""
    try:
        parts = lasso_parts(lasso, geometry, axis)
    except InputError:  # beside the volume
        return {}
    return {
        frame: (
            tuple(
                _laid(f"{lasso.id}@{frame}.{number}", piece, frame, geometry, axis)
                for number, piece in enumerate(inside)
            ),
            tuple(
                click_at(x, y, frame, geometry, axis, False, f"{lasso.id}@{frame}-{number}")
                for number, (x, y) in enumerate(beyond)
            ),
        )
        for frame, (inside, beyond) in parts.items()
    }


def _curveOnFrames(
    curve: Curve, geometry: VolumeGeometry, axis: int
) -> dict[int, tuple[tuple[Scribble, ...], tuple[Click, ...]]]:
    """Returns what a curve means on each frame: clicks where it crosses the frame, strokes where it lies on
    it."""
    try:
        if is_across(curve, geometry, axis):
            crossings = curve_crossings(curve, geometry, axis)
        else:
            flat = curve_on_frame(curve, geometry, axis)
            return {
                frame: (
                    tuple(
                        _laid(f"{curve.id}@{frame}.{number}", piece, frame, geometry, axis)
                        for number, piece in enumerate(pieces)
                    ),
                    (),
                )
                for frame, pieces in flat.items()
            }
    except InputError:  # beside the volume, or closed on one frame
        return {}
    return {
        frame: (
            (),
            tuple(
                click_at(x, y, frame, geometry, axis, True, f"{curve.id}@{frame}-{number}")
                for number, (x, y) in enumerate(places)
            ),
        )
        for frame, places in crossings.items()
    }


def _laid(name: str, piece: FrameStroke, frame: int, geometry: VolumeGeometry, axis: int) -> Scribble:
    """Returns a piece of a stroke as a scribble on its frame."""
    points = tuple(to_ras(geometry.ras_of_pixel(x, y, frame, axis)) for x, y in piece.points)
    return Scribble(name, points, piece.positive)


def effective(
    said: SegmentPrompts,
    history: History,
    maskNow: Callable[[int], BoolArray],
    geometry: VolumeGeometry,
    axis: int,
) -> SegmentPrompts:
    """Returns the prompts for the worker: those that count, and the mask of every locked slice.

    Args:
        maskNow: returns the present mask of a frame, (rows, columns) bool.
    """
    counting = speaking(said, history, geometry, axis)
    frames = framesOf(counting, geometry, axis)
    locked = {frames[mark.id] for mark in counting.locks if mark.id in frames}
    masks = [mask for mask in counting.masks if frames.get(mask.id) not in locked]
    for frame in sorted(locked):
        mask = maskNow(frame)
        # As a prompt an empty mask would end the propagation there, which a lock does not ask for.
        if mask.any():
            masks.append(mask_at(mask, frame, geometry, axis, maskId(LOCKED, frame, axis)))
    return replace(counting.only(lambda one: frames.get(one.id) not in locked, *DRAWN), masks=tuple(masks))


def onFrame(prompts: SegmentPrompts, frame: int, geometry: VolumeGeometry, axis: int) -> SegmentPrompts:
    """Returns the prompts of one frame, for its preview. Marks and the range stay, as they limit which frames
    the worker encodes ahead."""
    frames = framesOf(prompts, geometry, axis)
    return prompts.only(lambda one: frames.get(one.id) == frame, *DRAWN, "masks", "locks")


def withMask(said: SegmentPrompts, mask: MaskPrompt, geometry: VolumeGeometry, axis: int) -> SegmentPrompts:
    """Returns a copy with this mask in place of every other one on its frame."""
    frame = frameOf(mask, geometry, axis)
    kept = tuple(one for one in said.masks if frameOf(one, geometry, axis) != frame)
    return replace(said, masks=(*kept, mask))


def withoutMasks(said: SegmentPrompts, frame: int, geometry: VolumeGeometry, axis: int) -> SegmentPrompts:
    """Returns a copy without the masks of one frame."""
    return replace(said, masks=tuple(one for one in said.masks if frameOf(one, geometry, axis) != frame))


def withoutIdleMasks(
    said: SegmentPrompts, history: History, geometry: VolumeGeometry, axis: int
) -> SegmentPrompts:
    """Returns a copy without the masks of propagated slices that have no correction left: these are not
    keyframes."""
    counting = speaking(said, history, geometry, axis)
    corrected = set(framesOf((*counting.clicks, *counting.scribbles), geometry, axis).values())
    kept = tuple(mask for mask in said.masks if isEdited(mask) or frameOf(mask, geometry, axis) in corrected)
    return said if len(kept) == len(said.masks) else replace(said, masks=kept)
