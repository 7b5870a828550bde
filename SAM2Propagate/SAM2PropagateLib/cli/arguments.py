"""Parses the command line; it reads no files and starts nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SAM2PropagateLib import __version__
from SAM2PropagateLib.cli.cohort import CohortCommand, add_cohort, cohort_command
from SAM2PropagateLib.cli.evaluate import EvaluateCommand, add_evaluate, evaluate_command
from SAM2PropagateLib.cli.experiment import ExperimentCommand
from SAM2PropagateLib.cli.finetune import FinetuneCommand, add_finetune, finetune_command
from SAM2PropagateLib.cli.how import HowToSegment, add_how, check_device, how_of
from SAM2PropagateLib.cli.said import (
    Parser,
    SegmentArguments,
    add_what,
    bad_arguments,
    prepared,
    program_name,
    segments_of,
)
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.worker.remote import Remote

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
class SegmentCommand(HowToSegment):
    """The options of `segment`. Exactly one of `segments` and `prompts_file` is given."""

    volume: Path
    out: Path
    segments: tuple[SegmentArguments, ...]
    prompts_file: Path | None
    series: str | None
    part: str | None
    report: Path | None
    overwrite: bool
    keep_partial: bool
    debug: bool
    remote: Remote | None = None


@dataclass(frozen=True)
class ModelsCommand:
    """The options of `models`: list them, or download or remove one."""

    download: str | None
    remove: str | None
    yes: bool
    debug: bool


Command = (
    SegmentCommand | ModelsCommand | CohortCommand | FinetuneCommand | EvaluateCommand | ExperimentCommand
)


def parse_arguments(arguments: Sequence[str]) -> Command:
    """Return the command of a command line.

    Raises:
        InputError: `bad_arguments`, `unknown_device`, `bad_window`: one sentence each.
        SystemExit: after --help or --version, with 0.
    """
    parser, commands = _parser()
    namespace = parser.parse_args(prepared(arguments))
    if namespace.command is None:
        *others, last = commands
        raise bad_arguments("No command is given.", f"Use {', '.join(others)} or {last}; --help tells more.")
    if namespace.command == "models":
        return ModelsCommand(namespace.download, namespace.remove, namespace.yes, namespace.debug)
    if namespace.command == "segment":
        return _segment_command(namespace)
    check_device(namespace.device)
    if namespace.command == "cohort":
        return cohort_command(namespace)
    return finetune_command(namespace) if namespace.command == "finetune" else evaluate_command(namespace)


def _parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """Return the parser and the names of its commands."""
    shape: dict[str, Any] = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = Parser(
        prog=program_name(),
        description="Segment a CT or MR volume with SAM 2, without a screen.",
        **shape,
    )
    parser.add_argument("--version", action="version", version=f"SAM2Propagate {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    _add_segment(
        commands.add_parser("segment", help="segment structures in a volume", epilog=_SEGMENT_EPILOG, **shape)
    )
    add_cohort(commands, **shape)
    _add_models(commands.add_parser("models", help="list, download or remove models", **shape))
    add_finetune(commands, **shape)
    add_evaluate(commands, **shape)
    return parser, list(commands.choices)


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
    what = add_what(parser)
    what.add_argument(
        "--prompts", type=Path, metavar="FILE", help="prompts from a JSON file or a scene (.mrb) instead"
    )
    add_how(parser)
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
        raise bad_arguments("--remote-python and --remote-folder are about a server.", "Name it with --host.")
    return None


def _segment_command(namespace: argparse.Namespace) -> SegmentCommand:
    said = getattr(namespace, "said", None) or []
    if namespace.prompts is not None and said:
        raise bad_arguments(
            "Prompts are given both in a file and one by one.",
            "Give either --prompts or --segment, --point-ras and so on.",
        )
    segments = segments_of(said)
    if namespace.prompts is None and not segments:
        raise InputError(
            "no_prompts",
            "There are no prompts.",
            "Give at least one --point-ras, --scribble-ras, --box-ras or --lasso-ras, or --prompts.",
        )
    check_device(namespace.device)
    return SegmentCommand(
        volume=namespace.volume,
        out=namespace.out,
        segments=segments,
        prompts_file=namespace.prompts,
        series=namespace.series,
        part=namespace.part,
        **how_of(namespace),
        report=namespace.report,
        overwrite=namespace.overwrite,
        keep_partial=namespace.keep_partial,
        debug=namespace.debug,
        remote=_remote(namespace),
    )


def _part(text: str) -> str:
    if text != "all" and not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"“{text}” is neither a number from 1 nor all")
    return text
