"""A preview that was not applied is never lost: not by choosing something else, not by saving the scene."""

# ruff: noqa: N802, N803

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer

from Headless.fake_session import disc
from Headless.scenes import addSegmentation
from SAM2PropagateLib.app.events import Choices
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.scene import edits
from SAM2PropagateLib.scene.kept_preview import KeptPreview
from SAM2PropagateLib.scene.preview import PreviewLayer
from SAM2PropagateLib.scene.state import PREVIEW_MODULE_NAME
from SAM2PropagateTesting.scenes import fillSegment
from Testing.app.cases import HeadlessCase
from Testing.app.test_scene_events import flipped, swapped
from Testing.scene.geometries import addCase
from Testing.scene.test_transforms import MOVE

SHAPE = (36, 40)
KEEP = Choices(applyAutomatically=False)


@pytest.fixture
def case(headless):
    one = HeadlessCase(headless, choices=KEEP)
    yield one
    one.controller.close()


def keptNodes(case):
    scene = case.headless.scene
    count = scene.GetNumberOfNodesByClass("vtkMRMLScriptedModuleNode")
    nodes = [scene.GetNthNodeByClass(n, "vtkMRMLScriptedModuleNode") for n in range(count)]
    return [node for node in nodes if node.GetModuleName() == PREVIEW_MODULE_NAME]


def masks(case, segmentID="A"):
    return {frame: case.shown(frame, segmentID) for frame in case.workspace.previewFrames(segmentID)}


def assertSame(now, before):
    assert now.keys() == before.keys() and before
    for frame, mask in before.items():
        np.testing.assert_array_equal(now[frame], mask)


def strips(case):
    return [(one.drawnAs, one.isPreview, one.doubt) for one in case.controller.strip().frames]


@pytest.mark.parametrize("other", ["volume", "segmentation", "nothing"])
def test_the_preview_is_there_again_when_the_user_comes_back(case, other):
    case.click(12, 15, 8)
    case.run()
    case.click(20, 20, 3)
    before, strip = masks(case), strips(case)
    segmentation = addSegmentation(case.headless, case.volumeNode, {"C": (0, 0, 1)}, "other")
    choice = {
        "volume": (addCase(case.headless, "oblique"), case.segmentationNode, "A"),
        "segmentation": (case.volumeNode, segmentation, "C"),
        "nothing": (None, None, ""),
    }[other]
    case.controller.select(*choice)
    assert case.codes[-1] == "preview_kept" and "Segmentation" in case.texts[-1]
    assert case.controller.workspace is None or not case.workspace.hasPreview
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    assertSame(masks(case), before)
    assert strips(case) == strip
    # And it can be applied, which ends it.
    assert case.controller.apply() is not None
    for frame, mask in before.items():
        np.testing.assert_array_equal(case.segment(frame), mask)
    case.controller.select(None, None)
    assert case.codes.count("preview_kept") == 1 and keptNodes(case) == []


def test_a_click_on_a_preview_that_came_back_refines_it_as_before(case):
    case.click(12, 15, 8)
    case.controller.select(None, None)
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    case.click(16, 15, 8)
    assert case.workspace.prompts.segment("A").masks == ()
    np.testing.assert_array_equal(case.shown(8), disc(12, 15, SHAPE) | disc(16, 15, SHAPE))


def test_every_pair_has_its_own_preview(case):
    case.click(12, 15, 8)
    first = masks(case)
    volume = addCase(case.headless, "oblique")
    segmentation = addSegmentation(case.headless, volume, {"A": (0, 0, 1)}, "other")
    case.controller.select(volume, segmentation, "A")
    case.click(25, 20, 4)
    second = masks(case)
    for _ in range(2):
        case.controller.select(case.volumeNode, case.segmentationNode, "A")
        assertSame(masks(case), first)
        case.controller.select(volume, segmentation, "A")
        assertSame(masks(case), second)
    assert len(keptNodes(case)) == 2


def test_what_a_cancelled_run_had_finished_is_kept(case):
    case.controller.choices = Choices(applyAutomatically=True)
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    case.controller.poll()
    before = masks(case)
    case.controller.select(None, None)
    assert case.ends[-1].state == "cancelled"
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    assertSame(masks(case), before)


def test_a_segment_that_was_removed_meanwhile_takes_its_part_along(case):
    case.click(12, 15, 8)
    case.controller.select(case.volumeNode, case.segmentationNode, "B")
    case.click(25, 20, 8)
    before = masks(case, "B")
    case.controller.select(None, None)
    case.segmentationNode.GetSegmentation().RemoveSegment("A")
    case.controller.select(case.volumeNode, case.segmentationNode, "B")
    assertSame(masks(case, "B"), before)
    assert case.workspace.previewFrames("A") == frozenset()


