"""Undoes and redoes steps: prompts, masks and the preview, in one order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from SAM2PropagateLib.app import rules
from SAM2PropagateLib.app.applying import Applying
from SAM2PropagateLib.app.history import History, Step
from SAM2PropagateLib.app.moment import Moment
from SAM2PropagateLib.app.previews import Previews
from SAM2PropagateLib.app.shared import Shared
from SAM2PropagateLib.app.steps import WorkState
from SAM2PropagateLib.app.turns import Work, pausing
from SAM2PropagateLib.app.workspace import Workspace
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.scene.segment_copies import Copies
from SAM2PropagateLib.texts import tr as _

Swap = Callable[[Moment], Moment]
Go = Callable[[History[Moment], Swap], bool]


class Undoing:
    """Takes steps back and brings them back.

    Args:
        applying: looks for edits afterwards.
        previews: asks again for those that were awaited.
    """

    def __init__(
        self,
        shared: Shared,
        applying: Applying,
        previews: Previews,
    ) -> None:
        self._selection = shared.selection
        self._messages = shared.messages
        self._running = shared.running
        self._applying = applying
        self._previews = previews
        self._steps = shared.steps
        self._changed = shared.signals.changed

    def whyNot(self, action: str) -> str:
        """Returns why Undo or Redo, of `rules`, is not possible now; "" if it is."""
        return rules.whyNot(action, self._steps.conditions(rules.Conditions(isRunning=self._running.isOn)))

    @property
    def undoText(self) -> str:
        """What Undo takes back, or why it cannot."""
        return self.whyNot(rules.UNDO) or _("Undo {step}").format(step=self._steps.undoName)

    @property
    def redoText(self) -> str:
        """What Redo brings back, or why it cannot."""
        return self.whyNot(rules.REDO) or _("Redo {step}").format(step=self._steps.redoName)

    def noteEdits(self) -> None:
        """Makes a step of the edits in the segments since the last step."""
        if self._steps.noteEdits():
            self._changed.emit(None)

    def undo(self) -> bool:
        """Takes the last step back; False if there is none, or a run has to end first."""
        return self._go(rules.UNDO, History.undo)

    def redo(self) -> bool:
        """Brings back the last undone step; False if there is none, or a run has to end first."""
        return self._go(rules.REDO, History.redo)

    def startUndo(self) -> bool:
        """Starts to undo in short turns; False as for `undo`."""
        return self._begin(rules.UNDO, History.undo)

    def startRedo(self) -> bool:
        """Starts to redo in short turns; False as for `redo`."""
        return self._begin(rules.REDO, History.redo)

    def _begin(self, action: str, go: Go) -> bool:
        self._steps.turns.finish()
        if self.whyNot(action):
            return False
        workspace = self._selection.require()
        step = workspace.history.last if action == rules.UNDO else workspace.history.next
        if step is None or step.moment.masks is None:
            # It takes no longer than a click.
            done = self._goQuietly(workspace, action, go)
            self._steps.turns.later(lambda: self._tell(workspace))
            return done
        self._steps.turns.begin(self._inTurns(workspace, action, go, step), isShown=False)
        return True

    def _inTurns(self, workspace: Workspace, action: str, go: Go, step: Step[Moment]) -> Work:
        ready: Copies = ()
        if not self._running.isOn:
            with contextlib.suppress(SAM2PropagateError):  # reported when it is undone
                yield from pausing(workspace.handEdits.comparing())
        if step.moment.masks is not None:
            ready = yield from pausing(workspace.states.copying(step.moment.masks))
        yield True
        return (yield from self._steps.turns.undrawn(self._swapping(workspace, action, go, step, ready)))

    def _swapping(self, workspace: Workspace, action: str, go: Go, step: Step[Moment], ready: Copies) -> Work:
        if step.moment.preview:
            workspace.shown.prepareRecords(step.moment.preview, step.moment.axis)
            yield True
        # An edit that was made meanwhile is now the last step.
        self._steps.noteEdits()
        self._goQuietly(workspace, action, go, ready)
        yield True
        workspace.shown.tidy()
        if not self._running.isOn:
            # Here, as the panel takes the turn in which `changed` is emitted.
            workspace.shown.keep()
        return lambda: self._changed.emit(None)

    def _goQuietly(self, workspace: Workspace, action: str, go: Go, ready: Copies | None = None) -> bool:
        """Undoes or redoes a step without emitting anything; `_tell` does that."""
        done = self._go(action, go, tells=False, ready=ready)
        if done and not self._running.isOn:
            # Saving the scene has to save what is shown.
            workspace.shown.keep(tidies=False)
        return done

    def _tell(self, workspace: Workspace) -> None:
        workspace.shown.tidy()
        self._changed.emit(None)

    def _go(self, action: str, go: Go, tells: bool = True, ready: Copies | None = None) -> bool:
        self._steps.turns.finish()
        if self.whyNot(action):
            return False
        workspace = self._selection.require()
        try:
            now = self._steps.state()
        except SAM2PropagateError as error:
            self._messages.fail(error)
            return False
        if now is None:
            return False
        self._messages.goOn()
        try:
            done = go(workspace.history, lambda moment: self._swap(workspace, now, moment, ready, tells))
        except SAM2PropagateError as error:
            self._messages.fail(error)
            return False
        if done:
            self._applying.lookForEdits(tells=tells)
            with contextlib.suppress(SAM2PropagateError):  # reported when the volume is needed
                workspace.handEdits.recognize()
        return done

    def _swap(
        self, workspace: Workspace, now: WorkState, moment: Moment, ready: Copies | None, tidies: bool
    ) -> Moment:
        """Brings back a moment, and returns the one before; see `SegmentationStates.restore` and
        `PreviewLayer.clear`."""
        keys = moment.preview.keys()
        there = Moment(
            None if moment.prompts is None else now.prompts,
            None if moment.masks is None else now.masks,
            None if moment.known is None else now.known,
            {key: now.preview.get(key) for key in keys},
            now.asked & keys,
            workspace.axis,
            None if moment.chosen is None else now.chosen,
        )
        if not self._running.isOn:
            workspace.handEdits.noteAgreed(now.preview)
        if moment.masks is not None and moment.known is not None:
            workspace.handEdits.restore(moment.masks, moment.known, ready)
        if moment.prompts is not None:
            workspace.promptStore.restoreState(moment.prompts)
            # The prompts may lie along another axis than the preview that is shown.
            workspace.shown.dropOtherAxis()
        self._previews.forget(keys)
        workspace.shown.showRecords(moment.preview, moment.axis, tidies)
        if moment.chosen in workspace.segmentIDs:
            self._selection.choose(moment.chosen)
        self._running.regain({key: one for key, one in moment.preview.items() if key not in moment.asked})
        if moment.masks is not None or moment.prompts is None:
            workspace.handEdits.undoCount += 1
        for segmentID, frame in sorted(moment.asked):
            if segmentID in workspace.segmentIDs:
                self._previews.preview(frame, segmentID)
        return there
