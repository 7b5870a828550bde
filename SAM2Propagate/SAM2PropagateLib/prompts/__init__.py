"""What the user said: clicks, boxes, masks, absent marks, locks and ranges, kept in RAS. Numpy only."""

from SAM2PropagateLib.prompts.document import dumps, from_document, loads, to_document
from SAM2PropagateLib.prompts.place import box_around, box_at, click_at, mark_at, mask_at, range_at
from SAM2PropagateLib.prompts.resolve import FramePrompts, ResolvedSegment, choose_axis, resolve
from SAM2PropagateLib.prompts.values import (
    Box,
    Click,
    FrameMark,
    FrameRange,
    MaskPrompt,
    Prompt,
    PromptSet,
    Ras,
    SegmentPrompts,
    new_id,
)

__all__ = [
    "Box",
    "Click",
    "FrameMark",
    "FramePrompts",
    "FrameRange",
    "MaskPrompt",
    "Prompt",
    "PromptSet",
    "Ras",
    "ResolvedSegment",
    "SegmentPrompts",
    "box_around",
    "box_at",
    "choose_axis",
    "click_at",
    "dumps",
    "from_document",
    "loads",
    "mark_at",
    "mask_at",
    "new_id",
    "range_at",
    "resolve",
    "to_document",
]
