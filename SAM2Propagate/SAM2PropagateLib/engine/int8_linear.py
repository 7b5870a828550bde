"""Computes linear layers on 8-bit integers, for CPUs that multiply these faster than floats and have no bf16.

Weights are rounded once, with one scale per output channel. Inputs are rounded in every call, with one scale
per tensor. The products are summed in integers; the result is float32.
"""

from __future__ import annotations

import platform
import threading
import warnings
from typing import Any

import torch
import torch.nn.functional as F

# oneDNN's kernels use whatever integer instructions the CPU has.
_BACKEND = "onednn"
_LARGEST_WEIGHT = 127
# Without VNNI a CPU adds two neighboring products, unsigned 8-bit input times signed 8-bit weight, in 16 bits
# and clips what does not fit.
_LARGEST_PAIR = 32767 // 255
# Few enough for the processor's cache.
_ROWS_AT_ONCE = 256

_LOCK = threading.Lock()


class Int8Linear(torch.nn.Module):
    """A linear layer that computes on 8-bit integers.

    Args:
        linear: the layer to replace; float32, on the CPU.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scale = _scale(weight).to(torch.float64)
        zero = torch.zeros(len(scale), dtype=torch.long)
        with warnings.catch_warnings():
            # Torch plans to remove these tensors; `why_no_int8` notices when it does.
            warnings.simplefilter("ignore", UserWarning)
            integers = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
        self._parts = (integers, None if linear.bias is None else linear.bias.detach())
        self._of_thread = threading.local()
        # For the first thread, so that packing belongs to loading the model.
        self._spare = [_packed(*self._parts)]

    def _packed_here(self) -> Any:
        """Return the packed weights of this thread. Torch keeps the state of its last call with them, so that
        two threads must not use the same."""
        if not hasattr(self._of_thread, "weights"):
            with _LOCK:
                spare = self._spare.pop() if self._spare else None
            self._of_thread.weights = _packed(*self._parts) if spare is None else spare
        return self._of_thread.weights

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return float32 (..., in) -> float32 (..., out)."""
        answer: torch.Tensor = torch.ops.quantized.linear_dynamic(values, self._packed_here())
        return answer


def _packed(integers: torch.Tensor, bias: torch.Tensor | None) -> Any:
    """Pack weights (out, in) in the order that the backend multiplies them in."""
    # The backend is one setting for all threads.
    with _LOCK:
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = _BACKEND
        try:
            return torch.ops.quantized.linear_prepack(integers, bias)
        finally:
            torch.backends.quantized.engine = before


def _scale(weight: torch.Tensor) -> torch.Tensor:
    """Return the scale of each output channel.

    It is as small as the range of the integers allows, but keeps the sum of two neighboring products within
    16 bits, so that every CPU has the same result.
    """
    return torch.cat([_scale_of_rows(rows) for rows in weight.split(_ROWS_AT_ONCE)])


def _scale_of_rows(rows: torch.Tensor) -> torch.Tensor:
    even, odd = F.pad(rows, (0, rows.shape[1] % 2)).unflatten(1, (-1, 2)).unbind(-1)
    up = (even.clamp_min(0) + odd.clamp_min(0)).amax(1)
    down = (even.clamp_max(0) + odd.clamp_max(0)).amin(1).neg()
    # Rounding can add half a step to each of the two.
    pair = torch.maximum(up, down) / (_LARGEST_PAIR - 1)
    return torch.maximum(rows.abs().amax(1) / _LARGEST_WEIGHT, pair).clamp_min(
        torch.finfo(torch.float32).tiny
    )


def use_int8(module: torch.nn.Module) -> None:
    """Replace every linear layer in a module (float32, on the CPU) by an `Int8Linear`."""
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, torch.nn.Linear):
                setattr(parent, name, Int8Linear(part))


def why_no_int8() -> str | None:
    """Return None if 8-bit linear layers work here and are faster than float32; else the reason."""
    machine = platform.machine().lower()
    if machine not in ("x86_64", "amd64", "x64"):
        return f"not known to be faster on {machine or 'this machine'}"
    capability = torch.backends.cpu.get_cpu_capability()
    if not capability.startswith("AVX"):
        return f"the CPU has no AVX2 ({capability})"
    if _BACKEND not in torch.backends.quantized.supported_engines:
        return f"this PyTorch was built without {_BACKEND}"
    try:
        with torch.inference_mode():
            float_layer = torch.nn.Linear(8, 8)
            values = torch.linspace(-1, 1, 32).reshape(4, 8)
            difference = (Int8Linear(float_layer)(values) - float_layer(values)).abs().max()
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        return " ".join(str(error).split())[:160]
    return None if float(difference) < 0.05 else f"a small layer was wrong by {float(difference):.2g}"
