"""What happens when the library is imported: no torch, no process, no thread, no connection, no file.

Who may import whom is in the contracts in pyproject.toml. Those do not see when an import runs: the worker
and the command line may import the engine, but not before they need it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "SAM2Propagate"
TORCH = ("torch", "torchvision", "sam2", "hydra", "omegaconf", "iopath")
TORCH_SIDE = ("engine", "training")


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


def modules() -> list[str]:
    """Every module of the library that Slicer's process may import, by its full name."""
    found = []
    for file in sorted((LIBRARY / "SAM2PropagateLib").rglob("*.py")):
        name = file.relative_to(LIBRARY).with_suffix("").parts
        if name[1] not in TORCH_SIDE and name[-1] != "__main__":
            found.append(".".join(name[:-1] if name[-1] == "__init__" else name))
    return found


def probe(names: list[str], blocked: tuple[str, ...]) -> dict[str, dict[str, object]]:
    code = f"import sys; sys.path.insert(0, {str(LIBRARY)!r})\n" + PROBE
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, json.dumps([names, blocked])],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("REPORT")]
    assert lines, done.stderr[-2000:]
    report: dict[str, dict[str, object]] = json.loads(lines[-1].removeprefix("REPORT"))
    return report


def test_importing_needs_no_torch_and_does_nothing() -> None:
    report = probe(modules(), TORCH)
    assert {"SAM2PropagateLib.cli", "SAM2PropagateLib.worker.client"} <= set(report)
    wrong = {name: found for name, found in report.items() if any(found.values())}
    assert not wrong, f"importing these asks for torch, fails or does something: {wrong}"


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
        [sys.executable, "-I", "-c", code, json.dumps([names, [*TORCH, "vtk"]])],
        capture_output=True,
        encoding="utf-8",
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
from Headless.boot import boot
boot()
from Headless import qt_standins, slicer_modules
forbidden = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork", "socket.connect",
             "socket.getaddrinfo", "urllib.Request")
events = []
sys.addaudithook(lambda event, found: event.startswith(forbidden) and events.append(event + repr(found)))
with qt_standins.installed(), slicer_modules.installed():
    module = slicer_modules.ModuleInSlicer(Path(root) / "SAM2Propagate" / "SAM2Propagate.py").open()
    module.exit(); module.enter()
    module.close()
events += [name for name in sys.modules if name.partition(".")[0] in ("torch", "sam2", "hydra", "pip")]
print("EVENTS", events)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "EVENTS []"


def test_the_command_line_starts_without_what_only_its_work_needs() -> None:
    """They take longer to import than all of ours."""
    code = "import sys, SAM2PropagateLib.cli.main; print({name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, cwd=LIBRARY
    )
    assert "SimpleITK" in done.stdout
    assert not [name for name in (*TORCH, "scipy", "pydicom", "cv2", "PIL") if f"'{name}'" in done.stdout]
