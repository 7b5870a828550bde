"""What the module keeps of a segmentation in the scene beside prompts and masks: doubts, kinds of frames, and
which prompts are the history of an edited slice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from SAM2PropagateLib.app.strip import FrameFacts
from SAM2PropagateLib.frame_kinds import KEYFRAME, PREVIEW
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.scene.state import SceneState

_STATE_NAME = "frames"
_VERSION = 1

FactsOfFrames = dict[int, FrameFacts]
AllFacts = tuple[int | None, tuple[int, ...], dict[str, FactsOfFrames]]


class KeptFacts:
    """Keeps facts per segment and frame, and the histories of masks; saved with the scene.

    A frame of the preview has facts of its own; those of the segment's own mask are kept under them, and are
    there again when the preview goes. The preview's facts are saved with the preview.

    What an earlier version or a damaged scene holds and cannot be read is left out: it is only a display of
    doubts, and comes back with the next run.

    Args:
        segmentationNode: whose segments they are.

    Attributes:
        frames: what a run left in the segments, per segment ID and frame.
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
        """Per mask id the ids of the prompts that its slice had before."""
        return self.histories.get(segmentID, {})

    def setHistory(self, segmentID: str, maskID: str, prompts: frozenset[str]) -> None:
        """These prompts lie on the mask's slice but do not count any more."""
        self.histories.setdefault(segmentID, {})[maskID] = prompts

    def note(self, segmentID: str, clicks: Iterable[str]) -> None:
        """These clicks are there; new ones came after those that were noted before.

        The scene keeps positive and negative clicks apart, and so does not know who came first.
        """
        order = self.orders.setdefault(segmentID, [])
        order += [click for click in clicks if click not in order]

    def facts(self, segmentID: str, geometry: VolumeGeometry, axis: int) -> FactsOfFrames:
        """Returns what is known of the frames of a segment, those of the preview as they are there; empty for
        frames of another axis or size."""
        if not self._isOn(geometry, axis):
            return {}
        return {**self.frames.get(segmentID, {}), **self._shown.get(segmentID, {})}

    def applied(self, segmentID: str, geometry: VolumeGeometry, axis: int) -> FactsOfFrames:
        """Returns what is known of the masks in the segment itself, whatever the preview shows."""
        return dict(self.frames.get(segmentID, {})) if self._isOn(geometry, axis) else {}

    def putPreview(
        self, segmentID: str, frame: int, facts: FrameFacts, geometry: VolumeGeometry, axis: int
    ) -> None:
        """Keeps facts of a frame of the preview. Those of another axis or size are dropped."""
        self._begin(geometry, axis)
        self._shown.setdefault(segmentID, {})[frame] = facts

    def dropPreview(self, segmentID: str, frame: int | None = None) -> None:
        """A frame of a segment, or all of them, is not in the preview any more."""
        if frame is None:
            self._shown.pop(segmentID, None)
        else:
            self._shown.get(segmentID, {}).pop(frame, None)

    def apply(self, segmentID: str, frames: Iterable[int]) -> None:
        """These frames of the preview are in the segment now."""
        shown = self._shown.get(segmentID, {})
        for frame in frames:
            if frame in shown:
                facts = shown.pop(frame)
                isOwn = facts.kind == PREVIEW
                self.frames.setdefault(segmentID, {})[frame] = (
                    replace(facts, kind=KEYFRAME) if isOwn else facts
                )

    def putApplied(
        self, segmentID: str, facts: Mapping[int, FrameFacts], geometry: VolumeGeometry, axis: int
    ) -> None:
        """Replaces what is known of the segment's own masks, after Undo or Redo brought them back."""
        self._begin(geometry, axis)
        self.frames[segmentID] = dict(facts)

    @property
    def allApplied(self) -> AllFacts:
        """What is known of all segments' own masks, for `restoreApplied`."""
        return self.axis, self._shape, {name: dict(facts) for name, facts in self.frames.items()}

    def restoreApplied(self, known: AllFacts) -> None:
        """The segments' own masks are again what they were when this was known of them."""
        axis, shape, frames = known
        if not self._shown or (axis, shape) == (self.axis, self._shape):
            self.axis, self._shape = axis, shape
            self.frames = {name: dict(facts) for name, facts in frames.items()}

    def dropApplied(self, segmentID: str, frame: int) -> None:
        """What is in the segment on a frame came from no run that is known."""
        self.frames.get(segmentID, {}).pop(frame, None)

    def forget(self, segmentID: str) -> None:
        """Forgets all of a segment."""
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
    """As JSON can hold them."""
    return [facts.kind, *map(_short, (facts.doubt, facts.predictedIou, facts.objectScore))]


def factsOfList(values: Any) -> FrameFacts:
    """Returns the facts again.

    Raises:
        ValueError, TypeError: it is no list of `factsAsList`.
    """
    kind, *numbers = values
    doubt, iou, score = (None if value is None else float(value) for value in numbers)
    return FrameFacts(str(kind), doubt, iou, score)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
