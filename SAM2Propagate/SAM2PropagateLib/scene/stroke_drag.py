"""Draws a stroke with one drag of the mouse in a slice view, and moves existing ones.

While it is drawn, a stroke is only a line on the view: with a markups node, each move of the mouse would
rebuild the node and draw all views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import vtk

from SAM2PropagateLib.frames.geometry import FloatArray
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.prompt_nodes import setStroke, strokePoints
from SAM2PropagateLib.scene.view_drag import Xy, viewMatrix

# Pixels; a stroke, or moving one, needs a longer way of the mouse.
_SHORTEST = 4
# Pixels; places nearer to the one before are left out, as the hand trembles.
_STEP = 2
_LINE_WIDTH, _CLOSING_WIDTH = 3.0, 1.0


@dataclass(frozen=True)
class DrawnView:
    """A slice view in which a stroke is drawn.

    Attributes:
        interactor, sliceNode: of the view. draw: schedules its drawing.
    """

    interactor: Any
    sliceNode: Any
    draw: Callable[[], None]


@dataclass(frozen=True)
class LineStyle:
    """The style of a stroke while it is drawn.

    Attributes:
        color: RGB from 0 to 1. isClosed: whether to show where it would close.
    """

    color: tuple[float, ...]
    isClosed: bool


class StrokeDrawing:
    """A stroke that is being drawn.

    Args:
        start: where the button was pressed in the view.
        onEnd: called at the release with the stroke's places in the world, (n, 3) mm, n >= 1; a single one if
            the mouse hardly moved.
    """

    def __init__(
        self,
        view: DrawnView,
        start: Xy,
        style: LineStyle,
        onEnd: Callable[[FloatArray], None],
    ) -> None:
        self._sliceNode = view.sliceNode
        self._places = [start]
        self._isLong = False
        self._draw = view.draw
        self._onEnd = onEnd
        self._line = ViewLine(view.interactor, style)

    def move(self, xy: Xy) -> None:
        """See `Drag`."""
        if self._take(xy):
            self._line.show(self._places)
            self._draw()

    def end(self, xy: Xy) -> None:
        """See `Drag`."""
        self._take(xy)
        self._line.remove()
        self._draw()
        places = self._places if self._isLong else self._places[:1]
        xyzw = np.array([(x, y, 0.0, 1.0) for x, y in places])
        self._onEnd((xyzw @ viewMatrix(self._sliceNode).T)[:, :3])

    def cancel(self) -> None:
        """See `Drag`."""
        self._line.remove()
        self._draw()

    def _take(self, xy: Xy) -> bool:
        """Adds a place if it is far enough from the one before; returns whether it did."""
        if _distance(xy, self._places[-1]) < _STEP:
            return False
        self._places.append(xy)
        self._isLong |= _distance(xy, self._places[0]) > _SHORTEST
        return True


class ViewLine:
    """A line on top of one slice view, in pixels, without a node in the scene."""

    def __init__(self, interactor: Any, style: LineStyle) -> None:
        self._renderer = interactor.GetRenderWindow().GetRenderers().GetFirstRenderer()
        self._lines = [_Polyline(style.color, _LINE_WIDTH)]
        if style.isClosed:
            self._lines.append(_Polyline(style.color, _CLOSING_WIDTH))
        for line in self._lines:
            self._renderer.AddViewProp(line.actor)

    def show(self, places: list[Xy]) -> None:
        """Shows the line through these places."""
        self._lines[0].show(places)
        for closing in self._lines[1:]:
            closing.show([places[-1], places[0]])

    def remove(self) -> None:
        """Removes the line from the view."""
        for line in self._lines:
            self._renderer.RemoveViewProp(line.actor)


class _Polyline:
    """A line that is drawn over a view."""

    def __init__(self, color: tuple[float, ...], width: float) -> None:
        self._points = vtk.vtkPoints()
        self._data = vtk.vtkPolyData()
        self._data.SetPoints(self._points)
        self._mapper = vtk.vtkPolyDataMapper2D()
        self._mapper.SetInputData(self._data)
        self.actor = vtk.vtkActor2D()
        self.actor.SetMapper(self._mapper)
        self.actor.GetProperty().SetColor(*color)
        self.actor.GetProperty().SetLineWidth(width)

    def show(self, places: list[Xy]) -> None:
        """Shows the line through these places, in pixels of the view."""
        self._points.Reset()
        lines = vtk.vtkCellArray()
        lines.InsertNextCell(len(places))
        for x, y in places:
            lines.InsertCellPoint(self._points.InsertNextPoint(x, y, 0.0))
        self._points.Modified()
        self._data.SetLines(lines)


class StrokeMove:
    """A stroke that is dragged as a whole, in the plane of the view.

    A `PromptWatcher` notices the end of the drag.

    Args:
        markups: has the stroke. node: its markups node. sliceNode, start: where the button was pressed.
        onTap: called at the release if the mouse hardly moved.
    """

    def __init__(
        self, markups: PromptMarkups, node: Any, sliceNode: Any, start: Xy, onTap: Callable[[], None]
    ) -> None:
        self._markups = markups
        self._node = node
        self._sliceNode = sliceNode
        self._start = start
        self._onTap = onTap
        self._before = strokePoints(node)
        self._isMoved = False

    def move(self, xy: Xy) -> None:
        """See `Drag`."""
        self._isMoved |= _distance(xy, self._start) > _SHORTEST
        if self._isMoved and self._node.GetScene() is not None:
            toRas = viewMatrix(self._sliceNode)
            ends = np.array([(x, y, 0.0, 1.0) for x, y in (self._start, xy)]) @ toRas.T
            start, end = self._markups.fromWorld(ends[:, :3])
            self._put(self._before + (end - start))

    def end(self, xy: Xy) -> None:
        """See `Drag`."""
        self.move(xy)
        if not self._isMoved:
            self._onTap()
        elif self._node.GetScene() is not None:
            self._node.InvokeEvent(self._node.PointEndInteractionEvent)

    def cancel(self) -> None:
        """See `Drag`."""
        if self._isMoved and self._node.GetScene() is not None:
            self._put(self._before)

    def _put(self, points: npt.ArrayLike) -> None:
        with self._markups.unwatched():  # watchers hear of it when it is finished
            setStroke(self._node, points)


def _distance(a: Xy, b: Xy) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))
