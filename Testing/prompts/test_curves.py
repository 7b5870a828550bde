"""Curves: where they cross the frames of a volume, and what they say there."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames import VolumeGeometry
from SAM2PropagateLib.prompts import (
    Click,
    Curve,
    SegmentPrompts,
    click_at,
    curve_through,
    dumps,
    frames_of,
    from_document,
    loads,
    mark_at,
    mask_at,
    range_at,
    resolve,
    to_document,
)
from SAM2PropagateLib.prompts.move import moved_segment
from SAM2PropagateLib.prompts.strokes import MOST_CROSSED
from SAM2PropagateLib.prompts.values import PromptSet
from Testing.frames.geometries import AXES, PROFILE, volume_geometries

# 20 columns of 1 mm, 16 rows of 1 mm, 30 axial slices of 3 mm.
CT = VolumeGeometry((20, 16, 30), np.array([[1, 0, 0, -10], [0, 1, 0, -8], [0, 0, 3, 100], [0, 0, 0, 1.0]]))


def curve(*places: tuple[float, float, float], closed: bool = False, name: str = "v") -> Curve:
    """Through places (x, y, frame) of the CT."""
    return Curve(name, tuple(tuple(CT.ras_of_pixel(x, y, frame, 2)) for x, y, frame in places), closed)


def said(*prompts: Curve) -> SegmentPrompts:
    segment = SegmentPrompts("vessel")
    for one in prompts:
        segment = segment.add(one)
    return segment


def clicks(segment: SegmentPrompts) -> dict[int, list[tuple[float, float]]]:
    """The positive clicks on each keyframe."""
    found = {}
    for frame, prompts in resolve(segment, CT, 2).keyframes.items():
        found[frame] = [(x, y) for x, y, positive in prompts.clicks if positive]
    return found


@pytest.mark.parametrize("sign", [1, -1])
def test_a_piece_in_a_frame_says_the_same_after_rounding(sign: int) -> None:
    exact = curve((5, 5, 1), (6, 7, 1), (8, 7, 6))
    beside = curve((5, 5, 1 + sign * 1e-7), (6, 7, 1 - sign * 1e-7), (8, 7, 6))
    (x, y), *others = clicks(said(beside))[1]
    assert others == [] and clicks(said(exact))[1] == [(x, y)] == [(5, 5)]


def refusal(segment: SegmentPrompts) -> InputError:
    with pytest.raises(InputError) as error:
        resolve(segment, CT, 2)
    assert error.value.sentence.endswith(".") and error.value.hint.endswith(".")
    return error.value


# --- where it crosses


def test_a_curve_is_a_positive_click_where_it_crosses_a_frame() -> None:
    found = clicks(said(curve((4, 5, 3), (8, 5, 7))))
    assert list(found) == [3, 4, 5, 6, 7]
    assert all(np.allclose(places, [(4 + n, 5)]) for n, places in enumerate(found.values()))


def test_its_ends_speak_on_the_frames_that_they_lie_on() -> None:
    found = clicks(said(curve((4, 5, 2.7), (8, 9, 4.2))))
    assert list(found) == [3, 4]
    found = clicks(said(curve((4, 5, 3.2), (8, 5, 3.9))))
    assert np.allclose(found[3], [(4, 5)]) and np.allclose(found[4], [(8, 5)])


def test_a_curve_that_comes_back_is_two_clicks_on_a_frame() -> None:
    found = clicks(said(curve((4, 5, 3), (8, 9, 6), (14, 5, 3))))
    assert len(found[6]) == 1
    assert np.allclose(sorted(found[4]), [(4 + 4 / 3, 5 + 4 / 3), (12, 5 + 4 / 3)])


def test_a_closed_curve_is_joined() -> None:
    corners = ((4, 5, 3), (12, 5, 3), (12, 5, 9), (4, 5, 9))
    opened, closed = (clicks(said(curve(*corners, closed=one))) for one in (False, True))
    assert np.allclose(opened[6], [(12, 5)]) and np.allclose(sorted(closed[6]), [(4, 5), (12, 5)])
    assert Curve("v", (*curve(*corners).points, curve(*corners).points[0]), True) == curve(
        *corners, closed=True
    )


def test_a_long_curve_speaks_on_some_of_the_frames_that_it_crosses() -> None:
    found = clicks(said(curve((4, 5, 1), (8, 5, 28))))
    assert len(found) == MOST_CROSSED and (min(found), max(found)) == (1, 28)
    gaps = np.diff(sorted(found))
    assert gaps.max() - gaps.min() <= 1
    assert frames_of(curve((4, 5, 1), (8, 5, 28)), CT, 2) == tuple(found)


@PROFILE
@given(data=st.data())
def test_a_straight_curve_crosses_where_it_was_drawn_whatever_the_volume(data: st.DataObject) -> None:
    geometry, axis = data.draw(volume_geometries()), data.draw(AXES)
    count = geometry.frame_count(axis)
    if count < 3:
        return
    rows, columns = geometry.frame_shape(axis)
    x, y = (columns - 1) / 2, (rows - 1) / 2
    ends = [geometry.ras_of_pixel(x, y, frame, axis) for frame in (0, count - 1)]
    keyframes = resolve(said(curve_through(ends, geometry)), geometry, axis).keyframes
    assert len(keyframes) == min(count, MOST_CROSSED)
    assert all(np.allclose(one.clicks[0][:2], (x, y), atol=1e-3) for one in keyframes.values())


def test_what_lies_beside_the_image_is_left_out() -> None:
    found = clicks(said(curve((4, 5, -4), (4, 5, 3), (40, 5, 8))))
    assert list(found) == [0, 1, 2, 3, 4, 5]
    error = refusal(said(curve((40, 5, 3), (44, 5, 8))))
    assert error.code == "outside_volume" and "“vessel”" in error.sentence


def test_on_one_frame_a_curve_is_a_scribble_and_a_closed_one_is_refused() -> None:
    flat = curve((4, 5, 7), (12, 5, 7.2))
    prompts = resolve(said(flat), CT, 2).keyframes[7]
    assert not prompts.clicks and len(prompts.strokes) == 1 and prompts.is_positive
    error = refusal(said(curve((4, 5, 7), (12, 5, 7), (12, 12, 7), closed=True)))
    assert error.code == "flat_curve" and "lasso" in error.hint


def test_a_curve_passes_by_what_is_said_of_a_frame_already() -> None:
    along = curve((4, 5, 3), (4, 5, 11))
    segment = said(along).add(mark_at(5, CT, 2, "l"), "lock").add(range_at(4, 9, CT, 2))
    found = clicks(segment)
    assert sorted(found) == [4, 6, 7, 8, 9]
    segment = segment.add(mark_at(9, CT, 2, "a"), "absent")
    keyframes = resolve(segment, CT, 2).keyframes
    assert keyframes[9].absent and sorted(keyframes) == [4, 6, 7, 8, 9]
    assert refusal(said(along).add(range_at(20, 25, CT, 2))).code == "no_prompts"


def test_on_a_painted_slice_it_corrects() -> None:
    painted = np.zeros((16, 20), bool)
    painted[4:7, 3:6] = True
    prompts = resolve(said(curve((4, 5, 3), (4, 5, 5))).add(mask_at(painted, 4, CT, 2, "m")), CT, 2)
    assert prompts.keyframes[4].mask is not None and len(prompts.keyframes[4].clicks) == 1


def test_a_negative_click_on_the_curve_is_a_contradiction() -> None:
    segment = said(curve((4, 5, 3), (4, 5, 5))).add(click_at(4, 5, 4, CT, 2, False, "n"))
    assert refusal(segment).code == "contradiction"


# --- the value


def test_a_curve_needs_two_points() -> None:
    for points in ((), ((1, 2, 3),), ((1, 2, 3), (1, 2, 3))):
        with pytest.raises(InputError) as error:
            Curve("v", points)  # type: ignore[arg-type]
        assert error.value.code == "short_curve"
    with pytest.raises(InputError, match="finite"):
        Curve("v", ((1, 2, 3), (1, 2, math.nan)))


def test_it_is_moved_as_a_whole_and_by_its_points() -> None:
    segment = said(curve((4, 5, 3), (4, 5, 7)))
    assert clicks(segment.shifted("v", (2, 0, 6)))[5] == [pytest.approx((6, 5))]
    moved = segment.move("v", tuple(CT.ras_of_pixel(4, 5, 3, 2)), tuple(CT.ras_of_pixel(8, 5, 7, 2)))
    assert clicks(moved)[5] == [pytest.approx((6, 5))]
    turn = np.array([[0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, -7], [0, 0, 0, 1.0]])
    after = moved_segment(segment, turn).curves[0]
    assert np.allclose(after.points, [turn[:3, :3] @ one + turn[:3, 3] for one in segment.curves[0].points])


def test_points_that_say_nothing_more_are_left_out() -> None:
    dense = [CT.ras_of_pixel(4 + n / 10, 5, 3 + n / 10, 2) for n in range(50)]
    assert len(curve_through(dense, CT).points) == 2


# --- the document


def test_a_document_with_a_curve_is_of_version_3() -> None:
    prompts = PromptSet((said(curve((4, 5, 3), (8, 5, 7), closed=True)).add(Click("c", (1, 2, 3))),), 2)
    document = to_document(prompts)
    assert document["version"] == 3 and document["segments"][0]["curves"][0]["closed"]
    assert loads(dumps(prompts)) == prompts
    without = prompts.with_segment(prompts.segment("vessel").remove("v"))
    assert to_document(without)["version"] == 1
    for version in (1, 2):
        older = copy.deepcopy(document)
        older["version"] = version
        with pytest.raises(InputError) as error:
            from_document(older)
        assert f"“curves”, which version {version} does not know" in error.value.sentence
        assert "“version” to 3" in error.value.hint


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"points": [[1, 2, 3]]}, "short_curve"),
        ({"points": []}, "bad_document"),
        ({"points": [[1, 2, 3], [4, 5, 6]], "closed": 1}, "bad_document"),
        ({"points": [[1, 2, 3], [4, 5, 6]], "positive": False}, "bad_document"),
    ],
)
def test_wrong_curves_are_named(entry: dict[str, object], code: str) -> None:
    document = {
        "format": "sam2propagate-prompts",
        "version": 3,
        "segments": [{"segment": "vessel", "curves": [entry]}],
    }
    with pytest.raises(InputError) as error:
        from_document(document)
    assert error.value.code == code and error.value.sentence.endswith(".")
