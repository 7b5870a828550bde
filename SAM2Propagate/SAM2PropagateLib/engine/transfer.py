"""Transfers data between host and device without emptying the device's queue.

A GPU works through a queue that the CPU fills ahead. Reading a value on the CPU empties that queue first. So
all values of a step are transferred in one buffer, and the CPU waits for it only when it needs them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

# Multiplied with eight bytes that are 0 or 1, this gathers them in the highest byte, the first one lowest.
_GATHER = 0x0102040810204080


def uploaded(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the host to the device, without waiting for the device's queue."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


class Readback:
    """Values and masks on their way from the device to the host, all in one buffer.

    Args:
        parts: float32 or bool tensors of any shape, on one device; bool ones are transferred as bits.
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
        """Wait for the transfer, and return the parts as float32 and bool arrays."""
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
    """Return values as uint8 (bytes): float32 values as they are, bool values eight to a byte, the first one
    lowest."""
    flat = part.flatten()
    if part.dtype != torch.bool:
        return flat.contiguous().view(torch.uint8)
    padded = torch.nn.functional.pad(flat.view(torch.uint8), (0, -len(flat) % 8))
    eights = padded.view(torch.int64)
    return ((eights * _GATHER) >> 56).to(torch.uint8)
