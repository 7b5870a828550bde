"""Reads and writes prompts as JSON, for the scene, the worker and the command line (see
`docs/prompts.md`)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import InputError, shortened
from SAM2PropagateLib.frames.geometry import AXIS_NAMES
from SAM2PropagateLib.packed_masks import MAX_PIXELS, MaskError, mask_of_text, pack_whole
from SAM2PropagateLib.prompts.values import (
    Box,
    Click,
    Curve,
    FrameMark,
    FrameRange,
    Lasso,
    MaskPrompt,
    PromptSet,
    Ras,
    Scribble,
    SegmentPrompts,
)
from SAM2PropagateLib.texts import Text, Words
from SAM2PropagateLib.texts import text as _

FORMAT = "sam2propagate-prompts"
VERSION = 3
CODEC = "zlib-packbits"
# The version that introduced each kind. A document without it gets an older version, so that older programs
# can read it.
_SINCE = {"scribbles": 2, "lassos": 2, "curves": 3}

T = TypeVar("T")


def to_document(prompts: PromptSet) -> dict[str, Any]:
    """Return the prompts as JSON-able values, in the oldest version that has all their kinds."""
    needed = [since for key, since in _SINCE.items() for segment in prompts.segments if getattr(segment, key)]
    return {
        "format": FORMAT,
        "version": max(needed, default=1),
        "coordinates": "RAS",
        "axis": None if prompts.axis is None else AXIS_NAMES[prompts.axis],
        "segments": [_write_segment(segment) for segment in prompts.segments],
    }


def from_document(document: Any) -> PromptSet:
    """Check a document and return its prompts.

    Raises:
        InputError: `bad_document` (the sentence names the place in the document), `future_version`,
            `duplicate_id`, `duplicate_segment`.
    """
    root = _DocumentFields(document)
    if root.take("format") != FORMAT:
        root.fail(_("is not a list of prompts"), _("Its “format” must be “{format}”.").format(format=FORMAT))
    version = root.take("version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        root.fail(
            _("has the version {version}").format(version=shortened(repr(version))),
            _("The version is a whole number, now {version}.").format(version=VERSION),
        )
    if version > VERSION:
        raise InputError(
            "future_version",
            _(
                "These prompts were written in version {version} of their format; this SAM2 "
                "Propagate reads up to version {own}."
            ).format(version=version, own=VERSION),
            _("Update SAM2 Propagate, or save the prompts in the older version."),
        )
    if root.take("coordinates", "RAS") != "RAS":
        root.fail(
            _("is not in RAS coordinates"), _("Convert the points to RAS (negate x and y of LPS points).")
        )
    axis = root.take("axis", None)
    if axis is not None and axis not in AXIS_NAMES:
        root.fail(
            _("has the axis {axis}").format(axis=shortened(repr(axis))),
            _("Use “i”, “j”, “k” or null for automatic."),
        )
    segments = tuple(_read_segment(fields, version) for fields in root.items("segments", required=True))
    root.end()
    return PromptSet(segments, None if axis is None else AXIS_NAMES.index(axis))


def dumps(prompts: PromptSet, indent: int | None = None) -> str:
    """Return the prompts as JSON text (ASCII only)."""
    return json.dumps(to_document(prompts), indent=indent, allow_nan=False)


def loads(text: str | bytes) -> PromptSet:
    """Return the prompts in a JSON text. Raises InputError as `from_document`."""
    try:
        document = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(
            "bad_document",
            _("The prompts are not valid JSON ({reason}).").format(reason=error),
            _("Check the file, or save the prompts again."),
        ) from error
    return from_document(document)


def pack_mask(mask: npt.NDArray[np.bool_]) -> str:
    """Return the bits of a mask, row by row, the first pixel in the highest bit, zlib-compressed, in
    base64."""
    return pack_whole(mask).text()


def unpack_mask(text: str, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the mask that `pack_mask` was given, (rows, columns) bool. Raises MaskError if it does not fit
    `shape`."""
    return mask_of_text(shape, (0, 0, *shape), text).unpack()


