"""3D Slicer without its application: the scene, the application logic and the module logics of the
slicer-core wheel.

`boot()` also sets the globals that `slicer.util` reaches for (`slicer.mrmlScene`, `slicer.app`,
`slicer.modules`), so that code written for Slicer runs unchanged.
"""

from __future__ import annotations

import functools
import tempfile
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
import slicer.util  # noqa: F401 - loads it, for all that import only slicer
import vtk

from Headless.io_manager import CoreIOManager
from Headless.messages import VtkMessages
from Headless.terminologies import writeTerminologies

_LOGICS = {
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
}


@dataclass
class HeadlessSlicer:
    """What `boot()` built.

    Attributes:
        scene: the vtkMRMLScene, also `slicer.mrmlScene`.
        appLogic: the vtkSlicerApplicationLogic.
        logics: module logics by module name.
        messages: VTK's errors and warnings since the boot.
    """

    scene: Any
    appLogic: Any  # noqa: N815
    logics: dict[str, Any]
    messages: VtkMessages
    _kept: list[Any] = field(default_factory=list, repr=False)  # used by the scene, which does not own them

    def clear(self) -> None:
        """Empties the scene (singletons such as the selection node stay) and forgets VTK's messages."""
        self.scene.Clear(False)
        self.messages.clear()

    def saveScene(self, file: Path | str) -> None:
        """Writes the scene to a .mrb or .mrml file; OSError if that failed."""
        if not slicer.app.coreIOManager().saveNodes("SceneFile", {"fileName": str(Path(file).absolute())}):
            raise OSError(f"the scene could not be written to {file}")

    def loadScene(self, file: Path | str, clear: bool = True) -> None:
        """Reads a .mrb or .mrml file, in place of what is there or (clear=False) in addition; OSError if that
        failed.
        """
        # The reader of .mrb changes the working directory on its way.
        properties = {"fileName": str(Path(file).absolute()), "clear": clear}
        if not slicer.app.coreIOManager().loadNodes("SceneFile", properties, vtk.vtkCollection()):
            raise OSError(f"the scene could not be read from {file}")


@functools.cache
def boot() -> HeadlessSlicer:
    """Starts the headless Slicer of this process, once; later calls return the same one."""
    messages = VtkMessages()
    temporary = tempfile.TemporaryDirectory(prefix="headless-slicer-", ignore_cleanup_errors=True)
    folder = Path(temporary.name)
    scene = slicer.vtkMRMLScene()
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)

    appLogic = slicer.vtkSlicerApplicationLogic()
    appLogic.SetMRMLScene(scene)
    appLogic.GetColorLogic().SetMRMLScene(scene)
    appLogic.GetColorLogic().AddDefaultColorNodes()
    appLogic.SetSliceLogics(vtk.vtkCollection())
    appLogic.SetViewLogics(vtk.vtkCollection())
    for factory in (
        slicer.vtkMRMLSliceViewDisplayableManagerFactory,
        slicer.vtkMRMLThreeDViewDisplayableManagerFactory,
    ):
        factory.GetInstance().SetMRMLApplicationLogic(appLogic)

    kept = [temporary, *_ioManagers(scene, folder)]
    logics = _moduleLogics(scene, appLogic, folder)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    _setGlobals(scene, appLogic, logics, folder)
    return HeadlessSlicer(scene, appLogic, logics, messages, kept)


def _ioManagers(scene: Any, folder: Path) -> list[Any]:
    # Reading a .mrb goes through a cache folder.
    cache = slicer.vtkCacheManager()
    cache.SetMRMLScene(scene)
    cache.SetRemoteCacheDirectory(str(folder))
    data = slicer.vtkDataIOManager()
    data.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(data)
    return [cache, data]


def _moduleLogics(scene: Any, appLogic: Any, folder: Path) -> dict[str, Any]:
    terminologies = folder / "terminologies"
    terminologies.mkdir()
    writeTerminologies(terminologies)
    logics: dict[str, Any] = {"Colors": appLogic.GetColorLogic()}
    appLogic.SetModuleLogic("Colors", logics["Colors"])
    for name, className in _LOGICS.items():
        logic = getattr(slicer, className)()
        if name == "Terminologies":
            logic.SetModuleShareDirectory(str(terminologies))
        logic.SetMRMLApplicationLogic(appLogic)
        logic.SetMRMLScene(scene)
        appLogic.SetModuleLogic(name, logic)
        logics[name] = logic
    return logics


def _setGlobals(scene: Any, appLogic: Any, logics: dict[str, Any], folder: Path) -> None:
    io = CoreIOManager(scene, logics)
    slicer.mrmlScene = scene
    slicer.app = types.SimpleNamespace(
        applicationLogic=lambda: appLogic,
        coreIOManager=lambda: io,
        ioManager=lambda: io,
        mrmlScene=lambda: scene,
        temporaryPath=str(folder),
        testingEnabled=lambda: True,
        processEvents=lambda *_: None,
        pauseRender=lambda: None,
        resumeRender=lambda: None,
    )
    slicer.modules = types.SimpleNamespace(
        **{
            name.lower(): types.SimpleNamespace(logic=lambda logic=logic: logic)
            for name, logic in logics.items()
        }
    )
