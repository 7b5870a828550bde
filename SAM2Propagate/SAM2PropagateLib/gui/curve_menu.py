"""Shows the menu of curves: draw one through the structure, or use one of the scene."""

from __future__ import annotations

from functools import partial
from typing import Any

import slicer

from SAM2PropagateLib.app import rules
from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.gui.application import Later
from SAM2PropagateLib.gui.widgets import Connections, enable
from SAM2PropagateLib.scene.curves import CurvePlacing, curveInWorld, userCurves
from SAM2PropagateLib.scene.markups import removeNode
from SAM2PropagateLib.scene.prompt_nodes import definedPoints
from SAM2PropagateLib.texts import tr as _


class CurveMenu:
    """Makes prompts of curves.

    Args:
        ui: the widgets by name.
        controller: gets the curves.
    """

    def __init__(self, ui: Any, controller: Controller) -> None:
        import qt

        self._ui = ui
        self._controller = controller
        self._placing: CurvePlacing | None = None
        self._placed: Any = None
        # When placing ends, Slicer is still changing the node.
        self._whenPlaced = Later()
        self._whenPlaced.calls(self._takePlaced)
        self._connections, self._entries = Connections(), Connections()
        self.menu = qt.QMenu(ui.curveButton)
        self._connections.add(self.menu, "aboutToShow()", self.fill)
        ui.curveButton.setMenu(self.menu)

    def close(self) -> None:
        """Disconnects the widgets; a curve that is being placed stays in the scene."""
        self._stopPlacing()
        self._whenPlaced.close()
        self._entries.close()
        self._connections.close()

    def refresh(self, conditions: rules.Conditions) -> None:
        """Shows whether a curve can be used."""
        enable(
            self._ui.curveButton,
            rules.whyNot(rules.PROMPT, conditions),
            _(
                "Draw a curve through the structure, or take one of the scene; it becomes clicks on slices "
                "that it crosses."
            ),
        )

    def fill(self) -> None:
        """Lists the curves that can be chosen now."""
        self._entries.close()
        self.menu.clear()
        self._add(_("Draw a curve"), self.draw)
        for node in userCurves(slicer.mrmlScene):
            self._add(str(node.GetName()), partial(self.take, node))

    def _add(self, title: str, act: Any) -> None:
        import qt

        action = qt.QAction(title, self.menu)
        self.menu.addAction(action)
        self._entries.add(action, "triggered()", lambda: act() and None)

    def take(self, node: Any) -> bool:
        """Makes a prompt from a curve or line of the scene, which stays unchanged; False if it was
        refused."""
        if node.GetScene() is not slicer.mrmlScene:
            return False
        places, isClosed = curveInWorld(node)
        return bool(self._controller.addCurve(places, isClosed))

    def draw(self) -> None:
        """Lets the user place a curve in any view; it becomes a prompt when it is finished."""
        if self._controller.refuses(rules.PROMPT):
            return
        # A tool that is on would take the mouse.
        self._controller.chooseTool(None)
        self._stopPlacing()
        self._placing = CurvePlacing(slicer.mrmlScene, _("Curve"), self._ended)

    def _stopPlacing(self) -> None:
        if self._placing is not None:
            self._placing.stop()
            self._placing = None

    def _ended(self, node: Any) -> None:
        self._placing, self._placed = None, node
        self._whenPlaced.start()

    def _takePlaced(self) -> None:
        """Replaces the curve that was just placed by a prompt; a refused curve stays."""
        node, self._placed = self._placed, None
        if node is None or node.GetScene() is not slicer.mrmlScene:
            return
        if not definedPoints(node) or self.take(node):
            removeNode(node)
