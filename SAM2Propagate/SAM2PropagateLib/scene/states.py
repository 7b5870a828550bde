"""What a segmentation held after each change, kept for the way back and forth.

Slicer's own `vtkSegmentationHistory` keeps the states; here each gets a number that stays the same, so that
it can be told which of them are still there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import slicer
import vtk

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.scene.segments import binaryLabelmapName
from SAM2PropagateLib.texts import tr as _

# Each state holds a copy of the labelmaps that changed: as many as fit into this, but within these bounds.
_MOST_BYTES = 1 << 30
_LEAST_STATES, _MOST_STATES = 11, 101

ADDED, REMOVED, RENAMED, RECOLORED, EDITED = "added", "removed", "renamed", "recolored", "edited"
"""What a change was; "" where nothing was changed, or only moved as a whole."""


@dataclass(frozen=True)
class _Look:
    """A segment as it can be told from others without looking at its voxels.

    Attributes:
        voxels: another value when voxels may have changed. place: their matrix and the time of the labelmap.
    """

    name: str
    color: tuple[float, ...]
    voxels: tuple[Any, ...]
    place: tuple[Any, ...]


class SegmentationStates:
    """The states of a segmentation, from the moment at which `keep` is called first.

    Args:
        segmentationNode: the user's vtkMRMLSegmentationNode.

    Attributes:
        at: the number of the state that was kept or restored last. first, last: the oldest and the newest
            state that can be restored.
    """

    def __init__(self, segmentationNode: Any) -> None:
        self._node = segmentationNode
        self._history = slicer.vtkSegmentationHistory()
        self._segmentation: Any = None
        self._tags: list[int] = []
        self._isTouched = False
        self._isRestoring = False
        self._looks: dict[str, _Look] = {}
        self.at = self.first = self.last = 0

    @property
    def isKept(self) -> bool:
        """Whether there is a state."""
        return self._segmentation is not None

    @property
    def isChanged(self) -> bool:
        """Whether the segmentation may be another one than in the state that was kept last."""
        return self.isKept and (self._isTouched or self._isReplaced)

    @property
    def change(self) -> str:
        """What was changed since the last state; "" for nothing."""
        if not self.isChanged or self._isReplaced:
            return ""
        return _change(self._looks, self._look())

    @property
    def _isReplaced(self) -> bool:
        return self._node.GetSegmentation() is not self._segmentation

    def keep(self) -> str:
        """Keeps the segmentation as it is now; what was changed since the last state.

        Raises:
            SAM2PropagateError: `undo_failed`.
        """
        if self._isReplaced:
            self._follow(self._node.GetSegmentation())
        elif not self._isTouched:
            return ""
        history = self._history
        history.SetMaximumNumberOfStates(self._mostStates())
        if not history.SaveState():
            raise SAM2PropagateError(
                "undo_failed",
                _("The segmentation could not be saved for Undo, so nothing was changed."),
                _("Save the scene and load it again."),
            )
        self._isTouched = False
        self.at += 1
        self.last = self.at
        self.first = self.at - history.GetNumberOfStates() + 1
        before, self._looks = self._looks, self._look()
        return _change(before, self._looks) if self.first < self.at else ""

    def isThere(self, state: int) -> bool:
        """Whether a state can be restored."""
        # What was changed since the last state has put an end to those after it.
        return self.isKept and self.first <= state <= (self.at if self._isTouched else self.last)

    def restore(self, state: int) -> None:
        """Brings back the state with this number, which `isThere`; the present one is kept before.

        Raises:
            SAM2PropagateError: `undo_failed`.
        """
        if self.isChanged:
            self.keep()
        self._isRestoring = True
        try:
            while self.at > state and self._history.RestorePreviousState():
                self.at -= 1
            while self.at < state and self._history.RestoreNextState():
                self.at += 1
        finally:
            self._isRestoring = False
        self._looks = self._look()

    def back(self) -> bool:
        """Brings back the state before the present one; False if there is none."""
        if self.isChanged:
            self.keep()
        return self._go(self.at - 1)

    def forward(self) -> bool:
        """Brings back the state after the present one; False if there is none."""
        if self.isChanged:
            self.keep()
        return self._go(self.at + 1)

    def close(self) -> None:
        """Lets go of the segmentation; all states are gone."""
        self._follow(None)

    def _go(self, state: int) -> bool:
        if not self.isThere(state):
            return False
        self.restore(state)
        return True

    def _follow(self, segmentation: Any) -> None:
        for tag in self._tags:
            self._segmentation.RemoveObserver(tag)
        self._tags = []
        self._segmentation = segmentation
        self._history.SetSegmentation(segmentation)
        self._isTouched = False
        if segmentation is not None:
            self._tags = [
                segmentation.AddObserver(event, self._touched)
                for event in (
                    segmentation.SegmentAdded,
                    segmentation.SegmentRemoved,
                    segmentation.SegmentModified,
                    segmentation.SourceRepresentationModified,
                )
            ]

    def _touched(self, *_arguments: Any) -> None:
        if not self._isRestoring:
            self._isTouched = True

    def _segments(self) -> dict[str, Any]:
        segmentation = self._segmentation
        names = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
        return {name: segmentation.GetSegment(name) for name in names}

    def _look(self) -> dict[str, _Look]:
        return {name: _looked(segment) for name, segment in self._segments().items()}

    def _mostStates(self) -> int:
        images = (one.GetRepresentation(binaryLabelmapName()) for one in self._segments().values())
        sizes = {image: image.GetActualMemorySize() * 1024 for image in images if image is not None}
        return min(max(_MOST_BYTES // max(sum(sizes.values()), 1), _LEAST_STATES), _MOST_STATES)


def _looked(segment: Any) -> _Look:
    image = segment.GetRepresentation(binaryLabelmapName())
    voxels: tuple[Any, ...] = (segment.GetLabelValue(),)
    place: tuple[Any, ...] = ()
    if image is not None:
        scalars, matrix = image.GetPointData().GetScalars(), vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        voxels += (image.GetExtent(), 0 if scalars is None else scalars.GetMTime())
        place = (tuple(matrix.GetData()), image.GetMTime())
    return _Look(segment.GetName() or "", tuple(segment.GetColor()), voxels, place)


def _change(before: dict[str, _Look], now: dict[str, _Look]) -> str:
    if now.keys() - before.keys():
        return ADDED
    if before.keys() - now.keys():
        return REMOVED
    pairs = [(before[name], one) for name, one in now.items()]
    for old, new in pairs:
        # Where only the place is another one the whole segmentation was moved: nobody painted.
        isMoved = old.place[:1] != new.place[:1] and old.voxels == new.voxels
        if (old.voxels, old.place) != (new.voxels, new.place) and not isMoved:
            return EDITED
    if any(old.name != new.name for old, new in pairs):
        return RENAMED
    return RECOLORED if any(old.color != new.color for old, new in pairs) else ""
