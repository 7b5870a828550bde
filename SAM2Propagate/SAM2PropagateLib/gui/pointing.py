"""What a click in a slice view means, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.gui import keyframes, rules
from SAM2PropagateLib.gui.tools import ABSENT, BOX, CLICK_TOOLS, LOCK, POSITIVE, RANGE, TOOLS
from SAM2PropagateLib.prompts.place import mask_at, range_at
from SAM2PropagateLib.prompts.values import (
    Box,
    Click,
    FrameMark,
    MarkKind,
    Prompt,
    Ras,
    SegmentPrompts,
    new_id,
    to_ras,
)
from SAM2PropagateLib.texts import tr as _

if TYPE_CHECKING:
    from SAM2PropagateLib.gui.workspace import Workspace

# Pixels; a click this near to one of the other sign takes its place.
_SAME_PLACE = 0.5


class Pointing:
    """The half of the controller that turns places in the views into prompts."""

    _workspace: Workspace | None
    changed: Any

    def __init__(self) -> None:
        self._tool: str | None = None
        self._rangeStart: tuple[int, int] | None = None

    @property
    def tool(self) -> str | None:
        """The tool that is on, of `tools.TOOLS`; None if there is none."""
        return self._tool

    def chooseTool(self, tool: str | None) -> bool:
        """Switches a tool on, or off with None or the tool that is on; False and a message if it cannot be.

        Raises:
            ValueError: there is no such tool.
        """
        if tool is not None and tool not in TOOLS:
            raise ValueError(f"no tool {tool!r}")
        self._rangeStart = None
        if tool is not None and tool != self._tool and (reason := self.whyNot(rules.PROMPT)):
            self._say("warning", reason, "not_possible")
            return False
        self._tool = None if tool == self._tool else tool
        self.changed.emit(None)
        return True

    def stopPointing(self) -> None:
        """Switches the tool off."""
        self._tool = self._rangeStart = None

    def forgetRangeStart(self) -> None:
        """The next click with the range tool is a first one."""
        self._rangeStart = None

    def refuse3D(self) -> None:
        """The user clicked into the 3D view with a tool."""
        if self._tool is not None:
            self._say("warning", _("Prompts are placed in the slice views, not in the 3D view."), "3d_view")

    def refuseKey(self) -> None:
        """A key that is about the slice under the mouse was pressed with the mouse elsewhere."""
        self._say(
            "info", _("Point at the slice first: this key is about the slice under the mouse."), "no_slice"
        )

    def refuseBox(self) -> None:
        """A drag with the box tool made no box."""
        self._say("warning", _("Drag a box from one corner to the opposite one, inside the image."), "no_box")

    def point(self, tool: str, ras: npt.ArrayLike, viewNormal: npt.ArrayLike | None = None) -> bool:
        """What a click does that was made with a tool in a slice view.

        Args:
            tool: of `tools.TOOLS`, but no box: that is drawn (`addBox`).
            ras: the place, RAS in mm.
            viewNormal: (3,) of the view's plane; it decides the propagation axis of the first prompt.

        Returns:
            False if it was refused; a message has said why.
        """
        if reason := self.whyNot(rules.PROMPT):
            self._say("warning", reason, "not_possible")
            return False
        try:
            place = to_ras(ras)
            workspace = self._require()
            geometry = workspace.geometry
            if not geometry.contains(place):
                self._say("warning", _("That is outside the image of the volume."), "outside_volume")
                return False
            axis = workspace.axisFor(viewNormal)
            frame = geometry.frame_of(place, axis)
            self._mergeEdits()
            before = workspace.prompts
            after = self._pointed(tool, workspace, place, frame)
            if after is None:
                return True
            return self._put(before, after)
        except SAM2PropagateError as error:
            self._say("warning", str(error), error.code)
            return False

    def addBox(self, cornerA: npt.ArrayLike, cornerB: npt.ArrayLike) -> bool:
        """Adds a box by two opposite corners (RAS) on one frame, as a script does; the mouse draws them."""
        try:
            workspace = self._require()
            self._mergeEdits()
            box = Box(new_id(), to_ras(cornerA), to_ras(cornerB))
            before = workspace.prompts
            return self._put(before, before.segment(self._segment()).add(box))
        except SAM2PropagateError as error:
            self._say("warning", str(error), error.code)
            return False

    def _put(self, before: Any, after: SegmentPrompts) -> bool:
        workspace = self._require()
        if refusal := self.refusal(before.segment(after.segment), after):
            self._say("warning", refusal, "refused")
            return False
        workspace.write(after)
        self._settle(before, None)
        self.changed.emit(None)
        return True

    def _pointed(self, tool: str, workspace: Workspace, ras: Ras, frame: int) -> SegmentPrompts | None:
        """The segment's prompts after the click; None if it is only half of something."""
        said = workspace.prompts.segment(self._segment())
        geometry, axis = workspace.geometry, workspace.axis
        if tool in CLICK_TOOLS:
            return _clicked(said, ras, tool == POSITIVE, frame, geometry, axis)
        if tool in (ABSENT, LOCK):
            self._toolUsed()
            return _toggled(said, ras, "absent" if tool == ABSENT else "lock", frame, geometry, axis)
        if tool != RANGE:
            raise ValueError(f"nothing can be pointed at with the tool {tool!r}")
        if self._rangeStart is None or self._rangeStart[0] != axis:
            self._rangeStart = (axis, frame)
            self._say("info", _("Now click on the slice at the other end of the range."), "range")
            return None
        first, last = sorted((self._rangeStart[1], frame))
        self._rangeStart = None
        self._toolUsed()
        return said.with_range(range_at(first, last, geometry, axis))

    def _toolUsed(self) -> None:
        if self._tool not in (*CLICK_TOOLS, BOX):
            self._tool = None

    # --- what follows from a change, wherever it was made

    def refusal(self, old: SegmentPrompts, new: SegmentPrompts) -> str:
        """Why a change of a segment's prompts cannot be; "" if it can."""
        workspace = self._require()
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
                ).format(plane=geometry.plane_name(axis))
            if frame in locked:
                return _("Slice {number} is locked. Unlock it to change it.").format(number=frame + 1)
            if frame in absent:
                return _("Slice {number} is marked as absent. Take that mark away first.").format(
                    number=frame + 1
                )
        return ""

    def completed(self, old: SegmentPrompts, new: SegmentPrompts) -> SegmentPrompts:
        """A segment's prompts with what follows from the change: the mask that a click corrects, no mask
        where a box starts anew, one box per frame, nothing kept that no correction needs.
        """
        workspace = self._require()
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
        workspace = self._require()
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

    # Of the controller.

    def whyNot(self, action: str) -> str:
        raise NotImplementedError

    def _say(self, level: str, text: str, code: str = "", log: tuple[str, ...] = ()) -> None:
        raise NotImplementedError

    def _mergeEdits(self) -> Any:
        raise NotImplementedError

    def _settle(self, before: Any, viewNormal: Any) -> None:
        raise NotImplementedError

    def _require(self) -> Workspace:
        raise NotImplementedError

    def _segment(self) -> str:
        raise NotImplementedError


