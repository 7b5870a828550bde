"""Mouse and keys in real slice views: every tool, in every kind of view, and what is left alone."""

# ruff: noqa: N802, N803

from __future__ import annotations

import numpy as np
import pytest

from SAM2PropagateLib.gui.view_input import ViewInput
from SAM2PropagateLib.scene.prompt_nodes import promptNodes
from Testing.gui.cases import Case
from Testing.gui.fake_session import disc

VIEWS = ("Axial", "Sagittal", "Coronal", "oblique")


class ViewCase(Case):
    """A case with one slice view in which the user works."""

    def __init__(self, headless, openView, view="Axial", geometry="plain"):
        super().__init__(headless, geometry)
        self.view = openView(size=(300, 280))
        self.view.show(self.volumeNode)
        if view == "oblique":
            matrix = np.array(self.view.node.GetSliceToRAS().GetData()).reshape(4, 4)
            angle = np.deg2rad(20)
            normal = matrix[:3, 2] * np.cos(angle) + matrix[:3, 1] * np.sin(angle)
            self.view.node.SetSliceToRASByNTP(*normal, *matrix[:3, 0], *matrix[:3, 3], 0)
        else:
            self.view.setOrientation(view)
        self.view.show(self.volumeNode)
        self.view.jumpTo(self.geometry.ijk_to_world((20, 18, 9)))
        self.pressed = []
        self.input = ViewInput(
            self.controller, lambda: self.pressed.append("P"), lambda: self.pressed.append("N")
        )
        self.input.addSliceView(self.view._interactor, self.view.node)
        self.input.start()

    def xy(self, ijk):
        return self.view.rasToXy(self.geometry.ijk_to_world(ijk))

    def clickAt(self, ijk):
        self.view.click(self.xy(ijk))
        self.controller.wait(5)

    def key(self, key, ijk=(20, 18, 9), **modifiers):
        self.view.move(self.xy(ijk))
        self.view.event("KeyPressEvent", self.xy(ijk), key=key, **modifiers)
        self.controller.wait(5)

    def voxel(self, ras):
        return tuple(int(n) for n in np.rint(self.geometry.ras_to_ijk(ras)))


@pytest.fixture
def opened(headless, openView):
    cases = []

    def make(*args):
        cases.append(ViewCase(headless, openView, *args))
        return cases[-1]

    yield make
    for case in cases:
        case.input.stop()
        case.controller.close()


@pytest.mark.parametrize("view", VIEWS)
def test_clicks_land_on_the_voxel_under_the_mouse(opened, view):
    case = opened(view)
    case.controller.chooseTool("positive")
    case.clickAt((20, 18, 9))
    case.controller.chooseTool("negative")
    aside = {"Axial": (25, 18, 9), "Sagittal": (20, 23, 9), "Coronal": (25, 18, 9), "oblique": (25, 18, 9)}
    case.clickAt(aside[view])
    first, second = case.workspace.prompts.segment("A").clicks
    expected = {first.positive: first, second.positive: second}
    assert case.voxel(expected[True].ras) == (20, 18, 9)
    assert case.voxel(expected[False].ras) == aside[view]
    assert case.workspace.axis == {"Axial": 2, "Sagittal": 0, "Coronal": 1, "oblique": 2}[view]
    assert len(case.arrived) == 2


@pytest.mark.parametrize("view", VIEWS)
def test_a_box_is_dragged_and_the_next_one_too(opened, view):
    case = opened(view)
    case.controller.chooseTool("box")
    x, y = case.xy((20, 18, 9))
    case.view.drag((x - 25, y - 20), (x + 25, y + 20))
    case.controller.wait(5)
    (box,) = case.workspace.prompts.segment("A").boxes
    frame = (20, 18, 9)[case.workspace.axis]
    assert case.workspace.previewFrames("A") == {frame}
    assert case.shown(frame).sum() > 20
    assert case.controller.tool == "box"
    case.view.drag((x - 15, y - 12), (x + 25, y + 20))
    case.controller.wait(5)
    (again,) = case.workspace.prompts.segment("A").boxes
    assert again.id != box.id
    assert case.controller.undoPrompt()
    (back,) = case.workspace.prompts.segment("A").boxes
    assert back.id == box.id


def test_a_drag_that_is_no_box_is_explained(opened):
    case = opened()
    case.controller.chooseTool("box")
    x, y = case.xy((20, 18, 9))
    case.view.drag((x, y), (x + 1, y + 1))
    assert case.codes == ["no_box"] and case.controller.tool == "box"
    assert case.workspace.prompts.is_empty


def test_a_box_in_a_view_across_the_slices_is_refused(opened, openView):
    case = opened()
    case.controller.chooseTool("positive")
    case.clickAt((20, 18, 9))
    side = openView("Yellow", "Sagittal", (300, 280))
    side.show(case.volumeNode)
    side.jumpTo(case.geometry.ijk_to_world((20, 18, 9)))
    case.input.stop()
    case.input.addSliceView(side._interactor, side.node)
    case.input.start()
    case.controller.chooseTool("box")
    x, y = side.rasToXy(case.geometry.ijk_to_world((20, 18, 9)))
    side.drag((x - 25, y - 20), (x + 25, y + 20))
    assert case.codes == ["refused"] and "axial" in case.texts[0]
    assert case.workspace.prompts.segment("A").boxes == ()
    assert list(promptNodes(case.segmentationNode, "A", "box")) == []


