"""What the demonstration measures, and what its user looks at: overlap, doubt, where to click next."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.files.volume import read_volume
from SAM2PropagateLib.frames.geometry import VolumeGeometry

BoolArray = npt.NDArray[np.bool_]

# At its first and last slices a structure tapers off: they are doubtful by nature and weigh little.
TIP = 0.1
# A slice that agrees less with what the user sees is worth a correction; one that agrees so well is done.
POOR, GOOD = 0.8, 0.85
# Below this a mask is not worth keeping: the user starts the slice again.
WORTHLESS = 0.3
# A further click at the same place would say nothing new; pixels.
_APART = 2.5


def dice(one: BoolArray, other: BoolArray) -> float:
    """Return Dice of two masks of the same shape, 0 to 1; 1 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 1.0 if total == 0 else 2.0 * int((one & other).sum()) / total


def rate(count: int, seconds: float) -> float:
    """Return how many a second; 0 where there was nothing to do."""
    return count / seconds if count and seconds > 0 else 0.0


def read_reference(
    labels: Path, names: Path, wanted: Iterable[str], geometry: VolumeGeometry
) -> dict[str, BoolArray]:
    """Return the reference masks by label name, (K, J, I) bool.

    Raises:
        SAM2PropagateError: `reference_mismatch`: the labels lie on another grid, or lack one that is wanted.
    """
    volume = read_volume(labels)
    values = {name: int(value) for value, name in json.loads(names.read_text(encoding="utf-8")).items()}
    same_place = np.allclose(volume.geometry.ijk_to_ras, geometry.ijk_to_ras, atol=1e-3)
    missing = [name for name in wanted if name not in values]
    if volume.geometry.shape_ijk != geometry.shape_ijk or not same_place or missing:
        raise SAM2PropagateError(
            "reference_mismatch",
            f"The reference labels in “{labels.name}” do not belong to the CT.",
            "Get the project's files again.",
        )
    return {name: np.asarray(volume.array == values[name]) for name in wanted}


@dataclass(frozen=True)
class Doubtful:
    """A slice that the doubt points to.

    Attributes:
        segment, frame: which.
        doubt: 0 to 1.
        rank: its place in the list of doubtful slices, from 1.
    """

    segment: str
    frame: int
    doubt: float
    rank: int


def doubtful_slices(doubts: Mapping[str, Mapping[int, float]]) -> list[Doubtful]:
    """Return the propagated slices of all segments, the most doubtful first, without the tips of each
    segment.

    Args:
        doubts: per segment the doubt by frame.
    """
    candidates = []
    for segment, by_frame in doubts.items():
        frames = sorted(by_frame)
        tip = round(TIP * len(frames))
        candidates += [(by_frame[frame], segment, frame) for frame in frames[tip : len(frames) - tip]]
    candidates.sort(key=lambda one: -one[0])
    return [Doubtful(segment, frame, doubt, n) for n, (doubt, segment, frame) in enumerate(candidates, 1)]


def first_to_correct(doubtful: Sequence[Doubtful], agreement: Mapping[tuple[str, int], float]) -> Doubtful:
    """Return the first doubtful slice that is poor, as a user would see when looking; else the worst of them.

    Args:
        doubtful: the most doubtful first; not empty.
        agreement: Dice against the reference by segment and frame, which stands in for the user's eyes.
    """
    for one in doubtful:
        if agreement[one.segment, one.frame] < POOR:
            return one
    return min(doubtful, key=lambda one: agreement[one.segment, one.frame])


@dataclass(frozen=True)
class NextClick:
    """Where to click: pixel (x, y) of a frame, and whether it is to be added."""

    x: float
    y: float
    positive: bool


def next_click(mask: BoolArray, truth: BoolArray, before: Sequence[NextClick] = ()) -> NextClick | None:
    """Return where a user would click who sees `truth`: deep inside the largest region that is wrong.

    Args:
        mask, truth: (rows, columns) of a frame.
        before: the clicks so far; the next one is placed elsewhere.

    Returns:
        None when nothing is left to click on.
    """
    if truth.any() and dice(mask, truth) < WORTHLESS and not before:
        mask = np.zeros_like(truth)
    best: tuple[float, NextClick] | None = None
    for positive, wrong in ((True, truth & ~mask), (False, mask & ~truth)):
        depth = ndimage.distance_transform_edt(np.pad(wrong, 1))[1:-1, 1:-1]
        for one in before:
            y, x = np.ogrid[: depth.shape[0], : depth.shape[1]]
            depth[(x - one.x) ** 2 + (y - one.y) ** 2 < _APART**2] = 0.0
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        deepest = float(depth[row, column])
        if deepest > 0 and (best is None or deepest > best[0]):
            best = deepest, NextClick(float(column), float(row), positive)
    return best[1] if best is not None else None
