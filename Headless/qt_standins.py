"""The modules `qt` and `ctk` and the widgets of `slicer`, stood in for by PySide6, with PythonQt's manners.

For tests of the module's panel without the Slicer application. What is checked here is the wiring: which
widgets, which of their members, which signals. Any member that Slicer's own class does not have raises
AttributeError, on reading and on writing alike (`qt_members.json`, recorded from Slicer's headers); one
that the real class has and the stand-in lacks raises NotImplementedError. How a widget behaves or looks is
not asserted on these.

PythonQt's manners: a property is an attribute (`label.text`, not `label.text()`), `connect("clicked(bool)",
f)` takes the signature as text, no new attribute can be put on a widget.
"""

# ruff: noqa: N815, PLW0603

from __future__ import annotations

import functools
import json
import os
import re
import sys
import types
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import vtk
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets
from PySide6.QtCore import Property, QObject, Signal

MEMBERS: dict[str, Any] = json.loads((Path(__file__).parent / "qt_members.json").read_text(encoding="utf-8"))
_PY_TYPES = {
    "bool": bool,
    "QString": str,
    "int": int,
    "double": float,
    "float": float,
    "QStringList": "QStringList",
}
_DEFAULTS: dict[str, Any] = {
    "bool": False,
    "QString": "",
    "int": 0,
    "double": 0.0,
    "float": 0.0,
    "QStringList": [],
}
complaints: list[str] = []
"""What would have brought the real Slicer down; a test that leaves any has failed."""

# Virtual in C++: a Python property of that name would be taken for an override.
_VIRTUAL = {"sizeHint", "minimumSizeHint"}
_VIRTUAL_OF = {("QProgressBar", "text")}
_NOT_WRAPPED = {"QUiLoader", "QApplication", "QGuiApplication", "QCoreApplication", "QThread"}


# --- PythonQt's manners on PySide6's classes ---------------------------------------------------------------


def _qt_property(name: str) -> property:
    def get(self: Any) -> Any:
        return QObject.property(self, name)

    def set_(self: Any, value: Any) -> None:
        is_writable, is_enum = _manner(type(self), name)
        if not is_writable:
            raise AttributeError(f"{type(self).__name__}.{name} cannot be set")
        if is_enum:
            value = getattr(value, "value", value)
        if not QObject.setProperty(self, name, value):
            raise ValueError(f"{type(self).__name__}.{name} cannot be {value!r}")

    return property(get, set_)


@functools.cache
def _manner(cls: Any, name: str) -> tuple[bool, bool]:
    """Returns whether a property can be set, and whether its values are of an enumeration."""
    meta = cls.staticMetaObject
    declared = meta.property(meta.indexOfProperty(name))
    return declared.isWritable(), declared.isEnumType()


def _as_in_pythonqt(cls: type) -> None:
    """Turns the properties of a PySide6 class from pairs of methods into attributes."""
    meta = cls.staticMetaObject  # type: ignore[attr-defined]
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(index).name()
        if name not in _VIRTUAL and (cls.__name__, name) not in _VIRTUAL_OF:
            setattr(cls, name, _qt_property(name))


@functools.cache
def _signal_signatures(cls: Any, name: str) -> list[str]:
    """Returns the argument lists that a signal can be connected with, of the real class if it is recorded."""
    recorded = _recorded(cls.__name__, "signals", name)
    if recorded is not None:
        return list(recorded)
    meta = cls.staticMetaObject
    methods = [meta.method(index) for index in range(meta.methodCount())]
    return [
        bytes(method.methodSignature().data()).decode().partition("(")[2][:-1]
        for method in methods
        if method.methodType() == QtCore.QMetaMethod.MethodType.Signal
        and bytes(method.name().data()).decode() == name
    ]


def _connect(self: Any, signal: Any, *slots: Any) -> Any:
    if not isinstance(signal, str):
        # `obj.clicked.connect(f)` comes back through here.
        return QObject.connect(signal, *slots)
    name, arguments = _split(self, signal)
    (slot,) = slots
    first = _signal_signatures(type(self), name)[0]
    call: Callable[..., Any] = slot
    if not arguments:
        call = lambda *_: slot()  # noqa: E731
    elif arguments != first and arguments == "bool":
        # The overload that says whether there is a node.
        call = lambda value=None, *_: slot(value is not None)  # noqa: E731
    getattr(self, name).connect(call)
    self.__dict__.setdefault("_standin_slots", []).append((name, arguments, slot, call))
    return True


def _disconnect(self: Any, signal: Any, *slots: Any) -> Any:
    if not isinstance(signal, str):
        return QObject.disconnect(signal, *slots)
    name, arguments = _split(self, signal)
    kept = self.__dict__.get("_standin_slots", [])
    for entry in kept:
        if entry[:2] == (name, arguments) and entry[2] == slots[0]:
            getattr(self, name).disconnect(entry[3])
            kept.remove(entry)
            return True
    return False


