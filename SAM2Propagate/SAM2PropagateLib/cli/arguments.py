"""The command line's words and their meaning; nothing is read or started here."""

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

from SAM2PropagateLib import __version__
from SAM2PropagateLib.cli.evaluate import (
    PRECISIONS,
    EvaluateCommand,
    add_evaluate,
    add_motion,
    evaluate_command,
)
from SAM2PropagateLib.cli.finetune import FinetuneCommand, add_finetune, finetune_command
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.window import PRESETS
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.run_options import BOTH, DIRECTIONS, RunOptions
from SAM2PropagateLib.worker.remote import Remote

DEFAULT_SEGMENT = "Segment_1"
Point = tuple[float, float, float]

_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
# The options that take a stroke, and of how many points it must be.
_STROKES = {
    "scribble_ras": ("--scribble-ras", 1),
    "negative_scribble_ras": ("--negative-scribble-ras", 1),
    "lasso_ras": ("--lasso-ras", 3),
    "exact_lasso_ras": ("--exact-lasso-ras", 3),
}
_AXES = {"i": 0, "j": 1, "k": 2, "auto": None}

_SEGMENT_EPILOG = """\
Points are world coordinates in millimeters, RAS, as 3D Slicer shows them. --segment starts a segment; the
prompts after it belong to it. Prompts before the first --segment belong to "Segment_1". All prompts can be
given several times.

examples:
  segment ct.nii.gz --segment liver --point-ras -80 10 45 --out liver.seg.nrrd
  segment ct.nii.gz --segment liver --box-ras -140 -40 45 20 90 45 --absent-ras 0 0 160 \\
                    --segment spleen --point-ras 95 -20 60 --out organs.seg.nrrd --report organs.json
  segment ct.nii.gz --segment aorta --scribble-ras 3 20 45 8 14 45 11 5 45 --out aorta.seg.nrrd
  segment ct.nii.gz --segment liver --point-ras -80 10 45 --out liver.seg.nrrd --host me@gpu1
  segment DICOM_FOLDER --prompts prompts.json --out tumor.seg.nrrd --window 350 40

exit status: 0 the file is written; 1 failure; 2 bad input; 130 interrupted.
"""


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


@dataclass(frozen=True)
class SegmentCommand:
    """`segment`: everything it was given. Exactly one of `segments` and `prompts_file` is there."""

    volume: Path
    out: Path
    segments: tuple[SegmentArguments, ...]
    prompts_file: Path | None
    series: str | None
    part: str | None
    axis: int | None
    model: str
    config: str | None
    device: str
    input_size: int | None
    motion: bool
    precision: str
    window: str | tuple[float, float] | None
    crop: str | None
    run: RunOptions
    report: Path | None
    overwrite: bool
    keep_partial: bool
    debug: bool
    remote: Remote | None = None


@dataclass(frozen=True)
class ModelsCommand:
    """`models`: list them, or download or remove one."""

    download: str | None
    remove: str | None
    yes: bool
    debug: bool


Command = SegmentCommand | ModelsCommand | FinetuneCommand | EvaluateCommand


def parse_arguments(arguments: Sequence[str]) -> Command:
    """What the command line asks for.

    Raises:
        InputError: `bad_arguments`, `unknown_device`, `bad_window`: one sentence each.
        SystemExit: after --help or --version, with 0.
    """
    parser = _parser()
    namespace = parser.parse_args(_prepared(arguments))
    if namespace.command is None:
        raise _bad("No command is given.", "Use segment, models, finetune or evaluate; --help tells more.")
    if namespace.command == "models":
        return ModelsCommand(namespace.download, namespace.remove, namespace.yes, namespace.debug)
    if namespace.command == "segment":
        return _segment_command(namespace)
    _check_device(namespace.device)
    return finetune_command(namespace) if namespace.command == "finetune" else evaluate_command(namespace)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence instead of printing its usage and ending the program."""

    def error(self, message: str) -> NoReturn:
        sentence = message[:1].upper() + message[1:]
        raise _bad(sentence if sentence.endswith(".") else sentence + ".", f"See {self.prog} --help.")


class _Said(argparse.Action):
    """Keeps the prompts in the order in which they were given, each with its kind."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        said = getattr(namespace, "said", None) or []
        # A new list: argparse hands the same default to every parser.
        namespace.said = [*said, (self.dest, values)]


