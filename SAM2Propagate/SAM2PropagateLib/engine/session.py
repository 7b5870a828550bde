"""Previews and runs over one volume along one axis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from SAM2PropagateLib.engine import crops, imaging
from SAM2PropagateLib.engine.appearance import pixel_maps
from SAM2PropagateLib.engine.carry import Carrier, Counter
from SAM2PropagateLib.engine.crops import Sight
from SAM2PropagateLib.engine.elder import Elder
from SAM2PropagateLib.engine.family import MASK_PROMPT_LOGIT, EncodedFrame, ModelSteps
from SAM2PropagateLib.engine.features import FeatureKey, FeatureStore
from SAM2PropagateLib.engine.front import Course, Front, Recollection
from SAM2PropagateLib.engine.fusion import Carried
from SAM2PropagateLib.engine.jobs import WITHDRAWN, Job, Track, Work, keyframe_mark, shapes_beside, work_of
from SAM2PropagateLib.engine.keyframes import Keyframe, KeyframeDecoder
from SAM2PropagateLib.engine.memory_limits import told_of_memory
from SAM2PropagateLib.engine.motion import MotionStore
from SAM2PropagateLib.engine.plan import Stretch
from SAM2PropagateLib.engine.results import (
    FrameMask,
    RunSummary,
)
from SAM2PropagateLib.frame_kinds import ABSENT, KEYFRAME, PREVIEW
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts
from SAM2PropagateLib.run_options import RunRequest

# After this many frames without a trace of the segment it counts as ended, and no further frames are
# computed.
PATIENCE = 6


@dataclass(frozen=True)
class SessionSettings:
    """The settings of a session.

    Attributes:
        max_batch: the most frames tracked at once.
        style: how to make the model's input from a frame that is not square; see `crops`.
        patience: frames without a trace of a segment after which it counts as ended; None: never.
        motion_budget: bytes of motion between frames that may be kept; None: no motion is used.
    """

    max_batch: int
    style: str = crops.STRETCHED
    patience: int | None = PATIENCE
    motion_budget: int | None = None


class EngineSession:
    """Previews and runs over one volume along one axis.

    Args:
        steps: the model.
        frames: the volume as frames, with its window.
        crop: the part of a frame that the model sees; None: chosen for each segment by its prompts.
        store: makes the feature store, given the function that encodes frames.
        settings: of the session.
    """

    def __init__(
        self,
        steps: ModelSteps,
        frames: FrameStack,
        crop: FrameCrop | None,
        store: Callable[[Callable[[Sequence[FeatureKey]], Sequence[EncodedFrame]]], FeatureStore],
        settings: SessionSettings,
    ) -> None:
        style, motion_budget = settings.style, settings.motion_budget
        self._steps = steps
        self._frames = frames
        self._style = style
        self._follows_prompts = crop is None
        self._crop = (
            crops.whole_crop(frames, steps.input_size, style) if crop is None else imaging.whole_pixels(crop)
        )
        self.features = store(self._encode)
        self._decoder = KeyframeDecoder(steps, self.features, frames.native_shape)
        self.motion = None if motion_budget is None else MotionStore(self._seen_through, motion_budget)
        self._carrier = Carrier(steps, self.features, settings.max_batch, self.motion)
        self._patience = settings.patience
        self._tracks: dict[str, Track] = {}
        self._latest, self._latest_frame = "", 0
        self._running: frozenset[str] = frozenset()

    # --- frames -------------------------------------------------------------------------------------

    @property
    def frame_count(self) -> int:
        return self._frames.count

    def set_frames(self, frames: FrameStack) -> None:
        """Use another window for the same frames.

        A segment that has been carried keeps its window until a run `anew`, so that a correction changes only
        the frames around it.
        """
        self._frames = frames
        self._forget_unused()

    def close(self) -> None:
        """Free everything that is kept, at the end of the session."""
        self._tracks.clear()
        self.features.keep_only(())
        if self.motion is not None:
            self.motion.close()

    def _forget_unused(self) -> None:
        """Drop the features of crops and windows that no segment uses any more."""
        present = self._frames.window
        used = {self._sight, *(Sight(track.crop, present) for track in self._tracks.values())}
        used |= {track.sight for track in self._tracks.values() if track.written}
        self.features.keep_only(used)
        if self.motion is not None:
            self.motion.keep_only(used)

    def _seen_through(self, sight: Sight, frame: int) -> npt.NDArray[np.uint8]:
        """Return a native frame in a sight's window, uint8 (rows, columns)."""
        return self._frames.with_window(sight.window).frame(frame)

    def crop_of(self, segment: str) -> FrameCrop:
        """Return the crop of a segment."""
        return self._track(segment).crop

    def window_of(self, segment: str) -> Window:
        """Return the window of a segment."""
        return self._track(segment).sight.window

    def _encode(self, keys: Sequence[FeatureKey]) -> Sequence[EncodedFrame]:
        device = self._steps.device
        images = []
        for sight, frame in keys:
            images.append(imaging.to_model_input([self._seen_through(sight, frame)], sight.crop, device))
        return self._steps.encode(torch.cat(images))

    def _look_at(self, segment: str, keyframes: Mapping[int, FramePrompts], *, anew: bool = False) -> Track:
        """Choose a segment's crop by its prompts, unless the present one is good enough.

        Returns:
            The segment's track; while the segment is being carried, one that leaves the run's crop alone.
        """
        track = self._track(segment, anew=anew)
        if not self._follows_prompts:
            return track
        found = [self._region(track, frame, said) for frame, said in keyframes.items() if said.is_positive]
        regions = [region for region in found if region is not None]
        if not regions:
            return track
        region = crops.union(regions)
        wanted = crops.close_crop(self._frames, self._steps.input_size, region, self._style)
        if crops.shows(track.crop, region) and (
            track.written or not crops.is_much_closer(wanted, track.crop)
        ):
            return track
        # With another segment's crop the frames need not be encoded again.
        shared = (t.crop for t in self._tracks.values() if crops.serves(t.crop, region, wanted))
        changed = track.seen_in(Sight(next(shared, wanted), self._frames.window))
        if segment not in self._running:
            self._tracks[segment] = changed
        return changed

    def _region(self, track: Track, frame: int, prompts: FramePrompts) -> crops.PixelBox | None:
        """Return the region of a keyframe's structure: from its prompts or, for clicks and scribbles, from
        their mask."""
        region = crops.region_of(prompts)
        if region is not None:
            return region
        along = crops.along_strokes(prompts)
        if along is not None:
            # A stroke shows a least size of the structure; a close crop keeps the model from finding too
            # much.
            crop = crops.close_crop(self._frames, self._steps.input_size, along, self._style)
            if crops.is_much_closer(crop, track.crop):
                mask = self._decoder.decoded(Sight(crop, track.sight.window), frame, prompts).mask
                if mask.any() and not crops.is_cut(mask, crop):
                    return crops.region_of(replace(prompts, mask=mask))
        mask = self._keyframe(track, frame, prompts).mask
        return crops.region_of(replace(prompts, mask=mask)) if mask.any() else None

    def encode_ahead(self, order: Iterable[int], should_stop: Callable[[], bool]) -> int:
        """Encode and register frames in the sight of the last previewed segment, while no request waits.

        Args:
            order: frame indices, the most important first.
            should_stop: called before every batch.

        Returns:
            How many frames were encoded.
        """
        before = self.features.encoded_frames
        sight = self._track(self._latest).sight if self._latest in self._tracks else self._sight
        todo = [(sight, index) for index in order if (sight, index) not in self.features]
        # On a CPU one at a time, so that a click waits less.
        size = 1 if self._steps.device.type == "cpu" else self.features.batch_size
        for start in range(0, len(todo), size):
            if should_stop() or self.features.is_full:
                break
            if self.motion is not None and not self.motion.is_full:
                self.motion.prepare(self._pairs_outward(todo[start : start + size]))
            self.features.get(todo[start : start + size])
        return self.features.encoded_frames - before

    def _pairs_outward(self, keys: Sequence[FeatureKey]) -> list[tuple[Sight, int, int]]:
        """Return the pairs of frames that a run from the last previewed frame to these frames will need."""
        start = self._latest_frame
        return [(sight, frame, 1 if frame > start else -1) for sight, frame in keys if frame != start]

    # --- previews -----------------------------------------------------------------------------------

    def preview(self, frame: int, prompts: FramePrompts, segment: str = "") -> FrameMask:
        """Return the mask of one frame from its prompts alone.

        Returns:
            The mask; a mask prompt without clicks comes back unchanged.

        Raises:
            SAM2PropagateError: `out_of_memory`.
        """
        with told_of_memory(self._steps.device):
            track = self._look_at(segment, {frame: prompts})
            self._latest, self._latest_frame = segment, frame
            keyframe = self._keyframe(track, frame, prompts)
            return self._with_room(keyframe.as_mask(segment, frame, PREVIEW))

    @property
    def _sight(self) -> Sight:
        """The sight of a segment without a track."""
        return Sight(self._crop, self._frames.window)

    def _track(self, segment: str, *, anew: bool = False) -> Track:
        """Return a segment's track. A new track takes the present window; `anew` has any track take it."""
        track = self._tracks.setdefault(segment, Track(self._sight))
        window = self._frames.window
        if track.sight.window != window and segment not in self._running and (anew or not track.written):
            track = self._tracks[segment] = track.seen_in(Sight(track.crop, window))
        return track

    def _keyframe(self, track: Track, frame: int, prompts: FramePrompts) -> Keyframe:
        known = track.keyframes.get(frame)
        if known is not None and known.fingerprint == prompts.fingerprint:
            return known
        keyframe = self._decoder.decoded(track.sight, frame, prompts)
        track.keyframes[frame] = keyframe
        return keyframe

    # --- runs ---------------------------------------------------------------------------------------

    def propagate(
        self,
        run: RunRequest,
        on_frame: Callable[[FrameMask], None],
        between: Callable[[float], None] = lambda done: None,
    ) -> RunSummary:
        """Carry the keyframes over their stretches.

        Only stretches whose keyframes have changed since the last run are computed. Fronts pass locked
        frames, but these are never written.

        Args:
            run: the segments and options.
            on_frame: called once with each finished frame. A frame without a mask that has to wait for the
                other keyframe's side, or for the end of its segment, comes as a draft before.
            between: called between two steps with how many of the `expected_frames` are done; a frame that
                waits for its other side counts half. An exception from it (such as `Cancelled`) ends the run;
                finished frames and drafts stay.

        Raises:
            SAM2PropagateError: `out_of_memory`.
        """
        with told_of_memory(self._steps.device):
            return self._propagated(run, on_frame, between)

    def _propagated(
        self, run: RunRequest, on_frame: Callable[[FrameMask], None], between: Callable[[float], None]
    ) -> RunSummary:
        started = time.perf_counter()
        encoded = self.features.encoded_frames
        tracks = [
            self._look_at(segment.segment, segment.keyframes, anew=run.options.anew)
            for segment in run.segments
        ]
        if run.options.anew:
            self._forget_unused()
        counter = Counter(lambda mask: on_frame(self._with_room(mask)))
        jobs: list[Job] = []
        self._running = frozenset(segment.segment for segment in run.segments)
        try:
            for segment, track in zip(run.segments, tracks, strict=True):
                between(counter.written)
                work = work_of(segment, track, run.options)
                jobs += self._prepare(work, track, counter, between)
            self._carrier.carry(jobs, counter, between)
        finally:
            self._running = frozenset()
            for job in jobs:
                for front in job.all_fronts:
                    front.rest()
        return RunSummary(
            counter.written,
            counter.computed,
            self.features.encoded_frames - encoded,
            time.perf_counter() - started,
            tuple((job.stretch.segment, job.stretch.first, job.stretch.last) for job in jobs),
        )

    def _with_room(self, mask: FrameMask) -> FrameMask:
        """Return the mask so that what it computes later frees kept features if main or GPU memory is short
        then."""
        edge, withheld = mask.edge, mask.withheld
        features = self.features
        if edge is not None:
            mask = replace(mask, edge=lambda: features.with_room(edge))
        if withheld is not None:
            mask = replace(mask, withheld=lambda: features.with_room(withheld))
        return mask

    def expected_frames(self, run: RunRequest) -> int:
        """Return how many masks a run would write, as far as that is known in advance."""
        return len(self.outdated(run))

    def outdated(self, run: RunRequest) -> list[tuple[str, int]]:
        """Return the (segment, frame)s that a run would write, as far as they are known in advance."""
        works = [work_of(one, self._track(one.segment), run.options) for one in run.segments]
        return [(work.segment.segment, frame) for work in works for frame in work.frames]

    def _prepare(
        self,
        work: Work,
        track: Track,
        counter: Counter,
        between: Callable[[float], None],
    ) -> list[Job]:
        segment = work.segment
        keyframes: dict[int, Keyframe] = {}
        for frame, prompts in segment.keyframes.items():
            between(counter.written)
            keyframes[frame] = self._keyframe(track, frame, prompts)
            if frame in work.keyframes:
                kind = ABSENT if prompts.absent else KEYFRAME
                counter.write(keyframes[frame].as_mask(segment.segment, frame, kind))
                track.written[frame] = keyframe_mark(prompts)
        for frame in work.withdrawn:
            counter.write(_empty_mask(segment.segment, frame, self._frames.native_shape))
            track.written[frame] = WITHDRAWN
        track.keyframes = keyframes
        self._drop_old_fronts(track, segment.keyframes)
        return [
            Job(
                stretch,
                mark,
                track,
                self._front(track, stretch.left, 1, stretch.holds, keyframes),
                self._front(track, stretch.right, -1, stretch.holds, keyframes),
                list(stale),
                self._patience,
                shapes_beside(stretch, keyframes),
                self._elder(track, stretch, keyframes),
            )
            for stretch, mark, stale in work.stretches
        ]

    def _front(
        self, track: Track, source: int | None, step: int, holds: bool, keyframes: Mapping[int, Keyframe]
    ) -> Front | None:
        if source is None:
            return None
        keyframe = keyframes[source]
        name = (source, keyframe.fingerprint, step, holds)
        if name not in track.fronts:
            track.fronts[name] = Front(
                Course(source, step, holds),
                self._decoder.memory(track.sight, source, keyframe),
                Recollection(self._steps.slots, min(self.frame_count, self._steps.max_pointers)),
                self._carried(track.sight, source, keyframe),
            )
        return track.fronts[name]

    def _elder(self, track: Track, stretch: Stretch, keyframes: Mapping[int, Keyframe]) -> Elder | None:
        source, step = (stretch.left, 1) if stretch.right is None else (stretch.right, -1)
        front = self._front(track, stretch.elder, step, stretch.holds, keyframes)
        return None if front is None or source is None else Elder(front, source, self._patience)

    def _carried(self, sight: Sight, frame: int, keyframe: Keyframe) -> Carried | None:
        """Return what the motion carries from a keyframe, and make it if there is none yet."""
        if keyframe.carried is None and self.motion is not None:
            device = self._steps.device
            features = self.features.get([(sight, frame)])[sight, frame]
            picture = self.motion.picture(sight, frame)
            keyframe.carried = self.features.with_room(
                lambda: Carried.of(keyframe.decoded, pixel_maps(picture, features, device))
            )
        return keyframe.carried

    @staticmethod
    def _drop_old_fronts(track: Track, keyframes: Mapping[int, FramePrompts]) -> None:
        track.fronts = {
            name: front
            for name, front in track.fronts.items()
            if name[0] in keyframes and keyframes[name[0]].fingerprint == name[1]
        }


def _empty_mask(segment: str, frame: int, shape: tuple[int, int]) -> FrameMask:
    return FrameMask(segment, frame, np.zeros(shape, bool), 1.0, -MASK_PROMPT_LOGIT, 0.0, ABSENT)
