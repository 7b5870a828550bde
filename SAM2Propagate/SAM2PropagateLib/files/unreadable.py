"""Finds out why a file cannot be read, and what helps, by looking into it."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.nifti_header import read_nifti_header
from SAM2PropagateLib.files.voxel_files import half_of_pair, metaimage_header, nrrd_header

EXPORT = "Export or copy the file again."
_FORMATS = "Give an NRRD, NIfTI or MetaImage file, or the folder of a DICOM series."
# The first bytes of compressed files and archives.
_COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\3\4", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
)
# The encodings that ITK is built with.
_ENCODINGS = ("raw", "gzip", "gz", "hex", "ascii", "text", "txt")
# Reasons for which the system refuses a path, whatever is done with it.
_REFUSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EROFS)
_FREESURFER = (".mgz", ".mgh")


def unreadable(path: Path, error: OSError) -> InputError:
    """Return the error for a file or folder that the system does not let us read."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return InputError(
        "file_unreadable", f"“{path}” cannot be read: {reason}.", "Check the path and its permissions."
    )


def not_a_file(path: Path) -> InputError:
    """Return `file_unreadable` for a pipe, a socket or a device, on which reading could wait forever."""
    return InputError("file_unreadable", f"“{path}” is not a file.", "Save what it gives as a file.")


def path_failure(error: BaseException) -> InputError | None:
    """Return `path_unusable` if the system refuses the path that an error names; None for other errors."""
    if not isinstance(error, OSError) or error.filename is None or error.errno not in _REFUSED:
        return None
    return InputError(
        "path_unusable",
        f"“{os.fsdecode(error.filename)}” cannot be used: {os.strerror(error.errno)}.",
        "Check the path, and the permissions of its folders.",
    )


def damaged(path: Path) -> InputError:
    """Return the error `file_damaged`."""
    return InputError("file_damaged", f"“{path}” is damaged or cut short.", EXPORT)


def other_encoding(path: Path) -> InputError | None:
    """Return `unknown_encoding` for an NRRD file with an unsupported compression; else None."""
    if not _is_nrrd(path):
        return None
    encoding = nrrd_header(path)[0].get("encoding", "raw")
    if encoding.lower() in _ENCODINGS:
        return None
    return InputError(
        "unknown_encoding",
        f"The voxels of “{path}” are stored with the encoding {encoding}, which is not read.",
        "Save it with the encoding gzip, for instance in Python with pynrrd: data, header = "
        "nrrd.read(FILE); header['encoding'] = 'gzip'; nrrd.write(NEW, data, header).",
    )


def odd_header(path: Path, reason: str) -> InputError | None:
    """Return the error for a header that describes what ITK does not read; None for other damage.

    Args:
        path: the file.
        reason: what ITK says.
    """
    if "Zero-valued spacing" in reason or re.search(r"spacing \(.*\) invalid", reason):
        return InputError(
            "no_voxel_size",
            f"The header of “{path}” gives its voxels no size along an axis.",
            "Export the volume again, with its spacing.",
        )
    if "determinant is 0" in reason:
        return InputError(
            "skewed_geometry",
            f"The axes of “{path}” do not span a volume: two of them point the same way.",
            "Correct them in its header, or export the volume again.",
        )
    if not _is_nrrd(path):
        return None
    fields, _ = nrrd_header(path)
    space = fields.get("space", f"of {fields.get('space dimension', 'no')} dimensions")
    if "_nrrdReadNrrdParse_space: " in reason:
        return _odd_nrrd("unknown_space", f"“{path}” lies in the space {space}, which is not known.")
    if "match dimension of space" in reason:
        axes = fields.get("dimension", "other")
        return _odd_nrrd("not_3d", f"“{path}” has {axes} axes in the space {space}, which is not read.")
    if "_nrrdReadNrrdParse_type: " in reason or "nrrdTypeBlock" in reason:
        kind = fields.get("type", "")
        return _odd_nrrd("unknown_type", f"The voxels of “{path}” have the type {kind}, which is not read.")
    # The last line says what is wrong, the others where it was found.
    problem = re.search(r"\[nrrd\] \w+: (.+)\s*$", reason)
    if problem is None or "ReadImageInformation: " not in reason:
        return None
    return _odd_nrrd("file_damaged", f"The header of “{path}” cannot be used: {problem[1].rstrip('. ')}.")


def _odd_nrrd(code: str, sentence: str) -> InputError:
    return InputError(
        code,
        sentence,
        "Save it again as one volume of numbers in the space left-posterior-superior.",
    )


def no_voxel_size(sentence: str) -> InputError:
    """Return `no_voxel_size`: ITK reads the file, but takes 1 mm where its header says nothing."""
    return InputError(
        "no_voxel_size",
        sentence,
        "Write it there, for instance in Python with SimpleITK: image = SimpleITK.ReadImage(FILE); "
        "image.SetSpacing((X, Y, Z)); SimpleITK.WriteImage(image, NEW).",
    )


