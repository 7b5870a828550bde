"""The user's prompts, kept in RAS: clicks, scribbles, boxes, lassos, curves, masks, marks, locks, ranges.

Numpy only.
"""

from SAM2PropagateLib.prompts.document import dumps, from_document, loads, to_document
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.prompts.place import (
    box_around,
    box_at,
    click_at,
    curve_through,
    lasso_around,
    mark_at,
    mask_at,
    range_at,
    scribble_along,
)
from SAM2PropagateLib.prompts.resolve import choose_axis, resolve
from SAM2PropagateLib.prompts.strokes import FrameStroke, frames_of, is_across, outline_pixels
from SAM2PropagateLib.prompts.values import (
    Box,
    Click,
    Curve,
    FrameMark,
    FrameRange,
    Lasso,
    MaskPrompt,
    Prompt,
    PromptSet,
    Ras,
    Scribble,
    SegmentPrompts,
    Stroke,
    new_id,
)

__all__ = [
    "Box",
    "Click",
    "Curve",
    "FrameMark",
    "FramePrompts",
    "FrameRange",
    "FrameStroke",
    "Lasso",
    "MaskPrompt",
    "Prompt",
    "PromptSet",
    "Ras",
    "ResolvedSegment",
    "Scribble",
    "SegmentPrompts",
    "Stroke",
    "box_around",
    "box_at",
    "choose_axis",
    "click_at",
    "curve_through",
    "dumps",
    "frames_of",
    "from_document",
    "is_across",
    "lasso_around",
    "loads",
    "mark_at",
    "mask_at",
    "new_id",
    "outline_pixels",
    "range_at",
    "resolve",
    "scribble_along",
    "to_document",
]
