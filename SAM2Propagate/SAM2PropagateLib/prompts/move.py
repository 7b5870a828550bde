"""Applies a linear transform to prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from SAM2PropagateLib.frames.geometry import FloatArray
from SAM2PropagateLib.prompts.values import STROKES, FrameRange, PromptSet, Ras, SegmentPrompts, to_ras


def moved(prompts: PromptSet, matrix: FloatArray) -> PromptSet:
    """Return all prompts after a (4, 4) affine transform; the same object for the identity."""
    if np.array_equal(matrix, np.eye(4)):
        return prompts
    return replace(prompts, segments=tuple(moved_segment(one, matrix) for one in prompts.segments))


def moved_segment(prompts: SegmentPrompts, matrix: FloatArray) -> SegmentPrompts:
    """Return one segment's prompts after a (4, 4) affine transform."""

    def point(ras: Ras) -> Ras:
        return to_ras(matrix[:3, :3] @ ras + matrix[:3, 3])

    def step(vector: Ras) -> Ras:
        return to_ras(matrix[:3, :3] @ vector)

    strokes: dict[str, Any] = {
        name: tuple(replace(one, points=tuple(map(point, one.points))) for one in getattr(prompts, name))
        for name in STROKES
    }
    return replace(
        prompts,
        clicks=tuple(replace(one, ras=point(one.ras)) for one in prompts.clicks),
        boxes=tuple(
            replace(one, corner_a=point(one.corner_a), corner_b=point(one.corner_b)) for one in prompts.boxes
        ),
        masks=tuple(
            replace(
                one,
                origin=point(one.origin),
                column_step=step(one.column_step),
                row_step=step(one.row_step),
            )
            for one in prompts.masks
        ),
        absent=tuple(replace(one, ras=point(one.ras)) for one in prompts.absent),
        locks=tuple(replace(one, ras=point(one.ras)) for one in prompts.locks),
        **strokes,
        range=None
        if prompts.range is None
        else FrameRange(point(prompts.range.first), point(prompts.range.last)),
    )
