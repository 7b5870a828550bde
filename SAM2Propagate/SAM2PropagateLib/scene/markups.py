"""Writes prompts into the scene as markups, and reads them back.

Clicks and marks are control points of fiducial nodes, one node per segment and role. A box is a flat ROI node
on its frame, a scribble a curve node, a lasso a closed one, and a curve a curve node with handles. All are
saved with the scene, can be dragged in the slice views, and stay on the voxels of their volume (`anchor.py`).
Masks and the propagation axis, which no markup can show, are texts in the scene. Nodes that SAM2 Propagate
did not make are never read or changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import vtk

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.geometry import FloatArray, VolumeGeometry, check_axis
from SAM2PropagateLib.prompts.document import dumps, loads
from SAM2PropagateLib.prompts.resolve import choose_axis, place_box
from SAM2PropagateLib.prompts.values import (
    Box,
    Click,
    Curve,
    FrameMark,
    FrameRange,
    Lasso,
    MaskPrompt,
    PromptSet,
    Ras,
    Scribble,
    SegmentPrompts,
    Stroke,
    to_ras,
)
from SAM2PropagateLib.scene.anchor import KEPT_NAME, Move, PromptAnchor
from SAM2PropagateLib.scene.prompt_nodes import (
    ABSENT,
    BOX,
    CLOSED_CURVE,
    CURVE,
    CURVE_ROLES,
    EXACT_ATTRIBUTE,
    LASSO,
    LOCK,
    NEGATIVE,
    NEGATIVE_SCRIBBLE,
    POINT_ROLES,
    POSITIVE,
    PROMPT_CLASSES,
    PROMPT_ID_ATTRIBUTE,
    RANGE,
    SCRIBBLE,
    boxAxis,
    colorPromptNode,
    createPromptNode,
    definedPoints,
    isDeletedBox,
    isPlaced,
    namePromptNode,
    nodeCorners,
    orientBox,
    pointName,
    pointPlace,
    promptNodes,
    quietPromptNode,
    rectangle,
    removeEmptyFolders,
    setBox,
    setStroke,
    strokeNodes,
    strokePoints,
)
from SAM2PropagateLib.scene.segments import checkSegment, checkSegmentation, segmentIDs
from SAM2PropagateLib.scene.state import (
    ROLE_ATTRIBUTE,
    SEGMENTATION_ROLE,
    SceneState,
    isOurs,
    segmentOf,
)
from SAM2PropagateLib.scene.transforms import parentToWorld
from SAM2PropagateLib.scene.volume import ownGeometry, volumeGeometry

# mm; a point that is nearer than this to its place is not moved.
_SAME_PLACE = 1e-6


class PromptMarkups:
    """The prompts of one segmentation in the scene. `SegmentPrompts.segment` is the segment's ID.

    Args:
        segmentationNode: the user's vtkMRMLSegmentationNode.
        volumeNode: the volume that the prompts are on.

    Attributes:
        onMove: called after a move of the volume was taken up, wherever that was noticed.

    Raises:
        InputError: the segmentation or the volume cannot be used.
    """

    def __init__(self, segmentationNode: Any, volumeNode: Any) -> None:
        checkSegmentation(segmentationNode)
        volumeGeometry(volumeNode)
        self.onMove: Callable[[Move], None] = lambda move: None
        self._segmentationNode = segmentationNode
        self._volumeNode = volumeNode
        self._state = SceneState(segmentationNode)
        self._anchor = PromptAnchor(segmentationNode, volumeNode)
        self._keptText, self._kept = "", PromptSet()
        self._unwatched = 0
        self._busyNode: Any = None
        self._chosen: str | None = None

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """Marks changes within it as the program's: a `PromptWatcher` does not report them."""
        self._unwatched += 1
        try:
            yield
        finally:
            self._unwatched -= 1

    @contextlib.contextmanager
    def keeping(self, node: Any) -> Iterator[None]:
        """Keeps `node` in the scene within it, even without points, as Slicer still uses it."""
        self._busyNode, before = node, self._busyNode
        try:
            yield
        finally:
            self._busyNode = before

    @property
    def isUnwatched(self) -> bool:
        """Whether prompts are being changed by the program and not by the user."""
        return self._unwatched > 0

    @property
    def segmentationNode(self) -> Any:
        """The segmentation that the prompts are for."""
        return self._segmentationNode

    @property
    def geometry(self) -> VolumeGeometry:
        """The volume's present geometry in its own space, below its parent transforms, where prompts are
        kept.
        """
        return ownGeometry(self._volumeNode)

    @property
    def worldGeometry(self) -> VolumeGeometry:
        """The volume's present geometry in the world, where the views are."""
        return volumeGeometry(self._volumeNode)

    def fromWorld(self, points: npt.ArrayLike) -> FloatArray:
        """Returns world points, (..., 3) mm, in the volume's own space.

        Raises:
            InputError: `nonlinear_transform`.
        """
        values = np.asarray(points, dtype=np.float64)
        if self._volumeNode.GetParentTransformNode() is None:
            return values
        matrix = np.linalg.inv(parentToWorld(self._volumeNode))
        return np.asarray(values @ matrix[:3, :3].T + matrix[:3, 3], dtype=np.float64)

    def isUnderTransform(self, node: Any) -> bool:
        """Tells whether a prompt node is under the transform of the volume."""
        return bool(node.GetTransformNodeID() == self._volumeNode.GetTransformNodeID())

    def settle(self) -> Move | None:
        """Moves the prompts back onto their voxels after the volume, or a transform above it, has changed.

        Returns:
            How their coordinates have changed; None if they have not.

        Raises:
            InputError: that is impossible now.
        """
        with self.unwatched():
            move = self._anchor.settle()
        if move is not None:
            self.onMove(move)
        return move

    # From the scene

    def read(self) -> PromptSet:
        """Returns all prompts in the scene of existing segments, in the segmentation's order.

        Control points that are not placed (or were skipped) and unfinished boxes are left out; a locked point
        counts like any other. Positions are the volume's own RAS, below its parent transforms.

        Raises:
            InputError: `nonlinear_transform` (a box under a non-linear transform), `bad_document` (the kept
                masks cannot be read).
        """
        self.settle()
        kept = self._readKept()
        segments = []
        for segmentID in segmentIDs(self._segmentationNode):
            prompts = self._readSegment(segmentID, kept.segment(segmentID).masks)
            if not prompts.is_empty:
                segments.append(prompts)
        self._anchor.note()
        return PromptSet(tuple(segments), kept.axis)

    def _readSegment(self, segmentID: str, masks: tuple[MaskPrompt, ...]) -> SegmentPrompts:
        used = {mask.id for mask in masks}
        points = {role: list(self._points(segmentID, role, used)) for role in POINT_ROLES}
        clicks = [
            Click(name, ras, role == POSITIVE) for role in (POSITIVE, NEGATIVE) for name, ras in points[role]
        ]
        ends = [ras for _, ras in points[RANGE]]
        strokes = [stroke for stroke, _ in self._strokes(segmentID, used)]
        return SegmentPrompts(
            segmentID,
            clicks=tuple(clicks),
            boxes=tuple(box for box, _ in self._boxes(segmentID, used)),
            masks=masks,
            absent=tuple(FrameMark(name, ras) for name, ras in points[ABSENT]),
            locks=tuple(FrameMark(name, ras) for name, ras in points[LOCK]),
            range=FrameRange(ends[0], ends[1]) if len(ends) >= 2 else None,
            scribbles=tuple(one for one in strokes if isinstance(one, Scribble)),
            lassos=tuple(one for one in strokes if isinstance(one, Lasso)),
            curves=tuple(one for one in strokes if isinstance(one, Curve)),
        )

    def _points(self, segmentID: str, role: str, used: set[str]) -> Iterator[tuple[str, Ras]]:
        for node in promptNodes(self._segmentationNode, segmentID, role):
            for index in definedPoints(node):
                yield _unique(pointName(node, index, role), node, used), pointPlace(node, index)

    def _boxes(self, segmentID: str, used: set[str]) -> Iterator[tuple[Box, Any]]:
        geometry = self.geometry
        for node in promptNodes(self._segmentationNode, segmentID, BOX):
            axis = boxAxis(node)
            if axis is None or not isPlaced(node):
                continue
            name = _unique(node.GetAttribute(PROMPT_ID_ATTRIBUTE), node, used)
            frame, (x0, y0, x1, y1) = rectangle(nodeCorners(node), geometry, axis)
            a, b = (to_ras(geometry.ras_of_pixel(x, y, frame, axis)) for x, y in ((x0, y0), (x1, y1)))
            yield Box(name, a, b), node

    def _strokes(self, segmentID: str, used: set[str]) -> Iterator[tuple[Stroke, Any]]:
        for node in strokeNodes(self._segmentationNode, segmentID):
            try:
                stroke = _stroke(node, node.GetAttribute(PROMPT_ID_ATTRIBUTE) or node.GetID())
            except InputError:  # it has too few points left
                continue
            yield replace(stroke, id=_unique(stroke.id, node, used)), node

    # Into the scene

    def write(self, prompts: PromptSet) -> None:
        """Makes the scene hold exactly these prompts; existing nodes are moved, not replaced.

        Prompts keep their IDs. A point that the user is just placing stays, and so do prompts of segments
        that no longer exist.

        Raises:
            InputError: `unknown_segment`, `box_not_flat` (a box whose corners lie on no common frame), or the
                volume cannot be used; nothing was written then.
        """
        self.settle()
        geometry = self.geometry
        for one in prompts.segments:
            checkSegment(self._segmentationNode, one.segment)
        boxes = {
            (one.segment, box.id): _place(one.segment, box, geometry)
            for one in prompts.segments
            for box in one.boxes
        }
        with self.unwatched():
            for segmentID in segmentIDs(self._segmentationNode):
                one = prompts.segment(segmentID)
                for role, places in _places(one).items():
                    self._writePoints(segmentID, role, places)
                self._writeBoxes(one, boxes, geometry)
                self._writeStrokes(one)
            self._quiet()
            self._writeKept(self._withRemoved(prompts))
            self._anchor.note()

    def writeMasks(self, prompts: PromptSet) -> PromptSet:
        """Makes the scene hold the masks of these prompts, and leaves the other ones there as they are.

        Returns:
            The prompts of existing segments, with the masks that the scene holds now.

        Raises:
            InputError: the volume cannot be used; nothing was written then.
        """
        self.settle()
        self._writeKept(self._withRemoved(prompts))
        # After `settle` a prompt that the user has just moved is recorded as `read` would record it.
        self._anchor.note()
        kept = self._readKept()
        there = (
            replace(prompts.segment(name), masks=kept.segment(name).masks)
            for name in segmentIDs(self._segmentationNode)
        )
        return PromptSet(tuple(one for one in there if not one.is_empty), kept.axis)

    def _withRemoved(self, prompts: PromptSet) -> PromptSet:
        """Returns a copy with the kept masks of removed segments, which may come back."""
        there = {*segmentIDs(self._segmentationNode), *prompts.names}
        for one in self._readKept().segments:
            if one.segment not in there:
                prompts = prompts.with_segment(one)
        return prompts

    def clickNode(self, segmentID: str, positive: bool = True) -> Any:
        """Returns the fiducial node for clicks of one sign, for Slicer's place mode; makes it if needed."""
        return self._pointNode(segmentID, POSITIVE if positive else NEGATIVE)

    def beginBox(self, segmentID: str, axis: int = 2) -> Any:
        """Returns a new ROI node for Slicer's place mode, along the volume's axes; finish it with
        `finishBox`.

        Raises:
            InputError: `unknown_segment`, or the volume cannot be used.
        """
        checkSegment(self._segmentationNode, segmentID)
        self.settle()
        node = createPromptNode(self._segmentationNode, self._volumeNode, segmentID, BOX)
        orientBox(node, self.geometry, check_axis(axis))
        return node

    def finishBox(self, roiNode: Any, axis: int | None = None) -> bool:
        """Lays a box that was placed or dragged flat on the frame of its middle.

        Args:
            roiNode: a node of `beginBox`.
            axis: propagation axis; by default the node's earlier one, else the prompts', else the axis along
                which the box is thinnest.

        Returns:
            False if the box is not placed yet or has no area; it is unchanged then.
        """
        geometry = self.geometry
        if not isPlaced(roiNode):
            return False
        corners = nodeCorners(roiNode)
        if axis is None:
            axis = next((one for one in (boxAxis(roiNode), self.axis) if one is not None), None)
        if axis is None:
            axis = int(np.ptp(geometry.ijk_of_ras(corners), axis=0).argmin())
        frame, pixels = rectangle(corners, geometry, check_axis(axis))
        if pixels[2] - pixels[0] <= 0 or pixels[3] - pixels[1] <= 0:
            return False
        inside = min(max(frame, 0), geometry.frame_count(axis) - 1)
        with self.unwatched():
            setBox(roiNode, geometry, axis, inside, pixels)
        return True

    def remove(self, segmentID: str | None = None) -> None:
        """Removes all prompts, or those of one segment."""
        with self.unwatched():
            for node in list(promptNodes(self._segmentationNode, segmentID)):
                removeNode(node)
        kept = self._readKept()
        self._writeKept(
            kept.without_segment(segmentID) if segmentID is not None else PromptSet(axis=kept.axis)
        )

    def removeGone(self) -> None:
        """Removes the prompts of segments that do not exist and cannot come back, for example after loading a
        scene: a new segment may get such an ID.
        """
        there = set(segmentIDs(self._segmentationNode))
        said = {segmentOf(node) for node in promptNodes(self._segmentationNode)}
        for segmentID in {*said, *self._readKept().names} - there:
            self.remove(segmentID)

    @property
    def axis(self) -> int | None:
        """The propagation axis that is kept with the prompts; None: automatic."""
        return self._readKept().axis

    @axis.setter
    def axis(self, axis: int | None) -> None:
        """Keeps another axis with the prompts."""
        self._writeKept(self._readKept().with_axis(axis))

    def nodes(self, segmentID: str | None = None) -> tuple[Any, ...]:
        """Returns the markups nodes of all prompts or of one segment's."""
        return tuple(promptNodes(self._segmentationNode, segmentID))

    def isUnderMouse(self) -> bool:
        """Tells whether the mouse is on a prompt or on a box's handle, so that a press would drag it."""
        for node in self.nodes():
            display = node.GetDisplayNode()
            if display is not None and display.GetActiveComponentType() not in (
                display.ComponentNone,
                display.ComponentPlane,
            ):
                return True
        return False

    def strokeUnderMouse(self) -> Any:
        """Returns the node of the stroke under the mouse; None if there is none."""
        for node in strokeNodes(self._segmentationNode):
            display = node.GetDisplayNode()
            if display is not None and display.GetActiveComponentType() == display.ComponentLine:
                return node
        return None

    def choose(self, segmentID: str | None) -> None:
        """Lets the mouse drag only this segment's prompts, and shows those of others faintly; None: all can
        be dragged.
        """
        self._chosen = segmentID
        self._quiet()

    def _quiet(self) -> None:
        with self.unwatched():
            for node in self.nodes():
                quietPromptNode(node, self._chosen is not None and segmentOf(node) != self._chosen)

    def updateDisplay(self) -> None:
        """Gives the prompts their segments' names and colors, and hides those of removed segments."""
        for node in promptNodes(self._segmentationNode):
            namePromptNode(self._segmentationNode, node)
            colorPromptNode(self._segmentationNode, node)

    def _pointNode(self, segmentID: str, role: str) -> Any:
        checkSegment(self._segmentationNode, segmentID)
        self.settle()
        node = next(promptNodes(self._segmentationNode, segmentID, role), None)
        return node or createPromptNode(self._segmentationNode, self._volumeNode, segmentID, role)

    def _writePoints(self, segmentID: str, role: str, places: dict[str, Ras]) -> None:
        left = dict(places)
        for node in list(promptNodes(self._segmentationNode, segmentID, role)):
            for index in reversed(list(definedPoints(node))):
                place = left.pop(pointName(node, index, role), None)
                if place is None:
                    node.RemoveNthControlPoint(index)
                elif np.abs(np.subtract(place, pointPlace(node, index))).max() > _SAME_PLACE:
                    node.SetNthControlPointPosition(index, *place)
            # Slicer still uses the node and its widget after the event that its last point was removed.
            if not left and node.GetNumberOfControlPoints() == 0 and node is not self._busyNode:
                removeNode(node)
        if left:
            node = self._pointNode(segmentID, role)
            for name, place in left.items():
                index = node.AddControlPoint(vtk.vtkVector3d(*place))
                node.SetNthControlPointDescription(index, name)

    def _writeBoxes(
        self, one: SegmentPrompts, placed: dict[tuple[str, str], _Placed], geometry: VolumeGeometry
    ) -> None:
        there = {box.id: (box, node) for box, node in self._boxes(one.segment, set())}
        wanted = {box.id for box in one.boxes}
        for name, (_, node) in there.items():
            if name not in wanted:
                removeNode(node)
        for node in list(promptNodes(self._segmentationNode, one.segment, BOX)):
            if isDeletedBox(node) and node is not self._busyNode:
                removeNode(node)
        for box in one.boxes:
            axis, frame, pixels = placed[one.segment, box.id]
            if box.id in there:
                old, node = there[box.id]
                if boxAxis(node) == axis and _sameRectangle(
                    _place(one.segment, old, geometry), (axis, frame, pixels)
                ):
                    continue
            else:
                node = createPromptNode(self._segmentationNode, self._volumeNode, one.segment, BOX)
                node.SetAttribute(PROMPT_ID_ATTRIBUTE, box.id)
            setBox(node, geometry, axis, frame, pixels)

    def _writeStrokes(self, one: SegmentPrompts) -> None:
        wanted = {(_roleOf(stroke), stroke.id): stroke for stroke in one.strokes}
        there = {(_roleOf(stroke), stroke.id): node for stroke, node in self._strokes(one.segment, set())}
        for key, node in there.items():
            if key not in wanted and node is not self._busyNode:
                removeNode(node)
        for (role, name), stroke in wanted.items():
            node = there.get((role, name))
            if node is None:
                node = createPromptNode(self._segmentationNode, self._volumeNode, one.segment, role)
                node.SetAttribute(PROMPT_ID_ATTRIBUTE, name)
            if not _isAt(node, stroke):
                setStroke(node, stroke.points)
            if isinstance(stroke, Lasso) and _isExact(node) != stroke.exact:
                node.SetAttribute(EXACT_ATTRIBUTE, "1" if stroke.exact else None)

    # What no markup can show

    def _readKept(self) -> PromptSet:
        text = self._state.get(KEPT_NAME)
        if text != self._keptText:
            # Cached, as every arriving slice asks for it.
            self._kept = loads(text) if text else PromptSet()
            self._keptText = text
        return self._kept

    def _writeKept(self, prompts: PromptSet) -> None:
        segments = [SegmentPrompts(one.segment, masks=one.masks) for one in prompts.segments if one.masks]
        if not segments and prompts.axis is None and not self._state.get(KEPT_NAME):
            return
        self._state.set(KEPT_NAME, dumps(PromptSet(tuple(segments), prompts.axis)))


