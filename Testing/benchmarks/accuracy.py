"""Dice over labeled volumes, as a user with one box and a few corrections would get it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation.protocol import BAD, EvaluationOptions, Scores, evaluate
from SAM2PropagateLib.evaluation.targets import LoadedTarget, Target, find_targets, load_target
from SAM2PropagateLib.models.registry import DEFAULT_MODEL
from SAM2PropagateLib.run_options import RunOptions
from Testing.benchmarks.machine import ROOT, file_hash
from Testing.benchmarks.report import BenchmarkReport, figure, table
from Testing.benchmarks.statistics import mean

DATA = ROOT.parent / "shared" / "data"
_METHOD = """\
One {prompt} on the slice where the label is largest{edges}; the whole volume is the model's to fill.

- preview: Dice on that slice, from the prompt alone.
- volume: Dice of the whole label, nothing said of its ends. NSD: its surface Dice at {tolerance:g} mm.
- in range: Dice of the whole label when its first and last slice are given.
- +1, +2, ...: Dice of the whole label after so many corrections, nothing said of its ends. A correction is
  made on the slice with the most wrong pixels: {correction}; a slice without the structure is marked absent,
  which also ends the propagation there.
- copy: Dice of repeating the largest slice of the reference between its ends. neighbor: mean Dice of each
  slice of the reference with the next.
- slices/s: of the first run, the prompt's own preview included.
- doubt: of the propagated slices of the first run with a mask those that have a Dice below {bad:g}, and of
  those without one those on which the structure is.
