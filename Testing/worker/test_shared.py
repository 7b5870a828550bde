"""Shared volumes: written once, mapped, and gone when nobody needs them, whoever dies."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.worker import shared
from SAM2PropagateLib.worker.shared import (
    MappedArray,
    SharedFolder,
    base_folders,
    remove_stale,
    shared_files,
    shared_folders,
    write_part,
)
from SAM2PropagateLib.worker.voxels import Voxels, compress, decompress
from Testing.worker.helpers import ROOT, soon

DTYPES = ("bool", "int8", "uint8", "<i2", ">i2", "uint16", "int32", "float16", "float32", "float64")

HOLDER = """
import sys, time
import numpy as np
from pathlib import Path
from SAM2PropagateLib.worker.shared import SharedFolder
folder = SharedFolder([Path(sys.argv[1])])
print(folder.write(np.ones((3, 4, 5), np.int16)).path, flush=True)
time.sleep(600)
"""


def start_holder(base: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that shares a volume and sleeps; with the volume's file."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "SAM2Propagate")}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(base)], stdout=subprocess.PIPE, encoding="utf-8", env=env
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_arrives_as_it_is(dtype: str, tmp_path: Path) -> None:
    array = (np.arange(60).reshape(3, 4, 5) % 7).astype(dtype)
    folder = SharedFolder([tmp_path])
    written = folder.write(array)
    assert written.nbytes == array.nbytes
    mapped = MappedArray(written.path, written.dtype, written.shape)
    assert mapped.array.dtype == array.dtype and np.array_equal(mapped.array, array)
    with pytest.raises(ValueError, match="read-only"):
        mapped.array[0, 0, 0] = 1
    mapped.close()
    with pytest.raises(ValueError, match="closed"):
        _ = mapped.array
    folder.close()


@pytest.mark.parametrize(
    "view",
    [lambda a: a.T, lambda a: a[::-1, :, ::-1], lambda a: a[::2, 1::2], lambda a: np.moveaxis(a, 0, 1)],
)
def test_views_are_written_in_c_order(view: Any, tmp_path: Path) -> None:
    array = view(np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16))
    folder = SharedFolder([tmp_path])
    written = folder.write(array)
    mapped = MappedArray(written.path, written.dtype, written.shape)
    assert np.array_equal(mapped.array, array)
    mapped.close()
    assert np.array_equal(decompress(compress(array), array.dtype.str, array.shape), array)
    folder.close()


@pytest.mark.parametrize(("view", "pieces"), [("as it lies", 1), ("flipped", 4)])
def test_a_volume_is_written_in_large_pieces(
    view: str, pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each piece the thread waits for the interpreter's lock, which inside Slicer may take a while."""
    written: list[int] = []

    def counted(file: Any, part: Any) -> None:
        written.append(part.nbytes)
        write_part(file, part)

    monkeypatch.setattr(shared, "PIECE_BYTES", 8 * 100 * 90)
    array = np.random.default_rng(2).integers(0, 99, (30, 100, 90)).astype(np.int8)
    array = array[:, ::-1] if view == "flipped" else array
    folder = SharedFolder([tmp_path], counted)
    assert folder.write(array).path.read_bytes() == np.ascontiguousarray(array).tobytes()
    assert len(written) == pieces and sum(written) == array.nbytes
    folder.close()


def test_nothing_is_made_before_it_is_needed_and_nothing_is_left(tmp_path: Path) -> None:
    folder = SharedFolder([tmp_path])
    assert list(tmp_path.iterdir()) == []
    first, second = folder.write(np.ones((2, 2, 2))), folder.write(np.ones((2, 2, 2)))
    assert shared_files([tmp_path]) == sorted([first.path, second.path])
    folder.release(first)
    assert shared_files([tmp_path]) == [second.path]
    folder.close()
    folder.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    os.name != "posix", reason="access bits are POSIX's; on Windows the user's folder is private"
)
def test_nobody_else_can_look_into_the_folder(tmp_path: Path) -> None:
    folder = SharedFolder([tmp_path])
    path = folder.write(np.ones((2, 2, 2))).path
    assert path.parent.stat().st_mode & 0o077 == 0
    folder.close()


