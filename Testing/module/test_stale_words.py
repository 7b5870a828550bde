"""The panel says nothing that is not so any more, and counts one slice as one."""

from __future__ import annotations

from typing import Any

import pytest
import slicer

from SAM2PropagateLib.errors import SAM2PropagateError
from Testing.module.test_panel import Desk


@pytest.fixture
def desk(window: Any) -> Desk:
    made = Desk(window)
    made.load()
    return made


def propagate(desk: Desk) -> None:
    desk.ui.propagateButton.click()
    desk.settle()


def words(desk: Desk) -> str:
    """What the line under Propagate says; "" if it is hidden."""
    label = desk.ui.progressLabel
    assert bool(label.text) != label.isHidden()
    return str(label.text)


def applied(desk: Desk) -> None:
    desk.click()
    propagate(desk)
    assert words(desk) == "18 slices were computed and written into the segment."


def cancelled(desk: Desk) -> None:
    desk.ui.applyAutomaticallyCheckBox.setChecked(False)
    desk.click()
    propagate(desk)
    assert words(desk) == "18 slices were computed."


def undo(desk: Desk) -> None:
    desk.ui.segmentEditor.undo()
    desk.controller.lookForEdits()


@pytest.mark.parametrize(
    ("before", "happens"),
    [
        (cancelled, lambda desk: desk.ui.applyButton.click()),
        (cancelled, lambda desk: desk.ui.discardButton.click()),
        (applied, undo),
        (applied, lambda desk: desk.ui.addSegmentButton.click()),
        (applied, lambda desk: desk.ui.segmentationSelector.addNode()),
        (applied, lambda desk: slicer.mrmlScene.RemoveNode(desk.volume)),
        (applied, lambda desk: slicer.mrmlScene.Clear(False)),
    ],
    ids=["apply", "discard", "undo", "segment", "segmentation", "volume", "scene"],
)
def test_the_line_goes_when_it_is_not_so_any_more(desk: Desk, before: Any, happens: Any) -> None:
    before(desk)
    desk.widget.panel.refresh()
    assert words(desk), "nothing has happened yet"
    happens(desk)
    assert words(desk) == ""


def test_the_next_run_says_its_own(desk: Desk) -> None:
    applied(desk)
    desk.click(3)
    desk.ui.propagateButton.click()
    assert "written" not in words(desk) or desk.controller.isRunning
    desk.settle()
    assert "written into the segment" in words(desk)


def test_one_slice_is_one_slice(desk: Desk) -> None:
    from SAM2PropagateLib.gui.events import RunEnd
    from SAM2PropagateLib.gui.wording import endText, runText
    from SAM2PropagateLib.worker.messages import ProgressEvent

    ui = desk.ui
    ui.limitReachCheckBox.setChecked(True)
    ui.reachSpinBox.setValue(1)
    assert ui.reachSpinBox.suffix == " slice from a keyframe"
    ui.reachSpinBox.setValue(2)
    assert ui.reachSpinBox.suffix == " slices from a keyframe"
    for state in ("done", "cancelled", "failed"):
        for applied_ in (True, False):
            one, two = (endText(RunEnd(state, (), count, applied_)) for count in (1, 2))
            assert "1 slice " in one + " " and "slices" not in one
            assert "2 slices " in two
    assert runText(ProgressEvent(None, "", 0, 1)) == "0 of 1 slice"
    assert runText(ProgressEvent(None, "", 0, 2)) == "0 of 2 slices"


DIED = SAM2PropagateError("worker_died", "The worker ended unexpectedly.", "Try again.")


def test_the_workers_error_goes_when_it_works_again(desk: Desk) -> None:
    ui = desk.ui
    desk.click()
    desk.session.dies = DIED
    propagate(desk)
    assert "ended unexpectedly" in ui.messageLabel.text and not ui.messageFrame.isHidden()
    propagate(desk)
    assert ui.messageFrame.isHidden()
    assert ui.errorButton.enabled, "it can still be looked up"
    desk.session.dies = DIED
    desk.click(3)
    assert not ui.messageFrame.isHidden()
    desk.click(4)
    assert ui.messageFrame.isHidden()


def test_an_error_stays_while_what_was_asked_before_comes_in(desk: Desk) -> None:
    """Else it would be gone before anyone has read it."""
    desk.click()
    desk.session.framesPerPoll = 1
    desk.ui.propagateButton.click()
    desk.settle(lambda: len(desk.controller.workspace.previewFrames(desk.controller.segmentID)) > 2)
    desk.controller._messages.fail(DIED, isOfWorker=True)
    desk.settle()
    assert not desk.ui.messageFrame.isHidden()


def test_other_errors_stay_until_they_are_dismissed(desk: Desk) -> None:
    desk.controller._messages.fail(SAM2PropagateError("commit_failed", "It could not be written.", ""))
    desk.click()
    assert not desk.ui.messageFrame.isHidden()
    desk.ui.dismissButton.click()
    assert desk.ui.messageFrame.isHidden()


def test_a_closed_scene_takes_what_was_said_of_it_along(desk: Desk) -> None:
    from SAM2PropagateLib.gui.events import Message

    desk.controller.point("positive", (9999, 0, 0))
    assert not desk.ui.messageFrame.isHidden()
    slicer.mrmlScene.Clear(False)
    assert desk.ui.messageFrame.isHidden() and not desk.ui.errorButton.enabled
    # What is installed and downloaded goes on without a scene.
    desk.widget.panel.say(Message("info", "Everything is installed.", "install"))
    slicer.mrmlScene.Clear(False)
    assert not desk.ui.messageFrame.isHidden()


def test_nothing_is_awaited_after_a_scene_was_closed(desk: Desk) -> None:
    desk.click()
    propagate(desk)
    session = desk.session
    close = session.close_volume

    def closeVolume(name: str) -> Any:  # noqa: N802
        call = close(name)
        from SAM2PropagateLib.worker.messages import DoneEvent

        session._calls.append((call, [DoneEvent(None, {})]))
        return call

    session.close_volume = closeVolume  # type: ignore[method-assign]
    slicer.mrmlScene.Clear(False)
    assert desk.controller.isWaiting
    desk.settle()
    assert not desk.controller.isWaiting and not desk.controller._worker.ticker._timer.isActive()
