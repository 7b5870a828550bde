"""What goes on in the scene beside: nodes that go, saving and loading, moved prompts, other segments."""

# ruff: noqa: N803

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from Headless.fake_session import disc
from SAM2PropagateLib.app.events import Choices
from SAM2PropagateLib.scene.prompt_nodes import promptNodes
from Testing.app.cases import HeadlessCase
from Testing.scene.test_transforms import warp

SHAPE = (36, 40)
KEEP = Choices(applyAutomatically=False)
EVENTS = ("NodeRemovedEvent", "NodeAddedEvent", "StartCloseEvent", "EndBatchProcessEvent")


def observed(case):
    """How much of the scene is observed, as far as VTK tells."""
    scene = case.headless.scene
    segmentation = slicer.vtkSegmentation
    return (
        [scene.HasObserver(getattr(scene, event)) for event in EVENTS],
        case.segmentationNode.HasObserver(segmentation.SourceRepresentationModified),
        case.segmentationNode.HasObserver(segmentation.SegmentRemoved),
    )


def previews(headless):
    count = headless.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    nodes = [headless.scene.GetNthNodeByClass(n, "vtkMRMLSegmentationNode") for n in range(count)]
    return [node for node in nodes if node.GetHideFromEditors()]


def test_closing_leaves_nothing_behind(headless):
    case = HeadlessCase(headless)
    case.controller.close()
    before = observed(case)
    nodes = headless.scene.GetNumberOfNodes()
    case.start()
    case.click(12, 15, 8)
    assert previews(headless) and case.session.volumes
    case.controller.propagate()
    case.controller.poll()
    session = case.session
    case.controller.close()
    assert observed(case) == before
    assert session.isClosed and previews(headless) == []
    # The prompts are the user's; they and what belongs to them stay.
    kept = list(promptNodes(case.segmentationNode))
    assert len(kept) == 1
    assert headless.scene.GetNumberOfNodes() > nodes
    editors = headless.scene.GetNumberOfNodesByClass("vtkMRMLSegmentEditorNode")
    case.start()
    case.click(13, 15, 9)
    case.run()
    case.controller.close()
    assert headless.scene.GetNumberOfNodesByClass("vtkMRMLSegmentEditorNode") == editors


@pytest.mark.parametrize("which", ["volumeNode", "segmentationNode"])
@pytest.mark.parametrize("isRunning", [False, True])
def test_deleting_a_node_ends_the_work_on_it(case, which, isRunning):
    case.click(12, 15, 8)
    if isRunning:
        case.controller.propagate()
        case.controller.poll()
    session, name = case.session, case.session.volumes[0]
    case.headless.scene.RemoveNode(getattr(case, which))
    assert case.controller.workspace is None and not case.controller.isRunning
    assert ("close_volume", name) in session.asked
    assert previews(case.headless) == []
    assert getattr(case.controller, which) is None
    case.controller.wait(60)
    assert case.controller.whyNot("prompt")
    assert not case.controller.point("positive", (0, 0, 0))
    if which == "segmentationNode":
        assert case.headless.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0
    if isRunning:
        assert [end.state for end in case.ends] == ["cancelled"]


def test_closing_the_scene_during_a_run(case):
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    session = case.session
    case.headless.scene.Clear(False)
    assert case.controller.workspace is None and session.volumes == ()
    case.controller.wait(60)
    assert case.messages == [] and not case.ticker.isOn


def test_deleting_the_segment_during_its_run(case):
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    case.segmentationNode.GetSegmentation().RemoveSegment("A")
    assert case.controller.segmentID == ""
    case.controller.wait(60)
    assert case.ends[-1].state == "done" and not case.ends[-1].applied
    assert [message.code for message in case.messages] == []


def another_size(case, shape):
    voxels = np.random.default_rng(0).integers(0, 100, shape).astype(np.int16)
    slicer.util.updateVolumeFromArray(case.volumeNode, voxels)


