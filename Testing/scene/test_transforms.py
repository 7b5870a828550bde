"""Prompts stay on the voxels of their volume, whatever becomes of the transforms above it."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk

from Headless.scenes import addTransform, addVolume
from SAM2PropagateLib.prompts import PromptSet, SegmentPrompts, click_at, resolve
from SAM2PropagateLib.scene.anchor import settleOthers
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.prompt_nodes import boxCorners, promptNodes
from SAM2PropagateLib.scene.state import VOLUME_ROLE, SceneState
from SAM2PropagateLib.scene.volume import ownGeometry, volumeGeometry
from Testing.scene.geometries import GEOMETRIES, rotation
from Testing.scene.test_commit import NEW
from Testing.scene.test_markups import MarkupCase

MOVE = (
    rotation(25, 2)
    @ rotation(-40, 0)
    @ np.array([[1, 0, 0, 8.4], [0, 1, 0, -30], [0, 0, 1, 25], [0, 0, 0, 1]])
)
OTHER = rotation(70, 1) @ np.array([[1, 0, 0, -50], [0, 1, 0, 3], [0, 0, 1, 9], [0, 0, 0, 1.0]])


class Moved(MarkupCase):
    """Every kind of prompt on a volume, under one transform, below another."""

    def __init__(self, headless, isUnder=True):
        super().__init__(headless)
        self.top = addTransform(headless, np.eye(4), "top")
        self.reg = addTransform(headless, np.eye(4), "reg")
        self.reg.SetAndObserveTransformNodeID(self.top.GetID())
        if isUnder:
            self.put(self.reg)
        self.written = self.prompts()
        self.markups.write(self.written)

    def put(self, transform, *nodes):
        for node in nodes or (self.volumeNode,):
            node.SetAndObserveTransformNodeID(None if transform is None else transform.GetID())

    def check(self, markups=None):
        """What is drawn and what is read are on the voxels on which they were said."""
        markups = markups or PromptMarkups(self.segmentationNode, self.volumeNode)
        read = markups.read()
        world, own = volumeGeometry(self.volumeNode), ownGeometry(self.volumeNode)
        for one in self.written.segments:
            before = resolve(one, self.geometry, 2, need_positive=False)
            now = resolve(read.segment(one.segment), own, 2, need_positive=False)
            assert (now.first, now.last, now.locked) == (before.first, before.last, before.locked)
            assert now.keyframes == before.keyframes
            for role, said in (("positive", [c for c in one.clicks if c.positive]), ("absent", one.absent)):
                for node in promptNodes(self.segmentationNode, one.segment, role):
                    assert node.GetTransformNodeID() == self.volumeNode.GetTransformNodeID()
                    place = [0.0] * 3
                    for index, expected in enumerate(said):
                        node.GetNthControlPointPositionWorld(index, place)
                        np.testing.assert_allclose(
                            world.ijk_of_ras(place), self.geometry.ijk_of_ras(expected.ras), atol=1e-3
                        )
        (box,) = [
            node
            for node in promptNodes(self.segmentationNode, role="box")
            if "b1" in node.GetAttribute("SAM2Propagate.PromptID")
        ]
        ijk = world.ijk_of_ras(boxCorners(box))
        np.testing.assert_allclose(
            [*ijk[:, :2].min(axis=0), *ijk[:, :2].max(axis=0)], (3, 4, 12.5, 13), atol=1e-3
        )
        assert ijk[:, 2].min() > 3.5 and ijk[:, 2].max() < 4.5


def warp(headless, name="warp"):
    """A transform that bends."""
    points = np.array(
        [[-40, -40, -80], [60, -40, -60], [-40, 60, 40], [60, 60, 40], [0, 0, 0], [10, 20, -20]], float
    )
    bent = points + np.array([[3, 0, 0], [0, -4, 0], [0, 0, 5], [2, 2, 0], [6, -5, 4], [0, 3, -3]], float)
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    for place, set_ in ((points, spline.SetSourceLandmarks), (bent, spline.SetTargetLandmarks)):
        landmarks = vtk.vtkPoints()
        for one in place:
            landmarks.InsertNextPoint(*one)
        set_(landmarks)
    node = headless.scene.AddNewNodeByClass("vtkMRMLTransformNode", name)
    node.SetAndObserveTransformToParent(spline)
    assert not node.IsTransformToWorldLinear()
    return node


def setMatrix(transform, matrix):
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))


def _harden(case, matrix, above):
    setMatrix(case.reg, matrix)
    setMatrix(case.top, above)
    case.volumeNode.HardenTransform()


def _hardenAll(case, isVolumeFirst):
    setMatrix(case.reg, MOVE)
    nodes = list(case.markups.nodes())
    for node in [case.volumeNode, *nodes] if isVolumeFirst else [*nodes, case.volumeNode]:
        node.HardenTransform()


def _hardenPrompts(case):
    setMatrix(case.reg, MOVE)
    for node in case.markups.nodes():
        node.HardenTransform()


def _underOther(case):
    other = addTransform(case.headless, OTHER, "other")
    for node in case.markups.nodes():
        case.put(other, node)


CHANGES = {
    "nothing": lambda case: None,
    "matrix edited": lambda case: setMatrix(case.reg, MOVE),
    "matrix edited twice": lambda case: (setMatrix(case.reg, MOVE), setMatrix(case.reg, OTHER)),
    "matrix edited and back": lambda case: (setMatrix(case.reg, MOVE), setMatrix(case.reg, np.eye(4))),
    "matrix above edited": lambda case: setMatrix(case.top, MOVE),
    "taken off": lambda case: (setMatrix(case.reg, MOVE), case.put(None)),
    "replaced": lambda case: case.put(addTransform(case.headless, OTHER, "other")),
    "replaced above": lambda case: case.put(addTransform(case.headless, OTHER, "other"), case.reg),
    "taken off above": lambda case: (setMatrix(case.top, MOVE), case.put(None, case.reg)),
    "scaled": lambda case: setMatrix(case.reg, np.diag([1.5, 0.5, 2, 1]) @ MOVE),
    "mirrored": lambda case: setMatrix(case.reg, np.diag([-1, 1, 1, 1.0]) @ MOVE),
    "hardened": lambda case: _harden(case, MOVE, OTHER),
    "hardened with a scale": lambda case: _harden(case, np.diag([1.5, 0.5, 2, 1]), np.eye(4)),
    "prompts and volume hardened": lambda case: _hardenAll(case, False),
    "volume and prompts hardened": lambda case: _hardenAll(case, True),
    "hardened and under another": lambda case: (
        setMatrix(case.reg, MOVE),
        case.volumeNode.HardenTransform(),
        case.put(addTransform(case.headless, OTHER, "other")),
    ),
    "transform removed": lambda case: (setMatrix(case.reg, MOVE), case.headless.scene.RemoveNode(case.reg)),
    "prompts under another": _underOther,
    "prompts hardened": _hardenPrompts,
    "origin edited": lambda case: case.volumeNode.SetOrigin(5, -80, 120),
    "spacing edited": lambda case: case.volumeNode.SetSpacing(2, 0.5, 4),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_prompts_stay_on_their_voxels(headless, change):
    case = Moved(headless)
    CHANGES[change](case)
    case.check(case.markups)


@pytest.mark.parametrize("change", [one for one in CHANGES if one not in ("transform removed",)])
def test_prompts_stay_on_their_voxels_when_nobody_looked_meanwhile(headless, tmp_path, change):
    """As in a scene that was saved, loaded, changed without the module, and saved again."""
    case = Moved(headless)
    for _ in range(2):
        headless.saveScene(tmp_path / "scene.mrb")
        headless.clear()
        headless.loadScene(tmp_path / "scene.mrb")
        node = headless.scene.GetFirstNodeByName
        case.segmentationNode, case.volumeNode, case.reg, case.top = map(
            node, ("Segmentation", "CT", "reg", "top")
        )
        case.markups = PromptMarkups(case.segmentationNode, case.volumeNode)
        if _ == 0:
            CHANGES[change](case)
    case.check()


@pytest.mark.parametrize("first", [None, "reg"])
@pytest.mark.parametrize("change", ["matrix edited", "replaced", "hardened"])
def test_prompts_that_were_made_without_a_transform_follow_one_that_is_put_on(headless, first, change):
    case = Moved(headless, isUnder=first is not None)
    case.put(case.reg)
    CHANGES[change](case)
    case.check()


def test_masks_that_are_kept_before_any_other_prompt_follow_the_volume(headless):
    case = MarkupCase(headless)
    mask = case.prompts().segment("A").masks[0]
    case.markups.writeMasks(PromptSet((SegmentPrompts("A", masks=(mask,)),), 2))
    case.volumeNode.SetAndObserveTransformNodeID(addTransform(headless, MOVE).GetID())
    (kept,) = PromptMarkups(case.segmentationNode, case.volumeNode).read().segment("A").masks
    np.testing.assert_allclose(kept.origin, mask.origin, atol=1e-6)
    np.testing.assert_allclose(kept.row_step, mask.row_step, atol=1e-6)


def test_a_scene_of_an_earlier_version_has_its_prompts_where_they_are_drawn(headless):
    case = Moved(headless)
    setMatrix(case.reg, MOVE)
    state = SceneState(case.segmentationNode)
    state.set("places", "")
    state.node().SetNodeReferenceID(VOLUME_ROLE, None)
    case.check()


def test_kept_masks_of_an_earlier_version_are_under_the_transform_that_they_name(headless):
    """They were kept below the volume's transform of then; since then it has another, at the same place."""
    case = Moved(headless)
    setMatrix(case.reg, MOVE)
    state = SceneState(case.segmentationNode)
    state.set("places", "")
    state.node().SetNodeReferenceID(VOLUME_ROLE, None)
    case.put(addTransform(case.headless, MOVE @ OTHER, "other"))
    case.volumeNode.SetIJKToRASMatrix(
        slicer.util.vtkMatrixFromArray(np.linalg.inv(OTHER) @ GEOMETRIES["plain"][0])
    )
    case.check()


