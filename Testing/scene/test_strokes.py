"""Scribbles and lassos as curves in the scene: how they look and what changes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import slicer

from SAM2PropagateLib.prompts import Lasso, PromptSet, Scribble, SegmentPrompts
from SAM2PropagateLib.scene.markups import PromptMarkups, removeOrphans
from SAM2PropagateLib.scene.prompt_nodes import promptNodes, setStroke, strokePoints
from Testing.scene.test_markups import MarkupCase

ROLES = ("scribble", "negative scribble", "lasso")


class StrokeCase(MarkupCase):
    """One stroke of each kind for segment A."""

    def __init__(self, headless, geometry="plain"):
        super().__init__(headless, geometry)
        self.along = Scribble("s1", self.places(((5, 5), (8, 6), (12, 5)), 9))
        self.beside = Scribble("s2", self.places(((5, 12), (9, 13)), 9), positive=False)
        self.around = Lasso("o1", self.places(((3, 3), (12, 4), (11, 12), (4, 13)), 11))
        self.put(self.along, self.beside, self.around)

    def put(self, *strokes):
        segment = SegmentPrompts("A")
        for one in strokes:
            segment = segment.add(one)
        self.markups.write(PromptSet((segment,), 2))

    def node(self, role):
        return next(promptNodes(self.segmentationNode, "A", role))


def test_strokes_are_curves_without_handles(headless):
    case = StrokeCase(headless)
    for role in ROLES:
        node = case.node(role)
        closed = role == "lasso"
        assert node.GetClassName() == f"vtkMRMLMarkups{'Closed' if closed else ''}CurveNode"
        assert node.GetCurveType() == slicer.vtkCurveGenerator.CURVE_TYPE_LINEAR_SPLINE
        assert not any(node.GetNthControlPointVisibility(n) for n in range(node.GetNumberOfControlPoints()))
        assert not node.GetDisplayNode().GetVisibility3D()
    assert case.node("scribble").GetName() == "A scribble"
    assert case.node("negative scribble").GetDisplayNode().GetSelectedColor()[0] > 0.7


def test_only_what_has_changed_is_touched(headless):
    case = StrokeCase(headless)
    nodes = {role: case.node(role) for role in ROLES}
    stamps = {role: node.GetMTime() for role, node in nodes.items()}
    case.put(case.along, case.beside, replace(case.around, exact=True))
    assert case.node("lasso") is nodes["lasso"]
    assert case.markups.read().segment("A").lassos[0].exact
    case.put(replace(case.along, points=case.places(((4, 4), (9, 9)), 9)), case.beside, case.around)
    assert not case.markups.read().segment("A").lassos[0].exact
    assert case.node("scribble") is nodes["scribble"]
    assert strokePoints(nodes["scribble"]).shape == (2, 3)
    assert not any(nodes["scribble"].GetNthControlPointVisibility(n) for n in range(2))
    assert nodes["negative scribble"].GetMTime() == stamps["negative scribble"]
    case.put(replace(case.along, positive=False), case.around)
    said = case.markups.read().segment("A")
    assert [(one.id, one.positive) for one in said.scribbles] == [("s1", False)]
    assert [*promptNodes(case.segmentationNode, "A", "scribble")] == []
    case.put()
    assert case.markups.nodes() == ()


def test_strokes_go_with_their_segment_and_take_its_name_and_color(headless):
    case = StrokeCase(headless)
    segmentation = case.segmentationNode.GetSegmentation()
    segment = segmentation.GetSegment("A")
    segment.SetName("Liver")
    segment.SetColor(0, 0, 1)
    case.markups.updateDisplay()
    assert case.node("lasso").GetName() == "Liver lasso"
    np.testing.assert_allclose(case.node("lasso").GetDisplayNode().GetSelectedColor(), (0.5, 0.5, 1))
    segmentation.RemoveSegment("A")
    case.markups.updateDisplay()
    assert not case.node("scribble").GetDisplayNode().GetVisibility()
    assert case.markups.read().is_empty
    segmentation.AddSegment(segment, "A")
    case.markups.updateDisplay()
    assert case.node("scribble").GetDisplayNode().GetVisibility()
    assert len(case.markups.read().segment("A").scribbles) == 2
    headless.scene.RemoveNode(case.segmentationNode)
    removeOrphans(headless.scene)
    assert headless.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsCurveNode") == 0


def test_points_that_the_user_takes_away_or_adds_count(headless):
    case = StrokeCase(headless)
    lasso = case.node("lasso")
    lasso.RemoveNthControlPoint(0)
    assert len(case.markups.read().segment("A").lassos[0].points) == 3
    lasso.RemoveNthControlPoint(0)
    assert case.markups.read().segment("A").lassos == (), "a line goes around nothing"
    setStroke(lasso, case.around.points)
    np.testing.assert_allclose(case.markups.read().segment("A").lassos[0].points, case.around.points)
    case.node("scribble").RemoveAllControlPoints()
    assert [one.id for one in case.markups.read().segment("A").scribbles] == ["s2"]


def test_a_copy_of_a_stroke_is_another_stroke(headless):
    case = StrokeCase(headless)
    node = case.node("lasso")
    copy = headless.scene.CreateNodeByClass(node.GetClassName())
    copy.UnRegister(None)
    copy.Copy(node)
    headless.scene.AddNode(copy)
    said = case.markups.read().segment("A")
    assert len(said.lassos) == 2 and said.lassos[0].points == said.lassos[1].points


def test_curves_of_the_user_are_left_alone(headless):
    case = StrokeCase(headless)
    theirs = headless.scene.AddNewNodeByClass("vtkMRMLMarkupsCurveNode", "A scribble")
    setStroke(theirs, case.along.points)
    case.put()
    case.markups.remove()
    removeOrphans(headless.scene)
    assert theirs.GetScene() is headless.scene and theirs.GetNumberOfControlPoints() == 3


@pytest.mark.parametrize("byUser", [False, True])
def test_prompts_of_other_segments_let_the_mouse_through(headless, byUser):
    case = StrokeCase(headless)
    box = case.markups.beginBox("B")
    click = case.markups.clickNode("B")
    stroke = case.node("lasso")
    stroke.SetLocked(byUser)
    case.markups.choose("B")
    assert (stroke.GetLocked(), box.GetLocked(), click.GetLocked()) == (True, False, False)
    case.markups.choose("A")
    assert (stroke.GetLocked(), box.GetLocked(), click.GetLocked()) == (byUser, True, True)
    case.markups.choose("B")
    again = PromptMarkups(case.segmentationNode, case.volumeNode)  # as after loading
    again.choose(None)
    assert (stroke.GetLocked(), box.GetLocked(), click.GetLocked()) == (byUser, False, False)
    again.choose("B")
    again.write(again.read().add("A", Scribble("new", case.along.points)))
    new = [
        one for one in promptNodes(case.segmentationNode, "A", "scribble") if one is not case.node("scribble")
    ]
    assert all(one.GetLocked() for one in new) and new
