"""Sends messages to the user; each error only once until the worker is asked for something new."""

from __future__ import annotations

from SAM2PropagateLib.app.events import UserMessage
from SAM2PropagateLib.app.signals import Signal
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.worker.calls import Call


class UserMessages:
    """Sends short messages.

    Args:
        sent: the signal that carries them.
        recovered: emitted when the worker has answered a request that is newer than its last error.
        wentOn: emitted when earlier refusals are out of date.
    """

    def __init__(self, sent: Signal[UserMessage], recovered: Signal[None], wentOn: Signal[None]) -> None:
        self._sent = sent
        self._recovered = recovered
        self._wentOn = wentOn
        self._toldOf: set[str] = set()
        # Calls since the worker failed; None: it has not failed, or has worked again since.
        self._retries: list[Call] | None = None

    def say(self, level: str, text: str, code: str = "", log: tuple[str, ...] = ()) -> None:
        """Sends a message; for the arguments see `UserMessage`."""
        self._sent.emit(UserMessage(level, text, code, log))

    def sayForNow(self, level: str, text: str, code: str = "") -> None:
        """Sends a message on why something was refused, or what it still needs; `goOn` ends it."""
        self._sent.emit(UserMessage(level, text, code, isForNow=True))

    def goOn(self) -> None:
        """Ends messages of `sayForNow`: a prompt was taken, a step undone or redone, or something else
        chosen."""
        self._wentOn.emit(None)

    def fail(self, error: SAM2PropagateError, log: tuple[str, ...] = (), isOfWorker: bool = False) -> None:
        """Sends an error, unless the user has seen it already."""
        if isOfWorker:
            self._retries = []
        # When a worker ends, all open calls fail with the same error.
        if error.code in self._toldOf and not isinstance(error, InputError):
            return
        self._toldOf.add(error.code)
        level = "warning" if isinstance(error, InputError) else "error"
        self._sent.emit(UserMessage(level, str(error), error.code, log, isOfWorker))

    def failOnce(self, error: SAM2PropagateError) -> None:
        """Sends an error, unless the user has seen it since the last request to the worker."""
        if error.code not in self._toldOf:
            self.fail(error)

    def noteRequest(self, call: Call) -> None:
        """Notes a new request to the worker: errors may be shown again."""
        self._toldOf.clear()
        if self._retries is not None:
            self._retries.append(call)

    def answered(self, call: Call | None) -> None:
        """Notes a mask from the worker: a failure before its request is out of date."""
        if self._retries is not None and any(one is call for one in self._retries):
            self._retries = None
            self._recovered.emit(None)
