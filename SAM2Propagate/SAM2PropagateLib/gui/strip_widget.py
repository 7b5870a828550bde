"""The slice strip as a widget: one column per slice, the doubt as a curve above."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from SAM2PropagateLib.gui.strip import (
    ABSENT,
    DOUBTFUL,
    EDITED,
    KEYFRAME,
    LOCKED,
    PROPAGATED,
    SliceStrip,
)

# For light and dark windows alike.
COLORS = {
    PROPAGATED: "#7fb2e5",
    KEYFRAME: "#2e9e4f",
    EDITED: "#8e5fd0",
    ABSENT: "#c0504d",
    LOCKED: "#8a8a8a",
}
_DOUBT, _SHOWN = "#e08a1e", "#d02090"
# The height of the colored band as a part of the widget's; the curve has the rest.
_BAND = 0.35


def makeStripWidget(onFrame: Callable[[int], None]) -> Any:
    """A new widget; `setStrip(strip, shownFrame)` shows a `SliceStrip`, a click calls `onFrame`.

    Qt is imported here and not above, so that the rest of the package can be used without it.
    """
    import qt

    class SliceStripWidget(qt.QWidget):
        """Draws a strip, tells which slice was clicked, and says what is known where the mouse is."""

        def __init__(self) -> None:
            qt.QWidget.__init__(self)
            self.strip = SliceStrip()
            self.shownFrame: int | None = None
            self.setMouseTracking(True)
            self.setMinimumHeight(56)

        def setStrip(self, strip: SliceStrip, shownFrame: int | None) -> None:
            self.strip, self.shownFrame = strip, shownFrame
            self.update()

        def mousePressEvent(self, event: Any) -> None:
            frame = self.strip.frameAt(event.pos().x(), self.width)
            if frame is not None:
                onFrame(frame)

        def mouseMoveEvent(self, event: Any) -> None:
            frame = self.strip.frameAt(event.pos().x(), self.width)
            self.setToolTip("" if frame is None else self.strip.text(frame))

        def paintEvent(self, event: Any) -> None:
            painter = qt.QPainter(self)
            self._draw(painter, int(self.width), int(self.height))
            painter.end()

        @staticmethod
        def _pen(color: str) -> Any:
            pen = qt.QPen(qt.QColor(color))
            pen.setWidth(2)
            return pen

        def _draw(self, painter: Any, width: int, height: int) -> None:
            count = len(self.strip)
            palette = self.palette
            painter.fillRect(qt.QRect(0, 0, width, height), palette.color(qt.QPalette.Base))
            if not count:
                return
            top = int(height * (1 - _BAND))
            edges = [frame * width // count for frame in range(count + 1)]
            for one in self.strip.frames:
                left, right = edges[one.frame], max(edges[one.frame] + 1, edges[one.frame + 1])
                color = COLORS.get(one.look)
                if color is not None:
                    painter.fillRect(qt.QRect(left, top, right - left, height - top), qt.QColor(color))
                elif not one.isInRange:
                    painter.fillRect(
                        qt.QRect(left, top, right - left, height - top), palette.color(qt.QPalette.Mid)
                    )
                if one.isPreview:  # not in the segment yet: a thinner band
                    painter.fillRect(qt.QRect(left, top, right - left, 3), palette.color(qt.QPalette.Base))
            limit = int(top * (1 - DOUBTFUL))
            painter.setPen(palette.color(qt.QPalette.Mid))
            painter.drawLine(0, limit, width, limit)
            painter.setPen(self._pen(_DOUBT))
            before = None
            for one in self.strip.frames:
                if one.doubt is None:
                    before = None
                    continue
                x = (edges[one.frame] + edges[one.frame + 1]) // 2
                y = int((top - 2) * (1 - one.doubt)) + 1
                if before is not None:
                    painter.drawLine(before[0], before[1], x, y)
                else:
                    painter.drawPoint(x, y)
                before = (x, y)
            if self.shownFrame is not None and self.shownFrame < count:
                x = (edges[self.shownFrame] + edges[self.shownFrame + 1]) // 2
                painter.setPen(self._pen(_SHOWN))
                painter.drawLine(x, 0, x, height)

    return SliceStripWidget()
