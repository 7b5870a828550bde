"""The feature store: batches, budgets, and what it does when main or GPU memory runs out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from SAM2PropagateLib.engine.crops import Sight
from SAM2PropagateLib.engine.features import FeatureKey, FeatureStore
from SAM2PropagateLib.engine.steps import FrameFeatures
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.frames.window import Window

SIGHT = Sight(FrameCrop((8, 8), (1, 1), (-0.5, -0.5, 7.5, 7.5), 64), Window(255, 127.5))
OTHER = Sight(FrameCrop((8, 8), (1, 1), (-0.5, -0.5, 3.5, 3.5), 64), Window(255, 127.5))
FRAME_BYTES = 3 * 4 * 4


class Encoder:
    """Remembers the batches it is given; fails on batches above `limit` as a full GPU does."""

    def __init__(self, limit: int = 1000) -> None:
        self.batches: list[list[int]] = []
        self.limit = limit

    def __call__(self, keys: Sequence[FeatureKey]) -> list[FrameFeatures]:
        if len(keys) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batches.append([frame for _, frame in keys])
        return [FrameFeatures(*(torch.full((4,), float(frame)) for _ in range(3))) for _, frame in keys]


def store(
    encoder: Encoder, frames: int = 100, batch_size: int = 1, device: str = "cpu", host: int = 0
) -> FeatureStore:
    return FeatureStore(encoder, torch.device(device), frames * FRAME_BYTES, host * FRAME_BYTES, batch_size)


def keys(*frames: int) -> list[FeatureKey]:
    return [(SIGHT, frame) for frame in frames]


def test_a_frame_is_encoded_once() -> None:
    encoder = Encoder()
    features = store(encoder)
    found = features.get(keys(3, 4, 3))
    assert float(found[SIGHT, 4].coarse[0]) == 4
    features.get(keys(4, 3))
    assert encoder.batches == [[3], [4]]
    assert features.encoded_frames == 2


def test_the_same_frame_in_another_crop_is_another_frame() -> None:
    encoder = Encoder()
    features = store(encoder)
    features.get([(SIGHT, 3), (OTHER, 3)])
    assert features.encoded_frames == 2


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_not_kept_makes_room_in_both_tiers(device: str) -> None:
    features = store(Encoder(), frames=2, device=device, host=2)
    size = 2 if device == "cpu" else 4
    for frame in range(size // 2):
        features.get([(SIGHT, frame)])
        features.get([(OTHER, frame)])
    assert features.is_full
    features.keep_only({OTHER})
    assert features.nbytes == size // 2 * FRAME_BYTES and not features.is_full
    assert (OTHER, 0) in features and (SIGHT, 0) not in features
    features.keep_only(())
    assert features.nbytes == 0 and (OTHER, 0) not in features


def test_upcoming_frames_fill_the_batch_up() -> None:
    encoder = Encoder()
    features = store(encoder, batch_size=4)
    features.get(keys(5), iter(keys(6, 7, 8, 9)))
    assert encoder.batches == [[5, 6, 7, 8]]
    features.get(keys(6, 7, 8))
    assert len(encoder.batches) == 1


def test_the_least_recently_used_frame_goes_first() -> None:
    encoder = Encoder()
    features = store(encoder, frames=2)
    features.get(keys(1))
    features.get(keys(2))
    features.get(keys(1))
    features.get(keys(3))
    assert (SIGHT, 1) in features
    assert (SIGHT, 2) not in features
    assert features.nbytes == 2 * FRAME_BYTES


def test_what_does_not_fit_is_still_handed_out() -> None:
    features = store(Encoder(), frames=1)
    assert len(features.get(keys(1, 2, 3))) == 3
    assert features.nbytes == FRAME_BYTES


def test_full_means_that_a_further_frame_would_push_one_out() -> None:
    features = store(Encoder(), frames=2)
    assert not features.is_full
    features.get(keys(1))
    assert not features.is_full
    features.get(keys(2))
    assert features.is_full


def test_beside_a_gpu_main_memory_holds_what_the_device_cannot() -> None:
    # The meta device stands for a GPU: its tensors have a size but no place.
    encoder = Encoder()
    features = store(encoder, frames=1, device="meta", host=2)
    features.get(keys(1))
    features.get(keys(2))
    features.get(keys(3))
    assert features.nbytes == 3 * FRAME_BYTES
    features.get(keys(4))
    assert (SIGHT, 1) not in features
    assert features.nbytes == 3 * FRAME_BYTES


def unmovable(error: Exception) -> FeatureStore:
    """Return a store without room on the device. Its features cannot be copied to the host."""

    class Unmovable(FrameFeatures):
        def to_host(self) -> FrameFeatures:
            raise error

    def encode(keys: Sequence[FeatureKey]) -> list[FrameFeatures]:
        return [Unmovable(*(torch.zeros(4) for _ in range(3))) for _ in keys]

    return FeatureStore(encode, torch.device("meta"), 0, 10 * FRAME_BYTES)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: OS call failed or operation not supported on this OS"),
    ],
)
def test_a_frame_that_the_host_cannot_keep_is_dropped(error: Exception) -> None:
    features = unmovable(error)
    assert set(features.get(keys(1))) == set(keys(1))
    assert (SIGHT, 1) not in features and features.nbytes == 0


def test_too_little_gpu_memory_halves_the_batch_for_good() -> None:
    encoder = Encoder(limit=2)
    features = store(encoder, batch_size=8)
    features.get(keys(*range(8)))
    assert encoder.batches == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert features.batch_size == 2


def test_then_the_cache_goes_and_then_the_user_is_told() -> None:
    encoder = Encoder()
    features = store(encoder, batch_size=2)
    features.get(keys(1, 2))
    encoder.limit = 0
    with pytest.raises(SAM2PropagateError) as caught:
        features.get(keys(3))
    assert caught.value.code == "out_of_memory"
    assert caught.value.hint
    assert features.batch_size == 1
    assert features.nbytes == 0


def test_other_errors_pass() -> None:
    def broken(keys: Sequence[FeatureKey]) -> list[FrameFeatures]:
        raise RuntimeError("shape mismatch")

    features = FeatureStore(broken, torch.device("cpu"), 100)
    with pytest.raises(RuntimeError, match="shape"):
        features.get(keys(1))
