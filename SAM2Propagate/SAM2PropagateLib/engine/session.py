"""One volume along one axis in the engine: previews, runs, and what is kept between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from SAM2PropagateLib.engine import imaging
from SAM2PropagateLib.engine.blend import blended
from SAM2PropagateLib.engine.doubt import Evidence, doubt_of
from SAM2PropagateLib.engine.features import FeatureStore
from SAM2PropagateLib.engine.front import Front, Tracked, batches
from SAM2PropagateLib.engine.memory_limits import is_out_of_memory, out_of_memory_error
from SAM2PropagateLib.engine.plan import Stretch, plan, signature
from SAM2PropagateLib.engine.postprocess import clean
from SAM2PropagateLib.engine.refine import refined
from SAM2PropagateLib.engine.results import (
    ABSENT,
    KEYFRAME,
    PREVIEW,
    PROPAGATED,
    FrameMask,
    RunRequest,
    RunSummary,
)
from SAM2PropagateLib.engine.steps import MASK_PROMPT_LOGIT, Decoded, FrameFeatures, Memory, ModelSteps
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.view import FrameView
from SAM2PropagateLib.prompts.resolve import FramePrompts, ResolvedSegment

# Holes and specks up to this many pixels of the model's logit grid are noise (sam2's own limit).
_NOISE_AREA = 8


@dataclass(frozen=True)
class _Key:
    """A decoded keyframe."""

    fingerprint: str
    decoded: Decoded
    mask: np.ndarray
    memory: Memory | None


@dataclass
class _Track:
    """What is kept of one segment between runs."""

    keys: dict[int, _Key] = field(default_factory=dict)
    fronts: dict[tuple[int, str, int], Front] = field(default_factory=dict)
    written: dict[int, tuple[object, ...]] = field(default_factory=dict)


@dataclass
class _Job:
    """A stretch of the run under way, with the fronts that cross it."""

    stretch: Stretch
    signature: tuple[object, ...]
    left: Front | None
    right: Front | None
    locked: frozenset[int]
    pending: list[int]
    previous: dict[int, np.ndarray] = field(default_factory=dict)


class EngineSession:
    """Previews and runs over one volume along one axis.

    Args:
        steps: the model.
        frames: the volume as frames, with its window.
        view: which part of a frame the model sees.
        store: makes the feature store, given the function that encodes frames.
        max_batch: frames tracked at once at most.
    """

    def __init__(
        self,
        steps: ModelSteps,
        frames: FrameStack,
        view: FrameView,
        store: Callable[[Callable[[Sequence[int]], list[FrameFeatures]]], FeatureStore],
        max_batch: int,
    ) -> None:
        self._steps = steps
        self._frames = frames
        self.view = imaging.whole_pixels(view)
        self.features = store(self._encode)
        self._max_batch = max_batch
        self._tracks: dict[str, _Track] = {}

    # --- frames -------------------------------------------------------------------------------------

    @property
    def frame_count(self) -> int:
        return self._frames.count

    def set_frames(self, frames: FrameStack) -> None:
        """Other frames of the same shape, as after a change of the window: everything is computed anew."""
        self._frames = frames
        self.features.clear()
        self._tracks.clear()

    def _encode(self, indices: Sequence[int]) -> list[FrameFeatures]:
        frames = [self._frames.frame(index) for index in indices]
        return self._steps.encode(imaging.to_model_input(frames, self.view, self._steps.device))

    def encode_ahead(self, order: Iterable[int], should_stop: Callable[[], bool]) -> int:
        """Encode frames while nothing else is asked for.

        Args:
            order: frame indices, most wanted first.
            should_stop: asked before every batch.

        Returns:
            How many frames were encoded.
        """
        before = self.features.encoded_frames
        todo = [index for index in order if index not in self.features]
        size = self.features.batch_size
        for start in range(0, len(todo), size):
            if should_stop():
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
        key = self._key(self._track(segment), frame, prompts)
        return self._key_mask(segment, frame, key, PREVIEW)

    def _track(self, segment: str) -> _Track:
        return self._tracks.setdefault(segment, _Track())

    def _key(self, track: _Track, frame: int, prompts: FramePrompts) -> _Key:
        known = track.keys.get(frame)
        if known is not None and known.fingerprint == prompts.fingerprint:
            return known
        key = self._decoded_key(frame, prompts)
        track.keys[frame] = key
        return key

    def _decoded_key(self, frame: int, prompts: FramePrompts) -> _Key:
        if prompts.absent or not (prompts.clicks or prompts.box or prompts.mask is not None):
            empty = np.zeros(self._frames.native_shape, bool)
            return _Key(prompts.fingerprint, _nothing(self._steps.device), empty, None)
        features = self.features.get([frame])[frame]
        if prompts.mask is not None and not prompts.clicks and prompts.box is None:
            mask = prompts.mask
            decoded = self._steps.decode_mask(features, self._seen(mask))
        else:
            decoded, mask = self._decode_prompts(features, prompts)
        memory = None
        if prompts.is_positive:
            memory = self._steps.remember([features], [decoded], prompted=True)[0]
        return _Key(prompts.fingerprint, decoded, mask, memory)

    def _decode_prompts(self, features: FrameFeatures, prompts: FramePrompts) -> tuple[Decoded, np.ndarray]:
        points: list[tuple[float, float]] = []
        labels: list[int] = []
        if prompts.box is not None:
            x0, y0, x1, y1 = prompts.box
            points += [(x0, y0), (x1, y1)]
            labels += [2, 3]
        points += [(x, y) for x, y, _ in prompts.clicks]
        labels += [int(positive) for _, _, positive in prompts.clicks]
        device = self._steps.device
        # The prompt encoder counts from pixel centres, the view from pixel edges.
        where = torch.tensor(self.view.to_model(np.array(points)) - 0.5, dtype=torch.float32, device=device)
        what = torch.tensor(labels, dtype=torch.int32, device=device)
        if prompts.mask is None:
            decoded = self._steps.decode_prompts(features, where, what)
            return decoded, self._native_mask(decoded.logits)
        start = (self._seen(prompts.mask) * 2 - 1) * MASK_PROMPT_LOGIT
        start = torch.nn.functional.interpolate(
            start, scale_factor=0.25, mode="bilinear", align_corners=False, antialias=True
        )
        decoded = self._steps.decode_prompts(features, where, what, start)
        mask = refined(prompts.mask, self._native_mask(decoded.logits), prompts.clicks)
        return self._steps.decode_mask(features, self._seen(mask)), mask

    def _seen(self, mask: np.ndarray) -> torch.Tensor:
        return imaging.mask_to_model(mask, self.view, self._steps.device)

    def _native_mask(self, logits: torch.Tensor) -> np.ndarray:
        mask = imaging.logits_to_native(logits, self.view) > 0
        x0, y0, x1, y1 = self.view.crop
        pixels = (x1 - x0) * (y1 - y0) / (logits.shape[-1] * logits.shape[-2])
        return clean(mask, _NOISE_AREA * pixels)

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
        between: Callable[[], None] = lambda: None,
    ) -> RunSummary:
        """Carry the keyframes over their stretches.

        Only stretches whose keyframes changed since the last run are computed; a locked frame is passed
        through but never written.

        Args:
            run: what to do.
            on_frame: takes each finished frame, once.
            between: called between two steps; what it raises (as `Cancelled`) ends the run, and what was
                finished until then stays.

        Raises:
            SAM2PropagateError: `out_of_memory`.
        """
        started = time.perf_counter()
        encoded = self.features.encoded_frames
        counter = _Counter(on_frame)
        jobs: list[_Job] = []
        for segment in run.segments:
            between()
            jobs += self._prepare(segment, run, counter, between)
        self._carry(jobs, counter, between)
        return RunSummary(
            counter.written,
            counter.computed,
            self.features.encoded_frames - encoded,
            time.perf_counter() - started,
            tuple((job.stretch.segment, job.stretch.first, job.stretch.last) for job in jobs),
        )

    def _prepare(
        self, segment: ResolvedSegment, run: RunRequest, counter: _Counter, between: Callable[[], None]
    ) -> list[_Job]:
        track = self._track(segment.segment)
        keys: dict[int, _Key] = {}
        for frame in sorted(segment.keyframes):
            between()
            prompts = segment.keyframes[frame]
            keys[frame] = self._key(track, frame, prompts)
            known = ("key", prompts.fingerprint)
            if frame not in segment.locked and (run.everything or track.written.get(frame) != known):
                kind = ABSENT if prompts.absent else KEYFRAME
                counter.write(self._key_mask(segment.segment, frame, keys[frame], kind))
                track.written[frame] = known
        track.keys = keys
        self._drop_old_fronts(track, segment.keyframes)
        jobs = []
        for stretch in plan(segment, run.direction, run.reach):
            mark = signature(stretch, segment.keyframes)
            stale = [f for f in stretch.frames if f not in segment.locked and track.written.get(f) != mark]
            if run.everything:
                stale = [f for f in stretch.frames if f not in segment.locked]
            if stale:
                left = self._front(track, stretch.left, 1, keys, run.everything)
                right = self._front(track, stretch.right, -1, keys, run.everything)
                jobs.append(_Job(stretch, mark, left, right, segment.locked, stale))
        return jobs

    def _front(
        self, track: _Track, source: int | None, step: int, keys: Mapping[int, _Key], anew: bool
    ) -> Front | None:
        if source is None:
            return None
        key = keys[source]
        assert key.memory is not None
        name = (source, key.fingerprint, step)
        if anew or name not in track.fronts:
            track.fronts[name] = Front(
                source, step, key.memory, self.frame_count, self._steps.slots, self._steps.max_pointers
            )
        return track.fronts[name]

    @staticmethod
    def _drop_old_fronts(track: _Track, keyframes: Mapping[int, FramePrompts]) -> None:
        track.fronts = {
            name: front
            for name, front in track.fronts.items()
            if name[0] in keyframes and keyframes[name[0]].fingerprint == name[1]
        }

    def _carry(self, jobs: list[_Job], counter: _Counter, between: Callable[[], None]) -> None:
        for job in jobs:
            self._write_finished(job, counter)
        while True:
            active = _active_fronts(jobs)
            if not active:
                return
            between()
            self._step([front for front, _ in active], [end for _, end in active], counter)
            for job in jobs:
                self._write_finished(job, counter)

    def _step(self, fronts: list[Front], ends: list[int], counter: _Counter) -> None:
        upcoming = (
            front.next_frame + front.step * ahead
            for ahead in range(1, self.features.batch_size + 1)
            for front, end in zip(fronts, ends, strict=True)
            if (end - front.next_frame) * front.step >= ahead
        )
        features = self.features.get([front.next_frame for front in fronts], upcoming)
        for group in batches(fronts, self._max_batch):
            self._advance(group, features)
            counter.computed += len(group)

    def _advance(self, group: list[Front], features: Mapping[int, FrameFeatures]) -> None:
        """Track a batch of fronts one frame further; on too little memory in two halves, and so on."""
        seen = [features[front.next_frame] for front in group]
        try:
            decoded = self._steps.track(seen, [front.recall() for front in group])
            memories = self._steps.remember(seen, decoded, prompted=False)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(group) == 1:
                if self.features.nbytes == 0 or self._steps.device.type == "cpu":
                    raise out_of_memory_error(self._steps.device) from error
                self.features.offload()
                self._max_batch = 1
                self._advance(group, features)
                return
            self._max_batch = max(1, len(group) // 2)
            self._advance(group[: self._max_batch], features)
            self._advance(group[self._max_batch :], features)
            return
        for front, answer, memory in zip(group, decoded, memories, strict=True):
            front.advance(answer, memory)

    def _write_finished(self, job: _Job, counter: _Counter) -> None:
        track = self._tracks[job.stretch.segment]
        waiting = []
        for frame in job.pending:
            left = _found(job.left, frame)
            right = _found(job.right, frame)
            if (job.left is not None and left is None) or (job.right is not None and right is None):
                waiting.append(frame)
                continue
            counter.write(self._finished(job, frame, left, right))
            track.written[frame] = job.signature
        job.pending = waiting

    def _finished(self, job: _Job, frame: int, left: Tracked | None, right: Tracked | None) -> FrameMask:
        stretch = job.stretch
        logits, iou, score = blended(
            left,
            right,
            0 if stretch.left is None else frame - stretch.left,
            0 if stretch.right is None else stretch.right - frame,
        )
        mask = self._native_mask(logits)
        evidence = Evidence.of(logits, iou, score, left, right)
        return FrameMask(stretch.segment, frame, mask, iou, score, doubt_of(evidence), PROPAGATED)


class _Counter:
    """Hands finished frames on and counts them."""

    def __init__(self, on_frame: Callable[[FrameMask], None]) -> None:
        self._on_frame = on_frame
        self.written = 0
        self.computed = 0

    def write(self, mask: FrameMask) -> None:
        self._on_frame(mask)
        self.written += 1


def _active_fronts(jobs: list[_Job]) -> list[tuple[Front, int]]:
    """Fronts that still have frames to go, each with the last frame it is wanted on."""
    wanted: dict[int, tuple[Front, int]] = {}
    for job in jobs:
        if not job.pending:
            continue
        for front, end in ((job.left, job.pending[-1]), (job.right, job.pending[0])):
            if front is None or (end - front.next_frame) * front.step < 0:
                continue
            known = wanted.get(id(front))
            if known is None or (end - known[1]) * front.step > 0:
                wanted[id(front)] = (front, end)
    return list(wanted.values())


def _found(front: Front | None, frame: int) -> Tracked | None:
    return None if front is None else front.found.get(frame)


def _nothing(device: torch.device) -> Decoded:
    empty = torch.zeros(1, 1, device=device)
    return Decoded(empty, 1.0, -MASK_PROMPT_LOGIT, empty[0])
