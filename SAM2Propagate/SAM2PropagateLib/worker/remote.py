"""Runs the worker on a server through ssh: builds the command, and explains why it failed.

ssh does login and encryption, and no port is opened. Nothing is asked: where ssh would need an answer (a
passphrase, a password, whether a host's key is right) it fails at once, with a sentence that says what to do.
The server may use any shell; the commands themselves are for `sh`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.models.store import MORE_MODELS_VARIABLE
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker.library_files import own_version

HOME_FOLDER = "~/.sam2propagate"
"""The folder in the user's home on a server that the set-up makes."""

MODELS_FOLDER = f"{HOME_FOLDER}/models"
"""The folder on a server with copied models."""

REMOTE_OPTION = "--remote"
"""The option that tells the worker that its client is on another computer; see `worker.__main__`."""

ALIVE_SECONDS = 15.0
"""Seconds between two messages of a client on another computer that it is still there."""

SILENCE_SECONDS = 300.0
"""Seconds of its client's silence after which a worker on a server ends itself."""

NO_PYTHON, NO_FOLDER, OLD_PYTHON = 96, 97, 98
"""Exit codes of the command on the server, before the worker has answered."""

NOTHING_CAME = "Nothing came from the client"
"""How the worker's last log line begins when it ends itself because of its client's silence."""

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:%\[\]-]*")
_SSH_FAILED = 255
_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=15",
    # ssh notices a lost connection, for example after a computer's sleep, after 45 seconds: when it has asked
    # twice in vain, and would ask again.
    "ServerAliveInterval=15",
    "ServerAliveCountMax=2",
    # Forwardings in the user's configuration are off, so that no port is opened.
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    # A shared connection would outlive the worker.
    "ControlMaster=no",
    # Its messages are parsed here.
    "LogLevel=INFO",
)


@dataclass(frozen=True)
class Remote:
    """A server, and where the worker is on it.

    Attributes:
        host: as ssh takes it: "gpu1", "me@gpu1", an entry of the user's ssh configuration.
        python: the Python there that has torch and sam2: a name, or a path, absolute or below the home; None:
            the one in `HOME_FOLDER`/env if it is there, else python3.
        folder: the folder there that holds SAM2PropagateLib, absolute or below the home; None: the copy of
            this very version in `HOME_FOLDER` if it is there, else it is installed in that Python.

    Raises:
        InputError: bad_host, bad_remote_path.
    """

    host: str
    python: str | None = None
    folder: str | None = None

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise InputError(
                "bad_host",
                _("“{host}” is not a host that ssh can reach.").format(host=self.host),
                _("Give a name such as “gpu1” or “me@gpu1”."),
            )
        for path in (self.python, self.folder):
            if path is not None and (not path.strip() or not path.isprintable()):
                raise InputError(
                    "bad_remote_path",
                    _("“{path}” cannot be a path on {host}.").format(path=path, host=self.host),
                    _("Give it as you would type it there."),
                )

    def command(self, arguments: Sequence[str], settings: Mapping[str, str]) -> tuple[str, ...]:
        """Return the ssh command that runs Python there with these arguments and environment variables.

        It ends with `NO_FOLDER` or `NO_PYTHON` where one of these is missing.
        """
        enter = 'PYTHONPATH="$PWD"; export PYTHONPATH'
        if self.folder is not None:
            steps = [f"cd -- {_path(self.folder)} 2>/dev/null || exit {NO_FOLDER}", enter]
        else:
            steps = [f"f={_path(copy_folder())}", f'if [ -d "$f" ]; then cd -- "$f"; {enter}; fi']
        variables = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
        variables.append(f"{MORE_MODELS_VARIABLE}={_path(MODELS_FOLDER)}")
        if self.python is None:
            steps.append(f"p={_path(HOME_FOLDER)}/env/bin/python")
            steps.append('[ -x "$p" ] || p=python3')
        else:
            steps.append(f"p={_path(self.python) if '/' in self.python else shlex.quote(self.python)}")
        steps.append(f'command -v -- "$p" >/dev/null 2>&1 || exit {NO_PYTHON}')
        steps.append(" ".join(["exec env", *variables, '"$p"', *map(shlex.quote, arguments)]))
        return self.shell("; ".join(steps))

    def shell(self, script: str) -> tuple[str, ...]:
        """Return the ssh command that runs a one-line script with the server's `sh`."""
        options = [word for option in _OPTIONS for word in ("-o", option)]
        # -T: without a terminal, which would change bytes; -x and -a: without forwarding X11 and the agent.
        return ("ssh", "-T", "-x", "-a", *options, self.host, f"exec sh -c {shlex.quote(script)}")


