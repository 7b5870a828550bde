"""Memory attention with the memories' keys and values computed once, when they are made.

In `sam2` every frame projects and rotates the keys of all its memories again, seven times the work of the
frame itself. Both steps are linear, and a memory's time code only adds to its keys, so that the memory's own
share and the time code's share can be kept apart and added: the same numbers, but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.sam.transformer import RoPEAttention

# Per layer, (heads, tokens, channels of a head) each.
Projected = list[tuple[torch.Tensor, torch.Tensor]]


class MemoryReader:
    """Runs a `sam2` memory attention on projected memories.

    Args:
        attention: the model's memory attention, on its device and in its precision.
        slot_positions: (tokens, channels) each: what is added to a memory's keys in slot n.
    """

    def __init__(self, attention: Any, slot_positions: Sequence[torch.Tensor]) -> None:
        self._attention = attention
        self._layers = list(attention.layers)
        self._slots = [self._slot_keys(layer, slot_positions) for layer in self._layers]

    def _slot_keys(self, layer: Any, positions: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        cross = layer.cross_attn_image
        keys = []
        for position in positions:
            # Without position codes at the keys only the projection's bias is left.
            share = position if layer.pos_enc_at_cross_attn_keys else torch.zeros_like(position)
            keys.append(_rotated(cross, _heads(cross, cross.k_proj(share))))
        return keys

    @torch.inference_mode()
    def project(self, spatial: torch.Tensor) -> Projected:
        """A memory's own share of keys and values in every layer.

        Args:
            spatial: (tokens, memory channels).
        """
        projected = []
        for layer in self._layers:
            cross = layer.cross_attn_image
            keys = _rotated(cross, _heads(cross, F.linear(spatial, cross.k_proj.weight)))
            projected.append((keys, _heads(cross, cross.v_proj(spatial))))
        return projected

    def read(
        self,
        frames: torch.Tensor,
        frame_position: torch.Tensor,
        memories: Sequence[Sequence[tuple[int, Projected]]],
        pointers: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """Frames that know what was remembered.

        Args:
            frames: (batch, tokens, channels).
            frame_position: (tokens, channels), the frame's position code.
            memories: per frame, pairs (slot, projected memory); the same number for all.
            pointers: (batch, pointer tokens, memory channels) and their time codes alike, or None.

        Returns:
            (batch, tokens, channels).
        """
        out = frames
        if self._attention.pos_enc_at_input:
            out = out + 0.1 * frame_position
        for number, layer in enumerate(self._layers):
            out = layer._forward_sa(out, frame_position)
            out = out + self._cross(number, layer, out, frame_position, memories, pointers)
            hidden = layer.activation(layer.linear1(layer.norm3(out)))
            out = out + layer.linear2(hidden)
        result: torch.Tensor = self._attention.norm(out)
        return result

    def _cross(
        self,
        number: int,
        layer: Any,
        frames: torch.Tensor,
        frame_position: torch.Tensor,
        memories: Sequence[Sequence[tuple[int, Projected]]],
        pointers: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        cross = layer.cross_attn_image
        asked = layer.norm2(frames)
        if layer.pos_enc_at_cross_attn_queries:
            asked = asked + frame_position
        queries = _rotated(cross, _heads(cross, cross.q_proj(asked)))
        slots = self._slots[number]
        keys = torch.stack(
            [torch.cat([own[number][0] + slots[slot] for slot, own in entry], dim=-2) for entry in memories]
        )
        values = torch.stack([torch.cat([own[number][1] for _, own in entry], dim=-2) for entry in memories])
        if pointers is not None:
            tokens, codes = pointers
            share = tokens + codes if layer.pos_enc_at_cross_attn_keys else tokens
            keys = torch.cat([keys, _heads(cross, cross.k_proj(share))], dim=-2)
            values = torch.cat([values, _heads(cross, cross.v_proj(tokens))], dim=-2)
        found = F.scaled_dot_product_attention(queries, keys, values)
        answer: torch.Tensor = cross.out_proj(cross._recombine_heads(found))
        return answer


def _heads(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    """(..., tokens, channels) -> (..., heads, tokens, channels of a head)."""
    *rest, count, channels = tokens.shape
    split = tokens.reshape(*rest, count, attention.num_heads, channels // attention.num_heads)
    return split.transpose(-2, -3)


def _rotated(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Tokens with their place on the grid turned into them; plain attention leaves them as they are."""
    if not isinstance(attention, RoPEAttention):
        return tokens
    side = math.isqrt(tokens.shape[-2])
    if attention.freqs_cis.shape[0] != tokens.shape[-2]:
        attention.freqs_cis = attention.compute_cis(end_x=side, end_y=side)
    turns = attention.freqs_cis = attention.freqs_cis.to(tokens.device)
    pairs = torch.view_as_complex(tokens.float().reshape(*tokens.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).to(tokens.dtype)
