"""Prompts as markups: there and back, saved and loaded, moved by transforms; other nodes are left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import vtk

from Headless.scenes import addTransform
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.prompts import (
    Box,
    Click,
    Curve,
    Lasso,
    PromptSet,
    Scribble,
    SegmentPrompts,
    box_at,
    click_at,
    mark_at,
    mask_at,
    range_at,
    resolve,
)
from SAM2PropagateLib.scene.markups import PromptMarkups, removeOrphans
from SAM2PropagateLib.scene.prompt_nodes import boxCorners, promptNodes
from SAM2PropagateLib.scene.state import SEGMENTATION_ROLE, SceneState
from SAM2PropagateLib.scene.volume import ownGeometry, volumeGeometry
from Testing.scene.geometries import GEOMETRIES, rotation
from Testing.scene.test_commit import NEW, CommitCase


class MarkupCase(CommitCase):
    def __init__(self, headless, geometry="plain", segments=("A", "B")):
        super().__init__(headless, geometry, segments)
        # Prompts are in the volume's own space.
        self.geometry = ownGeometry(self.volumeNode)
        self.markups = PromptMarkups(self.segmentationNode, self.volumeNode)

    def prompts(self, axis=2):
        """Every kind of prompt, on frames of `axis`."""
        g = self.geometry
        a = SegmentPrompts(
            "A",
            clicks=(
                click_at(9.2, 11.6, 5, g, axis, True, "c1"),
                click_at(4, 8, 5, g, axis, True, "c2"),
                click_at(14, 2, 6, g, axis, False, "n1"),
            ),
            boxes=(box_at((3, 4, 12.5, 13), 4, g, axis, "b1"), box_at((2, 5, 9, 10), 8, g, axis, "b2")),
            masks=(mask_at(np.take(NEW, 7, 2 - axis), 7, g, axis, "m1"),),
            absent=(mark_at(2, g, axis, "a1"), mark_at(13, g, axis, "a2")),
            locks=(mark_at(10, g, axis, "l1"),),
            range=range_at(1, 14, g, axis),
        )
        b = SegmentPrompts(
            "B",
            clicks=(click_at(7, 7, 9, g, axis, True, "c1"),),
            scribbles=(
                Scribble("s1", self.places(((5, 5), (8, 6.5), (12, 5)), 9, axis)),
                Scribble("s2", self.places(((5, 12), (9, 13)), 9, axis), positive=False),
            ),
            lassos=(
                Lasso(
                    "o1", self.places(((3.31, 3.27), (12.43, 4.39), (11.29, 12.47), (4.33, 13.21)), 11, axis)
                ),
                Lasso("o2", self.places(((2.23, 2.31), (9.47, 3.37), (6.33, 14.29)), 12, axis), exact=True),
            ),
            curves=(
                Curve("v1", (*self.places(((5, 5), (6, 7)), 1, axis), *self.places(((8, 7),), 6, axis))),
                Curve(
                    "v2",
                    (*self.places(((3, 4), (9, 4)), 3, axis), *self.places(((9, 4),), 7, axis)),
                    closed=True,
                ),
            ),
        )
        return PromptSet((a, b), axis)

    def places(self, pixels, frame, axis=2):
        """RAS of pixels of a frame."""
        return tuple(self.geometry.ras_of_pixel(x, y, frame, axis) for x, y in pixels)


def assertSame(case, read, written, axis=2):
    """The same prompts, with the same ids, that resolve to the same pixels."""
    assert read.axis == written.axis
    assert read.names == written.names
    for one in written.segments:
        other = read.segment(one.segment)
        for kind in ("clicks", "boxes", "masks", "absent", "locks", "scribbles", "lassos", "curves"):
            assert [item.id for item in getattr(other, kind)] == [item.id for item in getattr(one, kind)]
        for click, expected in zip(other.clicks, one.clicks, strict=True):
            np.testing.assert_allclose(click.ras, expected.ras, atol=1e-4)
            assert click.positive == expected.positive
        for stroke, expected in zip(
            (*other.scribbles, *other.lassos, *other.curves),
            (*one.scribbles, *one.lassos, *one.curves),
            strict=True,
        ):
            np.testing.assert_allclose(stroke.points, expected.points, atol=1e-4)
            assert replace(stroke, points=expected.points) == expected
        assert (other.range is None) == (one.range is None)
        now, before = (resolve(value, case.geometry, axis, need_positive=False) for value in (other, one))
        assert (now.first, now.last, now.locked) == (before.first, before.last, before.locked)
        assert list(now.keyframes) == list(before.keyframes)
        for frame, expected in before.keyframes.items():
            found = now.keyframes[frame]
            assert found.absent == expected.absent
            np.testing.assert_allclose(found.clicks, expected.clicks, atol=1e-4)
            if expected.box is not None:
                np.testing.assert_allclose(found.box, expected.box, atol=1e-3)
            if expected.mask is not None:
                np.testing.assert_array_equal(found.mask, expected.mask)
            assert [one.positive for one in found.strokes] == [one.positive for one in expected.strokes]
            np.testing.assert_array_equal(found.outlines, expected.outlines)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_prompts_come_back_from_the_scene(headless, geometry, axis):
    case = MarkupCase(headless, geometry)
    prompts = case.prompts(axis)
    case.markups.write(prompts)
    assertSame(case, case.markups.read(), prompts, axis)


@pytest.mark.parametrize("suffix", [".mrb", ".mrml"])
@pytest.mark.parametrize("geometry", ["plain", "oblique mirrored", "under transforms"])
def test_prompts_survive_saving_and_loading(headless, tmp_path, geometry, suffix):
    case = MarkupCase(headless, geometry)
    prompts = case.prompts()
    case.markups.write(prompts)
    file = tmp_path / f"scene{suffix}"
    headless.saveScene(file)
    headless.clear()
    headless.loadScene(file)
    node = headless.scene.GetFirstNodeByName
    markups = PromptMarkups(node("Segmentation"), node("CT"))
    assertSame(case, markups.read(), prompts)
    # They are still editable: moved, removed and added to.
    edited = markups.read().remove("A", "c2").move("A", "c1", case.geometry.ras_of_pixel(3, 4, 5, 2))
    edited = edited.add("B", click_at(1, 2, 3, case.geometry, 2, False, "new"))
    markups.write(edited)
    assertSame(case, markups.read(), edited)


def test_imported_beside_another_scene_each_segmentation_keeps_its_own(headless, tmp_path):
    case = MarkupCase(headless)
    prompts = case.prompts()
    case.markups.write(prompts)
    headless.saveScene(tmp_path / "scene.mrb")
    case.markups.write(PromptSet((SegmentPrompts("A", clicks=(Click("only", (1, 2, 3)),)),)))
    headless.loadScene(tmp_path / "scene.mrb", clear=False)
    scene = headless.scene
    first, second = (scene.GetNthNodeByClass(n, "vtkMRMLSegmentationNode") for n in range(2))
    assert first is case.segmentationNode
    assert [click.id for click in case.markups.read().segment("A").clicks] == ["only"]
    volume = scene.GetNthNodeByClass(1, "vtkMRMLScalarVolumeNode")
    assertSame(case, PromptMarkups(second, volume).read(), prompts)


def test_writing_again_keeps_the_nodes_and_removes_what_is_gone(headless):
    case = MarkupCase(headless)
    prompts = case.prompts()
    case.markups.write(prompts)
    nodes = {node.GetID() for node in case.markups.nodes()}
    times = {node.GetID(): node.GetMTime() for node in case.markups.nodes()}
    case.markups.write(prompts)
    assert {node.GetID() for node in case.markups.nodes()} == nodes
    assert {node.GetID(): node.GetMTime() for node in case.markups.nodes()} == times  # nothing was touched
    moved = prompts.move("A", "b1", *(case.geometry.ras_of_pixel(x, y, 6, 2) for x, y in ((5, 5), (11, 12))))
    case.markups.write(moved)
    assert {node.GetID() for node in case.markups.nodes()} == nodes
    assertSame(case, case.markups.read(), moved)
    total = headless.scene.GetNumberOfNodes()
    case.markups.write(PromptSet())
    assert case.markups.nodes() == ()
    assert case.markups.read() == PromptSet()
    # Display and storage nodes went with them; only the note about masks and axis may stay.
    assert headless.scene.GetNumberOfNodes() == total - 2 * len(nodes)


def test_one_segment_can_be_removed(headless):
    case = MarkupCase(headless)
    case.markups.write(case.prompts())
    case.markups.remove("A")
    assert case.markups.read().names == ("B",)
    assert case.markups.axis == 2
    case.markups.remove()
    assert case.markups.read().is_empty


def test_unplaced_and_skipped_points_are_left_out_and_locked_ones_count(headless):
    case = MarkupCase(headless)
    node = case.markups.clickNode("A")
    for ras in ((1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)):
        node.AddControlPointWorld(vtk.vtkVector3d(*ras))
    node.UnsetNthControlPointPosition(0)
    node.SetNthControlPointPositionMissing(2)
    node.SetNthControlPointLocked(1, True)
    assert [click.ras for click in case.markups.read().segment("A").clicks] == [(4, 5, 6), (10, 11, 12)]
    # Writing what was read leaves the unplaced ones to the user.
    case.markups.write(case.markups.read())
    assert node.GetNumberOfControlPoints() == 4
    box = case.markups.beginBox("A")
    assert case.markups.read().segment("A").boxes == ()
    assert not case.markups.finishBox(box)


def test_control_point_ids_stay_when_others_are_removed(headless):
    case = MarkupCase(headless)
    node = case.markups.clickNode("A", positive=False)
    for n in range(3):
        node.AddControlPointWorld(vtk.vtkVector3d(n, 0, 0))
    before = {click.ras[0]: click.id for click in case.markups.read().segment("A").clicks}
    node.RemoveNthControlPoint(0)
    node.AddControlPointWorld(vtk.vtkVector3d(9, 0, 0))
    after = {click.ras[0]: click.id for click in case.markups.read().segment("A").clicks}
    assert {place: after[place] for place in (1.0, 2.0)} == {place: before[place] for place in (1.0, 2.0)}
    assert after[9.0] not in before.values()


def test_duplicated_points_and_nodes_get_ids_of_their_own(headless):
    case = MarkupCase(headless)
    case.markups.write(case.prompts())
    node = case.markups.clickNode("A")
    index = node.AddControlPointWorld(vtk.vtkVector3d(1, 1, 1))
    node.SetNthControlPointDescription(index, "c1")  # copy and paste of a point
    clone = headless.scene.AddNode(headless.scene.CreateNodeByClass(node.GetClassName()))
    clone.CopyContent(node)
    for name in node.GetAttributeNames():
        clone.SetAttribute(name, node.GetAttribute(name))
    clone.SetNodeReferenceID(SEGMENTATION_ROLE, case.segmentationNode.GetID())
    ids = [click.id for click in case.markups.read().segment("A").clicks]
    assert len(ids) == len(set(ids)) == 7
    assert ids[:3] == ["c1", "c2", "c1-" + node.GetID() + "-1"]


def test_prompts_follow_the_transform_of_the_volume(headless):
    case = MarkupCase(headless, "under transforms")
    prompts = case.prompts()
    case.markups.write(prompts)
    world = volumeGeometry(case.volumeNode).ras_of_ijk((9.2, 11.6, 5))
    before = [(frame, one.clicks, one.box) for frame, one in _keyframes(case, prompts).items()]
    transform = case.volumeNode.GetParentTransformNode()
    move = addTransform(
        headless, rotation(40, 1) @ GEOMETRIES["plain"][0] @ np.diag([-1, -1, 1, 1.0]), "registration"
    )
    top = transform.GetParentTransformNode() or transform
    top.SetAndObserveTransformNodeID(move.GetID())
    read = case.markups.read()
    node = case.markups.clickNode("A")
    drawn = [0.0] * 3
    node.GetNthControlPointPositionWorld(0, drawn)
    assert np.abs(np.subtract(drawn, world)).max() > 5
    np.testing.assert_allclose(volumeGeometry(case.volumeNode).ijk_of_ras(drawn), (9.2, 11.6, 5), atol=1e-6)
    after = [(frame, one.clicks, one.box) for frame, one in _keyframes(case, read).items()]
    for (frame, clicks, box), (now, nowClicks, nowBox) in zip(before, after, strict=True):
        assert frame == now
        np.testing.assert_allclose(nowClicks, clicks, atol=1e-3)
        if box is not None:
            np.testing.assert_allclose(nowBox, box, atol=1e-3)


def _keyframes(case, prompts):
    return resolve(prompts.segment("A"), case.geometry, 2, need_positive=False).keyframes


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_box_is_flat_on_its_frame(headless, geometry, axis):
    case = MarkupCase(headless, geometry)
    case.markups.write(
        PromptSet((SegmentPrompts("A", boxes=(box_at((3, 4, 12.5, 13), 6, case.geometry, axis, "b"),)),))
    )
    node = next(promptNodes(case.segmentationNode, role="box"))
    ijk = volumeGeometry(case.volumeNode).ijk_of_ras(boxCorners(node))
    x, y = (n for n in range(3) if n != axis)
    np.testing.assert_allclose(
        [ijk[:, x].min(), ijk[:, x].max(), ijk[:, y].min(), ijk[:, y].max()], [3, 12.5, 4, 13], atol=1e-4
    )
    # Thinner than a slice, so that the neighboring frames do not show it.
    assert 5.5 < ijk[:, axis].min() < 5.6 and 6.4 < ijk[:, axis].max() < 6.5


def test_the_users_own_markups_are_not_prompts_and_stay(headless):
    case = MarkupCase(headless)
    own = headless.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "A positive clicks")
    own.AddControlPointWorld(vtk.vtkVector3d(1, 2, 3))
    roi = headless.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    roi.SetSize(10, 20, 30)
    assert case.markups.read().is_empty
    case.markups.write(case.prompts())
    case.markups.remove()
    assert own.GetNumberOfControlPoints() == 1 and own.GetScene() is headless.scene
    assert roi.GetSize() == (10, 20, 30) and roi.GetScene() is headless.scene


def test_prompts_look_like_their_segment_and_only_on_their_slice(headless):
    case = MarkupCase(headless)
    case.markups.write(case.prompts())
    for node in case.markups.nodes("A"):
        display = node.GetDisplayNode()
        assert not display.GetPointLabelsVisibility()
        assert not display.GetSliceProjection()
        assert not display.GetVisibility3D()
        if node.GetAttribute("SAM2Propagate.Role") != "negative":
            np.testing.assert_allclose(display.GetSelectedColor(), (0.95, 0.6, 0.55), atol=1e-6)
    glyphs = {node.GetDisplayNode().GetGlyphTypeAsString() for node in case.markups.nodes("A")}
    assert {"ThickCross2D", "Dash2D"} <= glyphs
    case.segmentationNode.GetSegmentation().GetSegment("A").SetColor(0, 0, 1)
    case.markups.updateDisplay()
    np.testing.assert_allclose(
        case.markups.nodes("A")[0].GetDisplayNode().GetSelectedColor(), (0.5, 0.5, 1), atol=1e-6
    )


@pytest.mark.parametrize(
    "segment",
    [(0.5, 0.68, 0.5), (0.9, 0.2, 0.1), (1, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1), (0.87, 0.4, 0.3)],
)
def test_negative_clicks_differ_from_positive_ones_and_from_their_segment(headless, segment):
    case = MarkupCase(headless)
    case.markups.write(case.prompts())
    case.segmentationNode.GetSegmentation().GetSegment("A").SetColor(*segment)
    case.markups.updateDisplay()
    positive, negative = (case.markups.clickNode("A", sign).GetDisplayNode() for sign in (True, False))
    assert positive.GetGlyphTypeAsString() != negative.GetGlyphTypeAsString()
    assert negative.GetGlyphScale() > positive.GetGlyphScale()
    color = np.array(negative.GetSelectedColor())
    np.testing.assert_allclose(negative.GetColor(), color)
    for other in (positive.GetSelectedColor(), segment, (0, 0, 0), (1, 1, 1)):
        assert np.linalg.norm(color - other) > 0.3
    assert color[0] > 0.7 and color[2] < 0.3


def test_prompts_of_a_removed_segment_are_hidden_and_come_back_with_it(headless):
    case = MarkupCase(headless)
    case.markups.write(case.prompts())
    segmentation = case.segmentationNode.GetSegmentation()
    segment = segmentation.GetSegment("A")
    segmentation.RemoveSegment("A")
    case.markups.updateDisplay()
    assert not any(node.GetDisplayNode().GetVisibility() for node in case.markups.nodes("A"))
    assert case.markups.read().names == ("B",)
    case.markups.write(case.markups.read())
    segmentation.AddSegment(segment, "A")
    case.markups.updateDisplay()
    assert all(node.GetDisplayNode().GetVisibility() for node in case.markups.nodes("A"))
    assert len(case.markups.read().segment("A").clicks) == 3


def test_orphans_of_a_removed_segmentation_are_cleaned_up(headless):
    case = MarkupCase(headless)
    case.markups.write(case.prompts())
    own = headless.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "mine")
    assert removeOrphans(headless.scene) == 0
    count = len(case.markups.nodes()) + 1  # and the note about masks and axis
    headless.scene.RemoveNode(case.segmentationNode)
    assert removeOrphans(headless.scene) == count
    assert headless.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsNode") == 1
    assert own.GetScene() is headless.scene


def test_orphans_may_be_looked_for_while_they_are_removed(headless):
    case = MarkupCase(headless)
    case.markups.write(case.prompts())
    headless.scene.RemoveNode(case.segmentationNode)
    found: list[int] = []
    removed = type(headless.scene).NodeRemovedEvent
    tag = headless.scene.AddObserver(removed, lambda *_: found.append(removeOrphans(headless.scene)))
    removeOrphans(headless.scene)
    headless.scene.RemoveObserver(tag)
    assert found and removeOrphans(headless.scene) == 0


def test_wrong_prompts_are_refused_before_anything_is_written(headless):
    case = MarkupCase(headless)
    good = Click("c", (1, 2, 3))
    with pytest.raises(InputError) as refused:
        case.markups.write(PromptSet((SegmentPrompts("lung", clicks=(good,)),)))
    assert refused.value.code == "unknown_segment"
    corners = [case.geometry.ras_of_ijk(ijk) for ijk in ((2, 3, 4), (9, 12, 13))]
    tilted = Box("b", *(tuple(map(float, corner)) for corner in corners))
    with pytest.raises(InputError) as refused:
        case.markups.write(PromptSet((SegmentPrompts("A", clicks=(good,), boxes=(tilted,)),)))
    assert refused.value.code == "box_not_flat"
    assert case.markups.nodes() == () and SceneState(case.segmentationNode).node() is None
