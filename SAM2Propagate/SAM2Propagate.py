"""SAM2 Propagate: a click in a slice view becomes a segmentation that runs through the volume.

This file only wires 3D Slicer to the library SAM2PropagateLib. Opening the module installs, downloads and
starts nothing; `torch` and `sam2` are never imported in Slicer's process, only in the worker's.
"""

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import getContext, translate
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from SAM2PropagateLib import texts
from SAM2PropagateLib.app import rules, tools
from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.gui import install
from SAM2PropagateLib.gui.editor_writer import EditorSegmentWriter, segmentEditorNode
from SAM2PropagateLib.gui.install import Installer
from SAM2PropagateLib.gui.model_list import ModelList
from SAM2PropagateLib.gui.options import REACH, choicesOf
from SAM2PropagateLib.gui.panel import Panel
from SAM2PropagateLib.gui.shortcuts import Shortcuts
from SAM2PropagateLib.gui.slicer_packages import SlicerPackageTools
from SAM2PropagateLib.gui.view_drawing import ViewDrawing
from SAM2PropagateLib.gui.view_input import ViewInput, isMouseFree
from SAM2PropagateLib.gui.widgets import put
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.models.store import ModelStatus, ModelStore
from SAM2PropagateLib.run_options import BOTH
from SAM2PropagateLib.scene.names import decoded, encoded, saveIfLoadable
from SAM2PropagateLib.scene.volume import SceneVolume, readVolume, volumeGeometry
from SAM2PropagateLib.worker.command import worker_command
from SAM2PropagateLib.worker.session import WorkerSession

LIBRARY = "SAM2PropagateLib"
SAMPLE_NAME = "SAM2PropagateAbdomenCT"
SAMPLE_FILE = "abdomen_ct.nii.gz"
LIVER_IJK = (86, 49, 103)
UNDO_KEYS, REDO_KEYS = ("Ctrl+Z",), ("Ctrl+Y", "Ctrl+Shift+Z")
SAMPLE_SHA256 = "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1"


