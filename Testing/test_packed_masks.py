"""Masks as bounding box and bits."""

from __future__ import annotations

import time
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from SAM2PropagateLib.packed_masks import (
    EDGE_REACH,
    EDGE_STEPS,
    MAX_PIXELS,
    MaskError,
    bytes_of,
    mask_of_text,
    pack,
    pack_edge,
    pack_whole,
    packed_edge,
    packed_mask,
    text_of,
)

PROFILE = settings(max_examples=100, deadline=None, database=None)


@PROFILE
@given(arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_a_mask_survives(mask: Any) -> None:
    packed = pack(mask)
    received = packed_mask(list(packed.shape), list(packed.box), packed.bits)
    assert received == packed
    restored = received.unpack()
    assert restored.dtype == bool and np.array_equal(restored, mask)
    assert packed.is_empty == (not mask.any())


@PROFILE
@given(st.data())
def test_the_box_is_as_small_as_can_be(data: st.DataObject) -> None:
    mask = np.zeros((30, 20), bool)
    rows = sorted(data.draw(st.lists(st.integers(0, 29), min_size=2, max_size=2)))
    columns = sorted(data.draw(st.lists(st.integers(0, 19), min_size=2, max_size=2)))
    mask[rows[0], columns[1]] = mask[rows[1], columns[0]] = True
    box = (rows[0], columns[0], rows[1] - rows[0] + 1, columns[1] - columns[0] + 1)
    assert pack(mask).box == box
    assert pack(mask).unpack_box().shape == box[2:]


def test_views_and_flipped_masks_are_packed_rightly() -> None:
    mask = np.zeros((20, 30), bool)
    mask[3:9, 5:20:2] = True
    for view in (mask.T, mask[::-1], mask[:, ::-1], mask[::2, 1::3]):
        assert np.array_equal(pack(view).unpack(), view)


@pytest.mark.parametrize("mask", [np.zeros((3, 3)), np.zeros((2, 3, 3), bool), np.zeros(5, bool)])
def test_only_2d_bool_is_packed(mask: Any) -> None:
    with pytest.raises(ValueError, match="2D bool"):
        pack(mask)


@pytest.mark.parametrize(
    ("shape", "box", "bits"),
    [
        ([10, 10], [0, 0, 11, 1], b"12"),
        ([10, 10], [5, 5, 2, 6], b"12"),
        ([10, 10], [0, 0, 2, 8], b"1"),
        ([10, 10], [0, 0, 2, 8], b"123"),
        ([10, 10], [0, 0, 0, 0], b"1"),
        ([10, 10], [0, 0, 0, 3], b""),
        ([10, 10], [-1, 0, 2, 8], b"12"),
        ([10, 10], [0, 0, 2], b"12"),
        ([10, 10, 1], [0, 0, 2, 8], b"12"),
        ([10.0, 10], [0, 0, 2, 8], b"12"),
        ([True, 10], [0, 0, 1, 8], b"1"),
        ("10", [0, 0, 2, 8], b"12"),
        ([1 << 40, 1 << 40], [0, 0, 2, 8], b"12"),
        (None, None, b""),
    ],
)
def test_what_does_not_fit_together_is_refused(shape: Any, box: Any, bits: bytes) -> None:
    with pytest.raises(MaskError):
        packed_mask(shape, box, bits)


def test_unpacking_a_large_mask_is_cheap() -> None:
    y, x = np.mgrid[:512, :512]
    packed = pack((x - 250) ** 2 + (y - 260) ** 2 < 150**2)
    seconds = []
    for _ in range(50):
        started = time.thread_time()
        packed.unpack()
        seconds.append(time.thread_time() - started)
    median = 1000 * float(np.median(seconds))
    print(f"\nunpacking one 512 x 512 mask of {len(packed.bits)} bytes: {median:.3f} ms")
    assert median < 1.0


@PROFILE
@given(arrays.arrays(np.int8, st.tuples(st.integers(1, 30), st.integers(1, 30))))
def test_distances_to_an_edge_survive_where_they_are_small(steps: Any) -> None:
    packed = pack_edge(steps)
    wanted = np.where(np.abs(steps.astype(int)) < EDGE_STEPS * EDGE_REACH, steps, 0)
    if packed is None:
        assert not wanted.any()
        return
    received = packed_edge(list(packed.shape), list(packed.box), packed.data)
    assert received == packed
    distances, is_known = received.unpack()
    np.testing.assert_array_equal(distances, wanted / np.float32(EDGE_STEPS))
    np.testing.assert_array_equal(is_known, wanted != 0)


def test_an_edge_takes_a_few_kilobytes() -> None:
    rows, columns = np.indices((512, 512))
    distance = (200 - np.hypot(rows - 256.3, columns - 255.6)) * EDGE_STEPS
    packed = pack_edge(np.clip(distance, -127, 127).astype(np.int8))
    assert packed is not None and len(packed.data) < 8000


@pytest.mark.parametrize(
    "change",
    [
        {"box": [0, 0, 9, 4]},
        {"box": [0, 0, 4, 4]},
        {"box": [0, -1, 4, 4]},
        {"box": "edge"},
        {"shape": [4, 4]},
        {"data": b"no zlib"},
        {"data": zlib.compress(b"\1" * 26)},
        {"data": zlib.compress(b"\1" * 24)},
        {"data": zlib.compress(b"\1" * 25)[:-3]},
    ],
)
def test_a_damaged_edge_is_refused(change: dict[str, Any]) -> None:
    right: dict[str, Any] = {"shape": [8, 8], "box": [1, 2, 5, 5], "data": zlib.compress(b"\1" * 25)}
    packed_edge(**right)
    with pytest.raises(MaskError):
        packed_edge(**{**right, **change})


Y, X = np.mgrid[:9, :13]
DISC = (X - 6) ** 2 + (Y - 3) ** 2 < 10


def test_masks_and_edges_of_scenes_and_documents_that_were_saved_before_are_read() -> None:
    kept = mask_of_text([9, 13], [0, 3, 7, 7], "eJwT+Pn9+/kWBgAScQRL")
    document = mask_of_text([9, 13], [0, 0, 9, 13], "eJxjYqhhfmDf8IP9AAcDEAAAI8wD6A==")
    np.testing.assert_array_equal(kept.unpack(), DISC)
    np.testing.assert_array_equal(document.unpack(), DISC)
    text = (
        "eAFNjLENADEIA02TJjtQskP2R/IKdCkoWIAB/tNxjaWTdeBtWdKXQPRW090BT9GDo5LOWgbAVnHY8cUogJGV8bceTn/zAappJoM="
    )
    steps = np.clip((3.2 - np.hypot(X - 6, Y - 3)) * EDGE_STEPS, -127, 127).astype(np.int8)
    saved, made = packed_edge([9, 13], [0, 1, 9, 11], bytes_of(text)), pack_edge(steps)
    assert made is not None
    np.testing.assert_array_equal(saved.unpack()[0], made.unpack()[0])


@PROFILE
@given(arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_a_mask_survives_as_text(mask: Any) -> None:
    for packed in (pack(mask), pack_whole(mask)):
        read = mask_of_text(list(packed.shape), list(packed.box), packed.text())
        assert read == packed and np.array_equal(read.unpack(), mask)


BOMB = text_of(zlib.compress(bytes(50_000_000), 9))


@pytest.mark.parametrize(
    ("shape", "box", "text"),
    [
        ([8, 8], [0, 0, 8, 8], BOMB),
        ([1 << 15, 1 << 14], [0, 0, 8, 8], pack_whole(np.ones((8, 8), bool)).text()),
        ([1 << 60, 8], [0, 0, 1 << 60, 8], BOMB),
        ([8, 8], [0, 0, 8, 8], pack_whole(np.ones((9, 8), bool)).text()),
        ([8, 8], [0, 0, 8, 8], pack_whole(np.ones((8, 8), bool)).text()[:-4]),
        ([8, 8], [0, 0, 8, 8], "no base64"),
        ([8, 8], [0, 0, 8, 8], "ö"),
        ([8, 8], [0, 0, 8, 8], text_of(b"no zlib")),
        ([8, 8], [0, 0, 8, 8], None),
        ([8, 8], [0, 0, 8, 8], 7),
    ],
)
def test_a_text_that_asks_for_more_main_memory_or_is_damaged_gets_a_sentence(
    shape: Any, box: Any, text: Any
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MaskError) as refused:
            mask_of_text(shape, box, text)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert refused.value.sentence.startswith("A mask is damaged: ") and refused.value.hint


def test_an_edge_that_asks_for_more_main_memory_is_refused() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    tracemalloc.start()
    try:
        with pytest.raises(MaskError, match="do not fill"):
            packed_edge([8, 8], [0, 0, 8, 8], bomb)
        with pytest.raises(MaskError, match="too large"):
            packed_edge([MAX_PIXELS, 2], [0, 0, MAX_PIXELS, 2], bomb)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
