"""Three ways in which carrying a mask through a volume fails, told apart slice by slice.

*Comparing SAM 2 and SAM 3 for Zero-Shot Segmentation of 3D Medical Data* (arXiv 2511.21926) names them: too
much on the prompted slice, going on after the structure has ended, and losing with the distance what began
well. The numbers below from which one counts are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SAM2PropagateLib.evaluation.metrics import BoolArray, dice

TOO_MUCH = 0.5
"""Pixels too many on the prompted slice, as a share of the reference's, above which it counts."""
GOES_ON = 2
"""Slices beyond the structure's ends with a mask, above which it counts."""
BEGAN_WELL = 0.7
"""Dice on the prompted slice from which a run can fade."""
HELD_DICE, HELD_SHARE = 0.5, 0.8
"""A run fades whose slices keep this Dice for less than this share of the way to the structure's ends."""


@dataclass(frozen=True)
class SliceFailures:
    """How a propagation failed.

    Attributes:
        on_slice: Dice on the prompted slice.
        excess: pixels too many on it, as a share of the reference's pixels there; None: it was given.
        beyond: slices with a mask beyond the structure's first and last one. beyond_mm: the farthest of these
            from the end. room: slices that there are beyond.
        held: share of the slices to both ends, counted outward from the prompted one, before the Dice of one
            first falls below `HELD_DICE`; None where the structure is on the prompted slice alone.
    """

    on_slice: float
    excess: float | None
    beyond: int
    beyond_mm: float
    room: int
    held: float | None

    @property
    def is_too_much(self) -> bool | None:
        """Whether the prompted slice has too much; None where the mask was given."""
        return None if self.excess is None else self.excess > TOO_MUCH

    @property
    def goes_on(self) -> bool | None:
        """Whether it goes on after the structure has ended; None where the volume ends first."""
        return self.beyond > GOES_ON if self.room > GOES_ON else None

    @property
    def fades(self) -> bool | None:
        """Whether it is lost on the way; None where it did not begin well, or there is no way."""
        if self.held is None or self.on_slice < BEGAN_WELL:
            return None
        return self.held < HELD_SHARE


def slice_failures(
    found: BoolArray, reference: BoolArray, frame: int, step_mm: float, *, is_given: bool
) -> SliceFailures:
    """Return how a propagation failed.

    Args:
        found, reference: (frames, rows, columns), the propagation axis first; the reference is not empty.
        frame: the prompted slice, on which the reference is.
        step_mm: from slice to slice.
        is_given: whether the prompt was the reference's own mask.
    """
    filled = np.flatnonzero(reference.any(axis=(1, 2)))
    first, last = int(filled[0]), int(filled[-1])
    masked = np.flatnonzero(found.any(axis=(1, 2)))
    steps = [max(first - one, one - last) for one in masked.tolist()]
    outside = [step for step in steps if step > 0]
    too_many = int(np.count_nonzero(found[frame] & ~reference[frame]))
    return SliceFailures(
        on_slice=dice(found[frame], reference[frame]),
        excess=None if is_given else too_many / int(np.count_nonzero(reference[frame])),
        beyond=len(outside),
        beyond_mm=max(outside, default=0) * step_mm,
        room=len(reference) - (last - first + 1),
        held=_held(found, reference, frame, first, last),
    )


def _held(found: BoolArray, reference: BoolArray, frame: int, first: int, last: int) -> float | None:
    if first == last:
        return None
    held = 0
    for way in (range(frame - 1, first - 1, -1), range(frame + 1, last + 1)):
        for slice_ in way:
            if dice(found[slice_], reference[slice_]) < HELD_DICE:
                break
            held += 1
    return held / (last - first)


def dice_by_distance(
    found: BoolArray, reference: BoolArray, frame: int, step_mm: float
) -> tuple[tuple[float, float], ...]:
    """Return the distance from the prompted slice (mm, negative before it) and the Dice of each slice with
    the structure, in order.

    Args:
        found, reference, frame, step_mm: as for `slice_failures`.
    """
    filled = np.flatnonzero(reference.any(axis=(1, 2))).tolist()
    return tuple(
        (round((slice_ - frame) * step_mm, 4), round(dice(found[slice_], reference[slice_]), 6))
        for slice_ in filled
    )
