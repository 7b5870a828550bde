"""Finds the slice that the user looks at, and shows another one."""

from __future__ import annotations

from typing import Any

import numpy as np

from SAM2PropagateLib.frames.geometry import FloatArray, VolumeGeometry


def sliceNodes(scene: Any) -> list[Any]:
    """Returns the slice views that are in the layout."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLSliceNode")
    nodes = [scene.GetNthNodeByClass(n, "vtkMRMLSliceNode") for n in range(count)]
    return [node for node in nodes if node.IsMappedInLayout()]


def viewNormal(sliceNode: Any) -> FloatArray:
    """Returns the unit normal of a slice view's plane, (3,) RAS."""
    matrix = np.array(sliceNode.GetSliceToRAS().GetData(), dtype=np.float64).reshape(4, 4)
    return np.asarray(matrix[:3, 2] / np.linalg.norm(matrix[:3, 2]), dtype=np.float64)


def xyToRas(sliceNode: Any, xy: tuple[float, float]) -> tuple[float, float, float]:
    """Returns the world point under a pixel of a slice view."""
    r, a, s = sliceNode.GetXYToRAS().MultiplyPoint([float(xy[0]), float(xy[1]), 0.0, 1.0])[:3]
    return r, a, s


def viewsAlong(scene: Any, geometry: VolumeGeometry, axis: int) -> list[Any]:
    """Returns the slice views that show frames of this axis, as nearly as views do."""
    return [node for node in sliceNodes(scene) if geometry.axis_nearest(viewNormal(node)) == axis]


def frameInView(scene: Any, geometry: VolumeGeometry, axis: int) -> int | None:
    """Returns the frame in the middle of the first slice view along the axis; None if there is no such view,
    or it shows a place outside the volume."""
    for node in viewsAlong(scene, geometry, axis):
        origin = np.array([node.GetSliceToRAS().GetElement(row, 3) for row in range(3)])
        middle = geometry.ras_of_ijk([(count - 1) / 2 for count in geometry.shape_ijk])
        normal = viewNormal(node)
        # The view may be panned: only its offset along the normal says which slice it shows.
        point = middle + normal * float(normal @ (origin - middle))
        position = geometry.frame_coordinate(point, axis)
        if -0.5 <= position < geometry.frame_count(axis) - 0.5:
            return geometry.nearest_frame(position, axis)
    return None


def jumpTo(scene: Any, geometry: VolumeGeometry, axis: int, frame: int) -> int:
    """Shows a frame in the slice views along its axis, without panning; returns how many views these are."""
    i, j, k = ((count - 1) / 2 for count in geometry.shape_ijk)
    middle = [i, j, k]
    middle[axis] = frame
    point = geometry.ras_of_ijk(middle)
    views = viewsAlong(scene, geometry, axis)
    for node in views:
        node.JumpSliceByOffsetting(*(float(value) for value in point))
    return len(views)
