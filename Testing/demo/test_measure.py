"""What the demonstration measures and where its user clicks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from Demo.measure import (
    NextClick,
    dice,
    doubtful_slices,
    first_to_correct,
    next_click,
    rate,
    read_reference,
)
from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.files.volume import read_volume


def disc(x, y, radius, shape=(40, 50)):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_dice():
    a = np.zeros((4, 4), bool)
    b = a.copy()
    a[0, :4], b[0, 2:], b[1, :2] = True, True, True
    assert dice(a, b) == pytest.approx(0.5)
    assert dice(a, a) == 1.0
    assert dice(a, ~a) == 0.0
    assert dice(a & False, b & False) == 1.0


def test_rate_of_nothing_is_zero():
    assert rate(10, 4.0) == 2.5
    assert rate(0, 0.0) == 0.0


def test_doubtful_slices_are_sorted_over_all_segments_without_their_tips():
    doubts = {"a": dict.fromkeys(range(20), 0.1), "b": {5: 0.3, 6: 0.2, 7: 0.9}}
    doubts["a"] |= {0: 1.0, 1: 0.99, 2: 0.8, 18: 0.98, 19: 1.0}
    found = doubtful_slices(doubts)
    assert [(one.segment, one.frame, one.doubt) for one in found[:4]] == [
        ("b", 7, 0.9),
        ("a", 2, 0.8),
        ("b", 5, 0.3),
        ("b", 6, 0.2),
    ]
    assert [one.rank for one in found] == list(range(1, 20))
    assert {one.frame for one in found if one.segment == "a"} == set(range(2, 18))


def test_the_slice_to_correct_is_the_first_that_needs_it():
    found = doubtful_slices({"a": {4: 0.9, 5: 0.8, 6: 0.7}})
    agreement = {("a", 4): 0.97, ("a", 5): 0.5, ("a", 6): 0.1}
    assert first_to_correct(found, agreement).frame == 5
    assert first_to_correct(found, agreement).rank == 2
    fair = {("a", 4): 0.97, ("a", 5): 0.82, ("a", 6): 0.99}
    assert first_to_correct(found, fair).frame == 5


def test_a_click_goes_into_the_largest_wrong_region():
    truth = disc(25, 20, 9)
    missing = truth & ~disc(31, 20, 4)
    aim = next_click(missing, truth)
    assert aim is not None and aim.positive
    assert truth[int(aim.y), int(aim.x)] and not missing[int(aim.y), int(aim.x)]
    too_much = truth | disc(8, 8, 5)
    assert next_click(too_much, truth) == NextClick(8.0, 8.0, False)
    # Of both faults the deeper one comes first.
    both = (truth & ~disc(33, 20, 2)) | disc(8, 8, 5)
    assert next_click(both, truth) == NextClick(8.0, 8.0, False)
    second = next_click(
        both, truth, [NextClick(8.0, 8.0, False), NextClick(6.0, 6.0, False), NextClick(10.0, 10.0, False)]
    )
    assert second is not None and (second.x - 8) ** 2 + (second.y - 8) ** 2 >= 2.5**2


def test_instead_of_a_worthless_mask_the_middle_is_clicked():
    truth = disc(25, 20, 9)
    # Although the wrong mask is larger than the structure.
    assert next_click(disc(8, 25, 12) & ~truth, truth) == NextClick(25.0, 20.0, True)


def test_nothing_is_left_to_click_on_a_perfect_mask():
    truth = disc(25, 20, 9)
    assert next_click(truth, truth) is None


@pytest.fixture
def labels(tmp_path):
    array = np.zeros((4, 5, 6), np.uint8)
    array[1:3, 1:4, 2:4] = 7
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "labels.nii.gz"))
    (tmp_path / "names.json").write_text(json.dumps({"7": "liver"}), encoding="utf-8")
    return array, tmp_path / "labels.nii.gz", tmp_path / "names.json"


def test_reference_labels_are_read_by_name(labels):
    array, file, names = labels
    geometry = read_volume(file).geometry
    masks = read_reference(file, names, ["liver"], geometry)
    np.testing.assert_array_equal(masks["liver"], array == 7)


def test_reference_labels_of_another_grid_or_without_a_name_are_refused(labels):
    _, file, names = labels
    geometry = read_volume(file).geometry
    shifted = type(geometry)(geometry.shape_ijk, geometry.ijk_to_ras + np.diag([0, 0, 0.5, 0]))
    with pytest.raises(SAM2PropagateError, match="do not belong to the CT"):
        read_reference(file, names, ["liver"], shifted)
    with pytest.raises(SAM2PropagateError, match="do not belong to the CT"):
        read_reference(file, names, ["spleen"], geometry)
