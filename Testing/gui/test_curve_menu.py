"""The menu of curves under Options: draws one, or takes one of the scene."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer

from SAM2PropagateLib.scene.prompt_nodes import promptNodes
from Testing.gui.test_panel import Desk


@pytest.fixture
def desk(module: Any) -> Desk:
    return Desk(module)


def entries(desk: Desk) -> dict[str, Any]:
    """What the menu offers when it is opened."""
    menu = desk.widget.panel.curves.menu
    menu.aboutToShow.emit()
    return {action.text: action for action in menu.actions()}


def places(desk: Desk, *points: tuple[float, float, float]) -> np.ndarray:
    geometry = desk.controller.workspace.worldGeometry
    return np.array([geometry.ras_of_pixel(x, y, frame, 2) for x, y, frame in points])


def curves(desk: Desk) -> tuple[Any, ...]:
    return desk.controller.workspace.prompts.segment(desk.controller.segmentID).curves  # type: ignore[no-any-return]


def vessel(desk: Desk, name: str = "vessel") -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsCurveNode", name)
    node.SetCurveTypeToLinear()
    for place in places(desk, (8, 15, 5), (16, 15, 9)):
        node.AddControlPoint(place)
    return node


def test_the_button_says_why_there_can_be_no_curve(desk: Desk) -> None:
    assert not desk.ui.curveButton.enabled and "volume" in desk.ui.curveButton.toolTip
    desk.load()
    assert desk.ui.curveButton.enabled and "crosses" in desk.ui.curveButton.toolTip


def test_a_curve_of_the_scene_becomes_a_prompt_and_stays(desk: Desk) -> None:
    desk.load()
    node = vessel(desk)
    assert list(entries(desk)) == ["Draw a curve", "vessel"]
    entries(desk)["vessel"].trigger()
    desk.settle()
    np.testing.assert_allclose(curves(desk)[0].points, places(desk, (8, 15, 5), (16, 15, 9)))
    assert node.GetNumberOfControlPoints() == 2 and node.GetScene() is slicer.mrmlScene
    assert sorted(desk.controller.workspace.previewFrames(desk.controller.segmentID)) == [5, 6, 7, 8, 9]
    assert list(entries(desk)) == ["Draw a curve", "vessel"], "the prompt itself is none to choose"
    assert desk.ui.undoButton.toolTip == "Undo curve"
    desk.ui.undoButton.click()
    desk.settle()
    assert curves(desk) == ()


def test_a_curve_that_is_placed_becomes_a_prompt_when_it_is_finished(desk: Desk) -> None:
    desk.load()
    desk.controller.chooseTool("positive")
    entries(desk)["Draw a curve"].trigger()
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    selection = slicer.app.applicationLogic().GetSelectionNode()
    assert interaction.GetCurrentInteractionMode() == interaction.Place and desk.controller.tool is None
    node = slicer.mrmlScene.GetNodeByID(selection.GetActivePlaceNodeID())
    for place in places(desk, (8, 15, 5), (12, 18, 7), (16, 15, 9)):
        node.AddControlPoint(place)
    assert curves(desk) == () and not desk.controller.canUndo
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    desk.settle(lambda: bool(curves(desk)))
    desk.settle()
    assert len(curves(desk)[0].points) == 3
    assert node.GetScene() is None, "the prompt takes its place"
    assert len(list(promptNodes(desk.segmentation, role="curve"))) == 1
    assert desk.controller.undoText == "Undo curve"


def test_a_placed_curve_that_is_refused_is_not_lost(desk: Desk) -> None:
    desk.load()
    entries(desk)["Draw a curve"].trigger()
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    node = slicer.mrmlScene.GetNodeByID(
        slicer.app.applicationLogic().GetSelectionNode().GetActivePlaceNodeID()
    )
    node.AddControlPoint(places(desk, (8, 15, 5))[0])
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    desk.settle(lambda: "fewer than two points" in desk.ui.messageLabel.text)
    assert node.GetScene() is slicer.mrmlScene and curves(desk) == ()


def test_nothing_is_left_of_a_curve_without_a_point(desk: Desk) -> None:
    desk.load()
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsCurveNode")
    entries(desk)["Draw a curve"].trigger()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsCurveNode") == before + 1
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    desk.settle(lambda: slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsCurveNode") == before)


def test_the_first_curve_makes_a_segment(desk: Desk) -> None:
    from Headless.boot import boot
    from Testing.scene.geometries import addCase

    volume = addCase(boot(), "plain")
    desk.ui.volumeSelector.setCurrentNode(volume)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", "line")
    from SAM2PropagateLib.scene.volume import volumeGeometry

    for frame in (5, 9):
        node.AddControlPoint(volumeGeometry(volume).ras_of_pixel(8, 15, frame, 2))
    entries(desk)["line"].trigger()
    desk.settle()
    assert desk.controller.segmentID and len(curves(desk)) == 1
