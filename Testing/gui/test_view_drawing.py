"""Masks that arrive are drawn in the views that show them, and no more than 20 times a second."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer

from SAM2PropagateLib.gui.view_drawing import ViewDrawing, showsAny
from SAM2PropagateLib.scene.volume import volumeGeometry
from Testing.scene.geometries import GEOMETRIES, addCase


class Desk:
    """Slice views of a volume along its three axes, and a clock that the test winds."""

    def __init__(self, headless: Any, geometry: str = "plain") -> None:
        self.geometry = volumeGeometry(addCase(headless, geometry))
        self.nodes = {axis: headless.scene.AddNewNodeByClass("vtkMRMLSliceNode", axis) for axis in "ijk"}
        for number, node in enumerate(self.nodes.values()):
            node.SetDimensions(100, 100, 1)
            node.SetFieldOfView(300, 300, 1)
            self.look(number, 5)
        self.now = 10.0
        self.drawn: list[str] = []
        self.asked: list[float] = []
        views = [(node, lambda axis=axis: self.drawn.append(axis)) for axis, node in self.nodes.items()]
        self.drawing = ViewDrawing(lambda: views, self.asked.append, lambda: self.now)

    def look(self, axis: int, frame: int) -> None:
        """Shows a frame in the view along an axis."""
        point = [20.0, 18.0, 9.0]
        point[axis] = frame
        columns = self.geometry.ijk_to_ras[:3, :3]
        across, up = (columns[:, n] / np.linalg.norm(columns[:, n]) for n in range(3) if n != axis)
        normal = np.cross(across, up)
        place = self.geometry.ras_of_ijk(point)
        self.nodes["ijk"[axis]].SetSliceToRASByNTP(*normal, *across, *place, 0)

    def take(self) -> list[str]:
        drawn, self.drawn[:] = sorted(self.drawn), []
        return drawn


@pytest.mark.parametrize("geometry", sorted(GEOMETRIES))
def test_a_view_shows_its_own_frame_and_those_that_cross_it_show_all(headless, geometry):
    desk = Desk(headless, geometry)
    for axis in range(3):
        shown = [
            [frame for frame in range(12) if showsAny(node, desk.geometry, axis, [frame])]
            for node in desk.nodes.values()
        ]
        assert shown[axis] == [5]
        assert all(one == list(range(12)) for number, one in enumerate(shown) if number != axis)
    assert not showsAny(desk.nodes["k"], desk.geometry, 2, [4, 6])
    assert showsAny(desk.nodes["k"], desk.geometry, 2, [4, 5, 6])


def test_a_view_beside_the_volume_is_not_drawn(headless):
    desk = Desk(headless)
    desk.look(2, 40)
    desk.drawing.draw(desk.geometry, 2, [0, 17])
    assert desk.take() == ["i", "j"]


def test_frames_that_come_fast_are_drawn_twenty_times_a_second(headless):
    desk = Desk(headless)
    for frame in range(18):
        desk.drawing.draw(desk.geometry, 2, [frame])
        desk.now += 0.01
        # As the timer does that `later` sets.
        desk.drawing.flush()
    counts = {axis: desk.drawn.count(axis) for axis in "ijk"}
    assert counts == {"i": 4, "j": 4, "k": 1}
    assert all(0 < wait < 0.051 for wait in desk.asked)
    # The last one is drawn as well, and nothing more after it.
    desk.take()
    desk.now += 1
    desk.drawing.flush()
    assert desk.take() in ([], ["i", "j"])
    desk.asked.clear()
    desk.now += 1
    desk.drawing.flush()
    assert desk.take() == [] and desk.asked == []


def test_what_comes_after_a_pause_is_drawn_at_once(headless):
    desk = Desk(headless)
    desk.drawing.draw(desk.geometry, 2, [5])
    assert desk.take() == ["i", "j", "k"]
    desk.drawing.draw(desk.geometry, 2, [5])
    assert desk.take() == [] and desk.asked
    desk.now += 0.06
    desk.drawing.draw(desk.geometry, 2, [7])
    assert desk.take() == ["i", "j", "k"], "k waited for its turn"


def test_a_hidden_segment_stays_hidden_during_its_run(case):
    case.segmentationNode.GetDisplayNode().SetSegmentVisibility("A", False)
    case.click(12, 15, 8)
    shown = case.workspace.shown.node.GetDisplayNode()
    assert not shown.GetSegmentVisibility("A")
    case.segmentationNode.GetDisplayNode().SetSegmentVisibility("A", True)
    assert shown.GetSegmentVisibility("A")
    case.segmentationNode.GetDisplayNode().SetVisibility(False)
    assert not shown.GetSegmentVisibility("A")


def test_a_days_work_leaves_no_line_in_the_log(headless, data_tree, tmp_path):
    from Headless.fake_session import disc
    from SAM2PropagateLib.app.events import Choices
    from Testing.app.cases import HeadlessCase

    case = HeadlessCase(headless, choices=Choices(applyAutomatically=False))
    try:
        case.controller.setPreviewOpacity(0.5)
        case.click(12, 15, 8)
        case.click(14, 15, 8, "negative")
        case.run()
        case.controller.apply()
        case.controller.undo()
        case.controller.redo()
        case.paint(3, disc(30, 25, (36, 40), 2))
        case.click(20, 20, 4)
        case.controller.undo()
        case.controller.redo()
        case.run()
        headless.saveScene(tmp_path / "scene.mrb")
        case.controller.discard()
        case.controller.select(case.volumeNode, case.segmentationNode, "B")
        case.click(20, 20, 9)
        case.controller.removeSegment()
        case.controller.undo()
        case.controller.addSegment()
        case.segmentationNode.GetSegmentation().GetSegment("A").SetName("liver")
        headless.scene.Clear(False)
        headless.loadScene(tmp_path / "scene.mrb")
        case.volumeNode = headless.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
        case.segmentationNode = headless.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        assert "SAM2 Propagate preview" not in data_tree.names()
        case.controller.select(case.volumeNode, case.segmentationNode, "A")
        assert case.workspace.hasPreview
        case.controller.apply()
        slicer.mrmlScene.RemoveNode(case.segmentationNode)
    finally:
        case.controller.close()
    assert headless.messages.errors == [] and headless.messages.warnings == []
