"""Installing through Slicer's own Python files: what pip says arrives, while the process works or after.

Run with SAM2PROPAGATE_SLICER_PYTHON set (see `Headless.slicer_modules`); pip looks nothing up here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import slicer
import slicer.util

from Headless.slicer_modules import SLICER_PYTHON

NOWHERE = "sam2propagate-no-such-package"
FOLDER = Path(os.environ.get(SLICER_PYTHON) or ".") / "slicer"

pytestmark = pytest.mark.skipif(
    not os.environ.get(SLICER_PYTHON) or sys.platform == "win32", reason="needs Slicer's Python files, and sh"
)


def load(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lines_and_end(stand_ins: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[list[str], Any]:
    import qt

    from SAM2PropagateLib.gui.install import Installer
    from SAM2PropagateLib.gui.slicer_packages import SlicerPackageTools

    python = tmp_path / "PythonSlicer"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    waiting: list[Any] = []
    # What Slicer's own call of its window system does between two lines.
    monkeypatch.setattr(type(slicer.app), "processEvents", lambda self, *_: None)
    monkeypatch.setattr(type(slicer.app), "testingEnabled", lambda self: False)
    util = load("slicer.util_of_the_folder", FOLDER / "util.py", monkeypatch)
    for name in ("pip_install", "executePythonModule", "launchConsoleProcess", "logProcessOutput"):
        if hasattr(util, name):
            monkeypatch.setattr(slicer.util, name, getattr(util, name), raising=False)
    if (FOLDER / "packaging.py").is_file():
        packaging = load("slicer.packaging", FOLDER / "packaging.py", monkeypatch)
        # The stand-in of QThread does not know the thread at hand, that of QTimer not this static method.
        monkeypatch.setattr(packaging, "_isMainQtThread", lambda: True)
        monkeypatch.setattr(qt.QTimer, "singleShot", lambda _ms, call: waiting.append(call))
    else:
        monkeypatch.setitem(sys.modules, "slicer.packaging", None)

    class Tools(SlicerPackageTools):
        def pipInstall(self, arguments: list[str], *rest: Any) -> None:  # noqa: N802
            super().pipInstall(["--no-index", "--disable-pip-version-check", NOWHERE], *rest)

    there = {"torch", "sam2", "hydra", "iopath", "tqdm", "PIL", "scipy", "cv2"}
    installer = Installer(Tools(), tmp_path, lambda name: name if name in there else None)
    lines: list[str] = []
    ends: list[Any] = []
    installer.logged.connect(lines.append)
    installer.finished.connect(ends.append)
    installer.start()
    # With a window system to go on with, nothing is waited for.
    assert bool(ends) == (not (FOLDER / "packaging.py").is_file())
    deadline = time.monotonic() + 60
    while not ends and time.monotonic() < deadline:
        calls, waiting[:] = list(waiting), []
        for call in calls:
            call()
        time.sleep(0.01)
    return lines, ends[0]


def test_what_pip_says_is_logged_and_its_reason_told(lines_and_end: tuple[list[str], Any]) -> None:
    lines, end = lines_and_end
    assert lines[0].startswith("pip install --no-index")
    assert any(f"ERROR: No matching distribution found for {NOWHERE}" in line for line in lines)
    assert not end.isComplete
    assert f"The installation failed: No matching distribution found for {NOWHERE}" in end.text
