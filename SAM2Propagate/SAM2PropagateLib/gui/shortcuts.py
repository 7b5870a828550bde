"""Keys that work wherever the keyboard is in Slicer's window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Shortcuts:
    """Keys of a window, each switched on only while it has something to do: others may use it, too.

    Args:
        parent: a widget of the window.
        actions: what each key does, by its name in Qt ("Esc", "Ctrl+Z").
    """

    def __init__(self, parent: Any, actions: Mapping[str, Callable[[], object]]) -> None:
        import qt

        self._actions = dict(actions)
        self._shortcuts: dict[str, Any] = {}
        for key, act in self._actions.items():
            shortcut = qt.QShortcut(qt.QKeySequence(key), parent)
            shortcut.setEnabled(False)
            shortcut.connect("activated()", act)
            self._shortcuts[key] = shortcut

    def enable(self, key: str, isOn: bool) -> None:
        """Switches a key on or off."""
        if key in self._shortcuts:
            self._shortcuts[key].setEnabled(bool(isOn))

    def close(self) -> None:
        """Takes the keys from the window."""
        for key, shortcut in self._shortcuts.items():
            shortcut.setEnabled(False)
            shortcut.disconnect("activated()", self._actions[key])
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts.clear()
