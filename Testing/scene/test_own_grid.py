"""Segmentations on a grid of their own: every voxel counts, nothing is rewritten that did not change."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from SAM2PropagateLib.packed_masks import EDGE_STEPS, pack_edge
from SAM2PropagateLib.scene import own_grid, slabs
from SAM2PropagateLib.scene.commit import CommitSummary, SegmentCommitter
from SAM2PropagateLib.scene.edits import EditTracker
from SAM2PropagateLib.scene.lattice import Lattice, resample
from SAM2PropagateLib.scene.own_grid import FrameSums, ownVoxels, placesIn
from SAM2PropagateLib.scene.segments import SegmentReader, volumeLattice
from SAM2PropagateLib.scene.smooth import FrameDetail
from SAM2PropagateLib.scene.volume import volumeGeometry
from SAM2PropagateTesting.scenes import refinedGrid, setGrid
from Testing.scene.geometries import GEOMETRIES, SHAPE_IJK, addCase, rotation
from Testing.scene.test_commit import ball, frames

PLAIN = GEOMETRIES["plain"][0]


def shifted(factors, by):
    """A refined grid whose voxel centers lie elsewhere; `by` is in its own voxels."""
    matrix, shape = refinedGrid(PLAIN, SHAPE_IJK, factors)
    move = np.eye(4)
    move[:3, 3] = by
    return matrix @ move, shape


def turned(degrees, factors=(2, 2, 3)):
    matrix, shape = refinedGrid(PLAIN, SHAPE_IJK, factors)
    center = PLAIN @ [19.5, 17.5, 8.5, 1]
    there, back = np.eye(4), np.eye(4)
    there[:3, 3], back[:3, 3] = center[:3], -center[:3]
    return there @ rotation(degrees, 0) @ rotation(degrees / 2, 2) @ back @ matrix, shape


GRIDS = {
    "2": refinedGrid(PLAIN, SHAPE_IJK, (2, 2, 2)),
    "3": refinedGrid(PLAIN, SHAPE_IJK, (3, 3, 3)),
    "4": refinedGrid(PLAIN, SHAPE_IJK, (4, 4, 4)),
    "1 1 4": refinedGrid(PLAIN, SHAPE_IJK, (1, 1, 4)),
    "3 1 1": refinedGrid(PLAIN, SHAPE_IJK, (3, 1, 1)),
    "2 3 1": refinedGrid(PLAIN, SHAPE_IJK, (2, 3, 1)),
    "2 shifted": shifted((2, 2, 2), (0.3, -0.4, 0.2)),
    "2 shifted by half a voxel": shifted((2, 2, 2), (0.5, 0.5, 0.5)),
    "turned": turned(25),
}


class Fine:
    """A segment `A` on a grid of its own, a tracker and a committer."""

    def __init__(self, headless, grid, geometry="plain"):
        self.headless = headless
        self.volumeNode = addCase(headless, geometry)
        self.segmentationNode = headless.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
        self.segmentationNode.CreateDefaultDisplayNodes()
        self.segmentationNode.SetAndObserveTransformNodeID(self.volumeNode.GetTransformNodeID())
        setGrid(self.segmentationNode, *grid)
        self.segmentationNode.GetSegmentation().AddEmptySegment("A", "A", (0, 1, 0))
        self.geometry = volumeGeometry(self.volumeNode)
        self.begin()
        i, j, k = grid[1]
        self.lattice = Lattice(grid[0], (0, i - 1, 0, j - 1, 0, k - 1))

    def begin(self):
        self.tracker = EditTracker(self.segmentationNode, self.volumeNode)
        self.committer = SegmentCommitter(self.segmentationNode, self.volumeNode, edits=self.tracker)

    @property
    def reader(self):
        return SegmentReader(self.segmentationNode, "A", self.geometry)

    def own(self):
        """The segment on its own grid, (K, J, I) bool."""
        return self.reader.onLattice(self.lattice)

    def put(self, voxels):
        """Makes the segment hold these voxels of its own grid, as an effect of the Segment Editor does."""
        image = slicer.vtkOrientedImageData()
        image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(self.lattice.ijkToWorld))
        image.SetExtent(*self.lattice.extent)
        image.AllocateScalars(3, 1)
        vtk_to_numpy(image.GetPointData().GetScalars())[:] = voxels.ravel()
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        logic.SetBinaryLabelmapToSegment(
            image, self.segmentationNode, "A", logic.MODE_REPLACE, image.GetExtent()
        )
        np.testing.assert_array_equal(self.own(), voxels)

    def places(self, voxels):
        """The volume's voxels in which these own voxels lie, (n, 3) i, j, k."""
        return placesIn(np.argwhere(voxels), self.lattice, volumeLattice(self.geometry))

    def inFrames(self, wanted, axis=2):
        """The own voxels that lie in these frames."""
        row = self.lattice.indexMatrix(volumeLattice(self.geometry))[axis]
        k, j, i = (np.arange(size) for size in self.lattice.shape)
        place = row[0] * i + row[1] * j[:, None] + row[2] * k[:, None, None] + row[3]
        return np.isin(np.floor(place + 0.5 + 1e-4), list(wanted))

    def edited(self, axis=2):
        return [one.frame for one in self.tracker.edited("A", axis)]


