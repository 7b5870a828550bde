"""Whether a label lies on its image's grid, at the sizes of real volumes."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from scipy.spatial.transform import Rotation

from SAM2PropagateLib.files.image import itk_geometry
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.grids import grid_offset

SHAPE = (512, 512, 60)
SPACING = (0.703125, 0.703125, 3.2)
ORIGIN = (-180.3515625, 171.2, -954.25)
OBLIQUE = Rotation.from_euler("xyz", [12, -7, 3], degrees=True).as_matrix()


def grid(
    shape: tuple[int, int, int] = SHAPE,
    spacing: tuple[float, ...] = SPACING,
    origin: tuple[float, ...] = ORIGIN,
    direction: np.ndarray = OBLIQUE,
) -> VolumeGeometry:
    matrix = np.eye(4)
    matrix[:3, :3] = direction * np.array(spacing)
    matrix[:3, 3] = origin
    return VolumeGeometry(shape, matrix)


def rotated(degrees: float) -> np.ndarray:
    return np.asarray(OBLIQUE @ Rotation.from_euler("z", degrees, degrees=True).as_matrix())


@pytest.mark.parametrize(
    "label",
    [
        grid(spacing=(0.703125, 0.703125, 3.0)),
        grid(spacing=(0.7, 0.703125, 3.2)),
        grid(origin=tuple(np.array(ORIGIN) + OBLIQUE @ [0, 0, 0.5 * 3.2])),
        grid(origin=tuple(np.array(ORIGIN) + OBLIQUE @ [0.2 * 0.703125, 0, 0])),
        grid(direction=rotated(0.1)),
        grid(direction=OBLIQUE @ np.diag([-1.0, 1.0, 1.0])),
        grid(direction=OBLIQUE[:, [1, 0, 2]]),
        # On every second voxel: the corners fit at first, and then not.
        grid(shape=(256, 256, 60), spacing=(1.40625, 1.40625, 3.2)),
    ],
    ids=["spacing", "in plane", "half a slice", "origin", "turned", "mirrored", "transposed", "coarser"],
)
def test_other_grids_are_told_apart(label: VolumeGeometry) -> None:
    assert grid_offset(label, grid()) is None


def test_a_part_of_the_grid_is_found_where_it_lies() -> None:
    at = np.array(ORIGIN) + OBLIQUE @ (np.array([100, 37, 5]) * SPACING)
    assert grid_offset(grid(shape=(200, 300, 40), origin=tuple(at)), grid()) == (100, 37, 5)
    # Five slices along is no rounding.
    along = np.array(ORIGIN) + OBLIQUE @ [0, 0, 5 * 3.2]
    assert grid_offset(grid(origin=tuple(along)), grid()) == (0, 0, 5)


def test_the_rounding_of_headers_is_no_difference(tmp_path) -> None:
    exact = grid()
    single = VolumeGeometry(SHAPE, exact.ijk_to_ras.astype(np.float32).astype(float))
    six_digits = grid(
        spacing=tuple(float(f"{v:.6g}") for v in SPACING), origin=tuple(float(f"{v:.6g}") for v in ORIGIN)
    )
    for label in (single, six_digits, grid(direction=OBLIQUE.round(6))):
        assert label != exact and grid_offset(label, exact) == (0, 0, 0)
    image = sitk.Image(SHAPE, sitk.sitkUInt8)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    for turn in ([12, -7, 3], [180, 0, 0.001], [90, 0, 179.99]):
        image.SetDirection(Rotation.from_euler("xyz", turn, degrees=True).as_matrix().ravel().tolist())
        path = str(tmp_path / "label.nii.gz")
        sitk.WriteImage(image, path)
        assert grid_offset(itk_geometry(sitk.ReadImage(path)), itk_geometry(image)) == (0, 0, 0)
