"""Puts the parts of the module's panel together, and refreshes them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import slicer.util

from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.app.events import UserMessage
from SAM2PropagateLib.app.server_jobs import ServerJobs
from SAM2PropagateLib.gui.application import Application
from SAM2PropagateLib.gui.curve_menu import CurveMenu
from SAM2PropagateLib.gui.dialogs import SlicerDialogs
from SAM2PropagateLib.gui.embedded_editor import EmbeddedEditor
from SAM2PropagateLib.gui.install import Installer
from SAM2PropagateLib.gui.install_banner import InstallBanner
from SAM2PropagateLib.gui.message_frame import MessageFrame
from SAM2PropagateLib.gui.model_list import ModelList
from SAM2PropagateLib.gui.model_section import ModelSection
from SAM2PropagateLib.gui.options import Options
from SAM2PropagateLib.gui.run_section import RunSection
from SAM2PropagateLib.gui.segment_list import SegmentList
from SAM2PropagateLib.gui.server_section import ServerSection
from SAM2PropagateLib.gui.tool_row import ToolRow
from SAM2PropagateLib.gui.widgets import Connections, Icons
from SAM2PropagateLib.gui.window_menu import WindowMenu
from SAM2PropagateLib.scene.names import encoded

# The Segment Editor's effects that are offered: those that correct a slice by hand.
EFFECTS = ("Paint", "Erase", "Scissors", "Islands", "Smoothing")
# The Segment Editor's own list of segments, which is hidden: the panel has one.
_EDITORS_LIST = "SegmentsTableResizableFrame"
# Pixels that a section's frame adds when it is open.
_FRAME = 8
# Where the application's settings keep the collapsed sections.
_COLLAPSED = "SAM2Propagate/Collapsed"


@dataclass(frozen=True)
class Provision:
    """What the worker needs, on this computer and on a server.

    Attributes:
        models: lists and downloads models. installer: installs packages on this computer.
        server: has the choice of the computer, and sets up a server.
    """

    models: ModelList
    installer: Installer
    server: ServerJobs


class Panel:
    """Connects the widgets of the .ui file with the controller.

    Args:
        ui: the widgets by name.
        controller: does the work. provision: what its worker needs.
        application: Slicer around the panel.
    """

    def __init__(
        self,
        ui: Any,
        controller: Controller,
        provision: Provision,
        application: Application,
    ) -> None:
        self._ui = ui
        self._controller = controller
        self._models = models = provision.models
        self._application = application
        self._parameters: Any = None
        self._isShowing = False
        self._icons = Icons(application.icons)
        self._editor = EmbeddedEditor(
            ui.segmentEditor, ui.editorScrollArea, controller.startUndo, controller.startRedo
        )
        self.messages = MessageFrame(ui, SlicerDialogs())
        self._banner = InstallBanner(ui, provision.installer, self.messages, self.refresh)
        self.window = WindowMenu(ui, controller)
        self.segments = SegmentList(ui, controller, self._icons, self._chooseSegment, lambda: self._isShowing)
        self._toolRow = ToolRow(ui, controller, self._icons, self.refresh)
        self.run = RunSection(ui, controller, application.frameSurfaces)
        self._options = Options(ui, controller, lambda: None if self._isShowing else self._parameters)
        self.curves = CurveMenu(ui, controller)
        self._model = ModelSection(ui, controller, models, self.messages, self._chooseModel)
        self._server = ServerSection(ui, controller, provision.server, self.messages)
        sections = {
            "Options": ui.optionsCollapsibleButton,
            "Edit": ui.editCollapsibleButton,
            "Model": ui.modelCollapsibleButton,
        }
        self._keepWidth(sections.values())
        self._sections = Sections(sections, application.settings)
        self._connections = Connections()
        self._connections.add(ui.segmentEditor, "currentSegmentIDChanged(QString)", self._editorChose)
        ui.segmentEditor.setEffectNameOrder(list(EFFECTS))
        # If a later Slicer names it otherwise, the list is only shown twice.
        for frame in slicer.util.findChildren(ui.segmentEditor, name=_EDITORS_LIST):
            frame.hide()
        self.showIcons()
        for signal, slot in (
            (controller.changed, self._changed),
            (controller.message, self._told),
            (controller.recovered, self.messages.recovered),
            (controller.wentOn, self.messages.wentOn),
            (self._models.changed, self._changed),
        ):
            self._connections.hear(signal, slot)
        self.refresh()

    def _keepWidth(self, sections: Iterable[Any]) -> None:
        """Makes the panel as wide as its widest section, even while that is closed. Else opening it would
        widen the panel and move the views.
        """
        panel = self._ui.modelCollapsibleButton.parent()
        self._ui.serverFrame.setVisible(True)
        before = [(one, one.collapsed) for one in sections]
        for one, _isCollapsed in before:
            one.collapsed = False
        panel.setMinimumWidth(panel.layout().totalMinimumSize().width() + _FRAME)
        # While the sections are open: a closed one would forget this and show the row again.
        self._ui.serverFrame.setVisible(False)
        for one, isCollapsed in before:
            one.collapsed = isCollapsed

    def close(self) -> None:
        """Disconnects widgets, views and controller."""
        for part in (
            self._connections, self.messages, self._banner, self.window, self.segments, self._toolRow,
            self.run, self._options, self.curves, self._model, self._server, self._sections, self._editor,
        ):  # fmt: skip
            part.close()

    @contextlib.contextmanager
    def _choosing(self) -> Iterator[None]:
        """Marks that widgets are being set: their signals meanwhile are not choices of the user."""
        before, self._isShowing = self._isShowing, True
        try:
            yield
        finally:
            self._isShowing = before

    # --- called by the module

    def setParameters(self, parameters: Any) -> None:
        """Shows a parameter node, and keeps the user's choices in it; None without a scene."""
        self._parameters = parameters
        self.refresh()

    def setEditorNode(self, editorNode: Any) -> None:
        """Gives the embedded Segment Editor its settings, and keeps the views' label layers."""
        with self._choosing():
            self._editor.use(editorNode)

    def fitEditor(self) -> None:
        """Makes room for the options of another effect of the embedded Segment Editor."""
        self._editor.fitSoon()

    def putEffectAway(self) -> None:
        """Ends the active effect of the embedded Segment Editor."""
        self._editor.putEffectAway()

    def letGoOfScene(self) -> None:
        """Takes nodes and effect from the embedded Segment Editor, as the scene is about to be closed."""
        with self._choosing():
            self._editor.letGo()

    def followViews(self, sliceNodes: Iterable[Any]) -> None:
        """Shows from now on which slice these views (vtkMRMLSliceNode) show, instead of earlier ones."""
        self.run.followViews(sliceNodes)

    def showIcons(self) -> None:
        """Shows the icons for a light or dark main window."""
        self._icons.show(self._application.isDark)

    def say(self, message: UserMessage) -> None:
        """Shows a message until it is dismissed or the next one comes."""
        self.messages.say(message)

    def _told(self, message: UserMessage) -> None:
        self.messages.say(message, isOfScene=True)

    # --- what the user chooses

    def _chooseSegment(self, segmentID: str) -> None:
        if self._parameters is not None:
            self._parameters.segmentID = encoded(segmentID)

    def _chooseModel(self, path: str) -> None:
        if self._parameters is not None:
            self._parameters.model = encoded(path)

    def _editorChose(self, _segmentID: str) -> None:
        # The editor chooses by itself, for example after a scene was loaded; the user chooses in the panel's
        # list.
        if not self._isShowing and not self._controller.isWriting and self._parameters is not None:
            self.refresh()

    # --- what is shown

    def _changed(self, _none: None = None) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Shows the present state of everything."""
        if self._isShowing:
            return
        with self._choosing():
            conditions = self._controller.conditions()
            self._toolRow.refresh(conditions)
            self.run.refresh(conditions)
            self._options.refresh(self._parameters)
            self.curves.refresh(conditions)
            self._model.refresh()
            self._server.refresh()
            self.segments.refresh(conditions)
            self._editor.show(self._controller.workspace, self._controller.segmentID)
            self._editor.showUndo(
                (self._controller.canUndo, self._controller.undoText),
                (self._controller.canRedo, self._controller.redoText),
            )
            self.window.refresh()
            self._banner.refresh()


class Sections:
    """Remembers in the application's settings which sections are collapsed.

    Args:
        sections: ctkCollapsibleButtons, by the names under which they are remembered.
        settings: the application's QSettings.
    """

    def __init__(self, sections: Mapping[str, Any], settings: Any) -> None:
        self._settings = settings
        self._connections = Connections()
        for name, section in sections.items():
            # A settings file returns every value as text.
            section.collapsed = str(settings.value(f"{_COLLAPSED}/{name}", "yes")) != "no"
            self._connections.add(
                section,
                "contentsCollapsed(bool)",
                lambda isCollapsed, name=name: self._remember(name, isCollapsed),
            )

    def close(self) -> None:
        """Disconnects the sections."""
        self._connections.close()

    def _remember(self, name: str, isCollapsed: bool) -> None:
        self._settings.setValue(f"{_COLLAPSED}/{name}", "yes" if isCollapsed else "no")
