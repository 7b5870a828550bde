"""The module's work, to be driven from its panel or from a script: prompts, previews, runs, applying.

Nothing here waits. The worker's answers come in through `poll`, which a timer (`Ticker`) calls while one is
awaited. A caller without a timer calls `wait`.

Here the parts are put together, and found under one name; what each does is in a file of its own.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy.typing as npt

from SAM2PropagateLib.app import rules, segment_changes
from SAM2PropagateLib.app.applying import Applying
from SAM2PropagateLib.app.arrivals import Arrivals
from SAM2PropagateLib.app.events import (
    Choices,
    Editing,
    Installed,
    NoTicker,
    Ticker,
)
from SAM2PropagateLib.app.lifetime import Lifetime
from SAM2PropagateLib.app.navigation import frameInView, jumpTo
from SAM2PropagateLib.app.pointing import Pointing
from SAM2PropagateLib.app.previews import Previews
from SAM2PropagateLib.app.prompt_changes import PromptChanges
from SAM2PropagateLib.app.runs import Runs
from SAM2PropagateLib.app.segment_changes import SegmentChanges
from SAM2PropagateLib.app.selection import Selection
from SAM2PropagateLib.app.shared import Shared
from SAM2PropagateLib.app.shown_preview import Drawer
from SAM2PropagateLib.app.situation import Situation
from SAM2PropagateLib.app.strip import SliceStrip
from SAM2PropagateLib.app.undoing import Undoing
from SAM2PropagateLib.app.worker_link import WorkerLink
from SAM2PropagateLib.app.workspace import Listeners, Workspace
from SAM2PropagateLib.scene.commit import CommitSummary
from SAM2PropagateLib.scene.watch import PromptChange
from SAM2PropagateLib.worker.session import WorkerSession

# Seconds that one poll may take for arrived frames; the rest waits for the next one.
_BUDGET_SECONDS = 0.008
# More seconds that a poll may take after it has handled everything.
_PACKING_SECONDS = 0.003
# Seconds of a poll for work that is done in turns.
_TURN_SECONDS = 0.012


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _command(
    act: Callable[Concatenate[Controller, _P], _R],
) -> Callable[Concatenate[Controller, _P], _R]:
    """Wraps a command, or a change that comes in from the scene: hand edits under the preview come first."""

    @functools.wraps(act)
    def command(self: Controller, *arguments: _P.args, **named: _P.kwargs) -> _R:
        self._mergeEdits()
        return act(self, *arguments, **named)

    return command


class Controller:
    """Prompts, previews, runs, corrections and applying, for one volume and segmentation at a time.

    Args:
        makeSession: makes the worker's session when it is first needed; this starts no process.
        ticker: started while `poll` has to be called, else stopped; None: the caller polls.
        editing: how the application edits segments; None: not at all.
        installed: models and packages of this computer; None: the models of the cache folder, and nothing
            is missing.
        drawer: see `Workspace`.

    Signals:
        frameArrived, progress, finished (`RunEnd`), message (refusals, errors), recovered (the worker works
        again after a failure), wentOn (earlier refusals are out of date), applying (it has begun, and goes on
        in turns), changed (anything that widgets show may have changed). The last four carry None.
    """

    def __init__(
        self,
        makeSession: Callable[[], WorkerSession],
        ticker: Ticker | None = None,
        *,
        editing: Editing | None = None,
        installed: Installed | None = None,
        drawer: Drawer | None = None,
    ) -> None:
        editing, installed = editing or Editing(), installed or Installed()
        self._selection = selection = Selection(editing.makeWriter, drawer)
        self._shared = shared = Shared(selection, editing.editName)
        signals = shared.signals
        self.frameArrived, self.progress, self.finished = (
            signals.frameArrived,
            signals.progress,
            signals.finished,
        )
        self.message, self.recovered, self.wentOn = signals.message, signals.recovered, signals.wentOn
        self.applying, self.changed = signals.applying, signals.changed
        # The order matters: each part gets what all share, and the earlier parts that it needs.
        self._worker = worker = WorkerLink(makeSession, ticker or NoTicker(), installed.store)
        shared.turns.start, shared.turns.holdViews = worker.startPolling, editing.holdViews
        self._situation = situation = Situation(shared, installed)
        self._applying = applying = Applying(shared, situation)
        self._previews = previews = Previews(shared, situation, worker, applying)
        self._arrivals = Arrivals(shared, worker, previews)
        self._runs = runs = Runs(shared, situation, worker, applying, previews)
        self._undoing = Undoing(shared, applying, previews)
        self._prompts = prompts = PromptChanges(shared, previews)
        self._pointing = pointing = Pointing(shared, situation, prompts)
        self._segments = segments = SegmentChanges(shared, applying, previews, editing)
        listeners = Listeners(self._followPrompts, segments.follow, shared.messages.fail)
        self._lifetime = Lifetime(shared, worker, runs, pointing, listeners)

    # --- what is worked on

    @property
    def workspace(self) -> Workspace | None:
        """The volume and segmentation at hand; None as long as not both can be used."""
        return self._selection.workspace

    @property
    def volumeNode(self) -> Any:
        """The chosen volume; None if there is none."""
        return self._selection.volumeNode

    @property
    def segmentationNode(self) -> Any:
        """The chosen segmentation; None if there is none."""
        return self._selection.segmentationNode

    @property
    def segmentID(self) -> str:
        """The segment that prompts are for; "" if none is chosen."""
        return self._selection.segmentID

    @property
    def choices(self) -> Choices:
        """How to propagate, and with which model."""
        return self._selection.choices

    @choices.setter
    def choices(self, choices: Choices) -> None:
        """Takes new choices, and tells of them."""
        if choices != self._selection.choices:
            self._selection.choices = choices
            self.changed.emit(None)

    @property
    def session(self) -> WorkerSession:
        """The worker's session; made on first use, starts nothing."""
        return self._worker.session

    @property
    def device(self) -> str:
        """The device that the model runs on, such as "cuda:0" or "cpu"; "" before a model is loaded."""
        return self._worker.device

    @property
    def isElsewhere(self) -> bool:
        """Whether the model runs on a server."""
        return self._situation.isElsewhere

    def leaveWorker(self) -> None:
        """Ends the worker because another computer was chosen; the next request starts a new session.

        A run is cancelled; its finished slices stay in the preview.
        """
        self.cancel()
        self._previews.clear()
        self._worker.close(0.0)
        self.changed.emit(None)

    @property
    def isRunning(self) -> bool:
        """Whether a propagation is under way."""
        return self._shared.running.isOn

    @property
    def isApplying(self) -> bool:
        """Whether a result is being applied: computed in turns, or written."""
        return self._shared.turns.isWorking or self._applying.isWriting

    @property
    def isWriting(self) -> bool:
        """Whether a result is being written into the segments right now."""
        return self._applying.isWriting

    @property
    def isWaiting(self) -> bool:
        """Whether `poll` has to be called."""
        return self._worker.isWaiting or self._shared.turns.isOn

    def select(self, volumeNode: Any, segmentationNode: Any, segmentID: str = "") -> None:
        """Works on these; None for a node that is not chosen.

        A run on something else is cancelled. A preview that was not applied is kept in the scene with its
        volume and segmentation, and is shown again when they are selected again.
        """
        self._lifetime.select(volumeNode, segmentationNode, segmentID)

    def close(self, timeout: float | None = 1.0) -> None:
        """Ends the run, the worker and all observing. The user loses nothing: a preview that was not applied
        is kept in the scene.

        Args:
            timeout: seconds that the worker may take to end by itself.
        """
        self._lifetime.close(timeout)

    # --- segments

    @staticmethod
    def prepareSegmentation(segmentationNode: Any, volumeNode: Any) -> str:
        """Gives a new, empty segmentation the volume's grid and a first segment; returns the segment's ID."""
        return segment_changes.prepareSegmentation(segmentationNode, volumeNode)

    @property
    def makeSegment(self) -> Callable[[], None] | None:
        """What makes and chooses a missing segmentation and segment when a prompt needs them; None: prompts
        are refused then.
        """
        return self._selection.makeSegment

    @makeSegment.setter
    def makeSegment(self, makeSegment: Callable[[], None] | None) -> None:
        """Takes another function that makes a segment."""
        self._selection.makeSegment = makeSegment

    @property
    def chooseSegment(self) -> Callable[[str], None] | None:
        """Called with the segment that Undo or Redo chooses; None: nobody else needs to know."""
        return self._selection.chooseSegment

    @chooseSegment.setter
    def chooseSegment(self, chooseSegment: Callable[[str], None] | None) -> None:
        """Takes another function that chooses a segment."""
        self._selection.chooseSegment = chooseSegment

    def provideSegment(self) -> None:
        """Calls `makeSegment` if the chosen volume has no segmentation or segment yet."""
        self._selection.provideSegment()

    def addSegment(self) -> str:
        """Adds an empty segment with its own name and color; returns its ID, "" without a segmentation."""
        return self._segments.add()

    def removeSegment(self) -> bool:
        """Removes the chosen segment, as one undo step; `undo` brings back its prompts and preview, too.

        Returns:
            False if none is chosen, or, after a message, if it failed.
        """
        return self._segments.remove()

    # --- what is possible

    def conditions(self) -> rules.Conditions:
        """Returns the conditions that `rules.whyNot` decides by."""
        return self._situation.conditions()

    def whyNot(self, action: str) -> str:
        """Returns why an action of `rules` is not possible now; "" if it is."""
        return self._situation.whyNot(action)

    def refuses(self, action: str) -> bool:
        """Returns whether an action of `rules` is impossible now; if so, a message says why."""
        return self._situation.refuses(action)

    def modelProblem(self) -> str:
        """Returns why the chosen model cannot be loaded; "" if no reason is known."""
        return self._situation.modelProblem()

    # --- slices

    def strip(self, segmentID: str | None = None) -> SliceStrip:
        """Returns the slice strip of a segment; by default of the chosen one."""
        return self._situation.strip(segmentID)

    def jump(self, frame: int) -> None:
        """Shows a slice in the views along the propagation axis."""
        workspace = self._selection.require()
        jumpTo(workspace.volumeNode.GetScene(), workspace.worldGeometry, workspace.axis, frame)

    def nextDoubtful(self) -> int | None:
        """Shows the next slice that is worth a look, after the one in view; None if there is none."""
        workspace = self._selection.workspace
        if workspace is None:
            return None
        scene = workspace.volumeNode.GetScene()
        shown = frameInView(scene, workspace.worldGeometry, workspace.axis)
        frame = self.strip().nextDoubtful(shown)
        if frame is None:
            self._shared.messages.say("info", self.whyNot(rules.NEXT_DOUBTFUL), "no_doubt")
        else:
            self.jump(frame)
        return frame

    def setPreviewOpacity(self, opacity: float) -> None:
        """Sets the fill opacity of the preview, 0 to 1; its outline stays."""
        self._selection.fillPreview(opacity)

    # --- prompts

    @property
    def tool(self) -> str | None:
        """The tool that is on, of `tools.TOOLS`; None if there is none."""
        return self._pointing.tool

    def chooseTool(self, tool: str | None) -> bool:
        """Switches a tool on; None, or the tool that is on, switches it off. Returns False, after a message,
        if the tool cannot be used.

        Raises:
            ValueError: there is no such tool.
        """
        return self._pointing.chooseTool(tool)

    @_command
    def point(self, tool: str, ras: npt.ArrayLike, viewNormal: npt.ArrayLike | None = None) -> bool:
        """Handles a click with a tool in a slice view.

        Args:
            tool: of `tools.TOOLS`, but not one that draws (`addBox`, `addScribble`, `addLasso`).
            ras: the place, RAS in mm.
            viewNormal: (3,) normal of the view's plane; that of the first prompt decides the propagation
                axis.

        Returns:
            False if it was refused; a message has said why.
        """
        return self._pointing.point(tool, ras, viewNormal)

    @_command
    def addBox(self, cornerA: npt.ArrayLike, cornerB: npt.ArrayLike) -> bool:
        """Adds a box on one frame. It is for scripts: the mouse draws boxes.

        Args:
            cornerA, cornerB: opposite corners, RAS in mm.

        Returns:
            False if it was refused; a message has said why.
        """
        return self._pointing.addBox(cornerA, cornerB)

    @_command
    def addScribble(
        self, points: npt.ArrayLike, positive: bool = True, viewNormal: npt.ArrayLike | None = None
    ) -> bool:
        """Adds a scribble.

        Args:
            points: (n, 3) RAS in mm, every place that the mouse came through.
            positive: whether it lies in the structure.
            viewNormal: as for `point`.

        Returns:
            False if it was refused; a message has said why.
        """
        return self._pointing.addScribble(points, positive, viewNormal)

    @_command
    def addLasso(
        self, points: npt.ArrayLike, exact: bool | None = None, viewNormal: npt.ArrayLike | None = None
    ) -> bool:
        """Adds a lasso, which closes by itself.

        Args:
            points: (n, 3) RAS in mm, every place that the mouse came through.
            exact: keep it just as it was drawn; None: as chosen.
            viewNormal: as for `point`.

        Returns:
            False if it was refused; a message has said why.
        """
        return self._pointing.addLasso(points, exact, viewNormal)

    @_command
    def addCurve(
        self, points: npt.ArrayLike, closed: bool = False, viewNormal: npt.ArrayLike | None = None
    ) -> bool:
        """Adds a curve through the structure: a positive click wherever it crosses a slice.

        Args:
            points: (n, 3) RAS in mm, in order.
            closed: the last point is joined to the first.
            viewNormal: as for `point`.

        Returns:
            False if it was refused; a message has said why.
        """
        return self._pointing.addCurve(points, closed, viewNormal)

    def refuse3D(self) -> None:
        """Tells the user that prompts cannot be placed in the 3D view."""
        self._pointing.refuse3D()

    def refuseKey(self) -> None:
        """Tells the user that the key needs a slice under the mouse."""
        self._pointing.refuseKey()

    def refuseBox(self) -> None:
        """Tells the user how to drag a box."""
        self._pointing.refuseBox()

    def refuseLasso(self) -> None:
        """Tells the user how to drag a lasso."""
        self._pointing.refuseLasso()

    @_command
    def clearPrompts(self, frame: int | None = None) -> None:
        """Removes the chosen segment's prompts, on one frame or all; the segment itself stays."""
        self._prompts.clear(frame)

    @_command
    def _followPrompts(self, change: PromptChange) -> None:
        self._prompts.followScene(change)

    # --- previews and runs

    @_command
    def preview(self, frame: int, segmentID: str | None = None) -> bool:
        """Asks for the mask of one frame from its prompts. `frameArrived` is emitted when it is in the
        preview.

        Returns False if the prompts do not say where the structure is, or if the user has painted on the
        frame since: then its mask is what they painted.
        """
        return self._previews.preview(frame, segmentID)

    @_command
    def propagate(
        self,
        segmentIDs: Iterable[str] | None = None,
        **options: Any,
    ) -> bool:
        """Starts a run. Its masks appear in the preview, and `finished` is emitted at its end.

        Args:
            segmentIDs: None: the chosen segment, or all with prompts if that is chosen.
            options: fields of `RunOptions` that replace the choices in this run, such as direction="forward"
                or reach=30; None leaves the choice.

        Returns:
            False if it could not be started; `message` has said why.
        """
        return self._runs.propagate(segmentIDs, options)

    def cancel(self) -> None:
        """Ends the run at once. Finished slices stay in the preview, and the next run can start while the
        worker is still ending this one.
        """
        self._runs.cancel(self._take)

    # --- the segments' masks

    def apply(self) -> CommitSummary | None:
        """Writes the preview into the segments, as one undo step; None if there is nothing or it failed."""
        return self._applying.apply()

    def startApplying(self) -> bool:
        """Starts to apply in short turns, between which Slicer responds. The segments change at once, when
        everything is computed; `changed` is emitted then. What the user does meanwhile counts as later, also
        for `undo`. Returns False, after a message, if the preview cannot be applied.
        """
        return self._applying.begin()

    def discard(self) -> None:
        """Drops the preview; segments and prompts stay."""
        self._applying.discard()

    def editBegins(self) -> None:
        """Applies the chosen segment's preview because the user takes up a tool of the Segment Editor: they
        edit what they see.
        """
        # What this brings back may have been painted over.
        self._shared.turns.finish()
        self._undoing.noteEdits()
        self._mergeEdits()
        self._applying.editBegins()

    @_command
    def lookForEdits(self) -> None:
        """Looks for slices that the user edited and runs that were undone; the strip then shows them."""
        self._applying.lookForEdits()

    def noteEdits(self) -> None:
        """Makes an undo step of the edits in the segments since the last step."""
        self._undoing.noteEdits()

    def _mergeEdits(self) -> None:
        """Looks for hand edits under the preview. All that comes in from outside passes here; beside it
        only the ends of runs and of applying look, for edits since they began."""
        self._applying.mergeEdits()

    # --- undo

    @property
    def canUndo(self) -> bool:
        """Whether `undo` would take something back now; `changed` is emitted when that changes."""
        return not self._undoing.whyNot(rules.UNDO)

    @property
    def canRedo(self) -> bool:
        """Whether `redo` would bring something back now."""
        return not self._undoing.whyNot(rules.REDO)

    @property
    def undoText(self) -> str:
        """What `undo` takes back, "Undo propagate (112 slices)", or why it cannot."""
        return self._undoing.undoText

    @property
    def redoText(self) -> str:
        """What `redo` brings back, or why it cannot."""
        return self._undoing.redoText

    @_command
    def undo(self) -> bool:
        """Takes back the user's last step: prompts, masks or the preview. Returns False if there is none.

        All segments share one order. Undoing a run keeps its prompts, which are a step of their own.
        """
        return self._undoing.undo()

    @_command
    def redo(self) -> bool:
        """Brings back the last undone step; returns False if there is none, or the user has done something
        since."""
        return self._undoing.redo()

    @_command
    def startUndo(self) -> bool:
        """Starts to undo in short turns; `changed` is emitted at the end. What the user does meanwhile counts
        as later."""
        return self._undoing.startUndo()

    @_command
    def startRedo(self) -> bool:
        """Starts to redo in short turns; `changed` is emitted at the end."""
        return self._undoing.startRedo()

    # --- what comes back

    def poll(self) -> None:
        """Handles what the worker has sent, without waiting. The ticker calls this."""
        if self._worker.isMade:
            self._take(_BUDGET_SECONDS)
            if not self._worker.hasUpdates:
                self._lifetime.prepareKept(_PACKING_SECONDS)
                self._runs.finish()
            if self._arrivals.takeStale():
                self.changed.emit(None)
        self._shared.turns.go(_TURN_SECONDS)
        if not self.isWaiting:
            self._worker.stopPolling()

    def _take(self, seconds: float | None = None) -> None:
        """Handles what the worker has sent, for so many seconds at most."""
        if self._arrivals.take(seconds):
            # The user may have painted on the slice meanwhile. A run's masks are merged at its end.
            self._mergeEdits()

    def wait(self, timeout: float = 60.0) -> bool:
        """Polls until no answer is awaited, for scripts; returns False if that took longer than `timeout`
        seconds.
        """
        end = time.monotonic() + timeout
        while True:
            self.poll()
            if not self.isWaiting:
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
