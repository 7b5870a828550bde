"""Which computer the model runs on: this one, or a server. The user chooses it; scenes do not."""

from __future__ import annotations

from typing import Any

from SAM2PropagateLib.app.signals import Signal
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.texts import tr as _
from SAM2PropagateLib.worker.remote import Remote

_GROUP = "SAM2Propagate/Computer"


class Computer:
    """Keeps the choice of the computer in the application's settings.

    Args:
        settings: the application's QSettings, or an object with its `value` and `setValue`.

    Signals:
        changed (None): the choice has changed.
    """

    def __init__(self, settings: Any) -> None:
        self.changed: Signal[None] = Signal()
        self._settings = settings

    @property
    def isServer(self) -> bool:
        """Whether a server is chosen, be its name right or not."""
        return self._read("Where") == "server"

    @property
    def host(self) -> str:
        """The server's name as the user typed it, also while this computer is chosen."""
        return self._read("Host")

    @property
    def python(self) -> str:
        """The Python there as the user typed it; "": it is found by itself."""
        return self._read("Python")

    def choose(
        self, *, isServer: bool | None = None, host: str | None = None, python: str | None = None
    ) -> None:
        """Sets what is given, and leaves the rest."""
        wanted = {
            "Where": None if isServer is None else "server" if isServer else "here",
            "Host": None if host is None else host.strip(),
            "Python": None if python is None else python.strip(),
        }
        new = {name: value for name, value in wanted.items() if value not in (None, self._read(name))}
        for name, value in new.items():
            self._settings.setValue(f"{_GROUP}/{name}", value)
        if new:
            self.changed.emit(None)

    def remote(self) -> Remote | None:
        """Returns the server to use; None: this computer.

        Raises:
            InputError: no_host, bad_host, bad_remote_path: a server is chosen that cannot be used.
        """
        if not self.isServer:
            return None
        if not self.host:
            raise InputError(
                "no_host",
                _("No server is named."),
                _("Name it under Model and computer, or choose this computer there."),
            )
        return Remote(self.host, self.python or None)

    @property
    def problem(self) -> str:
        """Why the chosen computer cannot be used; "" if nothing is known against it."""
        try:
            self.remote()
        except InputError as error:
            return str(error)
        return ""

    def _read(self, name: str) -> str:
        return str(self._settings.value(f"{_GROUP}/{name}", "") or "")
