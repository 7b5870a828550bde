"""Volume and segmentation are moved while the user works on them: everything stays on its voxels."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk

from Headless.scenes import addTransform
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.scene.prompt_nodes import promptNodes
from SAM2PropagateLib.scene.volume import volumeGeometry
from SAM2PropagateTesting.answers import disc
from Testing.scene.test_transforms import MOVE, OTHER, setMatrix, warp

SHAPE = (36, 40)


def under(case, transform, *nodes):
    for node in nodes or (case.volumeNode, case.segmentationNode):
        node.SetAndObserveTransformNodeID(None if transform is None else transform.GetID())


def start(case):
    """Both nodes under one transform, below another."""
    case.top = addTransform(case.headless, np.eye(4), "top")
    case.reg = addTransform(case.headless, np.eye(4), "reg")
    case.reg.SetAndObserveTransformNodeID(case.top.GetID())
    under(case, case.reg)


def hardened_both(case):
    setMatrix(case.reg, MOVE)
    case.volumeNode.HardenTransform()
    case.segmentationNode.HardenTransform()


def segmentation_hardened_first(case):
    setMatrix(case.reg, MOVE)
    case.segmentationNode.HardenTransform()
    case.volumeNode.HardenTransform()


def bent_and_back(case):
    bend = warp(case.headless)
    under(case, bend)
    under(case, None)


def removed(case):
    setMatrix(case.reg, MOVE)
    case.headless.scene.RemoveNode(case.reg)


def edited_twice(case):
    setMatrix(case.reg, MOVE)
    setMatrix(case.reg, np.eye(4))


def taken_off(case):
    setMatrix(case.reg, MOVE)
    under(case, None)


CHANGES = {
    "matrix edited": lambda case: setMatrix(case.reg, MOVE),
    "matrix above edited": lambda case: setMatrix(case.top, MOVE),
    "matrix edited and back": edited_twice,
    "taken off": taken_off,
    "replaced": lambda case: under(case, addTransform(case.headless, OTHER, "other")),
    "hardened": hardened_both,
    "segmentation hardened first": segmentation_hardened_first,
    "bent and back": bent_and_back,
    "transform removed": removed,
}
every_change = pytest.mark.parametrize("change", CHANGES)


def drawn(case):
    """Where prompts are drawn now, in voxels: nothing is asked that could put them back first."""
    found = []
    geometry = volumeGeometry(case.volumeNode)
    for node in promptNodes(case.segmentationNode):
        place = [0.0] * 3
        for index in range(node.GetNumberOfControlPoints()):
            node.GetNthControlPointPositionWorld(index, place)
            found.append(np.round(geometry.ijk_of_ras(place), 3).tolist())
    return sorted(found)


def segment(case):
    return np.stack([case.segment(frame) for frame in range(18)])


@every_change
def test_a_run_after_a_move_writes_nothing(case, change):
    start(case)
    case.click(18, 16, 8)
    case.run()
    before, places = segment(case), drawn(case)
    CHANGES[change](case)
    assert drawn(case) == places
    np.testing.assert_array_equal(segment(case), before)
    case.run()
    assert case.ends[-1].frames == 0
    assert case.session.kinds().count("open_volume") == 1
    # A correction elsewhere changes the stretch around it alone.
    case.click(22, 20, 13)
    case.run()
    after = segment(case)
    assert [frame for frame in range(18) if (after[frame] != before[frame]).any()] == list(range(11, 18))
    assert case.texts == []


@every_change
def test_boxes_marks_edits_and_ranges_stay(case, change):
    start(case)
    corners = [case.ras(x, y, 6) for x, y in ((10, 8), (20, 18))]
    assert case.controller.addBox(*corners)
    assert case.controller.wait(60)
    case.click(18, 16, 14, tool="absent")
    case.click(1, 1, 1, tool="range")
    case.click(1, 1, 15, tool="range")
    case.run()
    painted = np.zeros(SHAPE, bool)
    painted[10:20, 12:22] = True
    case.paint(9, painted, add=False)
    case.click(3, 3, 10, tool="lock")
    case.run()
    before, places = segment(case), drawn(case)
    strip = case.controller.strip().frames
    CHANGES[change](case)
    assert drawn(case) == places
    case.run()
    assert case.ends[-1].frames == 0
    np.testing.assert_array_equal(segment(case), before)
    assert case.controller.strip().frames == strip
    np.testing.assert_array_equal(before[9], painted)
    assert not before[14:].any() and not before[0].any()


@every_change
def test_a_preview_stays_and_is_applied_where_it_was_shown(case, change):
    start(case)
    case.click(18, 16, 8)
    CHANGES[change](case)
    node = case.workspace.shown.node
    assert node.GetTransformNodeID() == case.volumeNode.GetTransformNodeID()
    image = node.GetSegmentation().GetSegment("A").GetRepresentation("Binary labelmap")
    shown, own = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(shown)
    case.volumeNode.GetIJKToRASMatrix(own)
    np.testing.assert_allclose(shown.GetData(), own.GetData(), atol=1e-6)
    np.testing.assert_array_equal(case.shown(8), disc(18, 16, SHAPE))
    assert case.controller.apply() is not None
    np.testing.assert_array_equal(case.segment(8), disc(18, 16, SHAPE))
    assert case.frames() == [8]


@every_change
def test_steps_back_and_forth_lead_to_the_same_voxels(case, change):
    start(case)
    case.click(18, 16, 8)
    case.click(10, 9, 8)
    both = drawn(case)
    CHANGES[change](case)
    assert case.controller.undo()
    assert case.controller.wait(60)
    assert drawn(case) == [[18.0, 16.0, 8.0]]
    np.testing.assert_array_equal(case.shown(8), disc(18, 16, SHAPE))
    assert case.controller.redo()
    assert case.controller.wait(60)
    assert drawn(case) == both
    np.testing.assert_array_equal(case.shown(8), disc(18, 16, SHAPE) | disc(10, 9, SHAPE))


@every_change
def test_a_kept_preview_comes_back_on_its_voxels(case, change):
    start(case)
    case.click(18, 16, 8)
    case.controller.select(None, None)
    CHANGES[change](case)
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    assert drawn(case) == [[18.0, 16.0, 8.0]]
    np.testing.assert_array_equal(case.shown(8), disc(18, 16, SHAPE))
    case.run()
    assert case.ends[-1].frames == 18
    for frame in range(18):
        np.testing.assert_array_equal(case.segment(frame), disc(18, 16, SHAPE))


@every_change
def test_a_run_that_is_under_way_goes_on(case, change):
    start(case)
    case.click(18, 16, 8)
    assert case.controller.propagate()
    case.controller.poll()
    CHANGES[change](case)
    assert case.controller.wait(60)
    for frame in range(18):
        np.testing.assert_array_equal(case.segment(frame), disc(18, 16, SHAPE))


@every_change
def test_clicks_after_a_move_land_where_they_are_made(case, change):
    start(case)
    CHANGES[change](case)
    case.click(18, 16, 8)
    np.testing.assert_array_equal(case.shown(8), disc(18, 16, SHAPE))
    assert drawn(case) == [[18.0, 16.0, 8.0]]
    # A click of the other sign at its place takes its place.
    case.click(18, 16, 8, tool="negative")
    assert drawn(case) == [[18.0, 16.0, 8.0]]


def test_a_bend_is_refused_in_a_sentence_and_changes_nothing(case):
    start(case)
    case.click(18, 16, 8)
    case.run()
    before, places = segment(case), drawn(case)
    bend = warp(case.headless)
    under(case, bend)
    assert {node.GetTransformNodeID() for node in promptNodes(case.segmentationNode)} == {bend.GetID()}
    assert not case.controller.point("positive", (0, 0, 0), (0, 0, 1))
    assert not case.controller.propagate()
    assert "non-linear" in case.texts[-1]
    under(case, case.reg)
    assert drawn(case) == places
    case.run()
    assert case.ends[-1].frames == 0
    np.testing.assert_array_equal(segment(case), before)


def test_only_the_volume_moves_and_its_prompts_with_it(case):
    start(case)
    case.click(18, 16, 8)
    case.run()
    places = drawn(case)
    under(case, addTransform(case.headless, MOVE, "other"), case.volumeNode)
    assert drawn(case) == places
    # And back: all is as before.
    under(case, case.reg, case.volumeNode)
    assert drawn(case) == places
    case.run()
    assert case.ends[-1].frames == 0


def test_a_run_after_both_were_moved_apart_says_so_and_keeps_the_masks(case):
    start(case)
    case.click(18, 16, 8)
    case.run()
    shift = np.eye(4)
    shift[0, 3] = 12.0  # ten voxels of 1.2 mm
    under(case, addTransform(case.headless, shift, "other"), case.segmentationNode)
    before = segment(case)
    assert before.any()
    case.run()
    assert case.codes == ["moved_apart"]
    np.testing.assert_array_equal(segment(case), before)
    case.run()
    assert case.codes == ["moved_apart"]


def test_a_finer_segmentation_that_moves_along_has_no_edits(case):
    start(case)
    grid = vtk.vtkMatrix4x4()
    case.volumeNode.GetIJKToRASMatrix(grid)
    fine = slicer.util.arrayFromVTKMatrix(grid) @ np.diag([0.5, 0.5, 0.5, 1])
    i, j, k = (2 * count for count in case.volumeNode.GetImageData().GetDimensions())
    image = slicer.vtkOrientedImageData()
    image.SetExtent(0, i - 1, 0, j - 1, 0, k - 1)
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(fine))
    text = slicer.vtkSegmentationConverter.SerializeImageGeometry(image)
    name = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    case.segmentationNode.GetSegmentation().SetConversionParameter(name, text)
    case.click(18, 16, 8)
    case.run()
    before = segment(case)
    hardened_both(case)
    assert case.workspace.edits("A") == ()
    case.run()
    assert case.ends[-1].frames == 0
    np.testing.assert_array_equal(segment(case), before)


def test_moving_the_segmentation_alone_is_no_painting_under_its_preview(case):
    start(case)
    case.click(18, 16, 8)
    case.run()
    case.click(10, 9, 8)
    shown = case.shown(8)
    shift = np.eye(4)
    shift[0, 3] = 12.0
    under(case, addTransform(case.headless, shift, "other"), case.segmentationNode)
    case.controller.lookForEdits()
    np.testing.assert_array_equal(case.shown(8), shown)
    assert case.workspace.previewFrames("A") == {8}
    under(case, case.reg, case.segmentationNode)
    case.controller.lookForEdits()
    np.testing.assert_array_equal(case.shown(8), shown)
    assert case.workspace.previewFrames("A") == {8}


def test_a_scale_changes_what_the_model_sees_and_is_opened_again(case):
    start(case)
    case.click(18, 16, 8)
    case.run()
    before = segment(case)
    setMatrix(case.reg, np.diag([1.5, 1.5, 1, 1]))
    case.click(20, 16, 8)
    assert case.session.kinds().count("open_volume") == 2
    case.run()
    assert case.ends[-1].frames == 18
    np.testing.assert_array_equal(segment(case)[3] & before[3], before[3])


def surface(case):
    shown = case.segmentationNode.GetSegmentation().GetSegment("A").GetRepresentation("Closed surface")
    low, high = (np.array(shown.GetBounds())[n::2] for n in (0, 1))
    return volumeGeometry(case.volumeNode).ijk_of_ras((low + high) / 2)


def test_undo_and_redo_of_runs_lead_back_across_a_hardened_transform(case):
    start(case)
    case.click(18, 16, 8)
    case.run()
    first = segment(case)
    case.segmentationNode.CreateClosedSurfaceRepresentation()
    place = surface(case)
    case.click(22, 20, 13)
    case.run()
    second = segment(case)
    hardened_both(case)
    case.controller.undo()
    np.testing.assert_array_equal(segment(case), first)
    np.testing.assert_allclose(surface(case), place, atol=1)
    case.controller.redo()
    np.testing.assert_array_equal(segment(case), second)
    # Hardened back: what was new then is old now.
    under(case, addTransform(case.headless, np.linalg.inv(MOVE), "back"))
    case.volumeNode.HardenTransform()
    case.segmentationNode.HardenTransform()
    case.controller.undo()
    if (segment(case) == second).all():
        # To Slicer's history, hardening after a redo is a step of its own.
        case.controller.undo()
    np.testing.assert_array_equal(segment(case), first)
    np.testing.assert_allclose(surface(case), place, atol=1)


def test_a_stroke_that_is_merged_while_a_batch_moves_the_volume_leaves_the_prompts_on_their_voxels(case):
    case.click(12, 15, 8)
    place = case.workspace.prompts.segment("A").clicks[0].ras
    scene = slicer.mrmlScene
    scene.StartState(scene.BatchProcessState)
    case.volumeNode.ApplyTransformMatrix(slicer.util.vtkMatrixFromArray(MOVE))
    case.paint(8, disc(30, 25, SHAPE, 2))
    case.controller.lookForEdits()
    scene.EndState(scene.BatchProcessState)
    held = case.workspace.prompts
    assert len(held.segment("A").masks) == 1 and held == case.workspace.markups.read()
    np.testing.assert_allclose(held.segment("A").clicks[0].ras, (MOVE @ [*place, 1])[:3], atol=1e-6)


def clicked(case):
    case.click(22, 20, 13)


def boxed(case):
    assert case.controller.addBox(*(case.ras(x, y, 4) for x, y in ((10, 8), (20, 18))))


def marked(case):
    case.click(1, 1, 15, tool="absent")


def cleared(case):
    case.controller.clearPrompts(6)


def undone(case):
    assert case.controller.undo()


def redone(case):
    assert case.controller.undo()
    assert case.controller.redo()


def painted(case):
    case.paint(3, disc(30, 25, SHAPE, 2))
    assert case.controller.propagate()


def painted_under_the_preview(case):
    case.paint(8, disc(30, 25, SHAPE, 2))
    case.controller.lookForEdits()


def given_a_segment(case):
    case.controller.addSegment()


def looked_at(case):
    assert case.workspace.markups.read().names == ("A",)


# What is done, and the voxels of prompts that are left on frames 8, 6 and 4 (a box shows its middle).
IN_A_BATCH = {
    "click": (clicked, {(12, 15, 8), (10, 9, 6), (22, 20, 13)}),
    "box": (boxed, {(12, 15, 8), (10, 9, 6), (15, 13, 4)}),
    "absent mark": (marked, {(12, 15, 8), (10, 9, 6), (1, 1, 15)}),
    "clear": (cleared, {(12, 15, 8)}),
    "undo": (undone, {(12, 15, 8)}),
    "undo and redo": (redone, {(12, 15, 8), (10, 9, 6)}),
    "run from a painted slice": (painted, {(12, 15, 8), (10, 9, 6)}),
    "stroke under the preview": (painted_under_the_preview, {(12, 15, 8), (10, 9, 6)}),
    "new segment": (given_a_segment, {(12, 15, 8), (10, 9, 6)}),
    "reading": (looked_at, {(12, 15, 8), (10, 9, 6)}),
}


@pytest.mark.parametrize("done", IN_A_BATCH)
def test_what_is_done_while_a_batch_moves_the_volume_leaves_all_other_prompts_on_their_voxels(case, done):
    case.click(12, 15, 8)
    case.click(10, 9, 6)
    act, places = IN_A_BATCH[done]
    scene = slicer.mrmlScene
    scene.StartState(scene.BatchProcessState)
    case.volumeNode.ApplyTransformMatrix(slicer.util.vtkMatrixFromArray(MOVE))
    act(case)
    scene.EndState(scene.BatchProcessState)
    case.settle()
    assert {tuple(place) for place in drawn(case)} == places
    assert case.workspace.prompts == case.workspace.markups.read()
    # The steps before the move lead to the same voxels, too.
    while case.controller.undo():
        case.settle()
        assert {tuple(place) for place in drawn(case)} <= places | {(12, 15, 8), (10, 9, 6)}
    assert drawn(case) == []
    while case.controller.redo():
        case.settle()
    assert {tuple(place) for place in drawn(case)} == (
        {(12, 15, 8), (10, 9, 6)} if done == "undo" else places
    )


def failing(*_arguments):
    raise InputError("cannot_follow", "The prompts cannot follow the volume.")


def test_a_stroke_is_not_merged_while_the_prompts_cannot_follow_the_volume(case, monkeypatch):
    case.click(12, 15, 8)
    before = case.shown(8)
    case.paint(8, disc(30, 25, SHAPE, 2))
    with monkeypatch.context() as patch:
        patch.setattr(case.workspace.markups, "settle", failing)
        case.controller.lookForEdits()
        assert case.codes == ["cannot_follow"]
        np.testing.assert_array_equal(case.shown(8), before)
        np.testing.assert_array_equal(case.segment(8), disc(30, 25, SHAPE, 2))
    case.controller.lookForEdits()
    np.testing.assert_array_equal(case.segment(8), before | disc(30, 25, SHAPE, 2))


def test_undo_steps_follow_the_volume_even_if_its_prompts_cannot_be_read_then(case, monkeypatch):
    case.click(12, 15, 8)
    case.click(10, 9, 6)
    with monkeypatch.context() as patch:
        patch.setattr(case.workspace.promptStore, "read", failing)
        case.volumeNode.ApplyTransformMatrix(slicer.util.vtkMatrixFromArray(MOVE))
    case.workspace.promptStore.read()
    assert case.controller.undo()
    assert drawn(case) == [[12, 15, 8]]
