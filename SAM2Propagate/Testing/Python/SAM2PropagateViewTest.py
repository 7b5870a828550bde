"""Slice views: prompts under the mouse, every tool in every kind of view, and what is drawn.

Run inside Slicer by CTest (`slicer_add_python_unittest`), and without Slicer by `python3 run.py test`, in
offscreen slice views.
"""

from __future__ import annotations

import functools
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from SAM2PropagateLib.app.navigation import frameInView
from SAM2PropagateLib.app.tools import ACTION_KEYS
from SAM2PropagateLib.gui.view_input import ViewInput
from SAM2PropagateLib.prompts import box_at, choose_axis, resolve
from SAM2PropagateLib.scene.box_drag import BoxDrag
from SAM2PropagateLib.scene.commit import SegmentCommitter
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.preview import PreviewLayer
from SAM2PropagateLib.scene.prompt_nodes import promptNodes
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateLib.scene.volume import volumeGeometry
from SAM2PropagateLib.scene.watch import PromptWatcher
from SAM2PropagateTesting.answers import RADIUS, disc
from SAM2PropagateTesting.cases import SceneCase
from SAM2PropagateTesting.desks import Desk, DeskTest
from SAM2PropagateTesting.each import each, expanded
from SAM2PropagateTesting.scenes import (
    GEOMETRIES,
    SHAPE_IJK,
    addCase,
    addSegmentation,
    nodesOfClass,
)

VIEWS = ("Axial", "Sagittal", "Coronal", "i", "j", "k")
TOOL_VIEWS = ("Axial", "Sagittal", "Coronal", "oblique")
AXES = {"Axial": 2, "Sagittal": 0, "Coronal": 1, "oblique": 2}
MIDDLE = (20, 18, 9)
PROMPT_COLOR = np.array((0.5, 1.0, 0.5))  # the segment's, lighter
RED = (1.0, 0.0, 0.0)


def saveScene(file: Path) -> None:
    assert slicer.util.saveScene(str(file))


def loadScene(file: Path, clear: bool = True) -> None:
    slicer.util.loadScene(str(file), {"clear": clear})


