"""Multi-frame DICOM: the frames where they say they lie, with their own values and windows, or a refusal."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.volume import Volume, read_volume
from Testing.files.dicom_writing import (
    AXIAL,
    CORONAL,
    ENHANCED_CT,
    NM,
    along_z,
    ball,
    enhanced,
    file_of,
    item,
    save,
)

# The ball of radius 12 mm, in voxels of 1 x 1 x 3 mm.
MILLILITERS = 4 / 3 * np.pi * 12**3 / 1000


def refusal(path: Path, part: str | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        read_volume(path, part=part)
    assert "\n" not in str(caught.value)
    # What is wrong and what to do: no more than three sentences.
    assert len(re.findall(r"[.!?](?= [A-Z])", str(caught.value))) <= 2
    return caught.value


def milliliters(volume: Volume) -> float:
    """The ball's size by the volume's own spacing."""
    return float((volume.array > 350).sum() * np.prod(volume.geometry.spacing) / 1000)


ORDERS = {
    "sorted": list(range(12)),
    "reversed": list(range(11, -1, -1)),
    "odd ones first": [*range(0, 12, 2), *range(1, 12, 2)],
    "shuffled": [7, 2, 9, 0, 11, 4, 1, 8, 3, 10, 6, 5],
}


@pytest.mark.parametrize("order", ORDERS)
def test_frames_are_sorted_by_their_positions(tmp_path: Path, order: str) -> None:
    array, positions = ball(), along_z(12)
    frames = ORDERS[order]
    path = save(enhanced(array[frames], [positions[frame] for frame in frames]), tmp_path / "e.dcm")
    volume = read_volume(path)
    assert np.array_equal(volume.array, array) and volume.array.dtype == np.int16
    expected = np.array([[-1, 0, 0, 10], [0, -1, 0, -20], [0, 0, 3, -20], [0, 0, 0, 1]])
    assert np.allclose(volume.geometry.ijk_to_ras, expected)
    assert milliliters(volume) == pytest.approx(MILLILITERS, rel=0.03)
    assert (volume.modality, volume.notes) == ("MR", ())


@pytest.mark.parametrize("rounding", [1e-6, 1e-4, 2e-3, 1e-2, 5e-2])
def test_rounded_positions_make_an_even_stack(tmp_path: Path, rounding: float) -> None:
    positions = [(x, y, z + rounding * (number % 2)) for number, (x, y, z) in enumerate(along_z(12))]
    volume = read_volume(save(enhanced(ball(), positions), tmp_path / "e.dcm"))
    assert volume.geometry.spacing == pytest.approx((1, 1, 3), abs=rounding / 10 + 1e-9)
    assert milliliters(volume) == pytest.approx(MILLILITERS, rel=0.03)


@pytest.mark.parametrize("count", range(9, 17))
@pytest.mark.parametrize("step", [0.5, 0.625, 0.75, 1.25])
def test_thin_frames_whose_positions_are_rounded_to_a_tenth(tmp_path: Path, step: float, count: int) -> None:
    positions = [(0.0, 0.0, round(step * number, 1)) for number in range(count)]
    volume = read_volume(save(enhanced(ball(count), positions), tmp_path / "e.dcm"))
    assert volume.geometry.spacing[2] == pytest.approx(step, abs=0.1 / (count - 1))


@pytest.mark.parametrize("digits", [1, 2, 3, 6])
def test_oblique_frames_with_rounded_positions(tmp_path: Path, digits: int) -> None:
    angle = np.radians(17)
    orientation = (1.0, 0.0, 0.0, 0.0, np.cos(angle), -np.sin(angle))
    normal = np.cross(orientation[:3], orientation[3:])
    positions = [np.round((-32.1, -30, -24) + 3.3 * k * normal, digits) for k in range(12)]
    path = save(enhanced(ball(), positions, orientation=np.round(orientation, 6)), tmp_path / "e.dcm")
    geometry = read_volume(path).geometry
    assert geometry.spacing == pytest.approx((1, 1, 3.3), abs=0.01)
    # The last frame lies where the file says, to the rounding.
    first_voxel = np.array(geometry.ras_of_ijk((0, 0, 11)))
    assert np.allclose(first_voxel, positions[11] * (-1, -1, 1), atol=1.5 * 10.0**-digits)


def test_a_missing_frame_is_refused_and_located(tmp_path: Path) -> None:
    kept = [number for number in range(12) if number != 5]
    array, positions = ball(), along_z(12)
    error = refusal(save(enhanced(array[kept], [positions[n] for n in kept]), tmp_path / "e.dcm"))
    assert error.code == "missing_slice"
    assert "A slice is missing" in error.sentence and "10.0, -20.0, -5.0 mm" in error.sentence
    assert "frame 5 of “e.dcm” and frame 6 of “e.dcm”" in error.sentence


def test_an_uneven_step_is_refused_with_its_range(tmp_path: Path) -> None:
    positions = [(x, y, z + (1.4 if k > 6 else 0)) for k, (x, y, z) in enumerate(along_z(12))]
    error = refusal(save(enhanced(ball(), positions), tmp_path / "e.dcm"))
    assert error.code == "uneven_spacing" and "3.00 to 4.40 mm" in error.sentence
    assert "single slices first" in error.hint and "harden that transform" in error.hint


def test_frames_shifted_sideways_are_refused(tmp_path: Path) -> None:
    positions = [(x + (7 if k in (4, 5) else 0), y, z) for k, (x, y, z) in enumerate(along_z(12))]
    error = refusal(save(enhanced(ball(), positions), tmp_path / "e.dcm"))
    assert error.code == "shifted_slices" and "frame 5 of “e.dcm” by 7.0 mm" in error.sentence


def test_a_tilted_stack_is_refused(tmp_path: Path) -> None:
    positions = [(x, y + 0.3 * (z + 20), z) for x, y, z in along_z(12)]
    error = refusal(save(enhanced(ball(), positions), tmp_path / "e.dcm"))
    assert error.code == "gantry_tilt" and "16.7 degrees" in error.sentence


def echo(frames_per_place: int) -> object:
    def edit(group: Dataset, number: int) -> None:
        group.MREchoSequence = [item(EffectiveEchoTime=10.0 + 40 * (number % frames_per_place))]

    return edit


def time_point(frames: int) -> object:
    def edit(group: Dataset, number: int) -> None:
        group.FrameContentSequence[0].TemporalPositionIndex = number // frames + 1

    return edit


def component(group: Dataset, number: int) -> None:
    group.MRImageFrameTypeSequence = [item(ComplexImageComponent=("MAGNITUDE", "PHASE")[number % 2])]


def diffusion(group: Dataset, number: int) -> None:
    group.MRDiffusionSequence = [item(DiffusionBValue=float(800 * (number % 2)))]


def acquisition(group: Dataset, number: int) -> None:
    group.FrameContentSequence[0].FrameAcquisitionNumber = number % 2 + 1


FASTEST = [number // 2 for number in range(24)]
SLOWEST = [*range(12), *range(12)]
SEVERAL = {
    "echoes": (echo(2), FASTEST, "echo time 10 ms", "echo time 50 ms"),
    "time points": (time_point(12), SLOWEST, "time point 1", "time point 2"),
    "components": (component, FASTEST, "component MAGNITUDE", "component PHASE"),
    "b-values": (diffusion, FASTEST, "b-value 0", "b-value 800"),
    "acquisitions": (acquisition, FASTEST, "acquisition 1", "acquisition 2"),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_frames_at_one_place_are_told_apart_and_one_can_be_chosen(tmp_path: Path, kind: str) -> None:
    edit, places, first, second = SEVERAL[kind]
    array, positions = ball(), along_z(12)
    number_of = [places[:frame].count(place) for frame, place in enumerate(places)]
    frames = np.stack([array[place] + 1000 * n for place, n in zip(places, number_of, strict=True)])
    dataset = enhanced(frames, [positions[place] for place in places], edit=edit)  # type: ignore[arg-type]
    path = save(dataset, tmp_path / "e.dcm")
    error = refusal(path)
    assert error.code == "several_images_per_position"
    assert "12 of 12 slice positions" in error.sentence
    assert f"1 ({first}, 12 slices, S -20.0 to 13.0 mm)" in error.hint
    assert f"2 ({second}, 12 slices, S -20.0 to 13.0 mm)" in error.hint and "--part" in error.hint
    for part, added in (("1", 0), ("2", 1000)):
        volume = read_volume(path, part=part)
        assert np.array_equal(volume.array, array + added)
        assert volume.geometry.spacing == pytest.approx((1, 1, 3))
        assert f"Part {part} is read" in volume.notes[0]
    assert refusal(path, "3").code == "part_unknown"
    assert refusal(path, "all").code == "several_images_per_position"


def test_echoes_at_several_times_are_listed_one_by_one(tmp_path: Path) -> None:
    positions = along_z(6)
    array = np.concatenate([ball(6) + 100 * n for n in range(4)])

    def edit(group: Dataset, number: int) -> None:
        group.MREchoSequence = [item(EffectiveEchoTime=(10.0, 50.0)[number // 6 % 2])]
        group.FrameContentSequence[0].TemporalPositionIndex = number // 12 + 1

    path = save(enhanced(array, positions * 4, edit=edit), tmp_path / "e.dcm")
    assert "4 (echo time 50 ms, time point 2, 6 slices" in refusal(path).hint
    assert np.array_equal(read_volume(path, part="4").array, array[18:])
    assert np.array_equal(read_volume(path, part="2").array, array[12:18])


def test_empty_slices_of_two_components_are_no_copies(tmp_path: Path) -> None:
    array = np.repeat(ball(), 2, axis=0)
    array[1::2] *= -1
    # Both components are empty on the first slice and on one in the middle.
    array[:2] = array[12:14] = 0
    positions = [position for position in along_z(12) for _ in range(2)]
    path = save(enhanced(array, positions, edit=component), tmp_path / "e.dcm")
    error = refusal(path)
    assert error.code == "several_images_per_position" and error.sentence.startswith("12 of 12")
    for number in range(2):
        volume = read_volume(path, part=str(number + 1))
        assert np.array_equal(volume.array, array[number::2])


def test_frames_that_only_their_order_tells_apart(tmp_path: Path) -> None:
    array = np.concatenate([ball(), ball() * 2])
    slowest = save(enhanced(array, along_z(12) * 2), tmp_path / "slowest.dcm")
    by_turns = np.stack([array[:12], array[12:]], axis=1).reshape(24, *array.shape[1:])
    positions = [position for position in along_z(12) for _ in range(2)]
    fastest = save(enhanced(by_turns, positions), tmp_path / "fastest.dcm")
    for path in (slowest, fastest):
        assert "1 (frame no. 1, 12 slices" in refusal(path).hint
        assert np.array_equal(read_volume(path, part="2").array, array[12:])


def test_frames_of_two_stacks_side_by_side(tmp_path: Path) -> None:
    left = along_z(12)
    right = [(x + 60, y, z) for x, y, z in left]
    # The same values, but another place: no copies.
    path = save(enhanced(np.concatenate([ball(), ball()]), left + right), tmp_path / "e.dcm")
    assert refusal(path).code == "several_images_per_position"
    assert read_volume(path, part="2").geometry.ijk_to_ras[0, 3] == pytest.approx(10 - 60)


def test_frames_that_call_themselves_localizers_are_left_out(tmp_path: Path) -> None:
    def edit(group: Dataset, number: int) -> None:
        flavor = "LOCALIZER" if number >= 12 else "VOLUME"
        group.CTImageFrameTypeSequence = [item(FrameType=["ORIGINAL", "PRIMARY", flavor, "NONE"])]
        if number >= 12:
            group.PlaneOrientationSequence = [item(ImageOrientationPatient=list(CORONAL))]

    array = np.concatenate([ball(), ball(2)])
    file = enhanced(array, along_z(14), edit=edit, storage=ENHANCED_CT, modality="CT")
    volume = read_volume(save(file, tmp_path / "e.dcm"))
    assert np.array_equal(volume.array, ball()) and volume.notes == ("2 localizer images left out.",)


def test_private_sequences_of_a_frame_say_nothing_of_it(tmp_path: Path) -> None:
    def edit(group: Dataset, number: int) -> None:
        other = item(ImagePositionPatient=[0, 0, 0], RescaleSlope=99, WindowWidth=7, WindowCenter=3)
        group.private_block(0x2005, "MAKER", create=True).add_new(0x0F, "SQ", [other])

    volume = read_volume(save(enhanced(ball(), along_z(12), edit=edit), tmp_path / "e.dcm"))
    assert np.array_equal(volume.array, ball()) and volume.window is None
    assert volume.geometry.spacing == pytest.approx((1, 1, 3))


def test_dimensions_of_the_file_tell_frames_apart_when_nothing_else_does(tmp_path: Path) -> None:
    def edit(group: Dataset, number: int) -> None:
        group.FrameContentSequence[0].DimensionIndexValues = [number // 6 + 1, number % 6 + 1]

    array = np.concatenate([ball(6), ball(6) + 300])
    dataset = enhanced(array, along_z(6) * 2, edit=edit)
    pointers = (0x00189344, 0x00209057)  # phase of the contrast agent, place in the stack
    dataset.DimensionIndexSequence = [item(DimensionIndexPointer=pointer) for pointer in pointers]
    path = save(dataset, tmp_path / "e.dcm")
    assert "2 (contrast/bolus agent phase 2, 6 slices" in refusal(path).hint
    assert np.array_equal(read_volume(path, part="2").array, array[6:])


def test_two_orientations_in_one_file_are_refused_and_one_can_be_chosen(tmp_path: Path) -> None:
    array = ball()

    def edit(group: Dataset, number: int) -> None:
        orientation = AXIAL if number < 8 else CORONAL
        group.PlaneOrientationSequence = [item(ImageOrientationPatient=list(orientation))]

    positions = [*along_z(8), *[(-10.0, 5.0 * k, 30.0) for k in range(4)]]
    dataset = enhanced(array, positions, edit=edit)
    del dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    path = save(dataset, tmp_path / "e.dcm")
    error = refusal(path)
    assert error.code == "mixed_orientations" and "8 axial, 4 coronal" in error.sentence
    coronal = read_volume(path, part="2")
    assert np.array_equal(coronal.array, array[8:]) and coronal.geometry.spacing == pytest.approx((1, 1, 5))
    assert np.array_equal(read_volume(path, part="1").array, array[:8])


def test_two_stacks_end_to_end_with_a_gap_are_named(tmp_path: Path) -> None:
    def edit(group: Dataset, number: int) -> None:
        group.FrameContentSequence[0].StackID = str(number // 6 + 1)

    path = save(enhanced(ball(), [*along_z(6), *along_z(6, start=40)], edit=edit), tmp_path / "e.dcm")
    error = refusal(path)
    assert error.code == "several_acquisitions" and "missing" in error.sentence
    assert "1 (stack 1, 6 slices, S -20.0 to -5.0 mm); 2 (stack 2, 6 slices, S 40.0 to 55.0 mm)" in error.hint
    assert np.array_equal(read_volume(path, part="2").array, ball()[6:])


def test_each_frame_is_rescaled_as_it_says(tmp_path: Path) -> None:
    slopes = [1 + 0.25 * number for number in range(12)]

    def edit(group: Dataset, number: int) -> None:
        macro = item(RescaleSlope=slopes[number], RescaleIntercept=-number, RescaleType="US")
        group.PixelValueTransformationSequence = [macro]

    array = ball()
    order = ORDERS["shuffled"]
    dataset = enhanced(array[order], [along_z(12)[n] for n in order], edit=lambda g, n: edit(g, order[n]))
    del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    volume = read_volume(save(dataset, tmp_path / "e.dcm"))
    expected = array * np.reshape(slopes, (12, 1, 1)) - np.arange(12).reshape(12, 1, 1)
    assert np.allclose(volume.array, expected)


def test_the_shared_rescaling_gives_whole_hounsfield_units(tmp_path: Path) -> None:
    dataset = enhanced((ball() + 1024).astype(np.uint16), along_z(12), storage=ENHANCED_CT, modality="CT")
    dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleIntercept = -1024
    volume = read_volume(save(dataset, tmp_path / "e.dcm"))
    assert np.array_equal(volume.array, ball()) and volume.array.dtype == np.int16 and volume.modality == "CT"


def test_the_window_of_the_functional_groups_is_seen(tmp_path: Path) -> None:
    shared = enhanced(ball(), along_z(12))
    macro = item(WindowWidth=[400, 1500], WindowCenter=[40, -600])
    shared.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [macro]
    assert read_volume(save(shared, tmp_path / "shared.dcm")).window == (400, 40)

    def edit(group: Dataset, number: int) -> None:
        group.FrameVOILUTSequence = [item(WindowWidth=300 + 10 * number, WindowCenter=100 + number)]

    own = save(enhanced(ball(), along_z(12), edit=edit), tmp_path / "own.dcm")
    assert read_volume(own).window == (355, 105.5)


def test_a_window_of_one_value_is_no_window(tmp_path: Path) -> None:
    dataset = enhanced(ball(), along_z(12))
    dataset.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [item(WindowWidth=1, WindowCenter=40)]
    assert read_volume(save(dataset, tmp_path / "e.dcm")).window is None


def test_the_pixel_spacing_of_the_frames(tmp_path: Path) -> None:
    def edit(group: Dataset, number: int) -> None:
        group.PixelMeasuresSequence = [item(PixelSpacing=[0.5, 0.25] if number < 10 else [0.6, 0.25])]

    dataset = enhanced(ball(), along_z(12), edit=edit)
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    path = save(dataset, tmp_path / "e.dcm")
    error = refusal(path)
    assert error.code == "mixed_sizes" and "10 of 40 x 40 pixels of 0.5 x 0.25 mm" in error.sentence
    assert read_volume(path, part="1").geometry.spacing == pytest.approx((0.25, 0.5, 3))
    del dataset.PerFrameFunctionalGroupsSequence[3].PixelMeasuresSequence
    assert refusal(save(dataset, tmp_path / "e.dcm")).code == "dicom_no_spacing"


def test_a_frame_without_a_place_is_named(tmp_path: Path) -> None:
    dataset = enhanced(ball(), along_z(12))
    del dataset.PerFrameFunctionalGroupsSequence[6].PlanePositionSequence
    error = refusal(save(dataset, tmp_path / "e.dcm"))
    assert error.code == "dicom_no_positions" and error.sentence.startswith("Frame 7 of “")


def test_a_volume_in_two_enhanced_files_is_one(tmp_path: Path) -> None:
    array, positions = ball(), along_z(12)
    save(enhanced(array[:7], positions[:7]), tmp_path / "b.dcm")
    save(enhanced(array[7:], positions[7:]), tmp_path / "a.dcm")
    assert np.array_equal(read_volume(tmp_path).array, array)


@pytest.mark.parametrize("preamble", [True, False])
@pytest.mark.parametrize(
    ("storage", "what"),
    [
        ("1.2.840.10008.5.1.4.1.1.3.1", "Ultrasound Multi-frame Image"),
        ("1.2.840.10008.5.1.4.1.1.2", "CT Image"),
        ("1.2.840.10008.5.1.4.1.1.7.2", "secondary capture of 12 frames"),
    ],
)
def test_frames_without_places_are_refused_with_and_without_preamble(
    tmp_path: Path, storage: str, what: str, preamble: bool
) -> None:
    dataset = file_of(ball(), storage, "OT")
    # The place of the first frame says nothing of the others.
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], list(AXIAL)
    dataset.PixelSpacing, dataset.SpacingBetweenSlices = [1, 1], 3
    error = refusal(save(dataset, tmp_path / "m.dcm", preamble))
    assert error.code == "dicom_no_positions" and what in error.sentence and "12 frames" in error.sentence


@pytest.mark.parametrize(
    ("storage", "code", "what"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.4", "is_segmentation", "Segmentation"),
        ("1.2.840.10008.5.1.4.1.1.481.2", "no_image", "RT Dose"),
    ],
)
def test_other_objects_are_refused_as_what_they_are(
    tmp_path: Path, storage: str, code: str, what: str
) -> None:
    path = save(enhanced(ball(), along_z(12), storage=storage), tmp_path / "o" / "o.dcm")
    error = refusal(path)
    assert error.code == code and what in error.sentence
    # Beside an image they do not count.
    save(enhanced(ball(), along_z(12)), tmp_path / "o" / "i.dcm")
    volume = read_volume(tmp_path / "o")
    assert np.array_equal(volume.array, ball()) and f"“o.dcm” ({what})" in volume.notes[0]


@pytest.mark.parametrize("distance", [3.0, -3.0])
def test_a_reconstructed_nuclear_medicine_file_lies_where_its_detector_says(
    tmp_path: Path, distance: float
) -> None:
    dataset = file_of(ball(), NM, "NM")
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    dataset.PixelSpacing, dataset.SpacingBetweenSlices = [1, 1], distance
    place = item(ImagePositionPatient=[-10, 20, -20], ImageOrientationPatient=list(AXIAL))
    dataset.DetectorInformationSequence, dataset.SliceVector = [place], list(range(1, 13))
    volume = read_volume(save(dataset, tmp_path / "nm.dcm"))
    assert np.array_equal(volume.array, ball()[:: 1 if distance > 0 else -1])
    assert volume.geometry.ijk_to_ras[2].tolist() == [0, 0, 3, -20 if distance > 0 else -53]
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"]
    assert refusal(save(dataset, tmp_path / "projections.dcm")).code == "dicom_no_positions"


def test_big_endian_values(tmp_path: Path) -> None:
    dataset = enhanced(ball(), along_z(12))
    dataset.PixelData = ball().astype(">i2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert np.array_equal(read_volume(save(dataset, tmp_path / "e.dcm")).array, ball())


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000", "JPEGLS", "RLE"])
def test_compressed_frames_are_decoded_sorted_and_rescaled(tmp_path: Path, compressor: str) -> None:
    array, order = ball() + 24, ORDERS["shuffled"]
    frames = array[order].astype(np.uint16)
    dataset = enhanced(frames, [along_z(12)[n] for n in order])
    macro = dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
    macro.RescaleSlope, macro.RescaleIntercept = 2, -24
    # One shade of gray is light in these, which must not turn the values around.
    dataset.PhotometricInterpretation = "MONOCHROME1"
    if compressor == "RLE":
        dataset.compress(RLELossless, frames)
    else:
        compressed = written_by_itk(frames, tmp_path / "itk.dcm", compressor)
        dataset.file_meta.TransferSyntaxUID = compressed.file_meta.TransferSyntaxUID
        dataset.PixelData = compressed.PixelData
        dataset["PixelData"].is_undefined_length = True
    assert dataset.file_meta.TransferSyntaxUID.is_encapsulated
    path = save(dataset, tmp_path / "e.dcm")
    volume = read_volume(path)
    assert np.array_equal(volume.array, array.astype(int) * 2 - 24)
    path.write_bytes(path.read_bytes()[:-600])
    assert refusal(path).code == "file_damaged"


def written_by_itk(frames: np.ndarray, path: Path, compressor: str) -> Dataset:
    image = sitk.GetImageFromArray(frames)
    image.SetMetaData("0008|0060", "MR")
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.SetFileName(str(path))
    writer.Execute(image)
    return dcmread(path)


def test_an_encoding_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    dataset = enhanced(ball(), along_z(12))
    dataset.compress(RLELossless, ball())
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
    error = refusal(save(dataset, tmp_path / "e.dcm"))
    assert error.code == "unknown_encoding" and "High-Throughput JPEG 2000" in error.sentence


def test_a_cut_enhanced_file_is_damaged(tmp_path: Path) -> None:
    path = save(enhanced(ball(), along_z(12)), tmp_path / "e.dcm")
    content = path.read_bytes()
    for kept in (len(content) - 10, len(content) // 2, 700):
        path.write_bytes(content[:kept])
        assert refusal(path).code == "file_damaged"


def test_a_color_file_is_refused(tmp_path: Path) -> None:
    dataset = enhanced(ball(), along_z(12))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    assert refusal(save(dataset, tmp_path / "e.dcm")).code == "multi_component"


def test_a_dicomdir_points_to_its_folder(tmp_path: Path) -> None:
    dataset = Dataset()
    dataset.file_meta = file_of(ball(1)[0], "1.2", "OT").file_meta
    dataset.SOPInstanceUID, dataset.SOPClassUID = "1.2.3", "1.2.840.10008.1.3.10"
    dataset.DirectoryRecordSequence = []
    error = refusal(save(dataset, tmp_path / "DICOMDIR"))
    assert error.code == "no_image" and "Media Storage Directory" in error.sentence
    assert str(tmp_path) in error.hint
