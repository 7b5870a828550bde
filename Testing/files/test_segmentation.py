"""Segmentation files: what is written comes back, here and in Slicer; the old file is never lost."""

from __future__ import annotations

import errno
import gzip
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAM2PropagateLib.errors import InputError, SAM2PropagateError
from SAM2PropagateLib.files import atomic
from SAM2PropagateLib.files.scene_prompts import read_prompts
from SAM2PropagateLib.files.segmentation import (
    Segment,
    mask_extent,
    palette_color,
    read_segmentation,
    write_segmentation,
)
from SAM2PropagateLib.frames.geometry import VolumeGeometry

SHAPE = (9, 17, 20)
SCENE = """<MRML>
<Segmentation id="s" name="Organs" references="storage:ss;"></Segmentation>
<SegmentationStorage id="ss" fileName="s.seg.nrrd"></SegmentationStorage>
<MarkupsFiducial id="m" name="clicks" references="storage:ms;SAM2Propagate.Segmentation:s;"
 attributes="SAM2Propagate.Role:positive;SAM2Propagate.SegmentID:Segment_1"></MarkupsFiducial>
<MarkupsFiducialStorage id="ms" fileName="clicks.mrk.json"></MarkupsFiducialStorage>
</MRML>
"""
OVERLAPPING = (
    Path(__file__).resolve().parents[3] / "shared/data/odd/slicerio/SegmentationOverlapping.seg.nrrd"
)


def oblique() -> VolumeGeometry:
    turn = np.array([[0.8, -0.48, 0.36], [0.6, 0.64, -0.48], [0.0, 0.6, 0.8]])
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag([-0.8, 0.9, 2.5])
    matrix[:3, 3] = (12.0, -30.0, 55.123456789)
    return VolumeGeometry((20, 17, 9), matrix)


def block(*edges: slice) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[edges] = True
    return mask


def five_segments() -> list[Segment]:
    """Two that overlap each other, one apart, an empty one, and one that overlaps nearly all."""
    return [
        Segment("Leber ñ 肝", (0.1, 0.2, 0.3), block(slice(2, 5), slice(3, 8), slice(4, 10))),
        Segment(r"b: x|y \n \\ C:\new", (1.0, 0.0, 0.0), block(slice(4, 7), slice(6, 12), slice(8, 15))),
        Segment("corners", (0.0, 1.0, 0.0), block(slice(0, 9, 8), slice(0, 17, 16), slice(0, 20, 19))),
        Segment("empty", (0.0, 0.0, 1.0), np.zeros(SHAPE, bool)),
        Segment("noise", palette_color(0), np.random.default_rng(0).random(SHAPE) > 0.5, id="the noise"),
    ]


def test_names_colors_ids_masks_and_geometry_come_back(tmp_path: Path) -> None:
    path = tmp_path / "fäll 1.seg.nrrd"
    write_segmentation(path, five_segments(), oblique(), comment="made by a test")
    read = read_segmentation(path)
    assert [segment.id for segment in read.segments] == [
        "Segment_1",
        "Segment_2",
        "Segment_3",
        "Segment_4",
        "the noise",
    ]
    for given, got in zip(five_segments(), read.segments, strict=True):
        assert got.name == given.name and got.color == pytest.approx(given.color)
        assert np.array_equal(got.mask, given.mask)
        assert got.tags == {"Segmentation.Status": "inprogress"}
    assert read.geometry.shape_ijk == (20, 17, 9)
    assert np.allclose(read.geometry.ijk_to_ras, oblique().ijk_to_ras, rtol=0, atol=1e-12)


def test_segments_that_do_not_overlap_share_one_layer(tmp_path: Path) -> None:
    path = tmp_path / "s.seg.nrrd"
    write_segmentation(path, five_segments()[::2][:2], oblique())
    header = path.read_bytes().split(b"\n\n")[0].decode()
    assert "dimension: 3" in header and "Segment1_LabelValue:=2" in header


def test_more_segments_than_eight_bits_hold(tmp_path: Path) -> None:
    segments = []
    for number in range(300):
        mask = np.zeros((2, 15, 10), bool)
        mask.flat[number] = True
        segments.append(Segment(f"s{number}", (1.0, 1.0, 1.0), mask))
    path = tmp_path / "many.seg.nrrd"
    write_segmentation(path, segments, VolumeGeometry((10, 15, 2), np.eye(4)))
    read = read_segmentation(path)
    assert len(read.segments) == 300
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(segments, read.segments, strict=True))


