"""Reads version and place from the header of a NIfTI file, and corrects axes that are nearly at right angles.

ITK reads the voxels. But it refuses axes that are off by a thousandth, and chooses silently between two
places in the header (qform and sform), so the header is read here, too.
"""

from __future__ import annotations

import gzip
import itertools
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.frames.geometry import VolumeGeometry

FloatArray = npt.NDArray[np.float64]

_SIZE = {348: 1, 540: 2}
_MAGIC = {b"ni1\0": 1, b"n+1\0": 1}
# Millimeters of the header's units of length; most files say 2 (mm) or nothing.
_MILLIMETERS = {1: 1000.0, 3: 0.001}


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """The header of a NIfTI file.

    Attributes:
        version: 1 or 2.
        sform, qform: IJK to RAS in mm, (4, 4); None if the header has none, or the version is 2.
    """

    version: int
    sform: FloatArray | None = None
    qform: FloatArray | None = None


def read_nifti_header(path: Path) -> NiftiHeader | None:
    """Return the header of a file, compressed or not; None if it is not a NIfTI file or is cut short."""
    content, order = _content(path)
    if not order:
        return None
    if _SIZE[struct.unpack_from(order + "i", content)[0]] == 2:
        return NiftiHeader(2) if content[4:8] in (b"n+2\0", b"ni2\0") else None
    if content[344:348] not in _MAGIC:
        return None
    unit = _MILLIMETERS.get(content[123] & 7, 1.0)
    q_code, s_code = struct.unpack_from(order + "hh", content, 252)
    scale = np.diag([unit, unit, unit, 1.0])
    sform = scale @ _sform(content, order) if s_code > 0 else None
    qform = scale @ _qform(content, order) if q_code > 0 else None
    return NiftiHeader(1, sform, qform)


def read_pixdim(path: Path) -> tuple[float, ...]:
    """Return the three sizes of voxels that the header of an Analyze or NIfTI-1 file states, in its own unit;
    none for other files."""
    content, order = _content(path)
    if not order or _SIZE[struct.unpack_from(order + "i", content)[0]] == 2:
        return ()
    return struct.unpack_from(order + "3f", content, 80)


def _content(path: Path) -> tuple[bytes, str]:
    """Return the first bytes of a file and their order, `<` or `>`; "" if they are no Analyze or NIfTI
    header."""
    try:
        with path.open("rb") as file:
            content = file.read(540)
        if content[:2] == b"\x1f\x8b":
            with gzip.open(path) as stream:
                content = stream.read(540)
    except (OSError, EOFError, zlib.error):
        return b"", ""
    if len(content) < 348:
        return content, ""
    return content, next((o for o in "<>" if struct.unpack_from(o + "i", content)[0] in _SIZE), "")


def _sform(content: bytes, order: str) -> FloatArray:
    matrix = np.eye(4)
    matrix[:3] = np.reshape(struct.unpack_from(order + "12f", content, 280), (3, 4))
    return matrix


def _qform(content: bytes, order: str) -> FloatArray:
    pixdim = struct.unpack_from(order + "8f", content, 76)
    b, c, d, x, y, z = struct.unpack_from(order + "6f", content, 256)
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    flip = -1.0 if pixdim[0] < 0 else 1.0
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array([pixdim[1], pixdim[2], flip * pixdim[3]])
    matrix[:3, 3] = (x, y, z)
    return matrix


def at_right_angles(matrix: FloatArray) -> FloatArray | None:
    """Return the nearest matrix, (4, 4), whose axes are at right angles, with the same spacing.

    Returns:
        Only the axes; `around_the_middle` places them. None if the axes do not span a volume.
    """
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(matrix).all() or (spacing <= 0).any():
        return None
    left, sizes, right = np.linalg.svd(matrix[:3, :3] / spacing)
    if sizes[-1] < 1e-3:
        return None
    regular = np.eye(4)
    regular[:3, :3] = left @ right * spacing
    return regular


def around_the_middle(axes: FloatArray, matrix: FloatArray, shape_ijk: tuple[int, ...]) -> FloatArray:
    """Return a matrix with these axes that has the middle voxel of a grid at the place that `matrix` gives
    it."""
    middle = np.append((np.array(shape_ijk) - 1) / 2, 1.0)
    placed = axes.copy()
    placed[:3, 3] += (matrix @ middle - axes @ middle)[:3]
    return placed


def farthest(one: VolumeGeometry, other: FloatArray) -> tuple[float, float]:
    """Return the largest distance of a grid's corner from its place by another matrix: in mm, and in voxels
    of one axis."""
    ends = [(0, size - 1) for size in one.shape_ijk]
    corners: npt.NDArray[Any] = np.array(list(itertools.product(*ends)), dtype=float)
    there = corners @ other[:3, :3].T + other[:3, 3]
    apart = np.abs(one.ijk_of_ras(there) - corners).max()
    return float(np.linalg.norm(there - one.ras_of_ijk(corners), axis=1).max()), float(apart)
