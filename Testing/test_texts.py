"""Texts: written so that tools collect them, translated, and translated after the way through the wire."""

from __future__ import annotations

import ast
import copy
import dataclasses
import json
import math
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAM2PropagateLib import texts
from SAM2PropagateLib.errors import Cancelled, InputError, SAM2PropagateError
from SAM2PropagateLib.frames import geometry
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import Click, SegmentPrompts

MODULE = Path(__file__).resolve().parents[1] / "SAM2Propagate"
LIBRARY = MODULE / "SAM2PropagateLib"
# What runs in Slicer's process, and in the worker's.
PACKAGES = ("app", "gui", "scene", "prompts", "frames", "models", "worker", "engine")
SOURCES = [
    LIBRARY / "errors.py",
    *(path for name in PACKAGES for path in sorted((LIBRARY / name).rglob("*.py"))),
]
ERRORS = {"InputError", "SAM2PropagateError", "Cancelled"}
# These take sentences or parts of them, without a code before.
TAKERS = {"WireError", "_InterruptedError", "_WrongFileError", "frame_of", "to_ras", "progress"}
GEOMETRY = VolumeGeometry((5, 5, 5), np.eye(4))


def _called(node: ast.AST) -> str:
    """The name of what is called; "" if this is no call of a name."""
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "id", getattr(function, "attr", ""))


def _is_untranslated(value: ast.AST) -> bool:
    """Whether an expression has words in it that are not inside `_()`."""
    # A key that something is looked up by is no word.
    if _called(value) in ("_", "get") or isinstance(value, ast.Subscript):
        return False
    if isinstance(value, ast.JoinedStr):
        return True
    if isinstance(value, ast.Constant):
        return isinstance(value.value, str) and any(letter.isalpha() for letter in value.value)
    if isinstance(value, ast.IfExp):
        return _is_untranslated(value.body) or _is_untranslated(value.orelse)
    if isinstance(value, ast.Call) and _called(value) == "format" and isinstance(value.func, ast.Attribute):
        filled = [part for each in value.keywords for part in _plain_words(each.value)]
        return any(map(_is_untranslated, [value.func.value, *filled]))
    return any(_is_untranslated(part) for part in ast.iter_child_nodes(value))


def _plain_words(value: ast.AST) -> list[ast.AST]:
    """What of an expression for a part of a sentence is text; calls give values, whatever is in them."""
    if isinstance(value, ast.IfExp):
        return [*_plain_words(value.body), *_plain_words(value.orelse)]
    return [value] if isinstance(value, ast.Constant | ast.JoinedStr | ast.BinOp) else []


def _makers(tree: ast.AST) -> set[str]:
    """The functions that make errors of sentences, and those that only raise."""
    functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)]
    return {one.name for one in functions if getattr(one.returns, "id", "") in {*ERRORS, "NoReturn"}}


def _inherited(tree: ast.AST) -> set[ast.AST]:
    """The calls of `super().__init__` in classes of errors."""
    classes = [one for one in ast.walk(tree) if isinstance(one, ast.ClassDef)]
    own = [one for one in classes if ERRORS & {getattr(base, "id", "") for base in one.bases}]
    return {call for one in own for call in ast.walk(one) if _called(call) == "__init__"}


def _error_texts(tree: ast.AST) -> Iterator[ast.AST]:
    """The expressions of sentences, hints and their parts: of errors, and of functions that take them."""
    takers, inherited = _makers(tree) | TAKERS, _inherited(tree)
    for scope in (tree, *(one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef))):
        assigned: dict[str, list[ast.AST]] = {}
        for one in ast.walk(scope) if scope is not tree else ():
            for target in one.targets if isinstance(one, ast.Assign) else ():
                assigned.setdefault(getattr(target, "id", ""), []).append(one.value)
        for one in ast.walk(scope):
            has_code = _called(one) in ERRORS or one in inherited
            if not isinstance(one, ast.Call) or not (has_code or _called(one) in takers):
                continue
            given = one.args[1:] if has_code else one.args
            for value in (*given, *(each.value for each in one.keywords if each.arg != "code")):
                yield value
                for part in (one for one in ast.walk(value) if isinstance(one, ast.Name)):
                    for words in assigned.get(part.id, ()):
                        yield from [words] if part is value else _plain_words(words)


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
        'def f():\n    a = "a" if x else "b"\n    raise InputError("code", _("{a}.").format(a=a))',
        'raise WireError(f"A message of {size} bytes.", is_cut=True)',
        'class E(InputError):\n    def __init__(self):\n        super().__init__("code", "Words.")',
        'def fail(words) -> NoReturn: ...\n\nfail("Words.")',
        'geometry.frame_of(point, axis, what="The click")',
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
        'to_ras(point, lambda: _("The point"))',
        'raise InputError("code", _("{a}, {b}.").format(a=table.get("a"), b=_("b") if kind == "b" else b))',
    ]
    assert [untranslated(line) + not_literal(line) for line in good] == [[]] * len(good)
    bad = ['_(f"{name}")', "_(words)", '_("Words".lower())', '_("a" + "b")', '_("a", "b")', "_()"]
    assert [not_literal(line) for line in bad] == [[1]] * len(bad)


