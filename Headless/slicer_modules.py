"""What a scripted module imports from Slicer's Python and the slicer-core wheel lacks.

Stand-ins for `slicer.ScriptedLoadableModule`, `slicer.i18n` and `slicer.parameterNodeWrapper`, as far as
the module uses them, and `ModuleInSlicer`, which opens the module as Slicer does. To run the same tests on
Slicer's own files in their place, name the folder Base/Python of Slicer's source in
SAM2PROPAGATE_SLICER_PYTHON.
"""

# ruff: noqa: N815

from __future__ import annotations

import importlib.util
import os
import sys
import types
import typing
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SLICER_PYTHON = "SAM2PROPAGATE_SLICER_PYTHON"
_NAMES = ("i18n", "ScriptedLoadableModule", "parameterNodeWrapper")


# --- slicer.i18n --------------------------------------------------------------------------------------------


def tr(text: str) -> str:
    """Returns the text itself: no translation is installed."""
    if not isinstance(text, str):
        raise TypeError(f"only text can be translated, not {text!r}")
    return text


def translate(context: str, text: str) -> str:
    """Returns the text itself, whatever the context."""
    return tr(text)


def getContext(sourceFile: str) -> str:
    """Returns the context of a file's texts."""
    file = Path(sourceFile)
    return f"{file.parent.name}.{file.stem}" if (file.parent / "__init__.py").is_file() else file.stem


# --- slicer.ScriptedLoadableModule --------------------------------------------------------------------------


class ScriptedLoadableModule:
    """The base of a module's description."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__

    def resourcePath(self, filename: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / filename)


class ScriptedLoadableModuleWidget:
    """The base of a module's panel."""

    def __init__(self, parent: Any = None) -> None:
        import slicer

        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.parent = parent
        self.layout = parent.layout()
        self.developerMode = False
        manager = slicer.app.moduleManager()
        manager.connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename: str) -> str:
        import slicer

        return str(
            Path(getattr(slicer.modules, self.moduleName.lower()).path).parent / "Resources" / filename
        )

    def setup(self) -> None:
        pass

    def cleanup(self) -> None:
        pass

    def onReload(self) -> None:
        import slicer

        slicer.util.reloadScriptedModule(self.moduleName)

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        import slicer

        if moduleName == self.moduleName:
            self.cleanup()
            manager = slicer.app.moduleManager()
            manager.disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)


class ScriptedLoadableModuleLogic:
    """The base of a module's logic: one parameter node a scene."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self) -> Any:
        import slicer

        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
            node = slicer.mrmlScene.AddNode(node)
        node.SetAttribute("ModuleName", self.moduleName)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """The base of a module's self test."""

    messageDelay = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)

    def delayDisplay(self, message: str, requestedDelay: Any = None, msec: Any = None) -> None:
        if not isinstance(message, str):
            raise TypeError(f"{message!r} cannot be displayed")

    def runTest(self) -> None:
        for name in unittest.TestLoader().getTestCaseNames(type(self)):
            self.setUp()
            getattr(self, name)()
            self.tearDown()


# --- slicer.parameterNodeWrapper ----------------------------------------------------------------------------


