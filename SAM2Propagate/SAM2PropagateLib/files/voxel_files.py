"""Finds the other files that belong to an image: those with its voxels, or the other half of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

# A volume has fewer slices.
_MOST_FILES = 100_000
_Header = tuple[dict[str, str], int]


def nrrd_header(path: Path) -> _Header:
    """Return the fields of an NRRD file, keys in lower case, and where its header ends."""
    return _text_header(path, b":")


def nrrd_sizes(path: Path) -> int | None:
    """Return along how many axes an NRRD file states the size of its voxels; None for other files."""
    with path.open("rb") as file:
        if file.read(4) != b"NRRD":
            return None
    fields, _ = nrrd_header(path)
    if "space directions" in fields:
        return fields["space directions"].count("(")
    sizes = fields.get("spacings", "").split()
    return sum(size.lower() not in ("nan", "none", "???") for size in sizes)


def metaimage_header(path: Path) -> _Header:
    """Return the fields of a MetaImage file, keys in lower case, and where its header ends."""
    return _text_header(path, b"=", b"elementdatafile")


def _text_header(path: Path, separator: bytes, *last: bytes) -> _Header:
    """Return the fields of a text header up to an empty line or a line with a key of `last`, and where it
    ends."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for line in iter(file.readline, b""):
            text = line.strip()
            key, _, value = text.partition(separator)
            fields[key.strip().decode("latin-1").lower()] = value.strip().decode("utf-8", "replace")
            if not text or key.strip().lower() in last:
                break
        return fields, file.tell()


def other_files(path: Path) -> tuple[Path, ...]:
    """Return the other files that an image is spread over, whether they are there or not.

    Args:
        path: the file that a user names. Other things than image files have no other files.

    Raises:
        OSError: the header cannot be read.
    """
    if not path.is_file():
        return ()
    if is_half(path, ".hdr") or is_half(path, ".img"):
        return tuple(file for file in (header_of_pair(path), voxels_of_pair(path)) if file != path)
    suffix = path.suffix.lower()
    if suffix in (".mha", ".mhd"):
        return metaimage_voxels(path)
    if suffix in (".nrrd", ".nhdr"):
        return _nrrd_voxels(path)
    return ()


def metaimage_voxels(path: Path) -> tuple[Path, ...]:
    """Return the files with the voxels of a MetaImage header; none if they follow the header.

    It is one file, or one for each slice: listed, or named by a pattern.
    """
    fields, offset = metaimage_header(path)
    named = fields.get("elementdatafile", "")
    if not named or named.upper() == "LOCAL":
        return ()
    if named.upper().startswith("LIST"):
        names = _lines(path, offset)
    elif "%" in named:
        names = _named(named.split()[0], pattern_numbers(fields))
    else:
        names = [named]
    return tuple(path.parent / name for name in names)


def _nrrd_voxels(path: Path) -> tuple[Path, ...]:
    """Return the files with the voxels of an NRRD header; none if they follow the header."""
    fields, _ = nrrd_header(path)
    named = fields.get("data file", fields.get("datafile", ""))
    if named.upper().split()[:1] == ["LIST"]:
        names = _lines(path, _text_header(path, b":", b"data file", b"datafile")[1])
    elif "%" in named:
        # The pattern, then its first number, the last one and the step.
        pattern, *numbers = named.split()
        names = _named(pattern, _counted(numbers[:3]))
    else:
        names = [named] if named else []
    return tuple(path.parent / name for name in names)


def voxels_of_pair(path: Path) -> Path:
    """Return the file with the voxels of a pair of Analyze or NIfTI files, given either; `path` if there is
    none."""
    return path if is_half(path, ".img") else half_of_pair(path, ".img") or path


def header_of_pair(path: Path) -> Path:
    """Return the file with the header of a pair of Analyze or NIfTI files, given either; `path` if there is
    none."""
    return (half_of_pair(path, ".hdr") or path) if is_half(path, ".img") else path


def is_half(path: Path, ending: str) -> bool:
    """Tell whether a file is that half of a pair, `.hdr` or `.img`, compressed or not."""
    return path.name.lower().endswith((ending, ending + ".gz"))


def half_of_pair(path: Path, ending: str) -> Path | None:
    """Return the half of a pair with this ending, `.hdr` or `.img`, compressed or not, given the other one;
    None if it is not there."""
    stem = Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem
    names = [stem + one for one in (ending, ending + ".gz", ending.upper(), ending.upper() + ".GZ")]
    return next((path.parent / name for name in names if (path.parent / name).is_file()), None)


def _lines(path: Path, offset: int) -> list[str]:
    """Return the lines with a text in a file from `offset` on."""
    lines = path.read_bytes()[offset:].decode("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def pattern_numbers(fields: Mapping[str, str]) -> range:
    """Return the numbers in the names of a MetaImage header's files, one for each slice.

    Args:
        fields: of the header, which names its files by a pattern; after it stand the first number, the last
            one and the step, as far as they are given.

    Returns:
        Nothing if they do not rise, with which ITK cannot go on.
    """
    try:
        first, *others = [int(float(word)) for word in fields["elementdatafile"].split()[1:4]] or [1]
        slices = int(fields["dimsize"].split()[-1])
        step = others[1] if len(others) > 1 else (others[0] - first) // slices if others else 1
        return range(first, first + step * min(slices, _MOST_FILES), step) if step > 0 else range(0)
    except (KeyError, IndexError, ValueError, OverflowError, ZeroDivisionError):
        return range(0)


def _counted(words: Sequence[str]) -> range:
    """Return the numbers from the first to the last by the step, as far as they are numbers."""
    try:
        first, last, step = (int(word) for word in words)
        return range(first, last + 1, step)[:_MOST_FILES]
    except ValueError:
        return range(0)


def _named(pattern: str, numbers: range) -> list[str]:
    """Return the names of a pattern as for `printf`; none if it is no such pattern."""
    try:
        return [pattern % number for number in numbers]
    except (TypeError, ValueError):
        return []
