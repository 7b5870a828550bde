"""Installing packages into Slicer's own Python: `install.PackageTools` for the application."""

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

# With these, Slicer's `pip_install` comes back at once and tells what pip says.
_CALLBACKS = {"blocking", "show_progress", "logCallback", "completedCallback"}


class SlicerPackageTools:
    """Through the PyTorch extension, and Slicer's `pip_install`.

    From Slicer 5.12 on, that works while Slicer goes on; before, and in the PyTorch extension, the call comes
    back when it has finished. Either way what pip says is logged line by line. Having installed torch, the
    PyTorch extension itself imports it once; nothing of this project does so in Slicer's process.
    """

    def installTorch(self, version: str, log: Log, completed: Completed) -> None:
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
        log("pip install " + " ".join(arguments))
        install = _pipInstall()
        # In its testing mode Slicer takes the callbacks and never calls them.
        isAsync = set(inspect.signature(install).parameters) >= _CALLBACKS and not slicer.app.testingEnabled()
        options: dict[str, Any] = {}
        if isAsync:
            options = {"blocking": False, "show_progress": False, "logCallback": log}
            options["completedCallback"] = lambda code: completed(code == 0)
        try:
            # A process that goes on afterwards has taken the environment over by then.
            with _environment(environment), contextlib.nullcontext() if isAsync else _printed(log):
                install(arguments, **options)
        except subprocess.CalledProcessError as error:
            log(str(error))  # pip has said before what was wrong
            completed(False)
        except Exception as error:  # a refusal of Slicer's is a RuntimeError
            log(f"ERROR: {error}")
            completed(False)
        else:
            if not isAsync:
                completed(True)


def _pipInstall() -> Callable[..., Any]:
    """Slicer's own: of `slicer.packaging`, which Slicer 5.10 does not have, else of `slicer.util`."""
    with contextlib.suppress(ImportError):
        packaging = importlib.import_module("slicer.packaging")
        if hasattr(packaging, "pip_install"):
            return packaging.pip_install
    return slicer.util.pip_install


class _Tee:
    """An output stream that hands every line on to a log as well."""

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
    """With what is printed logged, too: where there is no other way to what pip says."""
    with contextlib.redirect_stdout(_Tee(sys.stdout, log)):
        yield


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """With these variables set, which pip's process inherits."""
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
