"""Keeps a preview in the scene: while the user works on something else, and in a saved scene."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.packed_masks import (
    MaskError,
    PackedEdge,
    bytes_of,
    mask_of_values,
    pack,
    packed_edge,
    text_of,
)
from SAM2PropagateLib.scene.names import safeName
from SAM2PropagateLib.scene.segments import BoolArray
from SAM2PropagateLib.scene.state import PREVIEW_MODULE_NAME, SEGMENTATION_ROLE, VOLUME_ROLE, nodesOf
from SAM2PropagateLib.scene.volume import ImageDigest, ijkToRas, isSamePlace
from SAM2PropagateLib.texts import tr as _

_PARAMETER = "preview"
_VERSION = 1
# How many packed frames are kept that are not in the preview any more but may come back.
_MOST_FORMER = 4096


@dataclass(frozen=True, eq=False)
class KeptFrame:
    """One frame of a preview.

    Attributes:
        mask: (rows, columns) bool.
        facts: more about the frame, anything that JSON can hold.
        under: what the segment held when the mask was asked for; None: unknown.
        edge: how the mask's edge runs between the pixels; None: unknown.
        seen: for a segment on its own grid, of which `under` does not hold every voxel: the hash of its
            frame, "" if it was edited since `under`. None: it is on the volume's grid, or unknown.
    """

    mask: BoolArray
    facts: Any = None
    under: BoolArray | None = None
    edge: PackedEdge | None = None
    seen: str | None = None


class PackedFrame:
    """A `KeptFrame` whose parts are unpacked when they are read.

    Args:
        record: of `KeptPreview.records`.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record

    @property
    def mask(self) -> BoolArray:
        """See `KeptFrame`."""
        return _unpacked(self.record, self._shape)

    @property
    def facts(self) -> Any:
        """See `KeptFrame`."""
        return self.record["facts"]

    @property
    def under(self) -> BoolArray | None:
        """See `KeptFrame`."""
        # Earlier versions did not keep what was under it.
        return _unpacked(self.record["under"], self._shape) if "under" in self.record else None

    @property
    def edge(self) -> PackedEdge | None:
        """See `KeptFrame`."""
        edge = self.record.get("edge")
        if edge is None:
            return None
        return packed_edge(self.record["shape"], edge["box"], bytes_of(edge["data"]))

    @property
    def seen(self) -> str | None:
        """See `KeptFrame`."""
        seen = self.record.get("seen")
        return None if seen is None else str(seen)

    @property
    def _shape(self) -> tuple[int, int]:
        rows, columns = self.record["shape"]
        return rows, columns


KeptFrames = Mapping[str, Mapping[int, KeptFrame]]
Stamps = Mapping[str, Mapping[int, Hashable]]
ReadFrame = Callable[[str, int], KeptFrame]


@dataclass(frozen=True)
class Kept:
    """A preview: its propagation axis, and its frames per segment ID.

    Attributes:
        fits: whether it is on the volume's voxels: the volume still has its size, and the same voxels or the
            same place. Else there are no frames.
    """

    axis: int
    fits: bool
    frames: KeptFrames


