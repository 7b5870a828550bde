"""Tests a server, and copies the library there, while the user works on.

The work is done in a thread; `poll` emits the thread's messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from SAM2PropagateLib.app.computer import Computer
from SAM2PropagateLib.app.events import Ticker
from SAM2PropagateLib.app.signals import Signal
from SAM2PropagateLib.app.thread_job import ThreadJob, reasonOf
from SAM2PropagateLib.app.wording import size
from SAM2PropagateLib.errors import Cancelled
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.texts import tr as _
from SAM2PropagateLib.worker.remote import Remote
from SAM2PropagateLib.worker.server_check import ServerReport, check_server
from SAM2PropagateLib.worker.server_copy import copy_to_server, files_to_copy, model_there

_SIGNS = {"good": "✓", "slow": "!", "bad": "✗"}


@dataclass(frozen=True)
class ServerJobEnd:
    """The end of a job.

    Attributes:
        works: whether a worker can compute there, or a copy is complete.
        text: for the user; may have several lines.
    """

    works: bool
    text: str


class ServerJobs:
    """One job at a time.

    Args:
        computer: the chosen one.
        store: the models of this computer.
        environment: returns the environment variables for ssh.
        ticker: started while `poll` has to be called.

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
        self._step = -1
        self._job: ThreadJob[str, ServerJobEnd] = ThreadJob("sam2propagate-server", ticker)

    @property
    def isRunning(self) -> bool:
        """Whether a job is under way."""
        return self._job.isRunning

    def test(self, remote: Remote, model: str) -> None:
        """Begins to test a server; `model` as in `Choices.model`."""
        env = dict(self._environment())
        self._start(
            lambda: _tested(check_server(remote, model_there(model, self._store), env)),
            _("Testing the connection to {host} …").format(host=remote.host),
        )

    def copy(self, remote: Remote, model: str) -> None:
        """Begins to copy the library and the model; the user has agreed."""
        env = dict(self._environment())

        def work() -> ServerJobEnd:
            files = files_to_copy(model, self._store)
            copy_to_server(remote, files, env, self._tell, lambda: self._job.isCancelled)
            found = check_server(remote, model_there(model, self._store), env)
            text = _("Copied, and checked by SHA-256.")
            return ServerJobEnd(found.works, f"{text}\n{_tested(found).text}")

        self._start(work, _("Copying to {host} …").format(host=remote.host))

    def cancel(self) -> None:
        """Ends a copy; the server deletes its part."""
        self._job.cancel()

    def poll(self) -> None:
        """Emits the progress and the end of the job; never waits. Called by the ticker."""
        self._job.poll(self.progress.emit, self.finished.emit)

    def close(self, timeout: float = 5.0) -> None:
        """Ends a copy and its thread, without waiting for a test."""
        self._job.close(timeout)

    def _start(self, work: Callable[[], ServerJobEnd], text: str) -> None:
        if self._job.start(work, _failed):
            self.progress.emit(text)

    def _tell(self, done: int, total: int) -> None:
        # A few hundred times at most.
        step = done // max(total // 200, 1)
        if done == total or step != self._step:
            self._step = step
            self._job.tell(_("Copied {done} of {total}.").format(done=size(done), total=size(total)))


def _failed(error: Exception) -> ServerJobEnd:
    return ServerJobEnd(False, _("Cancelled.") if isinstance(error, Cancelled) else reasonOf(error))


def wordsOf(report: ServerReport) -> str:
    """Returns the findings on a server as text, one per line."""
    return "\n".join(f"{_SIGNS[one.state]} {one.text} {one.hint}".rstrip() for one in report.findings)


def _tested(report: ServerReport) -> ServerJobEnd:
    return ServerJobEnd(report.works, wordsOf(report))
