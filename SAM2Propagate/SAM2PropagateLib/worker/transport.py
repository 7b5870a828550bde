"""Connects client and worker: a child process, and one thread for each of its three streams.

The caller's thread only uses queues.
"""

from __future__ import annotations

import contextlib
import io
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import IO, Any, Protocol, cast

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker.command import WorkerCommand
from SAM2PropagateLib.worker.messages import Alive, ProgressEvent
from SAM2PropagateLib.worker.process_tree import ProcessTree
from SAM2PropagateLib.worker.remote import ALIVE_SECONDS, no_ssh, why_ended
from SAM2PropagateLib.worker.wire import Message, MessageReader, Readable, WireError, encode

LOG_LINES = 400
_LINE_CHARACTERS = 2000
# Bytes per write: large, as the thread waits for the interpreter's lock after each piece.
_WRITE_BYTES = 1 << 21
_READ_BYTES = 1 << 16
# Slicer's main thread keeps the interpreter's lock between polls; each poll leaves it to the threads this
# long.
_TURN_SECONDS = 0.001
# Seconds that a process may take to end after it closed its output.
_EXIT_PATIENCE_SECONDS = 10.0
_JOIN_SECONDS = 5.0
# Smaller uploads take too short a time to report progress.
_UPLOAD_BYTES = 1 << 20
_TELL_SECONDS = 0.2

Outgoing = Message | Callable[[], Message]


class Transport(Protocol):
    """The connection to one worker process; only `wait` and `close` wait."""

    def start(self) -> None:
        """Start the worker. Raises SAM2PropagateError: worker_not_started, no_ssh."""

    def send(self, request: int, outgoing: Outgoing) -> None:
        """Send a message, or the one that a function returns, which is called in another thread.

        If the function raises, `receive` returns an `error` event for `request`. While a large payload is
        sent to another computer, it returns `progress` events with the bytes sent so far.
        """

    def receive(self) -> list[Message]:
        """Return all messages that have arrived, in order."""

    def wait(self, timeout: float) -> bool:
        """Wait until something can be received or the worker has ended; False after `timeout` seconds."""

    def kill(self) -> None:
        """End the worker and all that it started."""

    def close(self, timeout: float) -> None:
        """Let the worker end by itself for `timeout` seconds, then kill it; end the transport's threads."""

    @property
    def is_open(self) -> bool:
        """Whether the worker can still answer; False as soon as its end is known."""

    @property
    def has_ended(self) -> bool:
        """Whether the worker has ended, its exit code and log are known, and all its messages were
        received."""

    @property
    def is_closed(self) -> bool:
        """Whether no thread and no process is left."""

    @property
    def failure(self) -> SAM2PropagateError | None:
        """Why the connection broke, if the worker sent something that is not the protocol."""

    @property
    def exit_code(self) -> int | None:
        """The worker's exit code, once it has ended; negative: ended by that signal."""

    @property
    def end_reason(self) -> SAM2PropagateError | None:
        """Why the worker has ended, if the connection knows more than the exit code."""

    @property
    def host(self) -> str | None:
        """The server that the worker runs on, as ssh takes it; None: this computer."""

    @property
    def activity(self) -> int:
        """A number that grows while the worker reads, as a long upload is a sign of life."""

    @property
    def log(self) -> list[str]:
        """The last lines that the worker printed."""


