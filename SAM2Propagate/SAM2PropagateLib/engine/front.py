"""A front: a keyframe that is carried frame by frame in one direction, with its memories and results."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from SAM2PropagateLib.engine.family import NO_OBJECT_LOGIT, Decoded, FrameMemory, Recall
from SAM2PropagateLib.engine.fusion import Carried


def where_present(logits: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Return mask logits where the object score, (), is above 0; otherwise an empty mask."""
    return torch.where(score > 0, logits, NO_OBJECT_LOGIT)


@dataclass(frozen=True)
class Tracked:
    """A front's result on one frame, on the device.

    Attributes:
        drawn: float16 (4h, 4w), the mask logits, whatever the object score says. iou: float32 (), predicted,
            0 to 1. object_score: float32 (), a logit.
        lost: number of frames in a row without a trace of the segment, with this one; 0 if it was found, or
            the result was not read back yet.
    """

    drawn: torch.Tensor
    iou: torch.Tensor
    object_score: torch.Tensor
    lost: int = 0

    @property
    def logits(self) -> torch.Tensor:
        """The mask logits, float16 (4h, 4w), far below 0 where the object score says that nothing is
        there."""
        return where_present(self.drawn, self.object_score)

    @staticmethod
    def of(decoded: Decoded) -> list[Tracked]:
        """Return the answers for a batch of frames, with the masks of absent segments."""
        parts = (decoded.logits.half(), decoded.iou, decoded.object_score)
        return [Tracked(*one) for one in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Course:
    """The start and direction of a front.

    Attributes:
        source: the keyframe's index. step: +1 forward, -1 backward.
        holds: whether the segment is on every frame, even if the model does not find it.
    """

    source: int
    step: int
    holds: bool = False


@dataclass(frozen=True)
class Recollection:
    """How many memories the model uses, the keyframe's included.

    Attributes:
        slots: spatial memories. pointers: object pointers, at most one per frame of the volume.
    """

    slots: int
    pointers: int


class Front:
    """A keyframe that is carried in one direction.

    It depends only on its keyframe, so its results stay valid when other keyframes change, and it can be
    continued where it stopped.

    Args:
        course: start and direction.
        memory: of the keyframe.
        uses: how many memories each frame is tracked from.
        carried: what the motion carries from the keyframe; None: without motion.
    """

    def __init__(
        self, course: Course, memory: FrameMemory, uses: Recollection, carried: Carried | None = None
    ) -> None:
        self.source, self.step, self.holds = course.source, course.step, course.holds
        self.carried = carried
        self.found: dict[int, Tracked] = {}
        self._told = 0
        # Per number of frames without a trace: the frames on which it was reached.
        self._lost_at: dict[int, list[int]] = {}
        self._keyframe = memory
        self._span = max(1, uses.pointers - 1)
        self._slots = uses.slots
        # Newest first.
        self._recent: deque[FrameMemory] = deque(maxlen=max(uses.slots - 1, self._span))

    @property
    def next_frame(self) -> int:
        """The frame to be tracked next."""
        return self.source + self.step * (len(self.found) + 1)

    @property
    def last_found(self) -> Tracked | None:
        """The result on the last tracked frame."""
        return self.found.get(self.next_frame - self.step)

    @property
    def unread(self) -> int:
        """The number of results that the host has not read yet."""
        return len(self.found) - self._told

    @property
    def last_read(self) -> int:
        """The last frame that the host has read, or the keyframe."""
        return self.source + self.step * self._told

    @property
    def empty_frames(self) -> int:
        """The number of frames in a row without a trace of the segment, up to the last one that was read."""
        return self.found[self.last_read].lost if self._told else 0

    def tell(self, is_there: bool) -> None:
        """Note for the first frame that was not read yet whether the segment is on it."""
        lost = 0 if is_there else self.empty_frames + 1
        self._told += 1
        frame = self.last_read
        self.found[frame] = replace(self.found[frame], lost=lost)
        if lost:
            self._lost_at.setdefault(lost, []).append(frame)

    def lost_at(self, frames: int, beyond: int | None = None) -> int | None:
        """Return the first frame that is the last of so many without a trace of the segment, as far as the
        host has read.

        Args:
            beyond: only frames farther from the keyframe than this one count.
        """
        start = self.source if beyond is None else beyond
        return next((one for one in self._lost_at.get(frames, []) if (one - start) * self.step > 0), None)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape that `recall` will have."""
        past = len(self._recent)
        return 1 + min(self._slots - 1, past), 1 + min(self._span, past)

    def recall(self) -> Recall:
        """Return the memories that the next frame is tracked from."""
        recent = list(self._recent)
        spatial = [(0, self._keyframe)]
        spatial += [(slot, recent[slot - 1]) for slot in range(min(self._slots - 1, len(recent)), 0, -1)]
        distance = len(self.found) + 1
        pointers = [(distance, self._keyframe)]
        pointers += [(n + 1, memory) for n, memory in enumerate(recent[: self._span])]
        return Recall(tuple(spatial), tuple(pointers), self._span)

    def rest(self) -> None:
        """Free the memories' keys and values; they are made again if the front continues."""
        for memory in (self._keyframe, *self._recent):
            memory.rest()

    def catch_up(self) -> None:
        """Read all unread results, one frame after the other."""
        while self.unread:
            self.tell(bool((self.found[self.last_read + self.step].logits > 0).any()))

    def advance(self, found: Tracked, memory: FrameMemory, carried: Carried | None = None) -> None:
        """Record the result on the next frame, and move one frame further."""
        self.found[self.next_frame] = found
        self.carried = carried
        self._recent.appendleft(memory)
        if len(self._recent) >= self._slots:
            # Only the pointers of older memories are used.
            self._recent[self._slots - 1].rest()


def batches(fronts: Sequence[Front], limit: int) -> list[list[Front]]:
    """Return fronts whose recalls have the same shape, at most `limit` together."""
    groups: dict[tuple[int, int], list[Front]] = {}
    for front in fronts:
        groups.setdefault(front.shape, []).append(front)
    return [group[n : n + limit] for group in groups.values() for n in range(0, len(group), limit)]
