"""Another family of models beside SAM 2: found in the registry, loaded, previewed and propagated."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from SAM2PropagateLib.cli.main import main
from SAM2PropagateLib.engine.families import FAMILIES, load_model
from SAM2PropagateLib.engine.family import MASK_PROMPT_LOGIT, Decoded, LoadedModel, Recall
from SAM2PropagateLib.engine.steps import SAM2Steps
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.experiment.plan import ModelUse
from SAM2PropagateLib.experiment.work import opener
from SAM2PropagateLib.models.registry import DEFAULT_MODEL, SAM2, ModelEntry, find_model
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunOptions, RunRequest
from SAM2PropagateLib.worker.engine_adapter import ServedEngine
from SAM2PropagateLib.worker.engine_port import Mask
from SAM2PropagateLib.worker.messages import LoadModel
from Testing.engine.fake_steps import blocks, frames_of

SIZE, FRAMES = 64, 12
NAME, FAMILY = "brightness_small", "brightness"


# --- a family: a structure is what is as bright as the place that was prompted


@dataclass(frozen=True)
class Brightness:
    """What the family makes of a frame.

    Attributes:
        grid: float32 (side, side).
    """

    grid: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.grid.nelement() * self.grid.element_size()

    @property
    def maps(self) -> tuple[torch.Tensor, ...]:
        return (self.grid[None],)

    def to(self, device: torch.device | str) -> Brightness:
        return Brightness(self.grid.to(device))

    def to_host(self) -> Brightness:
        return self.to("cpu")


@dataclass
class Level:
    """What it remembers of a frame: how bright the structure is there."""

    value: torch.Tensor
    rests: int = 0

    def rest(self) -> None:
        self.rests += 1


class BrightnessSteps:
    """The family's steps; see `family.ModelSteps`."""

    runs_ahead = False
    slots = 2
    max_pointers = 1

    def __init__(self, loaded: LoadedModel) -> None:
        self.device = loaded.device
        self.input_size = loaded.input_size
        self._reach = loaded.model["reach"]

    def encode(self, images: torch.Tensor) -> list[Brightness]:
        side = self.input_size // 4
        grids = F.interpolate(images[:, :1], size=(side, side), mode="area")[:, 0]
        return [Brightness(grid) for grid in grids]

    def decode_prompts(
        self,
        features: Brightness,
        points: torch.Tensor | None,
        labels: torch.Tensor | None,
        mask_logits: torch.Tensor | None = None,
    ) -> Decoded:
        assert points is not None and labels is not None
        x, y = points[labels >= 2].mean(0) if (labels >= 2).any() else points[-1]
        return self._alike([features], features.grid[int(y / 4), int(x / 4)][None])

    def decode_mask(self, features: Brightness, mask: torch.Tensor) -> Decoded:
        grid = F.interpolate(mask, size=features.grid.shape, mode="area")[0]
        level = features.grid[grid[0] > 0.5].median()[None]
        return replace(self._alike([features], level), logits=(grid * 2 - 1) * MASK_PROMPT_LOGIT)

    def track(self, features: Sequence[Brightness], recalls: Sequence[Recall]) -> Decoded:
        newest = [max(one.spatial, key=lambda pair: (pair[0] == 1, -pair[0]))[1] for one in recalls]
        return self._alike(features, torch.stack([memory.value for memory in newest]))

    def settled(self, decoded: Decoded) -> Decoded:
        return decoded

    def remember(self, features: Sequence[Brightness], decoded: Decoded, *, prompted: bool) -> list[Level]:
        return [Level(pointer[0]) for pointer in decoded.pointer]

    def _alike(self, features: Sequence[Brightness], levels: torch.Tensor) -> Decoded:
        grids = torch.stack([one.grid for one in features])
        near = (grids - levels[:, None, None]).abs() < self._reach
        logits = torch.where(near, 5.0, -5.0)
        score = torch.where(near.any(-1).any(-1), 5.0, -5.0)
        return Decoded(logits, torch.full_like(score, 0.9), score, levels[:, None])


def load_brightness(
    path: Path, *, config: Any, device: Any, input_size: Any, precision: Any, name: Any
) -> LoadedModel:
    """Loads a model of the family: one number."""
    where = torch.device("cpu")
    return LoadedModel(
        load_file(path), where, torch.float32, input_size or SIZE, name or path.stem, BrightnessSteps
    )


FAMILIES_HERE = {**FAMILIES, FAMILY: load_brightness}


# --- the tests


def write_model(folder: Path, metadata: dict[str, str] | None = None) -> Path:
    file = folder / "brightness.safetensors"
    save_file({"reach": torch.tensor(0.2)}, file, metadata)
    return file


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """A registry that lists a model of the family beside the bundled one."""
    file = write_model(tmp_path)
    entry = ModelEntry(
        name=NAME,
        title="Brightness",
        url=None,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        bytes=file.stat().st_size,
        license="CC0-1.0",
        config=None,
        input_size=SIZE,
        parameters=0.0,
        memory_mb=1,
        resource=file.name,
        family=FAMILY,
    )
    return ModelStore(tmp_path / "cache", resources=tmp_path, models=(entry, find_model(DEFAULT_MODEL)))


