"""A worker on a server: how long sending a volume, a preview and a run take through ssh, also on a slow line.

The server is an OpenSSH server of its own on the loopback address (`Testing.worker.sshd`); the slow line is
`slow_line`. The worker's engine is a scripted one that takes no time, so that what is measured is the way.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from SAM2PropagateLib.amounts import MEGABYTE
from SAM2PropagateLib.files.volume import read_image
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.prompts.values import Click, PromptSet, to_ras
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.worker.command import WorkerCommand, worker_command
from SAM2PropagateLib.worker.messages import LoadModel
from SAM2PropagateLib.worker.remote import Remote
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.transport import PopenTransport
from Testing.benchmarks import slow_line
from Testing.benchmarks.machine import ROOT, child_environment
from Testing.benchmarks.report import BenchmarkReport, table
from Testing.benchmarks.statistics import percentile
from Testing.benchmarks.streaming import (
    SAMPLE,
    add_size_arguments,
    check_sizes,
    liver_masks,
    scripted_command,
)
from Testing.worker.fake_worker import SCRIPT_VARIABLE
from Testing.worker.sshd import HOST, Sshd, why_no_sshd

_SEGMENT = "liver"
_NOISE = 12.0

_METHOD = """\
An OpenSSH server on the loopback address; a worker behind it with a scripted engine that takes no time, so
that what is measured is the way there and back. The slow line passes the bytes between ssh and the server on
{ms:g} ms late for a round trip and at {mbit:g} Mbit/s each way. *Ready* is from the start of ssh to a loaded
(scripted) model. The volume is the sample CT, enlarged to {columns} × {rows} × {frames} voxels of 16 bits,
with noise of {noise:g} HU, {size:.0f} MB. A preview is one click and its mask; a run sends {frames} masks of
the sample's liver, enlarged to the same size."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_size_arguments(parser)
    parser.add_argument("--round-trip-ms", type=float, default=20.0, help="of the slow line")
    parser.add_argument("--mbit", type=float, default=20.0, help="of the slow line, each way")
    parser.add_argument("--previews", type=int, default=20, help="how many clicks")
    parser.add_argument("--clicks", type=int, default=5, help="clicks with the bundled model; 0: none")


@dataclass
class Way:
    """What one way to a worker takes; seconds, but for `sent` (bytes on their way) and `mask_bytes`."""

    ready: float = 0.0
    volume: float = 0.0
    sent: int = 0
    previews: list[float] = field(default_factory=list)
    run: float = 0.0
    masks: int = 0
    mask_bytes: list[int] = field(default_factory=list)
    model_previews: list[float] = field(default_factory=list)


def run(arguments: argparse.Namespace) -> BenchmarkReport | None:
    """Measure all three ways; None where there is no ssh server."""
    check_sizes(arguments)
    if reason := why_no_sshd():
        print(f"server: skipped, {reason}.\n")
        return None
    shape = (arguments.frames, arguments.rows, arguments.columns)
    names = ("columns", "rows", "frames", "round_trip_ms", "mbit", "previews", "clicks")
    report = BenchmarkReport(
        "server", "A worker on a server", {name: getattr(arguments, name) for name in names}
    )
    volume, masks = noisy_ct(shape), liver_masks(shape).astype(np.int16) * 200
    report.say(
        _METHOD.format(
            ms=arguments.round_trip_ms,
            mbit=arguments.mbit,
            columns=arguments.columns,
            rows=arguments.rows,
            frames=arguments.frames,
            noise=_NOISE,
            size=volume.nbytes / MEGABYTE,
        )
    )
    ways: dict[str, Way] = {}
    with _server() as sshd:
        ways["this computer"] = measure(scripted_command(0.0), worker_command(), volume, masks, arguments)
        script = {SCRIPT_VARIABLE: json.dumps({"steps": {"frame": 0.0}})}
        for name, proxy in (
            ("server", ""),
            (
                f"server, {arguments.round_trip_ms:g} ms, {arguments.mbit:g} Mbit/s",
                f"{sys.executable} {Path(slow_line.__file__)} %h %p "
                f"--round-trip-ms {arguments.round_trip_ms} --mbit {arguments.mbit}",
            ),
        ):
            sshd.configure(proxy=proxy)
            env = child_environment(**{**script, "PATH": sshd.env["PATH"]})
            scripted = Remote(HOST, sys.executable, "library")
            real = Remote(HOST, sys.executable, str(ROOT / "SAM2Propagate"))
            ways[name] = measure(
                worker_command(remote=scripted, base_env=env, module="Testing.worker.fake_worker"),
                worker_command(remote=real, base_env=env),
                volume,
                masks,
                arguments,
            )
            print(f"server: {name} is measured", flush=True)
    report.say(_table(ways))
    report.figures["ways"] = {name: dict(vars(way)) for name, way in ways.items()}
    return report


