"""How the image moves between frames: what is registered, how often, and what is kept of it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from scipy import ndimage

from SAM2PropagateLib.engine.crops import Sight
from SAM2PropagateLib.engine.motion import PAIR_BYTES, SIDE, MotionStore
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.frames.window import Window

SIZE = 96
SHIFT = 3


def sight(level: float = 127.5) -> Sight:
    whole = FrameCrop((SIZE, SIZE), (1, 1), (-0.5, -0.5, SIZE - 0.5, SIZE - 0.5), 384)
    return Sight(whole, Window(255, level))


def drifting() -> np.ndarray:
    """uint8 (6, SIZE, SIZE): a smooth random pattern that moves to the right by `SHIFT` pixels a frame."""
    noise = np.random.default_rng(4).random((SIZE, SIZE * 2))
    pattern = ndimage.gaussian_filter(noise, 2)
    pattern = np.uint8(255 * (pattern - pattern.min()) / np.ptp(pattern))
    return np.stack([pattern[:, 40 - SHIFT * n : 40 - SHIFT * n + SIZE] for n in range(6)])


class MovingFrames:
    """Frames of a volume; counts how often each is read."""

    def __init__(self) -> None:
        self.volume = drifting()
        self.reads: list[tuple[Sight, int]] = []
        self._lock = threading.Lock()

    def __call__(self, sight: Sight, frame: int) -> np.ndarray:
        with self._lock:
            self.reads.append((sight, frame))
        return self.volume[frame]


@pytest.mark.parametrize("step", [1, -1])
def test_the_flow_says_where_each_pixel_was_on_the_frame_before(step: int) -> None:
    flow = MotionStore(MovingFrames(), 10 * PAIR_BYTES).get(sight(), 3, step).flow
    assert flow.shape == (SIDE, SIDE, 2)
    inner = flow[40:-40, 40:-40].astype(float)
    # On the way forward the pattern comes from the left: at x it was at x - SHIFT.
    assert np.median(inner[..., 0]) == pytest.approx(-step * SHIFT * SIDE / SIZE, abs=0.2)
    assert np.median(inner[..., 1]) == pytest.approx(0, abs=0.2)


def test_a_pair_is_registered_once_and_a_picture_read_once() -> None:
    frames = MovingFrames()
    store = MotionStore(frames, 100 * PAIR_BYTES)
    store.prepare((sight(), frame, 1) for frame in range(1, 6))
    first = store.get(sight(), 4, 1)
    assert store.get(sight(), 4, 1) is first
    np.testing.assert_array_equal(first.picture, store.picture(sight(), 4))
    store.prepare([(sight(), 4, 1)])
    assert store.registered_pairs == 5
    assert sorted(frame for _, frame in frames.reads) == [0, 1, 2, 3, 4, 5]


def test_another_sight_is_registered_by_itself_and_can_be_forgotten() -> None:
    store = MotionStore(MovingFrames(), 100 * PAIR_BYTES)
    store.get(sight(), 1, 1)
    store.get(sight(90), 1, 1)
    store.keep_only([sight(90)])
    assert (sight(), 1, 1) not in store
    assert (sight(90), 1, 1) in store


def test_the_pair_used_longest_ago_goes_first_when_the_budget_is_full() -> None:
    store = MotionStore(MovingFrames(), 2 * PAIR_BYTES)
    assert not store.is_full
    store.get(sight(), 1, 1)
    store.get(sight(), 2, 1)
    assert store.is_full
    store.get(sight(), 1, 1)
    store.get(sight(), 3, 1)
    assert (sight(), 2, 1) not in store
    assert (sight(), 1, 1) in store


def test_one_pair_is_kept_even_without_a_budget() -> None:
    store = MotionStore(MovingFrames(), 0)
    store.prepare((sight(), frame, 1) for frame in range(1, 6))
    assert store.get(sight(), 2, 1).flow.shape == (SIDE, SIDE, 2)


def test_what_goes_wrong_while_registering_is_raised_where_the_flow_is_wanted() -> None:
    store = MotionStore(MovingFrames(), 10 * PAIR_BYTES)
    with pytest.raises(IndexError):
        store.get(sight(), 6, 1)
