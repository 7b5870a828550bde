"""How packages are installed into Slicer: through which of its functions, and what is left set afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest
import slicer.util

from Headless.boot import boot
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.gui.install import SAM2_ENVIRONMENT
from SAM2PropagateLib.gui.slicer_packages import SlicerPackageTools


@pytest.fixture
def calls(monkeypatch):
    made = []
    monkeypatch.setattr(
        slicer.util,
        "pip_install",
        lambda requirements: made.append(("util", requirements, os.environ.get("SAM2_BUILD_CUDA"))),
        raising=False,
    )
    return made


def packaging(monkeypatch, made):
    """Slicer's module for packages as of 5.12, outside its testing mode."""

    def pip_install(
        requirements,
        blocking=True,
        show_progress=True,
        requester=None,
        logCallback=None,  # noqa: N803
        completedCallback=None,  # noqa: N803
    ):
        made.append(
            (requirements, blocking, os.environ.get("SAM2_BUILD_CUDA"), logCallback, completedCallback)
        )

    module = types.ModuleType("slicer.packaging")
    module.pip_install = pip_install
    monkeypatch.setitem(sys.modules, "slicer.packaging", module)
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: False)


@pytest.fixture(autouse=True)
def booted():
    boot()


def test_torch_comes_through_its_extension_only(monkeypatch, calls):
    asked = []

    class Logic:
        def installTorch(self, **options):  # noqa: N802
            asked.append(options)
            print("Collecting torch")
            return object()

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Logic))
    lines, done = [], []
    SlicerPackageTools().installTorch(">=2.5.1", lines.append, done.append)
    assert lines[-1] == "Collecting torch"
    assert asked == [{"askConfirmation": False, "torchVersionRequirement": ">=2.5.1"}]
    assert done == [True] and calls == []


def test_without_the_pytorch_extension_a_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(SAM2PropagateError, match="Extensions Manager"):
        SlicerPackageTools().installTorch(">=2.5.1", lambda line: None, lambda done: None)


def test_slicer_goes_on_while_pip_works_where_it_can(monkeypatch, calls):
    packaging(monkeypatch, calls)
    monkeypatch.delenv("SAM2_BUILD_CUDA", raising=False)
    lines, done = [], []
    arguments = ["--no-deps", "--require-hashes", "-r", "file.txt"]
    SlicerPackageTools().pipInstall(arguments, dict(SAM2_ENVIRONMENT), lines.append, done.append)
    ((given, blocking, cuda, says, ended),) = calls
    assert (given, blocking, cuda) == (arguments, False, "0")
    assert "SAM2_BUILD_CUDA" not in os.environ, "the process has it by now, Slicer must not keep it"
    assert done == []
    says("Collecting sam2")
    ended(0)
    assert lines[-1] == "Collecting sam2" and done == [True]
    ended(1)
    assert done == [True, False]


def test_in_slicers_testing_mode_the_end_is_told_all_the_same(monkeypatch, calls):
    packaging(monkeypatch, calls)
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: True)
    done = []
    SlicerPackageTools().pipInstall(["wheel"], {}, lambda line: None, done.append)
    ((_, blocking, _, says, ended),) = calls
    assert blocking and says is None and ended is None and done == [True]


def test_pip_install_before(monkeypatch, calls):
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    SlicerPackageTools().pipInstall(["tqdm>=4.66"], {}, lambda line: None, lambda done: None)
    assert calls == [("util", ["tqdm>=4.66"], None)]


def test_before_what_pip_prints_is_logged_and_printed(monkeypatch, capsys):
    def pip_install(requirements):
        print("Collecting tqdm")
        print("ERROR: No matching distribution found for tqdm")
        raise subprocess.CalledProcessError(1, ["pip"])

    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", pip_install, raising=False)
    lines, done = [], []
    SlicerPackageTools().pipInstall(["tqdm>=4.66"], {}, lines.append, done.append)
    assert lines[:3] == [
        "pip install tqdm>=4.66",
        "Collecting tqdm",
        "ERROR: No matching distribution found for tqdm",
    ]
    assert done == [False] and "Collecting tqdm" in capsys.readouterr().out
    print("later")
    assert "later" not in lines


def test_a_failure_is_told_and_logged(monkeypatch):
    def fail(requirements):
        raise RuntimeError("no network")

    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", fail, raising=False)
    lines, done = [], []
    SlicerPackageTools().pipInstall(["wheel"], {}, lines.append, done.append)
    assert done == [False] and lines[-1] == "ERROR: no network"
