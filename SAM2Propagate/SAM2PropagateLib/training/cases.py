"""Segmented volumes to learn from and to measure on: finding them, and keeping patients apart.

A folder of cases is one of these:

* with a `manifest.json`: `{"cases": [{"name", "labels": {"1": "liver", ...}}, ...]}`, each case a subfolder
  of that name with `image.*` and `label.*`; `patient`, `modality` ("CT", "MR") and `propagation_axis_ijk`
  (0 to 2) may be given. With "pairs" in place of "cases", only each case's `recommended_targets` count
  ("1+2": both labels together are one structure).
* a data set of the Medical Segmentation Decathlon or of nnU-Net (`layouts`);
* subfolders, each with `image.*` (or a DICOM folder `image`) and `label.*` (or one `*.seg.nrrd`), or as
  TotalSegmentator and BraTS have it (`layouts`);
* files side by side: `NAME.nii.gz` with `NAME_label.nii.gz` or `NAME.seg.nrrd`.

Every value of a label but 0, and every segment of a `.seg.nrrd`, is a structure. What looks like a case but
is not clearly one is refused, never left out silently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation.targets import MANIFEST
from SAM2PropagateLib.files.json_manifest import from_manifest
from SAM2PropagateLib.files.segmentation import SUFFIX
from SAM2PropagateLib.training.case import (
    Case,
    Refuse,
    label_word,
    listed,
    only,
    patient_of,
    refuse,
    volumes_in,
    with_channel,
    without_label,
)
from SAM2PropagateLib.training.layouts import (
    dataset_cases,
    is_dataset,
    is_masked,
    masked_case,
    sequences_case,
)

# What becomes a case: a case without its channel, or a folder. Both have a name.
Named = TypeVar("Named", Case, Path)
# What a Mac's archives leave beside the cases.
_LEFTOVERS = "__MACOSX"

# --- finding


def find_cases(folder: Path, sequence: str = "", on_bad: Refuse = refuse) -> tuple[Case, ...]:
    """Return the cases in a folder (see above), sorted by name.

    Args:
        folder: that holds them.
        sequence: which image is meant where a case has several, by its name ("flair") or its number from 0;
            "": every case has one; see `choose_sequence`.
        on_bad: is told of each that cannot be used, where the others can; else the first one is raised.

    Raises:
        InputError: `no_cases`, `manifest_unreadable`, `case_without_label`, `label_without_image`,
            `image_missing`; `case_unclear`: it could be read in more than one way; `sequence_unclear`,
            `sequence_unknown`.
    """
    refused: list[str] = []

    def bad(name: str, error: InputError) -> None:
        refused.append(name)
        on_bad(name, error)

    if not folder.is_dir():
        raise InputError("no_cases", f"There is no folder “{folder}”.", "Check the path.")
    if (folder / MANIFEST).is_file():
        cases = _each(_of_manifest(folder), lambda case: with_channel(case, sequence), bad)
    elif is_dataset(folder):
        cases = dataset_cases(folder, sequence, bad)
    elif _is_one_case(folder):
        raise InputError(
            "no_cases",
            f"“{folder}” is a case itself, not a folder of cases.",
            f"Give the folder above it: “{folder.resolve().parent}”.",
        )
    else:
        subfolders = [path for path in _subfolders(folder) if _seems_a_case(path)]
        cases = _each(subfolders, lambda path: _of_subfolder(path, sequence), bad)
        cases += _each(_side_by_side(folder, bad), lambda case: with_channel(case, sequence), bad)
    if not cases and not refused:
        raise _no_cases(folder)
    # A description may list a case twice; it would count twice.
    once = {(case.name, case.image, case.label): case for case in cases}
    return tuple(sorted(once.values(), key=lambda case: case.name))


def _each(items: Sequence[Named], make: Callable[[Named], Case], on_bad: Refuse) -> list[Case]:
    """Return the cases made of items, but of those that cannot be used."""
    cases = []
    for item in items:
        try:
            cases.append(make(item))
        except InputError as error:
            on_bad(item.name, error)
    return cases


def _subfolders(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".") and path.name != _LEFTOVERS
    ]


def _no_cases(folder: Path) -> InputError:
    inside = [
        path.name
        for path in _subfolders(folder)
        if is_dataset(path) or any(map(_seems_a_case, _subfolders(path)))
    ]
    if inside:
        hint = f"Give one of its folders, which seem to hold some: {listed(inside)}."
    else:
        hint = (
            "Put each case into a subfolder as image.nii.gz and label.nii.gz (or .nrrd, .mha, .seg.nrrd), or "
            "give the folder of a data set with its dataset.json."
        )
    return InputError("no_cases", f"“{folder}” holds no cases.", hint)


def _of_manifest(folder: Path) -> list[Case]:
    def read(content: Any) -> list[Case]:
        entries = content["cases"] if "cases" in content else content["pairs"]
        return [_of_entry(folder, entry) for entry in entries]

    hint = "It must list “cases”, each with a name and its labels."
    return from_manifest(folder / MANIFEST, read, hint)


def _of_entry(folder: Path, entry: Mapping[str, Any]) -> Case:
    name = str(entry["name"])
    images, labels = _files_of(folder / name)
    names = {int(value): str(title) for value, title in entry["labels"].items()}
    wanted = entry.get("recommended_targets")
    return Case(
        name,
        str(entry.get("patient") or patient_of(name)),
        only(name, images) or folder / name / "image.nii.gz",
        only(name, labels) or folder / name / "label.nii.gz",
        names,
        tuple(tuple(int(value) for value in str(one).split("+")) for one in wanted or names),
        entry.get("propagation_axis_ijk"),
        str(entry.get("modality", "")).partition(" ")[0],
    )


def _seems_a_case(folder: Path) -> bool:
    """Tell whether a subfolder holds volumes; others may lie beside the cases."""
    return any(_files_of(folder)) or any(True for _ in volumes_in(folder))


def _is_one_case(folder: Path) -> bool:
    """Tell whether a folder holds `image.*` and `label.*`, or an image and a folder of masks."""
    stems = {stem for _, stem, _ in volumes_in(folder)}
    return {"image", "label"} <= stems or is_masked(folder)


def _of_subfolder(folder: Path, sequence: str) -> Case:
    images, labels = _files_of(folder)
    if not (images and labels):
        found = masked_case(folder, sequence) or (None if images else sequences_case(folder, sequence))
        if found is not None:
            return found
    image, label = only(folder.name, images), only(folder.name, labels)
    if image is None:
        held = [path.name for path, _, _ in volumes_in(folder)]
        raise InputError(
            "case_unclear",
            f"In the folder “{folder.name}” it is not clear which is the image and which the label: it holds "
            f"{listed(held)}.",
            "Call them image.nii.gz and label.nii.gz (or .nrrd, .mha, ...), or end the label's name in _seg, "
            "or put a DICOM series into a folder “image”; move the folder elsewhere if it is no case.",
        )
    if label is None:
        raise without_label(folder.name, "Put its label.nii.gz (or .nrrd, .mha, .seg.nrrd) beside the image.")
    return with_channel(Case(folder.name, patient_of(folder.name), image, label), sequence)


def _files_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return what may be a case's image, and what its label."""
    stems: dict[str, list[Path]] = {"image": [], "label": []}
    segmentations = []
    for path, stem, ending in volumes_in(folder):
        if ending == SUFFIX:
            segmentations.append(path)
        elif stem in stems:
            stems[stem].append(path)
    if (folder / "image").is_dir():
        stems["image"].append(folder / "image")
    return stems["image"], stems["label"] + segmentations


