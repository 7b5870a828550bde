"""What `slicer.util.load*` and `save*` ask of `slicer.app.coreIOManager()`, answered by the module logics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

# The longest matching ending wins: ".seg.nrrd" is a segmentation, ".nrrd" a volume.
_FILE_TYPES = {
    "VolumeFile": (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd"),
    "SegmentationFile": (".seg.nrrd",),
    "MarkupsFile": (".mrk.json", ".fcsv"),
    "ModelFile": (".vtk", ".vtp", ".stl", ".ply", ".obj"),
    "TransformFile": (".h5", ".tfm"),
    "TableFile": (".csv", ".tsv"),
    "SceneFile": (".mrml", ".mrb"),
}


class CoreIOManager:
    """Loads and saves nodes and scenes with the logics of the modules.

    Args:
        scene: the MRML scene.
        logics: module logics by module name ("Volumes", "Segmentations", ...).
    """

    def __init__(self, scene: Any, logics: dict[str, Any]) -> None:
        self._scene = scene
        self._logics = logics
        self._loaders: dict[str, Callable[[str, str, dict[str, Any]], Any]] = {
            "VolumeFile": self._loadVolume,
            "SegmentationFile": lambda file, name, _: logics["Segmentations"].LoadSegmentationFromFile(
                file, True, name
            ),
            "MarkupsFile": self._loadMarkups,
            "ModelFile": lambda file, _name, _: logics["Models"].AddModel(file),
            "TransformFile": lambda file, _name, _: logics["Transforms"].AddTransform(file, scene),
            "TableFile": lambda file, name, _: logics["Tables"].AddTable(file, name),
        }

    def fileType(self, fileName: str) -> str:
        """Returns the file type by its ending, or "NoFile"."""
        name = fileName.lower()
        matches = [
            (len(end), kind) for kind, ends in _FILE_TYPES.items() for end in ends if name.endswith(end)
        ]
        return max(matches)[1] if matches else "NoFile"

    def fileWriterFileType(self, node: Any) -> str:
        """Returns the file type that saves `node`."""
        return str(node.GetClassName())

    def loadNodes(self, fileType: str, properties: dict[str, Any], loaded: Any, messages: Any = None) -> bool:
        """Loads one file; the new nodes are appended to the vtkCollection `loaded`. False if nothing was
        loaded.
        """
        file = str(properties["fileName"])
        name = str(properties.get("name") or Path(file).name.split(".")[0])
        if fileType == "SceneFile":
            return self._loadScene(file, bool(properties.get("clear", True)), messages)
        if fileType not in self._loaders:
            return False
        node = self._loaders[fileType](file, name, properties)
        if node is None:
            return False
        loaded.AddItem(node)
        return True

    def saveNodes(self, fileType: str, properties: dict[str, Any], messages: Any = None) -> bool:
        """Saves one node (properties["nodeID"]) or, for "SceneFile", the scene."""
        file = str(properties["fileName"])
        if fileType == "SceneFile":
            return self._saveScene(file, messages)
        node = self._scene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode(file)
        storage = node.GetStorageNode()
        storage.SetFileName(file)
        if "useCompression" in properties:
            storage.SetUseCompression(int(properties["useCompression"]))
        return bool(storage.WriteData(node))

    def _loadVolume(self, file: str, name: str, properties: dict[str, Any]) -> Any:
        options = (1 if properties.get("labelmap") else 0) | (4 if properties.get("singleFile") else 0)
        return self._logics["Volumes"].AddArchetypeVolume(file, name, options)

    def _loadMarkups(self, file: str, name: str, _properties: dict[str, Any]) -> Any:
        nodeID = self._logics["Markups"].LoadMarkups(file, name)
        return self._scene.GetNodeByID(nodeID) if nodeID else None

    def _loadScene(self, file: str, clear: bool, messages: Any) -> bool:
        if file.lower().endswith(".mrb"):
            return bool(self._scene.ReadFromMRB(file, clear, messages))
        self._scene.SetURL(file)
        self._scene.SetRootDirectory(str(Path(file).parent))
        return bool(self._scene.Connect() if clear else self._scene.Import())

    def _saveScene(self, file: str, messages: Any) -> bool:
        if file.lower().endswith(".mrb"):
            return bool(self._scene.WriteToMRB(file, None, messages))
        if not file.lower().endswith(".mrml"):
            return bool(self._scene.SaveSceneToSlicerDataBundleDirectory(file, None, messages))
        folder = Path(file).parent
        self._scene.SetURL(file)
        self._scene.SetRootDirectory(str(folder))
        for index in range(self._scene.GetNumberOfNodes()):
            self._saveData(self._scene.GetNthNode(index), folder)
        return bool(self._scene.Commit())

    def _saveData(self, node: Any, folder: Path) -> None:
        # A .mrml names its data files only: what the Save dialog of Slicer writes beside it is written here.
        if not node.IsA("vtkMRMLStorableNode") or not node.GetSaveWithScene():
            return
        if not node.GetStorageNode():
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        if storage is None:
            return
        name = f"{node.GetName()}-{node.GetID()}.{storage.GetDefaultWriteFileExtension()}"
        storage.SetFileName(str(folder / name.replace(" ", "_")))
        if not storage.WriteData(node):
            raise OSError(f"{node.GetName()} could not be written to {storage.GetFileName()}")
