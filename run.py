#!/usr/bin/env python3
"""Set up SAM2Propagate in this checkout and run it, without 3D Slicer.

    python3 run.py demo                 segment the CT that ships with the project, write demo-output/
    python3 run.py check                style, spelling, borders and types
    python3 run.py test [PYTEST ...]    the same, then the whole test suite
    python3 run.py bench [...]          measure accuracy and speed, write bench-output/
    python3 run.py cli [...]            the command line: python3 run.py cli --help

Needs Python 3.10 to 3.13 and nothing else. The first run makes .venv beside this file and installs pinned
packages into it; the next ones start at once. Remove .venv to start over.
"""

# Only the standard library, and only syntax that an older Python can still read: it has to reach the sentence
# that says which Python is needed. That is why some annotations below are strings.
import contextlib
import ctypes
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple  # noqa: UP035

ROOT = Path(__file__).resolve().parent
OLDEST, NEWEST = (3, 10), (3, 13)
STATE_NAME = "sam2propagate.json"
LOCK_NAME = "sam2propagate.lock"
LOG_NAME = "sam2propagate-install.log"
MIB = 1024 * 1024


class Problem(Exception):  # noqa: N818
    """Something the user has to know or do; its text is one or two sentences."""


class Layer(NamedTuple):
    """One step of the installation: a file of requirements/ and how pip is to read it."""

    name: str
    title: str
    disk_mib: int
    pip_options: "tuple[str, ...]" = ("-c", "constraints.txt")
    environment: "tuple[tuple[str, str], ...]" = ()


LAYERS = {
    layer.name: layer
    for layer in (
        Layer("torch", "PyTorch", 900),
        # A source package among them is built with the setuptools that came with the first layer.
        Layer(
            "worker",
            "what SAM 2 needs, volumes and arrays",
            450,
            ("-c", "constraints.txt", "--no-build-isolation"),
        ),
        Layer(
            "sam2",
            "SAM 2, checked by its hash",
            20,
            ("--no-deps", "--no-build-isolation", "--require-hashes"),
            (("SAM2_BUILD_CUDA", "0"),),
        ),
        Layer("slicer", "Slicer's scene and views", 900),
        Layer("test", "pytest, hypothesis, Qt, and what checks style, spelling, borders and types", 500),
        Layer("cohort", "Dask, which shares volumes out", 60),
    )
}
COMMANDS = {
    "demo": ("torch", "worker", "sam2", "slicer"),
    "check": ("torch", "worker", "sam2", "slicer", "test"),
    "test": ("torch", "worker", "sam2", "slicer", "test", "cohort"),
    "bench": ("torch", "worker", "sam2", "slicer", "test"),
    "cli": ("torch", "worker", "sam2"),
}
# The commands of `cli` that need Dask: always, or with one of these options.
COHORT_COMMANDS = ("cohort",)
SHARING_COMMANDS = ("evaluate", "finetune")
SHARING_OPTIONS = ("--workers", "--scheduler", "--slurm")
# What `check` runs: the name that a fault is reported under, and the arguments for Python.
CHECKS = (
    ("ruff", ("-m", "ruff", "check", ".")),
    ("ruff format", ("-m", "ruff", "format", "--check", ".")),
    ("codespell", ("-m", "codespell_lib", ".")),
    (
        "import-linter",
        ("-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-logo"),
    ),
    ("mypy", ("-m", "mypy")),
)
# On Linux: the library, and the Debian packages that hold it. VTK crashes, without a word, where one of the
# first two is missing; Qt does not load without those of the second table.
RENDERING_LIBRARIES = {
    "libEGL.so.1": ("libegl1", "libegl-mesa0", "libgl1-mesa-dri"),
    "libX11.so.6": ("libx11-6",),
    "libXcursor.so.1": ("libxcursor1",),
}
QT_LIBRARIES = {
    "libGL.so.1": ("libgl1",),
    "libxkbcommon.so.0": ("libxkbcommon0",),
    "libdbus-1.so.3": ("libdbus-1-3",),
    "libfontconfig.so.1": ("libfontconfig1",),
    "libglib-2.0.so.0": ("libglib2.0-0",),
}


def say(line: str) -> None:
    """One line about the set-up; on stderr, so that a command's own output stays clean."""
    print(line, file=sys.stderr, flush=True)


