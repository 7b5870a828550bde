"""Gives access to Slicer's application and main window, as far as the module needs them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from SAM2PropagateLib.gui.widgets import Connections


class Application:
    """What the panel needs of the application around it.

    Args:
        icons: the folder of the icons; it has one folder for light and one for dark main windows.

    Attributes:
        icons: as given.
    """

    def __init__(self, icons: Path) -> None:
        self.icons = icons

    @property
    def settings(self) -> Any:
        """The application's QSettings."""
        return slicer.app.userSettings()

    @property
    def isDark(self) -> bool:
        """Whether the main window is dark."""
        import qt

        return bool(slicer.app.palette().color(qt.QPalette.Window).lightness() < 128)

    def frameSurfaces(self) -> None:
        """Centers surfaces in the 3D view, after they were shown."""
        layout = slicer.app.layoutManager()
        if layout is not None and layout.threeDViewCount:
            layout.threeDWidget(0).threeDView().resetFocalPoint()


def sliceViews() -> list[tuple[Any, Callable[[], None]]]:
    """Returns the slice views of the layout, as `ViewDrawing` needs them."""
    return [(view.mrmlSliceNode(), view.sliceView().scheduleRender) for view in sliceWidgets()]


def holdViews() -> list[Callable[[], None]]:
    """Stops the drawing of the layout's views; returns for each view a function that draws it again."""
    layout = slicer.app.layoutManager()
    if layout is None:
        return []
    others = [layout.threeDWidget(number) for number in range(layout.threeDViewCount)]
    views = [*(widget.sliceView() for widget in sliceWidgets()), *(widget.threeDView() for widget in others)]
    for view in views:
        view.pauseRender()
    return [functools.partial(_letDraw, view) for view in views]


def _letDraw(view: Any) -> None:
    with contextlib.suppress(ValueError):  # gone with its layout
        view.resumeRender()


def sliceWidgets() -> list[Any]:
    """Returns the qMRMLSliceWidgets of the layout; none in a Slicer without its main window."""
    layout = slicer.app.layoutManager()
    if layout is None:
        return []
    widgets = [layout.sliceWidget(name) for name in layout.sliceViewNames()]
    # A widget that is being removed has no node any more.
    return [widget for widget in widgets if widget.mrmlSliceNode() is not None]


def volumeInViews() -> Any:
    """Returns the volume that Slicer shows in its views, or None."""
    selection = slicer.app.applicationLogic().GetSelectionNode()
    node = slicer.mrmlScene.GetNodeByID(selection.GetActiveVolumeID() or "")
    return node if node is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode" else None


def showInViews(volumeNode: Any) -> None:
    """Shows a volume in the slice views that do not show it yet."""
    layout = slicer.app.layoutManager()
    if layout is None:
        return
    sliceLogics = layout.mrmlSliceLogics()
    for index in range(sliceLogics.GetNumberOfItems()):
        sliceLogic = sliceLogics.GetItemAsObject(index)
        layers = sliceLogic.GetSliceCompositeNode()
        background, foreground = layers.GetBackgroundVolumeID(), layers.GetForegroundVolumeID()
        if volumeNode.GetID() in (background, foreground):
            continue
        layers.SetBackgroundVolumeID(volumeNode.GetID())
        if not background and not foreground:  # else the user has placed the view already
            sliceLogic.FitSliceToBackground()


def isLeftButtonDown() -> bool:
    """Tells whether the left mouse button is down."""
    import qt

    return bool(qt.QApplication.mouseButtons() & qt.Qt.LeftButton)


class _Timer:
    """A QTimer that calls a function.

    Args:
        milliseconds: from a start to a call. isSingle: there is one call for each start.
    """

    def __init__(self, milliseconds: int, isSingle: bool) -> None:
        import qt

        self._timer = qt.QTimer()
        self._timer.setSingleShot(isSingle)
        self._timer.setInterval(milliseconds)
        self._connections = Connections()

    def calls(self, act: Callable[[], None]) -> None:
        """Sets the function to call."""
        self._connections.add(self._timer, "timeout()", act)

    def stop(self) -> None:
        """Makes no further call before the next start."""
        self._timer.stop()

    def close(self) -> None:
        """Stops, and lets go of what is called: a timer keeps it alive."""
        self._timer.stop()
        self._connections.close()


class QtTicker(_Timer):
    """Calls a function 50 times a second while it is on."""

    def __init__(self) -> None:
        super().__init__(20, isSingle=False)

    @property
    def isOn(self) -> bool:
        """Whether it is on."""
        return bool(self._timer.isActive())

    def start(self) -> None:
        """See `Ticker`."""
        if not self._timer.isActive():
            self._timer.start()


class Later(_Timer):
    """Calls a function once, some time after the last `start`; not at all after `stop`.

    Args:
        milliseconds: the time to wait; 0: as soon as Qt has handled its present events.
    """

    def __init__(self, milliseconds: int = 0) -> None:
        super().__init__(milliseconds, isSingle=True)

    def start(self, milliseconds: int | None = None) -> None:
        """Schedules the call; if a time is given, it replaces that of the constructor this once."""
        if milliseconds is None:
            self._timer.start()
        else:
            self._timer.start(milliseconds)


def revealing(widget: Any) -> Later:
    """Returns a timer that scrolls to a widget. Only after the layouts have made room is its place known."""
    later = Later()
    later.calls(lambda: _reveal(widget))
    return later


def _reveal(widget: Any) -> None:
    """Scrolls the area around a widget, if there is one, until the widget is in view, unless it is hidden."""
    area = widget.parentWidget() if widget.visible else None
    while area is not None and not hasattr(area, "ensureWidgetVisible"):
        area = area.parentWidget()
    if area is not None:
        area.ensureWidgetVisible(widget)
