"""Reports prompts that the user has placed, moved or removed in a slice view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from SAM2PropagateLib.frames.geometry import FloatArray
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.prompt_nodes import BOX, boxAxis, isDeletedBox, promptNodes
from SAM2PropagateLib.scene.state import ROLE_ATTRIBUTE, segmentOf


@dataclass(frozen=True, eq=False)
class PromptChange:
    """A change that the user made.

    Attributes:
        segmentID: the segment whose prompts changed.
        role: of the node, as "positive", "box" or "lasso" (`prompt_nodes`).
        node: the markups node, which may be about to be removed.
        viewNormal: (3,) RAS unit normal of the slice view under the mouse; None if there is none.
    """

    segmentID: str
    role: str
    node: Any
    viewNormal: FloatArray | None


class PromptWatcher:
    """Watches the prompts of one segmentation, and calls back after every finished change by the user.

    Boxes are laid flat on their frame before the call. There are no calls while a prompt is being dragged.
    It also updates the prompts' colors, and hides those of removed segments.

    Args:
        markups: the prompts to watch; later nodes are watched, too.
        onChange: called with a `PromptChange`.
        onTransform: called when a prompt was put under another transform than the volume's.
    """

    def __init__(
        self,
        markups: PromptMarkups,
        onChange: Callable[[PromptChange], None],
        onTransform: Callable[[], None] = lambda: None,
    ) -> None:
        self._markups = markups
        self._onChange = onChange
        self._onTransform = onTransform
        self._scene = markups.segmentationNode.GetScene()
        self._observed: dict[Any, list[int]] = {}
        scene = slicer.vtkMRMLScene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
            self._observe(self._scene, event, lambda *_: self._watchNodes())
        segmentation = slicer.vtkSegmentation
        for event in (segmentation.SegmentModified, segmentation.SegmentAdded, segmentation.SegmentRemoved):
            self._observe(markups.segmentationNode, event, lambda *_: self._recolor())
        self._watchNodes()

    def stop(self) -> None:
        """Ends the watching."""
        for node, tags in self._observed.items():
            for tag in tags:
                node.RemoveObserver(tag)
        self._observed.clear()

    def _observe(self, node: Any, event: Any, callback: Callable[..., None]) -> None:
        self._observed.setdefault(node, []).append(node.AddObserver(event, callback))

    def _watchNodes(self) -> None:
        if self._scene.IsBatchProcessing():  # loading or closing; its end is observed too
            return
        inScene = self._inScene()
        present = set(promptNodes(self._markups.segmentationNode)) if inScene else set()
        permanent = (self._scene, self._markups.segmentationNode)
        for node in [one for one in self._observed if one not in permanent and one not in present]:
            for tag in self._observed.pop(node):
                node.RemoveObserver(tag)
            if inScene and not self._markups.isUnwatched:
                self._tell(node)
        for node in present - set(self._observed):
            for event in (node.PointPositionDefinedEvent, node.PointEndInteractionEvent):
                self._observe(node, event, lambda caller, _event: self._changed(caller))
            self._observe(node, node.TransformModifiedEvent, lambda caller, _event: self._transformed(caller))
            self._observe(node, node.PointRemovedEvent, lambda caller, _event: self._pointRemoved(caller))

    def _inScene(self) -> bool:
        return self._markups.segmentationNode.GetScene() is self._scene

    def _recolor(self) -> None:
        if self._inScene() and not self._scene.IsBatchProcessing():
            self._markups.updateDisplay()

    def _changed(self, node: Any) -> None:
        if self._markups.isUnwatched:
            return
        if node.GetAttribute(ROLE_ATTRIBUTE) == BOX:
            normal = viewNormal(self._scene)
            axis = boxAxis(node)
            if axis is None and normal is not None:
                axis = self._markups.worldGeometry.axis_nearest(normal)
            if not self._markups.finishBox(node, axis):
                return
        self._tell(node)

    def _transformed(self, node: Any) -> None:
        if not self._markups.isUnwatched and not self._markups.isUnderTransform(node):
            self._onTransform()

    def _pointRemoved(self, node: Any) -> None:
        if node.GetAttribute(ROLE_ATTRIBUTE) != BOX:
            self._changed(node)
        # Finishing a box removes one of its two points; deleting it, the last one.
        elif isDeletedBox(node) and not self._markups.isUnwatched:
            self._tell(node)

    def _tell(self, node: Any) -> None:
        segmentID, role = segmentOf(node), node.GetAttribute(ROLE_ATTRIBUTE)
        with self._markups.keeping(node):
            self._onChange(PromptChange(segmentID, role, node, viewNormal(self._scene)))


def viewNormal(scene: Any) -> FloatArray | None:
    """Returns the unit normal of the slice view under the mouse, (3,) RAS; None if there is none."""
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    sliceNode = crosshair.GetCursorPositionXYZ([0.0, 0.0, 0.0]) if crosshair is not None else None
    if sliceNode is None:
        return None
    matrix = np.array(sliceNode.GetSliceToRAS().GetData()).reshape(4, 4)
    return np.asarray(matrix[:3, 2] / np.linalg.norm(matrix[:3, 2]), dtype=np.float64)
