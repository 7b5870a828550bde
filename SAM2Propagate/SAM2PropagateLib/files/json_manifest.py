"""Reads JSON files that describe a folder of volumes: `manifest.json`, `dataset.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from SAM2PropagateLib.errors import InputError

T = TypeVar("T")


def from_manifest(path: Path, read: Callable[[Any], T], hint: str) -> T:
    """Read a manifest, and return what `read` makes of its content.

    Args:
        path: of the file, in UTF-8, with or without a byte order mark.
        read: converts the JSON content; a KeyError, TypeError, ValueError or AttributeError from it means
            that the content is wrong.
        hint: what the file must hold.

    Raises:
        InputError: `manifest_unreadable`, with the file and the reason; what `read` itself raises.
    """
    try:
        return read(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            "manifest_unreadable", f"“{path}” cannot be used ({type(error).__name__}: {error}).", hint
        ) from error
