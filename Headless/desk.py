"""The desk of the tests that run inside Slicer as well (SAM2Propagate/Testing/Python), without Slicer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from Headless.boot import HeadlessSlicer
from Headless.slice_view import SliceView
from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.gui.sample_data import samplePath
from SAM2PropagateLib.worker.command import worker_command
from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateTesting.views import View


class OffscreenSurface:
    """An offscreen slice view, as a `Surface`."""

    def __init__(self, view: SliceView) -> None:
        self._view = view
        self._requests: list[int] = []
        view.onRedrawRequest(lambda: self._requests.append(1))

    @property
    def node(self) -> Any:
        return self._view.node

    @property
    def logic(self) -> Any:
        return self._view.logic

    @property
    def interactor(self) -> Any:
        return self._view.interactor

    def settle(self) -> None:
        """Does nothing: it changes its size only when a test says so."""

    def screenshot(self) -> np.ndarray:
        return self._view.screenshot()

    def redrawRequests(self, action: Callable[[], object]) -> int:
        self._requests.clear()
        action()
        return len(self._requests)


class Module:
    """The module's work without its file, which needs Qt: a controller with a real worker behind it."""

    def __init__(self, makeSession: Callable[[], WorkerSession]) -> None:
        self.controller = Controller(makeSession)

    def missingPackages(self) -> list[str]:
        return []

    def close(self) -> None:
        self.controller.close()


class HeadlessDesk:
    """The desk in a headless Slicer; see `SAM2PropagateTesting.desks.Desk`.

    Args:
        headless: the Slicer.
        size: of all views, whatever a test asks for, as Slicer's layout decides itself; None: as asked for.
        makeSession: makes the session of an opened module; None: with the worker that ships.
    """

    def __init__(
        self,
        headless: HeadlessSlicer,
        size: tuple[int, int] | None = None,
        makeSession: Callable[[], WorkerSession] | None = None,
    ) -> None:
        self._headless = headless
        self._makeSession = makeSession or (lambda: WorkerSession(worker_command(sys.executable)))
        self._size = size
        self._views: list[SliceView] = []

    def openView(
        self, name: str = "Red", orientation: str = "Axial", size: tuple[int, int] = (420, 400)
    ) -> View:
        view = SliceView(self._headless, name, size=self._size or size)
        self._views.append(view)
        opened = View(OffscreenSurface(view))
        opened.setOrientation(orientation)
        return opened

    def openModule(self) -> Module:
        return Module(self._makeSession)

    def until(self, controller: Any, condition: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            controller.poll()
            time.sleep(0.002)
        return True

    def samplePath(self) -> Path:
        path = samplePath()
        assert path is not None, "a checkout has the CT"
        return path

    def close(self) -> None:
        for view in self._views:
            view.close()
        self._views.clear()
