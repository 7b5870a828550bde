"""Reads the segments of a segmentation node on a volume's grid, and shows them as surfaces."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import FloatArray, VolumeGeometry
from SAM2PropagateLib.scene.lattice import EMPTY, Lattice, resample
from SAM2PropagateLib.scene.transforms import between, parentToWorld, toArray
from SAM2PropagateLib.texts import tr as _

BoolArray = npt.NDArray[np.bool_]
# A voxel of the volume is sampled in at most this many steps along each axis.
_MOST_STEPS = 8


def binaryLabelmapName() -> str:
    """Returns Slicer's name of the binary labelmap representation."""
    return str(slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName())


def checkSegmentation(segmentationNode: Any) -> None:
    """Refuses a node that segments cannot be written to.

    Raises:
        InputError: `no_segmentation`, `not_a_segmentation`, `segmentation_not_labelmap`.
    """
    if segmentationNode is None:
        raise InputError(
            "no_segmentation", _("No segmentation is chosen."), _("Choose or create a segmentation.")
        )
    name = segmentationNode.GetName()
    if not segmentationNode.IsA("vtkMRMLSegmentationNode"):
        raise InputError(
            "not_a_segmentation",
            _("“{name}” is not a segmentation.").format(name=name),
            _("Choose a segmentation."),
        )
    segmentation = segmentationNode.GetSegmentation()
    source = segmentation.GetSourceRepresentationName()
    if segmentation.GetNumberOfSegments() and source != binaryLabelmapName():
        raise InputError(
            "segmentation_not_labelmap",
            _("“{name}” is stored as {source}, which has no voxels to edit.").format(
                name=name, source=source.lower()
            ),
            _("Make the binary labelmap its source representation in the Segmentations module first."),
        )


def checkSegment(segmentationNode: Any, segmentID: str) -> Any:
    """Returns the vtkSegment. Raises InputError `unknown_segment`, or as `checkSegmentation`."""
    checkSegmentation(segmentationNode)
    segment = segmentationNode.GetSegmentation().GetSegment(segmentID)
    if segment is None:
        raise InputError(
            "unknown_segment",
            _("“{name}” has no segment “{segment}”.").format(
                name=segmentationNode.GetName(), segment=segmentID
            ),
            _("Choose a segment of this segmentation."),
        )
    return segment


def segmentsByID(segmentation: Any) -> dict[str, Any]:
    """Returns a vtkSegmentation's segments by ID, in its order."""
    names = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    return {name: segmentation.GetSegment(name) for name in names}


def segmentIDs(segmentationNode: Any) -> tuple[str, ...]:
    """Returns the segments' IDs in the order of the segmentation."""
    segmentation = segmentationNode.GetSegmentation()
    return tuple(segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments()))


def segmentColor(segmentationNode: Any, segmentID: str) -> tuple[float, float, float]:
    """Returns a segment's display color, RGB, 0 to 1."""
    display = segmentationNode.GetDisplayNode()
    if display is not None:
        color = display.GetSegmentColor(segmentID)
        return float(color[0]), float(color[1]), float(color[2])
    r, g, b = segmentationNode.GetSegmentation().GetSegment(segmentID).GetColor()
    return float(r), float(g), float(b)


def volumeLattice(geometry: VolumeGeometry) -> Lattice:
    """Returns a volume's grid."""
    i, j, k = geometry.shape_ijk
    return Lattice(geometry.ijk_to_ras, (0, i - 1, 0, j - 1, 0, k - 1))


def imageLattice(image: Any, node: Any) -> Lattice:
    """Returns the grid of a vtkOrientedImageData that belongs to a (possibly transformed) node."""
    return _imageLattice(image, parentToWorld(node))


def _imageLattice(image: Any, space: FloatArray) -> Lattice:
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return Lattice(space @ toArray(matrix), tuple(image.GetExtent()))


def referenceLattice(segmentationNode: Any) -> Lattice | None:
    """Returns the grid on which the Segment Editor writes into a segmentation; None if it has none yet, and
    takes the volume's."""
    segmentation = segmentationNode.GetSegmentation()
    converter, image = slicer.vtkSegmentationConverter, slicer.vtkOrientedImageData()
    # While all segments are empty, the first one's labelmap is, too.
    text = segmentation.DetermineCommonLabelmapGeometry(
        segmentation.EXTENT_UNION_OF_EFFECTIVE_SEGMENTS, None
    ) or segmentation.GetConversionParameter(converter.GetReferenceImageGeometryParameterName())
    if not text or not converter.DeserializeImageGeometry(text, image, False):
        return None
    return imageLattice(image, segmentationNode)