def layers_of(command: str, arguments: "list[str]") -> "tuple[str, ...]":
    """Return the layers that a command needs with these arguments."""
    if command != "cli" or not arguments:
        return COMMANDS[command]
    shares = any(word.split("=")[0] in SHARING_OPTIONS for word in arguments)
    if arguments[0] in COHORT_COMMANDS or (arguments[0] in SHARING_COMMANDS and shares):
        return (*COMMANDS[command], "cohort")
    return COMMANDS[command]


# --- what must be true before anything is installed ---------------------------------------------------------


def check_python(version: "tuple[int, int]", implementation: str, is_64_bit: bool) -> None:
    """Raise Problem unless this Python can run the project."""
    wanted = "SAM2Propagate needs 64-bit CPython {}.{} to {}.{}".format(*OLDEST, *NEWEST)
    if implementation == "cpython" and is_64_bit and OLDEST <= version <= NEWEST:
        return
    here = f"this is {implementation} {version[0]}.{version[1]}" + ("" if is_64_bit else ", 32-bit")
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        if shutil.which(f"python3.{minor}"):
            raise Problem(f"{wanted}; {here}. Use the one you have: python3.{minor} run.py ...")
    raise Problem(f"{wanted}; {here}. Install one of these and run it with that.")


def check_platform(layers: "tuple[str, ...]", system: str, machine: str) -> None:
    """Raise Problem where a package that a command needs is not published for this kind of computer."""
    machine = {"amd64": "x86_64", "aarch64": "arm64"}.get(machine.lower(), machine.lower())
    if system == "Darwin" and machine == "x86_64":
        raise Problem(
            "PyTorch is no longer published for Macs with an Intel processor: this cannot run here."
        )
    published = (("Linux", "x86_64"), ("Windows", "x86_64"), ("Darwin", "arm64"))
    if "slicer" in layers and (system, machine) not in published:
        raise Problem(
            f"Slicer's scene and views are not published for {system} on {machine}, so demo, test and bench "
            "cannot run here. The command line may: python3 run.py cli --help"
        )


def missing_libraries(
    wanted: "dict[str, tuple[str, ...]]", load: "Callable[[str], Any]" = ctypes.CDLL
) -> "dict[str, tuple[str, ...]]":
    """Those of the wanted shared libraries that cannot be loaded, with the packages that hold them."""
    missing = {}
    for library, packages in wanted.items():
        try:
            load(library)
        except OSError:
            missing[library] = packages
    return missing


def missing_packages(command: str = "test") -> "list[str]":
    """Return the Debian packages to install before `command` can draw pictures here; often none."""
    if platform.system() != "Linux" or command in ("cli", "check"):
        return []
    wanted = dict(RENDERING_LIBRARIES, **(QT_LIBRARIES if command in ("test", "bench") else {}))
    missing = missing_libraries(wanted)
    return sorted({package for packages in missing.values() for package in packages})


def check_rendering(command: str) -> None:
    """Raise Problem on a Linux machine that lacks the libraries for drawing without a screen."""
    packages = missing_packages(command)
    if packages:
        raise Problem(
            "Drawing without a screen needs system libraries that are missing here. "
            "On Debian and Ubuntu: apt-get install " + " ".join(packages)
        )


# --- the state of .venv -------------------------------------------------------------------------------------


