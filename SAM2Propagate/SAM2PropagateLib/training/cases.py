"""Segmented volumes to learn from and to measure on: finding them, reading them, keeping patients apart.

A folder of cases is one of these:

* with a `manifest.json`: `{"cases": [{"name", "labels": {"1": "liver", ...}}, ...]}`, each case a subfolder
  of that name with `image.*` and `label.*`; `patient`, `modality` ("CT", "MR") and `propagation_axis_ijk`
  (0 to 2) may be given. With "pairs" in place of "cases", only each case's `recommended_targets` count
  ("1+2": both labels together are one structure).
* subfolders, each with `image.*` (or a DICOM folder `image`) and `label.*` (or one `*.seg.nrrd`);
* files side by side: `NAME.nii.gz` with `NAME_label.nii.gz` or `NAME.seg.nrrd`.

Every value of a label but 0, and every segment of a `.seg.nrrd`, is a structure. What looks like a case but
is not clearly one is refused, never left out silently.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation.metrics import BoolArray
from SAM2PropagateLib.evaluation.targets import (
    ENDINGS,
    MANIFEST,
    MOST_PARTS,
    LoadedTarget,
    Target,
    default_axis,
    grid_offset,
)
from SAM2PropagateLib.files.image import read_image
from SAM2PropagateLib.files.segmentation import SUFFIX, read_segmentation
from SAM2PropagateLib.files.volume import Volume, read_only_volume
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import window_for

_LABEL_WORDS = ("_label", "-label", "_seg", "-seg", "_segmentation", "-segmentation", "_mask", "-mask")
# A number that names a patient: alone between separators, or after a word for a patient.
_PATIENT = re.compile(
    r"(?:.*?[-_. ])??(?:p|pt|pat|patient|s|sub|subj|subject|case|id)?\d+(?=[-_. ]|$)", re.IGNORECASE
)
# Fewer voxels than this are a mark, not a structure.
_LEAST_VOXELS = 20
# More values than this are an image, not a label.
_MOST_VALUES = 1000
_LARGEST_VALUE = 65535


@dataclass(frozen=True)
class Case:
    """A segmented volume on disk.

    Attributes:
        name: for the user.
        patient: whose it is: two cases of one patient never stand on both sides of a split.
        image, label: files; the image may be a DICOM folder, the label a `.seg.nrrd`.
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
    """The patient in a case's name: everything up to the number that tells whose it is.

    That is the first number that stands alone ("sts_008_mr_t1" -> "sts_008"; "BraTS20_Training_001" as it is)
    or follows a word for a patient ("p01_2" -> "p01"); else the first number ("aorta7b" -> "aorta7"); without
    a number the whole name. A name that begins with a date says no more than its year this way: a manifest
    has to say whose cases those are.
    """
    found = _PATIENT.match(name) or re.match(r"\D*\d+", name)
    return found.group() if found else name


# --- finding


def find_cases(folder: Path) -> tuple[Case, ...]:
    """The cases in a folder (see above), sorted by name.

    Raises:
        InputError: `no_cases`, `manifest_unreadable`, `case_without_label`, `label_without_image`,
            `case_unclear`: it could be read in more than one way.
    """
    if not folder.is_dir():
        raise InputError("no_cases", f"There is no folder '{folder}'.", "Check the path.")
    if (folder / MANIFEST).is_file():
        cases = _of_manifest(folder)
    else:
        folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and _seems_a_case(path)]
        cases = [*map(_of_subfolder, folders), *_side_by_side(folder)]
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
    images, labels = _files_of(folder / name)
    names = {int(value): str(title) for value, title in entry["labels"].items()}
    wanted = entry.get("recommended_targets")
    return Case(
        name,
        str(entry.get("patient") or patient_of(name)),
        _only(name, images) or folder / name / "image.nii.gz",
        _only(name, labels) or folder / name / "label.nii.gz",
        names,
        tuple(tuple(int(value) for value in str(one).split("+")) for one in wanted or names),
        entry.get("propagation_axis_ijk"),
        str(entry.get("modality", "")).partition(" ")[0],
    )


def _seems_a_case(folder: Path) -> bool:
    """Whether a subfolder holds volumes; others may lie beside the cases."""
    return any(_files_of(folder)) or any(True for _ in _volumes(folder))


