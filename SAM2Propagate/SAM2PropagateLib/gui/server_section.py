"""Shows the panel's part on the computer: choosing, testing and setting up a server."""

from __future__ import annotations

from typing import Any

from SAM2PropagateLib import __version__
from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.app.server_jobs import ServerJobEnd, ServerJobs
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.gui.application import revealing
from SAM2PropagateLib.gui.install import PACKAGES, REGISTRY, SAM2_REQUIREMENT
from SAM2PropagateLib.gui.message_frame import MessageFrame
from SAM2PropagateLib.gui.widgets import Connections, enable, put
from SAM2PropagateLib.releases import OLDEST_TORCH
from SAM2PropagateLib.texts import tr as _

_SOURCE = "git+https://github.com/SAM2Propagate/SlicerSAM2Propagate"
_BUILDERS = ("setuptools", "wheel")
_HERE, _SERVER = "here", "server"


class ServerSection:
    """Shows and keeps the choice, and always says where the model computes.

    Args:
        ui: the widgets by name.
        controller: runs the model on the chosen computer.
        jobs: has the choice, and tests and sets up a server.
        messages: asks the user.
    """

    def __init__(
        self,
        ui: Any,
        controller: Controller,
        jobs: ServerJobs,
        messages: MessageFrame,
    ) -> None:
        self._ui = ui
        self._controller = controller
        self._jobs = jobs
        self._computer = computer = jobs.computer
        self._messages = messages
        self._isShowing = False
        self._isCopying = False
        self._title = ui.modelCollapsibleButton.text
        ui.computerComboBox.addItem(_("This computer"), _HERE)
        ui.computerComboBox.addItem(_("Server (ssh)"), _SERVER)
        put(ui.serverStatusLabel, "")
        self._reveal = revealing(ui.serverStatusLabel)
        self._connections = Connections()
        self._connections.add(ui.computerComboBox, "currentIndexChanged(int)", self._chooseComputer)
        for edit in (ui.hostLineEdit, ui.remotePythonLineEdit):
            self._connections.add(edit, "editingFinished()", self._nameServer)
            self._connections.add(edit, "textEdited(QString)", self._typing)
        for button, act in (
            (ui.testServerButton, self._test),
            (ui.installCommandButton, self._copyCommand),
            (ui.copyLibraryButton, self._copyLibrary),
        ):
            self._connections.press(button, act)
        self._connections.hear(jobs.progress, self._progress)
        self._connections.hear(jobs.finished, self._finished)
        self._connections.hear(computer.changed, self._changed)

    def close(self) -> None:
        """Disconnects widgets and jobs."""
        self._connections.close()
        self._reveal.close()

    def refresh(self) -> None:
        """Shows the choice, the possible actions, and where the model computes."""
        ui, computer = self._ui, self._computer
        self._isShowing = True
        try:
            index = ui.computerComboBox.findData(_SERVER if computer.isServer else _HERE)
            ui.computerComboBox.setCurrentIndex(index)
            for edit, text in ((ui.hostLineEdit, computer.host), (ui.remotePythonLineEdit, computer.python)):
                # The user is still typing.
                if not edit.hasFocus():
                    edit.text = text
        finally:
            self._isShowing = False
        ui.serverFrame.setVisible(computer.isServer)
        isRunning = self._controller.isRunning
        whyNot = _("Cancel the propagation, or wait for its end, first.") if isRunning else ""
        enable(ui.computerComboBox, whyNot, _("Choose the computer that the model runs on."))
        enable(ui.hostLineEdit, whyNot, _("Name the server as ssh takes it: gpu1, me@gpu1."))
        enable(
            ui.remotePythonLineEdit,
            whyNot,
            _("Name the Python there that has PyTorch and SAM 2; leave it empty to have it found."),
        )
        problem = computer.problem
        busy = _("A test or a copy is under way.") if self._jobs.isRunning else ""
        enable(ui.testServerButton, problem or busy, _("Log in to the server and list what it has."))
        enable(ui.installCommandButton, problem, _("Copy a command that installs all that is needed there."))
        isCopying = self._jobs.isRunning and self._isCopying
        ui.copyLibraryButton.text = _("Cancel copy") if isCopying else _("Copy library …")
        enable(
            ui.copyLibraryButton,
            "" if isCopying else problem or busy,
            _("Stop the copy.")
            if isCopying
            else _("Copy this library and the chosen model there, after asking, and check both."),
        )
        ui.modelCollapsibleButton.text = f"{self._title}: {self._where()}"

    def _where(self) -> str:
        """Returns a text on where the model computes, as far as that is known."""
        device = self._controller.device
        device = {"": "", "cpu": _("processor")}.get(device, device)
        there = self._computer.host or _("no server named")
        place = there if self._computer.isServer else _("this computer")
        return f"{place} ({device})" if device else place

    # --- what the user does

    def _chooseComputer(self, index: int) -> None:
        if not self._isShowing:
            put(self._ui.serverStatusLabel, "")
            self._computer.choose(isServer=self._ui.computerComboBox.itemData(index) == _SERVER)

    def _typing(self, _text: str) -> None:
        # A gray button would not take the keyboard focus, which ends the typing.
        isNamed = bool(self._ui.hostLineEdit.text.strip()) and not self._jobs.isRunning
        for button in (self._ui.testServerButton, self._ui.installCommandButton, self._ui.copyLibraryButton):
            button.enabled = button.enabled or isNamed

    def _nameServer(self) -> None:
        ui = self._ui
        if not self._isShowing:
            self._computer.choose(host=ui.hostLineEdit.text, python=ui.remotePythonLineEdit.text)

    def _changed(self, _none: None = None) -> None:
        self._messages.leftComputer()
        put(self._ui.serverStatusLabel, self._computer.problem if self._computer.host else "")

    def _test(self) -> None:
        self._nameServer()
        try:
            remote = self._computer.remote()
        except InputError:
            return
        if remote is not None:
            self._isCopying = False
            self._jobs.test(remote, self._controller.choices.model)
            self.refresh()

    def _copyCommand(self) -> None:
        self._nameServer()
        if self._computer.problem:
            return
        command = installCommand(self._computer.host)
        self._messages.dialogs.copyText(command)
        text = _("Copied; run it in a terminal, then test the connection:")
        self._tell(f"{text}\n{command}")

    def _copyLibrary(self) -> None:
        if self._jobs.isRunning:
            self._jobs.cancel()
            return
        self._nameServer()
        try:
            remote = self._computer.remote()
        except InputError:
            return
        text = "\n".join(
            (
                _("Copy SAM2 Propagate to {host}?").format(host=self._computer.host),
                "",
                _("This library (about 1 MB) and the chosen model go into the folder ~/.sam2propagate in "
                  "your home there, and are checked by their SHA-256. Delete that folder to remove them."),
                _("Python, PyTorch and the other packages have to be there; the install command gets them."),
            )
        )  # fmt: skip
        if remote is not None and self._messages.dialogs.agree(text, _("Set up a server")):
            self._isCopying = True
            self._jobs.copy(remote, self._controller.choices.model)
            self.refresh()

    # --- signals of the jobs

    def _progress(self, text: str) -> None:
        put(self._ui.serverStatusLabel, text)

    def _finished(self, end: ServerJobEnd) -> None:
        self._tell(end.text)
        self.refresh()

    def _tell(self, text: str) -> None:
        """Shows an answer, and scrolls to it: it is last in the panel, below the edge of a small screen."""
        put(self._ui.serverStatusLabel, text)
        self._reveal.start()


def installCommand(host: str) -> str:
    """Returns a command for a terminal that makes an environment on a server and installs all that a worker
    needs.

    It works in the shells of Linux, macOS and Windows, and whatever shell the user has on the server.
    """
    pip = "~/.sam2propagate/env/bin/pip install"
    packages = [f"torch>={OLDEST_TORCH}", "numpy>=1.26", "setuptools>=61", "wheel"]
    packages += [one.requirement for one in PACKAGES if one.way == REGISTRY and one.module not in _BUILDERS]
    quoted = " ".join(f"'{one}'" for one in packages)
    steps = (
        "python3 -m venv ~/.sam2propagate/env",
        f"{pip} {quoted}",
        # `env`, as not every shell sets a variable for one command.
        f"echo '{SAM2_REQUIREMENT}' | "
        f"env SAM2_BUILD_CUDA=0 {pip} --no-deps --no-build-isolation -r /dev/stdin",
        f"{pip} 'sam2propagate @ {_SOURCE}@v{__version__}'",
    )
    return f'ssh {host} "{" && ".join(steps)}"'
