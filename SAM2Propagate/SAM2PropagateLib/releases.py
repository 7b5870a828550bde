"""Compares releases of packages, and names the oldest that do."""

from __future__ import annotations

import re

OLDEST_TORCH = "2.5.1"


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version to compare it by, `2.4.1+cu121` as (2, 4, 1).

    A version without a number compares as the newest, as nothing is known against it.
    """
    match = re.match(r"\d+(\.\d+)*", version or "")
    return tuple(int(part) for part in match.group().split(".")) if match is not None else (10**9,)
