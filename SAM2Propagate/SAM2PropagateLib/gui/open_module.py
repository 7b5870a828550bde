"""Connects the open module with Slicer: entering, leaving, views and scenes."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from SAM2PropagateLib.app import tools
from SAM2PropagateLib.gui.application import Application, isLeftButtonDown, sliceWidgets
from SAM2PropagateLib.gui.editor_writer import segmentEditorNode
from SAM2PropagateLib.gui.embedded_editor import EditorEffects
from SAM2PropagateLib.gui.panel import Panel, Provision
from SAM2PropagateLib.gui.parameters import ModuleLogic, Parameters
from SAM2PropagateLib.gui.shortcuts import MainWindowKeys
from SAM2PropagateLib.gui.view_input import ViewInput


class OpenModule:
    """The module from its first opening to its end.

    Args:
        ui: the widgets by name.
        logic: the module's logic.
        widget: the module's widget, a VTKObservationMixin with a `parent`.
        application: Slicer around it.

    Attributes:
        panel, views, parameters, effects: its parts.
    """

    def __init__(self, ui: Any, logic: ModuleLogic, widget: Any, application: Application) -> None:
        self._ui = ui
        self._logic = logic
        self._widget = widget
        controller = logic.controller
        self.panel = panel = Panel(
            ui, controller, Provision(logic.modelList, logic.installer, logic.server), application
        )
        self._keys = MainWindowKeys(controller, widget.parent)
        self.views = ViewInput(
            controller,
            {
                tools.PROPAGATE_KEY: panel.run.propagateOrCancel,
                tools.NEXT_DOUBTFUL_KEY: panel.run.nextDoubtful,
                tools.ADD_SEGMENT_KEY: panel.segments.add,
            },
            onHover=self._keys.hover,
            isButtonDown=isLeftButtonDown,
        )
        self.effects = EditorEffects(ui.segmentEditor, controller, logic.editSoon, panel.fitEditor)
        controller.changed.connect(self._keys.refresh)
        self.parameters = Parameters(ui, logic, panel, self.effects, widget)
        controller.finished.connect(self.effects.onFinished)
        self._observe()
        self.parameters.take()

    def _observe(self) -> None:
        scene = slicer.mrmlScene
        for event, react, priority in (
            (scene.StartCloseEvent, self._sceneStartClose, 0.0),
            (scene.EndCloseEvent, self._sceneEndClose, 0.0),
            # Restoring a scene view removes and adds nodes, too.
            (scene.StartImportEvent, self._sceneStartImport, 0.0),
            (scene.StartRestoreEvent, self._sceneStartImport, 0.0),
            (scene.EndImportEvent, self._sceneEndImport, 0.0),
            (scene.EndRestoreEvent, self._sceneEndImport, 0.0),
            # The first one runs before the Segment Editor's observer, to save the views' label layers; the
            # second after it, as the editor has chosen the first segment by then and ours is chosen again.
            (scene.EndBatchProcessEvent, self._batchEnding, 1.0),
            (scene.EndBatchProcessEvent, self._batchEnded, -1.0),
        ):
            self._widget.addObserver(scene, event, react, priority=priority)
        selection = slicer.app.applicationLogic().GetSelectionNode()
        self._widget.addObserver(selection, vtk.vtkCommand.ModifiedEvent, self.parameters.onSelection)
        slicer.app.connect("paletteChanged(QPalette)", self._palette)
        slicer.app.connect("applicationStateChanged(Qt::ApplicationState)", self._applicationState)

    def close(self) -> None:
        """Removes all observers and connections; close the logic after it."""
        self.leaveViews()
        self._keys.giveBack()
        self.parameters.follow(None)
        self._widget.removeObservers()
        slicer.app.disconnect("paletteChanged(QPalette)", self._palette)
        slicer.app.disconnect("applicationStateChanged(Qt::ApplicationState)", self._applicationState)
        self.panel.close()
        self.parameters.close()

    def enter(self) -> None:
        """Follows scene and views, as the user switches to the module."""
        self.parameters.take()
        self._keys.take(self.views.deletePrompt)
        self.enterViews()
        self.parameters.takeFirstTool()
        layout = slicer.app.layoutManager()
        if layout is not None:
            # Slicer may call `enter` several times in a row.
            layout.disconnect("layoutChanged(int)", self.enterViews)
            layout.connect("layoutChanged(int)", self.enterViews)

    def exit(self) -> None:
        """Leaves views and scene alone, as the user switches to another module; a run goes on."""
        self.leaveViews()
        self._keys.giveBack()
        self.parameters.follow(None)

    # --- views

    def enterViews(self, *_: Any) -> None:
        """Observes mouse and keys in the views of the present layout."""
        layout = slicer.app.layoutManager()
        if layout is None:  # Slicer without its main window
            return
        self.views.clearViews()
        widgets = sliceWidgets()
        for widget in widgets:
            view = widget.sliceView()
            self.views.addSliceView(view.interactor(), widget.mrmlSliceNode(), view.scheduleRender)
        for number in range(layout.threeDViewCount):
            self.views.add3DView(layout.threeDWidget(number).threeDView().interactor())
        self.views.start()
        self.panel.followViews([widget.mrmlSliceNode() for widget in widgets])

    def leaveViews(self) -> None:
        """Stops observing the views."""
        self._logic.controller.chooseTool(None)
        layout = slicer.app.layoutManager()
        if layout is not None:  # None while Slicer quits
            layout.disconnect("layoutChanged(int)", self.enterViews)
        self.views.clearViews()
        self.panel.followViews(())
        self.panel.putEffectAway()

    # --- the scene

    def _startAfresh(self) -> None:
        """Follows the new scene, if the module is in view."""
        if self._widget.parent.isEntered:
            self.parameters.take()
            self.enterViews()
            self.parameters.takeFirstTool()

    def _sceneStartClose(self, caller: Any, event: Any) -> None:
        """Releases all nodes of the scene, which is about to be closed."""
        self.parameters.follow(None)
        self.panel.letGoOfScene()
        self.panel.messages.forgetErrors()

    def _sceneEndClose(self, caller: Any, event: Any) -> None:
        self._startAfresh()

    def _sceneStartImport(self, caller: Any, event: Any) -> None:
        """Ends the effect before nodes come in and views may be removed."""
        self.panel.putEffectAway()

    def _sceneEndImport(self, caller: Any, event: Any) -> None:
        # An effect that was on when the scene was saved would take the mouse, even in other modules.
        segmentEditorNode(slicer.mrmlScene).SetActiveEffectName("")
        self._startAfresh()

    def _batchEnding(self, caller: Any, event: Any) -> None:
        """Lets the embedded editor handle a batch of added and removed nodes, with label layers kept."""
        if self.parameters.node is not None:
            self.panel.setEditorNode(self.effects.editorNode)

    def _batchEnded(self, caller: Any, event: Any) -> None:
        """Shows the choices again, which widgets may have changed while nodes were added and removed."""
        self.parameters.onSelection()
        if self.parameters.node is not None:
            self.panel.refresh()

    # --- the application

    def _palette(self, *_: Any) -> None:
        """Shows icons for a main window that has become light or dark."""
        self.panel.showIcons()

    def _applicationState(self, state: Any) -> None:
        """Takes back a drag when another application gets the mouse."""
        import qt

        if state != qt.Qt.ApplicationActive:
            self.views.cancelDrag()
