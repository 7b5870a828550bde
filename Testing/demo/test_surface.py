"""The 3D picture: surfaces where the voxels are, the patient's right on the left, the head on top."""

from __future__ import annotations

import numpy as np

from Demo.surface import bone_surface, render_surfaces, segment_surfaces
from Headless.fixtures import headless  # noqa: F401
from Headless.scenes import addSegmentation, addVolume, fillSegment
from SAM2PropagateLib.frames.geometry import VolumeGeometry

# i toward the left, j toward the back, as most CTs are stored.
IJK_TO_RAS = np.array([[-3.0, 0, 0, 90], [0, -3.0, 0, 80], [0, 0, 4.0, -50], [0, 0, 0, 1]])
SHAPE = (24, 50, 60)  # k, j, i
RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.2, 0.9)


def ct():
    array = np.full(SHAPE, -1000, np.int16)
    array[:, 8:42, 8:52] = 40
    array[2:22, 30:38, 26:34] = 600  # a spine
    array[12, 20, 20] = 900  # a stone
    return array


def block(k, j, i):
    mask = np.zeros(SHAPE, bool)
    mask[k - 3 : k + 4, j - 4 : j + 5, i - 4 : i + 5] = True
    return mask


def test_bones_lie_where_they_are_in_the_world_and_stones_are_none():
    geometry = VolumeGeometry(SHAPE[::-1], IJK_TO_RAS)
    surface = bone_surface(ct(), geometry)
    assert surface.GetNumberOfPolys() > 100
    low, high = (geometry.ras_of_ijk(corner) for corner in ((33.5, 37.5, 1.5), (25.5, 29.5, 21.5)))
    bounds = np.array(surface.GetBounds()).reshape(3, 2)
    np.testing.assert_allclose(bounds[:, 0], np.minimum(low, high), atol=3.0)
    np.testing.assert_allclose(bounds[:, 1], np.maximum(low, high), atol=3.0)


def test_the_picture_shows_the_patient_from_the_front(headless):  # noqa: F811
    volume = addVolume(headless, ct(), IJK_TO_RAS)
    segmentation = addSegmentation(headless, volume, {"right above": RED, "left below": BLUE, "empty": RED})
    # Small i is the patient's right here.
    fillSegment(segmentation, "right above", volume, block(18, 18, 16))
    fillSegment(segmentation, "left below", volume, block(5, 18, 44))
    surfaces = segment_surfaces(segmentation)
    assert set(surfaces) == {"right above", "left below"}
    image = render_surfaces(
        surfaces,
        {"right above": RED, "left below": BLUE},
        ct(),
        VolumeGeometry(SHAPE[::-1], IJK_TO_RAS),
        (160, 120),
        (0.0, 0.0, 0.0),
    ).astype(int)
    assert image.shape == (120, 160, 3)
    places = []
    for strong, weak in ((0, 2), (2, 0)):
        rows, columns = np.nonzero(image[..., strong] > image[..., weak] + 60)
        assert len(rows) > 40
        places.append((rows.mean(), columns.mean()))
    (red_row, red_column), (blue_row, blue_column) = places
    assert red_column < 75 < 85 < blue_column
    assert red_row < 58 < 62 < blue_row
    bone = (image.min(axis=-1) > 90) & (np.ptp(image, axis=-1) < 60)
    assert bone.sum() > 100