def removeOrphans(scene: Any) -> int:
    """Removes the prompts of segmentations that are not in the scene any more; returns the number of
    nodes."""
    gone = []
    for className in (*PROMPT_CLASSES, "vtkMRMLScriptedModuleNode"):
        for n in range(scene.GetNumberOfNodesByClass(className)):
            node = scene.GetNthNodeByClass(n, className)
            # MRML clears the reference when its node is removed; the role still shows that the node is ours.
            if isOurs(node) and node.GetNodeReference(SEGMENTATION_ROLE) is None:
                gone.append(node)
    for node in gone:
        # Removing one has observers look for orphans, too.
        if node.GetScene() is scene:
            removeNode(node)
    if gone:
        removeEmptyFolders(scene)
    return len(gone)


_Placed = tuple[int, int, tuple[float, float, float, float]]


def _places(one: SegmentPrompts) -> dict[str, dict[str, Ras]]:
    """Returns the places of the points of each role, by prompt ID."""
    places: dict[str, dict[str, Ras]] = {role: {} for role in POINT_ROLES}
    for click in one.clicks:
        places[POSITIVE if click.positive else NEGATIVE][click.id] = click.ras
    places[ABSENT] = {mark.id: mark.ras for mark in one.absent}
    places[LOCK] = {mark.id: mark.ras for mark in one.locks}
    if one.range is not None:
        places[RANGE] = {"first": one.range.first, "last": one.range.last}
    return places


