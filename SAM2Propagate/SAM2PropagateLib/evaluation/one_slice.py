"""One structure from prompts on one slice, as *Interactive 3D Medical Image Segmentation with SAM 2* has it.

The rule (arXiv 2408.02635, as its authors' program does it, commit 8a2b771 of SAM_2_Medical_3D; `[ours]`
marks what that does not say):

* The slice is the middle one between the structure's first and last slice. If the structure is not on it, the
  nearest one that has it, the lower of two [ours]. Or the largest one, the first of several [ours].
* The first click lies where the structure is deepest. Each further one lies where the largest error of the
  preview is deepest: what is missing (a positive click) or what is too much (a negative one); missing comes
  first where both are alike. Where no error is deeper than a diagonal step of pixels, there are no more
  clicks. The first click is always made [ours].
* The box lies on the outer edges of the structure's pixels [ours]. The mask is the reference's own.
* Nothing is drawn at random. The mask is carried both ways, through the whole volume [ours: the authors cut
  it to the slices with the structure before the model sees it].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from SAM2PropagateLib.engine.results import FrameMask
from SAM2PropagateLib.evaluation.failures import SliceFailures, dice_by_distance, slice_failures
from SAM2PropagateLib.evaluation.metrics import BoolArray, dice, frames_first, surface_dice
from SAM2PropagateLib.evaluation.protocol import EvaluatedSession
from SAM2PropagateLib.evaluation.simulated_user import box_around, frame_range, largest_frame
from SAM2PropagateLib.evaluation.targets import LoadedTarget
from SAM2PropagateLib.mask_depth import depth_inside, innermost_point
from SAM2PropagateLib.prompts.frame_prompts import ResolvedSegment
from SAM2PropagateLib.prompts.place import box_at, click_at, mask_at
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import SegmentPrompts
from SAM2PropagateLib.run_options import RunRequest

MIDDLE, LARGEST = "middle", "largest"
SLICES = (MIDDLE, LARGEST)
BOX, MASK = "box", "mask"
CLICKS = {"1": 1, "3": 3, "5": 5}
KINDS = (*CLICKS, BOX, MASK)
TITLES = {"1": "1 click", "3": "3 clicks", "5": "5 clicks", BOX: "box", MASK: "mask"}

_SEGMENT = "target"
# A little more than a diagonal step of pixels.
_LEAST_DEPTH = 1.42

Placed = tuple[float, float, bool]
"""A click: x and y in native pixels of the frame, and whether it is positive."""


@dataclass(frozen=True)
class PromptScores:
    """What came out of one kind of prompt; every Dice is from 0 to 1.

    Attributes:
        frame: the prompted slice, from 0. first, last: the structure's ends. clicks: how many were made.
        dice: of the whole volume. dice_within: of the slices from the structure's first to its last one.
        surface: surface Dice of the whole volume at the tolerance in mm. surface_voxel: at one voxel,
            whatever its size.
        failures: see there. by_distance: see `dice_by_distance`.
        slices: masks written by the run. seconds: of previews and run together.
    """

    frame: int
    first: int
    last: int
    clicks: int
    dice: float
    dice_within: float
    surface: float
    surface_voxel: float
    failures: SliceFailures
    by_distance: tuple[tuple[float, float], ...]
    slices: int
    seconds: float


def prompted_frame(reference: BoolArray, axis: int, where: str) -> int:
    """Return the slice to prompt.

    Args:
        reference: (K, J, I), not empty.
        where: one of `SLICES`.
    """
    if where == LARGEST:
        return largest_frame(reference, axis)
    first, last = frame_range(reference, axis)
    middle = first + (last - first) // 2
    filled = np.flatnonzero(frames_first(reference, axis).any(axis=(1, 2))).tolist()
    return min(filled, key=lambda frame: (abs(frame - middle), frame))


def placed_clicks(
    reference: BoolArray, count: int, preview: Callable[[Sequence[Placed]], BoolArray]
) -> tuple[Placed, ...]:
    """Return the clicks of the rule, at most so many.

    Args:
        reference: (rows, columns), not empty.
        preview: the mask from clicks.
    """
    placed: list[Placed] = []
    found = np.zeros_like(reference)
    while len(placed) < count:
        missing, extra = reference & ~found, found & ~reference
        depths = float(depth_inside(missing).max()), float(depth_inside(extra).max())
        if placed and max(depths) <= _LEAST_DEPTH:
            break
        positive = depths[0] >= depths[1]
        placed.append((*innermost_point(missing if positive else extra), positive))
        if len(placed) < count:
            found = preview(placed)
    return tuple(placed)


def evaluate_prompt(
    target: LoadedTarget,
    session: EvaluatedSession,
    kind: str,
    where: str = MIDDLE,
    tolerance: float = 2.0,
    between: Callable[[], None] = lambda: None,
) -> PromptScores:
    """Score a session on a structure that is prompted on one slice.

    Args:
        target: the volume that the session was opened on, with its reference.
        session: new: what it saw of other prompts would change what it sees now.
        kind: one of `KINDS`. where: one of `SLICES`.
        tolerance: mm, of the surface Dice.
        between: called between two slices; what it raises ends the run.
    """
    return _OneSlice(target, session, where, between).scores(kind, tolerance)


class _OneSlice:
    """One structure that is prompted on one slice."""

    def __init__(
        self, target: LoadedTarget, session: EvaluatedSession, where: str, between: Callable[[], None]
    ) -> None:
        self._between = between
        self._target = target
        self._session = session
        self._frame = prompted_frame(target.mask, target.axis, where)
        self._slices = frames_first(target.mask, target.axis)

    def scores(self, kind: str, tolerance: float) -> PromptScores:
        """Return the scores of one kind of prompt; see `evaluate_prompt`."""
        target = self._target
        started = time.perf_counter()
        prompts = self._prompts(kind)
        found, slices = self._run(prompts)
        seconds = time.perf_counter() - started
        first, last = frame_range(target.mask, target.axis)
        within = slice(first, last + 1)
        carried = frames_first(found, target.axis)
        step = target.geometry.spacing[target.axis]
        return PromptScores(
            self._frame,
            first,
            last,
            len(prompts.clicks),
            dice(found, target.mask),
            dice(carried[within], self._slices[within]),
            surface_dice(found, target.mask, target.geometry.spacing, tolerance),
            surface_dice(found, target.mask, (1.0, 1.0, 1.0), 1.0),
            slice_failures(carried, self._slices, self._frame, step, is_given=kind == MASK),
            dice_by_distance(carried, self._slices, self._frame, step),
            slices,
            seconds,
        )

    def _prompts(self, kind: str) -> SegmentPrompts:
        geometry, axis = self._target.geometry, self._target.axis
        reference = self._slices[self._frame]
        prompts = SegmentPrompts(_SEGMENT)
        if kind == BOX:
            return prompts.add(box_at(box_around(reference), self._frame, geometry, axis))
        if kind == MASK:
            return prompts.add(mask_at(reference, self._frame, geometry, axis))
        return self._clicked(placed_clicks(reference, CLICKS[kind], self._preview))

    def _clicked(self, placed: Sequence[Placed]) -> SegmentPrompts:
        geometry, axis = self._target.geometry, self._target.axis
        prompts = SegmentPrompts(_SEGMENT)
        for x, y, positive in placed:
            prompts = prompts.add(click_at(x, y, self._frame, geometry, axis, positive))
        return prompts

    def _preview(self, placed: Sequence[Placed]) -> BoolArray:
        said = self._resolved(self._clicked(placed)).keyframes[self._frame]
        return np.asarray(self._session.preview(self._frame, said, segment=_SEGMENT).mask, dtype=bool)

    def _resolved(self, prompts: SegmentPrompts) -> ResolvedSegment:
        return resolve(prompts, self._target.geometry, self._target.axis)

    def _run(self, prompts: SegmentPrompts) -> tuple[BoolArray, int]:
        """Return the volume's mask (K, J, I), and how many slices were written."""
        target = self._target
        found = np.zeros(target.mask.shape, bool)
        frames = np.moveaxis(found, 2 - target.axis, 0)

        def take(answer: FrameMask) -> None:
            frames[answer.frame] = answer.mask
            self._between()

        summary = self._session.propagate(RunRequest((self._resolved(prompts),)), take)
        return found, summary.frames_written
