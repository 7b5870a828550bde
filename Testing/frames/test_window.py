"""Gray values: one window per volume, any dtype, no float copy of the volume."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames import (
    PRESETS,
    Window,
    finite_range,
    fit_window,
    looks_like_ct,
    percentile_window,
    window_for,
)
from Testing.frames.geometries import PROFILE, number

INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">i2")
REALS = (np.float16, np.float32, np.float64, np.longdouble, ">f4")
DTYPES = [np.dtype(dtype) for dtype in (bool, *INTEGERS, *REALS)]


def exact(value: float, window: Window) -> float:
    """The gray value before rounding, in plain Python."""
    return min(max((value - window.level) / window.width + 0.5, 0.0), 1.0) * 255


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype: np.dtype) -> None:
    window = Window(100, 50)
    values = np.array([0, 1, 25, 50, 99, 100], dtype=np.int64).astype(dtype)
    gray = window.apply(values)
    assert gray.dtype == np.uint8
    assert gray.tolist() == [round(exact(float(value), window)) for value in values]


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.kind in "iu"], ids=str)
def test_the_extremes_of_whole_numbers(dtype: np.dtype) -> None:
    info = np.iinfo(dtype)
    values = np.array([info.min, info.max], dtype=dtype)
    assert Window(100, (info.min + info.max) / 2).apply(values).tolist() == [0, 255]
    full = Window(float(info.max) - float(info.min), (float(info.max) + float(info.min)) / 2)
    assert full.apply(values).tolist() == [0, 255]
    low, high = finite_range(values)
    assert (low, high) == (float(info.min), float(info.max))


def test_huge_unsigned_values_keep_their_contrast() -> None:
    values = np.array([2**63, 2**63 + 2**40, 2**63 + 2**41], dtype=np.uint64)
    assert Window(float(2**41), float(2**63 + 2**40)).apply(values).tolist() == [0, 128, 255]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble"])
def test_nan_and_infinity(dtype: str) -> None:
    values = np.array([np.nan, -np.inf, np.inf, 0.0, np.finfo(dtype).max, np.finfo(dtype).min], dtype=dtype)
    with np.errstate(all="raise"):
        assert Window(10, 0).apply(values).tolist() == [0, 0, 255, 128, 255, 0]
        assert Window(1e-3, 1e300).apply(values)[:4].tolist() == [0, 0, 255, 0]
        assert Window(np.finfo(np.float64).tiny, 0).apply(values[:4]).tolist() == [0, 0, 255, 128]


@PROFILE
@given(
    width=number(1e-3, 1e6),
    level=number(-1e6, 1e6),
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1, max_size=20),
)
def test_linear_rounded_and_monotone(width: float, level: float, values: list[float]) -> None:
    window = Window(width, level)
    values = sorted(values)
    gray = window.apply(np.array(values))
    assert (np.diff(gray.astype(int)) >= 0).all()
    for value, one in zip(values, gray, strict=True):
        assert abs(int(one) - exact(value, window)) <= 0.5 + 1e-9
    assert window.low == level - width / 2 and window.high == level + width / 2


@PROFILE
@given(values=st.lists(st.integers(-2000, 3000), min_size=1, max_size=30), width=number(1, 4000))
def test_the_same_value_is_the_same_gray_in_every_dtype(values: list[int], width: float) -> None:
    window = Window(width, 40)
    reference = window.apply(np.array(values, dtype=np.float64))
    for dtype in (np.int16, np.int32, np.int64, np.float32, np.longdouble):
        assert np.array_equal(window.apply(np.array(values, dtype=dtype)), reference)


@pytest.mark.parametrize(("width", "level"), [(0, 40), (-400, 40), (-0.0, 0)])
def test_widths_that_cannot_be(width: float, level: float) -> None:
    with pytest.raises(InputError, match="Give a width above 0") as error:
        Window(width, level)
    assert error.value.code == "bad_window"


@pytest.mark.parametrize(
    ("width", "level"),
    [
        (np.nan, 0),
        (1, np.nan),
        (np.inf, 0),
        (1, -np.inf),
        ("wide", 0),
        (None, 0),
        (1.7e308, 1.7e308),
        (10**400, 0),
    ],
)
def test_numbers_that_cannot_be(width: float, level: float) -> None:
    with pytest.raises(InputError) as error:
        Window(width, level)
    assert error.value.code == "bad_window" and error.value.hint


@pytest.mark.parametrize("array", [np.ones(3, complex), np.array(["a"]), np.array([None]), np.array([b"x"])])
def test_what_is_no_gray_value(array: np.ndarray) -> None:
    for use in (Window(1, 0).apply, percentile_window, finite_range):
        with pytest.raises(InputError) as error:
            use(array)
        assert error.value.code == "bad_dtype"


def test_presets() -> None:
    assert Window.preset("soft-tissue") == Window.preset(" Soft Tissue ") == Window(400, 40)
    assert Window.preset("LUNG") == Window(1500, -600)
    assert {name: Window.preset(name).low < Window.preset(name).high for name in PRESETS} == dict.fromkeys(
        ("soft-tissue", "lung", "bone", "brain", "liver"), True
    )
    with pytest.raises(InputError) as error:
        Window.preset("kidney stone")
    assert error.value.code == "unknown_preset"
    assert "kidney stone" in str(error.value) and all(name in str(error.value) for name in PRESETS)


def test_constant_images() -> None:
    for value, dtype in ((0, np.int16), (7, np.uint8), (-3.5, np.float32), (2**64 - 1, np.uint64), (1, bool)):
        array = np.full((4, 5, 6), value, dtype=dtype)
        window = percentile_window(array)
        assert window.width > 0
        assert len(set(window.apply(array).reshape(-1).tolist())) == 1


def mr_like(background: float, seed: int = 0) -> np.ndarray:
    """Noise-free padding around tissue of values 200..1000."""
    rng = np.random.default_rng(seed)
    volume = np.zeros((40, 60, 60), dtype=np.float32)
    count = int(volume.size * (1 - background))
    volume.reshape(-1)[rng.permutation(volume.size)[:count]] = rng.uniform(200, 1000, count)
    return volume


@pytest.mark.parametrize("background", [0.0, 0.3, 0.9, 0.999])
def test_background_does_not_eat_the_contrast(background: float) -> None:
    window = percentile_window(mr_like(background))
    assert 195 <= window.low <= 260 and 940 <= window.high <= 1005


def test_percentiles_ignore_what_is_not_finite() -> None:
    volume = mr_like(0.3)
    expected = percentile_window(volume)
    volume[::2] = np.nan
    volume[1, ::2], volume[3, ::2] = np.inf, -np.inf
    window = percentile_window(volume)
    assert window.low == pytest.approx(expected.low, abs=15)
    assert window.high == pytest.approx(expected.high, abs=15)


def test_rare_finite_values_are_found() -> None:
    volume = np.full((100, 100, 101), np.nan, dtype=np.float32)
    volume[37, 41, 53], volume[37, 41, 54] = 5, 9
    window = percentile_window(volume)
    assert (window.low, window.high) == (5, 9)
    assert finite_range(volume) == (5, 9)


def test_a_rare_bright_spot_still_gives_a_width() -> None:
    volume = np.zeros((100, 100, 101), dtype=np.int16)
    volume[37, 41, 53] = 9
    window = percentile_window(volume)
    assert (window.low, window.high) == (0, 9)


def test_percentiles_of_a_known_distribution() -> None:
    volume = np.arange(101 * 101 * 101, dtype=np.int32).reshape(101, 101, 101)
    window = percentile_window(volume, 10, 90)
    assert window.low == pytest.approx(0.1 * volume.size, rel=0.02)
    assert window.high == pytest.approx(0.9 * volume.size, rel=0.02)
    assert percentile_window(volume) == percentile_window(volume.copy(order="F"))


@pytest.mark.parametrize(("low", "high"), [(50, 50), (60, 40), (-1, 99), (1, 101), (np.nan, 5)])
def test_percentiles_that_cannot_be(low: float, high: float) -> None:
    with pytest.raises(InputError) as error:
        percentile_window(np.arange(10), low, high)
    assert error.value.code == "bad_percentiles"


@PROFILE
@given(
    values=st.lists(st.floats(width=64), min_size=1, max_size=40),
    low=number(0, 99),
    span=number(0.5, 100),
)
def test_a_percentile_window_always_is_a_window(values: list[float], low: float, span: float) -> None:
    array = np.array(values)
    assume(low + span <= 100)
    if not np.isfinite(array).any():
        with pytest.raises(InputError) as error:
            percentile_window(array, low, low + span)
        assert error.value.code == "all_nan"
        return
    window = percentile_window(array, low, low + span)
    assert window.width > 0 and np.isfinite([window.low, window.high]).all()
    assert window.apply(array).shape == array.shape


def test_empty_arrays() -> None:
    assert Window(1, 0).apply(np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(InputError) as error:
        percentile_window(np.zeros((0, 3, 3)))
    assert error.value.code == "empty"


def test_window_for_a_modality() -> None:
    rng = np.random.default_rng(1)
    ct = rng.normal(40, 30, (20, 40, 40)).astype(np.int16)
    ct[:, :10] = -1000
    mr = mr_like(0.5)
    assert looks_like_ct(ct) and not looks_like_ct(mr) and not looks_like_ct(ct.astype(float) * 1e6)
    assert window_for(ct) == window_for(mr, "ct") == Window.preset("soft-tissue")
    assert window_for(mr) == window_for(mr, "MR") == percentile_window(mr)
    assert window_for(ct, "MR") == percentile_window(ct)
    assert not looks_like_ct(np.array([1.0, np.nan]))


def ct_like() -> np.ndarray:
    """A trunk in air: fat, muscle, organs, lung with its edges, bone; float HU."""
    rng = np.random.default_rng(5)
    k, j, i = np.indices((16, 80, 80))
    radius = np.hypot(j - 40, i - 40)
    array = rng.normal(-1000, 15, k.shape)
    for limit, value, noise in ((36, -95, 20), (31, 45, 25)):
        array = np.where(radius < limit, rng.normal(value, noise, k.shape), array)
    lung = np.hypot(j - 40, i - 27) < 8
    edge = np.abs(np.hypot(j - 40, i - 27) - 8) < 0.5
    array = np.where(lung, rng.normal(-850, 60, k.shape), array)
    array = np.where(edge, rng.uniform(-850, 45, k.shape), array)
    return np.where(np.hypot(j - 52, i - 52) < 4, rng.normal(500, 200, k.shape), array)


def subtraction_like(scale: float) -> np.ndarray:
    """MR after minus before contrast agent: noise around 0, a body that enhances, a lesion."""
    rng = np.random.default_rng(3)
    k, j, i = np.indices((14, 64, 64))
    array = rng.normal(0, 190, k.shape)
    array[(np.hypot(j - 32, i - 32) < 22) & (k > 2)] += 450
    array[(np.hypot(j - 30, i - 28) < 7) & (k > 4)] += 1100
    return array * scale


def signal_loss(tissue: float, lesion: float, noise: float = 15) -> np.ndarray:
    """A difference image with little noise around 0, a body and a lesion in it."""
    k, j, i = np.indices((14, 64, 64))
    array = np.random.default_rng(4).normal(0, noise, k.shape)
    array[(np.hypot(j - 32, i - 32) < 22) & (k > 2)] += tissue
    array[(np.hypot(j - 30, i - 28) < 7) & (k > 4)] += lesion
    return array


SOFT, SHIFTED = Window(400, 40), Window(400, 1064)


@pytest.mark.parametrize(
    ("change", "window"),
    [
        pytest.param(lambda ct: ct.astype(np.int16), SOFT, id="as it is"),
        pytest.param(lambda ct: ct.clip(-1024, 1000), SOFT, id="clipped"),
        pytest.param(lambda ct: np.where(np.indices(ct.shape)[2] < 20, -2000, ct), SOFT, id="padded"),
        pytest.param(lambda ct: np.where(np.indices(ct.shape)[2] < 50, -3024, ct), SOFT, id="much padding"),
        pytest.param(
            lambda ct: np.select([np.indices(ct.shape)[2] < n for n in (10, 20)], [-3024, -2000], ct),
            SOFT,
            id="padded with two values",
        ),
        pytest.param(lambda ct: np.where(ct < -900, np.nan, ct), SOFT, id="nan for air"),
        pytest.param(lambda ct: ct[:, 22:58, 19:35], SOFT, id="lung"),
        pytest.param(lambda ct: ct + np.random.default_rng(1).normal(0, 90, ct.shape), SOFT, id="noisy"),
        pytest.param(lambda ct: (ct + 1024).clip(0).astype(np.uint16), SHIFTED, id="stored without a sign"),
        pytest.param(lambda ct: (ct + 1024).clip(0, 4095).astype(np.float32), SHIFTED, id="the same, floats"),
        # Nothing tells these from other images.
        pytest.param(lambda ct: ct[:, 26:52, 40:60], None, id="soft tissue alone"),
        pytest.param(lambda ct: (ct + 1000) / 2000, None, id="from 0 to 1"),
        # White throughout in the soft-tissue window.
        pytest.param(lambda ct: np.where(ct > 250, ct, -1000), None, id="bone cut out"),
    ],
)
def test_ct_is_known_by_its_air_and_its_tissue(change: Any, window: Window | None) -> None:
    array = change(ct_like())
    assert window_for(array) == (window or percentile_window(array))
    assert fit_window(array).source == ("preset soft-tissue" if window else "percentiles")


@pytest.mark.parametrize(
    "array",
    [
        *(pytest.param(subtraction_like(scale), id=f"subtraction x {scale}") for scale in (0.3, 1, 2, 4, 9)),
        pytest.param(np.random.default_rng(0).uniform(-4096, 4095, (9, 40, 40)), id="phase"),
        pytest.param(np.random.default_rng(0).uniform(-1000, 1000, (9, 40, 40)), id="phase, narrow"),
        *(
            pytest.param((mr_like(0.4) - mr_like(0.4).mean()) / mr_like(0.4).std() * scale, id=f"z x {scale}")
            for scale in (1, 100, 300, 500, 1000, 3000)
        ),
        pytest.param(signal_loss(0, -900), id="difference with a dark lesion"),
        pytest.param(signal_loss(-900, 0), id="difference with a dark body"),
        pytest.param(signal_loss(700, -1700), id="difference with a dark lesion in a bright body"),
        pytest.param(
            signal_loss(300, 770), id="difference whose lesion lies where CT without a sign has muscle"
        ),
        pytest.param(mr_like(0.4) - 1000.0, id="MR on a background of -1000"),
        *(pytest.param(mr_like(0.4) * scale, id=f"MR x {scale}") for scale in (0.5, 1.0, 1.5, 2.0, 3.0)),
    ],
)
def test_low_values_alone_are_no_ct(array: np.ndarray) -> None:
    assert window_for(array) == percentile_window(array)
    assert not looks_like_ct(array)


def test_the_reason_of_a_window_is_true() -> None:
    ct, mr = ct_like(), mr_like(0.5)
    for array, modality, words in (
        (ct, "", "values look like CT"),
        (ct, "CT", "marked as CT"),
        (ct + 1024, "", "1024 added"),
        (ct + 1024, "CT", "1024 added"),
        (ct, "MR", "percentile, because the image is marked as MR"),
        (mr, "", "percentile, because the values do not look like CT"),
        ((ct + 1000) / 2000, "CT", "percentile, because the image is marked as CT, but its values are not"),
    ):
        fitted = fit_window(array, modality)
        assert words in str(fitted.reason) and fitted.window == window_for(array, modality), fitted
    assert fit_window(ct + 1024, "CT").window == SHIFTED
    # Marked as CT, it may have negative values of noise in air.
    assert fit_window(ct + 1000, "CT").window == SHIFTED
    assert fit_window((ct + 1000) / 2000, "CT").window == percentile_window((ct + 1000) / 2000)


def test_no_float_copy_of_the_volume() -> None:
    volume = np.random.default_rng(0).integers(0, 4000, (96, 256, 256), dtype=np.int16)  # 12.6 MB
    tracemalloc.start()
    try:
        percentile_window(volume)
        finite_range(volume)
        looks_like_ct(volume)
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < volume.nbytes
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        gray = Window(400, 40).apply(volume)
        # The 8-bit result, and floats of no more than a frame.
        assert tracemalloc.get_traced_memory()[1] - before < gray.nbytes + 3_000_000
    finally:
        tracemalloc.stop()
