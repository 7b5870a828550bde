"""The embedded Segment Editor lets go of its effect, its nodes and its observers before these go."""

# ruff: noqa: N802, N803

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slicer

from Testing.gui.conftest import MODULE_FILE
from Testing.gui.test_panel import Desk, Effect, Layout


@pytest.fixture
def desk(module: Any) -> Iterator[Desk]:
    made = Desk(module)
    made.load()
    yield made
    slicer.app.__dict__.pop("_standin_layout", None)


def takeUp(desk: Desk, name: str) -> Any:
    """The user takes up an effect; the editor's widget."""
    editor = desk.ui.segmentEditor
    editor.setActiveEffectByName(name)
    assert editor.activeEffect().active() and editor._standin_observes
    return editor


def isIdle(editor: Any) -> bool:
    effect = editor.activeEffect()
    return not editor._standin_observes and (effect is None or not effect.active())


@pytest.mark.parametrize("name", ["Paint", "Erase", "Scissors"])
def test_closing_the_scene_ends_the_effect_first(desk: Desk, name: str) -> None:
    editor = takeUp(desk, name)
    seen: list[tuple[bool, Any]] = []
    scene = slicer.mrmlScene
    tag = scene.AddObserver(
        scene.NodeAboutToBeRemovedEvent,
        lambda *_: seen.append((isIdle(editor), editor.mrmlSegmentEditorNode())),
    )
    scene.Clear(False)
    scene.RemoveObserver(tag)
    assert seen and set(seen) == {(True, None)}
    assert isIdle(editor) and editor.mrmlSegmentEditorNode() is not None
    # The next scene is worked on as the first one.
    desk.parameters = desk.logic.getParameterNode()
    desk.load()
    desk.click()
    takeUp(desk, name)
    desk.settle(lambda: desk.voxels() > 0)


def test_the_stand_in_complains_of_an_editor_that_lets_go_of_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from Headless import qt_standins
    from SAM2PropagateLib.gui.embedded_editor import EmbeddedEditor

    monkeypatch.setattr(type(desk.widget.panel), "letGoOfScene", lambda self: None)
    monkeypatch.setattr(EmbeddedEditor, "show", lambda self, *_: None)
    takeUp(desk, "Paint")
    slicer.mrmlScene.Clear(False)
    assert [text.split(" keeps ")[1] for text in qt_standins.complaints] == [
        "its observers of the views while the scene is closed.",
        "the effect Paint while the scene is closed.",
        "the segmentation while the scene is closed.",
    ]
    qt_standins.complaints.clear()


@pytest.mark.parametrize("clear", [True, False])
@pytest.mark.parametrize("isEntered", [True, False])
def test_a_scene_saved_with_an_effect_on_brings_none_along(
    desk: Desk, stand_ins: Any, tmp_path: Path, clear: bool, isEntered: bool
) -> None:
    editor = takeUp(desk, "Paint")
    stand_ins.saveScene(tmp_path / "scene.mrb")
    if not isEntered:
        desk.module.exit()
        assert isIdle(editor)
    stand_ins.loadScene(tmp_path / "scene.mrb", clear=clear)
    assert isIdle(editor)
    if isEntered:
        assert not editor.mrmlSegmentEditorNode().GetActiveEffectName()
        takeUp(desk, "Paint")


def test_restoring_a_scene_view_ends_the_effect_first(desk: Desk) -> None:
    editor = takeUp(desk, "Paint")
    scene = slicer.mrmlScene
    scene.StartState(scene.RestoreState)
    assert isIdle(editor)
    scene.EndState(scene.RestoreState)
    assert isIdle(editor) and not editor.mrmlSegmentEditorNode().GetActiveEffectName()


def test_another_module_and_another_layout(desk: Desk) -> None:
    layout = Layout()
    slicer.app.__dict__["_standin_layout"] = layout
    desk.module.exit()
    desk.module.enter()
    editor = takeUp(desk, "Paint")
    (slot,) = [slot for _, slot in layout.slots]
    slot(3)
    assert editor.activeEffect().active(), "the editor follows the layout by itself"
    desk.module.exit()
    assert isIdle(editor)
    # A view that is about to go has no node any more.
    desk.module.enter()
    layout.node = None
    slot(3)
    assert layout.observed()[0] is False


def test_nobody_observes_the_views_without_an_effect(desk: Desk) -> None:
    slicer.app.__dict__["_standin_layout"] = Layout()
    desk.module.exit()
    desk.module.enter()
    assert not desk.ui.segmentEditor._standin_observes


def test_segmentation_and_volume_may_go_under_an_effect(desk: Desk) -> None:
    editor = takeUp(desk, "Paint")
    slicer.mrmlScene.RemoveNode(desk.segmentation)
    assert editor.mrmlSegmentEditorNode().GetSegmentationNode() is None and isIdle(editor)
    desk.segmentation = desk.ui.segmentationSelector.addNode()
    Effect(editor)
    takeUp(desk, "Erase")
    slicer.mrmlScene.RemoveNode(desk.volume)
    assert editor.sourceVolumeNode() is None and isIdle(editor)


@pytest.mark.parametrize("hasLayout", [True, False])
def test_quitting_and_reloading_with_an_effect_on(stand_ins: Any, hasLayout: bool) -> None:
    from Headless.slicer_modules import ModuleInSlicer

    module = ModuleInSlicer(MODULE_FILE)
    layout = Layout()
    slicer.app.__dict__["_standin_layout"] = layout
    before = layout.observed()
    desk = Desk(module.open())
    desk.load()
    editor = takeUp(desk, "Paint")
    if not hasLayout:
        slicer.app.__dict__.pop("_standin_layout")  # the views go first when Slicer quits
    module.close()
    slicer.app.__dict__.pop("_standin_layout", None)
    assert isIdle(editor) and editor.mrmlSegmentEditorNode() is None
    # Without settings, but with a segmentation, it would complain once that is removed.
    assert editor.segmentationNode() is None and editor.sourceVolumeNode() is None
    assert layout.observed() == before
