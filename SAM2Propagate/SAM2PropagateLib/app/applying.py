"""Writes the preview into the segments, and merges it with the user's own edits there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from SAM2PropagateLib.app import keyframes, rules
from SAM2PropagateLib.app.shared import Shared
from SAM2PropagateLib.app.shown_preview import Merged
from SAM2PropagateLib.app.situation import Situation
from SAM2PropagateLib.app.turns import Work
from SAM2PropagateLib.app.underlay import SegmentFrame
from SAM2PropagateLib.app.workspace import Workspace
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.prompts.place import mask_at
from SAM2PropagateLib.scene.commit import CommitPlan, CommitSummary
from SAM2PropagateLib.scene.smooth import FrameDetail
from SAM2PropagateLib.texts import plural
from SAM2PropagateLib.texts import tr as _

_log = logging.getLogger(__name__)
# Frames of the preview that are packed between two pauses.
PACKED_AT_ONCE = 8
# How often a plan is made again because something changed meanwhile.
_MOST_TRIES = 4


@dataclass(frozen=True, eq=False)
class Ahead:
    """A commit that was computed before it is written.

    Attributes:
        stamp: changes with the masks that it was computed from.
    """

    stamp: object
    plan: CommitPlan


@dataclass(frozen=True, eq=False)
class _Gathered:
    """The preview frames to write: masks and details per segment and frame."""

    masks: dict[str, dict[int, Any]]
    details: dict[str, dict[int, FrameDetail]]
    stamp: object


class _Few:
    """Is True from the n-th call on."""

    def __init__(self, n: int) -> None:
        self._left = n

    def __call__(self) -> bool:
        self._left -= 1
        return self._left <= 0


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
        self._begun = shared.signals.applying
        self._changed = shared.signals.changed
        self._isWriting = False
        self._written: CommitSummary | None = None
        self._toldOfVoxels: set[tuple[str, tuple[float, float, float]]] = set()

    @property
    def isWriting(self) -> bool:
        """Whether a result is being written into the segments right now."""
        return self._isWriting

    # --- the preview

    def apply(self) -> CommitSummary | None:
        """Writes the preview into the segments, as one undo step; None if there is nothing or it failed."""
        written = None
        if self._steps.turns.isOn:
            self._written = None
            self._steps.turns.finish()
            written = self._written
            workspace = self._selection.workspace
            # The end of a run leaves frames with newer prompts in the preview.
            if written is not None and (workspace is None or not workspace.hasPreview):
                return written
        if self._situation.refuses(rules.APPLY):
            return written
        return _both(written, self._apply(None))

    def begin(self) -> bool:
        """Starts to apply in short turns, between which Slicer responds. Nothing is written before all of it
        is computed. Returns False, after a message, if the preview cannot be applied.
        """
        if self._situation.refuses(rules.APPLY):
            return False
        self._steps.turns.begin(self._inTurns(self._selection.require()))
        self.tellOfBegin()
        return True

    def tellOfBegin(self) -> None:
        """Emits that applying in turns has begun."""
        self._begun.emit(None)

    def _inTurns(self, workspace: Workspace) -> Work:
        # The panel is drawn first.
        yield True
        yield from self.packing(workspace)
        ahead = yield from self.workingOut(lambda: None)
        yield True
        return (yield from self._steps.turns.undrawn(self._writing(workspace, ahead)))

    def _writing(self, workspace: Workspace, ahead: Ahead | None) -> Work:
        self._apply(ahead, tells=False)
        # The rest only draws the views: for the user it is applied.
        self._steps.turns.hide()
        yield True
        workspace.shown.tidy()
        return lambda: self._changed.emit(None)

    def _apply(self, ahead: Ahead | None, tells: bool = True) -> CommitSummary | None:
        workspace = self._selection.require()
        # Before this step: undoing it would lead to an edit that is not merged, and that would end Redo.
        merged = self.mergeEdits()
        count = sum(len(workspace.previewFrames(one)) for one in workspace.segmentIDs)
        with self._steps.step(_applied(count)):
            rest = self.commit(None, ahead=ahead, tells=tells)
        return _both(merged, rest)

    def packing(self, workspace: Workspace) -> Generator[bool, None, None]:
        """Packs the preview's frames for the undo step, a few at a time."""
        left = True
        while left:
            left = workspace.shown.prepareKept(_Few(PACKED_AT_ONCE))
            yield False

    def workingOut(self, only: Callable[[], Set[SegmentFrame] | None]) -> Generator[bool, None, Ahead | None]:
        """Computes the next `commit` in small steps; None if there is nothing to write, or it would fail.

        Args:
            only: returns the frames, which may change meanwhile; None: all.
        """
        workspace, ahead = self._selection.require(), None
        try:
            for _attempt in range(_MOST_TRIES):
                gathered = self._gather(workspace, only())
                if not gathered.masks:
                    return None
                plan = workspace.committer.plan(gathered.masks, workspace.axis, gathered.details)
                ahead = Ahead(gathered.stamp, plan)
                while plan.step():
                    yield False
                if plan.isUpToDate and self._gather(workspace, only()).stamp == ahead.stamp:
                    break
        except Exception as error:  # reported when it is written
            _log.info("What is to be applied could not be worked out ahead: %s", error)
            return None
        return ahead

    def discard(self) -> None:
        """Drops the preview; segments and prompts stay."""
        if self._situation.refuses(rules.DISCARD):
            return
        workspace = self._selection.require()
        with self._steps.step(_("discard preview")):
            for segmentID in workspace.segmentIDs:
                workspace.keptFacts.dropPreview(segmentID)
                if workspace.previewFrames(segmentID):
                    workspace.handEdits.undone.add(segmentID)
                    workspace.preview.clear(segmentID)
            workspace.keptFacts.save()
        self._changed.emit(None)

    def commit(
        self,
        only: Set[SegmentFrame] | None,
        merged: Mapping[SegmentFrame, FrameDetail] | None = None,
        ahead: Ahead | None = None,
        tells: bool = True,
    ) -> CommitSummary | None:
        """Writes preview frames into the segments; None if there are none, or it failed.

        Args:
            only: these frames; None: all. merged: details of those that hold what the user edited.
            ahead: what was computed for this commit; not used if anything has changed since.
            tells: emit `changed`; else the caller does so, after `WorkspacePreview.tidy`.
        """
        workspace = self._selection.require()
        try:
            gathered = self._gather(workspace, only, merged)
        except SAM2PropagateError as error:  # the volume cannot be used any more
            self._messages.fail(error)
            return None
        masks = gathered.masks
        if not masks:
            return None
        self._isWriting = True
        try:
            openEdits = workspace.handEdits.open()
            workspace.handEdits.noteState(masks)
            if ahead is None or ahead.stamp != gathered.stamp:
                plan = workspace.committer.plan(masks, workspace.axis, gathered.details)
            else:
                plan = ahead.plan
            summary = workspace.committer.carryOut(plan)
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
            self._isWriting = False
        for segmentID, frames in masks.items():
            workspace.shown.takeOut(segmentID, frames, tidies=tells)
            drawn = workspace.keptFacts.apply(segmentID, frames)
            workspace.handEdits.stale.update((segmentID, frame) for frame in drawn)
        workspace.handEdits.stale.update(merged or ())
        workspace.preview.refresh()
        workspace.handEdits.committed(masks, openEdits)
        workspace.keptFacts.save()
        self._written = summary
        if self._running.isOn or not tells:
            # `changed` would keep it in the scene, and it would come back over what is in the segment.
            workspace.shown.keep(tidies=tells)
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
        if tells:
            self._changed.emit(None)
        return summary

    def _gather(
        self,
        workspace: Workspace,
        only: Set[SegmentFrame] | None,
        merged: Mapping[SegmentFrame, FrameDetail] | None = None,
    ) -> _Gathered:
        """Returns the preview frames to write; for the arguments see `commit`."""
        preview, masks, details = workspace.preview, {}, {}
        for segmentID in workspace.segmentIDs:
            frames = {
                frame: mask
                for frame in workspace.previewFrames(segmentID)
                if (only is None or (segmentID, frame) in only)
                and (mask := preview.seen(segmentID, frame)) is not None
            }  # fmt: skip
            if frames:
                masks[segmentID] = frames
                details[segmentID] = {
                    frame: (merged or {}).get((segmentID, frame))
                    or FrameDetail(preview.edge(segmentID, frame))
                    for frame in frames
                }
        written = preview.stamps()
        stamps = {name: {frame: written[name][frame] for frame in frames} for name, frames in masks.items()}
        # The stamp does not cover details of merged frames.
        stamp = (preview, workspace.axis, stamps, object() if merged else None)
        return _Gathered(masks, details, stamp)

    def _tellOfCoarseVoxels(self, workspace: Workspace, summary: CommitSummary) -> None:
        """Warns once that a segmentation's voxels are too large for the masks."""
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
        """Applies the chosen segment's preview when the user takes up a tool of the Segment Editor, so that
        they edit what they see.
        """
        workspace = self._selection.workspace
        if workspace is None or self._selection.segmentID not in workspace.segmentIDs:
            return
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

    def lookForEdits(self, tells: bool = True) -> None:
        """Looks for slices that the user edited and runs that were undone; the strip then shows them.

        Args:
            tells: see `commit`.
        """
        workspace = self._selection.workspace
        if workspace is None or not workspace.isInScene:
            return
        try:
            for segmentID in workspace.segmentIDs:
                # Comparing a segment takes a moment, and one that was never worked on has no edits.
                isChosen = segmentID == self._selection.segmentID
                if isChosen or not workspace.prompts.segment(segmentID).is_empty:
                    workspace.edits(segmentID)
        except SAM2PropagateError as error:  # the volume cannot be used any more
            self._messages.fail(error)
        if tells:
            self._changed.emit(None)

    def mergeEdits(self) -> CommitSummary | None:
        """Merges the user's edits under the preview into it, and writes them into the segment as keyframes;
        None if there were none, or it failed."""
        workspace = self._selection.workspace
        if workspace is None or not workspace.isInScene:
            return None
        try:
            # Prompts and masks are written where the volume is now: what is there must be there, too.
            workspace.settle()
        except SAM2PropagateError as error:
            if workspace.hasPreview:
                self._messages.failOnce(error)
            return None  # without a preview nothing is merged
        self._steps.noteEdits()
        if not workspace.hasPreview:
            return None
        try:
            if not any(workspace.shown.painted(segmentID) for segmentID in workspace.segmentIDs):
                return None
            # Which may have merged it.
            self._steps.turns.finish()
            merged = {segmentID: workspace.shown.painted(segmentID) for segmentID in workspace.segmentIDs}
            if not any(merged.values()):
                return None
            with self._steps.merging((name, frame) for name, frames in merged.items() for frame in frames):
                frames = self._withEdits(workspace, merged)
                summary = self.commit(frames.keys(), frames)
                if summary is not None:
                    workspace.promptStore.renewEdited(frames.keys())
        except SAM2PropagateError as error:  # the volume cannot be used any more
            self._messages.fail(error)
            return None
        return summary

    def _withEdits(
        self, workspace: Workspace, merged: Mapping[str, Mapping[int, Merged]]
    ) -> dict[SegmentFrame, FrameDetail]:
        """Puts the user's edits into the preview, as keyframes; returns their frames."""
        geometry, axis = workspace.geometry, workspace.axis
        frames = {
            (segmentID, frame): one.detail
            for segmentID, masks in merged.items()
            for frame, one in masks.items()
        }
        for segmentID, masks in merged.items():
            said = workspace.prompts.segment(segmentID)
            locked = workspace.promptStore.marked(segmentID)[1]
            for frame, one in masks.items():
                mask = one.mask
                workspace.preview.write(segmentID, frame, mask, refresh=False, edge=one.detail.edge)
                if frame not in locked:
                    name = keyframes.maskId(keyframes.EDITED, frame, axis)
                    said = workspace.promptStore.withMask(
                        said, mask_at(mask, frame, geometry, axis, name), frame
                    )
            workspace.underlay.put(segmentID, dict.fromkeys(masks))
            workspace.promptStore.writeMasks(said)
        self._running.overtake(set(frames))
        return frames


def _both(first: CommitSummary | None, second: CommitSummary | None) -> CommitSummary | None:
    return second if first is None else first if second is None else first + second


def _applied(count: int) -> str:
    return plural(count, _("apply ({count} slice)"), _("apply ({count} slices)")).format(count=count)
