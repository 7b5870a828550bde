"""The encoding before a training, done by several processes: each makes some of the first looks.

Which looks there are depends on the recipe's seed alone, so it does not matter who makes them. They go into
the run's own folder, where the training finds them.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from SAM2PropagateLib.engine.build import load_model
from SAM2PropagateLib.training.image_half import ImageHalf
from SAM2PropagateLib.training.parts import unfreeze
from SAM2PropagateLib.training.pool import CaseShelf, LookPool, LookStore, Source
from SAM2PropagateLib.training.recipe import Recipe

# Looks of one piece of work: few, so that all processes end at about the same time.
_AT_ONCE = 4


@dataclass(frozen=True)
class Encoding:
    """What makes the looks of a training.

    Attributes:
        sources: to learn from; their files as every process finds them.
        recipe: of the training.
        model: the weights file. checksum: its SHA-256. config, device, input_size: see `load_model`.
        further: parts to unfreeze; see `parts.unfreeze`.
        folder: for the looks.
    """

    sources: tuple[Source, ...]
    recipe: Recipe
    model: Path
    checksum: str
    config: str | None
    device: str
    input_size: int | None
    further: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class EncodingWork:
    """Some of the looks, by their numbers."""

    encoding: Encoding
    numbers: tuple[int, ...]


def works_of(encoding: Encoding, numbers: Sequence[int]) -> list[EncodingWork]:
    """Return the work of making these looks, in pieces."""
    starts = range(0, len(numbers), _AT_ONCE)
    return [EncodingWork(encoding, tuple(numbers[start : start + _AT_ONCE])) for start in starts]


def encode_looks(work: EncodingWork) -> int:
    """Make missing looks; return how many looks this piece of work has.

    Raises:
        InputError, SAM2PropagateError: as `LookPool.make`, `load_model` and `LoadedCase`.
    """
    pool = _pool(pickle.dumps(work.encoding))
    for number in work.numbers:
        pool.make(number)
    return len(work.numbers)


@functools.lru_cache(maxsize=1)
def _pool(pickled: bytes) -> LookPool:
    """Return this process's pool for an `Encoding`, with its model and the cases that it read."""
    encoding: Encoding = pickle.loads(pickled)
    loaded = load_model(
        encoding.model,
        config=encoding.config,
        device=encoding.device,
        input_size=encoding.input_size,
        precision="float32",
    )
    image_half = ImageHalf.of(loaded, unfreeze(loaded.model, encoding.further))
    # None is needed again here.
    store = LookStore(encoding.folder, budget=0)
    return LookPool(encoding.sources, CaseShelf(), encoding.recipe, image_half, store)
