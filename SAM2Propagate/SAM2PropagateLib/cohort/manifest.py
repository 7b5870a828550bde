"""Reads the manifest of a cohort: segments, volumes and prompts (`docs/cohort.md`)."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SAM2PropagateLib.cohort.prompt_sources import FilePrompts, GivenPrompts, PromptSource
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.image import check_file
from SAM2PropagateLib.files.scene_prompts import is_scene
from SAM2PropagateLib.files.volume import volume_name
from SAM2PropagateLib.prompts.document import from_document
from SAM2PropagateLib.texts import is_utf8

COLUMNS = ("volume", "segment", "prompts", "name", "series", "part", "window")
_NEEDED = ("volume", "prompts")
# Columns for the volume; rows of the same volume must agree.
_OF_VOLUME = ("name", "window")
_SEPARATORS = (",", ";", "\t")
_MOST_BYTES = 256 << 20
# Characters that Windows forbids in file names, and names that it reserves for devices.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Characters, and bytes, of which one character can have four; endings follow.
_MOST_NAME, _MOST_NAME_BYTES = 80, 200

SayPrompts = Callable[[Sequence[tuple[str, Sequence[str]]]], PromptSource]
"""Makes the prompts of a volume from (segment, words as on the command line) of each of its rows."""


@dataclass(frozen=True)
class Entry:
    """One volume of a manifest with all its segments.

    Attributes:
        volume: the file or folder, absolute.
        series, part: as for `read_volume`. window: text in the manifest; "" for none.
        sources: of its prompts.
        name: in the manifest; "" for none.
        rows: the numbers of its rows, from 1.
        fault: an error in the manifest; the volume is then only a line of the table.
    """

    volume: Path
    series: str | None = None
    part: str | None = None
    window: str = ""
    sources: tuple[PromptSource, ...] = ()
    name: str = ""
    rows: tuple[int, ...] = ()
    fault: InputError | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """A text that differs from that of every other volume of the manifest."""
        return "\n".join((_same_on_disk(self.volume), self.series or "", self.part or ""))


@dataclass(frozen=True)
class _Row:
    """A row of the manifest: its number and its texts; `prompts` may be any JSON value."""

    number: int
    values: Mapping[str, Any]

    def text(self, column: str) -> str:
        """Return a column's text, without spaces around it; "" if there is none."""
        return str(self.values.get(column) or "").strip()


def read_manifest(path: Path, say: SayPrompts) -> tuple[Entry, ...]:
    """Return the volumes of a manifest, in the order of their first appearance.

    Args:
        path: a CSV file with a line of headings, or a JSON file with a list of objects. Paths in it are
            relative to its folder.
        say: makes prompts from words of the command line, or raises InputError.

    Returns:
        The volumes; a wrong row is an entry with a fault.

    Raises:
        InputError: `file_missing`, `file_unreadable`, `file_empty`; `bad_manifest`: the file as a whole is
            not a manifest.
    """
    check_file(path)
    if path.stat().st_size > _MOST_BYTES:
        raise _bad(f"“{path}” has more than {_MOST_BYTES >> 20} MB.", "Give a list of volumes.")
    text = _decoded(path, path.read_bytes())
    rows = _json_rows(path, text) if text.lstrip()[:1] in ("[", "{") else _csv_rows(path, text)
    if not rows:
        raise _bad(f"“{path}” lists no volume.", "Add a row for each segment of each volume.")
    return _entries(rows, path.resolve().parent, say)


def output_names(entries: Sequence[Entry], known: Mapping[str, str]) -> list[str]:
    """Return a name for the outputs of each entry; they differ also without regard to case.

    An entry keeps its name of an earlier run unless the manifest gives this name to another entry.

    Args:
        entries: of a manifest; names in it differ already.
        known: names of an earlier run into the same folder, by `Entry.key`.
    """
    given = {one.name.casefold() for one in entries if one.name}
    kept = {key: name for key, name in known.items() if name.casefold() not in given}
    taken = given | {name.casefold() for name in known.values()}
    names = []
    for one in entries:
        name = one.name or kept.get(one.key) or _free_name(one.volume, taken)
        taken.add(name.casefold())
        names.append(name)
    return names


# --- the file


def _decoded(path: Path, content: bytes) -> str:
    """Return the text in any common encoding: UTF-8 with or without a mark, UTF-16 with one, else
    Windows'."""
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        raise _bad(f"“{path}” cannot be read as text.", "Save it as CSV in UTF-8.") from None