class VenvState(NamedTuple):
    """What run.py knows of its .venv, kept in a file there."""

    python: str
    layers: "dict[str, str]"
    unfinished: str = ""

    @classmethod
    def read(cls, folder: Path) -> "VenvState | None":
        """Return the state in `folder`, or None where there is none that can be read."""
        try:
            values = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
            return cls(str(values["python"]), dict(values["layers"]), str(values["unfinished"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Write the state so that an interruption leaves the old file or the new one, whole."""
        temporary = folder / (STATE_NAME + ".part")
        temporary.write_text(json.dumps(self._asdict(), indent=1), encoding="utf-8")
        temporary.replace(folder / STATE_NAME)


def venv_python(folder: Path) -> Path:
    """Return the Python of the virtual environment in `folder`."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def torch_override() -> "list[str]":
    """Return what to give pip in place of the pinned torch: SAM2PROPAGATE_TORCH, split as a shell would."""
    return shlex.split(os.environ.get("SAM2PROPAGATE_TORCH", ""))


def fingerprint(root: Path, layer: Layer, python: str) -> str:
    """Return a hash of what a layer's installation depends on: it is installed again when that changes."""
    digest = hashlib.sha256()
    for name in (layer.name + ".txt", "constraints.txt"):
        digest.update((root / "requirements" / name).read_bytes().replace(b"\r\n", b"\n"))
    override = torch_override() if layer.name == "torch" else []
    digest.update(repr((layer.pip_options, layer.environment, python, platform.machine(), override)).encode())
    return digest.hexdigest()


def missing_layers(root: Path, names: "tuple[str, ...]") -> "list[str]":
    """Return the layers of `names` that are not installed as their files say, in order."""
    folder = root / ".venv"
    state = VenvState.read(folder)
    if state is None or state.unfinished or not venv_python(folder).exists():
        return list(names)
    return [name for name in names if state.layers.get(name) != fingerprint(root, LAYERS[name], state.python)]


@contextlib.contextmanager
def locked(folder: Path) -> "Iterator[None]":
    """Hold the folder's lock: of two run.py at once, one installs, one waits. A crash releases it."""
    with (folder / LOCK_NAME).open("a+", encoding="utf-8") as handle:
        if not _try_lock(handle):
            say("Another run.py is installing into .venv; waiting for it.")
            while not _try_lock(handle):
                time.sleep(0.3)
        yield


def _try_lock(handle: "Any") -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    return True


# --- installing ---------------------------------------------------------------------------------------------


def clean_environment(**changes: str) -> "dict[str, str]":
    """Return the environment for a process of .venv, without what leads to other Pythons' packages."""
    unwanted = {"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP"}
    unwanted |= {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_HASHES"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return dict(kept, PYTHONNOUSERSITE="1", PYTHONUTF8="1", **changes)


def folder_mib(folder: Path) -> int:
    """Return the size of everything in a folder, in MiB."""
    total = 0
    for path, _, names in os.walk(str(folder)):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118  # tens of thousands of files
    return total // MIB


def check_disk(folder: Path, names: "list[str]", free_mib: "Callable[[Path], int] | None" = None) -> None:
    """Raise Problem unless the disk has room for the layers, at their smallest."""
    free = free_mib(folder) if free_mib else shutil.disk_usage(str(folder)).free // MIB
    needed = sum(LAYERS[name].disk_mib for name in names)
    if free < needed:
        raise Problem(
            f"The installation needs at least {needed} MiB in {folder}, and {free} MiB are free there. "
            "Make room, or move this checkout to another disk."
        )


def make_venv(folder: Path) -> None:
    """Make an empty virtual environment in `folder`, in place of what is there.

    Raises Problem if this Python cannot.
    """
    for entry in folder.iterdir():
        if entry.name in (LOCK_NAME, STATE_NAME):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(str(entry))
        else:
            entry.unlink()
    package = "python{}.{}-venv".format(*sys.version_info[:2])
    no_pip = (
        "This Python comes without what makes virtual environments. On Debian and Ubuntu: "
        f"apt-get install {package}; elsewhere install a Python that has venv and pip."
    )
    # Debian's Python has the module venv but not always ensurepip, which it needs.
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise Problem(no_pip) from None
    done = subprocess.run(
        [sys.executable, "-m", "venv", str(folder)],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        text = done.stdout.decode("utf-8", "replace").strip()
        if "ensurepip" in text:
            raise Problem(no_pip)
        raise Problem(f"Python could not make a virtual environment in {folder}: {text[-600:]}")


def pip_command(root: Path, layer: Layer) -> "list[str]":
    """Return the pip call that installs a layer; relative names in it start at the folder requirements/."""
    command = [str(venv_python(root / ".venv")), "-m", "pip", "install"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", *layer.pip_options]
    override = torch_override() if layer.name == "torch" else []
    if not override:
        return [*command, "-r", layer.name + ".txt"]
    lines = (root / "requirements" / "torch.txt").read_text(encoding="utf-8").splitlines()
    others = [line.strip() for line in lines if line.strip() and not line.startswith(("#", "torch=="))]
    # A path is meant from where the user is, pip runs in requirements/.
    replacement = [str(Path(word).resolve()) if Path(word).is_file() else word for word in override]
    return [*command, *others, *replacement]


def explain_failure(layer: Layer, output: str, log: Path) -> Problem:
    """Return what a failed pip run means for the user."""
    title = f"Installing {layer.title} failed: "
    if re.search(r"No space left on device|Errno 28|not enough space on the disk", output):
        return Problem(title + "the disk is full. Make room and run this again.")
    if "DO NOT MATCH THE HASHES" in output:
        return Problem(
            title + "a downloaded package is not the one that was checked (its SHA-256 differs), so it was "
            "not installed. Run this again; if it happens again, do not trust that package index. "
            f"Log: {log}"
        )
    unreachable = (
        r"NewConnectionError|Failed to establish a new connection|Temporary failure in name resolution"
        r"|getaddrinfo failed|ReadTimeoutError|ConnectTimeoutError|ProxyError|Network is unreachable"
        r"|Connection refused"
    )
    if re.search(unreachable, output):
        return Problem(
            title + "the package index cannot be reached. Check the network (and the proxy or index that "
            "pip is configured with) and run this again; what is installed stays."
        )
    last = [line for line in output.splitlines() if line.strip()][-6:]
    return Problem(title + "\n  " + "\n  ".join(last) + f"\nThe whole log: {log}")


def install_layer(root: Path, layer: Layer, label: str) -> None:
    """Install one layer with pip, telling about it line by line. Raises Problem if pip fails."""
    folder = root / ".venv"
    log = folder / LOG_NAME
    state = VenvState.read(folder)
    assert state is not None
    say(f"{label} {layer.title}")
    started, before = time.monotonic(), folder_mib(folder)
    state._replace(unfinished=layer.name).write(folder)
    process = subprocess.Popen(
        pip_command(root, layer),
        cwd=str(root / "requirements"),
        env=clean_environment(**dict(layer.environment)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines = []
    assert process.stdout is not None
    try:
        with log.open("a", encoding="utf-8") as handle:
            for raw in process.stdout:
                line = raw.decode("utf-8", "replace").rstrip()
                lines.append(line)
                handle.write(line + "\n")
                news = worth_saying(line)
                if news:
                    say("      " + news)
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    output = "\n".join(lines)
    if status != 0:
        if "Installing collected packages" not in output:
            # Nothing was unpacked, so the environment is as whole as it was.
            state.write(folder)
        raise explain_failure(layer, output, log)
    layers = dict(state.layers, **{layer.name: fingerprint(root, layer, state.python)})
    VenvState(state.python, layers).write(folder)
    say(f"      done in {time.monotonic() - started:.0f} s, {max(0, folder_mib(folder) - before)} MiB")


def worth_saying(line: str) -> str:
    """Return the part of a line of pip's output that the user wants to see, or nothing."""
    match = re.match(r"\s*Downloading (?:\S*/)?([^\s/]+) \(([\d.]+) ([kMG]B)\)", line)
    if match and (match.group(3) == "GB" or (match.group(3) == "MB" and float(match.group(2)) >= 5)):
        name = "-".join(match.group(1).split("-")[:2])
        return f"downloading {name} ({match.group(2)} {match.group(3)})"
    if re.match(r"\s*Collecting nvidia-cublas", line):
        return "brings CUDA along: up to 3 GB to download, 7 GB on disk (see requirements/README.md)"
    match = re.match(r"Installing collected packages: (.*)", line)
    if match:
        count = len(match.group(1).split(","))
        return "unpacking {} package{}".format(count, "" if count == 1 else "s")
    return ""


def prepare(root: Path, names: "tuple[str, ...]") -> None:
    """See to it that .venv has the layers: does nothing, at once, where it has.

    Raises Problem with what stands in the way.
    """
    if not missing_layers(root, names):
        return
    folder = root / ".venv"
    try:
        folder.mkdir(exist_ok=True)
        with locked(folder):
            _prepare_locked(root, folder, names)
    except PermissionError as error:
        raise Problem(
            f"{error.filename} cannot be written. Move this checkout to a folder of yours."
        ) from None
    except OSError as error:
        if error.errno == 28:
            raise Problem(f"The disk that holds {folder} is full. Make room and run this again.") from None
        raise


def _prepare_locked(root: Path, folder: Path, names: "tuple[str, ...]") -> None:
    missing = missing_layers(root, names)
    if not missing:
        return
    state = VenvState.read(folder)
    ours = (LOCK_NAME, STATE_NAME, STATE_NAME + ".part")
    if state is None and any(entry.name not in ours for entry in folder.iterdir()):
        raise Problem(f"{folder} was not made by run.py. Rename or remove it, then run this again.")
    started = time.monotonic()
    fresh = state is None or bool(state.unfinished) or not venv_python(folder).exists()
    say(f"Installing into {folder} (once; the next run starts at once).")
    check_disk(folder, missing)
    if fresh:
        if state is not None:
            say("An earlier installation was not finished: starting over.")
        version = "{}.{}.{}".format(*sys.version_info[:3])
        state = VenvState(version, {}, "venv")
        state.write(folder)
        say(f"[0/{len(missing)}] a virtual environment with Python {version}")
        make_venv(folder)
        state._replace(unfinished="").write(folder)
    for number, name in enumerate(missing, 1):
        install_layer(root, LAYERS[name], f"[{number}/{len(missing)}]")
    say(f"Installed in {time.monotonic() - started:.0f} s; .venv has {folder_mib(folder)} MiB.")


# --- running ------------------------------------------------------------------------------------------------


def run_in_venv(root: Path, arguments: "list[str]", cwd: "Path | None", **environment: str) -> int:
    """Run the environment's Python with the library on its path; its exit status."""
    paths = os.pathsep.join([str(root / "SAM2Propagate"), str(root)])
    process = subprocess.Popen(
        [str(venv_python(root / ".venv")), *arguments],
        cwd=str(cwd) if cwd else None,
        env=clean_environment(PYTHONPATH=paths, **environment),
    )
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The child has had the same Ctrl-C and ends in its own way.
            continue


def run_checks(root: Path) -> int:
    """Run every check, and name those that found faults; 1 if any did."""
    failed = [name for name, call in CHECKS if run_in_venv(root, list(call), root) != 0]
    if failed:
        say("{} found faults (above).".format(" and ".join(failed)))
    return 1 if failed else 0


def run_tests(root: Path, arguments: "list[str]") -> int:
    """Run the checks and the tests; the closing line of pytest comes last.

    With arguments for pytest: only that. Without, the tests run in one process more than there are cores, as
    some always wait for processes of their own; four at most: each takes a gigabyte.
    """
    # Python then warns of texts in the locale's encoding, which pyproject.toml makes errors.
    kept = {"PYTHONWARNDEFAULTENCODING": "1"}
    if arguments:
        return run_in_venv(root, ["-m", "pytest", *arguments], root, **kept)
    failed = run_checks(root)
    if failed:
        say("This run fails, whatever the tests say.")
    processes = str(min(4, 1 + (os.cpu_count() or 1)))
    options = ["-n", processes, "--dist", "worksteal", "--durations", "10"]
    # One thread each, as they share the cores. Tests start many processes of the same, compiled files.
    kept.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="")
    return run_in_venv(root, ["-m", "pytest", *options], root, **kept) or failed


def run_command(root: Path, command: str, arguments: "list[str]") -> int:
    """Run one of COMMANDS in the environment; its exit status."""
    if command == "check":
        return run_checks(root)
    if command == "test":
        return run_tests(root, arguments)
    if command == "cli":
        # The user's folder stays, so that relative paths mean what they say; its files must not be taken for
        # modules, which `-m` would do.
        start = "import sys; del sys.path[0]; import runpy; runpy.run_module({!r}, None, '__main__', True)"
        return run_in_venv(root, ["-c", start.format("SAM2PropagateLib.cli"), *arguments], None)
    module = {"demo": "Demo", "bench": "Testing.benchmarks"}[command]
    return run_in_venv(root, ["-m", module, *arguments], root)


def main(arguments: "list[str]") -> int:
    """Do what the command line says; the exit status."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        say("There is no command '{}'; there are: {}.".format(command, ", ".join(COMMANDS)))
        return 2
    try:
        check_python(sys.version_info[:2], sys.implementation.name, sys.maxsize > 2**32)
        layers = layers_of(command, rest)
        check_platform(layers, platform.system(), platform.machine())
        check_rendering(command)
        prepare(ROOT, layers)
    except Problem as problem:
        say(f"run.py: {problem}")
        return 1
    except KeyboardInterrupt:
        say("run.py: interrupted; run it again to go on.")
        return 130
    return run_command(ROOT, command, rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
