"""What the user is told, and how often: each error once until something new is asked of the worker."""

from __future__ import annotations

from SAM2PropagateLib.app.events import UserMessage
from SAM2PropagateLib.app.signals import Signal
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.worker.calls import Call


class UserMessages:
    """Says short messages.

    Args:
        said: the signal that carries them.
        recovered: emitted when the worker has done what it was asked after its last error.
        wentOn: emitted when what was refused before is of no interest any more.
    """

    def __init__(self, said: Signal[UserMessage], recovered: Signal[None], wentOn: Signal[None]) -> None:
        self._said = said
        self._recovered = recovered
        self._wentOn = wentOn
        self._toldOf: set[str] = set()
        # What the worker was asked since it failed; None: it has not failed, or has succeeded since.
        self._retries: list[Call] | None = None

    def say(self, level: str, text: str, code: str = "", log: tuple[str, ...] = ()) -> None:
        """Says something; for the arguments see `UserMessage`."""
        self._said.emit(UserMessage(level, text, code, log))

    def sayForNow(self, level: str, text: str, code: str = "") -> None:
        """Says why something was refused, or what it still needs; `goOn` makes that out of date."""
        self._said.emit(UserMessage(level, text, code, isForNow=True))

    def goOn(self) -> None:
        """The next prompt is taken, a step is undone or redone, or something else is chosen."""
        self._wentOn.emit(None)

    def fail(self, error: SAM2PropagateError, log: tuple[str, ...] = (), isOfWorker: bool = False) -> None:
        """Says an error, unless the user has heard of it already."""
        if isOfWorker:
            self._retries = []
        # A worker's end fails everything that it was asked; once is enough to hear of it.
        if error.code in self._toldOf and not isinstance(error, InputError):
            return
        self._toldOf.add(error.code)
        level = "warning" if isinstance(error, InputError) else "error"
        self._said.emit(UserMessage(level, str(error), error.code, log, isOfWorker))

    def beginAnew(self, call: Call) -> None:
        """Something new is asked of the worker: errors that were told are told again."""
        self._toldOf.clear()
        if self._retries is not None:
            self._retries.append(call)

    def answered(self, call: Call | None) -> None:
        """The worker has sent a mask: what it said of a failure before it was asked is over."""
        if self._retries is not None and any(one is call for one in self._retries):
            self._retries = None
            self._recovered.emit(None)
