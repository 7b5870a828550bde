"""A radiologist's desk: a CT in Slicer's scene, a slice view, and the controller that the panel drives, too.

The user's part is done with mouse events in the slice view; a script could call the controller instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# First: it chooses how VTK draws without a screen.
from Headless.boot import HeadlessSlicer, boot
from Headless.scenes import addSegmentation
from Headless.slice_view import SliceView

# isort: split
import slicer.util

from Demo.brush import Brush
from Demo.case import Ras, Structure
from Demo.measure import BoolArray
from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.app.events import Choices, FrameArrived, Progress, RunEnd, UserMessage
from SAM2PropagateLib.app.tools import BOX, NEGATIVE, POSITIVE, RANGE
from SAM2PropagateLib.app.workspace import Workspace
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frame_kinds import PROPAGATED
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.gui.view_input import ViewInput
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.scene.commit import CommitSummary
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateLib.scene.volume import SceneVolume, readVolume
from SAM2PropagateLib.worker.calls import Run, Update
from SAM2PropagateLib.worker.messages import LoadModel, ProgressEvent
from SAM2PropagateLib.worker.session import WorkerSession

Image = npt.NDArray[np.uint8]
Xy = tuple[float, float]
OnProgress = Callable[[str, ProgressEvent | None], None]

AXIAL = 2
VIEW_SIZE = (600, 520)
_CORNER: Xy = (4.0, 4.0)
_FILL, _OUTLINE_WIDTH = 0.15, 3
# Seconds; far more than anything here takes.
_PATIENCE = 3600.0


@dataclass(frozen=True, eq=False)
class ShownPreview:
    """A preview as it came back.

    Attributes:
        frame: index of the slice.
        mask: (rows, columns) bool.
        doubt: 0 to 1.
        seconds: from the end of the mouse event to the mask being there.
    """

    frame: int
    mask: BoolArray
    doubt: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Propagation:
    """A finished run.

    Attributes:
        run: its frames and its summary.
        seconds: by segment, from the start of the run to its last frame.
    """

    run: Run
    seconds: Mapping[str, float]

    def count(self, name: str) -> int:
        """Return a number of the worker's summary: frames_written, frames_computed or frames_encoded."""
        return int(self.run.result[name])

    @property
    def whole_seconds(self) -> float:
        """How long the worker was busy with it."""
        return float(self.run.result["seconds"])

    def slices(self, segment: str) -> int:
        """Return how many slices of a segment were written."""
        return sum(name == segment for name, _ in self.run.frames)

    def doubts(self) -> dict[str, dict[int, float]]:
        """Return the doubt of the propagated slices by segment and frame."""
        doubts: dict[str, dict[int, float]] = {}
        for (segment, frame), event in self.run.frames.items():
            if event.kind == PROPAGATED and event.doubt is not None:
                doubts.setdefault(segment, {})[frame] = event.doubt
        return doubts

    def frames(self, segment: str) -> set[int]:
        """Return the frames of a segment that were written."""
        return {frame for name, frame in self.run.frames if name == segment}


class DemoSession(WorkerSession):
    """A session that keeps its last run, for the figures of the report."""

    last_run: Run | None = None

    def propagate(self, *arguments: Any, **named: Any) -> Run:
        self.last_run = super().propagate(*arguments, **named)
        return self.last_run


