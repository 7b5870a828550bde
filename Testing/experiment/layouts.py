"""Data sets laid out as they are downloaded: BraTS 2020 and the Medical Segmentation Decathlon.

`python -m Testing.experiment.layouts DATA FOLDER` lays out the labeled volumes of `../shared/data` so. Where
a data set has four sequences and the volume is one, the four are the same image.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name

BRATS_SEQUENCES = ("flair", "t1", "t1ce", "t2")
DATA_SETS = ("brats", "brain", "liver", "hippocampus", "organs")


def write_brats(folder: Path, name: str, images: Mapping[str, sitk.Image], label: sitk.Image | None) -> Path:
    """A case of BraTS 2020: `NAME/NAME_flair.nii.gz`, ..., `NAME/NAME_seg.nii.gz`, and lists beside it."""
    case = folder / name
    case.mkdir(parents=True, exist_ok=True)
    for sequence, image in images.items():
        sitk.WriteImage(image, str(case / f"{name}_{sequence}.nii.gz"))
    if label is not None:
        sitk.WriteImage(label, str(case / f"{name}_seg.nii.gz"))
    (folder / "name_mapping.csv").write_text("Grade,BraTS_2020_subject_ID\n", encoding="utf-8")
    (folder / "survival_info.csv").write_text(
        "Brats20ID,Age,Survival_days,Extent_of_Resection\n", encoding="utf-8"
    )
    return case


def write_decathlon(
    folder: Path,
    modality: tuple[str, ...],
    labels: Mapping[int, str],
    cases: Mapping[str, tuple[sitk.Image, sitk.Image]],
) -> Path:
    """A task of the Decathlon, with what a Mac leaves in its archive; images of several channels are 4D."""
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    training = []
    for name, (image, label) in cases.items():
        sitk.WriteImage(image, str(folder / "imagesTr" / f"{name}.nii.gz"))
        sitk.WriteImage(label, str(folder / "labelsTr" / f"{name}.nii.gz"))
        for part in ("imagesTr", "labelsTr"):
            (folder / part / f"._{name}.nii.gz").write_bytes(b"\0\5\x16\7")
        training.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    description = {
        "name": folder.name,
        "tensorImageSize": "4D" if len(modality) > 1 else "3D",
        "modality": {str(number): name for number, name in enumerate(modality)},
        "labels": {"0": "background", **{str(value): name for value, name in labels.items()}},
        "numTraining": len(training),
        "training": training,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    return folder


def four_channels(image: sitk.Image) -> sitk.Image:
    """One image four times, as a 4D image."""
    return sitk.JoinSeries([image] * 4)


def kept(label: sitk.Image, values: Mapping[int, int]) -> sitk.Image:
    """A label with some of its values, under new numbers."""
    array = sitk.GetArrayFromImage(label)
    made = np.zeros(array.shape, np.uint8)
    for old, new in values.items():
        made[array == old] = new
    image = sitk.GetImageFromArray(made)
    image.CopyInformation(label)
    return image


def lay_out(
    data: Path, folder: Path, names: Sequence[str] = DATA_SETS, slices: int | None = None
) -> dict[str, Path]:
    """Lay out labeled volumes of `../shared/data`; returns the folders of cases by a short name.

    Args:
        names: of `DATA_SETS`, those to lay out.
        slices: how many of each volume, around the middle of what is labeled; None: all.
    """

    def read(case: str) -> tuple[sitk.Image, sitk.Image]:
        image, label = (sitk.ReadImage(str(data / case / f"{name}.nii.gz")) for name in ("image", "label"))
        if slices is None:
            return image, label
        labeled = np.flatnonzero(sitk.GetArrayViewFromImage(label).any(axis=(1, 2)))
        first = max(0, int(labeled[len(labeled) // 2]) - slices // 2)
        return image[:, :, first : first + slices], label[:, :, first : first + slices]

    def brats() -> Path:
        image, label = read("pyradiomics_brain1")
        images = dict.fromkeys(BRATS_SEQUENCES, image)
        return write_brats(folder / "BraTS2020", "BraTS20_Training_001", images, kept(label, {1: 4})).parent

    def brain() -> Path:
        image, label = read("pyradiomics_brain1")
        return write_decathlon(
            folder / "Task01_BrainTumour",
            ("FLAIR", "T1w", "t1gd", "T2w"),
            {1: "edema", 2: "non-enhancing tumor", 3: "enhancing tumour"},
            {"BRATS_001": (four_channels(image), kept(label, {1: 3}))},
        )

    def liver() -> Path:
        cases = {"liver_0": read("chaos_ct_liver")}
        return write_decathlon(folder / "Task03_Liver", ("CT",), {1: "liver", 2: "cancer"}, cases)

    def hippocampus() -> Path:
        cases = {"hippocampus_001": read("msd_hippocampus_001")}
        parts = {1: "Anterior", 2: "Posterior"}
        return write_decathlon(folder / "Task04_Hippocampus", ("MRI",), parts, cases)

    def organs() -> Path:
        image, label = read("totalseg_ct_sm")
        titles = {1: "spleen", 2: "right kidney", 3: "left kidney", 4: "liver"}
        cases = {"organs_1": (image, kept(label, {1: 1, 2: 2, 3: 3, 5: 4}))}
        return write_decathlon(folder / "Task09_Organs", ("CT",), titles, cases)

    write = dict(zip(DATA_SETS, (brats, brain, liver, hippocampus, organs), strict=True))
    return {name: write[name]() for name in names}


if __name__ == "__main__":
    for short, path in lay_out(Path(sys.argv[1]), Path(sys.argv[2])).items():
        print(short, path)
