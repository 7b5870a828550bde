"""Parses the options on who computes: this computer, a Dask scheduler, or SLURM."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from SAM2PropagateLib.cli.how import count
from SAM2PropagateLib.cli.said import bad_arguments
from SAM2PropagateLib.cohort.fleet import DaskFleet, Sharing, open_fleet, slurm_options
from SAM2PropagateLib.cohort.needs import gpu_count, local_plan


def add_sharing(parser: argparse.ArgumentParser) -> Any:
    """Add the options on who computes; return their group."""
    who = parser.add_argument_group("who computes")
    who.add_argument(
        "--workers",
        type=count,
        metavar="N",
        help="workers on this computer (default: one per GPU, else as many as fit), or jobs of SLURM "
        "(default: 1)",
    )
    who.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="workers of a Dask scheduler that runs already, such as tls://host:8786",
    )
    who.add_argument(
        "--slurm",
        metavar='"PARTITION OPTIONS"',
        help='workers as jobs of SLURM: a partition, then options of sbatch, such as "gpu --gres=gpu:1"',
    )
    return who


def open_workers(
    sharing: Sharing,
    model_mb: Callable[[], int],
    gpus: Callable[[], int],
    folder: Path,
    tell: Callable[[str], None],
    on_news: Callable[[Any], None] | None = None,
) -> AbstractContextManager[DaskFleet]:
    """Open the workers that the user asked for; see `open_fleet`.

    Args:
        model_mb: returns the model's main memory. gpus: returns the number of GPUs here for it.
    """
    return open_fleet(sharing, lambda: local_plan(sharing.workers, model_mb(), gpus()), folder, tell, on_news)


def gpus_for(sharing: Sharing, device: str) -> int:
    """Return how many GPUs of this computer the workers share."""
    return 0 if sharing.scheduler or sharing.slurm else gpu_count(device)


def sharing_of(namespace: argparse.Namespace) -> Sharing:
    """Return the choice in parsed arguments.

    Raises:
        InputError: `bad_arguments`, `bad_slurm`.
    """
    if namespace.scheduler is not None and (namespace.workers is not None or namespace.slurm is not None):
        raise bad_arguments(
            "--scheduler has workers of its own.", "Leave out --workers and --slurm, or --scheduler."
        )
    if namespace.scheduler is not None and not namespace.scheduler.strip():
        raise bad_arguments("--scheduler needs an address.", "Give one such as tls://host:8786.")
    if namespace.slurm is not None:
        slurm_options(namespace.slurm)
    return Sharing(namespace.workers, namespace.scheduler or "", namespace.slurm or "")


def given_sharing(namespace: argparse.Namespace) -> Sharing | None:
    """Return the choice in parsed arguments; None without one: this process computes.

    Raises:
        InputError: as `sharing_of`.
    """
    given = (namespace.workers, namespace.scheduler, namespace.slurm)
    return None if all(value is None for value in given) else sharing_of(namespace)
