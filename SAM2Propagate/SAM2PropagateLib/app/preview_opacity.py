"""How strongly the preview is filled."""

from __future__ import annotations

from typing import Any

from SAM2PropagateLib.app.selection import Selection


class PreviewOpacity:
    """The opacity that was chosen, for every preview there is; none as long as nothing was chosen.

    Args:
        selection: whose preview it is.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._opacity: float | None = None
        self._styled: Any = None

    def choose(self, opacity: float) -> None:
        """Fills the preview so strongly, 0 to 1."""
        self._opacity = float(opacity)
        self._styled = None
        self.follow()

    def follow(self) -> None:
        """There may be another preview than before."""
        workspace = self._selection.workspace
        node = workspace.previewNode if workspace is not None else None
        if node is not None and node is not self._styled and self._opacity is not None:
            node.GetDisplayNode().SetOpacity2DFill(self._opacity)
            self._styled = node
