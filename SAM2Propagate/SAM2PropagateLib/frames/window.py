"""Window and level: the conversion of a volume's values to the 8 bits that the model sees.

A whole volume has one window, so that the same tissue has the same gray on all frames, which propagation
needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames.ct_values import hounsfield_offset
from SAM2PropagateLib.texts import Words
from SAM2PropagateLib.texts import text as _

# Width and level in Hounsfield units: those in common use (Radiopaedia, "Windowing (CT)"); the liver's level
# is for scans with contrast agent.
PRESETS = MappingProxyType(
    {
        "soft-tissue": (400.0, 40.0),
        "lung": (1500.0, -600.0),
        "bone": (1800.0, 400.0),
        "brain": (80.0, 40.0),
        "liver": (150.0, 80.0),
    }
)

# The number of values for a percentile; 0.5 % of them are a stable thousand.
_SAMPLE_SIZE = 400_000
# Values converted at a time, so that a whole volume never exists as floats.
_BLOCK = 1 << 20
# A smallest value this frequent is padding or cut-away background, not tissue.
_PADDING_SHARE = 0.05
# A volume marked as CT is not in Hounsfield units if nearly nothing is in the soft-tissue window, or
# everything is in a small part of it.
_LEAST_IN_WINDOW = 0.02
_LEAST_RANGE = 50.0
_SOFT_TISSUE = "soft-tissue"


@dataclass(frozen=True)
class Window:
    """A display window: `low` and below is black (0), `high` and above is white (255).

    Args:
        width: values from black to white, above 0.
        level: the value in the middle.

    Raises:
        InputError: `bad_window` when the width is not above zero or a number is not finite.
    """

    width: float
    level: float

    def __post_init__(self) -> None:
        try:
            width, level = float(self.width), float(self.level)
        except (TypeError, ValueError, OverflowError):
            width = level = math.nan
        if not (math.isfinite(width) and math.isfinite(level)):
            raise InputError(
                "bad_window",
                _("The window {width}, level {level} is not a pair of finite numbers.").format(
                    width=repr(self.width), level=repr(self.level)
                ),
                _("Give a width and a level, for example 400 40."),
            )
        if width <= 0:
            raise InputError(
                "bad_window",
                _("A window width of {width:g} cannot be used.").format(width=width),
                _("Give a width above 0, for example 400."),
            )
        if not (math.isfinite(level - width / 2) and math.isfinite(level + width / 2)):
            raise InputError(
                "bad_window",
                _("The window {width:g}, level {level:g} is too large.").format(width=width, level=level),
                _("Give smaller numbers."),
            )
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "level", level)

    @property
    def low(self) -> float:
        """The value that becomes 0."""
        return self.level - self.width / 2

    @property
    def high(self) -> float:
        """The value that becomes 255."""
        return self.level + self.width / 2

    def apply(self, array: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Return the values as 8 bit.

        Args:
            array: any shape, bool, any integer or any real floating dtype.

        Returns:
            uint8 of the same shape, C order; linear between `low` and `high`, rounded to nearest; NaN is 0,
            -Inf is 0, +Inf is 255. The same value gives the same gray whatever its dtype.

        Raises:
            InputError: `bad_dtype` for complex numbers and everything that is not a number.
        """
        values = np.asarray(array)
        check_dtype(values.dtype)
        gray = np.empty(values.shape, dtype=np.uint8)
        if values.ndim > 2 and values.size > _BLOCK:
            for index in range(values.shape[0]):
                gray[index] = self.apply(values[index])
            return gray
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            scaled = values.astype(np.float64)
            scaled -= self.level
            scaled /= self.width
            scaled += 0.5
            np.clip(scaled, 0.0, 1.0, out=scaled)
        scaled *= 255.0
        if values.dtype.kind == "f":
            scaled[np.isnan(scaled)] = 0.0
        np.rint(scaled, out=scaled)
        gray[...] = scaled
        return gray

    @staticmethod
    def preset(name: str) -> Window:
        """Return the CT window of this name (`PRESETS`); case, spaces and underscores do not matter.

        Raises:
            InputError: `unknown_preset`, listing the presets.
        """
        key = "-".join(str(name).strip().lower().replace("_", " ").replace("-", " ").split())
        if key not in PRESETS:
            raise InputError(
                "unknown_preset",
                _("There is no window preset “{name}”.").format(name=name),
                _("Choose one of {names}, or give a width and a level.").format(names=", ".join(PRESETS)),
            )
        return Window(*PRESETS[key])


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Raise InputError `bad_dtype` unless the dtype is bool, integer or real floating."""
    if dtype.kind not in "biuf":
        raise InputError(
            "bad_dtype",
            _("Voxels of the type {dtype} cannot be shown as gray values.").format(dtype=dtype),
            _("Choose a scalar volume of whole or real numbers."),
        )


def percentile_window(array: npt.ArrayLike, low: float = 0.5, high: float = 99.5) -> Window:
    """Return a window between two percentiles of the volume, as suits MR.

    About 400 000 values spread evenly over the volume are used (always the same ones), without NaN and Inf,
    and without the smallest value if more than 5 % have it, as padding around a masked or resampled image. If
    the percentiles coincide, the smallest and largest value replace them; a constant volume gets a window of
    width 1 around its value.

    Args:
        array: any shape and real dtype.
        low, high: percentiles, 0 <= low < high <= 100.

    Raises:
        InputError: `bad_percentiles`, `bad_dtype`, `empty`, `all_nan`.
    """
    if not 0 <= low < high <= 100:
        raise InputError(
            "bad_percentiles",
            _("The percentiles {low} and {high} cannot make a window.").format(
                low=repr(low), high=repr(high)
            ),
            _("Give two different numbers from 0 to 100, the lower one first."),
        )
    values = np.asarray(array)
    sample = _finite_sample(values)
    smallest = sample.min()
    inside = sample[sample > smallest]
    if inside.size and sample.size - inside.size > _PADDING_SHARE * sample.size:
        sample = inside
    bottom, top = (float(value) for value in np.percentile(sample, (low, high), method="nearest"))
    if not top > bottom:
        bottom, top = finite_range(values)
    if not top > bottom:
        return Window(1.0, bottom)
    # Halves first, as the difference of two huge numbers may be infinite.
    level = bottom / 2 + top / 2
    width = min(top / 2 - bottom / 2, np.finfo(np.float64).max / 8) * 2
    return Window(max(width, np.finfo(np.float64).tiny), level)


@dataclass(frozen=True)
class FittedWindow:
    """A window that was chosen for a volume.

    Attributes:
        window: the window.
        source: "preset soft-tissue", "percentiles", or a word of the caller.
        reason: the window and the reason for it, in a few words for the user.
    """

    window: Window
    source: str
    reason: Words


def looks_like_ct(array: npt.ArrayLike) -> bool:
    """Tell whether the values look like Hounsfield units; see `frames.ct_values`."""
    return hounsfield_offset(_finite_sample(np.asarray(array))) == 0.0


def window_for(array: npt.ArrayLike, modality: str = "") -> Window:
    """Return the window of `fit_window`."""
    return fit_window(array, modality).window


def fit_window(array: npt.ArrayLike, modality: str = "") -> FittedWindow:
    """Return a window for a volume that comes without one.

    Args:
        array: any shape and real dtype.
        modality: as in DICOM, `CT`, `MR`, ...; "" when unknown: CT is then recognized by its values.

    Returns:
        The soft-tissue preset for CT, moved by 1024 where CT is stored without a sign; otherwise the
        percentile window.

    Raises:
        InputError: as `percentile_window`.
    """
    name = modality.strip().upper()
    if name not in ("", "CT"):
        return _percentiles(array, _("the image is marked as {modality}").format(modality=name))
    sample = _finite_sample(np.asarray(array))
    offset = hounsfield_offset(sample, name == "CT")
    if offset:
        preset = Window.preset(_SOFT_TISSUE)
        return FittedWindow(
            Window(preset.width, preset.level + offset),
            f"preset {_SOFT_TISSUE}",
            _("soft tissue, because the values look like CT stored with {offset:g} added").format(
                offset=offset
            ),
        )
    if name == "CT":
        if not _fits_soft_tissue(sample):
            return _percentiles(
                array, _("the image is marked as CT, but its values are not Hounsfield units")
            )
        reason = _("soft tissue, because the image is marked as CT")
    elif offset is None:
        return _percentiles(array, _("the values do not look like CT with air"))
    else:
        reason = _("soft tissue, because the values look like CT")
    return FittedWindow(Window.preset(_SOFT_TISSUE), f"preset {_SOFT_TISSUE}", reason)


def hounsfield_shift(array: npt.ArrayLike, modality: str = "") -> float | None:
    """Return the offset that was added to the Hounsfield units of a CT, usually 0; None if `fit_window` does
    not take it for CT.

    Args, raises: as `fit_window`.
    """
    fitted = fit_window(array, modality)
    is_ct = fitted.source == f"preset {_SOFT_TISSUE}"
    return fitted.window.level - PRESETS[_SOFT_TISSUE][1] if is_ct else None


def _percentiles(array: npt.ArrayLike, because: Words) -> FittedWindow:
    return FittedWindow(
        percentile_window(array),
        "percentiles",
        _("0.5th to 99.5th percentile, because {because}").format(because=because),
    )


def _fits_soft_tissue(sample: npt.NDArray[np.float64]) -> bool:
    """Tell whether the soft-tissue window shows anything of a volume that is marked as CT."""
    window = Window.preset(_SOFT_TISSUE)
    inside = sample[(sample > window.low) & (sample < window.high)]
    low, high = np.percentile(sample, (0.5, 99.5))
    return inside.size >= _LEAST_IN_WINDOW * sample.size and bool(high - low >= _LEAST_RANGE)


def finite_range(array: npt.ArrayLike) -> tuple[float, float]:
    """Return the smallest and the largest finite value, without a float copy.

    Raises:
        InputError: `bad_dtype`, `empty`, `all_nan`.
    """
    values = np.asarray(array)
    _check_values(values)
    smallest, largest = math.inf, -math.inf
    for block in blocks(values):
        finite = block[np.isfinite(block)] if values.dtype.kind == "f" else block
        if finite.size:
            smallest, largest = min(smallest, float(finite.min())), max(largest, float(finite.max()))
    if smallest > largest:
        raise _all_nan()
    return smallest, largest


def blocks(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the array in pieces along its first dimension, to save main memory."""
    if values.ndim < 2 or values.size <= _BLOCK:
        yield values
        return
    rows = max(1, _BLOCK * values.shape[0] // values.size)
    for start in range(0, values.shape[0], rows):
        yield values[start : start + rows]


def _finite_sample(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return about `_SAMPLE_SIZE` finite values, at least one, spread over the array; (n,) float64."""
    _check_values(values)
    stride = _stride(values.shape)
    sample = values[tuple(slice(None, None, stride) for _ in values.shape)].astype(np.float64).reshape(-1)
    sample = sample[np.isfinite(sample)]
    if sample.size * 10 < min(_SAMPLE_SIZE, values.size):
        # The even grid had almost only NaN and Inf: use every value, a block at a time.
        kept = []
        for block in blocks(values):
            finite = block[np.isfinite(block)]
            kept.append(finite[:: max(1, values.size // _SAMPLE_SIZE)].astype(np.float64))
        everywhere = np.concatenate(kept)
        sample = everywhere if everywhere.size > sample.size else sample
    if not sample.size:
        raise _all_nan()
    return sample


def _stride(shape: tuple[int, ...]) -> int:
    stride = 1
    while math.prod(math.ceil(size / stride) for size in shape) > _SAMPLE_SIZE:
        stride += 1
    return stride


def _check_values(values: npt.NDArray[Any]) -> None:
    check_dtype(values.dtype)
    if not values.size:
        raise InputError("empty", _("The volume has no voxels."), _("Choose a volume with image data."))


def _all_nan() -> InputError:
    return InputError(
        "all_nan",
        _("The volume holds no finite value, only NaN or infinity."),
        _("Choose another volume, or check how it was computed."),
    )
