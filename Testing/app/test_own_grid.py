"""Segmentations that are finer, or coarser, than the volume: no stroke is lost or overlooked."""

# ruff: noqa: N803

from __future__ import annotations

import numpy as np
import pytest
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from SAM2PropagateLib.app.events import Choices
from SAM2PropagateLib.app.strip import EDITED
from SAM2PropagateLib.scene.lattice import Lattice
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateTesting.scenes import GEOMETRIES, SHAPE_IJK, refinedGrid, setGrid
from Testing.app.cases import HeadlessCase

PLAIN = GEOMETRIES["plain"][0]
KEEP = Choices(applyAutomatically=False)
SHAPE = (36, 40)


class FineCase(HeadlessCase):
    """The segmentation's voxels are smaller than the volume's."""

    def __init__(self, headless, factors=(2, 2, 2), **options):
        super().__init__(headless, **options)
        self.controller.close()
        matrix, shape = refinedGrid(PLAIN, SHAPE_IJK, factors)
        setGrid(self.segmentationNode, matrix, shape)
        self.lattice = Lattice(matrix, tuple(edge for size in shape for edge in (0, size - 1)))
        self.start(options.get("choices"))

    def own(self, segmentID="A"):
        reader = SegmentReader(self.segmentationNode, segmentID, self.geometry)
        return reader.onLattice(self.lattice)

    def put(self, voxels, segmentID="A"):
        """As an effect of the Segment Editor does."""
        image = slicer.vtkOrientedImageData()
        image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(self.lattice.ijkToWorld))
        image.SetExtent(*self.lattice.extent)
        image.AllocateScalars(3, 1)
        vtk_to_numpy(image.GetPointData().GetScalars())[:] = voxels.ravel()
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        logic.SetBinaryLabelmapToSegment(
            image, self.segmentationNode, segmentID, logic.MODE_REPLACE, image.GetExtent()
        )

    def stroke(self, layer):
        """A block of 2 x 2 fine voxels in one layer, away from what the clicks give."""
        stroke = np.zeros(self.lattice.shape, bool)
        stroke[layer, 52:54, 62:64] = True
        return stroke


@pytest.fixture
def case(headless):
    one = FineCase(headless, choices=KEEP)
    yield one
    one.controller.close()


@pytest.mark.parametrize("factors", [(2, 2, 2), (3, 3, 3), (1, 1, 4)])
def test_a_stroke_in_any_layer_survives_the_next_run(headless, factors):
    for layer in range(6 * factors[2], 7 * factors[2]):
        case = FineCase(headless, factors)
        case.click(12, 15, 12)
        case.run()
        stroke = np.zeros(case.lattice.shape, bool)
        stroke[layer, 20 * factors[1] : 24 * factors[1], 30 * factors[0] : 34 * factors[0]] = True
        before = case.own() | stroke
        case.put(before)
        case.controller.lookForEdits()
        assert case.controller.strip().frames[6].drawnAs == EDITED
        case.click(28, 26, 3)
        case.run()
        np.testing.assert_array_equal(
            case.own()[6 * factors[2] : 7 * factors[2]], before[6 * factors[2] : 7 * factors[2]]
        )
        (mask,) = (one for one in case.workspace.prompts.segment("A").masks if one.id == "edit-k6")
        # The model is told of it, whichever layer it is in.
        assert mask.mask[20:24, 30:34].all()
        case.controller.close()
        headless.clear()


def test_outlines_that_were_smoothed_by_hand_stay(headless):
    case = FineCase(headless)
    case.click(12, 15, 12)
    case.run()
    _k, j, i = np.indices(case.lattice.shape)
    smooth = ((j - 30.5) / 7.2) ** 2 + ((i - 24.5) / 7.2) ** 2 <= 1
    case.put(smooth)
    case.click(30, 28, 3)
    case.run()
    np.testing.assert_array_equal(case.own()[:, :46, :50], smooth[:, :46, :50])
    assert case.segment(3)[28, 30]
    case.controller.close()


@pytest.mark.parametrize("then", ["look", "apply", "propagate", "tool"])
@pytest.mark.parametrize("layer", [12, 13])
def test_a_fine_stroke_under_a_preview_is_kept(case, then, layer):
    case.click(12, 15, 6)
    shown = case.shown(6)
    stroke = case.stroke(layer)
    case.put(stroke)
    if then == "look":
        case.controller.lookForEdits()
    elif then == "apply":
        case.controller.apply()
    elif then == "propagate":
        case.run()
        case.controller.apply()
    else:
        case.controller.editBegins()
    assert case.own()[stroke].all()
    assert (case.segment(6) & shown).sum() >= 0.9 * shown.sum()
    assert case.controller.strip().frames[6].drawnAs == EDITED


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_fine_stroke_under_a_preview_that_comes_back_is_kept(case, when):
    case.click(12, 15, 6)
    shown = case.shown(6)
    stroke = case.stroke(12)
    if when == "before":
        case.put(stroke)
        # Before anything looked for edits.
        case.controller.select(case.volumeNode, None)
    else:
        case.controller.select(case.volumeNode, None)
        case.put(stroke)
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    np.testing.assert_array_equal(case.shown(6), shown)
    case.controller.apply()
    assert case.own()[stroke].all()
    assert (case.segment(6) & shown).sum() >= 0.9 * shown.sum()


