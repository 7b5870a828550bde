"""Prompts as JSON: both ways without loss, and clear words for documents that are wrong."""

from __future__ import annotations

import base64
import copy
import itertools
import json
import re
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

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
    dumps,
    from_document,
    loads,
    to_document,
)
from SAM2PropagateLib.prompts.document import pack_mask, unpack_mask
from Testing.frames.geometries import PROFILE

DOCS = Path(__file__).parents[2] / "docs" / "prompts.md"

points = st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3)
TRIANGLE = ((0, 0, 5), (10, 0, 5), (0, 10, 5))
names = st.text(min_size=1, max_size=12).filter(lambda text: text.strip())


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.integers(1, 19)), draw(st.integers(1, 19))
    return np.random.default_rng(draw(st.integers(0, 999))).random(shape) < draw(st.sampled_from((0, 0.4, 1)))


@st.composite
def segments(draw: st.DrawFn, name: str) -> SegmentPrompts:
    start = draw(names)
    ids = (f"{start}{number}" for number in itertools.count())

    def some(value: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(value, max_size=2)))

    return SegmentPrompts(
        name,
        tuple(Click(next(ids), ras, draw(st.booleans())) for ras in some(points)),
        tuple(Box(next(ids), a, b) for a, b in some(st.tuples(points, points))),
        tuple(
            MaskPrompt(next(ids), *where, draw(masks())) for where in some(st.tuples(points, points, points))
        ),
        tuple(FrameMark(next(ids), ras) for ras in some(points)),
        tuple(FrameMark(next(ids), ras) for ras in some(points)),
        draw(st.none() | st.builds(FrameRange, points, points)),
        tuple(Scribble(next(ids), line, draw(st.booleans())) for line in some(st.lists(points, min_size=1))),
        tuple(Lasso(next(ids), TRIANGLE, draw(st.booleans())) for _ in some(st.none())),
    )


@st.composite
def prompt_sets(draw: st.DrawFn) -> PromptSet:
    unique = draw(st.lists(names, max_size=3, unique=True))
    return PromptSet(tuple(draw(segments(name)) for name in unique), draw(st.sampled_from((None, 0, 1, 2))))


@PROFILE
@given(prompts=prompt_sets())
def test_a_document_gives_the_prompts_back(prompts: PromptSet) -> None:
    text = dumps(prompts)
    assert text.isascii()
    assert loads(text) == loads(text.encode()) == loads(dumps(prompts, indent=2)) == prompts
    document = to_document(prompts)
    kept = copy.deepcopy(document)
    assert from_document(document) == prompts
    assert document == kept, "reading must not change the document"


@PROFILE
@given(mask=masks())
def test_bits_give_the_mask_back(mask: np.ndarray) -> None:
    assert np.array_equal(unpack_mask(pack_mask(mask), mask.shape), mask)


GOOD: dict[str, Any] = {
    "format": "sam2propagate-prompts",
    "version": 1,
    "coordinates": "RAS",
    "axis": "k",
    "segments": [
        {
            "segment": "liver",
            "clicks": [{"id": "a", "ras": [1, 2.5, 3], "positive": True}],
            "boxes": [{"id": "b", "corner_a": [0, 0, 0], "corner_b": [1, 1, 0]}],
            "masks": [
                {
                    "id": "c",
                    "origin": [0, 0, 0],
                    "column_step": [1, 0, 0],
                    "row_step": [0, 1, 0],
                    "shape": [2, 3],
                    "codec": "zlib-packbits",
                    "bits": pack_mask(np.array([[1, 0, 1], [0, 1, 0]], dtype=bool)),
                }
            ],
            "absent": [{"id": "d", "ras": [0, 0, 9]}],
            "locks": [{"id": "e", "ras": [0, 0, 8]}],
            "range": {"first": [0, 0, 0], "last": [0, 0, 9]},
        }
    ],
}


STROKES: dict[str, Any] = {
    "scribbles": [{"id": "s", "points": [[1, 2, 3], [4, 5, 3]], "positive": False}],
    "lassos": [{"id": "o", "points": [[0, 0, 3], [9, 0, 3], [0, 9, 3]], "exact": True}],
}


def with_strokes(**others: Any) -> dict[str, Any]:
    """GOOD with a scribble and a lasso, or others, as version 2."""
    document = copy.deepcopy(GOOD)
    document["version"] = 2
    document["segments"][0].update(copy.deepcopy(STROKES | others))
    return document


def changed(path: str, value: Any = None, remove: bool = False) -> dict[str, Any]:
    """GOOD with the value at `segments.0.clicks.0.ras` and the like replaced, added or removed."""
    document = copy.deepcopy(GOOD)
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    place: Any = document
    for step in steps:
        place = place[step]
    if remove:
        del place[last]
    else:
        place[last] = value
    return document


