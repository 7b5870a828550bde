"""Runs the image encoder without computing what the engine does not use.

`sam2` widens the two finer levels of the trunk to 256 channels, and its mask decoder narrows them at once to
32 and 64. Both steps are linear and nothing is between them, so one convolution does for both: the same
numbers, but for rounding. The position codes that `sam2` makes for every frame and level are left out. Where
8-bit integers are faster, most of the trunk computes on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from SAM2PropagateLib.engine.int8_linear import use_int8

# The trunk's levels from the finest; prompts and memories work on the third.
_FINE, _MIDDLE, _COARSE = range(3)


class FrameEncoder:
    """Makes the three levels of features that prompts and memories need.

    Args:
        encoder: the model's image encoder; float32, on its device.
        decoder: the model's mask decoder, likewise, which narrows the two finer levels.
        dtype: to compute in; `encoder` is converted to it in place.
        int8: compute the linear layers of attention and feed-forward in 8-bit integers, but for those of the
            first stage: few channels at many places, so that integers gain nothing there, and whatever they
            lose goes through all others. Only with float32 on a CPU.
    """

    def __init__(self, encoder: Any, decoder: Any, dtype: torch.dtype, *, int8: bool = False) -> None:
        self._neck = encoder.neck
        self._narrow = [decoder.conv_s0, decoder.conv_s1]
        # A level to which the neck adds a coarser level's result cannot be joined.
        self._joined = [
            None if level in self._neck.fpn_top_down_levels else self._join(level, narrow).to(dtype)
            for level, narrow in enumerate(self._narrow)
        ]
        self._dtype = dtype
        encoder.to(dtype)
        self.trunk: Any = encoder.trunk
        _keep_position_codes(self.trunk)
        if int8:
            for block in self.trunk.blocks[self.trunk.stage_ends[0] + 1 :]:
                use_int8(block.attn)
                use_int8(block.mlp)

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return features of a batch of frames.

        Args:
            images: (frames, 3, size, size).

        Returns:
            (frames, 32, 4h, 4w), (frames, 64, 2h, 2w) and (frames, 256, h, w), contiguous; h = w = size / 16.
        """
        levels = self.trunk(images.to(self._dtype))
        necks = self._necks(levels)
        fine, middle = (self._narrowed(level, levels, necks) for level in (_FINE, _MIDDLE))
        return fine.contiguous(), middle.contiguous(), necks[_COARSE].to(self._dtype).contiguous()

    def _join(self, level: int, narrow: torch.nn.Conv2d) -> torch.nn.Conv2d:
        """Return the neck's convolution of a level and the decoder's 1 x 1 convolution after it as a single
        one."""
        wide = self._lateral(level)
        weight = torch.einsum("oc,cikl->oikl", narrow.weight.flatten(1), wide.weight)
        joined = torch.nn.Conv2d(
            wide.in_channels, narrow.out_channels, wide.kernel_size, wide.stride, wide.padding, device="meta"
        )
        joined.weight = torch.nn.Parameter(weight.contiguous(), requires_grad=False)
        bias = narrow.weight.flatten(1) @ wide.bias + narrow.bias
        joined.bias = torch.nn.Parameter(bias, requires_grad=False)
        return joined

    def _lateral(self, level: int) -> Any:
        return self._neck.convs[len(self._neck.convs) - 1 - level].conv

    def _necks(self, levels: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
        """Return the neck's answers by level, from the coarsest down to the finest that is needed."""
        neck = self._neck
        answers: dict[int, torch.Tensor] = {}
        for level in reversed(range(len(levels))):
            if level < _COARSE and self._joined[level] is not None:
                continue
            here = self._lateral(level)(levels[level])
            above = answers.get(level + 1)
            if above is not None and level in neck.fpn_top_down_levels:
                mode = neck.fpn_interp_model
                corners = None if mode == "nearest" else False
                here = here + F.interpolate(above.float(), scale_factor=2.0, mode=mode, align_corners=corners)
                if neck.fuse_type == "avg":
                    here = here / 2
            answers[level] = here
        return answers

    def _narrowed(
        self, level: int, levels: Sequence[torch.Tensor], necks: dict[int, torch.Tensor]
    ) -> torch.Tensor:
        joined = self._joined[level]
        narrowed: torch.Tensor = (
            self._narrow[level](necks[level].to(self._dtype)) if joined is None else joined(levels[level])
        )
        return narrowed


def _keep_position_codes(trunk: Any) -> None:
    """Let the trunk interpolate its position code once per size instead of for every frame."""
    compute, known = trunk._get_pos_embed, {}

    def kept(size: tuple[int, int]) -> torch.Tensor:
        if size not in known:
            known[size] = compute(size)
        return known[size]

    trunk._get_pos_embed = kept