class KeptPreview:
    """Keeps the preview of one segmentation on one volume in the scene.

    A hidden node holds it and points to both, so it is saved, loaded and imported with them.

    Args:
        segmentationNode, volumeNode: both in a scene.
    """

    def __init__(self, segmentationNode: Any, volumeNode: Any) -> None:
        self._segmentationNode = segmentationNode
        self._volumeNode = volumeNode
        self._image = ImageDigest(volumeNode)
        self._last: tuple[int, dict[str, Any], Stamps] | None = None
        # Packing takes part of a millisecond per frame, and only few frames change at a time.
        self._written: dict[tuple[str, int, Hashable], dict[str, Any]] = {}
        # Former frames, as Undo brings many of them back.
        self._former: dict[tuple[str, int, Hashable], dict[str, Any]] = {}

    def prepare(self, stamps: Stamps, read: ReadFrame, isEnough: Callable[[], bool]) -> bool:
        """Packs frames ahead for a later `put` or `records`; returns whether there may be more to pack.

        Args:
            stamps, read: as for `put`.
            isEnough: called after every frame; True ends the packing.
        """
        for segmentID, frames in stamps.items():
            for frame, stamp in frames.items():
                key = (segmentID, frame, stamp)
                if key not in self._written and key not in self._former:
                    self._written[key] = packedRecord(read(segmentID, frame))
                    if isEnough():
                        return True
        return False

    def stamps(self, segmentID: str, records: Mapping[int, Mapping[str, Any]]) -> dict[int, Any] | None:
        """Returns the stamps of frames when they were packed as these records; None if one is unknown.

        Args:
            records: per frame what `records` returned.
        """
        known = {
            id(record): stamp
            for (name, _frame, stamp), record in {**self._former, **self._written}.items()
            if name == segmentID
        }
        if not all(id(record) in known for record in records.values()):
            return None
        return {frame: known[id(record)] for frame, record in records.items()}

    def records(self, stamps: Stamps, read: ReadFrame) -> dict[tuple[str, int], dict[str, Any]]:
        """Returns all frames, packed, by segment ID and frame. Read them with `PackedFrame`, and do not
        change them.

        Args:
            stamps, read: as for `put`.
        """
        found = {}
        for segmentID, frames in stamps.items():
            for frame, stamp in frames.items():
                key = (segmentID, frame, stamp)
                if key not in self._written:
                    self._written[key] = self._former.get(key) or packedRecord(read(segmentID, frame))
                found[segmentID, frame] = self._written[key]
        return found

    def prepareNode(self) -> None:
        """Makes the node ahead that `put` will need; see `tidy`."""
        if next(self._nodes(), None) is None:
            self._create()

    def tidy(self) -> None:
        """Removes the node from the scene if nothing is kept in it."""
        for node in list(self._nodes()):
            if not node.GetParameter(_PARAMETER):
                node.GetScene().RemoveNode(node)

    def put(
        self,
        axis: int,
        stamps: Stamps,
        read: ReadFrame,
        tidies: bool = True,
    ) -> None:
        """Keeps a preview in place of the one before; without frames, nothing is left in the scene.

        Args:
            axis: propagation axis.
            stamps: per segment ID and frame a value that changes with the frame.
            read: returns a frame of a segment; called only for frames with a new stamp.
            tidies: call `tidy`; pass False if that comes later.
        """
        volume = self._volume()
        if (axis, volume, stamps) == self._last:
            return
        self._last = (axis, volume, stamps)
        known, self._written = self._written, {}
        for segmentID, frames in stamps.items():
            for frame, stamp in frames.items():
                key = (segmentID, frame, stamp)
                self._written[key] = (
                    known.get(key) or self._former.get(key) or packedRecord(read(segmentID, frame))
                )
        self._former.update((key, one) for key, one in known.items() if key not in self._written)
        for key in list(self._former)[: max(0, len(self._former) - _MOST_FORMER)]:
            del self._former[key]
        self._removeStranded()
        if not self._written and tidies:
            self.remove()
            return
        if not self._written:
            for node in self._nodes():
                node.UnsetParameter(_PARAMETER)
            return
        segments: dict[str, dict[str, Any]] = {}
        for (segmentID, frame, _stamp), one in self._written.items():
            segments.setdefault(segmentID, {})[str(frame)] = one
        document = {"version": _VERSION, "axis": axis, **volume, "segments": segments}
        node = next(self._nodes(), None) or self._create()
        node.SetParameter(_PARAMETER, json.dumps(document, separators=(",", ":")))

    def get(self) -> Kept | None:
        """Returns the kept preview; None if there is none.

        Raises:
            InputError: `bad_preview` (it cannot be read).
        """
        node = next(self._nodes(), None)
        if node is None or not node.GetParameter(_PARAMETER):
            return None
        try:
            document = json.loads(node.GetParameter(_PARAMETER) or "")
            if document["version"] != _VERSION or document["axis"] not in (0, 1, 2):
                raise ValueError
            axis, size = document["axis"], [int(count) for count in document["shape"]]
            if not self._fits(document):
                # It cannot be shown, so it need not be unpacked.
                return Kept(axis, False, {})
            rows, columns = (size[other] for other in (2, 1, 0) if other != axis)
            return Kept(
                axis,
                True,
                {
                    str(segmentID): {int(frame): _read(one, (rows, columns)) for frame, one in frames.items()}
                    for segmentID, frames in document["segments"].items()
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                "bad_preview",
                _("The saved preview of “{segmentation}” cannot be read.").format(
                    segmentation=self._segmentationNode.GetName()
                ),
                _("Update SAM2 Propagate if the scene was saved by a newer version, or propagate again."),
            ) from None

    def _volume(self) -> dict[str, Any]:
        """Returns the volume's size, place and voxels now, as values that JSON can hold."""
        return {
            "shape": list(self._volumeNode.GetImageData().GetDimensions()),
            "ijk_to_ras": ijkToRas(self._volumeNode).ravel().tolist(),
            "image": self._image.text,
        }

    def _fits(self, document: Mapping[str, Any]) -> bool:
        """Tells whether a kept preview is on the volume's voxels; see `Kept`."""
        now = self._volume()
        if document["shape"] != now["shape"]:
            return False
        # Earlier versions kept only the size.
        if "image" not in document or document["image"] == now["image"]:
            return True
        own, kept = (np.array(one["ijk_to_ras"], dtype=np.float64).reshape(4, 4) for one in (now, document))
        return isSamePlace(own, kept)

    def remove(self) -> None:
        """Removes the kept preview."""
        self._last = None
        for node in list(self._nodes()):
            node.GetScene().RemoveNode(node)

    def _nodes(self) -> Iterator[Any]:
        for node in nodesOf(self._segmentationNode, "vtkMRMLScriptedModuleNode"):
            isHere = node.GetNodeReferenceID(VOLUME_ROLE) == self._volumeNode.GetID()
            if node.GetModuleName() == PREVIEW_MODULE_NAME and isHere:
                yield node

    def _removeStranded(self) -> None:
        # MRML clears the reference when the volume is removed. Such a preview can never be shown again.
        for node in list(nodesOf(self._segmentationNode, "vtkMRMLScriptedModuleNode")):
            if node.GetModuleName() == PREVIEW_MODULE_NAME and node.GetNodeReference(VOLUME_ROLE) is None:
                node.GetScene().RemoveNode(node)

    def _create(self) -> Any:
        scene = self._segmentationNode.GetScene()
        node = scene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        node.SetName(safeName(self._segmentationNode.GetName() or "", "SAM2 Propagate preview"))
        node.SetModuleName(PREVIEW_MODULE_NAME)
        node.SetHideFromEditors(True)
        node.SetNodeReferenceID(SEGMENTATION_ROLE, self._segmentationNode.GetID())
        node.SetNodeReferenceID(VOLUME_ROLE, self._volumeNode.GetID())
        return scene.AddNode(node)


def isSameFrame(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Tells whether two frames of `KeptPreview.records` show the same; None: no frame."""
    if one is None or other is None or one is other:
        return one is other
    return all(one.get(name) == other.get(name) for name in ("shape", "box", "bits", "facts", "edge"))


def packedRecord(one: KeptFrame) -> dict[str, Any]:
    """Returns a frame as values that JSON can hold, its masks packed."""
    written = {**_packed(one.mask), "facts": one.facts}
    if one.under is not None:
        written["under"] = _packed(one.under)
    if one.edge is not None:
        written["edge"] = {"box": one.edge.box, "data": text_of(one.edge.data)}
    if one.seen is not None:
        written["seen"] = one.seen
    return written


def _read(one: Any, shape: tuple[int, int]) -> KeptFrame:
    mask = _unpacked(one, shape)
    # Earlier versions did not keep what was under it.
    under = _unpacked(one["under"], shape) if "under" in one else None
    edge, seen = one.get("edge"), one.get("seen")
    if edge is not None:
        edge = packed_edge(one["shape"], edge["box"], bytes_of(edge["data"]))
    return KeptFrame(mask, one["facts"], under, edge, None if seen is None else str(seen))


def _packed(mask: BoolArray) -> dict[str, Any]:
    return pack(mask).values()


def _unpacked(one: Any, shape: tuple[int, int]) -> BoolArray:
    packed = mask_of_values(one)
    if packed.shape != shape:
        raise MaskError(_("its frame and the volume's differ in size"))
    return packed.unpack()
