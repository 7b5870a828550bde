"""Reads a volume of the scene: voxels, geometry and window."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.checks import check_volume
from SAM2PropagateLib.frames.geometry import FloatArray, VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window, window_for
from SAM2PropagateLib.scene.transforms import parentToWorld, toArray
from SAM2PropagateLib.texts import tr as _

# mm; a point nearer than this to its old place has not been moved: files hold fewer digits than main memory.
SAME_PLACE = 1e-4
# How many voxels along each axis are compared to tell whether an image is still the same.
_SAMPLES = 24


@dataclass(frozen=True, eq=False)
class SceneVolume:
    """The contents of a volume node.

    Attributes:
        array: a view of the node's voxels, (K, J, I), not a copy; do not write to it.
        geometry: IJK to world RAS, every parent transform included.
        window: of the node's display, or a fitting one without a display.
        name: the node's name.
    """

    array: npt.NDArray[Any]
    geometry: VolumeGeometry
    window: Window
    name: str

    def frames(self, axis: int) -> FrameStack:
        """Returns the volume as frames along `axis` (0=i, 1=j, 2=k) through its window."""
        return FrameStack(self.array, self.geometry, axis, self.window)


def readVolume(volumeNode: Any) -> SceneVolume:
    """Reads a vtkMRMLScalarVolumeNode.

    Raises:
        InputError: `no_volume`, `not_a_volume`, `label_volume`, `multi_component`, `sequence_volume`,
            `empty`, `nonlinear_transform`, or what `check_volume` refuses (`too_few_slices`,
            `constant_volume`, ...).
    """
    geometry = volumeGeometry(volumeNode)
    array = voxelsOf(volumeNode)
    check_volume(array, geometry)
    return SceneVolume(array, geometry, displayWindow(volumeNode), volumeNode.GetName() or "")


def volumeGeometry(volumeNode: Any) -> VolumeGeometry:
    """Returns the shape and place of a volume node, with parent transforms, without reading voxels.

    Raises:
        InputError: as `readVolume`, except for what depends on the voxels' values.
    """
    _checkKind(volumeNode)
    return _geometryOf(volumeNode, parentToWorld(volumeNode) @ ijkToRas(volumeNode))


def ownGeometry(volumeNode: Any) -> VolumeGeometry:
    """Returns the shape and place of a volume node below its parent transforms: IJK to the volume's own RAS,
    in which prompts are kept.

    Raises:
        InputError: as `volumeGeometry`, also for a non-linear parent transform.
    """
    _checkKind(volumeNode)
    parentToWorld(volumeNode)
    return _geometryOf(volumeNode, ijkToRas(volumeNode))


def _geometryOf(volumeNode: Any, matrix: FloatArray) -> VolumeGeometry:
    return _geometry(volumeNode.GetImageData().GetDimensions(), tuple(matrix.ravel().tolist()))


@functools.lru_cache(maxsize=32)
def _geometry(shape: tuple[int, int, int], matrix: tuple[float, ...]) -> VolumeGeometry:
    # Cached, as every arriving slice asks for it several times.
    return VolumeGeometry(shape, np.array(matrix).reshape(4, 4))


def ijkToRas(volumeNode: Any) -> FloatArray:
    """Returns the (4, 4) matrix from a volume's voxels to its own RAS, below its parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return toArray(matrix)


def isSamePlace(matrix: FloatArray, other: FloatArray) -> bool:
    """Tells whether two (4, 4) matrices to RAS are the same but for rounding in image files."""
    step, origin = np.abs(matrix - other)[:3, :3].max(), np.abs(matrix - other)[:3, 3].max()
    return bool(step < 1e-6 and origin < SAME_PLACE)


class ImageDigest:
    """A digest of a volume's voxels. It is computed again only after they were marked as modified.

    Args:
        volumeNode: the volume; it may get another image.
    """

    def __init__(self, volumeNode: Any) -> None:
        self._volumeNode = volumeNode
        self._known: tuple[Any, int, str] | None = None

    @property
    def text(self) -> str:
        """The digest now; "" without voxels."""
        scalars = self._volumeNode.GetImageData().GetPointData().GetScalars()
        if scalars is None:
            return ""
        known = self._known
        if known is None or known[0] is not scalars or known[1] != scalars.GetMTime():
            i, j, k = self._volumeNode.GetImageData().GetDimensions()
            voxels = vtk_to_numpy(scalars).reshape(k, j, i, -1)
            steps = tuple(slice(None, None, max(1, count // _SAMPLES)) for count in voxels.shape[:3])
            sample = np.ascontiguousarray(voxels[steps])
            text = hashlib.blake2b(sample.tobytes(), digest_size=8).hexdigest()
            self._known = known = (scalars, scalars.GetMTime(), text)
        return known[2]


def displayWindow(volumeNode: Any) -> Window:
    """Returns the window and level of the volume's display; a fitting one without a display."""
    display = volumeNode.GetDisplayNode()
    if display is not None and display.IsA("vtkMRMLScalarVolumeDisplayNode") and display.GetWindow() > 0:
        return Window(display.GetWindow(), display.GetLevel())
    return window_for(voxelsOf(volumeNode))


def voxelsOf(volumeNode: Any) -> npt.NDArray[Any]:
    """Returns a read-only view of a volume's voxels, (K, J, I)."""
    image = volumeNode.GetImageData()
    array: npt.NDArray[Any] = vtk_to_numpy(image.GetPointData().GetScalars())
    view = array.reshape(image.GetDimensions()[::-1]).view()
    view.setflags(write=False)
    return view


def _checkKind(node: Any) -> None:
    if node is None:
        raise InputError("no_volume", _("No volume is chosen."), _("Load or choose a CT or MR volume."))
    name = node.GetName()
    if not node.IsA("vtkMRMLScalarVolumeNode"):
        raise InputError(
            "not_a_volume",
            _("“{name}” is not an image volume.").format(name=name),
            _("Choose a CT or MR volume."),
        )
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(
            "label_volume",
            _("“{name}” is a label map, not an image.").format(name=name),
            _("Choose the image that it was drawn on."),
        )
    image = node.GetImageData()
    if image is None or image.GetPointData() is None or image.GetPointData().GetScalars() is None:
        raise InputError(
            "empty",
            _("“{name}” holds no image.").format(name=name),
            _("Load the image again or choose another volume."),
        )
    if min(image.GetDimensions()) < 1:
        raise InputError(
            "empty",
            _("“{name}” is empty.").format(name=name),
            _("Load the image again or choose another volume."),
        )
    components = image.GetNumberOfScalarComponents()
    if components != 1:
        raise InputError(
            "multi_component",
            _("“{name}” has {count} values per voxel (color or vector image).").format(
                name=name, count=components
            ),
            _("Convert it to a scalar volume first (module Vector to Scalar Volume)."),
        )
    sequence = _sequenceOf(node)
    if sequence:
        raise InputError(
            "sequence_volume",
            _(
                "“{name}” is one time point of the sequence “{sequence}”; playing the sequence "
                "changes its image."
            ).format(name=name, sequence=sequence),
            _("Clone the volume (Data module, right-click, Clone) and choose the copy."),
        )


def _sequenceOf(node: Any) -> str:
    """Returns the name of the sequence that a volume is the current time point of, or ""."""
    scene = node.GetScene()
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode") if scene else 0):
        browser = scene.GetNthNodeByClass(index, "vtkMRMLSequenceBrowserNode")
        if browser.IsProxyNode(node.GetID()):
            return str(browser.GetSequenceNode(node).GetName())
    return ""
