"""run.py: what it refuses, what it installs and when; an interruption or a second run breaks nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with requirements that need no network: nothing at all, or a package of its own."""
    root = tmp_path / "check out"
    (root / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "run.py", root)
    for name in [*run.LAYERS, "constraints"]:
        (root / "requirements" / f"{name}.txt").write_text("# nothing\n", encoding="utf-8")
    monkeypatch.delenv("SAM2PROPAGATE_TORCH", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return root


def write_package(root: Path, name: str, version: str = "1.0") -> Path:
    """A wheel of an empty package, made without any build tool; its path."""
    import zipfile

    folder = root / "wheels"
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}/__init__.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(
            f"{info}/RECORD", f"{name}/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return wheel


def venv_has(root: Path, name: str) -> bool:
    python = run.venv_python(root / ".venv")
    return (
        subprocess.run([str(python), "-c", f"import {name}"], capture_output=True, check=False).returncode
        == 0
    )


# --- what it refuses ---


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12), (3, 13)])
def test_python_3_10_to_3_13_are_accepted(version: tuple[int, int]) -> None:
    run.check_python(version, "cpython", True)


@pytest.mark.parametrize(
    ("version", "implementation", "is_64_bit", "said"),
    [
        ((3, 9), "cpython", True, "this is cpython 3.9"),
        ((3, 14), "cpython", True, "this is cpython 3.14"),
        ((3, 11), "pypy", True, "this is pypy 3.11"),
        ((3, 11), "cpython", False, "32-bit"),
    ],
)
def test_any_other_python_is_refused(
    version: tuple[int, int], implementation: str, is_64_bit: bool, said: str
) -> None:
    with pytest.raises(run.Problem, match=r"3\.10 to 3\.13") as caught:
        run.check_python(version, implementation, is_64_bit)
    assert said in str(caught.value)


def test_an_older_python_can_read_the_file() -> None:
    # Where none is on this machine, its grammar still is: this parses what a Python 3.7 could.
    import ast

    ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 7))


@pytest.mark.parametrize("version", ["3.6", "3.8", "3.9", "3.14"])
def test_a_real_python_of_another_version_says_which_is_needed(version: str, checkout: Path) -> None:
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no Python {version} here")
    done = subprocess.run(
        [python, "run.py", "demo"], cwd=checkout, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 1
    assert "SAM2Propagate needs 64-bit CPython 3.10 to 3.13" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (checkout / ".venv").exists()


def test_platforms_without_packages_are_told_so() -> None:
    for system, machine in (("Linux", "x86_64"), ("Windows", "AMD64"), ("Darwin", "arm64")):
        run.check_platform(run.COMMANDS["test"], system, machine)
    with pytest.raises(run.Problem, match="Intel"):
        run.check_platform(run.COMMANDS["cli"], "Darwin", "x86_64")
    with pytest.raises(run.Problem, match=r"python3 run\.py cli"):
        run.check_platform(run.COMMANDS["demo"], "Linux", "aarch64")
    run.check_platform(run.COMMANDS["cli"], "Linux", "aarch64")


def test_missing_system_libraries_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        if name in ("libEGL.so.1", "libxkbcommon.so.0"):
            raise OSError("cannot open shared object file")

    assert list(run.missing_libraries(run.RENDERING_LIBRARIES, load)) == ["libEGL.so.1"]
    monkeypatch.setattr(run.platform, "system", lambda: "Linux")
    real = run.missing_libraries
    monkeypatch.setattr(run, "missing_libraries", lambda wanted: real(wanted, load))
    assert run.missing_packages("demo") == ["libegl-mesa0", "libegl1", "libgl1-mesa-dri"]
    assert run.missing_packages("test") == ["libegl-mesa0", "libegl1", "libgl1-mesa-dri", "libxkbcommon0"]
    assert run.missing_packages("cli") == []
    with pytest.raises(run.Problem, match=r"apt-get install libegl-mesa0 libegl1 libgl1-mesa-dri$"):
        run.check_rendering("demo")


def test_too_small_a_disk_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    with pytest.raises(run.Problem, match=r"at least 1350 MiB .* 1349 MiB are free"):
        run.check_disk(tmp_path, ["torch", "worker"], lambda folder: 1349)
    run.check_disk(tmp_path, ["torch", "worker"], lambda folder: 1350)


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["segment"]) == 2
    assert "demo, check, test, bench, cli" in capsys.readouterr().err
    assert run.main([]) == 2
    assert run.main(["--help"]) == 0
    assert "python3 run.py demo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "the disk is full",
        ),
        (
            "WARNING: Retrying ... NewConnectionError('Failed to establish a new connection')\n"
            "ERROR: No matching distribution found for torch==2.13.0",
            "cannot be reached",
        ),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "SHA-256 differs"),
        ("ERROR: No matching distribution found for torch==2.13.0", "No matching distribution found"),
    ],
)
def test_a_failure_of_pip_is_explained(output: str, said: str) -> None:
    problem = run.explain_failure(run.LAYERS["torch"], output, Path("install.log"))
    assert said in str(problem)
    assert "Installing PyTorch failed" in str(problem)


