"""Small helpers for widgets, for all parts of the panel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def put(label: Any, text: str) -> None:
    """Shows a text in a label; hides the label if it is empty."""
    label.text = text
    label.setVisible(bool(text))


def enable(button: Any, whyNot: str, text: str) -> None:
    """Enables a button, or disables it with the reason as its tooltip."""
    button.enabled = not whyNot
    button.toolTip = whyNot or text


def choose(box: Any, value: str) -> None:
    """Selects the entry of a QComboBox that has this value, if there is one."""
    index = box.findData(value)
    if index >= 0 and index != box.currentIndex:
        box.setCurrentIndex(index)


class Connections:
    """Connections with signals of widgets and of the library, which are disconnected together."""

    def __init__(self) -> None:
        self._ends: list[Callable[[], object]] = []

    def add(self, widget: Any, signal: str, slot: Any) -> None:
        """Connects a widget's signal, given as text."""
        widget.connect(signal, slot)
        self._ends.append(partial(widget.disconnect, signal, slot))

    def hear(self, signal: Any, slot: Any) -> None:
        """Connects an `app.signals.Signal`."""
        signal.connect(slot)
        self._ends.append(partial(signal.disconnect, slot))

    def press(self, button: Any, act: Any) -> None:
        """Calls `act` without arguments when a button is pressed."""
        self.add(button, "clicked()", lambda: act() and None)

    def close(self) -> None:
        """Disconnects all of them."""
        for end in self._ends:
            end()
        self._ends.clear()


class Icons:
    """The icons for light or dark panels.

    Args:
        folder: has one folder of icons for light panels and one for dark ones.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buttons: dict[str, Any] = {}

    def give(self, name: str, button: Any) -> None:
        """Gives a button the icon of this name, at the next `show`."""
        self._buttons[name] = button

    def show(self, isDark: bool) -> None:
        """Shows the icons for dark or light panels."""
        import qt

        folder = self._folder / ("Dark" if isDark else "Light")
        for name, button in self._buttons.items():
            button.setIcon(qt.QIcon(str(folder / f"{name}.svg")))
