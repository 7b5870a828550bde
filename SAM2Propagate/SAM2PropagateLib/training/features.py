"""What clips are made of: stacks of frames, encoded beforehand or as images still to be encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Features:
    """What the image encoder makes of a batch of frames; h = w = input size / 16.

    Attributes:
        fine: (batch, 32, 4h, 4w), middle: (batch, 64, 2h, 2w), coarse: (batch, 256, h, w).
    """

    fine: torch.Tensor
    middle: torch.Tensor
    coarse: torch.Tensor


@dataclass(frozen=True)
class FrameStock:
    """Frames one after the other.

    Attributes:
        parts: either `Features`' three tensors, or one, the images (frames, 3, size, size), where the image
            half learns too and its features cannot be kept.
    """

    parts: tuple[torch.Tensor, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    @property
    def nbytes(self) -> int:
        """Bytes in main memory."""
        return sum(part.nbytes for part in self.parts)

    def pick(self, indices: Sequence[int]) -> FrameStock:
        """Return some of the frames, in this order."""
        return FrameStock(tuple(part[list(indices)] for part in self.parts))

    @staticmethod
    def join(stocks: Sequence[FrameStock]) -> FrameStock:
        """Return the frames of all, one after the other."""
        return FrameStock(tuple(torch.cat(parts) for parts in zip(*(s.parts for s in stocks), strict=True)))

    def to(self, device: torch.device) -> FrameStock:
        """Return the same in float32 on a device."""
        return FrameStock(tuple(part.to(device, torch.float32) for part in self.parts))
