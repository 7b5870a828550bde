"""Keeps the prompts of a segmentation on the voxels of their volume when transforms change.

Prompt nodes are under the volume's transform, so that their own coordinates are those of the volume, below
all transforms. The scene records their places at the last reading or writing, and the volume's place then.
After a change of either, the prompts are moved under the volume's present transform and back onto their
voxels.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import FloatArray, VolumeGeometry
from SAM2PropagateLib.prompts.document import dumps, loads
from SAM2PropagateLib.prompts.move import moved
from SAM2PropagateLib.prompts.values import PromptSet
from SAM2PropagateLib.scene.prompt_nodes import (
    BOX,
    PROMPT_ID_ATTRIBUTE,
    boxAxis,
    definedPoints,
    isPlaced,
    isStroke,
    nodeCorners,
    pointName,
    pointPlace,
    promptNodes,
    rectangle,
    setBox,
    strokePoints,
)
from SAM2PropagateLib.scene.state import (
    MODULE_NAME,
    ROLE_ATTRIBUTE,
    SEGMENTATION_ROLE,
    TRANSFORM_ROLE,
    VOLUME_ROLE,
    SceneState,
    segmentOf,
)
from SAM2PropagateLib.scene.transforms import isLinear, toArray, transformToWorld
from SAM2PropagateLib.scene.volume import SAME_PLACE, ImageDigest, ijkToRas, isSamePlace

KEPT_NAME = "prompts"
_STATE_NAME = "places"
_VERSION = 1

Places = dict[str, list[float]]


@dataclass(frozen=True)
class Move:
    """How the coordinates of prompts have changed.

    Attributes:
        matrix: (4, 4), from the volume's own space before to the present one; None: no matrix describes it.
    """

    matrix: FloatArray | None


@dataclass(frozen=True)
class _Record:
    """The recorded place of the volume, and of prompts in its own space.

    Attributes:
        shape: of the volume, voxels. ijkToRas: (4, 4). image: a digest of the voxels.
        isWarped: whether it was put under a non-linear transform after this was recorded.
        places: numbers per segment, role and prompt.
    """

    shape: tuple[int, int, int]
    ijkToRas: FloatArray
    image: str
    isWarped: bool
    places: Places


class PromptAnchor:
    """Records where prompts are, and moves them back.

    Args:
        segmentationNode: has the prompts. volumeNode: has the voxels that they are on.
    """

    def __init__(self, segmentationNode: Any, volumeNode: Any) -> None:
        self._segmentationNode = segmentationNode
        self._volumeNode = volumeNode
        self._state = SceneState(segmentationNode)
        self._image = ImageDigest(volumeNode)
        self._parsed: tuple[str, _Record | None] = ("", None)

    def note(self) -> None:
        """Records where the prompts and the volume are now."""
        shape = self._shape()
        if shape is None or not self._hasPrompts():
            self._state.set(_STATE_NAME, "")
            return
        known = self._read()
        isWarped = not isLinear(self._volumeNode)
        if isWarped and known is not None:
            # The record from before the warp will tell whether it was removed or hardened.
            record = _Record(known.shape, known.ijkToRas, known.image, True, self._places())
        else:
            record = _Record(shape, ijkToRas(self._volumeNode), self._image.text, isWarped, self._places())
        document = {
            "version": _VERSION,
            "shape": list(record.shape),
            "ijk_to_ras": record.ijkToRas.ravel().tolist(),
            "image": record.image,
            "warped": record.isWarped,
            "places": record.places,
        }
        text = json.dumps(document, separators=(",", ":"))
        if self._state.get(_STATE_NAME) != text:
            self._state.set(_STATE_NAME, text)
        node = self._state.node()
        for role, wanted in (
            (VOLUME_ROLE, self._volumeNode.GetID()),
            (TRANSFORM_ROLE, self._volumeNode.GetTransformNodeID()),
        ):
            if node.GetNodeReferenceID(role) != wanted:
                node.SetNodeReferenceID(role, wanted)

    def settle(self) -> Move | None:
        """Moves the prompts back under the volume's transform and onto their voxels.

        Returns:
            How their coordinates have changed; None if they have not.

        Raises:
            InputError: that is impossible now, for example under a singular transform.
        """
        shape = self._shape()
        if shape is None:
            return None
        if not self._hasPrompts():
            self._state.set(_STATE_NAME, "")
            return None
        record = self._read()
        if record is None or self._state.node().GetNodeReference(VOLUME_ROLE) is not self._volumeNode:
            self._adopt()
            return None
        isHere = self._isUnderTransform(self._state.node().GetNodeReferenceID(TRANSFORM_ROLE))
        isWarped = not isLinear(self._volumeNode)
        own = ijkToRas(self._volumeNode)
        isSame = isSamePlace(own, record.ijkToRas) and isWarped == record.isWarped
        if isHere and (isSame or (isWarped and record.isWarped)):
            return None
        move = Move(np.eye(4)) if isWarped else self._moveSince(record, shape, own)
        self._carry(record, move)
        self.note()
        return None if move.matrix is not None and np.array_equal(move.matrix, np.eye(4)) else move

    # --- what there is

    def _nodes(self) -> list[Any]:
        return list(promptNodes(self._segmentationNode))

    def _hasPrompts(self) -> bool:
        return bool(self._state.get(KEPT_NAME)) or bool(self._nodes())

    def _isUnderTransform(self, noted: str | None) -> bool:
        """Tells whether the volume and all prompts are under the recorded transform."""
        wanted = self._volumeNode.GetTransformNodeID()
        return noted == wanted and all(node.GetTransformNodeID() == wanted for node in self._nodes())

    def _shape(self) -> tuple[int, int, int] | None:
        image = self._volumeNode.GetImageData()
        if image is None or not image.GetNumberOfPoints():
            return None
        i, j, k = image.GetDimensions()
        return int(i), int(j), int(k)

    def _places(self) -> Places:
        found: Places = {}
        for node in self._nodes():
            for key, place in _placesOf(node):
                found[key] = [round(value, 6) for value in place]
        return found

    def _read(self) -> _Record | None:
        text = self._state.get(_STATE_NAME)
        if self._parsed[0] != text:
            self._parsed = (text, _parsed(text))
        return self._parsed[1]

    # --- what has changed

    def _moveSince(self, record: _Record, shape: tuple[int, int, int], own: FloatArray) -> Move:
        """Returns how the volume's voxels have moved in its own space; without a matrix if it has other
        voxels now."""
        isImage = record.shape == shape and record.image == self._image.text
        if record.isWarped:
            # The warp was removed, or hardened, which resamples the image.
            isSame = isImage and isSamePlace(own, record.ijkToRas)
            return Move(np.eye(4) if isSame else None)
        if isSamePlace(own, record.ijkToRas):
            return Move(np.eye(4))
        before = self._state.node().GetNodeReference(TRANSFORM_ROLE)
        hardened = None
        if before is not None and before.IsTransformToWorldLinear():
            hardened = transformToWorld(before) @ record.ijkToRas
        isHardened = hardened is not None and np.allclose(own, hardened, rtol=0, atol=1e-6)
        if isImage or isHardened:
            return Move(np.asarray(own @ np.linalg.inv(record.ijkToRas), dtype=np.float64))
        # The node has another image (resampled, cropped or reordered) of a patient at the same place.
        return Move(None)

    def _carry(self, record: _Record, move: Move) -> None:
        noted = self._state.node().GetNodeReferenceID(TRANSFORM_ROLE)
        matrix = move.matrix
        before = None if matrix is None else VolumeGeometry(record.shape, record.ijkToRas)
        tasks: list[Callable[[], None]] = []
        for node in self._nodes():
            isHere = node.GetTransformNodeID() == noted
            isUntouched = all(_isNear(record.places.get(key), place) for key, place in _placesOf(node))
            if matrix is None or not (isHere or isUntouched):
                # It was moved or hardened alone, or the voxels are others: it stays where it is drawn.
                tasks.append(self._toDrawnPlace(node))
            elif np.array_equal(matrix, np.eye(4)):
                tasks.append(self._toTransform(node))
            else:
                tasks.append(self._toVoxels(node, before, matrix))
        kept = self._movedMasks(matrix)
        for task in tasks:
            task()
        if kept is not None:
            self._state.set(KEPT_NAME, dumps(kept))

    def _adopt(self) -> None:
        """Keeps prompts where they are drawn, if they are of another volume or of a scene without records."""
        other = self._state.node().GetNodeReference(VOLUME_ROLE) if self._state.node() is not None else None
        if other is not None and other is not self._volumeNode and self._read() is not None:
            PromptAnchor(self._segmentationNode, other).settle()
        tasks = [self._toDrawnPlace(node) for node in self._nodes()]
        kept = self._movedMasks(None)
        for task in tasks:
            task()
        if kept is not None:
            self._state.set(KEPT_NAME, dumps(kept))
        self.note()

    def _movedMasks(self, matrix: FloatArray | None) -> PromptSet | None:
        """Returns the kept masks in the volume's own space now; None if they are as they were.

        Args:
            matrix: the move; None: they stay where they are drawn.
        """
        text = self._state.get(KEPT_NAME)
        if not text:
            return None
        if matrix is None:
            transform = self._state.node().GetNodeReference(TRANSFORM_ROLE)
            volume = self._volumeNode.GetParentTransformNode()
            if transform is volume:
                return None
            if any(one is not None and not one.IsTransformToWorldLinear() for one in (transform, volume)):
                # A warp bends masks, and warps the segment with them.
                kept = loads(text)
                return PromptSet(axis=kept.axis)
            toWorld, parent = (
                np.eye(4) if one is None else transformToWorld(one) for one in (transform, volume)
            )
            matrix = np.asarray(np.linalg.solve(parent, toWorld), dtype=np.float64)
        if np.array_equal(matrix, np.eye(4)):
            return None
        return moved(loads(text), matrix)

    # --- moving a node

    def _toTransform(self, node: Any) -> Callable[[], None]:
        return lambda: node.SetAndObserveTransformNodeID(self._volumeNode.GetTransformNodeID())

    def _toVoxels(self, node: Any, before: VolumeGeometry | None, matrix: FloatArray) -> Callable[[], None]:
        """Returns what moves a node to the same voxels in the volume's present space."""
        points = {index: pointPlace(node, index) for index in definedPoints(node)}
        axis = boxAxis(node) if node.GetAttribute(ROLE_ATTRIBUTE) == BOX else None
        box = (
            rectangle(nodeCorners(node), before, axis)
            if axis is not None and before and isPlaced(node)
            else None
        )

        def go() -> None:
            node.SetAndObserveTransformNodeID(self._volumeNode.GetTransformNodeID())
            if axis is not None and box is not None:
                setBox(node, self._geometry(), axis, *box)
            elif axis is None:
                for index, place in points.items():
                    node.SetNthControlPointPosition(index, *(matrix[:3, :3] @ place + matrix[:3, 3]))

        return go

    def _toDrawnPlace(self, node: Any) -> Callable[[], None]:
        """Returns what keeps a node where it is drawn, in the volume's space."""
        if node.GetTransformNodeID() == self._volumeNode.GetTransformNodeID():
            return lambda: None
        isBox = node.GetAttribute(ROLE_ATTRIBUTE) == BOX
        axis = boxAxis(node) if isBox else None
        places = nodeCorners(node) if isBox else np.array([pointPlace(node, n) for n in definedPoints(node)])
        drawn = [self._drawn(node, place) for place in places]

        def go() -> None:
            node.SetAndObserveTransformNodeID(self._volumeNode.GetTransformNodeID())
            if isBox:
                if axis is not None and isPlaced(node) and isLinear(self._volumeNode):
                    setBox(node, self._geometry(), axis, *rectangle(np.array(drawn), self._geometry(), axis))
                return
            for index, place in zip(definedPoints(node), drawn, strict=True):
                node.SetNthControlPointPosition(index, *place)

        return go

    def _drawn(self, node: Any, place: Any) -> FloatArray:
        """Returns where a point of a node is drawn, in the volume's own space."""
        world, own = [0.0] * 3, [0.0] * 3
        node.TransformPointToWorld([float(value) for value in place], world)
        self._volumeNode.TransformPointFromWorld(world, own)
        return np.array(own)

    def _geometry(self) -> VolumeGeometry:
        return VolumeGeometry(self._volumeNode.GetImageData().GetDimensions(), ijkToRas(self._volumeNode))


