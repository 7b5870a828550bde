"""Carries masks of frames onto a finer, shifted or turned grid: smoothly, and only where they are new.

A mask lies on the volume's pixels. Copied pixel by pixel onto finer voxels it would become a staircase. So
each frame is turned into distances of its pixels to the mask's edge, which are interpolated within the frame
and between neighboring frames (Raya and Udupa, "Shape-based interpolation of multidimensional objects",
1990). A voxel belongs to the segment if the result is above 0. If the model reported how the edge runs
between the pixels, its distances are used.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import native_frame
from SAM2PropagateLib.packed_masks import PackedEdge
from SAM2PropagateLib.scene.lattice import EMPTY, Extent, Lattice, resample
from SAM2PropagateLib.scene.own_grid import tightBox
from SAM2PropagateLib.scene.segments import BoolArray, SegmentReader, volumeLattice
from SAM2PropagateLib.scene.slabs import slabs

# Verdicts on a voxel.
UNTOUCHED, BACKGROUND, FOREGROUND = 0, 1, 2
# Pixels; neighboring frames have no influence further from the edge than this.
_REACH = 3.0
_TIE = 1e-3

_Floats = npt.NDArray[np.float32]
_Region = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class FrameDetail:
    """More on a mask than its pixels.

    Attributes:
        edge: how its edge runs between the pixels, from the model; None: unknown.
        where: the pixels that may be written, (rows, columns) bool; None: those that differ from the segment,
            or all if the edge is known.
    """

    edge: PackedEdge | None = None
    where: BoolArray | None = None


_NO_DETAIL = FrameDetail()


def verdicts(
    reader: SegmentReader,
    masks: Mapping[int, BoolArray],
    details: Mapping[int, FrameDetail],
    geometry: VolumeGeometry,
    axis: int,
    grid: Lattice,
) -> Generator[None, None, tuple[Lattice, npt.NDArray[np.uint8]]]:
    """Finds verdicts of masks of frames on the voxels of a grid that is not the volume's, slab by slab.

    Args:
        reader: of the segment. masks: (rows, columns) bool per frame. details: of some of them.
        grid: without bounds.

    Returns:
        The box of the grid that may change, and its verdicts, (K, J, I).
    """
    where = {}
    for frame, mask in masks.items():
        pixels = _where(reader, mask, frame, axis, details.get(frame, _NO_DETAIL))
        if pixels.any():
            where[frame] = pixels
        yield
    if not where:
        return grid.within(EMPTY), np.zeros((0, 0, 0), np.uint8)
    source = volumeLattice(geometry).within(_box(where, geometry, axis))
    said = np.full(source.shape, UNTOUCHED, np.uint8)
    isNear = np.zeros(source.shape, np.uint8)
    x, y = (n for n in range(3) if n != axis)
    e = source.extent
    region = slice(e[2 * y], e[2 * y + 1] + 1), slice(e[2 * x], e[2 * x + 1] + 1)
    surfaces = _Surfaces(reader, masks, details, _FramePart(geometry, axis, region))
    for frame, pixels in where.items():
        inside, may = masks[frame][region], pixels[region]
        at = native_frame(said, frame - e[2 * axis], axis)
        at[may] = np.where(inside, FOREGROUND, BACKGROUND)[may]
        native_frame(isNear, frame - e[2 * axis], axis)[...] = may & surfaces.isNearEdge(frame)
        yield
    target = grid.within(source.boxIn(grid))
    voxels = np.empty(target.shape, np.uint8)
    for part, slab in slabs(target):
        voxels[part] = resample(said, source, slab)
        surfaces.decide(voxels[part], resample(isNear, source, slab).astype(bool), slab)
        yield
    return target, voxels


def _where(reader: SegmentReader, mask: BoolArray, frame: int, axis: int, detail: FrameDetail) -> BoolArray:
    """Returns the pixels of a frame that its mask decides on."""
    if detail.where is not None:
        return detail.where
    plane, throughout = (reader.frame(frame, axis, throughout=one) for one in (False, True))
    if detail.edge is not None or not mask.any():
        return widened(mask | plane | throughout, int(_REACH))
    # The mask was made from one of the two, or from neither: the nearer one shows what it changes.
    changed = mask != min(plane, throughout, key=lambda one: np.count_nonzero(mask != one))
    return widened(changed) | (throughout & ~mask & widened(changed, int(_REACH)))


def widened(pixels: BoolArray, by: int = 1) -> BoolArray:
    """Returns a copy widened by the pixels around, in which an edge may run, too."""
    for _ in range(by):
        padded = np.pad(pixels, 1)
        rows = padded[:-2] | padded[1:-1] | padded[2:]
        pixels = np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])
    return pixels


def _box(where: Mapping[int, BoolArray], geometry: VolumeGeometry, axis: int) -> Extent:
    plane = tightBox(np.logical_or.reduce(list(where.values())))
    assert plane is not None
    x, y = (n for n in range(3) if n != axis)
    edges = {axis: (min(where), max(where))}
    edges[y], edges[x] = ((one.start, one.stop - 1) for one in plane)
    return *edges[0], *edges[1], *edges[2]


@dataclass(frozen=True)
class _FramePart:
    """A region of the frames along an axis of a volume."""

    geometry: VolumeGeometry
    axis: int
    region: _Region


class _Surfaces:
    """The masks of frames as distances to their edges, in pixels, in a region of the frames."""

    def __init__(
        self,
        reader: SegmentReader,
        masks: Mapping[int, BoolArray],
        details: Mapping[int, FrameDetail],
        part: _FramePart,
    ) -> None:
        self._reader = reader
        self._masks = masks
        self._details = details
        self._volume = volumeLattice(part.geometry)
        self._count = part.geometry.frame_count(part.axis)
        self._axis = part.axis
        self._region = part.region
        self._known: dict[int, _Floats | None] = {}

    def isNearEdge(self, frame: int) -> BoolArray:
        """Returns the pixels of the region in which the mask alone does not decide."""
        distances = self._distances(frame)
        if distances is None:
            return np.zeros([one.stop - one.start for one in self._region], bool)
        return np.abs(distances) < _REACH

    def decide(self, voxels: npt.NDArray[np.uint8], isNear: BoolArray, target: Lattice) -> None:
        """Sets the verdicts of voxels near an edge."""
        matrix = target.indexMatrix(self._volume)
        axis = self._axis
        x, y = (n for n in range(3) if n != axis)
        k, j, i = np.nonzero(isNear)
        if not len(k):
            return
        index = np.stack([i, j, k], axis=1) + np.array(target.extent[::2])
        places = index @ matrix[:3, :3].T + matrix[:3, 3]
        frames = np.floor(places[:, axis] + 0.5).astype(np.intp)
        verdict = np.empty(len(frames), np.uint8)
        order = np.argsort(frames, kind="stable")
        present, first = np.unique(frames[order], return_index=True)
        for frame, here in zip(present, np.split(order, first[1:]), strict=True):
            rows = places[here, y] - self._region[0].start
            columns = places[here, x] - self._region[1].start
            own = self._distances(int(frame))
            value = np.full(len(here), -_REACH) if own is None else _between(own, rows, columns)
            along = places[here, axis] - frame
            for step in (-1, 1):
                beside = self._distances(int(frame) + step) if own is not None else None
                if beside is None:
                    # Where a segment ends between two frames is unknown: halfway.
                    continue
                that = along * step > 0
                share = np.abs(along[that])
                value[that] = (1 - share) * value[that] + share * _between(beside, rows[that], columns[that])
            # At a tie the nearest pixel decides, so that neither side always wins.
            near = voxels[k[here], j[here], i[here]]
            verdict[here] = np.where(np.abs(value) < _TIE, near, np.where(value > 0, FOREGROUND, BACKGROUND))
        voxels[k, j, i] = verdict

    def _distances(self, frame: int) -> _Floats | None:
        """Returns the distances in the region, inside above 0, up to `_REACH`; None for an empty mask."""
        if not 0 <= frame < self._count:
            return None
        if frame not in self._known:
            given = self._masks.get(frame)
            mask = self._reader.frame(frame, self._axis) if given is None else given
            edge = self._details.get(frame, _NO_DETAIL).edge if given is not None else None
            self._known[frame] = _distances(mask, edge, self._region) if mask.any() else None
        return self._known[frame]


def _distances(mask: BoolArray, edge: PackedEdge | None, region: _Region) -> _Floats:
    from scipy import ndimage

    margin = int(_REACH) + 1
    wide = tuple(slice(max(one.start - margin, 0), one.stop + margin) for one in region)
    part = mask[wide]
    distance = np.full(part.shape, _REACH, np.float32)
    if not part.any():
        distance = -distance
    elif not part.all():
        inside, outside = ndimage.distance_transform_edt(part), ndimage.distance_transform_edt(~part)
        distance = (inside - outside - np.where(part, 0.5, -0.5)).astype(np.float32)
        np.clip(distance, -_REACH, _REACH, out=distance)
    if edge is not None:
        distances, isNear = edge.unpack()
        told = distances[wide]
        isTold = isNear[wide] & (np.abs(distance) < 2) & ((told > 0) == part)
        distance[isTold] = told[isTold]
    inner = tuple(
        slice(one.start - outer.start, one.stop - outer.start)
        for one, outer in zip(region, wide, strict=True)
    )
    return np.ascontiguousarray(distance[inner])


def _between(distances: _Floats, rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]) -> _Floats:
    """Interpolates bilinearly; beyond the outermost pixels their values are used."""
    values: _Floats = distances
    rows, columns = (np.clip(at, 0, size - 1) for at, size in zip((rows, columns), values.shape, strict=True))
    r, c = (
        np.minimum(at.astype(np.intp), max(size - 2, 0))
        for at, size in zip((rows, columns), values.shape, strict=True)
    )
    down, right = (rows - r).astype(np.float32), (columns - c).astype(np.float32)
    below, beside = np.minimum(r + 1, values.shape[0] - 1), np.minimum(c + 1, values.shape[1] - 1)
    upper = values[r, c] * (1 - right) + values[r, beside] * right
    lower = values[below, c] * (1 - right) + values[below, beside] * right
    return upper * (1 - down) + lower * down
