"""A headless Slicer with stand-ins for its panel, for the tests of this folder that ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from Headless.fixtures import data_tree, headless, openView  # noqa: F401
from Testing.app.conftest import case  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
MODULE_FILE = ROOT / "SAM2Propagate" / "SAM2Propagate.py"


@pytest.fixture
def stand_ins() -> Iterator[Any]:
    """Slicer's Python modules and Qt's, stood in for; yields the headless Slicer.

    The data tree is kept as the application does. The test fails if a stand-in complained, or if there is an
    error in the log.
    """
    import slicer

    from Headless import qt_standins, slicer_modules
    from Headless.boot import boot
    from Headless.data_tree import DataTree

    booted = boot()
    booted.clear()
    tree = DataTree(booted)
    qt_standins.complaints.clear()
    with qt_standins.installed(), slicer_modules.installed():
        slicer.app.userSettings().clear()
        yield booted
    errors = list(booted.messages.errors)
    booted.clear()
    tree.stop()
    assert qt_standins.complaints == [] == errors


@pytest.fixture
def module(stand_ins: Any) -> Iterator[Any]:
    """The module, opened as Slicer does, and closed at the end."""
    from Headless.slicer_modules import ModuleInSlicer

    opened = ModuleInSlicer(MODULE_FILE).open()
    yield opened
    opened.close()
