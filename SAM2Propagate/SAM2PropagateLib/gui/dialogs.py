"""What the panel asks of the user in windows of their own."""

from __future__ import annotations

from typing import Protocol


class Dialogs(Protocol):
    """Questions to the user, and texts too long for the panel."""

    def agree(self, text: str, title: str) -> bool:
        """Whether the user agrees."""
        ...

    def showLog(self, text: str, log: str) -> None:
        """Shows a message with its log."""
        ...

    def chooseWeights(self) -> str:
        """The path of a weights file; "" if none was chosen."""
        ...
