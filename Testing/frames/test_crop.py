"""What the model sees of a frame: square in millimeters, and points find their way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames import FrameCrop
from Testing.frames.geometries import PROFILE, number

SHAPES = st.tuples(st.integers(1, 600), st.integers(1, 600))
SPACINGS = st.tuples(number(0.1, 8), number(0.1, 8))
SIZES = st.sampled_from((256, 512, 1024))


def sides_mm(crop: FrameCrop) -> tuple[float, float]:
    x0, y0, x1, y1 = crop.box
    return (x1 - x0) * crop.frame_spacing[1], (y1 - y0) * crop.frame_spacing[0]


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    rows, columns = shape
    x = [draw(number(-0.5, columns - 0.5)) for _ in range(2)]
    y = [draw(number(-0.5, rows - 0.5)) for _ in range(2)]
    return x[0], y[0], x[1], y[1]


@PROFILE
@given(shape=SHAPES, spacing=SPACINGS, size=SIZES, data=st.data())
def test_pixel_to_model_to_pixel(shape, spacing, size, data) -> None:
    crops = [
        FrameCrop.whole(shape, spacing, size),
        FrameCrop.around(data.draw(boxes(shape)), shape, spacing, size),
    ]
    x, y = data.draw(number(-50, 650)), data.draw(number(-50, 650))
    for crop in crops:
        assert np.allclose(crop.to_model((x, y)) / crop.scale + crop.box[:2], (x, y), atol=1e-6)
        many = np.array([[[x, y], [y, x]], [[0, 0], [1, 2]]])
        assert np.allclose(crop.to_model(many) / crop.scale + crop.box[:2], many, atol=1e-6)
        x0, y0, x1, y1 = crop.box
        assert np.allclose(crop.to_model([[x0, y0], [x1, y1]]), [[0, 0], [size, size]], atol=1e-6)


@PROFILE
@given(shape=SHAPES, spacing=SPACINGS, size=SIZES)
def test_whole_shows_everything_isotropically(shape, spacing, size) -> None:
    crop = FrameCrop.whole(shape, spacing, size)
    rows, columns = shape
    x0, y0, x1, y1 = crop.box
    assert x0 <= -0.5 + 1e-6 and y0 <= -0.5 + 1e-6 and x1 >= columns - 0.5 - 1e-6 and y1 >= rows - 0.5 - 1e-6
    width, height = sides_mm(crop)
    assert width == pytest.approx(height)
    assert width == pytest.approx(max(rows * spacing[0], columns * spacing[1]))
    # The middle of the frame is the middle of the model's input.
    assert np.allclose(crop.to_model(((columns - 1) / 2, (rows - 1) / 2)), size / 2)
    # The same millimeters are the same number of model pixels in both directions.
    assert crop.scale[0] / spacing[1] == pytest.approx(crop.scale[1] / spacing[0])


@PROFILE
@given(shape=SHAPES, spacing=SPACINGS, size=SIZES, context=number(1, 4), data=st.data())
def test_around_keeps_the_region_and_stays_inside(shape, spacing, size, context, data) -> None:
    box = data.draw(boxes(shape))
    crop = FrameCrop.around(box, shape, spacing, size, context)
    width, height = sides_mm(crop)
    assert width == pytest.approx(height)
    x0, y0, x1, y1 = crop.box
    bx0, bx1 = sorted((box[0], box[2]))
    by0, by1 = sorted((box[1], box[3]))
    assert x0 <= bx0 + 1e-6 and y0 <= by0 + 1e-6 and x1 >= bx1 - 1e-6 and y1 >= by1 - 1e-6
    rows, columns = shape
    for low, high, count in ((x0, x1, columns), (y0, y1, rows)):
        if high - low <= count:
            assert low >= -0.5 - 1e-6 and high <= count - 0.5 + 1e-6
        else:
            assert (low + high) / 2 == pytest.approx((count - 1) / 2, abs=1e-6)
    whole = sides_mm(FrameCrop.whole(shape, spacing, size))[0]
    region = max((bx1 - bx0) * spacing[1], (by1 - by0) * spacing[0])
    assert width == pytest.approx(min(max(context * region, size / 4 * min(spacing)), whole))


def test_around_by_hand() -> None:
    crop = FrameCrop.around((100, 100, 140, 120), (512, 512), (0.5, 0.5), 256, context=2.0)
    assert crop.box == (80, 70, 160, 150)
    assert crop.scale == (3.2, 3.2)
    assert crop.sees(80, 70) and not crop.sees(79.9, 70)
    # At the frame's corner the region is moved inside instead of showing black.
    corner = FrameCrop.around((0, 0, 40, 20), (512, 512), (0.5, 0.5), 256, context=2.0)
    assert corner.box == (-0.5, -0.5, 79.5, 79.5)
    # Anisotropic: 80 mm are 16 rows of 5 mm.
    thick = FrameCrop.around((100, 10, 140, 12), (64, 512), (5, 1), 256, context=2.0)
    assert thick.box == (80, 3, 160, 19)


def test_a_tiny_box_is_not_blown_up() -> None:
    tiny = (200, 200, 203, 203)
    assert sides_mm(FrameCrop.around(tiny, (512, 512), (1, 1), 256)) == (64, 64)
    assert sides_mm(FrameCrop.around(tiny, (512, 512), (1, 1), 512)) == (128, 128)
    assert sides_mm(FrameCrop.around(tiny, (512, 512), (1, 1), 256, minimum=20)) == (20, 20)
    assert sides_mm(FrameCrop.around(tiny, (512, 512), (1, 1), 256, minimum=0)) == (6, 6)
    assert sides_mm(FrameCrop.around(tiny, (512, 512), (2, 0.5), 256)) == (32, 32)
    point = FrameCrop.around((5, 5, 5, 5), (40, 40), (1, 1), 256)
    assert point.box == FrameCrop.whole((40, 40), (1, 1), 256).box


def test_regions_outside_are_held_within() -> None:
    crop = FrameCrop.around((-500, -500, -400, 20), (100, 100), (1, 1), 256, minimum=10)
    assert crop.box[0] == -0.5 and crop.box[1] == -0.5


@pytest.mark.parametrize(
    "arguments",
    [
        {"frame_shape": (0, 5)},
        {"frame_spacing": (0, 1)},
        {"frame_spacing": (1, np.nan)},
        {"box": (0, 0, 0, 5)},
        {"box": (0, 0, np.inf, 5)},
        {"box": (5, 0, 0, 5)},
        {"size": 0},
    ],
)
def test_crops_that_cannot_be(arguments: dict) -> None:
    good = {"frame_shape": (5, 5), "frame_spacing": (1, 1), "box": (0, 0, 4, 4), "size": 16}
    FrameCrop(**good)
    with pytest.raises(InputError) as error:
        FrameCrop(**{**good, **arguments})
    assert error.value.code == "bad_view"


@pytest.mark.parametrize(
    ("box", "options"),
    [
        ((0, 0, np.nan, 1), {}),
        ((0, 0, 1), {}),
        ((0, 0, 1, 1), {"context": 0.5}),
        ((0, 0, 1, 1), {"context": np.nan}),
        ((0, 0, 1, 1), {"minimum": -1}),
    ],
)
def test_regions_that_cannot_be(box: tuple, options: dict) -> None:
    with pytest.raises(InputError) as error:
        FrameCrop.around(box, (5, 5), (1, 1), 16, **options)
    assert error.value.code == "bad_view"