def test_pips_output_is_told_in_a_few_lines() -> None:
    assert (
        run.worth_saying("  Downloading vtk-9.6.0-cp311-linux.whl (145.6 MB)")
        == "downloading vtk-9.6.0 (145.6 MB)"
    )
    assert (
        run.worth_saying("Downloading torch-2.13.0-cp311.whl (1.1 GB)") == "downloading torch-2.13.0 (1.1 GB)"
    )
    assert run.worth_saying("  Downloading tqdm-4.70.1-py3-none-any.whl (78 kB)") == ""
    assert run.worth_saying("  Downloading six-1.17.0-py3-none-any.whl (1.1 MB)") == ""
    assert run.worth_saying("Installing collected packages: a, b, c") == "unpacking 3 packages"
    assert "CUDA" in run.worth_saying("  Collecting nvidia-cublas==13.1.1.3 (from torch)")
    assert run.worth_saying("Requirement already satisfied: numpy") == ""


# --- the requirements ---


def requirement_lines(name: str) -> list[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("name", [*run.LAYERS, "constraints"])
def test_every_requirement_is_pinned_and_names_no_index(name: str) -> None:
    lines = requirement_lines(name)
    assert lines
    for line in lines:
        assert "==" in line and "://" not in line and not line.startswith("-"), line


def test_sam2_is_pinned_by_hash_and_never_built_for_cuda() -> None:
    (line,) = requirement_lines("sam2")
    assert line.startswith("sam2==1.1.0 --hash=sha256:") and len(line.rpartition(":")[2]) == 64
    layer = run.LAYERS["sam2"]
    assert set(layer.pip_options) == {"--no-deps", "--no-build-isolation", "--require-hashes"}
    assert dict(layer.environment) == {"SAM2_BUILD_CUDA": "0"}


def test_markers_split_the_versions_of_a_package_without_a_gap() -> None:
    for name in [*run.LAYERS, "constraints"]:
        by_package: dict[str, list[str]] = {}
        for line in requirement_lines(name):
            by_package.setdefault(line.split("==")[0], []).append(line.partition(";")[2].strip())
        for package, markers in by_package.items():
            one = markers == [""]
            two = sorted(markers) == ['python_version < "3.11"', 'python_version >= "3.11"']
            assert one or two, f"{package} in {name}.txt: {markers}"


def test_torch_can_be_chosen_by_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SAM2PROPAGATE_TORCH", raising=False)
    assert run.pip_command(ROOT, run.LAYERS["torch"])[-2:] == ["-r", "torch.txt"]
    before = run.fingerprint(ROOT, run.LAYERS["torch"], "3.11.7")
    other = run.fingerprint(ROOT, run.LAYERS["worker"], "3.11.7")
    wheel = tmp_path / "torch-2.9.0-cp311.whl"
    wheel.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM2PROPAGATE_TORCH", "torch-2.9.0-cp311.whl --pre")
    command = run.pip_command(ROOT, run.LAYERS["torch"])
    assert command[-2:] == [str(wheel.resolve()), "--pre"]
    assert "-r" not in command and any(word.startswith("setuptools==") for word in command)
    assert run.fingerprint(ROOT, run.LAYERS["torch"], "3.11.7") != before
    assert run.fingerprint(ROOT, run.LAYERS["worker"], "3.11.7") == other


@pytest.mark.parametrize(
    ("arguments", "needs_dask"),
    [
        (["cohort", "list.csv"], True),
        (["evaluate", "--cases", "x", "--workers=2"], True),
        (["finetune", "--slurm", "gpu"], True),
        (["evaluate", "--cases", "x"], False),
        (["segment", "cohort"], False),
        ([], False),
    ],
)
def test_dask_comes_with_the_commands_that_use_it(arguments: list[str], needs_dask: bool) -> None:
    assert ("cohort" in run.layers_of("cli", arguments)) == needs_dask
    assert "cohort" in run.layers_of("test", [])


# --- installing, for real ---


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A checkout whose layer `torch` is a wheel of its own, installed once; copies are cheap."""
    root = tmp_path_factory.mktemp("installed") / "check out"
    (root / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "run.py", root)
    for name in [*run.LAYERS, "constraints"]:
        (root / "requirements" / f"{name}.txt").write_text("# nothing\n", encoding="utf-8")
    wheel = write_package(root, "firstpackage")
    (root / "requirements" / "torch.txt").write_text(wheel.as_uri() + "\n", encoding="utf-8")
    saved = {name: os.environ.get(name) for name in ("PIP_NO_INDEX", "SAM2PROPAGATE_TORCH")}
    os.environ["PIP_NO_INDEX"] = "1"
    os.environ.pop("SAM2PROPAGATE_TORCH", None)
    run.prepare(root, ("torch",))
    yield root
    for name, value in saved.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def test_what_is_needed_is_installed_once(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert venv_has(installed, "firstpackage")
    assert run.missing_layers(installed, ("torch",)) == []
    capsys.readouterr()
    run.prepare(installed, ("torch",))
    assert capsys.readouterr().err == ""


def test_a_changed_requirement_is_installed_again_and_the_others_are_not(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.prepare(installed, ("torch", "worker"))
    wheel = write_package(installed, "secondpackage")
    (installed / "requirements" / "worker.txt").write_text(wheel.as_uri() + "\n", encoding="utf-8")
    assert run.missing_layers(installed, ("torch", "worker")) == ["worker"]
    capsys.readouterr()
    run.prepare(installed, ("torch", "worker"))
    told = capsys.readouterr().err
    assert "[1/1] what SAM 2 needs" in told and "PyTorch" not in told
    assert venv_has(installed, "firstpackage") and venv_has(installed, "secondpackage")


def test_a_failed_layer_leaves_what_was_there(installed: Path) -> None:
    (installed / "requirements" / "test.txt").write_text("no-such-package-anywhere==1\n", encoding="utf-8")
    with pytest.raises(run.Problem, match="Installing pytest"):
        run.prepare(installed, ("torch", "test"))
    assert run.missing_layers(installed, ("torch", "test")) == ["test"]
    assert venv_has(installed, "firstpackage")
    assert "no-such-package-anywhere" in (installed / ".venv" / run.LOG_NAME).read_text(encoding="utf-8")
    (installed / "requirements" / "test.txt").write_text("# nothing\n", encoding="utf-8")
    run.prepare(installed, ("torch", "test"))


@pytest.fixture
def pip_is_copied(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment gets a copy of pip, as ensurepip takes four seconds of a core."""
    kept, really_run = tmp_path / "pip", subprocess.run

    def packages() -> Path:
        (found,) = (installed / ".venv").rglob("site-packages")
        return found

    shutil.copytree(packages() / "pip", kept)

    def quick_run(command: list[str], **options: Any) -> Any:
        if command[1:3] != ["-m", "venv"]:
            return really_run(command, **options)
        done = really_run([*command, "--without-pip"], **options)
        shutil.copytree(kept, packages() / "pip")
        return done

    monkeypatch.setattr(subprocess, "run", quick_run)


@pytest.mark.usefixtures("pip_is_copied")
def test_an_interrupted_installation_starts_over(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = installed / ".venv"
    state = run.VenvState.read(folder)
    assert state is not None
    # What a kill in the middle of unpacking leaves: files of a package, and the mark that it was at work.
    state._replace(unfinished="torch").write(folder)
    (folder / "half").write_text("", encoding="utf-8")
    assert run.missing_layers(installed, ("torch",)) == ["torch"]
    run.prepare(installed, ("torch",))
    assert "starting over" in capsys.readouterr().err
    assert not (folder / "half").exists()
    assert venv_has(installed, "firstpackage")


@pytest.mark.usefixtures("pip_is_copied")
def test_a_python_that_went_away_is_replaced(installed: Path) -> None:
    python = run.venv_python(installed / ".venv")
    python.unlink()
    assert run.missing_layers(installed, ("torch",)) == ["torch"]
    run.prepare(installed, ("torch",))
    assert venv_has(installed, "firstpackage")


def test_two_at_once_install_one_after_the_other(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = write_package(installed, "thirdpackage")
    (installed / "requirements" / "slicer.txt").write_text(wheel.as_uri() + "\n", encoding="utf-8")
    calls, running, overlaps = [], threading.Event(), []
    real = run.install_layer

    def slow(root: Path, layer: run.Layer, label: str) -> None:
        overlaps.append(running.is_set())
        running.set()
        calls.append(layer.name)
        assert waits.wait(60), "the other one does not wait"
        real(root, layer, label)
        running.clear()

    def say(line: str) -> None:
        really_say(line)
        if "Another run.py is installing" in line:
            waits.set()

    waits, really_say = threading.Event(), run.say
    monkeypatch.setattr(run, "say", say)
    monkeypatch.setattr(run, "install_layer", slow)
    capsys.readouterr()
    threads = [threading.Thread(target=run.prepare, args=(installed, ("torch", "slicer"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["slicer"] and overlaps == [False]
    assert "Another run.py is installing" in capsys.readouterr().err
    assert venv_has(installed, "thirdpackage")


def test_a_venv_of_somebody_elses_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "precious").write_text("mine", encoding="utf-8")
    with pytest.raises(run.Problem, match=r"was not made by run\.py"):
        run.prepare(checkout, ("torch",))
    assert (checkout / ".venv" / "precious").read_text(encoding="utf-8") == "mine"


def test_a_python_without_venv_says_what_to_install(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(run.Problem, match=r"apt-get install python3\.\d+-venv"):
        run.prepare(checkout, ("torch",))


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="folders cannot be made read-only for this user"
)
def test_a_checkout_that_cannot_be_written_is_told_so(checkout: Path) -> None:
    checkout.chmod(0o555)
    try:
        with pytest.raises(run.Problem, match="cannot be written"):
            run.prepare(checkout, ("torch",))
    finally:
        checkout.chmod(0o755)


def test_the_state_survives_nonsense(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"python": "3.11"}', '{"python": 1, "layers": 2, "unfinished": 3}'):
        (tmp_path / run.STATE_NAME).write_text(text, encoding="utf-8")
        assert run.VenvState.read(tmp_path) is None
    run.VenvState("3.11.7", {"torch": "x"}).write(tmp_path)
    assert run.VenvState.read(tmp_path) == run.VenvState("3.11.7", {"torch": "x"}, "")
    assert json.loads((tmp_path / run.STATE_NAME).read_text(encoding="utf-8"))["layers"] == {"torch": "x"}


# --- running ---


@pytest.fixture
def toy(installed: Path) -> Path:
    """The installed checkout, with commands that tell what they were given."""
    library = installed / "SAM2Propagate" / "SAM2PropagateLib"
    (library / "cli").mkdir(parents=True, exist_ok=True)
    tell = textwrap.dedent(
        """
        import json, os, sys
        here = os.path.realpath(os.getcwd())
        print(json.dumps({"arguments": sys.argv[1:], "cwd": here, "path": sys.path[:1]}))
        sys.exit(int(os.environ.get("TOY_STATUS", "0")))
        """
    )
    (library / "__init__.py").write_text("", encoding="utf-8")
    (library / "cli" / "__init__.py").write_text("", encoding="utf-8")
    (library / "cli" / "__main__.py").write_text(tell, encoding="utf-8")
    (installed / "Demo").mkdir(exist_ok=True)
    (installed / "Demo" / "__main__.py").write_text(tell, encoding="utf-8")
    return installed


def test_the_command_line_keeps_its_arguments_and_the_users_folder(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # A file of the user's with the name of a module must not be taken for it.
    (tmp_path / "json.py").write_text("raise SystemExit(9)", encoding="utf-8")
    given = ["segment", "my ct.nii", "--point-ras", "-1.5", "2", "3", "--out", "a b.nrrd"]
    assert run.run_command(toy, "cli", given) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["arguments"] == given
    assert told["cwd"] == os.path.realpath(tmp_path)


def test_the_demo_runs_in_the_checkout_and_its_status_is_passed_on(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOY_STATUS", "7")
    assert run.run_command(toy, "demo", ["--fast"]) == 7
    told = json.loads(capfd.readouterr().out)
    assert told["arguments"] == ["--fast"]
    assert told["cwd"] == os.path.realpath(toy)


def test_other_pythons_packages_do_not_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET"):
        monkeypatch.setenv(name, "elsewhere")
    environment = run.clean_environment(EXTRA="1")
    assert not {"PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET"} & set(environment)
    assert environment["PYTHONNOUSERSITE"] == "1" and environment["EXTRA"] == "1"


def tool(arguments: list[str]) -> str:
    """The tool that these arguments for Python start."""
    return "importlinter" if arguments[0] == "-c" else " ".join(arguments[1:3]).removesuffix(" .")


CHECKS = ["ruff check", "ruff format", "codespell_lib", "importlinter", "mypy"]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ({}, 0),
        ({"pytest -n": 1}, 1),
        *(({name: 2}, 1) for name in CHECKS),
        ({"ruff check": 1, "pytest -n": 2}, 2),
        ({"pytest -n": 5}, 5),
    ],
)
def test_the_test_command_fails_if_any_check_does(
    statuses: dict[str, int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fake(root: Path, arguments: list[str], cwd: Path | None, **environment: str) -> int:
        calls.append(tool(arguments))
        return statuses.get(calls[-1], 0)

    monkeypatch.setattr(run, "run_in_venv", fake)
    assert run.run_command(ROOT, "test", []) == expected
    # pytest last: its closing line is the last one.
    assert calls == [*CHECKS, "pytest -n"]
    calls.clear()
    assert run.run_command(ROOT, "check", []) == (1 if set(statuses) & set(CHECKS) else 0)
    assert calls == CHECKS
    calls.clear()
    run.run_command(ROOT, "test", ["-k", "geometry"])
    assert calls == ["pytest -k"]


@pytest.mark.parametrize("arguments", [[], ["-k", "geometry"]])
def test_the_test_command_warns_of_texts_in_the_encoding_of_the_locale(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}

    def fake(root: Path, arguments: list[str], cwd: Path | None, **environment: str) -> int:
        given[tool(arguments).partition(" ")[0]] = environment
        return 0

    monkeypatch.setattr(run, "run_in_venv", fake)
    run.run_command(ROOT, "test", arguments)
    assert given["pytest"]["PYTHONWARNDEFAULTENCODING"] == "1"


@pytest.mark.parametrize("module", ["SAM2PropagateLib.files.atomic", "Testing.conftest", "run"])
def test_such_a_text_in_a_module_of_ours_is_an_error(module: str) -> None:
    with pytest.raises(EncodingWarning):
        warnings.warn_explicit("no encoding", EncodingWarning, "module.py", 1, module)
    warnings.warn_explicit("no encoding", EncodingWarning, "module.py", 1, "runpy")


def test_continuous_integration_runs_the_test_command() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n") and "set -eu" in text
    assert text.rstrip().splitlines()[-1] == "exec python3 run.py test"
    assert os.name == "nt" or os.access(script, os.X_OK)
