"""Makes and copies labelmaps slab by slab, and swaps their voxels in a segmentation at once."""

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
# A priority above that of all other observers.
_BEFORE_ALL = 1e6


def newLabelmap(grid: Any, extent: Extent, dtype: np.dtype[Any]) -> tuple[Any, Labels]:
    """Returns a new vtkOrientedImageData on a grid, and a view of its uninitialized voxels, (K, J, I)."""
    image = slicer.vtkOrientedImageData()
    image.SetSpacing(grid.GetSpacing())
    image.SetOrigin(grid.GetOrigin())
    image.CopyDirections(grid)
    image.SetExtent(extent)
    image.AllocateScalars(get_vtk_array_type(dtype), 1)
    return image, labelsOf(image)


def copying(data: Any) -> Generator[None, None, Any]:
    """Copies a segment's representation, a labelmap slab by slab; returns the copy."""
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
    """Gives labelmaps of a segmentation other voxels, and sends the events that Slicer sends after writing.

    Args:
        segmentation: the vtkSegmentation.
        planned: per labelmap one with its new voxels, which it takes over; the labelmap stays the same
            object.
        segmentIDs: the segments whose voxels change.
        told: called with each of them after its event.

    Returns:
        Whether all labelmaps are as planned; False if an observer of the events has changed one.
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
    """Gives a labelmap the voxels of another one, shared, without sending events.

    VTK would send several events while the old voxels have the new size. Slicer's own code blocks them in the
    segmentation, which Python cannot.
    """
    with quiet(image):
        image.ShallowCopy(planned)


@contextlib.contextmanager
def quiet(modified: Any) -> Iterator[None]:
    """Stops the modified events of a vtkObject within it."""

    def stop(*_: Any) -> None:
        # Ends the event before other observers get it.
        command.SetAbortFlag(True)

    tag = modified.AddObserver(vtk.vtkCommand.ModifiedEvent, stop, _BEFORE_ALL)
    command = modified.GetCommand(tag)
    try:
        yield
    finally:
        modified.RemoveObserver(tag)
