"""The engine's results: masks of frames, and the summary of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from SAM2PropagateLib.texts import Words


@dataclass(frozen=True)
class FrameMask:
    """The mask of one segment on one frame.

    Attributes:
        mask: bool, (rows, columns) of the native frame.
        predicted_iou: the model's estimate of the mask's IoU, 0 to 1.
        object_score: logit that the segment is on the frame; above 0 means yes.
        doubt: how little the mask should be trusted, 0 to 1.
        kind: `PREVIEW`, `KEYFRAME`, `PROPAGATED` or `ABSENT` of `frame_kinds`.
        edge: computes how the mask's edge runs between the pixels, see `imaging.edge_steps`. None for a mask
            that does not come from logits.
        note: a sentence for the user if a lasso was kept as drawn, or the mask does not follow a scribble; ""
            otherwise.
        withheld: on a frame without a mask: computes the mask that was drawn there all the same, but left
            out, as the object score says that the segment is absent; it may be empty. None: there is none.
    """

    segment: str
    frame: int
    mask: np.ndarray
    predicted_iou: float
    object_score: float
    doubt: float
    kind: str
    edge: Callable[[], np.ndarray] | None = None
    note: Words = ""
    withheld: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class RunSummary:
    """The summary of a run.

    Attributes:
        frames_written: masks sent, keyframes included, over all segments.
        frames_computed: frames tracked, over all segments and directions.
        frames_encoded: frames that went through the image encoder.
        seconds: from the start to the end of the run.
        stretches: (segment, first, last) of the computed frames, inclusive.
    """

    frames_written: int
    frames_computed: int
    frames_encoded: int
    seconds: float
    stretches: tuple[tuple[str, int, int], ...]
