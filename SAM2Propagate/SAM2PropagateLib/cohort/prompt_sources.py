"""The sources of the prompts of a cohort's volume; the volume's worker reads them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.scene_prompts import files_of_scene, read_prompts
from SAM2PropagateLib.files.voxel_files import other_files
from SAM2PropagateLib.frames.geometry import AXIS_NAMES, VolumeGeometry
from SAM2PropagateLib.prompts.document import dumps
from SAM2PropagateLib.prompts.values import PromptSet, SegmentPrompts


class PromptSource(Protocol):
    """Prompts of one volume, to be read once its geometry is known."""

    def read(self, geometry: VolumeGeometry) -> PromptSet:
        """Return the prompts. Raises InputError."""

    def fingerprint(self) -> str:
        """Return a text that changes when the prompts may have changed."""


@dataclass(frozen=True)
class FilePrompts:
    """Prompts in a file.

    Attributes:
        path: a JSON file (`docs/prompts.md`) or a scene of Slicer.
        segment: the one to take from it; "": all.
    """

    path: Path
    segment: str = ""

    def read(self, geometry: VolumeGeometry) -> PromptSet:
        """Return the prompts for a volume. Raises as `read_prompts`."""
        return _only(read_prompts(self.path, geometry), self.segment, f"“{self.path}”")

    def fingerprint(self) -> str:
        """Return a text that changes with the file."""
        return f"{self.path}\n{self.segment}\n{file_stamp(self.path)}"


@dataclass(frozen=True)
class GivenPrompts:
    """Prompts in the manifest itself, and the segment to take from them; "": all."""

    prompts: PromptSet
    segment: str = ""

    def read(self, geometry: VolumeGeometry) -> PromptSet:
        """Return the prompts for a volume."""
        return _only(self.prompts, self.segment, "The manifest")

    def fingerprint(self) -> str:
        """Return a text that changes with the prompts."""
        return hashlib.sha256(f"{self.segment}\n{dumps(self.prompts)}".encode()).hexdigest()


def joined(sources: Sequence[PromptSource], geometry: VolumeGeometry, axis: int | None) -> PromptSet:
    """Return the prompts of all sources together, along `axis` if one is given.

    Raises:
        InputError: `duplicate_segment`: two sources have the same segment; `several_axes`; and as they raise.
    """
    segments: list[SegmentPrompts] = []
    axes = set[int]()
    for source in sources:
        prompts = source.read(geometry)
        segments += prompts.segments
        if prompts.axis is not None:
            axes.add(prompts.axis)
    if axis is None and len(axes) > 1:
        names = " and ".join(AXIS_NAMES[one] for one in sorted(axes))
        raise InputError(
            "several_axes",
            f"The prompts of this volume are for different axes, {names}.",
            "Choose one with --axis.",
        )
    return PromptSet(tuple(segments), axis if axis is not None else next(iter(axes), None))


def file_stamp(path: Path) -> str:
    """Return a text that changes with the size or time of a file or of one that belongs to it, or of any file
    of a folder; "" if it cannot be read."""
    try:
        if path.is_dir():
            files = sorted(one for one in path.rglob("*") if one.is_file())
        else:
            # Voxels may lie beside their header, and markups beside their scene.
            others = (*other_files(path), *files_of_scene(path))
            if not others:
                return _size_and_time(path)
            files = [path, *others]
        stamps = "\n".join(f"{os.path.relpath(one, path)} {_size_and_time(one)}" for one in files)
    except OSError:
        return ""
    return hashlib.sha256(stamps.encode("utf-8", "surrogateescape")).hexdigest()


def _size_and_time(path: Path) -> str:
    """Return the size and time of a file; "" if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {int(status.st_mtime)}"


def _only(prompts: PromptSet, segment: str, where: str) -> PromptSet:
    if not segment:
        return prompts
    if segment not in prompts.names:
        there = ", ".join(f"“{name}”" for name in prompts.names)
        raise InputError(
            "unknown_segment",
            f"{where} has no prompts of “{segment}”, but of {there or 'nothing'}.",
            "Correct the name of the segment, or leave it out to take all.",
        )
    return replace(prompts, segments=(prompts.segment(segment),))
