"""Handles changes of prompts: refuses or completes them, makes an undo step, and renews previews."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import replace

from SAM2PropagateLib.app import keyframes
from SAM2PropagateLib.app.previews import Previews
from SAM2PropagateLib.app.shared import Shared
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.prompts.place import mask_at
from SAM2PropagateLib.prompts.strokes import is_across, outline_pixels
from SAM2PropagateLib.prompts.values import (
    DRAWN,
    Box,
    Click,
    Curve,
    FrameMark,
    Lasso,
    MaskPrompt,
    Prompt,
    PromptSet,
    Scribble,
    SegmentPrompts,
    Stroke,
)
from SAM2PropagateLib.scene.watch import PromptChange
from SAM2PropagateLib.texts import tr as _


class PromptChanges:
    """Completes or refuses changes of prompts, and renews the previews.

    Args:
        previews: is told of the changed frames.
    """

    def __init__(
        self,
        shared: Shared,
        previews: Previews,
    ) -> None:
        self._selection = shared.selection
        self._messages = shared.messages
        self._previews = previews
        self._steps = shared.steps
        self._changed = shared.signals.changed

    # --- where a change is made

    def put(self, before: PromptSet, after: SegmentPrompts, name: str = "") -> bool:
        """Replaces a segment's prompts, as one undo step. Returns False, after a message, if the new ones are
        impossible.

        Args:
            name: of the step, a noun or a verb; "": taken from what differs.

        Raises:
            SAM2PropagateError: the volume cannot be used any more.
        """
        now = before.with_segment(after)
        if self._refuses(before, now):
            return False
        self._messages.goOn()
        with self._steps.step(name or changeName(before.segment(after.segment), after), before=before):
            self._follow(self._settle(before, now, before))
        self._changed.emit(None)
        return True

    def followScene(self, change: PromptChange) -> None:
        """Handles a change that was made in the scene: takes it back if it is impossible, else renews
        previews."""
        workspace = self._selection.workspace
        if workspace is None:
            return
        before = workspace.prompts
        try:
            workspace.promptStore.read()
            now = workspace.prompts
            if now == before:
                return
            if before.is_empty and change.viewNormal is not None:
                workspace.promptStore.prompts = before
                workspace.axisFor(change.viewNormal)
                now = now.with_axis(workspace.markups.axis)
            if not self._refuses(before, now):
                self._messages.goOn()
                with self._steps.step(_nameOf(before, now), before=before):
                    self._follow(self._settle(before, now, now))
        except SAM2PropagateError as error:
            workspace.promptStore.restore(before)
            self._messages.sayForNow("warning", str(error), error.code)
        self._changed.emit(None)

    def clear(self, frame: int | None = None) -> None:
        """Removes the chosen segment's prompts, on one frame or all; the segment itself stays."""
        workspace = self._selection.workspace
        if workspace is None or not self._selection.segmentID:
            return
        said = workspace.prompts.segment(self._selection.segmentID)
        geometry, axis = workspace.geometry, workspace.axis
        cleared = said
        frames: set[int] = set()
        for one in said:
            every = keyframes.everyFrameOf(one, geometry, axis)
            if frame is None or frame in every:
                cleared = cleared.remove(one.id)
                frames |= every
        if frame is None:
            cleared = cleared.with_range(None)
        if cleared == said:
            return
        self._messages.goOn()
        with self._steps.step(_("clear prompts")):
            workspace.promptStore.write(cleared)
            self._previews.follow(self._selection.segmentID, frames)
        self._changed.emit(None)

    # --- what follows

    def _refuses(self, before: PromptSet, now: PromptSet) -> bool:
        """Takes back an impossible change, also in the scene, with a message that says why; returns whether
        it did."""
        workspace = self._selection.require()
        # The axis may be that of the prompts.
        workspace.promptStore.prompts = now
        try:
            for segmentID in _segmentsOf(before, now) & set(workspace.segmentIDs):
                if refusal := self._refusal(before.segment(segmentID), now.segment(segmentID)):
                    workspace.promptStore.restore(before)
                    self._messages.sayForNow("warning", refusal, "refused")
                    return True
        except SAM2PropagateError:
            workspace.promptStore.prompts = before
            raise
        return False

    def _settle(self, before: PromptSet, now: PromptSet, held: PromptSet) -> dict[str, set[int]]:
        """Completes a change that is not refused, and puts it into the scene.

        Args:
            before, now: all prompts. held: those that the scene holds: `before` or `now`.

        Returns:
            The frames on which something changed, per segment.

        Raises:
            SAM2PropagateError: the volume cannot be used any more.
        """
        workspace = self._selection.require()
        try:
            geometry, axis = workspace.geometry, workspace.axis
            changed = {
                segmentID: keyframes.changedFrames(
                    before.segment(segmentID), now.segment(segmentID), geometry, axis
                )
                for segmentID in _segmentsOf(before, now) & set(workspace.segmentIDs)
                if before.segment(segmentID) != now.segment(segmentID)
            }
            for segmentID in changed:
                completed = self._completed(before.segment(segmentID), now.segment(segmentID))
                now = now.with_segment(completed)
            workspace.promptStore.put(now, held)
        except SAM2PropagateError:
            workspace.promptStore.prompts = before
            raise
        return changed

    def _follow(self, changed: Mapping[str, set[int]]) -> None:
        """Renews the previews after a change that is in the scene."""
        for segmentID, frames in changed.items():
            self._previews.follow(segmentID, frames)
        self._selection.require().keptFacts.save()

    def _refusal(self, old: SegmentPrompts, new: SegmentPrompts) -> str:
        """Returns why a change of a segment's prompts is impossible; "" if it is possible."""
        workspace = self._selection.require()
        geometry, axis = workspace.geometry, workspace.axis
        known = {prompt.id: prompt for prompt in old}
        absent, locked = workspace.promptStore.marked(new.segment)
        for prompt in new:
            if known.get(prompt.id) == prompt:
                continue
            frames = keyframes.everyFrameOf(prompt, geometry, axis)
            if not frames:
                return _("This place is outside the volume.")
            if isinstance(prompt, Curve):
                # A curve skips locked and absent slices.
                if prompt.closed and not is_across(prompt, geometry, axis):
                    return _("This closed curve lies on one slice. Draw a lasso there instead.")
                continue
            if prompt in new.absent and (why := self._whyNotAbsent(new, frames, locked)):
                return why
            if not isinstance(prompt, Click | Box | Stroke):
                continue
            plane = workspace.worldGeometry.plane_name(axis)
            if isinstance(prompt, Box) and _isAcross(prompt, geometry, axis):
                return _("Draw boxes in the {plane} views; propagation runs along {plane} slices.").format(
                    plane=plane
                )
            if isinstance(prompt, Lasso) and (why := _whyNoLasso(prompt, geometry, axis, str(plane))):
                return why
            if held := frames & locked:
                return _locked(min(held))
            if held := frames & absent:
                return _("Slice {number} is marked as absent. Remove the mark first.").format(
                    number=min(held) + 1
                )
        return ""

    def _whyNotAbsent(self, said: SegmentPrompts, frames: Set[int], locked: Set[int]) -> str:
        """Returns why these frames cannot be marked as absent; "" if they can."""
        if held := frames & locked:
            return _locked(min(held))
        workspace = self._selection.require()
        geometry, axis = workspace.geometry, workspace.axis
        for stroke in said.strokes:
            if isinstance(stroke, Curve):
                continue  # it skips absent slices
            held = frames & keyframes.everyFrameOf(stroke, geometry, axis)
            # A stroke on this frame alone is removed by the mark; one that crosses others must not be.
            if held and is_across(stroke, geometry, axis):
                return _(
                    "A stroke from another view crosses slice {number}. Delete the stroke first."
                ).format(number=min(held) + 1)
        return ""

    def _completed(self, old: SegmentPrompts, new: SegmentPrompts) -> SegmentPrompts:
        """Returns a segment's prompts with what a change entails: the mask that a click or a scribble
        corrects, no mask where a box or a lasso starts over, one box or lassos per frame, and no mask without
        a correction.
        """
        workspace = self._selection.require()
        geometry, axis = workspace.geometry, workspace.axis
        frames = keyframes.framesOf(new.absent, geometry, axis)
        known = {prompt.id: prompt for prompt in old}
        said = new
        arrived = {
            one.id: fresh
            for one in keyframes.drawn(new)
            if (fresh := self._freshFrames(one, new, old if one.id in known else None))
        }
        for name, fresh in arrived.items():
            one = new.get(name)
            for frame in sorted(fresh):
                if _replacesMask(one, geometry, axis):
                    said = keyframes.withoutMasks(said, frame, geometry, axis)
                    said = _oneShape(said, one, frame, geometry, axis)
                else:
                    said = self._withMaskToCorrect(said, frame, set(arrived))
                    if known.get(name) != one:
                        # The mask of this slice may have it in its history, if it was on this slice before.
                        workspace.promptStore.leaveHistory(said, frame, name)
        for mark in said.absent:
            if mark.id not in known and mark.id in frames:
                said = keyframes.withoutMasks(said, frames[mark.id], geometry, axis)
                said = _withoutPrompts(said, frames[mark.id], geometry, axis)
        return keyframes.withoutIdleMasks(said, workspace.keptFacts.history(said.segment), geometry, axis)

    def _freshFrames(
        self, one: Prompt, said: SegmentPrompts, before: SegmentPrompts | None
    ) -> frozenset[int]:
        """Returns the frames that a prompt says something about, and did not before.

        Args:
            before: the segment's prompts then; None: the prompt is new.
        """
        workspace = self._selection.require()
        geometry, axis = workspace.geometry, workspace.axis
        now = keyframes.spokenFramesOf(one, said, geometry, axis)
        if before is None:
            return now
        return now - keyframes.spokenFramesOf(before.get(one.id), before, geometry, axis)

    def _withMaskToCorrect(self, said: SegmentPrompts, frame: int, arrived: set[str]) -> SegmentPrompts:
        """Returns a copy with the frame's present mask, for the new prompts to correct: the user's edit, a
        propagated mask, or one that the run withheld where the prompts lie.

        Args:
            arrived: the IDs of the new prompts.
        """
        workspace = self._selection.require()
        geometry, axis = workspace.geometry, workspace.axis
        others = said
        for name in arrived & {one.id for one in said}:
            others = others.remove(name)
        adopted = workspace.promptStore.adoptEdit(others, frame)
        if adopted is not others:
            return replace(said, masks=adopted.masks)
        counting = keyframes.speaking(others, workspace.keptFacts.history(said.segment), geometry, axis)
        if frame in keyframes.everyFrame(keyframes.placed(counting), geometry, axis):
            return said
        mask = workspace.shown.maskToCorrect(said.segment, frame)
        if not mask.any():
            withheld = workspace.keptFacts.withheld(said.segment, frame, geometry, axis)
            new = replace(said, masks=()).only(lambda one: one.id in arrived, *DRAWN)
            if withheld is None or not keyframes.isMeant(withheld, new, frame, geometry, axis):
                return said
            mask = withheld
        kept = mask_at(mask, frame, geometry, axis, keyframes.maskId(keyframes.REFINED, frame, axis))
        return replace(said, masks=workspace.promptStore.withMask(others, kept, frame).masks)


