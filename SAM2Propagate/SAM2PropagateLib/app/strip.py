"""Describes the slice strip: the state of every slice, the next doubtful one, and the tooltips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from SAM2PropagateLib.frame_kinds import ABSENT, DOUBTFUL, KEYFRAME, LOCKED, PROPAGATED
from SAM2PropagateLib.packed_masks import PackedMask
from SAM2PropagateLib.texts import tr as _

NOTHING, EDITED = "nothing", "edited"
MARKS = (LOCKED, ABSENT, EDITED, KEYFRAME)
"""Marks by the user, the strongest first."""

# Pixels: the least width of a mark, and how far from it a click counts where slices are narrow.
_MARK_WIDTH, _REACH = 2, 2


@dataclass(frozen=True)
class Withheld:
    """What a run drew on a frame that it left empty, as the model takes the segment for absent there.

    Attributes:
        packed: the mask.
        place: the volume's IJK-to-RAS matrix then, row by row.
    """

    packed: PackedMask
    place: tuple[float, ...]


@dataclass(frozen=True)
class FrameFacts:
    """What a run reported on a frame.

    Attributes:
        kind: of `frame_kinds.KINDS`.
        doubt: 0 (sure) to 1; None if unknown. predictedIou, objectScore: the model's own.
        withheld: on a frame without a mask; None if there is none.
    """

    kind: str
    doubt: float | None = None
    predictedIou: float | None = None
    objectScore: float | None = None
    withheld: Withheld | None = None


@dataclass(frozen=True)
class StripFrame:
    """One slice in the strip.

    Attributes:
        frame: its index. facts: from the last run or preview; None if there are none.
        isKeyframe, isEdited, isAbsent, isLocked: made so by the user.
        isInRange: whether a run may change it. isPreview: its mask is in the preview, not yet in the segment.
    """

    frame: int
    facts: FrameFacts | None = None
    isKeyframe: bool = False
    isEdited: bool = False
    isAbsent: bool = False
    isLocked: bool = False
    isInRange: bool = True
    isPreview: bool = False

    @property
    def drawnAs(self) -> str:
        """The strongest of its states, as which it is drawn."""
        if self.isLocked:
            return LOCKED
        if self.isAbsent:
            return ABSENT
        if self.isEdited:
            return EDITED
        if self.isKeyframe:
            return KEYFRAME
        if self.facts is not None and self.facts.kind in (PROPAGATED, KEYFRAME):
            return PROPAGATED
        return NOTHING

    @property
    def doubt(self) -> float | None:
        """How little its mask should be trusted; None for the user's own frames, or if unknown."""
        if self.isLocked or self.isAbsent or self.isEdited or self.facts is None:
            return None
        return self.facts.doubt

    @property
    def isDoubtful(self) -> bool:
        """Whether its doubt is worth a look."""
        return self.doubt is not None and self.doubt >= DOUBTFUL


@dataclass(frozen=True)
class Column:
    """One column of pixels of the strip's band, which may stand for several slices.

    Attributes:
        drawnAs: what is drawn, from top to bottom: every mark, the strongest first, or else the run's masks;
            empty for nothing.
        isPreview: whether a slice of it is in the preview, not yet in the segment.
        isOutside: whether no slice of it may change.
    """

    drawnAs: tuple[str, ...]
    isPreview: bool
    isOutside: bool


