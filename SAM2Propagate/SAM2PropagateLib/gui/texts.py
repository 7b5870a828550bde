"""The window's texts: written in English in this package, translated by the function that the window gives.

In Slicer that is `lambda text: slicer.i18n.translate("SAM2Propagate", text)`; without it texts stay English.
The modules here write `_("...")`, as tools that collect texts for translation expect it, and fill in values
with `str.format` afterwards. The sentences of errors come from the rest of the library, in English.
"""

from __future__ import annotations

from collections.abc import Callable

CONTEXT = "SAM2Propagate"
"""The context under which the texts are translated."""


def _asItIs(text: str) -> str:
    return text


_translator: Callable[[str], str] = _asItIs


def setTranslator(translator: Callable[[str], str] | None) -> None:
    """Translates texts with this function from now on; None: not at all."""
    global _translator  # noqa: PLW0603
    _translator = translator or _asItIs


def tr(text: str) -> str:
    """The text in the user's language."""
    return _translator(text)
