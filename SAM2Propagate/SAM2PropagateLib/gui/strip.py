"""The slice strip: what there is to know of every slice, where to look next, and what hovering says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from SAM2PropagateLib.texts import tr as _

DOUBTFUL = 0.5
"""From this doubt on a slice is worth a look."""

NOTHING, PROPAGATED, KEYFRAME, EDITED, ABSENT, LOCKED = (
    "nothing",
    "propagated",
    "keyframe",
    "edited",
    "absent",
    "locked",
)


@dataclass(frozen=True)
class FrameFacts:
    """What a run said of a frame.

    Attributes:
        kind: "keyframe", "propagated", "absent" or "preview".
        doubt: 0 (sure) to 1; None if unknown. predictedIou, objectScore: the model's own.
    """

    kind: str
    doubt: float | None = None
    predictedIou: float | None = None
    objectScore: float | None = None


@dataclass(frozen=True)
class StripFrame:
    """One slice in the strip.

    Attributes:
        frame: its index. facts: what the last run or preview said of it, None if nothing.
        isKeyframe, isEdited, isAbsent, isLocked: as the user made it.
        isInRange: a run may change it. isPreview: its mask is in the preview, not in the segment yet.
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
    def look(self) -> str:
        """What it is drawn as: the strongest of what holds."""
        if self.isLocked:
            return LOCKED
        if self.isAbsent:
            return ABSENT
        if self.isEdited:
            return EDITED
        if self.isKeyframe:
            return KEYFRAME
        if self.facts is not None and self.facts.kind in ("propagated", "keyframe"):
            return PROPAGATED
        return NOTHING

    @property
    def doubt(self) -> float | None:
        """How little it should be trusted; None where the user has the last word or nothing is known."""
        if self.isLocked or self.isAbsent or self.isEdited or self.facts is None:
            return None
        return self.facts.doubt

    @property
    def isDoubtful(self) -> bool:
        return self.doubt is not None and self.doubt >= DOUBTFUL


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
    def doubtful(self) -> tuple[int, ...]:
        """Where to look, in order: the most doubtful slice of each doubtful stretch."""
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
        """The next slice to look at, going up from `after` and then on from the first; None if there is
        none.
        """
        wanted = self.doubtful
        if not wanted:
            return None
        return next((frame for frame in wanted if after is None or frame > after), wanted[0])

    def frameAt(self, x: float, width: float) -> int | None:
        """The slice at a place of the strip drawn `width` wide; None beside it."""
        if not self.frames or width <= 0 or not 0 <= x < width:
            return None
        return min(int(x * len(self.frames) / width), len(self.frames) - 1)

    def text(self, frame: int) -> str:
        """What hovering over a slice says."""
        one = self.frames[frame]
        lines = [_("Slice {number} of {count}").format(number=frame + 1, count=len(self.frames))]
        said = [text for holds, text in _words(one) if holds]
        lines += [", ".join(said)] if said else []
        if one.doubt is not None and one.facts is not None:
            lines.append(_("Doubt {doubt:.0%}").format(doubt=one.doubt))
            if one.facts.predictedIou is not None:
                lines[-1] += " · " + _("model's own estimate of overlap {iou:.0%}").format(
                    iou=one.facts.predictedIou
                )
        return "\n".join(lines)


def _words(one: StripFrame) -> list[tuple[bool, str]]:
    kind = "" if one.facts is None else one.facts.kind
    return [
        (one.isLocked, _("locked")),
        (one.isAbsent, _("absent")),
        (one.isEdited, _("edited by hand")),
        (one.isKeyframe and not one.isEdited, _("keyframe with prompts")),
        (kind == "propagated" and not one.isKeyframe and not one.isEdited, _("propagated")),
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
    """The strip of a segment with `count` slices."""
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
