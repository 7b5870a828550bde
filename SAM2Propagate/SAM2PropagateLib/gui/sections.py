"""The sections of the panel that are folded, and stay as the user left them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from SAM2PropagateLib.gui.widgets import Connections

_GROUP = "SAM2Propagate/Collapsed"


class Sections:
    """Remembers in the application's settings which sections are collapsed.

    Args:
        sections: ctkCollapsibleButtons, by the names under which they are remembered.
        settings: the application's QSettings.
    """

    def __init__(self, sections: Mapping[str, Any], settings: Any) -> None:
        self._settings = settings
        self._connections = Connections()
        for name, section in sections.items():
            # Text, as a settings file gives every value back as text.
            section.collapsed = str(settings.value(f"{_GROUP}/{name}", "yes")) != "no"
            self._connections.add(
                section,
                "contentsCollapsed(bool)",
                lambda isCollapsed, name=name: self._remember(name, isCollapsed),
            )

    def close(self) -> None:
        """Lets go of the sections."""
        self._connections.close()

    def _remember(self, name: str, isCollapsed: bool) -> None:
        self._settings.setValue(f"{_GROUP}/{name}", "yes" if isCollapsed else "no")