def _of_subfolder(folder: Path) -> Case:
    images, labels = _files_of(folder)
    image, label = _only(folder.name, images), _only(folder.name, labels)
    if image is None:
        held = [path.name for path, _, _ in _volumes(folder)]
        raise InputError(
            "case_unclear",
            f"The folder '{folder.name}' holds {_listed(held)} but no image.",
            "Call its volume image.nii.gz (or .nrrd, .mha, ...), put a DICOM series into a folder 'image', "
            "or move the folder elsewhere if it is no case.",
        )
    if label is None:
        raise _without_label(
            folder.name, "Put its label.nii.gz (or .nrrd, .mha, .seg.nrrd) beside the image."
        )
    return Case(folder.name, patient_of(folder.name), image, label)


def _files_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """What may be a case's image, and what its label."""
    stems: dict[str, list[Path]] = {"image": [], "label": []}
    segmentations = []
    for path, stem, ending in _volumes(folder):
        if ending == SUFFIX:
            segmentations.append(path)
        elif stem in stems:
            stems[stem].append(path)
    if (folder / "image").is_dir():
        stems["image"].append(folder / "image")
    return stems["image"], stems["label"] + segmentations


def _side_by_side(folder: Path) -> list[Case]:
    images: dict[str, list[Path]] = {}
    labels: dict[str, list[Path]] = {}
    for path, stem, ending in _volumes(folder):
        word = next((w for w in _LABEL_WORDS if stem.lower().endswith(w)), "")
        found = labels if ending == SUFFIX or word else images
        found.setdefault(stem[: len(stem) - len(word)], []).append(path)
    alone = sorted(path.name for stem in labels.keys() - images.keys() for path in labels[stem])
    if alone:
        raise InputError(
            "label_without_image",
            f"There is no image for {_listed(alone)}.",
            "Put each image beside its label under the same name without the label's ending "
            "(a1.nii.gz for a1_label.nii.gz), or move these files elsewhere.",
        )
    missing = sorted(images.keys() - labels.keys())
    if missing:
        raise _without_label(missing[0], f"Put its label beside it as {missing[0]}_label.nii.gz.")
    cases = []
    for stem, volumes in images.items():
        image, label = _only(stem, volumes), _only(stem, labels[stem])
        assert image is not None and label is not None
        cases.append(Case(stem, patient_of(stem), image, label))
    return cases


def _volumes(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """The volumes and segmentations in a folder: path, name without its ending, ending in lower case."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in paths:
        ending = next((e for e in (SUFFIX, *ENDINGS) if path.name.lower().endswith(e)), None)
        if ending is None or path.name.startswith(".") or not path.is_file():
            continue
        if ending == ".img" and path.with_suffix(".hdr").is_file():
            continue  # the voxels of a pair: the header stands for both
        yield path, path.name[: -len(ending)], ending


def _only(name: str, paths: Sequence[Path]) -> Path | None:
    """The one path, or None if there is none.

    Raises:
        InputError: `case_unclear`: there are several.
    """
    if len(paths) > 1:
        raise InputError(
            "case_unclear",
            f"The case '{name}' has {_listed([path.name for path in paths])}: which one counts is not clear.",
            "Keep one of them there.",
        )
    return paths[0] if paths else None


def _listed(names: Sequence[str]) -> str:
    """Names for a sentence, the first few of many."""
    shown = ", ".join(f"'{name}'" for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _without_label(name: str, hint: str) -> InputError:
    return InputError("case_without_label", f"The case '{name}' has no label.", hint)


# --- reading


class LoadedCase:
    """A case in memory, its structures made one at a time.

    Args:
        case: which.

    Raises:
        InputError: as `read_only_volume` and `read_image`; `case_without_label`: a file is missing or the
            label is empty; `label_mismatch`: the label lies on another grid; `label_not_whole`: it is no
            label.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        volume = read_only_volume(case.image)
        axis = default_axis(volume.geometry) if case.axis is None else case.axis
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
        if label.geometry is None or grid_offset(label.geometry, volume.geometry) != (0, 0, 0):
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
        offset = grid_offset(segmentation.geometry, volume.geometry)
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

    def fingerprint(self) -> str:
        """Changes when a voxel of the image or of the label does."""
        digest = hashlib.sha256()
        for array in (self.frames.array, *([] if self._array is None else [self._array]), *self._masks):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes in memory, about."""
        label = 0 if self._array is None else self._array.nbytes
        return int(self.frames.array.nbytes + label + sum(mask.nbytes for mask in self._masks))


def _is_one_thing(mask: BoolArray) -> bool:
    if np.count_nonzero(mask) < _LEAST_VOXELS:
        return False
    where = ndimage.find_objects(mask.astype(np.uint8))[0]
    return bool(ndimage.label(mask[where], structure=np.ones((3, 3, 3)))[1] <= MOST_PARTS)


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
            "Add cases of other patients, or give cases of others with --val. If these are several patients, "
            'a manifest.json can say so: each case\'s "patient".',
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
