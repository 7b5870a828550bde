"""pytest fixtures; a `conftest.py` imports what its tests need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from Headless.boot import HeadlessSlicer, boot
from Headless.data_tree import DataTree
from Headless.slice_view import SliceView


@pytest.fixture
def headless() -> Iterator[HeadlessSlicer]:
    """Yield an empty scene; fail the test if VTK or MRML reported an error meanwhile."""
    slicerless = boot()
    slicerless.clear()
    yield slicerless
    errors = list(slicerless.messages.errors)
    slicerless.clear()
    assert not errors, "\n".join(errors)


@pytest.fixture
def data_tree(headless: HeadlessSlicer) -> Iterator[DataTree]:
    """Keep the data tree as Slicer's application does; its complaints are errors."""
    tree = DataTree(headless)
    yield tree
    tree.stop()


@pytest.fixture
def openView(headless: HeadlessSlicer) -> Iterator[Callable[..., SliceView]]:
    """Opens slice views, which are closed after the test; arguments as of `SliceView`, without the first."""
    views: list[SliceView] = []

    def open_view(*args: Any, **kwargs: Any) -> SliceView:
        views.append(SliceView(headless, *args, **kwargs))
        return views[-1]

    yield open_view
    for view in views:
        view.close()
