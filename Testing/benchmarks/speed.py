"""Speed, previews, main and GPU memory, beside sam2's own predictor on the same weights and frames."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from SAM2PropagateLib.cohort.needs import usable_cores
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.evaluation.metrics import dice
from SAM2PropagateLib.models.registry import DEFAULT_MODEL, MODELS
from SAM2PropagateLib.models.store import ModelStore
from Testing.benchmarks.machine import ROOT, child_environment, file_hash
from Testing.benchmarks.report import BenchmarkReport, figure, table
from Testing.benchmarks.statistics import Spread, mean, paired_ratios, spread
from Testing.benchmarks.worker_latency import describe_worker, measure_worker

FIRST_WANTED, AGAIN_WANTED = 1.5, 4.0
# A GPU that is lent for ten minutes answers in them, loading included.
_MINUTES_ON_A_GPU = 9.0
_SIZES = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
_METHOD = """\
sam2's own `SAM2VideoPredictor` and this project's engine, on the same weights and the same axial slices
of the CT that comes with the project, seen whole ({wait_policy}). Every measurement is a process of its
own; the sides take turns ({pairs} rounds), a ratio compares neighbors of one round, and what stands here
is the median (smallest to largest). Loading, opening and warming up are not counted. Both begin with what
a user gives and end with boolean masks of the native slices. sam2's predictor has its frames in main memory,
preprocessed, which is not counted either; the engine windows and resamples them within its time. sam2's
predictor runs in {official}, with every keyframe conditioning.

- first propagation: a box on the middle slice, carried in both directions; nothing encoded before. The
  engine would stop where a structure has ended; here it is told not to, as sam2's predictor does not.
- first, encoded ahead: the same if the slices were encoded while the user looked at the volume.
- re-propagation: then the mask of a slice halfway to the end is corrected. sam2's predictor carries both
  directions again from the first slice; the engine runs again. Counted are the slices that each writes.
- until all is right again: the seconds of that, whatever was written.
- the same, as little as possible: sam2's predictor runs from the corrected slice to the end and back to the
  first one only; its user would have to know that this is enough.
- three segments: three boxes on the middle slice; masks (slices times segments) per second.
- click: until its mask is there; cold on a slice not seen before, warm for further clicks on it.
- processor s: of all threads together; other busy programs lengthen this the least.
- memory: the most main memory that the process held, torch and the loaded weights included.

