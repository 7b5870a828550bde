"""How long a client's thread is held per arriving slice, with a real worker process and a real scene."""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.evaluation.simulated_user import first_prompt
from SAM2PropagateLib.files.image import read_image
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.prompts.place import box_at
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.worker.calls import Run
from SAM2PropagateLib.worker.command import WorkerCommand, worker_command
from SAM2PropagateLib.worker.messages import FrameEvent, LoadModel
from SAM2PropagateLib.worker.session import WorkerSession
from Testing.benchmarks.machine import ROOT, child_environment
from Testing.benchmarks.report import BenchmarkReport, table
from Testing.benchmarks.scenario import SAMPLE, sample_scenario
from Testing.benchmarks.statistics import mean, percentile, spread
from Testing.worker.helpers import hold_interpreter

WANTED_MS = 5.0
TICK_SECONDS = 0.02
_LIVER = 5
_SEGMENT = "liver"
_CANCEL_FRAMES = 100
_METHOD = """\
A worker process with a scripted engine sends {frames} masks of {columns} × {rows} pixels, one about every
{interval:g} ms, over the real protocol; their outlines are those of a real liver, enlarged. The client does
what the application's timer does: every {tick:g} ms it empties the queue, and for each mask that came it
unpacks it and writes it in place into the preview layer of a real Slicer scene, then has the views refreshed
once. Held is the time from the beginning to the end of that; the queue's and the refresh's share is divided
among the masks that came together. Drawing one slice view ({size}) is measured apart, as Slicer draws when it
is idle again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_size_arguments(parser)
    parser.add_argument("--no-view", action="store_true", help="draw no slice view")
    parser.add_argument(
        "--locked",
        action="store_true",
        help="keep Python's lock between two ticks, as Slicer's main thread does",
    )
    parser.add_argument(
        "--cancels", type=int, default=10, help="how often a run of the bundled model is cancelled; 0: never"
    )


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of what is streamed."""
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument(
        "--interval", type=float, default=30.0, help="milliseconds between masks in the worker"
    )


def check_sizes(arguments: argparse.Namespace) -> None:
    """Raises InputError `bad_option` for a volume that is none."""
    for name in ("columns", "rows", "frames"):
        if getattr(arguments, name) < 2:
            raise InputError(
                "bad_option", f"--{name} {getattr(arguments, name)} is too small.", "Give 2 or more."
            )


@dataclass
class Held:
    """Milliseconds that the client was held.

    Attributes:
        frames: per arriving mask, everything but drawing.
        processor: the same in processor time of that thread alone, which other busy programs do not lengthen.
        unpack, write: the parts per mask. ticks: per tick on which masks came.
        drawing: per drawing of the slice view.
        idle: per tick on which nothing came.
        late: how much later than the worker's own end the run was over here, once.
    """

    frames: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    unpack: list[float] = field(default_factory=list)
    write: list[float] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    drawing: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Stopwatch:
    wall: float
    processor: float

    @staticmethod
    def start() -> _Stopwatch:
        return _Stopwatch(time.perf_counter(), time.thread_time())

    def milliseconds(self) -> tuple[float, float]:
        """Wall time and processor time of this thread since the start."""
        return (time.perf_counter() - self.wall) * 1e3, (time.thread_time() - self.processor) * 1e3


def run(arguments: argparse.Namespace) -> BenchmarkReport | None:
    """Stream one run through; the report. None where Slicer's scene is not installed."""
    check_sizes(arguments)
    try:
        import slicer  # noqa: F401
    except ImportError as error:
        print(f"streaming: skipped, Slicer's scene is not installed here ({error}).\n")
        return None
    shape = (arguments.frames, arguments.rows, arguments.columns)
    names = ("columns", "rows", "frames", "interval", "no_view", "locked", "cancels")
    report = BenchmarkReport("streaming", "Streaming", {name: getattr(arguments, name) for name in names})
    size = (800, 600)
    report.say(
        _METHOD.format(
            frames=arguments.frames,
            columns=arguments.columns,
            rows=arguments.rows,
            interval=arguments.interval,
            tick=TICK_SECONDS * 1e3,
            size=f"{size[0]} × {size[1]}",
        )
    )
    if arguments.locked:
        report.say("Between two ticks the thread keeps Python's lock, as Slicer's main thread does.")
    held, written = stream(
        shape, arguments.interval / 1e3, None if arguments.no_view else size, is_locked=arguments.locked
    )
    report.say(_table(held))
    worst = percentile(held.frames, 99)
    word = "reached" if worst <= WANTED_MS else "missed"
    report.say(
        f"Expected: at most {WANTED_MS:g} ms held per mask; 99 % of the masks took at most {worst:.2f} ms: "
        f"{word}. {len(held.frames)} masks arrived and {written} are in the preview layer, pixel for pixel "
        "as the worker made them."
    )
    report.figures["milliseconds"] = dict(vars(held))
    report.figures["percentile_99"] = worst
    if arguments.cancels:
        seconds = cancel_seconds(worker_command(), LoadModel(name=DEFAULT_MODEL), arguments.cancels)
        report.say(
            f"Cancel, amid a run of the bundled model on {_CANCEL_FRAMES} slices of the sample CT: "
            f"{spread(seconds).text()} s until the worker has ended the run ({len(seconds)} times). The "
            "panel does not wait for that: for it the run is over at once."
        )
        report.figures["cancel_seconds"] = seconds
    return report


