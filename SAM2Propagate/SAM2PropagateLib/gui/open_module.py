"""The module in Slicer's application: what comes and goes with the module, the views and the scene."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from SAM2PropagateLib.app import tools
from SAM2PropagateLib.gui.application import Application, isLeftButtonDown, sliceWidgets
from SAM2PropagateLib.gui.editor_writer import segmentEditorNode
from SAM2PropagateLib.gui.embedded_editor import EditorEffects
from SAM2PropagateLib.gui.panel import Panel
from SAM2PropagateLib.gui.parameters import ModuleLogic, Parameters
from SAM2PropagateLib.gui.provision import Provision
from SAM2PropagateLib.gui.shortcuts import WindowKeys
from SAM2PropagateLib.gui.view_input import ViewInput


class OpenModule:
    """The module's window, from its first opening to the end.

    Args:
        ui: the widgets by name.
        logic: what they are for.
        widget: the module's widget, a VTKObservationMixin with a `parent`.
        application: what is around it.

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
        self._keys = WindowKeys(controller, widget.parent)
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
            # A scene view that is restored takes nodes away and brings others, too.
            (scene.StartImportEvent, self._sceneStartImport, 0.0),
            (scene.StartRestoreEvent, self._sceneStartImport, 0.0),
            (scene.EndImportEvent, self._sceneEndImport, 0.0),
            (scene.EndRestoreEvent, self._sceneEndImport, 0.0),
            # Above the Segment Editor's own priority, as it would take the user's label layers away; and
            # below, as it has chosen the first segment then, and we put ours back.
            (scene.EndBatchProcessEvent, self._batchEnding, 1.0),
            (scene.EndBatchProcessEvent, self._batchEnded, -1.0),
        ):
            self._widget.addObserver(scene, event, react, priority=priority)
        selection = slicer.app.applicationLogic().GetSelectionNode()
        self._widget.addObserver(selection, vtk.vtkCommand.ModifiedEvent, self.parameters.onSelection)
        slicer.app.connect("paletteChanged(QPalette)", self._palette)
        slicer.app.connect("applicationStateChanged(Qt::ApplicationState)", self._applicationState)

    def close(self) -> None:
        """Lets go of everything in Slicer; the logic goes after it."""
        self.leaveViews()
        self._keys.giveBack()
        self.parameters.follow(None)
        self._widget.removeObservers()
        slicer.app.disconnect("paletteChanged(QPalette)", self._palette)
        slicer.app.disconnect("applicationStateChanged(Qt::ApplicationState)", self._applicationState)
        self.panel.close()
        self.parameters.close()

    def enter(self) -> None:
        """The user switches to the module."""
        self.parameters.take()
        self._keys.take(self.views.deletePrompt)
        self.enterViews()
        self.parameters.takeFirstTool()
        layout = slicer.app.layoutManager()
        if layout is not None:
            # Once, however often Slicer says that the module was entered.
            layout.disconnect("layoutChanged(int)", self.enterViews)
            layout.connect("layoutChanged(int)", self.enterViews)

    def exit(self) -> None:
        """The user switches to another module; a run goes on."""
        self.leaveViews()
        self._keys.giveBack()
        self.parameters.follow(None)

    # --- views

    def enterViews(self, *_: Any) -> None:
        """Listens to mouse and keys in the views of the present layout."""
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
        """Leaves the views as they were."""
        self._logic.controller.chooseTool(None)
        layout = slicer.app.layoutManager()
        if layout is not None:  # gone already when Slicer quits
            layout.disconnect("layoutChanged(int)", self.enterViews)
        self.views.clearViews()
        self.panel.followViews(())
        self.panel.putEffectAway()

    # --- the scene

    def _startAfresh(self) -> None:
        """The scene is another one now; followed if the module is the one in view."""
        if self._widget.parent.isEntered:
            self.parameters.take()
            self.enterViews()

    def _sceneStartClose(self, caller: Any, event: Any) -> None:
        """The scene is about to be closed: nothing here may hold on to its nodes."""
        self.parameters.follow(None)
        self.panel.letGoOfScene()
        self.panel.messages.forgetErrors()

    def _sceneEndClose(self, caller: Any, event: Any) -> None:
        self._startAfresh()

    def _sceneStartImport(self, caller: Any, event: Any) -> None:
        """Nodes are about to come in, and views may go: no effect may work on them meanwhile."""
        self.panel.putEffectAway()

    def _sceneEndImport(self, caller: Any, event: Any) -> None:
        # An effect that was on when the scene was saved would take the mouse, in any module.
        segmentEditorNode(slicer.mrmlScene).SetActiveEffectName("")
        self._startAfresh()

    def _batchEnding(self, caller: Any, event: Any) -> None:
        """Many nodes have come or gone: the embedded editor is shown them while label layers are kept."""
        if self.parameters.node is not None:
            self.panel.setEditorNode(self.effects.editorNode)

    def _batchEnded(self, caller: Any, event: Any) -> None:
        """Many nodes have come or gone: shows what is chosen, whatever the widgets made of it."""
        self.parameters.onSelection()
        if self.parameters.node is not None:
            self.panel.refresh()

    # --- the application

    def _palette(self, *_: Any) -> None:
        """Slicer's main window is light or dark now."""
        self.panel.showIcons()

    def _applicationState(self, state: Any) -> None:
        """Another application has the mouse, perhaps in the middle of a drag."""
        import qt

        if state != qt.Qt.ApplicationActive:
            self.views.cancelDrag()
