"""Shows the list of segments in the panel, and the buttons beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from SAM2PropagateLib.app import rules, tools
from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.gui.widgets import Connections, Icons, enable
from SAM2PropagateLib.texts import tr as _

# The fewest and the most rows of the list, which grows with the number of segments.
_LEAST_ROWS, _MOST_ROWS = 3, 8
# Pixels; the height of a row while there is none to measure.
_ROW = 22


class SegmentList:
    """Shows the segments, and lets the user choose, add and remove them.

    Args:
        ui: the widgets by name.
        controller: has the segments.
        icons: gets the buttons.
        chosen: called with the ID of a segment that is to be worked on.
        isShowing: tells whether the panel is setting widgets: a selection meanwhile is not the user's choice.
    """

    def __init__(
        self,
        ui: Any,
        controller: Controller,
        icons: Icons,
        chosen: Callable[[str], None],
        isShowing: Callable[[], bool],
    ) -> None:
        self._ui = ui
        self._controller = controller
        self._chosen = chosen
        self._isShowing = isShowing
        self._connections = Connections()
        for icon, button, act in (
            ("add", ui.addSegmentButton, self.add),
            ("remove", ui.removeSegmentButton, self._remove),
            ("clear", ui.clearPromptsButton, controller.clearPrompts),
        ):
            icons.give(icon, button)
            self._connections.press(button, act)
        self._connections.add(
            ui.segmentsTable, "selectionChanged(QItemSelection,QItemSelection)", self._selected
        )

    def close(self) -> None:
        """Disconnects the widgets."""
        self._connections.close()

    def add(self) -> None:
        """Adds a segment for the next structure, and switches to Click +."""
        if self._controller.refuses(rules.ADD_SEGMENT):
            return
        if self._controller.workspace is None:
            self._controller.provideSegment()
        else:
            self._chosen(self._controller.addSegment())
        if self._controller.tool != tools.POSITIVE:
            self._controller.chooseTool(tools.POSITIVE)

    def _remove(self) -> None:
        if self._controller.removeSegment():
            self._chosen("")

    def _selected(self, *_: Any) -> None:
        chosen = self._ui.segmentsTable.selectedSegmentIDs()
        if chosen and not self._isShowing():
            self._chosen(str(chosen[0]))

    def refresh(self, conditions: rules.Conditions) -> None:
        """Shows the present segments."""
        ui, controller = self._ui, self._controller
        node = controller.workspace.segmentationNode if controller.workspace is not None else None
        table = ui.segmentsTable
        if table.segmentationNode() is not node:
            table.setSegmentationNode(node)
        wanted = [controller.segmentID] if controller.segmentID else []
        if node is not None and list(table.selectedSegmentIDs()) != wanted:
            table.setSelectedSegmentIDs(wanted)
        self._fit(len(controller.workspace.segmentIDs) if controller.workspace is not None else 0)
        add = _("Add a segment for the next structure and switch to Click +. ({key})")
        enable(
            ui.addSegmentButton,
            rules.whyNot(rules.ADD_SEGMENT, conditions),
            add.format(key=tools.ADD_SEGMENT_KEY),
        )
        enable(
            ui.removeSegmentButton,
            "" if conditions.hasSegment else _("Choose a segment first."),
            _("Remove the chosen segment with its prompts."),
        )
        enable(
            ui.clearPromptsButton,
            rules.whyNot(rules.CLEAR_PROMPTS, conditions),
            _("Remove all prompts of the chosen segment; the segment stays."),
        )

    def _fit(self, count: int) -> None:
        """Makes the list high enough for so many segments, within bounds."""
        rows = min(max(count, _LEAST_ROWS), _MOST_ROWS)
        view = self._ui.segmentsTable.tableWidget()
        row = int(view.rowHeight(0)) if count else 0
        height = rows * max(row, _ROW) + 2 * int(view.frameWidth)
        if self._ui.segmentsTable.maximumHeight != height:
            self._ui.segmentsTable.setFixedHeight(height)
