"""Keeps a worker for the application: starts it on first use, and again after its death.

The session remembers the model and the volumes, and gives them to a new worker before any other request, so
that callers only deal with previews and runs. Prompts stay with the caller, finished masks with the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.prompts.document import to_document
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.run_options import RunOptions
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker.calls import Call, PreviewCall, Run, Update
from SAM2PropagateLib.worker.client import Deadlines, Prepare, WorkerClient
from SAM2PropagateLib.worker.command import WorkerCommand
from SAM2PropagateLib.worker.messages import (
    Cancel,
    CloseVolume,
    ErrorEvent,
    FrameEvent,
    LoadModel,
    LogEvent,
    OpenVolume,
    Preview,
    Propagate,
    Request,
    SetWindow,
)
from SAM2PropagateLib.worker.remote import Remote, told_there
from SAM2PropagateLib.worker.shared import SharedFolder
from SAM2PropagateLib.worker.transport import PopenTransport, Transport
from SAM2PropagateLib.worker.voxels import Voxels
from SAM2PropagateLib.worker.wire import Payload, WireError

Crop = str | tuple[float, float, float, float] | None


@dataclass
class _SentVolume:
    """An open volume, for every new worker."""

    request: OpenVolume
    voxels: Voxels
    frame_shape: tuple[int, int]


class WorkerSession:
    """The worker as the application sees it. The constructor starts nothing; call `close` at the end.

    Args:
        command: how a worker is started; or a factory of transports, for tests and other connections.
        is_remote: whether the worker cannot map files of this computer; None: taken from the command.
        deadlines, clock: see `WorkerClient`.
        folder: where shared files go; None: a private one.
    """

    def __init__(
        self,
        command: WorkerCommand | Callable[[], Transport],
        *,
        is_remote: bool | None = None,
        deadlines: Deadlines | None = None,
        clock: Callable[[], float] = time.monotonic,
        folder: SharedFolder | None = None,
    ) -> None:
        if isinstance(command, WorkerCommand):
            given = command
            self._is_remote = given.is_remote if is_remote is None else is_remote
            self._remote: Remote | None = given.remote
            factory: Callable[[], Transport] = lambda: PopenTransport(given)  # noqa: E731
        else:
            self._is_remote = bool(is_remote)
            self._remote = None
            factory = command
        self._client = WorkerClient(factory, deadlines=deadlines, clock=clock)
        self._clock = clock
        self._folder = folder or SharedFolder()
        self._model: LoadModel | None = None
        self._volumes: dict[str, _SentVolume] = {}
        self._calls: dict[int, Call] = {}
        self._updates: list[Update] = []
        # Calls that the present worker has done or was sent; a failed one is removed.
        self._loaded: Call | None = None
        self._opened: dict[str, Call] = {}
        self._dropped: list[tuple[Call, Voxels]] = []
        self._starts = 0

    def __enter__(self) -> WorkerSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether there is a worker now; requests start one if needed."""
        return self._client.is_alive

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is awaited, so that `poll` has to be called."""
        return bool(self._calls or self._updates or self._client.open_requests)

    @property
    def remote(self) -> Remote | None:
        """The server that the worker runs on; None: this computer."""
        return self._remote

    @property
    def device(self) -> str:
        """The device that the model runs on, such as "cuda:0" or "cpu"; "" before a model is loaded."""
        loaded = self._loaded
        return "" if loaded is None or not self.is_running else str(loaded.result.get("device", ""))

    @property
    def starts(self) -> int:
        """How many workers have been started so far."""
        return self._starts

    @property
    def model(self) -> LoadModel | None:
        """The model that is to be used."""
        return self._model

    @property
    def volumes(self) -> tuple[str, ...]:
        """The names of the open volumes."""
        return tuple(self._volumes)

    @property
    def log(self) -> list[str]:
        """The last lines that the worker printed."""
        return self._client.log

    # --- what can be asked

    def load_model(self, model: LoadModel) -> Call:
        """Load a model, and use it from now on.

        A relative path starts at this process's folder. If the model is loaded already, return that call.
        """
        if model.path is not None and not self._is_remote:
            model = replace(model, path=str(Path(model.path).absolute()))
        if model == self._model and self._loaded is not None and self._client.is_alive:
            return self._loaded
        self._model = model
        self._ensure_worker()
        return self._load(model, is_replay=False)

    def open_volume(
        self,
        name: str,
        array: NDArray[Any],
        geometry: VolumeGeometry,
        *,
        axis: int,
        window: Window,
        crop: Crop = "auto",
        voxels_of: str | None = None,
    ) -> Call:
        """Open a volume's frames along one axis under a name, in place of an open one of that name.

        Args:
            array: (K, J, I); it is kept for later workers without a copy, so it must not change while open.
            voxels_of: an open volume with the same array (along another axis): it is not copied again.

        Raises:
            SAM2PropagateError: unknown_volume (`voxels_of`), worker_not_started.
            InputError: see `FrameStack`.
        """
        # Refuses a wrong array with a sentence for the user.
        frames = FrameStack(array, geometry, axis, window)
        if voxels_of is None:
            voxels = Voxels(array, None if self._is_remote else self._folder)
        else:
            voxels = self._volume(voxels_of).voxels
        request = OpenVolume(
            volume=name,
            geometry=geometry.to_dict(),
            dtype=array.dtype.str,
            shape=(int(array.shape[0]), int(array.shape[1]), int(array.shape[2])),
            source={},
            window=(float(window.width), float(window.level)),
            axis=axis,
            crop=crop,
        )
        voxels.users += 1
        old = self._volumes.pop(name, None)
        self._volumes[name] = _SentVolume(request, voxels, frames.native_shape)
        self._ensure_worker()
        call = self._open(name, is_replay=False)
        if old is not None:
            self._drop(old.voxels, after=call)
        return call

    def set_window(self, name: str, window: Window) -> Call:
        """Show the model an open volume in another window from now on.

        A segment that was carried keeps its window until a run `anew`; all others use the present window.

        During a run over the volume it waits for the run's end, and so do all later previews. So do not call
        it during a run.

        Raises:
            SAM2PropagateError: unknown_volume.
        """
        volume = self._volume(name)
        values = (float(window.width), float(window.level))
        volume.request = replace(volume.request, window=values)
        call = Call("set_window", name)
        if name not in self._opened or not self._client.is_alive:
            call.state = "done"
            return call
        return self._send(call, SetWindow(volume=name, window=values), needs=(self._opened[name],))

    def preview(
        self,
        name: str,
        prompts: PromptSet,
        segment: str,
        frame: int,
        *,
        replaces: bool = True,
        edges: bool = False,
    ) -> PreviewCall:
        """Return one frame's mask from its prompts.

        Args:
            name: of the open volume. frame: index along its axis.
            replaces: drop waiting previews of the same segment.
            edges: ask how the mask's edge runs between the pixels, too.

        Raises:
            SAM2PropagateError: unknown_volume, no_model, worker_not_started.
        """
        needs = self._ensure_ready(name)
        if replaces:
            for earlier in list(self._calls.values()):
                if (
                    isinstance(earlier, PreviewCall)
                    and (earlier.volume, earlier.segment) == (name, segment)
                    and not earlier.is_cancel_requested
                ):
                    self._send_cancel(earlier, has_deadline=False)
        wanted = _only(prompts, (segment,))
        request = Preview(volume=name, prompts={}, segment=segment, frame=frame, edges=edges)

        def prepare() -> tuple[Request, Payload]:
            return replace(request, prompts=to_document(wanted)), b""

        call = PreviewCall(name, segment)
        call.frame_shape = self._volume(name).frame_shape
        self._send(call, request, prepare, needs)
        return call

    def propagate(
        self,
        name: str,
        prompts: PromptSet,
        segments: tuple[str, ...] | None = None,
        options: RunOptions | None = None,
    ) -> Run:
        """Start a run.

        Args:
            name: of the open volume. segments: which; None: all that have prompts.
            options: how; None: as `RunOptions` has it.

        Raises:
            SAM2PropagateError: unknown_volume, no_model, worker_not_started.
        """
        if segments is None:
            segments = tuple(segment.segment for segment in prompts.segments if not segment.is_empty)
        request = Propagate(volume=name, prompts={}, segments=segments, options=options or RunOptions())
        needs = self._ensure_ready(name)
        wanted = _only(prompts, segments)

        def prepare() -> tuple[Request, Payload]:
            return replace(request, prompts=to_document(wanted)), b""

        run = Run(name, segments)
        run.frame_shape = self._volume(name).frame_shape
        self._send(run, request, prepare, needs)
        return run

    def cancel(self, call: Call | None = None) -> None:
        """End a call, or all runs if None.

        A worker that does not end it in time is ended with its children; the finished frames stay.
        """
        calls = [c for c in self._calls.values() if isinstance(c, Run)] if call is None else [call]
        for one in calls:
            if not one.is_finished and not one.is_cancel_requested:
                self._send_cancel(one, has_deadline=True)

    def close_volume(self, name: str) -> Call:
        """Close a volume; its shared file is deleted when the worker has unmapped it.

        Raises:
            SAM2PropagateError: unknown_volume.
        """
        volume = self._volume(name)
        del self._volumes[name]
        call = Call("close_volume", name)
        opened = self._opened.pop(name, None)
        if opened is None or not self._client.is_alive:
            call.state = "done"
        else:
            self._send(call, CloseVolume(volume=name))
        self._drop(volume.voxels, after=call)
        return call

    def stop_worker(self) -> None:
        """End the worker at once, with its children; the next request starts a new one."""
        self._client.kill()

    def close(self, timeout: float | None = None) -> None:
        """End the worker and all threads, delete all shared files; open calls fail with `worker_stopped`.

        Args:
            timeout: seconds that the worker may take to end by itself; None: the shutdown deadline.
        """
        self._client.close(timeout)
        self._updates += self._collect()
        for volume in self._volumes.values():
            volume.voxels.release()
        self._volumes.clear()
        for _after, voxels in self._dropped:
            voxels.release()
        self._dropped.clear()
        self._folder.close()

    # --- what comes back

    def poll(self) -> list[Update]:
        """Update all calls, and return what has happened since the last time, in order, without waiting."""
        collected = self._collect()
        updates, self._updates = [*self._updates, *collected], []
        return updates

    def wait(
        self,
        call: Call,
        timeout: float | None = None,
        on_update: Callable[[Update], None] = lambda update: None,
    ) -> bool:
        """Poll until the call is finished, for callers without an event loop.

        Returns:
            False if that took more than `timeout` seconds.
        """
        end = None if timeout is None else self._clock() + timeout
        while True:
            for update in self.poll():
                on_update(update)
            if call.is_finished:
                return True
            left = float("inf") if end is None else end - self._clock()
            if left <= 0:
                return False
            self._client.wait(left)

    def _collect(self) -> list[Update]:
        updates = []
        for event in self._client.poll():
            call = None if event.request is None else self._calls.get(event.request)
            if self._remote is not None and isinstance(event, ErrorEvent):
                name = "" if self._model is None else self._model.name or self._model.path or ""
                event = replace(event, error=told_there(self._remote.host, name, event.error))
            if call is not None:
                if isinstance(event, FrameEvent) and call.frame_shape not in (None, event.packed.shape):
                    # A worker that sends this cannot be trusted at all.
                    self._client.kill(_other_size(event.packed.shape, call.frame_shape))
                    continue
                call.take(event)
                if call.is_finished:
                    self._finish(call)
                updates.append(Update(call, event))
            elif isinstance(event, LogEvent) or (isinstance(event, ErrorEvent) and event.request is None):
                updates.append(Update(None, event))
        return updates

    def _finish(self, call: Call) -> None:
        if call.request is not None:
            self._calls.pop(call.request, None)
        for after, voxels in self._dropped:
            if after is call:
                voxels.release()
        self._dropped = [entry for entry in self._dropped if entry[0] is not call]
        if call.state != "done":
            if self._loaded is call:
                self._loaded = None
            if call.kind == "set_window" and call.volume is not None:
                # The worker's window is unknown now, so the volume has to be opened again.
                self._opened.pop(call.volume, None)
            self._opened = {name: opened for name, opened in self._opened.items() if opened is not call}

    # --- the worker

    def _ensure_ready(self, name: str) -> tuple[Call, ...]:
        """Make sure that a worker has or gets the model and the volume; return the calls that must
        succeed."""
        self._volume(name)
        if self._model is None:
            raise SAM2PropagateError("no_model", _("No model is chosen."), _("Choose a model first."))
        self._ensure_worker()
        loaded = self._loaded or self._load(self._model, is_replay=True)
        opened = self._opened.get(name) or self._open(name, is_replay=True)
        return loaded, opened

    def _ensure_worker(self) -> None:
        if self._client.is_alive:
            return
        # Open calls of the dead worker fail now, before the new one uses their ids.
        self._loaded = None
        self._opened.clear()
        self._client.start()
        self._updates += self._collect()
        self._loaded = None
        self._opened.clear()
        self._starts += 1

    def _load(self, model: LoadModel, is_replay: bool) -> Call:
        call = Call("load_model", is_replay=is_replay)
        self._loaded = self._send(call, model)
        return call

    def _open(self, name: str, is_replay: bool) -> Call:
        volume = self._volumes[name]
        shared_with = next(
            (
                other
                for other, call in self._opened.items()
                if other != name and self._volumes[other].voxels is volume.voxels
            ),
            None,
        )
        call = Call("open_volume", name, is_replay)
        if shared_with is not None:
            source = {"kind": "volume", "volume": shared_with}
            self._send(call, replace(volume.request, source=source), needs=(self._opened[shared_with],))
        else:
            request, voxels = volume.request, volume.voxels

            def prepare() -> tuple[Request, Payload]:
                source, payload = voxels.source()
                return replace(request, source=source), payload

            self._send(call, request, prepare)
        self._opened[name] = call
        return call

    def _send(
        self, call: Call, request: Request, prepare: Prepare | None = None, needs: tuple[Call, ...] = ()
    ) -> Call:
        call.needs = needs
        call.request = self._client.request(request, prepare=prepare)
        self._calls[call.request] = call
        return call

    def _send_cancel(self, call: Call, has_deadline: bool) -> None:
        call.is_cancel_requested = True
        if call.request is not None:
            self._client.request(Cancel(call.request), has_deadline=has_deadline)

    # --- volumes

    def _volume(self, name: str) -> _SentVolume:
        if name not in self._volumes:
            raise SAM2PropagateError(
                "unknown_volume", _("No volume “{name}” is open.").format(name=name), _("Open it first.")
            )
        return self._volumes[name]

    def _drop(self, voxels: Voxels, after: Call) -> None:
        """Release the voxels when the worker has finished with them, if no other volume uses them."""
        voxels.users -= 1
        if voxels.users == 0:
            if after.is_finished:
                voxels.release()
            else:
                self._dropped.append((after, voxels))


def _other_size(shape: tuple[int, int], expected: tuple[int, int] | None) -> WireError:
    return WireError(
        _("A mask of {shape} pixels arrived for frames of {expected}.").format(shape=shape, expected=expected)
    )


def _only(prompts: PromptSet, segments: tuple[str, ...]) -> PromptSet:
    """Return the prompts of these segments."""
    return replace(prompts, segments=tuple(s for s in prompts.segments if s.segment in segments))
