"""Small segmented volumes, and models small enough to train in a test."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch
from safetensors.torch import save_file
from scipy import ndimage

from SAM2PropagateLib.engine import imaging
from SAM2PropagateLib.engine.build import build_model, load_model, model_config
from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.engine.steps import SAM2Steps
from SAM2PropagateLib.training.recipe import Recipe
from Testing.engine.models import NARROW_TRUNK, half_width

CONFIG = json.dumps(
    {
        "base": "configs/sam2.1/sam2.1_hiera_t.yaml",
        "overrides": {
            "model.image_size": 64,
            "model.memory_attention.num_layers": 1,
            "model.memory_attention.layer.dim_feedforward": 64,
            **NARROW_TRUNK,
            **half_width(),
        },
    }
)
SHAPE = (10, 40, 48)


def ball(
    shape: tuple[int, int, int] = SHAPE, at: tuple[int, int, int] = (5, 18, 22), radius: float = 3
) -> np.ndarray:
    """bool (K, J, I): a ball that has both ends in the volume, twice as wide as deep."""
    k, j, i = np.indices(shape)
    return np.asarray(((k - at[0]) * 2.0) ** 2 + (j - at[1]) ** 2 + (i - at[2]) ** 2 <= (2 * radius) ** 2)


def write_image(array: np.ndarray, path: Path, spacing: tuple[float, float, float] = (1, 1, 2)) -> Path:
    """A volume (K, J, I) on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))
    return path


def write_case(folder: Path, name: str, seed: int = 0, slices: int = SHAPE[0], radius: float = 3) -> Path:
    """A case as a subfolder: a noisy volume with a bright ball, labeled 1."""
    rng = np.random.default_rng(seed)
    mask = ball((slices, *SHAPE[1:]), (slices // 2, 16 + seed % 5, 20 + seed % 7), radius)
    array = (rng.normal(60, 10, mask.shape) + mask * 90).astype(np.int16)
    write_image(array, folder / name / "image.nii.gz")
    write_image(mask.astype(np.uint8), folder / name / "label.nii.gz")
    return folder / name


@lru_cache(maxsize=1)
def _random_model(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_model(model_config(CONFIG))


def small_model(seed: int = 0) -> LoadedModel:
    """A SAM 2.1 tiny of half its width, with a narrow trunk and one memory layer, at 64 px.

    Its weights are random, the same by seed.
    """
    model = copy.deepcopy(_random_model(seed))
    return LoadedModel(model, torch.device("cpu"), torch.float32, 64, "small", SAM2Steps, {"config": CONFIG})


def write_model(path: Path, seed: int = 0) -> Path:
    """`small_model` as a weights file of the user's."""
    state = small_model(seed).model.state_dict()
    save_file({name: tensor.clone() for name, tensor in state.items()}, str(path), {"config": CONFIG})
    return path


def loaded(path: Path) -> LoadedModel:
    """A weights file as the engine loads it."""
    return load_model(path, device="cpu", precision="float32")


def outline_the_bright(image: torch.Tensor, points: np.ndarray) -> list[np.ndarray]:
    """Stands for the image half of a model that has learned something: what is bright, if anything is."""
    gray = imaging.to_gray(image)[0, 0].numpy()
    parts, count = ndimage.label(ndimage.gaussian_filter(gray, 1) > 0.6 * gray.max())
    return [parts == number for number in range(1, count + 1)] if len(points) else []


@dataclass(frozen=True)
class ShortClips(Recipe):
    """Stands for `Recipe` where the command line makes one: a quarter of the frames in each step, and fewer
    looks made of single slices."""

    length: int = 2
    warm: tuple[int, ...] = (0, 1)
    warped: float = 0.2
    most_targets: int = 1
