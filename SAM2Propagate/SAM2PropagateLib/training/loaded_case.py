"""A case in main memory: its image as frames, and its structures made one at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from scipy import ndimage

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation.metrics import BoolArray
from SAM2PropagateLib.evaluation.targets import MOST_PARTS, LoadedTarget, Target, default_axis
from SAM2PropagateLib.files.labels import Labels, is_segmentation, read_labels, read_segments
from SAM2PropagateLib.files.segmentation import SUFFIX, unique_name
from SAM2PropagateLib.files.volume import Volume, read_only_volume
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import FittedWindow, fit_window
from SAM2PropagateLib.training.case import Case, volumes_in, without_label

# Fewer voxels than this are a mark, not a structure.
_LEAST_VOXELS = 20
_LARGEST_VALUE = 65535


class LoadedCase:
    """A case in main memory, its structures made one at a time.

    Args:
        case: which.

    Attributes:
        names: of its structures; no two are the same.
        absent: names of structures that a description has and the label does not.
        window: through which its frames are seen.
        notes: what was left out or changed when it was read, one sentence each, for the user.

    Raises:
        InputError: as `read_only_volume`, `read_labels` and `read_segments`; `case_without_label`: a file is
            missing or the label is empty.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        volume = _volume(case)
        axis = default_axis(volume.geometry) if case.axis is None else case.axis
        self.window: FittedWindow = fit_window(volume.array, case.modality or volume.modality or "")
        self.frames = FrameStack(volume.array, volume.geometry, axis, self.window.window)
        self.names: list[str] = []
        self.absent: list[str] = []
        self.notes: list[str] = list(volume.notes)
        # A structure is some values of the array, or a mask of its own.
        self._array: np.ndarray | None = None
        self._structures: list[tuple[int, ...] | BoolArray] = []
        if case.label.is_dir():
            self._read_masks(volume.geometry)
        elif not case.label.is_file():
            raise without_label(case.name, f"There is no file “{case.label}”.")
        elif case.label.name.lower().endswith(SUFFIX) or (not case.names and is_segmentation(case.label)):
            self._read_segments(volume.geometry)
        else:
            self._read_label(volume.geometry)
        if not self.names:
            raise without_label(case.name, f"“{case.label}” is empty: label its structures first.")

    def _read_label(self, geometry: VolumeGeometry) -> None:
        labels = read_labels(self.case.label, geometry)
        wanted = self.case.wanted
        if wanted is None:
            wanted = tuple((value,) for value in labels.values)
        self.notes += [*labels.notes, *self._unknown(labels, wanted)]
        there, taken = set(labels.values), set[str]()
        self._array = labels.array
        for values in wanted:
            # Also those that are absent count, so that a structure has the same name in every case.
            name = unique_name(self._name(values), taken)
            if there.intersection(values):
                self._structures.append(values)
                self.names.append(name)
            else:
                self.absent.append(name)

    def _name(self, values: tuple[int, ...]) -> str:
        names = self.case.names
        return self.case.regions.get(values) or " + ".join(names.get(value, str(value)) for value in values)

    def _unknown(self, labels: Labels, wanted: tuple[tuple[int, ...], ...]) -> list[str]:
        known = {0, *self.case.names, *(value for values in wanted for value in values)}
        unknown = [str(value) for value in labels.values if value not in known]
        if not unknown:
            return []
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        return [f"“{self.case.label}” also holds {shown}, which no description names; that is left out."]

    def _read_segments(self, geometry: VolumeGeometry) -> None:
        taken = set[str]()
        for segment in read_segments(self.case.label, geometry):
            if segment.mask.any():
                self._structures.append(segment.mask)
                self.names.append(unique_name(segment.name, taken))

    def _read_masks(self, geometry: VolumeGeometry) -> None:
        """Read the masks. Those that do not overlap share one array; those that overlap are kept apart."""
        array = np.zeros(tuple(reversed(geometry.shape_ijk)), np.uint16)
        taken = set[str]()
        for path, name, _ in volumes_in(self.case.label):
            mask = self._mask(path, geometry)
            if not mask.any():
                continue
            if (array[mask] == 0).all():
                value = len(self._structures) + 1
                array[mask] = value
                self._structures.append((value,))
            else:
                self._structures.append(mask)
            self.names.append(unique_name(name, taken))
        self._array = array

    def _mask(self, path: Path, geometry: VolumeGeometry) -> BoolArray:
        labels = read_labels(path, geometry)
        if len(labels.values) > 1:
            shown = ", ".join(str(value) for value in labels.values[:5])
            raise InputError(
                "label_not_whole",
                f"“{path}” is not a mask of one structure: it holds the values {shown}.",
                f"The folder “{path.parent.name}” must hold one mask for each structure, 0 outside.",
            )
        self.notes += labels.notes
        return np.asarray(labels.array != 0)

    def structure(self, number: int) -> LoadedTarget:
        """Return one structure, by its place in `names`."""
        structure = self._structures[number]
        values = structure if isinstance(structure, tuple) else ()
        case = self.case
        target = Target(
            case.name, self.names[number], case.image, case.label, values, self.frames.axis, case.modality
        )
        return LoadedTarget(target, self.frames, self._mask_of(structure))

    def _mask_of(self, structure: tuple[int, ...] | BoolArray) -> BoolArray:
        if not isinstance(structure, tuple):
            return structure
        assert self._array is not None
        return np.isin(self._array, structure)

    def usable(self) -> list[int]:
        """Return the structures that one prompt can mean: not a few voxels, not many parts."""
        bounds = self._bounds()
        return [
            number
            for number, structure in enumerate(self._structures)
            if is_one_thing(self._part_of(structure, bounds))
        ]

    def _bounds(self) -> list[tuple[slice, ...] | None] | None:
        """Return the box of each value from 1; None where the values are too large to ask for that."""
        if self._array is None or int(self._array.max()) > _LARGEST_VALUE:
            return None
        return list(ndimage.find_objects(self._array.astype(np.int32, copy=False)))

    def _part_of(
        self, structure: tuple[int, ...] | BoolArray, bounds: list[tuple[slice, ...] | None] | None
    ) -> BoolArray:
        """Return a structure within its own bounds: a whole-body label has a hundred of them."""
        if not isinstance(structure, tuple) or bounds is None:
            return self._mask_of(structure)
        there = [bounds[value - 1] for value in structure if 0 < value <= len(bounds)]
        boxes = [box for box in there if box is not None]
        part = tuple(
            slice(min(box[n].start for box in boxes), max(box[n].stop for box in boxes)) for n in range(3)
        )
        assert self._array is not None
        return np.isin(self._array[part], structure)

    def fingerprint(self) -> str:
        """Return a text that differs when a voxel of the image or of the label does."""
        digest = hashlib.sha256()
        for array in (self.frames.array, *self._arrays()):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes in main memory, about."""
        return int(self.frames.array.nbytes + sum(array.nbytes for array in self._arrays()))

    def _arrays(self) -> list[np.ndarray]:
        own = [structure for structure in self._structures if not isinstance(structure, tuple)]
        return [*([] if self._array is None else [self._array]), *own]


def _volume(case: Case) -> Volume:
    try:
        return read_only_volume(case.image, case.channel)
    except InputError as error:
        if error.code not in ("not_3d", "multi_component") or case.channel is not None:
            raise
        hint = "Choose one of its volumes for all cases with --sequence and its number, counted from 0."
        raise InputError("sequence_unclear", error.sentence, hint) from error


def is_one_thing(mask: BoolArray) -> bool:
    """Tell whether one prompt can mean a mask (K, J, I): it is not a few voxels, and not many parts."""
    if np.count_nonzero(mask) < _LEAST_VOXELS:
        return False
    where = ndimage.find_objects(mask.astype(np.uint8))[0]
    return bool(ndimage.label(mask[where], structure=np.ones((3, 3, 3)))[1] <= MOST_PARTS)
