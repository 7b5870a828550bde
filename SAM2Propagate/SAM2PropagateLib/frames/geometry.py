"""The place of a volume's voxels in the patient, and its frames.

Coordinates used here:

* RAS: millimeters to the patient's right, front and head. In the scene, they are the volume's own, below its
  parent transforms, or the world's, above them, as the caller chose.
* IJK: continuous voxel coordinates, a voxel's center at integers, the voxel covers +-0.5 around it.
* frame and pixel: `frame` is the integer index along the propagation axis; inside a frame a pixel is
  (x = column, y = row), continuous, its center at integers.

Volume arrays are (K, J, I). `axis` is 0 = i, 1 = j, 2 = k; the numpy axis is `2 - axis`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.texts import Text, Words, plural
from SAM2PropagateLib.texts import text as _

FloatArray = npt.NDArray[np.float64]

AXIS_NAMES = ("i", "j", "k")
# (x axis, y axis) of the pixels of a frame, per propagation axis.
_PIXEL_AXES = ((1, 2), (0, 2), (0, 1))
# Voxels; points this little outside count as inside, because of rounding in matrices and text files.
EDGE_TOLERANCE = 1e-3
# If the determinant divided by the product of the axes' lengths is below this, two axes count as parallel.
_FLAT_RATIO = 1e-6


def check_axis(axis: int) -> int:
    """Return `axis` if it is 0, 1 or 2. Raises InputError `bad_axis` otherwise."""
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer) or not 0 <= axis <= 2:
        raise InputError(
            "bad_axis",
            _("There is no propagation axis {axis}.").format(axis=repr(axis)),
            _("Use i, j or k (0, 1 or 2)."),
        )
    return int(axis)


def ras_words(ras: Any) -> str:
    """Return a point for a sentence: `(R 12.0, A -30.5, S 100.0 mm)`."""
    r, a, s = (float(value) for value in ras)
    return f"(R {r:.1f}, A {a:.1f}, S {s:.1f} mm)"


@dataclass(frozen=True, eq=False)
class VolumeGeometry:
    """Shape and place of a volume.

    Args:
        shape_ijk: number of voxels along i, j, k; each at least 1.
        ijk_to_ras: 4x4 matrix from IJK to RAS in mm: any affine matrix whose determinant is not zero (flips,
            shear and scaling allowed).

    Raises:
        InputError: `empty` (a size below 1), `degenerate_geometry` (the matrix is not finite, not affine
            or not invertible).
    """

    shape_ijk: tuple[int, int, int]
    ijk_to_ras: FloatArray

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.shape_ijk)
        if len(shape) != 3:
            raise InputError(
                "not_3d",
                plural(
                    len(shape),
                    _("The volume has {count} dimension instead of 3."),
                    _("The volume has {count} dimensions instead of 3."),
                ).format(count=len(shape)),
                _("Choose one 3D volume, for example one time point of a series."),
            )
        if min(shape) < 1:
            raise InputError(
                "empty",
                _("The volume is empty: its size is {i} x {j} x {k} voxels.").format(
                    i=shape[0], j=shape[1], k=shape[2]
                ),
                _("Choose a volume with image data."),
            )
        try:
            # Adding 0.0 turns -0.0 into 0.0, so that equal matrices have equal bytes.
            matrix = np.array(self.ijk_to_ras, dtype=np.float64) + 0.0
        except (TypeError, ValueError):
            matrix = np.zeros(0)
        if matrix.shape != (4, 4):
            raise _degenerate(_("its IJK-to-RAS matrix is not a 4x4 matrix of numbers"))
        if not np.isfinite(matrix).all():
            raise _degenerate(_("its IJK-to-RAS matrix has entries that are not finite numbers"))
        if not np.allclose(matrix[3], (0.0, 0.0, 0.0, 1.0), rtol=0, atol=1e-9):
            raise _degenerate(_("its IJK-to-RAS matrix is not affine (the last row is not 0 0 0 1)"))
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if lengths.min() <= 1e-12:
            raise _degenerate(
                _("its spacing along {axis} is zero").format(axis=AXIS_NAMES[int(lengths.argmin())])
            )
        if abs(np.linalg.det(matrix[:3, :3] / lengths)) < _FLAT_RATIO:
            raise _degenerate(_("two of its axes are parallel"))
        inverse = np.linalg.inv(matrix)
        matrix.setflags(write=False)
        inverse.setflags(write=False)
        object.__setattr__(self, "shape_ijk", shape)
        object.__setattr__(self, "ijk_to_ras", matrix)
        object.__setattr__(self, "_inverse", inverse)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VolumeGeometry):
            return NotImplemented
        return self.shape_ijk == other.shape_ijk and np.array_equal(self.ijk_to_ras, other.ijk_to_ras)

    def __hash__(self) -> int:
        return hash((self.shape_ijk, self.ijk_to_ras.tobytes()))

    # Between RAS and IJK

    @property
    def ras_to_ijk_matrix(self) -> FloatArray:
        """4x4 inverse of `ijk_to_ras`, read-only."""
        inverse: FloatArray = self._inverse  # type: ignore[attr-defined]
        return inverse

    def ijk_of_ras(self, ras: npt.ArrayLike) -> FloatArray:
        """Return continuous IJK of RAS points; (..., 3) mm -> (..., 3) voxels. Points outside are
        extrapolated."""
        return _transform(self.ras_to_ijk_matrix, ras)

    def ras_of_ijk(self, ijk: npt.ArrayLike) -> FloatArray:
        """Return RAS of continuous IJK points; (..., 3) voxels -> (..., 3) mm."""
        return _transform(self.ijk_to_ras, ijk)

    # Spacing and directions

    @property
    def spacing(self) -> tuple[float, float, float]:
        """The distance in mm between voxel centers along i, j, k."""
        i, j, k = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)
        return float(i), float(j), float(k)

    def frame_normal(self, axis: int) -> FloatArray:
        """Return the unit normal (RAS) of the frames of `axis`, toward higher frame indices; in sheared
        volumes it is not the direction of the axis."""
        gradient = self.ras_to_ijk_matrix[check_axis(axis), :3]
        return np.asarray(gradient / np.linalg.norm(gradient), dtype=np.float64)

    def slice_spacing(self, axis: int) -> float:
        """Return the distance in mm between neighboring frames of `axis`, along their normal."""
        return float(1.0 / np.linalg.norm(self.ras_to_ijk_matrix[check_axis(axis), :3]))

    def axis_nearest(self, normal_ras: npt.ArrayLike) -> int:
        """Return the propagation axis whose frames are most nearly parallel to a view with this plane normal.

        Args:
            normal_ras: (3,) RAS, any length above zero, either sign.

        Raises:
            InputError: `bad_normal` when it is zero or not finite.
        """
        normal = np.asarray(normal_ras, dtype=np.float64).reshape(-1)
        length = float(np.linalg.norm(normal)) if normal.size == 3 else math.nan
        if not math.isfinite(length) or length == 0.0:
            raise InputError(
                "bad_normal",
                _("The view's plane has no direction."),
                _("Reset the slice view."),
            )
        cosines = [abs(float(self.frame_normal(axis) @ normal)) / length for axis in range(3)]
        # Rounded, so that a view exactly between two axes gives the same axis on every computer.
        return int(np.argmax(np.round(cosines, 9)))

    def plane_name(self, axis: int) -> Text:
        """Return `sagittal`, `coronal` or `axial`: the anatomical plane nearest to the frames of `axis`."""
        names = (_("sagittal"), _("coronal"), _("axial"))
        return names[int(np.argmax(np.round(np.abs(self.frame_normal(axis)), 9)))]

    # Frames

    def frame_count(self, axis: int) -> int:
        """Return the number of frames along `axis`."""
        return self.shape_ijk[check_axis(axis)]

    def frame_shape(self, axis: int) -> tuple[int, int]:
        """Return (rows, columns) of a frame of `axis`."""
        x_axis, y_axis = _PIXEL_AXES[check_axis(axis)]
        return self.shape_ijk[y_axis], self.shape_ijk[x_axis]

    def frame_spacing(self, axis: int) -> tuple[float, float]:
        """Return (mm from row to row, mm from column to column) of a frame of `axis`."""
        x_axis, y_axis = _PIXEL_AXES[check_axis(axis)]
        return self.spacing[y_axis], self.spacing[x_axis]

    def slice_words(self, frame: int, axis: int) -> Text:
        """Return a frame for a sentence, counted from 1 as a reader counts: `slice 12 of 30`."""
        count = self.frame_count(axis)
        return _("slice {number} of {count}").format(number=int(frame) + 1, count=count)

    def frame_coordinate(self, ras: npt.ArrayLike, axis: int) -> float:
        """Return the continuous frame index of a RAS point, unchecked."""
        return float(self.ijk_of_ras(ras)[check_axis(axis)])

    def contains(self, ras: npt.ArrayLike) -> bool:
        """Tell whether a RAS point lies in the volume, outer halves of the border voxels included."""
        ijk = self.ijk_of_ras(ras)
        return bool(np.isfinite(ijk).all()) and all(self._inside(float(ijk[axis]), axis) for axis in range(3))

    def frame_of(self, ras: npt.ArrayLike, axis: int, *, what: Words = "", in_plane: bool = True) -> int:
        """Return the frame of `axis` that a RAS point lies on.

        Args:
            ras: (3,) mm.
            axis: propagation axis.
            what: the subject of an error's sentence, in the user's language; "": the point.
            in_plane: check that the point lies within the frame, too; False checks only along `axis`.

        Raises:
            InputError: `outside_volume`, more than half a voxel beyond the outermost voxel centers.
        """
        axis = check_axis(axis)
        ijk = self.ijk_of_ras(ras)
        position = float(ijk[axis])
        if not self._inside(position, axis):
            raise InputError(
                "outside_volume",
                _("{what} at {point} lies outside the volume, {where}.").format(
                    what=what or _("The point"), point=ras_words(ras), where=self._beyond(position, axis)
                ),
                _("Place it on a slice of the volume."),
            )
        frame = self.nearest_frame(position, axis)
        if in_plane and not self.contains(ras):
            raise InputError(
                "outside_volume",
                _("{what} at {point} lies outside the volume, beside the image of {slice}.").format(
                    what=what or _("The point"), point=ras_words(ras), slice=self.slice_words(frame, axis)
                ),
                _("Place it within the image."),
            )
        return frame

    def _beyond(self, position: float, axis: int) -> Text:
        """Return the place of a frame index outside the volume, for a sentence: `12.0 mm after slice 30 of
        30`."""
        count = self.frame_count(axis)
        if not math.isfinite(position):
            return _("nowhere")
        if position < 0:
            words, distance = _("{distance:.1f} mm before slice 1 of {count}"), -0.5 - position
        else:
            words, distance = _("{distance:.1f} mm after slice {count} of {count}"), position - count + 0.5
        return words.format(distance=distance * self.slice_spacing(axis), count=count)

    def nearest_frame(self, position: float, axis: int) -> int:
        """Return the frame in the volume that is nearest to a continuous frame index."""
        return min(max(math.floor(position + 0.5), 0), self.frame_count(axis) - 1)

    def pixel_of(self, ras: npt.ArrayLike, axis: int) -> tuple[float, float]:
        """Return the continuous pixel (x, y) of a RAS point, projected onto its frame along the volume's own
        axis, unchecked."""
        x_axis, y_axis = _PIXEL_AXES[check_axis(axis)]
        ijk = self.ijk_of_ras(ras)
        return float(ijk[x_axis]), float(ijk[y_axis])

    def ijk_of_pixel(self, x: float, y: float, frame: float, axis: int) -> FloatArray:
        """Return the continuous IJK (3,) of a pixel of a frame."""
        x_axis, y_axis = _PIXEL_AXES[check_axis(axis)]
        ijk = np.empty(3)
        ijk[axis], ijk[x_axis], ijk[y_axis] = frame, x, y
        return ijk

    def ras_of_pixel(self, x: float, y: float, frame: float, axis: int) -> FloatArray:
        """Return RAS (3,) in mm of a pixel of a frame."""
        return self.ras_of_ijk(self.ijk_of_pixel(x, y, frame, axis))

    def pixel_steps(self, axis: int) -> tuple[FloatArray, FloatArray]:
        """Return RAS vectors (3,) in mm for one column to the right (x + 1) and one row down (y + 1)."""
        x_axis, y_axis = _PIXEL_AXES[check_axis(axis)]
        return self.ijk_to_ras[:3, x_axis].copy(), self.ijk_to_ras[:3, y_axis].copy()

    # As JSON

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values, not rounded: `{"shape_ijk": [i, j, k], "ijk_to_ras": 4 rows of 4}`."""
        return {"shape_ijk": list(self.shape_ijk), "ijk_to_ras": self.ijk_to_ras.tolist()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> VolumeGeometry:
        """Return the geometry that `to_dict` was called on. Raises InputError `bad_geometry`, or as the
        constructor."""
        try:
            shape: Sequence[Any] = values["shape_ijk"]
            matrix = values["ijk_to_ras"]
            sizes = tuple(shape)
        except (KeyError, TypeError) as error:
            raise InputError(
                "bad_geometry",
                _("The description of the volume's geometry is incomplete."),
                _("It needs shape_ijk and ijk_to_ras."),
            ) from error
        if not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
            raise InputError(
                "bad_geometry", _("The volume's size is not given in whole numbers."), _("Correct shape_ijk.")
            )
        return VolumeGeometry(sizes, matrix)

    def _inside(self, position: float, axis: int) -> bool:
        return -0.5 - EDGE_TOLERANCE <= position <= self.shape_ijk[axis] - 0.5 + EDGE_TOLERANCE


def _transform(matrix: FloatArray, points: npt.ArrayLike) -> FloatArray:
    values = np.asarray(points, dtype=np.float64)
    if values.shape[-1:] != (3,):
        raise ValueError(f"points must have 3 coordinates in their last dimension, not shape {values.shape}")
    # Infinite points become NaN, which callers refuse if they need a place in the volume.
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(values @ matrix[:3, :3].T + matrix[:3, 3], dtype=np.float64)


def _degenerate(reason: Words) -> InputError:
    return InputError(
        "degenerate_geometry",
        _("The volume's geometry cannot be used: {reason}.").format(reason=reason),
        _("Check the image's header and its parent transforms."),
    )
