"""The same seen by the application: through a real worker process and its protocol."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.prompts.place import box_at, click_at, mask_at
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.worker.calls import Call
from SAM2PropagateLib.worker.client import Deadlines
from SAM2PropagateLib.worker.command import worker_command
from SAM2PropagateLib.worker.messages import LoadModel
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.transport import PopenTransport
from Testing.benchmarks.machine import child_environment, peak_memory
from Testing.benchmarks.scenario import Scenario, sample_scenario
from Testing.benchmarks.statistics import spread

_VOLUME, _SEGMENT = "volume", "segment"
_BETWEEN_CLICKS = 0.5  # seconds, of a quick user


def measure_worker(
    weights: str, input_size: int, frames: int, device: str, rounds: int, precision: str = "auto"
) -> list[dict[str, Any]]:
    """Seconds as a client waits for them, and the worker's main memory, once per round with a new worker."""
    return [_round(weights, input_size, sample_scenario(frames), device, precision) for _ in range(rounds)]


def _round(weights: str, input_size: int, scenario: Scenario, device: str, precision: str) -> dict[str, Any]:
    command = worker_command(sys.executable, base_env=child_environment())
    transports: list[PopenTransport] = []

    def start() -> PopenTransport:
        transports.append(PopenTransport(command))
        return transports[-1]

    geometry, axis = scenario.frames.geometry, scenario.frames.axis
    with WorkerSession(start, deadlines=Deadlines()) as session:
        figures: dict[str, Any] = {}

        def seconds(call: Call, started: float) -> float:
            session.wait(call)
            call.raise_error()
            if call.state != "done":
                raise SAM2PropagateError("bench_failed", f"The worker's {call.kind} ended as {call.state}.")
            return time.perf_counter() - started

        started = time.perf_counter()
        model = LoadModel(path=str(Path(weights)), device=device, input_size=input_size, precision=precision)
        loading = session.load_model(model)
        figures["start_and_load_seconds"] = seconds(loading, started)
        figures["dtype"] = loading.result["dtype"]

        def open_volume() -> float:
            started = time.perf_counter()
            frames = scenario.frames
            return seconds(
                session.open_volume(_VOLUME, frames.array, geometry, axis=axis, window=frames.window), started
            )

        figures["open_seconds"] = open_volume()
        prompts = PromptSet(axis=axis)
        figures["click_seconds"] = []
        for x, y in scenario.clicks(scenario.start):
            # Meanwhile the worker encodes the slices around, as it does in use.
            time.sleep(_BETWEEN_CLICKS if figures["click_seconds"] else 0.0)
            prompts = prompts.add(_SEGMENT, click_at(x, y, scenario.start, geometry, axis))
            started = time.perf_counter()
            preview = session.preview(_VOLUME, prompts, _SEGMENT, scenario.start)
            figures["click_seconds"].append(seconds(preview, started))

        # Opened again, nothing is encoded.
        open_volume()
        box = box_at(scenario.box(0), scenario.start, geometry, axis)
        prompts = PromptSet(axis=axis).add(_SEGMENT, box)
        started = time.perf_counter()
        run = session.propagate(_VOLUME, prompts)
        figures["first"] = {"seconds": seconds(run, started), "masks": len(run.frames)}
        mask = mask_at(scenario.masks[0][scenario.correction], scenario.correction, geometry, axis)
        started = time.perf_counter()
        run = session.propagate(_VOLUME, prompts.add(_SEGMENT, mask))
        figures["again"] = {"seconds": seconds(run, started), "masks": len(run.frames)}
        figures["peak_bytes"] = peak_memory(transports[0].pid)
        return figures


def describe_worker(rounds: list[Mapping[str, Any]]) -> str:
    """Return the figures in a sentence."""

    def text(values: list[float], digits: int = 2) -> str:
        return spread(values).text(digits)

    def rate(name: str) -> str:
        return text([one[name]["masks"] / one[name]["seconds"] for one in rounds])

    memory = [one["peak_bytes"] / 2**20 for one in rounds if one["peak_bytes"]]
    clicks = [one["click_seconds"] for one in rounds]
    starting = text([one["start_and_load_seconds"] for one in rounds])
    first_click = text([seconds[0] for seconds in clicks], 3)
    further = text([value for seconds in clicks for value in seconds[1:]], 3)
    return (
        f"Through a real worker, as the application uses it ({rounds[0]['dtype']}, close view), as a client "
        f"waits for it: {starting} s until it has started and loaded the model, {first_click} s from the "
        f"first click to its preview, {further} s for further clicks on it {_BETWEEN_CLICKS} s apart, "
        f"{rate('first')} slices/s in the first propagation, {rate('again')} in the re-propagation, "
        f"{text(memory, 0) if memory else 'unknown'} MiB of memory at most."
    )
