"""A GPU played by torch's device `meta`: its tensors have shapes and no data.

What would fail on a GPU, or make the CPU wait for it, is found without one: an operation on tensors of both
devices fails, and what crosses over is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")


class QueuedDevice:
    """While it is entered, counts what the host has to wait for; what it reads is made up.

    Single values (`if tensor:`, `float(tensor)`) and choices by mask (`tensor[mask]`) cannot be made up:
    torch raises for them.

    Args:
        answer: the byte that everything read consists of. 0x3F makes every float32 value 0.747 and sets six
            bits of eight; 0 makes every value 0.

    Attributes:
        waits: how often the host waited for a `read` and for an `upload`.
    """

    def __init__(self, answer: int = 0x3F) -> None:
        self.waits: Counter[str] = Counter()
        self._answer = answer
        self._entered = ExitStack()

    def __enter__(self) -> QueuedDevice:
        for name in ("tensor", "as_tensor"):
            self._entered.enter_context(patch.object(torch, name, self._counted(getattr(torch, name))))
        self._entered.enter_context(_Crossings(self.waits, self._answer))
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.close()

    def _counted(self, make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Tensors that are made of Python's numbers, which no operation shows, are copied to the device."""

        def made(*args: Any, **kwargs: Any) -> torch.Tensor:
            if torch.device(kwargs.get("device") or "cpu") == META:
                self.waits["upload"] += 1
            return make(*args, **kwargs)

        return made


# Kinds of operations and arguments -> shape, strides and type of the result.
_MADE: dict[Any, Any] = {}


class _Crossings(TorchDispatchMode):
    """Sees every operation."""

    def __init__(self, waits: Counter[str], answer: int) -> None:
        super().__init__()
        self._waits = waits
        self._answer = answer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().partition(".")[0]
        if name == "aten::_to_copy":
            target = kwargs.get("device") or args[0].device
            self._count(args[0].device, target, kwargs.get("non_blocking", False))
            if target != META and args[0].device == META:
                return self._read(torch.empty_like(args[0], device=target, dtype=kwargs.get("dtype")))
        elif name == "aten::copy_":
            target, source = args[:2]
            self._count(source.device, target.device, args[2] if len(args) > 2 else False)
            if target.device != META and source.device == META:
                return self._read(target)
        else:
            tensors = list(_tensors((args, kwargs)))
            there = any(one.device == META for one in tensors)
            # As on a GPU, single numbers of the host may take part.
            here = any(one.device != META and one.ndim for one in tensors)
            assert not (there and here), f"{name} mixes devices"
            if there and _makes_one(func):
                return self._once(func, args, kwargs)
        return func(*args, **kwargs)

    def _once(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Ask torch for the shape of a result only once for each kind of arguments: it is slow in that."""
        kind = (func, _kind(args), _kind(sorted(kwargs.items())))
        made = _MADE.get(kind)
        if made is None:
            result = func(*args, **kwargs)
            if result.device == META:
                _MADE[kind] = (result.shape, result.stride(), result.dtype)
            return result
        shape, stride, dtype = made
        return torch.empty_strided(shape, stride, dtype=dtype, device=META)

    def _count(self, source: torch.device, target: torch.device, goes_on: bool) -> None:
        if source != target and not goes_on:
            self._waits["read" if source == META else "upload"] += 1

    def _read(self, target: torch.Tensor) -> torch.Tensor:
        target.view(-1).view(torch.uint8).fill_(self._answer)
        return target


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested arguments."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, list | tuple | dict):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _tensors(value)


def _kind(value: Any) -> Any:
    """Arguments without the values of tensors, which have none; hashable."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, list | tuple):
        return tuple(_kind(one) for one in value)
    return type(value), value


@cache
def _makes_one(func: Any) -> bool:
    """Whether an operation has one new tensor as its result, and changes none."""
    schema = func._schema
    shared = any(one.alias_info is not None for one in (*schema.arguments, *schema.returns))
    return not shared and [str(one.type) for one in schema.returns] == ["Tensor"]