def test_a_mapping_outlives_its_file(tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("Windows does not delete a mapped file; the folder tries again later")
    folder = SharedFolder([tmp_path])
    written = folder.write(np.full((2, 3, 4), 7))
    mapped = MappedArray(written.path, written.dtype, written.shape)
    folder.close()
    assert not written.path.exists() and (mapped.array == 7).all()
    mapped.close()


def test_a_file_that_cannot_be_deleted_yet_is_deleted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SharedFolder([tmp_path])
    written = folder.write(np.ones((2, 2, 2)))

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "in use by another process")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        folder.release(written)
        folder.sweep()
    assert shared_files([tmp_path]) == [written.path]
    folder.sweep()
    assert shared_files([tmp_path]) == []
    folder.close()


def test_closing_waits_for_nobody_who_still_looks(tmp_path: Path) -> None:
    folder = SharedFolder([tmp_path])
    written = folder.write(np.full((2, 3, 4), 7))
    mapped = MappedArray(written.path, written.dtype, written.shape)
    view = mapped.array[1]
    mapped.close()
    assert (view == 7).all()
    del view
    folder.close()


@pytest.mark.parametrize("change", [b"", b"too short", b"x" * 10_000])
def test_a_file_of_another_size_is_refused(change: bytes, tmp_path: Path) -> None:
    path = tmp_path / "v"
    path.write_bytes(change)
    with pytest.raises(SAM2PropagateError, match="bytes") as caught:
        MappedArray(path, "<i2", (3, 4, 5))
    assert caught.value.code == "volume_data"


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SAM2PropagateError, match="could not be read") as caught:
        MappedArray(tmp_path / "none", "<i2", (3, 4, 5))
    assert caught.value.code == "volume_data"


# --- where there is room


def test_a_folder_without_room_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shared.shutil, "disk_usage", lambda path: usage)
    folder = SharedFolder([small, large])
    assert large in folder.write(np.ones((9, 9, 9))).path.parents
    assert list(small.iterdir()) == []
    folder.close()


