"""Keeps what removed segments had, and gives it back when the removal is undone.

Prompts and facts stay in the scene meanwhile. The preview of a removed segment cannot be shown, and is kept
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from SAM2PropagateLib.packed_masks import PackedMask, pack
from SAM2PropagateLib.scene.seen_segment import Snapshot

if TYPE_CHECKING:
    from SAM2PropagateLib.app.workspace import Workspace


@dataclass(frozen=True)
class _Gone:
    """A removed segment: whether it had voxels, and per frame its preview, along an axis, and what was under
    that."""

    hadVoxels: bool
    axis: int
    preview: dict[int, PackedMask]
    bases: dict[int, Snapshot | None]


class RemovedSegments:
    """The segments that were removed from a workspace while it was open.

    Args:
        workspace: had the segments.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._gone: dict[str, _Gone] = {}

    def went(self, segmentID: str) -> None:
        """Keeps the preview of a segment that was removed."""
        workspace = self._workspace
        frames = workspace.previewFrames(segmentID)
        masks = {frame: workspace.preview.mask(segmentID, frame) for frame in frames}
        preview = {frame: pack(one) for frame, one in masks.items() if one is not None}
        bases = {frame: workspace.underlay.base((segmentID, frame)) for frame in preview}
        hadVoxels = workspace.tracker.hasSeenVoxels(segmentID)
        self._gone[segmentID] = _Gone(hadVoxels, workspace.axis, preview, bases)
        if preview:
            workspace.preview.clear(segmentID)
        workspace.underlay.forget(segmentID)

    def came(self, segmentID: str) -> None:
        """Handles a segment that has appeared: one that was removed before, or a new one with a used ID."""
        workspace, gone = self._workspace, self._gone.pop(segmentID, None)
        if gone is None:
            return
        isEmpty = not workspace.tracker.snapshot(segmentID).voxels.any()
        if gone.hadVoxels and isEmpty:
            workspace.markups.remove(segmentID)
            workspace.keptFacts.forget(segmentID)
            workspace.windows.forget(segmentID)
            # The worker knows the ID, too.
            workspace.handEdits.lose((segmentID,))
            return
        workspace.underlay.put(segmentID, gone.bases)
        if gone.axis != workspace.axis:
            # Undo brings the axis back first, and then the preview.
            return
        for frame, mask in gone.preview.items():
            workspace.preview.write(segmentID, frame, mask.unpack(), refresh=False)
        if gone.preview:
            workspace.preview.refresh()