def told(*_: object) -> None:
    """Progress that nobody reads."""


def assert_alike(mask: np.ndarray, wanted: np.ndarray) -> None:
    """The masks are the same, but for some corners: they come from the model's coarser grid."""
    assert np.count_nonzero(mask & wanted) >= 0.95 * np.count_nonzero(mask | wanted) > 0


@pytest.mark.parametrize("motion", [False, True])
def test_a_model_of_another_family_previews_and_propagates(store: ModelStore, motion: bool) -> None:
    engine = ServedEngine(store, FAMILIES_HERE)
    facts = engine.load_model(LoadModel(name=NAME, motion=motion), told)
    assert facts == {"model": NAME, "device": "cpu", "dtype": "float32", "input_size": SIZE}
    volume = blocks(FRAMES)
    session = engine.open(frames_of(volume), None)
    bright, gray = FramePrompts(((15.0, 15.0, True),)), FramePrompts(((40.0, 44.0, True),))
    assert_alike(session.preview(5, bright, "bright").mask, volume[5] == 200)
    said = {"bright": bright, "gray": gray}
    segments = tuple(ResolvedSegment(name, {5: one}, last=FRAMES - 1) for name, one in said.items())
    found: dict[tuple[str, int], Mask] = {}
    session.propagate(
        RunRequest(segments, RunOptions()),
        lambda mask: found.update({(mask.segment, mask.frame): mask}),
        lambda done: None,
    )
    assert len(found) == 2 * FRAMES
    for (name, frame), one in found.items():
        assert_alike(one.mask, volume[frame] == (200 if name == "bright" else 120))


def test_a_mask_that_the_user_gave_is_carried_by_another_family(store: ModelStore) -> None:
    engine = ServedEngine(store, FAMILIES_HERE)
    engine.load_model(LoadModel(name=NAME), told)
    volume = blocks(FRAMES)
    session = engine.open(frames_of(volume), None)
    given = volume[3] == 120
    said = FramePrompts((), mask=given)
    found: dict[int, Mask] = {}
    session.propagate(
        RunRequest((ResolvedSegment("gray", {3: said}, last=FRAMES - 1),), RunOptions()),
        lambda mask: found.update({mask.frame: mask}),
        lambda done: None,
    )
    assert sorted(found) == list(range(FRAMES))
    for one in found.values():
        assert_alike(one.mask, given)


def test_both_families_are_loaded_by_one_engine_after_each_other(store: ModelStore) -> None:
    engine = ServedEngine(replaced_bundled(store), FAMILIES_HERE)
    assert engine.load_model(LoadModel(name=NAME), told)["model"] == NAME
    facts = engine.load_model(LoadModel(name=DEFAULT_MODEL, device="cpu", input_size=256), told)
    assert (facts["model"], facts["input_size"]) == (DEFAULT_MODEL, 256)


def replaced_bundled(store: ModelStore) -> ModelStore:
    """The same models, each in its own folder."""
    bundled = ModelStore().path_of(find_model(DEFAULT_MODEL))
    (store.resources / bundled.name).symlink_to(bundled)
    return store


def test_the_family_of_a_file_of_the_user_s_is_what_the_file_says(tmp_path: Path) -> None:
    file = write_model(tmp_path, {"family": FAMILY})
    loaded = load_model(file, families=FAMILIES_HERE)
    assert loaded.make_steps is BrightnessSteps
    with pytest.raises(InputError) as raised:
        load_model(file)
    assert raised.value.code == "unknown_family"
    assert "“brightness.safetensors”" in raised.value.sentence and "“brightness”" in raised.value.sentence


def test_the_experiment_loads_a_model_as_its_family_does(tmp_path: Path) -> None:
    file = write_model(tmp_path, {"family": FAMILY})
    with pytest.raises(InputError) as raised:
        opener(ModelUse("mine", file, "stamp"))
    assert raised.value.code == "unknown_family"


def test_a_file_that_says_nothing_is_sam_2_s(tmp_path: Path) -> None:
    loaded = load_model(ModelStore().path_of(find_model(DEFAULT_MODEL)), device="cpu")
    assert loaded.make_steps is SAM2Steps and SAM2 in FAMILIES
    with pytest.raises(InputError) as raised:
        load_model(write_model(tmp_path), families=FAMILIES_HERE)
    assert raised.value.code == "config_unknown"


def test_only_sam_2_is_fine_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_model(tmp_path, {"family": FAMILY})
    code = main(
        [
            "finetune",
            "--cases",
            str(tmp_path),
            "--from",
            str(file),
            "--out",
            str(tmp_path / "new.safetensors"),
        ]
    )
    assert code == 2 and "Only SAM 2 models can be fine-tuned" in capsys.readouterr().err
    assert not (tmp_path / "new.safetensors").exists()
