"""Commits: exactly the run's masks, masked like the user's own edits, one undo for each, neighbors whole."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

from Headless.scenes import addSegmentation, addVolume, fillSegment
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.scene.commit import CommitSummary, SegmentCommitter
from SAM2PropagateLib.scene.segment_writer import LogicSegmentWriter
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateLib.scene.volume import volumeGeometry
from Testing.scene.geometries import GEOMETRIES, SHAPE_IJK, addCase, block

RED, GREEN, BLUE = (0.9, 0.2, 0.1), (0.1, 0.8, 0.2), (0.2, 0.3, 0.9)
Mode = slicer.vtkMRMLSegmentationNode
Overwrite = slicer.vtkMRMLSegmentEditorNode


class CommitCase:
    """A volume with a segmentation of two or three segments on it."""

    def __init__(self, headless, geometry="plain", segments=("A", "B")):
        self.headless = headless
        self.volumeNode = addCase(headless, geometry)
        colors = dict(zip(segments, (RED, GREEN, BLUE), strict=False))
        self.segmentationNode = addSegmentation(headless, self.volumeNode, colors)
        self.geometry = volumeGeometry(self.volumeNode)

    def read(self, segmentID="A"):
        return SegmentReader(self.segmentationNode, segmentID, self.geometry).array()

    def fill(self, segmentID, mask):
        fillSegment(self.segmentationNode, segmentID, self.volumeNode, mask)

    def settings(self, **values):
        """The Segment Editor's own node, as its module makes it."""
        node = self.headless.scene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        if node is None:
            node = self.headless.scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)
            node.SetSingletonTag("SegmentEditor")
            node = self.headless.scene.AddNode(node)
        for name, value in values.items():
            getattr(node, f"Set{name}")(*value if isinstance(value, tuple) else (value,))
        return node


def ball(center, radius, shape=SHAPE_IJK):
    """(K, J, I) bool."""
    k, j, i = np.mgrid[: shape[2], : shape[1], : shape[0]]
    return ((i - center[0]) ** 2 + (j - center[1]) ** 2 + ((k - center[2]) * 2) ** 2) < radius**2


def frames(mask, axis, indices):
    return {index: np.take(mask, index, 2 - axis) for index in indices}


def replaced(old, new, axis, indices):
    out = old.copy()
    for index in indices:
        place = [slice(None)] * 3
        place[2 - axis] = index
        out[tuple(place)] = new[tuple(place)]
    return out


OLD, NEW = ball((18, 17, 8), 9), ball((22, 20, 9), 10)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_only_the_frames_of_the_run_change_and_they_change_exactly(headless, geometry, axis):
    case = CommitCase(headless, geometry)
    case.fill("A", OLD)
    run = [5, 6, 7, 10, 12]  # with gaps
    summary = SegmentCommitter(case.segmentationNode, case.volumeNode).commit(
        {"A": frames(NEW, axis, run)}, axis
    )
    expected = replaced(OLD, NEW, axis, run)
    np.testing.assert_array_equal(case.read(), expected)
    assert summary == CommitSummary(int((expected & ~OLD).sum()), int((OLD & ~expected).sum()), 0)
    assert not case.read("B").any()


def test_an_empty_segment_is_filled_and_a_full_one_emptied(headless):
    case = CommitCase(headless)
    committer = SegmentCommitter(case.segmentationNode, case.volumeNode)
    everywhere = range(SHAPE_IJK[2])
    committer.commit({"A": frames(NEW, 2, everywhere)}, 2)
    np.testing.assert_array_equal(case.read(), NEW)
    summary = committer.commit({"A": frames(np.zeros_like(NEW), 2, everywhere)}, 2)
    assert not case.read().any()
    assert summary == CommitSummary(0, int(NEW.sum()), 0)


def test_a_run_that_changes_nothing_leaves_no_undo_step(headless):
    case = CommitCase(headless)
    case.fill("A", OLD)
    committer = SegmentCommitter(case.segmentationNode, case.volumeNode)
    assert committer.commit({"A": frames(OLD, 2, range(3, 12)), "B": {}}, 2) == CommitSummary(0, 0, 0)
    assert not committer.undo()
    assert not committer.redo()


