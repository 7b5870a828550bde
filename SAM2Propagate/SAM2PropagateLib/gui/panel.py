"""The module's panel: which widget says what to the controller, and what is shown of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import slicer.util
import vtk

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.gui import devices, rules, tools
from SAM2PropagateLib.gui.controller import Controller
from SAM2PropagateLib.gui.embedded_editor import EmbeddedEditor, labelLayersKept
from SAM2PropagateLib.gui.events import Choices, FrameArrived, Message, Progress, RunEnd
from SAM2PropagateLib.gui.install import InstallEnd, Installer, Package, bannerText, consentText
from SAM2PropagateLib.gui.model_list import DownloadEnd, DownloadProgress, ModelList
from SAM2PropagateLib.gui.navigation import frameInView
from SAM2PropagateLib.gui.observing import Observers
from SAM2PropagateLib.gui.strip_widget import COLORS, DOUBT, SHOWN, makeStripWidget
from SAM2PropagateLib.gui.wording import endText
from SAM2PropagateLib.run_options import BACKWARD, BOTH, DIRECTIONS, FORWARD, RunOptions
from SAM2PropagateLib.scene.names import decoded, encoded
from SAM2PropagateLib.texts import plural
from SAM2PropagateLib.texts import tr as _

# The effects of the Segment Editor that are offered here: what corrects a slice by hand.
EFFECTS = ("Paint", "Erase", "Scissors", "Islands", "Smoothing")
# The smallest and the largest reach of a run that can be chosen, in slices.
REACH = (1, 9999)
# The Segment Editor's own list of segments: the panel has one already.
_EDITORS_LIST = "SegmentsTableResizableFrame"
# Seconds between two drawings of the strip while slices arrive.
_STRIP_SECONDS = 0.2
# Characters of a line of pip's that are shown while it works; the log has all.
_LINE = 80
# The size of a message's icon in pixels.
_ICON = 22


class Dialogs(Protocol):
    """Questions to the user."""

    def agree(self, text: str, title: str) -> bool: ...

    def showLog(self, text: str, log: str) -> None: ...

    def chooseWeights(self) -> str: ...


class Panel:
    """Connects the widgets of the .ui file with the controller.

    Args:
        ui: the widgets by name.
        controller, models, installer: what they stand for.
        missing: the packages that are not installed.
        dialogs: how the user is asked.
        icons: the folder with the icons, one folder for light and one for dark windows in it.
        isDark: whether the window is dark.
    """

    def __init__(
        self,
        ui: Any,
        controller: Controller,
        models: ModelList,
        installer: Installer,
        missing: Callable[[], tuple[Package, ...]],
        dialogs: Dialogs,
        icons: Path,
        isDark: bool,
    ) -> None:
        self._ui = ui
        self._controller = controller
        self._models = models
        self._installer = installer
        self._missing = missing
        self._dialogs = dialogs
        self._editor = EmbeddedEditor(ui.segmentEditor, ui.editorScrollArea)
        self._parameters: Any = None
        self._isShowing = False
        self._message: Message | None = None
        self._error: Message | None = None
        self._isOfScene = False
        self._outcome: tuple[bool, tuple[Any, ...]] | None = None
        self._installStep = ""
        self._drawn = 0.0
        self._tools = {name: getattr(ui, f"{name}ToolButton") for name in tools.TOOLS}
        self._views = Observers()
        self._whenScrolled = self._makeTimer()
        self._strip = makeStripWidget(self._jump)
        ui.stripPlace.layout().addWidget(self._strip)
        self._icons = icons
        self.showIcons(isDark)
        self._describe()
        self._slots: list[tuple[Any, str, Any]] = []
        self._connectWidgets()
        for signal, slot in self._signals():
            signal.connect(slot)
        self.refresh()

    def close(self) -> None:
        """Lets go of the widgets, of the views and of the controller."""
        self.followViews(())
        self._whenScrolled.disconnect("timeout()", self._showShown)
        for widget, signal, slot in self._slots:
            widget.disconnect(signal, slot)
        self._slots.clear()
        for signal, slot in self._signals():
            signal.disconnect(slot)
        self._editor.close()

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
        self._views.clear()
        self._whenScrolled.stop()
        for node in sliceNodes:
            # A view changes several times for each step of the wheel: looked at once, after all of them.
            self._views.add(node, vtk.vtkCommand.ModifiedEvent, self._whenScrolled.start)

    def _makeTimer(self) -> Any:
        import qt

        timer = qt.QTimer()
        timer.setSingleShot(True)
        timer.setInterval(0)
        timer.connect("timeout()", self._showShown)
        return timer

    @contextlib.contextmanager
    def _choosing(self) -> Iterator[None]:
        """While widgets are set: what they choose meanwhile is no choice of the user."""
        before, self._isShowing = self._isShowing, True
        try:
            yield
        finally:
            self._isShowing = before

    # --- building

    def showIcons(self, isDark: bool) -> None:
        """Gives the tools the icons for light or dark windows."""
        import qt

        folder = self._icons / ("Dark" if isDark else "Light")
        for name, button in self._tools.items():
            button.setIcon(qt.QIcon(str(folder / f"{name}.svg")))

    def _describe(self) -> None:
        import qt

        for tool in tools.tools():
            button = self._tools[tool.name]
            button.text = tool.title
        ui = self._ui
        ui.segmentEditor.setEffectNameOrder(list(EFFECTS))
        # Not found in a later Slicer, the list is only there twice.
        for frame in slicer.util.findChildren(ui.segmentEditor, name=_EDITORS_LIST):
            frame.hide()
        for label in (ui.progressLabel, ui.downloadLabel, ui.installProgressLabel):
            _put(label, "")
        self._showLogButtons()
        for value, text in (
            (BOTH, _("Both directions")),
            (FORWARD, _("Forward only (to higher slice numbers)")),
            (BACKWARD, _("Backward only (to lower slice numbers)")),
        ):
            ui.directionComboBox.addItem(text, value)
        self._devices = {one.name: one for one in devices.devices()}
        for index, device in enumerate(self._devices.values()):
            ui.deviceComboBox.addItem(device.title, device.name)
            # One that a scene brings along stays chosen, whatever this computer is.
            ui.deviceComboBox.model().item(index).setEnabled(not device.whyNot)
            ui.deviceComboBox.setItemData(index, device.whyNot or device.help, qt.Qt.ToolTipRole)
        listed = ", ".join(
            f"<b>{key}</b>&nbsp;{what.replace(' ', '&nbsp;')}" for key, what in tools.keyList()
        )
        ui.keysLabel.text = _("Keys in a slice view: {keys}.").format(keys=listed) + " " + tools.keyNote()
        names = (
            ("keyframe", _("keyframe")),
            ("edited", _("edited")),
            ("propagated", _("propagated")),
            ("absent", _("absent")),
            ("locked", _("locked")),
        )
        ui.stripLabel.text = " ".join(
            f'<span style="color:{COLORS[look]}">■</span>&nbsp;{name}' for look, name in names
        ) + (
            f' <span style="color:{DOUBT}">—</span>&nbsp;{_("doubt")}'
            f' <span style="color:{SHOWN}">|</span>&nbsp;{_("slice in view").replace(" ", "&nbsp;")}'
            f" · {_('notched: preview, not applied yet').replace(' ', '&nbsp;')}"
        )

    def _connectWidgets(self) -> None:
        ui, controller = self._ui, self._controller
        for name, button in self._tools.items():
            self._connect(button, "clicked(bool)", lambda _on, name=name: self._chooseTool(name))
        for button, act in (
            (ui.undoPromptButton, controller.undoPrompt),
            (ui.redoPromptButton, controller.redoPrompt),
            (ui.clearPromptsButton, controller.clearPrompts),
            (ui.propagateButton, self.propagateOrCancel),
            (ui.propagateAnewButton, self._propagateAnew),
            (ui.applyButton, controller.apply),
            (ui.discardButton, controller.discard),
            (ui.nextDoubtfulButton, self.nextDoubtful),
            (ui.addSegmentButton, self._addSegment),
            (ui.removeSegmentButton, self._removeSegment),
            (ui.installButton, self._install),
            (ui.logButton, self._showLog),
            (ui.errorButton, self._showError),
            (ui.dismissButton, self.dismiss),
            (ui.downloadModelButton, self._download),
            (ui.removeModelButton, self._removeModel),
            (ui.openModelButton, self._openModel),
        ):
            self._connect(button, "clicked()", lambda act=act: act() and None)
        for box, name in (
            (ui.directionComboBox, "direction"),
            (ui.deviceComboBox, "device"),
            (ui.modelComboBox, "model"),
        ):
            self._connect(
                box, "currentIndexChanged(int)", lambda _n, box=box, name=name: self._chosen(box, name)
            )
        self._connect(ui.reachSpinBox, "valueChanged(int)", self._showReach)
        self._connect(ui.opacitySlider, "valueChanged(double)", self._opacityChosen)
        self._connect(
            ui.segmentsTable, "selectionChanged(QItemSelection,QItemSelection)", self._segmentSelected
        )
        self._connect(ui.segmentEditor, "currentSegmentIDChanged(QString)", self._editorChose)

    def _connect(self, widget: Any, signal: str, slot: Any) -> None:
        widget.connect(signal, slot)
        self._slots.append((widget, signal, slot))

    def _signals(self) -> list[tuple[Any, Any]]:
        return [
            (self._controller.changed, self._changed),
            (self._controller.message, self._told),
            (self._controller.recovered, self._recovered),
            (self._controller.progress, self._progress),
            (self._controller.finished, self._finished),
            (self._controller.frameArrived, self._frameArrived),
            (self._installer.progress, self._installing),
            (self._installer.logged, self._installLogged),
            (self._installer.finished, self._installed),
            (self._models.changed, self._changed),
            (self._models.progress, self._downloading),
            (self._models.finished, self._downloaded),
        ]

    # --- what the user does

    def _chooseTool(self, name: str) -> None:
        if not self._isShowing:
            self._controller.chooseTool(name)
            self.refresh()

    def _propagateAnew(self) -> None:
        self._controller.propagate(anew=True)

    def propagateOrCancel(self) -> None:
        """What the button and its key do."""
        if self._controller.isRunning:
            self._controller.cancel()
        else:
            self._controller.propagate()

    def nextDoubtful(self) -> None:
        """Shows the next slice that is worth a look."""
        self._controller.nextDoubtful()
        self.showStrip()

    def _jump(self, frame: int) -> None:
        self._controller.jump(frame)
        self.showStrip()

    def _chosen(self, box: Any, name: str) -> None:
        value = box.itemData(box.currentIndex)
        if not self._isShowing and self._parameters is not None and value is not None:
            setattr(self._parameters, name, encoded(str(value)))

    def _opacityChosen(self, value: float) -> None:
        if not self._isShowing and self._parameters is not None:
            self._parameters.previewOpacity = float(value)

    def _segmentSelected(self, *_: Any) -> None:
        chosen = self._ui.segmentsTable.selectedSegmentIDs()
        if not self._isShowing and self._parameters is not None and chosen:
            self._parameters.segmentID = encoded(str(chosen[0]))

    def _editorChose(self, _segmentID: str) -> None:
        # By itself, as when a scene was loaded: the list where the user chooses is the panel's.
        if not self._isShowing and not self._controller.isApplying and self._parameters is not None:
            self.refresh()

    def _addSegment(self) -> None:
        segmentID = self._controller.addSegment()
        if segmentID and self._parameters is not None:
            self._parameters.segmentID = encoded(segmentID)

    def _removeSegment(self) -> None:
        self._controller.removeSegment()
        if self._parameters is not None:
            self._parameters.segmentID = ""

    def dismiss(self) -> None:
        """Takes the message away."""
        self._ui.messageFrame.setVisible(False)

    def _showLog(self) -> None:
        if self._message is not None and self._message.log:
            self._showMessage(self._message)
        else:
            self._showError()

    def _showError(self) -> None:
        if self._error is not None:
            self._showMessage(self._error)

    def _showMessage(self, message: Message) -> None:
        self._dialogs.showLog(message.text, "\n".join(message.log))

    def _install(self) -> None:
        needed = self._missing()
        if (
            needed
            and not self._installer.isRunning
            and self._dialogs.agree(consentText(needed), _("Install"))
        ):
            self._installer.start()
        self.refresh()

    def _download(self) -> None:
        if self._models.isDownloading:
            self._models.cancel()
            return
        name = self._controller.choices.model
        if self._dialogs.agree(self._models.consentText(name), _("Download a model")):
            self._models.download(name)

    def _removeModel(self) -> None:
        name = self._controller.choices.model
        if not self._dialogs.agree(_("Remove this model from the computer?"), _("Remove a model")):
            return
        try:
            self._models.remove(name)
        except SAM2PropagateError as error:
            self.say(Message("error", str(error), error.code))

    def _openModel(self) -> None:
        path = self._dialogs.chooseWeights()
        if path and self._parameters is not None:
            self._parameters.model = encoded(path)

    # --- what is shown

    def _changed(self, _: None = None) -> None:
        self._forgetOutcome()
        self.refresh()

    def refresh(self) -> None:
        """Shows everything as it is now."""
        if self._isShowing:
            return
        with self._choosing():
            facts = self._controller.facts()
            self._showButtons(facts)
            self._showChoices()
            self._showModels()
            self._showSegments()
            self._showBanner()
            self.showStrip()

    def _showButtons(self, facts: rules.Facts) -> None:
        ui, isRunning = self._ui, self._controller.isRunning
        promptTools = {tool.name: tool for tool in tools.tools()}
        for name, button in self._tools.items():
            tool = promptTools[name]
            _enable(button, rules.whyNot(rules.PROMPT, facts), f"{tool.help} ({tool.key})")
            button.checked = tools.buttonOf(self._controller.tool) == name
        for button, action, text in (
            (ui.undoPromptButton, rules.UNDO_PROMPT, _("Take back the last change of prompts.")),
            (ui.redoPromptButton, rules.REDO_PROMPT, _("Bring back the change of prompts taken back last.")),
            (
                ui.clearPromptsButton,
                rules.CLEAR_PROMPTS,
                _("Remove all prompts of the chosen segment; the segment stays."),
            ),
            (
                ui.propagateAnewButton,
                rules.PROPAGATE_ANEW,
                _(
                    "Compute every slice again, also where nothing was corrected, with the window and level "
                    "of the views. Keyframes and locked slices stay."
                ),
            ),
            (ui.applyButton, rules.APPLY, _("Write the preview into the segment, as one undo step.")),
            (ui.discardButton, rules.DISCARD, _("Drop the preview; segment and prompts stay.")),
            (
                ui.nextDoubtfulButton,
                rules.NEXT_DOUBTFUL,
                _("Show the next slice that is worth a look. ({key})").format(key=tools.NEXT_DOUBTFUL_KEY),
            ),
        ):
            _enable(button, rules.whyNot(action, facts), text)
        ui.propagateButton.text = _("Cancel") if isRunning else _("Propagate")
        _enable(
            ui.propagateButton,
            rules.whyNot(rules.CANCEL if isRunning else rules.PROPAGATE, facts),
            (
                _("End the propagation; finished slices stay in the preview. ({key})")
                if isRunning
                else _("Carry the masks through the volume. ({key})")
            ).format(key=tools.PROPAGATE_KEY),
        )
        ui.progressBar.setVisible(isRunning)
        hasSegmentation = facts.hasSegmentation and not facts.segmentationProblem
        reason = "" if hasSegmentation else _("Choose or create a segmentation first.")
        _enable(ui.addSegmentButton, reason, _("Add an empty segment and choose it."))
        _enable(
            ui.removeSegmentButton,
            "" if facts.hasSegment else _("Choose a segment first."),
            _("Remove the chosen segment with its prompts."),
        )

    def _showChoices(self) -> None:
        ui, choices = self._ui, self._controller.choices
        _choose(ui.directionComboBox, choices.run.direction)
        _choose(ui.deviceComboBox, choices.device)
        device = self._devices.get(choices.device)
        said = (device.whyNot or device.help) if device is not None else ""
        ui.deviceComboBox.toolTip = f"{_('What the model runs on.')} {said}".strip()
        _enable(
            ui.reachSpinBox,
            "" if choices.run.reach is not None else _("Check “At most” first: the run has no limit now."),
            _("Slices from every keyframe."),
        )
        if self._parameters is not None:
            ui.opacitySlider.value = self._parameters.previewOpacity

    def _showReach(self, reach: int) -> None:
        self._ui.reachSpinBox.suffix = plural(
            reach, _(" slice from a keyframe"), _(" slices from a keyframe")
        )

    def _showModels(self) -> None:
        ui, chosen = self._ui, self._controller.choices.model
        rows = self._models.rows()
        wanted = [(row.name, row.title if row.isThere else f"{row.title} ↓") for row in rows]
        if chosen not in [row.name for row in rows]:
            wanted.append((chosen, Path(chosen).name))
        box = ui.modelComboBox
        there = [(box.itemData(n), box.itemText(n)) for n in range(box.count)]
        if there != wanted:
            box.clear()
            for name, title in wanted:
                box.addItem(title, name)
        _choose(box, chosen)
        row = next((one for one in rows if one.name == chosen), None)
        details = (
            row.details if row is not None else _("A weights file of your own: {path}").format(path=chosen)
        )
        problem = self._controller.modelProblem()
        ui.modelStatusLabel.text = f"{problem} {details}".strip()
        isDownloading = self._models.isDownloading
        ui.downloadModelButton.text = _("Cancel download") if isDownloading else _("Download …")
        ownFile = _("It is a file of your own.")
        _enable(
            ui.downloadModelButton,
            "" if isDownloading else row.whyNotDownload if row is not None else ownFile,
            _("Says from where, how large and under which licence, and asks before it downloads."),
        )
        _enable(
            ui.removeModelButton,
            row.whyNotRemove if row is not None else ownFile,
            _("Delete this model from the computer."),
        )

    def _showSegments(self) -> None:
        ui, controller = self._ui, self._controller
        workspace = controller.workspace
        node = workspace.segmentationNode if workspace is not None else None
        if ui.segmentsTable.segmentationNode() is not node:
            ui.segmentsTable.setSegmentationNode(node)
        wanted = [controller.segmentID] if controller.segmentID else []
        if node is not None and list(ui.segmentsTable.selectedSegmentIDs()) != wanted:
            ui.segmentsTable.setSelectedSegmentIDs(wanted)
        editor = ui.segmentEditor
        if editor.mrmlSegmentEditorNode() is None:
            return
        if workspace is None and editor.activeEffect() is not None:
            # It would go on to work on a segmentation or a volume that was removed.
            self._editor.putEffectAway()
        if editor.segmentationNode() is not node:
            with labelLayersKept():
                editor.setSegmentationNode(node)
        volume = workspace.volumeNode if workspace is not None else None
        if editor.sourceVolumeNode() is not volume:
            editor.setSourceVolumeNode(volume)
        isThere = workspace is not None and controller.segmentID in workspace.segmentIDs
        if isThere and editor.currentSegmentID() != controller.segmentID:
            editor.setCurrentSegmentID(controller.segmentID)

    def _showBanner(self) -> None:
        needed = self._missing()
        ui = self._ui
        ui.bannerFrame.setVisible(bool(needed) or self._installer.isRunning)
        ui.bannerLabel.text = bannerText(needed)
        self._showInstallButton(bool(needed))

    def _showInstallButton(self, isNeeded: bool) -> None:
        whyNot = "" if isNeeded else _("Nothing is missing.")
        _enable(
            self._ui.installButton,
            _("The installation is running.") if self._installer.isRunning else whyNot,
            _("Says what will be installed, from where and how large, and asks before it does."),
        )

    def showStrip(self) -> None:
        """Draws the slices as they are now."""
        self._strip.setStrip(self._controller.strip(), self._shownFrame())
        self._drawn = time.monotonic()

    def _showShown(self) -> None:
        """Draws which slice the views show; the user has scrolled."""
        self._strip.setShownFrame(self._shownFrame())

    def _shownFrame(self) -> int | None:
        workspace = self._controller.workspace
        if workspace is None or not workspace.isInScene:
            return None
        return frameInView(workspace.volumeNode.GetScene(), workspace.worldGeometry, workspace.axis)

    def _frameArrived(self, _arrived: FrameArrived) -> None:
        if time.monotonic() - self._drawn > _STRIP_SECONDS:
            self.showStrip()

    def _progress(self, progress: Progress) -> None:
        ui = self._ui
        _put(ui.progressLabel, progress.text)
        ui.progressBar.maximum = max(progress.total, progress.done)
        ui.progressBar.value = progress.done

    def _finished(self, end: RunEnd) -> None:
        _put(self._ui.progressLabel, endText(end))
        self._outcome = (end.applied, self._standing(end.applied))

    def _standing(self, isApplied: bool) -> tuple[Any, ...]:
        """What has to stay as it is for the words on a run's end to be true."""
        workspace = self._controller.workspace
        segmentID = self._controller.segmentID
        if workspace is None:
            return (None, segmentID)
        # What is not in the segment has to be in the preview.
        return (workspace, segmentID, workspace.turns, isApplied or workspace.hasPreview)

    def _forgetOutcome(self) -> None:
        """Takes the words on a run's end away if they are not true any more."""
        if self._outcome is None:
            return
        isApplied, standing = self._outcome
        if self._controller.isRunning or self._standing(isApplied) != standing:
            self._outcome = None
            if not self._controller.isRunning:
                _put(self._ui.progressLabel, "")

    def say(self, message: Message) -> None:
        """Shows a message, until it is dismissed or the next one comes; the last error can be shown again."""
        import qt

        ui, self._message, self._isOfScene = self._ui, message, False
        if message.level == "error":
            self._error = message
        picture, level = {
            "error": (qt.QStyle.SP_MessageBoxCritical, _("Error")),
            "warning": (qt.QStyle.SP_MessageBoxWarning, _("Warning")),
        }.get(message.level, (qt.QStyle.SP_MessageBoxInformation, _("Information")))
        # The style's own: it can be told from the others in light and dark windows.
        ui.messageIcon.setPixmap(ui.messageFrame.style().standardIcon(picture).pixmap(qt.QSize(_ICON, _ICON)))
        ui.messageIcon.toolTip = level
        ui.messageLabel.text = message.text
        ui.messageFrame.setVisible(True)
        self._showLogButtons()

    def _told(self, message: Message) -> None:
        self.say(message)
        self._isOfScene = True

    def _recovered(self, _: None = None) -> None:
        if self._message is not None and self._message.isOfWorker:
            self.dismiss()

    def forgetErrors(self) -> None:
        """The scene is closed: what was said of it, and its last error, are of no interest any more."""
        if self._isOfScene:
            self.dismiss()
            self._message = None
        self._error = None
        self._showLogButtons()

    def _showLogButtons(self) -> None:
        ui = self._ui
        hasLog = self._message is not None and bool(self._message.log)
        isLater = self._error is not None and self._error is not self._message
        ui.logButton.setVisible(hasLog or isLater)
        ui.logButton.text = _("Log …") if hasLog else _("Last error …")
        again = _("Show the last error again, with what the worker printed then.")
        ui.logButton.toolTip = _("Show what the worker printed last.") if hasLog else again
        _enable(ui.errorButton, "" if self._error is not None else _("No error has happened."), again)

    def _installing(self, text: str) -> None:
        self._installStep = text
        _put(self._ui.installProgressLabel, text)
        self._showInstallButton(True)

    def _installLogged(self, line: str) -> None:
        # Else nothing would move for minutes.
        short = line.strip() if len(line) <= _LINE else line.strip()[: _LINE - 1] + "…"
        _put(self._ui.installProgressLabel, f"{self._installStep}\n{short}")

    def _installed(self, end: InstallEnd) -> None:
        _put(self._ui.installProgressLabel, "")
        self.say(Message("info" if end.isComplete else "error", end.text, "install", end.log))
        self.refresh()

    def _downloading(self, progress: DownloadProgress) -> None:
        _put(self._ui.downloadLabel, progress.text)

    def _downloaded(self, end: DownloadEnd) -> None:
        _put(self._ui.downloadLabel, "")
        self.say(Message("error" if end.state == "failed" else "info", end.text, end.state))


def choicesOf(parameters: Any) -> Choices:
    """What the user has chosen, as the parameter node has it."""
    direction = parameters.direction
    return Choices(
        run=RunOptions(
            direction=direction if direction in DIRECTIONS else BOTH,
            # A scene may hold any number.
            reach=min(max(parameters.reach, REACH[0]), REACH[1]) if parameters.limitReach else None,
        ),
        allSegments=parameters.allSegments,
        applyAutomatically=parameters.applyAutomatically,
        model=decoded(parameters.model),
        device=parameters.device,
        motion=parameters.motion,
        keepAsDrawn=parameters.keepAsDrawn,
    )


def _put(label: Any, text: str) -> None:
    """Shows a text; an empty one takes no room."""
    label.text = text
    label.setVisible(bool(text))


def _enable(button: Any, whyNot: str, text: str) -> None:
    """Enables a button, or disables it with a tooltip that says why."""
    button.enabled = not whyNot
    button.toolTip = whyNot or text


def _choose(box: Any, value: str) -> None:
    index = box.findData(value)
    if index >= 0 and index != box.currentIndex:
        box.setCurrentIndex(index)
