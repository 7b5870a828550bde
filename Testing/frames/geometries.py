"""Hypothesis strategies for volumes as they come: flipped, permuted, oblique, anisotropic, transformed."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from SAM2PropagateLib.frames import VolumeGeometry

# Nothing is written beside the code; a busy machine is no failure.
PROFILE = settings(max_examples=80, deadline=None, database=None)

AXES = st.sampled_from((0, 1, 2))
KINDS = ("identity", "flipped", "permuted", "oblique", "anisotropic", "transformed", "sheared")


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_infinity=False, width=64)


def moved(geometry: VolumeGeometry, transform: np.ndarray) -> VolumeGeometry:
    """The volume under a linear transform (4x4)."""
    return VolumeGeometry(geometry.shape_ijk, transform @ geometry.ijk_to_ras)


@st.composite
def rotations(draw: st.DrawFn) -> np.ndarray:
    """3x3 rotation from a quaternion; rounded, since ITK cannot invert matrices with entries like 1e-200."""
    w, x, y, z = (round(draw(number(-1, 1)), 9) for _ in range(4))
    length = np.sqrt(w * w + x * x + y * y + z * z)
    if length < 0.1:
        return np.eye(3)
    w, x, y, z = (part / length for part in (w, x, y, z))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@st.composite
def volume_geometries(draw: st.DrawFn, kind: str | None = None) -> VolumeGeometry:
    """A geometry of a named kind, or of any."""
    kind = draw(st.sampled_from(KINDS)) if kind is None else kind
    shape = tuple(draw(st.integers(2, 24)) for _ in range(3))
    spacing, directions, origin = np.ones(3), np.eye(3), np.zeros(3)
    if kind != "identity":
        origin = np.array([draw(number(-1000, 1000)) for _ in range(3)])
    if kind in ("anisotropic", "oblique", "transformed", "sheared"):
        spacing = np.array([draw(number(0.1, 8)) for _ in range(3)])
    if kind in ("flipped", "permuted"):
        directions = directions * np.array([draw(st.sampled_from((-1.0, 1.0))) for _ in range(3)])
    if kind == "permuted":
        directions = directions[:, draw(st.permutations(range(3)))]
    if kind in ("oblique", "transformed", "sheared"):
        directions = draw(rotations())
    matrix = np.eye(4)
    matrix[:3, :3] = directions * spacing
    matrix[:3, 3] = origin
    geometry = VolumeGeometry(shape, matrix)
    if kind in ("transformed", "sheared"):
        parent = np.eye(4)
        parent[:3, :3] = draw(rotations())
        parent[:3, 3] = [draw(number(-300, 300)) for _ in range(3)]
        if kind == "sheared":
            # A diagonal of at least 0.5 and entries below it of at most 1 keep it well away from flat.
            shear = np.diag([draw(number(0.5, 2)) * draw(st.sampled_from((-1, 1))) for _ in range(3)])
            shear[1, 0], shear[2, 0], shear[2, 1] = (draw(number(-1, 1)) for _ in range(3))
            parent[:3, :3] = parent[:3, :3] @ shear
        geometry = moved(geometry, parent)
    return geometry


@st.composite
def voxels(draw: st.DrawFn, geometry: VolumeGeometry) -> tuple[int, int, int]:
    """Integer IJK of some voxel."""
    i, j, k = (draw(st.integers(0, size - 1)) for size in geometry.shape_ijk)
    return i, j, k
