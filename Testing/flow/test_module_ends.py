"""The module reloaded, the scene closed and Slicer quit during a run: no process, thread or file is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import slicer

from SAM2PropagateLib.worker.session import WorkerSession
from SAM2PropagateLib.worker.shared import SharedFolder
from Testing.gui.conftest import MODULE_FILE, stand_ins  # noqa: F401
from Testing.worker.helpers import Workers, is_running, own_threads, soon


class Running:
    """The module with a run under way in a real worker process whose engine needs no model."""

    def __init__(self, headless: Any, folder: Path) -> None:
        from Headless.slicer_modules import ModuleInSlicer
        from Testing.scene.geometries import addCase

        self.folder = folder / "shared"
        self.folder.mkdir()
        self.go = folder / "go"
        """The run waits after two frames until this file exists."""
        self.workers = Workers({"hold": {"after": 2, "until": str(self.go)}})
        self.module = ModuleInSlicer(MODULE_FILE).open()
        logic = self.module.widget.logic
        self.controller = logic.controller
        logic.makeSession = lambda: WorkerSession(self.workers, folder=SharedFolder([self.folder]))
        self.module.ui.volumeSelector.setCurrentNode(addCase(headless, "plain"))
        self.module.ui.segmentationSelector.addNode()
        geometry = self.controller.workspace.worldGeometry
        assert self.controller.point("positive", geometry.ras_of_pixel(12, 15, 8, 2), (0, 0, 1))
        assert self.controller.wait(60)
        arrived: list[Any] = []
        self.controller.frameArrived.connect(arrived.append)
        self.module.ui.propagateButton.click()
        self.settle(lambda: bool(arrived))
        assert self.controller.isRunning and is_running(self.workers.pids[-1])
        assert list(self.folder.rglob("*")), "the volume is shared"

    @staticmethod
    def settle(until: Callable[[], bool]) -> None:
        from PySide6 import QtCore

        def turned() -> bool:
            QtCore.QCoreApplication.processEvents()
            return until()

        assert soon(turned)

    def check_nothing_is_left(self, previews: int = 0) -> None:
        assert soon(lambda: not any(is_running(pid) for pid in self.workers.pids)), "an orphan"
        assert soon(lambda: own_threads() == []), own_threads()
        assert [path for path in self.folder.rglob("*") if path.is_file()] == []
        scene = slicer.mrmlScene
        names = [scene.GetNthNode(n).GetName() for n in range(scene.GetNumberOfNodes())]
        assert names.count("SAM2 Propagate preview") == previews and "SAM2Propagate commit" not in names


@pytest.fixture
def running(stand_ins: Any, tmp_path: Path) -> Iterator[Running]:  # noqa: F811
    return Running(stand_ins, tmp_path)


def test_quitting_during_a_run(running: Running) -> None:
    running.module.close()
    running.check_nothing_is_left()


def test_reloading_the_module_during_a_run(running: Running) -> None:
    import sys

    before = {name: module for name, module in sys.modules.items() if name.startswith("SAM2PropagateLib")}
    old = running.module.widget
    try:
        running.module.widget.onReload()
        assert running.module.widget is not old
        # What the run had finished was kept, and the module as it is now shows it again.
        running.check_nothing_is_left(previews=1)
        assert running.module.ui.segmentationSelector.currentNode() is not None
        assert running.module.widget.logic.controller.workspace.hasPreview
        running.module.close()
        running.check_nothing_is_left()
    finally:
        # Other tests hold classes of the library as it was.
        sys.modules.update(before)


def test_closing_the_scene_during_a_run_keeps_the_worker_but_no_volume(running: Running) -> None:
    slicer.mrmlScene.Clear(False)
    assert not running.controller.isRunning
    running.settle(lambda: not running.controller.isWaiting)
    # What is left is the empty lock of the folder.
    assert soon(lambda: not any(path.stat().st_size for path in running.folder.rglob("*") if path.is_file()))
    assert is_running(running.workers.pids[-1]), "it is kept warm"
    running.module.close()
    running.check_nothing_is_left()


def test_switching_the_module_lets_the_run_go_on(running: Running) -> None:
    ends: list[Any] = []
    running.controller.finished.connect(ends.append)
    running.module.exit()
    running.go.touch()
    running.settle(lambda: bool(ends))
    assert ends[0].state == "done"
    running.module.enter()
    running.module.close()
    running.check_nothing_is_left()
