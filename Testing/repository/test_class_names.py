"""A class has a name of its own: no other in the library has it, and none in the folders beside it.

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
BESIDE = ("Demo", "Headless", "Testing", "Tools", "SAM2Propagate/Testing")


def class_names(paths: Iterable[Path]) -> dict[str, list[str]]:
    """The files of the classes by name; a leading underscore makes no other name."""
    found = defaultdict(list)
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].append(path.name)
    return dict(found)


@cache
def of_library() -> dict[str, list[str]]:
    return class_names([MODULE / "SAM2Propagate.py", *sorted((MODULE / "SAM2PropagateLib").rglob("*.py"))])


def test_no_two_classes_of_the_library_have_one_name():
    found = of_library()
    assert len(found) > 200
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_no_class_beside_the_library_has_the_name_of_one_in_it():
    paths = [path for folder in BESIDE for path in sorted((ROOT / folder).rglob("*.py"))]
    library, beside = of_library(), class_names(paths)
    assert len(beside) > 100
    assert {name: beside[name] + library[name] for name in beside.keys() & library.keys()} == {}


def test_names_are_found_with_an_underscore_and_within_functions(tmp_path):
    path = tmp_path / "some.py"
    path.write_text("class Look: ...\n\ndef make():\n    class _Look: ...\n", encoding="utf-8")
    assert class_names([path]) == {"Look": ["some.py", "some.py"]}
