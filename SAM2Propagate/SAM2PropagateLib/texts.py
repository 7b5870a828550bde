"""Texts for the user: written in English, translated where they are shown.

Every file that Slicer's process or the worker runs writes `_("...")` with a literal, as Slicer's tools that
collect texts expect. Values are filled in afterwards, with `.format(name=value)`.

- `app`, `gui` and `scene`, which only Slicer's process runs, import `tr as _`. It gives a str, translated at
  once.
- `engine`, `frames`, `models`, `prompts`, `worker` and the files beside this one, which the worker or the
  command line may run, too, import `text as _`. It gives a `Text`: a template and its values. Errors and
  progress contain it, also on the wire. `str` makes the sentence where it is shown: in Slicer in the user's
  language, on the command line and in the worker's log in English.

In Slicer the module sets `slicer.i18n.translate` as the translator, with the context of the file in which
the text is written.

Always in English, as plain str, are: the texts of `files`, `evaluation`, `training`, `cohort`, `experiment`
and `cli`, which Slicer does not run; logs; names (models, devices, files, fields of a document); quotes from
the system, torch or pip.
"""

from __future__ import annotations

import json
import numbers
import re
import string
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

Translator = Callable[[str, str], str]

_LIBRARY = Path(__file__).resolve().parent
_FILE = re.compile(r"\w+(/\w+)*\.py", re.ASCII)
# As templates use them: ".1f", "g", "02d". A width from the wire could ask for gigabytes.
_NUMBER_FORMAT = re.compile(r"(0?\d)?(\.\d)?[dfg]?", re.ASCII)
# Limits for a text from the wire; our own are far smaller.
_DEPTH = 4
_LONGEST = 4096
_MOST_FIELDS = 64


def _as_it_is(template: str, _file: str) -> str:
    return template


_translator: Translator = _as_it_is


def set_translator(translator: Translator | None) -> None:
    """Translate texts with this function from now on; None: not at all.

    Args:
        translator: takes a text and the path of the file in which it is written.
    """
    global _translator  # noqa: PLW0603
    _translator = translator or _as_it_is


def tr(template: str) -> str:
    """Translate a text now, into the user's language."""
    return _translator(template, sys._getframe(1).f_code.co_filename)


@dataclass(frozen=True)
class Text:
    """A text for the user: a template and its values. `str` makes the sentence where it is shown.

    Attributes:
        template: the literal, which identifies the text as gettext's message ids do.
        file: where it is written, below the library, as "engine/build.py": its context for translators.
        values: what is filled in, by name: plain str, int and float, and further texts.
    """

    template: str
    file: str
    values: Mapping[str, Value] = field(default_factory=dict, hash=False)

    def format(self, **values: Any) -> Text:
        """Fill in values. Texts and numbers stay what they are; anything else becomes a str.

        Raises:
            KeyError: a value of the template is missing. ValueError: the template asks for more than plain
                values.
        """
        filled = replace(self, values={name: _plain(value) for name, value in values.items()})
        _fill(filled.template, filled.values)
        return filled

    def __str__(self) -> str:
        """Return the sentence in the user's language, or in English if the translation is missing or
        broken."""
        try:
            translated = _translator(self.template, str(_LIBRARY / self.file))
            if isinstance(translated, str):
                return _fill(translated, self.values) if self.values else translated
        except Exception:  # a broken translation must not hide the text
            pass
        return self.english

    @property
    def english(self) -> str:
        """The sentence in English, except for texts within it."""
        return _fill(self.template, self.values) if self.values else self.template


Value = str | int | float | Text
Words = str | Text
"""A sentence or a part of one: a text of ours, or a quote."""
_W = TypeVar("_W", str, Text)


def is_utf8(text: str) -> bool:
    """Tell whether a text can be written as UTF-8. The name of a file that holds other bytes cannot: Python
    reads it with lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def text(template: str) -> Text:
    """Return a text of the calling file, to be translated where it is shown."""
    path = Path(sys._getframe(1).f_code.co_filename)
    try:
        return Text(template, path.resolve().relative_to(_LIBRARY).as_posix())
    except ValueError:  # not a file of the library, so there is no translation
        return Text(template, path.name)


def plural(count: int, one: _W, many: _W) -> _W:
    """Return `one` for a count of 1, else `many`."""
    return one if count == 1 else many


# --- from one process to another


def to_wire(words: Words) -> Any:
    """Return words as JSON-able values for `from_wire`; a text that the wire cannot carry becomes plain
    English."""
    if isinstance(words, str):
        return words
    parts = _parts(words)
    try:
        json.dumps(parts, allow_nan=False)
        from_wire(parts)
    except ValueError:
        return words.english
    return parts


def from_wire(value: Any) -> Words:
    """Return words from another process; they are checked and bounded.

    Raises:
        ValueError: these are not words.
    """
    if isinstance(value, str):
        return value
    try:
        made = _text_of(value, _DEPTH)
    except Exception as error:
        raise ValueError(f"not a text: {error!r}") from error
    return made


def _parts(words: Text) -> dict[str, Any]:
    values = {name: _parts(one) if isinstance(one, Text) else one for name, one in words.values.items()}
    return {"template": words.template, "file": words.file, "values": values}


def _text_of(parts: Any, depth: int) -> Text:
    """Return the text from `_parts`; raise any exception if there is none."""
    template, file, given = parts["template"], parts["file"], parts["values"]
    if not depth or not _FILE.fullmatch(file):
        raise ValueError("too many texts within texts, or none of our files")
    if not isinstance(template, str) or len(template) > _LONGEST or len(given) > _MOST_FIELDS:
        raise ValueError("no template of ours")
    made = Text(template, file, {str(name): _value_of(value, depth) for name, value in given.items()})
    if made.values:
        _fill(template, made.values, _LONGEST)
    return made


def _value_of(value: Any, depth: int) -> Value:
    if isinstance(value, str | int | float):
        if isinstance(value, str) and len(value) > _LONGEST:
            raise ValueError("too long a value")
        return value
    return _text_of(value, depth - 1)


def _fill(template: str, values: Mapping[str, Value], longest: int | None = None) -> str:
    # Each value is formatted once, even if the template repeats it.
    made = {name: str(value) if isinstance(value, Text) else value for name, value in values.items()}
    return _Filler(len(template), longest).vformat(template, (), made)


class _Filler(string.Formatter):
    """`str.format` with named values alone: no attributes, no indices, no large widths, no long result.

    Raises:
        ValueError: the template asks for more. KeyError: for a value that was not given.
    """

    def __init__(self, length: int, longest: int | None) -> None:
        self._fields, self._length, self._longest = 0, length, longest

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
        made = str(super().format_field(value, format_spec))
        # Counted field by field, so that a long text is never built.
        self._length += len(made)
        if self._longest is not None and self._length > self._longest:
            raise ValueError("too long a text")
        return made


def _plain(value: Any) -> Value:
    """Return the value as a JSON type that prints alike."""
    if isinstance(value, str | int | float | Text):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return str(value)
