"""Data sets as they come: Medical Segmentation Decathlon, nnU-Net, TotalSegmentator, BraTS.

* With a `dataset.json`, or with the folders `imagesTr` and `labelsTr`: the Decathlon and nnU-Net, version 1
  and 2. An image is one file with all channels, or one file `NAME_0000`, `NAME_0001`, ... for each.
* A subfolder with `ct.*`, `mri.*` or `image.*` and a folder `segmentations` with a mask of each structure:
  TotalSegmentator.
* A subfolder with one label, by its name, and an image for each sequence: BraTS and others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation.targets import ENDINGS
from SAM2PropagateLib.files.json_manifest import from_manifest
from SAM2PropagateLib.files.segmentation import SUFFIX
from SAM2PropagateLib.numerals import whole_number
from SAM2PropagateLib.training.case import (
    Case,
    Refuse,
    choose_sequence,
    label_word,
    only,
    patient_of,
    refuse,
    stem_of,
    volumes_in,
    with_channel,
    without_label,
)

DATASET = "dataset.json"
_IMAGES, _LABELS = "imagesTr", "labelsTr"
_MASKS = "segmentations"
# What a volume beside a folder of masks is called, and what it is then.
_MASKED = {"ct": "CT", "mri": "MR", "mr": "MR", "image": ""}
_MR = re.compile(r"mr|t1|t2|flair|adc|dwi|swi|pd\b", re.IGNORECASE)
_CHANNEL = re.compile(r"^(.+)_(\d{4})$")
_BACKGROUND, _IGNORE = "background", "ignore"
# BraTS up to 2020: its four sequences, and what its label's values are.
_BRATS = frozenset({"flair", "t1", "t1ce", "t2"})
_BRATS_NAMES = {1: "necrotic and non-enhancing core", 2: "edema", 4: "enhancing tumor"}


# --- Medical Segmentation Decathlon and nnU-Net


def is_dataset(folder: Path) -> bool:
    """Tell whether a folder is laid out as the Decathlon or as nnU-Net has it.

    A `dataset.json` alone is not enough: other data sets have one beside cases of another kind.
    """
    folders = [(folder / name).is_dir() for name in (_IMAGES, _LABELS)]
    if all(folders) or not (folder / DATASET).is_file():
        return all(folders)
    try:
        content = json.loads((folder / DATASET).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return True  # refused when it is read
    lists = isinstance(content, dict) and bool(content.get("training") or content.get("dataset"))
    return any(folders) or (lists and "labels" in content)


def dataset_cases(folder: Path, sequence: str, on_bad: Refuse = refuse) -> list[Case]:
    """Return the training cases of a data set of the Decathlon or nnU-Net.

    Args:
        folder: with `imagesTr`, `labelsTr` and, if it is there, `dataset.json`.
        sequence: the channel's name or number; "": the only one.
        on_bad: is told of a case that cannot be used.

    Raises:
        InputError: `manifest_unreadable`, `case_without_label`, `label_without_image`, `sequence_unclear`,
            `sequence_unknown`; `unknown_format`: pictures, no volumes.
    """
    description = _description(folder)
    if description.ending and description.ending.lower() not in ENDINGS:
        raise InputError(
            "unknown_format",
            f"“{folder / DATASET}” names files that end in {description.ending}, which are not volumes.",
            "Save images and labels as .nii.gz files, with this file_ending.",
        )
    cases = []
    for name, images, label in description.listed or _from_folders(folder, description.ending, on_bad):
        try:
            cases.append(_dataset_case(name, images, label, description, sequence))
        except InputError as error:
            on_bad(name, error)
    return cases


# A case's name, the files of its image (or where they should be), and its label.
_Listed = tuple[str, list[Path], Path]


@dataclass(frozen=True)
class _Description:
    """What a `dataset.json` says.

    Attributes:
        channels: their names, in their order; empty if nobody tells.
        names: of the label's values, also of those that are no structures. regions: of several values.
        wanted: the structures; None: every value is one.
        ending: of the files; "": any.
        listed: the cases, where they are listed.
    """

    channels: tuple[str, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[tuple[int, ...], str] = field(default_factory=dict)
    wanted: tuple[tuple[int, ...], ...] | None = None
    ending: str = ""
    listed: tuple[_Listed, ...] = ()


def _description(folder: Path) -> _Description:
    path = folder / DATASET
    if not path.is_file():
        return _Description()

    def read(content: Any) -> _Description:
        names, regions, wanted = _label_names(content["labels"])
        return _Description(
            channels=_channel_names(content.get("channel_names") or content.get("modality") or {}),
            names=names,
            regions=regions,
            wanted=wanted,
            ending=str(content.get("file_ending", "")),
            listed=tuple(_listed_cases(folder, content)),
        )

    hint = "It must describe the “labels” as the Medical Segmentation Decathlon or nnU-Net does."
    return from_manifest(path, read, hint)


def _channel_names(channels: Any) -> tuple[str, ...]:
    """Return the names in their order: `{"0": "CT"}`, or `["CT"]` or `"CT"` as some write it."""
    if isinstance(channels, str):
        return (channels,)
    if isinstance(channels, list):
        return tuple(str(name) for name in channels)
    return tuple(str(name) for _, name in sorted(channels.items(), key=lambda item: int(item[0])))


def _label_names(
    labels: Mapping[str, Any],
) -> tuple[dict[int, str], dict[tuple[int, ...], str], tuple[tuple[int, ...], ...]]:
    """Return the names of the values and of regions, and the structures.

    Decathlon and nnU-Net 1: `{"1": "liver"}`; nnU-Net 2: `{"liver": 1, "tumor": [2, 3]}`.
    """
    if all(whole_number(str(key)) is not None for key in labels):
        parts: list[tuple[str, tuple[int, ...]]] = [
            (str(name), (int(value),)) for value, name in labels.items()
        ]
    else:
        parts = [
            (str(name), tuple(int(value) for value in (values if isinstance(values, list) else [values])))
            for name, values in labels.items()
        ]
    names = {values[0]: name for name, values in parts if len(values) == 1}
    regions = {values: name for name, values in parts if len(values) > 1}
    wanted = [
        values for name, values in parts if values != (0,) and name.lower() not in (_BACKGROUND, _IGNORE)
    ]
    return names, regions, tuple(wanted)


def _listed_cases(folder: Path, content: Mapping[str, Any]) -> list[_Listed]:
    if isinstance(content.get("dataset"), dict):
        return [
            (str(name), [folder / image for image in entry["images"]], folder / entry["label"])
            for name, entry in content["dataset"].items()
        ]
    entries = [entry for entry in content.get("training") or () if isinstance(entry, dict)]
    found = []
    for entry in entries:
        image, label = folder / entry["image"], folder / entry["label"]
        if not label.name.startswith("."):
            found.append((stem_of(label), _channel_files(image), label))
    return found


def _channel_files(image: Path) -> list[Path]:
    """Return the file itself, or its channels: nnU-Net 1 lists `NAME` where the files are `NAME_0000`, ..."""
    if image.is_file():
        return [image]
    name = stem_of(image)
    channels = [path for path, stem, _ in volumes_in(image.parent) if _channel_number(stem, name) is not None]
    return channels or [image]


def _channel_number(stem: str, name: str) -> int | None:
    """Return 3 for `NAME_0003`; None if a file is no channel of the image `name`."""
    match = _CHANNEL.match(stem)
    return int(match.group(2)) if match and match.group(1) == name else None


def _from_folders(folder: Path, ending: str, on_bad: Refuse) -> list[_Listed]:
    """Return the cases as the folders have them: each label with its channels, or with its image of that
    name."""
    labels = {stem: path for path, stem, _ in volumes_in(folder / _LABELS) if path.name.endswith(ending)}
    images: dict[str, list[Path]] = {}
    for path, stem, _ in volumes_in(folder / _IMAGES):
        if path.name.endswith(ending):
            channel = _CHANNEL.match(stem)
            name = channel.group(1) if channel and stem not in labels else stem
            images.setdefault(name, []).append(path)
    for name in sorted(labels.keys() - images.keys()):
        error = InputError(
            "label_without_image",
            f"There is no image in {_IMAGES} for “{labels[name].name}”.",
            f"Put it there as {name}_0000 with the label's ending, or move the label elsewhere.",
        )
        on_bad(name, error)
    for name in sorted(images.keys() - labels.keys()):
        hint = f"Put it into {_LABELS} as {name} with its image's ending, or move the image."
        on_bad(name, without_label(name, hint))
    return [(name, images[name], labels[name]) for name in sorted(labels.keys() & images.keys())]


def _dataset_case(
    name: str, images: Sequence[Path], label: Path, description: _Description, sequence: str
) -> Case:
    numbers = [_channel_number(stem_of(path), name) for path in images]
    in_one_file = len(images) == 1 and numbers[0] is None
    if in_one_file:
        channels = list(description.channels) or [stem_of(images[0])]
    else:
        known = dict(enumerate(description.channels))
        places = [place if number is None else number for place, number in enumerate(numbers)]
        channels = [known.get(place, f"{place:04d}") for place in places]
    by_number = in_one_file and len(channels) == 1 and whole_number(sequence) is not None
    chosen = 0 if by_number else choose_sequence(name, channels, sequence)
    image = images[0] if in_one_file else images[chosen]
    if not image.is_file():
        raise InputError(
            "image_missing",
            f"There is no image “{image}” for the case “{name}”.",
            f"Put it there, or take the case out of {DATASET}.",
        )
    case = Case(
        name,
        patient_of(name),
        image,
        label,
        description.names,
        description.wanted,
        modality=modality_of(channels[chosen]) if description.channels else "",
        channel=chosen if in_one_file and len(channels) > 1 else None,
        regions=description.regions,
        sequence=channels[chosen] if len(channels) > 1 else "",
    )
    return with_channel(case, sequence) if by_number else case


def modality_of(channel: str) -> str:
    """Return the modality that a channel's name tells, as in DICOM; "" if it tells none."""
    if channel.strip().upper().startswith("CT"):
        return "CT"
    return "MR" if _MR.search(channel) else ""


