"""The options that several commands share: what to segment, how, and who computes."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

from SAM2PropagateLib.cohort.fleet import DaskFleet, Sharing, open_fleet, slurm_options
from SAM2PropagateLib.cohort.needs import gpu_count, local_plan
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.scene_prompts import read_prompts
from SAM2PropagateLib.frames.geometry import AXIS_NAMES, VolumeGeometry
from SAM2PropagateLib.frames.window import PRESETS
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.numerals import decimal_number, is_number, whole_number
from SAM2PropagateLib.prompts.place import range_at
from SAM2PropagateLib.prompts.resolve import choose_axis
from SAM2PropagateLib.prompts.values import (
    Box,
    Click,
    Curve,
    FrameMark,
    Lasso,
    PromptSet,
    Scribble,
    SegmentPrompts,
)
from SAM2PropagateLib.run_options import BOTH, DIRECTIONS, RunOptions
from SAM2PropagateLib.texts import is_utf8

DEFAULT_SEGMENT = "Segment_1"
Point = tuple[float, float, float]
# Copied from `engine.device`, which imports torch.
PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")
AXES = {"i": 0, "j": 1, "k": 2, "auto": None}
ALL_AXES = "all"
# The largest whole number that an option takes.
_MOST = 999_999_999
# The options with a stroke, and its least number of points.
_STROKES = {
    "scribble_ras": ("--scribble-ras", 1),
    "negative_scribble_ras": ("--negative-scribble-ras", 1),
    "lasso_ras": ("--lasso-ras", 3),
    "exact_lasso_ras": ("--exact-lasso-ras", 3),
    "curve_ras": ("--curve-ras", 2),
}
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]+)?")


class Parser(argparse.ArgumentParser):
    """Raises an error with one sentence instead of printing its usage and ending the program."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError `bad_arguments` with a sentence."""
        sentence = message[:1].upper() + message[1:]
        raise bad_arguments(
            sentence if sentence.endswith(".") else sentence + ".", f"See {self.prog} --help."
        )


def program_name() -> str:
    """Return the words that start the command line, for help and hints: the installed script or run.py."""
    script = "sam2propagate"
    return script if Path(sys.argv[0]).stem.startswith(script) else "python3 run.py cli"


def bad_arguments(sentence: str, hint: str = "") -> InputError:
    """Return the error for arguments that are wrong or do not fit together."""
    return InputError("bad_arguments", sentence, hint)


def prepared(arguments: Sequence[str]) -> list[str]:
    """Return the arguments in a form that argparse understands.

    Negative numbers such as -1e-3 become plain ones, as it would take them for options; before one that would
    get too many digits comes a blank. The one or two values of --window become one, as otherwise a preset
    would take the next word, too.
    """
    prepared: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*prepared, word, *rest]
        if word == "--window" and rest:
            values = [rest.pop(0)]
            if is_number(values[0]) and rest and not rest[0].startswith("--"):
                values.append(rest.pop(0))
            prepared.append("--window=" + " ".join(values))
        elif word.startswith("-") and is_number(word):
            prepared.append(_plain_number(word))
        else:
            prepared.append(word)
    return prepared


def _plain_number(word: str) -> str:
    try:
        return format(Decimal(word), "f") if abs(Decimal(word).adjusted()) < 100 else f" {word}"
    except InvalidOperation:
        return f" {word}"


def add_debug(parser: Any) -> None:
    """Add the option that prints the details of a failure."""
    parser.add_argument("--debug", action="store_true", help="on failure, also print the details")


# --- what to segment


@dataclass(frozen=True)
class SegmentArguments:
    """One segment's prompts as given: RAS points in mm, slice indices from 0.

    Attributes:
        points, scribbles: each with whether it is in the structure. lassos: each with whether it is exact.
    """

    name: str
    points: tuple[tuple[Point, bool], ...] = ()
    boxes: tuple[tuple[Point, Point], ...] = ()
    absent: tuple[Point, ...] = ()
    range: tuple[int, int] | None = None
    scribbles: tuple[tuple[tuple[Point, ...], bool], ...] = ()
    lassos: tuple[tuple[tuple[Point, ...], bool], ...] = ()
    curves: tuple[tuple[Point, ...], ...] = ()


