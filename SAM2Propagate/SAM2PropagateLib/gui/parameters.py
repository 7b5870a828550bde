"""Keeps panel, controller and the scene's parameter node in step."""

from __future__ import annotations

from typing import Any, Protocol

import slicer
import vtk

from SAM2PropagateLib.app import rules, tools
from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.app.server_jobs import ServerJobs
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.gui.application import showInViews, volumeInViews
from SAM2PropagateLib.gui.editor_writer import segmentEditorNode
from SAM2PropagateLib.gui.embedded_editor import EditorEffects
from SAM2PropagateLib.gui.install import Installer
from SAM2PropagateLib.gui.model_list import ModelList
from SAM2PropagateLib.gui.options import choicesOf
from SAM2PropagateLib.gui.panel import Panel
from SAM2PropagateLib.gui.view_input import isMouseFree
from SAM2PropagateLib.gui.widgets import put
from SAM2PropagateLib.scene.names import decoded, encoded
from SAM2PropagateLib.scene.volume import volumeGeometry
from SAM2PropagateLib.texts import tr as _


class ModuleLogic(Protocol):
    """The module's logic, as the panel uses it."""

    controller: Controller
    modelList: ModelList
    installer: Installer
    server: ServerJobs

    def getParameterNode(self) -> Any:
        """Returns the scene's parameter node, wrapped."""

    def editSoon(self) -> None:
        """Notes that the user has taken up a tool of the Segment Editor."""

    def workerText(self) -> str:
        """Returns what the panel says of the worker, and of what it needs."""


