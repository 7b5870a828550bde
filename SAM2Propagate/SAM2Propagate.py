"""SAM2 Propagate: a click in a slice view becomes a segmentation that runs through the volume.

This file only wires 3D Slicer to the library SAM2PropagateLib. Opening the module installs, downloads and
starts nothing; `torch` and `sam2` are never imported in Slicer's process, only in the worker's.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.models.store import ModelStatus, ModelStore
from SAM2PropagateLib.scene.volume import SceneVolume, readVolume, volumeGeometry
from SAM2PropagateLib.worker.command import worker_command
from SAM2PropagateLib.worker.session import WorkerSession

LIBRARY = "SAM2PropagateLib"
SAMPLE_NAME = "SAM2PropagateAbdomenCT"
SAMPLE_FILE = "abdomen_ct.nii.gz"
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
    segmentation: what the segments go into.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode


class SAM2PropagateWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's panel."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: SAM2PropagateLogic | None = None
        self.ui: Any = None
        self._parameterNode: Any = None
        self._guiTag: Any = None

    def setup(self) -> None:
        """Build the panel; called once, when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/SAM2Propagate.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = SAM2PropagateLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when Slicer quits and before the module is reloaded: nothing of ours stays behind."""
        self.setParameterNode(None)
        self.removeObservers()
        if self.logic is not None:
            self.logic.close()

    def enter(self) -> None:
        """Called whenever the user switches to this module."""
        self.initializeParameterNode()

    def exit(self) -> None:
        """Called whenever the user switches to another module."""
        self.setParameterNode(None)

    def onReload(self) -> None:
        """Reload the module and its library (a button in Slicer's developer mode)."""
        for name in [name for name in sys.modules if name == LIBRARY or name.startswith(LIBRARY + ".")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller: Any, event: Any) -> None:
        """The scene is about to be closed: its parameter node goes with it."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller: Any, event: Any) -> None:
        """The scene is closed: start afresh if the module is the one in view."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Take the scene's parameter node, and the volume in the views if none is chosen."""
        assert self.logic is not None
        node = self.logic.getParameterNode()
        if node.inputVolume is None:
            node.inputVolume = self.logic.volumeInViews()
        self.setParameterNode(node)

    def setParameterNode(self, parameterNode: Any) -> None:
        """Show this parameter node in the panel and follow it; None: let go of the present one."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateStatus)
        self._parameterNode = parameterNode
        self._guiTag = None
        if parameterNode is not None:
            self._guiTag = parameterNode.connectGui(self.ui)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateStatus)
            self.updateStatus()

    def updateStatus(self, caller: Any = None, event: Any = None) -> None:
        """Say in the panel what there is to work with."""
        if self._parameterNode is None or self.logic is None:
            return
        self.ui.volumeStatusLabel.text = self.logic.volumeText(self._parameterNode.inputVolume)
        self.ui.modelStatusLabel.text = self.logic.modelText()
        self.ui.workerStatusLabel.text = self.logic.workerText()


class SAM2PropagateLogic(ScriptedLoadableModuleLogic):
    """What the module does, to be driven from a script without its panel as well."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._session: WorkerSession | None = None

    def getParameterNode(self) -> Any:
        """The scene's parameter node, typed; made if there is none."""
        return SAM2PropagateParameterNode(super().getParameterNode())  # type: ignore[call-arg]

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
            command = worker_command(
                slicer_home=slicer.app.slicerHome, base_env=slicer.util.startupEnvironment()
            )
            log = Path(slicer.app.temporaryPath) / "SAM2PropagateWorker.log"
            self._session = WorkerSession(command, log_file=log)
        return self._session

    def close(self) -> None:
        """End the worker, if there is one."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def models(self) -> list[ModelStatus]:
        """What can be loaded, and what of it is on this computer."""
        return ModelStore().status()

    def missingPackages(self) -> list[str]:
        """Python packages that the worker needs and this Python lacks; looks for them, imports none."""
        wanted = ("torch", "sam2", "hydra", "iopath", "safetensors")
        return [name for name in wanted if importlib.util.find_spec(name) is None]

    def volumeText(self, volumeNode: Any) -> str:
        """What the panel says of a volume: its size, or why it cannot be segmented."""
        if volumeNode is None:
            return _("Choose the CT or MR volume that is to be segmented.")
        try:
            # Looks at no voxel: this runs at every change of the parameter node.
            geometry = volumeGeometry(volumeNode)
        except InputError as error:
            return str(error)
        size = " × ".join(str(count) for count in geometry.shape_ijk)
        spacing = " × ".join(f"{float(length):.3g}" for length in geometry.spacing)
        return _("{size} voxels of {spacing} mm.").format(size=size, spacing=spacing)

    def modelText(self) -> str:
        """What the panel says of the models."""
        there = [status.entry for status in self.models() if status.there]
        if not any(entry.name == DEFAULT_MODEL for entry in there):
            return _("The model that comes with the extension is missing: install the extension again.")
        return _("On this computer: {models}.").format(models=", ".join(entry.title for entry in there))

    def workerText(self) -> str:
        """What the panel says of the worker, and of what it needs."""
        missing = self.missingPackages()
        if missing:
            return _("Python packages are missing: {names}. See the manual, Installing in 3D Slicer.").format(
                names=", ".join(missing)
            )
        if self._session is not None and self._session.is_running:
            return _("The worker is running.")
        return _("The worker is not running; it starts with the first prompt.")


class SAM2PropagateTest(ScriptedLoadableModuleTest):
    """The module's self test, run inside Slicer and, with stand-ins for its window, without it."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run every test of this class."""
        for test in (self.test_sample, self.test_parameterNode, self.test_badVolume, self.test_nothingStarts):
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
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScriptedModuleNode"), 1)

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