@pytest.mark.parametrize("settings", ["no node", "Slicer's default", "visible", "none"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_neighbor_is_whole_whatever_the_segment_editors_node_says(headless, settings, shared):
    case = CommitCase(headless)
    neighbor = ball((25, 20, 9), 8)
    case.fill("A", OLD & ~neighbor if shared else OLD)
    case.fill("B", neighbor)
    if settings == "no node":
        # Closing a scene leaves it there.
        headless.scene.RemoveNode(case.settings())
    elif settings == "Slicer's default":
        assert case.settings().GetOverwriteMode() == Overwrite.OverwriteAllSegments
    else:
        visible = settings == "visible"
        case.settings(
            OverwriteMode=Overwrite.OverwriteVisibleSegments if visible else Overwrite.OverwriteNone
        )
    SegmentCommitter(case.segmentationNode, case.volumeNode).commit({"A": frames(NEW, 2, range(18))}, 2)
    np.testing.assert_array_equal(case.read("A"), NEW)
    np.testing.assert_array_equal(case.read("B"), neighbor)


def test_segments_of_one_run_that_overlap_are_both_whole(headless):
    case = CommitCase(headless)
    neighbor = ball((25, 20, 9), 8)
    assert (NEW & neighbor).any()
    committer = SegmentCommitter(case.segmentationNode, case.volumeNode)
    for _ in range(2):
        committer.commit({"A": frames(NEW, 2, range(18)), "B": frames(neighbor, 2, range(18))}, 2)
        np.testing.assert_array_equal(case.read("A"), NEW)
        np.testing.assert_array_equal(case.read("B"), neighbor)


def test_overwriting_takes_from_the_neighbor_only_what_the_segment_gains(headless):
    case = CommitCase(headless)
    neighbor = ball((25, 20, 9), 8)
    SegmentCommitter(case.segmentationNode, case.volumeNode).commit(
        {"A": frames(OLD, 2, range(18)), "B": frames(neighbor, 2, range(18))}, 2
    )
    assert (OLD & neighbor).any()
    overwriting = LogicSegmentWriter(
        case.segmentationNode, case.volumeNode, overwriteMode=Overwrite.OverwriteAllSegments
    )
    SegmentCommitter(case.segmentationNode, case.volumeNode, overwriting).commit(
        {"A": frames(NEW | OLD, 2, range(18))}, 2
    )
    np.testing.assert_array_equal(case.read("A"), NEW | OLD)
    # Where both were before, both stay: the run did not change the segment there.
    np.testing.assert_array_equal(case.read("B"), neighbor & ~(NEW & ~OLD))


@pytest.mark.parametrize("mode", [Mode.EditAllowedOutsideAllSegments, Mode.EditAllowedOutsideVisibleSegments])
def test_a_protected_neighbor_neither_loses_nor_gives(headless, mode):
    case = CommitCase(headless, segments=("A", "B", "C"))
    neighbor = ball((25, 20, 9), 8)
    case.fill("A", OLD & ~neighbor)
    case.fill("B", neighbor)
    # The selected segment of the user's editor must not matter.
    case.settings(MaskMode=mode, SelectedSegmentID="C")
    summary = SegmentCommitter(case.segmentationNode, case.volumeNode).commit(
        {"A": frames(NEW, 2, range(18))}, 2
    )
    np.testing.assert_array_equal(case.read("A"), NEW & ~neighbor)
    np.testing.assert_array_equal(case.read("B"), neighbor)
    assert summary.protected == int((NEW & neighbor).sum())


def test_a_masked_voxel_is_not_lost_either(headless):
    case = CommitCase(headless)
    inside = ball((25, 20, 9), 8)
    committer = SegmentCommitter(case.segmentationNode, case.volumeNode)
    committer.commit({"A": frames(OLD, 2, range(18)), "B": frames(inside, 2, range(18))}, 2)
    case.settings(MaskMode=Mode.EditAllowedOutsideAllSegments)
    committer.commit({"A": frames(np.zeros_like(OLD), 2, range(18))}, 2)
    # Under B nothing may be changed, so what A had there stays.
    np.testing.assert_array_equal(case.read("A"), OLD & inside)
    np.testing.assert_array_equal(case.read("B"), inside)


def test_changes_only_inside_one_segment(headless):
    case = CommitCase(headless)
    inside = ball((25, 20, 9), 8)
    case.fill("B", inside)
    case.settings(MaskMode=Mode.EditAllowedInsideSingleSegment, MaskSegmentID="B")
    SegmentCommitter(case.segmentationNode, case.volumeNode).commit({"A": frames(NEW, 2, range(18))}, 2)
    np.testing.assert_array_equal(case.read("A"), NEW & inside)
    np.testing.assert_array_equal(case.read("B"), inside)


def test_the_editable_intensity_range_is_kept(headless):
    case = CommitCase(headless, "oblique")
    case.fill("A", OLD)
    case.settings(SourceVolumeIntensityMask=True, SourceVolumeIntensityMaskRange=(150.0, 400.0))
    SegmentCommitter(case.segmentationNode, case.volumeNode).commit({"A": frames(NEW, 2, range(18))}, 2)
    bright = block() >= 150
    np.testing.assert_array_equal(case.read(), np.where(bright, NEW, OLD))


def test_an_unknown_editable_area_is_told_and_nothing_is_written(headless):
    case = CommitCase(headless)
    case.fill("A", OLD)
    case.settings(MaskMode=Mode.EditAllowedInsideSingleSegment, MaskSegmentID="of another segmentation")
    committer = SegmentCommitter(case.segmentationNode, case.volumeNode)
    with pytest.raises(SAM2PropagateError) as failed:
        committer.commit({"A": frames(NEW, 2, range(18))}, 2)
    assert failed.value.code == "masking_failed"
    np.testing.assert_array_equal(case.read(), OLD)
    assert not committer.undo()


def test_one_undo_takes_back_one_run_of_several_segments(headless):
    case = CommitCase(headless, segments=("A", "B", "C"))
    other = ball((10, 25, 6), 6)
    case.fill("A", OLD)
    case.fill("C", other & ~OLD)
    committer = SegmentCommitter(case.segmentationNode, case.volumeNode)
    committer.commit({"A": frames(NEW, 2, range(18)), "B": frames(OLD & ~NEW, 2, range(18))}, 2)
    np.testing.assert_array_equal(case.read("A"), NEW)
    # B took over what A gave up in the same run.
    np.testing.assert_array_equal(case.read("B"), OLD & ~NEW)
    after = [case.read(name) for name in "ABC"]
    committer.commit({"A": frames(other, 2, range(4, 8))}, 2)
    last = [case.read(name) for name in "ABC"]
    assert committer.undo()
    for name, mask in zip("ABC", after, strict=True):
        np.testing.assert_array_equal(case.read(name), mask)
    assert committer.undo()
    for name, mask in zip("ABC", (OLD, np.zeros_like(OLD), other & ~OLD), strict=True):
        np.testing.assert_array_equal(case.read(name), mask)
    assert not committer.undo()
    assert committer.redo() and committer.redo() and not committer.redo()
    for name, mask in zip("ABC", last, strict=True):
        np.testing.assert_array_equal(case.read(name), mask)


def test_segments_hand_voxels_over_in_one_masked_run(headless):
    case = CommitCase(headless)
    case.fill("A", OLD)
    case.settings(MaskMode=Mode.EditAllowedOutsideAllSegments)
    SegmentCommitter(case.segmentationNode, case.volumeNode).commit(
        {"B": frames(OLD, 2, range(18)), "A": frames(np.zeros_like(OLD), 2, range(18))}, 2
    )
    np.testing.assert_array_equal(case.read("B"), OLD)
    assert not case.read("A").any()


def test_the_users_nodes_stay_as_they_are(headless):
    case = CommitCase(headless)
    case.fill("B", OLD)
    editor = case.settings(
        MaskMode=Mode.EditAllowedOutsideAllSegments,
        SelectedSegmentID="B",
        SourceVolumeIntensityMask=True,
        SourceVolumeIntensityMaskRange=(1.0, 500.0),
    )
    other = addVolume(headless, block(), name="other")
    editor.SetAndObserveSourceVolumeNode(other)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(headless.scene)
    folder = tree.CreateFolderItem(tree.GetSceneItemID(), "results")
    tree.CreateItem(tree.GetSceneItemID(), case.volumeNode)
    item = tree.CreateItem(folder, case.segmentationNode)
    before = {headless.scene.GetNthNode(n).GetID() for n in range(headless.scene.GetNumberOfNodes())}
    writer = LogicSegmentWriter(case.segmentationNode, case.volumeNode)
    SegmentCommitter(case.segmentationNode, case.volumeNode, writer).commit(
        {"A": frames(NEW, 2, range(18))}, 2
    )
    assert editor.GetSelectedSegmentID() == "B"
    assert editor.GetSegmentationNode() is None
    assert editor.GetSourceVolumeNode() is other
    assert tree.GetItemParent(item) == folder
    writer.close()
    after = {headless.scene.GetNthNode(n).GetID() for n in range(headless.scene.GetNumberOfNodes())}
    assert after == before
    np.testing.assert_array_equal(case.read("B"), OLD)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(case.volumeNode), block())


@pytest.mark.parametrize("geometry", ["plain", "oblique mirrored", "under transforms"])
def test_a_segmentation_on_a_permuted_grid_takes_the_masks_exactly(headless, geometry):
    """The segmentation's grid has the volume's voxels, but other axes, and covers a part of it."""
    case = CommitCase(headless, geometry)
    part = np.ascontiguousarray(block()[2:16, 3:30, ::-1].transpose(2, 0, 1))  # now (I flipped, K, J)
    turn = np.array([[0, 0, -1, SHAPE_IJK[0] - 1], [1, 0, 0, 3], [0, 1, 0, 2], [0, 0, 0, 1.0]])
    other = addVolume(headless, part, GEOMETRIES[geometry][0] @ turn, "other")
    other.SetAndObserveTransformNodeID(case.volumeNode.GetTransformNodeID())
    np.testing.assert_allclose(
        volumeGeometry(other).ras_of_ijk([0, 0, 0]), case.geometry.ras_of_ijk([SHAPE_IJK[0] - 1, 3, 2])
    )
    segmentationNode = addSegmentation(headless, other, {"A": RED})
    committer = SegmentCommitter(segmentationNode, case.volumeNode)
    for mask in (OLD, NEW):
        committer.commit({"A": frames(mask, 2, range(18))}, 2)
        read = SegmentReader(segmentationNode, "A", case.geometry).array()
        np.testing.assert_array_equal(read, mask)


def test_a_segmentation_on_another_grid_takes_the_nearest_voxels(headless):
    case = CommitCase(headless)
    coarse = addVolume(
        headless, block()[::2, ::2, ::2], GEOMETRIES["plain"][0] @ np.diag([2, 2, 2, 1.0]), "coarse"
    )
    segmentationNode = addSegmentation(headless, coarse, {"A": RED})
    committer = SegmentCommitter(segmentationNode, case.volumeNode)
    committer.commit({"A": frames(NEW, 2, range(18))}, 2)
    coarseMask = SegmentReader(segmentationNode, "A", volumeGeometry(coarse)).array()
    np.testing.assert_array_equal(coarseMask, NEW[::2, ::2, ::2])
    committer.commit({"A": frames(np.zeros_like(NEW), 2, [8])}, 2)
    coarseMask = SegmentReader(segmentationNode, "A", volumeGeometry(coarse)).array()
    assert not coarseMask[4].any() and coarseMask[3].any()


def test_a_closed_surface_follows_the_commit(headless):
    case = CommitCase(headless)
    case.fill("A", OLD)
    case.segmentationNode.CreateClosedSurfaceRepresentation()
    SegmentCommitter(case.segmentationNode, case.volumeNode).commit({"A": frames(NEW, 2, range(18))}, 2)
    surface = case.segmentationNode.GetClosedSurfaceInternalRepresentation("A")
    center = np.array(surface.GetCenter())
    expected = case.geometry.ras_of_ijk([22, 20, 9])
    assert np.abs(center - expected).max() < 2.0


def test_a_bare_segmentation_takes_the_volumes_grid(headless):
    """No display, no reference geometry: as a script or an import may leave it."""
    case = CommitCase(headless, "under transforms")
    bare = headless.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "bare")
    bare.SetAndObserveTransformNodeID(case.volumeNode.GetTransformNodeID())
    bare.GetSegmentation().AddEmptySegment("A")
    SegmentCommitter(bare, case.volumeNode).commit({"A": frames(NEW, 2, range(18))}, 2)
    np.testing.assert_array_equal(SegmentReader(bare, "A", case.geometry).array(), NEW)


