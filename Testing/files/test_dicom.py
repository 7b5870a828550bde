"""DICOM series: read right with their geometry, or refused with the sentence that fits."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.dicom_headers import Series, scan_folder
from SAM2PropagateLib.files.dicom_series import read_series
from SAM2PropagateLib.files.volume import read_volume
from Testing.cli.dicom_files import AXIAL, CORONAL, STEP, some_voxels, write_series, write_slice

ODD = Path(__file__).resolve().parents[3] / "shared" / "data" / "odd"
needs_odd = pytest.mark.skipif(not ODD.is_dir(), reason=f"the odd DICOM series are not there: {ODD}")


def refusal(folder: Path, series: str | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        read_volume(folder, series)
    return caught.value


def test_a_series_is_read_with_voxels_geometry_and_what_it_says_of_itself(tmp_path: Path) -> None:
    voxels = some_voxels()
    tags = {"0028|1050": "50\\-600", "0028|1051": "350\\1500", "0008|103e": "Thorax"}
    write_series(tmp_path / "séries d'été", voxels, tags=tags)
    volume = read_volume(tmp_path / "séries d'été")
    assert np.array_equal(volume.array, voxels) and not volume.array.flags.writeable
    expected = np.array([[-0.7, 0, 0, 10], [0, -0.8, 0, -20], [0, 0, STEP, 30], [0, 0, 0, 1]])
    assert np.allclose(volume.geometry.ijk_to_ras, expected, atol=1e-6)
    assert (volume.modality, volume.window, volume.name) == ("CT", (350.0, 50.0), "séries d'été")
    assert volume.header["description"] == "Thorax" and volume.notes == ()


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, (0.36, 0.48, -0.8, -0.8, 0.6, 0.0)])
def test_the_geometry_agrees_with_the_series_reader_of_itk(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    write_series(tmp_path, some_voxels(), orientation=orientation)
    volume = read_volume(tmp_path)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    image = sitk.ReadImage(names)
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
    for ijk in [(0, 0, 0), (9, 11, 5), (3, 4, 2)]:
        lps = np.array(image.TransformIndexToPhysicalPoint(ijk))
        assert np.allclose(volume.geometry.ras_of_ijk(ijk), lps * (-1, -1, 1), atol=1e-4)


def test_slices_are_ordered_by_position_whatever_their_names(tmp_path: Path) -> None:
    voxels = some_voxels()
    paths = write_series(tmp_path, voxels)
    for number, path in enumerate(paths):
        path.rename(tmp_path / f"{(number * 5) % 7}.ima")
    assert np.array_equal(read_volume(tmp_path).array, voxels)


def test_rescaling_that_differs_between_slices_is_honored(tmp_path: Path) -> None:
    stored = some_voxels(3).astype(np.float32) + 1000
    slopes = (1.0, 0.25, 1.5)
    for number, slope in enumerate(slopes):
        depth = {"0028|0100": "16", "0028|0101": "16", "0028|0102": "15", "0028|0103": "0"}
        write_slice(
            tmp_path / f"{number}.dcm",
            stored[number] * np.float32(slope),
            position=(0, 0, number * 3.0),
            tags={"0008|0060": "PT", "0028|1052": "0", "0028|1053": str(slope), **depth},
        )
    array = read_volume(tmp_path).array
    assert array.dtype == np.float64
    assert np.array_equal(array, stored * np.reshape(slopes, (3, 1, 1)))


def test_positions_rounded_to_a_tenth_are_taken_as_even(tmp_path: Path) -> None:
    distances = [round(0.625 * number, 1) for number in range(6)]
    write_series(tmp_path, some_voxels(), distances=distances)
    assert read_volume(tmp_path).geometry.spacing[2] == pytest.approx(distances[-1] / 5)


def test_a_missing_slice_is_refused_and_located(tmp_path: Path) -> None:
    paths = write_series(tmp_path, some_voxels(8))
    paths[3].unlink()
    error = refusal(tmp_path)
    assert error.code == "missing_slice"
    assert "A slice is missing" in error.sentence
    assert "“s02.dcm” and “s04.dcm”" in error.sentence and "10.0, -20.0, 37.5 mm" in error.sentence


def test_two_neighboring_missing_slices_are_counted(tmp_path: Path) -> None:
    paths = write_series(tmp_path, some_voxels(9))
    for number in (4, 5):
        paths[number].unlink()
    error = refusal(tmp_path)
    assert error.code == "missing_slice" and error.sentence.startswith("2 slices are missing")


@needs_odd
def test_the_real_series_with_a_missing_slice_is_refused() -> None:
    error = refusal(ODD / "dicom_mr_missing_slice18of19")
    assert error.code == "missing_slice"
    assert "“1-07.dcm” and “1-05.dcm”" in error.sentence and "45.6, 100.3, 20.0 mm" in error.sentence


@needs_odd
def test_the_real_oblique_series_lies_where_its_slices_say() -> None:
    folder = ODD / "dicom_mr_t2_tra_oblique19"
    volume = read_volume(folder)
    assert volume.array.shape == (19, 384, 384) and volume.modality == "MR"
    for name, frame in (("1-19.dcm", 0), ("1-10.dcm", 9), ("1-01.dcm", 18)):
        image = sitk.ReadImage(str(folder / name))
        assert np.array_equal(volume.array[frame], sitk.GetArrayFromImage(image)[0])
        for x, y in ((0, 0), (383, 0), (100, 300)):
            lps = np.array(image.TransformIndexToPhysicalPoint((x, y, 0)))
            assert np.allclose(volume.geometry.ras_of_ijk((x, y, frame)), lps * (-1, -1, 1), atol=0.02)
    assert volume.geometry.spacing == pytest.approx((0.5, 0.5, 3.0), abs=1e-3)
    # Every slice has a window of its own; one holds for the volume.
    assert volume.window == (1000.0, 504.0)


def test_uneven_distances_are_refused_with_their_range(tmp_path: Path) -> None:
    write_series(tmp_path, some_voxels(), distances=[0, 2, 4.6, 6.1, 8.9, 10])
    error = refusal(tmp_path)
    assert error.code == "uneven_spacing" and "1.10 to 2.80 mm" in error.sentence
    # What Slicer saves of such a volume is regular only once its transform is hardened.
    assert "harden that transform" in error.hint and "single slices" not in error.hint


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path: Path) -> None:
    write_series(tmp_path, some_voxels(), shift_per_mm=(0, np.tan(np.radians(15)), 0))
    error = refusal(tmp_path)
    assert error.code == "gantry_tilt" and "15.0 degrees" in error.sentence


def test_mixed_orientations_are_refused_and_counted(tmp_path: Path) -> None:
    write_series(tmp_path, some_voxels(3))
    write_series(tmp_path, some_voxels(2), orientation=CORONAL, prefix="c")
    error = refusal(tmp_path)
    assert error.code == "mixed_orientations" and "2 coronal, 3 axial" in error.sentence


def test_slices_of_different_sizes_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, some_voxels(4))
    write_slice(tmp_path / "z.dcm", some_voxels(1, 7, 9)[0], position=(-10, 20, 40))
    error = refusal(tmp_path)
    assert error.code == "mixed_sizes" and "4 of 10 x 12 pixels" in error.sentence


def test_a_localizer_in_the_series_is_left_out_and_said(tmp_path: Path) -> None:
    voxels = some_voxels()
    write_series(tmp_path, voxels)
    write_slice(
        tmp_path / "a.dcm",
        some_voxels(1, 30, 20)[0],
        position=(0, 0, 0),
        orientation=CORONAL,
        tags={"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"},
    )
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, voxels)
    assert volume.notes == ("1 localizer image left out.",)


def test_a_copied_file_counts_once(tmp_path: Path) -> None:
    voxels = some_voxels()
    paths = write_series(tmp_path, voxels)
    shutil.copy(paths[2], tmp_path / "copy of s02.dcm")
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, voxels)
    assert volume.notes == ("1 copy of slices left out.",)


def test_different_images_at_one_position_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, some_voxels())
    write_series(tmp_path, some_voxels() + 1, prefix="t")
    error = refusal(tmp_path)
    assert error.code == "several_images_per_position"
    assert "6 of 6 slice positions" in error.sentence and "“s00.dcm” and “t00.dcm”" in error.sentence


def test_several_series_are_listed_and_one_can_be_chosen(tmp_path: Path) -> None:
    voxels = some_voxels()
    write_series(tmp_path, voxels, tags={"0008|103e": "Arterial"})
    write_series(tmp_path, voxels + 7, prefix="t", series="1.2.826.2", tags={"0008|103e": "Venous"})
    error = refusal(tmp_path)
    assert error.code == "several_series" and "--series" in error.hint
    for part in ("1.2.826.1 (CT “Arterial”, 6 slices)", "1.2.826.2 (CT “Venous”, 6 slices)"):
        assert part in error.sentence
    assert np.array_equal(read_volume(tmp_path, "1.2.826.2").array, voxels + 7)
    assert refusal(tmp_path, "1.2.3").code == "series_unknown"


def test_a_series_without_a_description_is_listed_without_quotes(tmp_path: Path) -> None:
    write_series(tmp_path, some_voxels())
    write_series(tmp_path, some_voxels(), prefix="t", series="1.2.826.2", tags={"0008|103e": "Venous"})
    assert "1.2.826.1 (CT, 6 slices)" in refusal(tmp_path).sentence


def test_the_only_series_with_several_slices_is_taken_and_said(tmp_path: Path) -> None:
    voxels = some_voxels()
    write_series(tmp_path, voxels)
    write_series(tmp_path, voxels[:1], prefix="t", series="1.2.826.2")
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, voxels)
    assert "1 other left out" in volume.notes[0]


def test_subfolders_are_searched_when_the_folder_itself_holds_no_image(tmp_path: Path) -> None:
    write_series(tmp_path / "export" / "ser 1", some_voxels())
    (tmp_path / "readme.txt").write_text("nothing", encoding="utf-8")
    assert read_volume(tmp_path).array.shape == (6, 12, 10)


def test_a_damaged_slice_at_the_end_is_not_lost_in_silence(tmp_path: Path) -> None:
    paths = write_series(tmp_path, some_voxels())
    paths[-1].write_bytes(paths[-1].read_bytes()[:-40])
    volume = read_volume(tmp_path)
    assert volume.array.shape[0] == 5
    assert "damaged" in volume.notes[0] and "“s05.dcm”" in volume.notes[0]


def test_a_damaged_slice_in_the_middle_is_a_missing_slice(tmp_path: Path) -> None:
    paths = write_series(tmp_path, some_voxels())
    paths[2].write_bytes(paths[2].read_bytes()[:-40])
    assert refusal(tmp_path).code == "missing_slice"


def test_one_slice_of_a_series_points_to_its_folder(tmp_path: Path) -> None:
    path = write_series(tmp_path, some_voxels())[0]
    error = refusal(path)
    assert error.code == "single_dicom_slice" and str(tmp_path) in error.hint


def test_a_folder_with_one_slice_has_too_few(tmp_path: Path) -> None:
    write_series(tmp_path, some_voxels(1))
    assert refusal(tmp_path).code == "too_few_slices"


def test_a_color_series_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, np.zeros((3, 6, 5, 3), np.uint8))
    assert refusal(tmp_path).code == "multi_component"


@pytest.mark.parametrize("lacking", ["position", "orientation"])
def test_pictures_without_places_are_refused(tmp_path: Path, lacking: str) -> None:
    write_series(tmp_path, some_voxels())
    series = scan_folder(tmp_path).series[0]
    pictures = tuple(replace(image, **{lacking: None}) for image in series.images)
    with pytest.raises(InputError) as caught:
        read_series(Series(series.uid, pictures))
    assert caught.value.code == "dicom_no_positions" and "s00.dcm" in caught.value.sentence


def test_an_enhanced_file_of_several_frames_is_read(tmp_path: Path) -> None:
    voxels = some_voxels()
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.5, 0.6, 3.0))
    image.SetOrigin((1.0, 2.0, 3.0))
    image.SetMetaData("0008|0060", "MR")
    path = tmp_path / "enhanced.dcm"
    sitk.WriteImage(image, str(path))
    volume = read_volume(path)
    assert np.array_equal(volume.array, voxels) and volume.modality == "MR"
    expected = np.array([[-0.5, 0, 0, -1], [0, -0.6, 0, -2], [0, 0, 3, 3], [0, 0, 0, 1]])
    assert np.allclose(volume.geometry.ijk_to_ras, expected)
    assert volume.notes == ()


def test_frames_without_places_are_refused(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(some_voxels().astype(np.uint8))
    image.SetMetaData("0008|0060", "OT")
    path = tmp_path / "capture.dcm"
    sitk.WriteImage(image, str(path))
    assert refusal(path).code == "dicom_no_positions"


@pytest.mark.parametrize("content", [None, b"", b"just a text\n" * 20])
def test_a_folder_without_images_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "DICOMDIR").write_bytes(content)
        (tmp_path / "notes.txt").write_bytes(content)
    assert refusal(tmp_path).code == "no_dicom"


def test_a_folder_that_may_not_be_searched_is_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "open", some_voxels())
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "a.dcm").write_bytes(b"")
    real = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path.parent.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    (note,) = read_volume(tmp_path).notes
    assert "cannot be read were left out" in note and "a.dcm" in note


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read every file"
)
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = write_series(tmp_path, some_voxels())[1]
    path.chmod(0)
    error = refusal(tmp_path)
    assert error.code == "file_unreadable" and path.name in error.sentence
