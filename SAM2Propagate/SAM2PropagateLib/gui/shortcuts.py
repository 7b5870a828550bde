"""Keys that work wherever the keyboard is in Slicer's main window, and in windows with views of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import slicer.util

from SAM2PropagateLib.app.controller import Controller

# What PythonQt, and other ways to Qt, raise for a widget that is gone.
GONE = (ValueError, RuntimeError)
UNDO_KEYS, REDO_KEYS = ("Ctrl+Z",), ("Ctrl+Y", "Ctrl+Shift+Z")


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
            with contextlib.suppress(*GONE):  # with its window
                self._shortcuts[key].setEnabled(bool(isOn))

    def close(self) -> None:
        """Takes the keys from the window."""
        for key, shortcut in self._shortcuts.items():
            with contextlib.suppress(*GONE):  # with its window
                shortcut.setEnabled(False)
                shortcut.disconnect("activated()", self._actions[key])
                shortcut.setParent(None)
                shortcut.deleteLater()
        self._shortcuts.clear()


class WindowKeys:
    """Escape, Delete, Undo and Redo, which work wherever the keyboard is, but in text fields.

    Args:
        controller: what they are for.
        parent: the widget that has them where Slicer has no main window.
    """

    def __init__(self, controller: Controller, parent: Any) -> None:
        self._controller = controller
        self._parent = parent
        self._shortcuts: list[Shortcuts] = []
        self._isOnPrompt = False

    def take(self, deletePrompt: Callable[[], None], windows: Iterable[Any] = ()) -> None:
        """Takes the keys, in the main window and in others.

        Args:
            deletePrompt: what Delete does.
            windows: with views, as those on a second screen.
        """
        self.giveBack()
        controller = self._controller
        actions: dict[str, Callable[[], object]] = {
            "Esc": lambda: controller.chooseTool(None),
            "Del": deletePrompt,
            **dict.fromkeys(UNDO_KEYS, controller.startUndo),
            **dict.fromkeys(REDO_KEYS, controller.startRedo),
        }
        found = [slicer.util.mainWindow() or self._parent]
        for window in windows:
            if all(window != one for one in found):
                found.append(window)
        self._shortcuts = [Shortcuts(window, actions) for window in found]
        self.refresh()

    def giveBack(self) -> None:
        """Leaves the windows' keys as they were."""
        shortcuts, self._shortcuts = self._shortcuts, []
        for one in shortcuts:
            one.close()

    def hover(self, isOnPrompt: bool) -> None:
        """The mouse decides on Delete."""
        self._isOnPrompt = isOnPrompt
        self._enable("Del", isOnPrompt)

    def refresh(self, _none: None = None) -> None:
        """Uses the keys that have something to do now, and leaves the others to others."""
        controller = self._controller
        if not self._shortcuts:
            return
        self._enable("Esc", controller.tool is not None)
        self._enable("Del", self._isOnPrompt)
        for keys, isOn in ((UNDO_KEYS, controller.canUndo), (REDO_KEYS, controller.canRedo)):
            for key in keys:
                self._enable(key, isOn)

    def _enable(self, key: str, isOn: bool) -> None:
        for one in self._shortcuts:
            one.enable(key, isOn)
