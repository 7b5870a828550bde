"""Frames encoded side by side on a CPU, each in a thread of its own: the same results but for rounding."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from SAM2PropagateLib.engine.engine import PropagationEngine
from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.engine.int8_linear import Int8Linear, why_no_int8
from SAM2PropagateLib.engine.side_by_side import SideBySide, frames_at_once
from SAM2PropagateLib.engine.steps import FrameFeatures
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunRequest
from Testing.engine.fake_steps import FakeSteps, blocks, frames_of, session

CPU = torch.device("cpu")
NOT_HERE = why_no_int8()


@pytest.fixture
def threads() -> Iterator[int]:
    """Give torch four threads for a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


def test_items_are_worked_on_at_once_and_come_back_in_order() -> None:
    # Each waits for the other, so that neither is done before both have begun.
    both = threading.Barrier(2, timeout=60)

    def work(item: int) -> int:
        both.wait()
        return 10 * item

    assert SideBySide(2).done(work, [3, 1]) == [30, 10]


def test_items_share_the_threads_and_leave_all_to_what_follows(threads: int) -> None:
    pool = SideBySide(2)
    assert pool.done(lambda _: torch.get_num_threads(), range(2)) == [threads // 2] * 2
    assert pool.done(lambda _: torch.get_num_threads(), range(1)) == [threads]
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    pool.done(lambda _: None, range(2))
    later.start()
    later.join()
    assert torch.get_num_threads() == threads and found == [threads]


def test_an_error_comes_when_nothing_is_being_worked_on_any_more() -> None:
    has_failed, ended = threading.Event(), []

    def work(item: int) -> None:
        if item == 0:
            has_failed.set()
            raise MemoryError("no room")
        has_failed.wait(60)
        ended.append(item)

    with pytest.raises(MemoryError, match="no room"):
        SideBySide(2).done(work, [0, 1])
    assert ended == [1]


def test_an_error_leaves_nothing_in_main_memory() -> None:
    class Activations:
        pass

    known: list[weakref.ref[Activations]] = []

    def work(item: int) -> Activations:
        made = Activations()
        known.append(weakref.ref(made))
        if item == 0:
            raise MemoryError("no room")
        return made

    gc.disable()
    try:
        with contextlib.suppress(MemoryError):
            SideBySide(2).done(work, [0, 1])
        assert [one() for one in known] == [None, None]
    finally:
        gc.enable()


OPENMP = "ATen parallel backend: OpenMP"


def test_large_frames_few_threads_and_little_main_memory_mean_fewer_at_once() -> None:
    assert frames_at_once(16, 384, None, OPENMP) == frames_at_once(16, 384, 8 << 30, OPENMP) == 4
    assert frames_at_once(3, 384, 8 << 30, OPENMP) == 3
    assert frames_at_once(1, 384, 8 << 30, OPENMP) == 1
    assert [frames_at_once(16, size, 8 << 30, OPENMP) for size in (512, 1024, 2048)] == [4, 3, 1]
    assert [frames_at_once(16, 384, free << 20, OPENMP) for free in (0, 500, 1200, 1800)] == [1, 1, 3, 4]


def test_threads_that_cannot_be_divided_encode_one_at_a_time() -> None:
    assert frames_at_once(16, 384, None, "ATen parallel backend: native thread pool") == 1
    if sys.platform == "linux":
        assert OPENMP in torch.__config__.parallel_info()


class Watched(FakeSteps):
    """The fake model; notes how many frames each thread encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: Counter[str] = Counter()

    def encode(self, images: torch.Tensor) -> list[FrameFeatures]:
        self.threads[threading.current_thread().name] += len(images)
        return super().encode(images)


def test_a_run_finds_the_same_as_frame_by_frame() -> None:
    found, watched = [], []
    for batch_size in (1, 2):
        steps = Watched()
        model = LoadedModel(None, CPU, torch.float32, 64, "fake", lambda _, steps=steps: steps, {})
        opened = PropagationEngine(model, batch_size=batch_size).open(frames_of(blocks(5)))
        masks: dict[int, np.ndarray] = {}
        box = ResolvedSegment("bright", {2: FramePrompts(box=(7.5, 7.5, 23.5, 23.5))}, last=4)
        opened.propagate(
            RunRequest((box,)), lambda mask, masks=masks: masks.__setitem__(mask.frame, mask.mask)
        )
        found.append(masks)
        watched.append(steps.threads)
    assert sorted(found[0]) == sorted(found[1]) == list(range(5))
    assert all(
        np.array_equal(found[0][frame], found[1][frame]) and found[0][frame].any() for frame in range(5)
    )
    here = threading.current_thread().name
    assert watched[0] == {here: 5}
    # The keyframe alone.
    assert watched[1].total() == 5 and watched[1][here] == 1


@pytest.mark.skipif(NOT_HERE is not None, reason=f"no 8-bit integers here: {NOT_HERE}")
def test_threads_multiply_integers_side_by_side() -> None:
    torch.manual_seed(2)
    layer = Int8Linear(torch.nn.Linear(96, 64))
    values = [scale * torch.randn(50, 96) for scale in (1, 5)]

    def often(given: torch.Tensor) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [layer(given) for _ in range(200)]

    wanted = [often(given)[0] for given in values]
    for one, answers in zip(wanted, SideBySide(2).done(often, values), strict=True):
        assert all(torch.equal(answer, one) for answer in answers)


def test_encoding_ahead_on_a_cpu_stops_after_any_frame() -> None:
    opened = session(blocks(), batch_size=4)
    answers = iter([False, True])
    assert opened.encode_ahead(range(20), lambda: next(answers)) == 1