Random weights: the masks mean nothing. They are the same on both sides, and made to say that the object is on
every slice, so that no side can leave anything out."""


@dataclass(frozen=True)
class SpeedCase:
    """One model at one size: weights "" are random ones of `config`."""

    name: str
    title: str
    weights: str
    config: str
    input_size: int
    frames: int
    pairs: int


@dataclass(frozen=True)
class Side:
    """Who is measured, and in which precision; see `speed_child.Spec`."""

    name: str
    precision: str
    title: str


@dataclass(frozen=True)
class Quantity:
    """A row of the table: a value of a child's figures, None where that side has none.

    Attributes:
        better: `more` or `less`; the ratio says how many times better the engine is.
        of_official: taken from sam2's side instead of `value`, where it is another figure there.
    """

    title: str
    value: Callable[[Mapping[str, Any]], float | None]
    digits: int = 2
    better: str = "more"
    of_official: Callable[[Mapping[str, Any]], float | None] | None = None

    def of(self, side: Side, figures: Mapping[str, Any]) -> float | None:
        take = self.of_official if side.name == "official" and self.of_official else self.value
        return take(figures)


def _rate(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda figures: figures[name]["masks"] / figures[name]["seconds"] if name in figures else None


def _seconds(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda figures: figures[name]["seconds"] if name in figures else None


def _processor(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda figures: figures[name]["processor_seconds"] if name in figures else None


def _mebibytes(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda figures: figures[name] / 2**20 if figures.get(name) else None


FIRST = Quantity("first propagation, slices/s", _rate("first"))
AGAIN = Quantity("re-propagation, slices/s", _rate("again"))
QUANTITIES = (
    FIRST,
    Quantity("first, encoded ahead, slices/s", _rate("first_encoded_ahead"), of_official=_rate("first")),
    AGAIN,
    Quantity("until all is right again, s", _seconds("again"), 3, "less"),
    Quantity(
        "the same, as little as possible, s",
        _seconds("again"),
        3,
        "less",
        of_official=_seconds("again_limited"),
    ),
    Quantity("three segments, masks/s", _rate("three")),
    Quantity("click, cold, s", lambda figures: float(np.median(figures["click_cold_seconds"])), 3, "less"),
    Quantity("click, warm, s", lambda figures: float(np.median(figures["click_warm_seconds"])), 3, "less"),
    Quantity("first propagation, processor s", _processor("first"), 2, "less"),
    Quantity("re-propagation, processor s", _processor("again"), 2, "less"),
    Quantity("memory, MiB", _mebibytes("peak_bytes"), 0, "less"),
    Quantity("memory of the GPU, MiB", _mebibytes("peak_device_bytes"), 0, "less"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME|PATH", help="beside those with random weights"
    )
    parser.add_argument(
        "--cases", nargs="+", metavar="NAME", help="such as bundled-384, tiny-512; default: all"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "bfloat16", "int8"),
        default="auto",
        help="of the engine, which on a CPU is measured in float32 as well; default: auto",
    )
    parser.add_argument("--frames", type=int, help="slices; default: by the size of the model")
    parser.add_argument("--pairs", type=int, help="rounds; default: by the size of the model")
    parser.add_argument(
        "--minutes",
        type=float,
        help="begin no round that would not end in this time; default: "
        f"{_MINUTES_ON_A_GPU:g} on a GPU, no limit on a CPU",
    )


def run(arguments: argparse.Namespace) -> BenchmarkReport | None:
    """Measure every case; the report."""
    device = _device(arguments.device)
    cases = _chosen(speed_cases(arguments.model, device), arguments)
    minutes = arguments.minutes if arguments.minutes or device == "cpu" else _MINUTES_ON_A_GPU
    names = ("device", "model", "cases", "precision", "frames", "pairs", "minutes", "threads")
    called = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    report = BenchmarkReport("speed", "Speed", called)
    environment = child_environment()
    report.say(
        _METHOD.format(
            wait_policy=f"OMP_WAIT_POLICY={environment['OMP_WAIT_POLICY']}",
            pairs="/".join(str(case.pairs) for case in cases),
            official="float32" if device == "cpu" else "bfloat16 autocast, as its authors do",
        )
    )
    if device == "cpu":
        report.say("On CUDA: skipped, this computer has no GPU that torch can use.")
    sides = _sides(device, arguments.precision)
    measured = [Measured(case, device, {side: [] for side in sides}) for case in cases]
    measure(measured, arguments.threads or 0, Clock(minutes))
    for one in measured:
        describe(one, report)
    if not any(one.rounds for one in measured):
        raise SAM2PropagateError("bench_failed", f"Nothing was measured ({measured[0].problem}).")
    return report


def _device(wanted: str) -> str:
    """Return `cuda` or `cpu`; the parent only asks, so that its own use of a GPU does not count."""
    from SAM2PropagateLib.engine.device import available_devices

    names = available_devices()
    if wanted == "auto":
        return "cuda" if any(name.startswith("cuda") for name in names) else "cpu"
    kind = wanted.partition(":")[0]
    if kind not in ("cuda", "cpu") or not any(name.startswith(kind) for name in names):
        raise InputError(
            "device_unavailable",
            f"The device “{wanted}” cannot be measured here.",
            f"There are: {', '.join(names)}.",
        )
    return wanted


def speed_cases(model: str, device: str) -> list[SpeedCase]:
    """Return the model itself, whose file is not looked for yet, and those with random weights."""
    entry = next((one for one in MODELS if one.name == model), None)
    label = "bundled" if model == DEFAULT_MODEL else Path(model).stem
    size = 256 if entry is None else entry.input_size
    config = "" if entry is None or entry.config is None else entry.config
    own = SpeedCase(f"{label}-{size}", f"The model {Path(model).stem}", model, config, size, 48, 5)
    if device == "cpu":
        return [own, *(_random("tiny", size, frames, 3) for size, frames in ((512, 10), (1024, 6)))]
    return [replace(own, frames=112), *(_random(name, 1024, 32, 3) for name in _SIZES)]


def _random(name: str, input_size: int, frames: int, pairs: int) -> SpeedCase:
    config = f"configs/sam2.1/sam2.1_hiera_{_SIZES[name]}.yaml"
    title = f"SAM 2.1 {name.replace('_', ' ')}, random weights"
    return SpeedCase(f"{name}-{input_size}", title, "", config, input_size, frames, pairs)


def _chosen(cases: Sequence[SpeedCase], arguments: argparse.Namespace) -> list[SpeedCase]:
    names = [case.name for case in cases]
    unknown = [name for name in arguments.cases or () if name not in names]
    if unknown:
        raise InputError("no_cases", f"There is no case “{unknown[0]}”.", f"There are: {', '.join(names)}.")
    chosen = [case for case in cases if not arguments.cases or case.name in arguments.cases]
    return [
        replace(
            case,
            weights=str(ModelStore().resolve(case.weights)[0]) if case.weights else "",
            frames=arguments.frames or case.frames,
            pairs=arguments.pairs or case.pairs,
        )
        for case in chosen
    ]


def _sides(device: str, precision: str) -> list[Side]:
    ours = Side("ours", precision, f"ours, {precision}")
    if device != "cpu":
        return [Side("official", "bfloat16", "sam2, bfloat16"), ours]
    return [Side("official", "float32", "sam2, float32"), Side("ours", "float32", "ours, float32"), ours]


@dataclass
class Measured:
    """What is measured of one case so far.

    Attributes:
        sides: their figures, one entry per round; a side that would only repeat another one leaves.
        agreement: of the first round's masks with sam2's, by side.
        worker: the application's figures, one entry per round.
        seconds: how long the latest round took.
        problem: why there are no more rounds; "": there is nothing to be said.
    """

    case: SpeedCase
    device: str
    sides: dict[Side, list[dict[str, Any]]]
    agreement: dict[Side, dict[str, float]] = field(default_factory=dict)
    worker: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    problem: str = ""

    @property
    def rounds(self) -> int:
        """Rounds that every side has done."""
        return min(len(figures) for figures in self.sides.values())

    def run_round(self, threads: int, clock: Clock) -> None:
        """Measure one more round.

        Raises:
            SAM2PropagateError: `bench_failed`. subprocess.TimeoutExpired: the time was over.
        """
        started = time.monotonic()
        case, number = self.case, self.rounds
        masks, done = {}, {}
        with tempfile.TemporaryDirectory(prefix="sam2propagate-bench-") as folder:
            for side in self.sides:
                done[side], masks[side] = run_child(
                    case, side, self.device, threads, Path(folder), clock.left
                )
                print(f"  {case.name}, round {number + 1}, {side.title}: {_short(done[side])}", flush=True)
        for side, figures in done.items():
            self.sides[side].append(figures)
        first, *others = self.sides
        chosen = others[-1]
        if number == 0:
            self.agreement = {side: mask_agreement(masks[first], masks[side]) for side in others}
            if self.device == "cpu" and done[chosen]["dtype"] == "float32":
                # Auto is float32 here: measuring it twice would say nothing.
                self.sides.pop(chosen)
        if case.weights:
            self.worker += measure_worker(
                case.weights, case.input_size, case.frames, self.device, 1, chosen.precision
            )
        self.seconds = time.monotonic() - started


class Clock:
    """How much of the time that a run may take is left.

    Args:
        minutes: None: there is no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def left(self) -> float | None:
        """Seconds, not below 0; None: no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def has(self, seconds: float) -> bool:
        """Tell whether so many seconds are left."""
        left = self.left
        return left is None or left > seconds


def measure(cases: Sequence[Measured], threads: int, clock: Clock) -> None:
    """Rounds of all cases in turn, so that each has one before any has the next, as long as there is time."""
    for number in range(max(one.case.pairs for one in cases)):
        for one in cases:
            if one.problem or number >= one.case.pairs:
                continue
            if not clock.has(one.seconds):
                one.problem = "the time was over"
                continue
            try:
                one.run_round(threads, clock)
            except subprocess.TimeoutExpired:
                one.problem = "the time was over"
            except SAM2PropagateError as error:
                one.problem = error.sentence.removesuffix(".")
                print(f"  {one.case.name}: {error.sentence}", flush=True)


def describe(one: Measured, report: BenchmarkReport) -> None:
    case, rounds = one.case, one.rounds
    report.say(f"## {case.title}, {case.input_size} px, {case.frames} slices, {rounds} rounds")
    if one.problem:
        report.say(f"{rounds} of {case.pairs} rounds: {one.problem}.")
    if not rounds:
        return
    sides, measured = list(one.sides), one.sides
    report.say(ratio_table(sides, measured))
    first, ours = measured[sides[0]][0], measured[sides[-1]][0]
    report.say(
        f"{first['device']}. Load of the machine during the rounds: "
        f"{_loads([figures for ones in measured.values() for figures in ones])}. The engine computed "
        f"{ours['first']['computed']} slices in the first propagation and {ours['again']['computed']} in the "
        f"re-propagation, and encoded {ours['again']['encoded']} in the latter. Masks of the first "
        "propagation beside sam2's: "
        + "; ".join(
            f"{side.title} Dice {found['dice']:.3f} on {found['filled']:.0f} slices with a mask"
            for side, found in one.agreement.items()
        )
        + "."
    )
    ratios = ratios_of(sides, measured)
    report.say(verdict(ratios))
    entry: dict[str, Any] = {
        **asdict(case),
        "weights": Path(case.weights).name,
        "sha256": file_hash(Path(case.weights)) if case.weights else "",
        "rounds": rounds,
        "sides": {side.title: values for side, values in measured.items()},
        "ratios": {
            title: {name: ratio.to_dict() for name, ratio in row.items()} for title, row in ratios.items()
        },
        "agreement": {side.title: found for side, found in one.agreement.items()},
    }
    if one.worker:
        entry["worker"] = one.worker
        report.say(describe_worker(one.worker))
    report.figures.setdefault("cases", []).append(entry)


def run_child(
    case: SpeedCase, side: Side, device: str, threads: int, folder: Path, seconds: float | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Run one measured process.

    Raises:
        SAM2PropagateError: `bench_failed`, with the last line of what it printed.
        subprocess.TimeoutExpired: it took longer than `seconds`, and was ended.
    """
    spec = {
        "side": side.name,
        "precision": side.precision,
        "weights": case.weights,
        "config": case.config,
        "input_size": case.input_size,
        "frames": case.frames,
        "device": device,
        "threads": threads,
    }
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "Testing.benchmarks.speed_child", json.dumps(spec), str(answer)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=child_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        timeout=seconds,
    )
    if done.returncode != 0 or not answer.is_file():
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise SAM2PropagateError(
            "bench_failed",
            f"Measuring {side.title} with {case.name} failed: {lines[-1]}",
            "See the line above.",
        )
    figures: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))["figures"]
    with np.load(answer.with_suffix(".npz")) as stored:
        shape = tuple(int(size) for size in stored["shape"])
        count = int(np.prod(shape))
        masks = {
            name: np.unpackbits(stored[name], count=count).reshape(shape).astype(bool)
            for name in stored.files
            if name != "shape"
        }
    return figures, masks


