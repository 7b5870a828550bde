"""Reads and writes the prompts of a workspace, and decides which of them count."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from SAM2PropagateLib.app import keyframes
from SAM2PropagateLib.app.moment import PromptState
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.prompts.move import moved_segment
from SAM2PropagateLib.prompts.place import mask_at
from SAM2PropagateLib.prompts.values import DRAWN, MaskPrompt, PromptSet, SegmentPrompts
from SAM2PropagateLib.scene.seen_segment import EditedFrame
from SAM2PropagateLib.scene.transforms import parentToWorld

if TYPE_CHECKING:
    from SAM2PropagateLib.app.workspace import Workspace


class WorkspacePrompts:
    """The prompts of a workspace.

    Args:
        workspace: its `markups` hold the prompts in the scene, its `keptFacts` which of them are the history
            of an edited slice.

    Attributes:
        prompts: all of them, as the scene has them.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.prompts = workspace.markups.read()

    def read(self) -> None:
        """Reads the prompts from the scene.

        Raises:
            InputError: as `PromptMarkups.read`.
        """
        self.prompts = self._workspace.markups.read()

    @property
    def _geometry(self) -> VolumeGeometry:
        return self._workspace.geometry

    @property
    def _axis(self) -> int:
        return self._workspace.axis

    def inWorld(self, said: SegmentPrompts) -> SegmentPrompts:
        """Returns prompts in world coordinates."""
        return moved_segment(said, parentToWorld(self._workspace.volumeNode))

    def write(self, *segments: SegmentPrompts) -> None:
        """Writes the prompts of segments into the scene, and reads back what it holds then."""
        wanted = self.prompts
        for one in segments:
            wanted = wanted.with_segment(one)
        self.put(wanted, self.prompts)

    def put(self, prompts: PromptSet, held: PromptSet) -> None:
        """Writes all prompts into the scene, and reads back what it holds then: it rounds boxes to pixels.

        Args:
            held: what the scene holds now.
        """
        wanted = self._present(prompts)
        if wanted != held:
            self._workspace.markups.write(wanted)
            wanted = self._workspace.markups.read()
            self._workspace.keptFacts.save()
        self.prompts = wanted

    def writeMasks(self, said: SegmentPrompts) -> None:
        """Writes the masks of a segment's prompts into the scene. Its other prompts stay there as they are:
        the user may just have changed them.
        """
        self.prompts = self._workspace.markups.writeMasks(self.prompts.with_segment(said))
        self._workspace.keptFacts.save()

    def _present(self, prompts: PromptSet) -> PromptSet:
        """Returns the prompts of segments that still exist."""
        there = self._workspace.segmentIDs
        return replace(prompts, segments=tuple(one for one in prompts.segments if one.segment in there))

    def restore(self, prompts: PromptSet) -> None:
        """Makes the scene hold exactly these prompts, of segments that still exist."""
        prompts = everything = self._present(prompts)
        for segmentID in self._workspace.segmentIDs:
            if segmentID not in prompts.names:
                everything = everything.with_segment(SegmentPrompts(segmentID))
        self._workspace.markups.write(everything)
        self.prompts = self._workspace.markups.read()

    def effective(self, segmentID: str) -> SegmentPrompts:
        """Returns a segment's prompts for the worker, with clicks in the order in which they were made."""
        said = self.prompts.segment(segmentID)
        self._workspace.keptFacts.note(segmentID, [click.id for click in said.clicks])
        order = self._workspace.keptFacts.orders[segmentID]
        clicks = tuple(sorted(said.clicks, key=lambda click: order.index(click.id)))
        return keyframes.effective(
            replace(said, clicks=clicks),
            self._workspace.keptFacts.history(segmentID),
            lambda frame: self._workspace.maskNow(segmentID, frame),
            self._geometry,
            self._axis,
        )

    def speaking(self, segmentID: str) -> SegmentPrompts:
        """Returns the prompts of a segment that count, without looking at masks."""
        return keyframes.speaking(
            self.prompts.segment(segmentID),
            self._workspace.keptFacts.history(segmentID),
            self._geometry,
            self._axis,
        )

    def marked(self, segmentID: str) -> tuple[frozenset[int], frozenset[int]]:
        """Returns the frames marked as absent, and the locked ones."""
        said = self.prompts.segment(segmentID)
        frames = keyframes.framesOf((*said.absent, *said.locks), self._geometry, self._axis)

        def of(marks: Any) -> frozenset[int]:
            return frozenset(frames[mark.id] for mark in marks if mark.id in frames)

        return of(said.absent), of(said.locks)

    def isSilent(self, segmentID: str, frame: int) -> bool:
        """Tells whether there is nothing of the user on a frame: no prompt, mark or edit."""
        said = keyframes.onFrame(self.effective(segmentID), frame, self._geometry, self._axis)
        isMarked = any(frame in marked for marked in self.marked(segmentID))
        return not (any(said.of(*DRAWN, "masks")) or isMarked or self.hasOpenEdit(segmentID, frame))

    # --- what the user edited by hand

    def adoptEdits(self, segmentID: str) -> None:
        """Makes keyframes of the slices that the user edited; earlier prompts on them become history."""
        said = self.prompts.segment(segmentID)
        locked = self.marked(segmentID)[1]
        for one in self._workspace.edits(segmentID):
            if one.frame not in locked:
                said = self._adopted(said, one)
        self.write(said)

    def hasOpenEdit(self, segmentID: str, frame: int) -> bool:
        """Tells whether the user edited a frame and its prompts lack the edit."""
        said = self.prompts.segment(segmentID)
        return any(
            one.frame == frame and not self._isAdopted(said, one) for one in self._workspace.edits(segmentID)
        )

    def adoptEdit(self, said: SegmentPrompts, frame: int) -> SegmentPrompts:
        """Returns the prompts with the user's edit of a frame, if there is one, as a mask."""
        for one in self._workspace.edits(said.segment):
            if one.frame == frame:
                return self._adopted(said, one)
        return said

    def _adopted(self, said: SegmentPrompts, one: EditedFrame) -> SegmentPrompts:
        return said if self._isAdopted(said, one) else self.withMask(said, one.prompt, one.frame)

    def _isAdopted(self, said: SegmentPrompts, one: EditedFrame) -> bool:
        frames = keyframes.framesOf((*said.masks, *said.absent), self._geometry, self._axis)
        # Clicks may have corrected an edit that was adopted before.
        if any(frames.get(mask.id) == one.frame and _isSame(mask, one.prompt) for mask in said.masks):
            return True
        return not one.prompt.mask.any() and any(frames.get(mark.id) == one.frame for mark in said.absent)

    def withMask(self, said: SegmentPrompts, mask: Any, frame: int) -> SegmentPrompts:
        """Returns the prompts with this mask; the other prompts on its frame become its history."""
        geometry, axis = self._geometry, self._axis
        before = frozenset(
            one.id for one in keyframes.drawn(said) if frame in keyframes.everyFrameOf(one, geometry, axis)
        )
        self._workspace.keptFacts.setHistory(said.segment, mask.id, before)
        return keyframes.withMask(said, mask, self._geometry, self._axis)

    def leaveHistory(self, said: SegmentPrompts, frame: int, name: str) -> None:
        """Lets a prompt correct the mask on a frame, although it may have been that mask's history."""
        facts = self._workspace.keptFacts
        for mask in said.masks:
            older = facts.history(said.segment).get(mask.id, frozenset())
            if name in older and keyframes.frameOf(mask, self._geometry, self._axis) == frame:
                facts.setHistory(said.segment, mask.id, older - {name})

    def renewEdited(self, frames: Collection[tuple[str, int]]) -> None:
        """Replaces the masks of edited keyframes by what the segment holds now.

        A segment on its own grid does not hold a written mask to the pixel.
        """
        for segmentID in {name for name, _frame in frames}:
            if self._workspace.tracker.snapshot(segmentID).own is None:
                continue
            reader = self._workspace.reader(segmentID)
            said = self.prompts.segment(segmentID)
            edited = keyframes.framesOf(said.masks, self._geometry, self._axis)
            for mask in said.masks:
                frame = edited.get(mask.id)
                if frame is not None and keyframes.isEdited(mask) and (segmentID, frame) in frames:
                    shown = reader.frame(frame, self._axis, throughout=True)
                    renewed = mask_at(shown, frame, self._geometry, self._axis, mask.id)
                    said = keyframes.withMask(said, renewed, self._geometry, self._axis)
            self.writeMasks(said)

    # --- undo

    @property
    def state(self) -> PromptState:
        """The present prompts, for `restoreState`."""
        return self.prompts, {name: dict(one) for name, one in self._workspace.keptFacts.histories.items()}

    def restoreState(self, state: PromptState) -> None:
        """Makes the scene hold these prompts, of segments that still exist."""
        prompts, histories = state
        self._workspace.keptFacts.histories = {name: dict(one) for name, one in histories.items()}
        self.restore(prompts)
        self._workspace.keptFacts.save()


def _isSame(mask: MaskPrompt, other: MaskPrompt) -> bool:
    """Tells whether two masks on a frame are equal; their places may differ by rounding."""
    return mask.id == other.id and np.array_equal(mask.mask, other.mask)
