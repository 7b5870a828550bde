"""Carries out a run: moves its fronts frame by frame, in batches, and writes finished frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from SAM2PropagateLib.engine.appearance import pixel_maps
from SAM2PropagateLib.engine.blend import blended
from SAM2PropagateLib.engine.doubt import overlap
from SAM2PropagateLib.engine.family import EncodedFrame, ModelSteps
from SAM2PropagateLib.engine.features import FeatureStore
from SAM2PropagateLib.engine.front import Front, Tracked, batches, where_present
from SAM2PropagateLib.engine.fusion import Carried, fused, held
from SAM2PropagateLib.engine.jobs import DRAFTED, Active, Job, active_fronts
from SAM2PropagateLib.engine.memory_limits import out_of_memory_error
from SAM2PropagateLib.engine.motion import AHEAD, FrameMotion, MotionStore
from SAM2PropagateLib.engine.report import Ready, Report
from SAM2PropagateLib.engine.results import FrameMask
from SAM2PropagateLib.engine.shape import closed
from SAM2PropagateLib.models.memory import is_out_of_memory

# The most masks that are read back at once.
_MOST_MASKS = 32


@dataclass(frozen=True, eq=False)
class _Reached:
    """A frame that fronts reach together; `motion` is None if masks are carried by the model alone."""

    features: EncodedFrame
    motion: FrameMotion | None


class Counter:
    """Passes on finished frames and counts them."""

    def __init__(self, on_frame: Callable[[FrameMask], None]) -> None:
        self._on_frame = on_frame
        self.written = 0
        self.computed = 0

    def write(self, mask: FrameMask) -> None:
        self._on_frame(mask)
        self.written += 1

    def show(self, draft: FrameMask) -> None:
        """Pass on a draft, which does not count."""
        self._on_frame(draft)


class Carrier:
    """Carries keyframes over the stretches of a run.

    Args:
        steps: the model.
        features: of the frames.
        max_batch: the most frames tracked at once; it is halved for good when main or GPU memory runs out.
        motion: between the frames; None: masks are carried by the model alone.
    """

    def __init__(
        self,
        steps: ModelSteps,
        features: FeatureStore,
        max_batch: int,
        motion: MotionStore | None = None,
    ) -> None:
        self._steps = steps
        self._motion = motion
        self._features = features
        self._max_batch = max_batch

    def carry(self, jobs: list[Job], counter: Counter, between: Callable[[float], None]) -> None:
        """Continue all jobs until nothing is pending; see `EngineSession.propagate`.

        Each step has one report, which is read back while the device computes the next step, if possible.
        """
        unread: deque[Report] = deque()

        def pause() -> None:
            between(counter.written + sum(job.done for job in jobs))

        try:
            self._write_known(jobs, counter, pause)
            while active := active_fronts(jobs):
                pause()
                # Only a batch at once, as the fronts' memories take GPU memory.
                tracked = self._step(active[: self._max_batch], counter)
                unread.append(self._report(tracked, self._ready(jobs)))
                while len(unread) > 1 or (unread and self._must_know(jobs)):
                    self._write(unread.popleft(), counter, pause)
            if unread:
                self._write(unread.popleft(), counter, pause)
            self._write_known(jobs, counter, pause)
        finally:
            # Also after a run that was ended, every front has to know what it found.
            for job in jobs:
                self._catch_up(job)

    def _report(self, tracked: Sequence[Front], ready: Sequence[Ready]) -> Report:
        return self._features.with_room(partial(Report, tracked, ready))

    @staticmethod
    def _catch_up(job: Job) -> None:
        try:
            for front in job.all_fronts:
                front.catch_up()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # The next run computes again what cannot be read.
            job.track.fronts.clear()

    def _must_know(self, jobs: list[Job]) -> bool:
        """Tell whether the host has to read the last step's report before it starts the next step."""
        return not self._steps.runs_ahead or any(job.must_be_read for job in jobs)

    def _step(self, active: list[Active], counter: Counter) -> list[Front]:
        """Move every front one frame further, and return the fronts."""
        if self._motion is not None:
            # Other threads register them meanwhile.
            self._motion.prepare((a.sight, frame, a.front.step) for a, frame in _coming(active, range(AHEAD)))
        upcoming = _coming(active, range(1, self._features.batch_size + 1))
        features = self._features.get(
            [(a.sight, a.front.next_frame) for a in active], ((a.sight, frame) for a, frame in upcoming)
        )
        places = {id(a.front): (a.sight, a.front.next_frame, a.front.step) for a in active}
        known = {
            place: _Reached(features[place[:2]], None if self._motion is None else self._motion.get(*place))
            for place in dict.fromkeys(places.values())
        }
        reached = {front: known[place] for front, place in places.items()}
        fronts = [a.front for a in active]
        for group in batches(fronts, self._max_batch):
            self._advance(group, reached)
            counter.computed += len(group)
        return fronts

    def _advance(self, group: list[Front], reached: Mapping[int, _Reached]) -> None:
        """Move a batch of fronts one frame further; with too little main or GPU memory, in halves."""
        if self._try_to_advance(group, [reached[id(front)] for front in group]):
            return
        if len(group) > 1:
            self._max_batch = max(1, len(group) // 2)
            self._advance(group[: self._max_batch], reached)
            self._advance(group[self._max_batch :], reached)
        elif self._features.offload():
            self._advance(group, reached)
        else:
            raise out_of_memory_error(self._steps.device)

    def _try_to_advance(self, group: list[Front], reached: Sequence[_Reached]) -> bool:
        """Try that, and tell whether there was enough main or GPU memory; if not, what the attempt took is
        free on return."""
        features = [one.features for one in reached]
        try:
            # Everything stays on the device, and the memory is made of the fused mask.
            decoded = self._steps.track(features, [front.recall() for front in group])
            carried: Sequence[Carried | None] = [None] * len(group)
            if self._motion is not None:
                before = [front.carried for front in group if front.carried is not None]
                flows = [one.motion.flow for one in reached if one.motion is not None]
                decoded, carried = fused(decoded, before, flows, self._maps(reached))
            decoded = held(decoded, [front.holds for front in group])
            memories = self._steps.remember(features, self._steps.settled(decoded), prompted=False)
            found = Tracked.of(decoded)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        for front, one, memory, mask in zip(group, found, memories, carried, strict=True):
            front.advance(one, memory, mask)
        return True

    def _maps(self, reached: Sequence[_Reached]) -> list[list[torch.Tensor]]:
        """Return what is known of the pixels of each frame; fronts that reach one together share it."""
        made = {
            one: pixel_maps(one.motion.picture, one.features, self._steps.device)
            for one in dict.fromkeys(reached)
            if one.motion is not None
        }
        return [made[one] for one in reached]

    # --- what is known ------------------------------------------------------------------------------

    def _write_known(self, jobs: list[Job], counter: Counter, pause: Callable[[], None]) -> None:
        """Write what needs no further step."""
        while ready := self._ready(jobs):
            self._write(self._report([], ready), counter, pause)

    def _write(self, report: Report, counter: Counter, pause: Callable[[], None]) -> None:
        finished = 0
        for one, mask in report.masks():
            if one.is_draft:
                counter.show(mask)
                continue
            if finished:
                # Many frames may be ready at once; the user can still cancel or preview between them.
                pause()
            finished += 1
            one.job.begun.discard(one.frame)
            counter.write(mask)
            one.job.track.written[one.frame] = one.job.signature

    def _ready(self, jobs: list[Job]) -> list[Ready]:
        """Collect the next frames whose masks can be finished, and drafts of waiting frames without a mask.

        They are not pending any more; the next run knows that a draft is out of date.
        """
        ready: list[Ready] = []
        for job in jobs:
            waiting, is_open_ended = [], job.is_open_ended
            for frame in job.pending:
                left, right = job.found(job.left, frame), job.found(job.right, frame)
                found = left if left is not None else right
                if found is None or len(ready) >= _MOST_MASKS:
                    waiting.append(frame)
                elif is_open_ended or job.lacks(left, right, frame):
                    waiting.append(frame)
                    job.begun.add(frame)
                    if frame not in job.track.written:
                        ready.append(self._features.with_room(partial(_draft, job, frame, found)))
                        job.track.written[frame] = DRAFTED
                else:
                    ready.append(self._features.with_room(partial(self._finished, job, frame, left, right)))
            job.pending = waiting
        return ready

    @staticmethod
    def _finished(job: Job, frame: int, left: Tracked | None, right: Tracked | None) -> Ready:
        stretch = job.stretch
        logits, iou, score, agreement = blended(
            left,
            right,
            0 if stretch.left is None else frame - stretch.left,
            0 if stretch.right is None else stretch.right - frame,
            job.shapes,
        )
        if job.end is not None and stretch.absent is not None:
            share = (frame - job.end.source) / (stretch.absent - job.end.source)
            before, logits = logits, closed(logits, job.too_deep, share)
            agreement = overlap(before, logits)
        ended = None
        if job.elder is not None:
            score, ended = job.elder.said(frame, partial(job.found, job.left or job.right))
            logits = where_present(logits, score)
        return Ready.of(job, frame, logits, iou, score, agreement, ended)


def _draft(job: Job, frame: int, found: Tracked) -> Ready:
    return Ready.of(job, frame, found.logits.float(), found.iou, found.object_score, is_draft=True)


def _coming(active: Sequence[Active], steps: range) -> Iterator[tuple[Active, int]]:
    """Yield the frames that fronts reach after so many steps, up to each one's end."""
    for ahead in steps:
        for one in active:
            if (one.end - one.front.next_frame) * one.front.step >= ahead:
                yield one, one.front.next_frame + one.front.step * ahead
