"""Creates, places and styles the markups nodes of prompts, for `markups.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk

from SAM2PropagateLib.frames.geometry import AXIS_NAMES, FloatArray, VolumeGeometry
from SAM2PropagateLib.prompts.values import Ras, new_id, to_ras
from SAM2PropagateLib.scene.names import safeName, uniqueName
from SAM2PropagateLib.scene.segments import segmentColor
from SAM2PropagateLib.scene.state import ROLE_ATTRIBUTE, SEGMENTATION_ROLE, nodesOf, segmentOf, setSegment
from SAM2PropagateLib.scene.transforms import parentToWorld, toMatrix

POSITIVE, NEGATIVE, ABSENT, LOCK, RANGE, BOX = "positive", "negative", "absent", "lock", "range", "box"
SCRIBBLE, NEGATIVE_SCRIBBLE, LASSO = "scribble", "negative scribble", "lasso"
CURVE, CLOSED_CURVE = "curve", "closed curve"
POINT_ROLES = (POSITIVE, NEGATIVE, ABSENT, LOCK, RANGE)
CURVE_ROLES = (CURVE, CLOSED_CURVE)
STROKE_ROLES = (SCRIBBLE, NEGATIVE_SCRIBBLE, LASSO, *CURVE_ROLES)
_ROLES = (*POINT_ROLES, BOX, *STROKE_ROLES)
AXIS_ATTRIBUTE = "SAM2Propagate.Axis"
PROMPT_ID_ATTRIBUTE = "SAM2Propagate.PromptID"
EXACT_ATTRIBUTE = "SAM2Propagate.Exact"
FIDUCIAL_CLASS, ROI_CLASS = "vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsROINode"
# Closed curves are a subclass of curves.
CURVE_CLASS, CLOSED_CURVE_CLASS = "vtkMRMLMarkupsCurveNode", "vtkMRMLMarkupsClosedCurveNode"
PROMPT_CLASSES = (FIDUCIAL_CLASS, ROI_CLASS, CURVE_CLASS)

# In slices; a box must not reach the neighboring slices, or it would be drawn there.
_BOX_THICKNESS = 0.9
_FOLDER_SUFFIX = "prompts"
# On an item of the data tree: it is a folder of ours. On a node: the name that it got from its segment.
_FOLDER_ATTRIBUTE = "SAM2Propagate.Folder"
_NAMED_ATTRIBUTE = "SAM2Propagate.Named"
# On a node: it is faint and locked because another segment is chosen, not by the user.
_QUIET_ATTRIBUTE = "SAM2Propagate.Quiet"


@dataclass(frozen=True)
class _NodeStyle:
    name: str
    glyph: str
    scale: float = 4.0


_LOOKS = {
    POSITIVE: _NodeStyle("positive clicks", "ThickCross2D", 5.0),
    NEGATIVE: _NodeStyle("negative clicks", "Dash2D", 7.0),
    ABSENT: _NodeStyle("absent marks", "Circle2D"),
    LOCK: _NodeStyle("locks", "Square2D"),
    RANGE: _NodeStyle("range", "Triangle2D"),
    BOX: _NodeStyle("box", "Vertex2D"),
    SCRIBBLE: _NodeStyle("scribble", "Vertex2D"),
    NEGATIVE_SCRIBBLE: _NodeStyle("negative scribble", "Vertex2D"),
    LASSO: _NodeStyle("lasso", "Vertex2D"),
    CURVE: _NodeStyle("curve", "Circle2D", 2.0),
    CLOSED_CURVE: _NodeStyle("closed curve", "Circle2D", 2.0),
}
_CLASSES = {
    BOX: ROI_CLASS,
    SCRIBBLE: CURVE_CLASS,
    NEGATIVE_SCRIBBLE: CURVE_CLASS,
    LASSO: CLOSED_CURVE_CLASS,
    CURVE: CURVE_CLASS,
    CLOSED_CURVE: CLOSED_CURVE_CLASS,
}
# How far a prompt's color is moved toward white, to stand out from its segment's mask.
_LIGHTER = 0.5
# Negative prompts are red with a touch of their segment's color, or yellow if the segment itself is red.
_NOT, _NOT_OF_RED = (1.0, 0.05, 0.05), (1.0, 0.85, 0.0)
_RED_ENOUGH = 0.35
_TOUCH = 0.25
_BOX_LINE, _STROKE_LINE = 0.35, 0.2
# The opacity of prompts of other segments than the chosen one.
_FAINT = 0.3


def promptNodes(
    segmentationNode: Any, segmentID: str | None = None, role: str | None = None
) -> Iterator[Any]:
    """Yields the markups nodes that hold prompts of a segmentation, or only those of one segment or role."""
    for className in PROMPT_CLASSES:
        for node in nodesOf(segmentationNode, className):
            matches = segmentID is None or segmentOf(node) == segmentID
            if matches and node.GetAttribute(ROLE_ATTRIBUTE) in ((role,) if role else _ROLES):
                yield node


def strokeNodes(segmentationNode: Any, segmentID: str | None = None) -> Iterator[Any]:
    """Yields the markups nodes of scribbles, lassos and curves of a segmentation, or only of one segment."""
    for node in promptNodes(segmentationNode, segmentID):
        if isStroke(node):
            yield node


def isStroke(node: Any) -> bool:
    """Tells whether a prompt node is a scribble, a lasso or a curve."""
    return node.GetAttribute(ROLE_ATTRIBUTE) in STROKE_ROLES


def createPromptNode(segmentationNode: Any, volumeNode: Any, segmentID: str, role: str) -> Any:
    """Returns a new, empty markups node for prompts of one segment, under the volume's parent transform."""
    scene = segmentationNode.GetScene()
    node = scene.CreateNodeByClass(_CLASSES.get(role, FIDUCIAL_CLASS))
    node.UnRegister(None)
    segment = segmentationNode.GetSegmentation().GetSegment(segmentID)
    name = safeName(segment.GetName() or "", _LOOKS[role].name)
    node.SetName(uniqueName(scene, name))
    node.SetAttribute(_NAMED_ATTRIBUTE, name)
    node.SetAttribute(ROLE_ATTRIBUTE, role)
    setSegment(node, segmentID)
    node.SetNodeReferenceID(SEGMENTATION_ROLE, segmentationNode.GetID())
    if role not in POINT_ROLES:
        node.SetAttribute(PROMPT_ID_ATTRIBUTE, new_id())
    if role in STROKE_ROLES:
        node.SetCurveTypeToLinear()
    scene.AddNode(node)
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    _style(node.GetDisplayNode(), role)
    colorPromptNode(segmentationNode, node)
    _shelve(segmentationNode, node)
    return node


