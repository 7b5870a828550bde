"""Curves through the structure: clicks on the slices that they cross, in previews, runs and Undo."""

from __future__ import annotations

import numpy as np
import pytest

from Headless.fake_session import disc
from SAM2PropagateLib.scene.prompt_nodes import promptNodes, strokePoints

SHAPE = (36, 40)
TOP = (0, 0, 1)


def through(case, *places):
    """A curve through places (x, y, frame)."""
    done = case.controller.addCurve([case.ras(*place) for place in places], viewNormal=TOP)
    case.settle()
    return done


def told(case, frame):
    """The clicks of the latest preview of a frame."""
    asked = [one for kind, one in case.session.asked if kind == "preview" and one[1] == frame]
    return asked[-1][2].clicks


def test_every_slice_that_it_crosses_gets_a_preview_and_the_run_goes_on_from_them(case):
    assert through(case, (8, 15, 5), (16, 15, 9))
    assert sorted(case.workspace.previewFrames("A")) == [5, 6, 7, 8, 9]
    for frame in range(5, 10):
        x = 8 + 2 * (frame - 5)
        np.testing.assert_allclose(told(case, frame), [(x, 15, True)])
        np.testing.assert_array_equal(case.shown(frame), disc(x, 15, SHAPE))
    looks = [one.drawnAs for one in case.controller.strip("A").frames[4:11]]
    assert looks[1:6] == ["keyframe"] * 5 and "keyframe" not in (looks[0], looks[6])
    case.run()
    assert list(case.session.asked[-1][1][1].keyframes) == [5, 6, 7, 8, 9]
    np.testing.assert_array_equal(case.segment(7), disc(12, 15, SHAPE))
    np.testing.assert_array_equal(case.segment(12), disc(16, 15, SHAPE))


def test_it_is_one_step_and_comes_back(case):
    assert through(case, (8, 15, 5), (16, 15, 9))
    assert case.controller.undoText == "Undo curve"
    before = case.workspace.prompts
    assert case.controller.undo() and case.workspace.prompts.is_empty
    assert list(promptNodes(case.segmentationNode)) == []
    assert not case.workspace.previewFrames("A")
    assert case.controller.redo() and case.workspace.prompts == before


def test_moving_a_point_of_it_changes_the_clicks(case):
    through(case, (8, 15, 5), (16, 15, 9))
    (node,) = promptNodes(case.segmentationNode, "A", "curve")
    node.SetNthControlPointPosition(1, *case.ras(8, 19, 9))
    node.InvokeEvent(node.PointEndInteractionEvent)
    case.settle()
    np.testing.assert_allclose(told(case, 7), [(8, 17, True)])
    assert case.controller.undoText == "Undo move prompt"
    assert case.controller.undo()
    np.testing.assert_allclose(strokePoints(node), [case.ras(8, 15, 5), case.ras(16, 15, 9)], atol=1e-6)


def test_a_slice_that_it_leaves_has_no_preview_any_more(case):
    through(case, (8, 15, 5), (16, 15, 9))
    (node,) = promptNodes(case.segmentationNode, "A", "curve")
    node.SetNthControlPointPosition(1, *case.ras(12, 15, 7))
    node.InvokeEvent(node.PointEndInteractionEvent)
    case.settle()
    assert sorted(case.workspace.previewFrames("A")) == [5, 6, 7]


def test_it_passes_by_slices_that_are_locked_absent_or_beyond_the_range(case):
    painted = disc(30, 30, SHAPE)
    case.click(12, 15, 6)
    case.paint(7, painted)
    case.click(1, 1, 7, "lock")
    case.click(1, 1, 11, "absent")
    case.controller.point("range", case.ras(1, 1, 4), TOP)
    case.controller.point("range", case.ras(1, 1, 12), TOP)
    assert through(case, (12, 15, 3), (12, 15, 11)), case.texts
    assert sorted(case.workspace.previewFrames("A")) == [4, 5, 6, 8, 9, 10]
    case.run()
    keyframes = case.session.asked[-1][1][1].keyframes
    assert sorted(keyframes) == [4, 5, 6, 7, 8, 9, 10, 11] and keyframes[11].absent
    np.testing.assert_array_equal(case.segment(7), painted)
    # Unlocked, it is one of the curve's slices, too.
    case.click(1, 1, 7, "lock")
    assert told(case, 7)[0][:2] == pytest.approx((12, 15))


def test_an_absent_mark_takes_its_slice_from_the_curve_and_nothing_else(case):
    through(case, (8, 15, 5), (16, 15, 9))
    before = case.workspace.prompts.segment("A").curves
    assert case.click(3, 3, 9, "absent")
    assert case.workspace.prompts.segment("A").curves == before
    assert sorted(case.workspace.previewFrames("A")) == [5, 6, 7, 8]


def test_it_corrects_what_a_run_found(case):
    case.click(12, 15, 7)
    case.run()
    assert through(case, (20, 25, 8), (20, 25, 10))
    for frame in (8, 9, 10):
        np.testing.assert_array_equal(case.shown(frame), disc(12, 15, SHAPE) | disc(20, 25, SHAPE))
    assert not case.shown(11)[25, 20]


def test_a_curve_that_says_nothing_is_refused_with_a_reason(case):
    case.click(12, 15, 7)
    before = case.workspace.prompts
    assert not through(case, (100, 15, 5), (120, 15, 9))
    assert not through(case, (8, 15, 5))
    flat = [case.ras(x, y, 5) for x, y in ((3, 3), (9, 3), (9, 9))]
    assert not case.controller.addCurve(flat, closed=True)
    assert case.texts[-3:] == [
        "This place is outside the volume.",
        "A curve has fewer than two points. Draw it through the structure, from slice to slice.",
        "This closed curve lies on one slice. Draw a lasso there instead.",
    ]
    assert case.workspace.prompts == before
