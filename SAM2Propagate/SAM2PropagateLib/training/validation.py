"""Measuring while training, with the engine itself, as in use: one box on the largest slice, no range."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from SAM2PropagateLib.engine.crops import style_of
from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.engine.features import FeatureStore
from SAM2PropagateLib.engine.memory_limits import motion_budget
from SAM2PropagateLib.engine.results import FrameMask, RunSummary
from SAM2PropagateLib.engine.session import EngineSession, SessionSettings
from SAM2PropagateLib.engine.steps import SAM2Steps
from SAM2PropagateLib.evaluation.protocol import EvaluatedSession, EvaluationOptions, evaluate
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts
from SAM2PropagateLib.run_options import RunRequest
from SAM2PropagateLib.training.pool import CaseShelf, Source
from SAM2PropagateLib.training.precision import as_in_use

_STRUCTURE_BYTES = 1_000_000_000  # of features, while a structure is measured
_FEATURE_BYTES = 3_000_000_000  # kept from one measuring to the next, of all structures together
_TRACKED_AT_ONCE = 8


@dataclass(frozen=True)
class StructureScore:
    """Dice of one structure: on the prompted slice, of the volume, of the volume when its ends are given."""

    title: str
    preview: float
    volume: float
    in_range: float


@dataclass(frozen=True)
class Score:
    """Means over the structures, and each."""

    preview: float
    volume: float
    in_range: float
    structures: tuple[StructureScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)


class Validation:
    """Scores of a model as it learns.

    Args:
        sources: structures to measure on.
        most: of these at most so many, spread over the cases.
        keeps_features: the image half stays as it is, so that its features need be computed only once.
        budget: bytes of features that are kept for that; a structure beyond it is encoded each time.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        shelf: CaseShelf,
        *,
        most: int,
        keeps_features: bool,
        budget: int = _FEATURE_BYTES,
    ) -> None:
        self._chosen = _spread(sources, most)
        self._shelf = shelf
        self._keeps = keeps_features
        self._budget = budget
        self._stores: dict[int, FeatureStore] = {}

    @property
    def structure_count(self) -> int:
        """The number of structures that are measured on."""
        return len(self._chosen)

    @property
    def kept_bytes(self) -> int:
        """Features in main memory."""
        return sum(store.nbytes for store in self._stores.values())

    def score(self, loaded: LoadedModel, between: Callable[[], None] = lambda: None) -> Score:
        """Measure a model; it is left as it is.

        Args:
            between: called often, before each structure and with each frame; what it raises ends the
                measuring.
        """
        steps = SAM2Steps(as_in_use(loaded))
        style = style_of(loaded.metadata)
        found = []
        for number, (source, structure) in enumerate(self._chosen):
            between()
            target = self._shelf.get(source.case).structure(structure)

            def store(encode: Any, number: int = number) -> FeatureStore:
                new = FeatureStore(encode, loaded.device, _STRUCTURE_BYTES, _STRUCTURE_BYTES)
                return self._stores.setdefault(number, new) if self._keeps else new

            settings = SessionSettings(_TRACKED_AT_ONCE, style, motion_budget=motion_budget())
            session = EngineSession(steps, target.frames, None, store, settings)
            try:
                scores = evaluate(target, _WatchedSession(session, between), EvaluationOptions(corrections=0))
            finally:
                # The features stay: they may be kept for the next time.
                assert session.motion is not None
                session.motion.close()
            if self.kept_bytes > self._budget:
                self._stores.pop(number, None)
            found.append(
                StructureScore(target.target.title, scores.preview, scores.volume, scores.volume_in_range)
            )
        means = np.mean([[s.preview, s.volume, s.in_range] for s in found], axis=0)
        return Score(float(means[0]), float(means[1]), float(means[2]), tuple(found))


class _WatchedSession:
    """A session that calls `between` with every frame, so that a long run can be ended."""

    def __init__(self, session: EvaluatedSession, between: Callable[[], None]) -> None:
        self._session = session
        self._between = between

    def preview(self, frame: int, prompts: FramePrompts, segment: str = "") -> FrameMask:
        return self._session.preview(frame, prompts, segment)

    def propagate(self, run: RunRequest, on_frame: Callable[[FrameMask], None]) -> RunSummary:
        def take(answer: FrameMask) -> None:
            self._between()
            on_frame(answer)

        return self._session.propagate(run, take)


def _spread(sources: Sequence[Source], most: int) -> list[tuple[Source, int]]:
    """Return the first structure of every case, then the second of every case, and so on, up to `most`."""
    longest = max((len(source.structures) for source in sources), default=0)
    every = [
        (source, source.structures[place])
        for place in range(longest)
        for source in sources
        if place < len(source.structures)
    ]
    return every[:most]
