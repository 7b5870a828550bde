"""The window's texts: written in English in this package, translated by the function that the window gives.

In Slicer that is `slicer.i18n.translate` with the context of the file in which the text is written; without
it texts stay English. The modules here write `_("...")`, as tools that collect texts for translation expect,
and fill in values with `str.format` afterwards. The sentences of errors come from the rest of the library, in
English.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

Translator = Callable[[str, str], str]


def _asItIs(text: str, _file: str) -> str:
    return text


_translator: Translator = _asItIs


def setTranslator(translator: Translator | None) -> None:
    """Translates texts with this function from now on; None: not at all.

    Args:
        translator: takes a text and the path of the file in which it is written.
    """
    global _translator  # noqa: PLW0603
    _translator = translator or _asItIs


def tr(text: str) -> str:
    """The text in the user's language."""
    return _translator(text, sys._getframe(1).f_code.co_filename)