def program_name() -> str:
    """How the user started the command line, for help and hints: the installed script or run.py."""
    script = "sam2propagate"
    return script if Path(sys.argv[0]).stem.startswith(script) else "python3 run.py cli"


def _parser() -> argparse.ArgumentParser:
    shape: dict[str, Any] = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = _Parser(
        prog=program_name(),
        description="Segment a CT or MR volume with SAM 2, without a screen.",
        **shape,
    )
    parser.add_argument("--version", action="version", version=f"SAM2Propagate {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    _add_segment(
        commands.add_parser("segment", help="segment structures in a volume", epilog=_SEGMENT_EPILOG, **shape)
    )
    _add_models(commands.add_parser("models", help="list, download or remove models", **shape))
    add_finetune(commands, **shape)
    add_evaluate(commands, **shape)
    return parser


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "volume", type=Path, metavar="VOLUME", help="NRRD, NIfTI, MHA or the folder of a DICOM series"
    )
    parser.add_argument(
        "--series",
        metavar="UID|all",
        help="the series to read from a folder that holds several; all reads them as one",
    )
    parser.add_argument(
        "--part",
        type=_part,
        metavar="N|all",
        help="which acquisition, time point or echo of a DICOM series that holds several, by the number in "
        "the error message; all reads them together",
    )
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
    what.add_argument("--prompts", type=Path, metavar="FILE", help="prompts from a JSON file instead")
    how = parser.add_argument_group("how")
    how.add_argument("--axis", choices=tuple(_AXES), default="auto", help="propagation axis (default: auto)")
    how.add_argument(
        "--direction",
        choices=DIRECTIONS,
        default=BOTH,
        help=f"forward is to higher slice indices (default: {BOTH})",
    )
    how.add_argument("--reach", type=_count, metavar="N", help="at most N slices away from the prompts")
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
    how.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help=f"default: {DEFAULT_MODEL}")
    how.add_argument(
        "--config", metavar="NAME|FILE", help="the model's configuration, for a file of your own"
    )
    how.add_argument("--input-size", type=_count, metavar="N", help="side of the model's input in pixels")
    how.add_argument("--device", default="auto", help="auto, cuda, cuda:N, mps or cpu (default: auto)")
    how.add_argument("--precision", choices=PRECISIONS, default="auto", help="to compute in (default: auto)")
    add_motion(how)
    where = parser.add_argument_group("where the model runs (docs/server.md)")
    where.add_argument("--host", metavar="HOST", help="on a server, as ssh takes it: gpu1, me@gpu1")
    where.add_argument(
        "--remote-python",
        metavar="PYTHON",
        help="the Python there (default: ~/.sam2propagate/env/bin/python if it is there, else python3)",
    )
    where.add_argument(
        "--remote-folder",
        metavar="FOLDER",
        help="the folder there that holds SAM2PropagateLib (default: it is installed in that Python)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, required=True, metavar="FILE.seg.nrrd", help="the segmentation")
    output.add_argument("--report", type=Path, metavar="FILE.json", help="what was done and measured")
    output.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    output.add_argument(
        "--keep-partial",
        action="store_true",
        help="also write what was finished when the run is interrupted or fails (the exit status tells)",
    )
    _add_debug(output)


def _add_models(parser: argparse.ArgumentParser) -> None:
    only_one = parser.add_mutually_exclusive_group()
    only_one.add_argument("--download", metavar="NAME", help="get a model into your cache folder")
    only_one.add_argument("--remove", metavar="NAME", help="delete a downloaded model")
    parser.add_argument("--yes", action="store_true", help="agree to the download or removal")
    _add_debug(parser)


def _add_debug(parser: Any) -> None:
    parser.add_argument("--debug", action="store_true", help="on failure, also print the details")


def _remote(namespace: argparse.Namespace) -> Remote | None:
    if namespace.host is not None:
        return Remote(namespace.host, namespace.remote_python, namespace.remote_folder)
    if namespace.remote_python is not None or namespace.remote_folder is not None:
        raise _bad("--remote-python and --remote-folder are about a server.", "Name it with --host.")
    return None


def _segment_command(namespace: argparse.Namespace) -> SegmentCommand:
    said = getattr(namespace, "said", None) or []
    if namespace.prompts is not None and said:
        raise _bad(
            "Prompts are given both in a file and one by one.",
            "Give either --prompts or --segment, --point-ras and so on.",
        )
    segments = _segments(said)
    if namespace.prompts is None and not segments:
        raise InputError(
            "no_prompts",
            "There are no prompts.",
            "Give at least one --point-ras, --scribble-ras, --box-ras or --lasso-ras, or --prompts.",
        )
    _check_device(namespace.device)
    return SegmentCommand(
        volume=namespace.volume,
        out=namespace.out,
        segments=segments,
        prompts_file=namespace.prompts,
        series=namespace.series,
        part=namespace.part,
        axis=_AXES[namespace.axis],
        model=namespace.model,
        config=namespace.config,
        device=namespace.device,
        input_size=namespace.input_size,
        motion=namespace.motion == "on",
        precision=namespace.precision,
        window=_window(namespace.window),
        crop=None if namespace.crop == "none" else "auto",
        run=RunOptions(direction=namespace.direction, reach=namespace.reach),
        report=namespace.report,
        overwrite=namespace.overwrite,
        keep_partial=namespace.keep_partial,
        debug=namespace.debug,
        remote=_remote(namespace),
    )


def _check_device(name: str) -> None:
    if not _DEVICE.fullmatch(name):
        raise InputError(
            "unknown_device", f"There is no device '{name}'.", "Use auto, cuda, cuda:N, mps or cpu."
        )


def _segments(said: Sequence[tuple[str, Any]]) -> tuple[SegmentArguments, ...]:
    """The prompts by segment, in the order in which the segments first appear."""
    found: dict[str, SegmentArguments] = {}
    for_all: tuple[int, int] | None = None
    current: str | None = None
    for kind, values in said:
        if kind == "segment":
            current = str(values).strip()
            if not current:
                raise _bad("A segment needs a name.", "Give one after --segment.")
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
        return replace(segment, lassos=(*segment.lassos, (points, kind == "exact_lasso_ras")))
    point: Point = (values[0], values[1], values[2])
    if kind == "box_ras":
        return replace(segment, boxes=(*segment.boxes, (point, (values[3], values[4], values[5]))))
    if kind == "absent_ras":
        return replace(segment, absent=(*segment.absent, point))
    return replace(segment, points=(*segment.points, (point, kind == "point_ras")))


def _stroke(kind: str, values: Sequence[float]) -> tuple[Point, ...]:
    """The points that the numbers after an option make."""
    option, least = _STROKES[kind]
    if len(values) % 3:
        raise _bad(
            f"{option} has {len(values)} numbers, which do not make whole points.",
            "Give three numbers for each point: R, A and S in mm.",
        )
    points = [(values[n], values[n + 1], values[n + 2]) for n in range(0, len(values), 3)]
    if len(points) < least:
        raise _bad(f"{option} has fewer than {least} points.", "Give points all around the structure.")
    return tuple(points)


def _prepared(arguments: Sequence[str]) -> list[str]:
    """The arguments in a form that argparse understands.

    Negative numbers such as -1e-3 become plain ones, which it does not take for options; the one or two
    values of --window become one, so that a preset does not swallow what follows it.
    """
    prepared: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*prepared, word, *rest]
        if word == "--window" and rest:
            values = [rest.pop(0)]
            if _NUMBER.fullmatch(values[0]) and rest and not rest[0].startswith("--"):
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


def _coordinate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of millimeters")
    return value


def _index(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a slice index (0 or more)")
    return int(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _part(text: str) -> str:
    if text != "all" and not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number from 1 nor all")
    return text


def _window(text: str | None) -> str | tuple[float, float] | None:
    """A preset's name, or (width, level)."""
    if text is None:
        return None
    words = text.replace(",", " ").split()
    if len(words) == 2 and all(_NUMBER.fullmatch(word) for word in words):
        return float(words[0]), float(words[1])
    if len(words) == 1 and words[0] and not _NUMBER.fullmatch(words[0]):
        return words[0]
    raise InputError(
        "bad_window",
        f"'{text}' is not a window.",
        f"Give a width and a level, such as 400 40, or one of {', '.join(PRESETS)}.",
    )


def _bad(sentence: str, hint: str = "") -> InputError:
    return InputError("bad_arguments", sentence, hint)
