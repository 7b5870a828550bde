"""What belongs and what does not is told apart at a glance, on dark and on bright slices."""

from __future__ import annotations

import numpy as np
import pytest

from Headless.scenes import addSegmentation, addVolume
from SAM2PropagateLib.prompts.place import click_at
from SAM2PropagateLib.prompts.values import PromptSet, SegmentPrompts
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.volume import volumeGeometry
from SAM2PropagateTesting.views import turnToAxes

# More than a hair that is lost in the noise of a CT.
_SEEN = 60


def drawn(image, color):
    """The pixels of a color, (n, 2) as (row, column)."""
    return np.argwhere(np.abs(image[..., :3] / 255.0 - color).max(axis=-1) < 0.02)


@pytest.mark.parametrize("background", [0, 128, 255])
@pytest.mark.parametrize("segment", [(0.5, 0.68, 0.5), (1.0, 0.0, 0.0)])
def test_both_signs_are_seen_and_differ_in_color_and_shape(headless, openView, background, segment):
    array = np.full((9, 40, 40), background, np.int16)
    array[0, 0, 0] = 1
    volume = addVolume(headless, array)
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevel(255, 127.5)
    segmentation = addSegmentation(headless, volume, {"A": segment})
    geometry = volumeGeometry(volume)
    markups = PromptMarkups(segmentation, volume)
    clicks = (click_at(12, 20, 4, geometry, 2), click_at(28, 20, 4, geometry, 2, False))
    markups.write(PromptSet((SegmentPrompts("A", clicks=clicks),), 2))
    view = openView(size=(420, 400))
    view.show(volume)
    turnToAxes(view.node, geometry.ijk_to_ras, 2)
    view.fit()
    view.jumpTo(geometry.ras_of_ijk((20, 20, 4)))
    image = view.screenshot()
    shapes = []
    for sign in (True, False):
        pixels = drawn(image, markups.clickNode("A", sign).GetDisplayNode().GetSelectedColor())
        assert len(pixels) > _SEEN
        shapes.append(np.ptp(pixels, axis=0))
    (plusRows, plusColumns), (minusRows, minusColumns) = shapes
    assert abs(plusRows - plusColumns) <= 1 and minusColumns > 4 * minusRows
