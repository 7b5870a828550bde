"""The worker process: it serves requests one after the other, and previews also between two steps of a run.

It gets an engine (`engine_adapter` for the real one) and does not import torch. Failures become `error`
events; details go to the log, which is stderr.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.packed_masks import pack, pack_edge
from SAM2PropagateLib.prompts.document import from_document
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.run_options import RunRequest
from SAM2PropagateLib.texts import Words
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker.engine_port import Engine, Mask, ServedSession
from SAM2PropagateLib.worker.failures import DeviceLostError, needs_memory, told
from SAM2PropagateLib.worker.inbox import Inbox, Outlet
from SAM2PropagateLib.worker.library_files import own_version
from SAM2PropagateLib.worker.messages import (
    PROTOCOL_VERSION,
    CloseVolume,
    DoneEvent,
    ErrorEvent,
    FrameEvent,
    Hello,
    LoadModel,
    LogEvent,
    OpenVolume,
    Preview,
    ProgressEvent,
    Propagate,
    ReadyEvent,
    Received,
    Request,
    SetWindow,
)
from SAM2PropagateLib.worker.process_tree import end_descendants, end_own_tree, lead_own_tree
from SAM2PropagateLib.worker.remote import NOTHING_CAME, SILENCE_SECONDS
from SAM2PropagateLib.worker.run_progress import RunProgress
from SAM2PropagateLib.worker.shared import remove_stale
from SAM2PropagateLib.worker.volume_table import ServedVolume, VolumeTable
from SAM2PropagateLib.worker.wire import MessageReader, Payload, Readable, Writable

_log = logging.getLogger(__name__)

EXIT_DONE, EXIT_DEVICE_LOST, EXIT_ABANDONED = 0, 70, 71

# If the client is gone, a run ends between two frames; if it hangs, the worker ends after this time.
_ABANDONED_SECONDS = 5.0
# A client that has died releases its locks at once, or on a busy machine a little later.
_LOCK_SECONDS = 5.0
_READ_BYTES = 1 << 16


class WorkerServer:
    """Serves one client.

    Args:
        engine: does the work. inbound, outbound: the protocol's binary streams.
        silence_seconds: after this silence the client counts as gone; None: only if it closes its end.
    """

    def __init__(
        self, engine: Engine, inbound: Readable, outbound: Writable, silence_seconds: float | None = None
    ) -> None:
        self._engine = engine
        self._outlet = Outlet(outbound)
        self._heard = _Heard(inbound)
        self._silence_seconds = silence_seconds
        self._inbox = Inbox(MessageReader(self._heard), self._outlet)
        self._volumes = VolumeTable()
        self._has_model = False
        self._encodes_ahead = False
        self._is_greeted = False
        self._lost: DeviceLostError | None = None
        self._finished = threading.Event()
        self._ahead: tuple[str, int, tuple[int, int]] | None = None

    def serve(self) -> int:
        """Serve until the client ends it or is gone; return the exit code."""
        threading.Thread(target=self._read_and_watch, name="sam2propagate-requests", daemon=True).start()
        if self._silence_seconds is not None:
            threading.Thread(
                target=self._watch_silence,
                args=(self._silence_seconds,),
                name="sam2propagate-silence",
                daemon=True,
            ).start()
        try:
            while not (self._inbox.was_shut_down or self._lost):
                self._encode_ahead()
                received = self._inbox.take()
                if received is None:
                    break
                self._serve(received)
        finally:
            self._finished.set()
        if not (self._inbox.was_shut_down or self._lost):
            self._clean_up_for_the_client()
            return EXIT_ABANDONED
        return EXIT_DEVICE_LOST if self._lost else EXIT_DONE

    def report(self, level: str, text: str) -> None:
        """Send a `log` event."""
        self._outlet.send(LogEvent(None, level, text))

    # --- one request

    def _serve(self, received: Received) -> None:
        request_id = received.id
        failure = None
        try:
            result = self._answer(received)
        except Cancelled:
            self._outlet.send(DoneEvent(request_id, {"cancelled": True}))
        except Exception as error:
            failure = told(error)
        else:
            if result is not None:
                self._outlet.send(DoneEvent(request_id, result))
        # Now that the exception and its traceback are gone, they hold no main or GPU memory any more.
        if failure is not None:
            self._note(failure)
            self._outlet.send(ErrorEvent(request_id, failure))
        self._inbox.finish(request_id)

    def _note(self, failure: SAM2PropagateError) -> None:
        # Tracebacks keep what the failed work allocated.
        failure.__traceback__ = failure.__cause__ = failure.__context__ = None
        if needs_memory(failure):
            self._release_memory()
        if isinstance(failure, DeviceLostError):
            self._lost = failure

    def _answer(self, received: Received) -> Mapping[str, Any] | None:
        request = received.request
        if isinstance(request, Hello):
            self._hello(received.id, request)
            return None
        if not self._is_greeted:
            raise _mismatch(None)
        if isinstance(request, Preview):
            return self._preview(received.id, request)
        if isinstance(request, Propagate):
            return self._propagate(received.id, request)
        if isinstance(request, LoadModel):
            return self._load_model(received.id, request)
        if isinstance(request, OpenVolume):
            return self._open_volume(request, received.payload)
        if isinstance(request, SetWindow):
            return self._set_window(request)
        if isinstance(request, CloseVolume):
            self._volumes.close(request.volume)
            return {}
        raise SAM2PropagateError(
            "bad_message", _("The request “{message}” cannot be served.").format(message=request.type)
        )

    def _hello(self, request_id: int, request: Hello) -> None:
        if request.protocol != PROTOCOL_VERSION:
            raise _mismatch(request.protocol)
        self._is_greeted = True
        self._outlet.send(
            ReadyEvent(
                request_id,
                protocol=PROTOCOL_VERSION,
                pid=os.getpid(),
                python=platform.python_version(),
                platform=platform.platform(),
                library=own_version(),
            )
        )

    def _load_model(self, request_id: int, request: LoadModel) -> Mapping[str, Any]:
        self._has_model = False
        self._volumes.drop_sessions()

        def progress(text: Words, done: int, total: int) -> None:
            self._inbox.check(request_id)
            self._outlet.send(ProgressEvent(request_id, text, done, total))

        loaded = self._engine.load_model(request, progress)
        self._has_model = True
        self._encodes_ahead = request.encode_ahead
        return loaded

    def _set_window(self, request: SetWindow) -> Mapping[str, Any]:
        volume = self._volumes.get(request.volume)
        volume.frames = volume.frames.with_window(Window(*request.window))
        if volume.session is not None:
            volume.session.set_frames(volume.frames)
        return {}

    def _open_volume(self, request: OpenVolume, payload: Payload) -> Mapping[str, Any]:
        def session_of(frames: FrameStack) -> ServedSession | None:
            return self._engine.open(frames, request.crop) if self._has_model else None

        return {"frames": self._volumes.open(request, payload, session_of).frames.count}

    def _session(self, name: str) -> tuple[ServedVolume, ServedSession]:
        volume = self._volumes.get(name)
        if volume.session is None:
            if not self._has_model:
                raise SAM2PropagateError("no_model", _("No model is loaded."), _("Load a model first."))
            volume.session = self._engine.open(volume.frames, volume.crop)
        return volume, volume.session

    # --- previews and runs

    def _preview(self, request_id: int, request: Preview) -> Mapping[str, Any]:
        volume, session = self._session(request.volume)
        resolved = _resolved(from_document(request.prompts), request.segment, volume.frames, False)
        prompts = _frame_prompts(resolved, request.frame)
        mask = session.preview(request.frame, prompts, request.segment)
        self._send_frame(request_id, request.volume, mask, request.edges)
        self._ahead = (request.volume, request.frame, (resolved.first, resolved.last))
        return {}

    def _propagate(self, request_id: int, request: Propagate) -> Mapping[str, Any]:
        volume, session = self._session(request.volume)
        self._ahead = None
        if not request.segments:
            raise InputError("no_prompts", _("No segment has a prompt."), _("Click on a structure first."))
        prompts = from_document(request.prompts)
        segments = tuple(_resolved(prompts, name, volume.frames, True) for name in request.segments)
        run = RunRequest(segments, request.options)
        progress = RunProgress(session.expected_frames(run), request_id, self._outlet)

        def on_frame(mask: Mask) -> None:
            self._send_frame(request_id, request.volume, mask, run.options.edges)
            progress.sent(mask.segment, mask.frame)

        def fits(received: Received) -> bool:
            return _fits_between(received.request, request.volume)

        def between(done: float) -> None:
            progress.reached(done)
            self._inbox.check(request_id)
            while (received := self._inbox.take_if(fits)) is not None:
                self._serve(received)
                if self._lost is not None:
                    raise self._lost
            self._inbox.check(request_id)

        try:
            summary = session.propagate(run, on_frame, between)
        except Cancelled:
            progress.send()
            return {**progress.figures(), "cancelled": True}
        progress.send(is_last=True)
        return {**progress.figures(), **summary, "cancelled": False}

    def _send_frame(self, request_id: int, volume: str, mask: Mask, with_edge: bool) -> None:
        edge = pack_edge(mask.edge()) if with_edge and mask.edge is not None else None
        withheld = None if mask.withheld is None else pack(mask.withheld())
        self._outlet.send(
            FrameEvent(
                request_id,
                volume=volume,
                segment=mask.segment,
                frame=int(mask.frame),
                kind=mask.kind,
                predicted_iou=mask.predicted_iou,
                object_score=mask.object_score,
                doubt=mask.doubt,
                packed=pack(mask.mask),
                note=mask.note,
                edge=edge,
                withheld=None if withheld is None or withheld.is_empty else withheld,
            )
        )

    def _encode_ahead(self) -> None:
        """Encode the frames around the last preview while no request waits, the nearest first."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or not self._encodes_ahead or self._inbox.has_waiting:
            return
        name, middle, (first, last) = ahead
        if name not in self._volumes or (session := self._volumes.get(name).session) is None:
            return
        order = sorted(range(first, last + 1), key=lambda frame: abs(frame - middle))
        try:
            session.encode_ahead(order, lambda: self._inbox.has_waiting)
        except Exception as error:
            # Only a warning: the error will be reported when a frame is needed.
            failure = told(error)
            self._note(failure)
            self.report("warning", f"Frames could not be prepared in advance: {failure}")

    def _release_memory(self) -> None:
        try:
            self._engine.release_memory()
        except Exception:
            _log.exception("Memory could not be released")

    # --- the end

    def _read_and_watch(self) -> None:
        self._inbox.read()
        self._end_what_hangs()

    def _watch_silence(self, seconds: float) -> None:
        """End the worker when its client's computer sleeps or is cut off, which does not end the stream."""
        while not self._finished.wait(min(seconds / 4, 5.0)):
            if time.monotonic() - self._heard.at > seconds:
                _log.error("%s for %g seconds: the worker ends itself.", NOTHING_CAME, seconds)
                # A client that wakes up must see a lost connection, not a cancelled run.
                self._outlet.close()
                self._inbox.abandon()
                self._end_what_hangs()
                return

    def _end_what_hangs(self) -> None:
        if not self._finished.wait(_ABANDONED_SECONDS):
            _log.error("The client is gone and the work does not end: the worker ends itself.")
            if not self._inbox.was_shut_down:
                self._clean_up_for_the_client()
            end_descendants()
            end_own_tree()
            os._exit(EXIT_ABANDONED)

    def _clean_up_for_the_client(self) -> None:
        """Delete the shared files of a client that has died; a living one keeps its lock on them."""
        bases = self._volumes.shared_bases
        end = time.monotonic() + _LOCK_SECONDS
        while bases and remove_stale(bases) == 0 and time.monotonic() < end:
            time.sleep(0.05)


