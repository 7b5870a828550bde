"""The looks in use: new ones come, old ones go, and each is encoded once."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from SAM2PropagateLib.engine.looking import STRETCHED
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.training.cases import Case, LoadedCase
from SAM2PropagateLib.training.features import FrameStock
from SAM2PropagateLib.training.looks import Look, StockFrames, draw_look
from SAM2PropagateLib.training.recipe import Recipe
from SAM2PropagateLib.training.warps import Propose, draw_warped_look

# Volumes kept in memory.
_CASE_BYTES = 3_000_000_000
# Drawing this often without a usable look means that there is none.
_MOST_DRAWS = 200
# On so many slices is something to be outlined looked for, before a labelled structure serves instead.
_MOST_SLICES = 30


@dataclass(frozen=True)
class Source:
    """A case and those of its structures that can be learned from."""

    case: Case
    structures: tuple[int, ...]


class CaseShelf:
    """Cases in memory, the least recently used out first."""

    def __init__(self, budget: int = _CASE_BYTES) -> None:
        self._budget = budget
        self._kept: OrderedDict[str, LoadedCase] = OrderedDict()

    def get(self, case: Case) -> LoadedCase:
        """The case, read if it is not there."""
        key = str(case.image)
        if key not in self._kept:
            self._kept[key] = LoadedCase(case)
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > self._budget:
            self._kept.popitem(last=False)
        return self._kept[key]


class LookPool:
    """The looks of each step: which they are depends on the step and the recipe's seed alone.

    Args:
        stock: encodes frames. propose: outlines what is on a slice.
        folder: encoded looks are kept here as well, so that a run taken up again need not encode them.
        style: how a frame that is not square becomes the model's input; see `engine.looking`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        shelf: CaseShelf,
        recipe: Recipe,
        size: int,
        stock: StockFrames,
        propose: Propose,
        folder: Path,
        style: str = STRETCHED,
    ) -> None:
        self._style = style
        self._sources = sources
        self._shelf = shelf
        self._recipe = recipe
        self._size = size
        self._stock = stock
        self._propose = propose
        self._folder = folder
        self._kept: dict[int, Look] = {}
        folder.mkdir(parents=True, exist_ok=True)
        # A volume with many structures comes more often, but not in proportion: its neighbours are alike.
        weights = np.array([min(4.0, len(source.structures) ** 0.5) for source in sources])
        self._weights = weights / weights.sum()

    def at(self, step: int) -> list[Look]:
        """The looks from which step `step` draws its clips."""
        last = max(self._recipe.batch, self._recipe.first_looks) + step // self._recipe.steps_per_look
        first = max(0, last - max(self._recipe.batch, self._recipe.most_looks))
        for number in [n for n in self._kept if n < first]:
            del self._kept[number]
            self._file(number).unlink(missing_ok=True)
        for number in range(first, last):
            if number not in self._kept:
                self._kept[number] = self._load(number) or self._draw(number)
        return [self._kept[number] for number in range(first, last)]

    def _file(self, number: int) -> Path:
        return self._folder / f"look_{number:06d}.safetensors"

    def _load(self, number: int) -> Look | None:
        try:
            stored = load_file(str(self._file(number)))
            masks, areas, owner = stored.pop("masks"), stored.pop("areas"), int(stored.pop("owner"))
            return Look(
                FrameStock(tuple(stored[name] for name in sorted(stored))), masks, areas.numpy(), owner
            )
        except (OSError, SafetensorError, KeyError):
            return None  # not there, or not whole: it is drawn again

    def _draw(self, number: int) -> Look:
        rng = np.random.default_rng([self._recipe.seed, 1, number])
        is_warped = rng.random() < self._recipe.warped
        for attempt in range(_MOST_DRAWS):
            owner = int(rng.choice(len(self._sources), p=self._weights))
            source = self._sources[owner]
            structure = int(rng.choice(source.structures))
            target = self._shelf.get(source.case).structure(structure)
            if is_warped and attempt < _MOST_SLICES:
                look = draw_warped_look(target, self._size, self._stock, self._propose, rng, self._style)
            else:
                look = draw_look(target, self._size, self._stock, rng, self._style)
            if look is not None:
                look = replace(look, owner=owner)
                self._store(number, look)
                return look
        raise InputError(
            "nothing_to_learn",
            "The structures of the cases are too small to be learned from at this input size.",
            "Choose a larger --input-size.",
        )

    def _store(self, number: int, look: Look) -> None:
        content = {f"part{n}": part.contiguous() for n, part in enumerate(look.frames.parts)}
        content["masks"] = look.masks
        content["areas"] = torch.from_numpy(np.ascontiguousarray(look.areas))
        content["owner"] = torch.tensor(look.owner)
        path = self._file(number)
        unfinished = path.with_suffix(".part")
        save_file(content, str(unfinished))
        os.replace(unfinished, path)  # noqa: PTH105 - atomic on every system
