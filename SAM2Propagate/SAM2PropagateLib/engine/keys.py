"""Keyframes: what the user said on a frame, decoded to a mask and to what later frames remember of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from SAM2PropagateLib.engine import imaging, looking
from SAM2PropagateLib.engine.doubt import Evidence, doubt_of
from SAM2PropagateLib.engine.features import FeatureStore
from SAM2PropagateLib.engine.memory_limits import with_room
from SAM2PropagateLib.engine.postprocess import native_mask, shown_mask
from SAM2PropagateLib.engine.refine import refined, toggled
from SAM2PropagateLib.engine.results import FrameMask
from SAM2PropagateLib.engine.steps import MASK_PROMPT_LOGIT, Decoded, FrameFeatures, Memory, ModelSteps
from SAM2PropagateLib.engine.transfer import Readback, uploaded
from SAM2PropagateLib.frames.view import FrameView
from SAM2PropagateLib.prompts.resolve import FramePrompts

_Result = TypeVar("_Result")


@dataclass
class Key:
    """A decoded keyframe; its memory is made when it is carried, not for a preview.

    Attributes:
        decoded: a batch of one, on the device.
        mask: bool, (rows, columns) of the native frame.
        iou, object_score: as in `decoded`.
        edge: see `FrameMask`.
    """

    prompts: FramePrompts
    decoded: Decoded
    mask: np.ndarray
    iou: float
    object_score: float
    memory: Memory | None = None
    edge: Callable[[], np.ndarray] | None = None

    @property
    def fingerprint(self) -> str:
        return self.prompts.fingerprint

    def as_mask(self, segment: str, frame: int, kind: str) -> FrameMask:
        """Its mask as a result of a segment's frame; a mask that the user gave is beyond doubt."""
        given = self.iou >= 1.0
        doubt = 0.0 if given else doubt_of(Evidence(self.iou, self.object_score))
        return FrameMask(segment, frame, self.mask, self.iou, self.object_score, doubt, kind, self.edge)


class KeyDecoder:
    """Decodes keyframes.

    Args:
        steps: the model.
        features: of the frames.
        native_shape: (rows, columns) of a frame.
    """

    def __init__(self, steps: ModelSteps, features: FeatureStore, native_shape: tuple[int, int]) -> None:
        self._steps = steps
        self._features = features
        self._native_shape = native_shape

    def decoded(self, sight: looking.Sight, frame: int, prompts: FramePrompts) -> Key:
        """A keyframe from its prompts, as the model sees the frame; absent ones are empty.

        Raises:
            SAM2PropagateError: `out_of_memory`.
        """
        if prompts.absent or not (prompts.clicks or prompts.box or prompts.mask is not None):
            empty = np.zeros(self._native_shape, bool)
            return Key(prompts, _nothing(self._steps.device), empty, 1.0, -MASK_PROMPT_LOGIT)
        features, view = self._features.get([(sight, frame)])[sight, frame], sight.view
        return self._with_room(lambda: self._decode_prompts(features, view, prompts))

    def memory(self, sight: looking.Sight, frame: int, key: Key) -> Memory:
        """What later frames remember of a keyframe; made once.

        Raises:
            SAM2PropagateError: `out_of_memory`.
        """
        if key.memory is None:
            features = self._features.get([(sight, frame)])[sight, frame]
            key.memory = self._with_room(
                lambda: self._steps.remember([features], key.decoded, prompted=True)[0]
            )
        return key.memory

    def _decode_prompts(self, features: FrameFeatures, view: FrameView, prompts: FramePrompts) -> Key:
        edge = None
        if prompts.mask is None:
            decoded = self._decode_points(features, view, prompts.box, prompts.clicks)
            shown, figures = Readback([shown_mask(decoded.logits[0], view), _figures(decoded)]).arrays()
            mask = native_mask(shown, view, decoded.logits.shape[-1])
            edge = partial(imaging.edge_steps, decoded.logits[0], view)
        else:
            mask = self._corrected(features, view, prompts)
            decoded = self._steps.decode_mask(features, self._seen(mask, view))
            (figures,) = Readback([_figures(decoded)]).arrays()
        iou, score = figures.tolist()
        return Key(prompts, decoded, mask, iou, score, edge=edge)

    def _corrected(self, features: FrameFeatures, view: FrameView, prompts: FramePrompts) -> np.ndarray:
        """The prompts' mask after its clicks, if any, each taken on what those before it made of it."""
        assert prompts.mask is not None
        mask = prompts.mask
        for count, click in enumerate(prompts.clicks, 1):
            start = self._as_logits(mask, view)
            decoded = self._decode_points(features, view, prompts.box, prompts.clicks[:count], start)
            changed = refined(mask, self._mask_of(decoded, view), click)
            if changed is mask:
                # Starting from the mask, the model stays with it: ask what lies at the click by itself.
                x, y, _ = click
                alone = self._decode_points(features, view, None, ((x, y, True),))
                changed = toggled(mask, self._mask_of(alone, view), click)
            mask = changed
        return mask

    @staticmethod
    def _mask_of(decoded: Decoded, view: FrameView) -> np.ndarray:
        (shown,) = Readback([shown_mask(decoded.logits[0], view)]).arrays()
        return native_mask(shown, view, decoded.logits.shape[-1])

    def _decode_points(
        self,
        features: FrameFeatures,
        view: FrameView,
        box: looking.PixelBox | None,
        clicks: Sequence[tuple[float, float, bool]],
        start: torch.Tensor | None = None,
    ) -> Decoded:
        points: list[tuple[float, float]] = []
        labels: list[int] = []
        if box is not None:
            points += [box[:2], box[2:]]
            labels += [2, 3]
        points += [(x, y) for x, y, _ in clicks]
        labels += [int(positive) for _, _, positive in clicks]
        device = self._steps.device
        # The prompt encoder counts from pixel centres, the view from pixel edges.
        where = uploaded(torch.tensor(view.to_model(np.array(points)) - 0.5, dtype=torch.float32), device)
        what = uploaded(torch.tensor(labels, dtype=torch.int32), device)
        return self._steps.decode_prompts(features, where, what, start)

    def _as_logits(self, mask: np.ndarray, view: FrameView) -> torch.Tensor:
        """(1, 1, 4h, 4w): a mask as the decoder takes one to start from."""
        return torch.nn.functional.interpolate(
            (self._seen(mask, view) * 2 - 1) * MASK_PROMPT_LOGIT,
            scale_factor=0.25,
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )

    def _seen(self, mask: np.ndarray, view: FrameView) -> torch.Tensor:
        return imaging.mask_to_model(mask, view, self._steps.device)

    def _with_room(self, work: Callable[[], _Result]) -> _Result:
        return with_room(work, self._features.offload, self._steps.device)


def _nothing(device: torch.device) -> Decoded:
    one = torch.ones(1, device=device)
    return Decoded(torch.zeros(1, 1, 1, device=device), one, -MASK_PROMPT_LOGIT * one, one[None])


def _figures(decoded: Decoded) -> torch.Tensor:
    return torch.cat([decoded.iou, decoded.object_score])
