"""Decodes keyframes: from the prompts on a frame to a mask and a memory for later frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from SAM2PropagateLib.engine import crops, imaging
from SAM2PropagateLib.engine.doubt import Evidence, doubt_of
from SAM2PropagateLib.engine.family import (
    MASK_PROMPT_LOGIT,
    Decoded,
    EncodedFrame,
    FrameMemory,
    ModelSteps,
)
from SAM2PropagateLib.engine.features import FeatureStore
from SAM2PropagateLib.engine.fusion import Carried
from SAM2PropagateLib.engine.postprocess import native_mask, read_mask, shown_mask
from SAM2PropagateLib.engine.refine import Aim, ClickAt, aim_of, refined, toggled
from SAM2PropagateLib.engine.results import FrameMask
from SAM2PropagateLib.engine.strokes import (
    ROUNDS,
    corrections,
    first_clicks,
    is_followed,
    is_left,
    tightened,
    wrong_clicks,
)
from SAM2PropagateLib.engine.transfer import Readback, uploaded
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.mask_depth import innermost_point
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts
from SAM2PropagateLib.prompts.strokes import FrameStroke
from SAM2PropagateLib.texts import Words
from SAM2PropagateLib.texts import text as _


@dataclass
class Keyframe:
    """A decoded keyframe. What carrying needs of it is made when it is first carried, not for a preview.

    Attributes:
        decoded: a batch of one, on the device.
        mask: bool, (rows, columns) of the native frame.
        iou, object_score: as in `decoded`.
        memory, carried: of this frame, for the frames beside it; None until it is carried.
        edge, note: see `FrameMask`.
    """

    prompts: FramePrompts
    decoded: Decoded
    mask: np.ndarray
    iou: float
    object_score: float
    memory: FrameMemory | None = None
    carried: Carried | None = None
    edge: Callable[[], np.ndarray] | None = None
    note: Words = ""

    @property
    def fingerprint(self) -> str:
        """That of its prompts."""
        return self.prompts.fingerprint

    def as_mask(self, segment: str, frame: int, kind: str) -> FrameMask:
        """Return its mask as a `FrameMask`; a mask from the user has no doubt."""
        given = self.iou >= 1.0
        doubt = 0.0 if given else doubt_of(Evidence(self.iou, self.object_score))
        return FrameMask(
            segment, frame, self.mask, self.iou, self.object_score, doubt, kind, self.edge, self.note
        )


class KeyframeDecoder:
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

    def decoded(self, sight: crops.Sight, frame: int, prompts: FramePrompts) -> Keyframe:
        """Decode a keyframe from its prompts; an absent mark gives an empty mask.

        Raises:
            SAM2PropagateError: `out_of_memory`.
        """
        if prompts.absent or prompts.is_empty:
            empty = np.zeros(self._native_shape, bool)
            return Keyframe(prompts, _nothing(self._steps.device), empty, 1.0, -MASK_PROMPT_LOGIT)
        features, crop = self._features.get([(sight, frame)])[sight, frame], sight.crop
        return self._features.with_room(lambda: self._decode_prompts(features, crop, prompts))

    def memory(self, sight: crops.Sight, frame: int, keyframe: Keyframe) -> FrameMemory:
        """Return a keyframe's memory, and make it if there is none yet.

        Raises:
            SAM2PropagateError: `out_of_memory`.
        """
        if keyframe.memory is None:
            features = self._features.get([(sight, frame)])[sight, frame]
            keyframe.memory = self._features.with_room(
                lambda: self._steps.remember([features], keyframe.decoded, prompted=True)[0]
            )
        return keyframe.memory

    def _decode_prompts(self, features: EncodedFrame, crop: FrameCrop, prompts: FramePrompts) -> Keyframe:
        note: Words = ""
        found = None
        if prompts.has_shape:
            mask, note = self._shape(features, crop, prompts)
            mask = self._corrected(features, crop, prompts, mask)
        else:
            found, mask = self._found(features, crop, prompts)
        if not is_followed(prompts.strokes, mask):
            note = note or _("The mask does not follow the whole scribble. Add clicks, or paint by hand.")
        # A mask that does not come from the decoder has no doubt, and the model only remembers it.
        if found is None:
            decoded, edge = self._steps.decode_mask(features, self._seen(mask, crop)), None
            (figures,) = Readback([_figures(decoded)]).arrays()
        else:
            decoded, figures = found
            edge = partial(imaging.edge_steps, decoded.logits[0], crop)
        iou, score = figures.tolist()
        return Keyframe(prompts, decoded, mask, iou, score, edge=edge, note=note)

    # --- from scratch

    def _found(
        self, features: EncodedFrame, crop: FrameCrop, prompts: FramePrompts
    ) -> tuple[tuple[Decoded, np.ndarray] | None, np.ndarray]:
        """Return the model's answer to clicks, scribbles and a box with its figures, and the mask; None
        instead of the answer if negative scribbles have changed the mask.

        Negative scribbles are applied to the mask of the other prompts, as the model often loses the
        structure if it gets all of them together.
        """
        positive = [stroke for stroke in prompts.strokes if stroke.positive]
        negative = tuple(stroke for stroke in prompts.strokes if not stroke.positive)
        clicks = [*prompts.clicks, *first_clicks(positive)]
        decoded = self._decode_points(features, crop, prompts.box, clicks)
        mask, figures = self._read(decoded, crop)
        for _round in range(ROUNDS):
            missed = wrong_clicks(positive, mask, clicks)
            if not missed:
                break
            clicks += missed
            decoded = self._decode_points(features, crop, prompts.box, clicks)
            mask, figures = self._read(decoded, crop)
        carved = self._scribbled(features, crop, prompts.box, negative, mask, clicks)
        return ((decoded, figures) if carved is mask else None), carved

    # --- from a mask

    def _shape(
        self, features: EncodedFrame, crop: FrameCrop, prompts: FramePrompts
    ) -> tuple[np.ndarray, Words]:
        """Return the user's mask, with lassos tightened, and a note on lassos that could not be tightened."""
        mask: np.ndarray | None = prompts.mask
        note: Words = ""
        for drawn in prompts.outlines:
            click = (*innermost_point(drawn), True)
            start = self._as_logits(drawn, crop)
            found = read_mask(self._decode_points(features, crop, None, (click,), start).logits[0], crop)
            tight = tightened(drawn, found)
            if tight is None:
                tight = drawn
                note = _(
                    "The model sees a different edge than your lasso, which is kept as drawn. "
                    "Correct it with clicks or by hand."
                )
            mask = tight if mask is None else mask | tight
        assert mask is not None
        return mask, note

    def _corrected(
        self, features: EncodedFrame, crop: FrameCrop, prompts: FramePrompts, mask: np.ndarray
    ) -> np.ndarray:
        """Return a mask after clicks and scribbles, applied one after the other."""
        for count in range(1, len(prompts.clicks) + 1):
            said = prompts.clicks[:count]
            mask = self._clicked(features, crop, prompts.box, mask, said, aim_of(mask, said))
        return self._scribbled(features, crop, prompts.box, prompts.strokes, mask, prompts.clicks)

    def _scribbled(
        self,
        features: EncodedFrame,
        crop: FrameCrop,
        box: crops.PixelBox | None,
        strokes: Sequence[FrameStroke],
        mask: np.ndarray,
        clicks: Sequence[ClickAt],
    ) -> np.ndarray:
        """Return a mask after clicks at the points of scribbles that it gets wrong; it never becomes empty.

        Args:
            clicks: earlier clicks.
        """
        told, masks = list(clicks), [mask]
        positives = [click for click in clicks if click[2]]
        for click in corrections(strokes, lambda: masks[-1]):
            told.append(click)
            changed = self._clicked(features, crop, box, masks[-1], told)
            if click[2] or is_left(changed, masks[-1], positives):
                masks.append(changed)
        return masks[-1]

    def _clicked(
        self,
        features: EncodedFrame,
        crop: FrameCrop,
        box: crops.PixelBox | None,
        mask: np.ndarray,
        clicks: Sequence[ClickAt],
        aim: Aim | None = None,
    ) -> np.ndarray:
        """Return a mask after the last of these clicks.

        Args:
            aim: what the last click may change; None: it is a point of a scribble, which is judged as a
                whole.
        """
        x, y, _positive = click = clicks[-1]
        # A single negative click can make the model drop the whole mask, so points that stay are added.
        stays = [] if aim is None else [(*point, True) for point in aim.stays]
        start = self._as_logits(mask, crop)
        decoded = self._decode_points(features, crop, box, [*stays, *clicks], start)
        changed = refined(mask, read_mask(decoded.logits[0], crop), click, aim)
        if changed is not mask:
            return changed
        # Starting from the mask, the model did not change it, so ask for the thing at the click alone.
        alone = self._decode_points(features, crop, None, ((x, y, True),))
        return toggled(mask, read_mask(alone.logits[0], crop), click, aim)

    @staticmethod
    def _read(decoded: Decoded, crop: FrameCrop) -> tuple[np.ndarray, np.ndarray]:
        """Return the mask and the figures, and wait for the device only once."""
        shown, figures = Readback([shown_mask(decoded.logits[0], crop), _figures(decoded)]).arrays()
        return native_mask(shown, crop, decoded.logits.shape[-1]), figures

    def _decode_points(
        self,
        features: EncodedFrame,
        crop: FrameCrop,
        box: crops.PixelBox | None,
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
        # The prompt encoder's coordinates start at pixel centers, the crop's at pixel edges.
        where = uploaded(torch.tensor(crop.to_model(np.array(points)) - 0.5, dtype=torch.float32), device)
        what = uploaded(torch.tensor(labels, dtype=torch.int32), device)
        return self._steps.decode_prompts(features, where, what, start)

    def _as_logits(self, mask: np.ndarray, crop: FrameCrop) -> torch.Tensor:
        """Return a mask as logits for the decoder to start from, (1, 1, 4h, 4w)."""
        return torch.nn.functional.interpolate(
            (self._seen(mask, crop) * 2 - 1) * MASK_PROMPT_LOGIT,
            scale_factor=0.25,
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )

    def _seen(self, mask: np.ndarray, crop: FrameCrop) -> torch.Tensor:
        return imaging.mask_to_model(mask, crop, self._steps.device)


def _nothing(device: torch.device) -> Decoded:
    one = torch.ones(1, device=device)
    return Decoded(torch.zeros(1, 1, 1, device=device), one, -MASK_PROMPT_LOGIT * one, one[None])


def _figures(decoded: Decoded) -> torch.Tensor:
    return torch.cat([decoded.iou, decoded.object_score])
