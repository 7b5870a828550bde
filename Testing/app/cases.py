"""A volume, a segmentation and a controller with a session that answers by itself, in a headless Slicer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from Headless.boot import HeadlessSlicer
from SAM2PropagateLib.app.events import Choices
from SAM2PropagateTesting import cases


class HeadlessCase(cases.SceneCase):
    """What the user has in front of them. `A` and `B` are the segments; frames go along k."""

    def __init__(
        self,
        headless: HeadlessSlicer,
        geometry: str = "plain",
        choices: Choices | None = None,
        **options: Any,
    ) -> None:
        self.headless = headless
        super().__init__(geometry, choices, **options)

    def reload(self, file: Path, choices: Choices | None = None) -> None:
        """Saves the scene, closes everything, and starts again with the scene from the file."""
        self.headless.saveScene(file)
        self.controller.close()
        self.headless.clear()
        self.headless.loadScene(file)
        self.volumeNode = self.headless.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
        self.segmentationNode = self.headless.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        self.start(choices)

    def drag_first_click(self, i: int, j: int, k: int) -> None:
        """Drags the first positive click of A to a voxel, as the mouse does it in a view."""
        node = self.workspace.markups.clickNode("A")
        node.SetNthControlPointPositionWorld(0, *(float(value) for value in self.ras(i, j, k)))
        node.InvokeEvent(node.PointEndInteractionEvent)
