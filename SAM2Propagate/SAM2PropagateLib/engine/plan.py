"""Plans which frames a run computes, from which keyframes, in which direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import BACKWARD, BOTH, FORWARD


@dataclass(frozen=True)
class Stretch:
    """Neighboring frames between two keyframes, or beyond the outermost one.

    Attributes:
        segment: its name.
        first, last: the frames to write, inclusive, without the keyframes.
        left: the keyframe that is carried forward over them, or None.
        right: the keyframe that is carried backward over them, or None.
        absent: the keyframe next to them with an absent mark, if there is one; or None.
        holds: whether the user gave the ends, so that the segment is on all of these frames.
        elder: beyond an outermost keyframe that is a mask corrected by clicks or scribbles: the keyframe
            behind it, which may end the segment, see `elder`; or None.
    """

    segment: str
    first: int
    last: int
    left: int | None
    right: int | None
    absent: int | None = None
    holds: bool = False
    elder: int | None = None

    @property
    def frames(self) -> range:
        return range(self.first, self.last + 1)


def plan(segment: ResolvedSegment, direction: str = BOTH, reach: int | None = None) -> tuple[Stretch, ...]:
    """Return the stretches of one segment's run.

    Args:
        direction: `both`, `forward` (to higher frame indices) or `backward`.
        reach: frames further than this from every keyframe they could come from are left alone.

    Returns:
        Stretches in ascending order. Frames that no keyframe reaches are in none of them.
    """
    keys = sorted(segment.keyframes)
    sources = {key for key in keys if segment.keyframes[key].is_positive}
    edges = [segment.first - 1, *keys, segment.last + 1]
    stretches: list[Stretch] = []
    for before, after in pairwise(edges):
        first, last = max(before + 1, segment.first), min(after - 1, segment.last)
        if first > last:
            continue
        left = before if before in sources and direction != BACKWARD else None
        right = after if after in sources and direction != FORWARD else None
        parts = _within_reach(segment.segment, first, last, left, right, reach)
        for part in parts:
            absent = _end_of(part, segment.keyframes)
            holds = segment.is_ranged and absent is None
            # Where the user gave the end, nobody is asked for it.
            elder = None if holds or absent is not None else _elder_of(part, segment.keyframes, reach)
            stretches.append(replace(part, absent=absent, holds=holds, elder=elder))
    return tuple(stretches)


def _end_of(stretch: Stretch, keyframes: Mapping[int, FramePrompts]) -> int | None:
    if stretch.left is not None and stretch.right is not None:
        return None
    beyond = stretch.last + 1 if stretch.right is None else stretch.first - 1
    return beyond if beyond in keyframes and keyframes[beyond].absent else None


def _elder_of(stretch: Stretch, keyframes: Mapping[int, FramePrompts], reach: int | None) -> int | None:
    """Return the elder keyframe of a stretch beyond the outermost keyframe.

    It is the nearest one behind that is no corrected mask itself, so that one click more changes nothing
    beyond another one.
    """
    near = stretch.left if stretch.right is None else stretch.right
    if near is None or not keyframes[near].corrects_mask:
        return None
    outward = 1 if near == stretch.left else -1
    if any((key - near) * outward > 0 for key in keyframes):
        return None
    for key in sorted(keyframes, key=lambda key: abs(key - near))[1:]:
        if not keyframes[key].is_positive or (reach is not None and abs(key - near) > reach):
            return None
        if not keyframes[key].corrects_mask:
            return key
    return None


def _within_reach(
    name: str, first: int, last: int, left: int | None, right: int | None, reach: int | None
) -> list[Stretch]:
    if left is None and right is None:
        return []
    if reach is None:
        return [Stretch(name, first, last, left, right)]
    end = last if left is None else min(last, left + reach)
    start = first if right is None else max(first, right - reach)
    if left is not None and right is not None:
        if start <= end + 1:
            return [Stretch(name, first, last, left, right)]
        parts = [Stretch(name, first, end, left, None), Stretch(name, start, last, None, right)]
    elif left is not None:
        parts = [Stretch(name, first, end, left, None)]
    else:
        parts = [Stretch(name, start, last, None, right)]
    return [part for part in parts if part.first <= part.last]


def signature(stretch: Stretch, keyframes: Mapping[int, FramePrompts]) -> tuple[object, ...]:
    """Return what a stretch's masks depend on: equal signatures mean equal masks."""

    def source(key: int | None) -> tuple[int, str] | None:
        return None if key is None else (key, keyframes[key].fingerprint)

    sources = source(stretch.left), source(stretch.right)
    return stretch.first, stretch.last, *sources, stretch.absent, stretch.holds, source(stretch.elder)
