"""The report of a step: masks and their figures, read back from the device at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from SAM2PropagateLib.engine import crops
from SAM2PropagateLib.engine.doubt import Evidence, doubt_of, figures_of
from SAM2PropagateLib.engine.front import Front
from SAM2PropagateLib.engine.imaging import edge_steps
from SAM2PropagateLib.engine.jobs import Job
from SAM2PropagateLib.engine.postprocess import native_mask, read_mask, shown_mask
from SAM2PropagateLib.engine.results import FrameMask
from SAM2PropagateLib.engine.transfer import Readback
from SAM2PropagateLib.frame_kinds import DOUBTFUL, PROPAGATED


@dataclass(frozen=True)
class Ready:
    """A frame with a mask that can be read back, on the device.

    Attributes:
        is_draft: whether the frame will come again.
        grid: side of the square of logits that the mask comes from.
        figures: see `doubt.figures_of`.
        shown: bool, the mask on the native pixels that the crop shows.
        logits: (4h, 4w), that the mask comes from.
    """

    job: Job
    frame: int
    is_draft: bool
    grid: int
    figures: torch.Tensor
    shown: torch.Tensor
    logits: torch.Tensor

    @staticmethod
    def of(
        job: Job,
        frame: int,
        logits: torch.Tensor,
        iou: torch.Tensor,
        score: torch.Tensor,
        agreement: torch.Tensor | None = None,
        ended: torch.Tensor | None = None,
        *,
        is_draft: bool = False,
    ) -> Ready:
        """Return a frame from its logits (4h, 4w); for the single numbers see `doubt.Evidence`, for `ended`
        `elder.Elder`."""
        figures, shown = figures_of(logits, iou, score, agreement, ended), shown_mask(logits, job.track.crop)
        return Ready(job, frame, is_draft, logits.shape[-1], figures, shown, logits)

    def mask(self, figures: np.ndarray, shown: np.ndarray) -> FrameMask:
        """Return the frame's mask from the values that were read back."""
        job = self.job
        mask = native_mask(shown, job.track.crop, self.grid)
        sides = [job.found(front, self.frame) for front in job.fronts]
        lost = 0 if self.is_draft else min(side.lost for side in sides if side is not None)
        is_cut = crops.is_cut(mask, job.track.crop)
        ended = round(float(figures[-1]))
        if job.elder is not None and not self.is_draft:
            # Only here does the host learn of it.
            job.elder.ended = max(job.elder.ended, ended)
        evidence = Evidence.read(figures, is_cut=is_cut, lost=lost, is_between=len(sides) > 1)
        doubt = doubt_of(evidence)
        if self.is_draft:
            # Doubtful until the other side, or the segment's end, is known.
            doubt = max(doubt, DOUBTFUL)
        iou, score = evidence.iou, evidence.object_score
        edge = partial(edge_steps, self.logits, job.track.crop)
        is_left_out = not mask.any() and score <= 0 and not job.is_over(max(lost, ended))
        drawn = job.drawn(self.frame) if is_left_out else None
        withheld = None if drawn is None else partial(read_mask, drawn, job.track.crop)
        return FrameMask(
            job.stretch.segment, self.frame, mask, iou, score, doubt, PROPAGATED, edge, withheld=withheld
        )


class Report:
    """The values of one step to read back. The transfer starts at once; `masks` waits for it.

    Args:
        tracked: the fronts that have moved one frame further.
        ready: the frames that have masks now.
    """

    def __init__(self, tracked: Sequence[Front], ready: Sequence[Ready]) -> None:
        self._tracked, self._ready = list(tracked), list(ready)
        there = [(front.found[front.next_frame - front.step].logits > 0).any() for front in tracked]
        parts = [torch.stack(there)] if there else []
        for one in ready:
            parts += [one.figures, one.shown]
        self._readback = Readback(parts)

    def masks(self) -> Iterator[tuple[Ready, FrameMask]]:
        """Pass the fronts their results; then yield the masks one after the other."""
        read = iter(self._readback.arrays())
        if self._tracked:
            for front, is_there in zip(self._tracked, next(read), strict=True):
                front.tell(bool(is_there))
        return ((one, one.mask(next(read), next(read))) for one in self._ready)
