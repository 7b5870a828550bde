"""What the engine answers: masks of frames, and the summary of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from SAM2PropagateLib.engine.plan import BOTH, DIRECTIONS
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.prompts.resolve import ResolvedSegment
from SAM2PropagateLib.texts import tr as _

PREVIEW, KEYFRAME, PROPAGATED, ABSENT = "preview", "keyframe", "propagated", "absent"


@dataclass(frozen=True)
class FrameMask:
    """The mask of one segment on one frame.

    Attributes:
        mask: bool, (rows, columns) of the native frame.
        predicted_iou: the model's own guess of the mask's IoU, 0 to 1.
        object_score: logit that the segment is on the frame; above 0 means yes.
        doubt: how little the mask should be trusted, 0 to 1.
        kind: `preview`, `keyframe`, `propagated` or `absent`.
        edge: tells how the mask's edge runs between the pixels, see `imaging.edge_steps`; computed when it is
            called. None for a mask that does not come from logits.
    """

    segment: str
    frame: int
    mask: np.ndarray
    predicted_iou: float
    object_score: float
    doubt: float
    kind: str
    edge: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class RunRequest:
    """One propagation.

    Attributes:
        segments: what the user said, on frames; all of them are carried in one pass.
        direction: `both`, `forward` (to higher frame indices) or `backward`.
        reach: frames further than this from every keyframe are left alone; None: no limit.
        everything: write every frame again, also those whose keyframes have not changed since the last run
            (of which only what was not finished has to be computed). A segment keeps the window that it was
            carried in.
        anew: write every frame again, in the present window.
    """

    segments: tuple[ResolvedSegment, ...]
    direction: str = BOTH
    reach: int | None = None
    everything: bool = False
    anew: bool = False

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise InputError(
                "unknown_direction",
                _("There is no direction '{direction}'.").format(direction=self.direction),
                _("Use one of: {names}.").format(names=", ".join(DIRECTIONS)),
            )
        if self.reach is not None and self.reach < 1:
            raise InputError(
                "bad_reach",
                _("A reach of {reach} slices leads nowhere.").format(reach=self.reach),
                _("Give 1 or more, or none."),
            )

    @property
    def writes_all(self) -> bool:
        """Whether what is up to date is written, too."""
        return self.everything or self.anew


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        frames_written: masks sent, keyframes included, over all segments.
        frames_computed: frames tracked, over all segments and directions.
        frames_encoded: frames that went through the image encoder.
        seconds: from the start to the end of the run.
        stretches: (segment, first, last) of what was computed, inclusive.
    """

    frames_written: int
    frames_computed: int
    frames_encoded: int
    seconds: float
    stretches: tuple[tuple[str, int, int], ...]
