"""The user's story from the first click to the next day, with the real worker and the bundled model.

Run inside Slicer by CTest (`slicer_add_python_unittest`), and without Slicer by `python3 run.py test`.
"""

from __future__ import annotations

import json
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from SAM2PropagateLib.app import rules
from SAM2PropagateLib.app.events import Choices, FrameArrived, RunEnd, UserMessage
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateTesting.desks import Desk, DeskTest
from SAM2PropagateTesting.scenes import addSegmentation, fillSegment, nodesOfClass

# As few slices as show everything: this runs on any machine.
REACH = 3
CHOICES = Choices(run=RunOptions(reach=REACH), device="cpu")
# Many more slices than a worker has finished when the first ones are on the screen, even if Slicer is slow.
FAR = 50


def sampleLabels(sample: Path) -> tuple[np.ndarray, dict[str, int]]:
    """Returns the labels of the CT, (K, J, I), and the values by name."""
    described = json.loads(sample.with_name("abdomen_ct_labels.json").read_text(encoding="utf-8"))
    values = described.get("labels", described)
    names = {
        str(name if isinstance(value, int) else value): int(value if isinstance(value, int) else name)
        for name, value in values.items()
    }
    node = slicer.util.loadLabelVolume(str(sample.with_name("abdomen_ct_labels.nii.gz")))
    array = slicer.util.arrayFromVolume(node).copy()
    slicer.mrmlScene.RemoveNode(node)
    return array, names


def middleOf(mask: np.ndarray) -> tuple[int, int, int]:
    """Returns a voxel well inside a structure, on the slice where it is largest."""
    from scipy import ndimage

    k = int(mask.sum(axis=(1, 2)).argmax())
    depth = ndimage.distance_transform_edt(mask[k])
    j, i = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(i), int(j), k


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


class FlowCase:
    """The user at work on the shipped CT."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        sample = desk.samplePath()
        labels, values = sampleLabels(sample)
        self.truth = labels == values["liver"]
        self.seed = middleOf(self.truth)
        self.volumeNode = slicer.util.loadVolume(str(sample))
        display = self.volumeNode.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(400, 40)
        self.segmentationNode = addSegmentation(self.volumeNode, {"A": (0, 1, 0), "B": (1, 0, 0)})
        self.module: Any = None
        self.open()

    def open(self) -> None:
        """Opens the module and chooses, as the user does."""
        self.messages: list[UserMessage] = []
        self.ends: list[RunEnd] = []
        self.arrived: list[FrameArrived] = []
        self.module = self.desk.openModule()
        self.controller = self.module.controller
        self.controller.message.connect(self.messages.append)
        self.controller.finished.connect(self.ends.append)
        self.controller.frameArrived.connect(self.arrived.append)
        self.controller.choices = CHOICES
        self.controller.select(self.volumeNode, self.segmentationNode, "A")

    def close(self) -> None:
        self.module.close()

    def click(self, ijk: Any, tool: str = "positive") -> bool:
        """Clicks in an axial view, and waits for the preview."""
        done = self.controller.point(tool, self.workspace.worldGeometry.ras_of_ijk(ijk), (0, 0, 1))
        return done and self.wait()

    def start(self, **options: Any) -> None:
        assert self.controller.propagate(**options), self.texts

    def run(self, **options: Any) -> RunEnd:
        self.start(**options)
        assert self.wait(), self.texts
        return self.ends[-1]

    def until(self, condition: Callable[[], bool], seconds: float = 600.0) -> bool:
        return self.desk.until(self.controller, condition, seconds)

    def wait(self) -> bool:
        """Until nothing is awaited from the worker any more."""
        return self.until(lambda: not self.controller.isWaiting)

    @property
    def workspace(self) -> Any:
        assert self.controller.workspace is not None, self.texts
        return self.controller.workspace

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.messages]

    @property
    def errors(self) -> list[str]:
        return [message.text for message in self.messages if message.level == "error"]

    def segment(self, segmentID: str = "A") -> np.ndarray:
        """Returns the segment's voxels, (K, J, I) bool."""
        return SegmentReader(self.segmentationNode, segmentID, self.workspace.worldGeometry).array()

    def preview(self) -> dict[int, np.ndarray]:
        """Returns the masks in the preview, by frame."""
        return {frame: self.workspace.maskNow("A", frame) for frame in self.workspace.previewFrames("A")}


