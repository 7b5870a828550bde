"""A volume as frames, and which volumes are refused."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.frames import FrameStack, VolumeGeometry, Window, check_volume
from Testing.frames.geometries import AXES, PROFILE, volume_geometries

LIBRARY = Path(__file__).parents[2] / "SAM2Propagate"


def geometry_for(array: np.ndarray) -> VolumeGeometry:
    return VolumeGeometry(array.shape[::-1], np.eye(4))


def code_of(array: np.ndarray, geometry: VolumeGeometry | None = None, axis: int | None = None) -> str:
    with pytest.raises(InputError) as error:
        check_volume(array, geometry or geometry_for(array), axis)
    assert error.value.hint
    return error.value.code


@PROFILE
@given(geometry=volume_geometries(), axis=AXES, seed=st.integers(0, 99))
def test_frames_are_the_native_slices(geometry: VolumeGeometry, axis: int, seed: int) -> None:
    array = np.random.default_rng(seed).integers(-1000, 1000, geometry.shape_ijk[::-1], dtype=np.int16)
    stack = FrameStack(array, geometry, axis, Window(2000, 0))
    assert stack.count == geometry.frame_count(axis) and stack.native_shape == geometry.frame_shape(axis)
    for index in range(stack.count):
        frame = stack.frame(index)
        assert frame.dtype == np.uint8 and frame.flags.c_contiguous and frame.shape == stack.native_shape
        assert np.array_equal(frame, stack.window.apply(np.take(array, index, 2 - axis)))
        assert np.shares_memory(stack.native(index), array)


def test_the_window_is_the_volume_s_and_never_the_slice_s() -> None:
    array = np.zeros((3, 4, 4), dtype=np.int16)
    array[0] += np.arange(4, dtype=np.int16)  # a dark slice
    array[1] += np.arange(4, dtype=np.int16) * 1000  # a bright one
    array[2] = 7  # a constant one
    stack = FrameStack(array, geometry_for(array), 2, Window(255, 127.5))
    assert stack.frame(0)[0].tolist() == [0, 1, 2, 3]
    assert stack.frame(1)[0].tolist() == [0, 255, 255, 255]
    assert set(stack.frame(2).reshape(-1).tolist()) == {7}
    other = stack.with_window(Window(3, 1.5))
    assert other.frame(0)[0].tolist() == [0, 85, 170, 255]
    assert other.array is array and stack.window == Window(255, 127.5)


def test_frames_outside_are_an_error() -> None:
    array = np.zeros((3, 4, 5), dtype=np.int16)
    stack = FrameStack(array, geometry_for(array), 2, Window(1, 0))
    for index in (-1, 3):
        with pytest.raises(IndexError):
            stack.frame(index)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_one_frame_of_main_memory_at_a_time(dtype: type) -> None:
    array = np.zeros((64, 256, 256), dtype=dtype)
    for axis in range(3):
        tracemalloc.start()
        try:
            stack = FrameStack(array, geometry_for(array), axis, Window(400, 40))
            pixels = int(np.prod(stack.native_shape))
            for index in range(stack.count):
                stack.frame(index)
            peak, left = tracemalloc.get_traced_memory()[1], tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        # Floats of one frame, its mask of NaN and its 8 bit; nothing stays behind.
        assert peak < pixels * 12 + 20_000
        assert left < 20_000


def test_a_file_on_disk_is_read_frame_by_frame(tmp_path: Path) -> None:
    array = np.memmap(tmp_path / "volume", dtype=np.int16, mode="w+", shape=(5, 6, 7))
    array[:] = np.arange(210, dtype=np.int16).reshape(5, 6, 7)
    stack = FrameStack(array, geometry_for(array), 1, Window(210, 105))
    check_volume(array, stack.geometry)
    assert np.array_equal(stack.frame(2), stack.window.apply(np.asarray(array)[:, 2, :]))


def test_shapes_must_agree() -> None:
    array = np.zeros((3, 4, 5), dtype=np.int16)
    with pytest.raises(InputError, match="5 x 4 x 3") as error:
        FrameStack(array, VolumeGeometry((3, 4, 5), np.eye(4)), 2, Window(1, 0))
    assert error.value.code == "shape_mismatch"


def test_volumes_that_are_fine() -> None:
    ramp = np.arange(60).reshape(3, 4, 5)
    for array in (
        ramp.astype(np.int16),
        ramp.astype(np.uint64) + np.uint64(2**63),
        ramp % 2 == 0,
        np.where(ramp == 7, np.inf, ramp.astype(float)),
        np.where(ramp < 58, np.nan, ramp.astype(np.float32)),
        ramp.astype(">f4"),
    ):
        check_volume(array, geometry_for(array))
        check_volume(array, geometry_for(array), axis=1)


def test_volumes_that_are_refused() -> None:
    ramp = np.arange(60).reshape(3, 4, 5)
    box = VolumeGeometry((5, 4, 3), np.eye(4))
    assert code_of(np.stack([ramp, ramp]), box) == "not_3d"
    assert code_of(ramp[0], box) == "not_3d"
    assert code_of(ramp.astype(complex)) == "bad_dtype"
    assert code_of(ramp.astype(object)) == "bad_dtype"
    assert code_of(ramp[:0], box) == "empty"
    assert code_of(ramp[:2], box) == "shape_mismatch"
    assert code_of(ramp[:1]) == "too_few_slices"
    assert code_of(np.full((3, 4, 5), np.nan)) == "all_nan"
    assert code_of(np.full((3, 4, 5), np.inf, dtype=np.float32)) == "all_nan"
    for constant in (np.zeros((3, 4, 5), np.int16), np.full((3, 4, 5), 2**64 - 1, np.uint64), ramp < 99):
        assert code_of(constant) == "constant_volume"
    partly = np.full((3, 4, 5), 4.5)
    partly[1] = np.nan
    partly[2, 0, 0] = np.inf
    assert code_of(partly) == "constant_volume"


def test_the_sentence_names_the_axis() -> None:
    for shape, name in (((5, 5, 1), "i"), ((5, 1, 5), "j"), ((1, 5, 5), "k")):
        array = np.arange(25).reshape(shape)
        with pytest.raises(InputError, match=f"single slice along its {name} axis"):
            check_volume(array, geometry_for(array))
    array = np.arange(5).reshape(1, 1, 5)
    for axis, name in ((1, "j"), (2, "k")):
        with pytest.raises(InputError, match=f"along its {name} axis"):
            check_volume(array, geometry_for(array), axis)


def test_a_difference_in_the_last_voxel_is_found_without_a_copy() -> None:
    array = np.full((96, 256, 256), 5.0, dtype=np.float32)
    array[0] = np.nan
    array[-1, -1, -1] = 6
    tracemalloc.start()
    try:
        check_volume(array, geometry_for(array))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < array.nbytes / 2


@pytest.mark.parametrize("package", ["prompts", "frames"])
def test_nothing_heavy_is_imported(package: str) -> None:
    """A bare interpreter imports the package with numpy and the standard library alone."""
    code = (
        f"import sys; sys.path.insert(0, {str(LIBRARY)!r})\n"
        f"import SAM2PropagateLib.{package}\n"
        "heavy = {'torch', 'sam2', 'slicer', 'vtk', 'qt', 'ctk', 'SimpleITK', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stderr
