"""Makes names and texts that survive saving and loading a scene.

MRML does not escape everything that it writes. A node's name becomes a file name, in which an ampersand makes
the whole scene unreadable; a control character does so anywhere. Users may name nodes and segments freely, so
whatever is derived from these names is made harmless here.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any
from urllib.parse import quote, unquote

# Characters that may stay in a name, besides letters, marks and digits.
_KEPT = " -_.,()[]{}+="
# The most characters and UTF-8 bytes of a name; file names are cut at 255 bytes.
_MOST_CHARACTERS, _MOST_BYTES = 40, 120
_ENCODED = "%:"


def safeName(text: str, suffix: str) -> str:
    """Returns a name for a node, derived from a name that the user gave.

    Args:
        text: the user's name; may be empty.
        suffix: what the node holds, in plain characters.

    Returns:
        Both, without characters that are special in MRML, XML or a file system, and not too long.
    """
    kept = "".join(one if _isHarmless(one) else "_" for one in unicodedata.normalize("NFC", text))
    kept = re.sub("_+", "_", " ".join(kept.split()))[:_MOST_CHARACTERS]
    kept = kept.encode("utf-8")[:_MOST_BYTES].decode("utf-8", "ignore").strip(" ._")
    return f"{kept} {suffix}" if kept else suffix


def uniqueName(scene: Any, name: str) -> str:
    """Returns the name, with a number if a node of the scene has it. Names that differ only in case count as
    the same, as they do in some file systems."""
    count = scene.GetNumberOfNodes()
    taken = {(scene.GetNthNode(n).GetName() or "").casefold() for n in range(count)}
    candidate, number = name, 1
    while candidate.casefold() in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def isPlain(text: str) -> bool:
    """Tells whether a text survives in MRML unchanged, wherever it is kept."""
    return text.isprintable() and not set(text) & set("&<>\"'") and not text.startswith(_ENCODED)


def encoded(text: str) -> str:
    """Returns a text in a form that attributes and parameters can hold; plain texts stay unchanged."""
    return text if isPlain(text) else _ENCODED + quote(text, safe="")


def decoded(text: str | None) -> str:
    """Returns the text that `encoded` was given; "" for None."""
    text = text or ""
    return unquote(text[len(_ENCODED) :]) if text.startswith(_ENCODED) else text


def saveIfLoadable(editorNode: Any) -> None:
    """Leaves a vtkMRMLSegmentEditorNode out of saved scenes while its segment's ID would make the scene
    unreadable: MRML does not escape these IDs.
    """
    chosen = (editorNode.GetSelectedSegmentID(), editorNode.GetMaskSegmentID())
    editorNode.SetSaveWithScene(all(isPlain(one or "") for one in chosen))


def _isHarmless(character: str) -> bool:
    return character in _KEPT or unicodedata.category(character)[0] in "LMN"
