"""Turns exceptions in the worker into errors for the client; details go to the log."""

from __future__ import annotations

import logging

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.models.memory import is_out_of_memory
from SAM2PropagateLib.texts import text as _
from SAM2PropagateLib.worker.messages import DEVICE_LOST

_log = logging.getLogger(__name__)

_MEMORY_CODES = ("out_of_memory", "model_does_not_fit")
_DEVICE_SIGNS = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "device-side assert", "HIP error")


class DeviceLostError(SAM2PropagateError):
    """The GPU has failed so that only a new process can use it again."""

    def __init__(self) -> None:
        super().__init__(
            DEVICE_LOST,
            _("The GPU reported an error that ends this worker."),
            _(
                "Try again: the worker restarts. If it happens again, update the driver, or let the "
                "processor compute."
            ),
        )

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


def told(error: Exception) -> SAM2PropagateError:
    """Return the error for the client; log unexpected exceptions with their traceback.

    Codes, besides the error's own: `out_of_memory`, `device_lost`, `internal`.
    """
    if isinstance(error, SAM2PropagateError):
        _log.info("%s: %s", error.code, error)
        return error
    text = f"{type(error).__name__}: {error}"
    if is_out_of_memory(error):
        _log.info("%s", text, exc_info=error)
        return SAM2PropagateError(
            "out_of_memory",
            _("There is not enough memory for this."),
            _("Choose a smaller model, close other programs, or choose another device."),
        )
    # At this level it stays in the log, as the client gets the error event.
    _log.info("Unexpected: %s", text, exc_info=error)
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _DEVICE_SIGNS):
        return DeviceLostError()
    return SAM2PropagateError(
        "internal",
        _("An unexpected error occurred in the worker ({kind}).").format(kind=type(error).__name__),
        _("Try again; if it happens again, report it with the log."),
    )


def needs_memory(error: SAM2PropagateError) -> bool:
    """Tell whether main or GPU memory should be freed after this error."""
    return error.code in _MEMORY_CODES