def _csv_rows(path: Path, text: str) -> list[_Row]:
    first = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    # Excel writes and reads such a line, which only names the separator.
    if match := re.fullmatch(r"sep=(.)\s*", first):
        separator, text = match.group(1), text.partition("\n")[2]
    skipped = 1 if match else 0
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    try:
        headings = [one.strip().casefold() for one in next(reader, [])]
        _check_columns(path, headings)
        rows = []
        for cells in reader:
            number = reader.line_num + skipped
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(headings) and any(cell.strip() for cell in cells[len(headings) :]):
                raise _bad(
                    f"Line {number} of “{path}” has {len(cells)} fields for {len(headings)} columns.",
                    f"Put a field that holds “{separator}” in quotes.",
                )
            rows.append(_Row(number, dict(zip(headings, cells, strict=False))))
    except csv.Error as error:
        raise _bad(
            f"“{path}” cannot be read as CSV (line {reader.line_num + skipped}: {error}).",
            "Check the quotes there.",
        ) from error
    return rows


def _json_rows(path: Path, text: str) -> list[_Row]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad(f"“{path}” is not valid JSON ({error}).", "Correct it there.") from error
    if not isinstance(document, list):
        raise _bad(f"“{path}” is not a list.", 'Give a list such as [{"volume": ..., "prompts": ...}].')
    rows = []
    for number, one in enumerate(document, 1):
        if not isinstance(one, dict):
            raise _bad(
                f"Row {number} of “{path}” is not an object with named fields.",
                'Give objects such as {"volume": ..., "segment": ..., "prompts": ...}.',
            )
        _check_columns(path, list(one), number)
        for column, value in one.items():
            if column != "prompts" and not (value is None or isinstance(value, str)):
                raise _bad(f"Row {number} of “{path}” has {value!r} for “{column}”.", "Give a text.")
        rows.append(_Row(number, one))
    return rows


def _check_columns(path: Path, names: Sequence[str], row: int | None = None) -> None:
    where = f"“{path}”" if row is None else f"Row {row} of “{path}”"
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise _bad(
            f"{where} has no column “{missing[0]}”.",
            f"The first line must name the columns: {', '.join(COLUMNS[:3])}.",
        )
    unknown = [name for name in names if name and name not in COLUMNS]
    twice = [name for name in names if name and names.count(name) > 1]
    if unknown or twice:
        what = f"an unknown column “{unknown[0]}”" if unknown else f"the column “{twice[0]}” twice"
        raise _bad(f"{where} has {what}.", f"The columns are: {', '.join(COLUMNS)}.")


def _bad(sentence: str, hint: str) -> InputError:
    return InputError("bad_manifest", sentence, hint)


# --- its rows


def _entries(rows: Sequence[_Row], base: Path, say: SayPrompts) -> tuple[Entry, ...]:
    grouped: dict[str, list[_Row]] = {}
    for row in rows:
        if not row.text("volume") or not _is_usable(row.text("volume")):
            key = f"\0{row.number}"
        else:
            key = Entry(_path(base, row.text("volume")), row.text("series"), row.text("part")).key
        grouped.setdefault(key, []).append(row)
    entries: list[Entry] = []
    names: dict[str, int] = {}
    for group in grouped.values():
        entry = _entry(group, base, say)
        if entry.name and entry.fault is None:
            other = names.setdefault(entry.name.casefold(), group[0].number)
            if other != group[0].number:
                entry = _faulty(
                    entry,
                    _bad(
                        f"Row {group[0].number} gives its outputs the name “{entry.name}” of row {other}.",
                        "Give every volume a name of its own.",
                    ),
                )
        entries.append(entry)
    return tuple(entries)


def _entry(group: Sequence[_Row], base: Path, say: SayPrompts) -> Entry:
    first = group[0]
    named = first.text("volume")
    volume = _path(base, named) if named and _is_usable(named) else Path()
    entry = Entry(
        volume,
        first.text("series") or None,
        first.text("part") or None,
        rows=tuple(row.number for row in group),
    )
    try:
        for row in group:
            _check_texts(row)
        if not named:
            raise _bad(f"Row {first.number} names no volume.", "Fill its column “volume”.")
        shared = {column: _agreed(group, column) for column in _OF_VOLUME}
        name = shared["name"]
        if name and name != _safe(name):
            raise _bad(
                f"Row {first.number} has “{name}” for its outputs, which cannot be the name of a file.",
                f"Use a name such as “{_safe(name)}”.",
            )
        sources = _sources(group, base, say)
        return Entry(volume, entry.series, entry.part, shared["window"], sources, name, entry.rows)
    except InputError as error:
        return _faulty(entry, error)


