"""Where scribbles and lassos lie on the frames of a volume, and what they say there."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames import VolumeGeometry
from SAM2PropagateLib.prompts import (
    Lasso,
    PromptSet,
    Scribble,
    SegmentPrompts,
    box_at,
    choose_axis,
    click_at,
    frames_of,
    is_across,
    lasso_around,
    mark_at,
    mask_at,
    outline_pixels,
    range_at,
    resolve,
    scribble_along,
)
from SAM2PropagateLib.prompts.move import moved_segment
from SAM2PropagateLib.prompts.strokes import MOST_KEYFRAMES, TOLERANCE, filled
from SAM2PropagateLib.prompts.values import MOST_POINTS
from Testing.frames.geometries import AXES, PROFILE, volume_geometries

# 20 columns of 1 mm, 16 rows of 1 mm, 30 axial slices of 3 mm.
CT = VolumeGeometry((20, 16, 30), np.array([[1, 0, 0, -10], [0, 1, 0, -8], [0, 0, 3, 100], [0, 0, 0, 1.0]]))
LINE = [(2.0, 3.0), (9.0, 4.0), (15.0, 8.0)]
SQUARE = [(2.5, 3.5), (9.5, 3.5), (9.5, 8.5), (2.5, 8.5)]


def ras(
    pixels: list[tuple[float, float]], frame: float, geometry: VolumeGeometry = CT, axis: int = 2
) -> list[tuple[float, ...]]:
    """Pixels of a frame in RAS."""
    return [tuple(geometry.ras_of_pixel(x, y, frame, axis)) for x, y in pixels]


def scribble(pixels: list[tuple[float, float]], frame: int, positive: bool = True) -> Scribble:
    return Scribble("s", ras(pixels, frame), positive)


def lasso(pixels: list[tuple[float, float]], frame: int, exact: bool = False) -> Lasso:
    return Lasso("o", ras(pixels, frame), exact)


def upright(points: list[tuple[float, float]]) -> list[tuple[float, ...]]:
    """Places (x, frame) in the plane of row 6 in RAS, as a coronal view shows it."""
    return [tuple(CT.ras_of_pixel(x, 6, frame, 2)) for x, frame in points]


def refusal(segment: SegmentPrompts) -> InputError:
    with pytest.raises(InputError) as error:
        resolve(segment, CT, 2)
    assert error.value.sentence.endswith(".") and error.value.hint.endswith(".")
    return error.value


# --- in the frame's own plane


@PROFILE
@given(data=st.data())
def test_a_stroke_in_the_frames_plane_speaks_there_whatever_the_volume(data: st.DataObject) -> None:
    geometry, axis = data.draw(volume_geometries()), data.draw(AXES)
    rows, columns = geometry.frame_shape(axis)
    frame = data.draw(st.integers(0, geometry.frame_count(axis) - 1))
    pixels = [(0.0, 0.0), (columns - 1.0, 0.0), (columns - 1.0, rows - 1.0)]
    drawn = Scribble("s", ras(pixels, frame, geometry, axis))
    assert frames_of(drawn, geometry, axis) == (frame,) and not is_across(drawn, geometry, axis)
    stroke = resolve(SegmentPrompts("a").add(drawn), geometry, axis).keyframes[frame].strokes[0]
    assert stroke.positive
    assert np.allclose(np.array(stroke.points)[-1], pixels[-1], atol=1e-3)
    corners = [(-0.4, -0.4), (columns - 0.6, -0.4), (columns - 0.6, rows - 0.6), (-0.4, rows - 0.6)]
    around = Lasso("o", ras(corners, frame, geometry, axis))
    found, inside = outline_pixels(around, geometry, axis)
    assert found == frame and inside.all() and inside.shape == (rows, columns)


def test_a_scribble_is_a_stroke_of_its_frame() -> None:
    said = resolve(SegmentPrompts("a").add(scribble(LINE, 7)), CT, 2).keyframes
    assert list(said) == [7] and said[7].is_positive and not said[7].has_shape
    [stroke] = said[7].strokes
    assert stroke.positive and np.allclose(stroke.points, LINE)


def test_parts_of_a_scribble_beyond_the_image_are_left_out() -> None:
    line = [(-9.0, 5.0), (5.0, 5.0), (5.0, 40.0), (12.0, 40.0), (12.0, 5.0)]
    strokes = resolve(SegmentPrompts("a").add(scribble(line, 7)), CT, 2).keyframes[7].strokes
    assert np.allclose(strokes[0].points, [(-0.5, 5), (5, 5), (5, 15.5)])
    assert np.allclose(strokes[1].points, [(12, 15.5), (12, 5)])
    assert len(strokes) == 2
    assert frames_of(scribble([(50.0, 5.0), (60.0, 5.0)], 7), CT, 2) == ()
    error = refusal(SegmentPrompts("liver").add(scribble([(50.0, 5.0), (60.0, 5.0)], 7)))
    assert error.code == "outside_volume" and "“liver”" in error.sentence
    beyond = Scribble("s", ras(LINE, 35))
    assert frames_of(beyond, CT, 2) == ()
    assert refusal(SegmentPrompts("liver").add(beyond)).code == "outside_volume"


def test_a_lasso_goes_around_pixels() -> None:
    frame, inside = outline_pixels(lasso(SQUARE, 4), CT, 2)
    expected = np.zeros((16, 20), bool)
    expected[4:9, 3:10] = True
    assert frame == 4 and np.array_equal(inside, expected) and not inside.flags.writeable
    prompts = resolve(SegmentPrompts("a").add(lasso(SQUARE, 4)), CT, 2).keyframes[4]
    assert prompts.mask is None and np.array_equal(prompts.outlines[0], expected) and prompts.is_positive
    exact = resolve(SegmentPrompts("a").add(lasso(SQUARE, 4, exact=True)), CT, 2).keyframes[4]
    assert np.array_equal(exact.mask, expected) and not exact.outlines and exact.is_positive


def test_several_lassos_add_up() -> None:
    other = Lasso("p", ras([(x + 4, y + 4) for x, y in SQUARE], 4), exact=True)
    third = Lasso("q", ras([(x, y + 5) for x, y in SQUARE], 4))
    segment = SegmentPrompts("a").add(lasso(SQUARE, 4, exact=True)).add(other).add(third)
    said = resolve(segment, CT, 2).keyframes[4]
    each = [outline_pixels(one, CT, 2)[1] for one in segment.lassos]
    assert np.array_equal(said.mask, each[0] | each[1])
    assert np.array_equal(said.outlines[0], each[2]) and len(said.outlines) == 1


def test_a_line_that_crosses_itself_is_filled_by_the_nonzero_rule() -> None:
    eight = [(2, 2), (12, 12), (12, 2), (2, 12)]
    inside = filled(eight, (16, 20))
    assert inside[7, 3] and inside[7, 11] and not inside[3, 7] and not inside[11, 7]
    # Twice around in the same direction: the even-odd rule would leave a hole.
    twice = [(2, 2), (12, 2), (12, 12), (2, 12), (4, 4), (10, 4), (10, 10), (4, 10)]
    assert filled(twice, (16, 20))[7, 7]
    assert np.array_equal(filled(twice[::-1], (16, 20)), filled(twice, (16, 20)))


@PROFILE
@given(seed=st.integers(0, 10**6))
def test_filling_agrees_with_winding_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-3, 15, (rng.integers(3, 9), 2))
    inside = filled(corners, (12, 12))
    for row, column in ((2, 2), (6, 6), (9, 3), (0, 11)):
        steps = corners - (column, row)
        angles = np.arctan2(steps[:, 1], steps[:, 0])
        turns = np.diff(np.append(angles, angles[0]))
        turns = (turns + math.pi) % (2 * math.pi) - math.pi
        assert inside[row, column] == (abs(turns.sum()) > math.pi)


def test_a_circle_has_its_area() -> None:
    angles = np.linspace(0, 2 * math.pi, 400, endpoint=False)
    circle = np.column_stack([50 + 30 * np.cos(angles), 50 + 30 * np.sin(angles)])
    inside = filled(circle, (101, 101))
    assert abs(inside.sum() / (math.pi * 900) - 1) < 0.01
    assert np.allclose(ndimage.center_of_mass(inside), (50, 50), atol=0.5)


def test_a_lasso_that_goes_around_nothing() -> None:
    tiny = [(3.1, 3.1), (3.4, 3.1), (3.4, 3.4)]
    error = refusal(SegmentPrompts("liver").add(lasso(tiny, 4)))
    assert error.code == "empty_lasso" and "slice 5 of 30" in error.sentence
    assert (
        refusal(SegmentPrompts("liver").add(lasso([(x + 90, y) for x, y in SQUARE], 4))).code == "empty_lasso"
    )
    over_the_edge = lasso([(x - 6, y) for x, y in SQUARE], 4)
    assert outline_pixels(over_the_edge, CT, 2)[1].sum() == 5 * 4


def test_a_lasso_in_a_view_tilted_a_little_lies_on_its_middle_frame() -> None:
    # 7 mm wide, 1.2 mm from end to end along the axis: 10 degrees.
    tilted = Lasso("o", [(r, a, s + 0.17 * r) for r, a, s in ras(SQUARE, 4)])
    assert not is_across(tilted, CT, 2) and frames_of(tilted, CT, 2) == (4,)
    assert outline_pixels(tilted, CT, 2)[1].sum() == 35
    steep = Lasso("o", [(r, a, s + 0.6 * r) for r, a, s in ras(SQUARE, 4)])
    assert is_across(steep, CT, 2)


# --- across the frames


def test_a_scribble_across_speaks_on_its_ends_and_its_middle() -> None:
    along = Scribble("s", upright([(5, 3), (9, 13), (9, 23)]))
    assert is_across(along, CT, 2) and frames_of(along, CT, 2) == (3, 13, 23)
    said = resolve(SegmentPrompts("a").add(along), CT, 2).keyframes
    assert list(said) == [3, 13, 23]
    for frame, x in ((3, 5), (13, 9), (23, 9)):
        [stroke] = said[frame].strokes
        assert np.allclose(np.array(stroke.points), (x, 6), atol=0.25), stroke
    short = Scribble("s", upright([(5, 3.2), (5, 4.1)]))
    assert frames_of(short, CT, 2) == (3, 4)
    assert len(frames_of(Scribble("s", upright([(5, 0), (5, 29)])), CT, 2)) == MOST_KEYFRAMES


def test_a_scribble_that_comes_back_has_two_parts_on_a_frame() -> None:
    bent = Scribble("s", upright([(3, 2), (3, 12), (15, 12), (15, 2)]))
    said = resolve(SegmentPrompts("a").add(bent), CT, 2).keyframes
    assert list(said) == [2, 7, 12]
    assert sorted(round(stroke.points[0][0]) for stroke in said[7].strokes) == [3, 15]


def test_a_lasso_across_speaks_by_its_chords() -> None:
    around = Lasso("o", upright([(4, 4), (14, 4), (14, 20), (4, 20)]))
    assert is_across(around, CT, 2)
    frames = frames_of(around, CT, 2)
    assert len(frames) == MOST_KEYFRAMES and frames[0] >= 4 and frames[-1] <= 20
    said = resolve(SegmentPrompts("a").add(around), CT, 2).keyframes
    assert tuple(said) == frames
    for prompts in said.values():
        inner = [stroke for stroke in prompts.strokes if stroke.positive]
        outer = [stroke.points[0] for stroke in prompts.strokes if not stroke.positive]
        assert len(inner) == 1 and sorted(x for x, _ in inner[0].points) == [6.5, 11.5]
        assert sorted(x for x, _ in outer) == [2.0, 16.0] and prompts.is_positive
        assert {y for _, y in (*inner[0].points, *outer)} == {6.0}


@pytest.mark.parametrize("signs", [(1, 1, 1, 1), (-1, -1, -1, -1), (1, -1, 1, -1), (-1, 1, -1, 1)])
def test_a_lasso_with_an_edge_in_a_frame_says_the_same_after_rounding(signs: tuple[int, ...]) -> None:
    corners = upright([(4, 4), (14, 4), (14, 20), (4, 20)])
    beside = [(x, y, z + sign * 1e-6) for (x, y, z), sign in zip(corners, signs, strict=True)]
    assert frames_of(Lasso("o", beside), CT, 2) == frames_of(Lasso("o", corners), CT, 2)


def test_a_lasso_across_with_a_bay_has_two_chords() -> None:
    bay = [(2, 4), (18, 4), (18, 20), (13, 20), (13, 6), (7, 6), (7, 20), (2, 20)]
    said = resolve(SegmentPrompts("a").add(Lasso("o", upright(bay))), CT, 2).keyframes
    middle = said[sorted(said)[1]]
    assert len([stroke for stroke in middle.strokes if stroke.positive]) == 2


def test_a_lasso_across_cannot_be_kept_exactly() -> None:
    around = Lasso("o", upright([(4, 4), (14, 4), (14, 20), (4, 20)]), exact=True)
    error = refusal(SegmentPrompts("liver").add(around))
    assert error.code == "lasso_across" and "axial slices" in error.sentence and "axial view" in error.hint
    assert list(resolve(SegmentPrompts("a").add(dataclasses.replace(around, exact=False)), CT, 2).keyframes)


# --- with other prompts


def test_only_negative_scribbles() -> None:
    error = refusal(SegmentPrompts("liver").add(scribble(LINE, 7, positive=False)).add(_click(5, 5, 8)))
    assert error.code == "only_negative_clicks" and "negative scribbles" in error.sentence
    said = SegmentPrompts("liver").add(scribble(LINE, 7, positive=False)).add(_click(5, 5, 7))
    assert not resolve(said, CT, 2).keyframes[7].strokes[0].positive


def _click(x: float, y: float, frame: int):
    return click_at(x, y, frame, CT, 2)


@pytest.mark.parametrize("drawn", [scribble(LINE, 7), lasso(SQUARE, 7)], ids=["scribble", "lasso"])
def test_strokes_on_frames_on_which_nothing_may_be(drawn) -> None:
    segment = SegmentPrompts("liver").add(_click(5, 5, 9))
    word = type(drawn).__name__.lower()
    for kind in ("absent", "lock"):
        error = refusal(segment.add(drawn).add(mark_at(7, CT, 2), kind))
        assert error.code == "contradiction" and word in error.sentence and "Slice 8" in error.sentence
    error = refusal(segment.add(drawn).with_range(range_at(8, 12, CT, 2)))
    assert error.code == "outside_range" and word in error.sentence


def test_a_lasso_across_on_an_absent_frame_is_called_a_lasso() -> None:
    around = Lasso("o", upright([(4, 4), (14, 4), (14, 20), (4, 20)]))
    frame = frames_of(around, CT, 2)[0]
    error = refusal(SegmentPrompts("liver").add(around).add(mark_at(frame, CT, 2), "absent"))
    assert error.code == "contradiction" and "a lasso" in error.sentence


def test_strokes_on_a_mask() -> None:
    mask = np.zeros((16, 20), bool)
    mask[4:9, 3:10] = True
    segment = SegmentPrompts("liver").add(mask_at(mask, 7, CT, 2))
    said = resolve(segment.add(scribble(LINE, 7, positive=False)), CT, 2).keyframes[7]
    assert said.has_shape and said.strokes and np.array_equal(said.mask, mask)
    error = refusal(segment.add(lasso(SQUARE, 7)))
    assert error.code == "contradiction" and "both a mask and a lasso" in error.sentence
    locked = segment.add(lasso(SQUARE, 7)).add(scribble(LINE, 7)).add(mark_at(7, CT, 2), "lock")
    kept = resolve(locked, CT, 2).keyframes[7]
    assert np.array_equal(kept.mask, mask) and not kept.strokes and not kept.outlines


def test_strokes_show_their_axis() -> None:
    def chosen(*drawn: Scribble | Lasso) -> int:
        segment = SegmentPrompts("a")
        for one in drawn:
            segment = segment.add(one)
        return choose_axis(PromptSet((segment,)), CUBE)

    cube_lasso = Lasso("o", [(1, 2, 5), (1, 9, 5), (1, 9, 9)])
    cube_scribble = Scribble("s", [(1, 2, 5), (4, 2, 5), (9, 2, 9)])
    assert chosen(cube_scribble) == 1
    assert chosen(cube_scribble, cube_lasso) == 0, "a lasso tells more than a scribble"
    assert chosen(Scribble("s", [(1, 2, 5), (4, 2, 5)])) == 2, "a straight line lies on frames of two axes"
    boxed = SegmentPrompts("a").add(box_at((1, 1, 5, 5), 3, CUBE, 1)).add(cube_lasso)
    assert choose_axis(PromptSet((boxed,)), CUBE) == 1, "a box tells more than a lasso"


CUBE = VolumeGeometry((12, 12, 12), np.eye(4))


def test_fingerprints_tell_strokes_apart() -> None:
    def prints(*drawn: Scribble | Lasso) -> str:
        segment = SegmentPrompts("a").add(_click(1, 1, 7))
        for number, one in enumerate(drawn):
            segment = segment.add(dataclasses.replace(one, id=f"p{number}"))
        return resolve(segment, CT, 2).keyframes[7].fingerprint

    one, other = scribble(LINE, 7), scribble(LINE[:2], 7)
    ways = [
        (),
        (one,),
        (other,),
        (one, other),
        (dataclasses.replace(one, positive=False),),
        (lasso(SQUARE, 7),),
        (lasso(SQUARE, 7, exact=True),),
        (lasso(SQUARE, 7), one),
    ]
    assert len({prints(*way) for way in ways}) == len(ways)
    assert prints(one, other) == prints(other, one), "from scratch their order means nothing"


def test_moving_carries_strokes() -> None:
    turn = np.eye(4)
    turn[:3, 3] = 5, 6, 7
    said = moved_segment(SegmentPrompts("a").add(scribble(LINE, 7)).add(lasso(SQUARE, 7)), turn)
    assert np.allclose(said.scribbles[0].points[0], np.add(ras(LINE, 7)[0], (5, 6, 7)))
    assert np.allclose(said.lassos[0].points[2], np.add(ras(SQUARE, 7)[2], (5, 6, 7)))


# --- few points


def test_a_drawn_stroke_keeps_its_shape_with_few_points() -> None:
    angles = np.linspace(0, 2 * math.pi, 3000)
    drawn = [(10 + 6 * math.cos(angle), 8 + 5 * math.sin(angle)) for angle in angles]
    around = lasso_around(ras(drawn, 7), CT)
    assert 8 < len(around.points) < 60
    mine = outline_pixels(around, CT, 2)[1]
    assert (mine ^ filled(drawn, (16, 20))).sum() <= 3
    kept = np.array([CT.pixel_of(point, 2) for point in around.points])
    ends = np.roll(kept, -1, axis=0)
    for point in np.array(drawn)[::50]:
        steps = ends - kept
        share = np.clip(((point - kept) * steps).sum(1) / (steps**2).sum(1), 0, 1)
        assert np.linalg.norm(kept + share[:, None] * steps - point, axis=1).min() <= TOLERANCE + 1e-6


def test_a_stroke_there_and_back_keeps_its_tip() -> None:
    out = [(float(x), 5.0) for x in range(2, 15)]
    drawn = scribble_along(ras(out + out[::-1], 7), CT, positive=False)
    assert not drawn.positive
    assert [CT.pixel_of(point, 2)[0] for point in drawn.points] == pytest.approx([2, 14, 2])


def test_a_wild_stroke_is_thinned_to_what_is_possible() -> None:
    rng = np.random.default_rng(0)
    wild = [(float(x), float(y)) for x, y in rng.uniform(0, 15, (4000, 2))]
    assert len(scribble_along(ras(wild, 7), CT).points) <= MOST_POINTS
    with pytest.raises(InputError) as error:
        scribble_along(np.zeros((0, 3)), CT)
    assert error.value.code == "empty_scribble"
    with pytest.raises(InputError) as error:
        lasso_around([(0, 0, math.nan)] * 3, CT)
    assert error.value.code == "bad_point"
