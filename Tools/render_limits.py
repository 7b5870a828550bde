"""Draw what the bundled model makes of labeled volumes from one box, for its model card.

    python Tools/render_limits.py DATA OUT.png --targets TEXT [...] [--model NAME|FILE] [--compare-motion]

A row per target: slices from beyond its one end to beyond the other, the reference's outline and the found
one; with --compare-motion also the one found without motion. DATA is a folder with a manifest or with cases,
as for `run.py bench accuracy`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "SAM2Propagate"))

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from SAM2PropagateLib.engine.build import load_model
from SAM2PropagateLib.engine.engine import PropagationEngine
from SAM2PropagateLib.engine.results import FrameMask
from SAM2PropagateLib.evaluation import simulated_user
from SAM2PropagateLib.evaluation.metrics import BoolArray, dice, frames_first
from SAM2PropagateLib.evaluation.targets import LoadedTarget, find_targets, load_target
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.run_options import RunRequest

COLUMNS = 7
# Slices shown beyond either end, as a share of the structure's length.
BEYOND = 0.25
REFERENCE, FOUND, WITHOUT, PROMPTED = "#39d0ff", "#ffb000", "#ff4d6d", "#7dff7d"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--targets", nargs="+", required=True, metavar="TEXT", help="parts of their names")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|FILE")
    parser.add_argument("--compare-motion", action="store_true", help="show what is found without it, too")
    options = parser.parse_args()

    there = [target for target in find_targets(options.data) if target.is_there]
    # In the order of the texts; a target that several of them name is drawn once.
    chosen = list({t.title: t for text in options.targets for t in there if text in t.title}.values())
    if not chosen:
        sys.exit(f"No target whose files are there has a name with {' or '.join(options.targets)}.")
    path, _ = ModelStore().resolve(options.model)
    engine = PropagationEngine(load_model(path, device="cpu"))
    without = None
    if options.compare_motion:
        without = PropagationEngine(load_model(path, device="cpu"), motion=False)
    figure = Figure(figsize=(2.0 * COLUMNS, 3.1 * len(chosen) + 0.4), layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    rows = figure.subfigures(len(chosen), 1, squeeze=False)
    for row, target in zip(rows[:, 0], chosen, strict=True):
        _draw(row, load_target(target), engine, without)
    colors = "Orange: found." if without is None else "Red: found by the model alone. Orange: with motion."
    figure.suptitle(
        f"One box on one slice (green), nothing said of the ends. Blue: reference. {colors}",
        color="white",
        fontsize=13,
    )
    figure.savefig(options.out, dpi=90, facecolor="black")
    print(f"wrote {options.out}")


def _draw(
    row: Any, target: LoadedTarget, engine: PropagationEngine, without: PropagationEngine | None
) -> None:
    reference = frames_first(target.mask, target.axis)
    prompted = simulated_user.largest_frame(target.mask, target.axis)
    found = _found(target, engine)
    shown = [(reference, REFERENCE), (found, FOUND)]
    name = f"{target.target.title}: volume Dice {dice(found, reference):.2f}"
    if without is not None:
        alone = _found(target, without)
        shown.insert(1, (alone, WITHOUT))
        name += f", {dice(alone, reference):.2f} without motion"
    first, last = simulated_user.frame_range(target.mask, target.axis)
    more = max(1, round(BEYOND * (last - first + 1)))
    start, stop = max(0, first - more), min(len(reference) - 1, last + more)
    frames = sorted({*np.linspace(start, stop, COLUMNS).round().astype(int).tolist()})
    frames[int(np.abs(np.array(frames) - prompted).argmin())] = prompted
    rows, columns = _region(reference[start : stop + 1] | found[start : stop + 1])
    down, across = target.geometry.frame_spacing(target.axis)
    row.set_facecolor("black")
    tiles = row.subplots(1, COLUMNS)
    for axes in tiles:
        axes.set_axis_off()
    for axes, frame in zip(tiles, frames, strict=False):
        axes.imshow(
            target.frames.frame(frame)[rows, columns], cmap="gray", vmin=0, vmax=255, aspect=down / across
        )
        for masks, color in shown:
            mask = masks[frame][rows, columns]
            if mask.any():
                axes.contour(mask, levels=[0.5], colors=color, linewidths=1.4)
        words = "the box's slice" if frame == prompted else f"{frame - prompted:+d} slices"
        score = dice(found[frame], reference[frame])
        text = f"{words}\nDice {score:.2f}" if reference[frame].any() else f"{words}\nnot there"
        axes.set_title(text, fontsize=9, color=PROMPTED if frame == prompted else "white")
    row.suptitle(name, x=0.01, horizontalalignment="left", color="white", fontsize=12)


def _found(target: LoadedTarget, engine: PropagationEngine) -> BoolArray:
    """Return the structure from one box on the slice where it is largest: bool (frames, rows, columns)."""
    prompts = simulated_user.first_prompt(
        simulated_user.BOX, "target", target.mask, target.geometry, target.axis
    )
    found = np.zeros(frames_first(target.mask, target.axis).shape, bool)

    def take(answer: FrameMask) -> None:
        found[answer.frame] = answer.mask

    engine.open(target.frames, "auto").propagate(
        RunRequest((resolve(prompts, target.geometry, target.axis),)), take
    )
    return found


def _region(masks: BoolArray) -> tuple[slice, slice]:
    """Return the rows and columns around everything in the masks (frames, rows, columns)."""
    flat = masks.any(axis=0)
    ranges = []
    for axis, length in ((1, flat.shape[0]), (0, flat.shape[1])):
        filled = np.flatnonzero(flat.any(axis=axis))
        margin = max(4, round(0.2 * (filled[-1] - filled[0] + 1)))
        ranges.append(slice(max(0, filled[0] - margin), min(length, filled[-1] + margin + 1)))
    return ranges[0], ranges[1]


if __name__ == "__main__":
    main()
