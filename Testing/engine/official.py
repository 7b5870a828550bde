"""Stand-ins for Meta's checkpoints: the eight configurations with random weights, in Meta's file format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from SAM2PropagateLib.engine.build import build_model, load_model, model_config
from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.models.registry import MODELS, ModelEntry

OFFICIAL: tuple[ModelEntry, ...] = tuple(entry for entry in MODELS if entry.url is not None)
SMALL_INPUT = 64


def write_checkpoint(entry: ModelEntry, folder: Path, *, seed: int = 0) -> Path:
    """A checkpoint of that model with random weights: {"model": state}, under its file name."""
    assert entry.config is not None
    model = build_model(model_config(entry.config, SMALL_INPUT), device=torch.device("meta"))
    state = model.state_dict()
    # All tensors share the same numbers, which are drawn and written once: up to 225 million take long.
    noise = 0.02 * torch.randn(
        max(map(torch.numel, state.values())), generator=torch.Generator().manual_seed(seed)
    )
    shared = {name: noise[: tensor.numel()].view(tensor.shape) for name, tensor in state.items()}
    path = folder / entry.file_name
    torch.save({"model": shared}, path)
    return path


@contextmanager
def loaded_official(
    entry: ModelEntry, folder: Path, *, input_size: int = SMALL_INPUT, precision: str = "float32"
) -> Iterator[LoadedModel]:
    """The model of an official entry with random weights, loaded through the real path, on the CPU.

    The checkpoint is deleted when the context ends; drop the model (up to 900 MB) then, too.
    """
    path = write_checkpoint(entry, folder)
    try:
        yield load_model(
            path,
            config=entry.config,
            device="cpu",
            input_size=input_size,
            precision=precision,
            name=entry.name,
        )
    finally:
        path.unlink(missing_ok=True)
