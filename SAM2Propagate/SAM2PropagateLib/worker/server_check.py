"""Checks whether a server can run the worker: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.releases import OLDEST_TORCH, release
from SAM2PropagateLib.texts import Words
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker import probe
from SAM2PropagateLib.worker.library_files import own_version
from SAM2PropagateLib.worker.remote import Remote, no_ssh, why_ended

_SECONDS = 180.0
_OLDEST_PYTHON = (3, 10)


@dataclass(frozen=True)
class Finding:
    """A finding on one thing that a worker needs.

    Attributes:
        state: "good", "slow" (it works slowly) or "bad". text: the finding. hint: what to do; may be empty.
    """

    state: str
    text: Words
    hint: Words = ""


@dataclass(frozen=True)
class ServerReport:
    """All findings on a server, in the order in which the things are needed."""

    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether a worker can compute there."""
        return all(one.state != "bad" for one in self.findings)


def check_server(remote: Remote, model: str, env: Mapping[str, str]) -> ServerReport:
    """Log in and report what is there. This takes seconds, as it imports PyTorch once.

    Args:
        remote: the server. model: a name of the registry, or a path there. env: for ssh.
    """
    argv = remote.command(("-", model), {"PYTHONUNBUFFERED": "1"})
    try:
        done = subprocess.run(
            argv,
            input=Path(probe.__file__).read_bytes(),
            env=dict(env),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            **hidden_window(),
        )
    except FileNotFoundError:
        return _failed(no_ssh())
    except subprocess.TimeoutExpired:
        return _failed(
            SAM2PropagateError(
                "no_answer",
                _("{host} did not answer within {seconds:g} seconds.").format(
                    host=remote.host, seconds=_SECONDS
                ),
                _("Try again; if it happens again, log in with ssh and see what the server does."),
            )
        )
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if line.startswith(probe.MARK):
            return report(remote, json.loads(line[len(probe.MARK) :]))
    log = done.stderr.decode("utf-8", "replace").splitlines()
    return _failed(why_ended(remote, done.returncode, [line.strip() for line in log if line.strip()], False))


def hidden_window() -> dict[str, Any]:
    """Return options of `subprocess` that keep Windows from opening a console."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW}
    return {}


def _failed(error: SAM2PropagateError) -> ServerReport:
    return ServerReport((Finding("bad", error.sentence, error.hint),))


def report(remote: Remote, found: Mapping[str, Any]) -> ServerReport:
    """Return the probe's findings in words."""
    findings = [
        Finding("good", _("Logged in on {computer}.").format(computer=found["computer"])),
        _python(found),
        *_torch(found),
        *_packages(found),
        *_library(found),
    ]
    return ServerReport(tuple(findings))


def _python(found: Mapping[str, Any]) -> Finding:
    text = _("Python {version} ({path}).").format(version=found["python"], path=found["executable"])
    if release(found["python"]) < _OLDEST_PYTHON:
        return Finding("bad", text, _("3.10 or newer is needed: install one there, or name another one."))
    return Finding("good", text)


def _torch(found: Mapping[str, Any]) -> list[Finding]:
    if "torch_error" in found:
        return [
            Finding(
                "bad",
                _("PyTorch cannot be started ({reason}).").format(reason=found["torch_error"]),
                _("Install it again there."),
            )
        ]
    if "torch" not in found:
        return []
    text = _("PyTorch {version}.").format(version=found["torch"])
    if release(found["torch"]) < release(OLDEST_TORCH):
        return [
            Finding(
                "bad", text, _("{version} or newer is needed: update it there.").format(version=OLDEST_TORCH)
            )
        ]
    gpus = [
        _("GPU: {name}, {total:.0f} GB of memory, {free:.0f} GB free.").format(
            name=one["name"], total=one["total"] / 2**30, free=one["free"] / 2**30
        )
        if one["total"]
        else _("GPU: {name}.").format(name=one["name"])
        for one in found["devices"]
    ]
    if gpus:
        return [Finding("good", text), *(Finding("good", gpu) for gpu in gpus)]
    return [
        Finding("good", text),
        Finding(
            "slow",
            _("PyTorch finds no GPU: the processor computes, which is slow."),
            _("If there is a GPU, install its driver and a PyTorch that is built for it."),
        ),
    ]


def _packages(found: Mapping[str, Any]) -> list[Finding]:
    missing = found["missing"]
    if not missing:
        return [Finding("good", _("SAM 2 and all packages that it needs."))]
    return [
        Finding(
            "bad",
            _("Python packages are missing: {names}.").format(names=", ".join(missing)),
            _("Run the install command in a terminal."),
        )
    ]


def _library(found: Mapping[str, Any]) -> list[Finding]:
    if "library" not in found:
        return [
            Finding(
                "bad",
                _("SAM2 Propagate {version} is not there.").format(version=own_version()),
                _("Copy the library there, or run the install command in a terminal."),
            )
        ]
    if found["library"] != own_version():
        return [
            Finding(
                "bad",
                _("SAM2 Propagate {version} is there, {own} here.").format(
                    version=found["library"], own=own_version()
                ),
                _("Both must be the same: copy the library there, or install this version."),
            )
        ]
    findings = [Finding("good", _("SAM2 Propagate {version}, as here.").format(version=own_version()))]
    if found.get("has_model"):
        findings.append(Finding("good", _("The chosen model.")))
    else:
        findings.append(Finding("bad", _("The chosen model is not there."), _("Copy the library there.")))
    return findings