@pytest.mark.parametrize("suffix", [".mrb", ".mrml"])
def test_it_is_saved_with_the_scene(case, tmp_path, suffix):
    case.click(12, 15, 8)
    case.run()
    before, strip = masks(case), strips(case)
    case.reload(tmp_path / f"scene{suffix}", KEEP)
    assertSame(masks(case), before)
    assert strips(case) == strip and case.frames() == []
    assert case.controller.apply() is not None
    assert case.frames() == sorted(before)


def test_it_is_saved_while_something_else_is_chosen(case, tmp_path):
    case.click(12, 15, 8)
    before = masks(case)
    case.controller.select(None, None)
    case.reload(tmp_path / "scene.mrb", KEEP)
    assertSame(masks(case), before)


def test_what_was_applied_or_dropped_before_saving_does_not_come_back(case, tmp_path):
    case.click(12, 15, 8)
    case.headless.saveScene(tmp_path / "first.mrb")
    assert len(keptNodes(case)) == 1
    case.controller.discard()
    case.reload(tmp_path / "scene.mrb", KEEP)
    assert not case.workspace.hasPreview and keptNodes(case) == []


def test_closing_the_scene_cleans_up_without_a_word(case):
    case.click(12, 15, 8)
    case.controller.select(None, None)
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    said = len(case.messages)
    case.headless.scene.Clear(False)
    assert keptNodes(case) == [] and len(case.messages) == said
    assert case.controller.workspace is None


def test_reloading_the_module_brings_it_back(case):
    case.click(12, 15, 8)
    before = masks(case)
    case.controller.close()
    case.start(KEEP)
    assertSame(masks(case), before)


def test_deleting_the_volume_says_that_the_preview_went_with_it(case):
    case.click(12, 15, 8)
    case.headless.scene.RemoveNode(case.volumeNode)
    assert case.codes == ["preview_gone"]


def test_deleting_the_segmentation_leaves_nothing_of_it(case):
    case.click(12, 15, 8)
    assert keptNodes(case)
    case.headless.scene.RemoveNode(case.segmentationNode)
    assert keptNodes(case) == []


def test_a_preview_of_another_size_or_an_unreadable_one_is_told_and_dropped(case):
    case.click(12, 15, 8)
    for change, code in (
        (lambda document: document.update(shape=[9, 9, 9]), "other_image"),
        (lambda document: document.update(version=99), "bad_preview"),
        (lambda document: document["segments"]["A"]["8"].update(bits="?"), "bad_preview"),
        (lambda document: document["segments"]["A"]["8"]["under"].update(shape=[99, 99]), "bad_preview"),
    ):
        case.controller.select(None, None)
        if not keptNodes(case):
            case.controller.select(case.volumeNode, case.segmentationNode, "A")
            case.controller.preview(8)
            case.controller.wait(60)
            case.controller.select(None, None)
        (node,) = keptNodes(case)
        document = json.loads(node.GetParameter("preview"))
        change(document)
        node.SetParameter("preview", json.dumps(document))
        case.controller.select(case.volumeNode, case.segmentationNode, "A")
        assert case.codes[-1] == code
        assert not case.workspace.hasPreview and keptNodes(case) == []


def elsewhere(case, other):
    """Chooses another segmentation on the volume, or none."""
    if other == "segmentation":
        segmentation = addSegmentation(case.headless, case.volumeNode, {"C": (0, 0, 1)}, "other")
        case.controller.select(case.volumeNode, segmentation, "C")
    else:
        case.controller.select(None, None)


@pytest.mark.parametrize("other", ["segmentation", "nothing"])
@pytest.mark.parametrize("change", [flipped, swapped])
def test_a_preview_whose_volume_got_another_image_meanwhile_is_told_and_dropped(case, other, change):
    case.click(12, 15, 8)
    case.run()
    elsewhere(case, other)
    change(case)
    case.messages.clear()
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    assert case.codes == ["other_image"] and "preview" in case.texts[0]
    assert not case.workspace.hasPreview and keptNodes(case) == []


def test_a_preview_that_is_left_while_a_batch_flips_its_volume_is_told_and_dropped(case):
    case.click(12, 15, 8)
    case.run()
    scene = slicer.mrmlScene
    scene.StartState(scene.BatchProcessState)
    flipped(case)
    case.controller.select(None, None)
    scene.EndState(scene.BatchProcessState)
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    assert case.codes == ["other_image"]
    assert not case.workspace.hasPreview and keptNodes(case) == []


def moved_and_hardened(case):
    case.volumeNode.ApplyTransformMatrix(slicer.util.vtkMatrixFromArray(MOVE))


