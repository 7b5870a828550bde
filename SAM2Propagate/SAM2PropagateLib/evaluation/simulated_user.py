"""A user who knows the answer: which prompts they give first, and what they correct.

* The first prompt lies on the slice where the reference is largest (the first of these if there are several):
  a box on the outer edges of the reference's pixels, or one click at its innermost point.
* A correction is made on the slice with the most wrong pixels (missing and superfluous ones together). If the
  structure is not there at all, the slice is marked absent, which also ends the propagation there. Otherwise
  either the slice is painted as it should be (`MASK`: it becomes a keyframe with the reference's mask), or it
  gets one click in the middle of its largest wrong part, positive where something is missing and negative
  where something is too much (`CLICK`); what was there before the click goes with it as the mask to be
  corrected. On an empty slice that is the mask that was withheld there, if the click lies in it or near it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from SAM2PropagateLib.evaluation.metrics import BoolArray, frames_first
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.mask_depth import innermost_point, is_meant
from SAM2PropagateLib.prompts.place import box_at, click_at, mark_at, mask_at
from SAM2PropagateLib.prompts.values import Prompt, SegmentPrompts

BOX, CLICK, MASK, ABSENT = "box", "click", "mask", "absent"
FIRST_PROMPTS = (BOX, CLICK)
CORRECTIONS = (MASK, CLICK)


@dataclass(frozen=True)
class Correction:
    """What the user corrected.

    Attributes:
        frame: where.
        kind: `mask`, `click` or `absent`.
        wrong_pixels: how many were wrong on that slice before.
    """

    frame: int
    kind: str
    wrong_pixels: int


def largest_frame(reference: BoolArray, axis: int) -> int:
    """Return the slice along `axis` on which a (K, J, I) mask has most pixels, the first of several."""
    return int(frames_first(reference, axis).sum(axis=(1, 2)).argmax())


def frame_range(reference: BoolArray, axis: int) -> tuple[int, int]:
    """Return the first and last slice along `axis` with any pixel of a (K, J, I) mask that is not empty."""
    filled = np.flatnonzero(frames_first(reference, axis).any(axis=(1, 2)))
    return int(filled[0]), int(filled[-1])


def box_around(mask: BoolArray) -> tuple[float, float, float, float]:
    """Return the outer edges (x0, y0, x1, y1) of the pixels of a (rows, columns) mask that is not empty; the
    center of the first pixel is 0, so its outer edge is -0.5."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0] - 0.5, rows[0] - 0.5, columns[-1] + 0.5, rows[-1] + 0.5


def first_prompt(
    kind: str, segment: str, reference: BoolArray, geometry: VolumeGeometry, axis: int
) -> SegmentPrompts:
    """Return the prompt with which the user begins.

    Args:
        kind: `box` or `click`.
        segment: the segment's name.
        reference: (K, J, I), not empty.

    Raises:
        ValueError: another kind.
    """
    frame = largest_frame(reference, axis)
    mask = frames_first(reference, axis)[frame]
    prompts = SegmentPrompts(segment)
    if kind == BOX:
        return prompts.add(box_at(box_around(mask), frame, geometry, axis))
    if kind == CLICK:
        return prompts.add(click_at(*innermost_point(mask), frame, geometry, axis))
    raise ValueError(f"no first prompt is called {kind!r}")


def worst_frame(found: BoolArray, reference: BoolArray, axis: int) -> tuple[int, int] | None:
    """Return the slice with the most wrong pixels, the first of several, and how many; None if nothing is
    wrong.

    Args:
        found, reference: (K, J, I).
    """
    wrong = frames_first(found ^ reference, axis).sum(axis=(1, 2))
    frame = int(wrong.argmax())
    return (frame, int(wrong[frame])) if wrong[frame] else None


def corrected(
    prompts: SegmentPrompts,
    kind: str,
    found: BoolArray,
    reference: BoolArray,
    geometry: VolumeGeometry,
    axis: int,
    withheld: Mapping[int, BoolArray] | None = None,
) -> tuple[SegmentPrompts, Correction] | None:
    """Return the prompts after one correction on the worst slice, and what it was; None if nothing is wrong.

    Args:
        prompts: what was said so far.
        kind: `mask` or `click`.
        found, reference: (K, J, I), the present result and what it should be.
        withheld: of empty slices, see `engine.results.FrameMask`.

    Raises:
        ValueError: another kind.
    """
    if kind not in CORRECTIONS:
        raise ValueError(f"no correction is called {kind!r}")
    worst = worst_frame(found, reference, axis)
    if worst is None:
        return None
    frame, wrong = worst
    is_now, should_be = frames_first(found, axis)[frame], frames_first(reference, axis)[frame]
    if not should_be.any():
        prompts = _without_frame(prompts, frame, geometry, axis)
        return prompts.add(mark_at(frame, geometry, axis), "absent"), Correction(frame, ABSENT, wrong)
    if kind == MASK:
        prompts = _without_frame(prompts, frame, geometry, axis)
        return prompts.add(mask_at(should_be, frame, geometry, axis)), Correction(frame, MASK, wrong)
    part, is_missing = _largest_wrong_part(is_now, should_be)
    x, y = innermost_point(part)
    if not _on_frame(prompts, frame, geometry, axis):
        left_out = (withheld or {}).get(frame)
        if not is_now.any() and left_out is not None and is_meant(left_out, x, y):
            is_now = left_out
        if is_now.any():
            prompts = prompts.add(mask_at(is_now, frame, geometry, axis))
    click = click_at(x, y, frame, geometry, axis, positive=is_missing)
    return prompts.add(click), Correction(frame, CLICK, wrong)


def _largest_wrong_part(is_now: BoolArray, should_be: BoolArray) -> tuple[BoolArray, bool]:
    """Return the largest connected part that is missing or too much, and whether it is missing."""
    from scipy import ndimage  # late: it is slow to import, and few need it

    best: tuple[int, BoolArray, bool] | None = None
    for wrong, is_missing in ((should_be & ~is_now, True), (is_now & ~should_be, False)):
        parts, count = ndimage.label(wrong)
        if count:
            sizes = np.bincount(parts.ravel())[1:]
            if best is None or sizes.max() > best[0]:
                best = int(sizes.max()), parts == int(sizes.argmax()) + 1, is_missing
    assert best is not None, "nothing is wrong on this slice"
    return best[1], best[2]


def _on_frame(prompts: SegmentPrompts, frame: int, geometry: VolumeGeometry, axis: int) -> list[Prompt]:
    """Return clicks, boxes, masks and absent marks that lie on a frame."""
    places: Mapping[str, list[tuple[Prompt, tuple[float, float, float]]]] = {
        "clicks": [(item, item.ras) for item in prompts.clicks],
        "boxes": [(item, item.corner_a) for item in prompts.boxes],
        "masks": [(item, item.origin) for item in prompts.masks],
        "absent": [(item, item.ras) for item in prompts.absent],
    }
    return [
        item
        for items in places.values()
        for item, ras in items
        if geometry.frame_of(ras, axis, in_plane=False) == frame
    ]


def _without_frame(
    prompts: SegmentPrompts, frame: int, geometry: VolumeGeometry, axis: int
) -> SegmentPrompts:
    for item in _on_frame(prompts, frame, geometry, axis):
        prompts = prompts.remove(item.id)
    return prompts
