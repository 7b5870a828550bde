"""What the speed benchmark does: slices of the CT that comes with the project, prompts, one correction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation.metrics import BoolArray
from SAM2PropagateLib.evaluation.simulated_user import box_around
from SAM2PropagateLib.files.image import read_image
from SAM2PropagateLib.files.volume import read_volume
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window
from SAM2PropagateLib.mask_depth import innermost_point
from Testing.benchmarks.machine import ROOT

SAMPLE = ROOT / "Resources" / "Sample"
# The slices are taken from around the middle of this structure, where several large ones are.
_LIVER = 5
_SEGMENTS = 3
FEWEST, MOST = 5, 112


@dataclass(frozen=True, eq=False)
class Scenario:
    """One volume and what a user does with it.

    Attributes:
        frames: axial slices of the sample.
        start: the slice with the first prompts, in the middle.
        correction: a slice halfway between it and the end, corrected afterwards.
        masks: three structures, (frames, rows, columns) bool each: those that are on every slice before those
            that are on these two only, of either the larger ones first.
    """

    frames: FrameStack
    start: int
    correction: int
    masks: tuple[BoolArray, ...]

    def box(self, segment: int) -> tuple[float, float, float, float]:
        """Return the box around a structure on the first slice, outer edges in native pixels."""
        return box_around(self.masks[segment][self.start])

    def clicks(self, frame: int) -> list[tuple[float, float]]:
        """Places (x, y) to click on, one after the other: the innermost point of the first structure on a
        slice, then the pixels around it."""
        x, y = innermost_point(self.masks[0][frame])
        return [(x, y), (x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]


def sample_scenario(count: int) -> Scenario:
    """Return the scenario over `count` consecutive slices of the sample.

    Raises:
        InputError: `bad_option`, too few or too many slices.
    """
    if not FEWEST <= count <= MOST:
        raise InputError("bad_option", f"The sample cannot give {count} slices.", f"Give {FEWEST} to {MOST}.")
    volume = read_volume(SAMPLE / "abdomen_ct.nii.gz")
    labels = read_image(SAMPLE / "abdomen_ct_labels.nii.gz").array
    middle = int((labels == _LIVER).sum(axis=(1, 2)).argmax())
    first = min(max(0, middle - count // 2), len(labels) - count)
    labels = labels[first : first + count]
    array = np.ascontiguousarray(volume.array[first : first + count])
    matrix = volume.geometry.ijk_to_ras.copy()
    matrix[:3, 3] = volume.geometry.ras_of_ijk([0.0, 0.0, float(first)])
    geometry = VolumeGeometry((*volume.geometry.shape_ijk[:2], count), matrix)
    start = count // 2
    correction = (start + count) // 2
    values, areas = np.unique(labels[start][labels[start] > 0], return_counts=True)
    there = [int(v) for v in values[np.argsort(-areas, kind="stable")] if (labels[correction] == v).any()]
    there.sort(key=lambda value: not (labels == value).any(axis=(1, 2)).all())
    masks = tuple(labels == value for value in there[:_SEGMENTS])
    return Scenario(FrameStack(array, geometry, 2, Window.preset("soft-tissue")), start, correction, masks)
