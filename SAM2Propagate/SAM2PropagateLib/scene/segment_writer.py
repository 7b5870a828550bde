"""Writes voxels into segments as painting and erasing do, with the Segment Editor's masking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import slicer

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.scene.intensities import IntensityRange
from SAM2PropagateLib.texts import tr as _

Change = Literal["add", "remove"]

# The singleton tag of the Segment Editor module's parameter node.
_SEGMENT_EDITOR_TAG = "SegmentEditor"


class SegmentWriter(Protocol):
    """Writes a commit, with masking: through a segment editor logic, or a Segment Editor widget."""

    def prepare(self) -> Any:
        """Prepares for one commit; returns a vtkOrientedImageData with the grid that the labelmaps must have.

        Raises:
            SAM2PropagateError: the masking settings cannot be applied.
        """
        ...

    def modify(self, segmentID: str, labelmap: Any, change: Change) -> None:
        """Adds or removes the nonzero voxels of a labelmap, masked as if the user had painted or erased them
        with this segment selected.
        """
        ...

    def finish(self) -> None:
        """Ends the commit that `prepare` began, also after a failure."""
        ...

    def close(self) -> None:
        """Frees what the writer holds."""
        ...

    @property
    def isMasking(self) -> bool:
        """Whether the settings may keep voxels from being changed."""
        ...

    @property
    def isPlain(self) -> bool:
        """Whether `modify` changes exactly the voxels it gets, without masking or overwriting anything."""
        ...

    @property
    def intensityRange(self) -> IntensityRange | None:
        """The range that `modify` keeps to, between `prepare` and `finish`; None if nothing or more than the
        intensities decides which voxels change."""
        ...


def masks(node: Any) -> bool:
    """Tells whether the settings of a vtkMRMLSegmentEditorNode may keep voxels from being changed."""
    everywhere = slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere
    return bool(node.GetMaskMode() != everywhere or node.GetSourceVolumeIntensityMask())


def intensityRangeAlone(node: Any, volume: Callable[[], Any]) -> IntensityRange | None:
    """Returns the editable intensity range, if nothing else decides which voxels change; else None.

    Args:
        node: the vtkMRMLSegmentEditorNode.
        volume: returns the source volume on the segmentation's grid, or None.
    """
    everywhere = slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere
    isAlone = node.GetMaskMode() == everywhere and node.GetOverwriteMode() == node.OverwriteNone
    if not isAlone or not node.GetSourceVolumeIntensityMask():
        return None
    return IntensityRange.of(volume(), node.GetSourceVolumeIntensityMaskRange())


def checkMasking(
    node: Any,
    segmentationNode: Any,
    *,
    hasArea: Callable[[], bool],
    hasVolume: Callable[[], bool],
    otherArea: str,
    noRange: str,
) -> None:
    """Refuses settings with which the Segment Editor would write nothing, without telling the user.

    Args:
        node: the vtkMRMLSegmentEditorNode.
        hasArea, hasVolume: compute the editable area, and the volume of the intensity range; return whether
            that was possible.
        otherArea, noRange: tell the user where to choose another area, and where to switch the range off.

    Raises:
        SAM2PropagateError: `masking_failed`.
    """
    modes = slicer.vtkMRMLSegmentationNode
    if node.GetMaskMode() == modes.EditAllowedInsideSingleSegment:
        inside = node.GetMaskSegmentID()
        if not inside or segmentationNode.GetSegmentation().GetSegment(inside) is None:
            raise _maskingFailed(
                _(
                    "The Segment Editor allows changes only in a segment that this segmentation "
                    "does not have."
                ),
                otherArea,
            )
    if node.GetMaskMode() != modes.EditAllowedEverywhere and not hasArea():
        raise _maskingFailed(_("The “Editable area” of the Segment Editor could not be computed."), otherArea)
    if node.GetSourceVolumeIntensityMask() and not hasVolume():
        raise _maskingFailed(
            _("The “Editable intensity range” of the Segment Editor could not be applied to the volume."),
            noRange,
        )


class LogicSegmentWriter:
    """Writes through a vtkSlicerSegmentEditorLogic of its own.

    Every commit reads the masking (editable area, editable intensity range) from the node of the Segment
    Editor module, and leaves that unchanged. It does not read the overwrite mode: Slicer's default lets a
    segment take its neighbors' voxels, and a default cannot be told from a choice.

    Args:
        segmentationNode, volumeNode: the target, and the source volume of the intensity range.
        settingsNode: the vtkMRMLSegmentEditorNode to read the masking from instead.
        overwriteMode: which other segments lose the voxels that a segment gains, one of the modes of
            vtkMRMLSegmentEditorNode; None: no segment.
    """

    def __init__(
        self,
        segmentationNode: Any,
        volumeNode: Any,
        settingsNode: Any = None,
        overwriteMode: int | None = None,
    ) -> None:
        self._segmentationNode = segmentationNode
        self._volumeNode = volumeNode
        self._settingsNode = settingsNode
        self._overwriteMode = overwriteMode
        self._editorNode: Any = None
        self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._logic.SetMRMLScene(segmentationNode.GetScene())
        # `SegmentCommitter` keeps the states.
        self._logic.SetMaximumNumberOfUndoStates(0)
        self._shelf = _SubjectHierarchyPlace(segmentationNode)
        self._useOwnNode()

    def prepare(self) -> Any:
        """See `SegmentWriter`."""
        self._useOwnNode()
        settings = self._settingsNode or self._scene().GetSingletonNode(
            _SEGMENT_EDITOR_TAG, "vtkMRMLSegmentEditorNode"
        )
        node = self._editorNode
        mode = self._overwriteMode
        node.SetOverwriteMode(node.OverwriteNone if mode is None else mode)
        if settings is not None:
            node.SetMaskMode(settings.GetMaskMode())
            node.SetMaskSegmentID(settings.GetMaskSegmentID())
            node.SetSourceVolumeIntensityMask(settings.GetSourceVolumeIntensityMask())
            node.SetSourceVolumeIntensityMaskRange(*settings.GetSourceVolumeIntensityMaskRange())
        self._shelf.remember()
        if not self._logic.UpdateReferenceGeometryImage():
            raise _maskingFailed(
                _("The grid of the segmentation is unknown."),
                _("Choose a source volume for it in the Segment Editor."),
            )
        checkMasking(
            node,
            self._segmentationNode,
            hasArea=self._logic.UpdateMaskLabelmap,
            hasVolume=self._logic.UpdateAlignedSourceVolume,
            otherArea=_("Choose another “Editable area” in the Segment Editor."),
            noRange=_("Switch it off in the Segment Editor."),
        )
        return self._logic.GetReferenceGeometryImage()

    def modify(self, segmentID: str, labelmap: Any, change: Change) -> None:
        """See `SegmentWriter`."""
        logic = self._logic
        # The logic computes the editable area for its selected segment.
        self._editorNode.SetSelectedSegmentID(segmentID)
        mode = logic.ModificationModeAdd if change == "add" else logic.ModificationModeRemove
        logic.ModifySegmentByLabelmap(
            self._segmentationNode, segmentID, labelmap, mode, labelmap.GetExtent(), True, False
        )

    def finish(self) -> None:
        """See `SegmentWriter`."""
        self._shelf.restore()

    @property
    def isMasking(self) -> bool:
        """See `SegmentWriter`."""
        return masks(self._editorNode)

    @property
    def isPlain(self) -> bool:
        """See `SegmentWriter`."""
        return not self.isMasking and self._overwriteMode in (None, self._editorNode.OverwriteNone)

    @property
    def intensityRange(self) -> IntensityRange | None:
        """See `SegmentWriter.intensityRange`."""
        return intensityRangeAlone(self._editorNode, self._logic.GetAlignedSourceVolume)

    def close(self) -> None:
        """Removes the writer's own node from the scene."""
        self._logic.SetSegmentEditorNode(None)
        if self._editorNode is not None and self._editorNode.GetScene() is not None:
            self._editorNode.GetScene().RemoveNode(self._editorNode)
        self._editorNode = None

    def _scene(self) -> Any:
        scene = self._segmentationNode.GetScene()
        if scene is None or self._volumeNode.GetScene() is not scene:
            raise InputError(
                "node_removed",
                _("The segmentation or the volume is no longer in the scene."),
                _("Choose another segmentation and volume."),
            )
        return scene

    def _useOwnNode(self) -> None:
        scene = self._scene()
        if self._editorNode is None or self._editorNode.GetScene() is not scene:
            node = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)
            node.SetName("SAM2Propagate commit")
            node.SetHideFromEditors(True)
            node.SetSaveWithScene(False)
            scene.AddNode(node)
            self._editorNode = node
            self._logic.SetSegmentEditorNode(node)
        if self._editorNode.GetSegmentationNode() is not self._segmentationNode:
            self._editorNode.SetAndObserveSegmentationNode(self._segmentationNode)
        if self._editorNode.GetSourceVolumeNode() is not self._volumeNode:
            self._editorNode.SetAndObserveSourceVolumeNode(self._volumeNode)


class _SubjectHierarchyPlace:
    """Keeps the segmentation's place in the data tree, as the logic moves it next to its source volume."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._parent = 0

    def remember(self) -> None:
        tree, item = self._find()
        self._parent = tree.GetItemParent(item) if item else 0

    def restore(self) -> None:
        tree, item = self._find()
        if item and self._parent and tree.GetItemParent(item) != self._parent:
            tree.SetItemParent(item, self._parent)

    def _find(self) -> tuple[Any, int]:
        tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._node.GetScene())
        return tree, int(tree.GetItemByDataNode(self._node)) if tree is not None else 0


def _maskingFailed(sentence: str, hint: str) -> SAM2PropagateError:
    return SAM2PropagateError(
        "masking_failed", _("{sentence} Nothing was written.").format(sentence=sentence), hint
    )
