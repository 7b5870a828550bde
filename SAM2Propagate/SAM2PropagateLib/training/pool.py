"""The looks in use: new ones come, old ones go, and each is encoded once."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.atomic import write_failure
from SAM2PropagateLib.training.case import Case
from SAM2PropagateLib.training.features import FrameStock
from SAM2PropagateLib.training.image_half import ImageHalf
from SAM2PropagateLib.training.loaded_case import LoadedCase
from SAM2PropagateLib.training.looks import MOST_FRAMES, Look, draw_look
from SAM2PropagateLib.training.recipe import Recipe
from SAM2PropagateLib.training.warps import draw_warped_look

# Volumes kept in main memory.
_CASE_BYTES = 3_000_000_000
# Looks kept in main memory; the others are read from their files when they are wanted.
_LOOK_BYTES = 4_000_000_000
# Looks kept in files, about: enough for all that the default recipe wants at 384 pixels and below.
_FILE_BYTES = 10_000_000_000
# Per pixel of a frame: four features of two bytes each, and the mask.
_BYTES_PER_PIXEL = 9
# Drawing this often without a usable look means that there is none.
_MOST_DRAWS = 200
# So many draws, of a few slices each, look for something to be outlined, before a labeled structure serves
# instead.
_MOST_WARPED_DRAWS = 30


@dataclass(frozen=True)
class Source:
    """A case, those of its structures that can be learned from, and its `LoadedCase.fingerprint`."""

    case: Case
    structures: tuple[int, ...]
    fingerprint: str = ""


class CaseShelf:
    """Cases in main memory, the least recently used out first."""

    def __init__(self, budget: int = _CASE_BYTES) -> None:
        self._budget = budget
        self._kept: OrderedDict[str, LoadedCase] = OrderedDict()

    def get(self, case: Case) -> LoadedCase:
        """Return the case, read if it is not there."""
        key = str(case.image)
        if key not in self._kept:
            self._kept[key] = LoadedCase(case)
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > self._budget:
            self._kept.popitem(last=False)
        return self._kept[key]


def most_looks(recipe: Recipe, size: int) -> int:
    """Return how many looks are in use at most: what the recipe says, fewer where their files would fill the
    disk.

    It depends on the recipe and the size of the model's input alone, so that every computer learns the same.
    """
    room = _FILE_BYTES // (MOST_FRAMES * _BYTES_PER_PIXEL * size * size)
    return max(recipe.batch, min(recipe.most_looks, room))


class LookStore:
    """Looks by their numbers, in files, and the last ones in main memory.

    Args:
        folder: encoded looks are kept here. So they need not all be in main memory, and a run taken up
            again need not encode them.
        budget: bytes of looks kept in main memory.
    """

    def __init__(self, folder: Path, budget: int = _LOOK_BYTES) -> None:
        self._folder = folder
        self._budget = budget
        self._kept: OrderedDict[int, Look] = OrderedDict()  # least recently used first
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, number: int) -> bool:
        """Tell whether a look's file is there and as long as its header says."""
        try:
            with safe_open(str(self._file(number)), framework="pt") as file:
                return "owner" in file.keys()  # noqa: SIM118 - the file is no dictionary
        except (OSError, SafetensorError):
            return False

    def get(self, number: int) -> Look | None:
        """Return a look; None if it is not there, or its file is not whole."""
        if number not in self._kept:
            look = self._load(number)
            if look is None:
                return None
            self._keep(number, look)
        self._kept.move_to_end(number)
        return self._kept[number]

    def put(self, number: int, look: Look) -> None:
        """Keep a look.

        Raises:
            SAM2PropagateError: `disk_full`.
        """
        content = {f"part{n}": part.contiguous() for n, part in enumerate(look.frames.parts)}
        content["masks"] = look.masks
        content["areas"] = torch.from_numpy(np.ascontiguousarray(look.areas))
        content["owner"] = torch.tensor(look.owner)
        path = self._file(number)
        unfinished = path.with_suffix(".part")
        try:
            unfinished.write_bytes(save(content))
            os.replace(unfinished, path)  # noqa: PTH105 - atomic on every system
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise write_failure(path, error) from error
        self._keep(number, look)

    def drop(self, number: int) -> None:
        """Throw a look away."""
        self._kept.pop(number, None)
        # Windows keeps a file that is mapped; the folder goes at the end anyway.
        with contextlib.suppress(OSError):
            self._file(number).unlink()

    def _keep(self, number: int, look: Look) -> None:
        self._kept[number] = look
        while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > self._budget:
            self._kept.popitem(last=False)

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
            return None


class LookPool:
    """The looks of each step: which they are depends on the step and the recipe's seed alone.

    Args:
        shelf: reads the cases of the sources.
        image_half: encodes frames, and outlines what is on a slice.
        store: keeps the looks.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        shelf: CaseShelf,
        recipe: Recipe,
        image_half: ImageHalf,
        store: LookStore,
    ) -> None:
        self._sources = sources
        self._shelf = shelf
        self._recipe = recipe
        self._image_half = image_half
        self._store = store
        self._most = most_looks(recipe, image_half.size)
        self._there: set[int] = set()  # looks whose files are whole
        # A volume with many structures comes more often, but not in proportion: its neighbors are alike.
        weights = np.array([min(4.0, len(source.structures) ** 0.5) for source in sources])
        self._weights = weights / weights.sum()
        self._patients = sorted({source.case.patient for source in sources})

    def numbers(self, step: int) -> range:
        """Return the looks from which step `step` draws its clips, by their numbers."""
        last = max(self._recipe.batch, self._recipe.first_looks) + step // self._recipe.steps_per_look
        return range(max(0, last - self._most), last)

    def prepare(self, step: int, between: Callable[[], None] = lambda: None) -> None:
        """Encode what step `step` needs and is not there, and throw away what no later step needs.

        Args:
            between: called before each look; what it raises ends the work.

        Raises:
            InputError: `nothing_to_learn`.
            SAM2PropagateError: `disk_full`.
        """
        numbers = self.numbers(step)
        for number in [n for n in self._there if n < numbers.start]:
            self._there.discard(number)
            self._store.drop(number)
        for number in numbers:
            if number not in self._there:
                between()
                self.make(number)
                self._there.add(number)

    def make(self, number: int) -> None:
        """Encode a look if its file is not there.

        Raises:
            InputError, SAM2PropagateError: as `prepare`.
        """
        if not self._store.has(number):
            self._store.put(number, self._draw(number))

    def look(self, number: int) -> Look:
        """Return a look that is prepared; drawn again if its file is gone.

        Raises:
            InputError, SAM2PropagateError: as `prepare`.
        """
        look = self._store.get(number)
        if look is None:
            look = self._draw(number)
            self._store.put(number, look)
        return look

    def _draw(self, number: int) -> Look:
        rng = np.random.default_rng([self._recipe.seed, 1, number])
        half = self._image_half
        is_warped = rng.random() < self._recipe.warped
        for attempt in range(_MOST_DRAWS):
            source = self._sources[int(rng.choice(len(self._sources), p=self._weights))]
            structure = int(rng.choice(source.structures))
            case = self._shelf.get(source.case)
            if is_warped and attempt < _MOST_WARPED_DRAWS:
                look = draw_warped_look(case.frames, half.size, half.stock, half.propose, rng, half.style)
            else:
                look = draw_look(case.structure(structure), half.size, half.stock, rng, half.style)
            if look is not None:
                return replace(look, owner=self._patients.index(source.case.patient))
        raise InputError(
            "nothing_to_learn",
            "The structures of the cases are too small to be learned from at this input size.",
            "Choose a larger --input-size.",
        )
