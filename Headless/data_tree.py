"""What Slicer's application does in the data tree with every segmentation, and complains about in its log.

A stand-in for qSlicerSubjectHierarchyPluginLogic and qSlicerSubjectHierarchySegmentationsPlugin, which need
the application: nodes that are not hidden get an item, segments get an item under that of their segmentation,
and whatever cannot be found in the tree is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk

from Headless.boot import HeadlessSlicer


class DataTree:
    """Keeps the data tree of a headless Slicer as the application does, until `stop`.

    Args:
        headless: its messages get the errors.
    """

    def __init__(self, headless: HeadlessSlicer) -> None:
        self._headless = headless
        self._scene = headless.scene
        self._tags: list[tuple[Any, int]] = []
        self._isRemoving = False
        scene = slicer.vtkMRMLScene
        self._observe(self._scene, scene.NodeAddedEvent, self._added, vtk.VTK_OBJECT)
        self._observe(self._scene, scene.NodeAboutToBeRemovedEvent, self._removed, vtk.VTK_OBJECT)
        # A closed scene goes on to use a tree that somebody keeps.
        self._observed = vtk.vtkWeakReference()
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            # There always is a tree.
            self._observe(self._scene, event, lambda *_: self.tree())
        self.tree()

    def tree(self) -> Any:
        """Return the scene's vtkMRMLSubjectHierarchyNode."""
        tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene)
        if tree is not self._observed.Get():
            self._observed.Set(tree)
            self._observe(
                tree, tree.SubjectHierarchyItemAboutToBeRemovedEvent, self._itemRemoved, vtk.VTK_LONG
            )
        return tree

    def names(self) -> list[str]:
        """Return the names of all items in the tree, in alphabetical order."""
        tree, found = self.tree(), vtk.vtkIdList()
        tree.GetItemChildren(tree.GetSceneItemID(), found, True)
        ids = [found.GetId(n) for n in range(found.GetNumberOfIds())]
        return sorted(tree.GetItemName(one) for one in ids)

    def stop(self) -> None:
        """Leaves the tree alone from now on."""
        for reference, tag in self._tags:
            if reference.Get() is not None:
                reference.Get().RemoveObserver(tag)
        self._tags.clear()

    def _observe(self, caller: Any, event: int, callback: Callable[..., None], kind: Any = None) -> None:
        def observer(caller: Any, _event: str, data: Any = None) -> None:
            callback(caller, data)

        if kind is not None:
            observer.CallDataType = kind  # type: ignore[attr-defined]
        reference = vtk.vtkWeakReference()
        reference.Set(caller)
        self._tags.append((reference, caller.AddObserver(event, observer)))

    def _added(self, _scene: Any, node: Any) -> None:
        if node.IsA("vtkMRMLSegmentationNode"):
            segmentation = slicer.vtkSegmentation
            self._observe(node, segmentation.SegmentAdded, self._segmentAdded, vtk.VTK_STRING)
            self._observe(node, segmentation.SegmentRemoved, self._segmentRemoved, vtk.VTK_STRING)
            self._observe(node, segmentation.SegmentModified, lambda node, _id: self._itemOf(node))
            self._observe(node, node.DisplayModifiedEvent, lambda node, _data: self._followAll(node))
        isListed = node.IsA("vtkMRMLSegmentationNode") or node.IsA("vtkMRMLMarkupsNode")
        if isListed and not node.GetHideFromEditors() and not self._scene.IsImporting():
            tree = self.tree()
            tree.CreateItem(tree.GetSceneItemID(), node)

    def _removed(self, _scene: Any, node: Any) -> None:
        if self._scene.IsClosing() or node.IsA("vtkMRMLSubjectHierarchyNode"):
            return
        item = self.tree().GetItemByDataNode(node)
        if item:
            self.tree().RemoveItem(item, False, False)

    def _itemOf(self, node: Any) -> int:
        """Return the item of a segmentation; 0 and an error if there is none."""
        if node.GetScene() is not None and node.GetScene().IsImporting():
            return 0
        item = self.tree().GetItemByDataNode(node)
        if not item:
            self._headless.messages.errors.append(
                f"Unable to find subject hierarchy item for segmentation node {node.GetName()}"
            )
        return int(item)

    def _segmentItems(self, item: int) -> dict[str, int]:
        tree, found = self.tree(), vtk.vtkIdList()
        tree.GetItemChildren(item, found)
        name = slicer.vtkMRMLSegmentationNode.GetSegmentIDAttributeName()
        ids = [found.GetId(n) for n in range(found.GetNumberOfIds())]
        return {tree.GetItemAttribute(one, name): one for one in ids}

    def _segmentAdded(self, node: Any, segmentID: str | None) -> None:
        item = self._itemOf(node)
        if not item or not segmentID or segmentID in self._segmentItems(item):
            return
        tree = self.tree()
        level = slicer.vtkMRMLSubjectHierarchyConstants.GetSubjectHierarchyVirtualBranchAttributeName()
        name = node.GetSegmentation().GetSegment(segmentID).GetName() or ""
        own = tree.CreateHierarchyItem(item, name, level)
        tree.SetItemAttribute(own, slicer.vtkMRMLSegmentationNode.GetSegmentIDAttributeName(), segmentID)

    def _segmentRemoved(self, node: Any, segmentID: str | None) -> None:
        if self._isRemoving:
            return
        item = self._itemOf(node)
        own = self._segmentItems(item).get(segmentID or "") if item else None
        if own:
            self.tree().RemoveItem(own)

    def _followAll(self, node: Any) -> None:
        if self._itemOf(node):
            segmentation = node.GetSegmentation()
            for row in range(segmentation.GetNumberOfSegments()):
                self._segmentAdded(node, segmentation.GetNthSegmentID(row))

    def _itemRemoved(self, tree: Any, item: int) -> None:
        """Removing a segment's item removes the segment."""
        if self._scene.IsClosing() or not item:
            return
        segmentID = tree.GetItemAttribute(item, slicer.vtkMRMLSegmentationNode.GetSegmentIDAttributeName())
        node = tree.GetItemDataNode(tree.GetItemParent(item)) if segmentID else None
        if node is not None and node.GetSegmentation().GetSegment(segmentID) is not None:
            self._isRemoving = True
            node.GetSegmentation().RemoveSegment(segmentID)
            self._isRemoving = False