def copy_folder() -> str:
    """Return the folder on a server for a copy of exactly this version of the library."""
    return f"{HOME_FOLDER}/library-{own_version()}"


def _path(path: str) -> str:
    """Return a path on the server for its `sh`: one that is not absolute is below the home."""
    path = path.removeprefix("~/")
    return shlex.quote(path) if path.startswith("/") else f'"$HOME"/{shlex.quote(path)}'


def no_ssh() -> SAM2PropagateError:
    """Return the error for a computer without ssh."""
    return SAM2PropagateError(
        "no_ssh",
        _("The program ssh was not found on this computer."),
        _("Install the OpenSSH client; on Windows it is one of the optional features."),
    )


# Errors that depend on the worker's computer; all others concern the user's input.
_THERE = (
    "not_installed", "out_of_memory", "model_does_not_fit", "internal", "device_lost", "model_changed",
    "model_unreadable", "unknown_device", "device_unavailable", "device_unusable", "int8_unavailable",
)  # fmt: skip
_NO_MODEL = ("model_not_there", "weights_missing")


def told_there(host: str, model: str, error: SAM2PropagateError) -> SAM2PropagateError:
    """Return a worker's error for a user at another computer, with the host in its sentence.

    Args:
        host: of the worker. model: the one to load.
    """
    if error.code in _NO_MODEL:
        return InputError(
            error.code,
            _("The model “{name}” is not on {host}.").format(name=model.rpartition("/")[2], host=host),
            _(
                "Copy it to the server, or choose a model that the server has: the bundled one is part of "
                "the installation."
            ),
        )
    if error.code not in _THERE:
        return error
    kind = InputError if isinstance(error, InputError) else SAM2PropagateError
    return kind(
        error.code,
        _("On {host}: {sentence}").format(host=host, sentence=error.said),
        error.advice,
    )


def why_ended(
    remote: Remote, exit_code: int | None, log: Sequence[str], has_answered: bool
) -> SAM2PropagateError:
    """Return why the worker, or the connection to it, has ended.

    Args:
        exit_code: of ssh. log: what ssh and the worker printed. has_answered: the worker was reached.
    """
    host = remote.host
    again = _("Try again: it reconnects, and your prompts and finished slices are kept.")
    if exit_code is None or exit_code < 0:
        return SAM2PropagateError(
            "connection_lost",
            _("The connection to {host} was lost (ssh was ended).").format(host=host),
            again,
        )
    if exit_code == _SSH_FAILED:
        said = [line for line in log[-40:] if _is_of_ssh(line)]
        if not has_answered:
            return _not_connected(host, said or list(log[-1:]))
        if said:
            return SAM2PropagateError(
                "connection_lost",
                _("The connection to {host} was lost ({reason}).").format(host=host, reason=said[-1]),
                again,
            )
        # A signal ended the worker; ssh prints nothing then.
        if any(NOTHING_CAME in line for line in log[-40:]):
            return SAM2PropagateError(
                "connection_lost",
                _("{host} heard nothing from this computer for too long and ended the worker.").format(
                    host=host
                ),
                again,
            )
        return SAM2PropagateError(
            "worker_died",
            _("The worker was ended on {host}.").format(host=host),
            _("A lack of memory there often causes this. {again}").format(again=again),
        )
    if has_answered:
        return SAM2PropagateError(
            "worker_died",
            _("The worker on {host} ended unexpectedly (exit code {number}).").format(
                host=host, number=exit_code
            ),
            again,
        )
    return _not_started(remote, exit_code, log)


def _is_of_ssh(line: str) -> bool:
    # The worker's own lines begin with a time.
    return not re.match(r"\d{4}-\d\d-\d\d ", line) and any(sign in line for sign in _SIGNS)


