"""Scribbles, lassos, curves: drawn, moved and deleted with the mouse in every kind of slice view, and kept.

Run inside Slicer by CTest (`slicer_add_python_unittest`), and without Slicer by `python3 run.py test`, in
offscreen slice views.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from SAM2PropagateLib.gui.view_input import ViewInput
from SAM2PropagateLib.prompts.strokes import frames_of, is_across, outline_pixels
from SAM2PropagateLib.scene.prompt_nodes import promptNodes, strokePoints
from SAM2PropagateTesting.desks import DeskTest
from SAM2PropagateTesting.each import each, expanded
from SAM2PropagateTesting.scenes import nodesOfClass
from SAM2PropagateViewTest import (
    AXES,
    MIDDLE,
    TOOL_VIEWS,
    ToolCase,
    editorNode,
    loadScene,
    saveScene,
)

Xy = tuple[float, float]
STROKES = ("scribble", "lasso")


class StrokeCase(ToolCase):
    """A case in which the user draws around and along the middle voxel."""

    def ring(self, across: float = 6.0, up: float = 5.0, about: Xy | None = None) -> list[Xy]:
        """Places around a place, by default the middle voxel, so many millimeters from it; not closed."""
        x, y = about or self.xy(MIDDLE)
        a, b = self.view.pixels(across), self.view.pixels(up)
        return [(x + a * np.cos(turn), y + b * np.sin(turn)) for turn in np.linspace(0, 5.6, 40)]

    def line(self, length: float = 12.0, about: Xy | None = None) -> list[Xy]:
        """Places along a level line of so many millimeters, in the middle of which a place is."""
        x, y = about or self.xy(MIDDLE)
        half = self.view.pixels(length / 2)
        return [(x + half * part, y) for part in np.linspace(-1, 1, 30)]

    def begin(self, places: Sequence[Xy]) -> None:
        """Presses at the first place and goes through the others."""
        self.view.move(places[0])
        self.view.event("LeftButtonPressEvent", places[0])
        for place in places[1:]:
            self.view.move(place)

    def draw(self, places: Sequence[Xy], tool: str | None = None) -> None:
        """Draws a stroke with a tool, by default the one that is on."""
        if tool is not None and self.controller.tool != tool:
            assert self.controller.chooseTool(tool), self.texts
        self.begin(places)
        self.view.event("LeftButtonReleaseEvent", places[-1])
        self.settle()

    def drawn(self, tool: str) -> Any:
        """Draws a scribble along or a lasso around the middle voxel, puts the tool down, and returns the
        messages."""
        self.draw(self.ring() if tool == "lasso" else self.line(), tool)
        (stroke,) = self.strokes()
        self.controller.chooseTool(None)
        self.view.screenshot()
        return stroke

    def strokes(self, segmentID: str = "A") -> tuple[Any, ...]:
        said = self.workspace.prompts.segment(segmentID)
        return (*said.scribbles, *said.lassos, *said.curves)

    def bent(self) -> Any:
        """Draws a curve through the middle voxel, from three slices below it to three above; returns the
        messages."""
        i, j, k = MIDDLE
        places = [(i - 5, j - 4, k - 3), (i, j, k), (i + 5, j - 4, k + 3)]
        assert self.controller.addCurve(self.geometry.ras_of_ijk(places)), self.texts
        self.settle()
        self.view.screenshot()
        (curve,) = self.strokes()
        return curve

    def onLine(self, stroke: Any, part: float = 0.5) -> Xy:
        """Returns a place on a stroke in the view, `part` of the way between its first two points."""
        start, end = map(np.asarray, stroke.points[:2])
        inner = start + part * (end - start)
        matrix = self.workspace.worldGeometry.ijk_to_ras
        return self.view.rasToXy((matrix @ [*self.workspace.geometry.ijk_of_ras(inner), 1.0])[:3])

    def overLine(self, curve: Any) -> Xy:
        """Moves the mouse to where Slicer takes a curve by its line: near the slice, away from its points."""
        (node,) = nodesOfClass("vtkMRMLMarkupsCurveNode")
        display = node.GetDisplayNode()
        for part in np.linspace(0.4, 0.9, 26):
            place = self.onLine(curve, part)
            self.view.move(place)
            if display.GetActiveComponentType() == display.ComponentLine:
                return place
        raise AssertionError("Slicer takes the curve nowhere by its line")

    def lines(self) -> int:
        """Returns how many things are drawn on the view; a line that is being drawn adds one or two."""
        return int(self.view.interactor.GetRenderWindow().GetRenderers().GetFirstRenderer().GetViewProps()
                   .GetNumberOfItems())  # fmt: skip

    def looks(self) -> tuple[float, ...]:
        """Returns what Slicer's own drags would change."""
        display = self.volumeNode.GetDisplayNode()
        toRas = self.view.node.GetXYToRAS()
        return (display.GetWindow(), display.GetLevel(), *(toRas.GetElement(n, 3) for n in range(3)))


