"""Which of SAM 2's weights learn.

The image half (image encoder, prompt encoder) has seen millions of pictures and stays as it is unless asked
otherwise. What learns is what makes a video model of it: the memory half, and, more slowly, the mask decoder
that reads conditioned features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from SAM2PropagateLib.errors import InputError

MEMORY, HEADS, PROMPTS, IMAGE = "memory", "heads", "prompts", "image"
# What --unfreeze takes.
FURTHER_PARTS = (PROMPTS, IMAGE)

_MEMORY_NAMES = (
    "memory_attention.",
    "memory_encoder.",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
    "maskmem_tpos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "mask_downsample.",
    "sam_mask_decoder.pred_obj_score_head.",
    "sam_mask_decoder.obj_score_token.",
)
_IMAGE_NAMES = (
    "image_encoder.",
    # These are in the mask decoder but work on the image alone, once per frame.
    "sam_mask_decoder.conv_s0.",
    "sam_mask_decoder.conv_s1.",
    # Added to the image's features where there is no memory yet: nothing that a prompt says.
    "no_mem_embed",
    "no_mem_pos_enc",
)


def part_of(name: str) -> str:
    """Return the part that a weight belongs to, by its name in the model."""
    if name.startswith(_MEMORY_NAMES):
        return MEMORY
    if name.startswith(_IMAGE_NAMES):
        return IMAGE
    return HEADS if name.startswith("sam_mask_decoder.") else PROMPTS


@dataclass(frozen=True)
class Learning:
    """The weights that learn: part -> {name: parameter}."""

    parts: dict[str, dict[str, torch.nn.Parameter]]

    @property
    def by_name(self) -> dict[str, torch.nn.Parameter]:
        """The weights of all parts, by their names in the model."""
        return {name: value for part in self.parts.values() for name, value in part.items()}


def unfreeze(model: Any, further: tuple[str, ...] = ()) -> Learning:
    """Let the memory half and the heads learn, and the further parts; everything else stays frozen.

    Raises:
        InputError: `unknown_part`.
    """
    for part in further:
        if part not in FURTHER_PARTS:
            raise InputError(
                "unknown_part",
                f"The model has no part “{part}” to unfreeze.",
                f"Choose from {', '.join(FURTHER_PARTS)}.",
            )
    parts: dict[str, dict[str, torch.nn.Parameter]] = {part: {} for part in (MEMORY, HEADS, *further)}
    for name, parameter in model.named_parameters():
        learns = part_of(name) in parts
        parameter.requires_grad_(learns)
        if learns:
            parts[part_of(name)][name] = parameter
    return Learning(parts)
