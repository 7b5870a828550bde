"""A segmentation node that is in the data tree only for as long as somebody needs to find it there.

Slicer's data tree looks every segmentation up whenever anything of it changes, and complains in the log if it
is not there. A node that stayed in the tree would be written into saved scenes as a folder without its data.
"""

from __future__ import annotations

from typing import Any

import slicer
import vtk

# Before and after everybody who observes the node at the usual priority.
_FIRST, _LAST = 1000.0, -1000.0


class TreeVisits:
    """Puts a hidden segmentation node into the data tree while its events are handled.

    Args:
        node: the vtkMRMLSegmentationNode; it is hidden from editors, so that no tree shows it.
    """

    def __init__(self, node: Any) -> None:
        # The node is not kept: with the observers it would keep itself.
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
            # Else Slicer takes the segment away with its item.
            tree.RemoveItemAttribute(
                children.GetId(index), slicer.vtkMRMLSegmentationNode.GetSegmentIDAttributeName()
            )
        tree.RemoveItem(item, False, True)


def _treeOf(node: Any) -> Any:
    scene = node.GetScene()
    # Asked for by name, Slicer would make one.
    return scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode") if scene is not None else None
