"""A radiologist's desk: a CT in Slicer's scene, one slice view, and the worker behind it.

What the user does, is done with mouse events in the slice view; what is computed, is computed by the worker.
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
import slicer
import slicer.util

from Demo.brush import Brush
from Demo.case import Ras, Structure
from Demo.measure import BoolArray
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frame_kinds import PROPAGATED
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.place import mask_at
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.scene.box_drag import BoxDrag
from SAM2PropagateLib.scene.commit import CommitSummary, SegmentCommitter
from SAM2PropagateLib.scene.edits import EditTracker
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.preview import PreviewLayer
from SAM2PropagateLib.scene.prompt_nodes import BOX, NEGATIVE, POSITIVE, RANGE
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateLib.scene.volume import SceneVolume, readVolume
from SAM2PropagateLib.scene.watch import PromptChange, PromptWatcher
from SAM2PropagateLib.worker.calls import Run, Update
from SAM2PropagateLib.worker.messages import FrameEvent, LoadModel, ProgressEvent
from SAM2PropagateLib.worker.session import WorkerSession

Image = npt.NDArray[np.uint8]
Xy = tuple[float, float]
OnProgress = Callable[[str, ProgressEvent | None], None]

AXIAL = 2
VIEW_SIZE = (600, 520)
_VOLUME = "ct"
_CORNER: Xy = (4.0, 4.0)
_FILL, _OUTLINE_WIDTH = 0.15, 3


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


class DemoDesk:
    """One CT, one segmentation, one slice view, one worker session.

    Args:
        ct: the image file.
        structures: the segments to make.
        preset: name of the display window.
        session: the worker, which has its model or is loading it.

    Raises:
        SAM2PropagateError: the CT cannot be opened or used.
    """

    def __init__(
        self, ct: Path, structures: tuple[Structure, ...], preset: str, session: WorkerSession
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
        self.markups = PromptMarkups(self.segmentationNode, self.volumeNode)
        self.edits = EditTracker(self.segmentationNode, self.volumeNode)
        self.committer = SegmentCommitter(self.segmentationNode, self.volumeNode, edits=self.edits)
        self.axis = AXIAL
        self.preview = PreviewLayer(self.segmentationNode, self.volumeNode, self.axis)
        self._changes: list[PromptChange] = []
        self._watcher = PromptWatcher(self.markups, self._changes.append)
        self.view = SliceView(self.headless, "Red", "Axial", VIEW_SIZE)
        self.view.show(self.volumeNode)
        self._boxes = BoxDrag(self.markups)
        self._boxes.addView(self.view.interactor, self.view.node)
        opened = session.open_volume(
            _VOLUME, self.volume.array, self.volume.geometry, axis=self.axis, window=self.volume.window
        )
        session.wait(opened)
        opened.raise_error()

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
        self.view.jumpTo(self.volume.geometry.ijk_to_world((0, 0, frame)))

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
        return round(float(self.volume.geometry.ras_to_ijk(point)[self.axis]))

    def screenshot(self) -> Image:
        """Return the slice view now, (height, width, 3) RGB, without the mouse over it."""
        self.view.move(_CORNER)
        return np.asarray(self.view.screenshot(), dtype=np.uint8)

    @contextmanager
    def hidden_prompts(self) -> Iterator[None]:
        """Takes the prompts out of the view for a while."""
        displays = [node.GetDisplayNode() for node in self.markups.nodes()]
        shown = [display.GetVisibility() for display in displays]
        for display in displays:
            display.SetVisibility(False)
        try:
            yield
        finally:
            for display, visible in zip(displays, shown, strict=True):
                display.SetVisibility(visible)

    # What the user says, with the mouse

    def click(self, segment: str, point: Ras, positive: bool = True) -> ShownPreview:
        """Clicks on a point of the slice that is shown; the preview of that slice follows."""
        self._place(self.markups.clickNode(segment, positive), point)
        return self._preview(segment, POSITIVE if positive else NEGATIVE)

    def take_back_click(self, segment: str, positive: bool, frame: int, mask: BoolArray) -> None:
        """Removes the last click of a sign, and shows the mask that was there before it."""
        node = self.markups.clickNode(segment, positive)
        node.RemoveNthControlPoint(node.GetNumberOfControlPoints() - 1)
        self._changes.clear()
        self.preview.write(segment, frame, mask)

    def drag_box(self, segment: str, corners: tuple[Ras, Ras]) -> ShownPreview:
        """Drags a box from corner to corner on the slice that is shown; its preview follows."""
        start, end = (self.view.rasToXy(corner) for corner in corners)
        self._boxes.start(segment)
        self.view.drag(start, end)
        return self._preview(segment, BOX)

    def mark_range(self, segment: str, ends: tuple[Ras, Ras]) -> tuple[int, int]:
        """Scrolls to the first and to the last slice of a structure and marks them; their frames."""
        node = self.markups.markNode(segment, RANGE)
        for end in ends:
            self.scroll_to(end)
            self._place(node, end)
        self._changes.clear()
        first, last = sorted(self.frame_of(end) for end in ends)
        return first, last

    def paint(self, segment: str, frame: int, wanted: BoolArray) -> None:
        """Paints and erases in the Segment Editor until the segment on a slice is as wanted, which makes that
        slice a keyframe of the next run.

        Raises:
            SAM2PropagateError: `edit_not_found`: the edited slices are not just this one.
        """
        now = self.mask(segment, frame)
        brush = Brush(self.segmentationNode, self.volumeNode)
        try:
            brush.change(segment, frame, wanted & ~now, now & ~wanted)
        finally:
            brush.close()
        edited = self.edits.edited(segment, self.axis)
        if [one.frame for one in edited] != [frame]:
            raise SAM2PropagateError(
                "edit_not_found",
                f"The slice that was painted in “{segment}” was not recognized as edited.",
                "Tell the developers.",
            )
        self.markups.write(self.markups.read().add(segment, edited[0].prompt))

    def start_anew(self, segment: str, frame: int) -> None:
        """Takes back all clicks and masks of a segment on a slice, and its preview there."""
        geometry, prompts = self.volume.geometry, self.markups.read()
        of_segment = prompts.segment(segment)
        items = [(one.id, one.ras) for one in of_segment.clicks]
        items += [(one.id, one.origin) for one in of_segment.masks]
        for name, point in items:
            if round(float(geometry.ras_to_ijk(point)[self.axis])) == frame:
                of_segment = of_segment.remove(name)
        self.markups.write(prompts.with_segment(of_segment))
        self._changes.clear()
        self.preview.erase(segment, frame)

    def keep_mask(self, segment: str, frame: int) -> None:
        """Makes the segment's present mask on a slice a prompt, so that clicks refine it."""
        mask = self.mask(segment, frame)
        prompt = mask_at(mask, frame, self.volume.geometry, self.axis, f"edit-{'ijk'[self.axis]}{frame}")
        self.markups.write(self.markups.read().add(segment, prompt))
        self._changes.clear()

    def _place(self, node: Any, point: Ras) -> None:
        self.view.startPlacing(node)
        self.view.click(self.view.rasToXy(point))
        self.view.stopPlacing()

    def _preview(self, segment: str, role: str) -> ShownPreview:
        changes = [(one.segmentID, one.role) for one in self._changes]
        self._changes.clear()
        if (segment, role) not in changes:
            raise SAM2PropagateError(
                "mouse_not_taken",
                f"The slice view did not take the {role} prompt for “{segment}”.",
                "Tell the developers; drawing without a screen may be broken on this machine.",
            )
        started = time.monotonic()
        frame = self.shown_frame
        call = self._session.preview(_VOLUME, self.prompts, segment, frame)
        self._session.wait(call)
        call.raise_error()
        assert call.frame is not None and call.mask is not None
        mask = call.mask
        self.preview.write(segment, frame, mask)
        return ShownPreview(frame, mask, float(call.frame.doubt or 0.0), time.monotonic() - started)

    # What is computed

    @property
    def prompts(self) -> PromptSet:
        """What the scene says now."""
        return self.markups.read().with_axis(self.axis)

    def propagate(self, on_progress: OnProgress) -> Propagation:
        """Run all segments; masks appear in the preview layer as they come.

        Raises:
            SAM2PropagateError: the worker failed.
        """
        started = time.monotonic()
        run = self._session.propagate(_VOLUME, self.prompts)
        on_progress("propagate", None)
        last: dict[str, float] = {}

        def take(update: Update) -> None:
            if update.call is not run:
                return
            if isinstance(update.event, FrameEvent):
                event = update.event
                last[event.segment] = time.monotonic() - started
                self.preview.write(event.segment, event.frame, event.mask, refresh=False)
            elif isinstance(update.event, ProgressEvent):
                self.preview.refresh()
                on_progress("propagate", update.event)

        self._session.wait(run, on_update=take)
        run.raise_error()
        return Propagation(run, last)

    def commit(self, propagation: Propagation) -> CommitSummary:
        """Writes a run into the segments as one undo step, and takes the preview away."""
        masks: dict[str, dict[int, BoolArray]] = {}
        for (segment, frame), mask in propagation.run.masks.items():
            masks.setdefault(segment, {})[frame] = mask
        summary = self.committer.commit(masks, self.axis)
        self.preview.clear()
        return summary

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
            self._watcher.stop()
            self._boxes.stop()
            self.preview.close()
            self.committer.close()
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
