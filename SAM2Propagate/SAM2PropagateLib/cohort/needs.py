"""Decides how many workers a computer has room for, and what each of them gets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from SAM2PropagateLib.amounts import MEGABYTE
from SAM2PropagateLib.models.memory import available_host_memory
from SAM2PropagateLib.models.registry import ModelEntry
from SAM2PropagateLib.worker.command import worker_command

# For the worker's own process, a volume and its masks, besides the model.
VOLUME_MB = 1200
# The engine's own limit for kept features of slices.
_MOST_CACHE_MB = 4096
_CACHE_SHARE = 4


@dataclass(frozen=True)
class LocalPlan:
    """The workers of one computer.

    Attributes:
        workers: their number. threads: for each one's model.
        gpus: number of GPUs, which the workers take in turn.
        cache_mb: for the features of slices; None: the engine's choice.
        note: for the user; may be empty.
    """

    workers: int
    threads: int
    gpus: int = 0
    cache_mb: int | None = None
    note: str = ""


def model_memory_mb(entry: ModelEntry | None, file: Path) -> int:
    """Return the main memory of a process with this model, in MB (2**20 bytes)."""
    return entry.memory_mb if entry is not None else 400 + 2 * (file.stat().st_size // MEGABYTE)


def local_plan(
    wanted: int | None, model_mb: int, gpus: int, *, cores: int | None = None, free_mb: int | None = None
) -> LocalPlan:
    """Plan one worker per GPU; without a GPU, as many as cores and main memory allow, or as many as wanted.

    Args:
        wanted: number of workers; None: as many as fit.
        model_mb: see `model_memory_mb`.
        gpus: that the model may use here.
        cores, free_mb: of this computer; None: from the system.
    """
    cores = cores or usable_cores()
    if free_mb is None:
        available = available_host_memory()
        free_mb = None if available is None else available // MEGABYTE
    each = model_mb + VOLUME_MB
    if wanted is not None:
        workers = wanted
    elif gpus:
        workers = gpus
    else:
        fitting = cores if free_mb is None else free_mb // each
        # Two workers with a thread each do 1.56 times the volumes of one with two, for 1.41 times the main
        # memory.
        workers = max(1, min(cores, fitting))
    note = ""
    if free_mb is not None and workers > 1 and workers * each > free_mb:
        note = (
            f"{workers} workers may take {workers * each / 1024:.1f} GB of memory; "
            f"{free_mb / 1024:.1f} GB are free. With fewer --workers, none has to wait or fail."
        )
    cache = None
    if not gpus and free_mb is not None and workers > 1:
        cache = min(_MOST_CACHE_MB, free_mb // (_CACHE_SHARE * workers))
    return LocalPlan(workers, max(1, cores // workers), gpus, cache, note)


def usable_cores() -> int:
    """Return the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu_count(device: str, ask: Callable[[], int] | None = None) -> int:
    """Return how many NVIDIA GPUs the workers share: 0 unless `device` leaves the choice open.

    Args:
        device: on the command line.
        ask: counts them; None: torch does, in a process of its own, if there are signs of the driver.
    """
    if device not in ("auto", "cuda"):
        return 0
    if ask is not None:
        return ask()
    if sys.platform == "darwin" or shutil.which("nvidia-smi") is None:
        return 0
    command = worker_command()
    code = "import torch; print(torch.cuda.device_count())"
    try:
        done = subprocess.run(
            [command.argv[0], "-c", code],
            env=dict(command.env),
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=300,
        )
        return int(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0
