"""Labelmaps that are made or copied slab by slab, and put into a segmentation in one go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type

from SAM2PropagateLib.scene.lattice import Extent
from SAM2PropagateLib.scene.segments import labelsOf
from SAM2PropagateLib.scene.slabs import runs

Labels = npt.NDArray[Any]
# Above the priority of all other observers.
_BEFORE_ALL = 1e6


def newLabelmap(grid: Any, extent: Extent, dtype: np.dtype[Any]) -> tuple[Any, Labels]:
    """Returns a vtkOrientedImageData on a grid, and its voxels in its own memory, (K, J, I), not set yet."""
    image = slicer.vtkOrientedImageData()
    image.SetSpacing(grid.GetSpacing())
    image.SetOrigin(grid.GetOrigin())
    image.CopyDirections(grid)
    image.SetExtent(extent)
    image.AllocateScalars(get_vtk_array_type(dtype), 1)
    return image, labelsOf(image)


def copying(data: Any) -> Generator[None, None, Any]:
    """Copies a segment's representation, slab by slab where it is a labelmap; gives the copy."""
    voxels = labelsOf(data) if data.IsA("vtkOrientedImageData") else np.zeros(0)
    if not voxels.size:
        copy = data.NewInstance()
        copy.DeepCopy(data)
        return copy
    copy, copied = newLabelmap(data, tuple(data.GetExtent()), voxels.dtype)
    copy.GetPointData().GetScalars().SetName(data.GetPointData().GetScalars().GetName())
    copy.GetFieldData().DeepCopy(data.GetFieldData())
    for part in runs(len(voxels), voxels[0].size):
        copied[part] = voxels[part]
        yield
    return copy


def swap(
    segmentation: Any,
    planned: Mapping[Any, Any],
    segmentIDs: Sequence[str],
    told: Callable[[str], None] = lambda _segmentID: None,
) -> bool:
    """Gives labelmaps of a segmentation other voxels, and tells of it as Slicer does after writing voxels.

    Args:
        segmentation: the vtkSegmentation.
        planned: per labelmap what it is to hold; the labelmap stays the same object, and has these voxels
            for its own from now on.
        segmentIDs: the segments whose voxels change.
        told: called with each of them after it was told of.

    Returns:
        Whether all labelmaps are as planned; False if somebody who was told has changed one.
    """
    for image, other in planned.items():
        replaceQuietly(image, other)
    changes: list[Any] = []
    observed = [
        (image, image.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: changes.append(1)))
        for image in planned
    ]
    try:
        for segmentID in segmentIDs:
            for event in (segmentation.SourceRepresentationModified, segmentation.RepresentationModified):
                segmentation.InvokeEvent(event, segmentID)
            told(segmentID)
    finally:
        for image, tag in observed:
            image.RemoveObserver(tag)
    return not changes


def replaceQuietly(image: Any, planned: Any) -> None:
    """Gives a labelmap the voxels of another one, which it shares, and nobody hears of it yet.

    On the way the old voxels have the new size, several times told; Slicer itself keeps the segmentation from
    hearing of its own writing, which Python cannot.
    """
    with quiet(image):
        image.ShallowCopy(planned)


@contextlib.contextmanager
def quiet(modified: Any) -> Iterator[None]:
    """Within it, nobody hears that an object (vtkObject) is modified."""

    def stop(*_: Any) -> None:
        # Those that were to be told after this are not.
        command.SetAbortFlag(True)

    tag = modified.AddObserver(vtk.vtkCommand.ModifiedEvent, stop, _BEFORE_ALL)
    command = modified.GetCommand(tag)
    try:
        yield
    finally:
        modified.RemoveObserver(tag)
