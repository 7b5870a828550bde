"""Shows the panel's options: how far a run goes, and its preview's fill opacity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.app.events import Choices
from SAM2PropagateLib.gui.widgets import Connections, choose, enable
from SAM2PropagateLib.run_options import BACKWARD, BOTH, DIRECTIONS, FORWARD, RunOptions
from SAM2PropagateLib.scene.names import decoded, encoded
from SAM2PropagateLib.texts import plural
from SAM2PropagateLib.texts import tr as _

REACH = (1, 9999)
"""The smallest and the largest reach that can be chosen, in slices."""


class Options:
    """Connects the choices that Slicer's parameter node cannot connect by itself.

    Args:
        ui: the widgets by name.
        controller: has the choices.
        parameters: returns the scene's parameter node; None without a scene, or while widgets are being set.
    """

    def __init__(self, ui: Any, controller: Controller, parameters: Callable[[], Any]) -> None:
        self._ui = ui
        self._controller = controller
        self._parameters = parameters
        for value, text in (
            (BOTH, _("Both directions")),
            (FORWARD, _("Forward only (to higher slice numbers)")),
            (BACKWARD, _("Backward only (to lower slice numbers)")),
        ):
            ui.directionComboBox.addItem(text, value)
        self._connections = Connections()
        for box, name in (
            (ui.directionComboBox, "direction"),
            (ui.deviceComboBox, "device"),
            (ui.modelComboBox, "model"),
        ):
            self._connections.add(
                box, "currentIndexChanged(int)", lambda _n, box=box, name=name: self._chosen(box, name)
            )
        self._connections.add(ui.reachSpinBox, "valueChanged(int)", self._showReach)
        self._connections.add(ui.opacitySlider, "valueChanged(double)", self._opacityChosen)

    def close(self) -> None:
        """Disconnects the widgets."""
        self._connections.close()

    def refresh(self, parameters: Any) -> None:
        """Shows the choices; `parameters` may be None."""
        ui, choices = self._ui, self._controller.choices
        choose(ui.directionComboBox, choices.run.direction)
        enable(
            ui.reachSpinBox,
            "" if choices.run.reach is not None else _("Check “At most” to limit the run."),
            _("Slices from every keyframe."),
        )
        if parameters is not None:
            ui.opacitySlider.value = parameters.previewOpacity

    def _showReach(self, reach: int) -> None:
        self._ui.reachSpinBox.suffix = plural(
            reach, _(" slice from a keyframe"), _(" slices from a keyframe")
        )

    def _chosen(self, box: Any, name: str) -> None:
        value, parameters = box.itemData(box.currentIndex), self._parameters()
        if parameters is not None and value is not None:
            setattr(parameters, name, encoded(str(value)))

    def _opacityChosen(self, value: float) -> None:
        parameters = self._parameters()
        if parameters is not None:
            parameters.previewOpacity = float(value)


def choicesOf(parameters: Any) -> Choices:
    """Returns the user's choices in a parameter node."""
    direction = parameters.direction
    return Choices(
        run=RunOptions(
            direction=direction if direction in DIRECTIONS else BOTH,
            # A scene from elsewhere may hold any number.
            reach=min(max(parameters.reach, REACH[0]), REACH[1]) if parameters.limitReach else None,
            all_axes=parameters.allAxes,
        ),
        allSegments=parameters.allSegments,
        applyAutomatically=parameters.applyAutomatically,
        model=decoded(parameters.model),
        device=parameters.device,
        motion=parameters.motion,
        keepAsDrawn=parameters.keepAsDrawn,
    )