# --- translated here


@pytest.fixture
def shouting() -> Iterator[list[str]]:
    """A language of capitals; the files in which the texts are written."""
    files: list[str] = []
    texts.set_translator(lambda text, file: files.append(file) or shouted(text))
    yield files
    texts.set_translator(None)


def shouted(text: str) -> str:
    """`text of {name}` -> `TEXT OF {name}`."""
    parts = re.split(r"(\{[^}]*\})", text)
    return "".join(part if number % 2 else part.upper() for number, part in enumerate(parts))


def outside() -> InputError:
    """An error whose sentence has texts within texts, numbers and braces."""
    click = Click("c", (0.0, 0.0, 100.0))
    with pytest.raises(InputError) as caught:
        resolve(SegmentPrompts("{0.real}", clicks=(click,)), GEOMETRY, 2)
    return caught.value


ENGLISH = (
    "The positive click at (R 0.0, A 0.0, S 100.0 mm) lies outside the volume, 95.5 mm after slice 5 of 5.",
    "Place it on a slice of the volume.",
)
SHOUTED = (
    "THE POSITIVE CLICK AT (R 0.0, A 0.0, S 100.0 mm) LIES OUTSIDE THE VOLUME, 95.5 MM AFTER SLICE 5 OF 5.",
    "PLACE IT ON A SLICE OF THE VOLUME.",
)


def said(error: SAM2PropagateError) -> tuple[str, str]:
    return error.sentence, error.hint


def test_errors_below_the_panel_are_translated_in_their_files_context(shouting):
    assert said(outside()) == SHOUTED
    assert set(shouting) == {geometry.__file__, resolve.__code__.co_filename}
    with pytest.raises(InputError) as caught:
        ModelStore().find("{braces}")
    assert caught.value.sentence == "THERE IS NO MODEL “{braces}”."
    assert Cancelled().sentence == "CANCELLED."
    texts.set_translator(None)
    assert said(outside()) == ENGLISH and Cancelled().sentence == "Cancelled."


# --- made in another process


def received(error: SAM2PropagateError) -> SAM2PropagateError:
    """The error after its way over the wire."""
    return SAM2PropagateError.from_wire(json.loads(json.dumps(error.to_wire(), allow_nan=False)))


def test_an_error_is_put_into_words_where_it_is_shown():
    error = outside()
    assert said(error) == ENGLISH and str(error) == " ".join(ENGLISH)
    for copied in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error), received(error)):
        texts.set_translator(lambda text, file: shouted(text) if Path(file).is_file() else text)
        try:
            assert type(copied) is InputError and copied.code == "outside_volume"
            assert said(copied) == SHOUTED and str(copied) == " ".join(SHOUTED)
        finally:
            texts.set_translator(None)
        assert said(copied) == ENGLISH


def test_what_crosses_the_wire_is_what_was_said_and_no_sentence(shouting):
    values = outside().to_wire()
    assert values["hint"] == {
        "template": "Place it on a slice of the volume.",
        "file": "frames/geometry.py",
        "values": {},
    }
    assert values["sentence"]["values"]["what"]["template"] == "The positive click"
    plain = InputError("code", "Words.", "More.")
    expected = {"code": "code", "sentence": "Words.", "hint": "More.", "kind": "input"}
    assert plain.to_wire() == plain.to_dict() == expected
    texts.set_translator(None)
    assert tuple(outside().to_dict().values()) == ("outside_volume", *ENGLISH, "input"), "as reports have it"


def test_a_text_keeps_numbers_texts_and_words():
    assert texts.text("Here.").file == Path(__file__).name, "this file is none of the library's"
    ours = texts.Text("{number:g} of {name}", "engine/build.py")
    filled = ours.format(number=np.float32(2), name=Path("a"))
    assert filled.values == {"number": 2.0, "name": "a"} and type(filled.values["number"]) is float
    assert type(ours.format(number=np.int64(2), name=ours).values["number"]) is int
    assert texts.from_wire(json.loads(json.dumps(texts.to_wire(filled)))) == filled
    assert (str(filled), f"{filled}") == ("2 of a", "2 of a")
    assert not isinstance(filled, str)
    with pytest.raises(dataclasses.FrozenInstanceError):
        filled.template = "other"