def namePromptNode(segmentationNode: Any, node: Any) -> None:
    """Names a prompt node after its segment, unless the user named it."""
    segment = segmentationNode.GetSegmentation().GetSegment(segmentOf(node))
    if segment is None:
        return
    given, now = node.GetAttribute(_NAMED_ATTRIBUTE), re.sub(r"_\d+$", "", node.GetName() or "")
    wanted = safeName(segment.GetName() or "", _LOOKS[node.GetAttribute(ROLE_ATTRIBUTE)].name)
    if given is None and now == wanted:  # made by an earlier version
        node.SetAttribute(_NAMED_ATTRIBUTE, wanted)
    elif given not in (None, wanted) and now == given:
        node.SetAttribute(_NAMED_ATTRIBUTE, wanted)
        node.SetName(uniqueName(node.GetScene(), wanted))


def removeEmptyFolders(scene: Any) -> None:
    """Removes empty folders of prompts from the data tree."""
    tree = scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
    if tree is None:
        return
    items = vtk.vtkIdList()
    tree.GetItemChildren(tree.GetSceneItemID(), items, True)
    ids = [items.GetId(index) for index in range(items.GetNumberOfIds())]
    for item in [one for one in ids if tree.HasItemAttribute(one, _FOLDER_ATTRIBUTE)]:
        inside = vtk.vtkIdList()
        tree.GetItemChildren(item, inside)
        if not inside.GetNumberOfIds():
            tree.RemoveItem(item)