def test_a_bent_volume_keeps_its_prompts_for_when_it_is_straight_again(headless):
    case = Moved(headless)
    bend = warp(headless)
    case.put(bend)
    case.markups.settle()
    assert {node.GetTransformNodeID() for node in case.markups.nodes()} == {bend.GetID()}
    setMatrix(case.reg, MOVE)
    case.put(case.reg)
    case.check(case.markups)


def test_a_hardened_bend_takes_the_prompts_along(headless):
    case = Moved(headless)
    bend = warp(headless)
    node = case.markups.clickNode("A")
    bend.SetAndObserveTransformNodeID(None)
    expected, place = [0.0] * 3, [0.0] * 3
    case.put(bend)
    case.markups.settle()
    node.GetNthControlPointPositionWorld(0, expected)
    case.volumeNode.HardenTransform()
    read = case.markups.read()
    assert case.volumeNode.GetTransformNodeID() is None
    np.testing.assert_allclose(read.segment("A").clicks[0].ras, expected, atol=1e-4)
    node.GetNthControlPointPositionWorld(0, place)
    np.testing.assert_allclose(place, expected, atol=1e-4)
    ijk = volumeGeometry(case.volumeNode).ijk_of_ras(
        boxCorners(next(promptNodes(case.segmentationNode, role="box")))
    )
    assert np.ptp(ijk[:, 2]) < 1  # flat on a slice of the new image


