"""Segmented volumes to learn from and to measure on: finding them, reading them, keeping patients apart.

A folder of cases is one of these:

* with a `manifest.json`: `{"cases": [{"name", "labels": {"1": "liver", ...}}, ...]}`, each case a subfolder
  of that name with `image.*` and `label.*`; `patient`, `modality` ("CT", "MR") and `propagation_axis_ijk`
  (0 to 2) may be given. With "pairs" in place of "cases", only each case's `recommended_targets` count
  ("1+2": both labels together are one structure).
* subfolders, each with `image.*` and `label.*` (or one `*.seg.nrrd`);
* files side by side: `NAME.nii.gz` with `NAME_label.nii.gz` or `NAME.seg.nrrd`.

Every value of a label but 0, and every segment of a `.seg.nrrd`, is a structure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation.metrics import BoolArray
from SAM2PropagateLib.evaluation.targets import MANIFEST, LoadedTarget, Target
from SAM2PropagateLib.files.image import read_image
from SAM2PropagateLib.files.segmentation import SUFFIX, read_segmentation
from SAM2PropagateLib.files.volume import Volume, read_volume
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import window_for

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
_LABEL_WORDS = ("_label", "-label", "_seg", "-seg", "_segmentation", "_mask")
# Fewer voxels than this are a mark, not a structure.
_LEAST_VOXELS = 20
# More separate parts than this cannot be meant by one prompt.
_MOST_PARTS = 20
# More values than this are an image, not a label.
_MOST_VALUES = 1000
_LARGEST_VALUE = 65535
_GRID_TOLERANCE = 0.01


@dataclass(frozen=True)
class Case:
    """A segmented volume on disk.

    Attributes:
        name: for the user.
        patient: whose it is: two cases of one patient never stand on both sides of a split.
        image, label: files; the label may be a `.seg.nrrd`.
        names: of the label's values, as far as somebody tells.
        wanted: the structures, each the values that make it up; None: every value is one.
        axis: propagation axis; None: the one with the largest spacing.
        modality: "CT", "MR", ... or "" if nobody tells.
    """

    name: str
    patient: str
    image: Path
    label: Path
    names: Mapping[int, str] = field(default_factory=dict, compare=False)
    wanted: tuple[tuple[int, ...], ...] | None = None
    axis: int | None = None
    modality: str = ""


def patient_of(name: str) -> str:
    """The patient in a case's name: everything up to its first number ("sts_008_ct" -> "sts_008")."""
    found = re.match(r"\D*\d+", name)
    return found.group() if found else name


# --- finding


def find_cases(folder: Path) -> tuple[Case, ...]:
    """The cases in a folder (see above), sorted by name.

    Raises:
        InputError: `no_cases`, `manifest_unreadable`, `case_without_label`.
    """
    if not folder.is_dir():
        raise InputError("no_cases", f"There is no folder '{folder}'.", "Check the path.")
    if (folder / MANIFEST).is_file():
        cases = _of_manifest(folder)
    else:
        cases = [_of_subfolder(path) for path in sorted(folder.iterdir()) if _holds_an_image(path)]
        cases += _side_by_side(folder)
    if not cases:
        raise InputError(
            "no_cases",
            f"'{folder}' holds no cases.",
            "Put each case into a subfolder as image.nii.gz and label.nii.gz (or .nrrd, .mha, .seg.nrrd).",
        )
    return tuple(sorted(cases, key=lambda case: case.name))


