"""Reads and writes segmentations as Slicer's `.seg.nrrd` files, with layers for segments that overlap."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.atomic import atomic_output
from SAM2PropagateLib.files.image import image_info, read_image
from SAM2PropagateLib.frames.geometry import VolumeGeometry

SUFFIX = ".seg.nrrd"
# Distinct on gray images and for people with common color vision deficiencies; the first ones are used most.
PALETTE: tuple[tuple[float, float, float], ...] = (
    (0.902, 0.624, 0.0),
    (0.337, 0.706, 0.914),
    (0.0, 0.620, 0.451),
    (0.941, 0.894, 0.259),
    (0.800, 0.475, 0.655),
    (0.835, 0.369, 0.0),
    (0.0, 0.447, 0.698),
    (0.698, 0.875, 0.541),
)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
Color = tuple[float, float, float]
Extent = tuple[int, int, int, int, int, int]


def palette_color(index: int) -> Color:
    """Return the color (red, green, blue, each 0 to 1) of the segment with this number; repeats after
    eight."""
    return PALETTE[index % len(PALETTE)]


def unique_name(name: str, taken: set[str]) -> str:
    """Return a name that is not taken, and take it: “liver”, then “liver (2)”. Segments of Slicer may share
    one."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name} ({number})", number + 1
    taken.add(candidate)
    return candidate


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment of a segmentation.

    Args:
        name: for the user.
        color: red, green, blue, each 0 to 1.
        mask: bool, (K, J, I), on the grid of the segmentation.
        id: unique within the segmentation; "" lets the writer choose `Segment_1`, `Segment_2`...
        tags: Slicer's segment tags, such as `Segmentation.Status`.
    """

    name: str
    color: Color
    mask: np.ndarray
    id: str = ""
    tags: Mapping[str, str] = field(default_factory=lambda: {"Segmentation.Status": "inprogress"})


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The segments of a file, all on the grid `geometry` (IJK to RAS), and the file's own header fields."""

    segments: tuple[Segment, ...]
    geometry: VolumeGeometry
    header: Mapping[str, str]


def check_segmentation_name(path: Path) -> None:
    """Raise InputError (`output_format`) unless `path` ends in `.seg.nrrd`."""
    if not path.name.lower().endswith(SUFFIX) or len(path.name) == len(SUFFIX):
        raise InputError(
            "output_format",
            f"“{path.name}” is not the name of a segmentation file.",
            f"Give a name that ends in {SUFFIX}, which 3D Slicer opens as a segmentation.",
        )


def write_segmentation(
    path: Path | str,
    segments: Sequence[Segment],
    geometry: VolumeGeometry,
    *,
    overwrite: bool = False,
    comment: str = "",
) -> None:
    """Write `segments` as a `.seg.nrrd` that Slicer opens as a segmentation node.

    The whole grid is written, so that other tools read the file as a label volume of the same size as the
    image; segments that overlap go to different layers. The file appears complete or not at all.

    Args:
        path: ends in `.seg.nrrd`.
        segments: masks of shape (K, J, I) as `geometry` has it; an empty mask is kept as an empty segment.
            Names lose line breaks and control characters; those that are then the same get a number.
        geometry: the volume's grid; written in LPS, as NRRD files of Slicer are.
        overwrite: whether an existing file may be replaced.
        comment: one line for the file's header, such as the program's name.

    Raises:
        InputError: `output_format`, `no_segments`, and as `check_output`.
        SAM2PropagateError: `disk_full`.
        ValueError: a mask's shape is not the geometry's, or two segments share an id.
    """
    path = Path(path)
    check_segmentation_name(path)
    if not segments:
        raise InputError("no_segments", "There is no segment to write.")
    shape = tuple(reversed(geometry.shape_ijk))
    for segment in segments:
        if segment.mask.shape != shape:
            raise ValueError(f"mask of {segment.name!r} is {segment.mask.shape}, the geometry {shape}")
    identifiers = _identifiers(segments)
    placed, layer_count = _layers([segment.mask for segment in segments])
    dtype = np.dtype(np.uint8 if max(label for _, label in placed) < 256 else "<u2")
    header = _header(segments, identifiers, placed, layer_count, geometry, dtype, comment)
    with atomic_output(path, overwrite) as file:
        file.write(header)
        _write_voxels(file, [segment.mask for segment in segments], placed, layer_count, dtype)


