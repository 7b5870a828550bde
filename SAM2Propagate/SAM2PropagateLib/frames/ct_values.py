"""Recognizes CT by its values: a peak of air near -1000 HU, little between lung and tissue, tissue around 0.

Other images have low values, too: MR subtraction, phase and velocity images, normalized MR. But they have no
peak at air, or values far below it, or tissue with a much wider range than CT, or most of their values around
0, where the tissue of CT has no peak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

# Scanners and programs that store CT without a sign add this to Hounsfield units.
STORED_OFFSET = 1024.0

# In Hounsfield units. Noise and artifacts in air reach below -1000; inflated lung ends at about -700.
_AIR = (-1200.0, -700.0)
# Only the edges of tissue lie here.
_GAP = (-600.0, -300.0)
# Fat, water, muscle and organs, also with contrast agent.
_TISSUE = (-150.0, 250.0)
_WIDE_TISSUE = (-250.0, 300.0)
_MUSCLE = (0.0, 100.0)
# Between the peaks of fat and muscle; difference and phase images have most values here.
_NOTHING = (-40.0, 40.0)
_BIN = 20.0


@dataclass(frozen=True)
class _Shares:
    """Shares of all values, and of those above the gap (`body`).

    Attributes:
        air, below: of all values: air and lung; values below air, padding left out.
        gap_density: values per HU in the gap, compared with those in air.
        gap: values in the gap, compared with the body's.
        tissue, wide, muscle: of the body's values.
        negative: of all values, before the offset was taken off; padding left out.
        nothing: of the body's values but 0 itself, which may be padding. peak: where these are densest.
    """

    air: float
    below: float
    gap_density: float
    gap: float
    tissue: float
    wide: float
    muscle: float
    negative: float
    nothing: float
    peak: float


def hounsfield_offset(sample: Values, is_ct: bool = False) -> float | None:
    """Return the offset that was added to the Hounsfield units of a CT.

    Args:
        sample: (n,) finite values spread over a volume.
        is_ct: whether the file says that it is CT.

    Returns:
        0.0 for Hounsfield units, `STORED_OFFSET` for CT that is stored without a sign, None if the values
        do not look like CT. CT without any air or padding does not.
    """
    if _has_hounsfield_units(_shares(sample, 0.0)):
        return 0.0
    # Stricter, as magnitude MR has the same range: of the MR volumes for which this was chosen none passes,
    # and 1 in 1000 after random scaling.
    shares = _shares(sample, STORED_OFFSET)
    # Stored without a sign, nothing is negative, except a few values from interpolation.
    if _has_stored_units(shares) and (is_ct or shares.negative <= 0.25 * shares.air):
        return STORED_OFFSET
    return None


def _has_hounsfield_units(shares: _Shares) -> bool:
    return (
        shares.air >= 0.005
        and shares.below <= 0.1 * shares.air
        and shares.gap_density <= 0.35
        and (shares.gap <= 0.15 or shares.gap_density < 0.15)
        and shares.wide >= 0.6
        and shares.tissue >= 0.55
        and not (shares.nothing >= 0.6 and abs(shares.peak) < _BIN / 2)
    )


def _has_stored_units(shares: _Shares) -> bool:
    return (
        shares.air >= 0.02
        and shares.below <= 0.01 * shares.air
        and shares.gap_density <= 0.3
        and shares.gap <= 0.15
        and shares.tissue >= 0.6
        and shares.muscle >= 0.25
    )


def _shares(stored: Values, offset: float) -> _Shares:
    values = _without_padding(stored - offset)
    body = values[values > _GAP[1]]
    air = _share(values, _AIR)
    gap = _share(values, _GAP)
    air_density = air / (_AIR[1] - _AIR[0])
    gap_density = gap / (_GAP[1] - _GAP[0])
    return _Shares(
        air=air,
        below=float(np.mean(values < _AIR[0])) if values.size else 0.0,
        gap_density=gap_density / air_density if air else np.inf,
        gap=gap * values.size / body.size if body.size else np.inf,
        tissue=_share(body, _TISSUE),
        wide=_share(body, _WIDE_TISSUE),
        muscle=_share(body, _MUSCLE),
        negative=_share(values, (-np.inf, -offset)),
        nothing=_share(body[body != 0], _NOTHING),
        peak=_peak(body[body != 0]),
    )


def _peak(values: Values) -> float:
    """Return the middle of the fullest bin around 0."""
    edges = np.arange(_GAP[1] - _BIN / 2, -_GAP[1] + _BIN, _BIN)
    counts, _ = np.histogram(values, edges)
    return float(edges[int(counts.argmax())] + _BIN / 2)


def _without_padding(values: Values) -> Values:
    """Return a copy without the one or two values that fill the corners of the scanner's circle, such as
    -2000 or -3024."""
    below = values[values < _AIR[0]]
    if not below.size:
        return values
    found, counts = np.unique(below, return_counts=True)
    return values[~np.isin(values, found[4 * counts >= below.size])]


def _share(values: Values, limits: tuple[float, float]) -> float:
    low, high = limits
    return float(np.mean((values >= low) & (values < high))) if values.size else 0.0
