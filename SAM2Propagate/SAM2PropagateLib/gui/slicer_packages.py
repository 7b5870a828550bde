"""Installing packages into Slicer's own Python: `install.PackageTools` for the application."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import slicer
import slicer.util

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.gui.install import Completed, Log
from SAM2PropagateLib.gui.texts import tr as _

REQUESTER = "SAM2 Propagate"


class SlicerPackageTools:
    """Through the PyTorch extension, `slicer.packaging` where there is one, else `slicer.util.pip_install`.

    These show Slicer's own progress, and come back when they have finished. Having installed torch, the
    PyTorch extension itself imports it once; nothing of this project does so in Slicer's process.
    """

    def installTorch(self, version: str, log: Log, completed: Completed) -> None:
        try:
            utilities = importlib.import_module("PyTorchUtils")
        except ImportError as error:
            raise SAM2PropagateError(
                "no_pytorch_extension",
                _("Slicer's extension “PyTorch” is not installed."),
                _("Install it in the Extensions Manager and start Slicer again."),
            ) from error
        log(f"PyTorchUtils: torch{version}")
        torch = utilities.PyTorchUtilsLogic().installTorch(
            askConfirmation=False, torchVersionRequirement=version
        )
        completed(torch is not None)

    def pipInstall(
        self, arguments: list[str], environment: dict[str, str], log: Log, completed: Completed
    ) -> None:
        log("pip install " + " ".join(arguments))
        requirements = [one for one in arguments if not one.startswith("-")]
        try:
            with _environment(environment):
                packaging = _packaging()
                if packaging is not None and "-r" not in arguments:
                    # The user has agreed already, in the module's own window.
                    packaging.pip_ensure(requirements, prompt_install=False, requester=REQUESTER)
                else:
                    slicer.util.pip_install(arguments)
        except Exception as error:  # pip's failure is a CalledProcessError, a refusal a RuntimeError
            log(f"ERROR: {error}")
            completed(False)
            return
        completed(True)


def _packaging() -> Any:
    """Slicer's module for packages, which Slicer 5.10 does not have."""
    with contextlib.suppress(ImportError):
        module = importlib.import_module("slicer.packaging")
        return module if hasattr(module, "pip_ensure") else None
    return None


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
