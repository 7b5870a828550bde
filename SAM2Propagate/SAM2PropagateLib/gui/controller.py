"""The module's work, to be driven from its window or from a script: prompts, previews, runs, applying.

Nothing here waits: what the worker is asked for comes back through `poll`, which a timer calls while an
answer is awaited (`Ticker`). A caller without a timer uses `wait`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import slicer

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.gui import keyframes, rules
from SAM2PropagateLib.gui.events import (
    Choices,
    FrameArrived,
    Message,
    NoTicker,
    Progress,
    RunEnd,
    Ticker,
)
from SAM2PropagateLib.gui.navigation import frameInView, jumpTo
from SAM2PropagateLib.gui.observing import Observers
from SAM2PropagateLib.gui.pointing import Pointing
from SAM2PropagateLib.gui.signals import Signal
from SAM2PropagateLib.gui.strip import FrameFacts, SliceStrip
from SAM2PropagateLib.gui.volumes import OpenVolumes
from SAM2PropagateLib.gui.wording import runText
from SAM2PropagateLib.gui.workspace import Workspace, WriterMaker
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.prompts.place import mask_at
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.scene.commit import CommitSummary
from SAM2PropagateLib.scene.markups import removeOrphans
from SAM2PropagateLib.scene.segments import checkSegmentation
from SAM2PropagateLib.scene.volume import displayWindow, volumeGeometry
from SAM2PropagateLib.texts import tr as _
from SAM2PropagateLib.worker.calls import Call, PreviewCall, Run, Update
from SAM2PropagateLib.worker.messages import ErrorEvent, FrameEvent, LoadModel, LogEvent, ProgressEvent
from SAM2PropagateLib.worker.session import WorkerSession

_log = logging.getLogger(__name__)

# Seconds that one poll may take for arrived frames; the rest waits for the next one.
_BUDGET_SECONDS = 0.008


@dataclass
class _Running:
    """The run under way.

    Attributes:
        overtaken: frames on which the user spoke since it began; its masks for them are out of date.
    """

    call: Run
    name: str
    segmentIDs: tuple[str, ...]
    overtaken: set[tuple[str, int]] = field(default_factory=set)
    frames: set[tuple[str, int]] = field(default_factory=set)


class Controller(Pointing):
    """Prompts, previews, runs, corrections and applying, for one volume and segmentation at a time.

    Args:
        makeSession: makes the worker's session; called when it is first needed, starts nothing by itself.
        ticker: told when `poll` has to be called and when no longer; None: the caller polls.
        makeWriter: see `Workspace`.
        store: the models of this computer. missing: names of packages that are not installed.
        whenIdle: asked to call `lookForEdits` once the user has stopped editing; None: edits are looked for
            when they are needed.

    Signals:
        frameArrived, progress, finished (`RunEnd`), message (refusals, errors), changed (anything that
        widgets show may have changed; carries None).
    """

    def __init__(
        self,
        makeSession: Callable[[], WorkerSession],
        ticker: Ticker | None = None,
        *,
        makeWriter: WriterMaker | None = None,
        store: ModelStore | None = None,
        missing: Callable[[], Iterable[str]] = lambda: (),
        whenIdle: Callable[[], None] | None = None,
    ) -> None:
        self.frameArrived: Signal[FrameArrived] = Signal()
        self.progress: Signal[Progress] = Signal()
        self.finished: Signal[RunEnd] = Signal()
        self.message: Signal[Message] = Signal()
        self.changed: Signal[None] = Signal()
        self._makeSession = makeSession
        self._ticker = ticker or NoTicker()
        self._makeWriter = makeWriter
        self._store = store or ModelStore()
        self._missing = missing
        self._whenIdle = whenIdle
        self._session: WorkerSession | None = None
        self._volumes: OpenVolumes | None = None
        self._workspace: Workspace | None = None
        self._volumeNode: Any = None
        self._segmentationNode: Any = None
        self._segmentID = ""
        self._choices = Choices()
        self._running: _Running | None = None
        self._previews: dict[tuple[str, int], PreviewCall] = {}
        self._lost: set[tuple[str, int]] = set()
        self._waiting: deque[Update] = deque()
        self._toldOf: set[str] = set()
        self._isStale = False
        self._isApplying = False
        self._observers = Observers()
        self._opacity: float | None = None
        self._knownSegments: tuple[str, ...] = ()
        self._styled: Any = None
        self.changed.connect(self._keepPreview)
        super().__init__()

    # --- what is worked on

    @property
    def workspace(self) -> Workspace | None:
        """The volume and segmentation at hand; None as long as not both can be used."""
        return self._workspace

    @property
    def volumeNode(self) -> Any:
        return self._volumeNode

    @property
    def segmentationNode(self) -> Any:
        return self._segmentationNode

    @property
    def segmentID(self) -> str:
        """The segment that prompts are for; "" if none is chosen."""
        return self._segmentID

    @property
    def choices(self) -> Choices:
        return self._choices

    @choices.setter
    def choices(self, choices: Choices) -> None:
        if choices != self._choices:
            self._choices = choices
            self.changed.emit(None)

    @property
    def session(self) -> WorkerSession:
        """The worker's session; made on first use, starts nothing."""
        if self._session is None:
            self._session = self._makeSession()
            self._volumes = OpenVolumes(self._session)
        return self._session

    @property
    def isRunning(self) -> bool:
        """Whether a propagation is under way."""
        return self._running is not None

    @property
    def isApplying(self) -> bool:
        """Whether a result is being written into the segments right now."""
        return self._isApplying

    @property
    def isWaiting(self) -> bool:
        """Whether `poll` has to be called."""
        return bool(self._waiting) or (self._session is not None and self._session.is_waiting)

    def select(self, volumeNode: Any, segmentationNode: Any, segmentID: str = "") -> None:
        """Work on these; None for a node that is not chosen.

        A run on something else is cancelled. A preview that was not applied is kept in the scene with its
        volume and segmentation, and is shown again when they are selected again.
        """
        before = (self._volumeNode, self._segmentationNode, self._segmentID, self._workspace)
        if volumeNode is not self._volumeNode or segmentationNode is not self._segmentationNode:
            if self._leave():
                self._say(
                    "info",
                    _(
                        "The preview of “{segmentation}” on “{volume}” is not applied yet. It is kept, and "
                        "is there again when you choose both again."
                    ).format(
                        segmentation=self._segmentationNode.GetName(), volume=self._volumeNode.GetName()
                    ),
                    "preview_kept",
                )
            self._volumeNode, self._segmentationNode = volumeNode, segmentationNode
        if segmentID != self._segmentID:
            self.forgetRangeStart()
        self._segmentID = segmentID
        self._enter()
        if before != (volumeNode, segmentationNode, segmentID, self._workspace):
            self.changed.emit(None)

    def _enter(self) -> None:
        """Opens the workspace, if there is none and both nodes can be used."""
        volume, segmentation = self._volumeNode, self._segmentationNode
        if self._workspace is not None or volume is None or segmentation is None:
            return
        if self._problem(volumeGeometry, volume) or self._problem(checkSegmentation, segmentation):
            return
        try:
            self._workspace = Workspace(
                volume, segmentation, self._promptsChanged, self._segmentsChanged, self._makeWriter
            )
        except SAM2PropagateError as error:
            self._say("error", str(error), error.code)
            return
        self._knownSegments = self._workspace.segmentIDs
        try:
            self._workspace.showKeptPreview()
        except SAM2PropagateError as error:
            self._say("warning", str(error), error.code)
        self._style()
        scene = segmentation.GetScene()
        self._observers.add(scene, slicer.vtkMRMLScene.NodeRemovedEvent, self._nodesRemoved)
        self._observers.add(scene, slicer.vtkMRMLScene.StartCloseEvent, self._sceneCloses)

    def _leave(self, keepsPreview: bool = True) -> bool:
        """Ends the work on volume and segmentation; whether a preview was kept for later."""
        self._observers.clear()
        self.stopPointing()
        workspace, self._workspace = self._workspace, None
        running, self._running = self._running, None
        if running is not None and self._session is not None:
            self._session.cancel(running.call)
        self._previews.clear()
        self._lost.clear()
        if workspace is None:
            return False
        hasKept = False
        if workspace.isInScene and keepsPreview:
            hasKept = workspace.keepPreview()
            workspace.memory.save()
        workspace.close()
        if self._volumes is not None:
            self._volumes.forget(workspace.volumeID)
        if running is not None:
            self.finished.emit(RunEnd("cancelled", running.segmentIDs, len(running.frames), False))
        return hasKept

    def _nodesRemoved(self) -> None:
        workspace = self._workspace
        if workspace is None or workspace.isInScene:
            return
        scene = workspace.segmentationNode.GetScene() or workspace.volumeNode.GetScene()
        lostSegmentation = workspace.segmentationNode.GetScene() is None
        hadPreview = workspace.hasPreview
        self._leave()
        if lostSegmentation:
            self._segmentationNode, self._segmentID = None, ""
            if scene is not None:
                removeOrphans(scene)
        else:
            self._volumeNode = None
            if hadPreview:
                self._say(
                    "warning",
                    _("The preview went with its volume; what was applied to the segments is still there."),
                    "preview_gone",
                )
        self.changed.emit(None)

    def _keepPreview(self, _none: None = None) -> None:
        """What is on the screen is in the scene, too, whenever that is saved."""
        workspace = self._workspace
        # During a run every slice would be packed on its own; its end comes here as well.
        if workspace is not None and workspace.isInScene and self._running is None:
            workspace.keepPreview()

    def _sceneCloses(self) -> None:
        self._leave(keepsPreview=False)
        self._volumeNode = self._segmentationNode = None
        self._segmentID = ""
        self.changed.emit(None)

    def close(self, timeout: float | None = 1.0) -> None:
        """End everything: the run, the worker and all observing. Nothing of the user's is lost: a preview
        that was not applied is kept in the scene.

        Args:
            timeout: seconds that the worker may take to end by itself.
        """
        self._leave()
        self._ticker.stop()
        if self._session is not None:
            self._session.close(timeout)
        self._session = self._volumes = None
        self._waiting.clear()
        self._volumeNode = self._segmentationNode = None

    # --- segments

    @staticmethod
    def prepareSegmentation(segmentationNode: Any, volumeNode: Any) -> str:
        """Gives a new, empty segmentation the volume's grid and its first segment; the segment's ID."""
        segmentationNode.CreateDefaultDisplayNodes()
        if volumeNode is not None:
            segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
            segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        return str(segmentationNode.GetSegmentation().AddEmptySegment("", ""))

    def addSegment(self) -> str:
        """Add an empty segment, with a name and color of its own; its ID, "" if there is no segmentation."""
        if self._workspace is None:
            return ""
        return str(self._segmentationNode.GetSegmentation().AddEmptySegment("", ""))

    def removeSegment(self) -> None:
        """Remove the chosen segment, as one undo step: `undo` brings it back with its prompts and preview."""
        workspace, segmentID = self._workspace, self._segmentID
        if workspace is None or segmentID not in workspace.segmentIDs:
            return
        try:
            workspace.committer.removeSegment(segmentID)
        except SAM2PropagateError as error:
            self._fail(error)

    # --- what is possible

    def facts(self) -> rules.Facts:
        """How things stand, for `rules.whyNot`."""
        workspace, segmentID = self._workspace, self._segmentID
        hasSegment = workspace is not None and segmentID in workspace.segmentIDs
        said = workspace.prompts.segment(segmentID) if workspace is not None and segmentID else None
        volumeProblem = self._problem(volumeGeometry, self._volumeNode)
        segmentationProblem = self._problem(checkSegmentation, self._segmentationNode)
        isUsable = not (volumeProblem or segmentationProblem)
        return rules.Facts(
            missing=tuple(self._missing()),
            volumeProblem=volumeProblem,
            segmentationProblem=segmentationProblem,
            modelProblem=self.modelProblem(),
            hasVolume=self._volumeNode is not None,
            hasSegmentation=self._segmentationNode is not None,
            hasSegment=hasSegment,
            isRunning=self._running is not None,
            canStart=isUsable and bool(self._startable()),
            hasPreview=workspace is not None and workspace.hasPreview,
            hasPrompts=said is not None and not said.is_empty,
            canUndoPrompt=workspace is not None and workspace.canUndoPrompt,
            canRedoPrompt=workspace is not None and workspace.canRedoPrompt,
            hasDoubt=isUsable and bool(self.strip().doubtful),
        )

    def whyNot(self, action: str) -> str:
        """Why an action of `rules` is not possible now; "" if it is."""
        return rules.whyNot(action, self.facts())

    @staticmethod
    def _problem(check: Callable[[Any], Any], node: Any) -> str:
        if node is None:
            return ""
        try:
            check(node)
        except SAM2PropagateError as error:
            return str(error)
        return ""

    def modelProblem(self) -> str:
        """Why the chosen model cannot be loaded; "" if nothing is known against it."""
        entry = next((one for one in self._store.models if one.name == self._choices.model), None)
        if entry is None:
            path = Path(self._choices.model).expanduser()
            if path.is_file():
                return ""
            return _(
                "There is no weights file “{path}”: open another one, or choose a model of the list."
            ).format(path=path)
        if self._store.path_of(entry).is_file():
            return ""
        if entry.resource is not None:
            return _("The model that comes with the extension is missing: install the extension again.")
        return _(
            "The model “{title}” is not on this computer yet: download it, or choose another one."
        ).format(title=entry.title)

    def _startable(self) -> tuple[str, ...]:
        """The segments that a run could start from, of those that it is for."""
        workspace = self._workspace
        if workspace is None:
            return ()
        # What was painted by hand starts a run of the chosen segment only: in others it is finished work.
        startable = [
            one
            for one in workspace.segmentIDs
            if (self._choices.allSegments or one == self._segmentID) and workspace.speaking(one).has_positive
        ]
        chosen = self._segmentID
        isOpen = chosen in workspace.segmentIDs and chosen not in startable
        if isOpen and any(one.prompt.mask.any() for one in workspace.edits(chosen)):
            startable.append(chosen)
        return tuple(startable)

    def strip(self, segmentID: str | None = None) -> SliceStrip:
        """What there is to know of every slice, for the chosen segment or another one."""
        wanted = segmentID or self._segmentID
        if self._workspace is None or wanted not in self._workspace.segmentIDs:
            return SliceStrip()
        return self._workspace.strip(wanted)

    def jump(self, frame: int) -> None:
        """Show a slice in the views along the propagation axis."""
        workspace = self._require()
        jumpTo(workspace.volumeNode.GetScene(), workspace.geometry, workspace.axis, frame)

    def nextDoubtful(self) -> int | None:
        """Show the next slice that is worth a look, after the one in view; None if there is none."""
        workspace = self._workspace
        if workspace is None:
            return None
        scene = workspace.volumeNode.GetScene()
        shown = frameInView(scene, workspace.geometry, workspace.axis)
        frame = self.strip().nextDoubtful(shown)
        if frame is None:
            self._say("info", self.whyNot(rules.NEXT_DOUBTFUL), "no_doubt")
        else:
            self.jump(frame)
        return frame

    # --- prompts

    def _promptsChanged(self, _change: Any = None) -> None:
        """The prompts in the scene are others than before: previews follow, wrong ones are taken back."""
        workspace = self._workspace
        if workspace is None:
            return
        before = workspace.prompts
        try:
            workspace.prompts = workspace.markups.read()
            if workspace.prompts == before:
                return
            self._settle(before, _change.viewNormal if _change is not None else None)
        except SAM2PropagateError as error:
            workspace.restore(before)
            self._say("warning", str(error), error.code)
        self.changed.emit(None)

    def _settle(self, before: PromptSet, viewNormal: Any) -> None:
        """Completes a change that the user made in the scene: masks to be corrected, undo, previews."""
        workspace = self._require()
        if before.is_empty and viewNormal is not None:
            after, workspace.prompts = workspace.prompts, before
            workspace.axisFor(viewNormal)
            workspace.prompts = after.with_axis(workspace.markups.axis)
        geometry, axis = workspace.geometry, workspace.axis
        changed: dict[str, set[int]] = {}
        for segmentID in {*before.names, *workspace.prompts.names} & set(workspace.segmentIDs):
            old, new = before.segment(segmentID), workspace.prompts.segment(segmentID)
            if old == new:
                continue
            refusal = self.refusal(old, new)
            if refusal:
                workspace.restore(before)
                self._say("warning", refusal, "refused")
                return
            changed[segmentID] = keyframes.changedFrames(old, new, geometry, axis)
        workspace.keep(before)
        for segmentID in changed:
            workspace.write(self.completed(before.segment(segmentID), workspace.prompts.segment(segmentID)))
        for segmentID, frames in changed.items():
            self._follow(segmentID, frames)
        workspace.memory.save()

    def undoPrompt(self) -> bool:
        """Takes back the last change of prompts; False if there is none."""
        return self._stepPrompts("undoPrompt", "canUndoPrompt")

    def redoPrompt(self) -> bool:
        """Brings back the change of prompts that was undone last; False if there is none."""
        return self._stepPrompts("redoPrompt", "canRedoPrompt")

    def _stepPrompts(self, step: str, isPossible: str) -> bool:
        workspace = self._workspace
        if workspace is None or not getattr(workspace, isPossible):
            return False
        self._mergeEdits()
        try:
            before = getattr(workspace, step)()
            for segmentID in workspace.segmentIDs:
                old, new = before.segment(segmentID), workspace.prompts.segment(segmentID)
                self._follow(segmentID, keyframes.changedFrames(old, new, workspace.geometry, workspace.axis))
        except SAM2PropagateError as error:  # the volume cannot be used any more
            self._fail(error)
            return False
        self.changed.emit(None)
        return True

    def clearPrompts(self, frame: int | None = None) -> None:
        """Removes the chosen segment's prompts, on one frame or all; the segment itself stays."""
        workspace = self._workspace
        if workspace is None or not self._segmentID:
            return
        self._mergeEdits()
        said = workspace.prompts.segment(self._segmentID)
        frames = keyframes.framesOf(said, workspace.geometry, workspace.axis)
        cleared = said
        for one in said:
            if frame is None or frames.get(one.id) == frame:
                cleared = cleared.remove(one.id)
        if frame is None:
            cleared = cleared.with_range(None)
        if cleared == said:
            return
        workspace.keep(workspace.prompts)
        workspace.write(cleared)
        self._follow(self._segmentID, set(frames.values()) if frame is None else {frame})
        self.changed.emit(None)

    # --- previews

    def preview(self, frame: int, segmentID: str | None = None) -> bool:
        """Ask for the mask of one frame from its prompts; False if they do not say where the structure is, or
        the user has painted on the frame since: what they painted is its mask.

        The mask appears in the preview, and `frameArrived` tells.
        """
        workspace = self._require()
        wanted = segmentID or self._segmentID
        said = keyframes.onFrame(workspace.effective(wanted), frame, workspace.geometry, workspace.axis)
        if not said.has_positive or workspace.hasOpenEdit(wanted, frame):
            return False
        self._ask(wanted, frame, said)
        return True

    def _follow(self, segmentID: str, frames: set[int]) -> None:
        """Previews of frames whose prompts have changed."""
        workspace = self._require()
        self._mergeEdits()
        absent, locked = workspace.marked(segmentID)
        accepted = set()
        if self._running is not None:
            self._running.overtaken |= {(segmentID, frame) for frame in frames}
        for frame in sorted(frames):
            self._previews.pop((segmentID, frame), None)
            self._lost.discard((segmentID, frame))
            said = keyframes.onFrame(
                workspace.effective(segmentID), frame, workspace.geometry, workspace.axis
            )
            if frame in locked:
                if frame in workspace.previewFrames(segmentID):
                    accepted.add((segmentID, frame))
                continue
            if frame not in absent and said.has_positive:
                if not workspace.hasOpenEdit(segmentID, frame):
                    self._ask(segmentID, frame, said)
                continue
            self._forget(segmentID, frame)
            if frame not in absent and said.clicks:
                self._say(
                    "info",
                    _(
                        "Only “does not belong” is said on slice {number}: click + on the structure, too."
                    ).format(number=frame + 1),
                    "only_negative_clicks",
                )
        if accepted:
            # Nothing will write on them any more: what was locked is what was shown.
            self._commit(accepted)

    def _forget(self, segmentID: str, frame: int) -> None:
        """Takes a frame out of the preview."""
        workspace = self._require()
        facts = workspace.memory.facts(segmentID, workspace.geometry, workspace.axis).get(frame)
        if frame in workspace.previewFrames(segmentID):
            workspace.preview.erase(segmentID, frame)
            workspace.memory.drop(segmentID, frame)
            workspace.undone.add(segmentID)
        elif facts is not None and facts.kind == "preview":
            workspace.memory.drop(segmentID, frame)

    def _ask(self, segmentID: str, frame: int, said: Any) -> None:
        workspace = self._require()
        if missing := tuple(self._missing()):
            self._say("warning", rules.whyNot(rules.PROMPT, rules.Facts(missing=missing)), "not_installed")
            return
        try:
            name = self._ready(workspace)
            others = {key for key, call in self._previews.items() if not call.is_finished}
            self._previews[segmentID, frame] = self.session.preview(
                name,
                PromptSet((said,), workspace.axis),
                segmentID,
                frame,
                # Waiting previews of other slices are still wanted.
                replaces=not any(key[0] == segmentID and key[1] != frame for key in others),
            )
        except SAM2PropagateError as error:
            self._fail(error)
            return
        workspace.underlay.ask((segmentID, frame))
        self._toldOf.clear()
        self._tick()
        lost, self._lost = self._lost - {(segmentID, frame)}, set()
        for other, otherFrame in sorted(lost):
            if other in workspace.segmentIDs:
                self.preview(otherFrame, other)

    def _ready(self, workspace: Workspace) -> str:
        """The model loaded or on its way, the volume open or on its way; the volume's name."""
        session = self.session
        assert self._volumes is not None
        model = self._choices.model
        isName = any(one.name == model for one in self._store.models)
        session.load_model(
            LoadModel(name=model, device=self._choices.device)
            if isName
            else LoadModel(path=model, device=self._choices.device)
        )
        return self._volumes.ensure(workspace.volumeNode, workspace.axis, isBusy=self._running is not None)

    # --- runs

    def propagate(
        self,
        segmentIDs: Iterable[str] | None = None,
        *,
        direction: str | None = None,
        reach: int | None = None,
        everything: bool = False,
        anew: bool = False,
    ) -> bool:
        """Start a run; what it finds appears in the preview, and `finished` tells when it has ended.

        Args:
            segmentIDs: None: the chosen segment, or all with prompts if that is chosen.
            direction, reach: None: as chosen.
            everything: write also what has not changed since the last run.
            anew: that, and as the model sees it in the window and level of the views now.

        Returns:
            False if it could not be started; `message` has said why.
        """
        if reason := self.whyNot(rules.PROPAGATE):
            self._say("warning", reason, "not_possible")
            return False
        workspace = self._require()
        wanted = tuple(segmentIDs) if segmentIDs is not None else self._startable()
        direction = direction or self._choices.direction
        reach = self._choices.reach if reach is None else reach
        if reach is not None and reach < 1:
            text = _("A reach of {reach} slices leads nowhere: give 1 or more, or none.").format(reach=reach)
            self._say("warning", text, "bad_reach")
            return False
        try:
            self._mergeEdits()
            before = workspace.prompts
            told = []
            for segmentID in wanted:
                workspace.adoptEdits(segmentID)
                told.append(workspace.effective(segmentID))
                # Refused here already, before the worker is troubled.
                resolve(told[-1], workspace.geometry, workspace.axis)
            if workspace.prompts != before:
                workspace.keep(before)
            # After an undo the worker believes that the segment still has what it had.
            undone = any(segmentID in workspace.undone for segmentID in wanted)
            name = self._ready(workspace)
            call = self.session.propagate(
                name,
                PromptSet(tuple(told), workspace.axis),
                wanted,
                direction=direction,
                reach=reach,
                everything=everything or undone or anew,
                anew=anew,
            )
        except SAM2PropagateError as error:
            self._fail(error)
            return False
        workspace.undone -= set(wanted)
        self._tellOfWindow(workspace, wanted, anew)
        self._running = _Running(call, name, wanted)
        workspace.underlay.begin(wanted)
        self._toldOf.clear()
        self._tick()
        self.changed.emit(None)
        return True

    def _tellOfWindow(self, workspace: Workspace, segmentIDs: tuple[str, ...], anew: bool) -> None:
        """Says once of every window and level that segments which were carried in others stay in these."""
        window = displayWindow(workspace.volumeNode)
        worker = (self.session.starts, self._choices.model, self._choices.device, workspace.axis)
        older = workspace.carriedIn(segmentIDs, window, worker, anew)
        if older and workspace.toldOfWindow != window:
            workspace.toldOfWindow = window
            names = [self._segmentationNode.GetSegmentation().GetSegment(one).GetName() for one in older]
            self._say(
                "info",
                _(
                    "The model sees “{names}” in the window and level of the first propagation, so that only "
                    "what you correct changes. For the present ones: All slices anew."
                ).format(names="”, “".join(names)),
                "older_window",
            )

    def cancel(self) -> None:
        """End the run, at once: the slices that are finished stay in the preview, and the next run can be
        started while the worker still finds its way out of this one.
        """
        running = self._running
        if running is None:
            return
        self.session.cancel(running.call)
        # What has arrived is finished and stays; what the worker sends from now on is dropped.
        self._takeArrived()
        self._finishRun()
        if self._running is running:
            self._endRun("cancelled")

    def apply(self) -> CommitSummary | None:
        """Write the preview into the segments, as one undo step; None if there is nothing or it failed."""
        if reason := self.whyNot(rules.APPLY):
            self._say("warning", reason, "not_possible")
            return None
        merged, rest = self._mergeEdits(), self._commit(None)
        return rest if merged is None else merged if rest is None else merged + rest

    def editBegins(self) -> None:
        """The user takes up a tool of the Segment Editor: the chosen segment's preview is applied, so that
        what they paint and erase on is what they see.
        """
        workspace = self._workspace
        if workspace is None or self._segmentID not in workspace.segmentIDs:
            return
        self._mergeEdits()
        shown = {(self._segmentID, frame) for frame in workspace.previewFrames(self._segmentID)}
        if shown and self._commit(shown) is not None:
            self._say(
                "info",
                _("The preview was applied, so that you edit what you see. Undo takes that back."),
                "applied_for_edit",
            )

    def discard(self) -> None:
        """Drop the preview; segments and prompts stay."""
        if reason := self.whyNot(rules.DISCARD):
            self._say("warning", reason, "not_possible")
            return
        workspace = self._require()
        for segmentID in workspace.segmentIDs:
            frames = workspace.previewFrames(segmentID)
            for frame in frames:
                workspace.memory.drop(segmentID, frame)
            if frames:
                workspace.undone.add(segmentID)
                workspace.preview.clear(segmentID)
        workspace.memory.save()
        self.changed.emit(None)

    def undo(self) -> bool:
        """Take back the last run or edit of the segments; False if there is none."""
        return self._stepSegments("undo")

    def redo(self) -> bool:
        """Bring back what `undo` took; False if there is nothing."""
        return self._stepSegments("redo")

    def _stepSegments(self, step: str) -> bool:
        workspace = self._workspace
        if workspace is None or self._running is not None:
            return False
        done = bool(getattr(workspace.committer, step)())
        self.lookForEdits()
        return done

    def _commit(self, only: set[tuple[str, int]] | None) -> CommitSummary | None:
        """Writes preview frames (all, or some of them) into the segments."""
        workspace = self._require()
        masks = {}
        for segmentID in workspace.segmentIDs:
            frames = {
                frame: mask
                for frame in workspace.previewFrames(segmentID)
                if (only is None or (segmentID, frame) in only)
                and (mask := workspace.preview.mask(segmentID, frame)) is not None
            }  # fmt: skip
            if frames:
                masks[segmentID] = frames
        if not masks:
            return None
        self._isApplying = True
        try:
            openEdits = workspace.openEdits()
            summary = workspace.committer.commit(masks, workspace.axis)
        except SAM2PropagateError as error:
            self._fail(error)
            return None
        except Exception as error:  # of Slicer's own code: the user must not be left without a word
            _log.exception("A result could not be written")
            self._fail(
                SAM2PropagateError(
                    "commit_failed",
                    _("The result could not be written into the segment ({kind}: {error}).").format(
                        kind=type(error).__name__, error=error
                    ),
                    _("It is still in the preview: try Apply again."),
                )
            )
            return None
        finally:
            self._isApplying = False
        geometry, axis = workspace.geometry, workspace.axis
        for segmentID, frames in masks.items():
            self._takeOut(workspace, segmentID, set(frames))
            facts = workspace.memory.facts(segmentID, geometry, axis)
            for frame in frames:
                if frame in facts and facts[frame].kind == "preview":
                    facts[frame] = replace(facts[frame], kind="keyframe")
        workspace.remember(masks, openEdits)
        workspace.memory.save()
        if summary.protected:
            self._say(
                "info",
                _(
                    "{count} voxels were left as they were: the Segment Editor's masking protects them."
                ).format(count=summary.protected),
                "protected",
            )
        self.changed.emit(None)
        return summary

    def _mergeEdits(self) -> CommitSummary | None:
        """Where the user edited a segment under its preview: brings both together, as a keyframe, and writes
        that into the segment; None if there was no such place, or it failed.
        """
        workspace = self._require()
        if not workspace.hasPreview:
            return None
        try:
            frames = self._withEdits(workspace)
        except SAM2PropagateError as error:  # the volume cannot be used any more
            self._fail(error)
            return None
        return self._commit(frames) if frames else None

    def _withEdits(self, workspace: Workspace) -> set[tuple[str, int]]:
        """Puts what the user edited under the preview into it, and makes keyframes of it; where that was."""
        geometry, axis = workspace.geometry, workspace.axis
        merged = {segmentID: workspace.painted(segmentID) for segmentID in workspace.segmentIDs}
        frames = {(segmentID, frame) for segmentID, masks in merged.items() for frame in masks}
        if not frames:
            return frames
        before = workspace.prompts
        for segmentID, masks in merged.items():
            said = workspace.prompts.segment(segmentID)
            locked = workspace.marked(segmentID)[1]
            for frame, mask in masks.items():
                workspace.preview.write(segmentID, frame, mask, refresh=False)
                workspace.underlay.put((segmentID, frame))
                if frame not in locked:
                    name = keyframes.maskId(keyframes.EDITED, frame, axis)
                    said = workspace.withMask(said, mask_at(mask, frame, geometry, axis, name), frame)
            workspace.write(said)
        if workspace.prompts != before:
            workspace.keep(before)
        if self._running is not None:
            self._running.overtaken |= frames
        return frames

    @staticmethod
    def _takeOut(workspace: Workspace, segmentID: str, frames: set[int]) -> None:
        """Takes frames out of the preview, all at once."""
        left = workspace.previewFrames(segmentID) - frames
        kept = {frame: workspace.preview.mask(segmentID, frame) for frame in left}
        workspace.preview.clear(segmentID)
        for frame, mask in kept.items():
            if mask is not None:
                workspace.preview.write(segmentID, frame, mask, refresh=False)
        workspace.preview.refresh()

    def lookForEdits(self) -> None:
        """Notice slices that the user edited, and runs that were undone; the strip then shows them."""
        workspace = self._workspace
        if workspace is None or not workspace.isInScene:
            return
        try:
            for segmentID in workspace.segmentIDs:
                # Looking through a segment takes a moment: those that were never worked on are left out.
                if segmentID == self._segmentID or not workspace.prompts.segment(segmentID).is_empty:
                    workspace.edits(segmentID)
        except SAM2PropagateError as error:  # the volume cannot be used any more
            self._fail(error)
        self._mergeEdits()
        self.changed.emit(None)

    def _segmentsChanged(self) -> None:
        if self._isApplying:
            return
        workspace = self._workspace
        if workspace is not None:
            workspace.restylePreview()
        if workspace is not None and workspace.segmentIDs != self._knownSegments:
            self._otherSegments(workspace)
            self.changed.emit(None)
        if self._whenIdle is not None:
            self._whenIdle()

    def _otherSegments(self, workspace: Workspace) -> None:
        """Segments were added or removed, here or elsewhere."""
        before, now = self._knownSegments, workspace.segmentIDs
        self._knownSegments = now
        try:
            for segmentID in set(before) - set(now):
                workspace.removed.went(segmentID)
                self._previews = {key: one for key, one in self._previews.items() if key[0] != segmentID}
                if self._running is not None and segmentID in self._running.segmentIDs:
                    # What the run finds of it until it is back, if it comes back, is lost.
                    workspace.undone.add(segmentID)
            for segmentID in set(now) - set(before):
                workspace.removed.came(segmentID)
            workspace.prompts = workspace.markups.read()
        except SAM2PropagateError as error:
            self._fail(error)
        if self._segmentID not in now:
            self._segmentID = ""

    # --- what comes back

    def poll(self) -> None:
        """Take what the worker has sent; never waits. Called by the ticker."""
        if self._session is None:
            self._ticker.stop()
            return
        self._takeArrived(_BUDGET_SECONDS)
        if not self._waiting:
            self._finishRun()
        if self._isStale:
            self._isStale = False
            self.changed.emit(None)
        if not self.isWaiting:
            self._ticker.stop()

    def _takeArrived(self, budget: float | None = None) -> None:
        """Handles what has arrived; after `budget` seconds the rest is left for the next poll."""
        assert self._session is not None
        self._waiting.extend(self._session.poll())
        end = None if budget is None else time.perf_counter() + budget
        written = False
        while self._waiting:
            written |= self._take(self._waiting.popleft())
            if end is not None and time.perf_counter() >= end:
                break
        if written and self._workspace is not None and self._workspace.isInScene:
            self._workspace.preview.refresh()
            self._style()

    def wait(self, timeout: float = 60.0) -> bool:
        """Poll until nothing is awaited any more, for scripts; False if that took longer than `timeout`
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

    def setPreviewOpacity(self, opacity: float) -> None:
        """How strongly the preview is filled, 0 to 1; its outline stays."""
        self._opacity = float(opacity)
        self._styled = None
        self._style()

    def _style(self) -> None:
        node = self._workspace.previewNode if self._workspace is not None else None
        if node is not None and node is not self._styled and self._opacity is not None:
            node.GetDisplayNode().SetOpacity2DFill(self._opacity)
            self._styled = node

    def _tick(self) -> None:
        self._ticker.start()

    def _take(self, update: Update) -> bool:
        """Handles one update; whether the preview was written."""
        call, event = update.call, update.event
        if isinstance(event, FrameEvent):
            return self._takeFrame(call, event)
        if isinstance(event, ProgressEvent):
            self._takeProgress(call, event)
        elif isinstance(event, ErrorEvent):
            self._takeError(call, event)
        elif isinstance(event, LogEvent) and event.level in ("error", "critical"):
            self._say("warning", event.text, "worker_log")
        if call is not None and call.is_finished:
            if call.kind == "load_model" and not isinstance(event, ProgressEvent):
                # Nothing else would take its text away before the next run.
                self.progress.emit(Progress(0, 0, None, None, ""))
            self._isStale |= call.kind in ("load_model", "preview")
            self._previews = {key: one for key, one in self._previews.items() if one is not call}
            if self._workspace is not None:
                self._workspace.underlay.keepAsked(self._previews)
        return False

    def _takeFrame(self, call: Call | None, event: FrameEvent) -> bool:
        workspace = self._workspace
        if workspace is None or not workspace.isInScene or event.segment not in workspace.segmentIDs:
            return False
        key = (event.segment, event.frame)
        if isinstance(call, PreviewCall):
            if self._previews.get(key) is not call:
                return False
        elif self._running is None or call is not self._running.call or key in self._running.overtaken:
            return False
        else:
            if event.frame in workspace.marked(event.segment)[1]:
                return False
            self._running.frames.add(key)
        if OpenVolumes.name(workspace.volumeNode, workspace.axis) != event.volume:
            return False
        try:
            workspace.preview.write(event.segment, event.frame, event.mask, refresh=False)
        except InputError as error:  # the volume has changed its size under the run
            self._fail(error)
            return False
        if isinstance(call, PreviewCall):
            workspace.underlay.answered(key)
        else:
            workspace.underlay.arrived(key)
        facts = FrameFacts(event.kind, event.doubt, event.predicted_iou, event.object_score)
        workspace.memory.put(event.segment, event.frame, facts, workspace.geometry, workspace.axis)
        self.frameArrived.emit(FrameArrived(event.segment, event.frame, event.kind, event.doubt))
        return True

    def _takeProgress(self, call: Call | None, event: ProgressEvent) -> None:
        if self._running is not None and call is self._running.call:
            text = runText(event)
        elif call is not None and call.kind == "load_model":
            text = _("Loading the model: {what}").format(what=event.text) if event.text else _("Loading")
        else:
            return
        self.progress.emit(
            Progress(event.done, event.total, event.frames_per_second, event.seconds_left, text)
        )

    def _takeError(self, call: Call | None, event: ErrorEvent) -> None:
        if isinstance(call, PreviewCall):
            key = next((key for key, one in self._previews.items() if one is call), None)
            if key is None or call.state == "cancelled":
                return
            if not isinstance(event.error, InputError):
                self._lost.add(key)
        if call is not None and call.is_cancel_requested:
            return  # of a run that is over for the user
        self._fail(call.error if call is not None and call.error is not None else event.error, event.log)

    def _finishRun(self) -> None:
        if self._running is not None and self._running.call.is_finished:
            self._endRun(self._running.call.state)

    def _endRun(self, state: str) -> None:
        running, workspace = self._running, self._workspace
        if running is None:
            return
        self._running = None
        applied = False
        if workspace is not None and workspace.isInScene:
            if state != "done":
                workspace.undone |= set(running.segmentIDs)
            if state == "done" and self._choices.applyAutomatically:
                self._mergeEdits()
                # On the others a newer preview is there, or on its way.
                applied = self._commit(running.frames - running.overtaken) is not None
                self._tellOfOvertaken(workspace, running.overtaken)
            workspace.underlay.end()
            workspace.memory.save()
        self.finished.emit(RunEnd(state, running.segmentIDs, len(running.frames), applied))
        self.changed.emit(None)

    def _tellOfOvertaken(self, workspace: Workspace, frames: set[tuple[str, int]]) -> None:
        """Frames on which the user spoke during a run that has been applied: the segment lacks them."""
        waiting = {key for key, call in self._previews.items() if not call.is_finished}
        count = sum(key[1] in workspace.previewFrames(key[0]) or key in waiting for key in frames)
        if count == 1:
            text = _("One slice with newer prompts is still a preview: propagate again, or apply it.")
        elif count:
            text = _("{count} slices with newer prompts are still a preview: propagate again, or apply them.")
        else:
            return
        self._say("info", text.format(count=count), "newer_prompts")

    # --- messages

    def _say(self, level: str, text: str, code: str = "", log: tuple[str, ...] = ()) -> None:
        self.message.emit(Message(level, text, code, log))

    def _fail(self, error: SAM2PropagateError, log: tuple[str, ...] = ()) -> None:
        # A worker's end fails everything that it was asked; once is enough to hear of it.
        if error.code in self._toldOf and not isinstance(error, InputError):
            return
        self._toldOf.add(error.code)
        level = "warning" if isinstance(error, InputError) else "error"
        self._say(level, str(error), error.code, log)

    def _require(self) -> Workspace:
        if self._workspace is None:
            raise InputError(
                "nothing_selected",
                _("No volume and segmentation are selected."),
                _("Select a volume and a segmentation first."),
            )
        return self._workspace

    def _segment(self) -> str:
        if self._segmentID not in self._require().segmentIDs:
            raise InputError("no_segment", _("No segment is selected."), _("Add or select a segment first."))
        return self._segmentID
