"""The sheet: everything is on it, nothing runs over its neighbor or the edge."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from Demo.canvas import GROUND, LETTER, Canvas, covering
from Demo.montage import WIDTH, Sheet, Strip, Table, Tile, compose, surface_size, write_sheet

COLORS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)]
LONG = "A heading that is far too long for the narrow column in which it has to find its place"


def plain(color, size=(600, 520)):
    return np.full((size[1], size[0], 3), color, np.uint8)


def sheet(words="short"):
    tiles = [Tile(plain(color), words, words + " and more") for color in COLORS]
    strips = [
        Strip(
            words, (230, 159, 0), [Tile(plain((90, 60 + 10 * n, 90), (212, 226)), words) for n in range(5)]
        ),
        Strip(
            words, (86, 180, 233), [Tile(plain((60, 60 + 10 * n, 20), (212, 226)), words) for n in range(5)]
        ),
    ]
    table = Table([["", words, words], [words, "0.888", words], [words, "0.812", words]], [(230, 159, 0)] * 2)
    surface = Tile(plain((120, 20, 120), surface_size(2)), words, letters="RLSI")
    return Sheet(words, words, tiles, strips, surface, table, [words, words * 3])


@pytest.mark.parametrize("words", ["short", LONG])
def test_nothing_is_drawn_into_the_margins_or_over_the_pictures(words):
    image = np.asarray(compose(sheet(words)).image)
    assert image.shape[1] == WIDTH
    for edge in (image[:, :38], image[:, -38:], image[:20], image[-20:]):
        assert (edge == GROUND).all()
    # Each picture is there, whole but for its four letters.
    quantity = [int((image == color).all(axis=-1).sum()) for color in [*COLORS, (120, 20, 120)]]
    step = 386 * ((WIDTH - 80 - 60) // 4)
    assert all(0.98 * step < count <= step for count in quantity[:4])
    width, height = surface_size(2)
    assert 0.98 * width * height < quantity[4] <= width * height


def test_headings_do_not_reach_into_the_next_column():
    image = np.asarray(compose(sheet(LONG)).image)
    column = (WIDTH - 80 - 60) // 4
    for number in range(3):
        gap = image[142:230, 40 + number * 20 + (number + 1) * column + 1 : 40 + (number + 1) * (column + 20)]
        assert (gap == GROUND).all()


def test_orientation_letters_are_on_their_sides():
    canvas = Canvas(300, 200)
    canvas.picture(plain((0, 0, 0), (300, 200)), (0, 0, 300, 200), "RLAP")
    image = np.asarray(canvas.image)
    rows, columns = np.nonzero((image == LETTER).all(axis=-1))
    middle = np.abs(columns - 150) < 20
    assert set(columns[~middle] < 60) == {True, False}
    assert (np.abs(rows[~middle] - 100) < 20).all()
    assert rows[middle].min() < 30 and rows[middle].max() > 170


def test_text_is_cut_with_an_ellipsis_and_wrapped_between_words():
    canvas = Canvas(10, 10)
    cut = canvas.fitted(LONG, 20, 300)
    assert cut.endswith("…") and canvas.text_width(cut, 20) <= 300
    assert LONG.startswith(cut[:-1])
    assert canvas.fitted("short", 20, 300) == "short"
    lines = canvas.wrapped(LONG, 20, 300)
    assert " ".join(lines) == LONG
    assert all(canvas.text_width(line, 20) <= 300 for line in lines)


def test_a_picture_covers_its_place_without_being_stretched():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 50:150] = 255  # the middle square
    square = np.asarray(covering(pixels, (60, 60)))
    assert square.shape == (60, 60, 3)
    assert (square[:, 3:-3] > 250).all()
    np.testing.assert_array_equal(np.asarray(covering(pixels, (200, 100))), pixels)


def test_the_file_is_small_and_shows_the_same(tmp_path):
    write_sheet(sheet(), tmp_path / "demo.png")
    with Image.open(tmp_path / "demo.png") as image:
        assert image.format == "PNG"
        saved = np.asarray(image.convert("RGB")).astype(int)
    drawn = np.asarray(compose(sheet()).image).astype(int)
    assert np.abs(saved - drawn).mean() < 2.0
    assert (tmp_path / "demo.png").stat().st_size < 600_000
