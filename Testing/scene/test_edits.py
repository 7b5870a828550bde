"""The user's edits are found, the runs' own changes are not."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from Headless.scenes import addVolume
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.prompts import SegmentPrompts, resolve
from SAM2PropagateLib.scene.commit import SegmentCommitter
from SAM2PropagateLib.scene.edits import EditTracker
from SAM2PropagateLib.scene.segment_writer import LogicSegmentWriter
from SAM2PropagateLib.scene.state import SceneState
from SAM2PropagateLib.scene.volume import ownGeometry
from Testing.scene.geometries import GEOMETRIES, block
from Testing.scene.test_commit import NEW, OLD, CommitCase, Overwrite, ball, frames


class EditCase(CommitCase):
    def __init__(self, headless, geometry="plain", segments=("A", "B")):
        super().__init__(headless, geometry, segments)
        self.tracker = EditTracker(self.segmentationNode, self.volumeNode)
        self.committer = SegmentCommitter(self.segmentationNode, self.volumeNode, edits=self.tracker)

    def paint(self, segmentID, mask, erase=False):
        """What Paint and Erase of the Segment Editor do: its logic, with its own node and history."""
        editor = self.settings()
        editor.SetAndObserveSegmentationNode(self.segmentationNode)
        editor.SetAndObserveSourceVolumeNode(self.volumeNode)
        editor.SetSelectedSegmentID(segmentID)
        logic = slicer.vtkSlicerSegmentEditorLogic()
        logic.SetMRMLScene(self.headless.scene)
        logic.SetSegmentEditorNode(editor)
        logic.ResetModifierLabelmapToDefault()
        modifier = logic.GetModifierLabelmap()
        slicer.vtkOrientedImageDataResample.FillImage(modifier, 0.0)
        voxels = vtk_to_numpy(modifier.GetPointData().GetScalars()).reshape(mask.shape)
        voxels[mask] = 1
        modifier.Modified()
        mode = logic.ModificationModeRemove if erase else logic.ModificationModeAdd
        logic.SaveStateForUndo()
        logic.ModifySegmentByLabelmap(
            self.segmentationNode, segmentID, modifier, mode, modifier.GetExtent(), True, False
        )
        logic.SetSegmentEditorNode(None)

    def edited(self, segmentID="A", axis=2):
        return [edit.frame for edit in self.tracker.edited(segmentID, axis)]


def slab(mask, *indices):
    out = np.zeros_like(mask)
    out[list(indices)] = mask[list(indices)]
    return out


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_painted_and_erased_slices_become_mask_keyframes(headless, geometry):
    case = EditCase(headless, geometry)
    case.committer.commit({"A": frames(OLD, 2, range(18))}, 2)
    assert case.edited() == []
    case.paint("A", slab(NEW, 6, 9))
    case.paint("A", slab(OLD, 11), erase=True)
    edits = case.tracker.edited("A", 2)
    assert [edit.frame for edit in edits] == [6, 9, 11]
    prompts = SegmentPrompts("A", masks=tuple(edit.prompt for edit in edits))
    keyframes = resolve(prompts, ownGeometry(case.volumeNode), 2).keyframes
    np.testing.assert_array_equal(keyframes[6].mask, (OLD | NEW)[6])
    np.testing.assert_array_equal(keyframes[9].mask, (OLD | NEW)[9])
    assert keyframes[11].absent


def test_before_the_first_run_everything_drawn_is_an_edit(headless):
    case = EditCase(headless)
    case.paint("A", slab(OLD, 7, 8))
    assert case.edited() == [7, 8]
    assert case.edited("B") == []


def test_edits_on_the_frames_of_a_run_are_settled_by_it(headless):
    case = EditCase(headless)
    case.committer.commit({"A": frames(OLD, 2, range(4, 14))}, 2)
    case.paint("A", slab(NEW, 6, 9, 16))
    case.paint("A", slab(~OLD, 16) & ball((20, 20, 16), 5))
    assert case.edited() == [6, 9, 16]
    # The run keeps frame 6 exactly as it was edited, changes 9, and does not come to 16.
    case.committer.commit({"A": {6: (OLD | NEW)[6], 9: OLD[9]}}, 2)
    assert case.edited() == [16]


def test_undo_and_redo_are_no_edits_but_later_painting_is(headless):
    case = EditCase(headless)
    case.committer.commit({"A": frames(OLD, 2, range(18))}, 2)
    case.committer.commit({"A": frames(NEW, 2, range(18))}, 2)
    case.committer.undo()
    assert case.edited() == []
    case.paint("A", slab(NEW, 6) & ~OLD)
    assert case.edited() == [6]
    case.paint("A", slab(NEW, 6) & ~OLD, erase=True)
    assert case.edited() == []
    case.committer.commit({"A": frames(NEW, 2, range(18))}, 2)
    case.committer.undo()
    case.committer.redo()
    assert case.edited() == []


def test_erasing_a_slice_that_was_empty_before_the_run_is_an_edit(headless):
    case = EditCase(headless)
    case.committer.commit({"A": frames(OLD, 2, range(18))}, 2)
    case.paint("A", slab(OLD, 7), erase=True)
    assert case.edited() == [7]


def test_a_neighbor_that_a_run_overwrote_was_not_edited(headless):
    case = EditCase(headless)
    case.committer.commit({"B": frames(OLD, 2, range(18))}, 2)
    case.paint("B", slab(ball((5, 30, 3), 4), 3))
    writer = LogicSegmentWriter(
        case.segmentationNode, case.volumeNode, overwriteMode=Overwrite.OverwriteAllSegments
    )
    overwriting = SegmentCommitter(case.segmentationNode, case.volumeNode, writer, case.tracker)
    overwriting.commit({"A": frames(NEW, 2, range(5, 18))}, 2)
    assert (case.read("B") != OLD).any()
    assert case.edited("B") == [3]


def crossed(mask, axis):
    """The frames along an axis on which a mask has voxels."""
    return [int(one) for one in np.flatnonzero(np.moveaxis(mask, 2 - axis, 0).any(axis=(1, 2)))]


@pytest.mark.parametrize("runAxis", [0, 1, 2])
@pytest.mark.parametrize("geometry", ["plain", "oblique"])
def test_an_edit_is_found_along_every_axis(headless, geometry, runAxis):
    case = EditCase(headless, geometry)
    case.committer.commit({"A": frames(OLD, runAxis, range(18))}, runAxis)
    assert [case.edited(axis=axis) for axis in range(3)] == [[], [], []]
    before = case.read("A")
    case.paint("A", slab(NEW, 6))
    changed = case.read("A") ^ before
    assert changed.any()
    for axis in range(3):
        edits = case.tracker.edited("A", axis)
        assert [edit.frame for edit in edits] == crossed(changed, axis)
        keyframes = resolve(
            SegmentPrompts("A", masks=tuple(edit.prompt for edit in edits)), case.geometry, axis
        ).keyframes
        for edit in edits:
            expected = np.take(case.read("A"), edit.frame, 2 - axis)
            np.testing.assert_array_equal(keyframes[edit.frame].mask, expected)


def test_edits_that_a_run_took_up_are_settled_along_every_axis(headless):
    case = EditCase(headless)
    case.committer.commit({"A": frames(OLD, 2, range(18))}, 2)
    case.paint("A", slab(NEW, 6))
    case.committer.commit({"A": frames(OLD | slab(NEW, 6), 2, range(18))}, 2)
    assert [case.edited(axis=axis) for axis in range(3)] == [[], [], []]
    case.committer.undo()
    assert [case.edited(axis=axis) for axis in range(3)] == [[], [], []]


@pytest.mark.parametrize("runAxis", [0, 2])
def test_an_edit_that_a_run_did_not_reach_stays_one_along_every_axis(headless, runAxis):
    case = EditCase(headless)
    case.committer.commit({"A": frames(OLD, 2, range(18))}, 2)
    case.paint("A", slab(NEW & ~OLD, 9))
    wanted = {axis: crossed(slab(NEW & ~OLD, 9), axis) for axis in range(3)}
    beside = min(wanted[runAxis]) - 2
    case.committer.commit({"A": {beside: np.take(NEW, beside, 2 - runAxis)}}, runAxis)
    assert case.edited(axis=runAxis) == wanted[runAxis]
    for axis in range(3):
        assert set(wanted[axis]) <= set(case.edited(axis=axis))


def test_a_record_of_the_first_version_tells_nothing_until_the_next_run(headless):
    case = EditCase(headless)
    case.committer.commit({"A": frames(OLD, 2, range(18))}, 2)
    text = '{"version":1,"axis":2,"shape":[40,36,18],"segments":{"A":[{"6":"0011223344556677"}]}}'
    SceneState(case.segmentationNode).set("edits", text)
    assert case.edited() == []
    case.committer.commit({"A": frames(NEW, 2, range(18))}, 2)
    case.paint("A", slab(OLD, 6))
    assert case.edited() == [6]


def test_another_grid_says_nothing(headless):
    case = EditCase(headless)
    case.committer.commit({"A": frames(OLD, 2, range(18))}, 2)
    other = addVolume(headless, block()[::2], GEOMETRIES["plain"][0] @ np.diag([1, 1, 2, 1.0]), "other")
    assert EditTracker(case.segmentationNode, other).edited("A", 2) == ()


def test_a_forgotten_segment_counts_as_drawn(headless):
    case = EditCase(headless)
    case.committer.commit({"A": frames(OLD, 2, range(18))}, 2)
    case.tracker.forget("A")
    assert case.edited() == [k for k in range(18) if OLD[k].any()]


@pytest.mark.parametrize("suffix", [".mrb", ".mrml"])
def test_edits_are_found_after_saving_and_loading(headless, tmp_path, suffix):
    case = EditCase(headless, "under transforms")
    case.committer.commit({"A": frames(OLD, 2, range(18))}, 2)
    file = tmp_path / f"scene{suffix}"
    headless.saveScene(file)
    headless.clear()
    headless.loadScene(file)
    case.segmentationNode = headless.scene.GetFirstNodeByName("Segmentation")
    case.volumeNode = headless.scene.GetFirstNodeByName("CT")
    case.tracker = EditTracker(case.segmentationNode, case.volumeNode)
    np.testing.assert_array_equal(case.read(), OLD)
    assert case.edited() == []
    case.paint("A", slab(NEW, 6))
    assert case.edited() == [6]


def test_an_unreadable_record_is_told(headless):
    case = EditCase(headless)
    SceneState(case.segmentationNode).set("edits", '{"version": 99}')
    with pytest.raises(SAM2PropagateError) as failed:
        case.edited()
    assert failed.value.code == "bad_edit_record"


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_looking_again_finds_what_looking_for_the_first_time_finds(headless, geometry):
    """Only what has changed is hashed again, also where the segment grows, shrinks, moves or vanishes."""
    case = EditCase(headless, geometry)
    random = np.random.default_rng(7)
    shape = OLD.shape

    def box():
        first = [int(random.integers(0, size)) for size in shape]
        mask = np.zeros(shape, bool)
        mask[tuple(slice(one, one + int(random.integers(1, 9))) for one in first)] = True
        return mask

    def check():
        fresh = EditTracker(case.segmentationNode, case.volumeNode)
        for axis in (0, 1, 2):
            assert case.tracker.hashes("A", axis) == fresh.hashes("A", axis)
            mine, theirs = case.tracker.edited("A", axis), fresh.edited("A", axis)
            assert mine == theirs
            assert case.tracker.edited("A", axis) == mine, "and nothing changed since"

    check()
    for step in range(12):
        case.paint("A", box(), erase=step % 4 == 3)
        if step % 2:
            check()
        if step == 5:
            case.committer.commit({"A": frames(OLD, 2, range(4, 12))}, 2)
            check()
    case.paint("A", np.ones(shape, bool), erase=True)
    check()
    case.paint("A", box())
    check()
