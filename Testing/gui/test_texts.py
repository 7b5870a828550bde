"""The errors of `scene` and `gui` are translated, and written so that tools collect their sentences."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from SAM2PropagateLib import texts
from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.gui import controller, editor_writer
from SAM2PropagateLib.scene import segments
from Testing.headless.scenes import addVolume
from Testing.scene.geometries import block

MODULE = Path(__file__).resolve().parents[2] / "SAM2Propagate"
LIBRARY = MODULE / "SAM2PropagateLib"
SOURCES = sorted([*(LIBRARY / "gui").rglob("*.py"), *(LIBRARY / "scene").rglob("*.py")])
ERRORS = {"InputError", "SAM2PropagateError", "Cancelled"}


def _called(node: ast.AST) -> str:
    """The name of what is called; "" if this is no call of a name."""
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "id", getattr(function, "attr", ""))


def _is_untranslated(value: ast.AST) -> bool:
    """Whether an expression has words in it that are not inside `_()`."""
    if _called(value) == "_":
        return False
    if isinstance(value, ast.JoinedStr):
        return True
    if isinstance(value, ast.Constant):
        return isinstance(value.value, str) and any(letter.isalpha() for letter in value.value)
    return any(_is_untranslated(part) for part in ast.iter_child_nodes(value))


def _error_texts(tree: ast.AST) -> Iterator[ast.AST]:
    """The expressions of sentences and hints: of errors, and of functions that make errors of them."""
    functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)]
    makers = {one.name for one in functions if isinstance(one.returns, ast.Name) and one.returns.id in ERRORS}
    for scope in (tree, *functions):
        assigned: dict[str, list[ast.AST]] = {}
        for one in ast.walk(scope) if scope is not tree else ():
            for target in one.targets if isinstance(one, ast.Assign) else ():
                assigned.setdefault(getattr(target, "id", ""), []).append(one.value)
        for one in ast.walk(scope):
            if not isinstance(one, ast.Call) or _called(one) not in ERRORS | makers:
                continue
            given = one.args[1:] if _called(one) in ERRORS else one.args
            given = [*given, *(each.value for each in one.keywords if each.arg != "code")]
            for value in given:
                yield value
                yield from assigned.get(value.id, ()) if isinstance(value, ast.Name) else ()


def untranslated(source: str) -> list[int]:
    """The lines with words of errors that are not inside `_()`."""
    found = {value.lineno for value in _error_texts(ast.parse(source)) if _is_untranslated(value)}
    return sorted(found)


def not_literal(source: str) -> list[int]:
    """The lines with an `_()` of anything else than one literal."""
    calls = [one for one in ast.walk(ast.parse(source)) if _called(one) == "_"]
    return [
        one.lineno
        for one in calls
        if one.keywords
        or [type(getattr(value, "value", None)) for value in one.args] != [str]
        or not isinstance(one.args[0], ast.Constant)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_words_of_errors_go_through_the_translator(path):
    assert not untranslated(path.read_text(encoding="utf-8")), "write _(...) around these lines' words"


@pytest.mark.parametrize("path", [MODULE / "SAM2Propagate.py", *SOURCES], ids=lambda path: path.stem)
def test_what_is_to_be_translated_is_a_literal(path):
    assert not not_literal(path.read_text(encoding="utf-8")), "no tool collects the texts of these lines"


@pytest.mark.parametrize(
    "line",
    [
        'raise InputError("code", "Words.")',
        'raise InputError("code", _("Words."), "More.")',
        'raise errors.SAM2PropagateError("code", f"{name} is empty.")',
        'raise InputError("code", sentence=f"{name}")',
        'raise InputError("code", "{name} is empty.".format(name=name))',
        'raise InputError("code", _("Words.") + " Nothing was written.")',
        'raise failed("Words.")',
        'def f():\n    words = f"{name} is empty."\n    raise InputError("code", words)',
    ],
)
def test_words_outside_are_seen(line):
    # Otherwise the tests above would pass on anything.
    maker = "def failed(sentence) -> InputError:\n    return InputError('code', sentence)\n"
    assert untranslated(maker + line)


def test_words_inside_are_let_through():
    good = [
        'raise InputError("code", _("{names} are empty.").format(names=", ".join(names)), _("More."))',
        'raise InputError("code", _("Words" " in two."), hint)',
        "raise InputError(code, error.sentence, error.hint)",
    ]
    assert [untranslated(line) + not_literal(line) for line in good] == [[], [], []]
    bad = ['_(f"{name}")', "_(words)", '_("Words".lower())', '_("a" + "b")', '_("a", "b")', "_()"]
    assert [not_literal(line) for line in bad] == [[1]] * len(bad)


@pytest.fixture
def asked():
    """Marks every text as translated; the files in which the texts are written."""
    files: list[str] = []
    texts.set_translator(lambda text, file: files.append(file) or f"<{text}>")
    yield files
    texts.set_translator(None)


def test_an_error_of_the_scene_is_translated(headless, asked):
    with pytest.raises(InputError) as caught:
        segments.checkSegmentation(None)
    assert caught.value.sentence == "<No segmentation is selected.>"
    assert caught.value.hint == "<Select or create a segmentation.>"
    assert set(asked) == {segments.__file__}
    node = addVolume(headless, block())
    node.SetName("{braces}")
    with pytest.raises(InputError) as caught:
        segments.checkSegmentation(node)
    assert caught.value.sentence == "<“{braces}” is not a segmentation.>"
    texts.set_translator(None)
    with pytest.raises(InputError) as caught:
        segments.checkSegmentation(None)
    assert str(caught.value) == "No segmentation is selected. Select or create a segmentation."


def test_an_error_of_the_window_is_translated(headless, asked):
    with pytest.raises(InputError) as caught:
        controller.Controller(lambda: None).jump(3)
    assert caught.value.sentence == "<No volume and segmentation are selected.>"
    editor = SimpleNamespace(mrmlSegmentEditorNode=lambda: None)
    with pytest.raises(SAM2PropagateError) as caught:
        editor_writer.EditorSegmentWriter(editor, None, None).prepare()
    words = "<<The Segment Editor has no settings in this scene.> Nothing was written.>"
    assert caught.value.sentence == words
    assert set(asked) == {controller.__file__, editor_writer.__file__}