@contextmanager
def _server() -> Iterator[Sshd]:
    with tempfile.TemporaryDirectory() as folder:
        sshd = Sshd(Path(folder) / "sshd")
        library = sshd.home / "library"
        library.mkdir()
        (library / "SAM2PropagateLib").symlink_to(ROOT / "SAM2Propagate" / "SAM2PropagateLib")
        (library / "Testing").symlink_to(ROOT / "Testing")
        try:
            yield sshd
        finally:
            sshd.stop()


def noisy_ct(shape: tuple[int, int, int]) -> np.ndarray:
    """Return the sample CT enlarged to (frames, rows, columns) int16, with the noise of a scan of that
    size."""
    small = read_image(SAMPLE / "abdomen_ct.nii.gz").array.astype(np.float32)
    zoom = tuple(wanted / there for wanted, there in zip(shape, small.shape, strict=True))
    large = ndimage.zoom(small, zoom, order=1)
    noise = np.random.default_rng(1)
    return np.stack([one + noise.normal(0, _NOISE, one.shape) for one in large]).astype(np.int16)


def measure(
    scripted: WorkerCommand,
    real: WorkerCommand,
    volume: np.ndarray,
    masks: np.ndarray,
    arguments: argparse.Namespace,
) -> Way:
    """Measure one way."""
    way = Way()
    geometry = VolumeGeometry(volume.shape[::-1], np.eye(4))
    made: list[PopenTransport] = []

    def factory() -> PopenTransport:
        made.append(PopenTransport(scripted))
        return made[-1]

    with WorkerSession(factory, is_remote=scripted.is_remote) as session:
        way.ready = _seconds(session, session.load_model(LoadModel(name="scripted")))
        before = made[0].activity
        opened = session.open_volume("ct", volume, geometry, axis=2, window=Window(400.0, 40.0))
        way.volume = _seconds(session, opened)
        way.sent = made[0].activity - before
        session.open_volume("liver", masks, geometry, axis=2, window=Window(200.0, 100.0))
        for number in range(arguments.previews):
            frame = number * volume.shape[0] // arguments.previews
            said = _click(geometry, frame)
            way.previews.append(_seconds(session, session.preview("liver", said, _SEGMENT, frame)))
        # The first one waits for the second volume.
        del way.previews[0]
        said = _click(geometry, volume.shape[0] // 2)
        started = time.perf_counter()
        run = session.propagate("liver", said, options=RunOptions(everything=True))
        _seconds(session, run)
        way.run, way.masks = time.perf_counter() - started, len(run.frames)
        way.mask_bytes = [len(one.message().payload) for one in run.frames.values()]
    if arguments.clicks:
        way.model_previews = model_previews(real, arguments.clicks)
    return way


def model_previews(command: WorkerCommand, count: int) -> list[float]:
    """Seconds from a click to the bundled model's mask, each on a slice of its own of the sample CT."""
    image = read_image(SAMPLE / "abdomen_ct.nii.gz")
    assert image.geometry is not None
    seconds = []
    with WorkerSession(command) as session:
        session.load_model(LoadModel(name=DEFAULT_MODEL, encode_ahead=False))
        session.open_volume("ct", image.array, image.geometry, axis=2, window=Window.preset("soft-tissue"))
        for number in range(count + 1):
            frame = 20 + 10 * number
            said = _click(image.geometry, frame)
            seconds.append(_seconds(session, session.preview("ct", said, _SEGMENT, frame)))
    # The first one waits for model and volume.
    return seconds[1:]


def _click(geometry: VolumeGeometry, frame: int) -> PromptSet:
    columns, rows, _ = geometry.shape_ijk
    place = to_ras(geometry.ras_of_pixel(columns * 0.35, rows * 0.4, frame, 2))
    return PromptSet().add(_SEGMENT, Click("c", place))


def _seconds(session: WorkerSession, call: Any) -> float:
    started = time.perf_counter()
    session.wait(call)
    call.raise_error()
    return time.perf_counter() - started


def _table(ways: dict[str, Way]) -> str:
    def row(title: str, value: Any) -> list[str]:
        return [title, *(value(way) for way in ways.values())]

    rows = [
        row("ready, s", lambda way: f"{way.ready:.1f}"),
        row("sending the volume, s", lambda way: f"{way.volume:.1f}"),
        row("of it on the line, MB", lambda way: f"{way.sent / MEGABYTE:.1f}"),
        row("click to preview, ms (median)", lambda way: f"{1e3 * percentile(way.previews, 50):.0f}"),
        row("click to preview, ms (largest)", lambda way: f"{1e3 * max(way.previews):.0f}"),
        row("a run's masks, s for all", lambda way: f"{way.run:.2f}"),
        row("masks a second", lambda way: f"{way.masks / way.run:.0f}"),
        row("a mask, bytes (median)", lambda way: f"{percentile(way.mask_bytes, 50):.0f}"),
    ]
    if all(way.model_previews for way in ways.values()):
        rows.append(
            row(
                "click to preview with the bundled model, s (median)",
                lambda way: f"{percentile(way.model_previews, 50):.2f}",
            )
        )
    return table(["", *ways], rows)
