"""The interface between the engine and a family of models; `steps` has SAM 2's, `families` lists all.

A family can be any model that encodes frames one by one, answers prompts with mask logits, and finds a mask
on a frame from its memories of others. Its features and memories have types of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from SAM2PropagateLib.engine.device import INT8

# The logits of a mask prompt's pixels (sam2's own choice).
MASK_PROMPT_LOGIT = 10.0

# The logit of each pixel if the object is not in the frame (sam2's own choice).
NO_OBJECT_LOGIT = -1024.0


class EncodedFrame(Protocol):
    """A family's features of one frame, for prompts and memories; `features.FeatureStore` keeps them."""

    @property
    def nbytes(self) -> int:
        """The size in bytes."""

    @property
    def maps(self) -> Sequence[torch.Tensor]:
        """Its finer maps, (channels, side, side) each, which tell pixels apart; see `appearance`. May be
        empty."""

    def to(self, device: torch.device | str) -> Any:
        """Return the same on a device."""

    def to_host(self) -> Any:
        """Return a copy in main memory."""


class FrameMemory(Protocol):
    """A family's memory of one frame, for later frames."""

    def rest(self) -> None:
        """Free what can be made again when needed."""


@dataclass(frozen=True)
class Decoded:
    """A model's answers for a batch of frames; they stay on the device.

    Attributes:
        logits: float32 (n, side, side), mask logits; side is a quarter of the model's input size.
        iou: float32 (n,), predicted IoU in [0, 1].
        object_score: float32 (n,), logits that the object is in the frame; above 0 means yes.
        pointer: (n, channels), what a memory keeps of an answer besides its mask.
    """

    logits: torch.Tensor
    iou: torch.Tensor
    object_score: torch.Tensor
    pointer: torch.Tensor


@dataclass(frozen=True)
class Recall:
    """The memories that one frame is tracked from.

    Attributes:
        spatial: pairs (slot, memory); slot 0 is a keyframe, slot n the n-th last frame (1 = the newest).
        pointers: pairs (distance in frames, memory), keyframes first.
        span: the distance that counts as 1 in the pointers' time code.
    """

    spatial: tuple[tuple[int, Any], ...]
    pointers: tuple[tuple[int, Any], ...]
    span: int

    @property
    def shape(self) -> tuple[int, int]:
        """Entries with the same shape can share a batch."""
        return len(self.spatial), len(self.pointers)


class ModelSteps(Protocol):
    """The steps of a loaded model, each on a batch of unrelated frames.

    `features` are `EncodedFrame`s and memories `FrameMemory`s of the family's own types.

    Attributes:
        device: of all tensors.
        input_size: side of the model's square input in pixels, a multiple of 4.
        runs_ahead: whether the device computes while the host does other things.
        slots: the most memories that a frame is tracked from, with the keyframe's; at least 1.
        max_pointers: the most frames whose pointers a frame is tracked from; at least 1.
    """

    @property
    def device(self) -> torch.device: ...
    @property
    def input_size(self) -> int: ...
    @property
    def runs_ahead(self) -> bool: ...
    @property
    def slots(self) -> int: ...
    @property
    def max_pointers(self) -> int: ...

    def encode(self, images: torch.Tensor) -> Sequence[Any]:
        """Return the features of frames, one `EncodedFrame` each.

        On a CPU it is called for single frames, from several threads at once.

        Args:
            images: float32 (frames, 3, size, size), normalized with ImageNet's mean and deviation.
        """

    def decode_prompts(
        self,
        features: Any,
        points: torch.Tensor | None,
        labels: torch.Tensor | None,
        mask_logits: torch.Tensor | None = None,
    ) -> Decoded:
        """Return the mask of one frame from its prompts alone, as a batch of one.

        Args:
            points: float32 (n, 2), x and y in model pixels with the center of the first pixel at 0, or None.
            labels: int32 (n,): 1 positive, 0 negative, 2 and 3 the corners of a box.
            mask_logits: float32 (1, 1, side, side), the mask to refine, or None.
        """

    def decode_mask(self, features: Any, mask: torch.Tensor) -> Decoded:
        """Return a mask prompt, unchanged, as an answer of the model (a batch of one).

        Args:
            mask: float32 (1, 1, size, size) in [0, 1].
        """

    def track(self, features: Sequence[Any], recalls: Sequence[Recall]) -> Decoded:
        """Return the answers for a batch of frames, each from its memories; all recalls have the same
        shape."""

    def settled(self, decoded: Decoded) -> Decoded:
        """Return the answers without masks for those that are absent by their object score."""

    def remember(self, features: Sequence[Any], decoded: Decoded, *, prompted: bool) -> Sequence[Any]:
        """Return a `FrameMemory` of each frame's answer.

        Args:
            prompted: whether the masks come from the user's prompts.
        """


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be driven.

    Attributes:
        model: of the family's own type; for SAM 2 a `SAM2Base` in eval mode on `device`, with float32
            parameters that need no gradient.
        device: of the model.
        dtype: the type to compute in (autocast or conversion is the engine's choice).
        input_size: side of the square image that it takes, in pixels.
        name: for the user and for reports.
        make_steps: makes its steps, which take it over and may change its precision in place.
        metadata: of the weights file.
        int8: whether the image encoder computes on 8-bit integers if `dtype` is float32.
    """

    model: Any
    device: torch.device
    dtype: torch.dtype
    input_size: int
    name: str
    make_steps: Callable[[LoadedModel], ModelSteps]
    metadata: Mapping[str, str] = field(default_factory=dict)
    int8: bool = False

    @property
    def precision(self) -> str:
        """The precision's name: bfloat16, float16, float32 or int8; see `compute_dtype` and `uses_int8`."""
        return INT8 if self.int8 else str(self.dtype).removeprefix("torch.")

    @property
    def description(self) -> dict[str, Any]:
        """What reports say of it, as JSON-able values: model, device, dtype, input_size."""
        return {
            "model": self.name,
            "device": str(self.device),
            "dtype": self.precision,
            "input_size": self.input_size,
        }


class LoadsModel(Protocol):
    """A family, as a function that loads a model of it; arguments as of `build.load_model`."""

    def __call__(
        self,
        path: Path,
        *,
        config: Any,
        device: str,
        input_size: int | None,
        precision: str,
        name: str | None,
    ) -> LoadedModel: ...
