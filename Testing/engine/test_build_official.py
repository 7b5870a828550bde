"""Each of the eight official configurations: built, saved as Meta saves, loaded through the real path."""

from __future__ import annotations

import gc
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from SAM2PropagateLib.engine.build import model_config, recognize_config
from SAM2PropagateLib.engine.engine import PropagationEngine
from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.engine.results import FrameMask
from SAM2PropagateLib.engine.weights import read_state
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.models.registry import ModelEntry
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunRequest
from Testing.engine.official import OFFICIAL, SMALL_INPUT, loaded_official


@pytest.mark.parametrize("entry", OFFICIAL, ids=lambda entry: entry.name)
def test_it_loads_and_propagates(entry: ModelEntry, tmp_path: Path) -> None:
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
        del own, stored
        _propagate_over_a_tiny_volume(loaded)
        del model, loaded
    gc.collect()
    assert not list(tmp_path.iterdir())


def _propagate_over_a_tiny_volume(loaded: LoadedModel) -> None:
    # Random weights may call the object absent; what counts is that every step runs and answers in full.
    session = PropagationEngine(loaded).open(tiny_stack())
    masks: list[FrameMask] = []
    segment = ResolvedSegment("s", {1: FramePrompts(box=(8.0, 8.0, 24.0, 24.0))}, frozenset(), 0, 2)
    summary = session.propagate(RunRequest((segment,)), masks.append)
    assert sorted(mask.frame for mask in masks) == [0, 1, 2]
    assert all(mask.mask.shape == (32, 40) and mask.mask.dtype == bool for mask in masks)
    assert all(math.isfinite(mask.predicted_iou + mask.object_score + mask.doubt) for mask in masks)
    assert (summary.frames_encoded, summary.frames_computed) == (3, 2)


def tiny_stack() -> FrameStack:
    volume = np.zeros((3, 32, 40), np.int16)
    volume[:, 10:22, 10:22] = 100
    return FrameStack(volume, VolumeGeometry((40, 32, 3), np.eye(4)), 2, Window(200, 50))


def test_sam_2_and_2_1_differ_where_they_should() -> None:
    old, new = model_config("sam2_hiera_t"), model_config("sam2.1_hiera_t")
    assert not old["add_tpos_enc_to_obj_ptrs"] and "no_obj_embed_spatial" not in old
    assert new["add_tpos_enc_to_obj_ptrs"] and new["no_obj_embed_spatial"]
