"""Draws the slice strip: a band that shows every slice, and the doubt as a curve above it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from SAM2PropagateLib.app.strip import (
    EDITED,
    Column,
    SliceStrip,
)
from SAM2PropagateLib.frame_kinds import ABSENT, DOUBTFUL, KEYFRAME, LOCKED, PROPAGATED
from SAM2PropagateLib.texts import tr as _

# They are visible in light and in dark panels.
COLORS = {
    PROPAGATED: "#7fb2e5",
    KEYFRAME: "#2e9e4f",
    EDITED: "#8e5fd0",
    ABSENT: "#c0504d",
    LOCKED: "#8a8a8a",
}
DOUBT, SHOWN = "#e08a1e", "#d02090"
"""The colors of the curve, and of the line of the slice in view."""

# Pixels; the least height of the widget.
_HEIGHT = 48
# The colored band's share of the height; the curve has the rest.
_BAND = 0.35
# Pixels; the width of the curve and of the line.
_PEN = 2
# How many slices in one place the tooltip names.
_MOST_NAMED = 4


def legend() -> str:
    """Returns what the colors and lines mean, as rich text."""
    names = {
        KEYFRAME: _("keyframe"),
        EDITED: _("edited"),
        PROPAGATED: _("propagated"),
        ABSENT: _("absent"),
        LOCKED: _("locked"),
    }
    lines = [f'<span style="color:{COLORS[look]}">■</span> {name}' for look, name in names.items()]
    doubt, shown = _("doubt"), _("slice in view")
    lines += [
        f'<span style="color:{DOUBT}">—</span> {doubt}',
        f'<span style="color:{SHOWN}">|</span> {shown}',
        _("notched: preview, not applied yet"),
    ]
    return "<br>".join(lines)


def makeStripWidget(onFrame: Callable[[int], None]) -> Any:
    """Returns a new widget; `setStrip(strip, shownFrame)` shows a `SliceStrip`, a click calls `onFrame`.

    Qt is imported here, so that the rest of the package can be used without it.
    """
    import qt

    class SliceStripWidget(qt.QWidget):
        """Draws a strip, calls back with clicked slices, and shows a tooltip for the slice under the
        mouse."""

        def __init__(self, onFrame: Callable[[int], None]) -> None:
            qt.QWidget.__init__(self)
            # In the widget and not around the class, which outlives it.
            self._onFrame = onFrame
            self.strip = SliceStrip()
            self.shownFrame: int | None = None
            self.columns: list[Column] = []
            self.curve: list[tuple[int, float | None]] = []
            self.setMouseTracking(True)
            self.setMinimumHeight(_HEIGHT)
            self.setToolTip(legend())

        def setStrip(self, strip: SliceStrip, shownFrame: int | None) -> None:
            self.strip, self.shownFrame = strip, shownFrame
            self.columns = []
            self.update()

        def setShownFrame(self, frame: int | None) -> None:
            """Moves only the line, and schedules the drawing of its old and new place."""
            for one in {self.shownFrame, frame} if frame != self.shownFrame else ():
                if one is not None and one < len(self.strip):
                    x = self.strip.middle(one, int(self.width))
                    self.update(x - _PEN, 0, 2 * _PEN, int(self.height))
            self.shownFrame = frame

        def mousePressEvent(self, event: Any) -> None:
            frame = self.strip.frameAt(event.pos().x(), self.width, self.shownFrame)
            if frame is not None:
                self._onFrame(frame)

        def mouseMoveEvent(self, event: Any) -> None:
            frames = self.strip.framesAt(event.pos().x(), self.width)
            texts = [self.strip.text(frame) for frame in frames[:_MOST_NAMED]]
            texts += ["…"] if len(frames) > _MOST_NAMED else []
            said = "\n".join(texts).replace("\n", "<br>")
            self.setToolTip(f"{said}<hr>{legend()}" if said else legend())

        def paintEvent(self, event: Any) -> None:
            painter = qt.QPainter(self)
            self._draw(painter, int(self.width), int(self.height), event.rect())
            painter.end()

        @staticmethod
        def _pen(color: str) -> Any:
            pen = qt.QPen(qt.QColor(color))
            pen.setWidth(_PEN)
            return pen

        def _draw(self, painter: Any, width: int, height: int, stale: Any) -> None:
            """Draws the stale part (a QRect), which is small when only the line moves."""
            base, mid = (self.palette.color(role) for role in (qt.QPalette.Base, qt.QPalette.Mid))
            painter.fillRect(stale, base)
            if not len(self.strip):
                return
            if len(self.columns) != width:
                self.columns, self.curve = self.strip.columns(width), self.strip.curve(width)
            first, end = stale.left(), stale.right() + 1
            top = int(height * (1 - _BAND))
            x = max(first, 0)
            for column, same in groupby(self.columns[x:end]):
                left, x = x, x + len(list(same))
                colors = [qt.QColor(COLORS[name]) for name in column.drawnAs] or [mid] * column.isOutside
                for index, color in enumerate(colors):
                    low, high = (top + (height - top) * n // len(colors) for n in (index, index + 1))
                    painter.fillRect(qt.QRect(left, low, x - left, high - low), color)
                if column.isPreview:  # not in the segment yet: a thinner band
                    painter.fillRect(qt.QRect(left, top, x - left, 3), base)
            limit = int(top * (1 - DOUBTFUL))
            painter.setPen(mid)
            painter.drawLine(first, limit, end, limit)
            self._drawCurve(painter, top, first, end)
            if self.shownFrame is not None and self.shownFrame < len(self.strip):
                # It ends above the band, where it would hide a mark.
                x = self.strip.middle(self.shownFrame, width)
                painter.setPen(self._pen(SHOWN))
                painter.drawLine(x, 0, x, top - 2)

        def _drawCurve(self, painter: Any, top: int, first: int, end: int) -> None:
            painter.setPen(self._pen(DOUBT))
            before = None
            for x, doubt in self.curve:
                at = None if doubt is None else (x, int((top - 2) * (1 - doubt)) + 1)
                if at is not None and x >= first - _PEN and (before or at)[0] <= end + _PEN:
                    if before is not None:
                        painter.drawLine(before[0], before[1], x, at[1])
                    else:
                        painter.drawPoint(x, at[1])
                before = at

    return SliceStripWidget(onFrame)
