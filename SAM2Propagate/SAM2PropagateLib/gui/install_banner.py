"""Shows the banner that names missing packages and offers to install them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from SAM2PropagateLib.app.events import UserMessage
from SAM2PropagateLib.gui.install import InstallEnd, Installer, bannerText, consentText
from SAM2PropagateLib.gui.message_frame import MessageFrame
from SAM2PropagateLib.gui.widgets import Connections, enable, put
from SAM2PropagateLib.texts import tr as _

# How much of each line of pip is shown, in characters; the log has all of it.
_LINE = 80


class InstallBanner:
    """Shows the missing packages, and the progress of their installation.

    Args:
        ui: the widgets by name.
        installer: knows the missing packages, and installs them.
        messages: tells and asks the user.
        changed: called when missing packages may have been installed.
    """

    def __init__(
        self,
        ui: Any,
        installer: Installer,
        messages: MessageFrame,
        changed: Callable[[], None],
    ) -> None:
        self._ui = ui
        self._installer = installer
        self._messages = messages
        self._changed = changed
        self._step = ""
        self._connections = Connections()
        self._connections.press(ui.installButton, self._install)
        put(ui.installProgressLabel, "")
        self._connections.hear(installer.progress, self._installing)
        self._connections.hear(installer.logged, self._logged)
        self._connections.hear(installer.finished, self._installed)

    def close(self) -> None:
        """Disconnects widgets and installer."""
        self._connections.close()

    def refresh(self) -> None:
        """Shows which packages are missing now."""
        needed = self._installer.needed()
        ui = self._ui
        ui.bannerFrame.setVisible(bool(needed) or self._installer.isRunning)
        ui.bannerLabel.text = bannerText(needed)
        self._showButton(bool(needed))

    def _showButton(self, isNeeded: bool) -> None:
        whyNot = "" if isNeeded else _("Nothing is missing.")
        enable(
            self._ui.installButton,
            _("The installation is running.") if self._installer.isRunning else whyNot,
            _("Show source and size of what will be installed, and ask before installing."),
        )

    def _install(self) -> None:
        needed = self._installer.needed()
        if (
            needed
            and not self._installer.isRunning
            and self._messages.dialogs.agree(consentText(needed), _("Install"))
        ):
            self._installer.start()
        self._changed()

    def _installing(self, text: str) -> None:
        self._step = text
        put(self._ui.installProgressLabel, text)
        self._showButton(True)

    def _logged(self, line: str) -> None:
        # Shows that something happens, as a step may take minutes.
        short = line.strip() if len(line) <= _LINE else line.strip()[: _LINE - 1] + "…"
        put(self._ui.installProgressLabel, f"{self._step}\n{short}")

    def _installed(self, end: InstallEnd) -> None:
        put(self._ui.installProgressLabel, "")
        self._messages.say(UserMessage("info" if end.isComplete else "error", end.text, "install", end.log))
        self._changed()
