"""A run under way: its fronts go frame by frame, in batches, and what is finished is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from SAM2PropagateLib.engine import looking
from SAM2PropagateLib.engine.blend import blended
from SAM2PropagateLib.engine.doubt import Evidence, doubt_of, overlap
from SAM2PropagateLib.engine.features import FeatureStore
from SAM2PropagateLib.engine.front import Front, Tracked, batches
from SAM2PropagateLib.engine.jobs import DRAFTED, Active, Job, active_fronts
from SAM2PropagateLib.engine.memory_limits import is_out_of_memory, out_of_memory_error
from SAM2PropagateLib.engine.postprocess import native_mask
from SAM2PropagateLib.engine.results import PROPAGATED, FrameMask
from SAM2PropagateLib.engine.shape import closed
from SAM2PropagateLib.engine.steps import FrameFeatures, ModelSteps

# A draft lacks what the other side, or the segment's end, will say: it is worth a look until then.
_DRAFT_DOUBT = 0.5


class Counter:
    """Hands finished frames on and counts them."""

    def __init__(self, on_frame: Callable[[FrameMask], None]) -> None:
        self._on_frame = on_frame
        self.written = 0
        self.computed = 0

    def write(self, mask: FrameMask) -> None:
        self._on_frame(mask)
        self.written += 1

    def show(self, draft: FrameMask) -> None:
        """Hand on what will come again."""
        self._on_frame(draft)


class Carrier:
    """Carries keyframes over the stretches of a run.

    Args:
        steps: the model.
        features: of the frames.
        max_batch: frames tracked at once at most; halved for good when the device runs out of memory.
    """

    def __init__(self, steps: ModelSteps, features: FeatureStore, max_batch: int) -> None:
        self._steps = steps
        self._features = features
        self._max_batch = max_batch

    def carry(self, jobs: list[Job], counter: Counter, between: Callable[[float], None]) -> None:
        """Go on with all jobs until nothing is pending; see `EngineSession.propagate`."""

        def pause() -> None:
            between(counter.written + sum(job.done for job in jobs))

        for job in jobs:
            self._write_finished(job, counter, pause)
        while active := active_fronts(jobs):
            pause()
            # No more at once than make a batch: what they remember takes memory.
            self._step(active[: self._max_batch], counter)
            for job in jobs:
                self._write_finished(job, counter, pause)

    def _step(self, active: list[Active], counter: Counter) -> None:
        """Every front one frame further."""
        upcoming = (
            (a.sight, a.front.next_frame + a.front.step * ahead)
            for ahead in range(1, self._features.batch_size + 1)
            for a in active
            if (a.end - a.front.next_frame) * a.front.step >= ahead
        )
        features = self._features.get([(a.sight, a.front.next_frame) for a in active], upcoming)
        seen = {id(a.front): features[a.sight, a.front.next_frame] for a in active}
        for group in batches([a.front for a in active], self._max_batch):
            self._advance(group, seen)
            counter.computed += len(group)

    def _advance(self, group: list[Front], seen: Mapping[int, FrameFeatures]) -> None:
        """Track a batch of fronts one frame further; on too little memory in two halves, and so on."""
        if self._try_to_advance(group, seen):
            return
        if len(group) > 1:
            self._max_batch = max(1, len(group) // 2)
            self._advance(group[: self._max_batch], seen)
            self._advance(group[self._max_batch :], seen)
        elif self._features.offload():
            self._advance(group, seen)
        else:
            raise out_of_memory_error(self._steps.device)

    def _try_to_advance(self, group: list[Front], seen: Mapping[int, FrameFeatures]) -> bool:
        """Whether there was memory for it; if not, what the attempt held is free again on return."""
        features = [seen[id(front)] for front in group]
        try:
            decoded = self._steps.track(features, [front.recall() for front in group])
            memories = self._steps.remember(features, decoded, prompted=False)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        for front, answer, memory in zip(group, decoded, memories, strict=True):
            front.advance(answer, memory)
        return True

    def _write_finished(self, job: Job, counter: Counter, pause: Callable[[], None]) -> None:
        waiting = []
        is_open_ended, finished, drafts = job.is_open_ended, 0, 0
        for frame in job.pending:
            left = job.found(job.left, frame)
            right = job.found(job.right, frame)
            lacks_left = job.left is not None and left is None
            lacks_right = job.right is not None and right is None
            if lacks_left or lacks_right or is_open_ended:
                waiting.append(frame)
                if left is not None or right is not None:
                    drafts += 1
                    self._draft(job, frame, left, right, counter)
                continue
            if finished:
                # Many at once, where their fronts were there already: still one may cancel or preview.
                pause()
            finished += 1
            job.drafts = max(0, job.drafts - 1)
            counter.write(self._finished(job, frame, left, right))
            job.track.written[frame] = job.signature
        job.pending, job.drafts = waiting, drafts

    def _draft(
        self, job: Job, frame: int, left: Tracked | None, right: Tracked | None, counter: Counter
    ) -> None:
        """Show what is known of a frame that has no mask yet; the next run knows it as out of date."""
        if frame in job.track.written:
            return
        found = left if left is not None else right
        assert found is not None
        draft = self._propagated(job, frame, found.logits.float(), found.iou, found.object_score)
        counter.show(replace(draft, doubt=max(draft.doubt, _DRAFT_DOUBT)))
        job.track.written[frame] = DRAFTED

    def _finished(self, job: Job, frame: int, left: Tracked | None, right: Tracked | None) -> FrameMask:
        stretch = job.stretch
        logits, iou, score = blended(
            left,
            right,
            0 if stretch.left is None else frame - stretch.left,
            0 if stretch.right is None else stretch.right - frame,
            job.shapes,
        )
        kept = 1.0
        if job.end is not None and stretch.absent is not None:
            share = (frame - job.end.source) / (stretch.absent - job.end.source)
            before, logits = logits, closed(logits, job.too_deep, share)
            kept = overlap(before, logits)
        agreement = kept if left is None or right is None else overlap(left.logits, right.logits)
        lost = min(one.lost for one in (left, right) if one is not None)
        return self._propagated(job, frame, logits, iou, score, agreement, lost)

    def _propagated(
        self,
        job: Job,
        frame: int,
        logits: torch.Tensor,
        iou: float,
        score: float,
        agreement: float = 1.0,
        lost: int = 0,
    ) -> FrameMask:
        view = job.track.view
        mask = native_mask(logits, view)
        evidence = Evidence.of(logits, iou, score, agreement, is_cut=looking.is_cut(mask, view), lost=lost)
        return FrameMask(job.stretch.segment, frame, mask, iou, score, doubt_of(evidence), PROPAGATED)
