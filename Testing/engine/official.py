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
    model = build_model(model_config(entry.config, SMALL_INPUT), draw_weights=False)
    # The same numbers again and again: drawing 225 million takes longer than all that is tested with them.
    noise = 0.02 * torch.randn(2**16, generator=torch.Generator().manual_seed(seed))
    for tensor in model.state_dict().values():
        values = tensor.view(-1)
        for start in range(0, len(values), len(noise)):
            piece = values[start : start + len(noise)]
            piece.copy_(noise[: len(piece)])
    path = folder / entry.file_name
    torch.save({"model": model.state_dict()}, path)
    return path


@contextmanager
def loaded_official(
    entry: ModelEntry, folder: Path, *, input_size: int = SMALL_INPUT, precision: str = "float32"
) -> Iterator[LoadedModel]:
    """The model of an official entry with random weights, loaded through the real path, on the CPU.

    The checkpoint (up to 900 MB) is deleted when the context ends; drop the model then, too.
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