class DemoDesk:
    """One CT, one segmentation, one slice view, one controller.

    Args:
        ct: the image file.
        structures: the segments to make.
        preset: name of the display window.
        session: the worker.
        model: that the session has loaded.

    Raises:
        SAM2PropagateError: the CT cannot be opened or used.
    """

    def __init__(
        self,
        ct: Path,
        structures: tuple[Structure, ...],
        preset: str,
        session: DemoSession,
        model: LoadModel,
    ) -> None:
        self.structures = {one.name: one for one in structures}
        self._session = session
        self._is_closed = False
        self.headless: HeadlessSlicer = boot()
        self.headless.clear()
        self.volumeNode = _load(ct, Window.preset(preset))
        self.segmentationNode = addSegmentation(
            self.headless, self.volumeNode, {one.name: one.color for one in structures}
        )
        self._style_segmentation()
        self.volume: SceneVolume = readVolume(self.volumeNode)
        self.axis = AXIAL
        self.view = SliceView(self.headless, "Red", "Axial", VIEW_SIZE)
        self.view.show(self.volumeNode)
        self.controller = Controller(lambda: session)
        self.controller.choices = Choices(
            model=model.name or str(model.path), device=model.device, applyAutomatically=False
        )
        self._arrived: dict[tuple[str, int], FrameArrived] = {}
        self._errors: list[UserMessage] = []
        self._ends: list[RunEnd] = []
        self.controller.frameArrived.connect(self._note)
        self.controller.message.connect(self._hear)
        self.controller.finished.connect(self._ends.append)
        self._choose(structures[0].name)
        self._input = ViewInput(self.controller)
        self._input.addSliceView(self.view.interactor, self.view.node)
        self._input.start()

    def _note(self, arrived: FrameArrived) -> None:
        self._arrived[arrived.segmentID, arrived.frame] = arrived

    def _hear(self, message: UserMessage) -> None:
        if message.level == "error":
            self._errors.append(message)

    def _choose(self, segment: str) -> None:
        self.controller.select(self.volumeNode, self.segmentationNode, segment)

    @property
    def _workspace(self) -> Workspace:
        workspace = self.controller.workspace
        assert workspace is not None
        return workspace

    def _wait(self) -> None:
        """Wait for all answers of the worker.

        Raises:
            SAM2PropagateError: the controller has reported an error.
        """
        if not self.controller.wait(_PATIENCE):
            raise SAM2PropagateError("worker_not_responding", "The worker does not answer.")
        self._raise_error()

    def _raise_error(self) -> None:
        if self._errors:
            raise SAM2PropagateError(self._errors[0].code, self._errors[0].text)

    def _style_segmentation(self) -> None:
        display = self.segmentationNode.GetDisplayNode()
        display.SetOpacity2DFill(_FILL)
        display.SetSliceIntersectionThickness(_OUTLINE_WIDTH)

    # What the user looks at

    def look_at(self, center: Ras, width: float) -> None:
        """Centers the view on a point, `width` mm wide, on the nearest slice."""
        node = self.view.node
        height = width * VIEW_SIZE[1] / VIEW_SIZE[0]
        node.SetFieldOfView(width, height, node.GetFieldOfView()[2])
        node.JumpSliceByCentering(*center)
        self.view.logic.SnapSliceOffsetToIJK()

    def go_to_frame(self, frame: int) -> None:
        """Jumps to a slice, as a click on it in a list would."""
        self.view.jumpTo(self.volume.geometry.ras_of_ijk((0, 0, frame)))

    def scroll_to(self, point: Ras) -> None:
        """Turns the mouse wheel until the slice of a point is shown."""
        steps = self.frame_of(point) - self.shown_frame
        self.view.wheel(_CORNER, steps)
        if self.shown_frame != self.frame_of(point):
            self.view.wheel(_CORNER, self.frame_of(point) - self.shown_frame)

    @property
    def shown_frame(self) -> int:
        """The slice that the view shows."""
        matrix = self.view.node.GetSliceToRAS()
        return self.frame_of((matrix.GetElement(0, 3), matrix.GetElement(1, 3), matrix.GetElement(2, 3)))

    def frame_of(self, point: Ras) -> int:
        """Return the slice of a point."""
        return round(float(self.volume.geometry.ijk_of_ras(point)[self.axis]))

    def screenshot(self) -> Image:
        """Return the slice view now, (height, width, 3) RGB, without the mouse over it."""
        self.view.move(_CORNER)
        return np.asarray(self.view.screenshot(), dtype=np.uint8)

    @contextmanager
    def hidden_prompts(self) -> Iterator[None]:
        """Takes the prompts out of the view for a while."""
        markups = PromptMarkups(self.segmentationNode, self.volumeNode)
        displays = [node.GetDisplayNode() for node in markups.nodes()]
        shown = [display.GetVisibility() for display in displays]
        for display in displays:
            display.SetVisibility(False)
        try:
            yield
        finally:
            for display, visible in zip(displays, shown, strict=True):
                display.SetVisibility(visible)

    # What the user does with the mouse

    def click(self, segment: str, point: Ras, positive: bool = True) -> ShownPreview:
        """Clicks on a point of the slice that is shown; the preview of that slice follows."""
        return self._use(segment, POSITIVE if positive else NEGATIVE, lambda: self._press(point))

    def take_back(self) -> None:
        """Takes the last step back, such as a click with what it changed in the preview."""
        self.controller.undo()
        self._wait()

    def drag_box(self, segment: str, corners: tuple[Ras, Ras]) -> ShownPreview:
        """Drags a box from corner to corner on the slice that is shown; its preview follows."""
        start, end = (self.view.rasToXy(corner) for corner in corners)
        return self._use(segment, BOX, lambda: self.view.drag(start, end))

    def mark_range(self, segment: str, ends: tuple[Ras, Ras]) -> tuple[int, int]:
        """Scrolls to the first and to the last slice of a structure and marks them; their frames."""
        self._choose(segment)
        self.controller.chooseTool(RANGE)
        for end in ends:
            self.scroll_to(end)
            self._press(end)
        self.controller.chooseTool(None)
        self._wait()
        first, last = sorted(self.frame_of(end) for end in ends)
        return first, last

    def paint(self, segment: str, frame: int, wanted: BoolArray) -> None:
        """Paints and erases in the Segment Editor until the segment on a slice is as wanted, which makes that
        slice a keyframe of the next run.

        Raises:
            SAM2PropagateError: `edit_not_found`: the edited slices are not just this one.
        """
        self._choose(segment)
        self.controller.editBegins()
        now = self.mask(segment, frame)
        brush = Brush(self.segmentationNode, self.volumeNode)
        try:
            brush.change(segment, frame, wanted & ~now, now & ~wanted)
        finally:
            brush.close()
        self.controller.noteEdits()
        self.controller.lookForEdits()
        if [one.frame for one in self._workspace.edits(segment)] != [frame]:
            raise SAM2PropagateError(
                "edit_not_found",
                f"The slice that was painted in “{segment}” was not recognized as edited.",
                "Tell the developers.",
            )

    def clear_slice(self, segment: str, frame: int) -> None:
        """Removes all prompts of a segment on a slice, and its preview there."""
        self._choose(segment)
        self.controller.clearPrompts(frame)
        self._wait()

    def _press(self, point: Ras) -> None:
        self.view.click(self.view.rasToXy(point))

    def _use(self, segment: str, tool: str, act: Callable[[], object]) -> ShownPreview:
        """Uses a tool in the view, and waits for the preview of the slice that is shown."""
        self._choose(segment)
        self.controller.chooseTool(tool)
        before, frame = self._workspace.prompts, self.shown_frame
        started = time.monotonic()
        act()
        if self._workspace.prompts == before:
            raise SAM2PropagateError(
                "mouse_not_taken",
                f"The slice view did not take the {tool} prompt for “{segment}”.",
                "Tell the developers; drawing without a screen may be broken on this machine.",
            )
        self._wait()
        seconds = time.monotonic() - started
        self.controller.chooseTool(None)
        doubt = self._arrived[segment, frame].doubt
        return ShownPreview(frame, self._workspace.maskNow(segment, frame), float(doubt or 0.0), seconds)

    # What is computed

    @property
    def prompts(self) -> PromptSet:
        """The prompts in the scene."""
        return self._workspace.prompts.with_axis(self.axis)

    def preview(self, segment: str) -> dict[int, BoolArray]:
        """Return the masks of a segment in the preview, by frame."""
        workspace = self._workspace
        return {frame: workspace.maskNow(segment, frame) for frame in workspace.previewFrames(segment)}

    def propagate(self, on_progress: OnProgress) -> Propagation:
        """Run all segments; masks appear in the preview as they come.

        Raises:
            SAM2PropagateError: the worker failed.
        """
        started = time.monotonic()
        last: dict[str, float] = {}

        def arrive(arrived: FrameArrived) -> None:
            last[arrived.segmentID] = time.monotonic() - started

        def count(now: Progress) -> None:
            on_progress(
                "propagate", ProgressEvent(0, "", now.done, now.total, now.slicesPerSecond, now.secondsLeft)
            )

        self.controller.frameArrived.connect(arrive)
        self.controller.progress.connect(count)
        on_progress("propagate", None)
        try:
            self.controller.propagate(tuple(self.structures))
            self._wait()
        finally:
            self.controller.progress.disconnect(count)
            self.controller.frameArrived.disconnect(arrive)
        run = self._session.last_run
        if run is None or self._ends[-1:] == [] or self._ends[-1].state != "done":
            raise SAM2PropagateError("run_failed", "The run was not finished.", "Tell the developers.")
        return Propagation(run, last)

    def commit(self) -> CommitSummary:
        """Applies the preview: writes it into the segments as one undo step.

        Raises:
            SAM2PropagateError: nothing was written.
        """
        summary = self.controller.apply()
        self._raise_error()
        if summary is None:
            raise SAM2PropagateError("nothing_applied", "There was nothing to apply.", "Tell the developers.")
        return summary

    def undo(self) -> bool:
        """Takes the last step back; returns False if that is impossible."""
        return self.controller.undo()

    def redo(self) -> bool:
        """Brings the undone step back; returns False if that is impossible."""
        return self.controller.redo()

    # What the scene holds

    def mask(self, segment: str, frame: int) -> BoolArray:
        """Return a segment on one slice, (rows, columns) bool."""
        return self._reader(segment).frame(frame, self.axis)

    def masks(self) -> dict[str, BoolArray]:
        """Return all segments on the CT's voxels, (K, J, I) bool."""
        return {name: self._reader(name).array() for name in self.structures}

    def _reader(self, segment: str) -> SegmentReader:
        return SegmentReader(self.segmentationNode, segment, self.volume.geometry)

    def close(self) -> None:
        """Takes the view, the preview and the helpers out of the scene; the user's work stays."""
        if not self._is_closed:
            self._is_closed = True
            self._input.stop()
            self.controller.close()
            self.view.close()


def load_model(session: WorkerSession, model: LoadModel, on_progress: OnProgress) -> Mapping[str, Any]:
    """Loads the model, starting the worker; what it says of it: model, device, dtype, input_size.

    Raises:
        SAM2PropagateError: the worker or the model cannot be used.
    """
    call = session.load_model(model)
    on_progress("load_model", None)

    def take(update: Update) -> None:
        if update.call is call and isinstance(update.event, ProgressEvent):
            on_progress("load_model", update.event)

    session.wait(call, on_update=take)
    call.raise_error()
    return call.result


def _load(ct: Path, window: Window) -> Any:
    if not ct.is_file():
        raise SAM2PropagateError(
            "file_missing", f"There is no file “{ct}”.", "Get the project's files again."
        )
    try:
        node = slicer.util.loadVolume(str(ct))
    except RuntimeError as error:
        raise SAM2PropagateError(
            "unreadable", f"“{ct}” cannot be read ({error}).", "Get the project's files again."
        ) from error
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(window.width, window.level)
    return node
