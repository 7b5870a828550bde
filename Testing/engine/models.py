"""Models for the tests of the engine: the bundled one, and random ones."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from SAM2PropagateLib.engine.build import build_model, load_model, model_config
from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.engine.steps import SAM2Steps

BUNDLED = (
    Path(__file__).parents[2] / "SAM2Propagate" / "Resources" / "Models" / "sam2propagate_tiny.safetensors"
)
TINY = "configs/sam2.1/sam2.1_hiera_t.yaml"
SHALLOW_TRUNK = {
    "model.image_encoder.trunk.stages": [1, 1, 2, 1],
    "model.image_encoder.trunk.global_att_blocks": [3],
}
NARROW_TRUNK = {
    **SHALLOW_TRUNK,
    "model.image_encoder.trunk.embed_dim": 24,
    "model.image_encoder.neck.backbone_channel_list": [192, 96, 48, 24],
}
"""A sixteenth of the weights of SAM 2.1 tiny's trunk: reading them is what a small frame costs."""


def half_width() -> dict[str, int]:
    """Overrides for half the channels of SAM 2.1 tiny behind its trunk: a quarter of the weights there."""
    attention, memory = "model.memory_attention", "model.memory_encoder"
    wide = (
        "model.image_encoder.neck.d_model",
        "model.image_encoder.neck.position_encoding.num_pos_feats",
        f"{attention}.d_model",
        f"{attention}.layer.d_model",
        f"{attention}.layer.self_attention.embedding_dim",
        f"{attention}.layer.cross_attention.embedding_dim",
        f"{memory}.in_dim",
        f"{memory}.mask_downsampler.embed_dim",
        f"{memory}.fuser.layer.dim",
    )
    narrow = (
        f"{attention}.layer.cross_attention.kv_in_dim",
        f"{memory}.out_dim",
        f"{memory}.position_encoding.num_pos_feats",
    )
    return {**dict.fromkeys(wide, 128), **dict.fromkeys(narrow, 32)}


def bundled(precision: str = "float32", input_size: int = 256) -> LoadedModel:
    """The bundled model, loaded again: an engine takes its model over."""
    return load_model(BUNDLED, device="cpu", precision=precision, input_size=input_size)


@lru_cache(maxsize=1)
def bundled_engine_model() -> LoadedModel:
    """One bundled model in float32 that tests may share."""
    return bundled()


def random_model(config: str = TINY, input_size: int = 128, seed: int = 0) -> LoadedModel:
    """A model with random weights."""
    torch.manual_seed(seed)
    model = build_model(model_config(config, input_size))
    return LoadedModel(model, torch.device("cpu"), torch.float32, input_size, "random", SAM2Steps, {})
