"""Holds the prompts of a segment in pixels: on one frame, and on all frames of a volume along one axis."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.prompts.strokes import FrameStroke

PixelBox = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class FramePrompts:
    """The prompts of one segment on one frame, in native pixels (x = column, y = row).

    Args:
        clicks: (x, y, positive) each.
        box: (x0, y0, x1, y1) with x0 < x1 and y0 < y1, within the frame's outer edges.
        mask: (rows, columns) bool of the native frame, exact, read-only, with at least one True pixel.
        absent: the structure is not on this frame; everything else is then empty.
        strokes: the parts of scribbles on this frame; the engine chooses clicks along them.
        outlines: the insides of lassos to be tightened, each like `mask`; the results are added to it.
    """

    clicks: tuple[tuple[float, float, bool], ...] = ()
    box: PixelBox | None = None
    mask: npt.NDArray[np.bool_] | None = None
    absent: bool = False
    strokes: tuple[FrameStroke, ...] = ()
    outlines: tuple[npt.NDArray[np.bool_], ...] = ()

    @property
    def is_positive(self) -> bool:
        """Whether a prompt shows where the structure is on this frame."""
        return (
            self.box is not None
            or self.has_shape
            or any(positive for _, _, positive in self.clicks)
            or any(stroke.positive for stroke in self.strokes)
        )

    @property
    def has_shape(self) -> bool:
        """Whether there is an outline of the structure on this frame, which clicks then correct."""
        return self.mask is not None or bool(self.outlines)

    @property
    def corrects_mask(self) -> bool:
        """Whether clicks or scribbles correct a mask on this frame."""
        return self.mask is not None and bool(self.clicks or self.strokes)

    @property
    def is_empty(self) -> bool:
        """Whether there is no prompt at all, not even an absent mark."""
        return not (self.absent or self.clicks or self.strokes or self.box is not None or self.has_shape)

    @property
    def fingerprint(self) -> str:
        """A hash of the prompts, the same in any process, and in any order unless they correct a mask.
        Positions are rounded to a thousandth of a pixel."""
        digest = hashlib.sha256()
        clicks = [(_milli(x), _milli(y), bool(sign)) for x, y, sign in self.clicks]
        # Clicks that correct a mask are applied one after the other; others count together.
        digest.update(repr(clicks if self.has_shape else sorted(clicks)).encode())
        digest.update(repr(None if self.box is None else [_milli(edge) for edge in self.box]).encode())
        if self.mask is not None:
            digest.update(repr(self.mask.shape).encode())
            digest.update(np.packbits(self.mask).tobytes())
        digest.update(repr(bool(self.absent)).encode())
        if self.strokes or self.outlines:
            strokes = [
                (tuple((_milli(x), _milli(y)) for x, y in stroke.points), bool(stroke.positive))
                for stroke in self.strokes
            ]
            digest.update(repr(strokes if self.has_shape else sorted(strokes)).encode())
            for outline in self.outlines:
                digest.update(repr(outline.shape).encode() + np.packbits(outline).tobytes())
        return digest.hexdigest()[:32]

    def __eq__(self, other: object) -> bool:
        return self.fingerprint == other.fingerprint if isinstance(other, FramePrompts) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.fingerprint)


@dataclass(frozen=True)
class ResolvedSegment:
    """One segment's prompts on the frames of one volume.

    Args:
        segment: its name.
        keyframes: frame -> its prompts, ascending, read-only; absent marks are keyframes too.
        locked: frames that must not change.
        first, last: the frames that a run may change, inclusive: the range, cut at the absent marks next to
            the outermost positive keyframes (the marked frames are included).
        is_ranged: whether the user gave a range: then the structure is on all of its frames that are not
            marked absent.
    """

    segment: str
    keyframes: Mapping[int, FramePrompts]
    locked: frozenset[int] = field(default_factory=frozenset)
    first: int = 0
    last: int = 0
    is_ranged: bool = False

    def __post_init__(self) -> None:
        ordered = {frame: self.keyframes[frame] for frame in sorted(self.keyframes)}
        object.__setattr__(self, "keyframes", MappingProxyType(ordered))

    def __hash__(self) -> int:
        return hash(self._parts(tuple(self.keyframes.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._parts(dict(self.keyframes))

    def _parts(self, keyframes: object) -> tuple[Any, ...]:
        return self.segment, keyframes, self.locked, self.first, self.last, self.is_ranged

    @property
    def positive_frames(self) -> tuple[int, ...]:
        """The keyframes that show the structure, ascending."""
        return tuple(frame for frame, prompts in self.keyframes.items() if prompts.is_positive)


def _milli(value: float) -> int:
    return round(float(value) * 1000)