def _split(obj: Any, signal: str) -> tuple[str, str]:
    match = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", signal)
    if match is None:
        raise ValueError(f"{signal!r} is no signature of a signal")
    name = match.group(1)
    arguments = re.sub(r"\s|\bconst\b|&", "", match.group(2))
    known = _signal_signatures(type(obj), name)
    if arguments not in known:
        raise ValueError(f"{type(obj).__name__} has no signal {signal}; of that name: {known}")
    return name, arguments


@functools.cache
def _recorded(kind: str, section: str, name: str) -> Any:
    """Returns what is recorded about a member of a Slicer class or its bases, or None."""
    recorded = MEMBERS.get(kind)
    while recorded is not None:
        if name in recorded[section]:
            return recorded[section][name] if isinstance(recorded[section], dict) else True
        recorded = MEMBERS.get(recorded["base"])
    return None


def _setattr(self: Any, name: str, value: Any) -> None:
    # A class that the code under test derives from a widget may have attributes of its own, as in PythonQt.
    if (
        type(self).__dict__.get("_is_standin")
        and not name.startswith(("_standin", "__"))
        and not hasattr(type(self), name)
    ):
        raise _missing(type(self), name)
    _setter(type(self))(self, name, value)


@functools.cache
def _setter(cls: type) -> Callable[[Any, str, Any], None]:
    # Shiboken insists on the most derived of its own.
    return next(kind.__setattr__ for kind in cls.__mro__ if kind.__setattr__ is not _setattr)


def _getattr(self: Any, name: str) -> Any:
    raise _missing(type(self), name)


def _missing(cls: type, name: str) -> Exception:
    for kind in cls.__mro__:
        if any(
            _recorded(kind.__name__, section, name) is not None
            for section in ("properties", "methods", "signals")
        ):
            return NotImplementedError(
                f"{cls.__name__}.{name} is real, but its stand-in does not have it: add it"
            )
    return AttributeError(f"{cls.__name__} has no member {name!r}")


# Shiboken looks `connect` up in an object's own class only, never in a patched base.
_OWN = {
    "connect": _connect,
    "disconnect": _disconnect,
    "__setattr__": _setattr,
    "__getattr__": _getattr,
    "_is_standin": True,
}


