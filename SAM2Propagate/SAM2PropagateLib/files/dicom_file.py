"""Reads the headers of the slices in one DICOM file. No patient data is kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.datadict import dictionary_description, dictionary_keyword, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID

from SAM2PropagateLib.files.unreadable import unreadable
from SAM2PropagateLib.numerals import whole_number

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Objects with pixels that are not images of the patient: segmentations, label maps and radiotherapy doses.
_SEGMENTATIONS = frozenset(_STORAGE + end for end in ("66.4", "66.7"))
# Pixels are neither compressed nor deflated with these transfer syntaxes, or without one.
_LENGTH_KNOWN = ("", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_CAPTURES = _STORAGE + "7"
_NO_IMAGES = _SEGMENTATIONS | {_STORAGE + "481.2"}

# Fields that distinguish images at one place: the name for the user, DICOM's keywords (the first that is
# there counts) and the unit.
_MARKS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("series", ("SeriesDescription",), ""),
    ("stack", ("StackID",), ""),
    ("image type", ("FrameType", "ImageType"), ""),
    ("component", ("ComplexImageComponent",), ""),
    ("echo time", ("EffectiveEchoTime", "EchoTime"), " ms"),
    ("inversion time", ("InversionTimes", "InversionTime"), " ms"),
    ("flip angle", ("FlipAngle",), " degrees"),
    ("b-value", ("DiffusionBValue",), ""),
    ("gradient direction", ("DiffusionGradientOrientation",), ""),
    ("time point", ("TemporalPositionIndex", "TemporalPositionIdentifier"), ""),
    ("cardiac phase", ("NominalPercentageOfCardiacPhase",), " %"),
    ("respiratory phase", ("NominalPercentageOfRespiratoryPhase",), " %"),
    ("tube voltage", ("KVP",), " kV"),
    ("kernel", ("ConvolutionKernel",), ""),
    ("acquisition", ("FrameAcquisitionNumber", "AcquisitionNumber"), ""),
)
TIME_MARK = "acquisition time"
FILE_MARK = "file"
FRAME_ORDER = "frame"
_TRIGGER = ("NominalCardiacTriggerDelayTime", "TriggerTime")
_TIMES = ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime")
# These dimensions of an enhanced file are a frame's place, or are marks already.
_PLACE_DIMENSIONS = frozenset(
    {"ImagePositionPatient", "ImageOrientationPatient", "InStackPositionNumber"}
) | {keyword for _, keywords, _ in _MARKS for keyword in keywords}
_KEYWORDS = frozenset(
    [
        *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "SeriesDescription", "ImageType"),
        *("SpecificCharacterSet", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"),
        *("PhotometricInterpretation", "BitsAllocated", "PixelSpacing", "ImageOrientationPatient"),
        *("ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "WindowWidth", "WindowCenter"),
        *(
            "InstanceNumber",
            "ContentTime",
            "SharedFunctionalGroupsSequence",
            "PerFrameFunctionalGroupsSequence",
        ),
        *("DimensionIndexSequence", "DetectorInformationSequence", "SliceVector", "SpacingBetweenSlices"),
        *_TRIGGER,
        *_TIMES,
        *(keyword for _, keywords, _ in _MARKS for keyword in keywords),
    ]
)


_SEQUENCES = frozenset(keyword for keyword in _KEYWORDS if keyword.endswith("Sequence"))
_WANTED = {
    tag: keyword
    for keyword in (_KEYWORDS - _SEQUENCES) | {"DimensionIndexValues"}
    if (tag := tag_for_keyword(keyword)) is not None
}


@dataclass(frozen=True)
class ImageHeader:
    """The header of one slice: of a file with one image, or of one frame of a multi-frame file.

    Lengths are millimeters in DICOM's patient coordinates (LPS).

    Args:
        path: the file.
        frame: index of the frame in the file, from 0.
        frames: how many frames the file has.
        pixel_spacing: row to row, column to column; None if unknown.
        orientation: the direction of a row and of a column (six numbers), or None.
        position: the center of the first pixel, or None.
        slope, intercept: value = stored value * slope + intercept.
        window: (width, level) of the slice's own display window, or None.
        marks: what distinguishes it from other images at the same place: name for the user -> value.
        times: numbers by which images are put in the order of acquisition: "trigger time" (ms),
            "acquisition time" and "content time" (s) and "instance number", as far as the file has them;
            "frame" in a multi-frame file.
    """

    path: Path
    frame: int
    series: str
    instance: str
    storage: str
    modality: str
    description: str
    kind: str
    rows: int
    columns: int
    frames: int
    components: int
    pixel_spacing: tuple[float, float] | None
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    slope: float
    intercept: float
    window: tuple[float, float] | None
    marks: Mapping[str, str] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The slice in a sentence."""
        return f"“{self.path.name}”" if self.frames == 1 else f"frame {self.frame + 1} of “{self.path.name}”"

    @property
    def storage_name(self) -> str:
        """DICOM's name for the kind of file."""
        return storage_name(self.storage)

    @property
    def is_capture(self) -> bool:
        """Whether the file is a secondary capture: pictures that a program saved."""
        return self.storage == _CAPTURES or self.storage.startswith(_CAPTURES + ".")

    @property
    def is_localizer(self) -> bool:
        """Whether the file is marked as a localizer (a scout image)."""
        return "LOCALIZER" in self.kind.upper().split("\\")

    @property
    def normal(self) -> np.ndarray:
        """The unit vector perpendicular to the slice (LPS); needs `orientation`."""
        assert self.orientation is not None
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return normal / np.linalg.norm(normal)


