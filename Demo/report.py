"""What the demonstration measured: for `report.json`, for the sheet, and for the terminal."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from Demo import case
from Demo.canvas import rgb
from Demo.desk import DemoDesk
from Demo.measure import TIP, doubtful_slices, rate
from Demo.montage import Sheet, Strip, Table, Tile
from Demo.story import AppliedRun, CorrectedSlice, Story, slice_agreement
from SAM2PropagateLib import __version__
from SAM2PropagateLib.prompts.document import to_document

FORMAT, VERSION = "sam2propagate-demo-report", 1
_NOTES = (
    "Dice is measured against the reference labels that come with the CT; they are themselves the output of "
    "another program, not of a human reader.",
    "The first prompts are a careful user's: the click in the middle of its structure, the box and the ends "
    "within a voxel or so (3 mm) of the reference labels.",
    "A structure's seconds run from the start of the run to its last slice; both structures are computed in "
    "the same run.",
    "The slice to correct is the first in the list of doubtful slices on which there is something to "
    "correct (Dice under 0.8); the outer tenth of each structure is left out.",
    "It is corrected by the reference label in the stead of the user's eyes: with up to three clicks, taken "
    "back where the slice is no better with them; if it is not good then (Dice under 0.85), all clicks are "
    "taken back and the slice is painted in the Segment Editor.",
)
_MOST_DOUBTFUL = 10


def report(story: Story, desk: DemoDesk, seconds: float, files: Mapping[str, Path]) -> dict[str, Any]:
    """Everything as JSON-able values.

    Args:
        seconds: of the whole demonstration so far.
        files: what was written.
    """
    geometry, window = desk.volume.geometry, desk.volume.window
    return {
        "format": FORMAT,
        "version": VERSION,
        "program": {"name": "SAM2Propagate", "version": __version__},
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "python": platform.python_version(),
        },
        "volume": {
            "file": case.CT_FILE.name,
            "shape_ijk": list(geometry.shape_ijk),
            "spacing_mm": [round(edge, 4) for edge in geometry.spacing],
            "window": {"width": window.width, "level": window.level},
        },
        "model": dict(story.model),
        "structures": [_structure(story, one) for one in case.STRUCTURES],
        "first_run": _run(story.first),
        "correction": _correction(story),
        "second_run": {**_run(story.second), "slices_not_computed_again": story.not_computed_again()},
        "doubt": _doubt(story),
        "prompts": to_document(desk.prompts),
        "seconds": round(seconds, 1),
        "files": {what: path.name for what, path in files.items()},
        "notes": list(_NOTES),
    }


def _structure(story: Story, structure: case.Structure) -> dict[str, Any]:
    name = structure.name
    prompted, run = story.prompted[name], story.first.propagation
    slices, seconds = run.slices(name), run.seconds[name]
    return {
        "name": name,
        "reference_label": structure.label,
        "prompt": structure.prompt_kind,
        "prompt_slice": prompted.preview.frame + 1,
        "range_slices": [frame + 1 for frame in prompted.frames],
        "preview": {"dice": _round(prompted.dice), "seconds": _round(prompted.preview.seconds)},
        "dice": _round(story.second.dice[name]),
        "dice_before_correction": _round(story.first.dice[name]),
        "slices": slices,
        "seconds": _round(seconds),
        "slices_per_second": _round(rate(slices, seconds)),
        "device": story.model["device"],
        "model": story.model["model"],
    }


def _run(outcome: AppliedRun) -> dict[str, Any]:
    run = outcome.propagation
    written, seconds = run.count("frames_written"), run.whole_seconds
    stretches = [
        {"structure": name, "first_slice": first + 1, "last_slice": last + 1}
        for name, first, last in run.run.result["stretches"]
    ]
    return {
        "slices_written": written,
        "slices_computed": run.count("frames_computed"),
        "slices_encoded": run.count("frames_encoded"),
        "seconds": _round(seconds),
        "slices_per_second": _round(rate(written, seconds)),
        "stretches": stretches,
    }


def _correction(story: Story) -> dict[str, Any]:
    one = story.correction
    before, after = story.neighbors()
    return {
        "structure": one.target.segment,
        "slice": one.target.frame + 1,
        "doubt": _round(one.target.doubt),
        "place_in_list_of_doubtful_slices": one.target.rank,
        "kept_the_mask_that_was_there": one.kept_mask,
        "clicks": [{"x": aim.x, "y": aim.y, "positive": aim.positive} for aim in one.clicks],
        "clicks_taken_back": one.taken_back,
        "painted": one.painted,
        "slice_dice_before": _round(one.dice_before),
        "slice_dice_after": _round(one.dice_after),
        "dice_of_other_slices_computed_again_before": _round(before),
        "dice_of_other_slices_computed_again_after": _round(after),
    }


def _doubt(story: Story) -> dict[str, Any]:
    doubts = story.first.propagation.doubts()
    agreement = slice_agreement(story.first, story.reference)
    pairs = [(doubt, agreement[name, frame]) for name in doubts for frame, doubt in doubts[name].items()]
    listed = doubtful_slices(doubts)[:_MOST_DOUBTFUL]
    return {
        "left_out_at_each_end": TIP,
        "rank_correlation_with_dice": _round(rank_correlation(*zip(*pairs, strict=True))),
        "most_doubtful": [
            {
                "structure": one.segment,
                "slice": one.frame + 1,
                "doubt": _round(one.doubt),
                "dice": _round(agreement[one.segment, one.frame]),
            }
            for one in listed
        ],
    }


def rank_correlation(one: Any, other: Any) -> float:
    """Spearman's rank correlation, -1 to 1, of two series of the same length; 0 where one is constant."""
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (one, other)]
    if min(np.ptp(ranks[0]), np.ptp(ranks[1])) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse], dtype=np.float64)


