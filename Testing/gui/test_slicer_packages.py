"""How packages are installed into Slicer: through which of its functions, and what is left set afterwards."""

from __future__ import annotations

import os
import sys
import types

import pytest
import slicer.util

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
    module = types.ModuleType("slicer.packaging")
    module.pip_ensure = lambda requirements, **options: made.append(("ensure", requirements, options))
    monkeypatch.setitem(sys.modules, "slicer.packaging", module)


def test_torch_comes_through_its_extension_only(monkeypatch, calls):
    asked = []

    class Logic:
        def installTorch(self, **options):  # noqa: N802
            asked.append(options)
            return object()

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Logic))
    done = []
    SlicerPackageTools().installTorch(">=2.5.1", lambda line: None, done.append)
    assert asked == [{"askConfirmation": False, "torchVersionRequirement": ">=2.5.1"}]
    assert done == [True] and calls == []


def test_without_the_pytorch_extension_a_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(SAM2PropagateError, match="Extensions Manager"):
        SlicerPackageTools().installTorch(">=2.5.1", lambda line: None, lambda done: None)


def test_pip_ensure_where_it_exists(monkeypatch, calls):
    packaging(monkeypatch, calls)
    done = []
    SlicerPackageTools().pipInstall(
        ["--prefer-binary", "tqdm>=4.66", "wheel"], {}, lambda line: None, done.append
    )
    kind, requirements, options = calls[0]
    assert (kind, requirements, options["prompt_install"]) == ("ensure", ["tqdm>=4.66", "wheel"], False)
    assert done == [True]


def test_pip_install_before(monkeypatch, calls):
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    SlicerPackageTools().pipInstall(["tqdm>=4.66"], {}, lambda line: None, lambda done: None)
    assert calls == [("util", ["tqdm>=4.66"], None)]


def test_a_requirements_file_with_its_options_and_environment(monkeypatch, calls):
    packaging(monkeypatch, calls)
    monkeypatch.delenv("SAM2_BUILD_CUDA", raising=False)
    arguments = ["--no-deps", "--require-hashes", "-r", "file.txt"]
    SlicerPackageTools().pipInstall(arguments, dict(SAM2_ENVIRONMENT), lambda line: None, lambda done: None)
    assert calls == [("util", arguments, "0")]
    assert "SAM2_BUILD_CUDA" not in os.environ


def test_a_failure_is_told_and_logged(monkeypatch):
    def fail(requirements):
        raise RuntimeError("no network")

    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", fail, raising=False)
    lines, done = [], []
    SlicerPackageTools().pipInstall(["wheel"], {}, lines.append, done.append)
    assert done == [False] and lines[-1] == "ERROR: no network"
