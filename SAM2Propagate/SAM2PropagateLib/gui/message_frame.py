"""Shows messages in the panel, one at a time, until it is dismissed or the next one comes."""

from __future__ import annotations

from typing import Any

from SAM2PropagateLib.app.events import UserMessage
from SAM2PropagateLib.gui.application import revealing
from SAM2PropagateLib.gui.dialogs import Dialogs
from SAM2PropagateLib.gui.widgets import Connections, enable
from SAM2PropagateLib.texts import tr as _

# Pixels; the size of a message's icon.
_ICON = 22
# Codes of messages about the chosen computer, beside the worker's errors and what was refused for it.
_OF_COMPUTER = ("no_gpu", "worker_log", "model_not_there")


class MessageFrame:
    """Shows messages, and on request the last error again.

    Args:
        ui: the widgets by name.
        dialogs: show logs, and ask the user for the parts of the panel.

    Attributes:
        dialogs: as given; may be replaced.
    """

    def __init__(self, ui: Any, dialogs: Dialogs) -> None:
        self._ui = ui
        self.dialogs = dialogs
        self._message: UserMessage | None = None
        self._error: UserMessage | None = None
        self._isOfScene = False
        self._reveal = revealing(ui.messageFrame)
        self._connections = Connections()
        for button, act in (
            (ui.logButton, self._showLog),
            (ui.errorButton, self._showError),
            (ui.dismissButton, self.dismiss),
        ):
            self._connections.press(button, act)
        self._showLogButtons()

    def close(self) -> None:
        """Disconnects the widgets."""
        self._connections.close()
        self._reveal.close()

    def say(self, message: UserMessage, isOfScene: bool = False) -> None:
        """Shows a message, and scrolls to it if something is wrong.

        Args:
            isOfScene: the message is dropped when the scene is closed.
        """
        import qt

        ui, self._message, self._isOfScene = self._ui, message, isOfScene
        if message.level == "error":
            self._error = message
        picture, level = {
            "error": (qt.QStyle.SP_MessageBoxCritical, _("Error")),
            "warning": (qt.QStyle.SP_MessageBoxWarning, _("Warning")),
        }.get(message.level, (qt.QStyle.SP_MessageBoxInformation, _("Information")))
        # The style's icons are visible in light and in dark panels.
        ui.messageIcon.setPixmap(ui.messageFrame.style().standardIcon(picture).pixmap(qt.QSize(_ICON, _ICON)))
        ui.messageIcon.toolTip = level
        ui.messageLabel.text = message.text
        ui.messageFrame.setVisible(True)
        if message.level != "info":
            self._reveal.start()
        self._showLogButtons()

    def dismiss(self) -> None:
        """Hides the message."""
        self._ui.messageFrame.setVisible(False)

    def recovered(self, _none: None = None) -> None:
        """Drops the worker's error, as the worker works again."""
        if self._message is not None and self._message.isOfWorker:
            self.dismiss()

    def leftComputer(self) -> None:
        """Drops messages about the former computer, and refusals."""
        self.recovered()
        self.wentOn()
        if self._message is not None and self._message.code in _OF_COMPUTER:
            self.dismiss()

    def wentOn(self, _none: None = None) -> None:
        """Drops a refusal, as the user has gone on."""
        if self._message is not None and self._message.isForNow:
            self.dismiss()

    def forgetErrors(self) -> None:
        """Drops messages about the scene and the last error, as the scene is closed."""
        if self._isOfScene:
            self.dismiss()
            self._message = None
        self._error = None
        self._showLogButtons()

    def _showLog(self) -> None:
        if self._message is not None and self._message.log:
            self._show(self._message)
        else:
            self._showError()

    def _showError(self) -> None:
        if self._error is not None:
            self._show(self._error)

    def _show(self, message: UserMessage) -> None:
        self.dialogs.showLog(message.text, "\n".join(message.log))

    def _showLogButtons(self) -> None:
        ui = self._ui
        hasLog = self._message is not None and bool(self._message.log)
        isLater = self._error is not None and self._error is not self._message
        ui.logButton.setVisible(hasLog or isLater)
        ui.logButton.text = _("Log …") if hasLog else _("Last error …")
        again = _("Show the last error and the worker's log.")
        ui.logButton.toolTip = _("Show what the worker printed last.") if hasLog else again
        enable(ui.errorButton, "" if self._error is not None else _("No error has happened."), again)
