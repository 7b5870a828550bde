"""Starts, cancels and ends propagations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from SAM2PropagateLib.app import rules
from SAM2PropagateLib.app.applying import Ahead, Applying
from SAM2PropagateLib.app.events import RunEnd
from SAM2PropagateLib.app.moment import Moment, Record
from SAM2PropagateLib.app.previews import Previews
from SAM2PropagateLib.app.run_under_way import StartedRun
from SAM2PropagateLib.app.shared import Shared
from SAM2PropagateLib.app.situation import Situation
from SAM2PropagateLib.app.steps import Made
from SAM2PropagateLib.app.turns import Work
from SAM2PropagateLib.app.underlay import SegmentFrame
from SAM2PropagateLib.app.worker_link import WorkerLink
from SAM2PropagateLib.app.workspace import Workspace
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.prompts.frame_prompts import ResolvedSegment
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import PromptSet, SegmentPrompts
from SAM2PropagateLib.scene.volume import displayWindow
from SAM2PropagateLib.texts import plural
from SAM2PropagateLib.texts import tr as _
from SAM2PropagateLib.worker.calls import Call


class Runs:
    """Starts and ends runs; `Arrivals` handles their masks.

    Args:
        situation: tells whether a run can start, and of which segments.
        worker: is asked for the run.
        applying: writes a finished run into the segments.
        previews: knows the previews that may still come after it.
    """

    def __init__(
        self,
        shared: Shared,
        situation: Situation,
        worker: WorkerLink,
        applying: Applying,
        previews: Previews,
    ) -> None:
        self._selection = shared.selection
        self._messages = shared.messages
        self._situation = situation
        self._worker = worker
        self._running = shared.running
        self._applying = applying
        self._previews = previews
        self._steps = shared.steps
        self._begun: Made | None = None
        # The run that is being ended in turns.
        self._ending: Call | None = None
        # The history's count and clearings when the run began.
        self._count = self._clearings = 0
        self._finished = shared.signals.finished
        self._changed = shared.signals.changed

    def propagate(
        self,
        segmentIDs: Iterable[str] | None,
        changes: Mapping[str, Any],
    ) -> bool:
        """Starts a run; for arguments and result see `Controller.propagate`."""
        if self._situation.refuses(rules.PROPAGATE):
            return False
        workspace, choices = self._selection.require(), self._selection.choices
        wanted = tuple(segmentIDs) if segmentIDs is not None else self._situation.startable()
        given = {name: value for name, value in changes.items() if value is not None}
        try:
            options = replace(choices.run, **given)
            elsewhere = [one for one in wanted if workspace.isMovedApart(one)]
            told: list[SegmentPrompts] = []
            resolved: list[ResolvedSegment] = []
            with self._steps.step(_("propagate")) as begun:
                try:
                    for segmentID in wanted:
                        workspace.promptStore.adoptEdits(segmentID)
                        told.append(workspace.promptStore.effective(segmentID))
                        # Checks the prompts before the worker is asked.
                        inWorld = workspace.promptStore.inWorld(told[-1])
                        resolved.append(resolve(inWorld, workspace.worldGeometry, workspace.axis))
                except SAM2PropagateError:
                    # What is refused changes nothing, and is no step.
                    if begun is not None:
                        workspace.promptStore.restoreState(begun.since.prompts)
                    raise
            # After an undo, for example, the worker does not know that the segment has lost masks.
            isHidden = any(workspace.handEdits.hides(one) for one in resolved)
            name = self._worker.ready(
                workspace.volumeNode, workspace.axis, self._selection.choices, isBusy=self._running.isOn
            )
            call = self._worker.session.propagate(
                name,
                self._worker.placed(
                    workspace.volumeNode, workspace.axis, PromptSet(tuple(told), workspace.axis)
                ),
                wanted,
                replace(
                    options,
                    everything=options.writes_all or isHidden,
                    edges=workspace.hasOwnGrid,
                    filled={name: workspace.filledFrames(name) for name in wanted},
                ),
            )
        except SAM2PropagateError as error:
            self._messages.fail(error, isOfWorker=not isinstance(error, InputError))
            return False
        self._begun, self._count = begun, workspace.history.count
        self._clearings = workspace.history.clearings
        workspace.handEdits.begin(resolved)
        self._tellOfWindow(workspace, wanted, options.anew)
        self._running.begin(call, resolved)
        workspace.underlay.begin(wanted)
        self._messages.noteRequest(call)
        self._tellOfMoved(workspace, elsewhere)
        self._worker.startPolling()
        self._changed.emit(None)
        return True

    def cancel(self, takeArrived: Callable[[], None]) -> None:
        """Ends the run at once; finished slices stay in the preview.

        Args:
            takeArrived: handles what the worker has sent so far.
        """
        call = self._running.call
        if call is None:
            return
        self._worker.cancel(call)
        # Finished slices that wait in the queue stay; later ones are dropped.
        takeArrived()
        self.finish()
        self._steps.turns.finish()
        if self._running.isOf(call):
            self._end("cancelled")

    def abandon(self) -> RunEnd | None:
        """Drops the run and all awaited previews, because the selection ends. Returns the run's end, to be
        emitted; None if there was no run.
        """
        self._previews.clear()
        run = self._running.end()
        if run is None:
            return None
        self._worker.cancel(run.call)
        return RunEnd("cancelled", run.segmentIDs, len(run.frames), False)

    def finish(self) -> None:
        """Ends the run if the worker has finished it; applying its masks is computed in turns first."""
        call = self._running.call
        if call is None or not call.is_finished or self._ending is call:
            return
        if call.state == "done" and self._selection.choices.applyAutomatically and self._running.frames:
            self._ending = call
            self._steps.turns.begin(self._endInTurns(call))
        else:
            self._end(call.state)

    def _endInTurns(self, call: Call) -> Work:
        running, workspace, ahead = self._running, self._selection.workspace, None
        if workspace is not None and workspace.isInScene:
            self._applying.tellOfBegin()
            yield True
            yield from self._applying.packing(workspace)
            ahead = yield from self._applying.workingOut(lambda: running.frames - running.overtaken)
            yield True
        if not running.isOf(call):
            return None
        return (yield from self._steps.turns.undrawn(self._closing(call, ahead)))

    def _closing(self, call: Call, ahead: Ahead | None) -> Work:
        workspace = self._selection.workspace
        self._close(call.state, ahead)
        self._steps.turns.hide()
        if workspace is not None and workspace.isInScene:
            workspace.shown.keep(tidies=False)
            yield True
            workspace.shown.tidy()
        return lambda: self._changed.emit(None)

    def _end(self, state: str) -> None:
        if self._running.isOn:
            self._close(state, None)
            self._changed.emit(None)

    def _close(self, state: str, ahead: Ahead | None) -> None:
        """Ends the run, and applies its masks if the user chose that."""
        run, workspace = self._running.end(), self._selection.workspace
        if run is None:
            return
        applied = False
        if workspace is not None and workspace.isInScene:
            if state != "done":
                workspace.handEdits.lose(run.segmentIDs)
            # Before the run's step: undoing that would lead to an edit that is not merged.
            self._applying.mergeEdits()
            with self._stepOf(run, workspace):
                applies = state == "done" and self._selection.choices.applyAutomatically
                # The other frames have a newer preview, or one is awaited.
                frames = run.frames - run.overtaken if applies else frozenset()
                if frames:
                    applied = self._applying.commit(frames, ahead=ahead, tells=False) is not None
                if state == "done":
                    self._tellOfOvertaken(workspace, run.overtaken, applies)
            workspace.underlay.end()
            workspace.keptFacts.save()
        self._finished.emit(RunEnd(state, run.segmentIDs, len(run.frames), applied))

    def _stepOf(self, run: StartedRun, workspace: Workspace) -> AbstractContextManager[Made | None]:
        """Makes one undo step of the run's masks and of applying them; it leads back to before the run."""
        begun, self._begun = self._begun, None
        if workspace.history.clearings != self._clearings:
            begun = None  # what was there before the run is of another image
        if begun is not None:
            # The run's step follows those that were made meanwhile: undoing them must bring back no mask of
            # it.
            since = begun.since.preview
            workspace.history.map(lambda moment: _withoutRun(moment, run, since), since=self._count)
        count = len(run.frames)
        name = plural(count, _("propagate ({count} slice)"), _("propagate ({count} slices)"))
        before = {} if begun is None else begun.since.preview
        found = {key: before.get(key) for key in run.frames - run.overtaken}
        # A run without a slice may still be a step: edited slices have become keyframes.
        text = name.format(count=count) if count else _("propagate")
        return self._steps.step(text, preview=found, onto=begun)

    # --- what the user is told

    def _tellOfWindow(self, workspace: Workspace, segmentIDs: tuple[str, ...], anew: bool) -> None:
        """Says which segments keep the window and level of an earlier run, once for every window and
        level."""
        window, choices = displayWindow(workspace.volumeNode), self._selection.choices
        worker = (self._worker.session.starts, choices.model, choices.device, workspace.axis)
        older = workspace.windows.carry(segmentIDs, window, worker, anew)
        if older and workspace.windows.told != window:
            workspace.windows.told = window
            segmentation = workspace.segmentationNode.GetSegmentation()
            names = [segmentation.GetSegment(one).GetName() for one in older]
            self._messages.say(
                "info",
                _(
                    "“{names}” keeps the window and level of its first propagation. To use the current ones, "
                    "press … beside Propagate and choose Recompute all slices."
                ).format(names="”, “".join(names)),
                "older_window",
            )

    def _tellOfMoved(self, workspace: Workspace, segmentIDs: list[str]) -> None:
        """Warns that segments were moved against the volume since they were written."""
        if segmentIDs:
            workspace.placement.note()  # so that it is said once
            segmentation = workspace.segmentationNode.GetSegmentation()
            self._messages.say(
                "warning",
                _(
                    "“{segmentation}” and “{volume}” were moved against each other since the last run. The "
                    "slices of “{names}” count as edited by hand where they are now. If both belong "
                    "together, put them under the same transform."
                ).format(
                    segmentation=workspace.segmentationNode.GetName(),
                    volume=workspace.volumeNode.GetName(),
                    names="”, “".join(segmentation.GetSegment(one).GetName() for one in segmentIDs),
                ),
                "moved_apart",
            )

    def _tellOfOvertaken(self, workspace: Workspace, frames: Set[SegmentFrame], isApplied: bool) -> None:
        """Says which frames whose prompts changed during a run lack its masks: they have none, or a newer
        one that only the preview shows though the run was applied."""
        waiting = self._previews.waiting
        newer = {key for key in frames if key[1] in workspace.previewFrames(key[0]) or key in waiting}
        others = (frames - newer) & workspace.handEdits.stale
        left = sum(workspace.promptStore.isSilent(*key) for key in others)
        if left:
            text = plural(
                left,
                _("The prompts of {count} slice came and went in the run. Propagate again to fill it."),
                _("The prompts of {count} slices came and went in the run. Propagate again to fill them."),
            ).format(count=left)
        elif newer and isApplied:
            text = plural(
                len(newer),
                _("{count} slice with newer prompts is still in the preview. Propagate again, or apply it."),
                _(
                    "{count} slices with newer prompts are still in the preview. Propagate again, or apply "
                    "them."
                ),
            ).format(count=len(newer))
        else:
            return
        self._messages.say("info", text, "newer_prompts")


def _withoutRun(moment: Moment, run: StartedRun, before: Mapping[SegmentFrame, Record]) -> Moment:
    """Returns a moment during a run without the run's masks: with the preview from before the run."""
    found = {key for key, record in moment.preview.items() if run.found(key, record)}
    if not found:
        return moment
    return replace(
        moment,
        preview={key: before.get(key) if key in found else one for key, one in moment.preview.items()},
    )
