"""The user's story from the first click to the next day, with the real worker and the bundled model."""

# ruff: noqa: N802

from __future__ import annotations

import numpy as np
import pytest

from SAM2PropagateLib.gui.events import Choices
from SAM2PropagateLib.models.store import ModelStore
from Testing.flow.cases import FlowCase, dice, sampleLabels
from Testing.headless.scenes import fillSegment

# As few slices as show everything: this runs on any machine.
REACH = 4


@pytest.fixture
def labels():
    return sampleLabels()


def middleOf(labels, name):
    """A voxel well inside a structure, on the slice where it is largest."""
    from scipy import ndimage

    array, values = labels
    mask = array == values[name]
    k = int(mask.sum(axis=(1, 2)).argmax())
    depth = ndimage.distance_transform_edt(mask[k])
    j, i = np.unravel_index(int(depth.argmax()), depth.shape)
    return (int(i), int(j), k), mask


def test_from_the_first_click_to_the_next_day(headless, tmp_path, labels):
    assert ModelStore().status()[0].there, "the bundled model is not in Resources/Models"
    seed, truth = middleOf(labels, "liver")
    k = seed[2]
    case = FlowCase(headless, choices=Choices(reach=REACH, device="cpu"))
    try:
        # A click, and its preview.
        assert case.click(seed), case.messages
        workspace = case.controller.workspace
        assert workspace.previewFrames("A") == {k}
        assert dice(workspace.maskNow("A", k), truth[k]) > 0.8
        assert not case.segment().any()

        # A run that is cancelled half way keeps what is finished, in the preview only.
        assert case.controller.propagate()
        assert case.until(lambda: len(workspace.previewFrames("A")) >= 3)
        case.controller.cancel()
        assert case.controller.wait(60)
        assert case.ends[-1].state == "cancelled"
        finished = {frame: workspace.maskNow("A", frame) for frame in workspace.previewFrames("A")}
        assert len(finished) >= 3 and not case.segment().any()

        # The whole run is applied, undone and redone in one step each.
        assert case.run().applied
        first = case.segment()
        assert [n for n in range(len(first)) if first[n].any()] == list(range(k - REACH, k + REACH + 1))
        assert dice(first[k - REACH : k + REACH + 1], truth[k - REACH : k + REACH + 1]) > 0.8
        for frame, mask in finished.items():
            assert dice(first[frame], mask) > 0.95
        assert case.controller.undo() and not case.segment().any()
        assert case.controller.redo()
        np.testing.assert_array_equal(case.segment(), first)

        # A slice is edited by hand: it stays as it is, and only its neighbourhood changes.
        edited = first.copy()
        half = edited[k + 2]
        half[:, seed[0] :] = False
        assert half.any()
        fillSegment(case.segmentationNode, "A", case.volumeNode, edited)
        assert case.run().applied
        second = case.segment()
        np.testing.assert_array_equal(second[k + 2], half)
        np.testing.assert_array_equal(second[: k + 1], first[: k + 1])
        strip = case.controller.strip()
        assert strip.frames[k + 2].look == "edited" and strip.frames[k].look == "keyframe"

        # A click on that slice refines what was painted.
        assert case.click((seed[0] + 3, seed[1], k + 2))
        refined = workspace.maskNow("A", k + 2)
        assert (refined & half).sum() > 0.95 * half.sum()
        assert case.run().applied
        third = case.segment()
        np.testing.assert_array_equal(third[k + 2], refined)

        # The next day.
        case.controller.close()
        headless.saveScene(tmp_path / "scene.mrb")
        headless.clear()
        headless.loadScene(tmp_path / "scene.mrb")
        case.volumeNode = headless.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
        case.segmentationNode = headless.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        case.start(Choices(reach=REACH, device="cpu"))
        np.testing.assert_array_equal(case.segment(), third)
        assert [one.look for one in case.controller.strip().frames].count("edited") == 1
        assert case.click((seed[0], seed[1], k - 3))
        assert case.run().applied
        np.testing.assert_array_equal(case.segment()[k + 2], third[k + 2])
        assert [message.code for message in case.messages if message.level == "error"] == []
    finally:
        case.controller.close()
