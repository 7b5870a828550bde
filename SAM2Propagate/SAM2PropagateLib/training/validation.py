"""Measuring while training, with the engine itself: one box on the largest slice, no range."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from SAM2PropagateLib.engine.build import LoadedModel
from SAM2PropagateLib.engine.device import compute_dtype
from SAM2PropagateLib.engine.features import FeatureStore
from SAM2PropagateLib.engine.looking import STRETCHED
from SAM2PropagateLib.engine.session import EngineSession
from SAM2PropagateLib.engine.steps import ModelSteps
from SAM2PropagateLib.evaluation.protocol import EvaluationOptions, evaluate
from SAM2PropagateLib.training.pool import CaseShelf, Source

_FEATURE_BYTES = 1_000_000_000  # kept per structure
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
        return asdict(self)


class Validation:
    """Scores of a model as it learns.

    Args:
        sources: structures to measure on.
        most: of these at most so many, spread over the cases.
        keeps_features: the image half stays as it is, so that its features need be computed only once.
    """

    def __init__(
        self, sources: Sequence[Source], shelf: CaseShelf, *, most: int, keeps_features: bool
    ) -> None:
        self._chosen = _spread(sources, most)
        self._shelf = shelf
        self._keeps = keeps_features
        self._stores: dict[int, FeatureStore] = {}

    @property
    def structure_count(self) -> int:
        return len(self._chosen)

    def score(self, loaded: LoadedModel, between: Callable[[], None] = lambda: None) -> Score:
        """Measure a model; it is left as it is.

        Args:
            between: called before each structure; what it raises ends the measuring.
        """
        dtype = compute_dtype(loaded.device, "auto")
        steps = ModelSteps(replace(loaded, model=copy.deepcopy(loaded.model), dtype=dtype))
        style = loaded.metadata.get("view", STRETCHED)
        found = []
        for number, (source, structure) in enumerate(self._chosen):
            between()
            target = self._shelf.get(source.case).structure(structure)

            def store(encode: Any, number: int = number) -> FeatureStore:
                new = FeatureStore(encode, loaded.device, _FEATURE_BYTES, _FEATURE_BYTES)
                return self._stores.setdefault(number, new) if self._keeps else new

            session = EngineSession(steps, target.frames, None, store, _TRACKED_AT_ONCE, style)
            scores = evaluate(target, session, EvaluationOptions(corrections=0))
            found.append(
                StructureScore(target.target.title, scores.preview, scores.volume, scores.volume_in_range)
            )
        means = np.mean([[s.preview, s.volume, s.in_range] for s in found], axis=0)
        return Score(float(means[0]), float(means[1]), float(means[2]), tuple(found))


def _spread(sources: Sequence[Source], most: int) -> list[tuple[Source, int]]:
    """The first structure of every case, then the second of every case, and so on, up to `most`."""
    longest = max((len(source.structures) for source in sources), default=0)
    every = [
        (source, source.structures[place])
        for place in range(longest)
        for source in sources
        if place < len(source.structures)
    ]
    return every[:most]
