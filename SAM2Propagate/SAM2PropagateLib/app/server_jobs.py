"""Testing a server and copying the library there, beside the window.

The work is done in a thread of its own that talks through a queue, which `poll` empties: nothing of the
window is touched from the thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from SAM2PropagateLib.app.computer import Computer
from SAM2PropagateLib.app.events import NoTicker, Ticker
from SAM2PropagateLib.app.signals import Signal
from SAM2PropagateLib.app.wording import size
from SAM2PropagateLib.errors import Cancelled, SAM2PropagateError
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.texts import tr as _
from SAM2PropagateLib.worker.remote import Remote
from SAM2PropagateLib.worker.server_check import ServerReport, check_server
from SAM2PropagateLib.worker.server_copy import copy_to_server, files_to_copy, model_there

_SIGNS = {"good": "✓", "slow": "!", "bad": "✗"}


@dataclass(frozen=True)
class ServerJobEnd:
    """What has become of a job.

    Attributes:
        works: a worker can compute there; for a copy: it is complete.
        text: for the user; may have several lines.
    """

    works: bool
    text: str


class ServerJobs:
    """One job at a time.

    Args:
        computer: the chosen one.
        store: the models of this computer.
        environment: that of ssh.
        ticker: told when `poll` has to be called.

    Attributes:
        computer: as given.

    Signals:
        progress (a text), finished (`ServerJobEnd`).
    """

    def __init__(
        self,
        computer: Computer,
        store: ModelStore,
        environment: Callable[[], Mapping[str, str]],
        ticker: Ticker | None = None,
    ) -> None:
        self.computer = computer
        self.progress: Signal[str] = Signal()
        self.finished: Signal[ServerJobEnd] = Signal()
        self._store = store
        self._environment = environment
        self._ticker = ticker or NoTicker()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._step = -1
        self._said: queue.SimpleQueue[str | ServerJobEnd] = queue.SimpleQueue()

    @property
    def isRunning(self) -> bool:
        return self._thread is not None

    def test(self, remote: Remote, model: str) -> None:
        """Begins to look what there is on a server; `model` as `Choices.model` has it."""
        env = dict(self._environment())
        self._start(
            lambda: _tested(check_server(remote, model_there(model, self._store), env)),
            _("Testing the connection to {host} …").format(host=remote.host),
        )

    def copy(self, remote: Remote, model: str) -> None:
        """Begins to copy the library and the model; the user has agreed to it."""
        env = dict(self._environment())

        def work() -> ServerJobEnd:
            copy_to_server(remote, files_to_copy(model, self._store), env, self._tell, self._stop.is_set)
            found = check_server(remote, model_there(model, self._store), env)
            text = _("Copied, and checked by SHA-256.")
            return ServerJobEnd(found.works, f"{text}\n{_tested(found).text}")

        self._start(work, _("Copying to {host} …").format(host=remote.host))

    def cancel(self) -> None:
        """Ends a copy; what has come of it is deleted there."""
        self._stop.set()

    def poll(self) -> None:
        """Tells what the job has said; never waits. Called by the ticker."""
        while True:
            try:
                said = self._said.get_nowait()
            except queue.Empty:
                return
            if isinstance(said, str):
                self.progress.emit(said)
                continue
            assert self._thread is not None
            self._thread.join()
            self._thread = None
            self._ticker.stop()
            self.finished.emit(said)

    def close(self, timeout: float = 5.0) -> None:
        """Ends a copy and lets go of its thread; a test that still waits for the server is not waited for."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None
        self._ticker.stop()

    def _start(self, work: Callable[[], ServerJobEnd], text: str) -> None:
        if self._thread is not None:
            return
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._run, args=(work,), name="sam2propagate-server", daemon=True
        )
        self._thread.start()
        self._ticker.start()
        self.progress.emit(text)

    def _run(self, work: Callable[[], ServerJobEnd]) -> None:
        try:
            end = work()
        except Cancelled:
            end = ServerJobEnd(False, _("Cancelled."))
        except SAM2PropagateError as error:
            end = ServerJobEnd(False, str(error))
        except Exception as error:  # a thread's exception would be lost
            end = ServerJobEnd(False, f"{type(error).__name__}: {error}")
        self._said.put(end)

    def _tell(self, done: int, total: int) -> None:
        # A few hundred times at most.
        step = done // max(total // 200, 1)
        if done == total or step != self._step:
            self._step = step
            self._said.put(_("Copied {done} of {total}.").format(done=size(done), total=size(total)))


def wordsOf(report: ServerReport) -> str:
    """Returns what was found on a server, one line for each thing."""
    return "\n".join(f"{_SIGNS[one.state]} {one.text} {one.hint}".rstrip() for one in report.findings)


def _tested(report: ServerReport) -> ServerJobEnd:
    return ServerJobEnd(report.works, wordsOf(report))
