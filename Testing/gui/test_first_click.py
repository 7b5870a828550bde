"""From an empty scene to the first mask, and from one structure to the next, without a detour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import slicer
import slicer.util

from Headless.boot import boot
from SAM2PropagateLib.app import rules
from Testing.gui.test_panel import Desk
from Testing.scene.geometries import addCase


@pytest.fixture
def desk(module: Any) -> Desk:
    return Desk(module)


def load(desk: Desk) -> Any:
    """A volume is loaded while the module is open: Slicer shows it in its views."""
    desk.volume = addCase(boot(), "plain")
    slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(desk.volume.GetID())
    return desk.volume


def segmentations() -> list[Any]:
    return [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        if not node.GetHideFromEditors()
    ]


def first(desk: Desk) -> Any:
    """A click in a view with the tool that is on; the segmentation it is in."""
    geometry = slicer.util  # the views know the volume alone
    from SAM2PropagateLib.scene.volume import volumeGeometry

    geometry = volumeGeometry(desk.volume)
    assert desk.controller.point(desk.controller.tool, geometry.ras_of_pixel(12, 15, 8, 2), (0, 0, 1))
    (segmentation,) = segmentations()
    return segmentation


def test_the_first_click_makes_a_segmentation_and_a_segment(desk: Desk) -> None:
    load(desk)
    assert desk.ui.volumeSelector.currentNode() is desk.volume
    assert desk.controller.tool == "positive" and desk.ui.positiveToolButton.checked
    assert segmentations() == [], "nothing is made before"
    segmentation = first(desk)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert desk.ui.segmentationSelector.currentNode() is segmentation
    assert desk.controller.segmentID == segmentation.GetSegmentation().GetNthSegmentID(0)
    assert desk.controller.tool == "positive" and desk.ui.positiveToolButton.checked
    desk.settle()
    assert desk.controller.workspace.previewFrames(desk.controller.segmentID) == {8}
    # The next one goes to the same.
    first(desk)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1


def test_a_scene_with_a_volume_alone_can_be_clicked_in_at_once(desk: Desk, tmp_path: Path) -> None:
    load(desk)
    file = str(tmp_path / "volume.mrb")
    assert slicer.util.saveScene(file)
    slicer.mrmlScene.Clear(False)
    assert desk.controller.tool is None
    slicer.util.loadScene(file)
    desk.volume = desk.ui.volumeSelector.currentNode()
    assert desk.volume is not None
    assert desk.controller.tool == "positive" and desk.ui.positiveToolButton.checked
    first(desk)


def test_a_segmentation_without_segments_gets_one(desk: Desk) -> None:
    desk.load()
    desk.ui.removeSegmentButton.click()
    assert desk.controller.segmentID == "" and desk.ui.positiveToolButton.enabled
    desk.controller.chooseTool("negative")
    assert first(desk) is desk.segmentation
    assert desk.segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert desk.controller.tool == "negative" and desk.controller.segmentID


def test_a_box_has_a_segment_to_be_drawn_for(desk: Desk) -> None:
    load(desk)
    desk.ui.boxToolButton.click()
    assert desk.controller.tool == "box" and desk.ui.boxToolButton.checked
    assert len(segmentations()) == 1 and desk.controller.segmentID


@pytest.mark.parametrize("drawn", ["box", "scribble", "lasso", "curve"])
def test_what_a_script_draws_makes_a_segment_like_a_click(desk: Desk, drawn: str) -> None:
    from SAM2PropagateLib.scene.volume import volumeGeometry

    load(desk)
    geometry = volumeGeometry(desk.volume)
    a, b, c = (geometry.ras_of_pixel(*place, 8, 2) for place in ((8, 8), (20, 10), (12, 20)))
    controller = desk.controller
    assert {
        "box": lambda: controller.addBox(a, (*c[:2], a[2])),
        "scribble": lambda: controller.addScribble([a, b, c]),
        "lasso": lambda: controller.addLasso([a, b, c]),
        "curve": lambda: controller.addCurve([a, b, c]),
    }[drawn]()
    [segmentation] = segmentations()
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert not controller.workspace.prompts.segment(controller.segmentID).is_empty


def test_no_tool_is_taken_up_where_something_is_segmented_or_the_mouse_is_in_use(desk: Desk) -> None:
    desk.load()
    desk.module.exit()
    desk.module.enter()
    assert desk.controller.tool is None
    slicer.mrmlScene.Clear(False)
    desk.parameters = desk.logic.getParameterNode()
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    interaction.SetCurrentInteractionMode(interaction.AdjustWindowLevel)
    load(desk)
    assert desk.ui.volumeSelector.currentNode() is desk.volume and desk.controller.tool is None
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    desk.module.exit()
    desk.module.enter()
    assert desk.controller.tool == "positive"
    desk.controller.chooseTool(None)
    desk.ui.opacitySlider.setValue(0.7)
    assert desk.controller.tool is None, "put away is put away"


def test_a_script_is_refused_without_a_segmentation(stand_ins: Any) -> None:
    from Headless.slicer_modules import ModuleInSlicer
    from Testing.gui.conftest import MODULE_FILE

    module = ModuleInSlicer(MODULE_FILE)
    logic = module.python.SAM2PropagateLogic()
    texts: list[str] = []
    logic.controller.message.connect(lambda message: texts.append(message.text))
    logic.controller.select(addCase(stand_ins, "plain"), None)
    assert not logic.controller.point("positive", (0, 0, 0))
    assert not logic.controller.addBox((0, 0, 0), (10, 10, 0))
    assert texts == ["Choose or create a segmentation first."] * 2 and segmentations() == []
    logic.close()
    module.close()


def prompts(desk: Desk, segmentID: str) -> list[tuple[bool, float]]:  # noqa: N803
    """Of the prompt nodes of a segment: whether they are locked, and how much is seen of them."""
    nodes = desk.controller.workspace.markups.nodes(segmentID)
    return [(bool(node.GetLocked()), node.GetDisplayNode().GetOpacity()) for node in nodes]


def test_the_next_structure_is_one_key_away_and_the_prompts_before_are_quiet(desk: Desk) -> None:
    desk.load()
    desk.click()
    before = desk.controller.segmentID
    assert prompts(desk, before) == [(False, 1.0)]
    desk.ui.boxToolButton.click()
    keys = desk.widget.views.actions
    keys["C"]()
    after = desk.controller.segmentID
    assert after not in ("", before) and desk.controller.tool == "positive"
    keys["C"]()
    assert desk.controller.tool == "positive", "it is not switched off by the second one"
    desk.ui.segmentsTable.setSelectedSegmentIDs([after])
    desk.controller.point("positive", desk.controller.workspace.geometry.ras_of_pixel(30, 25, 8, 2))
    desk.settle()
    ((isLocked, opacity),) = prompts(desk, before)  # noqa: N806
    assert isLocked and opacity < 0.5 and prompts(desk, after) == [(False, 1.0)]
    said = desk.controller.workspace.prompts.segment(before)
    assert len(said.clicks) == 1, "quiet, and there"
    desk.ui.segmentsTable.setSelectedSegmentIDs([before])
    assert prompts(desk, before) == [(False, 1.0)] and prompts(desk, after)[0][0]
    # What is added by a script to the other one is quiet, too.
    desk.controller.workspace.promptStore.write(said.remove(said.clicks[0].id))
    assert prompts(desk, after)[0][0]


def test_a_segment_is_added_to_nothing_and_refused_without_a_volume(desk: Desk) -> None:
    assert not desk.ui.addSegmentButton.enabled and desk.controller.whyNot(rules.ADD_SEGMENT)
    desk.widget.panel.segments.add()
    assert segmentations() == [] and "Choose a volume first" in desk.ui.messageLabel.text
    load(desk)
    desk.ui.addSegmentButton.click()
    (segmentation,) = segmentations()
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert desk.controller.segmentID and desk.controller.tool == "positive"


def test_surfaces_are_shown_and_taken_away(desk: Desk) -> None:
    from SAM2PropagateLib.scene.segments import hasSurfaces

    assert not desk.ui.show3DButton.enabled
    desk.load()
    desk.click()
    desk.ui.propagateButton.click()
    desk.settle()
    desk.ui.show3DButton.click()
    assert hasSurfaces(desk.segmentation) and desk.ui.show3DButton.checked
    segment = desk.segmentation.GetSegmentation().GetSegment(desk.controller.segmentID)
    name = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    assert segment.GetRepresentation(name).GetNumberOfPoints() > 50
    desk.ui.show3DButton.click()
    assert not hasSurfaces(desk.segmentation) and not desk.ui.show3DButton.checked
