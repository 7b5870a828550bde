"""Limits the engine's main memory and GPU memory, and handles the lack of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from SAM2PropagateLib.amounts import MEGABYTE
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.models.memory import available_host_memory, is_out_of_memory
from SAM2PropagateLib.texts import text as _


def out_of_memory_error(device: torch.device) -> SAM2PropagateError:
    """Return the error for the user when even the smallest step did not fit."""
    is_on_card = device.type == "cuda"
    where = _("The graphics card") if is_on_card else _("This computer")
    return SAM2PropagateError(
        "out_of_memory",
        _("{where} does not have enough free memory for this model, even for one slice at a time.").format(
            where=where
        ),
        _("Close other programs that use it, choose a smaller model, or let the processor compute.")
        if is_on_card
        else _("Close other programs, or choose a smaller model."),
    )


@contextmanager
def told_of_memory(device: torch.device) -> Iterator[None]:
    """Turn a lack of main or GPU memory within it into the error for the user.

    Raises:
        SAM2PropagateError: `out_of_memory`.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory_error(device) from error


def feature_budgets(device: torch.device, megabytes: int | None = None) -> tuple[int, int]:
    """Return bytes of encoder features kept (on the device, in main memory beside it).

    Without `megabytes`: half of what is free on a GPU and a quarter of the free main memory, at most 4 GB
    of it; on a CPU (or MPS, which shares main memory) a quarter of the free main memory, at most 4 GB.
    """
    # 4 GB count as free where the system does not say.
    host = min((available_host_memory() or 4096 * MEGABYTE) // 4, 4096 * MEGABYTE)
    if megabytes is not None:
        return megabytes * MEGABYTE, (host if device.type == "cuda" else 0)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 2, host
    return host, 0


def motion_budget() -> int:
    """Return bytes of motion between frames kept: a sixteenth of the free main memory, at most 512 MB."""
    return min((available_host_memory() or 4096 * MEGABYTE) // 16, 512 * MEGABYTE)