@pytest.mark.parametrize("values", [{}, {"number": 1.0}, {"number": "no number", "name": "a"}])
def test_a_text_that_cannot_be_filled_in_is_refused_at_once(values):
    with pytest.raises((KeyError, ValueError)):
        texts.Text("{number:.1f} of {name}", "engine/build.py").format(**values)


def nested(count: int) -> texts.Text:
    made = texts.Text("The end.", "engine/build.py")
    for _number in range(count):
        made = texts.Text("{name} it is.", "engine/build.py").format(name=made)
    return made


@pytest.mark.parametrize(
    "beyond",
    [
        texts.Text("{number:.1f} mm", "engine/build.py").format(number=math.nan),
        texts.Text("{number:.1f} mm", "engine/build.py").format(number=math.inf),
        texts.Text("{name}.", "engine/build.py").format(name="x" * 5000),
        texts.Text("{name}.", "elsewhere").format(name="It"),
        nested(4),
    ],
)
def test_a_text_that_the_wire_cannot_carry_goes_as_plain_english(shouting, beyond):
    assert texts.to_wire(beyond) == beyond.english
    assert received(InputError("code", beyond)).sentence == beyond.english


GOOD = {"template": "{name} is empty.", "file": "engine/build.py", "values": {"name": "It"}}


def deep(count: int) -> dict[str, Any]:
    parts: dict[str, Any] = GOOD
    for _number in range(count):
        parts = {**GOOD, "values": {"name": parts}}
    return parts


def test_texts_are_translated_however_they_are_nested_within_reason(shouting):
    assert str(texts.from_wire(GOOD)) == "It IS EMPTY."
    assert str(texts.from_wire(deep(3))) == "It IS EMPTY. IS EMPTY. IS EMPTY. IS EMPTY."


@pytest.mark.parametrize(
    "parts",
    [
        None,
        7,
        [],
        {},
        {**GOOD, "template": None},
        {**GOOD, "template": ["It"], "values": {}},
        {**GOOD, "template": "x" * 5000, "values": {}},
        {**GOOD, "template": "{name}" * 65},
        {**GOOD, "template": "{name}" * 1_000_000, "values": {"name": "x" * 1_000_000}},
        {**GOOD, "template": "{name}" * 5, "values": {"name": "x" * 1000}},
        {**GOOD, "values": {"name": "It", "other": "x" * 5000}},
        {**GOOD, "values": {f"name{n}": "It" for n in range(65)}},
        {**GOOD, "template": "{name.__class__}"},
        {**GOOD, "template": "{name[0]}"},
        {**GOOD, "template": "{0}"},
        {**GOOD, "template": "{}"},
        {**GOOD, "template": "{other}"},
        {**GOOD, "template": "{name"},
        {**GOOD, "template": "{name:>999999999}", "values": {"name": "x"}},
        {**GOOD, "template": "{name:{name}}", "values": {"name": 10**9}},
        {**GOOD, "template": "{name:.1f}", "values": {"name": "no number"}},
        {**GOOD, "file": "/etc/passwd"},
        {**GOOD, "file": "../../build.py"},
        {**GOOD, "file": None},
        {**GOOD, "values": None},
        {**GOOD, "values": ["It"]},
        {**GOOD, "values": {"name": ["It"]}},
        {**GOOD, "values": {"name": {"template": "x"}}},
        deep(4),
        deep(500),
    ],
)
def test_what_came_broken_or_malicious_is_refused(parts):
    with pytest.raises(ValueError):
        texts.from_wire(parts)
    values = {"code": "code", "sentence": "Plain.", "hint": "Hint."}
    for name in ("sentence", "hint"):
        with pytest.raises(ValueError):
            SAM2PropagateError.from_wire({**values, name: parts})


@pytest.mark.parametrize("translated", ["{nom}", "{name.real}", "{name", "{0}", "{name!x}", None, 3])
def test_a_translation_that_does_not_fit_gives_the_english_text(translated):
    texts.set_translator(lambda text, file: translated)
    try:
        assert str(texts.from_wire(GOOD)) == "It is empty."
    finally:
        texts.set_translator(None)


def test_a_translator_that_fails_gives_the_english_text():
    texts.set_translator(lambda text, file: {}[text])
    try:
        assert str(texts.from_wire(GOOD)) == "It is empty." and said(outside()) == ENGLISH
    finally:
        texts.set_translator(None)


