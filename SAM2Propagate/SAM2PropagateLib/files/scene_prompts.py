"""Reads the prompts in a Slicer scene from a `.mrb` or `.mrml` file, without Slicer.

It reads what `scene.markups` writes: markups in files of their own, with attributes for their segment and
kind, and a hidden node with masks and the axis.
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote
from xml.parsers import expat

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.image import check_file
from SAM2PropagateLib.files.segmentation import unique_name
from SAM2PropagateLib.frames.geometry import AXIS_NAMES, FloatArray, VolumeGeometry
from SAM2PropagateLib.prompts.document import loads
from SAM2PropagateLib.prompts.values import (
    Box,
    Click,
    Curve,
    FrameMark,
    FrameRange,
    Lasso,
    PromptSet,
    Ras,
    Scribble,
    SegmentPrompts,
)

SUFFIXES = (".mrb", ".mrml")
# Copied from `scene.state`, `scene.prompt_nodes` and `scene.anchor`, which cannot be imported without Slicer;
# Testing/scene/test_scene_files.py reads here what those have written.
_ROLE, _SEGMENT, _AXIS = "SAM2Propagate.Role", "SAM2Propagate.SegmentID", "SAM2Propagate.Axis"
_PROMPT_ID, _EXACT = "SAM2Propagate.PromptID", "SAM2Propagate.Exact"
_SEGMENTATION, _VOLUME = "SAM2Propagate.Segmentation", "SAM2Propagate.Volume"
_STATE, _KEPT, _PLACES = "SAM2PropagateState", "prompts", "places"
_PLACES_VERSION = 1
_ENCODED = "%:"
# Bytes; a larger file is not a scene but made to fill main memory.
_MOST_SCENE, _MOST_MARKUP, _MOST_HEADER = 512 << 20, 64 << 20, 16 << 20
# Voxels; corners of two grids that are closer are the same.
_SAME_CORNER = 0.5


@dataclass(frozen=True)
class ScenePrompts:
    """The prompts of one segmentation in a scene.

    Attributes:
        segmentation, volume: the names of the nodes; "" for an unknown volume.
        grid: of the volume that the prompts were made on, RAS below its transforms; None: unknown.
        read: returns the prompts for a volume's geometry, which boxes need.
    """

    segmentation: str
    volume: str
    grid: VolumeGeometry | None
    read: Callable[[VolumeGeometry], PromptSet] = field(repr=False)


def is_scene(path: Path) -> bool:
    """Tell whether a file's name is that of a scene."""
    return path.suffix.lower() in SUFFIXES


def read_prompts(path: Path, geometry: VolumeGeometry) -> PromptSet:
    """Return the prompts for a volume from a JSON file (`docs/prompts.md`) or a Slicer scene.

    Raises:
        InputError: `file_missing`, `file_unreadable`, `file_empty`, or as `prompts_from_scene` and `loads`.
    """
    if is_scene(path):
        return prompts_from_scene(path, geometry)
    check_file(path)
    return loads(path.read_bytes())


def prompts_from_scene(path: Path, geometry: VolumeGeometry) -> PromptSet:
    """Return a scene's prompts for a volume; the segments have their names, not their IDs.

    Args:
        path: a `.mrb` or `.mrml`.
        geometry: of the volume to segment, from its file.

    Raises:
        InputError: `file_missing`, `file_unreadable`, `file_empty`; `bad_scene`: damaged, or not a scene;
            `no_prompts`: none of this project; `other_volume`: they were made on another volume;
            `several_segmentations`; `moved_prompts`: they are not in the volume's own space; and as
            `prompts.document.loads`.
    """
    found = read_scene(path)
    if not found:
        raise InputError(
            "no_prompts",
            f"The scene “{path}” holds no prompts of SAM2 Propagate.",
            "Click in Slicer with the module SAM2 Propagate, and save the scene again.",
        )
    fitting = [one for one in found if one.grid is None or _is_same_box(one.grid, geometry)]
    if not fitting:
        names = ", ".join(sorted({f"“{one.volume}”" for one in found}))
        raise InputError(
            "other_volume",
            f"The prompts in “{path}” were given on a volume of another size or place: {names}.",
            "Give the volume that the scene was made with.",
        )
    if len(fitting) > 1:
        names = ", ".join(f"“{one.segmentation}”" for one in fitting)
        raise InputError(
            "several_segmentations",
            f"The scene “{path}” holds prompts of several segmentations on this volume: {names}.",
            "Save a scene with one of them.",
        )
    return fitting[0].read(geometry)


