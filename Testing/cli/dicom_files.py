"""Small DICOM files for the tests, written through SimpleITK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
STEP = 2.5


def write_slice(
    path: Path,
    pixels: np.ndarray,
    *,
    position: Sequence[float],
    orientation: Sequence[float] = AXIAL,
    series: str = "1.2.826.1",
    instance: str | None = None,
    spacing: tuple[float, float] = (0.8, 0.7),
    tags: Mapping[str, str] | None = None,
) -> Path:
    """One slice; `position` and `orientation` in LPS, `spacing` (row to row, column to column) in mm."""
    image = sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3)
    image.SetSpacing((spacing[1], spacing[0]))
    fields = {
        "0008|0060": "CT",
        "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
        "0008|0018": instance or f"{series}.{abs(hash(path.name)) % 10**9}",
        "0020|000d": "1.2.826.0",
        "0020|000e": series,
        "0020|0032": "\\".join(f"{value:.10g}" for value in position),
        "0020|0037": "\\".join(f"{value:.10g}" for value in orientation),
        **(tags or {}),
    }
    for key, value in fields.items():
        image.SetMetaData(key, value)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)
    return path


def write_series(
    folder: Path,
    array: np.ndarray,
    *,
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-10.0, 20.0, 30.0),
    distances: Sequence[float] | None = None,
    shift_per_mm: Sequence[float] = (0.0, 0.0, 0.0),
    series: str = "1.2.826.1",
    prefix: str = "s",
    tags: Mapping[str, str] | None = None,
) -> list[Path]:
    """A series: slice n of `array` (K, J, I) lies `distances[n]` mm along the normal from `origin` (LPS)."""
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(orientation[:3], orientation[3:])
    along = [STEP * number for number in range(len(array))] if distances is None else list(distances)
    return [
        write_slice(
            folder / f"{prefix}{number:02d}.dcm",
            pixels,
            position=np.array(origin) + (normal + np.array(shift_per_mm)) * distance,
            orientation=orientation,
            series=series,
            tags=tags,
        )
        for number, (pixels, distance) in enumerate(zip(array, along, strict=True))
    ]


def some_voxels(planes: int = 6, rows: int = 12, columns: int = 10) -> np.ndarray:
    """(K, J, I) int16, no two slices alike."""
    return np.random.default_rng(3).integers(-1000, 1000, (planes, rows, columns)).astype(np.int16)