_LOST = (
    "not responding",
    "closed by remote host",
    "Connection closed",
    "Connection reset",
    "Connection refused",
    "timed out",
    "Broken pipe",
    "No route to host",
    "unreachable",
    "Corrupted MAC",
)
_NO_LOGIN = ("Permission denied", "Too many authentication failures", "No supported authentication")
_NEW_KEY = ("Host key verification failed", "host key is known for")
_OTHER_KEY = "REMOTE HOST IDENTIFICATION HAS CHANGED"
_NO_HOST = ("Could not resolve hostname",)
_SIGNS = (*_LOST, *_NO_LOGIN, *_NEW_KEY, _OTHER_KEY, *_NO_HOST, "ssh:", "kex_exchange", "onfiguration option")


def _not_connected(host: str, said: Sequence[str]) -> SAM2PropagateError:
    text = "\n".join(said)

    def has(signs: Sequence[str]) -> bool:
        return any(sign in text for sign in signs)

    if has(_NO_HOST):
        return SAM2PropagateError(
            "unknown_host",
            _("There is no computer named “{host}”.").format(host=host),
            _("Check the name, and whether you have to be in another network (VPN) to reach it."),
        )
    if _OTHER_KEY in text:
        return SAM2PropagateError(
            "host_key_changed",
            _("The key of {host} has changed. It may be another computer.").format(host=host),
            _(
                "Ask who runs the server. If the change is known, remove the old key with “ssh-keygen -R” "
                "and log in once in a terminal."
            ),
        )
    if has(_NEW_KEY):
        return SAM2PropagateError(
            "host_key_unknown",
            _("You have never logged in to {host} from this computer.").format(host=host),
            _("Run “ssh {host}” once in a terminal and confirm its key.").format(host=host),
        )
    if has(_NO_LOGIN):
        return SAM2PropagateError(
            "login_refused",
            _("{host} accepts no key that works without a question.").format(host=host),
            _(
                "Put your key there (ssh-copy-id {host}); if it has a passphrase, load it once with ssh-add. "
                "“ssh -o BatchMode=yes {host}” in a terminal must log in."
            ).format(host=host),
        )
    return SAM2PropagateError(
        "host_unreachable",
        _("{host} cannot be reached ({reason}).").format(
            host=host, reason=said[-1] if said else _("no reason was given")
        ),
        _("Check the name, the network, and whether “ssh {host}” in a terminal logs in.").format(host=host),
    )


def _not_started(remote: Remote, exit_code: int | None, log: Sequence[str]) -> SAM2PropagateError:
    host = remote.host
    if exit_code == NO_FOLDER:
        return SAM2PropagateError(
            "no_remote_folder",
            _("There is no folder “{folder}” on {host}.").format(folder=remote.folder, host=host),
            _("Set up the server, or choose the folder that holds SAM2PropagateLib there."),
        )
    if exit_code == NO_PYTHON:
        return SAM2PropagateError(
            "no_remote_python",
            _("There is no Python “{python}” on {host}.").format(
                python=remote.python or "python3", host=host
            ),
            _("Install Python 3.10 or newer there, or name the one to use."),
        )
    if exit_code == OLD_PYTHON:
        return SAM2PropagateError(
            "old_remote_python",
            _("The Python on {host} is too old: {said}").format(host=host, said=next(reversed(log), "")),
            _("Install Python 3.10 or newer there, or name the one to use."),
        )
    text = "\n".join(log)
    package = re.search(r"No module named '?([\w.]+)'?", text)
    if package is not None and package.group(1).startswith("SAM2PropagateLib"):
        return SAM2PropagateError(
            "no_remote_library",
            _("SAM2 Propagate is not installed on {host}.").format(host=host),
            _("Set up the server, or name the Python that has it."),
        )
    if package is not None:
        return SAM2PropagateError(
            "not_installed",
            _("The Python package “{package}” is missing on {host}.").format(
                package=package.group(1), host=host
            ),
            _("Install what SAM2 Propagate needs there, or name another Python."),
        )
    return SAM2PropagateError(
        "worker_not_started",
        _("The worker on {host} ended before it was ready (exit code {number}): {last}").format(
            host=host, number=exit_code, last=next(reversed(log), _("it said nothing"))
        ),
        _("Test the connection: the test lists what is missing."),
    )
