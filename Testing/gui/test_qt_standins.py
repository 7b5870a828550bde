"""The stand-ins refuse what Slicer's real widgets do not have: no test passes on a made-up member."""

from __future__ import annotations

from typing import Any

import pytest


def test_an_unknown_member_cannot_be_read(module: Any) -> None:
    with pytest.raises(AttributeError, match="no member 'currentVolume'"):
        module.ui.volumeSelector.currentVolume()


def test_a_public_method_that_python_cannot_reach_is_unknown(module: Any) -> None:
    # In C++ `nodes()` is public, but not invokable.
    with pytest.raises(AttributeError, match="no member 'nodes'"):
        module.ui.volumeSelector.nodes()


def test_an_unknown_member_cannot_be_written(module: Any) -> None:
    for widget in (module.ui.volumeSelector, module.ui.volumeLabel, module.ui.modelCollapsibleButton):
        with pytest.raises(AttributeError, match="no member 'paint'"):
            widget.paint = "red"


def test_a_real_member_that_is_not_stood_in_for_says_so(module: Any) -> None:
    with pytest.raises(NotImplementedError, match="renameCurrentNode is real"):
        module.ui.volumeSelector.renameCurrentNode()


def test_properties_are_attributes(module: Any) -> None:
    assert module.ui.volumeLabel.text == "Volume:"
    with pytest.raises(TypeError, match="not callable"):
        module.ui.volumeLabel.text()


def test_signals_have_the_real_signatures(module: Any) -> None:
    selector, seen = module.ui.segmentationSelector, []
    for wrong in ("currentNodeChanged(int)", "currentNodeChanged()", "chosen(vtkMRMLNode*)"):
        with pytest.raises((ValueError, IndexError, AttributeError)):
            selector.connect(wrong, seen.append)
    selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: seen.append(node.GetClassName()))
    selector.connect("currentNodeChanged(bool)", seen.append)
    selector.addNode()
    assert seen == ["vtkMRMLSegmentationNode", True]
    with pytest.raises(ValueError, match="no signal clicked"):
        module.ui.modelCollapsibleButton.connect("clicked(QString)", seen.append)


def test_a_connection_can_be_taken_back(module: Any) -> None:
    selector, seen = module.ui.segmentationSelector, []
    selector.connect("currentNodeIDChanged(QString)", seen.append)
    assert selector.disconnect("currentNodeIDChanged(QString)", seen.append)
    assert not selector.disconnect("currentNodeIDChanged(QString)", seen.append)
    selector.addNode()
    assert seen == []


def test_a_stand_in_with_a_made_up_member_cannot_be_written(stand_ins: Any) -> None:
    from PySide6 import QtWidgets

    from Headless.qt_standins import _Meta

    with pytest.raises(TypeError, match="no member 'paintBlue'"):
        _Meta("ctkCheckBox", (QtWidgets.QCheckBox,), {"paintBlue": lambda self: None})
    with pytest.raises(TypeError, match="not recorded"):
        _Meta("ctkImaginaryWidget", (QtWidgets.QWidget,), {})


def test_a_ui_file_with_a_made_up_property_is_refused(stand_ins: Any, tmp_path: Any) -> None:
    import slicer.util

    text = """<ui version="4.0"><class>X</class><widget class="qMRMLNodeComboBox" name="X">
        <property name="shape"><string>round</string></property></widget></ui>"""
    (tmp_path / "x.ui").write_text(text, encoding="utf-8")
    with pytest.raises(AttributeError, match="no property 'shape'"):
        slicer.util.loadUI(str(tmp_path / "x.ui"))


def test_the_application_refuses_an_hourglass_and_pumped_events(stand_ins: Any) -> None:
    import slicer

    with pytest.raises(AssertionError, match="hourglass"):
        slicer.app.setOverrideCursor(3)
    with pytest.raises(AssertionError, match="pumped"):
        slicer.app.processEvents()
    with pytest.raises(AttributeError):
        slicer.app.openEverything()


def test_they_are_taken_away_again() -> None:
    import sys

    import slicer

    from Headless import qt_standins, slicer_modules
    from Headless.boot import boot

    boot()
    app = slicer.app
    with qt_standins.installed(), slicer_modules.installed():
        assert "qt" in sys.modules and hasattr(slicer, "qMRMLWidget") and slicer.app is not app
    assert "qt" not in sys.modules and "ctk" not in sys.modules
    assert not hasattr(slicer, "qMRMLWidget") and slicer.app is app
    assert "slicer.i18n" not in sys.modules
