"""Curves as prompts: what is seen of them, what changes them; and the user's own, which stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import slicer

from Headless.scenes import addTransform
from SAM2PropagateLib.prompts import Curve, PromptSet, SegmentPrompts
from SAM2PropagateLib.scene.curves import CurvePlacing, curveInWorld, userCurves
from SAM2PropagateLib.scene.prompt_nodes import promptNodes
from Testing.scene.test_markups import MarkupCase

PLACES = ((5, 5, 2), (9, 6, 5), (12, 9, 9))


class CurveCase(MarkupCase):
    def __init__(self, headless, closed=False):
        super().__init__(headless)
        points = tuple(tuple(self.geometry.ras_of_pixel(x, y, frame, 2)) for x, y, frame in PLACES)
        self.curve = Curve("v", points, closed)
        self.markups.write(PromptSet((SegmentPrompts("A", curves=(self.curve,)),), 2))
        (self.node,) = promptNodes(self.segmentationNode, "A")


def add(headless, name, places, line="Curve"):
    node = headless.scene.AddNewNodeByClass(f"vtkMRMLMarkups{line}Node", name)
    for place in places:
        node.AddControlPoint(place)
    return node


@pytest.mark.parametrize("closed", [False, True])
def test_it_is_a_curve_with_handles_that_is_seen_in_all_views(headless, closed):
    case = CurveCase(headless, closed)
    node, display = case.node, case.node.GetDisplayNode()
    assert node.GetClassName() == f"vtkMRMLMarkups{'Closed' if closed else ''}CurveNode"
    assert node.GetCurveType() == slicer.vtkCurveGenerator.CURVE_TYPE_LINEAR_SPLINE
    assert all(node.GetNthControlPointVisibility(n) for n in range(3)) and not node.GetLocked()
    assert display.GetVisibility3D() and display.GetSliceProjection()
    assert node.GetName() == ("A closed curve" if closed else "A curve")
    assert case.markups.read().segment("A").curves[0].closed == closed


def test_its_points_are_the_prompt(headless):
    case = CurveCase(headless)
    case.node.SetNthControlPointPosition(1, 1.0, 2.0, 3.0)
    assert case.markups.read().segment("A").curves[0].points[1] == (1.0, 2.0, 3.0)
    case.node.AddControlPoint((4.0, 5.0, 6.0))
    assert len(case.markups.read().segment("A").curves[0].points) == 4
    for _ in range(3):
        case.node.RemoveNthControlPoint(0)
    assert case.markups.read().segment("A").curves == (), "one point goes through nothing"


def test_curves_of_the_user_are_found_and_those_of_prompts_are_not(headless):
    case = CurveCase(headless)
    points = [[0, 0, 0], [10, 0, 0], [10, 10, 5]]
    own = [
        add(headless, "vessel", points),
        add(headless, "ring", points, "ClosedCurve"),
        add(headless, "axis", points[:2], "Line"),
    ]
    add(headless, "begun", points[:1])
    add(headless, "hidden", points).SetHideFromEditors(True)
    assert userCurves(headless.scene) == own
    case.markups.remove()
    assert [node.GetNumberOfControlPoints() for node in own] == [3, 3, 2]


def test_a_straight_curve_is_its_points_and_a_smooth_one_is_what_is_seen(headless):
    MarkupCase(headless)
    points = np.array([[0, 0, 0], [10, 0, 0], [10, 10, 5]], float)
    node = add(headless, "vessel", points)
    places, closed = curveInWorld(node)
    assert len(places) > 10 and not closed
    assert all(np.linalg.norm(places - point, axis=1).min() < 0.5 for point in points)
    node.SetCurveTypeToLinear()
    np.testing.assert_allclose(curveInWorld(node)[0], points)
    node.SetAndObserveTransformNodeID(addTransform(headless, shift(3)).GetID())
    np.testing.assert_allclose(curveInWorld(node)[0], points + np.array((3, 0, 0)))
    ring = add(headless, "ring", points, "ClosedCurve")
    assert curveInWorld(ring)[1]
    line = add(headless, "axis", points[:2], "Line")
    np.testing.assert_allclose(curveInWorld(line)[0], points[:2])


def shift(distance):
    matrix = np.eye(4)
    matrix[0, 3] = distance
    return matrix


def test_placing_ends_once_with_the_mode_and_what_is_stopped_stays(headless):
    interaction = headless.appLogic.GetInteractionNode()
    ended = []
    placing = CurvePlacing(headless.scene, "Curve", ended.append)
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    assert headless.appLogic.GetSelectionNode().GetActivePlaceNodeID() == placing.node.GetID()
    placing.node.AddControlPoint((1, 2, 3))
    assert ended == []
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    assert ended == [placing.node]
    interaction.SetCurrentInteractionMode(interaction.Place)
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    assert len(ended) == 1
    other = CurvePlacing(headless.scene, "Curve", ended.append)
    other.stop()
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    assert len(ended) == 1 and other.node.GetScene() is headless.scene
