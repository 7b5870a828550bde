"""One volume along one axis in the engine: previews, runs, and what is kept between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from SAM2PropagateLib.engine import imaging, looking
from SAM2PropagateLib.engine.blend import blended
from SAM2PropagateLib.engine.doubt import Evidence, doubt_of, overlap
from SAM2PropagateLib.engine.features import FeatureKey, FeatureStore
from SAM2PropagateLib.engine.front import Front, Tracked, batches
from SAM2PropagateLib.engine.memory_limits import is_out_of_memory, out_of_memory_error
from SAM2PropagateLib.engine.plan import Stretch, plan, signature
from SAM2PropagateLib.engine.postprocess import clean
from SAM2PropagateLib.engine.refine import refined, toggled
from SAM2PropagateLib.engine.results import (
    ABSENT,
    KEYFRAME,
    PREVIEW,
    PROPAGATED,
    FrameMask,
    RunRequest,
    RunSummary,
)
from SAM2PropagateLib.engine.shape import Shape, closed, depth
from SAM2PropagateLib.engine.steps import MASK_PROMPT_LOGIT, Decoded, FrameFeatures, Memory, ModelSteps
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.view import FrameView
from SAM2PropagateLib.prompts.resolve import FramePrompts, ResolvedSegment

_Result = TypeVar("_Result")

# After so many frames without a trace of the segment, it has ended: nothing further out is computed.
PATIENCE = 6

# What marks a frame that was emptied, and one that has only a draft.
_WITHDRAWN: tuple[object, ...] = ("withdrawn",)
_DRAFTED: tuple[object, ...] = ("draft",)

# A draft lacks what the other side, or the segment's end, will say: it is worth a look until then.
_DRAFT_DOUBT = 0.5

# Holes and specks up to this many pixels of the model's logit grid are noise (sam2's own limit).
_NOISE_AREA = 8


@dataclass
class _Key:
    """A decoded keyframe; its memory is made when it is carried, not for a preview."""

    prompts: FramePrompts
    decoded: Decoded
    mask: np.ndarray
    memory: Memory | None = None

    @property
    def fingerprint(self) -> str:
        return self.prompts.fingerprint


@dataclass
class _Track:
    """What is kept of one segment between runs, and how the model looks at it."""

    view: FrameView
    keys: dict[int, _Key] = field(default_factory=dict)
    fronts: dict[tuple[int, str, int], Front] = field(default_factory=dict)
    written: dict[int, tuple[object, ...]] = field(default_factory=dict)

    def seen_anew(self, view: FrameView) -> _Track:
        """A track that knows which frames were written, but that every one of them is out of date."""
        return _Track(view, written=dict.fromkeys(self.written, ()))


@dataclass(frozen=True)
class _Work:
    """What a run has to do for one segment: what of its masks is not up to date.

    Attributes:
        keyframes: to be written.
        stretches: with their signatures and the frames to be written.
        withdrawn: frames of an earlier run that now lie beyond an absent mark, to be emptied.
    """

    segment: ResolvedSegment
    keyframes: tuple[int, ...]
    stretches: tuple[tuple[Stretch, tuple[object, ...], tuple[int, ...]], ...]
    withdrawn: tuple[int, ...]

    @property
    def frames(self) -> int:
        stale = sum(len(frames) for _, _, frames in self.stretches)
        return len(self.keyframes) + stale + len(self.withdrawn)


@dataclass
class _Job:
    """A stretch of the run under way, with the fronts that cross it."""

    stretch: Stretch
    signature: tuple[object, ...]
    track: _Track
    left: Front | None
    right: Front | None
    pending: list[int]
    patience: int | None
    shapes: tuple[Shape, Shape] | None = None
    drafts: int = 0

    @property
    def is_open_ended(self) -> bool:
        """Whether it has to be known first where the segment closes before its absent mark."""
        return self.end is not None and _found(self, self.end, self.beside_absent) is None

    @property
    def done(self) -> float:
        """How much of the work on the frames that are not finished yet is done, in frames."""
        return self.drafts / (2 if self.left is not None and self.right is not None else 1)

    @cached_property
    def too_deep(self) -> float:
        """How deep the mask still is beside the absent mark, in pixels of the logit grid."""
        last = _found(self, self.end, self.beside_absent)
        return 0.0 if last is None else depth(last.logits)

    @property
    def end(self) -> Front | None:
        """The front that has to reach the absent mark before it is known where the segment closes."""
        return None if self.stretch.absent is None else self.left or self.right

    @property
    def beside_absent(self) -> int:
        """The frame next to the absent mark."""
        return self.stretch.last if self.right is None else self.stretch.first

    def has_lost(self, front: Front) -> bool:
        """Whether a front has left its segment behind, and no keyframe says that it comes back."""
        is_open = self.left is None or self.right is None
        return is_open and self.patience is not None and front.empty_frames >= self.patience


class EngineSession:
    """Previews and runs over one volume along one axis.

    Args:
        steps: the model.
        frames: the volume as frames, with its window.
        view: which part of a frame the model sees; None: for each segment what its prompts ask for.
        store: makes the feature store, given the function that encodes frames.
        max_batch: frames tracked at once at most.
        style: how a frame that is not square becomes the model's input; see `looking`.
        patience: frames without a trace of a segment after which it counts as ended; None: it never does.
    """

    def __init__(
        self,
        steps: ModelSteps,
        frames: FrameStack,
        view: FrameView | None,
        store: Callable[[Callable[[Sequence[FeatureKey]], list[FrameFeatures]]], FeatureStore],
        max_batch: int,
        style: str = looking.STRETCHED,
        patience: int | None = PATIENCE,
    ) -> None:
        self._steps = steps
        self._frames = frames
        self._style = style
        self._follows_prompts = view is None
        self._view = (
            looking.whole_view(frames, steps.input_size, style)
            if view is None
            else imaging.whole_pixels(view)
        )
        self.features = store(self._encode)
        self._max_batch = max_batch
        self._patience = patience
        self._tracks: dict[str, _Track] = {}
        self._latest = ""
        self._running: frozenset[str] = frozenset()

    # --- frames -------------------------------------------------------------------------------------

    @property
    def frame_count(self) -> int:
        return self._frames.count

    def set_frames(self, frames: FrameStack) -> None:
        """Other frames of the same shape, as after a change of the window: everything is computed anew."""
        self._frames = frames
        self.features.clear()
        self._tracks = {name: track.seen_anew(track.view) for name, track in self._tracks.items()}

    def view_of(self, segment: str) -> FrameView:
        """Which part of the frames the model sees for a segment."""
        return self._track(segment).view

    def _encode(self, keys: Sequence[FeatureKey]) -> list[FrameFeatures]:
        device = self._steps.device
        images = [imaging.to_model_input([self._frames.frame(frame)], view, device) for view, frame in keys]
        return self._steps.encode(torch.cat(images))

    def _look_at(self, segment: str, keyframes: Mapping[int, FramePrompts]) -> _Track:
        """Choose what the model sees of a segment by its prompts, unless they are well in view already.

        Returns:
            What to work with: while the segment is being carried, its run's own view is left alone.
        """
        track = self._track(segment)
        if not self._follows_prompts:
            return track
        found = [self._region(track, frame, said) for frame, said in keyframes.items() if said.is_positive]
        regions = [region for region in found if region is not None]
        if not regions:
            return track
        region = looking.union(regions)
        wanted = looking.close_view(self._frames, self._steps.input_size, region, self._style)
        if looking.shows(track.view, region) and (
            track.written or not looking.is_much_closer(wanted, track.view)
        ):
            return track
        # Another segment's view saves encoding the same frames twice.
        shared = (t.view for t in self._tracks.values() if looking.serves(t.view, region, wanted))
        changed = track.seen_anew(next(shared, wanted))
        if segment not in self._running:
            self._tracks[segment] = changed
        return changed

    def _region(self, track: _Track, frame: int, prompts: FramePrompts) -> looking.PixelBox | None:
        """Where a keyframe's structure is; clicks alone do not tell how large it is, their mask does."""
        region = looking.region_of(prompts)
        if region is not None:
            return region
        mask = self._key(track, frame, prompts).mask
        return looking.region_of(FramePrompts(clicks=prompts.clicks, mask=mask)) if mask.any() else None

    def encode_ahead(self, order: Iterable[int], should_stop: Callable[[], bool]) -> int:
        """Encode frames, as the segment last previewed is looked at, while nothing else is asked for.

        Args:
            order: frame indices, most wanted first.
            should_stop: asked before every batch.

        Returns:
            How many frames were encoded.
        """
        before = self.features.encoded_frames
        view = self._tracks[self._latest].view if self._latest in self._tracks else self._view
        todo = [(view, index) for index in order if (view, index) not in self.features]
        size = self.features.batch_size
        for start in range(0, len(todo), size):
            if should_stop() or self.features.is_full:
                break
            self.features.get(todo[start : start + size])
        return self.features.encoded_frames - before

    # --- previews -----------------------------------------------------------------------------------

    def preview(self, frame: int, prompts: FramePrompts, segment: str = "") -> FrameMask:
        """The mask of one frame from its prompts alone.

        Returns:
            The mask; a mask prompt without clicks comes back as it is.

        Raises:
            SAM2PropagateError: `out_of_memory`.
        """
        track = self._look_at(segment, {frame: prompts})
        self._latest = segment
        key = self._key(track, frame, prompts)
        return self._key_mask(segment, frame, key, PREVIEW)

    def _track(self, segment: str) -> _Track:
        return self._tracks.setdefault(segment, _Track(self._view))

    def _key(self, track: _Track, frame: int, prompts: FramePrompts) -> _Key:
        known = track.keys.get(frame)
        if known is not None and known.fingerprint == prompts.fingerprint:
            return known
        key = self._decoded_key(track.view, frame, prompts)
        track.keys[frame] = key
        return key

    def _decoded_key(self, view: FrameView, frame: int, prompts: FramePrompts) -> _Key:
        if prompts.absent or not (prompts.clicks or prompts.box or prompts.mask is not None):
            return _Key(prompts, _nothing(self._steps.device), np.zeros(self._frames.native_shape, bool))
        features = self.features.get([(view, frame)])[view, frame]
        mask = prompts.mask
        if mask is not None and not prompts.clicks:
            decoded = self._with_room(lambda: self._steps.decode_mask(features, self._seen(mask, view)))
            return _Key(prompts, decoded, mask)
        return _Key(prompts, *self._with_room(lambda: self._decode_prompts(features, view, prompts)))

    def _memory(self, track: _Track, frame: int, key: _Key) -> Memory:
        if key.memory is None:
            features = self.features.get([(track.view, frame)])[track.view, frame]
            key.memory = self._with_room(
                lambda: self._steps.remember([features], [key.decoded], prompted=True)[0]
            )
        return key.memory

    def _decode_prompts(
        self, features: FrameFeatures, view: FrameView, prompts: FramePrompts
    ) -> tuple[Decoded, np.ndarray]:
        if prompts.mask is None:
            decoded = self._decode_points(features, view, prompts.box, prompts.clicks)
            return decoded, _native_mask(decoded.logits, view)
        mask = self._corrected(features, view, prompts)
        return self._steps.decode_mask(features, self._seen(mask, view)), mask

    def _corrected(self, features: FrameFeatures, view: FrameView, prompts: FramePrompts) -> np.ndarray:
        """The prompts' mask after its clicks, each taken on what those before it made of it."""
        assert prompts.mask is not None
        mask = prompts.mask
        for count, click in enumerate(prompts.clicks, 1):
            start = self._as_logits(mask, view)
            decoded = self._decode_points(features, view, prompts.box, prompts.clicks[:count], start)
            changed = refined(mask, _native_mask(decoded.logits, view), click)
            if changed is mask:
                # Starting from the mask, the model stays with it: ask what lies at the click by itself.
                x, y, _ = click
                alone = self._decode_points(features, view, None, ((x, y, True),))
                changed = toggled(mask, _native_mask(alone.logits, view), click)
            mask = changed
        return mask

    def _decode_points(
        self,
        features: FrameFeatures,
        view: FrameView,
        box: looking.PixelBox | None,
        clicks: Sequence[tuple[float, float, bool]],
        start: torch.Tensor | None = None,
    ) -> Decoded:
        points: list[tuple[float, float]] = []
        labels: list[int] = []
        if box is not None:
            points += [box[:2], box[2:]]
            labels += [2, 3]
        points += [(x, y) for x, y, _ in clicks]
        labels += [int(positive) for _, _, positive in clicks]
        device = self._steps.device
        # The prompt encoder counts from pixel centres, the view from pixel edges.
        where = torch.tensor(view.to_model(np.array(points)) - 0.5, dtype=torch.float32, device=device)
        what = torch.tensor(labels, dtype=torch.int32, device=device)
        return self._steps.decode_prompts(features, where, what, start)

    def _as_logits(self, mask: np.ndarray, view: FrameView) -> torch.Tensor:
        """(1, 1, 4h, 4w): a mask as the decoder takes one to start from."""
        return torch.nn.functional.interpolate(
            (self._seen(mask, view) * 2 - 1) * MASK_PROMPT_LOGIT,
            scale_factor=0.25,
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )

    def _seen(self, mask: np.ndarray, view: FrameView) -> torch.Tensor:
        return imaging.mask_to_model(mask, view, self._steps.device)

    def _key_mask(self, segment: str, frame: int, key: _Key, kind: str) -> FrameMask:
        given = key.decoded.iou >= 1.0
        return FrameMask(
            segment,
            frame,
            key.mask,
            key.decoded.iou,
            key.decoded.object_score,
            0.0 if given else doubt_of(Evidence(iou=key.decoded.iou, object_score=key.decoded.object_score)),
            kind,
        )

    # --- runs ---------------------------------------------------------------------------------------

    def propagate(
        self,
        run: RunRequest,
        on_frame: Callable[[FrameMask], None],
        between: Callable[[float], None] = lambda done: None,
    ) -> RunSummary:
        """Carry the keyframes over their stretches.

        Only stretches whose keyframes changed since the last run are computed; a locked frame is passed
        through but never written.

        Args:
            run: what to do.
            on_frame: takes each finished frame, once; before that a draft of it, if it has no mask yet and
                has to wait for the other keyframe's side, or until it is known how its segment ends.
            between: called between two steps with how many of the `expected_frames` are done, a frame that
                waits for its other side by half; what it raises (as `Cancelled`) ends the run, and what was
                finished or drafted until then stays.

        Raises:
            SAM2PropagateError: `out_of_memory`.
        """
        started = time.perf_counter()
        encoded = self.features.encoded_frames
        tracks = [self._look_at(segment.segment, segment.keyframes) for segment in run.segments]
        counter = _Counter(on_frame)
        jobs: list[_Job] = []
        self._running = frozenset(segment.segment for segment in run.segments)
        try:
            for segment, track in zip(run.segments, tracks, strict=True):
                between(counter.written)
                work = self._work(segment, track, run)
                jobs += self._prepare(work, track, counter, between)
            self._carry(jobs, counter, between)
        finally:
            self._running = frozenset()
            for job in jobs:
                for front in (job.left, job.right):
                    if front is not None:
                        front.rest()
        return RunSummary(
            counter.written,
            counter.computed,
            self.features.encoded_frames - encoded,
            time.perf_counter() - started,
            tuple((job.stretch.segment, job.stretch.first, job.stretch.last) for job in jobs),
        )

    def expected_frames(self, run: RunRequest) -> int:
        """How many masks a run would write, as far as that is known before it."""
        return sum(self._work(s, self._track(s.segment), run).frames for s in run.segments)

    def _work(self, segment: ResolvedSegment, track: _Track, run: RunRequest) -> _Work:
        known = track.written
        written = {} if run.everything else known
        keyframes = tuple(
            frame
            for frame, prompts in segment.keyframes.items()
            if frame not in segment.locked and written.get(frame) != _key_mark(prompts)
        )
        stretches = []
        for stretch in plan(segment, run.direction, run.reach):
            mark = signature(stretch, segment.keyframes)
            stale = tuple(f for f in stretch.frames if f not in segment.locked and written.get(f) != mark)
            if stale:
                stretches.append((stretch, mark, stale))
        withdrawn = tuple(
            frame
            for frame in sorted(known)
            if _is_ruled_out(segment, frame)
            and frame not in segment.locked
            and written.get(frame) != _WITHDRAWN
        )
        return _Work(segment, keyframes, tuple(stretches), withdrawn)

    def _prepare(
        self,
        work: _Work,
        track: _Track,
        counter: _Counter,
        between: Callable[[float], None],
    ) -> list[_Job]:
        segment = work.segment
        keys: dict[int, _Key] = {}
        for frame, prompts in segment.keyframes.items():
            between(counter.written)
            keys[frame] = self._key(track, frame, prompts)
            if frame in work.keyframes:
                kind = ABSENT if prompts.absent else KEYFRAME
                counter.write(self._key_mask(segment.segment, frame, keys[frame], kind))
                track.written[frame] = _key_mark(prompts)
        for frame in work.withdrawn:
            counter.write(_empty_mask(segment.segment, frame, self._frames.native_shape))
            track.written[frame] = _WITHDRAWN
        track.keys = keys
        self._drop_old_fronts(track, segment.keyframes)
        return [
            _Job(
                stretch,
                mark,
                track,
                self._front(track, stretch.left, 1, keys),
                self._front(track, stretch.right, -1, keys),
                list(stale),
                self._patience,
                _shapes(stretch, keys),
            )
            for stretch, mark, stale in work.stretches
        ]

    def _front(self, track: _Track, source: int | None, step: int, keys: Mapping[int, _Key]) -> Front | None:
        if source is None:
            return None
        key = keys[source]
        name = (source, key.fingerprint, step)
        if name not in track.fronts:
            track.fronts[name] = Front(
                source,
                step,
                self._memory(track, source, key),
                self.frame_count,
                self._steps.slots,
                self._steps.max_pointers,
            )
        return track.fronts[name]

    @staticmethod
    def _drop_old_fronts(track: _Track, keyframes: Mapping[int, FramePrompts]) -> None:
        track.fronts = {
            name: front
            for name, front in track.fronts.items()
            if name[0] in keyframes and keyframes[name[0]].fingerprint == name[1]
        }

    def _carry(self, jobs: list[_Job], counter: _Counter, between: Callable[[float], None]) -> None:
        def pause() -> None:
            between(counter.written + sum(job.done for job in jobs))

        for job in jobs:
            self._write_finished(job, counter, pause)
        while active := _active_fronts(jobs):
            pause()
            # No more at once than make a batch: what they remember takes memory.
            self._step(active[: self._max_batch], counter)
            for job in jobs:
                self._write_finished(job, counter, pause)

    def _step(self, active: list[_Active], counter: _Counter) -> None:
        """Every front one frame further."""
        upcoming = (
            (a.view, a.front.next_frame + a.front.step * ahead)
            for ahead in range(1, self.features.batch_size + 1)
            for a in active
            if (a.end - a.front.next_frame) * a.front.step >= ahead
        )
        features = self.features.get([(a.view, a.front.next_frame) for a in active], upcoming)
        seen = {id(a.front): features[a.view, a.front.next_frame] for a in active}
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
        elif self.features.offload():
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

    def _with_room(self, work: Callable[[], _Result]) -> _Result:
        """The result of a step on one frame; where memory is short, once more without kept features."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            if not self.features.offload():
                raise out_of_memory_error(self._steps.device)

    def _write_finished(self, job: _Job, counter: _Counter, pause: Callable[[], None]) -> None:
        waiting = []
        is_open_ended, finished, drafts = job.is_open_ended, 0, 0
        for frame in job.pending:
            left = _found(job, job.left, frame)
            right = _found(job, job.right, frame)
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
        self, job: _Job, frame: int, left: Tracked | None, right: Tracked | None, counter: _Counter
    ) -> None:
        """Show what is known of a frame that has no mask yet; the next run knows it as out of date."""
        if frame in job.track.written:
            return
        found = left if left is not None else right
        assert found is not None
        draft = self._propagated(job, frame, found.logits.float(), found.iou, found.object_score)
        counter.show(replace(draft, doubt=max(draft.doubt, _DRAFT_DOUBT)))
        job.track.written[frame] = _DRAFTED

    def _finished(self, job: _Job, frame: int, left: Tracked | None, right: Tracked | None) -> FrameMask:
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
        return self._propagated(job, frame, logits, iou, score, agreement)

    def _propagated(
        self,
        job: _Job,
        frame: int,
        logits: torch.Tensor,
        iou: float,
        score: float,
        agreement: float = 1.0,
    ) -> FrameMask:
        view = job.track.view
        mask = _native_mask(logits, view)
        evidence = Evidence.of(logits, iou, score, agreement, is_cut=looking.is_cut(mask, view))
        return FrameMask(job.stretch.segment, frame, mask, iou, score, doubt_of(evidence), PROPAGATED)


class _Counter:
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


@dataclass(frozen=True)
class _Active:
    """A front that still has frames to go, the last frame it is wanted on, and how it looks at them."""

    front: Front
    end: int
    view: FrameView


def _active_fronts(jobs: list[_Job]) -> list[_Active]:
    active: dict[int, _Active] = {}
    for job in jobs:
        if not job.pending:
            continue
        reach = (job.pending[-1], job.pending[0])
        if job.end is not None:
            reach = (job.beside_absent, job.beside_absent)
        for front, end in zip((job.left, job.right), reach, strict=True):
            if front is None or job.has_lost(front) or (end - front.next_frame) * front.step < 0:
                continue
            known = active.get(id(front))
            if known is None or (end - known.end) * front.step > 0:
                active[id(front)] = _Active(front, end, job.track.view)
    return list(active.values())


def _shapes(stretch: Stretch, keys: Mapping[int, _Key]) -> tuple[Shape, Shape] | None:
    """The shapes on the keyframes on both sides of a stretch."""
    if stretch.left is None or stretch.right is None:
        return None
    left, right = (Shape.of(keys[key].decoded.logits) for key in (stretch.left, stretch.right))
    return None if left is None or right is None else (left, right)


def _native_mask(logits: torch.Tensor, view: FrameView) -> np.ndarray:
    """bool (rows, columns): logits (4h, 4w) on the native frame, without holes and specks."""
    mask = imaging.logits_to_native(logits, view) > 0
    x0, y0, x1, y1 = view.crop
    pixels = (x1 - x0) * (y1 - y0) / (logits.shape[-1] * logits.shape[-2])
    return clean(mask, _NOISE_AREA * pixels)


def _key_mark(prompts: FramePrompts) -> tuple[object, ...]:
    return "keyframe", prompts.fingerprint


def _found(job: _Job, front: Front | None, frame: int) -> Tracked | None:
    if front is None:
        return None
    known = front.found.get(frame)
    return front.last_found if known is None and job.has_lost(front) else known


def _is_ruled_out(segment: ResolvedSegment, frame: int) -> bool:
    """Whether only absent marks lie next to a frame: beyond the last one, or between two of them."""
    if frame in segment.keyframes:
        return False
    before = max((key for key in segment.keyframes if key < frame), default=None)
    after = min((key for key in segment.keyframes if key > frame), default=None)
    neighbours = [segment.keyframes[key] for key in (before, after) if key is not None]
    return bool(neighbours) and all(prompts.absent for prompts in neighbours)


def _empty_mask(segment: str, frame: int, shape: tuple[int, int]) -> FrameMask:
    return FrameMask(segment, frame, np.zeros(shape, bool), 1.0, -MASK_PROMPT_LOGIT, 0.0, ABSENT)


def _nothing(device: torch.device) -> Decoded:
    empty = torch.zeros(1, 1, device=device)
    return Decoded(empty, 1.0, -MASK_PROMPT_LOGIT, empty[0])
