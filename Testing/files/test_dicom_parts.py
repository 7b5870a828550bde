"""DICOM series of several acquisitions: one volume where they lie end to end, else a choice."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.dicom_file import TIME_MARK, ImageHeader, read_headers
from SAM2PropagateLib.files.volume import read_only_volume, read_volume
from Testing.files.dicom_writing import (
    CORONAL,
    CT,
    MR,
    Edit,
    along_z,
    ball,
    enhanced,
    file_of,
    item,
    save,
    write_classic,
)


def refusal(path: Path, series: str | None = None, part: str | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        read_volume(path, series, part)
    assert "\n" not in str(caught.value)
    # What is wrong and what to do: no more than three sentences.
    assert len(re.findall(r"[.!?](?= [A-Z])", str(caught.value))) <= 2
    return caught.value


def by_number(acquisition: int) -> Edit:
    def edit(dataset: Dataset, number: int) -> None:
        dataset.AcquisitionNumber = acquisition

    return edit


def by_time(acquisition: int) -> Edit:
    def edit(dataset: Dataset, number: int) -> None:
        dataset.AcquisitionTime = f"10000{acquisition}.0"

    return edit


def by_time_of_each_slice(acquisition: int) -> Edit:
    def edit(dataset: Dataset, number: int) -> None:
        dataset.AcquisitionTime = f"10{acquisition:02d}{number:02d}.5"

    return edit


def by_number_of_each_slice(acquisition: int) -> Edit:
    def edit(dataset: Dataset, number: int) -> None:
        dataset.AcquisitionNumber = dataset.InstanceNumber = 20 * acquisition + number

    return edit


def by_instance(acquisition: int) -> Edit:
    def edit(dataset: Dataset, number: int) -> None:
        dataset.InstanceNumber = 100 * acquisition + number

    return edit


def by_content_time(acquisition: int) -> Edit:
    def edit(dataset: Dataset, number: int) -> None:
        dataset.ContentTime = f"10000{acquisition}.0"
        del dataset.InstanceNumber

    return edit


def by_time_point(acquisition: int) -> Edit:
    def edit(dataset: Dataset, number: int) -> None:
        dataset.TemporalPositionIdentifier = acquisition

    return edit


KINDS = {
    "acquisition number": by_number,
    "acquisition time": by_time,
    "time of each slice": by_time_of_each_slice,
    "number of each slice": by_number_of_each_slice,
    "instance number": by_instance,
    "content time": by_content_time,
    "time point": by_time_point,
}
IN = ball(12)
OUT = (ball(12, radius=7) - 700).astype(np.int16)
FEW = 5
FEW_IN, FEW_OUT = IN[:FEW], OUT[:FEW]


def two(folder: Path, kind: str, step: float, shift: float) -> Path:
    """Two acquisitions of a few slices, the second one `shift` mm above the first."""
    write_classic(folder, FEW_IN, along_z(FEW, step), edit=KINDS[kind](1), prefix="a")
    write_classic(folder, FEW_OUT, along_z(FEW, step, -20 + shift), edit=KINDS[kind](2), prefix="b")
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", [0.3, 1.5, 7.5, 10.5])
def test_overlapping_acquisitions_are_named_and_one_can_be_chosen(
    tmp_path: Path, kind: str, shift: float
) -> None:
    folder = two(tmp_path, kind, 3.0, shift)
    error = refusal(folder)
    assert error.code == "several_acquisitions" and "2 acquisitions" in error.sentence
    assert "5 slices, S -20.0 to -8.0 mm" in error.hint
    assert f"5 slices, S {-20 + shift:.1f} to {-8 + shift:.1f} mm" in error.hint
    for part, array, start in (("1", FEW_IN, -20.0), ("2", FEW_OUT, -20 + shift)):
        volume = read_volume(folder, part=part)
        assert np.array_equal(volume.array, array)
        assert volume.geometry.spacing == pytest.approx((1, 1, 3))
        assert volume.geometry.ijk_to_ras[2, 3] == pytest.approx(start)
        assert f"Part {part} is read" in volume.notes[0]


def test_alternating_slices_can_be_read_as_the_one_volume_that_they_may_be(tmp_path: Path) -> None:
    folder = two(tmp_path, "acquisition number", 10.0, 5.0)
    assert "--part all" in refusal(folder).hint
    volume = read_volume(folder, part="all")
    assert volume.geometry.spacing == pytest.approx((1, 1, 5))
    assert np.array_equal(volume.array[::2], FEW_IN) and np.array_equal(volume.array[1::2], FEW_OUT)


def test_all_parts_together_are_offered_only_where_they_are_even(tmp_path: Path) -> None:
    folder = two(tmp_path, "acquisition number", 10.0, 4.0)
    error = refusal(folder)
    assert error.code == "several_acquisitions" and "--part all" not in error.hint
    assert refusal(folder, part="all").code == "uneven_spacing"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "instance number"])
def test_acquisitions_at_the_same_places_can_be_chosen(tmp_path: Path, kind: str) -> None:
    folder = two(tmp_path, kind, 3.0, 0.0)
    error = refusal(folder)
    assert error.code == "several_images_per_position" and "5 of 5 slice positions" in error.sentence
    assert np.array_equal(read_volume(folder, part="1").array, FEW_IN)
    assert np.array_equal(read_volume(folder, part="2").array, FEW_OUT)


def test_phases_of_a_heart_are_told_apart_by_the_order_of_their_trigger_times(tmp_path: Path) -> None:
    for phase, array in enumerate((IN, OUT)):

        def edit(dataset: Dataset, number: int, phase: int = phase) -> None:
            # The times differ a little from slice to slice.
            dataset.TriggerTime = 400 * phase + number
            dataset.InstanceNumber = 2 * number + phase

        write_classic(tmp_path, array, along_z(12), edit=edit, storage=MR, modality="MR", prefix="ab"[phase])
    assert "2 (trigger time no. 2, 12 slices" in refusal(tmp_path).hint
    assert np.array_equal(read_volume(tmp_path, part="2").array, OUT)


@pytest.mark.parametrize("shift", [0.4, 1.5])
def test_instance_numbers_that_are_used_twice_betray_two_stacks(tmp_path: Path, shift: float) -> None:
    write_classic(tmp_path, IN, along_z(12), prefix="a")
    write_classic(tmp_path, OUT, along_z(12, start=-20 + shift), prefix="b")
    assert refusal(tmp_path).code == "several_acquisitions"
    assert np.array_equal(read_volume(tmp_path, part="1").array, IN)
    assert np.array_equal(read_volume(tmp_path, part="2").array, OUT)


def test_the_list_says_when_each_acquisition_was_taken(tmp_path: Path) -> None:
    def edit(dataset: Dataset, number: int) -> None:
        dataset.AcquisitionNumber, dataset.AcquisitionTime = 4, f"0959{number:02d}.250000"

    write_classic(tmp_path, IN, along_z(12), edit=edit, prefix="a")
    write_classic(tmp_path, OUT, along_z(12, start=-18), edit=by_number(5), prefix="b")
    assert "1 (acquisition 4, from 09:59:00.25, 12 slices, S" in refusal(tmp_path).hint


def test_one_slice_over_time_is_no_volume(tmp_path: Path) -> None:
    write_classic(tmp_path, IN, [(0, 0, 0)] * 12, edit=lambda dataset, n: by_time_point(n + 1)(dataset, n))
    error = refusal(tmp_path)
    assert error.code == "too_few_slices" and "12 images, all of one slice" in error.sentence


def test_two_enhanced_files_of_one_series_are_told_apart(tmp_path: Path) -> None:
    save(enhanced(IN, along_z(12)), tmp_path / "a.dcm")
    save(enhanced(OUT, along_z(12)), tmp_path / "b.dcm")
    assert "2 (file b.dcm, 12 slices" in refusal(tmp_path).hint
    assert np.array_equal(read_volume(tmp_path, part="2").array, OUT)


def test_all_series_together_are_told_apart_by_their_descriptions(tmp_path: Path) -> None:
    for name, array in (("inspiration", IN), ("expiration", OUT)):

        def edit(dataset: Dataset, number: int, name: str = name) -> None:
            dataset.SeriesDescription, dataset.SeriesInstanceUID = name, f"1.2.826.{len(name)}"

        write_classic(tmp_path, array, along_z(12), edit=edit, prefix=name)
    assert "1 (series expiration, 12 slices" in refusal(tmp_path, "all").hint
    assert np.array_equal(read_volume(tmp_path, "all", "2").array, IN)


def per_table_pass(dataset: Dataset, number: int) -> None:
    dataset.AcquisitionNumber = number // 4 + 1
    dataset.AcquisitionTime = f"1000{number // 4:02d}"


def per_slice(dataset: Dataset, number: int) -> None:
    dataset.AcquisitionNumber = number + 1
    dataset.AcquisitionTime = f"1000{number:02d}"


def downward(dataset: Dataset, number: int) -> None:
    dataset.InstanceNumber = 100 - number
    dataset.AcquisitionTime = f"1000{59 - number:02d}"


def four_rows_downward(dataset: Dataset, number: int) -> None:
    dataset.AcquisitionNumber = 10 - number // 4
    dataset.AcquisitionTime = f"1000{10 - number // 4:02d}"
    dataset.InstanceNumber = 4 * (3 - number // 4) + number % 4


def two_rows_downward(dataset: Dataset, number: int) -> None:
    dataset.AcquisitionTime = f"1000{30 - number // 2:02d}"


def inexact_times(dataset: Dataset, number: int) -> None:
    dataset.AcquisitionTime = f"10000{(1, 1, 2, 1, 2, 2, 3, 2, 3, 3, 4, 3)[number]}"
    dataset.ContentTime = f"10000{(1, 2, 1, 2, 1, 2, 1, 2, 3, 3, 2, 3)[number]}"
    dataset.AcquisitionNumber = 1


def some_without_number(dataset: Dataset, number: int) -> None:
    if number % 2:
        dataset.AcquisitionNumber = 1


def renumbered(dataset: Dataset, number: int) -> None:
    dataset.InstanceNumber = (7, 2, 9, 0, 11, 4, 1, 8, 3, 10, 6, 5)[number]


def region_by_region(dataset: Dataset, number: int) -> None:
    # The second half was scanned first, and in the other direction.
    dataset.AcquisitionNumber = 2 if number < 6 else 1
    dataset.AcquisitionTime = f"10{30 + number if number < 6 else 20 - number:02d}00"


@pytest.mark.parametrize(
    "edit",
    [
        per_table_pass,
        per_slice,
        downward,
        four_rows_downward,
        two_rows_downward,
        inexact_times,
        some_without_number,
        renumbered,
        region_by_region,
    ],
)
def test_acquisitions_end_to_end_are_one_volume(tmp_path: Path, edit: Edit) -> None:
    write_classic(tmp_path, IN, along_z(12), edit=edit)
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, IN) and volume.notes == ()


def test_neighboring_mr_slices_are_taken_at_different_times(tmp_path: Path) -> None:
    def edit(dataset: Dataset, number: int) -> None:
        dataset.AcquisitionTime = f"1000{30 * (number % 2):02d}"
        dataset.InstanceNumber = number // 2 + 6 * (number % 2)

    write_classic(tmp_path, IN, along_z(12), edit=edit, storage=MR, modality="MR")
    assert np.array_equal(read_volume(tmp_path).array, IN)


@pytest.mark.parametrize(("step", "start", "reason"), [(1.5, 16.0, "1.50 to 3.00"), (3.0, 60.0, "missing")])
def test_acquisitions_that_do_not_join_are_named(
    tmp_path: Path, step: float, start: float, reason: str
) -> None:
    write_classic(tmp_path, IN, along_z(12), edit=by_number(1), prefix="a")
    write_classic(tmp_path, OUT, along_z(12, step, start), edit=by_number(2), prefix="b")
    error = refusal(tmp_path)
    assert error.code == "several_acquisitions" and reason in error.sentence
    volume = read_volume(tmp_path, part="2")
    assert np.array_equal(volume.array, OUT) and volume.geometry.spacing[2] == pytest.approx(step)


def test_a_missing_slice_stays_one_whatever_the_acquisitions(tmp_path: Path) -> None:
    paths = write_classic(tmp_path, IN, along_z(12), edit=per_table_pass)
    paths[5].unlink()
    error = refusal(tmp_path)
    assert error.code == "missing_slice" and "“a004.dcm” and “a006.dcm”" in error.sentence
    assert refusal(tmp_path, part="1").code == "missing_slice"


def test_two_mixed_stacks_that_nothing_tells_apart_are_not_sent_to_slicer(tmp_path: Path) -> None:
    write_classic(tmp_path, IN, along_z(12), prefix="a", storage=MR, modality="MR")
    write_classic(tmp_path, OUT, along_z(12, start=-19.3), prefix="b", storage=MR, modality="MR")
    error = refusal(tmp_path)
    assert error.code == "uneven_spacing" and "two stacks" in error.sentence and "Slicer" not in error.hint


def test_slices_of_two_sizes_can_be_chosen_from(tmp_path: Path) -> None:
    write_classic(tmp_path, IN, along_z(12), prefix="a")
    write_classic(tmp_path, ball(8, side=20), along_z(8, start=40), prefix="b")
    error = refusal(tmp_path)
    assert error.code == "mixed_sizes" and "--part" in error.hint
    assert np.array_equal(read_volume(tmp_path, part="2").array, ball(8, side=20))
    assert refusal(tmp_path, part="all").code == "mixed_sizes"


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    folder = two(tmp_path / "two", "acquisition number", 10.0, 5.0)
    assert "which has 2 parts: 1 (acquisition 1" in refusal(folder, part="3").sentence
    write_classic(tmp_path / "one", IN, along_z(12))
    error = refusal(tmp_path / "one", part="2")
    assert error.code == "part_unknown" and error.hint == "Leave out --part."
    assert np.array_equal(read_volume(tmp_path / "one", part="1").array, IN)
    assert np.array_equal(read_volume(tmp_path / "one", part="all").array, IN)


def test_copies_under_another_acquisition_are_left_out(tmp_path: Path) -> None:
    write_classic(tmp_path, IN, along_z(12), edit=by_number(1), prefix="a")
    write_classic(tmp_path, IN, along_z(12), edit=by_number(2), prefix="b")
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, IN) and volume.notes == ("12 copies of slices left out.",)


def own_series(dataset: Dataset, number: int) -> None:
    dataset.SeriesInstanceUID = f"1.2.826.9.{number}"


def test_slices_with_series_uids_of_their_own_can_be_read_as_one(tmp_path: Path) -> None:
    write_classic(tmp_path, IN, along_z(12), edit=own_series)
    error = refusal(tmp_path)
    assert error.code == "several_series" and "12 DICOM images" in error.sentence
    assert "--series all" in error.hint and "UID;" not in error.hint
    volume = read_volume(tmp_path, "all")
    assert np.array_equal(volume.array, IN) and "12 series are read as one" in volume.notes[0]
    (tmp_path / "a004.dcm").unlink()
    assert refusal(tmp_path, "all").code == "missing_slice"


def test_a_stray_image_does_not_hide_the_series_below(tmp_path: Path) -> None:
    write_classic(tmp_path / "export" / "ser 1", IN, along_z(12))
    stray = file_of(IN[0], "1.2.840.10008.5.1.4.1.1.7", "OT", "1.2.826.8")
    save(stray, tmp_path / "export" / "report.dcm")
    volume = read_volume(tmp_path / "export")
    assert np.array_equal(volume.array, IN) and "1 other left out" in volume.notes[0]


def test_captures_without_a_place_do_not_hide_the_series_beside(tmp_path: Path) -> None:
    write_classic(tmp_path, IN, along_z(12))
    several = file_of(IN, "1.2.840.10008.5.1.4.1.1.7.2", "OT", "1.2.826.8")
    save(several, tmp_path / "pictures.dcm")
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, IN) and "1 other left out" in volume.notes[0]
    # In the series itself, too.
    save(file_of(IN[0], "1.2.840.10008.5.1.4.1.1.7", "OT"), tmp_path / "report.dcm")
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, IN)
    assert volume.notes[1:] == ("1 picture that a program saved, without a place in the patient, left out.",)
    # What is no capture may be a slice of the series, so leaving it out could leave a hole.
    save(file_of(IN[0], CT, "CT"), tmp_path / "slice.dcm")
    error = refusal(tmp_path)
    assert error.code == "dicom_no_positions" and "slice.dcm" in error.sentence
    assert "Move the file elsewhere" in error.hint


def test_a_slice_of_another_volume_far_away(tmp_path: Path) -> None:
    write_classic(tmp_path, ball(13), [*along_z(12), (-10, 20, 500)])
    error = refusal(tmp_path)
    assert error.code == "missing_slice" and "move them elsewhere" in error.hint
    (tmp_path / "a012.dcm").unlink()
    assert read_volume(tmp_path).array.shape[0] == 12


def test_scouts_above_do_not_hide_the_series_below(tmp_path: Path) -> None:
    def scout(dataset: Dataset, number: int) -> None:
        dataset.SeriesInstanceUID = "1.2.826.8"

    write_classic(tmp_path / "s", IN, along_z(12))
    write_classic(tmp_path, IN[:3], [(0, 30.0 * k, 0) for k in range(3)], edit=scout, orientation=CORONAL)
    error = refusal(tmp_path)
    assert error.code == "several_series" and "1.2.826.7" in error.sentence and "1.2.826.8" in error.sentence
    assert np.array_equal(read_volume(tmp_path, "1.2.826.7").array, IN)


def test_files_without_preamble_are_dicom_too(tmp_path: Path) -> None:
    paths = write_classic(tmp_path, IN, along_z(12), preamble=False)
    assert np.array_equal(read_volume(tmp_path).array, IN)
    assert refusal(paths[0]).code == "single_dicom_slice"
    multi = save(enhanced(IN, along_z(12)), tmp_path / "enhanced.img", preamble=False)
    volume = read_volume(multi)
    assert np.array_equal(volume.array, IN) and volume.geometry.spacing == pytest.approx((1, 1, 3))


def test_values_are_hounsfield_units_whatever_the_display(tmp_path: Path) -> None:
    def edit(dataset: Dataset, number: int) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024

    write_classic(tmp_path, IN, along_z(12), edit=edit)
    assert np.array_equal(read_volume(tmp_path).array, IN - 1024)


def test_bits_beside_the_stored_ones_are_no_values(tmp_path: Path) -> None:
    def edit(dataset: Dataset, number: int) -> None:
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0

    overlay = IN.astype(np.uint16) | np.uint16(0x1000)
    write_classic(tmp_path, overlay, along_z(12), edit=edit)
    assert np.array_equal(read_volume(tmp_path).array, IN)


def test_a_lookup_table_gives_the_values(tmp_path: Path) -> None:
    def edit(dataset: Dataset, number: int) -> None:
        table = item(LUTDescriptor=[1024, 0, 16], LUTData=(3 * np.arange(1024)).astype("<u2").tobytes())
        dataset.ModalityLUTSequence = [table]

    write_classic(tmp_path, IN.astype(np.uint16), along_z(12), edit=edit)
    assert np.array_equal(read_volume(tmp_path).array, IN * 3)


def test_slices_without_pixel_spacing_are_not_taken_as_1_mm(tmp_path: Path) -> None:
    def edit(dataset: Dataset, number: int) -> None:
        del dataset.PixelSpacing

    write_classic(tmp_path, IN, along_z(12), edit=edit)
    assert refusal(tmp_path).code == "dicom_no_spacing"


def test_slices_shifted_sideways_are_refused(tmp_path: Path) -> None:
    positions = [(x + (4 if 3 < k < 8 else 0), y, z) for k, (x, y, z) in enumerate(along_z(12))]
    write_classic(tmp_path, IN, positions)
    error = refusal(tmp_path)
    assert error.code == "shifted_slices" and "by 4.0 mm" in error.sentence


def test_a_folder_of_other_objects_says_what_they_are(tmp_path: Path) -> None:
    structures = file_of(IN[0], "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT")
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(structures, keyword)
    path = save(structures, tmp_path / "rs.dcm")
    error = refusal(tmp_path)
    assert error.code == "no_dicom" and "“rs.dcm” (RT Structure Set)" in error.sentence
    assert refusal(path).code == "no_image" and "RT Structure Set" in refusal(path).sentence


def test_an_empty_file_in_the_place_of_a_slice_is_named(tmp_path: Path) -> None:
    paths = write_classic(tmp_path, IN, along_z(12))
    paths[-1].write_bytes(b"")
    (tmp_path / ".keep").write_bytes(b"")
    volume = read_volume(tmp_path)
    assert volume.array.shape[0] == 11
    assert volume.notes == ("DICOM files that are damaged were left out: “a011.dcm”.",)


def test_a_link_to_a_slice_that_is_not_there_is_named(tmp_path: Path) -> None:
    paths = write_classic(tmp_path, IN, along_z(12))
    paths[-1].unlink()
    paths[-1].symlink_to(tmp_path / "gone.dcm")
    volume = read_volume(tmp_path)
    assert volume.array.shape[0] == 11 and "a011.dcm" in volume.notes[0]


def test_commands_without_these_options_do_not_hear_of_them(tmp_path: Path) -> None:
    write_classic(tmp_path / "own", IN, along_z(12), edit=own_series)
    folder = two(tmp_path / "two", "acquisition number", 10.0, 5.0)
    for path in (tmp_path / "own", folder):
        with pytest.raises(InputError) as caught:
            read_only_volume(path)
        assert "--" not in caught.value.hint and "NRRD" in caught.value.hint


def test_a_part_of_a_file_that_is_not_dicom(tmp_path: Path) -> None:
    path = tmp_path / "v.nrrd"
    path.write_bytes(b"NRRD0004\n")
    assert refusal(path, part="1").code == "part_without_dicom"


def header_at_time(folder: Path, said: bytes) -> ImageHeader:
    """Return the header of a slice that was acquired at a time that a file says with these bytes."""
    longest = "20260101123456.000000+0000"

    def edit(dataset: Dataset, _number: int) -> None:
        dataset.AcquisitionDateTime = longest

    (path,) = write_classic(folder, ball(1), along_z(1), edit=edit)
    # Into the file, as pydicom does not write a time that is none.
    path.write_bytes(path.read_bytes().replace(longest.encode(), said.ljust(len(longest))))
    headers = read_headers(path)
    assert isinstance(headers, tuple)
    return headers[0]


@pytest.mark.parametrize(
    "said", [b"10000\xb2", b"1\xb20000.0", b"20260101\xb200000", "１００００１".encode()], ids=ascii
)
def test_a_time_of_other_digits_is_no_time(tmp_path: Path, said: bytes) -> None:
    header = header_at_time(tmp_path, said)
    assert "acquisition time" not in header.times and header.marks[TIME_MARK] == said.decode("latin-1")


def test_a_time_with_a_fraction_of_other_digits_has_none(tmp_path: Path) -> None:
    header = header_at_time(tmp_path, b"100001.\xb2")
    assert header.times["acquisition time"] == 36001.0 and header.marks[TIME_MARK] == "10:00:01"
