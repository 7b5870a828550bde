"""The evaluation of one target: a preview, a propagation, the same with the ends given, and corrections."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from SAM2PropagateLib.engine.plan import plan
from SAM2PropagateLib.engine.results import FrameMask, RunSummary
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation import simulated_user
from SAM2PropagateLib.evaluation.metrics import BoolArray, dice, frames_first, surface_dice
from SAM2PropagateLib.evaluation.simulated_user import Correction
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.prompts.place import range_at
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import SegmentPrompts
from SAM2PropagateLib.run_options import RunOptions, RunRequest

if TYPE_CHECKING:
    from SAM2PropagateLib.evaluation.targets import LoadedTarget

SEGMENT = "target"
# Doubt is about the chance that a slice's Dice is below this.
BAD = 0.8


class EvaluatedSession(Protocol):
    """What is evaluated, as `EngineSession` and `AxesSession`."""

    def preview(self, frame: int, prompts: FramePrompts, segment: str = "") -> FrameMask:
        """Return the mask of one frame from its prompts alone."""

    def propagate(self, run: RunRequest, on_frame: Callable[[FrameMask], None]) -> RunSummary:
        """Carry the keyframes over the frames that changed since the last run."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How to evaluate.

    Args:
        prompt: the first prompt, `box` or `click`.
        correction: `mask` or `click`; see `simulated_user`.
        corrections: how many, one after the other.
        tolerance: mm, of the surface Dice.
        run: how every run is carried out.

    Raises:
        InputError: `bad_option`.
    """

    prompt: str = simulated_user.BOX
    correction: str = simulated_user.MASK
    corrections: int = 3
    tolerance: float = 2.0
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        if self.prompt not in simulated_user.FIRST_PROMPTS:
            raise _bad_option("first prompt", self.prompt, simulated_user.FIRST_PROMPTS)
        if self.correction not in simulated_user.CORRECTIONS:
            raise _bad_option("correction", self.correction, simulated_user.CORRECTIONS)
        if self.corrections < 0:
            raise InputError(
                "bad_option", f"{self.corrections} corrections cannot be made.", "Give 0 or more."
            )


@dataclass(frozen=True)
class DoubtCount:
    """Counts propagated slices with a doubt between two tenths, such as 0.3 and 0.4.

    Attributes:
        masks: slices with a mask. bad: those of them that have a Dice below `BAD`.
        empty: slices without a mask. missed: those of them on which the structure is.
    """

    masks: int
    bad: int
    empty: int
    missed: int


@dataclass(frozen=True)
class Scores:
    """What came out for one target; every Dice is from 0 to 1.

    Attributes:
        preview: Dice of the preview on the slice of the first prompt.
        volume: Dice of the whole label, nothing said of its ends.
        surface: surface Dice of the whole label, likewise.
        volume_in_range: Dice of the whole label when its first and last slice are given.
        after: Dice of the whole label after 1, 2, ... corrections (nothing said of its ends); a correction
            for which nothing was left to correct repeats the value before.
        corrections: what was corrected.
        slices: masks written by the first run. seconds: of the preview and the first run together.
        correction_slices, correction_seconds: of the runs after the corrections, together.
        doubts: how good the propagated slices of the first run are, by tenths of their doubt.
    """

    preview: float
    volume: float
    surface: float
    volume_in_range: float
    after: tuple[float, ...]
    corrections: tuple[Correction, ...]
    slices: int
    seconds: float
    correction_slices: int
    correction_seconds: float
    doubts: tuple[DoubtCount, ...]

    @property
    def slices_per_second(self) -> float:
        """Of the first run, its keyframe's preview included."""
        return self.slices / self.seconds if self.seconds else float("inf")


def evaluate(
    target: LoadedTarget, session: EvaluatedSession, options: EvaluationOptions | None = None
) -> Scores:
    """Score a session on a target as the simulated user would work with it.

    Args:
        target: the volume that the session was opened on, with its reference.
        session: new, so that its first run has everything to compute.
        options: how; the defaults if None.
    """
    options = options or EvaluationOptions()
    return _Evaluation(target, session, options).scores()


