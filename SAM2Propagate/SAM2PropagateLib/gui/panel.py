"""The module's panel: puts its parts together, and has them show what there is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import slicer.util

from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.app.events import UserMessage
from SAM2PropagateLib.gui.application import Application
from SAM2PropagateLib.gui.curve_menu import CurveMenu
from SAM2PropagateLib.gui.dialogs import SlicerDialogs
from SAM2PropagateLib.gui.embedded_editor import EmbeddedEditor
from SAM2PropagateLib.gui.install_banner import InstallBanner
from SAM2PropagateLib.gui.message_frame import MessageFrame
from SAM2PropagateLib.gui.model_section import ModelSection
from SAM2PropagateLib.gui.options import Options
from SAM2PropagateLib.gui.provision import Provision
from SAM2PropagateLib.gui.run_view import RunView
from SAM2PropagateLib.gui.segment_list import SegmentList
from SAM2PropagateLib.gui.server_section import ServerSection
from SAM2PropagateLib.gui.tool_row import ToolRow
from SAM2PropagateLib.gui.widgets import Connections, Icons
from SAM2PropagateLib.gui.window_menu import WindowMenu
from SAM2PropagateLib.scene.names import encoded

# The effects of the Segment Editor that are offered here: what corrects a slice by hand.
EFFECTS = ("Paint", "Erase", "Scissors", "Islands", "Smoothing")
# The Segment Editor's own list of segments: the panel has one already.
_EDITORS_LIST = "SegmentsTableResizableFrame"
# Pixels that the frame of a section adds once it is seen open.
_FRAME = 8
# Where the application's settings keep which sections are collapsed.
_COLLAPSED = "SAM2Propagate/Collapsed"


class Panel:
    """Connects the widgets of the .ui file with the controller.

    Args:
        ui: the widgets by name.
        controller: what they are for. provision: what its worker needs.
        application: where the panel is.
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
        self.run = RunView(ui, controller, application.frameSurfaces)
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
        # Not found in a later Slicer, the list is only there twice.
        for frame in slicer.util.findChildren(ui.segmentEditor, name=_EDITORS_LIST):
            frame.hide()
        self.showIcons()
        for signal, slot in self._signals():
            signal.connect(slot)
        self.refresh()

    def _keepWidth(self, sections: Iterable[Any]) -> None:
        """Makes the panel as wide as its widest section needs, also while that is closed: Slicer would make
        it wider when it is opened, and move the views.
        """
        panel = self._ui.modelCollapsibleButton.parent()
        self._ui.serverFrame.setVisible(True)
        before = [(one, one.collapsed) for one in sections]
        for one, _isCollapsed in before:
            one.collapsed = False
        panel.setMinimumWidth(panel.layout().totalMinimumSize().width() + _FRAME)
        # A section that is closed remembers which rows it is to show again.
        self._ui.serverFrame.setVisible(False)
        for one, isCollapsed in before:
            one.collapsed = isCollapsed

    def close(self) -> None:
        """Lets go of the widgets, of the views and of the controller."""
        for signal, slot in self._signals():
            signal.disconnect(slot)
        for part in (
            self._connections, self.messages, self._banner, self.window, self.segments, self._toolRow,
            self.run, self._options, self.curves, self._model, self._server, self._sections, self._editor,
        ):  # fmt: skip
            part.close()

    def _signals(self) -> list[tuple[Any, Any]]:
        return [
            (self._controller.changed, self._changed),
            (self._controller.message, self._told),
            (self._controller.recovered, self.messages.recovered),
            (self._controller.wentOn, self.messages.wentOn),
            (self._models.changed, self._changed),
        ]

    @contextlib.contextmanager
    def _choosing(self) -> Iterator[None]:
        """While widgets are set: what they choose meanwhile is no choice of the user."""
        before, self._isShowing = self._isShowing, True
        try:
            yield
        finally:
            self._isShowing = before

    # --- what the module tells

    def setParameters(self, parameters: Any) -> None:
        """Shows these parameters, and keeps the user's choices in them; None while no scene is at hand."""
        self._parameters = parameters
        self.refresh()

    def setEditorNode(self, editorNode: Any) -> None:
        """Gives the embedded Segment Editor its settings; the user's label layers stay in the views."""
        with self._choosing():
            self._editor.use(editorNode)

    def fitEditor(self) -> None:
        """Another effect of the embedded Segment Editor was chosen: makes room for its options."""
        self._editor.fitSoon()

    def putEffectAway(self) -> None:
        """Ends the effect of the embedded Segment Editor that is on."""
        self._editor.putEffectAway()

    def letGoOfScene(self) -> None:
        """Takes nodes and effect from the embedded Segment Editor: the scene is about to be closed."""
        with self._choosing():
            self._editor.letGo()

    def followViews(self, sliceNodes: Iterable[Any]) -> None:
        """Shows from now on which slice these views (vtkMRMLSliceNode) show, in the place of those before."""
        self.run.followViews(sliceNodes)

    def showIcons(self) -> None:
        """Shows the icons for light or dark panels, as the main window is now."""
        self._icons.show(self._application.isDark)

    def say(self, message: UserMessage) -> None:
        """Shows a message, until it is dismissed or the next one comes."""
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
        # By itself, as when a scene was loaded: the list where the user chooses is the panel's.
        if not self._isShowing and not self._controller.isWriting and self._parameters is not None:
            self.refresh()

    # --- what is shown

    def _changed(self, _none: None = None) -> None:
        self.refresh()

    def refresh(self) -> None:
        """Shows everything as it is now."""
        if self._isShowing:
            return
        with self._choosing():
            facts = self._controller.facts()
            self._toolRow.refresh(facts)
            self.run.refresh(facts)
            self._options.refresh(self._parameters)
            self.curves.refresh(facts)
            self._model.refresh()
            self._server.refresh()
            self.segments.refresh(facts)
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
            # Text, as a settings file gives every value back as text.
            section.collapsed = str(settings.value(f"{_COLLAPSED}/{name}", "yes")) != "no"
            self._connections.add(
                section,
                "contentsCollapsed(bool)",
                lambda isCollapsed, name=name: self._remember(name, isCollapsed),
            )

    def close(self) -> None:
        """Lets go of the sections."""
        self._connections.close()

    def _remember(self, name: str, isCollapsed: bool) -> None:
        self._settings.setValue(f"{_COLLAPSED}/{name}", "yes" if isCollapsed else "no")