def _segmentsOf(*prompts: PromptSet) -> set[str]:
    return {name for one in prompts for name in one.names}


def changeName(before: SegmentPrompts, after: SegmentPrompts) -> str:
    """Returns what the user did to a segment's prompts, as the name of a step."""
    old, new = ({one.id: one for one in said} for said in (before, after))
    came = [one for name, one in new.items() if name not in old]
    went = [one for name, one in old.items() if name not in new]
    locks, absent = ({mark.id for said in (before, after) for mark in marks(said)} for marks in _MARKS)
    for ids, name, back in (
        (locks, _("lock slice"), _("unlock slice")),
        (absent, _("absent mark"), _("remove absent mark")),
    ):
        if any(one.id in ids for one in came):
            return name
        if any(one.id in ids for one in went):
            return back
    if before.range != after.range:
        return _("range")
    placed = [one for one in came if not isinstance(one, MaskPrompt)]
    if placed:
        names = {Box: _("box"), Scribble: _("scribble"), Lasso: _("lasso"), Curve: _("curve")}
        return names.get(type(placed[-1]), _("click"))
    if any(not isinstance(one, MaskPrompt) for one in went):
        return _("delete prompt")
    return _("mask") if came or went else _("move prompt")


_MARKS: tuple[Callable[[SegmentPrompts], tuple[FrameMark, ...]], ...] = (
    lambda said: said.locks,
    lambda said: said.absent,
)


