"""From the preview into the segments, and what the user edits there by hand: applied, merged, undone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set

from SAM2PropagateLib.app import keyframes, rules
from SAM2PropagateLib.app.shared import Shared
from SAM2PropagateLib.app.situation import Situation
from SAM2PropagateLib.app.underlay import SegmentFrame
from SAM2PropagateLib.app.workspace import Merged, Workspace
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.prompts.place import mask_at
from SAM2PropagateLib.scene.commit import CommitSummary
from SAM2PropagateLib.scene.smooth import FrameDetail
from SAM2PropagateLib.texts import plural
from SAM2PropagateLib.texts import tr as _

_log = logging.getLogger(__name__)


class Applying:
    """Writes the preview into the segments, and brings it together with the user's own edits.

    Args:
        situation: whether the preview may be applied now.
    """

    def __init__(
        self,
        shared: Shared,
        situation: Situation,
    ) -> None:
        self._selection = shared.selection
        self._messages = shared.messages
        self._situation = situation
        self._running = shared.running
        self._steps = shared.steps
        self._changed = shared.signals.changed
        self._isApplying = False
        self._toldOfVoxels: set[tuple[str, tuple[float, float, float]]] = set()

    @property
    def isApplying(self) -> bool:
        """Whether a result is being written into the segments right now."""
        return self._isApplying

    # --- the preview

    def apply(self) -> CommitSummary | None:
        """Writes the preview into the segments, as one undo step; None if there is nothing or it failed."""
        if self._situation.refuses(rules.APPLY):
            return None
        workspace = self._selection.require()
        count = sum(len(workspace.previewFrames(one)) for one in workspace.segmentIDs)
        with self._steps.step(_applied(count)):
            merged, rest = self.mergeEdits(), self.commit(None)
        return rest if merged is None else merged if rest is None else merged + rest

    def discard(self) -> None:
        """Drops the preview; segments and prompts stay."""
        if self._situation.refuses(rules.DISCARD):
            return
        workspace = self._selection.require()
        with self._steps.step(_("discard preview")):
            for segmentID in workspace.segmentIDs:
                workspace.keptFacts.dropPreview(segmentID)
                if workspace.previewFrames(segmentID):
                    workspace.undone.add(segmentID)
                    workspace.preview.clear(segmentID)
            workspace.keptFacts.save()
        self._changed.emit(None)

    def commit(
        self, only: Set[SegmentFrame] | None, merged: Mapping[SegmentFrame, FrameDetail] | None = None
    ) -> CommitSummary | None:
        """Writes preview frames into the segments; None if there are none, or it failed.

        Args:
            only: these frames; None: all. merged: details of those that hold what the user edited.
        """
        workspace = self._selection.require()
        masks, details = {}, {}
        for segmentID in workspace.segmentIDs:
            frames = {
                frame: mask
                for frame in workspace.previewFrames(segmentID)
                if (only is None or (segmentID, frame) in only)
                and (mask := workspace.preview.seen(segmentID, frame)) is not None
            }  # fmt: skip
            if frames:
                masks[segmentID] = frames
                details[segmentID] = {
                    frame: (merged or {}).get((segmentID, frame))
                    or FrameDetail(workspace.preview.edge(segmentID, frame))
                    for frame in frames
                }
        if not masks:
            return None
        self._isApplying = True
        try:
            openEdits = workspace.openEdits()
            workspace.noteState(masks)
            summary = workspace.committer.commit(masks, workspace.axis, details)
        except SAM2PropagateError as error:
            self._messages.fail(error)
            return None
        except Exception as error:  # of Slicer's own code: the user must not be left without a word
            _log.exception("A result could not be written")
            self._messages.fail(
                SAM2PropagateError(
                    "commit_failed",
                    _("The result could not be written into the segment ({kind}: {error}).").format(
                        kind=type(error).__name__, error=error
                    ),
                    _("It is still in the preview. Press Apply to try again."),
                )
            )
            return None
        finally:
            self._isApplying = False
        for segmentID, frames in masks.items():
            _takeOut(workspace, segmentID, set(frames))
            workspace.keptFacts.apply(segmentID, frames)
        workspace.remember(masks, openEdits)
        workspace.keptFacts.save()
        if self._running.isOn:
            # Else it is kept with `changed`: what is in the segment must not come back over it.
            workspace.keepPreview()
        if summary.protected:
            self._messages.say(
                "info",
                plural(
                    summary.protected,
                    _("{count} voxel is protected by the Segment Editor's masking and did not change."),
                    _("{count} voxels are protected by the Segment Editor's masking and did not change."),
                ).format(count=summary.protected),
                "protected",
            )
        self._tellOfCoarseVoxels(workspace, summary)
        self._changed.emit(None)
        return summary

    def _tellOfCoarseVoxels(self, workspace: Workspace, summary: CommitSummary) -> None:
        """Says once of a segmentation that its voxels are too large for the masks."""
        name, voxel = workspace.segmentationID, summary.coarseVoxel
        if voxel is None or (name, voxel) in self._toldOfVoxels:
            return
        self._toldOfVoxels.add((name, voxel))
        sizes = (" × ".join(f"{length:.3g}" for length in one) for one in (voxel, workspace.geometry.spacing))
        own, volume = sizes
        self._messages.say(
            "warning",
            _(
                "The voxels of “{segmentation}” ({own} mm) are larger than those of “{volume}” ({size} mm): "
                "its segments are coarser than the preview. To change that, choose “{volume}” as its source "
                "geometry in the Segment Editor, with the button beside the source volume."
            ).format(
                segmentation=workspace.segmentationNode.GetName(),
                own=own,
                volume=workspace.volumeNode.GetName(),
                size=volume,
            ),
            "coarse_segmentation",
        )

    # --- the user's own edits

    def editBegins(self) -> None:
        """The user takes up a tool of the Segment Editor: the chosen segment's preview is applied, so that
        what they paint and erase on is what they see.
        """
        workspace = self._selection.workspace
        if workspace is None or self._selection.segmentID not in workspace.segmentIDs:
            return
        if self._steps.settle():
            self._changed.emit(None)
        self.mergeEdits()
        segmentID = self._selection.segmentID
        shown = {(segmentID, frame) for frame in workspace.previewFrames(segmentID)}
        with self._steps.step(_applied(len(shown))):
            done = bool(shown) and self.commit(shown) is not None
        if done:
            self._messages.say(
                "info",
                _("The preview was applied, so that you edit what you see. Use Undo to revert."),
                "applied_for_edit",
            )

    def lookForEdits(self, merges: bool = True) -> None:
        """Notices slices that the user edited, and runs that were undone; the strip then shows them.

        Args:
            merges: brings edits and preview together.
        """
        workspace = self._selection.workspace
        if workspace is None or not workspace.isInScene:
            return
        try:
            for segmentID in workspace.segmentIDs:
                # Looking through a segment takes a moment: those that were never worked on are left out.
                isChosen = segmentID == self._selection.segmentID
                if isChosen or not workspace.prompts.segment(segmentID).is_empty:
                    workspace.edits(segmentID)
        except SAM2PropagateError as error:  # the volume cannot be used any more
            self._messages.fail(error)
        if merges:
            self.mergeEdits()
        self._changed.emit(None)

    def mergeEdits(self) -> CommitSummary | None:
        """Where the user edited a segment under its preview: brings both together, as a keyframe, and writes
        that into the segment; None if there was no such place, or it failed.
        """
        workspace = self._selection.require()
        self._steps.settle()
        if not workspace.hasPreview:
            return None
        try:
            merged = {segmentID: workspace.painted(segmentID) for segmentID in workspace.segmentIDs}
            if not any(merged.values()):
                return None
            with self._steps.merging():
                frames = self._withEdits(workspace, merged)
                summary = self.commit(frames.keys(), frames)
                if summary is not None:
                    workspace.renewEdited(frames.keys())
        except SAM2PropagateError as error:  # the volume cannot be used any more
            self._messages.fail(error)
            return None
        return summary

    def _withEdits(
        self, workspace: Workspace, merged: Mapping[str, Mapping[int, Merged]]
    ) -> dict[SegmentFrame, FrameDetail]:
        """Puts what the user edited under the preview into it, and makes keyframes of it; where that was."""
        geometry, axis = workspace.geometry, workspace.axis
        frames = {
            (segmentID, frame): one.detail
            for segmentID, masks in merged.items()
            for frame, one in masks.items()
        }
        for segmentID, masks in merged.items():
            said = workspace.prompts.segment(segmentID)
            locked = workspace.marked(segmentID)[1]
            for frame, one in masks.items():
                mask = one.mask
                workspace.preview.write(segmentID, frame, mask, refresh=False, edge=one.detail.edge)
                if frame not in locked:
                    name = keyframes.maskId(keyframes.EDITED, frame, axis)
                    said = workspace.withMask(said, mask_at(mask, frame, geometry, axis, name), frame)
            workspace.underlay.put(segmentID, dict.fromkeys(masks))
            workspace.write(said)
        self._running.overtake(set(frames))
        return frames


def _applied(count: int) -> str:
    return plural(count, _("apply ({count} slice)"), _("apply ({count} slices)")).format(count=count)


def _takeOut(workspace: Workspace, segmentID: str, frames: set[int]) -> None:
    """Takes frames out of the preview, all at once."""
    left = workspace.previewFrames(segmentID) - frames
    preview = workspace.preview
    kept = {frame: (preview.mask(segmentID, frame), preview.edge(segmentID, frame)) for frame in left}
    preview.clear(segmentID)
    for frame, (mask, edge) in kept.items():
        if mask is not None:
            preview.write(segmentID, frame, mask, refresh=False, edge=edge)
    workspace.preview.refresh()
