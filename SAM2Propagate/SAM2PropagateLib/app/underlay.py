"""Keeps what segments held under the frames of the preview when their masks were asked for.

A comparison with it shows what the user has edited since, so that the edit can be merged with the preview.
Snapshots share their voxels as long as the segment stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from SAM2PropagateLib.scene.seen_segment import Snapshot

SegmentFrame = tuple[str, int]
"""A segment's ID and a frame."""


class Underlay:
    """The bases of frames in the preview, of awaited previews, and of the run under way.

    Args:
        snapshot: returns what a segment holds now.
    """

    def __init__(self, snapshot: Callable[[str], Snapshot]) -> None:
        self._snapshot = snapshot
        self._shown: dict[SegmentFrame, Snapshot] = {}
        self._asked: dict[SegmentFrame, Snapshot] = {}
        self._run: dict[str, Snapshot] = {}
        # Frames that the run has not reached yet and that were edited before another commit.
        self._kept: dict[SegmentFrame, Snapshot] = {}

    def base(self, key: SegmentFrame) -> Snapshot | None:
        """Returns what was under a frame of the preview; None if unknown."""
        return self._shown.get(key)

    def put(self, segmentID: str, bases: Mapping[int, Snapshot | None]) -> None:
        """Sets the bases of frames that are shown; None: what the segment holds now."""
        # Taking a snapshot takes longer than showing a frame: once for all.
        now = self._snapshot(segmentID) if None in bases.values() else None
        for frame, base in bases.items():
            shown = base or now
            assert shown is not None
            self._shown[segmentID, frame] = shown

    # --- previews

    def ask(self, key: SegmentFrame) -> None:
        """Sets the base of a preview that is asked for."""
        self._asked[key] = self._snapshot(key[0])

    @property
    def asked(self) -> set[SegmentFrame]:
        """The frames whose previews were asked for and have not arrived."""
        return set(self._asked)

    def answered(self, key: SegmentFrame) -> None:
        """Takes the base of a preview that has arrived."""
        self._shown[key] = self._asked.pop(key) if key in self._asked else self._snapshot(key[0])

    def keepAsked(self, keys: Collection[SegmentFrame]) -> None:
        """Drops the bases of other awaited previews than these."""
        self._asked = {key: base for key, base in self._asked.items() if key in keys}

    # --- runs

    def begin(self, segmentIDs: Iterable[str]) -> None:
        """Sets the bases of a run of these segments that begins."""
        self._run, self._kept = {one: self._snapshot(one) for one in segmentIDs}, {}

    def arrived(self, key: SegmentFrame) -> None:
        """Takes the base of a frame of the run that has arrived."""
        self._shown[key] = self._kept.get(key) or self._run.get(key[0]) or self._snapshot(key[0])

    def end(self) -> None:
        """Drops the bases of a run that is over."""
        self._run, self._kept = {}, {}

    # --- changes that are not the user's edits

    def edited(self, edits: Mapping[str, Iterable[int]], axis: int) -> dict[str, set[int]]:
        """Returns those of the edited frames whose edit is newer than their base.

        Args:
            edits: edited frames per segment. axis: of these frames.
        """
        found: dict[str, set[int]] = {}
        for name, frames in edits.items():
            now = self._snapshot(name)
            for frame in frames:
                key = (name, frame)
                bases = (self._shown.get(key), self._asked.get(key), self._kept.get(key), self._run.get(name))
                for base in bases:
                    if base is None or base.number == now.number:
                        continue
                    if now.changedPixels(base, frame, axis).any():
                        found.setdefault(name, set()).add(frame)
                        break
        return found

    @property
    def segmentIDs(self) -> set[str]:
        """The segments that have bases."""
        return {key[0] for key in (*self._shown, *self._asked)} | set(self._run)

    def renew(self, openEdits: Mapping[str, Collection[int]], shown: Mapping[str, Collection[int]]) -> None:
        """Makes what the segments hold after a commit the base of all but the edited frames.

        Args:
            openEdits: what `edited` returned before the commit, without the frames that it wrote.
            shown: per segment the frames in the preview; other bases are dropped, and segments that it lacks.
        """
        now = {one: self._snapshot(one) for one in self.segmentIDs if one in shown}

        def renewed(bases: Mapping[SegmentFrame, Snapshot]) -> dict[SegmentFrame, Snapshot]:
            return {
                key: base if key[1] in openEdits.get(key[0], ()) else now[key[0]]
                for key, base in bases.items()
                if key[0] in now
            }

        for name, base in self._run.items():
            for frame in openEdits.get(name, ()):
                self._kept.setdefault((name, frame), base)
        self._kept = {key: base for key, base in self._kept.items() if key[1] in openEdits.get(key[0], ())}
        self._run = {name: now[name] for name in self._run if name in now}
        self._asked = renewed(self._asked)
        self._shown = {key: base for key, base in renewed(self._shown).items() if key[1] in shown[key[0]]}

    def rebase(self, segmentIDs: Iterable[str]) -> None:
        """Makes what segments hold now their base, after segmentation and volume were moved against each
        other."""
        now = {one: self._snapshot(one) for one in self.segmentIDs if one in set(segmentIDs)}
        for bases in (self._shown, self._asked, self._kept):
            bases.update({key: now[key[0]] for key in bases if key[0] in now})
        self._run.update({name: now[name] for name in self._run if name in now})

    def refresh(self, segmentID: str, frames: Iterable[int]) -> None:
        """Sets the bases of frames again, after a commit on them was undone."""
        keys = [(segmentID, frame) for frame in frames if (segmentID, frame) in self._shown]
        if keys:
            self._shown.update(dict.fromkeys(keys, self._snapshot(segmentID)))

    def forget(self, segmentID: str) -> None:
        """Drops the bases of a removed segment."""
        for bases in (self._shown, self._asked, self._kept):
            for key in [key for key in bases if key[0] == segmentID]:
                del bases[key]
        self._run.pop(segmentID, None)
