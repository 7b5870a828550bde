"""Shows masks in the preview layer, frame by frame during a run, beside the user's segmentation.

Writing a frame into a segment with masking and undo takes hundreds of milliseconds on a large volume. So
masks are written in place into the labelmaps of a separate segmentation node, which is hidden, not saved, and
has no surface.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import VolumeGeometry, check_axis
from SAM2PropagateLib.frames.stack import native_frame
from SAM2PropagateLib.packed_masks import PackedEdge
from SAM2PropagateLib.scene.labelmaps import replaceQuietly
from SAM2PropagateLib.scene.segments import BoolArray, binaryLabelmapName, checkSegment, segmentColor
from SAM2PropagateLib.scene.state import ROLE_ATTRIBUTE
from SAM2PropagateLib.scene.tree_visits import TreeVisits
from SAM2PropagateLib.scene.volume import ownGeometry
from SAM2PropagateLib.texts import tr as _

ROLE = "preview"
_FILL_OPACITY = 0.35
_OUTLINE_OPACITY = 1.0
# Numbers the frames that are written, over all previews: what is kept of a frame goes by its number.
_writes = itertools.count(1)
# How much main memory the voxels of cleared segments may take, which are kept for Undo.
_MOST_ASIDE_BYTES = 1 << 28
# How far the preview's color is moved toward white, to tell it from the segment.
_LIGHTER = 0.35


def _emptyVoxels(shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Returns zeros of this shape, in main memory that is taken page by page as frames are written.

    Linux may choose huge pages for large arrays; then the first write into each takes milliseconds.
    """
    buffer = mmap.mmap(-1, max(1, math.prod(shape)))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages rejects the advice
            buffer.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(buffer, dtype=np.uint8, count=math.prod(shape)).reshape(shape)


class _SegmentLayer:
    """One segment of the preview and the voxels behind it."""

    def __init__(self, image: Any, voxels: npt.NDArray[np.uint8], scalars: Any) -> None:
        self.image = image
        self.voxels = voxels
        self.scalars = scalars
        # A running number of each frame's last writing.
        self.frames: dict[int, int] = {}
        self.edges: dict[int, PackedEdge] = {}


