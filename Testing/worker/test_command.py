"""How a worker is started: here, inside Slicer, on another machine."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.worker import command
from SAM2PropagateLib.worker.command import LIBRARY_FOLDER, find_python, worker_command
from SAM2PropagateLib.worker.library_files import own_version
from SAM2PropagateLib.worker.remote import Remote

SUFFIX = ".exe" if os.name == "nt" else ""


def put_python_slicer(home: Path) -> Path:
    path = home / "bin" / f"PythonSlicer{SUFFIX}"
    path.parent.mkdir(parents=True)
    path.touch(mode=0o755)
    return path


def test_here_the_same_python_finds_the_library() -> None:
    made = worker_command()
    assert made.argv == (sys.executable, "-m", "SAM2PropagateLib.worker")
    assert not made.is_remote
    text = "import SAM2PropagateLib as lib, sys; print(lib.__path__[0])"
    done = subprocess.run(
        [made.argv[0], "-c", text],
        env=dict(made.env),
        cwd="/",
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert Path(done.stdout.strip()) == LIBRARY_FOLDER / "SAM2PropagateLib"


def test_an_existing_python_path_is_kept() -> None:
    made = worker_command(
        base_env={"PYTHONPATH": os.pathsep.join(["/a", str(LIBRARY_FOLDER), "/b"]), "X": "1"}
    )
    assert made.env["PYTHONPATH"].split(os.pathsep) == [str(LIBRARY_FOLDER), "/a", "/b"]
    assert made.env["X"] == "1"


def test_the_environment_of_this_process_is_not_changed() -> None:
    before = dict(os.environ)
    worker_command()
    worker_command(remote=Remote("gpu1"))
    assert dict(os.environ) == before


def test_inside_slicer_its_python_is_taken(tmp_path: Path) -> None:
    path = put_python_slicer(tmp_path)
    assert find_python(tmp_path) == str(path)
    assert worker_command(slicer_home=str(tmp_path)).argv[0] == str(path)


def test_python_slicer_beside_the_running_python_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put_python_slicer(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python-real"))
    assert find_python() == str(path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "SlicerApp-real"))
    assert find_python() == str(path)


def test_slicer_itself_is_never_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("SlicerApp-real", "Slicer.exe", ""):
        monkeypatch.setattr(sys, "executable", name and str(tmp_path / "bin" / name))
        with pytest.raises(SAM2PropagateError) as caught:
            find_python()
        assert caught.value.code == "no_python" and caught.value.hint


def test_a_chosen_python_is_taken() -> None:
    assert worker_command("/opt/env/bin/python").argv[0] == "/opt/env/bin/python"


# --- another machine


def test_through_ssh_nothing_but_the_worker_is_started() -> None:
    made = worker_command(remote=Remote("me@gpu1", folder="/srv/sam two"))
    assert made.is_remote and made.argv[0] == "ssh" and made.argv[-2] == "me@gpu1"
    assert "BatchMode=yes" in made.argv and "-T" in made.argv
    assert "ClearAllForwardings=yes" in made.argv and "ControlMaster=no" in made.argv
    *shell, script = shlex.split(made.argv[-1])
    assert shell == ["exec", "sh", "-c"]
    assert script.startswith("cd -- '/srv/sam two' ") and 'PYTHONPATH="$PWD"; export PYTHONPATH;' in script
    assert script.endswith('"$p" -m SAM2PropagateLib.worker --remote')


def test_a_lost_connection_is_noticed_after_45_seconds_as_the_docs_say() -> None:
    options = dict(
        word.split("=", 1) for word in worker_command(remote=Remote("gpu1")).argv if "Alive" in word
    )
    # ssh allows so many questions without an answer, and ends when the next one is due.
    allowed = int(options["ServerAliveCountMax"])
    assert int(options["ServerAliveInterval"]) * (allowed + 1) == 45


def test_an_installed_library_needs_no_folder() -> None:
    script = shlex.split(worker_command(remote=Remote("gpu1", "/opt/py thon")).argv[-1])[-1]
    assert "p='/opt/py thon'" in script
    # Only a copy of this very version would be taken instead.
    assert script.startswith(f'f="$HOME"/.sam2propagate/library-{own_version()}; if [ -d "$f" ]; then cd ')


@pytest.mark.parametrize(
    "host", ["-oProxyCommand=evil", "", "a b", "gpu1;reboot", "$(x)", "gpu1\n", "`x`", "a'b"]
)
def test_a_host_that_is_an_option_or_a_command_is_refused(host: str) -> None:
    with pytest.raises(InputError) as caught:
        Remote(host)
    assert caught.value.code == "bad_host"


def test_the_remote_shell_takes_hostile_folders_as_names(tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("the remote command is for a POSIX shell, which this system lacks")
    folder = tmp_path / "a'b $(touch evil); `touch evil`"
    folder.mkdir()
    there = Remote("gpu1", sys.executable, str(folder))
    remote = worker_command(remote=there, module="this").argv[-1]
    done = subprocess.run(
        ["sh", "-c", remote], cwd=tmp_path, capture_output=True, encoding="utf-8", check=True
    )
    assert "Zen of Python" in done.stdout
    assert list(tmp_path.iterdir()) == [folder] and list(folder.iterdir()) == []


def test_the_module_knows_its_own_folder() -> None:
    assert (command.LIBRARY_FOLDER / "SAM2PropagateLib" / "worker" / "__main__.py").is_file()
