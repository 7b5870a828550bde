"""When main or GPU memory runs out anywhere in the engine, a sentence says so, and the next click works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from SAM2PropagateLib.engine import carry, front, motion, report, session
from SAM2PropagateLib.engine.results import FrameMask
from SAM2PropagateLib.engine.session import EngineSession
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.models.memory import is_out_of_memory
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunRequest
from SAM2PropagateLib.worker.failures import told
from Testing.engine.fake_steps import blocks
from Testing.engine.fake_steps import session as opened

FRAMES = 20
BOX = FramePrompts(box=(7.5, 7.5, 23.5, 23.5))
ONE = RunRequest((ResolvedSegment("bright", {8: BOX}, frozenset(), 0, FRAMES - 1),))
TWO = RunRequest((ResolvedSegment("bright", {3: BOX, 15: BOX}, frozenset(), 0, FRAMES - 1),))
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Shortage:
    """Makes a function fail for lack of main or GPU memory: in the calls from `first` on, `times` times."""

    def __init__(self, work: Callable[..., Any], first: int, times: int, error: Exception = FULL) -> None:
        self._work, self._error = work, error
        self.first, self.times, self.calls = first, times, 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls >= self.first and self.times > 0:
            self.times -= 1
            raise self._error
        return self._work(*arguments, **options)


def method(shortage: Shortage) -> Callable[[Any], Any]:
    """A shortage in the place of a method without arguments."""

    def called(self: Any) -> Any:
        return shortage(self)

    return called


def propagated(one: EngineSession, run: RunRequest, masks: dict[int, FrameMask]) -> None:
    one.propagate(run, lambda mask: masks.__setitem__(mask.frame, mask))


def expected(run: RunRequest) -> dict[int, FrameMask]:
    masks: dict[int, FrameMask] = {}
    propagated(opened(blocks()), run, masks)
    return masks


def assert_same(masks: dict[int, FrameMask], right: dict[int, FrameMask]) -> None:
    assert masks.keys() == right.keys()
    for frame, mask in masks.items():
        np.testing.assert_array_equal(mask.mask, right[frame].mask)


def numpys_own() -> MemoryError:
    """What NumPy raises where it gets no main memory."""
    try:
        np.empty(1 << 60, np.uint8)
    except MemoryError as error:
        return error
    raise AssertionError("so much main memory cannot be there")


class StatusError(RuntimeError):
    """As torch derives its own."""


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        MemoryError(),
        numpys_own(),
        RuntimeError("CUDA error: out of memory"),
        StatusError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        StatusError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("std::bad_alloc"),
        cv2.error("OpenCV(4.12.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"),
        RuntimeError("Exception thrown in SimpleITK: Failed to allocate memory for image."),
    ],
    ids=lambda error: type(error).__name__ + str(error)[:20],
)
def test_every_way_to_say_it_is_known_and_told_in_a_sentence(error: Exception) -> None:
    assert is_out_of_memory(error)
    said = told(error)
    assert said.code == "out_of_memory"
    assert not str(error) or str(error) not in str(said)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("something else"),
        ValueError("out of memory"),
        cv2.error("bad argument"),
        OSError(28, "full"),
    ],
)
def test_other_errors_are_not_called_so(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_a_mask_that_cannot_be_finished_at_once_is_finished_with_the_room_of_kept_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shortage = Shortage(report.shown_mask, first=4, times=1)
    monkeypatch.setattr(report, "shown_mask", shortage)
    masks: dict[int, FrameMask] = {}
    propagated(opened(blocks()), TWO, masks)
    assert shortage.times == 0
    monkeypatch.undo()
    assert_same(masks, expected(TWO))


@pytest.mark.parametrize("run", [ONE, TWO], ids=["one keyframe", "two keyframes"])
@pytest.mark.parametrize(
    ("place", "name"),
    [
        (report, "shown_mask"),
        (carry, "blended"),
        (carry, "Report"),
        (report, "figures_of"),
        (report, "native_mask"),
    ],
    ids=lambda one: getattr(one, "__name__", one).rpartition(".")[2],
)
def test_without_any_room_a_sentence_is_told_finished_masks_stay_and_the_next_run_ends(
    monkeypatch: pytest.MonkeyPatch, place: Any, name: str, run: RunRequest
) -> None:
    one = opened(blocks())
    shortage = Shortage(getattr(place, name), first=4, times=1000)
    monkeypatch.setattr(place, name, shortage)
    masks: dict[int, FrameMask] = {}
    with pytest.raises(SAM2PropagateError) as caught:
        propagated(one, run, masks)
    assert caught.value.code == "out_of_memory" and "CUDA" not in str(caught.value)
    assert masks, "what was finished before was told"
    monkeypatch.undo()
    assert one.preview(3, BOX, "bright").mask.any()
    propagated(one, run, masks)
    assert_same(masks, expected(run))


def test_what_a_front_found_that_cannot_be_read_at_the_end_is_computed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = opened(blocks())
    monkeypatch.setattr(report, "shown_mask", Shortage(report.shown_mask, first=4, times=1000))
    monkeypatch.setattr(front.Front, "catch_up", method(Shortage(front.Front.catch_up, first=1, times=1)))
    masks: dict[int, FrameMask] = {}
    with pytest.raises(SAM2PropagateError) as caught:
        propagated(one, ONE, masks)
    assert caught.value.code == "out_of_memory" and "CUDA" not in str(caught.value)
    monkeypatch.undo()
    propagated(one, ONE, masks)
    assert_same(masks, expected(ONE))


def test_an_edge_for_which_there_is_no_room_gets_that_of_kept_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masks: dict[int, FrameMask] = {}
    one = opened(blocks())
    propagated(one, ONE, masks)
    edge = masks[4].edge
    assert edge is not None
    right = edge()
    kept, shortage = one.features.nbytes, Shortage(torch.Tensor.cpu, first=1, times=1)
    monkeypatch.setattr(torch.Tensor, "cpu", method(shortage))
    np.testing.assert_array_equal(edge(), right)
    assert shortage.times == 0 and one.features.nbytes < kept


def test_a_preview_for_which_there_is_no_room_is_told_so_and_the_next_one_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = opened(blocks(), auto=True)
    monkeypatch.setattr(session.crops, "close_crop", Shortage(session.crops.close_crop, 1, 1))
    with pytest.raises(SAM2PropagateError) as caught:
        one.preview(3, BOX, "bright")
    assert caught.value.code == "out_of_memory"
    assert one.preview(3, BOX, "bright").mask.any()


def test_motion_for_which_there_was_no_main_memory_is_registered_when_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = opened(blocks(), motion_budget=1 << 24)
    failing = Shortage(motion.imaging.to_gray, first=3, times=1, error=MemoryError())
    monkeypatch.setattr(motion.imaging, "to_gray", failing)
    masks: dict[int, FrameMask] = {}
    with pytest.raises(SAM2PropagateError) as caught:
        propagated(one, ONE, masks)
    assert caught.value.code == "out_of_memory"
    propagated(one, ONE, masks)
    assert set(masks) == set(range(FRAMES))
