"""The engine: it has a loaded model, and opens sessions over volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from SAM2PropagateLib.engine import crops
from SAM2PropagateLib.engine.axes import AxesSession
from SAM2PropagateLib.engine.family import EncodedFrame, LoadedModel
from SAM2PropagateLib.engine.features import FeatureKey, FeatureStore
from SAM2PropagateLib.engine.memory_limits import feature_budgets, motion_budget
from SAM2PropagateLib.engine.session import PATIENCE, EngineSession, SessionSettings
from SAM2PropagateLib.engine.side_by_side import SideBySide, frames_at_once
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.models.memory import available_host_memory

_Encode = Callable[[Sequence[FeatureKey]], Sequence[EncodedFrame]]


class PropagationEngine:
    """A model over the frames of volumes.

    Args:
        loaded: the model; the engine takes it over and may change its precision in place.
        cache_megabytes: encoder features kept on the device per session; None: by what is free there.
        batch_size: frames encoded at once; None: 8, on a CPU see `frames_at_once`.
        patience: frames without a trace of a segment after which it counts as ended; None: never.
        motion: carry masks along the image's motion, too; else by the model alone, as SAM 2 does.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        cache_megabytes: int | None = None,
        batch_size: int | None = None,
        patience: int | None = PATIENCE,
        motion: bool = True,
    ) -> None:
        self.steps = loaded.make_steps(loaded)
        self._style = crops.style_of(loaded.metadata)
        self._cache_megabytes = cache_megabytes
        self._patience = patience
        self._motion_budget = motion_budget() if motion else None
        on_cpu = self.steps.device.type == "cpu"
        if batch_size is None:
            batch_size = self._frames_at_once() if on_cpu else 8
        self._batch_size = batch_size
        self._side_by_side = SideBySide(batch_size) if on_cpu and batch_size > 1 else None
        self._max_batch = 8 if on_cpu else 32

    def open(self, frames: FrameStack, crop: FrameCrop | str | None = None) -> EngineSession:
        """Return a session over a volume along one axis.

        Args:
            crop: the part of a frame that the model sees; None: the whole frame; "auto": the prompted
                structures with room around them, chosen by the first prompts.
        """
        budget, host_budget = feature_budgets(self.steps.device, self._cache_megabytes)
        fixed: FrameCrop | None
        if crop == "auto":
            fixed = None
        elif isinstance(crop, FrameCrop):
            fixed = crop
        else:
            fixed = crops.whole_crop(frames, self.steps.input_size, self._style)
        return EngineSession(
            self.steps,
            frames,
            fixed,
            lambda encode: FeatureStore(
                self._apart(encode), self.steps.device, budget, host_budget, self._batch_size
            ),
            SessionSettings(self._max_batch, self._style, self._patience, self._motion_budget),
        )

    def _frames_at_once(self) -> int:
        return frames_at_once(
            torch.get_num_threads(),
            self.steps.input_size,
            available_host_memory(),
            torch.__config__.parallel_info(),
        )

    def _apart(self, encode: _Encode) -> _Encode:
        """Return a function that encodes the frames of a batch side by side where that is faster."""
        pool = self._side_by_side
        if pool is None:
            return encode

        def encoded(keys: Sequence[FeatureKey]) -> Sequence[EncodedFrame]:
            if len(keys) == 1:
                return encode(keys)
            return [one for (one,) in pool.done(lambda key: encode([key]), keys)]

        return encoded

    def open_axes(self, frames: FrameStack, crop: FrameCrop | str | None = None) -> AxesSession:
        """Return a session over a volume that runs along its axis, or along all three.

        Args:
            crop: as for `open`; a part of the first axis's frames means "auto" on the others.
        """
        elsewhere = "auto" if isinstance(crop, FrameCrop) else crop
        return AxesSession(
            frames, lambda stack: self.open(stack, crop if stack.axis == frames.axis else elsewhere)
        )

    @property
    def device(self) -> torch.device:
        return self.steps.device
