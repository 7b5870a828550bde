"""The user's hand in the Segment Editor: painting and erasing on one slice."""

from __future__ import annotations

from typing import Any

import numpy as np

from Demo.measure import BoolArray
from SAM2PropagateLib.scene.segment_writer import LogicSegmentWriter

# isort: split
import slicer
from vtk.util.numpy_support import numpy_to_vtk


class Brush:
    """Paints through the Segment Editor's own logic, which masks.

    Args:
        segmentation_node: what to paint in; its grid is the volume's.
        volume_node: what is shown.
    """

    def __init__(self, segmentation_node: Any, volume_node: Any) -> None:
        self._volume_node = volume_node
        self._editor = LogicSegmentWriter(segmentation_node, volume_node)

    def change(self, segment: str, frame: int, paint: BoolArray, erase: BoolArray) -> None:
        """Paints some pixels of an axial slice and erases others; (rows, columns) bool."""
        self._editor.prepare()
        try:
            if erase.any():
                self._editor.modify(segment, self._labelmap(erase, frame), "remove")
            if paint.any():
                self._editor.modify(segment, self._labelmap(paint, frame), "add")
        finally:
            self._editor.finish()

    def close(self) -> None:
        """Puts the brush away."""
        self._editor.close()

    def _labelmap(self, pixels: BoolArray, frame: int) -> Any:
        matrix = slicer.util.vtkMatrixFromArray(np.eye(4))
        self._volume_node.GetIJKToRASMatrix(matrix)
        image = slicer.vtkOrientedImageData()
        rows, columns = pixels.shape
        image.SetExtent(0, columns - 1, 0, rows - 1, frame, frame)
        image.SetGeometryFromImageToWorldMatrix(matrix)
        voxels = np.ascontiguousarray(pixels, dtype=np.uint8).ravel()
        image.GetPointData().SetScalars(numpy_to_vtk(voxels, deep=True))
        return image
