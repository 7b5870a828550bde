"""Parses the options on what to segment: prompts as words of the command line."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn

from SAM2PropagateLib.errors import InputError

DEFAULT_SEGMENT = "Segment_1"
Point = tuple[float, float, float]

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# The options with a stroke, and its least number of points.
_STROKES = {
    "scribble_ras": ("--scribble-ras", 1),
    "negative_scribble_ras": ("--negative-scribble-ras", 1),
    "lasso_ras": ("--lasso-ras", 3),
    "exact_lasso_ras": ("--exact-lasso-ras", 3),
    "curve_ras": ("--curve-ras", 2),
}


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
        help="any point of a slice on which the structure no longer is",
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


def prepared(arguments: Sequence[str]) -> list[str]:
    """Return the arguments in a form that argparse understands.

    Negative numbers such as -1e-3 become plain ones, as it would take them for options. The one or two values
    of --window become one, as otherwise a preset would take the next word, too.
    """
    prepared: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*prepared, word, *rest]
        if word == "--window" and rest:
            values = [rest.pop(0)]
            if NUMBER.fullmatch(values[0]) and rest and not rest[0].startswith("--"):
                values.append(rest.pop(0))
            prepared.append("--window=" + " ".join(values))
        elif _NEGATIVE.fullmatch(word):
            prepared.append(_plain_number(word))
        else:
            prepared.append(word)
    return prepared


def _plain_number(word: str) -> str:
    try:
        return format(Decimal(word), "f") if abs(Decimal(word).adjusted()) < 100 else word
    except InvalidOperation:
        return word


class Parser(argparse.ArgumentParser):
    """Raises an error with one sentence instead of printing its usage and ending the program."""

    def error(self, message: str) -> NoReturn:
        sentence = message[:1].upper() + message[1:]
        raise bad_arguments(
            sentence if sentence.endswith(".") else sentence + ".", f"See {self.prog} --help."
        )


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
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"“{text}” is not a number of millimeters")
    return value


def _index(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"“{text}” is not a slice index (0 or more)")
    return int(text)


def program_name() -> str:
    """Return the words that start the command line, for help and hints: the installed script or run.py."""
    script = "sam2propagate"
    return script if Path(sys.argv[0]).stem.startswith(script) else "python3 run.py cli"


def bad_arguments(sentence: str, hint: str = "") -> InputError:
    """Return the error for arguments that are wrong or do not fit together."""
    return InputError("bad_arguments", sentence, hint)
