"""How long the application's thread is held per arriving slice by the whole module with its panel."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.worker.session import WorkerSession
from Testing.benchmarks import streaming
from Testing.benchmarks.machine import ROOT
from Testing.benchmarks.report import BenchmarkReport, table
from Testing.benchmarks.statistics import mean, percentile

WANTED_MS = 16.0
_METHOD = """\
The module's own panel is open (its widgets are simple ones in the place of Slicer's), with a volume of
{columns} × {rows} × {frames} voxels in a real Slicer scene. A click starts a preview, then a propagation; a
worker process with a scripted engine sends {frames} masks, one about every {interval:g} ms, over the real
protocol. Qt's event loop runs as in the application: the module's timer polls, each mask goes into the
preview layer, the strip and the progress are drawn. Held is the time of each turn of that loop in which masks
came: undivided, however many came together, which is what a user may feel, and divided among them. No slice
view is drawn: that is measured by `streaming`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    streaming.add_size_arguments(parser)


@dataclass
class Held:
    """Milliseconds that the application's thread was held.

    Attributes:
        frames: per arriving mask. turns: per turn of the event loop in which masks came, undivided.
        idle: per turn without. end: by the end of the run, after the last mask.
    """

    frames: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)


def run(arguments: argparse.Namespace) -> BenchmarkReport | None:
    """Stream one run through the module; the report. None where Slicer's scene or Qt is not installed."""
    streaming.check_sizes(arguments)
    try:
        import PySide6.QtWidgets  # noqa: F401
        import slicer  # noqa: F401
    except ImportError as error:
        print(f"panel: skipped, Slicer's scene or Qt is not installed here ({error}).\n")
        return None
    names = ("columns", "rows", "frames", "interval")
    options = {name: getattr(arguments, name) for name in names}
    report = BenchmarkReport("panel", "Streaming through the panel", options)
    report.say(_METHOD.format(**options))
    held = stream((arguments.frames, arguments.rows, arguments.columns), arguments.interval / 1e3)
    report.say(_table(held))
    worst = percentile(held.turns, 99)
    word = "reached" if worst <= WANTED_MS else "missed"
    report.say(
        f"Expected: at most {WANTED_MS:g} ms held by whatever arrives at once; 99 % of the turns took at "
        f"most {worst:.2f} ms: {word} ({worst / WANTED_MS:.2f} of what is allowed). {len(held.frames)} masks "
        "arrived, and all are in the preview layer, pixel for pixel as the worker made them."
    )
    report.figures["milliseconds"] = dict(vars(held))
    report.figures["percentile_99"] = worst
    report.figures["of_allowed"] = worst / WANTED_MS
    return report


def stream(shape: tuple[int, int, int], interval: float) -> Held:
    """Run a scripted worker through the open module.

    Args:
        shape: (frames, rows, columns). interval: seconds between masks in the worker.

    Raises:
        SAM2PropagateError: `bench_failed` if the run failed or the layer does not hold what was sent.
    """
    masks = streaming.liver_masks(shape)
    held = Held()
    with _module(masks.astype(np.uint8) * np.uint8(255), interval) as module:
        controller = module.widget.logic.controller
        problems: list[str] = []
        controller.message.connect(lambda message: problems.append(message.text))
        middle = shape[0] // 2
        rows, columns = np.nonzero(masks[middle])
        inside = len(rows) // 2
        geometry = controller.workspace.worldGeometry
        ras = geometry.ras_of_pixel(float(columns[inside]), float(rows[inside]), middle, 2)
        if not controller.point("positive", ras, (0, 0, 1)):
            raise SAM2PropagateError("bench_failed", f"The click was refused: {problems}.")
        _turn_until(lambda: not controller.isWaiting, Held(), controller)
        gc.collect()
        if not controller.propagate():
            raise SAM2PropagateError("bench_failed", f"The run was refused: {problems}.")
        _turn_until(lambda: not controller.isRunning, held, controller)
        stored = controller.workspace.preview.masks(controller.segmentID)
    wrong = [frame for frame in range(shape[0]) if not np.array_equal(stored.get(frame), masks[frame])]
    if problems or wrong:
        raise SAM2PropagateError(
            "bench_failed",
            f"{len(wrong)} masks in the preview layer are not those that were sent. {' '.join(problems)}",
        )
    return held


def _turn_until(done: Any, held: Held, controller: Any) -> None:
    """Runs Qt's event loop turn by turn, and notes how long each took."""
    from PySide6 import QtCore

    arrived: list[Any] = []
    ended: list[float] = []

    def note_end(_end: Any) -> None:
        ended.append(time.perf_counter())

    controller.frameArrived.connect(arrived.append)
    controller.finished.connect(note_end)
    try:
        while not done():
            arrived.clear()
            begin = time.perf_counter()
            QtCore.QCoreApplication.processEvents()
            now = time.perf_counter()
            until = ended[0] if ended else now
            if arrived:
                held.turns.append((until - begin) * 1e3)
                held.frames += [held.turns[-1] / len(arrived)] * len(arrived)
            else:
                held.idle.append((until - begin) * 1e3)
            if ended:
                held.end.append((now - until) * 1e3)
            time.sleep(0.001)
    finally:
        controller.frameArrived.disconnect(arrived.append)
        controller.finished.disconnect(note_end)


@contextmanager
def _module(array: np.ndarray, interval: float) -> Iterator[Any]:
    """Open the module on a volume with a segmentation, and a session with a scripted worker."""
    from Headless import qt_standins, slicer_modules
    from Headless.boot import boot
    from Headless.scenes import addVolume

    headless = boot()
    headless.clear()
    with qt_standins.installed(), slicer_modules.installed():
        module = slicer_modules.ModuleInSlicer(ROOT / "SAM2Propagate" / "SAM2Propagate.py").open()
        try:
            volume = addVolume(headless, array, np.diag([-0.7, -0.7, 1.0, 1.0]))
            volume.GetDisplayNode().SetAutoWindowLevel(False)
            volume.GetDisplayNode().SetWindowLevel(255.0, 127.5)
            session = WorkerSession(streaming.scripted_command(interval))
            module.widget.logic.makeSession = lambda: session
            module.ui.volumeSelector.setCurrentNode(volume)
            module.ui.segmentationSelector.addNode()
            # Writing into the segment is no part of it: that is done once, when all masks are there.
            module.widget.logic.getParameterNode().applyAutomatically = False
            module.panel.resize(440, 900)
            module.panel.show()
            yield module
        finally:
            module.close()
            headless.clear()


def _table(held: Held) -> str:
    titles = {
        "frames": "held per mask",
        "turns": "held per turn with masks",
        "idle": "held per turn without",
        "end": "held by the end of the run",
    }
    rows = []
    for name, title in titles.items():
        values: list[float] = getattr(held, name)
        if values:
            figures = [mean(values), percentile(values, 50), percentile(values, 99), max(values)]
            rows.append([title, *(f"{value:.2f}" for value in figures), str(len(values))])
    return table(["milliseconds", "mean", "median", "99 %", "largest", "count"], rows)