class _Meta(type(QtWidgets.QWidget)):  # type: ignore[misc]
    """Makes a stand-in: gives it PythonQt's manners and holds it to what is recorded of the real class.

    Properties and signals of the real class that the stand-in does not write out are added: a property keeps
    what is put in, a signal is never sent by itself.
    """

    def __new__(meta, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        real = MEMBERS.get(name)
        if real is None:
            raise TypeError(f"{name} is not recorded in qt_members.json")
        for member in namespace:
            known = any(_recorded(name, section, member) for section in ("properties", "methods", "signals"))
            inherited = any(hasattr(base, member) for base in bases)
            if not (known or inherited or member.startswith("_") or member == "staticMetaObject"):
                raise TypeError(f"the real {name} has no member {member!r}")
        for member, options in real["properties"].items():
            if member not in namespace and options["type"] in _PY_TYPES and not hasattr(bases[0], member):
                namespace[member] = _stored(options["type"], member)
        for member, signatures in real["signals"].items():
            if member not in namespace:
                count = len(signatures[0].split(",")) if signatures[0] else 0
                namespace[member] = Signal(*[object] * count)
        return super().__new__(meta, name, bases, {**_OWN, **namespace})


def _stored(kind: str, name: str, default: Any = None, notify: str = "") -> Any:
    """Makes a property that keeps its value; a change calls `_changed_NAME`, then emits the signal
    `notify`."""
    key = "_standin_" + name
    start = _DEFAULTS[kind] if default is None else default

    def get(self: Any) -> Any:
        return self.__dict__.get(key, start)

    def set_(self: Any, value: Any) -> None:
        if isinstance(start, bool | str) and not isinstance(value, type(start)):
            raise TypeError(f"{type(self).__name__}.{name} cannot be {value!r}")
        if get(self) == value:
            return
        self.__dict__[key] = value
        hook = getattr(type(self), "_changed_" + name, None)
        if hook is not None:
            hook(self)
        if notify:
            getattr(self, notify).emit(value)

    return Property(_PY_TYPES[kind], get, set_)


# --- Slicer's widgets ---------------------------------------------------------------------------------------


class qSlicerWidget(QtWidgets.QWidget, metaclass=_Meta):  # noqa: N801
    """A widget that knows the scene."""

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self.__dict__.get("_standin_scene"):
            self._standin_scene = scene
            self.mrmlSceneChanged.emit(scene)


def _observe(
    widget: Any, owner: Any, event: Any, callback: Callable[..., Any], priority: float = 0.0
) -> tuple[Any, int]:
    """Observe a MRML object or scene for as long as a widget lives; the object and the observer's tag."""
    tag = owner.AddObserver(event, callback, priority)
    widget.destroyed.connect(lambda *_: owner.RemoveObserver(tag))
    return owner, tag


class qMRMLWidget(QtWidgets.QWidget, metaclass=_Meta):  # noqa: N801
    """A widget that hands the scene on to its children."""

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self.mrmlScene():
            self._standin_scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self.__dict__.get("_standin_scene")


class qMRMLNodeComboBox(QtWidgets.QWidget, metaclass=_Meta):  # noqa: N801
    """A list of the scene's nodes of some classes, one of them current."""

    showChildNodeTypes = _stored("bool", "showChildNodeTypes", True)
    addEnabled = _stored("bool", "addEnabled", True)
    removeEnabled = _stored("bool", "removeEnabled", True)
    selectNodeUponCreation = _stored("bool", "selectNodeUponCreation", True)
    noneDisplay = _stored("QString", "noneDisplay", "None")

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._standin_id = ""
        self._standin_scene = None
        self._standin_tags: list[tuple[Any, int]] = []
        self._standin_box = QtWidgets.QComboBox(self)
        box = QtWidgets.QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._standin_box)
        self._standin_box.activated.connect(self._chosen)

    def mrmlScene(self) -> Any:
        return self._standin_scene

    def setMRMLScene(self, scene: Any) -> None:
        for observed, tag in self._standin_tags:
            observed.RemoveObserver(tag)
        self._standin_tags = []
        self._standin_scene = scene
        self.enabled = scene is not None
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent)
            self._standin_tags = [_observe(self, scene, event, self._fill) for event in events]

            def leaves(_scene: Any, _event: str, node: Any) -> None:
                # It is off the list before it is out of the scene.
                self.__dict__["_standin_leaving"] = node
                self._fill()
                self.__dict__["_standin_leaving"] = None

            leaves.CallDataType = vtk.VTK_OBJECT  # type: ignore[attr-defined]
            self._standin_tags.append(_observe(self, scene, scene.NodeAboutToBeRemovedEvent, leaves))
        self._fill()

    def _nodes(self) -> list[Any]:
        scene = self._standin_scene
        if scene is None:
            return []
        every = list(scene.GetNodes())
        leaving = self.__dict__.get("_standin_leaving")
        there = [node for node in every if node is not leaving]
        return [node for node in there if not node.GetHideFromEditors() and self._is_listed(node)]

    def _is_listed(self, node: Any) -> bool:
        exact = node.GetClassName() in self.nodeTypes
        derived = self.showChildNodeTypes and any(node.IsA(kind) for kind in self.nodeTypes)
        return exact or (derived and not any(node.IsA(kind) for kind in self.hideChildNodeTypes))

    def _fill(self, *_: Any) -> None:
        nodes = self._nodes()
        self._standin_box.clear()
        if self.noneEnabled:
            self._standin_box.addItem(self.noneDisplay, "")
        for node in nodes:
            self._standin_box.addItem(node.GetName(), node.GetID())
        ids = [node.GetID() for node in nodes]
        fallback = ids[0] if ids and not self.noneEnabled else ""
        self.setCurrentNodeID(self._standin_id if self._standin_id in ids else fallback)

    _changed_nodeTypes = _changed_noneEnabled = _changed_showChildNodeTypes = _changed_hideChildNodeTypes = (
        _fill
    )

    def _chosen(self, index: int) -> None:
        self.setCurrentNodeID(self._standin_box.itemData(index) or "")
        self.nodeActivated.emit(self.currentNode())

    def currentNode(self) -> Any:
        scene = self._standin_scene
        return scene.GetNodeByID(self._standin_id) if scene is not None and self._standin_id else None

    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentNodeID("" if node is None else node if isinstance(node, str) else node.GetID())

    def setCurrentNodeID(self, node_id: str | None) -> None:
        wanted = node_id if node_id in [node.GetID() for node in self._nodes()] else ""
        self._standin_box.setCurrentIndex(self._standin_box.findData(wanted))
        if wanted != self._standin_id:
            self._standin_id = wanted
            self.currentNodeIDChanged.emit(wanted)
            self.currentNodeChanged.emit(self.currentNode())

    currentNodeID = property(lambda self: self._standin_id, setCurrentNodeID)

    def setCurrentNodeIndex(self, index: int) -> None:
        self.setCurrentNode(self.nodeFromIndex(index))

    def nodeFromIndex(self, index: int) -> Any:
        nodes = self._nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def nodeCount(self) -> int:
        return len(self._nodes())

    def addNode(self, kind: str | None = None) -> Any:
        kind = kind or self.nodeTypes[0]
        if kind not in self.nodeTypes:
            return None
        node = self._standin_scene.AddNewNodeByClass(kind, self.baseName)
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAdded.emit(node)
        self.nodeAddedByUser.emit(node)
        return node