def filtered(case):
    slicer.util.updateVolumeFromArray(case.volumeNode, slicer.util.arrayFromVolume(case.volumeNode) + 1)


@pytest.mark.parametrize("other", ["segmentation", "nothing"])
@pytest.mark.parametrize("change", [moved_and_hardened, filtered])
def test_a_preview_whose_volume_moved_or_was_filtered_meanwhile_is_on_its_voxels(case, other, change):
    case.click(12, 15, 8)
    case.run()
    before = masks(case)
    # Also after each of them has happened while it was shown.
    moved_and_hardened(case)
    filtered(case)
    case.click(20, 20, 3)
    case.controller.undo()
    elsewhere(case, other)
    change(case)
    case.messages.clear()
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    assert case.codes == []
    assertSame(masks(case), before)


def test_a_preview_of_an_earlier_version_which_kept_the_size_alone_is_shown(case):
    case.click(12, 15, 8)
    before = masks(case)
    case.controller.select(None, None)
    (node,) = keptNodes(case)
    document = json.loads(node.GetParameter("preview"))
    del document["image"], document["ijk_to_ras"]
    node.SetParameter("preview", json.dumps(document))
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    assertSame(masks(case), before)


def test_the_place_of_a_deleted_volume_is_given_back(case):
    case.click(12, 15, 8)
    case.controller.select(None, None)
    case.headless.scene.RemoveNode(case.volumeNode)
    case.volumeNode = addCase(case.headless, "plain")
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    assert not case.workspace.hasPreview
    case.click(12, 15, 9)
    case.controller.select(None, None)
    assert len(keptNodes(case)) == 1
    assert KeptPreview(case.segmentationNode, case.volumeNode).get().frames["A"].keys() == {9}


def test_the_axis_cannot_be_changed_under_a_preview(case):
    case.click(12, 15, 8)
    with pytest.raises(InputError) as refused:
        case.workspace.setAxis(0)
    assert refused.value.code == "preview_open" and case.workspace.previewFrames("A") == {8}
    case.controller.discard()
    case.workspace.setAxis(0)
    assert case.workspace.axis == 0


STROKE = disc(30, 25, SHAPE, 2)


@pytest.mark.parametrize("away", ["left", "closed", "saved"])
@pytest.mark.parametrize("where", ["preview", "run"])
def test_what_was_painted_just_before_is_in_a_preview_that_comes_back(case, tmp_path, where, away):
    case.click(12, 15, 8)
    if where == "run":
        case.controller.propagate()
        case.controller.poll()
        case.controller.poll()
    frame = 8 if where == "preview" else 2
    assert frame in case.workspace.previewFrames("A")
    # Nobody has looked for edits yet.
    case.paint(frame, STROKE)
    if away == "left":
        case.controller.select(None, None)
        case.controller.select(case.volumeNode, case.segmentationNode, "A")
    elif away == "closed":
        case.controller.close()
        case.start(KEEP)
    else:
        case.reload(tmp_path / "scene.mrb", KEEP)
    case.controller.apply()
    wanted = disc(12, 15, SHAPE) | STROKE
    if (where, away) == ("run", "saved"):
        # What a run finds comes into the scene at its end.
        wanted = STROKE
    np.testing.assert_array_equal(case.segment(frame), wanted)


def test_a_preview_that_a_stroke_was_added_to_during_a_run_is_not_saved_without_it(case, tmp_path):
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    case.paint(8, STROKE)
    case.controller.lookForEdits()
    painted = case.segment(8)
    np.testing.assert_array_equal(painted, disc(12, 15, SHAPE) | STROKE)
    case.reload(tmp_path / "scene.mrb", KEEP)
    case.controller.apply()
    np.testing.assert_array_equal(case.segment(8), painted)


def test_what_is_painted_elsewhere_is_added_to_a_preview_that_comes_back(case):
    case.click(12, 15, 8)
    case.controller.select(None, None)
    whole = np.zeros((18, *SHAPE), bool)
    whole[8] = STROKE
    fillSegment(case.segmentationNode, "A", case.volumeNode, whole)
    case.controller.select(case.volumeNode, case.segmentationNode, "A")
    case.controller.apply()
    np.testing.assert_array_equal(case.segment(8), disc(12, 15, SHAPE) | STROKE)


def test_what_a_commit_on_another_volume_changed_is_no_stroke_of_the_user(case):
    case.click(12, 15, 8)
    first = case.volumeNode
    second = addCase(case.headless, "plain")
    case.controller.select(second, case.segmentationNode, "A")
    case.click(30, 25, 8)
    assert case.controller.apply()
    case.controller.select(first, case.segmentationNode, "A")
    np.testing.assert_array_equal(case.shown(8), disc(12, 15, SHAPE))
    stroke = disc(5, 5, SHAPE, 1)
    case.paint(8, stroke)
    case.controller.lookForEdits()
    np.testing.assert_array_equal(case.shown(8), disc(12, 15, SHAPE) | stroke)


