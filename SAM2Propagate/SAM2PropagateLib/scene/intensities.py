"""What the Segment Editor's editable intensity range lets a commit change, found slab by slab."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SAM2PropagateLib.scene.difference import Difference, Parts, VoxelSet
from SAM2PropagateLib.scene.lattice import Extent, intersection
from SAM2PropagateLib.scene.slabs import slabs


@dataclass(frozen=True)
class IntensityRange:
    """An editable intensity range.

    Attributes:
        volume: the source volume on the segmentation's grid (vtkOrientedImageData).
        time: changes with the volume's voxels.
        low, high: the intensities that may be changed, both included.
    """

    volume: Any
    time: int
    low: float
    high: float

    @classmethod
    def of(cls, volume: Any, limits: Sequence[float]) -> IntensityRange | None:
        """Returns the range between two limits; None if there is no volume."""
        return None if volume is None else cls(volume, volume.GetMTime(), *limits)


def editable(
    changes: Sequence[Difference], grid: Any, within: IntensityRange
) -> Generator[None, None, tuple[tuple[Difference, ...], int] | None]:
    """Limits changes to the voxels whose intensity is within a range.

    Args:
        changes: what segments gain and lose, on `grid`.
        grid: a vtkOrientedImageData.

    Returns:
        The changes, and how many voxels stay unchanged; None if the volume is not on that grid.
    """
    if not slicer.vtkOrientedImageDataResample.DoGeometriesMatch(grid, within.volume):
        return None
    limited, protected = [], 0
    for one in changes:
        parts = []
        for part in (one.added, one.removed):
            extent: Extent = tuple(within.volume.GetExtent())
            if part is not None and intersection(part.lattice.extent, extent) != part.lattice.extent:
                return None
            kept = None if part is None else (yield from _limited(part, within))
            parts.append(kept)
            if part is not None:
                protected += part.count - (0 if kept is None else kept.count)
        limited.append(Difference(one.segmentID, *parts))
    return tuple(limited), protected


def _limited(part: VoxelSet, within: IntensityRange) -> Generator[None, None, VoxelSet | None]:
    # The filter that the Segment Editor uses: it decides what a limit between two integers means.
    threshold = vtk.vtkImageThreshold()
    threshold.SetInputData(within.volume)
    threshold.ThresholdBetween(within.low, within.high)
    threshold.SetInValue(1)
    threshold.SetOutValue(0)
    threshold.SetOutputScalarTypeToUnsignedChar()
    kept = Parts(part.lattice)
    for where, slab in slabs(part.lattice):
        threshold.UpdateExtent(slab.extent)
        found = vtk_to_numpy(threshold.GetOutput().GetPointData().GetScalars())
        kept.put(where, part.voxels[where] & found.reshape(slab.shape).view(bool))
        yield
    return kept.part