@pytest.mark.parametrize("shape", [(18, 20, 20), (10, 36, 40), (18, 36, 41)])
@pytest.mark.parametrize("isRunning", [False, True])
def test_a_preview_on_an_image_that_gets_another_size_goes_and_the_next_one_comes(headless, shape, isRunning):
    case = HeadlessCase(headless, choices=KEEP)
    case.click(12, 15, 8)
    case.run()
    if isRunning:
        case.session.framesPerPoll = 2
        assert case.controller.propagate(everything=True)
        case.controller.poll()
    another_size(case, shape)
    case.settle()
    assert case.codes == ["other_image"] and "preview" in case.texts[0]
    assert not case.workspace.hasPreview and case.frames() == [] and not case.controller.isRunning
    assert not case.controller.undo()
    assert case.click(14, 15, 7)
    assert case.shown(7).any()
    case.run()
    assert case.controller.apply() is not None and len(case.frames()) == shape[0]
    case.controller.select(None, None)
    case.controller.close()


def flipped(case):
    """Flips the volume in place, at its place in the patient."""
    voxels = slicer.util.arrayFromVolume(case.volumeNode)[:, :, ::-1].copy()
    matrix = vtk.vtkMatrix4x4()
    case.volumeNode.GetIJKToRASMatrix(matrix)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = voxels.shape[2] - 1
    with slicer.util.NodeModify(case.volumeNode):
        slicer.util.updateVolumeFromArray(case.volumeNode, voxels)
        to_ras = slicer.util.arrayFromVTKMatrix(matrix) @ flip
        case.volumeNode.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(to_ras))


@pytest.mark.parametrize("isRunning", [False, True])
def test_a_volume_that_is_flipped_in_place_gets_no_mirrored_masks(headless, isRunning):
    case = HeadlessCase(headless, choices=KEEP)
    case.click(12, 15, 8)
    case.run()
    assert case.controller.apply() is not None
    case.run(everything=True)
    before, place = case.segment(3), case.ras(12, 15, 3)
    case.session.framesPerPoll = 2
    if isRunning:
        assert case.controller.propagate(everything=True)
        case.controller.poll()
    else:
        case.click(30, 30, 13)
    flipped(case)
    case.settle()
    assert case.codes == ["other_image"] and "preview" in case.texts[0]
    assert not case.workspace.hasPreview and not case.controller.isRunning
    # Nothing leads back to masks of the earlier image.
    assert not case.controller.undo() and not case.workspace.hasPreview
    # The segment and its prompts are at their places in the patient.
    np.testing.assert_array_equal(case.segment(3), before[:, ::-1])
    np.testing.assert_allclose(case.ras(SHAPE[1] - 1 - 12, 15, 3), place)
    case.run()
    apply = case.controller.apply()
    assert apply is not None and apply.removed == 0
    np.testing.assert_array_equal(case.segment(3), before[:, ::-1])
    case.controller.close()


@pytest.mark.parametrize("change", [flipped, lambda case: another_size(case, (18, 20, 20))])
def test_that_steps_before_another_image_cannot_be_undone_is_told_once(case, change):
    case.click(12, 15, 8)
    case.run()
    assert case.controller.undo() and case.controller.redo() and not case.workspace.hasPreview
    agreed = case.workspace.handEdits._agreed  # noqa: SLF001
    assert agreed
    change(case)
    change(case)
    assert case.codes == ["steps_gone"] and not case.controller.undo()
    # Nothing is kept to compare with what steps lead back to.
    assert not agreed


def bent(case):
    case.volumeNode.SetAndObserveTransformNodeID(warp(case.headless).GetID())


def unbent(case):
    case.volumeNode.SetAndObserveTransformNodeID(None)


def swapped(case):
    """Puts another image into the volume, at another place."""
    image, matrix = case.volumeNode.GetImageData(), vtk.vtkMatrix4x4()
    case.volumeNode.GetIJKToRASMatrix(matrix)
    case.old = (image, matrix)
    other = vtk.vtkImageData()
    other.DeepCopy(image)
    voxels = vtk_to_numpy(other.GetPointData().GetScalars())
    voxels[:] = voxels[::-1].copy()
    moved = slicer.util.arrayFromVTKMatrix(matrix)
    moved[0, 3] += 10
    put(case, other, slicer.util.vtkMatrixFromArray(moved))


