"""Makes a scene as a user leaves it in the evening, and writes down what is in it.

    python -m pytest -s Testing/gui/saved_scenes/make_scene.py

prints the folder with `scene.mrb` and `expected.json`. See README.md beside this file.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from SAM2PropagateLib.prompts.document import to_document
from SAM2PropagateLib.scene.names import encoded
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateTesting.answers import disc
from SAM2PropagateTesting.scenes import addCase, fillSegment
from Testing.gui.conftest import module, stand_ins  # noqa: F401
from Testing.gui.test_panel import Desk, Effect

SHAPE = (18, 36, 40)


def packed(mask: np.ndarray) -> str:
    """Packs a bool array as text."""
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode("ascii")


def unpacked(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Unpacks what `packed` packed."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


def voxels(desk: Any, segmentID: str) -> np.ndarray:
    """Returns (K, J, I) bool: what is in a segment itself."""
    controller = desk.controller
    return SegmentReader(controller.segmentationNode, segmentID, controller.workspace.worldGeometry).array()


def shown(desk: Any, segmentID: str) -> dict[int, np.ndarray]:
    """Returns the masks of a segment in the preview, by frame."""
    workspace = desk.controller.workspace
    return {
        frame: workspace.maskNow(segmentID, frame) for frame in sorted(workspace.previewFrames(segmentID))
    }


def strip(desk: Any, segmentID: str) -> list[list[Any]]:
    """Chooses a segment; returns look, preview, range and doubt of every slice in the strip."""
    desk.parameters.segmentID = encoded(segmentID)
    assert desk.controller.segmentID == segmentID
    desk.controller.lookForEdits()
    frames = desk.controller.strip().frames
    return [[one.drawnAs, one.isPreview, one.isInRange, one.doubt] for one in frames]


class Evening:
    """A user with the module open. Frames go along k; pixels are (column, row)."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.controller = desk, desk.controller
        # No noise, so that the file stays small.
        array = np.zeros(SHAPE, np.int16)
        array[5:13, 10:26, 8:30] = 200
        self.volume = addCase("oblique", array)
        desk.ui.volumeSelector.setCurrentNode(self.volume)
        self.segmentation = desk.ui.segmentationSelector.addNode()
        Effect(desk.ui.segmentEditor)

    @property
    def geometry(self) -> Any:
        return self.controller.workspace.worldGeometry

    def places(self, frame: int, *pixels: tuple[float, float]) -> list[Any]:
        """Returns the RAS of pixels of a frame."""
        return [self.geometry.ras_of_pixel(x, y, frame, 2) for x, y in pixels]

    def click(self, frame: int, x: float, y: float, tool: str = "positive") -> None:
        (place,) = self.places(frame, (x, y))
        assert self.controller.point(tool, place, self.geometry.frame_normal(2)) or tool == "range"
        self.desk.settle()

    def run(self) -> None:
        self.desk.ui.propagateButton.click()
        self.desk.settle()

    def paint(self, segmentID: str, frame: int, stroke: np.ndarray) -> None:
        whole = voxels(self.desk, segmentID)
        whole[frame] |= stroke
        fillSegment(self.segmentation, segmentID, self.volume, whole)
        self.controller.lookForEdits()

    def first(self) -> str:
        """Speaks of the first segment with every kind of prompt, runs, paints and corrects."""
        controller, desk = self.controller, self.desk
        segmentID = str(controller.segmentID)
        self.segmentation.GetSegmentation().GetSegment(segmentID).SetName("Leber & Milz")
        normal = self.geometry.frame_normal(2)
        self.click(8, 12, 15)
        self.click(8, 18, 15, "negative")
        assert controller.addBox(*self.places(4, (8, 10), (16, 20)))
        assert controller.addScribble(self.places(6, (10, 14), (14, 16.5), (18, 14)), True, normal)
        assert controller.addScribble(self.places(6, (10, 24), (15, 25)), False, normal)
        assert controller.addLasso(self.places(10, (6, 6), (20, 7), (19, 22), (7, 21)), False, normal)
        assert controller.addLasso(self.places(12, (5.3, 6.1), (21, 7), (13, 24)), True, normal)
        self.click(13, 3, 3, "absent")
        for frame in (2, 15):
            self.click(frame, 1, 1, "range")
        desk.settle()
        self.run()
        # A correction of a mask that a run left is kept with that mask.
        self.click(9, 30, 20)
        self.run()
        self.click(5, 1, 1, "lock")
        self.paint(segmentID, 7, disc(30, 28, SHAPE[1:], 3))
        self.run()
        # Not carried on yet.
        self.paint(segmentID, 3, disc(31, 8, SHAPE[1:], 2))
        return segmentID

    def second(self) -> str:
        """Leaves the preview of a second segment open, with a stroke under it."""
        desk = self.desk
        desk.ui.addSegmentButton.click()
        segmentID = str(self.controller.segmentID)
        desk.ui.applyAutomaticallyCheckBox.setChecked(False)
        desk.ui.limitReachCheckBox.setChecked(True)
        desk.ui.reachSpinBox.setValue(2)
        self.click(8, 30, 8)
        self.run()
        self.paint(segmentID, 9, disc(34, 30, SHAPE[1:], 2))
        return segmentID


def inTheScene(desk: Any, names: list[str]) -> dict[str, Any]:
    """Returns what is in the scene, as JSON can hold it; the last segment is the chosen one then."""
    controller = desk.controller
    segmentation = controller.segmentationNode.GetSegmentation()
    return {
        "prompts": to_document(controller.workspace.prompts),
        "reach": controller.choices.run.reach,
        "segments": {
            name: {
                "name": segmentation.GetSegment(name).GetName(),
                "color": segmentation.GetSegment(name).GetColor(),
                "voxels": packed(voxels(desk, name)),
                "preview": {str(frame): packed(mask) for frame, mask in shown(desk, name).items()},
                "strip": strip(desk, name),
            }
            for name in names
        },
    }


def test_make_the_scene(module: Any, stand_ins: Any, tmp_path: Path) -> None:  # noqa: F811
    desk = Desk(module)
    evening = Evening(desk)
    expected = inTheScene(desk, [evening.first(), evening.second()])
    stand_ins.saveScene(tmp_path / "scene.mrb")
    text = json.dumps(expected, separators=(",", ":"))
    (tmp_path / "expected.json").write_text(text + "\n", encoding="utf-8")
    print(f"\nThe scene is in {tmp_path}")
    slicer.mrmlScene.Clear(False)
