"""Encodes frames in batches, and keeps their features within a budget."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

import torch

from SAM2PropagateLib.engine.crops import Sight
from SAM2PropagateLib.engine.family import EncodedFrame
from SAM2PropagateLib.engine.memory_limits import out_of_memory_error
from SAM2PropagateLib.models.memory import is_out_of_memory

# How the model sees a frame, and the frame's index.
FeatureKey = tuple[Sight, int]
_Result = TypeVar("_Result")


class FeatureStore:
    """Features by sight and frame index; the least recently used are dropped first.

    Two tiers on a GPU: GPU memory first, then main memory; on a CPU only one.

    Args:
        encode: makes the features of these frames, on the device, together.
        device: where features are computed and handed out.
        budget: bytes that may be kept on the device.
        host_budget: bytes that may be kept in main memory, too; ignored on a CPU.
        batch_size: frames encoded at once at most; halved for good when main or GPU memory runs out.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[FeatureKey]], Sequence[EncodedFrame]],
        device: torch.device,
        budget: int,
        host_budget: int = 0,
        batch_size: int = 1,
    ) -> None:
        self._encode = encode
        self._device = device
        self._budget = budget
        self._host_budget = 0 if device.type == "cpu" else host_budget
        self.batch_size = max(1, batch_size)
        self._near: OrderedDict[FeatureKey, EncodedFrame] = OrderedDict()
        self._far: OrderedDict[FeatureKey, EncodedFrame] = OrderedDict()
        self._near_bytes = 0
        self._far_bytes = 0
        self.encoded_frames = 0

    def __contains__(self, frame: FeatureKey) -> bool:
        return frame in self._near or frame in self._far

    @property
    def nbytes(self) -> int:
        """Bytes kept, both tiers."""
        return self._near_bytes + self._far_bytes

    @property
    def is_full(self) -> bool:
        """Whether a further frame would push an earlier one out."""
        kept, capacity = len(self._near) + len(self._far), self._budget + self._host_budget
        return self.nbytes * (kept + 1) > capacity * kept if kept else capacity <= 0

    def keep_only(self, sights: Collection[Sight]) -> None:
        """Drop the features of frames in other sights."""
        self._near = OrderedDict((key, kept) for key, kept in self._near.items() if key[0] in sights)
        self._far = OrderedDict((key, kept) for key, kept in self._far.items() if key[0] in sights)
        self._near_bytes = sum(features.nbytes for features in self._near.values())
        self._far_bytes = sum(features.nbytes for features in self._far.values())

    def get(
        self, frames: Sequence[FeatureKey], upcoming: Iterable[FeatureKey] = ()
    ) -> dict[FeatureKey, EncodedFrame]:
        """Return features of these frames.

        Args:
            frames: those not kept are encoded.
            upcoming: frames that will be needed next; they fill up the last batch, so that asking for single
                frames does not lead to batches of one.

        Raises:
            SAM2PropagateError: `out_of_memory`, when not even one frame can be encoded.
        """
        wanted = list(dict.fromkeys(frames))
        found = {frame: self._fetch(frame) for frame in wanted if frame in self}
        missing = [frame for frame in wanted if frame not in found]
        if missing:
            spare = -len(missing) % self.batch_size
            ahead = [f for f in dict.fromkeys(upcoming) if f not in self and f not in missing]
            for frame, features in self._encode_all([*missing, *ahead[:spare]]):
                if frame in missing:
                    found[frame] = features
        return found

    def _encode_all(self, frames: list[FeatureKey]) -> list[tuple[FeatureKey, EncodedFrame]]:
        done: list[tuple[FeatureKey, EncodedFrame]] = []
        while frames:
            chunk = frames[: self.batch_size]
            features = self._try_to_encode(chunk)
            if features is None:
                self._make_room()
                continue
            self.encoded_frames += len(chunk)
            for frame, value in zip(chunk, features, strict=True):
                self._keep(frame, value)
                done.append((frame, value))
            frames = frames[len(chunk) :]
        return done

    def _try_to_encode(self, frames: list[FeatureKey]) -> Sequence[EncodedFrame] | None:
        """Encode frames; None if main or GPU memory was too little. What that took is then free again."""
        try:
            return self._encode(frames)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _make_room(self) -> None:
        """Make room on the device: with a smaller batch, else by moving the cache to the host, else give
        up."""
        if self.batch_size > 1:
            self.batch_size //= 2
        elif not self.offload():
            raise out_of_memory_error(self._device)

    def with_room(self, work: Callable[[], _Result]) -> _Result:
        """Do a step on one frame and return its result; free kept features and try again if it does not fit.

        Raises:
            SAM2PropagateError: `out_of_memory`.
        """
        while True:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, so that what the attempt took is free.
            if not self.offload():
                raise out_of_memory_error(self._device)

    def offload(self) -> bool:
        """Move what is kept on the device to main memory, for good; on a CPU drop half of it.

        Returns:
            Whether anything was freed.
        """
        before = self._near_bytes
        self._budget = before // 2 if self._device.type == "cpu" else 0
        self._trim()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return self._near_bytes < before

    def _fetch(self, frame: FeatureKey) -> EncodedFrame:
        if frame in self._near:
            self._near.move_to_end(frame)
            return self._near[frame]
        self._far.move_to_end(frame)
        return self._far[frame].to(self._device)

    def _keep(self, frame: FeatureKey, features: EncodedFrame) -> None:
        self._near[frame] = features
        self._near_bytes += features.nbytes
        self._trim()

    def _trim(self) -> None:
        while self._near and self._near_bytes > self._budget:
            frame, features = self._near.popitem(last=False)
            self._near_bytes -= features.nbytes
            if self._host_budget:
                # Pinning fails where main memory is short, and on some systems always. Then the frame is
                # dropped, and encoded again when needed.
                with contextlib.suppress(RuntimeError, MemoryError):
                    self._far[frame] = features.to_host()
                    self._far_bytes += features.nbytes
        while self._far and self._far_bytes > self._host_budget:
            _, features = self._far.popitem(last=False)
            self._far_bytes -= features.nbytes
