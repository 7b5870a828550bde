"""The simulated user: what they prompt first, and where and how they correct."""

from __future__ import annotations

import numpy as np
import pytest

from SAM2PropagateLib.evaluation.simulated_user import (
    Correction,
    box_around,
    corrected,
    first_prompt,
    frame_range,
    largest_frame,
    worst_frame,
)
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.mask_depth import innermost_point
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import SegmentPrompts

SHAPE = (6, 7, 8)
OBLIQUE = np.array([[0.0, -0.8, 0.6, 10], [-1.1, 0, 0, 3], [0, 1.2, 1.6, -5], [0, 0, 0, 1]])
GEOMETRY = VolumeGeometry(SHAPE[::-1], OBLIQUE)


def volume(**slices: tuple[int, int, int, int]) -> np.ndarray:
    """(6, 7, 8) bool; k3=(r0, r1, c0, c1) fills rows r0:r1 and columns c0:c1 of slice 3."""
    mask = np.zeros(SHAPE, bool)
    for name, (r0, r1, c0, c1) in slices.items():
        mask[int(name[1:]), r0:r1, c0:c1] = True
    return mask


REFERENCE = volume(k1=(2, 4, 2, 4), k2=(1, 5, 2, 6), k3=(1, 5, 3, 7), k4=(2, 4, 3, 5))


def test_places_on_the_reference() -> None:
    assert largest_frame(REFERENCE, 2) == 2, "the first of two equal ones"
    assert frame_range(REFERENCE, 2) == (1, 4)
    assert frame_range(REFERENCE, 1) == (1, 4)
    assert frame_range(REFERENCE, 0) == (2, 6)
    assert box_around(REFERENCE[2]) == (1.5, 0.5, 5.5, 4.5)


def test_the_innermost_point_is_farthest_from_the_edge() -> None:
    mask = np.zeros((9, 9), bool)
    mask[1:8, 2:5] = True
    mask[3:8, 4:9] = True
    x, y = innermost_point(mask)
    # Everything beyond the frame counts as outside, so the row in the middle of rows 3 to 7 is deepest.
    assert (x, y) == (4.0, 5.0)
    single = np.zeros((3, 3), bool)
    single[0, 2] = True
    assert innermost_point(single) == (2.0, 0.0)


def test_the_first_box_lies_on_the_pixels_outer_edges() -> None:
    prompts = resolve(first_prompt("box", "a", REFERENCE, GEOMETRY, 2), GEOMETRY, 2)
    [(frame, said)] = prompts.keyframes.items()
    assert frame == 2 and not said.clicks and said.mask is None
    assert said.box == pytest.approx((1.5, 0.5, 5.5, 4.5))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_first_click_lies_inside(axis: int) -> None:
    prompts = resolve(first_prompt("click", "a", REFERENCE, GEOMETRY, axis), GEOMETRY, axis)
    [(frame, said)] = prompts.keyframes.items()
    [(x, y, positive)] = said.clicks
    assert positive and frame == largest_frame(REFERENCE, axis)
    assert np.take(REFERENCE, frame, 2 - axis)[round(y), round(x)]


def test_unknown_kinds_are_errors() -> None:
    with pytest.raises(ValueError, match="scribble"):
        first_prompt("scribble", "a", REFERENCE, GEOMETRY, 2)
    with pytest.raises(ValueError, match="scribble"):
        corrected(SegmentPrompts("a"), "scribble", REFERENCE, REFERENCE, GEOMETRY, 2)


def test_the_worst_slice_has_the_most_wrong_pixels() -> None:
    found = REFERENCE.copy()
    found[2, 1, 2:5] = False  # 3 missing of 16: Dice 0.90
    found[4, 2, 3] = False  # 1 missing of 4: Dice 0.86
    assert worst_frame(found, REFERENCE, 2) == (2, 3)
    found[5, 0, 0:3] = True  # as many, further on
    assert worst_frame(found, REFERENCE, 2) == (2, 3)
    found[5, 0, 3] = True
    assert worst_frame(found, REFERENCE, 2) == (5, 4)
    assert worst_frame(REFERENCE, REFERENCE, 2) is None


def test_nothing_wrong_means_no_correction() -> None:
    for kind in ("mask", "click"):
        assert corrected(SegmentPrompts("a"), kind, REFERENCE, REFERENCE, GEOMETRY, 2) is None