def test_another_image_in_the_node_leaves_prompts_where_they_are_in_the_patient(headless):
    case = Moved(headless)
    setMatrix(case.reg, MOVE)
    place = volumeGeometry(case.volumeNode).ras_of_ijk((9.2, 11.6, 5))
    case.markups.read()
    # Cropped in place: other voxels, and another origin for the first of them.
    part = slicer.util.arrayFromVolume(case.volumeNode)[2:, 3:, 4:].copy()
    matrix = ownGeometry(case.volumeNode).ijk_to_ras.copy()
    matrix[:3, 3] = ownGeometry(case.volumeNode).ras_of_ijk((4, 3, 2))
    slicer.util.updateVolumeFromArray(case.volumeNode, part)
    case.volumeNode.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    click = case.markups.read().segment("A").clicks[0]
    np.testing.assert_allclose(volumeGeometry(case.volumeNode).ijk_of_ras(place), (5.2, 8.6, 3), atol=1e-6)
    np.testing.assert_allclose(ownGeometry(case.volumeNode).ijk_of_ras(click.ras), (5.2, 8.6, 3), atol=1e-4)


def test_on_another_volume_prompts_are_where_they_are_in_the_patient(headless):
    case = Moved(headless)
    setMatrix(case.reg, MOVE)
    place = volumeGeometry(case.volumeNode).ras_of_ijk((9.2, 11.6, 5))
    other = addVolume(
        headless, slicer.util.arrayFromVolume(case.volumeNode), OTHER @ GEOMETRIES["plain"][0], "MR"
    )
    click = PromptMarkups(case.segmentationNode, other).read().segment("A").clicks[0]
    np.testing.assert_allclose(click.ras, place, atol=1e-6)
    # From now on they are this one's.
    case.put(case.top, other)
    setMatrix(case.top, OTHER)
    click = PromptMarkups(case.segmentationNode, other).read().segment("A").clicks[0]
    np.testing.assert_allclose(click.ras, place, atol=1e-6)


