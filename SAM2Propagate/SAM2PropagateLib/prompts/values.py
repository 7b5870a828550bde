"""Prompts as immutable values in RAS (mm). In a scene this is the volume's own RAS, below its transforms.

Every change makes a new value. Nothing here depends on a volume, so the same prompts survive another
propagation axis, a moved volume or another session. `resolve.py` turns them into frames and pixels.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import InputError, shortened
from SAM2PropagateLib.frames.geometry import check_axis
from SAM2PropagateLib.texts import Words, is_utf8
from SAM2PropagateLib.texts import text as _

Ras: TypeAlias = tuple[float, float, float]
MarkKind: TypeAlias = Literal["absent", "lock"]

# More points bring nothing, and the scene keeps each of them.
MOST_POINTS = 1000
# A share of a line's length; points this near to the line lie on it.
_LINE = 1e-6


def new_id() -> str:
    """Return a short id that no other prompt has."""
    return uuid.uuid4().hex[:12]


def to_ras(value: Any, what: Callable[[], Words] = lambda: _("The point")) -> Ras:
    """Return three finite floats. Raises InputError `bad_point` for anything else; `what` begins its
    sentence."""
    try:
        point = tuple(float(coordinate) for coordinate in value)
    except (TypeError, ValueError, OverflowError):
        point = ()
    if len(point) != 3 or not all(map(math.isfinite, point)):
        raise InputError(
            "bad_point",
            _("{what} {value} is not a valid position.").format(what=what(), value=shortened(repr(value))),
            _("Give three finite numbers: R, A and S in mm."),
        )
    return point[0], point[1], point[2]


@dataclass(frozen=True)
class Click:
    """A point in the structure (positive) or outside it (negative)."""

    id: str
    ras: Ras
    positive: bool = True

    def __post_init__(self) -> None:
        _check_id(self.id)
        object.__setattr__(self, "ras", to_ras(self.ras, lambda: _("The click at")))
        object.__setattr__(self, "positive", bool(self.positive))


@dataclass(frozen=True)
class Box:
    """A rectangle around the structure on one frame, by two opposite corners.

    Its sides are along the rows and columns of the frame, not of a rotated view: `place.box_around` makes one
    from all four corners that were drawn.
    """

    id: str
    corner_a: Ras
    corner_b: Ras

    def __post_init__(self) -> None:
        _check_id(self.id)
        object.__setattr__(self, "corner_a", to_ras(self.corner_a, lambda: _("The corner of the box at")))
        object.__setattr__(self, "corner_b", to_ras(self.corner_b, lambda: _("The corner of the box at")))


@dataclass(frozen=True)
class Scribble:
    """A stroke along the structure (positive) or along something else (negative).

    Args:
        id: unique in its segment.
        points: RAS of the stroke's corners in order; a single one is a click. A point that repeats the one
            before it is left out. `place.scribble_along` reduces them.
        positive: whether the stroke lies in the structure.

    Raises:
        InputError: `bad_id`, `bad_point`, `empty_scribble`, `too_many_points`.
    """

    id: str
    points: tuple[Ras, ...]
    positive: bool = True

    def __post_init__(self) -> None:
        _check_id(self.id)
        object.__setattr__(self, "points", _stroke(self.points, lambda: _("The point of a scribble at")))
        object.__setattr__(self, "positive", bool(self.positive))
        if not self.points:
            raise InputError("empty_scribble", _("A scribble has no points."), _("Draw it again."))


@dataclass(frozen=True)
class Lasso:
    """A line around the structure; its last point is joined to its first.

    Args:
        id: unique in its segment.
        points: RAS of the line's corners in order, not closed. A point that repeats the one before it, or a
            last one that repeats the first, is left out. `place.lasso_around` reduces them.
        exact: keep the line as it was drawn; else the model tightens it to the structure's edge.

    Raises:
        InputError: `bad_id`, `bad_point`, `empty_lasso` (all points on one line), `too_many_points`.
    """

    id: str
    points: tuple[Ras, ...]
    exact: bool = False

    def __post_init__(self) -> None:
        _check_id(self.id)
        points = _stroke(self.points, lambda: _("The point of a lasso at"))
        while len(points) > 1 and points[-1] == points[0]:
            points = points[:-1]
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "exact", bool(self.exact))
        if _is_straight(points):
            raise InputError(
                "empty_lasso",
                _("A lasso has no area: its points lie on one line."),
                _("Draw around the structure."),
            )


@dataclass(frozen=True)
class Curve:
    """A line through the structure in space; it is a positive click on each frame that it crosses.

    Args:
        id: unique in its segment.
        points: RAS of the line's corners in order, at least two. A point that repeats the one before it is
            left out, and in a closed curve a last point that repeats the first.
        closed: the last point is joined to the first.

    Raises:
        InputError: `bad_id`, `bad_point`, `short_curve`, `too_many_points`.
    """

    id: str
    points: tuple[Ras, ...]
    closed: bool = False

    def __post_init__(self) -> None:
        _check_id(self.id)
        points = _stroke(self.points, lambda: _("The point of a curve at"))
        while self.closed and len(points) > 1 and points[-1] == points[0]:
            points = points[:-1]
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "closed", bool(self.closed))
        if len(points) < 2:
            raise InputError(
                "short_curve",
                _("A curve has fewer than two points."),
                _("Draw it through the structure, from slice to slice."),
            )

    @property
    def line(self) -> tuple[Ras, ...]:
        """Its points in order; a closed curve ends with its first point."""
        return (*self.points, self.points[0]) if self.closed else self.points


@dataclass(frozen=True, eq=False)
class MaskPrompt:
    """The structure's pixels on one frame.

    Args:
        id: unique in its segment.
        origin: RAS of the center of pixel (x=0, y=0), mm.
        column_step: RAS vector for one column further (x + 1), mm.
        row_step: RAS vector for one row further (y + 1), mm.
        mask: (rows, columns) bool; kept as a read-only copy. All False means: not on this frame.
    """

    id: str
    origin: Ras
    column_step: Ras
    row_step: Ras
    mask: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        _check_id(self.id)
        object.__setattr__(self, "origin", to_ras(self.origin, lambda: _("The mask's origin")))
        object.__setattr__(self, "column_step", to_ras(self.column_step, lambda: _("The mask's column step")))
        object.__setattr__(self, "row_step", to_ras(self.row_step, lambda: _("The mask's row step")))
        mask = np.array(self.mask, dtype=bool, order="C")
        if mask.ndim != 2 or not mask.size:
            raise InputError(
                "mask_geometry",
                _("The mask has the shape {shape} instead of rows and columns.").format(shape=mask.shape),
                _("Give the mask of one slice."),
            )
        mask.setflags(write=False)
        object.__setattr__(self, "mask", mask)

    def _key(self) -> tuple[Any, ...]:
        places = (self.origin, self.column_step, self.row_step)
        return self.id, places, self.mask.shape, self.mask.tobytes()

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, MaskPrompt) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True)
class FrameMark:
    """A mark on a frame, given by any point on it; what it means depends on where it is kept."""

    id: str
    ras: Ras

    def __post_init__(self) -> None:
        _check_id(self.id)
        object.__setattr__(self, "ras", to_ras(self.ras, lambda: _("The mark at")))


@dataclass(frozen=True)
class FrameRange:
    """The frames that a run may change, given by any point on each of the outermost two, in any order."""

    first: Ras
    last: Ras

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", to_ras(self.first, lambda: _("The range's end at")))
        object.__setattr__(self, "last", to_ras(self.last, lambda: _("The range's end at")))


Stroke: TypeAlias = Scribble | Lasso | Curve
Prompt: TypeAlias = Click | Box | MaskPrompt | FrameMark | Stroke


@dataclass(frozen=True)
class SegmentPrompts:
    """All prompts of one segment; ids are unique within it.

    Raises:
        InputError: `bad_segment` (no name, or one that no file can hold), `duplicate_id`.
    """

    segment: str
    clicks: tuple[Click, ...] = ()
    boxes: tuple[Box, ...] = ()
    masks: tuple[MaskPrompt, ...] = ()
    absent: tuple[FrameMark, ...] = ()
    locks: tuple[FrameMark, ...] = ()
    range: FrameRange | None = None
    scribbles: tuple[Scribble, ...] = ()
    lassos: tuple[Lasso, ...] = ()
    curves: tuple[Curve, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.segment, str) or not self.segment.strip():
            raise InputError("bad_segment", _("A segment has no name."), _("Name every segment."))
        if not is_utf8(self.segment):
            raise InputError(
                "bad_segment",
                _("The name {name} of a segment is not text in UTF-8, so no file can hold it.").format(
                    name=shortened(repr(self.segment))
                ),
                _("Give it another name."),
            )
        for name, kind in _KINDS.items():
            items = tuple(getattr(self, name))
            if not all(isinstance(item, kind) for item in items):
                raise TypeError(f"{name} must hold {kind.__name__} values")
            object.__setattr__(self, name, items)
        seen: set[str] = set()
        for item in self:
            if item.id in seen:
                raise InputError(
                    "duplicate_id",
                    _("Two prompts of segment “{segment}” have the same id “{id}”.").format(
                        segment=self.segment, id=item.id
                    ),
                    _("Give every prompt its own id."),
                )
            seen.add(item.id)

    def __iter__(self) -> Iterator[Prompt]:
        return self.of(*_KINDS)

    def of(self, *kinds: str) -> Iterator[Prompt]:
        """Yield the prompts of some kinds, such as `DRAWN`."""
        for name in kinds:
            yield from getattr(self, name)

    @property
    def strokes(self) -> tuple[Stroke, ...]:
        """All scribbles, lassos and curves."""
        return tuple(one for name in STROKES for one in getattr(self, name))

    def only(self, keep: Callable[[Prompt], bool], *kinds: str) -> SegmentPrompts:
        """Return a copy in which, among the prompts of some kinds, only those stay that `keep` accepts."""
        changes: dict[str, Any] = {
            name: tuple(one for one in getattr(self, name) if keep(one)) for name in kinds
        }
        return replace(self, **changes)

    @property
    def is_empty(self) -> bool:
        """Whether there are no prompts, not even a range."""
        return self.range is None and not any(getattr(self, name) for name in _KINDS)

    @property
    def has_positive(self) -> bool:
        """Whether a prompt shows the structure: a positive click or scribble, a box, a lasso, a curve, or a
        mask with pixels."""
        signed: tuple[Click | Scribble, ...] = (*self.clicks, *self.scribbles)
        positive = any(one.positive for one in signed)
        drawn = bool(self.boxes or self.lassos or self.curves)
        return positive or drawn or any(mask.mask.any() for mask in self.masks)

    def get(self, prompt_id: str) -> Prompt:
        """Return the prompt with this id. Raises InputError `unknown_prompt`."""
        return self._find(prompt_id)[1]

    def add(self, item: Prompt | FrameRange, kind: MarkKind | None = None) -> SegmentPrompts:
        """Return a copy with `item` added; a range replaces the former one.

        Args:
            item: any prompt or a range.
            kind: of a `FrameMark`: `absent` or `lock`.

        Raises:
            InputError: `duplicate_id`. ValueError: a mark without a kind, or a kind without a mark.
        """
        if isinstance(item, FrameRange):
            return replace(self, range=item)
        if isinstance(item, FrameMark) != (kind in ("absent", "lock")):
            raise ValueError(f"a FrameMark, and only that, needs the kind “absent” or “lock”, not {kind!r}")
        if isinstance(item, FrameMark):
            name = "absent" if kind == "absent" else "locks"
        else:
            name = next(name for name, cls in _KINDS.items() if isinstance(item, cls))
        return self._with(name, (*getattr(self, name), item))

    def move(self, prompt_id: str, *points: Ras) -> SegmentPrompts:
        """Return a copy with one prompt at another place.

        Args:
            prompt_id: id of the prompt.
            points: RAS; one for a click, a mark (its place) or a mask (its origin), two for a box (its
                corners), for a scribble, a lasso or a curve as many as it has.

        Raises:
            InputError: `unknown_prompt`, `bad_point`. ValueError: the wrong number of points.
        """
        item = self.get(prompt_id)
        if isinstance(item, Stroke):
            if len(points) != len(item.points):
                raise ValueError(
                    f"this {type(item).__name__} is moved with {len(item.points)} point(s), not {len(points)}"
                )
            return self.replace(replace(item, points=points))
        names = {Box: ("corner_a", "corner_b"), MaskPrompt: ("origin",)}.get(type(item), ("ras",))
        if len(points) != len(names):
            kind = type(item).__name__
            raise ValueError(f"a {kind} is moved with {len(names)} point(s), not {len(points)}")
        changes: dict[str, Any] = dict(zip(names, points, strict=True))
        return self.replace(replace(item, **changes))

    def shifted(self, prompt_id: str, offset: Ras) -> SegmentPrompts:
        """Return a copy with one prompt moved as a whole.

        Args:
            prompt_id: id of the prompt.
            offset: RAS vector, mm.

        Raises:
            InputError: `unknown_prompt`, `bad_point`.
        """
        item = self.get(prompt_id)
        if isinstance(item, Stroke):
            points = item.points
        elif isinstance(item, Box):
            points = (item.corner_a, item.corner_b)
        else:
            points = (item.origin if isinstance(item, MaskPrompt) else item.ras,)
        return self.move(prompt_id, *(to_ras(np.add(point, offset)) for point in points))

    def replace(self, item: Prompt) -> SegmentPrompts:
        """Return a copy with `item` instead of the prompt with its id, for example a click with the other
        sign.

        Raises:
            InputError: `unknown_prompt`. TypeError: another kind of prompt.
        """
        name, old = self._find(item.id)
        if type(old) is not type(item):
            raise TypeError(f"a {type(old).__name__} cannot become a {type(item).__name__}")
        items = getattr(self, name)
        return self._with(name, tuple(item if other.id == item.id else other for other in items))

    def remove(self, prompt_id: str) -> SegmentPrompts:
        """Return a copy without this prompt. Raises InputError `unknown_prompt`."""
        name, _ = self._find(prompt_id)
        return self._with(name, tuple(item for item in getattr(self, name) if item.id != prompt_id))

    def with_range(self, frame_range: FrameRange | None) -> SegmentPrompts:
        """Return a copy with another range, or without one."""
        return replace(self, range=frame_range)

    def _with(self, name: str, items: tuple[Any, ...]) -> SegmentPrompts:
        changes: dict[str, Any] = {name: items}
        return replace(self, **changes)

    def _find(self, prompt_id: str) -> tuple[str, Prompt]:
        for name in _KINDS:
            for item in getattr(self, name):
                if item.id == prompt_id:
                    return name, item
        raise InputError(
            "unknown_prompt",
            _("Segment “{segment}” has no prompt “{id}”.").format(segment=self.segment, id=prompt_id),
            _("It may have been removed already."),
        )


# The field of each kind, in the order of documents.
_KINDS: dict[str, type] = {
    "clicks": Click,
    "boxes": Box,
    "masks": MaskPrompt,
    "absent": FrameMark,
    "locks": FrameMark,
    "scribbles": Scribble,
    "lassos": Lasso,
    "curves": Curve,
}
STROKES = ("scribbles", "lassos", "curves")
"""The kinds that consist of a line of points."""
DRAWN = ("clicks", "boxes", *STROKES)
"""The kinds that the user places in the views to show the structure: all but masks and marks."""


@dataclass(frozen=True)
class PromptSet:
    """The prompts of all segments.

    Args:
        segments: with different names; their order is kept.
        axis: propagation axis 0, 1, 2, or None: chosen by `resolve.choose_axis`.

    Raises:
        InputError: `duplicate_segment`, `bad_axis`.
    """

    segments: tuple[SegmentPrompts, ...] = ()
    axis: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.segments))
        if self.axis is not None:
            object.__setattr__(self, "axis", check_axis(self.axis))
        names = self.names
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    "duplicate_segment",
                    _("Segment “{name}” appears twice.").format(name=name),
                    _("Put all prompts of a segment in one place."),
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The segments' names, in order."""
        return tuple(segment.segment for segment in self.segments)

    @property
    def is_empty(self) -> bool:
        """Whether no segment has prompts."""
        return all(segment.is_empty for segment in self.segments)

    def segment(self, name: str) -> SegmentPrompts:
        """Return the prompts of this segment, which may be empty."""
        return next((one for one in self.segments if one.segment == name), SegmentPrompts(name))

    def with_segment(self, prompts: SegmentPrompts) -> PromptSet:
        """Return a copy with this segment's prompts replaced, or added at the end."""
        if prompts.segment in self.names:
            segments = tuple(prompts if one.segment == prompts.segment else one for one in self.segments)
            return replace(self, segments=segments)
        return replace(self, segments=(*self.segments, prompts))

    def without_segment(self, name: str) -> PromptSet:
        """Return a copy without this segment."""
        return replace(self, segments=tuple(one for one in self.segments if one.segment != name))

    def with_axis(self, axis: int | None) -> PromptSet:
        """Return a copy with another propagation axis; None is automatic."""
        return replace(self, axis=axis)

    def add(self, segment: str, item: Prompt | FrameRange, kind: MarkKind | None = None) -> PromptSet:
        """Do what `SegmentPrompts.add` does, and add the segment if it is new."""
        return self.with_segment(self.segment(segment).add(item, kind))

    def move(self, segment: str, prompt_id: str, *points: Ras) -> PromptSet:
        """Do what `SegmentPrompts.move` does."""
        return self.with_segment(self.segment(segment).move(prompt_id, *points))

    def shifted(self, segment: str, prompt_id: str, offset: Ras) -> PromptSet:
        """Do what `SegmentPrompts.shifted` does."""
        return self.with_segment(self.segment(segment).shifted(prompt_id, offset))

    def replace(self, segment: str, item: Prompt) -> PromptSet:
        """Do what `SegmentPrompts.replace` does."""
        return self.with_segment(self.segment(segment).replace(item))

    def remove(self, segment: str, prompt_id: str) -> PromptSet:
        """Do what `SegmentPrompts.remove` does."""
        return self.with_segment(self.segment(segment).remove(prompt_id))