def read_scene(path: Path) -> tuple[ScenePrompts, ...]:
    """Return the prompts of every segmentation in a scene that has some. Raises as `prompts_from_scene`."""
    check_file(path)
    files = _Bundle(path) if path.suffix.lower() == ".mrb" else _Folder(path)
    try:
        return tuple(_Scene(path, files).found())
    finally:
        files.close()


def files_of_scene(path: Path) -> tuple[Path, ...]:
    """Return the files beside a `.mrml` that its prompts are read from; none for other files, and for a scene
    that cannot be read."""
    if path.suffix.lower() != ".mrml" or not path.is_file():
        return ()
    try:
        names = _Scene(path, _Folder(path)).file_names()
    except InputError:
        return ()
    return tuple(path.parent / name for name in names)


# --- the files of a scene


class _Folder:
    """A scene with its files beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def scene(self) -> bytes:
        """Return the content of the scene itself."""
        return self._read(self._path, _MOST_SCENE)

    def file(self, name: str, most: int, is_start: bool = False) -> bytes:
        """Return the content of a file of the scene; one of more than `most` bytes is refused, or cut."""
        return self._read(self._path.parent / name, most, is_start)

    def close(self) -> None:
        """Do nothing, as nothing is open."""

    def _read(self, path: Path, most: int, is_start: bool = False) -> bytes:
        try:
            with path.open("rb") as file:
                content = file.read(most + 1)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise _bad(self._path, f"its file “{path.name}” cannot be read ({reason})") from error
        return _limited(self._path, path.name, content, most, is_start)


class _Bundle:
    """A `.mrb`: a zip archive with a folder that holds the scene and, in `Data`, its files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise _bad(path, "it is not a zip archive") from error
        names = [name for name in self._archive.namelist() if name.lower().endswith(".mrml")]
        if not names:
            self.close()
            raise _bad(path, "there is no scene in it")
        self._scene = min(names, key=lambda name: (name.count("/"), name))

    def scene(self) -> bytes:
        """Return the content of the scene itself."""
        return self._read(self._scene, _MOST_SCENE)

    def file(self, name: str, most: int, is_start: bool = False) -> bytes:
        """Return the content of a file of the scene; one of more than `most` bytes is refused, or cut."""
        return self._read(str(PurePosixPath(self._scene).parent / name), most, is_start)

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()

    def _read(self, name: str, most: int, is_start: bool = False) -> bytes:
        try:
            with self._archive.open(name) as file:
                content = file.read(most + 1)
        except KeyError:
            raise _bad(self._path, f"its file “{name}” is missing") from None
        # For files that are encrypted, cut short, of an unknown compression or with a wrong checksum.
        except (
            zipfile.BadZipFile,
            RuntimeError,
            NotImplementedError,
            EOFError,
            OSError,
            ValueError,
        ) as error:
            raise _bad(self._path, f"its file “{name}” cannot be unpacked") from error
        return _limited(self._path, name, content, most, is_start)


def _limited(path: Path, name: str, content: bytes, most: int, is_start: bool) -> bytes:
    if len(content) > most and not is_start:
        raise _bad(path, f"its file “{name}” has more than {most >> 20} MB")
    return content[:most]


def _bad(path: Path, reason: str) -> InputError:
    return InputError(
        "bad_scene", f"The scene “{path}” cannot be read: {reason}.", "Save it again in 3D Slicer."
    )


# --- the scene's nodes


@dataclass(frozen=True)
class _SceneNode:
    """An element of the scene: its tag, its XML attributes, and MRML's attributes and references in these."""

    tag: str
    values: Mapping[str, str]
    attributes: Mapping[str, str]
    references: Mapping[str, str]

    @property
    def id(self) -> str:
        return self.values.get("id", "")

    @property
    def name(self) -> str:
        return self.values.get("name", "")

    @property
    def segment(self) -> str:
        return _decoded(self.attributes.get(_SEGMENT, ""))

    def parameter(self, name: str) -> str:
        """Return a parameter of a module's node; "" if there is none."""
        for key, value in self.values.items():
            if key.startswith("parameter"):
                own, _, text = value.partition(" ")
                if own.replace("%20", " ").replace("%25", "%") == name:
                    return text
        return ""