def test_a_line_break_in_a_name_cannot_forge_a_field(tmp_path: Path) -> None:
    path = tmp_path / "s.seg.nrrd"
    forged = Segment("liver\nSegment0_LabelValue:=9", (1.0, 0.0, 0.0), five_segments()[0].mask)
    write_segmentation(path, [forged], oblique(), comment="one\n\ntwo")
    (read,) = read_segmentation(path).segments
    assert read.name == "liver Segment0_LabelValue:=9" and read.mask.any()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("back\\slash\\", "back\\slash\\"),
        (r"\n", r"\n"),
        ("a\tb\x00c\x1b[0m\x7f\x85d", "a bc[0md"),
        ("line\u2028separator", "line\u2028separator"),
        (" in the middle ", "in the middle"),
        ("\x07", "Segment_1"),
    ],
)
def test_a_name_comes_back_without_control_characters(tmp_path: Path, given: str, read: str) -> None:
    path = tmp_path / "s.seg.nrrd"
    write_segmentation(path, [Segment(given, (1.0, 0.0, 0.0), five_segments()[0].mask)], oblique())
    assert read_segmentation(path).segments[0].name == read
    # The same from a scene, whose prompts have the names of its segmentation.
    (tmp_path / "clicks.mrk.json").write_text(
        '{"markups": [{"coordinateSystem": "RAS", "controlPoints": [{"id": "1", "position": [1, 2, 3]}]}]}',
        encoding="utf-8",
    )
    (tmp_path / "scene.mrml").write_text(SCENE, encoding="utf-8")
    assert read_prompts(tmp_path / "scene.mrml", oblique()).names == (read,)


def test_names_that_are_written_the_same_get_a_number(tmp_path: Path) -> None:
    path = tmp_path / "s.seg.nrrd"
    mask = five_segments()[0].mask
    write_segmentation(
        path, [Segment(name, (1.0, 0.0, 0.0), mask) for name in ("a", " a ", "a\0")], oblique()
    )
    assert [segment.name for segment in read_segmentation(path).segments] == ["a", "a (2)", "a (3)"]


def test_the_extent_of_a_mask() -> None:
    assert mask_extent(block(slice(2, 5), slice(3, 8), slice(4, 10))) == (4, 9, 3, 7, 2, 4)
    assert mask_extent(np.zeros(SHAPE, bool)) is None


@pytest.mark.parametrize("name", ["out.nrrd", "out.nii.gz", "out", ".seg.nrrd", "out.seg.nrrd.gz"])
def test_other_kinds_of_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        write_segmentation(tmp_path / name, five_segments(), oblique())
    assert caught.value.code == "output_format" and not list(tmp_path.iterdir())


def test_wrong_masks_and_double_ids_are_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mask of 'x'"):
        write_segmentation(
            tmp_path / "s.seg.nrrd", [Segment("x", (1, 1, 1), np.zeros((9, 20, 17), bool))], oblique()
        )
    double = [Segment("x", (1, 1, 1), np.zeros(SHAPE, bool), id="a") for _ in range(2)]
    with pytest.raises(ValueError, match="share an id"):
        write_segmentation(tmp_path / "s.seg.nrrd", double, oblique())
    with pytest.raises(InputError) as caught:
        write_segmentation(tmp_path / "s.seg.nrrd", [], oblique())
    assert caught.value.code == "no_segments" and not list(tmp_path.iterdir())


def test_an_image_is_no_segmentation(tmp_path: Path) -> None:
    header = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n\n"
    (tmp_path / "v.nrrd").write_bytes(header.encode() + bytes(8))
    with pytest.raises(InputError) as caught:
        read_segmentation(tmp_path / "v.nrrd")
    assert caught.value.code == "not_a_segmentation"


@pytest.mark.parametrize(
    ("field", "value"),
    [("Color", "red"), ("LabelValue", "one"), ("Layer", "3"), ("Layer", "-1"), ("Color", "1 0")],
)
def test_a_wrong_description_is_refused(tmp_path: Path, field: str, value: str) -> None:
    path = tmp_path / "s.seg.nrrd"
    write_segmentation(path, five_segments()[:1], oblique())
    header, voxels = path.read_bytes().split(b"\n\n", 1)
    lines = [
        f"Segment0_{field}:={value}" if line.startswith(f"Segment0_{field}:=") else line
        for line in header.decode().splitlines()
    ]
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + voxels)
    with pytest.raises(InputError) as caught:
        read_segmentation(path)
    assert caught.value.code == "not_a_segmentation"