class _Heard:
    """A stream that remembers when data last came.

    Attributes:
        at: the time, on the monotonic clock.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.at = time.monotonic()

    def readinto(self, buffer: Any, /) -> int | None:
        # In pieces, so that a large volume on a slow line does not count as silence.
        got = self._stream.readinto(memoryview(buffer)[:_READ_BYTES])
        self.at = time.monotonic()
        return got


def serve(
    engine: Engine,
    inbound: Readable,
    outbound: Writable,
    *,
    is_remote: bool = False,
    silence_seconds: float = SILENCE_SECONDS,
) -> int:
    """Set up logging to stderr and serve until the end; return the exit code.

    Call it in a process of its own: it changes how texts are made, so that the client can translate them.

    Args:
        engine, inbound, outbound: see `WorkerServer`.
        is_remote: whether the client is on another computer, so that no `ProcessTree` has started this
            process.
        silence_seconds: how long a client on another computer may be silent.
    """
    if is_remote:
        lead_own_tree()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    server = WorkerServer(engine, inbound, outbound, silence_seconds if is_remote else None)
    handler = _Warnings(server)
    logging.getLogger("SAM2PropagateLib").addHandler(handler)
    try:
        code = server.serve()
    finally:
        logging.getLogger("SAM2PropagateLib").removeHandler(handler)
    end_descendants()
    if code == EXIT_ABANDONED:
        end_own_tree()
    return code


class _Warnings(logging.Handler):
    """Sends the library's warnings to the client's log."""

    def __init__(self, server: WorkerServer) -> None:
        super().__init__(logging.WARNING)
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        level = "warning" if record.levelno < logging.ERROR else "error"
        self._server.report(level, record.getMessage())


def _fits_between(request: Request, running: str) -> bool:
    """Tell whether a request can be served between two steps of a run over the volume `running`."""
    if isinstance(request, Preview):
        return True
    return isinstance(request, OpenVolume | SetWindow | CloseVolume) and request.volume != running


def _resolved(prompts: PromptSet, segment: str, frames: FrameStack, need_positive: bool) -> ResolvedSegment:
    return resolve(prompts.segment(segment), frames.geometry, frames.axis, need_positive=need_positive)


def _frame_prompts(resolved: ResolvedSegment, frame: int) -> FramePrompts:
    prompts = resolved.keyframes.get(frame)
    if prompts is None:
        raise InputError(
            "no_prompts",
            _("Segment “{segment}” has no prompt on slice {number}.").format(
                segment=resolved.segment, number=frame + 1
            ),
            _("Click on the structure there, or draw a box around it."),
        )
    if not prompts.absent and not prompts.is_positive:
        raise InputError(
            "only_negative_clicks",
            _("Segment “{segment}” has only negative clicks on slice {number}.").format(
                segment=resolved.segment, number=frame + 1
            ),
            _("Add a positive click or a box there."),
        )
    return prompts


def _mismatch(version: int | None) -> SAM2PropagateError:
    if version is None:
        sentence = _("The client did not say hello; this worker speaks version {own}.")
    else:
        sentence = _("The client speaks version {version} of the protocol; this worker speaks version {own}.")
    said = sentence.format(version=version, own=PROTOCOL_VERSION)
    hint = _("Install the same version of SAM2 Propagate on both sides.")
    # As plain English, which every version of the protocol can carry.
    return SAM2PropagateError("protocol_mismatch", said.english, hint.english)