def _check_id(prompt_id: Any) -> None:
    if not isinstance(prompt_id, str) or not prompt_id.strip():
        raise InputError(
            "bad_id",
            _("The id {id} of a prompt is not a text.").format(id=shortened(repr(prompt_id))),
            _("Use new_id()."),
        )


def _stroke(values: Any, what: Callable[[], Words]) -> tuple[Ras, ...]:
    """Return a stroke's points without repetitions."""
    try:
        given = tuple(values)
    except TypeError:
        given = (values,)
    points: list[Ras] = []
    for value in given:
        point = to_ras(value, what)
        if not points or point != points[-1]:
            points.append(point)
    if len(points) > MOST_POINTS:
        raise InputError(
            "too_many_points",
            _("A stroke has {count} points; at most {most} are allowed.").format(
                count=len(points), most=MOST_POINTS
            ),
            _("Leave out points that lie on the line between others."),
        )
    return tuple(points)


def _is_straight(points: tuple[Ras, ...]) -> bool:
    """Tell whether all points lie on one line."""
    if len(points) < 3:
        return True
    places = np.asarray(points) - points[0]
    scale = float(np.abs(places).max())
    deviations = np.linalg.svd((places - places.mean(axis=0)) / scale, compute_uv=False)
    return bool(deviations[1] <= _LINE * deviations[0])
