"""Installs packages into Slicer's own Python: `install.PackageTools` for the application."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import slicer
import slicer.util

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.gui.install import Completed, Log
from SAM2PropagateLib.texts import tr as _

# If Slicer's `pip_install` takes these, it returns at once and passes on pip's lines.
_CALLBACKS = {"blocking", "show_progress", "logCallback", "completedCallback"}


class SlicerPackageTools:
    """Installs through the PyTorch extension and Slicer's `pip_install`.

    From Slicer 5.12 on, `pip_install` runs while Slicer responds. Before, and in the PyTorch extension, the
    call returns when it has finished. Either way pip's lines are logged one by one. The PyTorch extension
    imports torch once after installing it; this project never does so in Slicer's process.
    """

    def installTorch(self, version: str, log: Log, completed: Completed) -> None:
        """See `PackageTools`."""
        try:
            utilities = importlib.import_module("PyTorchUtils")
        except ImportError as error:
            raise SAM2PropagateError(
                "no_pytorch_extension",
                _("Slicer's extension “PyTorch” is not installed."),
                _("Install it in the Extensions Manager and restart Slicer."),
            ) from error
        log(f"PyTorchUtils: torch{version}")
        with _printed(log):
            torch = utilities.PyTorchUtilsLogic().installTorch(
                askConfirmation=False, torchVersionRequirement=version
            )
        completed(torch is not None)

    def pipInstall(
        self, arguments: list[str], environment: dict[str, str], log: Log, completed: Completed
    ) -> None:
        """See `PackageTools`."""
        log("pip install " + " ".join(arguments))
        install = _pipInstall()
        # In its testing mode Slicer accepts the callbacks but never calls them.
        isAsync = set(inspect.signature(install).parameters) >= _CALLBACKS and not slicer.app.testingEnabled()
        options: dict[str, Any] = {}
        if isAsync:
            options = {"blocking": False, "show_progress": False, "logCallback": log}
            options["completedCallback"] = lambda code: completed(code == 0)
        try:
            # A process that runs on has its copy of the environment by then.
            with _environment(environment), contextlib.nullcontext() if isAsync else _printed(log):
                install(arguments, **options)
        except subprocess.CalledProcessError as error:
            log(str(error))  # pip's lines before it say what was wrong
            completed(False)
        except Exception as error:  # Slicer refuses with a RuntimeError
            log(f"ERROR: {error}")
            completed(False)
        else:
            if not isAsync:
                completed(True)


def _pipInstall() -> Callable[..., Any]:
    """Returns Slicer's `pip_install`: from `slicer.packaging`, or in Slicer 5.10 from `slicer.util`."""
    with contextlib.suppress(ImportError):
        packaging = importlib.import_module("slicer.packaging")
        if hasattr(packaging, "pip_install"):
            return packaging.pip_install
    return slicer.util.pip_install


class _Tee:
    """An output stream that also passes every line to a log."""

    def __init__(self, stream: Any, log: Log) -> None:
        self._stream = stream
        self._log = log
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._log(line.rstrip())
        if self._stream is not None:  # a Python without a console
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()


@contextlib.contextmanager
def _printed(log: Log) -> Iterator[None]:
    """Logs what is printed, where pip's lines cannot be had otherwise."""
    with contextlib.redirect_stdout(_Tee(sys.stdout, log)):
        yield


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables, which pip's process inherits."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
