"""Turns what the user does with a tool in a slice view into prompts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy.typing as npt

from SAM2PropagateLib.app import keyframes, rules
from SAM2PropagateLib.app.prompt_changes import PromptChanges
from SAM2PropagateLib.app.shared import Shared
from SAM2PropagateLib.app.situation import Situation
from SAM2PropagateLib.app.tools import (
    ABSENT,
    BOX,
    CLICK_TOOLS,
    LOCK,
    NEGATIVE_SCRIBBLE,
    POSITIVE,
    RANGE,
    STROKE_TOOLS,
    TOOLS,
    toolAfter,
)
from SAM2PropagateLib.app.workspace import Workspace
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.prompts.place import curve_through, lasso_around, range_at, scribble_along
from SAM2PropagateLib.prompts.values import (
    Box,
    Click,
    FrameMark,
    MarkKind,
    Ras,
    SegmentPrompts,
    Stroke,
    new_id,
)
from SAM2PropagateLib.texts import tr as _

# Pixels; a click this near to one of the other sign replaces it.
_SAME_PLACE = 0.5


class Pointing:
    """Turns places in the views into prompts.

    Args:
        situation: tells whether prompts are possible now.
        prompts: makes the changes.
    """

    def __init__(
        self,
        shared: Shared,
        situation: Situation,
        prompts: PromptChanges,
    ) -> None:
        self._selection = shared.selection
        self._messages = shared.messages
        self._situation = situation
        self._prompts = prompts
        self._changed = shared.signals.changed
        self._tool: str | None = None
        self._rangeStart: tuple[int, int] | None = None

    @property
    def tool(self) -> str | None:
        """The tool that is on, of `tools.TOOLS`; None if there is none."""
        return self._tool

    def chooseTool(self, tool: str | None) -> bool:
        """Switches a tool on; None, or the tool that is on, switches it off. Returns False, after a message,
        if the tool cannot be used.

        The positive scribble becomes the negative one before it goes off.

        Raises:
            ValueError: there is no such tool.
        """
        if tool not in (None, *TOOLS, NEGATIVE_SCRIBBLE):
            raise ValueError(f"no tool {tool!r}")
        self._rangeStart = None
        after = toolAfter(tool, self._tool)
        if after is not None and self._situation.refuses(rules.PROMPT):
            return False
        if after is not None and after not in (*CLICK_TOOLS, ABSENT, LOCK, RANGE):
            # What is drawn is drawn for a segment.
            self._selection.provideSegment()
        self._tool = after
        self._changed.emit(None)
        return True

    def stop(self) -> None:
        """Switches the tool off."""
        self._tool = self._rangeStart = None

    def forgetRangeStart(self) -> None:
        """Forgets the first click of the range tool."""
        self._rangeStart = None

    def refuse3D(self) -> None:
        """Tells the user that prompts cannot be placed in the 3D view."""
        if self._tool is not None:
            self._messages.sayForNow(
                "warning", _("Place prompts in the slice views, not in the 3D view."), "3d_view"
            )

    def refuseKey(self) -> None:
        """Tells the user that the key needs a slice under the mouse."""
        self._messages.sayForNow(
            "info", _("Point at a slice first. This key marks the slice under the mouse."), "no_slice"
        )

    def refuseBox(self) -> None:
        """Tells the user how to drag a box."""
        self._messages.sayForNow(
            "warning",
            _("Drag from one corner of the box to the opposite corner, inside the image."),
            "no_box",
        )

    def point(self, tool: str, ras: npt.ArrayLike, viewNormal: npt.ArrayLike | None = None) -> bool:
        """Handles a click; for arguments and result see `Controller.point`."""
        if self._situation.refuses(rules.PROMPT):
            return False
        try:
            self._provideSegment()
            workspace = self._selection.require()
            place = workspace.fromWorld(ras)
            geometry = workspace.geometry
            if not geometry.contains(place):
                self._messages.sayForNow("warning", _("This place is outside the volume."), "outside_volume")
                return False
            axis = workspace.axisFor(viewNormal)
            frame = geometry.frame_of(place, axis)
            before = workspace.prompts
            after = self._pointed(tool, workspace, place, frame)
            if after is None:
                return True
            return self._prompts.put(before, after)
        except SAM2PropagateError as error:
            self._messages.sayForNow("warning", str(error), error.code)
            return False

    def _provideSegment(self) -> None:
        """Makes a segment for the first click; the tool stays on."""
        before = self._tool
        self._selection.provideSegment()
        self._tool = before

    def addBox(self, cornerA: npt.ArrayLike, cornerB: npt.ArrayLike) -> bool:
        """Adds a box; for arguments and result see `Controller.addBox`."""
        if self._situation.refuses(rules.PROMPT):
            return False
        try:
            self._provideSegment()
            workspace = self._selection.require()
            box = Box(new_id(), workspace.fromWorld(cornerA), workspace.fromWorld(cornerB))
            before = workspace.prompts
            return self._prompts.put(before, before.segment(self._selection.requireSegment()).add(box))
        except SAM2PropagateError as error:
            self._messages.sayForNow("warning", str(error), error.code)
            return False

    def addScribble(
        self, points: npt.ArrayLike, positive: bool = True, viewNormal: npt.ArrayLike | None = None
    ) -> bool:
        """Adds a scribble; for arguments and result see `Controller.addScribble`."""
        return self._addStroke(
            lambda places, geometry: scribble_along(places, geometry, positive), points, viewNormal
        )

    def addLasso(
        self, points: npt.ArrayLike, exact: bool | None = None, viewNormal: npt.ArrayLike | None = None
    ) -> bool:
        """Adds a lasso; for arguments and result see `Controller.addLasso`."""
        isExact = self._selection.choices.keepAsDrawn if exact is None else exact
        return self._addStroke(
            lambda places, geometry: lasso_around(places, geometry, isExact), points, viewNormal
        )

    def addCurve(
        self, points: npt.ArrayLike, closed: bool = False, viewNormal: npt.ArrayLike | None = None
    ) -> bool:
        """Adds a curve; for arguments and result see `Controller.addCurve`."""
        return self._addStroke(
            lambda places, geometry: curve_through(places, geometry, closed), points, viewNormal
        )

    def _addStroke(
        self,
        make: Callable[[npt.ArrayLike, VolumeGeometry], Stroke],
        points: npt.ArrayLike,
        viewNormal: npt.ArrayLike | None,
    ) -> bool:
        if self._situation.refuses(rules.PROMPT):
            return False
        try:
            self._provideSegment()
            workspace = self._selection.require()
            stroke = make(workspace.markups.fromWorld(points), workspace.geometry)
            workspace.axisFor(viewNormal)
            before = workspace.prompts
            return self._prompts.put(before, before.segment(self._selection.requireSegment()).add(stroke))
        except SAM2PropagateError as error:
            self._messages.sayForNow("warning", str(error), error.code)
            return False

    def refuseLasso(self) -> None:
        """Tells the user how to drag a lasso."""
        self._messages.sayForNow(
            "warning", _("Drag the lasso around the structure, in one go, inside the image."), "no_lasso"
        )

    def _pointed(self, tool: str, workspace: Workspace, ras: Ras, frame: int) -> SegmentPrompts | None:
        """Returns the segment's prompts after the click; None for the first of two clicks."""
        said = workspace.prompts.segment(self._selection.requireSegment())
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
            self._messages.sayForNow("info", _("Click on the slice at the other end of the range."), "range")
            return None
        first, last = sorted((self._rangeStart[1], frame))
        self._rangeStart = None
        self._toolUsed()
        return said.with_range(range_at(first, last, geometry, axis))

    def _toolUsed(self) -> None:
        if self._tool not in (*CLICK_TOOLS, BOX, *STROKE_TOOLS):
            self._tool = None


def _clicked(
    said: SegmentPrompts, ras: Ras, positive: bool, frame: int, geometry: VolumeGeometry, axis: int
) -> SegmentPrompts:
    """Returns a copy with one more click, without one of the other sign at its place."""
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
    """Returns a copy with a mark on the frame, or without it if the frame has it."""
    marks = said.absent if kind == "absent" else said.locks
    there = [mark for mark in marks if keyframes.frameOf(mark, geometry, axis) == frame]
    for mark in there:
        said = said.remove(mark.id)
    return said if there else said.add(FrameMark(new_id(), ras), kind)
