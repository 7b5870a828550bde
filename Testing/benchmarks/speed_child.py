"""One measured process: sam2's own predictor or this project's engine, on the same weights and frames.

`python -m Testing.benchmarks.speed_child SPEC ANSWER`: SPEC is a `Spec` as JSON, ANSWER the file to write.

Neither side's time includes loading, opening or warming up. Both begin from what a user gives (a box) and end
with boolean masks of the native slices in main memory.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from SAM2PropagateLib.engine import crops, imaging
from SAM2PropagateLib.engine.build import build_model, load_model, model_config, recognize_config
from SAM2PropagateLib.engine.device import compute_dtype, describe, pick_device, uses_int8
from SAM2PropagateLib.engine.engine import PropagationEngine
from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.engine.results import FrameMask, RunSummary
from SAM2PropagateLib.engine.session import EngineSession
from SAM2PropagateLib.engine.steps import SAM2Steps
from SAM2PropagateLib.engine.weights import read_state
from SAM2PropagateLib.evaluation.metrics import BoolArray
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunOptions, RunRequest
from Testing.benchmarks.machine import load, peak_memory
from Testing.benchmarks.scenario import Scenario, sample_scenario
from Testing.engine import video_predictor

SEED = 0
_SURE = 20.0  # a logit
OFFICIAL, OURS = "official", "ours"


@dataclass(frozen=True)
class Spec:
    """What a measured process does.

    Attributes:
        side: `official` or `ours`.
        precision: of ours as `load_model` takes it; of sam2's predictor "float32" (as it is) or "bfloat16"
            (under autocast, as its authors run it on CUDA).
        weights: a weights file; "" draws random ones of `config`, the same on both sides.
        config: a configuration of sam2; "" where the weights file names its own.
        input_size: side of the model's input in pixels. frames: slices. device: as `pick_device` takes it.
        threads: of torch; 0 is its own choice.
    """

    side: str
    precision: str
    weights: str
    config: str
    input_size: int
    frames: int
    device: str = "cpu"
    threads: int = 0


class Official:
    """sam2's own predictor, with frames in main memory and every keyframe conditioning."""

    def __init__(self, spec: Spec, scenario: Scenario, device: torch.device) -> None:
        config, state, metadata = _weights(spec)
        torch.manual_seed(SEED)
        predictor = video_predictor.official_predictor(config, state, spec.input_size)
        self._predictor = (predictor if spec.weights else _always_there(predictor)).to(device)
        self._autocast = torch.bfloat16 if spec.precision == "bfloat16" else None
        self._device = device
        self._scenario = scenario
        frames = scenario.frames
        self.crop = crops.whole_crop(frames, spec.input_size, crops.style_of(metadata))
        images = imaging.to_model_input([frames.frame(n) for n in range(frames.count)], self.crop, device)
        # The predictor's "video" is the square that the model sees.
        x0, y0, x1, y1 = self.crop.box
        with self._precision():
            self.state = video_predictor.start(self._predictor, images, (round(y1 - y0), round(x1 - x0)))

    def facts(self) -> dict[str, Any]:
        return {
            "dtype": str(self._autocast or torch.float32).removeprefix("torch."),
        }

    def reset(self) -> None:
        """Reset to the state of a newly opened video."""
        self._predictor.reset_state(self.state)
        self.state["cached_features"] = {}

    def add_click(self, frame: int, xy: tuple[float, float]) -> BoolArray:
        """Add a positive click to those on a frame; its mask."""
        with self._precision():
            _, _, logits = self._predictor.add_new_points_or_box(
                self.state, frame, 0, points=self._place([xy]), labels=[1], clear_old_points=False
            )
        return self._native(logits[0, 0])

    def first(self, segments: int) -> Iterable[tuple[int, int, BoolArray]]:
        """Boxes on the start, carried forward and backward; yields (segment, frame, mask)."""
        scenario = self._scenario
        with self._precision():
            for number in range(segments):
                x0, y0, x1, y1 = scenario.box(number)
                corners = self._place([(x0, y0), (x1, y1)]).reshape(4)
                self._predictor.add_new_points_or_box(self.state, scenario.start, number, box=corners)
        yield from self._carried(scenario.start, False)
        yield from self._carried(scenario.start, True)

    def few(self) -> None:
        """Begin a run."""
        for _ in zip(range(4), self.first(1), strict=False):
            pass

    def again(self, *, everything: bool) -> Iterable[tuple[int, int, BoolArray]]:
        """Correct, and then run both directions again: all slices from the start's, or only those between
        the start and the correction and beyond the correction, which the correction can change."""
        scenario = self._scenario
        mask = self._seen(scenario.masks[0][scenario.correction])
        with self._precision():
            self._predictor.add_new_mask(self.state, scenario.correction, 0, mask)
        if everything:
            yield from self._carried(scenario.start, False)
            yield from self._carried(scenario.start, True)
        else:
            yield from self._carried(scenario.correction, False)
            yield from self._carried(scenario.correction, True, scenario.correction - scenario.start)

    def _carried(
        self, start: int, reverse: bool, limit: int | None = None
    ) -> Iterable[tuple[int, int, BoolArray]]:
        with self._precision():
            answers = self._predictor.propagate_in_video(
                self.state, start_frame_idx=start, max_frame_num_to_track=limit, reverse=reverse
            )
            for frame, _, logits in answers:
                for number in range(len(logits)):
                    yield number, frame, self._native(logits[number, 0])

    def _precision(self) -> Any:
        return torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None)

    def _place(self, native: list[tuple[float, float]]) -> torch.Tensor:
        """Native points as the predictor counts them, so that the model sees the same as from the engine."""
        x0, y0, x1, y1 = self.crop.box
        model = self.crop.to_model(np.array(native)) - 0.5
        return torch.tensor(model / self.crop.size * (x1 - x0, y1 - y0), dtype=torch.float32)

    def _seen(self, mask: BoolArray) -> torch.Tensor:
        """Return a native mask on the predictor's square video."""
        (left, top), (width, height), (rows, columns) = self._square()
        square = np.zeros((height, width), bool)
        square[top : top + rows, left : left + columns] = mask
        return torch.from_numpy(square)

    def _native(self, logits: torch.Tensor) -> BoolArray:
        (left, top), _, (rows, columns) = self._square()
        return (logits > 0).cpu().numpy()[top : top + rows, left : left + columns]

    def _square(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Return where a whole frame begins in the square (left, top), the square's size and the frame's."""
        x0, y0, x1, y1 = self.crop.box
        left, top = round(-0.5 - x0), round(-0.5 - y0)
        return (left, top), (round(x1 - x0), round(y1 - y0)), self.crop.frame_shape


class Ours:
    """This project's engine."""

    def __init__(self, spec: Spec, scenario: Scenario, device: torch.device) -> None:
        # sam2's predictor does not stop where a structure has ended; neither may the engine here.
        self._engine = PropagationEngine(_loaded(spec, device), patience=None, motion=False)
        self._scenario = scenario
        self.session: EngineSession = self._engine.open(scenario.frames)
        self._clicks: dict[int, tuple[tuple[float, float, bool], ...]] = {}
        self.summary: RunSummary | None = None

    def facts(self) -> dict[str, Any]:
        return {"dtype": self._engine.steps.loaded.precision}

    def reset(self) -> None:
        """Reset to the state of a newly opened volume."""
        self.session = self._engine.open(self._scenario.frames)
        self._clicks = {}

    def encode_ahead(self) -> None:
        """Encode all frames, as happens while the user looks at the volume."""
        self.session.encode_ahead(range(self._scenario.frames.count), lambda: False)

    def add_click(self, frame: int, xy: tuple[float, float]) -> BoolArray:
        """Add a positive click to those on a frame; its mask."""
        self._clicks[frame] = (*self._clicks.get(frame, ()), (*xy, True))
        return self.session.preview(frame, FramePrompts(clicks=self._clicks[frame]), segment="0").mask

    def first(self, segments: int) -> Iterable[tuple[int, int, BoolArray]]:
        """Boxes on the start, carried forward and backward; yields (segment, frame, mask)."""
        return self._run([{self._scenario.start: self._box(number)} for number in range(segments)])

    def few(self) -> None:
        """Begin a run."""
        self._run([{self._scenario.start: self._box(0)}], reach=2)

    def again(self, *, everything: bool) -> Iterable[tuple[int, int, BoolArray]]:
        """Correct, and run what the correction changes; `everything` makes no difference here."""
        scenario = self._scenario
        said = FramePrompts(mask=scenario.masks[0][scenario.correction])
        return self._run([{scenario.start: self._box(0), scenario.correction: said}])

    def _box(self, segment: int) -> FramePrompts:
        return FramePrompts(box=self._scenario.box(segment))

    def _run(
        self, keyframes: list[Mapping[int, FramePrompts]], reach: int | None = None
    ) -> list[tuple[int, int, BoolArray]]:
        last = self._scenario.frames.count - 1
        segments = tuple(
            ResolvedSegment(str(number), said, frozenset(), 0, last) for number, said in enumerate(keyframes)
        )
        answers: list[FrameMask] = []
        self.summary = self.session.propagate(RunRequest(segments, RunOptions(reach=reach)), answers.append)
        return [(int(answer.segment), answer.frame, answer.mask) for answer in answers]


def measure(spec: Spec) -> tuple[dict[str, Any], dict[str, BoolArray]]:
    """Do what the spec says; figures as JSON-able values, and the masks of the first run and of the run after
    the correction, (frames, rows, columns) each."""
    if spec.threads:
        torch.set_num_threads(spec.threads)
    device = pick_device(spec.device)
    scenario = sample_scenario(spec.frames)
    watch = _Watch(device)
    side: Official | Ours = _SIDES[spec.side](spec, scenario, device)
    figures: dict[str, Any] = {"loaded_bytes": peak_memory()}
    _warm_up(scenario, side)

    cold: list[float] = []
    warm: list[float] = []
    for frame in (scenario.start, scenario.start + 1, scenario.start - 1):
        side.reset()
        places = scenario.clicks(scenario.start)
        seconds = [watch.seconds(partial(side.add_click, frame, place)) for place in places]
        cold, warm = [*cold, seconds[0]], [*warm, *seconds[1:]]
    figures["click_cold_seconds"], figures["click_warm_seconds"] = cold, warm

    side.reset()
    masks = {}
    answers, figures["first"] = watch.run(lambda: side.first(1))
    masks["first"] = mask_volume(answers, scenario)
    figures["first"].update(_work(side))
    answers, figures["again"] = watch.run(lambda: side.again(everything=True))
    figures["again"].update(_work(side))
    masks["again"] = masks["first"].copy()
    for _, frame, mask in answers:
        masks["again"][frame] = mask
    if isinstance(side, Official):
        side.reset()
        for _ in side.first(1):
            pass
        _, figures["again_limited"] = watch.run(lambda: side.again(everything=False))
    else:
        side.reset()
        side.encode_ahead()
        _, figures["first_encoded_ahead"] = watch.run(lambda: side.first(1))
    side.reset()
    answers, figures["three"] = watch.run(lambda: side.first(3))
    figures["three"].update(_work(side))
    figures["peak_bytes"] = peak_memory()
    if device.type == "cuda":
        figures["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    figures.update(
        dtype=side.facts()["dtype"], device=describe(device), threads=torch.get_num_threads(), load=load()
    )
    return figures, masks


_SIDES: Mapping[str, Callable[..., Official | Ours]] = {OFFICIAL: Official, OURS: Ours}


class _Watch:
    """Times what is done on a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def seconds(self, action: Callable[[], Any]) -> float:
        self._wait()
        started = time.perf_counter()
        action()
        self._wait()
        return time.perf_counter() - started

    def run(
        self, action: Callable[[], Iterable[tuple[int, int, BoolArray]]]
    ) -> tuple[list[tuple[int, int, BoolArray]], dict[str, float]]:
        """Collect the answers; return also seconds, processor seconds and the number of different (segment,
        frame)."""
        answers: list[tuple[int, int, BoolArray]] = []
        before = time.process_time()
        seconds = self.seconds(lambda: answers.extend(action()))
        return answers, {
            "seconds": seconds,
            "processor_seconds": time.process_time() - before,
            "masks": len({(number, frame) for number, frame, _ in answers}),
        }

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _warm_up(scenario: Scenario, side: Official | Ours) -> None:
    """Click and run a few slices, so that no library's first use is measured."""
    side.reset()
    side.add_click(scenario.start, scenario.clicks(scenario.start)[0])
    side.reset()
    side.few()
    side.reset()


def mask_volume(answers: Iterable[tuple[int, int, BoolArray]], scenario: Scenario) -> BoolArray:
    volume = np.zeros((scenario.frames.count, *scenario.frames.native_shape), bool)
    for number, frame, mask in answers:
        if number == 0:
            volume[frame] = mask
    return volume


def _work(side: Official | Ours) -> dict[str, int]:
    """Return the engine's figures about its last run."""
    if isinstance(side, Official) or side.summary is None:
        return {}
    return {"computed": side.summary.frames_computed, "encoded": side.summary.frames_encoded}


def _weights(spec: Spec) -> tuple[Any, dict[str, torch.Tensor] | None, dict[str, str]]:
    """Configuration, weights (None: random ones) and metadata."""
    if not spec.weights:
        return spec.config, None, {}
    state, metadata = read_state(spec.weights)
    return spec.config or metadata.get("config") or recognize_config(state), state, metadata


def _always_there(model: Any) -> Any:
    """Make a model with random weights that finds the object on every frame."""
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(_SURE)
    return model


def _loaded(spec: Spec, device: torch.device) -> LoadedModel:
    if spec.weights:
        return load_model(
            spec.weights,
            config=spec.config or None,
            device=device,
            input_size=spec.input_size,
            precision=spec.precision,
        )
    torch.manual_seed(SEED)
    model = build_model(model_config(spec.config, spec.input_size), device=device)
    model = _always_there(model).to(device)
    dtype, int8 = compute_dtype(device, spec.precision), uses_int8(device, spec.precision)
    return LoadedModel(model, device, dtype, spec.input_size, "random weights", SAM2Steps, {}, int8)


def main(arguments: list[str]) -> int:
    """Measure and write the answer: JSON, with the masks as packed bits in a .npz file beside it."""
    spec, answer = Spec(**json.loads(arguments[0])), Path(arguments[1])
    figures, masks = measure(spec)
    packed = {name: np.packbits(mask) for name, mask in masks.items()}
    arrays: dict[str, Any] = {"shape": np.array(masks["first"].shape), **packed}
    np.savez(answer.with_suffix(".npz"), **arrays)
    answer.write_text(json.dumps({"spec": asdict(spec), "figures": figures}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
