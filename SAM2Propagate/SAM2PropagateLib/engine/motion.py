"""Computes the image's motion from frame to frame: dense optical flow, once for each pair of frames.

The flow is "Fast optical flow using dense inverse search" (Kroeger et al., 2016) as OpenCV implements it. Of
the methods that were compared (docs/engine.md), it carries outlines furthest for its time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
import torch

from SAM2PropagateLib.engine import imaging
from SAM2PropagateLib.engine.crops import Sight

# Side of the square pictures that are registered, whatever the model's input size.
SIDE = 192

# Chosen on the training volumes. The finest scale matters most; smoothing the flow afterwards, as OpenCV's
# presets do, blurs it where structures slide along each other.
_FINEST_SCALE, _PATCH_STRIDE, _DESCENTS, _SMOOTHINGS = 0, 4, 12, 0

# One frame as the model sees it, and the step (+1 or -1) that leads to it.
_Pair = tuple[Sight, int, int]


# uint8 (SIDE, SIDE): a frame as the model sees it.
Picture = npt.NDArray[np.uint8]

# float16 (SIDE, SIDE, 2): how far (x, y) from each pixel of a frame its content lay on the frame before, in
# pixels.
Flow = npt.NDArray[np.float16]

PAIR_BYTES = SIDE * SIDE * (2 * 2 + 1)

# How many pairs are registered ahead of a run.
AHEAD = 4

# How many pictures are kept for the next pairs.
_PICTURES = 16


@dataclass(frozen=True, eq=False)
class FrameMotion:
    """A frame's picture, and its flow from a neighbor."""

    picture: Picture
    flow: Flow


class MotionStore:
    """Motion between neighboring frames; the least recently used is dropped first.

    Separate threads register pairs ahead of a run, and while a GPU works.

    Args:
        frame: a frame's native pixels through a sight's window, uint8 (rows, columns); called on any thread.
        budget: bytes that may be kept.
        threads: pairs registered at once.
    """

    def __init__(
        self, frame: Callable[[Sight, int], npt.NDArray[np.uint8]], budget: int, threads: int = 1
    ) -> None:
        self._frame = frame
        self._budget = budget
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="motion")
        self._thread = threading.local()
        self._kept: OrderedDict[_Pair, Future[FrameMotion]] = OrderedDict()
        self._picture = lru_cache(_PICTURES)(self._seen)
        self.registered_pairs = 0

    def __contains__(self, pair: _Pair) -> bool:
        return pair in self._kept

    def get(self, sight: Sight, frame: int, step: int) -> FrameMotion:
        """Wait for and return the motion of `frame` from `frame - step`.

        Args:
            step: +1 or -1.
        """
        self.prepare([(sight, frame, step)])
        self._kept.move_to_end((sight, frame, step))
        try:
            return self._kept[sight, frame, step].result()
        except BaseException:
            # The next call tries again, when there may be enough main memory.
            self._kept.pop((sight, frame, step), None)
            raise

    def picture(self, sight: Sight, frame: int) -> Picture:
        """Return the picture of a frame, also of one that is not registered."""
        return self._picture(sight, frame)

    def prepare(self, pairs: Iterable[_Pair]) -> None:
        """Register pairs in the background, in this order; pairs that are kept already cost nothing."""
        for pair in pairs:
            if pair not in self._kept:
                self._kept[pair] = self._pool.submit(self._registered, *pair)
                self.registered_pairs += 1
                self._trim()

    @property
    def is_full(self) -> bool:
        """Whether another pair would replace an earlier one."""
        return (len(self._kept) + 1) * PAIR_BYTES > self._budget

    def keep_only(self, sights: Collection[Sight]) -> None:
        """Drop the motion of other sights."""
        for pair in [pair for pair in self._kept if pair[0] not in sights]:
            self._kept.pop(pair).cancel()

    def close(self) -> None:
        """Free everything that is kept, and end the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.keep_only(())

    def _trim(self) -> None:
        # The newest stays, however small the budget is.
        while len(self._kept) > 1 and len(self._kept) * PAIR_BYTES > self._budget:
            self._kept.popitem(last=False)[1].cancel()

    def _registered(self, sight: Sight, frame: int, step: int) -> FrameMotion:
        before, picture = self._picture(sight, frame - step), self._picture(sight, frame)
        # OpenCV's types do not allow None as the initial flow.
        flow = self._method().calc(picture, before, None)  # type: ignore[call-overload]
        return FrameMotion(picture, np.asarray(flow, np.float16))

    def _seen(self, sight: Sight, frame: int) -> Picture:
        native = self._frame(sight, frame)
        crop = replace(sight.crop, size=SIDE)
        gray = imaging.to_gray(imaging.to_model_input([native], crop, torch.device("cpu")))
        return np.ascontiguousarray(gray[0, 0].clamp(0, 255).round().byte().numpy())

    def _method(self) -> cv2.DISOpticalFlow:
        """Return this thread's own method, as it has buffers."""
        if not hasattr(self._thread, "method"):
            method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            method.setFinestScale(_FINEST_SCALE)
            method.setPatchStride(_PATCH_STRIDE)
            method.setGradientDescentIterations(_DESCENTS)
            method.setVariationalRefinementIterations(_SMOOTHINGS)
            self._thread.method = method
        return self._thread.method