def add_what(parser: argparse.ArgumentParser) -> Any:
    """Add the options on what to segment; return their group, to add more."""
    what = parser.add_argument_group("what to segment")
    what.add_argument("--segment", action=_Said, metavar="NAME", help="start a segment of this name")
    ras: dict[str, Any] = {"action": _Said, "type": _coordinate}
    what.add_argument("--point-ras", nargs=3, metavar=("R", "A", "S"), help="a point in the structure", **ras)
    what.add_argument(
        "--negative-ras", nargs=3, metavar=("R", "A", "S"), help="a point outside the structure", **ras
    )
    what.add_argument(
        "--box-ras",
        nargs=6,
        metavar=("R0", "A0", "S0", "R1", "A1", "S1"),
        help="a box around it: two opposite corners on one slice",
        **ras,
    )
    stroke = {"nargs": "+", "metavar": "R A S", **ras}
    what.add_argument("--scribble-ras", help="a stroke along the structure: its points in order", **stroke)
    what.add_argument(
        "--negative-scribble-ras", help="a stroke along what is not part of the structure", **stroke
    )
    what.add_argument(
        "--lasso-ras",
        help="a line around the structure, closed by itself; the model tightens it to the edge that it sees",
        **stroke,
    )
    what.add_argument(
        "--exact-lasso-ras", help="a line around the structure on one slice, kept as it is", **stroke
    )
    what.add_argument(
        "--curve-ras", help="a line through the structure, from slice to slice: its points in order", **stroke
    )
    what.add_argument(
        "--absent-ras",
        nargs=3,
        metavar=("R", "A", "S"),
        help="any point of a slice without the structure, where propagation ends",
        **ras,
    )
    what.add_argument(
        "--range",
        nargs=2,
        action=_Said,
        type=_index,
        metavar=("FIRST", "LAST"),
        help="change only these slices: indices along the axis, from 0 as in Slicer's IJK, both included; "
        "before the first --segment it holds for all segments without a range of their own",
    )
    return what


def parse_said(words: Sequence[str]) -> tuple[SegmentArguments, ...]:
    """Return the prompts in words of the command line that have no other options.

    Raises:
        InputError: `bad_arguments`.
    """
    parser = Parser(prog=f"{program_name()} segment", add_help=False, allow_abbrev=False)
    add_what(parser)
    return segments_of(getattr(parser.parse_args(prepared(words)), "said", None) or [])


def segments_of(said: Sequence[tuple[str, Any]]) -> tuple[SegmentArguments, ...]:
    """Return the prompts by segment, in the order of the segments' first appearance."""
    found: dict[str, SegmentArguments] = {}
    for_all: tuple[int, int] | None = None
    current: str | None = None
    for kind, values in said:
        if kind == "segment":
            current = str(values).strip()
            if not current:
                raise bad_arguments("A segment needs a name.", "Give one after --segment.")
            if not is_utf8(current):
                raise bad_arguments(
                    f"The name {current!r} of a segment is not text in UTF-8.", "Give it another name."
                )
            found.setdefault(current, SegmentArguments(current))
        elif kind == "range" and current is None:
            for_all = (values[0], values[1])
        else:
            name = current or DEFAULT_SEGMENT
            found[name] = _with(found.get(name, SegmentArguments(name)), kind, values)
    return tuple(
        segment if segment.range is not None else replace(segment, range=for_all)
        for segment in found.values()
    )


