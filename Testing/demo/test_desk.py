"""The desk: the mouse reaches the scene, runs reach the segments, and what is saved comes back."""

from __future__ import annotations

import numpy as np
import pytest

from Demo.case import Structure
from Demo.desk import DemoDesk, DemoSession, load_model
from Demo.saved import check_saved, save
from Headless.boot import boot
from Headless.scenes import addVolume
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.files.segmentation import read_segmentation
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.worker.messages import LoadModel
from Testing.worker.helpers import fake_command

# isort: split
import slicer.util

IJK_TO_RAS = np.array([[-2.0, 0, 0, 60], [0, -2.0, 0, 50], [0, 0, 4.0, -20], [0, 0, 0, 1]])
LIVER = Structure(
    name="liver",
    label="liver",
    color=(0.2, 0.7, 0.9),
    middle=(0.0, 0.0, 0.0),
    field_of_view=120.0,
    click=(10.0, 6.0, 0.0),
    ends=((4.0, 2.0, -12.0), (4.0, 2.0, 12.0)),
)
CYST = Structure(
    name="cyst",
    label="cyst",
    color=(0.9, 0.6, 0.1),
    middle=(-10.0, 4.0, 8.0),
    field_of_view=100.0,
    box=((-20.0, -10.0, 8.0), (8.0, 18.0, 8.0)),
    ends=((-4.0, 2.0, 4.0), (-4.0, 2.0, 16.0)),
)

# The scripted engine behind the worker loads nothing.
MODEL = LoadModel(name=DEFAULT_MODEL)


@pytest.fixture
def desk(tmp_path):
    headless = boot()
    headless.clear()
    array = np.random.default_rng(5).integers(-200, 300, (12, 50, 60)).astype(np.int16)
    slicer.util.saveNode(addVolume(headless, array, IJK_TO_RAS), str(tmp_path / "ct.nii.gz"))
    session = DemoSession(fake_command())
    with session:
        facts = load_model(session, MODEL, lambda stage, event: None)
        assert facts["model"] == MODEL.name
        place = DemoDesk(tmp_path / "ct.nii.gz", (LIVER, CYST), "soft-tissue", session, MODEL)
        yield place
        place.close()
    headless.clear()


def place_prompts(desk):
    desk.look_at(LIVER.middle, LIVER.field_of_view)
    click = desk.click("liver", LIVER.click)
    assert desk.mark_range("liver", LIVER.ends) == (2, 8)
    desk.look_at(CYST.middle, CYST.field_of_view)
    box = desk.drag_box("cyst", CYST.box)
    assert desk.mark_range("cyst", CYST.ends) == (6, 9)
    return click, box


def test_from_the_mouse_to_saved_files(desk, tmp_path):
    click, box = place_prompts(desk)
    assert (click.frame, box.frame) == (5, 7)
    liver, cyst = (desk.prompts.segment(name) for name in ("liver", "cyst"))
    # Within a mouse pixel of where the user pointed, on the slice that was shown.
    np.testing.assert_allclose(liver.clicks[0].ras, LIVER.click, atol=0.2)
    corners = np.sort([cyst.boxes[0].corner_a, cyst.boxes[0].corner_b], axis=0)
    np.testing.assert_allclose(corners, np.sort(CYST.box, axis=0), atol=0.3)
    np.testing.assert_array_equal(desk.preview("cyst")[box.frame], box.mask)

    stages = []
    run = desk.propagate(lambda stage, event: stages.append((stage, event)))
    assert run.frames("liver") == set(range(2, 9)) and run.frames("cyst") == {6, 7, 8, 9}
    assert run.slices("liver") == 7
    assert stages[0] == ("propagate", None)
    assert stages[-1][1].done == stages[-1][1].total == 11
    desk.commit()
    masks = desk.masks()
    # They overlap, and neither takes the other's voxels.
    assert (masks["liver"][6] & masks["cyst"][6]).any()
    for name in ("liver", "cyst"):
        np.testing.assert_array_equal(masks[name][6], run.run.masks[name, 6])
    assert desk.preview("liver") == desk.preview("cyst") == {}

    files = tmp_path / "out.seg.nrrd", tmp_path / "out.mrb"
    save(desk, *files)
    again = read_segmentation(files[0])
    assert {segment.name for segment in again.segments} == {"liver", "cyst"}
    check_saved(desk, *files)