def editorNode() -> Any:
    """Returns the settings of the module's Segment Editor; made if there are none."""
    node = slicer.mrmlScene.GetSingletonNode("SAM2Propagate", "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        node.UnRegister(None)
        node.SetSingletonTag("SAM2Propagate")
        node = slicer.mrmlScene.AddNode(node)
    return node


def voxel(k: int, j: int, i: int) -> tuple[slice, slice, slice]:
    return (slice(k, k + 1), slice(j, j + 1), slice(i, i + 1))


class PromptCase:
    """A dark volume with bright voxels in a slice view, and a segment to place prompts for."""

    def __init__(self, desk: Desk, geometry: str, view: str, bright: Any) -> None:
        i, j, k = SHAPE_IJK
        array = np.random.default_rng(3).integers(0, 20, (k, j, i)).astype(np.int16)
        array[bright] = 200
        self.volumeNode = addCase(geometry, array)
        display = self.volumeNode.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(200, 100)
        display.SetInterpolate(False)
        self.geometry = volumeGeometry(self.volumeNode)
        self.segmentationNode = addSegmentation(self.volumeNode, {"A": (0, 1, 0)})
        self.markups = PromptMarkups(self.segmentationNode, self.volumeNode)
        self.changes: list[Any] = []
        self.watcher = PromptWatcher(self.markups, self.changes.append)
        self.view = desk.openView(size=(420, 400))
        if view in ("i", "j", "k"):
            self.view.show(self.volumeNode)
            self.view.alignToAxes(self.geometry.ijk_to_ras, "ijk".index(view))
        else:
            self.view.setOrientation(view)
            self.view.show(self.volumeNode)

    def jumpTo(self, ijk: Any) -> None:
        self.view.jumpTo(self.geometry.ras_of_ijk(ijk))

    def brightPixels(self) -> np.ndarray:
        """View positions of the bright voxels as they are drawn, (n, 2)."""
        image = self.view.screenshot()
        rows, columns = np.nonzero(image.min(axis=-1) > 200)
        assert len(rows), "nothing bright is drawn"
        return np.c_[columns, image.shape[0] - 1 - rows]

    def onBrightPixel(self) -> tuple[float, float]:
        pixels = self.brightPixels()
        # The drawn pixel nearest to the middle of the drawn voxel.
        x, y = pixels[np.linalg.norm(pixels - pixels.mean(axis=0), axis=1).argmin()]
        return x, y

    def place(self, xy: Any, positive: bool = True) -> None:
        self.view.startPlacing(self.markups.clickNode("A", positive))
        self.view.click(xy)

    def resolved(self, axis: int) -> Any:
        return resolve(self.markups.read().segment("A"), self.markups.geometry, axis, need_positive=False)

    def drawn(self) -> int:
        """Returns how many pixels have the color of the prompts."""
        image = self.view.screenshot()
        return int((np.abs(image / 255.0 - PROMPT_COLOR).max(axis=-1) < 0.02).sum())

    def twoClicks(self, start: Any, end: Any) -> None:
        """Places a box in Slicer's own place mode."""
        self.view.startPlacing(self.markups.beginBox("A"))
        self.view.click(start)
        self.view.move(((start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
        self.view.click(end)

    def oneDrag(self, start: Any, end: Any) -> None:
        """Draws a box with the module's own tool."""
        ended: list[Any] = []
        tool = BoxDrag(self.markups, ended.append)
        tool.addView(self.view.interactor, self.view.node)
        tool.start("A")
        before = self._looks()
        self.view.drag(start, end)
        assert not tool.isOn
        assert ended == [*promptNodes(self.segmentationNode, role="box")]
        # Nobody else took the drag for panning or windowing.
        assert before == self._looks()

    def _looks(self) -> tuple[float, float]:
        return self.view.node.GetXYToRAS().GetElement(0, 3), self.volumeNode.GetDisplayNode().GetWindow()


@expanded
class SAM2PropagatePromptViewTest(DeskTest):
    """Prompts placed and dragged with the mouse land on the voxel under the cursor."""

    def case(self, geometry: str, view: str, bright: Any) -> PromptCase:
        case = PromptCase(self.desk, geometry, view, bright)
        self.addCleanup(case.watcher.stop)
        return case

    @each(geometry=tuple(GEOMETRIES), view=VIEWS)
    def test_aClickLandsOnTheVoxelThatIsDrawnUnderIt(self, geometry: str, view: str) -> None:
        case = self.case(geometry, view, voxel(11, 22, 9))
        case.jumpTo((9, 22, 11))
        case.place(case.onBrightPixel())
        (click,) = case.markups.read().segment("A").clicks
        np.testing.assert_array_equal(np.rint(case.markups.geometry.ijk_of_ras(click.ras)), (9, 22, 11))
        (change,) = case.changes
        self.assertEqual((change.segmentID, change.role), ("A", "positive"))
        axis = choose_axis(case.markups.read(), case.geometry, change.viewNormal)
        if view in ("i", "j", "k"):
            self.assertEqual(axis, "ijk".index(view))
        self.assertEqual(list(case.resolved(axis).keyframes), [(9, 22, 11)[axis]])

    @each(geometry=("plain", "oblique mirrored", "under transforms"), view=VIEWS)
    def test_aClickCanBeDraggedToAnotherVoxel(self, geometry: str, view: str) -> None:
        case = self.case(geometry, view, voxel(9, 18, 20))
        case.jumpTo(MIDDLE)
        width, height = case.view.at(1, 1)
        start = (case.view.rasToXy(case.geometry.ras_of_ijk(MIDDLE))[0] + width / 7, height * 0.375)
        case.place(start, positive=False)
        before = case.markups.read().segment("A").clicks[0]
        case.view.drag(start, case.onBrightPixel())
        (after,) = case.markups.read().segment("A").clicks
        np.testing.assert_array_equal(np.rint(case.markups.geometry.ijk_of_ras(after.ras)), MIDDLE)
        self.assertEqual(after.id, before.id)
        self.assertFalse(after.positive)
        self.assertEqual([change.role for change in case.changes], ["negative", "negative"])

    @each(geometry=tuple(GEOMETRIES), axis=(0, 1, 2), draw=("twoClicks", "oneDrag"))
    def test_aBoxDrawnAroundBrightVoxelsHoldsThemOnThatFrame(
        self, geometry: str, axis: int, draw: str
    ) -> None:
        block = (slice(6, 12), slice(10, 21), slice(8, 24))  # k, j, i
        case = self.case(geometry, "ijk"[axis], block)
        middle = (15, 15, 8)
        case.jumpTo(middle)
        pixels = case.brightPixels()
        (left, bottom), (right, top) = pixels.min(axis=0), pixels.max(axis=0)
        getattr(case, draw)((left, bottom), (right, top))
        (change,) = case.changes
        self.assertEqual(change.role, "box")
        keyframes = case.resolved(axis).keyframes
        self.assertEqual(list(keyframes), [middle[axis]])
        x, y = (n for n in range(3) if n != axis)
        edges = [(8, 24), (10, 21), (6, 12)]
        expected = (edges[x][0] - 0.5, edges[y][0] - 0.5, edges[x][1] - 0.5, edges[y][1] - 0.5)
        # Within two drawn pixels of the voxels' outer edges.
        np.testing.assert_allclose(keyframes[middle[axis]].box, expected, atol=0.4)
        roi = next(promptNodes(case.segmentationNode, role="box"))
        self.assertLess(min(roi.GetSize()), case.geometry.slice_spacing(axis) * 1.5 * 1.001)

    def test_aBoxResizedByItsCornerStaysFlat(self) -> None:
        case = self.case("oblique", "k", (slice(8, 9), slice(10, 21), slice(8, 24)))
        case.jumpTo((15, 15, 8))

        def xy(i: float, j: float) -> Any:
            return case.view.rasToXy(case.geometry.ras_of_ijk((i, j, 8)))

        case.view.startPlacing(case.markups.beginBox("A"))
        case.view.click(xy(8, 10))
        case.view.click(xy(20, 20))
        case.view.screenshot()
        case.view.drag(xy(20, 20), xy(30, 28))
        self.assertEqual([change.role for change in case.changes], ["box", "box"])
        np.testing.assert_allclose(case.resolved(2).keyframes[8].box, (8, 10, 30, 28), atol=0.3)
        self.assertEqual(list(case.resolved(2).keyframes), [8])

    @each(geometry=("plain", "oblique mirrored"))
    def test_clicksAndBoxesAreDrawnOnTheirOwnSliceOnly(self, geometry: str) -> None:
        case = self.case(geometry, "k", voxel(8, 15, 15))
        case.jumpTo((15, 15, 8))
        corner = case.view.at(0.012, 0.0125)
        empty = case.drawn()
        case.place(case.view.at(0.476, 0.5))
        case.view.move(corner)
        afterClick = case.drawn()
        case.view.startPlacing(case.markups.beginBox("A"))
        case.view.click(case.view.at(0.286, 0.3))
        case.view.click(case.view.at(0.714, 0.75))
        case.view.move(corner)
        self.assertEqual(empty, 0)
        # A part of the box's outline.
        width, height = case.view.at(1, 1)
        outline = 0.3 * (width + height)
        self.assertGreater(afterClick, 5)
        self.assertGreater(case.drawn(), afterClick + outline)
        for step in (1, -2):
            case.view.wheel(corner, step)
            self.assertEqual(case.drawn(), 0)
        case.view.wheel(corner, 1)
        self.assertGreater(case.drawn(), afterClick + outline)

    @each(geometry=("oblique", "oblique mirrored"), view=("Axial", "Sagittal", "Coronal"))
    def test_aBoxDraggedInAViewThatIsTurnedAgainstTheVolume(self, geometry: str, view: str) -> None:
        """Checks that it lies on the frame of its middle, along the nearest axis, and holds what was drawn
        there."""
        case = self.case(geometry, view, voxel(9, 18, 20))
        case.jumpTo(MIDDLE)
        case.oneDrag(*case.view.around(case.onBrightPixel(), 4, 4))
        axis = choose_axis(case.markups.read(), case.geometry, case.changes[0].viewNormal)
        keyframes = case.resolved(axis).keyframes
        self.assertEqual(list(keyframes), [MIDDLE[axis]])
        box = keyframes[MIDDLE[axis]].box
        column, row = (n for n in range(3) if n != axis)
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        np.testing.assert_allclose(middle, (MIDDLE[column], MIDDLE[row]), atol=0.6)
        self.assertEqual(len(case.markups.read().segment("A").boxes), 1)

    def test_slipsAndDragsBesideTheVolumeMakeNoBox(self) -> None:
        case = self.case("plain", "k", voxel(8, 15, 15))
        case.jumpTo((15, 15, 8))
        ended: list[Any] = []
        tool = BoxDrag(case.markups, ended.append)
        tool.addView(case.view.interactor, case.view.node)
        x, y = case.view.at(0.476, 0.5)
        for start, end in (((x, y), (x + 2, y + case.view.pixels(8))), ((1, 1), (8, 8)), ((x, y), (x, y))):
            tool.start("A")
            case.view.drag(start, end)
            self.assertFalse(tool.isOn)
        self.assertEqual(case.markups.nodes(), ())
        self.assertEqual(case.changes, [])
        tool.start("A")
        tool.start("A")  # once more while it is on
        low, high = case.view.at(0.24, 0.25), case.view.at(0.6, 0.625)
        case.view.move(low)
        case.view.event("LeftButtonPressEvent", low)
        case.view.move(high)
        self.assertEqual(len(case.markups.nodes()), 1, "it grows while the mouse moves")
        tool.stop()
        case.view.event("LeftButtonReleaseEvent", high)
        self.assertEqual(ended, [None] * 5)
        self.assertEqual(case.markups.nodes(), ())
        # Off, the mouse does what it did before.
        window = case.volumeNode.GetDisplayNode().GetWindow()
        case.view.startWindowing()
        case.view.drag(low, (low[0] + 60, low[1] + 40))
        self.assertNotEqual(case.volumeNode.GetDisplayNode().GetWindow(), window)

    def test_boxesThatWereBegunOnlyAreNoPrompts(self) -> None:
        case = self.case("plain", "k", voxel(8, 15, 15))
        case.jumpTo((15, 15, 8))
        case.twoClicks(case.view.at(0.24, 0.25), case.view.at(0.48, 0.5))
        case.view.startPlacing(case.markups.beginBox("A"))
        case.view.click(case.view.at(0.36, 0.375))
        case.view.stopPlacing()
        self.assertEqual(len(case.markups.nodes()), 2)
        self.assertEqual(len(case.markups.read().segment("A").boxes), 1)

    def test_promptsFollowTheColorAndThePresenceOfTheirSegment(self) -> None:
        case = self.case("plain", "k", voxel(8, 15, 15))
        case.jumpTo((15, 15, 8))
        case.place(case.view.at(0.476, 0.5))
        display = case.markups.clickNode("A").GetDisplayNode()
        segmentation = case.segmentationNode.GetSegmentation()
        segmentation.GetSegment("A").SetColor(1, 0, 0)
        np.testing.assert_allclose(display.GetSelectedColor(), (1, 0.5, 0.5), atol=1e-6)
        segment = segmentation.GetSegment("A")
        segmentation.RemoveSegment("A")
        self.assertFalse(display.GetVisibility())
        segmentation.AddSegment(segment, "A")
        self.assertTrue(display.GetVisibility())

    def test_closingTheSceneTellsNothingAndImportingIsNoChange(self) -> None:
        case = self.case("plain", "Axial", voxel(8, 15, 15))
        case.jumpTo((15, 15, 8))
        case.place(case.view.at(0.476, 0.5))
        case.changes.clear()
        with tempfile.TemporaryDirectory() as folder:
            saveScene(Path(folder) / "scene.mrb")
            loadScene(Path(folder) / "scene.mrb", clear=False)
        self.assertEqual(case.changes, [])
        slicer.mrmlScene.Clear()
        self.assertEqual(case.changes, [])

    def test_everyFinishedChangeIsToldOnce(self) -> None:
        case = self.case("plain", "k", voxel(8, 15, 15))
        case.jumpTo((15, 15, 8))
        case.place(case.view.at(0.476, 0.5))
        case.place(case.view.at(0.595, 0.5), positive=False)
        node = case.markups.clickNode("A")
        node.RemoveNthControlPoint(0)
        self.assertEqual([change.role for change in case.changes], ["positive", "negative", "positive"])
        np.testing.assert_allclose(np.abs(case.changes[0].viewNormal), (0, 0, 1), atol=1e-9)
        slicer.mrmlScene.RemoveNode(case.markups.clickNode("A", False))
        roles = ["positive", "negative", "positive", "negative"]
        self.assertEqual([change.role for change in case.changes], roles)
        # What the program writes is not the user's doing.
        prompts = case.markups.read()
        case.markups.write(prompts.add("A", box_at((3, 4, 12, 13), 6, case.geometry, 2)))
        case.markups.write(prompts)
        self.assertEqual(len(case.changes), 4)
        case.watcher.stop()
        case.place(case.view.at(0.524, 0.55))
        self.assertEqual(len(case.changes), 4)
        self.assertEqual(len(case.markups.read().segment("A").clicks), 1)

    def test_scrollingAndWindowingDoNotTouchPrompts(self) -> None:
        case = self.case("plain", "k", voxel(8, 15, 15))
        case.jumpTo((15, 15, 8))
        case.place(case.view.at(0.476, 0.5))
        before = case.markups.read()
        case.view.startWindowing()
        x, y = case.view.at(0.24, 0.25)
        case.view.drag((x, y), (x + 60, y + 40))
        self.assertNotEqual(case.volumeNode.GetDisplayNode().GetWindow(), 200)
        case.view.stopPlacing()
        case.view.wheel((x, y), 2)
        self.assertEqual(case.markups.read(), before)
        self.assertEqual(len(case.changes), 1)


class ToolCase(SceneCase):
    """A case with one slice view in which the user works."""

    def __init__(self, desk: Desk, view: str, geometry: str) -> None:
        self.desk = desk
        super().__init__(geometry)
        self.look(view)

    def look(self, view: str) -> None:
        """Opens the view and observes it, as the module does."""
        self.view = self.desk.openView(size=(300, 280))
        self.view.show(self.volumeNode)
        self.view.setOrientation(view)
        self.view.show(self.volumeNode)
        self.jumpTo(MIDDLE)
        self.pressed: list[str] = []
        self.hovered: list[bool] = []
        self.now = 0.0
        self.input = ViewInput(
            self.controller,
            {key: functools.partial(self.pressed.append, key) for key in ACTION_KEYS},
            clock=lambda: self.now,
            onHover=self.hovered.append,
        )
        self.input.addSliceView(self.view.interactor, self.view.node)
        self.input.start()

    def close(self) -> None:
        self.input.stop()
        self.controller.close()

    def jumpTo(self, ijk: Any) -> None:
        self.view.jumpTo(self.geometry.ras_of_ijk(ijk))

    def xy(self, ijk: Any) -> Any:
        return self.view.rasToXy(self.geometry.ras_of_ijk(ijk))

    def clickAt(self, ijk: Any) -> None:
        self.view.click(self.xy(ijk))
        self.settle()

    def clickOn(self, ijk: Any, tool: str) -> None:
        """Presses a tool, scrolls to the slice of a voxel and clicks on it."""
        if self.controller.tool != tool:
            assert self.controller.chooseTool(tool), self.texts
        self.jumpTo(ijk)
        self.clickAt(ijk)

    def key(self, key: str, ijk: Any = MIDDLE, **modifiers: Any) -> None:
        """Presses a key and lets it go, a second after the last one."""
        self.now += 1
        self.view.key(key, self.xy(ijk), **modifiers)
        self.settle()

    def voxel(self, ras: Any) -> tuple[int, ...]:
        return tuple(int(n) for n in np.rint(self.workspace.geometry.ijk_of_ras(ras)))

    def voxelsOf(self, role: str) -> list[tuple[int, ...]]:
        """Returns the positions of the control points of a role's markups node; [] if there is none."""
        found = []
        for node in promptNodes(self.segmentationNode, "A", role):
            for index in range(node.GetNumberOfControlPoints()):
                ras = [0.0, 0.0, 0.0]
                node.GetNthControlPointPosition(index, ras)
                found.append(self.voxel(ras))
        return found

    def onFrame(self, ijk: Any, frame: int) -> tuple[int, int, int]:
        """Returns a voxel on another frame of the axis."""
        moved = list(ijk)
        moved[self.workspace.axis] = frame
        i, j, k = moved
        return i, j, k

    def beside(self, ijk: Any, step: int = 5) -> tuple[int, int, int]:
        """Another voxel on the same frame: a click on a prompt that is there would drag it."""
        moved = list(ijk)
        moved[1 if self.workspace.axis == 0 else 0] += step
        i, j, k = moved
        return i, j, k

    def green(self) -> int:
        """Returns how many pixels are greener than gray."""
        image = self.view.screenshot().astype(int)
        return int((image[..., 1] - image[..., 0] > 25).sum())


@expanded
class SAM2PropagateToolViewTest(DeskTest):
    """Mouse and keys in the views: every tool, in every kind of view, and what is left alone."""

    def case(self, view: str = "Axial", geometry: str = "plain") -> ToolCase:
        case = ToolCase(self.desk, view, geometry)
        self.addCleanup(case.close)
        return case

    @each(view=TOOL_VIEWS)
    def test_clicksLandOnTheVoxelUnderTheMouse(self, view: str) -> None:
        case = self.case(view)
        case.controller.chooseTool("positive")
        case.clickAt(MIDDLE)
        case.controller.chooseTool("negative")
        aside = (20, 23, 9) if view == "Sagittal" else (25, 18, 9)
        case.clickAt(aside)
        first, second = case.workspace.prompts.segment("A").clicks
        expected = {first.positive: first, second.positive: second}
        self.assertEqual(case.voxel(expected[True].ras), MIDDLE)
        self.assertEqual(case.voxel(expected[False].ras), aside)
        self.assertEqual(case.workspace.axis, AXES[view])
        self.assertEqual(len(case.arrived), 2)

    @each(view=TOOL_VIEWS)
    def test_aBoxIsDraggedAndTheNextOneToo(self, view: str) -> None:
        case = self.case(view)
        case.controller.chooseTool("box")
        low, high = case.view.around(case.xy(MIDDLE), 5, 4)
        case.view.drag(low, high)
        case.settle()
        (box,) = case.workspace.prompts.segment("A").boxes
        frame = MIDDLE[case.workspace.axis]
        self.assertEqual(case.workspace.previewFrames("A"), {frame})
        self.assertGreater(case.shown(frame).sum(), 10)
        self.assertEqual(case.controller.tool, "box")
        case.view.drag(case.view.around(case.xy(MIDDLE), 3, 2.4)[0], high)
        case.settle()
        (again,) = case.workspace.prompts.segment("A").boxes
        self.assertNotEqual(again.id, box.id)
        self.assertTrue(case.controller.undo())
        (back,) = case.workspace.prompts.segment("A").boxes
        self.assertEqual(back.id, box.id)

    def test_aDragThatIsNoBoxIsExplained(self) -> None:
        case = self.case()
        case.controller.chooseTool("box")
        x, y = case.xy(MIDDLE)
        case.view.drag((x, y), (x + 1, y + 1))
        self.assertEqual(case.codes, ["no_box"])
        self.assertEqual(case.controller.tool, "box")
        self.assertTrue(case.workspace.prompts.is_empty)

    def test_aBoxInAViewAcrossTheSlicesIsRefused(self) -> None:
        case = self.case()
        case.controller.chooseTool("positive")
        case.clickAt(MIDDLE)
        side = self.desk.openView("Yellow", "Sagittal", (300, 280))
        side.show(case.volumeNode)
        side.jumpTo(case.geometry.ras_of_ijk(MIDDLE))
        case.input.stop()
        case.input.addSliceView(side.interactor, side.node)
        case.input.start()
        case.controller.chooseTool("box")
        side.drag(*side.around(side.rasToXy(case.geometry.ras_of_ijk(MIDDLE)), 5, 4))
        self.assertEqual(case.codes, ["refused"])
        self.assertIn("axial", case.texts[0])
        self.assertEqual(case.workspace.prompts.segment("A").boxes, ())
        self.assertEqual(list(promptNodes(case.segmentationNode, "A", "box")), [])

    @each(view=TOOL_VIEWS)
    def test_marksAreAboutTheSliceThatWasClicked(self, view: str) -> None:
        case = self.case(view)
        case.controller.chooseTool("positive")
        case.clickAt(MIDDLE)
        case.controller.chooseTool("lock")
        case.clickAt(MIDDLE)
        self.assertIsNone(case.controller.tool, "a mark is made once")
        frame = MIDDLE[case.workspace.axis]
        self.assertTrue(case.controller.strip().frames[frame].isLocked)
        case.key("l")
        self.assertFalse(case.controller.strip().frames[frame].isLocked)
        case.key("e")
        self.assertTrue(case.controller.strip().frames[frame].isAbsent)

    @each(view=TOOL_VIEWS)
    def test_aRangeIsTwoClicksOnTwoSlices(self, view: str) -> None:
        case = self.case(view)
        case.clickOn(MIDDLE, "positive")
        middle = MIDDLE[case.workspace.axis]
        last, first = case.onFrame(MIDDLE, middle + 4), case.onFrame(MIDDLE, middle - 3)
        # The last slice first: which is which does not matter.
        case.clickOn(last, "range")
        self.assertIsNone(case.workspace.prompts.segment("A").range)
        self.assertEqual(case.voxelsOf("range"), [])
        self.assertEqual((case.codes, case.controller.tool), (["range"], "range"))
        case.clickOn(first, "range")
        self.assertIsNone(case.controller.tool)
        inRange = list(range(middle - 3, middle + 5))
        self.assertEqual([one.frame for one in case.controller.strip().frames if one.isInRange], inRange)
        axis = case.workspace.axis
        self.assertEqual({ijk[axis] for ijk in case.voxelsOf("range")}, {middle - 3, middle + 4})
        # What another reader finds in the scene.
        prompts = PromptMarkups(case.segmentationNode, case.volumeNode).read()
        resolved = resolve(prompts.segment("A"), case.workspace.geometry, axis)
        self.assertEqual((resolved.first, resolved.last), (middle - 3, middle + 4))
        case.run()
        written = [n for n in range(case.geometry.frame_count(axis)) if case.segment(n, axis=axis).any()]
        self.assertEqual(written, inRange)

    @each(view=TOOL_VIEWS)
    def test_anAbsentMarkEndsTheRunAndASecondClickTakesItAway(self, view: str) -> None:
        case = self.case(view)
        case.clickOn(MIDDLE, "positive")
        axis, middle = case.workspace.axis, MIDDLE[case.workspace.axis]
        gone = case.onFrame(MIDDLE, middle + 3)
        case.clickOn(gone, "absent")
        self.assertIsNone(case.controller.tool)
        self.assertEqual([ijk[axis] for ijk in case.voxelsOf("absent")], [middle + 3])
        self.assertEqual([one.frame for one in case.controller.strip().frames if one.isAbsent], [middle + 3])
        case.run()
        self.assertFalse(case.segment(middle + 3, axis=axis).any())
        self.assertTrue(case.segment(middle + 1, axis=axis).any())
        case.clickOn(case.beside(gone), "positive")
        self.assertEqual(case.codes, ["refused"])
        self.assertIn("absent", case.texts[-1])
        case.clickOn(gone, "absent")
        self.assertEqual(case.voxelsOf("absent"), [])
        self.assertFalse(any(one.isAbsent for one in case.controller.strip().frames))
        case.clickOn(gone, "positive")
        self.assertEqual(case.codes, ["refused"], "nothing new was said")
        self.assertTrue(case.shown(middle + 3).any())

    @each(view=TOOL_VIEWS)
    def test_aLockedSliceStaysAsItIsAndASecondClickUnlocksIt(self, view: str) -> None:
        case = self.case(view)
        case.clickOn(MIDDLE, "positive")
        axis, middle = case.workspace.axis, MIDDLE[case.workspace.axis]
        case.run()
        locked = case.onFrame(MIDDLE, middle + 2)
        before = case.segment(middle + 2, axis=axis)
        self.assertTrue(before.any())
        case.clickOn(locked, "lock")
        self.assertIsNone(case.controller.tool)
        self.assertEqual([ijk[axis] for ijk in case.voxelsOf("lock")], [middle + 2])
        self.assertEqual([one.frame for one in case.controller.strip().frames if one.isLocked], [middle + 2])
        case.clickOn(case.beside(locked), "positive")
        self.assertEqual(case.codes, ["refused"])
        self.assertIn("locked", case.texts[-1])
        # A correction beside it changes all but the locked slice.
        case.clickOn(case.beside(case.onFrame(MIDDLE, middle + 3), 6), "positive")
        case.run()
        np.testing.assert_array_equal(case.segment(middle + 2, axis=axis), before)
        self.assertGreater(case.segment(middle + 3, axis=axis).sum(), before.sum())
        case.clickOn(locked, "lock")
        self.assertEqual(case.voxelsOf("lock"), [])
        self.assertFalse(any(one.isLocked for one in case.controller.strip().frames))

    def test_keysPressTheToolsAndTakeNothingElse(self) -> None:
        case = self.case()
        seen: list[str] = []
        interactor = case.view.interactor
        tag = interactor.AddObserver("KeyPressEvent", lambda caller, _: seen.append(caller.GetKeySym()), 0.1)
        self.addCleanup(interactor.RemoveObserver, tag)
        case.key("a")
        self.assertEqual(case.controller.tool, "positive")
        case.key("d")
        self.assertEqual(case.controller.tool, "negative")
        case.key("d")
        self.assertIsNone(case.controller.tool)
        case.key("p")
        case.key("n")
        self.assertEqual(case.pressed, ["P", "N"])
        self.assertEqual(seen, [])
        for key in ("v", "r", "g", "Escape", "Delete"):
            case.key(key)
        case.key("a", ctrl=True)
        self.assertEqual(seen, ["v", "r", "g", "Escape", "Delete", "a"])
        self.assertIsNone(case.controller.tool)

    def test_aToolAndSlicersMouseModesSwitchEachOtherOff(self) -> None:
        case = self.case()
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        display = case.volumeNode.GetDisplayNode()
        low, high = case.view.at(0.3, 0.3), case.view.at(0.6, 0.6)
        for tool in ("positive", "box", "lock"):
            for start in (case.view.startWindowing, lambda: case.view.startPlacing(self.markup())):
                start()
                self.assertTrue(case.controller.chooseTool(tool))
                self.assertEqual(interaction.GetCurrentInteractionMode(), interaction.ViewTransform)
                start()
                self.assertIsNone(case.controller.tool, tool)
                self.assertNotEqual(interaction.GetCurrentInteractionMode(), interaction.ViewTransform)
        case.view.startWindowing()
        before = display.GetWindow(), display.GetLevel()
        case.view.drag(low, high)
        self.assertNotEqual((display.GetWindow(), display.GetLevel()), before, "the drag is Slicer's")
        markup = self.markup()
        case.view.startPlacing(markup)
        case.view.click(case.xy(MIDDLE))
        self.assertEqual(markup.GetNumberOfDefinedControlPoints(), 1)
        self.assertTrue(case.workspace.prompts.is_empty)
        # With a tool, the click is a prompt and nothing is left pending.
        case.view.startPlacing(markup)
        case.controller.chooseTool("positive")
        case.clickAt((26, 20, 9))
        self.assertEqual(len(case.workspace.prompts.segment("A").clicks), 1)
        self.assertEqual(markup.GetNumberOfControlPoints(), 1)

    def test_slicersModesAreLeftAloneOnceTheModuleIsLeft(self) -> None:
        case = self.case()
        case.controller.chooseTool("positive")
        case.input.stop()
        case.view.startWindowing()
        self.assertEqual(case.controller.tool, "positive")
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        self.assertEqual(interaction.GetCurrentInteractionMode(), interaction.AdjustWindowLevel)
        case.view.stopPlacing()

    def markup(self) -> Any:
        """Makes a point list of the user's own."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "theirs")
        node.CreateDefaultDisplayNodes()
        return node

    def test_escapePutsTheToolAwayWithWhatIsHalfDrawn(self) -> None:
        case = self.case()
        for tool in ("positive", "range"):
            case.controller.chooseTool(tool)
            case.key("Escape")
            self.assertIsNone(case.controller.tool)
        case.controller.chooseTool("box")
        low, high = case.view.at(0.4, 0.4), case.view.at(0.6, 0.6)
        case.view.move(low)
        case.view.event("LeftButtonPressEvent", low)
        case.view.move(high)
        self.assertEqual(len(list(promptNodes(case.segmentationNode, "A", "box"))), 1)
        case.now += 1
        case.view.tap("Escape", high)
        case.view.event("LeftButtonReleaseEvent", high)
        self.assertIsNone(case.controller.tool)
        self.assertEqual(list(promptNodes(case.segmentationNode, "A", "box")), [])
        self.assertTrue(case.workspace.prompts.is_empty)

    @each(role=("positive", "box"))
    def test_thePromptUnderTheMouseIsDeletedWhoeverHasTheKeyboard(self, role: str) -> None:
        case = self.case()
        if role == "box":
            case.controller.chooseTool("box")
            case.view.drag(case.xy((14, 12, 9)), case.xy((26, 24, 9)))
            case.settle()
        else:
            case.clickOn(MIDDLE, "positive")
        case.controller.chooseTool(None)
        case.view.screenshot()
        aside = case.xy((4, 4, 9))

        def rest(xy: Any) -> None:
            # A mouse comes to rest in more than one step.
            case.view.move((xy[0] + 1, xy[1]))
            case.view.move(xy)

        rest(aside)
        self.assertFalse(case.hovered and case.hovered[-1])
        case.input.deletePrompt()
        self.assertFalse(case.workspace.prompts.is_empty, "nothing is under the mouse")
        place = case.xy(MIDDLE)
        rest(place)
        self.assertTrue(case.hovered[-1])
        rest(aside)
        self.assertFalse(case.hovered[-1])
        rest(place)
        case.input.deletePrompt()
        self.assertTrue(case.workspace.prompts.is_empty)
        self.assertFalse(case.hovered[-1])
        case.view.event("LeaveEvent", place)
        case.input.deletePrompt()

    @each(releases=(False, True))
    def test_aKeyThatIsHeldSaysItOnce(self, releases: bool) -> None:
        """Sends a release before every repeat, or none: systems differ."""
        case = self.case()
        seen: list[str] = []
        interactor = case.view.interactor
        tag = interactor.AddObserver("KeyPressEvent", lambda caller, _: seen.append(caller.GetKeySym()), 0.1)
        self.addCleanup(interactor.RemoveObserver, tag)
        xy = case.xy(MIDDLE)

        def hold(key: str) -> None:
            case.now += 1
            case.view.move(xy)
            for repeat in range(6):
                case.view.event("KeyPressEvent", xy, key=key, code=key)
                case.now += 0.5 if repeat == 0 else 0.03
                if releases:
                    case.view.event("KeyReleaseEvent", xy, key=key, code=key)
                    case.now += 0.001
            case.view.event("KeyReleaseEvent", xy, key=key, code=key)
            case.settle()

        hold("p")
        hold("p")
        hold("n")
        self.assertEqual(case.pressed, ["P", "P", "N"])
        hold("e")
        self.assertTrue(case.controller.strip().frames[MIDDLE[2]].isAbsent, "not toggled back")
        hold("e")
        self.assertFalse(case.controller.strip().frames[MIDDLE[2]].isAbsent)
        hold("a")
        self.assertEqual(case.controller.tool, "positive")
        self.assertEqual(seen, [], "the repeats are nobody else's either")
        hold("v")
        self.assertEqual(seen, ["v"] * 6, "other keys are left alone, however long they are held")

    def test_aReleaseThatWasMissedDoesNotBlockTheKey(self) -> None:
        case = self.case()
        xy = case.xy(MIDDLE)

        def press(key: str) -> None:
            case.view.event("KeyPressEvent", xy, key=key, code=key)

        press("p")
        press("p")
        self.assertEqual(case.pressed, ["P"])
        # The user went to another program with the key down, and came back.
        case.view.event("LeaveEvent", xy)
        case.view.event("EnterEvent", xy)
        press("p")
        self.assertEqual(case.pressed, ["P", "P"])
        press("v")
        press("p")
        self.assertEqual(case.pressed, ["P"] * 3)
        # The layout has changed.
        case.input.stop()
        case.input.start()
        press("p")
        self.assertEqual(case.pressed, ["P"] * 4)

    def test_whatAnEffectTakesIsItsOwnAndTheOtherKeysStillWork(self) -> None:
        case = self.case()
        editor = editorNode()
        self.addCleanup(editor.SetActiveEffectName, None)
        interactor = case.view.interactor
        taken: list[str] = []

        def draw(caller: Any, _event: str) -> None:
            # As the Segment Editor does for Draw, at its priority.
            if editor.GetActiveEffectName() == "Draw" and caller.GetKeySym() in ("a", "Return", "x", "n"):
                taken.append(caller.GetKeySym())
                interactor.GetCommand(tag).AbortFlagOn()

        tag = interactor.AddObserver("KeyPressEvent", draw, 1.0)
        self.addCleanup(interactor.RemoveObserver, tag)
        editor.SetActiveEffectName("Draw")
        for key in ("a", "x", "n", "d", "o"):
            case.key(key)
        self.assertEqual(taken, ["a", "x", "n"], "the effect's keys come to the effect alone")
        self.assertIsNone(case.controller.tool, "no key takes the mouse from the effect")
        self.assertEqual(case.pressed, [])
        case.key("p")
        case.key("e")
        self.assertEqual(case.pressed, ["P"])
        self.assertTrue(case.controller.strip().frames[MIDDLE[2]].isAbsent)
        editor.SetActiveEffectName("Paint")  # does not want these keys, but has the mouse
        case.key("a")
        self.assertIsNone(case.controller.tool)
        editor.SetActiveEffectName(None)
        case.key("a")
        self.assertEqual(case.controller.tool, "positive")

    @each(key=("e", "l", "k"))
    def test_aKeyIsAboutTheSliceUnderTheMouseWhicheverViewHasTheKeyboard(self, key: str) -> None:
        case = self.case()
        other = self.desk.openView("Green", "Axial", (260, 240))
        other.show(case.volumeNode)
        other.jumpTo(case.geometry.ras_of_ijk((20, 18, 4)))
        case.input.stop()
        case.input.addSliceView(other.interactor, other.node)
        case.input.start()

        def marked() -> list[tuple[int, ...]]:
            role = {"e": "absent", "l": "lock", "k": "range"}[key]
            return [ijk[2:] for ijk in case.voxelsOf(role)]

        # The keyboard stays where the user clicked last: in the first view.
        case.view.move(case.xy(MIDDLE))
        keyboard = case.xy(MIDDLE)
        for frame in (4, 6) if key == "k" else (4,):
            other.jumpTo(case.geometry.ras_of_ijk((20, 18, frame)))
            case.view.event("LeaveEvent", keyboard)
            place = other.rasToXy(case.geometry.ras_of_ijk((20, 18, frame)))
            other.event("EnterEvent", place)
            other.move(place)
            case.view.tap(key, keyboard)
        self.assertEqual(marked(), [(4,), (6,)] if key == "k" else [(4,)])
        # In no slice view at all, it is about none.
        before = case.workspace.prompts
        other.event("LeaveEvent", place)
        case.now += 1
        case.view.tap(key, keyboard)
        self.assertEqual(case.codes[-1], "no_slice")
        self.assertEqual(case.workspace.prompts, before)

    def test_theViewThatWasEnteredBeforeTheOtherWasLeftHasTheMouse(self) -> None:
        case = self.case()
        other = self.desk.openView("Green", "Axial", (260, 240))
        other.show(case.volumeNode)
        other.jumpTo(case.geometry.ras_of_ijk((20, 18, 4)))
        case.input.stop()
        case.input.addSliceView(other.interactor, other.node)
        case.input.start()
        case.view.move(case.xy(MIDDLE))
        place = other.rasToXy(case.geometry.ras_of_ijk((20, 18, 4)))
        other.event("EnterEvent", place)
        case.view.event("LeaveEvent", case.xy(MIDDLE))
        case.view.tap("l", case.xy(MIDDLE))
        self.assertEqual([ijk[2] for ijk in case.voxelsOf("lock")], [4])

    def doubleClick(self, case: ToolCase, first: Any, second: Any) -> None:
        """Clicks twice fast, as Qt reports it: without a press event for the second click."""
        case.view.click(first)
        case.view.event("LeftButtonDoubleClickEvent", second)
        case.view.event("LeftButtonReleaseEvent", second)
        case.settle()

    def doubleClicksSeen(self, case: ToolCase) -> list[str]:
        seen: list[str] = []
        interactor = case.view.interactor
        tag = interactor.AddObserver("LeftButtonDoubleClickEvent", lambda *_: seen.append("double"), 0.5)
        self.addCleanup(interactor.RemoveObserver, tag)
        return seen

    def test_twoFastClicksAreTwoAndOneAtItsOwnPlaceIsOne(self) -> None:
        case = self.case()
        seen = self.doubleClicksSeen(case)
        case.controller.chooseTool("positive")
        self.doubleClick(case, case.xy(MIDDLE), case.xy((26, 18, 9)))
        self.assertEqual(case.voxelsOf("positive"), [MIDDLE, (26, 18, 9)])
        self.doubleClick(case, case.xy((12, 12, 9)), case.xy((12, 12, 9)))
        self.assertEqual(case.voxelsOf("positive"), [MIDDLE, (26, 18, 9), (12, 12, 9)])
        case.controller.chooseTool("lock")
        self.doubleClick(case, case.xy((30, 30, 9)), case.xy((30, 30, 9)))
        self.assertEqual([ijk[2] for ijk in case.voxelsOf("lock")], [9], "not locked and unlocked")
        self.assertEqual(seen, [], "Slicer would maximize the view")
        # Without a tool, and with a modifier, a double click is Slicer's.
        self.doubleClick(case, case.xy(MIDDLE), case.xy(MIDDLE))
        self.assertEqual(seen, ["double"])
        case.controller.chooseTool("positive")
        case.view.event("LeftButtonDoubleClickEvent", case.xy((8, 8, 9)), ctrl=True)
        self.assertEqual(seen, ["double", "double"])

    def test_aBoxThatFollowsFastOnAClickIsABox(self) -> None:
        case = self.case()
        seen = self.doubleClicksSeen(case)
        case.controller.chooseTool("box")
        low, high = case.view.around(case.xy(MIDDLE), 5, 4)
        case.view.click(low)
        case.view.event("LeftButtonDoubleClickEvent", low)
        case.view.move(case.view.around(case.xy(MIDDLE), 2, 2)[1])
        case.view.move(high)
        case.view.event("LeftButtonReleaseEvent", high)
        case.settle()
        self.assertEqual(len(case.workspace.prompts.segment("A").boxes), 1)
        self.assertEqual(seen, [])

    def test_aDragWithAModifierIsSlicersWithTheBoxToolToo(self) -> None:
        case = self.case()
        case.controller.chooseTool("box")
        before = case.xy(MIDDLE)
        case.view.drag(*case.view.around(before, 5, 4), shift=True)
        self.assertTrue(case.workspace.prompts.is_empty)
        self.assertEqual(list(promptNodes(case.segmentationNode, "A", "box")), [])
        self.assertEqual(case.codes, [])
        self.assertGreater(
            np.abs(np.subtract(case.xy(MIDDLE), before)).max(), case.view.pixels(4), "the view was panned"
        )

    def test_aBoxIsResizedAndAClickDraggedWithTheBoxToolOn(self) -> None:
        case = self.case()
        case.controller.chooseTool("positive")
        case.clickAt((6, 6, 9))
        case.controller.chooseTool("box")
        low, high = case.view.around(case.xy(MIDDLE), 5, 4)
        case.view.drag(low, high)
        case.settle()
        (box,) = case.workspace.prompts.segment("A").boxes
        wide = case.shown(9).sum()
        case.view.screenshot()
        case.view.drag(high, case.view.around(case.xy(MIDDLE), 9, 7)[1])
        case.settle()
        (same,) = case.workspace.prompts.segment("A").boxes
        self.assertEqual(same.id, box.id)
        self.assertNotEqual(same, box)
        self.assertGreater(case.shown(9).sum(), wide * 1.3)
        case.view.screenshot()
        case.view.drag(case.xy((6, 6, 9)), case.xy((6, 12, 9)))
        case.settle()
        self.assertEqual(case.voxelsOf("positive"), [(6, 12, 9)])
        self.assertEqual(len(case.workspace.prompts.segment("A").boxes), 1)

    def test_withoutAToolAndWithAModifierClicksAreSlicers(self) -> None:
        case = self.case()
        case.clickAt(MIDDLE)
        case.controller.chooseTool("positive")
        case.view.click(case.xy(MIDDLE), shift=True)
        case.view.drag(case.xy(MIDDLE), case.xy((26, 20, 9)))
        self.assertTrue(case.workspace.prompts.is_empty)

    def test_aPromptIsDraggedWithTheToolStillOn(self) -> None:
        case = self.case()
        case.controller.chooseTool("positive")
        case.clickAt((12, 12, 9))
        case.view.screenshot()
        case.view.drag(case.xy((12, 12, 9)), case.xy((24, 20, 9)))
        case.settle()
        (click,) = case.workspace.prompts.segment("A").clicks
        self.assertEqual(case.voxel(click.ras), (24, 20, 9))
        self.assertEqual(case.shown(9).sum(), disc(20, 18, (36, 40)).sum())

    @each(view=TOOL_VIEWS)
    def test_aPromptIsDeletedWithTheKeyAndBroughtBack(self, view: str) -> None:
        case = self.case(view)
        case.clickOn(MIDDLE, "positive")
        frame = MIDDLE[case.workspace.axis]
        shown = case.shown(frame)
        self.assertTrue(shown.any())
        case.view.screenshot()
        case.key("Delete")
        self.assertEqual(case.workspace.prompts.segment("A").clicks, ())
        self.assertEqual(case.voxelsOf("positive"), [])
        self.assertFalse(case.shown(frame).any())
        self.assertTrue(case.controller.undo())
        case.settle()
        self.assertEqual(case.voxelsOf("positive"), [MIDDLE])
        np.testing.assert_array_equal(case.shown(frame), shown)

    @each(view=TOOL_VIEWS)
    def test_aBoxIsDeletedWithTheKeyAndBroughtBack(self, view: str) -> None:
        case = self.case(view)
        case.controller.chooseTool("box")
        case.view.drag(*case.view.around(case.xy(MIDDLE), 5, 4))
        case.settle()
        frame = MIDDLE[case.workspace.axis]
        shown = case.shown(frame)
        (box,) = case.workspace.prompts.segment("A").boxes
        case.controller.chooseTool(None)
        case.view.screenshot()
        case.key("Delete")  # on the box's middle
        self.assertEqual(case.workspace.prompts.segment("A").boxes, ())
        self.assertFalse(case.shown(frame).any())
        self.assertTrue(case.controller.undo())
        case.settle()
        (back,) = case.workspace.prompts.segment("A").boxes
        self.assertEqual(back.id, box.id)
        np.testing.assert_array_equal(case.shown(frame), shown)
        (_,) = promptNodes(case.segmentationNode, "A", "box")

    def test_allClicksOfASignAreDeletedAtOnce(self) -> None:
        case = self.case()
        case.clickOn(MIDDLE, "positive")
        case.clickOn((10, 10, 9), "positive")
        case.view.screenshot()
        case.key("Delete", shift=True)
        self.assertTrue(case.workspace.prompts.is_empty)
        case.clickOn((10, 10, 9), "positive")
        self.assertEqual(case.voxelsOf("positive"), [(10, 10, 9)])

    def test_aClickBesideTheImageIsRefused(self) -> None:
        case = self.case()
        case.controller.chooseTool("positive")
        case.view.click((3, 3))
        self.assertEqual(case.codes, ["outside_volume"])
        self.assertTrue(case.workspace.prompts.is_empty)

    def test_aClickInThe3DViewIsRefusedAndTurningItIsNot(self) -> None:
        case = self.case()
        other = self.desk.openView("Green", "Coronal", (200, 200))  # any interactor does
        case.input.stop()
        case.input.add3DView(other.interactor)
        case.input.start()
        other.click((50, 50))
        self.assertEqual(case.codes, [])
        case.controller.chooseTool("positive")
        other.drag((50, 50), (90, 60))
        self.assertEqual(case.codes, [])
        other.click((50, 50))
        self.assertEqual(case.codes, ["3d_view"])
        self.assertTrue(case.workspace.prompts.is_empty)

    def test_stoppingLeavesNoObserver(self) -> None:
        case = self.case()
        interactor = case.view.interactor
        case.controller.chooseTool("box")
        case.input.stop()
        case.view.drag(*case.view.around(case.xy(MIDDLE), 5, 4))
        case.view.click(case.xy(MIDDLE))
        case.key("a")
        self.assertTrue(case.workspace.prompts.is_empty)
        self.assertEqual(case.controller.tool, "box")
        self.assertTrue(not interactor.HasObserver("KeyPressEvent") or not case.input.isOn)

    def test_theNextDoubtfulSliceComesIntoView(self) -> None:
        case = self.case()
        case.controller.chooseTool("positive")
        case.clickAt(MIDDLE)
        case.run()
        self.assertTrue(case.controller.strip().doubtful)
        shown = []
        for _ in range(3):
            frame = case.controller.nextDoubtful()
            self.assertEqual(frameInView(slicer.mrmlScene, case.geometry, 2), frame)
            shown.append(frame)
        self.assertTrue(shown == [14, 4, 9] or len(set(shown)) == 3)

    @each(view=TOOL_VIEWS)
    def test_thePreviewIsDrawnAndPromptsHideOffTheirSlice(self, view: str) -> None:
        case = self.case(view)
        self.assertEqual(case.green(), 0)
        case.clickOn(MIDDLE, "positive")
        self.assertGreater(case.green(), 0.3 * np.pi * case.view.pixels(RADIUS) ** 2)
        if view == "oblique":
            # A step is smaller than a frame there, and the plane cuts several frames.
            case.jumpTo(case.onFrame(MIDDLE, MIDDLE[2] + 4))
        else:
            case.view.wheel(case.xy(MIDDLE), 2)
        self.assertEqual(case.green(), 0)

    @each(view=TOOL_VIEWS)
    def test_aNeighborIsUntouchedUnderMasking(self, view: str) -> None:
        case = self.case(view)
        settings = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        settings.UnRegister(None)
        settings.SetSingletonTag("SegmentEditor")
        settings = slicer.mrmlScene.AddNode(settings)
        settings.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
        self.addCleanup(settings.SetMaskMode, slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)
        for frame in range(18):
            case.paint(frame, disc(20, 18, (36, 40), 2.5), "B")
        reader = SegmentReader(case.segmentationNode, "B", case.geometry)
        neighbor = reader.array()
        # Beside the neighbor, so that the masks overlap but the click is not on it.
        aside = (20, 22, 9) if view == "Sagittal" else (24, 18, 9)
        case.clickOn(aside, "positive")
        case.run()
        np.testing.assert_array_equal(reader.array(), neighbor)
        own = SegmentReader(case.segmentationNode, "A", case.geometry).array()
        self.assertTrue(own.any())
        self.assertFalse((own & neighbor).any())
        self.assertEqual(case.codes, ["protected"])
        self.assertIn("masking", case.texts[0])
        case.jumpTo(MIDDLE)
        color = case.view.pixel(case.view.screenshot(), case.xy(MIDDLE)).astype(int)
        self.assertTrue(isRed(color), color)

    @each(view=TOOL_VIEWS)
    def test_aSceneIsSavedClearedLoadedAndPromptedAgain(self, view: str) -> None:
        case = self.case(view)
        case.clickOn(MIDDLE, "positive")
        axis = case.workspace.axis
        case.run()
        masks = SegmentReader(case.segmentationNode, "A", case.geometry).array()
        self.assertTrue(masks.any())
        case.close()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scene.mrb"
            case.view.setOrientation("Axial")
            saveScene(file)
            slicer.mrmlScene.Clear()
            self.assertEqual(nodesOfClass("vtkMRMLMarkupsFiducialNode"), [])
            self.assertEqual(case.green(), 0, "the view still shows the scene that was closed")
            loadScene(file)
        (case.volumeNode,) = nodesOfClass("vtkMRMLScalarVolumeNode")
        (case.segmentationNode,) = nodesOfClass("vtkMRMLSegmentationNode")
        case.start()
        case.view.show(case.volumeNode)
        case.view.setOrientation(view)
        case.view.show(case.volumeNode)
        case.jumpTo(MIDDLE)
        case.input = ViewInput(case.controller)
        case.input.addSliceView(case.view.interactor, case.view.node)
        case.input.start()
        self.assertEqual((case.workspace.axis, case.voxelsOf("positive")), (axis, [MIDDLE]))
        np.testing.assert_array_equal(SegmentReader(case.segmentationNode, "A", case.geometry).array(), masks)
        # The click from before is dragged, and a second one is placed on another slice.
        moved = case.beside(MIDDLE, 4)
        case.controller.chooseTool("positive")
        case.view.screenshot()
        case.view.drag(case.xy(MIDDLE), case.xy(moved))
        case.settle()
        self.assertEqual(case.voxelsOf("positive"), [moved])
        other = case.onFrame(MIDDLE, MIDDLE[axis] + 3)
        case.clickOn(other, "positive")
        self.assertEqual(set(case.voxelsOf("positive")), {moved, other})
        self.assertEqual(case.workspace.previewFrames("A"), {MIDDLE[axis], MIDDLE[axis] + 3})
        self.assertEqual([code for code in case.codes if code], [])


class MaskCase:
    """A gray volume in a view along its slices, with two segments."""

    def __init__(self, desk: Desk, geometry: str = "oblique") -> None:
        i, j, k = SHAPE_IJK
        stripes = (np.arange(k) % 2)[:, None, None].astype(np.int16)
        self.volumeNode = addCase(geometry, np.full((k, j, i), 50, np.int16) + stripes)
        display = self.volumeNode.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(100, 50)
        self.geometry = volumeGeometry(self.volumeNode)
        self.segmentationNode = addSegmentation(self.volumeNode, {"A": RED, "B": (0, 0, 1)})
        self.view = desk.openView(size=(400, 360))
        self.view.show(self.volumeNode)
        self.view.alignToAxes(self.geometry.ijk_to_ras, 2)
        self.jumpTo(7)
        self.mask = np.zeros((j, i), bool)
        self.mask[8:20, 10:30] = True

    def jumpTo(self, frame: int) -> None:
        self.view.jumpTo(self.geometry.ras_of_ijk((20, 18, frame)))

    def color(self, i: float, j: float, frame: int = 7) -> np.ndarray:
        place = self.view.rasToXy(self.geometry.ras_of_ijk((i, j, frame)))
        return self.view.pixel(self.view.screenshot(), place).astype(int)


def isRed(color: np.ndarray) -> bool:
    return bool(color[0] > color[1] + 40 and color[0] > color[2] + 40)


def isGray(color: np.ndarray) -> bool:
    return bool(np.ptp(color) <= 2)


class SAM2PropagateMaskViewTest(DeskTest):
    """What the user sees of a run: the preview while it goes on, the segment after it."""

    def layer(self, case: MaskCase) -> PreviewLayer:
        layer = PreviewLayer(case.segmentationNode, case.volumeNode, 2)
        self.addCleanup(layer.close)
        return layer

    def test_thePreviewIsDrawnWhereTheMaskIsAndGoneAfterClearing(self) -> None:
        case = MaskCase(self.desk)
        self.assertTrue(isGray(case.color(20, 14)))
        layer = self.layer(case)
        layer.write("A", 7, case.mask)
        self.assertTrue(isRed(case.color(12, 10)) and isRed(case.color(28, 18)))
        self.assertTrue(isGray(case.color(7, 14)) and isGray(case.color(20, 23)))
        case.jumpTo(8)
        self.assertTrue(isGray(case.color(20, 14, 8)))
        layer.write("A", 8, case.mask)  # while it is being looked at
        self.assertTrue(isRed(case.color(20, 14, 8)))
        layer.setVisible(False)
        self.assertTrue(isGray(case.color(20, 14, 8)))
        layer.setVisible(True)
        layer.erase("A", 8)
        self.assertTrue(isGray(case.color(20, 14, 8)))
        case.jumpTo(7)
        layer.clear()
        self.assertTrue(isGray(case.color(20, 14)))
        layer.write("A", 7, case.mask)
        self.assertTrue(isRed(case.color(20, 14)))
        layer.close()
        self.assertTrue(isGray(case.color(20, 14)))

    def test_eachWrittenFrameAsksTheViewToRedraw(self) -> None:
        case = MaskCase(self.desk)
        layer = self.layer(case)
        layer.write("A", 3, case.mask)
        case.view.screenshot()

        def writing(frame: int, refresh: bool) -> Callable[[], None]:
            return lambda: layer.write("A", frame, case.mask, refresh=refresh)

        self.assertGreaterEqual(case.view.redrawRequests(writing(7, True)), 1)
        case.jumpTo(6)
        self.assertTrue(isGray(case.color(20, 14, 6)))
        self.assertEqual(case.view.redrawRequests(writing(6, False)), 0)
        self.assertTrue(isRed(case.color(20, 14, 6)), "whoever draws it for another reason")
        self.assertTrue(case.view.redrawRequests(layer.refresh))

    def test_previewAndSegmentAreToldApartAndTheCommitShows(self) -> None:
        case = MaskCase(self.desk)
        layer = self.layer(case)
        layer.write("A", 7, case.mask)
        previewed = case.color(20, 14)
        SegmentCommitter(case.segmentationNode, case.volumeNode).commit(layer.allMasks(), 2)
        layer.close()
        committed = case.color(20, 14)
        self.assertTrue(isRed(committed))
        self.assertGreater(np.abs(committed - previewed).max(), 20)
        case.jumpTo(8)
        self.assertTrue(isGray(case.color(20, 14, 8)))

    def test_overlappingPreviewsAreBothDrawn(self) -> None:
        case = MaskCase(self.desk)
        layer = self.layer(case)
        layer.write("A", 7, case.mask)
        alone = case.color(20, 14)
        layer.write("B", 7, np.roll(case.mask, 4, axis=0))
        both, onlyB = case.color(20, 14), case.color(20, 22)
        self.assertGreater(onlyB[2], onlyB[0] + 40)
        self.assertGreater(both[2], alone[2] + 20)

    def test_streamingOverAnOpenViewKeepsEveryFrame(self) -> None:
        case = MaskCase(self.desk)
        layer = self.layer(case)
        for shift in range(5):
            for frame in range(18):
                layer.write("A", frame, np.roll(case.mask, shift, axis=0))
        masks = layer.masks("A")
        self.assertEqual(sorted(masks), list(range(18)))
        expected = np.roll(case.mask, 4, axis=0)
        self.assertTrue(all(np.array_equal(mask, expected) for mask in masks.values()))

    def test_theMaskIsUprightInTheView(self) -> None:
        case = MaskCase(self.desk, "plain")
        layer = self.layer(case)
        corner = np.zeros_like(case.mask)
        corner[:6, :6] = True  # toward +R and +A of this volume: left and top as radiologists look
        layer.write("A", 7, corner)
        image = case.view.screenshot()
        width, height = case.view.at(1, 1)
        self.assertEqual((image.shape, image.dtype), ((height, width, 3), np.uint8))
        rows, columns = np.nonzero(image[..., 0].astype(int) > image[..., 1] + 40)
        self.assertLess(rows.mean(), height / 2)
        self.assertLess(columns.mean(), width / 2)


if __name__ == "__main__":
    unittest.main()
