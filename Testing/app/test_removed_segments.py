"""Segments that go, come back, or are renamed while there are prompts and previews of theirs."""

from __future__ import annotations

import numpy as np
import pytest

from Headless.fake_session import disc
from SAM2PropagateLib.app.events import Choices
from Testing.app.cases import HeadlessCase

SHAPE = (36, 40)


def test_undo_brings_a_removed_segment_back_with_its_masks_and_prompts(case):
    case.click(12, 15, 8)
    case.run()
    case.paint(3, disc(30, 25, SHAPE, 2))
    case.run()
    before, masks = case.workspace.prompts.segment("A"), [case.segment(n) for n in range(18)]
    case.controller.removeSegment()
    assert case.workspace.segmentIDs == ("B",) and "A" not in case.workspace.prompts.names
    assert case.controller.undo()
    assert set(case.workspace.segmentIDs) == {"A", "B"}
    np.testing.assert_array_equal([case.segment(n) for n in range(18)], masks)
    assert case.workspace.prompts.segment("A") == before


def test_undo_and_redo_choose_the_segment_that_was_worked_on(case):
    case.controller.select(case.volumeNode, case.segmentationNode, "B")
    case.controller.removeSegment()
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    new = case.controller.addSegment()
    case.controller.select(case.volumeNode, case.segmentationNode, new)
    assert case.controller.undo() and case.controller.segmentID == "A"
    assert case.controller.undo() and case.controller.segmentID == "B"
    assert case.controller.redo() and case.controller.segmentID == "A"
    assert case.controller.redo() and case.controller.segmentID == new
    # What leaves the segments as they are leaves the choice as it is.
    case.click(12, 15, 8)
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    assert case.controller.undo() and case.controller.segmentID == "A"


def test_a_new_segment_with_the_id_of_a_removed_one_starts_empty(case):
    case.click(12, 15, 8)
    case.run()
    case.controller.removeSegment()
    # As versions of Slicer do that count their segments.
    case.segmentationNode.GetSegmentation().AddEmptySegment("A", "A")
    assert case.workspace.prompts.segment("A").is_empty and case.frames() == []


@pytest.mark.parametrize("how", ["in the panel", "elsewhere"])
def test_prompt_undo_goes_on_past_a_removed_segment(case, how):
    case.click(12, 15, 8)
    case.controller.select(case.volumeNode, case.segmentationNode, "B")
    case.click(20, 20, 9)
    case.click(22, 20, 10)
    if how == "in the panel":
        case.controller.removeSegment()
    else:
        case.segmentationNode.GetSegmentation().RemoveSegment("B")
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    names = []
    while case.controller.canUndo:
        names.append(case.controller.undoText)
        assert case.controller.undo()
    assert names == ["Undo remove segment", "Undo click", "Undo click", "Undo click"]
    assert case.workspace.prompts.is_empty and case.workspace.segmentIDs == ("A", "B")
    while case.controller.redo():
        pass
    assert len(case.workspace.prompts.segment("A").clicks) == 1 and case.workspace.segmentIDs == ("A",)


def test_the_preview_follows_name_and_color(headless):
    case = HeadlessCase(headless, choices=Choices(applyAutomatically=False))
    case.click(12, 15, 8)
    segment = case.segmentationNode.GetSegmentation().GetSegment("A")
    segment.SetName("liver")
    segment.SetColor(0.0, 0.0, 1.0)
    shown = case.workspace.shown.node.GetSegmentation().GetSegment("A")
    assert shown.GetName() == "liver"
    assert shown.GetColor()[2] == 1.0 and shown.GetColor()[1] < 0.5
    case.controller.close()


def test_a_range_that_was_begun_is_not_another_segments(case):
    assert case.click(1, 1, 3, "range")
    case.controller.select(case.volumeNode, case.segmentationNode, "B")
    assert case.click(1, 1, 9, "range")
    assert case.workspace.prompts.segment("B").range is None
    assert case.click(1, 1, 12, "range")
    assert case.workspace.prompts.segment("B").range is not None


def test_without_prompts_the_next_click_decides_the_axis_again(case):
    case.click(12, 15, 8)
    case.run()
    case.controller.clearPrompts()
    assert case.click(9, 7, 6, axis=0)
    assert case.workspace.axis == 0 and 6 in case.workspace.previewFrames("A")


@pytest.mark.parametrize("applied", [False, True])
def test_undo_brings_an_open_preview_back(headless, applied):
    case = HeadlessCase(headless, choices=Choices(applyAutomatically=False))
    case.click(12, 15, 8)
    if applied:
        case.controller.apply()
    case.run()
    shown = {frame: case.shown(frame) for frame in case.workspace.previewFrames("A")}
    said = case.workspace.prompts.segment("A")
    case.controller.removeSegment()
    assert case.controller.undo()
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    assert case.workspace.previewFrames("A") == frozenset(shown) and len(shown) > 10
    for frame, mask in shown.items():
        np.testing.assert_array_equal(case.shown(frame), mask)
    assert case.workspace.prompts.segment("A") == said
    case.controller.close()


def test_a_removal_that_is_done_again_leaves_nothing_to_a_new_segment_of_that_id(case):
    case.click(12, 15, 8)
    case.run()
    case.controller.removeSegment()
    assert case.controller.undo() and case.controller.redo()
    case.segmentationNode.GetSegmentation().AddEmptySegment("A", "A")
    assert case.workspace.prompts.segment("A").is_empty and case.frames() == []


@pytest.mark.parametrize("how", ["elsewhere", "in the panel"])
@pytest.mark.parametrize("then", ["apply", "run"])
def test_the_others_go_on_after_a_segment_with_a_preview_went(headless, how, then):
    case = HeadlessCase(headless, choices=Choices(applyAutomatically=then == "run"))
    case.controller.select(case.volumeNode, case.segmentationNode, "B")
    case.click(12, 15, 8)
    if how == "in the panel":
        case.controller.removeSegment()
    else:
        case.segmentationNode.GetSegmentation().RemoveSegment("B")
    assert "B" not in case.workspace.segmentIDs
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    assert case.click(20, 15, 5)
    if then == "run":
        case.run()
        assert case.ends[-1].applied and case.frames() == list(range(18))
    else:
        assert case.controller.apply() is not None and case.frames() == [5]
    case.controller.close()


def test_prompts_of_a_segment_that_is_gone_for_good_go_too(case):
    import slicer

    case.click(12, 15, 8)
    case.controller.removeSegment()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 1
    case.controller.select(case.volumeNode, None)
    case.controller.select(case.volumeNode, case.segmentationNode, "B")
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0


def test_a_stroke_on_the_preview_of_a_removed_segment_comes_back_with_it(headless):
    case = HeadlessCase(headless, choices=Choices(applyAutomatically=False))
    case.click(12, 15, 8)
    stroke = disc(30, 25, SHAPE, 2)
    case.paint(8, stroke)
    case.controller.removeSegment()
    assert case.controller.undo()
    case.controller.apply()
    np.testing.assert_array_equal(case.segment(8), disc(12, 15, SHAPE) | stroke)
    case.controller.close()
