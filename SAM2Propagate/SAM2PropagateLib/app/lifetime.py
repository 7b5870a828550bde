"""Opens and closes the workspace: on another choice, when its nodes are removed, and at the end."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import slicer

from SAM2PropagateLib.app.observing import Observers
from SAM2PropagateLib.app.pointing import Pointing
from SAM2PropagateLib.app.runs import Runs
from SAM2PropagateLib.app.shared import Shared
from SAM2PropagateLib.app.worker_link import WorkerLink
from SAM2PropagateLib.app.workspace import Listeners
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.scene.markups import removeOrphans
from SAM2PropagateLib.texts import tr as _


class Lifetime:
    """Opens and closes the workspace of the chosen nodes, and ends what is under way on it.

    Args:
        worker: has the volume open.
        runs, pointing: are ended with the workspace.
        listeners: are called when others change something in it.

    The preview is kept in the scene whenever `changed` is emitted.
    """

    def __init__(
        self,
        shared: Shared,
        worker: WorkerLink,
        runs: Runs,
        pointing: Pointing,
        listeners: Listeners,
    ) -> None:
        self._selection = shared.selection
        self._messages = shared.messages
        self._worker = worker
        self._running = shared.running
        self._turns = shared.turns
        self._runs = runs
        self._pointing = pointing
        self._listeners = listeners
        self._finished = shared.signals.finished
        self._changed = shared.signals.changed
        self._observers = Observers()
        # Until the scene is closed: a segmentation may also be removed after its workspace was closed.
        self._sceneObservers = Observers()
        self._scene: Any = None
        self._segmentations = -1
        # The nodes of the preview that the user was last told is kept.
        self._kept: tuple[Any, Any] | None = None
        self._changed.connect(self._keepPreview)

    def select(self, volumeNode: Any, segmentationNode: Any, segmentID: str) -> None:
        """Opens the workspace of these nodes; see `Controller.select`."""
        chosen = self._selection
        before = (chosen.volumeNode, chosen.segmentationNode, chosen.segmentID, chosen.workspace)
        if before[:3] != (volumeNode, segmentationNode, segmentID):
            self._messages.goOn()
        if volumeNode is not chosen.volumeNode or segmentationNode is not chosen.segmentationNode:
            if self._leave():
                self._kept = (chosen.volumeNode, chosen.segmentationNode)
                self._messages.say(
                    "info",
                    _(
                        "The preview of “{segmentation}” on “{volume}” is not applied yet. It is kept: "
                        "choose both again to see it."
                    ).format(
                        segmentation=chosen.segmentationNode.GetName(), volume=chosen.volumeNode.GetName()
                    ),
                    "preview_kept",
                )
            chosen.volumeNode, chosen.segmentationNode = volumeNode, segmentationNode
        if segmentID != chosen.segmentID:
            self._pointing.forgetRangeStart()
        chosen.segmentID = segmentID
        self._followScene()
        self._enter()
        if chosen.workspace is not None:
            chosen.workspace.markups.choose(segmentID or None)
        if before != (volumeNode, segmentationNode, segmentID, chosen.workspace):
            self._changed.emit(None)

    def close(self, timeout: float | None) -> None:
        """Ends everything, the worker included.

        Args:
            timeout: seconds that the worker may take to end by itself.
        """
        self._leave()
        self._sceneObservers.clear()
        self._scene = self._kept = None
        self._worker.close(timeout)
        self._selection.volumeNode = self._selection.segmentationNode = None

    def _enter(self) -> None:
        """Opens the workspace, if there is none and both nodes can be used."""
        try:
            if not self._selection.open(self._listeners):
                return
        except SAM2PropagateError as error:
            self._messages.say("error", str(error), error.code)
            return
        workspace = self._selection.require()
        if workspace.segmentIDs:
            # Else the first segment that a new segmentation gets would be a step.
            workspace.states.keep()
        try:
            workspace.shown.showKept()
        except SAM2PropagateError as error:
            self._messages.say("warning", str(error), error.code)
        scene = workspace.segmentationNode.GetScene()
        self._observers.add(scene, slicer.vtkMRMLScene.NodeRemovedEvent, self._nodesRemoved)
        self._observers.add(scene, slicer.vtkMRMLScene.StartCloseEvent, self._sceneCloses)

    def _leave(self, keepsPreview: bool = True) -> bool:
        """Closes the workspace; returns whether a preview was kept for later."""
        self._observers.clear()
        self._pointing.stop()
        workspace = self._selection.workspace
        # What was begun is finished first, but not for a scene that is closed.
        if workspace is not None and workspace.isInScene and keepsPreview:
            self._turns.finish()
        else:
            self._turns.drop()
        workspace = self._selection.takeWorkspace()
        ended = self._runs.abandon()
        if workspace is None:
            return False
        hasKept = False
        if workspace.isInScene and keepsPreview:
            with contextlib.suppress(SAM2PropagateError):  # reported when the volume is needed
                # The preview is kept as one of the image that the volume holds now.
                workspace.settle()
            hasKept = workspace.shown.keep()
            workspace.keptFacts.save()
        workspace.close()
        self._worker.forgetVolume(workspace.volumeID)
        if ended is not None:
            self._finished.emit(ended)
        return hasKept

    def _followScene(self) -> None:
        """Observes the workspace's scene, to remove what a removed segmentation leaves behind."""
        nodes = (self._selection.segmentationNode, self._selection.volumeNode)
        scene = next((one.GetScene() for one in nodes if one is not None), None)
        if scene is None or scene is self._scene:
            return
        self._sceneObservers.clear()
        self._scene = scene
        for event in (slicer.vtkMRMLScene.NodeRemovedEvent, slicer.vtkMRMLScene.EndBatchProcessEvent):
            self._sceneObservers.add(scene, event, self._tidyUp)
        self._sceneObservers.add(scene, slicer.vtkMRMLScene.StartCloseEvent, self._forgetKept)

    def _tidyUp(self) -> None:
        """Removes the prompts of removed segmentations."""
        if self._scene.IsBatchProcessing():  # loading or closing; its end comes here, too
            return
        kept = self._kept
        if kept is not None and any(node.GetScene() is None for node in kept):
            self._kept = None
            # The message that the preview is kept is wrong now.
            self._messages.say("info", _("The preview was removed with its volume or segmentation."), "gone")
        count = self._scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
        if count != self._segmentations:
            self._segmentations = count
            removeOrphans(self._scene)

    def _forgetKept(self) -> None:
        self._kept = None

    def _nodesRemoved(self) -> None:
        workspace = self._selection.workspace
        if workspace is None or workspace.isInScene:
            return
        scene = workspace.segmentationNode.GetScene() or workspace.volumeNode.GetScene()
        lostSegmentation = workspace.segmentationNode.GetScene() is None
        self._kept = None
        hadPreview = workspace.hasPreview
        self._leave()
        if lostSegmentation:
            self._selection.segmentationNode, self._selection.segmentID = None, ""
            if scene is not None:
                removeOrphans(scene)
        else:
            self._selection.volumeNode = None
            if hadPreview:
                self._messages.say(
                    "warning",
                    _("The volume was removed, and its preview with it. Applied segments are unchanged."),
                    "preview_gone",
                )
        self._changed.emit(None)

    def _sceneCloses(self) -> None:
        self._leave(keepsPreview=False)
        self._selection.volumeNode = self._selection.segmentationNode = None
        self._selection.segmentID = ""
        self._changed.emit(None)

    def prepareKept(self, seconds: float) -> None:
        """Packs the frames of a run that have arrived, for about so many seconds; its end keeps them."""
        workspace = self._selection.workspace
        if workspace is not None and workspace.isInScene and self._running.isOn:
            end = time.perf_counter() + seconds
            workspace.shown.prepareKept(lambda: time.perf_counter() >= end)

    def _keepPreview(self, _none: None = None) -> None:
        """Keeps the preview in the scene, so that saving the scene saves it."""
        workspace = self._selection.workspace
        # During a run every slice would be packed on its own; its end comes here as well.
        if workspace is not None and workspace.isInScene and not self._running.isOn:
            workspace.shown.keep()
