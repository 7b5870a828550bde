"""Copies a segmentation's segments, and restores them.

Slicer's own `vtkSegmentationHistory` copies a labelmap when it saves and again when it restores a state, and
makes every view start over. Here copies can be made ahead, in turns, and if only voxels differ, the labelmaps
stay the same objects, as when Slicer writes voxels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import slicer

from SAM2PropagateLib.scene.labelmaps import copying, quiet, swap
from SAM2PropagateLib.scene.segments import binaryLabelmapName, segmentsByID
from SAM2PropagateLib.scene.slabs import finished

Copies = Sequence[tuple[Any, Any]]
"""Pairs of a representation and an unused copy of it. It is no dictionary, as surfaces have no hash."""


@dataclass(frozen=True, eq=False)
class KeptSegment:
    """An earlier state of a segment.

    Attributes:
        properties: a vtkSegment with its name, color, label and tags.
        data: per representation a copy, which segments may share; it is never given to the segmentation.
    """

    properties: Any
    data: Mapping[str, Any]


KeptSegments = Mapping[str, KeptSegment]
"""By segment ID, in the order of the segmentation."""


@dataclass(frozen=True, eq=False)
class _Copied:
    """A representation that was copied.

    Attributes:
        data: the representation. stamp: changes with it. copy: the copy.
    """

    data: Any
    stamp: tuple[Any, ...]
    copy: Any


class SegmentCopies:
    """Copies the segments of one segmentation, and restores them.

    Args:
        segmentation: the vtkSegmentation.
    """

    def __init__(self, segmentation: Any) -> None:
        self._segmentation = segmentation
        self._known: list[_Copied] = []

    def keep(self, ready: Copies) -> KeptSegments:
        """Returns copies of all segments; what has not changed since the last time is not copied again.

        Args:
            ready: copies of present representations, made ahead.
        """
        before, self._known = self._known, []
        kept = {}
        for name, segment in segmentsByID(self._segmentation).items():
            properties = slicer.vtkSegment()
            properties.DeepCopyMetadata(segment)
            data = {kind: self._copyOf(one, before, ready) for kind, one in _dataOf(segment).items()}
            kept[name] = KeptSegment(properties, data)
        return kept

    def _copyOf(self, data: Any, before: Iterable[_Copied], ready: Copies) -> Any:
        for one in self._known:
            if one.data is data:
                return one.copy
        stamp = _stamp(data)
        known = next((one for one in before if one.data is data and one.stamp == stamp), None)
        if known is None:
            copy = _copyIn(ready, data)
            known = _Copied(data, stamp, finished(copying(data)) if copy is None else copy)
        self._known.append(known)
        return known.copy

    def copying(self, kept: KeptSegments) -> Generator[None, None, Copies]:
        """Makes the copies that `restore` needs, slab by slab; nothing in the segmentation changes."""
        ready = []
        for copy in self._wanted(kept):
            fresh = yield from copying(copy)
            ready.append((copy, fresh))
        return ready

    def restore(self, kept: KeptSegments, ready: Copies) -> bool:
        """Restores segments.

        Args:
            ready: what `copying` returned; missing copies are made now.

        Returns:
            Whether they are as they were; False if an observer of the events has changed them.
        """
        pairs = self._inPlace(kept)
        fresh = []
        for copy in self._wanted(kept):
            one = _copyIn(ready, copy)
            fresh.append((copy, finished(copying(copy)) if one is None else one))
        if pairs is None:
            return self._rebuild(kept, fresh)
        segments, kind = segmentsByID(self._segmentation), binaryLabelmapName()
        for name, segment in kept.items():
            _giveProperties(segments[name], segment.properties)
        changed = [(image, copy) for image, copy in pairs if _copyIn(fresh, copy) is not None]
        names = [name for name, one in kept.items() if _copyIn(fresh, one.data[kind]) is not None]
        planned = {image: _copyIn(fresh, copy) for image, copy in changed}
        isExact = swap(self._segmentation, planned, names)
        if isExact:
            others = [one for one in self._known if all(one.data is not image for image, _ in changed)]
            self._known = [*others, *(_Copied(image, _stamp(image), copy) for image, copy in changed)]
        return isExact

    def _wanted(self, kept: KeptSegments) -> list[Any]:
        """Returns the copies that differ from what the segmentation holds."""
        pairs = self._inPlace(kept)
        if pairs is None:
            return allCopies([kept])
        return [copy for image, copy in pairs if not self._holds(image, copy)]

    def _holds(self, data: Any, copy: Any) -> bool:
        return any(one.data is data and one.copy is copy and one.stamp == _stamp(data) for one in self._known)

    def _inPlace(self, kept: KeptSegments) -> Copies | None:
        """Returns pairs of a labelmap and a copy of its new contents; None if more than voxels differs, or
        other representations depend on them."""
        segments, kind = segmentsByID(self._segmentation), binaryLabelmapName()
        if list(segments) != list(kept):
            return None
        pairs: list[tuple[Any, Any]] = []
        for name, one in kept.items():
            there = _dataOf(segments[name])
            isPlain = there.keys() == one.data.keys() == {kind}
            if not isPlain or segments[name].GetLabelValue() != one.properties.GetLabelValue():
                return None
            image, copy = there[kind], one.data[kind]
            isOther = [(old is image) is not (wanted is copy) for old, wanted in pairs]
            if any(isOther):
                return None
            if all(old is not image for old, _ in pairs):
                pairs.append((image, copy))
        return pairs

    def _rebuild(self, kept: KeptSegments, fresh: Copies) -> bool:
        """Replaces the representations of all segments, and adds and removes segments."""
        segmentation, stamps = self._segmentation, [_stamp(one) for _copy, one in fresh]
        segments = segmentsByID(self._segmentation)
        kinds = {name: _dataOf(one).keys() for name, one in segments.items()}
        staying = [name for name in kept if name in segments]
        for name in staying:
            # Events come after all segments have their labelmaps, which they may share.
            with quiet(segments[name]):
                segments[name].RemoveAllRepresentations()
                _give(segments[name], kept[name], fresh)
        for name in staying:
            segments[name].Modified()
        for name in segments.keys() - kept.keys():
            segmentation.RemoveSegment(name)
        for name in [name for name in kept if name not in segments]:
            segment = slicer.vtkSegment()
            _give(segment, kept[name], fresh)
            segmentation.AddSegment(segment, name)
        segmentation.ReorderSegments(list(kept))
        if any(kept[name].data.keys() != kinds[name] for name in staying):
            segmentation.InvokeEvent(segmentation.ContainedRepresentationNamesModified)
        self._known = [
            _Copied(one, stamp, copy)
            for (copy, one), stamp in zip(fresh, stamps, strict=True)
            if _stamp(one) == stamp
        ]
        return len(self._known) == len(fresh)


def allCopies(kept: Iterable[KeptSegments]) -> list[Any]:
    """Returns all copies in these, each once."""
    segments = (segment for one in kept for segment in one.values())
    return list({id(copy): copy for segment in segments for copy in segment.data.values()}.values())


def _copyIn(copies: Copies, data: Any) -> Any:
    return next((copy for one, copy in copies if one is data), None)


def _give(segment: Any, kept: KeptSegment, fresh: Copies) -> None:
    segment.DeepCopyMetadata(kept.properties)
    for kind, copy in kept.data.items():
        segment.AddRepresentation(kind, _copyIn(fresh, copy))


def _giveProperties(segment: Any, properties: Any) -> None:
    """Sets a segment's name, color and tags, with an event, which VTK does not send for tags."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    before = logic.GetSegmentStatus(segment)
    segment.DeepCopyMetadata(properties)
    if logic.GetSegmentStatus(segment) != before:
        segment.Modified()


def _dataOf(segment: Any) -> dict[str, Any]:
    names: list[str] = []
    segment.GetContainedRepresentationNames(names)
    return {name: segment.GetRepresentation(name) for name in names}


def _stamp(data: Any) -> tuple[Any, ...]:
    if not data.IsA("vtkImageData"):
        return (data.GetMTime(),)
    scalars = data.GetPointData().GetScalars()
    return data.GetMTime(), 0 if scalars is None else scalars.GetMTime(), data.GetExtent(), scalars