@pytest.mark.parametrize("view", VIEWS)
def test_marks_are_about_the_slice_that_was_clicked(opened, view):
    case = opened(view)
    case.controller.chooseTool("positive")
    case.clickAt((20, 18, 9))
    case.controller.chooseTool("lock")
    case.clickAt((20, 18, 9))
    assert case.controller.tool is None, "a mark is made once"
    frame = (20, 18, 9)[case.workspace.axis]
    assert case.controller.strip().frames[frame].isLocked
    case.key("l")
    assert not case.controller.strip().frames[frame].isLocked
    case.key("e")
    assert case.controller.strip().frames[frame].isAbsent


def test_keys_press_the_tools_and_take_nothing_else(opened):
    case = opened()
    seen = []
    case.view._interactor.AddObserver("KeyPressEvent", lambda caller, _: seen.append(caller.GetKeySym()), 1.0)
    case.key("a")
    assert case.controller.tool == "positive"
    case.key("d")
    assert case.controller.tool == "negative"
    case.key("d")
    assert case.controller.tool is None
    case.key("p")
    case.key("n")
    assert case.pressed == ["P", "N"] and seen == []
    for key in ("v", "r", "g", "Escape", "Delete"):
        case.key(key)
    case.key("a", ctrl=True)
    assert seen == ["v", "r", "g", "Escape", "Delete", "a"] and case.controller.tool is None


def test_without_a_tool_and_with_a_modifier_clicks_are_slicers(opened):
    case = opened()
    case.clickAt((20, 18, 9))
    case.controller.chooseTool("positive")
    case.view.click(case.xy((20, 18, 9)), shift=True)
    case.view.drag(case.xy((20, 18, 9)), case.xy((26, 20, 9)))
    assert case.workspace.prompts.is_empty


def test_a_prompt_is_dragged_with_the_tool_still_on(opened):
    case = opened()
    case.controller.chooseTool("positive")
    case.clickAt((12, 12, 9))
    case.view.render()
    case.view.drag(case.xy((12, 12, 9)), case.xy((24, 20, 9)))
    case.controller.wait(5)
    (click,) = case.workspace.prompts.segment("A").clicks
    assert case.voxel(click.ras) == (24, 20, 9)
    np.testing.assert_array_equal(case.shown(9).sum(), disc(20, 18, (36, 40)).sum())


def test_a_click_beside_the_image_is_refused(opened):
    case = opened()
    case.controller.chooseTool("positive")
    case.view.click((3, 3))
    assert case.codes == ["outside_volume"] and case.workspace.prompts.is_empty


def test_a_click_in_the_3d_view_is_refused_and_turning_it_is_not(opened, openView):
    case = opened()
    other = openView("Green", "Coronal", (200, 200))  # any interactor does
    case.input.stop()
    case.input.add3DView(other._interactor)
    case.input.start()
    other.click((50, 50))
    assert case.codes == []
    case.controller.chooseTool("positive")
    other.drag((50, 50), (90, 60))
    assert case.codes == []
    other.click((50, 50))
    assert case.codes == ["3d_view"]
    assert case.workspace.prompts.is_empty


def test_stopping_leaves_no_observer(opened):
    case = opened()
    interactor = case.view._interactor
    case.controller.chooseTool("box")
    case.input.stop()
    x, y = case.xy((20, 18, 9))
    case.view.drag((x - 25, y - 20), (x + 25, y + 20))
    case.view.click((x, y))
    case.key("a")
    assert case.workspace.prompts.is_empty and case.controller.tool == "box"
    assert not interactor.HasObserver("KeyPressEvent") or not case.input.isOn


def test_the_next_doubtful_slice_comes_into_view(opened):
    case = opened()
    case.controller.chooseTool("positive")
    case.clickAt((20, 18, 9))
    case.run()
    assert case.controller.strip().doubtful
    from SAM2PropagateLib.gui.navigation import frameInView

    shown = []
    for _ in range(3):
        frame = case.controller.nextDoubtful()
        scene = case.volumeNode.GetScene()
        assert frameInView(scene, case.geometry, 2) == frame
        shown.append(frame)
    assert shown == [14, 4, 9] or len(set(shown)) == 3


def test_the_preview_is_drawn_and_prompts_hide_off_their_slice(opened):
    case = opened()
    before = case.view.screenshot()
    case.controller.chooseTool("positive")
    case.clickAt((20, 18, 9))
    drawn = case.view.screenshot()
    green = (drawn[..., 1].astype(int) - drawn[..., 0] > 25).sum()
    assert green > 100 and (before[..., 1].astype(int) - before[..., 0] > 25).sum() == 0
    case.view.wheel(case.xy((20, 18, 9)), 2)
    away = case.view.screenshot()
    assert (away[..., 1].astype(int) - away[..., 0] > 25).sum() == 0
