"""Volumes with reference labels on disk: which there are, and one at a time in main memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation.metrics import BoolArray, adjacent_slice_dice, copy_max_slice_dice
from SAM2PropagateLib.files.json_manifest import from_manifest
from SAM2PropagateLib.files.labels import read_labels
from SAM2PropagateLib.files.volume import read_only_volume
from SAM2PropagateLib.frames.geometry import VolumeGeometry
from SAM2PropagateLib.frames.stack import FrameStack
from SAM2PropagateLib.frames.window import Window, window_for

MANIFEST = "manifest.json"
# More separate parts than this cannot be meant by one box.
MOST_PARTS = 20
# The files that `read_only_volume` reads; of a pair, .hdr comes before .img.
ENDINGS = (
    *(".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".img"),
    *(".gipl", ".gipl.gz", ".vtk", ".tif", ".tiff", ".dcm"),
)


@dataclass(frozen=True)
class Target:
    """One structure of one volume on disk.

    Attributes:
        case: the volume's name.
        name: the structure's.
        image, label: files that SimpleITK reads, in the same place; the voxels may be in another order.
        values: of the label file that belong to the structure; empty: every one but 0.
        axis: propagation axis; None: the one with the largest spacing.
        modality: "CT", "MR", ... or "" if nobody tells.
        baselines: what the manifest says of the label's two baselines; empty where it says nothing.
    """

    case: str
    name: str
    image: Path
    label: Path
    values: tuple[int, ...] = ()
    axis: int | None = None
    modality: str = ""
    baselines: Mapping[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The case and the structure."""
        return f"{self.case}: {self.name}"

    @property
    def is_there(self) -> bool:
        """Whether both files are there."""
        return self.image.is_file() and self.label.is_file()


@dataclass(frozen=True, eq=False)
class LoadedTarget:
    """A target in main memory.

    Attributes:
        target: which.
        frames: the volume through its window, along the propagation axis.
        mask: (K, J, I) bool, the reference.
    """

    target: Target
    frames: FrameStack
    mask: BoolArray

    @property
    def axis(self) -> int:
        """The axis to propagate along."""
        return self.frames.axis

    @property
    def geometry(self) -> VolumeGeometry:
        """The geometry of image and label."""
        return self.frames.geometry

    @cached_property
    def parts(self) -> int:
        """Separate parts of the reference; voxels that touch at a corner belong together."""
        from scipy import ndimage  # late: it is slow to import, and few need it

        return int(ndimage.label(self.mask, structure=np.ones((3, 3, 3)))[1])

    @property
    def is_scattered(self) -> bool:
        """Whether it has too many parts for one box to mean it; such a target is left out of means."""
        return self.parts > MOST_PARTS

    @cached_property
    def baselines(self) -> dict[str, float]:
        """`adjacent_slice_dice` and `copy_max_slice_dice` of the reference."""
        return {
            "adjacent_slice_dice": adjacent_slice_dice(self.mask, self.axis),
            "copy_max_slice_dice": copy_max_slice_dice(self.mask, self.axis),
        }


def find_targets(folder: Path) -> tuple[Target, ...]:
    """Return the targets in a folder.

    With a `manifest.json` (`{"pairs": [{"name", "labels", "recommended_targets", ...}]}`): those that it
    recommends, also where their files are missing (`Target.is_there`). Without: every subfolder with a file
    `image.*` and a file `label.*` is a case, and all values of its label are one target.

    Raises:
        InputError: `no_cases`, `manifest_unreadable`.
    """
    if not folder.is_dir():
        raise InputError("no_cases", f"There is no folder “{folder}”.", "Check the path.")
    if (folder / MANIFEST).is_file():
        return _of_manifest(folder)
    targets = []
    for case in sorted(path for path in folder.iterdir() if path.is_dir()):
        image, label = first_file(case, "image"), first_file(case, "label")
        if image is not None and label is not None:
            targets.append(Target(case.name, "label", image, label))
    if not targets:
        raise InputError(
            "no_cases",
            f"“{folder}” holds neither a {MANIFEST} nor subfolders with an image and a label.",
            "Put each case into a subfolder as image.nii.gz and label.nii.gz (or .nrrd, .mha).",
        )
    return tuple(targets)


def first_file(folder: Path, stem: str) -> Path | None:
    """Return the volume of that name in a folder, whichever its format; None if there is none."""
    paths = (folder / (stem + ending) for ending in ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def default_axis(geometry: VolumeGeometry) -> int:
    """Return the propagation axis where nobody tells: the one with the largest spacing, of equal ones the
    last."""
    return max(range(3), key=lambda axis: (round(geometry.spacing[axis], 3), axis))


def _of_manifest(folder: Path) -> tuple[Target, ...]:
    def read(content: Any) -> tuple[Target, ...]:
        pairs = content["pairs"]
        return tuple(
            _target(folder, pair, wanted) for pair in pairs for wanted in pair["recommended_targets"]
        )

    hint = "It must list cases under “pairs”, each with a name, its labels and its recommended targets."
    return from_manifest(folder / MANIFEST, read, hint)


def _target(folder: Path, pair: Mapping[str, Any], wanted: int | str) -> Target:
    """Return the target that an entry names: a label's value, or several joined by "+"."""
    values = tuple(int(value) for value in str(wanted).split("+"))
    known = pair.get("labels_present", {}).get(str(wanted), {})
    names = ("adjacent_slice_dice", "copy_max_slice_dice")
    return Target(
        case=str(pair["name"]),
        name=" + ".join(str(pair["labels"][str(value)]) for value in values),
        image=first_file(folder / pair["name"], "image") or folder / pair["name"] / "image.nii.gz",
        label=first_file(folder / pair["name"], "label") or folder / pair["name"] / "label.nii.gz",
        values=values,
        axis=pair.get("propagation_axis_ijk"),
        modality=str(pair.get("modality", "")).partition(" ")[0],
        baselines={name: float(known[name]) for name in names if name in known},
    )


def load_target(target: Target, window: Window | None = None) -> LoadedTarget:
    """Read a target's volume and reference.

    Args:
        target: which.
        window: what the model sees as black and white; None: `window_for` the volume and its modality.

    Raises:
        InputError: as `read_only_volume` and `read_labels`; `label_empty`: the structure is nowhere in it.
    """
    volume = read_only_volume(target.image)
    labels = read_labels(target.label, volume.geometry).array
    mask = np.isin(labels, target.values) if target.values else labels != 0
    if not mask.any():
        raise InputError(
            "label_empty", f"“{target.label}” has no voxel of “{target.name}”.", "Check the label's values."
        )
    axis = default_axis(volume.geometry) if target.axis is None else target.axis
    if window is None:
        window = window_for(volume.array, target.modality or volume.modality or "")
    mask.setflags(write=False)
    return LoadedTarget(target, FrameStack(volume.array, volume.geometry, axis, window), mask)