def read_segmentation(path: Path | str) -> Segmentation:
    """Read a `.seg.nrrd` from this project or from Slicer.

    Returns:
        The segments in the file's order, on the file's own grid, which Slicer may have cropped to the
        segments' extent.

    Raises:
        InputError: as `read_image`; `not_a_segmentation` if the file has no segments, or a wrong description.
    """
    path = Path(path)
    image = read_image(path)
    header = image.header
    count = 0
    while f"Segment{count}_ID" in header:
        count += 1
    if not count or image.geometry is None:
        raise InputError("not_a_segmentation", f"“{path}” holds no segments.", "Give a .seg.nrrd file.")
    voxels = image.array if image.array.ndim == 4 else image.array[..., np.newaxis]
    try:
        segments = [_read_segment(header, f"Segment{number}_", voxels) for number in range(count)]
    except (ValueError, IndexError) as error:
        raise InputError(
            "not_a_segmentation",
            f"The segments of “{path}” are described wrongly ({error}).",
            "Save it again in 3D Slicer.",
        ) from error
    return Segmentation(tuple(segments), image.geometry, header)


def holds_segments(path: Path) -> bool:
    """Tell whether the header of a file describes segments. Raises InputError as `image_info`."""
    return "Segment0_ID" in image_info(path).header


def _read_segment(header: Mapping[str, str], prefix: str, voxels: np.ndarray) -> Segment:
    """Return one segment out of (K, J, I, layers) voxels. Raises ValueError, IndexError: a wrong
    description."""
    layer = int(header.get(prefix + "Layer", "0"))
    if layer < 0:
        raise ValueError(f"the layer {layer} is below 0")
    label = int(header.get(prefix + "LabelValue", "1"))
    red, green, blue = (float(part) for part in header.get(prefix + "Color", "0.5 0.5 0.5").split())
    tags = dict(part.split(":", 1) for part in header.get(prefix + "Tags", "").split("|") if ":" in part)
    return Segment(
        name=header.get(prefix + "Name", header[prefix + "ID"]),
        color=(red, green, blue),
        mask=voxels[..., layer] == label,
        id=header[prefix + "ID"],
        tags=tags,
    )


def _identifiers(segments: Sequence[Segment]) -> list[str]:
    given = [segment.id for segment in segments if segment.id]
    if len(set(given)) != len(given):
        raise ValueError("two segments share an id")
    free = (name for number in range(1, 10**6) if (name := f"Segment_{number}") not in given)
    return [segment.id or next(free) for segment in segments]


def _layers(masks: Sequence[np.ndarray]) -> tuple[list[tuple[int, int]], int]:
    """Return (layer, label value) of each mask, so that masks of one layer do not overlap; and the number of
    layers."""
    taken: list[np.ndarray] = []
    labels: list[int] = []
    placed = []
    for mask in masks:
        free = (number for number, held in enumerate(taken) if not np.logical_and(held, mask).any())
        layer = next(free, len(taken))
        if layer < len(taken):
            np.logical_or(taken[layer], mask, out=taken[layer])
        else:
            taken.append(mask.astype(bool, copy=True))
            labels.append(0)
        labels[layer] += 1
        placed.append((layer, labels[layer]))
    return placed, len(taken)


def _write_voxels(
    file: BinaryIO,
    masks: Sequence[np.ndarray],
    placed: Sequence[tuple[int, int]],
    layer_count: int,
    dtype: np.dtype,
) -> None:
    """Write the gzip-compressed voxels, layer fastest, then I, J, K, one K slab in main memory at a time."""
    planes, rows, columns = masks[0].shape
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=4, mtime=0) as stream:
        for plane in range(planes):
            slab = np.zeros((rows, columns, layer_count), dtype)
            for mask, (layer, label) in zip(masks, placed, strict=True):
                slab[mask[plane] != 0, layer] = label
            stream.write(slab.tobytes())