class _Evaluation:
    """One structure, from the first prompt to the last correction."""

    def __init__(self, target: LoadedTarget, session: EvaluatedSession, options: EvaluationOptions) -> None:
        self._target = target
        self._session = session
        self._options = options
        self._reference = target.mask
        self._slices = frames_first(target.mask, target.axis)
        self._masks: dict[int, BoolArray] = {}
        self._doubts: dict[int, float] = {}
        self._withheld: dict[int, BoolArray] = {}

    def scores(self) -> Scores:
        """Do what the simulated user does, step by step, and return the scores."""
        prompts = self._first_prompt()
        preview, preview_seconds = self._preview(prompts)
        found, summary, seconds = self._run(prompts)
        volume = dice(found, self._reference)
        surface = surface_dice(found, self._reference, self._target.geometry.spacing, self._options.tolerance)
        doubts = self._judge_doubts(set(self._resolved(prompts).keyframes))
        after, corrections, slices, correction_seconds = self._correct(prompts, found)
        # Last: a run with other ends before the corrections would leave these more to write again.
        in_range = self._in_range(prompts)
        return Scores(
            preview,
            volume,
            surface,
            in_range,
            after,
            corrections,
            summary.frames_written,
            preview_seconds + seconds,
            slices,
            correction_seconds,
            doubts,
        )

    def _first_prompt(self) -> SegmentPrompts:
        target = self._target
        return simulated_user.first_prompt(
            self._options.prompt, SEGMENT, self._reference, target.geometry, target.axis
        )

    def _resolved(self, prompts: SegmentPrompts) -> ResolvedSegment:
        return resolve(prompts, self._target.geometry, self._target.axis)

    def _preview(self, prompts: SegmentPrompts) -> tuple[float, float]:
        [(frame, said)] = self._resolved(prompts).keyframes.items()
        started = time.perf_counter()
        answer = self._session.preview(frame, said, segment=SEGMENT)
        seconds = time.perf_counter() - started
        return dice(answer.mask, self._slices[frame]), seconds

    def _run(self, prompts: SegmentPrompts) -> tuple[BoolArray, RunSummary, float]:
        """Return the volume's mask (K, J, I) after a run: what earlier runs of the session wrote stays where
        nothing changed, and a frame that no keyframe reaches any more is empty."""
        resolved = self._resolved(prompts)
        started = time.perf_counter()
        summary = self._session.propagate(RunRequest((resolved,), self._options.run), self._take)
        seconds = time.perf_counter() - started
        reached = set(resolved.keyframes).union(*(stretch.frames for stretch in plan(resolved)))
        found = np.zeros(self._reference.shape, bool)
        slices = np.moveaxis(found, 2 - self._target.axis, 0)
        for frame in reached:
            slices[frame] = self._masks[frame]
        return found, summary, seconds

    def _take(self, answer: FrameMask) -> None:
        self._masks[answer.frame] = answer.mask
        self._doubts[answer.frame] = answer.doubt
        self._withheld.pop(answer.frame, None)
        if answer.withheld is not None:
            self._withheld[answer.frame] = answer.withheld()

    def _judge_doubts(self, keyframes: set[int]) -> tuple[DoubtCount, ...]:
        counts = np.zeros((10, 4), int)
        for frame, doubt in self._doubts.items():
            if frame not in keyframes:
                mask, reference = self._masks[frame], self._slices[frame]
                found = (1, dice(mask, reference) < BAD, 0, 0) if mask.any() else (0, 0, 1, reference.any())
                counts[min(int(doubt * 10), 9)] += found
        return tuple(DoubtCount(*map(int, row)) for row in counts)

    def _in_range(self, prompts: SegmentPrompts) -> float:
        target = self._target
        first, last = simulated_user.frame_range(self._reference, target.axis)
        ends = range_at(first, last, target.geometry, target.axis)
        found, _, _ = self._run(prompts.with_range(ends))
        return dice(found, self._reference)

    def _correct(
        self, prompts: SegmentPrompts, found: BoolArray
    ) -> tuple[tuple[float, ...], tuple[Correction, ...], int, float]:
        target = self._target
        after: list[float] = []
        corrections: list[Correction] = []
        written, seconds = 0, 0.0
        for _ in range(self._options.corrections):
            better = simulated_user.corrected(
                prompts,
                self._options.correction,
                found,
                self._reference,
                target.geometry,
                target.axis,
                self._withheld,
            )
            if better is not None:
                prompts, correction = better
                corrections.append(correction)
                found, summary, took = self._run(prompts)
                written, seconds = written + summary.frames_written, seconds + took
            after.append(dice(found, self._reference))
        return tuple(after), tuple(corrections), written, seconds


def _bad_option(what: str, given: str, choices: tuple[str, ...]) -> InputError:
    return InputError("bad_option", f"There is no {what} “{given}”.", f"Choose one of {', '.join(choices)}.")
