"""Files in JSON that say what a folder of volumes holds: `manifest.json`, `dataset.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from SAM2PropagateLib.errors import InputError

T = TypeVar("T")


def from_manifest(path: Path, read: Callable[[Any], T], hint: str) -> T:
    """Return what `read` makes of a manifest's content.

    Args:
        path: of the file, in UTF-8, with or without a byte order mark.
        read: takes the content as JSON has it; a KeyError, TypeError, ValueError or AttributeError that it
            raises means that the content is not what it should be.
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