def _nodes(path: Path, content: bytes) -> list[_SceneNode]:
    found: list[_SceneNode] = []
    roots: list[str] = []

    def start(tag: str, values: dict[str, str]) -> None:
        if not roots:
            roots.append(tag)
        elif "id" in values:
            found.append(_SceneNode(tag, values, _attributes(values), _references(values)))

    def refuse(*_: Any) -> None:
        # Scenes have no document type, and its entities can grow without bounds.
        raise _bad(path, "it has a document type, which scenes do not have")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise _bad(path, f"it is no XML ({error})") from error
    if roots != ["MRML"]:
        raise _bad(path, "it is not MRML")
    return found


def _attributes(values: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for part in values.get("attributes", "").split(";"):
        name, colon, value = part.partition(":")
        if colon:
            found[name] = value.replace("%3B", ";").replace("%25", "%")
    return found


def _references(values: Mapping[str, str]) -> dict[str, str]:
    """Return the first node of each role."""
    found = {}
    for part in values.get("references", "").split(";"):
        role, colon, ids = part.partition(":")
        if colon and ids.split():
            found[role] = ids.split()[0]
    return found


def _decoded(text: str) -> str:
    return unquote(text[len(_ENCODED) :]) if text.startswith(_ENCODED) else text


class _Scene:
    """A scene that is being read."""

    def __init__(self, path: Path, files: _Folder | _Bundle) -> None:
        self._path = path
        self._files = files
        self._list = _nodes(path, files.scene())
        self._by_id = {node.id: node for node in self._list}

    def found(self) -> Iterator[ScenePrompts]:
        """See `read_scene`."""
        for node in self._list:
            if node.tag == "Segmentation":
                markups = [one for one in self._list if self._is_prompt_of(one, node)]
                state = self._state(node)
                kept = loads(state.parameter(_KEPT)) if state and state.parameter(_KEPT) else PromptSet()
                if markups or kept.segments:
                    yield self._prompts(node, markups, state, kept)

    def file_names(self) -> list[str]:
        """Return the names of the files of all markups and segmentations."""
        nodes = [node for node in self._list if node.tag.startswith(("Markups", "Segmentation"))]
        return [name for node in nodes if (name := self._file_name(node))]

    def _file_name(self, node: _SceneNode) -> str:
        """Return the name of the node's own file; "" if it has none."""
        storage = self._by_id.get(node.references.get("storage", ""))
        return "" if storage is None else unquote(storage.values.get("fileName", ""))

    def _is_prompt_of(self, node: _SceneNode, segmentation: _SceneNode) -> bool:
        is_ours = node.tag.startswith("Markups") and _ROLE in node.attributes and bool(node.segment)
        return is_ours and node.references.get(_SEGMENTATION) == segmentation.id

    def _state(self, segmentation: _SceneNode) -> _SceneNode | None:
        for node in self._list:
            is_state = node.tag == "ScriptedModule" and node.values.get("ModuleName") == _STATE
            if is_state and node.references.get(_SEGMENTATION) == segmentation.id:
                return node
        return None

    def _prompts(
        self,
        segmentation: _SceneNode,
        markups: Sequence[_SceneNode],
        state: _SceneNode | None,
        kept: PromptSet,
    ) -> ScenePrompts:
        noted = self._by_id.get(state.references.get(_VOLUME, "")) if state is not None else None
        if noted is not None:
            self._check_space(noted, markups)
        names = self._names(segmentation)
        drawn = [(node, self._markup(node)) for node in markups]

        def read(geometry: VolumeGeometry) -> PromptSet:
            return _assembled(self._path, drawn, kept, names, geometry)

        grid = _grid(state.parameter(_PLACES)) if state is not None else None
        return ScenePrompts(segmentation.name, "" if noted is None else noted.name, grid, read)

    def _check_space(self, volume: _SceneNode, markups: Sequence[_SceneNode]) -> None:
        """Refuse prompts that are not under the volume's transform, as they are then not in its own space."""
        wanted = volume.references.get("transform")
        for node in markups:
            if node.references.get("transform") != wanted:
                raise InputError(
                    "moved_prompts",
                    f"In the scene “{self._path}”, “{node.name}” and its volume “{volume.name}” are not "
                    "under the same transform.",
                    "Open the scene in 3D Slicer with the module SAM2 Propagate, and save it again.",
                )

    def _markup(self, node: _SceneNode) -> Mapping[str, Any]:
        """Return the content of the node's own file."""
        name = self._file_name(node)
        if not name:
            raise _bad(self._path, f"“{node.name}” has no file")
        try:
            document = json.loads(self._files.file(name, _MOST_MARKUP))
            markup = document["markups"][0]
            if not isinstance(markup, dict):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise _bad(self._path, f"its file “{name}” is no markup") from error
        return markup

    def _names(self, segmentation: _SceneNode) -> dict[str, str]:
        """Return the names of the segments by their IDs, from the header of the segmentation's own file."""
        name = self._file_name(segmentation)
        if not name:
            return {}
        if not name.lower().endswith(".nrrd"):
            raise _bad(self._path, f"its segmentation “{name}” is no .seg.nrrd")
        start = self._files.file(name, _MOST_HEADER, is_start=True)
        fields = _nrrd_fields(start)
        ids = {
            key: value for key, value in fields.items() if key.startswith("Segment") and key.endswith("_ID")
        }
        return {value: fields.get(key[: -len("ID")] + "Name", value) for key, value in ids.items()}


def _nrrd_fields(start: bytes) -> dict[str, str]:
    """Return the key/value pairs in the header of an NRRD file."""
    header = start.partition(b"\n\n")[0].decode("utf-8", "replace")
    # Not `splitlines`: a name may hold characters that it takes for line breaks.
    pairs = (line.partition(":=") for line in header.split("\n"))
    return {key.strip(): _unescaped(value.strip()) for key, sign, value in pairs if sign}


def _unescaped(text: str) -> str:
    """Return the value of an NRRD field, in which a backslash and a line break are escaped."""
    return re.sub(r"\\([\\n])", lambda found: "\n" if found[1] == "n" else found[1], text)


def _grid(text: str) -> VolumeGeometry | None:
    """Return the volume's grid that `scene.anchor` recorded; None if there is no readable record."""
    try:
        document = json.loads(text) if text else {}
        if document.get("version") != _PLACES_VERSION or document.get("warped"):
            return None
        i, j, k = (int(count) for count in document["shape"])
        matrix = np.array(document["ijk_to_ras"], dtype=np.float64).reshape(4, 4)
        return VolumeGeometry((i, j, k), matrix)
    except (ValueError, KeyError, TypeError, AttributeError, InputError):
        return None


def _is_same_box(one: VolumeGeometry, other: VolumeGeometry) -> bool:
    """Tell whether two grids fill the same box of the patient, in any voxel order."""
    near = _SAME_CORNER * min(*one.spacing, *other.spacing)
    apart = np.linalg.norm(_corners(one)[:, None] - _corners(other)[None], axis=2)
    same_count = sorted(one.shape_ijk) == sorted(other.shape_ijk)
    return same_count and bool((apart.min(axis=1) < near).all() and (apart.min(axis=0) < near).all())


def _corners(geometry: VolumeGeometry) -> FloatArray:
    """Return the centers of the corner voxels, (8, 3) RAS."""
    ends = [(0, count - 1) for count in geometry.shape_ijk]
    ijk = np.array([(i, j, k, 1) for i in ends[0] for j in ends[1] for k in ends[2]], dtype=np.float64)
    return np.asarray((geometry.ijk_to_ras @ ijk.T).T[:, :3], dtype=np.float64)


# --- from markups to prompts


def _assembled(
    path: Path,
    drawn: Sequence[tuple[_SceneNode, Mapping[str, Any]]],
    kept: PromptSet,
    names: Mapping[str, str],
    geometry: VolumeGeometry,
) -> PromptSet:
    """Return the prompts of one segmentation for a volume, under the segments' names."""
    ids = list(dict.fromkeys([*names, *(node.segment for node, _ in drawn), *kept.names]))
    if names:
        # A scene keeps the prompts of removed segments, which may come back.
        ids = [one for one in ids if one in names]
    segments, taken = [], set[str]()
    for segment in ids:
        prompts = _segment_prompts(path, segment, drawn, kept.segment(segment), geometry)
        if not prompts.is_empty:
            name = unique_name(names.get(segment, segment).strip() or segment, taken)
            segments.append(replace(prompts, segment=name))
    return PromptSet(tuple(segments), kept.axis)


def _segment_prompts(
    path: Path,
    segment: str,
    drawn: Sequence[tuple[_SceneNode, Mapping[str, Any]]],
    kept: SegmentPrompts,
    geometry: VolumeGeometry,
) -> SegmentPrompts:
    prompts = SegmentPrompts(segment, masks=kept.masks)
    used = {mask.id for mask in kept.masks}
    ends: list[Ras] = []
    # Clicks are sorted by sign, as in the module: on a mask their order matters.
    order = ("positive", "negative")
    own = sorted(
        (pair for pair in drawn if pair[0].segment == segment),
        key=lambda pair: order.index(role) if (role := pair[0].attributes[_ROLE]) in order else len(order),
    )
    for node, markup in own:
        role = node.attributes[_ROLE]
        try:
            if role == "range":
                ends += [ras for _, ras in _points(markup, role)]
                continue
            for item, kind in _items(node, markup, role, geometry):
                prompts = prompts.add(replace(item, id=unique_name(item.id, used)), kind)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _bad(path, f"“{node.name}” is damaged") from error
    return prompts.with_range(FrameRange(ends[0], ends[1])) if len(ends) >= 2 else prompts


def _items(
    node: _SceneNode, markup: Mapping[str, Any], role: str, geometry: VolumeGeometry
) -> Iterable[tuple[Any, Any]]:
    """Return the prompts of one node, each with the kind that a mark needs."""
    name = node.attributes.get(_PROMPT_ID) or node.id
    if role in ("positive", "negative"):
        return [(Click(one, ras, role == "positive"), None) for one, ras in _points(markup, role)]
    if role in ("absent", "lock"):
        return [(FrameMark(one, ras), role) for one, ras in _points(markup, role)]
    if role == "box":
        box = _box(name, node.attributes.get(_AXIS, ""), markup, geometry)
        return [] if box is None else [(box, None)]
    points = tuple(ras for _, ras in _points(markup, role))
    try:
        if role == "lasso":
            return [(Lasso(name, points, _EXACT in node.attributes), None)]
        if role in ("curve", "closed curve"):
            return [(Curve(name, points, role == "closed curve"), None)]
        if role in ("scribble", "negative scribble"):
            return [(Scribble(name, points, role == "scribble"), None)]
    except InputError:
        return []  # it has too few points left, and is ignored as in the module
    raise InputError(
        "future_version",
        f"“{node.name}” is a kind of prompt that this version of SAM2 Propagate does not know.",
        "Update SAM2 Propagate.",
    )


def _points(markup: Mapping[str, Any], role: str) -> list[tuple[str, Ras]]:
    """Return the placed control points: each prompt's id and RAS."""
    found = []
    for number, point in enumerate(markup.get("controlPoints") or [], 1):
        if point.get("positionStatus", "defined") == "defined":
            own = point.get("description") or f"{role}-{point.get('id', number)}"
            found.append((str(own), _ras(markup, point["position"])))
    return found


def _ras(markup: Mapping[str, Any], values: Any) -> Ras:
    x, y, z = (float(value) for value in values)
    if not all(map(math.isfinite, (x, y, z))):
        raise ValueError("a point is nowhere")
    sign = _sign(markup)
    return sign * x, sign * y, z


def _sign(markup: Mapping[str, Any]) -> float:
    """Return the sign that turns the file's x and y into R and A."""
    return {"LPS": -1.0, "0": 1.0, "1": -1.0, "RAS": 1.0}[str(markup.get("coordinateSystem", "LPS"))]


def _box(name: str, axis_name: str, markup: Mapping[str, Any], geometry: VolumeGeometry) -> Box | None:
    """Return the box of a ROI, flat on the frame of its middle; None if it is not finished."""
    size = np.array([float(value) for value in markup["size"]])
    if axis_name not in AXIS_NAMES or sum(size > 0) < 2 or not markup.get("controlPoints"):
        return None
    axis = AXIS_NAMES.index(axis_name)
    flip = np.diag([_sign(markup), _sign(markup), 1.0])
    orientation = flip @ np.array([float(value) for value in markup["orientation"]]).reshape(3, 3)
    signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], dtype=np.float64)
    corners = np.array(_ras(markup, markup["center"])) + (signs * size / 2) @ orientation.T
    ijk = geometry.ijk_of_ras(corners)
    x, y = (number for number in range(3) if number != axis)
    frame = int(np.floor(ijk[:, axis].mean() + 0.5))
    low, high = ijk.min(axis=0), ijk.max(axis=0)
    ends = (geometry.ras_of_pixel(end[x], end[y], frame, axis) for end in (low, high))
    a, b = ((float(r), float(a), float(s)) for r, a, s in ends)
    return Box(name, a, b)
