"""Presets of window and level: chosen beside the volume, offered once for a CT, never changed unasked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slicer

from Headless.boot import boot
from Headless.scenes import addVolume
from SAM2PropagateLib.frames.window import PRESETS
from SAM2PropagateLib.scene.volume import displayWindow
from Testing.gui.test_module import load_sample
from Testing.gui.test_panel import Desk


@pytest.fixture
def desk(module: Any) -> Desk:
    return Desk(module)


def mr() -> Any:
    noise = np.random.default_rng(3)
    return addVolume(boot(), noise.gamma(2.0, 120.0, (20, 40, 40)).astype(np.int16))


def offered(desk: Desk) -> bool:
    return not desk.ui.windowFrame.isHidden()


def choose(desk: Desk, name: str) -> None:
    desk.widget.panel.window.actions[name].trigger()


def window(volume: Any) -> tuple[float, float]:
    display = volume.GetDisplayNode()
    return display.GetWindow(), display.GetLevel()


def test_a_ct_is_offered_soft_tissue_once(desk: Desk, stand_ins: Any, tmp_path: Any) -> None:
    volume = load_sample()
    assert volume.GetDisplayNode().GetAutoWindowLevel() and window(volume)[0] > 800
    before = window(volume)
    desk.ui.volumeSelector.setCurrentNode(volume)
    assert offered(desk) and window(volume) == before, "nothing is changed unasked"
    assert desk.ui.windowButton.text == "Automatic"
    desk.ui.takeWindowButton.click()
    assert not offered(desk) and window(volume) == (400.0, 40.0)
    assert desk.ui.windowButton.text == "Soft tissue"
    # What the model sees is what the views show.
    assert (displayWindow(volume).width, displayWindow(volume).level) == (400.0, 40.0)
    choose(desk, "automatic")
    assert window(volume) == before and not offered(desk), "it was answered"
    stand_ins.saveScene(tmp_path / "scene.mrb")
    slicer.mrmlScene.Clear(False)
    stand_ins.loadScene(tmp_path / "scene.mrb")
    assert desk.ui.volumeSelector.currentNode().GetDisplayNode().GetAutoWindowLevel()
    assert not offered(desk), "also in the saved scene"


def test_keeping_the_window_is_an_answer_for_that_volume_alone(desk: Desk) -> None:
    first, second = load_sample(), load_sample()
    desk.ui.volumeSelector.setCurrentNode(first)
    before = window(first)
    desk.ui.keepWindowButton.click()
    assert not offered(desk) and window(first) == before
    desk.ui.volumeSelector.setCurrentNode(second)
    assert offered(desk)
    desk.ui.volumeSelector.setCurrentNode(first)
    assert not offered(desk)


def test_a_window_of_the_users_own_is_left_alone(desk: Desk) -> None:
    volume = load_sample()
    desk.ui.volumeSelector.setCurrentNode(volume)
    # As with the mouse in a view.
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevel(900.0, 10.0)
    assert not offered(desk) and desk.ui.windowButton.text == "Window"
    volume.GetDisplayNode().SetWindowLevel(*PRESETS["lung"])
    assert desk.ui.windowButton.text == "Lung"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_sets_the_views(desk: Desk, name: str) -> None:
    volume = load_sample()
    desk.ui.volumeSelector.setCurrentNode(volume)
    choose(desk, name)
    assert window(volume) == PRESETS[name]
    assert desk.ui.windowButton.text == desk.widget.panel.window.actions[name].text


def test_a_ct_stored_without_a_sign_gets_its_windows_where_its_values_are(desk: Desk) -> None:
    node = load_sample()
    values = slicer.util.arrayFromVolume(node).astype(np.int16) + 1024
    volume = addVolume(boot(), values)
    desk.ui.volumeSelector.setCurrentNode(volume)
    choose(desk, "lung")
    assert window(volume) == (1500.0, 424.0) and desk.ui.windowButton.text == "Lung"


def test_an_mr_has_the_automatic_window_and_nothing_is_offered(desk: Desk) -> None:
    volume = mr()
    desk.ui.volumeSelector.setCurrentNode(volume)
    actions = desk.widget.panel.window.actions
    assert [name for name, one in actions.items() if one.isVisible()] == ["automatic"]
    assert not offered(desk)
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevel(5.0, 5.0)
    choose(desk, "automatic")
    assert volume.GetDisplayNode().GetAutoWindowLevel() and window(volume) != (5.0, 5.0)


def test_without_a_volume_it_says_so_and_a_removed_one_is_let_go_of(desk: Desk) -> None:
    assert not desk.ui.windowButton.enabled and desk.ui.windowButton.toolTip == "Choose a volume first."
    volume = load_sample()
    desk.ui.volumeSelector.setCurrentNode(volume)
    event = slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent
    assert offered(desk) and volume.HasObserver(event)
    slicer.mrmlScene.RemoveNode(volume)
    assert not offered(desk) and not desk.ui.windowButton.enabled
    assert not volume.HasObserver(event)
