"""The panel says nothing that is not so any more, and counts one slice as one."""

from __future__ import annotations

from typing import Any

import pytest
import slicer

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.scene.commit import SegmentCommitter
from Testing.gui.test_panel import Desk


@pytest.fixture
def desk(module: Any) -> Desk:
    made = Desk(module)
    made.load()
    return made


def propagate(desk: Desk) -> None:
    desk.ui.propagateButton.click()
    desk.settle()


def words(desk: Desk) -> str:
    """What the line below the strip says."""
    return str(desk.ui.resultLabel.text)


def applied(desk: Desk) -> None:
    desk.click()
    propagate(desk)
    assert words(desk).startswith("18 slices, ") and "preview" not in words(desk)


def waiting(desk: Desk) -> None:
    desk.ui.applyAutomaticallyCheckBox.setChecked(False)
    desk.click()
    propagate(desk)
    assert words(desk).startswith("18 slices in the preview")


def undo(desk: Desk) -> None:
    assert desk.controller.undo()


def apply_all(desk: Desk) -> None:
    desk.ui.applyButton.click()
    desk.settle()


@pytest.mark.parametrize(
    ("before", "happens", "after"),
    [
        (waiting, lambda desk: desk.ui.applyButton.click(), "Applying"),
        (waiting, apply_all, "18 slices, "),
        (waiting, lambda desk: desk.ui.discardButton.click(), ""),
        # That of the click, as before the run.
        (applied, undo, "1 slice in the preview"),
        (applied, lambda desk: desk.ui.addSegmentButton.click(), ""),
        (applied, lambda desk: desk.ui.segmentationSelector.addNode(), ""),
        (applied, lambda desk: slicer.mrmlScene.RemoveNode(desk.volume), ""),
        (applied, lambda desk: slicer.mrmlScene.Clear(False), ""),
    ],
    ids=["applying", "apply", "discard", "undo", "segment", "segmentation", "volume", "scene"],
)
def test_the_line_says_what_is_there_now(desk: Desk, before: Any, happens: Any, after: str) -> None:
    before(desk)
    desk.widget.panel.refresh()
    assert words(desk), "nothing has happened yet"
    happens(desk)
    assert words(desk).startswith(after) and bool(words(desk)) == bool(after)
    assert ("preview" in words(desk)) == ("preview" in after)


def test_the_line_comes_back_with_the_run_and_with_the_segment(desk: Desk) -> None:
    applied(desk)
    said, first = words(desk), desk.controller.segmentID
    undo(desk)
    assert desk.controller.redo()
    assert words(desk) == said
    desk.ui.addSegmentButton.click()
    desk.ui.segmentsTable.setSelectedSegmentIDs([first])
    assert words(desk) == said


def test_a_cancelled_run_is_called_so_until_something_else_happens(desk: Desk) -> None:
    desk.click()
    desk.session.framesPerPoll = 1
    desk.ui.propagateButton.click()
    desk.settle(lambda: len(desk.controller.workspace.previewFrames(desk.controller.segmentID)) > 3)
    desk.widget.panel.run.propagateOrCancel()
    assert words(desk).startswith("Cancelled: ") and "in the preview" in words(desk)
    desk.ui.discardButton.click()
    assert words(desk) == ""
    desk.session.framesPerPoll = 99
    propagate(desk)
    assert words(desk).startswith("18 slices, ")


def test_one_slice_is_one_slice(desk: Desk) -> None:
    from SAM2PropagateLib.app.strip import FrameFacts, strip
    from SAM2PropagateLib.app.wording import resultText, runText
    from SAM2PropagateLib.worker.messages import ProgressEvent

    ui = desk.ui
    ui.limitReachCheckBox.setChecked(True)
    ui.reachSpinBox.setValue(1)
    assert ui.reachSpinBox.suffix == " slice from a keyframe"
    ui.reachSpinBox.setValue(2)
    assert ui.reachSpinBox.suffix == " slices from a keyframe"

    def said(count: int, waiting: int = 0, doubts: int = 0, state: str = "done") -> str:
        facts = {n: FrameFacts("propagated", 0.9 if n < doubts else 0.1) for n in range(count)}
        return resultText(strip(200, facts, preview=frozenset(range(waiting))), state)

    assert said(0) == said(0, state="cancelled") == ""
    assert said(112, doubts=3) == "112 slices, 3 doubtful"
    assert said(112) == "112 slices, none doubtful"
    assert said(112, waiting=1, doubts=1) == "112 slices, 1 in the preview, 1 doubtful"
    assert said(1) == "1 slice" and said(1, waiting=1) == "1 slice in the preview"
    assert said(2, waiting=2, state="cancelled") == "Cancelled: 2 slices in the preview, none doubtful"
    assert said(1, waiting=1, doubts=1, state="failed") == "Not finished: 1 slice in the preview, 1 doubtful"
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


