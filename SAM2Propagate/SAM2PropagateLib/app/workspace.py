"""Holds everything that belongs to one volume and one segmentation while the user works on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
import slicer
import vtk

from SAM2PropagateLib.app.events import WriterMaker
from SAM2PropagateLib.app.hand_edits import HandEdits
from SAM2PropagateLib.app.history import History
from SAM2PropagateLib.app.kept_facts import KeptFacts
from SAM2PropagateLib.app.moment import Moment
from SAM2PropagateLib.app.observing import Observers
from SAM2PropagateLib.app.removed_segments import RemovedSegments
from SAM2PropagateLib.app.shown_preview import BoolArray, Drawer, WorkspacePreview
from SAM2PropagateLib.app.underlay import Underlay
from SAM2PropagateLib.app.workspace_prompts import WorkspacePrompts
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.frame_kinds import ABSENT
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.move import moved
from SAM2PropagateLib.prompts.resolve import choose_axis
from SAM2PropagateLib.prompts.values import PromptSet, Ras, to_ras
from SAM2PropagateLib.scene.anchor import Move, settleOthers
from SAM2PropagateLib.scene.commit import SegmentCommitter
from SAM2PropagateLib.scene.edits import EditTracker
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.placement import Placement
from SAM2PropagateLib.scene.preview import PreviewLayer
from SAM2PropagateLib.scene.seen_segment import EditedFrame
from SAM2PropagateLib.scene.segments import SegmentReader, referenceLattice, segmentIDs, volumeLattice
from SAM2PropagateLib.scene.undo_states import SegmentationStates
from SAM2PropagateLib.scene.watch import PromptChange, PromptWatcher
from SAM2PropagateLib.texts import tr as _


@dataclass(frozen=True)
class Listeners:
    """The functions that are called when others change something in a workspace.

    Attributes:
        onPrompts: after the user changed a prompt in a view.
        onSegments: after anything in the segmentation changed.
        onLoss: with what to tell the user of a preview and of undo steps that cannot stay.
    """

    onPrompts: Callable[[PromptChange], None]
    onSegments: Callable[[], None]
    onLoss: Callable[[InputError], None]


class Workspace:
    """The prompts, the preview, the edits and what is known of the frames of one segmentation on one volume.

    Args:
        volumeNode, segmentationNode: of the scene.
        listeners: called when others change something.
        makeWriter: makes the `SegmentWriter` for a segmentation and a volume; None: one without an editor
            widget.
        drawer: draws the slice views when the preview was written; None: all views are drawn.

    Raises:
        InputError: one of the nodes cannot be used.
    """

    def __init__(
        self,
        volumeNode: Any,
        segmentationNode: Any,
        listeners: Listeners,
        makeWriter: WriterMaker | None = None,
        drawer: Drawer | None = None,
    ) -> None:
        self.volumeNode = volumeNode
        self.segmentationNode = segmentationNode
        self.segmentationID = segmentationNode.GetID()
        # The segments at the last look, to notice added and removed ones.
        self.knownSegments = self.segmentIDs
        self.volumeID = volumeNode.GetID()
        self.markups = PromptMarkups(segmentationNode, volumeNode)
        self.tracker = EditTracker(segmentationNode, volumeNode)
        self.keptFacts = KeptFacts(segmentationNode)
        self._makeWriter = makeWriter
        self._committer: SegmentCommitter | None = None
        self.handEdits = HandEdits(self)
        self.shown = WorkspacePreview(self, drawer)
        self.windows = CarriedWindows()
        self.underlay = Underlay(self.tracker.snapshot)
        self.removed = RemovedSegments(self)
        self.markups.removeGone()
        self.promptStore = WorkspacePrompts(self)
        self.states = SegmentationStates(segmentationNode)
        self.history: History[Moment] = History(self._isThere)
        self.markups.onMove = self._carry
        self._onSegments = listeners.onSegments
        self._onLoss = listeners.onLoss
        self.placement = Placement(segmentationNode, volumeNode)
        self._watcher = PromptWatcher(self.markups, listeners.onPrompts, self.follow)
        self._observers = Observers()
        segmentation = slicer.vtkSegmentation
        for event in (
            segmentation.SourceRepresentationModified,
            segmentation.SegmentModified,
            segmentation.SegmentAdded,
            segmentation.SegmentRemoved,
        ):
            self._observers.add(segmentationNode, event, self._segmentsChanged)
        for event in (segmentation.SegmentModified, segmentation.SourceRepresentationModified):
            self._observers.add(segmentationNode.GetSegmentation(), event, self.placement.restore)
        transformed = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
        self._observers.add(segmentationNode, transformed, self.follow)
        self._observers.add(volumeNode, transformed, self.follow)
        self._observers.add(volumeNode, vtk.vtkCommand.ModifiedEvent, self.follow)
        scene = segmentationNode.GetScene()
        self._observers.add(scene, slicer.vtkMRMLScene.EndBatchProcessEvent, self.follow)
        event = slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent
        self._observers.add(segmentationNode, event, self.shown.restyle)

    def close(self) -> None:
        """Ends all observing and removes the preview from the views; prompts and masks stay.

        Call `shown.keep` first to have the preview back later.
        """
        self._watcher.stop()
        self._observers.clear()
        if self.isInScene:
            self.markups.choose(None)
        self.shown.close()
        if self._committer is not None:
            self._committer.close()
        self._committer = None
        self.history.clear()
        self.states.close()

    @property
    def isInScene(self) -> bool:
        """Whether both nodes are still there."""
        scene = self.segmentationNode.GetScene()
        return scene is not None and self.volumeNode.GetScene() is scene

    # --- transforms

    def follow(self) -> None:
        """Keeps prompts and preview on the volume's voxels, after the volume, the segmentation, a prompt or a
        transform above them has changed.
        """
        if not self.isInScene or self.segmentationNode.GetScene().IsBatchProcessing():
            return
        try:
            self.settle()
            self.shown.follow()
            settleOthers(self.segmentationNode, self.volumeNode)
            self._followPlacement()
        except SAM2PropagateError:
            return  # reported when the volume is needed

    def settle(self) -> None:
        """Takes up a change of the volume that `follow` has not seen yet, as in the middle of a batch.

        Raises:
            SAM2PropagateError: prompts or preview cannot follow it now.
        """
        self.markups.settle()
        if self.shown.isResized:
            self._dropPreview()

    def _dropPreview(self) -> None:
        """Drops the preview as the volume holds another image now, and tells of it."""
        # With another image no step can be undone.
        hadSteps = self.history.last is not None or self.history.next is not None
        self.history.clear()
        self.handEdits.forgetAgreed()
        if loss := self.shown.drop(hadSteps):
            self._onLoss(loss)

    def _carry(self, move: Move) -> None:
        """Carries prompts and undo steps along a move of the volume."""
        # First, as the move is told of only once, and reading the prompts may fail.
        if move.matrix is None:
            self._dropPreview()
        else:
            matrix = move.matrix
            self.history.map(
                lambda one: (
                    one
                    if one.prompts is None
                    else replace(one, prompts=(moved(one.prompts[0], matrix), one.prompts[1]))
                )
            )
        self.handEdits.lookAgain()
        self.promptStore.read()

    def _followPlacement(self) -> None:
        """Takes changes that come from moving segmentation and volume against each other as no edits."""
        if self.placement.hasMoved():
            self.handEdits.lookAgain()
            self.underlay.rebase(self.segmentIDs)
            self._onSegments()

    def isMovedApart(self, segmentID: str) -> bool:
        """Tells whether a segment was moved against the volume since the last commit.

        A finer grid is not a move: the segment then holds the same on most slices.

        Raises:
            InputError: the volume or the segmentation cannot be used.
        """
        if not self.placement.isElsewhere(segmentID):
            return False
        if self.placement.isShifted(segmentID):
            return True
        frames = self.tracker.hashes(segmentID, self.axis)
        return 2 * len(self.edits(segmentID)) > len(frames)

    @property
    def hasOwnGrid(self) -> bool:
        """Whether segments are written on another grid than the volume's, which needs edges besides masks."""
        grid = referenceLattice(self.segmentationNode)
        return not (grid is None or grid.hasVoxelsOf(volumeLattice(self.worldGeometry)))

    # --- slices

    @property
    def prompts(self) -> PromptSet:
        """The prompts of all segments."""
        return self.promptStore.prompts

    @property
    def geometry(self) -> VolumeGeometry:
        """The volume's present geometry in its own space, below its parent transforms, where prompts are."""
        return self.markups.geometry

    @property
    def worldGeometry(self) -> VolumeGeometry:
        """The volume's present geometry in the world, where the views are."""
        return self.markups.worldGeometry

    def fromWorld(self, ras: npt.ArrayLike) -> Ras:
        """Returns a world point (RAS, mm) in the volume's own space."""
        return to_ras(self.markups.fromWorld(to_ras(ras)))

    @property
    def axis(self) -> int:
        """The propagation axis: as chosen, or of the first prompt's view, else the one that fits the
        volume."""
        chosen = self.markups.axis
        return choose_axis(self.prompts, self.geometry) if chosen is None else chosen

    def axisFor(self, viewNormal: npt.ArrayLike | None) -> int:
        """Returns the axis for a prompt in a view with this normal, or in no view (None).

        With the first prompt the axis is settled: the view's, or without a view the one that fits the volume.
        Later prompts leave it as it is, also in scenes of versions that did not settle it.
        """
        if self.prompts.is_empty and not self._isFixed:
            axis = self.axis if viewNormal is None else self.worldGeometry.axis_nearest(viewNormal)
            self.setAxis(axis, isFixed=False)
        elif self.markups.axis is None:
            self.setAxis(self.axis, isFixed=False)
        return self.axis

    @property
    def _isFixed(self) -> bool:
        """Whether the axis was chosen by hand, or a preview lies along it."""
        return self._axisByHand or self.hasPreview

    _axisByHand = False

    def setAxis(self, axis: int | None, isFixed: bool = True) -> None:
        """Sets the propagation axis; None: that of the next prompt's view.

        Raises:
            InputError: `preview_open` (the preview is along another axis and would be lost).
        """
        if self.hasPreview and axis != self.axis:
            raise InputError(
                "preview_open", _("The preview is along another axis."), _("Apply it or discard it first.")
            )
        self._axisByHand = isFixed and axis is not None
        if axis != self.markups.axis:
            self.markups.axis = axis
            self.promptStore.prompts = self.prompts.with_axis(axis)
        self.shown.dropOtherAxis()

    # --- masks

    @property
    def preview(self) -> PreviewLayer:
        """The preview along the present axis, made when it is needed."""
        return self.shown.layer

    @property
    def hasPreview(self) -> bool:
        """Whether there is a mask in the preview."""
        return not self.shown.isEmpty

    def filledFrames(self, segmentID: str) -> tuple[int, ...]:
        """Returns the frames with a mask that a run or the preview gave, ascending, whichever worker it was
        of."""
        facts = self.keptFacts.facts(segmentID, self.geometry, self.axis)
        count = self.geometry.shape_ijk[self.axis]
        return tuple(
            sorted(frame for frame, one in facts.items() if one.kind != ABSENT and 0 <= frame < count)
        )

    def previewFrames(self, segmentID: str) -> frozenset[int]:
        """Returns the frames of a segment that are in the preview."""
        return self.shown.frames(segmentID)

    def maskNow(self, segmentID: str, frame: int) -> BoolArray:
        """Returns the mask that the user sees: the preview's if there is one, else the segment's."""
        return self.shown.maskNow(segmentID, frame)

    def edits(self, segmentID: str) -> tuple[EditedFrame, ...]:
        """Returns the frames of a segment that the user edited since the last run."""
        return self.handEdits.of(segmentID)

    def reader(self, segmentID: str) -> SegmentReader:
        """Returns a reader of a segment's own masks, frame by frame."""
        return SegmentReader(self.segmentationNode, segmentID, self.geometry, self.volumeNode)

    @property
    def segmentIDs(self) -> tuple[str, ...]:
        """The segments, in order."""
        return segmentIDs(self.segmentationNode)

    @property
    def committer(self) -> SegmentCommitter:
        """The committer of this segmentation; one for all commits."""
        if self._committer is None:
            writer = None if self._makeWriter is None else self._makeWriter(
                self.segmentationNode, self.volumeNode
            )  # fmt: skip
            self._committer = SegmentCommitter(
                self.segmentationNode,
                self.volumeNode,
                writer=writer,
                edits=self.tracker,
                states=self.states,
            )
        return self._committer

    def _segmentsChanged(self) -> None:
        self.placement.restoreSurfaces()
        self.handEdits.lookAgain()
        self._onSegments()

    def _isThere(self, moment: Moment) -> bool:
        return moment.masks is None or self.states.isThere(moment.masks)


class CarriedWindows:
    """Keeps the window in which each segment was carried: in its last run with `anew`, else in its first run.

    Attributes:
        told: the window for which the user last heard that some segments keep another one.
    """

    def __init__(self) -> None:
        self.told: Window | None = None
        self._windows: dict[str, Window] = {}
        self._worker: object = None

    def forget(self, segmentID: str) -> None:
        """Forgets a removed segment."""
        self._windows.pop(segmentID, None)

    def carry(self, segmentIDs: Sequence[str], window: Window, worker: object, anew: bool) -> tuple[str, ...]:
        """Notes a run of segments while the volume is shown in a window.

        Args:
            worker: identifies worker, model and axis; a change discards the recorded windows.
            anew: whether all slices are written again, in this window.

        Returns:
            The segments that keep an earlier window.
        """
        if worker != self._worker:
            self._worker, self._windows = worker, {}
        for segmentID in segmentIDs:
            if anew or segmentID not in self._windows:
                self._windows[segmentID] = window
        return tuple(one for one in segmentIDs if self._windows[one] != window)
