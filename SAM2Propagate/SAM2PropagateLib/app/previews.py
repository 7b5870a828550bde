"""Asks the worker for previews when prompts change, and knows which answers are still wanted."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from SAM2PropagateLib.app import keyframes
from SAM2PropagateLib.app.applying import Applying
from SAM2PropagateLib.app.shared import Shared
from SAM2PropagateLib.app.situation import Situation
from SAM2PropagateLib.app.underlay import SegmentFrame
from SAM2PropagateLib.app.worker_link import WorkerLink
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.prompts.values import PromptSet, SegmentPrompts
from SAM2PropagateLib.texts import tr as _
from SAM2PropagateLib.worker.calls import Call, PreviewCall


class Previews:
    """The previews that the worker was asked for.

    Args:
        situation: tells whether everything is there that a preview needs.
        worker: is asked for the masks.
        applying: writes the preview of a slice that was locked.
    """

    def __init__(
        self,
        shared: Shared,
        situation: Situation,
        worker: WorkerLink,
        applying: Applying,
    ) -> None:
        self._selection = shared.selection
        self._messages = shared.messages
        self._situation = situation
        self._worker = worker
        self._running = shared.running
        self._applying = applying
        self._calls: dict[SegmentFrame, PreviewCall] = {}
        # Lost with a worker that ended: the next one is asked again.
        self._lost: set[SegmentFrame] = set()

    # --- what is asked

    def preview(self, frame: int, segmentID: str | None = None) -> bool:
        """Asks for the mask of one frame from its prompts, of the chosen segment or another one.

        Returns:
            False if the prompts do not say where the structure is, or if the user has painted on the frame
            since: then its mask is what they painted.
        """
        workspace = self._selection.require()
        wanted = segmentID or self._selection.segmentID
        said = keyframes.onFrame(
            workspace.promptStore.effective(wanted), frame, workspace.geometry, workspace.axis
        )
        if not said.has_positive or workspace.promptStore.hasOpenEdit(wanted, frame):
            return False
        self._ask(wanted, frame, said)
        return True

    def follow(self, segmentID: str, frames: set[int]) -> None:
        """Renews the previews of frames whose prompts have changed, and drops those without prompts.

        Raises:
            SAM2PropagateError: the volume cannot be used any more.
        """
        workspace = self._selection.require()
        absent, locked = workspace.promptStore.marked(segmentID)
        accepted = set()
        self._running.overtake({(segmentID, frame) for frame in frames})
        for frame in sorted(frames):
            self._calls.pop((segmentID, frame), None)
            self._lost.discard((segmentID, frame))
            said = keyframes.onFrame(
                workspace.promptStore.effective(segmentID), frame, workspace.geometry, workspace.axis
            )
            if frame in locked:
                if frame in workspace.previewFrames(segmentID):
                    accepted.add((segmentID, frame))
                continue
            if frame not in absent and said.has_positive:
                if not workspace.promptStore.hasOpenEdit(segmentID, frame):
                    self._ask(segmentID, frame, said)
                continue
            self._takeBack(segmentID, frame)
            if frame not in absent and (said.clicks or said.scribbles):
                self._messages.say(
                    "info",
                    _("Slice {number} has only negative clicks. Add a positive click.").format(
                        number=frame + 1
                    ),
                    "only_negative_clicks",
                )
        if accepted:
            # A lock keeps what the user saw, and no run will write it.
            self._applying.commit(accepted)

    def forget(self, keys: Collection[SegmentFrame]) -> None:
        """Drops awaited previews of these frames, and what a run finds for them."""
        self._running.overtake(keys)
        self._lost.difference_update(keys)
        self._calls = {key: call for key, call in self._calls.items() if key not in keys}
        self._selection.require().underlay.keepAsked(self._calls)

    def _takeBack(self, segmentID: str, frame: int) -> None:
        """Takes a frame out of the preview; one that a run left empty there is empty again."""
        workspace = self._selection.require()
        wasEmpty = workspace.keptFacts.takeBack(segmentID, frame)
        if frame in workspace.previewFrames(segmentID):
            if wasEmpty:
                nothing = np.zeros(workspace.geometry.frame_shape(workspace.axis), bool)
                workspace.preview.write(segmentID, frame, nothing)
            else:
                workspace.preview.erase(segmentID, frame)
            workspace.handEdits.undone.add(segmentID)

    def _ask(self, segmentID: str, frame: int, said: SegmentPrompts) -> None:
        workspace = self._selection.require()
        if self._situation.lacksPackages():
            return
        try:
            name = self._worker.ready(
                workspace.volumeNode, workspace.axis, self._selection.choices, isBusy=self._running.isOn
            )
            self._calls[segmentID, frame] = self._worker.session.preview(
                name,
                self._worker.placed(workspace.volumeNode, workspace.axis, PromptSet((said,), workspace.axis)),
                segmentID,
                frame,
                # Waiting previews of other slices are still wanted.
                replaces=not any(key[0] == segmentID and key[1] != frame for key in self.waiting),
                edges=workspace.hasOwnGrid,
            )
        except SAM2PropagateError as error:
            self._messages.fail(error, isOfWorker=not isinstance(error, InputError))
            return
        workspace.underlay.ask((segmentID, frame))
        self._messages.noteRequest(self._calls[segmentID, frame])
        self._worker.startPolling()
        lost, self._lost = self._lost - {(segmentID, frame)}, set()
        for other, otherFrame in sorted(lost):
            if other in workspace.segmentIDs:
                self.preview(otherFrame, other)

    # --- what is awaited

    @property
    def waiting(self) -> set[SegmentFrame]:
        """The frames whose previews have not come yet."""
        return {key for key, call in self._calls.items() if not call.is_finished}

    def expects(self, call: Call | None, key: SegmentFrame) -> bool:
        """Tells whether this call's mask of a frame is still wanted."""
        return self._calls.get(key) is call

    def failed(self, call: Call, error: SAM2PropagateError) -> bool:
        """Handles the failure of a preview; returns whether the preview was still wanted."""
        key = next((key for key, one in self._calls.items() if one is call), None)
        if key is None or call.state == "cancelled":
            return False
        if not isinstance(error, InputError):
            self._lost.add(key)
        return True

    def finished(self, call: Call) -> None:
        """Forgets a call that has ended."""
        self._calls = {key: one for key, one in self._calls.items() if one is not call}
        if self._selection.workspace is not None:
            self._selection.workspace.underlay.keepAsked(self._calls)

    def forgetSegment(self, segmentID: str) -> None:
        """Drops all awaited previews of a segment that was removed."""
        self._calls = {key: one for key, one in self._calls.items() if key[0] != segmentID}

    def clear(self) -> None:
        """Drops all awaited previews."""
        self._calls.clear()
        self._lost.clear()
