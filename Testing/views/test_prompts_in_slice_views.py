"""Prompts placed and dragged with the mouse in real slice views land on the voxel under the cursor."""

from __future__ import annotations

import numpy as np
import pytest

from SAM2PropagateLib.prompts import box_at, choose_axis, resolve
from SAM2PropagateLib.scene.box_drag import BoxDrag
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.prompt_nodes import promptNodes
from SAM2PropagateLib.scene.volume import volumeGeometry
from SAM2PropagateLib.scene.watch import PromptWatcher
from Testing.headless.scenes import addSegmentation
from Testing.scene.geometries import GEOMETRIES, SHAPE_IJK, addCase

VIEWS = ("Axial", "Sagittal", "Coronal", "i", "j", "k")
PROMPT_COLOR = np.array((0.5, 1.0, 0.5))  # the segment's, lighter


class ViewCase:
    """A dark volume with bright voxels in a slice view, and a segment to place prompts for."""

    def __init__(self, headless, openView, geometry, view, bright):
        i, j, k = SHAPE_IJK
        array = np.random.default_rng(3).integers(0, 20, (k, j, i)).astype(np.int16)
        array[bright] = 200
        self.volumeNode = addCase(headless, geometry, array)
        display = self.volumeNode.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(200, 100)
        display.SetInterpolate(False)
        self.geometry = volumeGeometry(self.volumeNode)
        self.segmentationNode = addSegmentation(headless, self.volumeNode, {"A": (0, 1, 0)})
        self.markups = PromptMarkups(self.segmentationNode, self.volumeNode)
        self.changes = []
        self.watcher = PromptWatcher(self.markups, self.changes.append)
        self.view = openView(size=(420, 400))
        if view in ("i", "j", "k"):
            self.view.show(self.volumeNode)
            self.view.alignToAxes(self.geometry.ijk_to_ras, "ijk".index(view))
        else:
            self.view.setOrientation(view)
            self.view.show(self.volumeNode)

    def jumpTo(self, ijk):
        self.view.jumpTo(self.geometry.ijk_to_world(ijk))

    def brightPixels(self):
        """View positions of the bright voxels as they are drawn, (n, 2)."""
        image = self.view.screenshot()
        rows, columns = np.nonzero(image.min(axis=-1) > 200)
        assert len(rows), "nothing bright is drawn"
        return np.c_[columns, image.shape[0] - 1 - rows]

    def onBrightPixel(self):
        pixels = self.brightPixels()
        # The drawn pixel nearest to the middle of the drawn voxel.
        return tuple(pixels[np.linalg.norm(pixels - pixels.mean(axis=0), axis=1).argmin()])

    def place(self, xy, positive=True):
        self.view.startPlacing(self.markups.clickNode("A", positive))
        self.view.click(xy)

    def resolved(self, axis):
        return resolve(self.markups.read().segment("A"), self.geometry, axis, need_positive=False)

    def drawn(self, image=None):
        """How many pixels have the color of the prompts."""
        image = self.view.screenshot() if image is None else image
        return int((np.abs(image / 255.0 - PROMPT_COLOR).max(axis=-1) < 0.02).sum())


def voxel(k, j, i):
    return (slice(k, k + 1), slice(j, j + 1), slice(i, i + 1))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_click_lands_on_the_voxel_that_is_drawn_under_it(headless, openView, geometry, view):
    case = ViewCase(headless, openView, geometry, view, voxel(11, 22, 9))
    case.jumpTo((9, 22, 11))
    case.place(case.onBrightPixel())
    (click,) = case.markups.read().segment("A").clicks
    np.testing.assert_array_equal(np.rint(case.geometry.ras_to_ijk(click.ras)), (9, 22, 11))
    (change,) = case.changes
    assert (change.segmentID, change.role) == ("A", "positive")
    axis = choose_axis(case.markups.read(), case.geometry, change.viewNormal)
    if view in ("i", "j", "k"):
        assert axis == "ijk".index(view)
    assert list(case.resolved(axis).keyframes) == [(9, 22, 11)[axis]]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("geometry", ["plain", "oblique mirrored", "under transforms"])
def test_a_click_can_be_dragged_to_another_voxel(headless, openView, geometry, view):
    case = ViewCase(headless, openView, geometry, view, voxel(9, 18, 20))
    case.jumpTo((20, 18, 9))
    start = (case.view.rasToXy(case.geometry.ijk_to_world((20, 18, 9)))[0] + 60, 150.0)
    case.place(start, positive=False)
    before = case.markups.read().segment("A").clicks[0]
    case.view.drag(start, case.onBrightPixel())
    (after,) = case.markups.read().segment("A").clicks
    np.testing.assert_array_equal(np.rint(case.geometry.ras_to_ijk(after.ras)), (20, 18, 9))
    assert after.id == before.id and not after.positive
    assert [change.role for change in case.changes] == ["negative", "negative"]


