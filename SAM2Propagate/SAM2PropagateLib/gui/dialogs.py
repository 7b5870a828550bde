"""Asks the user questions in dialogs."""

from __future__ import annotations

from typing import Protocol

import slicer.util

from SAM2PropagateLib.texts import tr as _


class Dialogs(Protocol):
    """Questions to the user, and texts too long for the panel."""

    def agree(self, text: str, title: str) -> bool:
        """Tells whether the user agrees."""
        ...

    def showLog(self, text: str, log: str) -> None:
        """Shows a message with its log."""
        ...

    def copyText(self, text: str) -> None:
        """Puts a text on the clipboard."""
        ...

    def chooseWeights(self) -> str:
        """Returns the path of a weights file; "" if none was chosen."""
        ...


class SlicerDialogs:
    """Slicer's own dialogs; see `Dialogs`."""

    def agree(self, text: str, title: str) -> bool:
        """See `Dialogs`."""
        return bool(slicer.util.confirmOkCancelDisplay(text, windowTitle=title))

    def showLog(self, text: str, log: str) -> None:
        """See `Dialogs`."""
        slicer.util.infoDisplay(text, detailedText=log)

    def copyText(self, text: str) -> None:
        """See `Dialogs`."""
        import qt

        qt.QApplication.clipboard().setText(text)

    def chooseWeights(self) -> str:
        """See `Dialogs`."""
        import qt

        return str(
            qt.QFileDialog.getOpenFileName(
                slicer.util.mainWindow(),
                _("Open a weights file"),
                "",
                _("Weights") + " (*.safetensors *.pt *.pth)",
            )
            or ""
        )
