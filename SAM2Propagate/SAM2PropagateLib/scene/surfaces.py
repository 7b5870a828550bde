"""Shows segments as surfaces in the 3D views."""

from __future__ import annotations

from typing import Any

import slicer


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