def test_a_point_that_was_moved_is_where_it_was_moved_to(headless):
    case = Moved(headless)
    node = case.markups.clickNode("A")
    goal = case.geometry.ras_of_ijk((2, 3, 7))
    node.SetNthControlPointPosition(0, *goal)
    node.AddControlPoint(vtk.vtkVector3d(*case.geometry.ras_of_ijk((5, 6, 8))))
    setMatrix(case.reg, MOVE)
    case.volumeNode.HardenTransform()
    geometry = ownGeometry(case.volumeNode)
    places = [
        geometry.ijk_of_ras(click.ras) for click in case.markups.read().segment("A").clicks if click.positive
    ]
    np.testing.assert_allclose(places, [(2, 3, 7), (4, 8, 5), (5, 6, 8)], atol=1e-4)


def test_prompts_of_other_segmentations_on_the_volume_follow_too(headless):
    case = Moved(headless)
    other = headless.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    other.GetSegmentation().AddEmptySegment("A", "A")
    markups = PromptMarkups(other, case.volumeNode)
    click = click_at(4, 5, 6, case.geometry, 2, True, "c")
    markups.write(PromptSet((SegmentPrompts("A", clicks=(click,)),)))
    setMatrix(case.reg, MOVE)
    case.put(None)
    settleOthers(case.segmentationNode, case.volumeNode)
    (node,) = promptNodes(other)
    assert node.GetTransformNodeID() is None
    place = [0.0] * 3
    node.GetNthControlPointPositionWorld(0, place)
    np.testing.assert_allclose(place, click.ras, atol=1e-6)
    assert {one.GetTransformNodeID() for one in promptNodes(case.segmentationNode)} == {case.reg.GetID()}


def test_prompts_that_are_cleared_leave_no_place_to_the_next_ones(headless):
    case = Moved(headless)
    case.markups.write(PromptSet(axis=None))
    case.markups.remove()
    setMatrix(case.reg, MOVE)
    case.volumeNode.HardenTransform()
    case.geometry = ownGeometry(case.volumeNode)
    case.written = case.prompts()
    case.markups.write(case.written)
    case.check()
    assert np.array_equal(case.written.segment("A").masks[0].mask, NEW[7])
