"""Slices through the result as Slicer draws them, the reference label beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from Demo.canvas import Pixels, rgb
from Demo.case import Ras, Structure
from Demo.desk import DemoDesk
from Demo.measure import BoolArray
from Demo.montage import Strip, Tile
from Headless.scenes import addSegmentation, fillSegment
from Headless.slice_view import SliceView
from SAM2PropagateLib.frames.geometry import VolumeGeometry

STRIP_TILE = (212, 226)
# Where along the structure the axial slices lie: shares of its extent from the feet.
_SHARES = (0.2, 0.5, 0.8)
# The view is this much wider than the structure, and at least so wide in mm.
_ROOM, _LEAST_MM = 1.6, 90.0
_LETTERS = {"Axial": "RLAP", "Coronal": "RLSI", "Sagittal": "APSI"}
_WHITE = (1.0, 1.0, 1.0)


def strips(desk: DemoDesk, reference: Mapping[str, BoolArray]) -> list[Strip]:
    """Draw slices across and along every structure, with the result's and the reference's outline.

    Args:
        reference: masks by the structures' names, (K, J, I).
    """
    structures = list(desk.structures.values())
    geometry = desk.volume.geometry
    truth = _reference_outlines(desk, structures, reference)
    views = {name: SliceView(desk.headless, f"Sheet{name}", name, STRIP_TILE) for name in _LETTERS}
    display = desk.segmentationNode.GetDisplayNode()
    try:
        for view in views.values():
            view.show(desk.volumeNode)
        with desk.hidden_prompts():
            return [_strip(views, one, reference[one.name], geometry) for one in structures]
    finally:
        display.SetVisibility(True)
        for view in views.values():
            view.close()
            desk.headless.scene.RemoveNode(view.node)
        desk.headless.scene.RemoveNode(truth)


def _reference_outlines(
    desk: DemoDesk, structures: list[Structure], reference: Mapping[str, BoolArray]
) -> Any:
    node = addSegmentation(
        desk.headless, desk.volumeNode, {one.name: _WHITE for one in structures}, "reference"
    )
    for one in structures:
        fillSegment(node, one.name, desk.volumeNode, reference[one.name])
    display = node.GetDisplayNode()
    display.SetOpacity2DFill(0.0)
    display.SetSliceIntersectionThickness(1)
    display.SetOpacity2DOutline(0.9)
    return node


def _strip(
    views: dict[str, SliceView], structure: Structure, truth: BoolArray, geometry: VolumeGeometry
) -> Strip:
    low, high = (np.array(corner) for corner in _extent(truth, geometry))
    middle = (low + high) / 2
    tiles = []
    for share in _SHARES:
        center = (middle[0], middle[1], low[2] + (high[2] - low[2]) * share)
        frame = round(float(geometry.ijk_of_ras(center)[2]))
        tiles.append(_tile(views["Axial"], "Axial", f"axial, slice {frame + 1}", center, high - low))
    for name in ("Coronal", "Sagittal"):
        tiles.append(_tile(views[name], name, name.lower(), tuple(middle), high - low))
    return Strip(structure.name, rgb(structure.color), tiles)


def _tile(view: SliceView, orientation: str, title: str, center: Ras, size: np.ndarray) -> Tile:
    across, up = {"Axial": (0, 1), "Coronal": (0, 2), "Sagittal": (1, 2)}[orientation]
    aspect = STRIP_TILE[0] / STRIP_TILE[1]
    width = max(size[across], size[up] * aspect, _LEAST_MM / _ROOM) * _ROOM
    node = view.node
    node.SetFieldOfView(width, width / aspect, node.GetFieldOfView()[2])
    node.JumpSliceByCentering(*(float(value) for value in center))
    view.logic.SnapSliceOffsetToIJK()
    view.move((2, 2))
    pixels: Pixels = np.asarray(view.screenshot(), dtype=np.uint8)
    return Tile(pixels, title, letters=_LETTERS[orientation])


def _extent(mask: BoolArray, geometry: VolumeGeometry) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of a mask's box in RAS, the lower one first."""
    indices = [np.flatnonzero(mask.any(axis=other)) for other in ((0, 1), (0, 2), (1, 2))]
    corners = geometry.ras_of_ijk(np.array([[one[0] for one in indices], [one[-1] for one in indices]]))
    return corners.min(axis=0), corners.max(axis=0)
