"""Write the lists of Python files and resources in SAM2Propagate/CMakeLists.txt, from the files there.

    python Tools/update_cmake_lists.py

Slicer installs what is listed and nothing else: a file that is missing there works in a checkout and is
missing in the installed extension. A test compares the lists with the files.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MODULE = Path(__file__).resolve().parents[1] / "SAM2Propagate"
LISTS = ("MODULE_PYTHON_SCRIPTS", "MODULE_PYTHON_RESOURCES")


def files_there(module: Path = MODULE) -> dict[str, list[str]]:
    """Return the lists as they should be: names relative to the module's folder, sorted."""
    library = sorted(
        path.relative_to(module).as_posix()
        for path in (module / "SAM2PropagateLib").rglob("*")
        if path.is_file() and not _is_left_over(path.relative_to(module))
    )
    scripts = [name for name in library if name.endswith(".py")]
    resources = sorted(
        path.relative_to(module).as_posix()
        for path in (module / "Resources").rglob("*")
        if path.is_file() and not _is_left_over(path.relative_to(module))
    )
    others = [name for name in library if not name.endswith(".py")]
    return {LISTS[0]: ["${MODULE_NAME}.py", *scripts], LISTS[1]: [*resources, *others]}


def _is_left_over(path: Path) -> bool:
    """Tell whether a program left it: compiled files, caches."""
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def files_listed(text: str) -> dict[str, list[str]]:
    """Return the lists as a CMakeLists.txt has them."""
    found = {}
    for name in LISTS:
        match = re.search(rf"set\({name}\s*(.*?)\)", text, flags=re.S)
        if match is None:
            raise ValueError(f"SAM2Propagate/CMakeLists.txt does not set {name}")
        found[name] = match.group(1).split()
    return found


def updated(text: str, lists: dict[str, list[str]]) -> str:
    """Return the CMakeLists.txt with these lists."""
    for name, files in lists.items():
        lines = "\n".join(f"  {file}" for file in files)
        text = re.sub(
            rf"set\({name}\s*.*?\)", lambda _, n=name, k=lines: f"set({n}\n{k}\n  )", text, flags=re.S
        )
    return text


def strays(text: str) -> list[str]:
    """Return the lines of a CMake file that belong to no command and to no comment."""
    # Whichever begins first: a comment may hold quotes, and a text the sign of a comment.
    code = re.sub(r'"(?:[^"\\]|\\.)*"|#.*', "", text)
    # From the inside out, as conditions hold parentheses too.
    innermost = re.compile(r"(?:^[ \t]*\w+[ \t]*)?\([^()]*\)", flags=re.M)
    while (rest := innermost.sub("", code)) != code:
        code = rest
    return [line.strip() for line in code.splitlines() if line.strip()]


def main() -> int:
    path = MODULE / "CMakeLists.txt"
    before = path.read_text(encoding="utf-8")
    after = updated(before, files_there())
    if left := strays(after):
        print("SAM2Propagate/CMakeLists.txt has lines outside of any command. Remove them:", *left)
        return 1
    path.write_text(after, encoding="utf-8")
    print("SAM2Propagate/CMakeLists.txt " + ("is as it was" if after == before else "is updated"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