def not_collected(source: str) -> list[int]:
    """The lines whose texts Slicer's tool cannot collect.

    It takes what is between `_(` with a quote and the nearest such quote with `)`; and reads no f-strings.
    """
    found = []
    for one in ast.walk(ast.parse(source)):
        if isinstance(one, ast.JoinedStr):
            found += [part.lineno for part in ast.walk(one) if _called(part) == "_"]
        if _called(one) == "_":
            written = ast.get_source_segment(source, one.args[0]) or ""
            quote = written[0]
            if written[-1] != quote or re.search(rf"{quote}\s*\)", written[1:-1]):
                found.append(one.lineno)
    return sorted(found)


@pytest.mark.parametrize("path", [MODULE / "SAM2Propagate.py", *SOURCES], ids=lambda path: path.stem)
def test_every_text_can_be_collected_for_translation(path):
    lines = not_collected(path.read_text(encoding="utf-8"))
    assert not lines, "quote all parts of a text alike, without such a quote before ), and in no f-string"


def test_texts_that_cannot_be_collected_are_seen():
    assert not_collected("""_("a" " b")\n_('"a" b')""") == []
    for bad in ("""_('"a" ' "b")""", """_("(a" ") b")""", """f"{_('a')}\"""", """_("a"\n'"b"')"""):
        assert not_collected(bad) == [1], bad


def test_one_thing_is_not_several():
    assert texts.plural(1, "slice", "slices") == "slice"
    assert [texts.plural(count, "slice", "slices") for count in (0, 2, 11, 21)] == ["slices"] * 4


# A count that can be 1, and the plural of what is counted.
_COUNTED = re.compile(r"\{(count|done|total)\}( of \{total\})? (slices|voxels|dimensions|tensors)\b")


@pytest.mark.parametrize("path", [MODULE / "SAM2Propagate.py", *SOURCES], ids=lambda path: path.stem)
def test_what_is_counted_has_a_text_for_one_of_it(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    chosen = {
        part
        for one in ast.walk(tree)
        if (isinstance(one, ast.Call) and _called(one) == "plural") or isinstance(one, ast.IfExp)
        for part in ast.walk(one)
    }
    literals = [one for one in ast.walk(tree) if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    lacking = [one.value for one in literals if one not in chosen and _COUNTED.search(one.value)]
    assert not lacking, "write plural(count, _(one), _(several)) for these"


# --- quotes

# A test, as no rule of ruff asks for curly quotes, and codespell does not tell a text from code.
# Straight quotes belong to what is typed as it stands: commands, JSON, HTML, code.
_TYPED = re.compile(
    r"""[{\[]"|": |\$|--\w|<\w|pip install|\w\['|=["']|echo |%j|\(\[|^"[A-Z ]+"$|^\{\} '|^ssh """
)
_STRAIGHT = re.compile(r"""(?<!\w)(["'])(?=\S)[^"']*(?<=\S)\1(?!\w)""")


def straight_quotes(source: str) -> list[int]:
    """The lines of texts with straight quotes around a word or a value; docstrings are for programmers."""
    tree = ast.parse(source)
    docs = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
    inside = {id(part) for one in ast.walk(tree) if isinstance(one, ast.JoinedStr) for part in one.values}
    found = []
    for one in ast.walk(tree):
        if isinstance(one, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in one.values)
        elif isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in docs | inside:
            text = one.value
        else:
            continue
        if " " in text and _STRAIGHT.search(text) and not _TYPED.search(text):
            found.append(one.lineno)
    return sorted(found)


DEMO = MODULE.parent / "Demo"


@pytest.mark.parametrize(
    "path", sorted([*MODULE.rglob("*.py"), *DEMO.rglob("*.py")]), ids=lambda path: path.stem
)
def test_texts_have_curly_quotes(path: Path) -> None:
    assert straight_quotes(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("""a = f"'{path}' is empty." """, [1]),
        ("""a = _('There is no model "{name}".')""", [1]),
        ("""a = "the model's first 'word' here" """, [1]),
        ("""a = "“{name}” is the user's, and the users' too" """, []),
        ("""def f():\n    \"\"\"Takes "this" word.\"\"\" """, []),
        ("""a = 'Give [{"volume": 1}] here' """, []),
        ("""a = 'ssh {host} "$HOME"' """, []),
    ],
)
def test_straight_quotes_are_found(source: str, lines: list[int]) -> None:
    assert straight_quotes(source) == lines
