"""A worker's session without a worker, for tests of what the panel decides: every answer comes with a poll.

Its masks are made of the prompts alone: a disc around every positive click and corner of a scribble, the box,
the given mask, the inside of a lasso; negative ones cut a disc out. A run carries the union of the nearest
keyframe to every frame it reaches.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.packed_masks import pack
from SAM2PropagateLib.prompts.document import from_document, to_document
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.worker.calls import Call, PreviewCall, Run, Update
from SAM2PropagateLib.worker.messages import (
    DoneEvent,
    ErrorEvent,
    Event,
    FrameEvent,
    LoadModel,
    ProgressEvent,
)
from SAM2PropagateLib.worker.remote import Remote

RADIUS = 3.3


def disc(x: float, y: float, shape: tuple[int, int], radius: float = RADIUS) -> np.ndarray:
    """Returns a disc, (rows, columns) bool."""
    rows, columns = np.indices(shape)
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def maskOf(prompts: FramePrompts, shape: tuple[int, int]) -> np.ndarray:
    """Returns the fake's mask for a frame's prompts."""
    mask = np.zeros(shape, bool) if prompts.mask is None else prompts.mask.copy()
    if prompts.box is not None:
        rows, columns = np.indices(shape)
        x0, y0, x1, y1 = prompts.box
        mask |= (columns >= x0) & (columns <= x1) & (rows >= y0) & (rows <= y1)
    for outline in prompts.outlines:
        mask |= outline
    along = [(x, y, stroke.positive) for stroke in prompts.strokes for x, y in stroke.points]
    for x, y, positive in (*along, *prompts.clicks):
        mask = mask | disc(x, y, shape) if positive else mask & ~disc(x, y, shape)
    return mask


class AnsweringSession:
    """Stands in for `WorkerSession`.

    Args:
        framesPerPoll: of a run.

    Attributes:
        asked: what was asked for, in order: (kind, details).
        written: what runs sent so far, per segment and frame, as the engine keeps it.
        dies: the worker dies with the next poll. note: what previews say beside their mask.
        withholds: frames that runs take for empty, though they draw a mask there.
        remote, device: where it says that it computes.
        closesAtOnce: a volume is closed without an answer to wait for.
    """

    def __init__(self, framesPerPoll: int = 4) -> None:
        self.framesPerPoll = framesPerPoll
        self.asked: list[tuple[str, Any]] = []
        self.stacks: dict[str, FrameStack] = {}
        self.starts = 0
        self.is_running = False
        self.dies: SAM2PropagateError | None = None
        self.note = ""
        self.withholds: Collection[int] = ()
        self.remote: Remote | None = None
        self.device = ""
        self.isClosed = False
        self.closesAtOnce = True
        self.written: dict[tuple[str, int], str] = {}
        self._model: LoadModel | None = None
        self._calls: list[tuple[Call, list[Event]]] = []

    @property
    def volumes(self) -> tuple[str, ...]:
        return tuple(self.stacks)

    @property
    def is_waiting(self) -> bool:
        return bool(self._calls)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.asked]

    def _start(self) -> None:
        if not self.is_running:
            self.is_running = True
            self.starts += 1
            self.written.clear()

    def load_model(self, model: LoadModel) -> Call:
        call = Call("load_model")
        if model != self._model or not self.is_running:
            self._start()
            self._model = model
            self.asked.append(("load_model", model))
            self._calls.append((call, [ProgressEvent(None, "weights", 1, 2), DoneEvent(None, {})]))
        else:
            call.state = "done"
        return call

    def open_volume(
        self, name: str, array: Any, geometry: Any, *, axis: int, window: Any, voxels_of: str | None = None
    ) -> Call:
        assert voxels_of is None or voxels_of in self.stacks
        self.stacks[name] = FrameStack(array, geometry, axis, window)
        self.asked.append(("open_volume", (name, voxels_of)))
        call = Call("open_volume", name)
        self._calls.append((call, [DoneEvent(None, {})]))
        return call

    def set_window(self, name: str, window: Any) -> Call:
        self.asked.append(("set_window", window))
        self.stacks[name] = self.stacks[name].with_window(window)
        return Call("set_window", name)

    def close_volume(self, name: str) -> Call:
        self.asked.append(("close_volume", name))
        del self.stacks[name]
        self.written.clear()
        call = Call("close_volume", name)
        if not self.closesAtOnce:
            self._calls.append((call, [DoneEvent(None, {})]))
        return call

    def preview(
        self,
        name: str,
        prompts: PromptSet,
        segment: str,
        frame: int,
        *,
        replaces: bool = True,
        edges: bool = False,
    ) -> PreviewCall:
        self._start()
        # Through a document and back, as on the wire.
        said = from_document(to_document(prompts)).segment(segment)
        stack = self.stacks[name]
        resolved = resolve(said, stack.geometry, stack.axis, need_positive=False)
        mask = maskOf(resolved.keyframes[frame], stack.native_shape)
        call = PreviewCall(name, segment)
        if replaces:
            for other, _ in self._calls:
                if isinstance(other, PreviewCall) and other.segment == segment:
                    other.is_cancel_requested = True
        self.asked.append(("preview", (segment, frame, resolved.keyframes[frame])))
        self._calls.append((call, [self._frame(name, segment, frame, "preview", mask), DoneEvent(None, {})]))
        return call

    def propagate(self, name: str, prompts: PromptSet, segments: tuple[str, ...], options: RunOptions) -> Run:
        self._start()
        said = from_document(to_document(prompts))
        stack = self.stacks[name]
        events: list[Event] = []
        for segment in segments:
            resolved = resolve(said.segment(segment), stack.geometry, stack.axis)
            self.asked.append(("propagate", (segment, resolved, options.to_wire())))
            sources = resolved.positive_frames
            for frame in range(resolved.first, resolved.last + 1):
                near = min(sources, key=lambda source: abs(source - frame))
                if frame in resolved.locked or (
                    options.reach is not None and abs(near - frame) > options.reach
                ):
                    continue
                own = resolved.keyframes.get(frame)
                prompts_here = own or resolved.keyframes[near]
                mark = prompts_here.fingerprint + str(near)
                if not options.everything and self.written.get((segment, frame)) == mark:
                    continue
                self.written[segment, frame] = mark
                kind = "propagated" if own is None else "absent" if own.absent else "keyframe"
                mask = maskOf(prompts_here, stack.native_shape)
                events.append(self._frame(name, segment, frame, kind, mask))
        run = Run(name, segments)
        self._calls.append((run, [*events, DoneEvent(None, {"cancelled": False})]))
        return run

    def _frame(self, name: str, segment: str, frame: int, kind: str, mask: np.ndarray) -> FrameEvent:
        doubt = 0.1 if kind != "propagated" else (frame % 5) / 5
        if frame not in self.withholds or kind != "propagated":
            return FrameEvent(None, name, segment, frame, kind, 0.9, 4.0, doubt, pack(mask), note=self.note)
        nothing = pack(np.zeros_like(mask))
        return FrameEvent(None, name, segment, frame, kind, 0.3, -4.0, 0.6, nothing, withheld=pack(mask))

    def cancel(self, call: Call) -> None:
        self.asked.append(("cancel", call))
        call.is_cancel_requested = True

    def poll(self) -> list[Update]:
        if self.dies is not None:
            error, self.dies = self.dies, None
            self.is_running = False
            calls, self._calls = self._calls, []
            return [self._took(call, ErrorEvent(None, error, ("last words",))) for call, _ in calls]
        if not self._calls:
            return []
        call, events = self._calls[0]
        if call.is_cancel_requested:
            self._calls.pop(0)
            return [self._took(call, DoneEvent(None, {"cancelled": True}))]
        updates = []
        for _ in range(self.framesPerPoll if isinstance(call, Run) else len(events)):
            if events:
                updates.append(self._took(call, events.pop(0)))
        if call.is_finished:
            self._calls.pop(0)
        return updates

    def nextPollServesPreviews(self) -> None:
        """Acts as the real worker between two frames of a run."""
        self._calls.sort(key=lambda entry: isinstance(entry[0], Run))

    @staticmethod
    def _took(call: Call, event: Event) -> Update:
        call.take(event)
        return Update(call, event)

    def close(self, timeout: float | None = None) -> None:
        self.isClosed = True
        self.is_running = False
        self._calls.clear()
        self.stacks.clear()


class CountingTicker:
    """A ticker that notes whether it runs."""

    def __init__(self) -> None:
        self.isOn = False
        self.starts = 0

    def start(self) -> None:
        self.starts += not self.isOn
        self.isOn = True

    def stop(self) -> None:
        self.isOn = False
