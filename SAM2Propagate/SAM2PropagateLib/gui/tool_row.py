"""Shows the buttons of the tools, and of Undo and Redo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from SAM2PropagateLib.app import rules, tools
from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.gui.widgets import Connections, Icons, enable
from SAM2PropagateLib.texts import tr as _


class ToolRow:
    """One button per tool, with its key below the icon.

    Args:
        ui: the widgets by name.
        controller: has the tools.
        icons: gets the buttons.
        pressed: called after the user has pressed a tool.
    """

    def __init__(self, ui: Any, controller: Controller, icons: Icons, pressed: Callable[[], None]) -> None:
        self._ui = ui
        self._controller = controller
        self._pressed = pressed
        self._connections = Connections()
        self._buttons = {name: getattr(ui, f"{name}ToolButton") for name in tools.TOOLS}
        for tool in tools.tools():
            button = self._buttons[tool.name]
            button.text = tool.key
            button.accessibleName = tool.title
            icons.give(tool.name, button)
            self._connections.add(button, "clicked(bool)", lambda _on, name=tool.name: self._press(name))
        icons.give("undo", ui.undoButton)
        icons.give("redo", ui.redoButton)
        self._connections.press(ui.undoButton, controller.startUndo)
        self._connections.press(ui.redoButton, controller.startRedo)

    def close(self) -> None:
        """Disconnects the widgets."""
        self._connections.close()

    def refresh(self, conditions: rules.Conditions) -> None:
        """Shows which tool is on, and which buttons can be pressed."""
        for tool in tools.tools():
            button = self._buttons[tool.name]
            text = _("{title} ({key}): {help}").format(title=tool.title, key=tool.key, help=tool.help)
            enable(button, rules.whyNot(rules.PROMPT, conditions), text)
            button.checked = tools.buttonOf(self._controller.tool) == tool.name
            isNegative = button.checked and self._controller.tool == tools.NEGATIVE_SCRIBBLE
            button.text = f"{tool.key} −" if isNegative else tool.key
        ui = self._ui
        enable(ui.undoButton, rules.whyNot(rules.UNDO, conditions), self._controller.undoText)
        enable(ui.redoButton, rules.whyNot(rules.REDO, conditions), self._controller.redoText)

    def _press(self, name: str) -> None:
        self._controller.chooseTool(name)
        self._pressed()