def _once(
    kind: str, found: np.ndarray, prompts: SegmentPrompts | None = None
) -> tuple[SegmentPrompts, Correction]:
    start = first_prompt("box", "a", REFERENCE, GEOMETRY, 2) if prompts is None else prompts
    better = corrected(start, kind, found, REFERENCE, GEOMETRY, 2)
    assert better is not None
    return better


def test_a_painted_slice_becomes_a_keyframe_with_the_reference() -> None:
    found = REFERENCE.copy()
    found[3] = False
    prompts, correction = _once("mask", found)
    assert correction == Correction(3, "mask", 16)
    keyframes = resolve(prompts, GEOMETRY, 2).keyframes
    assert sorted(keyframes) == [2, 3]
    assert keyframes[3].mask is not None and np.array_equal(keyframes[3].mask, REFERENCE[3])


def test_painting_the_prompted_slice_replaces_its_prompt() -> None:
    found = REFERENCE.copy()
    found[2] = False
    prompts, _ = _once("mask", found)
    [(frame, said)] = resolve(prompts, GEOMETRY, 2).keyframes.items()
    assert frame == 2 and said.box is None
    assert said.mask is not None and np.array_equal(said.mask, REFERENCE[2])


@pytest.mark.parametrize("kind", ["mask", "click"])
def test_where_the_structure_is_not_the_slice_is_marked_absent(kind: str) -> None:
    found = REFERENCE.copy()
    found[5, :5] = True
    prompts, correction = _once(kind, found)
    assert correction == Correction(5, "absent", 40)
    resolved = resolve(prompts, GEOMETRY, 2)
    assert resolved.keyframes[5].absent and (resolved.first, resolved.last) == (0, 5)


def test_a_click_corrects_the_largest_wrong_part_on_top_of_the_present_mask() -> None:
    found = REFERENCE.copy()
    found[3, 1:4, 3:7] = False  # 12 missing
    found[3, 6, 0:2] = True  # 2 too much
    prompts, correction = _once("click", found)
    assert correction == Correction(3, "click", 14)
    said = resolve(prompts, GEOMETRY, 2).keyframes[3]
    [(x, y, positive)] = said.clicks
    assert positive and REFERENCE[3, round(y), round(x)] and not found[3, round(y), round(x)]
    assert said.mask is not None and np.array_equal(said.mask, found[3])

    # A second one on the same slice keeps the mask that was there first and adds a click.
    found[3] = REFERENCE[3]
    found[3, 5:7, 0:4] = True
    again, _ = _once("click", found, prompts)
    said = resolve(again, GEOMETRY, 2).keyframes[3]
    assert [sign for _, _, sign in said.clicks] == [True, False]
    x, y, _ = said.clicks[1]
    assert found[3, round(y), round(x)] and not REFERENCE[3, round(y), round(x)]


def test_a_click_where_nothing_was_found_stands_alone() -> None:
    found = REFERENCE.copy()
    found[3] = False
    prompts, _ = _once("click", found)
    said = resolve(prompts, GEOMETRY, 2).keyframes[3]
    assert said.mask is None and len(said.clicks) == 1


def test_a_click_brings_a_withheld_mask_back_if_it_lies_at_it() -> None:
    found = REFERENCE.copy()
    found[3] = False
    start = first_prompt("box", "a", REFERENCE, GEOMETRY, 2)
    near, far = np.zeros_like(found[3]), np.zeros_like(found[3])
    near[REFERENCE[3]], far[-2:, -2:] = True, True
    near[0, 0] = True
    for withheld, expected in ((near, near), (far, None), (np.zeros_like(near), None)):
        better = corrected(start, "click", found, REFERENCE, GEOMETRY, 2, {3: withheld})
        assert better is not None
        said = resolve(better[0], GEOMETRY, 2).keyframes[3]
        assert [positive for _, _, positive in said.clicks] == [True]
        assert (said.mask is None) == (expected is None)
        assert expected is None or np.array_equal(said.mask, expected)
    painted = corrected(start, "mask", found, REFERENCE, GEOMETRY, 2, {3: near})
    assert painted is not None
    assert np.array_equal(resolve(painted[0], GEOMETRY, 2).keyframes[3].mask, REFERENCE[3])


def test_a_click_on_the_prompted_slice_joins_the_box() -> None:
    found = REFERENCE.copy()
    found[2, 1:4] = False
    prompts, _ = _once("click", found)
    said = resolve(prompts, GEOMETRY, 2).keyframes[2]
    assert said.box is not None and said.mask is None and len(said.clicks) == 1