def stepsPerVoxel(volume: Lattice, own: Lattice) -> tuple[int, int, int]:
    """Returns in how many steps along i, j and k a voxel of the volume has to be sampled to find the voxels
    of a segment's own grid; 1 where that is not finer.
    """
    if own.isEmpty or not own.isFinerThan(volume):
        return 1, 1, 1
    i, j, k = (min(max(math.ceil(step - 0.01), 1), _MOST_STEPS) for step in volume.stepsIn(own))
    return i, j, k


def frameMask(
    sample: Callable[[Lattice], BoolArray],
    box: Lattice,
    steps: tuple[int, int, int],
    axis: int,
    *,
    throughout: bool = False,
) -> BoolArray:
    """Returns a segment of a finer grid on a part of one frame, (rows, columns) bool.

    A pixel belongs to it if at least half of its area does, in the plane of the frame. If that plane lies
    between two layers of fine voxels, each counts half: this finds a stroke in one of them, and does not make
    a slanting surface too large.

    Args:
        sample: returns the segment on any grid.
        box: the part of the frame, on the volume's grid. steps: see `stepsPerVoxel`.
        throughout: use all layers that the frame covers, not only its plane, so that no voxel is missed: if
            no pixel is half covered, every touched pixel counts.
    """
    voxels = np.moveaxis(sample(box.refined(steps)), 2 - axis, 0)
    layers, middle = len(voxels), len(voxels) // 2
    if throughout:
        voxels = np.asarray(voxels.any(axis=0))[np.newaxis]
    else:
        voxels = voxels[middle : middle + 1] if layers % 2 else voxels[middle - 1 : middle + 1]
    x, y = (n for n in range(3) if n != axis)
    count, rows, columns = voxels.shape
    blocks = voxels.reshape(count, rows // steps[y], steps[y], columns // steps[x], steps[x])
    covered = blocks.sum(axis=(0, 2, 4))
    mask = np.asarray(2 * covered >= count * steps[x] * steps[y])
    return np.asarray(covered > 0) if throughout and not mask.any() else mask


class SegmentReader:
    """Reads one segment's present voxels, frame by frame on a volume's grid.

    Args:
        segmentationNode: the vtkMRMLSegmentationNode.
        segmentID: ID of one of its segments.
        geometry: of the volume in the world; with `volumeNode`, in that volume's own space.
        volumeNode: the volume, if `geometry` is its `ownGeometry`. Then the reader's stamp does not change
            when both nodes move together, and world coordinates cause no rounding.

    Raises:
        InputError: as `checkSegment`; `nonlinear_transform`.
    """

    def __init__(
        self, segmentationNode: Any, segmentID: str, geometry: VolumeGeometry, volumeNode: Any = None
    ) -> None:
        segment = checkSegment(segmentationNode, segmentID)
        space = (
            parentToWorld(segmentationNode) if volumeNode is None else between(segmentationNode, volumeNode)
        )
        self._look(segment.GetRepresentation(binaryLabelmapName()), segment.GetLabelValue(), space, geometry)

    @classmethod
    def ofLabelmap(cls, image: Any, label: int, space: FloatArray, geometry: VolumeGeometry) -> SegmentReader:
        """Returns a reader of a label in a vtkOrientedImageData outside a segmentation.

        Args:
            space: (4, 4) from the labelmap's space to that of `geometry`.
        """
        reader = cls.__new__(cls)
        reader._look(image, label, space, geometry)
        return reader

    def _look(self, image: Any, label: int, space: FloatArray, geometry: VolumeGeometry) -> None:
        self._geometry = geometry
        self._label = label
        self._voxels, self._lattice = _layer(image, space)
        # The box of the volume that can hold voxels of the segment.
        self.box = self._lattice.boxIn(volumeLattice(geometry))
        # It changes when the labelmap is marked as modified, or moved.
        self.stamp = (
            0 if image is None else int(image.GetMTime()),
            self._label,
            self._lattice.extent,
            self._lattice.ijkToWorld.tobytes(),
        )

    @functools.cached_property
    def _steps(self) -> tuple[int, int, int]:
        return stepsPerVoxel(volumeLattice(self._geometry), self._lattice)

    def frame(self, index: int, axis: int, *, throughout: bool = False) -> BoolArray:
        """Returns the segment on one frame: (rows, columns) bool.

        Args:
            throughout: see `frameMask`; it has no effect if the segment's grid is not finer.
        """
        mask = np.zeros(self._geometry.frame_shape(axis), dtype=bool)
        first, last = self.box[2 * axis], self.box[2 * axis + 1]
        if not first <= index <= last:
            return mask
        box = list(self.box)
        box[2 * axis] = box[2 * axis + 1] = index
        part = volumeLattice(self._geometry).within((box[0], box[1], box[2], box[3], box[4], box[5]))
        x, y = (n for n in range(3) if n != axis)
        mask[box[2 * y] : box[2 * y + 1] + 1, box[2 * x] : box[2 * x + 1] + 1] = frameMask(
            self._sample, part, self._steps, axis, throughout=throughout
        )
        return mask

    def frames(self, axis: int) -> range:
        """Returns the frames that can have voxels of the segment; all others are empty."""
        return range(self.box[2 * axis], self.box[2 * axis + 1] + 1)

    @property
    def lattice(self) -> Lattice:
        """The box of the segment's own grid that can hold its voxels; empty without a labelmap."""
        return self._lattice

    def ownVoxels(self) -> BoolArray:
        """Returns the segment on `lattice`: (K, J, I) bool."""
        return np.asarray(self._voxels == self._label)

    def array(self) -> BoolArray:
        """Returns the segment on the whole volume: (K, J, I) bool."""
        lattice = volumeLattice(self._geometry)
        whole = np.zeros(lattice.shape, dtype=bool)
        if self.box != EMPTY:
            i0, i1, j0, j1, k0, k1 = self.box
            whole[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1] = self.onLattice(lattice.within(self.box))
        return whole

    def onLattice(self, target: Lattice) -> BoolArray:
        """Returns the segment on any grid: (K, J, I) bool over `target`."""
        return self._onLattice(target, isLower=False)

    def _sample(self, target: Lattice) -> BoolArray:
        # A voxel halfway between two frames counts for the upper one, as in commits.
        return self._onLattice(target, isLower=True)

    def _onLattice(self, target: Lattice, *, isLower: bool) -> BoolArray:
        if target.isEmpty or self._lattice.isEmpty:
            return np.zeros(target.shape, dtype=bool)
        # Comparing only the part that the target covers saves time.
        box = target.boxIn(self._lattice, margin=1)
        if box == EMPTY:
            return np.zeros(target.shape, dtype=bool)
        e = self._lattice.extent
        part = self._voxels[
            box[4] - e[4] : box[5] - e[4] + 1,
            box[2] - e[2] : box[3] - e[2] + 1,
            box[0] - e[0] : box[1] - e[0] + 1,
        ]
        own = (part == self._label).view(np.uint8)
        return resample(own, self._lattice.within(box), target, isLower=isLower).view(bool)


def labelsOf(image: Any) -> npt.NDArray[Any]:
    """Returns a view of a labelmap's voxels, (K, J, I); empty for None."""
    return _layer(image, np.eye(4))[0]


def _layer(image: Any, space: FloatArray) -> tuple[npt.NDArray[Any], Lattice]:
    scalars = image.GetPointData().GetScalars() if image is not None else None
    if scalars is None or image.GetNumberOfPoints() == 0:
        return np.zeros((0, 0, 0), dtype=np.uint8), Lattice(np.eye(4), EMPTY)
    lattice = _imageLattice(image, space)
    return vtk_to_numpy(scalars).reshape(lattice.shape), lattice


def hasSurfaces(segmentationNode: Any) -> bool:
    """Tells whether the segments have surfaces, which the 3D views show."""
    name = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    return bool(segmentationNode.GetSegmentation().ContainsRepresentation(name))


def showSurfaces(segmentationNode: Any, isOn: bool) -> None:
    """Makes and shows the surfaces of all segments, or removes them."""
    if isOn:
        segmentationNode.CreateClosedSurfaceRepresentation()
        segmentationNode.GetDisplayNode().SetVisibility3D(True)
    else:
        segmentationNode.RemoveClosedSurfaceRepresentation()
