"""Everything that belongs to one volume and one segmentation while the user works on them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk

from SAM2PropagateLib.app.events import WriterMaker
from SAM2PropagateLib.app.history import History
from SAM2PropagateLib.app.kept_facts import FactsOfFrames, KeptFacts, factsAsList, factsOfList
from SAM2PropagateLib.app.moment import Known, Moment, Record
from SAM2PropagateLib.app.observing import Observers
from SAM2PropagateLib.app.removed_segments import RemovedSegments
from SAM2PropagateLib.app.spoken import Spoken
from SAM2PropagateLib.app.underlay import SegmentFrame, Underlay
from SAM2PropagateLib.app.windows import CarriedWindows
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.frame_kinds import PREVIEW
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.prompts.move import moved
from SAM2PropagateLib.prompts.resolve import choose_axis
from SAM2PropagateLib.prompts.values import PromptSet, Ras, to_ras
from SAM2PropagateLib.scene.anchor import Move, settleOthers
from SAM2PropagateLib.scene.commit import SegmentCommitter
from SAM2PropagateLib.scene.edits import EditedFrame, EditTracker, Snapshot
from SAM2PropagateLib.scene.kept_preview import KeptFrame, KeptPreview, PackedFrame, ReadFrame, Stamps
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.placement import Placement
from SAM2PropagateLib.scene.preview import PreviewLayer
from SAM2PropagateLib.scene.segments import SegmentReader, referenceLattice, segmentIDs, volumeLattice
from SAM2PropagateLib.scene.smooth import FrameDetail, widened
from SAM2PropagateLib.scene.states import SegmentationStates
from SAM2PropagateLib.scene.watch import PromptChange, PromptWatcher
from SAM2PropagateLib.texts import tr as _

BoolArray = npt.NDArray[np.bool_]
# Of a volume, an axis and frames along it.
Drawer = Callable[[VolumeGeometry, int, Collection[int]], None]


@dataclass(frozen=True, eq=False)
class Merged:
    """A preview's frame and what the user edited under it, brought together.

    Attributes:
        mask: (rows, columns) bool. detail: the edge of the preview's mask, and where that may be written.
    """

    mask: BoolArray
    detail: FrameDetail


@dataclass(frozen=True)
class Listeners:
    """Who is told of what others change in a workspace.

    Attributes:
        onPrompts: called after the user changed a prompt in a view.
        onSegments: called after anything in the segmentation changed.
    """

    onPrompts: Callable[[PromptChange], None]
    onSegments: Callable[[], None]


# Before and after every commit that can be undone.
_MOST_STATES = 202


class Workspace:
    """The prompts, the preview, the edits and what is known of the frames of one segmentation on one volume.

    Args:
        volumeNode, segmentationNode: of the scene.
        listeners: told of what others change.
        makeWriter: makes what commits are written through, from segmentation and volume; None: a logic of
            its own.
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
        # Those that were there when it was looked last.
        self.knownSegments = self.segmentIDs
        self.volumeID = volumeNode.GetID()
        self.markups = PromptMarkups(segmentationNode, volumeNode)
        self.tracker = EditTracker(segmentationNode, volumeNode)
        self.keptFacts = KeptFacts(segmentationNode)
        self._makeWriter = makeWriter
        self._drawer = drawer
        self._committer: SegmentCommitter | None = None
        self._preview: PreviewLayer | None = None
        self._previewOpacity: float | None = None
        self._kept = KeptPreview(segmentationNode, volumeNode)
        self._edits: dict[tuple[str, int], tuple[EditedFrame, ...]] = {}
        # What each segment held after the last commit along an axis, to notice that it was undone.
        self._committed: dict[tuple[str, int], Mapping[int, str]] = {}
        # What was known of each segment before and after its last commits, by what it held then.
        self._states: dict[tuple[str, int], dict[frozenset[tuple[int, str]], FactsOfFrames]] = {}
        self.undone: set[str] = set()
        # How often runs were undone or brought back.
        self.turns = 0
        self.windows = CarriedWindows()
        self.underlay = Underlay(self.tracker.snapshot)
        self.removed = RemovedSegments(self)
        self.markups.removeGone()
        self.spoken = Spoken(self)
        self.states = SegmentationStates(segmentationNode)
        self.history: History[Moment] = History(self._isThere)
        self._onSegments = listeners.onSegments
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
        self._observers.add(segmentationNode, event, self.restylePreview)

    def close(self) -> None:
        """Ends all observing and takes the preview out of the views; prompts and masks stay.

        Call `keepPreview` before, if the preview is to come back.
        """
        self._watcher.stop()
        self._observers.clear()
        if self.isInScene:
            self.markups.choose(None)
        if self._preview is not None:
            self._preview.close()
        if self._committer is not None:
            self._committer.close()
        self._committer = self._preview = None
        self.history.clear()
        self.states.close()

    @property
    def isInScene(self) -> bool:
        """Whether both nodes are still there."""
        scene = self.segmentationNode.GetScene()
        return scene is not None and self.volumeNode.GetScene() is scene

    # --- transforms

    def follow(self) -> None:
        """The volume, the segmentation, a prompt or a transform above one of them has changed: prompts and
        preview stay on the volume's voxels.
        """
        if not self.isInScene or self.segmentationNode.GetScene().IsBatchProcessing():
            return
        try:
            move = self.markups.settle()
            if self._preview is not None:
                self._preview.follow()
            settleOthers(self.segmentationNode, self.volumeNode)
            if move is not None:
                self._carry(move)
            self._followPlacement()
        except SAM2PropagateError:
            return  # said when the volume is needed

    def _carry(self, move: Move) -> None:
        """The coordinates of the prompts are others than before."""
        self.spoken.read()
        if move.matrix is None:
            # Another image: no step back leads anywhere.
            self.history.clear()
        else:
            matrix = move.matrix
            self.history.map(
                lambda one: (
                    one if one.said is None else replace(one, said=(moved(one.said[0], matrix), one.said[1]))
                )
            )
        self._edits.clear()

    def _followPlacement(self) -> None:
        """Where segmentation and volume were moved against each other, nobody has painted."""
        if self.placement.hasMoved():
            self._edits.clear()
            self.underlay.rebase(self.segmentIDs)
            self._onSegments()

    def isMovedApart(self, segmentID: str) -> bool:
        """Tells whether a segment was moved against the volume since the last commit.

        A grid that the user made finer is no move: the segment then holds what it held on most slices.

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
        """Whether segments are written on another grid than the volume's, where a mask is not all there is to
        say.
        """
        grid = referenceLattice(self.segmentationNode)
        return not (grid is None or grid.hasVoxelsOf(volumeLattice(self.worldGeometry)))

    # --- slices

    @property
    def prompts(self) -> PromptSet:
        """What the user has said of all segments."""
        return self.spoken.prompts

    @property
    def geometry(self) -> VolumeGeometry:
        """The volume's, as it is now in its own space, below its parent transforms: where prompts are."""
        return self.markups.geometry

    @property
    def worldGeometry(self) -> VolumeGeometry:
        """The volume's, as it is now in the world: where the views are."""
        return self.markups.worldGeometry

    def fromWorld(self, ras: npt.ArrayLike) -> Ras:
        """Returns a point of the world in the volume's own space."""
        return to_ras(self.markups.fromWorld(to_ras(ras)))

    @property
    def axis(self) -> int:
        """The propagation axis: the one that was chosen or first clicked along, else a fitting one."""
        chosen = self.markups.axis
        return choose_axis(self.prompts, self.geometry) if chosen is None else chosen

    def axisFor(self, viewNormal: npt.ArrayLike | None) -> int:
        """Returns the axis for a prompt in a view with this normal: the view's, as long as nothing else was
        said."""
        if viewNormal is not None and self.prompts.is_empty and not self._isFixed:
            axis = self.worldGeometry.axis_nearest(viewNormal)
            self.setAxis(axis, isFixed=False)
        return self.axis

    @property
    def _isFixed(self) -> bool:
        """Whether the axis was chosen by hand, or a preview lies along it."""
        return self._axisByHand or self.hasPreview

    _axisByHand = False

    def setAxis(self, axis: int | None, isFixed: bool = True) -> None:
        """Propagate along this axis from now on; None: along that of the next prompt.

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
            self.spoken.prompts = self.prompts.with_axis(axis)
        if self._preview is not None and self._preview.axis != self.axis:
            self._preview.close()
            self._preview = None

    # --- masks

    @property
    def preview(self) -> PreviewLayer:
        """The preview along the present axis, made when it is needed."""
        if self._preview is None:
            axis, drawer = self.axis, self._drawer
            redraw = None if drawer is None else lambda frames: drawer(self.geometry, axis, frames)
            self._preview = PreviewLayer(self.segmentationNode, self.volumeNode, axis, redraw)
            self._preview.fill(self._previewOpacity)
        return self._preview

    @property
    def previewOpacity(self) -> float | None:
        """How strongly the preview is filled, 0 to 1; None: as it is by itself."""
        return self._previewOpacity

    @previewOpacity.setter
    def previewOpacity(self, opacity: float | None) -> None:
        self._previewOpacity = opacity
        if self._preview is not None:
            self._preview.fill(opacity)

    @property
    def previewNode(self) -> Any:
        """The preview's segmentation node; None as long as there is none."""
        return self._preview.node if self._preview is not None else None

    @property
    def hasPreview(self) -> bool:
        """Whether there is a mask in the preview."""
        return self._preview is not None and any(
            self._preview.frames(segmentID) for segmentID in self.segmentIDs
        )

    def previewFrames(self, segmentID: str) -> frozenset[int]:
        """Returns the frames of a segment that are in the preview."""
        return self._preview.frames(segmentID) if self._preview is not None else frozenset()

    def restylePreview(self) -> None:
        """Gives the preview the names, colors and visibility that the segments have now."""
        if self._preview is not None and self.isInScene:
            self._preview.restyle()

    def painted(self, segmentID: str) -> dict[int, Merged]:
        """Returns the frames of the preview under which the user edited the segment since: what the edit
        changed is as the user left it, everything else as in the preview."""
        frames = self.previewFrames(segmentID)
        found: dict[int, Merged] = {}
        for one in self.edits(segmentID) if frames else ():
            base = self.underlay.base((segmentID, one.frame))
            # The volume's size may have changed under the preview.
            if one.frame not in frames or base is None or base.geometry.shape_ijk != self.geometry.shape_ijk:
                continue
            now = self.tracker.snapshot(segmentID)
            changed = now.changedPixels(base, one.frame, self.axis)
            shown = self.preview.mask(segmentID, one.frame)
            # Of a base from the scene the pixels are known, not every voxel of a segment on its own grid.
            isUnknown = now.own is not None and base.own is None
            if shown is None or not (isUnknown or changed.any()):
                continue
            where = widened(shown != base.frame(one.frame, self.axis)) & ~changed
            edge = self.preview.edge(segmentID, one.frame)
            found[one.frame] = Merged(np.where(changed, one.prompt.mask, shown), FrameDetail(edge, where))
        return found

    def keepPreview(self) -> bool:
        """Keeps the preview in the scene, as it is now; whether there is one.

        While the volume cannot be used, what was kept before stays.
        """
        try:
            stamps, read = self._framesToKeep()
        except InputError:
            return self.hasPreview
        axis = self._preview.axis if self._preview is not None else 0
        self._kept.put(axis, self.geometry.shape_ijk, stamps, read)
        return bool(stamps)

    def prepareKept(self, isEnough: Callable[[], bool]) -> bool:
        """Gets frames of the preview ready for `keepPreview`, until it is enough: all of them at once would
        hold the window at the end of a run. Whether there may be more to do.
        """
        with contextlib.suppress(InputError):
            return self._kept.prepare(*self._framesToKeep(), isEnough)
        return False

    def _framesToKeep(self) -> tuple[Stamps, ReadFrame]:
        """Returns the frames of the preview: what changes with each, and how each is read.

        Raises:
            InputError: the volume cannot be used.
        """
        preview, geometry = self._preview, self.geometry
        written = preview.stamps() if preview is not None else {}
        present = set(self.segmentIDs)
        # Looked at once for all frames of a segment.
        snapshots = {name: self.tracker.snapshot(name) if name in present else None for name in written}
        facts: dict[str, FactsOfFrames] = {}
        hashes: dict[str, Mapping[int, str]] = {}

        def stamp(segmentID: str, frame: int, write: int) -> tuple[int, int | None, int | None]:
            base, now = self.underlay.base((segmentID, frame)), snapshots[segmentID]
            return (
                write,
                None if base is None else base.number,
                None if now is None or now.own is None else now.number,
            )

        def seen(segmentID: str, frame: int, axis: int) -> str | None:
            base, now = self.underlay.base((segmentID, frame)), snapshots[segmentID]
            if now is None or now.own is None or base is None:
                return None
            if base.own is None or now.changedPixels(base, frame, axis).any():
                return ""
            if segmentID not in hashes:
                hashes[segmentID] = self.tracker.hashes(segmentID, axis)
            return hashes[segmentID].get(frame, "-")

        def read(segmentID: str, frame: int) -> KeptFrame:
            assert preview is not None
            mask = preview.mask(segmentID, frame)
            if segmentID not in facts:
                facts[segmentID] = self.keptFacts.facts(segmentID, geometry, preview.axis)
            own = facts[segmentID].get(frame)
            base = self.underlay.base((segmentID, frame))
            assert mask is not None
            return KeptFrame(
                mask,
                factsAsList(own) if own is not None else None,
                # An edit that was not looked for yet, or is made elsewhere, can be told when it comes back.
                base.frame(frame, preview.axis) if base is not None else None,
                preview.edge(segmentID, frame),
                seen(segmentID, frame, preview.axis),
            )

        stamps = {
            name: {frame: stamp(name, frame, write) for frame, write in frames.items()}
            for name, frames in written.items()
        }
        return stamps, read

    def showKeptPreview(self) -> None:
        """Shows the preview again that `keepPreview` kept, also in a scene that was saved since.

        Raises:
            InputError: `bad_preview` (it is not readable), `preview_size` (the volume has changed its size).
        """
        try:
            kept = self._kept.get()
        except InputError:
            self._kept.remove()
            raise
        if kept is None:
            return
        geometry = self.geometry
        if kept.shape_ijk != geometry.shape_ijk:
            self._kept.remove()
            raise InputError(
                "preview_size",
                _("The saved preview and “{volume}” differ in size now.").format(
                    volume=self.volumeNode.GetName()
                ),
                _("Propagate again."),
            )
        if kept.axis != self.axis:
            self.setAxis(kept.axis, isFixed=False)
        for segmentID, frames in kept.frames.items():
            if segmentID in self.segmentIDs:
                self._showKept(segmentID, frames, kept.axis)
        self.preview.refresh()

    def _showKept(
        self,
        segmentID: str,
        frames: Mapping[int, KeptFrame] | Mapping[int, PackedFrame],
        axis: int,
        isThere: bool = False,
    ) -> None:
        """Shows frames as they were kept.

        Args:
            isThere: their masks are in the preview already.
        """
        geometry = self.geometry
        edited = self._editedFrames(segmentID)
        hashes = self.tracker.hashes(segmentID, axis)
        bases: dict[int, Snapshot | None] = {}
        for frame, one in frames.items():
            if not isThere:
                self.preview.write(segmentID, frame, one.mask, refresh=False, edge=one.edge)
            # Where only commits and their undoing changed the segment meanwhile, nobody painted.
            isEdited = frame in edited and (one.seen is None or one.seen != hashes.get(frame, "-"))
            under = one.under if isEdited else None
            bases[frame] = None if under is None else Snapshot.ofFrame(under, frame, axis, geometry)
            self.keptFacts.dropPreview(segmentID, frame)
            if one.facts is not None:
                self.keptFacts.putPreview(segmentID, frame, factsOfList(one.facts), geometry, axis)
        self.underlay.put(segmentID, bases)

    def previewRecords(self) -> dict[SegmentFrame, Record]:
        """Returns the preview as it is now, for `showRecords`.

        Raises:
            InputError: the volume cannot be used.
        """
        return self._kept.records(*self._framesToKeep())

    def showRecords(self, records: Mapping[SegmentFrame, Record | None], axis: int | None) -> None:
        """Shows frames of the preview as they were; None for one that was not in it.

        Args:
            axis: theirs. Along another one than the present preview's they cannot be shown.
        """
        there = {key: one for key, one in records.items() if key[0] in self.segmentIDs}
        shown: dict[str, dict[int, Record]] = {}
        gone: dict[str, set[int]] = {}
        for (segmentID, frame), record in there.items():
            if frame in self.previewFrames(segmentID) or record is not None:
                # What the worker believes to have written is not there any more.
                self.undone.add(segmentID)
            if record is not None:
                shown.setdefault(segmentID, {})[frame] = record
            elif frame in self.previewFrames(segmentID):
                gone.setdefault(segmentID, set()).add(frame)
        for segmentID, frames in gone.items():
            self.takeOut(segmentID, frames)
            for frame in frames:
                self.keptFacts.dropPreview(segmentID, frame)
        if shown and axis is not None and axis != self.axis and not self.hasPreview:
            self.setAxis(axis, isFixed=False)
        if shown and axis == self.axis:
            for segmentID, masks in shown.items():
                packed = {frame: PackedFrame(record) for frame, record in masks.items()}
                self._showKept(segmentID, packed, self.axis, self._bringBack(segmentID, masks))
        self.preview.refresh()

    def takeOut(self, segmentID: str, frames: Collection[int]) -> None:
        """Takes frames of a segment out of the preview; the views are drawn with `preview.refresh`."""
        if self.previewFrames(segmentID) <= set(frames):
            self.preview.clear(segmentID)
        for frame in self.previewFrames(segmentID) & set(frames):
            self.preview.erase(segmentID, frame, refresh=False)

    def _bringBack(self, segmentID: str, records: Mapping[int, Record]) -> bool:
        """Puts masks back into the preview that were taken out of it as a whole; False if they are not."""
        stamps = self._kept.stamps(segmentID, records)
        if stamps is None:
            return False
        # A stamp of a frame begins with the number of its writing.
        return self.preview.bringBack(segmentID, {frame: one[0] for frame, one in stamps.items()})

    def _editedFrames(self, segmentID: str) -> set[int]:
        """Returns the frames of a segment that the user edited since the last run; none if that cannot be
        read, which the user is told when edits are looked for."""
        try:
            return {one.frame for one in self.edits(segmentID)}
        except SAM2PropagateError:
            return set()

    def maskNow(self, segmentID: str, frame: int) -> BoolArray:
        """Returns what the user sees of a segment on a frame: its preview if there is one."""
        shown = self._preview.mask(segmentID, frame) if self._preview is not None else None
        if shown is not None:
            return shown
        return self.reader(segmentID).frame(frame, self.axis)

    def maskToCorrect(self, segmentID: str, frame: int) -> BoolArray:
        """Returns the mask that a run left on a frame; what shows only prompts that are gone does not
        count."""
        facts = self.keptFacts.facts(segmentID, self.geometry, self.axis).get(frame)
        if facts is None or facts.kind != PREVIEW:
            return self.maskNow(segmentID, frame)
        return self.reader(segmentID).frame(frame, self.axis)

    def reader(self, segmentID: str) -> SegmentReader:
        """Returns what reads a segment's own masks, frame by frame."""
        return SegmentReader(self.segmentationNode, segmentID, self.geometry, self.volumeNode)

    @property
    def segmentIDs(self) -> tuple[str, ...]:
        """The segments, in order."""
        return segmentIDs(self.segmentationNode)

    @property
    def committer(self) -> SegmentCommitter:
        """What writes into the segments; kept, as it holds the undo history."""
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

    # --- edits

    def _segmentsChanged(self) -> None:
        self.placement.restoreSurfaces()
        self._edits.clear()
        self._onSegments()

    def edits(self, segmentID: str) -> tuple[EditedFrame, ...]:
        """Returns the frames of a segment that the user edited since the last run; looked for anew after
        changes."""
        key = (segmentID, self.axis)
        if key not in self._edits:
            self._look(*key)
        return self._edits[key]

    def _look(self, segmentID: str, axis: int, trustsStamp: bool = False) -> None:
        self._edits[segmentID, axis] = self.tracker.edited(segmentID, axis, trustsStamp)
        self.placement.note(isNew=True)
        self._notice(segmentID, axis)

    def knowsEdits(self, segmentID: str) -> bool:
        """Tells whether `edits` is at hand without looking through the segment."""
        return (segmentID, self.axis) in self._edits

    def openEdits(self) -> dict[str, set[int]]:
        """Per segment the frames that the user edited while a preview or a run of theirs was under way."""
        known = self.underlay.segmentIDs & set(self.segmentIDs)
        edits = {name: [one.frame for one in self.edits(name)] for name in known}
        return self.underlay.edited(edits, self.axis)

    def remember(self, masks: Mapping[str, Collection[int]], openEdits: Mapping[str, set[int]]) -> None:
        """Takes the segments as they are for what a commit left.

        Args:
            masks: the frames of each segment that went into it. openEdits: before it.
        """
        axis = self.axis
        for segmentID in masks:
            self._committed[segmentID, axis] = self.tracker.hashes(segmentID, axis)
        self.noteState(masks)
        self._edits.clear()
        self.placement.note()
        for segmentID in masks:
            # The commit has looked at them.
            self._look(segmentID, axis, trustsStamp=True)
        # Other segments may have lost voxels to it: nobody painted there.
        self.underlay.renew(
            {name: frames - set(masks.get(name, ())) for name, frames in openEdits.items()},
            {name: self.previewFrames(name) for name in self.segmentIDs},
        )

    def noteState(self, segmentIDs: Iterable[str]) -> None:
        """Remembers what is known of segments as they are now, for the time when Undo or Redo brings them
        back to this.
        """
        geometry, axis = self.geometry, self.axis
        for segmentID in segmentIDs:
            states = self._states.setdefault((segmentID, axis), {})
            state = frozenset(self.tracker.hashes(segmentID, axis).items())
            states.pop(state, None)
            states[state] = self.keptFacts.applied(segmentID, geometry, axis)
            while len(states) > _MOST_STATES:
                del states[next(iter(states))]
            voxels = self.states.voxels(segmentID)
            if voxels is not None:
                self.tracker.file(segmentID, voxels)

    def _notice(self, segmentID: str, axis: int) -> None:
        """Finds out whether runs were undone or brought back, and what is known of the frames then."""
        known = self._committed.get((segmentID, axis))
        if known is None:
            return
        now = self.tracker.hashes(segmentID, axis)
        edited = {one.frame for one in self._edits[segmentID, axis]}
        different = {frame for frame in known.keys() | now.keys() if known.get(frame) != now.get(frame)}
        if different - edited:
            facts = self._states.get((segmentID, axis), {}).get(frozenset(now.items()))
            if facts is not None:
                self.keptFacts.putApplied(segmentID, facts, self.geometry, axis)
            else:
                for frame in different - edited:
                    self.keptFacts.dropApplied(segmentID, frame)
            self.turns += 1
            self.undone.add(segmentID)
            self.underlay.refresh(segmentID, different - edited)
        # What the user edited is known as it was before: taking the edit back is no undone run.
        self._committed[segmentID, axis] = {
            **{frame: text for frame, text in now.items() if frame not in edited},
            **{frame: known[frame] for frame in edited if frame in known},
        }

    # --- undo

    def restoreMasks(self, state: int, known: Known) -> None:
        """Makes the segmentation what it was in a state, of which this was known.

        Raises:
            SAM2PropagateError: `undo_failed`.
        """
        self.tracker.restore(known.edits)
        self.states.restore(state)
        self._edits.clear()
        for segmentID in self.segmentIDs:
            voxels = self.states.voxels(segmentID)
            isKnown = voxels is not None and self.tracker.recall(segmentID, voxels)
            if (segmentID, self.axis) in self._committed:
                # So that an undone run is noticed now, not after it is known what there is instead.
                self._look(segmentID, self.axis, trustsStamp=isKnown)
        self.keptFacts.restoreApplied(known.facts)
        self.keptFacts.save()

    def _isThere(self, moment: Moment) -> bool:
        return moment.masks is None or self.states.isThere(moment.masks)
