"""Finds what the user edited in the segments by hand, and which runs were undone.

Both show in the same way: a segment differs from what the last commit left in it.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from SAM2PropagateLib.app.kept_facts import FactsOfFrames
from SAM2PropagateLib.app.moment import Known, Record
from SAM2PropagateLib.app.underlay import SegmentFrame
from SAM2PropagateLib.prompts.frame_prompts import ResolvedSegment
from SAM2PropagateLib.scene.kept_preview import isSameFrame
from SAM2PropagateLib.scene.seen_segment import EditedFrame
from SAM2PropagateLib.scene.segment_copies import Copies

if TYPE_CHECKING:
    from SAM2PropagateLib.app.workspace import Workspace

# What is kept of a segment: enough for the states before and after all that can be undone.
_MOST_STATES = 202


@dataclass(frozen=True)
class _Contents:
    """What a segment holds with its preview: the hashes of its own frames, and the frames of its preview."""

    hashes: Mapping[int, str]
    preview: Mapping[int, Record]

    def isSame(self, other: _Contents) -> bool:
        """Tells whether both are the same to the user."""
        return (
            self.hashes == other.hashes
            and self.preview.keys() == other.preview.keys()
            and all(isSameFrame(one, other.preview[frame]) for frame, one in self.preview.items())
        )


class HandEdits:
    """Knows the edited frames of a workspace's segments, and looks again after changes.

    Args:
        workspace: has the segments; its `tracker` finds the edits.

    Attributes:
        undone: the segments whose last run was undone, without the worker knowing.
        stale: frames that hold something else than the worker takes as written there.
        undoCount: how often runs were undone or brought back.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._edits: dict[tuple[str, int], tuple[EditedFrame, ...]] = {}
        # What each segment held after the last commit along an axis, to notice that it was undone.
        self._committed: dict[tuple[str, int], Mapping[int, str]] = {}
        # What was known of each segment before and after its last commits, by what it held then.
        self._states: dict[tuple[str, int], dict[frozenset[tuple[int, str]], FactsOfFrames]] = {}
        self.undone: set[str] = set()
        self.stale: set[SegmentFrame] = set()
        self.undoCount = 0
        # What segments held, along an axis, while the worker knew of it; see `noteAgreed`.
        self._agreed: dict[tuple[str, int], list[_Contents]] = {}

    def of(self, segmentID: str) -> tuple[EditedFrame, ...]:
        """Returns the frames of a segment that the user edited since the last run. It compares again only
        after a change."""
        key = (segmentID, self._workspace.axis)
        if key not in self._edits:
            self._look(*key)
        return self._edits[key]

    def isKnown(self, segmentID: str) -> bool:
        """Tells whether `of` can answer without comparing the segment again."""
        return (segmentID, self._workspace.axis) in self._edits

    def lookAgain(self) -> None:
        """Forgets the comparisons, after segments or their places have changed; `of` compares again."""
        self._edits.clear()

    def open(self) -> dict[str, set[int]]:
        """Returns per segment the frames that the user edited while a preview or a run of it was under
        way."""
        workspace = self._workspace
        known = workspace.underlay.segmentIDs & set(workspace.segmentIDs)
        edits = {name: [one.frame for one in self.of(name)] for name in known}
        return workspace.underlay.edited(edits, workspace.axis)

    def _look(self, segmentID: str, axis: int, trustsStamp: bool = False) -> None:
        self._edits[segmentID, axis] = self._workspace.tracker.edited(segmentID, axis, trustsStamp)
        self._workspace.placement.note(isNew=True)
        self._notice(segmentID, axis)

    # --- what the worker knows

    def noteAgreed(self, preview: Mapping[SegmentFrame, Record], compares: bool = True) -> None:
        """Keeps what segments hold now, as long as the worker knows of it, for `recognize`. Call it before
        anything that Undo may take back, but not during a run.

        Args:
            preview: as it is now.
            compares: pass False to leave out segments that would have to be compared again.

        Raises:
            InputError: the volume cannot be used.
        """
        axis = self._workspace.axis
        for segmentID in self._worked:
            if not (compares or self.isKnown(segmentID)):
                continue
            self.of(segmentID)  # which may notice that a run was undone
            now, known = self._contents(segmentID, preview), self._agreed.get((segmentID, axis), [])
            if segmentID not in self.undone and not (known and now.isSame(known[-1])):
                self._agreed[segmentID, axis] = [*known[1 - _MOST_STATES :], now]

    def comparing(self) -> Generator[None, None, None]:
        """Compares ahead, slab by slab, what `noteAgreed` would have to compare.

        Raises:
            InputError: the volume cannot be used, or a segment was removed meanwhile.
        """
        axis = self._workspace.axis
        for segmentID in [name for name in self._worked if not self.isKnown(name)]:
            yield from self._workspace.tracker.comparing(segmentID)
            self._look(segmentID, axis, trustsStamp=True)

    @property
    def _worked(self) -> list[str]:
        """The segments that may have been run."""
        workspace = self._workspace
        return [
            name
            for name in workspace.segmentIDs
            if not workspace.prompts.segment(name).is_empty or workspace.previewFrames(name)
        ]

    def recognize(self) -> None:
        """Takes segments that hold again what the worker knows of as not undone: the next run then writes
        only what has changed.

        Raises:
            InputError: the volume cannot be used.
        """
        preview, axis = self._workspace.shown.records(), self._workspace.axis
        for segmentID in self.undone & set(self._workspace.segmentIDs):
            if known := self._agreed.get((segmentID, axis)):
                now = self._contents(segmentID, preview)
                if any(now.isSame(one) for one in known):
                    self.undone.discard(segmentID)

    def forgetAgreed(self) -> None:
        """Forgets what `noteAgreed` kept, as no step can lead back to it."""
        self._agreed.clear()

    def hides(self, segment: ResolvedSegment) -> bool:
        """Tells whether a run would leave out frames of this segment, because the worker takes other masks
        as written there than there are."""
        frames = {frame for name, frame in self.stale if name == segment.segment}
        return segment.segment in self.undone or bool(frames - segment.keyframes.keys() - segment.locked)

    def begin(self, segments: Iterable[ResolvedSegment]) -> None:
        """Handles that a run of these segments begins: the worker then knows of what it writes alone."""
        for one in segments:
            self._distrust(one.segment)
            self.undone.discard(one.segment)
            self.stale = {key for key in self.stale if key[0] != one.segment or key[1] in one.locked}

    def lose(self, segmentIDs: Iterable[str]) -> None:
        """Notes that segments lack masks for good that the worker takes as written."""
        for segmentID in segmentIDs:
            self._distrust(segmentID)
            self.undone.add(segmentID)

    def _distrust(self, segmentID: str) -> None:
        for key in [key for key in self._agreed if key[0] == segmentID]:
            del self._agreed[key]

    def _contents(self, segmentID: str, preview: Mapping[SegmentFrame, Record]) -> _Contents:
        return _Contents(
            self._workspace.tracker.hashes(segmentID, self._workspace.axis),
            {frame: one for (name, frame), one in preview.items() if name == segmentID},
        )

    # --- commits and their undoing

    def committed(self, masks: Mapping[str, Collection[int]], openEdits: Mapping[str, set[int]]) -> None:
        """Takes the present segments as the result of a commit.

        Args:
            masks: the frames of each segment that the commit wrote. openEdits: what `open` gave before it.
        """
        workspace, axis = self._workspace, self._workspace.axis
        for segmentID in masks:
            self._committed[segmentID, axis] = workspace.tracker.hashes(segmentID, axis)
        self.noteState(masks)
        self._edits.clear()
        workspace.placement.note()
        for segmentID in masks:
            # The commit has looked at them.
            self._look(segmentID, axis, trustsStamp=True)
        # Other segments may have lost voxels to it: nobody painted there.
        workspace.underlay.renew(
            {name: frames - set(masks.get(name, ())) for name, frames in openEdits.items()},
            {name: workspace.previewFrames(name) for name in workspace.segmentIDs},
        )

    def noteState(self, segmentIDs: Iterable[str]) -> None:
        """Keeps what is known of the present segments, for when Undo or Redo brings them back."""
        workspace = self._workspace
        geometry, axis = workspace.geometry, workspace.axis
        for segmentID in segmentIDs:
            states = self._states.setdefault((segmentID, axis), {})
            state = frozenset(workspace.tracker.hashes(segmentID, axis).items())
            states.pop(state, None)
            states[state] = workspace.keptFacts.applied(segmentID, geometry, axis)
            while len(states) > _MOST_STATES:
                del states[next(iter(states))]
            voxels = workspace.states.voxels(segmentID)
            if voxels is not None:
                workspace.tracker.file(segmentID, voxels)

    def _notice(self, segmentID: str, axis: int) -> None:
        """Checks whether runs were undone or brought back, and restores what was known of the frames."""
        workspace, known = self._workspace, self._committed.get((segmentID, axis))
        if known is None:
            return
        now = workspace.tracker.hashes(segmentID, axis)
        edited = {one.frame for one in self._edits[segmentID, axis]}
        different = {frame for frame in known.keys() | now.keys() if known.get(frame) != now.get(frame)}
        if different - edited:
            facts = self._states.get((segmentID, axis), {}).get(frozenset(now.items()))
            if facts is not None:
                workspace.keptFacts.putApplied(segmentID, facts, workspace.geometry, axis)
            else:
                for frame in different - edited:
                    workspace.keptFacts.dropApplied(segmentID, frame)
            self.undoCount += 1
            self.undone.add(segmentID)
            workspace.underlay.refresh(segmentID, different - edited)
        # What the user edited is known as it was before: taking the edit back is no undone run.
        self._committed[segmentID, axis] = {
            **{frame: text for frame, text in now.items() if frame not in edited},
            **{frame: known[frame] for frame in edited if frame in known},
        }

    def restore(self, state: int, known: Known, ready: Copies | None = None) -> None:
        """Brings back a state of the segmentation with the edits that were known then.

        Args:
            ready: the copies that `SegmentationStates.copying` made for it.

        Raises:
            SAM2PropagateError: `undo_failed`.
        """
        workspace = self._workspace
        workspace.tracker.restore(known.edits)
        workspace.states.restore(state, ready)
        self._edits.clear()
        for segmentID in workspace.segmentIDs:
            voxels = workspace.states.voxels(segmentID)
            isKnown = voxels is not None and workspace.tracker.recall(segmentID, voxels)
            if (segmentID, workspace.axis) in self._committed:
                # So that an undone run is noticed now, not after it is known what there is instead.
                self._look(segmentID, workspace.axis, trustsStamp=isKnown)
        workspace.keptFacts.restoreApplied(known.facts)
        workspace.keptFacts.save()
