"""Nodes for tests: volumes that lie in the patient in every way that goes wrong, and segmentations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import slicer


def rotation(degrees: float, around: int) -> np.ndarray:
    """Returns the 4x4 rotation around R, A or S (0, 1, 2)."""
    angle = np.deg2rad(degrees)
    a, b = (n for n in range(3) if n != around)
    matrix = np.eye(4)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def _affine(columns: Any, origin: Any) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(columns, dtype=float).T
    matrix[:3, 3] = origin
    return matrix


_OBLIQUE = rotation(21, 0) @ rotation(-14, 1) @ rotation(33, 2)
_LPS = _affine([(-1.2, 0, 0), (0, -0.9, 0), (0, 0, 2.5)], (30, 40, -60))

# IJK-to-RAS of the volume, then its parent transforms, the nearest first.
GEOMETRIES: dict[str, tuple[np.ndarray, tuple[np.ndarray, ...]]] = {
    "plain": (_LPS, ()),
    "flipped": (_affine([(1.2, 0, 0), (0, -0.9, 0), (0, 0, -2.5)], (-30, 40, 60)), ()),
    "mirrored": (_affine([(1.2, 0, 0), (0, -0.9, 0), (0, 0, 2.5)], (-30, 40, -60)), ()),
    "permuted": (_affine([(0, -1.2, 0), (0, 0, -0.9), (2.5, 0, 0)], (-50, 20, 35)), ()),
    "oblique": (_OBLIQUE @ _LPS, ()),
    "oblique mirrored": (_OBLIQUE @ np.diag([-1.0, 1, 1, 1]) @ _LPS, ()),
    "under transforms": (
        _LPS,
        (
            rotation(17, 2) @ _affine(np.eye(3), (12, -7, 5)),
            rotation(-25, 0) @ _affine(np.eye(3), (-3, 20, 9)),
        ),
    ),
    "oblique under a scaling transform": (_OBLIQUE @ _LPS, (np.diag([1.5, 1.5, 1.5, 1.0]),)),
}
SHAPE_IJK = (40, 36, 18)


def block() -> np.ndarray:
    """Returns (K, J, I) int16: noise with a bright block."""
    i, j, k = SHAPE_IJK
    array = np.random.default_rng(7).integers(0, 60, (k, j, i)).astype(np.int16)
    array[5:13, 10:26, 8:30] += 200
    return array


def addCase(name: str, array: np.ndarray | None = None) -> Any:
    """Returns the volume node of a case of `GEOMETRIES`, with a bright block on noise unless an array is
    given."""
    matrix, parents = GEOMETRIES[name]
    parent = None
    for number, toParent in enumerate(reversed(parents)):
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", f"T{number}")
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(toParent))
        if parent is not None:
            transform.SetAndObserveTransformNodeID(parent.GetID())
        parent = transform
    voxels = np.ascontiguousarray(block() if array is None else array)
    node = slicer.util.addVolumeFromArray(voxels, name="CT")
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    node.CreateDefaultDisplayNodes()
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def addSegmentation(volumeNode: Any, segments: Mapping[str, tuple[float, float, float]]) -> Any:
    """Returns a segmentation node on a volume's grid, with empty segments; their names are their IDs."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    for segmentID, color in segments.items():
        node.GetSegmentation().AddEmptySegment(segmentID, segmentID, color)
    return node


def setGrid(segmentationNode: Any, ijkToRas: np.ndarray, shapeIJK: tuple[int, int, int]) -> None:
    """Gives a segmentation a grid of its own, as the Segment Editor's dialog for its geometry does."""
    values = [*(repr(float(value)) for value in np.asarray(ijkToRas).ravel())]
    values += [str(edge) for size in shapeIJK for edge in (0, size - 1)]
    segmentation = segmentationNode.GetSegmentation()
    segmentation.SetConversionParameter("Reference image geometry", ";".join(values) + ";")


def refinedGrid(
    ijkToRas: np.ndarray, shapeIJK: tuple[int, int, int], factors: tuple[int, int, int]
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Returns the same box in voxels so many times as fine: its matrix and size."""
    split = np.diag([*(1 / factor for factor in factors), 1.0])
    split[:3, 3] = [0.5 / factor - 0.5 for factor in factors]
    i, j, k = (size * factor for size, factor in zip(shapeIJK, factors, strict=True))
    return ijkToRas @ split, (i, j, k)


def fillSegment(segmentationNode: Any, segmentID: str, volumeNode: Any, mask: np.ndarray) -> None:
    """Sets a segment to a (K, J, I) mask on the volume's grid, as a script of the user would."""
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        np.asarray(mask, dtype=np.uint8), segmentationNode, segmentID, volumeNode
    )


def nodesOfClass(className: str) -> list[Any]:
    """Returns the nodes of a class that are in the scene."""
    scene = slicer.mrmlScene
    return [scene.GetNthNodeByClass(n, className) for n in range(scene.GetNumberOfNodesByClass(className))]