def _side_by_side(folder: Path, on_bad: Refuse) -> list[Case]:
    images: dict[str, list[Path]] = {}
    labels: dict[str, list[Path]] = {}
    for path, stem, ending in volumes_in(folder):
        word = label_word(stem)
        found = labels if ending == SUFFIX or word else images
        found.setdefault(stem[: len(stem) - len(word)], []).append(path)
    for stem in sorted(labels.keys() - images.keys()):
        error = InputError(
            "label_without_image",
            f"There is no image for {listed([path.name for path in labels[stem]])}.",
            "Put each image beside its label under the same name without the label's ending "
            "(a1.nii.gz for a1_label.nii.gz), or move the label elsewhere.",
        )
        on_bad(stem, error)
    for stem in sorted(images.keys() - labels.keys()):
        on_bad(stem, without_label(stem, f"Put its label beside it as {stem}_label.nii.gz."))
    cases = []
    for stem in sorted(images.keys() & labels.keys()):
        try:
            image, label = only(stem, images[stem]), only(stem, labels[stem])
        except InputError as error:
            on_bad(stem, error)
            continue
        assert image is not None and label is not None
        cases.append(Case(stem, patient_of(stem), image, label))
    return cases


# --- keeping patients apart


def split(cases: Sequence[Case], share: float, seed: int) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Return cases to learn from, and cases to measure on: all cases of a patient on the same side.

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
            f"All cases are of one patient (“{patients[0]}”), so none can be kept for measuring."
            if patients
            else "There are no cases.",
            "Add cases of other patients, or give cases of others with --val. If these are several patients, "
            "a manifest.json can say so: each case's “patient”.",
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
            f"The patient “{both[0]}” is both among the cases and in the folder to measure on.",
            "Move all cases of a patient to one of the two; a manifest.json can say who the patients are.",
        )
