"""Segments without a screen: a volume and prompts in, masks out, through a worker session.

`segment`, `cohort` and scripts use it. It reads and writes no files.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.frame_kinds import DOUBTFUL
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.window import FittedWindow, Window, fit_window
from SAM2PropagateLib.prompts.frame_prompts import ResolvedSegment
from SAM2PropagateLib.prompts.resolve import choose_axis, resolve
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.worker.messages import FrameEvent, LoadModel, ProgressEvent
from SAM2PropagateLib.worker.session import Call, Crop, Run, Update

if TYPE_CHECKING:
    from SAM2PropagateLib.files.volume import Volume

_VOLUME = "volume"
# How long it may take to notice a cancel.
_TICK_SECONDS = 0.1


class JobSession(Protocol):
    """The methods of `WorkerSession` that a job needs."""

    def load_model(self, model: LoadModel) -> Call:
        """See `WorkerSession`."""

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
        """See `WorkerSession`."""

    def propagate(
        self,
        name: str,
        prompts: PromptSet,
        segments: tuple[str, ...] | None = None,
        options: RunOptions | None = None,
    ) -> Run:
        """See `WorkerSession`."""

    def cancel(self, call: Call | None = None) -> None:
        """See `WorkerSession`."""

    def close_volume(self, name: str) -> Call:
        """See `WorkerSession`."""

    def wait(
        self,
        call: Call,
        timeout: float | None = None,
        on_update: Callable[[Update], None] = lambda update: None,
    ) -> bool:
        """See `WorkerSession`."""


@dataclass(frozen=True)
class JobOptions:
    """How to segment.

    Args:
        model: what the worker loads.
        window: what the model sees as black and white.
        crop: see `WorkerSession.open_volume`.
        run: how it is carried.
    """

    model: LoadModel
    window: Window
    crop: Crop = "auto"
    run: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True)
class FrameScore:
    """The model's scores for one frame of one segment; see `FrameEvent`."""

    frame: int
    kind: str
    predicted_iou: float | None
    object_score: float | None
    doubt: float | None
    note: str = ""


@dataclass(frozen=True, eq=False)
class SegmentResult:
    """One segment after a run.

    Args:
        name: of the segment.
        mask: bool, (K, J, I) of the volume; False where nothing was computed.
        scores: of the frames that were computed, ascending.
    """

    name: str
    mask: np.ndarray
    scores: tuple[FrameScore, ...]

    @property
    def doubtful(self) -> tuple[FrameScore, ...]:
        """The frames with a doubt of at least `DOUBTFUL`, the worst first."""
        found = [score for score in self.scores if score.doubt is not None and score.doubt >= DOUBTFUL]
        return tuple(sorted(found, key=lambda score: (-(score.doubt or 0.0), score.frame)))

    @property
    def noted(self) -> tuple[FrameScore, ...]:
        """The frames with a note for the user, ascending."""
        return tuple(score for score in self.scores if score.note)


