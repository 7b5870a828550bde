"""Transfers between host and device that leave the device's queue filled.

A GPU works off a queue that the CPU fills ahead. Each value that the CPU asks for empties that queue first.
So all that a step has to say travels in one buffer, and that is waited for only when it is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

# Multiplied with eight bytes that are 0 or 1, this gathers them in the highest byte, the first one lowest.
_GATHER = 0x0102040810204080


def uploaded(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on the device, without waiting for what the device has still to do."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


class Readback:
    """Values and masks on their way from the device to the host, all in one buffer.

    Args:
        parts: float32 or bool tensors of any shape, on one device; bool ones travel as bits.
    """

    def __init__(self, parts: Sequence[torch.Tensor]) -> None:
        self._shapes = [(part.dtype, part.shape) for part in parts]
        sent = torch.cat([_bytes_of(part) for part in parts])
        self._arrived = None
        if sent.device.type == "cuda":
            self._bytes = sent.to("cpu", non_blocking=True)
            self._arrived = torch.cuda.current_stream(sent.device).record_event()
        else:
            self._bytes = sent

    def arrays(self) -> list[np.ndarray]:
        """Return the parts as float32 and bool arrays; waits until they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        data = self._bytes.cpu().numpy()
        found, start = [], 0
        for dtype, shape in self._shapes:
            count = shape.numel()
            if dtype == torch.bool:
                end = start + (count + 7) // 8
                values = np.unpackbits(data[start:end], count=count, bitorder="little").view(bool)
            else:
                end = start + 4 * count
                values = data[start:end].copy().view(np.float32)
            found.append(values.reshape(shape))
            start = end
        return found


def _bytes_of(part: torch.Tensor) -> torch.Tensor:
    """Return uint8 (bytes): float32 values as they are, or eight bool values to a byte, the first one
    lowest."""
    flat = part.flatten()
    if part.dtype != torch.bool:
        return flat.contiguous().view(torch.uint8)
    padded = torch.nn.functional.pad(flat.view(torch.uint8), (0, -len(flat) % 8))
    eights = padded.view(torch.int64)
    return ((eights * _GATHER) >> 56).to(torch.uint8)