"""
_DOUBT_HEAD = ["doubt", "masks", f"Dice below {BAD:g}", "share", "empty", "missed", "share"]
# As the worker opens a volume; None: whole slices.
_CROPS = {"auto": "auto", "whole": None}
_CORRECTIONS = {
    "mask": "it is painted as the reference has it and becomes a keyframe",
    "click": "it gets a click in the middle of its largest wrong part, on top of its present mask, or of the "
    "withheld one if the slice is empty and the click lies at it",
}


@dataclass(frozen=True)
class TargetResult:
    """What came out for one target with one model."""

    target: str
    is_scattered: bool
    slices: int
    scores: Scores
    baselines: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {**asdict(self), "slices_per_second": self.scores.slices_per_second}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=DATA, help="folder with manifest.json, or with cases")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME|PATH",
        help="may be given several times; default: the bundled one",
    )
    parser.add_argument("--config", help="the configuration of a model file that does not name its own")
    parser.add_argument("--input-size", type=int, help="side of the model's input in pixels")
    parser.add_argument("--precision", default="auto", help="auto, float32, bfloat16, float16 or int8")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    parser.add_argument("--memories", type=int, help="past slices remembered at once, the keyframe included")
    parser.add_argument(
        "--motion",
        nargs="+",
        default=["on"],
        choices=("on", "off"),
        help="carry masks along the image's motion as well; both: one after the other",
    )
    parser.add_argument(
        "--axes",
        nargs="+",
        default=["one"],
        choices=("one", "all"),
        help="carry masks along one axis, or along all three and fuse them; both: one after the other",
    )
    parser.add_argument(
        "--crop",
        "--view",
        default="auto",
        choices=("auto", "whole"),
        help="what the model sees: close, or whole slices",
    )
    parser.add_argument("--prompt", default="box", choices=("box", "click"), help="the first prompt")
    parser.add_argument(
        "--correction", default="mask", choices=("mask", "click"), help="what a correction is"
    )
    parser.add_argument("--corrections", type=int, default=3, help="how many")
    parser.add_argument("--tolerance", type=float, default=2.0, help="mm, of the surface Dice")
    parser.add_argument(
        "--cases", nargs="+", metavar="TEXT", help="only targets whose name contains one of these"
    )


def run(arguments: argparse.Namespace) -> BenchmarkReport | None:
    """Evaluate the models; None where there is nothing to evaluate on."""
    if not arguments.data.is_dir():
        print(
            f"accuracy: skipped, there is no folder '{arguments.data}' with labeled volumes (--data DIR).\n"
        )
        return None
    targets = _chosen(find_targets(arguments.data), arguments.cases)
    options = EvaluationOptions(
        arguments.prompt, arguments.correction, arguments.corrections, arguments.tolerance
    )
    names = (
        "input_size",
        "precision",
        "memories",
        "motion",
        "axes",
        "crop",
        "prompt",
        "correction",
        "corrections",
        "threads",
        "cases",
    )
    called = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    report = BenchmarkReport("accuracy", "Accuracy", called)
    report.say(
        _METHOD.format(
            bad=BAD,
            prompt=options.prompt,
            edges=" (the outer edges of the label's pixels)"
            if options.prompt == "box"
            else " (innermost point)",
            tolerance=options.tolerance,
            correction=_CORRECTIONS[options.correction],
        ).rstrip()
    )
    for model in arguments.model or [DEFAULT_MODEL]:
        for motion in arguments.motion:
            for axes in arguments.axes:
                chosen = replace(options, run=RunOptions(all_axes=axes == "all"))
                _run_model(model, motion == "on", targets, chosen, arguments, report)
    return report


def _chosen(targets: Sequence[Target], texts: Sequence[str] | None) -> list[Target]:
    if not texts:
        return list(targets)
    chosen = [target for target in targets if any(text in target.title for text in texts)]
    if not chosen:
        raise InputError(
            "no_cases",
            f"No target's name contains {' or '.join(texts)}.",
            f"There are: {'; '.join(target.title for target in targets)}.",
        )
    return chosen


def _run_model(
    model: str,
    motion: bool,
    targets: Sequence[Target],
    options: EvaluationOptions,
    arguments: argparse.Namespace,
    report: BenchmarkReport,
) -> None:
    engine, facts = open_engine(model, arguments, motion=motion)
    axes = "all" if options.run.all_axes else "one"
    results: list[TargetResult] = []
    missing: list[str] = []
    for number, target in enumerate(targets, 1):
        if not target.is_there:
            missing.append(target.title)
            print(f"[{number}/{len(targets)}] {target.title}: skipped, its files are not here", flush=True)
            continue
        loaded = load_target(target)
        # A new session each time: its encoded slices must not serve the next target's slices/s.
        scores = evaluate(loaded, engine.open_axes(loaded.frames, _CROPS[arguments.crop]), options)
        results.append(_result(loaded, scores))
        print(f"[{number}/{len(targets)}] {target.title}: {_short(scores)}", flush=True)
    print()
    counted = [result for result in results if not result.is_scattered]
    apart = [result for result in results if result.is_scattered]
    head = _head(options)
    rows = [_row(result) for result in counted]
    if counted:
        rows.append(_mean_row(counted))
    words = (
        f"SHA-256 {facts['sha256'][:12]}, {facts['device']}, {facts['dtype']}, {facts['input_size']} px, "
        f"{facts['memories']} memories, crop {arguments.crop}, "
        f"motion {'on' if motion else 'off'}, axes {axes}"
    )
    report.say(f"## {facts['name']}\n\n{words}.")
    if rows:
        report.say(table(head, rows))
        report.say(table(_DOUBT_HEAD, _doubt_rows(counted)))
    if apart:
        report.say("Apart, because one prompt cannot mean so many separate parts:")
        report.say(table(head, [_row(result) for result in apart]))
    if missing:
        report.say(f"Left out, because their files are not here: {'; '.join(missing)}.")
    report.figures.setdefault("models", []).append(
        {
            **facts,
            "axes": axes,
            "targets": [result.to_dict() for result in results],
            "mean": _means(counted) if counted else {},
            "missing": missing,
        }
    )


def open_engine(model: str, arguments: argparse.Namespace, *, motion: bool) -> tuple[Any, dict[str, Any]]:
    """Return a `PropagationEngine` of the model, and what it runs on.

    Raises:
        InputError: as `ModelStore.resolve` and `load_model`; `bad_memories`.
    """
    import torch

    from SAM2PropagateLib.engine.build import load_model
    from SAM2PropagateLib.engine.device import describe
    from SAM2PropagateLib.engine.engine import PropagationEngine
    from SAM2PropagateLib.models.store import ModelStore

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    path, entry = ModelStore().resolve(model)
    loaded = load_model(
        path,
        config=arguments.config or (None if entry is None else entry.config),
        device=arguments.device,
        input_size=arguments.input_size,
        precision=arguments.precision,
        name=None if entry is None else entry.name,
    )
    engine = PropagationEngine(loaded, motion=motion)
    if arguments.memories is not None:
        if not 1 <= arguments.memories <= engine.steps.slots:
            raise InputError(
                "bad_memories",
                f"The model cannot use {arguments.memories} memories.",
                f"Give 1 to {engine.steps.slots}.",
            )
        engine.steps.slots = arguments.memories
    return engine, {
        "name": loaded.name,
        "file": path.name,
        "sha256": file_hash(path),
        "device": describe(loaded.device),
        "dtype": loaded.precision,
        "input_size": loaded.input_size,
        "memories": engine.steps.slots,
        "motion": motion,
    }


def _result(loaded: LoadedTarget, scores: Scores) -> TargetResult:
    baselines = {**loaded.baselines, **loaded.target.baselines}
    return TargetResult(loaded.target.title, loaded.is_scattered, loaded.frames.count, scores, baselines)


def _short(scores: Scores) -> str:
    after = ", ".join(figure(value) for value in scores.after) or "none"
    return (
        f"preview {scores.preview:.3f}, volume {scores.volume:.3f}, in range {scores.volume_in_range:.3f}, "
        f"after corrections {after}; {scores.slices_per_second:.1f} slices/s"
    )


def _head(options: EvaluationOptions) -> list[str]:
    after = [f"+{number}" for number in range(1, options.corrections + 1)]
    return ["target", "preview", "volume", "NSD", "in range", *after, "copy", "neighbor", "slices/s"]


def _means(results: Sequence[TargetResult]) -> dict[str, Any]:
    scores = [result.scores for result in results]
    seconds = sum(one.seconds for one in scores)
    return {
        "targets": len(results),
        "preview": mean([one.preview for one in scores]),
        "volume": mean([one.volume for one in scores]),
        "surface": mean([one.surface for one in scores]),
        "volume_in_range": mean([one.volume_in_range for one in scores]),
        "after": [mean(list(values)) for values in zip(*(one.after for one in scores), strict=True)],
        "copy_max_slice_dice": mean([result.baselines["copy_max_slice_dice"] for result in results]),
        "adjacent_slice_dice": mean([result.baselines["adjacent_slice_dice"] for result in results]),
        # All slices over all seconds, not a mean of rates: a small volume counts little.
        "slices_per_second": sum(one.slices for one in scores) / seconds if seconds else float("nan"),
    }


def _mean_row(results: Sequence[TargetResult]) -> list[str]:
    means = _means(results)
    return [
        f"mean of {means['targets']}",
        *(figure(means[name]) for name in ("preview", "volume", "surface", "volume_in_range")),
        *(figure(value) for value in means["after"]),
        figure(means["copy_max_slice_dice"]),
        figure(means["adjacent_slice_dice"]),
        figure(means["slices_per_second"], 1),
    ]


def _doubt_rows(results: Sequence[TargetResult]) -> list[list[str]]:
    rows = []
    for tenth, counts in enumerate(zip(*(result.scores.doubts for result in results), strict=True)):
        masks, bad, empty, missed = np.sum([astuple(count) for count in counts], axis=0)
        shares = [
            figure(part / whole) if whole else "none" for part, whole in ((bad, masks), (missed, empty))
        ]
        name = f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}"
        rows.append([name, str(masks), str(bad), shares[0], str(empty), str(missed), shares[1]])
    return rows


def _row(result: TargetResult) -> list[str]:
    scores = result.scores
    return [
        result.target,
        *(figure(one) for one in (scores.preview, scores.volume, scores.surface, scores.volume_in_range)),
        *(figure(value) for value in scores.after),
        figure(result.baselines["copy_max_slice_dice"]),
        figure(result.baselines["adjacent_slice_dice"]),
        figure(scores.slices_per_second, 1),
    ]