@dataclass(frozen=True, eq=False)
class JobResult:
    """The result of a job, also if it was cancelled or failed on the way.

    Args:
        axis: the propagation axis that was used.
        segments: in the order of the prompts.
        model: the worker's answer to loading: model, device, dtype, input_size.
        summary: the worker's summary of the run; empty where there is none.
        seconds: time of `load_model`, `open_volume` and `propagate`.
        cancelled: whether the run was ended early; the masks hold the finished frames.
        error: why the run failed after some frames, if it did; the masks hold the finished frames.
    """

    axis: int
    segments: tuple[SegmentResult, ...]
    model: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    cancelled: bool = False
    error: SAM2PropagateError | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all frames were computed."""
        return not self.cancelled and self.error is None


def resolve_prompts(prompts: PromptSet, geometry: VolumeGeometry) -> tuple[int, tuple[ResolvedSegment, ...]]:
    """Return the propagation axis and every segment's keyframes; refuse prompts that cannot be run.

    Raises:
        InputError: `no_prompts`, and as `choose_axis` and `resolve`.
    """
    if not prompts.segments:
        raise InputError(
            "no_prompts", "There are no prompts.", "Give at least one point, scribble, box or lasso."
        )
    axis = choose_axis(prompts, geometry)
    return axis, tuple(resolve(segment, geometry, axis) for segment in prompts.segments)


def choose_window(volume: Volume, wanted: str | tuple[float, float] | None) -> FittedWindow:
    """Return the model's window, and the reason for it.

    Args:
        volume: as read.
        wanted: (width, level), a preset's name, or None: the file's own window, else soft tissue for CT and
            percentiles for everything else (`fit_window`).

    Raises:
        InputError: `unknown_preset`, `bad_window`.
    """
    if isinstance(wanted, tuple):
        return FittedWindow(Window(*wanted), "option", "as given with --window")
    if wanted is not None:
        preset = Window.preset(wanted)
        return FittedWindow(preset, f"preset {wanted}", f"{wanted}, as given with --window")
    if volume.window is not None:
        return FittedWindow(Window(*volume.window), "file", "the display window in the DICOM files")
    return fit_window(volume.array, volume.modality or "")


def run_segment_job(
    array: np.ndarray,
    geometry: VolumeGeometry,
    prompts: PromptSet,
    options: JobOptions,
    session: JobSession,
    *,
    on_progress: Callable[[str, ProgressEvent | None], None] = lambda stage, progress: None,
    on_frame: Callable[[FrameEvent], None] = lambda frame: None,
    should_cancel: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> JobResult:
    """Segment all segments of `prompts` and wait for the end.

    Args:
        array: (K, J, I), any real dtype; must not change meanwhile.
        geometry: of the array.
        prompts: every segment of it is run.
        options: how.
        session: a worker session, or an object like it; its volume "volume" is opened and closed again.
        on_progress: called with the stage (`load_model`, `open_volume`, `propagate`), and first None, then
            the worker's progress events.
        on_frame: called with every finished frame.
        should_cancel: called about ten times a second; once True, the run is cancelled.
        clock: returns seconds.

    Raises:
        InputError: the prompts cannot be run, or the worker refuses model or volume.
        Cancelled: before the first frame was finished.
        SAM2PropagateError: the worker failed before the first frame was finished.
    """
    axis, resolved = resolve_prompts(prompts, geometry)
    waiting = _Waiting(session, on_progress, on_frame, should_cancel, clock)
    model = waiting.finish("load_model", session.load_model(options.model))
    try:
        opened = session.open_volume(
            _VOLUME, array, geometry, axis=axis, window=options.window, crop=options.crop
        )
        waiting.finish("open_volume", opened)
        run = session.propagate(
            _VOLUME,
            prompts.with_axis(axis),
            tuple(segment.segment for segment in resolved),
            options.run,
        )
        waiting.follow("propagate", run)
    finally:
        with contextlib.suppress(SAM2PropagateError):
            session.close_volume(_VOLUME)
    if run.state == "failed" and not run.frames:
        run.raise_error()
    if run.state == "cancelled" and not run.frames:
        raise Cancelled()
    return JobResult(
        axis=axis,
        segments=tuple(_segment(run, segment.segment, array.shape, axis) for segment in resolved),
        model=model,
        summary=run.result,
        seconds=waiting.seconds,
        cancelled=run.state == "cancelled",
        error=run.error if run.state == "failed" else None,
    )


class _Waiting:
    """Waits for calls, reports progress, and cancels on request."""

    def __init__(
        self,
        session: JobSession,
        on_progress: Callable[[str, ProgressEvent | None], None],
        on_frame: Callable[[FrameEvent], None],
        should_cancel: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._on_progress = on_progress
        self._on_frame = on_frame
        self._should_cancel = should_cancel
        self._clock = clock
        self.seconds: dict[str, float] = {}

    def finish(self, stage: str, call: Call) -> Mapping[str, Any]:
        """Wait for a call before the run; return its result."""
        for _ in self._ticks(stage, call):
            if self._should_cancel():
                raise Cancelled()
        call.raise_error()
        return call.result

    def follow(self, stage: str, run: Run) -> None:
        """Wait for the run, and cancel it on request; its finished frames stay."""
        asked = False
        for _ in self._ticks(stage, run):
            if not asked and self._should_cancel():
                asked = True
                self._session.cancel(run)

    def _ticks(self, stage: str, call: Call) -> Any:
        """Yield regularly until the call is finished."""
        started = self._clock()
        self._on_progress(stage, None)

        def tell(update: Update) -> None:
            if update.call is not call:
                return
            if isinstance(update.event, ProgressEvent):
                self._on_progress(stage, update.event)
            elif isinstance(update.event, FrameEvent):
                self._on_frame(update.event)

        while not self._session.wait(call, _TICK_SECONDS, tell):
            yield
        self.seconds[stage] = self._clock() - started


def _segment(run: Run, name: str, shape: tuple[int, ...], axis: int) -> SegmentResult:
    mask = np.zeros(shape, bool)
    # A view whose first axis is the propagation axis.
    frames = np.moveaxis(mask, 2 - axis, 0)
    scores = []
    for (segment, frame), event in run.frames.items():
        if segment == name:
            frames[frame] = event.mask
            scores.append(
                FrameScore(
                    frame, event.kind, event.predicted_iou, event.object_score, event.doubt, str(event.note)
                )
            )
    return SegmentResult(name, mask, tuple(sorted(scores, key=lambda score: score.frame)))
