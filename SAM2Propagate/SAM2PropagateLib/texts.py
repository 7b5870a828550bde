"""The window's texts and the errors of `scene` and `gui`: written in English, translated by a function.

In Slicer the window gives `slicer.i18n.translate` with the context of the file in which the text is written;
without it texts stay English. The modules of `scene` and `gui` write `_("...")`, a literal, as tools that
collect texts for translation expect, and fill in values with `str.format` afterwards. What still comes in
English: the sentences of the library below those two, as those of errors from `files`, `frames`, `models`,
`prompts`, `worker` and `engine`, what the worker logs and says of loading a model, and what pip says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

Translator = Callable[[str, str], str]


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
