"""The work of a run, per segment and per stretch, and its progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from SAM2PropagateLib.engine.crops import Sight
from SAM2PropagateLib.engine.elder import Elder
from SAM2PropagateLib.engine.front import Front, Tracked
from SAM2PropagateLib.engine.keyframes import Keyframe
from SAM2PropagateLib.engine.plan import Stretch, plan, signature
from SAM2PropagateLib.engine.shape import Shape, depth
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunOptions

# Signatures of a frame that was emptied, and of one that has only a draft.
WITHDRAWN: tuple[object, ...] = ("withdrawn",)
DRAFTED: tuple[object, ...] = ("draft",)


@dataclass
class Track:
    """What a session keeps of one segment between runs, and how the model sees it."""

    sight: Sight
    keyframes: dict[int, Keyframe] = field(default_factory=dict)
    fronts: dict[tuple[int, str, int, bool], Front] = field(default_factory=dict)
    written: dict[int, tuple[object, ...]] = field(default_factory=dict)

    @property
    def crop(self) -> FrameCrop:
        return self.sight.crop

    def seen_in(self, sight: Sight) -> Track:
        """Return a track with the same written frames, all of them out of date."""
        return Track(sight, written=dict.fromkeys(self.written, ()))


@dataclass(frozen=True)
class Work:
    """The work of a run for one segment: its masks that are not up to date.

    Attributes:
        keyframes: to write.
        stretches: with their signatures and the frames to be written.
        withdrawn: frames with masks of an earlier run that now lie beyond an absent mark, to empty.
    """

    segment: ResolvedSegment
    keyframes: tuple[int, ...]
    stretches: tuple[tuple[Stretch, tuple[object, ...], tuple[int, ...]], ...]
    withdrawn: tuple[int, ...]

    @property
    def frames(self) -> tuple[int, ...]:
        """All frames to write."""
        stale = (frame for _, _, frames in self.stretches for frame in frames)
        return (*self.keyframes, *stale, *self.withdrawn)


def work_of(segment: ResolvedSegment, track: Track, options: RunOptions) -> Work:
    """Return the work that brings a segment's masks up to date."""
    known = track.written
    written = {} if options.writes_all else known
    keyframes = tuple(
        frame
        for frame, prompts in segment.keyframes.items()
        if frame not in segment.locked and written.get(frame) != keyframe_mark(prompts)
    )
    stretches = []
    for stretch in plan(segment, options.direction, options.reach):
        mark = signature(stretch, segment.keyframes)
        stale = tuple(f for f in stretch.frames if f not in segment.locked and written.get(f) != mark)
        if stale:
            stretches.append((stretch, mark, stale))
    withdrawn = tuple(
        frame
        for frame in sorted({*known, *options.filled.get(segment.segment, ())})
        if _is_ruled_out(segment, frame) and frame not in segment.locked and written.get(frame) != WITHDRAWN
    )
    return Work(segment, keyframes, tuple(stretches), withdrawn)