def swapped_back(case):
    put(case, *case.old)


def put(case, image, matrix):
    with slicer.util.NodeModify(case.volumeNode):
        case.volumeNode.SetAndObserveImageData(image)
        case.volumeNode.SetIJKToRASMatrix(matrix)


@pytest.mark.parametrize("choices", [KEEP, Choices()])
@pytest.mark.parametrize("polls", [0, 3])
@pytest.mark.parametrize(
    ("changes", "back", "code"),
    [(bent, unbent, "nonlinear_transform"), (swapped, swapped_back, "other_image")],
)
def test_masks_that_a_run_could_not_place_are_told_once_and_come_with_the_next_one(
    headless, choices, polls, changes, back, code
):
    case = HeadlessCase(headless, choices=choices)
    case.click(12, 15, 8)
    case.run()
    wanted = [case.shown(frame) for frame in range(18)]
    case.session.framesPerPoll = 2
    case.arrived.clear()
    assert case.controller.propagate(everything=True)
    for _ in range(polls):
        case.controller.poll()
    count = len(case.arrived)
    changes(case)
    case.settle()
    if choices.applyAutomatically and changes is bent and polls:
        # Applying what has come before is refused on its own.
        assert case.codes == [code, code]
    elif choices.applyAutomatically and changes is swapped and not polls:
        # Without a preview the steps are lost alone.
        assert case.codes == ["steps_gone", code]
    else:
        assert case.codes == [code]
    assert len(case.arrived) == case.ends[-1].frames == count < 18
    back(case)
    case.settle()
    case.run()
    assert case.ends[-1].frames == 18
    np.testing.assert_array_equal([case.shown(frame) for frame in range(18)], wanted)
    case.controller.close()


def test_a_click_does_not_let_masks_of_the_earlier_image_in(headless):
    case = HeadlessCase(headless, choices=KEEP)
    case.click(12, 15, 8)
    case.controller.discard()
    case.session.framesPerPoll = 2
    assert case.controller.propagate()
    swapped(case)
    case.controller.poll()
    # The click opens the volume again; the worker does so after the run.
    assert case.controller.point("positive", case.ras(25, 20, 4), case.geometry.frame_normal(2))
    case.settle()
    assert case.ends[-1].frames == 0 and case.workspace.previewFrames("A") == {4}
    assert case.codes == ["steps_gone", "other_image"] and "left out" in case.texts[1]
    case.controller.close()


def test_a_preview_comes_on_an_image_that_got_another_size(case):
    case.click(12, 15, 8)
    case.run()
    another_size(case, (18, 20, 20))
    assert case.click(14, 15, 7) and case.shown(7).any() and case.codes == ["steps_gone"]


def test_renaming_a_segment_keeps_everything(case):
    case.click(12, 15, 8)
    case.segmentationNode.GetSegmentation().GetSegment("A").SetName("liver")
    case.run()
    assert case.frames() == list(range(18))


def test_a_prompt_that_is_dragged_updates_its_preview(case):
    case.click(12, 15, 8)
    (node,) = promptNodes(case.segmentationNode, "A", "positive")
    node.SetNthControlPointPositionWorld(0, *case.ras(20, 20, 8))
    node.InvokeEvent(node.PointEndInteractionEvent)
    case.controller.wait(60)
    np.testing.assert_array_equal(case.shown(8), disc(20, 20, SHAPE))
    # To another slice: the old one's preview goes.
    node.SetNthControlPointPositionWorld(0, *case.ras(20, 20, 9))
    node.InvokeEvent(node.PointEndInteractionEvent)
    case.controller.wait(60)
    assert case.workspace.previewFrames("A") == {9}
    assert case.controller.undo()
    case.controller.wait(60)
    assert case.workspace.previewFrames("A") == {8}


def test_a_prompt_that_is_dragged_out_of_the_image_comes_back(case):
    case.click(12, 15, 8)
    (node,) = promptNodes(case.segmentationNode, "A", "positive")
    node.SetNthControlPointPositionWorld(0, *case.ras(90, 20, 8))
    node.InvokeEvent(node.PointEndInteractionEvent)
    case.controller.wait(60)
    place = [0.0, 0.0, 0.0]
    (node,) = promptNodes(case.segmentationNode, "A", "positive")
    node.GetNthControlPointPositionWorld(0, place)
    np.testing.assert_allclose(place, case.ras(12, 15, 8), atol=1e-4)
    assert "outside" in case.texts[-1]


