"""The menu of curves: draws one through the structure, or takes one of the scene."""

from __future__ import annotations

from functools import partial
from typing import Any

import slicer

from SAM2PropagateLib.app import rules
from SAM2PropagateLib.app.controller import Controller
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
        # Slicer is at work on the node when its placing ends.
        self._whenPlaced = qt.QTimer()
        self._whenPlaced.setSingleShot(True)
        self._whenPlaced.setInterval(0)
        self._connections, self._entries = Connections(), Connections()
        self._connections.add(self._whenPlaced, "timeout()", self._takePlaced)
        self.menu = qt.QMenu(ui.curveButton)
        self._connections.add(self.menu, "aboutToShow()", self.fill)
        ui.curveButton.setMenu(self.menu)

    def close(self) -> None:
        """Lets go of the widgets and of a curve that is being placed, which stays in the scene."""
        self._stopPlacing()
        self._whenPlaced.stop()
        self._entries.close()
        self._connections.close()

    def refresh(self, facts: rules.Facts) -> None:
        """Shows whether a curve can be used."""
        enable(
            self._ui.curveButton,
            rules.whyNot(rules.PROMPT, facts),
            _(
                "Draw a curve through the structure, or take one of the scene; it becomes clicks on slices "
                "that it crosses."
            ),
        )

    def fill(self) -> None:
        """Lists what there is to choose from now."""
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
        """Makes a prompt of a curve or line of the scene, which stays as it is; False if it was refused."""
        if node.GetScene() is not slicer.mrmlScene:
            return False
        places, isClosed = curveInWorld(node)
        return bool(self._controller.addCurve(places, isClosed))

    def draw(self) -> None:
        """Has the user place a curve, in any view; it is a prompt when it is finished."""
        if self._controller.refuses(rules.PROMPT):
            return
        # A tool would take the mouse from the placing.
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
        """The prompt takes the place of the curve that was drawn for it; a refused one stays."""
        node, self._placed = self._placed, None
        if node is None or node.GetScene() is not slicer.mrmlScene:
            return
        if not definedPoints(node) or self.take(node):
            removeNode(node)
