"""What may import what: every module of the library in a bare interpreter, with the other side blocked.

Also that importing starts no process, no thread, installs nothing and opens no connection.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "SAM2Propagate"
TORCH = ("torch", "torchvision", "sam2", "hydra", "omegaconf", "iopath")
SLICER = ("slicer", "slicer_core", "vtk", "vtkmodules", "qt", "ctk", "PySide6")

# Imports each module by itself; a refused import or a forbidden event is reported, not raised, so that one
# interpreter does for all. What Python itself does while importing (open, compile) is allowed.
PROBE = r"""
import importlib, json, sys, threading
names, blocked = json.loads(sys.argv[1])
crossed = []

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            crossed.append(name)
            raise ImportError("blocked: " + name)
        return None

FORBIDDEN = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork", "os.spawn",
             "os.startfile", "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request",
             "shutil.", "os.mkdir", "os.remove", "os.rename", "tempfile.")
events = []

def watch(event, arguments):
    if event.startswith(FORBIDDEN):
        events.append(event + " " + repr(arguments)[:120])
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        if "__pycache__" not in str(arguments[0]):
            events.append("open for writing " + str(arguments[0]))

sys.meta_path.insert(0, Guard())
sys.dont_write_bytecode = True
sys.addaudithook(watch)
report = {}
for name in names:
    crossed.clear(); events.clear()
    before = set(threading.enumerate())
    error = ""
    try:
        importlib.import_module(name)
    except BaseException as problem:
        error = f"{type(problem).__name__}: {problem}"
    started = [thread.name for thread in threading.enumerate() if thread not in before]
    report[name] = {"crossed": list(crossed), "error": error, "events": list(events), "threads": started}
print("REPORT" + json.dumps(report))
"""


def modules_of(*parts: str) -> list[str]:
    """Every module of these packages (or modules) of SAM2PropagateLib, by its full name."""
    found = []
    for part in parts:
        base = LIBRARY / "SAM2PropagateLib" / part
        files = sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
        assert files, f"there is no {part}"
        for file in files:
            name = file.relative_to(LIBRARY).with_suffix("").parts
            if name[-1] != "__main__":
                found.append(".".join(name[:-1] if name[-1] == "__init__" else name))
    return found


def probe(names: list[str], blocked: tuple[str, ...]) -> dict[str, dict[str, object]]:
    code = f"import sys; sys.path.insert(0, {str(LIBRARY)!r})\n" + PROBE
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, json.dumps([names, blocked])],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("REPORT")]
    assert lines, done.stderr[-2000:]
    report: dict[str, dict[str, object]] = json.loads(lines[-1].removeprefix("REPORT"))
    return report


def top_level() -> list[str]:
    """The modules that stand beside the packages: the command line and what it is made of."""
    return sorted(
        path.stem for path in (LIBRARY / "SAM2PropagateLib").glob("*.py") if path.stem != "__init__"
    )


def packages() -> set[str]:
    """The packages of the library, and the modules that stand beside them."""
    folder = LIBRARY / "SAM2PropagateLib"
    return {path.parent.name for path in folder.glob("*/__init__.py")} | set(top_level())


# The packages that may import one side; every other one imports neither.
TORCH_SIDE = ("engine", "training")
SLICER_SIDE = ("scene", "gui")
CASES = {
    "without torch": (SLICER_SIDE, TORCH),
    "without slicer": (tuple(package for package in TORCH_SIDE if package in packages()), SLICER),
    "without either": (tuple(sorted(packages() - {*TORCH_SIDE, *SLICER_SIDE})), TORCH + SLICER),
}


@pytest.mark.parametrize("case", CASES)
def test_the_border_holds(case: str) -> None:
    parts, blocked = CASES[case]
    report = probe(modules_of(*parts), blocked)
    crossed = {name: found["crossed"] for name, found in report.items() if found["crossed"]}
    assert not crossed, f"these import what they must not ({case}): {crossed}"
    failed = {name: found["error"] for name, found in report.items() if found["error"]}
    assert not failed, f"these cannot be imported by themselves ({case}): {failed}"
    assert len(report) >= len(parts)


def test_the_parts_that_the_design_names_are_checked() -> None:
    strict = set(CASES["without either"][0])
    assert {"prompts", "frames", "worker", "models", "files", "cli", "errors"} <= strict


def test_importing_starts_installs_and_writes_nothing() -> None:
    report = probe(modules_of(*CASES["without torch"][0], *CASES["without either"][0]), TORCH)
    done = {name: found["events"] for name, found in report.items() if found["events"]}
    assert not done, f"importing these does something: {done}"
    threads = {name: found["threads"] for name, found in report.items() if found["threads"]}
    assert not threads, f"importing these starts threads: {threads}"


def test_the_probe_sees_a_crossed_border(tmp_path: Path) -> None:
    # Otherwise the tests above would pass on anything.
    (tmp_path / "crosses.py").write_text("import torch\n", encoding="utf-8")
    (tmp_path / "hides.py").write_text(
        "try:\n    import vtk\nexcept ImportError:\n    pass\n", encoding="utf-8"
    )
    (tmp_path / "starts.py").write_text(
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', '']).wait()\n", encoding="utf-8"
    )
    (tmp_path / "writes.py").write_text(f"open({str(tmp_path / 'x')!r}, 'w').close()\n", encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + PROBE
    names = ["crosses", "hides", "starts", "writes"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, json.dumps([names, TORCH + SLICER])],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout.rpartition("REPORT")[2])
    assert report["crosses"]["crossed"] == ["torch"] and "blocked" in report["crosses"]["error"]
    assert report["hides"]["crossed"] == ["vtk"]
    assert any("subprocess.Popen" in event for event in report["starts"]["events"])
    assert any("open for writing" in event for event in report["writes"]["events"])


def test_opening_the_module_starts_nothing_and_imports_no_torch() -> None:
    code = r"""
import sys
root = sys.argv[1]
sys.path[:0] = [root, root + "/SAM2Propagate"]
from pathlib import Path
from Testing.headless.boot import boot
boot()
from Testing.headless import qt_standins, slicer_modules
forbidden = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork", "socket.connect",
             "socket.getaddrinfo", "urllib.Request")
events = []
sys.addaudithook(lambda event, found: event.startswith(forbidden) and events.append(event + repr(found)))
with qt_standins.installed(), slicer_modules.installed():
    window = slicer_modules.ModuleWindow(Path(root) / "SAM2Propagate" / "SAM2Propagate.py").open()
    window.exit(); window.enter()
    window.close()
events += [name for name in sys.modules if name.partition(".")[0] in ("torch", "sam2", "hydra", "pip")]
print("EVENTS", events)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "EVENTS []"
