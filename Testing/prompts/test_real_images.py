"""Clicks, boxes and masks on really acquired images land where another reader says they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from SAM2PropagateLib.frames import FrameStack, VolumeGeometry, Window, check_volume, native_frame, window_for
from SAM2PropagateLib.prompts import Click, SegmentPrompts, box_around, choose_axis, mask_at, resolve
from SAM2PropagateLib.prompts.values import PromptSet

REPOSITORY = Path(__file__).parents[2]
CT = REPOSITORY / "Resources" / "Sample" / "abdomen_ct.nii.gz"
LABELS = REPOSITORY / "Resources" / "Sample" / "abdomen_ct_labels.nii.gz"
OBLIQUE = REPOSITORY.parent / "shared" / "data" / "odd" / "dicom_mr_t2_tra_oblique19"
FLIP = np.diag([-1.0, -1.0, 1.0])  # between ITK's LPS and RAS


def geometry_of(image: sitk.Image) -> VolumeGeometry:
    matrix = np.eye(4)
    matrix[:3, :3] = FLIP @ np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = FLIP @ image.GetOrigin()
    return VolumeGeometry(image.GetSize(), matrix)


def ras_of(image: sitk.Image, index: tuple[int, int, int]) -> tuple[float, ...]:
    """Where ITK says that a voxel is."""
    return tuple((FLIP @ image.TransformIndexToPhysicalPoint(index)).tolist())


def oblique_series() -> sitk.Image:
    if not OBLIQUE.is_dir():
        pytest.skip(f"needs the oblique DICOM series in {OBLIQUE}")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(OBLIQUE)))
    return reader.Execute()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_prompts_on_a_labeled_ct(axis: int) -> None:
    image, labels = sitk.ReadImage(str(CT)), sitk.GetArrayFromImage(sitk.ReadImage(str(LABELS)))
    volume, geometry = sitk.GetArrayFromImage(image), geometry_of(image)
    check_volume(volume, geometry)
    stack = FrameStack(volume, geometry, axis, window_for(volume))
    assert stack.window == Window.preset("soft-tissue")
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    for value in values[np.argsort(counts)[-5:]]:
        organ = labels == value
        index = int(organ.sum(axis=tuple({0, 1, 2} - {2 - axis})).argmax())
        pixels = native_frame(organ, index, axis)
        inside = np.argwhere(np.take(organ, [index], 2 - axis))
        k, j, i = (int(one) for one in inside[len(inside) // 2])
        voxel = [i, j, k]
        voxel[axis] = index
        click = Click("c", ras_of(image, tuple(voxel)))
        corners = np.argwhere(pixels).min(axis=0), np.argwhere(pixels).max(axis=0)
        points = [geometry.ras_of_pixel(x, y, index, axis) for y, x in corners]
        prompts = SegmentPrompts("organ", clicks=(click,), boxes=(box_around(points, geometry, axis, "b"),))
        found = resolve(prompts.add(mask_at(pixels, index, geometry, axis)), geometry, axis)
        assert list(found.keyframes) == [index]
        frame = found.keyframes[index]
        x, y, _ = frame.clicks[0]
        assert pixels[round(y), round(x)]
        assert np.allclose(frame.box, (corners[0][1], corners[0][0], corners[1][1], corners[1][0]))
        assert np.array_equal(frame.mask, pixels)
        # The gray under the click is that of the voxel that ITK finds there.
        value = image.GetPixel(*voxel)
        assert stack.frame(index)[round(y), round(x)] == stack.window.apply(np.array([value]))[0]


def test_clicks_on_an_oblique_series() -> None:
    image = oblique_series()
    volume, geometry = sitk.GetArrayFromImage(image), geometry_of(image)
    assert np.abs(geometry.ijk_to_ras[:3, :3]).min() > 0, "the series is oblique in every direction"
    assert str(geometry.plane_name(2)) == "axial" and choose_axis(PromptSet(), geometry) == 2
    check_volume(volume, geometry)
    rng = np.random.default_rng(3)
    for _ in range(50):
        index = tuple(int(rng.integers(size)) for size in image.GetSize())
        click = Click("c", ras_of(image, index))
        for axis in range(3):
            (frame, found), *_ = resolve(SegmentPrompts("a", (click,)), geometry, axis).keyframes.items()
            x, y, _ = found.clicks[0]
            assert frame == index[axis]
            assert native_frame(volume, frame, axis)[round(y), round(x)] == image.GetPixel(*index)
