"""SAM2 Propagate: a click in a slice view becomes a segmentation that runs through the volume.

This file only wires 3D Slicer to the library SAM2PropagateLib. Opening the module installs, downloads and
starts nothing; `torch` and `sam2` are never imported in Slicer's process, only in the worker's.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import slicer
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
from SAM2PropagateLib.app.computer import Computer
from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.app.events import Editing, Installed
from SAM2PropagateLib.app.server_jobs import ServerJobs
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.gui.application import Application, Later, QtTicker, holdViews, sliceViews
from SAM2PropagateLib.gui.editor_writer import EditorSegmentWriter
from SAM2PropagateLib.gui.embedded_editor import labelLayersKept, takeNodes
from SAM2PropagateLib.gui.install import Installer
from SAM2PropagateLib.gui.model_list import ModelList
from SAM2PropagateLib.gui.open_module import OpenModule
from SAM2PropagateLib.gui.options import REACH
from SAM2PropagateLib.gui.panel import Panel
from SAM2PropagateLib.gui.sample_data import registerSampleData, samplePath
from SAM2PropagateLib.gui.slicer_packages import SlicerPackageTools
from SAM2PropagateLib.gui.view_drawing import ViewDrawing
from SAM2PropagateLib.gui.view_input import ViewInput
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.run_options import BOTH
from SAM2PropagateLib.scene.volume import SceneVolume, readVolume, volumeGeometry
from SAM2PropagateLib.worker.command import worker_command
from SAM2PropagateLib.worker.session import WorkerSession

LIBRARY = "SAM2PropagateLib"
LIVER_IJK = (86, 49, 103)


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
    allAxes: finished masks are carried along the other two axes as well.
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
    allAxes: bool = False
    previewOpacity: float = 0.35


class SAM2PropagateWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's widget as Slicer wants it; `OpenModule` has what happens in it."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: SAM2PropagateLogic | None = None
        self.ui: Any = None
        self.module: OpenModule | None = None

    def setup(self) -> None:
        """Builds the panel; Slicer calls it once, when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/SAM2Propagate.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        editor = self.ui.segmentEditor
        self.logic = SAM2PropagateLogic(
            lambda *nodes: EditorSegmentWriter(editor, *nodes),
            lambda: self.module.effects.name if self.module is not None else "",
        )
        application = Application(Path(self.resourcePath("Icons")))
        self.module = OpenModule(self.ui, self.logic, self, application)

    @property
    def panel(self) -> Panel:
        """The panel, after `setup`."""
        assert self.module is not None
        return self.module.panel

    @property
    def views(self) -> ViewInput:
        """The mouse and the keys in the views, after `setup`."""
        assert self.module is not None
        return self.module.views

    def cleanup(self) -> None:
        """Removes all that is ours; Slicer calls it when it quits and before it reloads the module."""
        if self.module is not None:
            self.module.close()
        self.removeObservers()
        if self.logic is not None:
            self.logic.close()
        if self.ui is not None:
            # After a reload Slicer keeps this widget, hidden: it must not write into the new one's settings.
            with labelLayersKept():
                takeNodes(self.ui.segmentEditor)
        texts.set_translator(None)

    def enter(self) -> None:
        """Follows scene and views; Slicer calls it whenever the user switches to this module."""
        if self.module is not None:
            self.module.enter()

    def exit(self) -> None:
        """Leaves scene and views alone; Slicer calls it when the user switches to another module."""
        if self.module is not None:
            self.module.exit()

    def onReload(self) -> None:
        """Reloads the module and its library (a button in Slicer's developer mode)."""
        for name in [name for name in sys.modules if name == LIBRARY or name.startswith(LIBRARY + ".")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class SAM2PropagateLogic(ScriptedLoadableModuleLogic):
    """What the module does, to be driven from a script without its panel as well.

    `controller` has all of it, with its signals; the methods here are the short way for scripts.

    Args:
        makeWriter, editName: see `Editing`.
        makeSession: makes the worker's session; None: one on the computer that the user has chosen.

    Attributes:
        makeSession: as given; a change holds for the next session that is made.
        installer: knows and installs what the worker needs. modelList: the models, and their downloads.
        computer: the one that the model runs on. server: tests and sets up a server.
        ticker: on while an answer of the worker is awaited.
    """

    def __init__(
        self,
        makeWriter: Any = None,
        editName: Callable[[], str] = lambda: "",
        makeSession: Callable[[], WorkerSession] | None = None,
    ) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.makeSession = makeSession or self._sessionThere
        # Asked for with every text, and the same for all of a file.
        contextOf = functools.cache(getContext)
        texts.set_translator(lambda text, file: translate(contextOf(file), text))
        self._session: WorkerSession | None = None
        self.computer = Computer(slicer.app.userSettings())
        self.installer = Installer(
            SlicerPackageTools(),
            Path(slicer.app.temporaryPath),
            isElsewhere=lambda: self.computer.isServer,
        )
        self.ticker, downloads, visits = QtTicker(), QtTicker(), QtTicker()
        # Views are drawn a little later, edits looked for when the user has stopped, and each stroke made an
        # undo step once it is in the segment.
        drawLater, idle, edited = Later(), Later(700), Later()
        self._editing = Later()
        self._timers = (self.ticker, downloads, visits, drawLater, idle, edited, self._editing)
        drawing = ViewDrawing(sliceViews, lambda seconds: drawLater.start(max(1, round(seconds * 1000))))
        self.controller = Controller(
            self.workerSession,
            self.ticker,
            editing=Editing(makeWriter, idle.start, edited.start, editName, holdViews),
            installed=Installed(missing=self.missingPackages, computer=self.computer),
            drawer=drawing.draw,
        )
        drawLater.calls(drawing.flush)
        idle.calls(self.controller.lookForEdits)
        edited.calls(self.controller.noteEdits)
        self._editing.calls(self.controller.editBegins)
        self.modelList = ModelList(ModelStore(), downloads)
        self.ticker.calls(self.controller.poll)
        downloads.calls(self.modelList.poll)
        self.server = ServerJobs(self.computer, ModelStore(), slicer.util.startupEnvironment, visits)
        visits.calls(self.server.poll)
        self.computer.changed.connect(self._leaveWorker)

    def getParameterNode(self) -> Any:
        """Returns the scene's parameter node, typed; makes it if there is none."""
        return SAM2PropagateParameterNode(super().getParameterNode())  # type: ignore[call-arg]

    def preview(self, segmentID: str, ras: Any, positive: bool = True) -> bool:
        """Places a click (RAS, mm) for a segment of what `controller.select` chose, and shows its preview."""
        controller = self.controller
        controller.select(controller.volumeNode, controller.segmentationNode, segmentID)
        return controller.point("positive" if positive else "negative", ras)

    def propagate(self, *segmentIDs: str, **options: Any) -> bool:
        """Starts a run of these segments, or of what is chosen; see `Controller.propagate`."""
        return self.controller.propagate(segmentIDs or None, **options)

    def editSoon(self) -> None:
        """Notes that the user has taken up a tool of the Segment Editor; see `Controller.editBegins`."""
        self._editing.start()

    def readVolume(self, volumeNode: Any) -> SceneVolume:
        """Returns a volume node's voxels (a view, no copy), its place in the world and its window.

        Raises:
            InputError: it is none that can be segmented; its text says why.
        """
        return readVolume(volumeNode)

    def workerSession(self) -> WorkerSession:
        """Returns the worker's session. The first use makes it, and another computer gets a new one.

        The worker itself starts with the first thing that is asked of it.

        Raises:
            SAM2PropagateError: no_python. InputError: see `Computer.remote`.
        """
        if self._session is None:
            self._session = self.makeSession()
        return self._session

    def _sessionThere(self) -> WorkerSession:
        command = worker_command(
            remote=self.computer.remote(),
            slicer_home=slicer.app.slicerHome,
            base_env=slicer.util.startupEnvironment(),
        )
        log_file = Path(slicer.app.temporaryPath) / "SAM2PropagateWorker.log"
        return WorkerSession(replace(command, log_file=log_file))

    def close(self) -> None:
        """Ends the run, the worker and downloads; prompts and segments stay in the scene."""
        self.modelList.close()
        self.computer.changed.disconnect(self._leaveWorker)
        self.server.close()
        self.controller.close()
        if self._session is not None:
            self._session.close()
            self._session = None
        for timer in self._timers:
            timer.close()

    def _leaveWorker(self, _none: None = None) -> None:
        """Ends the worker on the computer that was chosen before."""
        self.controller.leaveWorker()
        if self._session is not None:
            self._session.close(0.0)
            self._session = None
        # Widgets ask for the session's state, which has just changed.
        self.controller.changed.emit(None)

    def missingPackages(self) -> list[str]:
        """Returns the names of what the worker needs and this Python lacks; "torch 2.5.1 or newer" where an
        older one is there."""
        return [package.wanted for package in self.installer.needed()]

    def workerText(self) -> str:
        """Returns what the panel says of the worker, and of what it needs."""
        missing = self.missingPackages()
        if missing:
            return _("Python packages are missing: {names}.").format(names=", ".join(missing))
        if self._session is not None and self._session.is_running:
            if self.computer.isServer:
                return _("The worker is running on {host}.").format(host=self.computer.host)
            return _("The worker is running.")
        if self.computer.isServer:
            return _("The worker is not running; it starts on {host} with the first prompt.").format(
                host=self.computer.host or "?"
            )
        return _("The worker is not running; it starts with the first prompt.")


class SAM2PropagateTest(ScriptedLoadableModuleTest):
    """The module's self test, run inside Slicer and, with stand-ins for its panel, without it."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Runs every test of this class."""
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
        """Checks that the CT of the extension is read, with its place in the world."""
        self.delayDisplay("Reading the sample")
        path = samplePath()
        self.assertIsNotNone(path)
        node = slicer.util.loadVolume(str(path))
        volume = SAM2PropagateLogic().readVolume(node)
        self.assertEqual(volume.geometry.shape_ijk, (122, 101, 112))
        self.assertEqual(volume.array.shape, (112, 101, 122))
        self.assertEqual([round(float(length), 3) for length in volume.geometry.spacing], [3.0, 3.0, 3.0])

    def test_parameterNode(self) -> None:
        """Checks that the user's choices are in the scene, once."""
        logic = SAM2PropagateLogic()
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        logic.getParameterNode().inputVolume = node
        self.assertEqual(SAM2PropagateLogic().getParameterNode().inputVolume.GetID(), node.GetID())
        # Other modules have theirs.
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        self.assertEqual([one.GetAttribute("ModuleName") for one in nodes].count("SAM2Propagate"), 1)

    def test_badVolume(self) -> None:
        """Checks that a volume without an image is refused in a sentence."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Empty")
        with self.assertRaises(InputError) as caught:
            SAM2PropagateLogic().readVolume(node)
        self.assertIn("Empty", caught.exception.sentence)

    def test_nothingStarts(self) -> None:
        """Checks that making the worker's session starts no process."""
        logic = SAM2PropagateLogic()
        self.assertFalse(logic.workerSession().is_running)
        self.assertEqual(logic.workerSession().starts, 0)
        logic.close()

    def test_clickToSegment(self) -> None:
        """Checks that a click in the liver of the sample becomes a mask on its slice, and on both
        neighbors."""
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
            self.assertTrue(logic.preview(segmentID, geometry.ras_of_ijk(LIVER_IJK)), problems)
            self.assertTrue(controller.wait(600), problems)
            workspace = controller.workspace
            assert workspace is not None
            frame = LIVER_IJK[workspace.axis]
            self.assertEqual(workspace.previewFrames(segmentID), {frame}, problems)
            self.assertTrue(logic.propagate(segmentID, reach=1), problems)
            self.assertTrue(controller.wait(600), problems)
            voxels = [int(workspace.maskNow(segmentID, frame + step).sum()) for step in (-2, -1, 0, 1, 2)]
            self.assertEqual([count > 500 for count in voxels], [False, True, True, True, False], voxels)
            self.assertTrue(controller.undo())
            # The click and its preview are there as before the run.
            self.assertEqual(workspace.previewFrames(segmentID), {frame})
            self.assertFalse(workspace.maskNow(segmentID, frame + 1).any())
        finally:
            logic.close()
