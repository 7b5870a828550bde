"""Puts a hidden segmentation node into the data tree only while Slicer looks for it there.

Slicer's data tree looks up every segmentation whenever anything of it changes, and logs an error if it is not
there. A node that stayed in the tree would be saved in scenes as a folder without data.
"""

from __future__ import annotations

from typing import Any

import slicer
import vtk

# Priorities before and after observers with the usual one.
_FIRST, _LAST = 1000.0, -1000.0


class TreeVisits:
    """Puts a hidden segmentation node into the data tree while its events are handled.

    Args:
        node: the vtkMRMLSegmentationNode; it is hidden from editors, so that no tree view shows it.
    """

    def __init__(self, node: Any) -> None:
        # Without a reference to the node, which would keep itself alive through its observers.
        self._depth = 0
        segmentation = slicer.vtkSegmentation
        events = [
            segmentation.SegmentAdded,
            segmentation.SegmentRemoved,
            segmentation.SegmentModified,
            slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent,
        ]
        if hasattr(segmentation, "SegmentsOrderModified"):  # not in every version of Slicer
            events.append(segmentation.SegmentsOrderModified)
        for event in events:
            node.AddObserver(event, self._enter, _FIRST)
            node.AddObserver(event, self._leave, _LAST)

    def _enter(self, node: Any, _event: str) -> None:
        tree = _treeOf(node)
        self._depth += 1
        if tree is not None and self._depth == 1:
            tree.CreateItem(tree.GetSceneItemID(), node)

    def _leave(self, node: Any, _event: str) -> None:
        tree = _treeOf(node)
        self._depth = max(0, self._depth - 1)
        item = tree.GetItemByDataNode(node) if tree is not None and not self._depth else 0
        if not item:
            return
        children = vtk.vtkIdList()
        tree.GetItemChildren(item, children)
        for index in range(children.GetNumberOfIds()):
            # Otherwise Slicer removes the segment with its item.
            tree.RemoveItemAttribute(
                children.GetId(index), slicer.vtkMRMLSegmentationNode.GetSegmentIDAttributeName()
            )
        tree.RemoveItem(item, False, True)


def _treeOf(node: Any) -> Any:
    scene = node.GetScene()
    # Slicer's own getter would make one if there is none.
    return scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode") if scene is not None else None
