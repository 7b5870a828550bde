"""The engine's own way through the image encoder and the memories gives what sam2's own classes give."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from SAM2PropagateLib.engine import cpu_attention
from SAM2PropagateLib.engine.build import build_model, model_config
from SAM2PropagateLib.engine.cpu_attention import attention_in_pieces, plain_attention
from SAM2PropagateLib.engine.encoder import FrameEncoder
from SAM2PropagateLib.engine.memory_reader import MemoryReader
from Testing.engine.models import NARROW_TRUNK, TINY

SIZE = 128
GRID = SIZE // 16


def model_with(neck: dict[str, Any] | None = None, heads: int = 1) -> Any:
    """Random weights, biases included; sam2 draws some as zeros."""
    values = model_config({"base": TINY, "overrides": NARROW_TRUNK}, SIZE)
    values["image_encoder"]["neck"].update(neck or {})
    values["memory_attention"]["layer"]["cross_attention"]["num_heads"] = heads
    torch.manual_seed(3)
    model = build_model(values)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.copy_(0.1 * torch.randn(weight.shape))
    return model


@pytest.mark.parametrize(
    "neck",
    [
        {},
        {"fpn_top_down_levels": [1, 2, 3]},
        {"fpn_top_down_levels": [0, 1, 2, 3], "fpn_interp_model": "bilinear", "fuse_type": "avg"},
        {"fpn_top_down_levels": []},
    ],
)
@torch.inference_mode()
def test_features_are_those_of_sam2(neck: dict[str, Any]) -> None:
    images = torch.randn(2, 3, SIZE, SIZE)
    model = model_with(neck)
    pyramid = model.image_encoder(images)["backbone_fpn"]
    decoder = model.sam_mask_decoder
    wanted = (decoder.conv_s0(pyramid[0]), decoder.conv_s1(pyramid[1]), pyramid[2])
    found = FrameEncoder(model.image_encoder, decoder, torch.float32)(images)
    for one, other in zip(found, wanted, strict=True):
        assert one.is_contiguous()
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_features_come_in_the_precision_that_was_asked_for() -> None:
    images = torch.randn(1, 3, SIZE, SIZE)
    model = model_with()
    wanted = model.image_encoder(images)["backbone_fpn"][2]
    found = FrameEncoder(model.image_encoder, model.sam_mask_decoder, torch.bfloat16)(images)
    assert {one.dtype for one in found} == {torch.bfloat16}
    assert float((found[2].float() - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.parametrize("heads", [1, 2])
@torch.inference_mode()
def test_values_projected_last_are_the_same(heads: int) -> None:
    model = model_with(heads=heads)
    tokens, channels = GRID * GRID, model.mem_dim
    positions = [torch.randn(tokens, channels) for _ in range(3)]
    frames, frame_position = torch.randn(2, tokens, 256), torch.randn(tokens, 256)
    memories = [[torch.randn(tokens, channels) for _ in range(2)] for _ in range(2)]
    pointers = (torch.randn(2, 4, channels), torch.randn(2, 4, channels))
    answers = []
    for values_last in (False, True):
        reader = MemoryReader(model.memory_attention, positions, values_last=values_last)
        for said in (pointers, None):
            known = [list(zip((0, 2), map(reader.project, entry), strict=True)) for entry in memories]
            answers.append(reader.read(frames, frame_position, known, said))
            alone = reader.read(frames[:1], frame_position, known[:1], None)
            if said is None:
                torch.testing.assert_close(alone, answers[-1][:1], atol=1e-4, rtol=1e-4)
    with_pointers, without, with_pointers_last, without_last = answers
    assert not torch.allclose(with_pointers, without, atol=1e-3)
    torch.testing.assert_close(with_pointers_last, with_pointers, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(without_last, without, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("piece_bytes", [1, 2000, 1 << 30])
def test_pieces_of_an_attention_are_the_whole(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    monkeypatch.setattr(cpu_attention, "PIECE_BYTES", piece_bytes)
    query, key, value = torch.randn(2, 1, 13, 8), torch.randn(2, 1, 21, 8), torch.randn(2, 1, 21, 5)
    torch.testing.assert_close(attention_in_pieces(query, key, value), plain_attention(query, key, value))