def _write_segment(segment: SegmentPrompts) -> dict[str, Any]:
    strokes = {
        "scribbles": [
            {"id": one.id, "points": [list(point) for point in one.points], "positive": one.positive}
            for one in segment.scribbles
        ],
        "lassos": [
            {"id": one.id, "points": [list(point) for point in one.points], "exact": one.exact}
            for one in segment.lassos
        ],
        "curves": [
            {"id": one.id, "points": [list(point) for point in one.points], "closed": one.closed}
            for one in segment.curves
        ],
    }
    return {
        "segment": segment.segment,
        "clicks": [{"id": c.id, "ras": list(c.ras), "positive": c.positive} for c in segment.clicks],
        "boxes": [
            {"id": b.id, "corner_a": list(b.corner_a), "corner_b": list(b.corner_b)} for b in segment.boxes
        ],
        "masks": [
            {
                "id": m.id,
                "origin": list(m.origin),
                "column_step": list(m.column_step),
                "row_step": list(m.row_step),
                "shape": list(m.mask.shape),
                "codec": CODEC,
                "bits": pack_mask(m.mask),
            }
            for m in segment.masks
        ],
        "absent": [{"id": mark.id, "ras": list(mark.ras)} for mark in segment.absent],
        "locks": [{"id": mark.id, "ras": list(mark.ras)} for mark in segment.locks],
        "range": None
        if segment.range is None
        else {"first": list(segment.range.first), "last": list(segment.range.last)},
        **{key: items for key, items in strokes.items() if items},
    }


def _read_segment(fields: _DocumentFields, version: int) -> SegmentPrompts:
    name = fields.text("segment")
    for key, since in _SINCE.items():
        if version < since and key in fields.values:
            fields.fail(
                _("has “{key}”, which version {version} does not know").format(key=key, version=version),
                _("Set “version” to {version}.").format(version=since),
            )
    ids = _given_ids(fields)

    def all_of(key: str, read: Callable[[_DocumentFields, str], T]) -> tuple[T, ...]:
        values = []
        for number, item in enumerate(fields.items(key), 1):
            values.append(read(item, _read_id(item, f"{key}-{number}", ids)))
            item.end()
        return tuple(values)

    def mark(item: _DocumentFields, prompt_id: str) -> FrameMark:
        return FrameMark(prompt_id, item.point("ras"))

    clicks = all_of("clicks", lambda item, i: Click(i, item.point("ras"), item.boolean("positive", True)))
    boxes = all_of("boxes", lambda item, i: Box(i, item.point("corner_a"), item.point("corner_b")))
    masks = all_of("masks", _read_mask)
    absent, locks = all_of("absent", mark), all_of("locks", mark)
    scribbles = all_of(
        "scribbles", lambda item, i: Scribble(i, item.line("points"), item.boolean("positive", True))
    )
    lassos = all_of("lassos", lambda item, i: Lasso(i, item.line("points"), item.boolean("exact", False)))
    curves = all_of("curves", lambda item, i: Curve(i, item.line("points"), item.boolean("closed", False)))
    frame_range = fields.take("range", None)
    ends = None
    if frame_range is not None:
        place = _DocumentFields(frame_range, f"{fields.where}.range")
        ends = FrameRange(place.point("first"), place.point("last"))
        place.end()
    fields.end()
    return SegmentPrompts(name, clicks, boxes, masks, absent, locks, ends, scribbles, lassos, curves)


def _read_mask(item: _DocumentFields, prompt_id: str) -> MaskPrompt:
    shape = item.take("shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)
        or shape[0] * shape[1] > MAX_PIXELS
    ):
        item.fail(
            _("has the shape {shape}").format(shape=shortened(repr(shape))),
            _("Give its number of rows and columns."),
        )
    if item.take("codec") != CODEC:
        item.fail(_("is packed in an unknown way"), _("Its “codec” must be “{codec}”.").format(codec=CODEC))
    try:
        mask = unpack_mask(item.text("bits"), (shape[0], shape[1]))
    except MaskError as error:
        item.fail(_("is damaged: {reason}").format(reason=error.reason), _("Save the prompts again."))
    return MaskPrompt(
        prompt_id, item.point("origin"), item.point("column_step"), item.point("row_step"), mask
    )


