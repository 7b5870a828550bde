"""The Segment Editor inside the panel: when it gets its settings, and when it has to let go of the scene.

Its widget keeps an effect, and its observers of the views, for as long as nobody takes them away. Nodes and
views that go while it still has them bring Slicer down.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import slicer.util

from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.scene.names import saveIfLoadable
from SAM2PropagateLib.texts import tr as _

# The Segment Editor's own buttons for its own history, which is not used here.
_OWN_BUTTONS = ("UndoButton", "RedoButton")


class EmbeddedEditor:
    """Gives a qMRMLSegmentEditorWidget its settings, and takes effect, nodes and observers away in time.

    Args:
        widget: the qMRMLSegmentEditorWidget.
        place: the QScrollArea around it: the options of some effects are wider than the panel.
        undo, redo: what its two buttons for that do.
    """

    def __init__(
        self, widget: Any, place: Any, undo: Callable[[], object], redo: Callable[[], object]
    ) -> None:
        import qt

        self._widget = widget
        self._place = place
        # The widget shows an effect's options after its settings have changed.
        self._whenShown = qt.QTimer()
        self._whenShown.setSingleShot(True)
        self._whenShown.setInterval(0)
        self._whenShown.connect("timeout()", self.fit)
        self._buttons: list[tuple[Any, Callable[[], object]]] = []
        for name, act in zip(_OWN_BUTTONS, (undo, redo), strict=True):
            self._takePlace(name, act)
        self.fit()

    def close(self) -> None:
        """Lets go of the widget."""
        self._whenShown.stop()
        self._whenShown.disconnect("timeout()", self.fit)
        for button, act in self._buttons:
            button.disconnect("clicked()", act)
        self._buttons.clear()

    def _takePlace(self, name: str, act: Callable[[], object]) -> None:
        """Puts a button of ours in the place of one of the editor's: the editor disables its own as it likes.

        Not found in a later Slicer, the editor's own stays, which has nothing to undo.
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
        """Enables the buttons of Undo and Redo, and says what they do."""
        for (button, _act), (isOn, text) in zip(self._buttons, states, strict=False):
            button.enabled = isOn
            button.toolTip = text

    def fitSoon(self) -> None:
        """Another effect was chosen: makes room for its options."""
        self._whenShown.start()

    def fit(self) -> None:
        """Makes the editor's place as high as the editor; it scrolls sideways rather than get wider."""
        bar = self._place.horizontalScrollBar()
        height = self._place.widget().layout().totalSizeHint().height()
        self._place.setMinimumHeight(height + (bar.height if bar.visible else 0))

    def use(self, editorNode: Any) -> None:
        """Gives the editor its settings (vtkMRMLSegmentEditorNode); the label layers of the views stay."""
        with labelLayersKept():
            self._widget.setMRMLSegmentEditorNode(editorNode)
            # The same settings may have another segmentation now, as after a scene was loaded.
            self._widget.updateWidgetFromMRML()

    def show(self, workspace: Any, segmentID: str) -> None:
        """Shows what is worked on, and the chosen segment.

        Args:
            workspace: its volume and segmentation; None: nothing.
        """
        editor = self._widget
        if editor.mrmlSegmentEditorNode() is None:
            return
        if workspace is None and editor.activeEffect() is not None:
            # It would go on to work on a segmentation or a volume that was removed.
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
        """Ends the active effect, and the editor's observing of the views with it."""
        effect = self._widget.activeEffect()
        self._widget.setActiveEffectByName("")
        if effect is not None and effect.active():
            # The widget does not follow its settings while a scene is being closed or loaded.
            effect.deactivate()
        self._widget.removeViewObservations()

    def letGo(self) -> None:
        """Ends the effect, and lets go of all nodes: the scene is about to be closed."""
        self.putEffectAway()
        if self._widget.mrmlSegmentEditorNode() is not None:
            self._widget.setSegmentationNode(None)
            self._widget.setSourceVolumeNode(None)
            self._widget.setMRMLSegmentEditorNode(None)


class EditorEffects:
    """Which effect of the embedded Segment Editor is on; it and the tools take the mouse from each other.

    Args:
        widget: the qMRMLSegmentEditorWidget.
        controller: has the tools.
        editSoon: has `Controller.editBegins` called once the editor has done what it is at.
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
        """The settings have changed: perhaps an effect was chosen, which has the mouse then."""
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
        """Perhaps a tool was chosen, which has the mouse then: one of them has, the one pressed last."""
        if self._controller.tool is not None and self._controller.tool != self._tool:
            self._widget.setActiveEffectByName("")
        self._tool = self._controller.tool

    def onFinished(self, _end: Any) -> None:
        """A run has ended, perhaps under an effect: that works on what the run left."""
        if self._effect:
            self._editSoon()


@contextlib.contextmanager
def labelLayersKept() -> Iterator[None]:
    """Within it, the Segment Editor may get a segmentation: it clears the label layer of all slice views."""
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    before = [view.GetLabelVolumeID() for view in views]
    try:
        yield
    finally:
        for view, volumeID in zip(views, before, strict=True):
            if view.GetLabelVolumeID() != volumeID:
                view.SetLabelVolumeID(volumeID)
