"""What a step of the undo history changed, as it was on the other side of the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from SAM2PropagateLib.app.kept_facts import AllFacts
from SAM2PropagateLib.app.underlay import SegmentFrame
from SAM2PropagateLib.prompts.values import PromptSet

Histories = dict[str, dict[str, frozenset[str]]]
PromptState = tuple[PromptSet, Histories]
"""The prompts, and which of them are the history of an edited slice."""
Record = dict[str, Any]
"""A frame of the preview, packed; see `KeptPreview.records`."""


@dataclass(frozen=True)
class Known:
    """The edits and facts that are known of the segments' masks.

    Attributes:
        edits: as `EditTracker.record` gives them. facts: of the masks that runs wrote.
    """

    edits: str
    facts: AllFacts


@dataclass(frozen=True)
class Moment:
    """The earlier state of what a step changed.

    Attributes:
        prompts: with their histories; None: unchanged.
        masks: the number of the segmentation's state; None: unchanged.
        known: of the masks; None: unchanged.
        preview: frames of the preview; None for one that was not in it. axis: of these frames.
        asked: those of these frames whose previews were awaited.
        chosen: the chosen segment; None if the list of segments is unchanged.
    """

    prompts: PromptState | None = None
    masks: int | None = None
    known: Known | None = None
    preview: Mapping[SegmentFrame, Record | None] = field(default_factory=dict)
    asked: frozenset[SegmentFrame] = frozenset()
    axis: int | None = None
    chosen: str | None = None

    @property
    def isEmpty(self) -> bool:
        """Whether there is nothing to bring back."""
        return self.prompts is None and self.masks is None and not self.preview
