"""A change of prompts, wherever it was made: whether it can be, what it brings with it, and the way back."""

from __future__ import annotations

from dataclasses import replace

import numpy.typing as npt

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.gui import keyframes
from SAM2PropagateLib.gui.applying import Applying
from SAM2PropagateLib.gui.previews import Previews
from SAM2PropagateLib.gui.selection import Selection
from SAM2PropagateLib.gui.signals import Signal
from SAM2PropagateLib.gui.user_messages import UserMessages
from SAM2PropagateLib.prompts.place import mask_at
from SAM2PropagateLib.prompts.values import Box, Click, Prompt, PromptSet, SegmentPrompts
from SAM2PropagateLib.scene.watch import PromptChange
from SAM2PropagateLib.texts import tr as _


class PromptChanges:
    """Completes or refuses changes of prompts, and has previews follow them.

    Args:
        applying: what merges edits before.
        previews: what follows.
        changed: emitted when prompts are others than before.
    """

    def __init__(
        self,
        selection: Selection,
        messages: UserMessages,
        applying: Applying,
        previews: Previews,
        changed: Signal[None],
    ) -> None:
        self._selection = selection
        self._messages = messages
        self._applying = applying
        self._previews = previews
        self._changed = changed

    # --- where a change is made

    def put(self, before: PromptSet, after: SegmentPrompts) -> bool:
        """Puts a segment's prompts in the place of those before; False if they cannot be, a message says why.

        Raises:
            SAM2PropagateError: the volume cannot be used any more.
        """
        if refusal := self._refusal(before.segment(after.segment), after):
            self._messages.say("warning", refusal, "refused")
            return False
        self._selection.require().write(after)
        self._settle(before, None)
        self._changed.emit(None)
        return True

    def followScene(self, change: PromptChange) -> None:
        """The prompts in the scene are others than before: previews follow, wrong ones are taken back."""
        workspace = self._selection.workspace
        if workspace is None:
            return
        before = workspace.prompts
        try:
            workspace.prompts = workspace.markups.read()
            if workspace.prompts == before:
                return
            self._settle(before, change.viewNormal)
        except SAM2PropagateError as error:
            workspace.restore(before)
            self._messages.say("warning", str(error), error.code)
        self._changed.emit(None)

    def clear(self, frame: int | None = None) -> None:
        """Removes the chosen segment's prompts, on one frame or all; the segment itself stays."""
        workspace = self._selection.workspace
        if workspace is None or not self._selection.segmentID:
            return
        self._applying.mergeEdits()
        said = workspace.prompts.segment(self._selection.segmentID)
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
        self._previews.follow(self._selection.segmentID, set(frames.values()) if frame is None else {frame})
        self._changed.emit(None)

    # --- the way back

    def undo(self) -> bool:
        """Takes back the last change of prompts; False if there is none."""
        return self._step("undoPrompt", "canUndoPrompt")

    def redo(self) -> bool:
        """Brings back the change of prompts that was undone last; False if there is none."""
        return self._step("redoPrompt", "canRedoPrompt")

    def _step(self, step: str, isPossible: str) -> bool:
        workspace = self._selection.workspace
        if workspace is None or not getattr(workspace, isPossible):
            return False
        self._applying.mergeEdits()
        try:
            before = getattr(workspace, step)()
            for segmentID in workspace.segmentIDs:
                old, new = before.segment(segmentID), workspace.prompts.segment(segmentID)
                self._previews.follow(
                    segmentID, keyframes.changedFrames(old, new, workspace.geometry, workspace.axis)
                )
        except SAM2PropagateError as error:  # the volume cannot be used any more
            self._messages.fail(error)
            return False
        self._changed.emit(None)
        return True

    # --- what follows

    def _settle(self, before: PromptSet, viewNormal: npt.ArrayLike | None) -> None:
        """Completes a change that is in the scene already: masks to be corrected, undo, previews."""
        workspace = self._selection.require()
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
            refusal = self._refusal(old, new)
            if refusal:
                workspace.restore(before)
                self._messages.say("warning", refusal, "refused")
                return
            changed[segmentID] = keyframes.changedFrames(old, new, geometry, axis)
        workspace.keep(before)
        for segmentID in changed:
            workspace.write(self._completed(before.segment(segmentID), workspace.prompts.segment(segmentID)))
        for segmentID, frames in changed.items():
            self._previews.follow(segmentID, frames)
        workspace.memory.save()

    def _refusal(self, old: SegmentPrompts, new: SegmentPrompts) -> str:
        """Why a change of a segment's prompts cannot be; "" if it can."""
        workspace = self._selection.require()
        geometry, axis = workspace.geometry, workspace.axis
        known = {prompt.id: prompt for prompt in old}
        absent, locked = workspace.marked(new.segment)
        for prompt in new:
            if known.get(prompt.id) == prompt:
                continue
            frame = keyframes.frameOf(prompt, geometry, axis)
            if frame is None:
                return _("That is outside the image of the volume.")
            if not isinstance(prompt, Click | Box):
                continue
            if isinstance(prompt, Box) and _isAcross(prompt, geometry, axis):
                return _(
                    "Boxes belong into the {plane} views: the propagation goes through the {plane} slices."
                ).format(plane=workspace.worldGeometry.plane_name(axis))
            if frame in locked:
                return _("Slice {number} is locked. Unlock it to change it.").format(number=frame + 1)
            if frame in absent:
                return _("Slice {number} is marked as absent. Take that mark away first.").format(
                    number=frame + 1
                )
        return ""

    def _completed(self, old: SegmentPrompts, new: SegmentPrompts) -> SegmentPrompts:
        """A segment's prompts with what follows from the change: the mask that a click corrects, no mask
        where a box starts anew, one box per frame, nothing kept that no correction needs.
        """
        workspace = self._selection.require()
        geometry, axis = workspace.geometry, workspace.axis
        frames = keyframes.framesOf(new, geometry, axis)
        known = {prompt.id: prompt for prompt in old}
        placed: tuple[Click | Box, ...] = (*new.clicks, *new.boxes)
        arrived = [
            one
            for one in placed
            if one.id not in known or keyframes.frameOf(known[one.id], geometry, axis) != frames.get(one.id)
        ]
        said = new
        for one in arrived:
            frame = frames.get(one.id)
            if frame is None:
                continue
            if isinstance(one, Box):
                said = _oneBox(keyframes.withoutMasks(said, frame, geometry, axis), one, geometry, axis)
            else:
                said = self._withMaskToCorrect(said, frame, {click.id for click in arrived})
        for mark in said.absent:
            if mark.id not in known and mark.id in frames:
                said = keyframes.withoutMasks(said, frames[mark.id], geometry, axis)
                said = _withoutPrompts(said, frames[mark.id], geometry, axis)
        return keyframes.withoutIdleMasks(said, workspace.memory.history(said.segment), geometry, axis)

    def _withMaskToCorrect(self, said: SegmentPrompts, frame: int, arrived: set[str]) -> SegmentPrompts:
        """With the frame's present mask as what the click corrects: the user's edit, or a propagated mask."""
        workspace = self._selection.require()
        geometry, axis = workspace.geometry, workspace.axis
        others = replace(said, clicks=tuple(one for one in said.clicks if one.id not in arrived))
        adopted = workspace.adoptEdit(others, frame)
        if adopted is not others:
            return replace(adopted, clicks=said.clicks)
        frames = keyframes.framesOf(others, geometry, axis)
        history = workspace.memory.history(said.segment)
        counting = keyframes.speaking(others, history, geometry, axis)
        spoken: tuple[Prompt, ...] = (*counting.clicks, *counting.boxes, *counting.masks)
        if any(frames.get(one.id) == frame for one in spoken):
            return said
        mask = workspace.maskToCorrect(said.segment, frame)
        if not mask.any():
            return said
        kept = mask_at(mask, frame, geometry, axis, keyframes.maskId(keyframes.REFINED, frame, axis))
        return replace(workspace.withMask(others, kept, frame), clicks=said.clicks)


def _isAcross(box: Box, geometry: VolumeGeometry, axis: int) -> bool:
    """Whether a box reaches over several frames of the axis."""
    ends = [geometry.frame_coordinate(corner, axis) for corner in (box.corner_a, box.corner_b)]
    return abs(ends[0] - ends[1]) > 1.0


def _oneBox(said: SegmentPrompts, box: Box, geometry: VolumeGeometry, axis: int) -> SegmentPrompts:
    """Without the other boxes on the frame of this one."""
    frame = keyframes.frameOf(box, geometry, axis)
    kept = tuple(
        one for one in said.boxes if one.id == box.id or keyframes.frameOf(one, geometry, axis) != frame
    )
    return replace(said, boxes=kept)


def _withoutPrompts(said: SegmentPrompts, frame: int, geometry: VolumeGeometry, axis: int) -> SegmentPrompts:
    """Without the clicks and boxes of one frame: it is marked as absent."""
    frames = keyframes.framesOf((*said.clicks, *said.boxes), geometry, axis)
    return replace(
        said,
        clicks=tuple(one for one in said.clicks if frames.get(one.id) != frame),
        boxes=tuple(one for one in said.boxes if frames.get(one.id) != frame),
    )
