"""Settings for every test."""

from __future__ import annotations

import gc
import os

import pytest

# Before torch starts its threads: waiting actively, they slow each other down twentyfold on busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_configure(config: pytest.Config) -> None:
    """Keeps processes that tests start from printing encoding warnings; pytest's own have them on."""
    if not getattr(config.option, "numprocesses", None):
        os.environ.pop("PYTHONWARNDEFAULTENCODING", None)


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what was imported, which is much and stays."""
    gc.freeze()
