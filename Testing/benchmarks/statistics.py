"""What is made of repeated measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity: their median, smallest and largest, and how many they were."""

    median: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 2) -> str:
        """Return `1.52 (1.40 to 1.61)`; the median alone if all are the same."""
        middle = f"{self.median:.{digits}f}"
        low, high = f"{self.low:.{digits}f}", f"{self.high:.{digits}f}"
        return middle if low == high else f"{middle} ({low} to {high})"

    def to_dict(self) -> dict[str, float]:
        """As JSON-able values."""
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of at least one finite value.

    Raises:
        ValueError: there is none, or one is not finite.
    """
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"no spread of {list(values)}")
    return Spread(float(np.median(values)), float(min(values)), float(max(values)), len(values))


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return `ours` / `theirs`, pair by pair: measured next to each other, both of a pair suffered
    from the same neighbors on the machine.

    Raises:
        ValueError: different numbers of values, none at all, or a value of `theirs` that is not above 0.
    """
    if len(ours) != len(theirs) or any(value <= 0 for value in theirs):
        raise ValueError(f"no ratios of {list(ours)} to {list(theirs)}")
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest measured value that at least `share` percent of the values do not exceed.

    Raises:
        ValueError: no value, or a share that is not within 0 to 100.
    """
    if not values or not 0 <= share <= 100:
        raise ValueError(f"no {share} % percentile of {len(values)} values")
    ordered = sorted(values)
    return float(ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)])


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing."""
    return float(np.mean(values)) if values else math.nan