@expanded
class SAM2PropagateStrokeViewTest(DeskTest):
    """What the mouse does with strokes, and what it leaves alone."""

    def case(self, view: str = "Axial", geometry: str = "plain") -> StrokeCase:
        case = StrokeCase(self.desk, view, geometry)
        self.addCleanup(case.close)
        return case

    @each(view=TOOL_VIEWS)
    def test_aLassoIsDrawnAndClosesByItself(self, view: str) -> None:
        case = self.case(view)
        looks = case.looks()
        case.draw(case.ring(), "lasso")
        (lasso,) = case.workspace.prompts.segment("A").lassos
        axis = case.workspace.axis
        self.assertEqual(axis, AXES[view])
        frame = MIDDLE[axis]
        frames = frames_of(lasso, case.workspace.geometry, axis)
        self.assertEqual(case.workspace.previewFrames("A"), set(frames))
        if view == "oblique":
            # Tilted so much, it lies on no slice: it speaks where it crosses some.
            self.assertTrue(is_across(lasso, case.workspace.geometry, axis))
            self.assertIn(frame, frames)
        else:
            onFrame, inside = outline_pixels(lasso, case.workspace.geometry, axis)
            self.assertEqual((onFrame, frames), (frame, (frame,)))
            x, y = (MIDDLE[n] for n in range(3) if n != axis)
            self.assertTrue(inside[y, x])
            np.testing.assert_array_equal(case.shown(frame), inside)
        (node,) = promptNodes(case.segmentationNode, "A", "lasso")
        self.assertEqual(node.GetClassName(), "vtkMRMLMarkupsClosedCurveNode")
        self.assertEqual(case.controller.tool, "lasso", "the next drag is the next lasso")
        self.assertEqual(case.looks(), looks)
        self.assertTrue(case.controller.undo())
        self.assertTrue(case.workspace.prompts.is_empty)
        self.assertEqual(nodesOfClass("vtkMRMLMarkupsCurveNode"), [])
        self.assertTrue(case.controller.redo())
        self.assertEqual(case.strokes(), (lasso,))
        self.assertEqual(case.messages, [])

    @each(view=TOOL_VIEWS)
    def test_aScribbleSaysWhatBelongsAndPressedAgainWhatDoesNot(self, view: str) -> None:
        case = self.case(view)
        x, y = case.xy(MIDDLE)
        looks = case.looks()
        case.key("S")
        self.assertEqual(case.controller.tool, "scribble")
        case.draw(case.line())
        case.key("S")
        self.assertEqual(case.controller.tool, "negativeScribble")
        case.draw(case.line(about=(x, y + case.view.pixels(9))))
        first, second = case.workspace.prompts.segment("A").scribbles
        if not first.positive:
            first, second = second, first
        self.assertTrue(first.positive and not second.positive)
        geometry, axis = case.workspace.geometry, case.workspace.axis
        self.assertEqual(axis, AXES[view])
        self.assertEqual(frames_of(first, geometry, axis), (MIDDLE[axis],))
        mask = case.shown(MIDDLE[axis])
        for one in (first, second):
            column, row = np.rint(geometry.pixel_of(one.points[0], axis)).astype(int)
            self.assertEqual(mask[row, column], one.positive)
        self.assertEqual(case.looks(), looks)
        (node,) = promptNodes(case.segmentationNode, "A", "negative scribble")
        self.assertGreater(node.GetDisplayNode().GetSelectedColor()[0], 0.7, "red")
        case.controller.undo()
        self.assertEqual([one.positive for one in case.strokes()], [True])
        case.key("S")
        self.assertIsNone(case.controller.tool)
        case.key("Q")
        self.assertEqual(case.controller.tool, "lasso")

    @each(geometry=("oblique mirrored", "permuted", "under transforms", "oblique under a scaling transform"))
    def test_aLassoHoldsTheVoxelsThatItWasDrawnAround(self, geometry: str) -> None:
        case = self.case(geometry=geometry)
        for axis in range(3):
            case.view.alignToAxes(case.geometry.ijk_to_ras, axis)
            case.jumpTo(MIDDLE)
            corners = [list(MIDDLE) for _ in range(4)]
            x, y = (n for n in range(3) if n != axis)
            for corner, (i, j) in zip(
                corners, ((-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)), strict=True
            ):
                corner[x] += i
                corner[y] += j
            places = [case.xy(corner) for corner in corners]
            self.assertTrue(case.controller.chooseTool("lasso"))
            case.draw([place for n in range(4) for place in _between(places[n], places[(n + 1) % 4])])
            (lasso,) = case.strokes()
            frame, inside = outline_pixels(lasso, case.workspace.geometry, axis)
            self.assertEqual((case.workspace.axis, frame), (axis, MIDDLE[axis]))
            rows, columns = np.nonzero(inside)
            low, high = [MIDDLE[x] - 3, MIDDLE[y] - 3], [MIDDLE[x] + 3, MIDDLE[y] + 3]
            np.testing.assert_allclose([columns.min(), rows.min()], low, atol=1)
            np.testing.assert_allclose([columns.max(), rows.max()], high, atol=1)
            case.controller.clearPrompts()
            case.controller.discard()
            case.controller.chooseTool(None)
            case.workspace.setAxis(None)

    @each(tool=STROKES, scale=(0.15, 1.0, 6.0))
    def test_aStrokeIsAsFineAsItWasDrawnHoweverLargeTheView(self, tool: str, scale: float) -> None:
        case = self.case()
        field = case.view.node.GetFieldOfView()
        case.view.node.SetFieldOfView(field[0] * scale, field[1] * scale, field[2])
        case.jumpTo(MIDDLE)
        x, y = case.xy(MIDDLE)
        places = [(x + 40 * np.cos(turn), y + 30 * np.sin(turn)) for turn in np.linspace(0, 5.9, 400)]
        case.draw(places, tool)
        if scale > 1 and not case.strokes():
            # So far out the image is smaller than the ring.
            self.assertEqual(case.codes, ["refused"])
            return
        (stroke,) = case.strokes()
        self.assertLessEqual(len(stroke.points), 60)
        drawn = np.array([case.view.rasToXy(case.geometry.ras_of_ijk(case.workspace.geometry.ijk_of_ras(p)))
                          for p in stroke.points])  # fmt: skip
        # What is left out lies on the line within a pixel of the view or a quarter of a voxel.
        tolerance = 2.0 + 0.25 * case.view.pixels(1.2)
        for place in places[::20]:
            self.assertLess(_distanceToLine(place, drawn), tolerance)

    def test_hardlyADragIsAClickOrRefused(self) -> None:
        case = self.case()
        x, y = case.xy(MIDDLE)
        case.draw([(x, y), (x + 2, y + 1)], "scribble")
        case.draw([(x + 40, y), (x + 41, y)], "negativeScribble")
        said = case.workspace.prompts.segment("A")
        self.assertEqual({click.positive: case.voxel(click.ras) for click in said.clicks}[True], MIDDLE)
        self.assertEqual([click.positive for click in said.clicks], [True, False])
        self.assertEqual(said.scribbles, ())
        case.draw([(x, y - 40), (x + 2, y - 39)], "lasso")
        case.draw([(x - 40, y - 40), (x - 10, y - 40)], "lasso")
        self.assertEqual(case.codes, ["no_lasso", "empty_lasso"])
        self.assertEqual(case.strokes(), ())
        self.assertEqual(case.controller.tool, "lasso")

    def test_strokesBesideTheImageAreRefusedAndWhatReachesOutIsCut(self) -> None:
        case = self.case()
        for tool in STROKES:
            case.draw(case.ring(2, 2, case.view.at(0.04, 0.04)), tool)
        self.assertEqual(case.codes, ["refused", "refused"])
        self.assertEqual(nodesOfClass("vtkMRMLMarkupsCurveNode"), [])
        case.draw(case.ring(8, 8, case.xy((0, 18, 9))), "lasso")
        (lasso,) = case.strokes()
        self.assertTrue(outline_pixels(lasso, case.workspace.geometry, 2)[1][:, 0].any())

    def test_nothingIsLeftOfADragThatIsTakenBack(self) -> None:
        case = self.case()
        before = case.lines()

        def leave() -> None:
            case.input.stop()
            case.input.start()

        ends: dict[str, Callable[[], object]] = {
            "right button": lambda: case.view.event("RightButtonPressEvent", case.xy(MIDDLE)),
            "escape": lambda: case.view.tap("Escape", case.xy(MIDDLE)),
            "another tool": lambda: case.controller.chooseTool("positive"),
            "another segment": lambda: case.controller.select(case.volumeNode, case.segmentationNode, "B"),
            "the module is left": leave,
            "the slice is another one": lambda: case.jumpTo((20, 18, 12)),
            "nothing is worked on": lambda: case.controller.select(None, None),
        }
        for what, end in ends.items():
            with self.subTest(what):
                for tool in STROKES:
                    case.controller.select(case.volumeNode, case.segmentationNode, "A")
                    case.jumpTo(MIDDLE)
                    if case.controller.tool != tool:
                        case.controller.chooseTool(tool)
                    ring = case.ring()
                    case.begin(ring)
                    self.assertGreater(case.lines(), before, "the line is shown")
                    case.now += 1
                    end()
                    case.view.move(ring[3])
                    case.view.event("LeftButtonReleaseEvent", ring[-1])
                    case.view.event("RightButtonReleaseEvent", ring[-1])
                    self.assertEqual(case.lines(), before)
                    self.assertEqual(nodesOfClass("vtkMRMLMarkupsCurveNode"), [])
                    self.assertEqual([code for code in case.codes if code], [])
        case.controller.select(case.volumeNode, case.segmentationNode, "A")
        self.assertTrue(case.workspace.prompts.is_empty)
        self.assertFalse(case.controller.canUndo)

    def test_theRightButtonKeepsTheToolAndEscapePutsItAway(self) -> None:
        case = self.case()
        pressed: list[str] = []
        for event in ("RightButtonPressEvent", "RightButtonReleaseEvent"):
            case.view.interactor.AddObserver(event, lambda _caller, event: pressed.append(event), -1.0)
        case.controller.chooseTool("lasso")
        before = case.lines()
        case.begin(case.ring())
        case.view.event("RightButtonPressEvent", case.xy(MIDDLE))
        self.assertEqual(case.lines(), before, "taken back at the press")
        case.view.event("RightButtonReleaseEvent", case.xy(MIDDLE))
        case.view.event("LeftButtonReleaseEvent", case.xy(MIDDLE))
        self.assertEqual((case.controller.tool, pressed), ("lasso", []), "no menu opens")
        case.draw(case.ring())
        self.assertEqual(len(case.strokes()), 1)
        case.begin(case.ring())
        case.now += 1
        case.view.tap("Escape", case.xy(MIDDLE))
        case.view.event("LeftButtonReleaseEvent", case.xy(MIDDLE))
        self.assertIsNone(case.controller.tool)
        self.assertEqual(len(case.strokes()), 1)

    def test_aSceneThatIsClosedInTheMiddleOfADragLeavesNothing(self) -> None:
        case = self.case()
        before = case.lines()
        case.controller.chooseTool("lasso")
        case.begin(case.ring())
        slicer.mrmlScene.Clear()
        case.view.move(case.view.at(0.5, 0.5))
        case.view.event("LeftButtonReleaseEvent", case.view.at(0.5, 0.5))
        self.assertLessEqual(case.lines(), before)
        self.assertEqual(nodesOfClass("vtkMRMLMarkupsCurveNode"), [])
        self.assertEqual(case.messages, [])

    def test_aReleaseThatNobodySawEndsNothing(self) -> None:
        """Another program took the mouse: the button is up when the mouse comes back."""
        case = self.case()
        before = case.lines()
        case.input.stop()
        isDown = [True]
        case.input = ViewInput(case.controller, isButtonDown=lambda: isDown[0])
        case.input.addSliceView(case.view.interactor, case.view.node)
        case.input.start()
        case.controller.chooseTool("scribble")
        case.begin(case.line())
        # Out of the view and back with the button held, it goes on.
        case.view.event("LeaveEvent", case.line()[-1])
        case.view.event("EnterEvent", case.line()[-1])
        self.assertGreater(case.lines(), before)
        isDown[0] = False
        case.view.move(case.xy(MIDDLE))
        self.assertEqual(case.lines(), before)
        self.assertEqual(case.strokes(), ())
        isDown[0] = True
        case.begin(case.line())
        case.draw(case.line(about=case.xy((20, 24, 9))))  # pressed again: the first release was missed
        (stroke,) = case.strokes()
        self.assertEqual(case.voxel(stroke.points[0])[1], 24)
        case.view.move(case.view.at(0.02, 0.02))
        self.assertFalse(case.input.cancelDrag(), "nothing goes on")

    def test_scrollingWaitsUntilTheStrokeIsDrawn(self) -> None:
        case = self.case()
        offset = case.view.node.GetSliceOffset()
        case.controller.chooseTool("lasso")
        case.begin(case.ring())
        case.view.wheel(case.ring()[-1], 2)
        self.assertEqual(case.view.node.GetSliceOffset(), offset)
        case.view.event("LeftButtonReleaseEvent", case.ring()[-1])
        self.assertEqual(len(case.strokes()), 1)
        case.view.wheel(case.ring()[-1], 1)
        self.assertNotEqual(case.view.node.GetSliceOffset(), offset)

    @each(tool=STROKES, view=TOOL_VIEWS)
    def test_aStrokeIsMovedAsAWholeByItsLine(self, tool: str, view: str) -> None:
        case = self.case(view)
        stroke = case.drawn(tool)
        start = case.onLine(stroke)
        looks = case.looks()
        case.view.drag(start, (start[0] + 22, start[1] + 14))
        case.settle()
        (moved,) = case.strokes()
        self.assertEqual(moved.id, stroke.id)
        offsets = np.subtract(moved.points, stroke.points)
        np.testing.assert_allclose(offsets, np.broadcast_to(offsets[0], offsets.shape), atol=1e-6)
        toRas = np.array(case.view.node.GetXYToRAS().GetData()).reshape(4, 4)
        np.testing.assert_allclose(offsets[0], (toRas @ (22, 14, 0, 0))[:3], atol=toRas[:3, :2].max() + 1e-6)
        self.assertEqual(case.looks(), looks)
        self.assertTrue(case.controller.undo())
        self.assertEqual(case.strokes(), (stroke,), "one step back")
        self.assertTrue(case.controller.undo())
        self.assertEqual(case.strokes(), ())
        self.assertEqual(case.codes, [])

    def test_aCurveIsDraggedByItsPointsAndByItsLine(self) -> None:
        case = self.case()
        curve = case.bent()
        frames = set(range(MIDDLE[2] - 3, MIDDLE[2] + 4))
        self.assertEqual(case.workspace.previewFrames("A"), frames)
        start = case.xy(MIDDLE)
        case.view.move((start[0] + 1, start[1]))
        case.view.drag(start, (start[0] + 22, start[1] + 14))
        case.settle()
        (dragged,) = case.strokes()
        moves = np.linalg.norm(np.subtract(dragged.points, curve.points), axis=1)
        self.assertGreater(moves[1], 1.0)
        self.assertEqual((moves[0], moves[2]), (0.0, 0.0), "its other points stay")
        self.assertEqual(case.workspace.previewFrames("A"), frames)
        self.assertTrue(case.controller.undo())
        case.settle()
        self.assertEqual(case.strokes(), (curve,), "one step back")
        case.view.screenshot()
        place = case.overLine(curve)
        case.view.drag(place, (place[0] + 22, place[1] + 14))
        case.settle()
        (moved,) = case.strokes()
        offsets = np.subtract(moved.points, curve.points)
        self.assertGreater(np.linalg.norm(offsets[0]), 1.0)
        np.testing.assert_allclose(offsets, np.broadcast_to(offsets[0], offsets.shape), atol=1e-6)
        self.assertEqual(case.codes, [])

    def test_aCurveIsSavedWithTheScene(self) -> None:
        case = self.case()
        curve = case.bent()
        case.close()
        with tempfile.TemporaryDirectory() as folder:
            saveScene(Path(folder) / "scene.mrb")
            slicer.mrmlScene.Clear()
            self.assertEqual(nodesOfClass("vtkMRMLMarkupsCurveNode"), [])
            loadScene(Path(folder) / "scene.mrb")
        (node,) = nodesOfClass("vtkMRMLMarkupsCurveNode")
        np.testing.assert_allclose(strokePoints(node), curve.points, atol=1e-4)
        self.assertTrue(node.GetNthControlPointVisibility(1) and node.GetDisplayNode().GetVisibility3D())

    @each(tool=STROKES)
    def test_aMoveIsTakenBackWithTheRightButton(self, tool: str) -> None:
        case = self.case()
        stroke = case.drawn(tool)
        start = case.onLine(stroke)
        case.begin([start, (start[0] + 10, start[1] + 10), (start[0] + 30, start[1] + 10)])
        (node,) = case.workspace.markups.nodes("A")
        self.assertGreater(np.abs(strokePoints(node) - stroke.points).max(), 1)
        case.view.event("RightButtonPressEvent", start)
        np.testing.assert_allclose(strokePoints(node), stroke.points, atol=1e-9)
        case.view.event("LeftButtonReleaseEvent", start)
        np.testing.assert_allclose(strokePoints(node), stroke.points, atol=1e-9)
        self.assertEqual(case.strokes(), (stroke,))
        case.controller.undo()
        self.assertFalse(case.controller.canUndo)

    @each(tool=STROKES, how=("key", "deletePrompt"))
    def test_aStrokeIsDeletedAndBroughtBack(self, tool: str, how: str) -> None:
        case = self.case()
        stroke = case.drawn(tool)
        case.key("Delete", (4, 4, 9))
        self.assertEqual(case.strokes(), (stroke,), "nothing is under the mouse")
        place = case.onLine(stroke)
        case.view.move((place[0] + 1, place[1]))
        case.view.move(place)
        self.assertTrue(case.hovered[-1])
        case.now += 1
        if how == "key":
            case.view.tap("Delete", place)
        else:
            case.input.deletePrompt()
        self.assertTrue(case.workspace.prompts.is_empty)
        self.assertEqual(nodesOfClass("vtkMRMLMarkupsCurveNode"), [])
        self.assertEqual(case.workspace.previewFrames("A"), set())
        self.assertTrue(case.controller.undo())
        case.settle()
        self.assertEqual(case.strokes(), (stroke,))
        self.assertEqual(case.workspace.previewFrames("A"), {9})

    @each(tool=STROKES)
    def test_promptsOfOtherSegmentsAreQuiet(self, tool: str) -> None:
        case = self.case()
        stroke = case.drawn(tool)
        place = case.onLine(stroke)
        case.controller.select(case.volumeNode, case.segmentationNode, "B")
        case.view.move((place[0] + 1, place[1]))
        case.view.drag(place, (place[0] + 20, place[1] + 20))
        self.assertEqual(case.strokes(), (stroke,))
        case.now += 1
        case.view.tap("Delete", place)
        case.input.deletePrompt()
        self.assertEqual(case.strokes(), (stroke,))
        # A click on the line of another segment is a click.
        case.controller.chooseTool("positive")
        case.view.click(place)
        case.settle()
        (click,) = case.workspace.prompts.segment("B").clicks
        case.controller.select(case.volumeNode, case.segmentationNode, "A")
        case.view.move((place[0] + 1, place[1]))
        case.view.move(case.view.rasToXy(case.geometry.ras_of_ijk(case.voxel(click.ras))))
        case.view.screenshot()
        case.view.drag(place, (place[0] + 20, place[1] + 20))
        case.settle()
        self.assertEqual(case.workspace.prompts.segment("B").clicks, (click,), "not dragged by accident")
        self.assertNotEqual(case.strokes(), (stroke,), "its own segment's is")
        case.input.stop()
        case.controller.select(None, None)
        self.assertEqual({bool(node.GetLocked()) for node in nodesOfClass("vtkMRMLMarkupsNode")}, {False})

    def test_aClickOnTheLineOfAStrokeIsAClick(self) -> None:
        case = self.case()
        lasso = case.drawn("lasso")
        place = case.onLine(lasso)
        case.controller.chooseTool("negative")
        case.view.click(place)
        case.settle()
        (click,) = case.workspace.prompts.segment("A").clicks
        self.assertFalse(click.positive)
        self.assertEqual(case.strokes(), (lasso,))

    def test_anEffectOfTheSegmentEditorHasTheMouse(self) -> None:
        case = self.case()
        stroke = case.drawn("lasso")
        editorNode().SetActiveEffectName("Paint")
        place = case.onLine(stroke)
        case.view.drag(place, (place[0] + 20, place[1] + 20))
        self.assertEqual(case.strokes(), (stroke,))
        editorNode().SetActiveEffectName("")
        case.view.drag(place, (place[0] + 20, place[1] + 20), shift=True)
        self.assertEqual(case.strokes(), (stroke,))

    def test_everyLassoIsKeptAsDrawnOrNotForItself(self) -> None:
        case = self.case()
        case.draw(case.ring(4, 4, case.xy((12, 12, 9))), "lasso")
        case.controller.choices = replace(case.controller.choices, keepAsDrawn=True)
        case.draw(case.ring(4, 4, case.xy((28, 24, 9))))
        case.controller.choices = replace(case.controller.choices, keepAsDrawn=False)
        self.assertEqual([one.exact for one in case.strokes()], [False, True])
        asked = case.session.asked[-1][1][2]
        self.assertEqual(len(asked.outlines), 1)
        self.assertTrue(asked.mask[24, 28] and asked.outlines[0][12, 12])
        self.assertEqual(
            [one.exact for one in case.workspace.markups.read().segment("A").lassos], [False, True]
        )

    def test_aStrokeAcrossTheSlicesSpeaksOnSeveralAndOneToBeKeptIsRefused(self) -> None:
        case = self.case()
        case.controller.chooseTool("positive")
        case.clickAt(MIDDLE)  # the axis is that of the axial view now
        case.controller.chooseTool(None)
        case.view.setOrientation("Sagittal")
        case.view.show(case.volumeNode)
        case.jumpTo(MIDDLE)
        case.draw(case.ring(8, 9), "lasso")
        (lasso,) = case.strokes()
        frames = frames_of(lasso, case.workspace.geometry, 2)
        self.assertGreater(len(frames), 1)
        self.assertLessEqual(set(frames), case.workspace.previewFrames("A"))
        case.controller.choices = replace(case.controller.choices, keepAsDrawn=True)
        case.draw(case.ring(8, 9, case.xy((20, 26, 9))))
        self.assertEqual(case.codes, ["refused"])
        self.assertIn("axial", case.texts[0])
        self.assertEqual(case.strokes(), (lasso,))

    def test_aScribbleCorrectsWhatARunFoundAndALassoReplacesIt(self) -> None:
        case = self.case()
        case.clickOn(MIDDLE, "positive")
        case.run()
        before = case.segment(12)
        self.assertTrue(before.any())
        case.jumpTo((20, 18, 12))
        case.draw(case.line(6, case.xy((30, 18, 12))), "scribble")
        self.assertTrue((case.shown(12) & before).sum() == before.sum(), "what was found is corrected")
        self.assertTrue(case.shown(12)[18, 28:33].any())
        case.draw(case.ring(3, 3, case.xy((8, 8, 12))), "lasso")
        self.assertFalse((case.shown(12) & before & ~_along(case, 12)).any(), "what was found is replaced")

    @each(view=("Axial", "oblique"))
    def test_strokesAreSavedWithTheSceneAndLoadedAgain(self, view: str) -> None:
        case = self.case(view)
        case.controller.choices = replace(case.controller.choices, keepAsDrawn=view == "Axial")
        case.draw(case.ring(), "lasso")
        x, y = case.xy(MIDDLE)
        case.draw(case.line(about=(x, y + case.view.pixels(9))), "scribble")
        case.draw(case.line(about=(x, y - case.view.pixels(9))), "negativeScribble")
        said = {one.id: one for one in case.strokes()}
        self.assertEqual(len(said), 3)
        case.close()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scene.mrb"
            case.view.setOrientation("Axial")
            saveScene(file)
            slicer.mrmlScene.Clear()
            self.assertEqual(nodesOfClass("vtkMRMLMarkupsCurveNode"), [])
            loadScene(file)
        (case.volumeNode,) = nodesOfClass("vtkMRMLScalarVolumeNode")
        (case.segmentationNode,) = nodesOfClass("vtkMRMLSegmentationNode")
        case.start()
        case.look(view)
        self.assertEqual({one.id for one in case.strokes()}, set(said))
        for one in case.strokes():
            np.testing.assert_allclose(one.points, said[one.id].points, atol=1e-3)
            self.assertEqual(getattr(one, "positive", None), getattr(said[one.id], "positive", None))
            self.assertEqual(getattr(one, "exact", None), getattr(said[one.id], "exact", None))
        lasso = case.workspace.prompts.segment("A").lassos[0]
        case.view.screenshot()
        start = case.onLine(lasso)
        case.view.drag(start, (start[0] + 15, start[1] + 10))
        case.settle()
        self.assertNotEqual(case.workspace.prompts.segment("A").lassos[0].points, lasso.points)

    def test_strokesAreDrawnOnTheirOwnSliceInTheirSegmentsColor(self) -> None:
        case = self.case()
        case.volumeNode.GetDisplayNode().SetAutoWindowLevel(False)
        case.volumeNode.GetDisplayNode().SetWindowLevel(2000, 1000)
        case.drawn("lasso")
        case.controller.discard()
        case.view.move(case.view.at(0.02, 0.02))
        shown = _colored(case, (0.5, 1.0, 0.5))
        self.assertGreater(shown, 60)
        segmentation = case.segmentationNode.GetSegmentation()
        segmentation.GetSegment("A").SetColor(0, 0, 1)
        self.assertGreater(_colored(case, (0.5, 0.5, 1.0)), 60)
        case.jumpTo((20, 18, 11))
        self.assertEqual(_colored(case, (0.5, 0.5, 1.0)), 0)

    def test_aLineThatIsBeingDrawnAsksNothingOfTheScene(self) -> None:
        """Checks that no node is made or changed before the release: that would draw all views at each
        move."""
        case = self.case()
        case.controller.chooseTool("lasso")
        # The first mouse over a volume may change the layout, which takes a drag back.
        case.view.move(case.ring()[0])
        case.view.settle()
        case.begin(case.ring()[:3])
        scene = slicer.mrmlScene
        changes: list[str] = []
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            scene.AddObserver(event, lambda *_: changes.append("node"))
        requests = case.view.redrawRequests(lambda: [case.view.move(place) for place in case.ring()[3:]])
        self.assertEqual(changes, [])
        self.assertLessEqual(requests, len(case.ring()))
        case.view.event("LeftButtonReleaseEvent", case.ring()[-1])
        self.assertEqual(len(case.strokes()), 1)


