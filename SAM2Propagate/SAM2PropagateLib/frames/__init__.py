"""The volume as frames: geometry, window and crop. It needs only NumPy."""

from SAM2PropagateLib.frames.checks import check_volume
from SAM2PropagateLib.frames.crop import FrameCrop
from SAM2PropagateLib.frames.geometry import AXIS_NAMES, VolumeGeometry, check_axis, ras_words
from SAM2PropagateLib.frames.stack import FrameStack, native_frame
from SAM2PropagateLib.frames.window import (
    PRESETS,
    FittedWindow,
    Window,
    finite_range,
    fit_window,
    looks_like_ct,
    percentile_window,
    window_for,
)

__all__ = [
    "AXIS_NAMES",
    "PRESETS",
    "FittedWindow",
    "FrameCrop",
    "FrameStack",
    "VolumeGeometry",
    "Window",
    "check_axis",
    "check_volume",
    "finite_range",
    "fit_window",
    "looks_like_ct",
    "native_frame",
    "percentile_window",
    "ras_words",
    "window_for",
]
