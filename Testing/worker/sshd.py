"""A real ssh server on the loopback address: its own keys, port and configuration in a temporary folder.

The client's side is a program `ssh` that calls the real one with a configuration of its own, so that nothing
of the user's is read, and no user's files are touched: on the server, too, HOME is a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from SAM2PropagateLib.worker.process_tree import descendants
from Testing.worker.fake_worker import SCRIPT_VARIABLE

HOST = "server-of-the-tests"
_PRIVILEGE_FOLDER = Path("/run/sshd")


def why_no_sshd() -> str:
    """Why no ssh server can be started here; "" if one can."""
    if os.name != "posix":
        return "the ssh server of the tests is started as POSIX does it"
    missing = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
    if _sshd() is None:
        missing.append("sshd")
    if missing:
        return f"{', '.join(missing)} not found: install openssh-server and openssh-client"
    if os.getuid() == 0 and not _PRIVILEGE_FOLDER.is_dir():
        try:
            # What the system's own service makes when it starts; a server of root refuses to start without.
            _PRIVILEGE_FOLDER.mkdir(mode=0o755)
        except OSError as error:
            return f"{_PRIVILEGE_FOLDER} is not there and cannot be made ({error.strerror})"
    return ""


def _sshd() -> str | None:
    return shutil.which(
        "sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    )


class Sshd:
    """A running server.

    Attributes:
        port: that it listens on. home: what is HOME for its sessions. bin: a folder
            of programs that its sessions find first. env: for `worker_command`: its `ssh`
            reaches the server by the name `HOST`.
    """

    def __init__(self, folder: Path) -> None:
        if reason := why_no_sshd():
            pytest.skip(reason)
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.bin = folder / "server-bin"
        self.bin.mkdir()
        self.make_key("host")
        self.make_key("user")
        (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
        self.port = _free_port()
        server = (
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {folder}/host",
            "PidFile none",
            f"AuthorizedKeysFile {folder}/authorized",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            f"AcceptEnv {SCRIPT_VARIABLE} SAM2PROPAGATE_SILENCE",
            f"SetEnv HOME={self.home} PATH={self.bin}:{os.defpath}",
        )
        (folder / "sshd_config").write_text("\n".join(server) + "\n", encoding="utf-8")
        self.know((folder / "host.pub").read_text(encoding="utf-8"))
        self.configure()
        real = shutil.which("ssh")
        program = folder / "bin" / "ssh"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {real} -F {folder}/ssh_config "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}
        self.env = {**kept, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
        sshd = _sshd()
        assert sshd is not None
        # It ends with the tests, also where these are killed: then the shell's input ends.
        shell = ("sh", "-c", '"$@" & echo $!; cat > /dev/null; kill $!', "sh")
        with (folder / "sshd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*shell, sshd, "-D", "-e", "-f", str(folder / "sshd_config")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        self._server = int(self._process.stdout.readline())
        self._wait_until_it_listens()

    @property
    def processes(self) -> list[int]:
        """All processes of its sessions, the sessions' own before what they run."""
        return descendants(self._server)

    @property
    def workers(self) -> list[int]:
        """The Python processes that it runs."""
        return [pid for pid in self.processes if b"--remote" in _words(pid)]

    def configure(
        self, port: int | None = None, key: str = "user", host: str = "127.0.0.1", proxy: str = ""
    ) -> None:
        """How the client goes to `HOST` from now on; `proxy` is a program that leads there."""
        client = (
            f"Host {HOST}",
            f"  HostName {host}",
            f"  Port {port or self.port}",
            f"  IdentityFile {self.folder}/{key}",
            "  IdentitiesOnly yes",
            *([f"  ProxyCommand {proxy}"] if proxy else []),
            "  IdentityAgent none",
            f"  UserKnownHostsFile {self.folder}/known",
            "  GlobalKnownHostsFile /dev/null",
            "  StrictHostKeyChecking ask",
            f"  SendEnv {SCRIPT_VARIABLE} SAM2PROPAGATE_SILENCE",
        )
        (self.folder / "ssh_config").write_text("\n".join(client) + "\n", encoding="utf-8")

    def know(self, key: str) -> None:
        """Have the client know this key as the server's; "" for none."""
        (self.folder / "known").write_text(
            f"[127.0.0.1]:{self.port} {key}\n" if key else "", encoding="utf-8"
        )

    def make_key(self, name: str, passphrase: str = "") -> None:
        """A new pair of keys."""
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(self.folder / name)]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        """End the server and its sessions."""
        for pid in [*self.processes, self._server]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.communicate()

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                log = (self.folder / "sshd.log").read_text(encoding="utf-8")
                assert self._process.poll() is None and time.monotonic() < deadline, log
                time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