@dataclass
class Job:
    """A stretch of the run under way, with the fronts that cross it.

    Attributes:
        elder: beyond an outermost keyframe that is a corrected mask; see `plan`.
        pending: frames whose masks were not asked for yet.
        begun: frames with results of a front, but without a written mask.
    """

    stretch: Stretch
    signature: tuple[object, ...]
    track: Track
    left: Front | None
    right: Front | None
    pending: list[int]
    patience: int | None
    shapes: tuple[Shape, Shape] | None = None
    elder: Elder | None = None
    begun: set[int] = field(default_factory=set)

    @property
    def is_open_ended(self) -> bool:
        """Whether the end of the segment before its absent mark has to be found first."""
        return self.end is not None and self.found(self.end, self.beside_absent) is None

    @property
    def done(self) -> float:
        """How much of the work on unfinished frames is done, in frames."""
        return len(self.begun) / len(self.all_fronts)

    @cached_property
    def too_deep(self) -> torch.Tensor:
        """The mask's depth next to the absent mark, float32 (), in pixels of the logit grid."""
        last = self.found(self.end, self.beside_absent)
        assert last is not None, "asked for when the front that ends there has come to its end"
        return depth(last.logits)

    @property
    def fronts(self) -> list[Front]:
        """The fronts that cross it, one or two."""
        return [front for front in (self.left, self.right) if front is not None]

    @property
    def all_fronts(self) -> list[Front]:
        """The fronts that cross it, the elder one included."""
        return self.fronts if self.elder is None else [*self.fronts, self.elder.front]

    @property
    def end(self) -> Front | None:
        """The front that has to reach the absent mark first, if the segment closes before one."""
        return None if self.stretch.absent is None else self.left or self.right

    @property
    def beside_absent(self) -> int:
        """The frame next to the absent mark."""
        return self.stretch.last if self.right is None else self.stretch.first

    def drawn(self, frame: int) -> torch.Tensor | None:
        """Return what the front from the nearer keyframe drew on a frame, absent or not: logits, float16
        (4h, 4w). None: it stopped before."""
        near = min(self.fronts, key=lambda front: abs(frame - front.source))
        found = near.found.get(frame)
        return None if found is None else found.drawn

    def is_over(self, empty_frames: int) -> bool:
        """Tell whether so many frames without the segment are more than are searched."""
        return self._gives_up(empty_frames - 1)

    def lacks(self, left: Tracked | None, right: Tracked | None, frame: int) -> bool:
        """Tell whether a front's result on a frame is still missing.

        Args:
            left, right: of the two sides.
        """
        return (
            (self.left is not None and left is None)
            or (self.right is not None and right is None)
            or (self.elder is not None and self.elder.found(frame) is None)
        )

    def has_lost(self, front: Front) -> bool:
        """Tell whether a side's front has lost its segment, and no keyframe shows it again."""
        is_ended = self.elder is not None and self.elder.has_ended
        return is_ended or self._gave_up(front) is not None

    def may_have_lost(self, front: Front) -> bool:
        """Tell whether reading the front's last results could show that."""
        ended = 0 if self.elder is None else self.elder.ended
        return front.unread > 0 and self._gives_up(max(front.empty_frames, ended) + front.unread)

    @property
    def must_be_read(self) -> bool:
        """Whether reading the last results could show that one of its fronts need not go on."""
        is_elder_done = self.elder is not None and self.elder.may_be_done
        return is_elder_done or any(self.may_have_lost(front) for front in self.fronts)

    @property
    def _is_open(self) -> bool:
        return self.left is None or self.right is None

    def _gives_up(self, empty_frames: int) -> bool:
        return self._is_open and self.patience is not None and empty_frames >= self.patience

    def _gave_up(self, front: Front) -> int | None:
        """Return the frame after which a side's front is not carried on; None: it has lost nothing."""
        return front.lost_at(self.patience) if self._is_open and self.patience is not None else None

    def found(self, front: Front | None, frame: int) -> Tracked | None:
        """Return a side's result on a frame, or its last one if it has lost its segment; None: not yet known.

        What a front finds after it has given up does not count, as only a job between two keyframes carries
        it on.
        """
        if front is None:
            return None
        last = self._gave_up(front)
        if last is None or (frame - last) * front.step <= 0:
            known = front.found.get(frame)
            if known is not None or not self.has_lost(front) or front.last_found is None:
                return known
            last = front.next_frame - front.step
        return replace(front.found[last], lost=front.found[last].lost + abs(frame - last))


@dataclass(frozen=True)
class Active:
    """A front with frames left to track, its last frame, and how it sees them."""

    front: Front
    end: int
    sight: Sight


def active_fronts(jobs: list[Job]) -> list[Active]:
    """Return the fronts that have to continue, each once even if several jobs use it."""
    active: dict[int, Active] = {}
    for job in jobs:
        if not job.pending:
            continue
        reach = (job.pending[-1], job.pending[0])
        if job.end is not None:
            reach = (job.beside_absent, job.beside_absent)
        going = [
            (front, end)
            for front, end in zip((job.left, job.right), reach, strict=True)
            if front is not None and not job.has_lost(front)
        ]
        if job.elder is not None and not job.elder.is_done and not job.elder.has_ended:
            going.append((job.elder.front, reach[0] if job.right is None else reach[1]))
        for front, end in going:
            if (end - front.next_frame) * front.step < 0:
                continue
            known = active.get(id(front))
            if known is None or (end - known.end) * front.step > 0:
                active[id(front)] = Active(front, end, job.track.sight)
    return list(active.values())


def shapes_beside(stretch: Stretch, keyframes: Mapping[int, Keyframe]) -> tuple[Shape, Shape] | None:
    """Return the shapes on the keyframes on both sides of a stretch."""
    if stretch.left is None or stretch.right is None:
        return None
    left, right = (Shape.of(keyframes[frame].decoded.logits[0]) for frame in (stretch.left, stretch.right))
    return left, right


def keyframe_mark(prompts: FramePrompts) -> tuple[object, ...]:
    """Return what a keyframe's mask depends on, as `signature` does for a stretch."""
    return "keyframe", prompts.fingerprint


def _is_ruled_out(segment: ResolvedSegment, frame: int) -> bool:
    """Tell whether only absent marks lie next to a frame: beyond the last one, or between two of them."""
    if frame in segment.keyframes:
        return False
    before = max((other for other in segment.keyframes if other < frame), default=None)
    after = min((other for other in segment.keyframes if other > frame), default=None)
    neighbors = [segment.keyframes[other] for other in (before, after) if other is not None]
    return bool(neighbors) and all(prompts.absent for prompts in neighbors)