def test_a_prompt_that_is_deleted_takes_its_preview_along(case):
    case.click(12, 15, 8)
    (node,) = promptNodes(case.segmentationNode, "A", "positive")
    node.RemoveNthControlPoint(0)
    case.controller.wait(60)
    assert case.workspace.previewFrames("A") == frozenset()
    assert case.workspace.prompts.is_empty
    case.controller.undo()
    case.controller.wait(60)
    assert case.workspace.previewFrames("A") == {8}


def test_all_comes_back_from_a_saved_scene(headless, tmp_path):
    case = HeadlessCase(headless, "oblique", choices=Choices())
    case.click(12, 15, 8)
    case.run()
    case.paint(8, disc(30, 25, SHAPE), add=False)
    case.click(14, 15, 3, "negative")
    case.click(1, 1, 5, "lock")
    case.click(1, 1, 16, "absent")
    case.click(1, 1, 2, "range")
    case.click(1, 1, 17, "range")
    case.run()
    looks = [one.drawnAs for one in case.controller.strip().frames]
    doubts = [one.doubt for one in case.controller.strip().frames]
    masks = [case.segment(frame) for frame in range(18)]
    said = case.workspace.prompts
    case.controller.close()
    case.reload(tmp_path / "scene.mrb")
    assert [one.drawnAs for one in case.controller.strip().frames] == looks
    assert {"locked", "absent", "edited", "keyframe", "propagated"} <= set(looks)
    for frame in range(18):
        np.testing.assert_array_equal(case.segment(frame), masks[frame])
    for now, before in zip(case.controller.strip().frames, doubts, strict=True):
        assert now.doubt == before
    again = case.workspace.prompts.segment("A")
    assert [click.id for click in again.clicks] == [click.id for click in said.segment("A").clicks]
    # The next click works, and the run leaves what the user made as it was.
    assert case.click(30, 25, 12)
    case.run()
    np.testing.assert_array_equal(case.segment(8), disc(30, 25, SHAPE))
    np.testing.assert_array_equal(case.segment(5), masks[5])
    np.testing.assert_array_equal(case.segment(3), masks[3])
    assert case.segment(12)[25, 30]
    case.controller.close()


def test_what_was_edited_before_saving_is_still_an_edit_after_loading(headless, tmp_path):
    case = HeadlessCase(headless)
    case.click(12, 15, 8)
    case.run()
    case.paint(4, disc(30, 25, SHAPE), add=False)
    case.controller.close()
    case.reload(tmp_path / "scene.mrb")
    case.controller.lookForEdits()
    assert [one.frame for one in case.controller.strip().frames if one.isEdited] == [4]
    case.run()
    np.testing.assert_array_equal(case.segment(4), disc(30, 25, SHAPE))
    case.controller.close()


def test_masking_of_the_segment_editor_keeps_a_neighbor_whole(case):
    scene = case.headless.scene
    settings = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
    settings.UnRegister(None)
    settings.SetSingletonTag("SegmentEditor")
    settings = scene.AddNode(settings)
    settings.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    case.paint(8, disc(12, 15, SHAPE), "B")
    case.click(15, 15, 8)
    case.run()
    np.testing.assert_array_equal(case.segment(8, "B"), disc(12, 15, SHAPE))
    np.testing.assert_array_equal(case.segment(8), disc(15, 15, SHAPE) & ~disc(12, 15, SHAPE))
    assert case.codes == ["protected"] and "masking" in case.texts[0]
    settings.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)


def test_selecting_something_else_during_a_run(case):
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    other = case.headless.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    case.controller.select(case.volumeNode, other, "")
    case.controller.wait(60)
    assert case.ends[-1].state == "cancelled" and case.frames() == []
    assert previews(case.headless) == []
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    case.run()
    assert case.frames() == list(range(18))