# Pixels of the title of a section, as in Slicer 5.12 at 100 %.
_TITLE = 24


class ctkCollapsibleButton(QtWidgets.QAbstractButton, metaclass=_Meta):  # noqa: N801
    """A title that folds what is below it."""

    collapsed = _stored("bool", "collapsed", False, "contentsCollapsed")

    def __init__(self, *arguments: Any) -> None:
        text = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        super().__init__(arguments[-1] if arguments and not isinstance(arguments[-1], str) else None)
        self.text = text

    def _changed_collapsed(self) -> None:
        self.setMaximumHeight(_TITLE if self.collapsed else 16777215)
        # What is hidden by itself stays so.
        folded = self.__dict__.setdefault("_standin_folded", [])
        if self.collapsed:
            children = [child for child in self.children() if isinstance(child, QtWidgets.QWidget)]
            folded += [child for child in children if not child.isHidden()]
        for child in folded:
            child.setVisible(not self.collapsed)
        if not self.collapsed:
            folded.clear()
        self.update()

    def paintEvent(self, event: Any) -> None:
        painter = QtGui.QPainter(self)
        frame = QtCore.QRect(0, 0, self.width, _TITLE)
        painter.fillRect(frame, self.palette.color(QtGui.QPalette.ColorRole.Midlight))
        painter.drawText(frame.adjusted(8, 0, 0, 0), int(QtCore.Qt.AlignmentFlag.AlignVCenter), self.text)

    def event(self, event: Any) -> bool:
        # The content begins below the title.
        if event.type() in (QtCore.QEvent.Type.Polish, QtCore.QEvent.Type.Show) and self.layout() is not None:
            left, _, right, bottom = self.layout().getContentsMargins()
            self.layout().setContentsMargins(left, _TITLE + 4, right, bottom)
            if self.collapsed:  # it has got its content since
                self._changed_collapsed()
        return bool(super().event(event))