def colorPromptNode(segmentationNode: Any, node: Any) -> None:
    """Gives a prompt node its segment's color, lighter, or a negative one its red; hides it if its segment
    was removed.
    """
    display = node.GetDisplayNode()
    segmentID = segmentOf(node)
    if display is None:
        return
    exists = segmentationNode.GetSegmentation().GetSegment(segmentID) is not None
    if bool(display.GetVisibility()) != exists:
        display.SetVisibility(exists)
    if exists:
        color = promptColor(segmentationNode, segmentID, node.GetAttribute(ROLE_ATTRIBUTE))
        for get, set_ in (
            (display.GetColor, display.SetColor),
            (display.GetSelectedColor, display.SetSelectedColor),
        ):
            if not np.allclose(get(), color, atol=1e-6):
                set_(*color)


def quietPromptNode(node: Any, isQuiet: bool) -> None:
    """Makes a prompt node faint and transparent to the mouse, or normal again; one that the user locked stays
    locked.
    """
    display = node.GetDisplayNode()
    opacity = _FAINT if isQuiet else 1.0
    if display is not None and display.GetOpacity() != opacity:
        display.SetOpacity(opacity)
    wasQuiet = node.GetAttribute(_QUIET_ATTRIBUTE) is not None
    if isQuiet and not node.GetLocked():
        node.SetAttribute(_QUIET_ATTRIBUTE, "1")
        node.SetLocked(True)
    elif wasQuiet and not isQuiet:
        node.RemoveAttribute(_QUIET_ATTRIBUTE)
        node.SetLocked(False)


def promptColor(segmentationNode: Any, segmentID: str, role: str) -> tuple[float, ...]:
    """Returns the color of a segment's prompts of one role: RGB from 0 to 1."""
    segment = segmentColor(segmentationNode, segmentID)
    if role not in (NEGATIVE, NEGATIVE_SCRIBBLE):
        return tuple(value + (1.0 - value) * _LIGHTER for value in segment)
    base = _NOT if np.linalg.norm(np.subtract(segment, _NOT)) > _RED_ENOUGH else _NOT_OF_RED
    return tuple(there + (own - there) * _TOUCH for there, own in zip(base, segment, strict=True))


def boxOrientation(geometry: VolumeGeometry, axis: int) -> FloatArray:
    """Returns right-handed unit vectors along the sides of a box on a frame of `axis`, (3, 3), as columns.

    Columns follow the volume's i, j and k; the one of `axis` is the frames' normal.
    """
    x, y = (n for n in range(3) if n != axis)
    column, row = (geometry.ijk_to_ras[:3, n] / geometry.spacing[n] for n in (x, y))
    normal = np.cross(column, row)
    normal /= np.linalg.norm(normal)
    matrix = np.empty((3, 3))
    # A box's sides must be at right angles, even if a sheared frame's rows and columns are not.
    matrix[:, x], matrix[:, y], matrix[:, axis] = column, np.cross(normal, column), normal
    if np.linalg.det(matrix) < 0:
        matrix[:, axis] *= -1.0
    return matrix


def orientBox(roiNode: Any, geometry: VolumeGeometry, axis: int) -> None:
    """Turns a box along the volume's axes, so that corners on a frame make a box on that frame.

    Args:
        geometry: of the volume in its own space, which is the node's, too. axis: of the frames.
    """
    _setObjectMatrix(roiNode, boxOrientation(geometry, axis), np.zeros(3))