@pytest.fixture(params=GRIDS)
def fine(headless, request):
    return Fine(headless, GRIDS[request.param])


DISC = ball((18, 17, 8), 9)


def test_an_edit_of_any_single_voxel_is_found_along_every_axis(fine):
    fine.committer.commit({"A": frames(DISC, 2, range(18))}, 2)
    assert [fine.edited(axis) for axis in range(3)] == [[], [], []]
    whole = fine.own()
    random = np.random.default_rng(3)
    for isErased in (False, True) * 3:
        kept = np.argwhere(whole if isErased else ~whole & fine.inFrames(range(1, 17)))
        place = tuple(random.choice(kept))
        changed = np.zeros(whole.shape, bool)
        changed[place] = True
        where = fine.places(changed)
        if not len(where):
            continue
        fine.put(whole ^ changed)
        for axis in range(3):
            assert fine.edited(axis) == [int(where[0, axis])], (place, axis)
        fine.put(whole)
        assert fine.edited() == []


def test_an_edit_of_a_single_voxel_on_an_empty_slice_is_no_absent_slice(fine):
    fine.committer.commit({"A": frames(DISC, 2, range(5, 12))}, 2)
    whole = fine.own()
    assert not (whole & fine.inFrames([15])).any()
    voxel = np.zeros(whole.shape, bool)
    voxel[tuple(np.argwhere(fine.inFrames([15]) & fine.inFrames([20], 0) & fine.inFrames([20], 1))[0])] = True
    fine.put(whole | voxel)
    (edit,) = fine.tracker.edited("A", 2)
    assert edit.frame == 15 and edit.prompt.mask.sum() == 1 and edit.prompt.mask[20, 20]


def test_a_slice_whose_mask_is_what_was_read_is_not_written(fine):
    """Detail finer than the volume's pixels stays on edited slices, whatever the run does to the others."""
    fine.committer.commit({"A": frames(DISC, 2, range(18))}, 2)
    whole = fine.own()
    detail = np.random.default_rng(5).random(whole.shape) < 0.1
    hand = whole ^ (detail & fine.inFrames([6, 7, 9]))
    fine.put(hand)
    assert fine.edited() == [6, 7, 9]
    masks = {one.frame: one.prompt.mask for one in fine.tracker.edited("A", 2)}
    assert fine.committer.commit({"A": masks}, 2) == CommitSummary(0, 0, 0)
    np.testing.assert_array_equal(fine.own(), hand)
    other = ball((22, 20, 9), 8)
    fine.committer.commit({"A": {**frames(other, 2, range(18)), **masks}}, 2)
    kept = fine.inFrames([6, 7, 9])
    np.testing.assert_array_equal(fine.own()[kept], hand[kept])
    assert (fine.own() != hand)[fine.inFrames([4, 5, 8, 10])].any()
    assert fine.edited() == []


def test_only_the_frames_of_a_run_change(fine):
    fine.committer.commit({"A": frames(DISC, 2, range(18))}, 2)
    before = fine.own()
    fine.committer.commit({"A": frames(ball((22, 20, 9), 10), 2, [5, 6, 10])}, 2)
    changed = fine.own() != before
    assert changed.any() and not (changed & ~fine.inFrames([5, 6, 10])).any()
    fine.committer.commit({"A": frames(np.zeros_like(DISC), 2, range(18))}, 2)
    assert not fine.own().any()


def test_a_correction_changes_what_is_near_it(fine):
    fine.committer.commit({"A": frames(DISC, 2, range(18))}, 2)
    hand = fine.own() ^ ((np.random.default_rng(5).random(fine.lattice.shape) < 0.1) & fine.inFrames([8]))
    fine.put(hand)
    (edit,) = fine.tracker.edited("A", 2)
    corrected = edit.prompt.mask.copy()
    corrected[2:6, 2:6] = True
    fine.committer.commit({"A": {8: corrected}}, 2)
    far = fine.inFrames(range(8, SHAPE_IJK[0]), 0) | fine.inFrames(range(8, SHAPE_IJK[1]), 1)
    np.testing.assert_array_equal(fine.own()[far], hand[far])
    now = fine.reader.frame(8, 2)
    assert now[3:5, 3:5].all()


