"""`segment --host`: the worker on a server behind a real ssh server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from SAM2PropagateLib.cli.main import parse_arguments
from SAM2PropagateLib.cli.segment import SegmentCommand
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.volume import read_image
from SAM2PropagateLib.worker.command import LIBRARY_FOLDER
from SAM2PropagateLib.worker.remote import Remote
from Testing.cli.running import run, words, write_volume
from Testing.worker.helpers import soon
from Testing.worker.sshd import HOST, Sshd


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    server = Sshd(tmp_path / "sshd")
    monkeypatch.setenv("PATH", server.env["PATH"])
    yield server
    server.stop()


def arguments(tmp_path: Path, *more: str) -> list[str]:
    volume = write_volume(tmp_path / "volume.nrrd")
    out = str(tmp_path / "out.seg.nrrd")
    return ["segment", str(volume), "--point-ras", *words((-20.0, -10.0, 20.0)), "--out", out, *more]


def test_a_volume_is_segmented_on_a_server(sshd: Sshd, tmp_path: Path) -> None:
    there = ("--remote-python", sys.executable, "--remote-folder", str(LIBRARY_FOLDER))
    report = tmp_path / "report.json"
    done = run(
        tmp_path,
        *arguments(tmp_path, "--host", HOST, *there, "--report", str(report), "--input-size", "256"),
    )
    assert done.code == 0, done.err
    assert read_image(tmp_path / "out.seg.nrrd").array.shape[-3:] == (8, 20, 30)
    assert json.loads(report.read_text(encoding="utf-8"))["model"]["model"] == "sam2propagate_tiny"
    assert soon(lambda: not sshd.processes, 30)
    left = [path.relative_to(sshd.home) for path in sshd.home.rglob("*") if path.is_file()]
    assert left == [Path(".cache/SAM2Propagate/checksums.json")]
    if "cpu" in report.read_text(encoding="utf-8"):
        assert f"no GPU on {HOST}" in done.err


def test_a_fault_of_the_server_is_told_in_one_sentence(sshd: Sshd, tmp_path: Path) -> None:
    for more, code, text in (
        (("--host", "there-is-none.invalid"), 1, "There is no computer named"),
        (("--host", HOST, "--remote-python", "none"), 1, f"There is no Python “none” on {HOST}."),
        (("--host", HOST, "--remote-folder", "none"), 1, f"There is no folder “none” on {HOST}."),
    ):
        done = run(tmp_path, *arguments(tmp_path, *more))
        assert (done.code, done.out) == (code, "") and done.error_line.startswith(text), done.err
        assert not (tmp_path / "out.seg.nrrd").exists()
    assert soon(lambda: not sshd.processes, 30)


def test_options_of_a_server() -> None:
    given = ["segment", "ct.nrrd", "--point-ras", "0", "0", "0", "--out", "x.seg.nrrd"]
    command = parse_arguments(given)
    assert isinstance(command, SegmentCommand) and command.remote is None
    command = parse_arguments([*given, "--host", "me@gpu1", "--remote-python", "~/env/bin/python"])
    assert isinstance(command, SegmentCommand) and command.remote == Remote("me@gpu1", "~/env/bin/python")
    for wrong in (["--host", "-oProxyCommand=x"], ["--remote-python", "python3"], ["--remote-folder", "x"]):
        with pytest.raises(InputError):
            parse_arguments([*given, *wrong])