def test_a_folder_that_fills_up_is_left_for_the_next(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()

    def full(file: Any, part: Any) -> None:
        if str(file.name).startswith(str(small)):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_part(file, part)

    folder = SharedFolder([small, large], full)
    written = folder.write(np.ones((9, 9, 9)))
    assert large in written.path.parents
    assert shared_files([small]) == []
    folder.close()
    assert list(small.iterdir()) == [] and list(large.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    def to_the_full_disk(file: Any, part: Any) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            write_part(full, part)

    folder = SharedFolder([tmp_path], to_the_full_disk)
    with pytest.raises(SAM2PropagateError, match="no room") as caught:
        folder.write(np.ones((9, 9, 9)))
    assert caught.value.code == "disk_full" and "TMPDIR" in caught.value.hint
    assert shared_files([tmp_path]) == []
    folder.close()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    folder = SharedFolder([tmp_path / "none"])
    with pytest.raises(SAM2PropagateError) as caught:
        folder.write(np.ones((2, 2, 2)))
    assert caught.value.code == "shared_folder"


def test_the_system_has_a_place_for_shared_files() -> None:
    bases = base_folders()
    assert bases and all(base.is_dir() for base in bases)


# --- what a dead process leaves


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    holder, path = start_holder(tmp_path)
    try:
        assert path.is_file()
        # As long as it lives, nobody touches it.
        assert remove_stale([tmp_path]) == 0 and path.is_file()
        holder.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        holder.wait()
        assert shared_files([tmp_path]) == [path]
        folder = SharedFolder([tmp_path])
        own = folder.write(np.ones((2, 2, 2)))
        assert shared_files([tmp_path]) == [own.path]
        assert shared_folders([tmp_path]) == [own.path.parent]
        folder.close()
        assert list(tmp_path.iterdir()) == []
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()


def test_two_living_processes_leave_each_other_alone(tmp_path: Path) -> None:
    holder, path = start_holder(tmp_path)
    try:
        folder = SharedFolder([tmp_path])
        folder.write(np.ones((2, 2, 2)))
        folder.close()
        assert path.is_file()
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()
    assert soon(lambda: remove_stale([tmp_path]) == 1)


def test_a_folder_that_is_being_made_is_left_alone(tmp_path: Path) -> None:
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    fresh, old = tmp_path / f"sam2propagate-{user}-fresh", tmp_path / f"sam2propagate-{user}-old"
    fresh.mkdir()
    old.mkdir()
    before = time.time() - 7200
    os.utime(old, (before, before))
    assert remove_stale([tmp_path]) == 1
    assert fresh.is_dir() and not old.exists()


def test_foreign_files_and_links_are_left_alone(tmp_path: Path) -> None:
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    other = tmp_path / "other"
    other.mkdir()
    (other / "owner.lock").touch()
    (other / "precious.volume").write_text("x", encoding="utf-8")
    (tmp_path / f"sam2propagate-{user}-file").write_text("x", encoding="utf-8")
    if os.name == "posix":
        (tmp_path / f"sam2propagate-{user}-link").symlink_to(other)
    assert remove_stale([tmp_path]) == 0
    assert (other / "precious.volume").is_file()


# --- voxels on their way


def test_voxels_are_copied_once_and_not_after_they_were_released(tmp_path: Path) -> None:
    folder = SharedFolder([tmp_path])
    voxels = Voxels(np.ones((2, 3, 4), np.int16), folder)
    source, payload = voxels.source()
    assert voxels.source()[0] == source and source["kind"] == "shared" and not payload
    assert len(shared_files([tmp_path])) == 1
    voxels.release()
    assert shared_files([tmp_path]) == []
    with pytest.raises(SAM2PropagateError) as caught:
        voxels.source()
    assert caught.value.code == "volume_closed"
    folder.close()


@pytest.mark.parametrize("dtype", DTYPES)
def test_voxels_survive_compression(dtype: str) -> None:
    array = (np.arange(60).reshape(3, 4, 5) % 7).astype(dtype)
    restored = decompress(compress(array), array.dtype.str, array.shape)
    assert restored.dtype == array.dtype and np.array_equal(restored, array)


def test_damaged_or_exploding_voxels_are_refused() -> None:
    array = np.zeros((64, 256, 256), np.int16)
    packed = compress(array)
    for data, shape in (
        (b"nonsense", (3, 4, 5)),
        (packed[:-20], array.shape),
        (packed, (3, 4, 5)),
        (packed, (65, 256, 256)),
    ):
        with pytest.raises(SAM2PropagateError, match="damaged") as caught:
            decompress(data, "<i2", shape)
        assert caught.value.code == "volume_data"


def test_what_is_announced_of_voxels_is_not_believed() -> None:
    packed = compress(np.zeros((64, 256, 256), np.int16))
    # Nothing is allocated for a size that so few bytes cannot hold, nor for more than there is room.
    with pytest.raises(SAM2PropagateError, match="cannot hold") as caught:
        decompress(packed, "<f8", (1 << 20, 1 << 20, 1 << 20))
    assert caught.value.code == "volume_data"
    with pytest.raises(SAM2PropagateError, match="8 MB of main memory, and 7 MB") as caught:
        decompress(packed, "<i2", (64, 256, 256), available=lambda: (8 << 20) - 1)
    assert caught.value.code == "out_of_memory"
    assert decompress(packed, "<i2", (64, 256, 256), available=lambda: 8 << 20).shape == (64, 256, 256)
    # Tiny slices, so that much comes out of the last bytes.
    flat = np.zeros((3000, 1, 2), np.uint8)
    assert np.array_equal(decompress(compress(flat), "|u1", flat.shape), flat)


def test_images_take_less_than_by_zlib_alone() -> None:
    ramp = np.add.outer(np.arange(20.0), np.add.outer(np.arange(64.0), np.arange(64.0)))
    array = (ramp * 9 + np.random.default_rng(1).normal(0, 12, ramp.shape)).astype(np.int16)
    assert len(compress(array)) < 0.75 * len(zlib.compress(array.tobytes(), 1))