class PopenTransport:
    """A worker as a child process, or ssh that leads to one. Its threads end with it.

    Args:
        command: what to start.
        alive_seconds: seconds between two messages to a worker on a server that its client is still there.
        popen: starts it, as `subprocess.Popen`.
    """

    def __init__(
        self,
        command: WorkerCommand,
        alive_seconds: float = ALIVE_SECONDS,
        popen: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        self._command = command
        self._popen = popen
        self._alive_seconds = alive_seconds if command.is_remote else None
        self._has_answered = False
        self._tree: ProcessTree | None = None
        self._threads: list[threading.Thread] = []
        self._outgoing: queue.SimpleQueue[tuple[int, Outgoing] | None] = queue.SimpleQueue()
        self._incoming: deque[Message] = deque()
        self._arrived = threading.Event()
        self._is_open = False
        self._reading_ended = False
        self._is_killed = False
        self._failure: SAM2PropagateError | None = None
        self._written = 0
        self._log: deque[str] = deque(maxlen=LOG_LINES)

    @property
    def pid(self) -> int:
        """The id of the started process."""
        assert self._tree is not None, "not started"
        return self._tree.pid

    def start(self) -> None:
        """See `Transport`."""
        try:
            command = self._command
            self._tree = tree = ProcessTree(command.argv, command.env, command.cwd, self._popen)
        except SAM2PropagateError as error:
            if self._command.is_remote:
                raise no_ssh() from error
            raise
        self._is_open = True
        parts = (("read", self._read), ("write", self._write), ("log", self._collect_log))
        self._threads = [
            threading.Thread(target=work, args=(tree,), name=f"sam2propagate-{name}", daemon=True)
            for name, work in parts
        ]
        # The log's thread first, as the reader waits for it when the worker dies at once.
        for thread in reversed(self._threads):
            thread.start()

    def send(self, request: int, outgoing: Outgoing) -> None:
        """See `Transport`."""
        self._outgoing.put((request, outgoing))

    def receive(self) -> list[Message]:
        """See `Transport`."""
        if self._is_open:
            time.sleep(_TURN_SECONDS)
        # Cleared before reading, as messages that arrive later set it again.
        self._arrived.clear()
        messages = []
        with contextlib.suppress(IndexError):
            while True:
                messages.append(self._incoming.popleft())
        return messages

    def wait(self, timeout: float) -> bool:
        """See `Transport`."""
        if self._incoming or self._reading_ended:
            return True
        return self._arrived.wait(max(timeout, 0.0))

    def kill(self) -> None:
        """See `Transport`."""
        self._is_killed = True
        self._is_open = False
        if self._tree is not None:
            self._tree.kill()
        self._outgoing.put(None)

    def close(self, timeout: float) -> None:
        """See `Transport`."""
        if self._tree is None:
            return
        self._outgoing.put(None)
        deadline = time.monotonic() + timeout
        reader = self._threads[0]
        reader.join(max(deadline - time.monotonic(), 0.0))
        if reader.is_alive():
            self.kill()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    @property
    def is_open(self) -> bool:
        """See `Transport`."""
        return self._is_open

    @property
    def has_ended(self) -> bool:
        """See `Transport`."""
        return self._reading_ended and not self._incoming

    @property
    def is_closed(self) -> bool:
        """See `Transport`."""
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def failure(self) -> SAM2PropagateError | None:
        """See `Transport`."""
        return self._failure

    @property
    def exit_code(self) -> int | None:
        """See `Transport`."""
        return None if self._tree is None else self._tree.exit_code

    @property
    def end_reason(self) -> SAM2PropagateError | None:
        """See `Transport`."""
        remote = self._command.remote
        if remote is None or not self._reading_ended or self._is_killed:
            return None
        return why_ended(remote, self.exit_code, self.log, self._has_answered)

    @property
    def host(self) -> str | None:
        """See `Transport`."""
        return None if self._command.remote is None else self._command.remote.host

    @property
    def activity(self) -> int:
        """See `Transport`."""
        return self._written

    @property
    def log(self) -> list[str]:
        """See `Transport`."""
        return list(self._log)

    # --- the threads

    def _read(self, tree: ProcessTree) -> None:
        noise: list[str] = []
        # Buffered, to wait for the interpreter's lock once, not three times per message.
        stream = io.BufferedReader(cast(io.RawIOBase, tree.stdout), _READ_BYTES)
        reader = MessageReader(cast(Readable, stream), noise)
        patience = _EXIT_PATIENCE_SECONDS
        try:
            while (message := reader.read()) is not None:
                if noise:
                    self._keep(noise)
                    noise.clear()
                self._has_answered = True
                self._arrive(message)
        except (WireError, OSError) as error:
            # A killed worker may leave half a message, which does not count as a broken protocol.
            if isinstance(error, WireError) and not (error.is_cut or self._is_killed):
                self._failure = error
                patience = 0.0
        finally:
            self._is_open = False
            self._keep(noise)
            tree.finish(patience)
            self._outgoing.put(None)
            # Wait for the log, so that it is complete when the end is reported.
            self._threads[2].join(_EXIT_PATIENCE_SECONDS)
            self._reading_ended = True
            self._arrived.set()
            with contextlib.suppress(OSError):
                stream.close()

    def _write(self, tree: ProcessTree) -> None:
        try:
            while (item := self._next(tree.stdin)) is not None and not self._is_killed:
                request, outgoing = item
                try:
                    head, *payload = encode(outgoing if isinstance(outgoing, Message) else outgoing())
                except Exception as error:
                    self._refuse(request, error)
                    continue
                self._write_piece(tree.stdin, memoryview(head))
                for piece in payload:
                    self._write_payload(tree.stdin, memoryview(piece), request)
        except OSError:
            # The worker is gone, which the reader reports.
            pass
        finally:
            with contextlib.suppress(OSError):
                tree.stdin.close()

    def _next(self, stream: IO[bytes]) -> tuple[int, Outgoing] | None:
        """Wait for the next thing to send; meanwhile tell a worker on a server that its client is there."""
        while True:
            try:
                return self._outgoing.get(timeout=self._alive_seconds)
            except queue.Empty:
                for piece in encode(Message(Alive().header(0))):
                    # Not counted as activity, which would hide that the worker does not answer.
                    stream.write(piece)

    def _write_piece(self, stream: IO[bytes], view: memoryview) -> None:
        while view.nbytes:
            taken = stream.write(view[:_WRITE_BYTES])
            self._written += taken
            view = view[taken:]

    def _write_payload(self, stream: IO[bytes], view: memoryview, request: int) -> None:
        if not self._command.is_remote or view.nbytes < _UPLOAD_BYTES:
            self._write_piece(stream, view)
            return
        # In small pieces, as progress is only known between them.
        begun = told = time.monotonic()
        for start in range(0, view.nbytes, _READ_BYTES):
            if self._is_killed:
                return
            self._write_piece(stream, view[start : start + _READ_BYTES])
            done, now = min(start + _READ_BYTES, view.nbytes), time.monotonic()
            if now - told >= _TELL_SECONDS or done == view.nbytes:
                told = now
                left = (now - begun) * (view.nbytes - done) / done
                text = _("Sending the volume to {host}").format(host=self.host)
                self._arrive(ProgressEvent(request, text, done, view.nbytes, None, left).message())

    def _arrive(self, message: Message) -> None:
        self._incoming.append(message)
        self._arrived.set()

    def _refuse(self, request: int, error: Exception) -> None:
        if not isinstance(error, SAM2PropagateError):
            what = _("A request to the worker could not be prepared ({kind}: {reason}).").format(
                kind=type(error).__name__, reason=error
            )
            self._keep([str(what)])
            error = SAM2PropagateError("internal", what)
        self._arrive(Message({"type": "error", "request": request, "error": error.to_wire()}))

    def _collect_log(self, tree: ProcessTree) -> None:
        rest = b""
        with contextlib.ExitStack() as stack:
            file: Any = None
            log_file = self._command.log_file
            if log_file is not None:
                try:
                    file = stack.enter_context(log_file.open("ab"))
                except OSError as error:
                    self._keep([f"The log file {log_file} cannot be written ({error})."])
            try:
                while piece := tree.stderr.read(_READ_BYTES):
                    if file is not None:
                        with contextlib.suppress(OSError):
                            file.write(piece)
                            file.flush()
                    # Progress bars end with a carriage return instead of a line end.
                    *lines, rest = (rest + piece).replace(b"\r", b"\n").split(b"\n")
                    self._keep([line.decode("utf-8", "replace") for line in lines])
                    rest = rest[-_LINE_CHARACTERS:]
            except OSError:
                pass
            finally:
                self._keep([rest.decode("utf-8", "replace")])
                with contextlib.suppress(OSError):
                    tree.stderr.close()

    def _keep(self, lines: list[str]) -> None:
        self._log.extend(line.rstrip()[:_LINE_CHARACTERS] for line in lines if line.strip())
