"""Drawing the sheet: text, pictures with orientation letters, on a dark ground as in Slicer."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
Rgb = tuple[int, int, int]
Box = tuple[int, int, int, int]

GROUND: Rgb = (18, 20, 25)
PANEL: Rgb = (30, 33, 40)
TEXT: Rgb = (236, 238, 242)
MUTED: Rgb = (164, 170, 182)
LETTER: Rgb = (255, 233, 150)
_LETTER_MARGIN = 9
_ELLIPSIS = "…"


def rgb(color: tuple[float, float, float]) -> Rgb:
    """Return a color of 0 to 1 as bytes."""
    r, g, b = (round(255 * value) for value in color)
    return r, g, b


class Canvas:
    """A sheet to draw on.

    Args:
        width, height: pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), GROUND)
        self._draw = ImageDraw.Draw(self.image)
        self._fonts: dict[tuple[int, bool], ImageFont.FreeTypeFont] = {}

    def text_width(self, text: str, size: int, bold: bool = False) -> float:
        """Return how wide a line is drawn, in pixels."""
        return float(self._font(size, bold).getlength(text))

    def text(
        self,
        place: tuple[float, float],
        text: str,
        size: int,
        color: Rgb = TEXT,
        *,
        bold: bool = False,
        anchor: str = "ls",
        width: float | None = None,
    ) -> None:
        """Draw a line of text.

        Args:
            place: x and y of the anchor.
            anchor: as Pillow names it; "ls" is the left end of the baseline.
            width: what does not fit into it is cut off, with an ellipsis.
        """
        if width is not None:
            text = self.fitted(text, size, width, bold)
        self._draw.text(place, text, fill=color, font=self._font(size, bold), anchor=anchor)

    def fitted(self, text: str, size: int, width: float, bold: bool = False) -> str:
        """Return the text, or as much of it as fits, with an ellipsis."""
        if self.text_width(text, size, bold) <= width:
            return text
        while text and self.text_width(text + _ELLIPSIS, size, bold) > width:
            text = text[:-1]
        return text.rstrip() + _ELLIPSIS

    def wrapped(self, text: str, size: int, width: float, bold: bool = False) -> list[str]:
        """Return the text in lines that fit, broken at plain spaces."""
        lines: list[str] = []
        for word in text.split(" "):
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self.text_width(longer, size, bold) <= width:
                lines[-1] = longer
            else:
                lines.append(self.fitted(word, size, width, bold))
        return lines

    def panel(self, box: Box, color: Rgb = PANEL) -> None:
        """Draw a filled rectangle; (x0, y0, x1, y1)."""
        self._draw.rounded_rectangle(box, radius=6, fill=color)

    def dot(self, center: tuple[float, float], radius: float, color: Rgb) -> None:
        """Draw a filled circle."""
        x, y = center
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)

    def line(self, start: tuple[float, float], end: tuple[float, float], color: Rgb, width: int = 1) -> None:
        """Draw a straight line."""
        self._draw.line([start, end], fill=color, width=width)

    def picture(self, pixels: Pixels, box: Box, letters: str = "", letter_size: int = 20) -> None:
        """Draw a picture, scaled to cover a box and cut to it.

        Args:
            pixels: (height, width, 3) RGB.
            box: (x0, y0, x1, y1).
            letters: what is on its left, right, top and bottom (e.g. "RLAP").
        """
        x0, y0, x1, y1 = box
        self.image.paste(covering(pixels, (x1 - x0, y1 - y0)), (x0, y0))
        if not letters:
            return
        font = self._font(letter_size, True)
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        m = _LETTER_MARGIN
        places = (
            ((x0 + m, middle[1]), "lm"),
            ((x1 - m, middle[1]), "rm"),
            ((middle[0], y0 + m), "mt"),
            ((middle[0], y1 - m), "mb"),
        )
        for letter, (place, anchor) in zip(letters, places, strict=True):
            self._draw.text(
                place, letter, fill=LETTER, font=font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0)
            )

    def save(self, file: Path) -> None:
        """Writes a PNG of 256 colors, which shows the same at a third of the size."""
        # MAXCOVERAGE keeps the few colored pixels among the many gray ones.
        reduced = self.image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
        reduced.save(file, optimize=True)

    def _font(self, size: int, bold: bool) -> ImageFont.FreeTypeFont:
        if (size, bold) not in self._fonts:
            name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
            file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
            self._fonts[size, bold] = ImageFont.truetype(str(file), size)
        return self._fonts[size, bold]


def covering(pixels: Pixels, size: tuple[int, int]) -> Image.Image:
    """Return a picture scaled so that it covers `size` (width, height), its overhang cut off evenly."""
    height, width = pixels.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    scaled = (max(size[0], round(width * scale)), max(size[1], round(height * scale)))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.LANCZOS)
    left, top = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))
