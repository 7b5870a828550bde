"""Small data sets whose structures are bright, and a session that finds what is bright."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.cohort.fleet import Fleet
from SAM2PropagateLib.engine.results import FrameMask, RunSummary
from SAM2PropagateLib.errors import Cancelled, InputError
from SAM2PropagateLib.evaluation.metrics import BoolArray
from SAM2PropagateLib.experiment import work as work_module
from SAM2PropagateLib.experiment.plan import (
    DataSet,
    ExperimentOptions,
    ExperimentPlan,
    ExperimentWork,
    ModelUse,
)
from SAM2PropagateLib.experiment.running import ExperimentResult, HereFleet, run_experiment
from SAM2PropagateLib.experiment.work import CaseOutcome, Opener, do_case
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts
from SAM2PropagateLib.run_options import RunRequest
from SAM2PropagateLib.training.case import FLAIR_ELSE_FIRST
from SAM2PropagateLib.training.cases import find_cases

SHAPE = (10, 24, 26)


def ball(at: tuple[int, int, int] = (5, 11, 12), radius: float = 3.0) -> BoolArray:
    """bool (K, J, I): a ball twice as wide as deep."""
    k, j, i = np.indices(SHAPE)
    return np.asarray(((k - at[0]) * 2) ** 2 + (j - at[1]) ** 2 + (i - at[2]) ** 2 <= (2 * radius) ** 2)


def image_of(mask: BoolArray, bright: int = 200) -> sitk.Image:
    """A volume that is bright where the mask is."""
    return as_image((20 + (bright - 20) * mask).astype(np.int16))


def as_image(array: np.ndarray) -> sitk.Image:
    """A volume with slices of 2 mm."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1, 1, 2))
    return image


class BrightSession:
    """Finds what is bright, on every frame; of the prompted slice's preview, too."""

    def __init__(self, frames: FrameStack) -> None:
        self._frames = frames

    def _answer(self, frame: int, kind: str) -> FrameMask:
        return FrameMask("target", frame, self._frames.frame(frame) > 127, 0.9, 5.0, 0.1, kind)

    def preview(self, frame: int, prompts: FramePrompts, segment: str = "") -> FrameMask:
        return self._answer(frame, "preview")

    def propagate(self, run: RunRequest, on_frame: Callable[[FrameMask], None]) -> RunSummary:
        for frame in range(self._frames.count):
            on_frame(self._answer(frame, "propagated"))
        return RunSummary(self._frames.count, self._frames.count, 0, 0.0, ())


@dataclass
class ExperimentRun:
    """A run of an experiment in this process; what it did and was told.

    Attributes:
        told: what was evaluated, by title. stop_after: cancel before this title comes.
        slices: that came; stop_at: cancel after so many.
        is_opened: whether there was anything to do. no_workers: why nobody does it.
    """

    told: list[str] = field(default_factory=list)
    stop_after: int | None = None
    slices: int = 0
    stop_at: int | None = None
    is_opened: bool = False
    no_workers: Exception | None = None
    done: list[CaseOutcome] = field(default_factory=list)

    def begun(self, total: int, finished: int) -> None:
        self.total, self.already = total, finished

    def finished(self, work: ExperimentWork, outcome: CaseOutcome) -> None:
        self.done.append(outcome)

    def tell(self, title: str) -> None:
        if self.stop_after is not None and len(self.told) >= self.stop_after:
            raise Cancelled()
        self.told.append(title)

    def between(self) -> None:
        self.slices += 1
        if self.slices == self.stop_at:
            raise Cancelled()

    def __call__(
        self,
        cases: Path | tuple[Path, ...],
        out: Path,
        *,
        models: tuple[str, ...] = ("tiny",),
        sequence: str = FLAIR_ELSE_FIRST,
        resume: bool = False,
        overwrite: bool = False,
        **options: Any,
    ) -> ExperimentResult:
        folders = cases if isinstance(cases, tuple) else (cases,)
        sets = []
        for folder in folders:
            refused: dict[str, InputError] = {}
            found = find_cases(folder, sequence, refused.__setitem__)
            sets.append(DataSet(folder.name if len(folders) > 1 else "", found, tuple(refused.items())))
        uses = tuple(ModelUse(name, Path(f"{name}.safetensors"), f"weights of {name}") for name in models)
        plan = ExperimentPlan(tuple(sets), uses, ExperimentOptions(**options), out, resume, overwrite)

        @contextlib.contextmanager
        def fleet() -> Iterator[Fleet]:
            self.is_opened = True
            if self.no_workers is not None:
                raise self.no_workers
            yield HereFleet()

        return run_experiment(
            plan, fleet, self, lambda: False, work=lambda one: do_case(one, self.tell, self.between)
        )


@contextlib.contextmanager
def bright_models() -> Iterator[list[str]]:
    """Every model finds what is bright; gives the titles of those that were loaded."""
    opened: list[str] = []
    kept = work_module.opener

    def opener(model: ModelUse) -> Opener:
        opened.append(model.title)
        return Opener({"model": model.title, "device": "cpu"}, BrightSession)

    work_module.opener = opener  # type: ignore[assignment]
    try:
        yield opened
    finally:
        work_module.opener = kept