def two_clicks(case, start, end):
    """A box in Slicer's own place mode."""
    case.view.startPlacing(case.markups.beginBox("A"))
    case.view.click(start)
    case.view.move(((start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
    case.view.click(end)


def one_drag(case, start, end):
    """A box with the module's own tool."""
    ended = []
    tool = BoxDrag(case.markups, ended.append)
    tool.addView(case.view.interactor, case.view.node)
    tool.start("A")
    before = case.view.node.GetXYToRAS().GetElement(0, 3), case.volumeNode.GetDisplayNode().GetWindow()
    case.view.drag(start, end)
    assert not tool.isOn
    assert ended == [*promptNodes(case.segmentationNode, role="box")]
    # Nobody else took the drag for panning or windowing.
    assert before == (
        case.view.node.GetXYToRAS().GetElement(0, 3),
        case.volumeNode.GetDisplayNode().GetWindow(),
    )


@pytest.mark.parametrize("draw", [two_clicks, one_drag])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_box_drawn_around_bright_voxels_holds_them_on_that_frame(headless, openView, geometry, axis, draw):
    block = (slice(6, 12), slice(10, 21), slice(8, 24))  # k, j, i
    case = ViewCase(headless, openView, geometry, "ijk"[axis], block)
    middle = (15, 15, 8)
    case.jumpTo(middle)
    pixels = case.brightPixels()
    (left, bottom), (right, top) = pixels.min(axis=0), pixels.max(axis=0)
    draw(case, (left, bottom), (right, top))
    (change,) = case.changes
    assert change.role == "box"
    keyframes = case.resolved(axis).keyframes
    assert list(keyframes) == [middle[axis]]
    x, y = (n for n in range(3) if n != axis)
    edges = [(8, 24), (10, 21), (6, 12)]
    expected = (edges[x][0] - 0.5, edges[y][0] - 0.5, edges[x][1] - 0.5, edges[y][1] - 0.5)
    # Within two drawn pixels of the voxels' outer edges.
    np.testing.assert_allclose(keyframes[middle[axis]].box, expected, atol=0.4)
    roi = next(promptNodes(case.segmentationNode, role="box"))
    assert min(roi.GetSize()) < case.geometry.slice_spacing(axis) * 1.5 * 1.001


def test_a_box_resized_by_its_corner_stays_flat(headless, openView):
    case = ViewCase(headless, openView, "oblique", "k", (slice(8, 9), slice(10, 21), slice(8, 24)))
    case.jumpTo((15, 15, 8))
    xy = lambda i, j: case.view.rasToXy(case.geometry.ijk_to_world((i, j, 8)))  # noqa: E731
    case.view.startPlacing(case.markups.beginBox("A"))
    case.view.click(xy(8, 10))
    case.view.click(xy(20, 20))
    case.view.render()
    case.view.drag(xy(20, 20), xy(30, 28))
    assert [change.role for change in case.changes] == ["box", "box"]
    np.testing.assert_allclose(case.resolved(2).keyframes[8].box, (8, 10, 30, 28), atol=0.3)
    assert list(case.resolved(2).keyframes) == [8]


@pytest.mark.parametrize("geometry", ["plain", "oblique mirrored"])
def test_clicks_and_boxes_are_drawn_on_their_own_slice_only(headless, openView, geometry):
    case = ViewCase(headless, openView, geometry, "k", voxel(8, 15, 15))
    case.jumpTo((15, 15, 8))
    empty = case.drawn()
    case.place((200, 200))
    case.view.move((5, 5))
    afterClick = case.drawn()
    case.view.startPlacing(case.markups.beginBox("A"))
    case.view.click((120, 120))
    case.view.click((300, 300))
    case.view.move((5, 5))
    assert empty == 0
    assert afterClick > 20
    assert case.drawn() > afterClick + 300
    for step in (1, -2):
        case.view.wheel((5, 5), step)
        assert case.drawn() == 0
    case.view.wheel((5, 5), 1)
    assert case.drawn() > afterClick + 300


@pytest.mark.parametrize("view", ["Axial", "Sagittal", "Coronal"])
@pytest.mark.parametrize("geometry", ["oblique", "oblique mirrored"])
def test_a_box_dragged_in_a_view_that_is_turned_against_the_volume(headless, openView, geometry, view):
    """It lies on the frame of its middle, along the nearest axis, and holds what was drawn around there."""
    case = ViewCase(headless, openView, geometry, view, voxel(9, 18, 20))
    case.jumpTo((20, 18, 9))
    x, y = case.onBrightPixel()
    one_drag(case, (x - 30, y - 30), (x + 30, y + 30))
    axis = choose_axis(case.markups.read(), case.geometry, case.changes[0].viewNormal)
    keyframes = case.resolved(axis).keyframes
    assert list(keyframes) == [(20, 18, 9)[axis]]
    box = keyframes[(20, 18, 9)[axis]].box
    column, row = (n for n in range(3) if n != axis)
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    np.testing.assert_allclose(middle, ((20, 18, 9)[column], (20, 18, 9)[row]), atol=0.6)
    assert len(case.markups.read().segment("A").boxes) == 1


def test_slips_and_drags_beside_the_volume_make_no_box(headless, openView):
    case = ViewCase(headless, openView, "plain", "k", voxel(8, 15, 15))
    case.jumpTo((15, 15, 8))
    ended = []
    tool = BoxDrag(case.markups, ended.append)
    tool.addView(case.view.interactor, case.view.node)
    for start, end in (((200, 200), (202, 260)), ((1, 1), (8, 8)), ((200, 200), (200, 200))):
        tool.start("A")
        case.view.drag(start, end)
        assert not tool.isOn
    assert case.markups.nodes() == () and case.changes == []
    tool.start("A")
    tool.start("A")  # once more while it is on
    case.view.move((100, 100))
    case.view.event("LeftButtonPressEvent", (100, 100))
    case.view.move((250, 250))
    assert len(case.markups.nodes()) == 1  # it grows while the mouse moves
    tool.stop()
    case.view.event("LeftButtonReleaseEvent", (250, 250))
    assert ended == [None] * 5
    assert case.markups.nodes() == ()
    # Off, the mouse does what it did before.
    window = case.volumeNode.GetDisplayNode().GetWindow()
    interaction = headless.appLogic.GetInteractionNode()
    interaction.SetCurrentInteractionMode(interaction.AdjustWindowLevel)
    case.view.drag((100, 100), (160, 140))
    assert case.volumeNode.GetDisplayNode().GetWindow() != window


def test_boxes_that_were_begun_only_can_be_removed(headless, openView):
    case = ViewCase(headless, openView, "plain", "k", voxel(8, 15, 15))
    case.jumpTo((15, 15, 8))
    two_clicks(case, (100, 100), (200, 200))
    case.view.startPlacing(case.markups.beginBox("A"))
    case.view.click((150, 150))
    case.view.stopPlacing()
    assert len(case.markups.read().segment("A").boxes) == 1
    case.markups.removeUnfinishedBoxes()
    assert len(case.markups.nodes()) == 1
    assert len(case.markups.read().segment("A").boxes) == 1


def test_prompts_follow_the_color_and_the_presence_of_their_segment(headless, openView):
    case = ViewCase(headless, openView, "plain", "k", voxel(8, 15, 15))
    case.jumpTo((15, 15, 8))
    case.place((200, 200))
    display = case.markups.clickNode("A").GetDisplayNode()
    segmentation = case.segmentationNode.GetSegmentation()
    segmentation.GetSegment("A").SetColor(1, 0, 0)
    np.testing.assert_allclose(display.GetSelectedColor(), (1, 0.5, 0.5), atol=1e-6)
    segment = segmentation.GetSegment("A")
    segmentation.RemoveSegment("A")
    assert not display.GetVisibility()
    segmentation.AddSegment(segment, "A")
    assert display.GetVisibility()


def test_closing_the_scene_tells_nothing_and_importing_is_no_change(headless, openView, tmp_path):
    case = ViewCase(headless, openView, "plain", "Axial", voxel(8, 15, 15))
    case.jumpTo((15, 15, 8))
    case.place((200, 200))
    case.changes.clear()
    headless.saveScene(tmp_path / "scene.mrb")
    headless.loadScene(tmp_path / "scene.mrb", clear=False)
    assert case.changes == []
    headless.scene.Clear(False)
    assert case.changes == []


def test_every_finished_change_is_told_once(headless, openView):
    case = ViewCase(headless, openView, "plain", "k", voxel(8, 15, 15))
    case.jumpTo((15, 15, 8))
    case.place((200, 200))
    case.place((250, 200), positive=False)
    node = case.markups.clickNode("A")
    node.RemoveNthControlPoint(0)
    assert [change.role for change in case.changes] == ["positive", "negative", "positive"]
    np.testing.assert_allclose(np.abs(case.changes[0].viewNormal), (0, 0, 1), atol=1e-9)
    headless.scene.RemoveNode(case.markups.clickNode("A", False))
    assert [change.role for change in case.changes] == ["positive", "negative", "positive", "negative"]
    # What the program writes is not the user's doing.
    prompts = case.markups.read()
    case.markups.write(prompts.add("A", box_at((3, 4, 12, 13), 6, case.geometry, 2)))
    case.markups.write(prompts)
    assert len(case.changes) == 4
    case.watcher.stop()
    case.place((220, 220))
    assert len(case.changes) == 4
    assert len(case.markups.read().segment("A").clicks) == 1


def test_scrolling_and_windowing_do_not_touch_prompts(headless, openView):
    case = ViewCase(headless, openView, "plain", "k", voxel(8, 15, 15))
    case.jumpTo((15, 15, 8))
    case.place((200, 200))
    before = case.markups.read()
    interaction = headless.appLogic.GetInteractionNode()
    interaction.SetCurrentInteractionMode(interaction.AdjustWindowLevel)
    case.view.drag((100, 100), (160, 140))
    assert case.volumeNode.GetDisplayNode().GetWindow() != 200
    case.view.stopPlacing()
    case.view.wheel((100, 100), 2)
    assert case.markups.read() == before
    assert len(case.changes) == 1
