"""The CMake files say what is there, and what Slicer's extension index asks for."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Tools"))

from update_cmake_lists import LISTS, files_listed, files_there, strays, updated  # noqa: E402

MODULE_LISTS = ROOT / "SAM2Propagate" / "CMakeLists.txt"
EXTENSION = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LISTS)
def test_the_list_is_the_tree(name: str) -> None:
    listed = files_listed(MODULE_LISTS.read_text(encoding="utf-8"))[name]
    there = files_there()[name]
    missing = [f"add the line '  {file}' to {name}" for file in there if file not in listed]
    gone = [
        f"take the line '  {file}' out of {name}: there is no such file"
        for file in listed
        if file not in there
    ]
    twice = [f"{file} is in {name} twice" for file in set(listed) if listed.count(file) > 1]
    advice = "in SAM2Propagate/CMakeLists.txt, or run: python Tools/update_cmake_lists.py"
    assert not (missing + gone + twice), "\n".join(["", *missing, *gone, *twice, advice])


def test_a_file_that_git_has_is_listed() -> None:
    done = subprocess.run(
        ["git", "ls-files", "SAM2Propagate/SAM2PropagateLib", "SAM2Propagate/Resources"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("this is no git checkout")
    tracked = {name.removeprefix("SAM2Propagate/") for name in done.stdout.split("\n") if name}
    tracked = {name for name in tracked if (ROOT / "SAM2Propagate" / name).exists()}
    lists = files_listed(MODULE_LISTS.read_text(encoding="utf-8"))
    assert tracked - {file for files in lists.values() for file in files} == set()


def test_the_tool_repairs_the_lists(tmp_path: Path) -> None:
    text = MODULE_LISTS.read_text(encoding="utf-8")
    broken = text.replace("  SAM2PropagateLib/errors.py\n", "  SAM2PropagateLib/gone.py\n")
    assert broken != text
    assert files_listed(broken) != files_there()
    repaired = updated(broken, files_there())
    assert files_listed(repaired) == files_there()
    assert repaired.count("slicerMacroBuildScriptedModule") == 1


@pytest.mark.parametrize(
    "path",
    [ROOT / "CMakeLists.txt", *sorted((ROOT / "SAM2Propagate").glob("**/CMakeLists.txt"))],
    ids=lambda path: path.parent.name,
)
def test_every_line_belongs_to_a_command(path: Path) -> None:
    """A merge left half a list behind once, which CMake does not read."""
    assert strays(path.read_text(encoding="utf-8")) == []


def test_half_a_list_is_noticed() -> None:
    text = MODULE_LISTS.read_text(encoding="utf-8")
    lines = "  Resources/Icons/Dark/lock.svg\n  )\n"
    assert strays(text.replace("  )\n", "  )\n" + lines, 1)) == ["Resources/Icons/Dark/lock.svg", ")"]
    assert strays('if(NOT (A AND B))\n  set(a "(") # one )\nendif()\n') == []
    assert strays("set(a\n  b\n") != []


def setting(name: str) -> str:
    match = re.search(rf'set\({name}\s+"([^"]*)"\)', EXTENSION)
    assert match is not None, f"CMakeLists.txt does not set {name}"
    return match.group(1)


def test_the_extension_says_what_the_index_asks_for() -> None:
    assert re.search(r"project\(SAM2Propagate\)", EXTENSION)
    assert setting("EXTENSION_CATEGORY") == "Segmentation"
    assert setting("EXTENSION_DEPENDS") == "PyTorch"
    assert setting("EXTENSION_CONTRIBUTORS")
    assert setting("EXTENSION_HOMEPAGE").startswith("https://")
    description = setting("EXTENSION_DESCRIPTION")
    assert 40 < len(description) < 400
    for command in (
        "find_package(Slicer REQUIRED)",
        "include(${Slicer_USE_FILE})",
        "add_subdirectory(SAM2Propagate)",
    ):
        assert command in EXTENSION
    ends = EXTENSION.rstrip().splitlines()[-2:]
    assert ends == ["include(${Slicer_EXTENSION_GENERATE_CONFIG})", "include(${Slicer_EXTENSION_CPACK})"]


@pytest.mark.parametrize("name", ["EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"])
def test_its_pictures_are_in_the_repository(name: str) -> None:
    for url in setting(name).split():
        match = re.fullmatch(r"https://raw\.githubusercontent\.com/\w+/SlicerSAM2Propagate/main/(.*)", url)
        assert match is not None, url
        assert (ROOT / match.group(1)).is_file(), f"{match.group(1)} is missing: run python3 run.py demo"


def test_the_icon_is_128_pixels_square() -> None:
    data = (ROOT / "SAM2Propagate" / "Resources" / "Icons" / "SAM2Propagate.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (128, 128)


def test_the_module_is_built_installed_and_tested() -> None:
    text = MODULE_LISTS.read_text(encoding="utf-8")
    assert "WITH_GENERIC_TESTS" in text
    assert "slicer_add_python_unittest(SCRIPT ${MODULE_NAME}.py)" in text
    assert "add_subdirectory(Testing)" in text
    scripts = (ROOT / "SAM2Propagate" / "Testing" / "Python" / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = set(re.findall(r"slicer_add_python_unittest\(SCRIPT (\S+)\)", scripts))
    assert listed == {path.name for path in (ROOT / "SAM2Propagate" / "Testing" / "Python").glob("*.py")}


def test_the_license_is_there_under_both_names() -> None:
    text = (ROOT / "LICENSE").read_bytes()
    assert text == (ROOT / "LICENSE.txt").read_bytes()
    assert b"Apache License" in text and b"Version 2.0, January 2004" in text