def boxCorners(roiNode: Any) -> FloatArray:
    """Returns the corners of a box in the world, (8, 3)."""
    matrix = parentToWorld(roiNode)
    return np.asarray(nodeCorners(roiNode) @ matrix[:3, :3].T + matrix[:3, 3], dtype=np.float64)


def nodeCorners(roiNode: Any) -> FloatArray:
    """Returns the corners of a box below its parent transforms, (8, 3)."""
    half = np.array(roiNode.GetSize()) / 2
    matrix = np.array(roiNode.GetObjectToNodeMatrix().GetData()).reshape(4, 4)
    signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], dtype=np.float64)
    points = (matrix @ np.c_[signs * half, np.ones(8)].T).T
    return np.asarray(points[:, :3], dtype=np.float64)


def setBox(
    roiNode: Any, geometry: VolumeGeometry, axis: int, frame: int, pixels: tuple[float, float, float, float]
) -> None:
    """Lays a box flat on a frame, around a rectangle (x0, y0, x1, y1) of its pixels.

    Args:
        geometry: of the volume in its own space, which is the node's, too.
    """
    x0, y0, x1, y1 = pixels
    orientation = boxOrientation(geometry, axis)
    corners = np.array([geometry.ras_of_pixel(x, y, frame, axis) for x in (x0, x1) for y in (y0, y1)])
    along = corners @ orientation
    middle = (along.min(axis=0) + along.max(axis=0)) / 2
    size = along.max(axis=0) - along.min(axis=0)
    size[axis] = geometry.slice_spacing(axis) * _BOX_THICKNESS
    wasModifying = roiNode.StartModify()
    try:
        center = orientation @ middle
        _setObjectMatrix(roiNode, orientation, center)
        roiNode.SetSize(*(float(value) for value in size))
        roiNode.SetCenter(*(float(value) for value in center))
        roiNode.SetAttribute(AXIS_ATTRIBUTE, AXIS_NAMES[axis])
    finally:
        roiNode.EndModify(wasModifying)


def boxAxis(roiNode: Any) -> int | None:
    """Returns the propagation axis of a box's frame; None if not known yet."""
    name = roiNode.GetAttribute(AXIS_ATTRIBUTE)
    return AXIS_NAMES.index(name) if name in AXIS_NAMES else None


def definedPoints(node: Any) -> list[int]:
    """Returns the control points of a node that are placed."""
    return [
        index
        for index in range(node.GetNumberOfControlPoints())
        if node.GetNthControlPointPositionStatus(index) == node.PositionDefined
    ]


def pointName(node: Any, index: int, role: str) -> str:
    """Returns a prompt's ID: the one it was written with, else the control point's own."""
    return node.GetNthControlPointDescription(index) or f"{role}-{node.GetNthControlPointID(index)}"


def pointPlace(node: Any, index: int) -> Ras:
    """Returns where a control point is, below the parent transforms of its node."""
    place = [0.0, 0.0, 0.0]
    node.GetNthControlPointPosition(index, place)
    return to_ras(place)


def strokePoints(node: Any) -> FloatArray:
    """Returns the points of a scribble, lasso or curve below its node's parent transforms, (n, 3)."""
    places = [pointPlace(node, index) for index in definedPoints(node)]
    return np.array(places, dtype=np.float64).reshape(-1, 3)


def setStroke(node: Any, points: npt.ArrayLike) -> None:
    """Sets the points of a scribble, lasso or curve.

    Args:
        points: (n, 3), n >= 1, below the parent transforms of the node.
    """
    places = np.asarray(points, dtype=np.float64)
    # A scribble or lasso can only be moved as a whole.
    hasHandles = node.GetAttribute(ROLE_ATTRIBUTE) in CURVE_ROLES
    wasModifying = node.StartModify()
    try:
        if node.GetNumberOfControlPoints() != len(places):
            node.RemoveAllControlPoints()
            for place in places:
                node.SetNthControlPointVisibility(node.AddControlPoint(vtk.vtkVector3d(*place)), hasHandles)
        else:
            for index, place in enumerate(places):
                node.SetNthControlPointPosition(index, *(float(value) for value in place))
    finally:
        node.EndModify(wasModifying)


