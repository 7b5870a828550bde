"""The record of a run: one JSON file with every figure, one Markdown file to be read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from Testing.benchmarks.machine import describe_machine, describe_source, now

FORMAT = "sam2propagate-benchmark"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are figures."""
    widths = [max(len(str(row[n])) for row in (head, *rows)) for n in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            str(cell).ljust(width) if n == 0 else str(cell).rjust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = (
        "|" + "|".join("-" * (w + 2) if n == 0 else "-" * (w + 1) + ":" for n, w in enumerate(widths)) + "|"
    )
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def figure(value: float | None, digits: int = 3) -> str:
    """Return a figure for a table; "-" where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


@dataclass
class BenchmarkReport:
    """A run, filled while it goes on.

    Attributes:
        name: of the benchmark; part of the file names.
        title: the Markdown file's heading.
        options: how it was called, as JSON-able values.
        figures: every measured value, as JSON-able values.
        texts: paragraphs and tables, in Markdown.
    """

    name: str
    title: str
    options: Mapping[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=describe_machine)
    source: dict[str, Any] = field(default_factory=describe_source)
    date: str = field(default_factory=now)

    def say(self, text: str) -> None:
        """Add a paragraph or table, and print it."""
        self.texts.append(text)
        print(text, end="\n\n", flush=True)

    def markdown(self) -> str:
        """Return the record as Markdown."""
        machine = self.machine
        packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
        commit = self.source.get("commit", "unknown")[:12]
        if self.source.get("changed_files"):
            commit += f" with {self.source['changed_files']} changed files"
        facts = [
            f"{self.date}, commit {commit}",
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
            f"{machine['system']}",
            f"Python {machine['python']}, {packages}",
            f"OMP_WAIT_POLICY={machine['wait_policy'] or 'unset'}; load of the machine when it began: "
            f"{machine['load']}",
            *(
                ["kept to older instructions: " + ", ".join(f"{k}={v}" for k, v in machine["limits"].items())]
                if machine["limits"]
                else []
            ),
            "options: " + (", ".join(f"{key}={value}" for key, value in self.options.items()) or "none"),
        ]
        return "\n\n".join([f"# {self.title}", "\n".join(f"- {fact}" for fact in facts), *self.texts]) + "\n"

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both files into a folder; their names begin with the date and never replace older ones.

        Returns:
            The Markdown and the JSON file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.date[:10]}-{self.name}"
        number = 1
        while (folder / f"{stem}.json").exists() or (folder / f"{stem}.md").exists():
            number += 1
            stem = f"{self.date[:10]}-{self.name}-{number}"
        values = {
            "format": FORMAT,
            "version": 1,
            "benchmark": self.name,
            "date": self.date,
            "source": self.source,
            "machine": self.machine,
            "options": self.options,
            "figures": self.figures,
        }
        readable, complete = folder / f"{stem}.md", folder / f"{stem}.json"
        complete.write_text(json.dumps(_finite(values), indent=1) + "\n", encoding="utf-8")
        readable.write_text(self.markdown(), encoding="utf-8")
        return readable, complete


def _finite(value: Any) -> Any:
    """Return the same without NaN and infinity, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