class Parameters:
    """Follows the scene's parameter node while the module is in view.

    Args:
        ui: the widgets by name.
        logic: has the node. panel: shows it.
        effects: of the embedded Segment Editor, whose settings belong to the node's scene.
        observers: the module's widget, a VTKObservationMixin.
    """

    def __init__(
        self, ui: Any, logic: ModuleLogic, panel: Panel, effects: EditorEffects, observers: Any
    ) -> None:
        self._ui = ui
        self._logic = logic
        self._controller = logic.controller
        self._panel = panel
        self._effects = effects
        self._observers = observers
        self._node: Any = None
        self._guiTag: Any = None
        self._guiObservers: list[int] = []
        self._seenVolume = ""
        self._controller.makeSegment = self._makeSegment
        self._controller.chooseSegment = self._chooseSegment
        ui.segmentationSelector.connect("nodeAddedByUser(vtkMRMLNode*)", self._segmentationAdded)
        ui.volumeSelector.connect("nodeActivated(vtkMRMLNode*)", self._volumeActivated)
        self._controller.changed.connect(self.onChanged)

    def close(self) -> None:
        """Disconnects the widgets; call `follow(None)` first."""
        self._ui.segmentationSelector.disconnect("nodeAddedByUser(vtkMRMLNode*)", self._segmentationAdded)
        self._ui.volumeSelector.disconnect("nodeActivated(vtkMRMLNode*)", self._volumeActivated)

    @property
    def node(self) -> Any:
        """The node that is followed; None if there is none."""
        return self._node

    def take(self) -> None:
        """Follows the scene's node, and takes the volume in the views if none is chosen."""
        node, shown = self._logic.getParameterNode(), volumeInViews()
        self._seenVolume = shown.GetID() if shown is not None else ""
        if node.inputVolume is None:
            node.inputVolume = shown
        self.follow(node)

    def follow(self, node: Any) -> None:
        """Shows a parameter node in the panel and follows it; None: stops following."""
        effects, observers = self._effects, self._observers
        if self._node is not None:
            self._disconnectGui(self._node)
            observers.removeObserver(
                self._node.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameters
            )
            observers.removeObserver(effects.editorNode, vtk.vtkCommand.ModifiedEvent, effects.onEditor)
            effects.editorNode = None
        self._node = node
        if node is not None:
            # Before the segment is shown, as the editor chooses its first segment when it gets its settings.
            effects.editorNode = segmentEditorNode(slicer.mrmlScene)
            self._panel.setEditorNode(effects.editorNode)
        self._panel.setParameters(node)
        if node is not None:
            observers.addObserver(effects.editorNode, vtk.vtkCommand.ModifiedEvent, effects.onEditor)
            self._connectGui(node)
            # Not the typed wrapper: the mixin would keep a reference to each one forever.
            observers.addObserver(node.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameters)
            self._onParameters()

    def _connectGui(self, node: Any) -> None:
        """Connects the widgets with the parameters that they name."""
        observe = node.AddObserver

        def remember(*arguments: Any) -> int:
            self._guiObservers.append(observe(*arguments))
            return self._guiObservers[-1]

        # Slicer 5.10 leaves an observer behind that crashes it once the node's Python part is gone. Its tag
        # is only available while the observer is made.
        node.AddObserver = remember
        try:
            self._guiTag = node.connectGui(self._ui)
        finally:
            del node.AddObserver

    def _disconnectGui(self, node: Any) -> None:
        """Takes back everything that `_connectGui` did."""
        node.disconnectGui(self._guiTag)
        self._guiTag = None
        for tag in self._guiObservers:
            node.RemoveObserver(tag)
        self._guiObservers.clear()

    # --- what the user chooses

    def _onParameters(self, caller: Any = None, event: Any = None) -> None:
        """Hands the user's choices to the controller, and shows the volume and the worker's state."""
        node, controller = self._node, self._controller
        if node is None:
            return
        controller.choices = choicesOf(node)
        controller.select(node.inputVolume, node.segmentation, _segmentOf(node))
        controller.setPreviewOpacity(node.previewOpacity)
        self._ui.volumeSelector.toolTip = volumeText(node.inputVolume)
        put(self._ui.volumeStatusLabel, controller.conditions().volumeProblem)
        self.onChanged()
        self._panel.refresh()

    def onChanged(self, _none: None = None) -> None:
        """Keeps choices that were made elsewhere, and shows the worker's state."""
        node, controller = self._node, self._controller
        if node is None:
            return
        self._ui.workerStatusLabel.text = self._logic.workerText()
        if controller.segmentID != _segmentOf(node) and controller.workspace is not None:
            controller.select(node.inputVolume, node.segmentation, _segmentOf(node))
        self._effects.onTool()

    def onSelection(self, caller: Any = None, event: Any = None) -> None:
        """Chooses the volume in the views if none is chosen yet, for example after one was loaded."""
        node = self._node
        if node is None or slicer.mrmlScene.IsBatchProcessing():
            return
        volumeNode = volumeInViews()
        name = volumeNode.GetID() if volumeNode is not None else ""
        # Only when it has changed: the user may have chosen no volume on purpose.
        if name != self._seenVolume:
            self._seenVolume = name
            if volumeNode is not None and node.inputVolume is None:
                node.inputVolume = volumeNode
                self.takeFirstTool()

    def takeFirstTool(self) -> None:
        """Switches Click + on if nothing is segmented on the volume yet."""
        node, controller = self._node, self._controller
        if node is None or node.inputVolume is None or node.segmentation is not None:
            return
        if isMouseFree() and controller.tool is None and not controller.whyNot(rules.PROMPT):
            controller.chooseTool(tools.POSITIVE)

    def _chooseSegment(self, segmentID: str) -> None:
        if self._node is not None:
            self._node.segmentID = encoded(segmentID)

    def _makeSegment(self) -> None:
        """Makes and chooses a missing segmentation and segment, as a prompt needs them."""
        node = self._node
        if node is None:
            return
        if node.segmentation is not None:
            node.segmentID = encoded(self._controller.addSegment())
            return
        scene = slicer.mrmlScene
        name = scene.GenerateUniqueName(_("Segmentation"))
        segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.segmentID = encoded(Controller.prepareSegmentation(segmentation, node.inputVolume))
        node.segmentation = segmentation

    def _volumeActivated(self, volumeNode: Any) -> None:
        """Shows a volume that the user chose in the panel in the slice views."""
        if volumeNode is not None and slicer.app.layoutManager() is not None:
            showInViews(volumeNode)
            self.takeFirstTool()

    def _segmentationAdded(self, segmentation: Any) -> None:
        """Gives a segmentation that the user made in the panel the volume's grid and a first segment."""
        node = self._node
        if segmentation is not None and node is not None:
            node.segmentID = encoded(Controller.prepareSegmentation(segmentation, node.inputVolume))


def _segmentOf(node: Any) -> str:
    """Returns the chosen segment, or the first one if the segmentation lacks it."""
    if node.segmentation is None:
        return ""
    segmentation = node.segmentation.GetSegmentation()
    segmentID = decoded(node.segmentID)
    if segmentID and segmentation.GetSegment(segmentID) is not None:
        return segmentID
    return str(segmentation.GetNthSegmentID(0)) if segmentation.GetNumberOfSegments() else ""


def volumeText(volumeNode: Any) -> str:
    """Returns the panel's text on a volume: its size, or why it cannot be segmented."""
    if volumeNode is None:
        return _("Choose the CT or MR volume to segment.")
    try:
        # Without reading voxels, as this runs at every change of the parameter node.
        geometry = volumeGeometry(volumeNode)
    except InputError as error:
        return str(error)
    size = " × ".join(str(count) for count in geometry.shape_ijk)
    spacing = " × ".join(f"{float(length):.3g}" for length in geometry.spacing)
    return _("{size} voxels of {spacing} mm.").format(size=size, spacing=spacing)
