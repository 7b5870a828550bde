"""`python -m Testing.flow.drawing_worker`: a real worker process whose engine draws what the prompts say.

A click is a disc, a scribble one at each corner, a box its rectangle, a lasso or mask is kept exactly and
clicks correct it; other frames get what the nearest keyframe has. So what a run must find follows from the
prompts alone, and lost or mixed up ones show. The environment variable SAM2PROPAGATE_FAKE holds the script,
see `Testing.worker.fake_engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunRequest
from SAM2PropagateLib.worker.engine_port import Crop, Mask
from Testing.worker.fake_engine import FakeEngine, FakeEngineSession, FakeMask
from Testing.worker.fake_worker import main

RADIUS = 4.0

BoolArray = NDArray[np.bool_]


def drawn(prompts: FramePrompts, shape: tuple[int, int]) -> BoolArray:
    """What prompts say of their frame; (rows, columns) bool."""
    mask = np.zeros(shape, bool) if prompts.mask is None else np.array(prompts.mask)
    if prompts.absent:
        return mask
    if prompts.box is not None:
        x0, y0, x1, y1 = (round(edge) for edge in prompts.box)
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
    for outline in prompts.outlines:
        mask |= outline
    rows, columns = np.indices(shape)
    along = [(x, y, stroke.positive) for stroke in prompts.strokes for x, y in stroke.points]
    # Those that say "does not belong" last: the order in which they were made does not matter.
    for x, y, positive in sorted((*prompts.clicks, *along), key=lambda click: not click[2]):
        mask[(columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2] = positive
    return mask


def carried(segment: ResolvedSegment, frame: int, shape: tuple[int, int]) -> BoolArray:
    """What a run gives for a frame; a pixel in the first row tells the frame where it has no prompts."""
    key = nearest(segment, frame)
    mask = drawn(segment.keyframes[key], shape)
    if frame != key and mask.any():
        mask[0, frame] = True
    return mask


def nearest(segment: ResolvedSegment, frame: int) -> int:
    """The keyframe from which a frame gets its mask."""
    return min(segment.keyframes, key=lambda key: (abs(frame - key), key))


class DrawingEngine(FakeEngine):
    """See the module."""

    def open(self, frames: FrameStack, crop: Crop) -> DrawingSession:
        self.pause("open")
        return DrawingSession(self, frames, crop)


class DrawingSession(FakeEngineSession):
    """One volume along one axis."""

    def preview(self, frame: int, prompts: FramePrompts, segment: str) -> Mask:
        self._engine.pause("preview")
        mask = drawn(prompts, self._frames.native_shape)
        return FakeMask(segment, frame, mask, 0.9, float("nan"), 0.1, "preview")

    def propagate(
        self, run: RunRequest, on_frame: Callable[[Mask], None], between: Callable[[float], None]
    ) -> Mapping[str, Any]:
        segments = {one.segment: one for one in run.segments}
        todo = self._todo(run)
        for done, (name, frame, mark) in enumerate(todo):
            between(done)
            self._engine.pause("frame")
            segment = segments[name]
            kind = "keyframe" if frame in segment.keyframes else "propagated"
            mask = carried(segment, frame, self._frames.native_shape)
            on_frame(FakeMask(name, frame, mask, 0.8, 3.0, 0.25, kind))
            self._written[name, frame] = mark
        between(len(todo))
        return {"frames_computed": len(todo)}

    def _todo(self, run: RunRequest) -> list[tuple[str, int, str]]:
        todo = []
        for segment in run.segments:
            frames = set(range(segment.first, segment.last + 1)) - segment.locked
            for frame in sorted(frames, key=lambda one: (abs(one - nearest(segment, one)), one)):
                key = nearest(segment, frame)
                mark = f"{segment.keyframes[key].fingerprint} {key == frame}"
                is_near = run.options.reach is None or abs(frame - key) <= run.options.reach
                if is_near and (
                    run.options.everything or self._written.get((segment.segment, frame)) != mark
                ):
                    todo.append((segment.segment, frame, mark))
        return todo


if __name__ == "__main__":
    main(DrawingEngine)