def _with(segment: SegmentArguments, kind: str, values: Sequence[Any]) -> SegmentArguments:
    if kind == "range":
        return replace(segment, range=(values[0], values[1]))
    if kind in _STROKES:
        points = _stroke(kind, values)
        if kind.endswith("scribble_ras"):
            return replace(segment, scribbles=(*segment.scribbles, (points, kind == "scribble_ras")))
        if kind == "curve_ras":
            return replace(segment, curves=(*segment.curves, points))
        return replace(segment, lassos=(*segment.lassos, (points, kind == "exact_lasso_ras")))
    point: Point = (values[0], values[1], values[2])
    if kind == "box_ras":
        return replace(segment, boxes=(*segment.boxes, (point, (values[3], values[4], values[5]))))
    if kind == "absent_ras":
        return replace(segment, absent=(*segment.absent, point))
    return replace(segment, points=(*segment.points, (point, kind == "point_ras")))


def _stroke(kind: str, values: Sequence[float]) -> tuple[Point, ...]:
    """Return the points of the numbers after an option."""
    option, least = _STROKES[kind]
    if len(values) % 3:
        raise bad_arguments(
            f"{option} has {len(values)} numbers, which do not make whole points.",
            "Give three numbers for each point: R, A and S in mm.",
        )
    points = [(values[n], values[n + 1], values[n + 2]) for n in range(0, len(values), 3)]
    if len(points) < least:
        raise bad_arguments(
            f"{option} has fewer than {least} points.",
            "Give points along the structure."
            if kind == "curve_ras"
            else "Give points all around the structure.",
        )
    return tuple(points)