@dataclass(frozen=True)
class OtherObject:
    """A DICOM file that is not a readable image.

    Args:
        path: the file.
        kind: DICOM's name for what it is; empty if it is damaged.
        is_segmentation: whether it is a segmentation object.
    """

    path: Path
    kind: str = ""
    is_segmentation: bool = False


def storage_name(uid: str) -> str:
    """Return DICOM's name for a kind of file, for a sentence."""
    name = UID(uid).name
    return "unknown" if not uid or name == uid else name.removesuffix(" Storage")


def may_be_dicom(path: Path) -> bool:
    """Tell DICOM files from pictures, archives and texts by their first bytes.

    Raises:
        InputError: `file_unreadable`.
    """
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        # Without this file the series could have a hole.
        raise unreadable(path, error) from error
    if start[128:] == b"DICM":
        return True
    # A data set without preamble begins with a tag of group 0002 or 0008, in either byte order.
    return start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def read_headers(path: Path) -> tuple[ImageHeader, ...] | OtherObject | None:
    """Read the headers of a file's slices, without their pixels.

    Returns:
        One header per frame; an `OtherObject` for a damaged file or another kind of object; None for a file
        that is not DICOM.

    Raises:
        InputError: `file_unreadable`.
    """
    if not may_be_dicom(path):
        return None
    try:
        # pydicom warns about every small fault; those that matter are checked here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as file:
                dataset = dcmread(file, stop_before_pixels=True, specific_tags=list(_KEYWORDS), force=True)
                remaining = path.stat().st_size - file.tell()
            return _headers(path, dataset, remaining)
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception:
        # With damaged bytes pydicom may raise nearly any exception.
        return OtherObject(path)


