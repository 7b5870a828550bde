"""Writes a run's masks into the user's segments: with masking, as one undo step, without harming
neighbors."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import slicer
from vtk.util.numpy_support import numpy_to_vtk

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.frames.geometry import VolumeGeometry, check_axis
from SAM2PropagateLib.scene.difference import Difference, FrameDetails, FrameMasks, VoxelSet, difference
from SAM2PropagateLib.scene.edits import EditTracker, Foreseen, SegmentHashes
from SAM2PropagateLib.scene.intensities import IntensityRange, editable
from SAM2PropagateLib.scene.labelmaps import copying
from SAM2PropagateLib.scene.layers import PlannedLayers, planLayers
from SAM2PropagateLib.scene.segment_copies import Copies
from SAM2PropagateLib.scene.segment_writer import Change, LogicSegmentWriter, SegmentWriter
from SAM2PropagateLib.scene.segments import (
    SegmentReader,
    binaryLabelmapName,
    checkSegment,
    checkSegmentation,
    imageLattice,
    segmentIDs,
    volumeLattice,
)
from SAM2PropagateLib.scene.undo_states import SegmentationStates, hashed
from SAM2PropagateLib.scene.volume import volumeGeometry
from SAM2PropagateLib.texts import tr as _


@dataclass(frozen=True)
class CommitSummary:
    """What a commit did, in voxels of the segmentation.

    Attributes:
        added, removed: voxels that the segments gained and lost.
        protected: voxels that masking kept unchanged although the run's masks differ.
        coarseVoxel: the size of the segmentation's voxels in mm along its own axes, if they are larger than
            the volume's, so that the segments cannot equal the masks; else None.
    """

    added: int
    removed: int
    protected: int
    coarseVoxel: tuple[float, float, float] | None = None

    def __add__(self, other: CommitSummary) -> CommitSummary:
        return CommitSummary(
            self.added + other.added,
            self.removed + other.removed,
            self.protected + other.protected,
            self.coarseVoxel or other.coarseVoxel,
        )


@dataclass(frozen=True)
class _Stamp:
    """A stamp of everything that a commit depends on, except its masks.

    Attributes:
        segments: ID, labelmap, its times, label and representations of each. places: of volume and grid.
        isPlain, within: `isPlain` and `intensityRange` of the `SegmentWriter`.
    """

    segments: tuple[tuple[Any, ...], ...]
    places: tuple[Any, ...]
    isPlain: bool
    within: IntensityRange | None


@dataclass(frozen=True, eq=False)
class _Worked:
    """A commit that has been computed.

    Attributes:
        grid: a vtkOrientedImageData without voxels, with the grid that is written on.
        stamp: of what it was computed from.
        changes: what segments gain and lose, before the writer masks it.
        protected: voxels that masking has taken out of `changes` already.
        before: what segments held; None without a tracker of edits.
        layers: the labelmaps after the commit; None if the writer has to write.
        foreseen, hashes: their contents, by segment and by labelmap.
        copies: for each of the segmentation's labelmaps a copy of its new contents.
    """

    grid: Any
    stamp: _Stamp
    changes: tuple[Difference, ...]
    protected: int
    before: SegmentHashes | None
    layers: PlannedLayers | None
    foreseen: tuple[Foreseen, ...]
    hashes: Mapping[Any, Mapping[int, bytes]]
    copies: Copies


class CommitPlan:
    """A commit that is computed in small steps, and carried out later by `SegmentCommitter.carryOut`.

    Until then nothing in the segmentation changes.

    Args:
        committer: made the plan, and will carry it out.
        masks, axis, details: as for `SegmentCommitter.commit`; the masks must not change.

    Raises:
        InputError: as of `SegmentCommitter.commit`.
    """

    def __init__(
        self,
        committer: SegmentCommitter,
        masks: Mapping[str, FrameMasks],
        axis: int,
        details: Mapping[str, FrameDetails],
    ) -> None:
        self.masks = masks
        self.axis = axis
        self.details = details
        self._committer = committer
        self._begin()

    def _begin(self) -> None:
        self.worked: _Worked | None = None
        self._work = self._committer._workOut(self)

    def step(self) -> bool:
        """Does a small piece of the work; False once nothing is left to do.

        Raises:
            InputError, SAM2PropagateError: as of `SegmentCommitter.commit`.
        """
        if self.worked is not None:
            return False
        try:
            next(self._work)
        except StopIteration as end:
            self.worked = end.value
            return False
        return True

    def finish(self) -> _Worked:
        """Does the rest, or everything again if the segmentation has changed meanwhile.

        Raises:
            InputError, SAM2PropagateError: as of `SegmentCommitter.commit`.
        """
        while self.step():
            pass
        if not self.isUpToDate:
            self._begin()
            while self.step():
                pass
        assert self.worked is not None
        return self.worked

    @property
    def isUpToDate(self) -> bool:
        """Whether everything is computed and the segmentation has not changed since.

        Raises:
            SAM2PropagateError: `masking_failed`.
        """
        return self.worked is not None and self.worked.stamp == self._committer._grid()[1]


class SegmentCommitter:
    """Writes masks into a segmentation.

    Args:
        segmentationNode: the user's vtkMRMLSegmentationNode.
        volumeNode: the vtkMRMLScalarVolumeNode with the masks' frames.
        writer: by default a `LogicSegmentWriter` with the Segment Editor's masking settings.
        edits: notes every commit, to tell the user's edits from it.
        states: keep the segmentation before and after every change; by default new ones.

    Raises:
        InputError: the segmentation cannot be written to.
    """

    def __init__(
        self,
        segmentationNode: Any,
        volumeNode: Any,
        writer: SegmentWriter | None = None,
        edits: EditTracker | None = None,
        states: SegmentationStates | None = None,
    ) -> None:
        checkSegmentation(segmentationNode)
        self._segmentationNode = segmentationNode
        self._volumeNode = volumeNode
        self._writer = writer or LogicSegmentWriter(segmentationNode, volumeNode)
        self._edits = edits
        self._states = states or SegmentationStates(segmentationNode)

    def commit(
        self,
        masks: Mapping[str, FrameMasks],
        axis: int,
        details: Mapping[str, FrameDetails] | None = None,
    ) -> CommitSummary:
        """Makes each segment equal to its masks on the frames that have one, and leaves other frames
        unchanged.

        Only voxels that change are written, so a neighbor that overlapped the segment keeps its voxels.
        Voxels that the Segment Editor's masking protects stay unchanged. One undo takes back the whole call.

        If the segmentation has another grid than the volume, a mask is written as a smooth surface, and only
        where it differs from the segment on its frame: details finer than a pixel stay elsewhere.

        Args:
            masks: per segment ID the masks per frame index, (rows, columns) bool.
            axis: propagation axis of the frames.
            details: per segment ID and frame more on some of the masks; not used on the volume's own grid.

        Raises:
            InputError: `unknown_segment`, `mask_shape`, `outside_volume` (a frame that the volume does not
                have).
            SAM2PropagateError: `masking_failed`, `undo_failed`, `commit_failed`; nothing was written then.
        """
        return self.carryOut(self.plan(masks, axis, details))

    def plan(
        self,
        masks: Mapping[str, FrameMasks],
        axis: int,
        details: Mapping[str, FrameDetails] | None = None,
    ) -> CommitPlan:
        """Returns a commit to be computed ahead, in small steps; for arguments and errors see `commit`."""
        geometry = volumeGeometry(self._volumeNode)
        check_axis(axis)
        for segmentID, frames in masks.items():
            checkSegment(self._segmentationNode, segmentID)
            _checkMasks(frames, geometry, axis)
        return CommitPlan(self, masks, axis, details or {})

    def carryOut(self, plan: CommitPlan) -> CommitSummary:
        """Carries out a plan at once; computes first what is missing or out of date.

        Raises:
            InputError, SAM2PropagateError: as of `commit`.
        """
        worked = plan.finish()
        if worked.layers is None:
            summary = self._write(plan, worked)
        else:
            summary = self._replace(plan, worked, worked.layers)
        grid = imageLattice(worked.grid, self._segmentationNode)
        if grid.isCoarserThan(volumeLattice(volumeGeometry(self._volumeNode))):
            i, j, k = np.linalg.norm(grid.ijkToWorld[:3, :3], axis=0)
            summary = replace(summary, coarseVoxel=(float(i), float(j), float(k)))
        if summary.protected and not (summary.added or summary.removed or self._writer.isMasking):
            raise SAM2PropagateError(
                "commit_failed",
                _("The result could not be written into “{segmentation}”.").format(
                    segmentation=self._segmentationNode.GetName()
                ),
                _("Save the scene, load it again and repeat the run."),
            )
        return summary

    def removeSegment(self, segmentID: str) -> None:
        """Removes a segment, as one undo step.

        Raises:
            InputError: `unknown_segment`. SAM2PropagateError: `undo_failed`; the segment is still there.
        """
        checkSegment(self._segmentationNode, segmentID)
        self._states.keep()
        self._segmentationNode.GetSegmentation().RemoveSegment(segmentID)
        self._states.keep()

    def undo(self) -> bool:
        """Takes back the last change of the segmentation; False if there is none."""
        return self._states.back()

    def redo(self) -> bool:
        """Brings back the last undone change; False if there is none."""
        return self._states.forward()

    def close(self) -> None:
        """Frees what the writer holds, and forgets all states."""
        self._writer.close()
        self._states.close()

    def _grid(self) -> tuple[Any, _Stamp]:
        """Returns the grid that is written on, as a vtkOrientedImageData without voxels, and the present
        stamp.

        Raises:
            SAM2PropagateError: `masking_failed`.
        """
        node, kind = self._segmentationNode, binaryLabelmapName()
        grid = slicer.vtkOrientedImageData()
        try:
            _copyGrid(self._writer.prepare(), grid)
            isPlain, within = self._writer.isPlain, self._writer.intensityRange
        finally:
            self._writer.finish()
        segments, names = [], list[str]()
        for segmentID in segmentIDs(node):
            segment = node.GetSegmentation().GetSegment(segmentID)
            segment.GetContainedRepresentationNames(names)
            image = segment.GetRepresentation(kind)
            scalars = None if image is None else image.GetPointData().GetScalars()
            times = tuple(0 if one is None else one.GetMTime() for one in (image, scalars))
            segments.append((segmentID, image, times, segment.GetLabelValue(), tuple(names)))
        volume, lattice = volumeGeometry(self._volumeNode), imageLattice(grid, node)
        places = (
            volume.shape_ijk,
            volume.ijk_to_ras.tobytes(),
            lattice.extent,
            lattice.ijkToWorld.tobytes(),
        )
        return grid, _Stamp(tuple(segments), places, isPlain, within)

    def _workOut(self, plan: CommitPlan) -> Generator[None, None, _Worked]:
        geometry = volumeGeometry(self._volumeNode)
        grid, stamp = self._grid()
        reference = imageLattice(grid, self._segmentationNode)
        changes = []
        for segmentID, frames in plan.masks.items():
            if frames:
                reader = SegmentReader(self._segmentationNode, segmentID, geometry)
                details = plan.details.get(segmentID, {})
                change = yield from difference(
                    segmentID, reader, frames, details, geometry, plan.axis, reference
                )
                changes.append(change)
        edits, before = self._edits, None
        if edits is not None:
            before = yield from edits.looking(plan.masks, plan.axis)
        layers, written, protected = None, tuple(changes), 0
        limited = (written, 0) if stamp.isPlain else None
        if stamp.within is not None:
            limited = yield from editable(changes, grid, stamp.within)
        if limited is not None and any(not one.isEmpty for one in limited[0]):
            layers = yield from planLayers(self._segmentationNode, grid, limited[0])
            if layers is not None:
                written, protected = limited
        foreseen, hashes, copies = [], {}, []
        for layer in () if layers is None else layers.layers:
            hashes[layer.image] = yield from hashed(layer.planned, list(layer.labels.values()))
            copy = yield from copying(layer.planned)
            copies.append((layer.image, copy))
        if edits is not None and layers is not None:
            for segmentID in layers.changed:
                one = yield from edits.foresee(segmentID, *layers.planned(segmentID))
                foreseen.append(one)
        return _Worked(grid, stamp, written, protected, before, layers, tuple(foreseen), hashes, copies)

    def _replace(self, plan: CommitPlan, worked: _Worked, layers: PlannedLayers) -> CommitSummary:
        """Puts labelmaps in place that were made ahead."""
        edits = self._edits
        self._states.keep()
        current = edits.current if edits is not None else frozenset()
        isExact = layers.put(self._segmentationNode)
        if isExact:
            self._states.expect(worked.hashes)
        if isExact and edits is not None:
            edits.expect(worked.foreseen, current - set(layers.changed))
        self._states.keep(worked.copies if isExact else None)
        if edits is not None and worked.before is not None:
            edits.remember(worked.before, plan.masks, trustsStamps=isExact)
        added, removed = (
            sum(part.count for part in parts if part is not None)
            for parts in zip(*((one.added, one.removed) for one in worked.changes), strict=True)
        )
        return CommitSummary(added, removed, worked.protected)

    def _write(self, plan: CommitPlan, worked: _Worked) -> CommitSummary:
        """Lets the writer write, with masking."""
        # Voxels that one segment loses must be free before another can gain them.
        changes = worked.changes
        steps: list[tuple[str, VoxelSet, Change]] = [
            *((one.segmentID, one.removed, "remove") for one in changes if one.removed is not None),
            *((one.segmentID, one.added, "add") for one in changes if one.added is not None),
        ]
        if steps:
            self._states.keep()
            try:
                self._writer.prepare()
                for segmentID, part, change in steps:
                    self._writer.modify(segmentID, _labelmap(part, worked.grid), change)
            finally:
                self._writer.finish()
            self._states.keep()
        if self._edits is not None and worked.before is not None:
            self._edits.remember(worked.before, plan.masks)
        return self._summary(changes)

    def _summary(self, changes: tuple[Difference, ...]) -> CommitSummary:
        geometry = volumeGeometry(self._volumeNode)
        added = removed = protected = 0
        for one in changes:
            if one.isEmpty:
                continue
            reader = SegmentReader(self._segmentationNode, one.segmentID, geometry)
            if (part := one.added) is not None:
                gained = int(np.count_nonzero(reader.onLattice(part.lattice) & part.voxels))
                added, protected = added + gained, protected + part.count - gained
            if (part := one.removed) is not None:
                kept = int(np.count_nonzero(reader.onLattice(part.lattice) & part.voxels))
                removed, protected = removed + part.count - kept, protected + kept
        return CommitSummary(added, removed, protected)


def _checkMasks(frames: FrameMasks, geometry: VolumeGeometry, axis: int) -> None:
    shape = geometry.frame_shape(axis)
    for index, mask in frames.items():
        if not 0 <= index < geometry.frame_count(axis):
            raise InputError(
                "outside_volume",
                _("The volume has no slice {number} along this axis, only {count}.").format(
                    number=index + 1, count=geometry.frame_count(axis)
                ),
                _("Run the propagation again on this volume."),
            )
        if np.shape(mask) != shape:
            raise InputError(
                "mask_shape",
                _("A mask has {pixels} pixels, but the slices of the volume have {wanted}.").format(
                    pixels=np.shape(mask), wanted=shape
                ),
                _("Run the propagation again on this volume."),
            )


def _copyGrid(grid: Any, image: Any) -> None:
    """Gives a vtkOrientedImageData the grid of another one."""
    image.SetSpacing(grid.GetSpacing())
    image.SetOrigin(grid.GetOrigin())
    image.CopyDirections(grid)
    image.SetExtent(grid.GetExtent())


def _labelmap(part: VoxelSet, grid: Any) -> Any:
    """Returns a vtkOrientedImageData on a grid that holds exactly these voxels."""
    image = slicer.vtkOrientedImageData()
    _copyGrid(grid, image)
    image.SetExtent(part.lattice.extent)
    voxels = np.ascontiguousarray(part.voxels).view(np.uint8)
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.reshape(-1), deep=True))
    return image