class _Said(argparse.Action):
    """Keeps the prompts in order, each with its kind."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        said = getattr(namespace, "said", None) or []
        # A new list, as argparse shares the default among parsers.
        namespace.said = [*said, (self.dest, values)]


def _coordinate(text: str) -> float:
    word = text.strip()
    value = decimal_number(word)
    if value is None:
        raise argparse.ArgumentTypeError(f"“{word}” is not a number of millimeters")
    return value


def _index(text: str) -> int:
    value = whole_number(text)
    if value is None or value > _MOST:
        raise argparse.ArgumentTypeError(f"“{text}” is not a slice index (0 to {_MOST})")
    return value


def prompts_from_arguments(
    segments: Sequence[SegmentArguments], geometry: VolumeGeometry, axis: int | None
) -> PromptSet:
    """Return the prompts of the command line's options.

    Args:
        segments: as given.
        geometry: of the volume; slice indices of ranges count along the axis.
        axis: 0, 1, 2, or None: chosen by `choose_axis`.

    Returns:
        Prompts with the axis that a range needed, or with `axis`.

    Raises:
        InputError: `outside_volume` for a range that leaves the volume, and as `choose_axis`.
    """
    prompts = PromptSet(tuple(_segment(given) for given in segments), axis)
    if any(given.range for given in segments):
        prompts = prompts.with_axis(choose_axis(prompts, geometry))
    for given in segments:
        if given.range is not None and prompts.axis is not None:
            _check_range(given, geometry, prompts.axis)
            prompts = prompts.add(given.name, range_at(*given.range, geometry, prompts.axis))
    return prompts


def prompts_from_file(path: Path, geometry: VolumeGeometry, axis: int | None) -> PromptSet:
    """Return the prompts for a volume in a JSON file or a scene, along `axis` if one is given.

    Raises:
        InputError: as `read_prompts`.
    """
    prompts = read_prompts(path, geometry)
    return prompts if axis is None else prompts.with_axis(axis)


def _segment(given: SegmentArguments) -> SegmentPrompts:
    prompts = SegmentPrompts(
        given.name,
        clicks=tuple(
            Click(f"point-{number}", ras, positive)
            for number, (ras, positive) in enumerate(given.points, start=1)
        ),
        boxes=tuple(Box(f"box-{number}", *corners) for number, corners in enumerate(given.boxes, start=1)),
        absent=tuple(FrameMark(f"absent-{number}", ras) for number, ras in enumerate(given.absent, start=1)),
    )
    for number, (points, positive) in enumerate(given.scribbles, start=1):
        prompts = prompts.add(Scribble(f"scribble-{number}", points, positive))
    for number, (points, exact) in enumerate(given.lassos, start=1):
        prompts = prompts.add(Lasso(f"lasso-{number}", points, exact))
    for number, points in enumerate(given.curves, start=1):
        prompts = prompts.add(Curve(f"curve-{number}", points))
    return prompts


def _check_range(given: SegmentArguments, geometry: VolumeGeometry, axis: int) -> None:
    assert given.range is not None
    count = geometry.frame_count(axis)
    if max(given.range) >= count:
        raise InputError(
            "outside_volume",
            f"The range {given.range[0]} to {given.range[1]} of segment “{given.name}” leaves the volume, "
            f"whose slice indices along {AXIS_NAMES[axis]} are 0 to {count - 1}.",
            "Give indices within the volume.",
        )


# --- how


def add_how(parser: argparse.ArgumentParser) -> Any:
    """Add the options on how to segment; return their group, to add more."""
    how = parser.add_argument_group("how")
    how.add_argument("--axis", choices=tuple(AXES), default="auto", help="propagation axis (default: auto)")
    how.add_argument(
        "--direction",
        choices=DIRECTIONS,
        default=BOTH,
        help=f"forward is to higher slice indices (default: {BOTH})",
    )
    how.add_argument("--reach", type=count, metavar="N", help="at most N slices away from the prompts")
    how.add_argument(
        "--window",
        metavar="WIDTH LEVEL | PRESET",
        help=f"what the model sees: two numbers, or one of {', '.join(PRESETS)} (default: the file's own, "
        "else soft-tissue for CT and percentiles for the rest)",
    )
    how.add_argument(
        "--crop",
        choices=("auto", "none"),
        default="auto",
        help="let the model see the region around the prompts (auto, the default) or whole slices",
    )
    how.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help=f"the model (default: {DEFAULT_MODEL})"
    )
    add_computing(how)
    add_axes(how)
    return how


@dataclass(frozen=True)
class Computing:
    """The values of the options of `add_computing`; commands that have them inherit it."""

    config: str | None
    device: str
    input_size: int | None
    motion: bool
    precision: str


@dataclass(frozen=True)
class HowToSegment(Computing):
    """The values of the options of `add_how`; commands that have them inherit it.

    Attributes:
        axis: 0, 1, 2, or None: chosen by the prompts.
        window: a preset's name, (width, level), or None: the file's own. crop: "auto", or None: whole slices.
    """

    axis: int | None
    model: str
    window: str | tuple[float, float] | None
    crop: str | None
    run: RunOptions


def how_of(namespace: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `HowToSegment` from the parsed arguments.

    Raises:
        InputError: `bad_window`.
    """
    return {
        "axis": AXES[namespace.axis],
        "model": namespace.model,
        **computing_of(namespace),
        "window": parse_window(namespace.window),
        "crop": None if namespace.crop == "none" else "auto",
        "run": RunOptions(
            direction=namespace.direction, reach=namespace.reach, all_axes=namespace.axes == ALL_AXES
        ),
    }


def add_computing(parser: Any) -> None:
    """Add the options on how a model is loaded and computes."""
    parser.add_argument(
        "--config", metavar="NAME|FILE", help="the model's configuration, for a file of your own"
    )
    add_device_and_size(parser)
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="the precision to compute in (default: auto)"
    )
    parser.add_argument(
        "--motion",
        choices=("on", "off"),
        default="on",
        help="carry masks along the image's motion, too (on, the default), or by the model alone",
    )


