"""Reads numbers in texts that people typed, or that files hold.

Only the digits 0 to 9 count here. `str.isdigit` takes "²", which `int` refuses; `str.isdecimal` takes the
digits of all scripts, which not everything that gets the text understands; `float` takes "nan" and "1_0".
"""

from __future__ import annotations

import math
import re

MOST_DIGITS = 18
_WHOLE = re.compile(rf"[0-9]{{1,{MOST_DIGITS}}}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def whole_number(text: str) -> int | None:
    """Return the whole number from 0 that a text says in digits alone, at most 18 of them; else None."""
    return int(text) if _WHOLE.fullmatch(text) else None


def is_number(text: str) -> bool:
    """Tell whether a text has the form of a number that `decimal_number` reads, whatever its value."""
    return _DECIMAL.fullmatch(text) is not None


def decimal_number(text: str) -> float | None:
    """Return the number that a text says, such as -12, .5 or 1e-3; None for other texts and 1e999."""
    value = float(text) if is_number(text) else math.inf
    return value if math.isfinite(value) else None
