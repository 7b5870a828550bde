"""SAM 2's steps played by a threshold: a segment is what is as bright as the place that was prompted.

Exact and fast, so that the session's bookkeeping can be tested frame by frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from SAM2PropagateLib.engine.family import Decoded, Recall
from SAM2PropagateLib.engine.features import FeatureKey, FeatureStore
from SAM2PropagateLib.engine.session import EngineSession, SessionSettings
from SAM2PropagateLib.engine.steps import FrameFeatures, Memory
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window

SIZE = 64
GRID = SIZE // 4

Encode = Callable[[Sequence[FeatureKey]], list[FrameFeatures]]


class FakeSteps:
    """Has the interface of `ModelSteps`; counts what it is asked."""

    device = torch.device("cpu")
    input_size = SIZE
    slots = 7
    max_pointers = 16

    def __init__(self, *, runs_ahead: bool = False, iou: float = 0.8) -> None:
        self.runs_ahead = runs_ahead
        self._iou = iou
        self.tracked_batches: list[int] = []
        self.recalls: list[Recall] = []

    def encode(self, images: torch.Tensor) -> list[FrameFeatures]:
        brightness = F.interpolate(images[:, :1], size=(GRID, GRID), mode="area")
        return [FrameFeatures(one, one, one) for one in brightness]

    def decode_prompts(
        self,
        features: FrameFeatures,
        points: torch.Tensor,
        labels: torch.Tensor,
        mask_logits: torch.Tensor | None = None,
    ) -> Decoded:
        if (labels == 2).any():
            x, y = points[labels >= 2].mean(0)
        else:
            # As SAM 2 does with many clicks, it minds the last one most.
            x, y = points[-1]
        level = features.coarse[0, int((y + 0.5) // 4), int((x + 0.5) // 4)]
        decoded = self.decoded(features, level, 0.9)
        if mask_logits is None or labels[-1] != 0:
            return decoded
        return replace(decoded, logits=torch.where(decoded.logits > 0, -5.0, mask_logits[0]))

    def decode_mask(self, features: FrameFeatures, mask: torch.Tensor) -> Decoded:
        grid = F.interpolate(mask, size=(GRID, GRID), mode="area")[0, 0]
        inside = features.coarse[0][grid > 0.5]
        level = inside.median() if len(inside) else torch.tensor(float("nan"))
        score = torch.tensor([10.0 if len(inside) else -10.0])
        return Decoded(((grid - 0.5) * 20)[None], torch.ones(1), score, level[None, None])

    def track(self, features: Sequence[FrameFeatures], recalls: Sequence[Recall]) -> Decoded:
        assert len({recall.shape for recall in recalls}) == 1, "one batch, one shape"
        self.tracked_batches.append(len(features))
        self.recalls.extend(recalls)
        found = [
            self.decoded(f, r.spatial[0][1].pointer[0], self._iou)
            for f, r in zip(features, recalls, strict=True)
        ]
        return Decoded(
            torch.cat([one.logits for one in found]),
            torch.cat([one.iou for one in found]),
            torch.cat([one.object_score for one in found]),
            torch.cat([one.pointer for one in found]),
        )

    def settled(self, decoded: Decoded) -> Decoded:
        return decoded

    def remember(
        self, features: Sequence[FrameFeatures], decoded: Decoded, *, prompted: bool
    ) -> list[Memory]:
        return [Memory(pointer, pointer) for pointer in decoded.pointer]

    @staticmethod
    def decoded(features: FrameFeatures, level: torch.Tensor, iou: float) -> Decoded:
        near = (features.coarse[0] - level).abs() < 0.2
        logits = torch.where(near, 8.0, -8.0)
        score = torch.tensor([10.0 if bool((logits > 0).any()) else -10.0])
        return Decoded(logits[None], torch.tensor([iou]), score, torch.as_tensor(level)[None, None])


def blocks(frames: int = 20, size: int = SIZE) -> np.ndarray:
    """uint8 (frames, size, size): a bright block (200) and a gray one (120) on black, on the model's grid."""
    volume = np.zeros((frames, size, size), np.uint8)
    volume[:, 8:24, 8:24] = 200
    volume[:, 32:56, 32:48] = 120
    return volume


def frames_of(volume: np.ndarray, window: Window | None = None) -> FrameStack:
    """A volume along axis k, through a window."""
    count, rows, columns = volume.shape
    geometry = VolumeGeometry((columns, rows, count), np.eye(4))
    return FrameStack(volume, geometry, 2, window or Window(255, 127.5))


def session(
    volume: np.ndarray,
    *,
    steps: FakeSteps | None = None,
    auto: bool = False,
    batch_size: int = 1,
    motion_budget: int | None = None,
    store: Callable[[Encode], FeatureStore] | None = None,
) -> EngineSession:
    """A session of the fake model over a volume along axis k."""
    _, rows, columns = volume.shape
    crop = None if auto else FrameCrop((rows, columns), (1, 1), (-0.5, -0.5, columns - 0.5, rows - 0.5), SIZE)
    return EngineSession(
        steps or FakeSteps(),  # type: ignore[arg-type]
        frames_of(volume),
        crop,
        store or (lambda encode: FeatureStore(encode, torch.device("cpu"), 1 << 30, batch_size=batch_size)),
        SessionSettings(max_batch=8, motion_budget=motion_budget),
    )
