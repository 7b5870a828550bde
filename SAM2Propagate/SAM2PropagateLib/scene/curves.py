"""Finds the user's curves and lines, which can become prompts, and lets the user place a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer

from SAM2PropagateLib.frames.geometry import FloatArray
from SAM2PropagateLib.scene.prompt_nodes import CLOSED_CURVE_CLASS, CURVE_CLASS, definedPoints
from SAM2PropagateLib.scene.state import isOurs

_LINE_CLASS = "vtkMRMLMarkupsLineNode"


def userCurves(scene: Any) -> list[Any]:
    """Returns the scene's curves and lines with at least two placed points that are not prompts."""
    found = []
    # Closed curves are a subclass of curves.
    for className in (CURVE_CLASS, _LINE_CLASS):
        for number in range(scene.GetNumberOfNodesByClass(className)):
            node = scene.GetNthNodeByClass(number, className)
            if not isOurs(node) and not node.GetHideFromEditors() and len(definedPoints(node)) >= 2:
                found.append(node)
    return found


def curveInWorld(node: Any) -> tuple[FloatArray, bool]:
    """Returns the line that a curve or line node shows.

    Returns:
        Its points in order, (n, 3) RAS in mm, with transforms applied, as dense as it is drawn; and whether
        it is closed.
    """
    isClosed = bool(node.IsA(CLOSED_CURVE_CLASS))
    isStraight = node.IsA(_LINE_CLASS) or (
        node.GetCurveType() == slicer.vtkCurveGenerator.CURVE_TYPE_LINEAR_SPLINE
    )
    if isStraight:
        places = []
        for index in definedPoints(node):
            place = [0.0, 0.0, 0.0]
            node.GetNthControlPointPositionWorld(index, place)
            places.append(place)
    else:
        points = node.GetCurvePointsWorld()
        count = points.GetNumberOfPoints() if points is not None else 0
        places = [points.GetPoint(index) for index in range(count)]
    return np.array(places, dtype=np.float64).reshape(-1, 3), isClosed


class CurvePlacing:
    """Lets the user place a curve point by point, in any view, with Slicer's own place mode.

    Args:
        scene: gets the curve, as a normal curve of the user.
        name: of the node.
        onEnd: called with the node at the end of placing. Slicer is still changing the node then.
    """

    def __init__(self, scene: Any, name: str, onEnd: Callable[[Any], None]) -> None:
        self._onEnd = onEnd
        self.node = scene.AddNewNodeByClass(CURVE_CLASS, scene.GenerateUniqueName(name))
        # The prompt will run straight from point to point, so the curve is drawn so.
        self.node.SetCurveTypeToLinear()
        self.node.CreateDefaultDisplayNodes()
        self.node.GetDisplayNode().SetPropertiesLabelVisibility(False)
        logic = slicer.app.applicationLogic()
        selection, self._interaction = logic.GetSelectionNode(), logic.GetInteractionNode()
        selection.SetReferenceActivePlaceNodeClassName(CURVE_CLASS)
        selection.SetActivePlaceNodeID(self.node.GetID())
        self._interaction.SetPlaceModePersistence(0)
        self._interaction.SetCurrentInteractionMode(self._interaction.Place)
        self._tag = self._interaction.AddObserver(
            self._interaction.InteractionModeChangedEvent, lambda *_: self._modeChanged()
        )

    def stop(self) -> None:
        """Stops observing; what was placed stays, as a normal curve of the user."""
        if self._tag is not None:
            self._interaction.RemoveObserver(self._tag)
            self._tag = None

    def _modeChanged(self) -> None:
        if self._interaction.GetCurrentInteractionMode() != self._interaction.Place:
            self.stop()
            self._onEnd(self.node)
