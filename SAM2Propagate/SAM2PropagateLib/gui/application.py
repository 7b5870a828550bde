"""Slicer's application and its window, as far as the module uses them."""

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
        icons: the folder with the icons, one folder for light and one for dark windows in it.

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
        """Surfaces are shown: brings them into the middle of the 3D view."""
        layout = slicer.app.layoutManager()
        if layout is not None and layout.threeDViewCount:
            layout.threeDWidget(0).threeDView().resetFocalPoint()


def sliceViews() -> list[tuple[Any, Callable[[], None]]]:
    """The slice views of the layout, as `ViewDrawing` wants them."""
    return [(view.mrmlSliceNode(), view.sliceView().scheduleRender) for view in sliceWidgets()]


def holdViews() -> list[Callable[[], None]]:
    """Keeps the views of the layout from being drawn; returns for each what has it drawn again."""
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
    # One that is on its way out has no node any more.
    return [widget for widget in widgets if widget.mrmlSliceNode() is not None]


def volumeInViews() -> Any:
    """Returns the volume that Slicer shows in its views, or None."""
    selection = slicer.app.applicationLogic().GetSelectionNode()
    node = slicer.mrmlScene.GetNodeByID(selection.GetActiveVolumeID() or "")
    return node if node is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode" else None


def showInViews(volumeNode: Any) -> None:
    """Has the slice views show a volume where they do not yet."""
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
        if not background and not foreground:  # else the user has the view where it is wanted
            sliceLogic.FitSliceToBackground()


def isLeftButtonDown() -> bool:
    """Tells whether the left button of the mouse is down."""
    import qt

    return bool(qt.QApplication.mouseButtons() & qt.Qt.LeftButton)


class QtTicker:
    """Calls a function 50 times a second, as long as it is asked to."""

    def __init__(self) -> None:
        import qt

        self._timer = qt.QTimer()
        self._timer.setInterval(20)
        self._connections = Connections()

    @property
    def isOn(self) -> bool:
        """Whether it is asked to."""
        return bool(self._timer.isActive())

    def calls(self, tick: Callable[[], None]) -> None:
        """What is to be called."""
        self._connections.add(self._timer, "timeout()", tick)

    def start(self) -> None:
        if not self._timer.isActive():
            self._timer.start()

    def stop(self) -> None:
        self._timer.stop()

    def close(self) -> None:
        """Stops, and lets go of what is called: a timer keeps it alive."""
        self._timer.stop()
        self._connections.close()


class Later:
    """Calls a function once, a while after it was asked for last; not at all after `stop`.

    Args:
        milliseconds: the while; 0: as soon as Qt has done what it is at.
    """

    def __init__(self, milliseconds: int = 0) -> None:
        import qt

        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(milliseconds)
        self._connections = Connections()

    def calls(self, act: Callable[[], None]) -> None:
        """What is to be called."""
        self._connections.add(self._timer, "timeout()", act)

    def start(self, milliseconds: int | None = None) -> None:
        """Asks for it, for once after another while if one is given."""
        if milliseconds is None:
            self._timer.start()
        else:
            self._timer.start(milliseconds)

    def stop(self) -> None:
        """Takes that back."""
        self._timer.stop()

    def close(self) -> None:
        """Stops, and lets go of what is called: a timer keeps it alive."""
        self._timer.stop()
        self._connections.close()