# --- one subfolder for each case


def is_masked(folder: Path) -> bool:
    """Tell whether a folder is laid out as a case of TotalSegmentator."""
    return (folder / _MASKS).is_dir() and any(stem.lower() in _MASKED for _, stem, _ in volumes_in(folder))


def masked_case(folder: Path, sequence: str) -> Case | None:
    """Return the case in a subfolder with an image and a folder of masks; None if this is no such folder.

    Raises:
        InputError: `case_unclear`, `sequence_unclear`, `sequence_unknown`.
    """
    if not (folder / _MASKS).is_dir():
        return None
    found: dict[str, list[Path]] = {}
    for path, stem, _ in volumes_in(folder):
        if stem.lower() in _MASKED:
            found.setdefault(stem.lower(), []).append(path)
    if not found:
        return None
    stems = list(found)
    stem = stems[choose_sequence(folder.name, stems, sequence)]
    image = only(folder.name, found[stem])
    assert image is not None
    return Case(
        folder.name,
        patient_of(folder.name),
        image,
        folder / _MASKS,
        modality=_MASKED[stem],
        sequence=stem if len(stems) > 1 else "",
    )


def sequences_case(folder: Path, sequence: str) -> Case | None:
    """Return the case in a subfolder with one label, by its name, and one or several images; None if there is
    none.

    Raises:
        InputError: `sequence_unclear`, `sequence_unknown`; `case_without_label`: it holds the images of a
            case alone.
    """
    labels, images = [], []
    for path, stem, ending in volumes_in(folder):
        if ending == SUFFIX or label_word(stem):
            labels.append(path)
        else:
            images.append((stem, path))
    if not labels and len(images) > 1 and all(stem.startswith(folder.name) for stem, _ in images):
        raise without_label(folder.name, f"Put it there as {folder.name}_seg with its images' ending.")
    if len(labels) != 1 or not images:
        return None
    names = _sequence_names(folder.name, [stem for stem, _ in images])
    if len(set(names)) != len(names):
        return None
    chosen = choose_sequence(folder.name, names, sequence)
    return Case(
        folder.name,
        patient_of(folder.name),
        images[chosen][1],
        labels[0],
        names=_BRATS_NAMES if {name.lower() for name in names} == _BRATS else {},
        modality=modality_of(names[chosen]) if {name.lower() for name in names} == _BRATS else "",
        sequence=names[chosen] if len(names) > 1 else "",
    )


def _shared_start(names: Sequence[str]) -> str:
    shortest = min(names, key=len)
    length = next((n for n, letter in enumerate(shortest) if any(name[n] != letter for name in names)), None)
    return shortest[:length]


def _sequence_names(case: str, stems: Sequence[str]) -> list[str]:
    """Return what is left of the files' names without what they share: t1, t1ce, t2, flair."""
    prefix = case if all(stem.startswith(case) for stem in stems) else _shared_start(stems)
    if len(stems) == 1 and prefix == stems[0]:
        prefix = ""
    # A part that they share by chance stays: t1 and t2 are no 1 and 2.
    if not all(stem[len(prefix) :][:1] in ("_", "-", ".", " ", "") for stem in stems):
        prefix = prefix[: max((prefix.rfind(mark) for mark in "_-. "), default=-1) + 1]
    return [stem[len(prefix) :].strip("_-. ") or stem for stem in stems]