def test_a_segmentation_outside_the_volumes_transform_is_met_in_the_world(headless):
    case = CommitCase(headless, "oblique under a scaling transform")
    same = addVolume(headless, block(), case.geometry.ijk_to_ras, "same place")
    apart = addSegmentation(headless, same, {"A": RED})
    SegmentCommitter(apart, case.volumeNode).commit({"A": frames(NEW, 1, range(36))}, 1)
    np.testing.assert_array_equal(SegmentReader(apart, "A", case.geometry).array(), NEW)


WRONG = {
    "unknown_segment": lambda: ({"lung": frames(NEW, 2, [3])}, 2),
    "mask_shape": lambda: ({"A": {3: np.zeros((5, 5), bool)}}, 2),
    "outside_volume": lambda: ({"A": {18: NEW[0]}}, 2),
}


@pytest.mark.parametrize("code", WRONG)
def test_wrong_masks_are_refused_before_anything_is_written(headless, code):
    case = CommitCase(headless)
    case.fill("A", OLD)
    with pytest.raises(InputError) as refused:
        SegmentCommitter(case.segmentationNode, case.volumeNode).commit(*WRONG[code]())
    assert refused.value.code == code
    np.testing.assert_array_equal(case.read(), OLD)


def test_a_segmentation_of_surfaces_is_refused(headless):
    case = CommitCase(headless)
    case.fill("A", OLD)
    case.segmentationNode.CreateClosedSurfaceRepresentation()
    case.segmentationNode.SetSourceRepresentationToClosedSurface()
    with pytest.raises(InputError) as refused:
        SegmentCommitter(case.segmentationNode, case.volumeNode)
    assert refused.value.code == "segmentation_not_labelmap"


def test_a_closed_scene_is_told(headless):
    case = CommitCase(headless)
    committer = SegmentCommitter(case.segmentationNode, case.volumeNode)
    headless.clear()
    with pytest.raises(InputError) as refused:
        committer.commit({"A": frames(NEW, 2, [3])}, 2)
    assert refused.value.code == "node_removed"
