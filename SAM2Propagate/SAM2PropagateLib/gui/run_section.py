"""Shows Propagate and Cancel, the strip, and the line on what there is to check."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import vtk

from SAM2PropagateLib.app import rules, tools
from SAM2PropagateLib.app.controller import Controller
from SAM2PropagateLib.app.events import FrameArrived, Progress, RunEnd
from SAM2PropagateLib.app.navigation import frameInView
from SAM2PropagateLib.app.observing import Observers
from SAM2PropagateLib.app.wording import resultText
from SAM2PropagateLib.gui.application import Later
from SAM2PropagateLib.gui.strip_widget import legend, makeStripWidget
from SAM2PropagateLib.gui.widgets import Connections, enable
from SAM2PropagateLib.scene.segments import hasSurfaces, showSurfaces
from SAM2PropagateLib.texts import tr as _

# Seconds between two drawings of the strip while slices arrive.
_STRIP_SECONDS = 0.2


class RunSection:
    """Starts and ends runs, and shows their progress and results.

    Args:
        ui: the widgets by name.
        controller: does the work.
        onSurfaces: called after surfaces were shown in 3D.
    """

    def __init__(self, ui: Any, controller: Controller, onSurfaces: Callable[[], None]) -> None:
        self._ui = ui
        self._controller = controller
        self._onSurfaces = onSurfaces
        self._drawn = 0.0
        # Shown until the number of slices is known.
        self._loading = ""
        self._end: tuple[str, tuple[Any, ...]] | None = None
        self._views = Observers()
        self._whenScrolled = Later()
        self._whenScrolled.calls(self._showShown)
        self.strip = makeStripWidget(self._jump)
        ui.stripPlace.layout().addWidget(self.strip)
        ui.stripPlace.toolTip = legend()
        self._connections = Connections()
        self.anew = self._makeMenu()
        for button, act in (
            (ui.propagateButton, controller.propagate),
            (ui.cancelButton, controller.cancel),
            (ui.applyButton, controller.startApplying),
            (ui.discardButton, controller.discard),
            (ui.nextDoubtfulButton, self.nextDoubtful),
        ):
            self._connections.press(button, act)
        self._connections.add(ui.show3DButton, "clicked(bool)", self._show3D)
        self._connections.hear(controller.progress, self._progress)
        self._connections.hear(controller.finished, self._finished)
        self._connections.hear(controller.frameArrived, self._frameArrived)
        self._connections.hear(controller.applying, self._applying)

    def close(self) -> None:
        """Disconnects widgets, views and controller."""
        self.followViews(())
        self._whenScrolled.close()
        self._connections.close()

    def _makeMenu(self) -> Any:
        """Makes the menu beside Propagate; returns its action."""
        import qt

        menu = qt.QMenu(self._ui.moreButton)
        menu.toolTipsVisible = True
        action = qt.QAction(_("Recompute all slices"), menu)
        menu.addAction(action)
        self._ui.moreButton.setMenu(menu)
        self._connections.add(action, "triggered()", self._propagateAnew)
        return action

    # --- what the user does

    def propagateOrCancel(self) -> None:
        """Starts a run, or cancels the one under way."""
        if self._controller.isRunning:
            self._controller.cancel()
        else:
            self._controller.propagate()

    def _propagateAnew(self) -> None:
        self._controller.propagate(anew=True)

    def nextDoubtful(self) -> None:
        """Shows the next doubtful slice."""
        self._controller.nextDoubtful()
        self.showStrip()

    def _jump(self, frame: int) -> None:
        self._controller.jump(frame)
        self.showStrip()

    def _show3D(self, isOn: bool) -> None:
        workspace = self._controller.workspace
        if workspace is not None:
            showSurfaces(workspace.segmentationNode, bool(isOn))
            if isOn:
                self._onSurfaces()

    # --- what is shown

    def refresh(self, conditions: rules.Conditions) -> None:
        """Shows the present state of everything."""
        ui, isRunning = self._ui, self._controller.isRunning
        self._forgetEnd()
        page = ui.runningPage if isRunning else ui.idlePage
        if ui.runStack.currentWidget() is not page:
            ui.runStack.setCurrentWidget(page)
            self._showProgress(Progress(0, 0, None, None, ""))
        for button, action, title, text, key in (
            (
                ui.propagateButton,
                rules.PROPAGATE,
                _("Propagate"),
                _("Carry the masks through the volume."),
                tools.PROPAGATE_KEY,
            ),
            (
                ui.cancelButton,
                rules.CANCEL,
                _("Cancel"),
                _("End the propagation; finished slices stay in the preview."),
                tools.PROPAGATE_KEY,
            ),
            (
                ui.nextDoubtfulButton,
                rules.NEXT_DOUBTFUL,
                _("Next doubtful"),
                _("Show the worst slice of the next doubtful stretch."),
                tools.NEXT_DOUBTFUL_KEY,
            ),
        ):
            button.text = f"{title} ({key})"
            enable(button, rules.whyNot(action, conditions), f"{text} ({key})")
        enable(
            self.anew,
            rules.whyNot(rules.PROPAGATE_ANEW, conditions),
            _(
                "Compute every slice again in the window and level of the views; keyframes and locked "
                "slices stay."
            ),
        )
        for button, action, text in (
            (ui.applyButton, rules.APPLY, _("Write the preview into the segment, as one undo step.")),
            (ui.discardButton, rules.DISCARD, _("Drop the preview; segment and prompts stay.")),
        ):
            enable(button, rules.whyNot(action, conditions), text)
            button.setVisible(conditions.hasPreview)
        workspace = self._controller.workspace
        enable(
            ui.show3DButton,
            "" if workspace is not None else _("Choose or create a segmentation first."),
            _("Show the segments as surfaces in the 3D view, or hide them."),
        )
        ui.show3DButton.checked = workspace is not None and hasSurfaces(workspace.segmentationNode)
        self.showStrip()

    def followViews(self, sliceNodes: Iterable[Any]) -> None:
        """Shows from now on which slice these views (vtkMRMLSliceNode) show, instead of earlier ones."""
        self._views.clear()
        self._whenScrolled.stop()
        for node in sliceNodes:
            # A view changes several times per step of the wheel: one look after all of them is enough.
            self._views.add(node, vtk.vtkCommand.ModifiedEvent, self._whenScrolled.start)

    def showStrip(self) -> None:
        """Draws the strip, and shows what there is to check."""
        strip = self._controller.strip()
        self.strip.setStrip(strip, self._shownFrame())
        state = self._end[0] if self._end is not None else "done"
        doing = _("Applying") if self._controller.isApplying else self._loading
        self._ui.resultLabel.text = doing or resultText(strip, state)
        self._drawn = time.monotonic()

    def _showShown(self) -> None:
        """Moves the line of the slice in view, after the user has scrolled."""
        self.strip.setShownFrame(self._shownFrame())

    def _shownFrame(self) -> int | None:
        workspace = self._controller.workspace
        if workspace is None or not workspace.isInScene:
            return None
        return frameInView(workspace.volumeNode.GetScene(), workspace.worldGeometry, workspace.axis)

    def _frameArrived(self, _arrived: FrameArrived) -> None:
        if time.monotonic() - self._drawn > _STRIP_SECONDS:
            self.showStrip()

    def _progress(self, progress: Progress) -> None:
        # A run shows its progress in the bar, loading before a preview in this line.
        loading = "" if progress.total and self._controller.isRunning else progress.text
        self._showProgress(progress)
        if loading != self._loading:
            self._loading = loading
            self.showStrip()

    def _applying(self, _none: None) -> None:
        """Shows that applying has begun; `refresh` follows at its end."""
        ui = self._ui
        ui.resultLabel.text = ui.progressBar.format = ui.progressBar.toolTip = _("Applying")
        for button in (ui.applyButton, ui.discardButton):
            enable(button, _("The preview is being applied."), "")

    def _showProgress(self, progress: Progress) -> None:
        bar = self._ui.progressBar
        bar.maximum = max(progress.total, progress.done)
        bar.value = progress.done
        bar.format = bar.toolTip = progress.text

    # --- how the last run ended

    def _finished(self, end: RunEnd) -> None:
        self._loading = ""
        self._end = (end.state, self._standing())

    def _standing(self) -> tuple[Any, ...]:
        """Returns the state that the text on a run's end depends on."""
        workspace = self._controller.workspace
        if workspace is None:
            return (None,)
        return (workspace, self._controller.segmentID, workspace.handEdits.undoCount, workspace.hasPreview)

    def _forgetEnd(self) -> None:
        if self._end is not None and (self._controller.isRunning or self._standing() != self._end[1]):
            self._end = None
