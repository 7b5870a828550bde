"""What a step changed, as it was on its other side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from SAM2PropagateLib.app.kept_facts import AllFacts
from SAM2PropagateLib.app.underlay import SegmentFrame
from SAM2PropagateLib.prompts.values import PromptSet

Histories = dict[str, dict[str, frozenset[str]]]
Said = tuple[PromptSet, Histories]
"""The prompts, and which of them are the history of an edited slice."""
Record = dict[str, Any]
"""A frame of the preview, packed; see `KeptPreview.records`."""


@dataclass(frozen=True)
class Known:
    """What is known of the segments' masks.

    Attributes:
        edits: of the user's edits, as in `EditTracker.record`. facts: of what runs wrote.
    """

    edits: str
    facts: AllFacts


@dataclass(frozen=True)
class Moment:
    """How that was which a step changed; what it left alone is not in it.

    Attributes:
        said: the prompts; None: they stay. masks: the number of the segmentation's state; None: it stays.
        known: of the masks; None where they stay.
        preview: frames of the preview; None for one that was not in it. axis: theirs.
        asked: those of these frames whose previews were awaited.
        chosen: the segment that was worked on; None where the segments stay the same.
    """

    said: Said | None = None
    masks: int | None = None
    known: Known | None = None
    preview: Mapping[SegmentFrame, Record | None] = field(default_factory=dict)
    asked: frozenset[SegmentFrame] = frozenset()
    axis: int | None = None
    chosen: str | None = None

    @property
    def isEmpty(self) -> bool:
        """Whether there is nothing to bring back."""
        return self.said is None and self.masks is None and not self.preview
