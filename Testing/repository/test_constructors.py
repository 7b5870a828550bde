"""A constructor takes at most five collaborators: with more, a class does more than one thing.

Plain values of one thing are one frozen dataclass, whose fields are not counted.

A test, as ruff's rules for arguments (PLR0913, PLR0917) count those of every function.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "SAM2Propagate" / "SAM2PropagateLib"
FOLDERS = [".", *sorted(one.parent.name for one in LIBRARY.glob("*/__init__.py"))]
MOST = 5


def arguments(code: str) -> dict[str, list[str]]:
    """What each class of a file is made from, without `self`."""
    found = {}
    for one in ast.walk(ast.parse(code)):
        if isinstance(one, ast.ClassDef):
            for part in one.body:
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    given = part.args
                    names = [arg.arg for arg in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                    names += [arg.arg for arg in (given.vararg, given.kwarg) if arg is not None]
                    found[one.name] = names[1:]
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_constructor_takes_more_than_five_collaborators(folder: str) -> None:
    files = sorted((LIBRARY / folder).glob("*.py"))
    assert files
    too_many = {
        f"{file.relative_to(LIBRARY)}: {name}": names
        for file in files
        for name, names in arguments(file.read_text(encoding="utf-8")).items()
        if len(names) > MOST
    }
    assert too_many == {}


def test_every_kind_of_argument_counts() -> None:
    code = "class A:\n    def __init__(self, a, /, b, *c, d=1, **e): ...\nclass B:\n    x: int\n"
    assert arguments(code) == {"A": ["a", "b", "d", "c", "e"]}