def test_a_click_can_be_taken_back(desk):
    desk.look_at(LIVER.middle, LIVER.field_of_view)
    desk.click("liver", LIVER.click)
    former = desk.click("liver", (-10.0, 0.0, 0.0), positive=False)
    worse = desk.click("liver", (20.0, -8.0, 0.0), positive=False)
    assert len(desk.prompts.segment("liver").clicks) == 3
    desk.take_back()
    clicks = desk.prompts.segment("liver").clicks
    assert [one.positive for one in clicks] == [True, False]
    np.testing.assert_allclose(clicks[1].ras, (-10.0, 0.0, 0.0), atol=0.2)
    np.testing.assert_array_equal(desk.preview("liver")[worse.frame], former.mask)


def test_a_click_makes_the_mask_that_it_corrects_a_prompt_of_its_slice(desk):
    place_prompts(desk)
    desk.propagate(lambda stage, event: None)
    desk.commit()
    shown = desk.mask("liver", 4)
    desk.go_to_frame(4)
    desk.click("liver", (0.0, 0.0, -4.0), positive=False)
    (mask,) = desk.prompts.segment("liver").masks
    np.testing.assert_array_equal(mask.mask, shown)


def test_a_painted_slice_becomes_a_keyframe_and_nothing_else_changes(desk):
    place_prompts(desk)
    desk.propagate(lambda stage, event: None)
    desk.commit()
    before = desk.masks()
    wanted = np.zeros((50, 60), bool)
    wanted[20:40, 5:30] = True
    desk.paint("cyst", 8, wanted)
    after = desk.masks()
    np.testing.assert_array_equal(after["cyst"][8], wanted)
    others = [frame for frame in range(12) if frame != 8]
    np.testing.assert_array_equal(after["cyst"][others], before["cyst"][others])
    np.testing.assert_array_equal(after["liver"][others], before["liver"][others])
    desk.propagate(lambda stage, event: None)
    (mask,) = desk.prompts.segment("cyst").masks
    np.testing.assert_array_equal(mask.mask, wanted)
    np.testing.assert_allclose(mask.origin, desk.volume.geometry.ras_of_ijk((0, 0, 8)))


def test_clearing_a_slice_removes_only_what_is_on_it(desk):
    place_prompts(desk)
    desk.propagate(lambda stage, event: None)
    desk.commit()
    desk.go_to_frame(4)
    desk.click("liver", (0.0, 0.0, -4.0), positive=False)
    assert 4 in desk.preview("liver")
    desk.clear_slice("liver", 4)
    liver = desk.prompts.segment("liver")
    assert liver.masks == () and [one.positive for one in liver.clicks] == [True]
    assert liver.range is not None and len(desk.prompts.segment("cyst").boxes) == 1
    assert 4 not in desk.preview("liver")


def test_a_click_that_the_view_does_not_take_is_told(desk):
    desk.look_at(LIVER.middle, LIVER.field_of_view)
    desk.view.click = lambda *_: None
    with pytest.raises(SAM2PropagateError, match="did not take the positive prompt"):
        desk.click("liver", LIVER.click)


def test_files_that_were_changed_after_saving_are_noticed(desk, tmp_path):
    place_prompts(desk)
    desk.propagate(lambda stage, event: None)
    desk.commit()
    files = tmp_path / "out.seg.nrrd", tmp_path / "out.mrb"
    save(desk, *files)
    desk.undo()
    with pytest.raises(SAM2PropagateError, match="differs from what was saved: the segment"):
        check_saved(desk, *files)


def test_prompts_that_were_not_saved_are_noticed(desk, tmp_path):
    place_prompts(desk)
    files = tmp_path / "out.seg.nrrd", tmp_path / "out.mrb"
    save(desk, *files)
    desk.look_at(LIVER.middle, LIVER.field_of_view)
    desk.click("liver", (-10.0, 0.0, 0.0), positive=False)
    with pytest.raises(SAM2PropagateError, match="differs from what was saved: the prompts"):
        check_saved(desk, *files)


def test_a_folder_that_is_gone_is_told(desk, tmp_path):
    with pytest.raises(SAM2PropagateError, match="cannot be written"):
        save(desk, tmp_path / "gone" / "out.seg.nrrd", tmp_path / "gone" / "out.mrb")


def test_a_missing_ct_is_told(tmp_path):
    session = DemoSession(fake_command())
    with session, pytest.raises(SAM2PropagateError, match="no file"):
        DemoDesk(tmp_path / "ct.nii.gz", (LIVER,), "soft-tissue", session, MODEL)
