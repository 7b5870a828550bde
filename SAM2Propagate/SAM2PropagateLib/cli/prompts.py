"""Makes prompts from the command line's points and slice indices, or from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from SAM2PropagateLib.cli.said import SegmentArguments
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.files.scene_prompts import read_prompts
from SAM2PropagateLib.frames.geometry import AXIS_NAMES, VolumeGeometry
from SAM2PropagateLib.prompts.place import range_at
from SAM2PropagateLib.prompts.resolve import choose_axis
from SAM2PropagateLib.prompts.values import (
    Box,
    Click,
    Curve,
    FrameMark,
    Lasso,
    PromptSet,
    Scribble,
    SegmentPrompts,
)


def prompts_from_arguments(
    segments: Sequence[SegmentArguments], geometry: VolumeGeometry, axis: int | None
) -> PromptSet:
    """Return the prompts of the command line's options.

    Args:
        segments: as given.
        geometry: of the volume; slice indices of ranges count along the axis.
        axis: 0, 1, 2, or None: chosen by `choose_axis`.

    Returns:
        Prompts with the axis that a range needed, or with `axis`.

    Raises:
        InputError: `outside_volume` for a range that leaves the volume, and as `choose_axis`.
    """
    prompts = PromptSet(tuple(_segment(given) for given in segments), axis)
    if any(given.range for given in segments):
        prompts = prompts.with_axis(choose_axis(prompts, geometry))
    for given in segments:
        if given.range is not None and prompts.axis is not None:
            _check_range(given, geometry, prompts.axis)
            prompts = prompts.add(given.name, range_at(*given.range, geometry, prompts.axis))
    return prompts


def prompts_from_file(path: Path, geometry: VolumeGeometry, axis: int | None) -> PromptSet:
    """Return the prompts for a volume in a JSON file or a scene, along `axis` if one is given.

    Raises:
        InputError: as `read_prompts`.
    """
    prompts = read_prompts(path, geometry)
    return prompts if axis is None else prompts.with_axis(axis)


def _segment(given: SegmentArguments) -> SegmentPrompts:
    prompts = SegmentPrompts(
        given.name,
        clicks=tuple(
            Click(f"point-{number}", ras, positive)
            for number, (ras, positive) in enumerate(given.points, start=1)
        ),
        boxes=tuple(Box(f"box-{number}", *corners) for number, corners in enumerate(given.boxes, start=1)),
        absent=tuple(FrameMark(f"absent-{number}", ras) for number, ras in enumerate(given.absent, start=1)),
    )
    for number, (points, positive) in enumerate(given.scribbles, start=1):
        prompts = prompts.add(Scribble(f"scribble-{number}", points, positive))
    for number, (points, exact) in enumerate(given.lassos, start=1):
        prompts = prompts.add(Lasso(f"lasso-{number}", points, exact))
    for number, points in enumerate(given.curves, start=1):
        prompts = prompts.add(Curve(f"curve-{number}", points))
    return prompts


def _check_range(given: SegmentArguments, geometry: VolumeGeometry, axis: int) -> None:
    assert given.range is not None
    count = geometry.frame_count(axis)
    if max(given.range) >= count:
        raise InputError(
            "outside_volume",
            f"The range {given.range[0]} to {given.range[1]} of segment “{given.name}” leaves the volume, "
            f"whose slice indices along {AXIS_NAMES[axis]} are 0 to {count - 1}.",
            "Give indices within the volume.",
        )
