"""Faster arithmetic where the device has it, without losing what learning needs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from SAM2PropagateLib.engine.cpu_attention import PlainAttention
from SAM2PropagateLib.engine.device import compute_dtype, uses_int8
from SAM2PropagateLib.engine.family import LoadedModel

_CONVOLUTIONS = (torch.conv2d, torch.conv_transpose2d)


class _PreciseConvolutions(TorchFunctionMode):
    """Convolutions in float32: on a CPU their gradients are slower, not faster, in half the bits."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _CONVOLUTIONS:
            return func(*args, **(kwargs or {}))
        image, *rest = args
        with torch.autocast("cpu", enabled=False):
            return func(image.float(), *rest, **(kwargs or {}))


def as_in_use(loaded: LoadedModel) -> LoadedModel:
    """Return a copy of a model that learns, in the precision that the engine chooses by itself."""
    dtype, int8 = compute_dtype(loaded.device), uses_int8(loaded.device)
    return replace(loaded, model=copy.deepcopy(loaded.model), dtype=dtype, int8=int8)


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """Multiply matrices in bfloat16 where the device is made for it; weights and gradients stay float32."""
    if device.type == "cuda":
        with torch.autocast("cuda", torch.bfloat16):
            yield
    elif device.type == "cpu" and compute_dtype(device, "auto") == torch.bfloat16:
        with torch.autocast("cpu", torch.bfloat16), _PreciseConvolutions(), PlainAttention():
            yield
    else:
        yield