def test_an_error_stays_while_what_was_asked_before_comes_in(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be gone before anyone has read it."""

    def refuse(*_what: Any, **_how: Any) -> None:
        raise DIED

    desk.click()
    desk.session.framesPerPoll = 1
    desk.ui.propagateButton.click()
    desk.settle(lambda: len(desk.controller.workspace.previewFrames(desk.controller.segmentID)) > 2)
    monkeypatch.setattr(desk.session, "preview", refuse)
    desk.click(3)
    desk.settle()
    assert words(desk).startswith("17 slices, "), "the run goes on, without the clicked slice"
    assert "ended unexpectedly" in desk.ui.messageLabel.text and not desk.ui.messageFrame.isHidden()


def test_other_errors_stay_until_they_are_dismissed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_committer: Any, _plan: Any) -> None:
        raise SAM2PropagateError("commit_failed", "It could not be written.", "")

    monkeypatch.setattr(SegmentCommitter, "carryOut", fail)
    waiting(desk)
    apply_all(desk)
    assert "could not be written" in desk.ui.messageLabel.text
    desk.click()
    assert not desk.ui.messageFrame.isHidden()
    desk.ui.dismissButton.click()
    assert desk.ui.messageFrame.isHidden()


def test_a_closed_scene_takes_what_was_said_of_it_along(desk: Desk) -> None:
    from SAM2PropagateLib.app.events import UserMessage

    desk.controller.point("positive", (9999, 0, 0))
    assert not desk.ui.messageFrame.isHidden()
    slicer.mrmlScene.Clear(False)
    assert desk.ui.messageFrame.isHidden() and not desk.ui.errorButton.enabled
    # What is installed and downloaded goes on without a scene.
    desk.widget.panel.say(UserMessage("info", "Everything is installed.", "install"))
    slicer.mrmlScene.Clear(False)
    assert not desk.ui.messageFrame.isHidden()


def test_nothing_is_awaited_after_a_scene_was_closed(desk: Desk) -> None:
    desk.click()
    propagate(desk)
    desk.session.closesAtOnce = False
    slicer.mrmlScene.Clear(False)
    assert desk.controller.isWaiting
    desk.settle()
    assert not desk.controller.isWaiting and not desk.logic.ticker.isOn


def refused(desk: Desk) -> None:
    """A scribble on a slice that is marked as absent."""
    geometry = desk.controller.workspace.geometry
    desk.click(tool="absent")
    assert not desk.controller.addScribble([geometry.ras_of_pixel(x, 15, 8, 2) for x in (10, 14)])
    assert not desk.ui.messageFrame.isHidden() and "is marked as absent" in desk.ui.messageLabel.text


@pytest.mark.parametrize(
    "happens",
    [
        undo,
        lambda desk: desk.click(tool="absent"),
        lambda desk: desk.click(frame=4),
        lambda desk: desk.controller.clearPrompts(),
        lambda desk: desk.ui.addSegmentButton.click(),
        lambda desk: desk.ui.segmentationSelector.addNode(),
    ],
    ids=["undo", "mark", "click", "clear", "segment", "segmentation"],
)
def test_why_a_prompt_was_refused_goes_when_the_user_goes_on(desk: Desk, happens: Any) -> None:
    refused(desk)
    happens(desk)
    assert desk.ui.messageFrame.isHidden()


def test_why_a_prompt_was_refused_stays_until_then(desk: Desk) -> None:
    refused(desk)
    desk.ui.boxToolButton.click()
    desk.settle()
    assert not desk.ui.messageFrame.isHidden()


def test_the_hint_for_a_range_goes_with_its_second_click(desk: Desk) -> None:
    desk.click(frame=3, tool="range")
    assert "the other end" in desk.ui.messageLabel.text and not desk.ui.messageFrame.isHidden()
    desk.click(frame=9, tool="range")
    assert desk.ui.messageFrame.isHidden()