def _check_texts(row: _Row) -> None:
    for column, value in row.values.items():
        words = value if isinstance(value, list) else [value]
        if not all(_is_usable(word) for word in words if isinstance(word, str)):
            raise _bad(
                f"Row {row.number} has a character in its column “{column}” that no file can hold.",
                "Type the text again.",
            )


def _is_usable(text: str) -> bool:
    """Tell whether a text can be a part of a path and of a file."""
    return "\0" not in text and is_utf8(text)


def _faulty(entry: Entry, fault: InputError) -> Entry:
    return Entry(entry.volume, entry.series, entry.part, rows=entry.rows, fault=fault)


def _agreed(group: Sequence[_Row], column: str) -> str:
    """Return the value of a volume's rows in a column; empty ones follow the others."""
    said = {row.text(column): row.number for row in reversed(group) if row.text(column)}
    if len(said) > 1:
        (one, first), (other, second) = sorted(said.items(), key=lambda pair: pair[1])[:2]
        raise _bad(
            f"Rows {first} and {second} are of the same volume, but have “{one}” and “{other}” for "
            f"“{column}”.",
            "Give both the same, or one of them none.",
        )
    return next(iter(said), "")


def _sources(group: Sequence[_Row], base: Path, say: SayPrompts) -> tuple[PromptSource, ...]:
    """Return the sources of a volume's prompts; words of all rows are parsed together."""
    sources: list[PromptSource] = []
    said: list[tuple[str, Sequence[str]]] = []
    for row in group:
        segment, prompts = row.text("segment"), row.values.get("prompts")
        try:
            if isinstance(prompts, dict):
                sources.append(GivenPrompts(from_document(prompts), segment))
            elif isinstance(prompts, list) and all(isinstance(word, str | int | float) for word in prompts):
                said.append((segment, [str(word) for word in prompts]))
            elif not isinstance(prompts, str | None):
                raise _bad(f"It has {prompts!r} for “prompts”.", "Give a text, a list of words or an object.")
            elif not row.text("prompts"):
                raise _bad("It has no prompts.", "Give options of the command line, or a file.")
            elif row.text("prompts").startswith("-"):
                said.append((segment, _words(row.text("prompts"))))
            else:
                sources.append(_file(_path(base, row.text("prompts")), segment))
            if said and said[-1][0] == segment:
                # Alone first, so that an error names the right row.
                say(said[-1:])
        except InputError as error:
            sentence = f"Row {row.number}: {error.sentence}"
            raise InputError(error.code, sentence, error.hint) from error
    return (*([say(said)] if said else []), *sources)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise _bad(f"Its prompts cannot be read ({error}).", "Check the quotes.") from error


def _file(path: Path, segment: str) -> FilePrompts:
    if path.suffix.lower() != ".json" and not is_scene(path):
        raise _bad(
            f"“{path.name}” is neither an option of the command line nor a file of prompts.",
            "Give options such as --point-ras R A S, a .json file, or a scene (.mrb or .mrml).",
        )
    return FilePrompts(path, segment)


def _path(base: Path, text: str) -> Path:
    path = Path(text)
    # A name after “~” that is no user's is left as it is, and not found later.
    with contextlib.suppress(RuntimeError):
        path = path.expanduser()
    return Path(os.path.abspath(base / path))  # noqa: PTH100 - links stay as they are named


def _same_on_disk(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))


# --- names of outputs


def _free_name(volume: Path, taken: set[str]) -> str:
    """Return the volume's name, with folders and at last a number added until it is unique."""
    parts = [_safe(part) for part in volume.parent.parts[1:]]
    name = _safe(volume_name(volume))
    candidate = name
    for part in reversed(parts):
        if candidate.casefold() not in taken:
            return candidate
        candidate = _safe(f"{part}_{candidate}")
    number = 2
    while candidate.casefold() in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def _safe(text: str) -> str:
    """Return a text as a file name that is valid on every system."""
    name = _FORBIDDEN.sub("_", text).strip(" .")[:_MOST_NAME]
    name = name.encode("utf-8", "ignore")[:_MOST_NAME_BYTES].decode("utf-8", "ignore").rstrip(" .")
    name = name or "volume"
    return f"_{name}" if _DEVICES.fullmatch(name) else name
