"""Record which members 3D Slicer's own widget classes have, from the headers of Slicer and CTK.

    python Tools/record_qt_members.py SLICER_SOURCE CTK_SOURCE

Writes Headless/qt_members.json, which the stand-ins of the tests hold themselves to. Python reaches
of these classes: the properties, the public slots, the signals, the methods marked Q_INVOKABLE, and what
the decorator classes for PythonQt add.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).resolve().parents[1] / "Headless" / "qt_members.json"
_NAMES = """
    qMRMLWidget qMRMLNodeComboBox qMRMLCheckableNodeComboBox qMRMLSegmentSelectorWidget qMRMLSegmentsTableView
    qMRMLSegmentEditorWidget qMRMLSubjectHierarchyComboBox qMRMLSliderWidget qMRMLSpinBox qMRMLSliceWidget
    qMRMLSliceView qMRMLThreeDWidget qMRMLThreeDView qMRMLLayoutManager qSlicerLayoutManager
    qSlicerSegmentEditorAbstractEffect qSlicerMarkupsPlaceWidget qSlicerSimpleMarkupsWidget
    qSlicerWidget qSlicerAbstractModuleWidget qSlicerScriptedLoadableModuleWidget
    qSlicerAbstractCoreModule qSlicerAbstractModule qSlicerScriptedLoadableModule qSlicerLoadableModule
    qSlicerModuleManager qSlicerAbstractModuleFactoryManager qSlicerModuleFactoryManager
    qSlicerCoreApplication qSlicerApplication qSlicerCoreCommandOptions qSlicerCommandOptions
    ctkVTKSliceView ctkVTKRenderView ctkVTKAbstractView
    ctkCollapsibleButton ctkSliderWidget ctkDoubleSpinBox ctkComboBox ctkCheckBox ctkCheckablePushButton
    ctkDoubleSlider ctkDoubleRangeSlider ctkDirectoryButton qMRMLRangeWidget
    ctkPathLineEdit ctkColorPickerButton ctkMenuButton ctkExpandButton ctkRangeWidget ctkMessageBox
"""
CLASSES = tuple(_NAMES.split())


def members_of(text: str, name: str) -> dict[str, Any] | None:
    """Return the members that Python can reach of the class `name` in a header's text; None if it is not
    there."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"//[^\n]*", " ", text)
    text = re.sub(r"^\s*#.*$", " ", text, flags=re.M)
    head = re.search(rf"\bclass\s+(?:\w+_EXPORT\s+)?{name}\b\s*(?::([^{{;]*))?{{", text)
    if head is None:
        return None
    bases = re.findall(r"public\s+(\w+)", head.group(1) or "")
    found: dict[str, Any] = {
        "base": bases[0] if bases else "",
        "properties": {},
        "methods": [],
        "signals": {},
    }
    body = _body(text, head.end())
    for kind, prop, options in re.findall(r"Q_PROPERTY\(\s*([\w:<>]+\s*\*?)\s*(\w+)([^)]*)\)", body):
        found["properties"][prop] = {"type": kind.replace(" ", ""), "write": "WRITE" in options}
    body = re.sub(
        r"Q_(PROPERTY|FLAGS|ENUMS?|DISABLE_COPY|DECLARE_PRIVATE|OVERRIDE)\s*\([^)]*\)\s*;?", " ", body
    )
    body = body.replace("Q_OBJECT", " ").replace("Q_SLOTS", "slots").replace("Q_SIGNALS", "signals")
    pieces = re.split(
        r"\b(public\s+slots|protected\s+slots|private\s+slots|signals|public|protected|private)\s*:(?!:)",
        body,
    )
    methods: set[str] = set()
    for section, content in zip(pieces[1::2], pieces[2::2], strict=True):
        section = " ".join(section.split())
        if section not in ("public", "public slots", "signals"):
            continue
        for statement in _statements(content):
            if section == "public" and "Q_INVOKABLE" not in statement:
                continue
            match = re.search(r"(\w+)\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)", statement)
            if match is None or statement.startswith("enum") or match.group(1) == name:
                continue
            if section == "signals":
                found["signals"].setdefault(match.group(1), []).extend(_signatures(match.group(2)))
            else:
                methods.add(match.group(1))
    found["methods"] = sorted(methods)
    return found


def decorations(text: str) -> list[tuple[str, str]]:
    """Return (class, method) that a decorator class for PythonQt adds."""
    found = [(kind, name) for kind, name in re.findall(r"\bstatic_(\w+?)_(\w+)\s*\(", text)]
    return found + [(kind, name) for name, kind in re.findall(r"\b(\w+)\(\s*(\w+)\s*\*\s*\w+", text)]


def _body(text: str, start: int) -> str:
    depth, at = 1, start
    # Both branches of an #if are in the text, so that braces need not balance.
    while depth and at < len(text):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return text[start : at - 1]


def _statements(text: str) -> list[str]:
    """Return declarations, without the bodies of the inline ones."""
    while re.search(r"{[^{}]*}", text):
        text = re.sub(r"{[^{}]*}", ";", text)
    return [" ".join(piece.split()) for piece in text.split(";") if piece.strip()]


def _signatures(arguments: str) -> list[str]:
    """Return the argument types as a signal's signature has them: one for each argument that may be left
    out."""
    types, optional = [], 0
    for argument in filter(None, (piece.strip() for piece in arguments.split(","))):
        declared, _, default = argument.partition("=")
        optional += bool(default)
        kind = re.sub(r"\bconst\b|&", " ", declared).strip()
        match = re.match(r"([\w:<>]+(?:\s*\*)*)", kind)
        types.append(match.group(1).replace(" ", "") if match else kind)
    return [",".join(types[: len(types) - left]) for left in range(optional + 1)]


def main(sources: list[str]) -> int:
    headers = {path.name: path for source in sources for path in sorted(Path(source).rglob("*.h"))}
    recorded: dict[str, Any] = {}
    missing, wanted = [], list(CLASSES)
    while wanted:
        name = wanted.pop()
        path = headers.get(name + ".h")
        members = members_of(path.read_text(encoding="utf-8", errors="replace"), name) if path else None
        if members is None:
            missing.append(name)
            continue
        recorded[name] = members
        base = members["base"]
        if base.startswith(("q", "ctk")) and base not in recorded:
            wanted.append(base)
    for path in headers.values():
        if path.name.endswith("PythonQtDecorators.h"):
            for kind, method in decorations(path.read_text(encoding="utf-8", errors="replace")):
                if kind in recorded and method not in recorded[kind]["methods"]:
                    recorded[kind]["methods"].append(method)
    OUTPUT.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{len(recorded)} classes recorded in {OUTPUT}; not found: {', '.join(missing) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
