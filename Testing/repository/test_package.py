"""The wheel: it holds the library and the bundled model, and its script runs without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from SAM2PropagateLib import __version__
from SAM2PropagateLib.gui.install import PACKAGES, SAM2
from SAM2PropagateLib.models.registry import DEFAULT_MODEL, find_model

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "SAM2Propagate" / "SAM2PropagateLib"
MODELS = "SAM2PropagateLib/bundled_models/"


def call(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command without the checkout on Python's path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, env={**kept, **environment}, cwd=cwd, capture_output=True, encoding="utf-8", check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy without a network, as a fresh clone would be."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(LIBRARY, copy / "SAM2Propagate" / "SAM2PropagateLib", ignore=ignored)
    models = Path("SAM2Propagate", "Resources", "Models")
    shutil.copytree(ROOT / models, copy / models)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    done = call([sys.executable, "-m", "pip", "wheel", *options, str(copy)], folder)
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder with what the wheel installs, and the script in its `bin`."""
    folder = wheel.parent / "installed"
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    done = call([sys.executable, "-m", "pip", "install", *options, str(wheel)], wheel.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def run_script(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = installed / "bin" / ("sam2propagate.exe" if os.name == "nt" else "sam2propagate")
    settings = {"PYTHONPATH": str(installed), "SAM2PROPAGATE_CACHE": str(installed.parent / "cache")}
    return call([str(script), *words], installed.parent, **settings)


def test_it_holds_every_file_of_the_library_and_the_model(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    here = {path.relative_to(LIBRARY.parent).as_posix() for path in LIBRARY.rglob("*.py")}
    assert here <= names, "add these packages to [tool.setuptools] in pyproject.toml"
    resource = find_model(DEFAULT_MODEL).resource
    assert resource is not None
    notes = {MODELS + name for name in (resource, "NOTICE.txt", "sam2propagate_tiny.md")}
    assert notes <= names
    others = {name for name in names - here - notes if ".dist-info/" not in name}
    assert not others, "the wheel holds what no one needs"
    assert wheel.name == f"sam2propagate-{__version__}-py3-none-any.whl"
    # The index of packages takes up to 100 MB.
    assert wheel.stat().st_size < 50e6


def test_the_script_runs_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    told = run_script(installed, "--help")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("usage: sam2propagate") and "run.py" not in told.stdout
    volume, out = tmp_path / "ct.nii.gz", tmp_path / "out.seg.nrrd"
    shutil.copy(ROOT / "Resources" / "Sample" / "abdomen_ct.nii.gz", volume)
    words = ["segment", str(volume), "--point-ras", "0", "0", "0", "--out", str(out)]
    refused = run_script(installed, *words, "--model", "sam2.1_hiera_tiny")
    assert refused.returncode == 2
    assert "'sam2propagate models --download sam2.1_hiera_tiny --yes' gets it." in refused.stderr


def test_the_bundled_model_is_found_in_the_wheel(installed: Path) -> None:
    code = "from SAM2PropagateLib.models.store import ModelStore; print(ModelStore().resolve()[0])"
    found = call([sys.executable, "-c", code], installed.parent, PYTHONPATH=str(installed))
    assert Path(found.stdout.strip()).parent == installed / MODELS, found.stderr


def test_it_asks_for_what_the_panel_installs() -> None:
    """Both lists are for one worker; the package needs readers of files, plots and locks besides, and no
    build tools."""
    if sys.version_info < (3, 11):
        pytest.skip("this Python cannot read pyproject.toml; newer ones do")
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = project["dependencies"]
    built_with = ("setuptools", "wheel")
    needed = {one.requirement for one in PACKAGES if one.way != SAM2 and one.module not in built_with}
    assert needed <= set(asked)
    names = {one.replace(">", " ").split()[0] for one in set(asked) - needed}
    assert names == {"numpy", "SimpleITK", "pydicom", "matplotlib", "filelock"}
    [sam2] = [one.requirement for one in PACKAGES if one.way == SAM2]
    assert project["optional-dependencies"]["sam2"] == [sam2.split()[0]]