def _nameOf(before: PromptSet, after: PromptSet) -> str:
    for name in (*after.names, *before.names):
        if before.segment(name) != after.segment(name):
            return changeName(before.segment(name), after.segment(name))
    return _("move prompt")


def _locked(frame: int) -> str:
    return _("Slice {number} is locked. Unlock it to change it.").format(number=frame + 1)


def _isAcross(box: Box, geometry: VolumeGeometry, axis: int) -> bool:
    """Tells whether a box reaches over several frames of the axis."""
    ends = [geometry.frame_coordinate(corner, axis) for corner in (box.corner_a, box.corner_b)]
    return abs(ends[0] - ends[1]) > 1.0


def _replacesMask(prompt: Prompt, geometry: VolumeGeometry, axis: int) -> bool:
    """Tells whether a prompt replaces the mask of its frame instead of correcting it."""
    return isinstance(prompt, Box) or (isinstance(prompt, Lasso) and not is_across(prompt, geometry, axis))


def _whyNoLasso(lasso: Lasso, geometry: VolumeGeometry, axis: int, plane: str) -> str:
    """Returns why such a lasso is impossible; "" if it is possible."""
    if is_across(lasso, geometry, axis):
        if lasso.exact:
            return _("Only a lasso in the {plane} view can be kept as drawn.").format(plane=plane)
        return ""
    try:
        outline_pixels(lasso, geometry, axis)
    except InputError as error:
        return str(error)
    return ""


def _oneShape(
    said: SegmentPrompts, shape: Prompt, frame: int, geometry: VolumeGeometry, axis: int
) -> SegmentPrompts:
    """Returns a copy without the shapes on the frame that a new one replaces; only lassos add up."""

    def stays(other: Prompt) -> bool:
        isSame = other.id == shape.id or (isinstance(other, Lasso) and isinstance(shape, Lasso))
        isElsewhere = frame not in keyframes.everyFrameOf(other, geometry, axis)
        return isSame or isElsewhere or not _replacesMask(other, geometry, axis)

    return said.only(stays, *DRAWN)


def _withoutPrompts(said: SegmentPrompts, frame: int, geometry: VolumeGeometry, axis: int) -> SegmentPrompts:
    """Returns a copy without the clicks and shapes of one frame, for its absent mark. Curves stay: they
    skip it."""

    def stays(one: Prompt) -> bool:
        return isinstance(one, Curve) or frame not in keyframes.everyFrameOf(one, geometry, axis)

    return said.only(stays, *DRAWN)
