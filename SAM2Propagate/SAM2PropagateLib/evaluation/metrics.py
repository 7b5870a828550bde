"""How well two masks agree, and two ways of guessing a volume from one slice that a model has to beat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]

# Rounding of places in mm must not decide whether a surface lies within the tolerance.
_ROUNDING = 1e-6


def dice(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Return twice the common voxels over the sum of both; 1 if both masks are empty.

    Args:
        one, other: of the same shape, anything that can be read as bool.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = _pair(one, other)
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2.0 * int(np.count_nonzero(a & b)) / total if total else 1.0


def surface_dice(
    one: npt.ArrayLike, other: npt.ArrayLike, spacing: tuple[float, float, float], tolerance: float = 2.0
) -> float:
    """Return the share of both surfaces' area that lies within `tolerance` of the other surface.

    The surface of a mask is made of those faces of its voxels that have no voxel of the mask on their other
    side (outside the volume there is none); each counts with its area and is where its center is.

    Args:
        one, other: (K, J, I), anything that can be read as bool.
        spacing: mm along i, j and k, as `VolumeGeometry.spacing` gives it.
        tolerance: mm.

    Returns:
        0 to 1; 1 if both masks are empty, 0 if only one is.

    Raises:
        ValueError: the shapes differ or are not 3D, or a spacing or the tolerance is not usable.
    """
    a, b = _pair(one, other)
    if a.ndim != 3:
        raise ValueError(f"a surface needs 3D masks, not {a.ndim}D ones")
    steps = np.asarray(spacing, dtype=np.float64)[::-1]
    if steps.shape != (3,) or not (np.isfinite(steps).all() and (steps > 0).all()):
        raise ValueError(f"a spacing of {spacing} mm cannot be used")
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"a tolerance of {tolerance} mm cannot be used")
    if not a.any() or not b.any():
        return 1.0 if a.any() == b.any() else 0.0
    places_a, areas_a = _surface(a, steps)
    places_b, areas_b = _surface(b, steps)
    near = areas_a[_within(places_a, places_b, tolerance)].sum()
    near += areas_b[_within(places_b, places_a, tolerance)].sum()
    return float(near / (areas_a.sum() + areas_b.sum()))


def _surface(mask: BoolArray, steps: npt.NDArray[np.float64]) -> tuple[np.ndarray, np.ndarray]:
    """Return centers (n, 3) in mm along k, j, i and areas (n,) in mm2 of the faces around a mask."""
    padded = np.pad(mask, 1)
    places, areas = [], []
    for axis in range(3):
        lower = [slice(0, -1) if n == axis else slice(None) for n in range(3)]
        upper = [slice(1, None) if n == axis else slice(None) for n in range(3)]
        found = np.argwhere(padded[tuple(lower)] != padded[tuple(upper)]).astype(np.float64)
        found[:, axis] += 0.5
        places.append(found * steps)
        areas.append(np.full(len(found), np.delete(steps, axis).prod()))
    return np.concatenate(places), np.concatenate(areas)


def _within(places: np.ndarray, others: np.ndarray, tolerance: float) -> BoolArray:
    from scipy.spatial import cKDTree  # late: it is slow to import, and few need it

    limit = tolerance + _ROUNDING
    distances, _ = cKDTree(others).query(places, distance_upper_bound=limit * 2)
    return np.asarray(distances <= limit)


def _pair(one: npt.ArrayLike, other: npt.ArrayLike) -> tuple[BoolArray, BoolArray]:
    a, b = np.asarray(one, dtype=bool), np.asarray(other, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"masks of {a.shape} and {b.shape} cannot be compared")
    return a, b


# --- baselines


def frames_first(mask: npt.ArrayLike, axis: int) -> BoolArray:
    """Return a (K, J, I) mask as (frames, rows, columns) along `axis`: a view of it."""
    return np.moveaxis(np.asarray(mask, dtype=bool), 2 - axis, 0)


def adjacent_slice_dice(mask: npt.ArrayLike, axis: int) -> float:
    """Return how alike neighboring slices are: the mean Dice of each with the next, from the label's first to
    its last slice; 1 where there is only one.

    Args:
        mask: (K, J, I) with at least one voxel.
    """
    slices = frames_first(mask, axis)
    filled = np.flatnonzero(slices.any(axis=(1, 2)))
    pairs = [dice(slices[n], slices[n + 1]) for n in range(filled[0], filled[-1])]
    return float(np.mean(pairs)) if pairs else 1.0


def copy_max_slice_dice(mask: npt.ArrayLike, axis: int) -> float:
    """Return what copying gives: Dice of the label with its largest slice repeated from its first to its last
    one.

    Args:
        mask: (K, J, I) with at least one voxel.
    """
    slices = frames_first(mask, axis)
    areas = slices.sum(axis=(1, 2))
    filled = np.flatnonzero(areas)
    copied = np.zeros_like(slices)
    copied[filled[0] : filled[-1] + 1] = slices[int(areas.argmax())]
    return dice(copied, slices)