def mask_agreement(official: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean Dice per slice of the first propagation's masks, where either has one, and how many these are."""
    pairs = zip(official["first"], ours["first"], strict=True)
    values = [dice(a, b) for a, b in pairs if a.any() or b.any()]
    return {"dice": mean(values), "filled": float(len(values))}


def _values(quantity: Quantity, side: Side, figures: Sequence[Mapping[str, Any]]) -> list[float] | None:
    values = [quantity.of(side, one) for one in figures]
    known = [value for value in values if value is not None]
    return known if known and len(known) == len(values) else None


def _ratio(quantity: Quantity, official: Side, ours: Side, measured: Mapping[Side, Any]) -> Spread | None:
    a, b = _values(quantity, ours, measured[ours]), _values(quantity, official, measured[official])
    if a is None or b is None:
        return None
    return paired_ratios(a, b) if quantity.better == "more" else paired_ratios(b, a)


def ratios_of(
    sides: Sequence[Side], measured: Mapping[Side, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, Spread]]:
    """Title of the side -> title of the quantity -> how many times better than sam2's predictor."""
    return {
        side.title: {
            quantity.title: ratio
            for quantity in QUANTITIES
            if (ratio := _ratio(quantity, sides[0], side, measured)) is not None
        }
        for side in sides[1:]
    }


def ratio_table(sides: Sequence[Side], measured: Mapping[Side, Sequence[Mapping[str, Any]]]) -> str:
    head = ["", sides[0].title]
    for side in sides[1:]:
        head += [
            f"{side.title} ({measured[side][0]['dtype']})" if side.precision == "auto" else side.title,
            "times",
        ]
    rows = []
    for quantity in QUANTITIES:
        cells = [quantity.title]
        for side in sides:
            values = _values(quantity, side, measured[side])
            cells.append("-" if values is None else spread(values).text(quantity.digits))
            if side is not sides[0]:
                ratio = _ratio(quantity, sides[0], side, measured)
                cells.append("-" if ratio is None else ratio.text())
        if any(cell != "-" for cell in cells[1:]):
            rows.append(cells)
    return table(head, rows)


def verdict(ratios: Mapping[str, Mapping[str, Spread]]) -> str:
    """Return sentences that compare the medians with the ratios expected on 2 cores."""
    sentences = []
    for title, row in ratios.items():
        for quantity, wanted in ((FIRST, FIRST_WANTED), (AGAIN, AGAIN_WANTED)):
            got = row[quantity.title].median
            word = "reached" if got >= wanted else "missed"
            sentences.append(
                f"{title}, {quantity.title.partition(',')[0]}: {got:.2f} times, {wanted:g} {word}"
            )
    return f"Expected on 2 cores of a CPU ({usable_cores()} here). " + "; ".join(sentences) + "."


def _short(figures: Mapping[str, Any]) -> str:
    parts = [
        f"first {figure(_rate('first')(figures), 2)}/s",
        f"again {figure(_rate('again')(figures), 2)}/s",
        f"three {figure(_rate('three')(figures), 2)}/s",
        f"{figure(_mebibytes('peak_bytes')(figures), 0)} MiB",
        f"load {figures['load']}",
    ]
    return ", ".join(parts)


def _loads(figures: Sequence[Mapping[str, Any]]) -> str:
    loads = [one["load"] for one in figures if one["load"] is not None]
    if not loads:
        return "unknown"
    words = spread(loads).text(1)
    busy = [one for one in loads if one > usable_cores() + 0.5]
    return words + (" (other programs were busy: these figures are too low)" if busy else "")
