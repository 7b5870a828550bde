"""Each of the eight official configurations: built, saved as Meta saves, loaded through the real path."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from SAM2PropagateLib.engine.build import model_config, recognize_config
from SAM2PropagateLib.engine.weights import read_state
from SAM2PropagateLib.models.registry import ModelEntry
from Testing.engine.official import OFFICIAL, SMALL_INPUT, loaded_official


@pytest.mark.parametrize("entry", OFFICIAL, ids=lambda entry: entry.name)
def test_it_loads_and_encodes_a_frame(entry: ModelEntry, tmp_path: Path) -> None:
    assert len(OFFICIAL) == 8
    with loaded_official(entry, tmp_path) as loaded:
        model = loaded.model
        assert (loaded.name, loaded.input_size, loaded.dtype) == (entry.name, SMALL_INPUT, torch.float32)
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        assert millions == pytest.approx(entry.parameters, abs=0.06)
        assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
        stored, _ = read_state(tmp_path / entry.file_name)
        assert recognize_config(stored) == entry.config
        own = model.state_dict()
        assert own.keys() == stored.keys()
        for name in ("maskmem_tpos_enc", "image_encoder.trunk.patch_embed.proj.weight", "no_obj_ptr"):
            assert torch.equal(own[name], stored[name])
        with torch.inference_mode():
            features = model.forward_image(torch.rand(1, 3, SMALL_INPUT, SMALL_INPUT))["backbone_fpn"]
        sides = [SMALL_INPUT // 4, SMALL_INPUT // 8, SMALL_INPUT // 16]
        assert [tuple(level.shape[-2:]) for level in features] == [(side, side) for side in sides]
        assert all(bool(torch.isfinite(level).all()) for level in features)
        del model, own, stored, features, loaded
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_sam_2_and_2_1_differ_where_they_should() -> None:
    old, new = model_config("sam2_hiera_t"), model_config("sam2.1_hiera_t")
    assert not old["add_tpos_enc_to_obj_ptrs"] and "no_obj_embed_spatial" not in old
    assert new["add_tpos_enc_to_obj_ptrs"] and new["no_obj_embed_spatial"]
