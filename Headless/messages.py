"""What VTK and MRML complained about, so that a test can fail on it instead of it scrolling past."""

from __future__ import annotations

from collections.abc import Callable

import vtk


class VtkMessages:
    """Collects VTK errors and warnings from now on; they still go where they went before.

    Attributes:
        errors, warnings: the messages so far, oldest first.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._window = vtk.vtkOutputWindow.GetInstance()
        self._tags = [
            self._window.AddObserver("ErrorEvent", self._collector(self.errors)),
            self._window.AddObserver("WarningEvent", self._collector(self.warnings)),
        ]

    @staticmethod
    def _collector(into: list[str]) -> Callable[..., None]:
        def collect(_caller: object, _event: str, text: str) -> None:
            into.append(text.strip())

        collect.CallDataType = vtk.VTK_STRING  # type: ignore[attr-defined]
        return collect

    def clear(self) -> None:
        """Forgets what was collected."""
        self.errors.clear()
        self.warnings.clear()

    def stop(self) -> None:
        """Ends the collecting."""
        for tag in self._tags:
            self._window.RemoveObserver(tag)
        self._tags = []
