"""Saving the work, and seeing that it comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from Demo.desk import DemoDesk
from Demo.measure import BoolArray
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.scene.markups import PromptMarkups
from SAM2PropagateLib.scene.segments import SegmentReader
from SAM2PropagateLib.scene.volume import readVolume

# isort: split
import slicer.util


def save(desk: DemoDesk, segmentation: Path, scene: Path) -> None:
    """Writes the segmentation and the whole scene.

    Raises:
        SAM2PropagateError: `not_written`.
    """
    try:
        if not slicer.util.saveNode(desk.segmentationNode, str(segmentation)):
            raise OSError("Slicer's writer failed")
        # The archive keeps its own copy under a name of its own.
        desk.headless.saveScene(scene)
    except (OSError, RuntimeError) as error:
        raise SAM2PropagateError(
            "not_written",
            f"The results cannot be written to “{segmentation.parent}” ({error}).",
            "Check that the folder can be written to and the disk is not full.",
        ) from error


def check_saved(desk: DemoDesk, segmentation: Path, scene: Path) -> None:
    """Loads both files again, the scene in place of the present one, and compares them with what was saved.

    Afterwards the desk's nodes are gone.

    Raises:
        SAM2PropagateError: `saved_differs`.
    """
    headless = desk.headless
    masks, prompts, voxels = desk.masks(), desk.prompts, desk.volume.array.copy()
    desk.close()
    headless.loadScene(scene)
    volume_node = _only("vtkMRMLScalarVolumeNode")
    segmentation_node = _only("vtkMRMLSegmentationNode")
    volume = readVolume(volume_node)
    if not np.array_equal(volume.array, voxels):
        raise _differs(scene, "the CT")
    _compare_masks(scene, segmentation_node, volume, masks)
    loaded = PromptMarkups(segmentation_node, volume_node).read().with_axis(prompts.axis)
    if _said(loaded) != _said(prompts):
        raise _differs(scene, "the prompts")
    file_node = slicer.util.loadSegmentation(str(segmentation))
    _compare_masks(segmentation, file_node, volume, masks)


def _compare_masks(file: Path, node: Any, volume: Any, masks: dict[str, BoolArray]) -> None:
    for name, mask in masks.items():
        if not np.array_equal(SegmentReader(node, name, volume.geometry).array(), mask):
            raise _differs(file, f"the segment “{name}”")


def _said(prompts: PromptSet) -> list[tuple[object, ...]]:
    """Prompts as values to compare: places to a hundredth of a millimeter."""
    said: list[tuple[object, ...]] = []
    for one in prompts.segments:
        said += [(one.segment, "click", _rounded(click.ras), click.positive) for click in one.clicks]
        for box in one.boxes:
            ends = np.array([box.corner_a, box.corner_b])
            said.append((one.segment, "box", _rounded(ends.min(axis=0)), _rounded(ends.max(axis=0))))
        said += [(one.segment, "mask", _rounded(mask.origin), mask.mask.tobytes()) for mask in one.masks]
        if one.range is not None:
            said.append((one.segment, "range", _rounded(one.range.first), _rounded(one.range.last)))
    return said


def _rounded(place: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 2) for value in place)


def _only(class_name: str) -> Any:
    nodes = slicer.util.getNodesByClass(class_name)
    if len(nodes) != 1:
        raise SAM2PropagateError(
            "saved_differs", f"The saved scene has {len(nodes)} nodes of the class {class_name}, not one."
        )
    return nodes[0]


def _differs(file: Path, what: str) -> SAM2PropagateError:
    return SAM2PropagateError(
        "saved_differs",
        f"Loaded again, “{file}” differs from what was saved: {what}.",
        "Tell the developers.",
    )