class WithinRange:
    """Bounds of a number, for `Annotated`: of what can be written, and of the widget."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum = minimum
        self.maximum = maximum


class _TextProperty:
    """A parameter that is kept as text."""

    def __init__(self, kind: type, default: Any, bounds: WithinRange | None = None) -> None:
        self.kind = kind
        self.bounds = bounds
        self.default = kind() if default is None else default

    def read(self, node: Any, name: str) -> Any:
        text = node.GetParameter(name)
        return text == "True" if self.kind is bool else self.kind(text)

    def write(self, node: Any, name: str, value: Any) -> None:
        if type(value) is not self.kind:
            raise TypeError(f"parameter {name} is a {self.kind.__name__}, not {value!r}")
        if self.bounds is not None and not self.bounds.minimum <= value <= self.bounds.maximum:
            raise ValueError(f"parameter {name} cannot be {value!r}")
        node.SetParameter(name, str(value))

    def isIn(self, node: Any, name: str) -> bool:
        return name in node.GetParameterNames()


class _Node:
    """A parameter that is a reference to a node."""

    default = None

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def write(self, node: Any, name: str, value: Any) -> None:
        if value is not None and not isinstance(value, self.kind):
            raise TypeError(f"parameter {name} is a {self.kind.__name__}, not {value!r}")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def isIn(self, node: Any, name: str) -> bool:
        return True


def parameterNodeWrapper(cls: type) -> type:
    """Turns the annotated names of a class into typed parameters of a vtkMRMLScriptedModuleNode."""
    kinds: dict[str, Any] = {}
    for name, annotated in typing.get_type_hints(cls, include_extras=True).items():
        kind, *notes = typing.get_args(annotated) if hasattr(annotated, "__metadata__") else (annotated,)
        if kind in (str, int, float, bool):
            bounds = next((one for one in notes if isinstance(one, WithinRange)), None)
            kinds[name] = _TextProperty(kind, getattr(cls, name, None), bounds)
        elif isinstance(kind, type) and kind.__name__.startswith("vtkMRML"):
            kinds[name] = _Node(kind)
        else:
            raise NotImplementedError(f"the stand-in does not know parameters of type {kind}: add it")
    return type(
        cls.__name__, (_Wrapper,), {"_kinds": kinds, "__module__": cls.__module__, "__doc__": cls.__doc__}
    )


class _Wrapper:
    _kinds: typing.ClassVar[dict[str, Any]] = {}

    def __init__(self, parameterNode: Any) -> None:
        vars(self).update(parameterNode=parameterNode, _guis={}, _updating=False)
        for name, kind in self._kinds.items():
            if not kind.isIn(parameterNode, name):
                kind.write(parameterNode, name, kind.default)

    def __getattr__(self, name: str) -> Any:
        if name not in self._kinds:
            raise AttributeError(f"there is no parameter {name!r}")
        return self._kinds[name].read(self.parameterNode, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._kinds:
            self._kinds[name].write(self.parameterNode, name, value)
        else:
            vars(self)[name] = value

    def AddObserver(self, event: int, callback: Callable[..., Any], priority: float = 0.0) -> int:
        return int(self.parameterNode.AddObserver(event, callback, priority))

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def StartModify(self) -> int:
        return int(self.parameterNode.StartModify())

    def EndModify(self, wasModifying: int) -> None:
        self.parameterNode.EndModify(wasModifying)

    def connectGui(self, gui: Any) -> int:
        """Connects every widget with the property SlicerParameterName; returns a tag for `disconnectGui`."""
        import vtk

        pairs = []
        for widget in vars(gui).values():
            name = widget.property("SlicerParameterName")
            if name:
                if name not in self._kinds:
                    raise ValueError(f"a widget names the parameter {name!r}, which there is not")
                pairs.append((name, _connector(widget)))
                if widget.className() == "QSpinBox":
                    # Without bounds any number that fits, whatever the .ui file says.
                    bounds = self._kinds[name].bounds or WithinRange(-(2**31), 2**31 - 1)
                    widget.setRange(bounds.minimum, bounds.maximum)
        tag = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._toGui(pairs))
        slots = []
        for name, (read, _, signal, widget) in pairs:

            def changed(*_: Any, name: str = name, read: Callable[[], Any] = read) -> None:
                if not self._updating:
                    setattr(self, name, read())

            widget.connect(signal, changed)
            slots.append((widget, signal, changed))
        self._guis[tag] = slots
        self._toGui(pairs)
        return tag

    def disconnectGui(self, tag: int | None) -> None:
        # The observer stays, as in Slicer 5.10.
        for widget, signal, slot in self._guis.pop(tag, ()):
            widget.disconnect(signal, slot)

    def _toGui(self, pairs: list[Any]) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            for name, (_, write, _, _) in pairs:
                write(getattr(self, name))
        finally:
            self._updating = False


def _connector(widget: Any) -> tuple[Callable[[], Any], Callable[[Any], None], str, Any]:
    """Returns (read, write, signal, widget) of a widget that a parameter can be connected to."""
    kind = widget.className()
    if kind == "qMRMLNodeComboBox":
        return widget.currentNode, widget.setCurrentNode, "currentNodeIDChanged(QString)", widget
    if kind in ("QCheckBox", "ctkCheckBox"):
        return lambda: bool(widget.checked), widget.setChecked, "toggled(bool)", widget
    if kind in ("QSpinBox", "QSlider"):
        return lambda: int(widget.value), widget.setValue, "valueChanged(int)", widget
    if kind in ("QDoubleSpinBox", "ctkSliderWidget"):
        return lambda: float(widget.value), widget.setValue, "valueChanged(double)", widget
    if kind == "QLineEdit":
        return lambda: str(widget.text), widget.setText, "textChanged(QString)", widget
    if kind == "QComboBox":
        return lambda: str(widget.currentText), widget.setCurrentText, "currentTextChanged(QString)", widget
    raise NotImplementedError(f"the stand-in cannot connect a parameter to a {kind}: add it")


# --- installing them ----------------------------------------------------------------------------------------


def _standins() -> dict[str, types.ModuleType]:
    modules = {name: types.ModuleType(f"slicer.{name}") for name in _NAMES}
    modules["i18n"].__dict__.update(tr=tr, translate=translate, getContext=getContext)
    modules["parameterNodeWrapper"].__dict__.update(
        parameterNodeWrapper=parameterNodeWrapper, WithinRange=WithinRange
    )
    public = ("", "Widget", "Logic", "Test")
    names = ["ScriptedLoadableModule" + end for end in public]
    modules["ScriptedLoadableModule"].__dict__.update(
        {name: globals()[name] for name in names}, __all__=names
    )
    return modules


@contextmanager
def installed() -> Iterator[bool]:
    """Makes the modules importable as `slicer.i18n` and so on, and takes them away again.

    Yields whether they are Slicer's own (see the module's text).
    """
    import slicer

    folder = os.environ.get(SLICER_PYTHON)
    before = set(sys.modules)
    if folder:
        slicer.__path__.append(str(Path(folder) / "slicer"))
    else:
        for name, module in _standins().items():
            sys.modules[f"slicer.{name}"] = module
            setattr(slicer, name, module)
    try:
        yield bool(folder)
    finally:
        if folder:
            slicer.__path__.remove(str(Path(folder) / "slicer"))
        for name in set(sys.modules) - before:
            if name.startswith(tuple(f"slicer.{module}" for module in _NAMES)):
                del sys.modules[name]
        for name in _NAMES:
            if hasattr(slicer, name):
                delattr(slicer, name)


class ModuleInSlicer:
    """A scripted module, opened as Slicer does: constructor, panel, setup, enter; and closed again.

    Args:
        path: the module's .py file.
    """

    def __init__(self, path: Path) -> None:
        import slicer

        self.path = path
        self.name = path.stem
        self.parent = slicer.qSlicerScriptedLoadableModule()
        self.parent.path = str(path)
        setattr(slicer.modules, self.name.lower(), self.parent)
        self.python = self._import()
        self.module = getattr(self.python, self.name)(self.parent)
        self.panel: Any = None

    @property
    def widget(self) -> Any:
        """The module's widget object, after `open`."""
        return self.panel.self()

    @property
    def ui(self) -> Any:
        return self.widget.ui

    def open(self) -> ModuleInSlicer:
        """Chooses the module for the first time, as the user does."""
        import qt
        import slicer

        self.panel = slicer.qSlicerScriptedLoadableModuleWidget()
        self.panel.setLayout(qt.QVBoxLayout())
        self.panel.__dict__["_standin_reload"] = self._build
        self.parent.__dict__["_standin_widget"] = self.panel
        self._build()
        return self

    def _build(self) -> None:
        import slicer

        # After a reload the classes are those of the new module.
        self.python = sys.modules[self.name]
        widget = getattr(self.python, self.name + "Widget")(self.panel)
        self.panel.__dict__["_standin_python"] = widget
        setattr(slicer.modules, self.name + "Widget", widget)
        widget.setup()
        self.enter()

    def enter(self) -> None:
        self.panel.__dict__["_standin_entered"] = True
        self.widget.enter()

    def exit(self) -> None:
        self.panel.__dict__["_standin_entered"] = False
        self.widget.exit()

    def close(self) -> None:
        """Slicer quits or unloads the module."""
        import slicer

        if self.panel is not None:
            slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(self.name)
            delattr(slicer.modules, self.name + "Widget")
            self.panel.deleteLater()
            from PySide6 import QtCore

            # As Slicer's event loop does at its next turn: what is connected to a widget lives as long as it.
            QtCore.QCoreApplication.sendPostedEvents(self.panel, QtCore.QEvent.Type.DeferredDelete)
            self.panel = None
        delattr(slicer.modules, self.name.lower())
        sys.modules.pop(self.name, None)

    def _import(self) -> Any:
        spec = importlib.util.spec_from_file_location(self.name, self.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.name] = module
        spec.loader.exec_module(module)
        return module
