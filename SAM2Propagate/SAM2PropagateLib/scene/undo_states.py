"""Keeps the states of a segmentation after each change, for Undo and Redo.

Each state has a fixed number, so that a caller can ask whether it is still kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import vtk

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.scene.segment_copies import Copies, KeptSegments, SegmentCopies, allCopies
from SAM2PropagateLib.scene.segments import binaryLabelmapName, labelsOf, segmentsByID
from SAM2PropagateLib.scene.slabs import finished, runs
from SAM2PropagateLib.texts import tr as _

# Each state has a copy of the changed labelmaps. As many states are kept as fit into this size, within
# bounds.
MOST_BYTES = 1 << 30
LEAST_STATES, MOST_STATES = 11, 101

ADDED, REMOVED, RENAMED, RECOLORED, EDITED = "added", "removed", "renamed", "recolored", "edited"
"""Kinds of changes; "" means no change, or that everything was only moved."""


@dataclass(frozen=True)
class _SegmentLook:
    """What a segment is recognized by.

    Attributes:
        voxels: a hash of them, see `hashed`.
    """

    name: str
    color: tuple[float, ...]
    voxels: bytes


@dataclass(frozen=True, eq=False)
class _State:
    """An earlier state of a segmentation.

    Attributes:
        segments: copies to restore. looks: of the segments. places: see `SegmentationStates._place`.
    """

    segments: KeptSegments
    looks: dict[str, _SegmentLook]
    places: dict[str, tuple[float, ...]]


class SegmentationStates:
    """The states of a segmentation, from the first call of `keep` on.

    Args:
        segmentationNode: the user's vtkMRMLSegmentationNode.

    Attributes:
        at: the number of the latest state that was kept or restored.
    """

    def __init__(self, segmentationNode: Any) -> None:
        self._node = segmentationNode
        self._segmentation: Any = None
        self._copies = SegmentCopies(None)
        self._states: dict[int, _State] = {}
        self._tags: list[int] = []
        self._isTouched = False
        self._isRestoring = False
        # Per labelmap its stamp and the hashes of its labels.
        self._hashes: dict[Any, _Hashes] = {}
        self._count = self.at = 0

    @property
    def isKept(self) -> bool:
        """Whether there is a state."""
        return self._segmentation is not None

    @property
    def nbytes(self) -> int:
        """How many bytes the copies in the states take."""
        copies = allCopies(one.segments for one in self._states.values())
        return sum(copy.GetActualMemorySize() * 1024 for copy in copies)

    @property
    def isChanged(self) -> bool:
        """Whether the segmentation may have changed since the last state."""
        return self.isKept and (self._isTouched or self._isReplaced)

    @property
    def change(self) -> str:
        """The kind of change since the last state; "" for none."""
        if not self.isChanged or self._isReplaced:
            return ""
        return _change(self._states[self.at].looks, self._look())

    @property
    def _isSame(self) -> bool:
        """Whether nothing has changed since the last state."""
        return not self.isChanged or (
            not (self._isReplaced or self.change) and self._states[self.at].places == self._place()
        )

    @property
    def _isReplaced(self) -> bool:
        return self._node.GetSegmentation() is not self._segmentation

    def keep(self, ready: Copies | None = None) -> str:
        """Keeps the present state of the segmentation; returns the kind of change since the last state.

        If nothing has changed, for example by a stroke over painted voxels, the last state stays the last,
        and those after it can still be restored.

        Args:
            ready: copies of present labelmaps, made ahead.

        Raises:
            SAM2PropagateError: `undo_failed`.
        """
        if self._isReplaced:
            self._follow(self._node.GetSegmentation())
        elif not self._isTouched:
            return ""
        try:
            segments = self._copies.keep(ready or ())
        except MemoryError:
            raise SAM2PropagateError(
                "undo_failed",
                _("The segmentation could not be saved for Undo, so nothing was changed."),
                _("Save the scene and load it again."),
            ) from None
        self._isTouched = False
        before, state = self._states.get(self.at), self._state(segments)
        change = "" if before is None else _change(before.looks, state.looks)
        if before is None or change or before.places != state.places:
            self._states = {number: one for number, one in self._states.items() if number <= self.at}
            # Numbers are never reused, so the number of a dropped state finds nothing.
            self._count += 1
            self.at = self._count
        self._states[self.at] = state
        self._forgetOldest()
        return change

    def expect(self, labelmaps: Mapping[Any, Mapping[int, bytes]]) -> None:
        """Takes known hashes for labelmaps that were just replaced, and that nobody has touched since.

        Args:
            labelmaps: for each labelmap what `hashed` returned for its present contents, for the labels of
                its segments in their order.
        """
        for image, ofLabels in labelmaps.items():
            self._hashes[image] = _Hashes(_stamp(image, list(ofLabels)), dict(ofLabels))

    def voxels(self, segmentID: str) -> bytes | None:
        """Returns the hash of a segment's voxels in the latest state; None if they may have changed since, or
        there is no such segment."""
        isKnown = self.isKept and not self.isChanged
        look = self._states[self.at].looks.get(segmentID) if isKnown else None
        return None if look is None else look.voxels

    def isThere(self, state: int) -> bool:
        """Tells whether a state can be restored."""
        # A change since the last state makes those after it impossible to restore.
        isHere = state in self._states and not self._isReplaced
        return isHere and (state <= self.at or self._isSame)

    def copying(self, state: int) -> Generator[None, None, Copies]:
        """Makes the copies that `restore` needs for a state, slab by slab; nothing in the segmentation
        changes."""
        if state not in self._states:
            return ()
        return (yield from self._copies.copying(self._states[state].segments))

    def restore(self, state: int, ready: Copies | None = None) -> None:
        """Restores the state with this number, for which `isThere` is True; keeps the present one before.

        Args:
            ready: what `copying` returned.

        Raises:
            SAM2PropagateError: `undo_failed`.
        """
        if self.isChanged:
            self.keep()
        wanted = self._states[state]
        self._isRestoring = True
        try:
            isExact = self._copies.restore(wanted.segments, ready or ())
        finally:
            self._isRestoring = False
        self.at = state
        if isExact:
            self._expectKept(wanted.looks)
        else:
            # Changes by observers of the events belong to the state.
            self._states[state] = self._state(self._copies.keep(()))

    def back(self) -> bool:
        """Restores the state before the last change; False if there is none.

        Saving marks a segmentation as modified, but is not a change.
        """
        if self.isChanged:
            self.keep()
        return self._go(-1)

    def forward(self) -> bool:
        """Restores the state after the present one; False if there is none."""
        if self.isChanged:
            self.keep()
        return self._go(1)

    def close(self) -> None:
        """Stops observing the segmentation, and drops all states."""
        self._follow(None)

    def _state(self, segments: KeptSegments) -> _State:
        return _State(segments, self._look(), self._place())

    def _expectKept(self, looks: Mapping[str, _SegmentLook]) -> None:
        """Takes the hashes of a state for labelmaps that were just copied from it."""
        segments = segmentsByID(self._segmentation)
        for image, labels in _labels(segments).items():
            names = [name for name, one in segments.items() if _image(one) is image]
            if image is not None and all(name in looks for name in names):
                hashes = (looks[name].voxels for name in names)
                self.expect({image: dict(zip(labels, hashes, strict=True))})

    def _go(self, steps: int) -> bool:
        numbers = sorted(self._states)
        place = numbers.index(self.at) + steps if numbers else -1
        if not 0 <= place < len(numbers):
            return False
        self.restore(numbers[place])
        return True

    def _follow(self, segmentation: Any) -> None:
        for tag in self._tags:
            self._segmentation.RemoveObserver(tag)
        self._tags = []
        self._segmentation = segmentation
        self._copies = SegmentCopies(segmentation)
        self._states.clear()
        self._hashes.clear()
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

    def _look(self) -> dict[str, _SegmentLook]:
        segments, known = segmentsByID(self._segmentation), self._hashes
        self._hashes = {
            image: _Hashes.of(image, some, known.get(image)) for image, some in _labels(segments).items()
        }
        return {
            name: _SegmentLook(
                one.GetName() or "",
                tuple(one.GetColor()),
                self._hashes[_image(one)].ofLabels[one.GetLabelValue()],
            )
            for name, one in segments.items()
        }

    def _place(self) -> dict[str, tuple[float, ...]]:
        """Returns for each segment with voxels the matrix from its labelmap to the segmentation's space."""
        places = {}
        for name, one in segmentsByID(self._segmentation).items():
            if (image := _image(one)) is not None:
                matrix = vtk.vtkMatrix4x4()
                image.GetImageToWorldMatrix(matrix)
                places[name] = tuple(matrix.GetElement(n // 4, n % 4) for n in range(16))
        return places

    def _forgetOldest(self) -> None:
        while len(self._states) > MOST_STATES or (
            len(self._states) > LEAST_STATES and self.nbytes > MOST_BYTES
        ):
            del self._states[min(self._states)]


@dataclass(frozen=True)
class _Hashes:
    """The hashes of a labelmap's labels.

    Attributes:
        stamp: changes with the labelmap. ofLabels: see `hashed`.
    """

    stamp: tuple[Any, ...]
    ofLabels: dict[int, bytes]

    @classmethod
    def of(cls, image: Any, labels: list[int], known: _Hashes | None) -> _Hashes:
        """Returns the hashes of a labelmap, None for no voxels; `known` if it has not changed."""
        if image is None:
            return cls((), dict.fromkeys(labels, b""))
        stamp = _stamp(image, labels)
        if known is not None and known.stamp == stamp:
            return known
        return cls(stamp, finished(hashed(image, labels)))


def _stamp(image: Any, labels: list[int]) -> tuple[Any, ...]:
    scalars = image.GetPointData().GetScalars()
    times = image.GetMTime(), 0 if scalars is None else scalars.GetMTime()
    return (*times, image.GetExtent(), scalars, tuple(labels))


def _image(segment: Any) -> Any:
    return segment.GetRepresentation(binaryLabelmapName())


def _labels(segments: Mapping[str, Any]) -> dict[Any, list[int]]:
    """Returns the labels in each labelmap, which segments may share."""
    labels: dict[Any, list[int]] = {}
    for one in segments.values():
        labels.setdefault(_image(one), []).append(one.GetLabelValue())
    return labels


def hashed(image: Any, labels: list[int]) -> Generator[None, None, dict[int, bytes]]:
    """Returns a hash of each label's voxels, slab by slab, whatever the labelmap's extent; empty for no
    voxels.

    Even a stroke that changes no voxel can change a segment's labelmap, label or extent.
    """
    voxels, (i, _, j, _, k, _) = labelsOf(image), image.GetExtent()
    # A view if possible, as cropping takes most of the time.
    filled = voxels.view(bool) if voxels.itemsize == 1 else voxels != 0
    found = {label: hashlib.sha1(usedforsecurity=False) for label in labels}
    held = set()
    for part in runs(len(filled), voxels[:1].size):
        for n in range(part.start, part.stop):
            for label in labels if filled[n].any() else ():
                mask = voxels[n] == label
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                if len(rows):
                    held.add(label)
                    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                    place = np.array([k + n, j + rows[0], i + columns[0], *inside.shape], dtype="<i8")
                    found[label].update(place.tobytes() + np.packbits(inside).tobytes())
        yield
    return {label: one.digest() if label in held else b"" for label, one in found.items()}


def _change(before: dict[str, _SegmentLook], now: dict[str, _SegmentLook]) -> str:
    if now.keys() - before.keys():
        return ADDED
    if before.keys() - now.keys():
        return REMOVED
    pairs = [(before[name], one) for name, one in now.items()]
    if any(old.voxels != new.voxels for old, new in pairs):
        return EDITED
    if any(old.name != new.name for old, new in pairs):
        return RENAMED
    return RECOLORED if any(old.color != new.color for old, new in pairs) else ""
