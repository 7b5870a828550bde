"""What the user sees of a run: the preview while it goes on, the segment after it."""

from __future__ import annotations

import numpy as np

from SAM2PropagateLib.scene.commit import SegmentCommitter
from SAM2PropagateLib.scene.preview import PreviewLayer
from SAM2PropagateLib.scene.volume import volumeGeometry
from Testing.headless.scenes import addSegmentation
from Testing.headless.slice_view import writePng
from Testing.scene.geometries import SHAPE_IJK, addCase

RED = (1.0, 0.0, 0.0)


class MaskCase:
    def __init__(self, headless, openView, geometry="oblique"):
        i, j, k = SHAPE_IJK
        self.volumeNode = addCase(
            headless,
            geometry,
            np.full((k, j, i), 50, np.int16) + (np.arange(k) % 2)[:, None, None].astype(np.int16),
        )
        display = self.volumeNode.GetDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(100, 50)
        self.geometry = volumeGeometry(self.volumeNode)
        self.segmentationNode = addSegmentation(headless, self.volumeNode, {"A": RED, "B": (0, 0, 1)})
        self.view = openView(size=(400, 360))
        self.view.show(self.volumeNode)
        self.view.alignToAxes(self.geometry.ijk_to_ras, 2)
        self.jumpTo(7)
        self.mask = np.zeros((j, i), bool)
        self.mask[8:20, 10:30] = True

    def jumpTo(self, frame):
        self.view.jumpTo(self.geometry.ijk_to_world((20, 18, frame)))

    def color(self, i, j, frame=7, image=None):
        image = self.view.screenshot() if image is None else image
        return self.view.pixel(image, self.view.rasToXy(self.geometry.ijk_to_world((i, j, frame)))).astype(
            int
        )


def isRed(color):
    return color[0] > color[1] + 40 and color[0] > color[2] + 40


def isGray(color):
    return np.ptp(color) <= 2


def test_the_preview_is_drawn_where_the_mask_is_and_gone_after_clearing(headless, openView):
    case = MaskCase(headless, openView)
    assert isGray(case.color(20, 14))
    layer = PreviewLayer(case.segmentationNode, case.volumeNode, 2)
    layer.write("A", 7, case.mask)
    assert isRed(case.color(12, 10)) and isRed(case.color(28, 18))
    assert isGray(case.color(7, 14)) and isGray(case.color(20, 23))
    case.jumpTo(8)
    assert isGray(case.color(20, 14, 8))
    layer.write("A", 8, case.mask)  # while it is being looked at
    assert isRed(case.color(20, 14, 8))
    layer.setVisible(False)
    assert isGray(case.color(20, 14, 8))
    layer.setVisible(True)
    layer.erase("A", 8)
    assert isGray(case.color(20, 14, 8))
    case.jumpTo(7)
    layer.clear()
    assert isGray(case.color(20, 14))
    layer.write("A", 7, case.mask)
    assert isRed(case.color(20, 14))
    layer.close()
    assert isGray(case.color(20, 14))


def test_each_written_frame_asks_the_view_to_redraw(headless, openView):
    case = MaskCase(headless, openView)
    layer = PreviewLayer(case.segmentationNode, case.volumeNode, 2)
    layer.write("A", 3, case.mask)
    case.view.render()
    asked = []
    case.view.onRedrawRequest(lambda: asked.append(1))
    layer.write("A", 7, case.mask)
    assert len(asked) >= 1
    asked.clear()
    case.jumpTo(6)
    assert isGray(case.color(20, 14, 6))
    asked.clear()
    layer.write("A", 6, case.mask, refresh=False)
    assert not asked
    assert isRed(case.color(20, 14, 6))  # whoever draws it for another reason
    layer.refresh()
    assert asked


def test_preview_and_segment_are_told_apart_and_the_commit_shows(headless, openView):
    case = MaskCase(headless, openView)
    layer = PreviewLayer(case.segmentationNode, case.volumeNode, 2)
    layer.write("A", 7, case.mask)
    previewed = case.color(20, 14)
    SegmentCommitter(case.segmentationNode, case.volumeNode).commit(layer.allMasks(), 2)
    layer.close()
    committed = case.color(20, 14)
    assert isRed(committed)
    assert np.abs(committed - previewed).max() > 20
    case.jumpTo(8)
    assert isGray(case.color(20, 14, 8))


def test_overlapping_previews_are_both_drawn(headless, openView):
    case = MaskCase(headless, openView)
    layer = PreviewLayer(case.segmentationNode, case.volumeNode, 2)
    layer.write("A", 7, case.mask)
    alone = case.color(20, 14)
    layer.write("B", 7, np.roll(case.mask, 4, axis=0))
    both, onlyB = case.color(20, 14), case.color(20, 22)
    assert onlyB[2] > onlyB[0] + 40
    assert both[2] > alone[2] + 20


def test_streaming_over_an_open_view_keeps_every_frame(headless, openView):
    case = MaskCase(headless, openView)
    layer = PreviewLayer(case.segmentationNode, case.volumeNode, 2)
    for shift in range(5):
        for frame in range(18):
            layer.write("A", frame, np.roll(case.mask, shift, axis=0))
    masks = layer.masks("A")
    assert sorted(masks) == list(range(18))
    assert all(np.array_equal(mask, np.roll(case.mask, 4, axis=0)) for mask in masks.values())


def test_a_screenshot_is_upright_and_can_be_written(headless, openView, tmp_path):
    case = MaskCase(headless, openView, "plain")
    layer = PreviewLayer(case.segmentationNode, case.volumeNode, 2)
    corner = np.zeros_like(case.mask)
    corner[:6, :6] = True  # towards +R and +A of this volume: left and top as radiologists look
    layer.write("A", 7, corner)
    image = case.view.screenshot()
    assert image.shape == (360, 400, 3) and image.dtype == np.uint8
    rows, columns = np.nonzero(image[..., 0].astype(int) > image[..., 1] + 40)
    assert rows.mean() < 180 and columns.mean() < 200
    writePng(image, tmp_path / "view.png")
    case.view.savePng(tmp_path / "same.png")
    assert (tmp_path / "view.png").stat().st_size > 1000
    assert (tmp_path / "view.png").read_bytes() == (tmp_path / "same.png").read_bytes()
