"""Where prompts appear in the data tree, and what importing the bridge costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import slicer
import vtk

from SAM2PropagateLib.scene.markups import PromptMarkups
from Testing.scene.test_commit import CommitCase

_ROOT = Path(__file__).parents[2]


def test_prompts_share_a_folder_beside_their_segmentation(headless):
    case = CommitCase(headless)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(headless.scene)
    study = tree.CreateFolderItem(tree.GetSceneItemID(), "study")
    tree.CreateItem(study, case.segmentationNode)

    def shelve(_scene, _event, node):  # what the application does with every new node
        if node.IsA("vtkMRMLMarkupsNode"):
            tree.CreateItem(tree.GetSceneItemID(), node)

    shelve.CallDataType = vtk.VTK_OBJECT
    tag = headless.scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, shelve)
    markups = PromptMarkups(case.segmentationNode, case.volumeNode)
    nodes = [markups.clickNode("A"), markups.clickNode("B", False), markups.beginBox("A")]
    headless.scene.RemoveObserver(tag)
    folders = {tree.GetItemParent(tree.GetItemByDataNode(node)) for node in nodes}
    assert len(folders) == 1
    assert tree.GetItemName(folders.copy().pop()) == "Segmentation prompts"
    assert tree.GetItemParent(folders.pop()) == study


def test_the_bridge_imports_without_torch_and_qt():
    script = (
        "import importlib, pkgutil, sys\n"
        "import SAM2PropagateLib.scene as scene\n"
        "for module in pkgutil.iter_modules(scene.__path__):\n"
        "    importlib.import_module(f'SAM2PropagateLib.scene.{module.name}')\n"
        "print(sorted({'torch', 'sam2', 'qt', 'PySide6'} & set(sys.modules)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(_ROOT / "SAM2Propagate")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
