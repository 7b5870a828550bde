"""Fuses a mask with the results of runs along the other axes.

A run along one axis is bad where a structure lies flat in the frames, or changes fast from one to the next.
Along another axis the same place may be easy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import native_frame
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

# The constants below were chosen on the training volumes.

# The margin around the mask for the other axes: a share of its extent, and at least this many voxels.
_MARGIN, _LEAST_MARGIN = 0.1, 2
# The cross-sections that a run starts from, at these shares of the mask's voxels along the axis.
_SEEDS = (1 / 6, 1 / 2, 5 / 6)
# One vote of the first axis is worth this many votes of another axis.
_OWN = 1.0
# A vote counts 1 minus its frame's doubt, to this power, and at least this much.
_POWER, _LEAST = 1.0, 0.2
# It also counts less if the pixels of its frames are not square, to this power.
_SQUARE = 1.0


@dataclass(frozen=True)
class Region:
    """A box of voxels.

    Attributes:
        low, high: along i, j and k, from `low` to before `high`.
    """

    low: tuple[int, int, int]
    high: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an array of its voxels, (K, J, I)."""
        i, j, k = (high - low for low, high in zip(self.low, self.high, strict=True))
        return k, j, i

    def frames(self, axis: int) -> range:
        """Return the frames of an axis that it lies on."""
        return range(self.low[axis], self.high[axis])

    def part(self, axis: int) -> tuple[slice, slice]:
        """Return the rows and columns of a frame of an axis that it covers."""
        x, y = (other for other in range(3) if other != axis)
        return slice(self.low[y], self.high[y]), slice(self.low[x], self.high[x])

    def grown(self, geometry: VolumeGeometry) -> Region:
        """Return the region with the margin for the other axes, within the volume."""
        low, high = [], []
        for start, end, count in zip(self.low, self.high, geometry.shape_ijk, strict=True):
            margin = max(_LEAST_MARGIN, round(_MARGIN * (end - start)))
            low.append(max(start - margin, 0))
            high.append(min(end + margin, count))
        return Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def seeds(solid: BoolArray, region: Region, axis: int, geometry: VolumeGeometry) -> dict[int, FramePrompts]:
    """Return the cross-sections of a mask that a run along another axis starts from, as mask prompts.

    Args:
        solid: (K, J, I) of the region, not empty.
        axis: the other axis.

    Returns:
        Frame of the axis -> the mask's pixels on it.
    """
    areas = solid.sum(axis=tuple(n for n in range(3) if n != 2 - axis))
    share = np.cumsum(areas) / areas.sum()
    found = {}
    for wanted in _SEEDS:
        plane = int(np.searchsorted(share, wanted))
        mask = np.zeros(geometry.frame_shape(axis), bool)
        mask[region.part(axis)] = native_frame(solid, plane, axis)
        mask.setflags(write=False)
        found[region.low[axis] + plane] = FramePrompts(mask=mask)
    return found


def told(name: str, solid: BoolArray, region: Region, axis: int, geometry: VolumeGeometry) -> ResolvedSegment:
    """Return the prompts for a run along another axis; see `seeds`."""
    frames = region.frames(axis)
    keyframes = seeds(solid, region, axis, geometry)
    return ResolvedSegment(name, keyframes, first=frames[0], last=frames[-1])


class Opinion:
    """The result of a run along another axis for a mask, frame by frame.

    Args:
        axis: the other axis.
        region: of the result.
    """

    def __init__(self, axis: int, region: Region, geometry: VolumeGeometry) -> None:
        self.axis = axis
        self._region = region
        self._solid = np.zeros(region.shape, bool)
        self._trust = np.zeros(len(region.frames(axis)), np.float32)
        spacing = geometry.frame_spacing(axis)
        self._worth = (min(spacing) / max(spacing)) ** _SQUARE

    def take(self, frame: int, mask: BoolArray, doubt: float) -> None:
        """Add the mask, (rows, columns), of a frame of its axis."""
        place = frame - self._region.low[self.axis]
        native_frame(self._solid, place, self.axis)[:] = mask[self._region.part(self.axis)]
        self._trust[place] = trust(doubt) * self._worth

    def on(self, frame: int, axis: int) -> tuple[BoolArray, FloatArray]:
        """Return its result on a frame of the first axis, in the region.

        Returns:
            Its mask, (rows, columns), and how much it counts, float32 of a shape that broadcasts; 0 where
            there is no result.
        """
        mask = native_frame(self._solid, frame - self._region.low[axis], axis)
        runs_down = self.axis == max(other for other in range(3) if other != axis)
        return mask, self._trust[:, None] if runs_down else self._trust[None, :]


def trust(doubt: float) -> float:
    """Return how much a vote counts, from its frame's doubt."""
    return float(max(_LEAST, (1 - doubt) ** _POWER))


def fused(
    own: BoolArray, doubt: float, others: Sequence[tuple[BoolArray, FloatArray]]
) -> tuple[BoolArray, float]:
    """Return a frame's mask by the vote of all axes, and its doubt, which rises where they disagree.

    Args:
        own: (rows, columns), the first axis's mask, with its doubt.
        others: see `Opinion.on`.
    """
    votes = np.where(own, np.float32(1), np.float32(-1)) * np.float32(_OWN * trust(doubt))
    agreements = []
    for mask, weight in others:
        votes += np.where(mask, weight, -weight)
        asked = np.broadcast_to(weight > 0, own.shape)
        if asked.any():
            agreements.append(_dice(own & asked, mask & asked))
    agreement = float(np.mean(agreements)) if agreements else 1.0
    return votes > 0, 1 - (1 - doubt) * agreement


def _dice(one: BoolArray, other: BoolArray) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0