def cancel_seconds(command: WorkerCommand, model: LoadModel, count: int) -> list[float]:
    """Seconds from asking for the end of a run to the worker's word that it has ended, several times.

    Raises:
        SAM2PropagateError: `bench_failed`, or what the worker fails with.
    """
    scenario = sample_scenario(_CANCEL_FRAMES)
    geometry, axis = scenario.frames.geometry, scenario.frames.axis
    box = box_at(scenario.box(0), scenario.start, geometry, axis)
    prompts = PromptSet(axis=axis).add(_SEGMENT, box)
    chance = random.Random(0)
    seconds: list[float] = []
    with WorkerSession(command) as session:
        _finish(session, session.load_model(model))
        while len(seconds) < count:
            # Opened again, so that nothing is known of the slices.
            _finish(
                session,
                session.open_volume(
                    "ct", scenario.frames.array, geometry, axis=axis, window=scenario.frames.window
                ),
            )
            run = session.propagate("ct", prompts)
            wanted = chance.randrange(1, _CANCEL_FRAMES // 4)
            while len(run.frames) < wanted and not run.is_finished:
                session.poll()
                time.sleep(TICK_SECONDS / 4)
            time.sleep(chance.uniform(0.0, 0.1))
            begin = time.perf_counter()
            session.cancel(run)
            session.wait(run)
            run.raise_error()
            if run.state != "cancelled":
                raise SAM2PropagateError("bench_failed", "A run was over before it could be cancelled.")
            seconds.append(time.perf_counter() - begin)
    return seconds


def liver_masks(shape: tuple[int, int, int]) -> np.ndarray:
    """Return the sample's liver, enlarged to (frames, rows, columns) bool with smooth outlines on every
    slice."""
    label = read_image(SAMPLE / "abdomen_ct_labels.nii.gz").array == _LIVER
    filled = np.flatnonzero(label.any(axis=(1, 2)))
    label = label[filled[0] : filled[-1] + 1].astype(np.float32)
    places = np.linspace(0, len(label) - 1, shape[0])
    masks = np.empty(shape, bool)
    zoom = (shape[1] / label.shape[1], shape[2] / label.shape[2])
    for number, place in enumerate(places):
        lower = min(int(place), len(label) - 2)
        between = label[lower] * (1 - (place - lower)) + label[lower + 1] * (place - lower)
        masks[number] = ndimage.zoom(between, zoom, order=1, grid_mode=True, mode="nearest") >= 0.5
    return masks


def stream(
    shape: tuple[int, int, int],
    interval: float,
    view_size: tuple[int, int] | None,
    *,
    is_locked: bool = False,
) -> tuple[Held, int]:
    """Run a scripted worker into a scene.

    Args:
        shape: (frames, rows, columns). interval: seconds between masks in the worker.
        view_size: of the slice view that is drawn; None: none is.
        is_locked: Python's lock is kept between two ticks.

    Returns:
        What was measured, and how many masks are in the preview layer.

    Raises:
        SAM2PropagateError: `bench_failed` if the run failed or the layer does not hold what was sent.
    """
    masks = liver_masks(shape)
    # The scripted engine answers with the pixels above a threshold: black and white make its masks these.
    array = masks.astype(np.uint8) * np.uint8(255)
    matrix = np.diag([-0.7, -0.7, 1.0, 1.0])
    geometry = VolumeGeometry(shape[::-1], matrix)
    prompts = PromptSet((first_prompt("box", _SEGMENT, masks, geometry, 2),), axis=2)
    held = Held()
    with (
        _scene(array, matrix, view_size) as (layer, view),
        WorkerSession(scripted_command(interval)) as session,
    ):
        _finish(session, session.load_model(LoadModel(name="scripted")))
        _finish(session, session.open_volume("ct", array, geometry, axis=2, window=Window(255.0, 127.5)))
        begin = time.perf_counter()
        run = session.propagate("ct", prompts)
        while not run.is_finished:
            (hold_interpreter if is_locked else time.sleep)(TICK_SECONDS)
            _tick(session, layer, held)
            if view is not None and held.ticks:
                watch = _Stopwatch.start()
                view.render()
                held.drawing.append(watch.milliseconds()[0])
        _check(run)
        held.late.append((time.perf_counter() - begin - float(run.result["seconds"])) * 1e3)
        stored = layer.masks(_SEGMENT)
    wrong = [frame for frame in range(shape[0]) if not np.array_equal(stored.get(frame), masks[frame])]
    if wrong:
        raise SAM2PropagateError(
            "bench_failed", f"{len(wrong)} masks in the preview layer are not those that were sent."
        )
    return held, len(stored)


def _tick(session: WorkerSession, layer: Any, held: Held) -> None:
    """Do what the application does on a tick of its timer."""
    tick = _Stopwatch.start()
    parts: list[tuple[float, float]] = []
    for update in session.poll():
        if isinstance(update.event, FrameEvent):
            watch = _Stopwatch.start()
            mask = update.event.mask
            unpacked, _ = watch.milliseconds()
            layer.write(update.event.segment, update.event.frame, mask, refresh=False)
            parts.append(watch.milliseconds())
            held.unpack.append(unpacked)
            held.write.append(parts[-1][0] - unpacked)
    if parts:
        layer.refresh()
    wall, processor = tick.milliseconds()
    if not parts:
        held.idle.append(wall)
        return
    held.ticks.append(wall)
    shared_wall = (wall - sum(one for one, _ in parts)) / len(parts)
    shared_processor = (processor - sum(one for _, one in parts)) / len(parts)
    held.frames += [one + shared_wall for one, _ in parts]
    held.processor += [one + shared_processor for _, one in parts]


@contextmanager
def _scene(array: np.ndarray, matrix: np.ndarray, size: tuple[int, int] | None) -> Iterator[tuple[Any, Any]]:
    """Make a preview layer over a volume in a scene, and a slice view on it."""
    from Headless.boot import boot
    from Headless.scenes import addSegmentation, addVolume
    from Headless.slice_view import RenderingError, SliceView
    from SAM2PropagateLib.scene.preview import PreviewLayer

    headless = boot()
    headless.clear()
    volume = addVolume(headless, array, matrix)
    segmentation = addSegmentation(headless, volume, {_SEGMENT: (0.8, 0.3, 0.2)})
    layer = PreviewLayer(segmentation, volume, 2)
    view = None
    if size is not None:
        try:
            view = SliceView(headless, size=size)
            view.show(volume)
            view.render()
        except RenderingError as error:
            print(f"streaming: no slice view is drawn, {error}")
    # What setting up left behind is not to be collected during a tick.
    gc.collect()
    try:
        yield layer, view
    finally:
        if view is not None:
            view.close()
        layer.close()
        headless.clear()


def scripted_command(interval: float) -> WorkerCommand:
    """Return a starter of workers whose scripted engine sends a mask every `interval` seconds."""
    script = json.dumps({"steps": {"frame": interval}})
    command = worker_command(
        sys.executable,
        base_env=child_environment(SAM2PROPAGATE_FAKE=script),
        module="Testing.worker.fake_worker",
    )
    paths = os.pathsep.join([str(ROOT / "SAM2Propagate"), str(ROOT)])
    return WorkerCommand(command.argv, {**command.env, "PYTHONPATH": paths}, ROOT)


def _finish(session: WorkerSession, call: Any) -> None:
    session.wait(call)
    _check(call)


def _check(call: Any) -> None:
    call.raise_error()
    if call.state != "done" or (isinstance(call, Run) and not call.frames):
        raise SAM2PropagateError("bench_failed", f"The scripted worker's {call.kind} ended as {call.state}.")


def _table(held: Held) -> str:
    titles = {
        "frames": "held per mask",
        "processor": "held per mask, processor time",
        "unpack": "of it: unpacking",
        "write": "of it: writing into the layer",
        "ticks": "held per tick with masks",
        "idle": "held per tick without",
        "drawing": "drawing the slice view",
        "late": "the run's end, later than in the worker",
    }
    rows = []
    for name, title in titles.items():
        values: list[float] = getattr(held, name)
        if values:
            figures = [percentile(values, 50), percentile(values, 99), max(values), mean(values)]
            rows.append([title, *(f"{value:.2f}" for value in figures), str(len(values))])
    return table(["milliseconds", "median", "99 %", "largest", "mean", "count"], rows)
