"""A screenshot of the headless slice view can be written to a file."""

from __future__ import annotations

import numpy as np

from Headless.scenes import addSegmentation
from Headless.slice_view import writePng
from SAM2PropagateLib.scene.preview import PreviewLayer
from SAM2PropagateLib.scene.volume import volumeGeometry
from SAM2PropagateTesting.views import turnToAxes
from Testing.scene.geometries import SHAPE_IJK, addCase


def test_a_screenshot_is_upright_and_can_be_written(headless, openView, tmp_path):
    i, j, k = SHAPE_IJK
    stripes = np.full((k, j, i), 50, np.int16) + (np.arange(k, dtype=np.int16) % 2)[:, None, None]
    volumeNode = addCase(headless, "plain", stripes)
    volumeNode.GetDisplayNode().SetAutoWindowLevel(False)
    volumeNode.GetDisplayNode().SetWindowLevel(100, 50)
    segmentationNode = addSegmentation(headless, volumeNode, {"A": (1.0, 0.0, 0.0)})
    view = openView(size=(400, 360))
    view.show(volumeNode)
    turnToAxes(view.node, volumeGeometry(volumeNode).ijk_to_ras, 2)
    view.fit()
    view.jumpTo(volumeGeometry(volumeNode).ras_of_ijk((20, 18, 7)))
    layer = PreviewLayer(segmentationNode, volumeNode, 2)
    corner = np.zeros((j, i), bool)
    corner[:6, :6] = True  # toward +R and +A of this volume: left and top as radiologists look
    layer.write("A", 7, corner)
    image = view.screenshot()
    assert image.shape == (360, 400, 3) and image.dtype == np.uint8
    rows, columns = np.nonzero(image[..., 0].astype(int) > image[..., 1] + 40)
    assert rows.mean() < 180 and columns.mean() < 200
    writePng(image, tmp_path / "view.png")
    view.savePng(tmp_path / "same.png")
    assert (tmp_path / "view.png").stat().st_size > 1000
    assert (tmp_path / "view.png").read_bytes() == (tmp_path / "same.png").read_bytes()
