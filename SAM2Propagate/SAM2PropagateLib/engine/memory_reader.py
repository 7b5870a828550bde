"""Computes memory attention with keys and values that are computed once per memory.

In `sam2` every frame projects and rotates the keys of all its memories again, seven times the work of the
frame itself. Both steps are linear, and a memory's time code only adds to its keys, so that the memory's own
share and the time code's share can be kept apart and added: the same numbers, but for rounding. The weights
of a query add up to one, so its values can be projected after they were averaged, when there is one for each
query instead of one for each token of each memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.sam.transformer import RoPEAttention

from SAM2PropagateLib.engine.cpu_attention import attention_in_pieces

# Keys and values per layer, (heads, tokens, channels of a head) each; values that are projected later are
# (1, tokens, memory channels).
Projected = list[tuple[torch.Tensor, torch.Tensor]]


class MemoryReader:
    """Runs a `sam2` memory attention on projected memories.

    Args:
        attention: the model's memory attention, on its device and in its precision.
        slot_positions: (tokens, channels) each: what is added to a memory's keys in slot n.
        values_last: project values after the attention. Less work, and less to keep; the attention is then
            computed in pieces by plain products, as on a CPU.
    """

    def __init__(
        self, attention: Any, slot_positions: Sequence[torch.Tensor], *, values_last: bool = False
    ) -> None:
        self._attention = attention
        self._values_last = values_last
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
        """Return a memory's own share of keys and values in every layer.

        Args:
            spatial: (tokens, memory channels).
        """
        projected = []
        for layer in self._layers:
            cross = layer.cross_attn_image
            keys = _rotated(cross, _heads(cross, F.linear(spatial, cross.k_proj.weight)))
            projected.append((keys, self._values(cross, spatial)))
        return projected

    def read(
        self,
        frames: torch.Tensor,
        frame_position: torch.Tensor,
        memories: Sequence[Sequence[tuple[int, Projected]]],
        pointers: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """Return frames with the memories' information.

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
        own = [[(slot, projected[number]) for slot, projected in entry] for entry in memories]
        rows = [[keys + slots[slot] for slot, (keys, _) in entry] for entry in own]
        values = [[value for _, (_, value) in entry] for entry in own]
        if pointers is not None:
            tokens, codes = pointers
            share = tokens + codes if layer.pos_enc_at_cross_attn_keys else tokens
            for entry, keys in zip(rows, _heads(cross, cross.k_proj(share)), strict=True):
                entry.append(keys)
            for entry, value in zip(values, self._values(cross, tokens), strict=True):
                entry.append(value)
        found = self._attended(cross, queries, _batch(rows), _batch(values))
        answer: torch.Tensor = cross.out_proj(cross._recombine_heads(found))
        return answer

    def _values(self, cross: Any, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[..., None, :, :] if self._values_last else _heads(cross, cross.v_proj(tokens))

    def _attended(
        self, cross: Any, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """Return (batch, heads, tokens, channels of a head)."""
        if not self._values_last:
            return F.scaled_dot_product_attention(queries, keys, values)
        found = attention_in_pieces(queries, keys, values)
        weight = cross.v_proj.weight.unflatten(0, (cross.num_heads, -1))
        return found @ weight.transpose(-1, -2) + cross.v_proj.bias.reshape(cross.num_heads, 1, -1)


def _batch(entries: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """Return parts of each entry one after the other; all entries in a batch."""
    rows = [torch.cat(list(parts), dim=-2) for parts in entries]
    return rows[0][None] if len(rows) == 1 else torch.stack(rows)


def _heads(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Turn (..., tokens, channels) into (..., heads, tokens, channels of a head)."""
    *rest, count, channels = tokens.shape
    split = tokens.reshape(*rest, count, attention.num_heads, channels // attention.num_heads)
    return split.transpose(-2, -3)


def _rotated(attention: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return tokens with their place on the grid turned into them; plain attention leaves them as they
    are."""
    if not isinstance(attention, RoPEAttention):
        return tokens
    side = math.isqrt(tokens.shape[-2])
    if attention.freqs_cis.shape[0] != tokens.shape[-2]:
        attention.freqs_cis = attention.compute_cis(end_x=side, end_y=side)
    turns = attention.freqs_cis = attention.freqs_cis.to(tokens.device)
    pairs = torch.view_as_complex(tokens.float().reshape(*tokens.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).to(tokens.dtype)
