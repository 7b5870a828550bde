"""The texts that the user reads: written in English, translated by a function.

In Slicer the window gives `slicer.i18n.translate` with the context of the file in which the text is written;
without it texts stay English. Every module that Slicer's process or the worker runs writes `_("...")`, a
literal, as tools that collect texts for translation expect, and fills in values with `str.format` afterwards.

The worker has no translator. There `remember` stands in for one: its texts are English and know their
template, its file and the values, which travel with an error or with the words of a progress (`parts_of`);
the client translates the template and fills the values in (`restored`).

What still comes in English: the words of `files`, `evaluation`, `training` and the command line, which
Slicer does not run; logs; names that come from others (models, devices, files, fields of a document); and
what the system, torch or pip says, where a text quotes it.
"""

from __future__ import annotations

import math
import re
import string
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Translator = Callable[[str, str], str]

_LIBRARY = Path(__file__).resolve().parent
_FILE = re.compile(r"\w+(/\w+)*\.py", re.ASCII)
# As templates use them: ".1f", "g", "02d". A width from the wire could ask for gigabytes.
_NUMBER_FORMAT = re.compile(r"(0?\d)?(\.\d)?[dfg]?", re.ASCII)
# What parts from the wire may grow to; our own are far smaller.
_DEPTH = 4
_LONGEST = 4096
_MOST_FIELDS = 64


def _as_it_is(text: str, _file: str) -> str:
    return text


_translator: Translator = _as_it_is


def set_translator(translator: Translator | None) -> None:
    """Translates texts with this function from now on; None: not at all.

    Args:
        translator: takes a text and the path of the file in which it is written.
    """
    global _translator  # noqa: PLW0603
    _translator = translator or _as_it_is


def tr(text: str) -> str:
    """The text in the user's language."""
    return _translator(text, sys._getframe(1).f_code.co_filename)


def plural(count: int, one: str, many: str) -> str:
    """The text for so many things: `one` for a single one, else `many`; both are translated already."""
    return one if count == 1 else many


# --- from one process to another


class Remembered(str):
    """An English text that knows how it was made. What is cut from it or put to it does not.

    Attributes:
        template: the literal. file: where it is written, as "engine/build.py".
        values: what `format` filled in; None: nothing yet.
    """

    template: str
    file: str
    values: Mapping[str, Any] | None

    def __new__(
        cls, text: str, template: str, file: str, values: Mapping[str, Any] | None = None
    ) -> Remembered:
        made = super().__new__(cls, text)
        made.template, made.file, made.values = template, file, values
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return str(self), self.template, self.file, self.values

    def format(self, *args: Any, **values: Any) -> str:
        """As `str.format`; the result remembers the values, if all have names."""
        text = super().format(*args, **values)
        if args or self.values is not None:
            return text
        return Remembered(text, self.template, self.file, {name: _plain(v) for name, v in values.items()})


def remember(text: str, file: str) -> str:
    """A translator for a process without one: the text, which remembers itself."""
    try:
        return Remembered(text, text, Path(file).resolve().relative_to(_LIBRARY).as_posix())
    except ValueError:
        return text  # of no file of ours: the client could not find its context


def parts_of(text: str) -> dict[str, Any] | None:
    """What a text is made of, as JSON-able values for `restored`; None for one that does not remember."""
    if not isinstance(text, Remembered):
        return None
    values = {name: parts_of(value) or value for name, value in (text.values or {}).items()}
    return {"template": text.template, "file": text.file, "values": values}


def restored(parts: Any, english: str) -> str:
    """A text that was made in another process, in the user's language.

    Args:
        parts: what `parts_of` gave there, or anything else that came instead: nothing in it is trusted.
        english: the text for want of a translation: no or unusable parts, or a translation that does not fit.
    """
    try:
        return english if parts is None else _made(parts, _DEPTH)
    except Exception:  # whatever is wrong with the parts must not hide what the text tells
        return english


def _made(parts: Any, depth: int) -> str:
    """The translated template with its values filled in; raises what it likes where that is impossible."""
    template, file, given = parts["template"], parts["file"], parts["values"]
    if not depth or not _FILE.fullmatch(file):
        raise ValueError("too many texts within texts, or none of our files")
    if not isinstance(template, str) or len(template) > _LONGEST or len(given) > _MOST_FIELDS:
        raise ValueError("no template of ours")
    translated = _translator(template, str(_LIBRARY / file))
    values = {name: _value(value, depth) for name, value in given.items()}
    return _Filler(len(translated)).vformat(translated, (), values) if values else translated


def _value(value: Any, depth: int) -> Any:
    if isinstance(value, str | int | float):
        return value
    return _made(value, depth - 1)


class _Filler(string.Formatter):
    """`str.format` with named values alone: no attributes, no indices, no large widths, no long result.

    Raises:
        ValueError: the template asks for more. KeyError: for a value that was not given.
    """

    def __init__(self, length: int) -> None:
        self._fields, self._length = 0, length

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        if not field_name.isidentifier():
            raise ValueError(f"{field_name} is no plain name")
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise ValueError("too many fields")
        return kwargs[field_name], field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if not _NUMBER_FORMAT.fullmatch(format_spec):
            raise ValueError(f"{format_spec} is no plain format of a number")
        text = str(super().format_field(value, format_spec))
        # Counted field by field, so that a long text is never put together.
        self._length += len(text)
        if self._length > _LONGEST:
            raise ValueError("too long a text")
        return text


def _plain(value: Any) -> Any:
    """The value as JSON carries it, alike when it is printed: numbers and texts."""
    if isinstance(value, Remembered):
        return value
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
