"""What the user is told, and how often: each error once until something new is asked of the worker."""

from __future__ import annotations

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.gui.events import Message
from SAM2PropagateLib.gui.signals import Signal


class UserMessages:
    """Says short messages.

    Args:
        said: the signal that carries them.
    """

    def __init__(self, said: Signal[Message]) -> None:
        self._said = said
        self._toldOf: set[str] = set()

    def say(self, level: str, text: str, code: str = "", log: tuple[str, ...] = ()) -> None:
        """Says something; for the arguments see `Message`."""
        self._said.emit(Message(level, text, code, log))

    def fail(self, error: SAM2PropagateError, log: tuple[str, ...] = ()) -> None:
        """Says an error, unless the user has heard of it already."""
        # A worker's end fails everything that it was asked; once is enough to hear of it.
        if error.code in self._toldOf and not isinstance(error, InputError):
            return
        self._toldOf.add(error.code)
        level = "warning" if isinstance(error, InputError) else "error"
        self.say(level, str(error), error.code, log)

    def beginAnew(self) -> None:
        """Something new is asked of the worker: errors that were told are told again."""
        self._toldOf.clear()
