"""Previews, steps and saved scenes when the axis changes. In a cube a mask of one axis fits all others."""

from __future__ import annotations

import numpy as np
import pytest

from SAM2PropagateLib.app.events import Choices
from SAM2PropagateTesting.scenes import addSegmentation
from Testing.app.cases import HeadlessCase
from Testing.scene.geometries import addCase

KEEP = Choices(applyAutomatically=False)
SHAPES = {"cube": (24, 24, 24), "sides": (18, 36, 40)}


@pytest.fixture(params=SHAPES)
def case(headless, request):
    one = HeadlessCase(headless)
    one.controller.close()
    headless.clear()
    array = np.zeros(SHAPES[request.param], np.int16)
    array[5:9, 5:9, 5:9] = 100
    one.volumeNode = addCase(headless, "plain", array)
    one.segmentationNode = addSegmentation(one.volumeNode, {"A": (0, 1, 0), "B": (1, 0, 0)})
    one.start(KEEP)
    yield one
    one.controller.close()


def preview(case):
    """The axis, and the masks of the preview along it."""
    names = case.workspace.segmentIDs
    return case.workspace.axis, {
        (name, frame): case.shown(frame, name)
        for name in names
        for frame in case.workspace.previewFrames(name)
    }


def same(now, before):
    assert now[0] == before[0] and now[1].keys() == before[1].keys()
    for key, mask in before[1].items():
        np.testing.assert_array_equal(now[1][key], mask, str(key))


@pytest.mark.parametrize("takes_back", ["undo", "clearPrompts"])
def test_what_is_saved_after_a_change_of_the_axis_is_what_was_shown(case, tmp_path, takes_back):
    assert case.click(6, 7, 10, axis=1)
    getattr(case.controller, takes_back)()
    case.settle()
    assert case.click(12, 13, 10)
    before = preview(case)
    assert before[0] == 2 and list(before[1]) == [("A", 10)]
    case.reload(tmp_path / "scene.mrb", KEEP)
    same(preview(case), before)
    assert not case.texts


def test_undo_across_a_change_of_the_axis_shows_each_preview_along_its_own(case):
    case.click(12, 6, 10, axis=1)
    first = preview(case)
    case.controller.clearPrompts()
    case.settle()
    case.click(12, 15, 8)
    second = preview(case)
    for _ in range(2):
        assert case.controller.undo() and case.controller.undo(), case.texts
        case.settle()
        same(preview(case), first)
        assert case.workspace.preview.axis == 1
        assert case.controller.redo() and case.controller.redo(), case.texts
        case.settle()
        same(preview(case), second)
        assert case.workspace.preview.axis == 2
    assert not case.texts


def test_a_removed_segment_comes_back_along_its_own_axis(case):
    case.click(6, 7, 8)
    first = preview(case)
    case.controller.removeSegment()
    case.settle()
    case.controller.select(case.volumeNode, case.segmentationNode, "B")
    case.click(10, 4, 3, axis=1)
    second = preview(case)
    assert second[0] == 1
    assert case.controller.undo() and case.controller.undo(), case.texts
    case.settle()
    same(preview(case), first)
    assert case.controller.redo() and case.controller.redo(), case.texts
    case.settle()
    same(preview(case), second)
    assert not case.texts


@pytest.mark.parametrize("first", ["curve", "click", "click of an older version"])
def test_the_axis_is_settled_with_the_first_prompt_also_without_a_view(case, first):
    if first == "curve":
        case.controller.addCurve([case.ras(9, 9, 4), case.ras(12, 12, 8), case.ras(10, 14, 13)])
    else:
        case.controller.point("positive", case.ras(9, 9, 8))
    case.settle()
    axis = case.workspace.axis
    case.run()
    frames = case.workspace.previewFrames("A")
    if first == "click of an older version":
        case.workspace.markups.axis = None
    stroke = [case.ras(x, y, 7, 1) for x, y in ((3, 3), (9, 9), (12, 4))]
    case.controller.addScribble(stroke, True, case.geometry.frame_normal(1))
    case.settle()
    assert case.workspace.axis == axis == case.workspace.preview.axis
    assert case.workspace.previewFrames("A") == frames
    assert case.controller.apply(), case.texts
    assert set(case.frames()) == frames