class ctkSliderWidget(QtWidgets.QWidget, metaclass=_Meta):  # noqa: N801
    """A slider with a box for its number."""

    minimum = _stored("double", "minimum", 0.0)
    maximum = _stored("double", "maximum", 99.0)
    singleStep = _stored("double", "singleStep", 1.0)
    decimals = _stored("int", "decimals", 2)
    value = _stored("double", "value", 0.0, "valueChanged")

    def setValue(self, value: float) -> None:
        self.value = min(max(float(value), self.minimum), self.maximum)

    def sizeHint(self) -> Any:
        return QtCore.QSize(120, 24)

    def paintEvent(self, event: Any) -> None:
        painter = QtGui.QPainter(self)
        part = (self.value - self.minimum) / max(self.maximum - self.minimum, 1e-9)
        color = self.palette.color(QtGui.QPalette.ColorRole.Mid)
        painter.fillRect(0, self.height // 2 - 2, self.width - 60, 4, color)
        painter.fillRect(int(part * (self.width - 68)), self.height // 2 - 8, 8, 16, color)
        painter.drawText(self.width - 48, self.height // 2 + 5, f"{self.value:.{self.decimals}f}")


class qMRMLSegmentsTableView(qMRMLWidget, metaclass=_Meta):  # noqa: N801
    """The segments of a segmentation, some of them selected."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._standin_node: Any = None
        self._standin_selected: list[str] = []
        self._standin_tags: list[tuple[Any, int]] = []
        # As in the real one's .ui file.
        self._standin_view = QtWidgets.QTableWidget(0, 2, self)
        self._standin_view.setMinimumHeight(75)
        self._standin_view.horizontalHeader().hide()
        self._standin_view.verticalHeader().hide()
        self._standin_view.verticalHeader().setDefaultSectionSize(22)
        self._standin_view.setColumnWidth(0, 48)
        self._standin_view.horizontalHeader().setStretchLastSection(True)
        box = QtWidgets.QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._standin_view)

    def tableWidget(self) -> Any:
        return self._standin_view

    def setSegmentationNode(self, node: Any) -> None:
        for observed, tag in self._standin_tags:
            observed.RemoveObserver(tag)
        self._standin_node = node
        events = ("SegmentAdded", "SegmentRemoved", "SegmentModified") if node is not None else ()
        kind = vtk.vtkObject if node is None else type(node.GetSegmentation())
        self._standin_tags = [_observe(self, node, getattr(kind, one), self._fill) for one in events]
        self.setSelectedSegmentIDs([])
        self._fill()

    def _fill(self, *_: Any) -> None:
        segmentation = self._standin_node.GetSegmentation() if self._standin_node is not None else None
        count = segmentation.GetNumberOfSegments() if segmentation is not None else 0
        self._standin_view.setRowCount(count)
        for row in range(count):
            segment = segmentation.GetNthSegment(row)
            color = QtWidgets.QTableWidgetItem()
            color.setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            self._standin_view.setItem(row, 0, color)
            self._standin_view.setItem(row, 1, QtWidgets.QTableWidgetItem(segment.GetName()))
            chosen = segmentation.GetNthSegmentID(row) in self._standin_selected
            self._standin_view.item(row, 1).setSelected(chosen)

    def segmentationNode(self) -> Any:
        return self._standin_node

    def selectedSegmentIDs(self) -> tuple[str, ...]:
        return tuple(self._standin_selected)

    def setSelectedSegmentIDs(self, segment_ids: Any) -> None:
        if list(segment_ids) != self._standin_selected:
            self._standin_selected = list(segment_ids)
            self._fill()
            self.selectionChanged.emit(None, None)


class qSlicerSegmentEditorAbstractEffect(QObject, metaclass=_Meta):  # noqa: N801
    """An effect of the Segment Editor, on or off."""

    name = _stored("QString", "name")

    def activate(self) -> None:
        self._standin_on = True

    def deactivate(self) -> None:
        self._standin_on = False

    def active(self) -> bool:
        return bool(self.__dict__.get("_standin_on", False))


class qMRMLSegmentEditorWidget(qMRMLWidget, metaclass=_Meta):  # noqa: N801
    """The Segment Editor: what it edits, which segment it chooses by itself and what it does to the slice
    views then, which effect is on, and its undo history; how its effects write is for a test to say.

    It complains where the real one would go on to use nodes that are on their way out.
    """

    autoShowSourceVolumeNode = _stored("bool", "autoShowSourceVolumeNode", True)
    unorderedEffectsVisible = _stored("bool", "unorderedEffectsVisible", True)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._standin_node: Any = None
        self._standin_node_tag = 0
        self._standin_segmentation: Any = None
        self._standin_volume: Any = None
        self._standin_selected: list[str] = []
        self._standin_effects: dict[str, Any] = {}
        self._standin_order: list[str] = []
        self._standin_observes = False
        self._standin_active: Any = None
        # As named in the real one's .ui file.
        self._standin_frame = QtWidgets.QWidget(self)
        self._standin_frame.setObjectName("SegmentsTableResizableFrame")
        self._standin_table = QtWidgets.QWidget(self._standin_frame)
        self._standin_table.setObjectName("SegmentsTableView")
        group = QtWidgets.QFrame(self)
        group.setObjectName("UndoRedoGroupBox")
        layout = QtWidgets.QGridLayout(group)
        for column, (name, text) in enumerate((("UndoButton", "Undo"), ("RedoButton", "Redo"))):
            button = QtWidgets.QToolButton(group)
            button.setObjectName(name)
            button.setText(text)
            # Where no state is kept, there is never anything to undo.
            button.setEnabled(False)
            layout.addWidget(button, 0, column)

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self.mrmlScene():
            return
        super().setMRMLScene(scene)
        self.updateWidgetFromMRML()
        for event in (scene.EndCloseEvent, scene.EndBatchProcessEvent):
            _observe(self, scene, event, lambda *_: self.updateWidgetFromMRML())
        for event, state in (
            (scene.StartCloseEvent, "is closed"),
            (scene.StartImportEvent, "is loaded"),
            (scene.StartRestoreEvent, "is restored"),
        ):
            # After everybody who might have let go of something.
            _observe(self, scene, event, lambda *_, state=state: self._complain(state), -1000.0)

    def _complain(self, state: str) -> None:
        kept = ["its observers of the views"] if self._standin_observes else []
        if self._standin_active is not None and self._standin_active.active():
            kept.append(f"the effect {self._standin_active.name}")
        node = self._standin_node
        if state == "is closed" and node is not None and node.GetSegmentationNode() is not None:
            kept.append("the segmentation")
        complaints.extend(f"The Segment Editor keeps {one} while the scene {state}." for one in kept)

    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        if node is self._standin_node:
            return
        if self._standin_node is not None:
            self._standin_node.RemoveObserver(self._standin_node_tag)
        self._standin_node = node
        if node is not None:
            _, self._standin_node_tag = _observe(
                self, node, "ModifiedEvent", lambda *_: self.updateWidgetFromMRML()
            )
            self.updateWidgetFromMRML()

    def mrmlSegmentEditorNode(self) -> Any:
        return self._standin_node

    def updateWidgetFromMRML(self) -> None:
        scene, node = self.mrmlScene(), self._standin_node
        if scene is None or scene.IsClosing() or scene.IsBatchProcessing() or node is None:
            return
        was = node.StartModify()
        try:
            self._show_segmentation()
            self._show_volume()
            chosen = node.GetSelectedSegmentID() or ""
            self._select([chosen] if chosen in self._segment_ids() else [])
            self._show_effect()
        finally:
            node.EndModify(was)

    def _show_effect(self) -> None:
        name, before = self._standin_node.GetActiveEffectName() or "", self._standin_active
        if name == (before.name if before is not None else ""):
            return
        if before is not None:
            before.deactivate()
        self._standin_active = None
        if not name:
            self.removeViewObservations()
            return
        self._standin_active = self.__dict__.setdefault("_standin_made", {}).setdefault(
            name, qSlicerSegmentEditorAbstractEffect(self)
        )
        self._standin_active.name = name
        self.setupViewObservations()
        interaction = self.mrmlScene().GetNodeByID("vtkMRMLInteractionNodeSingleton")
        if interaction is not None and interaction.GetCurrentInteractionMode() != interaction.ViewTransform:
            interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        self._standin_active.activate()

    def activeEffect(self) -> Any:
        return self._standin_active

    def _segment_ids(self) -> list[str]:
        if self._standin_segmentation is None:
            return []
        segmentation = self._standin_segmentation.GetSegmentation()
        return [segmentation.GetNthSegmentID(row) for row in range(segmentation.GetNumberOfSegments())]

    def _show_segmentation(self) -> None:
        segmentation = self._standin_node.GetSegmentationNode()
        if segmentation is self._standin_segmentation:
            return
        self._standin_segmentation = segmentation
        self._standin_selected = []
        if segmentation is not None:
            role = segmentation.GetReferenceImageGeometryReferenceRole()
            self._standin_node.SetAndObserveSourceVolumeNode(segmentation.GetNodeReference(role))
            # The first one, whatever the settings say.
            self._select(self._segment_ids()[:1])
            for view in self._views():
                view.SetLabelVolumeID(None)
        self.segmentationNodeChanged.emit(segmentation)

    def _show_volume(self) -> None:
        volume = self._standin_node.GetSourceVolumeNode()
        if self._standin_segmentation is None or volume is self._standin_volume:
            return
        self._standin_volume = volume
        for view in self._views() if volume is not None and self.autoShowSourceVolumeNode else ():
            if volume.GetID() not in (view.GetBackgroundVolumeID(), view.GetForegroundVolumeID()):
                view.SetBackgroundVolumeID(volume.GetID())
                view.SetForegroundVolumeID(None)
                view.SetLabelVolumeID(None)

    def _views(self) -> list[Any]:
        scene, kind = self.mrmlScene(), "vtkMRMLSliceCompositeNode"
        return [scene.GetNthNodeByClass(n, kind) for n in range(scene.GetNumberOfNodesByClass(kind))]

    def _select(self, segment_ids: list[str]) -> None:
        """Selects in the editor's own list, as a click of the user there does."""
        if segment_ids == self._standin_selected:
            return
        self._standin_selected = segment_ids
        chosen = segment_ids[0] if segment_ids else ""
        # Nobody is told of what the settings say already: setting a segment sends no signal.
        if chosen == (self._standin_node.GetSelectedSegmentID() or ""):
            return
        self._standin_node.SetSelectedSegmentID(chosen or None)
        self.updateWidgetFromMRML()
        self.currentSegmentIDChanged.emit(chosen)

    def setSegmentationNode(self, node: Any) -> None:
        if node is not self._standin_node.GetSegmentationNode():
            self._standin_node.SetAndObserveSegmentationNode(node)
            self._standin_node.SetActiveEffectName("")

    def segmentationNode(self) -> Any:
        return self._standin_segmentation

    def setSourceVolumeNode(self, node: Any) -> None:
        self._standin_node.SetAndObserveSourceVolumeNode(node)

    def sourceVolumeNode(self) -> Any:
        return self._standin_node.GetSourceVolumeNode() if self._standin_node is not None else None

    def setCurrentSegmentID(self, segment_id: str) -> None:
        if self._standin_node is not None:
            self._standin_node.SetSelectedSegmentID(segment_id)

    def currentSegmentID(self) -> str:
        return str(self._standin_node.GetSelectedSegmentID() or "") if self._standin_node is not None else ""

    def setActiveEffectByName(self, name: str) -> None:
        if self._standin_node is not None:
            self._standin_node.SetActiveEffectName(name)

    def setEffectNameOrder(self, names: Any) -> None:
        self._standin_order = list(names)

    def effectNameOrder(self) -> tuple[str, ...]:
        return tuple(self._standin_order)

    def effectByName(self, name: str) -> Any:
        return self._standin_effects.get(name)

    def setupViewObservations(self) -> None:
        self._standin_observes = True

    def removeViewObservations(self) -> None:
        self._standin_observes = False


class qSlicerScriptedLoadableModule(QObject, metaclass=_Meta):  # noqa: N801
    """What Slicer hands to a scripted module's constructor, and finds its texts in."""

    # In C++ these are set by a Python wrapper of their own; all of them are written by module constructors.
    title = _stored("QString", "title")
    helpText = _stored("QString", "helpText")
    acknowledgementText = _stored("QString", "acknowledgementText")
    path = _stored("QString", "path")
    hidden = _stored("bool", "hidden")
    categories: Any = _stored("QStringList", "categories")
    dependencies: Any = _stored("QStringList", "dependencies")
    contributors: Any = _stored("QStringList", "contributors")
    icon: Any = None

    def widgetRepresentation(self) -> Any:
        return self.__dict__.get("_standin_widget")


class qSlicerScriptedLoadableModuleWidget(QtWidgets.QWidget, metaclass=_Meta):  # noqa: N801
    """The panel that Slicer puts a scripted module's widget into."""

    isEntered = property(lambda self: self.__dict__.get("_standin_entered", False))

    def setMRMLScene(self, scene: Any) -> None:
        self._standin_scene = scene

    def self(self) -> Any:
        return self.__dict__.get("_standin_python")

    def reload(self) -> None:
        self.__dict__["_standin_reload"]()


class qSlicerModuleManager(QObject, metaclass=_Meta):  # noqa: N801
    """Tells when a module goes."""


class qSlicerApplication(QtWidgets.QApplication, metaclass=_Meta):  # noqa: N801
    """The application: what the headless one has, and Qt's."""

    slicerHome = property(lambda self: self.__dict__.get("_standin_home", ""))
    temporaryPath = property(lambda self: self._standin_core.temporaryPath)

    def moduleManager(self) -> Any:
        return self.__dict__.setdefault("_standin_manager", qSlicerModuleManager())

    def layoutManager(self) -> Any:
        # None is what Slicer gives without its main window.
        return self.__dict__.get("_standin_layout")

    def applicationLogic(self) -> Any:
        return self._standin_core.applicationLogic()

    def mrmlScene(self) -> Any:
        return self._standin_core.mrmlScene()

    def coreIOManager(self) -> Any:
        return self._standin_core.coreIOManager()

    def ioManager(self) -> Any:
        return self._standin_core.coreIOManager()

    def testingEnabled(self) -> bool:
        return True

    def pauseRender(self) -> None:
        self._standin_core.pauseRender()

    def resumeRender(self) -> None:
        self._standin_core.resumeRender()

    def startupEnvironment(self) -> Any:
        return QtCore.QProcessEnvironment.systemEnvironment()

    def settings(self) -> Any:
        return QtCore.QSettings(
            str(Path(self.temporaryPath) / "settings.ini"), QtCore.QSettings.Format.IniFormat
        )

    def userSettings(self) -> Any:
        return self.settings()

    def setOverrideCursor(self, *_: Any) -> None:
        raise AssertionError("the cursor is never to turn into an hourglass")

    def processEvents(self, *_: Any) -> None:
        # Slicer's own test classes do, between two messages.
        if sys._getframe(1).f_globals.get("__name__") != "slicer.util":
            raise AssertionError("events are never to be pumped by hand")


_WRITTEN = {name: value for name, value in list(globals().items()) if isinstance(value, _Meta)}


def _standin(name: str) -> Any:
    """Returns the stand-in of a recorded class: the one above, or one with the members alone (enough for
    wiring)."""
    if name not in _WRITTEN:
        base = MEMBERS[name]["base"]
        parent = (
            _standin(base) if base in MEMBERS else getattr(QtWidgets, base, None) or getattr(QtCore, base)
        )
        _WRITTEN[name] = _Meta(name, (parent,), {})
    return _WRITTEN[name]


_WIDGETS = [_standin(name) for name in MEMBERS]


# --- the modules -------------------------------------------------------------------------------------------


def _make_loader(qt: types.ModuleType) -> type:
    known = {cls.__name__: cls for cls in _WIDGETS}

    @functools.cache
    def prepared(text: bytes) -> tuple[bytes, list[ET.Element]]:
        """Checks a .ui file; returns it without its connections, and them."""
        root = ET.fromstring(text)
        unknown = {item.get("class") for item in root.iter("widget")} - set(known) - set(dir(QtWidgets))
        if unknown:
            raise NotImplementedError(f"no stand-in for {', '.join(map(str, unknown))}: add it")
        _check_properties(root, known)
        connections = root.find("connections")
        if connections is not None:
            root.remove(connections)
        return ET.tostring(root), [] if connections is None else list(connections)

    class QUiLoader(QtUiTools.QUiLoader):
        """Builds a widget from a .ui file, of stand-ins alone, and makes its connections."""

        def createWidget(self, className: str, parent: Any = None, name: str = "") -> Any:
            widget = (known.get(className) or getattr(qt, className))(parent)
            widget.setObjectName(name)
            self.__dict__.setdefault("_made", []).append(widget)
            return widget

        def createLayout(self, className: str, parent: Any = None, name: str = "") -> Any:
            layout = (
                getattr(qt, className)(parent)
                if isinstance(parent, QtWidgets.QWidget)
                else getattr(qt, className)()
            )
            layout.setObjectName(name)
            self.__dict__.setdefault("_made", []).append(layout)
            return layout

        def load(self, file: Any, parent: Any = None) -> Any:
            text, connections = prepared(bytes(file.readAll().data()))
            buffer = QtCore.QBuffer()
            buffer.setData(text)
            buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
            widget = super().load(buffer, parent)
            for connection in connections:
                sender, receiver = (
                    _named(widget, connection.findtext(end)) for end in ("sender", "receiver")
                )
                slot = (connection.findtext("slot") or "").partition("(")[0]
                sender.connect(connection.findtext("signal"), getattr(receiver, slot))
            return widget

    return QUiLoader


def _check_properties(root: ET.Element, known: dict[str, Any]) -> None:
    for item in root.iter("widget"):
        cls = known.get(str(item.get("class")))
        for prop in item.findall("property") if cls is not None else ():
            name = str(prop.get("name"))
            dynamic = prop.get("stdset") == "0" and name.startswith("Slicer")
            if not dynamic and cls.staticMetaObject.indexOfProperty(name) < 0 and not hasattr(cls, name):
                raise AttributeError(f"{cls.__name__} ({item.get('name')}) has no property {name!r}")


def _named(widget: Any, name: str | None) -> Any:
    found = widget if widget.objectName == name else widget.findChild(QObject, name)
    if found is None:
        raise LookupError(f"the .ui file connects {name!r}, which it does not have")
    return found


def _build_modules() -> tuple[types.ModuleType, types.ModuleType]:
    qt, ctk = types.ModuleType("qt"), types.ModuleType("ctk")
    for module in (QtCore, QtGui, QtWidgets):
        for name in dir(module):
            value = getattr(module, name)
            if name.startswith("_"):
                continue
            if isinstance(value, type) and issubclass(value, QObject):
                _as_in_pythonqt(value)
                if name not in _NOT_WRAPPED and value is not QObject:
                    value = _derived(value)
            setattr(qt, name, value)
    QObject.name = _qt_property("objectName")  # type: ignore[attr-defined]
    QObject.className = lambda self: type(self).staticMetaObject.className()  # type: ignore[attr-defined]
    qt.QUiLoader = _make_loader(qt)  # type: ignore[attr-defined]
    for cls in _WIDGETS:
        if cls.__name__.startswith("ctk"):
            setattr(ctk, cls.__name__, cls)
    return qt, ctk


def _derived(cls: type) -> type:
    try:
        return type(cls.__name__, (cls,), dict(_OWN))
    except TypeError:  # a final class: nobody connects to it by text
        return cls


_modules: tuple[types.ModuleType, types.ModuleType] | None = None
_application: Any = None


@contextmanager
def installed(slicer_home: str = "") -> Iterator[types.ModuleType]:
    """Puts `qt`, `ctk` and Slicer's widgets where the code under test imports them; takes them away again.

    Needs a booted headless Slicer (`Headless.boot`). Yields the module `qt`.
    """
    global _modules, _application
    import slicer

    if _modules is None:
        _modules = _build_modules()
        _application = QtWidgets.QApplication.instance() or qSlicerApplication([sys.argv[0]])
    qt, ctk = _modules
    core = slicer.app
    _application._standin_core = core
    _application._standin_home = slicer_home
    before = {name: sys.modules.get(name) for name in ("qt", "ctk")}
    sys.modules.update(qt=qt, ctk=ctk)
    added = [cls.__name__ for cls in _WIDGETS if not cls.__name__.startswith("ctk")]
    for cls in _WIDGETS:
        if cls.__name__ in added:
            setattr(slicer, cls.__name__, cls)
    slicer.app = _application
    try:
        yield qt
    finally:
        for name, _, _, call in _application.__dict__.pop("_standin_slots", ()):
            getattr(_application, name).disconnect(call)
        slicer.app = core
        for name in added:
            delattr(slicer, name)
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
