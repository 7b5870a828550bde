"""Prompts are values: every change gives a new one."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.prompts import (
    Box,
    Click,
    FrameMark,
    FrameRange,
    Lasso,
    MaskPrompt,
    PromptSet,
    Scribble,
    SegmentPrompts,
    new_id,
)
from Testing.frames.geometries import PROFILE

CLICK = Click("c", (1, 2, 3))
BOX = Box("b", (0, 0, 0), (5, 5, 0))
MASK = MaskPrompt("m", (0, 0, 0), (1, 0, 0), (0, 1, 0), np.eye(3, dtype=bool))
MARK = FrameMark("f", (0, 0, 9))
SCRIBBLE = Scribble("s", ((0, 0, 0), (1, 0, 0), (2, 1, 0)))
LASSO = Lasso("o", ((0, 0, 0), (9, 0, 0), (9, 9, 0)))
RANGE = FrameRange((0, 0, 0), (0, 0, 20))
FULL = (
    SegmentPrompts("liver")
    .add(CLICK)
    .add(BOX)
    .add(MASK)
    .add(MARK, "absent")
    .add(FrameMark("l", (0, 0, 5)), "lock")
    .add(SCRIBBLE)
    .add(LASSO)
    .add(RANGE)
)


def test_adding_keeps_the_old_value() -> None:
    empty = SegmentPrompts("liver")
    assert empty.is_empty and not empty.has_positive and not FULL.is_empty and FULL.has_positive
    assert FULL.clicks == (CLICK,) and FULL.boxes == (BOX,) and FULL.masks == (MASK,)
    assert FULL.absent == (MARK,) and [mark.id for mark in FULL.locks] == ["l"] and FULL.range == RANGE
    assert [item.id for item in FULL] == ["c", "b", "m", "f", "l", "s", "o"]
    assert FULL.get("m") is MASK
    assert not empty.with_range(RANGE).is_empty
    assert FULL.with_range(None).range is None


def test_moving_and_replacing() -> None:
    assert FULL.move("c", (7, 8, 9)).clicks == (Click("c", (7.0, 8.0, 9.0)),)
    assert FULL.move("b", (1, 1, 1), (2, 2, 1)).boxes == (Box("b", (1, 1, 1), (2, 2, 1)),)
    assert FULL.move("f", (0, 0, 10)).absent == (FrameMark("f", (0, 0, 10)),)
    assert FULL.move("l", (0, 0, 10)).locks == (FrameMark("l", (0, 0, 10)),)
    moved = FULL.move("m", (3, 3, 3)).masks[0]
    assert moved.origin == (3, 3, 3) and np.array_equal(moved.mask, MASK.mask)
    assert FULL.clicks == (CLICK,)
    two = FULL.add(Click("d", (0, 0, 0)))
    turned = two.replace(Click("c", (1, 2, 3), False))
    assert [click.positive for click in turned.clicks] == [False, True]
    with pytest.raises(ValueError, match="2 point"):
        FULL.move("b", (1, 1, 1))
    with pytest.raises(TypeError, match="cannot become"):
        FULL.replace(Box("c", (0, 0, 0), (1, 1, 0)))


def test_strokes_move_as_a_whole() -> None:
    moved = FULL.shifted("s", (1, 2, 3)).shifted("o", (0, 0, 5))
    assert moved.scribbles == (Scribble("s", ((1, 2, 3), (2, 2, 3), (3, 3, 3))),)
    assert moved.lassos == (Lasso("o", ((0, 0, 5), (9, 0, 5), (9, 9, 5))),)
    assert moved.shifted("s", (-1, -2, -3)).shifted("o", (0, 0, -5)) == FULL
    everything = FULL
    for item in FULL:
        everything = everything.shifted(item.id, (0, 0, 1))
    assert everything.clicks[0].ras == (1, 2, 4) and everything.masks[0].origin == (0, 0, 1)
    assert everything.boxes == (Box("b", (0, 0, 1), (5, 5, 1)),) and everything.locks[0].ras == (0, 0, 6)
    assert FULL.move("s", (5, 5, 5), (6, 6, 6), (7, 7, 7)).scribbles[0].points[1] == (6, 6, 6)
    with pytest.raises(ValueError, match="3 point"):
        FULL.move("s", (1, 1, 1))
    assert FULL.replace(dataclasses.replace(SCRIBBLE, positive=False)).scribbles[0].positive is False
    assert PromptSet((FULL,)).shifted("liver", "s", (1, 0, 0)).segment("liver").scribbles[0].points[0] == (
        1.0,
        0.0,
        0.0,
    )


def test_points_of_strokes_that_say_nothing_are_left_out() -> None:
    assert Scribble("s", [(1, 1, 1)] * 5).points == ((1.0, 1.0, 1.0),)
    assert Scribble("s", [(1, 1, 1), (1, 1, 1), (2, 1, 1), (1, 1, 1)]).points == (
        (1.0, 1.0, 1.0),
        (2.0, 1.0, 1.0),
        (1.0, 1.0, 1.0),
    )
    closed = Lasso("o", [(0, 0, 0), (4, 0, 0), (4, 4, 0), (0, 0, 0), (0, 0, 0)])
    assert closed == Lasso("o", [(0, 0, 0), (4, 0, 0), (4, 4, 0)]) and hash(closed) == hash(closed)


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda: Scribble("s", ()), "empty_scribble", "no points"),
        (lambda: Scribble("s", [(1, 2)]), "bad_point", "The point of a scribble at"),
        (lambda: Scribble("s", 5), "bad_point", "scribble"),
        (lambda: Scribble("", [(1, 2, 3)]), "bad_id", "id"),
        (lambda: Scribble("s", [(n, 0, 0) for n in range(1001)]), "too_many_points", "1001 points"),
        (lambda: Lasso("o", [(0, 0, 0), (1, 0, 0)]), "empty_lasso", "no area"),
        (lambda: Lasso("o", [(0, 0, 0), (1, 1, 1), (0, 0, 0), (2, 2, 2)]), "empty_lasso", "one line"),
        (lambda: Lasso("o", [(0, 0, 0)] * 3), "empty_lasso", "one line"),
        (lambda: Lasso("o", [(0, 0, 0), (1, float("nan"), 0), (1, 1, 0)]), "bad_point", "lasso"),
    ],
)
def test_strokes_that_are_none(make: Callable[[], object], code: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert error.value.code == code and words in error.value.sentence and error.value.hint


def test_removing() -> None:
    rest = FULL
    for item in FULL:
        rest = rest.remove(item.id)
        with pytest.raises(InputError) as error:
            rest.remove(item.id)
        assert error.value.code == "unknown_prompt" and "liver" in str(error.value)
    assert rest == SegmentPrompts("liver", range=RANGE)
    with pytest.raises(InputError):
        rest.move("c", (0, 0, 0))


def test_what_only_negative_clicks_say() -> None:
    assert not SegmentPrompts("liver", clicks=(Click("c", (0, 0, 0), False),)).has_positive
    blank = dataclasses.replace(MASK, mask=np.zeros((3, 3)))
    assert not SegmentPrompts("liver", masks=(blank,)).has_positive
    assert not SegmentPrompts("liver", absent=(MARK,), locks=()).has_positive


def test_what_strokes_say_of_the_place() -> None:
    empty = SegmentPrompts("liver")
    assert empty.add(SCRIBBLE).has_positive and empty.add(LASSO).has_positive
    assert not empty.add(dataclasses.replace(SCRIBBLE, positive=False)).has_positive
    assert not empty.add(dataclasses.replace(SCRIBBLE, positive=False)).is_empty


def test_ids_are_unique_in_a_segment() -> None:
    with pytest.raises(InputError) as error:
        FULL.add(Box("c", (0, 0, 0), (1, 1, 0)))
    assert error.value.code == "duplicate_id" and "“c”" in str(error.value)
    assert len({new_id() for _ in range(1000)}) == 1000
    for bad in ("", " ", None, 5):
        with pytest.raises(InputError) as error:
            Click(bad, (0, 0, 0))
        assert error.value.code == "bad_id"


def test_a_mark_must_say_what_it_is() -> None:
    for item, kind in ((MARK, None), (MARK, "present"), (CLICK, "absent")):
        with pytest.raises(ValueError, match="“absent” or “lock”"):
            SegmentPrompts("liver").add(item, kind)
    with pytest.raises(TypeError, match="clicks must hold Click"):
        SegmentPrompts("liver", clicks=(BOX,))


@pytest.mark.parametrize(
    "point",
    [(1, 2), (1, 2, 3, 4), (1, 2, float("nan")), (1, float("inf"), 3), None, "abc", (10**400, 0, 0), 5],
)
def test_points_must_be_points(point: object) -> None:
    makers = (
        lambda: Click("c", point),
        lambda: Box("b", point, (0, 0, 0)),
        lambda: Box("b", (0, 0, 0), point),
        lambda: FrameMark("f", point),
        lambda: FrameRange(point, (0, 0, 0)),
        lambda: FrameRange((0, 0, 0), point),
        lambda: MaskPrompt("m", point, (1, 0, 0), (0, 1, 0), np.eye(2)),
    )
    for make in makers:
        with pytest.raises(InputError) as error:
            make()
        assert error.value.code == "bad_point"


def test_points_become_plain_floats() -> None:
    click = Click("c", np.array([1, 2, 3], dtype=np.float32), np.bool_(False))
    assert click.ras == (1.0, 2.0, 3.0) and all(type(value) is float for value in click.ras)
    assert click.positive is False and click == Click("c", [1, 2, 3], False)


def test_a_mask_is_a_read_only_copy() -> None:
    source = np.zeros((3, 4), dtype=np.uint8)
    mask = MaskPrompt("m", (0, 0, 0), (1, 0, 0), (0, 1, 0), source)
    source[0, 0] = 1
    assert mask.mask.dtype == bool and not mask.mask.any()
    with pytest.raises(ValueError, match="read-only"):
        mask.mask[0, 0] = True
    assert mask == MaskPrompt("m", (0, 0, 0), (1, 0, 0), (0, 1, 0), np.zeros((3, 4)))
    assert mask != MaskPrompt("m", (0, 0, 0), (1, 0, 0), (0, 1, 0), np.zeros((4, 3)))
    assert mask != MaskPrompt("m", (0, 0, 0), (1, 0, 0), (0, 1, 0), source)
    assert len({mask, MaskPrompt("m", (0, 0, 0), (1, 0, 0), (0, 1, 0), np.zeros((3, 4)))}) == 1
    for bad in (np.zeros(3), np.zeros((0, 3)), np.zeros((2, 2, 2))):
        with pytest.raises(InputError) as error:
            MaskPrompt("m", (0, 0, 0), (1, 0, 0), (0, 1, 0), bad)
        assert error.value.code == "mask_geometry"


def test_segments_need_names() -> None:
    for name in ("", "  ", None):
        with pytest.raises(InputError) as error:
            SegmentPrompts(name)
        assert error.value.code == "bad_segment"


def test_prompt_sets() -> None:
    prompts = PromptSet().add("liver", CLICK).add("spleen", Click("c", (4, 4, 4))).add("liver", BOX)
    assert prompts.names == ("liver", "spleen") and not prompts.is_empty
    assert prompts.segment("liver").boxes == (BOX,)
    assert prompts.segment("kidney") == SegmentPrompts("kidney") and "kidney" not in prompts.names
    assert prompts.move("spleen", "c", (5, 5, 5)).segment("spleen").clicks[0].ras == (5, 5, 5)
    assert prompts.segment("spleen").clicks[0].ras == (4, 4, 4)
    assert prompts.replace("liver", Click("c", (1, 2, 3), False)).segment("liver").clicks[0].positive is False
    assert prompts.remove("liver", "b").segment("liver") == SegmentPrompts("liver", clicks=(CLICK,))
    assert prompts.without_segment("liver").names == ("spleen",) == prompts.without_segment("liver").names
    assert prompts.without_segment("kidney") == prompts
    assert prompts.add("spleen", MARK, "lock").segment("spleen").locks == (MARK,)
    assert prompts.with_axis(1).axis == 1 and prompts.axis is None
    assert PromptSet((SegmentPrompts("liver"),)).is_empty
    with pytest.raises(InputError) as error:
        PromptSet((FULL, FULL))
    assert error.value.code == "duplicate_segment"
    for axis in (3, -1, True, "k", 1.0):
        with pytest.raises(InputError) as error:
            PromptSet(axis=axis)
        assert error.value.code == "bad_axis"


@PROFILE
@given(st.lists(st.tuples(st.sampled_from(("add", "move", "remove")), st.integers(0, 9)), max_size=30))
def test_any_history_equals_what_is_left(steps: list[tuple[str, int]]) -> None:
    prompts, expected = SegmentPrompts("liver"), {}
    for count, (step, number) in enumerate(steps):
        key, place = f"id{number}", (float(count), 0.0, 0.0)
        if step == "add" and key not in expected:
            prompts, expected[key] = prompts.add(Click(key, place)), place
        elif step == "move" and key in expected:
            prompts, expected[key] = prompts.move(key, place), place
        elif step == "remove" and key in expected:
            prompts = prompts.remove(key)
            del expected[key]
    assert [(click.id, click.ras) for click in prompts.clicks] == list(expected.items())


def test_values_travel_between_processes() -> None:
    prompts = PromptSet((FULL,), 2)
    assert pickle.loads(pickle.dumps(prompts)) == prompts and hash(prompts) == hash(PromptSet((FULL,), 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        CLICK.ras = (0, 0, 0)
