"""Knows the run under way, if there is one: its segments, the masks it has found, and which are out of
date."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field

from SAM2PropagateLib.app.moment import Record
from SAM2PropagateLib.app.underlay import SegmentFrame
from SAM2PropagateLib.prompts.frame_prompts import ResolvedSegment
from SAM2PropagateLib.scene.kept_preview import isSameFrame
from SAM2PropagateLib.worker.calls import Call, Run


@dataclass(frozen=True)
class StartedRun:
    """A run.

    Attributes:
        overtaken: frames with prompts that are newer than the run; its masks of them are out of date.
        prompted: the keyframes that it was told.
        frames: those whose masks have arrived. seen: these masks, as they were in the preview whenever the
            user did something meanwhile; a frame may have arrived twice.
    """

    call: Run
    segmentIDs: tuple[str, ...]
    prompted: frozenset[SegmentFrame]
    overtaken: set[SegmentFrame] = field(default_factory=set)
    frames: set[SegmentFrame] = field(default_factory=set)
    seen: dict[SegmentFrame, list[Record]] = field(default_factory=dict)

    def found(self, key: SegmentFrame, record: Record | None) -> bool:
        """Tells whether a frame of the preview is one of the masks in `seen`."""
        return record is not None and any(isSameFrame(one, record) for one in self.seen.get(key, ()))


class RunUnderWay:
    """At most one run."""

    def __init__(self) -> None:
        self._run: StartedRun | None = None

    @property
    def isOn(self) -> bool:
        """Whether a run is under way."""
        return self._run is not None

    @property
    def call(self) -> Run | None:
        """The call to the worker; None without a run."""
        return self._run.call if self._run is not None else None

    @property
    def segmentIDs(self) -> tuple[str, ...]:
        """The segments of the run."""
        return self._run.segmentIDs if self._run is not None else ()

    @property
    def frames(self) -> Set[SegmentFrame]:
        """The frames that have arrived."""
        return self._run.frames if self._run is not None else frozenset()

    @property
    def overtaken(self) -> Set[SegmentFrame]:
        """The frames with prompts that are newer than the run."""
        return self._run.overtaken if self._run is not None else frozenset()

    def begin(self, call: Run, segments: Collection[ResolvedSegment]) -> None:
        """Begins to follow a run of segments with these prompts."""
        prompted = frozenset((one.segment, frame) for one in segments for frame in one.keyframes)
        self._run = StartedRun(call, tuple(one.segment for one in segments), prompted)

    def end(self) -> StartedRun | None:
        """Returns the run, and forgets it."""
        run, self._run = self._run, None
        return run

    def isOf(self, call: Call | None) -> bool:
        """Tells whether this call is the run."""
        return self._run is not None and call is self._run.call

    def wasPrompted(self, key: SegmentFrame) -> bool:
        """Tells whether the run was told prompts of a frame."""
        return self._run is not None and key in self._run.prompted

    def catchUp(self, key: SegmentFrame) -> None:
        """Takes the run's mask of a frame as up to date again, as newer prompts there have gone."""
        if self._run is not None:
            self._run.overtaken.discard(key)

    def arrived(self, key: SegmentFrame) -> None:
        """Notes that a mask of the run has arrived."""
        if self._run is not None:
            self._run.frames.add(key)

    def see(self, preview: Mapping[SegmentFrame, Record]) -> None:
        """Notes the preview before the user does something."""
        run = self._run
        if run is None:
            return
        for key in (run.frames - run.overtaken) & preview.keys():
            if not run.found(key, preview[key]):
                run.seen.setdefault(key, []).append(preview[key])

    def regain(self, preview: Mapping[SegmentFrame, Record | None]) -> None:
        """Takes masks of the run as up to date again on frames of the preview that Undo or Redo brought back,
        if these show them.
        """
        if self._run is not None:
            current = {key for key, record in preview.items() if self._run.found(key, record)}
            self._run.overtaken.difference_update(current)

    def overtake(self, keys: Collection[SegmentFrame]) -> None:
        """Marks the run's masks of these frames as out of date; without a run this does nothing."""
        if self._run is not None:
            self._run.overtaken.update(keys)