def refusal(document: Any) -> InputError:
    with pytest.raises(InputError) as error:
        from_document(document)
    assert error.value.sentence.endswith(".") and error.value.hint
    return error.value


def test_the_good_document_is_good() -> None:
    prompts = from_document(GOOD)
    assert prompts.axis == 2
    assert prompts.segment("liver").clicks == (Click("a", (1.0, 2.5, 3.0)),)
    assert prompts.segment("liver").masks[0].mask.tolist() == [[True, False, True], [False, True, False]]
    assert to_document(prompts) == GOOD


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("format", "other", "not a list of prompts"),
        ("version", "1", "version '1'"),
        ("version", 0, "version 0"),
        ("version", True, "version True"),
        ("version", 1.0, "version 1.0"),
        ("coordinates", "LPS", "not in RAS"),
        ("axis", 2, "axis 2"),
        ("axis", "z", "axis 'z'"),
        ("segments", {}, "“segments”"),
        ("segments.0", [], r"Segments\[0\] is not an object"),
        ("segments.0.segment", 5, "5 for “segment”"),
        ("segments.0.segment", " ", "for “segment”"),
        ("segments.0.clicks", None, "None for “clicks”"),
        ("segments.0.clicks.0", 3, r"Segments\[0\]\.clicks\[0\] is not an object"),
        ("segments.0.clicks.0.ras", [1, 2], "“ras”"),
        ("segments.0.clicks.0.ras", [1, 2, "3"], "“ras”"),
        ("segments.0.clicks.0.ras", [1, 2, True], "“ras”"),
        ("segments.0.clicks.0.ras", [1, 2, float("nan")], "“ras”"),
        ("segments.0.clicks.0.ras", [1, float("inf"), 2], "“ras”"),
        ("segments.0.clicks.0.ras", [1, 10**400, 2], "“ras”"),
        ("segments.0.clicks.0.ras", "1 2 3", "“ras”"),
        ("segments.0.clicks.0.positive", 1, "“positive”"),
        ("segments.0.clicks.0.positive", None, "“positive”"),
        ("segments.0.clicks.0.id", 5, "“id”"),
        ("segments.0.clicks.0.id", "", "“id”"),
        ("segments.0.boxes.0.corner_b", None, "“corner_b”"),
        ("segments.0.masks.0.shape", [2], "shape"),
        ("segments.0.masks.0.shape", [0, 3], "shape"),
        ("segments.0.masks.0.shape", [2, -3], "shape"),
        ("segments.0.masks.0.shape", [2.0, 3], "shape"),
        ("segments.0.masks.0.shape", [10**6, 10**6], "shape"),
        ("segments.0.masks.0.shape", [5, 3], "do not fill 5 rows of 3 pixels"),
        ("segments.0.masks.0.codec", "rle", "packed in an unknown way"),
        ("segments.0.masks.0.bits", "not base64!", "damaged"),
        ("segments.0.masks.0.bits", "é", "damaged"),
        ("segments.0.masks.0.bits", base64.b64encode(b"nonsense").decode(), "damaged"),
        ("segments.0.masks.0.bits", pack_mask(np.ones((99, 99), bool)), "do not fill"),
        ("segments.0.range", [1, 2], r"range is not an object"),
        ("segments.0.range.first", [1], "“first”"),
        ("more", 1, "unknown fields: “more”"),
        ("segments.0.click", [], "unknown fields: “click”"),
        ("segments.0.clicks.0.sign", 1, "unknown fields: “sign”"),
        ("segments.0.boxes.0.slice", 1, "unknown fields: “slice”"),
        ("segments.0.masks.0.level", 1, "unknown fields: “level”"),
        ("segments.0.absent.0.until", 1, "unknown fields: “until”"),
        ("segments.0.range.middle", 1, "unknown fields: “middle”"),
    ],
)
def test_wrong_values_are_named(path: str, value: Any, words: str) -> None:
    error = refusal(changed(path, value))
    assert error.code == "bad_document"
    assert re.search(words, error.sentence), error.sentence


@pytest.mark.parametrize(
    "path",
    ["format", "version", "segments", "segments.0.segment", "segments.0.clicks.0.ras"]
    + [
        f"segments.0.masks.0.{name}"
        for name in ("origin", "column_step", "row_step", "shape", "codec", "bits")
    ]
    + [
        "segments.0.boxes.0.corner_a",
        "segments.0.absent.0.ras",
        "segments.0.locks.0.ras",
        "segments.0.range.last",
    ],
)
def test_missing_fields_are_named(path: str) -> None:
    error = refusal(changed(path, remove=True))
    assert error.code == "bad_document" and f"lacks the field “{path.split('.')[-1]}”" in error.sentence


@pytest.mark.parametrize("document", [None, [], "text", 3, {}])
def test_what_is_no_document(document: Any) -> None:
    assert refusal(document).code == "bad_document"


