"""The sheet `demo.png`: what was said, what came of it, and how good it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from Demo.canvas import MUTED, PANEL, TEXT, Canvas, Pixels, Rgb

WIDTH = 1920
_MARGIN, _GAP = 40, 20
_TITLE_SIZE, _HEADING_SIZE, _TEXT_SIZE, _SMALL_SIZE = 40, 25, 22, 19
_STEP_HEIGHT, _STEP_TEXT = 386, 92
_STRIP_HEIGHT = 226
_ROW_HEIGHT = 46
_SURFACE_WIDTH = 700
_STRIP_STEP, _STRIP_GAP = _STRIP_HEIGHT + 70, 14
_REFERENCE: Rgb = (255, 255, 255)


@dataclass(frozen=True, eq=False)
class Tile:
    """A picture with its words.

    Attributes:
        pixels: (height, width, 3) RGB.
        title: one line.
        text: what is seen, wrapped to at most two lines.
        letters: what is on its left, right, top and bottom, e.g. "RLAP".
    """

    pixels: Pixels
    title: str
    text: str = ""
    letters: str = "RLAP"


@dataclass(frozen=True, eq=False)
class Strip:
    """Slices through one structure."""

    name: str
    color: Rgb
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Table:
    """Rows of words; the first row are the headings, each first cell has its row's color."""

    rows: Sequence[Sequence[str]]
    colors: Sequence[Rgb]


@dataclass(frozen=True, eq=False)
class Sheet:
    """Everything on the sheet.

    Attributes:
        title, subtitle: at the top.
        steps: what the user does, side by side.
        strips: one per structure.
        surface: the 3D picture.
        table: the figures.
        notes: lines below the table.
    """

    title: str
    subtitle: str
    steps: Sequence[Tile]
    strips: Sequence[Strip]
    surface: Tile
    table: Table
    notes: Sequence[str]


def surface_size(strips: int) -> tuple[int, int]:
    """Width and height in pixels of the 3D picture beside so many strips."""
    return _SURFACE_WIDTH, strips * _STRIP_STEP - _STRIP_GAP


def write_sheet(sheet: Sheet, file: Path) -> None:
    """Composes the sheet and writes it as PNG."""
    compose(sheet).save(file)


def compose(sheet: Sheet) -> Canvas:
    """Return the sheet, drawn; its height follows from what is on it."""
    strips_height = surface_size(len(sheet.strips))[1]
    notes_height = len(sheet.notes) * 31 + 24
    table_height = len(sheet.table.rows) * _ROW_HEIGHT + 10
    y_steps = 142
    y_strips = y_steps + _STEP_TEXT + _STEP_HEIGHT + 34
    y_table = y_strips + 46 + strips_height + 30
    canvas = Canvas(WIDTH, y_table + table_height + notes_height + _MARGIN)
    canvas.text((_MARGIN, 68), sheet.title, _TITLE_SIZE, bold=True, width=WIDTH - 2 * _MARGIN)
    canvas.text((_MARGIN, 108), sheet.subtitle, _TEXT_SIZE, MUTED, width=WIDTH - 2 * _MARGIN)
    _draw_steps(canvas, sheet.steps, y_steps)
    left_width = WIDTH - 2 * _MARGIN - _GAP * 2 - _SURFACE_WIDTH
    _draw_strips(canvas, sheet.strips, y_strips, left_width)
    _draw_surface(canvas, sheet.surface, y_strips, strips_height)
    _draw_table(canvas, sheet.table, y_table)
    for number, note in enumerate(sheet.notes):
        place = (_MARGIN, y_table + table_height + 34 + number * 31)
        canvas.text(place, note, _SMALL_SIZE, MUTED, width=WIDTH - 2 * _MARGIN)
    return canvas


def _draw_steps(canvas: Canvas, steps: Sequence[Tile], y: int) -> None:
    width = (WIDTH - 2 * _MARGIN - _GAP * (len(steps) - 1)) // len(steps)
    for number, tile in enumerate(steps):
        x = _MARGIN + number * (width + _GAP)
        canvas.text((x, y + 26), f"{number + 1}  {tile.title}", _HEADING_SIZE, bold=True, width=width)
        for line, words in enumerate(canvas.wrapped(tile.text, _SMALL_SIZE, width)[:2]):
            canvas.text((x, y + 54 + 25 * line), words, _SMALL_SIZE, MUTED)
        top = y + _STEP_TEXT
        canvas.picture(tile.pixels, (x, top, x + width, top + _STEP_HEIGHT), tile.letters)


def _draw_strips(canvas: Canvas, strips: Sequence[Strip], y: int, width: int) -> None:
    canvas.text((_MARGIN, y + 26), "Slices through the result", _HEADING_SIZE, bold=True)
    x = _MARGIN + canvas.text_width("Slices through the result", _HEADING_SIZE, True) + 22
    canvas.line((x, y + 18), (x + 34, y + 18), _REFERENCE, 2)
    canvas.text((x + 44, y + 26), "reference label", _SMALL_SIZE, MUTED)
    for row, strip in enumerate(strips):
        top = y + 46 + row * _STRIP_STEP
        canvas.dot((_MARGIN + 8, top + 12), 8, strip.color)
        canvas.text((_MARGIN + 26, top + 19), strip.name, _TEXT_SIZE, strip.color, bold=True)
        top += 30
        count = len(strip.tiles)
        tile_width = (width - 10 * (count - 1)) // count
        for column, tile in enumerate(strip.tiles):
            left = _MARGIN + column * (tile_width + 10)
            box = (left, top, left + tile_width, top + _STRIP_HEIGHT)
            canvas.picture(tile.pixels, box, tile.letters, 16)
            canvas.text((left, top + _STRIP_HEIGHT + 21), tile.title, 17, MUTED, width=tile_width)


def _draw_surface(canvas: Canvas, tile: Tile, y: int, height: int) -> None:
    x = WIDTH - _MARGIN - _SURFACE_WIDTH
    canvas.text((x, y + 26), tile.title, _HEADING_SIZE, bold=True, width=_SURFACE_WIDTH)
    canvas.picture(tile.pixels, (x, y + 46, x + _SURFACE_WIDTH, y + 46 + height), tile.letters)


def _draw_table(canvas: Canvas, table: Table, y: int) -> None:
    width = WIDTH - 2 * _MARGIN
    height = len(table.rows) * _ROW_HEIGHT + 10
    canvas.panel((_MARGIN, y, _MARGIN + width, y + height), PANEL)
    columns = len(table.rows[0])
    first = 0.17
    for row, cells in enumerate(table.rows):
        base = y + 36 + row * _ROW_HEIGHT
        for column, cell in enumerate(cells):
            share = 0.0 if column == 0 else first + (1 - first) * (column - 1) / (columns - 1)
            room = width * (first if column == 0 else (1 - first) / (columns - 1)) - 16
            is_heading = row == 0
            color = MUTED if is_heading else table.colors[row - 1] if column == 0 else TEXT
            size = _SMALL_SIZE if is_heading else _TEXT_SIZE
            canvas.text((_MARGIN + 20 + share * width, base), cell, size, color, bold=column == 0, width=room)
