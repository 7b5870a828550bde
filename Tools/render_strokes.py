"""Draw what scribbles and lassos do on a slice of the sample CT, for the manual.

    python Tools/render_strokes.py OUT.png

The strokes are fixed below; the masks are the bundled model's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "SAM2Propagate"))

import numpy as np
from PIL import Image, ImageDraw

from Demo.canvas import MUTED, Canvas, Pixels, Rgb
from Demo.case import CT_FILE, WINDOW_PRESET
from SAM2PropagateLib.engine.build import load_model
from SAM2PropagateLib.engine.engine import PropagationEngine
from SAM2PropagateLib.engine.session import EngineSession
from SAM2PropagateLib.files.volume import read_only_volume
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.prompts.place import lasso_around, scribble_along
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import Lasso, Scribble, SegmentPrompts

AXIS, FRAME = 2, 88
# A part of the slice, in pixels: x0, y0, x1, y1.
REGION = (4, 15, 64, 67)
SCALE, GAP, HEADING = 6, 16, 60
Points = Sequence[tuple[float, float]]
MASK: Rgb = (255, 176, 0)
POSITIVE: Rgb = (90, 230, 110)
NEGATIVE: Rgb = (255, 80, 80)
LINE: Rgb = (80, 200, 255)

SPLEEN = [(17, 52), (17, 44), (19, 37), (22, 30)]
KIDNEY = [(28, 45), (27, 37), (31, 32), (38, 34)]
AROUND = [(9, 42), (13, 32), (21, 24), (28, 27), (26, 37), (23, 49), (18, 59), (12, 58)]


@dataclass(frozen=True)
class Tile:
    """One picture: what is said on the slice, and the words above it."""

    title: str
    text: str
    strokes: tuple[tuple[str, Points], ...]


TILES = (
    Tile("Scribble", "Along the spleen; the kidney comes with it", (("positive", SPLEEN),)),
    Tile("Negative scribble", "Takes the kidney away", (("positive", SPLEEN), ("negative", KIDNEY))),
    Tile("Lasso", "Drawn around the spleen, tightened to the edge", (("lasso", AROUND),)),
    Tile("Lasso, kept as drawn", "The same line", (("exact", AROUND),)),
)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("Give the picture's file: python Tools/render_strokes.py OUT.png")
    volume = read_only_volume(CT_FILE)
    frames = FrameStack(volume.array, volume.geometry, AXIS, Window.preset(WINDOW_PRESET))
    path, _ = ModelStore().resolve(DEFAULT_MODEL)
    engine = PropagationEngine(load_model(path, device="cpu"))
    width, height = (REGION[2] - REGION[0]) * SCALE, (REGION[3] - REGION[1]) * SCALE
    canvas = Canvas(2 * width + 3 * GAP, 2 * (height + HEADING) + GAP)
    for number, tile in enumerate(TILES):
        x = GAP + number % 2 * (width + GAP)
        y = number // 2 * (height + HEADING)
        canvas.text((x, y + 34), tile.title, 22, bold=True)
        canvas.text((x, y + 54), tile.text, 15, MUTED)
        pixels = _drawn(frames, engine.open(frames, "auto"), tile)
        canvas.picture(pixels, (x, y + HEADING, x + width, y + HEADING + height), "RLAP", 16)
    canvas.image.quantize(128, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE).save(
        sys.argv[1], optimize=True
    )
    print(f"wrote {sys.argv[1]}")


def _drawn(frames: FrameStack, session: EngineSession, tile: Tile) -> Pixels:
    """The slice's part with the mask's outline and the strokes, as a radiologist sees it: (h, w, 3)."""
    said = SegmentPrompts("structure")
    for kind, points in tile.strokes:
        said = said.add(_prompt(kind, points, frames))
    prompts = resolve(said, frames.geometry, AXIS).keyframes[FRAME]
    mask = session.preview(FRAME, prompts).mask
    image = Image.fromarray(frames.frame(FRAME)).convert("RGB")
    image = image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.BICUBIC)
    shown = np.array(image)
    fine = np.kron(mask, np.ones((SCALE, SCALE), bool))
    inner = fine.copy()
    for axis in (0, 1):
        for step in (-2, 2):
            inner &= np.roll(fine, step, axis)
    shown[fine] = (0.75 * shown[fine] + 0.25 * np.array(MASK)).astype(np.uint8)
    shown[fine & ~inner] = MASK
    image = Image.fromarray(shown)
    draw = ImageDraw.Draw(image)
    for kind, points in tile.strokes:
        line = [((x + 0.5) * SCALE, (y + 0.5) * SCALE) for x, y in points]
        color = {"positive": POSITIVE, "negative": NEGATIVE}.get(kind, LINE)
        closed = [*line, line[0]] if color == LINE else line
        draw.line(closed, fill=color, width=4, joint="curve")
    x0, y0, x1, y1 = (edge * SCALE for edge in REGION)
    # Rows run to anterior and columns to the patient's right: half a turn shows them as Slicer does.
    return np.asarray(image)[y0:y1, x0:x1][::-1, ::-1]


def _prompt(kind: str, points: Points, frames: FrameStack) -> Scribble | Lasso:
    places = [frames.geometry.ras_of_pixel(x, y, FRAME, AXIS) for x, y in points]
    if kind in ("lasso", "exact"):
        return lasso_around(places, frames.geometry, exact=kind == "exact")
    return scribble_along(places, frames.geometry, positive=kind == "positive")


if __name__ == "__main__":
    main()
