"""What click, propagate, check and correct need is in view at once, and nothing is clipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from PySide6 import QtCore, QtWidgets

from SAM2PropagateLib.app.events import UserMessage
from Testing.gui.test_panel import Desk

# Pixels at 100 %: of a 1366 x 740 main window with Data Probe open, less the closed section Help and
# Acknowledgement that Slicer puts above every module.
HEIGHT, HELP = 480, 40
# Slicer's panel is as wide as this.
WIDTHS = (390, 410)
LOOP = (
    "volumeSelector", "windowButton", "segmentationSelector", "segmentsTable", "addSegmentButton",
    "removeSegmentButton", "clearPromptsButton", "positiveToolButton", "negativeToolButton",
    "boxToolButton", "scribbleToolButton", "lassoToolButton", "absentToolButton", "lockToolButton",
    "rangeToolButton", "undoButton", "redoButton", "propagateButton", "moreButton", "stripPlace",
    "resultLabel", "nextDoubtfulButton", "show3DButton", "optionsCollapsibleButton",
    "editCollapsibleButton", "modelCollapsibleButton",
)  # fmt: skip
LONG = "Abdomen^Contrast phase venous 1.0 Br36 axial reconstruction 0003"


@pytest.fixture
def desk(module: Any) -> Iterator[Desk]:
    made = Desk(module)
    yield made
    module.panel.hide()


def lay(desk: Desk, width: int, height: int = HEIGHT - HELP) -> Any:
    """The panel at this size, as it is drawn."""
    panel = desk.module.panel
    panel.resize(width, height)
    panel.show()
    for _ in range(3):
        QtCore.QCoreApplication.processEvents()
    return panel


def area(widget: Any, panel: Any) -> QtCore.QRect:
    corner = widget.mapTo(panel, QtCore.QPoint(0, 0))
    return QtCore.QRect(corner, QtCore.QSize(widget.width, widget.height))


def clipped(panel: Any) -> list[str]:
    """The widgets whose text does not fit, or that lie outside the panel or on each other."""
    found = []
    whole = QtCore.QRect(0, 0, panel.width, panel.height)
    kinds = QtWidgets.QAbstractButton | QtWidgets.QLabel | QtWidgets.QProgressBar
    for one in panel.findChildren(QtWidgets.QWidget):
        if not one.isVisible() or not isinstance(one, kinds) or one.objectName.startswith("qt_"):
            continue
        if one.visibleRegion().isEmpty():
            continue
        place = area(one, panel)
        needed = one.minimumSizeHint()
        if isinstance(one, QtWidgets.QLabel) and one.wordWrap:
            needed = QtCore.QSize(0, one.heightForWidth(one.width))
        elif isinstance(one, QtWidgets.QProgressBar):
            needed = QtCore.QSize(one.fontMetrics().horizontalAdvance(one.format), needed.height())
        is_folding = type(one).__name__.startswith("ctk")
        is_small = not is_folding and (place.width() < needed.width() or place.height() < needed.height())
        if is_small or not whole.contains(place):
            found.append(f"{one.objectName}: {place} needs {needed}")
    return found


def longer(text: str) -> str:
    """As long as it is in German: a third more."""
    return text + text[: round(len(text) * 0.3)]


def busy(desk: Desk) -> None:
    """A run under way."""
    desk.load()
    desk.click()
    desk.session.framesPerPoll = 1
    desk.ui.propagateButton.click()
    desk.settle(lambda: len(desk.controller.workspace.previewFrames(desk.controller.segmentID)) > 3)


def done(desk: Desk) -> None:
    desk.load()
    desk.click()
    desk.ui.propagateButton.click()
    desk.settle()
    desk.click(3)


def test_the_whole_loop_is_in_view_at_once(desk: Desk) -> None:
    done(desk)
    for width in WIDTHS:
        panel = lay(desk, width)
        needed = panel.layout().totalMinimumSize()
        assert needed.height() <= HEIGHT - HELP and needed.width() <= width
        whole = QtCore.QRect(0, 0, panel.width, panel.height)
        for name in LOOP:
            widget = getattr(desk.ui, name)
            assert widget.isVisible() and whole.contains(area(widget, panel)), name
        tops = [area(getattr(desk.ui, f"{one}Button"), panel).top() for one in ("positiveTool", "undo")]
        assert len(set(tops)) == 1, "the tools are one row"
        assert area(desk.ui.segmentsTable, panel).height() >= 3 * 22
        assert clipped(panel) == []
    # With the offer of a window and the buttons of a preview as well.
    desk.ui.windowFrame.setVisible(True)
    assert not desk.ui.applyButton.isHidden()
    assert lay(desk, WIDTHS[0]).layout().totalMinimumSize().height() <= HEIGHT - HELP


def test_a_widget_that_is_too_small_is_seen(desk: Desk) -> None:
    panel = lay(desk, 400)
    assert clipped(panel) == []
    desk.ui.nextDoubtfulButton.setMaximumWidth(20)
    assert any("nextDoubtful" in one for one in clipped(lay(desk, 400)))


@pytest.mark.parametrize("state", ["empty", "running", "done", "error", "names"])
@pytest.mark.parametrize("isLong", [False, True], ids=["english", "longer"])
def test_nothing_is_clipped(desk: Desk, state: str, isLong: bool) -> None:  # noqa: N803
    {"running": busy, "empty": lambda _desk: None}.get(state, done)(desk)
    if state == "error":
        text = "The worker ended unexpectedly. Try again, or choose a smaller model. " * 3
        desk.widget.panel.say(UserMessage("error", text, log=("last words",)))
    if state == "names":
        desk.volume.SetName(LONG)
        desk.segmentation.SetName(LONG)
        desk.segmentation.GetSegmentation().GetNthSegment(0).SetName(LONG)
    ui = desk.ui
    if isLong:
        for name in vars(ui):
            widget = getattr(ui, name)
            if isinstance(widget, QtWidgets.QPushButton | QtWidgets.QLabel | QtWidgets.QCheckBox):
                text = str(widget.text)
                widget.text = longer(text)
        ui.progressBar.format = longer(ui.progressBar.format)
    for section in (None, ui.optionsCollapsibleButton, ui.modelCollapsibleButton):
        if section is not None:
            section.collapsed = False
        panel = lay(desk, 390, 900)
        assert panel.width == 390 and panel.layout().totalMinimumSize().width() <= 390
        assert clipped(panel) == []


def test_the_list_grows_with_the_segments_up_to_eight(desk: Desk) -> None:
    desk.load()
    table, seen = desk.ui.segmentsTable, []
    for _ in range(10):
        lay(desk, 400, 900)
        seen.append(table.height)
        desk.ui.addSegmentButton.click()
    assert seen[0] == seen[2] < seen[3] < seen[7] == seen[9]
    desk.ui.removeSegmentButton.click()
    assert table.minimumHeight == seen[9]


def test_tools_without_a_button_press_and_their_keys(desk: Desk) -> None:
    from SAM2PropagateLib.app import tools

    desk.load()
    lay(desk, 400)
    assert len(tools.tools()) == 8
    for tool in tools.tools():
        button = getattr(desk.ui, f"{tool.name}ToolButton")
        assert button.text == tool.key and not button.icon.isNull()
        assert button.toolTip.startswith(f"{tool.title} ({tool.key}): ")
    for one in ("propagate", "cancel"):
        assert getattr(desk.ui, f"{one}Button").text.endswith("(P)")
    assert desk.ui.nextDoubtfulButton.text.endswith("(N)")
    assert "(C)" in desk.ui.addSegmentButton.toolTip


def test_a_click_on_a_button_leaves_the_keyboard_with_the_view(desk: Desk) -> None:
    # Else the keys P and N do nothing after a click on the button that bears them.
    loop = [getattr(desk.ui, name) for name in (*LOOP, "cancelButton", "applyButton", "discardButton")]
    buttons = [one for one in loop if isinstance(one, QtWidgets.QAbstractButton) and one.text]
    buttons = [one for one in buttons if not one.objectName.endswith("CollapsibleButton")]
    assert {one.objectName for one in buttons} >= {"propagateButton", "nextDoubtfulButton", "cancelButton"}
    takers = [one.objectName for one in buttons if one.focusPolicy & QtCore.Qt.FocusPolicy.ClickFocus]
    assert takers == []


def test_the_offer_of_a_window_does_not_widen_the_panel(desk: Desk) -> None:
    # Slicer makes the panel as wide as its layout wishes: the views would move under the mouse.
    frame, label = desk.ui.windowFrame, desk.ui.windowLabel
    frame.setVisible(True)
    label.text = "x " * 200
    wide = frame.sizeHint().width()
    label.text = ""
    assert frame.sizeHint().width() == wide


def test_no_section_and_no_row_in_it_widens_the_panel(desk: Desk) -> None:
    done(desk)
    panel, ui = desk.module.panel, desk.ui
    panel.show()

    def width() -> int:
        for _ in range(3):
            QtCore.QCoreApplication.processEvents()
        return max(panel.minimumSizeHint().width(), panel.minimumWidth)

    before = width()
    assert ui.serverFrame.isHidden()
    for section in (ui.optionsCollapsibleButton, ui.editCollapsibleButton, ui.modelCollapsibleButton):
        section.collapsed = False
        assert width() == before and ui.serverFrame.isHidden()
    ui.computerComboBox.setCurrentIndex(ui.computerComboBox.findData("server"))
    assert not ui.serverFrame.isHidden() and width() == before <= WIDTHS[0]


def test_sections_are_folded_and_stay_as_they_were_left(stand_ins: Any) -> None:
    from Headless.slicer_modules import ModuleInSlicer
    from Testing.gui.conftest import MODULE_FILE

    names = ("options", "edit", "model")

    def leave(**collapsed: bool) -> list[bool]:
        """What is folded when the module is opened; the user then folds and unfolds, and quits."""
        module = ModuleInSlicer(MODULE_FILE).open()
        sections = [getattr(module.ui, f"{name}CollapsibleButton") for name in names]
        found = [one.collapsed for one in sections]
        for name, one in zip(names, sections, strict=True):
            one.collapsed = collapsed.get(name, one.collapsed)
        module.close()
        return found

    assert leave(edit=False, model=False) == [True, True, True]
    assert leave(model=True) == [True, False, False]
    assert leave(edit=True, options=False) == [True, False, True]
    assert leave() == [False, True, True]


def test_a_loading_model_is_said_where_there_is_no_number_yet(desk: Desk) -> None:
    from SAM2PropagateLib.app.events import Progress

    desk.load()
    desk.controller.progress.emit(Progress(0, 0, None, None, "Loading the model: weights"))
    assert desk.ui.resultLabel.text == "Loading the model: weights"
    desk.controller.progress.emit(Progress(0, 0, None, None, ""))
    assert desk.ui.resultLabel.text == ""