class SAM2Propagate(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SAM2 Propagate")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "Markups"]
        parent.contributors = ["The SAM2Propagate contributors"]
        parent.helpText = _(
            "Click on a structure in any slice view, or drag a box around it: SAM 2 segments it there and "
            "carries the segmentation through the volume, in a process of its own, while you go on working. "
            "The result is an ordinary segmentation, to be edited, corrected and propagated again."
        )
        parent.acknowledgementText = _(
            "Built on SAM 2 (Segment Anything Model 2, Meta, Apache License 2.0). If you publish with it, "
            "cite: Ravi N. et al., SAM 2: Segment Anything in Images and Videos, arXiv 2408.00714, 2024. "
            "Not a medical device."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def samplePath() -> Path | None:
    """The CT that ships with the extension; None where the extension was installed without it."""
    module = Path(__file__).resolve().parent
    # In an installed extension it is among the module's resources, in a checkout beside the module.
    for folder in (module / "Resources" / "Sample", module.parent / "Resources" / "Sample"):
        if (folder / SAMPLE_FILE).is_file():
            return folder / SAMPLE_FILE
    return None


def registerSampleData() -> None:
    """Offer the CT in Slicer's Sample Data module; it is here already, so nothing is downloaded."""
    path = samplePath()
    if path is None:
        return
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="SAM2 Propagate",
        sampleName=SAMPLE_NAME,
        thumbnailFileName=str(Path(__file__).parent / "Resources" / "Icons" / "SAM2PropagateAbdomenCT.png"),
        uris=path.as_uri(),
        fileNames=f"{SAMPLE_NAME}.nii.gz",
        nodeNames=SAMPLE_NAME,
        loadFileTypes="VolumeFile",
        checksums=f"SHA256:{SAMPLE_SHA256}",
    )


@parameterNodeWrapper
class SAM2PropagateParameterNode:
    """What the user has chosen; saved with the scene.

    inputVolume: the image that is segmented.
    segmentation, segmentID: what the segments go into, and the one that prompts are for (`names.encoded`).
    direction: "both", "forward" or "backward".
    limitReach, reach: whether a run stops so many slices from every keyframe.
    allSegments: run all segments with prompts. applyAutomatically: write a finished run into the segment.
    model: a model's name or a weights file. device: "auto", "cuda", "mps" or "cpu".
    motion: carry masks along the image's motion as well as by the model.
    keepAsDrawn: lassos are masks just as they are drawn.
    previewOpacity: 0 to 1.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    segmentID: str
    direction: str = BOTH
    limitReach: bool = False
    # Without the bounds Slicer lets the spin box go below zero, whatever the .ui file says.
    reach: Annotated[int, WithinRange(*REACH)] = 20
    allSegments: bool = False
    applyAutomatically: bool = True
    model: str = DEFAULT_MODEL
    device: str = "auto"
    motion: bool = True
    keepAsDrawn: bool = False
    previewOpacity: float = 0.35


class SAM2PropagateWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's panel: it comes and goes with the module and the scene; `Panel` does the wiring."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: SAM2PropagateLogic | None = None
        self.ui: Any = None
        self.panel: Panel | None = None
        self._views: ViewInput | None = None
        self._parameterNode: Any = None
        self._guiTag: Any = None
        self._guiObservers: list[int] = []
        self._editorNode: Any = None
        self._effect = ""
        self._tool: str | None = None
        self._shortcuts: Shortcuts | None = None
        self._seenVolume = ""

    def setup(self) -> None:
        """Build the panel; called once, when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/SAM2Propagate.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        editor = self.ui.segmentEditor
        self.logic = SAM2PropagateLogic(
            lambda *nodes: EditorSegmentWriter(editor, *nodes), lambda: effectName(self._effect)
        )
        self.panel = Panel(
            self.ui,
            self.logic.controller,
            self.logic.modelList,
            Installer(SlicerPackageTools(), Path(slicer.app.temporaryPath), self.logic.findPackage),
            self.logic.neededPackages,
            ModuleDialogs(),
            Path(self.resourcePath("Icons")),
            _isDark(),
            slicer.app.userSettings(),
            self.frameSurfaces,
        )
        self.logic.controller.makeSegment = self.makeSegment
        self._views = ViewInput(
            self.logic.controller,
            {
                tools.PROPAGATE_KEY: self.panel.run.propagateOrCancel,
                tools.NEXT_DOUBTFUL_KEY: self.panel.run.nextDoubtful,
                tools.ADD_SEGMENT_KEY: self.panel.segments.add,
            },
            onHover=lambda isOn: self.enableKey("Del", isOn),
            isButtonDown=isLeftButtonDown,
        )
        self.ui.segmentationSelector.connect("nodeAddedByUser(vtkMRMLNode*)", self.onSegmentationAdded)
        self.ui.volumeSelector.connect("nodeActivated(vtkMRMLNode*)", self.onVolumeActivated)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        # A scene view that is restored takes nodes away and brings others, too.
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartRestoreEvent, self.onSceneStartImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndRestoreEvent, self.onSceneEndImport)
        # Above the Segment Editor's own priority, as it would take the user's label layers away; and below,
        # as it has chosen the first segment then, and we put ours back.
        self.addObserver(
            slicer.mrmlScene, slicer.mrmlScene.EndBatchProcessEvent, self.onSceneBatchEnding, priority=1.0
        )
        self.addObserver(
            slicer.mrmlScene, slicer.mrmlScene.EndBatchProcessEvent, self.onSceneEndBatch, priority=-1.0
        )
        selection = slicer.app.applicationLogic().GetSelectionNode()
        self.addObserver(selection, vtk.vtkCommand.ModifiedEvent, self.onSelection)
        slicer.app.connect("paletteChanged(QPalette)", self.onPalette)
        slicer.app.connect("applicationStateChanged(Qt::ApplicationState)", self.onApplicationState)
        self.logic.controller.changed.connect(self.onChanged)
        self.logic.controller.finished.connect(self.onFinished)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when Slicer quits and before the module is reloaded: nothing of ours stays behind."""
        self.leaveViews()
        self.giveKeysBack()
        self.setParameterNode(None)
        self.removeObservers()
        if self.panel is not None:
            slicer.app.disconnect("paletteChanged(QPalette)", self.onPalette)
            slicer.app.disconnect("applicationStateChanged(Qt::ApplicationState)", self.onApplicationState)
            self.panel.close()
            self.ui.segmentationSelector.disconnect("nodeAddedByUser(vtkMRMLNode*)", self.onSegmentationAdded)
            self.ui.volumeSelector.disconnect("nodeActivated(vtkMRMLNode*)", self.onVolumeActivated)
        if self.logic is not None:
            self.logic.close()
        if self.ui is not None:
            # After a reload Slicer keeps this widget, hidden: it must not write into the new one's settings.
            self.ui.segmentEditor.setMRMLSegmentEditorNode(None)
        texts.set_translator(None)

    def enter(self) -> None:
        """Called whenever the user switches to this module."""
        self.initializeParameterNode()
        self.takeKeys()
        self.enterViews()
        self.takeFirstTool()
        layout = slicer.app.layoutManager()
        if layout is not None:
            # Once, however often Slicer says that the module was entered.
            layout.disconnect("layoutChanged(int)", self.enterViews)
            layout.connect("layoutChanged(int)", self.enterViews)

    def exit(self) -> None:
        """Called whenever the user switches to another module; a run goes on."""
        self.leaveViews()
        self.giveKeysBack()
        self.setParameterNode(None)

    def onReload(self) -> None:
        """Reload the module and its library (a button in Slicer's developer mode)."""
        for name in [name for name in sys.modules if name == LIBRARY or name.startswith(LIBRARY + ".")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    # --- views

    def enterViews(self, *_: Any) -> None:
        """Listen to mouse and keys in the views of the present layout."""
        layout = slicer.app.layoutManager()
        if layout is None or self._views is None:  # Slicer without its main window
            return
        self._views.clearViews()
        views = [layout.sliceWidget(name) for name in layout.sliceViewNames()]
        # One that is on its way out has no node any more.
        views = [view for view in views if view.mrmlSliceNode() is not None]
        for view in views:
            sliceView = view.sliceView()
            self._views.addSliceView(sliceView.interactor(), view.mrmlSliceNode(), sliceView.scheduleRender)
        for number in range(layout.threeDViewCount):
            self._views.add3DView(layout.threeDWidget(number).threeDView().interactor())
        self._views.start()
        if self.panel is not None:
            self.panel.followViews([view.mrmlSliceNode() for view in views])

    def leaveViews(self) -> None:
        """Leave the views as they were."""
        if self.logic is not None:
            self.logic.controller.chooseTool(None)
        layout = slicer.app.layoutManager()
        if layout is not None:  # gone already when Slicer quits
            layout.disconnect("layoutChanged(int)", self.enterViews)
        if self._views is not None:
            self._views.clearViews()
        if self.panel is not None:
            self.panel.followViews(())
            self.panel.putEffectAway()

    # --- keys

    def takeKeys(self) -> None:
        """Escape, Delete, Undo and Redo work wherever the keyboard is, but in text fields."""
        self.giveKeysBack()
        if self.logic is not None and self._views is not None:
            controller = self.logic.controller
            actions: dict[str, Callable[[], object]] = {
                "Esc": self.putToolAway,
                "Del": self._views.deletePrompt,
                **dict.fromkeys(UNDO_KEYS, controller.undo),
                **dict.fromkeys(REDO_KEYS, controller.redo),
            }
            self._shortcuts = Shortcuts(slicer.util.mainWindow() or self.parent, actions)
            self.enableKeys()

    def giveKeysBack(self) -> None:
        """Leave the window's keys as they were."""
        shortcuts, self._shortcuts = self._shortcuts, None
        if shortcuts is not None:
            shortcuts.close()

    def enableKey(self, key: str, isOn: bool) -> None:
        """Use a key of the window, or leave it to others."""
        if self._shortcuts is not None:
            self._shortcuts.enable(key, isOn)

    def enableKeys(self) -> None:
        """Use the keys that have something to do now; the mouse decides on Delete."""
        if self._shortcuts is None or self.logic is None:
            return
        controller = self.logic.controller
        self.enableKey("Esc", controller.tool is not None)
        for keys, isOn in ((UNDO_KEYS, controller.canUndo), (REDO_KEYS, controller.canRedo)):
            for key in keys:
                self.enableKey(key, isOn)

    def putToolAway(self) -> None:
        """Switch the tool off: the mouse is Slicer's again."""
        if self.logic is not None:
            self.logic.controller.chooseTool(None)

    # --- scene and parameters

    def onSceneStartClose(self, caller: Any, event: Any) -> None:
        """The scene is about to be closed: nothing here may hold on to its nodes."""
        self.setParameterNode(None)
        if self.panel is not None:
            self.panel.letGoOfScene()
            self.panel.messages.forgetErrors()

    def onSceneEndClose(self, caller: Any, event: Any) -> None:
        """The scene is empty: start afresh if the module is the one in view."""
        if self.parent.isEntered:
            self.initializeParameterNode()
            self.enterViews()

    def onSceneStartImport(self, caller: Any, event: Any) -> None:
        """Nodes are about to come in, and views may go: no effect may work on them meanwhile."""
        if self.panel is not None:
            self.panel.putEffectAway()

    def onSceneEndImport(self, caller: Any, event: Any) -> None:
        """The scene is another one now: start afresh if the module is the one in view."""
        # An effect that was on when the scene was saved would take the mouse, in any module.
        segmentEditorNode(slicer.mrmlScene).SetActiveEffectName("")
        if self.parent.isEntered:
            self.initializeParameterNode()
            self.enterViews()

    def onSceneBatchEnding(self, caller: Any, event: Any) -> None:
        """Many nodes have come or gone: the embedded editor is shown them while label layers are kept."""
        if self._parameterNode is not None and self.panel is not None:
            self.panel.setEditorNode(self._editorNode)

    def onSceneEndBatch(self, caller: Any, event: Any) -> None:
        """Many nodes have come or gone: show what is chosen, whatever the widgets made of it."""
        self.onSelection()
        if self._parameterNode is not None and self.panel is not None:
            self.panel.refresh()

    def onPalette(self, *_: Any) -> None:
        """Slicer's window is light or dark now."""
        if self.panel is not None:
            self.panel.showIcons(_isDark())

    def onApplicationState(self, state: Any) -> None:
        """Another application has the mouse, perhaps in the middle of a drag."""
        if state != qt.Qt.ApplicationActive and self._views is not None:
            self._views.cancelDrag()

    def onSelection(self, caller: Any = None, event: Any = None) -> None:
        """Another volume may be in the views, as after loading one: take it if none is chosen yet."""
        node = self._parameterNode
        if node is None or self.logic is None or slicer.mrmlScene.IsBatchProcessing():
            return
        volumeNode = self.logic.volumeInViews()
        name = volumeNode.GetID() if volumeNode is not None else ""
        # Only when it has changed: the user may have chosen none.
        if name != self._seenVolume:
            self._seenVolume = name
            if volumeNode is not None and node.inputVolume is None:
                node.inputVolume = volumeNode
                self.takeFirstTool()

    def takeFirstTool(self) -> None:
        """Nothing is segmented yet on the volume: the first click is one on the structure."""
        node = self._parameterNode
        if node is None or self.logic is None or node.inputVolume is None or node.segmentation is not None:
            return
        controller = self.logic.controller
        if isMouseFree() and controller.tool is None and not controller.whyNot(rules.PROMPT):
            controller.chooseTool(tools.POSITIVE)

    def makeSegment(self) -> None:
        """A prompt needs a segmentation and a segment: make what is missing, and choose it."""
        node = self._parameterNode
        if node is None or self.logic is None:
            return
        if node.segmentation is not None:
            node.segmentID = encoded(self.logic.controller.addSegment())
            return
        scene = slicer.mrmlScene
        name = scene.GenerateUniqueName(_("Segmentation"))
        segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.segmentID = encoded(Controller.prepareSegmentation(segmentation, node.inputVolume))
        node.segmentation = segmentation

    def frameSurfaces(self) -> None:
        """Surfaces are shown: bring them into the middle of the 3D view."""
        layout = slicer.app.layoutManager()
        if layout is not None and layout.threeDViewCount:
            layout.threeDWidget(0).threeDView().resetFocalPoint()

    def onVolumeActivated(self, volumeNode: Any) -> None:
        """The user chose a volume in the panel: the slice views that do not show it yet do so now."""
        layout = slicer.app.layoutManager()
        if volumeNode is None or layout is None:
            return
        sliceLogics = layout.mrmlSliceLogics()
        for index in range(sliceLogics.GetNumberOfItems()):
            sliceLogic = sliceLogics.GetItemAsObject(index)
            layers = sliceLogic.GetSliceCompositeNode()
            background, foreground = layers.GetBackgroundVolumeID(), layers.GetForegroundVolumeID()
            if volumeNode.GetID() in (background, foreground):
                continue
            layers.SetBackgroundVolumeID(volumeNode.GetID())
            if not background and not foreground:  # else the user has the view where it is wanted
                sliceLogic.FitSliceToBackground()
        self.takeFirstTool()

    def onSegmentationAdded(self, node: Any) -> None:
        """The user made a segmentation in the panel: it gets the volume's grid and a first segment."""
        if node is not None and self._parameterNode is not None:
            self._parameterNode.segmentID = encoded(
                Controller.prepareSegmentation(node, self._parameterNode.inputVolume)
            )

    def initializeParameterNode(self) -> None:
        """Take the scene's parameter node, and the volume in the views if none is chosen."""
        assert self.logic is not None
        node = self.logic.getParameterNode()
        shown = self.logic.volumeInViews()
        self._seenVolume = shown.GetID() if shown is not None else ""
        if node.inputVolume is None:
            node.inputVolume = shown
        self.setParameterNode(node)

    def setParameterNode(self, parameterNode: Any) -> None:
        """Show this parameter node in the panel and follow it; None: let go of the present one."""
        if self._parameterNode is not None:
            self.disconnectGui(self._parameterNode)
            self.removeObserver(
                self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameters
            )
            self.removeObserver(self._editorNode, vtk.vtkCommand.ModifiedEvent, self.onEditor)
            self._editorNode = None
        self._parameterNode = parameterNode
        if parameterNode is not None and self.panel is not None:
            # First of all: the widget chooses the first segment by itself when it gets its settings.
            self._editorNode = segmentEditorNode(slicer.mrmlScene)
            self.panel.setEditorNode(self._editorNode)
        if self.panel is not None:
            self.panel.setParameters(parameterNode)
        if parameterNode is not None:
            self.addObserver(self._editorNode, vtk.vtkCommand.ModifiedEvent, self.onEditor)
            self.connectGui(parameterNode)
            # The node itself: of each typed one that it is told, the mixin would keep a reference for ever.
            self.addObserver(parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameters)
            self.onParameters()

    def connectGui(self, parameterNode: Any) -> None:
        """Connect the widgets that name a parameter with it."""
        observe = parameterNode.AddObserver

        def remember(*arguments: Any) -> int:
            self._guiObservers.append(observe(*arguments))
            return self._guiObservers[-1]

        # Slicer 5.10 leaves an observer behind that brings the application down once the node's Python part
        # is gone; its tag is to be had only while it is made.
        parameterNode.AddObserver = remember
        try:
            self._guiTag = parameterNode.connectGui(self.ui)
        finally:
            del parameterNode.AddObserver

    def disconnectGui(self, parameterNode: Any) -> None:
        """Take back what `connectGui` did, all of it."""
        parameterNode.disconnectGui(self._guiTag)
        self._guiTag = None
        for tag in self._guiObservers:
            parameterNode.RemoveObserver(tag)
        self._guiObservers.clear()

    def onParameters(self, caller: Any = None, event: Any = None) -> None:
        """The user has chosen something: hand it on, and say what there is to work with."""
        node = self._parameterNode
        if node is None or self.logic is None:
            return
        controller = self.logic.controller
        controller.choices = choicesOf(node)
        controller.select(node.inputVolume, node.segmentation, self._segmentOf(node))
        controller.setPreviewOpacity(node.previewOpacity)
        self.showVolume(node.inputVolume)
        self.onChanged()
        if self.panel is not None:
            self.panel.refresh()

    def showVolume(self, volumeNode: Any) -> None:
        """Say what the volume is, and why it cannot be used if that is so."""
        assert self.logic is not None
        self.ui.volumeSelector.toolTip = self.logic.volumeText(volumeNode)
        put(self.ui.volumeStatusLabel, self.logic.controller.facts().volumeProblem)

    def onChanged(self, _none: None = None) -> None:
        """Keep what is chosen elsewhere, and say how the worker is."""
        self.enableKeys()
        if self._parameterNode is None or self.logic is None:
            return
        node, controller = self._parameterNode, self.logic.controller
        self.ui.workerStatusLabel.text = self.logic.workerText()
        if controller.segmentID != self._segmentOf(node) and controller.workspace is not None:
            controller.select(node.inputVolume, node.segmentation, self._segmentOf(node))
        if controller.tool is not None and controller.tool != self._tool:
            # One of them has the mouse: the one that was pressed last.
            self.ui.segmentEditor.setActiveEffectByName("")
        self._tool = controller.tool

    def onFinished(self, _end: Any) -> None:
        """A run has ended, perhaps under a tool of the editor: that works on what the run left."""
        if self._effect and self.logic is not None:
            self.logic.editSoon()

    def onEditor(self, caller: Any = None, event: Any = None) -> None:
        """An effect of the Segment Editor was chosen: it has the mouse now."""
        if self._editorNode is not None:
            saveIfLoadable(self._editorNode)
        effect = str(self._editorNode.GetActiveEffectName() or "") if self._editorNode is not None else ""
        if effect and effect != self._effect and self.logic is not None:
            self.logic.controller.chooseTool(None)
            self.logic.editSoon()
        if effect != self._effect and self.panel is not None:
            self.panel.fitEditor()
        self._effect = effect

    @staticmethod
    def _segmentOf(node: Any) -> str:
        """The chosen segment, or the first one where the chosen one is not in the segmentation."""
        if node.segmentation is None:
            return ""
        segmentation = node.segmentation.GetSegmentation()
        segmentID = decoded(node.segmentID)
        if segmentID and segmentation.GetSegment(segmentID) is not None:
            return segmentID
        return str(segmentation.GetNthSegmentID(0)) if segmentation.GetNumberOfSegments() else ""


def effectName(effect: str) -> str:
    """An effect of the Segment Editor as the name of an undo step; "" for one that is not offered here."""
    names = {
        "Paint": _("paint"),
        "Erase": _("erase"),
        "Scissors": _("scissors"),
        "Islands": _("islands"),
        "Smoothing": _("smoothing"),
    }
    return names.get(effect, "")


class ModuleDialogs:
    """Questions to the user, in Slicer's own windows."""

    def agree(self, text: str, title: str) -> bool:
        return bool(slicer.util.confirmOkCancelDisplay(text, windowTitle=title))

    def showLog(self, text: str, log: str) -> None:
        slicer.util.infoDisplay(text, detailedText=log)

    def chooseWeights(self) -> str:
        return str(
            qt.QFileDialog.getOpenFileName(
                slicer.util.mainWindow(),
                _("Open a weights file"),
                "",
                _("Weights") + " (*.safetensors *.pt *.pth)",
            )
            or ""
        )


class QtTicker:
    """Calls a function 50 times a second, as long as it is asked to."""

    def __init__(self) -> None:
        self._timer = qt.QTimer()
        self._timer.setInterval(20)

    def calls(self, tick: Callable[[], None]) -> None:
        """What is to be called."""
        self._timer.connect("timeout()", tick)

    def start(self) -> None:
        if not self._timer.isActive():
            self._timer.start()

    def stop(self) -> None:
        self._timer.stop()


def sliceViews() -> list[tuple[Any, Callable[[], None]]]:
    """The slice views of the layout, as `ViewDrawing` wants them."""
    layout = slicer.app.layoutManager()
    if layout is None:
        return []
    widgets = [layout.sliceWidget(name) for name in layout.sliceViewNames()]
    return [
        (widget.mrmlSliceNode(), widget.sliceView().scheduleRender)
        for widget in widgets
        if widget.mrmlSliceNode() is not None
    ]


class SAM2PropagateLogic(ScriptedLoadableModuleLogic):
    """What the module does, to be driven from a script without its panel as well.

    `controller` has all of it, with its signals; the methods here are the short way for scripts.

    Args:
        makeWriter, editName: see `Controller`.
        makeSession: makes the worker's session, for instance one on a server; None: one on this computer.

    Attributes:
        makeSession: as given; a change holds for the next session that is made.
    """

    def __init__(
        self,
        makeWriter: Any = None,
        editName: Callable[[], str] = lambda: "",
        makeSession: Callable[[], WorkerSession] | None = None,
    ) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.makeSession = makeSession or self._localSession
        # Asked for with every text, and the same for all of a file.
        contextOf = functools.cache(getContext)
        texts.set_translator(lambda text, file: translate(contextOf(file), text))
        self._session: WorkerSession | None = None
        self._isComplete = False
        self._idle = qt.QTimer()
        self._idle.setSingleShot(True)
        self._idle.setInterval(700)
        # Once the editor has done what it is at.
        self._editing = qt.QTimer()
        self._editing.setSingleShot(True)
        self._editing.setInterval(0)
        # Once a stroke is in the segment: each is an undo step.
        self._edited = qt.QTimer()
        self._edited.setSingleShot(True)
        self._edited.setInterval(0)
        # Views that are drawn a little later.
        self._drawing = qt.QTimer()
        self._drawing.setSingleShot(True)
        drawing = ViewDrawing(sliceViews, lambda seconds: self._drawing.start(max(1, round(seconds * 1000))))
        self._drawing.connect("timeout()", drawing.flush)
        ticker, downloads = QtTicker(), QtTicker()
        self.controller = Controller(
            self.workerSession,
            ticker,
            makeWriter=makeWriter,
            drawer=drawing.draw,
            missing=self.missingPackages,
            whenIdle=self._idle.start,
            whenEdited=self._edited.start,
            editName=editName,
        )
        self.modelList = ModelList(ModelStore(), downloads)
        ticker.calls(self.controller.poll)
        downloads.calls(self.modelList.poll)
        self._idle.connect("timeout()", self.controller.lookForEdits)
        self._editing.connect("timeout()", self.controller.editBegins)
        self._edited.connect("timeout()", self.controller.noteEdits)

    def getParameterNode(self) -> Any:
        """The scene's parameter node, typed; made if there is none."""
        return SAM2PropagateParameterNode(super().getParameterNode())  # type: ignore[call-arg]

    def preview(self, segmentID: str, ras: Any, positive: bool = True) -> bool:
        """Place a click (RAS, mm) for a segment of what `controller.select` chose, and show its preview."""
        controller = self.controller
        controller.select(controller.volumeNode, controller.segmentationNode, segmentID)
        return controller.point("positive" if positive else "negative", ras)

    def propagate(self, *segmentIDs: str, **options: Any) -> bool:
        """Start a run of these segments, or of what is chosen; see `Controller.propagate`."""
        return self.controller.propagate(segmentIDs or None, **options)

    def editSoon(self) -> None:
        """The user has taken up a tool of the Segment Editor; see `Controller.editBegins`."""
        self._editing.start()

    def volumeInViews(self) -> Any:
        """The volume that Slicer shows in its views, or None."""
        selection = slicer.app.applicationLogic().GetSelectionNode()
        node = slicer.mrmlScene.GetNodeByID(selection.GetActiveVolumeID() or "")
        return node if node is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode" else None

    def readVolume(self, volumeNode: Any) -> SceneVolume:
        """A volume node's voxels (a view, no copy), its place in the world and its window.

        Raises:
            InputError: it is none that can be segmented; its text says why.
        """
        return readVolume(volumeNode)

    def workerSession(self) -> WorkerSession:
        """The worker's session: one for this logic, made on first use.

        The worker itself starts with the first thing that is asked of it.

        Raises:
            SAM2PropagateError: no_python.
        """
        if self._session is None:
            self._session = self.makeSession()
        return self._session

    @staticmethod
    def _localSession() -> WorkerSession:
        command = worker_command(slicer_home=slicer.app.slicerHome, base_env=slicer.util.startupEnvironment())
        return WorkerSession(command, log_file=Path(slicer.app.temporaryPath) / "SAM2PropagateWorker.log")

    def close(self) -> None:
        """End the run, the worker and downloads; prompts and segments stay in the scene."""
        self._idle.stop()
        self._editing.stop()
        self._edited.stop()
        self._drawing.stop()
        self.modelList.close()
        self.controller.close()
        if self._session is not None:
            self._session.close()
            self._session = None

    def models(self) -> list[ModelStatus]:
        """What can be loaded, and what of it is on this computer."""
        return ModelStore().status()

    def findPackage(self, name: str) -> Any:
        """Whether Python finds a package, without importing it."""
        with contextlib.suppress(ImportError, ValueError):
            return importlib.util.find_spec(name)
        return None

    def neededPackages(self) -> tuple[install.Package, ...]:
        """What the worker needs and this Python lacks."""
        if not self._isComplete:
            needed = install.missing(self.findPackage)
            self._isComplete = not needed
            return needed
        return ()

    def missingPackages(self) -> list[str]:
        """The names of these packages; "torch 2.5.1 or newer" where an older one is there."""
        return [package.name for package in self.neededPackages()]

    def volumeText(self, volumeNode: Any) -> str:
        """What the panel says of a volume: its size, or why it cannot be segmented."""
        if volumeNode is None:
            return _("Choose the CT or MR volume to segment.")
        try:
            # Looks at no voxel: this runs at every change of the parameter node.
            geometry = volumeGeometry(volumeNode)
        except InputError as error:
            return str(error)
        size = " × ".join(str(count) for count in geometry.shape_ijk)
        spacing = " × ".join(f"{float(length):.3g}" for length in geometry.spacing)
        return _("{size} voxels of {spacing} mm.").format(size=size, spacing=spacing)

    def workerText(self) -> str:
        """What the panel says of the worker, and of what it needs."""
        missing = self.missingPackages()
        if missing:
            return _("Python packages are missing: {names}.").format(names=", ".join(missing))
        if self._session is not None and self._session.is_running:
            return _("The worker is running.")
        return _("The worker is not running; it starts with the first prompt.")


def isLeftButtonDown() -> bool:
    """Whether the left button of the mouse is down."""
    return bool(qt.QApplication.mouseButtons() & qt.Qt.LeftButton)


def _isDark() -> bool:
    """Whether Slicer's window is dark."""
    return bool(slicer.app.palette().color(qt.QPalette.Window).lightness() < 128)


class SAM2PropagateTest(ScriptedLoadableModuleTest):
    """The module's self test, run inside Slicer and, with stand-ins for its window, without it."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run every test of this class."""
        for test in (
            self.test_sample,
            self.test_parameterNode,
            self.test_badVolume,
            self.test_nothingStarts,
            self.test_clickToSegment,
        ):
            self.setUp()
            test()

    def test_sample(self) -> None:
        """The CT that ships with the extension is read, with its place in the world."""
        self.delayDisplay("Reading the sample")
        path = samplePath()
        self.assertIsNotNone(path)
        node = slicer.util.loadVolume(str(path))
        volume = SAM2PropagateLogic().readVolume(node)
        self.assertEqual(volume.geometry.shape_ijk, (122, 101, 112))
        self.assertEqual(volume.array.shape, (112, 101, 122))
        self.assertEqual([round(float(length), 3) for length in volume.geometry.spacing], [3.0, 3.0, 3.0])

    def test_parameterNode(self) -> None:
        """What the user chose is in the scene, once."""
        logic = SAM2PropagateLogic()
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        logic.getParameterNode().inputVolume = node
        self.assertEqual(SAM2PropagateLogic().getParameterNode().inputVolume.GetID(), node.GetID())
        # Other modules have theirs.
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        self.assertEqual([one.GetAttribute("ModuleName") for one in nodes].count("SAM2Propagate"), 1)

    def test_badVolume(self) -> None:
        """A volume without an image is refused in a sentence."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
        with self.assertRaises(InputError) as caught:
            SAM2PropagateLogic().readVolume(node)
        self.assertIn("Empty", caught.exception.sentence)

    def test_nothingStarts(self) -> None:
        """Making the worker's session starts no process."""
        logic = SAM2PropagateLogic()
        self.assertFalse(logic.workerSession().is_running)
        self.assertEqual(logic.workerSession().starts, 0)
        logic.close()

    def test_clickToSegment(self) -> None:
        """A click in the liver of the sample becomes a mask on its slice, and on both neighbors."""
        logic = SAM2PropagateLogic()
        if missing := logic.missingPackages():
            logic.close()
            self.skipTest(f"not installed: {', '.join(missing)}")
        self.delayDisplay("Segmenting the sample")
        volume = slicer.util.loadVolume(str(samplePath()))
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        segmentID = Controller.prepareSegmentation(segmentation, volume)
        controller = logic.controller
        problems: list[str] = []
        controller.message.connect(lambda message: problems.append(message.text))
        try:
            controller.select(volume, segmentation, segmentID)
            geometry = volumeGeometry(volume)
            self.assertTrue(logic.preview(segmentID, geometry.ijk_to_world(LIVER_IJK)), problems)
            self.assertTrue(controller.wait(120), problems)
            workspace = controller.workspace
            assert workspace is not None
            frame = LIVER_IJK[workspace.axis]
            self.assertEqual(workspace.previewFrames(segmentID), {frame}, problems)
            self.assertTrue(logic.propagate(segmentID, reach=1), problems)
            self.assertTrue(controller.wait(120), problems)
            voxels = [int(workspace.maskNow(segmentID, frame + step).sum()) for step in (-2, -1, 0, 1, 2)]
            self.assertEqual([count > 500 for count in voxels], [False, True, True, True, False], voxels)
            self.assertTrue(controller.undo())
            # The click and its preview are there as before the run.
            self.assertEqual(workspace.previewFrames(segmentID), {frame})
            self.assertFalse(workspace.maskNow(segmentID, frame + 1).any())
        finally:
            logic.close()