@pytest.mark.parametrize("degrees", [8, 17, 25, 40])
def test_a_segment_on_a_turned_grid_is_not_read_larger_than_it_is(headless, degrees):
    one = Fine(headless, turned(degrees, (1, 1, 1)))
    one.committer.commit({"A": frames(DISC, 2, range(18))}, 2)
    read = one.reader.array()
    planes = np.stack([one.reader.frame(frame, 2) for frame in range(18)])
    throughout = np.stack([one.reader.frame(frame, 2, throughout=True) for frame in range(18)])
    for mask in (planes, throughout, read):
        assert abs(mask.sum() / DISC.sum() - 1) < 0.06
        assert 2 * (mask & DISC).sum() / (mask.sum() + DISC.sum()) > 0.92


def test_a_mask_that_was_written_is_read_as_large_as_it_was(fine):
    fine.committer.commit({"A": frames(DISC, 2, range(18))}, 2)
    read = np.stack([fine.reader.frame(frame, 2) for frame in range(18)])
    assert abs(read.sum() / DISC.sum() - 1) < 0.02


@pytest.mark.parametrize("layer", [0, 1])
def test_a_stroke_in_one_of_two_layers_is_read_in_full(headless, layer):
    one = Fine(headless, GRIDS["2"])
    stroke = np.zeros(one.lattice.shape, bool)
    stroke[12 + layer, 20:30, 20:32] = True
    one.put(stroke)
    wanted = np.zeros(one.geometry.frame_shape(2), bool)
    wanted[10:15, 10:16] = True
    np.testing.assert_array_equal(one.reader.frame(6, 2), wanted)


def sphere(lattice, geometry, center, radius):
    """A sphere, in mm, on a grid: what is wanted of masks that lie on the volume's pixels."""
    e = lattice.extent
    k, j, i = np.mgrid[e[4] : e[5] + 1, e[2] : e[3] + 1, e[0] : e[1] + 1]
    points = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ lattice.ijkToWorld.T
    distance = np.linalg.norm(points[..., :3] - geometry.ras_of_ijk(center), axis=-1)
    return distance <= radius, radius - distance


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_masks_arrive_smooth_and_smoother_where_the_edge_is_known(fine):
    center, radius = (19.6, 17.3, 8.4), 12.3
    volume = volumeLattice(fine.geometry)
    coarse, depth = sphere(volume, fine.geometry, center, radius)
    wanted, _ = sphere(fine.lattice, fine.geometry, center, radius)
    blocks = resample(coarse.view(np.uint8), volume, fine.lattice).astype(bool)
    masks = frames(coarse, 2, range(18))
    fine.committer.commit({"A": masks}, 2)
    smooth = fine.own()
    fine.committer.undo()
    assert not fine.own().any()
    spacing = fine.geometry.spacing[0]
    details = {}
    for frame in range(18):
        steps = np.clip(np.rint(depth[frame] / spacing * EDGE_STEPS), -127, 127).astype(np.int8)
        details[frame] = FrameDetail(
            pack_edge(np.where(steps == 0, np.where(coarse[frame], 1, -1), steps).astype(np.int8))
        )
    fine.committer.commit({"A": masks}, 2, {"A": details})
    known = fine.own()
    error = [1 - dice(one, wanted) for one in (blocks, smooth, known)]
    # A grid that is finer along one axis of the slices alone has no voxels where shapes could tell more.
    isAcrossOnly = fine.lattice.shape == (18, 36, 120)
    assert error[1] <= error[0] if isAcrossOnly else error[1] < 0.75 * error[0], error
    assert error[2] < 0.7 * error[0] and error[2] <= error[1] + 0.001, error
    # No larger, no smaller.
    assert smooth.sum() == pytest.approx(blocks.sum(), rel=0.03)
    assert fine.edited() == []


def test_a_run_that_finds_the_same_again_writes_nothing(fine):
    masks = frames(DISC, 2, range(18))
    depth = np.where(DISC, 0.4, -0.6) * EDGE_STEPS
    details = {frame: FrameDetail(pack_edge(depth[frame].astype(np.int8))) for frame in range(18)}
    fine.committer.commit({"A": masks}, 2, {"A": details})
    assert fine.committer.commit({"A": masks}, 2, {"A": details}) == CommitSummary(0, 0, 0)