def isPlaced(roiNode: Any) -> bool:
    """Tells whether a box is finished."""
    return (
        bool(roiNode.GetControlPointPlacementComplete())
        and sum(size > 0 for size in roiNode.GetSize()) >= 2
        and not isDeletedBox(roiNode)
    )


def isDeletedBox(roiNode: Any) -> bool:
    """Tells whether the user deleted a box with Slicer's own key, which leaves its node without points."""
    return boxAxis(roiNode) is not None and roiNode.GetNumberOfControlPoints() == 0


def rectangle(
    corners: FloatArray, geometry: VolumeGeometry, axis: int
) -> tuple[int, tuple[float, float, float, float]]:
    """Returns the frame of a box's middle, which may be outside the volume, and its rectangle in pixels."""
    ijk = geometry.ijk_of_ras(corners)
    x, y = (n for n in range(3) if n != axis)
    frame = int(np.floor(ijk[:, axis].mean() + 0.5))
    low, high = ijk.min(axis=0), ijk.max(axis=0)
    return frame, (float(low[x]), float(low[y]), float(high[x]), float(high[y]))


def _setObjectMatrix(roiNode: Any, orientation: FloatArray, center: FloatArray) -> None:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = orientation, center
    roiNode.SetAndObserveObjectToNodeMatrix(toMatrix(matrix))


def _style(display: Any, role: str) -> None:
    display.SetPointLabelsVisibility(False)
    display.SetPropertiesLabelVisibility(False)
    display.SetSliceProjection(False)
    display.SetVisibility3D(False)
    display.SetGlyphTypeFromString(_LOOKS[role].glyph)
    display.SetUseGlyphScale(True)
    display.SetGlyphScale(_LOOKS[role].scale)
    if role in STROKE_ROLES:
        display.SetLineThickness(_STROKE_LINE)
    if role in CURVE_ROLES:
        # A curve crosses slices, so it is shown on all of them.
        display.SetSliceProjection(True)
        display.SetSliceProjectionUseFiducialColor(True)
        display.SetVisibility3D(True)
    if role == BOX:
        display.SetFillVisibility(False)
        display.SetLineThickness(_BOX_LINE)
        display.SetHandlesInteractive(True)
        display.SetRotationHandleVisibility(False)
        display.SetTranslationHandleVisibility(False)
        display.SetScaleHandleVisibility(True)


def _shelve(segmentationNode: Any, node: Any) -> None:
    """Puts the node into the segmentation's folder of prompts in the data tree."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(segmentationNode.GetScene())
    item = tree.GetItemByDataNode(node) if tree is not None else 0
    segmentation = tree.GetItemByDataNode(segmentationNode) if tree is not None else 0
    if not item or not segmentation:
        return
    parent = tree.GetItemParent(segmentation)
    name = safeName(segmentationNode.GetName() or "", _FOLDER_SUFFIX)
    # The folder of the other prompts, even if the segmentation was renamed.
    others = [tree.GetItemByDataNode(one) for one in promptNodes(segmentationNode) if one is not node]
    parents = [tree.GetItemParent(one) for one in others if one]
    folder = next((one for one in parents if tree.HasItemAttribute(one, _FOLDER_ATTRIBUTE)), 0)
    if folder and tree.GetItemName(folder) != name:
        tree.SetItemName(folder, name)
    folder = folder or tree.GetItemChildWithName(parent, name) or tree.CreateFolderItem(parent, name)
    tree.SetItemAttribute(folder, _FOLDER_ATTRIBUTE, "1")
    tree.SetItemParent(item, folder)
