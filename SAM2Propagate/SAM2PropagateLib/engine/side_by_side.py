"""Encodes several frames at once on a CPU, each on a thread of its own.

A layer that is divided among all threads has them wait for each other at its end, and most layers of an
encoder are small. Frames need nothing from each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Each takes memory by its pixels. On more cores, the frames divide them.
_MOST, _MOST_PIXELS = 4, 2 * 1024**2


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
        # That was for those threads; it is also what threads to come begin with.
        torch.set_num_threads(threads)
        return [future.result() for future in futures]


def frames_at_once(threads: int, input_size: int) -> int:
    """Return how many frames a CPU encodes at once.

    Args:
        threads: of torch.
        input_size: side of a frame as the model sees it, in pixels.
    """
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        # Other backends cannot give a thread its own number of threads.
        return 1
    return max(1, min(threads, _MOST, _MOST_PIXELS // input_size**2))
