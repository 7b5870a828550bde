"""From prompts in RAS to keyframes and pixels, and the sentences for what makes no sense."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames import VolumeGeometry
from SAM2PropagateLib.prompts import (
    Box,
    Click,
    FramePrompts,
    MaskPrompt,
    PromptSet,
    ResolvedSegment,
    SegmentPrompts,
    box_around,
    box_at,
    choose_axis,
    click_at,
    mark_at,
    mask_at,
    range_at,
    resolve,
)
from SAM2PropagateLib.prompts.resolve import place_box, place_mask
from Testing.frames.geometries import AXES, KINDS, PROFILE, moved, number, volume_geometries

LIBRARY = Path(__file__).parents[2] / "SAM2Propagate"
# 20 columns of 1 mm, 16 rows of 1 mm, 30 axial slices of 3 mm.
CT = VolumeGeometry((20, 16, 30), np.array([[1, 0, 0, -10], [0, 1, 0, -8], [0, 0, 3, 100], [0, 0, 0, 1.0]]))


def said(
    *clicks: tuple[float, float, int, bool],
    boxes: tuple[tuple[int, tuple[float, float, float, float]], ...] = (),
    masks: dict[int, np.ndarray] | None = None,
    absent: tuple[int, ...] = (),
    locks: tuple[int, ...] = (),
    within: tuple[int, int] | None = None,
    geometry: VolumeGeometry = CT,
    axis: int = 2,
) -> SegmentPrompts:
    """What was said of “liver”, in frames and pixels."""
    prompts = SegmentPrompts("liver")
    for x, y, frame, positive in clicks:
        prompts = prompts.add(click_at(x, y, frame, geometry, axis, positive))
    for frame, pixels in boxes:
        prompts = prompts.add(box_at(pixels, frame, geometry, axis))
    for frame, mask in (masks or {}).items():
        prompts = prompts.add(mask_at(mask, frame, geometry, axis))
    for frame in absent:
        prompts = prompts.add(mark_at(frame, geometry, axis), "absent")
    for frame in locks:
        prompts = prompts.add(mark_at(frame, geometry, axis), "lock")
    return prompts if within is None else prompts.add(range_at(*within, geometry, axis))


def blob(geometry: VolumeGeometry = CT, axis: int = 2) -> np.ndarray:
    mask = np.zeros(geometry.frame_shape(axis), dtype=bool)
    mask[5:9, 3:12] = True
    return mask


def refusal(prompts: SegmentPrompts, geometry: VolumeGeometry = CT, axis: int = 2) -> InputError:
    with pytest.raises(InputError) as error:
        resolve(prompts, geometry, axis)
    assert error.value.sentence.endswith(".") and error.value.hint.endswith(".")
    return error.value


# Round trips


@pytest.mark.parametrize("kind", KINDS)
@PROFILE
@given(data=st.data())
def test_every_prompt_finds_its_frame_and_pixels(kind: str, data: st.DataObject) -> None:
    geometry = data.draw(volume_geometries(kind))
    axis = data.draw(AXES)
    count, (rows, columns) = geometry.frame_count(axis), geometry.frame_shape(axis)
    frame = data.draw(st.integers(0, count - 1))
    x, y = data.draw(number(-0.49, columns - 0.51)), data.draw(number(-0.49, rows - 0.51))
    x0, y0 = data.draw(number(-0.5, columns - 1.5)), data.draw(number(-0.5, rows - 1.5))
    box = x0, y0, data.draw(number(x0 + 0.6, columns - 0.5)), data.draw(number(y0 + 0.6, rows - 0.5))
    mask = np.random.default_rng(data.draw(st.integers(0, 999))).random((rows, columns)) < 0.4
    mask[0, 0] = True
    prompts = said(
        (x, y, frame, True),
        boxes=((frame, box),),
        masks={frame: mask},
        locks=(count - 1,) if frame != count - 1 else (),
        geometry=geometry,
        axis=axis,
    )
    resolved = resolve(prompts, geometry, axis)
    assert list(resolved.keyframes) == [frame] == list(resolved.positive_frames)
    found = resolved.keyframes[frame]
    assert np.allclose(found.clicks[0][:2], (x, y), atol=1e-5) and found.clicks[0][2] is True
    assert np.allclose(found.box, box, atol=1e-5)
    assert np.array_equal(found.mask, mask) and not found.mask.flags.writeable
    assert (resolved.first, resolved.last) == (0, count - 1)
    assert resolved.locked == ({count - 1} if frame != count - 1 else set())


@PROFILE
@given(data=st.data())
def test_a_box_between_any_two_opposite_corners(data: st.DataObject) -> None:
    geometry = data.draw(volume_geometries())
    axis = data.draw(AXES)
    frame = data.draw(st.integers(0, geometry.frame_count(axis) - 1))
    rows, columns = geometry.frame_shape(axis)
    x0, x1, y0, y1 = -0.25, columns - 0.75, 0.0, rows - 0.6
    expected = (x0, y0, x1, y1)
    depth = data.draw(number(-0.24, 0.24))
    for (xa, ya), (xb, yb) in (((x0, y0), (x1, y1)), ((x1, y0), (x0, y1)), ((x1, y1), (x0, y0))):
        corners = []
        for x, y, offset in ((xa, ya, depth), (xb, yb, -depth)):
            ijk = geometry.ijk_of_pixel(x, y, frame, axis)
            ijk[axis] += offset  # not quite on the frame, as with rounded coordinates
            corners.append(tuple(geometry.ras_of_ijk(ijk)))
        found_frame, found = place_box(Box("b", *corners), geometry, axis)
        assert found_frame == frame and np.allclose(found, expected, atol=1e-5)


@PROFILE
@given(data=st.data())
def test_a_mask_grid_may_be_cut_flipped_and_transposed(data: st.DataObject) -> None:
    geometry = data.draw(volume_geometries())
    axis = data.draw(AXES)
    frame = data.draw(st.integers(0, geometry.frame_count(axis) - 1))
    rows, columns = geometry.frame_shape(axis)
    full = np.random.default_rng(data.draw(st.integers(0, 999))).random((rows, columns)) < 0.5
    y0, x0 = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, rows)), data.draw(st.integers(x0 + 1, columns))
    expected = np.zeros_like(full)
    expected[y0:y1, x0:x1] = full[y0:y1, x0:x1]
    part = full[y0:y1, x0:x1]
    column_step, row_step = geometry.pixel_steps(axis)
    x, y = x0, y0
    if data.draw(st.booleans()):
        part, column_step, x = part[:, ::-1], -column_step, x1 - 1
    if data.draw(st.booleans()):
        part, row_step, y = part[::-1], -row_step, y1 - 1
    if data.draw(st.booleans()):
        part, column_step, row_step = part.T, row_step, column_step
    origin = geometry.ras_of_pixel(x, y, frame, axis)
    prompt = MaskPrompt("m", tuple(origin), tuple(column_step), tuple(row_step), part)
    found_frame, found = place_mask(prompt, geometry, axis)
    assert found_frame == frame and np.array_equal(found, expected)


@PROFILE
@given(data=st.data())
def test_a_box_around_points_of_a_turned_view(data: st.DataObject) -> None:
    geometry = data.draw(volume_geometries())
    axis = data.draw(AXES)
    frame = data.draw(st.integers(0, geometry.frame_count(axis) - 1))
    rows, columns = geometry.frame_shape(axis)
    assume(min(rows, columns) >= 4)
    # A rectangle turned by 45 degrees: two of its opposite corners share a row.
    x, y, reach = (columns - 1) / 2, (rows - 1) / 2, (min(rows, columns) - 1) / 2
    drawn = [(x - reach, y), (x, y - reach), (x + reach, y), (x, y + reach)]
    box = box_around([geometry.ras_of_pixel(*corner, frame, axis) for corner in drawn], geometry, axis)
    found_frame, found = place_box(box, geometry, axis)
    assert found_frame == frame
    assert np.allclose(found, (x - reach, y - reach, x + reach, y + reach), atol=1e-5)


def test_a_view_tilted_against_the_volume() -> None:
    """A box drawn in a patient-aligned view of a tilted volume lies on the frame of its center."""
    angle = np.radians(20)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    geometry = moved(CT, tilt)
    center = geometry.ras_of_pixel(10, 8, 15, 2)
    corners = [center + np.array([r, a, 0]) for r in (-4, 4) for a in (-5, 5)]
    box = Box("b", tuple(corners[0]), tuple(corners[3]))
    error = refusal(SegmentPrompts("liver", boxes=(box,)), geometry)
    assert error.code == "box_not_flat" and "turn the view" in error.hint
    frame, pixels = place_box(box_around(corners, geometry, 2), geometry, 2)
    half = 5 * np.cos(angle)
    assert frame == 15 and np.allclose(pixels, (6, 8 - half, 14, 8 + half))


# The run's bounds


@pytest.mark.parametrize(
    ("positive", "absent", "within", "first", "last", "keys"),
    [
        ((10,), (), None, 0, 29, (10,)),
        ((10,), (4,), None, 4, 29, (4, 10)),
        ((10,), (17,), None, 0, 17, (10, 17)),
        ((10,), (2, 4, 17, 20), None, 4, 17, (4, 10, 17)),
        ((10, 20), (15,), None, 0, 29, (10, 15, 20)),
        ((10, 20), (5, 15, 25), None, 5, 25, (5, 10, 15, 20, 25)),
        ((10,), (), (8, 12), 8, 12, (10,)),
        ((10,), (), (12, 8), 8, 12, (10,)),
        ((10,), (4, 11), (8, 12), 8, 11, (10, 11)),
        ((10,), (4,), (4, 12), 4, 12, (4, 10)),
        ((0, 29), (), None, 0, 29, (0, 29)),
        ((10,), (9, 11), None, 9, 11, (9, 10, 11)),
    ],
)
def test_absent_marks_and_the_range_bound_the_run(positive, absent, within, first, last, keys) -> None:
    prompts = said(*((5, 5, frame, True) for frame in positive), absent=absent, within=within)
    resolved = resolve(prompts, CT, 2)
    assert (resolved.first, resolved.last) == (first, last)
    assert tuple(resolved.keyframes) == keys and resolved.positive_frames == positive
    assert {frame for frame, one in resolved.keyframes.items() if one.absent} == set(keys) - set(positive)
    assert all(one == FramePrompts(absent=True) for one in resolved.keyframes.values() if one.absent)


def test_an_empty_mask_says_absent() -> None:
    prompts = said((5, 5, 10, True), (3, 3, 14, False), masks={14: np.zeros((16, 20))})
    resolved = resolve(prompts, CT, 2)
    assert resolved.keyframes[14] == FramePrompts(absent=True) and resolved.last == 14


def test_locked_frames() -> None:
    prompts = said((5, 5, 10, True), masks={12: blob()}, locks=(3, 12), absent=(20,))
    resolved = resolve(prompts, CT, 2)
    assert resolved.locked == {3, 12} and tuple(resolved.keyframes) == (10, 12, 20)
    assert np.array_equal(resolved.keyframes[12].mask, blob())
    # On a locked frame the mask alone counts: the clicks that once led to it are history.
    clicked = said((5, 5, 12, True), (1, 1, 12, False), masks={12: blob()}, locks=(12,))
    assert resolve(clicked, CT, 2).keyframes[12] == FramePrompts(mask=blob())
    # Locked as empty.
    emptied = said((5, 5, 10, True), (4, 4, 14, True), masks={14: np.zeros((16, 20))}, locks=(14,))
    assert resolve(emptied, CT, 2).keyframes[14].absent
    # A locked frame's mask outside the range is no mistake of the user.
    ranged = said((5, 5, 10, True), masks={25: blob()}, locks=(25,), within=(5, 15))
    resolved = resolve(ranged, CT, 2)
    assert tuple(resolved.keyframes) == (10,) and resolved.locked == {25}
    assert resolve(said((5, 5, 10, True), absent=(20,), locks=(20,)), CT, 2).last == 20


def test_clicks_correct_a_mask() -> None:
    prompts = said((5, 5, 10, False), masks={10: blob()})
    found = resolve(prompts, CT, 2).keyframes[10]
    assert found.clicks == ((5.0, 5.0, False),) and np.array_equal(found.mask, blob())
    outside = said((19, 15, 10, True), boxes=((10, (2, 2, 8, 8)),))
    assert resolve(outside, CT, 2).keyframes[10].box == (2, 2, 8, 8)


def test_without_a_positive_prompt() -> None:
    negative = said((5, 5, 10, False), absent=(4,), locks=(20,))
    resolved = resolve(negative, CT, 2, need_positive=False)
    assert tuple(resolved.keyframes) == (4, 10) and not resolved.positive_frames
    assert (resolved.first, resolved.last) == (0, 29) and resolved.locked == {20}
    empty = resolve(SegmentPrompts("liver"), CT, 2, need_positive=False)
    assert not empty.keyframes and (empty.first, empty.last) == (0, 29)
    for prompts in (SegmentPrompts("liver"), said(absent=(4,)), said(locks=(4,)), said(within=(3, 9))):
        error = refusal(prompts)
        assert error.code == "no_prompts" and "“liver”" in error.sentence


# What makes no sense


def test_only_negative_clicks() -> None:
    error = refusal(said((5, 5, 11, False)))
    assert error.code == "only_negative_clicks" and "slice 12 of 30" in error.sentence
    error = refusal(said((5, 5, 10, True), (5, 5, 20, False)))
    assert error.code == "only_negative_clicks" and "slice 21 of 30" in error.sentence


def test_prompts_outside_the_volume() -> None:
    error = refusal(SegmentPrompts("liver", clicks=(Click("c", (0, 0, 400)),)))
    assert error.code == "outside_volume"
    assert "positive click" in error.sentence and "(R 0.0, A 0.0, S 400.0 mm)" in error.sentence
    assert "after slice 30" in error.sentence
    error = refusal(SegmentPrompts("liver", clicks=(Click("c", (50, 0, 130), False),)))
    assert "negative click" in error.sentence and "beside the image of slice 11 of 30" in error.sentence
    box = Box("b", (-40, -40, 130), (-20, -20, 130))
    error = refusal(SegmentPrompts("liver", boxes=(box,)))
    assert error.code == "outside_volume" and "box" in error.sentence
    assert refusal(SegmentPrompts("liver", boxes=(Box("b", (0, 0, 0), (5, 5, 0)),))).code == "outside_volume"
    far = mark_at(10, moved(CT, np.diag([1, 1, 9, 1.0])), 2)
    for kind, words in (("absent", "absent mark"), ("lock", "lock")):
        error = refusal(said((5, 5, 10, True)).add(far, kind))
        assert error.code == "outside_volume" and words in error.sentence
    shifted = moved(CT, np.array([[1, 0, 0, 7], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    full = np.ones((16, 20))
    error = refusal(SegmentPrompts("liver", masks=(mask_at(full, 10, shifted, 2),)))
    assert error.code == "outside_volume" and "slice 11 of 30 extends beyond the image" in error.sentence
    # Where its pixels are inside, the rest of its grid does not matter.
    part = np.zeros((16, 20))
    part[:, :13] = 1
    inside = resolve(SegmentPrompts("liver", masks=(mask_at(part, 10, shifted, 2),)), CT, 2)
    assert np.array_equal(inside.keyframes[10].mask, np.roll(part, 7, axis=1).astype(bool))


def test_a_box_drawn_over_the_edge_is_cut_there() -> None:
    drawn = said(boxes=((10, (-6, 3, 9, 25)),))
    error = refusal(said(boxes=((10, (-16, 3, 9, 12)),)))
    assert error.code == "outside_volume" and "center of the box" in error.sentence
    assert resolve(drawn, CT, 2).keyframes[10].box == (-0.5, 3, 9, 15.5)


def test_prompts_outside_the_range() -> None:
    cases = (
        (said((5, 5, 20, True), (5, 5, 7, True), within=(5, 15)), "A click"),
        (said(boxes=((20, (1, 1, 9, 9)),), within=(5, 15)), "A box"),
        (said(masks={20: blob()}, within=(5, 15)), "A mask"),
    )
    for prompts, words in cases:
        error = refusal(prompts)
        assert error.code == "outside_range" and error.sentence.startswith(words)
        assert "slice 21 of 30" in error.sentence and "from slice 6 to slice 16" in error.sentence
    # A range is given by points; one of them off the volume is a mistake too.
    lost = said((5, 5, 10, True)).add(range_at(2, 10, moved(CT, np.diag([1, 1, 9, 1.0])), 2))
    assert refusal(lost).code == "outside_volume"


def test_boxes_of_no_area() -> None:
    for pixels in ((4, 4, 4, 4), (4, 4, 9, 4.3), (4, 4, 4.2, 12)):
        error = refusal(said(boxes=((11, pixels),)))
        assert error.code == "empty_box" and "slice 12 of 30" in error.sentence
    # Cut away at the image's edge until nothing is left.
    error = refusal(said(boxes=((11, (-0.7, 3, -0.2, 12)),)))
    assert error.code == "empty_box"


def test_boxes_of_another_axis() -> None:
    coronal = box_at((3, 4, 12, 20), 8, CT, 1)
    error = refusal(SegmentPrompts("liver", boxes=(coronal,)))
    assert error.code == "box_not_flat"
    assert "axial slices (axis k)" in error.sentence and "from slice 5 to slice 21 of 30" in error.sentence
    assert "coronal slices (axis j)" in error.hint and "propagate along axis j" in error.hint
    assert resolve(SegmentPrompts("liver", boxes=(coronal,)), CT, 1).keyframes[8].box == (3, 4, 12, 20)
    solid = Box("b", tuple(CT.ras_of_ijk((1, 1, 1))), tuple(CT.ras_of_ijk((9, 9, 9))))
    error = refusal(SegmentPrompts("liver", boxes=(solid,)))
    assert error.code == "box_not_flat" and "slice 2 to slice 10 of 30" in error.sentence


def test_masks_of_another_grid() -> None:
    error = refusal(SegmentPrompts("liver", masks=(mask_at(blob(CT, 1), 8, CT, 1),)))
    assert error.code == "mask_geometry" and "coronal slices (axis j)" in error.sentence
    assert "axial slices (axis k)" in error.sentence and "axis j" in error.hint
    shift = np.eye(4)
    shift[0, 3] = 0.4
    for other in (
        moved(CT, shift),
        moved(CT, np.diag([1.02, 1, 1, 1])),
        moved(CT, np.diag([2, 2, 1, 1])),
    ):
        error = refusal(SegmentPrompts("liver", masks=(mask_at(blob(), 8, other, 2),)))
        assert error.code == "mask_geometry" and "do not match the pixels of this volume" in error.sentence
    degenerate = MaskPrompt("m", tuple(CT.ras_of_pixel(0, 0, 5, 2)), (1, 0, 0), (1, 0, 0), np.ones((3, 3)))
    assert refusal(SegmentPrompts("liver", masks=(degenerate,))).code == "mask_geometry"
    with pytest.raises(InputError) as raised:
        mask_at(np.ones((3, 3)), 5, CT, 2)
    assert raised.value.code == "mask_geometry"


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (said((5, 5, 11, True), (5.3, 5.3, 11, False)), "positive and a negative click"),
        (said((5.3, 5.3, 11, False), (5, 5, 11, True)), "positive and a negative click"),
        (said((5, 5, 11, True), absent=(11,)), "marked as absent"),
        (said(boxes=((11, (1, 1, 9, 9)),), absent=(11,)), "a box"),
        (said(masks={11: blob()}, absent=(11,)), "a mask"),
        (said(masks={11: blob()}, absent=(11,), locks=(11,)), "locked with a mask"),
        (said((5, 5, 11, True), locks=(11,)), "is locked"),
        (said((5, 5, 11, False), (5, 5, 3, True), locks=(11,)), "is locked"),
        (said(boxes=((11, (1, 1, 9, 9)),), locks=(11,)), "a box"),
        (said((5, 5, 11, True), masks={11: np.zeros((16, 20))}), "empty mask"),
        (said(boxes=((11, (1, 1, 9, 9)),), masks={11: np.zeros((16, 20))}), "empty mask"),
        (said(boxes=((11, (1, 1, 9, 9)), (11, (2, 2, 9, 9)))), "There are two different boxes"),
    ],
)
def test_contradictions(prompts: SegmentPrompts, words: str) -> None:
    error = refusal(prompts)
    assert error.code == "contradiction"
    assert words in error.sentence and "lice 12 of 30" in error.sentence and "“liver”" in error.sentence


def test_two_masks_on_one_frame() -> None:
    first, second = mask_at(blob(), 11, CT, 2), mask_at(~blob(), 11, CT, 2)
    error = refusal(SegmentPrompts("liver", masks=(first, second)))
    assert error.code == "contradiction" and "one mask per slice" in error.hint
    same = SegmentPrompts("liver", masks=(first, mask_at(blob(), 11, CT, 2)))
    assert np.array_equal(resolve(same, CT, 2).keyframes[11].mask, blob())
    error = refusal(said(boxes=((11, (1, 1, 9, 9)), (11, (2, 2, 9, 9)))))
    assert "one box per slice" in error.hint


def test_what_is_no_contradiction() -> None:
    near = said((5, 5, 11, True), (5.6, 5, 11, False), (5, 5, 12, True), (5, 5, 11, True))
    assert len(resolve(near, CT, 2).keyframes[11].clicks) == 3
    twice = said(boxes=((11, (1, 1, 9, 9)), (11, (1, 1, 9, 9))))
    assert resolve(twice, CT, 2).keyframes[11].box == (1, 1, 9, 9)
    absent = said((5, 5, 11, False), (5, 5, 3, True), absent=(11, 11))
    assert resolve(absent, CT, 2).keyframes[11] == FramePrompts(absent=True)


# The axis


def test_the_axis_that_was_chosen_wins() -> None:
    coronal = PromptSet().add("liver", box_at((3, 4, 12, 20), 8, CT, 1))
    assert choose_axis(coronal.with_axis(0), CT, view_normal=(0, 0, 1)) == 0
    assert choose_axis(coronal, CT, view_normal=(0, 0.1, -1)) == 2
    assert choose_axis(coronal, CT) == 1
    masked = PromptSet().add("liver", mask_at(blob(CT, 0), 3, CT, 0))
    assert choose_axis(masked, CT) == 0
    assert choose_axis(PromptSet().add("liver", click_at(1, 1, 1, CT, 0)), CT) == 2


@PROFILE
@given(data=st.data())
def test_boxes_and_masks_show_their_axis(data: st.DataObject) -> None:
    geometry = data.draw(volume_geometries())
    axis = data.draw(AXES)
    frame = data.draw(st.integers(0, geometry.frame_count(axis) - 1))
    rows, columns = geometry.frame_shape(axis)
    box = PromptSet().add("a", box_at((0, 0, columns - 1, rows - 1), frame, geometry, axis))
    mask = PromptSet().add("b", mask_at(np.ones((rows, columns)), frame, geometry, axis))
    both = box.with_segment(mask.segment("b"))
    assert choose_axis(box, geometry) == choose_axis(mask, geometry) == choose_axis(both, geometry) == axis
    # A different one alongside is refused in words, unless someone decided.
    other = (axis + 1) % 3
    rows, columns = geometry.frame_shape(other)
    mixed = both.add("c", box_at((0, 0, columns - 1, rows - 1), 0, geometry, other))
    with pytest.raises(InputError) as error:
        choose_axis(mixed, geometry)
    assert error.value.code == "mixed_axes"
    assert f"axis {'ijk'[axis]}" in error.value.sentence and f"axis {'ijk'[other]}" in error.value.sentence
    assert choose_axis(mixed.with_axis(other), geometry) == other


def test_boxes_that_show_no_axis() -> None:
    solid = Box("b", tuple(CT.ras_of_ijk((1, 1, 1))), tuple(CT.ras_of_ijk((9, 9, 9))))
    line = Box("b", tuple(CT.ras_of_ijk((1, 1, 1))), tuple(CT.ras_of_ijk((9, 1, 1))))
    for box, code in ((solid, "box_not_flat"), (line, "empty_box")):
        with pytest.raises(InputError) as error:
            choose_axis(PromptSet().add("liver", box), CT)
        assert error.value.code == code and "corners (R" in error.value.sentence


@pytest.mark.parametrize(
    ("directions", "spacing", "axis"),
    [
        (np.eye(3), (1, 1, 5), 2),
        (np.eye(3), (1, 5, 1), 1),
        (np.eye(3), (5, 1, 1), 0),
        (np.eye(3), (1, 1, 1), 2),
        (np.eye(3), (1, 1.005, 1), 2),
        (np.eye(3), (1, 1.05, 1), 1),
        (np.eye(3)[:, [2, 0, 1]], (1, 1, 1), 0),  # i runs along superior
        (np.eye(3)[:, [0, 2, 1]] * -1, (1, 1, 1), 1),  # j runs along inferior
        (np.eye(3)[:, [0, 2, 1]], (0.5, 1, 1), 1),  # j and k tie; j is superior
    ],
)
def test_without_a_hint_the_thickest_slices_win(directions, spacing, axis) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = directions * np.array(spacing, dtype=float)
    assert choose_axis(PromptSet(), VolumeGeometry((9, 9, 9), matrix)) == axis


# Values


def test_fingerprints_tell_contents_apart() -> None:
    clicks = ((1.0, 2.0, True), (3.0, 4.0, False))
    base = FramePrompts(clicks, (1, 2, 3, 4), blob())
    same = FramePrompts(clicks, (1.0, 2.0, 3.0, 4.00001), blob())
    assert base == same and base.fingerprint == same.fingerprint and hash(base) == hash(same)
    assert base != "prompts"
    # From scratch all clicks count together; on a mask each builds on those before it.
    assert FramePrompts(clicks) == FramePrompts(clicks[::-1])
    assert base != FramePrompts(clicks[::-1], (1, 2, 3, 4), blob())
    others = [
        FramePrompts(clicks[:1], (1, 2, 3, 4), blob()),
        FramePrompts(((1.0, 2.0, False), (3.0, 4.0, False)), (1, 2, 3, 4), blob()),
        FramePrompts(((1.1, 2.0, True), (3.0, 4.0, False)), (1, 2, 3, 4), blob()),
        FramePrompts(clicks, (1, 2, 3, 5), blob()),
        FramePrompts(clicks, None, blob()),
        FramePrompts(clicks, (1, 2, 3, 4), ~blob()),
        FramePrompts(clicks, (1, 2, 3, 4), blob().T),
        FramePrompts(clicks, (1, 2, 3, 4), None),
        FramePrompts(absent=True),
        FramePrompts(),
        FramePrompts(((-0.0001, 0.0, True),)),
    ]
    prints = {one.fingerprint for one in [base, *others]}
    assert len(prints) == len(others) + 1
    assert FramePrompts(mask=np.ones((2, 8), bool)) != FramePrompts(mask=np.ones((4, 4), bool))
    assert FramePrompts(((-0.0, 0.0, True),)) == FramePrompts(((0.0, 0.0, np.bool_(True)),))
    assert FramePrompts(((np.float32(0.5), 1, 1),)) == FramePrompts(((0.5, 1.0, True),))


def test_fingerprints_are_the_same_in_another_process() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(LIBRARY)!r})\n"
        "from SAM2PropagateLib.prompts import FramePrompts\n"
        "print(FramePrompts(((1.5, 2.5, True),), (1, 2, 3, 4)).fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=True
    )
    assert done.stdout.strip() == FramePrompts(((1.5, 2.5, True),), (1, 2, 3, 4)).fingerprint


def test_resolved_values_are_read_only_and_travel() -> None:
    resolved = resolve(said((5, 5, 20, True), (5, 5, 10, True), absent=(2,)), CT, 2)
    assert list(resolved.keyframes) == [2, 10, 20]
    with pytest.raises(TypeError):
        resolved.keyframes[3] = FramePrompts()
    assert pickle.loads(pickle.dumps(resolved)) == resolved
    assert hash(resolved) == hash(ResolvedSegment("liver", dict(resolved.keyframes), frozenset(), 2, 29))
    assert resolved != ResolvedSegment("liver", dict(resolved.keyframes), frozenset({3}), 2, 29)
