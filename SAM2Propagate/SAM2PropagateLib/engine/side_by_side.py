"""Encodes several frames at once on a CPU, each on a thread of its own.

A layer that is divided among all threads has them wait for each other at its end, and most layers of an
encoder are small. Frames need nothing from each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# On more cores, the frames divide them.
_MOST = 4
# What a further frame takes, per pixel of the model's input; measured 450 with the smallest models. Of the
# free main memory a quarter may go into that.
_BYTES_PER_PIXEL, _SHARE_OF_FREE = 1000, 4


class SideBySide:
    """Does the same work on several items at once, each with its share of torch's threads.

    Args:
        count: items at once.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="encode")

    def done(self, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """Return the results in order, when nothing is being worked on any more.

        Raises:
            Exception: the first error of the work.
        """
        items = list(items)
        threads = torch.get_num_threads()

        def alone(item: _Item) -> _Result:
            torch.set_num_threads(max(1, threads // len(items)))
            return work(item)

        futures = [self._pool.submit(alone, item) for item in items]
        wait(futures)
        # Torch starts new threads with the number that was set last.
        torch.set_num_threads(threads)
        try:
            return list(map(Future.result, futures))
        finally:
            # An error refers to this frame: it must not lead to what the work had in main memory.
            futures.clear()


def frames_at_once(threads: int, input_size: int, free: int | None, parallel_info: str) -> int:
    """Return how many frames a CPU encodes at once.

    Args:
        threads: of torch.
        input_size: side of a frame as the model sees it, in pixels.
        free: bytes of main memory; None: unknown.
        parallel_info: what torch says of its threads (`torch.__config__.parallel_info`).
    """
    if "parallel backend: OpenMP" not in parallel_info:
        # Other backends cannot give a thread its own number of threads.
        return 1
    most = min(threads, _MOST)
    if free is not None:
        most = min(most, 1 + free // (_SHARE_OF_FREE * _BYTES_PER_PIXEL * input_size**2))
    return most
