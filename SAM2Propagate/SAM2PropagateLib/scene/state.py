"""Keeps texts about a segmentation in the scene, beside its markups; they are saved with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from SAM2PropagateLib.scene.names import decoded, encoded, safeName

MODULE_NAME = "SAM2PropagateState"
PREVIEW_MODULE_NAME = "SAM2PropagatePreview"
SEGMENTATION_ROLE = "SAM2Propagate.Segmentation"
TRANSFORM_ROLE = "SAM2Propagate.Transform"
VOLUME_ROLE = "SAM2Propagate.Volume"
ROLE_ATTRIBUTE = "SAM2Propagate.Role"
SEGMENT_ATTRIBUTE = "SAM2Propagate.SegmentID"


class SceneState:
    """Named texts that belong to one segmentation node.

    A hidden vtkMRMLScriptedModuleNode holds them, which is made when the first text is set. Its node
    reference to the segmentation survives loading and importing into another scene.

    Args:
        segmentationNode: the vtkMRMLSegmentationNode, in a scene.
    """

    def __init__(self, segmentationNode: Any) -> None:
        self._segmentationNode = segmentationNode

    def get(self, name: str) -> str:
        """Returns a text; "" if it was never set."""
        node = self.node()
        return str(node.GetParameter(name) or "") if node is not None else ""

    def set(self, name: str, text: str) -> None:
        """Sets a text; "" removes it."""
        node = self.node()
        if node is None:
            if not text:
                return
            node = self._create()
        if text:
            node.SetParameter(name, text)
        else:
            node.UnsetParameter(name)

    def node(self) -> Any:
        """Returns the node that holds the texts; None if there is none."""
        for node in nodesOf(self._segmentationNode, "vtkMRMLScriptedModuleNode"):
            if node.GetModuleName() == MODULE_NAME:
                return node
        return None

    def remove(self) -> None:
        """Removes all texts."""
        node = self.node()
        if node is not None:
            node.GetScene().RemoveNode(node)

    def _create(self) -> Any:
        scene = self._segmentationNode.GetScene()
        node = scene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        node.SetName(safeName(self._segmentationNode.GetName() or "", "SAM2 Propagate state"))
        node.SetModuleName(MODULE_NAME)
        node.SetHideFromEditors(True)
        node.SetNodeReferenceID(SEGMENTATION_ROLE, self._segmentationNode.GetID())
        return scene.AddNode(node)


def isOurs(node: Any) -> bool:
    """Tells whether SAM2 Propagate made a node for a segmentation, which may have been removed."""
    if node.IsA("vtkMRMLScriptedModuleNode"):
        return node.GetModuleName() in (MODULE_NAME, PREVIEW_MODULE_NAME)
    return bool(node.GetAttribute(ROLE_ATTRIBUTE) and node.GetAttribute(SEGMENT_ATTRIBUTE))


def segmentOf(node: Any) -> str:
    """Returns the ID of the segment that a node is for; "" if it is for none."""
    return decoded(node.GetAttribute(SEGMENT_ATTRIBUTE))


def setSegment(node: Any, segmentID: str) -> None:
    """Marks a node as one for a segment."""
    node.SetAttribute(SEGMENT_ATTRIBUTE, encoded(segmentID))


def nodesOf(segmentationNode: Any, className: str) -> Iterator[Any]:
    """Yields the nodes of a class that SAM2 Propagate made for a segmentation, in the order of the scene."""
    scene = segmentationNode.GetScene()
    if scene is None:
        return
    found = [scene.GetNthNodeByClass(n, className) for n in range(scene.GetNumberOfNodesByClass(className))]
    for node in found:
        if node.GetNodeReferenceID(SEGMENTATION_ROLE) == segmentationNode.GetID():
            yield node