# Never losing what was there


def test_an_existing_file_is_replaced_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "s.seg.nrrd"
    path.write_bytes(b"hours of editing")
    with pytest.raises(InputError) as caught:
        write_segmentation(path, five_segments(), oblique())
    assert caught.value.code == "output_exists" and "--overwrite" in caught.value.hint
    assert path.read_bytes() == b"hours of editing" and list(tmp_path.iterdir()) == [path]
    write_segmentation(path, five_segments(), oblique(), overwrite=True)
    assert len(read_segmentation(path).segments) == 5 and list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        atomic.check_output(tmp_path / ("s" * 300 + ".seg.nrrd"), False)
    assert caught.value.code == "output_unwritable" and caught.value.hint == "Choose a shorter name."
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_searched_is_no_place_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, **_: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refused)
    with pytest.raises(InputError) as caught:
        atomic.check_output(tmp_path / "s.seg.nrrd", False)
    assert caught.value.code == "output_unwritable" and "Permission denied" in caught.value.sentence


class _FullDisk:
    """Lets the first bytes through, then has no space left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self.calls = 0
        original = gzip.GzipFile.write

        def write(stream: gzip.GzipFile, data: Any) -> int:
            self.calls += 1
            if self.calls > self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(stream, data)

        monkeypatch.setattr(gzip.GzipFile, "write", write)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.seg.nrrd"
    path.write_bytes(b"hours of editing")
    disk = _FullDisk(monkeypatch, room=3)
    with pytest.raises(SAM2PropagateError) as caught:
        write_segmentation(path, five_segments(), oblique(), overwrite=True)
    assert disk.calls == 4
    assert caught.value.code == "disk_full" and not isinstance(caught.value, InputError)
    assert path.read_bytes() == b"hours of editing" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which is Linux's")
def test_the_systems_own_error_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.seg.nrrd"
    path.write_bytes(b"hours of editing")

    def full(**_: Any) -> tuple[int, str]:
        return os.open("/dev/full", os.O_WRONLY), str(tmp_path / "scrap")

    monkeypatch.setattr(atomic.tempfile, "mkstemp", full)
    for write in (
        lambda: write_segmentation(path, five_segments(), oblique(), overwrite=True),
        lambda: atomic.check_output(path, overwrite=True),
    ):
        with pytest.raises(SAM2PropagateError) as caught:
            write()
        assert caught.value.code == "disk_full" and "unchanged" in caught.value.hint
    assert path.read_bytes() == b"hours of editing" and list(tmp_path.iterdir()) == [path]


def test_a_failing_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.seg.nrrd"
    path.write_bytes(b"hours of editing")

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(InputError) as caught:
        write_segmentation(path, five_segments(), oblique(), overwrite=True)
    assert caught.value.code == "output_unwritable"
    assert path.read_bytes() == b"hours of editing" and list(tmp_path.iterdir()) == [path]


def test_an_exception_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic.atomic_output(tmp_path / "x", False) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(InputError) as caught, atomic.atomic_output(path, False) as file:
        file.write(b"mine")
        path.write_bytes(b"theirs")
    assert caught.value.code == "output_exists"
    assert path.read_bytes() == b"theirs" and list(tmp_path.iterdir()) == [path]


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    cases = {
        "output_folder_missing": tmp_path / "no such folder" / "s.seg.nrrd",
        "output_is_folder": tmp_path,
    }
    for code, path in cases.items():
        with pytest.raises(InputError) as caught:
            atomic.check_output(path, overwrite=True)
        assert caught.value.code == code
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        atomic.check_output(tmp_path / "file" / "s.seg.nrrd", overwrite=False)
    assert caught.value.code == "output_folder_missing"


@pytest.mark.skipif(
    os.name != "posix" or not Path("/proc").is_dir(), reason="needs a read-only folder: /proc"
)
def test_a_folder_in_which_nobody_may_write() -> None:
    with pytest.raises(InputError) as caught:
        atomic.check_output(Path("/proc/s.seg.nrrd"), overwrite=False)
    assert caught.value.code == "output_unwritable"


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "real" / "s.seg.nrrd"
    target.parent.mkdir()
    target.write_bytes(b"old")
    target.chmod(0o640)
    link = tmp_path / "link.seg.nrrd"
    link.symlink_to(target)
    write_segmentation(link, five_segments(), oblique(), overwrite=True)
    assert link.is_symlink() and stat.S_IMODE(target.stat().st_mode) == 0o640
    assert len(read_segmentation(target).segments) == 5
    mask = os.umask(0o027)
    try:
        write_segmentation(tmp_path / "new.seg.nrrd", five_segments(), oblique())
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new.seg.nrrd").stat().st_mode) == 0o640


# In Slicer


def slicer_masks(path: Path) -> tuple[tuple[Any, ...], dict[str, np.ndarray], np.ndarray]:
    """As Slicer's storage node reads it: ((node, storage, scene), mask by id, matrix IJK to RAS)."""
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    scene = slicer.vtkMRMLScene()
    node, storage = slicer.vtkMRMLSegmentationNode(), slicer.vtkMRMLSegmentationStorageNode()
    scene.AddNode(node)
    scene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    masks, matrix = {}, vtk.vtkMatrix4x4()
    for identifier in segmentation.GetSegmentIDs():
        image = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(identifier, image)
        i0, i1, j0, j1, k0, k1 = image.GetExtent()
        mask = np.zeros(SHAPE, bool)
        values = vtk_to_numpy(image.GetPointData().GetScalars())
        shape = (k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1)
        mask[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1] = values.reshape(shape) != 0
        masks[identifier] = mask
        image.GetImageToWorldMatrix(matrix)
    elements = [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]
    return (node, storage, scene), masks, np.array(elements)