def test_a_preview_that_comes_back_over_an_older_stroke_is_as_it_was(case):
    case.put(case.stroke(12))
    case.click(12, 15, 6)
    shown = case.shown(6)
    said = case.workspace.prompts
    case.controller.select(case.volumeNode, None)
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    case.controller.lookForEdits()
    np.testing.assert_array_equal(case.shown(6), shown)
    assert 6 in case.workspace.previewFrames("A") and case.workspace.prompts == said


@pytest.mark.parametrize("end", ["done", "cancelled"])
def test_a_fine_stroke_during_a_run_is_kept(headless, end):
    case = FineCase(headless, choices=Choices())
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    case.controller.poll()
    behind, ahead = case.stroke(4), case.stroke(34)
    assert 2 in case.workspace.previewFrames("A") and 17 not in case.workspace.previewFrames("A")
    case.put(behind | ahead)
    if end == "done":
        assert case.controller.wait(60)
        assert case.segment(17)[15, 12]
    else:
        case.controller.cancel()
        case.controller.apply()
    assert case.own()[behind].all() and case.own()[ahead].all()
    assert case.segment(2)[15, 12]
    case.controller.close()


def test_keyframes_of_merged_strokes_are_not_written_again(case):
    case.click(12, 15, 6)
    case.put(case.stroke(12))
    case.controller.lookForEdits()
    before = case.own()
    case.click(12, 15, 12)
    case.run()
    case.controller.apply()
    np.testing.assert_array_equal(case.own()[12:14], before[12:14])


def test_the_worker_is_asked_for_edges_only_where_they_are_of_use(headless):
    fine = FineCase(headless)
    fine.click(12, 15, 8)
    fine.run()
    assert [details[2]["edges"] for kind, details in fine.session.asked if kind == "propagate"] == [True]
    fine.controller.close()
    plain = HeadlessCase(headless)
    plain.click(12, 15, 8)
    plain.run()
    assert [details[2]["edges"] for kind, details in plain.session.asked if kind == "propagate"] == [False]
    plain.controller.close()


def test_a_coarser_segmentation_is_told_of_once(headless):
    case = HeadlessCase(headless)
    half = np.diag([2.0, 2.0, 2.0, 1.0])
    half[:3, 3] = 0.5
    setGrid(case.segmentationNode, PLAIN @ half, (20, 18, 9))
    case.click(12, 15, 8)
    assert case.codes == []
    case.run()
    assert case.codes == ["coarse_segmentation"]
    assert "2.4 × 1.8 × 5 mm" in case.texts[0] and "1.2 × 0.9 × 2.5 mm" in case.texts[0]
    case.click(20, 15, 8)
    case.run()
    assert case.codes == ["coarse_segmentation"]
    case.controller.close()


def resampled(segmentationNode, matrix, shape):
    """Puts the segments onto another grid, as the Segment Editor's dialog for its geometry does."""
    setGrid(segmentationNode, matrix, shape)
    wanted = slicer.vtkOrientedImageData()
    wanted.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(matrix))
    wanted.SetExtent(*(edge for size in shape for edge in (0, size - 1)))
    segment = segmentationNode.GetSegmentation().GetSegment("A")
    image = segment.GetRepresentation("Binary labelmap")
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        image, wanted, image, False, True
    )
    segmentationNode.GetSegmentation().Modified()
    segmentationNode.Modified()


@pytest.mark.parametrize("factors", [(2, 2, 2), (3, 3, 3), (1, 1, 4)])
def test_a_grid_that_is_made_finer_after_a_run_is_no_move(headless, factors):
    case = HeadlessCase(headless)
    case.click(18, 16, 6)
    case.run()
    stroke = np.zeros((36, 40), bool)
    stroke[8:16, 8:16] = True
    case.paint(10, stroke)
    resampled(case.segmentationNode, *refinedGrid(PLAIN, SHAPE_IJK, factors))
    assert [one.frame for one in case.workspace.edits("A")] == [10]
    kept = case.segment(10).copy()
    case.click(30, 28, 2)
    case.run()
    assert case.codes == []
    np.testing.assert_array_equal(case.segment(10), kept)
    case.controller.close()


def test_a_segmentation_that_was_scaled_alone_is_told_of(headless):
    case = HeadlessCase(headless)
    case.click(18, 16, 6)
    case.run()
    node = headless.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "scale")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.diag([1.2, 1.2, 1.0, 1.0])))
    case.segmentationNode.SetAndObserveTransformNodeID(node.GetID())
    case.segmentationNode.HardenTransform()
    case.click(30, 28, 2)
    case.run()
    assert "moved_apart" in case.codes
    case.controller.close()
