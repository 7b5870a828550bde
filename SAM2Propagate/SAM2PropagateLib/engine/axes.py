"""Runs over a volume along one axis, or along all three.

After the run along the first axis, cross-sections of its masks along each other axis are carried along that
axis, and the three results are fused; see `opinions`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from SAM2PropagateLib.engine.opinions import BoolArray, Opinion, Region, fused, told
from SAM2PropagateLib.engine.results import FrameMask, RunSummary
from SAM2PropagateLib.engine.session import EngineSession
from SAM2PropagateLib.frame_kinds import PROPAGATED
from SAM2PropagateLib.frames.stack import FrameStack, native_frame
from SAM2PropagateLib.packed_masks import PackedMask, pack
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunOptions, RunRequest

_AXES = 3
_NO_PIXELS = np.zeros((0, 0), bool)


@dataclass
class _Written:
    """A frame that was written.

    Attributes:
        packed: its mask. answer: the rest of its `FrameMask`.
        is_fused: whether the results of the other axes are part of it.
    """

    packed: PackedMask
    answer: FrameMask
    is_fused: bool = False

    @staticmethod
    def of(mask: FrameMask, keeps_edge: bool) -> _Written:
        """Return the record of a mask, without what would stay on the device."""
        withheld = None if mask.withheld is None else pack(mask.withheld()).unpack
        edge = mask.edge if keeps_edge else None
        answer = replace(mask, mask=_NO_PIXELS, edge=edge, withheld=withheld)
        return _Written(pack(mask.mask), answer)


class AxesSession:
    """Previews and runs over one volume, along one axis or along all three.

    Sessions along the other axes are opened for their part of a run and closed after it.

    Args:
        frames: the volume along the first axis, with its window.
        open_along: opens a session over the volume along an axis.
    """

    def __init__(self, frames: FrameStack, open_along: Callable[[FrameStack], EngineSession]) -> None:
        self._frames = frames
        self._open_along = open_along
        self._first = open_along(frames)
        self._written: dict[str, dict[int, _Written]] = {}

    def preview(self, frame: int, prompts: FramePrompts, segment: str = "") -> FrameMask:
        """See `EngineSession`."""
        return self._first.preview(frame, prompts, segment)

    def set_frames(self, frames: FrameStack) -> None:
        """See `EngineSession`."""
        self._frames = frames
        self._first.set_frames(frames)

    def encode_ahead(self, order: Iterable[int], should_stop: Callable[[], bool]) -> int:
        """Do what `EngineSession` does, for the first axis only."""
        return self._first.encode_ahead(order, should_stop)

    def expected_frames(self, run: RunRequest) -> int:
        """Return how many frames a run would write, as far as that is known in advance."""
        return len(self._outdated(run))

    def _outdated(self, run: RunRequest) -> set[tuple[str, int]]:
        """Return the (segment, frame)s that a run would write."""
        found = set(self._first.outdated(run))
        if run.options.all_axes:
            found.update((one.segment, frame) for one in run.segments for frame in self._unfused(one))
        return found

    def _unfused(self, segment: ResolvedSegment) -> list[int]:
        """Return the propagated frames of a segment that have no results of other axes yet, ascending."""
        written = self._written.get(segment.segment, {})
        return [
            frame
            for frame, one in sorted(written.items())
            if one.answer.kind == PROPAGATED
            and not one.is_fused
            and frame not in segment.locked
            and frame not in segment.keyframes
            and segment.first <= frame <= segment.last
        ]

    def propagate(
        self,
        run: RunRequest,
        on_frame: Callable[[FrameMask], None],
        between: Callable[[float], None] = lambda done: None,
    ) -> RunSummary:
        """Carry the keyframes over their stretches; see `EngineSession`.

        With `all_axes`, `on_frame` is called again for a propagated frame whose mask or doubt the other axes
        change. If `between` raises before that, the next such run does it.

        Raises:
            SAM2PropagateError: `out_of_memory`.
        """

        def take(mask: FrameMask) -> None:
            kept = _Written.of(mask, run.options.edges)
            self._written.setdefault(mask.segment, {})[mask.frame] = kept
            on_frame(replace(mask, withheld=kept.answer.withheld))

        if not run.options.all_axes:
            return self._first.propagate(run, take, between)
        progress = _Passes(between, len(self._outdated(run)), len(run.segments))
        first = progress.first(self._first.expected_frames(run))
        summary = self._first.propagate(run, take, first)
        for segment in run.segments:
            summary = self._fuse(segment, on_frame, progress, summary)
        return summary

    # --- the other axes

    def _fuse(
        self,
        segment: ResolvedSegment,
        on_frame: Callable[[FrameMask], None],
        progress: _Passes,
        summary: RunSummary,
    ) -> RunSummary:
        """Run a segment along the other axes, and write what they change."""
        started = time.perf_counter()
        name, axis, geometry = segment.segment, self._frames.axis, self._frames.geometry
        frames = self._unfused(segment)
        extent = self._extent(segment) if frames else None
        if extent is None:
            progress.skip(_AXES - 1)
            return summary
        region = extent.grown(geometry)
        solid = self._solid(segment, region)
        opinions = []
        for other in (one for one in range(_AXES) if one != axis):
            opinion, found = self._asked(name, solid, region, other, progress)
            opinions.append(opinion)
            summary = replace(
                summary,
                frames_computed=summary.frames_computed + found.frames_computed,
                frames_encoded=summary.frames_encoded + found.frames_encoded,
            )
        for mask in self._changed(segment, frames, region, opinions):
            progress.pause()
            on_frame(mask)
        seconds = summary.seconds + time.perf_counter() - started
        return replace(summary, seconds=seconds)

    def _asked(
        self, name: str, solid: BoolArray, region: Region, axis: int, progress: _Passes
    ) -> tuple[Opinion, RunSummary]:
        """Return the opinion of a run along another axis on a segment."""
        geometry = self._frames.geometry
        window = self._first.window_of(name)
        session = self._open_along(FrameStack(self._frames.array, geometry, axis, window))
        opinion = Opinion(axis, region, geometry)
        request = RunRequest((told(name, solid, region, axis, geometry),), RunOptions())

        def take(mask: FrameMask) -> None:
            # The cross-sections that it started from are not its own results.
            if mask.kind == PROPAGATED:
                opinion.take(mask.frame, mask.mask, mask.doubt)

        try:
            summary = session.propagate(request, take, progress.next(session.expected_frames(request)))
        finally:
            session.close()
        return opinion, summary

    def _changed(
        self, segment: ResolvedSegment, frames: Sequence[int], region: Region, opinions: Sequence[Opinion]
    ) -> Iterator[FrameMask]:
        """Yield the masks that the other axes change."""
        axis, part = self._frames.axis, region.part(self._frames.axis)
        for frame in frames:
            one = self._written[segment.segment][frame]
            if frame not in region.frames(axis):
                one.is_fused = True
                continue
            before = one.packed.unpack()
            mask, doubt = fused(
                before[part], one.answer.doubt, [opinion.on(frame, axis) for opinion in opinions]
            )
            after = before.copy()
            after[part] = mask
            is_same = np.array_equal(before, after)
            edge = one.answer.edge if is_same else None
            withheld = None if after.any() else one.answer.withheld
            answer = replace(one.answer, mask=after, doubt=doubt, edge=edge, withheld=withheld)
            changes = not is_same or doubt != one.answer.doubt
            if changes:
                yield answer
            kept = self._written[segment.segment][frame] = _Written.of(answer, False)
            kept.is_fused = True

    # --- the masks of the first axis

    def _masks(self, segment: ResolvedSegment) -> dict[int, PackedMask]:
        """Return the known masks of a segment's frames."""
        found = {
            frame: one.packed
            for frame, one in self._written.get(segment.segment, {}).items()
            if segment.first <= frame <= segment.last
        }
        for frame, prompts in segment.keyframes.items():
            if frame in segment.locked and prompts.mask is not None:
                found[frame] = pack(np.asarray(prompts.mask))
        return found

    def _extent(self, segment: ResolvedSegment) -> Region | None:
        """Return the smallest region that holds a segment's masks; None if they are empty."""
        boxes = [(frame, one.box) for frame, one in self._masks(segment).items() if not one.is_empty]
        if not boxes:
            return None
        axis = self._frames.axis
        x, y = (other for other in range(_AXES) if other != axis)
        low, high = [0, 0, 0], [0, 0, 0]
        low[axis], high[axis] = min(frame for frame, _ in boxes), max(frame for frame, _ in boxes) + 1
        low[y], high[y] = min(box[0] for _, box in boxes), max(box[0] + box[2] for _, box in boxes)
        low[x], high[x] = min(box[1] for _, box in boxes), max(box[1] + box[3] for _, box in boxes)
        return Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def _solid(self, segment: ResolvedSegment, region: Region) -> BoolArray:
        """Return a segment's masks in a region, (K, J, I) bool. A frame without a mask gets that of the
        nearest frame with one."""
        axis, masks = self._frames.axis, self._masks(segment)
        solid = np.zeros(region.shape, bool)
        known = sorted(masks)
        for frame in region.frames(axis):
            if known[0] <= frame <= known[-1]:
                nearest = min(known, key=lambda one: abs(one - frame))
                mask = masks[nearest].unpack()[region.part(axis)]
                native_frame(solid, frame - region.low[axis], axis)[:] = mask
        return solid


class _Passes:
    """Reports the progress of a run over several axes, in frames of the first one.

    Args:
        between: see `EngineSession.propagate`.
        total: frames that the run writes. segments: their number.
    """

    def __init__(self, between: Callable[[float], None], total: int, segments: int) -> None:
        self._between = between
        self._total = total
        self._step = 1 / _AXES
        self._others = self._step / segments
        self._done = 0.0

    def first(self, expected: int) -> Callable[[float], None]:
        """Return `between` for the run along the first axis, which writes so many frames."""
        return self._part(self._step, expected)

    def next(self, expected: int) -> Callable[[float], None]:
        """Return `between` for the next run of one segment along another axis."""
        return self._part(self._others, expected)

    def skip(self, runs: int) -> None:
        """Count runs of a segment along other axes as done, as they are not needed."""
        self._done += runs * self._others

    def pause(self) -> None:
        """Give a chance to end the run here, without progress."""
        self._between(self._done * self._total)

    def _part(self, share: float, expected: int) -> Callable[[float], None]:
        start = self._done
        self._done += share

        def between(done: float) -> None:
            part = min(done / expected, 1.0) if expected else 1.0
            self._between((start + share * part) * self._total)

        return between
