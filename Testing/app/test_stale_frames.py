"""Frames that hold something else than the worker takes as written: the next run must not leave them out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from Headless.fake_session import disc
from SAM2PropagateLib.app.events import Choices
from Testing.app.cases import HeadlessCase

SHAPE = (36, 40)
FOUND = disc(12, 15, SHAPE)
# A run goes up from the first frame; it has not come to this one when the user does something there.
LATER = 15


@pytest.fixture(params=[True, False], ids=["applied", "preview"])
def case(headless, request):
    one = HeadlessCase(headless, choices=Choices(applyAutomatically=request.param))
    yield one
    one.controller.close()


def begun(case: HeadlessCase) -> None:
    """A run of which a few frames have come."""
    case.click(12, 15, 8)
    assert case.controller.propagate()
    case.controller.poll()
    assert case.controller.isRunning and case.arrived and max(one.frame for one in case.arrived) < LATER


def box(case: HeadlessCase) -> None:
    assert case.controller.addBox(case.ras(20, 20, LATER), case.ras(30, 30, LATER))


def mark(case: HeadlessCase, tool: str) -> None:
    assert case.controller.point(tool, case.ras(5, 5, LATER), (0, 0, 1))


def boxed_and_undone(case: HeadlessCase) -> None:
    box(case)
    assert case.controller.undo()


def boxed_and_cleared(case: HeadlessCase) -> None:
    box(case)
    case.controller.clearPrompts(LATER)


def marked_and_not(case: HeadlessCase) -> None:
    mark(case, "absent")
    mark(case, "absent")


def locked_and_not(case: HeadlessCase) -> None:
    mark(case, "lock")
    mark(case, "lock")


@pytest.mark.parametrize("act", [boxed_and_undone, boxed_and_cleared, marked_and_not, locked_and_not])
def test_a_prompt_that_goes_before_the_run_has_come_to_it_leaves_no_hole(case, act):
    begun(case)
    act(case)
    case.settle()
    np.testing.assert_array_equal(case.shown(LATER), FOUND)
    assert case.codes == []


@pytest.mark.parametrize("how", ["undo", "clear"])
def test_a_prompt_that_goes_after_the_run_has_passed_it_is_told_of_and_the_next_run_fills_it(case, how):
    begun(case)
    box(case)
    case.session.framesPerPoll = 1
    while not any(one.frame > LATER for one in case.arrived):
        case.controller.poll()
        assert case.controller.isRunning
    if how == "undo":
        assert case.controller.undo()
    else:
        case.controller.clearPrompts(LATER)
    case.settle()
    assert not case.shown(LATER).any() and case.shown(LATER - 1).any()
    assert case.codes == ["newer_prompts"] and "Propagate again to fill it" in case.texts[0]
    case.run()
    np.testing.assert_array_equal(case.shown(LATER), FOUND)
    # It is filled: no run writes everything again.
    case.arrived.clear()
    case.run()
    assert case.arrived == []


def test_a_slice_that_was_locked_during_a_run_is_filled_when_it_is_unlocked(case):
    begun(case)
    mark(case, "lock")
    case.settle()
    assert not case.shown(LATER).any() and case.codes == []
    case.run()
    assert not case.shown(LATER).any(), "it is still locked"
    mark(case, "lock")
    case.run()
    np.testing.assert_array_equal(case.shown(LATER), FOUND)


def test_a_prompt_that_stays_is_no_reason_to_write_everything_again(case):
    begun(case)
    mark(case, "positive")
    case.settle()
    case.controller.apply()
    case.arrived.clear()
    case.run()
    assert 0 not in {one.frame for one in case.arrived}


def applied(case: HeadlessCase) -> None:
    assert case.controller.apply() is not None


def locked(case: HeadlessCase) -> None:
    assert case.controller.point("lock", case.ras(5, 5, LATER), (0, 0, 1))
    assert case.controller.point("lock", case.ras(5, 5, LATER), (0, 0, 1))


@pytest.mark.parametrize("keep", [applied, locked])
def test_a_correction_that_was_applied_without_a_run_goes_with_its_click(case: Any, keep: Any) -> None:
    case.click(12, 15, 8)
    case.run()
    case.controller.apply()
    case.click(30, 25, LATER)
    keep(case)
    case.settle()
    np.testing.assert_array_equal(case.segment(LATER), FOUND | disc(30, 25, SHAPE))
    case.controller.clearPrompts(LATER)
    case.settle()
    case.run()
    np.testing.assert_array_equal(case.shown(LATER), FOUND)


def test_a_new_worker_is_told_which_frames_have_masks(case, tmp_path):
    """It empties them beyond an absent mark."""
    case.click(12, 15, 8)
    case.run(reach=4)
    case.controller.apply()
    case.reload(tmp_path / "scene.mrb", case.controller.choices)
    case.run()
    assert case.session.asked[-1][1][2]["filled"] == {"A": tuple(range(4, 13))}