class SAM2PropagateFlowTest(DeskTest):
    """What the user does with the module, and has afterwards."""

    def case(self) -> FlowCase:
        self.assertTrue(ModelStore().status()[0].there, "the bundled model is not in Resources/Models")
        case = FlowCase(self.desk)
        self.addCleanup(case.close)
        if missing := case.module.missingPackages():
            self.skipTest(f"not installed: {', '.join(missing)}")
        return case

    def test_fromTheFirstClickToTheNextDay(self) -> None:
        case = self.case()
        seed, truth, k = case.seed, case.truth, case.seed[2]

        # A click, and its preview.
        self.assertTrue(case.click(seed), case.texts)
        self.assertEqual(case.workspace.previewFrames("A"), {k})
        self.assertGreater(dice(case.workspace.maskNow("A", k), truth[k]), 0.8)
        self.assertFalse(case.segment().any())

        # A run that is cancelled half way keeps what is finished, in the preview only.
        case.start(reach=FAR)
        self.assertTrue(case.until(lambda: len(case.workspace.previewFrames("A")) >= 3))
        case.controller.cancel()
        self.assertTrue(case.wait())
        self.assertEqual(case.ends[-1].state, "cancelled")
        finished = case.preview()
        self.assertGreaterEqual(len(finished), 3)
        self.assertFalse(case.segment().any())
        case.controller.discard()

        # The whole run is applied, undone and redone in one step each.
        self.assertTrue(case.run().applied)
        first = case.segment()
        reached = slice(k - REACH, k + REACH + 1)
        written = [n for n in range(len(first)) if first[n].any()]
        self.assertEqual(written, list(range(k - REACH, k + REACH + 1)))
        self.assertGreater(dice(first[reached], truth[reached]), 0.8)
        for frame in finished.keys() & set(written):
            self.assertGreater(dice(first[frame], finished[frame]), 0.95)
        self.assertTrue(case.controller.undo())
        self.assertFalse(case.segment().any())
        self.assertTrue(case.controller.redo())
        np.testing.assert_array_equal(case.segment(), first)

        # A slice is edited by hand: it stays as it is, and only its neighborhood changes.
        edited = first.copy()
        half = edited[k + 2]
        half[:, seed[0] :] = False
        self.assertTrue(half.any())
        fillSegment(case.segmentationNode, "A", case.volumeNode, edited)
        self.assertTrue(case.run().applied)
        second = case.segment()
        np.testing.assert_array_equal(second[k + 2], half)
        np.testing.assert_array_equal(second[: k + 1], first[: k + 1])
        strip = case.controller.strip()
        self.assertEqual((strip.frames[k + 2].drawnAs, strip.frames[k].drawnAs), ("edited", "keyframe"))

        # A click on that slice refines what was painted.
        self.assertTrue(case.click((seed[0] + 3, seed[1], k + 2)))
        refined = case.workspace.maskNow("A", k + 2)
        self.assertGreater((refined & half).sum(), 0.95 * half.sum())
        self.assertTrue(case.run().applied)
        third = case.segment()
        np.testing.assert_array_equal(third[k + 2], refined)

        # The next day.
        case.close()
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "scene.mrb")
            self.assertTrue(slicer.util.saveScene(file))
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(file, {"clear": True})
        (case.volumeNode,) = nodesOfClass("vtkMRMLScalarVolumeNode")
        (case.segmentationNode,) = nodesOfClass("vtkMRMLSegmentationNode")
        case.open()
        np.testing.assert_array_equal(case.segment(), third)
        self.assertEqual([one.drawnAs for one in case.controller.strip().frames].count("edited"), 1)
        self.assertTrue(case.click((seed[0], seed[1], k - 3)))
        self.assertTrue(case.run().applied)
        np.testing.assert_array_equal(case.segment()[k + 2], third[k + 2])
        self.assertEqual(case.errors, [])

    def test_cancelEndsTheRunAndTheNextOneGoesOnFromThere(self) -> None:
        case = self.case()
        k = case.seed[2]
        self.assertTrue(case.click(case.seed), case.texts)
        clicked = case.preview()[k]

        case.arrived.clear()
        case.start(reach=FAR)
        self.assertTrue(case.until(lambda: len(case.arrived) >= 3))
        case.controller.cancel()

        # At once, whatever the worker is at: what had arrived stays, and the next run could begin.
        (end,) = case.ends
        atCancel, kept = len(case.arrived), case.preview()
        reached = range(max(0, k - FAR), min(len(case.segment()), k + FAR + 1))
        self.assertLess(atCancel, len(reached), "the rest of the run was not waited for")
        finished = {one.frame for one in case.arrived}
        self.assertEqual((end.state, end.frames, end.applied), ("cancelled", len(finished), False))
        self.assertFalse(case.controller.isRunning)
        self.assertEqual(case.controller.whyNot(rules.PROPAGATE), "")
        self.assertTrue(case.wait())
        self.assertEqual((len(case.arrived), len(case.ends)), (atCancel, 1), "what came later was dropped")

        # What was finished is in the preview, as it was, and nowhere else.
        masks = case.preview()
        self.assertEqual(set(masks), finished | {k})
        for frame, mask in kept.items():
            np.testing.assert_array_equal(masks[frame], mask)
        self.assertGreater(dice(masks[k], clicked), 0.95)
        self.assertFalse(case.segment().any())

        # The next run takes over while the finished slices stay on the screen, and applies them all.
        case.arrived.clear()
        reach = max(abs(frame - k) for frame in finished) + 4
        case.start(reach=reach)
        self.assertTrue(case.until(lambda: bool(case.arrived)))
        if case.controller.isRunning:  # a fast machine may have finished and applied it by now
            self.assertLessEqual(set(masks), set(case.preview()))
        self.assertTrue(case.wait())
        self.assertEqual((case.ends[-1].state, case.ends[-1].applied), ("done", True))
        whole = case.segment()
        written = {n for n in range(len(whole)) if whole[n].any()}
        # How far a run came before it was cancelled depends on the computer: the structure may end before.
        self.assertLessEqual({frame for frame in finished if masks[frame].any()}, written)
        self.assertIn(k + reach, {one.frame for one in case.arrived})
        self.assertEqual(case.preview(), {})
        for frame in finished:
            self.assertGreater(dice(whole[frame], masks[frame]), 0.95)
        self.assertEqual(case.errors, [])


if __name__ == "__main__":
    unittest.main()