def _is_nrrd(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"NRRD"


def missing_voxels(path: Path) -> InputError | None:
    """Return `file_damaged` if a header names another file for its voxels that is not there; else None."""
    suffix = path.suffix.lower()
    if suffix == ".mhd":
        named = metaimage_header(path)[0].get("elementdatafile", "")
        named = "" if named.upper() in ("LOCAL", "LIST") or "%" in named else named
    elif suffix == ".nhdr":
        fields = nrrd_header(path)[0]
        named = fields.get("data file", fields.get("datafile", ""))
        named = "" if named.upper().startswith("LIST") or "%" in named else named
    elif suffix in (".hdr", ".img"):
        return _missing_half(path)
    else:
        return None
    if not named or (path.parent / named).is_file():
        return None
    return _other_half(path, "voxels", named)


def _missing_half(path: Path) -> InputError | None:
    """Do what `missing_voxels` does for a pair of Analyze or NIfTI files."""
    part, ending = ("voxels", ".img") if path.suffix.lower() == ".hdr" else ("header", ".hdr")
    return None if half_of_pair(path, ending) is not None else _other_half(path, part, path.stem + ending)


def _other_half(path: Path, part: str, name: str) -> InputError:
    """Return `file_damaged`: the other file of a pair, with the voxels or the header, is not there."""
    return InputError(
        "file_damaged",
        f"The file with the {part} of “{path}” is not there: “{path.parent / name}”.",
        "Copy it there; both files belong together.",
    )


def unknown_format(path: Path) -> InputError:
    """Return `unknown_format`, or `unknown_name` if the file only needs another name."""
    for look in (_nifti_2, _freesurfer, _compressed, _without_ending, _voxels_alone):
        found = look(path)
        if found is not None:
            return found
    return InputError("unknown_format", f"“{path}” is not an image file that can be read.", _FORMATS)


def _nifti_2(path: Path) -> InputError | None:
    header = read_nifti_header(path)
    if header is None or header.version != 2:
        return None
    return InputError(
        "unknown_format",
        f"“{path}” is a NIfTI-2 file; only NIfTI-1 is read.",
        "Save it as NIfTI-1, for instance in Python with nibabel: "
        "nibabel.Nifti1Image.from_image(nibabel.load(FILE)).to_filename(NEW).",
    )


def _compressed(path: Path) -> InputError | None:
    with path.open("rb") as file:
        start = file.read(8)
    name = next((name for magic, name in _COMPRESSED if start.startswith(magic)), "")
    if not name:
        return None
    if name == "gzip" and read_nifti_header(path) is not None:
        return _named(path, "a compressed NIfTI file", ".nii.gz")
    if path.suffix.lower() in (".nii", ".nrrd", ".mha", ".hdr", ".img"):
        told = f"“{path}” is compressed with {name}, which its name does not say."
    else:
        told = f"“{path}” is compressed with {name}."
    return InputError("unknown_format", told, f"Unpack it first{_unpacking(name)}, and give what is inside.")


def _unpacking(name: str) -> str:
    return f" ({name})" if name in ("zip", "7z") else f" (with {name} -d)"


def _without_ending(path: Path) -> InputError | None:
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"NRRD" and path.suffix.lower() not in (".nrrd", ".nhdr"):
        return _named(path, "an NRRD file", ".nrrd")
    if read_nifti_header(path) is not None and not path.name.lower().endswith((".nii", ".hdr", ".img")):
        return _named(path, "a NIfTI file", ".nii")
    return None


def _named(path: Path, kind: str, ending: str) -> InputError:
    stem = path.name
    for known in (".nii.gz", ".nii", ".gz"):
        if stem.lower().endswith(known):
            stem = stem[: -len(known)]
            break
    return InputError(
        "unknown_name",
        f"“{path}” is {kind}, but its name does not end in {ending}.",
        f"Rename it to “{stem}{ending}”.",
    )


def _freesurfer(path: Path) -> InputError | None:
    if path.suffix.lower() not in _FREESURFER:
        return None
    return InputError(
        "unknown_format",
        f"“{path}” is a FreeSurfer file ({path.suffix}), which is not read.",
        "Save it as NIfTI, for instance in Python with nibabel: "
        "nibabel.Nifti1Image.from_image(nibabel.load(FILE)).to_filename(NEW).",
    )


def _voxels_alone(path: Path) -> InputError | None:
    headers = (path.with_suffix(ending) for ending in (".mhd", ".nhdr", ".hdr"))
    header = next((one for one in headers if one.is_file()), None)
    if header is None or path.suffix.lower() == header.suffix:
        return None
    return InputError(
        "unknown_format", f"“{path}” holds voxels without a header.", f"Give its header “{header}” instead."
    )
