"""Points land on the voxel under them, whatever the volume's geometry."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import strategies as st

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames import VolumeGeometry, native_frame
from Testing.frames.geometries import AXES, KINDS, PROFILE, number, volume_geometries, voxels

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def plain(shape: tuple[int, int, int] = (10, 12, 30), spacing: tuple[float, float, float] = (1, 1, 3)):
    return VolumeGeometry(shape, np.diag([*spacing, 1.0]))


@pytest.mark.parametrize("kind", KINDS)
@PROFILE
@given(data=st.data())
def test_ras_to_frame_and_pixel_and_back(kind: str, data: st.DataObject) -> None:
    geometry = data.draw(volume_geometries(kind))
    axis = data.draw(AXES)
    ijk = np.array([data.draw(number(-0.49, size - 0.51)) for size in geometry.shape_ijk])
    ras = geometry.ras_of_ijk(ijk)
    frame = geometry.frame_of(ras, axis)
    x, y = geometry.pixel_of(ras, axis)
    # Back with the exact position along the axis, since the frame is its nearest whole number.
    position = geometry.frame_coordinate(ras, axis)
    assert abs(position - frame) <= 0.5 + 1e-6
    assert np.allclose(
        geometry.ras_of_pixel(x, y, frame, axis) - ras,
        geometry.ijk_to_ras[:3, axis] * (frame - position),
        atol=1e-6,
    )
    # A point on the frame itself comes back unchanged.
    on_frame = geometry.ras_of_pixel(x, y, frame, axis)
    assert geometry.frame_of(on_frame, axis) == frame
    assert np.allclose(geometry.pixel_of(on_frame, axis), (x, y), atol=1e-6)
    assert np.allclose(geometry.ijk_of_ras(geometry.ras_of_ijk(ijk)), ijk, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@PROFILE
@given(data=st.data())
def test_a_click_lands_on_the_voxel_under_it(kind: str, data: st.DataObject) -> None:
    geometry = data.draw(volume_geometries(kind))
    voxel = data.draw(voxels(geometry))
    inside = np.array([data.draw(number(-0.49, 0.49)) for _ in range(3)])
    ras = geometry.ras_of_ijk(np.array(voxel) + inside)
    marked = np.zeros(geometry.shape_ijk[::-1], dtype=np.uint8)
    marked[voxel[2], voxel[1], voxel[0]] = 1
    for axis in range(3):
        frame = geometry.frame_of(ras, axis)
        x, y = (int(np.floor(value + 0.5)) for value in geometry.pixel_of(ras, axis))
        assert native_frame(marked, frame, axis).shape == geometry.frame_shape(axis)
        assert native_frame(marked, frame, axis)[y, x] == 1


@PROFILE
@given(data=st.data())
def test_simpleitk_finds_the_same_voxel(data: st.DataObject) -> None:
    """An independent reader of the same header agrees (SimpleITK counts in LPS)."""
    geometry = data.draw(volume_geometries(data.draw(st.sampled_from(("flipped", "permuted", "oblique")))))
    image = sitk.Image(list(geometry.shape_ijk), sitk.sitkUInt8)
    lps = LPS_TO_RAS @ geometry.ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).reshape(-1).tolist())
    voxel = data.draw(voxels(geometry))
    ras = geometry.ras_of_ijk(np.array(voxel) + [data.draw(number(-0.4, 0.4)) for _ in range(3)])
    assert image.TransformPhysicalPointToIndex((LPS_TO_RAS[:3, :3] @ ras).tolist()) == voxel
    assert tuple(geometry.frame_of(ras, axis) for axis in range(3)) == voxel
    assert geometry.spacing == pytest.approx(image.GetSpacing())


@PROFILE
@given(data=st.data())
def test_a_mask_put_into_a_frame_lands_on_these_voxels(data: st.DataObject) -> None:
    geometry = data.draw(volume_geometries())
    axis = data.draw(AXES)
    frame = data.draw(st.integers(0, geometry.frame_count(axis) - 1))
    rows, columns = geometry.frame_shape(axis)
    mask = np.random.default_rng(data.draw(st.integers(0, 999))).random((rows, columns)) < 0.3
    labels = np.zeros(geometry.shape_ijk[::-1], dtype=np.uint8)
    native_frame(labels, frame, axis)[mask] = 1
    expected = set()
    for y, x in np.argwhere(mask):
        i, j, k = np.rint(geometry.ijk_of_ras(geometry.ras_of_pixel(x, y, frame, axis))).astype(int)
        expected.add((k, j, i))
    assert {tuple(index) for index in np.argwhere(labels)} == expected


def test_frames_are_what_the_words_say() -> None:
    geometry = VolumeGeometry((4, 5, 6), np.diag([0.5, 0.7, 3.0, 1.0]))
    array = np.arange(120).reshape(6, 5, 4)
    assert [geometry.frame_count(axis) for axis in range(3)] == [4, 5, 6]
    assert [geometry.frame_shape(axis) for axis in range(3)] == [(6, 5), (6, 4), (5, 4)]
    assert [geometry.frame_spacing(axis) for axis in range(3)] == [(3.0, 0.7), (3.0, 0.5), (0.7, 0.5)]
    assert [geometry.slice_spacing(axis) for axis in range(3)] == pytest.approx([0.5, 0.7, 3.0])
    for axis in range(3):
        for index in range(geometry.frame_count(axis)):
            expected = np.take(array, index, 2 - axis)
            assert np.array_equal(native_frame(array, index, axis), expected)
    assert str(geometry.slice_words(11, 2)) == "slice 12 of 6"
    assert [str(geometry.plane_name(axis)) for axis in range(3)] == ["sagittal", "coronal", "axial"]


def test_the_borders_of_the_volume() -> None:
    geometry = plain()
    assert geometry.frame_of((0, 0, -1.49), 2) == 0
    assert geometry.frame_of((0, 0, 29.5 * 3), 2) == 29
    with pytest.raises(InputError) as error:
        geometry.frame_of((0, 0, -1.6), 2)
    assert error.value.code == "outside_volume"
    assert "before slice 1 of 30" in str(error.value) and "0.1 mm" in str(error.value)
    with pytest.raises(InputError, match=r"4\.5 mm after slice 30 of 30"):
        geometry.frame_of((0, 0, 93), 2)
    with pytest.raises(InputError, match="beside the image of slice 11 of 30") as error:
        geometry.frame_of((40, 0, 30), 2, what="The click")
    assert "The click at (R 40.0, A 0.0, S 30.0 mm)" in str(error.value)
    assert geometry.frame_of((40, 0, 30), 2, in_plane=False) == 10
    for bad in ((np.nan, 0, 0), (np.inf, 0, 0), (0, 0, np.nan), (0, 0, -np.inf)):
        assert not geometry.contains(bad)
        with pytest.raises(InputError, match="outside the volume"):
            geometry.frame_of(bad, 2)


@PROFILE
@given(data=st.data())
def test_axis_nearest_to_a_view(data: st.DataObject) -> None:
    geometry = data.draw(volume_geometries())
    axis = data.draw(AXES)
    sign, length = data.draw(st.sampled_from((-1.0, 1.0))), data.draw(number(0.1, 10))
    # The plane of a view along the frames is spanned by the two other axes.
    others = [geometry.ijk_to_ras[:3, other] for other in range(3) if other != axis]
    normal = np.cross(*others)
    normal = normal / np.linalg.norm(normal)
    assert abs(abs(normal @ geometry.frame_normal(axis)) - 1) < 1e-6
    assert geometry.axis_nearest(sign * length * normal) == axis
    step = geometry.ijk_to_ras[:3, axis]
    assert geometry.slice_spacing(axis) == pytest.approx(abs(normal @ step), rel=1e-6)
    assert step @ geometry.frame_normal(axis) > 0


def test_views_without_direction_and_views_between() -> None:
    geometry = plain()
    assert geometry.axis_nearest((0.1, -0.2, -0.9)) == 2
    assert geometry.axis_nearest((1, 1, 0)) == geometry.axis_nearest((-1, 1, 0)) == 0
    for bad in ((0, 0, 0), (np.nan, 0, 1), (1, 0)):
        with pytest.raises(InputError) as error:
            geometry.axis_nearest(bad)
        assert error.value.code == "bad_normal"
    for bad_axis in (3, -1, None, True, "k"):
        with pytest.raises(InputError, match="propagation axis"):
            geometry.frame_count(bad_axis)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.diag([1.0, 0.0, 1.0, 1.0]), "spacing along j is zero"),
        (np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "parallel"),
        (np.diag([1.0, np.nan, 1.0, 1.0]), "not finite"),
        (np.diag([1.0, np.inf, 1.0, 1.0]), "not finite"),
        (np.diag([1.0, 1.0, 1.0, 2.0]), "not affine"),
        (np.eye(3), "not a 4x4"),
        ("matrix", "not a 4x4"),
        (np.zeros((4, 4)), "not affine"),
    ],
)
def test_degenerate_geometries_are_refused(matrix: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        VolumeGeometry((3, 3, 3), matrix)
    assert error.value.code == "degenerate_geometry"


def test_sizes_are_checked() -> None:
    with pytest.raises(InputError) as error:
        VolumeGeometry((3, 0, 3), np.eye(4))
    assert error.value.code == "empty"
    with pytest.raises(InputError) as error:
        VolumeGeometry((3, 3), np.eye(4))  # type: ignore[arg-type]
    assert error.value.code == "not_3d"


def test_microscopic_and_far_away_volumes_work() -> None:
    matrix = np.diag([1e-4, 1e-4, 1e-4, 1.0])
    matrix[:3, 3] = 5000
    geometry = VolumeGeometry((5, 5, 5), matrix)
    assert geometry.frame_of(geometry.ras_of_ijk((1, 2, 3)), 2) == 3


@PROFILE
@given(geometry=volume_geometries())
def test_a_geometry_survives_json(geometry: VolumeGeometry) -> None:
    back = VolumeGeometry.from_dict(json.loads(json.dumps(geometry.to_dict())))
    assert back == geometry and hash(back) == hash(geometry)
    assert pickle.loads(pickle.dumps(geometry)) == geometry
    assert (
        VolumeGeometry(geometry.shape_ijk, geometry.ijk_to_ras + np.eye(4) * 1e-3 * (1, 1, 1, 0)) != geometry
    )
    assert geometry != "geometry"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"shape_ijk": [1, 2, 3]},
        {"shape_ijk": 3, "ijk_to_ras": []},
        None,
        {"shape_ijk": [1.5, 2, 3], "ijk_to_ras": np.eye(4).tolist()},
    ],
)
def test_broken_descriptions_are_refused(values: dict) -> None:
    with pytest.raises(InputError) as error:
        VolumeGeometry.from_dict(values)
    assert error.value.code == "bad_geometry"


def test_a_geometry_cannot_be_changed() -> None:
    source = np.eye(4)
    geometry = VolumeGeometry((2, 2, 2), source)
    source[0, 3] = 5
    assert geometry.ijk_to_ras[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        geometry.ijk_to_ras[0, 3] = 1
    assert VolumeGeometry((2, 2, 2), np.diag([1, 1, 1, 1.0]) * (1, 1, 1, 1)) == VolumeGeometry(
        (2, 2, 2), np.array([[1, -0.0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    )
