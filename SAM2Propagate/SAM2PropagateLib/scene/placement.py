"""Tracks how a segmentation's labelmaps lie on a volume's voxels, to tell a move from an edit."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk

from SAM2PropagateLib.frames.geometry import FloatArray
from SAM2PropagateLib.scene.segments import binaryLabelmapName, segmentIDs
from SAM2PropagateLib.scene.transforms import between, isLinear, parentToWorld, toArray, toMatrix
from SAM2PropagateLib.scene.volume import ijkToRas

# Matrices are compared to this many decimals.
_DECIMALS = 4

Key = tuple[float, ...]


class Placement:
    """Records where labelmaps are, and notices when they are moved against the volume.

    Hardening a transform moves labelmaps within their segmentation, but not against the volume. An undo may
    bring back states from before the hardening, at their old place: `restore` moves them to the new one. Call
    it within the undo, from an event of the vtkSegmentation: later the undo history would take it as a new
    step, and there would be nothing to redo.

    Args:
        segmentationNode, volumeNode: both in a scene.
    """

    def __init__(self, segmentationNode: Any, volumeNode: Any) -> None:
        self._segmentationNode = segmentationNode
        self._volumeNode = volumeNode
        # Per segment its labelmap's matrix within the segmentation, and the one to the volume's voxels.
        self._noted: dict[str, tuple[FloatArray, FloatArray]] = {}
        self._inputs: object = None
        self._written: dict[str, Key] = {}
        self._isRestoring = False
        # The moves that `restore` made during the present undo.
        self._restored: dict[str, FloatArray] = {}
        # Per place from before a transform was hardened the place after it.
        self._hardened: dict[Key, FloatArray] = {}

    def note(self, isNew: bool = False) -> None:
        """Records where the labelmaps are now.

        Args:
            isNew: only those that are not recorded yet.

        Raises:
            InputError: `nonlinear_transform`.
        """
        now = self._now()
        self._noted = {**now, **self._noted} if isNew else now
        if not isNew:
            self._written = {name: _key(toVolume) for name, (_, toVolume) in now.items()}

    def isElsewhere(self, segmentID: str) -> bool:
        """Tells whether a segment lies elsewhere on the volume than at the last record, after a commit.

        Raises:
            InputError: `nonlinear_transform`.
        """
        written, now = self._written.get(segmentID), self._now().get(segmentID)
        return written is not None and now is not None and written != _key(now[1])

    def isShifted(self, segmentID: str) -> bool:
        """Tells whether a segment that is elsewhere was only shifted.

        Otherwise it was turned or scaled, or resampled onto another grid at the same place.

        Raises:
            InputError: `nonlinear_transform`.
        """
        written, now = self._written.get(segmentID), self._now().get(segmentID)
        if written is None or now is None:
            return False
        return bool(np.array_equal(_linear(written), _linear(_key(now[1]))))

    def hasMoved(self) -> bool:
        """Tells whether a labelmap was moved against the volume since the last record; records the new
        places.

        Raises:
            InputError: `nonlinear_transform`.
        """
        space, own = between(self._segmentationNode, self._volumeNode), ijkToRas(self._volumeNode)
        inputs = (_key(space), _key(own), {name: _key(one) for name, one in self._matrices().items()})
        if inputs == self._inputs:
            return False
        self._inputs = inputs
        before, self._noted = self._noted, self._now()
        hasMoved = False
        for name, (matrix, toVolume) in self._noted.items():
            old, oldToVolume = before.get(name, (matrix, toVolume))
            if _key(oldToVolume) != _key(toVolume):
                hasMoved = True
            elif _key(old) != _key(matrix):
                self._harden(old, matrix)
        return hasMoved

    def restore(self) -> None:
        """Moves labelmaps to their place that an undo brought back from before a transform was hardened."""
        if not self._hardened or self._isRestoring:
            return
        self._isRestoring = True
        node = self._segmentationNode
        parent = parentToWorld(node) if isLinear(node) else np.eye(4)
        try:
            images = self._images()
            for name, matrix in self._matrices().items():
                wanted = self._hardened.get(_key(matrix))
                noted = self._noted.get(name)
                # Its transform is being hardened right now, back to an earlier place.
                isHardening = noted is not None and _key(parent @ noted[0]) == _key(matrix)
                if wanted is not None and not isHardening:
                    images[name].SetGeometryFromImageToWorldMatrix(toMatrix(wanted))
                    # Segments may share a labelmap: all of them have moved with it.
                    for other, image in images.items():
                        if image is images[name]:
                            self._restored[other] = wanted @ np.linalg.inv(matrix)
        finally:
            self._isRestoring = False

    def restoreSurfaces(self) -> None:
        """Moves the surfaces of labelmaps that `restore` has moved; call it after the undo."""
        restored, self._restored = self._restored, {}
        segmentation = self._segmentationNode.GetSegmentation()
        kind = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
        for name, matrix in restored.items():
            segment = segmentation.GetSegment(name)
            surface = segment.GetRepresentation(kind) if segment is not None else None
            if surface is None:
                continue
            transform, mover = vtk.vtkTransform(), vtk.vtkTransformPolyDataFilter()
            transform.SetMatrix(toMatrix(matrix))
            mover.SetTransform(transform)
            mover.SetInputData(surface)
            mover.Update()
            surface.DeepCopy(mover.GetOutput())
        if restored and self._segmentationNode.GetDisplayNode() is not None:
            self._segmentationNode.GetDisplayNode().Modified()

    def _harden(self, old: FloatArray, new: FloatArray) -> None:
        self._hardened = {key: new if _key(to) == _key(old) else to for key, to in self._hardened.items()}
        self._hardened[_key(old)] = new
        self._hardened.pop(_key(new), None)

    def _now(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        space = between(self._segmentationNode, self._volumeNode)
        toVoxels = np.linalg.inv(ijkToRas(self._volumeNode)) @ space
        return {
            name: (matrix, np.asarray(toVoxels @ matrix, dtype=np.float64))
            for name, matrix in self._matrices().items()
        }

    def _matrices(self) -> dict[str, FloatArray]:
        found = {}
        for name, image in self._images().items():
            matrix = vtk.vtkMatrix4x4()
            image.GetImageToWorldMatrix(matrix)
            found[name] = toArray(matrix)
        return found

    def _images(self) -> dict[str, Any]:
        """Returns the labelmaps that hold voxels, by segment ID."""
        segmentation, kind = self._segmentationNode.GetSegmentation(), binaryLabelmapName()
        images = {
            name: segmentation.GetSegment(name).GetRepresentation(kind)
            for name in segmentIDs(self._segmentationNode)
        }
        return {
            name: image for name, image in images.items() if image is not None and image.GetNumberOfPoints()
        }


def _key(matrix: FloatArray) -> Key:
    return tuple((np.round(matrix, _DECIMALS) + 0.0).ravel().tolist())


def _linear(key: Key) -> FloatArray:
    return np.array(key).reshape(4, 4)[:3, :3]
