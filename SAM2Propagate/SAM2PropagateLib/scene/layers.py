"""Makes the labelmaps of a segmentation after a commit ahead, and puts them there at once.

Slicer's own way to write voxels (`vtkSlicerSegmentEditorLogic::ModifySegmentByLabelmap`) masks, resamples and
adds layers, and takes a quarter of a second on a large segment. If none of that is needed, the same labelmaps
are made here, slab by slab, and only have to be swapped in.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from SAM2PropagateLib.scene.difference import Difference, VoxelSet
from SAM2PropagateLib.scene.labelmaps import Labels, newLabelmap, swap
from SAM2PropagateLib.scene.lattice import EMPTY, Extent, intersection, union
from SAM2PropagateLib.scene.segments import binaryLabelmapName, labelsOf, segmentIDs
from SAM2PropagateLib.scene.slabs import Filled, runs


@dataclass(frozen=True, eq=False)
class PlannedLayer:
    """A labelmap that changes, with its new contents.

    Attributes:
        image: the vtkOrientedImageData of the segmentation, which stays the same object. planned: one with
            the new contents.
        labels: the label of each segment in it, by segment ID, in their order.
    """

    image: Any
    planned: Any
    labels: dict[str, int]


class PlannedLayers:
    """The labelmaps that a commit changes; `planLayers` makes them.

    Attributes:
        layers: the labelmaps. changed: the segments whose voxels change.
    """

    def __init__(self, layers: Sequence[PlannedLayer], changed: Sequence[str]) -> None:
        self.layers = tuple(layers)
        self.changed = tuple(changed)

    def planned(self, segmentID: str) -> tuple[Any, int]:
        """Returns the labelmap that a segment will have, a vtkOrientedImageData, and its label in it."""
        layer = next(one for one in self.layers if segmentID in one.labels)
        return layer.planned, layer.labels[segmentID]

    def put(self, segmentationNode: Any) -> bool:
        """Puts them into the segmentation, with the events that Slicer sends after writing.

        Returns:
            Whether they are there as planned; False if an observer of the events has changed one.
        """
        segmentation, logic = segmentationNode.GetSegmentation(), slicer.vtkSlicerSegmentationsModuleLogic

        def begin(segmentID: str) -> None:
            segment = segmentation.GetSegment(segmentID)
            if segment is not None and logic.GetSegmentStatus(segment) == logic.NotStarted:
                logic.SetSegmentStatus(segment, logic.InProgress)

        planned = {one.image: one.planned for one in self.layers}
        return swap(segmentation, planned, self.changed, begin)


def planLayers(
    segmentationNode: Any, grid: Any, changes: Sequence[Difference]
) -> Generator[None, None, PlannedLayers | None]:
    """Makes the labelmaps of a commit, slab by slab; nothing in the segmentation changes.

    Args:
        segmentationNode: the target.
        grid: a vtkOrientedImageData with the grid of the changes.
        changes: what segments gain and lose; all losses come before the gains.

    Returns:
        None if Slicer has to write: a labelmap is on another grid, surfaces have to be updated, or a segment
        gets its own labelmap. Slicer does that when it gains a voxel of another segment of its labelmap, and
        when it loses voxels in a box with another segment.
    """
    kind, segmentation = binaryLabelmapName(), segmentationNode.GetSegmentation()
    names: list[str] = []
    layers: dict[Any, dict[str, int]] = {}
    for segmentID in segmentIDs(segmentationNode):
        segment = segmentation.GetSegment(segmentID)
        segment.GetContainedRepresentationNames(names)
        if set(names) - {kind}:
            return None
        layers.setdefault(segment.GetRepresentation(kind), {})[segmentID] = segment.GetLabelValue()
    planned = []
    for image, labels in layers.items():
        concerned = [one for one in changes if one.segmentID in labels and not one.isEmpty]
        if not concerned:
            continue
        layer = None if image is None else (yield from _planned(image, labels, grid, concerned))
        if layer is None:
            return None
        planned.append(layer)
    return PlannedLayers(planned, [one.segmentID for one in changes if not one.isEmpty])


def _planned(
    image: Any, labels: dict[str, int], grid: Any, changes: Sequence[Difference]
) -> Generator[None, None, PlannedLayer | None]:
    old = labelsOf(image)
    extent: Extent = tuple(image.GetExtent()) if old.size else EMPTY
    if old.size and not slicer.vtkOrientedImageDataResample.DoGeometriesMatch(image, grid):
        return None
    dtype = old.dtype if old.size else np.dtype(np.uint8)
    isFitting = dtype.kind in "iu" and all(
        0 < labels[one.segmentID] <= np.iinfo(dtype).max for one in changes
    )
    if not isFitting:
        return None
    whole = extent
    for one in changes:
        if one.added is not None:
            whole = union(whole, one.added.lattice.extent)
    if whole == EMPTY:
        return None
    made, new = newLabelmap(grid, whole, dtype)
    filled = Filled(new.shape)
    for part in runs(new.shape[0], new[0].size):
        slab = new[part]
        place: Extent = (*whole[:4], whole[4] + part.start, whole[4] + part.stop - 1)
        slab[...] = 0
        if (common := intersection(place, extent)) != EMPTY:
            slab[_within(common, place)] = old[_within(common, extent)]
        for one in changes:
            if one.removed is not None and not _clear(slab, place, one.removed, labels[one.segmentID]):
                return None
        for one in changes:
            if one.added is not None and not _set(slab, place, one.added, labels[one.segmentID]):
                return None
        filled.add(part, slab.view(bool) if dtype.itemsize == 1 else slab != 0)
        yield
    tight = filled.box
    if tight is None or new[tight].shape == new.shape:
        # Slicer lets an empty labelmap keep its extent, too.
        return PlannedLayer(image, made, labels)
    k, j, i = tight
    box = (whole[0] + i.start, whole[0] + i.stop - 1, whole[2] + j.start, whole[2] + j.stop - 1)
    cropped, voxels = newLabelmap(grid, (*box, whole[4] + k.start, whole[4] + k.stop - 1), dtype)
    for part in runs(voxels.shape[0], voxels[0].size):
        voxels[part] = new[tight][part]
        yield
    return PlannedLayer(image, cropped, labels)


def _clear(slab: Labels, place: Extent, part: VoxelSet, label: int) -> bool:
    """Clears a part's voxels in a slab from a label; False if the part's box has another segment there."""
    common = intersection(place, part.lattice.extent)
    if common == EMPTY:
        return True
    there = slab[_within(common, place)]
    if ((there != 0) & (there != label)).any():
        return False
    np.copyto(there, 0, where=part.voxels[_within(common, part.lattice.extent)])
    return True


def _set(slab: Labels, place: Extent, part: VoxelSet, label: int) -> bool:
    """Sets a label on a part's voxels in a slab; False if one of them is another segment's."""
    common = intersection(place, part.lattice.extent)
    if common == EMPTY:
        return True
    there, voxels = slab[_within(common, place)], part.voxels[_within(common, part.lattice.extent)]
    if np.logical_and(there, voxels).any():
        return False
    np.copyto(there, label, where=voxels)
    return True


def _within(box: Extent, of: Extent) -> tuple[slice, slice, slice]:
    """Returns where a box lies in a (K, J, I) array over a larger one."""
    i, j, k = (slice(box[2 * n] - of[2 * n], box[2 * n + 1] - of[2 * n] + 1) for n in range(3))
    return k, j, i
