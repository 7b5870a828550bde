"""Adapts the real engine to the server's `Engine`. It imports torch and sam2 when a model is loaded."""

from __future__ import annotations

import dataclasses
import gc
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.models.store import ModelStore
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts
from SAM2PropagateLib.run_options import RunRequest
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker.engine_port import Crop, Mask, ReportProgress, ServedSession
from SAM2PropagateLib.worker.messages import LoadModel

if TYPE_CHECKING:
    from SAM2PropagateLib.engine.axes import AxesSession
    from SAM2PropagateLib.engine.engine import PropagationEngine
    from SAM2PropagateLib.engine.family import LoadsModel

_log = logging.getLogger(__name__)


class ServedEngine:
    """The real engine as an `engine_port.Engine`.

    Args:
        store: has the models; None: those of this computer.
        families: how each family of models is loaded; None: those of `engine.families`.
    """

    def __init__(
        self, store: ModelStore | None = None, families: Mapping[str, LoadsModel] | None = None
    ) -> None:
        self._store = store
        self._families = families
        self._engine: PropagationEngine | None = None

    def load_model(self, request: LoadModel, progress: ReportProgress) -> Mapping[str, Any]:
        """See `Engine`."""
        # Before loading, to free the former model's main or GPU memory.
        self._engine = None
        self.release_memory()
        # PyTorch takes seconds to start. A wrong name is reported before that.
        progress(_("Checking the model's file"), 0, 3)
        path, entry = (self._store or ModelStore()).resolve(request.path or request.name)
        config = request.config if request.config is not None or entry is None else entry.config
        progress(_("Starting PyTorch"), 1, 3)
        try:
            from SAM2PropagateLib.engine.engine import PropagationEngine
            from SAM2PropagateLib.engine.families import FAMILIES, load_model
        except ImportError as error:
            raise _not_installed(error) from error
        progress(_("Loading the model"), 2, 3)
        loaded = load_model(
            path,
            None if entry is None else entry.family,
            config=config,
            device=request.device,
            input_size=request.input_size,
            precision=request.precision,
            name=None if entry is None else entry.name,
            families=FAMILIES if self._families is None else self._families,
        )
        megabytes = None if request.cache_megabytes is None else int(request.cache_megabytes)
        self._engine = PropagationEngine(loaded, cache_megabytes=megabytes, motion=request.motion)
        progress(_("The model is loaded"), 3, 3)
        return loaded.description

    def open(self, frames: FrameStack, crop: Crop) -> ServedSession:
        """See `Engine`."""
        if self._engine is None:
            raise SAM2PropagateError("no_model", _("No model is loaded."), _("Load a model first."))
        from SAM2PropagateLib.frames.crop import FrameCrop

        seen: FrameCrop | str | None = "auto" if crop == "auto" else None
        if isinstance(crop, tuple):
            geometry, axis = frames.geometry, frames.axis
            shape, spacing = geometry.frame_shape(axis), geometry.frame_spacing(axis)
            seen = FrameCrop.around(crop, shape, spacing, self._engine.steps.input_size, context=1.0)
        return _AdaptedSession(self._engine.open_axes(frames, seen))

    def release_memory(self) -> None:
        """See `Engine`."""
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is None:
            return
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()


class _AdaptedSession:
    """An engine's session as an `engine_port.ServedSession`."""

    def __init__(self, session: AxesSession) -> None:
        self._session = session

    def preview(self, frame: int, prompts: FramePrompts, segment: str) -> Mask:
        return self._session.preview(frame, prompts, segment=segment)

    def expected_frames(self, run: RunRequest) -> int:
        return self._session.expected_frames(run)

    def propagate(
        self, run: RunRequest, on_frame: Callable[[Mask], None], between: Callable[[float], None]
    ) -> Mapping[str, Any]:
        summary = self._session.propagate(run, on_frame, between)
        return dataclasses.asdict(summary)

    def set_frames(self, frames: FrameStack) -> None:
        self._session.set_frames(frames)

    def encode_ahead(self, order: Iterable[int], should_stop: Callable[[], bool]) -> int:
        return self._session.encode_ahead(order, should_stop)


def _not_installed(error: ImportError) -> SAM2PropagateError:
    missing = error.name or str(error)
    return SAM2PropagateError(
        "not_installed",
        _("The Python package “{missing}” that the worker needs cannot be imported.").format(missing=missing),
        _("Install what SAM2 Propagate needs, then try again."),
    )
