"""Keeps facts of frames in the scene: kinds, doubts, and which prompts are the history of an edited slice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.app.strip import FrameFacts, Withheld
from SAM2PropagateLib.frame_kinds import KEYFRAME, PREVIEW, PROPAGATED
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.packed_masks import MaskError, mask_of_values
from SAM2PropagateLib.scene.state import SceneState
from SAM2PropagateLib.scene.volume import isSamePlace

BoolArray = npt.NDArray[np.bool_]

_STATE_NAME = "frames"
_VERSION = 1

FactsOfFrames = dict[int, FrameFacts]
AllFacts = tuple[int | None, tuple[int, ...], dict[str, FactsOfFrames]]


class KeptFacts:
    """Keeps facts per segment and frame, and the histories of masks; saved with the scene.

    A frame of the preview has its own facts. They hide those of the segment's own mask, which return when the
    preview goes. The preview's facts are saved with the preview.

    Facts that cannot be read, from an earlier version or a damaged scene, are left out, and so is a withheld
    mask alone: they serve the display of doubts and corrections of empty slices, and come back with the next
    run.

    Args:
        segmentationNode: has the segments.

    Attributes:
        frames: facts of the segments' own masks, per segment ID and frame.
    """

    def __init__(self, segmentationNode: Any) -> None:
        self._state = SceneState(segmentationNode)
        self.axis: int | None = None
        self._shape: tuple[int, ...] = ()
        self.frames: dict[str, FactsOfFrames] = {}
        self._shown: dict[str, FactsOfFrames] = {}
        self.histories: dict[str, dict[str, frozenset[str]]] = {}
        self.orders: dict[str, list[str]] = {}
        self._load()

    def history(self, segmentID: str) -> dict[str, frozenset[str]]:
        """Returns per mask ID the IDs of the prompts that its slice had before."""
        return self.histories.get(segmentID, {})

    def setHistory(self, segmentID: str, maskID: str, prompts: frozenset[str]) -> None:
        """Sets which prompts on a mask's slice do not count any more."""
        self.histories.setdefault(segmentID, {})[maskID] = prompts

    def note(self, segmentID: str, clicks: Iterable[str]) -> None:
        """Keeps the order of clicks: those that are new came after those of earlier calls.

        The scene keeps positive and negative clicks in separate nodes, and so loses their order.
        """
        order = self.orders.setdefault(segmentID, [])
        order += [click for click in clicks if click not in order]

    def facts(self, segmentID: str, geometry: VolumeGeometry, axis: int) -> FactsOfFrames:
        """Returns the facts of a segment's frames, the preview's where it has a mask; empty if they are of
        another axis or size."""
        if not self._isOn(geometry, axis):
            return {}
        return {**self.frames.get(segmentID, {}), **self._shown.get(segmentID, {})}

    def applied(self, segmentID: str, geometry: VolumeGeometry, axis: int) -> FactsOfFrames:
        """Returns the facts of the segment's own masks, whatever the preview shows."""
        return dict(self.frames.get(segmentID, {})) if self._isOn(geometry, axis) else {}

    def putPreview(
        self, segmentID: str, frame: int, facts: FrameFacts, geometry: VolumeGeometry, axis: int
    ) -> None:
        """Keeps facts of a frame of the preview; drops facts of another axis or size."""
        self._begin(geometry, axis)
        shown = self._shown.setdefault(segmentID, {})
        before = shown.get(frame)
        if facts.kind == PREVIEW and before is not None and before.withheld is not None:
            # What a run has drawn is still known when the prompts are gone again.
            facts = replace(facts, withheld=before.withheld)
        shown[frame] = facts

    def takeBack(self, segmentID: str, frame: int) -> bool:
        """Takes back the preview's facts of a frame that has no prompts any more.

        If a run left the frame empty and withheld a mask, the facts say so again. Otherwise they go.

        Returns:
            Whether a withheld mask stays, so that the frame is empty again.
        """
        shown = self._shown.get(segmentID, {})
        facts = shown.get(frame)
        if facts is None or facts.withheld is None:
            shown.pop(frame, None)
            return False
        if facts.kind == PREVIEW:
            shown[frame] = FrameFacts(PROPAGATED, withheld=facts.withheld)
        return True

    def withheld(self, segmentID: str, frame: int, geometry: VolumeGeometry, axis: int) -> BoolArray | None:
        """Returns what a run drew on a frame that it left empty, (rows, columns); None if there is none, or
        if it is of a volume at another place."""
        facts = self.facts(segmentID, geometry, axis).get(frame)
        one = None if facts is None else facts.withheld
        if one is None or one.packed.shape != geometry.frame_shape(axis):
            return None
        place, now = (np.reshape(values, (4, 4)) for values in (one.place, geometry.ijk_to_ras))
        return one.packed.unpack() if isSamePlace(place, now) else None

    def dropPreview(self, segmentID: str, frame: int | None = None) -> None:
        """Drops the preview's facts of a frame of a segment, or of all its frames."""
        if frame is None:
            self._shown.pop(segmentID, None)
        else:
            self._shown.get(segmentID, {}).pop(frame, None)

    def apply(self, segmentID: str, frames: Iterable[int]) -> set[int]:
        """Takes the preview's facts of these frames as the segment's, after they were applied. Returns those
        with a mask from prompts alone, which no run has written."""
        shown, drawn = self._shown.get(segmentID, {}), set()
        for frame in frames:
            if frame in shown:
                facts = shown.pop(frame)
                isOwn = facts.kind == PREVIEW
                if isOwn:
                    drawn.add(frame)
                self.frames.setdefault(segmentID, {})[frame] = (
                    replace(facts, kind=KEYFRAME, withheld=None) if isOwn else facts
                )
        return drawn

    def putApplied(
        self, segmentID: str, facts: Mapping[int, FrameFacts], geometry: VolumeGeometry, axis: int
    ) -> None:
        """Replaces the facts of the segment's own masks, after Undo or Redo brought these back."""
        self._begin(geometry, axis)
        self.frames[segmentID] = dict(facts)

    @property
    def allApplied(self) -> AllFacts:
        """The facts of all segments' own masks, for `restoreApplied`."""
        return self.axis, self._shape, {name: dict(facts) for name, facts in self.frames.items()}

    def restoreApplied(self, known: AllFacts) -> None:
        """Brings back facts that `allApplied` returned, with the masks that they are of."""
        axis, shape, frames = known
        if not self._shown or (axis, shape) == (self.axis, self._shape):
            self.axis, self._shape = axis, shape
            self.frames = {name: dict(facts) for name, facts in frames.items()}

    def dropApplied(self, segmentID: str, frame: int) -> None:
        """Drops the facts of a frame whose mask comes from no known run."""
        self.frames.get(segmentID, {}).pop(frame, None)

    def forget(self, segmentID: str) -> None:
        """Forgets everything about a segment."""
        self.frames.pop(segmentID, None)
        self._shown.pop(segmentID, None)
        self.histories.pop(segmentID, None)
        self.orders.pop(segmentID, None)

    def _isOn(self, geometry: VolumeGeometry, axis: int) -> bool:
        return self.axis == axis and self._shape == geometry.shape_ijk

    def _begin(self, geometry: VolumeGeometry, axis: int) -> None:
        if not self._isOn(geometry, axis):
            self.axis, self._shape, self.frames, self._shown = axis, geometry.shape_ijk, {}, {}

    def save(self) -> None:
        """Puts everything into the scene."""
        if not (self.frames or self.histories or self.orders) and not self._state.get(_STATE_NAME):
            return
        segments = {
            segmentID: {str(frame): factsAsList(one) for frame, one in facts.items()}
            for segmentID, facts in self.frames.items()
        }
        histories = {
            segmentID: {mask: sorted(prompts) for mask, prompts in one.items()}
            for segmentID, one in self.histories.items()
        }
        document = {
            "version": _VERSION,
            "axis": self.axis,
            "shape": list(self._shape),
            "frames": segments,
            "histories": histories,
            "orders": self.orders,
        }
        self._state.set(_STATE_NAME, json.dumps(document, separators=(",", ":")))

    def _load(self) -> None:
        text = self._state.get(_STATE_NAME)
        try:
            document = json.loads(text) if text else {}
            if document.get("version") != _VERSION:
                return
            frames = {
                str(segmentID): {int(frame): factsOfList(values) for frame, values in facts.items()}
                for segmentID, facts in document["frames"].items()
            }
            histories = {
                str(segmentID): {str(mask): frozenset(map(str, names)) for mask, names in one.items()}
                for segmentID, one in document["histories"].items()
            }
            orders = {str(name): list(map(str, one)) for name, one in document.get("orders", {}).items()}
            shape = tuple(int(count) for count in document["shape"])
            axis = document["axis"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if axis in (None, 0, 1, 2):
            self.axis, self._shape, self.frames, self.histories = axis, shape, frames, histories
            self.orders = orders


def factsAsList(facts: FrameFacts) -> list[Any]:
    """Returns facts as values that JSON can hold."""
    values = [facts.kind, *map(_short, (facts.doubt, facts.predictedIou, facts.objectScore))]
    withheld = facts.withheld
    return values if withheld is None else [*values, {**withheld.packed.values(), "place": withheld.place}]


def factsOfList(values: Any) -> FrameFacts:
    """Returns the facts that `factsAsList` gave.

    Raises:
        ValueError, TypeError: `factsAsList` gives no such list.
    """
    kind, *numbers = values[:4]
    doubt, iou, score = (None if value is None else float(value) for value in numbers)
    return FrameFacts(str(kind), doubt, iou, score, _withheldOf(values[4]) if len(values) > 4 else None)


def placeOf(geometry: VolumeGeometry) -> tuple[float, ...]:
    """Returns a volume's IJK-to-RAS matrix, row by row."""
    return tuple(geometry.ijk_to_ras.ravel().tolist())


def _withheldOf(values: Any) -> Withheld | None:
    """Returns a withheld mask that was saved; None if it cannot be read."""
    try:
        packed, place = mask_of_values(values), tuple(float(one) for one in values["place"])
    except (MaskError, KeyError, TypeError, ValueError):
        return None
    return Withheld(packed, place) if len(place) == 16 and np.isfinite(place).all() else None


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
