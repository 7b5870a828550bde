"""Commits through an embedded Segment Editor widget, with its masking settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.scene.intensities import IntensityRange
from SAM2PropagateLib.scene.segment_writer import Change, checkMasking, intensityRangeAlone, masks
from SAM2PropagateLib.texts import tr as _

EDITOR_TAG = "SAM2Propagate"
"""The singleton tag of the vtkMRMLSegmentEditorNode of the module's Segment Editor."""

_EFFECTS = ("Paint", "Erase", "Threshold")
_PREPARED = "SAM2Propagate.Prepared"


def segmentEditorNode(scene: Any) -> Any:
    """Returns the embedded Segment Editor's settings in a scene, and makes them if there are none."""
    kind = "vtkMRMLSegmentEditorNode"
    node = scene.GetSingletonNode(EDITOR_TAG, kind)
    if node is None:
        node = scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        node.SetSingletonTag(EDITOR_TAG)
        node.SetHideFromEditors(True)
        node = scene.AddNode(node)
    if not node.GetAttribute(_PREPARED):
        # Slicer's own default, which closing the scene restores, lets a segment take its neighbors' voxels.
        node.SetOverwriteMode(node.OverwriteNone)
        node.SetAttribute(_PREPARED, "1")
    return node


class EditorSegmentWriter:
    """Writes through a qMRMLSegmentEditorWidget, with its masking settings.

    Args:
        editor: the widget; it gets the settings of the scene at every commit.
        segmentationNode, volumeNode: the target, and the source volume of the intensity range.
        settings: returns the editor's settings in a scene.
    """

    def __init__(
        self,
        editor: Any,
        segmentationNode: Any,
        volumeNode: Any,
        settings: Callable[[Any], Any] = segmentEditorNode,
    ) -> None:
        self._editor = editor
        self._segmentationNode = segmentationNode
        self._volumeNode = volumeNode
        self._settings = settings
        self._effect: Any = None
        self._selected = ""

    def prepare(self) -> Any:
        """See `SegmentWriter.prepare`."""
        # In a script the panel may never have been opened in this scene.
        node = self._settings(self._segmentationNode.GetScene())
        if self._editor.mrmlSegmentEditorNode() is not node:
            self._editor.setMRMLSegmentEditorNode(node)
        self._useNodes()
        found = (self._editor.effectByName(name) for name in _EFFECTS)
        self._effect = next((effect for effect in found if effect is not None), None)
        grid = self._effect.referenceGeometryImage() if self._effect is not None else None
        if grid is None:
            raise _failed(_("The Segment Editor cannot write into this segmentation."))
        effect = self._effect
        checkMasking(
            node,
            self._segmentationNode,
            hasArea=lambda: effect.maskLabelmap() is not None,
            hasVolume=lambda: effect.sourceVolumeImageData() is not None,
            otherArea=_("Choose another “Editable area” under “Edit by hand”."),
            noRange=_("Switch it off under “Edit by hand”."),
        )
        self._selected = node.GetSelectedSegmentID() or ""
        return grid

    def _useNodes(self) -> None:
        if self._editor.segmentationNode() is not self._segmentationNode:
            self._editor.setSegmentationNode(self._segmentationNode)
        if self._editor.sourceVolumeNode() is not self._volumeNode:
            self._editor.setSourceVolumeNode(self._volumeNode)

    def modify(self, segmentID: str, labelmap: Any, change: Change) -> None:
        """See `SegmentWriter`."""
        # The editor computes the editable area for its selected segment.
        self._editor.mrmlSegmentEditorNode().SetSelectedSegmentID(segmentID)
        # The effect numbers its modes as the logic does.
        modes = slicer.vtkSlicerSegmentEditorLogic
        mode = modes.ModificationModeAdd if change == "add" else modes.ModificationModeRemove
        self._effect.modifySegmentByLabelmap(self._segmentationNode, segmentID, labelmap, int(mode))

    def finish(self) -> None:
        """See `SegmentWriter`."""
        node = self._editor.mrmlSegmentEditorNode()
        if node is not None and self._selected and node.GetSelectedSegmentID() != self._selected:
            node.SetSelectedSegmentID(self._selected)
        self._effect = None

    @property
    def isMasking(self) -> bool:
        """See `SegmentWriter`."""
        node = self._editor.mrmlSegmentEditorNode()
        return node is not None and masks(node)

    @property
    def isPlain(self) -> bool:
        """See `SegmentWriter`."""
        node = self._editor.mrmlSegmentEditorNode()
        return node is not None and not self.isMasking and node.GetOverwriteMode() == node.OverwriteNone

    @property
    def intensityRange(self) -> IntensityRange | None:
        """See `SegmentWriter.intensityRange`."""
        return intensityRangeAlone(self._editor.mrmlSegmentEditorNode(), self._effect.sourceVolumeImageData)

    def close(self) -> None:
        """Does nothing: the widget lives on."""


def _failed(sentence: str) -> SAM2PropagateError:
    return SAM2PropagateError(
        "commit_failed",
        _("{sentence} Nothing was written.").format(sentence=sentence),
        _("Choose the volume and the segmentation again."),
    )