class PreviewLayer:
    """Masks on the frames of a volume, shown in the slice views until they are committed or cleared.

    Each segment has its own labelmap over the whole volume, so previews of different segments may overlap.
    Only written frames take main memory.

    Args:
        segmentationNode: the user's segmentation; the preview takes its segments' names and colors.
        volumeNode: the volume of the frames.
        axis: propagation axis of the frames.
        redraw: draws the slice views after frames were written; None: all views are drawn.

    Raises:
        InputError: the volume cannot be used.
    """

    def __init__(
        self,
        segmentationNode: Any,
        volumeNode: Any,
        axis: int,
        redraw: Callable[[Collection[int]], None] | None = None,
    ) -> None:
        self._segmentationNode = segmentationNode
        self._volumeNode = volumeNode
        self._axis = check_axis(axis)
        self._geometry: VolumeGeometry = ownGeometry(volumeNode)
        self._layers: dict[str, _SegmentLayer] = {}
        # Cleared segments, the latest last.
        self._aside: dict[str, _SegmentLayer] = {}
        # The labelmaps in the node, by segment; those without a layer are empty.
        self._shown: dict[str, Any] = {}
        self._node: Any = None
        self._redraw = redraw
        self._stale: set[int] = set()
        self._opacity = _FILL_OPACITY

    @property
    def axis(self) -> int:
        """Propagation axis of the frames."""
        return self._axis

    @property
    def shape_ijk(self) -> tuple[int, int, int]:
        """The size of the volume for which it was made, in voxels."""
        return self._geometry.shape_ijk

    @property
    def node(self) -> Any:
        """The vtkMRMLSegmentationNode of the preview; None before the first mask and after `close`."""
        return self._node

    def write(
        self,
        segmentID: str,
        frame: int,
        mask: npt.ArrayLike,
        *,
        refresh: bool = True,
        edge: PackedEdge | None = None,
    ) -> None:
        """Shows a mask on a frame, in place of an earlier one.

        Args:
            segmentID: a segment of the user's segmentation.
            frame: index along the axis.
            mask: (rows, columns) of the frame, of any type that converts to bool.
            refresh: redraw the slice views; pass False while writing several frames, then call `refresh`.
            edge: how the mask's edge runs between the pixels; kept with the mask, not shown.

        Raises:
            InputError: `unknown_segment`, `outside_volume`, `mask_shape`.
        """
        pixels = np.asarray(mask, dtype=bool)
        if not 0 <= frame < self._geometry.frame_count(self._axis):
            raise InputError(
                "outside_volume",
                _("The volume has no slice {number} along this axis.").format(number=frame + 1),
                _("Run the propagation again on this volume."),
            )
        if pixels.shape != self._geometry.frame_shape(self._axis):
            raise InputError(
                "mask_shape",
                _("A mask has {pixels} pixels, the slices {wanted}.").format(
                    pixels=pixels.shape, wanted=self._geometry.frame_shape(self._axis)
                ),
                _("Run the propagation again on this volume."),
            )
        self._dropIfClosed()
        layer = self._layers.get(segmentID) or self._addLayer(segmentID)
        native_frame(layer.voxels, frame, self._axis)[...] = pixels
        layer.frames[frame] = next(_writes)
        layer.edges.pop(frame, None)
        if edge is not None:
            layer.edges[frame] = edge
        self._changed(layer, frame)
        if refresh:
            self.refresh()

    def erase(self, segmentID: str, frame: int, *, refresh: bool = True) -> None:
        """Removes a frame from the preview; does nothing if it is not there.

        Args:
            refresh: as of `write`.
        """
        layer = self._layers.get(segmentID)
        if layer is not None and frame in layer.frames:
            native_frame(layer.voxels, frame, self._axis)[...] = 0
            del layer.frames[frame]
            layer.edges.pop(frame, None)
            self._changed(layer, frame)
            if refresh:
                self.refresh()

    def refresh(self) -> None:
        """Redraws the slice views, after following the volume to another transform."""
        self._dropIfClosed()
        if self._node is None:
            return
        self.follow()
        stale, self._stale = self._stale, set()
        if self._redraw is None:
            self._node.GetDisplayNode().Modified()
        elif stale:
            self._redraw(stale)

    def follow(self) -> None:
        """Keeps the masks on the volume's voxels after the volume, or a transform above it, has changed."""
        self._dropIfClosed()
        if self._node is None:
            return
        if self._node.GetTransformNodeID() != self._volumeNode.GetTransformNodeID():
            self._node.SetAndObserveTransformNodeID(self._volumeNode.GetTransformNodeID())
        matrix, shown = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
        self._volumeNode.GetIJKToRASMatrix(matrix)
        for layer in self._layers.values():
            layer.image.GetImageToWorldMatrix(shown)
            if not np.allclose(shown.GetData(), matrix.GetData(), rtol=0, atol=1e-9):
                layer.image.SetGeometryFromImageToWorldMatrix(matrix)
                self._changed(layer, None)
                self._node.GetDisplayNode().Modified()

    def masks(self, segmentID: str) -> dict[int, BoolArray]:
        """Returns the masks of a segment per frame, (rows, columns) bool copies, as `SegmentCommitter.commit`
        takes them."""
        layer = self._layers.get(segmentID)
        if layer is None:
            return {}
        return {frame: native_frame(layer.voxels, frame, self._axis) != 0 for frame in sorted(layer.frames)}

    def frames(self, segmentID: str) -> frozenset[int]:
        """Returns the frames of a segment that have a mask."""
        layer = self._layers.get(segmentID)
        return frozenset(layer.frames) if layer is not None else frozenset()

    def stamps(self) -> dict[str, dict[int, int]]:
        """Returns per segment and frame a number that changes whenever the frame is written."""
        return {segmentID: dict(layer.frames) for segmentID, layer in self._layers.items() if layer.frames}

    def mask(self, segmentID: str, frame: int) -> BoolArray | None:
        """Returns the mask of one frame, (rows, columns) bool copy; None if there is none."""
        layer = self._layers.get(segmentID)
        if layer is None or frame not in layer.frames:
            return None
        return native_frame(layer.voxels, frame, self._axis) != 0

    def seen(self, segmentID: str, frame: int) -> BoolArray | None:
        """Returns a read-only view of a frame's mask, which changes with the frame; None if there is none."""
        layer = self._layers.get(segmentID)
        if layer is None or frame not in layer.frames:
            return None
        view = native_frame(layer.voxels, frame, self._axis).view(bool)
        view.flags.writeable = False
        return view

    def edge(self, segmentID: str, frame: int) -> PackedEdge | None:
        """Returns how the edge of a frame's mask runs between the pixels; None if unknown."""
        layer = self._layers.get(segmentID)
        return layer.edges.get(frame) if layer is not None else None

    def allMasks(self) -> dict[str, dict[int, BoolArray]]:
        """Returns the masks of all segments that have some."""
        return {segmentID: self.masks(segmentID) for segmentID, layer in self._layers.items() if layer.frames}

    def clear(self, segmentID: str | None = None, tidies: bool = True) -> None:
        """Removes all masks, or those of one segment, from the preview; see `bringBack`.

        Args:
            tidies: call `tidy`, which takes longer than all the rest; pass False if that comes later.
        """
        self._dropIfClosed()
        for name in [segmentID] if segmentID is not None else list(self._layers):
            layer = self._layers.pop(name, None)
            if layer is None:
                continue
            self._takeFromNode(name, layer)
            self._stale |= layer.frames.keys()
            if layer.frames:
                self._putAside(name, layer)
        if tidies:
            self.tidy()
        self.refresh()

    def _takeFromNode(self, segmentID: str, layer: _SegmentLayer) -> None:
        """Empties the segment in the node, and leaves the voxels to the layer alone."""
        shown = layer.image
        layer.image = slicer.vtkOrientedImageData()
        layer.image.ShallowCopy(shown)
        replaceQuietly(shown, self._image(_emptyVoxels(layer.voxels.shape)))
        shown.Modified()

    def tidy(self) -> None:
        """Removes empty segments from the node, as the views would look for masks in them."""
        self._dropIfClosed()
        for name in self._shown.keys() - self._layers.keys():
            del self._shown[name]
            self._node.GetSegmentation().RemoveSegment(name)

    def prepare(self, segmentIDs: Iterable[str]) -> None:
        """Adds segments without masks to the node ahead, as this takes longer than showing masks."""
        self._dropIfClosed()
        for segmentID in segmentIDs:
            if segmentID not in self._shown:
                self._addSegment(segmentID, self._image(_emptyVoxels(self._shape)))

    def bringBack(self, segmentID: str, stamps: Mapping[int, int]) -> bool:
        """Shows a cleared segment again as it was; `refresh` draws it. False if it is in the preview, or had
        other frames than these.

        Args:
            stamps: per frame its number, from `stamps`.
        """
        self._dropIfClosed()
        layer = self._aside.get(segmentID)
        if layer is None or segmentID in self._layers or layer.frames != stamps:
            return False
        del self._aside[segmentID]
        self._show(segmentID, layer)
        self._stale |= layer.frames.keys()
        self._changed(layer, None)
        return True

    def _putAside(self, segmentID: str, layer: _SegmentLayer) -> None:
        self._aside.pop(segmentID, None)
        self._aside[segmentID] = layer
        while sum(one.voxels.nbytes for one in self._aside.values()) > _MOST_ASIDE_BYTES:
            del self._aside[next(iter(self._aside))]

    def restyle(self) -> None:
        """Takes over the present names and colors of the user's segments, and hides hidden ones."""
        self._dropIfClosed()
        if self._node is None:
            return
        segments, shown = self._segmentationNode.GetSegmentation(), self._node.GetSegmentation()
        for segmentID in self._layers:
            target, segment = segments.GetSegment(segmentID), shown.GetSegment(segmentID)
            if target is None or segment is None:
                continue
            if segment.GetName() != target.GetName():
                segment.SetName(target.GetName())
            color = self._color(segmentID)
            if not np.allclose(segment.GetColor(), color):
                segment.SetColor(*color)
            self._showAsTarget(segmentID)

    def fill(self, opacity: float | None) -> None:
        """Sets the fill opacity of present and future masks, 0 to 1; None: unchanged."""
        if opacity is None:
            return
        self._opacity = opacity
        self._dropIfClosed()
        if self._node is not None:
            self._node.GetDisplayNode().SetOpacity2DFill(opacity)

    def setVisible(self, visible: bool) -> None:
        """Shows or hides the preview."""
        self._dropIfClosed()
        if self._node is not None:
            self._node.GetDisplayNode().SetVisibility(bool(visible))

    def close(self) -> None:
        """Removes the preview from the scene."""
        self._layers.clear()
        self._aside.clear()
        self._shown.clear()
        node, self._node = self._node, None
        if node is not None and node.GetScene() is not None:
            scene = node.GetScene()
            scene.RemoveNode(node.GetDisplayNode())
            scene.RemoveNode(node)

    def _dropIfClosed(self) -> None:
        # Closing the scene removes the node with its masks.
        if self._node is not None and self._node.GetScene() is None:
            self._node = None
            self._layers.clear()
            self._aside.clear()
            self._shown.clear()

    def _addLayer(self, segmentID: str) -> _SegmentLayer:
        checkSegment(self._segmentationNode, segmentID)
        self._aside.pop(segmentID, None)
        voxels = _emptyVoxels(self._shape)
        image = self._image(voxels)
        layer = _SegmentLayer(image, voxels, image.GetPointData().GetScalars())
        self._show(segmentID, layer)
        return layer

    @property
    def _shape(self) -> tuple[int, int, int]:
        i, j, k = self._geometry.shape_ijk
        return k, j, i

    def _image(self, voxels: npt.NDArray[np.uint8]) -> Any:
        """Returns a vtkOrientedImageData over the volume that shares these voxels, (K, J, I)."""
        scalars = numpy_to_vtk(voxels.reshape(-1), deep=False)
        scalars.SetName("ImageScalars")
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(*voxels.shape[::-1])
        image.GetPointData().SetScalars(scalars)
        matrix = vtk.vtkMatrix4x4()
        self._volumeNode.GetIJKToRASMatrix(matrix)
        image.SetGeometryFromImageToWorldMatrix(matrix)
        return image

    def _show(self, segmentID: str, layer: _SegmentLayer) -> None:
        shown = self._shown.get(segmentID)
        if shown is None:
            self._addSegment(segmentID, layer.image)
        else:
            replaceQuietly(shown, layer.image)
            layer.image = shown
        self._layers[segmentID] = layer
        if shown is not None:
            self.restyle()

    def _addSegment(self, segmentID: str, image: Any) -> None:
        target = checkSegment(self._segmentationNode, segmentID)
        if self._node is None:
            self._createNode()
        segment = slicer.vtkSegment()
        segment.SetName(target.GetName())
        segment.SetColor(*self._color(segmentID))
        segment.SetLabelValue(1)
        segment.AddRepresentation(binaryLabelmapName(), image)
        self._node.GetSegmentation().AddSegment(segment, segmentID)
        self._showAsTarget(segmentID)
        self._shown[segmentID] = image

    def _showAsTarget(self, segmentID: str) -> None:
        """Shows or hides a segment of the preview like the user's segment in the slice views."""
        target, display = self._segmentationNode.GetDisplayNode(), self._node.GetDisplayNode()
        if target is None:
            return
        isShown = bool(
            target.GetVisibility()
            and target.GetVisibility2D()
            and target.GetSegmentVisibility(segmentID)
            and (
                target.GetSegmentVisibility2DFill(segmentID)
                or target.GetSegmentVisibility2DOutline(segmentID)
            )
        )
        if bool(display.GetSegmentVisibility(segmentID)) != isShown:
            display.SetSegmentVisibility(segmentID, isShown)

    def _color(self, segmentID: str) -> tuple[float, ...]:
        color = segmentColor(self._segmentationNode, segmentID)
        return tuple(value + (1.0 - value) * _LIGHTER for value in color)

    def _createNode(self) -> None:
        scene = self._volumeNode.GetScene()
        node = scene.CreateNodeByClass("vtkMRMLSegmentationNode")
        node.UnRegister(None)
        node.SetName("SAM2 Propagate preview")
        node.SetAttribute(ROLE_ATTRIBUTE, ROLE)
        # Hidden before it is added, so that no list of segmentations ever shows it.
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        exclude = slicer.vtkMRMLSubjectHierarchyConstants.GetSubjectHierarchyExcludeFromTreeAttributeName()
        node.SetAttribute(exclude, "1")
        TreeVisits(node)
        scene.AddNode(node)
        node.SetAndObserveTransformNodeID(self._volumeNode.GetTransformNodeID())
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        display.SetSaveWithScene(False)
        display.SetVisibility3D(False)
        display.SetOpacity2DFill(self._opacity)
        display.SetOpacity2DOutline(_OUTLINE_OPACITY)
        self._node = node

    def _changed(self, layer: _SegmentLayer, frame: int | None) -> None:
        if frame is not None:
            self._stale.add(frame)
        # The slice pipeline checks the time of the scalars; nothing else needs an event before `refresh`.
        layer.scalars.Modified()
        layer.image.Modified()