def test_a_volume_that_changes_its_size_under_a_run_does_not_keep_it_from_ending(case):
    case.click(12, 15, 8)
    case.controller.propagate()
    case.controller.poll()
    case.paint(8, STROKE)
    voxels = slicer.util.arrayFromVolume(case.volumeNode)
    slicer.util.updateVolumeFromArray(case.volumeNode, np.zeros_like(voxels, shape=(18, 30, 30)))
    case.controller.cancel()
    assert case.ends and case.ends[-1].state == "cancelled"


def test_a_run_is_packed_while_it_goes_on_and_not_at_its_end(headless, monkeypatch):
    from SAM2PropagateLib.scene import kept_preview

    case = HeadlessCase(headless, choices=Choices(applyAutomatically=False))
    try:
        case.click(12, 15, 8)
        packed: list[bool] = []
        pack = kept_preview.packedRecord
        monkeypatch.setattr(
            kept_preview, "packedRecord", lambda one: (packed.append(case.controller.isRunning), pack(one))[1]
        )
        case.session.framesPerPoll = 1
        case.run()
        assert len(case.workspace.previewFrames("A")) == 18
        assert packed.count(True) >= 17, "a slice with each that comes"
        assert packed.count(False) <= 1
        # What is kept is what would have been packed at once.
        kept = kept_preview.KeptPreview(case.segmentationNode, case.volumeNode).get()
        assert kept is not None and set(kept.frames["A"]) == set(range(18))
        for frame, one in kept.frames["A"].items():
            np.testing.assert_array_equal(one.mask, case.shown(frame))
            assert one.facts[0] in ("propagated", "keyframe")
    finally:
        case.controller.close()


def test_slices_that_changed_after_they_were_packed_are_packed_again(headless):
    from SAM2PropagateLib.scene import kept_preview

    case = HeadlessCase(headless, choices=Choices(applyAutomatically=False))
    try:
        case.click(12, 15, 8)
        case.session.framesPerPoll = 1
        assert case.controller.propagate()
        for _ in range(8):
            case.controller.poll()
        # The user corrects a slice that has come.
        frame = min(case.workspace.previewFrames("A"))
        case.session.nextPollServesPreviews()
        case.click(20, 15, frame)
        case.controller.wait(60)
        kept = kept_preview.KeptPreview(case.segmentationNode, case.volumeNode).get()
        assert kept is not None
        np.testing.assert_array_equal(kept.frames["A"][frame].mask, case.shown(frame))
    finally:
        case.controller.close()


def looksAtTheSegment(case, monkeypatch, act):
    """How often a segment is read from the scene to find edits while `act` runs."""
    looks = []
    read = edits.SegmentReader

    def counted(*arguments):
        looks.append(arguments)
        return read(*arguments)

    monkeypatch.setattr(edits, "SegmentReader", counted)
    act()
    monkeypatch.undo()
    return len(looks)


def test_bringing_a_preview_back_looks_at_the_segment_as_often_for_one_frame_as_for_many(case, monkeypatch):
    counts = []
    for reach in (1, 8):
        case.click(12, 15, 8)
        case.run(reach=reach)
        case.controller.apply()
        shown = len(case.workspace.keptFacts.applied("A", case.geometry, case.workspace.axis))
        counts.append((shown, looksAtTheSegment(case, monkeypatch, case.controller.undo)))
        assert len(case.workspace.previewFrames("A")) == shown
        case.controller.discard()
    (few, first), (many, second) = counts
    assert many >= 3 * few
    assert second == first


def test_undo_and_redo_draw_the_views_as_often_for_one_frame_as_for_many(case, monkeypatch):
    drawn = []
    refresh = PreviewLayer.refresh

    def counted(layer):
        drawn.append(layer)
        refresh(layer)

    monkeypatch.setattr(PreviewLayer, "refresh", counted)
    counts = []
    for reach in (1, 8):
        case.click(12, 15, 8)
        case.run(reach=reach)
        shown = len(case.workspace.previewFrames("A"))
        case.controller.apply()
        drawn.clear()
        assert case.controller.undo()
        back = len(drawn)
        assert len(case.workspace.previewFrames("A")) == shown
        assert case.controller.redo()
        counts.append((shown, back, len(drawn) - back))
        assert not case.workspace.previewFrames("A")
    (few, *first), (many, *second) = counts
    assert many >= 3 * few
    assert second == first