def settleOthers(segmentationNode: Any, volumeNode: Any) -> None:
    """Moves the prompts of all other segmentations on a volume back onto its voxels."""
    scene, className = volumeNode.GetScene(), "vtkMRMLScriptedModuleNode"
    for node in [
        scene.GetNthNodeByClass(n, className) for n in range(scene.GetNumberOfNodesByClass(className))
    ]:
        other = node.GetNodeReference(SEGMENTATION_ROLE)
        isOn = node.GetModuleName() == MODULE_NAME and node.GetNodeReference(VOLUME_ROLE) is volumeNode
        if isOn and other is not None and other is not segmentationNode:
            with contextlib.suppress(InputError):  # reported when they are needed
                PromptAnchor(other, volumeNode).settle()


def _parsed(text: str) -> _Record | None:
    try:
        document = json.loads(text) if text else {}
        if document.get("version") != _VERSION:
            return None
        i, j, k = (int(count) for count in document["shape"])
        return _Record(
            (i, j, k),
            np.array(document["ijk_to_ras"], dtype=np.float64).reshape(4, 4),
            str(document["image"]),
            bool(document["warped"]),
            {str(key): [float(value) for value in place] for key, place in document["places"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # as for a scene of an earlier version: the prompts stay where they are drawn


def _placesOf(node: Any) -> list[tuple[str, list[float]]]:
    """Returns the places of a node's prompts in its own coordinates, each with a unique name."""
    role = node.GetAttribute(ROLE_ATTRIBUTE)
    if role == BOX:
        if not isPlaced(node):
            return []
        matrix = toArray(node.GetObjectToNodeMatrix())
        name = node.GetAttribute(PROMPT_ID_ATTRIBUTE)
        return [(json.dumps([segmentOf(node), role, name]), [*matrix[:3, 3].tolist(), *node.GetSize()])]
    if isStroke(node):
        name = node.GetAttribute(PROMPT_ID_ATTRIBUTE)
        return [(json.dumps([segmentOf(node), role, name]), strokePoints(node).ravel().tolist())]
    return [
        (json.dumps([segmentOf(node), role, pointName(node, index, role)]), list(pointPlace(node, index)))
        for index in definedPoints(node)
    ]


def _isNear(noted: list[float] | None, place: list[float]) -> bool:
    if noted is None or len(noted) != len(place):
        return False
    return bool(np.allclose(noted, place, rtol=0, atol=SAME_PLACE))
