"""Nodes for tests and demonstrations: volumes, segmentations and transforms from arrays and matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import slicer.util

from Headless.boot import HeadlessSlicer


def addVolume(
    headless: HeadlessSlicer, array: np.ndarray, ijkToRas: Any = None, name: str = "CT", parent: Any = None
) -> Any:
    """Returns a scalar volume node with a display.

    Args:
        headless: where to add it.
        array: (K, J, I), copied.
        ijkToRas: 4x4; identity by default.
        name: the node's name.
        parent: a transform node to put it under.
    """
    node = slicer.util.addVolumeFromArray(np.ascontiguousarray(array), name=name)
    if ijkToRas is not None:
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.asarray(ijkToRas, dtype=float)))
    node.CreateDefaultDisplayNodes()
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def addTransform(headless: HeadlessSlicer, matrix: Any, name: str = "Transform", parent: Any = None) -> Any:
    """Returns a linear transform node from a 4x4 matrix to its parent."""
    node = headless.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.asarray(matrix, dtype=float)))
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def addSegmentation(
    headless: HeadlessSlicer,
    volumeNode: Any,
    segments: Mapping[str, tuple[float, float, float]],
    name: str = "Segmentation",
) -> Any:
    """Returns a segmentation node on a volume's grid, under its parent transform, with empty segments.

    Args:
        headless: where to add it.
        volumeNode: gives the reference geometry.
        segments: color by segment ID, which is also the segment's name.
        name: the node's name.
    """
    node = headless.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    for segmentID, color in segments.items():
        node.GetSegmentation().AddEmptySegment(segmentID, segmentID, color)
    return node


def fillSegment(segmentationNode: Any, segmentID: str, volumeNode: Any, mask: np.ndarray) -> None:
    """Sets a segment to a (K, J, I) mask on the volume's grid, as a script of the user would."""
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        np.asarray(mask, dtype=np.uint8), segmentationNode, segmentID, volumeNode
    )
