"""A worker session without a worker: it draws discs, and fails or waits where a test says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.packed_masks import pack
from SAM2PropagateLib.prompts.frame_prompts import ResolvedSegment
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.worker.messages import FrameEvent, LoadModel, ProgressEvent
from SAM2PropagateLib.worker.session import Call, Crop, Run, Update

RADIUS = 2.5
MODEL = {"model": "fake", "device": "cpu", "dtype": "float32", "input_size": 64}


def disc(segment: ResolvedSegment, shape: tuple[int, int]) -> np.ndarray:
    """The mask that the fake gives to every frame of a segment: a disc around its first positive prompt."""
    prompts = next(prompts for prompts in segment.keyframes.values() if prompts.is_positive)
    rows, columns = np.indices(shape)
    if prompts.box is not None:
        x0, y0, x1, y1 = prompts.box
        return (columns >= x0) & (columns <= x1) & (rows >= y0) & (rows <= y1)
    if prompts.has_shape:
        shapes = [one for one in (prompts.mask, *prompts.outlines) if one is not None]
        return np.logical_or.reduce(shapes)
    clicks = [(x, y) for x, y, positive in prompts.clicks if positive]
    strokes = [stroke.points[0] for stroke in prompts.strokes if stroke.positive]
    x, y = (*clicks, *strokes)[0]
    return (columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2


@dataclass
class FakeJobSession:
    """Stands in for `WorkerSession`.

    Args:
        errors: call kind -> the error that it fails with; a run fails after `frames_before_error` frames.
        seconds_per_frame: how long the run takes.
        note: what is said of every keyframe.
        on_wait: called whenever somebody waits, for tests that press Ctrl-C.
    """

    errors: dict[str, SAM2PropagateError] = field(default_factory=dict)
    frames_before_error: int = 0
    seconds_per_frame: float = 0.0
    note: str = ""
    on_wait: Callable[[Call], None] = lambda call: None
    loaded: list[LoadModel] = field(default_factory=list)
    opened: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    cancelled: list[Call] = field(default_factory=list)
    closed_volumes: list[str] = field(default_factory=list)
    close_timeouts: list[float | None] = field(default_factory=list)
    log: list[str] = field(default_factory=lambda: ["the worker's last words"])
    _frames: dict[int, Iterator[FrameEvent]] = field(default_factory=dict)

    def load_model(self, model: LoadModel) -> Call:
        self.loaded.append(model)
        return self._settled(Call("load_model"), MODEL)

    def open_volume(
        self,
        name: str,
        array: np.ndarray,
        geometry: VolumeGeometry,
        *,
        axis: int,
        window: Window,
        crop: Crop = "auto",
    ) -> Call:
        self.opened = {
            "name": name,
            "stack": FrameStack(array, geometry, axis, window),
            "axis": axis,
            "window": window,
            "crop": crop,
        }
        return self._settled(Call("open_volume", name), {"frames": geometry.frame_count(axis)})

    def propagate(
        self,
        name: str,
        prompts: PromptSet,
        segments: tuple[str, ...] | None = None,
        options: RunOptions | None = None,
    ) -> Run:
        assert segments is not None
        self.asked = {"prompts": prompts, "segments": segments, **(options or RunOptions()).to_wire()}
        run = Run(name, segments)
        geometry = self.opened["stack"].geometry
        resolved = [resolve(prompts.segment(one), geometry, self.opened["axis"]) for one in segments]
        self._frames[id(run)] = self._events(name, resolved)
        return run

    def cancel(self, call: Call | None = None) -> None:
        assert call is not None
        self.cancelled.append(call)
        call.is_cancel_requested = True

    def close_volume(self, name: str) -> Call:
        self.closed_volumes.append(name)
        return self._settled(Call("close_volume", name), {})

    def close(self, timeout: float | None = None) -> None:
        self.close_timeouts.append(timeout)

    def wait(
        self,
        call: Call,
        timeout: float | None = None,
        on_update: Callable[[Update], None] = lambda update: None,
    ) -> bool:
        self.on_wait(call)
        if isinstance(call, Run) and not call.is_finished:
            self._advance(call, on_update)
        return call.is_finished

    def _advance(self, run: Run, on_update: Callable[[Update], None]) -> None:
        time.sleep(self.seconds_per_frame)
        if run.is_cancel_requested:
            run.state, run.result = "cancelled", {"cancelled": True, "frames_written": len(run.frames)}
            return
        if "propagate" in self.errors and len(run.frames) >= self.frames_before_error:
            run.state, run.error = "failed", self.errors["propagate"]
            return
        event = next(self._frames[id(run)], None)
        if event is None:
            run.state = "done"
            run.result = {
                "frames_written": len(run.frames),
                "frames_computed": len(run.frames) - 1,
                "frames_encoded": len({frame for _, frame in run.frames}),
                "seconds": 0.5,
            }
            return
        run.frames[event.segment, event.frame] = event
        on_update(Update(run, event))
        on_update(Update(run, ProgressEvent(None, "", len(run.frames), 99, 12.5, 3.0)))

    def _events(self, name: str, segments: list[ResolvedSegment]) -> Iterator[FrameEvent]:
        shape = self.opened["stack"].native_shape
        for segment in segments:
            for frame in range(segment.first, segment.last + 1):
                prompts = segment.keyframes.get(frame)
                is_absent = prompts is not None and prompts.absent
                mask = np.zeros(shape, bool) if is_absent else disc(segment, shape)
                kind = "absent" if is_absent else "keyframe" if prompts is not None else "propagated"
                doubt = 0.0 if prompts is not None else frame / 10.0
                yield FrameEvent(
                    None,
                    name,
                    segment.segment,
                    frame,
                    kind,
                    0.9,
                    5.0,
                    min(doubt, 1.0),
                    pack(mask),
                    note=self.note if kind == "keyframe" else "",
                )

    def _settled(self, call: Call, result: dict[str, Any]) -> Call:
        error = self.errors.get(call.kind)
        call.state = "done" if error is None else "failed"
        call.error = error
        call.result = result
        return call
