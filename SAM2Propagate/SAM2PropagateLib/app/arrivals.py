"""Handles the worker's answers: masks go into the preview, progress and errors to the user."""

from __future__ import annotations

from SAM2PropagateLib.app.events import FrameArrived, Progress
from SAM2PropagateLib.app.kept_facts import placeOf
from SAM2PropagateLib.app.previews import Previews
from SAM2PropagateLib.app.shared import Shared
from SAM2PropagateLib.app.strip import FrameFacts, Withheld
from SAM2PropagateLib.app.underlay import SegmentFrame
from SAM2PropagateLib.app.volumes import OpenVolumes
from SAM2PropagateLib.app.wording import runText, uploadText
from SAM2PropagateLib.app.worker_link import WorkerLink
from SAM2PropagateLib.app.workspace import Workspace
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.texts import tr as _
from SAM2PropagateLib.worker.calls import Call, PreviewCall, Update
from SAM2PropagateLib.worker.messages import ErrorEvent, FrameEvent, LogEvent, ProgressEvent


class Arrivals:
    """Handles the worker's updates, in order.

    Args:
        worker: whose updates they are.
        previews: knows which masks are still wanted.
    """

    def __init__(
        self,
        shared: Shared,
        worker: WorkerLink,
        previews: Previews,
    ) -> None:
        self._selection = shared.selection
        self._messages = shared.messages
        self._worker = worker
        self._running = shared.running
        self._previews = previews
        self._frameArrived = shared.signals.frameArrived
        self._progress = shared.signals.progress
        self._isStale = False
        # A request before the run, such as loading the model: its progress is shown until the run begins.
        self._told: Call | None = None
        # The request whose masks do not fit the volume any more; the user was told once.
        self._unplaced: Call | None = None

    def take(self, seconds: float | None = None) -> bool:
        """Handles what has arrived, for so many seconds at most; the rest stays for the next call. Returns
        whether a preview of prompts was among it."""
        written: set[str] = set()
        for update in self._worker.updates(seconds):
            if self._take(update) and update.call is not None:
                written.add(update.call.kind)
        workspace = self._selection.workspace
        if written and workspace is not None and workspace.isInScene:
            workspace.preview.refresh()
        return "preview" in written

    def takeStale(self) -> bool:
        """Tells whether widgets may be out of date since the last call of this."""
        isStale, self._isStale = self._isStale, False
        return isStale

    def _take(self, update: Update) -> bool:
        """Handles one update; returns whether the preview was written."""
        call, event = update.call, update.event
        if isinstance(event, FrameEvent):
            return self._takeFrame(call, event)
        if isinstance(event, ProgressEvent):
            self._takeProgress(call, event)
        elif isinstance(event, ErrorEvent):
            self._takeError(call, event)
        elif isinstance(event, LogEvent) and event.level in ("error", "critical"):
            self._messages.say("warning", event.text, "worker_log")
        if call is not None and call.is_finished:
            if call is self._told and not isinstance(event, ProgressEvent):
                # Its progress text would stay until the next run.
                self._told = None
                self._progress.emit(Progress(0, 0, None, None, ""))
            if call.kind == "load_model" and call.state == "done":
                self._tellOfNoGPU()
            self._isStale |= call.kind in ("load_model", "preview")
            self._previews.finished(call)
        return False

    def _tellOfNoGPU(self) -> None:
        host, isChosen = self._worker.host, self._selection.choices.device == "cpu"
        if host and self._worker.device == "cpu" and not isChosen:
            text = _("PyTorch finds no GPU on {host}: its processor computes, which is slow.")
            self._messages.say("warning", text.format(host=host), "no_gpu")

    def _takeFrame(self, call: Call | None, event: FrameEvent) -> bool:
        workspace = self._selection.workspace
        if workspace is None or not workspace.isInScene or event.segment not in workspace.segmentIDs:
            return False
        key, isOfRun = (event.segment, event.frame), not isinstance(call, PreviewCall)
        if isinstance(call, PreviewCall):
            if not self._previews.expects(call, key):
                return False
        elif not self._running.isOf(call):
            return False
        try:
            geometry = workspace.geometry
            if isOfRun and not self._isUpToDate(workspace, key):
                workspace.handEdits.stale.add(key)
                return False
            if OpenVolumes.name(workspace.volumeNode, workspace.axis) != event.volume:
                if isOfRun:
                    workspace.handEdits.lose((event.segment,))
                return False
            if not self._worker.fits(workspace.volumeNode, workspace.axis, isOfRun):
                raise workspace.shown.ofEarlierImage()
            workspace.preview.write(event.segment, event.frame, event.mask, refresh=False, edge=event.edge)
        except InputError as error:  # the volume was bent or got another image under the run
            if isOfRun:
                # The worker takes it as written.
                workspace.handEdits.lose((event.segment,))
            if call is not self._unplaced:
                self._unplaced = call
                self._messages.failOnce(error)
            return False
        if isOfRun:
            self._running.arrived(key)
            workspace.underlay.arrived(key)
        else:
            workspace.underlay.answered(key)
        withheld = None if event.withheld is None else Withheld(event.withheld, placeOf(geometry))
        facts = FrameFacts(event.kind, event.doubt, event.predicted_iou, event.object_score, withheld)
        workspace.keptFacts.putPreview(event.segment, event.frame, facts, geometry, workspace.axis)
        self._messages.answered(call)
        if event.note and isinstance(call, PreviewCall):
            self._messages.sayForNow("info", str(event.note), "stroke_kept")
        self._frameArrived.emit(FrameArrived(event.segment, event.frame, event.kind, event.doubt))
        return True

    def _isUpToDate(self, workspace: Workspace, key: SegmentFrame) -> bool:
        """Tells whether the run's mask of a frame counts: prompts there are not newer than the run, or they
        have come and gone."""
        if key in self._running.overtaken:
            if self._running.wasPrompted(key) or not workspace.promptStore.isSilent(*key):
                return False
            self._running.catchUp(key)
        segmentID, frame = key
        return frame not in workspace.promptStore.marked(segmentID)[1]

    def _takeProgress(self, call: Call | None, event: ProgressEvent) -> None:
        if self._running.isOf(call):
            text = runText(event)
        elif call is not None and call.kind == "open_volume":
            text = uploadText(event)
        elif call is not None and call.kind == "load_model":
            text = _("Loading the model: {what}").format(what=event.text) if event.text else _("Loading")
        else:
            return
        self._told = None if self._running.isOf(call) else call
        self._progress.emit(
            Progress(event.done, event.total, event.frames_per_second, event.seconds_left, text)
        )

    def _takeError(self, call: Call | None, event: ErrorEvent) -> None:
        if isinstance(call, PreviewCall) and not self._previews.failed(call, event.error):
            return
        if call is not None and call.is_cancel_requested:
            return  # of a run that is over for the user
        error = call.error if call is not None and call.error is not None else event.error
        self._messages.fail(error, event.log, isOfWorker=True)
