"""Finds the other files that belong to an image: those with its voxels, or the other half of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_Header = tuple[dict[str, str], int]


def nrrd_header(path: Path) -> _Header:
    """Return the fields of an NRRD file, keys in lower case, and where its header ends."""
    return _text_header(path, b":")


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
    suffix = path.suffix.lower()
    if not path.is_file():
        return ()
    if suffix in (".mha", ".mhd"):
        return metaimage_voxels(path)
    if suffix in (".nrrd", ".nhdr"):
        return _nrrd_voxels(path)
    if suffix in (".hdr", ".img"):
        other = half_of_pair(path, (".img", ".img.gz") if suffix == ".hdr" else (".hdr",))
        return () if other is None else (other,)
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
        # The pattern, and the first, last and step of its numbers; by default one for each slice, from 1.
        pattern, *numbers = named.split()
        slices = fields.get("dimsize", "0").split()[-1]
        first, last, step = (*numbers, *("1", slices, "1")[len(numbers) :])[:3]
        names = _numbered(pattern, first, last, step)
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
        # The pattern, and the first, last and step of its numbers.
        pattern, first, last, step = (*named.split(), "", "", "")[:4]
        names = _numbered(pattern, first, last, step)
    else:
        names = [named] if named else []
    return tuple(path.parent / name for name in names)


def voxels_of_pair(path: Path) -> Path:
    """Return the file with the voxels of a pair of Analyze or NIfTI files, given either; `path` if there is
    none."""
    if path.name.lower().endswith((".img", ".img.gz")):
        return path
    return half_of_pair(path, (".img", ".img.gz")) or path


def half_of_pair(path: Path, endings: Sequence[str]) -> Path | None:
    """Return the other file of a pair, with one of these endings; None if it is not there."""
    stem = path.name[: -len(path.suffix)]
    names = [stem + ending for ending in (*endings, *(ending.upper() for ending in endings))]
    return next((path.parent / name for name in names if (path.parent / name).is_file()), None)


def _lines(path: Path, offset: int) -> list[str]:
    """Return the lines with a text in a file from `offset` on."""
    lines = path.read_bytes()[offset:].decode("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _numbered(pattern: str, first: str, last: str, step: str) -> list[str]:
    """Return the names of a pattern as for `printf`, with numbers from the first to the last; none if it is
    no such pattern."""
    try:
        return [pattern % number for number in range(int(first), int(last) + 1, int(step))]
    except (TypeError, ValueError):
        return []
