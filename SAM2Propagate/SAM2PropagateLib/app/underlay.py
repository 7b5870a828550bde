"""What segments held under the frames of the preview when their masks were asked for.

An edit that the user made since can be told from what was there before, so that the stroke and the preview
can be brought together. Snapshots share their voxels with each other as long as the segment stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from SAM2PropagateLib.scene.edits import Snapshot

SegmentFrame = tuple[str, int]
"""A segment's ID and a frame."""


class Underlay:
    """The bases of frames in the preview, of previews that are awaited, and of the run under way.

    Args:
        snapshot: what a segment holds now.
    """

    def __init__(self, snapshot: Callable[[str], Snapshot]) -> None:
        self._snapshot = snapshot
        self._shown: dict[SegmentFrame, Snapshot] = {}
        self._asked: dict[SegmentFrame, Snapshot] = {}
        self._run: dict[str, Snapshot] = {}
        # Of frames that the run has not reached yet, edited before something else was committed.
        self._kept: dict[SegmentFrame, Snapshot] = {}

    def base(self, key: SegmentFrame) -> Snapshot | None:
        """Returns what was under a frame of the preview; None if that is not known."""
        return self._shown.get(key)

    def put(self, segmentID: str, bases: Mapping[int, Snapshot | None]) -> None:
        """Frames are shown that go with what the segment held then; None: with what it holds now."""
        # Once for all frames: looking at a segment takes longer than showing one of them.
        now = self._snapshot(segmentID) if None in bases.values() else None
        for frame, base in bases.items():
            shown = base or now
            assert shown is not None
            self._shown[segmentID, frame] = shown

    # --- previews

    def ask(self, key: SegmentFrame) -> None:
        """A preview is asked for."""
        self._asked[key] = self._snapshot(key[0])

    @property
    def asked(self) -> set[SegmentFrame]:
        """The frames whose previews were asked for and have not arrived."""
        return set(self._asked)

    def answered(self, key: SegmentFrame) -> None:
        """The preview that was asked for is shown."""
        self._shown[key] = self._asked.pop(key) if key in self._asked else self._snapshot(key[0])

    def keepAsked(self, keys: Collection[SegmentFrame]) -> None:
        """Only these previews are still awaited."""
        self._asked = {key: base for key, base in self._asked.items() if key in keys}

    # --- runs

    def begin(self, segmentIDs: Iterable[str]) -> None:
        """A run of these segments begins."""
        self._run, self._kept = {one: self._snapshot(one) for one in segmentIDs}, {}

    def arrived(self, key: SegmentFrame) -> None:
        """A frame of the run is shown."""
        self._shown[key] = self._kept.get(key) or self._run.get(key[0]) or self._snapshot(key[0])

    def end(self) -> None:
        """The run is over."""
        self._run, self._kept = {}, {}

    # --- changes that are not the user's edits

    def edited(self, edits: Mapping[str, Iterable[int]], axis: int) -> dict[str, set[int]]:
        """Of the frames that the user edited those on which that was since their base.

        Args:
            edits: frames per segment. axis: theirs.
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
        """The segments of which something is known."""
        return {key[0] for key in (*self._shown, *self._asked)} | set(self._run)

    def renew(self, openEdits: Mapping[str, Collection[int]], shown: Mapping[str, Collection[int]]) -> None:
        """Something was committed: what the segments hold now is the base of all but the edited frames.

        Args:
            openEdits: what `edited` gave before the commit, without what went into it.
            shown: per segment the frames in the preview; what is known of others is dropped. Segments that
                are not in it are dropped altogether.
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
        """Segmentation and volume were moved against each other: what these segments hold now is the base."""
        now = {one: self._snapshot(one) for one in self.segmentIDs if one in set(segmentIDs)}
        for bases in (self._shown, self._asked, self._kept):
            bases.update({key: now[key[0]] for key in bases if key[0] in now})
        self._run.update({name: now[name] for name in self._run if name in now})

    def refresh(self, segmentID: str, frames: Iterable[int]) -> None:
        """On these frames a commit was undone."""
        keys = [(segmentID, frame) for frame in frames if (segmentID, frame) in self._shown]
        if keys:
            self._shown.update(dict.fromkeys(keys, self._snapshot(segmentID)))

    def forget(self, segmentID: str) -> None:
        """A segment is gone."""
        for bases in (self._shown, self._asked, self._kept):
            for key in [key for key in bases if key[0] == segmentID]:
                del bases[key]
        self._run.pop(segmentID, None)