def _headers(path: Path, dataset: Dataset, remaining: int) -> tuple[ImageHeader, ...] | OtherObject | None:
    meta = getattr(dataset, "file_meta", Dataset())
    storage = str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    rows, columns = _number(dataset.get("Rows")), _number(dataset.get("Columns"))
    if storage in _NO_IMAGES:
        return OtherObject(path, storage_name(storage), storage in _SEGMENTATIONS)
    if not rows or not columns:
        if not storage:
            return OtherObject(path) if meta else None
        is_image = "Image" in storage_name(storage)
        return OtherObject(path, "" if is_image else storage_name(storage))
    frames = max(1, int(_number(dataset.get("NumberOfFrames")) or 1))
    samples = int(_number(dataset.get("SamplesPerPixel")) or 1)
    if meta.get("TransferSyntaxUID", "") in _LENGTH_KNOWN:
        bits = int(_number(dataset.get("BitsAllocated")) or 0)
        if not bits or remaining < int(rows) * int(columns) * frames * samples * bits // 8:
            return OtherObject(path)
    palette = str(dataset.get("PhotometricInterpretation", "")).strip() == "PALETTE COLOR"
    of_file = _DicomFields(dataset, *_macros(dataset.get("SharedFunctionalGroupsSequence"), 0))
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    dimensions = _dimensions(dataset)
    # Without functional groups the file's fields are those of its first frame.
    has_groups = bool(per_frame)
    positions = _nuclear_positions(dataset, frames)
    headers = []
    for frame in range(frames):
        macros = _macros(per_frame, frame)
        fields = _DicomFields(*macros, outer=of_file) if macros else of_file
        orientation = fields.numbers("ImageOrientationPatient", 6)
        position = fields.numbers("ImagePositionPatient", 3) if has_groups or frame == 0 else None
        if positions is not None:
            orientation, position = positions[0], positions[1][frame]
        slope = fields.number("RescaleSlope")
        spacing = fields.numbers("PixelSpacing", 2)
        headers.append(
            ImageHeader(
                path=path,
                frame=frame,
                series=str(dataset.get("SeriesInstanceUID") or ""),
                instance=str(dataset.get("SOPInstanceUID") or ""),
                storage=storage,
                modality=str(dataset.get("Modality") or ""),
                description=str(dataset.get("SeriesDescription") or "").strip(),
                kind=fields.text("FrameType") or fields.text("ImageType"),
                rows=int(rows),
                columns=int(columns),
                frames=frames,
                components=3 if palette else samples,
                pixel_spacing=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
                orientation=orientation,
                position=position,
                slope=slope or 1.0,
                intercept=(fields.number("RescaleIntercept") or 0.0) if slope != 0 else 0.0,
                window=_window(fields, slope or 1.0),
                marks=_marks(fields, dimensions) | ({FILE_MARK: path.name} if frames > 1 else {}),
                times=_times(fields) | ({FRAME_ORDER: float(frame)} if frames > 1 else {}),
            )
        )
    return tuple(headers)