def _isAcross(box: Box, geometry: VolumeGeometry, axis: int) -> bool:
    """Whether a box reaches over several frames of the axis."""
    ends = [geometry.frame_coordinate(corner, axis) for corner in (box.corner_a, box.corner_b)]
    return abs(ends[0] - ends[1]) > 1.0


def _clicked(
    said: SegmentPrompts, ras: Ras, positive: bool, frame: int, geometry: VolumeGeometry, axis: int
) -> SegmentPrompts:
    """With a click more; one of the other sign at its place goes."""
    x, y = geometry.pixel_of(ras, axis)
    for other in said.clicks:
        if other.positive == positive or keyframes.frameOf(other, geometry, axis) != frame:
            continue
        otherX, otherY = geometry.pixel_of(other.ras, axis)
        if math.hypot(x - otherX, y - otherY) <= _SAME_PLACE:
            said = said.remove(other.id)
    return said.add(Click(new_id(), ras, positive))


def _toggled(
    said: SegmentPrompts, ras: Ras, kind: MarkKind, frame: int, geometry: VolumeGeometry, axis: int
) -> SegmentPrompts:
    """With a mark on the frame, or without the one that is there."""
    marks = said.absent if kind == "absent" else said.locks
    there = [mark for mark in marks if keyframes.frameOf(mark, geometry, axis) == frame]
    for mark in there:
        said = said.remove(mark.id)
    return said if there else said.add(FrameMark(new_id(), ras), kind)


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
