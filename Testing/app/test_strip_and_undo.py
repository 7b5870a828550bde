"""What the strip says of a slice goes with its mask: with Undo and Redo, and under previews."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from Headless.fake_session import disc
from SAM2PropagateLib.app.events import Choices
from Testing.app.cases import HeadlessCase

SHAPE = (36, 40)


def said(case: Any) -> list[tuple[str, float | None]]:
    """Look and doubt of every slice."""
    return [(one.drawnAs, one.doubt) for one in case.controller.strip().frames]


def test_undo_takes_the_doubts_of_a_run_away_and_redo_brings_them_back(case):
    case.click(12, 15, 8)
    before = said(case)
    case.run()
    after = said(case)
    assert {look for look, _ in after} == {"propagated", "keyframe"} and len({d for _, d in after}) > 3
    for _ in range(2):
        assert case.controller.undo()
        undone = said(case)
        assert [look for look, _ in undone] == [look for look, _ in before]
        assert all(doubt is None for frame, (_, doubt) in enumerate(undone) if frame != 8)
        assert case.controller.redo()
        assert said(case) == after
    assert case.controller.strip().doubtful


def test_undo_goes_through_clicks_and_runs_to_what_each_one_showed(case):
    states = [said(case)]
    for x, frame in ((12, 8), (14, 3), (16, 15)):
        case.click(x, 15, frame)
        states.append(said(case))
        case.run()
        states.append(said(case))
    assert len({str(one) for one in states}) >= 5
    for before in reversed(states[:-1]):
        assert case.controller.undo()
        assert said(case) == before
    assert not case.controller.undo()
    for after in states[1:]:
        assert case.controller.redo()
        assert said(case) == after


def test_a_stroke_between_undone_runs_keeps_its_slice_edited(case):
    case.click(12, 15, 8)
    case.run()
    first = said(case)
    case.paint(3, disc(30, 25, SHAPE, 2))
    case.controller.lookForEdits()
    painted = said(case)
    assert [n for n in range(18) if painted[n] != first[n]] == [3] and painted[3][0] == "edited"
    case.run()
    assert case.controller.undo()
    assert said(case)[3][0] == "edited"
    others = [n for n in range(18) if n != 3]
    assert [said(case)[n] for n in others] == [first[n] for n in others]


@pytest.mark.parametrize("back", ["undo of the prompt", "discard", "deleted"])
def test_a_click_that_is_taken_back_leaves_what_the_run_said(case, back):
    case.click(12, 15, 8)
    case.run()
    before, mask = said(case), case.segment(4)
    case.click(14, 15, 4)
    assert case.workspace.previewFrames("A") == {4} and said(case)[4] != before[4]
    if back == "undo of the prompt":
        assert case.controller.undo()
        assert said(case) == before
    elif back == "deleted":
        case.controller.clearPrompts(4)
        assert said(case) == before
    else:
        case.controller.discard()
        # Its click is still there.
        assert said(case)[4] == ("keyframe", before[4][1])
        assert [said(case)[n] for n in range(18) if n != 4] == [before[n] for n in range(18) if n != 4]
    np.testing.assert_array_equal(case.segment(4), mask)


def test_a_cancelled_run_that_is_discarded_leaves_what_the_run_before_said(headless):
    case = HeadlessCase(headless, choices=Choices(applyAutomatically=False))
    try:
        case.click(12, 15, 8)
        case.run()
        case.controller.apply()
        before = said(case)
        case.session.framesPerPoll = 1
        assert case.controller.propagate(everything=True)
        for _ in range(6):
            case.controller.poll()
        case.controller.cancel()
        assert case.workspace.hasPreview
        case.controller.discard()
        assert said(case) == before
        # The discarding, the cancelled run, the applying, the run.
        for _ in range(4):
            assert case.controller.undo()
        assert [frame for frame, (_, doubt) in enumerate(said(case)) if doubt is not None] == [8]
    finally:
        case.controller.close()


def test_what_the_strip_says_is_saved_with_segment_and_preview(headless, tmp_path):
    case = HeadlessCase(headless)
    case.click(12, 15, 8)
    case.run()
    applied = said(case)
    case.click(14, 15, 4)
    shown = said(case)
    case.controller.close()
    case.reload(tmp_path / "scene.mrb")
    try:
        assert said(case) == shown
        case.controller.clearPrompts(4)
        assert said(case) == applied
    finally:
        case.controller.close()
