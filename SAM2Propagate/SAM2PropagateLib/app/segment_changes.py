"""Adds and removes segments, and handles changes that are made elsewhere in Slicer."""

from __future__ import annotations

from typing import Any

from SAM2PropagateLib.app.applying import Applying
from SAM2PropagateLib.app.events import Editing
from SAM2PropagateLib.app.previews import Previews
from SAM2PropagateLib.app.shared import Shared
from SAM2PropagateLib.app.workspace import Workspace
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.texts import tr as _


def prepareSegmentation(segmentationNode: Any, volumeNode: Any) -> str:
    """Gives a new, empty segmentation the volume's grid and its first segment; the segment's ID."""
    segmentationNode.CreateDefaultDisplayNodes()
    if volumeNode is not None:
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    return str(segmentationNode.GetSegmentation().AddEmptySegment("", ""))


class SegmentChanges:
    """Adds and removes segments, and handles changes of them.

    Args:
        applying: makes changes that are not the user's edits.
        previews: drops those of a removed segment.
        editing: schedules the look for edits.
    """

    def __init__(
        self,
        shared: Shared,
        applying: Applying,
        previews: Previews,
        editing: Editing,
    ) -> None:
        self._selection = shared.selection
        self._messages = shared.messages
        self._running = shared.running
        self._applying = applying
        self._previews = previews
        self._steps = shared.steps
        self._editing = editing
        self._changed = shared.signals.changed

    def add(self) -> str:
        """Adds an empty segment; returns its ID, "" without a segmentation."""
        if self._selection.workspace is None:
            return ""
        with self._steps.step(_("add segment")):
            return str(self._selection.segmentationNode.GetSegmentation().AddEmptySegment("", ""))

    def remove(self) -> bool:
        """Removes the chosen segment, as one undo step. Returns False if there is none or it failed."""
        workspace, segmentID = self._selection.workspace, self._selection.segmentID
        if workspace is None or segmentID not in workspace.segmentIDs:
            return False
        try:
            with self._steps.step(_("remove segment")):
                workspace.committer.removeSegment(segmentID)
        except SAM2PropagateError as error:
            self._messages.fail(error)
            return False
        return True

    def follow(self) -> None:
        """Handles any change in the segmentation."""
        if self._applying.isWriting:
            return
        workspace = self._selection.workspace
        if workspace is not None:
            workspace.shown.restyle()
        if workspace is not None and workspace.segmentIDs != workspace.knownSegments:
            self._followList(workspace)
            self._changed.emit(None)
        for tell in (self._editing.whenIdle, self._editing.whenEdited):
            if tell is not None:
                tell()

    def _followList(self, workspace: Workspace) -> None:
        """Handles added and removed segments."""
        before, now = workspace.knownSegments, workspace.segmentIDs
        workspace.knownSegments = now
        try:
            for segmentID in set(before) - set(now):
                workspace.removed.went(segmentID)
                self._previews.forgetSegment(segmentID)
                if segmentID in self._running.segmentIDs:
                    # A run's masks of a segment that is not there cannot be kept.
                    workspace.handEdits.lose((segmentID,))
            for segmentID in set(now) - set(before):
                workspace.removed.came(segmentID)
            workspace.promptStore.read()
        except SAM2PropagateError as error:
            self._messages.fail(error)
        if self._selection.segmentID not in now:
            self._selection.segmentID = ""