def _unique(name: str, node: Any, used: set[str]) -> str:
    # A node or a point that the user duplicated has the IDs of the original.
    candidate, count = name, 1
    while candidate in used:
        candidate, count = f"{name}-{node.GetID()}-{count}", count + 1
    used.add(candidate)
    return candidate


def _stroke(node: Any, name: str) -> Stroke:
    """Returns the stroke of a curve node. Raises InputError if it has too few points."""
    points = tuple(to_ras(point) for point in strokePoints(node))
    role = node.GetAttribute(ROLE_ATTRIBUTE)
    if role == LASSO:
        return Lasso(name, points, _isExact(node))
    if role in CURVE_ROLES:
        return Curve(name, points, role == CLOSED_CURVE)
    return Scribble(name, points, role == SCRIBBLE)


def _roleOf(stroke: Stroke) -> str:
    if isinstance(stroke, Lasso):
        return LASSO
    if isinstance(stroke, Curve):
        return CLOSED_CURVE if stroke.closed else CURVE
    return SCRIBBLE if stroke.positive else NEGATIVE_SCRIBBLE


def _isExact(node: Any) -> bool:
    return node.GetAttribute(EXACT_ATTRIBUTE) is not None


def _isAt(node: Any, stroke: Stroke) -> bool:
    """Tells whether a curve node has a stroke's points."""
    points = strokePoints(node)
    return len(points) == len(stroke.points) and bool(
        np.abs(points - np.asarray(stroke.points)).max() <= _SAME_PLACE
    )


def _place(segment: str, box: Box, geometry: VolumeGeometry) -> _Placed:
    axis = choose_axis(PromptSet((SegmentPrompts(segment, boxes=(box,)),)), geometry)
    return (axis, *place_box(box, geometry, axis, segment))


def _sameRectangle(a: _Placed, b: _Placed) -> bool:
    return a[:2] == b[:2] and bool(np.allclose(a[2], b[2], rtol=0, atol=1e-4))


def removeNode(node: Any) -> None:
    """Removes a node with its display and storage nodes."""
    scene, others = node.GetScene(), []
    if node.IsA("vtkMRMLDisplayableNode"):
        others = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLStorableNode"):
        others.append(node.GetStorageNode())
    # First, as the data tree logs an error for a markup without a display node.
    scene.RemoveNode(node)
    for other in others:
        if other is not None and other.GetScene() is scene:
            scene.RemoveNode(other)
