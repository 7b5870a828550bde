"""Shows the menu of windows and levels beside the volume, and offers a preset for a CT once."""

from __future__ import annotations

from typing import Any

import slicer

from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.app.observing import Observers
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.gui.widgets import Connections, enable
from SAM2PropagateLib.scene.window_presets import (
    hounsfieldShift,
    isAutomatic,
    isToBeAsked,
    noteAnswer,
    presetWindow,
    setWindow,
    shownWindow,
)
from SAM2PropagateLib.texts import tr as _

_OFFERED = "soft-tissue"


class WindowMenu:
    """Shows the window that views and model see the volume in, and offers others.

    Args:
        ui: the widgets by name.
        controller: has the volume.
    """

    def __init__(self, ui: Any, controller: Controller) -> None:
        import qt

        self._ui = ui
        self._controller = controller
        self._titles = {
            "soft-tissue": _("Soft tissue"),
            "lung": _("Lung"),
            "bone": _("Bone"),
            "brain": _("Brain"),
            "liver": _("Liver"),
        }
        self._volume: Any = None
        self._seen: object = None
        self._shift: float | None = None
        self._display = Observers()
        self._connections = Connections()
        self._menu = qt.QMenu(ui.windowButton)
        self.actions: dict[str, Any] = {}
        for name, title in (*self._titles.items(), ("automatic", _("Automatic"))):
            action = qt.QAction(title, self._menu)
            self._menu.addAction(action)
            self.actions[name] = action
            self._connections.add(action, "triggered()", lambda name=name: self._choose(name))
        ui.windowButton.setMenu(self._menu)
        ui.takeWindowButton.text = self._titles[_OFFERED]
        ui.takeWindowButton.toolTip = _("Show the volume in the soft tissue window.")
        ui.windowLabel.text = _("This CT is shown in a wide window, in which organs are hard to see.")
        self._connections.press(ui.takeWindowButton, lambda: self._choose(_OFFERED))
        self._connections.press(ui.keepWindowButton, self._keep)

    def close(self) -> None:
        """Disconnects widgets and volume."""
        self._display.clear()
        self._connections.close()

    def refresh(self) -> None:
        """Shows the window of the chosen volume."""
        self._follow(self._controller.volumeNode)
        self._show()

    def _follow(self, volume: Any) -> None:
        image = volume.GetImageData() if volume is not None else None
        scalars = image.GetPointData().GetScalars() if image is not None else None
        seen = (volume, scalars, scalars.GetMTime() if scalars is not None else 0)
        if volume is not self._volume:
            self._volume = volume
            self._display.clear()
            if volume is not None:
                event = slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent
                self._display.add(volume, event, self._show)
        if seen != self._seen:
            # It reads the voxels: only for another image.
            self._seen = seen
            self._shift = hounsfieldShift(volume) if volume is not None else None
            for name in self._titles:
                self.actions[name].visible = self._shift is not None

    def _show(self) -> None:
        ui, volume = self._ui, self._volume
        window = shownWindow(volume) if volume is not None else None
        enable(
            ui.windowButton,
            "" if volume is not None else _("Choose a volume first."),
            _("Choose the window and level of the views; the model sees the volume in them, too."),
        )
        ui.windowButton.text = self._title(window)
        ui.windowFrame.setVisible(volume is not None and self._shift is not None and isToBeAsked(volume))

    def _title(self, window: Window | None) -> str:
        if window is None:
            return _("Window")
        for name, title in self._titles.items() if self._shift is not None else ():
            if window == presetWindow(name, self._shift or 0.0):
                return title
        return _("Automatic") if isAutomatic(self._volume) else _("Window")

    def _choose(self, name: str) -> None:
        if self._volume is None:
            return
        noteAnswer(self._volume)
        setWindow(self._volume, None if name == "automatic" else presetWindow(name, self._shift or 0.0))
        self._show()

    def _keep(self) -> None:
        if self._volume is not None:
            noteAnswer(self._volume)
            self._show()