def _round(value: float) -> float:
    return round(float(value), 3)


# The sheet


def sheet(story: Story, desk: DemoDesk, strips: list[Strip], surface: Any) -> Sheet:
    """Return the words, pictures and figures of `demo.png`.

    Args:
        strips: of `pictures.strips`.
        surface: (height, width, 3) RGB of the 3D picture.
    """
    geometry = desk.volume.geometry
    model = story.model
    spacing = " × ".join(f"{edge:g}" for edge in geometry.spacing)
    return Sheet(
        title="From a click and a box to two segments, and one slice put right",
        subtitle=(
            f"SAM2Propagate on a CT of abdomen and pelvis without contrast agent, {geometry.shape_ijk[2]} "
            f"slices, voxels of {spacing} mm; model {model['model']} on {_device_words(model['device'])}"
        ),
        steps=_steps(story),
        strips=strips,
        surface=Tile(surface, "The result in 3D, bones from the CT", letters="RLSI"),
        table=_table(story),
        notes=_sheet_notes(story),
    )


def _steps(story: Story) -> list[Tile]:
    tiles = []
    for one in case.STRUCTURES:
        prompted = story.prompted[one.name]
        how = "Click" if one.prompt_kind == "click" else "Drag a box"
        tiles.append(
            Tile(
                prompted.picture,
                f"{how}: {one.name}",
                f"Preview of slice {prompted.preview.frame + 1} after {prompted.preview.seconds:.1f} s, "
                f"Dice {prompted.dice:.2f}",
            )
        )
    correction = story.correction
    place = f"slice {correction.target.frame + 1}"
    highest = "highest doubt" if correction.target.rank == 1 else "doubt"
    tiles.append(
        Tile(
            correction.picture,
            "Where the doubt is high",
            f"{correction.target.segment}, {place}: {highest} {correction.target.doubt:.2f}, "
            f"Dice\u00a0{correction.dice_before:.2f}",
        )
    )
    second = story.second.propagation
    tiles.append(
        Tile(
            story.corrected,
            f"Corrected with {_hand(correction)}",
            f"Dice {correction.dice_after:.2f} on {place}; {second.count('frames_computed')} slices "
            f"computed again, {second.count('frames_encoded')} encoded again",
        )
    )
    return tiles


def _hand(correction: CorrectedSlice) -> str:
    count = len(correction.clicks)
    return "the brush" if correction.painted else f"{count} click{'' if count == 1 else 's'}"


def _table(story: Story) -> Table:
    run = story.first.propagation
    rows: list[list[str]] = [
        ["", "prompt", "slices", "speed, first run", "Dice, first run", "Dice, corrected"]
    ]
    for one in case.STRUCTURES:
        slices, seconds = run.slices(one.name), run.seconds[one.name]
        first, last = story.prompted[one.name].frames
        is_corrected = story.correction.target.segment == one.name
        also = f" + {_hand(story.correction)}" if is_corrected else ""
        rows.append(
            [
                one.name,
                f"1 {one.prompt_kind}{also}",
                f"{slices} ({first + 1} to {last + 1})",
                f"{seconds:.1f} s, {rate(slices, seconds):.1f} slices/s",
                f"{story.first.dice[one.name]:.3f}",
                f"{story.second.dice[one.name]:.3f}",
            ]
        )
    return Table(rows, [rgb(one.color) for one in case.STRUCTURES])


def _sheet_notes(story: Story) -> list[str]:
    first, second = story.first.propagation, story.second.propagation
    before, after = story.neighbors()
    return [
        f"First run: {first.count('frames_written')} slices of both structures in "
        f"{first.whole_seconds:.1f} s. Second run: {second.count('frames_written')} slices in "
        f"{second.whole_seconds:.1f} s, {story.not_computed_again()} left as they were; on those written "
        f"again, without the corrected one, the Dice went from {before:.2f} to {after:.2f}.",
        "Dice against the reference labels that come with the CT, which another program made. "
        "Slices are shown as Slicer shows them: the patient's right (R) on the left. Not for diagnosis.",
    ]


def _device_words(device: str) -> str:
    return "the CPU" if device.startswith("cpu") else device


# The end


def closing_lines(story: Story, files: Mapping[str, Path], seconds: float) -> list[str]:
    """Return what was measured and what was written, for the terminal."""
    run = story.first.propagation
    lines = ["", "Measured (Dice against the reference labels that come with the CT):"]
    width = max(len(one.name) for one in case.STRUCTURES)
    for one in case.STRUCTURES:
        slices, took = run.slices(one.name), run.seconds[one.name]
        lines.append(
            f"  {one.name:<{width}}  Dice {story.first.dice[one.name]:.3f} after the first run, "
            f"{story.second.dice[one.name]:.3f} after the correction; "
            f"{slices} slices in {took:.1f} s, {rate(slices, took):.1f}/s"
        )
    second = story.second.propagation
    lines.append(
        f"  second run  {second.count('frames_computed')} slices computed again, "
        f"{second.count('frames_encoded')} encoded again, {second.whole_seconds:.1f} s"
    )
    lines.append(f"Wrote, in {seconds:.0f} s altogether:")
    lines += [f"  {path}" for path in files.values()]
    return lines
