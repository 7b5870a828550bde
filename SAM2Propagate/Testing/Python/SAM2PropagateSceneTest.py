"""The library in Slicer's own Python: the sample, its place in the world, the scene saved and loaded again.

Run inside Slicer by CTest (`slicer_add_python_unittest`), and without Slicer by `python3 run.py test`.
"""

import tempfile
import unittest
from pathlib import Path

import numpy as np
import slicer
import vtk

import SAM2Propagate
from SAM2PropagateLib.prompts.resolve import resolve
from SAM2PropagateLib.prompts.values import Click, SegmentPrompts


class SAM2PropagateSceneTest(unittest.TestCase):
    """What the module does with the scene."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()
        self.logic = SAM2Propagate.SAM2PropagateLogic()
        self.node = slicer.util.loadVolume(str(SAM2Propagate.samplePath()))

    def tearDown(self) -> None:
        self.logic.close()
        slicer.mrmlScene.Clear()

    def test_everyVoxelIsWhereSlicerHasIt(self) -> None:
        volume = self.logic.readVolume(self.node)
        matrix = vtk.vtkMatrix4x4()
        self.node.GetIJKToRASMatrix(matrix)
        for ijk in ((0, 0, 0), (121, 100, 111), (60, 50, 40)):
            expected = matrix.MultiplyPoint((*ijk, 1))[:3]
            np.testing.assert_allclose(volume.geometry.ras_of_ijk(np.array(ijk, float)), expected, atol=1e-6)
            value = self.node.GetImageData().GetScalarComponentAsDouble(*ijk, 0)
            self.assertEqual(volume.array[ijk[2], ijk[1], ijk[0]], value)

    def test_clickUnderATransformLandsOnItsVoxel(self) -> None:
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        turn = vtk.vtkTransform()
        turn.RotateX(20)
        turn.Translate(11, -7, 3)
        transform.SetMatrixTransformToParent(turn.GetMatrix())
        self.node.SetAndObserveTransformNodeID(transform.GetID())
        matrix = vtk.vtkMatrix4x4()
        self.node.GetIJKToRASMatrix(matrix)
        world = turn.TransformPoint(matrix.MultiplyPoint((60, 50, 40, 1))[:3])

        geometry = self.logic.readVolume(self.node).geometry
        prompts = SegmentPrompts("kidney").add(Click("one", tuple(float(value) for value in world)))
        resolved = resolve(prompts, geometry, axis=2)
        self.assertEqual(list(resolved.keyframes), [40])
        (click,) = resolved.keyframes[40].clicks
        np.testing.assert_allclose(click[:2], (60, 50), atol=1e-4)

    def test_choicesComeBackWithTheScene(self) -> None:
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Result")
        parameters = self.logic.getParameterNode()
        parameters.inputVolume = self.node
        parameters.segmentation = segmentation
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scene.mrb"
            self.assertTrue(slicer.util.saveScene(str(file)))
            slicer.mrmlScene.Clear()
            self.assertIsNone(self.logic.getParameterNode().inputVolume)
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(str(file))
            parameters = self.logic.getParameterNode()
            self.assertEqual(parameters.segmentation.GetName(), "Result")
            self.assertEqual(
                self.logic.readVolume(parameters.inputVolume).geometry.shape_ijk, (122, 101, 112)
            )


if __name__ == "__main__":
    unittest.main()
