"""A class has a name of its own: no other of the library, run.py or the demo has it, nor any beside them.

A test, as ruff looks at one file at a time.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "SAM2Propagate"
BESIDE = ("Headless", "Testing", "Tools", "SAM2Propagate/Testing")


def class_names(paths: Iterable[Path]) -> dict[str, list[str]]:
    """The files of the classes by name; a leading underscore makes no other name."""
    found = defaultdict(list)
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].append(path.name)
    return dict(found)


@cache
def of_programs() -> dict[str, list[str]]:
    """Those of the library, run.py and the demo."""
    paths = [MODULE / "SAM2Propagate.py", *sorted((MODULE / "SAM2PropagateLib").rglob("*.py"))]
    return class_names([*paths, ROOT / "run.py", *sorted((ROOT / "Demo").rglob("*.py"))])


def test_no_two_classes_of_the_programs_have_one_name():
    found = of_programs()
    assert "Controller" in found and "VenvState" in found and "DemoDesk" in found
    assert len(found) > 200
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_no_class_beside_the_programs_has_the_name_of_one_in_them():
    paths = [path for folder in BESIDE for path in sorted((ROOT / folder).rglob("*.py"))]
    programs, beside = of_programs(), class_names(paths)
    assert len(beside) > 100
    assert {name: beside[name] + programs[name] for name in beside.keys() & programs.keys()} == {}


def test_names_are_found_with_an_underscore_and_within_functions(tmp_path):
    path = tmp_path / "some.py"
    path.write_text("class Look: ...\n\ndef make():\n    class _Look: ...\n", encoding="utf-8")
    assert class_names([path]) == {"Look": ["some.py", "some.py"]}