class _DicomFields:
    """The needed fields of one slice: the file's, then those of its functional groups."""

    def __init__(self, place: Dataset, *inner: Dataset, outer: _DicomFields | None = None) -> None:
        self._values: dict[str, Any] = dict(outer._values) if outer is not None else {}
        for dataset in (place, *inner):
            for tag in dataset.keys() & _WANTED.keys():
                try:
                    value = dataset[tag].value
                except (ValueError, TypeError, OverflowError):
                    # A value that cannot be converted counts as absent.
                    continue
                if value is not None and value != "":
                    self._values[_WANTED[tag]] = value

    def get(self, keyword: str) -> Any:
        """Return the value, or None."""
        return self._values.get(keyword)

    def text(self, keyword: str) -> str:
        """Return the parts of the value as one text; "" if there is none."""
        value = self.get(keyword)
        return "" if value is None else "\\".join(str(part).strip() for part in _listed(value))

    def number(self, keyword: str) -> float | None:
        """Return the first number of the value."""
        return _number(self.get(keyword))

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Return the numbers of the value; None if it is not so many numbers."""
        values = [_number(part) for part in _listed(self.get(keyword))]
        found = tuple(value for value in values if value is not None)
        return found if len(values) == len(found) == count else None


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return (
        [value]
        if isinstance(value, str | bytes | int | float) or not hasattr(value, "__iter__")
        else list(value)
    )


def _number(value: Any) -> float | None:
    parts = _listed(value)
    try:
        number = float(parts[0])
    except (IndexError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _macros(groups: Sequence[Dataset] | None, index: int) -> list[Dataset]:
    """Return the first items of the sequences in one functional group, nested ones after them.

    Private sequences are left out, as they repeat DICOM's fields with values of another kind.
    """
    if not groups or index >= len(groups):
        return []
    found = []
    waiting = [groups[index]]
    while waiting:
        for element in waiting.pop(0):
            if element.VR == "SQ" and element.value and not element.tag.is_private:
                found.append(element.value[0])
                waiting.append(element.value[0])
    return found


def _dimensions(dataset: Dataset) -> tuple[tuple[int, str], ...]:
    """Return the dimensions of an enhanced file that are not places: index into the values, name."""
    found = []
    for number, item in enumerate(dataset.get("DimensionIndexSequence") or ()):
        pointer = item.get("DimensionIndexPointer")
        if pointer is None:
            continue
        try:
            keyword, name = dictionary_keyword(pointer), dictionary_description(pointer)
        except KeyError:
            keyword, name = "", f"dimension {number + 1}"
        if keyword not in _PLACE_DIMENSIONS:
            found.append((number, str(item.get("DimensionDescriptionLabel") or name).strip().lower()))
    return tuple(found)


def _marks(fields: _DicomFields, dimensions: Sequence[tuple[int, str]]) -> dict[str, str]:
    marks = {}
    for name, keywords, unit in _MARKS:
        value = next((found for found in map(fields.get, keywords) if found is not None), None)
        if value is None:
            continue
        marks[name] = "\\".join(_short(part, bool(unit)) for part in _listed(value)) + unit
    time = next((text for text in map(fields.text, _TIMES) if text), "")
    if time:
        marks[TIME_MARK] = _clock(time)
    indices = _listed(fields.get("DimensionIndexValues"))
    for number, name in dimensions:
        if number < len(indices):
            marks.setdefault(name, str(indices[number]))
    return marks


def _short(value: Any, is_number: bool) -> str:
    """Return numbers with three digits, as further digits of echo times and the like are noise."""
    number = _number(value) if is_number or isinstance(value, float) else None
    return str(value).strip() if number is None else f"{float(f'{number:.3g}'):g}"


def _times(fields: _DicomFields) -> dict[str, float]:
    found = {
        "trigger time": next((n for n in map(fields.number, _TRIGGER) if n is not None), None),
        "acquisition time": next((s for s in map(_seconds, map(fields.text, _TIMES)) if s is not None), None),
        "instance number": fields.number("InstanceNumber"),
        "content time": _seconds(fields.text("ContentTime")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _clock(text: str) -> str:
    """Return a DICOM time, or date and time, for people."""
    whole, dot, fraction = text.partition(".")
    date, time = (whole[:8], whole[8:14]) if len(whole) > 6 else ("", whole)
    if whole_number(whole) is None or len(time) != 6:
        return text
    parts = [f"{date[:4]}-{date[4:6]}-{date[6:]} "] if date else []
    fraction = fraction.rstrip("0") if whole_number(fraction) is not None else ""
    return "".join([*parts, ":".join((time[:2], time[2:4], time[4:])), dot if fraction else "", fraction])


def _seconds(text: str) -> float | None:
    """Return seconds of a DICOM time (HHMMSS.F) or date and time (YYYYMMDDHHMMSS.F)."""
    whole, _, fraction = text.partition(".")
    fraction = fraction.partition("+")[0].partition("-")[0]
    days = 0
    if len(whole) > 6:
        days, whole = whole_number(whole[:8]) or 0, whole[8:]
    if len(whole) != 6 or whole_number(whole) is None:
        return None
    seconds = int(whole[:2]) * 3600 + int(whole[2:4]) * 60 + int(whole[4:])
    return days * 86400.0 + seconds + (float(f"0.{fraction}") if whole_number(fraction) is not None else 0.0)


def _window(fields: _DicomFields, slope: float) -> tuple[float, float] | None:
    """Return the first window (width, level), if it is wide enough to show more than black and white."""
    width, level = fields.number("WindowWidth"), fields.number("WindowCenter")
    if width is None or level is None or width < 2 * abs(slope):
        return None
    return width, level


def _nuclear_positions(
    dataset: Dataset, frames: int
) -> tuple[tuple[float, ...], list[tuple[float, ...]]] | None:
    """Return orientation and positions of a reconstructed nuclear medicine file, which has no functional
    groups.

    Its detector has the place of the first slice; the others follow along the normal, or against it if the
    distance is negative.
    """
    kind = _DicomFields(dataset).text("ImageType").upper().split("\\")
    if frames < 2 or dataset.get("Modality") != "NM" or "RECON TOMO" not in kind:
        return None
    detectors = list(dataset.get("DetectorInformationSequence") or [])
    if len(detectors) != 1:
        return None
    fields = _DicomFields(detectors[0])
    orientation = fields.numbers("ImageOrientationPatient", 6)
    first = fields.numbers("ImagePositionPatient", 3)
    distance = _number(dataset.get("SpacingBetweenSlices"))
    slices = [_number(value) for value in _listed(dataset.get("SliceVector"))]
    if orientation is None or first is None or not distance or len(slices) != frames:
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    positions = [(np.array(first) + normal * distance * ((number or 1) - 1)).tolist() for number in slices]
    return orientation, [(x, y, z) for x, y, z in positions]