class SliceStrip:
    """All slices of one segment along the propagation axis.

    Args:
        frames: one per slice, in order.
    """

    def __init__(self, frames: Sequence[StripFrame] = ()) -> None:
        self.frames = tuple(frames)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def found(self) -> int:
        """How many slices have a result of a run or a preview."""
        return sum(one.facts is not None for one in self.frames)

    @property
    def waiting(self) -> int:
        """How many slices are in the preview, not yet in the segment."""
        return sum(one.isPreview for one in self.frames)

    @property
    def doubts(self) -> int:
        """How many slices are doubtful."""
        return sum(one.isDoubtful for one in self.frames)

    @property
    def doubtful(self) -> tuple[int, ...]:
        """The most doubtful slice of each doubtful stretch, in order."""
        worst: list[StripFrame] = []
        before = -2
        for one in self.frames:
            if not one.isDoubtful:
                continue
            if one.frame == before + 1:
                if (one.doubt or 0.0) > (worst[-1].doubt or 0.0):
                    worst[-1] = one
            else:
                worst.append(one)
            before = one.frame
        return tuple(one.frame for one in worst)

    def nextDoubtful(self, after: int | None) -> int | None:
        """Returns the next of `doubtful` above `after`, or else the first; None if there is none."""
        wanted = self.doubtful
        if not wanted:
            return None
        return next((frame for frame in wanted if after is None or frame > after), wanted[0])

    # --- places, in pixels of a strip that is drawn `width` wide

    def place(self, frame: int, width: int) -> tuple[int, int]:
        """Returns the columns (first, end) of a slice; a mark gets enough columns to be seen."""
        left, right = self._edges(frame, width)
        least = _MARK_WIDTH if self.frames[frame].drawnAs in MARKS else 1
        left = max(0, min(left, width - least))
        return left, min(width, max(right, left + least))

    def middle(self, frame: int, width: int) -> int:
        """Returns the column of a slice for the curve, and for the line of the slice in view."""
        left, right = self._edges(frame, width)
        return (left + right) // 2

    def _edges(self, frame: int, width: int) -> tuple[int, int]:
        count = len(self.frames)
        return frame * width // count, (frame + 1) * width // count

    def columns(self, width: int) -> list[Column]:
        """Returns what is drawn, column by column, so that no mark hides another."""
        slices: list[list[StripFrame]] = [[] for _ in range(width)]
        for one in self.frames:
            for x in range(*self.place(one.frame, width)):
                slices[x].append(one)
        return [_column(here) for here in slices]

    def curve(self, width: int) -> list[tuple[int, float | None]]:
        """Returns the doubt as (column, doubt), with the highest doubt of the slices in a column; None is a
        gap."""
        points: dict[int, float | None] = {}
        for one in self.frames:
            x = self.middle(one.frame, width)
            known = [doubt for doubt in (points.get(x), one.doubt) if doubt is not None]
            points[x] = max(known, default=None)
        return list(points.items())

    def framesAt(self, x: float, width: float) -> tuple[int, ...]:
        """Returns the slices at a place, the most important first; () outside the strip.

        Where slices are narrow, these are the nearest marks, up to two pixels away; without marks, the middle
        one of the slices there.
        """
        count, column = len(self.frames), int(x)
        if not count or width <= 0 or not 0 <= x < width:
            return ()
        if width < (2 * _REACH + 1) * count:
            near: dict[int, list[int]] = {}
            for frame in self._marks:
                left, end = self.place(frame, int(width))
                near.setdefault(max(left - column, column - end + 1, 0), []).append(frame)
            if near and min(near) <= _REACH:
                return tuple(near[min(near)])
        return (min(int((column + 0.5) * count / width), count - 1),)

    def frameAt(self, x: float, width: float, shown: int | None = None) -> int | None:
        """Returns the slice that a click at a place means; None outside the strip.

        Among several marks it is the one after `shown`, so that each click reaches the next.
        """
        here = self.framesAt(x, width)
        if not here:
            return None
        return here[(here.index(shown) + 1) % len(here)] if shown in here else here[0]

    @cached_property
    def _marks(self) -> tuple[int, ...]:
        """The slices with marks, the strongest first."""
        marked = [one for one in self.frames if one.drawnAs in MARKS]
        return tuple(one.frame for one in sorted(marked, key=lambda one: MARKS.index(one.drawnAs)))

    def text(self, frame: int) -> str:
        """Returns the tooltip of a slice."""
        one = self.frames[frame]
        lines = [_("Slice {number} of {count}").format(number=frame + 1, count=len(self.frames))]
        words = [text for holds, text in _words(one) if holds]
        lines += [", ".join(words)] if words else []
        if one.doubt is not None and one.facts is not None:
            lines.append(_("Doubt {doubt:.0%}").format(doubt=one.doubt))
            if one.facts.predictedIou is not None:
                lines[-1] += " · " + _("model's own estimate of overlap {iou:.0%}").format(
                    iou=one.facts.predictedIou
                )
        if one.drawnAs == PROPAGATED and one.facts is not None and one.facts.withheld is not None:
            lines.append(_("Left empty, but a mask was drawn. Click + where it should be brings it back."))
        return "\n".join(lines)


def _column(here: Sequence[StripFrame]) -> Column:
    found = {one.drawnAs for one in here}
    marks = tuple(mark for mark in MARKS if mark in found)
    return Column(
        marks or ((PROPAGATED,) if PROPAGATED in found else ()),
        any(one.isPreview for one in here),
        not any(one.isInRange for one in here),
    )


def _words(one: StripFrame) -> list[tuple[bool, str]]:
    kind = "" if one.facts is None else one.facts.kind
    return [
        (one.isLocked, _("locked")),
        (one.isAbsent, _("absent")),
        (one.isEdited, _("edited by hand")),
        (one.isKeyframe and not one.isEdited, _("keyframe with prompts")),
        (kind == PROPAGATED and not one.isKeyframe and not one.isEdited, _("propagated")),
        (one.isPreview, _("in the preview, not applied yet")),
        (not one.isInRange, _("outside the range")),
    ]


def strip(
    count: int,
    facts: Mapping[int, FrameFacts],
    *,
    keyframes: frozenset[int] = frozenset(),
    edited: frozenset[int] = frozenset(),
    absent: frozenset[int] = frozenset(),
    locked: frozenset[int] = frozenset(),
    preview: frozenset[int] = frozenset(),
    inRange: range | None = None,
) -> SliceStrip:
    """Returns the strip of a segment with `count` slices."""
    return SliceStrip(
        [
            StripFrame(
                frame,
                facts.get(frame),
                isKeyframe=frame in keyframes,
                isEdited=frame in edited,
                isAbsent=frame in absent,
                isLocked=frame in locked,
                isInRange=inRange is None or frame in inRange,
                isPreview=frame in preview,
            )
            for frame in range(count)
        ]
    )
