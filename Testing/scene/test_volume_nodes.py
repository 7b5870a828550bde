"""Volume nodes as arrays, geometries and windows; what cannot be used is refused in a sentence."""

from __future__ import annotations

import numpy as np
import pytest
import slicer.util
import vtk

from Headless.scenes import addTransform, addVolume
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.scene.volume import displayWindow, readVolume, volumeGeometry
from Testing.scene.geometries import GEOMETRIES, addCase, block


@pytest.mark.parametrize("case", GEOMETRIES)
def test_geometry_is_what_slicer_draws(headless, case):
    node = addCase(headless, case)
    geometry = volumeGeometry(node)
    ijk = np.array([3.0, 11.0, 7.0])
    local = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(local)
    world = [0.0, 0.0, 0.0]
    node.TransformPointToWorld(local.MultiplyPoint([*ijk, 1.0])[:3], world)
    np.testing.assert_allclose(geometry.ras_of_ijk(ijk), world, atol=1e-9)
    assert geometry.shape_ijk == node.GetImageData().GetDimensions()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_the_array_is_the_nodes_own_and_no_copy(headless, dtype):
    node = addVolume(headless, block().astype(dtype))
    volume = readVolume(node)
    assert volume.array.dtype == dtype
    assert np.shares_memory(volume.array, slicer.util.arrayFromVolume(node))
    np.testing.assert_array_equal(volume.array, block().astype(dtype))
    assert not volume.array.flags.writeable


def test_the_window_is_the_displays(headless):
    node = addVolume(headless, block())
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(180, 70)
    volume = readVolume(node)
    assert (volume.window.width, volume.window.level) == (180, 70)
    assert volume.frames(2).frame(3).shape == volume.geometry.frame_shape(2)


def test_a_volume_without_display_gets_a_fitting_window(headless):
    node = addVolume(headless, block())
    headless.scene.RemoveNode(node.GetDisplayNode())
    window = displayWindow(node)
    assert window.low < 60 and window.high > 150


def _deformed(headless):
    node = addVolume(headless, block())
    transform = headless.scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    warp = vtk.vtkThinPlateSplineTransform()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in ((0, 0, 0), (30, 0, 0), (0, 30, 0), (0, 0, 30), (20, 20, 20)):
        source.InsertNextPoint(point)
        target.InsertNextPoint(point if point[0] != 20 else (25, 20, 20))
    warp.SetSourceLandmarks(source)
    warp.SetTargetLandmarks(target)
    warp.SetBasisToR()
    transform.SetAndObserveTransformToParent(warp)
    inner = addTransform(headless, np.eye(4), "inner", transform)
    node.SetAndObserveTransformNodeID(inner.GetID())
    return node


def _color(headless):
    node = headless.scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    slicer.util.updateVolumeFromArray(node, np.zeros((4, 5, 6, 3), np.uint8))
    return node


def _sequence(headless):
    node = addVolume(headless, block(), name="beating heart")
    sequence = headless.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "heart cycle")
    browser = headless.scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    sequence.SetDataNodeAtValue(node, "0")
    browser.AddSynchronizedSequenceNode(sequence)
    browser.AddProxyNode(node, sequence, False)
    return browser.GetProxyNode(sequence)


def _labels(headless):
    node = headless.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.util.updateVolumeFromArray(node, block())
    return node


REFUSED = {
    "no_volume": lambda headless: None,
    "not_a_volume": lambda headless: headless.scene.AddNewNodeByClass("vtkMRMLModelNode", "bone"),
    "label_volume": _labels,
    "multi_component": _color,
    "sequence_volume": _sequence,
    "empty": lambda headless: headless.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing"),
    "nonlinear_transform": _deformed,
    "too_few_slices": lambda headless: addVolume(headless, block()[:1]),
    "constant_volume": lambda headless: addVolume(headless, np.full((5, 6, 7), 3, np.int16)),
    "all_nan": lambda headless: addVolume(headless, np.full((5, 6, 7), np.nan, np.float32)),
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_cannot_be_used_is_refused(headless, code):
    node = REFUSED[code](headless)
    with pytest.raises(InputError) as refused:
        readVolume(node)
    assert refused.value.code == code
    assert refused.value.sentence.endswith(".") and refused.value.hint.endswith(".")


def test_a_geometry_is_made_once_until_something_is_moved(headless):
    from SAM2PropagateLib.scene.volume import ownGeometry

    node = addVolume(headless, np.zeros((4, 5, 6), np.int16))
    first = ownGeometry(node)
    assert ownGeometry(node) is first and volumeGeometry(node) is volumeGeometry(node)
    node.SetOrigin(1, 2, 3)
    assert ownGeometry(node) is not first
    np.testing.assert_allclose(ownGeometry(node).ijk_to_ras[:3, 3], (1, 2, 3))
