"""Requests and events between client and worker, as typed values that are checked on arrival.

A request's header is {"type", "id", ...its fields}, an event's {"type", "request": id, ...its fields}. The
mask of a frame and the voxels of a volume travel as the payload.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from SAM2PropagateLib.errors import InputError, SAM2PropagateError, shortened
from SAM2PropagateLib.frame_kinds import KINDS
from SAM2PropagateLib.packed_masks import (
    PackedEdge,
    PackedMask,
    bits_of,
    mask_of_values,
    packed_edge,
    packed_mask,
)
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.texts import Words, from_wire, to_wire
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker.wire import Message, Payload, WireError

PROTOCOL_VERSION = 10
"""Must be equal at both ends; raise it with every change that an older end would misread."""

DEVICE_LOST = "device_lost"
"""The error code after which the worker ends itself."""


_Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _words(value: Any) -> bool:
    try:
        from_wire(value)
    except ValueError:
        return False
    return True


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return _whole(value) and value >= 0


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _one_of(*allowed: str) -> _Check:
    return lambda value: isinstance(value, str) and value in allowed


def _or_none(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _list_of(check: _Check, length: int | None = None) -> _Check:
    def checked(value: Any) -> bool:
        right = isinstance(value, list | tuple) and (length is None or len(value) == length)
        return right and all(check(item) for item in value)

    return checked


def _voxel_type(value: Any) -> bool:
    try:
        return isinstance(value, str) and np.dtype(value).kind in "biuf"
    except TypeError:
        return False


def _crop(value: Any) -> bool:
    return value is None or value == "auto" or _list_of(_number, 4)(value)


def _config(value: Any) -> bool:
    return value is None or _text(value) or _table(value)


def _run_options(value: Any) -> bool:
    try:
        return RunOptions.from_wire(value) is not None
    except InputError:
        return False


def _checked(check: _Check, **options: Any) -> Any:
    return field(metadata={"check": check}, **options)


class _WireFields:
    """Converts dataclass fields to and from a header; each field's metadata holds its check."""

    type: ClassVar[str]

    def fields(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def take(cls, header: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
        """Check and return the fields of a header.

        Raises:
            SAM2PropagateError: bad_message: a field is missing, unknown or of the wrong kind.
        """
        taken: dict[str, Any] = {}
        for item in fields(cls):  # type: ignore[arg-type]
            if "check" not in item.metadata:
                continue
            if item.name not in header:
                if item.default is MISSING and item.default_factory is MISSING:
                    raise _bad(
                        _("The message “{message}” lacks “{field}”.").format(
                            message=cls.type, field=item.name
                        )
                    )
                continue
            value = header[item.name]
            if not item.metadata["check"](value):
                raise _bad(
                    _("The message “{message}” has an invalid “{field}” ({value}).").format(
                        message=cls.type, field=item.name, value=shortened(repr(value))
                    )
                )
            taken[item.name] = tuple(value) if isinstance(value, list) else value
        unknown = sorted(set(header) - set(taken) - {"type", *known} - {item.name for item in fields(cls)})  # type: ignore[arg-type]
        if unknown:
            raise _bad(
                _("The message “{message}” has the unknown field “{field}”.").format(
                    message=cls.type, field=unknown[0]
                )
            )
        return taken


# --- requests


@dataclass(frozen=True)
class Request(_WireFields):
    """A request of the client; one `done` or one `error` answers it."""

    def header(self, request_id: int) -> dict[str, Any]:
        """Return the frame's header."""
        return {"type": self.type, "id": request_id, **self.fields()}


@dataclass(frozen=True)
class Hello(Request):
    """The first request. Answer: `ready`."""

    type: ClassVar[str] = "hello"
    protocol: int = _checked(_whole, default=PROTOCOL_VERSION)
    client: str = _checked(_text, default="SAM2Propagate")


@dataclass(frozen=True)
class LoadModel(Request):
    """Load a model, in place of the one that is loaded.

    Answer: progress*, done {model, device, dtype, input_size}; dtype is the precision in use.

    Attributes:
        name: of the registry. path: of a weights file; one of both must be given.
        config: a configuration by name or path, or {"base", "overrides"}; None: what the file says.
        device: "auto", "cuda", "cuda:N", "mps" or "cpu". input_size: pixels; None: the model's own.
        precision: "auto", "float32", "bfloat16", "float16" or "int8".
        cache_megabytes: for the features of frames; None: the engine's choice.
        encode_ahead: while idle after a preview, encode the frames around it in advance.
        motion: carry masks along the image's motion, too; else by the model alone.
    """

    type: ClassVar[str] = "load_model"
    name: str | None = _checked(_or_none(_text), default=None)
    path: str | None = _checked(_or_none(_text), default=None)
    config: str | Mapping[str, Any] | None = _checked(_config, default=None)
    device: str = _checked(_text, default="auto")
    input_size: int | None = _checked(_or_none(_count), default=None)
    precision: str = _checked(_text, default="auto")
    cache_megabytes: float | None = _checked(_or_none(_number), default=None)
    encode_ahead: bool = _checked(_flag, default=True)
    motion: bool = _checked(_flag, default=True)

    def __post_init__(self) -> None:
        if (self.name is None) == (self.path is None):
            raise _bad(_("The message “load_model” needs either “name” or “path”."))


@dataclass(frozen=True)
class OpenVolume(Request):
    """Open a volume's frames along one axis under a name. Answer: done {frames}.

    Attributes:
        volume: the name; an open volume of that name is replaced.
        geometry: `VolumeGeometry.to_dict()`. dtype: NumPy's `dtype.str`. shape: (K, J, I).
        source: {"kind": "shared", "path"}, {"kind": "payload", "codec": "planes"} (the payload holds the
            voxels, see `voxels.CODEC`), or {"kind": "volume", "volume": name} (those of another open volume).
        window: (width, level). axis: 0 = i, 1 = j, 2 = k.
        crop: None, "auto", or (x0, y0, x1, y1) in native pixel edge coordinates of a frame.
    """

    type: ClassVar[str] = "open_volume"
    volume: str = _checked(_text)
    geometry: Mapping[str, Any] = _checked(_table)
    dtype: str = _checked(_voxel_type)
    shape: tuple[int, int, int] = _checked(_list_of(_count, 3))
    source: Mapping[str, Any] = _checked(_table)
    window: tuple[float, float] = _checked(_list_of(_number, 2))
    axis: int = _checked(_count)
    crop: str | tuple[float, float, float, float] | None = _checked(_crop, default="auto")


@dataclass(frozen=True)
class SetWindow(Request):
    """Show the model an open volume in another window: (width, level). Answer: done {}.

    A segment that was carried keeps its window until a run `anew`.
    """

    type: ClassVar[str] = "set_window"
    volume: str = _checked(_text)
    window: tuple[float, float] = _checked(_list_of(_number, 2))


@dataclass(frozen=True)
class Preview(Request):
    """One frame's mask from its prompts alone. Answer: frame, done {}. Served during a run, too.

    Attributes:
        prompts: a prompt set from `prompts.document.to_document`. segment: its name. frame: its index.
        edges: send how the mask's edge runs between the pixels, too, if known.
    """

    type: ClassVar[str] = "preview"
    volume: str = _checked(_text)
    prompts: Mapping[str, Any] = _checked(_table)
    segment: str = _checked(_text)
    frame: int = _checked(_count)
    edges: bool = _checked(_flag, default=False)


@dataclass(frozen=True)
class Propagate(Request):
    """A run. Answer: frame*, progress*, done {summary fields, cancelled}.

    Attributes:
        prompts: as in `Preview`. segments: those to propagate, by name.
        options: how; on the wire as `RunOptions.to_wire` gives them.
    """

    type: ClassVar[str] = "propagate"
    volume: str = _checked(_text)
    prompts: Mapping[str, Any] = _checked(_table)
    segments: tuple[str, ...] = _checked(_list_of(_text))
    options: RunOptions = field(metadata={"check": _run_options}, default_factory=RunOptions)

    def fields(self) -> dict[str, Any]:
        """Return the fields' values for the wire."""
        return {**super().fields(), "options": self.options.to_wire()}

    @classmethod
    def take(cls, header: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
        """Return the fields' values from the wire."""
        taken = super().take(header, known)
        return {**taken, "options": RunOptions.from_wire(taken.get("options", {}))}


@dataclass(frozen=True)
class Cancel(Request):
    """End another request: a waiting one at once, a run between two frames. Answer: that one's
    done {cancelled: true}, then done {known}; known is false if the request had ended already."""

    type: ClassVar[str] = "cancel"
    run: int = _checked(_count)


@dataclass(frozen=True)
class CloseVolume(Request):
    """Forget a volume. Answer: done {}; its shared file is unmapped then."""

    type: ClassVar[str] = "close_volume"
    volume: str = _checked(_text)


@dataclass(frozen=True)
class Alive(Request):
    """Says that the client on another computer is still there. No answer."""

    type: ClassVar[str] = "alive"


@dataclass(frozen=True)
class Shutdown(Request):
    """End the worker, at once or between two steps of a run; waiting requests are dropped. Answer: done
    {}."""

    type: ClassVar[str] = "shutdown"


REQUESTS: dict[str, type[Request]] = {
    kind.type: kind
    for kind in (
        Hello,
        LoadModel,
        OpenVolume,
        SetWindow,
        Preview,
        Propagate,
        Cancel,
        CloseVolume,
        Alive,
        Shutdown,
    )
}


@dataclass(frozen=True)
class Received:
    """A request as the worker received it, with its id and payload."""

    id: int
    request: Request
    payload: Payload = field(default=b"", repr=False)


def parse_request(message: Message) -> Received:
    """Return the request in a message.

    Raises:
        SAM2PropagateError: bad_message.
    """
    header = message.header
    kind = REQUESTS.get(header["type"]) if isinstance(header.get("type"), str) else None
    if kind is None:
        raise _bad(
            _("There is no request of the type {type}.").format(type=shortened(repr(header.get("type"))))
        )
    if not _count(header.get("id")):
        raise _bad(_("The request “{message}” has no valid id.").format(message=kind.type))
    return Received(header["id"], kind(**kind.take(header, ("id",))), message.payload)


# --- events


@dataclass(frozen=True)
class Event(_WireFields):
    """An event of the worker; `request` is the id of its request, None for none."""

    request: int | None

    def message(self) -> Message:
        """Return the event as a message."""
        values = self.fields()
        return Message({"type": self.type, "request": values.pop("request"), **values})

    @classmethod
    def parse(cls: type[_E], request: int | None, message: Message) -> _E:
        """Return the event in a message whose type was read already."""
        return cls(request=request, **cls.take(message.header, ("request",)))


_E = TypeVar("_E", bound=Event)


@dataclass(frozen=True)
class ReadyEvent(Event):
    """The worker's answer to `hello`.

    Attributes:
        protocol: the worker's version of the protocol. pid: of its process. python: its version.
        platform: its system. library: its version of this library, see `library_files.own_version`; "" from
            older ones.
    """

    type: ClassVar[str] = "ready"
    protocol: int = _checked(_whole)
    pid: int = _checked(_whole)
    python: str = _checked(_text)
    platform: str = _checked(_text)
    library: str = _checked(lambda value: isinstance(value, str), default="")


@dataclass(frozen=True)
class ProgressEvent(Event):
    """The progress of a request.

    Attributes:
        text: what is being done; may be empty.
        done, total: frames of a run, bytes of a file or steps; total 0: unknown.
        frames_per_second, seconds_left: of a run; None while unknown.
    """

    type: ClassVar[str] = "progress"
    text: Words = field(metadata={"check": _words}, default="")
    done: int = _checked(_count, default=0)
    total: int = _checked(_count, default=0)
    frames_per_second: float | None = _checked(_or_none(_number), default=None)
    seconds_left: float | None = _checked(_or_none(_number), default=None)

    def message(self) -> Message:
        """See `Event.message`; the text travels as its template and values."""
        message = super().message()
        return Message({**message.header, "text": to_wire(self.text)})

    @classmethod
    def parse(cls, request: int | None, message: Message) -> ProgressEvent:
        """See `Event.parse`."""
        event = super().parse(request, message)
        return replace(event, text=from_wire(event.text))


@dataclass(frozen=True)
class FrameEvent(Event):
    """One finished frame of one segment.

    Attributes:
        volume, segment, frame: what the mask is of. kind: one of `frame_kinds.KINDS`.
        predicted_iou, object_score: the model's own; None if it has none.
        doubt: 0 (sure) to 1 (not to be trusted); None if unknown.
        packed: the mask; `mask` unpacks it. edge: how its edge runs between the pixels; None if it was not
            asked for, or is unknown.
        note: a sentence for the user if a lasso was kept as drawn, or the mask does not follow a scribble; ""
            otherwise.
        withheld: on a frame without a mask: what was drawn there, but left out as the model takes the segment
            for absent; None if there is none.
    """

    type: ClassVar[str] = "frame"
    volume: str
    segment: str
    frame: int
    kind: str
    predicted_iou: float | None
    object_score: float | None
    doubt: float | None
    packed: PackedMask
    edge: PackedEdge | None = None
    note: Words = ""
    withheld: PackedMask | None = None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask, (rows, cols) bool of native pixels, newly unpacked with every call."""
        return self.packed.unpack()

    def message(self) -> Message:
        """See `Event.message`; the mask and its edge are the payload."""
        header: dict[str, Any] = {
            "type": self.type,
            "request": self.request,
            "volume": self.volume,
            "segment": self.segment,
            "frame": self.frame,
            "kind": self.kind,
            "predicted_iou": finite(self.predicted_iou),
            "object_score": finite(self.object_score),
            "doubt": finite(self.doubt),
            "shape": self.packed.shape,
            "box": self.packed.box,
        }
        if self.note:
            header["note"] = to_wire(self.note)
        if self.withheld is not None:
            header["withheld"] = self.withheld.values()
        if self.edge is None:
            return Message(header, self.packed.bits)
        # The box tells how many bytes the bits take; the edge follows them.
        return Message({**header, "edge": self.edge.box}, bytes(self.packed.bits) + bytes(self.edge.data))

    @classmethod
    def parse(cls, request: int | None, message: Message) -> FrameEvent:
        """See `Event.parse`."""
        header = message.header
        try:
            volume, segment, frame, kind = (header[key] for key in ("volume", "segment", "frame", "kind"))
            scores = [header[key] for key in ("predicted_iou", "object_score", "doubt")]
            bits, data = message.payload, None
            if header.get("edge") is not None:
                count = bits_of(header["box"])
                bits, data = message.payload[:count], message.payload[count:]
            packed = packed_mask(header["shape"], header["box"], bits)
            edge = None if data is None else packed_edge(header["shape"], header["edge"], data)
            withheld = None if header.get("withheld") is None else mask_of_values(header["withheld"])
        except KeyError as error:
            raise _bad(_("The message “frame” lacks {reason}.").format(reason=error)) from error
        right = _text(volume) and _text(segment) and _count(frame) and kind in KINDS
        right = right and (withheld is None or withheld.shape == packed.shape)
        if not right or not all(score is None or _number(score) for score in scores):
            raise _bad(_("The message “frame” has an invalid field."))
        return cls(
            request,
            volume,
            segment,
            frame,
            kind,
            scores[0],
            scores[1],
            scores[2],
            packed,
            edge,
            _note(header),
            withheld,
        )


def _note(header: Mapping[str, Any]) -> Words:
    try:
        return from_wire(header.get("note", ""))
    except ValueError as error:
        raise _bad(_("The message “frame” has an invalid field.")) from error


@dataclass(frozen=True)
class DoneEvent(Event):
    """The end of a request; `result` depends on its kind."""

    type: ClassVar[str] = "done"
    result: Mapping[str, Any] = _checked(_table, default_factory=dict)

    @property
    def cancelled(self) -> bool:
        """Whether a `cancel` ended it early."""
        return bool(self.result.get("cancelled", False))


@dataclass(frozen=True)
class ErrorEvent(Event):
    """The failure of a request.

    Attributes:
        error: code, sentence and hint for the user.
        log: the worker's last lines, if it died.
    """

    type: ClassVar[str] = "error"
    error: SAM2PropagateError
    log: tuple[str, ...] = ()

    def message(self) -> Message:
        """See `Event.message`; the log stays here."""
        return Message({"type": self.type, "request": self.request, "error": self.error.to_wire()})

    @classmethod
    def parse(cls, request: int | None, message: Message) -> ErrorEvent:
        """See `Event.parse`."""
        values = message.header.get("error")
        if not isinstance(values, Mapping) or not _text(values.get("code")) or not values.get("sentence"):
            raise _bad(_("The message “error” does not say what is wrong."))
        try:
            return cls(request, SAM2PropagateError.from_wire(values))
        except ValueError as error:
            raise _bad(_("The message “error” does not say what is wrong.")) from error


@dataclass(frozen=True)
class LogEvent(Event):
    """A line of the log for the user; `level` as in the logging module, in lower case."""

    type: ClassVar[str] = "log"
    level: str = _checked(_one_of("debug", "info", "warning", "error", "critical"))
    text: str = _checked(lambda value: isinstance(value, str))


EVENTS: dict[str, type[Event]] = {
    kind.type: kind for kind in (ReadyEvent, ProgressEvent, FrameEvent, DoneEvent, ErrorEvent, LogEvent)
}


def parse_event(message: Message) -> Event:
    """Return the event in a message.

    Raises:
        WireError: it is none of ours.
    """
    header = message.header
    kind = EVENTS.get(header["type"]) if isinstance(header.get("type"), str) else None
    request = header.get("request")
    try:
        if kind is None:
            raise _bad(
                _("There is no event of the type {type}.").format(type=shortened(repr(header.get("type"))))
            )
        if request is not None and not _count(request):
            raise _bad(_("The event “{message}” names no valid request.").format(message=kind.type))
        return kind.parse(request, message)
    except WireError:
        raise
    except SAM2PropagateError as error:
        raise WireError(error.said) from error


def finite(value: float | None) -> float | None:
    """Return the number for JSON: None for None, NaN and infinity."""
    return float(value) if value is not None and math.isfinite(value) else None


def _bad(sentence: Words) -> SAM2PropagateError:
    hint = _("Both ends must be of the same version of SAM2 Propagate.")
    return SAM2PropagateError("bad_message", sentence, hint)