def test_a_document_of_the_future() -> None:
    error = refusal({**changed("version", 4), "shapes": "unheard of"})
    assert error.code == "future_version"
    assert "version 4" in str(error) and "up to version 3" in str(error) and "Update" in error.hint


def test_strokes_raise_the_version_and_nothing_else_does() -> None:
    document = with_strokes()
    prompts = from_document(document)
    segment = prompts.segment("liver")
    assert segment.scribbles == (Scribble("s", ((1, 2, 3), (4, 5, 3)), positive=False),)
    assert segment.lassos == (Lasso("o", ((0, 0, 3), (9, 0, 3), (0, 9, 3)), exact=True),)
    assert to_document(prompts) == document
    without = segment.remove("s").remove("o")
    assert to_document(prompts.with_segment(without)) == GOOD, "older readers must still read this"


@pytest.mark.parametrize("key", ["scribbles", "lassos"])
def test_version_one_knows_no_strokes(key: str) -> None:
    document = {**with_strokes(), "version": 1}
    del document["segments"][0][{"scribbles": "lassos", "lassos": "scribbles"}[key]]
    error = refusal(document)
    assert error.code == "bad_document" and f"“{key}”, which version 1 does not know" in error.sentence
    assert "“version” to 2" in error.hint


@pytest.mark.parametrize(
    ("key", "stroke", "code", "words"),
    [
        ("scribbles", {"points": []}, "bad_document", r"scribbles\[0\] has \[\] for “points”"),
        ("scribbles", {"points": [[1, 2, 3], [1, 2]]}, "bad_document", r"“points\[1\]”"),
        ("scribbles", {"points": [[1, 2, 3]], "positive": 1}, "bad_document", "“positive”"),
        ("scribbles", {"points": [[1, 2, 3]], "exact": True}, "bad_document", "unknown fields: “exact”"),
        ("lassos", {"points": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}, "empty_lasso", "one line"),
        ("lassos", {"points": "round"}, "bad_document", "“points”"),
        ("lassos", {"points": [[n, n * n, 0] for n in range(1001)]}, "too_many_points", "1001 points"),
    ],
)
def test_wrong_strokes_are_named(key: str, stroke: dict[str, Any], code: str, words: str) -> None:
    error = refusal(with_strokes(**{key: [stroke]}))
    assert error.code == code and re.search(words, error.sentence), error.sentence


def test_what_appears_twice() -> None:
    assert refusal(changed("segments.0.boxes.0.id", "a")).code == "duplicate_id"
    assert refusal({**GOOD, "segments": GOOD["segments"] * 2}).code == "duplicate_segment"
    text = json.dumps(GOOD).replace('"axis": "k"', '"axis": "k", "axis": "i"')
    with pytest.raises(InputError, match="“axis” twice"):
        loads(text)


def test_a_name_that_no_file_can_hold() -> None:
    error = refusal(changed("segments.0.segment", "liver\ud800"))
    assert error.code == "bad_segment" and r"'liver\ud800'" in error.sentence


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1,", b"\xff\xfe\x00", '{"format": NaN}', "[" * 100_000, json.dumps(GOOD)[:-3]],
    ids=["empty", "open", "cut", "bytes", "nan", "deep", "truncated"],
)
def test_texts_that_are_no_json(text: str | bytes) -> None:
    with pytest.raises(InputError) as error:
        loads(text)
    assert error.value.code == "bad_document" and error.value.hint


def test_a_small_text_cannot_ask_for_all_main_memory() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(50_000_000), 9)).decode()
    document = changed("segments.0.masks.0.bits", bomb)
    tracemalloc.start()
    try:
        assert "do not fill" in refusal(document).sentence
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_document_by_hand_may_be_short() -> None:
    short = {
        "format": "sam2propagate-prompts",
        "version": 1,
        "segments": [
            {
                "segment": "liver",
                "clicks": [{"ras": [1, 2, 3]}, {"ras": [4, 5, 6], "positive": False, "id": "clicks-1"}],
                "absent": [{"ras": [1, 2, 9]}],
            }
        ],
    }
    prompts = from_document(short)
    assert prompts.axis is None
    liver = prompts.segment("liver")
    assert [click.positive for click in liver.clicks] == [True, False]
    assert len({item.id for item in liver}) == 3 and liver.clicks[1].id == "clicks-1"
    assert from_document(short) == prompts
    assert from_document(to_document(prompts)) == prompts


def test_the_documented_examples_are_valid() -> None:
    examples = re.findall(r"```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for example in examples:
        assert not loads(example).is_empty


def test_every_field_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {key for item in value.values() for key in keys(item)}
        return {key for item in value for key in keys(item)} if isinstance(value, list) else set()

    assert [key for key in sorted(keys(with_strokes())) if f"`{key}`" not in text] == []