def _header(
    segments: Sequence[Segment],
    identifiers: Sequence[str],
    placed: Sequence[tuple[int, int]],
    layer_count: int,
    geometry: VolumeGeometry,
    dtype: np.dtype,
    comment: str,
) -> bytes:
    ras_to_lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    matrix = ras_to_lps @ geometry.ijk_to_ras
    directions = " ".join(_vector(matrix[:3, axis]) for axis in range(3))
    sizes = " ".join(str(size) for size in geometry.shape_ijk)
    several = layer_count > 1
    lines = ["NRRD0004"]
    if comment:
        lines.append("# " + _plain(comment))
    lines += [
        f"type: {'unsigned char' if dtype.itemsize == 1 else 'unsigned short'}",
        f"dimension: {4 if several else 3}",
        "space: left-posterior-superior",
        f"sizes: {layer_count} {sizes}" if several else f"sizes: {sizes}",
        f"space directions: {'none ' if several else ''}{directions}",
        f"kinds: {'list ' if several else ''}domain domain domain",
        *(["endian: little"] if dtype.itemsize > 1 else []),
        "encoding: gzip",
        f"space origin: {_vector(matrix[:3, 3])}",
    ]
    taken = set[str]()
    extents = _layer_extents([segment.mask for segment in segments], placed, layer_count)
    for number, (segment, identifier, (layer, label)) in enumerate(
        zip(segments, identifiers, placed, strict=True)
    ):
        fields = {
            "Color": " ".join(f"{channel:.6g}" for channel in segment.color),
            "ColorAutoGenerated": "0",
            "Extent": " ".join(str(edge) for edge in extents[layer]),
            "ID": identifier,
            "LabelValue": str(label),
            "Layer": str(layer),
            "Name": unique_name(_plain(segment.name) or identifier, taken),
            "NameAutoGenerated": "0",
            "Tags": "".join(f"{key}:{value}|" for key, value in segment.tags.items()),
        }
        lines += [f"Segment{number}_{key}:={_escaped(value)}" for key, value in fields.items()]
    lines += [
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        f"Segmentation_ConversionParameters:=Reference image geometry|{_reference(geometry)}|&",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]
    return ("\n".join(lines) + "\n\n").encode("utf-8")


def _reference(geometry: VolumeGeometry) -> str:
    """Return the grid as Slicer serializes it: the matrix from IJK to RAS, then the extent."""
    matrix = (repr(float(value)) for value in geometry.ijk_to_ras.flat)
    extent = (str(edge) for size in geometry.shape_ijk for edge in (0, size - 1))
    return ";".join((*matrix, *extent, ""))


def _layer_extents(
    masks: Sequence[np.ndarray], placed: Sequence[tuple[int, int]], layer_count: int
) -> list[Extent]:
    """Return the first and last I, J, K of a layer's voxels; (0, -1, 0, -1, 0, -1) for an empty layer."""
    boxes: list[list[Extent]] = [[] for _ in range(layer_count)]
    for mask, (layer, _) in zip(masks, placed, strict=True):
        box = mask_extent(mask)
        if box is not None:
            boxes[layer].append(box)
    return [_union(members) for members in boxes]


def mask_extent(mask: np.ndarray) -> Extent | None:
    """Return the first and last index of a mask's voxels along I, J and K; None for an empty mask, (K, J,
    I)."""
    # By reductions, as a list of all voxels would be large.
    rows = np.asarray(mask.any(axis=2))
    lines = [np.asarray(mask.any(axis=(0, 1))), np.asarray(rows.any(axis=0)), np.asarray(rows.any(axis=1))]
    where = [np.flatnonzero(line) for line in lines]
    if not len(where[0]):
        return None
    i, j, k = ((int(line[0]), int(line[-1])) for line in where)
    return (*i, *j, *k)


def _union(boxes: Iterable[Extent]) -> Extent:
    edges = np.array(list(boxes))
    if not len(edges):
        return (0, -1, 0, -1, 0, -1)
    low, high = edges.min(axis=0), edges.max(axis=0)
    return (int(low[0]), int(high[1]), int(low[2]), int(high[3]), int(low[4]), int(high[5]))


def _vector(values: np.ndarray) -> str:
    return "(" + ",".join(f"{float(value) + 0.0:.17g}" for value in values) + ")"


def _plain(text: str) -> str:
    """Return a text as one line, as a line break would end the field, and without control characters."""
    return _CONTROLS.sub("", re.sub(r"\s*[\r\n]+\s*|\t", " ", text)).strip()


def _escaped(text: str) -> str:
    """Return a text as the value of a field: NRRD escapes backslashes."""
    return _plain(text).replace("\\", "\\\\")
