"""The interface of an engine for the server; `engine_adapter` implements it with the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts
from SAM2PropagateLib.run_options import RunRequest
from SAM2PropagateLib.texts import Words
from SAM2PropagateLib.worker.messages import LoadModel

Crop = str | tuple[float, float, float, float] | None
ReportProgress = Callable[[Words, int, int], None]


class Mask(Protocol):
    """An engine's result for a frame."""

    @property
    def segment(self) -> str:
        """The name of its segment."""

    @property
    def frame(self) -> int:
        """The frame, from 0."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(rows, columns) bool of native pixels."""

    @property
    def predicted_iou(self) -> float:
        """The model's own estimate, 0 to 1."""

    @property
    def object_score(self) -> float:
        """Whether the model finds the structure on the frame: above 0."""

    @property
    def doubt(self) -> float:
        """0 (sure) to 1."""

    @property
    def kind(self) -> str:
        """One of `frame_kinds.KINDS`."""

    @property
    def edge(self) -> Callable[[], NDArray[np.int8]] | None:
        """Compute the distances to the mask's edge; None: it has none."""

    @property
    def note(self) -> Words:
        """Words for the user on this mask; "" without any."""

    @property
    def withheld(self) -> Callable[[], NDArray[np.bool_]] | None:
        """Compute what was drawn on a frame without a mask, like `mask`; None: nothing."""


class ServedSession(Protocol):
    """One volume along one axis in an engine."""

    def preview(self, frame: int, prompts: FramePrompts, segment: str) -> Mask:
        """Return the mask of one frame from its prompts alone."""

    def expected_frames(self, run: RunRequest) -> int:
        """Return how many frames `propagate` will finish, as far as that is known."""

    def propagate(
        self, run: RunRequest, on_frame: Callable[[Mask], None], between: Callable[[float], None]
    ) -> Mapping[str, Any]:
        """Run, and return JSON-able figures of the run.

        Args:
            on_frame: called with each finished frame; for some also earlier, with a draft, or before the
                other axes have changed it.
            between: called between two steps with how many of the expected frames are done; it may raise
                `Cancelled`, and it may preview.
        """

    def set_frames(self, frames: FrameStack) -> None:
        """Use other frames of the same shape from now on (in another window).

        A segment that was carried keeps its window until a run `anew`.
        """

    def encode_ahead(self, order: Iterable[int], should_stop: Callable[[], bool]) -> int:
        """Encode frames in this order until `should_stop` returns True; return how many were encoded."""


class Engine(Protocol):
    """Loads a model and opens volumes."""

    def load_model(self, request: LoadModel, progress: ReportProgress) -> Mapping[str, Any]:
        """Load a model in place of the present one, and return {model, device, dtype, input_size}.

        `progress(text, done, total)` may raise `Cancelled`. Sessions of the former model are not used any
        more.
        """

    def open(self, frames: FrameStack, crop: Crop) -> ServedSession:
        """Return a session over a volume with the loaded model."""

    def release_memory(self) -> None:
        """Free as much main or GPU memory as possible, after an allocation has failed."""