def computing_of(namespace: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `Computing` from the parsed arguments."""
    return {
        "config": namespace.config,
        "device": namespace.device,
        "input_size": namespace.input_size,
        "motion": namespace.motion == "on",
        "precision": namespace.precision,
    }


def add_device_and_size(parser: Any) -> None:
    """Add the options that say where the model runs and how large its input is."""
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N, mps or cpu (default: auto)")
    parser.add_argument("--input-size", type=count, metavar="N", help="side of the model's input in pixels")


def add_axes(parser: Any) -> None:
    """Add the option that carries masks along the other two axes, too."""
    parser.add_argument(
        "--axes",
        choices=("one", ALL_AXES),
        default="one",
        help="when the masks are finished, carry them along the other two axes, too, and fuse the three "
        f"({ALL_AXES}); takes at least three times as long (default: one)",
    )


def check_device(name: str) -> None:
    """Refuse a name that no device has. Raises InputError `unknown_device`."""
    if not _DEVICE.fullmatch(name):
        raise InputError(
            "unknown_device", f"There is no device “{name}”.", "Use auto, cuda, cuda:N, mps or cpu."
        )


def count(text: str) -> int:
    """Parse a whole number from 1 to 999999999, for argparse."""
    value = whole_number(text)
    if value is None or not 1 <= value <= _MOST:
        raise argparse.ArgumentTypeError(f"“{text}” is not a whole number from 1 to {_MOST}")
    return value


def parse_window(text: str | None) -> str | tuple[float, float] | None:
    """Return a preset's name, or (width, level)."""
    if text is None:
        return None
    words = text.replace(",", " ").split()
    numbers = [value for word in words if (value := decimal_number(word)) is not None]
    if len(words) == len(numbers) == 2:
        return numbers[0], numbers[1]
    if len(words) == 1 and not is_number(words[0]):
        return words[0]
    raise InputError(
        "bad_window",
        f"“{text}” is not a window.",
        f"Give a width and a level, such as 400 40, or one of {', '.join(PRESETS)}.",
    )


# --- who computes


def add_sharing(parser: argparse.ArgumentParser, default: str = "this process alone") -> Any:
    """Add the options on who computes; return their group.

    Args:
        default: who computes on this computer without them, for the help.
    """
    who = parser.add_argument_group("who computes")
    who.add_argument(
        "--workers",
        type=count,
        metavar="N",
        help=f"workers on this computer (default: {default}); with --slurm: jobs (default: 1)",
    )
    who.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="workers of a Dask scheduler that runs already, such as tls://host:8786",
    )
    who.add_argument(
        "--slurm",
        metavar='"PARTITION OPTIONS"',
        help='workers as jobs of SLURM: a partition, then options of sbatch, such as "gpu --gres=gpu:1"',
    )
    return who


def open_workers(
    sharing: Sharing,
    model_mb: Callable[[], int],
    gpus: Callable[[], int],
    folder: Path,
    tell: Callable[[str], None],
    on_news: Callable[[Any], None] | None = None,
) -> AbstractContextManager[DaskFleet]:
    """Open the workers that the user asked for; see `open_fleet`.

    Args:
        model_mb: returns the model's main memory. gpus: returns the number of GPUs here for it.
    """
    return open_fleet(sharing, lambda: local_plan(sharing.workers, model_mb(), gpus()), folder, tell, on_news)


def gpus_for(sharing: Sharing, device: str) -> int:
    """Return how many GPUs of this computer the workers share."""
    return 0 if sharing.scheduler or sharing.slurm else gpu_count(device)


def sharing_of(namespace: argparse.Namespace) -> Sharing:
    """Return the choice in parsed arguments.

    Raises:
        InputError: `bad_arguments`, `bad_slurm`.
    """
    if namespace.scheduler is not None and (namespace.workers is not None or namespace.slurm is not None):
        raise bad_arguments(
            "--scheduler has workers of its own.", "Leave out --workers and --slurm, or --scheduler."
        )
    if namespace.scheduler is not None and not namespace.scheduler.strip():
        raise bad_arguments("--scheduler needs an address.", "Give one such as tls://host:8786.")
    if namespace.slurm is not None:
        slurm_options(namespace.slurm)
    return Sharing(namespace.workers, namespace.scheduler or "", namespace.slurm or "")


def given_sharing(namespace: argparse.Namespace) -> Sharing | None:
    """Return the choice in parsed arguments; None without one: this process computes.

    Raises:
        InputError: as `sharing_of`.
    """
    given = (namespace.workers, namespace.scheduler, namespace.slurm)
    return None if all(value is None for value in given) else sharing_of(namespace)
