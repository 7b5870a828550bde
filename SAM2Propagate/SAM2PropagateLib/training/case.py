"""A segmented volume on disk, and what finding one needs whichever way the cases are laid out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation.targets import ENDINGS
from SAM2PropagateLib.files.segmentation import SUFFIX
from SAM2PropagateLib.numerals import whole_number

FLAIR_ELSE_FIRST = "*"
"""In the place of a sequence's name: the one called FLAIR, or the first one where none is."""

LABEL_WORDS = tuple(
    separator + word
    for word in ("label", "labels", "seg", "segm", "segmentation", "mask", "gt", "gtv")
    for separator in ("_", "-")
)
# A number that names a patient: alone between separators, or after a word for a patient.
_PATIENT = re.compile(
    r"(?:.*?[-_. ])??(?:p|pt|pat|patient|s|sub|subj|subject|case|id)?\d+(?=[-_. ]|$)", re.IGNORECASE
)


@dataclass(frozen=True)
class Case:
    """A segmented volume on disk.

    Attributes:
        name: for the user.
        patient: whose it is: two cases of one patient never stand on both sides of a split.
        image, label: files; the image may be a DICOM folder, the label a `.seg.nrrd`, or a folder with a
            mask of each structure, named as the structure.
        names: of the label's values, as far as somebody tells.
        wanted: the structures, each the values that make it up; None: every value is one.
        axis: propagation axis; None: the one with the largest spacing.
        modality: "CT", "MR", ... or "" if nobody tells.
        channel: which volume of an image file that holds several; None: it holds one.
        regions: names of structures that are made up of several values.
        sequence: the name of the image among several; "" if there is one.
    """

    name: str
    patient: str
    image: Path
    label: Path
    names: Mapping[int, str] = field(default_factory=dict, compare=False)
    wanted: tuple[tuple[int, ...], ...] | None = None
    axis: int | None = None
    modality: str = ""
    channel: int | None = None
    regions: Mapping[tuple[int, ...], str] = field(default_factory=dict, compare=False)
    sequence: str = field(default="", compare=False)


Refuse = Callable[[str, InputError], None]
"""Takes the name of what cannot be used as a case, and why; if it returns, the others go on."""


def refuse(name: str, error: InputError) -> None:
    """Raise the error: one case that cannot be used ends the work on all."""
    raise error


def patient_of(name: str) -> str:
    """Return the patient in a case's name: everything up to the number that tells whose it is.

    That is the first number that stands alone ("sts_008_mr_t1" -> "sts_008"; "BraTS20_Training_001" as it is)
    or follows a word for a patient ("p01_2" -> "p01"); else the first number ("aorta7b" -> "aorta7"); without
    a number the whole name. A name that begins with a date says no more than its year this way: a manifest
    has to say whose cases those are.
    """
    found = _PATIENT.match(name) or re.match(r"\D*\d+", name)
    return found.group() if found else name


def label_word(stem: str) -> str:
    """Return the end of a file's name that says that it is a label, such as "_seg"; "" if nothing does."""
    return max((word for word in LABEL_WORDS if stem.lower().endswith(word)), key=len, default="")


def volumes_in(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the volumes and segmentations in a folder: path, name without its ending, ending in lower case.

    Hidden files are left out: archives made on a Mac hold a file `._NAME` for each file.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in paths:
        ending = next((e for e in (SUFFIX, *ENDINGS) if path.name.lower().endswith(e)), None)
        if ending is None or path.name.startswith(".") or not path.is_file():
            continue
        if ending == ".img" and path.with_suffix(".hdr").is_file():
            continue  # the voxels of a pair: the header stands for both
        yield path, path.name[: -len(ending)], ending


def stem_of(path: Path) -> str:
    """Return a file's name without the ending of a volume; the file need not be there."""
    ending = next((e for e in (SUFFIX, *ENDINGS) if path.name.lower().endswith(e)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def only(name: str, paths: Sequence[Path]) -> Path | None:
    """Return the one path, or None if there is none.

    Raises:
        InputError: `case_unclear`: there are several.
    """
    if len(paths) > 1:
        raise InputError(
            "case_unclear",
            f"The case “{name}” has {listed([path.name for path in paths])}: which one counts is not clear.",
            "Keep one of them there.",
        )
    return paths[0] if paths else None


def listed(names: Sequence[str]) -> str:
    """Return names for a sentence, the first few of many."""
    shown = ", ".join(f"“{name}”" for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def without_label(name: str, hint: str) -> InputError:
    """Return the error of a case without a label."""
    return InputError("case_without_label", f"The case “{name}” has no label.", hint)


def with_channel(case: Case, sequence: str) -> Case:
    """Return a case of one image, whose file may hold several volumes: `sequence` is the number of one of
    them.

    Raises:
        InputError: `sequence_unknown`: it is a name.
    """
    if sequence in ("", FLAIR_ELSE_FIRST):
        return case
    number = whole_number(sequence)
    if number is None:
        choose_sequence(case.name, [stem_of(case.image)], sequence)
        return case
    return replace(case, channel=number)


def choose_sequence(name: str, sequences: Sequence[str], wanted: str) -> int:
    """Return which of the sequences of a case is meant, by its name or its number from 0.

    Args:
        name: of the case.
        sequences: their names, in their order.
        wanted: as the user gave it; "": nothing was given, which is enough where there is one;
            `FLAIR_ELSE_FIRST`.

    Raises:
        InputError: `sequence_unclear`, `sequence_unknown`.
    """
    if wanted == FLAIR_ELSE_FIRST:
        return next((n for n, sequence in enumerate(sequences) if sequence.lower() == "flair"), 0)
    if not wanted:
        if len(sequences) == 1:
            return 0
        raise InputError(
            "sequence_unclear",
            f"The case “{name}” has {len(sequences)} images: {', '.join(sequences)}.",
            f"Choose one for all cases with --sequence, for instance --sequence {sequences[0]}.",
        )
    matching = [n for n, sequence in enumerate(sequences) if sequence.lower() == wanted.lower()]
    if len(matching) == 1:
        return matching[0]
    number = whole_number(wanted)
    if number is not None and number < len(sequences) and not matching:
        return number
    raise InputError(
        "sequence_unknown",
        f"The case “{name}” has {len(matching) or 'no'} images “{wanted}”. It has: {', '.join(sequences)}.",
        f"Give one of these with --sequence, or a number from 0 to {len(sequences) - 1} in this order."
        if len(sequences) > 1
        else "Leave out --sequence if all cases have one image; otherwise move this case elsewhere.",
    )
