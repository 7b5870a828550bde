"""The tables of an experiment: a line for each structure and kind of prompt, with means; and every figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.evaluation.one_slice import TITLES
from SAM2PropagateLib.experiment.plan import ExperimentOptions
from SAM2PropagateLib.experiment.record import CaseRecord, PromptRow
from SAM2PropagateLib.files.atomic import atomic_output
from SAM2PropagateLib.training.case import Case

DONE, FAILED, ABSENT, WAITING = "done", "failed", "not in this case", "not done yet"
LINES_START = "\ufeffmodel,dataset,case,"
_WIDTHS_MM = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_MOST_BINS = 20


@dataclass(frozen=True)
class CaseLine:
    """A case with a model.

    Attributes:
        model: its title. dataset: "" where there is one. name: of the case.
        case: None where it could not be used. record: what is finished. error: why not all is.
    """

    model: str
    dataset: str
    name: str
    case: Case | None = None
    record: CaseRecord | None = None
    error: SAM2PropagateError | None = None


# --- the terminal


def terminal_table(lines: Sequence[CaseLine], options: ExperimentOptions) -> list[str]:
    """Return the table of each model: a row for each structure and kind of prompt, then the means of those
    that count."""
    told: list[str] = []
    for model in dict.fromkeys(line.model for line in lines):
        rows = [
            (f"{line.dataset}: {row.structure}" if line.dataset else row.structure, row)
            for line in lines
            if line.model == model and line.record is not None
            for row in line.record.rows
            if row.kind in options.kinds
        ]
        told += [*([""] if told else []), model]
        if not rows:
            told.append("Nothing is finished.")
            continue
        cells = [_headings(options)]
        groups = dict.fromkeys((not row.counts, structure) for structure, row in rows)
        for is_apart, structure in sorted(groups, key=lambda group: group[0]):
            title = f"{structure} (apart)" if is_apart else structure
            chosen = [row for name, row in rows if (not row.counts, name) == (is_apart, structure)]
            cells += _of_kinds(title, chosen, options)
        counted = [row for _, row in rows if row.counts]
        if len([group for group in groups if not group[0]]) > 1:
            cells += _of_kinds("MEAN", counted, options)
        told += _aligned(cells)
    return told


def _headings(options: ExperimentOptions) -> tuple[str, ...]:
    nsd = f"NSD {options.tolerance:g} MM"
    return (
        *("STRUCTURE", "PROMPT", "RUNS", "DICE", "IN ENDS", nsd, "NSD 1 VOXEL"),
        *("ON SLICE", "TOO MUCH", "GOES ON", "FADES"),
    )


def _of_kinds(title: str, rows: Sequence[PromptRow], options: ExperimentOptions) -> list[tuple[str, ...]]:
    found = []
    for kind in options.kinds:
        chosen = [row for row in rows if row.kind == kind]
        if chosen:
            scores = [row.scores for row in chosen]
            figures = np.mean(
                [(s.dice, s.dice_within, s.surface, s.surface_voxel, s.failures.on_slice) for s in scores],
                axis=0,
            )
            failed = [s.failures for s in scores]
            counts = (
                _share(one.is_too_much for one in failed),
                _share(one.goes_on for one in failed),
                _share(one.fades for one in failed),
            )
            found.append(
                (title, TITLES[kind], str(len(chosen)), *(f"{figure:.3f}" for figure in figures), *counts)
            )
    return found


def _share(judged: Iterable[bool | None]) -> str:
    """Return "1/3": how many of those that can be judged."""
    known = [one for one in judged if one is not None]
    return f"{sum(known)}/{len(known)}" if known else "-"


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


# --- every figure

_COLUMNS = (
    *(
        "model",
        "dataset",
        "case",
        "structure",
        "state",
        "counts",
        "prompt",
        "slice_rule",
        "slice",
        "first_slice",
    ),
    *("last_slice", "clicks", "dice", "dice_in_ends", "nsd", "nsd_tolerance_mm", "nsd_1_voxel", "on_slice"),
    *("excess", "too_much", "slices_beyond", "mm_beyond", "goes_on", "held", "fades", "slices", "seconds"),
    *(
        "image",
        "channel",
        "sequence",
        "label",
        "window",
        "device",
        "dtype",
        "input_size",
        "motion",
        "message",
    ),
)


def write_lines(path: Path, lines: Sequence[CaseLine], options: ExperimentOptions) -> None:
    """Write every figure as CSV, whole or not at all; in UTF-8 with the mark by which Excel knows it. Slices
    count from 0.

    Raises:
        InputError, SAM2PropagateError: as `atomic_output`.
    """
    rows = [cells for line in lines for cells in _cells(line, options)]
    _write_csv(path, _COLUMNS, [[cells.get(column, "") for column in _COLUMNS] for cells in rows])


def _cells(line: CaseLine, options: ExperimentOptions) -> list[dict[str, object]]:
    case, record = line.case, line.record
    shared: dict[str, object] = {"model": line.model, "dataset": line.dataset, "case": line.name}
    if case is not None:
        shared |= {"image": case.image, "label": case.label, "sequence": case.sequence}
        shared["channel"] = "" if case.channel is None else case.channel
    if record is not None:
        shared |= {"window": record.window, "message": " ".join(record.notes), **(record.about or {})}
        shared["model"] = line.model
    found = [
        {**shared, **_of_row(row, options)}
        for row in (record.rows if record is not None else ())
        if row.kind in options.kinds
    ]
    for name in record.absent if record is not None else ():
        message = f"The label has no voxel of “{name}”."
        found.append({**shared, "structure": name, "state": ABSENT, "message": message})
    if line.error is not None:
        found.append({**shared, "state": FAILED, "message": str(line.error)})
    elif record is None:
        found.append({**shared, "state": WAITING})
    return found


def _of_row(row: PromptRow, options: ExperimentOptions) -> dict[str, object]:
    scores, failures = row.scores, row.scores.failures
    return {
        "structure": row.structure,
        "state": DONE,
        "counts": _yes(row.counts),
        "prompt": TITLES[row.kind],
        "slice_rule": options.where,
        "slice": scores.frame,
        "first_slice": scores.first,
        "last_slice": scores.last,
        "clicks": scores.clicks,
        "dice": f"{scores.dice:.4f}",
        "dice_in_ends": f"{scores.dice_within:.4f}",
        "nsd": f"{scores.surface:.4f}",
        "nsd_tolerance_mm": f"{options.tolerance:g}",
        "nsd_1_voxel": f"{scores.surface_voxel:.4f}",
        "on_slice": f"{failures.on_slice:.4f}",
        "excess": "" if failures.excess is None else f"{failures.excess:.4f}",
        "too_much": _yes(failures.is_too_much),
        "slices_beyond": failures.beyond,
        "mm_beyond": f"{failures.beyond_mm:g}",
        "goes_on": _yes(failures.goes_on),
        "held": "" if failures.held is None else f"{failures.held:.4f}",
        "fades": _yes(failures.fades),
        "slices": scores.slices,
        "seconds": f"{scores.seconds:.2f}",
    }


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    with atomic_output(path, True) as file:
        file.write(text.getvalue().encode("utf-8-sig", "surrogateescape"))


# --- Dice against distance


@dataclass(frozen=True)
class Bin:
    """Slices of like distance from the prompted one.

    Attributes:
        model, kind: of which. start, end: mm; of the prompted slice both 0, else the end is included.
        at: mean distance.
        dice: mean over the runs of each one's mean there. runs: how many have slices there.
    """

    model: str
    kind: str
    start: float
    end: float
    at: float
    dice: float
    runs: int


def bins_of(lines: Sequence[CaseLine], kinds: Sequence[str]) -> list[Bin]:
    """Return the Dice by distance of each model and kind, over the rows that count, the nearest bin first."""
    rows = [
        (line.model, row)
        for line in lines
        if line.record is not None
        for row in line.record.rows
        if row.counts and row.kind in kinds
    ]
    reach = max((abs(mm) for _, row in rows for mm, _ in row.scores.by_distance), default=0.0)
    width = next((one for one in _WIDTHS_MM if reach <= one * _MOST_BINS), _WIDTHS_MM[-1])
    found = []
    for model in dict.fromkeys(model for model, _ in rows):
        for kind in kinds:
            places: dict[int, list[tuple[float, float]]] = {}
            for of_model, row in rows:
                if (of_model, row.kind) == (model, kind):
                    for place, mean in _means_by_place(row, width).items():
                        places.setdefault(place, []).append(mean)
            for place, means in sorted(places.items()):
                at, dice = (float(value) for value in np.mean(means, axis=0))
                start = max(0, place - 1) * width
                found.append(Bin(model, kind, start, place * width, at, dice, len(means)))
    return found


def _means_by_place(row: PromptRow, width: float) -> dict[int, tuple[float, float]]:
    """Return the mean distance and Dice of the slices of each bin: 0 is the prompted slice, n those up to n
    widths off."""
    places: dict[int, list[tuple[float, float]]] = {}
    for mm, dice in row.scores.by_distance:
        places.setdefault(math.ceil(round(abs(mm) / width, 6)), []).append((abs(mm), dice))
    means = {place: np.mean(values, axis=0) for place, values in places.items()}
    return {place: (float(mean[0]), float(mean[1])) for place, mean in means.items()}


def write_bins(path: Path, bins: Sequence[Bin]) -> None:
    """Write the Dice by distance as CSV. Raises as `atomic_output`."""
    rows = [
        (
            *(one.model, TITLES[one.kind], f"{one.start:g}", f"{one.end:g}", f"{one.at:.2f}"),
            *(f"{one.dice:.4f}", one.runs),
        )
        for one in bins
    ]
    _write_csv(path, ("model", "prompt", "from_mm", "to_mm", "mean_mm", "dice", "runs"), rows)
