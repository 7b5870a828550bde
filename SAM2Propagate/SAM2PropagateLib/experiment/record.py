"""What is known of a case: kept in a file of its own, kind of prompt by kind of prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from SAM2PropagateLib.evaluation.failures import SliceFailures
from SAM2PropagateLib.evaluation.one_slice import PromptScores
from SAM2PropagateLib.files.atomic import atomic_output

_FORMAT, _VERSION = "sam2propagate-shen2024-record", 1


@dataclass(frozen=True)
class PromptRow:
    """A structure of a case, prompted in one way.

    Attributes:
        structure: its name. counts: whether it is part of means. kind: of prompt. scores: what came out.
    """

    structure: str
    counts: bool
    kind: str
    scores: PromptScores


@dataclass(frozen=True)
class CaseRecord:
    """What is finished of a case with one model.

    Attributes:
        fingerprint: of `ExperimentWork`. kinds: of prompts that are finished for all structures.
        rows: also of those that are not.
        about: the model and how it computed. window: what it saw, in words.
        absent: structures that a description has and the label does not. notes: for the user.
    """

    fingerprint: str
    kinds: tuple[str, ...] = ()
    rows: tuple[PromptRow, ...] = ()
    about: Mapping[str, Any] | None = None
    window: str = ""
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def with_row(self, row: PromptRow) -> CaseRecord:
        """Return the record with one row more."""
        return replace(self, rows=(*self.rows, row))

    def row_of(self, structure: str, kind: str) -> PromptRow | None:
        """Return the row of a structure and a kind; None if there is none yet."""
        return next((row for row in self.rows if (row.structure, row.kind) == (structure, kind)), None)


def write_record(path: Path, record: CaseRecord) -> None:
    """Write a record whole or not at all. Raises as `atomic_output`."""
    text = json.dumps({"format": _FORMAT, "version": _VERSION, **asdict(record)}, ensure_ascii=False)
    with atomic_output(path, True) as file:
        # A path may hold what UTF-8 cannot; the replacements are JSON's own.
        file.write(text.encode("utf-8", "backslashreplace"))


def read_record(path: Path) -> CaseRecord | None:
    """Return the record in a file; None where there is none that this version can read."""
    try:
        values = json.loads(path.read_bytes())
        if values.pop("format") != _FORMAT or values.pop("version") != _VERSION:
            return None
        tuples = {name: tuple(values[name]) for name in ("kinds", "absent", "notes")}
        return CaseRecord(**{**values, **tuples, "rows": tuple(_row(row) for row in values["rows"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _row(values: Mapping[str, Any]) -> PromptRow:
    scores = values["scores"]
    by_distance = tuple((float(mm), float(dice)) for mm, dice in scores["by_distance"])
    failures = SliceFailures(**scores["failures"])
    made = PromptScores(**{**scores, "failures": failures, "by_distance": by_distance})
    return PromptRow(**{**values, "scores": made})