def _given_ids(fields: _DocumentFields) -> set[str]:
    lists = (fields.values.get(key) for key in ("clicks", "boxes", "masks", "absent", "locks", *_SINCE))
    items = (item for one in lists if isinstance(one, list) for item in one if isinstance(item, dict))
    return {item["id"] for item in items if isinstance(item.get("id"), str)}


def _read_id(item: _DocumentFields, default: str, ids: set[str]) -> str:
    """Return the prompt's id; hand-written documents may leave it out, and get one from the prompt's
    place."""
    if "id" in item.values:
        return item.text("id")
    while default in ids:
        default += "'"
    ids.add(default)
    return default


class _DocumentFields:
    """An object of the document, read field by field; `end` refuses unknown fields.

    Args:
        value: the object. where: its place in the document; "" for the document itself.
    """

    def __init__(self, value: Any, where: str = "") -> None:
        self.where = where
        if not isinstance(value, dict):
            self.fail(_("is not an object with named fields"), _("Correct the document."))
        self.values: dict[str, Any] = value
        self.left = set(value)

    def fail(self, what: Words, hint: Words) -> NoReturn:
        """Raise InputError `bad_document`, with the place of this object."""
        place = _upper(self.where) or _("The document")
        raise InputError("bad_document", _("{place} {what}.").format(place=place, what=what), hint)

    def take(self, key: str, *default: Any) -> Any:
        """Return a field, whatever it holds; refuse the document if it lacks the field and has no default."""
        if key not in self.values:
            if default:
                return default[0]
            self.fail(_("lacks the field “{key}”").format(key=key), _("Add it."))
        self.left.discard(key)
        return self.values[key]

    def text(self, key: str) -> str:
        """Return a text that is not empty."""
        value = self.take(key)
        if not isinstance(value, str) or not value.strip():
            self.fail(_has(value, key), _("Give a text that is not empty."))
        return str(value)

    def boolean(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            self.fail(_has(value, key), _("Give true or false."))
        return bool(value)

    def point(self, key: str) -> Ras:
        """Return a point, RAS in mm."""
        return self._point(self.take(key), key)

    def line(self, key: str) -> tuple[Ras, ...]:
        """Return a list of points."""
        value = self.take(key)
        if not isinstance(value, list) or not value:
            self.fail(_has(value, key), _("Give a list of points, each of three numbers."))
        return tuple(self._point(item, f"{key}[{index}]") for index, item in enumerate(value))

    def _point(self, value: Any, key: str) -> Ras:
        if isinstance(value, list) and len(value) == 3 and all(map(_is_number, value)):
            return float(value[0]), float(value[1]), float(value[2])
        self.fail(_has(value, key), _("Give three finite numbers: R, A and S in mm."))

    def items(self, key: str, required: bool = False) -> Iterator[_DocumentFields]:
        """Return a list of objects; an optional one may be missing."""
        value = self.take(key) if required else self.take(key, [])
        if not isinstance(value, list):
            self.fail(_has(value, key), _("Give a list."))
        where = f"{self.where}.{key}" if self.where else key
        return (_DocumentFields(item, f"{where}[{index}]") for index, item in enumerate(value))

    def end(self) -> None:
        """Refuse fields that were not read."""
        if self.left:
            names = ", ".join(f"“{name}”" for name in sorted(map(str, self.left)))
            self.fail(
                _("has unknown fields: {names}").format(names=names),
                _("Correct their spelling or remove them."),
            )


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _refuse_constant(name: str) -> NoReturn:
    raise InputError(
        "bad_document",
        _("The prompts hold the value {name}.").format(name=name),
        _("Give finite numbers."),
    )


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(
            "bad_document",
            _("The prompts hold the field “{name}” twice.").format(name=twice),
            _("Remove one of them."),
        )
    return values


def _has(value: Any, key: str) -> Text:
    return _("has {value} for “{key}”").format(value=shortened(repr(value)), key=key)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
