"""Manages the Segment Editor in the panel: gives it its settings, and takes its nodes away in time.

Its widget keeps the active effect and observes the views until it is told otherwise. Slicer crashes if nodes
or views are removed before that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import slicer.util

from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.gui.application import Later
from SAM2PropagateLib.scene.names import saveIfLoadable
from SAM2PropagateLib.texts import tr as _

# The Segment Editor's buttons for its own history, which this module does not use.
_OWN_BUTTONS = ("UndoButton", "RedoButton")


class EmbeddedEditor:
    """Gives a qMRMLSegmentEditorWidget its settings, and ends effect and observers in time.

    Args:
        widget: the qMRMLSegmentEditorWidget.
        place: the QScrollArea around it, as some effects' options are wider than the panel.
        undo, redo: called by its Undo and Redo buttons.
    """

    def __init__(
        self, widget: Any, place: Any, undo: Callable[[], object], redo: Callable[[], object]
    ) -> None:
        self._widget = widget
        self._place = place
        # The widget shows an effect's options a little later than it changes its settings.
        self._whenShown = Later()
        self._whenShown.calls(self.fit)
        self._buttons: list[tuple[Any, Callable[[], object]]] = []
        for name, act in zip(_OWN_BUTTONS, (undo, redo), strict=True):
            self._takePlace(name, act)
        self.fit()

    def close(self) -> None:
        """Disconnects the widget."""
        self._whenShown.close()
        for button, act in self._buttons:
            button.disconnect("clicked()", act)
        self._buttons.clear()

    def _takePlace(self, name: str, act: Callable[[], object]) -> None:
        """Replaces one of the editor's buttons by our own, as the editor disables its own for its empty
        history.

        If a later Slicer has no such button, the editor's own stays, which has nothing to undo.
        """
        import qt

        for own in slicer.util.findChildren(self._widget, name=name):
            button = qt.QToolButton(own.parent())
            button.setObjectName(f"module{name}")
            button.text, button.icon = own.text, own.icon
            button.toolButtonStyle = own.toolButtonStyle
            own.parent().layout().addWidget(button, 1, _OWN_BUTTONS.index(name))
            own.hide()
            button.connect("clicked()", act)
            self._buttons.append((button, act))

    def showUndo(self, *states: tuple[bool, str]) -> None:
        """Enables the Undo and Redo buttons, and sets their tooltips."""
        for (button, _act), (isOn, text) in zip(self._buttons, states, strict=False):
            button.enabled = isOn
            button.toolTip = text

    def fitSoon(self) -> None:
        """Schedules `fit`, after another effect was chosen."""
        self._whenShown.start()

    def fit(self) -> None:
        """Makes the editor's place as high as the editor; the place scrolls instead of getting wider."""
        bar = self._place.horizontalScrollBar()
        height = self._place.widget().layout().totalSizeHint().height()
        self._place.setMinimumHeight(height + (bar.height if bar.visible else 0))

    def use(self, editorNode: Any) -> None:
        """Gives the editor its settings (vtkMRMLSegmentEditorNode), and keeps the views' label layers."""
        with labelLayersKept():
            self._widget.setMRMLSegmentEditorNode(editorNode)
            # The same settings may name another segmentation now, for example after a scene was loaded.
            self._widget.updateWidgetFromMRML()

    def show(self, workspace: Any, segmentID: str) -> None:
        """Shows the workspace and the chosen segment.

        Args:
            workspace: has the volume and the segmentation; None: nothing is shown.
        """
        editor = self._widget
        if editor.mrmlSegmentEditorNode() is None:
            return
        if workspace is None and editor.activeEffect() is not None:
            # An active effect would keep working on removed nodes.
            self.putEffectAway()
        node = workspace.segmentationNode if workspace is not None else None
        if editor.segmentationNode() is not node:
            with labelLayersKept():
                editor.setSegmentationNode(node)
        volume = workspace.volumeNode if workspace is not None else None
        if editor.sourceVolumeNode() is not volume:
            editor.setSourceVolumeNode(volume)
        isThere = workspace is not None and segmentID in workspace.segmentIDs
        if isThere and editor.currentSegmentID() != segmentID:
            editor.setCurrentSegmentID(segmentID)

    def putEffectAway(self) -> None:
        """Ends the active effect, and with it the editor's observing of the views."""
        effect = self._widget.activeEffect()
        self._widget.setActiveEffectByName("")
        if effect is not None and effect.active():
            # While a scene is being closed or loaded, the widget ignores its settings.
            effect.deactivate()
        self._widget.removeViewObservations()

    def letGo(self) -> None:
        """Ends the effect and takes all nodes away, as the scene is about to be closed."""
        self.putEffectAway()
        takeNodes(self._widget)


def takeNodes(widget: Any) -> None:
    """Takes all nodes from a qMRMLSegmentEditorWidget: with a segmentation, but without settings, it would
    report errors once that is removed."""
    if widget.mrmlSegmentEditorNode() is not None:
        widget.setSegmentationNode(None)
        widget.setSourceVolumeNode(None)
        widget.setMRMLSegmentEditorNode(None)


class EditorEffects:
    """The embedded Segment Editor's effects: one of them or a tool has the mouse, whichever was chosen last.

    Args:
        widget: the qMRMLSegmentEditorWidget.
        controller: has the tools.
        editSoon: schedules `Controller.editBegins` for when the editor has handled its present event.
        fit: makes room for another effect's options.
    """

    def __init__(
        self, widget: Any, controller: Controller, editSoon: Callable[[], None], fit: Callable[[], None]
    ) -> None:
        self._widget = widget
        self._controller = controller
        self._editSoon = editSoon
        self._fit = fit
        self._effect = ""
        self._tool: str | None = None
        self.editorNode: Any = None

    @property
    def name(self) -> str:
        """The effect as the name of an undo step; "" for none, or one that is not offered here."""
        names = {
            "Paint": _("paint"),
            "Erase": _("erase"),
            "Scissors": _("scissors"),
            "Islands": _("islands"),
            "Smoothing": _("smoothing"),
        }
        return names.get(self._effect, "")

    def onEditor(self, caller: Any = None, event: Any = None) -> None:
        """Switches the tool off if an effect was chosen; called when the editor's settings have changed."""
        if self.editorNode is not None:
            saveIfLoadable(self.editorNode)
        effect = str(self.editorNode.GetActiveEffectName() or "") if self.editorNode is not None else ""
        if effect and effect != self._effect:
            self._controller.chooseTool(None)
            self._editSoon()
        if effect != self._effect:
            self._fit()
        self._effect = effect

    def onTool(self) -> None:
        """Ends the effect if a tool was chosen."""
        if self._controller.tool is not None and self._controller.tool != self._tool:
            self._widget.setActiveEffectByName("")
        self._tool = self._controller.tool

    def onFinished(self, _end: Any) -> None:
        """Applies a run's masks if an effect is on, which then edits what the user sees."""
        if self._effect:
            self._editSoon()


@contextlib.contextmanager
def labelLayersKept() -> Iterator[None]:
    """Keeps the slice views' label layers, which the Segment Editor clears when it gets a segmentation."""
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    before = [view.GetLabelVolumeID() for view in views]
    try:
        yield
    finally:
        for view, volumeID in zip(views, before, strict=True):
            if view.GetLabelVolumeID() != volumeID:
                view.SetLabelVolumeID(volumeID)
