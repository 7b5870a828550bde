"""Prompts of saved scenes, read without Slicer: what the module would read, for every geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.scene_prompts import prompts_from_scene, read_scene
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.scene.state import ROLE_ATTRIBUTE
from Testing.scene.test_markups import MarkupCase, assertSame


def save(headless, folder: Path, case: MarkupCase, suffix: str = ".mrb", axis: int = 2):
    """The scene of a case with prompts of every kind, saved; the prompts and the file."""
    prompts = case.prompts(axis)
    case.markups.write(prompts)
    headless.saveScene(folder / f"my scene{suffix}")
    return prompts, folder / f"my scene{suffix}"


@pytest.mark.parametrize("suffix", [".mrb", ".mrml"])
@pytest.mark.parametrize("geometry", ["plain", "oblique mirrored", "under transforms"])
@pytest.mark.parametrize("axis", [0, 2])
def test_a_saved_scene_gives_the_prompts_of_the_module(headless, tmp_path, geometry, suffix, axis):
    case = MarkupCase(headless, geometry)
    prompts, file = save(headless, tmp_path, case, suffix, axis)
    assertSame(case, prompts_from_scene(file, case.geometry), prompts, axis)


def test_segments_have_their_names_also_where_two_are_called_the_same(headless, tmp_path):
    case = MarkupCase(headless)
    for segment in ("A", "B"):
        case.segmentationNode.GetSegmentation().GetSegment(segment).SetName("Leber & Milz; ü%")
    _, file = save(headless, tmp_path, case)
    found = prompts_from_scene(file, case.geometry)
    assert found.names == ("Leber & Milz; ü%", "Leber & Milz; ü% (2)")


def test_prompts_of_another_volume_are_refused(headless, tmp_path):
    case = MarkupCase(headless)
    _, file = save(headless, tmp_path, case)
    shifted = case.geometry.ijk_to_ras.copy()
    shifted[0, 3] += 40.0
    with pytest.raises(InputError, match="another size or place: “CT”") as raised:
        prompts_from_scene(file, VolumeGeometry(case.geometry.shape_ijk, shifted))
    assert raised.value.code == "other_volume"
    # Slicer may turn the order of the voxels around; the patient stays where they are.
    turned = case.geometry.ijk_to_ras @ np.array(
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, case.geometry.shape_ijk[2] - 1], [0, 0, 0, 1]]
    )
    assert prompts_from_scene(file, VolumeGeometry(case.geometry.shape_ijk, turned)).names == ("A", "B")


def test_a_prompt_that_was_taken_out_of_the_transform_is_refused(headless, tmp_path):
    case = MarkupCase(headless, "under transforms")
    case.markups.write(case.prompts())
    case.markups.nodes("A")[0].SetAndObserveTransformNodeID(None)
    headless.saveScene(tmp_path / "scene.mrb")
    with pytest.raises(InputError, match="not under the same transform") as raised:
        prompts_from_scene(tmp_path / "scene.mrb", case.geometry)
    assert raised.value.code == "moved_prompts"


def test_a_kind_of_prompt_of_a_later_version_is_told_and_not_left_out(headless, tmp_path):
    case = MarkupCase(headless)
    case.markups.write(case.prompts())
    known = case.markups.nodes("A")[0]
    later = headless.scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", "Ruler")
    later.CopyReferences(known)
    for name in known.GetAttributeNames():
        later.SetAttribute(name, known.GetAttribute(name))
    later.SetAttribute(ROLE_ATTRIBUTE, "ruler")
    headless.saveScene(tmp_path / "scene.mrb")
    with pytest.raises(InputError, match="“Ruler” is a kind of prompt that this version") as raised:
        prompts_from_scene(tmp_path / "scene.mrb", case.geometry)
    assert raised.value.code == "future_version"


def test_a_scene_without_prompts_says_so(headless, tmp_path):
    case = MarkupCase(headless)
    headless.saveScene(tmp_path / "scene.mrb")
    assert read_scene(tmp_path / "scene.mrb") == ()
    with pytest.raises(InputError, match="holds no prompts") as raised:
        prompts_from_scene(tmp_path / "scene.mrb", case.geometry)
    assert raised.value.code == "no_prompts"