def _between(start: Xy, end: Xy) -> list[Xy]:
    return [
        (start[0] + (end[0] - start[0]) * n / 9, start[1] + (end[1] - start[1]) * n / 9) for n in range(9)
    ]


def _distanceToLine(place: Xy, line: np.ndarray) -> float:
    """Returns the distance from a place to a line of pieces, (n, 2)."""
    start, step = line[:-1], np.diff(line, axis=0)
    along = ((np.array(place) - start) * step).sum(axis=1) / np.maximum((step**2).sum(axis=1), 1e-12)
    nearest = start + np.clip(along, 0, 1)[:, None] * step
    return float(np.linalg.norm(nearest - place, axis=1).min())


def _along(case: StrokeCase, frame: int) -> np.ndarray:
    """Returns the pixels of a frame that its scribbles may have filled, (rows, columns) bool."""
    rows, columns = np.indices(case.shown(frame).shape)
    mask = np.zeros(rows.shape, bool)
    for one in case.workspace.prompts.segment("A").scribbles:
        for point in one.points:
            x, y = case.workspace.geometry.pixel_of(point, 2)
            mask |= (columns - x) ** 2 + (rows - y) ** 2 <= 16
    return mask


def _colored(case: StrokeCase, color: tuple[float, float, float]) -> int:
    image = case.view.screenshot()
    return int((np.abs(image / 255.0 - np.array(color)).max(axis=-1) < 0.02).sum())
