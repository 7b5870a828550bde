"""Shows the panel's section on the model: which one, on what device, and downloads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.app.events import UserMessage
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.gui import devices
from SAM2PropagateLib.gui.message_frame import MessageFrame
from SAM2PropagateLib.gui.model_list import DownloadEnd, DownloadProgress, ModelList
from SAM2PropagateLib.gui.widgets import Connections, choose, enable, put
from SAM2PropagateLib.texts import tr as _


class ModelSection:
    """Shows models and devices, and lets the user download, remove and open models.

    Args:
        ui: the widgets by name.
        controller: has the choices. models: can be loaded and downloaded.
        messages: tells and asks the user.
        chooseModel: called with the path of a weights file that the user opened.
    """

    def __init__(
        self,
        ui: Any,
        controller: Controller,
        models: ModelList,
        messages: MessageFrame,
        chooseModel: Callable[[str], None],
    ) -> None:
        self._ui = ui
        self._controller = controller
        self._models = models
        self._messages = messages
        self._chooseModel = chooseModel
        self._connections = Connections()
        for button, act in (
            (ui.downloadModelButton, self._download),
            (ui.removeModelButton, self._remove),
            (ui.openModelButton, self._open),
        ):
            self._connections.press(button, act)
        self._devices = {one.name: one for one in devices.devices()}
        self._listDevices()
        put(ui.downloadLabel, "")
        self._connections.hear(models.progress, self._downloading)
        self._connections.hear(models.finished, self._downloaded)

    def close(self) -> None:
        """Disconnects widgets and downloads."""
        self._connections.close()

    def _listDevices(self) -> None:
        import qt

        box = self._ui.deviceComboBox
        for index, device in enumerate(self._devices.values()):
            box.addItem(device.title, device.name)
            box.setItemData(index, device.whyNot or device.help, qt.Qt.ToolTipRole)

    def refresh(self) -> None:
        """Shows the chosen model and device, and which actions are possible."""
        self._showDevice()
        self._showModel()

    def _showDevice(self) -> None:
        box, chosen = self._ui.deviceComboBox, self._controller.choices.device
        choose(box, chosen)
        isElsewhere = self._controller.isElsewhere
        for index, one in enumerate(self._devices.values()):
            # A device from a saved scene stays chosen even if this computer lacks it; a server reports its
            # own.
            box.model().item(index).setEnabled(isElsewhere or not one.whyNot)
        device = None if isElsewhere else self._devices.get(chosen)
        said = (device.whyNot or device.help) if device is not None else ""
        box.toolTip = " ".join([_("Choose what the model runs on."), said]).strip()

    def _showModel(self) -> None:
        ui, chosen = self._ui, self._controller.choices.model
        rows = self._models.rows()
        wanted = [(row.name, row.title if row.isThere else f"{row.title} ↓") for row in rows]
        if chosen not in [row.name for row in rows]:
            wanted.append((chosen, Path(chosen).name))
        box = ui.modelComboBox
        there = [(box.itemData(n), box.itemText(n)) for n in range(box.count)]
        if there != wanted:
            box.clear()
            for name, title in wanted:
                box.addItem(title, name)
        choose(box, chosen)
        row = next((one for one in rows if one.name == chosen), None)
        details = (
            row.details if row is not None else _("A weights file of your own: {path}").format(path=chosen)
        )
        problem = self._controller.modelProblem()
        ui.modelStatusLabel.text = f"{problem} {details}".strip()
        isDownloading = self._models.isDownloading
        ui.downloadModelButton.text = _("Cancel download") if isDownloading else _("Download …")
        ownFile = _("It is a file of your own.")
        enable(
            ui.downloadModelButton,
            "" if isDownloading else row.whyNotDownload if row is not None else ownFile,
            _("Stop the download.")
            if isDownloading
            else _("Show source, size and license, and ask before downloading."),
        )
        enable(
            ui.removeModelButton,
            row.whyNotRemove if row is not None else ownFile,
            _("Delete this model from the computer."),
        )

    def _download(self) -> None:
        if self._models.isDownloading:
            self._models.cancel()
            return
        name = self._controller.choices.model
        if self._messages.dialogs.agree(self._models.consentText(name), _("Download a model")):
            self._models.download(name)

    def _remove(self) -> None:
        name = self._controller.choices.model
        if not self._messages.dialogs.agree(_("Remove this model from the computer?"), _("Remove a model")):
            return
        try:
            self._models.remove(name)
        except SAM2PropagateError as error:
            self._messages.say(UserMessage("error", str(error), error.code))

    def _open(self) -> None:
        path = self._messages.dialogs.chooseWeights()
        if path:
            self._chooseModel(path)

    def _downloading(self, progress: DownloadProgress) -> None:
        put(self._ui.downloadLabel, progress.text)

    def _downloaded(self, end: DownloadEnd) -> None:
        put(self._ui.downloadLabel, "")
        self._messages.say(UserMessage("error" if end.state == "failed" else "info", end.text, end.state))