def test_a_run_is_computed_in_small_steps_with_the_same_result(fine, monkeypatch):
    masks = frames(DISC, 2, range(18))
    fine.committer.commit({"A": masks}, 2)
    atOnce, hashes = fine.own(), fine.tracker.hashes("A", 2)
    assert fine.committer.undo()
    # So that a small grid has many slabs, too.
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 3000)
    plan, steps = fine.committer.plan({"A": masks}, 2), 0
    while plan.step():
        steps += 1
    # One for each mask that is looked at and drawn, for each slab that is decided and compared, and for each
    # layer that is hashed.
    layers = fine.lattice.shape[0]
    assert steps > 2 * 18 + 2 * layers / 3, steps
    fine.committer.carryOut(plan)
    np.testing.assert_array_equal(fine.own(), atOnce)
    assert fine.tracker.hashes("A", 2) == hashes


def test_undo_is_no_edit(fine):
    fine.committer.commit({"A": frames(DISC, 2, range(18))}, 2)
    fine.committer.commit({"A": frames(ball((22, 20, 9), 10), 2, range(18))}, 2)
    assert fine.committer.undo() and fine.edited() == []
    assert fine.committer.redo() and fine.edited() == []


@pytest.mark.parametrize("suffix", [".mrb", ".mrml"])
@pytest.mark.parametrize("name", ["2", "1 1 4", "2 shifted by half a voxel", "turned"])
def test_an_edit_between_the_volumes_voxels_is_found_after_loading(headless, tmp_path, name, suffix):
    fine = Fine(headless, GRIDS[name])
    fine.committer.commit({"A": frames(DISC, 2, range(18))}, 2)
    file = tmp_path / f"scene{suffix}"

    def reload():
        headless.saveScene(file)
        headless.clear()
        headless.loadScene(file)
        fine.segmentationNode = headless.scene.GetFirstNodeByName("Segmentation")
        fine.volumeNode = headless.scene.GetFirstNodeByName("CT")
        fine.begin()

    reload()
    assert fine.edited() == []
    voxel = tuple(np.argwhere(fine.own() & fine.inFrames([6]))[0])
    changed = fine.own()
    changed[voxel] = False
    fine.put(changed)
    assert fine.edited() == [6]
    reload()
    assert fine.edited() == [6]


def test_another_grid_for_the_segmentation_is_no_edit(headless):
    fine = Fine(headless, (PLAIN, SHAPE_IJK))
    fine.committer.commit({"A": frames(DISC, 2, range(18))}, 2)
    image = fine.segmentationNode.GetSegmentation().GetSegment("A").GetRepresentation("Binary labelmap")
    for factors in ((2, 2, 2), (3, 3, 3), (1, 1, 1)):
        matrix, shape = refinedGrid(PLAIN, SHAPE_IJK, factors)
        setGrid(fine.segmentationNode, matrix, shape)
        fine.lattice = Lattice(matrix, tuple(edge for size in shape for edge in (0, size - 1)))
        fine.put(resample(DISC.view(np.uint8), volumeLattice(fine.geometry), fine.lattice).astype(bool))
        assert fine.edited() == []
    assert image is not None


def test_a_coarser_grid_is_told_in_the_summary(headless):
    fine = Fine(headless, refinedGrid(PLAIN, SHAPE_IJK, (2, 2, 2)))
    assert fine.committer.commit({"A": frames(DISC, 2, range(18))}, 2).coarseVoxel is None
    half = np.diag([2.0, 2.0, 2.0, 1.0])
    half[:3, 3] = 0.5
    coarse = Fine(headless, (PLAIN @ half, (20, 18, 9)))
    summary = coarse.committer.commit({"A": frames(DISC, 2, range(18))}, 2)
    assert summary.coarseVoxel == pytest.approx((2.4, 1.8, 5.0))


@pytest.mark.parametrize("name", ["3", "1 1 4", "2 3 1", "2 shifted", "2 shifted by half a voxel"])
def test_frames_are_told_apart_the_same_way_voxel_by_voxel(headless, monkeypatch, name):
    fine = Fine(headless, GRIDS[name])
    fine.put(np.random.default_rng(11).random(fine.lattice.shape) < 0.05)
    own = ownVoxels(fine.reader, fine.geometry)
    atOnce, single = FrameSums(fine.geometry), FrameSums(fine.geometry)
    atOnce.change(own)
    monkeypatch.setattr(own_grid, "alignedAxes", lambda *_: None)
    single.change(own)
    for axis in range(3):
        assert atOnce.texts(axis) == single.texts(axis)
        assert len(atOnce.texts(axis)) == SHAPE_IJK[axis]
