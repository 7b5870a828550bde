"""Provides keys that work wherever the keyboard focus is in Slicer's main window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import slicer.util

from SAM2PropagateLib.app.controller import Controller

UNDO_KEYS, REDO_KEYS = ("Ctrl+Z",), ("Ctrl+Y", "Ctrl+Shift+Z")


class Shortcuts:
    """Keys of the main window. Each is on only while it has something to do, so that others can use it, too.

    Args:
        parent: a widget of the main window.
        actions: called for each key, by its name in Qt ("Esc", "Ctrl+Z").
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
        """Removes the keys from the main window."""
        for key, shortcut in self._shortcuts.items():
            shortcut.setEnabled(False)
            shortcut.disconnect("activated()", self._actions[key])
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts.clear()


class MainWindowKeys:
    """Escape, Delete, Undo and Redo, which work everywhere but in text fields.

    Args:
        controller: does the work.
        parent: the widget that gets them if Slicer has no main window.
    """

    def __init__(self, controller: Controller, parent: Any) -> None:
        self._controller = controller
        self._parent = parent
        self._shortcuts: Shortcuts | None = None

    def take(self, deletePrompt: Callable[[], None]) -> None:
        """Takes the keys.

        Args:
            deletePrompt: called by Delete.
        """
        self.giveBack()
        controller = self._controller
        actions: dict[str, Callable[[], object]] = {
            "Esc": lambda: controller.chooseTool(None),
            "Del": deletePrompt,
            **dict.fromkeys(UNDO_KEYS, controller.startUndo),
            **dict.fromkeys(REDO_KEYS, controller.startRedo),
        }
        self._shortcuts = Shortcuts(slicer.util.mainWindow() or self._parent, actions)
        self.refresh()

    def giveBack(self) -> None:
        """Leaves the main window's keys as they were."""
        shortcuts, self._shortcuts = self._shortcuts, None
        if shortcuts is not None:
            shortcuts.close()

    def hover(self, isOnPrompt: bool) -> None:
        """Switches Delete on while the mouse is on a prompt."""
        self._enable("Del", isOnPrompt)

    def refresh(self, _none: None = None) -> None:
        """Switches on the keys that have something to do now, and the others off."""
        controller = self._controller
        if self._shortcuts is None:
            return
        self._enable("Esc", controller.tool is not None)
        for keys, isOn in ((UNDO_KEYS, controller.canUndo), (REDO_KEYS, controller.canRedo)):
            for key in keys:
                self._enable(key, isOn)

    def _enable(self, key: str, isOn: bool) -> None:
        if self._shortcuts is not None:
            self._shortcuts.enable(key, isOn)
