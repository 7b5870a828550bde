"""Ends a segment beyond a corrected mask where what was corrected says so.

A click corrects one slice. It does not tell where the segment ends. But the corrected mask counts as sure. So
what is carried from it runs on over slices that were rightly left empty before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from SAM2PropagateLib.engine.front import Front, Tracked


class Elder:
    """The elder front: that of the keyframe behind a corrected one, beyond that one.

    Args:
        front: of the keyframe behind.
        source: the corrected keyframe.
        patience: see `SessionSettings`.

    Attributes:
        ended: over how many frames, the last one read included, the segment has been ended.
    """

    def __init__(self, front: Front, source: int, patience: int | None) -> None:
        self.front = front
        self._source = source
        # No front has as many frames as the largest number.
        self._patience = sys.maxsize if patience is None else patience
        self._known: dict[int, _Verdict] = {}
        self.ended = 0

    @property
    def has_ended(self) -> bool:
        """Whether the segment has been ended for good."""
        return self.ended >= self._patience

    @property
    def is_done(self) -> bool:
        """Whether the front need not be carried any further."""
        if self._is_before(self.front.last_read):
            return False
        is_wrong = self.front.found[self._source].lost > 0
        return is_wrong or self.front.lost_at(self._patience, beyond=self._source) is not None

    @property
    def may_be_done(self) -> bool:
        """Whether reading the front's last results could show that."""
        front = self.front
        if not front.unread or self._is_before(front.next_frame - front.step):
            return False
        return self._is_before(front.last_read) or front.empty_frames + front.unread >= self._patience

    def _is_before(self, frame: int) -> bool:
        return (frame - self._source) * self.front.step < 0

    def found(self, frame: int) -> Tracked | None:
        """Return the front's result on a frame, or its last one if no more is needed; None: not yet known."""
        known = self.front.found.get(frame)
        is_enough = known is None and (self.has_ended or self.is_done)
        return self.front.last_found if is_enough else known

    def said(self, frame: int, own: Callable[[int], Tracked | None]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the object score on a frame, and over how many frames the segment has been ended there.

        The score is at most the mean of both fronts' scores. Where that is not above 0, the segment ends, and
        does not begin again. On a corrected frame that it does not find the segment on, the elder front is
        wrong, and says nothing.

        Args:
            frame: beyond the corrected keyframe. It, and all between, must be known.
            own: returns the corrected keyframe's own result on a frame.

        Returns:
            Both float32 (), on the device.
        """
        step = self.front.step
        there = self.found(self._source)
        assert there is not None
        has_say, nothing = (there.logits > 0).any(), torch.zeros_like(there.object_score)
        verdict = _Verdict(nothing, nothing, there.object_score, nothing)
        for one in range(self._source + step, frame + step, step):
            if one not in self._known:
                mine, other = own(one), self.found(one)
                assert mine is not None and other is not None
                self._known[one] = self._next(verdict, has_say, mine, other)
            verdict = self._known[one]
        return verdict.score, verdict.ended

    def _next(self, before: _Verdict, has_say: torch.Tensor, mine: Tracked, other: Tracked) -> _Verdict:
        # What the front would find after it has given up does not count: only some runs know it.
        is_lost, is_over = before.empty >= self._patience, before.ended >= self._patience
        elder = torch.where(is_lost, before.elder, other.object_score)
        empty = torch.where((other.logits > 0).any(), 0.0, before.empty + 1)
        mean = torch.minimum(mine.object_score, (mine.object_score + elder) / 2)
        ends = has_say & ((before.ended > 0) | ((mine.object_score > 0) & (mean <= 0)))
        score = torch.where(has_say, mean, mine.object_score)
        score = torch.where(ends, score.clamp(max=0), score)
        return _Verdict(
            torch.where(is_over, before.score, score),
            torch.where(ends, before.ended + 1, 0.0),
            elder,
            torch.where(is_lost, before.empty, empty),
        )


@dataclass(frozen=True)
class _Verdict:
    """What comes out on a frame, float32 () each.

    Attributes:
        score, ended: see `Elder.said`. elder: the elder front's object score, the last one before it gave up.
        empty: over how many frames the elder front has found nothing.
    """

    score: torch.Tensor
    ended: torch.Tensor
    elder: torch.Tensor
    empty: torch.Tensor