def test_slicer_opens_it_with_names_colors_layers_and_voxels(tmp_path: Path) -> None:
    path = tmp_path / "s.seg.nrrd"
    write_segmentation(path, five_segments(), oblique())
    (node, _, _scene), masks, matrix = slicer_masks(path)
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfLayers() == 3
    assert list(masks) == ["Segment_1", "Segment_2", "Segment_3", "Segment_4", "the noise"]
    for given, (identifier, mask) in zip(five_segments(), masks.items(), strict=True):
        segment = segmentation.GetSegment(identifier)
        assert segment.GetName() == given.name and segment.GetColor() == pytest.approx(given.color)
        assert np.array_equal(mask, given.mask)
    assert np.allclose(matrix, oblique().ijk_to_ras, rtol=0, atol=1e-9)
    reference = segmentation.GetConversionParameter("Reference image geometry").split(";")[:-1]
    assert np.allclose([float(part) for part in reference[:16]], oblique().ijk_to_ras.ravel(), atol=1e-9)
    assert reference[16:] == ["0", "19", "0", "16", "0", "8"]


def test_slicer_opens_a_segmentation_without_a_single_voxel(tmp_path: Path) -> None:
    path = tmp_path / "s.seg.nrrd"
    write_segmentation(path, five_segments()[3:4], oblique())
    (node, _, _scene), masks, _ = slicer_masks(path)
    assert node.GetSegmentation().GetSegment("Segment_1").GetName() == "empty"
    assert not masks["Segment_1"].any()


def test_what_slicer_writes_again_is_the_same(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "a.seg.nrrd", five_segments(), oblique())
    (node, storage, _scene), _, _ = slicer_masks(tmp_path / "a.seg.nrrd")
    storage.SetFileName(str(tmp_path / "b.seg.nrrd"))
    assert storage.WriteData(node)
    for given, got in zip(five_segments(), read_segmentation(tmp_path / "b.seg.nrrd").segments, strict=True):
        assert got.name == given.name and np.array_equal(got.mask, given.mask)


@pytest.mark.skipif(
    not OVERLAPPING.is_file(), reason=f"the overlapping segmentation is not there: {OVERLAPPING}"
)
def test_a_real_overlapping_segmentation_is_read_and_written_again(tmp_path: Path) -> None:
    read = read_segmentation(OVERLAPPING)
    assert [segment.name for segment in read.segments][-2:] == ["tissue", "overlapping sphere"]
    sphere, lung = read.segments[-1].mask, read.segments[4].mask
    assert np.logical_and(sphere, lung).any()
    write_segmentation(tmp_path / "again.seg.nrrd", read.segments, read.geometry)
    again = read_segmentation(tmp_path / "again.seg.nrrd")
    for first, second in zip(read.segments, again.segments, strict=True):
        assert (first.id, first.name, dict(first.tags)) == (second.id, second.name, dict(second.tags))
        assert np.array_equal(first.mask, second.mask)