def _of_manifest(folder: Path) -> list[Case]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["cases"] if "cases" in content else content["pairs"]
        cases = [_of_entry(folder, entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "manifest_unreadable",
            f"'{path}' cannot be used ({type(error).__name__}: {error}).",
            'It must list "cases", each with a name and its labels.',
        ) from error
    return cases


def _of_entry(folder: Path, entry: Mapping[str, Any]) -> Case:
    name = str(entry["name"])
    image, label = _files_of(folder / name)
    names = {int(value): str(title) for value, title in entry["labels"].items()}
    wanted = entry.get("recommended_targets")
    return Case(
        name,
        str(entry.get("patient") or patient_of(name)),
        image or folder / name / "image.nii.gz",
        label or folder / name / "label.nii.gz",
        names,
        tuple(tuple(int(value) for value in str(one).split("+")) for one in wanted or names),
        entry.get("propagation_axis_ijk"),
        str(entry.get("modality", "")).partition(" ")[0],
    )


def _holds_an_image(path: Path) -> bool:
    return path.is_dir() and _files_of(path)[0] is not None


def _of_subfolder(folder: Path) -> Case:
    image, label = _files_of(folder)
    assert image is not None
    if label is None:
        raise _without_label(
            folder.name, "Put its label.nii.gz (or .nrrd, .mha, .seg.nrrd) beside the image."
        )
    return Case(folder.name, patient_of(folder.name), image, label)


def _files_of(folder: Path) -> tuple[Path | None, Path | None]:
    """A case's image and label."""
    image = _first(folder / f"image{ending}" for ending in _ENDINGS)
    label = _first(folder / f"label{ending}" for ending in (SUFFIX, *_ENDINGS))
    if label is None and folder.is_dir():
        label = _first(sorted(folder.glob("*" + SUFFIX)))
    return image, label


def _side_by_side(folder: Path) -> list[Case]:
    found: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((e for e in (SUFFIX, *_ENDINGS) if path.name.lower().endswith(e)), None)
        if ending is None or not path.is_file():
            continue
        stem = path.name[: -len(ending)]
        word = next((w for w in _LABEL_WORDS if stem.lower().endswith(w)), "")
        if ending == SUFFIX or word:
            labels[stem[: len(stem) - len(word)]] = path
        else:
            found[stem] = path
    missing = sorted(found.keys() - labels.keys())
    if missing:
        raise _without_label(missing[0], f"Put its label beside it as {missing[0]}_label.nii.gz.")
    return [Case(stem, patient_of(stem), image, labels[stem]) for stem, image in found.items()]


def _first(paths: Any) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _without_label(name: str, hint: str) -> InputError:
    return InputError("case_without_label", f"The case '{name}' has no label.", hint)


# --- reading


class LoadedCase:
    """A case in memory, its structures made one at a time.

    Args:
        case: which.

    Raises:
        InputError: as `read_volume` and `read_image`; `case_without_label`: a file is missing or the label is
            empty; `label_mismatch`: the label lies on another grid; `label_not_whole`: it is no label.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        volume = read_volume(case.image)
        axis = case.axis
        if axis is None:
            spacing = volume.geometry.spacing
            axis = max(range(3), key=lambda one: (round(spacing[one], 3), one))
        window = window_for(volume.array, case.modality or volume.modality or "")
        self.frames = FrameStack(volume.array, volume.geometry, axis, window)
        if not case.label.is_file():
            raise _without_label(case.name, f"There is no file '{case.label}'.")
        self._masks: list[BoolArray] = []
        self._array: np.ndarray | None = None
        self._values: list[tuple[int, ...]] = []
        self.names: list[str] = []
        if case.label.name.lower().endswith(SUFFIX):
            self._read_segments(volume)
        else:
            self._read_label(volume)
        if not self.names:
            raise _without_label(case.name, f"'{case.label}' is empty: label its structures first.")

    def _read_label(self, volume: Volume) -> None:
        label = read_image(self.case.label)
        if label.geometry is None or _offset(label.geometry, volume.geometry) != (0, 0, 0):
            raise _mismatch(self.case)
        if label.geometry.shape_ijk != volume.geometry.shape_ijk:
            raise _mismatch(self.case)
        array = label.array
        if array.dtype.kind == "f":
            if not bool(np.isfinite(array).all()) or bool((array != np.rint(array)).any()):
                raise _not_whole(self.case)
            array = array.astype(np.int32)
        present = np.unique(array)
        if len(present) > _MOST_VALUES:
            raise _not_whole(self.case)
        there = {int(value) for value in present} - {0}
        wanted = self.case.wanted or tuple((value,) for value in sorted(there))
        self._array = array
        self._values = [values for values in wanted if there.intersection(values)]
        names = self.case.names
        self.names = [" + ".join(names.get(value, str(value)) for value in values) for values in self._values]

    def _read_segments(self, volume: Volume) -> None:
        segmentation = read_segmentation(self.case.label)
        offset = _offset(segmentation.geometry, volume.geometry)
        if offset is None:
            raise _mismatch(self.case)
        for segment in segmentation.segments:
            mask = _placed(segment.mask, offset, volume.array.shape)
            if mask is None:
                raise _mismatch(self.case)
            if mask.any():
                self._masks.append(mask)
                self.names.append(segment.name)

    def structure(self, number: int) -> LoadedTarget:
        """One structure, by its place in `names`."""
        if self._masks:
            values: tuple[int, ...] = ()
            mask = self._masks[number]
        else:
            assert self._array is not None
            values = self._values[number]
            mask = np.isin(self._array, values)
        case = self.case
        target = Target(
            case.name, self.names[number], case.image, case.label, values, self.frames.axis, case.modality
        )
        return LoadedTarget(target, self.frames, mask)

    def usable(self) -> list[int]:
        """The structures that one prompt can mean: not a few voxels, not many parts."""
        if self._array is None:
            return [number for number, mask in enumerate(self._masks) if _is_one_thing(mask)]
        if int(self._array.min()) < 0 or int(self._array.max()) > _LARGEST_VALUE:
            return [n for n in range(len(self.names)) if _is_one_thing(self.structure(n).mask)]
        # Each structure within its own bounds: a whole-body label has a hundred of them.
        bounds = ndimage.find_objects(self._array.astype(np.int32, copy=False))
        found = []
        for number, values in enumerate(self._values):
            there = [bounds[value - 1] for value in values if 0 < value <= len(bounds)]
            boxes = [box for box in there if box is not None]
            part = tuple(
                slice(min(box[n].start for box in boxes), max(box[n].stop for box in boxes)) for n in range(3)
            )
            if _is_one_thing(np.isin(self._array[part], values)):
                found.append(number)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes in memory, about."""
        label = 0 if self._array is None else self._array.nbytes
        return int(self.frames.array.nbytes + label + sum(mask.nbytes for mask in self._masks))


def _is_one_thing(mask: BoolArray) -> bool:
    if np.count_nonzero(mask) < _LEAST_VOXELS:
        return False
    where = ndimage.find_objects(mask.astype(np.uint8))[0]
    return bool(ndimage.label(mask[where], structure=np.ones((3, 3, 3)))[1] <= _MOST_PARTS)


def _offset(label: VolumeGeometry, image: VolumeGeometry) -> tuple[int, int, int] | None:
    """Where the label's first voxel lies in the image, (i, j, k); None if their grids are different."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float) * (np.array(label.shape_ijk) - 1)
    there = image.ras_to_ijk(label.ijk_to_world(corners))
    start = np.rint(there[0])
    if np.abs(there - (start + corners)).max() > _GRID_TOLERANCE * max(1.0, *corners.max(0)):
        return None
    return int(start[0]), int(start[1]), int(start[2])


def _placed(mask: BoolArray, offset: tuple[int, int, int], shape: tuple[int, ...]) -> BoolArray | None:
    """A mask (K, J, I) of a part of the volume on the whole of it; None if it reaches beyond."""
    starts = offset[::-1]
    if mask.shape == shape and not any(starts):
        return mask
    inside = all(s >= 0 and s + n <= whole for s, n, whole in zip(starts, mask.shape, shape, strict=True))
    if not inside:
        return None
    whole = np.zeros(shape, bool)
    whole[tuple(slice(s, s + n) for s, n in zip(starts, mask.shape, strict=True))] = mask
    return whole


def _mismatch(case: Case) -> InputError:
    return InputError(
        "label_mismatch",
        f"The label '{case.label}' does not lie on the voxels of its image.",
        "Resample it to the image's grid first.",
    )


def _not_whole(case: Case) -> InputError:
    return InputError(
        "label_not_whole",
        f"'{case.label}' holds other values than the whole numbers of a label.",
        "Give a label volume: 0 outside, one number per structure.",
    )


# --- keeping patients apart


def split(cases: Sequence[Case], share: float, seed: int) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Cases to learn from, and cases to measure on: all cases of a patient on the same side.

    Args:
        share: of the patients to measure on; at least one patient, and at least one is left.
        seed: the same seed and the same patients give the same split.

    Raises:
        InputError: `too_few_cases`: all cases are of one patient.
    """
    patients = sorted({case.patient for case in cases})
    if len(patients) < 2:
        raise InputError(
            "too_few_cases",
            f"All cases are of one patient ('{patients[0]}'), so none can be kept for measuring."
            if patients
            else "There are no cases.",
            "Add cases of other patients, or give cases of others with --val.",
        )
    count = min(len(patients) - 1, max(1, round(share * len(patients))))
    held = set(np.random.default_rng([seed, 0]).permutation(patients)[:count].tolist())
    return (
        tuple(case for case in cases if case.patient not in held),
        tuple(case for case in cases if case.patient in held),
    )


def check_apart(cases: Sequence[Case], validation: Sequence[Case]) -> None:
    """Refuse to measure on patients that are learned from.

    Raises:
        InputError: `patient_on_both_sides`.
    """
    both = sorted({case.patient for case in cases} & {case.patient for case in validation})
    if both:
        raise InputError(
            "patient_on_both_sides",
            f"The patient '{both[0]}' is both among the cases and in the folder to measure on.",
            "Move all cases of a patient to one of the two; a manifest.json can say who the patients are.",
        )
